#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "interop/plans.h"
#include "interop/trtllm.h"
#include "plan/tables.h"

static void the_file_looks_as_tensorrt_llm_wants_it(void **state) {
    (void)state;
    char *folder = scratch_new();
    grace_plan *plan = contiguous(2, 4, (grace_cluster){1, 2});
    assert_ok(gr_trtllm_plan_save(plan, &(gr_layer_map){.n_model_layers = 3}, 0, in(folder, "p.yaml")));
    assert_text(in(folder, "p.yaml"), "num_slots: 4\ninitial_global_assignments:\n  1: [0, 1, 2, 3]\n  2: [0, 1, 2, 3]\nlayer_updates_per_iter: 0\n");
    assert_ok(gr_plan_set_layer_ids(plan, (const int32_t[]){1, 4}));
    assert_ok(gr_trtllm_plan_save(plan, NULL, 0, in(folder, "p.yaml")));
    assert_text(in(folder, "p.yaml"), "num_slots: 4\ninitial_global_assignments:\n  1: [0, 1, 2, 3]\n  4: [0, 1, 2, 3]\nlayer_updates_per_iter: 0\n");
    assert_failed(gr_trtllm_plan_save(plan, &(gr_layer_map){.n_model_layers = 4}, 0, in(folder, "p.yaml")), GRACE_ERR_ARG, "layers 1 4 of it");
    assert_failed(gr_trtllm_plan_save(plan, NULL, -1, in(folder, "p.yaml")), GRACE_ERR_ARG, "expected 0 or more, found -1");
    grace_plan_free(plan);
    plan = contiguous(1, 7, (grace_cluster){1, 4});
    assert_failed(gr_trtllm_plan_save(plan, NULL, 0, in(folder, "p.yaml")), GRACE_ERR_MISMATCH, "as many slots on every rank");
    grace_plan_free(plan);
    scratch_free(folder);
}

static void what_is_saved_comes_back(void **state) {
    (void)state;
    char *folder = scratch_new();
    for (uint64_t seed = 1; seed <= 30; seed++) {
        grace_plan *plan = plan_with_equal_slots(seed), *back = NULL;
        assert_ok(gr_trtllm_plan_save(plan, &(gr_layer_map){.n_model_layers = plan->n_layers + 1}, 2, in(folder, "p.yaml")));
        assert_ok(gr_trtllm_plan_load(in(folder, "p.yaml"), plan->cluster, 2, &back));
        if (!same_holdings(plan, back)) fail_msg("seed %d", (int)seed);
        grace_plan_free(plan), grace_plan_free(back);
    }
    scratch_free(folder);
}

/* The three ways in which PyYAML may write the same lists. */
static void all_shapes_of_a_list_are_read(void **state) {
    (void)state;
    static const char *const texts[] = {
        "initial_global_assignments:\n  3: [0, 2, 1,\n    0]\n  4: [1, 0, 2, 2]\nlayer_updates_per_iter: 0\nnum_slots: 4\n",
        "ep_size: 2\ninitial_global_assignments:\n  3:\n  - 0\n  - 2\n  - 1\n  - 0\n  4:\n  - 1\n  - 0\n  - 2\n  - 2\nnum_slots: 4",
        "# ours\nnum_slots: 4\r\ninitial_global_assignments: # by layer\r\n    3: [0,2,1,0]\r\n\r\n    4: [ 1 , 0 , 2 , 2 ]\r\n",
    };
    static const int32_t expected[8] = {0, 2, 1, 0, 1, 0, 2, 2};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) {
        gr_placement p = {0};
        assert_ok(gr_trtllm_parse("t", texts[i], strlen(texts[i]), 2, &p));
        assert_true(p.n_layers == 2 && p.n_ranks == 2 && p.first[4] == 8 && p.first[1] == 2);
        assert_memory_equal(p.expert, expected, sizeof expected);
        gr_placement_free(&p);
    }
}

static void other_text_is_refused_with_its_line(void **state) {
    (void)state;
    static const struct { const char *text, *part; } cases[] = {
        {"", "expected num_slots and initial_global_assignments"},
        {"num_slots: 4\n", "expected num_slots and initial_global_assignments"},
        {"slots: 4\n", "line 1: expected num_slots, initial_global_assignments or layer_updates_per_iter, found 'slots: 4'"},
        {"num_slots: x\n", "line 1: expected a number of slots, found 'x'"},
        {"num_slots: 99999999999999999999\n", "expected a number of slots"},
        {"num_slots: 1\ninitial_global_assignments:\n", "expected layers and their experts, found ''"},
        {"num_slots: 1\ninitial_global_assignments:\n  0: 5\n", "line 3: expected a list of experts, found '5'"},
        {"num_slots: 1\ninitial_global_assignments:\n  0: [5\n", "expected ',' or ']'"},
        {"num_slots: 1\ninitial_global_assignments:\n  0: [,]\n", "expected an expert, found ',]'"},
        {"num_slots: 1\ninitial_global_assignments:\n  0: [4096]\n", "expected an expert"},
        {"num_slots: 1\ninitial_global_assignments:\n  0 [0]\n", "expected ':'"},
        {"num_slots: 1\ninitial_global_assignments:\n  1: [0]\n  0: [0]\n", "line 4: expected layers in ascending order"},
        {"num_slots: 1\ninitial_global_assignments:\n  0: [0]\n  1: [0, 1]\n", "layer 1 has 2 slots, others before it have more or less"},
        {"num_slots: 2\ninitial_global_assignments:\n  0: [0]\n", "num_slots is 2, layers have 1"},
        {"num_slots: 1\ninitial_global_assignments:\n  0: [0]\ninitial_global_assignments:\n  0: [0]\n", "once"},
    };
    gr_placement p = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_failed(gr_trtllm_parse("t", cases[i].text, strlen(cases[i].text), 1, &p), GRACE_ERR_FORMAT, cases[i].part);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_file_looks_as_tensorrt_llm_wants_it),
        cmocka_unit_test(what_is_saved_comes_back),
        cmocka_unit_test(all_shapes_of_a_list_are_read),
        cmocka_unit_test(other_text_is_refused_with_its_line),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
