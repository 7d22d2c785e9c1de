// What attention does by rows: lists of work, once a step; norm, clip, rope and append, once a layer.
#include <cuda_bf16.h>

#include "compute/cuda/attention_work.h"

namespace {

typedef __nv_bfloat16 bf16;

enum { LIST_THREADS = 1024, LIST_WARPS = LIST_THREADS / 32, ROW_THREADS = 256, ROW_WARPS = ROW_THREADS / 32 };

// ---- lists ----

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
    gr_cuda_list prompt, decode;
    int32_t rows_per_tile, n_partials_max;
};

// Rows of a prompt are cut where a multiple of rows_per_tile begins, so neighbours mostly do the same amount of work.
__device__ bool same_tile(const list_args &x, int32_t row, int32_t next) {
    const gr_cuda_attention_step &s = x.step;
    return s.kv_sequence[next] == s.kv_sequence[row] && !s.decode[next] && s.position[next] / x.rows_per_tile == s.position[row] / x.rows_per_tile;
}

__device__ counts count_row(const list_args &x, int32_t row) {
    if (row >= x.step.n_rows || x.step.kv_sequence[row] < 0) return {0, 0, 0};
    int32_t n_splits = x.step.position[row] / GR_CUDA_SPLIT + 1;
    if (x.step.decode[row]) return {0, n_splits, n_splits > 1 ? n_splits : 0};
    return {row == 0 || x.step.decode[row - 1] || !same_tile(x, row, row - 1), 0, 0};
}

__device__ void add_tile(const list_args &x, int32_t row, gr_cuda_work *to) {
    int32_t n = 1;
    while (n < x.rows_per_tile && row + n < x.step.n_rows && same_tile(x, row, row + n)) n++;
    *to = {row, n, x.step.kv_sequence[row], x.step.position[row], 0, x.step.position[row + n - 1] + 1, 0, -1};
}

__device__ void add_splits(const list_args &x, int32_t row, int32_t n_splits, int32_t partial, gr_cuda_work *to) {
    int32_t position = x.step.position[row];
    for (int32_t s = 0; s < n_splits; s++)
        to[s] = {row, 1, x.step.kv_sequence[row], position, s * GR_CUDA_SPLIT, min((s + 1) * GR_CUDA_SPLIT, position + 1), s, n_splits > 1 ? partial : -1};
}

// One block, LIST_THREADS rows at a time. Lists that are longer than what was opened are the caller's mistake.
__global__ __launch_bounds__(LIST_THREADS) void build_lists(list_args x) {
    counts done = {0, 0, 0}, all;
    for (int32_t base = 0; base < x.step.n_rows; base += LIST_THREADS) {
        int32_t row = base + threadIdx.x;
        counts own = count_row(x, row), at = done + sum_before(own, &all);
        done = done + all;
        if (done.tiles > x.prompt.n_max || done.splits > x.decode.n_max || done.partials > x.n_partials_max) __trap();
        if (own.tiles) add_tile(x, row, x.prompt.work + at.tiles);
        if (own.splits) add_splits(x, row, own.splits, at.partials, x.decode.work + at.splits);
    }
    if (threadIdx.x == 0) *x.prompt.n = done.tiles, *x.decode.n = done.splits;
}

// ---- rows: norm, clip, rope, append ----

struct norm_args { const float *weight; int32_t size; float eps; };

struct row_args {
    gr_cuda_attention_step step;
    gr_cuda_attention_layer layer;
    int32_t n_heads, n_kv_heads, key_dim, value_dim;
    int32_t rope_dim;
    bool rope_neighbours;
    const float *cosine, *sine;
};

__device__ float sum_of_warp(float x) {
    for (int32_t d = 16; d > 0; d /= 2) x += __shfl_xor_sync(~0u, x, d);
    return x;
}

__device__ float sum_of_block(float x) {
    __shared__ float of_warp[ROW_WARPS];
    x = sum_of_warp(x);
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();        // sums of warps are there
    x = 0;
    for (int32_t w = 0; w < ROW_WARPS; w++) x += of_warp[w];
    return x;
}

__device__ float2 two(const bf16 *x) { return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162 *>(x)); }
__device__ void store_two(bf16 *to, float a, float b) { *reinterpret_cast<__nv_bfloat162 *>(to) = __floats2bfloat162_rn(a, b); }

// Squares of n elements, summed over the threads of a warp or block: this one is `thread` of n_threads.
__device__ float add_squares(const bf16 *x, int32_t n, int32_t thread, int32_t n_threads) {
    float sum = 0;
    for (int32_t i = 2 * thread; i < n; i += 2 * n_threads) {
        float2 v = two(x + i);
        sum += v.x * v.x + v.y * v.y;
    }
    return sum;
}

__device__ float scale_of(float squares, const norm_args &norm) { return 1.0f / sqrtf(squares / (float)norm.size + norm.eps); }

// One head as it enters attention, up to the turn: elements i and i + 1.
struct head_view {
    const bf16 *x;
    const float *weight;            // of the head's first element; NULL: no norm
    int32_t n_normed;
    float scale, clip;
    __device__ float2 at(int32_t i) const {
        float2 v = two(x + i);
        if (weight && i < n_normed) v.x *= scale * weight[i];
        if (weight && i + 1 < n_normed) v.y *= scale * weight[i + 1];
        if (clip > 0) v = {fminf(fmaxf(v.x, -clip), clip), fminf(fmaxf(v.y, -clip), clip)};
        return v;
    }
};

// A warp writes a head: plain elements, then those that turn. `to` may be where the head comes from: a thread writes only what it alone has read.
__device__ void write_head(const row_args &a, const head_view &head, int32_t position, bf16 *to) {
    int32_t lane = threadIdx.x % 32, still = a.key_dim - a.rope_dim, half = a.rope_dim / 2;
    const float *cosine = a.cosine + (int64_t)position * half, *sine = a.sine + (int64_t)position * half;
    for (int32_t i = 2 * lane; i < still; i += 64) {
        float2 v = head.at(i);
        store_two(to + i, v.x, v.y);
    }
    if (a.rope_neighbours)
        for (int32_t i = lane; i < half; i += 32) {
            float2 v = head.at(still + 2 * i);
            store_two(to + still + 2 * i, v.x * cosine[i] - v.y * sine[i], v.y * cosine[i] + v.x * sine[i]);
        }
    else
        for (int32_t i = 2 * lane; i < half; i += 64) {
            float2 v = head.at(still + i), w = head.at(still + half + i);
            store_two(to + still + i, v.x * cosine[i] - w.x * sine[i], v.y * cosine[i + 1] - w.y * sine[i + 1]);
            store_two(to + still + half + i, w.x * cosine[i] + v.x * sine[i], w.y * cosine[i + 1] + v.y * sine[i + 1]);
        }
}

// The block's row of q or k.
__device__ void write_heads(const row_args &a, const bf16 *from, int32_t n_heads, const norm_args &norm, int32_t position, bf16 *to) {
    const bool whole = norm.weight && norm.size == n_heads * a.key_dim;
    float scale = 0;
    if (whole) scale = scale_of(sum_of_block(add_squares(from, norm.size, threadIdx.x, ROW_THREADS)), norm);
    for (int32_t h = threadIdx.x / 32; h < n_heads; h += ROW_WARPS) {
        head_view head = {from + h * a.key_dim, norm.weight, whole ? a.key_dim : norm.size, scale, a.layer.clip};
        if (whole) head.weight += h * a.key_dim;
        else if (norm.weight) head.scale = scale_of(sum_of_warp(add_squares(head.x, norm.size, threadIdx.x % 32, 32)), norm);
        write_head(a, head, position, to + h * a.key_dim);
    }
}

__device__ void copy_values(const bf16 *from, int32_t n, float clip, bf16 *to) {
    for (int32_t i = 8 * threadIdx.x; i < n; i += 8 * ROW_THREADS) {
        uint4 eight = *reinterpret_cast<const uint4 *>(from + i);
        bf16 *v = reinterpret_cast<bf16 *>(&eight);
        if (clip > 0)
            for (int32_t j = 0; j < 8; j++) v[j] = __float2bfloat16_rn(fminf(fmaxf(__bfloat162float(v[j]), -clip), clip));
        *reinterpret_cast<uint4 *>(to + i) = eight;
    }
}

__device__ void write_zeros(bf16 *to, int32_t n) {
    for (int32_t i = 8 * threadIdx.x; i < n; i += 8 * ROW_THREADS) *reinterpret_cast<uint4 *>(to + i) = make_uint4(0, 0, 0, 0);
}

// grid: (rows, 3: q, k, v; without v 2). Agrees with row_task() of cpu/attention.c.
__global__ __launch_bounds__(ROW_THREADS) void prepare_rows(row_args a) {
    const int64_t row = blockIdx.x;
    const gr_cuda_attention_layer &l = a.layer;
    const int32_t sequence = a.step.kv_sequence[row], position = a.step.position[row];
    if (sequence < 0) {
        if (blockIdx.y == 0) write_zeros((bf16 *)l.out + row * a.n_heads * a.value_dim, a.n_heads * a.value_dim);
        return;
    }
    if (blockIdx.y == 0) {
        bf16 *q = (bf16 *)l.q + row * l.q_step;
        write_heads(a, q, a.n_heads, {l.q_norm, l.q_norm_size, l.norm_eps}, position, q);
        return;
    }
    int64_t place = (int64_t)a.step.page_table[(int64_t)sequence * a.step.pages_max + position / GR_KV_PAGE] * GR_KV_PAGE + position % GR_KV_PAGE;
    int32_t k_width = a.n_kv_heads * a.key_dim, v_width = a.n_kv_heads * a.value_dim;
    if (blockIdx.y == 1)
        write_heads(a, (const bf16 *)l.k + row * l.k_step, a.n_kv_heads, {l.k_norm, l.k_norm_size, l.norm_eps}, position, (bf16 *)l.k_pages + place * k_width);
    else copy_values((const bf16 *)l.v + row * l.v_step, v_width, l.clip, (bf16 *)l.v_pages + place * v_width);
}

}  // namespace

extern "C" grace_status gr_cuda_attention_lists(gr_cuda_attention *a, const gr_cuda_attention_step *step, gr_cuda_stream stream) {
    GR_ASSERT(step->n_rows <= a->sizes.n_rows_max);
    if (step->n_rows == 0) return GRACE_OK;
    build_lists<<<1, LIST_THREADS, 0, stream>>>({*step, a->prompt, a->decode, a->rows_per_tile, a->n_partials_max});
    return gr_cuda_status(cudaGetLastError(), "attention_lists");
}

extern "C" grace_status gr_cuda_attention_prepare(const gr_cuda_attention *a, const gr_cuda_attention_step *step, const gr_cuda_attention_layer *layer,
                                                  gr_cuda_stream stream) {
    const gr_cuda_attention_sizes *s = &a->sizes;
    row_args args = {*step, *layer, s->n_heads, s->n_kv_heads, s->key_dim, s->value_dim, a->rope_dim, a->rope_neighbours, a->cosine, a->sine};
    if (step->n_rows == 0) return GRACE_OK;
    prepare_rows<<<dim3((unsigned)step->n_rows, s->latent ? 2 : 3), ROW_THREADS, 0, stream>>>(args);
    return gr_cuda_status(cudaGetLastError(), "attention_prepare");
}
