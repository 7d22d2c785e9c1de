/* Lines whose peers fail. A peer that lies is one that has connections as a line has, and writes to them by itself. */
#include "comm/line_ends.h"
#include "comm/tcp_socket.h"

#include <poll.h>

/* ---- peers that fail ---- */

/* Ranks in a row, each with a line to the next. A word goes from the first to the last, who dies of it. */
static grace_status stand_in_a_row(gr_comm *c) {
    grace_status st = GRACE_OK;
    ends *t = new_ends(c, rooms, far_s);
    if (c->rank > 0) add_peer(t, c->rank - 1);
    if (c->rank < c->n_ranks - 1) add_peer(t, c->rank + 1);
    const int32_t next = t->n_peers - 1;
    GR_TRY(open_ends(c, t));
    if (c->rank > 0) GR_TRY(await_flag(t, t->in[0][GR_LINE_THERE][0].head, 1));
    if (c->rank == c->n_ranks - 1) raise(SIGKILL);
    raise_flag(t->out[0][GR_LINE_THERE][next].head, 0, 0, 0, 1);
    GR_TRY(await_flag(t, t->in[0][GR_LINE_THERE][next].head, 1));
done:
    GR_ASSERT(t->stop);                 /* kernels that wait were told */
    return close_ends(t, st);
}

static void a_dead_peer_ends_all_who_have_a_line_to_one_that_failed(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 3, far_s, stand_in_a_row);
    end_all(&j);
    ended(&j, 2, -SIGKILL, "");
    ended(&j, 1, 1, "rank 1: rank 2 is gone");
    ended(&j, 0, 1, "rank 0: rank 1 is gone");
    soon(&j);
}

static grace_status send_to_one_that_stands_still(gr_comm *c) {
    grace_status st = GRACE_OK;
    ends *t;
    GR_TRY(open_to_all(c, large_rooms, near_s, &t));
    if (c->rank == 1) raise(SIGSTOP);
    raise_flag(t->out[0][GR_LINE_THERE][0].head, 1, 1, large_rooms[GR_LINE_THERE].n_bytes, 1);
    GR_TRY(await_flag(t, t->in[0][GR_LINE_THERE][0].head, 1));
done:
    return close_ends(t, st);
}

static void a_peer_that_takes_nothing_is_named_at_the_deadline(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 2, far_s, send_to_one_that_stands_still);
    end_one(&j.rank[0]);
    kill(j.rank[1].pid, SIGKILL);
    end_one(&j.rank[1]);
    ended(&j, 0, 1, "rank 0: rank 1 has taken nothing of a message for " NEAR_S " s");
    soon(&j);
}

/* ---- peers that lie ---- */

typedef struct lie { size_t n_bytes; gr_line_frame frame; const char *answer; } lie;

static const lie *told;                 /* by rank 1 */

/* What gr_line_open() does, but for threads: rank 1 has connections to rank 0. */
static grace_status connect_alone(gr_comm *c, int **fd) {
    grace_status st = GRACE_OK;
    GR_TRY(grace_comm_agree(c, GRACE_OK));
    GR_TRY(gr_line_connect(c, (const int32_t[]){0}, 1, LANES, far_s, fd));
    GR_TRY(grace_comm_agree(c, GRACE_OK));
done:
    return st;
}

static void hang_up(int *fd) {
    for (int i = 0; fd && i < LANES; i++) close(fd[i]);
    free(fd);
}

/* The lie, until rank 0 hangs up. */
static grace_status tell_it(gr_comm *c) {
    grace_status st = GRACE_OK;
    int *fd = NULL;
    char answer;
    GR_TRY(connect_alone(c, &fd));
    GR_CHECK(send(fd[0], &told->frame, told->n_bytes, MSG_NOSIGNAL) == (ssize_t)told->n_bytes, GRACE_ERR_COMM, "not sent");
    for (struct pollfd p = {.fd = fd[0], .events = POLLIN}; poll(&p, 1, 1000 * SOON_S) == 1 && recv(fd[0], &answer, 1, 0) > 0;) {}
done:
    hang_up(fd);
    return st;
}

static grace_status hear_it(gr_comm *c) {
    ends *t;
    grace_status st = open_to_all(c, rooms, strstr(told->answer, "nothing for " NEAR_S " s") ? near_s : far_s, &t);
    if (!st) st = await_flag(t, t->in[0][GR_LINE_BACK][0].head, 1);
    return close_ends(t, st);
}

static grace_status tell_or_hear(gr_comm *c) { return c->rank == 1 ? tell_it(c) : hear_it(c); }

static void a_head_that_lies_ends_the_line_and_is_quoted(void **state) {
    (void)state;
    enum { M = GR_LINE_MESSAGE, ALL = sizeof(gr_line_frame) };
    static const lie lies[] = {
        {ALL, {0x20646170, 1, 0, 0, 0, 0, 0}, "rank 1 sends message 1 of way 0, of kind 20646170, where dispatch 1 is next"},
        {ALL, {M, 2, 0, 0, 0, 0, 0}, "rank 1 sends message 2 of way 0, of kind 47524c31, where dispatch 1 is next"},
        {ALL, {M, 1, 1, 0, 0, 0, 0}, "rank 1 sends message 1 of way 1, of kind 47524c31, where dispatch 1 is next"},
        {ALL, {M, 1, -7, 0, 0, 0, 0}, "rank 1 sends message 1 of way -7"},
        {ALL, {M, 1, 0, 1, 1, 0, 65537}, "rank 1 sends 1 rows with 1 entries in 65537 bytes for dispatch; there is room for 64 with 4 each in 65536"},
        {ALL, {M, 1, 0, 1, 1, 0, INT64_MAX}, "in 9223372036854775807 bytes for dispatch"},
        {ALL, {M, 1, 0, 1, 1, 0, -1}, "in -1 bytes for dispatch"},
        {ALL, {M, 1, 0, 65, 65, 0, 8}, "rank 1 sends 65 rows with 65 entries in 8 bytes"},
        {ALL, {M, 1, 0, -1, 0, 0, 8}, "rank 1 sends -1 rows"},
        {ALL, {M, 1, 0, 2, 1, 0, 8}, "rank 1 sends 2 rows with 1 entries"},
        {ALL, {M, 1, 0, 2, 9, 0, 8}, "rank 1 sends 2 rows with 9 entries"},
        {ALL - 5, {M, 1, 0, 2, 8, 0, 8}, "the head of dispatch 1 from rank 1 has come in part, and nothing for " NEAR_S " s"},
        {ALL, {M, 1, 0, 2, 8, 0, 8}, "0 of 8 bytes of dispatch 1 from rank 1 have come, and nothing for " NEAR_S " s"},
    };
    for (size_t i = 0; i < sizeof lies / sizeof *lies; i++) {
        job j = new_job();
        told = &lies[i];
        start_all(&j, 2, far_s, tell_or_hear);
        end_all(&j);
        ended(&j, 0, 1, lies[i].answer);
        ended(&j, 1, 0, "");
    }
}

/* ---- peers that leave too early ---- */

static grace_status exchange_empty(ends *t, uint32_t number) {
    grace_status st = GRACE_OK;
    for (int way = 0; way < GR_LINE_WAYS; way++) {
        raise_flag(t->out[0][way][0].head, 0, 0, 0, number);
        GR_TRY(await_flag(t, t->in[0][way][0].head, number));
    }
done:
    return st;
}

static bool says_goodbye;               /* rank 1 */

static grace_status leave_in_the_middle(gr_comm *c) {
    grace_status st = GRACE_OK;
    ends *t;
    GR_TRY(open_to_all(c, rooms, far_s, &t));
    GR_TRY(exchange_empty(t, 1));
    if (c->rank == 0) GR_TRY(exchange_empty(t, 2));
done:
    if (c->rank == 1 && !says_goodbye) st = gr_fail(GRACE_ERR_NUMERIC, "a number went bad");
    return close_ends(t, st);
}

static void a_peer_that_closes_and_owes_a_message_is_named_at_once(void **state) {
    (void)state;
    for (int i = 0; i < 2; i++) {
        job j = new_job();
        says_goodbye = i;
        start_all(&j, 2, far_s, leave_in_the_middle);
        end_all(&j);
        ended(&j, 0, 1, says_goodbye ? "rank 0: rank 1 is gone (it said goodbye " : "rank 0: rank 1 is gone (");
        ended(&j, 1, !says_goodbye, says_goodbye ? "" : "a number went bad");
        soon(&j);
    }
}

/* Rank 1 says goodbye with rank 0's message untaken and closes: its last words and the end of the connection are there at once, and a sender that still
 * had much to give sees the end when the words may lie unread. */
static grace_status leave_without_a_look(gr_comm *c) {
    grace_status st = GRACE_OK;
    int *fd = NULL;
    GR_TRY(connect_alone(c, &fd));
    usleep(50000);
    for (int i = LANES - 1; i >= 0; i--)
        GR_TRY(gr_tcp_send_all(fd[i], &(gr_line_frame){.kind = GR_LINE_BYE}, sizeof(gr_line_frame), gr_now_us() + 1e6 * SOON_S));
done:
    hang_up(fd);
    return st;
}

static grace_status send_much_to_one_that_leaves(gr_comm *c) {
    if (c->rank == 1) return leave_without_a_look(c);
    ends *t;
    grace_status st = open_to_all(c, large_rooms, far_s, &t);
    if (!st) raise_flag(t->out[0][GR_LINE_THERE][0].head, 1, 1, large_rooms[GR_LINE_THERE].n_bytes, 1);
    if (!st) st = await_flag(t, t->in[0][GR_LINE_THERE][0].head, 1);
    return close_ends(t, st);
}

static void a_goodbye_is_heard_when_what_was_sent_is_not_taken(void **state) {
    (void)state;
    for (int i = 0; i < 30; i++) {
        job j = new_job();
        start_all(&j, 2, far_s, send_much_to_one_that_leaves);
        end_all(&j);
        ended(&j, 0, 1, "rank 0: rank 1 is gone (it said goodbye ");
        ended(&j, 1, 0, "");
        soon(&j);
    }
}

/* ---- closing ---- */

/* Rank 0 closes with much in its outbox. Rank 1, whose machine holds little, takes most of it, says goodbye when the rest has left the outbox, and only then
 * takes the rest. */
static grace_status take_slowly(gr_comm *c) {
    grace_status st = GRACE_OK;
    int *fd = NULL, little = 131072;        /* some segments: with less, TCP waits for its timers, for ever longer */
    const double until_us = gr_now_us() + 1e6 * far_s;
    const size_t n = sizeof(gr_line_frame) + (size_t)large_rooms[GR_LINE_THERE].n_bytes, most = n - 400000;
    char *bytes = malloc(n);
    GR_ASSERT(bytes);
    GR_TRY(connect_alone(c, &fd));
    (void)setsockopt(fd[0], SOL_SOCKET, SO_RCVBUF, &little, sizeof little);
    GR_TRY(grace_comm_agree(c, GRACE_OK));
    GR_TRY(gr_tcp_recv_all(fd[0], bytes, most, until_us));
    usleep(200000);
    GR_TRY(gr_tcp_send_all(fd[0], &(gr_line_frame){.kind = GR_LINE_BYE}, sizeof(gr_line_frame), until_us));
    usleep(100000);
    GR_TRY(gr_tcp_recv_all(fd[0], bytes + most, n - most, until_us));
done:
    hang_up(fd);
    free(bytes);
    return st;
}

static grace_status close_at_once(gr_comm *c) {
    if (c->rank == 1) return take_slowly(c);
    ends *t;
    grace_status st = open_to_all(c, large_rooms, far_s, &t);
    if (!st) st = grace_comm_agree(c, GRACE_OK);        /* rank 1's machine holds little from the first byte on */
    if (!st) raise_flag(t->out[0][GR_LINE_THERE][0].head, 1, 1, large_rooms[GR_LINE_THERE].n_bytes, 1);
    return close_ends(t, st);
}

static void a_peer_that_speaks_while_a_line_closes_still_gets_everything(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 2, far_s, close_at_once);
    end_all(&j);
    ended(&j, 1, 0, "");
}

/* ---- our own mistakes ---- */

static grace_status overfill(gr_comm *c) {
    grace_status st = GRACE_OK;
    ends *t;
    GR_TRY(open_to_all(c, rooms, far_s, &t));
    if (c->rank == 0) raise_flag(t->out[1][GR_LINE_THERE][0].head, 1, 1, rooms[GR_LINE_THERE].n_bytes + 1, 1);
    GR_TRY(await_flag(t, t->in[1][GR_LINE_THERE][0].head, 1));
done:
    return close_ends(t, st);
}

static void a_box_that_says_more_than_it_holds_is_not_sent(void **state) {
    (void)state;
    job j = new_job();
    start_all(&j, 2, far_s, overfill);
    end_all(&j);
    ended(&j, 0, 1, "rank 0: this rank sends 1 rows with 1 entries in 65537 bytes for dispatch; there is room for 64 with 4 each in 65536");
    ended(&j, 1, 1, "rank 1: rank 0 is gone (");
    soon(&j);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_dead_peer_ends_all_who_have_a_line_to_one_that_failed),
        cmocka_unit_test(a_peer_that_takes_nothing_is_named_at_the_deadline),
        cmocka_unit_test(a_head_that_lies_ends_the_line_and_is_quoted),
        cmocka_unit_test(a_peer_that_closes_and_owes_a_message_is_named_at_once),
        cmocka_unit_test(a_goodbye_is_heard_when_what_was_sent_is_not_taken),
        cmocka_unit_test(a_peer_that_speaks_while_a_line_closes_still_gets_everything),
        cmocka_unit_test(a_box_that_says_more_than_it_holds_is_not_sent),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
