// What the expert kernels share: a product's operands, the walk over its tiles, the middle of an MLP, and how sums leave registers.
#ifndef GR_COMPUTE_CUDA_EXPERTS_CUH
#define GR_COMPUTE_CUDA_EXPERTS_CUH
#include <cuda_bf16.h>
#include <stdint.h>

#include "compute/cuda/experts.h"

namespace experts {

typedef __nv_bfloat16 bf16;

// gr_cuda_pairs as kernels see it. Without tables every row is the pair of its number, all of slot 0.
struct view {
    const int32_t *first_pair, *row_of_pair;
    int32_t n_slots, n_rows;
    __device__ __forceinline__ int32_t first(int32_t slot) const { return first_pair ? first_pair[slot] : slot * n_rows; }
    __device__ __forceinline__ int32_t row(int32_t pair) const { return row_of_pair ? row_of_pair[pair] : pair; }
};

// One of the two products of all pairs: up (gate and up, then SwiGLU; rows are gathered) or down.
struct product {
    view pairs;
    const bf16 *in;                 // up: [n_rows, k]; down: [n_pairs, k]
    const bf16 *weight;             // [n_slots, n_weight_rows, k]
    const float *bias;              // [n_slots, n_weight_rows]; NULL: none
    bf16 *out;                      // [n_pairs, n_out]
    int32_t k, n_weight_rows, n_out;
    int32_t block;                  // up: gr_cuda_gate_up_block()
    float limit;

    // up: the row of gate that output o has; `block` rows below it is that of up
    __device__ __forceinline__ int32_t gate_row(int32_t o) const { return o / block * 2 * block + o % block; }
};

// The processors a run may have. Where it does not have all, down starts when up is over: blocks that came early would sit on those that are spared.
struct share { int32_t n_processors; bool all; };
static inline share share_of(const gr_cuda_experts *e, const gr_cuda_pairs *p) { return {gr_cuda_processors(e->n_processors, p->spares), !p->spares}; }

static inline product up_product(const gr_cuda_experts *e, const gr_cuda_pairs *p, const void *rows) {
    const gr_cuda_experts_options *o = &e->options;
    return {{p->first_pair, p->row_of_pair, p->n_slots, p->n_rows}, (const bf16 *)rows, (const bf16 *)o->gate_up, o->gate_up_bias, (bf16 *)o->act,
            o->hidden, 2 * o->width, o->width, gr_cuda_gate_up_block(o->width), o->swiglu_limit};
}

static inline product down_product(const gr_cuda_experts *e, const gr_cuda_pairs *p, void *y) {
    const gr_cuda_experts_options *o = &e->options;
    return {{p->first_pair, p->row_of_pair, p->n_slots, p->n_rows}, (const bf16 *)o->act, (const bf16 *)o->down, o->down_bias, (bf16 *)y,
            o->width, o->hidden, o->hidden, 0, 0};
}

// ---- tiles: slot by slot, in a slot all tiles of rows for one tile of outputs, so that neighbours share weights in the cache ----

// Tiles of BM rows before each slot, [n_slots + 1], by the first warp.
template <int BM> __device__ void count_tiles(const view &p, int32_t *tiles_before) {
    int32_t lane = threadIdx.x, carry = 0;
    for (int32_t base = 0; base < p.n_slots; base += 32) {
        int32_t s = base + lane, n = s < p.n_slots ? (p.first(s + 1) - p.first(s) + BM - 1) / BM : 0, sum = n;
        for (int d = 1; d < 32; d *= 2) {
            int32_t left = __shfl_up_sync(~0u, sum, d);
            if (lane >= d) sum += left;
        }
        if (s < p.n_slots) tiles_before[s + 1] = carry + sum;
        carry += __shfl_sync(~0u, sum, 31);
    }
    if (lane == 0) tiles_before[0] = 0;
}

// The last slot that begins at or before `at`.
template <class F> __device__ __forceinline__ int32_t slot_at(int32_t n_slots, int32_t at, F begin_of) {
    int32_t low = 0, high = n_slots;
    while (high - low > 1) {
        int32_t mid = (low + high) / 2;
        if (begin_of(mid) <= at) low = mid;
        else high = mid;
    }
    return low;
}

struct tile { int32_t slot, first_pair, n_pairs, across; };      // n_pairs: rows that exist, at most BM; across: which tile of outputs

template <int BM> __device__ tile tile_at(const view &p, const int32_t *tiles_before, int32_t n_across, int32_t t) {
    int32_t slot = slot_at(p.n_slots, t, [&](int32_t s) { return tiles_before[s] * n_across; });
    int32_t local = t - tiles_before[slot] * n_across, n_down = tiles_before[slot + 1] - tiles_before[slot];
    int32_t first = p.first(slot) + local % n_down * BM;
    return {slot, first, min(p.first(slot + 1) - first, BM), local / n_down};
}

// ---- sums to bf16 ----

// gate and up -> act, as grace_model_info.swiglu_limit says.
__device__ __forceinline__ float swiglu(float gate, float up, float limit) {
    if (limit > 0) {
        gate = fminf(gate, limit), up = fminf(fmaxf(up, -limit), limit) + 1;
        return __fdividef(gate, 1 + __expf(-1.702f * gate)) * up;
    }
    return __fdividef(gate, 1 + __expf(-gate)) * up;
}

__device__ __forceinline__ uint32_t pack_two(float a, float b) {
    __nv_bfloat162 two = __floats2bfloat162_rn(a, b);
    return *reinterpret_cast<uint32_t *>(&two);
}

// Four lanes hold two columns each of four blocks of eight columns; afterwards lane q holds all eight of block q.
__device__ __forceinline__ void transpose_quad(uint32_t (&v)[4]) {
    const bool odd = threadIdx.x & 1, high = threadIdx.x & 2;
    for (int i = 0; i < 4; i += 2) {
        uint32_t got = __shfl_xor_sync(~0u, odd ? v[i] : v[i + 1], 1);
        (odd ? v[i] : v[i + 1]) = got;
    }
    for (int i = 0; i < 2; i++) {
        uint32_t got = __shfl_xor_sync(~0u, high ? v[i] : v[i + 2], 2);
        (high ? v[i] : v[i + 2]) = got;
    }
}

}  // namespace experts
#endif
