#include "compute/fixture.h"

static void an_unknown_level_or_thread_count_is_refused(void **state) {
    (void)state;
    gr_compute *c = NULL;
    assert_int_equal(gr_compute_cpu_open("sse9", 1, &c), GRACE_ERR_ARG);
    assert_non_null(strstr(grace_last_error(), "sse9"));
    assert_int_equal(gr_compute_cpu_open("auto", -1, &c), GRACE_ERR_ARG);
    assert_int_equal(gr_compute_cpu_open("auto", 1000000, &c), GRACE_ERR_ARG);
    assert_null(c);
}

static void automatic_choice_opens_and_names_its_level(void **state) {
    (void)state;
    gr_compute *c = NULL;
    assert_int_equal(gr_compute_cpu_open("auto", 0, &c), GRACE_OK);
    const char *level = gr_compute_cpu_simd(c);
    assert_true(!strcmp(level, "portable") || !strcmp(level, "avx2") || !strcmp(level, "avx512"));
    assert_string_equal(c->ops->name, "cpu");
    c->ops->free(c);
    gr_compute *again = NULL;
    assert_int_equal(gr_compute_cpu_open("portable", 1, &again), GRACE_OK);
    assert_string_equal(gr_compute_cpu_simd(again), "portable");
    again->ops->free(again);
}

static void memory_is_zeroed_and_aligned_and_absurd_sizes_fail(void **state) {
    (void)state;
    many all = open_all();
    gr_compute *c = all.c[0];
    static const size_t sizes[] = {0, 1, 100, 4096};
    for (int i = 0; i < 4; i++) {
        uint8_t *p = NULL;
        assert_int_equal(c->ops->alloc(c, sizes[i], (void **)&p), GRACE_OK);
        assert_int_equal((uintptr_t)p % 64, 0);
        for (size_t b = 0; b < sizes[i]; b++) assert_int_equal(p[b], 0);
        c->ops->release(c, p);
    }
    void *p = NULL;
    assert_int_equal(c->ops->alloc(c, SIZE_MAX - 3, &p), GRACE_ERR_MEMORY);
    assert_null(p);
    close_all(&all);
}

static void a_weight_without_data_or_size_is_refused(void **state) {
    (void)state;
    many all = open_all();
    gr_weight *w = NULL;
    const float x[1] = {0};
    FOR_EACH_BACKEND(c, all) {
        assert_int_equal(c->ops->weight_open(c, &(grace_tensor){.rows = 1, .cols = 1}, &w), GRACE_ERR_ARG);
        assert_int_equal(c->ops->weight_open(c, &(grace_tensor){.data = x, .rows = 0, .cols = 1}, &w), GRACE_ERR_LIMIT);
        assert_int_equal(c->ops->weight_open(c, &(grace_tensor){.data = x, .rows = 1, .cols = (int64_t)1 << 40}, &w), GRACE_ERR_LIMIT);
        c->ops->weight_close(c, NULL);
    }
    assert_null(w);
    close_all(&all);
}

static void embedding_widens_the_chosen_rows(void **state) {
    (void)state;
    enum { ROWS = 7, COLS = 21, N = 4 };
    static const int32_t ids[N] = {6, 0, 3, 6};
    gr_rng rng = seeded(51);
    many all = open_all();
    for (int d = 0; d < 3; d++) {
        matrix m = random_matrix(&rng, ROWS, COLS, (grace_dtype[]){GRACE_F32, GRACE_BF16, GRACE_F16}[d]);
        FOR_EACH_BACKEND(c, all) {
            gr_weight *w = open_weight(c, &m);
            float out[N * COLS];
            assert_int_equal(c->ops->embed(c, w, ids, NULL, N, out), GRACE_OK);
            for (int i = 0; i < N * COLS; i++) assert_true((double)out[i] == m.value[ids[i / COLS] * COLS + i % COLS]);
            assert_int_equal(c->ops->embed(c, w, (const int32_t[]){ROWS}, NULL, 1, out), GRACE_ERR_ARG);
            assert_int_equal(c->ops->embed(c, w, (const int32_t[]){-1}, NULL, 1, out), GRACE_ERR_ARG);
            static const int32_t unknown[N] = {-2, 0, -1, -2}, drawn[2] = {3, 6};
            assert_int_equal(c->ops->embed(c, w, unknown, drawn, N, out), GRACE_OK);
            for (int i = 0; i < N * COLS; i++) assert_true((double)out[i] == m.value[ids[i / COLS] * COLS + i % COLS]);
            assert_int_equal(c->ops->embed(c, w, unknown, (const int32_t[]){3, ROWS}, N, out), GRACE_ERR_ARG);
            c->ops->weight_close(c, w);
        }
        free_matrix(&m);
    }
    close_all(&all);
}

/* The sum of squares rounds cols/16 + 5 times relative to itself, half of which reaches the root; then root, division, two products. */
static void check_norm(const float *x, const double *w, float eps, const float *out, int64_t cols) {
    double sum = 0;
    for (int64_t k = 0; k < cols; k++) sum += (double)x[k] * (double)x[k];
    const double scale = 1 / sqrt(sum / (double)cols + (double)eps), relative = ((double)cols / 32 + 8) * (double)EPS_F32;
    for (int64_t k = 0; k < cols; k++) assert_close((double)out[k], (double)x[k] * scale * w[k], relative * fabs((double)x[k] * scale * w[k]), "norm", k);
}

static void norm_agrees_with_double_in_place_and_row_by_row(void **state) {
    (void)state;
    enum { ROWS = 110 };      /* enough work at the last width to wake the second thread */
    static const int32_t widths[] = {1, 15, 16, 33, 192, 2048};
    gr_rng rng = seeded(52);
    many all = open_all();
    for (int i = 0; i < 6; i++) {
        const int32_t cols = widths[i];
        matrix m = random_matrix(&rng, 1, cols, (grace_dtype[]){GRACE_F32, GRACE_BF16, GRACE_F16}[i % 3]);
        float *x = random_floats(&rng, ROWS * cols), *wanted = malloc(sizeof *x * (size_t)(ROWS * cols)), *out = malloc(sizeof *x * (size_t)(ROWS * cols));
        FOR_EACH_BACKEND(c, all) {
            gr_weight *w = open_weight(c, &m);
            memcpy(out, x, sizeof *x * (size_t)(ROWS * cols));
            assert_int_equal(c->ops->norm(c, w, 1e-5f, out, ROWS, out), GRACE_OK);
            if (c == all.c[0]) memcpy(wanted, out, sizeof *x * (size_t)(ROWS * cols));
            assert_same_bits(out, wanted, ROWS * cols, gr_compute_cpu_simd(c));
            assert_int_equal(c->ops->norm(c, w, 1e-5f, x + 5 * cols, 1, out), GRACE_OK);
            assert_same_bits(out, wanted + 5 * cols, cols, "row alone");
            c->ops->weight_close(c, w);
        }
        for (int r = 0; r < ROWS; r++) check_norm(x + r * cols, m.value, 1e-5f, wanted + r * cols, cols);
        free(x), free(wanted), free(out);
        free_matrix(&m);
    }
    close_all(&all);
}

static void gather_copies_rows(void **state) {
    (void)state;
    const float in[] = {1, 2, 3, 4, 5, 6};
    const int32_t index[] = {2, 0, 2};
    many all = open_all();
    FOR_EACH_BACKEND(c, all) {
        float out[6] = {0};
        assert_int_equal(c->ops->gather(c, in, index, 3, 2, out), GRACE_OK);
        assert_memory_equal(out, ((const float[]){5, 6, 1, 2, 5, 6}), sizeof out);
        assert_int_equal(c->ops->gather(c, in, index, 0, 2, out), GRACE_OK);
    }
    close_all(&all);
}

static void sum_rows_adds_in_list_order_with_two_roundings(void **state) {
    (void)state;
    enum { IN = 12, ROWS = 5, WIDTH = 37, PAIRS = 20 };
    static const int32_t first[ROWS + 1] = {0, 3, 3, 11, 12, 20};      /* row 1 has nothing to add */
    gr_rng rng = seeded(53);
    many all = open_all();
    float *in = random_floats(&rng, IN * WIDTH), *weight = random_floats(&rng, PAIRS), *start = random_floats(&rng, ROWS * WIDTH);
    int32_t index[PAIRS];
    for (int i = 0; i < PAIRS; i++) index[i] = (int32_t)gr_rng_below(&rng, IN);
    for (int mode = 0; mode < 4; mode++) {
        const float *used = mode & 1 ? weight : NULL;
        float wanted[ROWS * WIDTH], out[ROWS * WIDTH];
        for (int i = 0; i < ROWS * WIDTH; i++) {
            volatile float sum = 0;             /* volatile: each step rounds to float here, whatever the compiler does */
            for (int32_t j = first[i / WIDTH]; j < first[i / WIDTH + 1]; j++) {
                volatile float product = (used ? used[j] : 1) * in[index[j] * WIDTH + i % WIDTH];
                sum = sum + product;
            }
            wanted[i] = mode & 2 ? start[i] + sum : sum;
        }
        FOR_EACH_BACKEND(c, all) {
            memcpy(out, start, sizeof out);
            assert_int_equal(c->ops->sum_rows(c, in, first, index, used, ROWS, WIDTH, mode & 2, out), GRACE_OK);
            assert_same_bits(out, wanted, ROWS * WIDTH, gr_compute_cpu_simd(c));
            assert_int_equal(c->ops->sum_rows(c, in, first, index, used, 0, WIDTH, false, out), GRACE_OK);
        }
    }
    free(in), free(weight), free(start);
    close_all(&all);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_unknown_level_or_thread_count_is_refused),
        cmocka_unit_test(automatic_choice_opens_and_names_its_level),
        cmocka_unit_test(memory_is_zeroed_and_aligned_and_absurd_sizes_fail),
        cmocka_unit_test(a_weight_without_data_or_size_is_refused),
        cmocka_unit_test(embedding_widens_the_chosen_rows),
        cmocka_unit_test(norm_agrees_with_double_in_place_and_row_by_row),
        cmocka_unit_test(gather_copies_rows),
        cmocka_unit_test(sum_rows_adds_in_list_order_with_two_roundings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
