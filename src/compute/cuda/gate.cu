// A warp chooses a row's experts: lane l has experts l, l + 32, ... in registers. Scores, order of the sum, choice and weights are those of
// src/compute/cpu/gate.c to the bit; the few-row kernel makes the logits itself.
#include "compute/cuda/gate.h"

#include <math.h>

#include "base/hash.h"
#include "compute/cuda/cuda.h"
#include "compute/cuda/lanes.cuh"

namespace {

enum { WARPS = 4 };

struct rows { const int32_t *sequence, *position, *kv_sequence; int32_t n; };
struct outputs { int32_t *ids; float *weights; int32_t *slots, *flaw; };

// What a warp needs beside registers, for groups: every expert's choice and every group's best.
struct workspace { float choice[GR_CUDA_GATE_EXPERTS_MAX], best[GR_CUDA_GATE_EXPERTS_MAX]; };

__device__ __forceinline__ int lane_of_thread(void) { return threadIdx.x % 32; }

// ---- scores ----
// The canonical sum of the cpu backend (compute.h): partial j takes experts j, j + 16, ...; then halves are folded. Absent experts are zeros.
template <int N> __device__ __forceinline__ float canonical_sum(const float p[N]) {
    const int partial = lane_of_thread() % 16;
    float sum = 0;
#pragma unroll
    for (int j = 0; j < N; j++) {
        sum += __shfl_sync(~0u, p[j], partial);
        sum += __shfl_sync(~0u, p[j], partial + 16);
    }
#pragma unroll
    for (int d = 8; d > 0; d /= 2) sum += __shfl_xor_sync(~0u, sum, d);
    return sum;
}

template <int N> __device__ __forceinline__ void softmax(int32_t n_experts, float p[N]) {
    uint32_t key = 0;
#pragma unroll
    for (int j = 0; j < N; j++)
        if (lane_of_thread() + 32 * j < n_experts) key = max(key, lanes::ordered(p[j]));
    const float most = lanes::of_ordered(__reduce_max_sync(~0u, key));
#pragma unroll
    for (int j = 0; j < N; j++) p[j] = lane_of_thread() + 32 * j < n_experts ? lanes::exp_as_cpu(p[j] - most) : 0.0f;
    const float total = canonical_sum<N>(p);
#pragma unroll
    for (int j = 0; j < N; j++) p[j] = __fdiv_rn(p[j], total);
}

template <int N> __device__ __forceinline__ void scores_of_row(const gr_cuda_gate &g, float p[N]) {
#pragma unroll
    for (int j = 0; j < N; j++)
        if (g.bias && lane_of_thread() + 32 * j < g.n_experts) p[j] += g.bias[lane_of_thread() + 32 * j];
    if (g.rule.score == GRACE_SCORE_SOFTMAX) {
        softmax<N>(g.n_experts, p);
        return;
    }
#pragma unroll
    for (int j = 0; j < N; j++) p[j] = __fdiv_rn(1.0f, 1.0f + lanes::exp_as_cpu(0.0f - p[j]));
}

// ---- groups ----
// The lane's group, from its experts' choices. Lanes start at different experts, so that they meet different banks.
__device__ float best_of_group(const float *choice, int32_t n, bool two) {
    float best = -INFINITY, second = -INFINITY;
    int32_t at = lane_of_thread() % n;
    for (int32_t i = 0; i < n; i++) {
        const float x = choice[at];
        if (x > best) second = best, best = x;
        else if (x > second) second = x;
        at = at + 1 < n ? at + 1 : 0;
    }
    return two && n > 1 ? best + second : best;
}

// Experts outside the top_groups best groups (equal ones by id) drop out.
template <int N> __device__ __forceinline__ void keep_groups(const gr_cuda_gate &g, workspace *w, float choice[N]) {
    const int32_t n_groups = g.rule.n_groups, size = g.n_experts / n_groups, lane = lane_of_thread();
#pragma unroll
    for (int j = 0; j < N; j++)
        if (lane + 32 * j < g.n_experts) w->choice[lane + 32 * j] = choice[j];
    __syncwarp();       // choices are there
    for (int32_t i = lane; i < n_groups; i += 32) w->best[i] = best_of_group(w->choice + i * size, size, g.rule.group_best == 2);
    __syncwarp();       // groups are there
#pragma unroll
    for (int j = 0; j < N; j++) {
        const int32_t own = min((lane + 32 * j) / size, n_groups - 1);
        const float best = w->best[own];
        int32_t better = 0;
        for (int32_t h = 0; h < n_groups; h++) better += w->best[h] > best || (w->best[h] == best && h < own);
        if (better >= g.rule.top_groups) choice[j] = -INFINITY;
    }
    __syncwarp();       // read by all: the next row may write
}

// ---- the choice: lane i < top_k gets the i-th largest, equal ones by id ----
template <int N> __device__ __forceinline__ int32_t select_largest(const gr_cuda_gate &g, const float choice[N]) {
    const int32_t lane = lane_of_thread();
    uint32_t key[N];        // 0: not there, or taken
    int32_t mine = 0;
#pragma unroll
    for (int j = 0; j < N; j++) key[j] = lane + 32 * j < g.n_experts ? lanes::ordered(choice[j]) : 0;
    for (int32_t i = 0; i < g.top_k; i++) {
        uint32_t best = key[0];
        int32_t id = lane;
#pragma unroll
        for (int j = 1; j < N; j++)
            if (key[j] > best) best = key[j], id = lane + 32 * j;
        const uint32_t top = __reduce_max_sync(~0u, best);
        id = __reduce_min_sync(~0u, best == top ? id : INT32_MAX);
        if (lane == i) mine = id;
#pragma unroll
        for (int j = 0; j < N; j++)
            if (lane + 32 * j == id) key[j] = 0;
    }
    return mine;
}

// p of expert `id`, which differs by lane.
template <int N> __device__ __forceinline__ float score_of(const float p[N], int32_t id) {
    float score = 0;
#pragma unroll
    for (int j = 0; j < N; j++) {
        const float x = __shfl_sync(~0u, p[j], id % 32);
        if (id / 32 == j) score = x;
    }
    return score;
}

// Lanes below n change places: by falling weight, equal ones by id.
__device__ void sort_choices(int32_t n, int32_t *id, float *weight) {
    int32_t rank = 0, id_there = *id;
    float weight_there = *weight;
    for (int32_t i = 0; i < n; i++) {
        const float w = __shfl_sync(~0u, *weight, i);
        const int32_t e = __shfl_sync(~0u, *id, i);
        rank += w > *weight || (w == *weight && e < *id);
    }
    for (int32_t i = 0; i < n; i++) {
        const float w = __shfl_sync(~0u, *weight, i);
        const int32_t e = __shfl_sync(~0u, *id, i), to = __shfl_sync(~0u, rank, i);
        if (to == lane_of_thread()) id_there = e, weight_there = w;
    }
    *id = id_there, *weight = weight_there;
}

__device__ float scaled(const gr_cuda_gate &g, float weight) {
    if (g.rule.norm_topk) {
        float sum = 0;
        for (int32_t i = 0; i < g.top_k; i++) sum += __shfl_sync(~0u, weight, i);
        if (sum > 0) weight = __fdiv_rn(weight, sum);
    }
    return g.rule.scaling != 1 ? weight * g.rule.scaling : weight;
}

__device__ int32_t slot_of(const gr_cuda_gate &g, const rows &r, int32_t row, int32_t expert) {
    if (!g.pick) return expert;
    const uint32_t turn = gr_mix32((uint32_t)r.sequence[row], (uint32_t)g.layer, (uint32_t)expert) + (uint32_t)r.position[row];
    return g.pick[expert * GR_CUDA_GATE_TURNS + turn % GR_CUDA_GATE_TURNS];
}

// A whole warp. Logits may have been written by other blocks of this launch: read where they meet.
template <int N>
__device__ __forceinline__ void choose_row(const gr_cuda_gate &g, const float *logits, const rows &r, int32_t row, workspace *w, const outputs &out) {
    const int32_t lane = lane_of_thread();
    const bool padding = r.kv_sequence && r.kv_sequence[row] < 0;
    float p[N], choice[N];
    bool flawed = false;
#pragma unroll
    for (int j = 0; j < N; j++) {
        p[j] = lane + 32 * j < g.n_experts ? __ldcg(logits + (int64_t)row * g.n_experts + lane + 32 * j) : 0.0f;
        flawed = flawed || !isfinite(p[j]);
    }
    flawed = __any_sync(~0u, flawed);
    int32_t id = lane;
    float weight = 0;
    if (!padding && !flawed) {
        scores_of_row<N>(g, p);
#pragma unroll
        for (int j = 0; j < N; j++) choice[j] = g.correction && lane + 32 * j < g.n_experts ? p[j] + g.correction[lane + 32 * j] : p[j];
        if (g.rule.n_groups) keep_groups<N>(g, w, choice);
        id = select_largest<N>(g, choice);
        weight = score_of<N>(p, id);
        if (g.correction || g.rule.n_groups) sort_choices(g.top_k, &id, &weight);
        weight = scaled(g, weight);
    } else if (!padding && lane == 0) atomicCAS(out.flaw, 0, row + 1);
    if (lane >= g.top_k) return;
    const int64_t at = (int64_t)row * g.top_k + lane;
    out.ids[at] = id;
    out.weights[at] = weight;
    out.slots[at] = padding ? -1 : slot_of(g, r, row, id);
}

// Grid: a warp a row.
template <int N> __global__ __launch_bounds__(WARPS * 32) void choose(gr_cuda_gate g, const float *logits, rows r, outputs out) {
    __shared__ workspace w[WARPS];
    const int32_t row = blockIdx.x * WARPS + threadIdx.x / 32;
    if (row < r.n) choose_row<N>(g, logits, r, row, &w[threadIdx.x / 32], out);
}

// ---- logits and choice ----
// Eight of a router's weights as floats.
__device__ __forceinline__ void load_weights(const float *w, float to[8]) { lanes::load_eight(w, to); }
__device__ __forceinline__ void load_weights(const uint16_t *w, float to[8]) { lanes::widen(*reinterpret_cast<const uint4 *>(w), to); }

// ROWS x EXPERTS products of whole rows by a warp. Lane l sums elements 8 l .. 8 l + 7, 256 further, ...: the same for every ROWS and EXPERTS. Rows
// and experts behind the last are the last again.
template <class W, int ROWS, int EXPERTS>
__device__ __forceinline__ void multiply(const gr_cuda_matrix &m, const uint16_t *x, int32_t row, int32_t last_row, int32_t expert,
                                         float sum[ROWS][EXPERTS]) {
    const W *w = (const W *)m.data;
    const int32_t hidden = m.cols, last_expert = m.rows - 1;
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int e = 0; e < EXPERTS; e++) sum[i][e] = 0;
#pragma unroll(ROWS * EXPERTS == 1 ? 8 : 2)
    for (int32_t at = 8 * lane_of_thread(); at < hidden; at += 256) {
        float a[ROWS][8], b[EXPERTS][8];
#pragma unroll
        for (int e = 0; e < EXPERTS; e++) load_weights(w + (int64_t)min(expert + e, last_expert) * hidden + at, b[e]);
#pragma unroll
        for (int i = 0; i < ROWS; i++) lanes::widen(*reinterpret_cast<const uint4 *>(x + (int64_t)min(row + i, last_row) * hidden + at), a[i]);
#pragma unroll
        for (int i = 0; i < ROWS; i++)
#pragma unroll
            for (int e = 0; e < EXPERTS; e++)
#pragma unroll
                for (int k = 0; k < 8; k++) sum[i][e] = __fmaf_rn(a[i][k], b[e][k], sum[i][e]);
    }
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int e = 0; e < EXPERTS; e++) sum[i][e] = lanes::sum_of_warp(sum[i][e]);
}

// True in the last of n blocks to come here for a tile; what the others wrote before is visible then. The counter is zero again.
__device__ bool last_to_come(int32_t *n_done, int32_t n) {
    __shared__ bool is_last;
    __threadfence();
    __syncthreads();        // every warp's logits are written
    if (threadIdx.x == 0) {
        is_last = atomicAdd(n_done, 1) == n - 1;
        if (is_last) *n_done = 0;
        __threadfence();
    }
    __syncthreads();        // is_last is known to all
    return is_last;
}

// Grid: (pieces of WARPS * EXPERTS experts, tiles of ROWS rows). The block that finishes a tile chooses for its rows, a warp a row.
template <class W, int ROWS, int EXPERTS, int N>
__global__ __launch_bounds__(WARPS * 32) void multiply_and_choose(gr_cuda_gate g, gr_cuda_router router, const uint16_t *x, rows r, outputs out) {
    __shared__ workspace w[WARPS];
    const int32_t warp = threadIdx.x / 32, row = blockIdx.y * ROWS, expert = (blockIdx.x * WARPS + warp) * EXPERTS;
    float sum[ROWS][EXPERTS];
    multiply<W, ROWS, EXPERTS>(router.w, x, row, r.n - 1, expert, sum);
#pragma unroll
    for (int i = 0; i < ROWS; i++)
#pragma unroll
        for (int e = 0; e < EXPERTS; e++)
            if (lane_of_thread() == (i * EXPERTS + e) % 32 && row + i < r.n && expert + e < g.n_experts)
                router.logits[(int64_t)(row + i) * g.n_experts + expert + e] = sum[i][e];
    if (!last_to_come(&router.n_done[blockIdx.y], gridDim.x)) return;
    for (int32_t i = warp; i < ROWS; i += WARPS)
        if (row + i < r.n) choose_row<N>(g, router.logits, r, row + i, &w[warp], out);
}

template <class W, int ROWS, int EXPERTS>
void launch_few(const gr_cuda_gate &g, const gr_cuda_router &router, const void *x, const rows &r, const outputs &out, cudaStream_t stream) {
    const dim3 grid((unsigned)((g.n_experts + WARPS * EXPERTS - 1) / (WARPS * EXPERTS)), (unsigned)((r.n + ROWS - 1) / ROWS));
    if (g.n_experts <= 64) multiply_and_choose<W, ROWS, EXPERTS, 2><<<grid, WARPS * 32, 0, stream>>>(g, router, (const uint16_t *)x, r, out);
    else if (g.n_experts <= 128) multiply_and_choose<W, ROWS, EXPERTS, 4><<<grid, WARPS * 32, 0, stream>>>(g, router, (const uint16_t *)x, r, out);
    else multiply_and_choose<W, ROWS, EXPERTS, 8><<<grid, WARPS * 32, 0, stream>>>(g, router, (const uint16_t *)x, r, out);
}

template <class W>
void launch_by_rows(const gr_cuda_gate &g, const gr_cuda_router &router, const void *x, const rows &r, const outputs &out, cudaStream_t stream) {
    if (r.n <= 4) launch_few<W, 1, 1>(g, router, x, r, out, stream);
    else launch_few<W, 4, 2>(g, router, x, r, out, stream);
}

}  // namespace

extern "C" grace_status gr_cuda_gate_check(const gr_cuda_gate *g) {
    grace_status st = GRACE_OK;
    const int32_t groups = g->rule.n_groups;
    GR_CHECK(g->n_experts >= 1 && g->n_experts <= GR_CUDA_GATE_EXPERTS_MAX, GRACE_ERR_LIMIT, "cuda: a layer has %d experts, the gate takes 1 to %d",
             g->n_experts, GR_CUDA_GATE_EXPERTS_MAX);
    GR_CHECK(groups >= 0 && (groups == 0 || (g->n_experts % groups == 0 && g->rule.top_groups >= 1 && g->rule.top_groups <= groups)), GRACE_ERR_ARG,
             "cuda: the best %d of %d groups of %d experts", g->rule.top_groups, groups, g->n_experts);
    GR_CHECK(g->top_k >= 1 && g->top_k <= (groups ? g->n_experts / groups * g->rule.top_groups : g->n_experts), GRACE_ERR_ARG,
             "cuda: top %d of %d experts", g->top_k, groups ? g->n_experts / groups * g->rule.top_groups : g->n_experts);
    GR_CHECK(g->top_k <= GR_CUDA_GATE_TOP_K_MAX, GRACE_ERR_LIMIT, "cuda: top %d, the gate takes up to %d", g->top_k, GR_CUDA_GATE_TOP_K_MAX);
done:
    return st;
}

extern "C" grace_status gr_cuda_gate_choose(const gr_cuda_gate *g, const float *logits, const int32_t *sequence, const int32_t *position,
                                            const int32_t *kv_sequence, int32_t n_rows, int32_t *ids, float *weights, int32_t *slots, int32_t *flaw,
                                            gr_cuda_stream stream) {
    grace_status st = GRACE_OK;
    const rows r = {sequence, position, kv_sequence, n_rows};
    const outputs out = {ids, weights, slots, flaw};
    const unsigned grid = (unsigned)((n_rows + WARPS - 1) / WARPS);
    GR_TRY(gr_cuda_gate_check(g));
    if (n_rows == 0) return GRACE_OK;
    if (g->n_experts <= 64) choose<2><<<grid, WARPS * 32, 0, stream>>>(*g, logits, r, out);
    else if (g->n_experts <= 128) choose<4><<<grid, WARPS * 32, 0, stream>>>(*g, logits, r, out);
    else choose<8><<<grid, WARPS * 32, 0, stream>>>(*g, logits, r, out);
    st = gr_cuda_status(cudaGetLastError(), "gate");
done:
    return st;
}

extern "C" grace_status gr_cuda_gate_few(const gr_cuda_gate *g, const gr_cuda_router *router, const void *x, const int32_t *sequence,
                                         const int32_t *position, const int32_t *kv_sequence, int32_t n_rows, int32_t *ids, float *weights,
                                         int32_t *slots, int32_t *flaw, gr_cuda_stream stream) {
    grace_status st = GRACE_OK;
    const rows r = {sequence, position, kv_sequence, n_rows};
    const outputs out = {ids, weights, slots, flaw};
    GR_TRY(gr_cuda_gate_check(g));
    GR_CHECK(router->w.rows == g->n_experts && router->w.cols >= 8 && router->w.cols % 8 == 0, GRACE_ERR_ARG,
             "cuda: a router of %d x %d for %d experts: expected a multiple of 8 columns", router->w.rows, router->w.cols, g->n_experts);
    if (n_rows == 0) return GRACE_OK;
    if (router->w.fp32) launch_by_rows<float>(*g, *router, x, r, out, stream);
    else launch_by_rows<uint16_t>(*g, *router, x, r, out, stream);
    st = gr_cuda_status(cudaGetLastError(), "gate of few rows");
done:
    return st;
}
