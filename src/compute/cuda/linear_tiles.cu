// Dense products of any number of rows in the order of linear_order.cuh: a row's bits are those of linear_few.cu. Tiles of BM rows x BN outputs, pieces
// of 64 columns in a ring of STAGES in shared memory, filled by copies that do not wait. A warp has FM x FN products of 16 x 8; its sums of a segment are
// added to the totals at the segment's end. Grid: (tiles of rows x tiles of outputs, heads). Agrees with gr_cpu_linear() up to rounding.
#include "compute/cuda/linear_order.cuh"
#include "compute/cuda/pdl.cuh"

namespace {

using namespace order;

enum { THREADS = 256, PIECE = 2 * CHUNK, PIECES = SEGMENT / PIECE, PARTS = PIECE / 8, BAND = 8 };     // a part is 16 bytes

template <int BM_, int BN_, int WARPS_M, int STAGES_> struct shape {
    static const int BM = BM_, BN = BN_, STAGES = STAGES_, WARPS_N = THREADS / 32 / WARPS_M;
    static const int WM = BM / WARPS_M, WN = BN / WARPS_N, FM = WM / 16, FN = WN / 8;      // of a warp
    static const int BYTES = STAGES * (BM + BN) * PIECE * 2;
};

// Part `part` of a row of a piece: the halves of odd rows change places, so that the 8 lanes of two rows meet 8 different groups of banks.
__device__ __forceinline__ uint4 *part_at(uint4 *piece, int32_t row, int32_t part) { return piece + row * PARTS + (part ^ (row & 1) << 2); }

// ROWS rows of a piece, from column k on; rows and columns behind the last are zeros.
template <int ROWS>
__device__ __forceinline__ void ask(uint4 *piece, const bf16 *from, int64_t step, int32_t first, int32_t n_rows, int32_t k, int32_t n_cols) {
#pragma unroll
    for (int i = 0; i < ROWS * PARTS; i += THREADS) {
        int32_t at = i + threadIdx.x, row = at / PARTS, part = at % PARTS;
        bool valid = first + row < n_rows && k + part * 8 < n_cols;
        if (ROWS * PARTS % THREADS == 0 || at < ROWS * PARTS)
            ampere::copy_16(ampere::shared_address(part_at(piece, row, part)), valid ? from + (first + row) * step + k + part * 8 : from, valid);
    }
}

struct corner { int32_t row, out; };

// Which tile a block takes: bands of 8 tiles of rows, inside a band rows first, so that blocks at work together share both x and W in the cache.
template <class S> __device__ corner corner_of(const gr_cuda_product &p) {
    int32_t across = (p.outs + S::BN - 1) / S::BN, down = (p.n_rows + S::BM - 1) / S::BM, band = blockIdx.x / (BAND * across);
    int32_t high = min(BAND, down - band * BAND), local = blockIdx.x - band * BAND * across;
    return {(band * BAND + local % high) * S::BM, local / high * S::BN};
}

template <class S> __device__ __forceinline__ void multiply(float (&sum)[S::FM][S::FN][4], uint4 *x, uint4 *w, int32_t chunk, int32_t m, int32_t n) {
    int32_t g = threadIdx.x % 32 / 4, part = chunk * 4 + threadIdx.x % 4;
    uint4 b[S::FN];
#pragma unroll
    for (int j = 0; j < S::FN; j++) b[j] = *part_at(w, n + j * 8 + g, part);
#pragma unroll
    for (int i = 0; i < S::FM; i++) {
        uint4 a = *part_at(x, m + i * 16 + g, part), a8 = *part_at(x, m + i * 16 + 8 + g, part);
#pragma unroll
        for (int j = 0; j < S::FN; j++) add_half<0>(sum[i][j], a, a8, b[j]);
#pragma unroll
        for (int j = 0; j < S::FN; j++) add_half<1>(sum[i][j], a, a8, b[j]);        // apart from the first half: neither waits for the one before it
    }
}

template <class S> __global__ __launch_bounds__(THREADS, 1) void tiles(gr_cuda_product p) {
    extern __shared__ uint4 shared[];
    int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, m = warp / S::WARPS_N * S::WM, n = warp % S::WARPS_N * S::WN, head = blockIdx.y;
    corner c = corner_of<S>(p);
    const bf16 *x = (const bf16 *)p.x + head * p.x_head_step, *w = (const bf16 *)p.w + (int64_t)head * p.outs * p.cols;
    int32_t n_pieces = (p.cols + PIECE - 1) / PIECE;
    auto ask_piece = [&](int32_t piece) {
        uint4 *to = shared + piece % S::STAGES * (S::BM + S::BN) * PARTS;
        if (piece < n_pieces) {
            ask<S::BM>(to, x, p.x_step, c.row, p.n_rows, piece * PIECE, p.cols);
            ask<S::BN>(to + S::BM * PARTS, w, p.cols, c.out, p.outs, piece * PIECE, p.cols);
        }
        ampere::copies_commit();        // also an empty group: the count of groups is the count of pieces
    };
    float sum[S::FM][S::FN][4] = {}, total[S::FM][S::FN][4] = {};
    pdl::release_next();
    pdl::wait();
    for (int32_t i = 0; i < S::STAGES - 1; i++) ask_piece(i);
    for (int32_t piece = 0; piece < n_pieces; piece++) {
        ampere::copies_wait<S::STAGES - 2>();
        __syncthreads();        // this piece is there, and nobody reads the one before, whose place the next copies take
        ask_piece(piece + S::STAGES - 1);
        uint4 *a = shared + piece % S::STAGES * (S::BM + S::BN) * PARTS, *b = a + S::BM * PARTS;
        multiply<S>(sum, a, b, 0, m, n);
        if (piece * PIECE + CHUNK < p.cols) multiply<S>(sum, a, b, 1, m, n);
        if (piece % PIECES == PIECES - 1 || piece == n_pieces - 1)
#pragma unroll
            for (int i = 0; i < S::FM * S::FN * 4; i++) (&total[0][0][0])[i] += (&sum[0][0][0])[i], (&sum[0][0][0])[i] = 0;
    }
#pragma unroll
    for (int i = 0; i < S::FM * S::FN * 4; i++) {
        int32_t row = c.row + m + i / 4 / S::FN * 16 + lane / 4 + i % 4 / 2 * 8, o = c.out + n + i / 4 % S::FN * 8 + lane % 4 * 2 + i % 2;
        int64_t place = place_of(p, row, head, o);
        if (row < p.n_rows && o < p.outs) store(p, place, (&total[0][0][0])[i] + addend(p, place));
    }
}

__global__ void copy_all_kept(gr_cuda_product p) {
    int64_t i = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    pdl::release_next();
    pdl::wait();
    if (i < n_kept_pieces(p)) copy_kept(p, i);
}

template <class S> void run(const gr_cuda_product *p, bool overlap, cudaStream_t stream) {
    dim3 grid((p->n_rows + S::BM - 1) / S::BM * ((p->outs + S::BN - 1) / S::BN), p->n_heads);
    if (cudaFuncSetAttribute(tiles<S>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::BYTES) == cudaSuccess)
        pdl::launch(tiles<S>, grid, THREADS, S::BYTES, stream, overlap, *p);
}

}  // namespace

extern "C" grace_status gr_cuda_linear_tiles(const gr_cuda_product *p, bool overlap, cudaStream_t stream) {
    if (p->n_rows <= 64) run<shape<64, 32, 4, 6>>(p, overlap, stream);
    else run<shape<128, 128, 2, 4>>(p, overlap, stream);
    return gr_cuda_status(cudaGetLastError(), "linear, tiles");
}

extern "C" grace_status gr_cuda_copy_kept(const gr_cuda_product *p, bool overlap, cudaStream_t stream) {
    int64_t n = n_kept_pieces(*p);
    if (n > 0) pdl::launch(copy_all_kept, (unsigned)((n + THREADS - 1) / THREADS), THREADS, 0, stream, overlap, *p);
    return gr_cuda_status(cudaGetLastError(), "linear_heads, kept elements");
}
