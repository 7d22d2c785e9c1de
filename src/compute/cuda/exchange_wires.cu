// What leaves a node: rows packed by wire in their order, and, in exact runs, results packed by row and choice. Positions come from scans, never from who was
// first.
#include "compute/cuda/exchange_call.cuh"

namespace {

using namespace exchange;

enum { SCANNERS = 1024, PACKERS = 128 };

// Sum of what lower threads have; *total of the block's. of_warp [32] shared. A block of SCANNERS threads.
__device__ __forceinline__ uint32_t sum_before(uint32_t mine, uint32_t *of_warp, uint32_t *total) {
    const int32_t lane = lane_of_thread(), warp = threadIdx.x / 32;
    uint32_t sum = mine;
    for (int d = 1; d < 32; d *= 2) {
        const uint32_t left = __shfl_up_sync(~0u, sum, d);
        if (lane >= d) sum += left;
    }
    if (lane == 31) of_warp[warp] = sum;
    __syncthreads();        // sums of all warps are there
    uint32_t before = 0, all = 0;
    for (int32_t w = 0; w < SCANNERS / 32; w++) {
        if (w == warp) before = all;
        all += of_warp[w];
    }
    __syncthreads();        // of_warp may be written again
    *total = all;
    return before + sum - mine;
}

// ---- own rows by wire ----
struct packing {
    gr_cuda_wires wires;
    const uint4 *rows;
    const int32_t *slot;
    const float *weight;
    int32_t n, top_k;
    gr_cuda_headers own;
    int32_t *n_sent_host;
};

__device__ __forceinline__ int32_t wire_of_choice(const packing &p, int64_t choice) {
    const int32_t slot = p.slot[choice];
    return slot < 0 ? -1 : p.wires.wire_of_slot[slot];
}

// A block a wire. Rows and entries are scanned in one word: a turn has at most 1024 rows of 32 entries.
__global__ __launch_bounds__(SCANNERS) void list_rows(const __grid_constant__ packing p) {
    pdl::release_next();
    pdl::wait();
    __shared__ uint32_t of_warp[32];
    const int32_t wire = blockIdx.x;
    int32_t *position = p.wires.position + (int64_t)wire * p.wires.capacity, *entry = p.wires.entry + (int64_t)wire * (p.wires.capacity + 1);
    int32_t n_rows = 0, n_entries = 0;
    for (int32_t base = 0; base < p.n; base += SCANNERS) {
        const int32_t t = base + threadIdx.x;
        uint32_t mine = 0, total;
#pragma unroll 8        // loads of several choices are on their way
        for (int32_t j = 0; j < p.top_k; j++) mine += t < p.n && wire_of_choice(p, (int64_t)t * p.top_k + j) == wire;
        const uint32_t before = sum_before(mine ? 1u << 16 | mine : 0, of_warp, &total), at = n_rows + (before >> 16);
        if (t < p.n) position[t] = mine ? (int32_t)at : -1;
        if (mine) entry[at] = n_entries + (int32_t)(before & 0xFFFF);
        n_rows += (int32_t)(total >> 16), n_entries += (int32_t)(total & 0xFFFF);
    }
    for (int64_t i = (int64_t)n_rows * p.top_k + threadIdx.x; i < (int64_t)p.n * p.top_k; i += SCANNERS) {
        p.wires.slot[(int64_t)wire * p.wires.capacity * p.top_k + i] = -1;
        p.wires.weight[(int64_t)wire * p.wires.capacity * p.top_k + i] = 0;
    }
    if (threadIdx.x == 0) {
        entry[n_rows] = n_entries;
        p.wires.n_sent[2 * wire] = n_rows, p.wires.n_sent[2 * wire + 1] = n_entries;
        if (p.n_sent_host) p.n_sent_host[2 * wire] = n_rows, p.n_sent_host[2 * wire + 1] = n_entries;
    }
}

// All blocks.
__device__ __forceinline__ void keep_headers(const packing &p) {
    const int64_t n = (int64_t)p.n * p.top_k, all = (int64_t)p.own.n * p.top_k, step = (int64_t)gridDim.x * THREADS;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < all; i += step) {
        p.own.slot[i] = i < n ? p.slot[i] : -1;
        if (i < n) p.own.weight[i] = p.weight[i];
    }
}

// Warps take rows in turn, for every wire that one goes over.
__global__ __launch_bounds__(THREADS, 1) void pack_rows(const __grid_constant__ packing p, const cut work) {
    pdl::release_next();
    pdl::wait();
    keep_headers(p);
    const int32_t lane = lane_of_thread();
    for (uint32_t unit = first_unit(), n = work.n_rows * work.parts; unit < n; unit += unit_step()) {
        const int32_t t = unit / work.parts, part = unit % work.parts;
        const int64_t choice = (int64_t)t * p.top_k + lane;
        const int32_t wire_of_lane = lane < p.top_k ? wire_of_choice(p, choice) : -1;
        for (uint32_t left = __ballot_sync(~0u, wire_of_lane >= 0); left;) {
            const int32_t wire = __shfl_sync(~0u, wire_of_lane, __ffs(left) - 1);
            const int64_t to = (int64_t)wire * p.wires.capacity + p.wires.position[(int64_t)wire * p.wires.capacity + t];
            left &= ~__ballot_sync(~0u, wire_of_lane == wire);
            if (part == 0 && lane < p.top_k) {
                p.wires.slot[to * p.top_k + lane] = wire_of_lane == wire ? p.slot[choice] : -1;
                p.wires.weight[to * p.top_k + lane] = wire_of_lane == wire ? p.weight[choice] : 0;
            }
            copy_row(p.rows + (int64_t)t * work.n_vectors, reinterpret_cast<uint4 *>(p.wires.rows) + to * work.n_vectors, part, work);
        }
    }
}

// ---- results of received rows by entry ----
// One block. slot [n, top_k] -> entry [n + 1].
__global__ __launch_bounds__(SCANNERS) void count_entries(const int32_t *slot, int32_t n, int32_t top_k, int32_t *entry) {
    pdl::release_next();
    pdl::wait();
    __shared__ uint32_t of_warp[32];
    int32_t n_entries = 0;
    for (int32_t base = 0; base < n; base += SCANNERS) {
        const int32_t t = base + threadIdx.x;
        uint32_t mine = 0, total;
        for (int32_t j = 0; j < top_k && t < n; j++) mine += slot[(int64_t)t * top_k + j] >= 0;
        const uint32_t before = sum_before(mine, of_warp, &total);
        if (t < n) entry[t] = n_entries + (int32_t)before;
        n_entries += (int32_t)total;
    }
    if (threadIdx.x == 0) entry[n] = n_entries;
}

__global__ __launch_bounds__(THREADS, 1) void pack_results(const __grid_constant__ call c, int32_t n_givers, int32_t first, const int32_t *entry, uint4 *out,
                                                            const cut work) {
    pdl::release_next();
    pdl::wait();
    wait_for_all(c, GR_CUDA_STAGE_COMBINE, n_givers, epoch_of(c, CALL));
    const uint4 *home = part_of<const uint4>(c, c.node.me, c.at.home);
    for (uint32_t unit = first_unit(), n = work.n_rows * work.parts; unit < n; unit += unit_step()) {
        const int32_t t = unit / work.parts, part = unit % work.parts;
        int64_t to = entry[t];
        for (uint32_t left = __ballot_sync(~0u, slot_of_choice(c, first + t) >= 0); left; left &= left - 1, to++) {
            const int64_t from = (int64_t)(first + t) * c.node.sizes.top_k + __ffs(left) - 1;
            copy_row(home + from * work.n_vectors, out + to * work.n_vectors, part, work);
        }
    }
}

unsigned blocks_of_headers(int64_t n_choices) {
    const int64_t blocks = (n_choices + THREADS - 1) / THREADS;
    return (unsigned)(blocks < PACKERS ? blocks : PACKERS);
}

}  // namespace

extern "C" grace_status gr_cuda_pack(const gr_cuda_wires *wires, const void *rows, const int32_t *slot, const float *weight, int32_t n, int32_t top_k,
                                     int32_t hidden, const gr_cuda_headers *own, int32_t *n_sent_host, gr_cuda_stream stream) {
    const packing p = {*wires, (const uint4 *)rows, slot, weight, n, top_k, own ? *own : gr_cuda_headers{}, n_sent_host};
    const cut work = cut_of(n, hidden, IN_FLIGHT, PACKERS);
    const unsigned for_rows = n > 0 ? work.blocks : 0, for_headers = blocks_of_headers((int64_t)p.own.n * top_k);
    grace_status st = GRACE_OK;
    GR_CHECK(wires->n_wires >= 0 && wires->n_wires <= GR_CUDA_WIRES_MAX, GRACE_ERR_LIMIT, "cuda: %d wires, expected at most %d", wires->n_wires,
             GR_CUDA_WIRES_MAX);
    GR_CHECK(n >= 0 && n <= wires->capacity, GRACE_ERR_LIMIT, "cuda: pack: %d rows, a wire carries at most %d", n, wires->capacity);
    GR_CHECK(top_k >= 1 && top_k <= 32 && hidden > 0 && hidden % 8 == 0, GRACE_ERR_LIMIT, "cuda: pack takes rows of a multiple of 8 values with 1 to 32 "
             "choices, not %d with %d", hidden, top_k);
    GR_CHECK(!own || own->n >= n, GRACE_ERR_ARG, "cuda: pack: headers of %d rows do not go into room for %d", n, own->n);
    if (wires->n_wires == 0) return GRACE_OK;
    pdl::launch(list_rows, (unsigned)wires->n_wires, SCANNERS, 0, stream, true, p);
    if (for_rows + for_headers > 0) pdl::launch(pack_rows, for_rows > for_headers ? for_rows : for_headers, THREADS, 0, stream, true, p, work);
    st = gr_cuda_status(cudaGetLastError(), "pack");
done:
    return st;
}

extern "C" grace_status gr_cuda_pack_entries(const gr_cuda_node *node, const gr_cuda_layer *layer, int32_t first, int32_t n, int32_t *entry, void *out,
                                             gr_cuda_stream stream) {
    const cut work = cut_of(n, node->sizes.hidden, IN_FLIGHT, PACKERS);
    grace_status st = GRACE_OK;
    GR_TRY(check(node, layer, first, n));
    GR_CHECK(node->sizes.exact, GRACE_ERR_UNSUPPORTED, "cuda: results are packed by entry in exact runs alone, expected an exact node");
    pdl::launch(count_entries, 1, SCANNERS, 0, stream, true, layer->slot + (int64_t)first * node->sizes.top_k, n, node->sizes.top_k, entry);
    pdl::launch(pack_results, work.blocks, THREADS, 0, stream, true, call_of(node, layer), (int32_t)givers_of(node, layer).blocks, first,
                (const int32_t *)entry, (uint4 *)out, work);
    st = gr_cuda_status(cudaGetLastError(), "pack entries");
done:
    return st;
}
