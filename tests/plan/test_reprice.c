/* A layer's step priced again for a change of one expert (src/plan/reprice.c), and the search of src/plan/phases.c that it makes fast: against prices that
 * are worked out anew, by gr_expect_layer() of the lists as they are. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "plan/bundle.h"
#include "plan/phases.h"
#include "plan/plan_claims.h"
#include "plan/reprice.h"
#include "plan/step_time.h"
#include "support/random_plan.h"

enum { N = 12, K = 3, ROW_BYTES = 4096 };

/* Sets of experts where low numbers come often; homes 0: alike. */
static gr_bundle_layer random_sets(gr_rng *rng, int32_t n_sets, int32_t n_homes) {
    gr_bundle_layer b = {.n = n_sets, .experts = calloc((size_t)n_sets * K, sizeof *b.experts), .count = new_ints((size_t)n_sets)};
    if (!b.experts) abort();
    if (n_homes > 0) b.home = new_ints((size_t)n_sets);
    for (int32_t i = 0; i < n_sets; i++) {
        int32_t high = between(rng, K, N);
        for (int32_t e = 0, j = 0; e < high && j < K; e++)
            if ((int32_t)gr_rng_below(rng, (uint32_t)(high - e)) < K - j) b.experts[i * K + j++] = (uint16_t)e;
        b.n_tokens += b.count[i] = between(rng, 1, 9);
        if (n_homes > 0) b.home[i] = between(rng, 0, n_homes - 1);
    }
    return b;
}

static void sets_drop(gr_bundle_layer *b) { free(b->experts), free(b->count), free(b->home); }

static void all_serve(grace_plan *plan) {
    plan->layers[0].serve_decode = gr_random_plan_array(plan, plan->layers[0].n_slots, sizeof(bool));
    for (int32_t s = 0; s < plan->layers[0].n_slots; s++) plan->layers[0].serve_decode[s] = true;
}

/* Each copy of the expert serves or rests, one at least serves. */
static void turn_copies(gr_rng *rng, const grace_plan_layer *pl, int32_t expert) {
    int32_t begin = pl->slots_first[expert], n = pl->slots_first[expert + 1] - begin;
    for (int32_t i = 0; i < n; i++) pl->serve_decode[pl->slots_of_expert[begin + i]] = gr_rng_below(rng, 2);
    pl->serve_decode[pl->slots_of_expert[begin + (int32_t)gr_rng_below(rng, (uint32_t)n)]] = true;
}

/* ---- counts ---- */

/* Sums that were added to and taken from some hundred times: off by roundings of what has been in them, at most all. */
static bool near(const double *a, const double *b, int32_t n, double all) {
    for (int32_t i = 0; i < n; i++)
        if (fabs(a[i] - b[i]) > 1e-13 * all) return false;
    return true;
}

static bool near_flow(const grace_flow *a, const grace_flow *b, grace_cluster c, double all) {
    int32_t n = grace_cluster_ranks(c);
    return near(a->node_out, b->node_out, c.n_nodes, all) && near(a->node_in, b->node_in, c.n_nodes, all) && near(a->rank_out, b->rank_out, n, all) &&
           near(a->rank_in, b->rank_in, n, all);
}

/* The lists of view as the copies of plan serve now, in the tables that view has. */
static void see(const grace_plan *plan, const grace_plan *view) {
    grace_plan *now = NULL;
    assert_int_equal(gr_plan_of_decode(plan, &now), GRACE_OK);
    memcpy(view->layers[0].slots_first, now->layers[0].slots_first, (size_t)(plan->n_experts + 1) * sizeof(int32_t));
    memcpy(view->layers[0].slots_of_expert, now->layers[0].slots_of_expert, (size_t)plan->layers[0].n_slots * sizeof(int32_t));
    grace_plan_free(now);
}

static void claim_counts(const grace_layer_counts *c, const grace_plan *view, const gr_bundle_layer *b, double n_tokens, uint64_t seed) {
    gr_expected x;
    int32_t n = grace_cluster_ranks(view->cluster);
    double all = n_tokens * K * ROW_BYTES;
    claim(gr_expect_layer(view, 0, b, &x) == GRACE_OK, seed);
    const grace_layer_counts *anew = gr_expected_counts(&x, &view->layers[0], n_tokens, ROW_BYTES);
    claim(near_flow(&c->dispatch, &anew->dispatch, view->cluster, all) && near_flow(&c->combine, &anew->combine, view->cluster, all), seed);
    claim(near(c->pairs, anew->pairs, n, 0) && near(c->active, anew->active, n, 0), seed);
    gr_expected_free(&x);
}

/* Of what is tried, some is kept and the rest is taken back, in any order of experts. */
static void walk_changes(gr_rng *rng, grace_plan *plan, const grace_plan *view, const gr_bundle_layer *b, uint64_t seed) {
    const grace_plan_layer *pl = &plan->layers[0];
    bool *kept = calloc((size_t)pl->n_slots, sizeof *kept);
    double n_tokens = between(rng, 1, 300);
    gr_reprice p;
    memcpy(kept, pl->serve_decode, (size_t)pl->n_slots * sizeof *kept);
    claim(gr_reprice_open(plan, view, 0, b, n_tokens, ROW_BYTES, &p) == GRACE_OK, seed);
    claim_counts(&p.x_is.counts, view, b, n_tokens, seed);
    for (int32_t step = 0; step < 60; step++) {
        int32_t e = between(rng, 0, N - 1);
        turn_copies(rng, pl, e);
        see(plan, view);
        claim_counts(gr_reprice_try(&p, e), view, b, n_tokens, seed);
        if (gr_rng_below(rng, 3) == 0) {
            gr_reprice_keep(&p);
            memcpy(kept, pl->serve_decode, (size_t)pl->n_slots * sizeof *kept);
        }
        memcpy(pl->serve_decode, kept, (size_t)pl->n_slots * sizeof *kept);
    }
    gr_reprice_close(&p);
    free(kept);
}

static void a_step_priced_again_is_the_step_priced_anew(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        gr_random_plan_options how = {1, N, K, {between(&rng, 1, 4), between(&rng, 1, 4)}, 0.4, 0.1};
        grace_plan *plan = gr_random_plan(&how, &rng), *view = NULL;
        gr_bundle_layer b = random_sets(&rng, between(&rng, 1, 60), seed % 3 == 0 ? grace_cluster_ranks(how.cluster) : 0);
        all_serve(plan);
        claim(gr_plan_of_decode(plan, &view) == GRACE_OK, seed);
        walk_changes(&rng, plan, view, &b, seed);
        grace_plan_free(view), grace_plan_free(plan);
        sets_drop(&b);
    }
}

/* ---- decisions: the search as it is described, each price worked out anew ---- */

typedef struct plain_search {
    grace_plan *plan;
    gr_bundle_layer some;
    grace_shape shape;
    grace_rates rates;
    double n_tokens;
} plain_search;

/* Bytes and latency, and the 8-norm of the ranks' times; *seconds: with the slowest rank's time. */
static double plain_price(const plain_search *s, double *seconds) {
    grace_plan *view = NULL;
    gr_expected x;
    double sum = 0;
    int32_t n_ranks = grace_cluster_ranks(s->plan->cluster);
    assert_int_equal(gr_plan_of_decode(s->plan, &view), GRACE_OK);
    assert_int_equal(gr_expect_layer(view, 0, &s->some, &x), GRACE_OK);
    const grace_layer_counts *c = gr_expected_counts(&x, &view->layers[0], s->n_tokens, (double)s->shape.hidden * s->rates.value_bytes);
    grace_seconds t = grace_layer_seconds(c, &s->shape, &s->rates);
    for (int32_t r = 0; r < n_ranks; r++) sum += pow(gr_rank_expert_seconds(c, r, &s->shape, &s->rates) / t.experts, 8) / n_ranks;
    gr_expected_free(&x);
    grace_plan_free(view);
    if (seconds) *seconds = t.total;
    return t.total - t.experts + t.experts * pow(sum, 1.0 / 8);
}

static void flip(const grace_plan_layer *pl, int32_t one, int32_t other) {
    pl->serve_decode[one] = !pl->serve_decode[one];
    if (other >= 0) pl->serve_decode[other] = !pl->serve_decode[other];
}

static bool one_serves(const grace_plan_layer *pl, int32_t expert) {
    for (int32_t i = pl->slots_first[expert]; i < pl->slots_first[expert + 1]; i++)
        if (pl->serve_decode[pl->slots_of_expert[i]]) return true;
    return false;
}

/* One copy, or two of which one serves; the best of all is made, if it lowers *best by more than roundings. */
static bool plain_change(const plain_search *s, int32_t expert, double *best) {
    const grace_plan_layer *pl = &s->plan->layers[0];
    const int32_t *slot = pl->slots_of_expert + pl->slots_first[expert];
    int32_t n = pl->slots_first[expert + 1] - pl->slots_first[expert], one = -1, other = -1;
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = -1; j < i; j++) {
            if (j >= 0 && pl->serve_decode[slot[i]] == pl->serve_decode[slot[j]]) continue;
            flip(pl, slot[i], j < 0 ? -1 : slot[j]);
            double found = one_serves(pl, expert) ? plain_price(s, NULL) : INFINITY;
            if (found < *best * (1 - 1e-12)) *best = found, one = slot[i], other = j < 0 ? -1 : slot[j];
            flip(pl, slot[i], j < 0 ? -1 : slot[j]);
        }
    if (one >= 0) flip(pl, one, other);
    return one >= 0;
}

static void plain_changes(const plain_search *s) {
    double best = plain_price(s, NULL);
    for (int32_t round = 0, fell = 1; fell && round < 8; round++) {
        fell = 0;
        for (int32_t e = 0; e < s->plan->n_experts; e++) fell += plain_change(s, e, &best);
    }
}

/* From all copies serving and from all at rest; true if the step takes less time for the better table, which stays. */
static bool plain_choose(const plain_search *s) {
    const grace_plan_layer *pl = &s->plan->layers[0];
    bool *kept = calloc((size_t)pl->n_slots, sizeof *kept), less = false;
    double least, seconds;
    plain_price(s, &least);
    for (int start = 0; start < 2; start++) {
        for (int32_t i = 0; i < pl->n_slots; i++) pl->serve_decode[i] = start == 0 || gr_plan_home(pl, pl->expert_of_slot[i]) == pl->rank_of_slot[i];
        plain_changes(s);
        plain_price(s, &seconds);
        if (seconds < least) less = true, least = seconds, memcpy(kept, pl->serve_decode, (size_t)pl->n_slots * sizeof *kept);
    }
    if (less) memcpy(pl->serve_decode, kept, (size_t)pl->n_slots * sizeof *kept);
    free(kept);
    return less;
}

static void a_plan_s_table_is_the_one_of_a_search_that_prices_everything_anew(void **state) {
    (void)state;
    int32_t tables = 0;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        gr_random_plan_options how = {1, N, K, {between(&rng, 1, 4), between(&rng, 1, 3)}, 0.3, 0};
        grace_plan *plan = gr_random_plan(&how, &rng), *view = NULL, *plain = NULL;
        gr_bundle_layer b = random_sets(&rng, between(&rng, 20, 80), seed % 3 == 0 ? grace_cluster_ranks(how.cluster) : 0);
        grace_bundles bundles = {1, N, K, &b};
        plain_search s = {.plan = plan, .some = b, .shape = grace_shape_assumed(1, N, K), .n_tokens = between(&rng, 1, 100)};
        claim(grace_rates_load(seed % 2 ? "h200-400g" : "h200-25g", &s.rates) == GRACE_OK, seed);
        claim(gr_plan_choose_decode(plan, &bundles, &s.shape, &s.rates, s.n_tokens) == GRACE_OK && gr_plan_of_decode(plan, &view) == GRACE_OK, seed);
        bool *found = plan->layers[0].serve_decode;
        all_serve(plan);
        claim(plain_choose(&s) == (found != NULL), seed);
        claim(gr_plan_of_decode(plan, &plain) == GRACE_OK, seed);
        if (found) claim(same_layers(&view->layers[0], &plain->layers[0], N, grace_cluster_ranks(how.cluster)), seed);
        tables += found != NULL;
        grace_plan_free(plain), grace_plan_free(view), grace_plan_free(plan);
        sets_drop(&b);
    }
    print_message("%d of 60 plans got a table\n", tables);
    assert_true(tables > 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_step_priced_again_is_the_step_priced_anew),
        cmocka_unit_test(a_plan_s_table_is_the_one_of_a_search_that_prices_everything_anew),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
