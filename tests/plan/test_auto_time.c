#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "grace/sim.h"
#include "plan/budget.h"
#include "plan/plan_claims.h"
#include "plan/quality.h"
#include "plan/trace_cases.h"

typedef struct world { grace_trace *trace; grace_bundles *bundles; grace_profile *profile; grace_objective objective; grace_plan_options opt; } world;

/* Prefill, decode or both, on a slow, an ordinary and a fast wire. */
static void world_open(uint64_t seed, world *w) {
    static const char *const rates[] = {"h200-1g", "h200-25g", "h200-400g"};
    gr_rng rng = gr_rng_seed(seed);
    trace_case c = {3, 32, 4, 6, 120, 3, 0.3};
    *w = (world){.trace = make_trace(&rng, &c), .opt = grace_plan_defaults()};
    claim(!grace_bundles_build(w->trace, NULL, false, GRACE_BUNDLES_DEFAULT, &w->bundles) && !grace_profile_build(w->trace, NULL, &w->profile), seed);
    w->objective.shape = grace_shape_assumed(3, 32, 4);
    claim(grace_rates_load(rates[seed % 3], &w->objective.rates) == GRACE_OK, seed);
    if (seed % 4 != 1) w->objective.steps[w->objective.n_steps++] = (grace_objective_step){grace_batch_prefill(64, 64), 1};
    if (seed % 4 != 2) w->objective.steps[w->objective.n_steps++] = (grace_objective_step){grace_batch_decode(32, 64), 16};
    w->opt.planner = GRACE_PLANNER_AUTO, w->opt.bundles = w->bundles, w->opt.objective = &w->objective;
}

static void world_close(world *w) { grace_bundles_free(w->bundles), grace_profile_free(w->profile), grace_trace_close(w->trace); }

static double seconds_of(const world *w, const grace_plan *plan) {
    double s = 0;
    if (grace_plan_seconds(plan, w->bundles, &w->objective, &s)) fail_msg("%s", grace_last_error());
    return s;
}

static void no_planner_that_fits_is_faster(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        grace_cluster cluster = seed % 2 ? (grace_cluster){2, 2} : (grace_cluster){4, 2};
        world w;
        grace_plan *ours = NULL;
        int64_t slots;
        int32_t n_met = 0;
        world_open(seed, &w);
        w.opt.memory = (double[]){1, 1.25, 2, 4}[seed % 4];
        claim(grace_plan_build(w.profile, cluster, &w.opt, &ours) == GRACE_OK && gr_slot_budget(w.profile, cluster, &w.opt, &slots) == GRACE_OK, seed);
        claim_plan(ours, seed);
        claim(gr_fullest_rank(ours) <= slots, seed);
        for (int planner = 0; planner < GRACE_N_PLANNERS; planner++) {
            grace_plan_options opt = w.opt;
            grace_plan *other = NULL;
            opt.planner = (grace_planner)planner, opt.objective = NULL;
            grace_status st = grace_plan_build(w.profile, cluster, &opt, &other);
            claim(!st || st == GRACE_ERR_LIMIT, seed);
            if (!st && gr_fullest_rank(other) <= slots) {
                claim(seconds_of(&w, ours) <= seconds_of(&w, other) * (1 + 1e-9), seed);
                n_met++;
            }
            grace_plan_free(other);
        }
        claim(n_met >= 4, seed);
        grace_plan_free(ours);
        world_close(&w);
    }
}

static void with_memory_for_it_nothing_crosses_a_slow_wire(void **state) {
    (void)state;
    world w;
    grace_plan *plan = NULL;
    gr_quality q;
    world_open(3, &w);              /* 1 Gbit/s */
    w.opt.memory = 2;
    assert_int_equal(grace_plan_build(w.profile, (grace_cluster){2, 2}, &w.opt, &plan), GRACE_OK);
    assert_int_equal(gr_quality_measure(plan, GRACE_ROUTE_TAR, w.bundles, w.profile, &q), GRACE_OK);
    assert_true(q.rows.cross == 0);
    grace_plan_free(plan);
    world_close(&w);
}

static void the_same_options_give_the_same_plan(void **state) {
    (void)state;
    world w;
    grace_plan *a = NULL, *b = NULL;
    world_open(5, &w);
    w.opt.memory = 1.25;
    assert_int_equal(grace_plan_build(w.profile, (grace_cluster){2, 2}, &w.opt, &a), GRACE_OK);
    assert_int_equal(grace_plan_build(w.profile, (grace_cluster){2, 2}, &w.opt, &b), GRACE_OK);
    assert_true(same_plans(a, b));
    assert_string_equal(a->planner, "auto");
    grace_plan_free(a), grace_plan_free(b);
    world_close(&w);
}

typedef struct told { int n; double last; bool falls; } told;

static void hear(void *context, double done) {
    told *t = context;
    t->falls |= done <= t->last, t->n++, t->last = done;
}

static void progress_rises_through_all_searches(void **state) {
    (void)state;
    world w;
    grace_plan *plan = NULL;
    told t = {0};
    world_open(1, &w);
    w.opt.memory = 1.25, w.opt.progress = hear, w.opt.progress_context = &t;
    assert_int_equal(grace_plan_build(w.profile, (grace_cluster){2, 2}, &w.opt, &plan), GRACE_OK);
    assert_true(t.n >= 5 * 3 && !t.falls && t.last == 1);
    grace_plan_free(plan);
    world_close(&w);
}

/* The first search gives a plan; without time for them the others do not begin. */
static void all_searches_share_one_time_limit(void **state) {
    (void)state;
    world w;
    grace_plan *plan = NULL;
    told t = {0};
    world_open(1, &w);
    w.opt.memory = 1.25, w.opt.progress = hear, w.opt.progress_context = &t, w.opt.time_limit_s = 1e-9;
    assert_int_equal(grace_plan_build(w.profile, (grace_cluster){2, 2}, &w.opt, &plan), GRACE_OK);
    assert_true(t.n < 2 * 3 && !t.falls && t.last == 1);
    claim_plan(plan, 1);
    grace_plan_free(plan);
    world_close(&w);
}

static void objectives_that_fit_nothing_are_refused(void **state) {
    (void)state;
    world w;
    grace_plan *plan = NULL;
    world_open(1, &w);
    w.objective.shape.n_experts = 33;
    assert_int_equal(grace_plan_build(w.profile, (grace_cluster){2, 2}, &w.opt, &plan), GRACE_ERR_MISMATCH);
    w.objective.shape.n_experts = 32;
    w.opt.planner = GRACE_PLANNER_GRACE;
    assert_int_equal(grace_plan_build(w.profile, (grace_cluster){2, 2}, &w.opt, &plan), GRACE_ERR_ARG);
    assert_null(plan);
    world_close(&w);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(no_planner_that_fits_is_faster),
        cmocka_unit_test(with_memory_for_it_nothing_crosses_a_slow_wire),
        cmocka_unit_test(the_same_options_give_the_same_plan),
        cmocka_unit_test(progress_rises_through_all_searches),
        cmocka_unit_test(all_searches_share_one_time_limit),
        cmocka_unit_test(objectives_that_fit_nothing_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
