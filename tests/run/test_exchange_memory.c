/* What an exchange between GPUs says that it takes of their memory, against docs/exchange-gpu.md. No GPU is needed: it is known before one opens. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "run/exchange.h"
#include "support/random_plan.h"

enum { MIB = 1 << 20 };

static const gr_compute_ops on_gpus = {.name = "none", .element = 2, .packs = true};
static const gr_compute compute = {&on_gpus};
static grace_plan *plan;        /* its layers and slots take a few KiB */

static gr_comm ranks(int32_t n_nodes, int32_t n_gpus) { return (gr_comm){.n_ranks = n_nodes * n_gpus, .n_nodes = n_nodes, .gpus_per_node = n_gpus}; }

static gr_exchange_options options(grace_exchange kind) {
    return (gr_exchange_options){.kind = kind, .n_rows_max = 8192, .n_slots_max = 64, .top_k = 8, .hidden = 2048, .plan = plan, .turns_from = 1024};
}

static int64_t bytes_of(gr_comm world, const gr_exchange_options *opt) {
    int64_t bytes = -1;
    assert_int_equal(gr_exchange_memory(&world, &compute, opt, &bytes), GRACE_OK);
    return bytes;
}

static bool is_near(int64_t expected, int64_t found) { return found >= expected && found < expected + MIB; }

static void in_a_node_it_is_areas_and_results(void **state) {
    (void)state;
    const int64_t p = 4, s = 8192, k = 8, h = 2048;
    gr_exchange_options opt = options(GRACE_EXCHANGE_HSC);
    opt.turns_from = 0;
    const int64_t rows = p * s * (2 * h + 12 * k), results = s * k * p * 2 * h;
    assert_true(is_near(rows + 2 * p * s * h + results, bytes_of(ranks(1, 4), &opt)));
    opt.exact = true;
    assert_true(is_near(rows + 2 * s * k * h + results, bytes_of(ranks(1, 4), &opt)));
    opt.n_rows_max = 4096;
    assert_true(is_near((rows + 2 * s * k * h + results) / 2, bytes_of(ranks(1, 4), &opt)));
}

static void turns_in_a_node_take_their_part_of_everything_again(void **state) {
    (void)state;
    const gr_exchange_options two = options(GRACE_EXCHANGE_HSC);
    gr_exchange_options one = two;
    one.turns_from = 0;
    const int64_t first = bytes_of(ranks(1, 4), &one), second = bytes_of(ranks(1, 4), &two) - first;
    assert_true(second > first / 2 && second < first * 5 / 8);      /* half of the rows, and a sixteenth: the cut need not be in the middle */
    gr_exchange_options few = two, few_in_one = one;
    few.n_rows_max = few_in_one.n_rows_max = 8191;                  /* no step can be cut */
    assert_int_equal(bytes_of(ranks(1, 4), &few), bytes_of(ranks(1, 4), &few_in_one));
}

/* Unless rows are named: as if 1024 were, but a node of two has no halves. */
static void a_node_of_two_keeps_steps_whole_unless_told(void **state) {
    (void)state;
    gr_exchange_options named = options(GRACE_EXCHANGE_HSC), never = named, automatic = named;
    never.turns_from = 0, automatic.turns_from = -1;
    assert_int_equal(bytes_of(ranks(1, 4), &automatic), bytes_of(ranks(1, 4), &named));
    assert_int_equal(bytes_of(ranks(2, 1), &automatic), bytes_of(ranks(2, 1), &named));
    assert_int_equal(bytes_of(ranks(1, 2), &automatic), bytes_of(ranks(1, 2), &never));
    assert_true(bytes_of(ranks(1, 2), &named) > bytes_of(ranks(1, 2), &never));
}

static void alone_it_is_rows_and_results(void **state) {
    (void)state;
    gr_exchange_options opt = options(GRACE_EXCHANGE_HSC);
    assert_int_equal(bytes_of(ranks(1, 1), &opt), (int64_t)8192 * 9 * 2048 * 2);
}

static void what_crosses_nodes_and_its_turns_and_packing_come_on_top(void **state) {
    (void)state;
    const gr_comm world = ranks(2, 2);
    gr_exchange_options opt = options(GRACE_EXCHANGE_HSC), plain = opt, one = opt, each = options(GRACE_EXCHANGE_PER_EXPERT);
    opt.compress = true;
    one.turns_from = 0;
    const int64_t lane = bytes_of(world, &one) - (int64_t)8192 * 8 * 4 * 2048 * 2, second = bytes_of(world, &plain) - bytes_of(world, &one);
    assert_true(second > lane / 2 && second < lane * 5 / 8);
    assert_true(bytes_of(world, &opt) > bytes_of(world, &plain) + (int64_t)8192 * 2048 * 2 * 2);    /* packed rows of a wire, there and back */
    assert_true(bytes_of(world, &each) > 2 * bytes_of(world, &plain));
}

static void more_rows_than_its_lists_can_count_are_refused_at_once(void **state) {
    (void)state;
    gr_comm world = ranks(4, 4);
    gr_exchange_options opt = options(GRACE_EXCHANGE_HSC);
    int64_t bytes;
    opt.n_rows_max = 1 << 24;
    assert_int_equal(gr_exchange_memory(&world, &compute, &opt, &bytes), GRACE_ERR_LIMIT);
    assert_non_null(strstr(grace_last_error(), "--batch-tokens"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_a_node_it_is_areas_and_results),
        cmocka_unit_test(turns_in_a_node_take_their_part_of_everything_again),
        cmocka_unit_test(a_node_of_two_keeps_steps_whole_unless_told),
        cmocka_unit_test(alone_it_is_rows_and_results),
        cmocka_unit_test(what_crosses_nodes_and_its_turns_and_packing_come_on_top),
        cmocka_unit_test(more_rows_than_its_lists_can_count_are_refused_at_once),
    };
    gr_rng rng = gr_rng_seed(1);
    const gr_random_plan_options shape = {.n_layers = 2, .n_experts = 8, .top_k = 2, .cluster = {1, 1}};
    plan = gr_random_plan(&shape, &rng);
    gr_exchange_options opt = options(GRACE_EXCHANGE_HSC);
    const bool has_gpus = bytes_of(ranks(1, 2), &opt) > 0;
    if (!has_gpus) puts("skipped: built without CUDA");
    const int failed = has_gpus ? cmocka_run_group_tests(tests, NULL, NULL) : 0;
    grace_plan_free(plan);
    return failed;
}
