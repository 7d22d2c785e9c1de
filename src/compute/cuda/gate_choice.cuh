// A warp chooses a row's experts: lane l has experts l, l + 32, ... in registers, N of them. Scores, the order of their sum, choice and weights are
// those of src/compute/cpu/gate.c to the bit.
#ifndef GR_COMPUTE_CUDA_GATE_CHOICE_CUH
#define GR_COMPUTE_CUDA_GATE_CHOICE_CUH
#include <math.h>

#include "base/turn.h"
#include "compute/cuda/gate.h"
#include "compute/cuda/lanes.cuh"

namespace gate {

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
__device__ inline float best_of_group(const float *choice, int32_t n, bool two) {
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
__device__ inline void sort_choices(int32_t n, int32_t *id, float *weight) {
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

__device__ inline float scaled(const gr_cuda_gate &g, float weight) {
    if (g.rule.norm_topk) {
        float sum = 0;
        for (int32_t i = 0; i < g.top_k; i++) sum += __shfl_sync(~0u, weight, i);
        if (sum > 0) weight = __fdiv_rn(weight, sum);
    }
    return g.rule.scaling != 1 ? weight * g.rule.scaling : weight;
}

// Where pick has the slot of an expert for a row.
__device__ inline const int32_t *pick_of(const gr_cuda_gate &g, const rows &r, int32_t row, int32_t expert) {
    return g.pick + expert * GR_TURNS + gr_router_turn(r.sequence[row], g.layer, expert, r.position[row]);
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
    out.slots[at] = padding ? -1 : g.pick ? *pick_of(g, r, row, id) : id;
}

}  // namespace gate
#endif
