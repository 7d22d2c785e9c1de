#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "base/rng.h"
#include "interop/files.h"
#include "interop/synth.h"

enum { N = 24, TOP_K = 4, TOKENS = 600, SWEEPS = 30 };

typedef struct counts { double load[N], pair[N][N]; } counts;

static void count(const uint16_t *chosen, int32_t n_tokens, counts *out) {
    memset(out, 0, sizeof *out);
    for (int32_t t = 0; t < n_tokens; t++, chosen += TOP_K)
        for (int a = 0; a < TOP_K; a++) {
            out->load[chosen[a]]++;
            for (int b = 0; b < TOP_K; b++) {
                if (a == b) continue;
                if (chosen[a] == chosen[b]) fail_msg("token %d has expert %d twice", t, chosen[a]);
                out->pair[chosen[a]][chosen[b]]++;
            }
        }
}

/* Tokens that like one of four cliques, some experts hotter than others. */
static void real_tokens(uint64_t seed, uint16_t *chosen) {
    gr_rng rng = gr_rng_seed(seed);
    for (int32_t t = 0; t < TOKENS; t++) {
        uint16_t *ids = chosen + t * TOP_K;
        uint32_t clique = gr_rng_below(&rng, 4);
        for (int k = 0; k < TOP_K;) {
            uint32_t a = gr_rng_below(&rng, 6), b = gr_rng_below(&rng, 6), where = gr_rng_below(&rng, 5) ? clique : gr_rng_below(&rng, 4);
            uint32_t e = where * 6 + (a < b ? a : b);
            bool again = false;
            for (int j = 0; j < k; j++) again |= ids[j] == e;
            if (!again) ids[k++] = (uint16_t)e;
        }
    }
}

/* Pairs that came at least min times, as files list them. */
static size_t list_pairs(const counts *c, double min, gr_pair *pairs) {
    size_t n = 0;
    for (int a = 0; a < N; a++)
        for (int b = a + 1; b < N; b++)
            if (c->pair[a][b] >= min) pairs[n++] = (gr_pair){a, b, c->pair[a][b]};
    return n;
}

static double listed_error(const counts *made, const gr_pair *pairs, size_t n, double scale) {
    double error = 0, sum = 0;
    for (size_t i = 0; i < n; i++) {
        error += fabs(made->pair[pairs[i].a][pairs[i].b] - pairs[i].count * scale);
        sum += pairs[i].count * scale;
    }
    return error / sum;
}

static void loads_hold_and_listed_pairs_come_near(void **state) {
    (void)state;
    static uint16_t real[TOKENS * TOP_K], made[TOKENS * TOP_K];
    static counts c, m;
    gr_pair pairs[N * N];
    for (uint64_t seed = 1; seed <= 4; seed++) {
        gr_synth_fit fit = {0}, flat = {0};
        real_tokens(seed, real);
        count(real, TOKENS, &c);
        size_t n = list_pairs(&c, 40, pairs);
        assert_true(n > 20);
        assert_ok(gr_synth_layer("t", c.load, N, pairs, n, TOKENS, TOP_K, SWEEPS, seed, made, &fit));
        count(made, TOKENS, &m);
        for (int e = 0; e < N; e++) assert_true(m.load[e] == c.load[e]);
        double error = listed_error(&m, pairs, n, 1);
        assert_true(fabs(error - fit.listed_error_sum / fit.listed_sum) < 1e-5);
        assert_true(fit.load_error_max < 1e-9 && fit.all_sum == TOKENS * 6.0);
        if (error > 0.03) fail_msg("seed %d: listed pairs are off by %g", (int)seed, error);
        assert_ok(gr_synth_layer("t", c.load, N, NULL, 0, TOKENS, TOP_K, SWEEPS, seed, made, &flat));
        count(made, TOKENS, &m);
        assert_true(listed_error(&m, pairs, n, 1) > 5 * error);         /* loads alone do not give the pairs */
    }
}

static void fewer_tokens_keep_the_proportions(void **state) {
    (void)state;
    static uint16_t real[TOKENS * TOP_K], made[TOKENS * TOP_K];
    static counts c, m;
    gr_pair pairs[N * N];
    gr_synth_fit fit = {0};
    real_tokens(9, real);
    count(real, TOKENS, &c);
    size_t n = list_pairs(&c, 40, pairs);
    assert_ok(gr_synth_layer("t", c.load, N, pairs, n, 250, TOP_K, SWEEPS, 1, made, &fit));
    count(made, 250, &m);
    for (int e = 0; e < N; e++) assert_true(fabs(m.load[e] - c.load[e] * 250 / TOKENS) < 1);
    assert_true(fit.load_error_max < 1 && fit.load_error_max > 0);
    assert_true(listed_error(&m, pairs, n, 250.0 / TOKENS) < 0.05);
}

static void a_seed_gives_the_same_tokens(void **state) {
    (void)state;
    static uint16_t real[TOKENS * TOP_K], a[TOKENS * TOP_K], b[TOKENS * TOP_K];
    static counts c;
    gr_synth_fit fit = {0};
    real_tokens(3, real);
    count(real, TOKENS, &c);
    assert_ok(gr_synth_layer("t", c.load, N, NULL, 0, TOKENS, TOP_K, 1, 5, a, &fit));
    assert_ok(gr_synth_layer("t", c.load, N, NULL, 0, TOKENS, TOP_K, 1, 5, b, &fit));
    assert_memory_equal(a, b, sizeof a);
    assert_ok(gr_synth_layer("t", c.load, N, NULL, 0, TOKENS, TOP_K, 1, 6, b, &fit));
    assert_true(memcmp(a, b, sizeof a) != 0);
}

static void extremes_are_dealt_too(void **state) {
    (void)state;
    uint16_t made[8 * 4];
    gr_synth_fit fit = {0};
    const double everyone[4] = {8, 8, 8, 8}, favourite[5] = {8, 2, 2, 2, 2};
    const gr_pair pair = {0, 1, 8};
    assert_ok(gr_synth_layer("t", everyone, 4, &pair, 1, 8, 4, 3, 1, made, &fit));      /* top-4 of 4: no choice at all */
    assert_ok(gr_synth_layer("t", favourite, 5, NULL, 0, 8, 2, 3, 1, made, &fit));
    for (int t = 0; t < 8; t++) assert_true(made[2 * t] == 0 || made[2 * t + 1] == 0);
    assert_ok(gr_synth_layer("t", favourite, 5, NULL, 0, 1, 2, 3, 1, made, &fit));
    assert_true(made[0] != made[1]);
}

static void loads_that_cannot_be_are_refused(void **state) {
    (void)state;
    uint16_t made[8 * 4];
    gr_synth_fit fit = {0};
    const double none[3] = {0, 0, 0}, much[3] = {9, 2, 1}, one[3] = {5, 0, 0};
    assert_failed(gr_synth_layer("l", none, 3, NULL, 0, 8, 2, 3, 1, made, &fit), GRACE_ERR_FORMAT, "l: the loads sum to 0");
    assert_failed(gr_synth_layer("l", much, 3, NULL, 0, 6, 2, 3, 1, made, &fit), GRACE_ERR_FORMAT,
                  "expert 0 has load 9, but 12 loads of top-2 come from 6 tokens");
    assert_failed(gr_synth_layer("l", one, 3, NULL, 0, 6, 2, 3, 1, made, &fit), GRACE_ERR_FORMAT, "expert 0 has load 5");
    double *many = calloc(65536, sizeof *many);
    many[0] = many[1] = many[2] = 1;
    assert_failed(gr_synth_layer("l", many, 65536, NULL, 0, 1, 2, 3, 1, made, &fit), GRACE_ERR_LIMIT, "l: 65536 experts, tokens are made for at most 4096");
    free(many);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads_hold_and_listed_pairs_come_near),
        cmocka_unit_test(fewer_tokens_keep_the_proportions),
        cmocka_unit_test(a_seed_gives_the_same_tokens),
        cmocka_unit_test(extremes_are_dealt_too),
        cmocka_unit_test(loads_that_cannot_be_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
