/* The transports of several ranks (comm/mpi.c, comm/mpi_job.c, comm/tcp.c with comm/board.c; comm/machine.c, comm/meet.c) against plain arithmetic: what
 * rank s sends to rank r is a pure function of (s, r, row, seed). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/rng.h"
#include "comm/board.h"
#include "comm/meet.h"
#include "ranks/support.h"

enum { ROWS_MAX = 9, RANKS_MAX = 16 };

/* Everyone can compute how many rows go from s to r: about half of the pairs have none. */
static int32_t rows_between(uint64_t seed, int32_t s, int32_t r) {
    gr_rng rng = gr_rng_seed(seed * 1000003 + (uint64_t)(s * 1009 + r));
    return gr_rng_below(&rng, 2) ? (int32_t)gr_rng_below(&rng, ROWS_MAX) : 0;
}

static uint8_t byte_of(uint64_t seed, int32_t s, int32_t r, size_t i) { return (uint8_t)(seed * 31 + (uint64_t)s * 17 + (uint64_t)r * 7 + i * 3 + 1); }

typedef struct traffic {
    uint64_t seed;
    gr_xfer x;
    int32_t *send_rows, *recv_rows;
    uint8_t *send, *recv;
} traffic;

static traffic traffic_new(const gr_comm *c, uint64_t seed, size_t row_bytes) {
    traffic t = {.seed = seed};
    size_t n_send = 0, n_recv = 0, n = (size_t)c->n_ranks;
    t.send_rows = calloc(n, sizeof *t.send_rows);
    t.recv_rows = calloc(n, sizeof *t.recv_rows);
    for (int32_t r = 0; r < c->n_ranks; r++) {
        n_send += (size_t)(t.send_rows[r] = rows_between(seed, c->rank, r));
        n_recv += (size_t)(t.recv_rows[r] = rows_between(seed, r, c->rank));
    }
    t.send = malloc(n_send * row_bytes + 1);
    t.recv = calloc(n_recv * row_bytes + 1, 1);
    uint8_t *at = t.send;
    for (int32_t r = 0; r < c->n_ranks; r++)
        for (size_t i = 0; i < (size_t)t.send_rows[r] * row_bytes; i++) *at++ = byte_of(seed, c->rank, r, i);
    t.x = (gr_xfer){.send = t.send, .send_rows = t.send_rows, .recv = t.recv, .recv_rows = t.recv_rows, .row_bytes = row_bytes};
    return t;
}

static void traffic_check(const gr_comm *c, const traffic *t) {
    const uint8_t *at = t->recv;
    for (int32_t r = 0; r < c->n_ranks; r++)
        for (size_t i = 0; i < (size_t)t->recv_rows[r] * t->x.row_bytes; i++, at++)
            if (*at != byte_of(t->seed, r, c->rank, i)) fail_msg("seed %llu: byte %zu from rank %d is wrong", (unsigned long long)t->seed, i, r);
}

static void traffic_free(traffic *t) {
    free(t->send_rows);
    free(t->recv_rows);
    free(t->send);
    free(t->recv);
}

static void every_row_arrives_in_order_of_its_sender(void **state) {
    (void)state;
    static const size_t row_bytes[] = {1, 4, 7, 64, 256, 1000, 4096, 16384, 12, 3};    /* more sizes than cached datatypes */
    gr_comm *c = ranks_comm(1);
    for (uint64_t seed = 0; seed < 40; seed++) {
        traffic t = traffic_new(c, seed, row_bytes[seed % 10]);
        assert_ok(gr_comm_alltoallv(c, &t.x));
        traffic_check(c, &t);
        traffic_free(&t);
    }
}

static void transfers_in_flight_together_do_not_mix(void **state) {
    (void)state;
    enum { N = 5 };
    gr_comm *c = ranks_comm(1);
    traffic t[N];
    gr_request *request[N];
    for (int i = 0; i < N; i++) {
        t[i] = traffic_new(c, 100 + (uint64_t)i, 8);
        assert_ok(gr_comm_alltoallv_start(c, &t[i].x, &request[i]));
    }
    for (int i = 0; i < N; i++) {               /* waited for in another order than started, and than on the other ranks */
        int k = (i * 2 + 1 + c->rank) % N;
        assert_ok(gr_comm_wait(c, request[k]));
        traffic_check(c, &t[k]);
    }
    for (int i = 0; i < N; i++) traffic_free(&t[i]);
}

static void nothing_to_send_is_an_ordinary_transfer(void **state) {
    (void)state;
    gr_comm *c = ranks_comm(1);
    int32_t *zero = calloc((size_t)c->n_ranks, sizeof *zero);
    for (int i = 0; i < 3; i++) assert_ok(gr_comm_alltoallv(c, &(gr_xfer){.send_rows = zero, .recv_rows = zero, .row_bytes = 4}));
    free(zero);
}

static void tags_may_wrap_around(void **state) {
    (void)state;
    gr_comm *c = ranks_comm(1);
    int32_t *zero = calloc((size_t)c->n_ranks, sizeof *zero);
    for (int i = 0; i < 33000; i++) assert_ok(gr_comm_alltoallv(c, &(gr_xfer){.send_rows = zero, .recv_rows = zero, .row_bytes = 4}));
    int64_t sum = 1;
    assert_ok(gr_comm_allreduce(c, &sum, 1, GR_SUM));
    assert_int_equal(sum, c->n_ranks);
    free(zero);
}

static void a_reduction_is_the_same_on_every_rank(void **state) {
    (void)state;
    gr_comm *c = ranks_comm(1);
    int64_t n = c->n_ranks, v[3];
    for (int op = GR_MIN; op <= GR_SUM; op++) {
        v[0] = c->rank;
        v[1] = -5 * (int64_t)c->rank;
        v[2] = INT64_C(1) << 40;
        assert_ok(gr_comm_allreduce(c, v, 3, (gr_reduce)op));
        assert_true(v[0] == (op == GR_MIN ? 0 : op == GR_MAX ? n - 1 : n * (n - 1) / 2));
        assert_true(v[1] == (op == GR_MIN ? -5 * (n - 1) : op == GR_MAX ? 0 : -5 * n * (n - 1) / 2));
        assert_true(v[2] == (op == GR_SUM ? n << 40 : INT64_C(1) << 40));
    }
}

static int64_t value_of(uint64_t seed, int32_t rank, int32_t i) {
    gr_rng rng = gr_rng_seed(seed * 4099 + (uint64_t)i * 64 + (uint64_t)rank);
    return (int64_t)gr_rng_below(&rng, 2000001) - 1000000;
}

static int64_t reduced(uint64_t seed, int32_t n_ranks, int32_t i, gr_reduce op) {
    int64_t result = value_of(seed, 0, i);
    for (int32_t r = 1; r < n_ranks; r++) {
        const int64_t v = value_of(seed, r, i);
        if (op == GR_SUM) result += v;
        else if (op == GR_MIN ? v < result : v > result) result = v;
    }
    return result;
}

static void reduce_and_check(gr_comm *c, uint64_t seed, int32_t n, gr_reduce op) {
    int64_t *v = malloc((size_t)n * sizeof *v);
    for (int32_t i = 0; i < n; i++) v[i] = value_of(seed, c->rank, i);
    assert_ok(gr_comm_allreduce(c, v, n, op));
    for (int32_t i = 0; i < n; i++)
        if (v[i] != reduced(seed, c->n_ranks, i, op)) fail_msg("seed %llu: value %d of %d is wrong", (unsigned long long)seed, i, n);
    free(v);
}

static void gather_and_check(gr_comm *c, uint64_t seed, size_t n) {
    uint8_t *mine = malloc(n + 1), *all = calloc((size_t)c->n_ranks * n + 1, 1);
    for (size_t i = 0; i < n; i++) mine[i] = byte_of(seed, c->rank, 0, i);
    assert_ok(gr_comm_allgather(c, mine, n, all));
    for (int32_t r = 0; r < c->n_ranks; r++)
        for (size_t i = 0; i < n; i++)
            if (all[(size_t)r * n + i] != byte_of(seed, r, 0, i)) fail_msg("seed %llu: byte %zu of %zu from rank %d", (unsigned long long)seed, i, n, r);
    free(mine);
    free(all);
}

/* Few values go another way than many where ranks share a machine, and around that limit all must decide alike. */
static void few_and_many_values_mix_with_rows_in_flight(void **state) {
    (void)state;
    enum { FEW = GR_BOARD_ROOM / 8, ROUNDS = 150 };
    static const int32_t counts[] = {1, 3, 100, FEW - 1, FEW, FEW + 1, 3 * FEW};
    static const size_t sizes[] = {0, 1, 7, 1000, GR_BOARD_ROOM - 1, GR_BOARD_ROOM, GR_BOARD_ROOM + 1};
    gr_comm *c = ranks_comm(1);
    gr_rng rng = gr_rng_seed(11);               /* the same on every rank */
    traffic t = {.seed = 0};
    gr_request *request = NULL;
    for (uint64_t seed = 200; seed < 200 + ROUNDS; seed++) {
        const bool starts = !request && gr_rng_below(&rng, 3) == 0, ends = request && gr_rng_below(&rng, 3) == 0;
        if (starts) {
            t = traffic_new(c, seed, 700);
            assert_ok(gr_comm_alltoallv_start(c, &t.x, &request));
        }
        if (gr_rng_below(&rng, 2)) reduce_and_check(c, seed, counts[gr_rng_below(&rng, 7)], (gr_reduce)gr_rng_below(&rng, 3));
        else gather_and_check(c, seed, sizes[gr_rng_below(&rng, 7)]);
        if (!ends && !(request && seed == 199 + ROUNDS)) continue;
        assert_ok(gr_comm_wait(c, request));
        traffic_check(c, &t);
        traffic_free(&t);
        request = NULL;
    }
}

static void gathered_pieces_may_differ_in_size(void **state) {
    (void)state;
    gr_comm *c = ranks_comm(1);
    char mine[64], *at;
    void *all = NULL;
    int32_t *n_all = calloc((size_t)c->n_ranks, sizeof *n_all);
    memset(mine, 'a' + c->rank, sizeof mine);
    assert_ok(gr_comm_allgatherv(c, mine, 5 * (c->rank % 3), n_all, &all));     /* rank 0 has nothing */
    at = all;
    for (int32_t r = 0; r < c->n_ranks; r++) {
        assert_int_equal(n_all[r], 5 * (r % 3));
        for (int32_t i = 0; i < n_all[r]; i++) assert_int_equal(*at++, 'a' + r);
    }
    free(n_all);
    free(all);
}

static void every_cut_into_equal_nodes_gives_node_and_index(void **state) {
    (void)state;
    int32_t n = ranks_comm(1)->n_ranks;
    for (int32_t n_nodes = 1; n_nodes <= 4; n_nodes++) {
        gr_comm *c = ranks_comm(n_nodes);
        if (n % n_nodes != 0) {
            char expected[80];
            snprintf(expected, sizeof expected, "%d ranks cannot be cut into %d equal nodes", n, n_nodes);
            assert_null(c);
            assert_string_equal(grace_last_error(), expected);
            continue;
        }
        assert_int_equal(c->gpus_per_node, n / n_nodes);
        assert_int_equal(grace_comm_cluster(c).n_nodes, n_nodes);
        for (int32_t r = 0; r < n; r++) assert_int_equal(gr_comm_node(c, r) * (n / n_nodes) + gr_comm_local(c, r), r);
    }
}

/* One node on one machine; over a wire (wire_test.sh) as many as there are host names. */
/* Of a name each rank says itself: the ranks that said it before this one. */
static void a_place_on_the_machine_counts_the_ranks_before_it_there(void **state) {
    (void)state;
    gr_comm *c = ranks_comm(1);
    enum { NAME = 65 };
    char mine[NAME] = "", *all = calloc((size_t)c->n_ranks, NAME);
    int32_t found = -1, expected = 0;
    assert_non_null(all);
    assert_int_equal(gethostname(mine, NAME - 1), 0);
    assert_ok(gr_comm_allgather(c, mine, NAME, all));
    for (int32_t r = 0; r < c->rank; r++) expected += strcmp(all + (size_t)r * NAME, mine) == 0;
    assert_ok(gr_comm_machine_rank(c, &found));
    assert_int_equal(found, expected);
    free(all);
}

static void machines_become_nodes(void **state) {
    (void)state;
    char mine[64] = "", all[64 * 64];
    gr_comm *c = ranks_comm(0);
    assert_non_null(c);
    assert_true(c->n_ranks <= 64);
    gethostname(mine, sizeof mine - 1);
    assert_ok(gr_comm_allgather(c, mine, sizeof mine, all));
    for (int32_t r = 1; r < c->n_ranks; r++)
        assert_int_equal(strcmp(all + 64 * r, all + 64 * (r - 1)) != 0, gr_comm_node(c, r) != gr_comm_node(c, r - 1));
}

static void a_split_keeps_order_and_carries_its_own_rows(void **state) {
    (void)state;
    gr_comm *world = ranks_comm(1), *half = NULL;
    int32_t color = world->rank % 2;
    assert_ok(gr_comm_split(world, color, &half));
    assert_int_equal(half->n_ranks, (world->n_ranks + 1 - color) / 2);
    assert_int_equal(half->rank, world->rank / 2);
    int64_t sum = world->rank;
    assert_ok(gr_comm_allreduce(half, &sum, 1, GR_SUM));
    int64_t expected = 0;
    for (int32_t r = color; r < world->n_ranks; r += 2) expected += r;
    assert_true(sum == expected);
    traffic a = traffic_new(half, 7, 16), b = traffic_new(world, 8, 16);
    gr_request *in_half, *in_world;
    assert_ok(gr_comm_alltoallv_start(half, &a.x, &in_half));
    assert_ok(gr_comm_alltoallv_start(world, &b.x, &in_world));
    assert_ok(gr_comm_wait(world, in_world));
    assert_ok(gr_comm_wait(half, in_half));
    traffic_check(half, &a);
    traffic_check(world, &b);
    traffic_free(&a);
    traffic_free(&b);
    grace_comm_close(half);
}

static void every_rank_hears_the_first_failure(void **state) {
    (void)state;
    gr_comm *c = ranks_comm(1);
    int32_t culprit = c->n_ranks - 1;
    char expected[64];
    assert_ok(grace_comm_agree(c, GRACE_OK));
    grace_status mine = c->rank == culprit ? gr_fail(GRACE_ERR_IO, "shard 7 is not there") : GRACE_OK;
    assert_int_equal(grace_comm_agree(c, mine), GRACE_ERR_IO);
    snprintf(expected, sizeof expected, c->n_ranks > 1 ? "rank %d: shard 7 is not there" : "shard 7 is not there", culprit);
    assert_string_equal(grace_last_error(), expected);

    mine = gr_fail(c->rank == 0 ? GRACE_ERR_ARG : GRACE_ERR_FORMAT, "rank %d: no", c->rank);   /* all fail: worst code, first sentence */
    assert_int_equal(grace_comm_agree(c, mine), c->n_ranks > 1 ? GRACE_ERR_FORMAT : GRACE_ERR_ARG);
    assert_string_equal(grace_last_error(), "rank 0: no");
    assert_ok(grace_comm_agree(c, GRACE_OK));
}

static void a_big_transfer_arrives_whole(void **state) {
    (void)state;
    enum { ROW = 4096, ROWS = 300 };            /* 1.2 MB a pair: rendezvous, not eager */
    gr_comm *c = ranks_comm(1);
    size_t n = (size_t)c->n_ranks;
    int32_t *rows = calloc(n, sizeof *rows);
    int32_t *send = malloc(n * ROWS * ROW), *recv = malloc(n * ROWS * ROW);
    for (size_t r = 0; r < n; r++) rows[r] = ROWS;
    for (size_t i = 0; i < n * ROWS * ROW / 4; i++) send[i] = (int32_t)i * (c->rank + 1);
    assert_ok(gr_comm_alltoallv(c, &(gr_xfer){.send = send, .send_rows = rows, .recv = recv, .recv_rows = rows, .row_bytes = ROW}));
    for (size_t r = 0; r < n; r++)
        for (size_t i = 0; i < (size_t)ROWS * ROW / 4; i++)
            if (recv[r * ROWS * ROW / 4 + i] != (int32_t)((size_t)c->rank * ROWS * ROW / 4 + i) * ((int32_t)r + 1)) fail_msg("word %zu from rank %zu", i, r);
    free(rows);
    free(send);
    free(recv);
}

/* The first creates a place, the others find it by its name, which is then free again. */
static gr_meeting *meeting_of(gr_comm *c) {
    char name[GR_MEETING_NAME] = "", all[RANKS_MAX][GR_MEETING_NAME];
    gr_meeting *m = NULL, *none = NULL;
    assert_ok(grace_comm_agree(c, c->rank == 0 ? gr_meeting_create(name, &m) : GRACE_OK));
    assert_ok(gr_comm_allgather(c, name, sizeof name, all));
    assert_ok(grace_comm_agree(c, c->rank != 0 ? gr_meeting_attach(all[0], &m) : GRACE_OK));
    gr_meeting_forget(m);
    assert_ok(grace_comm_agree(c, GRACE_OK));
    assert_int_equal(gr_meeting_attach(all[0], &none), GRACE_ERR_IO);
    return m;
}

static void ranks_of_a_machine_meet_and_one_that_stays_away_costs_the_others_the_deadline_only(void **state) {
    (void)state;
    gr_comm *c = ranks_comm(1);
    for (int round = 0; round < 3; round++) {
        gr_meeting *m = meeting_of(c);
        if (c->rank == round % c->n_ranks) usleep(20000);
        assert_true(gr_meeting_wait(m, c->n_ranks, 20));
        gr_meeting_close(m);
    }
    gr_meeting *m = meeting_of(c);
    if (c->rank < c->n_ranks - 1) assert_false(gr_meeting_wait(m, c->n_ranks, 0.02));
    gr_meeting_close(m);
    assert_ok(grace_comm_agree(c, GRACE_OK));       /* the job goes on */
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(every_row_arrives_in_order_of_its_sender),
    cmocka_unit_test(transfers_in_flight_together_do_not_mix),
    cmocka_unit_test(nothing_to_send_is_an_ordinary_transfer),
    cmocka_unit_test(tags_may_wrap_around),
    cmocka_unit_test(a_reduction_is_the_same_on_every_rank),
    cmocka_unit_test(few_and_many_values_mix_with_rows_in_flight),
    cmocka_unit_test(gathered_pieces_may_differ_in_size),
    cmocka_unit_test(every_cut_into_equal_nodes_gives_node_and_index),
    cmocka_unit_test(a_place_on_the_machine_counts_the_ranks_before_it_there),
    cmocka_unit_test(machines_become_nodes),
    cmocka_unit_test(a_split_keeps_order_and_carries_its_own_rows),
    cmocka_unit_test(every_rank_hears_the_first_failure),
    cmocka_unit_test(a_big_transfer_arrives_whole),
    cmocka_unit_test(ranks_of_a_machine_meet_and_one_that_stays_away_costs_the_others_the_deadline_only),
};

RANKS_MAIN("comm", tests)
