// Tokens from logits:
//
//     find_largest    a block a piece of a row: its largest logit and where; of every run its largest, for cuts
//     sum_pieces      rows whose draw needs the sum of all weights: the sum of each piece, in double
//     finish          greedy rows: the largest of the pieces; others: a block a row draws, in order of ids, or from a cut (sample_cut.cuh)
//
// When all rows are greedy: find_largest without runs, and a warp a row that finishes.
#include "compute/cuda/cuda.h"
#include "compute/cuda/pdl.cuh"
#include "compute/cuda/sample_cut.cuh"

namespace {

using namespace sampling;

// Memory between the kernels; rows of a call.
struct scratch { uint64_t *largest; double *sum; float *largest_of_run; };      // [n_rows, n_pieces] twice, [n_rows, n_runs]

// Grid: (pieces, rows).
template <bool RUNS> __global__ __launch_bounds__(PIECE_THREADS) void find_largest(matrix m, scratch to) {
    __shared__ uint64_t of_warp[PIECE_THREADS / 32];
    const int64_t row = blockIdx.y;
    const int32_t from = blockIdx.x * PIECE + 4 * threadIdx.x;
    float x[FOURS][4], best = -INFINITY;
    int32_t id = min(from, m.vocab - 1);
    bool flawed = false;
    pdl::release_next();
    pdl::wait();
#pragma unroll
    for (int i = 0; i < FOURS; i++) load_four(m, row, from + i * 4 * PIECE_THREADS, x[i]);
#pragma unroll
    for (int i = 0; i < FOURS; i++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            flawed = flawed || !(x[i][j] < INFINITY);
            if (x[i][j] > best) best = x[i][j], id = from + i * 4 * PIECE_THREADS + j;
        }
        const int32_t run = (from + i * 4 * PIECE_THREADS) / RUN;
        if (RUNS) {
            const float most = lanes::of_ordered(__reduce_max_sync(~0u, lanes::ordered(fmaxf(fmaxf(x[i][0], x[i][1]), fmaxf(x[i][2], x[i][3])))));
            if (threadIdx.x % 32 == 0 && run < m.n_runs) to.largest_of_run[row * m.n_runs + run] = most;
        }
    }
    const uint64_t key = largest_of_warp(flawed ? FLAWED : key_of(best, id));
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = key;
    __syncthreads();        // keys of all warps are there
    if (threadIdx.x >= 32) return;
    const uint64_t all = largest_of_warp(threadIdx.x < PIECE_THREADS / 32 ? of_warp[threadIdx.x] : 0);
    if (threadIdx.x == 0) to.largest[row * m.n_pieces + blockIdx.x] = all;
}

__device__ void write_largest(uint64_t key, int64_t row, int32_t *ids, int32_t *flaw) {
    if (key == FLAWED) atomicCAS(flaw, 0, (int32_t)row + 1);
    ids[row] = key == FLAWED ? 0 : id_of_key(key);
}

// Grid: a warp a row.
__global__ __launch_bounds__(PIECE_THREADS) void finish_greedy(matrix m, int32_t n_rows, scratch from, int32_t *ids, int32_t *flaw) {
    const int64_t row = (int64_t)blockIdx.x * (PIECE_THREADS / 32) + threadIdx.x / 32;
    pdl::release_next();
    pdl::wait();
    if (row >= n_rows) return;
    const uint64_t key = largest_of_row(m, from.largest, row);
    if (threadIdx.x % 32 == 0) write_largest(key, row, ids, flaw);
}

struct rule { float temperature, top_p; int32_t top_k; };
__device__ __forceinline__ rule rule_of(const gr_draws &draws, int64_t row) { return {draws.temperature[row], draws.top_p[row], draws.top_k[row]}; }
__device__ __forceinline__ bool cut_by_count(const rule &r, int32_t vocab) { return r.top_k > 0 && r.top_k < vocab; }

// Grid: (blocks, rows); a block takes pieces blockIdx.x, gridDim.x further, ...
__global__ __launch_bounds__(PIECE_THREADS) void sum_pieces(matrix m, gr_draws draws, scratch s) {
    __shared__ double of_warp[32];
    __shared__ uint64_t largest;
    const int64_t row = blockIdx.y;
    pdl::release_next();
    pdl::wait();
    const rule r = rule_of(draws, row);
    if (!(r.temperature > 0) || cut_by_count(r, m.vocab)) return;
    if (threadIdx.x < 32) {
        const uint64_t key = largest_of_row(m, s.largest, row);
        if (threadIdx.x == 0) largest = key;
    }
    __syncthreads();        // the largest is there
    if (largest == FLAWED) return;
    const drawing d = {m, row, logit_of_key(largest), r.temperature};
    for (int32_t piece = blockIdx.x; piece < m.n_pieces; piece += gridDim.x) {
        float x[FOURS][4];
        double sum = 0;
#pragma unroll
        for (int i = 0; i < FOURS; i++) load_four(m, row, piece * PIECE + (i * PIECE_THREADS + threadIdx.x) * 4, x[i]);
#pragma unroll
        for (int i = 0; i < FOURS; i++) {
#pragma unroll
            for (int j = 0; j < 4; j++) x[i][j] = weight_of(d, x[i][j]);
            sum += sum_of_four(x[i]);
        }
        sum = lanes::sum_of_block(sum, of_warp);
        if (threadIdx.x == 0) s.sum[row * m.n_pieces + piece] = sum;
        __syncthreads();    // of_warp is free
    }
}

// ---- a block draws ----
// The first id of the piece with a weight at which the sum passes `bound`, or else its last with a weight.
__device__ int32_t find_in_piece(const drawing &d, workspace *w, int32_t piece, double before, double bound) {
    enum { OWN = PIECE / THREADS };
    const int32_t at = piece * PIECE + OWN * threadIdx.x;
    int32_t passed = INT32_MAX, last = INT32_MAX;       // last: counted from the end, so that the lowest is wanted
    float p[OWN];
    double own = 0, all;
#pragma unroll
    for (int i = 0; i < OWN; i += 4) load_weights(d, at + i, p + i), own += sum_of_four(p + i);
    double sum = before + scan_block(own, w->sum, &all);
#pragma unroll
    for (int i = 0; i < OWN; i++) {
        sum += (double)p[i];
        if (p[i] > 0) last = INT32_MAX - 1 - (at + i);
        if (p[i] > 0 && sum > bound && passed == INT32_MAX) passed = at + i;
    }
    passed = lowest_of_block(passed, w->n);
    last = lowest_of_block(last, w->n);
    return passed != INT32_MAX ? passed : INT32_MAX - 1 - last;
}

// before: the sum of the pieces before this thread's, own: of its own. *here: room for one.
__device__ int32_t draw_from_all(const drawing &d, workspace *w, double before, double own, double bound, double *here) {
    const int32_t piece = first_thread(own > 0 && before + own > bound, own > 0, w->n);
    if ((int32_t)threadIdx.x == piece) *here = before;
    __syncthreads();        // the piece's thread has written
    return find_in_piece(d, w, piece, *here, bound);
}

// Grid: a block a row.
__global__ __launch_bounds__(THREADS, 2) void finish(matrix m, gr_draws draws, scratch from, int32_t *ids, int32_t *flaw) {
    __shared__ cut_workspace w;
    __shared__ uint64_t largest;
    const int64_t row = blockIdx.x;
    pdl::release_next();
    pdl::wait();
    const rule r = rule_of(draws, row);
    if (threadIdx.x < 32) {
        const uint64_t key = largest_of_row(m, from.largest, row);
        if (threadIdx.x == 0) largest = key;
    }
    __syncthreads();        // the largest is there
    if (largest == FLAWED || !(r.temperature > 0)) {
        if (threadIdx.x == 0) write_largest(largest, row, ids, flaw);
        return;
    }
    const drawing d = {m, row, logit_of_key(largest), r.temperature};
    const bool by_count = cut_by_count(r, m.vocab);
    const double u = draws.u[row], own = !by_count && (int32_t)threadIdx.x < m.n_pieces ? from.sum[row * m.n_pieces + threadIdx.x] : 0;
    double total;
    const double before = scan_block(own, w.block.sum, &total);
    const int32_t id = by_count || r.top_p < 1 ? draw_from_cut(d, from.largest_of_run + row * m.n_runs, total, r.top_k, r.top_p, u, &w)
                                               : draw_from_all(d, &w.block, before, own, u * total, &w.height_found.above);
    if (threadIdx.x == 0) ids[row] = id;
}

}  // namespace

// Blocks of sum_pieces: as many as the device has room for at a time, about.
enum { SUM_BLOCKS = 2112 };

static int32_t parts_of(int32_t n, int32_t part) { return (n + part - 1) / part; }

extern "C" int64_t gr_cuda_sample_scratch(int32_t n_rows_max, int32_t vocab) {
    const int64_t of_pieces = parts_of(vocab, PIECE) * (int64_t)(sizeof(uint64_t) + sizeof(double));
    return n_rows_max * (of_pieces + parts_of(vocab, RUN) * (int64_t)sizeof(float));
}

static scratch lay_out(void *memory, int64_t n_rows, const matrix &m) {
    scratch s;
    s.largest = (uint64_t *)memory;
    s.sum = (double *)(s.largest + n_rows * m.n_pieces);
    s.largest_of_run = (float *)(s.sum + n_rows * m.n_pieces);
    return s;
}

extern "C" grace_status gr_cuda_sample(const float *logits, int64_t step, int32_t n_rows, int32_t vocab, const gr_draws *draws, int32_t *ids,
                                       int32_t *flaw, void *memory, gr_cuda_stream stream) {
    grace_status st = GRACE_OK;
    const matrix m = {logits, step, vocab, parts_of(vocab, PIECE), parts_of(vocab, RUN), step % 4 == 0 && (uintptr_t)logits % 16 == 0};
    const scratch s = lay_out(memory, n_rows, m);
    const int32_t of_row = SUM_BLOCKS / (n_rows > 0 ? n_rows : 1) + 1;
    const dim3 pieces((unsigned)m.n_pieces, (unsigned)n_rows), sums((unsigned)(of_row < m.n_pieces ? of_row : m.n_pieces), (unsigned)n_rows);
    GR_CHECK(vocab >= 1 && vocab <= GR_CUDA_VOCAB_MAX, GRACE_ERR_LIMIT, "cuda: %d logits to sample from, expected 1 to %d", vocab, GR_CUDA_VOCAB_MAX);
    GR_CHECK(step >= vocab, GRACE_ERR_ARG, "cuda: rows of %d logits, %lld apart", vocab, (long long)step);
    if (n_rows == 0) return GRACE_OK;
    pdl::launch(draws ? find_largest<true> : find_largest<false>, pieces, PIECE_THREADS, 0, stream, true, m, s);
    if (draws) {
        pdl::launch(sum_pieces, sums, PIECE_THREADS, 0, stream, true, m, *draws, s);
        pdl::launch(finish, (unsigned)n_rows, THREADS, 0, stream, true, m, *draws, s, ids, flaw);
    } else pdl::launch(finish_greedy, (unsigned)parts_of(n_rows, PIECE_THREADS / 32), PIECE_THREADS, 0, stream, true, m, n_rows, s, ids, flaw);
    st = gr_cuda_status(cudaGetLastError(), "sample");
done:
    return st;
}
