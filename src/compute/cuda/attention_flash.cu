// The kernels of attention_flash.cuh for the head dimensions there are, how splits of a row end, and their launch.
#include "compute/cuda/attention_flash.cuh"
#include "compute/cuda/pdl.cuh"

namespace {

using namespace attention;

enum { HEADS_MAX = 16 };        // that a decode block takes

// Whether this block is the last of the row's splits [first, end) to come.
__device__ bool is_last_split(const flash_args &x, const unit &u, int32_t n_splits) {
    __shared__ int32_t before;
    __threadfence();
    __syncthreads();        // the block's partial result is written
    if (threadIdx.x == 0) before = atomicAdd(&x.n_done[u.counter], 1);
    __syncthreads();        // before is there
    if (before != n_splits - 1) return false;
    if (threadIdx.x == 0) x.n_done[u.counter] = 0;
    __threadfence();
    return true;
}

// The splits' sums in order; four elements a thread and turn. Shared: the factor of each head and split is made of its top and total.
template <int VD> __device__ void write_combined(const flash_args &x, const unit &u, int32_t first, int32_t end) {
    __shared__ float top_of[HEADS_MAX], factor_of[HEADS_MAX];
    const int64_t at = (int64_t)(u.w.partial + first) * x.n_heads + u.first_head;
    const int32_t n_splits = end - first, lane = threadIdx.x % 32;
    for (int32_t h = threadIdx.x / 32; h < u.n_heads; h += blockDim.x / 32) {
        const float sink = x.layer.sinks ? x.layer.sinks[u.first_head + h] * LOG2_E : -INFINITY;
        float most = sink, total = 0;
        for (int32_t s = lane; s < n_splits; s += 32) most = fmaxf(most, __ldcg(&x.partial_sum[at + (int64_t)s * x.n_heads + h]).x);
        for (int32_t d = 16; d > 0; d /= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, d));
        for (int32_t s = lane; s < n_splits; s += 32) {
            const float2 part = __ldcg(&x.partial_sum[at + (int64_t)s * x.n_heads + h]);
            total += part.y * exp2_of(part.x - most);
        }
        for (int32_t d = 16; d > 0; d /= 2) total += __shfl_xor_sync(~0u, total, d);
        if (lane == 0) top_of[h] = most, factor_of[h] = 1 / (total + exp2_of(sink - most));
    }
    __syncthreads();        // tops and factors are there
    for (int32_t i = threadIdx.x; i < u.n_heads * (VD / 4); i += blockDim.x) {
        const int32_t h = i / (VD / 4), dim = i % (VD / 4) * 4;
        float4 sum = make_float4(0, 0, 0, 0);
#pragma unroll 8
        for (int32_t s = 0; s < n_splits; s++) {
            const int64_t from = at + (int64_t)s * x.n_heads + h;
            const float share = exp2_of(__ldcg(&x.partial_sum[from]).x - top_of[h]);
            const float4 part = __ldcg(reinterpret_cast<const float4 *>(x.partial_out + from * VD + dim));
            sum.x += part.x * share, sum.y += part.y * share, sum.z += part.z * share, sum.w += part.w * share;
        }
        uint32_t *to = reinterpret_cast<uint32_t *>((bf16 *)x.layer.out + ((int64_t)u.w.row * x.n_heads + u.first_head + h) * VD + dim);
        to[0] = pack_two(sum.x * factor_of[h], sum.y * factor_of[h]), to[1] = pack_two(sum.z * factor_of[h], sum.w * factor_of[h]);
    }
}

// grid: at most as many as the list may have; blocks walk it.
template <int KD, int VD, form FORM, int WM, int WN, int KEYS, int STAGES>
__global__ __launch_bounds__(32 * WM *WN, 2) void attend(flash_args x) {
    extern __shared__ __align__(16) char shared[];
    pdl::release_next();
    pdl::wait();
    const int32_t n_parts = x.n_kv_heads * x.heads.n_parts;
    gr_cuda_work work = x.list.work[blockIdx.x / n_parts];      // asked for together with the list's length; there may be none
    const int32_t n_units = *x.list.n * n_parts, step = x.from_end ? -(int32_t)gridDim.x : (int32_t)gridDim.x;
    int32_t index = x.from_end ? n_units - 1 - (int32_t)blockIdx.x : (int32_t)blockIdx.x;
    if (x.from_end && index >= 0) work = x.list.work[index / n_parts];
    for (; index >= 0 && index < n_units; index += step) {
        const unit u = unit_of(x, work, n_parts, index % n_parts);
        if (index + step >= 0 && index + step < n_units) work = x.list.work[(index + step) / n_parts];     // the next, while this is done
        if (u.from >= u.to) continue;       // all of it lies before the window
        const int32_t seen_from = x.layer.window > 0 ? max(0, u.w.first - x.layer.window + 1) : 0;
        const int32_t first_split = seen_from / GR_CUDA_SPLIT, end_split = u.w.first / GR_CUDA_SPLIT + 1;
        flash<KD, VD, FORM, WM, WN, KEYS, STAGES> f(x, u, shared);
        f.walk();
        f.finish_sums();
        if (WM > 1 || u.w.partial < 0 || end_split - first_split == 1) f.write_result();
        else {
            f.write_partial();
            if (is_last_split(x, u, end_split - first_split)) write_combined<VD>(x, u, first_split, end_split);
        }
        __syncthreads();        // shared memory may be filled again
    }
}

}  // namespace

// ---- which kernels there are ----

typedef void (*attend_kernel)(flash_args);
typedef struct launch_shape { attend_kernel kernel; int32_t threads, queries, bytes; } launch_shape;

struct gr_cuda_flash { int32_t key_dim, value_dim; attention::form form; launch_shape prompt, decode; };       // made keys: prompts alone

namespace {

template <int KD, int VD, form FORM, int WM, int WN, int KEYS, int STAGES> constexpr launch_shape shape_of() {
    typedef shape<KD, VD, FORM, WM, WN, KEYS, STAGES> S;
    return {attend<KD, VD, FORM, WM, WN, KEYS, STAGES>, S::THREADS, S::QUERIES, S::BYTES};
}

const gr_cuda_flash kernels[] = {
    {32, 32, HEADS, shape_of<32, 32, HEADS, 4, 1, 64, 2>(), shape_of<32, 32, HEADS, 1, 2, 64, 3>()},
    {64, 64, HEADS, shape_of<64, 64, HEADS, 4, 1, 64, 2>(), shape_of<64, 64, HEADS, 1, 4, 64, 3>()},
    {128, 128, HEADS, shape_of<128, 128, HEADS, 4, 1, 64, 2>(), shape_of<128, 128, HEADS, 1, 4, 64, 3>()},
    {80, 64, LATENT, shape_of<80, 64, LATENT, 4, 1, 64, 2>(), shape_of<80, 64, LATENT, 1, 4, 64, 3>()},
    {576, 512, LATENT, shape_of<576, 512, LATENT, 2, 4, 32, 2>(), shape_of<576, 512, LATENT, 1, 4, 32, 2>()},
    {48, 32, MADE, shape_of<48, 32, MADE, 4, 1, 64, 2>(), {}},
    {192, 128, MADE, shape_of<192, 128, MADE, 4, 1, 64, 2>(), {}},
};

const gr_cuda_flash *find_kernels(int32_t key_dim, int32_t value_dim, form form) {
    for (const gr_cuda_flash &f : kernels)
        if (f.key_dim == key_dim && f.value_dim == value_dim && f.form == form) return &f;
    return NULL;
}

gr_cuda_heads heads_of(int32_t group, int32_t queries) {
    const int32_t heads = group < queries ? group : queries;
    return {heads, (group + heads - 1) / heads};
}

// *n_blocks: how many the device runs at a time; 0 when it has too little shared memory for one.
grace_status open_shape(const launch_shape &shape, int32_t *n_blocks) {
    int device, most, n_processors, n_each;
    cudaError_t error = cudaGetDevice(&device);
    if (!error) error = cudaDeviceGetAttribute(&most, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    if (!error) error = cudaDeviceGetAttribute(&n_processors, cudaDevAttrMultiProcessorCount, device);
    *n_blocks = 0;
    if (error || shape.bytes > most) return gr_cuda_status(error, "attention's device");
    error = cudaFuncSetAttribute((const void *)shape.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shape.bytes);
    if (!error) error = cudaOccupancyMaxActiveBlocksPerMultiprocessor(&n_each, (const void *)shape.kernel, shape.threads, (size_t)shape.bytes);
    if (!error) *n_blocks = n_each * n_processors;
    return gr_cuda_status(error, "attention's kernel");
}

}  // namespace

static grace_status open_made(gr_cuda_attention *a) {
    const gr_cuda_attention_sizes *s = &a->sizes;
    const gr_cuda_flash *f = s->made_key_dim ? find_kernels(s->made_key_dim, s->made_value_dim, MADE) : NULL;
    if (!f) return GRACE_OK;
    const grace_status st = open_shape(f->prompt, &a->made_blocks);
    if (st || !a->made_blocks) return st;
    a->made_flash = f;
    a->made_rows_per_tile = f->prompt.queries;
    return GRACE_OK;
}

extern "C" grace_status gr_cuda_flash_open(gr_cuda_attention *a) {
    const gr_cuda_attention_sizes *s = &a->sizes;
    const int32_t group = s->n_heads / s->n_kv_heads;
    const gr_cuda_flash *f = find_kernels(s->key_dim, s->value_dim, s->latent ? LATENT : HEADS);
    if (!f) return GRACE_OK;
    grace_status st = open_shape(f->prompt, &a->prompt_blocks);
    if (!st) st = open_shape(f->decode, &a->decode_blocks);
    if (st || !a->prompt_blocks || !a->decode_blocks) return st;
    a->flash = f;
    a->prompt_heads = heads_of(group, f->prompt.queries);
    a->decode_heads = heads_of(group, f->decode.queries);
    a->rows_per_tile = f->prompt.queries / a->prompt_heads.heads;
    return open_made(a);
}

static grace_status launch(const launch_shape &shape, int32_t n_blocks, flash_args args, const gr_cuda_list &list, gr_cuda_heads heads, cudaStream_t stream) {
    const int64_t n_units = (int64_t)list.n_max * args.n_kv_heads * heads.n_parts;
    args.list = list, args.heads = heads;
    pdl::launch(shape.kernel, dim3((unsigned)(n_units < n_blocks ? n_units : n_blocks)), shape.threads, shape.bytes, stream, true, args);
    return gr_cuda_status(cudaGetLastError(), "attention");
}

static flash_args args_of(const gr_cuda_attention *a, const gr_cuda_attention_step &step, const gr_cuda_attention_layer *l) {
    flash_args args = {};
    args.step = step, args.layer = *l, args.n_heads = a->sizes.n_heads, args.n_kv_heads = a->sizes.n_kv_heads, args.scale = l->scale * LOG2_E;
    args.partial_out = a->partial_out, args.partial_sum = (float2 *)a->partial_sum, args.n_done = a->n_done;
    return args;
}

// Every head by itself, against the rows of the step.
static flash_args made_args(const gr_cuda_attention *a, const gr_cuda_attention_step *step, const gr_cuda_attention_layer *l) {
    const gr_cuda_attention_sizes *s = &a->sizes;
    const int64_t latents = (step->n_rows - step->n_made) * l->k_step;
    flash_args args = args_of(a, gr_cuda_made_step(step), l);
    args.n_kv_heads = s->n_heads;
    args.made = {(const bf16 *)l->made.k, (const bf16 *)l->made.v, (const bf16 *)l->k + latents + s->key_dim - a->rope_dim, l->k_step,
                 s->made_key_dim - a->rope_dim};
    args.layer.q = l->made.q, args.layer.q_step = (int64_t)s->n_heads * s->made_key_dim, args.layer.out = l->made.out;
    args.from_end = true;
    return args;
}

extern "C" grace_status gr_cuda_flash_run(const gr_cuda_attention *a, const gr_cuda_attention_step *step, const gr_cuda_attention_layer *l,
                                          cudaStream_t stream) {
    grace_status st = GRACE_OK;
    flash_args args = args_of(a, gr_cuda_other_step(step), l);
    if (step->n_made > 0) st = launch(a->made_flash->prompt, a->made_blocks, made_args(a, step, l), a->made, {1, 1}, stream);
    args.from_end = true;
    if (!st && step->has_prompt) st = launch(a->flash->prompt, a->prompt_blocks, args, a->prompt, a->prompt_heads, stream);
    args.from_end = false;
    if (!st && step->has_decode) st = launch(a->flash->decode, a->decode_blocks, args, a->decode, a->decode_heads, stream);
    return st;
}
