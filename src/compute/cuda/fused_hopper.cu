// Experts over pairs grouped by slot, as two grouped matrix products in one kernel, sizes read on the device.
//
//     up     act[p]  = silu(gate x) * (up x)   x = rows[row_of_pair[p]]; gathered by threads, weights by the copy engine
//     down   y[p]    = down act[p]             both by the copy engine
//
// A block is one producer warpgroup and BM / 64 consumer warpgroups over a ring of STAGES pieces of K = 64. Blocks stay and walk the list of tiles, all of up
// before those of down; producers run ahead over the ends of tiles, so weights stream while a tile is written, and those of down while the last of up is
// computed. A tile of down waits for its rows of act: each group of 64 rows that a tile of up wrote counts in `written` of that tile of rows. Nobody waits
// for a block that has not started: tiles of up wait for nothing.
// What a tile has beyond the end of k comes as zeros; what it has beyond a slot's outputs is not written. A row's sums run over k in steps of 16 in order,
// whatever the tile: its bits do not depend on the rows beside it. Agrees with gr_cpu_experts() up to the roundings of bf16.
#include "compute/cuda/experts.cuh"
#include "compute/cuda/hopper.cuh"
#include "compute/cuda/pdl.cuh"
#include "compute/cuda/wgmma.cuh"

namespace {

using namespace experts;

enum { WARPGROUP = 128, BK = GR_CUDA_BOX_COLUMNS, ROW_BYTES = 2 * BK };

// ---- the walk: tiles of up, then of down ----

template <int BN> __device__ __forceinline__ int32_t n_across_of(const product &p) { return (p.n_weight_rows + BN - 1) / BN; }

struct walk {
    const int32_t *tiles_before;        // [n_slots + 1], of rows
    int32_t up_across, down_across, n_up, n_all;
};

// This block's part of a tile that PEERS blocks share: whole groups of 64 rows, about alike.
template <int BM, int PEERS> __device__ __forceinline__ tile own_part(tile w) {
    if (PEERS == 1) return w;
    int32_t rank = hopper::cluster_rank(), each = (w.n_pairs + 64 * PEERS - 1) / (64 * PEERS) * 64, first = min(rank * each, w.n_pairs);
    w.row_tile = w.row_tile * PEERS + rank;
    w.first_pair += first;
    w.n_pairs = min(w.n_pairs - first, each);
    return w;
}

template <int BN> __device__ walk walk_of(const product &up, const product &down, const int32_t *tiles_before) {
    int32_t n_rows = tiles_before[up.pairs.n_slots], up_across = n_across_of<BN>(up), down_across = n_across_of<BN>(down);
    return {tiles_before, up_across, down_across, n_rows * up_across, n_rows * (up_across + down_across)};
}

// ---- the ring ----

// A piece of the ring, and how often the ring went round.
struct ring_place { int32_t stage, parity; };
template <int STAGES> __device__ __forceinline__ void advance(ring_place &r) {
    if (++r.stage == STAGES) r.stage = 0, r.parity ^= 1;
}

template <int BM, int BN, int STAGES, int PEERS> struct ring {
    static const int32_t A_BYTES = BM * ROW_BYTES, B_BYTES = BN * ROW_BYTES, BYTES = STAGES * (A_BYTES + B_BYTES);
    static const int32_t ARRIVALS = WARPGROUP + 1;      // on full: every producer, and once more the one that asks for weights
    char *data;
    uint64_t *full, *empty;
    __device__ char *a(int32_t stage) const { return data + stage * (A_BYTES + B_BYTES); }
    __device__ char *b(int32_t stage) const { return a(stage) + A_BYTES; }
};

// ---- producers ----

template <int BM, int BN, int STAGES, int PEERS>
__device__ __forceinline__ void ask_weights(const product &p, const ring<BM, BN, STAGES, PEERS> &r, const CUtensorMap *map, const tile &w, int32_t stage, int32_t k) {
    const int32_t first = w.slot * p.n_weight_rows + w.across * BN, own = hopper::cluster_rank() * (BN / PEERS);
    hopper::arrive_expecting(&r.full[stage], r.B_BYTES);
    for (int i = 0; i < BN / PEERS; i += GR_CUDA_WEIGHT_BOX_ROWS)
        if (PEERS == 1) hopper::copy_box(r.b(stage) + i * ROW_BYTES, map, k, first + i, &r.full[stage]);
        else hopper::copy_box_to_peers(r.b(stage) + (own + i) * ROW_BYTES, map, k, first + own + i, &r.full[stage], (1 << PEERS) - 1);
}

// All gather rows, 16 bytes a thread: eight threads a row, placed as the swizzle wants them; the first thread asks for the weights.
template <int BM, int BN, int STAGES, int PEERS>
__device__ void produce_up(const product &p, const ring<BM, BN, STAGES, PEERS> &r, const CUtensorMap *weights, const tile &w, ring_place &at) {
    const int32_t ROWS = BM / 16, thread = threadIdx.x, chunk = thread % 8, row = thread / 8;
    const uint32_t place = row * ROW_BYTES + ((chunk ^ row % 8) << 4);      // rows 16 apart swizzle alike
    int32_t source[ROWS];
    for (int i = 0; i < ROWS; i++) source[i] = row + 16 * i < w.n_pairs ? p.pairs.row(w.first_pair + row + 16 * i) : -1;
    for (int32_t k = 0; k < p.k; k += BK) {
        hopper::wait(&r.empty[at.stage], at.parity);
        if (thread == 0) ask_weights(p, r, weights, w, at.stage, k);
        uint32_t to = hopper::shared_address(r.a(at.stage)) + place;
        bool inside = k + chunk * 8 < p.k;
        for (int i = 0; i < ROWS && 16 * i < w.n_pairs; i++)
            hopper::copy_16(to + i * 16 * ROW_BYTES, p.in + (int64_t)max(source[i], 0) * p.k + (inside ? k + chunk * 8 : 0), inside && source[i] >= 0);
        hopper::arrive_after_copies(&r.full[at.stage]);
        advance<STAGES>(at);
    }
}

// Waits until a tile of rows has been written whole; of the n_readers the last leaves the counter at zero for the next run.
__device__ void await_rows(int32_t *written, int32_t n_expected, int32_t n_readers) {
    for (int64_t patience = (int64_t)1 << 26; hopper::load_acquire(written) < n_expected; patience--) {
        __nanosleep(32);
        if (patience == 0) __trap();        // seconds: a block died
    }
    if (atomicAdd(written, 1) == n_expected + n_readers - 1) atomicExch(written, 0);
    hopper::publish_all();                  // what others stored is visible to this thread, and from here to the copy engine
}

// Thread 0 asks for weights and never waits for act; the second warp's first thread asks for rows of act, as many groups of 64 as exist.
template <int BM, int BN, int STAGES, int PEERS>
__device__ void produce_down(const product &p, const ring<BM, BN, STAGES, PEERS> &r, const CUtensorMap *rows, const CUtensorMap *weights, const walk &all,
                             int32_t *written, const tile &w, ring_place &at) {
    int32_t n_groups = (w.n_pairs + 63) / 64;
    for (int32_t k = 0; k < p.k; k += BK) {
        hopper::wait(&r.empty[at.stage], at.parity);
        if (threadIdx.x == 32) {
            if (k == 0) await_rows(written + w.row_tile, n_groups * all.up_across, all.down_across);
            hopper::arrive_expecting(&r.full[at.stage], n_groups * 64 * ROW_BYTES);
            for (int32_t g = 0; g < n_groups; g++)
                hopper::copy_box(r.a(at.stage) + g * 64 * ROW_BYTES, rows, k, w.first_pair + 64 * g, &r.full[at.stage]);
        } else {
            if (threadIdx.x == 0) ask_weights(p, r, weights, w, at.stage, k);
            hopper::arrive(&r.full[at.stage]);
        }
        advance<STAGES>(at);
    }
}

// ---- consumers ----

// A warp has read a stage: here, and of what peers sent.
template <int PEERS> __device__ __forceinline__ void give_back(uint64_t *empty) {
    int32_t lane = threadIdx.x % 32;
    if (PEERS == 1 && lane == 0) hopper::arrive(empty);
    if (PEERS > 1 && lane < PEERS) hopper::arrive_at(empty, lane);
}

// The warpgroup's 64 x BN sums go out as bf16, 16 bytes a thread; with SWIGLU each 128 columns are 64 of gate and the same 64 of up.
template <int BN, bool SWIGLU> __device__ void write_tile(const product &p, const tile &w, int32_t first_row, const float (&d)[BN / 2]) {
    const int BLOCKS = SWIGLU ? BN / 16 : BN / 8;       // of eight columns written
    int32_t thread = threadIdx.x % WARPGROUP, warp_row = first_row + thread / 32 * 16, row = warp_row + thread % 32 / 4;
    int32_t column = w.across * (SWIGLU ? BN / 2 : BN) + thread % 4 * 8;
    bf16 *out = p.out + (int64_t)(w.first_pair + row) * p.n_out + column;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        if (warp_row + 8 * half >= w.n_pairs) break;        /* none of the warp's */
        bool exists = row + 8 * half < w.n_pairs;
#pragma unroll
        for (int block = 0; block < BLOCKS; block += 4) {
            uint32_t v[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int from = SWIGLU ? (block + i) / 8 * 16 + (block + i) % 8 : block + i, at = 4 * from + 2 * half, up = SWIGLU ? at + 32 : at;
                v[i] = SWIGLU ? pack_two(swiglu(d[at], d[up], 0), swiglu(d[at + 1], d[up + 1], 0)) : pack_two(d[at], d[at + 1]);
            }
            transpose_quad(v);
            if (exists && column + block * 8 < p.n_out)
                *reinterpret_cast<uint4 *>(out + (int64_t)8 * half * p.n_out + block * 8) = make_uint4(v[0], v[1], v[2], v[3]);
        }
    }
}

template <int STAGES> struct consumer {
    int32_t group;
    ring_place at, done;        // next piece to multiply, next to give back
    int32_t *owed;              // a counter of written rows that this group still has to tell; NULL: none
};

// The group's stores are done and seen by all who acquire the counter.
template <int STAGES> __device__ void tell_written(consumer<STAGES> &c) {
    if (!c.owed) return;
    hopper::publish_all();
    hopper::group_sync(1 + c.group, WARPGROUP);
    if (threadIdx.x % WARPGROUP == 0) hopper::add_release(c.owed, 1);
    c.owed = nullptr;
}

// d = the group's 64 rows of the tile times its weights. What the tile before owes is told under the products: a fence waits for its stores.
template <int BM, int BN, int STAGES, int PEERS, bool UP>
__device__ __forceinline__ void multiply(const product &p, const ring<BM, BN, STAGES, PEERS> &r, consumer<STAGES> &c, float (&d)[BN / 2]) {
    const int32_t n_pieces = (p.k + BK - 1) / BK, tell_at = min(4, n_pieces - 1);
    for (int32_t i = 0; i < n_pieces; i++) {
        hopper::wait(&r.full[c.at.stage], c.at.parity);
        if (UP) hopper::publish_shared();
        uint64_t a = wgmma::descriptor(hopper::shared_address(r.a(c.at.stage)) + c.group * 64 * ROW_BYTES);
        uint64_t b = wgmma::descriptor(hopper::shared_address(r.b(c.at.stage)));
        wgmma::fence();
#pragma unroll
        for (int step = 0; step < BK / 16; step++) wgmma::mma<BN>(d, a + 2 * step, b + 2 * step, i > 0 || step > 0);
        wgmma::commit();
        advance<STAGES>(c.at);
        if (UP && i == tell_at) tell_written(c);
        if (i == 0) continue;
        wgmma::wait<1>();               // the piece before is read: its place is free
        give_back<PEERS>(&r.empty[c.done.stage]);
        advance<STAGES>(c.done);
    }
    wgmma::wait<0>();
    give_back<PEERS>(&r.empty[c.done.stage]);
    advance<STAGES>(c.done);
}

// None of the tile's rows are this group's: the others get the tensor cores.
template <int BM, int BN, int STAGES, int PEERS> __device__ void pass(const product &p, const ring<BM, BN, STAGES, PEERS> &r, consumer<STAGES> &c) {
    tell_written(c);
    for (int32_t k = 0; k < p.k; k += BK) {
        hopper::wait(&r.full[c.at.stage], c.at.parity);
        give_back<PEERS>(&r.empty[c.at.stage]);
        advance<STAGES>(c.at);
    }
    c.done = c.at;
}

template <int BM, int BN, int STAGES, int PEERS, bool UP>
__device__ __forceinline__ void consume(const product &p, const ring<BM, BN, STAGES, PEERS> &r, consumer<STAGES> &c, const tile &w, int32_t *written) {
    if (w.n_pairs <= c.group * 64) return pass(p, r, c);
    float d[BN / 2];
    multiply<BM, BN, STAGES, PEERS, UP>(p, r, c, d);
    write_tile<BN, UP>(p, w, c.group * 64, d);
    if (UP) c.owed = written + w.row_tile;
}

// ---- the kernel: as many blocks as the device has processors. Shared: the ring, its barriers, tiles_before ----

template <int BM, int BN, int STAGES, int PEERS>
__global__ __launch_bounds__(WARPGROUP *(1 + BM / 64), 1) void both_products(const __grid_constant__ CUtensorMap up_weights,
                                                                             const __grid_constant__ CUtensorMap act, const __grid_constant__ CUtensorMap
                                                                             down_weights, product up, product down, int32_t *written) {
    extern __shared__ char shared_raw[];
    __shared__ uint64_t full[STAGES], empty[STAGES];
    __shared__ int32_t tiles_before[GR_CUDA_SLOTS_MAX + 1];
    const int32_t GROUPS = BM / 64, group = (int32_t)threadIdx.x / WARPGROUP - 1;
    ring<BM, BN, STAGES, PEERS> r = {shared_raw + (-hopper::shared_address(shared_raw) & 1023), full, empty};
    pdl::release_next();
    if (threadIdx.x == 32) {
        for (int i = 0; i < STAGES; i++) hopper::barrier_init(&full[i], r.ARRIVALS), hopper::barrier_init(&empty[i], 4 * GROUPS * PEERS);
        hopper::barrier_init_done();
    }
    pdl::wait();
    if (threadIdx.x < 32) count_tiles<BM * PEERS>(up.pairs, tiles_before);
    if (PEERS == 1) __syncthreads();        // tiles and barriers are there
    else hopper::cluster_sync();            // in every block of the cluster
    const walk all = walk_of<BN>(up, down, tiles_before);
    if (group < 0) {
        if (GROUPS > 1) hopper::registers_give<56>();
        ring_place at = {0, 1};
        for (int32_t t = blockIdx.x / PEERS; t < all.n_all; t += gridDim.x / PEERS)
            if (t < all.n_up) produce_up(up, r, &up_weights, own_part<BM, PEERS>(tile_at<BM * PEERS>(up.pairs, tiles_before, all.up_across, t)), at);
            else produce_down(down, r, &act, &down_weights, all, written, own_part<BM, PEERS>(tile_at<BM * PEERS>(up.pairs, tiles_before, all.down_across, t - all.n_up)), at);
    } else {
        if (GROUPS > 1) hopper::registers_take<224>();
        consumer<STAGES> c = {group, {0, 0}, {0, 0}, nullptr};
        if (group > 0 && (int32_t)blockIdx.x / PEERS < all.n_all)       // groups out of step: one writes its tile while the other multiplies
            hopper::wait(&full[min(STAGES / 2, (min(up.k, down.k) + BK - 1) / BK - 1)], 0);
        for (int32_t t = blockIdx.x / PEERS; t < all.n_all; t += gridDim.x / PEERS) {
            if (t < all.n_up) consume<BM, BN, STAGES, PEERS, true>(up, r, c, own_part<BM, PEERS>(tile_at<BM * PEERS>(up.pairs, tiles_before, all.up_across, t)), written);
            else consume<BM, BN, STAGES, PEERS, false>(down, r, c, own_part<BM, PEERS>(tile_at<BM * PEERS>(up.pairs, tiles_before, all.down_across, t - all.n_up)), written);
            if (t + (int32_t)gridDim.x / PEERS >= all.n_up) tell_written(c);     // tiles of down wait for it, maybe this block's next
        }
    }
    __syncwarp();
    if (PEERS > 1) hopper::cluster_sync();      // nobody leaves while a peer may still send to it or give back
}

template <int BM, int BN, int STAGES, int PEERS>
grace_status launch(const gr_cuda_experts *e, const gr_cuda_pairs *pairs, const void *rows, void *y, cudaStream_t stream) {
    const int bytes = ring<BM, BN, STAGES, PEERS>::BYTES + 1024;
    auto kernel = both_products<BM, BN, STAGES, PEERS>;
    static bool ready = false;
    if (!ready) {
        grace_status st = gr_cuda_status(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "shared memory of both_products");
        if (st) return st;
        ready = true;
    }
    cudaLaunchAttribute attributes[2] = {};
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = PEERS, attributes[1].val.clusterDim.y = attributes[1].val.clusterDim.z = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = e->n_processors / PEERS * PEERS, config.blockDim = WARPGROUP * (1 + BM / 64), config.dynamicSmemBytes = bytes, config.stream = stream;
    config.attrs = attributes, config.numAttrs = PEERS > 1 ? 2 : 1;
    return gr_cuda_status(cudaLaunchKernelEx(&config, kernel, e->up_boxes, e->act_boxes, e->down_boxes, up_product(e, pairs, rows), down_product(e, pairs, y),
                                             e->written), "both_products");
}

}  // namespace

extern "C" grace_status gr_cuda_experts_fused(const gr_cuda_experts *e, const gr_cuda_pairs *pairs, const void *rows, void *y, int which, cudaStream_t stream) {
    if (which == 0) return launch<64, 128, 8, 1>(e, pairs, rows, y, stream);
    if (which == 1) return launch<128, 256, 4, 1>(e, pairs, rows, y, stream);
    return launch<128, 256, 4, 2>(e, pairs, rows, y, stream);
}
