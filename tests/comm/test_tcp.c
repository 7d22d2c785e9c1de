/* Jobs over tcp whose ranks are processes of this test: nodes (comm/nodes.c), farewells, and everything that can go wrong. What well-behaved ranks
 * exchange is tested by ranks/test_comm.c over every transport. */
#include "comm/job.h"

/* ---- what ranks do ---- */

static grace_status meet(gr_comm *c) {
    grace_status st = GRACE_OK;
    int64_t sum = 1;
    GR_TRY(gr_comm_allreduce(c, &sum, 1, GR_SUM));
    GR_CHECK(sum == c->n_ranks, GRACE_ERR_COMM, "sum of ones: expected %d, found %lld", c->n_ranks, (long long)sum);
done:
    return st;
}

/* So large that no socket holds it: everybody sends to everybody at once; rank 1 may end itself while it is under way. */
static grace_status meet_with_much(gr_comm *c, int signal_of_1) {
    enum { ROWS = 512, ROW = 16384 };
    size_t n = (size_t)c->n_ranks * ROWS * ROW;
    char *send = calloc(n, 1), *recv = malloc(n);
    int32_t rows[RANKS_MAX];
    gr_request *request = NULL;
    grace_status st = meet(c);
    for (int r = 0; r < c->n_ranks; r++) rows[r] = ROWS;
    if (signal_of_1 == SIGSTOP) c->deadline_s = near_s;
    gr_comm_at("dispatch", 5);
    if (!st) st = gr_comm_alltoallv_start(c, &(gr_xfer){.send = send, .send_rows = rows, .recv = recv, .recv_rows = rows, .row_bytes = ROW}, &request);
    if (c->rank == 1 && signal_of_1) raise(signal_of_1);
    if (!st) st = gr_comm_wait(c, request);
    if (!st && memcmp(send, recv, n) != 0) st = gr_fail(GRACE_ERR_COMM, "other bytes came");
    free(send);
    free(recv);
    return st;
}

static grace_status exchange_much(gr_comm *c) { return meet_with_much(c, 0); }
static grace_status die_in_the_middle(gr_comm *c) { return meet_with_much(c, SIGKILL); }
static grace_status stop_in_the_middle(gr_comm *c) { return meet_with_much(c, SIGSTOP); }

/* ---- nodes ---- */

static grace_status say_nodes(gr_comm *c) {
    fprintf(stderr, "%d nodes of %d", c->n_nodes, c->gpus_per_node);
    return meet(c);
}

static void machines_with_one_name_are_a_node(void **state) {
    (void)state;
    job j = new_job();
    for (int r = 0; r < 4; r++) start_on(&j, r, 4, r < 2 ? "a" : "b", far_s, say_nodes);
    end_all(&j);
    for (int r = 0; r < 4; r++) ended(&j, r, 0, "2 nodes of 2");
}

static void nodes_hold_consecutive_ranks_or_all_say_why(void **state) {
    (void)state;
    job j = new_job();
    for (int r = 0; r < 4; r++) start_on(&j, r, 4, r % 2 ? "b" : "a", far_s, say_nodes);
    end_all(&j);
    for (int r = 0; r < 4; r++) ended(&j, r, 1, "the machine of rank 0 has 2 ranks, so rank 1 should share one with rank 0, but it shares one with rank 1");
}

/* ---- transfers ---- */

static void all_may_send_more_than_sockets_hold(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 3, far_s, exchange_much);
    end_all(&j);
    ended_well(&j);
}

static useconds_t pause_us;

static grace_status disagree_about_rows(gr_comm *c) {
    int64_t send[2] = {0}, recv[3];
    int32_t none[2] = {0, 0}, sends[2] = {2, 0}, expects[2] = {0, 1};
    gr_xfer x = {.send = send, .recv = recv, .row_bytes = 8, .send_rows = c->rank == 1 ? sends : none, .recv_rows = c->rank == 0 ? expects : none};
    grace_status st = gr_comm_alltoallv(c, &x);
    if (c->rank == 1) usleep(pause_us);
    return st ? st : meet(c);
}

/* Also when it has closed its socket, with rows unread, before we send the next: only its farewell says why. */
static void a_peer_is_not_trusted_with_more_rows_than_expected(void **state) {
    (void)state;
    for (pause_us = 0; pause_us <= 100000; pause_us += 100000) {
        job j = new_job();
        start_all(&j, 2, far_s, disagree_about_rows);
        end_all(&j);
        ended(&j, 0, 1, "expected 1 rows of 8 bytes from rank 1, it sends 16 bytes");
        ended(&j, 1, 1, "rank 0 has left: it gave up on rank 1");
        soon(&j);
    }
}

/* Rank 2 is done early, the others go on without it until they want something of it. */
static grace_status leave_early(gr_comm *c) {
    gr_comm *part = NULL;
    grace_status st = gr_comm_split(c, c->rank == 2, &part);
    if (c->rank == 2) goto done;
    usleep(100000);
    for (int i = 0; i < 10 && !st; i++) st = meet(part);
    if (!st) fprintf(stderr, "went on; ");
    if (!st) st = meet(c);
done:
    grace_comm_close(part);
    return st;
}

static void a_rank_that_is_done_may_leave_the_others_to_go_on(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 3, far_s, leave_early);
    end_all(&j);
    ended(&j, 2, 0, "");
    for (int r = 0; r < 2; r++) ended(&j, r, 1, "went on; rank ");
    soon(&j);
}

/* ---- faults ---- */

static void a_killed_rank_ends_the_others_at_once(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 3, far_s, die_in_the_middle);
    end_all(&j);
    ended(&j, 1, -SIGKILL, "");
    for (int r = 0; r < 3; r += 2) {
        char place[64];
        snprintf(place, sizeof place, "rank %d: dispatch of layer 5: ", r);
        ended(&j, r, 1, place);
        ended(&j, r, 1, "rank 1");
        ended(&j, r, 1, "512 rows from rank ");
    }
    soon(&j);
}

static void a_silent_rank_is_named_at_the_deadline(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 3, far_s, stop_in_the_middle);
    end_one(&j.rank[0]);
    end_one(&j.rank[2]);
    kill(j.rank[1].pid, SIGKILL);
    end_one(&j.rank[1]);
    for (int r = 0; r < 3; r += 2) ended(&j, r, 1, "512 rows from rank 1 missing");
    assert_true(strstr(j.rank[0].said, "rank 0: dispatch of layer 5: 512 rows from rank 1 missing after " NEAR_S " s (1 of 2 senders late)") ||
                strstr(j.rank[2].said, "rank 2: dispatch of layer 5: 512 rows from rank 1 missing after " NEAR_S " s (1 of 2 senders late)"));
    soon(&j);
}

static void a_rank_that_never_starts_is_named_by_all(void **state) {
    (void)state;
    char sentence[128];
    job j = new_job();
    start(&j, 1, 4, far_s, meet);       /* knocks until rank 0, which waits a second, opens */
    start(&j, 0, 4, near_s, meet);
    end_all(&j);
    snprintf(sentence, sizeof sentence, "rank 0: rendezvous at 127.0.0.1:%d: ranks 2, 3 of 4 missing after " NEAR_S " s", j.port);
    for (int r = 0; r < 2; r++) ended(&j, r, 1, sentence);
    soon(&j);
}

static void without_rank_0_the_others_say_where_it_should_be(void **state) {
    (void)state;
    char sentence[128];
    job j = new_job();
    start(&j, 1, 2, near_s / 2, meet);
    end_all(&j);
    snprintf(sentence, sizeof sentence, "rank 1: rendezvous: rank 0 does not answer at 127.0.0.1:%d: Connection refused", j.port);
    ended(&j, 0, 1, sentence);
}

static void a_port_that_is_taken_is_said_at_once(void **state) {
    (void)state;
    job j = new_job();
    assert_int_equal(listen(j.held, 1), 0);
    start(&j, 0, 2, far_s, meet);
    end_all(&j);
    ended(&j, 0, 1, "Address already in use");
    soon(&j);
}

static void ranks_of_jobs_of_two_sizes_both_say_so(void **state) {
    (void)state;
    job j = new_job();
    start(&j, 0, 2, far_s, meet);
    start(&j, 2, 3, far_s, meet);
    end_all(&j);
    for (int r = 0; r < 2; r++) ended(&j, r, 1, "rank 2 was started as one of 3 ranks, rank 0 as one of 2");
    soon(&j);
}

static void two_processes_of_one_rank_end_the_job(void **state) {
    (void)state;
    job j = new_job();
    start(&j, 0, 3, far_s, meet);
    for (int i = 0; i < 2; i++) start(&j, 1, 3, far_s, meet);
    end_all(&j);
    ended(&j, 0, 1, "two processes were started as rank 1");
    soon(&j);
}

static int call(int port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    for (int i = 0; i < 100 * SOON_S; i++) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0) return fd;
        close(fd);
        usleep(10000);
    }
    fail_msg("nobody listens at port %d", port);
    return -1;
}

/* Too little, too much, nothing at all, more callers than rank 0 listens to at a time, and a rank of another job. */
static void strangers_are_sent_away_and_the_job_starts(void **state) {
    (void)state;
    char garbage[1000];
    int fd[100];
    job j = new_job();
    memset(garbage, 'x', sizeof garbage);
    start(&j, 0, 2, far_s, meet);
    setenv("TORCHELASTIC_RUN_ID", "another", 1);
    start(&j, 1, 2, far_s, meet);
    end_one(&j.rank[1]);
    unsetenv("TORCHELASTIC_RUN_ID");
    for (int i = 0; i < 100; i++) {
        fd[i] = call(j.port);
        (void)!send(fd[i], garbage, i % 3 == 0 ? sizeof garbage : i % 3 == 1 ? 5 : 0, MSG_NOSIGNAL);
    }
    for (int i = 0; i < 100; i += 4) close(fd[i]), fd[i] = -1;
    start(&j, 1, 2, far_s, meet);
    end_one(&j.rank[0]);
    end_one(&j.rank[2]);
    for (int i = 0; i < 100; i++)
        if (fd[i] >= 0) close(fd[i]);
    ended(&j, 1, 1, "rank 0 there is of another job");
    ended(&j, 0, 0, "a connection from 127.0.0.1 was refused: a rank of another job");
    ended(&j, 0, 0, "a connection from 127.0.0.1 was refused: not the words of a rank");
    ended(&j, 2, 0, "");
    soon(&j);
}

/* Rank 1 takes nothing of a transfer that sockets do not hold, and ends the job with the rows of the next one before its farewell. */
static grace_status end_behind_rows(gr_comm *c) {
    enum { MUCH = 64 << 20 };
    char *bytes = calloc(MUCH, 1);
    int32_t none[2] = {0, 0}, much[2] = {c->rank == 1, c->rank == 0}, few[2] = {1, 0};
    gr_request *first = NULL, *second = NULL;
    gr_xfer x = {.send = bytes, .recv = bytes, .row_bytes = MUCH, .send_rows = c->rank == 0 ? much : none, .recv_rows = c->rank == 1 ? much : none};
    grace_status st = meet(c);
    if (!st) st = gr_comm_alltoallv_start(c, &x, &first);
    if (!st && c->rank == 1) {
        st = gr_comm_alltoallv_start(c, &(gr_xfer){.send = bytes, .recv = bytes, .row_bytes = 8000, .send_rows = few, .recv_rows = none}, &second);
        usleep(100000);
        grace_comm_abort(c, 1);
        if (!st) st = gr_fail(GRACE_ERR_NUMERIC, "a number went bad");
    } else if (!st) st = gr_comm_wait(c, first);
    free(bytes);
    return st;
}

static void a_farewell_is_heard_behind_rows_nobody_wants_yet(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 2, far_s, end_behind_rows);
    end_all(&j);
    ended(&j, 1, 1, "a number went bad");
    ended(&j, 0, 1, "rank 1 has ended the job");
    soon(&j);
}

/* Rank 0 stands still while they come, so that all wait at its door at once. */
static void a_rank_is_heard_before_the_crowd_behind_it(void **state) {
    (void)state;
    int fd[100];
    job j = new_job();
    start(&j, 0, 2, far_s, meet);
    close(call(j.port));
    kill(j.rank[0].pid, SIGSTOP);
    start(&j, 1, 2, far_s, meet);
    usleep(500000);
    for (int i = 0; i < 100; i++) fd[i] = call(j.port);
    kill(j.rank[0].pid, SIGCONT);
    end_all(&j);
    for (int i = 0; i < 100; i++) close(fd[i]);
    ended_well(&j);
    soon(&j);
}

static grace_status give_up(gr_comm *c) {
    grace_status st = meet(c);
    if (c->rank != 1) return st ? st : meet(c);
    grace_comm_abort(c, 1);
    return gr_fail(GRACE_ERR_NUMERIC, "a number went bad");
}

static void a_rank_that_gives_up_ends_the_others(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 3, far_s, give_up);
    end_all(&j);
    ended(&j, 1, 1, "a number went bad");
    for (int r = 0; r < 3; r += 2) ended(&j, r, 1, "rank 1");
    soon(&j);
}

static grace_status wait_for_rank_1(gr_comm *c) {
    grace_status st = meet(c);
    gr_comm_at("dispatch", 5);
    fprintf(stderr, "here ");
    if (c->rank == 1) raise(SIGSTOP);
    return st ? st : meet(c);
}

/* As one does that waits for others. */
static void await_sleep(pid_t pid) {
    char path[64], text[512] = "";
    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    for (int i = 0; i < 100 * SOON_S; i++, usleep(10000)) {
        FILE *file = fopen(path, "r");
        assert_non_null(file);
        const bool is_read = fgets(text, sizeof text, file);
        fclose(file);
        if (is_read && strstr(text, ") S ")) return;
    }
    fail_msg("process %d does not come to wait: %s", (int)pid, text);
}

static void sigterm_leaves_a_last_line(void **state) {
    (void)state;
    char word[8] = "";
    job j = new_job();
    start_all(&j, 2, far_s, wait_for_rank_1);
    assert_int_equal(read(j.rank[0].from, word, 5), 5);
    await_sleep(j.rank[0].pid);
    kill(j.rank[0].pid, SIGTERM);
    end_one(&j.rank[0]);
    kill(j.rank[1].pid, SIGKILL);
    end_one(&j.rank[1]);
    ended(&j, 0, 128 + SIGTERM, "grace: rank 0 of 2: ended by SIGTERM in dispatch of layer 5, waiting for rank 1\n");
}

/* A job ends with its last communicator; the process may join another, and a job of one needs no sockets. */
static void after_a_job_a_process_may_join_another(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        job j = new_job();
        start(&j, 0, 1, far_s, meet);
        end_all(&j);
        ended_well(&j);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(machines_with_one_name_are_a_node),
        cmocka_unit_test(nodes_hold_consecutive_ranks_or_all_say_why),
        cmocka_unit_test(all_may_send_more_than_sockets_hold),
        cmocka_unit_test(a_peer_is_not_trusted_with_more_rows_than_expected),
        cmocka_unit_test(a_rank_that_is_done_may_leave_the_others_to_go_on),
        cmocka_unit_test(a_killed_rank_ends_the_others_at_once),
        cmocka_unit_test(a_silent_rank_is_named_at_the_deadline),
        cmocka_unit_test(a_rank_that_never_starts_is_named_by_all),
        cmocka_unit_test(without_rank_0_the_others_say_where_it_should_be),
        cmocka_unit_test(a_port_that_is_taken_is_said_at_once),
        cmocka_unit_test(ranks_of_jobs_of_two_sizes_both_say_so),
        cmocka_unit_test(two_processes_of_one_rank_end_the_job),
        cmocka_unit_test(strangers_are_sent_away_and_the_job_starts),
        cmocka_unit_test(a_farewell_is_heard_behind_rows_nobody_wants_yet),
        cmocka_unit_test(a_rank_is_heard_before_the_crowd_behind_it),
        cmocka_unit_test(a_rank_that_gives_up_ends_the_others),
        cmocka_unit_test(sigterm_leaves_a_last_line),
        cmocka_unit_test(after_a_job_a_process_may_join_another),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
