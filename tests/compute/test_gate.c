#include "compute/fixture.h"

typedef struct choice { int32_t *ids; float *weights; } choice;

static choice run_gate(gr_compute *c, const matrix *m, const float *x, int32_t n_rows, int32_t top_k, bool norm_topk) {
    gr_weight *w = open_weight(c, m);
    choice out = {malloc((size_t)(n_rows * top_k + 1) * sizeof *out.ids), malloc((size_t)(n_rows * top_k + 1) * sizeof *out.weights)};
    assert_int_equal(c->ops->gate(c, &(gr_router_weights){.w = w}, &(grace_gate){.norm_topk = norm_topk, .scaling = 1}, x, n_rows, top_k, out.ids,
                                  out.weights), GRACE_OK);
    c->ops->weight_close(c, w);
    return out;
}

static void free_choice(choice *c) {
    free(c->ids);
    free(c->weights);
}

/* Probabilities of one row in double, by the definition. */
static void probabilities(const matrix *m, const float *x, double *p) {
    double sum = 0, top = -INFINITY;
    for (int64_t e = 0; e < m->t.rows; e++) {
        p[e] = 0;
        for (int64_t k = 0; k < m->t.cols; k++) p[e] += (double)x[k] * m->value[e * m->t.cols + k];
        if (p[e] > top) top = p[e];
    }
    for (int64_t e = 0; e < m->t.rows; e++) sum += p[e] = exp(p[e] - top);
    for (int64_t e = 0; e < m->t.rows; e++) p[e] /= sum;
}

/* Each chosen weight is the probability of its expert, they fall, and nothing left out is larger. relative: logits of size up to 20 carry
 * an absolute error of (cols/16 + 5) eps * sum |x w|, which exp turns into a relative one. */
static void check_choice(const matrix *m, const float *x, const choice *c, int32_t n_rows, int32_t top_k, bool norm_topk) {
    double p[200];
    const double relative = (double)EPS_F32 * ((double)m->t.cols / 16 + 5) * (double)m->t.cols + 40 * (double)EPS_F32;
    for (int32_t row = 0; row < n_rows; row++) {
        const int32_t *ids = c->ids + row * top_k;
        const float *weights = c->weights + row * top_k;
        double chosen = 0, largest_left = 0;
        probabilities(m, x + row * m->t.cols, p);
        for (int32_t i = 0; i < top_k; i++) chosen += p[ids[i]];
        for (int32_t i = 0; i < top_k; i++) {
            const double wanted = norm_topk ? p[ids[i]] / chosen : p[ids[i]];
            assert_close((double)weights[i], wanted, relative * wanted, "weight", row * top_k + i);
            if (i) assert_true(weights[i] <= weights[i - 1]);
        }
        const double last = p[ids[top_k - 1]];
        for (int32_t i = 0; i < top_k; i++) {
            assert_true(p[ids[i]] >= 0);        /* no id twice */
            p[ids[i]] = -1;
        }
        for (int64_t e = 0; e < m->t.rows; e++) largest_left = p[e] > largest_left ? p[e] : largest_left;
        assert_true(largest_left <= last * (1 + relative));
    }
}

static void weights_are_the_largest_probabilities_on_every_backend(void **state) {
    (void)state;
    static const int32_t shapes[][3] = {{64, 48, 8}, {8, 5, 2}, {130, 33, 6}, {7, 20, 7}, {1, 4, 1}};
    static const grace_dtype dtypes[] = {GRACE_BF16, GRACE_F32, GRACE_F16, GRACE_BF16, GRACE_F32};
    enum { ROWS = 121 };     /* enough work to wake the second thread */
    gr_rng rng = seeded(31);
    many all = open_all();
    for (int i = 0; i < 5; i++) {
        const int32_t top_k = shapes[i][2];
        matrix m = random_matrix(&rng, shapes[i][0], shapes[i][1], dtypes[i]);
        float *x = random_floats(&rng, ROWS * m.t.cols);
        for (int norm = 0; norm < 2; norm++) {
            choice wanted = run_gate(all.c[0], &m, x, ROWS, top_k, norm);
            check_choice(&m, x, &wanted, ROWS, top_k, norm);
            FOR_EACH_BACKEND(c, all) {
                choice got = run_gate(c, &m, x, ROWS, top_k, norm);
                assert_same_bits(got.weights, wanted.weights, ROWS * top_k, gr_compute_cpu_simd(c));
                assert_memory_equal(got.ids, wanted.ids, sizeof(int32_t) * ROWS * (size_t)top_k);
                free_choice(&got);
            }
            free_choice(&wanted);
        }
        free(x);
        free_matrix(&m);
    }
    close_all(&all);
}

static void a_row_alone_chooses_as_in_a_batch(void **state) {
    (void)state;
    enum { ROWS = 19, COLS = 50, EXPERTS = 64, TOP = 8 };
    gr_rng rng = seeded(32);
    many all = open_all();
    matrix m = random_matrix(&rng, EXPERTS, COLS, GRACE_BF16);
    float *x = random_floats(&rng, ROWS * COLS);
    FOR_EACH_BACKEND(c, all) {
        choice batch = run_gate(c, &m, x, ROWS, TOP, false);
        for (int i = 0; i < ROWS; i++) {
            choice one = run_gate(c, &m, x + i * COLS, 1, TOP, false);
            assert_same_bits(one.weights, batch.weights + i * TOP, TOP, "row alone");
            assert_memory_equal(one.ids, batch.ids + i * TOP, TOP * sizeof(int32_t));
            free_choice(&one);
        }
        free_choice(&batch);
    }
    free(x);
    free_matrix(&m);
    close_all(&all);
}

static void equal_probabilities_go_to_the_lower_id(void **state) {
    (void)state;
    static const float rows[6] = {1, 3, 3, 2, 3, 2};     /* one column: the logit of x = 1 */
    static const int32_t wanted[4] = {1, 2, 4, 3};
    matrix m = {{.data = rows, .rows = 6, .cols = 1, .dtype = GRACE_F32}, NULL, NULL};
    many all = open_all();
    FOR_EACH_BACKEND(c, all) {
        const float x = 1;
        choice got = run_gate(c, &m, &x, 1, 4, true);
        assert_memory_equal(got.ids, wanted, sizeof wanted);
        free_choice(&got);
    }
    close_all(&all);
}

static void a_logit_that_is_no_number_fails_and_names_the_row(void **state) {
    (void)state;
    enum { ROWS = 5, COLS = 20, EXPERTS = 9 };
    static const float bad[] = {NAN, INFINITY, -INFINITY};
    gr_rng rng = seeded(33);
    many all = open_all();
    matrix m = random_matrix(&rng, EXPERTS, COLS, GRACE_F32);
    for (int b = 0; b < 3; b++) {
        float *x = random_floats(&rng, ROWS * COLS), weights[ROWS * 2];
        int32_t ids[ROWS * 2];
        x[3 * COLS + 7] = bad[b];
        FOR_EACH_BACKEND(c, all) {
            gr_weight *w = open_weight(c, &m);
            const gr_router_weights router = {.w = w};
            const grace_gate plain = {.scaling = 1};
            assert_int_equal(c->ops->gate(c, &router, &plain, x, ROWS, 2, ids, weights), GRACE_ERR_NUMERIC);
            assert_non_null(strstr(grace_last_error(), "row 3"));
            assert_int_equal(c->ops->gate(c, &router, &plain, x, 3, 2, ids, weights), GRACE_OK);
            assert_int_equal(c->ops->gate(c, &router, &plain, x, 0, 2, ids, weights), GRACE_OK);
            assert_int_equal(c->ops->gate(c, &router, &plain, x, 1, EXPERTS + 1, ids, weights), GRACE_ERR_ARG);
            c->ops->weight_close(c, w);
        }
        free(x);
    }
    free_matrix(&m);
    close_all(&all);
}

/* ---- other rules: a second implementation that ranks everything by counting ---- */

typedef struct rule_case { int32_t n_experts, top_k; grace_gate rule; bool bias, correction; } rule_case;

/* How many of v [n] go before entry i: larger, or equal and earlier. */
static int32_t rank_of(const double *v, int32_t n, int32_t i) {
    int32_t rank = 0;
    for (int32_t j = 0; j < n; j++) rank += v[j] > v[i] || (v[j] == v[i] && j < i);
    return rank;
}

static double best_two(const double *v, int32_t n, int32_t how_many) {
    double sum = 0;
    for (int32_t i = 0; i < n; i++)
        if (rank_of(v, n, i) < how_many) sum += v[i];
    return sum;
}

/* score and choices of every expert of a row; those of groups that are out are -1000. */
static void rank_row(const rule_case *k, const matrix *m, const matrix *bias, const matrix *correction, const float *x, double *score, double *choices) {
    double group[64], total = 0;
    const int32_t n = k->n_experts, size = k->rule.n_groups ? n / k->rule.n_groups : n;
    for (int32_t e = 0; e < n; e++) {
        double logit = k->bias ? bias->value[e] : 0;
        for (int64_t i = 0; i < m->t.cols; i++) logit += (double)x[i] * m->value[e * m->t.cols + i];
        score[e] = k->rule.score == GRACE_SCORE_SIGMOID ? 1 / (1 + exp(-logit)) : exp(logit);
        total += score[e];
    }
    for (int32_t e = 0; e < n; e++) {
        if (k->rule.score == GRACE_SCORE_SOFTMAX) score[e] /= total;
        choices[e] = score[e] + (k->correction ? correction->value[e] : 0);
    }
    for (int32_t g = 0; g < k->rule.n_groups; g++) group[g] = best_two(choices + g * size, size, k->rule.group_best);
    for (int32_t e = 0; k->rule.n_groups && e < n; e++)
        if (rank_of(group, k->rule.n_groups, e / size) >= k->rule.top_groups) choices[e] = -1000;
}

static void check_rule_row(const rule_case *k, const double *score, const double *choices, const int32_t *ids, const float *weights) {
    double sum = 0;
    for (int32_t e = 0; e < k->n_experts; e++)
        if (rank_of(choices, k->n_experts, e) < k->top_k) sum += score[e];
    for (int32_t i = 0; i < k->top_k; i++) {
        const double wanted = score[ids[i]] / (k->rule.norm_topk ? sum : 1) * (double)k->rule.scaling;
        assert_true(rank_of(choices, k->n_experts, ids[i]) < k->top_k);
        assert_close((double)weights[i], wanted, 1e-5 * wanted, "weight", i);
        assert_true(i == 0 || weights[i] < weights[i - 1] || (weights[i] == weights[i - 1] && ids[i] > ids[i - 1]));
    }
}

static void groups_corrections_biases_and_scaling_follow_the_rule_on_every_backend(void **state) {
    (void)state;
    enum { ROWS = 60, COLS = 24 };
    static const rule_case cases[] = {
        {16, 3, {GRACE_SCORE_SIGMOID, 4, 2, 2, true, 2.5f}, false, true},           /* DeepSeek-V3 */
        {12, 3, {GRACE_SCORE_SOFTMAX, 4, 2, 1, false, 4.0f}, false, false},         /* DeepSeek-V2, groups */
        {7, 3, {GRACE_SCORE_SOFTMAX, 0, 0, 0, true, 1.0f}, true, false},            /* gpt-oss */
        {6, 2, {GRACE_SCORE_SIGMOID, 6, 3, 2, true, 1.0f}, true, true},             /* groups of one expert */
        {9, 9, {GRACE_SCORE_SIGMOID, 0, 0, 0, false, 0.5f}, false, true},           /* all are chosen */
    };
    gr_rng rng = seeded(34);
    many all = open_all();
    for (size_t at = 0; at < sizeof cases / sizeof *cases; at++) {
        const rule_case *k = &cases[at];
        matrix m = random_matrix(&rng, k->n_experts, COLS, GRACE_F32), bias = random_matrix(&rng, 1, k->n_experts, GRACE_F32);
        matrix correction = random_matrix(&rng, 1, k->n_experts, GRACE_F32);
        float *x = random_floats(&rng, ROWS * COLS), first[ROWS * 9], weights[ROWS * 9];
        int32_t ids[ROWS * 9], first_ids[ROWS * 9];
        double score[16], choices[16];
        FOR_EACH_BACKEND(c, all) {
            gr_weight *w[3] = {open_weight(c, &m), open_weight(c, &bias), open_weight(c, &correction)};
            const gr_router_weights router = {.w = w[0], .bias = k->bias ? w[1] : NULL, .correction = k->correction ? w[2] : NULL};
            assert_int_equal(c->ops->gate(c, &router, &k->rule, x, ROWS, k->top_k, ids, weights), GRACE_OK);
            if (c == all.c[0]) memcpy(first, weights, sizeof first), memcpy(first_ids, ids, sizeof ids);
            assert_same_bits(weights, first, ROWS * k->top_k, gr_compute_cpu_simd(c));
            assert_memory_equal(ids, first_ids, sizeof *ids * ROWS * (size_t)k->top_k);
            for (int i = 0; i < 3; i++) c->ops->weight_close(c, w[i]);
        }
        for (int32_t row = 0; row < ROWS; row++) {
            rank_row(k, &m, &bias, &correction, x + row * COLS, score, choices);
            check_rule_row(k, score, choices, first_ids + row * k->top_k, first + row * k->top_k);
        }
        free(x);
        free_matrix(&m), free_matrix(&bias), free_matrix(&correction);
    }
    close_all(&all);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(groups_corrections_biases_and_scaling_follow_the_rule_on_every_backend),
        cmocka_unit_test(weights_are_the_largest_probabilities_on_every_backend),
        cmocka_unit_test(a_row_alone_chooses_as_in_a_batch),
        cmocka_unit_test(equal_probabilities_go_to_the_lower_id),
        cmocka_unit_test(a_logit_that_is_no_number_fails_and_names_the_row),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
