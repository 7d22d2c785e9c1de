// Experts over pairs grouped by slot, as two grouped matrix products whose sizes are read on the device.
//
//     up     act[p]  = silu(gate x) * (up x)   x = rows[row_of_pair[p]]; gathered by threads, weights by the copy engine
//     down   y[p]    = down act[p]             both by the copy engine
//
// A block is one producer warpgroup and a consumer warpgroup for each 64 rows of a tile, over a ring of pieces of K = 64. Blocks stay. Tiles are handed out one
// by one, since slots are uneven: a block begins with the tile of its number, its producers claim the next ones and hand each to the consumers with its first
// piece, so they run ahead over the ends of tiles. The sums of a full group of 64 rows of a large tile leave through shared memory by the copy engine, under
// the next tile's products; others are written by their threads.
// What a tile has beyond the end of k comes as zeros; rows that do not exist are anything and not written, nor is what is beyond a slot's outputs.
// A row's sums run over k in steps of 16 in order, whatever the tile: its bits do not depend on the rows beside it. Agrees with gr_cpu_experts() up to the
// roundings of bf16.
#include "compute/cuda/experts.cuh"
#include "compute/cuda/hopper.cuh"
#include "compute/cuda/pdl.cuh"
#include "compute/cuda/wgmma.cuh"

namespace {

using namespace experts;

enum { WARPGROUP = 128, BK = GR_CUDA_BOX_COLUMNS, ROW_BYTES = 2 * BK, GROUP_ROWS = 64, GROUP_BYTES = GROUP_ROWS * ROW_BYTES };
enum { PRODUCER_REGISTERS = 56, CONSUMER_REGISTERS = 224 };     // of two consumer groups; one needs no more than it starts with
enum { MEET_PRODUCERS = 1, MEET_CONSUMERS };        // each group of consumers its own place

// All of a block's shared memory. `BOXES` of 64 columns a group holds ready for the copy engine at once; none: every group writes by its threads.
template <int ROWS, int OUTS, int PIECES, int BOXES> struct memory {
    static const int BM = ROWS, BN = OUTS, STAGES = PIECES, STAGED = BOXES, GROUPS = BM / GROUP_ROWS, THREADS = WARPGROUP * (1 + GROUPS);
    char a[STAGES][BM * ROW_BYTES], b[STAGES][BN * ROW_BYTES], staged[GROUPS][(BOXES ? BOXES : 1) * GROUP_BYTES];      // whole atoms of the swizzle
    tile handed[STAGES];                        // the tile whose first piece lies there; no pairs: there are no more
    uint64_t full[STAGES], empty[STAGES];
    int32_t claimed[2];
    int32_t first_pair[GR_CUDA_SLOTS_MAX + 1], tiles_before[GR_CUDA_SLOTS_MAX + 1];
};

// Few rows a slot: memory is the limit, so many pieces are on their way. Many: arithmetic is.
typedef memory<64, 128, 8, 0> small_tiles;
typedef memory<128, 256, 4, 2> large_tiles;

// A piece of the ring, and how often the ring went round.
struct ring_place { int32_t stage, parity; };
template <int STAGES> __device__ __forceinline__ void advance(ring_place &r) {
    if (++r.stage == STAGES) r.stage = 0, r.parity ^= 1;
}

// ---- the list of tiles ----

template <int BM> struct list {
    view pairs;                                 // first_pair in shared memory
    const int32_t *tiles_before;
    int32_t n_across, n_tiles, n_pieces;
    __device__ __forceinline__ tile at(int32_t t) const { return tile_at<BM>(pairs, tiles_before, n_across, t); }
};

template <class M> __device__ list<M::BM> list_of(const product &p, const M &m) {
    const int32_t n_across = (p.n_weight_rows + M::BN - 1) / M::BN;
    return {{m.first_pair, p.pairs.row_of_pair, p.pairs.n_slots, p.pairs.n_rows}, m.tiles_before, n_across, m.tiles_before[p.pairs.n_slots] * n_across,
            (p.k + BK - 1) / BK};
}

// ---- producers ----

__device__ __forceinline__ int32_t n_groups_of(const tile &w) { return (w.n_pairs + GROUP_ROWS - 1) / GROUP_ROWS; }

// The tile's weights, and the tile itself with its first piece; `bytes` more are expected for the same piece.
template <class M>
__device__ __forceinline__ void hand_piece(const product &p, M &m, const CUtensorMap *weights, const tile &w, int32_t stage, int32_t piece, int32_t bytes) {
    const int32_t first = w.slot * p.n_weight_rows + w.across * M::BN;
    if (piece == 0) m.handed[stage] = w;
    hopper::arrive_expecting(&m.full[stage], sizeof m.b[0] + bytes);
    for (int i = 0; i < M::BN; i += GR_CUDA_WEIGHT_BOX_ROWS) hopper::copy_box(m.b[stage] + i * ROW_BYTES, weights, piece * BK, first + i, &m.full[stage]);
}

// One thread feeds both operands; of the rows as many groups as exist. The weights of the first tile are asked for before the kernel in front has ended.
template <class M>
__device__ void produce_boxes(const product &p, M &m, const CUtensorMap *rows, const CUtensorMap *weights, const list<M::BM> &all, int32_t *own,
                              int32_t *other) {
    ring_place at = {0, 1};
    int32_t t = blockIdx.x, n_early = t < all.n_tiles ? min(M::STAGES, all.n_pieces) : 0;
    tile w, next;
    if (t < all.n_tiles) next = all.at(t);
    for (int32_t i = 0; i < n_early; i++) hand_piece(p, m, weights, next, i, i, n_groups_of(next) * GROUP_BYTES);
    pdl::wait();
    if (t == 0) *other = 0;
    while (t < all.n_tiles) {
        w = next;
        const int32_t claim = atomicAdd(own, 1), n_groups = n_groups_of(w);
        for (int32_t i = 0; i < all.n_pieces; i++, n_early--) {
            if (n_early <= 0) {
                hopper::wait(&m.empty[at.stage], at.parity);
                hand_piece(p, m, weights, w, at.stage, i, n_groups * GROUP_BYTES);
            }
            for (int32_t g = 0; g < n_groups; g++)
                hopper::copy_box(m.a[at.stage] + g * GROUP_BYTES, rows, i * BK, w.first_pair + GROUP_ROWS * g, &m.full[at.stage]);
            advance<M::STAGES>(at);
            if (i != all.n_pieces / 2) continue;
            t = gridDim.x + claim;
            if (t < all.n_tiles) next = all.at(t);
        }
    }
    hopper::wait(&m.empty[at.stage], at.parity);
    m.handed[at.stage] = {};
    hopper::arrive(&m.full[at.stage]);
}

// A warpgroup gathers rows, 16 bytes a thread: eight threads a row, placed as the swizzle wants them; its first thread asks for the weights.
template <int BM> struct gather {
    static const int APART = WARPGROUP / 8, TURNS = BM / APART;      // rows APART apart swizzle alike
    tile w;
    int32_t source[TURNS];
    __device__ void aim(const product &p, const tile &at) {
        w = at;
#pragma unroll
        for (int i = 0; i < TURNS; i++) {
            int32_t row = threadIdx.x / 8 + APART * i;
            source[i] = row < w.n_pairs ? p.pairs.row(w.first_pair + row) : 0;
        }
    }
};

template <class M> __device__ void produce_gathered(const product &p, M &m, const CUtensorMap *weights, const list<M::BM> &all, int32_t *own) {
    typedef gather<M::BM> G;
    const int32_t row = threadIdx.x / 8, chunk = threadIdx.x % 8;
    const uint32_t place = row * ROW_BYTES + ((chunk ^ row % 8) << 4);
    ring_place at = {0, 1};
    int32_t t = blockIdx.x, turn = 0, claim = 0;
    G next;
    if (t < all.n_tiles) next.aim(p, all.at(t));
    for (; t < all.n_tiles; turn ^= 1) {
        const tile w = next.w;
        const bf16 *from[G::TURNS];
#pragma unroll
        for (int i = 0; i < G::TURNS; i++) from[i] = p.in + (int64_t)next.source[i] * p.k + chunk * 8;
        if (threadIdx.x == 0) claim = atomicAdd(own, 1);
        for (int32_t i = 0; i < all.n_pieces; i++) {
            hopper::wait(&m.empty[at.stage], at.parity);
            if (threadIdx.x == 0) hand_piece(p, m, weights, w, at.stage, i, 0);
            const uint32_t to = hopper::shared_address(m.a[at.stage]) + place;
            const bool inside = i * BK + chunk * 8 < p.k;
#pragma unroll
            for (int j = 0; j < G::TURNS; j++) {
                if (row + G::APART * j < w.n_pairs) hopper::copy_16(to + j * G::APART * ROW_BYTES, from[j], inside);
                from[j] += BK;
            }
            hopper::arrive_after_copies(&m.full[at.stage]);
            advance<M::STAGES>(at);
            if (i != all.n_pieces / 2) continue;
            if (threadIdx.x == 0) m.claimed[turn] = gridDim.x + claim;
            hopper::meet(MEET_PRODUCERS, WARPGROUP);        // the claim is there; the one before is read by all
            t = m.claimed[turn];
            if (t < all.n_tiles) next.aim(p, all.at(t));
        }
    }
    hopper::wait(&m.empty[at.stage], at.parity);
    if (threadIdx.x == 0) {
        m.handed[at.stage] = {};
        hopper::arrive(&m.full[at.stage]);
    }
    hopper::arrive(&m.full[at.stage]);
}

// ---- consumers ----

// A warp has read a stage.
__device__ __forceinline__ void give_back(uint64_t *empty) {
    if (threadIdx.x % 32 == 0) hopper::arrive(empty);
}

// The warpgroup's 64 x BN sums go out as bf16, 16 bytes a thread; with UP each 128 columns are 64 of gate and the same 64 of up.
template <int BN, bool UP> __device__ void write_group(const product &p, const tile &w, int32_t first_row, const float (&d)[BN / 2]) {
    const int BLOCKS = UP ? BN / 16 : BN / 8;       // of eight columns written
    int32_t thread = threadIdx.x % WARPGROUP, warp_row = first_row + thread / 32 * 16, row = warp_row + thread % 32 / 4;
    int32_t column = w.across * (UP ? BN / 2 : BN) + thread % 4 * 8;
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

// The sums of a group of 64 rows, all of which exist, by the copy engine: boxes of 64 columns in the swizzle, as many at a time as are held ready.
template <class M, bool UP>
__device__ void write_boxes(M &m, const product &p, const CUtensorMap *outs, const tile &w, int32_t group, const float (&d)[M::BN / 2]) {
    const int N_BOXES = (UP ? M::BN / 2 : M::BN) / BK, AT_ONCE = M::STAGED;
    char *staged = m.staged[group];
    const int32_t thread = threadIdx.x % WARPGROUP, row = thread / 32 * 16 + thread % 16, half = thread % 32 / 16;
    const int32_t first_column = w.across * N_BOXES * BK;
    const uint32_t to = hopper::shared_address(staged) + row * ROW_BYTES;
#pragma unroll
    for (int first = 0; first < N_BOXES; first += AT_ONCE) {
        if (thread == 0) hopper::wait_stores_read();
        hopper::meet(MEET_CONSUMERS + group, WARPGROUP);        // what was held ready is gone
#pragma unroll
        for (int block = 0; block < 8 * AT_ONCE; block += 2) {  // of eight columns
            uint32_t v[4];
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const int b = 8 * first + block + i, at = 4 * (UP ? b / 8 * 16 + b % 8 : b), up = UP ? at + 32 : at;
                v[2 * i] = UP ? pack_two(swiglu(d[at], d[up], 0), swiglu(d[at + 1], d[up + 1], 0)) : pack_two(d[at], d[at + 1]);
                v[2 * i + 1] = UP ? pack_two(swiglu(d[at + 2], d[up + 2], 0), swiglu(d[at + 3], d[up + 3], 0)) : pack_two(d[at + 2], d[at + 3]);
            }
            hopper::store_matrices(to + block / 8 * GROUP_BYTES + ((block % 8 + half) ^ row % 8) * 16, v);
        }
        hopper::publish_shared();
        hopper::meet(MEET_CONSUMERS + group, WARPGROUP);        // all is held ready
        if (thread > 0) continue;
        for (int box = 0; box < AT_ONCE; box++) {
            const int32_t column = first_column + (first + box) * BK;
            if (column < p.n_out) hopper::store_box(outs, column, w.first_pair + group * GROUP_ROWS, staged + box * GROUP_BYTES);
        }
        hopper::commit_stores();
    }
}

// None of a tile's rows are this group's: the others get the tensor cores.
template <class M> __device__ void pass(M &m, int32_t n_pieces, ring_place &at) {
    for (int32_t i = 0; i < n_pieces; i++) {
        hopper::wait(&m.full[at.stage], at.parity);
        give_back(&m.empty[at.stage]);
        advance<M::STAGES>(at);
    }
}

template <class M> __device__ __forceinline__ void multiply(M &m, int32_t n_pieces, int32_t group, bool by_threads, ring_place &at, float (&d)[M::BN / 2]) {
    ring_place done = at;
    for (int32_t i = 0; i < n_pieces; i++) {
        hopper::wait(&m.full[at.stage], at.parity);
        if (by_threads) hopper::publish_shared();       // what copies of threads brought
        uint64_t a = wgmma::descriptor(hopper::shared_address(m.a[at.stage]) + group * GROUP_BYTES);
        uint64_t b = wgmma::descriptor(hopper::shared_address(m.b[at.stage]));
        wgmma::fence();
#pragma unroll
        for (int step = 0; step < BK / 16; step++) wgmma::mma<M::BN>(d, a + 2 * step, b + 2 * step, i > 0 || step > 0);
        wgmma::commit();
        advance<M::STAGES>(at);
        if (i == 0) continue;
        wgmma::wait<1>();               // the piece before is read: its place is free
        give_back(&m.empty[done.stage]);
        advance<M::STAGES>(done);
    }
    wgmma::wait<0>();
    give_back(&m.empty[done.stage]);
}

// By one lane for its warp: the lane that gives the place back.
__device__ __forceinline__ tile look(const tile *handed) {
    tile w;
    if (threadIdx.x % 32 == 0) w = *handed;
    return {__shfl_sync(~0u, w.slot, 0), __shfl_sync(~0u, w.first_pair, 0), __shfl_sync(~0u, w.n_pairs, 0), __shfl_sync(~0u, w.across, 0)};
}

template <class M, bool UP> __device__ void consume(const product &p, M &m, const CUtensorMap *outs, const list<M::BM> &all, int32_t group) {
    ring_place at = {0, 0};
    for (;;) {
        hopper::wait(&m.full[at.stage], at.parity);
        const tile w = look(&m.handed[at.stage]);
        if (w.n_pairs == 0) break;
        if (w.n_pairs <= group * GROUP_ROWS) {
            pass(m, all.n_pieces, at);
            continue;
        }
        float d[M::BN / 2];
        multiply(m, all.n_pieces, group, UP, at, d);
        if constexpr (M::STAGED > 0) {
            if (w.n_pairs >= (group + 1) * GROUP_ROWS) {
                write_boxes<M, UP>(m, p, outs, w, group, d);
                continue;
            }
        }
        write_group<M::BN, UP>(p, w, group * GROUP_ROWS, d);
    }
    hopper::wait_stores();
}

// ---- the kernel: as many blocks as it may have processors; own counts this kernel's claims, from 0, the other kernel's is made 0 ----

template <class M, bool UP>
__global__ __launch_bounds__(M::THREADS, 1) void grouped_product(const __grid_constant__ CUtensorMap rows, const __grid_constant__ CUtensorMap weights,
                                                              const __grid_constant__ CUtensorMap outs, product p, int32_t *own, int32_t *other) {
    extern __shared__ __align__(1024) char shared[];
    M &m = *reinterpret_cast<M *>(shared);
    const int32_t group = (int32_t)threadIdx.x / WARPGROUP - 1;
    if (!UP) pdl::release_next();
    if (threadIdx.x == 32) {
        if (hopper::shared_address(shared) % 1024) __trap();        // the swizzle goes by addresses
        for (int i = 0; i < M::STAGES; i++) {
            hopper::barrier_init(&m.full[i], UP ? WARPGROUP + 1 : 1);
            hopper::barrier_init(&m.empty[i], 4 * M::GROUPS);
        }
        hopper::barrier_init_done();
    }
    if (UP) {
        pdl::wait();
        pdl::release_next();        // not before the tables are there: down looks into them before this kernel has ended
        if (blockIdx.x == 0 && threadIdx.x == 64) *other = 0;
    }
    if (threadIdx.x < 32) count_tiles<M::BM>(p.pairs, m.tiles_before);
    for (int32_t s = threadIdx.x; s <= p.pairs.n_slots; s += M::THREADS) m.first_pair[s] = p.pairs.first(s);
    __syncthreads();        // tables and barriers are there
    const list<M::BM> all = list_of(p, m);
    if (group < 0) {
        if (M::GROUPS > 1) hopper::registers_give<PRODUCER_REGISTERS>();
        if constexpr (UP) produce_gathered(p, m, &weights, all, own);
        else if (threadIdx.x == 0) produce_boxes(p, m, &rows, &weights, all, own, other);
    } else {
        if (M::GROUPS > 1) hopper::registers_take<CONSUMER_REGISTERS>();
        if (group > 0 && (int32_t)blockIdx.x < all.n_tiles)         // groups out of step: one writes its tile while the other multiplies
            hopper::wait(&m.full[min(M::STAGES / 2, all.n_pieces - 1)], 0);
        consume<M, UP>(p, m, &outs, all, group);
    }
}

// ---- launchers ----

template <class M, bool UP>
grace_status launch(const CUtensorMap &rows, const CUtensorMap &weights, const CUtensorMap &outs, const product &p, const gr_cuda_experts *e,
                    const share &of, cudaStream_t stream) {
    auto kernel = grouped_product<M, UP>;
    const int bytes = sizeof(M);
    static bool ready_on[GR_CUDA_DEVICES_MAX];
    bool &ready = ready_on[gr_cuda_device()];
    if (!ready) {
        grace_status st = gr_cuda_status(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "shared memory of grouped_product");
        if (st) return st;
        ready = true;
    }
    pdl::launch(kernel, of.n_processors, M::THREADS, bytes, stream, UP || of.all, rows, weights, outs, p, e->claims + !UP, e->claims + UP);
    return gr_cuda_status(cudaGetLastError(), "grouped_product");
}

template <class M>
grace_status run(const gr_cuda_experts *e, const product &up, const product &down, const CUtensorMap &y_boxes, const share &of, cudaStream_t stream) {
    grace_status st = launch<M, true>(e->up_boxes, e->up_boxes, e->act_boxes, up, e, of, stream);
    return st ? st : launch<M, false>(e->act_boxes, e->down_boxes, y_boxes, down, e, of, stream);
}

}  // namespace

extern "C" grace_status gr_cuda_experts_hopper(const gr_cuda_experts *e, const gr_cuda_pairs *pairs, const void *rows, void *y, gr_cuda_tiles tiles,
                                               cudaStream_t stream) {
    const product up = up_product(e, pairs, rows), down = down_product(e, pairs, y);
    const share of = share_of(e, pairs);
    CUtensorMap y_boxes = e->act_boxes;         // small tiles store no boxes
    if (tiles == GR_CUDA_TILES_SMALL) return run<small_tiles>(e, up, down, y_boxes, of, stream);
    grace_status st = gr_cuda_map_open(y, (int64_t)pairs->n_rows * pairs->top_k, e->options.hidden, GR_CUDA_PAIR_BOX_ROWS, &y_boxes);
    return st ? st : run<large_tiles>(e, up, down, y_boxes, of, stream);
}
