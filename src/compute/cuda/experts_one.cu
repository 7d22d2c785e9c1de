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

__device__ __forceinline__ float weight_of(const one_args &a, int32_t choice) { return a.weight ? a.weight[choice] : 1; }

__device__ __forceinline__ float add_choice(float total, int32_t slot, float weight, float sum) {
    const float y = __bfloat162float(__float2bfloat16_rn(stream::sum_of_warp(sum)));
    return slot < 0 ? total : __fadd_rn(total, __fmul_rn(weight, y));
}

// Output o of two choices of a row, slots below 0 among them: those read the other's weights, and count nothing.
__device__ __forceinline__ float add_two(const one_args &a, const bf16 *act, int32_t choice, int32_t o, float total) {
    const int32_t n = a.width / 8, slots[2] = {slot_of(a, choice), slot_of(a, choice + 1)};
    const int32_t read[2] = {slots[0] < 0 ? max(slots[1], 0) : slots[0], slots[1] < 0 ? max(slots[0], 0) : slots[1]};
    const uint4 *weights = reinterpret_cast<const uint4 *>(a.down), *middle = reinterpret_cast<const uint4 *>(act) + (int64_t)choice * n;
    const uint4 *const w[2] = {weights + ((int64_t)read[0] * a.hidden + o) * n, weights + ((int64_t)read[1] * a.hidden + o) * n};
    const uint4 *const x[2] = {middle, middle + n};
    float sum[2] = {0, 0};
    multiply(w, x, n, sum);
    return add_choice(add_choice(total, slots[0], weight_of(a, choice), sum[0]), slots[1], weight_of(a, choice + 1), sum[1]);
}

// The same of one choice, in two halves.
__device__ __forceinline__ float add_one(const one_args &a, const bf16 *act, int32_t choice, int32_t o, float total) {
    const int32_t n = a.width / 8, half = n / 2, slot = slot_of(a, choice);
    const uint4 *w0 = reinterpret_cast<const uint4 *>(a.down) + ((int64_t)max(slot, 0) * a.hidden + o) * n;
    const uint4 *x0 = reinterpret_cast<const uint4 *>(act) + (int64_t)choice * n;
    const uint4 *const w[2] = {w0, w0 + half}, *const x[2] = {x0, x0 + half};
    float sum[2] = {0, 0};
    multiply(w, x, half, sum);
    if (n % 2 && threadIdx.x % 32 == 0) stream::add_products(w0[n - 1], x0[n - 1], sum[1]);
    return add_choice(total, slot, weight_of(a, choice), sum[0] + sum[1]);
}

// grid: the outputs of all rows, WARPS a block
__global__ __launch_bounds__(32 * WARPS) void down(one_args a, const bf16 *act, const bf16 *residual, bf16 *to) {
    const int64_t out = (int64_t)blockIdx.x * WARPS + threadIdx.x / 32;
    const int32_t row = (int32_t)(out / a.hidden), o = (int32_t)(out % a.hidden);
    pdl::release_next();
    pdl::wait();
    if (row >= a.n_rows) return;
    float total = 0;
    int32_t j = 0;
    for (; j + 2 <= a.top_k; j += 2) total = add_two(a, act, row * a.top_k + j, o, total);
    if (j < a.top_k) total = add_one(a, act, row * a.top_k + j, o, total);
    if (threadIdx.x % 32 == 0) to[out] = __float2bfloat16_rn(total + (residual ? __bfloat162float(residual[out]) : 0));
}

one_args args_of(const gr_cuda_experts *e, const gr_cuda_one *one) {
    const gr_cuda_experts_options *o = &e->options;
    return {(const bf16 *)o->gate_up, (const bf16 *)o->down, one->slot, one->weight, one->n_rows, one->top_k, o->hidden, o->width, gr_cuda_gate_up_block(o->width)};
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
    pdl::launch(down, (unsigned)((n + WARPS - 1) / WARPS), 32 * WARPS, 0, stream, true, args_of(e, one), (const bf16 *)e->options.act,
                (const bf16 *)residual, (bf16 *)out);
    return gr_cuda_status(cudaGetLastError(), "experts of few rows");
}
