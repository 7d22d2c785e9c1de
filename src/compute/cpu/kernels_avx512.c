/* Vectors of 16 floats as one AVX-512 register. */
#include "compute/cpu/kernels.h"

#include <immintrin.h>

#define LEVEL avx512
#define TILE_ROWS 6     /* x 4 accumulators leave 8 of 32 registers for operands: 10 loads feed 24 fma */
#define REG_LANES 16
#define PARTS 16

typedef __m512 v16;

static inline v16 v16_zero(void) { return _mm512_setzero_ps(); }
static inline v16 v16_set(float a) { return _mm512_set1_ps(a); }
static inline v16 v16_add(v16 a, v16 b) { return _mm512_add_ps(a, b); }
static inline v16 v16_sub(v16 a, v16 b) { return _mm512_sub_ps(a, b); }
static inline v16 v16_mul(v16 a, v16 b) { return _mm512_mul_ps(a, b); }
static inline v16 v16_div(v16 a, v16 b) { return _mm512_div_ps(a, b); }
static inline v16 v16_max(v16 a, v16 b) { return _mm512_max_ps(a, b); }
static inline v16 v16_min(v16 a, v16 b) { return _mm512_min_ps(a, b); }
static inline v16 v16_fma(v16 a, v16 b, v16 c) { return _mm512_fmadd_ps(a, b, c); }

static inline __mmask16 mask_of(int32_t n) { return (__mmask16)((1u << n) - 1); }
static inline v16 v16_load(const void *p) { return _mm512_loadu_ps(p); }
static inline v16 v16_load_n(const void *p, int32_t n) { return _mm512_maskz_loadu_ps(mask_of(n), p); }
static inline void v16_store(float *p, v16 a) { _mm512_storeu_ps(p, a); }
static inline void v16_store_n(float *p, v16 a, int32_t n) { _mm512_mask_storeu_ps(p, mask_of(n), a); }
static inline v16 v16_first_n(v16 a, v16 b, int32_t n) { return _mm512_mask_blend_ps(mask_of(n), b, a); }
static inline v16 v16_zero_below(v16 a, v16 x, v16 limit) { return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, limit, _CMP_NLT_UQ), a); }
static inline v16 v16_ldexp(v16 a, v16 n) { return _mm512_scalef_ps(a, n); }

static inline v16 v16_load_bf16(const void *p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256(p)), 16));
}
static inline v16 v16_load_f16(const void *p) { return _mm512_cvtph_ps(_mm256_loadu_si256(p)); }

/* Each step adds the upper half of what is left of two vectors to the lower half and packs both into one. */
static inline v16 fold_8(v16 a, v16 b) { return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee)); }
static inline v16 fold_4(v16 a, v16 b) { return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd)); }
static inline v16 fold_2(v16 a, v16 b) {
    const __m512d x = _mm512_castps_pd(a), y = _mm512_castps_pd(b);
    return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(x, y)), _mm512_castpd_ps(_mm512_unpackhi_pd(x, y)));
}
static inline v16 fold_1(v16 a, v16 b) { return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd)); }

static inline __attribute__((always_inline)) v16 v16_fold(const v16 a[4][4], int n) {
    v16 four[4];
    for (int t = 0; t < 4; t++) {
        v16 low = fold_8(a[0][t], a[n > 1 ? 1 : 0][t]);
        four[t] = fold_4(low, n > 2 ? fold_8(a[2][t], a[n > 3 ? 3 : 2][t]) : low);
    }
    return fold_1(fold_2(four[0], four[1]), fold_2(four[2], four[3]));
}

typedef v16 reg;
#define reg_zero v16_zero
#define reg_load v16_load
#define reg_load_bf16 v16_load_bf16
#define reg_load_f16 v16_load_f16
#define reg_fma v16_fma
static inline void v16_put(v16 *v, int lane, reg lanes) { (void)lane, *v = lanes; }

#include "compute/cpu/kernels_body.h"
