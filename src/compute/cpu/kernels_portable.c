/* Vectors of 16 floats in plain C: the reference for the other levels. */
#include "compute/cpu/kernels.h"

#include <string.h>

#define LEVEL portable
#define PLAIN_LOOPS
#define TILE_ROWS 2
#define REG_LANES 16
#define PARTS 16

typedef struct v16 { float p[16]; } v16;

#define EACH(expression)                                    \
    v16 r;                                                  \
    for (int j = 0; j < 16; j++) r.p[j] = (expression);     \
    return r

static inline v16 v16_zero(void) { return (v16){{0}}; }
static inline v16 v16_set(float a) { EACH(a); }
static inline v16 v16_add(v16 a, v16 b) { EACH(a.p[j] + b.p[j]); }
static inline v16 v16_sub(v16 a, v16 b) { EACH(a.p[j] - b.p[j]); }
static inline v16 v16_mul(v16 a, v16 b) { EACH(a.p[j] * b.p[j]); }
static inline v16 v16_div(v16 a, v16 b) { EACH(a.p[j] / b.p[j]); }
static inline v16 v16_fma(v16 a, v16 b, v16 c) { EACH(__builtin_fmaf(a.p[j], b.p[j], c.p[j])); }
static inline v16 v16_max(v16 a, v16 b) { EACH(a.p[j] > b.p[j] ? a.p[j] : b.p[j]); }    /* b when either is NaN */
static inline v16 v16_min(v16 a, v16 b) { EACH(a.p[j] < b.p[j] ? a.p[j] : b.p[j]); }

static inline v16 v16_load(const void *p) {
    v16 r;
    memcpy(r.p, p, sizeof r.p);
    return r;
}

static inline v16 v16_load_n(const void *p, int32_t n) {
    v16 r = {{0}};
    memcpy(r.p, p, (size_t)n * sizeof *r.p);
    return r;
}

static inline void v16_store(float *p, v16 a) { memcpy(p, a.p, sizeof a.p); }
static inline void v16_store_n(float *p, v16 a, int32_t n) { memcpy(p, a.p, (size_t)n * sizeof *p); }

/* Lanes below n from a, the others from b. */
static inline v16 v16_first_n(v16 a, v16 b, int32_t n) { EACH(j < n ? a.p[j] : b.p[j]); }
static inline v16 v16_zero_below(v16 a, v16 x, v16 limit) { EACH(x.p[j] < limit.p[j] ? 0.0f : a.p[j]); }

static inline float float_of_bits(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

static inline v16 v16_load_bf16(const void *p) {
    uint16_t h[16];
    memcpy(h, p, sizeof h);
    EACH(float_of_bits((uint32_t)h[j] << 16));
}

static inline float float_of_half(uint16_t h) {
    const uint32_t sign = (uint32_t)(h & 0x8000) << 16, exponent = h >> 10 & 31, fraction = h & 0x3ff;
    if (exponent == 31) return float_of_bits(sign | 0x7f800000 | fraction << 13);
    if (exponent == 0) return (sign ? -1.0f : 1.0f) * ((float)fraction * 0x1p-24f);
    return float_of_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

static inline v16 v16_load_f16(const void *p) {
    uint16_t h[16];
    memcpy(h, p, sizeof h);
    EACH(float_of_half(h[j]));
}

/* a * 2^n for whole n in [-126, 128]; two factors, since 2^128 is no float. */
static inline float scale_by_power(float a, float n) {
    const int32_t whole = n == n ? (int32_t)n : 0, half = whole / 2;
    return a * float_of_bits((uint32_t)(half + 127) << 23) * float_of_bits((uint32_t)(whole - half + 127) << 23);
}
static inline v16 v16_ldexp(v16 a, v16 n) { EACH(scale_by_power(a.p[j], n.p[j])); }

static inline v16 v16_fold(const v16 a[4][4], int n) {
    v16 r = {{0}};
    for (int i = 0; i < 4 * n; i++) {
        v16 v = a[i / 4][i % 4];
        for (int s = 8; s > 0; s /= 2)
            for (int j = 0; j < s; j++) v.p[j] += v.p[j + s];
        r.p[i] = v.p[0];
    }
    return r;
}

typedef v16 reg;
#define reg_zero v16_zero
#define reg_load v16_load
#define reg_load_bf16 v16_load_bf16
#define reg_load_f16 v16_load_f16
#define reg_fma v16_fma
static inline void v16_put(v16 *v, int lane, reg lanes) { (void)lane, *v = lanes; }

#include "compute/cpu/kernels_body.h"
