// Experts over pairs grouped by slot, as two grouped matrix products whose sizes are read on the device.
//
//     up     act[p]  = silu(gate x) * (up x)   x = rows[row_of_pair[p]]; gathered by threads, weights by the copy engine
//     down   y[p]    = down act[p]             both by the copy engine
//
// A block is one producer warpgroup and BM / 64 consumer warpgroups over a ring of STAGES pieces of K = 64. Blocks stay and walk the list of tiles;
// producers run ahead over the ends of tiles, so weights stream while a tile is written, and everybody looks up the next tile under this one's pieces.
// PEERS blocks of a cluster share a tile of PEERS * BM rows in whole groups of 64, and each fetches its part of the tile's weights for all of them.
// What a tile has beyond the end of k comes as zeros; rows that do not exist are anything and not written, nor is what is beyond a slot's outputs.
// A row's sums run over k in steps of 16 in order, whatever the tile: its bits do not depend on the rows beside it. Agrees with gr_cpu_experts() up to the
// roundings of bf16.
#include "compute/cuda/experts.cuh"
#include "compute/cuda/hopper.cuh"
#include "compute/cuda/pdl.cuh"
#include "compute/cuda/wgmma.cuh"

namespace {

using namespace experts;

enum { WARPGROUP = 128, BK = GR_CUDA_BOX_COLUMNS, ROW_BYTES = 2 * BK, GROUP_ROWS = 64 };
enum { PRODUCER_REGISTERS = 56, CONSUMER_REGISTERS = 224 };     // of two consumer groups; one needs no more than it starts with

// Few rows a slot: memory is the limit, so many pieces are on their way. Many: arithmetic is, and what the cache delivers; pairs ask it for half the weights.
struct small_tiles { static const int BM = 64, BN = 128, STAGES = 8, PEERS = 1; };
struct large_tiles { static const int BM = 128, BN = 256, STAGES = 4, PEERS = 1; };
struct paired_tiles { static const int BM = 128, BN = 256, STAGES = 4, PEERS = 2; };

// ---- the walk ----

struct walk { const int32_t *tiles_before; int32_t n_across, n_tiles, first, apart, n_pieces; };

template <class S> __device__ walk walk_of(const product &p, const int32_t *tiles_before) {
    const int32_t n_across = (p.n_weight_rows + S::BN - 1) / S::BN, first = blockIdx.x / S::PEERS, apart = gridDim.x / S::PEERS;
    return {tiles_before, n_across, tiles_before[p.pairs.n_slots] * n_across, first, apart, (p.k + BK - 1) / BK};
}

// This block's part of tile t: peers get whole groups of rows, about alike.
template <class S> __device__ tile tile_of(const product &p, const walk &all, int32_t t) {
    tile w = tile_at<S::BM * S::PEERS>(p.pairs, all.tiles_before, all.n_across, t);
    if (S::PEERS > 1) {
        const int32_t step = GROUP_ROWS * S::PEERS, each = (w.n_pairs + step - 1) / step * GROUP_ROWS;
        const int32_t first = min((int32_t)hopper::cluster_rank() * each, w.n_pairs);
        w.first_pair += first, w.n_pairs = min(w.n_pairs - first, each);
    }
    return w;
}

// ---- the ring ----

// A piece of the ring, and how often the ring went round.
struct ring_place { int32_t stage, parity; };
template <class S> __device__ __forceinline__ void advance(ring_place &r) {
    if (++r.stage == S::STAGES) r.stage = 0, r.parity ^= 1;
}

template <class S> struct ring {
    static const int32_t A_BYTES = S::BM * ROW_BYTES, B_BYTES = S::BN * ROW_BYTES, BYTES = S::STAGES * (A_BYTES + B_BYTES);
    char *data;
    uint64_t *full, *empty;
    __device__ char *a(int32_t stage) const { return data + stage * (A_BYTES + B_BYTES); }
    __device__ char *b(int32_t stage) const { return a(stage) + A_BYTES; }
};

// ---- producers ----

// This block's share of a tile's weights, to all peers; `bytes` more are expected for the same piece.
template <class S>
__device__ __forceinline__ void ask_weights(const product &p, const ring<S> &r, const CUtensorMap *map, const tile &w, int32_t stage, int32_t k,
                                            int32_t bytes) {
    const int32_t first = w.slot * p.n_weight_rows + w.across * S::BN, own = S::PEERS > 1 ? hopper::cluster_rank() * (S::BN / S::PEERS) : 0;
    hopper::arrive_expecting(&r.full[stage], r.B_BYTES + bytes);
    for (int i = own; i < own + S::BN / S::PEERS; i += GR_CUDA_WEIGHT_BOX_ROWS)
        if (S::PEERS == 1) hopper::copy_box(r.b(stage) + i * ROW_BYTES, map, k, first + i, &r.full[stage]);
        else hopper::copy_box_to_peers(r.b(stage) + i * ROW_BYTES, map, k, first + i, &r.full[stage], (1 << S::PEERS) - 1);
}

// One thread feeds both operands; of the rows as many groups as exist.
template <class S> __device__ void produce_boxes(const product &p, const ring<S> &r, const CUtensorMap *rows, const CUtensorMap *weights, const walk &all) {
    ring_place at = {0, 1};
    tile w, next;
    if (all.first < all.n_tiles) w = tile_of<S>(p, all, all.first);
    for (int32_t t = all.first; t < all.n_tiles; t += all.apart, w = next) {
        int32_t n_groups = (w.n_pairs + GROUP_ROWS - 1) / GROUP_ROWS;
        for (int32_t i = 0; i < all.n_pieces; i++) {
            hopper::wait(&r.empty[at.stage], at.parity);
            ask_weights(p, r, weights, w, at.stage, i * BK, n_groups * GROUP_ROWS * ROW_BYTES);
            for (int32_t g = 0; g < n_groups; g++)
                hopper::copy_box(r.a(at.stage) + g * GROUP_ROWS * ROW_BYTES, rows, i * BK, w.first_pair + GROUP_ROWS * g, &r.full[at.stage]);
            advance<S>(at);
            if (i == 0 && t + all.apart < all.n_tiles) next = tile_of<S>(p, all, t + all.apart);
        }
    }
}

// A warpgroup gathers rows, 16 bytes a thread: eight threads a row, placed as the swizzle wants them; its first thread asks for the weights.
template <class S> struct gather {
    static const int APART = WARPGROUP / 8, TURNS = S::BM / APART;      // rows APART apart swizzle alike
    tile w;
    int32_t source[TURNS];
    __device__ void aim(const product &p, const walk &all, int32_t t) {
        if (t >= all.n_tiles) return;
        w = tile_of<S>(p, all, t);
#pragma unroll
        for (int i = 0; i < TURNS; i++) {
            int32_t row = threadIdx.x / 8 + APART * i;
            source[i] = row < w.n_pairs ? p.pairs.row(w.first_pair + row) : 0;
        }
    }
};

template <class S> __device__ void produce_gathered(const product &p, const ring<S> &r, const CUtensorMap *weights, const walk &all) {
    typedef gather<S> G;
    const int32_t row = threadIdx.x / 8, chunk = threadIdx.x % 8;
    const uint32_t place = row * ROW_BYTES + ((chunk ^ row % 8) << 4);
    ring_place at = {0, 1};
    G next;
    next.aim(p, all, all.first);
    for (int32_t t = all.first; t < all.n_tiles; t += all.apart) {
        const tile w = next.w;
        const bf16 *from[G::TURNS];
#pragma unroll
        for (int i = 0; i < G::TURNS; i++) from[i] = p.in + (int64_t)next.source[i] * p.k + chunk * 8;
        for (int32_t i = 0; i < all.n_pieces; i++) {
            hopper::wait(&r.empty[at.stage], at.parity);
            if (threadIdx.x == 0) ask_weights(p, r, weights, w, at.stage, i * BK, 0);
            const uint32_t to = hopper::shared_address(r.a(at.stage)) + place;
            const bool inside = i * BK + chunk * 8 < p.k;
#pragma unroll
            for (int turn = 0; turn < G::TURNS; turn++) {
                if (row + G::APART * turn < w.n_pairs) hopper::copy_16(to + turn * G::APART * ROW_BYTES, from[turn], inside);
                from[turn] += BK;
            }
            hopper::arrive_after_copies(&r.full[at.stage]);
            advance<S>(at);
            if (i == 0) next.aim(p, all, t + all.apart);
        }
    }
}

// ---- consumers ----

// The warpgroup's 64 x BN sums go out as bf16, 16 bytes a thread; with UP each 128 columns are 64 of gate and the same 64 of up.
template <class S, bool UP> __device__ void write_tile(const product &p, const tile &w, int32_t first_row, const float (&d)[S::BN / 2]) {
    const int BLOCKS = UP ? S::BN / 16 : S::BN / 8;       // of eight columns written
    int32_t thread = threadIdx.x % WARPGROUP, warp_row = first_row + thread / 32 * 16, row = warp_row + thread % 32 / 4;
    int32_t column = w.across * (UP ? S::BN / 2 : S::BN) + thread % 4 * 8;
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
                const int from = UP ? (block + i) / 8 * 16 + (block + i) % 8 : block + i, at = 4 * from + 2 * half, up = UP ? at + 32 : at;
                v[i] = UP ? pack_two(swiglu(d[at], d[up], 0), swiglu(d[at + 1], d[up + 1], 0)) : pack_two(d[at], d[at + 1]);
            }
            transpose_quad(v);
            if (exists && column + block * 8 < p.n_out)
                *reinterpret_cast<uint4 *>(out + (int64_t)8 * half * p.n_out + block * 8) = make_uint4(v[0], v[1], v[2], v[3]);
        }
    }
}

// A warp has read a stage: here, and of what its peers sent.
template <class S> __device__ __forceinline__ void give_back(uint64_t *empty) {
    const int32_t lane = threadIdx.x % 32;
    if (S::PEERS == 1 && lane == 0) hopper::arrive(empty);
    if (S::PEERS > 1 && lane < S::PEERS) hopper::arrive_at(empty, lane);
}

// None of a tile's rows are this group's: the others get the tensor cores.
template <class S> __device__ void pass(const ring<S> &r, int32_t n_pieces, ring_place &at) {
    for (int32_t i = 0; i < n_pieces; i++) {
        hopper::wait(&r.full[at.stage], at.parity);
        give_back<S>(&r.empty[at.stage]);
        advance<S>(at);
    }
}

template <class S, bool UP> __device__ void consume(const product &p, const ring<S> &r, const walk &all, int32_t group) {
    ring_place at = {0, 0}, done = {0, 0};
    tile w, next;
    if (all.first < all.n_tiles) w = next = tile_of<S>(p, all, all.first);
    for (int32_t t = all.first; t < all.n_tiles; t += all.apart, w = next) {
        const bool goes_on = t + all.apart < all.n_tiles;
        if (w.n_pairs <= group * GROUP_ROWS) {
            if (goes_on) next = tile_of<S>(p, all, t + all.apart);
            pass(r, all.n_pieces, at);
            done = at;
            continue;
        }
        float d[S::BN / 2];
        for (int32_t i = 0; i < all.n_pieces; i++) {
            hopper::wait(&r.full[at.stage], at.parity);
            if (UP) hopper::publish_shared();
            uint64_t a = wgmma::descriptor(hopper::shared_address(r.a(at.stage)) + group * GROUP_ROWS * ROW_BYTES);
            uint64_t b = wgmma::descriptor(hopper::shared_address(r.b(at.stage)));
            wgmma::fence();
#pragma unroll
            for (int step = 0; step < BK / 16; step++) wgmma::mma<S::BN>(d, a + 2 * step, b + 2 * step, i > 0 || step > 0);
            wgmma::commit();
            advance<S>(at);
            if (i == 0) {
                if (goes_on) next = tile_of<S>(p, all, t + all.apart);
                continue;
            }
            wgmma::wait<1>();               // the piece before is read: its place is free
            give_back<S>(&r.empty[done.stage]);
            advance<S>(done);
        }
        wgmma::wait<0>();
        give_back<S>(&r.empty[done.stage]);
        advance<S>(done);
        write_tile<S, UP>(p, w, group * GROUP_ROWS, d);
    }
}

// ---- the kernel: as many blocks as the device has processors. Shared: the ring, its barriers, tiles_before ----

template <class S> constexpr int n_threads() { return WARPGROUP * (1 + S::BM / GROUP_ROWS); }

template <class S, bool UP>
__global__ __launch_bounds__(n_threads<S>(), 1) void grouped_product(const __grid_constant__ CUtensorMap rows, const __grid_constant__ CUtensorMap weights,
                                                                     product p) {
    extern __shared__ char shared_raw[];
    __shared__ uint64_t full[S::STAGES], empty[S::STAGES];
    __shared__ int32_t tiles_before[GR_CUDA_SLOTS_MAX + 1];
    const int32_t GROUPS = S::BM / GROUP_ROWS, group = (int32_t)threadIdx.x / WARPGROUP - 1;
    const ring<S> r = {shared_raw + (-hopper::shared_address(shared_raw) & 1023), full, empty};
    pdl::release_next();
    if (threadIdx.x == 32) {
        for (int i = 0; i < S::STAGES; i++) {
            hopper::barrier_init(&full[i], UP ? WARPGROUP + 1 : 1);
            hopper::barrier_init(&empty[i], 4 * GROUPS * S::PEERS);
        }
        hopper::barrier_init_done();
    }
    pdl::wait();
    if (threadIdx.x < 32) count_tiles<S::BM * S::PEERS>(p.pairs, tiles_before);
    __syncthreads();        // tiles and barriers are there
    if (S::PEERS > 1) hopper::cluster_sync();       // at the peers, too
    const walk all = walk_of<S>(p, tiles_before);
    if (group < 0) {
        if (GROUPS > 1) hopper::registers_give<PRODUCER_REGISTERS>();
        if constexpr (UP) produce_gathered<S>(p, r, &weights, all);
        else if (threadIdx.x == 0) produce_boxes<S>(p, r, &rows, &weights, all);
    } else {
        if (GROUPS > 1) hopper::registers_take<CONSUMER_REGISTERS>();
        if (group > 0 && all.first < all.n_tiles)       // groups out of step: one writes its tile while the other multiplies
            hopper::wait(&full[min(S::STAGES / 2, all.n_pieces - 1)], 0);
        consume<S, UP>(p, r, all, group);
    }
    __syncwarp();
    if (S::PEERS > 1) hopper::cluster_sync();       // nobody leaves while a peer may still send to it or give back
}

// ---- launchers ----

template <class S, bool UP>
grace_status launch(const CUtensorMap &rows, const CUtensorMap &weights, const product &p, int32_t n_processors, cudaStream_t stream) {
    const int bytes = ring<S>::BYTES + 1024;
    auto kernel = grouped_product<S, UP>;
    static bool ready = false;
    if (!ready) {
        grace_status st = gr_cuda_status(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "shared memory of grouped_product");
        if (st) return st;
        ready = true;
    }
    cudaLaunchAttribute attribute = {};     // pairs start together; small tiles may start under the end of the kernel before
    if (S::PEERS > 1) attribute.id = cudaLaunchAttributeClusterDimension, attribute.val.clusterDim = {S::PEERS, 1, 1};
    else attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization, attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = n_processors / S::PEERS * S::PEERS, config.blockDim = n_threads<S>(), config.dynamicSmemBytes = bytes, config.stream = stream;
    config.attrs = &attribute, config.numAttrs = S::PEERS > 1 || S::BM == GROUP_ROWS ? 1 : 0;
    return gr_cuda_status(cudaLaunchKernelEx(&config, kernel, rows, weights, p), "grouped_product");
}

template <class S> grace_status run(const gr_cuda_experts *e, const product &up, const product &down, cudaStream_t stream) {
    grace_status st = launch<S, true>(e->up_boxes, e->up_boxes, up, e->n_processors, stream);
    return st ? st : launch<S, false>(e->act_boxes, e->down_boxes, down, e->n_processors, stream);
}

}  // namespace

extern "C" grace_status gr_cuda_experts_hopper(const gr_cuda_experts *e, const gr_cuda_pairs *pairs, const void *rows, void *y, gr_cuda_tiles tiles,
                                               cudaStream_t stream) {
    const product up = up_product(e, pairs, rows), down = down_product(e, pairs, y);
    switch (tiles) {
    case GR_CUDA_TILES_SMALL: return run<small_tiles>(e, up, down, stream);
    case GR_CUDA_TILES_LARGE: return run<large_tiles>(e, up, down, stream);
    default: return run<paired_tiles>(e, up, down, stream);
    }
}
