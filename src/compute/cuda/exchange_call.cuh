// What the kernels of the exchange share: a call as kernels take it, flags and waits, rows copied and added by warps.
//
// Memory order: every block that sends has flags of its own. Its stores, a barrier, then a release of the flags at system scope (st.release.sys). Whoever
// receives acquires the flags of all blocks (ld.acquire.sys), a thread each, and a barrier hands that on to the block; later kernels come after this one.
// Spinning blocks wait for other GPUs, and for a kernel before them all of whose blocks run: what they wait for was queued there without regard to what is
// queued here.
//
// Where rows are few, a kernel that receives polls while the one that sends still runs, and then waits for that one's end. So those that send wait first and
// then release the next kernel: when it starts, all that came before the sending kernel is over. With many rows it would take from the sender what that needs.
#ifndef GR_COMPUTE_CUDA_EXCHANGE_CALL_CUH
#define GR_COMPUTE_CUDA_EXCHANGE_CALL_CUH
#include "compute/cuda/cuda.h"
#include "compute/cuda/exchange.h"
#include "compute/cuda/lanes.cuh"
#include "compute/cuda/pdl.cuh"

namespace exchange {

enum { THREADS = 512, WARPS = THREADS / 32 };
enum { BUSY_POLLS = 32, PAUSE_NS = 50, POLLS = 64, LOOK_NS = 1000000 };     // polls without a pause, then with one; some between questions whether it is over
enum { FEW_ROWS = 256 };                                    // of a rank
enum { IN_FLIGHT = 8, SUMMED = 4 };     // vectors that a lane has on their way; of a row that it sums

// Blocks at most, alone: stores fill the links with few of them; sums read this GPU's memory and take nearly all processors. All ranks of a node find the same
// numbers of blocks, so each knows whose flags to wait for.
enum { SENDERS = 32, COPIERS = 128, ADDERS = 128 };

// Words of node.epoch. dispatch and arrive read the first, give_back and settle the second; each is written while nobody reads it.
enum { GIVEN = 0 /* the last call whose results this rank gave back */, CALL = 32 /* the call under way, from arrive on */ };
enum { LATE = 64 /* somebody said who was late */, OVER = 96 /* nobody waits any longer, and nobody is told of what is sent */ };

struct call {
    gr_cuda_node node;
    gr_cuda_area at;
    gr_cuda_layer layer;
};

// Warps take units of work in turn: a row's `parts`, vectors (part + i * parts) * 32 + lane of it. A part is at most what a warp has on its way at once, so
// that turns are short and end together; where rows are few there are more parts.
struct cut {
    int32_t n_rows, n_vectors, parts;
    unsigned blocks;
};

static_assert((int)SENDERS <= (int)GR_CUDA_FLAGS && (int)ADDERS <= (int)GR_CUDA_FLAGS, "every block that sends has a flag");

static inline call call_of(const gr_cuda_node *node, const gr_cuda_layer *layer) { return {*node, gr_cuda_area_of(&node->sizes), *layer}; }

static inline cut cut_of(int64_t n_rows, int32_t hidden, int32_t at_once, int32_t most_blocks) {
    const int64_t chunks = (hidden / 8 + 31) / 32, least = (chunks + at_once - 1) / at_once;
    const int64_t share = (int64_t)WARPS * most_blocks / (n_rows > 0 ? n_rows : 1);
    const int64_t parts = share < least ? least : share < chunks ? share : chunks, blocks = (n_rows * parts + WARPS - 1) / WARPS;
    return {(int32_t)n_rows, hidden / 8, (int32_t)parts, (unsigned)(blocks < 1 ? 1 : blocks < most_blocks ? blocks : most_blocks)};
}

// Of a kernel that would have so many if it were alone.
static inline int32_t blocks_of(const gr_cuda_node *node, int32_t alone) {
    return node->blocks_most > 0 && node->blocks_most < alone ? node->blocks_most : alone;
}

static inline cut senders_of(const gr_cuda_node *node, const gr_cuda_layer *layer) {
    return cut_of(layer->s, node->sizes.hidden, IN_FLIGHT, blocks_of(node, SENDERS));
}
// Of one source's rows: each block gives to one source, as many blocks to each.
static inline cut givers_of(const gr_cuda_node *node, const gr_cuda_layer *layer) {
    return cut_of(layer->s, node->sizes.hidden, SUMMED, blocks_of(node, ADDERS) / node->sizes.n_ranks);
}

// A lane has one vector of a row.
static inline bool is_thin(const cut &work) { return (int64_t)work.parts * 32 >= work.n_vectors; }

static inline grace_status check(const gr_cuda_node *node, const gr_cuda_layer *layer, int32_t first, int32_t n) {
    grace_status st = GRACE_OK;
    GR_CHECK(layer->s >= 0 && layer->s <= node->sizes.n_rows, GRACE_ERR_LIMIT, "cuda: exchange of layer %d: %d source rows, its memory has %d", layer->layer,
             layer->s, node->sizes.n_rows);
    GR_CHECK(layer->n_rows >= 0 && layer->n_rows <= layer->s, GRACE_ERR_LIMIT, "cuda: exchange of layer %d: %d rows here of %d in its node's calls",
             layer->layer, layer->n_rows, layer->s);
    GR_CHECK(first >= 0 && n >= 0 && first <= layer->n_rows - n, GRACE_ERR_LIMIT, "cuda: exchange of layer %d: rows %d to %lld of %d", layer->layer, first,
             (long long)first + n, layer->n_rows);
done:
    return st;
}

#ifdef __CUDACC__

template <class T> __device__ __forceinline__ T *part_of(const call &c, int32_t rank, int64_t part) { return reinterpret_cast<T *>(c.node.area[rank] + part); }
// Whether who receives may poll early.
__device__ __forceinline__ bool is_few(const call &c) { return c.layer.s <= FEW_ROWS; }
__device__ __forceinline__ int32_t lane_of_thread() { return threadIdx.x % 32; }

// ---- flags ----
__device__ __forceinline__ uint32_t acquire(const uint32_t *flag) {
    uint32_t value;
    asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(flag) : "memory");
    return value;
}
__device__ __forceinline__ void release(uint32_t *flag, uint32_t value) {
    asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(flag), "r"(value) : "memory");
}
__device__ __forceinline__ uint64_t nanoseconds() {
    uint64_t now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now)::"memory");
    return now;
}
__device__ __forceinline__ uint32_t *flag_of(const call &c, int32_t rank, int32_t stage, int32_t source, int32_t block) {
    return part_of<uint32_t>(c, rank, c.at.flags) + (stage * GR_CUDA_NODE_MAX + source) * GR_CUDA_FLAGS + block;
}
__device__ __forceinline__ uint32_t epoch_of(const call &c, int32_t word) { return *(volatile uint32_t *)&c.node.epoch[word]; }

// The first thread whose wait is late, or ended, says where it was; then nobody waits.
__device__ inline void report_late(const gr_cuda_node &node, int32_t stage, int32_t layer, int32_t source) {
    volatile gr_cuda_watch *watch = node.watch;
    if (atomicExch(&node.epoch[LATE], 1u)) return;
    watch->stage = stage, watch->layer = layer, watch->source = source;
    __threadfence_system();     // the host sees who was late before it sees the stop
    watch->stop = 1;
}

// By one thread of a block that waits: whether nobody waits any longer. The first to find that a wait is late says so. The watch lies in the host's memory,
// where looks of several blocks queue up, some 70 ns each, and stores and fences behind them: so a block looks there once a millisecond.
struct patience { uint64_t start, looked; };
__device__ inline bool is_over(const call &c, int32_t stage, int32_t source, patience &p) {
    const uint64_t now = nanoseconds();
    if (epoch_of(c, OVER)) return true;
    if (p.start == 0) p.start = p.looked = now;
    if (now - p.looked < LOOK_NS) return false;
    p.looked = now;
    const bool stops = ((volatile gr_cuda_watch *)c.node.watch)->stop, late = now - p.start >= c.node.deadline_ns;
    if (!stops && !late) return false;
    c.node.epoch[OVER] = 1;
    if (!stops) report_late(c.node, stage, c.layer.layer, source);
    return true;
}

// Until the flags of all sources' blocks hold `due`, the number of the call: nobody can be ahead of that. n_blocks: of each source. By a whole block: at first
// each thread polls its flag by itself, later all together, with pauses.
__device__ inline void wait_for_all(const call &c, int32_t stage, int32_t n_blocks, uint32_t due) {
    __shared__ int32_t missing;
    __shared__ bool over;
    const int32_t n = c.node.sizes.n_ranks * n_blocks;
    int32_t i = threadIdx.x;        // this thread's flags before it are up
    patience p = {};
    for (uint32_t polls = 1;; polls++) {
        for (int32_t left = polls == 1 ? BUSY_POLLS : 1; i < n && left > 0;) {
            if (acquire(flag_of(c, c.node.me, stage, i / n_blocks, i % n_blocks)) == due) i += blockDim.x;
            else left--;
        }
        if (__syncthreads_and(i >= n)) return;      // what every source sent is there
        __nanosleep(PAUSE_NS);
        if (polls % POLLS) continue;
        if (i < n) atomicExch(&missing, i / n_blocks);
        __syncthreads();        // one of those who are missing
        if (threadIdx.x == 0) over = is_over(c, stage, missing, p);
        __syncthreads();        // over is there
        if (over) return;
    }
}

// Whether a wait of this GPU ended without what it waited for: what comes of it is garbage. As of the kernels before; read early, it takes no time.
__device__ __forceinline__ bool gave_up(const uint32_t *epoch) { return *(const volatile uint32_t *)&epoch[OVER]; }

// Behind all that a block sends: each of these ranks learns that this block's part of the stage is complete, unless it is garbage.
__device__ __forceinline__ void publish(const call &c, int32_t stage, int32_t first_rank, int32_t n_ranks, int32_t block, uint32_t due, bool garbage) {
    __syncthreads();        // all of this block's stores come before its flags
    if (threadIdx.x < n_ranks && !garbage) release(flag_of(c, first_rank + threadIdx.x, stage, c.node.me, block), due);
}

// ---- choices: lane j of a warp has choice j ----
__device__ __forceinline__ int32_t slot_of_choice(const call &c, int32_t row) {
    const int32_t lane = lane_of_thread(), top_k = c.node.sizes.top_k;
    return row < c.layer.n_rows && lane < top_k ? c.layer.slot[(int64_t)row * top_k + lane] : -1;
}
__device__ __forceinline__ int32_t place_of(const call &c, int32_t slot) { return slot < 0 ? -1 : c.layer.place_of_slot[slot]; }
// Bit g: local rank g has a slot among the places.
__device__ __forceinline__ uint32_t ranks_of(const call &c, int32_t place) {
    uint32_t ranks = 0;
    for (int32_t rank = 0; rank < c.node.sizes.n_ranks; rank++) ranks |= (uint32_t)__any_sync(~0u, place >> 16 == rank) << rank;
    return ranks;
}
__device__ __forceinline__ uint32_t lower_lanes() { return (1u << lane_of_thread()) - 1; }

// ---- rows ----
__device__ __forceinline__ uint32_t first_unit() { return blockIdx.x * WARPS + threadIdx.x / 32; }
__device__ __forceinline__ uint32_t unit_step() { return gridDim.x * WARPS; }

template <int N> __device__ __forceinline__ void load_some(uint4 (&x)[N], const uint4 *row, int32_t v, const cut &work) {
#pragma unroll
    for (int i = 0; i < N; i++)
        if (v + i * work.parts * 32 < work.n_vectors) x[i] = row[v + i * work.parts * 32];
}
template <int N> __device__ __forceinline__ void store_some(const uint4 (&x)[N], uint4 *row, int32_t v, const cut &work) {
#pragma unroll
    for (int i = 0; i < N; i++)
        if (v + i * work.parts * 32 < work.n_vectors) row[v + i * work.parts * 32] = x[i];
}

__device__ __forceinline__ void copy_row(const uint4 *from, uint4 *to, int32_t part, const cut &work) {
    for (int32_t base = part * 32; base < work.n_vectors; base += IN_FLIGHT * work.parts * 32) {
        uint4 x[IN_FLIGHT];
        load_some(x, from, base + lane_of_thread(), work);
        store_some(x, to, base + lane_of_thread(), work);
    }
}

// Sums of V vectors of a row in a lane, which has IN_FLIGHT vectors on their way: of one row or of several. V is 1 where so many warps share a row.
template <int V> using sums = float[V][8];

template <int V> __device__ __forceinline__ void add(sums<V> &sum, const uint4 (&x)[V], float weight) {
#pragma unroll
    for (int i = 0; i < V; i++) {
        float value[8];
        lanes::widen(x[i], value);
#pragma unroll
        for (int n = 0; n < 8; n++) sum[i][n] = fmaf(weight, value[n], sum[i][n]);
    }
}

__device__ __forceinline__ const uint4 *row_of_lane(const uint4 *row, int32_t lane) {
    return reinterpret_cast<const uint4 *>(__shfl_sync(~0u, reinterpret_cast<unsigned long long>(row), lane));
}

// sum += weight * row over the lanes that have a row, in their order. By a whole warp.
template <int V> __device__ __forceinline__ void add_rows(sums<V> &sum, const uint4 *row, float weight, int32_t v, const cut &work) {
    enum { ROWS = IN_FLIGHT / V };
    for (uint32_t left = __ballot_sync(~0u, row != nullptr); left;) {
        uint4 x[ROWS][V] = {};
        int32_t lane[ROWS];
#pragma unroll
        for (int i = 0; i < ROWS; i++, left &= left - 1)
            if ((lane[i] = __ffs(left) - 1) >= 0) load_some(x[i], row_of_lane(row, lane[i]), v, work);
#pragma unroll
        for (int i = 0; i < ROWS; i++)
            if (lane[i] >= 0) add<V>(sum, x[i], __shfl_sync(~0u, weight, lane[i]));
    }
}

template <int V> __device__ __forceinline__ void store_sums(const sums<V> &sum, uint4 *row, int32_t v, const cut &work) {
    uint4 x[V];
#pragma unroll
    for (int i = 0; i < V; i++) x[i] = lanes::narrow(sum[i]);
    store_some(x, row, v, work);
}
#endif

}  // namespace exchange
#endif
