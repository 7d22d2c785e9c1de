// Experts over pairs grouped by slot, as two grouped matrix products whose sizes are read on the device.
//
//     up     act[p]  = silu(gate x) * (up x)   x = rows[row_of_pair[p]]; gathered by threads, weights by the copy engine
//     down   y[p]    = down act[p]             both by the copy engine
//
// A block is one producer warpgroup and BM / 64 consumer warpgroups over a ring of STAGES pieces of K = 64. Blocks stay and walk the list of tiles;
// producers run ahead over the ends of tiles, so weights stream while a tile is written, and everybody looks up the next tile under this one's pieces.
// What a tile has beyond the end of k comes as zeros; rows that do not exist are anything and not written, nor is what is beyond a slot's outputs.
// A row's sums run over k in steps of 16 in order, whatever the tile: its bits do not depend on the rows beside it. Agrees with gr_cpu_experts() up to the
// roundings of bf16.
#include "compute/cuda/experts_hopper.cuh"
#include "compute/cuda/pdl.cuh"

namespace {

using namespace experts;

// Few rows a slot: memory is the limit, so many pieces are on their way. Many: arithmetic is, and what the cache delivers.
struct small_tiles { static const int BM = 64, BN = 128, STAGES = 8; };
struct large_tiles { static const int BM = 128, BN = 256, STAGES = 4; };

// ---- the walk ----

struct walk { const int32_t *tiles_before; int32_t n_across, n_tiles, n_pieces; };

template <class S> __device__ walk walk_of(const product &p, const int32_t *tiles_before) {
    const int32_t n_across = (p.n_weight_rows + S::BN - 1) / S::BN;
    return {tiles_before, n_across, tiles_before[p.pairs.n_slots] * n_across, (p.k + BK - 1) / BK};
}

template <class S> __device__ __forceinline__ tile tile_of(const product &p, const walk &all, int32_t t) {
    return tile_at<S::BM>(p.pairs, all.tiles_before, all.n_across, t);
}

// ---- the ring ----

template <class S> struct ring {
    static const int32_t A_BYTES = S::BM * ROW_BYTES, B_BYTES = S::BN * ROW_BYTES, BYTES = S::STAGES * (A_BYTES + B_BYTES);
    char *data;
    uint64_t *full, *empty;
    __device__ char *a(int32_t stage) const { return data + stage * (A_BYTES + B_BYTES); }
    __device__ char *b(int32_t stage) const { return a(stage) + A_BYTES; }
};

// ---- producers ----

// A tile's weights; `bytes` more are expected for the same piece.
template <class S>
__device__ __forceinline__ void ask_weights(const product &p, const ring<S> &r, const CUtensorMap *map, const tile &w, int32_t stage, int32_t k,
                                            int32_t bytes) {
    const int32_t first = w.slot * p.n_weight_rows + w.across * S::BN;
    hopper::arrive_expecting(&r.full[stage], r.B_BYTES + bytes);
    for (int i = 0; i < S::BN; i += GR_CUDA_WEIGHT_BOX_ROWS) hopper::copy_box(r.b(stage) + i * ROW_BYTES, map, k, first + i, &r.full[stage]);
}

// One thread feeds both operands; of the rows as many groups as exist.
template <class S> __device__ void produce_boxes(const product &p, const ring<S> &r, const CUtensorMap *rows, const CUtensorMap *weights, const walk &all) {
    ring_place at = {0, 1};
    tile w, next;
    if ((int32_t)blockIdx.x < all.n_tiles) w = tile_of<S>(p, all, (int32_t)blockIdx.x);
    for (int32_t t = blockIdx.x; t < all.n_tiles; t += gridDim.x, w = next) {
        int32_t n_groups = (w.n_pairs + GROUP_ROWS - 1) / GROUP_ROWS;
        for (int32_t i = 0; i < all.n_pieces; i++) {
            hopper::wait(&r.empty[at.stage], at.parity);
            ask_weights(p, r, weights, w, at.stage, i * BK, n_groups * GROUP_ROWS * ROW_BYTES);
            for (int32_t g = 0; g < n_groups; g++)
                hopper::copy_box(r.a(at.stage) + g * GROUP_ROWS * ROW_BYTES, rows, i * BK, w.first_pair + GROUP_ROWS * g, &r.full[at.stage]);
            advance<S::STAGES>(at);
            if (i == 0 && t + gridDim.x < all.n_tiles) next = tile_of<S>(p, all, t + gridDim.x);
        }
    }
}

template <class S> __device__ void produce_gathered(const product &p, const ring<S> &r, const CUtensorMap *weights, const walk &all) {
    typedef gather<S::BM> G;
    const int32_t row = threadIdx.x / 8, chunk = threadIdx.x % 8;
    const uint32_t place = row * ROW_BYTES + ((chunk ^ row % 8) << 4);
    ring_place at = {0, 1};
    G next;
    if ((int32_t)blockIdx.x < all.n_tiles) next.aim(p, tile_of<S>(p, all, blockIdx.x));
    for (int32_t t = blockIdx.x; t < all.n_tiles; t += gridDim.x) {
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
            advance<S::STAGES>(at);
            if (i == 0 && t + gridDim.x < all.n_tiles) next.aim(p, tile_of<S>(p, all, t + gridDim.x));
        }
    }
}

// ---- consumers ----

// None of a tile's rows are this group's: the others get the tensor cores.
template <class S> __device__ void pass(const ring<S> &r, int32_t n_pieces, ring_place &at) {
    for (int32_t i = 0; i < n_pieces; i++) {
        hopper::wait(&r.full[at.stage], at.parity);
        give_back(&r.empty[at.stage]);
        advance<S::STAGES>(at);
    }
}

template <class S, bool UP> __device__ void consume(const product &p, const ring<S> &r, const walk &all, int32_t group) {
    ring_place at = {0, 0}, done = {0, 0};
    tile w, next;
    if ((int32_t)blockIdx.x < all.n_tiles) w = next = tile_of<S>(p, all, (int32_t)blockIdx.x);
    for (int32_t t = blockIdx.x; t < all.n_tiles; t += gridDim.x, w = next) {
        const bool goes_on = t + gridDim.x < all.n_tiles;
        if (w.n_pairs <= group * GROUP_ROWS) {
            if (goes_on) next = tile_of<S>(p, all, t + gridDim.x);
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
            advance<S::STAGES>(at);
            if (i == 0) {
                if (goes_on) next = tile_of<S>(p, all, t + gridDim.x);
                continue;
            }
            wgmma::wait<1>();               // the piece before is read: its place is free
            give_back(&r.empty[done.stage]);
            advance<S::STAGES>(done);
        }
        wgmma::wait<0>();
        give_back(&r.empty[done.stage]);
        advance<S::STAGES>(done);
        write_group<S::BN, UP>(p, w, group * GROUP_ROWS, d);
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
            hopper::barrier_init(&empty[i], 4 * GROUPS);
        }
        hopper::barrier_init_done();
    }
    pdl::wait();
    if (threadIdx.x < 32) count_tiles<S::BM>(p.pairs, tiles_before);
    __syncthreads();        // tiles and barriers are there
    const walk all = walk_of<S>(p, tiles_before);
    if (group < 0) {
        if (GROUPS > 1) hopper::registers_give<PRODUCER_REGISTERS>();
        if constexpr (UP) produce_gathered<S>(p, r, &weights, all);
        else if (threadIdx.x == 0) produce_boxes<S>(p, r, &rows, &weights, all);
    } else {
        if (GROUPS > 1) hopper::registers_take<CONSUMER_REGISTERS>();
        if (group > 0 && (int32_t)blockIdx.x < all.n_tiles)       // groups out of step: one writes its tile while the other multiplies
            hopper::wait(&full[min(S::STAGES / 2, all.n_pieces - 1)], 0);
        consume<S, UP>(p, r, all, group);
    }
}

// ---- launchers ----

template <class S, bool UP>
grace_status launch(const CUtensorMap &rows, const CUtensorMap &weights, const product &p, int32_t n_processors, cudaStream_t stream) {
    const int bytes = ring<S>::BYTES + 1024;
    auto kernel = grouped_product<S, UP>;
    static bool ready_on[GR_CUDA_DEVICES_MAX];
    bool &ready = ready_on[gr_cuda_device()];
    if (!ready) {
        grace_status st = gr_cuda_status(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "shared memory of grouped_product");
        if (st) return st;
        ready = true;
    }
    pdl::launch(kernel, n_processors, n_threads<S>(), bytes, stream, S::BM == GROUP_ROWS, rows, weights, p);
    return gr_cuda_status(cudaGetLastError(), "grouped_product");
}

template <class S> grace_status run(const gr_cuda_experts *e, const product &up, const product &down, cudaStream_t stream) {
    grace_status st = launch<S, true>(e->up_boxes, e->up_boxes, up, e->n_processors, stream);
    return st ? st : launch<S, false>(e->act_boxes, e->down_boxes, down, e->n_processors, stream);
}

}  // namespace

extern "C" grace_status gr_cuda_experts_hopper(const gr_cuda_experts *e, const gr_cuda_pairs *pairs, const void *rows, void *y, gr_cuda_tiles tiles,
                                               cudaStream_t stream) {
    const product up = up_product(e, pairs, rows), down = down_product(e, pairs, y);
    if (tiles > GR_CUDA_TILES_LARGE) return gr_cuda_experts_many(e, pairs, rows, y, tiles, stream);
    return tiles == GR_CUDA_TILES_SMALL ? run<small_tiles>(e, up, down, stream) : run<large_tiles>(e, up, down, stream);
}
