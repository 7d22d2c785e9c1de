// Experts of a row or two (experts_one.h): weights stream past once, 16 bytes a lane, a warp an output; rows and activations come from the cache. A token of
// OLMoE reads 64 MiB of gate and up and 32 MiB of down, so only bytes in flight count: eight loads a lane before the first is used.
#include "compute/cuda/experts.cuh"
#include "compute/cuda/experts_one.h"
#include "compute/cuda/pdl.cuh"
#include "compute/cuda/stream.cuh"

namespace {

using experts::bf16;

enum { WARPS = 8, UNROLL = 4 };

// Two dot products of n vectors, this lane's part: sum[i] += w[i] . x[i].
__device__ __forceinline__ void multiply(const uint4 *const (&w)[2], const uint4 *const (&x)[2], int32_t n, float (&sum)[2]) {
    for (int32_t base = threadIdx.x % 32; base < n; base += 32 * UNROLL) {
        uint4 v[2][UNROLL];
#pragma unroll
        for (int u = 0; u < UNROLL; u++)
            for (int i = 0; i < 2; i++)
                if (base + 32 * u < n) v[i][u] = stream::read_once(w[i] + base + 32 * u);
#pragma unroll
        for (int u = 0; u < UNROLL; u++)
            for (int i = 0; i < 2; i++)
                if (base + 32 * u < n) stream::add_products(v[i][u], x[i][base + 32 * u], sum[i]);
    }
}

struct one_args {
    const bf16 *gate_up, *down;
    const int32_t *slot;
    const float *weight;
    int32_t n_rows, top_k, hidden, width, block;
};

__device__ __forceinline__ int32_t slot_of(const one_args &a, int32_t choice) { return a.slot ? a.slot[choice] : 0; }

// grid: the outputs of all choices, WARPS a block
__global__ __launch_bounds__(32 * WARPS) void up(one_args a, const bf16 *rows, bf16 *act) {
    const int64_t out = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const int32_t choice = (int32_t)(out / a.width), o = (int32_t)(out % a.width);
    pdl::release_next();
    pdl::wait();
    if (choice >= a.n_rows * a.top_k) return;
    const int32_t slot = slot_of(a, choice);
    if (slot < 0) return;
    const int32_t n = a.hidden / 8;
    const uint4 *gate = reinterpret_cast<const uint4 *>(a.gate_up) + ((int64_t)slot * 2 * a.width + o / a.block * 2 * a.block + o % a.block) * n;
    const uint4 *const w[2] = {gate, gate + (int64_t)a.block * n}, *row = reinterpret_cast<const uint4 *>(rows) + (int64_t)(choice / a.top_k) * n;
    const uint4 *const x[2] = {row, row};
    float sum[2] = {0, 0};
    multiply(w, x, n, sum);
    const float g = stream::sum_of_warp(sum[0]), u = stream::sum_of_warp(sum[1]);
    if (threadIdx.x % 32 == 0) act[out] = __float2bfloat16_rn(__fdividef(g, 1 + __expf(-g)) * u);
}

// grid: two outputs of a row a block; a warp a choice. What the choices give meets in shared memory.
__global__ void down(one_args a, const bf16 *act, const bf16 *residual, bf16 *to) {
    __shared__ float part[2][GR_CUDA_ONE_TOP_K];
    const int64_t out = 2 * (int64_t)blockIdx.x;
    const int32_t row = (int32_t)(out / a.hidden), o = (int32_t)(out % a.hidden), n = a.width / 8, j = threadIdx.x / 32, choice = row * a.top_k + j;
    pdl::release_next();
    pdl::wait();
    const int32_t slot = slot_of(a, choice);
    if (slot >= 0) {
        const uint4 *from = reinterpret_cast<const uint4 *>(a.down) + ((int64_t)slot * a.hidden + o) * n, *middle = reinterpret_cast<const uint4 *>(act);
        const uint4 *const w[2] = {from, from + n}, *const x[2] = {middle + (int64_t)choice * n, middle + (int64_t)choice * n};
        float sum[2] = {0, 0};
        multiply(w, x, n, sum);
        for (int i = 0; i < 2; i++) {
            const float all = stream::sum_of_warp(sum[i]);
            if (threadIdx.x % 32 == 0) part[i][j] = __bfloat162float(__float2bfloat16_rn(all));
        }
    }
    __syncthreads();        // every choice's sums are there
    if (threadIdx.x >= 2) return;
    float total = 0;
    for (int32_t k = 0; k < a.top_k; k++)
        if (slot_of(a, row * a.top_k + k) >= 0) total = __fadd_rn(total, __fmul_rn(a.weight ? a.weight[row * a.top_k + k] : 1, part[threadIdx.x][k]));
    to[out + threadIdx.x] = __float2bfloat16_rn(total + (residual ? __bfloat162float(residual[out + threadIdx.x]) : 0));
}

one_args args_of(const gr_cuda_experts *e, const gr_cuda_one *one) {
    const gr_cuda_experts_options *o = &e->options;
    return {(const bf16 *)o->gate_up, (const bf16 *)o->down, one->slot, one->weight, one->n_rows, one->top_k, o->hidden, o->width,
            gr_cuda_gate_up_block(o->width)};
}

grace_status check(const gr_cuda_experts *e, const gr_cuda_one *one) {
    if (gr_cuda_experts_one_fits(e, one->n_rows, one->top_k)) return GRACE_OK;
    return gr_fail(GRACE_ERR_LIMIT, "cuda: experts of few rows take up to %d rows, %d choices, no biases and no limit, not %d rows of %d", GR_CUDA_ONE_ROWS,
                   GR_CUDA_ONE_TOP_K, one->n_rows, one->top_k);
}

}  // namespace

extern "C" bool gr_cuda_experts_one_fits(const gr_cuda_experts *e, int32_t n_rows, int32_t top_k) {
    const gr_cuda_experts_options *o = &e->options;
    return n_rows <= GR_CUDA_ONE_ROWS && top_k <= GR_CUDA_ONE_TOP_K && !o->gate_up_bias && !o->down_bias && o->swiglu_limit == 0;
}

extern "C" grace_status gr_cuda_experts_one_up(const gr_cuda_experts *e, const gr_cuda_one *one, const void *rows, gr_cuda_stream stream) {
    const int64_t n = (int64_t)one->n_rows * one->top_k * e->options.width;
    grace_status st = check(e, one);
    if (st || n == 0) return st;
    pdl::launch(up, (unsigned)((n + WARPS - 1) / WARPS), 32 * WARPS, 0, stream, true, args_of(e, one), (const bf16 *)rows, (bf16 *)e->options.act);
    return gr_cuda_status(cudaGetLastError(), "experts of few rows");
}

extern "C" grace_status gr_cuda_experts_one_down(const gr_cuda_experts *e, const gr_cuda_one *one, const void *residual, void *out,
                                                 gr_cuda_stream stream) {
    const int64_t n = (int64_t)one->n_rows * e->options.hidden;
    grace_status st = check(e, one);
    if (st || n == 0) return st;
    pdl::launch(down, (unsigned)(n / 2), 32 * (unsigned)one->top_k, 0, stream, true, args_of(e, one), (const bf16 *)e->options.act, (const bf16 *)residual,
                (bf16 *)out);
    return gr_cuda_status(cudaGetLastError(), "experts of few rows");
}
