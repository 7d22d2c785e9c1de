// Experts for any sizes: a warp an output, fp32 sums in one order. Correct first; the fast kernels are held against it.
#include "compute/cuda/experts.h"
#include "compute/cuda/pairs.cuh"

namespace {

typedef pairs::bf16 bf16;

enum { WARPS = 8, OUTS_A_WARP = 8, OUTS = WARPS * OUTS_A_WARP };      // of a block

struct product {
    pairs::view pairs;
    const bf16 *in, *weight;        // in [.., k]; weight [n_slots, rows, k]
    const float *bias;              // [n_slots, rows]; NULL: none
    bf16 *out;                      // [n_pairs, n_out]
    int32_t k, rows, n_out, block;  // block: gr_cuda_gate_up_block()
    float limit;
};

// Every lane gets the dot product of k values of bf16, k a multiple of 8.
__device__ float dot(const bf16 *a, const bf16 *b, int32_t k) {
    float sum = 0;
    for (int32_t at = threadIdx.x % 32 * 8; at < k; at += 32 * 8) {
        uint4 x = *reinterpret_cast<const uint4 *>(a + at), y = *reinterpret_cast<const uint4 *>(b + at);
        const bf16 *left = reinterpret_cast<const bf16 *>(&x), *right = reinterpret_cast<const bf16 *>(&y);
        for (int i = 0; i < 8; i++) sum = fmaf(__bfloat162float(left[i]), __bfloat162float(right[i]), sum);
    }
    for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    return sum;
}

__device__ float output(const product &p, int32_t slot, int64_t row, const bf16 *x) {
    row += (int64_t)slot * p.rows;
    return dot(x, p.weight + row * p.k, p.k) + (p.bias ? p.bias[row] : 0);
}

// grid: most pairs x ceil(n_out / OUTS). UP: row o of gate and of up make output o; else output o is row o.
template <bool UP> __global__ __launch_bounds__(32 * WARPS) void plain_product(product p) {
    int32_t pair = blockIdx.x, warp = threadIdx.x / 32;
    if (pair >= p.pairs.first(p.pairs.n_slots)) return;
    int32_t slot = pairs::slot_of(p.pairs, pair);
    const bf16 *x = p.in + (int64_t)(UP ? p.pairs.row(pair) : pair) * p.k;
    for (int32_t i = 0; i < OUTS_A_WARP; i++) {
        int32_t o = blockIdx.y * OUTS + i * WARPS + warp;
        if (o >= p.n_out) break;
        int32_t gate_row = UP ? o / p.block * 2 * p.block + o % p.block : o;
        float value = output(p, slot, gate_row, x);
        if (UP) value = pairs::swiglu(value, output(p, slot, gate_row + p.block, x), p.limit);
        if (threadIdx.x % 32 == 0) p.out[(int64_t)pair * p.n_out + o] = __float2bfloat16_rn(value);
    }
}

}  // namespace

extern "C" grace_status gr_cuda_experts_plain(const gr_cuda_experts *e, const gr_cuda_pairs *pairs, const void *rows, void *y, cudaStream_t stream) {
    const gr_cuda_experts_options *o = &e->options;
    const pairs::view view = {pairs->first_pair, pairs->row_of_pair, pairs->n_slots, pairs->n_rows};
    const product up = {view, (const bf16 *)rows, (const bf16 *)o->gate_up, o->gate_up_bias, (bf16 *)o->act, o->hidden, 2 * o->width, o->width,
                        gr_cuda_gate_up_block(o->width), o->swiglu_limit};
    const product down = {view, (const bf16 *)o->act, (const bf16 *)o->down, o->down_bias, (bf16 *)y, o->width, o->hidden, o->hidden, 0, 0};
    const unsigned n_pairs = (unsigned)pairs->n_rows * (unsigned)pairs->top_k;
    plain_product<true><<<dim3(n_pairs, (o->width + OUTS - 1) / OUTS), 32 * WARPS, 0, stream>>>(up);
    plain_product<false><<<dim3(n_pairs, (o->hidden + OUTS - 1) / OUTS), 32 * WARPS, 0, stream>>>(down);
    return gr_cuda_status(cudaGetLastError(), "plain experts");
}
