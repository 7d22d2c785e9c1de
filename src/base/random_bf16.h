/* Weights made from a seed: value i is a pure function of (seed, i), with the same bits on the host and on a GPU. */
#ifndef GR_BASE_RANDOM_BF16_H
#define GR_BASE_RANDOM_BF16_H
#include <stdint.h>
#include <string.h>

#include "base/hash.h"

/* Number i of splitmix64 (base/rng.h) without the numbers before it. */
GR_HOST_DEVICE static inline uint64_t gr_random_bits(uint64_t seed, uint64_t i) {
    uint64_t z = seed + (i + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* Nearly normal with mean 0 and standard deviation scale, as bf16: a sum of four uniform 16-bit numbers, which is exact, two products, which round
 * alike everywhere, and the last rounding, to nearest and even. scale is finite. */
GR_HOST_DEVICE static inline uint16_t gr_random_bf16(uint64_t seed, uint64_t i, float scale) {
    const uint64_t r = gr_random_bits(seed, i);
    const int32_t sum = (int32_t)(r & 0xFFFF) + (int32_t)(r >> 16 & 0xFFFF) + (int32_t)(r >> 32 & 0xFFFF) + (int32_t)(r >> 48);
    const float value = (float)(sum - 2 * 65535) * (1 / 37837.227f) * scale;        /* 37837.227 = sqrt(4 (65536^2 - 1) / 12) */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return (uint16_t)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

#endif
