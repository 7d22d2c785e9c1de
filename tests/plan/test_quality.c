#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "plan/plan_claims.h"
#include "plan/quality.h"
#include "plan/trace_cases.h"

/* Two experts on two nodes of one GPU, every token chooses one: half of the tokens are at home, three quarters of them want expert 0. */
static void a_plan_small_enough_to_check_by_hand(void **state) {
    (void)state;
    uint16_t experts[] = {0, 1};
    int32_t count[] = {75, 25};
    gr_bundle_layer layer = {.n = 2, .experts = experts, .count = count, .n_tokens = 100};
    grace_bundles bundles = {.n_layers = 1, .n_experts = 2, .top_k = 1, .layers = &layer};
    double load[] = {75, 25};
    grace_profile profile = {.info = {.n_layers = 1, .n_experts = 2, .top_k = 1}, .n_tokens = 100, .load = load};
    grace_plan *plan = NULL;
    gr_quality q;
    assert_int_equal(grace_plan_contiguous(1, 2, 1, (grace_cluster){2, 1}, &plan), GRACE_OK);
    for (int route = GRACE_ROUTE_PRIMARY; route <= GRACE_ROUTE_TAR; route++) {
        assert_int_equal(gr_quality_measure(plan, (grace_route)route, &bundles, &profile, &q), GRACE_OK);
        assert_true(fabs(q.rows.cross - 0.5) < 1e-12 && q.rows.intra == 0 && fabs(q.rows.flat_cross - 0.5) < 1e-12);
        assert_true(fabs(q.load - 1.5) < 1e-12 && fabs(q.load_worst - 1.5) < 1e-12);
        assert_true(fabs(q.load_std - 0.5) < 1e-12 && fabs(q.load_floor - 0.1) < 1e-12);
        assert_true(fabs(q.fullest - 1) < 1e-12 && fabs(q.total - 1) < 1e-12);
    }
    grace_plan_free(plan);
}

static void layers_count_alike_and_shapes_are_compared(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 10; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        trace_case c = {3, 12, 2, 4, 60, 2, 0.5};
        grace_trace *t = make_trace(&rng, &c);
        grace_bundles *b = NULL;
        grace_profile *p = NULL;
        grace_plan *plan = NULL, *other = NULL;
        grace_plan_options opt = grace_plan_defaults();
        gr_quality q;
        double cross = 0, worst = 0;
        claim(!grace_bundles_build(t, NULL, false, GRACE_BUNDLES_DEFAULT, &b) && !grace_profile_build(t, NULL, &p), seed);
        claim(grace_plan_build(p, (grace_cluster){2, 2}, &opt, &plan) == GRACE_OK && gr_quality_measure(plan, GRACE_ROUTE_WRR, b, p, &q) == GRACE_OK, seed);
        for (int32_t l = 0; l < 3; l++) {
            gr_shares s;
            gr_rows_cost rows;
            double load[4];
            claim(!gr_shares_build_for(plan, l, GRACE_ROUTE_WRR, &s) && !gr_cost_rows(&s, &b->layers[l], 2, &rows), seed);
            gr_cost_loads(&s, p->load + 12 * (size_t)l, load);
            cross += rows.cross / 3, worst = fmax(worst, gr_max_over_mean(load, 4));
            gr_shares_free(&s);
        }
        claim(fabs(q.rows.cross - cross) < 1e-9 && fabs(q.load_worst - worst) < 1e-12 && q.load <= q.load_worst + 1e-12, seed);
        claim(!grace_plan_contiguous(2, 12, 2, (grace_cluster){2, 2}, &other), seed);
        claim(gr_quality_measure(other, GRACE_ROUTE_TAR, b, p, &q) == GRACE_ERR_ARG, seed);
        grace_plan_free(plan), grace_plan_free(other), grace_bundles_free(b), grace_profile_free(p), grace_trace_close(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plan_small_enough_to_check_by_hand),
        cmocka_unit_test(layers_count_alike_and_shapes_are_compared),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
