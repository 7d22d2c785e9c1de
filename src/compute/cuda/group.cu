// Choices by token -> pairs by slot, stable: pairs of a slot stand by row, then choice; choices of no slot (negative) make none. A counting sort in pieces
// of 1024 choices:
//
//     count    a block a piece: how many choices of each slot
//     scan     a warp a slot: how many in the pieces before
//     place    a block a piece: every choice to its place
//
// Few choices (a decode step) take one block and one launch. Agrees with gr_exchange_build() of a single rank.
#include "compute/cuda/cuda.h"
#include "compute/cuda/moe.h"
#include "compute/cuda/pdl.cuh"

namespace {

enum { THREADS = 1024, ONE_BLOCK_MAX = 2 * THREADS, SCAN_THREADS = 256 };

// Rank of each lane's slot among the lower lanes with the same slot; lanes without a pair have slot -1.
__device__ int32_t rank_in_warp(int32_t slot, int32_t *n_alike, bool *is_first) {
    uint32_t alike = __match_any_sync(~0u, slot), lower = alike & ((1u << (threadIdx.x & 31)) - 1);
    *n_alike = __popc(alike);
    *is_first = lower == 0;
    return __popc(lower);
}

// As many choices from `from` as there are threads go to their places; at[slot] is where the slot's next pair goes. in_warp [warps, n_slots] scratch.
// At least n_slots threads.
__device__ void place_turn(const int32_t *slot_of_choice, int64_t from, int64_t to, const gr_cuda_pairs &p, int32_t *at, int32_t *in_warp) {
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

__device__ void count_slots(const int32_t *slot_of_choice, int64_t from, int64_t to, int32_t n_slots, int32_t *count) {
    for (int32_t i = threadIdx.x; i < n_slots; i += blockDim.x) count[i] = 0;
    __syncthreads();
    for (int64_t i = from + threadIdx.x; i < to; i += blockDim.x)
        if (slot_of_choice[i] >= 0) atomicAdd(&count[slot_of_choice[i]], 1);
    __syncthreads();
}

// count [n_slots] -> first_pair [n_slots + 1], and count becomes where each slot begins.
__device__ void scan_slots(int32_t n_slots, int32_t *count, int32_t *first_pair) {
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

__global__ __launch_bounds__(THREADS) void group_in_one(const int32_t *slot_of_choice, int64_t n_choices, gr_cuda_pairs p) {
    pdl::release_next();
    pdl::wait();
    extern __shared__ int32_t in_warp[];
    __shared__ int32_t at[GR_CUDA_SLOTS_MAX];
    count_slots(slot_of_choice, 0, n_choices, p.n_slots, at);
    scan_slots(p.n_slots, at, p.first_pair);
    for (int64_t from = 0; from < n_choices; from += blockDim.x) place_turn(slot_of_choice, from, n_choices, p, at, in_warp);
}

__global__ __launch_bounds__(THREADS) void count_pieces(const int32_t *slot_of_choice, int64_t n_choices, gr_cuda_pairs p) {
    pdl::release_next();
    pdl::wait();
    __shared__ int32_t count[GR_CUDA_SLOTS_MAX];
    int64_t from = (int64_t)blockIdx.x * THREADS, to = from + THREADS < n_choices ? from + THREADS : n_choices;
    count_slots(slot_of_choice, from, to, p.n_slots, count);
    for (int32_t i = threadIdx.x; i < p.n_slots; i += THREADS) p.scratch[(int64_t)blockIdx.x * p.n_slots + i] = count[i];
}

// A warp a slot: what pieces hold becomes what those before hold; the sum goes behind them.
__global__ void scan_pieces(int32_t n_pieces, gr_cuda_pairs p) {
    pdl::release_next();
    pdl::wait();
    int32_t slot = (blockIdx.x * blockDim.x + threadIdx.x) / 32, lane = threadIdx.x % 32, carry = 0;
    if (slot >= p.n_slots) return;
    for (int32_t base = 0; base < n_pieces; base += 32) {
        int64_t at = (int64_t)(base + lane) * p.n_slots + slot;
        int32_t n = base + lane < n_pieces ? p.scratch[at] : 0, sum = n;
        for (int d = 1; d < 32; d *= 2) {
            int32_t left = __shfl_up_sync(~0u, sum, d);
            if (lane >= d) sum += left;
        }
        if (base + lane < n_pieces) p.scratch[at] = carry + sum - n;
        carry += __shfl_sync(~0u, sum, 31);
    }
    if (lane == 0) p.scratch[(int64_t)n_pieces * p.n_slots + slot] = carry;
}

__global__ __launch_bounds__(THREADS) void place_pieces(const int32_t *slot_of_choice, int64_t n_choices, gr_cuda_pairs p) {
    pdl::release_next();
    pdl::wait();
    extern __shared__ int32_t in_warp[];
    __shared__ int32_t at[GR_CUDA_SLOTS_MAX], first_pair[GR_CUDA_SLOTS_MAX + 1];
    int64_t from = (int64_t)blockIdx.x * THREADS;
    for (int32_t i = threadIdx.x; i < p.n_slots; i += THREADS) at[i] = p.scratch[(int64_t)gridDim.x * p.n_slots + i];
    __syncthreads();        // totals of all slots are there
    scan_slots(p.n_slots, at, first_pair);
    for (int32_t i = threadIdx.x; i <= p.n_slots; i += THREADS) {
        if (blockIdx.x == 0) p.first_pair[i] = first_pair[i];
        if (i < p.n_slots) at[i] += p.scratch[(int64_t)blockIdx.x * p.n_slots + i];
    }
    __syncthreads();        // this piece's starts are there
    place_turn(slot_of_choice, from, n_choices, p, at, in_warp);
}

}  // namespace

static int32_t n_pieces_of(int64_t n_choices) { return (int32_t)((n_choices + THREADS - 1) / THREADS); }

extern "C" int64_t gr_cuda_group_scratch(int64_t n_choices, int32_t n_slots) { return ((int64_t)n_pieces_of(n_choices) + 1) * n_slots; }

extern "C" grace_status gr_cuda_group(const int32_t *slot, const gr_cuda_pairs *pairs, gr_cuda_stream stream) {
    int64_t n = (int64_t)pairs->n_rows * pairs->top_k;
    int32_t n_pieces = n_pieces_of(n);
    const unsigned few = (unsigned)(n > pairs->n_slots ? n : pairs->n_slots), threads = few < THREADS ? (few + 31) / 32 * 32 : THREADS;
    const size_t shared = sizeof(int32_t) * (THREADS / 32) * (size_t)pairs->n_slots;
    const unsigned scan_blocks = (unsigned)(pairs->n_slots * 32 + SCAN_THREADS - 1) / SCAN_THREADS;
    if (n <= ONE_BLOCK_MAX) pdl::launch(group_in_one, 1, threads, shared * threads / THREADS, stream, true, slot, n, *pairs);     // none: zeros in first_pair
    else {
        pdl::launch(count_pieces, n_pieces, THREADS, 0, stream, true, slot, n, *pairs);
        pdl::launch(scan_pieces, scan_blocks, SCAN_THREADS, 0, stream, true, n_pieces, *pairs);
        pdl::launch(place_pieces, n_pieces, THREADS, shared, stream, true, slot, n, *pairs);
    }
    return gr_cuda_status(cudaGetLastError(), "group");
}
