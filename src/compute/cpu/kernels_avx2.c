/* Vectors of 16 floats as two AVX registers, with FMA and F16C. */
#include "compute/cpu/kernels.h"

#include <immintrin.h>

#define LEVEL avx2
#define TILE_ROWS 3     /* x 4 accumulators leave 4 of 16 registers for operands: 7 loads feed 12 fma */
#define REG_LANES 8
#define PARTS 4

typedef struct v16 { __m256 lo, hi; } v16;

static inline v16 v16_zero(void) { return (v16){_mm256_setzero_ps(), _mm256_setzero_ps()}; }
static inline v16 v16_set(float a) { return (v16){_mm256_set1_ps(a), _mm256_set1_ps(a)}; }
static inline v16 v16_add(v16 a, v16 b) { return (v16){_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
static inline v16 v16_sub(v16 a, v16 b) { return (v16){_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
static inline v16 v16_mul(v16 a, v16 b) { return (v16){_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
static inline v16 v16_div(v16 a, v16 b) { return (v16){_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
static inline v16 v16_max(v16 a, v16 b) { return (v16){_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
static inline v16 v16_min(v16 a, v16 b) { return (v16){_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
static inline v16 v16_fma(v16 a, v16 b, v16 c) { return (v16){_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)}; }

static inline v16 v16_load(const void *p) { return (v16){_mm256_loadu_ps(p), _mm256_loadu_ps((const float *)p + 8)}; }
static inline void v16_store(float *p, v16 a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}

/* All bits of lanes first + j < n. */
static inline __m256i mask_of(int32_t n, int32_t first) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n - first), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline v16 v16_load_n(const void *p, int32_t n) {
    return (v16){_mm256_maskload_ps(p, mask_of(n, 0)), _mm256_maskload_ps((const float *)p + 8, mask_of(n, 8))};
}

static inline void v16_store_n(float *p, v16 a, int32_t n) {
    _mm256_maskstore_ps(p, mask_of(n, 0), a.lo);
    _mm256_maskstore_ps(p + 8, mask_of(n, 8), a.hi);
}

static inline v16 v16_first_n(v16 a, v16 b, int32_t n) {
    return (v16){_mm256_blendv_ps(b.lo, a.lo, _mm256_castsi256_ps(mask_of(n, 0))), _mm256_blendv_ps(b.hi, a.hi, _mm256_castsi256_ps(mask_of(n, 8)))};
}

static inline v16 v16_zero_below(v16 a, v16 x, v16 limit) {
    return (v16){_mm256_andnot_ps(_mm256_cmp_ps(x.lo, limit.lo, _CMP_LT_OQ), a.lo), _mm256_andnot_ps(_mm256_cmp_ps(x.hi, limit.hi, _CMP_LT_OQ), a.hi)};
}

typedef __m256 reg;
static inline reg reg_zero(void) { return _mm256_setzero_ps(); }
static inline reg reg_load(const void *p) { return _mm256_loadu_ps(p); }
static inline reg reg_load_bf16(const void *p) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16)); }
static inline reg reg_load_f16(const void *p) { return _mm256_cvtph_ps(_mm_loadu_si128(p)); }
static inline reg reg_fma(reg a, reg b, reg c) { return _mm256_fmadd_ps(a, b, c); }

static inline v16 v16_load_bf16(const void *p) { return (v16){reg_load_bf16(p), reg_load_bf16((const __m128i *)p + 1)}; }
static inline v16 v16_load_f16(const void *p) { return (v16){reg_load_f16(p), reg_load_f16((const __m128i *)p + 1)}; }
static inline void v16_put(v16 *v, int lane, reg lanes) {
    if (lane) v->hi = lanes;
    else v->lo = lanes;
}

/* a * 2^n for whole n in [-126, 128]; two factors, since 2^128 is no float. */
static inline __m256 power_of_two(__m256i n) { return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23)); }
static inline __m256 scale_by_power(__m256 a, __m256 n) {
    const __m256i whole = _mm256_cvtps_epi32(n), half = _mm256_srai_epi32(whole, 1);
    return _mm256_mul_ps(_mm256_mul_ps(a, power_of_two(half)), power_of_two(_mm256_sub_epi32(whole, half)));
}
static inline v16 v16_ldexp(v16 a, v16 n) { return (v16){scale_by_power(a.lo, n.lo), scale_by_power(a.hi, n.hi)}; }

/* Folds two rows (their lanes 0-7 already added to 8-15): lanes 0-3 are row x, 4-7 row y. */
static inline __attribute__((always_inline)) __m256 fold_pair(const __m256 x[4], const __m256 y[4]) {
    __m256 four[4];
    for (int t = 0; t < 4; t++) four[t] = _mm256_add_ps(_mm256_permute2f128_ps(x[t], y[t], 0x20), _mm256_permute2f128_ps(x[t], y[t], 0x31));
    __m256d a = _mm256_castps_pd(four[0]), b = _mm256_castps_pd(four[1]), c = _mm256_castps_pd(four[2]), d = _mm256_castps_pd(four[3]);
    __m256 ab = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(a, b)), _mm256_castpd_ps(_mm256_unpackhi_pd(a, b)));
    __m256 cd = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(c, d)), _mm256_castpd_ps(_mm256_unpackhi_pd(c, d)));
    return _mm256_add_ps(_mm256_shuffle_ps(ab, cd, 0x88), _mm256_shuffle_ps(ab, cd, 0xdd));
}

static inline __attribute__((always_inline)) v16 v16_fold(const v16 a[4][4], int n) {
    __m256 eight[4][4];
    for (int q = 0; q < 4; q++)
        for (int t = 0; t < 4; t++) eight[q][t] = q < n ? _mm256_add_ps(a[q][t].lo, a[q][t].hi) : _mm256_setzero_ps();
    __m256 lo = fold_pair(eight[0], eight[n > 1 ? 1 : 0]);
    return (v16){lo, n > 2 ? fold_pair(eight[2], eight[n > 3 ? 3 : 2]) : lo};
}

#include "compute/cpu/kernels_body.h"
