#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "plan/budget.h"
#include "plan/cost.h"
#include "plan/plan_claims.h"
#include "plan/trace_cases.h"

typedef struct world { grace_trace *trace; grace_bundles *bundles; grace_profile *profile; grace_plan_options opt; } world;

static world world_open(uint64_t seed, trace_case c) {
    gr_rng rng = gr_rng_seed(seed);
    world w = {.trace = make_trace(&rng, &c), .opt = grace_plan_defaults()};
    claim(grace_bundles_build(w.trace, NULL, false, GRACE_BUNDLES_DEFAULT, &w.bundles) == GRACE_OK, seed);
    claim(grace_profile_build(w.trace, NULL, &w.profile) == GRACE_OK, seed);
    w.opt.planner = GRACE_PLANNER_AUTO, w.opt.bundles = w.bundles, w.opt.seed = seed;
    return w;
}

static void world_close(world *w) { grace_bundles_free(w->bundles), grace_profile_free(w->profile), grace_trace_close(w->trace); }

static grace_plan *build(const world *w, grace_cluster cluster, grace_planner planner, uint64_t seed) {
    grace_plan *plan = NULL;
    grace_plan_options opt = w->opt;
    opt.planner = planner;
    if (grace_plan_build(w->profile, cluster, &opt, &plan)) fail_msg("seed %llu: %s", (unsigned long long)seed, grace_last_error());
    claim_plan(plan, seed);
    return plan;
}

/* Mean over layers: rows, and max/mean load. */
static gr_rows_cost rows_of(const world *w, const grace_plan *plan, double *load) {
    gr_rows_cost sum = {0};
    *load = 0;
    for (int32_t l = 0; l < plan->n_layers; l++) {
        gr_shares s;
        gr_rows_cost c;
        if (gr_shares_build(plan, l, &s) || gr_cost_rows(&s, &w->bundles->layers[l], plan->top_k, &c)) fail_msg("%s", grace_last_error());
        sum.cross += c.cross / plan->n_layers, sum.intra += c.intra / plan->n_layers;
        *load += gr_max_over_mean(plan->layers[l].load_after, s.n_ranks) / plan->n_layers;
        gr_shares_free(&s);
    }
    return sum;
}

static const trace_case BLOCKS = {4, 32, 4, 8, 150, 4, 0.25};

static void auto_plans_are_valid_and_within_memory_for_every_cluster(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        gr_rng rng = gr_rng_seed(seed * 77);
        grace_cluster cluster = {between(&rng, 1, 4), between(&rng, 1, 3)};
        int32_t n_ranks = grace_cluster_ranks(cluster);
        world w = world_open(seed, (trace_case){between(&rng, 1, 3), between(&rng, n_ranks > 8 ? n_ranks : 8, 20), between(&rng, 1, 3), 2, 60, 2, 0.5});
        w.opt.memory = seed % 3 == 0 ? 0 : 1 + 2 * gr_rng_uniform(&rng);
        w.opt.balance = 1 + gr_rng_uniform(&rng);
        int64_t slots;
        grace_plan *plan = NULL;
        grace_status st = grace_plan_build(w.profile, cluster, &w.opt, &plan);
        if (gr_slot_budget(w.profile, cluster, &w.opt, &slots)) {           /* rounded down, the model does not fit */
            claim(st == GRACE_ERR_LIMIT, seed);
        } else {
            claim(st == GRACE_OK, seed);
            claim_plan(plan, seed);
            claim(gr_fullest_rank(plan) <= slots, seed);
        }
        grace_plan_free(plan);
        world_close(&w);
    }
}

static void equal_slots_are_equal_on_every_rank_of_every_layer(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        gr_rng rng = gr_rng_seed(seed * 31);
        grace_cluster cluster = {between(&rng, 1, 4), between(&rng, 1, 3)};
        int32_t n_ranks = grace_cluster_ranks(cluster), n = between(&rng, n_ranks > 8 ? n_ranks : 8, 20);
        world w = world_open(seed, (trace_case){between(&rng, 1, 3), n, between(&rng, 1, 3), 2, 60, 2, 0.5});
        grace_plan *plan = NULL;
        w.opt.slots_per_rank = between(&rng, (n + n_ranks - 1) / n_ranks, n), w.opt.equal_slots = true;
        claim(grace_plan_build(w.profile, cluster, &w.opt, &plan) == GRACE_OK, seed);
        claim_plan(plan, seed);
        for (int32_t l = 0; l < plan->n_layers; l++)
            for (int32_t r = 0; r < n_ranks; r++) claim(plan->layers[l].first_slot[r + 1] - plan->layers[l].first_slot[r] == w.opt.slots_per_rank, seed);
        grace_plan_free(plan);
        world_close(&w);
    }
}

/* Against the balancer of loads, which has as many. */
static void equal_slots_are_used_for_rows(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        world w = world_open(seed, BLOCKS);
        double load;
        w.opt.slots_per_rank = 10;
        grace_plan *balancer = build(&w, (grace_cluster){2, 2}, GRACE_PLANNER_EPLB, seed);
        w.opt.equal_slots = true;
        grace_plan *ours = build(&w, (grace_cluster){2, 2}, GRACE_PLANNER_AUTO, seed);
        claim(rows_of(&w, ours, &load).cross < 0.95 * rows_of(&w, balancer, &load).cross, seed);
        grace_plan_free(balancer), grace_plan_free(ours);
        world_close(&w);
    }
}

static void load_after_is_what_routing_by_the_plan_gives(void **state) {
    (void)state;
    world w = world_open(3, BLOCKS);
    grace_plan *plan = build(&w, (grace_cluster){2, 2}, GRACE_PLANNER_AUTO, 3);
    for (int32_t l = 0; l < plan->n_layers; l++) {
        gr_shares s;
        double load[4], sum = 0;
        assert_int_equal(gr_shares_build(plan, l, &s), GRACE_OK);
        gr_cost_loads(&s, w.profile->load + (size_t)(l * plan->n_experts), load);
        for (int32_t r = 0; r < 4; r++) sum += load[r], assert_true(fabs(load[r] - plan->layers[l].load_after[r]) < 1e-6);
        assert_true(fabs(sum - 4.0 * 1200) < 1e-6);
        gr_shares_free(&s);
    }
    grace_plan_free(plan);
    world_close(&w);
}

/* The purpose: fewer rows between nodes than the paper's plan, at its memory, and no more load. */
static void auto_beats_grace_at_the_same_fullest_rank(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        world w = world_open(seed, BLOCKS);
        grace_cluster cluster = seed % 2 ? (grace_cluster){2, 2} : (grace_cluster){2, 4};
        grace_plan *paper = build(&w, cluster, GRACE_PLANNER_GRACE, seed), *ours = build(&w, cluster, GRACE_PLANNER_AUTO, seed);
        double paper_load, our_load;
        gr_rows_cost paper_rows = rows_of(&w, paper, &paper_load), our_rows = rows_of(&w, ours, &our_load);
        claim(gr_fullest_rank(ours) <= gr_fullest_rank(paper), seed);
        claim(our_rows.cross < 0.97 * paper_rows.cross, seed);
        claim(our_load <= fmax(1.1 + 1e-6, 0.95 * paper_load), seed);
        grace_plan_free(paper), grace_plan_free(ours);
        world_close(&w);
    }
}

static void more_memory_costs_no_rows_and_ends_at_full_replication(void **state) {
    (void)state;
    world w = world_open(5, BLOCKS);
    double before = INFINITY, load;
    for (int i = 0; i <= 4; i++) {
        w.opt.memory = 1 + 0.25 * i;
        grace_plan *plan = build(&w, (grace_cluster){2, 2}, GRACE_PLANNER_AUTO, 5);
        double rows = rows_of(&w, plan, &load).cross;
        assert_true(rows < before);
        assert_true(i < 4 || rows == 0);
        before = rows;
        grace_plan_free(plan);
    }
    world_close(&w);
}

static void the_bound_on_load_is_kept_where_it_can_be(void **state) {
    (void)state;
    for (int i = 0; i < 3; i++) {
        world w = world_open(7, BLOCKS);
        w.opt.balance = 1.1 + 0.1 * i, w.opt.memory = 1.3;
        grace_plan *plan = build(&w, (grace_cluster){2, 2}, GRACE_PLANNER_AUTO, 7);
        for (int32_t l = 0; l < plan->n_layers; l++) claim(gr_max_over_mean(plan->layers[l].load_after, 4) <= w.opt.balance + 1e-6, i);
        grace_plan_free(plan);
        world_close(&w);
    }
}

static void the_same_options_give_the_same_plan(void **state) {
    (void)state;
    world w = world_open(8, BLOCKS);
    for (int planner = GRACE_PLANNER_RANDOM; planner < GRACE_N_PLANNERS; planner++) {
        grace_plan *a = build(&w, (grace_cluster){2, 2}, (grace_planner)planner, 8), *b = build(&w, (grace_cluster){2, 2}, (grace_planner)planner, 8);
        assert_true(same_plans(a, b));
        assert_string_equal(a->planner, grace_planner_name((grace_planner)planner));
        grace_plan_free(a), grace_plan_free(b);
    }
    world_close(&w);
}

typedef struct told { int n; double last; bool falls; } told;

static void hear(void *context, double done) {
    told *t = context;
    t->falls |= done <= t->last, t->n++, t->last = done;
}

static void progress_rises_to_the_end_and_changes_nothing(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        world w = world_open(seed, BLOCKS);
        told t = {0};
        w.opt.memory = seed == 1 ? 1 : 1.5;         /* with and without copies to buy */
        grace_plan *silent = build(&w, (grace_cluster){2, 2}, GRACE_PLANNER_AUTO, seed);
        w.opt.progress = hear, w.opt.progress_context = &t;
        grace_plan *heard = build(&w, (grace_cluster){2, 2}, GRACE_PLANNER_AUTO, seed);
        claim(same_plans(silent, heard), seed);
        claim(t.n >= 3 && !t.falls && t.last == 1, seed);
        grace_plan_free(silent), grace_plan_free(heard);
        world_close(&w);
    }
}

static void time_up_still_gives_a_valid_plan(void **state) {
    (void)state;
    world w = world_open(9, BLOCKS);
    w.opt.time_limit_s = 1e-9;
    grace_plan_free(build(&w, (grace_cluster){2, 2}, GRACE_PLANNER_AUTO, 9));
    world_close(&w);
}

static void a_trace_without_tokens_still_plans(void **state) {
    (void)state;
    world w = world_open(9, (trace_case){2, 8, 2, 1, 0, 2, 0.5});
    for (int planner = GRACE_PLANNER_RANDOM; planner < GRACE_N_PLANNERS; planner++)
        grace_plan_free(build(&w, (grace_cluster){2, 2}, (grace_planner)planner, 9));
    world_close(&w);
}

static void baselines_are_what_their_names_say(void **state) {
    (void)state;
    world w = world_open(10, BLOCKS);
    double load;
    w.opt.slots_per_rank = 10;
    grace_plan *random = build(&w, (grace_cluster){2, 2}, GRACE_PLANNER_RANDOM, 10), *eplb = build(&w, (grace_cluster){2, 2}, GRACE_PLANNER_EPLB, 10);
    for (int32_t r = 0; r < 4; r++) {
        assert_int_equal(random->layers[0].first_slot[r + 1] - random->layers[0].first_slot[r], 8);
        assert_in_range(eplb->layers[0].first_slot[r + 1] - eplb->layers[0].first_slot[r], 8, 10);
    }
    assert_false(same_layers(&random->layers[0], &random->layers[1], 32, 4));
    w.opt.slots_per_rank = 0;
    grace_plan *node = build(&w, (grace_cluster){2, 2}, GRACE_PLANNER_REPLICATE_NODE, 10);
    assert_int_equal(node->layers[0].n_slots, 64);
    assert_true(rows_of(&w, node, &load).cross == 0);
    grace_plan_free(random), grace_plan_free(eplb), grace_plan_free(node);
    world_close(&w);
}

static void assert_refused(const world *w, grace_status expected, const char *words) {
    grace_plan *plan = NULL;
    assert_int_equal(grace_plan_build(w->profile, (grace_cluster){2, 2}, &w->opt, &plan), expected);
    assert_null(plan);
    if (!strstr(grace_last_error(), words)) fail_msg("expected '%s' in: %s", words, grace_last_error());
}

static void options_that_cannot_be_are_refused(void **state) {
    (void)state;
    world w = world_open(11, (trace_case){2, 8, 2, 2, 20, 2, 0.5}), other = world_open(11, (trace_case){2, 9, 2, 2, 20, 3, 0.5});
    w.opt.bundles = NULL;
    assert_refused(&w, GRACE_ERR_ARG, "needs the trace's bundles");
    w.opt.bundles = other.bundles;
    assert_refused(&w, GRACE_ERR_ARG, "bundles are of 2 layers of 9 experts");
    w.opt.bundles = w.bundles;
    w.opt.slots_per_rank = 1;
    assert_refused(&w, GRACE_ERR_LIMIT, "2 slots on each of 4 ranks cannot hold 16 experts in all layers: 2 a rank are missing");
    w.opt.planner = GRACE_PLANNER_REPLICATE_NODE, w.opt.slots_per_rank = 3;
    assert_refused(&w, GRACE_ERR_LIMIT, "takes 4 slots a rank and layer, the memory given has 3");
    w.opt.planner = GRACE_PLANNER_EPLB, w.opt.eplb_groups = 3;
    assert_refused(&w, GRACE_ERR_ARG, "8 experts cannot form 3 equal groups");
    w.opt.planner = GRACE_PLANNER_AUTO, w.opt.memory = 0.5;
    assert_refused(&w, GRACE_ERR_ARG, "memory");
    w.opt.memory = 0, w.opt.balance = 0.9;
    assert_refused(&w, GRACE_ERR_ARG, "balance");
    w.opt.balance = 1.1, w.opt.w_gpu = -1;
    assert_refused(&w, GRACE_ERR_ARG, "weight of rows");
    w.opt.w_gpu = 0.1, w.opt.time_limit_s = -1;
    assert_refused(&w, GRACE_ERR_ARG, "time limit");
    world_close(&w), world_close(&other);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(auto_plans_are_valid_and_within_memory_for_every_cluster),
        cmocka_unit_test(equal_slots_are_equal_on_every_rank_of_every_layer),
        cmocka_unit_test(equal_slots_are_used_for_rows),
        cmocka_unit_test(load_after_is_what_routing_by_the_plan_gives),
        cmocka_unit_test(auto_beats_grace_at_the_same_fullest_rank),
        cmocka_unit_test(more_memory_costs_no_rows_and_ends_at_full_replication),
        cmocka_unit_test(the_bound_on_load_is_kept_where_it_can_be),
        cmocka_unit_test(the_same_options_give_the_same_plan),
        cmocka_unit_test(progress_rises_to_the_end_and_changes_nothing),
        cmocka_unit_test(time_up_still_gives_a_valid_plan),
        cmocka_unit_test(a_trace_without_tokens_still_plans),
        cmocka_unit_test(baselines_are_what_their_names_say),
        cmocka_unit_test(options_that_cannot_be_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
