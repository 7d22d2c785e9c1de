// Random weights. About 40 integer operations and 2 bytes a value: the multipliers limit it, not memory; 30 G values take an H100 some tenths of a second.
#include "base/random_bf16.h"
#include "compute/cuda/cuda.h"
#include "compute/cuda/random.h"

namespace {

enum { THREADS = 256, BLOCKS_MAX = 4096 };

// Any grid: each thread takes every (grid * THREADS)th value. Agrees with gr_random_bf16() on the host.
__global__ void fill(uint16_t *to, uint64_t first, int64_t n, uint64_t seed, float scale) {
    const int64_t step = (int64_t)gridDim.x * THREADS;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += step) to[i] = gr_random_bf16(seed, first + (uint64_t)i, scale);
}

}  // namespace

extern "C" grace_status gr_cuda_random_fill(void *to, int64_t first, int64_t n, uint64_t seed, float scale, gr_cuda_stream stream) {
    const int64_t blocks = (n + THREADS - 1) / THREADS;
    if (n == 0) return GRACE_OK;
    fill<<<(unsigned)(blocks < BLOCKS_MAX ? blocks : BLOCKS_MAX), THREADS, 0, stream>>>(static_cast<uint16_t *>(to), (uint64_t)first, n, seed, scale);
    return gr_cuda_status(cudaGetLastError(), "random_fill");
}
