// What the kernels of the exchange share: a call as kernels take it, flags and waits, the last block of a kernel, rows copied and added by warps.
//
// Memory order: whoever sends stores, then each block fences for the system and counts itself; the last block releases flags (st.release.sys). Whoever
// receives acquires them (ld.acquire.sys) in a few threads, and a barrier hands that on to the block; later kernels come after this one. Spinning blocks wait
// for other GPUs alone: what they wait for was queued there without regard to what is queued here.
#ifndef GR_COMPUTE_CUDA_EXCHANGE_CALL_CUH
#define GR_COMPUTE_CUDA_EXCHANGE_CALL_CUH
#include "compute/cuda/cuda.h"
#include "compute/cuda/exchange.h"
#include "compute/cuda/lanes.cuh"
#include "compute/cuda/pdl.cuh"

namespace exchange {

enum { THREADS = 512, WARPS = THREADS / 32, FLAG_WORDS = 32, SPINS = 64, AT_ONCE = 4 };
enum { CALLS = 0, DISPATCHED = 32, GIVEN = 64, SETTLED = 96, LATE = 128 };      // words of node.epoch; all but the first are back at 0 after a call

struct call {
    gr_cuda_node node;
    gr_cuda_area at;
    gr_cuda_layer layer;
};

// Warps take rows in turn; where rows are few, `parts` warps share one: vectors (part + i * parts) * 32 + lane of it.
struct cut {
    int32_t n_rows, n_vectors, parts;
    unsigned blocks;
};

static inline call call_of(const gr_cuda_node *node, const gr_cuda_layer *layer) { return {*node, gr_cuda_area_of(&node->sizes), *layer}; }

static inline cut cut_of(int64_t n_rows, int32_t hidden, int32_t most_blocks) {
    const int64_t chunks = (hidden / 8 + 31) / 32, share = (int64_t)WARPS * most_blocks / (n_rows > 0 ? n_rows : 1);
    const int64_t parts = share < 1 ? 1 : share < chunks ? share : chunks, blocks = (n_rows * parts + WARPS - 1) / WARPS;
    return {(int32_t)n_rows, hidden / 8, (int32_t)parts, (unsigned)(blocks < 1 ? 1 : blocks < most_blocks ? blocks : most_blocks)};
}

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
__device__ __forceinline__ uint32_t *flag_of(const call &c, int32_t rank, int32_t stage, int32_t source) {
    return part_of<uint32_t>(c, rank, c.at.flags) + (stage * GR_CUDA_NODE_MAX + source) * FLAG_WORDS;
}
// What flags hold when this call's stage is complete.
__device__ __forceinline__ uint32_t number_of_call(const call &c) { return *(volatile uint32_t *)&c.node.epoch[CALLS] + 1; }

// The first thread whose wait is late says so; then nobody waits.
__device__ inline void report_late(const call &c, int32_t stage, int32_t source) {
    volatile gr_cuda_watch *watch = c.node.watch;
    if (atomicExch(&c.node.epoch[LATE], 1u)) return;
    watch->stage = stage, watch->layer = c.layer.layer, watch->source = source;
    __threadfence_system();     // the host sees who was late before it sees the stop
    watch->stop = 1;
}

__device__ inline void wait_for(const call &c, int32_t stage, int32_t source) {
    const uint32_t *flag = flag_of(c, c.node.me, stage, source), due = number_of_call(c);
    uint64_t start = 0;
    for (uint32_t spin = 1; (int32_t)(acquire(flag) - due) < 0; spin++) {
        if (spin % SPINS) continue;     // the watch lies in the host's memory: a look at it takes a microsecond
        if (((volatile gr_cuda_watch *)c.node.watch)->stop) return;
        uint64_t now = nanoseconds();
        if (start == 0) start = now;
        if (now - start < c.node.deadline_ns) continue;
        report_late(c, stage, source);
        return;
    }
}

__device__ __forceinline__ void wait_for_all(const call &c, int32_t stage) {
    if (threadIdx.x < c.node.sizes.n_ranks) wait_for(c, stage, threadIdx.x);
    __syncthreads();        // what every source sent is there
}

// True in every thread of the block that ends last, which comes after all that the others wrote. The counter is 0 again for the next call.
__device__ __forceinline__ bool is_last_block(uint32_t *counter) {
    __shared__ bool is_last;
    __syncthreads();        // all of this block's stores come before its count
    if (threadIdx.x == 0) {
        __threadfence_system();
        is_last = gridDim.x == 1 || atomicInc(counter, gridDim.x - 1) == gridDim.x - 1;
        __threadfence();
    }
    __syncthreads();        // is_last is there
    return is_last;
}

// At the end of a kernel that sent: the node learns that this rank's stage of the call is complete.
__device__ __forceinline__ void publish(const call &c, int32_t stage, int32_t counter) {
    if (is_last_block(&c.node.epoch[counter]) && threadIdx.x < c.node.sizes.n_ranks)
        release(flag_of(c, threadIdx.x, stage, c.node.me), number_of_call(c));
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
__device__ __forceinline__ int64_t first_unit() { return (int64_t)blockIdx.x * WARPS + threadIdx.x / 32; }
__device__ __forceinline__ int64_t unit_step() { return (int64_t)gridDim.x * WARPS; }

__device__ __forceinline__ void load_some(uint4 (&x)[AT_ONCE], const uint4 *row, int32_t v, const cut &work) {
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++)
        if (v + i * work.parts * 32 < work.n_vectors) x[i] = row[v + i * work.parts * 32];
}
__device__ __forceinline__ void store_some(const uint4 (&x)[AT_ONCE], uint4 *row, int32_t v, const cut &work) {
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++)
        if (v + i * work.parts * 32 < work.n_vectors) row[v + i * work.parts * 32] = x[i];
}

__device__ __forceinline__ void copy_row(const uint4 *from, uint4 *to, int32_t part, const cut &work) {
    for (int32_t base = part * 32; base < work.n_vectors; base += AT_ONCE * work.parts * 32) {
        uint4 x[AT_ONCE];
        load_some(x, from, base + lane_of_thread(), work);
        store_some(x, to, base + lane_of_thread(), work);
    }
}

// sum += weight * row over the lanes that have a row, in their order. By a whole warp.
__device__ __forceinline__ void add_rows(float (&sum)[AT_ONCE][8], const uint4 *row, float weight, int32_t v, const cut &work) {
    for (uint32_t left = __ballot_sync(~0u, row != nullptr); left; left &= left - 1) {
        const int lane = __ffs(left) - 1;
        const uint4 *from = reinterpret_cast<const uint4 *>(__shfl_sync(~0u, reinterpret_cast<unsigned long long>(row), lane));
        const float w = __shfl_sync(~0u, weight, lane);
        uint4 x[AT_ONCE] = {};
        load_some(x, from, v, work);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            float value[8];
            lanes::widen(x[i], value);
#pragma unroll
            for (int n = 0; n < 8; n++) sum[i][n] = fmaf(w, value[n], sum[i][n]);
        }
    }
}

__device__ __forceinline__ void store_sums(const float (&sum)[AT_ONCE][8], uint4 *row, int32_t v, const cut &work) {
    uint4 x[AT_ONCE];
#pragma unroll
    for (int i = 0; i < AT_ONCE; i++) x[i] = lanes::narrow(sum[i]);
    store_some(x, row, v, work);
}
#endif

}  // namespace exchange
#endif
