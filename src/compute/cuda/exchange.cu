// Rows to the GPUs of a node and their results back. Every kernel: any number of blocks, warps take rows (or parts of one) in turn.
#include "compute/cuda/exchange_call.cuh"
#include "compute/cuda/group.cuh"

namespace {

using namespace exchange;

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
// After publish(): all warps have counted, and nobody waits for these.
__device__ __forceinline__ void end_tally(const tally &t, int64_t *count) {
    if (threadIdx.x < 2 * GR_CUDA_NODE_MAX && (&t.n[0][0])[threadIdx.x])
        atomicAdd(reinterpret_cast<unsigned long long *>(count) + threadIdx.x, (unsigned long long)(&t.n[0][0])[threadIdx.x]);
}

// ---- dispatch ----
// Where a choice of a source lies in the arrays of headers, whatever s is: a source never writes where another's are read.
__device__ __forceinline__ int64_t header_at(const call &c, int32_t source, int64_t choice) {
    return (int64_t)source * c.node.sizes.n_rows * c.node.sizes.top_k + choice;
}

// A thread a choice.
__device__ __forceinline__ void send_headers(const call &c) {
    const int64_t n = (int64_t)c.layer.s * c.node.sizes.top_k, n_here = (int64_t)c.layer.n_rows * c.node.sizes.top_k;
    for (int64_t i = (int64_t)blockIdx.x * THREADS + threadIdx.x; i < n; i += (int64_t)gridDim.x * THREADS) {
        const float weight = i < n_here ? c.layer.weight[i] : 0;
        const int32_t place = place_of(c, i < n_here ? c.layer.slot[i] : -1);
        const int64_t at = header_at(c, c.node.me, i);
        for (int32_t rank = 0; rank < c.node.sizes.n_ranks; rank++) {
            const bool is_there = place >> 16 == rank;
            part_of<int32_t>(c, rank, c.at.header)[at] = is_there ? place & 0xFFFF : -1;
            part_of<float>(c, rank, c.at.weight)[at] = is_there ? weight : 0;
        }
    }
}

__device__ __forceinline__ void tally_row(const call &c, int32_t place, tally &t) {
    for (int32_t rank = 0; rank < c.node.sizes.n_ranks; rank++) {
        const uint32_t entries = __ballot_sync(~0u, place >> 16 == rank);
        if (lane_of_thread() == 0) add_to_tally(t, rank, entries);
    }
}

// Read once, stored once a rank.
__device__ __forceinline__ void send_row(const call &c, int32_t row, int32_t part, const cut &work, tally &t) {
    const int64_t at = ((int64_t)c.node.me * c.layer.s + row) * work.n_vectors;
    const uint4 *from = part_of<const uint4>(c, c.node.me, c.at.row) + at;
    uint4 x[IN_FLIGHT];
    load_some(x, from, part * 32 + lane_of_thread(), work);     // before it is known who wants it: nearly every row leaves
    const int32_t place = place_of(c, slot_of_choice(c, row));
    const uint32_t others = ranks_of(c, place) & ~(1u << c.node.me);
    if (part == 0) tally_row(c, place, t);
    for (int32_t base = part * 32; base < work.n_vectors && others;) {
        for (uint32_t left = others; left; left &= left - 1)
            store_some(x, part_of<uint4>(c, __ffs(left) - 1, c.at.row) + at, base + lane_of_thread(), work);
        load_some(x, from, (base += IN_FLIGHT * work.parts * 32) + lane_of_thread(), work);
    }
}

__global__ __launch_bounds__(THREADS, 1) void dispatch(const __grid_constant__ call c, const cut work) {
    __shared__ tally sent;
    start_tally(sent);
    pdl::wait();
    pdl::release_next();
    const uint32_t due = epoch_of(c, GIVEN) + 1;
    const bool garbage = gave_up(c.node.epoch);
    send_headers(c);
    for (uint32_t unit = first_unit(), n = c.layer.n_rows * work.parts; unit < n; unit += unit_step())
        send_row(c, unit / work.parts, unit % work.parts, work, sent);
    publish(c, GR_CUDA_STAGE_DISPATCH, 0, c.node.sizes.n_ranks, blockIdx.x, due, garbage);
    end_tally(sent, c.node.count);
}

// ---- arrive ----
// Who polls lets the next kernel start only then: the blocks of a kernel that starts while others sit on the processors are spread unevenly.

// Waits, then copies the slots. A source that was late, or went on after a stop, writes while others read: kernels see this copy alone, and nothing in it is
// out of bounds.
__device__ __forceinline__ const int32_t *take_slots(const call &c, int32_t n_senders) {
    const uint32_t due = epoch_of(c, GIVEN) + 1, of_source = c.layer.s * c.node.sizes.top_k, n = c.node.sizes.n_ranks * of_source;
    const int32_t *header = part_of<int32_t>(c, c.node.me, c.at.header);
    int32_t *taken = part_of<int32_t>(c, c.node.me, c.at.slot);
    wait_for_all(c, GR_CUDA_STAGE_DISPATCH, n_senders, due);
    for (uint32_t i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
        const int32_t slot = header[header_at(c, i / of_source, i % of_source)];
        taken[i] = slot >= 0 && slot < c.layer.n_slots ? slot : -1;
    }
    if (blockIdx.x == 0 && threadIdx.x == 0) c.node.epoch[CALL] = due;
    return taken;
}

__global__ __launch_bounds__(THREADS, 1) void arrive(const __grid_constant__ call c, const int32_t n_senders) {
    if (!is_few(c)) pdl::wait();
    take_slots(c, n_senders);
    pdl::release_next();
    pdl::wait();        // whoever waits for this kernel waits for dispatch
}

// Few choices: one block, which makes the pairs too.
__global__ __launch_bounds__(grouping::THREADS, 1) void arrive_and_group(const __grid_constant__ call c, const int32_t n_senders, const gr_cuda_pairs pairs) {
    extern __shared__ int32_t in_warp[];
    __shared__ int32_t at[GR_CUDA_SLOTS_MAX];
    const int32_t n = pairs.n_rows * pairs.top_k;
    const int32_t *slot = take_slots(c, n_senders);
    pdl::release_next();
    grouping::count_slots(slot, 0, n, pairs.n_slots, at);       // behind a barrier: slots are there
    pdl::wait();
    grouping::scan_slots(pairs.n_slots, at, pairs.first_pair);
    for (int32_t from = 0; from < n; from += blockDim.x) grouping::place_turn(slot, from, n, pairs, at, in_warp);
}

// ---- give back ----
// Sum of a row's results here, home to its source.
template <int V> __device__ __forceinline__ void give_sum(const uint4 *result, float weight, uint4 *to, int32_t part, const cut &work) {
    for (int32_t base = part * 32; base < work.n_vectors; base += V * work.parts * 32) {
        sums<V> sum = {};
        add_rows<V>(sum, result, weight, base + lane_of_thread(), work);
        store_sums<V>(sum, to, base + lane_of_thread(), work);
    }
}

// Each result as it is. `to`: of the row's first choice.
__device__ __forceinline__ void give_each(const uint4 *result, uint4 *to, int32_t part, const cut &work) {
    for (uint32_t left = __ballot_sync(~0u, result != nullptr); left; left &= left - 1) {
        const int choice = __ffs(left) - 1;
        copy_row(row_of_lane(result, choice), to + (int64_t)choice * work.n_vectors, part, work);
    }
}

template <int V> __device__ __forceinline__ void give_row(const call &c, int32_t source, int32_t row, int32_t pair, float weight, const uint4 *results,
                                                          int32_t part, const cut &work) {
    const uint4 *result = pair >= 0 ? results + (int64_t)pair * work.n_vectors : nullptr;
    uint4 *home = part_of<uint4>(c, source, c.at.home);
    if (c.node.sizes.exact) give_each(result, home + (int64_t)row * c.node.sizes.top_k * work.n_vectors, part, work);
    else give_sum<V>(result, weight, home + ((int64_t)c.node.me * c.layer.s + row) * work.n_vectors, part, work);
}

// A block gives to one source, neighbouring blocks to different ones: links are busy from the start, and the processors that add own rows, which need the
// memory alone, are not those that wait for links.
template <int V> __global__ __launch_bounds__(THREADS, 1) void give_back(const __grid_constant__ call c, const gr_cuda_pairs pairs,
                                                                        const uint4 *results, const cut work) {
    __shared__ tally given;
    start_tally(given);
    pdl::wait();
    pdl::release_next();
    const int32_t n_ranks = c.node.sizes.n_ranks, top_k = c.node.sizes.top_k, lane = lane_of_thread();
    const int32_t source = ((int32_t)blockIdx.x + c.node.me + 1) % n_ranks, block = (int32_t)blockIdx.x / n_ranks;
    const uint32_t due = epoch_of(c, CALL);
    const bool garbage = gave_up(c.node.epoch);
    for (uint32_t unit = block * WARPS + threadIdx.x / 32, n = work.n_rows * work.parts; unit < n; unit += work.blocks * WARPS) {
        const int32_t row = unit / work.parts, part = unit % work.parts;
        const int64_t choice = (int64_t)row * top_k + lane;
        const int32_t pair = lane < top_k ? pairs.pair_of_choice[(int64_t)source * c.layer.s * top_k + choice] : -1;
        const float weight = lane < top_k ? part_of<float>(c, c.node.me, c.at.weight)[header_at(c, source, choice)] : 0;
        const uint32_t entries = __ballot_sync(~0u, pair >= 0);
        if (entries == 0) continue;
        if (part == 0 && lane == 0) add_to_tally(given, source, entries);
        give_row<V>(c, source, row, pair, weight, results, part, work);
    }
    publish(c, GR_CUDA_STAGE_COMBINE, source, 1, block, due, garbage);
    end_tally(given, c.node.count + 2 * GR_CUDA_NODE_MAX);
    if (blockIdx.x > 0 || threadIdx.x > 0) return;
    c.node.epoch[GIVEN] = due;
    if (c.layer.n_pairs) *c.layer.n_pairs = pairs.first_pair[pairs.n_slots];
}

// ---- settle ----
struct settling {
    int32_t first, fan;
    const uint4 *residual;
    uint4 *out;
    gr_cuda_wires wires;        // none: n_wires is 0
};

// Fast: what ranks sent home for source row r, lane g from rank g.
template <int V> __device__ __forceinline__ void add_from_ranks(sums<V> &sum, const call &c, int32_t r, int32_t v, const cut &work) {
    const int32_t lane = lane_of_thread();
    const bool has = ranks_of(c, place_of(c, slot_of_choice(c, r))) >> lane & 1;
    const uint4 *home = part_of<const uint4>(c, c.node.me, c.at.home);
    add_rows<V>(sum, has ? home + ((int64_t)lane * c.layer.s + r) * work.n_vectors : nullptr, 1, v, work);
}

// Fast: what came back over the wires for own row t, a lane a wire.
template <int V> __device__ __forceinline__ void add_from_wires(sums<V> &sum, const gr_cuda_wires &wires, int32_t t, int32_t v, const cut &work) {
    for (int32_t base = 0; base < wires.n_wires; base += 32) {
        const int32_t wire = base + lane_of_thread();
        const int32_t position = wire < wires.n_wires ? wires.position[(int64_t)wire * wires.capacity + t] : -1;
        const uint4 *home = reinterpret_cast<const uint4 *>(wires.home) + ((int64_t)wire * wires.capacity + position) * work.n_vectors;
        add_rows<V>(sum, position >= 0 ? home : nullptr, 1, v, work);
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
template <int V> __device__ __forceinline__ void add_choices(sums<V> &sum, const call &c, const gr_cuda_wires &wires, int32_t r, int32_t t, int32_t v,
                                                             const cut &work) {
    const int32_t slot = slot_of_choice(c, r), top_k = c.node.sizes.top_k;
    const int64_t choice = (int64_t)r * top_k + lane_of_thread();
    const uint4 *row = nullptr;
    if (wires.n_wires) row = result_of_wire(wires, slot >= 0 ? wires.wire_of_slot[slot] : -1, t, top_k, work.n_vectors);
    if (place_of(c, slot) >= 0) row = part_of<const uint4>(c, c.node.me, c.at.home) + choice * work.n_vectors;
    add_rows<V>(sum, row, row ? c.layer.weight[choice] : 0, v, work);
}

template <int V> __device__ __forceinline__ void settle_row(const call &c, const settling &q, int32_t t, int32_t part, const cut &work) {
    for (int32_t base = part * 32; base < work.n_vectors; base += V * work.parts * 32) {
        const int32_t v = base + lane_of_thread();
        const int64_t at = (int64_t)t * work.n_vectors;
        sums<V> sum = {};
        uint4 residual[V] = {};
        if (q.residual) load_some(residual, q.residual + at, v, work);      // it comes last, but may be on its way
        for (int32_t i = t * q.fan; i < (t + 1) * q.fan; i++) {
            if (c.node.sizes.exact) add_choices<V>(sum, c, q.wires, q.first + i, i, v, work);
            else add_from_ranks<V>(sum, c, q.first + i, v, work);
        }
        if (!c.node.sizes.exact)
            for (int32_t i = t * q.fan; i < (t + 1) * q.fan; i++) add_from_wires<V>(sum, q.wires, i, v, work);
        if (q.residual) add<V>(sum, residual, 1);
        store_sums<V>(sum, q.out + at, v, work);
    }
}

template <int V> __global__ __launch_bounds__(THREADS, 1) void settle(const __grid_constant__ call c, const __grid_constant__ settling q,
                                                                      const int32_t n_givers, const cut work) {
    if (!is_few(c)) pdl::wait();
    wait_for_all(c, GR_CUDA_STAGE_COMBINE, n_givers, epoch_of(c, CALL));
    pdl::release_next();
    pdl::wait();
    for (uint32_t unit = first_unit(), n = work.n_rows * work.parts; unit < n; unit += unit_step())
        settle_row<V>(c, q, unit / work.parts, unit % work.parts, work);
}

}  // namespace

extern "C" grace_status gr_cuda_dispatch(const gr_cuda_node *node, const gr_cuda_layer *layer, gr_cuda_stream stream) {
    const cut work = senders_of(node, layer);
    grace_status st = GRACE_OK;
    GR_TRY(check(node, layer, 0, 0));
    pdl::launch(dispatch, work.blocks, THREADS, 0, stream, true, call_of(node, layer), work);
    st = gr_cuda_status(cudaGetLastError(), "dispatch");
done:
    return st;
}

static grace_status check_pairs(const gr_cuda_node *node, const gr_cuda_layer *layer, const gr_cuda_pairs *pairs, const char *what) {
    const int32_t n_rows = node->sizes.n_ranks * layer->s;
    grace_status st = GRACE_OK;
    GR_CHECK(pairs->n_rows == n_rows && pairs->top_k == node->sizes.top_k && pairs->n_slots >= layer->n_slots, GRACE_ERR_LIMIT,
             "cuda: %s: pairs of %d rows of %d choices, %d slots; expected %d of %d, at least %d", what, pairs->n_rows, pairs->top_k, pairs->n_slots, n_rows,
             node->sizes.top_k, layer->n_slots);
done:
    return st;
}

extern "C" grace_status gr_cuda_arrive(const gr_cuda_node *node, const gr_cuda_layer *layer, const gr_cuda_pairs *pairs, gr_cuda_stream stream) {
    const int64_t n_choices = (int64_t)node->sizes.n_ranks * layer->s * node->sizes.top_k, blocks = (n_choices + THREADS - 1) / THREADS;
    const int32_t n_senders = (int32_t)senders_of(node, layer).blocks, most = blocks_of(node, COPIERS);
    const call c = call_of(node, layer);
    grace_status st = GRACE_OK;
    GR_TRY(check(node, layer, 0, 0));
    if (pairs) GR_TRY(check_pairs(node, layer, pairs, "arrive"));
    if (pairs && pairs->n_slots > 0 && n_choices <= grouping::IN_ONE_MAX) {
        const unsigned threads = grouping::threads_for(n_choices, pairs->n_slots);
        pdl::launch(arrive_and_group, 1, threads, grouping::shared_for(threads, pairs->n_slots), stream, true, c, n_senders, *pairs);
        return gr_cuda_status(cudaGetLastError(), "arrive");
    }
    pdl::launch(arrive, (unsigned)(blocks < 1 ? 1 : blocks < most ? blocks : most), THREADS, 0, stream, true, c, n_senders);
    GR_TRY(gr_cuda_status(cudaGetLastError(), "arrive"));
    if (pairs) GR_TRY(gr_cuda_group(reinterpret_cast<const int32_t *>(node->area[node->me] + c.at.slot), pairs, stream));
done:
    return st;
}

extern "C" grace_status gr_cuda_give_back(const gr_cuda_node *node, const gr_cuda_layer *layer, const gr_cuda_pairs *pairs, const void *results,
                                          gr_cuda_stream stream) {
    const cut work = givers_of(node, layer);
    grace_status st = GRACE_OK;
    GR_TRY(check(node, layer, 0, 0));
    GR_TRY(check_pairs(node, layer, pairs, "give back"));
    pdl::launch(is_thin(work) ? give_back<1> : give_back<SUMMED>, work.blocks * node->sizes.n_ranks, THREADS, 0, stream, true, call_of(node, layer), *pairs,
                (const uint4 *)results, work);
    st = gr_cuda_status(cudaGetLastError(), "give back");
done:
    return st;
}

extern "C" grace_status gr_cuda_settle_rows(const gr_cuda_node *node, const gr_cuda_layer *layer, const gr_cuda_settle *s, gr_cuda_stream stream) {
    const cut work = cut_of(s->n, node->sizes.hidden, SUMMED, blocks_of(node, ADDERS));
    const gr_cuda_wires none = {};
    const settling q = {s->first, s->fan, (const uint4 *)s->residual, (uint4 *)s->out, s->wires ? *s->wires : none};
    grace_status st = GRACE_OK;
    GR_TRY(check(node, layer, s->first, s->n * s->fan));
    // What came over wires comes after an event of another stream: such a launch overlaps nothing.
    pdl::launch(is_thin(work) ? settle<1> : settle<SUMMED>, work.blocks, THREADS, 0, stream, s->wires == NULL, call_of(node, layer), q,
                (int32_t)givers_of(node, layer).blocks, work);
    st = gr_cuda_status(cudaGetLastError(), "settle");
done:
    return st;
}
