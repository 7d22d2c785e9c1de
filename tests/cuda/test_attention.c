/* Attention on a GPU (compute/cuda/attention*) against double precision on the host. A world is some sequences with random q, k and v for every
 * position; a plan computes all of it in steps: prompts in chunks, then decode rows, mixed, with padding. The turned q and the pages are checked against
 * doubles made of the inputs, the results against doubles made of the device's own q and pages, and results of different plans with each other, bit by
 * bit. A crowd has more units of work than the device has blocks at a time: its results are compared with those of each sequence alone. Without a GPU it
 * says "skipped". */
#include <cuda_runtime_api.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "compute/compute.h"
#include "compute/cuda/attention.h"
#include "compute/rope.h"
#include "cuda/device.h"

enum { SEQUENCES = 5, ROWS_MAX = 2560, PAGES_MAX = 128, PADDING = 3, STEPS_MAX = 256, CHECKED_ROWS = 6 };

typedef enum norm_kind { NORM_NONE, NORM_HEAD, NORM_WHOLE, NORM_VALUE } norm_kind;

typedef struct config {
    const char *name;
    int32_t n_heads, n_kv_heads, key_dim, value_dim;
    bool latent, plain;
    int32_t rope_dim;
    bool neighbours;
    norm_kind q_norm, k_norm;
    float clip;
    int32_t window;
    bool sinks;
    int32_t prompt[SEQUENCES], n_decode;        /* positions of each prompt; decode rows that follow */
} config;

static int n_failed;

static void claim(bool holds, const char *what, const config *c) {
    printf("%s %s: %s, %d/%d heads of %d/%d%s%s\n", holds ? "ok    " : "FAILED", what, c->name, c->n_heads, c->n_kv_heads, c->key_dim, c->value_dim,
           c->latent ? " latent" : "", c->plain ? " plain" : "");
    n_failed += !holds;
}

/* ---- a world: inputs on the host, a function of (sequence, position) ---- */
typedef struct world {
    const config *c;
    grace_rope rope;
    gr_rope_table table;
    int32_t q_width, k_width, v_width, out_width, length[SEQUENCES], first_row[SEQUENCES + 1], n_positions;     /* rows: of all positions */
    uint16_t *q, *k, *v;                        /* [all positions, width] */
    float *q_norm, *k_norm, *sinks;
    float scale;
    float *d_q_norm, *d_k_norm, *d_sinks;
} world;

static int32_t norm_size(const world *w, norm_kind kind, int32_t n_heads) {
    return kind == NORM_WHOLE ? n_heads * w->c->key_dim : kind == NORM_VALUE ? w->c->value_dim : w->c->key_dim;
}

static float *random_floats(uint64_t seed, int32_t n, float middle, float spread, float **device) {
    gr_rng rng = gr_rng_seed(seed);
    float *x = malloc(sizeof *x * (size_t)n);
    for (int32_t i = 0; i < n; i++) x[i] = middle + spread * (float)(2 * gr_rng_uniform(&rng) - 1);
    *device = to_device(x, sizeof *x * (size_t)n);
    return x;
}

static uint16_t *random_rows(uint64_t seed, int32_t n, int32_t width) {
    uint16_t *x = malloc(sizeof *x * (size_t)n * (size_t)width + 1);
    fill_bf16(seed, x, (size_t)n * (size_t)width, 1.0f);
    return x;
}

static world world_open(const config *c) {
    world w = {.c = c, .q_width = c->n_heads * c->key_dim, .k_width = c->n_kv_heads * c->key_dim, .out_width = c->n_heads * c->value_dim};
    w.v_width = c->latent ? 0 : c->n_kv_heads * c->value_dim;
    for (int32_t s = 0; s < SEQUENCES; s++) {
        w.length[s] = c->prompt[s] ? c->prompt[s] + c->n_decode : 0;
        w.first_row[s + 1] = w.first_row[s] + w.length[s];
        if (w.length[s] > w.n_positions) w.n_positions = w.length[s];
    }
    w.rope = (grace_rope){.dim = c->rope_dim, .neighbours = c->neighbours, .magnitude = 1.1f};
    for (int32_t i = 0; i < c->rope_dim / 2; i++) w.rope.frequency[i] = powf(10000.0f, -2.0f * (float)i / (float)c->rope_dim);
    must(!gr_rope_reserve(&w.table, &w.rope, w.n_positions), "rope");
    const int32_t n = w.first_row[SEQUENCES];
    w.q = random_rows(3, n, w.q_width), w.k = random_rows(4, n, w.k_width), w.v = random_rows(5, n, w.v_width);
    w.q_norm = random_floats(6, norm_size(&w, c->q_norm, c->n_heads), 1.2f, 0.5f, &w.d_q_norm);
    w.k_norm = random_floats(7, norm_size(&w, c->k_norm, c->n_kv_heads), 1.2f, 0.5f, &w.d_k_norm);
    w.sinks = random_floats(8, c->n_heads, 0.5f, 2.0f, &w.d_sinks);
    w.scale = 1.5f / sqrtf((float)c->key_dim);
    return w;
}

static void world_close(world *w) {
    free(w->q), free(w->k), free(w->v), free(w->q_norm), free(w->k_norm), free(w->sinks);
    cudaFree(w->d_q_norm), cudaFree(w->d_k_norm), cudaFree(w->d_sinks);
    gr_rope_free(&w->table);
}

/* ---- a plan: which rows a step computes ---- */
typedef struct span { int32_t sequence, first, n; bool decode; } span;
typedef struct stage { span spans[2 * SEQUENCES]; int32_t n_spans, n_padding; } stage;
typedef struct plan { stage steps[STEPS_MAX]; int32_t n; } plan;

static void add_span(stage *s, int32_t sequence, int32_t first, int32_t n, bool decode) {
    if (n > 0) s->spans[s->n_spans++] = (span){sequence, first, n, decode};
}

/* All prompts in one step, then each decode position in a step. */
static void plan_plainly(const world *w, plan *p) {
    *p = (plan){.n = 1 + w->c->n_decode};
    for (int32_t s = 0; s < SEQUENCES; s++) {
        add_span(&p->steps[0], s, 0, w->c->prompt[s], false);
        for (int32_t i = 0; i < w->c->n_decode && w->length[s]; i++) add_span(&p->steps[1 + i], s, w->c->prompt[s] + i, 1, true);
    }
}

/* Random chunks, backwards by sequence, each sequence at its own pace: prompt chunks and decode rows share steps; padding behind. */
static void plan_randomly(const world *w, uint64_t seed, plan *p) {
    gr_rng rng = gr_rng_seed(seed);
    int32_t done[SEQUENCES] = {0}, left = w->first_row[SEQUENCES];
    *p = (plan){0};
    while (left > 0) {
        stage *s = &p->steps[p->n++];
        must(p->n <= STEPS_MAX, "a plan of fewer steps");
        s->n_padding = (int32_t)gr_rng_below(&rng, PADDING + 1);
        for (int32_t q = SEQUENCES - 1; q >= 0; q--) {
            int32_t rest = w->c->prompt[q] - done[q], n = rest > 0 ? 1 + (int32_t)gr_rng_below(&rng, (uint32_t)rest) : 1;
            if (done[q] >= w->length[q] || gr_rng_below(&rng, 4) == 0) continue;
            add_span(s, q, done[q], n, rest <= 0);
            done[q] += n, left -= n;
        }
    }
}

/* ---- running a plan ---- */
typedef struct run {
    world *w;
    gr_cuda_attention *a;
    int32_t n_pages, page_table[SEQUENCES * PAGES_MAX];
    uint16_t *k_pages, *v_pages;                /* host: what is expected to stay as it is */
    void *d_k_pages, *d_v_pages, *d_q, *d_k, *d_v, *d_out;
    int32_t *d_table, *d_sequence, *d_position, *d_decode;
    bool capture;                               /* every step as a CUDA graph */
    uint16_t *out;                              /* [all positions, out_width] results by position */
    double worst_prepare, worst_run;            /* error / bound */
} run;

static void shuffle_pages(run *r, uint64_t seed) {
    gr_rng rng = gr_rng_seed(seed);
    int32_t *order = malloc(sizeof *order * (size_t)r->n_pages);
    for (int32_t i = 0; i < r->n_pages; i++) order[i] = i;
    for (int32_t i = r->n_pages - 1; i > 0; i--) {
        int32_t j = (int32_t)gr_rng_below(&rng, (uint32_t)i + 1), t = order[i];
        order[i] = order[j], order[j] = t;
    }
    for (int32_t s = 0, at = 0; s < SEQUENCES; s++)
        for (int32_t i = 0; i < PAGES_MAX; i++)
            r->page_table[s * PAGES_MAX + i] = i * GR_KV_PAGE < r->w->length[s] ? order[at++] : -1;     /* never to be followed */
    free(order);
}

static run run_open(world *w, uint64_t seed, bool capture) {
    const config *c = w->c;
    run r = {.w = w, .capture = capture};
    for (int32_t s = 0; s < SEQUENCES; s++) r.n_pages += (w->length[s] + GR_KV_PAGE - 1) / GR_KV_PAGE;
    r.n_pages += 3;
    const size_t cells = (size_t)r.n_pages * GR_KV_PAGE;
    gr_cuda_attention_sizes sizes = {.n_heads = c->n_heads, .n_kv_heads = c->n_kv_heads, .key_dim = c->key_dim, .value_dim = c->value_dim,
                                     .latent = c->latent, .plain = c->plain, .n_rows_max = ROWS_MAX, .kv_tokens = (int64_t)cells,
                                     .n_positions = w->n_positions, .rope = &w->rope};
    must(!gr_cuda_attention_open(&sizes, &r.a), "attention_open");
    shuffle_pages(&r, seed);
    r.k_pages = malloc(cells * (size_t)w->k_width * 2), r.v_pages = malloc(cells * (size_t)w->v_width * 2 + 1);
    for (size_t i = 0; i < cells * (size_t)w->k_width; i++) r.k_pages[i] = 0x7FC0;      /* NaN until appended */
    for (size_t i = 0; i < cells * (size_t)w->v_width; i++) r.v_pages[i] = 0x7FC0;
    r.d_k_pages = to_device(r.k_pages, cells * (size_t)w->k_width * 2);
    if (!c->latent) r.d_v_pages = to_device(r.v_pages, cells * (size_t)w->v_width * 2);
    const size_t rows = ROWS_MAX;
    r.d_q = to_device(NULL, rows * (size_t)(w->q_width + w->k_width + w->v_width) * 2), r.d_k = to_device(NULL, rows * (size_t)(w->k_width + 8) * 2);
    r.d_out = to_device(NULL, rows * (size_t)w->out_width * 2);
    r.d_table = to_device(r.page_table, sizeof r.page_table);
    r.d_sequence = to_device(NULL, rows * 4), r.d_position = to_device(NULL, rows * 4), r.d_decode = to_device(NULL, rows * 4);
    r.out = calloc((size_t)w->first_row[SEQUENCES], (size_t)w->out_width * 2);
    return r;
}

static void run_close(run *r) {
    void *device[] = {r->d_k_pages, r->d_v_pages, r->d_q, r->d_k, r->d_out, r->d_table, r->d_sequence, r->d_position, r->d_decode};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++) cudaFree(device[i]);
    gr_cuda_attention_close(r->a);
    free(r->k_pages), free(r->v_pages), free(r->out);
}

/* ---- the reference ---- */
static void prepare_head(const world *w, double *x, double *size, int32_t position) {
    const grace_rope *rope = &w->rope;
    const int32_t half = rope->dim / 2, still = w->c->key_dim - rope->dim;
    for (int32_t i = 0; i < half; i++) {
        const int32_t first = still + (rope->neighbours ? 2 * i : i), second = first + (rope->neighbours ? 1 : half);
        const double cosine = w->table.cosine[(int64_t)position * half + i], sine = w->table.sine[(int64_t)position * half + i];
        const double a = x[first], b = x[second], most = fmax(fabs(a), fabs(b));
        x[first] = a * cosine - b * sine, x[second] = b * cosine + a * sine;
        size[first] = size[second] = most;
    }
}

/* A row of q or k as it should enter attention; size: of the terms that were added up. */
static void prepare_row(const world *w, const uint16_t *from, int32_t n_heads, norm_kind kind, const float *weight, int32_t position, double *x,
                        double *size) {
    const int32_t dim = w->c->key_dim, n = norm_size(w, kind, n_heads), step = n > dim ? n : dim;
    for (int32_t i = 0; i < n_heads * dim; i++) x[i] = from_bf16(from[i]);
    for (int32_t at = 0; at < n_heads * dim && kind != NORM_NONE; at += step) {
        double squares = 0;
        for (int32_t i = 0; i < n; i++) squares += x[at + i] * x[at + i];
        for (int32_t i = 0; i < n; i++) x[at + i] *= weight[i] / sqrt(squares / n + 1e-5);
    }
    for (int32_t i = 0; i < n_heads * dim && w->c->clip > 0; i++) x[i] = fmin(fmax(x[i], -(double)w->c->clip), (double)w->c->clip);
    for (int32_t i = 0; i < n_heads * dim; i++) size[i] = fabs(x[i]);
    for (int32_t h = 0; h < n_heads; h++) prepare_head(w, x + h * dim, size + h * dim, position);
}

/* One rounding to bf16 (2^-8 at most), and fp32 before it. */
static double check_row(const world *w, const uint16_t *found, const uint16_t *from, int32_t n_heads, norm_kind kind, const float *weight, int32_t position,
                        const char *what) {
    const int32_t n = n_heads * w->c->key_dim;
    double *x = malloc(sizeof *x * (size_t)n), *size = malloc(sizeof *x * (size_t)n), worst = 0;
    prepare_row(w, from, n_heads, kind, weight, position, x, size);
    for (int32_t i = 0; i < n; i++) {
        const double error = fabs(from_bf16(found[i]) - x[i]) / (0x1p-8 * fabs(x[i]) + 0x1p-18 * size[i] + 1e-30);
        if (error <= worst) continue;
        if (!(error <= 1) && worst <= 1) printf("       %s, position %d, element %d: expected %g, found %g\n", what, position, i, x[i], from_bf16(found[i]));
        worst = isnan(error) ? INFINITY : error;
    }
    free(x), free(size);
    return worst;
}

static int64_t cell_of(const run *r, int32_t sequence, int32_t position) {
    return (int64_t)r->page_table[sequence * PAGES_MAX + position / GR_KV_PAGE] * GR_KV_PAGE + position % GR_KV_PAGE;
}

/* One head of one row from the device's q and pages. Roundings: of every weight (2^-8 of it at most, each its own: four times their root mean square), of
 * the result, and fp32 scores, a part in 2^16 of all. */
static double check_head(const run *r, int32_t sequence, int32_t position, int32_t head, const uint16_t *q, const uint16_t *found) {
    const config *c = r->w->c;
    const int32_t kv_head = head / (c->n_heads / c->n_kv_heads), from = c->window && position >= c->window ? position - c->window + 1 : 0;
    const int32_t n = position + 1 - from;
    double *p = malloc(sizeof *p * (size_t)n), most = c->sinks ? r->w->sinks[head] : -INFINITY, total = 0, worst = 0;
    for (int32_t i = 0; i < n; i++) {
        const uint16_t *key = r->k_pages + (cell_of(r, sequence, from + i) * c->n_kv_heads + kv_head) * c->key_dim;
        p[i] = 0;
        for (int32_t d = 0; d < c->key_dim; d++) p[i] += (double)from_bf16(q[head * c->key_dim + d]) * from_bf16(key[d]);
        p[i] *= r->w->scale;
        most = fmax(most, p[i]);
    }
    if (c->sinks) total = exp(r->w->sinks[head] - most);
    for (int32_t i = 0; i < n; i++) total += p[i] = exp(p[i] - most);
    for (int32_t d = 0; d < c->value_dim; d++) {
        double sum = 0, squares = 0, all = 0;
        for (int32_t i = 0; i < n; i++) {
            const int64_t cell = cell_of(r, sequence, from + i) * c->n_kv_heads + kv_head;
            const double v = p[i] / total * from_bf16(c->latent ? r->k_pages[cell * c->key_dim + d] : r->v_pages[cell * c->value_dim + d]);
            sum += v, squares += v * v, all += fabs(v);
        }
        const double error = fabs(from_bf16(found[head * c->value_dim + d]) - sum) / (0x1p-8 * (fabs(sum) + 4 * sqrt(squares)) + 0x1p-16 * all + 1e-30);
        if (error <= worst) continue;
        if (!(error <= 1) && worst <= 1)
            printf("       sequence %d, position %d, head %d, element %d: expected %g, found %g, of weights and values %g\n", sequence, position, head, d, sum,
                   from_bf16(found[head * c->value_dim + d]), all);
        worst = isnan(error) ? INFINITY : error;
    }
    free(p);
    return worst;
}

/* ---- a step ---- */
typedef struct rows { int32_t n, n_real, sequence[ROWS_MAX], position[ROWS_MAX], decode[ROWS_MAX]; } rows;

static void list_rows(const stage *s, rows *x) {
    *x = (rows){0};
    for (int32_t i = 0; i < s->n_spans; i++)
        for (int32_t j = 0; j < s->spans[i].n; j++, x->n++)
            x->sequence[x->n] = s->spans[i].sequence, x->position[x->n] = s->spans[i].first + j, x->decode[x->n] = s->spans[i].decode;
    x->n_real = x->n;
    for (int32_t i = 0; i < s->n_padding; i++, x->n++) x->sequence[x->n] = -1, x->position[x->n] = 12345, x->decode[x->n] = 1;
    must(x->n <= ROWS_MAX, "a step of fewer rows");
}

/* The rows' inputs side by side as projections leave them: q | k | v, or latent: q alone, and k with something behind. */
static void upload(run *r, const rows *x) {
    const world *w = r->w;
    const size_t step = (size_t)w->q_width + (w->c->latent ? 0 : (size_t)(w->k_width + w->v_width)), k_step = (size_t)w->k_width + 8;
    uint16_t *q = malloc((size_t)x->n * step * 2 + 1), *k = malloc((size_t)x->n * k_step * 2 + 1);
    for (int32_t i = 0; i < x->n; i++) {
        const size_t at = (size_t)(x->sequence[i] < 0 ? 0 : w->first_row[x->sequence[i]] + x->position[i]);
        uint16_t *to = q + (size_t)i * step;
        memcpy(to, w->q + at * (size_t)w->q_width, (size_t)w->q_width * 2);
        memcpy(w->c->latent ? k + (size_t)i * k_step : to + w->q_width, w->k + at * (size_t)w->k_width, (size_t)w->k_width * 2);
        memcpy(to + w->q_width + (w->c->latent ? 0 : w->k_width), w->v + at * (size_t)w->v_width, (size_t)w->v_width * 2);
    }
    must(cudaMemcpy(r->d_q, q, (size_t)x->n * step * 2, cudaMemcpyHostToDevice) == cudaSuccess, "copy");
    must(cudaMemcpy(r->d_k, k, (size_t)x->n * k_step * 2, cudaMemcpyHostToDevice) == cudaSuccess, "copy");
    must(cudaMemcpy(r->d_sequence, x->sequence, (size_t)x->n * 4, cudaMemcpyHostToDevice) == cudaSuccess, "copy");
    must(cudaMemcpy(r->d_position, x->position, (size_t)x->n * 4, cudaMemcpyHostToDevice) == cudaSuccess, "copy");
    must(cudaMemcpy(r->d_decode, x->decode, (size_t)x->n * 4, cudaMemcpyHostToDevice) == cudaSuccess, "copy");
    must(cudaMemset(r->d_out, 0x7F, (size_t)ROWS_MAX * (size_t)w->out_width * 2) == cudaSuccess, "poison");
    free(q), free(k);
}

static void launch(const run *r, const rows *x, cudaStream_t stream) {
    const world *w = r->w;
    const config *c = w->c;
    bool has[2] = {false, false};
    for (int32_t i = 0; i < x->n; i++) has[x->decode[i]] |= x->sequence[i] >= 0;
    gr_cuda_attention_step step = {.n_rows = x->n, .kv_sequence = r->d_sequence, .position = r->d_position, .decode = r->d_decode, .page_table = r->d_table,
                                   .pages_max = PAGES_MAX, .has_prompt = has[0], .has_decode = has[1]};
    gr_cuda_attention_layer layer = {.k_pages = r->d_k_pages, .v_pages = r->d_v_pages, .q_norm_size = norm_size(w, c->q_norm, c->n_heads),
                                     .k_norm_size = norm_size(w, c->k_norm, c->n_kv_heads), .norm_eps = 1e-5f, .clip = c->clip, .scale = w->scale,
                                     .window = c->window, .q = r->d_q, .out = r->d_out};
    if (c->q_norm) layer.q_norm = w->d_q_norm;
    if (c->k_norm) layer.k_norm = w->d_k_norm;
    if (c->sinks) layer.sinks = w->d_sinks;
    layer.q_step = layer.k_step = layer.v_step = w->q_width + (c->latent ? 0 : w->k_width + w->v_width);
    layer.k = c->latent ? r->d_k : (uint16_t *)r->d_q + w->q_width;
    if (c->latent) layer.k_step = w->k_width + 8;
    else layer.v = (uint16_t *)layer.k + w->k_width;
    must(!gr_cuda_attention_lists(r->a, &step, stream), "lists");
    must(!gr_cuda_attention_prepare(r->a, &step, &layer, stream), "prepare");
    must(!gr_cuda_attention_run(r->a, &step, &layer, stream), "run");
}

static void launch_captured(const run *r, const rows *x) {
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    must(cudaStreamCreate(&stream) == cudaSuccess, "stream");
    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal) == cudaSuccess, "capture");
    launch(r, x, stream);
    must(cudaStreamEndCapture(stream, &graph) == cudaSuccess && cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess, "graph");
    must(cudaGraphLaunch(exec, stream) == cudaSuccess && cudaStreamSynchronize(stream) == cudaSuccess, "graph launch");
    cudaGraphExecDestroy(exec), cudaGraphDestroy(graph), cudaStreamDestroy(stream);
}

/* Every cell a row wrote is as it should be, and no other has changed; the host's pages follow the device's. */
static bool check_pages(run *r, const rows *x) {
    const world *w = r->w;
    const size_t cells = (size_t)r->n_pages * GR_KV_PAGE;
    uint16_t *k = malloc(cells * (size_t)w->k_width * 2), *v = malloc(cells * (size_t)w->v_width * 2 + 1);
    bool good = true;
    to_host(k, r->d_k_pages, cells * (size_t)w->k_width * 2);
    if (w->v_width) to_host(v, r->d_v_pages, cells * (size_t)w->v_width * 2);
    for (int32_t i = 0; i < x->n_real; i++) {
        const size_t cell = (size_t)cell_of(r, x->sequence[i], x->position[i]), at = (size_t)(w->first_row[x->sequence[i]] + x->position[i]);
        const double error = check_row(w, k + cell * (size_t)w->k_width, w->k + at * (size_t)w->k_width, w->c->n_kv_heads, w->c->k_norm, w->k_norm,
                                       x->position[i], "key");
        if (error > r->worst_prepare) r->worst_prepare = error;
        memcpy(r->k_pages + cell * (size_t)w->k_width, k + cell * (size_t)w->k_width, (size_t)w->k_width * 2);
        for (int32_t j = 0; j < w->v_width; j++) {
            const float value = from_bf16(w->v[at * (size_t)w->v_width + (size_t)j]), clip = w->c->clip;
            r->v_pages[cell * (size_t)w->v_width + (size_t)j] = to_bf16(clip > 0 ? fminf(fmaxf(value, -clip), clip) : value);
        }
    }
    good = !memcmp(k, r->k_pages, cells * (size_t)w->k_width * 2) && !memcmp(v, r->v_pages, w->v_width ? cells * (size_t)w->v_width * 2 : 0);
    free(k), free(v);
    return good;
}

/* Some rows fully checked, the first and the last among them; all rows kept; padding zero. */
static bool check_outputs(run *r, const rows *x, bool with_reference, gr_rng *rng) {
    const world *w = r->w;
    const size_t step = (size_t)w->q_width + (w->c->latent ? 0 : (size_t)(w->k_width + w->v_width)), width = (size_t)w->out_width;
    uint16_t *q = malloc((size_t)x->n * step * 2 + 1), *out = malloc((size_t)(x->n + 1) * width * 2);
    bool good = true;
    to_host(q, r->d_q, (size_t)x->n * step * 2);
    to_host(out, r->d_out, (size_t)x->n * width * 2);
    for (int32_t i = 0; i < x->n_real; i++)
        memcpy(r->out + (size_t)(w->first_row[x->sequence[i]] + x->position[i]) * width, out + (size_t)i * width, width * 2);
    for (size_t i = (size_t)x->n_real * width; i < (size_t)x->n * width; i++) good = good && out[i] == 0;
    for (int32_t i = 0; i < CHECKED_ROWS && x->n_real > 0 && with_reference; i++) {
        const int32_t row = i == 0 ? x->n_real - 1 : (int32_t)gr_rng_below(rng, (uint32_t)x->n_real), s = x->sequence[row], position = x->position[row];
        const uint16_t *own = q + (size_t)row * step;
        const double prepared = check_row(w, own, w->q + (size_t)(w->first_row[s] + position) * (size_t)w->q_width, w->c->n_heads, w->c->q_norm,
                                          w->q_norm, position, "query");
        if (prepared > r->worst_prepare) r->worst_prepare = prepared;
        for (int32_t h = 0; h < w->c->n_heads; h++) {
            const double error = check_head(r, s, position, h, own, out + (size_t)row * width);
            if (error > r->worst_run) r->worst_run = error;
            if (error > 1) h = w->c->n_heads;   /* one line a row is enough */
        }
    }
    free(q), free(out);
    return good;
}

static void run_plan(run *r, const plan *p, bool with_reference) {
    bool pages = true, padding = true;
    gr_rng rng = gr_rng_seed(77);
    rows *x = malloc(sizeof *x);
    for (int32_t i = 0; i < p->n; i++) {
        list_rows(&p->steps[i], x);
        upload(r, x);
        if (r->capture) launch_captured(r, x);
        else launch(r, x, NULL);
        if (with_reference) pages = check_pages(r, x) && pages;
        padding = check_outputs(r, x, with_reference, &rng) && padding;
    }
    free(x);
    claim(padding, "padding gives zeros", r->w->c);
    if (!with_reference) return;
    claim(pages, "pages hold what was appended and nothing else", r->w->c);
    claim(r->worst_prepare <= 1, "queries and keys are normed, clipped and turned", r->w->c);
    printf("       worst error %.3f of the bound\n", r->worst_prepare);
    claim(r->worst_run <= 1, "results are within rounding", r->w->c);
    printf("       worst error %.3f of the bound\n", r->worst_run);
}

static bool same_bits(const world *w, const uint16_t *a, const uint16_t *b) {
    for (int32_t s = 0; s < SEQUENCES; s++)
        for (size_t i = (size_t)w->first_row[s] * (size_t)w->out_width; i < (size_t)w->first_row[s + 1] * (size_t)w->out_width; i++)
            if (a[i] != b[i]) {
                const size_t row = i / (size_t)w->out_width - (size_t)w->first_row[s], at = i % (size_t)w->out_width;
                printf("       sequence %d (%d of a prompt), position %zu, head %zu, element %zu: %g and %g\n", s, w->c->prompt[s], row,
                       at / (size_t)w->c->value_dim, at % (size_t)w->c->value_dim, from_bf16(a[i]), from_bf16(b[i]));
                return false;
            }
    return true;
}

static void check(config c) {
    world w = world_open(&c);
    plan *p = malloc(sizeof *p);
    run plain = run_open(&w, 11, false);
    plan_plainly(&w, p);
    run_plan(&plain, p, true);
    for (uint64_t seed = 21; seed < 23; seed++) {
        run cut = run_open(&w, seed, seed == 22);
        plan_randomly(&w, seed, p);
        run_plan(&cut, p, false);
        claim(same_bits(&w, plain.out, cut.out), seed == 22 ? "the same bits in random chunks, captured" : "the same bits in random chunks", &c);
        run_close(&cut);
    }
    run again = run_open(&w, 11, false);
    plan_plainly(&w, p);
    run_plan(&again, p, false);
    claim(same_bits(&w, plain.out, again.out), "the same bits again", &c);
    run_close(&again), run_close(&plain), world_close(&w), free(p);
}

/* ---- a crowd: every block walks several units, of all lengths; queries and pages are any, and sequences share pages, since nothing is appended ---- */
enum { CROWD = 1200, CROWD_PAGES = 400, CROWD_PAGES_MAX = 40 };

typedef struct crowd {
    const config *c;
    int32_t first_row[CROWD + 1], *sequence, *position, *decode;       /* of rows, host */
    int32_t *d_sequence, *d_position, *d_decode, *d_table;
    void *d_q, *d_k_pages, *d_v_pages;
    float *d_sinks;
    size_t out_bytes;
    gr_cuda_attention *a;
} crowd;

/* Of 16 sequences one is a prompt's piece, two are padding, and the others decode. */
static void list_crowd(crowd *w) {
    static const int32_t positions[] = {0, 14, 15, 16, 62, 63, 64, 143, 254, 255, 256, 299, 599}, pieces[] = {1, 17, 64, 130};
    gr_rng rng = gr_rng_seed(31);
    int32_t n = 0;
    w->sequence = calloc((size_t)CROWD * 130, sizeof *w->sequence), w->position = calloc((size_t)CROWD * 130, sizeof *w->position);
    w->decode = calloc((size_t)CROWD * 130, sizeof *w->decode);
    for (int32_t s = 0; s < CROWD; s++) {
        const bool is_prompt = s % 16 == 3, is_padding = s % 16 == 0 || s % 16 == 9;
        const int32_t first = positions[gr_rng_below(&rng, sizeof positions / sizeof *positions)] / (is_prompt ? 2 : 1);
        const int32_t n_rows = is_prompt ? pieces[gr_rng_below(&rng, sizeof pieces / sizeof *pieces)] : 1;
        for (int32_t i = 0; i < n_rows; i++, n++) w->sequence[n] = is_padding ? -1 : s, w->position[n] = first + i, w->decode[n] = !is_prompt;
        w->first_row[s + 1] = n;
    }
}

static crowd crowd_open(const config *c, const grace_rope *rope) {
    crowd w = {.c = c};
    float *sinks;
    int32_t *table = malloc(sizeof *table * CROWD * CROWD_PAGES_MAX);
    gr_rng rng = gr_rng_seed(32);
    list_crowd(&w);
    for (int32_t i = 0; i < CROWD * CROWD_PAGES_MAX; i++) table[i] = (int32_t)gr_rng_below(&rng, CROWD_PAGES);
    const int32_t n = w.first_row[CROWD], cells = CROWD_PAGES * GR_KV_PAGE, q_width = c->n_heads * c->key_dim, k_width = c->n_kv_heads * c->key_dim;
    uint16_t *q = random_rows(33, n, q_width), *k = random_rows(34, cells, k_width), *v = random_rows(35, cells, c->n_kv_heads * c->value_dim);
    w.d_q = to_device(q, (size_t)n * (size_t)q_width * 2), w.d_k_pages = to_device(k, (size_t)cells * (size_t)k_width * 2);
    if (!c->latent) w.d_v_pages = to_device(v, (size_t)cells * (size_t)(c->n_kv_heads * c->value_dim) * 2);
    sinks = random_floats(36, c->n_heads, 0.5f, 2.0f, &w.d_sinks);
    w.d_sequence = to_device(w.sequence, (size_t)n * 4), w.d_position = to_device(w.position, (size_t)n * 4), w.d_decode = to_device(w.decode, (size_t)n * 4);
    w.d_table = to_device(table, sizeof *table * CROWD * CROWD_PAGES_MAX);
    w.out_bytes = (size_t)n * (size_t)(c->n_heads * c->value_dim) * 2;
    const gr_cuda_attention_sizes sizes = {.n_heads = c->n_heads, .n_kv_heads = c->n_kv_heads, .key_dim = c->key_dim, .value_dim = c->value_dim,
                                           .latent = c->latent, .n_rows_max = n, .kv_tokens = (int64_t)CROWD * CROWD_PAGES_MAX * GR_KV_PAGE,
                                           .n_positions = CROWD_PAGES_MAX * GR_KV_PAGE, .rope = rope};
    must(!gr_cuda_attention_open(&sizes, &w.a), "attention_open");
    free(q), free(k), free(v), free(sinks), free(table);
    return w;
}

static void crowd_close(crowd *w) {
    void *device[] = {w->d_sequence, w->d_position, w->d_decode, w->d_table, w->d_q, w->d_k_pages, w->d_v_pages, w->d_sinks};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++) cudaFree(device[i]);
    gr_cuda_attention_close(w->a);
    free(w->sequence), free(w->position), free(w->decode);
}

/* Rows of sequences [first, end) in a step of their own. */
static void run_of_crowd(const crowd *w, int32_t first, int32_t end, char *d_out) {
    const config *c = w->c;
    const size_t row = (size_t)w->first_row[first];
    gr_cuda_attention_step step = {.n_rows = w->first_row[end] - w->first_row[first], .kv_sequence = w->d_sequence + row, .position = w->d_position + row,
                                   .decode = w->d_decode + row, .page_table = w->d_table, .pages_max = CROWD_PAGES_MAX};
    for (int32_t i = w->first_row[first]; i < w->first_row[end]; i++)
        step.has_prompt = step.has_prompt || !w->decode[i], step.has_decode = step.has_decode || (w->decode[i] && w->sequence[i] >= 0);
    gr_cuda_attention_layer layer = {.k_pages = w->d_k_pages, .v_pages = w->d_v_pages, .sinks = c->sinks ? w->d_sinks : NULL, .window = c->window,
                                     .scale = 1.5f / sqrtf((float)c->key_dim), .q_step = (int64_t)c->n_heads * c->key_dim};
    layer.q = (uint16_t *)w->d_q + row * (size_t)layer.q_step, layer.out = d_out + row * (size_t)(c->n_heads * c->value_dim) * 2;
    must(!gr_cuda_attention_lists(w->a, &step, NULL), "lists");
    must(!gr_cuda_attention_run(w->a, &step, &layer, NULL), "run");
}

/* What each call to run_of_crowd() with `each` sequences leaves, of every `every`-th such; the rest is poison. */
static uint16_t *results_of_crowd(const crowd *w, int32_t each, int32_t every) {
    char *d_out = to_device(NULL, w->out_bytes);
    uint16_t *out = malloc(w->out_bytes);
    must(cudaMemset(d_out, 0x7F, w->out_bytes) == cudaSuccess, "poison");
    for (int32_t s = 0; s < CROWD; s += each * every) run_of_crowd(w, s, s + each < CROWD ? s + each : CROWD, d_out);
    to_host(out, d_out, w->out_bytes);
    cudaFree(d_out);
    return out;
}

static void check_crowd(const config *c, int32_t every) {
    const grace_rope rope = {.dim = c->rope_dim, .magnitude = 1};
    crowd w = crowd_open(c, &rope);
    uint16_t *all = results_of_crowd(&w, CROWD, 1), *again = results_of_crowd(&w, CROWD, 1), *alone = results_of_crowd(&w, 1, every);
    const size_t width = (size_t)(c->n_heads * c->value_dim);
    bool there = true, same = true;
    for (int32_t s = 0; s < CROWD; s++)
        for (size_t row = (size_t)w.first_row[s]; row < (size_t)w.first_row[s + 1]; row++) {
            for (size_t i = row * width; i < (row + 1) * width; i++) there = there && (all[i] == 0x7F7F) == (w.sequence[row] < 0);
            if (s % every || !same || !memcmp(all + row * width, alone + row * width, width * 2)) continue;
            printf("       sequence %d, position %d%s: not the same alone\n", s, w.position[row], w.decode[row] ? "" : " of a prompt");
            same = false;
        }
    claim(there, "in a crowd every row has a result and padding is left alone", c);
    claim(!memcmp(all, again, w.out_bytes), "in a crowd the same bits again", c);
    claim(same, "in a crowd the same bits as alone", c);
    free(all), free(again), free(alone), crowd_close(&w);
}

/* ---- bad input ---- */
static void check_limits(void) {
    const grace_rope rope = {.dim = 16, .magnitude = 1}, odd = {.dim = 6, .magnitude = 1};
    const gr_cuda_attention_sizes good = {.n_heads = 4, .n_kv_heads = 2, .key_dim = 32, .value_dim = 32, .n_rows_max = 16, .kv_tokens = 64,
                                          .n_positions = 64, .rope = &rope};
    gr_cuda_attention_sizes bad[7];
    gr_cuda_attention *a = NULL;
    bool refused = true;
    for (int i = 0; i < 7; i++) bad[i] = good;
    bad[0].n_kv_heads = 3, bad[1].key_dim = 36, bad[2].value_dim = 0, bad[3].rope = &odd, bad[4].n_rows_max = 0, bad[5].latent = true, bad[6].made_key_dim = 48;
    for (int i = 0; i < 7; i++) {
        const bool ok = gr_cuda_attention_open(&bad[i], &a) == GRACE_ERR_LIMIT && !a;
        if (!ok) printf("       %d: %s\n", i, grace_last_error());
        refused = refused && ok;
    }
    printf("%s sizes it cannot take are refused\n", refused ? "ok    " : "FAILED");
    n_failed += !refused;
}

/* "small": only what a sanitizer gets through in seconds. */
int main(int argc, char **argv) {
    static const config small[] = {
        {"mha, whole norm, clip", 4, 4, 32, 32, .rope_dim = 32, .q_norm = NORM_WHOLE, .k_norm = NORM_WHOLE, .clip = 1.5f, .prompt = {1, 17, 70}, .n_decode = 2},
        {"odd sizes", 6, 2, 40, 24, .plain = true, .rope_dim = 20, .window = 9, .sinks = true, .prompt = {3, 0, 40}, .n_decode = 2},
        {"gqa, head norm", 8, 2, 64, 64, .rope_dim = 32, .q_norm = NORM_HEAD, .k_norm = NORM_HEAD, .window = 33, .sinks = true,
         .prompt = {5, 90}, .n_decode = 2},
        {"small latent", 8, 1, 80, 64, .latent = true, .rope_dim = 16, .neighbours = true, .k_norm = NORM_VALUE, .prompt = {40, 255}, .n_decode = 3},
        {"latent", 16, 1, 576, 512, .latent = true, .rope_dim = 64, .neighbours = true, .k_norm = NORM_VALUE, .prompt = {20}, .n_decode = 1},
    };
    static const config all[] = {
        {"mha, whole norm, clip", 16, 16, 128, 128, .rope_dim = 128, .q_norm = NORM_WHOLE, .k_norm = NORM_WHOLE, .clip = 2, .prompt = {128, 1, 63, 65, 300},
         .n_decode = 4},
        {"gqa, head norm", 32, 4, 128, 128, .rope_dim = 128, .q_norm = NORM_HEAD, .k_norm = NORM_HEAD, .prompt = {128, 7, 254, 600, 16}, .n_decode = 5},
        {"mha", 6, 6, 32, 32, .rope_dim = 32, .q_norm = NORM_WHOLE, .k_norm = NORM_WHOLE, .prompt = {128, 64, 1, 510, 33}, .n_decode = 4},
        {"gqa, window, sinks", 8, 2, 64, 64, .rope_dim = 64, .window = 128, .sinks = true, .prompt = {100, 130, 383, 700, 16}, .n_decode = 6},
        {"group of 3, window, neighbours", 6, 2, 64, 64, .rope_dim = 32, .neighbours = true, .window = 300, .prompt = {100, 310, 600, 1, 254}, .n_decode = 4},
        {"group of 20", 40, 2, 128, 128, .rope_dim = 64, .sinks = true, .prompt = {30, 130, 520, 1, 2}, .n_decode = 3},
        {"latent", 16, 1, 576, 512, .latent = true, .rope_dim = 64, .neighbours = true, .k_norm = NORM_VALUE, .prompt = {128, 1, 33, 255, 520}, .n_decode = 3},
        {"latent of many heads", 40, 1, 576, 512, .latent = true, .rope_dim = 64, .neighbours = true, .k_norm = NORM_VALUE, .prompt = {20, 1, 260, 33, 2},
         .n_decode = 2},
        {"small latent", 8, 1, 80, 64, .latent = true, .rope_dim = 16, .neighbours = true, .k_norm = NORM_VALUE,
         .prompt = {128, 1, 300, 520, 1300}, .n_decode = 5},
        {"odd sizes", 5, 5, 48, 24, .rope_dim = 48, .q_norm = NORM_HEAD, .k_norm = NORM_HEAD, .prompt = {60, 1, 300, 33, 16}, .n_decode = 3},
        {"plain", 8, 2, 128, 128, .plain = true, .rope_dim = 128, .window = 100, .sinks = true, .prompt = {60, 1, 300, 33, 16}, .n_decode = 3},
        {"plain", 16, 1, 576, 512, .latent = true, .plain = true, .rope_dim = 64, .neighbours = true, .k_norm = NORM_VALUE, .prompt = {20, 1, 70, 33, 16},
         .n_decode = 2},
    };
    const bool few = argc > 1 && strcmp(argv[1], "small") == 0;
    check_limits();
    if (no_gpu("attention")) return n_failed ? 1 : SKIPPED;
    for (size_t i = 0; i < sizeof small / sizeof *small; i++) check(small[i]);
    for (size_t i = 0; i < sizeof small / sizeof *small && few; i++)
        if (!small[i].plain && small[i].key_dim < 576) check_crowd(&small[i], 37);
    for (size_t i = 0; i < sizeof all / sizeof *all && !few; i++) check(all[i]);
    for (size_t i = 0; i < sizeof all / sizeof *all && !few; i++)
        if (!all[i].plain && all[i].key_dim != 48) check_crowd(&all[i], 1);
    printf("%d failed\n", n_failed);
    return n_failed > 0;
}
