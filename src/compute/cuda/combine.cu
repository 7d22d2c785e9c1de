// The sum of a token's experts. Agrees with gr_exchange's combine of a single rank.
#include <cuda_bf16.h>

#include "compute/cuda/cuda.h"
#include "compute/cuda/moe.h"
#include "compute/cuda/pdl.cuh"

namespace {

typedef __nv_bfloat16 bf16;

__device__ __forceinline__ void add_scaled(float (&sum)[8], float weight, uint4 packed) {
    const bf16 *values = reinterpret_cast<const bf16 *>(&packed);
#pragma unroll
    for (int i = 0; i < 8; i++) sum[i] = fmaf(weight, __bfloat162float(values[i]), sum[i]);
}

// A block a row, 16 bytes a thread and turn. n_vectors = hidden / 8.
__global__ void combine(const int32_t *pair_of_choice, const float *weight, const uint4 *y, const uint4 *residual, int32_t top_k, int32_t n_vectors,
                        uint4 *out) {
    const int64_t row = blockIdx.x;
    pdl::release_next();
    pdl::wait();
    for (int32_t v = threadIdx.x; v < n_vectors; v += blockDim.x) {
        float sum[8] = {0};
#pragma unroll 4
        for (int32_t j = 0; j < top_k; j++) {
            int64_t choice = row * top_k + j, pair = pair_of_choice ? pair_of_choice[choice] : choice;
            if (pair >= 0) add_scaled(sum, weight ? weight[choice] : 1, y[pair * n_vectors + v]);
        }
        if (residual) add_scaled(sum, 1, residual[row * n_vectors + v]);
        uint4 rounded;
        bf16 *to = reinterpret_cast<bf16 *>(&rounded);
#pragma unroll
        for (int i = 0; i < 8; i++) to[i] = __float2bfloat16_rn(sum[i]);
        out[row * n_vectors + v] = rounded;
    }
}

}  // namespace

extern "C" grace_status gr_cuda_combine(const gr_cuda_pairs *pairs, const float *weight, const void *y, const void *residual, int32_t hidden, void *out,
                                        gr_cuda_stream stream) {
    grace_status st = GRACE_OK;
    const int32_t n_vectors = hidden / 8;
    const unsigned threads = n_vectors < 256 ? (unsigned)(n_vectors + 31) / 32 * 32 : 256;
    GR_CHECK(hidden > 0 && hidden % 8 == 0, GRACE_ERR_LIMIT, "cuda: combine takes rows of a multiple of 8 values, not %d", hidden);
    if (pairs->n_rows == 0) return GRACE_OK;
    pdl::launch(combine, (unsigned)pairs->n_rows, threads, 0, stream, true, pairs->pair_of_choice, weight, (const uint4 *)y, (const uint4 *)residual,
                pairs->top_k, n_vectors, (uint4 *)out);
    st = gr_cuda_status(cudaGetLastError(), "combine");
done:
    return st;
}
