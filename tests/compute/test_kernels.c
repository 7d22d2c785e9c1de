#include "compute/fixture.h"

#include "compute/cpu/kernels.h"

static const gr_kernels *kernels_of(int level) {
    static const gr_kernels *const all[3] = {
        &gr_kernels_portable,
#ifdef GRACE_X86
        &gr_kernels_avx2, &gr_kernels_avx512,
#endif
    };
    return all[level] && gr_kernels_run_here(all[level]) ? all[level] : NULL;
}

#define FOR_EACH_LEVEL(k) for (int k##_i_ = 0; k##_i_ < 3; k##_i_++) for (const gr_kernels *k = kernels_of(k##_i_); k; k = NULL)

static float exp_of(const gr_kernels *k, float x) {
    k->exp(&x, 1);
    return x;
}

/* Distance from the true value in units of the float's own last place. */
static double ulps(float got, double wanted) { return fabs((double)got - wanted) / ldexp(1, (wanted > 0 ? ilogb(wanted) : -126) - 23); }

static void exp_is_within_one_and_a_half_ulp_over_its_range(void **state) {
    (void)state;
    enum { N = 20001 };
    float x[N], first[N];
    double worst = 0;
    for (int i = 0; i < N; i++) x[i] = (float)(-87.3 + (88.7 + 87.3) * i / (N - 1));
    memcpy(first, x, sizeof x);
    gr_kernels_portable.exp(first, N);
    for (int i = 0; i < N; i++) worst = fmax(worst, ulps(first[i], exp((double)x[i])));
    printf("worst %.3f ulp\n", worst);
    assert_true(worst < 1.5);
    FOR_EACH_LEVEL(k) {
        float y[N];
        memcpy(y, x, sizeof x);
        k->exp(y, N);
        assert_same_bits(y, first, N, k->name);
    }
}

static void exp_is_exact_at_zero_and_tame_at_the_ends(void **state) {
    (void)state;
    FOR_EACH_LEVEL(k) {
        assert_true(exp_of(k, 0.0f) == 1.0f && exp_of(k, -0.0f) == 1.0f);
        assert_true(exp_of(k, -INFINITY) == 0.0f && exp_of(k, -88.0f) == 0.0f && exp_of(k, -1e30f) == 0.0f);
        assert_true(exp_of(k, INFINITY) == INFINITY && exp_of(k, 89.0f) == INFINITY && exp_of(k, 1e30f) == INFINITY);
        assert_true(isnan(exp_of(k, NAN)));
        assert_true(exp_of(k, 88.7f) < INFINITY && exp_of(k, -87.3f) > 0);
    }
}

static void softmax_sums_in_the_canonical_order(void **state) {
    (void)state;
    gr_rng rng = seeded(71);
    for (int32_t n = 1; n < 70; n++) {
        float *x = random_floats(&rng, n), *e = malloc((size_t)n * sizeof *e), p[16] = {0}, top = -INFINITY;
        for (int32_t i = 0; i < n; i++) top = fmaxf(top, x[i]);
        for (int32_t i = 0; i < n; i++) p[i % 16] += e[i] = exp_of(&gr_kernels_portable, x[i] * 0.5f - 0.5f * top);
        for (int half = 8; half > 0; half /= 2)
            for (int j = 0; j < half; j++) p[j] += p[j + half];
        FOR_EACH_LEVEL(k) {
            float *y = malloc((size_t)n * sizeof *y);
            memcpy(y, x, (size_t)n * sizeof *y);
            const float sum = k->softmax(y, n, 0.5f, NULL);
            assert_same_bits(y, e, n, k->name);
            assert_same_bits(&sum, p, 1, k->name);
            free(y);
        }
        free(x), free(e);
    }
}

/* silu loses bits in exp (1.5 ulp), the sum, the quotient and the product. */
static void silu_mul_agrees_with_double_up_to_its_limits(void **state) {
    (void)state;
    enum { N = 403 };
    float gate[N], up[N], first[N];
    gr_rng rng = seeded(72);
    for (int i = 0; i < N; i++) gate[i] = 0.5f * (float)(i - 201), up[i] = uniform(&rng);
    memcpy(first, gate, sizeof gate);
    gr_kernels_portable.silu_mul(first, up, N);
    for (int i = 0; i < N; i++) {
        const double g = (double)gate[i], wanted = g / (1 + exp(-g)) * (double)up[i];
        assert_close((double)first[i], wanted, 6 * (double)EPS_F32 * fabs(wanted) + 1e-36, "silu", i);
    }
    FOR_EACH_LEVEL(k) {
        float y[N];
        memcpy(y, gate, sizeof y);
        k->silu_mul(y, up, N);
        assert_same_bits(y, first, N, k->name);
    }
}

static void clip_bounds_both_sides(void **state) {
    (void)state;
    FOR_EACH_LEVEL(k) {
        float x[] = {-3, -0.5f, 0, 0.5f, 3};
        k->clip(x, 5, 0.5f);
        assert_same_bits(x, (const float[]){-0.5f, -0.5f, 0, 0.5f, 0.5f}, 5, k->name);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_within_one_and_a_half_ulp_over_its_range),
        cmocka_unit_test(exp_is_exact_at_zero_and_tame_at_the_ends),
        cmocka_unit_test(softmax_sums_in_the_canonical_order),
        cmocka_unit_test(silu_mul_agrees_with_double_up_to_its_limits),
        cmocka_unit_test(clip_bounds_both_sides),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
