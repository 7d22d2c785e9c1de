// What the kernels of sample.cu know about a row of logits: its parts, its weights, and searches by a whole block.
#ifndef GR_COMPUTE_CUDA_SAMPLE_ROW_CUH
#define GR_COMPUTE_CUDA_SAMPLE_ROW_CUH
#include <math.h>

#include "compute/cuda/lanes.cuh"
#include "compute/cuda/sample.h"

namespace sampling {

// A row is looked at in pieces by a block, a piece in runs by a warp: 128 logits, four a lane. THREADS: of a block that draws.
enum { PIECE = 4096, PIECE_THREADS = 256, RUN = 128, FOURS = PIECE / (4 * PIECE_THREADS), THREADS = 512, WARPS = THREADS / 32 };
static_assert((int)GR_CUDA_VOCAB_MAX / PIECE <= (int)THREADS, "a thread has a piece");

struct matrix { const float *logits; int64_t step; int32_t vocab, n_pieces, n_runs; bool in_fours; };

// Logits at .. at + 3 of a row; those behind the vocabulary are -infinity.
__device__ __forceinline__ void load_four(const matrix &m, int64_t row, int32_t at, float to[4]) {
    const float *from = m.logits + row * m.step + at;
    if (m.in_fours && at + 4 <= m.vocab) {
        const float4 v = *reinterpret_cast<const float4 *>(from);
        to[0] = v.x, to[1] = v.y, to[2] = v.z, to[3] = v.w;
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++) to[i] = at + i < m.vocab ? from[i] : -INFINITY;
}

// ---- the largest: a key grows with the logit, then with falling id; FLAWED is above all, 0 below ----
const uint64_t FLAWED = UINT64_MAX;

__device__ __forceinline__ uint64_t key_of(float logit, int32_t id) { return (uint64_t)lanes::ordered(logit + 0.0f) << 32 | (uint32_t)~id; } // -0: 0
__device__ __forceinline__ float logit_of_key(uint64_t key) { return lanes::of_ordered((uint32_t)(key >> 32)); }
__device__ __forceinline__ int32_t id_of_key(uint64_t key) { return (int32_t)~(uint32_t)key; }

__device__ __forceinline__ uint64_t largest_of_warp(uint64_t key) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2) key = max(key, __shfl_xor_sync(~0u, key, d));
    return key;
}

// By a warp, from its row's pieces.
__device__ __forceinline__ uint64_t largest_of_row(const matrix &m, const uint64_t *largest, int64_t row) {
    uint64_t key = 0;
    for (int32_t i = threadIdx.x % 32; i < m.n_pieces; i += 32) key = max(key, largest[row * m.n_pieces + i]);
    key = largest_of_warp(key);
    return logit_of_key(key) == -INFINITY ? FLAWED : key;
}

// ---- weights ----
struct drawing { matrix m; int64_t row; float most, temperature; };

// exp((logit - most) / temperature): the cpu's weights, 1 at most.
__device__ __forceinline__ float weight_of(const drawing &d, float logit) {
    return lanes::exp_as_cpu(__fdiv_rn(__fsub_rn(logit, d.most), d.temperature));
}

// Of ids at .. at + 3. Those behind the vocabulary are 0.
__device__ __forceinline__ void load_weights(const drawing &d, int32_t at, float to[4]) {
    load_four(d.m, d.row, at, to);
#pragma unroll
    for (int i = 0; i < 4; i++) to[i] = weight_of(d, to[i]);
}

__device__ __forceinline__ double sum_of_four(const float p[4]) { return (double)p[0] + (double)p[1] + (double)p[2] + (double)p[3]; }

// ---- a block of THREADS ----
struct workspace { double sum[WARPS]; int32_t n[WARPS]; };

// Sum over the threads before this one, and over all, in a fixed order.
template <class T> __device__ __forceinline__ T scan_block(T x, T *of_warp, T *all) {
    const int lane = threadIdx.x % 32;
    T sum = x;
#pragma unroll
    for (int d = 1; d < 32; d *= 2) {
        const T left = __shfl_up_sync(~0u, sum, d);
        if (lane >= d) sum += left;
    }
    __syncthreads();        // of_warp is free
    if (lane == 31) of_warp[threadIdx.x / 32] = sum;
    __syncthreads();        // sums of all warps are there
    T before = 0, total = 0;
#pragma unroll
    for (int w = 0; w < WARPS; w++) {
        if (w == threadIdx.x / 32) before = total;
        total += of_warp[w];
    }
    *all = total;
    return before + sum - x;
}

// The lowest of the block's values.
__device__ __forceinline__ int32_t lowest_of_block(int32_t x, int32_t *of_warp) {
    x = __reduce_min_sync(~0u, x);
    __syncthreads();        // of_warp is free
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();        // all warps' are there
    return __reduce_min_sync(~0u, threadIdx.x % 32 < WARPS ? of_warp[threadIdx.x % 32] : INT32_MAX);
}

// The first thread for which `here` holds, or else the last for which `possible` does (one has to).
__device__ __forceinline__ int32_t first_thread(bool here, bool possible, int32_t *of_warp) {
    const int32_t thread = threadIdx.x, first = lowest_of_block(here ? thread : INT32_MAX, of_warp);
    return first < INT32_MAX ? first : THREADS - 1 - lowest_of_block(possible ? THREADS - 1 - thread : THREADS - 1, of_warp);
}

}  // namespace sampling
#endif
