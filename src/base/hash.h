/* Hashes: XXH3 for content, mix32 for decisions that every backend must repeat exactly. */
#ifndef GR_BASE_HASH_H
#define GR_BASE_HASH_H
#include <stddef.h>
#include <stdint.h>

#ifdef __CUDACC__
#define GR_HOST_DEVICE __host__ __device__
#else
#define GR_HOST_DEVICE
#endif

uint64_t gr_hash64(const void *bytes, size_t n, uint64_t seed);     /* XXH3, 64 bits; chain by passing the last hash as seed */

GR_HOST_DEVICE static inline uint32_t gr_mix32(uint32_t a, uint32_t b, uint32_t c) {
    uint32_t h = a * 0x9E3779B1u ^ (b + 0x7F4A7C15u) * 0x85EBCA77u ^ (c + 0x165667B1u) * 0xC2B2AE3Du;
    h ^= h >> 16;
    h *= 0x7FEB352Du;
    h ^= h >> 15;
    h *= 0x846CA68Bu;
    return h ^ h >> 16;
}

#endif
