/* Weights on their way to the device: mapped files, unpacked or random tensors become bf16 matrices and fp32 vectors there. Pages of the file are read by
 * several threads into pinned memory, one piece while the other is copied. */
#include <string.h>

#include "base/half.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "compute/cuda/backend.h"
#include "compute/cuda/random.h"

/* ---- pinned pieces ---- */

grace_status gr_cuda_stages_open(gr_cuda *c) {
    grace_status st = GRACE_OK;
    for (int i = 0; i < GR_CUDA_STAGES; i++) {
        GR_TRY(gr_cuda_status(cudaMallocHost(&c->stage[i].pinned, GR_CUDA_STAGE_BYTES), "pinned memory"));
        GR_TRY(gr_cuda_status(cudaEventCreateWithFlags(&c->stage[i].sent, cudaEventDisableTiming), "event"));
    }
done:
    return st;
}

void gr_cuda_stages_close(gr_cuda *c) {
    for (int i = 0; i < GR_CUDA_STAGES; i++) {
        if (c->stage[i].sent) cudaEventDestroy(c->stage[i].sent);
        cudaFreeHost(c->stage[i].pinned);
    }
}

/* The next piece, once what it last held has left. */
static grace_status take_stage(gr_cuda *c, gr_cuda_stage **out) {
    *out = &c->stage[c->next_stage];
    c->next_stage = (c->next_stage + 1) % GR_CUDA_STAGES;
    return gr_cuda_status(cudaEventSynchronize((*out)->sent), "copy of weights");
}

/* ---- values ---- */

static int64_t row_bytes(const grace_tensor *t) { return t->cols * (t->dtype == GRACE_F32 ? 4 : 2); }

static void row_to_bf16(const grace_tensor *t, int64_t row, uint16_t *to) {
    const char *from = (const char *)t->data + row * row_bytes(t);
    if (t->dtype == GRACE_BF16) memcpy(to, from, (size_t)row_bytes(t));
    for (int64_t i = 0; t->dtype == GRACE_F32 && i < t->cols; i++) to[i] = gr_bf16_of_float(((const float *)from)[i]);
    for (int64_t i = 0; t->dtype == GRACE_F16 && i < t->cols; i++) to[i] = gr_bf16_of_float(gr_float_of_half(((const uint16_t *)from)[i]));
}

typedef struct fill_args { const grace_tensor *t; int64_t first; uint16_t *to; } fill_args;

static grace_status fill_row(void *args, int32_t i) {
    const fill_args *f = args;
    row_to_bf16(f->t, f->first + i, f->to + (int64_t)i * f->t->cols);
    return GRACE_OK;
}

/* Where rows go: blocks of `block` rows lie `pitch` elements apart. */
typedef struct target { uint16_t *to; int64_t block, pitch; } target;

static grace_status put_piece(gr_cuda *c, const grace_tensor *t, int64_t first, int64_t n_blocks, int64_t rows, const target *at) {
    grace_status st = GRACE_OK;
    const size_t bytes = (size_t)(at->block < rows ? at->block : rows) * (size_t)t->cols * sizeof(uint16_t);
    gr_cuda_stage *stage = NULL;
    GR_TRY(take_stage(c, &stage));
    fill_args fill = {t, first, stage->pinned};
    GR_TRY(gr_parallel((int32_t)rows, fill_row, &fill));
    GR_TRY(gr_cuda_status(cudaMemcpy2DAsync(at->to + first / at->block * at->pitch, (size_t)at->pitch * sizeof(uint16_t), stage->pinned, bytes, bytes,
                                            (size_t)n_blocks, cudaMemcpyHostToDevice, c->stream), "copy of weights"));
    GR_TRY(gr_cuda_status(cudaEventRecord(stage->sent, c->stream), "event"));
done:
    return st;
}

static grace_status put_random(gr_cuda *c, const grace_tensor *t, const target *at) {
    grace_status st = GRACE_OK;
    for (int64_t row = 0; row < t->rows; row += at->block) {
        const int64_t n = t->rows - row < at->block ? t->rows - row : at->block;
        GR_TRY(gr_cuda_random_fill(at->to + row / at->block * at->pitch, t->random.first + row * t->cols, n * t->cols, t->random.seed, t->random.scale,
                                   c->stream));
    }
done:
    return st;
}

/* The tensor as bf16, in blocks of `block` rows. */
static grace_status put_blocks(gr_cuda *c, const grace_tensor *t, const target *at) {
    grace_status st = GRACE_OK;
    const int64_t block_bytes = at->block * t->cols * (int64_t)sizeof(uint16_t), fit = GR_CUDA_STAGE_BYTES / block_bytes;
    if (t->random.on) return put_random(c, t, at);
    GR_CHECK(fit >= 1, GRACE_ERR_LIMIT, "cuda: %lld rows of %lld values in a block of weights: expected at most %d bytes", (long long)at->block,
             (long long)t->cols, GR_CUDA_STAGE_BYTES);
    for (int64_t row = 0; row < t->rows; row += fit * at->block) {
        const int64_t rows = t->rows - row < fit * at->block ? t->rows - row : fit * at->block, whole = rows / at->block;
        if (whole) GR_TRY(put_piece(c, t, row, whole, whole * at->block, at));
        if (rows % at->block) GR_TRY(put_piece(c, t, row + whole * at->block, 1, rows % at->block, at));
    }
done:
    return st;
}

/* Row by row. */
static grace_status put_matrix(gr_cuda *c, const grace_tensor *t, uint16_t *to) {
    int64_t block = GR_CUDA_STAGE_BYTES / (t->cols * (int64_t)sizeof(uint16_t));
    block = block < 1 ? 1 : block < t->rows ? block : t->rows;
    const target at = {to, block, block * t->cols};
    return put_blocks(c, t, &at);
}

/* As float32, whatever it is in the file; host memory, [rows * cols], to be freed. */
static grace_status floats_of(const grace_tensor *t, float **out) {
    grace_status st = GRACE_OK;
    const int64_t n = t->rows * t->cols;
    uint16_t *made = NULL;
    float *x = NULL;
    GR_CALLOC(x, n);
    if (t->random.on) {
        GR_CALLOC(made, n);
        gr_tensor_unpack(t, made);
    }
    const uint16_t *half = made ? made : t->data;
    for (int64_t i = 0; i < n; i++)
        x[i] = t->dtype == GRACE_F32 ? ((const float *)t->data)[i] : t->dtype == GRACE_F16 ? gr_float_of_half(half[i]) : gr_float_of_bf16(half[i]);
    *out = x;
    x = NULL;
done:
    free(made);
    free(x);
    return st;
}

static grace_status put_floats(gr_cuda *c, const grace_tensor *t, float *to) {
    grace_status st = GRACE_OK;
    float *x = NULL;
    GR_TRY(floats_of(t, &x));
    GR_TRY(c->base.ops->upload(&c->base, to, x, (size_t)(t->rows * t->cols) * sizeof *x));
done:
    free(x);
    return st;
}

/* ---- weights ---- */

void gr_cuda_weight_close(gr_compute *c, gr_weight *w) {
    (void)c;
    if (!w) return;
    cudaFree(w->data);
    cudaFree(w->fp32);
    cudaFree(w->bias);
    free(w);
}

static grace_status check_tensor(const grace_tensor *t) {
    grace_status st = GRACE_OK;
    GR_CHECK(gr_tensor_exists(t) && t->dtype <= GRACE_F16 && t->col_step <= 1 && (t->rows == 1 || !t->row_step || t->row_step == t->cols), GRACE_ERR_ARG,
             "a weight that was not unpacked");
    GR_CHECK(t->rows >= 1 && t->rows <= INT32_MAX && t->cols >= 1 && t->cols <= INT32_MAX, GRACE_ERR_LIMIT, "a weight of %lld x %lld, each side must be 1..%d",
             (long long)t->rows, (long long)t->cols, INT32_MAX);
    GR_CHECK(t->cols % 8 == 0 || t->rows == 1, GRACE_ERR_LIMIT, "cuda: a matrix of %lld x %lld: expected a multiple of 8 columns", (long long)t->rows,
             (long long)t->cols);
done:
    return st;
}

static grace_status prepare_products(gr_cuda *c, const gr_weight *w) {
    const gr_cuda_matrix m = {w->data, w->rows, w->cols, false};
    return w->rows == 1 ? GRACE_OK : gr_cuda_linears_prepare(c->linears, &m, 1, c->opt.n_rows_max, false);
}

grace_status gr_cuda_weight_open(gr_compute *base, const grace_tensor *t, gr_weight **out) {
    grace_status st = GRACE_OK;
    gr_cuda *c = gr_cuda_of(base);
    gr_weight *w = NULL;
    const size_t n = (size_t)(t->rows * t->cols);
    GR_TRY(check_tensor(t));
    GR_CALLOC(w, 1);
    w->rows = (int32_t)t->rows, w->cols = (int32_t)t->cols;
    GR_TRY(gr_cuda_alloc(&w->data, n * sizeof(uint16_t), "weights"));
    GR_TRY(put_matrix(c, t, w->data));
    if (t->rows == 1 || t->dtype == GRACE_F32) {
        GR_TRY(gr_cuda_alloc(&w->fp32, n * sizeof(float), "weights"));
        GR_TRY(put_floats(c, t, w->fp32));
    }
    GR_TRY(prepare_products(c, w));
    *out = w;
    w = NULL;
done:
    gr_cuda_weight_close(base, w);
    return st;
}

static grace_status put_biases(gr_cuda *c, const grace_tensor *parts, const grace_tensor *biases, int32_t n, gr_weight *w) {
    grace_status st = GRACE_OK;
    bool any = false;
    int64_t row = 0;
    for (int32_t i = 0; i < n; i++) any = any || gr_tensor_exists(&biases[i]);
    if (!any) goto done;
    GR_TRY(gr_cuda_alloc(&w->bias, (size_t)w->rows * sizeof(float), "biases"));
    GR_TRY(gr_cuda_status(cudaMemsetAsync(w->bias, 0, (size_t)w->rows * sizeof(float), c->stream), "biases"));
    for (int32_t i = 0; i < n; row += parts[i++].rows)
        if (gr_tensor_exists(&biases[i])) GR_TRY(put_floats(c, &biases[i], w->bias + row));
done:
    return st;
}

grace_status gr_cuda_stack_open(gr_compute *base, const grace_tensor *parts, const grace_tensor *biases, int32_t n, gr_weight **out) {
    grace_status st = GRACE_OK;
    gr_cuda *c = gr_cuda_of(base);
    gr_weight *w = NULL;
    int64_t row = 0;
    GR_CALLOC(w, 1);
    w->cols = (int32_t)parts[0].cols;
    for (int32_t i = 0; i < n; i++) {
        GR_TRY(check_tensor(&parts[i]));
        GR_CHECK(parts[i].cols == w->cols, GRACE_ERR_ARG, "a part of %lld columns in a stack of %d", (long long)parts[i].cols, w->cols);
        w->rows += (int32_t)parts[i].rows;
    }
    GR_TRY(gr_cuda_alloc(&w->data, (size_t)w->rows * (size_t)w->cols * sizeof(uint16_t), "weights"));
    for (int32_t i = 0; i < n; row += parts[i++].rows) GR_TRY(put_matrix(c, &parts[i], (uint16_t *)w->data + row * w->cols));
    GR_TRY(put_biases(c, parts, biases, n, w));
    GR_TRY(prepare_products(c, w));
    *out = w;
    w = NULL;
done:
    gr_cuda_weight_close(base, w);
    return st;
}

/* ---- MLPs ---- */

void gr_cuda_mlps_close(gr_compute *c, gr_mlps *mlps) {
    gr_cuda_mlps *m = mlps->packed;
    (void)c;
    if (!m) return;
    gr_cuda_experts_close(m->experts);
    cudaFree(m->gate_up);
    cudaFree(m->down);
    cudaFree(m->gate_up_bias);
    cudaFree(m->down_bias);
    free(m);
    *mlps = (gr_mlps){0};
}

/* Biases of all slots in the order of the packed matrices; first, pitch and block in values, as the rows of gate or up lie. */
static grace_status put_mlp_bias(gr_cuda *c, const grace_tensor *bias, float *to, int32_t block, int32_t pitch) {
    grace_status st = GRACE_OK;
    float *x = NULL;
    GR_TRY(floats_of(bias, &x));
    for (int64_t i = 0; i < bias->cols; i += block)
        GR_TRY(c->base.ops->upload(&c->base, to + i / block * pitch, x + i, (size_t)block * sizeof *x));
done:
    free(x);
    return st;
}

static grace_status put_mlp(gr_cuda *c, const gr_mlp_tensors *t, int32_t slot, int32_t hidden, int32_t width, const gr_cuda_mlps *m) {
    grace_status st = GRACE_OK;
    const int32_t block = gr_cuda_gate_up_block(width);
    const int64_t matrix = (int64_t)width * hidden, piece = (int64_t)block * hidden;
    uint16_t *gate = (uint16_t *)m->gate_up + slot * 2 * matrix;
    const target gate_at = {gate, block, 2 * piece}, up_at = {gate + piece, block, 2 * piece};
    GR_TRY(check_tensor(&t->gate));
    GR_TRY(check_tensor(&t->up));
    GR_TRY(check_tensor(&t->down));
    GR_CHECK(t->gate.rows == width && t->gate.cols == hidden && t->up.rows == width && t->up.cols == hidden && t->down.rows == hidden && t->down.cols == width,
             GRACE_ERR_ARG, "slot %d: gate %lldx%lld, up %lldx%lld, down %lldx%lld; slot 0 has width %d, hidden %d", slot, (long long)t->gate.rows,
             (long long)t->gate.cols, (long long)t->up.rows, (long long)t->up.cols, (long long)t->down.rows, (long long)t->down.cols, width, hidden);
    GR_TRY(put_blocks(c, &t->gate, &gate_at));
    GR_TRY(put_blocks(c, &t->up, &up_at));
    GR_TRY(put_matrix(c, &t->down, (uint16_t *)m->down + slot * matrix));
    if (m->gate_up_bias) {
        GR_TRY(put_mlp_bias(c, &t->gate_bias, m->gate_up_bias + (int64_t)slot * 2 * width, block, 2 * block));
        GR_TRY(put_mlp_bias(c, &t->up_bias, m->gate_up_bias + (int64_t)slot * 2 * width + block, block, 2 * block));
    }
    if (m->down_bias) GR_TRY(put_mlp_bias(c, &t->down_bias, m->down_bias + (int64_t)slot * hidden, hidden, hidden));
done:
    return st;
}

static grace_status alloc_mlps(const gr_mlp_tensors *t, int32_t n, gr_cuda_mlps *m) {
    grace_status st = GRACE_OK;
    const size_t width = (size_t)t->gate.rows, hidden = (size_t)t->gate.cols, matrix = (size_t)n * width * hidden * sizeof(uint16_t);
    GR_TRY(gr_cuda_alloc(&m->gate_up, 2 * matrix, "experts"));
    GR_TRY(gr_cuda_alloc(&m->down, matrix, "experts"));
    if (gr_tensor_exists(&t->gate_bias)) GR_TRY(gr_cuda_alloc(&m->gate_up_bias, (size_t)n * 2 * width * sizeof(float), "biases of experts"));
    if (gr_tensor_exists(&t->down_bias)) GR_TRY(gr_cuda_alloc(&m->down_bias, (size_t)n * hidden * sizeof(float), "biases of experts"));
done:
    return st;
}

/* Which kernels compute MLPs of this width, once for layers that are alike; where they were not asked for by name, also why not the fastest. */
static void tell_kernels(gr_cuda *c, int32_t width, const gr_cuda_experts *experts) {
    const char *name = gr_cuda_experts_kernels(experts);
    const bool slow = c->kernels == GR_CUDA_KERNELS_AUTO && strcmp(name, "hopper") != 0;
    if (c->width_told == width) return;
    c->width_told = width;
    gr_log(slow ? GR_WARN : GR_INFO, "cuda", "experts of width %d run on the %s kernels%s", width, name,
           slow ? ": the fastest take multiples of 64, no biases and no limit, on compute capability 9" : "");
}

grace_status gr_cuda_mlps_open(gr_compute *base, const gr_mlp_tensors *mlps, int32_t n, float swiglu_limit, gr_mlps *out) {
    grace_status st = GRACE_OK;
    gr_cuda *c = gr_cuda_of(base);
    gr_mlps opened = {.n = n};
    gr_cuda_mlps *m = NULL;
    if (n == 0) return st;
    const int32_t width = (int32_t)mlps[0].gate.rows, hidden = (int32_t)mlps[0].gate.cols;
    GR_CALLOC(m, 1);
    opened.packed = m;
    m->hidden = hidden, m->width = width;
    GR_TRY(alloc_mlps(&mlps[0], n, m));
    for (int32_t i = 0; i < n; i++) GR_TRY(put_mlp(c, &mlps[i], i, hidden, width, m));
    const int64_t pairs = c->act_elements / width, most = (int64_t)c->opt.n_rows_max * c->opt.n_ranks * c->info.top_k;
    const gr_cuda_experts_options opt = {
        .kernels = c->kernels, .n_slots = n, .hidden = hidden, .width = width, .gate_up = m->gate_up, .down = m->down, .gate_up_bias = m->gate_up_bias,
        .down_bias = m->down_bias, .swiglu_limit = swiglu_limit, .act = c->act, .n_pairs_max = (int32_t)(pairs < most ? pairs : most),
    };
    GR_TRY(gr_cuda_experts_open(&opt, &m->experts));
    if (n == 1) GR_TRY(gr_cuda_mlp_prepare(c, m));
    tell_kernels(c, width, m->experts);
    *out = opened;
    opened.packed = NULL;
done:
    gr_cuda_mlps_close(base, &opened);
    return st;
}
