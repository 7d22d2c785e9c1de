#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "plan/equalise.h"
#include "plan/plan_claims.h"

static grace_plan *random_plan(gr_rng *rng, int32_t n_layers) {
    grace_plan *plan = NULL;
    int32_t n = between(rng, 4, 20), rank_of[20];
    if (gr_plan_new(n_layers, n, 2, (grace_cluster){between(rng, 1, 3), between(rng, 1, 3)}, &plan)) fail_msg("%s", grace_last_error());
    for (int32_t l = 0; l < n_layers; l++) {
        assert_int_equal(place_at_random(rng, plan, l, 0.2, rank_of), GRACE_OK);
        for (int32_t e = 0; e < n; e++) plan->layers[l].load_before[rank_of[e]] += between(rng, 0, 50);
        memcpy(plan->layers[l].load_after, plan->layers[l].load_before, (size_t)grace_cluster_ranks(plan->cluster) * sizeof(double));
        gr_plan_weigh(plan, l);
    }
    return plan;
}

static grace_profile *profile_for(gr_rng *rng, const grace_plan *plan) {
    grace_profile *p = calloc(1, sizeof *p);
    size_t n = (size_t)plan->n_layers * (size_t)plan->n_experts;
    p->info = (grace_trace_info){.n_layers = plan->n_layers, .n_experts = plan->n_experts, .top_k = 2, .n_ranks = 1, .n_nodes = 1};
    p->load = calloc(n, sizeof *p->load);
    p->affinity = calloc(n * (size_t)plan->n_experts, sizeof *p->affinity);
    for (size_t i = 0; i < n; i++) p->load[i] = between(rng, 0, 100);
    return p;
}

static int32_t slots_on(const grace_plan_layer *pl, int32_t r) { return pl->first_slot[r + 1] - pl->first_slot[r]; }

static bool holds(const grace_plan_layer *pl, int32_t expert, int32_t rank) {
    for (int32_t s = pl->first_slot[rank]; s < pl->first_slot[rank + 1]; s++)
        if (pl->expert_of_slot[s] == expert) return true;
    return false;
}

/* Loads by the definition, from nothing but the table of who holds what. */
static void share_loads(const grace_plan_layer *pl, const double *load, int32_t n, int32_t n_ranks, double *rank_load) {
    for (int32_t r = 0; r < n_ranks; r++) rank_load[r] = 0;
    for (int32_t e = 0; e < n; e++) {
        int32_t copies = pl->slots_first[e + 1] - pl->slots_first[e];
        for (int32_t r = 0; r < n_ranks; r++)
            if (holds(pl, e, r)) rank_load[r] += load[e] / copies;
    }
}

static void every_rank_gets_the_same_slots_and_keeps_its_own(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        grace_plan *plan = random_plan(&rng, 2), *equal = NULL;
        grace_profile *profile = seed % 2 ? profile_for(&rng, plan) : NULL;
        int32_t n_ranks = grace_cluster_ranks(plan->cluster), most = 0;
        for (int32_t l = 0; l < 2; l++)
            for (int32_t r = 0; r < n_ranks; r++) most = slots_on(&plan->layers[l], r) > most ? slots_on(&plan->layers[l], r) : most;
        int32_t wanted = seed % 3 ? 0 : between(&rng, most, plan->n_experts), expected = wanted ? wanted : most;
        claim(gr_plan_equalise(plan, profile, wanted, &equal) == GRACE_OK, seed);
        claim_plan(equal, seed);
        for (int32_t l = 0; l < 2; l++)
            for (int32_t r = 0; r < n_ranks; r++) {
                claim(slots_on(&equal->layers[l], r) == expected, seed);
                for (int32_t s = plan->layers[l].first_slot[r]; s < plan->layers[l].first_slot[r + 1]; s++)
                    claim(holds(&equal->layers[l], plan->layers[l].expert_of_slot[s], r), seed);
            }
        for (int32_t e = 0; e < plan->n_experts; e++) claim(gr_plan_home(&equal->layers[1], e) == gr_plan_home(&plan->layers[1], e), seed);
        grace_plan_free(plan), grace_plan_free(equal), grace_profile_free(profile);
    }
}

static void loads_and_weights_are_computed_anew(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        grace_plan *plan = random_plan(&rng, 1), *equal = NULL;
        grace_profile *profile = profile_for(&rng, plan);
        int32_t n_ranks = grace_cluster_ranks(plan->cluster);
        double rank_load[16], before[16] = {0};
        claim(gr_plan_equalise(plan, profile, plan->n_experts, &equal) == GRACE_OK, seed);
        grace_plan_layer *pl = &equal->layers[0];
        if (pl->n_slots > plan->layers[0].n_slots) {
            share_loads(pl, profile->load, plan->n_experts, n_ranks, rank_load);
            for (int32_t e = 0; e < plan->n_experts; e++) before[gr_plan_home(pl, e)] += profile->load[e];
            for (int32_t r = 0; r < n_ranks; r++) {
                claim(fabs(pl->load_after[r] - rank_load[r]) < 1e-9 * (1 + rank_load[r]), seed);
                claim(pl->load_before[r] == before[r], seed);
            }
            float weight = pl->poll_weight[0];
            gr_plan_weigh(equal, 0);
            claim(weight == pl->poll_weight[0], seed);
        }
        grace_plan_free(plan), grace_plan_free(equal), grace_profile_free(profile);
    }
}

/* The rule, read from the header and done by trying everything: each free slot in turn. */
static void choose_by_brute_force(const grace_profile *profile, int32_t n, int32_t n_ranks, int32_t n_slots, bool *held) {
    for (;;) {
        double load[16] = {0}, least[2] = {0, 0};
        int32_t rank = -1, best = -1, n_held[16] = {0}, n_copies[32] = {0};
        for (int32_t e = 0; e < n; e++)
            for (int32_t r = 0; r < n_ranks; r++) n_copies[e] += held[e * n_ranks + r], n_held[r] += held[e * n_ranks + r];
        for (int32_t e = 0; e < n; e++)
            for (int32_t r = 0; r < n_ranks; r++) load[r] += held[e * n_ranks + r] ? profile->load[e] / n_copies[e] : 0;
        for (int32_t r = 0; r < n_ranks; r++)
            if (n_held[r] < n_slots && (rank < 0 || load[r] < load[rank] - 1e-9)) rank = r;
        if (rank < 0) return;
        for (int32_t e = 0; e < n; e++) {
            double greatest = 0, squares = 0;
            if (held[e * n_ranks + rank]) continue;
            for (int32_t r = 0; r < n_ranks; r++) {
                bool has = held[e * n_ranks + r];
                double after = load[r] - (has ? profile->load[e] / n_copies[e] : 0) + (has || r == rank ? profile->load[e] / (n_copies[e] + 1) : 0);
                greatest = fmax(greatest, after), squares += after * after;
            }
            bool lower = greatest < least[0] - 1e-7, same = fabs(greatest - least[0]) <= 1e-7;
            if (best < 0 || lower || (same && squares < least[1] - 1e-5)) best = e, least[0] = greatest, least[1] = squares;
        }
        held[best * n_ranks + rank] = true;
    }
}

static void the_rule_is_what_the_header_says(void **state) {
    (void)state;
    for (uint64_t seed = 100; seed < 140; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        grace_plan *plan = random_plan(&rng, 1), *equal = NULL;
        grace_profile *profile = profile_for(&rng, plan);
        int32_t n = plan->n_experts, n_ranks = grace_cluster_ranks(plan->cluster);
        bool held[20 * 16] = {0};
        for (int32_t e = 0; e < n; e++)
            for (int32_t r = 0; r < n_ranks; r++) held[e * n_ranks + r] = holds(&plan->layers[0], e, r);
        claim(gr_plan_equalise(plan, profile, 0, &equal) == GRACE_OK, seed);
        choose_by_brute_force(profile, n, n_ranks, slots_on(&equal->layers[0], 0), held);
        for (int32_t e = 0; e < n; e++)
            for (int32_t r = 0; r < n_ranks; r++) claim(held[e * n_ranks + r] == holds(&equal->layers[0], e, r), seed);
        grace_plan_free(plan), grace_plan_free(equal), grace_profile_free(profile);
    }
}

/* Ranks 0 (experts 0 1 2) and 1 (expert 3): expert 0 is the hot one, so rank 1 gets it, then the next. */
static void replicas_are_useful(void **state) {
    (void)state;
    const int32_t rank_of[4] = {0, 0, 0, 1};
    double load[4] = {60, 20, 10, 10}, affinity[16] = {0};
    grace_profile profile = {.info = {.n_layers = 1, .n_experts = 4, .top_k = 1, .n_ranks = 1, .n_nodes = 1}, .load = load, .affinity = affinity};
    grace_plan *plan = NULL, *equal = NULL;
    assert_int_equal(gr_plan_new(1, 4, 1, (grace_cluster){1, 2}, &plan), GRACE_OK);
    assert_int_equal(gr_plan_place(plan, 0, rank_of, NULL, 0), GRACE_OK);
    assert_int_equal(gr_plan_equalise(plan, &profile, 0, &equal), GRACE_OK);
    const grace_plan_layer *pl = &equal->layers[0];
    assert_int_equal(pl->n_slots, 6);
    assert_true(holds(pl, 3, 1) && holds(pl, 0, 1) && holds(pl, 1, 1));     /* 60 / 40, then 50 / 50 */
    assert_true(pl->load_before[0] == 90 && pl->load_before[1] == 10 && pl->load_after[0] == 50 && pl->load_after[1] == 50);
    grace_plan_free(plan), grace_plan_free(equal);
}

/* Without a profile the loads of ranks speak: rank 0 is heavy, so rank 2 copies from it and not from rank 1. */
static void without_a_profile_the_heaviest_rank_is_relieved(void **state) {
    (void)state;
    const int32_t rank_of[5] = {0, 0, 1, 1, 2};
    grace_plan *plan = NULL, *equal = NULL;
    assert_int_equal(gr_plan_new(1, 5, 1, (grace_cluster){1, 3}, &plan), GRACE_OK);
    assert_int_equal(gr_plan_place(plan, 0, rank_of, NULL, 0), GRACE_OK);
    plan->layers[0].load_before[0] = 100, plan->layers[0].load_before[1] = 50, plan->layers[0].load_before[2] = 10;
    assert_int_equal(gr_plan_equalise(plan, NULL, 0, &equal), GRACE_OK);
    assert_true(holds(&equal->layers[0], 0, 2) && equal->layers[0].n_slots == 6);
    assert_true(equal->layers[0].load_after[0] == 75 && equal->layers[0].load_after[2] == 35);
    grace_plan_free(plan), grace_plan_free(equal);
}

static void a_plan_without_loads_keeps_none(void **state) {
    (void)state;
    grace_plan *plan = NULL, *equal = NULL;
    assert_int_equal(grace_plan_contiguous(2, 7, 2, (grace_cluster){1, 3}, &plan), GRACE_OK);
    assert_int_equal(gr_plan_equalise(plan, NULL, 0, &equal), GRACE_OK);
    for (int32_t r = 0; r < 3; r++) {
        assert_int_equal(slots_on(&equal->layers[1], r), 3);
        assert_true(equal->layers[1].load_after[r] == 0);
    }
    grace_plan_free(plan), grace_plan_free(equal);
}

static void an_equal_plan_comes_back_bit_by_bit(void **state) {
    (void)state;
    grace_plan *plan = NULL, *once = NULL, *twice = NULL;
    gr_rng rng = gr_rng_seed(5);
    plan = random_plan(&rng, 3);
    assert_int_equal(gr_plan_equalise(plan, NULL, 0, &once), GRACE_OK);
    once->layers[1].poll_weight[0] = 0.25f;         /* not what would be computed */
    assert_int_equal(gr_plan_equalise(once, NULL, 0, &twice), GRACE_OK);
    assert_true(same_plans(once, twice));
    grace_plan_free(plan), grace_plan_free(once), grace_plan_free(twice);
}

static void what_cannot_be_is_refused_with_both_numbers(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(1);
    grace_plan *plan = NULL, *out = NULL;
    assert_int_equal(grace_plan_contiguous(1, 8, 2, (grace_cluster){1, 2}, &plan), GRACE_OK);
    grace_profile *profile = profile_for(&rng, plan);
    assert_int_equal(gr_plan_equalise(plan, NULL, 3, &out), GRACE_ERR_LIMIT);
    assert_non_null(strstr(grace_last_error(), "3 slots for each rank, but one has 4 already"));
    assert_int_equal(gr_plan_equalise(plan, NULL, 9, &out), GRACE_ERR_LIMIT);
    assert_non_null(strstr(grace_last_error(), "9 slots for each rank, but there are only 8 experts"));
    assert_int_equal(gr_plan_equalise(plan, NULL, -1, &out), GRACE_ERR_ARG);
    profile->info.n_experts = 7;
    assert_int_equal(gr_plan_equalise(plan, profile, 0, &out), GRACE_ERR_MISMATCH);
    assert_null(out);
    grace_plan_free(plan), grace_profile_free(profile);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_rank_gets_the_same_slots_and_keeps_its_own),
        cmocka_unit_test(loads_and_weights_are_computed_anew),
        cmocka_unit_test(the_rule_is_what_the_header_says),
        cmocka_unit_test(replicas_are_useful),
        cmocka_unit_test(without_a_profile_the_heaviest_rank_is_relieved),
        cmocka_unit_test(a_plan_without_loads_keeps_none),
        cmocka_unit_test(an_equal_plan_comes_back_bit_by_bit),
        cmocka_unit_test(what_cannot_be_is_refused_with_both_numbers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
