// What the kernels over pairs share: where a slot's pairs lie, and the middle of an MLP.
#ifndef GR_COMPUTE_CUDA_PAIRS_CUH
#define GR_COMPUTE_CUDA_PAIRS_CUH
#include <cuda_bf16.h>
#include <stdint.h>

namespace pairs {

typedef __nv_bfloat16 bf16;

// gr_cuda_pairs as kernels see it. Without tables every row is the pair of its number, all of slot 0.
struct view {
    const int32_t *first_pair, *row_of_pair;
    int32_t n_slots, n_rows;
    __device__ __forceinline__ int32_t first(int32_t slot) const { return first_pair ? first_pair[slot] : slot * n_rows; }
    __device__ __forceinline__ int32_t row(int32_t pair) const { return row_of_pair ? row_of_pair[pair] : pair; }
};

// The slot that a pair belongs to; the pair exists.
__device__ __forceinline__ int32_t slot_of(const view &p, int32_t pair) {
    int32_t low = 0, high = p.n_slots;
    while (high - low > 1) {
        int32_t mid = (low + high) / 2;
        if (p.first(mid) <= pair) low = mid;
        else high = mid;
    }
    return low;
}

// gate and up -> act, as grace_model_info.swiglu_limit says.
__device__ __forceinline__ float swiglu(float gate, float up, float limit) {
    if (limit > 0) {
        gate = fminf(gate, limit), up = fminf(fmaxf(up, -limit), limit) + 1;
        return __fdividef(gate, 1 + __expf(-1.702f * gate)) * up;
    }
    return __fdividef(gate, 1 + __expf(-gate)) * up;
}

}  // namespace pairs
#endif
