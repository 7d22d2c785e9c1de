#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "plan/expect.h"
#include "plan/plan_claims.h"
#include "plan/tables.h"
#include "support/naive_count.h"
#include "support/random_plan.h"

enum { N = 8, K = 3, SETS = 6, ROW_BYTES = 40 };

static gr_bundle_layer random_bundles(gr_rng *rng, int32_t n_homes) {
    gr_bundle_layer b = {.n = SETS};
    b.experts = calloc((size_t)(SETS * K), sizeof *b.experts);
    b.count = new_ints(SETS);
    if (n_homes > 0) b.home = new_ints(SETS);
    if (!b.experts) abort();
    for (int32_t i = 0; i < SETS; i++) {
        for (int32_t e = 0, j = 0; e < N && j < K; e++)
            if ((int32_t)gr_rng_below(rng, (uint32_t)(N - e)) < K - j) b.experts[i * K + j++] = (uint16_t)e;
        b.n_tokens += b.count[i] = between(rng, 1, 5);
        if (n_homes > 0) b.home[i] = between(rng, 0, n_homes - 1);
    }
    return b;
}

static void bundles_drop(gr_bundle_layer *b) { free(b->experts), free(b->count), free(b->home); }

/* Bytes over every link by walking over the tokens, for as many tokens as the bundles have, each on its home or on all homes in turn. */
static void walk(const grace_plan *plan, const gr_bundle_layer *b, naive_count *c) {
    for (int32_t i = 0; i < b->n; i++) {
        int32_t ranks[K];
        for (int32_t j = 0; j < K; j++) ranks[j] = gr_plan_home(&plan->layers[0], b->experts[i * K + j]);
        for (int32_t home = 0; home < c->n_ranks; home++)
            for (int32_t t = 0; t < b->count[i] && (!b->home || b->home[i] == home); t++) naive_count_token(c, home, ranks, K);
    }
}

typedef struct sums { double node_out[8], node_in[8], rank_out[8], rank_in[8]; } sums;

static sums add_up(const naive_count *c, double share, bool dispatch) {
    sums s = {{0}, {0}, {0}, {0}};
    for (int stage = 0; stage < GRACE_N_STAGES; stage++)
        for (int32_t i = 0; i < c->n_ranks * c->n_ranks; i++) {
            int32_t from = i / c->n_ranks, to = i % c->n_ranks, g = c->cluster.gpus_per_node;
            double rows = (double)(dispatch ? c->out[stage][i] : c->back[stage][i]);
            double bytes = share * (rows * ROW_BYTES + (dispatch ? 4 * rows + 8 * (double)c->entries[stage][i] : 0));
            if (naive_link(c, from, to) == GRACE_LINK_CROSS) s.node_out[from / g] += bytes, s.node_in[to / g] += bytes;
            if (naive_link(c, from, to) == GRACE_LINK_INTRA) s.rank_out[from] += bytes, s.rank_in[to] += bytes;
        }
    return s;
}

static bool near(const double *a, const double *b, int32_t n) {
    for (int32_t i = 0; i < n; i++)
        if (fabs(a[i] - b[i]) > 1e-9 * (1 + fabs(b[i]))) return false;
    return true;
}

static void claim_flow(const grace_flow *f, const sums *s, grace_cluster cluster, uint64_t seed) {
    claim(near(f->node_out, s->node_out, cluster.n_nodes) && near(f->node_in, s->node_in, cluster.n_nodes), seed);
    claim(near(f->rank_out, s->rank_out, grace_cluster_ranks(cluster)) && near(f->rank_in, s->rank_in, grace_cluster_ranks(cluster)), seed);
}

static void bytes_of_every_link_are_those_of_a_walk_over_all_tokens_and_homes(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        grace_cluster cluster = {between(&rng, 1, 3), between(&rng, 1, 2)};
        gr_random_plan_options opt = {.n_layers = 1, .n_experts = N, .top_k = K, .cluster = cluster, .empty = 0.2};
        grace_plan *plan = gr_random_plan(&opt, &rng);
        int32_t n_ranks = grace_cluster_ranks(cluster);
        gr_bundle_layer b = random_bundles(&rng, seed % 2 ? n_ranks : 0);
        naive_count c = naive_count_new(cluster, GRACE_EXCHANGE_HSC, false);
        gr_expected x;
        claim(gr_expect_layer(plan, 0, &b, &x) == GRACE_OK, seed);
        const grace_layer_counts *counts = gr_expected_counts(&x, &plan->layers[0], (double)b.n_tokens, ROW_BYTES);
        walk(plan, &b, &c);
        sums out = add_up(&c, b.home ? 1 : 1.0 / n_ranks, true), back = add_up(&c, b.home ? 1 : 1.0 / n_ranks, false);
        claim_flow(&counts->dispatch, &out, cluster, seed);
        claim_flow(&counts->combine, &back, cluster, seed);
        gr_expected_free(&x);
        naive_count_free(&c);
        bundles_drop(&b);
        grace_plan_free(plan);
    }
}

static void pairs_are_the_cost_s_loads_and_add_up_to_top_k_a_token(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        grace_cluster cluster = {between(&rng, 1, 3), between(&rng, 1, 3)};
        gr_random_plan_options opt = {.n_layers = 1, .n_experts = N, .top_k = K, .cluster = cluster, .copies = 0.4, .empty = 0.1};
        grace_plan *plan = gr_random_plan(&opt, &rng);
        int32_t n_ranks = grace_cluster_ranks(cluster);
        gr_bundle_layer b = random_bundles(&rng, 0);
        double load[N] = {0}, *expected = new_doubles((size_t)n_ranks), sum = 0;
        gr_shares shares;
        gr_expected x;
        for (int32_t i = 0; i < SETS * K; i++) load[b.experts[i]] += b.count[i / K];
        claim(gr_shares_build(plan, 0, &shares) == GRACE_OK && gr_expect_layer(plan, 0, &b, &x) == GRACE_OK, seed);
        gr_cost_loads(&shares, load, expected);
        const grace_layer_counts *counts = gr_expected_counts(&x, &plan->layers[0], (double)b.n_tokens, ROW_BYTES);
        claim(near(counts->pairs, expected, n_ranks), seed);
        for (int32_t r = 0; r < n_ranks; r++) sum += counts->pairs[r];
        claim(fabs(sum - (double)b.n_tokens * K) < 1e-9, seed);
        gr_expected_free(&x);
        gr_shares_free(&shares);
        free(expected);
        bundles_drop(&b);
        grace_plan_free(plan);
    }
}

/* Two ranks of one expert each, the second chosen by a quarter of the tokens. */
static void distinct_experts_grow_with_the_tokens_of_a_step(void **state) {
    (void)state;
    static const int32_t rank_of_expert[2] = {0, 1};
    uint16_t sets[] = {0, 1};
    int32_t count[] = {3, 1};
    gr_bundle_layer b = {.n = 2, .experts = sets, .count = count, .n_tokens = 4};
    grace_plan *plan = NULL;
    gr_expected x;
    assert_int_equal(gr_plan_new(1, 2, 1, (grace_cluster){1, 2}, &plan), GRACE_OK);
    assert_int_equal(gr_plan_place(plan, 0, rank_of_expert, NULL, 0), GRACE_OK);
    assert_int_equal(gr_expect_layer(plan, 0, &b, &x), GRACE_OK);
    const grace_layer_counts *c = gr_expected_counts(&x, &plan->layers[0], 2, ROW_BYTES);
    assert_true(fabs(c->active[0] - (1 - 0.25 * 0.25)) < 1e-12 && fabs(c->active[1] - (1 - 0.75 * 0.75)) < 1e-12);
    assert_true(fabs(c->pairs[0] - 1.5) < 1e-12 && fabs(c->pairs[1] - 0.5) < 1e-12);
    assert_true(gr_expected_counts(&x, &plan->layers[0], 1e6, ROW_BYTES)->active[1] > 1 - 1e-9);
    gr_expected_free(&x);
    grace_plan_free(plan);
}

/* Four experts, two nodes: one bundle of all, layer after layer. Spread evenly every token crosses, both links busy alike; all on one node half
 * of them cross, all into the same link. */
static void a_whole_layer_on_one_node_moves_half_the_rows_over_a_link_that_is_as_busy(void **state) {
    (void)state;
    static const int32_t spread[4] = {0, 0, 1, 1}, whole[4] = {0, 0, 0, 0};
    uint16_t set[] = {0, 1, 2, 3};
    int32_t count[] = {1};
    gr_bundle_layer b = {.n = 1, .experts = set, .count = count, .n_tokens = 1};
    const int32_t *const placements[] = {spread, whole};
    double rows[2], seconds[2];
    grace_rates rates;
    grace_shape shape;
    grace_trace_info info = {.n_layers = 1, .n_experts = 4, .top_k = 4};
    assert_int_equal(grace_rates_load("h200-25g", &rates), GRACE_OK);
    assert_int_equal(grace_shape_parse("hidden=2048,width=1024", &info, &shape), GRACE_OK);
    rates.dispatch_rounds = rates.combine_rounds = 0;
    for (int i = 0; i < 2; i++) {
        grace_plan *plan = NULL;
        gr_expected x;
        assert_int_equal(gr_plan_new(1, 4, 4, (grace_cluster){2, 1}, &plan), GRACE_OK);
        assert_int_equal(gr_plan_place(plan, 0, placements[i], NULL, 0), GRACE_OK);
        assert_int_equal(gr_expect_layer(plan, 0, &b, &x), GRACE_OK);
        grace_seconds s = grace_layer_seconds(gr_expected_counts(&x, &plan->layers[0], 1000, 4096), &shape, &rates);
        rows[i] = x.total.cross, seconds[i] = s.cross;
        gr_expected_free(&x);
        grace_plan_free(plan);
    }
    assert_true(rows[0] == 1 && rows[1] == 0.5);
    assert_true(fabs(seconds[0] - (1000 * 0.5 * (4096 + 4 + 16) + 1000 * 0.5 * 4096) / 3.125e9) < 1e-12);
    assert_true(fabs(seconds[1] - (1000 * 0.5 * (4096 + 4 + 32) + 1000 * 0.5 * 4096) / 3.125e9) < 1e-12);
}

static void a_prediction_is_the_sum_of_its_layers_and_the_dense_part(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(3);
    gr_random_plan_options opt = {.n_layers = 2, .n_experts = N, .top_k = K, .cluster = {2, 2}, .copies = 0.3};
    grace_plan *plan = gr_random_plan(&opt, &rng);
    gr_bundle_layer layers[2] = {random_bundles(&rng, 0), random_bundles(&rng, 0)};
    grace_bundles bundles = {.n_layers = 2, .n_experts = N, .top_k = K, .layers = layers};
    grace_rates rates;
    grace_shape shape = grace_shape_assumed(2, N, K), other = grace_shape_assumed(3, N, K);
    grace_batch batch = grace_batch_prefill(6, 100);
    grace_prediction p;
    assert_int_equal(grace_rates_load("h200-25g", &rates), GRACE_OK);
    assert_int_equal(grace_plan_predict(plan, &bundles, &shape, &rates, &batch, &p), GRACE_OK);
    grace_seconds sum = grace_dense_seconds(&batch, 4, &shape, &rates);
    for (int32_t l = 0; l < 2; l++) {
        gr_expected x;
        assert_int_equal(gr_expect_layer(plan, l, &layers[l], &x), GRACE_OK);
        grace_seconds s = grace_layer_seconds(gr_expected_counts(&x, &plan->layers[l], 600, 2048 * 2), &shape, &rates);
        grace_seconds_add(&sum, &s, 1);
        gr_expected_free(&x);
    }
    assert_true(fabs(sum.total - p.step.total) < 1e-12 * sum.total && p.load_max_over_mean >= 1 && p.active_max <= N);
    assert_int_equal(grace_plan_predict(plan, &bundles, &other, &rates, &batch, &p), GRACE_ERR_MISMATCH);
    bundles.n_layers = 1;
    assert_int_equal(grace_plan_predict(plan, &bundles, &shape, &rates, &batch, &p), GRACE_ERR_MISMATCH);
    bundles_drop(&layers[0]), bundles_drop(&layers[1]);
    grace_plan_free(plan);
}

static void no_tokens_are_refused(void **state) {
    (void)state;
    gr_bundle_layer b = {0};
    grace_plan *plan = NULL;
    gr_expected x;
    assert_int_equal(grace_plan_contiguous(1, 4, 2, (grace_cluster){2, 1}, &plan), GRACE_OK);
    assert_int_equal(gr_expect_layer(plan, 0, &b, &x), GRACE_ERR_ARG);
    grace_plan_free(plan);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bytes_of_every_link_are_those_of_a_walk_over_all_tokens_and_homes),
        cmocka_unit_test(pairs_are_the_cost_s_loads_and_add_up_to_top_k_a_token),
        cmocka_unit_test(distinct_experts_grow_with_the_tokens_of_a_step),
        cmocka_unit_test(a_whole_layer_on_one_node_moves_half_the_rows_over_a_link_that_is_as_busy),
        cmocka_unit_test(a_prediction_is_the_sum_of_its_layers_and_the_dense_part),
        cmocka_unit_test(no_tokens_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
