/* Prices of what is no expert parallelism between nodes (sim/others.c), where they can be known. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>

#include "grace/sim.h"

typedef struct world { grace_routing *routing; grace_shape shape; grace_rates rates; } world;

static world open_made_up(int32_t n_layers, int32_t n_experts, int32_t top_k) {
    grace_synthetic how = {.n_layers = n_layers, .n_experts = n_experts, .top_k = top_k, .seed = 3};
    world w = {.shape = grace_shape_assumed(n_layers, n_experts, top_k)};
    assert_int_equal(grace_routing_made_up(&how, &w.routing), GRACE_OK);
    assert_int_equal(grace_rates_load("h200-25g", &w.rates), GRACE_OK);
    return w;
}

static world open_world(void) { return open_made_up(4, 16, 2); }

static void on_one_node_pipeline_and_replicas_are_that_node(void **state) {
    (void)state;
    world w = open_world();
    grace_workload load = {.sequences = 8, .prefill = 32, .decode = 4};
    grace_other_price p[GRACE_N_OTHERS];
    assert_int_equal(grace_price_others(w.routing, (grace_cluster){1, 4}, &load, &w.shape, &w.rates, p), GRACE_OK);
    const grace_other_price *one = &p[GRACE_OTHER_REPLICATE_NODE], *pipe = &p[GRACE_OTHER_PIPELINE_NODES];
    assert_true(pipe->micro_prefill == 1 && pipe->micro_decode == 1);
    assert_true(fabs(pipe->prefill_s - one->prefill_s) < 1e-12 && fabs(pipe->decode_s - one->decode_s) < 1e-12);
    grace_routing_free(w.routing);
}

/* Replicas send nothing between nodes, a pipeline one row a token and boundary, tensor parallelism two sums a layer. */
static void a_wire_ten_times_slower_costs_each_what_it_sends(void **state) {
    (void)state;
    world w = open_world();
    grace_workload load = {.sequences = 16, .prefill = 64, .decode = 4};
    grace_other_price fast[GRACE_N_OTHERS], slow[GRACE_N_OTHERS];
    double row = w.shape.hidden * 2.0, tokens = 16 * 64;
    assert_int_equal(grace_price_others(w.routing, (grace_cluster){2, 2}, &load, &w.shape, &w.rates, fast), GRACE_OK);
    w.rates.cross.bytes_s /= 10;
    assert_int_equal(grace_price_others(w.routing, (grace_cluster){2, 2}, &load, &w.shape, &w.rates, slow), GRACE_OK);
    assert_true(slow[GRACE_OTHER_REPLICATE_NODE].prefill_s == fast[GRACE_OTHER_REPLICATE_NODE].prefill_s);
    double more = 9 / 3.125e9 * row * tokens;
    assert_true(fabs(slow[GRACE_OTHER_TENSOR].prefill_s - fast[GRACE_OTHER_TENSOR].prefill_s - 2 * w.shape.n_layers * more) < 1e-9);
    double pipe = slow[GRACE_OTHER_PIPELINE_NODES].prefill_s - fast[GRACE_OTHER_PIPELINE_NODES].prefill_s;
    assert_true(pipe > more && pipe < 4 * more);        /* at best each row once a boundary, and the pipeline's fill */
    grace_routing_free(w.routing);
}

static void memory_is_the_model_split_as_each_splits_it(void **state) {
    (void)state;
    world w = open_world();
    grace_workload load = {.sequences = 4, .prefill = 4, .decode = 1};
    grace_other_price p[GRACE_N_OTHERS];
    double experts = 2 * 3.0 * w.shape.hidden * w.shape.expert_width * 16 * 4, dense = 2 * w.shape.dense_params, head = 2 * w.shape.head_params;
    assert_int_equal(grace_price_others(w.routing, (grace_cluster){2, 2}, &load, &w.shape, &w.rates, p), GRACE_OK);
    assert_true(p[GRACE_OTHER_REPLICATE_NODE].bytes_per_rank == experts / 2 + dense + 2 * head);
    assert_true(p[GRACE_OTHER_PIPELINE_NODES].bytes_per_rank == experts / 4 + dense / 2 + head);
    assert_true(p[GRACE_OTHER_TENSOR].bytes_per_rank == (experts + dense + 2 * head) / 4);
    grace_routing_free(w.routing);
}

/* Ranks beyond the experts hold none: the slowest of the others has what it has on a node of 5. */
static void a_node_with_more_ranks_than_experts_is_priced_too(void **state) {
    (void)state;
    world w = open_made_up(1, 5, 2);
    grace_workload load = {.sequences = 40, .prefill = 1};
    grace_other_price full[GRACE_N_OTHERS], spare[GRACE_N_OTHERS];
    w.rates.flop_s = 1;                                 /* nothing but experts counts */
    w.shape.dense_params = w.shape.head_params = w.shape.attention_values = 0;
    assert_int_equal(grace_price_others(w.routing, (grace_cluster){2, 5}, &load, &w.shape, &w.rates, full), GRACE_OK);
    assert_int_equal(grace_price_others(w.routing, (grace_cluster){2, 8}, &load, &w.shape, &w.rates, spare), GRACE_OK);
    double a = full[GRACE_OTHER_REPLICATE_NODE].prefill_s, b = spare[GRACE_OTHER_REPLICATE_NODE].prefill_s;
    assert_true(a > 0 && fabs(a - b) < 1e-9 * a);
    grace_routing_free(w.routing);
}

static void tokens_may_choose_any_number_of_experts(void **state) {
    (void)state;
    world w = open_made_up(1, 640, 320);
    grace_workload load = {.sequences = 2, .prefill = 1};
    grace_other_price p[GRACE_N_OTHERS];
    assert_int_equal(grace_price_others(w.routing, (grace_cluster){2, 2}, &load, &w.shape, &w.rates, p), GRACE_OK);
    grace_routing_free(w.routing);
}

static void a_shape_of_another_model_is_refused(void **state) {
    (void)state;
    world w = open_world();
    grace_workload load = {.sequences = 4, .prefill = 4, .decode = 1};
    grace_other_price p[GRACE_N_OTHERS];
    w.shape.n_experts = 8;
    assert_int_equal(grace_price_others(w.routing, (grace_cluster){2, 2}, &load, &w.shape, &w.rates, p), GRACE_ERR_MISMATCH);
    grace_routing_free(w.routing);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(on_one_node_pipeline_and_replicas_are_that_node),
        cmocka_unit_test(a_wire_ten_times_slower_costs_each_what_it_sends),
        cmocka_unit_test(memory_is_the_model_split_as_each_splits_it),
        cmocka_unit_test(a_node_with_more_ranks_than_experts_is_priced_too),
        cmocka_unit_test(tokens_may_choose_any_number_of_experts),
        cmocka_unit_test(a_shape_of_another_model_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
