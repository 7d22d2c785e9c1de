// What attention does by rows, once a layer: norm, clip, rope; q in place, k and v to the pages. A block has a row of q, k or v; some lanes share a head.
#include <cuda_bf16.h>

#include "compute/cuda/attention_work.h"
#include "compute/cuda/pdl.cuh"

namespace {

typedef __nv_bfloat16 bf16;

enum { ROW_THREADS = 128 };

struct row_args {
    gr_cuda_attention_step step;
    gr_cuda_attention_layer layer;
    int32_t n_heads, n_kv_heads, q_dim, k_dim, value_dim;
    int32_t rope_dim;
    bool rope_neighbours;
    bool keeps_k;                   // k is written in place, too
    int32_t q_first;                // from which element of a head on q is written: the others are already what they should be
    int32_t q_lanes, k_lanes;       // threads that share a head: a power of two, at most 32
    const float *cosine, *sine;
};

// ---- W elements: 16 bytes of bf16, or 4 where heads or their turning parts are cut more finely ----
template <int W> struct piece { float v[W]; };

template <int W> struct word;
template <> struct word<8> { typedef uint4 type; };
template <> struct word<2> { typedef uint32_t type; };

template <int W> __device__ piece<W> load(const bf16 *from) {
    typename word<W>::type raw = *reinterpret_cast<const typename word<W>::type *>(from);
    const bf16 *x = reinterpret_cast<const bf16 *>(&raw);
    piece<W> p;
#pragma unroll
    for (int i = 0; i < W; i++) p.v[i] = __bfloat162float(x[i]);
    return p;
}

template <int W> __device__ void store(bf16 *to, const piece<W> &p) {
    typename word<W>::type raw;
    bf16 *x = reinterpret_cast<bf16 *>(&raw);
#pragma unroll
    for (int i = 0; i < W; i++) x[i] = __float2bfloat16_rn(p.v[i]);
    *reinterpret_cast<typename word<W>::type *>(to) = raw;
}

// ---- norm ----
struct norm_args { const float *weight; int32_t size; float eps; };

// Over `lanes` neighbouring lanes.
__device__ float sum_of_lanes(float x, int32_t lanes) {
    for (int32_t d = lanes / 2; d > 0; d /= 2) x += __shfl_xor_sync(~0u, x, d);
    return x;
}

__device__ float sum_of_block(float x) {
    __shared__ float of_warp[ROW_THREADS / 32];
    x = sum_of_lanes(x, 32);
    __syncthreads();        // the last call's sums are read
    if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = x;
    __syncthreads();        // sums of warps are there
    x = 0;
    for (int32_t w = 0; w < blockDim.x / 32; w++) x += of_warp[w];
    return x;
}

// This thread's part of the squares of n elements.
template <int W> __device__ float add_squares(const bf16 *x, int32_t n, int32_t thread, int32_t n_threads) {
    float sum = 0;
    for (int32_t i = W * thread; i < n; i += W * n_threads) {
        piece<W> p = load<W>(x + i);
#pragma unroll
        for (int j = 0; j < W; j++) sum += p.v[j] * p.v[j];
    }
    return sum;
}

__device__ float scale_of(float squares, const norm_args &norm) { return 1.0f / sqrtf(squares / (float)norm.size + norm.eps); }

// ---- one head ----
struct head_view {
    const bf16 *x;
    int32_t dim;
    const float *weight;            // of the head's first element; NULL: no norm
    int32_t n_normed;
    float scale, clip;
};

// W elements from i on as they enter attention, up to the turn. A norm ends at a multiple of 8.
template <int W> __device__ piece<W> enter(const head_view &head, int32_t i) {
    piece<W> p = load<W>(head.x + i);
#pragma unroll
    for (int j = 0; j < W; j++) {
        if (head.weight && i < head.n_normed) p.v[j] *= head.scale * head.weight[i + j];
        if (head.clip > 0) p.v[j] = fminf(fmaxf(p.v[j], -head.clip), head.clip);
    }
    return p;
}

template <int W> __device__ void turn_neighbours(piece<W> &p, const float *cosine, const float *sine) {
#pragma unroll
    for (int j = 0; j < W; j += 2) {
        const float a = p.v[j], b = p.v[j + 1], c = cosine[j / 2], s = sine[j / 2];
        p.v[j] = a * c - b * s, p.v[j + 1] = b * c + a * s;
    }
}

template <int W> __device__ void turn_halves(piece<W> &p, piece<W> &q, const float *cosine, const float *sine) {
#pragma unroll
    for (int j = 0; j < W; j++) {
        const float a = p.v[j], b = q.v[j];
        p.v[j] = a * cosine[j] - b * sine[j], q.v[j] = b * cosine[j] + a * sine[j];
    }
}

// One place or two; `also` may be NULL.
template <int W> __device__ void store_both(bf16 *to, bf16 *also, int32_t i, const piece<W> &p) {
    store<W>(to + i, p);
    if (also) store<W>(also + i, p);
}

// The lanes of a head write it from `first` on: plain elements, then those that turn. `to` or `also` may be where the head comes from: a thread writes only
// what it alone reads.
template <int W>
__device__ void write_head(const row_args &a, const head_view &head, int32_t first, int32_t lanes, int32_t position, bf16 *to, bf16 *also) {
    const int32_t still = head.dim - a.rope_dim, half = a.rope_dim / 2, step = W * lanes;
    const float *cosine = a.cosine + (int64_t)position * half, *sine = a.sine + (int64_t)position * half;
    int32_t i = first + W * (threadIdx.x % lanes);
    for (; i < still; i += step) store_both<W>(to, also, i, enter<W>(head, i));
    if (a.rope_neighbours)
        for (; i < head.dim; i += step) {
            piece<W> p = enter<W>(head, i);
            turn_neighbours<W>(p, cosine + (i - still) / 2, sine + (i - still) / 2);
            store_both<W>(to, also, i, p);
        }
    else
        for (; i < still + half; i += step) {
            piece<W> p = enter<W>(head, i), q = enter<W>(head, i + half);
            turn_halves<W>(p, q, cosine + i - still, sine + i - still);
            store_both<W>(to, also, i, p);
            store_both<W>(to, also, i + half, q);
        }
}

// A row of q or k, and how it is shared out.
struct head_rows {
    const bf16 *row;                // all heads
    int32_t n_heads, dim;
    norm_args norm;
    int32_t first;                  // element of every head that is written first
    int32_t lanes;                  // threads that share a head
};

template <int W> __device__ void write_heads(const row_args &a, const head_rows &r, int32_t position, bf16 *to, bf16 *also) {
    const bool whole = r.norm.weight && r.norm.size == r.n_heads * r.dim;
    float scale = 0;
    if (whole) scale = scale_of(sum_of_block(add_squares<W>(r.row, r.norm.size, threadIdx.x, blockDim.x)), r.norm);
    for (int32_t base = 0; base < r.n_heads; base += blockDim.x / r.lanes) {
        const int32_t wanted = base + threadIdx.x / r.lanes, h = min(wanted, r.n_heads - 1);       // lanes of all heads meet in the sum
        const int32_t at = h * r.dim;
        head_view head = {r.row + at, r.dim, r.norm.weight, whole ? r.dim : r.norm.size, scale, a.layer.clip};
        if (whole) head.weight += at;
        else if (r.norm.weight)
            head.scale = scale_of(sum_of_lanes(add_squares<W>(head.x, r.norm.size, threadIdx.x % r.lanes, r.lanes), r.lanes), r.norm);
        if (wanted < r.n_heads) write_head<W>(a, head, r.first, r.lanes, position, to + at, also ? also + at : NULL);
    }
}

// ---- values, and rows that are none ----
__device__ void copy_values(const bf16 *from, int32_t n, float clip, bf16 *to) {
    for (int32_t i = 8 * threadIdx.x; i < n; i += 8 * blockDim.x) {
        piece<8> p = load<8>(from + i);
        for (int j = 0; j < 8 && clip > 0; j++) p.v[j] = fminf(fmaxf(p.v[j], -clip), clip);
        store<8>(to + i, p);
    }
}

__device__ void write_zeros(bf16 *to, int32_t n) {
    for (int32_t i = 8 * threadIdx.x; i < n; i += 8 * blockDim.x) *reinterpret_cast<uint4 *>(to + i) = make_uint4(0, 0, 0, 0);
}

// Where a row's key and value lie in the pages, in positions.
__device__ int64_t place_of(const row_args &a, int32_t sequence, int32_t position) {
    return (int64_t)a.step.page_table[(int64_t)sequence * a.step.pages_max + position / GR_KV_PAGE] * GR_KV_PAGE + position % GR_KV_PAGE;
}

// grid: (rows, 3: q, k, v; without v 2). Agrees with row_task() of cpu/attention.c.
template <int W> __global__ __launch_bounds__(ROW_THREADS) void prepare_rows(row_args a) {
    pdl::release_next();
    pdl::wait();
    const int64_t row = blockIdx.x;
    const gr_cuda_attention_layer &l = a.layer;
    const int32_t sequence = a.step.kv_sequence[row], position = a.step.position[row];
    if (sequence < 0) {
        if (blockIdx.y == 0) write_zeros((bf16 *)l.out + row * a.n_heads * a.value_dim, a.n_heads * a.value_dim);
        return;
    }
    if (blockIdx.y == 0) {
        bf16 *q = (bf16 *)l.q + row * l.q_step;
        write_heads<W>(a, {q, a.n_heads, a.q_dim, {l.q_norm, l.q_norm_size, l.norm_eps}, a.q_first, a.q_lanes}, position, q, NULL);
        return;
    }
    const int64_t place = place_of(a, sequence, position);
    const int32_t k_width = a.n_kv_heads * a.k_dim, v_width = a.n_kv_heads * a.value_dim;
    if (blockIdx.y == 1) {
        bf16 *k = (bf16 *)l.k + row * l.k_step;
        write_heads<W>(a, {k, a.n_kv_heads, a.k_dim, {l.k_norm, l.k_norm_size, l.norm_eps}, 0, a.k_lanes}, position, (bf16 *)l.k_pages + place * k_width,
                       a.keeps_k ? k : NULL);
    } else copy_values((const bf16 *)l.v + row * l.v_step, v_width, l.clip, (bf16 *)l.v_pages + place * v_width);
}

// ---- host ----
// Threads of a head whose elements from `first` on are written w at a time: as many as there are pieces, a power of two.
int32_t lanes_for(const row_args &a, int32_t dim, int32_t first, int32_t w) {
    const int32_t n_pieces = (dim - first - (a.rope_neighbours ? 0 : a.rope_dim / 2)) / w;
    int32_t lanes = 1;
    while (lanes < 32 && 2 * lanes <= n_pieces) lanes *= 2;
    return lanes;
}

row_args args_of(const gr_cuda_attention *a, const gr_cuda_attention_step &step, const gr_cuda_attention_layer &layer) {
    const gr_cuda_attention_sizes &s = a->sizes;
    row_args args = {};
    args.step = step, args.layer = layer;
    args.n_heads = s.n_heads, args.n_kv_heads = s.n_kv_heads, args.q_dim = args.k_dim = s.key_dim, args.value_dim = s.value_dim;
    args.rope_dim = a->rope_dim, args.rope_neighbours = a->rope_neighbours, args.cosine = a->cosine, args.sine = a->sine;
    return args;
}

// Made rows' queries are as long as made keys; their latents stay in place, for keys and values to be made of.
row_args made_args(const gr_cuda_attention *a, const gr_cuda_attention_step *step, const gr_cuda_attention_layer *layer) {
    row_args args = args_of(a, gr_cuda_made_step(step), *layer);
    args.q_dim = a->sizes.made_key_dim, args.value_dim = a->sizes.made_value_dim, args.keeps_k = true;
    args.layer.q = layer->made.q, args.layer.q_step = (int64_t)args.n_heads * args.q_dim, args.layer.out = layer->made.out;
    args.layer.k = (bf16 *)layer->k + (step->n_rows - step->n_made) * layer->k_step;
    return args;
}

void launch(row_args args, bool latent, cudaStream_t stream) {
    const bool wide = args.rope_dim % (args.rope_neighbours ? 8 : 16) == 0;     // what turns is cut in pieces of 8
    const int32_t w = wide ? 8 : 2;
    if (args.step.n_rows == 0) return;
    args.q_first = args.layer.q_norm || args.layer.clip > 0 ? 0 : args.q_dim - args.rope_dim;
    args.q_lanes = lanes_for(args, args.q_dim, args.q_first, w), args.k_lanes = lanes_for(args, args.k_dim, 0, w);
    pdl::launch(wide ? prepare_rows<8> : prepare_rows<2>, dim3((unsigned)args.step.n_rows, latent ? 2 : 3), ROW_THREADS, 0, stream, true, args);
}

}  // namespace

extern "C" grace_status gr_cuda_attention_prepare(const gr_cuda_attention *a, const gr_cuda_attention_step *step, const gr_cuda_attention_layer *layer,
                                                  gr_cuda_stream stream) {
    launch(args_of(a, gr_cuda_other_step(step), *layer), a->sizes.latent, stream);
    launch(made_args(a, step, layer), a->sizes.latent, stream);
    return gr_cuda_status(cudaGetLastError(), "attention_prepare");
}
