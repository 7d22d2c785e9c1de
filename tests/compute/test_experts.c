#include "compute/fixture.h"

enum { SLOTS_MAX = 8 };

/* A random set of experts and pairs; first_pair and row_of_pair as the engine makes them. */
typedef struct expert_case {
    int32_t n_slots, n_rows, width, hidden;
    matrix gate[SLOTS_MAX], up[SLOTS_MAX], down[SLOTS_MAX];
    int32_t first_pair[SLOTS_MAX + 1], *row_of_pair;
    float *in;
} expert_case;

static expert_case build_case(gr_rng *rng, const int32_t *pairs_of_slot, int32_t n_slots, int32_t n_rows, int32_t width, int32_t hidden, grace_dtype dtype) {
    expert_case e = {.n_slots = n_slots, .n_rows = n_rows, .width = width, .hidden = hidden};
    for (int32_t s = 0; s < n_slots; s++) {
        e.gate[s] = random_matrix(rng, width, hidden, dtype);
        e.up[s] = random_matrix(rng, width, hidden, dtype);
        e.down[s] = random_matrix(rng, hidden, width, dtype);
        e.first_pair[s + 1] = e.first_pair[s] + pairs_of_slot[s];
    }
    e.row_of_pair = malloc((size_t)(e.first_pair[n_slots] + 1) * sizeof *e.row_of_pair);
    for (int32_t p = 0; p < e.first_pair[n_slots]; p++) e.row_of_pair[p] = (int32_t)gr_rng_below(rng, (uint32_t)n_rows);
    e.in = random_floats(rng, (int64_t)n_rows * hidden);
    return e;
}

static void free_case(expert_case *e) {
    for (int32_t s = 0; s < e->n_slots; s++) free_matrix(&e->gate[s]), free_matrix(&e->up[s]), free_matrix(&e->down[s]);
    free(e->row_of_pair);
    free(e->in);
}

static float *run_case(gr_compute *c, const expert_case *e, const int32_t *first_pair, const int32_t *row_of_pair) {
    gr_mlp slots[SLOTS_MAX] = {0};
    for (int32_t s = 0; s < e->n_slots; s++)
        slots[s] = (gr_mlp){.gate = open_weight(c, &e->gate[s]), .up = open_weight(c, &e->up[s]), .down = open_weight(c, &e->down[s])};
    const int32_t n_pairs = first_pair[e->n_slots];
    float *out = malloc((size_t)(n_pairs * e->hidden + 1) * sizeof *out);
    const gr_experts call = {.n_slots = e->n_slots, .slots = slots, .first_pair = first_pair, .row_of_pair = row_of_pair, .in = e->in, .out = out};
    assert_int_equal(c->ops->experts(c, &call), GRACE_OK);
    for (int32_t s = 0; s < e->n_slots; s++)
        c->ops->weight_close(c, slots[s].gate), c->ops->weight_close(c, slots[s].up), c->ops->weight_close(c, slots[s].down);
    return out;
}

/* What pair p should be, in double; *bound is what float rounding may add: each product sum rounds at most n/16 + 5 times, silu four
 * times (its exp included), and an error in the hidden value passes the down matrix like the value itself. */
static double reference(const expert_case *e, int32_t s, int32_t row, int32_t out, double *bound) {
    const double *x_gate = e->gate[s].value, *x_up = e->up[s].value, *down = e->down[s].value + (int64_t)out * e->width, eps = (double)EPS_F32;
    const float *x = e->in + (int64_t)row * e->hidden;
    double sum = 0, scale = 0, carried = 0;
    for (int32_t h = 0; h < e->width; h++) {
        double g = 0, u = 0, g_scale = 0, u_scale = 0;
        for (int32_t k = 0; k < e->hidden; k++) {
            g += (double)x[k] * x_gate[h * e->hidden + k];
            u += (double)x[k] * x_up[h * e->hidden + k];
            g_scale += fabs((double)x[k] * x_gate[h * e->hidden + k]);
            u_scale += fabs((double)x[k] * x_up[h * e->hidden + k]);
        }
        const double silu = g / (1 + exp(-g)), error = (e->hidden / 16 + 5) * eps;
        sum += down[h] * silu * u;
        scale += fabs(down[h] * silu * u);
        carried += fabs(down[h]) * (1.1 * g_scale * error * fabs(u) + fabs(silu) * u_scale * error);     /* |silu'| <= 1.1 */
    }
    *bound = carried + (e->width / 16 + 5 + 6) * eps * scale;
    return sum;
}

static void check_reference(const expert_case *e, const float *out) {
    for (int32_t s = 0; s < e->n_slots; s++)
        for (int32_t p = e->first_pair[s]; p < e->first_pair[s + 1]; p += 3)
            for (int32_t o = 0; o < e->hidden; o += 5) {
                double bound, wanted = reference(e, s, e->row_of_pair[p], o, &bound);
                assert_close((double)out[p * e->hidden + o], wanted, bound, "experts", p * e->hidden + o);
            }
}

/* Slots without pairs at the ends and in the middle, one with a tile, one with many. */
static const int32_t pairs_of_slot[SLOTS_MAX] = {0, 1, 6, 0, 50, 2, 13, 0};

static void outputs_agree_with_double_and_all_backends_with_each_other(void **state) {
    (void)state;
    static const int32_t shapes[][2] = {{48, 64}, {37, 19}, {3, 5}, {130, 33}};
    static const grace_dtype dtypes[] = {GRACE_BF16, GRACE_F32, GRACE_F16, GRACE_BF16};
    gr_rng rng = seeded(21);
    many all = open_all();
    for (int i = 0; i < 4; i++) {
        expert_case e = build_case(&rng, pairs_of_slot, SLOTS_MAX, 20, shapes[i][0], shapes[i][1], dtypes[i]);
        float *wanted = run_case(all.c[0], &e, e.first_pair, e.row_of_pair);
        check_reference(&e, wanted);
        FOR_EACH_BACKEND(c, all) {
            float *out = run_case(c, &e, e.first_pair, e.row_of_pair);
            assert_same_bits(out, wanted, e.first_pair[SLOTS_MAX] * e.hidden, gr_compute_cpu_simd(c));
            free(out);
        }
        free(wanted);
        free_case(&e);
    }
    close_all(&all);
}

static void a_pair_alone_equals_the_pair_in_a_batch(void **state) {
    (void)state;
    gr_rng rng = seeded(22);
    many all = open_all();
    expert_case e = build_case(&rng, pairs_of_slot, SLOTS_MAX, 20, 48, 40, GRACE_BF16);
    FOR_EACH_BACKEND(c, all) {
        float *batch = run_case(c, &e, e.first_pair, e.row_of_pair);
        for (int32_t s = 0; s < SLOTS_MAX; s++)
            for (int32_t p = e.first_pair[s]; p < e.first_pair[s + 1]; p += 4) {
                int32_t first[SLOTS_MAX + 1];
                for (int32_t i = 0; i <= SLOTS_MAX; i++) first[i] = i > s;
                float *one = run_case(c, &e, first, e.row_of_pair + p);
                assert_same_bits(one, batch + p * e.hidden, e.hidden, "pair alone");
                free(one);
            }
        free(batch);
    }
    free_case(&e);
    close_all(&all);
}

static void no_pairs_and_no_slots_are_fine(void **state) {
    (void)state;
    gr_rng rng = seeded(23);
    many all = open_all();
    const int32_t none[SLOTS_MAX] = {0};
    expert_case e = build_case(&rng, none, 2, 1, 4, 4, GRACE_BF16);
    FOR_EACH_BACKEND(c, all) {
        free(run_case(c, &e, e.first_pair, e.row_of_pair));
        const gr_experts empty = {0};
        assert_int_equal(c->ops->experts(c, &empty), GRACE_OK);
    }
    free_case(&e);
    close_all(&all);
}

/* gpt-oss: both sides of one hidden value over and under the limit, biases on all three. */
static void clamped_experts_with_biases_agree_with_double_on_every_backend(void **state) {
    (void)state;
    enum { WIDTH = 21, HIDDEN = 18, ROWS = 29 };
    const float limit = 1.5f;
    const int32_t pairs[1] = {ROWS};
    gr_rng rng = seeded(25);
    many all = open_all();
    expert_case e = build_case(&rng, pairs, 1, ROWS, WIDTH, HIDDEN, GRACE_BF16);
    matrix gate_bias = random_matrix(&rng, 1, WIDTH, GRACE_F32), up_bias = random_matrix(&rng, 1, WIDTH, GRACE_F32);
    matrix down_bias = random_matrix(&rng, 1, HIDDEN, GRACE_F32);
    float out[ROWS * HIDDEN], first[ROWS * HIDDEN];
    FOR_EACH_BACKEND(c, all) {
        const gr_mlp mlp = {open_weight(c, &e.gate[0]), open_weight(c, &e.up[0]), open_weight(c, &e.down[0]),
                            open_weight(c, &gate_bias), open_weight(c, &up_bias),   open_weight(c, &down_bias)};
        const gr_experts call = {.n_slots = 1, .slots = &mlp, .swiglu_limit = limit, .first_pair = e.first_pair, .row_of_pair = e.row_of_pair,
                                 .in = e.in, .out = out};
        gr_weight *const weights[] = {mlp.gate, mlp.up, mlp.down, mlp.gate_bias, mlp.up_bias, mlp.down_bias};
        assert_int_equal(c->ops->experts(c, &call), GRACE_OK);
        if (c == all.c[0]) memcpy(first, out, sizeof out);
        assert_same_bits(out, first, ROWS * HIDDEN, gr_compute_cpu_simd(c));
        for (size_t i = 0; i < 6; i++) c->ops->weight_close(c, weights[i]);
    }
    int n_over = 0;
    for (int p = 0; p < ROWS; p++) {
        double hidden[WIDTH];
        const float *x = e.in + e.row_of_pair[p] * HIDDEN;
        for (int h = 0; h < WIDTH; h++) {
            double g = gate_bias.value[h], u = up_bias.value[h];
            for (int k = 0; k < HIDDEN; k++) g += (double)x[k] * e.gate[0].value[h * HIDDEN + k], u += (double)x[k] * e.up[0].value[h * HIDDEN + k];
            n_over += g > (double)limit || fabs(u) > (double)limit;
            g = fmin(g, (double)limit), u = fmax(fmin(u, (double)limit), -(double)limit);
            hidden[h] = g / (1 + exp(-1.702 * g)) * (u + 1);
        }
        for (int o = 0; o < HIDDEN; o++) {
            double sum = down_bias.value[o], size = fabs(sum);
            for (int h = 0; h < WIDTH; h++) sum += hidden[h] * e.down[0].value[o * WIDTH + h], size += fabs(hidden[h] * e.down[0].value[o * WIDTH + h]);
            assert_close((double)first[p * HIDDEN + o], sum, 40 * (double)EPS_F32 * (size + 4 * WIDTH), "clamped", o);
        }
    }
    assert_true(n_over > 50);
    free_case(&e);
    free_matrix(&gate_bias), free_matrix(&up_bias), free_matrix(&down_bias);
    close_all(&all);
}

/* Of every row in its order; by how much a gate lets it through is known in double. */
static void an_mlp_of_every_row_adds_what_its_gate_lets_through(void **state) {
    (void)state;
    enum { WIDTH = 21, HIDDEN = 37, ROWS = 9, N = ROWS * HIDDEN };
    const int32_t pairs[1] = {ROWS};
    gr_rng rng = seeded(26);
    many all = open_all();
    expert_case e = build_case(&rng, pairs, 1, ROWS, WIDTH, HIDDEN, GRACE_F16);
    matrix open = random_matrix(&rng, 1, HIDDEN, GRACE_F16);
    float *x = random_floats(&rng, N), between[N], plain[N], gated[N], first[N];
    for (int i = 0; i < ROWS; i++) e.row_of_pair[i] = i;
    FOR_EACH_BACKEND(c, all) {
        gr_mlp mlp = {.gate = open_weight(c, &e.gate[0]), .up = open_weight(c, &e.up[0]), .down = open_weight(c, &e.down[0])};
        gr_weight *gate = open_weight(c, &open);
        const gr_mlps one = {1, &mlp, NULL};
        gr_mlp_rows m = {.mlp = &one, .n_rows = ROWS, .in = e.in, .between = between, .x = plain};
        float *y = run_case(c, &e, e.first_pair, e.row_of_pair);
        memcpy(plain, x, sizeof plain), memcpy(gated, x, sizeof gated);
        assert_int_equal(c->ops->mlp(c, &m), GRACE_OK);
        for (int i = 0; i < N; i++) assert_true(plain[i] == x[i] + y[i]);
        m.gate = gate, m.x = gated;
        assert_int_equal(c->ops->mlp(c, &m), GRACE_OK);
        if (c == all.c[0]) memcpy(first, gated, sizeof first);
        assert_same_bits(gated, first, N, gr_compute_cpu_simd(c));
        for (int row = 0; row < ROWS; row++) {
            double z = 0;
            for (int i = 0; i < HIDDEN; i++) z += (double)e.in[row * HIDDEN + i] * open.value[i];
            for (int i = row * HIDDEN; i < (row + 1) * HIDDEN; i++) {
                const double part = (double)y[i] / (1 + exp(-z)), wanted = (double)x[i] + part;
                assert_close((double)gated[i], wanted, 1e-5 * fabs(part) + (double)EPS_F32 * fabs(wanted) + 1e-7, "gated", i);
            }
        }
        free(y);
        c->ops->weight_close(c, mlp.gate), c->ops->weight_close(c, mlp.up), c->ops->weight_close(c, mlp.down), c->ops->weight_close(c, gate);
    }
    free(x);
    free_matrix(&open);
    free_case(&e);
    close_all(&all);
}

static void experts_of_another_shape_are_refused(void **state) {
    (void)state;
    gr_rng rng = seeded(24);
    many all = open_all();
    const int32_t one_each[2] = {1, 1};
    expert_case e = build_case(&rng, one_each, 2, 1, 8, 4, GRACE_F32);
    e.down[1].t.cols = 7;
    gr_compute *c = all.c[0];
    gr_mlp slots[2];
    for (int s = 0; s < 2; s++) slots[s] = (gr_mlp){.gate = open_weight(c, &e.gate[s]), .up = open_weight(c, &e.up[s]), .down = open_weight(c, &e.down[s])};
    float out[8];
    const gr_experts call = {.n_slots = 2, .slots = slots, .first_pair = e.first_pair, .row_of_pair = e.row_of_pair, .in = e.in, .out = out};
    assert_int_equal(c->ops->experts(c, &call), GRACE_ERR_ARG);
    assert_non_null(strstr(grace_last_error(), "slot 1"));
    for (int s = 0; s < 2; s++) c->ops->weight_close(c, slots[s].gate), c->ops->weight_close(c, slots[s].up), c->ops->weight_close(c, slots[s].down);
    free_case(&e);
    close_all(&all);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(outputs_agree_with_double_and_all_backends_with_each_other),
        cmocka_unit_test(a_pair_alone_equals_the_pair_in_a_batch),
        cmocka_unit_test(no_pairs_and_no_slots_are_fine),
        cmocka_unit_test(clamped_experts_with_biases_agree_with_double_on_every_backend),
        cmocka_unit_test(an_mlp_of_every_row_adds_what_its_gate_lets_through),
        cmocka_unit_test(experts_of_another_shape_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
