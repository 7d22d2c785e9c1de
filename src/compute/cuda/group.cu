// Choices by token -> pairs by slot, stable: pairs of a slot stand by row, then choice; choices of no slot (negative) make none. A counting sort in pieces
// of 4096 choices:
//
//     count    a block a piece: how many choices of each slot
//     place    a block a piece: adds up the pieces before and all pieces, and puts every choice in its place
//
// Few choices (a decode step) take one block and one launch. Agrees with gr_exchange_build() of a single rank.
#include "compute/cuda/cuda.h"
#include "compute/cuda/moe.h"
#include "compute/cuda/pdl.cuh"

namespace {

enum { THREADS = 1024, EACH = 4, PIECE = EACH * THREADS };

// Rank of each lane's slot among the lower lanes with the same slot; lanes without a pair have slot -1.
__device__ int32_t rank_in_warp(int32_t slot, int32_t *n_alike, bool *is_first) {
    uint32_t alike = __match_any_sync(~0u, slot), lower = alike & ((1u << (threadIdx.x & 31)) - 1);
    *n_alike = __popc(alike);
    *is_first = lower == 0;
    return __popc(lower);
}

// A block's choices: warp w has 32 N of them from 32 N w on, a lane every 32nd of those. slot: -1 where there is no pair.
template <int N> struct choices {
    int32_t slot[N], rank[N];       // rank: among the block's choices of the same slot, in order
    __device__ static int64_t number(int64_t from, int i) { return from + (threadIdx.x / 32 * N + i) * 32 + threadIdx.x % 32; }
    __device__ void read(const int32_t *slot_of_choice, int64_t from, int64_t to) {
#pragma unroll
        for (int i = 0; i < N; i++) slot[i] = number(from, i) < to ? max(slot_of_choice[number(from, i)], -1) : -1;
    }
    __device__ void place(const gr_cuda_pairs &p, int64_t from, int64_t to, const int32_t *start) const {
#pragma unroll
        for (int i = 0; i < N; i++) {
            const int64_t choice = number(from, i);
            const int32_t pair = slot[i] >= 0 ? start[slot[i]] + rank[i] : -1;
            if (slot[i] >= 0) p.row_of_pair[pair] = (int32_t)(choice / p.top_k);
            if (choice < to) p.pair_of_choice[choice] = pair;
        }
    }
};

__host__ __device__ inline int32_t in_warp_step(int32_t n_slots) { return n_slots | 1; }       // odd: warps of a slot lie in different banks

// The choices' ranks, and how many there are of each slot. The number of warps is a power of 2; in_warp [warps, in_warp_step(n_slots)] scratch.
template <int N> __device__ void rank_choices(choices<N> &c, int32_t n_slots, int32_t *in_warp, int32_t *n_of_slot) {
    const int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, n_warps = blockDim.x / 32, step = in_warp_step(n_slots);
    int32_t *mine = in_warp + warp * step, n_alike;
    bool is_first;
    for (int32_t s = lane; s < n_slots; s += 32) mine[s] = 0;
    __syncwarp();
#pragma unroll
    for (int i = 0; i < N; i++) {
        const int32_t slot = c.slot[i], rank = rank_in_warp(slot, &n_alike, &is_first), before = slot >= 0 ? mine[slot] : 0;
        __syncwarp();       // read by all before one adds
        if (slot >= 0 && is_first) mine[slot] = before + n_alike;
        __syncwarp();
        c.rank[i] = before + rank;
    }
    __syncthreads();        // counts of all warps are there
    for (int32_t base = warp * 32; base < n_slots * n_warps; base += blockDim.x) {      // lanes: the warps of a slot, slot by slot
        const int32_t s = (base + lane) / n_warps, w = (base + lane) % n_warps, n = s < n_slots ? in_warp[w * step + s] : 0;
        int32_t sum = n;
        for (int d = 1; d < n_warps; d *= 2) {
            const int32_t left = __shfl_up_sync(~0u, sum, d);
            if (w >= d) sum += left;
        }
        if (s < n_slots) in_warp[w * step + s] = sum - n;
        if (s < n_slots && w == n_warps - 1) n_of_slot[s] = sum;
    }
    __syncthreads();        // what the warps before have, and all have, is there
#pragma unroll
    for (int i = 0; i < N; i++)
        if (c.slot[i] >= 0) c.rank[i] += mine[c.slot[i]];
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

template <int N> __global__ __launch_bounds__(THREADS) void group_in_one(const int32_t *slot_of_choice, int64_t n_choices, gr_cuda_pairs p) {
    pdl::release_next();
    pdl::wait();
    extern __shared__ int32_t in_warp[];
    __shared__ int32_t start[GR_CUDA_SLOTS_MAX];
    choices<N> c;
    c.read(slot_of_choice, 0, n_choices);
    rank_choices(c, p.n_slots, in_warp, start);
    scan_slots(p.n_slots, start, p.first_pair);
    c.place(p, 0, n_choices, start);
}

__device__ __forceinline__ int64_t end_of_piece(int64_t from, int64_t n_choices) { return from + PIECE < n_choices ? from + PIECE : n_choices; }

__global__ __launch_bounds__(THREADS) void count_pieces(const int32_t *slot_of_choice, int64_t n_choices, gr_cuda_pairs p) {
    pdl::release_next();
    pdl::wait();
    __shared__ int32_t count[GR_CUDA_SLOTS_MAX];
    const int64_t from = (int64_t)blockIdx.x * PIECE;
    count_slots(slot_of_choice, from, end_of_piece(from, n_choices), p.n_slots, count);
    for (int32_t i = threadIdx.x; i < p.n_slots; i += THREADS) p.scratch[(int64_t)blockIdx.x * p.n_slots + i] = count[i];
}

// Of each slot what this block's piece finds before it and what all pieces have; as many threads a slot as there are.
__device__ void add_pieces(const gr_cuda_pairs &p, int32_t *before, int32_t *total) {
    const int32_t slot = threadIdx.x % p.n_slots, each = blockDim.x / p.n_slots;
    int32_t of_before = 0, of_all = 0;
    for (int32_t i = threadIdx.x; i < p.n_slots; i += blockDim.x) before[i] = total[i] = 0;
    __syncthreads();
    for (int32_t piece = threadIdx.x / p.n_slots; piece < gridDim.x && threadIdx.x < each * p.n_slots; piece += each) {
        const int32_t n = p.scratch[(int64_t)piece * p.n_slots + slot];
        of_all += n;
        if (piece < blockIdx.x) of_before += n;
    }
    if (of_before > 0) atomicAdd(&before[slot], of_before);
    if (of_all > 0) atomicAdd(&total[slot], of_all);
    __syncthreads();
}

__global__ __launch_bounds__(THREADS) void place_pieces(const int32_t *slot_of_choice, int64_t n_choices, gr_cuda_pairs p) {
    pdl::release_next();
    pdl::wait();
    extern __shared__ int32_t in_warp[];
    __shared__ int32_t before[GR_CUDA_SLOTS_MAX], start[GR_CUDA_SLOTS_MAX], n_of_slot[GR_CUDA_SLOTS_MAX], first_pair[GR_CUDA_SLOTS_MAX + 1];
    const int64_t from = (int64_t)blockIdx.x * PIECE, to = end_of_piece(from, n_choices);
    choices<EACH> c;
    c.read(slot_of_choice, from, to);
    add_pieces(p, before, start);
    scan_slots(p.n_slots, start, first_pair);
    for (int32_t i = threadIdx.x; i <= p.n_slots; i += THREADS) {
        if (blockIdx.x == 0) p.first_pair[i] = first_pair[i];
        if (i < p.n_slots) start[i] += before[i];
    }
    rank_choices(c, p.n_slots, in_warp, n_of_slot);         // its meetings: this piece's starts are there
    c.place(p, from, to, start);
}

}  // namespace

static int32_t n_pieces_of(int64_t n_choices) { return (int32_t)((n_choices + PIECE - 1) / PIECE); }

static unsigned warps_for(int64_t n_threads) {
    unsigned warps = 1;
    while (32 * warps < n_threads) warps *= 2;
    return warps;
}

extern "C" int64_t gr_cuda_group_scratch(int64_t n_choices, int32_t n_slots) { return (int64_t)n_pieces_of(n_choices) * n_slots; }

extern "C" grace_status gr_cuda_group(const int32_t *slot, const gr_cuda_pairs *pairs, gr_cuda_stream stream) {
    int64_t n = (int64_t)pairs->n_rows * pairs->top_k;
    int32_t n_pieces = n_pieces_of(n);
    const size_t shared_of_warp = sizeof(int32_t) * (size_t)in_warp_step(pairs->n_slots);
    if (n <= PIECE) {       // none: zeros in first_pair
        const int each = n <= THREADS ? 1 : EACH, warps = warps_for((n + each - 1) / each);
        pdl::launch(each == 1 ? group_in_one<1> : group_in_one<EACH>, 1, 32 * warps, shared_of_warp * warps, stream, true, slot, n, *pairs);
    } else {
        pdl::launch(count_pieces, n_pieces, THREADS, 0, stream, true, slot, n, *pairs);
        pdl::launch(place_pieces, n_pieces, THREADS, shared_of_warp * (THREADS / 32), stream, true, slot, n, *pairs);
    }
    return gr_cuda_status(cudaGetLastError(), "group");
}
