/* splitmix64: small, seedable, the same everywhere. */
#ifndef GR_BASE_RNG_H
#define GR_BASE_RNG_H
#include <stdint.h>

typedef struct gr_rng { uint64_t state; } gr_rng;

static inline gr_rng gr_rng_seed(uint64_t seed) { return (gr_rng){seed}; }

static inline uint64_t gr_rng_next(gr_rng *rng) {
    uint64_t z = rng->state += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
}

/* Uniform in [0, 1) with 53 bits. */
static inline double gr_rng_uniform(gr_rng *rng) { return (double)(gr_rng_next(rng) >> 11) * 0x1p-53; }

/* Uniform in [0, n), n >= 1; the bias of the multiplication is under n / 2^32. */
static inline uint32_t gr_rng_below(gr_rng *rng, uint32_t n) { return (uint32_t)((gr_rng_next(rng) >> 32) * n >> 32); }

#endif
