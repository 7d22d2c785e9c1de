// Experts for every GPU from sm_80 on and any sizes: grouped products of warps (mma.sync) over pieces that ordinary copies bring (cp.async).
//
// A block of BM / 64 x 4 warps makes tiles of BM rows by 128 rows of weights (up: 64 of gate and the same 64 of up), a warp 64 x 32 of it; of its four groups
// of 16 rows it skips those that do not exist. Blocks stay and walk the list of tiles; what is fetched runs ahead over the ends of tiles.
// A row's sums run over k in steps of 16 in order, whatever BM: its bits do not depend on the tile it stands in. Agrees with experts_plain.cu.
#include "compute/cuda/ampere.cuh"
#include "compute/cuda/experts.cuh"
#include "compute/cuda/pdl.cuh"

namespace {

using namespace experts;

enum { BN = 128, BK = 64, ROW_BYTES = 2 * BK, STAGES = 3, CHUNKS = 8 /* of 16 bytes a row */, WARP_ROWS = 64, WARPS_ACROSS = 4 };

template <int BM> struct sizes {
    static const int THREADS = BM / WARP_ROWS * WARPS_ACROSS * 32, ROWS_A_TURN = THREADS / CHUNKS;
    static const int A_TURNS = BM / ROWS_A_TURN, B_TURNS = BN / ROWS_A_TURN;
    static const int A_BYTES = BM * ROW_BYTES, BYTES = A_BYTES + BN * ROW_BYTES;      // of a stage
};

template <bool UP> __device__ __forceinline__ int32_t outs_of_tile() { return UP ? BN / 2 : BN; }

// Row r of a tile's weights, -1 beyond the last output.
template <bool UP> __device__ __forceinline__ int32_t weight_row(const product &p, const tile &w, int32_t r) {
    int32_t o = w.across * outs_of_tile<UP>() + (UP ? r % (BN / 2) : r);
    return o >= p.n_out ? -1 : UP ? p.gate_row(o) + r / (BN / 2) * p.block : o;
}

// What a thread fetches: chunk `thread % 8` of every ROWS_A_TURN-th row, piece after piece, tile after tile.
template <int BM, bool UP> struct fetcher {
    typedef sizes<BM> S;
    const product &p;
    const int32_t *tiles_before;
    int32_t n_across, n_tiles, t, k;
    const bf16 *a[S::A_TURNS], *b[S::B_TURNS];      // NULL: zeros

    __device__ void aim() {
        if (t >= n_tiles) return;
        tile w = tile_at<BM>(p.pairs, tiles_before, n_across, t);
        int32_t first = threadIdx.x / CHUNKS;
        k = threadIdx.x % CHUNKS * 8;
        for (int i = 0; i < S::A_TURNS; i++) {
            int32_t r = first + i * S::ROWS_A_TURN, pair = w.first_pair + r;
            a[i] = r < w.n_pairs ? p.in + (int64_t)(UP ? p.pairs.row(pair) : pair) * p.k : nullptr;
        }
        for (int i = 0; i < S::B_TURNS; i++) {
            int32_t row = weight_row<UP>(p, w, first + i * S::ROWS_A_TURN);
            b[i] = row >= 0 ? p.weight + ((int64_t)w.slot * p.n_weight_rows + row) * p.k : nullptr;
        }
    }

    // The next piece goes to a stage at this shared address; nothing when all tiles are fetched.
    __device__ void fetch(uint32_t stage) {
        if (t < n_tiles) {
            int32_t row = threadIdx.x / CHUNKS;         // rows ROWS_A_TURN apart swizzle alike
            uint32_t place = stage + row * ROW_BYTES + ((threadIdx.x % CHUNKS ^ row % CHUNKS) << 4);
            for (int i = 0; i < S::A_TURNS; i++) copy(place + i * S::ROWS_A_TURN * ROW_BYTES, a[i]);
            for (int i = 0; i < S::B_TURNS; i++) copy(place + S::A_BYTES + i * S::ROWS_A_TURN * ROW_BYTES, b[i]);
            k += BK;
            if (k - (int32_t)(threadIdx.x % CHUNKS * 8) >= p.k) t += gridDim.x, aim();
        }
        ampere::copies_commit();
    }

    __device__ __forceinline__ void copy(uint32_t to, const bf16 *row) {
        bool valid = row && k < p.k;
        ampere::copy_16(to, valid ? row + k : p.in, valid);
    }
};

// Where a lane's row of an 8 x 8 piece stands: row r, chunk c of 16 bytes.
__device__ __forceinline__ uint32_t swizzled(uint32_t base, int32_t r, int32_t c) { return base + r * ROW_BYTES + ((c ^ r % CHUNKS) << 4); }

// d[i][j]: rows 16 i of the warp, columns 8 j; with UP j 0, 1 are 16 columns of gate and j 2, 3 the same of up.
typedef float sums[4][4][4];

template <bool UP> __device__ __forceinline__ void multiply_piece(uint32_t a, uint32_t b, int32_t n_groups, int32_t warp_across, sums &d) {
    int32_t lane = threadIdx.x % 32;
#pragma unroll
    for (int kk = 0; kk < BK / 16; kk++) {
        uint32_t right[2][4];
#pragma unroll
        for (int j = 0; j < 2; j++) {
            int32_t row = (UP ? 16 * warp_across + BN / 2 * j : 32 * warp_across + 16 * j) + lane % 8 + lane / 16 * 8;
            ampere::load_pieces(right[j], swizzled(b, row, 2 * kk + lane / 8 % 2));
        }
#pragma unroll
        for (int i = 0; i < 4; i++) {
            if (i >= n_groups) break;
            uint32_t left[4];
            ampere::load_pieces(left, swizzled(a, 16 * i + lane % 16, 2 * kk + lane / 16));
#pragma unroll
            for (int j = 0; j < 4; j++) ampere::multiply(d[i][j], left, right[j / 2][j % 2 * 2], right[j / 2][j % 2 * 2 + 1]);
        }
    }
}

// The bias of the lane's two columns in each d[.][j], added to all of them.
template <bool UP> __device__ void add_bias(const product &p, const tile &w, int32_t warp_across, sums &d) {
#pragma unroll
    for (int j = 0; j < 4; j++)
#pragma unroll
        for (int c = 0; c < 2; c++) {
            int32_t column = (UP ? 16 * warp_across + BN / 2 * (j / 2) + j % 2 * 8 : 32 * warp_across + 8 * j) + threadIdx.x % 4 * 2 + c;
            int32_t row = weight_row<UP>(p, w, column);
            float bias = row >= 0 ? p.bias[(int64_t)w.slot * p.n_weight_rows + row] : 0;
#pragma unroll
            for (int i = 0; i < 4; i++) d[i][j][c] += bias, d[i][j][c + 2] += bias;
        }
}

__device__ __forceinline__ void store(const product &p, const tile &w, int32_t row, int32_t o, const uint32_t (&v)[4]) {
    if (row < w.n_pairs && o < p.n_out) *reinterpret_cast<uint4 *>(p.out + (int64_t)(w.first_pair + row) * p.n_out + o) = make_uint4(v[0], v[1], v[2], v[3]);
}

template <bool UP> __device__ void write(const product &p, const tile &w, int32_t first_row, int32_t n_groups, int32_t warp_across, sums &d) {
    int32_t q = threadIdx.x % 4, first_out = w.across * outs_of_tile<UP>();
    if (p.bias) add_bias<UP>(p, w, warp_across, d);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        if (i >= n_groups) break;
        int32_t row = first_row + 16 * i + threadIdx.x % 32 / 4;
        uint32_t v[4];
        if (UP) {       // blocks 0, 1: 16 columns of the row; 2, 3: of the row 8 below
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int block = j % 2, at = j / 2 * 2;
                v[j] = pack_two(swiglu(d[i][block][at], d[i][block + 2][at], p.limit), swiglu(d[i][block][at + 1], d[i][block + 2][at + 1], p.limit));
            }
            transpose_quad(v);
            store(p, w, row + q / 2 * 8, first_out + 16 * warp_across + q % 2 * 8, v);
        } else
#pragma unroll
            for (int half = 0; half < 2; half++) {
#pragma unroll
                for (int j = 0; j < 4; j++) v[j] = pack_two(d[i][j][2 * half], d[i][j][2 * half + 1]);
                transpose_quad(v);
                store(p, w, row + 8 * half, first_out + 32 * warp_across + q * 8, v);
            }
    }
}

// grid: as many blocks as the device holds at once. Shared: STAGES pieces.
template <int BM, bool UP> __global__ __launch_bounds__(sizes<BM>::THREADS, BM == WARP_ROWS ? 3 : 2) void mma_product(product p) {
    typedef sizes<BM> S;
    extern __shared__ __align__(1024) char shared[];
    __shared__ int32_t tiles_before[GR_CUDA_SLOTS_MAX + 1];
    const int32_t warp = threadIdx.x / 32, warp_across = warp % WARPS_ACROSS, first_row = warp / WARPS_ACROSS * WARP_ROWS;
    const uint32_t ring = ampere::shared_address(shared);
    pdl::release_next();
    pdl::wait();
    if (warp == 0) count_tiles<BM>(p.pairs, tiles_before);
    __syncthreads();        // tiles are counted
    int32_t n_across = (p.n_out + outs_of_tile<UP>() - 1) / outs_of_tile<UP>(), n_tiles = tiles_before[p.pairs.n_slots] * n_across, at = 0;
    fetcher<BM, UP> next = {p, tiles_before, n_across, n_tiles, (int32_t)blockIdx.x};
    next.aim();
    for (int i = 0; i < STAGES - 1; i++) next.fetch(ring + i * S::BYTES);
    for (int32_t t = blockIdx.x; t < n_tiles; t += gridDim.x) {
        tile w = tile_at<BM>(p.pairs, tiles_before, n_across, t);
        int32_t n_groups = min((w.n_pairs - first_row + 15) / 16, WARP_ROWS / 16);
        sums d = {};
        for (int32_t k = 0; k < p.k; k += BK) {
            ampere::copies_wait<STAGES - 2>();
            __syncthreads();        // all have this piece, and have read the one before: its place is free
            next.fetch(ring + (at + STAGES - 1) % STAGES * S::BYTES);
            uint32_t piece = ring + at * S::BYTES;
            if (n_groups > 0) multiply_piece<UP>(piece + first_row * ROW_BYTES, piece + S::A_BYTES, n_groups, warp_across, d);
            at = (at + 1) % STAGES;
        }
        if (n_groups > 0) write<UP>(p, w, first_row, n_groups, warp_across, d);
    }
    ampere::copies_wait<0>();
}

template <int BM, bool UP> grace_status launch(const product &p, const share &of, cudaStream_t stream) {
    const int threads = sizes<BM>::THREADS, bytes = STAGES * sizes<BM>::BYTES;
    auto kernel = mma_product<BM, UP>;
    static int blocks_of[GR_CUDA_DEVICES_MAX];      /* a processor holds */
    int &n_blocks = blocks_of[gr_cuda_device()];
    if (!n_blocks) {
        grace_status st = gr_cuda_status(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), "shared memory of mma_product");
        if (!st) st = gr_cuda_status(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&n_blocks, kernel, threads, bytes), "blocks of mma_product");
        if (st) return st;
    }
    pdl::launch(kernel, of.n_processors * n_blocks, threads, bytes, stream, UP || of.all, p);
    return gr_cuda_status(cudaGetLastError(), "mma_product");
}

template <int BM> grace_status run(const product &up, const product &down, const share &of, cudaStream_t stream) {
    grace_status st = launch<BM, true>(up, of, stream);
    return st ? st : launch<BM, false>(down, of, stream);
}

}  // namespace

extern "C" grace_status gr_cuda_experts_mma(const gr_cuda_experts *e, const gr_cuda_pairs *pairs, const void *rows, void *y, gr_cuda_tiles tiles,
                                            cudaStream_t stream) {
    const product up = up_product(e, pairs, rows), down = down_product(e, pairs, y);
    const share of = share_of(e, pairs);
    return tiles == GR_CUDA_TILES_SMALL ? run<WARP_ROWS>(up, down, of, stream) : run<2 * WARP_ROWS>(up, down, of, stream);
}
