#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "plan/step_time.h"

/* Round numbers: 100 B/s between nodes, 1000 inside, 10 s and 1 s a round, 50 flop/s, 20 B/s of memory. */
static const grace_rates slow = {.cross = {100, 10}, .intra = {1000, 1}, .flop_s = 50, .memory_bytes_s = 20, .value_bytes = 4, .dispatch_rounds = 3,
                                 .combine_rounds = 1};
/* An expert: 3 * 2 * 5 = 30 parameters, 60 flop a pair, 60 bytes. */
static const grace_shape small = {.hidden = 2, .expert_width = 5, .n_layers = 1, .n_moe_layers = 1, .n_experts = 4, .top_k = 2, .weight_bytes = 2,
                                  .dense_params = 100, .head_params = 10, .attention_values = 3, .kv_values = 7};

static grace_layer_counts counts_2x2(bool two_stage) {
    grace_layer_counts c;
    assert_int_equal(gr_layer_counts_alloc((grace_cluster){2, 2}, two_stage, &c), GRACE_OK);
    c.dispatch.node_out[0] = 400, c.dispatch.node_in[1] = 400, c.dispatch.node_out[1] = 100, c.dispatch.node_in[0] = 100;
    c.dispatch.rank_out[0] = 5000, c.dispatch.rank_in[1] = 5000;
    c.combine.node_out[1] = 200, c.combine.node_in[0] = 200;
    c.combine.rank_out[1] = 1000, c.combine.rank_in[0] = 1000;
    c.pairs[2] = 5, c.active[2] = 1, c.pairs[3] = 1, c.active[3] = 4;
    return c;
}

static void two_stages_wait_for_one_another(void **state) {
    (void)state;
    grace_layer_counts c = counts_2x2(true);
    grace_seconds s = grace_layer_seconds(&c, &small, &slow);
    assert_true(s.cross == 4 + 2 && s.intra == 5 + 1 && s.latency == 3 * (10 + 1) + 1 * (10 + 1));
    assert_true(s.experts == 4 * 60 / 20.0 && s.experts > 5 * 60 / 50.0);      /* the rank that reads most, not the one that multiplies most */
    assert_true(s.total == s.cross + s.intra + s.latency + s.experts && s.dense == 0);
    gr_layer_counts_free(&c);
}

static void one_stage_takes_as_long_as_its_slower_kind_of_link(void **state) {
    (void)state;
    grace_layer_counts c = counts_2x2(false);
    grace_seconds s = grace_layer_seconds(&c, &small, &slow);
    assert_true(s.intra == 5 && s.cross == 2 && s.latency == 3 * 10 + 10);
    gr_layer_counts_free(&c);
}

static void a_slow_node_is_what_the_others_wait_for(void **state) {
    (void)state;
    grace_layer_counts c = counts_2x2(true);
    grace_rates rates = slow;
    rates.n_nodes = 1;
    rates.nodes[0] = (grace_node_rate){0, 0, {10, 20}};
    grace_seconds s = grace_layer_seconds(&c, &small, &rates);
    assert_true(s.cross == 40 + 20 && s.latency == 4 * (20 + 1));
    rates.nodes[0].first = rates.nodes[0].last = 1;         /* as slow, at the other end of the same link */
    s = grace_layer_seconds(&c, &small, &rates);
    assert_true(s.cross == 40 + 20);
    rates.nodes[0].first = rates.nodes[0].last = 7;         /* not of this cluster */
    s = grace_layer_seconds(&c, &small, &rates);
    assert_true(s.cross == 6 && s.latency == 4 * 11);
    gr_layer_counts_free(&c);
}

static void one_rank_moves_nothing(void **state) {
    (void)state;
    grace_layer_counts c;
    assert_int_equal(gr_layer_counts_alloc((grace_cluster){1, 1}, false, &c), GRACE_OK);
    c.pairs[0] = 10, c.active[0] = 1;
    grace_seconds s = grace_layer_seconds(&c, &small, &slow);
    assert_true(s.total == s.experts && s.experts == 10 * 60 / 50.0);
    gr_layer_counts_free(&c);
}

static void the_fullest_rank_s_whole_sequences_make_the_dense_part(void **state) {
    (void)state;
    grace_batch prefill = grace_batch_prefill(5, 9), decode = grace_batch_decode(5, 9);     /* on 4 ranks: one has two sequences */
    assert_true(prefill.tokens == 45 && prefill.context == 5 && prefill.logits == 5);
    assert_true(grace_dense_seconds(&prefill, 4, &small, &slow).dense == (2 * 18 * (100 + 5 * 3) + 2 * 2 * 10) / 50.0);
    assert_true(grace_dense_seconds(&decode, 4, &small, &slow).dense == ((100 + 10) * 2 + 2 * 9 * 7 * 4) / 20.0);
    assert_true(grace_dense_seconds(&(grace_batch){0}, 4, &small, &slow).total == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(two_stages_wait_for_one_another),
        cmocka_unit_test(one_stage_takes_as_long_as_its_slower_kind_of_link),
        cmocka_unit_test(a_slow_node_is_what_the_others_wait_for),
        cmocka_unit_test(one_rank_moves_nothing),
        cmocka_unit_test(the_fullest_rank_s_whole_sequences_make_the_dense_part),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
