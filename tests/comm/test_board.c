/* The board of ranks of one machine (comm/board.c), with threads as ranks and in jobs over tcp: that all see the same, that the sockets are heard
 * meanwhile, and everything that can go wrong. What well-behaved ranks gather is tested by ranks/test_comm.c over every transport. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>

#include "base/rng.h"
#include "comm/job.h"
#include "comm/tcp_comm.h"

/* ---- what the system refuses: to processes that are started while it is set; all but the memory to rank 2 ---- */

static bool refuses_memory, refuses_to_show, kills_who_looks;

int memfd_create(const char *name, unsigned flags) {
    return refuses_memory ? (errno = ENOSYS, -1) : (int)syscall(SYS_memfd_create, name, flags);
}

ssize_t readlink(const char *path, char *out, size_t n) {
    const char *rank = getenv("RANK");
    const bool meant = rank && strcmp(rank, "2") == 0;
    if (meant && kills_who_looks) raise(SIGKILL);
    return meant && refuses_to_show ? (errno = EACCES, -1) : (ssize_t)syscall(SYS_readlinkat, AT_FDCWD, path, out, n);
}

/* ---- rounds ---- */

enum { THREADS = 3, ROUNDS = 3000 };

static uint8_t byte_of(int32_t rank, uint64_t round, size_t i) { return (uint8_t)((uint64_t)rank * 31 + round * 7 + i); }

/* Everybody knows how much everybody posts. */
static size_t size_of(int32_t rank, uint64_t round) {
    gr_rng rng = gr_rng_seed(round * 64 + (uint64_t)rank);
    return round % 100 == 0 ? GR_BOARD_ROOM : (size_t)gr_rng_below(&rng, 60);
}

typedef struct player { gr_board board; pthread_t thread; int64_t n_wrong; } player;

static void *play(void *me) {
    player *p = me;
    static const uint8_t nothing[1];
    for (uint64_t round = 1; round <= ROUNDS; round++) {
        uint8_t mine[GR_BOARD_ROOM];
        const size_t n = size_of(p->board.rank, round);
        for (size_t i = 0; i < n; i++) mine[i] = byte_of(p->board.rank, round, i);
        gr_board_begin(&p->board, n ? mine : nothing, n);
        for (int32_t r = 0; r < THREADS; r++) {
            size_t found;
            while (!gr_board_has(&p->board, r)) sched_yield();
            const uint8_t *bytes = gr_board_read(&p->board, r, &found);
            p->n_wrong += found != size_of(r, round);
            for (size_t i = 0; i < found; i++) p->n_wrong += bytes[i] != byte_of(r, round, i);
        }
    }
    return NULL;
}

/* On one mapping, so that the thread sanitizer sees who reads what whom has written. */
static void in_every_round_all_read_what_all_posted(void **state) {
    (void)state;
    gr_board_place place = {0};
    gr_board *b = NULL;
    player players[THREADS] = {{.n_wrong = 0}};
    assert_int_equal(gr_board_create(THREADS, &place, &b), GRACE_OK);
    for (int32_t r = 0; r < THREADS; r++) {
        players[r].board = *b;
        players[r].board.rank = r;
        assert_int_equal(pthread_create(&players[r].thread, NULL, play, &players[r]), 0);
    }
    for (int r = 0; r < THREADS; r++) pthread_join(players[r].thread, NULL);
    for (int r = 0; r < THREADS; r++) assert_int_equal(players[r].n_wrong, 0);
    gr_board_close(b);
}

static void no_attach(const gr_board_place *place, const char *why) {
    gr_board *none = NULL;
    assert_int_equal(gr_board_attach(1, 2, place, &none), GRACE_ERR_IO);
    if (!strstr(grace_last_error(), why)) fail_msg("expected '%s', found '%s'", why, grace_last_error());
    assert_null(none);
}

static void a_board_is_found_by_its_name_only_and_while_it_is_open(void **state) {
    (void)state;
    size_t n;
    gr_board_place place = {0}, other;
    gr_board *first = NULL, *second = NULL;
    assert_int_equal(gr_board_create(2, &place, &first), GRACE_OK);
    assert_int_equal(gr_board_attach(1, 2, &place, &second), GRACE_OK);
    gr_board_begin(second, "two", 4);
    gr_board_begin(first, "one", 4);
    assert_true(gr_board_has(first, 1));
    assert_string_equal(gr_board_read(first, 1, &n), "two");
    gr_board_close(second);
    other = place;
    other.name[8]++;
    no_attach(&other, "expected /memfd:");
    other = place;
    assert_true((other.fd = open("/dev/null", O_RDWR)) >= 0);
    no_attach(&other, "found /dev/null");
    close(other.fd);
    no_attach(&other, "No such file");
    gr_board_close(first);
    no_attach(&place, "shared memory of rank 0: /proc/");
}

/* ---- jobs ---- */

static bool has_board(const gr_comm *c) { return ((const tcp_comm *)c)->board != NULL; }

static grace_status sum_up(gr_comm *c) {
    grace_status st = GRACE_OK;
    int64_t sum = c->rank;
    GR_TRY(gr_comm_allreduce(c, &sum, 1, GR_SUM));
    GR_CHECK(sum == c->n_ranks * (c->n_ranks - 1) / 2, GRACE_ERR_COMM, "a wrong sum: %lld", (long long)sum);
done:
    return st;
}

static grace_status expect_board(gr_comm *c) {
    fprintf(stderr, "%s board; ", has_board(c) ? "a" : "no");
    return sum_up(c);
}

static void ranks_of_one_machine_have_a_board_and_those_of_two_have_none(void **state) {
    (void)state;
    for (int n_machines = 1; n_machines <= 2; n_machines++) {
        job j = new_job();
        for (int r = 0; r < 4; r++) start_on(&j, r, 4, n_machines == 2 && r >= 2 ? "b" : "a", far_s, expect_board);
        end_all(&j);
        for (int r = 0; r < 4; r++) ended(&j, r, 0, n_machines == 1 ? "a board; " : "no board; ");
    }
}

static void where_one_rank_cannot_share_memory_all_go_without_and_rank_0_says_why(void **state) {
    (void)state;
    static const char *why[] = {"rank 0: no shared memory: Function not implemented", "rank 2: shared memory of rank 0: /proc/"};
    for (int i = 0; i < 2; i++) {
        refuses_memory = i == 0;
        refuses_to_show = i == 1;
        job j = new_job();
        start_all(&j, 4, far_s, expect_board);
        refuses_memory = refuses_to_show = false;
        end_all(&j);
        ended(&j, 0, 0, "small values go over sockets, as between machines: ");
        ended(&j, 0, 0, why[i]);
        for (int r = 0; r < 4; r++) ended(&j, r, 0, "no board; ");
        for (int r = 1; r < 4; r++) assert_null(strstr(j.rank[r].said, "sockets"));
        soon(&j);
    }
}

static int count_boards(void) {
    char line[512];
    int n = 0;
    FILE *f = fopen("/proc/self/maps", "r");
    while (f && fgets(line, sizeof line, f)) n += strstr(line, "memfd:grace-") != NULL;
    if (f) fclose(f);
    return n;
}

static int count_files(void) {
    int n = 0;
    for (int fd = 0; fd < 256; fd++) n += fcntl(fd, F_GETFD) >= 0;
    return n;
}

static grace_status open_another(gr_comm *c) {
    grace_status st = GRACE_OK;
    gr_comm *other = NULL;
    const int n_files = count_files();
    GR_TRY(grace_comm_open(GRACE_TRANSPORT_AUTO, 0, far_s, &other));
    GR_CHECK(count_boards() == 2, GRACE_ERR_COMM, "two communicators: %d boards", count_boards());
    for (int i = 0; i < 3; i++) {
        GR_TRY(sum_up(c));
        GR_TRY(sum_up(other));
    }
    grace_comm_close(other);
    GR_CHECK(count_boards() == 1 && count_files() == n_files, GRACE_ERR_COMM, "closed: %d boards, %d of %d files", count_boards(), count_files(), n_files);
    GR_TRY(sum_up(c));
done:
    return st;
}

static void a_communicator_has_a_board_of_its_own_and_takes_it_along(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 3, far_s, open_another);
    end_all(&j);
    ended_well(&j);
}

/* Rank 1 goes to the board when it has the rows, which are more than the sockets hold; rank 0 is there by then. */
static grace_status post_behind_rows(gr_comm *c) {
    enum { MUCH = 64 << 20 };
    char *bytes = calloc(MUCH, 1);
    int32_t none[2] = {0, 0}, much[2] = {c->rank == 1, c->rank == 0};
    gr_request *request = NULL;
    gr_xfer x = {.send = bytes, .recv = bytes, .row_bytes = MUCH, .send_rows = c->rank == 0 ? much : none, .recv_rows = c->rank == 1 ? much : none};
    grace_status st = sum_up(c);
    if (!st) st = gr_comm_alltoallv_start(c, &x, &request);
    if (!st && c->rank == 1) st = gr_comm_wait(c, request);
    if (!st) st = sum_up(c);
    if (!st && c->rank == 0) st = gr_comm_wait(c, request);
    free(bytes);
    return st;
}

static void rows_in_flight_move_on_while_a_rank_waits_at_the_board(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 2, far_s, post_behind_rows);
    end_all(&j);
    ended_well(&j);
    soon(&j);
}

/* ---- faults ---- */

/* Who is the first to see it says it; the other may hear that one's farewell instead. */
static void one_said(const job *j, int a, int b, const char *words) {
    const char *first = j->rank[a].said, *second = j->rank[b].said;
    if (!strstr(first, words) && !strstr(second, words)) fail_msg("expected '%s', found '%s' and '%s'", words, first, second);
}

static int signal_of_1;

/* In the middle of many rounds. */
static grace_status end_among_rounds(gr_comm *c) {
    grace_status st = has_board(c) ? GRACE_OK : gr_fail(GRACE_ERR_COMM, "no board");
    if (signal_of_1 == SIGSTOP) c->deadline_s = near_s;
    gr_comm_at("start of a step", -1);
    for (int i = 0; i < 2000 && !st; i++) {
        if (i == 1000 && c->rank == 1) raise(signal_of_1);
        st = sum_up(c);
    }
    return st;
}

static void a_rank_that_is_killed_ends_those_at_the_board_at_once(void **state) {
    (void)state;
    job j = new_job();
    signal_of_1 = SIGKILL;
    start_all(&j, 3, far_s, end_among_rounds);
    end_all(&j);
    ended(&j, 1, -SIGKILL, "");
    for (int r = 0; r < 3; r += 2) {
        char place[64];
        snprintf(place, sizeof place, "rank %d: start of a step: ", r);
        ended(&j, r, 1, place);
        ended(&j, r, 1, "rank 1");
    }
    one_said(&j, 0, 2, "rank 1 is gone (");
    one_said(&j, 0, 2, "8 bytes from rank 1 missing (");
    soon(&j);
}

static void a_rank_that_does_not_come_to_the_board_is_named_at_the_deadline(void **state) {
    (void)state;
    job j = new_job();
    signal_of_1 = SIGSTOP;
    start_all(&j, 3, far_s, end_among_rounds);
    end_one(&j.rank[0]);
    end_one(&j.rank[2]);
    kill(j.rank[1].pid, SIGKILL);
    end_one(&j.rank[1]);
    for (int r = 0; r < 3; r += 2) ended(&j, r, 1, "8 bytes from rank 1 missing");
    one_said(&j, 0, 2, ": start of a step: 8 bytes from rank 1 missing after " NEAR_S " s (");
    soon(&j);
}

static void a_rank_that_dies_while_the_board_is_opened_ends_the_others_at_once(void **state) {
    (void)state;
    job j = new_job();
    kills_who_looks = true;
    start_all(&j, 4, far_s, sum_up);
    kills_who_looks = false;
    end_all(&j);
    ended(&j, 2, -SIGKILL, "");
    for (int r = 0; r < 4; r++)
        if (r != 2) ended(&j, r, 1, "rank 2");
    soon(&j);
}

static grace_status gather_other_sizes(gr_comm *c) {
    int64_t values[2] = {0};
    grace_status st = sum_up(c);
    return st ? st : gr_comm_allreduce(c, values, c->rank == 1 ? 2 : 1, GR_MAX);
}

static void a_rank_that_posts_another_size_is_named(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 2, far_s, gather_other_sizes);
    end_all(&j);
    for (int r = 0; r < 2; r++) ended(&j, r, 1, r == 0 ? "rank 1" : "rank 0");
    assert_true(strstr(j.rank[0].said, "rank 0: expected 8 bytes from rank 1, it sends 16 bytes") ||
                strstr(j.rank[1].said, "rank 1: expected 16 bytes from rank 0, it sends 8 bytes"));
    soon(&j);
}

/* Rank 0 posts and leaves well, with what the others post unread, while rank 1 still waits for rank 2. */
static grace_status leave_a_post(gr_comm *c) {
    grace_status st = sum_up(c);
    if (c->rank == 2) usleep(200000);
    if (!st && c->rank == 0) gr_board_begin(((tcp_comm *)c)->board, &(int64_t){0}, sizeof(int64_t));
    else if (!st) st = sum_up(c);
    if (!st && c->rank > 0) fprintf(stderr, "found it; ");
    return st || c->rank == 0 ? st : sum_up(c);
}

static void a_rank_that_leaves_after_its_post_is_missed_in_the_next_round_only(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 3, far_s, leave_a_post);
    end_all(&j);
    ended(&j, 0, 0, "");
    for (int r = 1; r < 3; r++) ended(&j, r, 1, "found it; ");
    one_said(&j, 1, 2, "rank 0 is gone (its connection was closed); 8 bytes from rank 0 missing (");
    for (int r = 1; r < 3; r++) ended(&j, r, 1, "rank 0");
    soon(&j);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_every_round_all_read_what_all_posted),
        cmocka_unit_test(a_board_is_found_by_its_name_only_and_while_it_is_open),
        cmocka_unit_test(ranks_of_one_machine_have_a_board_and_those_of_two_have_none),
        cmocka_unit_test(where_one_rank_cannot_share_memory_all_go_without_and_rank_0_says_why),
        cmocka_unit_test(a_communicator_has_a_board_of_its_own_and_takes_it_along),
        cmocka_unit_test(rows_in_flight_move_on_while_a_rank_waits_at_the_board),
        cmocka_unit_test(a_rank_that_is_killed_ends_those_at_the_board_at_once),
        cmocka_unit_test(a_rank_that_does_not_come_to_the_board_is_named_at_the_deadline),
        cmocka_unit_test(a_rank_that_dies_while_the_board_is_opened_ends_the_others_at_once),
        cmocka_unit_test(a_rank_that_posts_another_size_is_named),
        cmocka_unit_test(a_rank_that_leaves_after_its_post_is_missed_in_the_next_round_only),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
