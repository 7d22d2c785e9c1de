/* Where sequences live: plan/home_rows.c, plan/home_assign.c, plan/home_align.c, plan/home_tokens.c. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "plan/budget.h"
#include "plan/bundle.h"
#include "plan/cost.h"
#include "plan/homes.h"
#include "plan/plan_claims.h"
#include "plan/trace_cases.h"

enum { LAYERS = 4, EXPERTS = 16, K = 3, VOCAB = 40 };

/* Sequences of one block each: experts e with e % n_blocks == block, now and then another. Token ids tell the block: id % n_blocks. */
static grace_trace *make_topics(gr_rng *rng, int32_t n_sequences, int32_t n_tokens, int32_t n_blocks) {
    grace_trace *t = NULL;
    grace_trace_info info = {.n_layers = LAYERS, .n_experts = EXPERTS, .top_k = K, .n_ranks = 1, .n_nodes = 1, .vocab = VOCAB};
    trace_case c = {LAYERS, EXPERTS, K, n_sequences, n_tokens, n_blocks, 0.1};
    uint16_t ids[LAYERS * K];
    assert_int_equal(gr_trace_new("topics", &info, &t), GRACE_OK);
    for (int32_t s = 0; s < n_sequences; s++) {
        int32_t block = s / 2 % n_blocks;       /* as many of each, in both halves */
        assert_int_equal(gr_trace_push_sequence("topics", t, (grace_trace_sequence){s, 0, -1}), GRACE_OK);
        assert_int_equal(gr_trace_push_segment("topics", t, (grace_trace_segment){s, 0, n_tokens, s, GRACE_PHASE_UNKNOWN}), GRACE_OK);
        for (int32_t i = 0; i < n_tokens; i++) {
            uint32_t token = (uint32_t)(between(rng, 0, VOCAB / n_blocks - 1) * n_blocks + block);
            for (int32_t l = 0; l < LAYERS; l++)
                for (int32_t j = 0; j < K; j++) ids[l * K + j] = draw_expert(rng, &c, l, block, ids + l * K, j);
            gr_raw_tokens raw = {.experts = (const unsigned char *)ids, .expert_bytes = 2, .ids = (const unsigned char *)&token, .id_bytes = 4};
            assert_int_equal(gr_trace_push_tokens("topics", t, &raw, 1), GRACE_OK);
        }
    }
    return t;
}

static grace_plan *plan_of(const grace_trace *t, grace_cluster cluster) {
    grace_profile *p = NULL;
    grace_plan *plan = NULL;
    grace_plan_options opt = grace_plan_defaults();
    assert_int_equal(grace_profile_build(t, NULL, &p), GRACE_OK);
    assert_int_equal(grace_plan_build(p, cluster, &opt, &plan), GRACE_OK);
    grace_profile_free(p);
    return plan;
}

static double mean_over_nodes(const gr_sends *s, const double *total) {
    double sum = 0;
    for (int32_t i = 0; i < s->n * s->n_nodes; i++) sum += total[i] / s->n_nodes;
    return sum;
}

static double at_homes(const gr_sends *s, const double *total, const int32_t *homes, int32_t gpus) {
    double sum = 0;
    for (int32_t i = 0; i < s->n; i++) sum += total[i * s->n_nodes + homes[i] / gpus];
    return sum;
}

/* The mean over homes is what cost.h expects, which counts ranks, bundles and chances its own way. */
static void rows_over_all_homes_are_the_expected_cost(void **state) {
    (void)state;
    static const grace_cluster clusters[] = {{2, 2}, {4, 2}, {3, 1}};
    for (uint64_t seed = 0; seed < 9; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        grace_trace *t = make_topics(&rng, 8, 20, 4);
        grace_plan *plan = plan_of(t, clusters[seed % 3]);
        grace_trace_reader *r = NULL;
        grace_bundles *b = NULL;
        gr_sends s = {0};
        double cross = 0, total[8 * 4];
        claim(!gr_trace_reader_of(t, &r) && !gr_sends_build(plan, r, NULL, (gr_home_limits){0}, &s) && !grace_bundles_build(t, NULL, false,
                GRACE_BUNDLES_DEFAULT, &b), seed);
        for (int32_t l = 0; l < LAYERS; l++) {
            gr_shares shares;
            gr_rows_cost rows;
            claim(!gr_shares_build(plan, l, &shares) && !gr_cost_rows(&shares, &b->layers[l], K, &rows), seed);
            cross += rows.cross * 8 * 20;
            gr_shares_free(&shares);
        }
        gr_sends_total(&s, total);
        claim(s.n == 8 && s.n_tokens[3] == 20 && fabs(mean_over_nodes(&s, total) - cross) < 1e-3 * cross, seed);
        gr_sends_free(&s);
        grace_trace_reader_close(r), grace_bundles_free(b), grace_plan_free(plan), grace_trace_close(t);
    }
}

/* ---- assignment ---- */

static void claim_balanced(const int32_t *homes, int32_t n, int32_t n_ranks, uint64_t seed) {
    int32_t held[64] = {0};
    for (int32_t i = 0; i < n; i++) {
        claim(homes[i] >= 0 && homes[i] < n_ranks, seed);
        held[homes[i]]++;
    }
    for (int32_t r = 0; r < n_ranks; r++) claim(held[r] == n / n_ranks || held[r] == (n + n_ranks - 1) / n_ranks, seed);
}

static double cost_of(const double *cost, const int32_t *homes, int32_t n, grace_cluster c) {
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += cost[i * c.n_nodes + homes[i] / c.gpus_per_node];
    return sum;
}

/* Every way to give n sequences to two nodes within their numbers. */
static double best_of_two(const double *cost, int32_t n, int32_t gpus) {
    int32_t most = (n + 2 * gpus - 1) / (2 * gpus) * gpus, least = n / (2 * gpus) * gpus;
    double best = INFINITY;
    for (int32_t mask = 0; mask < 1 << n; mask++) {
        double sum = 0;
        int32_t on_one = 0;
        for (int32_t i = 0; i < n; i++) sum += cost[i * 2 + (mask >> i & 1)], on_one += mask >> i & 1;
        if (on_one >= least && on_one <= most && n - on_one >= least && n - on_one <= most) best = fmin(best, sum);
    }
    return best;
}

static void homes_are_balanced_and_on_two_nodes_the_best_there_are(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        grace_cluster cluster = {2, between(&rng, 1, 3)};
        int32_t n = between(&rng, 0, 10), homes[10];
        double cost[20];
        for (int32_t i = 0; i < 2 * n; i++) cost[i] = seed % 2 ? gr_rng_uniform(&rng) : between(&rng, 0, 3);
        claim(gr_homes_assign(cost, n, cluster, NULL, NULL, homes) == GRACE_OK, seed);
        claim_balanced(homes, n, grace_cluster_ranks(cluster), seed);
        claim(fabs(cost_of(cost, homes, n, cluster) - best_of_two(cost, n, cluster.gpus_per_node)) < 1e-9, seed);
    }
}

static void homes_on_many_nodes_beat_turns(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        grace_cluster cluster = {8, 2};
        int32_t n = between(&rng, 40, 90), homes[90], turns[90];
        double cost[90 * 8];
        for (int32_t i = 0; i < 8 * n; i++) cost[i] = gr_rng_uniform(&rng);
        for (int32_t i = 0; i < n; i++) turns[i] = i % 16;
        claim(gr_homes_assign(cost, n, cluster, NULL, NULL, homes) == GRACE_OK, seed);
        claim_balanced(homes, n, 16, seed);
        claim(cost_of(cost, homes, n, cluster) < 0.5 * cost_of(cost, turns, n, cluster), seed);
    }
}

/* ---- labels ---- */

static bool same_copies(const grace_plan *a, const grace_plan *b, int32_t l) {
    for (int32_t e = 0; e < a->n_experts; e++) {
        double wa = 0, wb = 0;
        int32_t na = a->layers[l].slots_first[e + 1] - a->layers[l].slots_first[e], nb = b->layers[l].slots_first[e + 1] - b->layers[l].slots_first[e];
        for (int32_t i = 0; i < na && na == nb; i++) {
            wa += pow((double)a->layers[l].poll_weight[a->layers[l].slots_of_expert[a->layers[l].slots_first[e] + i]], 2);
            wb += pow((double)b->layers[l].poll_weight[b->layers[l].slots_of_expert[b->layers[l].slots_first[e] + i]], 2);
        }
        if (na != nb || fabs(wa - wb) > 1e-6) return false;
    }
    return true;
}

static double sum_of(const double *values, int32_t n) {
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += values[i];
    return sum;
}

static void aligned_labels_gather_a_topics_experts_on_one_node(void **state) {
    (void)state;
    static const grace_cluster clusters[] = {{2, 2}, {4, 1}, {4, 2}};
    int32_t improved = 0;
    for (uint64_t seed = 0; seed < 9; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        grace_cluster cluster = clusters[seed % 3];
        grace_trace *t = make_topics(&rng, 48, 12, cluster.n_nodes);
        grace_plan *plan = plan_of(t, cluster), *before = plan_of(t, cluster);
        grace_trace_reader *r = NULL;
        gr_sends s = {0}, after = {0};
        double total[48 * 4], aligned[48 * 4];
        int32_t homes[48], n_ranks = grace_cluster_ranks(cluster);
        bool changed;
        claim(!gr_trace_reader_of(t, &r) && !gr_sends_build(plan, r, NULL, (gr_home_limits){0}, &s) && !gr_homes_align(plan, &s, &changed), seed);
        claim(!gr_sends_build(plan, r, NULL, (gr_home_limits){0}, &after), seed);
        gr_sends_total(&s, total), gr_sends_total(&after, aligned);
        claim(fabs(mean_over_nodes(&s, total) - mean_over_nodes(&after, aligned)) < 1e-3 * mean_over_nodes(&s, total), seed);
        claim(gr_fullest_rank(plan) <= gr_fullest_rank(before), seed);
        for (int32_t l = 0; l < LAYERS; l++) {
            claim(same_copies(plan, before, l), seed);
            claim(fabs(sum_of(plan->layers[l].load_after, n_ranks) - sum_of(before->layers[l].load_after, n_ranks)) < 1e-6, seed);
        }
        double was = (gr_homes_assign(total, s.n, cluster, NULL, NULL, homes), at_homes(&s, total, homes, cluster.gpus_per_node));
        double is = (gr_homes_assign(aligned, s.n, cluster, NULL, NULL, homes), at_homes(&after, aligned, homes, cluster.gpus_per_node));
        claim(is <= was + 1e-3, seed);
        improved += is < 0.9 * was;
        gr_sends_free(&s), gr_sends_free(&after);
        grace_trace_reader_close(r), grace_plan_free(plan), grace_plan_free(before), grace_trace_close(t);
    }
    assert_true(improved >= 5);
}

/* ---- token ids ---- */

static void token_ids_that_tell_the_topic_choose_nearly_the_best_homes(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 6; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        grace_cluster cluster = {2, 2};
        grace_trace *t = make_topics(&rng, 60, 16, 2);
        grace_plan *plan = plan_of(t, cluster);
        grace_trace_reader *r = NULL;
        grace_selection train = {.sequences = GRACE_SEQUENCES_EVEN}, test = {.sequences = GRACE_SEQUENCES_ODD};
        gr_sends s = {0}, seen = {0};
        grace_token_saves v = {0};
        double total[30 * 2], cost[30 * 2] = {0};
        int32_t homes[30];
        bool changed;
        claim(!gr_trace_reader_of(t, &r) && !gr_sends_build(plan, r, &train, (gr_home_limits){0}, &seen) && !gr_homes_align(plan, &seen, &changed), seed);
        claim(!gr_token_saves_learn(plan, r, &train, 0, &v) && !gr_sends_build(plan, r, &test, (gr_home_limits){0}, &s), seed);
        claim(s.n == 30 && s.index[4] == 9, seed);
        gr_sends_total(&s, total);
        for (int32_t i = 0; i < 30; i++) gr_token_saves_add(&v, grace_trace_token_ids(t) + s.index[i] * 16, 16, cost + 2 * i);
        double random = mean_over_nodes(&s, total);
        double oracle = (gr_homes_assign(total, 30, cluster, NULL, NULL, homes), at_homes(&s, total, homes, 2));
        double vocab = (gr_homes_assign(cost, 30, cluster, NULL, NULL, homes), at_homes(&s, total, homes, 2));
        claim(oracle < random && vocab - oracle < 0.25 * (random - oracle), seed);
        gr_sends_free(&s), gr_sends_free(&seen), gr_token_saves_free(&v);
        grace_trace_reader_close(r), grace_plan_free(plan), grace_trace_close(t);
    }
}

static void a_trace_of_another_shape_or_without_token_ids_is_refused(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(3);
    grace_trace *t = make_topics(&rng, 4, 4, 2), *plain = NULL;
    grace_plan *plan = plan_of(t, (grace_cluster){2, 1}), *other = NULL;
    grace_trace_reader *r = NULL, *q = NULL;
    trace_case c = {LAYERS, EXPERTS, K, 2, 4, 2, 0};
    gr_sends s = {0};
    grace_token_saves v = {0};
    plain = make_trace(&rng, &c);
    assert_int_equal(grace_plan_contiguous(LAYERS + 1, EXPERTS, K, (grace_cluster){2, 1}, &other), GRACE_OK);
    assert_true(!gr_trace_reader_of(t, &r) && !gr_trace_reader_of(plain, &q));
    assert_int_equal(gr_sends_build(other, r, NULL, (gr_home_limits){0}, &s), GRACE_ERR_ARG);
    assert_int_equal(gr_token_saves_learn(plan, q, NULL, 0, &v), GRACE_ERR_ARG);
    assert_non_null(strstr(grace_last_error(), "no token ids"));
    grace_trace_reader_close(r), grace_trace_reader_close(q);
    grace_plan_free(plan), grace_plan_free(other), grace_trace_close(t), grace_trace_close(plain);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_over_all_homes_are_the_expected_cost),
        cmocka_unit_test(homes_are_balanced_and_on_two_nodes_the_best_there_are),
        cmocka_unit_test(homes_on_many_nodes_beat_turns),
        cmocka_unit_test(aligned_labels_gather_a_topics_experts_on_one_node),
        cmocka_unit_test(token_ids_that_tell_the_topic_choose_nearly_the_best_homes),
        cmocka_unit_test(a_trace_of_another_shape_or_without_token_ids_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
