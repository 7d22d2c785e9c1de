#include "base/hash.h"
#include "base/rng.h"
#include "compute/compute.h"

double gr_draw_uniform(uint64_t seed, int32_t position) {
    const uint64_t key[2] = {seed, (uint64_t)position};
    gr_rng rng = gr_rng_seed(gr_hash64(key, sizeof key, 0));
    return gr_rng_uniform(&rng);
}
