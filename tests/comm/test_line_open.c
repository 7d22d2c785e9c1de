/* Lines that open, and openings that fail on all ranks. */
#include "comm/line_ends.h"

#include <dirent.h>
#include <pthread.h>

enum { CROWD = 90 };                    /* more than are heard at a time */

static grace_status greet_all(ends *t) {
    grace_status st = GRACE_OK;
    for (int32_t i = 0; i < LANES * t->n_peers; i++) raise_flag(t->out[i % LANES][GR_LINE_THERE][i / LANES].head, 0, 0, 0, 1);
    for (int32_t i = 0; i < LANES * t->n_peers; i++) GR_TRY(await_flag(t, t->in[i % LANES][GR_LINE_THERE][i / LANES].head, 1));
done:
    return st;
}

/* ---- who has lines to whom ---- */

static int n_open_files(void) {
    int n = 0;
    DIR *dir = opendir("/proc/self/fd");
    while (dir && readdir(dir)) n++;
    if (dir) closedir(dir);
    return n;
}

static int32_t stride;                  /* between a rank and its peers */

static grace_status open_to_some(gr_comm *c) {
    grace_status st = GRACE_OK;
    const int n_before = n_open_files();
    ends *t = new_ends(c, rooms, far_s);
    for (int32_t p = 0; p < c->n_ranks; p++)
        if (p != c->rank && (p - c->rank) % stride == 0) add_peer(t, p);
    GR_TRY(open_ends(c, t));
    GR_TRY(greet_all(t));
done:
    st = grace_comm_agree(c, close_ends(t, st));
    const int n_after = n_open_files();
    if (!st) st = grace_comm_agree(c, GRACE_OK);        /* nobody has left before all have counted */
    if (!st && n_after != n_before) st = gr_fail(GRACE_ERR_COMM, "%d files were open, now %d are", n_before, n_after);
    return st;
}

/* The last: no rank has a peer. */
static void eight_ranks_open_lines_to_some_and_close_every_file(void **state) {
    (void)state;
    for (stride = 1; stride <= 8; stride *= 2) {
        job j = new_job();
        start_all(&j, 8, far_s, open_to_some);
        end_all(&j);
        ended_well(&j);
    }
}

/* ---- interfaces ---- */

static const char *names;

static grace_status open_at_names(gr_comm *c) {
    grace_status st = GRACE_OK;
    ends *t;
    setenv("NCCL_SOCKET_IFNAME", names, 1);
    GR_TRY(open_to_all(c, rooms, far_s, &t));
    GR_TRY(greet_all(t));
done:
    return close_ends(t, st);
}

static void interfaces_are_named_as_for_nccl(void **state) {
    (void)state;
    static const struct { const char *names; bool good; } cases[] = {
        {"", true}, {"lo", true}, {"l", true}, {"=lo", true}, {"nosuch,lo", true}, {"=nosuch,lo", true}, {"^nosuch", true}, {"^=l", true},
        {"nosuch", false}, {"=l", false}, {"lo0", false}, {"=lo0", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        job j = new_job();
        names = cases[i].names;
        start_all(&j, 2, far_s, open_at_names);
        end_all(&j);
        if (cases[i].good) ended_well(&j);
        else ended(&j, 0, 1, "no interface that is up has a name as NCCL_SOCKET_IFNAME says: ");
        soon(&j);
    }
}

static grace_status open_at_an_interface(gr_comm *c) {
    ends *t;
    setenv("NCCL_SOCKET_IFNAME", c->rank == 1 ? "=nosuch,lo0" : "lo", 1);
    grace_status st = open_to_all(c, rooms, near_s, &t);
    return close_ends(t, st);
}

static void a_rank_without_the_interface_it_was_given_ends_the_opening_for_all(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 2, far_s, open_at_an_interface);
    end_all(&j);
    ended(&j, 1, 1, "no interface that is up has a name as NCCL_SOCKET_IFNAME says: =nosuch,lo0");
    ended(&j, 0, 1, "");
    soon(&j);
}

/* ---- strangers ---- */

/* Of this process; 0: it listens nowhere. */
static int listening_port(void) {
    for (int fd = 3; fd < 256; fd++) {
        int listens = 0;
        struct sockaddr_storage a;
        socklen_t n = sizeof listens, size = sizeof a;
        if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &n) != 0 || !listens || getsockname(fd, (struct sockaddr *)&a, &size) != 0) continue;
        return ntohs(a.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&a)->sin6_port : ((struct sockaddr_in *)&a)->sin_port);
    }
    return 0;
}

/* Whether it was hung up on without a word. */
static bool is_sent_away(int port, size_t n_words) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    char words[1000] = "let me in", answer;
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    bool is_heard = connect(fd, (struct sockaddr *)&a, sizeof a) == 0;
    (void)!send(fd, words, n_words, MSG_NOSIGNAL);
    (void)!shutdown(fd, SHUT_WR);
    bool is_away = recv(fd, &answer, 1, 0) <= 0;
    close(fd);
    return is_heard && is_away;
}

static void *call_as_a_stranger(void *n_away) {
    static const size_t n_words[] = {0, 3, 16, 200, 1000};
    int port = 0;
    for (int i = 0; i < 100 * SOON_S && port == 0; i++) usleep(10000), port = listening_port();
    for (size_t i = 0; i < sizeof n_words / sizeof *n_words; i++) *(int *)n_away += is_sent_away(port, n_words[i]);
    return NULL;
}

/* Rank 0 knows of rank 2, but not the other way round; strangers come instead. */
static grace_status disagree_about_peers(gr_comm *c) {
    ends *t = new_ends(c, rooms, near_s);
    pthread_t stranger;
    int n_away = 0;
    for (int32_t p = 0; p < 3; p++)
        if (p != c->rank && !(c->rank == 2 && p == 0)) add_peer(t, p);
    GR_ASSERT(c->rank != 0 || pthread_create(&stranger, NULL, call_as_a_stranger, &n_away) == 0);
    grace_status st = open_ends(c, t);
    if (c->rank == 0) {
        pthread_join(stranger, NULL);
        fprintf(stderr, "%d strangers sent away; ", n_away);
    }
    return close_ends(t, st);
}

static void a_peer_that_does_not_come_ends_the_opening_for_all_and_strangers_are_none(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 3, far_s, disagree_about_peers);
    end_all(&j);
    ended(&j, 0, 1, "5 strangers sent away; rank 0: lines: rank 2 of 3 missing after " NEAR_S " s");
    for (int r = 1; r < 3; r++) ended(&j, r, 1, "");
    soon(&j);
}

/* Rank 1's transport takes its time after everything it gathers, so that strangers come first; or it ends the rank after one. */
static gr_comm_ops slow_ops;
static const gr_comm_ops *usual_ops;
static int n_gathers, last_gather;

static grace_status gather_slowly(gr_comm *c, const void *mine, size_t n, void *all) {
    const grace_status st = usual_ops->allgather(c, mine, n, all);
    if (++n_gathers == last_gather) raise(SIGKILL);
    usleep(100000);
    return st;
}

static void slow_down(gr_comm *c) {
    usual_ops = c->ops;
    slow_ops = *c->ops;
    slow_ops.allgather = gather_slowly;
    c->ops = &slow_ops;
}

/* They stay: silent, or after too few words, or too many. */
static void *crowd_in(void *n_there) {
    char words[1000] = "let us in";
    int port = 0;
    for (int i = 0; i < 1000 * SOON_S && port == 0; i++) usleep(1000), port = listening_port();
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (int i = 0; i < CROWD; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        *(int *)n_there += connect(fd, (struct sockaddr *)&a, sizeof a) == 0;
        (void)!send(fd, words, i % 3 == 0 ? sizeof words : i % 3 == 1 ? 5 : 0, MSG_NOSIGNAL);
    }
    return NULL;
}

static grace_status open_in_a_crowd(gr_comm *c) {
    grace_status st = GRACE_OK;
    ends *t;
    pthread_t crowd;
    int n_there = 0;
    GR_ASSERT(c->rank != 0 || pthread_create(&crowd, NULL, crowd_in, &n_there) == 0);
    if (c->rank == 1) slow_down(c);
    GR_TRY(open_to_all(c, rooms, far_s, &t));
    GR_TRY(greet_all(t));
done:
    if (c->rank == 0) {
        pthread_join(crowd, NULL);
        fprintf(stderr, "%d strangers came", n_there);
    }
    return close_ends(t, st);
}

static void lines_open_in_a_crowd_of_strangers(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 3, far_s, open_in_a_crowd);
    end_all(&j);
    ended_well(&j);
    ended(&j, 0, 0, "was refused: not the words of a rank");
    ended(&j, 0, 0, "90 strangers came");
    soon(&j);
}

/* ---- ranks that do not come ---- */

static grace_status open_without_rank_2(gr_comm *c) {
    ends *t;
    if (c->rank == 2) return usleep((useconds_t)(1.5e6 * near_s)), GRACE_OK;
    c->deadline_s = near_s;
    grace_status st = open_to_all(c, rooms, near_s, &t);
    return close_ends(t, st);
}

static void a_rank_that_never_opens_is_named_at_the_deadline(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 3, far_s, open_without_rank_2);
    end_all(&j);
    for (int r = 0; r < 2; r++) ended(&j, r, 1, "rank 2");
    soon(&j);
}

static grace_status die_while_opening(gr_comm *c) {
    ends *t;
    last_gather = 3;                    /* after "made", "prepared", and who listens where */
    if (c->rank == 1) slow_down(c);
    grace_status st = open_to_all(c, rooms, near_s, &t);
    return close_ends(t, st);
}

static void a_rank_that_dies_while_lines_open_is_named_at_the_deadline(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 3, far_s, die_while_opening);
    end_all(&j);
    ended(&j, 1, -SIGKILL, "");
    for (int r = 0; r < 3; r += 2) ended(&j, r, 1, "rank 1");
    soon(&j);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(eight_ranks_open_lines_to_some_and_close_every_file),
        cmocka_unit_test(interfaces_are_named_as_for_nccl),
        cmocka_unit_test(a_rank_without_the_interface_it_was_given_ends_the_opening_for_all),
        cmocka_unit_test(a_peer_that_does_not_come_ends_the_opening_for_all_and_strangers_are_none),
        cmocka_unit_test(lines_open_in_a_crowd_of_strangers),
        cmocka_unit_test(a_rank_that_never_opens_is_named_at_the_deadline),
        cmocka_unit_test(a_rank_that_dies_while_lines_open_is_named_at_the_deadline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
