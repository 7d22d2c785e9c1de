// Matrices that stream past once: what the kernels for a row or two share.
#ifndef GR_COMPUTE_CUDA_STREAM_CUH
#define GR_COMPUTE_CUDA_STREAM_CUH
#include <cuda_bf16.h>
#include <stdint.h>

namespace stream {

// Weights are read once: they need not stay in the first cache.
__device__ __forceinline__ uint4 read_once(const uint4 *p) {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];" : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

// sum += a . b, eight products of bf16.
__device__ __forceinline__ void add_products(uint4 a, uint4 b, float &sum) {
    const __nv_bfloat162 *x = reinterpret_cast<const __nv_bfloat162 *>(&a), *y = reinterpret_cast<const __nv_bfloat162 *>(&b);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 p = __bfloat1622float2(x[i]), q = __bfloat1622float2(y[i]);
        sum = fmaf(p.y, q.y, fmaf(p.x, q.x, sum));
    }
}

__device__ __forceinline__ float sum_of_warp(float x) {
    for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(~0u, x, d);
    return x;
}

}  // namespace stream
#endif
