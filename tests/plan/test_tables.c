#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "plan/plan_claims.h"

static void contiguous_puts_expert_e_on_rank_e_times_d_over_n(void **state) {
    (void)state;
    for (int32_t n = 1; n <= 20; n++)
        for (int32_t d = 1; d <= n; d++) {
            grace_plan *plan = NULL;
            assert_int_equal(grace_plan_contiguous(2, n, 1, (grace_cluster){1, d}, &plan), GRACE_OK);
            claim_plan(plan, (uint64_t)(100 * n + d));
            assert_int_equal(plan->layers[1].n_slots, n);
            for (int32_t e = 0; e < n; e++) assert_int_equal(gr_plan_home(&plan->layers[1], e), e * d / n);
            for (int32_t r = 0; r < d; r++) assert_in_range(plan->layers[0].first_slot[r + 1] - plan->layers[0].first_slot[r], n / d, (n + d - 1) / d);
            assert_string_equal(plan->planner, "contiguous");
            grace_plan_free(plan);
        }
}

static void limits_name_both_numbers_and_touch_no_output(void **state) {
    (void)state;
    grace_plan *plan = NULL;
    assert_int_equal(grace_plan_contiguous(1, 3, 1, (grace_cluster){2, 2}, &plan), GRACE_ERR_LIMIT);
    assert_non_null(strstr(grace_last_error(), "4 ranks for 3 experts"));
    assert_int_equal(grace_plan_contiguous(1, 5000, 1, (grace_cluster){2, 2}, &plan), GRACE_ERR_LIMIT);
    assert_non_null(strstr(grace_last_error(), "5000 experts, the limit is 4096"));
    assert_int_equal(grace_plan_contiguous(5000, 8, 1, (grace_cluster){2, 2}, &plan), GRACE_ERR_LIMIT);
    assert_int_equal(grace_plan_contiguous(1, 2000, 1, (grace_cluster){9, 1000}, &plan), GRACE_ERR_LIMIT);
    assert_null(plan);
}

static void numbers_that_cannot_be_are_refused(void **state) {
    (void)state;
    grace_plan *plan = NULL;
    const grace_cluster ok = {1, 2};
    assert_int_equal(grace_plan_contiguous(0, 8, 2, ok, &plan), GRACE_ERR_ARG);
    assert_int_equal(grace_plan_contiguous(1, 0, 2, ok, &plan), GRACE_ERR_ARG);
    assert_int_equal(grace_plan_contiguous(1, -8, 2, ok, &plan), GRACE_ERR_ARG);
    assert_int_equal(grace_plan_contiguous(1, 8, 0, ok, &plan), GRACE_ERR_ARG);
    assert_int_equal(grace_plan_contiguous(1, 8, 9, ok, &plan), GRACE_ERR_ARG);
    assert_int_equal(grace_plan_contiguous(1, 8, 2, (grace_cluster){0, 2}, &plan), GRACE_ERR_ARG);
    assert_int_equal(grace_plan_contiguous(1, 8, 2, (grace_cluster){1, -2}, &plan), GRACE_ERR_ARG);
    assert_null(plan);
    grace_plan_free(NULL);
}

/* Tiny world: 4 ranks, experts 0 1 | 2 3 | 4 5 | 6 7, expert 6 also on ranks 0 and 2, expert 3 on rank 0. */
static void slots_by_hand(void **state) {
    (void)state;
    grace_plan *plan = NULL;
    const int32_t rank_of[8] = {0, 0, 1, 1, 2, 2, 3, 3};
    const gr_copy copies[3] = {{6, 2}, {6, 0}, {3, 0}};
    const int32_t experts[11] = {0, 1, 3, 6, 2, 3, 4, 5, 6, 6, 7}, first[5] = {0, 4, 6, 9, 11}, slots_of_6[3] = {9, 3, 8}, slots_of_3[2] = {5, 2};
    assert_int_equal(gr_plan_new(1, 8, 2, (grace_cluster){2, 2}, &plan), GRACE_OK);
    assert_int_equal(gr_plan_place(plan, 0, rank_of, copies, 3), GRACE_OK);
    const grace_plan_layer *pl = &plan->layers[0];
    assert_int_equal(pl->n_slots, 11);
    assert_memory_equal(pl->expert_of_slot, experts, sizeof experts);
    assert_memory_equal(pl->first_slot, first, sizeof first);
    assert_memory_equal(pl->slots_of_expert + pl->slots_first[6], slots_of_6, sizeof slots_of_6);
    assert_memory_equal(pl->slots_of_expert + pl->slots_first[3], slots_of_3, sizeof slots_of_3);
    assert_true(pl->poll_weight[9] == 1.0f / 3 && pl->poll_weight[5] == 0.5f && pl->poll_weight[0] == 1);
    grace_plan_free(plan);
}

static void weights_are_inverse_to_predicted_loads(void **state) {
    (void)state;
    grace_plan *plan = NULL;
    const int32_t rank_of[2] = {0, 1};
    const gr_copy copies[1] = {{0, 1}};
    assert_int_equal(gr_plan_new(1, 2, 1, (grace_cluster){1, 2}, &plan), GRACE_OK);
    assert_int_equal(gr_plan_place(plan, 0, rank_of, copies, 1), GRACE_OK);
    plan->layers[0].load_after[0] = 10;
    plan->layers[0].load_after[1] = 30;
    gr_plan_weigh(plan, 0);
    assert_true(plan->layers[0].poll_weight[0] == 0.75f);       /* expert 0 on rank 0 */
    assert_true(plan->layers[0].poll_weight[1] == 1);           /* expert 1, primary of rank 1 */
    assert_true(plan->layers[0].poll_weight[2] == 0.25f);       /* the copy */
    grace_plan_free(plan);
}

static void random_placements_keep_every_rule(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        int32_t n = between(&rng, 1, 24), rank_of[24], n_copies = 0;
        grace_plan *plan = NULL;
        claim(gr_plan_new(2, n, 1, (grace_cluster){between(&rng, 1, 3), between(&rng, 1, 3)}, &plan) == GRACE_OK, seed);
        for (int32_t l = 0; l < 2; l++) claim(place_at_random(&rng, plan, l, 0.3, rank_of) == GRACE_OK, seed);
        claim_plan(plan, seed);
        for (int32_t e = 0; e < n; e++) {
            claim(gr_plan_home(&plan->layers[1], e) == rank_of[e], seed);
            n_copies += plan->layers[1].slots_first[e + 1] - plan->layers[1].slots_first[e] - 1;
        }
        claim(plan->layers[1].n_slots == n + n_copies, seed);
        grace_plan_free(plan);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(contiguous_puts_expert_e_on_rank_e_times_d_over_n),
        cmocka_unit_test(limits_name_both_numbers_and_touch_no_output),
        cmocka_unit_test(numbers_that_cannot_be_are_refused),
        cmocka_unit_test(slots_by_hand),
        cmocka_unit_test(weights_are_inverse_to_predicted_loads),
        cmocka_unit_test(random_placements_keep_every_rule),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
