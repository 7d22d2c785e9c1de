/* Rows over sockets: parts of a transfer wait in the queues of their links (tcp_link.c), and move while anybody here waits. What ranks of one machine gather
 * goes over a board instead, if it has room for it: the sockets then say only who is gone. */
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "comm/tcp_comm.h"

enum { SPIN_US = 50 };                  /* with a core for every rank, looking is faster than being woken */
/* At a board nobody wakes us: a wait looks so often before it does anything else, hears the sockets in one of so many turns, and with a core of its own yields
 * for so long before it sleeps as it does without one. */
enum { LOOKS = 100, TURNS_A_POLL = 8, AWAKE_US = 20000 };

static grace_status check_alive(const tcp_comm *c) {
    char where[128];
    if (!c->job->broken) return GRACE_OK;
    return gr_fail(GRACE_ERR_COMM, "%sthe job already failed on this rank: %s", gr_place_here(c->job->rank, where, sizeof where), c->job->cause);
}

/* ---- requests ---- */

static void request_free(gr_request *r) {
    if (!r) return;
    free(r->part);
    free(r);
}

static grace_status request_take(tcp_comm *c, gr_request **out) {
    grace_status st = GRACE_OK;
    gr_request *r = c->spare;
    if (r) c->spare = r->next;
    else GR_CALLOC(r, 1);
    if (!r->part) GR_CALLOC(r->part, 2 * (size_t)c->base.n_ranks);
    r->n = r->n_left = r->n_recv = 0;
    r->next = c->busy;
    c->busy = r;
    *out = r;
    r = NULL;
done:
    request_free(r);
    return st;
}

static void request_give_back(tcp_comm *c, gr_request *r) {
    gr_request **link = &c->busy;
    while (*link && *link != r) link = &(*link)->next;
    GR_ASSERT(*link == r);              /* waited for twice, or on another communicator */
    *link = r->next;
    r->next = c->spare;
    c->spare = r;
}

static void requests_free(gr_request *r) {
    for (gr_request *next; r; r = next) {
        next = r->next;
        request_free(r);
    }
}

/* ---- starting ---- */

static tcp_part *add_part(tcp_comm *c, gr_request *r, int32_t peer, int32_t rows, char *data) {
    tcp_part *p = &r->part[r->n++];
    size_t n = (size_t)rows * r->row_bytes;
    *p = (tcp_part){.request = r, .data = data, .n = n, .rows = rows, .peer = c->job_rank[peer]};
    p->frame = (gr_tcp_frame){.kind = GR_TCP_ROWS, .context = c->context, .sequence = c->sequence, .n_bytes = n};
    r->n_left++;
    return p;
}

static void start_recvs(tcp_comm *c, const gr_xfer *x, gr_request *r) {
    char *at = x->recv;
    for (int32_t p = 0; p < c->base.n_ranks; at += (size_t)x->recv_rows[p++] * x->row_bytes)
        if (p != c->base.rank && x->recv_rows[p] > 0) gr_tcp_queue_recv(c->job, add_part(c, r, p, x->recv_rows[p], at));
    r->n_recv = r->n;
}

static void start_sends(tcp_comm *c, const gr_xfer *x, gr_request *r) {
    char *at = (char *)(uintptr_t)x->send;      /* only read */
    for (int32_t p = 0; p < c->base.n_ranks; at += (size_t)x->send_rows[p++] * x->row_bytes)
        if (p != c->base.rank && x->send_rows[p] > 0) gr_tcp_queue_send(c->job, add_part(c, r, p, x->send_rows[p], at));
}

/* What breaks the job here is told by the wait. */
static grace_status tcp_alltoallv_start(gr_comm *base, const gr_xfer *x, gr_request **out) {
    grace_status st = GRACE_OK;
    tcp_comm *c = (tcp_comm *)base;
    gr_request *r = NULL;
    GR_TRY(check_alive(c));
    GR_TRY(request_take(c, &r));
    r->row_bytes = x->row_bytes;
    start_recvs(c, x, r);
    start_sends(c, x, r);
    c->sequence++;
    gr_comm_copy_own(base, x);          /* while the others travel */
    *out = r;
done:
    return st;
}

/* ---- waiting ---- */

static bool is_late(const tcp_part *p) { return p->done < p->n; }

static const tcp_part *first_late(const gr_request *r, int32_t begin, int32_t end, int32_t *n_late) {
    const tcp_part *first = NULL;
    *n_late = 0;
    for (int32_t i = begin; i < end; i++)
        if (is_late(&r->part[i]) && (*n_late)++ == 0) first = &r->part[i];
    return first;
}

/* Senders first: who has not sent is the likelier cause. */
static grace_status owes(const tcp_comm *c, const gr_request *r, const char *cause) {
    int32_t n_late = 0;
    const tcp_part *p = first_late(r, 0, r->n_recv, &n_late);
    bool from = p != NULL;
    if (!from) p = first_late(r, r->n_recv, r->n, &n_late);
    gr_debt debt = {.from = from, .rows = p->rows, .peer = p->peer, .row_bytes = r->row_bytes, .n_late = n_late,
                    .n_peers = from ? r->n_recv : r->n - r->n_recv};
    return gr_place_owes(c->job->rank, &debt, cause, c->base.deadline_s);
}

static int32_t first_missing(const gr_request *r) {
    int32_t n_late;
    const tcp_part *p = first_late(r, 0, r->n, &n_late);
    return p ? p->peer : -1;
}

static grace_status late(const tcp_comm *c, const gr_request *r) {
    grace_status st = owes(c, r, NULL);
    int32_t peer = first_missing(r);
    gr_tcp_break(c->job, peer, "rank %d is late", peer);
    return st;
}

static grace_status wait_all(const tcp_comm *c, gr_request *r) {
    double progress_us = gr_now_us(), now_us = progress_us, limit_us = 1e6 * c->base.deadline_s;
    while (r->n_left > 0 && !c->job->broken) {
        double idle_us = now_us - progress_us, left_us = limit_us - idle_us;
        bool spin = idle_us < SPIN_US && !c->base.oversubscribed;
        if (idle_us > limit_us) return late(c, r);
        gr_place_wait(first_missing(r));
        bool moved = gr_tcp_progress(c->job, spin ? 0 : left_us < 1e6 ? left_us + 1 : 1e6);
        now_us = gr_now_us();
        if (moved) progress_us = now_us;
        else if (spin) sched_yield();
    }
    return r->n_left > 0 ? owes(c, r, c->job->cause) : GRACE_OK;
}

static grace_status tcp_wait(gr_comm *base, gr_request *r) {
    tcp_comm *c = (tcp_comm *)base;
    grace_status st = wait_all(c, r);
    gr_place_wait(-1);
    request_give_back(c, r);            /* after a failure nothing moves any more, so the queues may keep its parts */
    return st;
}

/* ---- the board ---- */

static int32_t first_without_post(const tcp_comm *c, int32_t *n_late) {
    int32_t first = -1;
    *n_late = 0;
    for (int32_t r = 0; r < c->base.n_ranks; r++)
        if (!gr_board_has(c->board, r) && (*n_late)++ == 0) first = r;
    return first;
}

static grace_status owes_post(const tcp_comm *c, int32_t rank, int32_t n_late, size_t n, const char *cause) {
    gr_debt debt = {.from = true, .rows = (int32_t)n, .peer = c->job_rank[rank], .row_bytes = 1, .n_late = n_late, .n_peers = c->base.n_ranks - 1};
    return gr_place_owes(c->job->rank, &debt, cause, c->base.deadline_s);
}

/* Who posts and then leaves is not missed, so its slot is looked at once more. */
static bool look_at_sockets(const tcp_comm *c, double timeout_us) {
    const bool moved = gr_tcp_progress(c->job, timeout_us);
    for (int32_t r = 0; r < c->base.n_ranks; r++)
        if (c->job->link[c->job_rank[r]].fd < 0 && !gr_board_has(c->board, r)) gr_tcp_gone(c->job, c->job_rank[r], "its connection was closed");
    return moved;
}

static bool pause_at_board(const tcp_comm *c, int64_t turn, double idle_us) {
    const double nap_us = gr_comm_nap_us(idle_us, c->base.oversubscribed || idle_us > AWAKE_US);
    if (nap_us > 0 || turn % TURNS_A_POLL == 0) return look_at_sockets(c, nap_us);
    sched_yield();
    return false;
}

static grace_status wait_for_posts(const tcp_comm *c, size_t n) {
    double progress_us = gr_now_us(), idle_us = 0;
    int32_t late, n_late, n_late_before = c->base.n_ranks;
    for (int64_t turn = 0; (late = first_without_post(c, &n_late)) >= 0; turn++) {
        if (turn < LOOKS) continue;
        if (c->job->broken) return owes_post(c, late, n_late, n, c->job->cause);
        if (idle_us > 1e6 * c->base.deadline_s) {
            gr_tcp_break(c->job, c->job_rank[late], "rank %d is late", c->job_rank[late]);
            return owes_post(c, late, n_late, n, NULL);
        }
        gr_place_wait(c->job_rank[late]);
        const bool moved = pause_at_board(c, turn, idle_us) || n_late < n_late_before;
        const double now_us = gr_now_us();
        if (moved) progress_us = now_us;
        idle_us = now_us - progress_us;
        n_late_before = n_late;
    }
    return GRACE_OK;
}

static grace_status take_posts(const tcp_comm *c, size_t n, char *all) {
    for (int32_t r = 0; r < c->base.n_ranks; r++) {
        size_t n_posted;
        const void *post = gr_board_read(c->board, r, &n_posted);
        if (n_posted != n) {
            gr_tcp_break(c->job, c->job_rank[r], "expected %zu bytes from rank %d, it sends %zu bytes", n, c->job_rank[r], n_posted);
            return owes_post(c, r, 1, n, c->job->cause);
        }
        if (n > 0) memcpy(all + (size_t)r * n, post, n);
    }
    return GRACE_OK;
}

/* The way depends on the size alone, so all take the same. */
static grace_status tcp_allgather(gr_comm *base, const void *mine, size_t n, void *all) {
    grace_status st = GRACE_OK;
    tcp_comm *c = (tcp_comm *)base;
    if (!c->board || n > GR_BOARD_ROOM) return gr_comm_gather_rows(base, mine, n, all);
    GR_TRY(check_alive(c));
    gr_board_begin(c->board, mine, n);
    st = wait_for_posts(c, n);
    gr_place_wait(-1);
    GR_TRY(st);
    GR_TRY(take_posts(c, n, all));
done:
    return st;
}

/* ---- communicators ---- */

static void tcp_abort(gr_comm *base, int exit_code) {
    tcp_comm *c = (tcp_comm *)base;
    (void)exit_code;
    gr_tcp_break(c->job, c->job->rank, "this rank has ended the job");
}

void gr_tcp_unwrap(tcp_comm *c) {
    requests_free(c->spare);
    requests_free(c->busy);
    gr_board_close(c->board);
    free(c->job_rank);
    free(c);
}

/* Whoever closes with a transfer in flight frees its buffers too, so the job cannot go on. */
static void tcp_free(gr_comm *base) {
    tcp_comm *c = (tcp_comm *)base;
    tcp_job *job = c->job;
    if (c->busy) gr_tcp_break(job, job->rank, "this rank has left in the middle of a transfer");
    gr_tcp_unwrap(c);
    job->n_open--;
    gr_tcp_leave(job);
}

typedef struct ticket { int32_t color, job_rank; uint32_t next_context; } ticket;

/* The members of our color, in the order of the ranks; a context that none of them has used. */
static void take_members(const ticket *all, int32_t n_ranks, const ticket *mine, tcp_comm *part) {
    part->base.n_ranks = 0;
    for (int32_t r = 0; r < n_ranks; r++) {
        if (all[r].next_context > part->context) part->context = all[r].next_context;
        if (all[r].color != mine->color) continue;
        if (all[r].job_rank == mine->job_rank) part->base.rank = part->base.n_ranks;
        part->job_rank[part->base.n_ranks++] = all[r].job_rank;
    }
    part->base.gpus_per_node = part->base.n_ranks;
}

static grace_status tcp_split(gr_comm *base, int32_t color, gr_comm **out) {
    grace_status st = GRACE_OK;
    tcp_comm *c = (tcp_comm *)base, *part = NULL;
    ticket mine = {color, c->job->rank, c->job->next_context}, *all = NULL;
    GR_CHECK(color >= 0, GRACE_ERR_ARG, "color of a split: expected 0 or more, found %d", color);
    GR_CALLOC(all, base->n_ranks);
    GR_TRY(gr_comm_allgather(base, &mine, sizeof mine, all));
    GR_TRY(gr_tcp_wrap(c->job, base->n_ranks, base->deadline_s, &part));
    take_members(all, base->n_ranks, &mine, part);
    part->base.oversubscribed = base->oversubscribed;
    c->job->next_context = part->context + 1;
    c->job->n_open++;
    *out = &part->base;
done:
    free(all);
    return st;
}

static const gr_comm_ops tcp_ops = {
    .name = "tcp",
    .alltoallv_start = tcp_alltoallv_start,
    .wait = tcp_wait,
    .allgather = tcp_allgather,
    .split = tcp_split,
    .abort = tcp_abort,
    .free = tcp_free,
};

grace_status gr_tcp_wrap(tcp_job *job, int32_t n_ranks, double deadline_s, tcp_comm **out) {
    grace_status st = GRACE_OK;
    tcp_comm *c = NULL;
    GR_CALLOC(c, 1);
    GR_CALLOC(c->job_rank, n_ranks);
    for (int32_t r = 0; r < n_ranks; r++) c->job_rank[r] = r;
    c->job = job;
    c->base = (gr_comm){.ops = &tcp_ops, .rank = job->rank, .n_ranks = n_ranks, .n_nodes = 1, .gpus_per_node = n_ranks, .deadline_s = deadline_s};
    c->base.oversubscribed = true;
    *out = c;
    c = NULL;
done:
    if (c) gr_tcp_unwrap(c);
    return st;
}
