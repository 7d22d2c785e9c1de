#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "plan/cost.h"
#include "plan/plan_claims.h"
#include "support/naive_count.h"
#include "support/naive_route.h"
#include "support/random_plan.h"

enum { N = 8, TURNS = 64 };

/* chance [N, n_ranks] that a token of this home finds each rank serving each expert: the policy replayed for all turns. */
static void replay_turns(const grace_plan *plan, int32_t layer, int32_t home, grace_route route, double *chance) {
    int32_t n_ranks = grace_cluster_ranks(plan->cluster);
    memset(chance, 0, (size_t)(N * n_ranks) * sizeof *chance);
    for (int32_t e = 0; e < N; e++)
        for (int32_t t = 0; t < TURNS; t++)
            chance[e * n_ranks + plan->layers[layer].rank_of_slot[naive_slot(plan, layer, e, home, route, t)]] += 1.0 / TURNS;
}

/* Rows of one outcome, counted by walking over all ranks: dispatch and combine. */
static void count_outcome(naive_count *c, int32_t home, const int32_t *ranks, int32_t top_k, double chance, double rows[2][GRACE_N_LINKS]) {
    grace_link_count dispatch[GRACE_N_STAGES][GRACE_N_LINKS] = {0}, combine[GRACE_N_STAGES][GRACE_N_LINKS] = {0};
    for (int s = 0; s < GRACE_N_STAGES; s++) {
        memset(c->out[s], 0, (size_t)(c->n_ranks * c->n_ranks) * sizeof(int64_t));
        memset(c->back[s], 0, (size_t)(c->n_ranks * c->n_ranks) * sizeof(int64_t));
    }
    naive_count_token(c, home, ranks, top_k);
    naive_links(c, -1, 1, dispatch, combine);
    for (int s = 0; s < GRACE_N_STAGES; s++)
        for (int link = 0; link < GRACE_N_LINKS; link++) {
            rows[0][link] += chance * (double)dispatch[s][link].rows;
            rows[1][link] += chance * (double)combine[s][link].rows;
        }
}

/* Every combination of ranks that can serve a set. */
static void count_set(naive_count *c, int32_t home, const uint16_t *set, int32_t top_k, const double *chance, double rows[2][GRACE_N_LINKS]) {
    int32_t n_outcomes = 1, ranks[4];
    for (int32_t j = 0; j < top_k; j++) n_outcomes *= c->n_ranks;
    for (int32_t i = 0; i < n_outcomes; i++) {
        double p = 1;
        for (int32_t j = 0, rest = i; j < top_k; j++, rest /= c->n_ranks) {
            ranks[j] = rest % c->n_ranks;
            p *= chance[set[j] * c->n_ranks + ranks[j]];
        }
        if (p > 0) count_outcome(c, home, ranks, top_k, p, rows);
    }
}

static gr_bundle_layer random_bundles(gr_rng *rng, int32_t n, int32_t top_k, bool homes, int32_t n_ranks) {
    gr_bundle_layer b = {.n = n};
    b.experts = calloc((size_t)(n * top_k), sizeof *b.experts);
    b.count = new_ints((size_t)n);
    if (homes) b.home = new_ints((size_t)n);
    if (!b.experts) abort();
    for (int32_t i = 0; i < n; i++) {
        for (int32_t e = 0, j = 0; e < N && j < top_k; e++)
            if ((int32_t)gr_rng_below(rng, (uint32_t)(N - e)) < top_k - j) b.experts[i * top_k + j++] = (uint16_t)e;
        b.count[i] = between(rng, 1, 5);
        b.n_tokens += b.count[i];
        if (homes) b.home[i] = between(rng, 0, n_ranks - 1);
    }
    return b;
}

static void bundles_drop(gr_bundle_layer *b) { free(b->experts), free(b->count), free(b->home); }

/* The replay of every token, home and outcome. rows: a token's dispatched rows, per link; twice that with combine. */
static void replay(const grace_plan *plan, int32_t layer, const gr_bundle_layer *b, grace_route route, grace_exchange exchange,
                   double rows[2][GRACE_N_LINKS]) {
    int32_t n_ranks = grace_cluster_ranks(plan->cluster);
    naive_count c = naive_count_new(plan->cluster, exchange, false);
    double *chance = new_doubles((size_t)(N * n_ranks));
    memset(rows, 0, sizeof(double[2][GRACE_N_LINKS]));
    for (int32_t home = 0; home < n_ranks; home++) {
        replay_turns(plan, layer, home, route, chance);
        for (int32_t i = 0; i < b->n; i++) {
            double one[2][GRACE_N_LINKS] = {{0}};
            if (b->home && b->home[i] != home) continue;
            count_set(&c, home, b->experts + (size_t)(i * plan->top_k), plan->top_k, chance, one);
            for (int d = 0; d < 2; d++)
                for (int link = 0; link < GRACE_N_LINKS; link++)
                    rows[d][link] += one[d][link] * b->count[i] / (double)b->n_tokens / (b->home ? 1 : n_ranks);
        }
    }
    free(chance);
    naive_count_free(&c);
}

static void rows_are_what_a_replay_of_every_token_home_and_turn_counts(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        grace_cluster cluster = {between(&rng, 1, 3), between(&rng, 1, 2)};
        gr_random_plan_options opt = {.n_layers = 1, .n_experts = N, .top_k = between(&rng, 1, 3), .cluster = cluster, .copies = 0.3, .empty = 0.2};
        grace_plan *plan = gr_random_plan(&opt, &rng);
        gr_bundle_layer b = random_bundles(&rng, 5, opt.top_k, seed % 3 == 0, grace_cluster_ranks(cluster));
        grace_route route = seed % 4 < 2 ? GRACE_ROUTE_TAR : seed % 4 == 2 ? GRACE_ROUTE_WRR : GRACE_ROUTE_PRIMARY;
        double rows[2][GRACE_N_LINKS], flat[2][GRACE_N_LINKS];
        gr_shares shares;
        gr_rows_cost cost;
        claim(gr_shares_build_for(plan, 0, route, &shares) == GRACE_OK && gr_cost_rows(&shares, &b, opt.top_k, &cost) == GRACE_OK, seed);
        replay(plan, 0, &b, route, GRACE_EXCHANGE_HSC, rows);
        replay(plan, 0, &b, route, GRACE_EXCHANGE_FLAT, flat);
        claim(fabs(cost.cross - rows[0][GRACE_LINK_CROSS]) < 1e-9 && fabs(cost.intra - rows[0][GRACE_LINK_INTRA]) < 1e-9, seed);
        claim(fabs(cost.flat_cross - flat[0][GRACE_LINK_CROSS]) < 1e-9 && fabs(cost.flat_intra - flat[0][GRACE_LINK_INTRA]) < 1e-9, seed);
        for (int link = 0; link < GRACE_N_LINKS; link++) claim(fabs(rows[0][link] - rows[1][link]) < 1e-9, seed);      /* combine: as many back */
        gr_shares_free(&shares);
        bundles_drop(&b);
        grace_plan_free(plan);
    }
}

static void loads_are_what_a_replay_of_every_home_and_turn_counts(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        grace_cluster cluster = {between(&rng, 1, 4), between(&rng, 1, 3)};
        gr_random_plan_options opt = {.n_layers = 1, .n_experts = N, .top_k = 2, .cluster = cluster, .copies = 0.4, .empty = 0.1};
        grace_plan *plan = gr_random_plan(&opt, &rng);
        int32_t n_ranks = grace_cluster_ranks(cluster);
        double *got = new_doubles((size_t)n_ranks), *expected = new_doubles((size_t)n_ranks), *chance = new_doubles((size_t)(N * n_ranks)), load[N];
        gr_shares shares;
        for (int32_t e = 0; e < N; e++) load[e] = between(&rng, 0, 50);
        for (int32_t home = 0; home < n_ranks; home++) {
            replay_turns(plan, 0, home, GRACE_ROUTE_TAR, chance);
            for (int32_t i = 0; i < N * n_ranks; i++) expected[i % n_ranks] += load[i / n_ranks] * chance[i] / n_ranks;
        }
        claim(gr_shares_build(plan, 0, &shares) == GRACE_OK, seed);
        gr_cost_loads(&shares, load, got);
        for (int32_t r = 0; r < n_ranks; r++) claim(fabs(got[r] - expected[r]) < 1e-9, seed);
        gr_shares_free(&shares);
        free(got), free(expected), free(chance);
        grace_plan_free(plan);
    }
}

/* Two nodes of one GPU, experts 0 and 1 on node 0, 2 on node 1: by hand. */
static void a_token_crosses_once_to_each_remote_node_it_needs(void **state) {
    (void)state;
    grace_plan *plan = NULL;
    static const int32_t rank_of_expert[3] = {0, 0, 1};
    uint16_t sets[] = {0, 1, 0, 2};
    int32_t count[] = {3, 1};
    gr_bundle_layer b = {.n = 2, .experts = sets, .count = count, .n_tokens = 4};
    gr_shares shares;
    gr_rows_cost cost;
    assert_int_equal(gr_plan_new(1, 3, 2, (grace_cluster){2, 1}, &plan), GRACE_OK);
    assert_int_equal(gr_plan_place(plan, 0, rank_of_expert, NULL, 0), GRACE_OK);
    assert_int_equal(gr_shares_build(plan, 0, &shares), GRACE_OK);
    assert_int_equal(gr_cost_rows(&shares, &b, 2, &cost), GRACE_OK);
    assert_true(cost.cross == (3 * 0.5 + 1) / 4 && cost.intra == 0);
    int32_t homes[] = {0, 5};
    b.home = homes;
    assert_int_equal(gr_cost_rows(&shares, &b, 2, &cost), GRACE_ERR_ARG);
    gr_shares_free(&shares);
    grace_plan_free(plan);
}

/* All experts everywhere: nothing moves, whatever the weights, and every rank carries the same. */
static void full_copies_send_nothing(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(5);
    gr_random_plan_options opt = {.n_layers = 1, .n_experts = N, .top_k = 2, .cluster = {2, 2}, .copies = 1.1};
    grace_plan *plan = gr_random_plan(&opt, &rng);
    gr_bundle_layer b = random_bundles(&rng, 20, 2, false, 4);
    double load[N], ranks[4];
    gr_shares shares;
    gr_rows_cost cost;
    for (int32_t e = 0; e < N; e++) load[e] = between(&rng, 1, 50);
    assert_int_equal(gr_shares_build(plan, 0, &shares), GRACE_OK);
    assert_int_equal(gr_cost_rows(&shares, &b, 2, &cost), GRACE_OK);
    gr_cost_loads(&shares, load, ranks);
    assert_true(cost.cross == 0 && cost.intra == 0 && fabs(gr_max_over_mean(ranks, 4) - 1) < 1e-12);
    gr_shares_free(&shares);
    bundles_drop(&b);
    grace_plan_free(plan);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_are_what_a_replay_of_every_token_home_and_turn_counts),
        cmocka_unit_test(loads_are_what_a_replay_of_every_home_and_turn_counts),
        cmocka_unit_test(a_token_crosses_once_to_each_remote_node_it_needs),
        cmocka_unit_test(full_copies_send_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
