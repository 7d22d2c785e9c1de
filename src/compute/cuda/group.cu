// Choices by token -> pairs by slot, stable: pairs of a slot stand by row, then choice; choices of no slot (negative) make none. A counting sort in pieces
// of 1024 choices:
//
//     count    a block a piece: how many choices of each slot
//     scan     a warp a slot: how many in the pieces before
//     place    a block a piece: every choice to its place
//
// Few choices (a decode step) take one block and one launch. Agrees with gr_exchange_build() of a single rank.
#include "compute/cuda/cuda.h"
#include "compute/cuda/group.cuh"
#include "compute/cuda/pdl.cuh"

namespace {

using namespace grouping;

enum { SCAN_THREADS = 256 };

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

// A rank may host no expert of a layer.
static grace_status no_pairs(const gr_cuda_pairs *p, gr_cuda_stream stream) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_cuda_status(cudaMemsetAsync(p->first_pair, 0, sizeof *p->first_pair, stream), "group"));
    GR_TRY(gr_cuda_status(cudaMemsetAsync(p->pair_of_choice, 0xff, (size_t)p->n_rows * p->top_k * sizeof *p->pair_of_choice, stream), "group"));
done:
    return st;
}

extern "C" grace_status gr_cuda_group(const int32_t *slot, const gr_cuda_pairs *pairs, gr_cuda_stream stream) {
    const int64_t n = (int64_t)pairs->n_rows * pairs->top_k;
    const int32_t n_pieces = n_pieces_of(n);
    const unsigned threads = threads_for(n, pairs->n_slots), scan_blocks = (unsigned)(pairs->n_slots * 32 + SCAN_THREADS - 1) / SCAN_THREADS;
    const size_t shared = shared_for(threads, pairs->n_slots);
    if (pairs->n_slots == 0) return no_pairs(pairs, stream);
    if (n <= IN_ONE_MAX) pdl::launch(group_in_one, 1, threads, shared, stream, true, slot, n, *pairs);     // none: zeros in first_pair
    else {
        pdl::launch(count_pieces, n_pieces, THREADS, 0, stream, true, slot, n, *pairs);
        pdl::launch(scan_pieces, scan_blocks, SCAN_THREADS, 0, stream, true, n_pieces, *pairs);
        pdl::launch(place_pieces, n_pieces, THREADS, shared, stream, true, slot, n, *pairs);
    }
    return gr_cuda_status(cudaGetLastError(), "group");
}
