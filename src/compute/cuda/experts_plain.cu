// Experts for any sizes: a warp an output, fp32 sums in one order. Correct first; the fast kernels are held against it.
#include "compute/cuda/experts.cuh"
#include "compute/cuda/pdl.cuh"

namespace {

using namespace experts;

enum { WARPS = 8, OUTS_A_WARP = 8, OUTS = WARPS * OUTS_A_WARP };      // of a block

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

__device__ float output(const product &p, int32_t slot, int32_t weight_row, const bf16 *x) {
    int64_t row = (int64_t)slot * p.n_weight_rows + weight_row;
    return dot(x, p.weight + row * p.k, p.k) + (p.bias ? p.bias[row] : 0);
}

// grid: most pairs x ceil(n_out / OUTS)
template <bool UP> __global__ __launch_bounds__(32 * WARPS) void plain_product(product p) {
    int32_t pair = blockIdx.x, warp = threadIdx.x / 32;
    pdl::release_next();
    pdl::wait();
    if (pair >= p.pairs.first(p.pairs.n_slots)) return;
    int32_t slot = slot_at(p.pairs.n_slots, pair, [&](int32_t s) { return p.pairs.first(s); });
    const bf16 *x = p.in + (int64_t)(UP ? p.pairs.row(pair) : pair) * p.k;
    for (int32_t i = 0; i < OUTS_A_WARP; i++) {
        int32_t o = blockIdx.y * OUTS + i * WARPS + warp;
        if (o >= p.n_out) break;
        int32_t row = UP ? p.gate_row(o) : o;
        float value = output(p, slot, row, x);
        if (UP) value = swiglu(value, output(p, slot, row + p.block, x), p.limit);
        if (threadIdx.x % 32 == 0) p.out[(int64_t)pair * p.n_out + o] = __float2bfloat16_rn(value);
    }
}

}  // namespace

extern "C" grace_status gr_cuda_experts_plain(const gr_cuda_experts *e, const gr_cuda_pairs *pairs, const void *rows, void *y, cudaStream_t stream) {
    const product up = up_product(e, pairs, rows), down = down_product(e, pairs, y);
    const unsigned n_pairs = (unsigned)pairs->n_rows * (unsigned)pairs->top_k;
    pdl::launch(plain_product<true>, dim3(n_pairs, (up.n_out + OUTS - 1) / OUTS), 32 * WARPS, 0, stream, true, up);
    pdl::launch(plain_product<false>, dim3(n_pairs, (down.n_out + OUTS - 1) / OUTS), 32 * WARPS, 0, stream, true, down);
    return gr_cuda_status(cudaGetLastError(), "plain experts");
}
