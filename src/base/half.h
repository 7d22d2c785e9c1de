/* IEEE half floats and bf16, for files and what a GPU holds. Arithmetic happens in float. */
#ifndef GR_BASE_HALF_H
#define GR_BASE_HALF_H
#include <math.h>
#include <stdint.h>
#include <string.h>

static inline float gr_float_of_half(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half >> 10 & 31, fraction = half & 1023, bits;
    if (exponent == 0) return (sign ? -1.0f : 1.0f) * (float)fraction * 0x1p-24f;
    bits = sign | (exponent == 31 ? 255 : exponent + 112) << 23 | fraction << 13;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* The nearest half, ties to even; what is too large becomes infinite. */
static inline uint16_t gr_half_of_float(float x) {
    uint32_t bits, size;
    memcpy(&bits, &x, sizeof bits);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    size = bits & 0x7FFFFFFF;
    if (size > 0x7F800000) return sign | 0x7E00;
    if (size >= 0x47800000) return sign | 0x7C00;
    if (size < 0x38800000) return sign | (uint16_t)lrintf(fabsf(x) * 0x1p24f);     /* below 2^-14: multiples of 2^-24 */
    size += 0xFFF + (size >> 13 & 1);
    return sign | (uint16_t)((size - 0x38000000) >> 13);
}

static inline float gr_float_of_bf16(uint16_t bf16) {
    uint32_t bits = (uint32_t)bf16 << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Nearest, ties to even; NaN stays one. */
static inline uint16_t gr_bf16_of_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    if (x != x) return 0x7FC0;
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

#endif
