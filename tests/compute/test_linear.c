#include "compute/fixture.h"

static const grace_dtype dtypes[] = {GRACE_F32, GRACE_BF16, GRACE_F16};

static float *run_linear(gr_compute *c, const matrix *m, const float *x, int32_t n_rows) {
    gr_weight *w = open_weight(c, m);
    float *out = malloc((size_t)(n_rows * m->t.rows + 1) * sizeof *out);
    assert_int_equal(c->ops->linear(c, w, x, n_rows, out), GRACE_OK);
    c->ops->weight_close(c, w);
    return out;
}

/* A product meets at most cols/16 + 1 roundings in its partial sum and 4 in the fold, each at most eps of what was summed so far. */
static void check_against_double(const float *out, const matrix *m, const float *x, int32_t n_rows) {
    const int64_t rows = m->t.rows, cols = m->t.cols;
    for (int32_t i = 0; i < n_rows; i++)
        for (int64_t o = 0; o < rows; o++) {
            double sum = 0, scale = 0;
            for (int64_t k = 0; k < cols; k++) {
                const double product = (double)x[i * cols + k] * m->value[o * cols + k];
                sum += product;
                scale += fabs(product);
            }
            assert_close((double)out[i * rows + o], sum, (double)(cols / 16 + 5) * (double)EPS_F32 * scale, "linear", i * rows + o);
        }
}

/* The order that compute.h states, written down once more without any vector. */
static float canonical_dot(const float *x, const double *w, int64_t n) {
    float p[16] = {0};
    for (int64_t k = 0; k < (n + 15) / 16 * 16; k++) p[k % 16] = fmaf(k < n ? x[k] : 0.0f, k < n ? (float)w[k] : 0.0f, p[k % 16]);
    for (int half = 8; half > 0; half /= 2)
        for (int j = 0; j < half; j++) p[j] += p[j + half];
    return p[0];
}

static void check_shape(many *all, gr_rng *rng, int64_t rows, int64_t cols, int32_t n_rows, grace_dtype dtype) {
    matrix m = random_matrix(rng, rows, cols, dtype);
    float *x = random_floats(rng, n_rows * cols), *wanted = malloc((size_t)(n_rows * rows + 1) * sizeof *wanted);
    for (int64_t i = 0; i < n_rows * rows; i++) wanted[i] = canonical_dot(x + i / rows * cols, m.value + i % rows * cols, cols);
    check_against_double(wanted, &m, x, n_rows);
    FOR_EACH_BACKEND(c, *all) {
        float *out = run_linear(c, &m, x, n_rows);
        assert_same_bits(out, wanted, n_rows * rows, gr_compute_cpu_simd(c));
        free(out);
    }
    free(x);
    free(wanted);
    free_matrix(&m);
}

static void every_level_and_thread_count_adds_in_the_stated_order(void **state) {
    (void)state;
    static const int32_t row_counts[] = {0, 1, 2, 5, 17};
    gr_rng rng = seeded(11);
    many all = open_all();
    for (int64_t cols = 1; cols <= 100; cols += cols < 34 ? 1 : 11)
        for (int r = 0; r < 5; r++) check_shape(&all, &rng, 1 + gr_rng_below(&rng, 40), cols, row_counts[r], dtypes[gr_rng_below(&rng, 3)]);
    close_all(&all);
}

static void the_models_shapes_add_in_the_stated_order(void **state) {
    (void)state;
    gr_rng rng = seeded(12);
    many all = open_all();
    check_shape(&all, &rng, 8, 192, 256, GRACE_BF16);
    check_shape(&all, &rng, 22, 48, 256, GRACE_BF16);
    for (int d = 0; d < 3; d++) {
        check_shape(&all, &rng, 48, 192, 17, dtypes[d]);
        check_shape(&all, &rng, 192, 48, 17, dtypes[d]);
        check_shape(&all, &rng, 10, 2048, 17, dtypes[d]);
        check_shape(&all, &rng, 3, 9000, 14, dtypes[d]);        /* wider than the widening block */
    }
    close_all(&all);
}

static void a_row_alone_equals_the_row_in_a_batch(void **state) {
    (void)state;
    enum { ROWS = 33, COLS = 77, OUTS = 130 };
    gr_rng rng = seeded(13);
    many all = open_all();
    matrix m = random_matrix(&rng, OUTS, COLS, GRACE_BF16);
    float *x = random_floats(&rng, ROWS * COLS);
    FOR_EACH_BACKEND(c, all) {
        float *batch = run_linear(c, &m, x, ROWS);
        for (int i = 0; i < ROWS; i++) {
            float *one = run_linear(c, &m, x + i * COLS, 1);
            assert_same_bits(one, batch + i * OUTS, OUTS, "row alone");
            free(one);
        }
        free(batch);
    }
    free(x);
    free_matrix(&m);
    close_all(&all);
}

static void weights_at_odd_addresses_are_read_where_they_lie(void **state) {
    (void)state;
    enum { ROWS = 9, COLS = 35, OUTS = 21 };
    gr_rng rng = seeded(14);
    many all = open_all();
    float *x = random_floats(&rng, ROWS * COLS);
    for (int d = 0; d < 3; d++) {
        matrix m = random_matrix(&rng, OUTS, COLS, dtypes[d]), odd = m;
        const size_t bytes = OUTS * COLS * (dtypes[d] == GRACE_F32 ? 4 : 2);
        uint8_t *memory = malloc(bytes + 1);
        memcpy(memory + 1, m.memory, bytes);
        odd.t.data = memory + 1;
        FOR_EACH_BACKEND(c, all) {
            float *even_out = run_linear(c, &m, x, ROWS), *odd_out = run_linear(c, &odd, x, ROWS);
            assert_same_bits(odd_out, even_out, ROWS * OUTS, "odd address");
            free(even_out);
            free(odd_out);
        }
        free(memory);
        free_matrix(&m);
    }
    free(x);
    close_all(&all);
}

static void special_values_of_f16_widen_exactly(void **state) {
    (void)state;
    static const uint16_t halves[] = {0x0000, 0x8000, 0x0001, 0x83ff, 0x0400, 0x3c00, 0xc000, 0x7bff, 0x7c00, 0xfc00};
    static const float wanted[] = {0.0f, -0.0f, 0x1p-24f, -0x3ffp-24f, 0x1p-14f, 1.0f, -2.0f, 65504.0f, INFINITY, -INFINITY};
    enum { N = sizeof halves / sizeof *halves };
    const grace_tensor t = {.data = halves, .rows = N, .cols = 1, .dtype = GRACE_F16};
    many all = open_all();
    FOR_EACH_BACKEND(c, all) {
        gr_weight *w = NULL;
        float out[N];
        const int32_t ids[N] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9};
        assert_int_equal(c->ops->weight_open(c, &t, &w), GRACE_OK);
        assert_int_equal(c->ops->embed(c, w, ids, NULL, N, out), GRACE_OK);
        assert_same_bits(out, wanted, N, "f16");
        c->ops->weight_close(c, w);
    }
    close_all(&all);
}

/* 3 heads of 5 outputs from 20 inputs, 7 elements behind each piece carried along. */
static void every_head_meets_its_own_piece_and_carries_the_rest(void **state) {
    (void)state;
    enum { HEADS = 3, OUTS = 5, COLS = 20, KEPT = 7, ROWS = 41, IN = COLS + KEPT, OUT = OUTS + KEPT };
    gr_rng rng = seeded(15);
    many all = open_all();
    matrix m = random_matrix(&rng, HEADS * OUTS, COLS, GRACE_BF16);
    float *x = random_floats(&rng, ROWS * HEADS * IN), *out = malloc(sizeof(float) * ROWS * HEADS * OUT), *one = malloc(sizeof(float) * HEADS * OUT);
    float *first = malloc(sizeof(float) * ROWS * HEADS * OUT);
    FOR_EACH_BACKEND(c, all) {
        gr_weight *w = open_weight(c, &m);
        assert_int_equal(c->ops->linear_heads(c, w, HEADS, KEPT, x, ROWS, out), GRACE_OK);
        if (c == all.c[0]) memcpy(first, out, sizeof(float) * ROWS * HEADS * OUT);
        assert_same_bits(out, first, ROWS * HEADS * OUT, gr_compute_cpu_simd(c));
        for (int row = 0; row < ROWS; row += 8) {
            assert_int_equal(c->ops->linear_heads(c, w, HEADS, KEPT, x + row * HEADS * IN, 1, one), GRACE_OK);
            assert_same_bits(one, first + row * HEADS * OUT, HEADS * OUT, "a row alone");
        }
        assert_int_equal(c->ops->linear_heads(c, w, 4, KEPT, x, ROWS, out), GRACE_ERR_ARG);
        assert_int_equal(c->ops->linear_heads(c, w, HEADS, KEPT, x, 0, out), GRACE_OK);
        c->ops->weight_close(c, w);
    }
    for (int piece = 0; piece < ROWS * HEADS; piece++) {
        const float *from = x + piece * IN, *to = first + piece * OUT;
        for (int o = 0; o < OUTS; o++) {
            double sum = 0, size = 0;
            for (int k = 0; k < COLS; k++) {
                const double product = (double)from[k] * m.value[(piece % HEADS * OUTS + o) * COLS + k];
                sum += product, size += fabs(product);
            }
            assert_close((double)to[o], sum, (COLS / 16 + 5) * (double)EPS_F32 * size, "linear_heads", o);
        }
        assert_memory_equal(to + OUTS, from + COLS, KEPT * sizeof *to);
    }
    free(x), free(out), free(one), free(first);
    free_matrix(&m);
    close_all(&all);
}

/* Stacked weights give their outputs side by side, each with its bias; linear_add adds them to what is there. */
static void a_stack_is_its_parts_side_by_side(void **state) {
    (void)state;
    enum { ROWS = 7, COLS = 40, A = 24, B = 9, ALL = A + B };
    gr_rng rng = seeded(18);
    many all = open_all();
    matrix m[2] = {random_matrix(&rng, A, COLS, GRACE_BF16), random_matrix(&rng, B, COLS, GRACE_BF16)}, bias = random_matrix(&rng, 1, B, GRACE_F32);
    float *x = random_floats(&rng, ROWS * COLS), *before = random_floats(&rng, ROWS * ALL), part[2][ROWS * A], out[ROWS * ALL], sum[ROWS * ALL];
    FOR_EACH_BACKEND(c, all) {
        gr_weight *w[2] = {open_weight(c, &m[0]), open_weight(c, &m[1])}, *stack = NULL;
        assert_int_equal(c->ops->stack_open(c, (grace_tensor[]){m[0].t, m[1].t}, (grace_tensor[]){{0}, bias.t}, 2, &stack), GRACE_OK);
        for (int i = 0; i < 2; i++) assert_int_equal(c->ops->linear(c, w[i], x, ROWS, part[i]), GRACE_OK);
        assert_int_equal(c->ops->linear(c, stack, x, ROWS, out), GRACE_OK);
        memcpy(sum, before, sizeof sum);
        assert_int_equal(c->ops->linear_add(c, stack, x, ROWS, sum), GRACE_OK);
        for (int row = 0; row < ROWS; row++)
            for (int i = 0; i < ALL; i++) {
                const float wanted = i < A ? part[0][row * A + i] : part[1][row * B + i - A] + (float)bias.value[i - A];
                assert_true(out[row * ALL + i] == wanted);
                assert_true(sum[row * ALL + i] == before[row * ALL + i] + wanted);
            }
        c->ops->weight_close(c, stack);
        for (int i = 0; i < 2; i++) c->ops->weight_close(c, w[i]);
    }
    free(x), free(before);
    free_matrix(&m[0]), free_matrix(&m[1]), free_matrix(&bias);
    close_all(&all);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_head_meets_its_own_piece_and_carries_the_rest),
        cmocka_unit_test(a_stack_is_its_parts_side_by_side),
        cmocka_unit_test(every_level_and_thread_count_adds_in_the_stated_order),
        cmocka_unit_test(the_models_shapes_add_in_the_stated_order),
        cmocka_unit_test(a_row_alone_equals_the_row_in_a_batch),
        cmocka_unit_test(weights_at_odd_addresses_are_read_where_they_lie),
        cmocka_unit_test(special_values_of_f16_widen_exactly),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
