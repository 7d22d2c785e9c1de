// Experts of a row or two (experts_one.h): weights stream past once, 16 bytes a lane, a warp an output; rows and activations come from the cache. A token of
// OLMoE reads 64 MiB of gate and up and 32 MiB of down, so only bytes in flight count: eight loads a lane before the first is used, and as many as can be
// known before the kernel waits. `up` lets `down` start only when all its blocks have waited: everything before `up` is over then, so `down` reads slots,
// weights and residual, and asks for its matrices, while `up` still runs. The two are launched one behind the other, here alone.
#include "compute/cuda/experts.cuh"
#include "compute/cuda/experts_one.h"
#include "compute/cuda/pdl.cuh"
#include "compute/cuda/stream.cuh"

namespace {

using experts::bf16;

enum { WARPS = 8, UNROLL = 4, STRIDE = 32 * UNROLL, SHARED_WARPS_MAX = 8 };

// n vectors of two rows of weights, of which a lane takes each 32nd.
struct two { const uint4 *w[2]; int32_t n; };
typedef uint4 pieces[2][UNROLL];

__device__ __forceinline__ void ask(pieces &v, const two &rows, int32_t at) {
#pragma unroll
    for (int u = 0; u < UNROLL; u++)
        for (int i = 0; i < 2; i++)
            if (at + 32 * u < rows.n) v[i][u] = stream::read_once(rows.w[i] + at + 32 * u);
}

// Their products with x, in every lane; v: the first pieces, asked for.
__device__ __forceinline__ void multiply(pieces &v, const two &rows, const uint4 *x, float (&sum)[2]) {
    for (int32_t at = threadIdx.x % 32; at < rows.n;) {
#pragma unroll
        for (int u = 0; u < UNROLL; u++)
            for (int i = 0; i < 2; i++)
                if (at + 32 * u < rows.n) stream::add_products(v[i][u], x[at + 32 * u], sum[i]);
        at += STRIDE;
        ask(v, rows, at);
    }
    for (int i = 0; i < 2; i++) sum[i] = stream::sum_of_warp(sum[i]);
}

struct mlp {
    const bf16 *gate_up, *down;
    bf16 *act;
    int32_t width, block;

    __device__ __forceinline__ two gate_up_rows(int32_t slot, int32_t o, int32_t hidden) const {
        const int32_t n = hidden / 8;
        const uint4 *gate = reinterpret_cast<const uint4 *>(gate_up) + ((int64_t)slot * 2 * width + o / block * 2 * block + o % block) * n;
        return {{gate, gate + (int64_t)block * n}, n};
    }
    // Output o and the next; of `parts` pieces the one of number `part`.
    __device__ __forceinline__ two down_rows(int32_t slot, int32_t o, int32_t hidden, int32_t part, int32_t parts) const {
        const int32_t all = width / 8, each = (all + parts - 1) / parts, first = min(part * each, all);
        const uint4 *from = reinterpret_cast<const uint4 *>(down) + ((int64_t)slot * hidden + o) * all + first;
        return {{from, from + all}, min(each, all - first)};
    }
    __device__ __forceinline__ const uint4 *act_part(int32_t choice, int32_t part, int32_t parts) const {
        const int32_t all = width / 8, each = (all + parts - 1) / parts;
        return reinterpret_cast<const uint4 *>(act) + (int64_t)choice * all + min(part * each, all);
    }
};

struct one_args {
    mlp routed, shared;             // shared.width 0: there is none
    const int32_t *slot;
    const float *weight;
    int32_t n_rows, top_k, hidden;
    int32_t shared_warps;           // of down
};

// Past the first cache, which knows nothing of other processors.
__device__ __forceinline__ int32_t slot_of(const one_args &a, int32_t choice) { return a.slot ? __ldcg(a.slot + choice) : 0; }
__device__ __forceinline__ float weight_of(const one_args &a, int32_t choice) { return a.weight ? __ldcg(a.weight + choice) : 1; }
__device__ __forceinline__ float value(const bf16 *p) { return __uint_as_float((uint32_t)__ldcg(reinterpret_cast<const unsigned short *>(p)) << 16); }
__device__ __forceinline__ float rounded(float x) { return __bfloat162float(__float2bfloat16_rn(x)); }

// grid: the shared MLP's outputs, whose weights are known before the gate is done, then those of all choices, WARPS a block
__global__ __launch_bounds__(32 * WARPS) void up(one_args a, const bf16 *rows) {
    const int32_t n_shared = a.n_rows * a.shared.width, number = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    const bool is_shared = number < n_shared, known = is_shared || !a.slot;
    const mlp m = is_shared ? a.shared : a.routed;
    const int32_t out = is_shared ? number : number - n_shared, choice = out / m.width, o = out % m.width, row = is_shared ? choice : choice / a.top_k;
    two weights = m.gate_up_rows(0, o, a.hidden);
    pieces v;
    if (known && row < a.n_rows) ask(v, weights, lane);
    pdl::wait();
    pdl::release_next();        // not sooner: down counts on it
    if (row >= a.n_rows) return;
    if (!known) {
        const int32_t slot = slot_of(a, choice);
        if (slot < 0) return;
        weights = m.gate_up_rows(slot, o, a.hidden);
        ask(v, weights, lane);
    }
    float sum[2] = {0, 0};
    multiply(v, weights, reinterpret_cast<const uint4 *>(rows) + (int64_t)row * weights.n, sum);
    if (lane == 0) m.act[out] = __float2bfloat16_rn(__fdividef(sum[0], 1 + __expf(-sum[0])) * sum[1]);
}

// grid: two outputs of a row a block; a warp a choice, and some for the shared MLP. What they give meets in shared memory.
__global__ void down(one_args a, const bf16 *residual, bf16 *to) {
    __shared__ float part[2][GR_CUDA_ONE_TOP_K + SHARED_WARPS_MAX];
    const int32_t out = 2 * blockIdx.x, row = out / a.hidden, o = out % a.hidden, j = threadIdx.x / 32, lane = threadIdx.x % 32;
    const bool is_shared = j >= a.top_k;
    const mlp m = is_shared ? a.shared : a.routed;
    const int32_t choice = is_shared ? row : row * a.top_k + j, piece = is_shared ? j - a.top_k : 0, n_pieces = is_shared ? a.shared_warps : 1;
    const int32_t slot = is_shared ? 0 : slot_of(a, choice);
    const two weights = m.down_rows(max(slot, 0), o, a.hidden, piece, n_pieces);
    float sum[2] = {0, 0}, weight = is_shared ? 1 : weight_of(a, choice), old = residual && threadIdx.x < 2 ? value(residual + out + threadIdx.x) : 0;
    pieces v;
    if (slot >= 0) ask(v, weights, lane);
    pdl::release_next();
    pdl::wait();
    if (slot >= 0) multiply(v, weights, m.act_part(choice, piece, n_pieces), sum);
    if (lane == 0)
        for (int i = 0; i < 2; i++) part[i][j] = is_shared ? sum[i] : slot >= 0 ? __fmul_rn(weight, rounded(sum[i])) : 0;
    __syncthreads();        // every warp's sums are there
    if (threadIdx.x >= 2) return;
    float total = 0, shared = 0;
    for (int32_t k = 0; k < a.top_k; k++) total = __fadd_rn(total, part[threadIdx.x][k]);
    for (int32_t k = 0; k < a.shared_warps; k++) shared += part[threadIdx.x][a.top_k + k];
    to[out + threadIdx.x] = __float2bfloat16_rn(total + rounded(shared) + old);
}

mlp mlp_of(const gr_cuda_experts *e, void *act) {
    const gr_cuda_experts_options *o = &e->options;
    return {(const bf16 *)o->gate_up, (const bf16 *)o->down, (bf16 *)act, o->width, gr_cuda_gate_up_block(o->width)};
}

// Of down: as many columns as a choice has, for each.
int32_t shared_warps_of(const mlp &routed, const mlp &shared) {
    const int32_t n = (shared.width + routed.width - 1) / routed.width;
    return n < SHARED_WARPS_MAX ? n : SHARED_WARPS_MAX;
}

one_args args_of(const gr_cuda_experts *e, const gr_cuda_one *one) {
    one_args a = {mlp_of(e, e->options.act), {}, one->slot, one->weight, one->n_rows, one->top_k, e->options.hidden, 0};
    if (!one->shared) return a;
    a.shared = mlp_of(one->shared, one->shared_act);
    a.shared_warps = shared_warps_of(a.routed, a.shared);
    return a;
}

grace_status check(const gr_cuda_experts *e, const gr_cuda_one *one) {
    const bool fits = gr_cuda_experts_one_fits(e, one->n_rows, one->top_k) && (!one->shared || gr_cuda_experts_one_fits(one->shared, one->n_rows, 1));
    if (!fits) return gr_fail(GRACE_ERR_LIMIT, "cuda: experts of few rows take up to %d rows, %d choices, no biases and no limit, not %d rows of %d",
                              GR_CUDA_ONE_ROWS, GR_CUDA_ONE_TOP_K, one->n_rows, one->top_k);
    if (!one->shared || one->shared->options.hidden == e->options.hidden) return GRACE_OK;
    return gr_fail(GRACE_ERR_LIMIT, "cuda: a shared expert of hidden size %d beside experts of %d", one->shared->options.hidden, e->options.hidden);
}

}  // namespace

extern "C" bool gr_cuda_experts_one_fits(const gr_cuda_experts *e, int32_t n_rows, int32_t top_k) {
    const gr_cuda_experts_options *o = &e->options;
    return n_rows <= GR_CUDA_ONE_ROWS && top_k >= 1 && top_k <= GR_CUDA_ONE_TOP_K && !o->gate_up_bias && !o->down_bias && o->swiglu_limit == 0;
}

extern "C" grace_status gr_cuda_experts_one(const gr_cuda_experts *e, const gr_cuda_one *one, const void *rows, const void *residual, void *out,
                                            gr_cuda_stream stream) {
    grace_status st = check(e, one);
    if (st || one->n_rows == 0) return st;
    const one_args a = args_of(e, one);
    const int32_t n = a.n_rows * (a.top_k * a.routed.width + a.shared.width);
    pdl::launch(up, (unsigned)((n + WARPS - 1) / WARPS), 32 * WARPS, 0, stream, true, a, (const bf16 *)rows);
    st = gr_cuda_status(cudaGetLastError(), "experts of few rows, up");
    if (st) return st;
    pdl::launch(down, (unsigned)(a.n_rows * a.hidden / 2), 32 * (unsigned)(a.top_k + a.shared_warps), 0, stream, true, a, (const bf16 *)residual, (bf16 *)out);
    return gr_cuda_status(cudaGetLastError(), "experts of few rows, down");
}
