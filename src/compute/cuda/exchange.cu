// Rows to the GPUs of a node and their results back. Every kernel: any number of blocks, warps take rows (or parts of one) in turn.
#include "compute/cuda/exchange_call.cuh"

namespace {

using namespace exchange;

// Blocks at most: stores fill the links with few of them; sums read this GPU's memory and take all but what a move between nodes needs.
enum { SENDERS = 64, COPIERS = 64, ADDERS = 120 };

// ---- counts of a block: [rows, entries] by rank ----
struct tally { int32_t n[2][GR_CUDA_NODE_MAX]; };

__device__ __forceinline__ void start_tally(tally &t) {
    if (threadIdx.x < 2 * GR_CUDA_NODE_MAX) (&t.n[0][0])[threadIdx.x] = 0;
    __syncthreads();        // counts are zero
}
// By one lane of a warp.
__device__ __forceinline__ void add_to_tally(tally &t, int32_t rank, uint32_t entries) {
    if (entries) atomicAdd(&t.n[0][rank], 1), atomicAdd(&t.n[1][rank], __popc(entries));
}
__device__ __forceinline__ void end_tally(const tally &t, int64_t *count) {
    __syncthreads();        // counts of all warps are there
    if (threadIdx.x < 2 * GR_CUDA_NODE_MAX && (&t.n[0][0])[threadIdx.x])
        atomicAdd(reinterpret_cast<unsigned long long *>(count) + threadIdx.x, (unsigned long long)(&t.n[0][0])[threadIdx.x]);
}

// ---- dispatch ----
__device__ __forceinline__ void send_header(const call &c, int32_t row, int32_t place, tally &t) {
    const int32_t lane = lane_of_thread(), top_k = c.node.sizes.top_k;
    const int64_t at = ((int64_t)c.node.me * c.layer.s + row) * top_k + lane;
    const float weight = place >= 0 ? c.layer.weight[(int64_t)row * top_k + lane] : 0;
    for (int32_t rank = 0; rank < c.node.sizes.n_ranks; rank++) {
        const bool is_there = place >> 16 == rank;
        if (lane < top_k) {
            part_of<int32_t>(c, rank, c.at.header)[at] = is_there ? place & 0xFFFF : -1;
            part_of<float>(c, rank, c.at.weight)[at] = is_there ? weight : 0;
        }
        const uint32_t entries = __ballot_sync(~0u, is_there);
        if (lane == 0) add_to_tally(t, rank, entries);
    }
}

// Read once, stored once a rank.
__device__ __forceinline__ void send_row(const call &c, int32_t row, uint32_t ranks, int32_t part, const cut &work) {
    const int64_t at = ((int64_t)c.node.me * c.layer.s + row) * work.n_vectors;
    for (int32_t base = part * 32; base < work.n_vectors; base += AT_ONCE * work.parts * 32) {
        uint4 x[AT_ONCE];
        load_some(x, part_of<const uint4>(c, c.node.me, c.at.row) + at, base + lane_of_thread(), work);
        for (uint32_t left = ranks; left; left &= left - 1)
            store_some(x, part_of<uint4>(c, __ffs(left) - 1, c.at.row) + at, base + lane_of_thread(), work);
    }
}

__global__ __launch_bounds__(THREADS, 1) void dispatch(const __grid_constant__ call c, const cut work) {
    pdl::release_next();
    pdl::wait();
    __shared__ tally sent;
    start_tally(sent);
    for (int64_t unit = first_unit(); unit < (int64_t)work.n_rows * work.parts; unit += unit_step()) {
        const int32_t row = (int32_t)(unit / work.parts), part = (int32_t)(unit % work.parts), place = place_of(c, slot_of_choice(c, row));
        if (part == 0) send_header(c, row, place, sent);
        const uint32_t others = ranks_of(c, place) & ~(1u << c.node.me);
        if (others) send_row(c, row, others, part, work);
    }
    end_tally(sent, c.node.count);
    publish(c, GR_CUDA_STAGE_DISPATCH, DISPATCHED);
}

// A source that was late, or went on after a stop, writes while others read: kernels see this copy alone, and nothing in it is out of bounds.
__global__ __launch_bounds__(THREADS, 1) void arrive(const __grid_constant__ call c, const int64_t n_choices) {
    pdl::release_next();
    pdl::wait();
    wait_for_all(c, GR_CUDA_STAGE_DISPATCH);
    const int32_t *header = part_of<int32_t>(c, c.node.me, c.at.header);
    int32_t *taken = part_of<int32_t>(c, c.node.me, c.at.slot);
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n_choices; i += (int64_t)gridDim.x * THREADS) {
        const int32_t slot = header[i];
        taken[i] = slot >= 0 && slot < c.layer.n_slots ? slot : -1;
    }
}

// ---- give back ----
// Sum of a row's results here, home to its source.
__device__ __forceinline__ void give_sum(const call &c, const uint4 *result, float weight, uint4 *to, int32_t part, const cut &work) {
    for (int32_t base = part * 32; base < work.n_vectors; base += AT_ONCE * work.parts * 32) {
        float sum[AT_ONCE][8] = {};
        add_rows(sum, result, weight, base + lane_of_thread(), work);
        store_sums(sum, to, base + lane_of_thread(), work);
    }
}

// Each result as it is. `to`: of the row's first choice.
__device__ __forceinline__ void give_each(const call &c, const uint4 *result, uint4 *to, int32_t part, const cut &work) {
    for (uint32_t left = __ballot_sync(~0u, result != nullptr); left; left &= left - 1) {
        const int choice = __ffs(left) - 1;
        const unsigned long long from = __shfl_sync(~0u, reinterpret_cast<unsigned long long>(result), choice);
        copy_row(reinterpret_cast<const uint4 *>(from), to + (int64_t)choice * work.n_vectors, part, work);
    }
}

// Neighbouring warps give to different ranks, and ranks begin with different ones: no link waits for another.
__global__ __launch_bounds__(THREADS, 1) void give_back(const __grid_constant__ call c, const int32_t *pair_of_choice, const uint4 *results, const cut work) {
    pdl::release_next();
    pdl::wait();
    __shared__ tally given;
    start_tally(given);
    const int32_t n_ranks = c.node.sizes.n_ranks, top_k = c.node.sizes.top_k, me = c.node.me, lane = lane_of_thread();
    for (int64_t unit = first_unit(); unit < (int64_t)work.n_rows * work.parts; unit += unit_step()) {
        const int32_t index = (int32_t)(unit / work.parts), part = (int32_t)(unit % work.parts), row = index / n_ranks;
        const int32_t source = (index + me) % n_ranks;
        const int64_t choice = ((int64_t)source * c.layer.s + row) * top_k + lane;
        const int32_t pair = lane < top_k ? pair_of_choice[choice] : -1;
        const uint32_t entries = __ballot_sync(~0u, pair >= 0);
        if (entries == 0) continue;
        if (part == 0 && lane == 0) add_to_tally(given, source, entries);
        const uint4 *result = pair >= 0 ? results + (int64_t)pair * work.n_vectors : nullptr;
        uint4 *home = part_of<uint4>(c, source, c.at.home);
        if (c.node.sizes.exact) give_each(c, result, home + (int64_t)row * top_k * work.n_vectors, part, work);
        else {
            const float weight = pair >= 0 ? part_of<float>(c, me, c.at.weight)[choice] : 0;
            give_sum(c, result, weight, home + ((int64_t)me * c.layer.s + row) * work.n_vectors, part, work);
        }
    }
    end_tally(given, c.node.count + 2 * GR_CUDA_NODE_MAX);
    publish(c, GR_CUDA_STAGE_COMBINE, GIVEN);
}

// ---- settle ----
struct settling {
    int32_t first, fan;
    const uint4 *residual;
    uint4 *out;
    bool last;
    gr_cuda_wires wires;        // none: n_wires is 0
};

// Fast: what ranks sent home for source row r, lane g from rank g.
__device__ __forceinline__ void add_from_ranks(float (&sum)[AT_ONCE][8], const call &c, int32_t r, int32_t v, const cut &work) {
    const int32_t lane = lane_of_thread();
    const bool has = ranks_of(c, place_of(c, slot_of_choice(c, r))) >> lane & 1;
    const uint4 *home = part_of<const uint4>(c, c.node.me, c.at.home);
    add_rows(sum, has ? home + ((int64_t)lane * c.layer.s + r) * work.n_vectors : nullptr, 1, v, work);
}

// Fast: what came back over the wires for own row t, a lane a wire.
__device__ __forceinline__ void add_from_wires(float (&sum)[AT_ONCE][8], const gr_cuda_wires &wires, int32_t t, int32_t v, const cut &work) {
    for (int32_t base = 0; base < wires.n_wires; base += 32) {
        const int32_t wire = base + lane_of_thread();
        const int32_t position = wire < wires.n_wires ? wires.position[(int64_t)wire * wires.capacity + t] : -1;
        const uint4 *home = reinterpret_cast<const uint4 *>(wires.home) + ((int64_t)wire * wires.capacity + position) * work.n_vectors;
        add_rows(sum, position >= 0 ? home : nullptr, 1, v, work);
    }
}

// Exact: where the result of this lane's choice of own row t came back; wire < 0: over none. By a whole warp.
__device__ __forceinline__ const uint4 *result_of_wire(const gr_cuda_wires &wires, int32_t wire, int32_t t, int32_t top_k, int32_t n_vectors) {
    const int32_t before = __popc(__match_any_sync(~0u, wire) & lower_lanes());      // choices over the same wire
    if (wire < 0) return nullptr;
    const int32_t position = wires.position[(int64_t)wire * wires.capacity + t];
    const int64_t entry = wires.entry[(int64_t)wire * (wires.capacity + 1) + position] + before;
    return reinterpret_cast<const uint4 *>(wires.home) + ((int64_t)wire * wires.capacity * top_k + entry) * n_vectors;
}

// Exact: every choice of source row r, which is own row t.
__device__ __forceinline__ void add_choices(float (&sum)[AT_ONCE][8], const call &c, const gr_cuda_wires &wires, int32_t r, int32_t t, int32_t v,
                                            const cut &work) {
    const int32_t slot = slot_of_choice(c, r), top_k = c.node.sizes.top_k;
    const int64_t choice = (int64_t)r * top_k + lane_of_thread();
    const uint4 *row = nullptr;
    if (wires.n_wires) row = result_of_wire(wires, slot >= 0 ? wires.wire_of_slot[slot] : -1, t, top_k, work.n_vectors);
    if (place_of(c, slot) >= 0) row = part_of<const uint4>(c, c.node.me, c.at.home) + choice * work.n_vectors;
    add_rows(sum, row, row ? c.layer.weight[choice] : 0, v, work);
}

__device__ __forceinline__ void settle_row(const call &c, const settling &q, int32_t t, int32_t part, const cut &work) {
    for (int32_t base = part * 32; base < work.n_vectors; base += AT_ONCE * work.parts * 32) {
        const int32_t v = base + lane_of_thread();
        const int64_t at = (int64_t)t * work.n_vectors;
        float sum[AT_ONCE][8] = {};
        for (int32_t i = t * q.fan; i < (t + 1) * q.fan; i++) {
            if (c.node.sizes.exact) add_choices(sum, c, q.wires, q.first + i, i, v, work);
            else add_from_ranks(sum, c, q.first + i, v, work);
        }
        if (!c.node.sizes.exact)
            for (int32_t i = t * q.fan; i < (t + 1) * q.fan; i++) add_from_wires(sum, q.wires, i, v, work);
        if (q.residual) add_rows(sum, lane_of_thread() == 0 ? q.residual + at : nullptr, 1, v, work);
        store_sums(sum, q.out + at, v, work);
    }
}

__global__ __launch_bounds__(THREADS, 1) void settle(const __grid_constant__ call c, const __grid_constant__ settling q, const cut work) {
    pdl::release_next();
    pdl::wait();
    wait_for_all(c, GR_CUDA_STAGE_COMBINE);
    for (int64_t unit = first_unit(); unit < (int64_t)work.n_rows * work.parts; unit += unit_step())
        settle_row(c, q, (int32_t)(unit / work.parts), (int32_t)(unit % work.parts), work);
    if (q.last && is_last_block(&c.node.epoch[SETTLED]) && threadIdx.x == 0) c.node.epoch[CALLS]++;      // every block has read it
}

}  // namespace

extern "C" grace_status gr_cuda_dispatch(const gr_cuda_node *node, const gr_cuda_layer *layer, gr_cuda_stream stream) {
    const cut work = cut_of(layer->s, node->sizes.hidden, SENDERS);
    grace_status st = GRACE_OK;
    GR_TRY(check(node, layer, 0, 0));
    pdl::launch(dispatch, work.blocks, THREADS, 0, stream, true, call_of(node, layer), work);
    st = gr_cuda_status(cudaGetLastError(), "dispatch");
done:
    return st;
}

extern "C" grace_status gr_cuda_arrive(const gr_cuda_node *node, const gr_cuda_layer *layer, gr_cuda_stream stream) {
    const int64_t n_choices = (int64_t)node->sizes.n_ranks * layer->s * node->sizes.top_k, blocks = (n_choices + THREADS - 1) / THREADS;
    grace_status st = GRACE_OK;
    GR_TRY(check(node, layer, 0, 0));
    pdl::launch(arrive, (unsigned)(blocks < 1 ? 1 : blocks < COPIERS ? blocks : COPIERS), THREADS, 0, stream, true, call_of(node, layer), n_choices);
    st = gr_cuda_status(cudaGetLastError(), "arrive");
done:
    return st;
}

extern "C" grace_status gr_cuda_give_back(const gr_cuda_node *node, const gr_cuda_layer *layer, const gr_cuda_pairs *pairs, const void *results,
                                          gr_cuda_stream stream) {
    const int64_t n_rows = (int64_t)node->sizes.n_ranks * layer->s;
    const cut work = cut_of(n_rows, node->sizes.hidden, ADDERS);
    grace_status st = GRACE_OK;
    GR_TRY(check(node, layer, 0, 0));
    GR_CHECK(pairs->n_rows == n_rows && pairs->top_k == node->sizes.top_k, GRACE_ERR_LIMIT, "cuda: give back: pairs of %d rows of %d, expected %lld of %d",
             pairs->n_rows, pairs->top_k, (long long)n_rows, node->sizes.top_k);
    pdl::launch(give_back, work.blocks, THREADS, 0, stream, true, call_of(node, layer), pairs->pair_of_choice, (const uint4 *)results, work);
    st = gr_cuda_status(cudaGetLastError(), "give back");
done:
    return st;
}

extern "C" grace_status gr_cuda_settle_rows(const gr_cuda_node *node, const gr_cuda_layer *layer, const gr_cuda_settle *s, gr_cuda_stream stream) {
    const cut work = cut_of(s->n, node->sizes.hidden, ADDERS);
    const gr_cuda_wires none = {};
    const settling q = {s->first, s->fan, (const uint4 *)s->residual, (uint4 *)s->out, s->last, s->wires ? *s->wires : none};
    grace_status st = GRACE_OK;
    GR_TRY(check(node, layer, s->first, s->n * s->fan));
    // What came over wires comes after an event of another stream: such a launch overlaps nothing.
    pdl::launch(settle, work.blocks, THREADS, 0, stream, s->wires == NULL, call_of(node, layer), q, work);
    st = gr_cuda_status(cudaGetLastError(), "settle");
done:
    return st;
}
