// Dense products of at most 16 rows: the matrix streams through the processors once, at the memory's rate.
//
// A warp takes 8 outputs and a segment of 256 columns at a time: 4 KiB of W, eight pieces of 16 bytes a lane. A lane copies the pieces it will use itself
// to a place of its own in shared memory, so nobody waits for anybody's data; it asks for the next ones as soon as it has used them, and for the first
// before the kernel waits for the one before it. Blocks are small enough that those of the next kernel find room beside them. Warps of a block share a
// tile's segments; the sums meet in shared memory and are folded in order (linear_order.cuh). Tiles go round over a grid of blocks that stay. Rows of x
// are the other operand of the tensor cores, in registers; they are read again only where a warp moves to another segment or head. NORMED: every block makes
// the norm of a row or two that stay (rms.cuh), for one or two matrices. Agrees with gr_cpu_linear() and gr_cpu_linear_heads() up to rounding.
#include "compute/cuda/linear_order.cuh"
#include "compute/cuda/rms.cuh"
#include "compute/cuda/pdl.cuh"

namespace {

using namespace order;

enum { WARPS = 8, THREADS = 32 * WARPS, OUTS = 8, BLOCKS_PER_PROCESSOR = 2 };

// How tiles of 8 outputs and their segments go over the warps of the grid: a step gives every warp one segment of one tile. A tile with more segments than
// warps takes `rounds` steps. Blocks take groups of tiles in turn.
struct plan {
    int32_t n_segments, tiles_per_head, n_tiles;
    int32_t warps_per_tile, tiles_at_once, rounds, n_groups;        // warps_per_tile: a power of two
    int32_t log_warps;                                              // of warps_per_tile
};

struct step { int32_t group, round; };

__device__ __forceinline__ step step_after(const plan &s, step at) {
    return at.round + 1 < s.rounds ? step{at.group, at.round + 1} : step{at.group + (int32_t)gridDim.x, 0};
}

__device__ __forceinline__ int32_t head_of(const gr_cuda_product &p, const plan &s, int32_t tile) { return p.n_heads == 1 ? 0 : tile / s.tiles_per_head; }

// A warp's part of a step; there is none where not valid.
struct place { int32_t head, first_out, segment; bool valid; };

__device__ __forceinline__ place place_at(const gr_cuda_product &p, const plan &s, step at) {
    int32_t warp = threadIdx.x / 32, tile = at.group * s.tiles_at_once + (warp >> s.log_warps);
    int32_t segment = at.round * s.warps_per_tile + (warp & (s.warps_per_tile - 1)), head = head_of(p, s, tile);
    return {head, (tile - head * s.tiles_per_head) * OUTS, segment, tile < s.n_tiles && segment < s.n_segments};
}

// As ampere::copy_16(), and the cache fetches what lies beside it, too: another lane's next pieces.
__device__ __forceinline__ void copy_stream(uint32_t to, const void *from, bool valid) {
    asm volatile("cp.async.cg.shared.global.L2::256B [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}

// This lane's pieces on their way to its places in a buffer [CHUNKS, THREADS]; zeros where there are none. TWO: there may be a second matrix.
template <bool TWO> __device__ __forceinline__ void ask_w(const gr_cuda_product &p, const place &at, uint4 *buffer) {
    int32_t lane = threadIdx.x % 32, o = at.first_out + lane / 4, k = at.segment * SEGMENT + lane % 4 * 8;
    const bf16 *from = (const bf16 *)p.w + ((int64_t)at.head * p.outs + o) * p.cols + k;
    bool valid = at.valid && o < p.outs;
    if (TWO && o >= p.split) from += p.w_shift;
    uint32_t to = ampere::shared_address(buffer + threadIdx.x);
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) {
        bool there = valid && k + c * CHUNK < p.cols;
        copy_stream(to + c * THREADS * 16, there ? from + c * CHUNK : (const bf16 *)p.w, there);
    }
    ampere::copies_commit();
}

__device__ __forceinline__ void load_x(const gr_cuda_product &p, const place &at, int32_t row, uint4 (&x)[CHUNKS]) {
    int32_t k = at.segment * SEGMENT + threadIdx.x % 4 * 8;
    const bf16 *from = (const bf16 *)p.x + row * p.x_step + at.head * p.x_head_step + k;
    bool valid = at.valid && row < p.n_rows;
#pragma unroll
    for (int c = 0; c < CHUNKS; c++) x[c] = valid && k + c * CHUNK < p.cols ? *(const uint4 *)(from + c * CHUNK) : uint4{};
}

// Output i of a step's tiles: by tile, row, output. There is none where not valid.
struct output { int32_t local, in_tile; int64_t place; bool valid; };

template <int ROWS, bool TWO> __device__ __forceinline__ output output_at(const gr_cuda_product &p, const plan &s, step at, int32_t i) {
    int32_t local = i / (ROWS * OUTS), tile = at.group * s.tiles_at_once + local, head = head_of(p, s, tile), row = i / OUTS % ROWS;
    int32_t o = (tile - head * s.tiles_per_head) * OUTS + i % OUTS;
    bool valid = local < s.tiles_at_once && tile < s.n_tiles && row < p.n_rows && o < p.outs;
    int64_t place = TWO && o >= p.split ? row * p.out_step_there + o + p.out_shift : place_of(p, row, head, o);
    return {local, i % (ROWS * OUTS), place, valid};
}

// ROWS: 8 or 16 rows at most. part: sums of a step by warp, row, output; two of them, so that one meeting of the block a step is enough: a warp writes the
// next step but one only after the meeting of the next, which comes after every thread has read this step's.
template <int ROWS, bool NORMED> __global__ __launch_bounds__(THREADS, ROWS == 8 ? 4 : 2) void few(gr_cuda_product p, plan s, gr_cuda_norming norming) {
    __shared__ uint4 w[CHUNKS * THREADS];
    __shared__ rms::room<NORMED> normed;
    __shared__ float part[2][WARPS][ROWS * OUTS];
    int32_t warp = threadIdx.x / 32, lane = threadIdx.x % 32, which = 0;
    uint4 x[CHUNKS], x8[ROWS == 16 ? CHUNKS : 1] = {};
    float total = 0;        // of this thread's output, where a tile takes several steps: then a thread has one
    auto read_x = [&](const place &at) {
        load_x(p, at, lane / 4, x);
        if constexpr (ROWS == 16) load_x(p, at, lane / 4 + 8, x8);
    };
    step now = {(int32_t)blockIdx.x, 0};
    place at = place_at(p, s, now);
    pdl::release_next();
    ask_w<NORMED>(p, at, w);
    if constexpr (NORMED) rms::stage(normed, norming.w, p.cols);
    pdl::wait();
    read_x(at);
    if constexpr (NORMED) {
        const rms::scales scales = rms::scales_of(normed, norming, (const uint4 *)p.x, p.x_step / 8, p.n_rows, p.cols, blockIdx.x == 0);
        if (lane / 4 < p.n_rows) rms::apply_all<CHUNK>(normed, x, scales.of(lane / 4), at.segment * SEGMENT + lane % 4 * 8, p.cols);
    }
    while (now.group < s.n_groups) {
        float sum[4] = {};
        ampere::copies_wait<0>();
#pragma unroll
        for (int c = 0; c < CHUNKS; c++)
            if (at.segment * SEGMENT + c * CHUNK < p.cols) {
                uint4 piece = w[c * THREADS + threadIdx.x];
                add_half<0>(sum, x[c], x8[ROWS == 16 ? c : 0], piece);
                add_half<1>(sum, x[c], x8[ROWS == 16 ? c : 0], piece);
            }
        step next = step_after(s, now);
        at = place_at(p, s, next);
        if (next.group < s.n_groups) {
            ask_w<NORMED>(p, at, w);
            if (s.rounds > 1 || p.n_heads > 1) read_x(at);
        }
        float *mine = part[which][warp] + lane / 4 * OUTS + lane % 4 * 2;
        *(float2 *)mine = {sum[0], sum[1]};
        if (ROWS == 16) *(float2 *)(mine + 8 * OUTS) = {sum[2], sum[3]};
        output out = output_at<ROWS, NORMED>(p, s, now, threadIdx.x);
        float old = out.valid && now.round == s.rounds - 1 ? addend(p, out.place) : 0;
        __syncthreads();        // sums of all warps are there
        for (int32_t i = threadIdx.x; i < s.tiles_at_once * ROWS * OUTS; i += THREADS) {
            if (i >= THREADS) out = output_at<ROWS, NORMED>(p, s, now, i), old = out.valid ? addend(p, out.place) : 0;     // only narrow matrices
            float all = now.round == 0 ? 0 : total;
            for (int32_t j = 0; j < s.warps_per_tile && now.round * s.warps_per_tile + j < s.n_segments; j++)
                all += part[which][out.local * s.warps_per_tile + j][out.in_tile];
            total = all;
            if (now.round == s.rounds - 1 && out.valid) store(p, out.place, all + old);
        }
        now = next, which ^= 1;
    }
    for (int64_t i = blockIdx.x * THREADS + threadIdx.x; i < n_kept_pieces(p); i += gridDim.x * THREADS) copy_kept(p, i);
}

plan plan_of(const gr_cuda_product &p) {
    plan s = {};
    s.n_segments = (p.cols + SEGMENT - 1) / SEGMENT;
    s.tiles_per_head = (p.outs + OUTS - 1) / OUTS;
    s.n_tiles = s.tiles_per_head * p.n_heads;
    while (1 << s.log_warps < s.n_segments && 1 << s.log_warps < WARPS) s.log_warps++;
    s.warps_per_tile = 1 << s.log_warps;
    s.tiles_at_once = WARPS / s.warps_per_tile;
    s.rounds = (s.n_segments + s.warps_per_tile - 1) / s.warps_per_tile;
    s.n_groups = (s.n_tiles + s.tiles_at_once - 1) / s.tiles_at_once;
    return s;
}

}  // namespace

extern "C" grace_status gr_cuda_linear_few(const gr_cuda_product *p, int32_t n_processors, bool overlap, cudaStream_t stream) {
    plan s = plan_of(*p);
    int32_t most = BLOCKS_PER_PROCESSOR * n_processors;
    pdl::launch(p->n_rows <= 8 ? few<8, false> : few<16, false>, s.n_groups < most ? s.n_groups : most, THREADS, 0, stream, overlap, *p, s, gr_cuda_norming{});
    return gr_cuda_status(cudaGetLastError(), "linear, few rows");
}

extern "C" bool gr_cuda_linear_few_norms(const gr_cuda_product *p) { return p->n_heads == 1 && rms::fits(p->n_rows, p->cols); }

extern "C" grace_status gr_cuda_linear_few_normed(const gr_cuda_product *p, const gr_cuda_norming *norming, int32_t n_processors, bool overlap,
                                                  cudaStream_t stream) {
    plan s = plan_of(*p);
    int32_t most = BLOCKS_PER_PROCESSOR * n_processors;
    pdl::launch(few<8, true>, s.n_groups < most ? s.n_groups : most, THREADS, 0, stream, overlap, *p, s, *norming);
    return gr_cuda_status(cudaGetLastError(), "linear, few rows normed");
}
