/* Drawing tokens: compute/cpu/sample.c, and the random numbers of compute/draw.c. */
#include "compute/fixture.h"

typedef struct sampling { float temperature, top_p; int32_t top_k; uint64_t seed; int32_t position; } sampling;

static grace_status sample_one(gr_compute *c, const float *logits, int32_t vocab, sampling s, int32_t *id) {
    const double u = gr_draw_uniform(s.seed, s.position);
    return c->ops->sample(c, logits, 1, vocab, &(gr_draws){&s.temperature, &s.top_p, &s.top_k, &u}, id);
}

static int32_t run_sample(gr_compute *c, const float *logits, int32_t vocab, sampling s) {
    int32_t id = -1;
    assert_int_equal(sample_one(c, logits, vocab, s, &id), GRACE_OK);
    return id;
}

static gr_compute *open_one(void) {
    gr_compute *c = NULL;
    assert_int_equal(gr_compute_cpu_open("auto", 1, &c), GRACE_OK);
    return c;
}

static void temperature_zero_takes_the_largest_and_the_lower_id(void **state) {
    (void)state;
    const float logits[] = {1, 4, -2, 4, 3.5f};
    gr_compute *c = open_one();
    assert_int_equal(run_sample(c, logits, 5, (sampling){.temperature = 0, .top_p = 1, .seed = 1}), 1);
    c->ops->free(c);
}

/* softmax(logits / temperature) in double. */
static void reference(const float *logits, int32_t vocab, double temperature, double *p) {
    double sum = 0;
    for (int32_t i = 0; i < vocab; i++) sum += p[i] = exp((double)logits[i] / temperature);
    for (int32_t i = 0; i < vocab; i++) p[i] /= sum;
}

/* Sets p to zero outside the cut, by full sorting. Returns how many stay. */
static int32_t cut_reference(double *p, int32_t vocab, int32_t top_k, double top_p) {
    int32_t order[64], n_kept = 0;
    for (int32_t i = 0; i < vocab; i++) {
        int32_t at = i;
        for (; at > 0 && p[order[at - 1]] < p[i]; at--) order[at] = order[at - 1];
        order[at] = i;
    }
    const int32_t limit = top_k && top_k < vocab ? top_k : vocab;
    double total = 0, sum = 0;
    for (int32_t i = 0; i < limit; i++) total += p[order[i]];
    for (int32_t i = 0; i < vocab; i++) {
        if (i < limit && (i == 0 || top_p >= 1 || sum < top_p * total)) n_kept++;
        else p[order[i]] = 0;
        sum += p[order[i]];
    }
    double kept = 0;
    for (int32_t i = 0; i < vocab; i++) kept += p[i];
    for (int32_t i = 0; i < vocab; i++) p[i] /= kept;
    return n_kept;
}

/* Chi-square of 10,000 draws; the bound is exceeded by chance once in about 10^5 (normal approximation, 4.3 sigma), and the seed is fixed. */
static void check_distribution(gr_compute *c, const float *logits, int32_t vocab, sampling s) {
    enum { DRAWS = 10000 };
    double p[64], chi = 0;
    int32_t count[64] = {0};
    reference(logits, vocab, (double)s.temperature, p);
    const int32_t n_kept = cut_reference(p, vocab, s.top_k, (double)s.top_p);
    for (s.position = 0; s.position < DRAWS; s.position++) count[run_sample(c, logits, vocab, s)]++;
    for (int32_t i = 0; i < vocab; i++) {
        if (p[i] <= 0 && count[i]) fail_msg("token %d was cut (top_k %d, top_p %g) and drawn %d times", i, s.top_k, (double)s.top_p, count[i]);
        if (p[i] > 0) chi += (count[i] - DRAWS * p[i]) * (count[i] - DRAWS * p[i]) / (DRAWS * p[i]);
    }
    const double freedom = n_kept - 1;
    if (chi > freedom + 4.3 * sqrt(2 * freedom) + 10) fail_msg("chi-square %.1f with %.0f degrees of freedom", chi, freedom);
}

static void draws_follow_the_cut_distribution(void **state) {
    (void)state;
    enum { VOCAB = 40 };
    static const struct { float temperature, top_p; int32_t top_k; } cases[] = {
        {1, 1, 0}, {0.7f, 1, 0}, {1, 1, 5}, {1, 0.8f, 0}, {1.5f, 0.9f, 12}, {1, 1, 1}, {1, 1e-6f, 0}, {1, 1, 100}};
    gr_rng rng = seeded(41);
    gr_compute *c = open_one();
    float logits[VOCAB];
    for (int i = 0; i < VOCAB; i++) logits[i] = 2 * uniform(&rng);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        check_distribution(c, logits, VOCAB, (sampling){.temperature = cases[i].temperature, .top_p = cases[i].top_p, .top_k = cases[i].top_k,
                                                           .seed = 7 + i});
    c->ops->free(c);
}

static void ties_at_the_cut_keep_the_lower_ids(void **state) {
    (void)state;
    const float logits[] = {0, 1, 1, 1, 0.5f};
    gr_compute *c = open_one();
    for (int32_t position = 0; position < 200; position++) {
        const int32_t id = run_sample(c, logits, 5, (sampling){.temperature = 1, .top_p = 1, .top_k = 2, .seed = 3, .position = position});
        assert_true(id == 1 || id == 2);
    }
    c->ops->free(c);
}

static void a_draw_depends_on_seed_and_position_alone(void **state) {
    (void)state;
    enum { VOCAB = 3000 };
    gr_rng rng = seeded(42);
    many all = open_all();
    float *logits = random_floats(&rng, VOCAB);
    int32_t n_changed = 0, previous = -1;
    for (int32_t i = 0; i < 60; i++) {
        const sampling s = {.temperature = 0.9f, .top_p = i % 2 ? 0.95f : 1, .top_k = i % 3 ? 0 : 50, .seed = 5 + (uint64_t)i % 4, .position = i};
        const int32_t wanted = run_sample(all.c[0], logits, VOCAB, s);
        FOR_EACH_BACKEND(c, all) assert_int_equal(run_sample(c, logits, VOCAB, s), wanted);
        n_changed += wanted != previous;
        previous = wanted;
    }
    assert_true(n_changed > 50);
    free(logits);
    close_all(&all);
}

static void impossible_tokens_are_never_drawn_and_bad_logits_fail(void **state) {
    (void)state;
    float logits[] = {-INFINITY, 0, -INFINITY, -1000};
    int32_t id = -1;
    gr_compute *c = open_one();
    sampling s = {.temperature = 1, .top_p = 1, .seed = 9};
    for (s.position = 0; s.position < 500; s.position++) assert_int_equal(run_sample(c, logits, 4, s), 1);
    logits[2] = NAN;
    assert_int_equal(sample_one(c, logits, 4, s, &id), GRACE_ERR_NUMERIC);
    assert_non_null(strstr(grace_last_error(), "token 2"));
    logits[1] = logits[2] = logits[3] = -INFINITY;
    assert_int_equal(sample_one(c, logits, 4, s, &id), GRACE_ERR_NUMERIC);
    s.temperature = -1;
    assert_int_equal(sample_one(c, logits, 4, s, &id), GRACE_ERR_ARG);
    assert_int_equal(id, -1);
    c->ops->free(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(temperature_zero_takes_the_largest_and_the_lower_id),
        cmocka_unit_test(draws_follow_the_cut_distribution),
        cmocka_unit_test(ties_at_the_cut_keep_the_lower_ids),
        cmocka_unit_test(a_draw_depends_on_seed_and_position_alone),
        cmocka_unit_test(impossible_tokens_are_never_drawn_and_bad_logits_fail),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
