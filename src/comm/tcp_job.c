/* Joining and leaving a job over tcp. Rank 0 listens where all look for it; every other rank listens at a port of its own, calls rank 0 and gets
 * the table of all ranks; then each calls the ranks below it (rank 0's connection stays) and takes the calls of those above. */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "comm/launcher.h"
#include "comm/nodes.h"
#include "comm/tcp_comm.h"
#include "comm/tcp_socket.h"

static tcp_job *joined;                 /* a process is in one job */

/* What one rank's joining needs; freed when all are connected. */
typedef struct joining {
    const gr_launcher *launcher;
    tcp_job *job;
    double deadline_s, until_us;
    int listener;
    int *fd;                            /* [n_ranks] connections; the job takes them over */
    gr_tcp_hello me, *hello;            /* [n_ranks] who came */
    gr_tcp_seat *seat;                  /* [n_ranks] */
    char name[300];                     /* "rendezvous at host:port" */
} joining;

/* ---- leaving ---- */

static void job_free(tcp_job *job) {
    if (!job) return;
    for (int32_t r = 0; job->link && r < job->n_ranks; r++) gr_tcp_close(&job->link[r].fd);
    if (job->world) gr_tcp_unwrap((tcp_comm *)job->world);
    free(job->link);
    free(job->poll);
    free(job->host);
    free(job);
}

void gr_tcp_leave(tcp_job *job) {
    if (job->n_open > 0) return;
    gr_place_leave();
    job_free(job);
    joined = NULL;
}

/* ---- who we are ---- */

/* Ranks with the same text share a machine: its name, so that containers and namespaces count, and the start of its kernel, so that
 * machines with one name do not. GRACE_HOSTID stands for it, as NCCL_HOSTID does for NCCL. */
static void find_host(char out[GR_TCP_HOST]) {
    const char *given = getenv("GRACE_HOSTID");
    char name[65] = "", boot[40] = "";
    FILE *f = given ? NULL : fopen("/proc/sys/kernel/random/boot_id", "r");
    if (f && !fgets(boot, sizeof boot, f)) boot[0] = '\0';
    if (f) fclose(f);
    boot[strcspn(boot, "\n")] = '\0';
    if (!given && gethostname(name, sizeof name - 1) != 0) name[0] = '\0';
    memset(out, 0, GR_TCP_HOST);
    if (given && *given) snprintf(out, GR_TCP_HOST, "%s", given);
    else snprintf(out, GR_TCP_HOST, "%s/%s", name, boot);
}

static void introduce(const gr_launcher *l, uint16_t port, gr_tcp_hello *me) {
    *me = (gr_tcp_hello){.rank = l->rank, .n_ranks = l->n_ranks, .port = port};
    for (int i = 0; i < 8; i++) me->key[i] = (uint8_t)(l->job >> 8 * i);
    find_host(me->host);
}

/* ---- rank 0 ---- */

/* Names whom the sentence is about, unless rank 0 wrote it. */
static grace_status in_place(const joining *j, grace_status st, int32_t peer) {
    if (st == GRACE_OK || strncmp(grace_last_error(), "rank ", 5) == 0) return st;
    return gr_fail_in(st, "rank %d: %s: rank %d", j->job->rank, j->name, peer);
}

/* Those who came hear why the job does not start; then it is their sentence, too. */
static void refuse_all(const joining *j, grace_status failure) {
    for (int32_t r = 1; r < j->job->n_ranks; r++)
        if (j->fd[r] >= 0) gr_tcp_refuse(j->fd[r], failure);
}

static grace_status take_seats(joining *j) {
    grace_status st = GRACE_OK;
    for (int32_t r = 0; r < j->job->n_ranks; r++) {
        if (r > 0) GR_TRY(gr_tcp_peer(j->fd[r], j->seat[r].address));
        j->seat[r].port = r > 0 ? j->hello[r].port : j->me.port;
        memcpy(j->seat[r].host, r > 0 ? j->hello[r].host : j->me.host, GR_TCP_HOST);
    }
done:
    return st;
}

static grace_status send_table(joining *j) {
    grace_status st = GRACE_OK;
    uint8_t head[GR_TCP_ANSWER], *table = NULL;
    size_t n = GR_TCP_KEY + (size_t)j->job->n_ranks * GR_TCP_SEAT;
    GR_CALLOC(table, n);
    GR_CHECK(getrandom(table, GR_TCP_KEY, 0) == GR_TCP_KEY, GRACE_ERR_IO, "no random bytes: %s", strerror(errno));
    gr_tcp_write_answer(&(gr_tcp_answer){.status = GRACE_OK, .n_bytes = (uint32_t)n}, head);
    for (int32_t r = 0; r < j->job->n_ranks; r++) gr_tcp_write_seat(&j->seat[r], table + GR_TCP_KEY + (size_t)r * GR_TCP_SEAT);
    for (int32_t r = 1; r < j->job->n_ranks; r++) {
        st = gr_tcp_send_all(j->fd[r], head, sizeof head, j->until_us);
        if (st == GRACE_OK) st = gr_tcp_send_all(j->fd[r], table, n, j->until_us);
        GR_TRY(in_place(j, st, r));
    }
done:
    free(table);
    return st;
}

static grace_status gather(joining *j, const char *name) {
    gr_tcp_gate gate = {.listener = j->listener, .me = j->job->rank, .n_ranks = j->job->n_ranks, .key = j->me.key, .until_us = j->until_us,
                        .deadline_s = j->deadline_s, .name = name};
    return gr_tcp_gather(&gate, j->fd, j->hello);
}

static grace_status host_all(joining *j) {
    grace_status st = GRACE_OK;
    uint16_t port;
    st = gr_tcp_listen(j->launcher->host, j->launcher->port, &j->listener, &port);
    if (st != GRACE_OK) return gr_fail_in(st, "rank 0: %s", j->name);
    introduce(j->launcher, port, &j->me);
    GR_TRY(gather(j, j->name));
    GR_TRY(take_seats(j));
    GR_TRY(send_table(j));
done:
    if (st != GRACE_OK) refuse_all(j, st);
    return st;
}

/* ---- the others ---- */

static grace_status read_table(joining *j, const uint8_t *table) {
    grace_status st = GRACE_OK;
    memcpy(j->me.key, table, GR_TCP_KEY);
    for (int32_t r = 0; r < j->job->n_ranks; r++) GR_TRY(gr_tcp_read_seat(table + GR_TCP_KEY + (size_t)r * GR_TCP_SEAT, GR_TCP_SEAT, &j->seat[r]));
done:
    return st;
}

/* Rank 0 waits for all as long as we would: it is the one to say who is missing. */
static grace_status ask_for_table(joining *j) {
    grace_status st = GRACE_OK;
    uint8_t words[GR_TCP_HELLO], head[GR_TCP_ANSWER], *body = NULL;
    gr_tcp_answer answer;
    j->until_us = gr_now_us() + 1e6 * (j->deadline_s + 1);
    gr_tcp_write_hello(&j->me, words);
    GR_TRY(gr_tcp_send_all(j->fd[0], words, sizeof words, j->until_us));
    GR_TRY(gr_tcp_recv_all(j->fd[0], head, sizeof head, j->until_us));
    GR_TRY(gr_tcp_read_answer(head, sizeof head, j->job->n_ranks, &answer));
    GR_CALLOC(body, answer.n_bytes + 1);
    GR_TRY(gr_tcp_recv_all(j->fd[0], body, answer.n_bytes, j->until_us));
    if (answer.status == GRACE_OK) st = read_table(j, body);
    else st = gr_fail(answer.status, "%s", (const char *)body);
done:
    free(body);
    return st;
}

/* Seen from rank 0, who shares its machine may be at the loopback: seen from elsewhere it is where rank 0 is. */
static grace_status call(joining *j, int32_t peer) {
    grace_status st = GRACE_OK;
    uint8_t words[GR_TCP_HELLO];
    if (gr_tcp_is_loopback(j->seat[peer].address)) GR_TRY(gr_tcp_peer(j->fd[0], j->seat[peer].address));
    GR_TRY(gr_tcp_connect_seat(&j->seat[peer], j->until_us, &j->fd[peer]));
    gr_tcp_write_hello(&j->me, words);
    GR_TRY(gr_tcp_send_all(j->fd[peer], words, sizeof words, j->until_us));
done:
    return in_place(j, st, peer);
}

static grace_status visit(joining *j) {
    grace_status st = GRACE_OK;
    uint16_t port;
    GR_TRY(gr_tcp_listen(j->launcher->host, 0, &j->listener, &port));
    introduce(j->launcher, port, &j->me);
    st = gr_tcp_connect(j->launcher->host, j->launcher->port, j->until_us, &j->fd[0]);
    if (st != GRACE_OK) return gr_fail(st, "rank %d: rendezvous: %s", j->job->rank, grace_last_error());
    GR_TRY(in_place(j, ask_for_table(j), 0));
    j->until_us = gr_now_us() + 1e6 * j->deadline_s;
    for (int32_t r = 1; r < j->job->rank; r++) GR_TRY(call(j, r));
    GR_TRY(gather(j, "rendezvous of all"));
done:
    return st;
}

/* ---- joining ---- */

static grace_status job_new(const gr_launcher *l, tcp_job **out) {
    grace_status st = GRACE_OK;
    tcp_job *job = NULL;
    GR_CALLOC(job, 1);
    *job = (tcp_job){.rank = l->rank, .n_ranks = l->n_ranks, .next_context = 1};
    GR_CALLOC(job->link, l->n_ranks);
    for (int32_t r = 0; r < l->n_ranks; r++) job->link[r].fd = -1;
    GR_CALLOC(job->poll, l->n_ranks);
    GR_CALLOC(job->host, l->n_ranks);
    *out = job;
    job = NULL;
done:
    job_free(job);
    return st;
}

static void take_over(joining *j) {
    for (int32_t r = 0; r < j->job->n_ranks; r++) {
        j->job->link[r].fd = j->fd[r];
        j->fd[r] = -1;
        memcpy(j->job->host[r], j->seat[r].host, GR_TCP_HOST);
    }
}

static grace_status connect_all(const gr_launcher *l, tcp_job *job, double deadline_s) {
    grace_status st = GRACE_OK;
    joining j = {.launcher = l, .job = job, .deadline_s = deadline_s, .until_us = gr_now_us() + 1e6 * deadline_s, .listener = -1};
    snprintf(j.name, sizeof j.name, "rendezvous at %s:%d", l->host, l->port);
    GR_CALLOC(j.fd, l->n_ranks);
    for (int32_t r = 0; r < l->n_ranks; r++) j.fd[r] = -1;
    GR_CALLOC(j.hello, l->n_ranks);
    GR_CALLOC(j.seat, l->n_ranks);
    GR_TRY(l->rank == 0 ? host_all(&j) : visit(&j));
    take_over(&j);
done:
    gr_tcp_close(&j.listener);
    for (int32_t r = 0; j.fd && r < l->n_ranks; r++) gr_tcp_close(&j.fd[r]);
    free(j.fd);
    free(j.hello);
    free(j.seat);
    return st;
}

static grace_status join(const gr_launcher *l, double deadline_s) {
    grace_status st = GRACE_OK;
    tcp_job *job = NULL;
    tcp_comm *world = NULL;
    if (joined) return GRACE_OK;
    gr_log_set_rank(l->rank, l->n_ranks);
    if (l->n_ranks > 1) gr_place_on_sigterm(l->rank, l->n_ranks);
    GR_TRY(job_new(l, &job));
    GR_TRY(gr_tcp_wrap(job, l->n_ranks, deadline_s, &world));
    job->world = &world->base;
    if (l->n_ranks > 1) GR_TRY(connect_all(l, job, deadline_s));
    gr_log(GR_INFO, "tcp", "%s: rank %d of %d, rank 0 at %s:%d", l->name, l->rank, l->n_ranks, l->host, l->port);
    joined = job;
    job = NULL;
done:
    job_free(job);
    return st;
}

/* first[r]: the lowest rank on the machine of rank r. */
static void find_machines(const tcp_job *job, int32_t *first) {
    for (int32_t r = 0; r < job->n_ranks; r++)
        for (first[r] = 0; first[r] < r && strcmp(job->host[first[r]], job->host[r]) != 0;) first[r]++;
}

/* Where one rank cannot, all go without: small values go over the sockets then, and rank 0 says why. */
static grace_status share_board(tcp_comm *c) {
    grace_status st = GRACE_OK;
    gr_comm *base = &c->base;
    gr_board_place place = {0}, *all = NULL;
    gr_board *board = NULL;
    GR_CALLOC(all, base->n_ranks);
    grace_status mine = base->rank == 0 ? gr_board_create(base->n_ranks, &place, &board) : GRACE_OK;
    GR_TRY(gr_comm_allgather(base, &place, sizeof place, all));
    if (base->rank > 0 && all[0].process) mine = gr_board_attach(base->rank, base->n_ranks, &all[0], &board);
    mine = grace_comm_agree(base, mine);
    GR_CHECK(!c->job->broken, GRACE_ERR_COMM, "rank %d: %s", base->rank, c->job->cause);    /* and because of that it could not */
    if (base->rank == 0 && mine != GRACE_OK) gr_log(GR_WARN, "tcp", "small values go over sockets, as between machines: %s", grace_last_error());
    if (base->rank == 0 && mine == GRACE_OK) gr_log(GR_INFO, "tcp", "one machine: values of up to %d bytes go through shared memory", GR_BOARD_ROOM);
    if (mine == GRACE_OK) c->board = board, board = NULL;
done:
    gr_board_close(board);
    free(all);
    return st;
}

grace_status gr_comm_tcp_open(const gr_launcher *launcher, int32_t n_nodes, double deadline_s, gr_comm **out) {
    grace_status st = GRACE_OK;
    gr_comm *c = NULL;
    int32_t *first = NULL;
    GR_CALLOC(first, launcher->n_ranks);
    GR_TRY(join(launcher, deadline_s));
    find_machines(joined, first);
    joined->world->deadline_s = deadline_s;
    GR_TRY(gr_comm_split(joined->world, 0, &c));
    GR_TRY(gr_nodes_arrange(c, first, n_nodes));
    if (c->n_ranks > 1 && gr_nodes_n_local(first, c->n_ranks, 0) == c->n_ranks) GR_TRY(share_board((tcp_comm *)c));
    *out = c;
    c = NULL;
done:
    grace_comm_close(c);
    if (st != GRACE_OK && joined) gr_tcp_leave(joined);
    free(first);
    return st;
}
