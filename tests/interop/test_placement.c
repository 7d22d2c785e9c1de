#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "interop/placement.h"
#include "interop/plans.h"
#include "plan/tables.h"

static grace_status plan_of(const int32_t *table, int32_t n_layers, int32_t n_slots, grace_cluster cluster, grace_plan **out) {
    gr_placement p = {0};
    grace_status st = gr_placement_of_table("t", table, n_layers, n_slots, grace_cluster_ranks(cluster), &p);
    if (!st) st = gr_placement_plan("t", &p, cluster, 0, out);
    gr_placement_free(&p);
    return st;
}

static void the_first_slot_of_an_expert_is_its_primary(void **state) {
    (void)state;
    const int32_t table[12] = {2, 0, 1, 2, 0, 1, /* layer 1 */ 1, 2, 0, 1, 2, 0};
    grace_plan *plan = NULL;
    assert_ok(plan_of(table, 2, 6, (grace_cluster){1, 3}, &plan));
    assert_true(plan->n_layers == 2 && plan->n_experts == 3 && plan->top_k == 1);
    assert_true(gr_plan_home(&plan->layers[0], 2) == 0 && gr_plan_home(&plan->layers[0], 1) == 1 && gr_plan_home(&plan->layers[1], 0) == 1);
    assert_int_equal(plan->layers[0].n_slots, 6);
    assert_true(plan->layers[0].poll_weight[0] == 0.5f);
    grace_plan_free(plan);
}

static void placements_that_no_plan_can_have_are_refused(void **state) {
    (void)state;
    static const int32_t hole[4] = {0, 1, 3, 0}, twice[4] = {0, 0, 1, 1}, far[2] = {0, GR_PLAN_EXPERTS_MAX}, fine[4] = {0, 1, 2, 3};
    grace_plan *plan = NULL;
    assert_failed(plan_of(hole, 1, 4, (grace_cluster){1, 2}, &plan), GRACE_ERR_FORMAT, "layer 0: no rank holds expert 2");
    assert_failed(plan_of(twice, 1, 4, (grace_cluster){1, 2}, &plan), GRACE_ERR_FORMAT, "layer 0: expert 0 is twice on rank 0");
    assert_failed(plan_of(far, 1, 2, (grace_cluster){1, 2}, &plan), GRACE_ERR_FORMAT, "expected experts 0 to 4095, found 4096");
    assert_failed(plan_of(fine, 1, 4, (grace_cluster){1, 3}, &plan), GRACE_ERR_MISMATCH, "4 slots cannot be shared equally by 3 ranks");
    assert_failed(plan_of(fine, 1, 4, (grace_cluster){1, 0}, &plan), GRACE_ERR_ARG, "expected 1 to 8192 ranks, found 0");
    gr_placement p = {0};
    assert_ok(gr_placement_of_table("t", fine, 1, 4, 2, &p));
    assert_failed(gr_placement_plan("t", &p, (grace_cluster){2, 2}, 1, &plan), GRACE_ERR_MISMATCH, "the placement is for 2 ranks, node:2 gpu:2 has 4");
    assert_failed(gr_placement_plan("t", &p, (grace_cluster){1, 2}, 5, &plan), GRACE_ERR_ARG, "top-5 of 4 experts");
    gr_placement_free(&p);
    assert_null(plan);
}

static void uneven_slots_are_named(void **state) {
    (void)state;
    grace_plan *plan = contiguous(1, 8, (grace_cluster){1, 4}), *uneven = contiguous(1, 7, (grace_cluster){1, 4});
    int32_t n = 0;
    assert_ok(gr_slots_per_rank(plan, &n));
    assert_int_equal(n, 2);
    assert_failed(gr_slots_per_rank(uneven, &n), GRACE_ERR_MISMATCH, "rank 0 of layer 0 has 2, rank 3 of layer 0 has 1");
    grace_plan_free(plan), grace_plan_free(uneven);
}

static void maps_of_layers_ascend_and_fit(void **state) {
    (void)state;
    int32_t ids[3], n = 0, up[3] = {1, 2, 5}, down[3] = {1, 5, 2};
    assert_ok(gr_layer_map_ids(&(gr_layer_map){.n_model_layers = 3}, NULL, 3, ids, &n));
    assert_true(n == 3 && ids[0] == 0 && ids[2] == 2);
    assert_ok(gr_layer_map_ids(&(gr_layer_map){.n_model_layers = 5}, NULL, 3, ids, &n));
    assert_true(n == 5 && ids[0] == 2 && ids[2] == 4);          /* dense layers come first in the models we know */
    assert_ok(gr_layer_map_ids(&(gr_layer_map){.n_model_layers = 6, .model_layer = up}, NULL, 3, ids, &n));
    assert_true(n == 6 && ids[2] == 5);
    assert_failed(gr_layer_map_ids(&(gr_layer_map){.n_model_layers = 5, .model_layer = up}, NULL, 3, ids, &n), GRACE_ERR_ARG, "layer 2 of the plan is layer 5");
    assert_failed(gr_layer_map_ids(&(gr_layer_map){.n_model_layers = 6, .model_layer = down}, NULL, 3, ids, &n), GRACE_ERR_ARG, "expected 6 to 5");
    assert_failed(gr_layer_map_ids(&(gr_layer_map){.n_model_layers = 2}, NULL, 3, ids, &n), GRACE_ERR_ARG, "a model of 2 layers, a plan of 3");
}

static void layers_that_nobody_numbered_are_not_guessed(void **state) {
    (void)state;
    int32_t ids[3] = {7, 7, 7}, n = 7;
    static const int32_t given[3] = {1, 2, 5};
    assert_failed(gr_layer_map_ids(NULL, NULL, 3, ids, &n), GRACE_ERR_ARG, "which layers of the model these 3 are is not known: expected --model-layers N");
    assert_failed(gr_layer_map_ids(&(gr_layer_map){0}, NULL, 3, ids, &n), GRACE_ERR_ARG, "--model-layers N");
    assert_true(ids[0] == 7 && n == 7);
    assert_ok(gr_layer_map_ids(&(gr_layer_map){.model_layer = given}, NULL, 3, ids, &n));
    assert_true(n == 6 && ids[2] == 5);
}

static void what_a_plan_says_of_its_layers_is_used_and_not_contradicted(void **state) {
    (void)state;
    int32_t ids[3], n = 0;
    const int32_t known[3] = {1, 2, 5}, others[3] = {1, 2, 4};
    assert_ok(gr_layer_map_ids(NULL, known, 3, ids, &n));
    assert_true(n == 6 && ids[0] == 1 && ids[2] == 5);
    assert_ok(gr_layer_map_ids(&(gr_layer_map){.n_model_layers = 8}, known, 3, ids, &n));
    assert_true(n == 8 && ids[2] == 5);                         /* the model ends with two dense layers */
    assert_ok(gr_layer_map_ids(&(gr_layer_map){.model_layer = known}, known, 3, ids, &n));
    assert_failed(gr_layer_map_ids(&(gr_layer_map){.n_model_layers = 5}, known, 3, ids, &n), GRACE_ERR_ARG,
                  "a model of 5 layers, but the plan is for layers 1-2 5 of it");
    assert_failed(gr_layer_map_ids(&(gr_layer_map){.model_layer = others}, known, 3, ids, &n), GRACE_ERR_MISMATCH, "layers 1-2 5 of its model");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_first_slot_of_an_expert_is_its_primary),
        cmocka_unit_test(placements_that_no_plan_can_have_are_refused),
        cmocka_unit_test(uneven_slots_are_named),
        cmocka_unit_test(maps_of_layers_ascend_and_fit),
        cmocka_unit_test(layers_that_nobody_numbered_are_not_guessed),
        cmocka_unit_test(what_a_plan_says_of_its_layers_is_used_and_not_contradicted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
