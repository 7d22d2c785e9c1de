#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "plan/bundle.h"
#include "plan/trace_cases.h"

/* Tokens with exactly this set in a layer, by looking at every token. */
static int64_t count_tokens(const grace_trace *t, int32_t layer, const uint16_t *set, int32_t parity, int32_t home) {
    int32_t k = t->info.top_k;
    int64_t n = 0, token = 0;
    for (int64_t s = 0; s < t->n_segments; s++)
        for (int32_t i = 0; i < t->segments[s].n_tokens; i++, token++) {
            int32_t q = t->segments[s].sequence, same = 0;
            const uint16_t *ids = t->experts + (size_t)(token * t->info.n_layers + layer) * (size_t)k;
            for (int32_t a = 0; a < k; a++)
                for (int32_t b = 0; b < k; b++) same += ids[a] == set[b];
            n += same == k && (parity < 0 || q % 2 == parity) && (home < 0 || t->sequences[q].home == home);
        }
    return n;
}

static void bundles_are_the_distinct_sets_with_their_tokens(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 12; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        trace_case c = {2, 6, between(&rng, 1, 3), 4, 30, 2, 0.3};
        grace_trace *t = make_trace(&rng, &c);
        grace_bundles *b = NULL;
        int32_t parity = (int32_t)(seed % 3) - 1;
        bool homes = seed % 2;
        claim(grace_bundles_build(t, &(grace_selection){.sequences = (grace_sequences)(parity + 1)}, homes, GRACE_BUNDLES_DEFAULT, &b) == GRACE_OK, seed);
        for (int32_t l = 0; l < 2; l++) {
            const gr_bundle_layer *bl = &b->layers[l];
            int64_t n = 0;
            claim(bl->n_tokens == (parity < 0 ? 120 : 60) && (bl->home != NULL) == homes, seed);
            for (int32_t i = 0; i < bl->n; i++) {
                const uint16_t *set = bl->experts + (size_t)(i * c.top_k);
                for (int32_t j = 1; j < c.top_k; j++) claim(set[j] > set[j - 1], seed);
                claim(bl->count[i] == count_tokens(t, l, set, parity, homes ? bl->home[i] : -1), seed);
                n += bl->count[i];
            }
            claim(n == bl->n_tokens, seed);
        }
        grace_bundles_free(b);
        grace_trace_close(t);
    }
}

/* More sets than fit: a regular sample, in bounded memory, that still covers the trace. */
static void too_many_sets_are_sampled(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(9);
    trace_case c = {2, 64, 4, 4, 500, 2, 0.5};
    grace_trace *t = make_trace(&rng, &c);
    grace_bundles *b = NULL;
    assert_int_equal(grace_bundles_build(t, NULL, false, 300, &b), GRACE_OK);
    for (int32_t l = 0; l < 2; l++) {
        assert_in_range(b->layers[l].n, 100, 300);
        assert_int_equal(b->layers[l].n_tokens, 2000 / 8);
    }
    grace_bundles_free(b);
    grace_trace_close(t);
}

/* Distinct sets among every stride-th token of a layer, in order of first appearance; first [2000] gets the tokens. */
static int32_t distinct_sets(const grace_trace *t, int32_t layer, int64_t stride, int64_t *first, int32_t *count) {
    int32_t n = 0, k = t->info.top_k;
    for (int64_t token = 0; token < t->n_tokens; token += stride) {
        int32_t i = 0;
        for (; i < n; i++) {
            int32_t same = 0;
            for (int32_t a = 0; a < k; a++)
                for (int32_t b = 0; b < k; b++)
                    same += t->experts[(token * t->info.n_layers + layer) * k + a] == t->experts[(first[i] * t->info.n_layers + layer) * k + b];
            if (same == k) break;
        }
        if (i == n) first[n] = token, count[n++] = 0;
        count[i]++;
    }
    return n;
}

/* Each layer takes the first of all tokens, every 2nd, every 4th, ... whose sets fit, and exactly their sets and counts. */
static void a_sample_is_the_first_regular_one_that_fits(void **state) {
    (void)state;
    static int64_t first[2000];
    static int32_t count[2000];
    for (uint64_t seed = 1; seed <= 6; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        trace_case c = {2, 16, between(&rng, 1, 4), 5, 200, 2, 0.5};
        grace_trace *t = make_trace(&rng, &c);
        grace_bundles *b = NULL;
        int32_t n_max = between(&rng, 1, 150);
        claim(grace_bundles_build(t, NULL, false, n_max, &b) == GRACE_OK, seed);
        for (int32_t l = 0; l < 2; l++) {
            int64_t stride = 1;
            while (distinct_sets(t, l, stride, first, count) > n_max) stride *= 2;
            claim(b->layers[l].n == distinct_sets(t, l, stride, first, count) && b->layers[l].n_tokens == (1000 + stride - 1) / stride, seed);
            for (int32_t i = 0; i < b->layers[l].n; i++) {
                const uint16_t *set = b->layers[l].experts + (size_t)(i * c.top_k), *ids = t->experts + (first[i] * 2 + l) * c.top_k;
                int32_t same = 0;
                for (int32_t a = 0; a < c.top_k; a++)
                    for (int32_t e = 0; e < c.top_k; e++) same += set[a] == ids[e];
                claim(same == c.top_k && b->layers[l].count[i] == count[i], seed);
            }
        }
        grace_bundles_free(b);
        grace_trace_close(t);
    }
}

static void a_selection_without_tokens_has_no_bundles(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(9);
    trace_case c = {1, 8, 2, 1, 5, 2, 0.5};
    grace_trace *t = make_trace(&rng, &c);
    grace_bundles *b = NULL;
    assert_int_equal(grace_bundles_build(t, &(grace_selection){.sequences = GRACE_SEQUENCES_ODD}, false, 300, &b), GRACE_OK);
    assert_true(b->layers[0].n == 0 && b->layers[0].n_tokens == 0);
    grace_bundles_free(b);
    grace_trace_close(t);
}

static void choices_that_cannot_be_are_refused(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(9);
    trace_case c = {1, 8, 2, 1, 5, 2, 0.5};
    grace_trace *t = make_trace(&rng, &c);
    grace_bundles *b = NULL;
    assert_int_equal(grace_bundles_build(t, &(grace_selection){.domains = "prose"}, false, 300, &b), GRACE_ERR_ARG);
    assert_int_equal(grace_bundles_build(t, &(grace_selection){.sequences = (grace_sequences)3}, false, 300, &b), GRACE_ERR_ARG);
    assert_int_equal(grace_bundles_build(t, NULL, false, 0, &b), GRACE_ERR_ARG);
    assert_int_equal(grace_bundles_build(t, NULL, false, GRACE_BUNDLES_MAX + 1, &b), GRACE_ERR_ARG);
    assert_null(b);
    grace_trace_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bundles_are_the_distinct_sets_with_their_tokens),
        cmocka_unit_test(too_many_sets_are_sampled),
        cmocka_unit_test(a_sample_is_the_first_regular_one_that_fits),
        cmocka_unit_test(a_selection_without_tokens_has_no_bundles),
        cmocka_unit_test(choices_that_cannot_be_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
