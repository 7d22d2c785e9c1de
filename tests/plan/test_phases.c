/* Copies that rest in decode steps (src/plan/phases.c): what a decode step sees, and that the search saves what it says. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>

#include "plan/bundle.h"
#include "plan/phases.h"
#include "plan/plan_claims.h"
#include "plan/step_time.h"
#include "support/random_plan.h"

enum { LAYERS = 2, N = 10, K = 3, SETS = 40 };

static grace_rates rates;
static grace_shape shape;

/* ---- what a decode step sees ---- */

static void claim_view(const grace_plan *plan, const grace_plan *view, int32_t l, uint64_t seed) {
    const grace_plan_layer *pl = &plan->layers[l], *seen = &view->layers[l];
    claim(seen->n_slots == pl->n_slots && seen->rank_of_slot == pl->rank_of_slot && seen->poll_weight == pl->poll_weight, seed);
    for (int32_t e = 0; e < plan->n_experts; e++) {
        int32_t at = seen->slots_first[e];
        for (int32_t i = pl->slots_first[e]; i < pl->slots_first[e + 1]; i++)
            if (!pl->serve_decode || pl->serve_decode[pl->slots_of_expert[i]]) claim(seen->slots_of_expert[at++] == pl->slots_of_expert[i], seed);
        claim(at == seen->slots_first[e + 1] && at > seen->slots_first[e], seed);
    }
}

static void a_decode_step_sees_the_copies_that_serve_in_their_order(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        gr_random_plan_options how = {LAYERS, N, K, {between(&rng, 1, 3), between(&rng, 1, 3)}, 0.5, 0.2};
        grace_plan *plan = gr_random_plan(&how, &rng), *view = NULL;
        claim(!gr_plan_has_decode(plan), seed);
        gr_random_decode(plan, 0.6, &rng);
        claim(gr_plan_has_decode(plan) == (plan->layers[0].serve_decode || plan->layers[1].serve_decode), seed);
        claim(gr_plan_of_decode(plan, &view) == GRACE_OK, seed);
        for (int32_t l = 0; l < LAYERS; l++) claim_view(plan, view, l, seed);
        grace_plan_free(view);
        grace_plan_free(plan);
    }
}

/* ---- the search ---- */

static grace_bundles random_bundles(gr_rng *rng) {
    grace_bundles b = {LAYERS, N, K, calloc(LAYERS, sizeof *b.layers)};
    for (int32_t l = 0; l < LAYERS; l++) {
        gr_bundle_layer *layer = &b.layers[l];
        *layer = (gr_bundle_layer){.n = SETS, .experts = calloc((size_t)SETS * K, sizeof *layer->experts), .count = new_ints(SETS)};
        for (int32_t i = 0; i < SETS; i++) {
            for (int32_t e = 0, j = 0; e < N && j < K; e++)
                if ((int32_t)gr_rng_below(rng, (uint32_t)(N - e)) < K - j) layer->experts[i * K + j++] = (uint16_t)e;
            layer->n_tokens += layer->count[i] = between(rng, 1, 9);
        }
    }
    return b;
}

static void bundles_drop(grace_bundles *b) {
    for (int32_t l = 0; l < LAYERS; l++) free(b->layers[l].experts), free(b->layers[l].count);
    free(b->layers);
}

static grace_prediction predict(const grace_plan *plan, const grace_bundles *b, double n_tokens) {
    grace_batch batch = grace_batch_decode(n_tokens, 100);
    grace_prediction p;
    assert_int_equal(grace_plan_predict(plan, b, &shape, &rates, &batch, &p), GRACE_OK);
    return p;
}

/* Serving everywhere or at one place, each expert's copy by its number's digits: all tables of a small plan. */
static double best_of_all_tables(const grace_plan *plan, const grace_bundles *b, double n_tokens) {
    grace_plan *view = NULL;
    const grace_plan_layer *pl = &plan->layers[0];
    bool serves[64], *kept = pl->serve_decode;
    double best = INFINITY;
    for (int32_t mask = 0; mask < 1 << pl->n_slots; mask++) {
        bool each = true;
        for (int32_t s = 0; s < pl->n_slots; s++) serves[s] = mask >> s & 1;
        for (int32_t e = 0; e < plan->n_experts; e++) {
            bool one = false;
            for (int32_t i = pl->slots_first[e]; i < pl->slots_first[e + 1]; i++) one = one || serves[pl->slots_of_expert[i]];
            each = each && one;
        }
        if (!each) continue;
        plan->layers[0].serve_decode = serves;
        assert_int_equal(gr_plan_of_decode(plan, &view), GRACE_OK);
        best = fmin(best, predict(view, b, n_tokens).step.total);
        grace_plan_free(view);
    }
    plan->layers[0].serve_decode = kept;
    return best;
}

static void a_table_never_costs_time_and_is_the_same_again(void **state) {
    (void)state;
    int32_t tables = 0;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        gr_random_plan_options how = {LAYERS, N, K, {between(&rng, 1, 2), between(&rng, 1, 3)}, 0.5, 0};
        grace_plan *plan = gr_random_plan(&how, &rng), *view = NULL, *again = NULL;
        grace_bundles b = random_bundles(&rng);
        double n_tokens = between(&rng, 1, 500);
        claim(gr_plan_choose_decode(plan, &b, &shape, &rates, n_tokens) == GRACE_OK, seed);
        claim(gr_plan_of_decode(plan, &view) == GRACE_OK, seed);
        grace_prediction before = predict(plan, &b, n_tokens), after = predict(view, &b, n_tokens);
        claim(gr_plan_has_decode(plan) ? after.step.total < before.step.total : after.step.total == before.step.total, seed);
        tables += gr_plan_has_decode(plan);
        claim(gr_plan_choose_decode(plan, &b, &shape, &rates, n_tokens) == GRACE_OK && gr_plan_of_decode(plan, &again) == GRACE_OK, seed);
        for (int32_t l = 0; l < LAYERS; l++) claim(same_layers(&view->layers[l], &again->layers[l], N, grace_cluster_ranks(how.cluster)), seed);
        grace_plan_free(again), grace_plan_free(view), grace_plan_free(plan);
        bundles_drop(&b);
    }
    assert_true(tables > 10);
}

/* Prefill goes by the plan without the table, which is what it was. */
static void a_table_changes_nothing_else_of_a_plan(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 10; seed++) {
        gr_rng rng = gr_rng_seed(seed), again = rng;
        gr_random_plan_options how = {LAYERS, N, K, {2, 2}, 0.5, 0};
        grace_plan *plan = gr_random_plan(&how, &rng), *before = gr_random_plan(&how, &again);
        grace_bundles b = random_bundles(&rng);
        claim(gr_plan_choose_decode(plan, &b, &shape, &rates, 64) == GRACE_OK && gr_plan_has_decode(plan), seed);
        for (int32_t l = 0; l < LAYERS; l++) plan->layers[l].serve_decode = NULL;
        claim(same_plans(plan, before), seed);
        grace_plan_free(before), grace_plan_free(plan);
        bundles_drop(&b);
    }
}

static void a_table_is_close_to_the_best_of_all(void **state) {
    (void)state;
    double found = 0, best = 0, all = 0;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        gr_random_plan_options how = {1, 6, K, {2, 1}, 0.7, 0};
        grace_plan *plan = gr_random_plan(&how, &rng), *view = NULL;
        grace_bundles b = random_bundles(&rng);
        grace_shape kept = shape;
        shape.n_layers = shape.n_moe_layers = 1, shape.n_experts = 6, b.n_layers = 1, b.n_experts = 6;
        for (int32_t i = 0; i < SETS; i++)
            for (int32_t j = 0; j < K; j++) b.layers[0].experts[i * K + j] = (uint16_t)((b.layers[0].experts[i * K] % 4) + j);
        claim(gr_plan_choose_decode(plan, &b, &shape, &rates, 64) == GRACE_OK && gr_plan_of_decode(plan, &view) == GRACE_OK, seed);
        double mine = predict(view, &b, 64).step.total, least = best_of_all_tables(plan, &b, 64);
        claim(least <= mine * (1 + 1e-12), seed);
        found += mine, best += least, all += predict(plan, &b, 64).step.total;
        shape = kept, b.n_layers = LAYERS;
        grace_plan_free(view), grace_plan_free(plan);
        bundles_drop(&b);
    }
    print_message("decode step: all copies %.4f ms, found %.4f, best %.4f\n", 1e3 * all, 1e3 * found, 1e3 * best);
    assert_true(found - best <= 0.2 * (all - best));
}

/* One rank's copy of everything: nothing to save where weights cost nothing, everything where rows do not. */
static void copies_rest_where_weights_cost_and_serve_where_rows_do(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(3);
    gr_random_plan_options how = {LAYERS, N, K, {2, 1}, 1, 0};
    grace_plan *plan = gr_random_plan(&how, &rng);
    grace_bundles b = random_bundles(&rng);
    grace_rates kept = rates;
    rates.memory_bytes_s = 1e30, rates.flop_s = 1e30;
    assert_int_equal(gr_plan_choose_decode(plan, &b, &shape, &rates, 64), GRACE_OK);
    assert_false(gr_plan_has_decode(plan));
    rates = kept;
    rates.cross = rates.intra = (grace_link_rate){1e30, 0};
    assert_int_equal(gr_plan_choose_decode(plan, &b, &shape, &rates, 500), GRACE_OK);
    for (int32_t l = 0; l < LAYERS; l++) {
        int32_t serving[2] = {0};
        assert_non_null(plan->layers[l].serve_decode);
        for (int32_t s = 0; s < plan->layers[l].n_slots; s++) serving[plan->layers[l].rank_of_slot[s]] += plan->layers[l].serve_decode[s];
        assert_true(serving[0] == N / 2 && serving[1] == N / 2);
    }
    rates = kept;
    grace_plan_free(plan);
    bundles_drop(&b);
}

static int load_rates(void **state) {
    (void)state;
    shape = grace_shape_assumed(LAYERS, N, K);
    return grace_rates_load("h200-25g", &rates);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_decode_step_sees_the_copies_that_serve_in_their_order),
        cmocka_unit_test(a_table_never_costs_time_and_is_the_same_again),
        cmocka_unit_test(a_table_changes_nothing_else_of_a_plan),
        cmocka_unit_test(a_table_is_close_to_the_best_of_all),
        cmocka_unit_test(copies_rest_where_weights_cost_and_serve_where_rows_do),
    };
    return cmocka_run_group_tests(tests, load_rates, NULL);
}
