/* What the tests of the compute backend share: backends of every level this machine has, random weights of every type with their
 * exact values in double, and comparisons. */
#ifndef GR_TESTS_COMPUTE_FIXTURE_H
#define GR_TESTS_COMPUTE_FIXTURE_H
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/rng.h"
#include "compute/compute.h"

#define EPS_F32 0x1p-24f

/* ---- backends: portable with one thread is the reference, the others must repeat its bits ---- */
enum { MANY_MAX = 6 };
typedef struct many { gr_compute *c[MANY_MAX]; int n; } many;

static inline many open_all(void) {
    static const char *const levels[] = {"portable", "avx2", "avx512"};
    many m = {{0}, 0};
    for (int l = 0; l < 3; l++)
        for (int threads = 1; threads <= 2; threads++) {
            grace_status st = gr_compute_cpu_open(levels[l], threads, &m.c[m.n]);
            if (st == GRACE_ERR_UNSUPPORTED) continue;
            assert_int_equal(st, GRACE_OK);
            m.n++;
        }
    assert_true(m.n >= 2);
    return m;
}

static inline void close_all(many *m) {
    for (int i = 0; i < m->n; i++) m->c[i]->ops->free(m->c[i]);
}

#define FOR_EACH_BACKEND(c, m) \
    for (int c##_i_ = 0; c##_i_ < (m).n; c##_i_++) for (gr_compute *c = (m).c[c##_i_]; c; c = NULL)

/* ---- random data ---- */
static inline gr_rng seeded(uint64_t seed) {
    printf("seed %llu\n", (unsigned long long)seed);
    return gr_rng_seed(seed);
}

static inline float uniform(gr_rng *rng) { return (float)(2 * gr_rng_uniform(rng) - 1); }

static inline float *random_floats(gr_rng *rng, int64_t n) {
    float *x = malloc((size_t)(n ? n : 1) * sizeof *x);
    for (int64_t i = 0; i < n; i++) x[i] = uniform(rng);
    return x;
}

/* A tensor with its values in double. The data end exactly where the allocation ends, so that a sanitizer sees one element too many. */
typedef struct matrix { grace_tensor t; double *value; void *memory; } matrix;

static inline float float_of(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* f16 of a value in (-2, 2), and that f16's value. */
static inline uint16_t half_of(float x, double *value) {
    const int32_t steps = (int32_t)(fabsf(x) * 1024.0f);       /* fixed point: exponents by hand below */
    *value = copysign((double)steps / 1024.0, (double)x);
    uint16_t sign = x < 0 ? 0x8000 : 0;
    if (steps == 0) return sign;
    int e = 31 - __builtin_clz((unsigned)steps);                /* steps = 1.f * 2^e */
    return (uint16_t)(sign | (e - 10 + 15) << 10 | (((unsigned)steps << (10 - e)) & 0x3ff));
}

static inline matrix random_matrix(gr_rng *rng, int64_t rows, int64_t cols, grace_dtype dtype) {
    const size_t n = (size_t)(rows * cols), size = dtype == GRACE_F32 ? 4 : 2;
    matrix m = {{.rows = rows, .cols = cols, .dtype = dtype}, malloc(n * sizeof(double)), malloc(n * size)};
    for (size_t i = 0; i < n; i++) {
        const float x = uniform(rng);
        uint32_t bits;
        memcpy(&bits, &x, 4);
        if (dtype == GRACE_F32) {
            ((float *)m.memory)[i] = x;
            m.value[i] = (double)x;
        } else if (dtype == GRACE_BF16) {
            ((uint16_t *)m.memory)[i] = (uint16_t)(bits >> 16);
            m.value[i] = (double)float_of(bits & 0xffff0000u);
        } else {
            ((uint16_t *)m.memory)[i] = half_of(x, &m.value[i]);
        }
    }
    m.t.data = m.memory;
    return m;
}

static inline void free_matrix(matrix *m) {
    free(m->value);
    free(m->memory);
}

static inline gr_weight *open_weight(gr_compute *c, const matrix *m) {
    gr_weight *w = NULL;
    assert_int_equal(c->ops->weight_open(c, &m->t, &w), GRACE_OK);
    return w;
}

/* ---- comparing ---- */
static inline void assert_close(double got, double wanted, double bound, const char *what, int64_t at) {
    if (!(fabs(got - wanted) <= bound)) fail_msg("%s[%lld]: got %.9g, wanted %.9g, bound %.3g", what, (long long)at, got, wanted, bound);
}

static inline void assert_same_bits(const float *got, const float *wanted, int64_t n, const char *what) {
    for (int64_t i = 0; i < n; i++)
        if (memcmp(got + i, wanted + i, sizeof *got))
            fail_msg("%s[%lld of %lld]: got %a, wanted %a", what, (long long)i, (long long)n, (double)got[i], (double)wanted[i]);
}

#endif
