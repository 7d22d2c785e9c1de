/* One rank by itself obeys the whole contract of comm.h. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "comm/comm.h"

static gr_comm *open_self(void) {
    gr_comm *c = NULL;
    assert_int_equal(grace_comm_open(GRACE_TRANSPORT_SELF, 0, 30, &c), GRACE_OK);
    return c;
}

static void own_rows_are_copied(void **state) {
    (void)state;
    gr_comm *c = open_self();
    int32_t rows = 3, send[6] = {1, 2, 3, 4, 5, 6}, recv[7] = {0, 0, 0, 0, 0, 0, -1}, expected[7] = {1, 2, 3, 4, 5, 6, -1};
    gr_request *request = NULL;
    gr_xfer x = {.send = send, .send_rows = &rows, .recv = recv, .recv_rows = &rows, .row_bytes = 8};
    assert_int_equal(gr_comm_alltoallv_start(c, &x, &request), GRACE_OK);
    assert_int_equal(gr_comm_wait(c, request), GRACE_OK);
    assert_memory_equal(recv, expected, sizeof recv);
    grace_comm_close(c);
}

static void nothing_may_be_sent_from_nowhere(void **state) {
    (void)state;
    gr_comm *c = open_self();
    int32_t rows = 0;
    gr_xfer x = {.send_rows = &rows, .recv_rows = &rows, .row_bytes = 1};
    assert_int_equal(gr_comm_alltoallv(c, &x), GRACE_OK);
    grace_comm_close(c);
}

static void gathering_and_reducing_alone_give_back_what_was_given(void **state) {
    (void)state;
    gr_comm *c = open_self();
    char all[4] = "";
    void *pieces = NULL;
    int32_t n = -1;
    int64_t values[2] = {-7, INT64_MAX};
    assert_int_equal(gr_comm_allgather(c, "abc", 4, all), GRACE_OK);
    assert_string_equal(all, "abc");
    assert_int_equal(gr_comm_allgatherv(c, "xyz", 3, &n, &pieces), GRACE_OK);
    assert_int_equal(n, 3);
    assert_memory_equal(pieces, "xyz", 3);
    assert_int_equal(gr_comm_allreduce(c, values, 2, GR_SUM), GRACE_OK);
    assert_true(values[0] == -7 && values[1] == INT64_MAX);
    free(pieces);
    grace_comm_close(c);
}

static void a_split_of_one_is_one(void **state) {
    (void)state;
    gr_comm *c = open_self(), *part = NULL;
    assert_int_equal(gr_comm_split(c, 5, &part), GRACE_OK);
    assert_int_equal(part->n_ranks, 1);
    assert_int_equal(grace_comm_cluster(part).n_nodes, 1);
    assert_int_equal(gr_comm_node(part, 0) + gr_comm_local(part, 0) + grace_comm_rank(part), 0);
    grace_comm_close(part);
    grace_comm_close(c);
}

static void agreement_alone_leaves_status_and_sentence(void **state) {
    (void)state;
    gr_comm *c = open_self();
    assert_int_equal(grace_comm_agree(c, GRACE_OK), GRACE_OK);
    assert_int_equal(grace_comm_agree(c, gr_fail(GRACE_ERR_IO, "no file")), GRACE_ERR_IO);
    assert_string_equal(grace_last_error(), "no file");
    grace_comm_close(c);
}

static void refused(grace_transport transport, int32_t n_nodes, double deadline_s, const char *sentence) {
    gr_comm *c = NULL;
    assert_int_equal(grace_comm_open(transport, n_nodes, deadline_s, &c), GRACE_ERR_ARG);
    assert_string_equal(grace_last_error(), sentence);
    assert_null(c);
}

static void what_cannot_be_opened_says_why(void **state) {
    (void)state;
    refused(GRACE_TRANSPORT_SELF, 2, 30, "one rank by itself cannot be 2 nodes");
    refused(GRACE_TRANSPORT_SELF, -1, 30, "number of nodes: expected 0 (ask the launcher) or more, found -1");
    refused(GRACE_TRANSPORT_SELF, 0, 0, "deadline: expected more than 0 seconds, found 0");
    refused((grace_transport)7, 0, 1, "transport 7: expected self (0), mpi (1), tcp (2) or auto (3)");
    grace_comm_close(NULL);
    grace_comm_abort(NULL, 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(own_rows_are_copied),
        cmocka_unit_test(nothing_may_be_sent_from_nowhere),
        cmocka_unit_test(gathering_and_reducing_alone_give_back_what_was_given),
        cmocka_unit_test(a_split_of_one_is_one),
        cmocka_unit_test(agreement_alone_leaves_status_and_sentence),
        cmocka_unit_test(what_cannot_be_opened_says_why),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
