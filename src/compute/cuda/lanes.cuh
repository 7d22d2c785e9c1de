// What kernels over rows share: eight bf16 as one access of 16 bytes, sums over a warp and a block, the cpu backend's exp.
#ifndef GR_COMPUTE_CUDA_LANES_CUH
#define GR_COMPUTE_CUDA_LANES_CUH
#include <stdint.h>

namespace lanes {

// ---- bf16: two in a word, eight in a uint4; rounded to nearest, ties to even ----
__device__ __forceinline__ float low(uint32_t two) { return __uint_as_float(two << 16); }
__device__ __forceinline__ float high(uint32_t two) { return __uint_as_float(two & 0xFFFF0000u); }
__device__ __forceinline__ uint32_t pack(float low, float high) {
    uint32_t two;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(two) : "f"(high), "f"(low));
    return two;
}

__device__ __forceinline__ void widen(uint4 v, float to[8]) {
    const uint32_t word[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int i = 0; i < 4; i++) to[2 * i] = low(word[i]), to[2 * i + 1] = high(word[i]);
}

__device__ __forceinline__ uint4 narrow(const float from[8]) {
    return make_uint4(pack(from[0], from[1]), pack(from[2], from[3]), pack(from[4], from[5]), pack(from[6], from[7]));
}

// Eight floats from 32 aligned bytes.
__device__ __forceinline__ void load_eight(const float *from, float to[8]) {
    const float4 a = *reinterpret_cast<const float4 *>(from), b = *reinterpret_cast<const float4 *>(from + 4);
    to[0] = a.x, to[1] = a.y, to[2] = a.z, to[3] = a.w, to[4] = b.x, to[5] = b.y, to[6] = b.z, to[7] = b.w;
}

// ---- sums in a fixed order: halves of the lanes again and again; every lane gets the same bits ----
template <class T> __device__ __forceinline__ T sum_of_warp(T x) {
#pragma unroll
    for (int d = 16; d > 0; d /= 2) x += __shfl_xor_sync(~0u, x, d);
    return x;
}

// of_warp [32] shared; the caller syncs before it uses it again.
template <class T> __device__ __forceinline__ T sum_of_block(T x, T *of_warp) {
    const int lane = threadIdx.x % 32, n_warps = blockDim.x / 32;
    x = sum_of_warp(x);
    if (lane == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();        // sums of all warps are there
    return sum_of_warp(lane < n_warps ? of_warp[lane] : T(0));
}

// ---- order: an unsigned number that grows with the float; above 0 for every float but NaN ----
__device__ __forceinline__ uint32_t ordered(float x) {
    const uint32_t bits = __float_as_uint(x);
    return bits >> 31 ? ~bits : bits | 0x80000000u;
}
__device__ __forceinline__ float of_ordered(uint32_t key) { return __uint_as_float(key >> 31 ? key & 0x7FFFFFFFu : ~key); }

// exp to the bit as the cpu backend computes it (kernels_body.h, v16_exp): choices of both backends are the same, also where scores are nearly equal.
__device__ __forceinline__ float exp_as_cpu(float x) {
    const float lowest = -87.33654f, highest = 88.72284f, magic = 0x1.8p23f;
    const float y = fminf(highest, fmaxf(lowest, x));
    const float n = __fsub_rn(__fmaf_rn(y, 0x1.715476p0f, magic), magic);
    const float r = __fmaf_rn(n, 0x1.05c61p-29f, __fmaf_rn(n, -0x1.62e43p-1f, y));
    float p = 1.0f / 5040;
    p = __fmaf_rn(p, r, 1.0f / 720);
    p = __fmaf_rn(p, r, 1.0f / 120);
    p = __fmaf_rn(p, r, 1.0f / 24);
    p = __fmaf_rn(p, r, 1.0f / 6);
    p = __fmaf_rn(p, r, 0.5f);
    p = __fmaf_rn(p, r, 1.0f);
    p = __fmaf_rn(p, r, 1.0f);
    const int whole = (int)n, half = whole / 2;     // two factors, since 2^128 is no float
    p = __fmul_rn(__fmul_rn(p, __int_as_float((half + 127) << 23)), __int_as_float((whole - half + 127) << 23));
    return x < lowest ? 0.0f : p;
}

}  // namespace lanes
#endif
