// Attention's lists of work, once a step: from the rows' sequences, positions and kinds to tiles of prompts and splits of decode rows.
#include "compute/cuda/attention_work.h"

namespace {

enum { LIST_THREADS = 1024, LIST_WARPS = LIST_THREADS / 32 };

// What a row adds: a tile of prompt rows that starts with it, splits of a decode row, and of them partial results.
struct counts { int32_t tiles, splits, partials; };

__device__ counts operator+(counts a, counts b) { return {a.tiles + b.tiles, a.splits + b.splits, a.partials + b.partials}; }

__device__ counts from_left(counts c, int32_t lanes) {
    return {__shfl_up_sync(~0u, c.tiles, lanes), __shfl_up_sync(~0u, c.splits, lanes), __shfl_up_sync(~0u, c.partials, lanes)};
}

// Sum over threads before this one of the block; *all: over all of them.
__device__ counts sum_before(counts own, counts *all) {
    __shared__ counts of_warp[LIST_WARPS + 1];
    int32_t lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    counts sum = own, before;
    for (int32_t d = 1; d < 32; d *= 2) {
        counts left = from_left(sum, d);
        if (lane >= d) sum = sum + left;
    }
    before = {sum.tiles - own.tiles, sum.splits - own.splits, sum.partials - own.partials};
    __syncthreads();        // the last call's sums are read
    if (lane == 31) of_warp[warp + 1] = sum;
    if (threadIdx.x == 0) of_warp[0] = {0, 0, 0};
    __syncthreads();        // sums of warps are there
    for (int32_t w = 0; w <= warp; w++) before = before + of_warp[w];
    *all = {0, 0, 0};
    for (int32_t w = 0; w <= LIST_WARPS; w++) *all = *all + of_warp[w];
    return before;
}

struct list_args {
    gr_cuda_attention_step step;
    gr_cuda_list prompt, decode;    // decode may be none: then no row is
    int32_t rows_per_tile, n_partials_max;
};

// Rows of a prompt are cut where a multiple of rows_per_tile begins, so neighbours mostly do the same amount of work. `other`: a row beside this one.
__device__ bool same_tile(const list_args &x, int32_t row, int32_t other) {
    const gr_cuda_attention_step &s = x.step;
    return other >= 0 && other < s.n_rows && s.kv_sequence[other] == s.kv_sequence[row] && !s.decode[other] &&
           s.position[other] / x.rows_per_tile == s.position[row] / x.rows_per_tile;
}

__device__ bool is_real(const list_args &x, int32_t row) { return row < x.step.n_rows && x.step.kv_sequence[row] >= 0; }

__device__ counts count_row(const list_args &x, int32_t row) {
    if (!is_real(x, row)) return {0, 0, 0};
    int32_t n_splits = x.step.position[row] / GR_CUDA_SPLIT + 1;
    if (x.step.decode[row]) return {0, n_splits, n_splits > 1 ? n_splits : 0};
    return {!same_tile(x, row, row - 1), 0, 0};
}

// A tile's first row and its last write the parts that each knows.
__device__ void add_tile(const list_args &x, int32_t row, bool starts, gr_cuda_work *to) {
    int32_t position = x.step.position[row];
    if (starts) to->row = row, to->sequence = x.step.kv_sequence[row], to->first = position, to->from = 0, to->split = 0, to->partial = -1;
    if (!same_tile(x, row, row + 1)) to->end_row = row + 1, to->to = position + 1;
}

__device__ void add_splits(const list_args &x, int32_t row, int32_t n_splits, int32_t partial, gr_cuda_work *to) {
    int32_t position = x.step.position[row];
    if (n_splits == 1) partial = -1;
    for (int32_t s = 0; s < n_splits; s++)
        to[s] = {row, row + 1, x.step.kv_sequence[row], position, s * GR_CUDA_SPLIT, min((s + 1) * GR_CUDA_SPLIT, position + 1), s, partial};
}

// One block, LIST_THREADS rows at a time. Lists that are longer than what was opened are the caller's mistake.
__global__ __launch_bounds__(LIST_THREADS) void build_lists(list_args x) {
    counts done = {0, 0, 0}, all;
    for (int32_t base = 0; base < x.step.n_rows; base += LIST_THREADS) {
        int32_t row = base + threadIdx.x;
        counts own = count_row(x, row), at = done + sum_before(own, &all);
        done = done + all;
        if (done.tiles > x.prompt.n_max || done.splits > x.decode.n_max || done.partials > x.n_partials_max) __trap();
        if (is_real(x, row) && !x.step.decode[row]) add_tile(x, row, own.tiles, x.prompt.work + at.tiles + own.tiles - 1);
        if (own.splits) add_splits(x, row, own.splits, at.partials, x.decode.work + at.splits);
    }
    if (threadIdx.x == 0) *x.prompt.n = done.tiles;
    if (threadIdx.x == 0 && x.decode.n) *x.decode.n = done.splits;
}

}  // namespace

extern "C" grace_status gr_cuda_attention_lists(gr_cuda_attention *a, const gr_cuda_attention_step *step, gr_cuda_stream stream) {
    GR_ASSERT(step->n_rows <= a->sizes.n_rows_max);
    if (step->n_made > 0) build_lists<<<1, LIST_THREADS, 0, stream>>>({gr_cuda_made_step(step), a->made, {}, a->made_rows_per_tile, 0});
    if (step->n_made < step->n_rows)
        build_lists<<<1, LIST_THREADS, 0, stream>>>({gr_cuda_other_step(step), a->prompt, a->decode, a->rows_per_tile, a->n_partials_max});
    return gr_cuda_status(cudaGetLastError(), "attention_lists");
}
