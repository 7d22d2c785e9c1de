// A row's norm with the bits of gr_cuda_norm() wherever it is made: how a row is cut over threads, and so the order of its sum, depends on its width alone.
// Kernels that read a row or two make its norm themselves, every block again, which costs less than a launch: weights in shared memory before the wait, then
// one sum over the block.
#ifndef GR_COMPUTE_CUDA_RMS_CUH
#define GR_COMPUTE_CUDA_RMS_CUH
#include "compute/cuda/lanes.cuh"
#include "compute/cuda/linear.h"

namespace rms {

// ---- the order: a warp a row of up to NARROW_VECTORS, else WIDE_VECTORS a thread ----
enum { NARROW_VECTORS = 128, WIDE_VECTORS = 2 };

__host__ __device__ inline int32_t threads_of(int32_t width) {
    const int32_t n = width / 8, wide = (n + WIDE_VECTORS - 1) / WIDE_VECTORS;
    return n <= NARROW_VECTORS ? 32 : (wide + 31) / 32 * 32;
}

__device__ __forceinline__ void add_squares(uint4 x, float &sum) {
    float e[8];
    lanes::widen(x, e);
#pragma unroll
    for (int i = 0; i < 8; i++) sum = fmaf(e[i], e[i], sum);
}

__device__ __forceinline__ float scale_of(float squares, int32_t width, float eps) { return 1.0f / sqrtf(squares / (float)width + eps); }

__device__ __forceinline__ uint4 apply(uint4 x, float scale, const float (&w)[8]) {
    float e[8];
    lanes::widen(x, e);
#pragma unroll
    for (int i = 0; i < 8; i++) e[i] = e[i] * scale * w[i];
    return lanes::narrow(e);
}

// ---- in a kernel that reads up to ROWS_MAX rows of up to WIDTH_MAX elements, in blocks of at least WIDTH_MAX / 16 threads ----
enum { ROWS_MAX = 2, WIDTH_MAX = 2048 };

struct alignas(16) shared { float w[WIDTH_MAX], of_warp[ROWS_MAX][32]; };      // read by 16 bytes
template <bool NORMED> struct room : shared {};         // a kernel's that may do without
template <> struct room<false> {};
struct scales { float first, second; __device__ __forceinline__ float of(int32_t row) const { return row ? second : first; } };

static inline bool fits(int32_t n_rows, int32_t width) { return n_rows <= ROWS_MAX && width <= WIDTH_MAX; }

// Before the wait: no kernel writes weights. They are there after scales_of().
__device__ __forceinline__ void stage(shared &s, const float *w, int32_t width) {
    for (int32_t i = 4 * threadIdx.x; i < width; i += 4 * blockDim.x) *(float4 *)(s.w + i) = *(const float4 *)(w + i);
}

__device__ __forceinline__ uint4 apply_at(const shared &s, uint4 x, float scale, int32_t k) {
    float w[8];
    lanes::load_eight(s.w + k, w);
    return apply(x, scale, w);
}

// The whole block, at least one row. x: rows x_step vectors apart. writes: this block also stores what the norm makes of them.
__device__ __forceinline__ scales scales_of(shared &s, const gr_cuda_norming &a, const uint4 *x, int64_t x_step, int32_t n_rows, int32_t width, bool writes) {
    const int32_t n = width / 8, threads = threads_of(width);
    float scale[ROWS_MAX] = {};
#pragma unroll
    for (int r = 0; r < ROWS_MAX; r++) {
        if (r >= n_rows) continue;
        float squares = 0;
        for (int32_t i = threadIdx.x; threadIdx.x < threads && i < n; i += threads) add_squares(x[r * x_step + i], squares);
        scale[r] = scale_of(lanes::sum_of_block(squares, s.of_warp[r]), width, a.eps);
        for (int32_t i = threadIdx.x; writes && i < n; i += blockDim.x)
            ((uint4 *)a.to)[(int64_t)r * n + i] = apply_at(s, x[r * x_step + i], scale[r], 8 * i);
    }
    return {scale[0], scale[1]};
}

// What a thread has of a row: N vectors STEP elements apart, from element k on.
template <int STEP, int N> __device__ __forceinline__ void apply_all(const shared &s, uint4 (&x)[N], float scale, int32_t k, int32_t width) {
#pragma unroll
    for (int c = 0; c < N; c++)
        if (k + c * STEP < width) x[c] = apply_at(s, x[c], scale, k + c * STEP);
}

}  // namespace rms
#endif
