#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "plan/cut.h"
#include "plan/knee.h"
#include "plan/plan_claims.h"
#include "plan/plan_json.h"
#include "plan/tables.h"
#include "plan/trace_cases.h"

static const grace_cluster CLUSTER_2X2 = {2, 2};

static grace_plan *build(const grace_profile *p, grace_cluster cluster, const grace_plan_options *opt, uint64_t seed) {
    grace_plan *plan = NULL;
    if (grace_plan_build(p, cluster, opt, &plan)) fail_msg("seed %llu: %s", (unsigned long long)seed, grace_last_error());
    claim_plan(plan, seed);
    return plan;
}

/* A layer's loads and weights, recomputed from its slots and the profile. */
static void claim_loads(const grace_plan *plan, const grace_profile *p, int32_t layer, uint64_t seed) {
    const grace_plan_layer *pl = &plan->layers[layer];
    int32_t n_ranks = grace_cluster_ranks(plan->cluster);
    double *before = new_doubles((size_t)n_ranks), *after = new_doubles((size_t)n_ranks);
    for (int32_t e = 0; e < plan->n_experts; e++) {
        double load = p->load[layer * plan->n_experts + e];
        int32_t n = pl->slots_first[e + 1] - pl->slots_first[e];
        before[gr_plan_home(pl, e)] += load;
        claim(n == 1 || n == pl->n_replica + 1, seed);
        for (int32_t i = pl->slots_first[e]; i < pl->slots_first[e + 1]; i++) after[pl->rank_of_slot[pl->slots_of_expert[i]]] += load / n;
    }
    for (int32_t r = 0; r < n_ranks; r++) {
        claim(before[r] == pl->load_before[r], seed);
        claim(fabs(after[r] - pl->load_after[r]) <= 1e-9 * (1 + after[r]), seed);       /* an even split over the instances: paper Eq. 4 */
    }
    for (int32_t s = 0; s < pl->n_slots; s++) {
        const int32_t *slot_of = pl->slots_of_expert + pl->slots_first[pl->expert_of_slot[s]];
        double share = (double)pl->poll_weight[s] * pl->load_after[pl->rank_of_slot[s]];        /* weight x load: the same on every host */
        double first = (double)pl->poll_weight[slot_of[0]] * pl->load_after[pl->rank_of_slot[slot_of[0]]];
        claim(fabs(share - first) <= 1e-6 * (1 + first), seed);
    }
    free(before), free(after);
}

static void every_planner_gives_a_valid_plan_for_every_cluster(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 150; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        grace_cluster cluster = {between(&rng, 1, 4), between(&rng, 1, 4)};
        int32_t n_ranks = grace_cluster_ranks(cluster), n = between(&rng, n_ranks, 32), n_layers = between(&rng, 1, 3);
        grace_profile p = random_profile(&rng, n_layers, n, 1);
        grace_plan_options opt = grace_plan_defaults();
        opt.planner = (grace_planner)between(&rng, 0, 2);
        opt.grouping = (grace_grouping)between(&rng, 0, 2);
        opt.replication = (grace_replication)between(&rng, 0, 2);
        opt.r = seed % 2 ? -1 : gr_rng_uniform(&rng);
        opt.seed = seed;
        grace_plan *plan = build(&p, cluster, &opt, seed);
        for (int32_t l = 0; l < n_layers; l++) {
            claim_loads(plan, &p, l, seed);
            for (int32_t r = 0; r < n_ranks; r++) claim(plan->layers[l].first_slot[r + 1] > plan->layers[l].first_slot[r], seed);
            bool copies = opt.planner == GRACE_PLANNER_GRACE && opt.replication != GRACE_REPLICATION_NONE && n_ranks > 1;
            claim(copies == (plan->layers[l].n_slots > n) && copies == (plan->layers[l].n_replica > 0), seed);
        }
        grace_plan_free(plan);
        drop_profile(&p);
    }
}

static void a_seed_gives_the_same_plan_again(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(11);
    grace_profile p = random_profile(&rng, 3, 24, 2);
    grace_plan_options opt = grace_plan_defaults();
    for (uint64_t seed = 0; seed < 10; seed++) {
        opt.seed = seed;
        grace_plan *a = build(&p, CLUSTER_2X2, &opt, seed), *b = build(&p, CLUSTER_2X2, &opt, seed);
        claim(same_plans(a, b), seed);
        grace_plan_free(a), grace_plan_free(b);
    }
    drop_profile(&p);
}

static void layers_are_planned_by_themselves(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(12);
    grace_profile two = random_profile(&rng, 2, 16, 2), one = two;
    grace_plan_options opt = grace_plan_defaults();
    opt.r = 0.2;
    one.info.n_layers = 1;
    grace_plan *a = build(&two, CLUSTER_2X2, &opt, 0), *b = build(&one, CLUSTER_2X2, &opt, 0);
    assert_true(same_layers(&a->layers[0], &b->layers[0], 16, 4));
    grace_plan_free(a), grace_plan_free(b);
    drop_profile(&two);
}

static void a_profile_without_a_token_still_plans(void **state) {
    (void)state;
    grace_profile p = new_profile(2, 10, 2);
    for (int32_t planner = 0; planner < 3; planner++)
        for (int32_t nodes = 1; nodes <= 3; nodes++) {
            grace_plan_options opt = grace_plan_defaults();
            opt.planner = (grace_planner)planner;
            grace_plan *plan = build(&p, (grace_cluster){nodes, 3}, &opt, (uint64_t)nodes);
            assert_int_equal(plan->layers[0].n_replica, 0);         /* nothing is hot */
            assert_int_equal(plan->layers[0].n_slots, 10);
            for (int32_t r = 0; r < 3 * nodes; r++) assert_true(plan->layers[1].load_after[r] == 0);
            grace_plan_free(plan);
        }
    drop_profile(&p);
}

/* Blocks of experts chosen together, dealt at random: what affinity grouping is for. */
static grace_profile planted_profile(uint64_t seed, int32_t n, int32_t n_blocks) {
    gr_rng rng = gr_rng_seed(seed);
    grace_profile p = new_profile(2, n, 2);
    int32_t *block_of = new_ints((size_t)n);
    for (int32_t l = 0; l < 2; l++) planted_affinity(&rng, n, n_blocks, 9, 2, block_of, p.affinity + (size_t)l * n * n);
    for (int32_t i = 0; i < 2 * n; i++) p.load[i] = between(&rng, 50, 150);
    free(block_of);
    return p;
}

static void affinity_planners_keep_more_together_than_contiguous(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        grace_profile p = planted_profile(seed, 32, 4);
        double gpu[3], node[3];
        for (int32_t planner = 0; planner < 3; planner++) {
            grace_plan_options opt = grace_plan_defaults();
            opt.planner = (grace_planner)planner;
            grace_plan *plan = build(&p, CLUSTER_2X2, &opt, seed);
            claim(gr_plan_cut(plan, &p, &gpu[planner], &node[planner]) == GRACE_OK, seed);
            grace_plan_free(plan);
        }
        claim(gpu[GRACE_PLANNER_UNIFORM] > gpu[GRACE_PLANNER_CONTIGUOUS] + 0.1, seed);
        claim(gpu[GRACE_PLANNER_GRACE] > gpu[GRACE_PLANNER_CONTIGUOUS] + 0.1, seed);
        claim(node[GRACE_PLANNER_GRACE] > node[GRACE_PLANNER_CONTIGUOUS], seed);
        drop_profile(&p);
    }
}

static void uniform_ranks_differ_by_at_most_one_expert(void **state) {
    (void)state;
    grace_profile p = planted_profile(1, 30, 5);
    grace_plan_options opt = grace_plan_defaults();
    opt.planner = GRACE_PLANNER_UNIFORM;
    grace_plan *plan = build(&p, CLUSTER_2X2, &opt, 0);
    for (int32_t l = 0; l < 2; l++)
        for (int32_t r = 0; r < 4; r++) assert_in_range(plan->layers[l].first_slot[r + 1] - plan->layers[l].first_slot[r], 7, 8);
    assert_string_equal(plan->planner, "uniform");
    assert_string_equal(plan->replication, "none");
    assert_true(plan->r < 0 && plan->n_knee == 0);
    grace_plan_free(plan);
    drop_profile(&p);
}

/* U and S at the chosen delta, from the plan's own tables. */
static void the_curve_says_what_the_plan_does(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        grace_profile p = random_profile(&rng, 2, 32, 2);
        grace_plan_options opt = grace_plan_defaults();
        opt.replication = GRACE_REPLICATION_NONE;
        grace_plan *plan = build(&p, (grace_cluster){1, 4}, &opt, seed);
        const grace_knee_point *chosen = &plan->knee[plan->knee_chosen];
        double gpu, std = 0;
        claim(gr_plan_cut(plan, &p, &gpu, NULL) == GRACE_OK, seed);
        for (int32_t l = 0; l < 2; l++) {
            double sum = 0;
            for (int32_t r = 0; r < 4; r++) sum += pow(plan->layers[l].first_slot[r + 1] - plan->layers[l].first_slot[r] - 8, 2);
            std += sqrt(sum / 4) / 2;
        }
        claim(fabs(chosen->utility - gpu) < 1e-12 && fabs(chosen->size_std - std) < 1e-12, seed);
        claim(plan->n_knee == 8 && plan->knee_chosen == gr_knee(plan->knee, 8) && plan->r == chosen->r, seed);
        for (int32_t i = 0; i < 8; i++) claim(plan->knee[i].delta == i + 1 && plan->knee[i].r == (i + 1) / 8.0, seed);
        grace_plan_free(plan);
        drop_profile(&p);
    }
}

static void a_given_ratio_bounds_the_groups(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(5);
    grace_profile p = random_profile(&rng, 3, 40, 2);
    grace_plan_options opt = grace_plan_defaults();
    opt.replication = GRACE_REPLICATION_NONE;
    opt.r = 0.2;
    grace_plan *plan = build(&p, (grace_cluster){1, 4}, &opt, 0);
    for (int32_t l = 0; l < 3; l++)
        for (int32_t r = 0; r < 4; r++) assert_in_range(plan->layers[l].first_slot[r + 1] - plan->layers[l].first_slot[r], 8, 12);
    assert_true(plan->r == 0.2 && plan->n_knee == 0);
    grace_plan_free(plan);
    drop_profile(&p);
}

static void one_gpu_a_node_needs_no_ratio(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(6);
    grace_profile p = random_profile(&rng, 1, 16, 2);
    grace_plan_options opt = grace_plan_defaults();
    for (int32_t nodes = 1; nodes <= 4; nodes++) {
        grace_plan *plan = build(&p, (grace_cluster){nodes, 1}, &opt, (uint64_t)nodes);
        assert_true(plan->r < 0 && plan->n_knee == 0);
        grace_plan_free(plan);
    }
    drop_profile(&p);
}

static void plans_carry_what_they_were_made_from(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(7);
    grace_profile p = random_profile(&rng, 2, 12, 3);
    grace_plan_options opt = grace_plan_defaults();
    p.info.fingerprint = 0xfeedfacecafebeef;
    opt.seed = 77;
    opt.grouping = GRACE_GROUPING_FREE;
    grace_plan *plan = build(&p, (grace_cluster){2, 3}, &opt, 0);
    assert_true(plan->fingerprint == 0xfeedfacecafebeef && plan->seed == 77 && plan->n_layers == 2 && plan->n_experts == 12 && plan->top_k == 3);
    assert_true(plan->cluster.n_nodes == 2 && plan->cluster.gpus_per_node == 3);
    assert_string_equal(plan->planner, "grace");
    assert_string_equal(plan->grouping, "free");
    assert_string_equal(plan->replication, "dynamic");
    grace_plan_free(plan);
    drop_profile(&p);
}

/* ---- bad input ---- */

static void assert_refused(const grace_profile *p, grace_cluster cluster, const grace_plan_options *opt, grace_status expected, const char *words) {
    grace_plan *plan = NULL;
    assert_int_equal(grace_plan_build(p, cluster, opt, &plan), expected);
    assert_null(plan);
    if (!strstr(grace_last_error(), words)) fail_msg("expected '%s' in: %s", words, grace_last_error());
}

static void profiles_that_cannot_be_are_refused(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(8);
    grace_profile p = random_profile(&rng, 2, 8, 2);
    const grace_plan_options opt = grace_plan_defaults();
    assert_refused(&p, (grace_cluster){3, 3}, &opt, GRACE_ERR_LIMIT, "9 ranks for 8 experts: expected at least one for each, unless");
    assert_refused(&p, (grace_cluster){0, 3}, &opt, GRACE_ERR_ARG, "at least one node");
    p.load[9] = NAN;
    assert_refused(&p, CLUSTER_2X2, &opt, GRACE_ERR_NUMERIC, "load[9] is");
    p.load[9] = -1;
    assert_refused(&p, CLUSTER_2X2, &opt, GRACE_ERR_ARG, "load[9]: expected 0 or more");
    p.load[9] = 1;
    p.affinity[64 + 8 + 2] = INFINITY;
    assert_refused(&p, CLUSTER_2X2, &opt, GRACE_ERR_NUMERIC, "affinity[74] is inf");
    p.affinity[64 + 8 + 2] = p.affinity[64 + 16 + 1] + 1;
    assert_refused(&p, CLUSTER_2X2, &opt, GRACE_ERR_ARG, "layer 1 is not symmetric");
    p.affinity[64 + 8 + 2] = p.affinity[64 + 16 + 1];
    p.affinity[0] = 1;
    assert_refused(&p, CLUSTER_2X2, &opt, GRACE_ERR_ARG, "zero diagonal");
    drop_profile(&p);
}

static void options_that_cannot_be_are_refused(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(8);
    grace_profile p = random_profile(&rng, 1, 8, 2);
    grace_plan_options opt = grace_plan_defaults();
    opt.r = 1.5;
    assert_refused(&p, CLUSTER_2X2, &opt, GRACE_ERR_ARG, "found 1.5");
    opt.r = NAN;
    assert_refused(&p, CLUSTER_2X2, &opt, GRACE_ERR_ARG, "ratio r");
    opt = grace_plan_defaults(), opt.planner = (grace_planner)9;
    assert_refused(&p, CLUSTER_2X2, &opt, GRACE_ERR_ARG, "no planner has number 9");
    opt = grace_plan_defaults(), opt.grouping = (grace_grouping)9;
    assert_refused(&p, CLUSTER_2X2, &opt, GRACE_ERR_ARG, "no grouping has number 9");
    opt = grace_plan_defaults(), opt.replication = (grace_replication)9;
    assert_refused(&p, CLUSTER_2X2, &opt, GRACE_ERR_ARG, "no replication has number 9");
    drop_profile(&p);
}

static void a_plan_for_another_run_is_refused_with_both_sides(void **state) {
    (void)state;
    grace_plan *plan = NULL;
    assert_int_equal(grace_plan_contiguous(8, 64, 8, CLUSTER_2X2, &plan), GRACE_OK);
    plan->fingerprint = 0xabc;
    assert_int_equal(grace_plan_check(plan, 0xabc, 8, NULL, 64, 8, CLUSTER_2X2), GRACE_OK);
    assert_int_equal(grace_plan_check(plan, 0, 8, NULL, 64, 8, CLUSTER_2X2), GRACE_OK);
    assert_int_equal(grace_plan_check(plan, 0xabc, 8, NULL, 64, 8, (grace_cluster){1, 4}), GRACE_ERR_MISMATCH);
    assert_string_equal(grace_last_error(), "plan is for cluster node:2 gpu:2, this run has node:1 gpu:4 (--ranks 2x2 starts what the plan is for)");
    assert_int_equal(grace_plan_check(plan, 0xabc, 16, NULL, 64, 8, CLUSTER_2X2), GRACE_ERR_MISMATCH);
    assert_string_equal(grace_last_error(), "plan is for 8 MoE layers of 64 experts, top-8; the model has 16 of 64, top-8");
    assert_int_equal(grace_plan_check(plan, 0xabc, 8, NULL, 60, 8, CLUSTER_2X2), GRACE_ERR_MISMATCH);
    assert_int_equal(grace_plan_check(plan, 0xabc, 8, NULL, 64, 6, CLUSTER_2X2), GRACE_ERR_MISMATCH);
    assert_int_equal(grace_plan_check(plan, 0xdef, 8, NULL, 64, 8, CLUSTER_2X2), GRACE_ERR_MISMATCH);
    assert_string_equal(grace_last_error(), "plan was made for model 0000000000000abc, this model is 0000000000000def");
    snprintf(plan->planned_from.file, sizeof plan->planned_from.file, "other.trace");
    assert_int_equal(grace_plan_check(plan, 0xdef, 8, NULL, 64, 8, CLUSTER_2X2), GRACE_ERR_MISMATCH);
    assert_non_null(strstr(grace_last_error(), "this model is 0000000000000def; it was planned from other.trace"));
    plan->fingerprint = 0;
    assert_int_equal(grace_plan_check(plan, 0xdef, 8, NULL, 64, 8, CLUSTER_2X2), GRACE_OK);
    grace_plan_free(plan);
}

/* ---- more ranks than experts ---- */

static int32_t n_without_primary(const grace_plan *plan, int32_t layer) {
    const grace_plan_layer *pl = &plan->layers[layer];
    int32_t n = 0;
    for (int32_t r = 0; r < grace_cluster_ranks(plan->cluster); r++) {
        bool holds = false;
        for (int32_t e = 0; e < plan->n_experts; e++) holds |= gr_plan_home(pl, e) == r;
        n += !holds;
    }
    return n;
}

static void every_planner_leaves_ranks_empty_when_told_so(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        grace_cluster cluster = {between(&rng, 1, 4), between(&rng, 1, 4)};
        int32_t n_ranks = grace_cluster_ranks(cluster), n = between(&rng, 2, n_ranks > 2 ? n_ranks : 2);
        trace_case c = {2, n, between(&rng, 1, n < 3 ? n : 3), 4, 20, 1, 1};
        grace_trace *t = make_trace(&rng, &c);
        grace_profile *profile = NULL;
        grace_bundles *bundles = NULL;
        claim(grace_profile_build(t, NULL, &profile) == GRACE_OK && grace_bundles_build(t, NULL, false, 100, &bundles) == GRACE_OK, seed);
        for (int p = 0; p < GRACE_N_PLANNERS; p++) {
            grace_plan_options opt = grace_plan_defaults();
            grace_plan *plan = NULL, *back = NULL;
            gr_buf text = {0};
            opt.planner = (grace_planner)p, opt.bundles = bundles, opt.empty_ranks = true;
            opt.grouping = (grace_grouping)(seed % 3);
            if (grace_plan_build(profile, cluster, &opt, &plan)) fail_msg("seed %d, planner %d: %s", (int)seed, p, grace_last_error());
            claim_plan(plan, seed);
            for (int32_t l = 0; l < 2; l++) claim(n_without_primary(plan, l) >= n_ranks - n, seed);
            claim(gr_plan_print(plan, &text) == GRACE_OK && gr_plan_parse("p", text.data, text.n, &back) == GRACE_OK && same_plans(plan, back), seed);
            grace_plan_free(plan), grace_plan_free(back), gr_buf_free(&text);
        }
        grace_profile_free(profile), grace_bundles_free(bundles), grace_trace_close(t);
    }
}

/* A rank holds no expert twice, so that more slots than experts are of no use. */
static void memory_beyond_all_experts_on_every_rank_changes_nothing(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(9);
    trace_case c = {2, 16, 3, 8, 20, 1, 1};
    grace_trace *t = make_trace(&rng, &c);
    grace_profile *profile = NULL;
    grace_plan_options opt = grace_plan_defaults();
    grace_bundles *bundles = NULL;
    assert_int_equal(grace_profile_build(t, NULL, &profile), GRACE_OK);
    assert_int_equal(grace_bundles_build(t, NULL, false, 100, &bundles), GRACE_OK);
    opt.bundles = bundles;
    for (opt.planner = GRACE_PLANNER_EPLB; opt.planner <= GRACE_PLANNER_AUTO; opt.planner++) {
        opt.memory = 4;
        grace_plan *all = build(profile, CLUSTER_2X2, &opt, 0);
        opt.memory = 100;
        grace_plan *more = build(profile, CLUSTER_2X2, &opt, 0);
        assert_true(same_plans(all, more));
        grace_plan_free(all), grace_plan_free(more);
    }
    grace_profile_free(profile), grace_bundles_free(bundles), grace_trace_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_planner_gives_a_valid_plan_for_every_cluster),
        cmocka_unit_test(a_seed_gives_the_same_plan_again),
        cmocka_unit_test(layers_are_planned_by_themselves),
        cmocka_unit_test(a_profile_without_a_token_still_plans),
        cmocka_unit_test(affinity_planners_keep_more_together_than_contiguous),
        cmocka_unit_test(uniform_ranks_differ_by_at_most_one_expert),
        cmocka_unit_test(the_curve_says_what_the_plan_does),
        cmocka_unit_test(a_given_ratio_bounds_the_groups),
        cmocka_unit_test(one_gpu_a_node_needs_no_ratio),
        cmocka_unit_test(plans_carry_what_they_were_made_from),
        cmocka_unit_test(profiles_that_cannot_be_are_refused),
        cmocka_unit_test(every_planner_leaves_ranks_empty_when_told_so),
        cmocka_unit_test(memory_beyond_all_experts_on_every_rank_changes_nothing),
        cmocka_unit_test(options_that_cannot_be_are_refused),
        cmocka_unit_test(a_plan_for_another_run_is_refused_with_both_sides),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
