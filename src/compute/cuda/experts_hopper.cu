// Experts over pairs grouped by slot, as two grouped matrix products whose sizes are read on the device.
//
//     up     act[p]  = silu(gate x) * (up x)   x = rows[row_of_pair[p]]; gathered by threads, weights by the copy engine
//     down   y[p]    = down act[p]             both by the copy engine
//
// A block is one producer warpgroup and BM / 64 consumer warpgroups over a ring of STAGES pieces of K = 64. Blocks stay and walk the list of tiles;
// producers run ahead over the ends of tiles, so weights stream while a tile is written. What a tile has beyond the end of k comes as zeros; what it has
// beyond a slot's outputs is not written. A row's sums run over k in steps of 16 in order, whatever the tile: its bits do not depend on the rows beside it.
// Agrees with gr_cpu_experts() up to the roundings of bf16.
#include "compute/cuda/experts.cuh"
#include "compute/cuda/hopper.cuh"
#include "compute/cuda/pdl.cuh"
#include "compute/cuda/wgmma.cuh"

namespace {

using namespace experts;

enum { WARPGROUP = 128, BK = GR_CUDA_BOX_COLUMNS, ROW_BYTES = 2 * BK };

template <int BN> __device__ __forceinline__ int32_t n_across_of(const product &p) { return (p.n_weight_rows + BN - 1) / BN; }

// A piece of the ring, and how often the ring went round.
struct ring_place { int32_t stage, parity; };
template <int STAGES> __device__ __forceinline__ void advance(ring_place &r) {
    if (++r.stage == STAGES) r.stage = 0, r.parity ^= 1;
}

template <int BM, int BN, int STAGES> struct ring {
    static const int32_t A_BYTES = BM * ROW_BYTES, B_BYTES = BN * ROW_BYTES, BYTES = STAGES * (A_BYTES + B_BYTES);
    char *data;
    uint64_t *full, *empty;
    __device__ char *a(int32_t stage) const { return data + stage * (A_BYTES + B_BYTES); }
    __device__ char *b(int32_t stage) const { return a(stage) + A_BYTES; }
};

template <int BM, int BN, int STAGES>
__device__ __forceinline__ void ask_weights(const product &p, const ring<BM, BN, STAGES> &r, const CUtensorMap *b_map, const tile &w, int32_t stage,
                                            int32_t k) {
    for (int i = 0; i < BN; i += GR_CUDA_WEIGHT_BOX_ROWS)
        hopper::copy_box(r.b(stage) + i * ROW_BYTES, b_map, k, w.slot * p.n_weight_rows + w.across * BN + i, &r.full[stage]);
}

// One thread feeds both operands; of the rows as many groups of 64 as exist.
template <int BM, int BN, int STAGES>
__device__ void produce_boxes(const product &p, const ring<BM, BN, STAGES> &r, const CUtensorMap *a_map, const CUtensorMap *b_map,
                              const int32_t *tiles_before, int32_t n_tiles) {
    ring_place at = {0, 1};
    for (int32_t t = blockIdx.x; t < n_tiles; t += gridDim.x) {
        tile w = tile_at<BM>(p.pairs, tiles_before, n_across_of<BN>(p), t);
        int32_t n_groups = (w.n_pairs + 63) / 64;
        for (int32_t k = 0; k < p.k; k += BK) {
            hopper::wait(&r.empty[at.stage], at.parity);
            hopper::arrive_expecting(&r.full[at.stage], n_groups * 64 * ROW_BYTES + r.B_BYTES);
            for (int32_t g = 0; g < n_groups; g++)
                hopper::copy_box(r.a(at.stage) + g * 64 * ROW_BYTES, a_map, k, w.first_pair + 64 * g, &r.full[at.stage]);
            ask_weights(p, r, b_map, w, at.stage, k);
            advance<STAGES>(at);
        }
    }
}

// A warpgroup gathers rows, 16 bytes a thread: eight threads a row, placed as the swizzle wants them; its first thread asks for the weights.
template <int BM, int BN, int STAGES>
__device__ void produce_gathered(const product &p, const ring<BM, BN, STAGES> &r, const CUtensorMap *b_map, const int32_t *tiles_before, int32_t n_tiles) {
    const int32_t ROWS = BM / 16, thread = threadIdx.x % WARPGROUP, chunk = thread % 8, row = thread / 8;
    const uint32_t place = row * ROW_BYTES + ((chunk ^ row % 8) << 4);      // rows 16 apart swizzle alike
    ring_place at = {0, 1};
    for (int32_t t = blockIdx.x; t < n_tiles; t += gridDim.x) {
        tile w = tile_at<BM>(p.pairs, tiles_before, n_across_of<BN>(p), t);
        int32_t source[ROWS];
        for (int i = 0; i < ROWS; i++) source[i] = row + 16 * i < w.n_pairs ? p.pairs.row(w.first_pair + row + 16 * i) : -1;
        for (int32_t k = 0; k < p.k; k += BK) {
            hopper::wait(&r.empty[at.stage], at.parity);
            if (thread == 0) {
                hopper::arrive_expecting(&r.full[at.stage], r.B_BYTES);
                ask_weights(p, r, b_map, w, at.stage, k);
            }
            uint32_t to = hopper::shared_address(r.a(at.stage)) + place;
            bool inside = k + chunk * 8 < p.k;
            for (int i = 0; i < ROWS && 16 * i < w.n_pairs; i++)
                hopper::copy_16(to + i * 16 * ROW_BYTES, p.in + (int64_t)max(source[i], 0) * p.k + (inside ? k + chunk * 8 : 0), inside && source[i] >= 0);
            hopper::arrive_after_copies(&r.full[at.stage]);
            advance<STAGES>(at);
        }
    }
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

template <int BM, int BN, int STAGES, bool GATHER, bool SWIGLU>
__device__ void consume(const product &p, const ring<BM, BN, STAGES> &r, const int32_t *tiles_before, int32_t n_tiles, int32_t group) {
    ring_place at = {0, 0}, done = {0, 0};
    for (int32_t t = blockIdx.x; t < n_tiles; t += gridDim.x) {
        tile w = tile_at<BM>(p.pairs, tiles_before, n_across_of<BN>(p), t);
        if (w.n_pairs <= group * 64) {      // none of the tile's rows are this group's: the others get the tensor cores
            for (int32_t k = 0; k < p.k; k += BK) {
                hopper::wait(&r.full[at.stage], at.parity);
                if (threadIdx.x % 32 == 0) hopper::arrive(&r.empty[at.stage]);
                advance<STAGES>(at);
            }
            done = at;
            continue;
        }
        float d[BN / 2];
        for (int32_t k = 0; k < p.k; k += BK) {
            hopper::wait(&r.full[at.stage], at.parity);
            if (GATHER) hopper::publish_shared();
            uint64_t a = wgmma::descriptor(hopper::shared_address(r.a(at.stage)) + group * 64 * ROW_BYTES);
            uint64_t b = wgmma::descriptor(hopper::shared_address(r.b(at.stage)));
            wgmma::fence();
#pragma unroll
            for (int i = 0; i < BK / 16; i++) wgmma::mma<BN>(d, a + 2 * i, b + 2 * i, k > 0 || i > 0);
            wgmma::commit();
            advance<STAGES>(at);
            if (k == 0) continue;
            wgmma::wait<1>();               // the piece before is read: its place is free
            if (threadIdx.x % 32 == 0) hopper::arrive(&r.empty[done.stage]);
            advance<STAGES>(done);
        }
        wgmma::wait<0>();
        if (threadIdx.x % 32 == 0) hopper::arrive(&r.empty[done.stage]);
        advance<STAGES>(done);
        write_tile<BN, SWIGLU>(p, w, group * 64, d);
    }
}

// grid: as many blocks as the device has processors. Shared: the ring, its barriers, tiles_before.
template <int BM, int BN, int STAGES, bool GATHER, bool SWIGLU>
__global__ __launch_bounds__(WARPGROUP *(1 + BM / 64), 1) void grouped_product(const __grid_constant__ CUtensorMap a_map,
                                                                               const __grid_constant__ CUtensorMap b_map, product p) {
    extern __shared__ char shared_raw[];
    __shared__ uint64_t full[STAGES], empty[STAGES];
    __shared__ int32_t tiles_before[GR_CUDA_SLOTS_MAX + 1];
    const int32_t GROUPS = BM / 64;
    ring<BM, BN, STAGES> r = {shared_raw + (-hopper::shared_address(shared_raw) & 1023), full, empty};
    pdl::release_next();
    if (threadIdx.x == 32) {
        for (int i = 0; i < STAGES; i++) {
            hopper::barrier_init(&full[i], GATHER ? WARPGROUP + 1 : 1);
            hopper::barrier_init(&empty[i], 4 * GROUPS);
        }
        hopper::barrier_init_done();
    }
    pdl::wait();
    if (threadIdx.x < 32) count_tiles<BM>(p.pairs, tiles_before);
    __syncthreads();        // tiles and barriers are there
    int32_t n_tiles = tiles_before[p.pairs.n_slots] * n_across_of<BN>(p), group = (int32_t)threadIdx.x / WARPGROUP - 1;
    if (group < 0) {
        if (GROUPS > 1) hopper::registers_give<40>();
        if constexpr (GATHER) produce_gathered(p, r, &b_map, tiles_before, n_tiles);
        else if (threadIdx.x == 0) produce_boxes(p, r, &a_map, &b_map, tiles_before, n_tiles);
    } else {
        if (GROUPS > 1) hopper::registers_take<232>();
        if (group > 0 && (int32_t)blockIdx.x < n_tiles)     // groups out of step: one writes its tile while the other multiplies
            hopper::wait(&full[min(STAGES / 2, (p.k + BK - 1) / BK - 1)], 0);
        consume<BM, BN, STAGES, GATHER, SWIGLU>(p, r, tiles_before, n_tiles, group);
    }
}

}  // namespace

// ---- launchers ----

namespace {

template <int BM, int BN, int STAGES, bool GATHER, bool SWIGLU>
grace_status launch(const CUtensorMap &a, const CUtensorMap &b, const product &p, int32_t n_processors, cudaStream_t stream) {
    const int bytes = ring<BM, BN, STAGES>::BYTES + 1024;
    auto kernel = grouped_product<BM, BN, STAGES, GATHER, SWIGLU>;
    static bool ready = false;
    if (!ready) {
        grace_status st = gr_cuda_status(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "shared memory of grouped_product");
        if (st) return st;
        ready = true;
    }
    pdl::launch(kernel, n_processors, WARPGROUP * (1 + BM / 64), bytes, stream, true, a, b, p);
    return gr_cuda_status(cudaGetLastError(), "grouped_product");
}

template <int BM, int BN, int STAGES>
grace_status run(const gr_cuda_experts *e, const gr_cuda_pairs *pairs, const void *rows, void *y, cudaStream_t stream) {
    const product up = up_product(e, pairs, rows), down = down_product(e, pairs, y);
    grace_status st = launch<BM, BN, STAGES, true, true>(e->up_boxes, e->up_boxes, up, e->n_processors, stream);
    return st ? st : launch<BM, BN, STAGES, false, false>(e->act_boxes, e->down_boxes, down, e->n_processors, stream);
}

}  // namespace

extern "C" grace_status gr_cuda_experts_few(const gr_cuda_experts *e, const gr_cuda_pairs *pairs, const void *rows, void *y, cudaStream_t stream) {
    return run<64, 128, 8>(e, pairs, rows, y, stream);
}

extern "C" grace_status gr_cuda_experts_many(const gr_cuda_experts *e, const gr_cuda_pairs *pairs, const void *rows, void *y, cudaStream_t stream) {
    return run<128, 256, 4>(e, pairs, rows, y, stream);
}
