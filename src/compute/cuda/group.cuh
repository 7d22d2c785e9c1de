// The parts of grouping (group.cu), for a block of threads: what it counts, scans and places. Used also where choices are first taken over from other GPUs.
#ifndef GR_COMPUTE_CUDA_GROUP_CUH
#define GR_COMPUTE_CUDA_GROUP_CUH
#include "compute/cuda/moe.h"

namespace grouping {

enum { THREADS = 1024, IN_ONE_MAX = 2 * THREADS };     // choices at most that one block groups

static inline unsigned threads_for(int64_t n_choices, int32_t n_slots) {
    const int64_t few = n_choices > n_slots ? n_choices : n_slots;
    return few < THREADS ? (unsigned)(few + 31) / 32 * 32 : THREADS;
}
// Of place_turn, in bytes.
static inline size_t shared_for(unsigned threads, int32_t n_slots) { return sizeof(int32_t) * (threads / 32) * (size_t)n_slots; }

#ifdef __CUDACC__

// Rank of each lane's slot among the lower lanes with the same slot; lanes without a pair have slot -1.
__device__ inline int32_t rank_in_warp(int32_t slot, int32_t *n_alike, bool *is_first) {
    uint32_t alike = __match_any_sync(~0u, slot), lower = alike & ((1u << (threadIdx.x & 31)) - 1);
    *n_alike = __popc(alike);
    *is_first = lower == 0;
    return __popc(lower);
}

// As many choices from `from` as there are threads go to their places; at[slot] is where the slot's next pair goes. in_warp [warps, n_slots] scratch.
// At least n_slots threads.
__device__ inline void place_turn(const int32_t *slot_of_choice, int64_t from, int64_t to, const gr_cuda_pairs &p, int32_t *at, int32_t *in_warp) {
    int32_t thread = threadIdx.x, warp = thread / 32, n_warps = blockDim.x / 32, n_alike;
    int64_t choice = from + thread;
    int32_t slot = choice < to ? max(slot_of_choice[choice], -1) : -1;
    bool is_first;
    for (int32_t i = thread; i < n_warps * p.n_slots; i += blockDim.x) in_warp[i] = 0;
    __syncthreads();        // counts are zero
    int32_t rank = rank_in_warp(slot, &n_alike, &is_first);
    if (slot >= 0 && is_first) in_warp[warp * p.n_slots + slot] = n_alike;
    __syncthreads();        // counts of all warps are there
    if (thread < p.n_slots)
        for (int32_t w = 0, next = at[thread]; w < n_warps; w++) {
            int32_t n = in_warp[w * p.n_slots + thread];
            in_warp[w * p.n_slots + thread] = next;
            next += n;
            if (w == n_warps - 1) at[thread] = next;
        }
    __syncthreads();        // starts of all warps are there
    int32_t pair = slot >= 0 ? in_warp[warp * p.n_slots + slot] + rank : -1;
    if (slot >= 0) p.row_of_pair[pair] = (int32_t)choice / p.top_k;
    if (choice < to) p.pair_of_choice[choice] = pair;
    __syncthreads();        // in_warp may be cleared again
}

__device__ inline void count_slots(const int32_t *slot_of_choice, int64_t from, int64_t to, int32_t n_slots, int32_t *count) {
    for (int32_t i = threadIdx.x; i < n_slots; i += blockDim.x) count[i] = 0;
    __syncthreads();
    for (int64_t i = from + threadIdx.x; i < to; i += blockDim.x)
        if (slot_of_choice[i] >= 0) atomicAdd(&count[slot_of_choice[i]], 1);
    __syncthreads();
}

// count [n_slots] -> first_pair [n_slots + 1], and count becomes where each slot begins.
__device__ inline void scan_slots(int32_t n_slots, int32_t *count, int32_t *first_pair) {
    if (threadIdx.x < 32) {
        int32_t lane = threadIdx.x, carry = 0;
        for (int32_t base = 0; base < n_slots; base += 32) {
            int32_t n = base + lane < n_slots ? count[base + lane] : 0, sum = n;
            for (int d = 1; d < 32; d *= 2) {
                int32_t left = __shfl_up_sync(~0u, sum, d);
                if (lane >= d) sum += left;
            }
            if (base + lane < n_slots) count[base + lane] = first_pair[base + lane] = carry + sum - n;
            carry += __shfl_sync(~0u, sum, 31);
        }
        if (lane == 0) first_pair[n_slots] = carry;
    }
    __syncthreads();
}
#endif

}  // namespace grouping
#endif
