// Logits and choice in one launch. Blocks take pieces of experts for tiles of rows; the block that finishes a tile of rows chooses for them, a warp a
// row (gate_choice.cuh). It is known by a counter of the tile, which is zero again when the launch ends.
//
// A bf16 router goes through the tensor cores in the order of linear_order.cuh: the logits have the bits of gr_cuda_linear() in exact mode, so the
// choice does not depend on which of the two made them. A warp takes a segment of 256 columns of TILES tiles of 8 experts, all loads under way at once;
// the segments' sums meet in shared memory. A fp32 router is multiplied in fp32, a warp a product.
#include "compute/cuda/cuda.h"
#include "compute/cuda/gate_choice.cuh"
#include "compute/cuda/linear_order.cuh"
#include "compute/cuda/pdl.cuh"
#include "compute/cuda/rms.cuh"
#include "compute/cuda/rows.h"

namespace {

using order::bf16;

// *p += 1, and what it was; tells what this block wrote before its last meeting, and learns what others told.
__device__ __forceinline__ int32_t count_one(int32_t *p) {
    int32_t old;
    asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;" : "=r"(old) : "l"(p) : "memory");
    return old;
}

// True in the last of n blocks to come here for a tile; what the others wrote before is visible then.
__device__ bool last_to_come(int32_t *n_done, int32_t n) {
    __shared__ bool is_last;
    __syncthreads();        // every warp's logits are written
    if (threadIdx.x == 0) {
        is_last = count_one(n_done) == n - 1;
        if (is_last) *n_done = 0;
    }
    __syncthreads();        // is_last is known to all
    return is_last;
}

// ---- bf16: tensor cores ----
enum { WARPS = 8, TILE = 8 };

// This lane's 16 bytes of every chunk of a row's segment; zeros where there are none.
__device__ __forceinline__ void load_segment(const bf16 *row, bool valid, int32_t segment, int32_t cols, uint4 (&to)[order::CHUNKS]) {
    const int32_t k = segment * order::SEGMENT + threadIdx.x % 4 * 8;
#pragma unroll
    for (int c = 0; c < order::CHUNKS; c++)
        to[c] = valid && k + c * order::CHUNK < cols ? *(const uint4 *)(row + k + c * order::CHUNK) : uint4{};
}

template <int TILES>
__device__ __forceinline__ void load_router(const gr_cuda_matrix &m, int32_t expert, int32_t segment, uint4 (&w)[TILES][order::CHUNKS]) {
#pragma unroll
    for (int t = 0; t < TILES; t++) {
        const int32_t e = expert + t * TILE + threadIdx.x % 32 / 4;
        load_segment((const bf16 *)m.data + (int64_t)e * m.cols, e < m.rows, segment, m.cols, w[t]);
    }
}

// Sums of a segment go to part [ROWS, TILES * TILE]. ROWS 8: the tensor cores' other eight rows are zeros.
template <int ROWS, int TILES>
__device__ __forceinline__ void multiply_segment(const uint4 (&w)[TILES][order::CHUNKS], const uint4 (&x)[order::CHUNKS],
                                                 const uint4 (&x8)[ROWS == 16 ? order::CHUNKS : 1], float *part) {
    const int32_t g = threadIdx.x % 32 / 4, pair = threadIdx.x % 4 * 2;
#pragma unroll
    for (int t = 0; t < TILES; t++) {
        float sum[4] = {};
#pragma unroll
        for (int c = 0; c < order::CHUNKS; c++) {
            const uint4 below = ROWS == 16 ? x8[ROWS == 16 ? c : 0] : uint4{};
            order::add_half<0>(sum, x[c], below, w[t][c]);
            order::add_half<1>(sum, x[c], below, w[t][c]);
        }
        float *to = part + g * TILES * TILE + t * TILE + pair;
        to[0] = sum[0], to[1] = sum[1];
        if (ROWS == 16) to[8 * TILES * TILE] = sum[2], to[8 * TILES * TILE + 1] = sum[3];
    }
}

__device__ __forceinline__ void fetch(const int32_t *p) { asm volatile("prefetch.global.L2 [%0];" ::"l"(p)); }

// Grid: (pieces of TILES * 8 experts, tiles of ROWS rows). NORMED: one tile of rows, at most rms::ROWS_MAX.
template <int ROWS, int TILES, int N, bool NORMED>
__global__ __launch_bounds__(WARPS * 32) void multiply_and_choose(gr_cuda_gate g, gr_cuda_router router, const bf16 *x, gate::rows r,
                                                                  gate::outputs out) {
    enum { OUTS = ROWS * TILES * TILE };
    __shared__ float part[WARPS][OUTS];
    __shared__ gate::workspace w[WARPS];
    __shared__ rms::room<NORMED> normed;
    const int32_t warp = threadIdx.x / 32, cols = router.w.cols, n_segments = (cols + order::SEGMENT - 1) / order::SEGMENT;
    const int32_t first = blockIdx.y * ROWS, expert = blockIdx.x * TILES * TILE, row = first + threadIdx.x % 32 / 4;
    const int32_t own_row = first + threadIdx.x / (TILES * TILE), own_expert = expert + threadIdx.x % (TILES * TILE); // the thread's sum
    uint4 weights[TILES][order::CHUNKS], a[order::CHUNKS], a8[ROWS == 16 ? order::CHUNKS : 1] = {};
    float total = 0;
    pdl::release_next();
    load_router<TILES>(router.w, expert, warp, weights);
    if constexpr (NORMED) rms::stage(normed, router.norm.w, cols);
    if (g.pick && threadIdx.x < OUTS && own_row < r.n && own_expert < g.n_experts) fetch(gate::pick_of(g, r, own_row, own_expert));
    pdl::wait();
    for (int32_t from = 0; from < n_segments; from += WARPS) {
        if (from > 0) load_router<TILES>(router.w, expert, from + warp, weights);
        load_segment(x + (int64_t)row * cols, row < r.n, from + warp, cols, a);
        if constexpr (ROWS == 16) load_segment(x + (int64_t)(row + 8) * cols, row + 8 < r.n, from + warp, cols, a8);
        if constexpr (NORMED) {        // all columns in one go
            const rms::scales scales = rms::scales_of(normed, router.norm, (const uint4 *)x, cols / 8, r.n, cols, blockIdx.x == 0);
            if (row < r.n) rms::apply_all<order::CHUNK>(normed, a, scales.of(row), warp * order::SEGMENT + threadIdx.x % 4 * 8, cols);
        }
        multiply_segment<ROWS, TILES>(weights, a, a8, part[warp]);
        __syncthreads();    // the segments' sums are there
        for (int32_t s = 0; s < WARPS && from + s < n_segments && threadIdx.x < OUTS; s++) total += part[s][threadIdx.x];
        __syncthreads();    // they are read: the next may come
    }
    if (threadIdx.x < OUTS && own_row < r.n && own_expert < g.n_experts) router.logits[(int64_t)own_row * g.n_experts + own_expert] = total;
    if (!last_to_come(&router.n_done[blockIdx.y], gridDim.x)) return;
    for (int32_t i = warp; i < ROWS; i += WARPS)
        if (first + i < r.n) gate::choose_row<N>(g, router.logits, r, first + i, &w[warp], out);
}

// ---- fp32: ROWS x EXPERTS products of whole rows by a warp ----
enum { FP32_WARPS = 4 };

// Lane l sums elements 8 l .. 8 l + 7, 256 further, ...: the same for every ROWS and EXPERTS. Rows and experts behind the last are the last again.
template <int ROWS, int EXPERTS>
__device__ __forceinline__ void multiply(const gr_cuda_matrix &m, const bf16 *x, int32_t row, int32_t last_row, int32_t expert,
                                         float sum[ROWS * EXPERTS]) {
#pragma unroll
    for (int i = 0; i < ROWS * EXPERTS; i++) sum[i] = 0;
#pragma unroll(ROWS * EXPERTS == 1 ? 8 : 2)
    for (int32_t at = 8 * gate::lane_of_thread(); at < m.cols; at += 256) {
        float a[ROWS][8], b[EXPERTS][8];
#pragma unroll
        for (int e = 0; e < EXPERTS; e++) lanes::load_eight((const float *)m.data + (int64_t)min(expert + e, m.rows - 1) * m.cols + at, b[e]);
#pragma unroll
        for (int i = 0; i < ROWS; i++) lanes::widen(*(const uint4 *)(x + (int64_t)min(row + i, last_row) * m.cols + at), a[i]);
#pragma unroll
        for (int i = 0; i < ROWS * EXPERTS; i++)
#pragma unroll
            for (int k = 0; k < 8; k++) sum[i] = __fmaf_rn(a[i / EXPERTS][k], b[i % EXPERTS][k], sum[i]);
    }
#pragma unroll
    for (int i = 0; i < ROWS * EXPERTS; i++) sum[i] = lanes::sum_of_warp(sum[i]);
}

// Grid: (pieces of FP32_WARPS * EXPERTS experts, tiles of ROWS rows).
template <int ROWS, int EXPERTS, int N>
__global__ __launch_bounds__(FP32_WARPS * 32) void multiply_fp32(gr_cuda_gate g, gr_cuda_router router, const bf16 *x, gate::rows r,
                                                                 gate::outputs out) {
    __shared__ gate::workspace w[FP32_WARPS];
    const int32_t warp = threadIdx.x / 32, row = blockIdx.y * ROWS, expert = (blockIdx.x * FP32_WARPS + warp) * EXPERTS;
    float sum[ROWS * EXPERTS];
    pdl::release_next();
    pdl::wait();
    multiply<ROWS, EXPERTS>(router.w, x, row, r.n - 1, expert, sum);
#pragma unroll
    for (int i = 0; i < ROWS * EXPERTS; i++) {
        const int32_t to_row = row + i / EXPERTS, to_expert = expert + i % EXPERTS;
        if (gate::lane_of_thread() == i && to_row < r.n && to_expert < g.n_experts)
            router.logits[(int64_t)to_row * g.n_experts + to_expert] = sum[i];
    }
    if (!last_to_come(&router.n_done[blockIdx.y], gridDim.x)) return;
    for (int32_t i = warp; i < ROWS; i += FP32_WARPS)
        if (row + i < r.n) gate::choose_row<N>(g, router.logits, r, row + i, &w[warp], out);
}

// ---- launches ----
struct call { const gr_cuda_gate *g; const gr_cuda_router *router; const bf16 *x; gate::rows r; gate::outputs out; cudaStream_t stream; };

int32_t pieces(int32_t n, int32_t piece) { return (n + piece - 1) / piece; }

typedef void (*kernel)(gr_cuda_gate, gr_cuda_router, const bf16 *, gate::rows, gate::outputs);
void launch(const call &c, kernel by_experts[3], int32_t threads, int32_t experts, int32_t rows) {
    const int32_t n = c.g->n_experts;
    const dim3 grid((unsigned)pieces(n, experts), (unsigned)pieces(c.r.n, rows));
    pdl::launch(by_experts[n <= 64 ? 0 : n <= 128 ? 1 : 2], grid, (unsigned)threads, 0, c.stream, true, *c.g, *c.router, c.x, c.r, c.out);
}

template <int ROWS, int TILES, bool NORMED> void launch_tiles(const call &c) {
    kernel by_experts[] = {multiply_and_choose<ROWS, TILES, 2, NORMED>, multiply_and_choose<ROWS, TILES, 4, NORMED>,
                           multiply_and_choose<ROWS, TILES, 8, NORMED>};
    launch(c, by_experts, WARPS * 32, TILES * TILE, ROWS);
}

template <int ROWS, int EXPERTS> void launch_fp32(const call &c) {
    kernel by_experts[] = {multiply_fp32<ROWS, EXPERTS, 2>, multiply_fp32<ROWS, EXPERTS, 4>, multiply_fp32<ROWS, EXPERTS, 8>};
    launch(c, by_experts, FP32_WARPS * 32, FP32_WARPS * EXPERTS, ROWS);
}

// Small tiles as long as one wave of blocks has them all.
enum { SMALL_TILES_MAX = 264, FP32_ALONE_MAX = 4 };

// Whether the norm is made in the kernel.
bool norms(const call &c) { return c.router->norm.w && !c.router->w.fp32 && rms::fits(c.r.n, c.router->w.cols); }

void launch_by_rows(const call &c) {
    const int32_t n_small = pieces(c.g->n_experts, TILE) * pieces(c.r.n, TILE);
    if (c.router->w.fp32 && c.r.n <= FP32_ALONE_MAX) launch_fp32<1, 1>(c);
    else if (c.router->w.fp32) launch_fp32<4, 2>(c);
    else if (norms(c)) launch_tiles<8, 1, true>(c);
    else if (n_small <= SMALL_TILES_MAX) launch_tiles<8, 1, false>(c);
    else launch_tiles<16, 2, false>(c);
}

}  // namespace

extern "C" grace_status gr_cuda_gate_few(const gr_cuda_gate *g, const gr_cuda_router *router, const void *x, const int32_t *sequence,
                                         const int32_t *position, const int32_t *kv_sequence, int32_t n_rows, int32_t *ids, float *weights,
                                         int32_t *slots, int32_t *flaw, gr_cuda_stream stream) {
    grace_status st = GRACE_OK;
    const gr_cuda_norming *norm = &router->norm;
    call c = {g, router, (const bf16 *)x, {sequence, position, kv_sequence, n_rows}, {ids, weights, slots, flaw}, stream};
    GR_TRY(gr_cuda_gate_check(g));
    GR_CHECK(router->w.rows == g->n_experts && router->w.cols >= 8 && router->w.cols % 8 == 0, GRACE_ERR_ARG,
             "cuda: a router of %d x %d for %d experts: expected a multiple of 8 columns", router->w.rows, router->w.cols, g->n_experts);
    if (n_rows == 0) return GRACE_OK;
    if (norm->w && !norms(c)) {
        GR_TRY(gr_cuda_norm(norm->w, norm->eps, n_rows, router->w.cols, (void *)x, router->w.cols, NULL, norm->to, router->w.cols, stream));
        c.x = (const bf16 *)norm->to;
    }
    launch_by_rows(c);
    st = gr_cuda_status(cudaGetLastError(), "gate of few rows");
done:
    return st;
}
