// The one order in which kernels of ours add up a dense product of bf16, so that a row's bits do not depend on the kernel:
//
//     out = ((s0 + s1) + s2) + ...                    s_j: the sum over columns 256 j .. 256 j + 255, fp32
//     s_j: chunks of 32 columns in order, from 0      two products of the tensor cores each, the first takes columns 8 t .. 8 t + 3 for t = 0 .. 3,
//                                                     the second 8 t + 4 .. 8 t + 7
//
// A lane's 16 bytes (columns 8 t .. 8 t + 7 of a chunk) are thus its operands of both products, for x (a rows) and W (b columns) alike, and no kernel has
// to rearrange what it loads. Columns behind the last come as zeros; chunks behind the last are left out.
#ifndef GR_COMPUTE_CUDA_LINEAR_ORDER_CUH
#define GR_COMPUTE_CUDA_LINEAR_ORDER_CUH
#include <cuda_bf16.h>

#include "compute/cuda/ampere.cuh"
#include "compute/cuda/linear_kernels.h"

namespace order {

typedef __nv_bfloat16 bf16;

enum { CHUNK = 32, CHUNKS = 8, SEGMENT = CHUNK * CHUNKS };

// Half of a chunk of 16 x 8 outputs: x of rows g and g + 8, w of output g.
template <int HALF> __device__ __forceinline__ void add_half(float (&sum)[4], const uint4 &x, const uint4 &x8, const uint4 &w) {
    if (HALF == 0) ampere::multiply(sum, {x.x, x8.x, x.y, x8.y}, w.x, w.y);
    else ampere::multiply(sum, {x.z, x8.z, x.w, x8.w}, w.z, w.w);
}

// Where output o of piece `head` of a row stands, what is added there, and the result.
__device__ __forceinline__ int64_t place_of(const gr_cuda_product &p, int32_t row, int32_t head, int32_t o) {
    return row * p.out_step + head * p.out_head_step + o;
}
__device__ __forceinline__ float addend(const gr_cuda_product &p, int64_t place) { return p.add ? __bfloat162float(((const bf16 *)p.out)[place]) : 0; }
__device__ __forceinline__ void store(const gr_cuda_product &p, int64_t place, float sum) {
    if (p.out_fp32) ((float *)p.out)[place] = sum;
    else ((bf16 *)p.out)[place] = __float2bfloat16_rn(sum);
}

// Piece i, 16 bytes, of the elements that linear_heads copies.
__device__ __forceinline__ void copy_kept(const gr_cuda_product &p, int64_t i) {
    int32_t pieces = p.n_kept / 8, at = (int32_t)(i % pieces) * 8, head = (int32_t)(i / pieces % p.n_heads);
    int64_t row = i / pieces / p.n_heads;
    *(uint4 *)((bf16 *)p.out + row * p.out_step + head * p.out_head_step + p.outs + at) =
        *(const uint4 *)((const bf16 *)p.x + row * p.x_step + head * p.x_head_step + p.cols + at);
}
__host__ __device__ inline int64_t n_kept_pieces(const gr_cuda_product &p) { return (int64_t)p.n_rows * p.n_heads * (p.n_kept / 8); }

}  // namespace order
#endif
