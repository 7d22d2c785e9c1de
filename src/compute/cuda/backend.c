/* The cuda backend's table: every entry queues its kernels on one stream, a step of generated tokens is replayed as one graph, and the host waits only where it
 * reads: download and finish. */
#include "compute/cuda/backend.h"

#include <inttypes.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "compute/cuda/gate.h"
#include "compute/cuda/joint.h"
#include "compute/cuda/rows.h"
#include "compute/cuda/sample.h"
#include "compute/cuda/trace_gate.h"

/* Rows up to which the gate's logits and choices are one kernel. */
enum { FEW_GATE_ROWS = 256 };

/* ---- memory ---- */

grace_status gr_cuda_alloc(void *out, size_t bytes, const char *what) {
    size_t unused = 0, all = 0;
    const cudaError_t error = cudaMalloc(out, bytes ? bytes : 1);
    if (error != cudaErrorMemoryAllocation) return gr_cuda_status(error, what);
    cudaGetLastError();     /* it is not sticky, but stays until read */
    cudaMemGetInfo(&unused, &all);
    return gr_fail(GRACE_ERR_MEMORY, "cuda: %s need %zu MiB, %zu of %zu MiB are free: fewer KV tokens (--kv-tokens) or rows a step (--batch-tokens) need less",
                   what, bytes >> 20, unused >> 20, all >> 20);
}

static grace_status cuda_alloc(gr_compute *base, size_t bytes, void **out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_cuda_alloc(out, bytes, "buffers"));
    GR_TRY(gr_cuda_status(cudaMemsetAsync(*out, 0, bytes, gr_cuda_of(base)->stream), "clearing memory"));
done:
    return st;
}

static void cuda_release(gr_compute *base, void *memory) {
    (void)base;
    cudaFree(memory);
}

/* From pageable memory, which the driver has read when the call returns. */
static grace_status cuda_upload(gr_compute *base, void *to, const void *host, size_t bytes) {
    if (bytes == 0) return GRACE_OK;
    return gr_cuda_status(cudaMemcpyAsync(to, host, bytes, cudaMemcpyHostToDevice, gr_cuda_of(base)->stream), "upload");
}

static grace_status cuda_download(gr_compute *base, void *host, const void *from, size_t bytes) {
    grace_status st = GRACE_OK;
    cudaStream_t stream = gr_cuda_of(base)->stream;
    if (bytes == 0) return st;
    GR_TRY(gr_cuda_status(cudaMemcpyAsync(host, from, bytes, cudaMemcpyDeviceToHost, stream), "download"));
    GR_TRY(gr_cuda_status(cudaStreamSynchronize(stream), "download"));
done:
    return st;
}

grace_status gr_compute_cuda_room(gr_compute *c, const gr_cuda_needs *n) {
    grace_status st = GRACE_OK;
    const int64_t sum = n->weights + n->kv + n->buffers + n->exchange;
    size_t unused = 0, all = 0;
    (void)c;
    GR_TRY(gr_cuda_status(cudaMemGetInfo(&unused, &all), "free memory"));
    GR_CHECK(sum <= (int64_t)unused, GRACE_ERR_MEMORY, "cuda: needed are %" PRId64 " MiB: weights %" PRId64 ", KV cache %" PRId64 ", buffers %" PRId64
             ", rows between ranks %" PRId64 "; %zu of %zu MiB are free. Fewer KV tokens (--kv-tokens) or rows a step (--batch-tokens) need less", sum >> 20,
             n->weights >> 20, n->kv >> 20, n->buffers >> 20, n->exchange >> 20, unused >> 20, all >> 20);
done:
    return st;
}

/* ---- steps ---- */

static grace_status flaw_of(gr_cuda *c, const int32_t *seen) {
    const int32_t gate = seen[GR_CUDA_FLAW_GATE], draw = seen[GR_CUDA_FLAW_DRAW];
    if (!gate && !draw) return GRACE_OK;
    cudaMemsetAsync(c->flaws, 0, GR_CUDA_N_FLAWS * sizeof *c->flaws, c->stream);
    if (gate) return gr_fail(GRACE_ERR_NUMERIC, "a router logit of row %d is not finite", gate - 1);
    return gr_fail(GRACE_ERR_NUMERIC, "the logits of drawn row %d are not numbers to draw from", draw - 1);
}

/* All have come. */
static void add_times(gr_cuda *c) {
    for (int32_t i = 1; i < c->n_marks && !c->mark_error; i++) {
        float ms = 0;
        if (c->marks[i].us) c->mark_error = cudaEventElapsedTime(&ms, c->marks[i - 1].event, c->marks[i].event);
        if (c->marks[i].us) *c->marks[i].us += 1e3 * (double)ms;
    }
    c->n_marks = 0;
}

/* The last one begins the next series. */
static void renew_marks(gr_cuda *c) {
    const gr_cuda_mark last = c->marks[GR_CUDA_MARKS - 1];
    c->mark_error = cudaEventSynchronize(last.event);
    add_times(c);
    c->marks[GR_CUDA_MARKS - 1] = c->marks[0];
    c->marks[0] = last;
    c->n_marks = 1;
}

static void cuda_mark(gr_compute *base, double *us) {
    gr_cuda *c = gr_cuda_of(base);
    if (c->n_marks == GR_CUDA_MARKS && !c->mark_error) renew_marks(c);
    if (c->mark_error) return;
    gr_cuda_mark *m = &c->marks[c->n_marks++];
    m->us = us;
    if (!m->event) c->mark_error = cudaEventCreate(&m->event);
    if (!c->mark_error) c->mark_error = cudaEventRecord(m->event, c->stream);
}

static grace_status keep(const gr_cuda *c, int32_t *seen, const int32_t *from, int32_t n) {
    if (n == 0) return GRACE_OK;
    return gr_cuda_status(cudaMemcpyAsync(seen, from, (size_t)n * sizeof *from, cudaMemcpyDeviceToHost, c->stream), "end of a step");
}

static grace_status cuda_end(gr_compute *base, int32_t flight, const int32_t *from, int32_t n) {
    grace_status st = GRACE_OK;
    const gr_cuda *c = gr_cuda_of(base);
    const gr_cuda_end *end = &c->ends[flight];
    GR_ASSERT(n <= c->opt.n_draws_max);
    GR_TRY(keep(c, end->seen, c->flaws, GR_CUDA_N_FLAWS));
    GR_TRY(keep(c, end->seen + GR_CUDA_N_FLAWS, from, n));
    GR_TRY(gr_cuda_status(cudaEventRecord(end->event, c->stream), "end of a step"));
done:
    return st;
}

static grace_status cuda_finish(gr_compute *base, int32_t flight, int32_t *host, int32_t n) {
    grace_status st = GRACE_OK;
    gr_cuda *c = gr_cuda_of(base);
    const gr_cuda_end *end = &c->ends[flight];
    GR_TRY(gr_cuda_status(cudaEventSynchronize(end->event), "end of a step"));
    add_times(c);
    GR_TRY(gr_cuda_status(c->mark_error, "times of stages"));
    GR_TRY(flaw_of(c, end->seen));
    if (n) memcpy(host, end->seen + GR_CUDA_N_FLAWS, (size_t)n * sizeof *host);
done:
    return st;
}

/* Buckets: few sizes, so that a step is never much larger than its rows, and all are recorded when the model opens. */
static int32_t bucket_of(int32_t n) {
    const int32_t step = n <= 8 ? 1 : n <= 64 ? 8 : n <= 256 ? 32 : 64;
    int32_t power = 1;
    while (n <= 8 && power < n) power *= 2;
    return n <= 8 ? power : (n + step - 1) / step * step;
}

static int32_t cuda_padded(gr_compute *base, int32_t n_rows) {
    const gr_cuda *c = gr_cuda_of(base);
    const int32_t n = bucket_of(n_rows);
    return n <= c->opt.n_rows_max && n <= c->opt.n_draws_max ? n : n_rows;
}

static grace_status capture(gr_cuda *c, grace_status (*run)(void *user), void *user, cudaGraphExec_t *out) {
    grace_status st = GRACE_OK, ran;
    cudaGraph_t graph = NULL;
    GR_TRY(gr_cuda_status(cudaStreamBeginCapture(c->stream, cudaStreamCaptureModeThreadLocal), "recording a step"));
    ran = run(user);
    const cudaError_t ended = cudaStreamEndCapture(c->stream, &graph);
    st = ran ? ran : gr_cuda_status(ended, "recording a step");     /* the cause, and its words */
    if (!st) st = gr_cuda_status(cudaGraphInstantiate(out, graph, 0), "recording a step");
    if (graph) cudaGraphDestroy(graph);
done:
    return st;
}

static bool may_replay(int32_t key) { return key >= 1 && key <= GR_CUDA_REPLAYS_MAX; }

static grace_status cuda_record(gr_compute *base, int32_t key, grace_status (*run)(void *user), void *user) {
    gr_cuda *c = gr_cuda_of(base);
    return may_replay(key) && !c->replays[key] ? capture(c, run, user, &c->replays[key]) : GRACE_OK;
}

static grace_status cuda_replay(gr_compute *base, int32_t key, grace_status (*run)(void *user), void *user) {
    grace_status st = GRACE_OK;
    gr_cuda *c = gr_cuda_of(base);
    if (!may_replay(key)) return run(user);
    GR_TRY(cuda_record(base, key, run, user));
    GR_TRY(gr_cuda_status(cudaGraphLaunch(c->replays[key], c->stream), "replaying a step"));
    c->n_replayed++;
done:
    return st;
}

void gr_cuda_spare(gr_compute *base, bool spares) {
    gr_cuda_of(base)->spares = spares;
}

void gr_cuda_drop_replays(gr_compute *base) {
    gr_cuda *c = gr_cuda_of(base);
    for (int32_t i = 0; i <= GR_CUDA_REPLAYS_MAX; i++) {
        if (c->replays[i]) cudaGraphExecDestroy(c->replays[i]);
        c->replays[i] = NULL;
    }
}

static grace_status cuda_begin(gr_compute *base, const gr_step_rows *rows) {
    gr_cuda *c = gr_cuda_of(base);
    c->rows = *rows;
    c->wants_lists = true;      /* made with the first attention, which brings the page table */
    return GRACE_OK;
}

/* ---- entries that are one kernel ---- */

static gr_cuda_matrix matrix_of(const gr_weight *w) { return (gr_cuda_matrix){w->data, w->rows, w->cols, false}; }

static grace_status cuda_embed(gr_compute *base, const gr_weight *table, const int32_t *ids, const int32_t *drawn, int32_t n_rows, void *out) {
    return gr_cuda_embed(table->data, ids, drawn, n_rows, table->cols, out, gr_cuda_of(base)->stream);
}

static grace_status cuda_norm(gr_compute *base, const gr_weight *w, float eps, const void *x, int32_t n_rows, void *out) {
    return gr_cuda_norm(w->fp32, eps, n_rows, w->cols, (void *)x, w->cols, NULL, out, w->cols, gr_cuda_of(base)->stream);
}

static gr_cuda_norming norming_of(const gr_norm *n) { return n ? (gr_cuda_norming){n->w->fp32, n->eps, n->to} : (gr_cuda_norming){0}; }

static grace_status product(gr_compute *base, const gr_weight *w, const void *x, int32_t n_rows, bool add, void *out) {
    gr_cuda *c = gr_cuda_of(base);
    const gr_cuda_matrix m = matrix_of(w);
    grace_status st = gr_cuda_linear(c->linears, &m, x, w->cols, n_rows, add, out, w->rows, false, c->stream);
    return st || !w->bias ? st : gr_cuda_add_bias(w->bias, n_rows, w->rows, out, w->rows, c->stream);
}

static grace_status cuda_linear(gr_compute *base, const gr_weight *w, const void *x, int32_t n_rows, void *out) {
    return product(base, w, x, n_rows, false, out);
}

static grace_status cuda_norm_linear(gr_compute *base, const gr_norm *norm, gr_weight *const *w, int32_t n, const void *x, int32_t n_rows, void *const *out) {
    grace_status st = GRACE_OK;
    gr_cuda *c = gr_cuda_of(base);
    const gr_cuda_matrix m[2] = {matrix_of(w[0]), matrix_of(w[n - 1])};
    const gr_cuda_norming norming = norming_of(norm);
    GR_TRY(gr_cuda_norm_linear(c->linears, m, n, &norming, x, n_rows, out, c->stream));
    for (int32_t i = 0; i < n; i++)
        if (w[i]->bias) GR_TRY(gr_cuda_add_bias(w[i]->bias, n_rows, w[i]->rows, out[i], w[i]->rows, c->stream));
done:
    return st;
}

static grace_status cuda_linear_add(gr_compute *base, const gr_weight *w, const void *x, int32_t n_rows, void *out) {
    return product(base, w, x, n_rows, true, out);
}

static grace_status cuda_logits(gr_compute *base, const gr_weight *w, const void *x, int32_t n_rows, float *out) {
    gr_cuda *c = gr_cuda_of(base);
    const gr_cuda_matrix m = matrix_of(w);
    return gr_cuda_linear(c->linears, &m, x, w->cols, n_rows, false, out, w->rows, true, c->stream);
}

static grace_status cuda_linear_heads(gr_compute *base, const gr_weight *w, int32_t n_heads, int32_t n_kept, const void *x, int32_t n_rows, void *out) {
    gr_cuda *c = gr_cuda_of(base);
    const gr_cuda_matrix m = matrix_of(w);
    const int64_t piece = w->cols + n_kept;
    return gr_cuda_linear_heads(c->linears, &m, n_heads, n_kept, x, n_heads * piece, piece, n_rows, out, c->stream);
}

static grace_status cuda_gather(gr_compute *base, const void *in, const int32_t *index, int32_t n_rows, int32_t width, void *out) {
    return gr_cuda_gather(in, index, n_rows, width, out, gr_cuda_of(base)->stream);
}

static grace_status cuda_sample(gr_compute *base, const float *logits, int32_t n, int32_t vocab, const gr_draws *draws, int32_t *ids) {
    gr_cuda *c = gr_cuda_of(base);
    return gr_cuda_sample(logits, vocab, n, vocab, draws, ids, &c->flaws[GR_CUDA_FLAW_DRAW], c->sample_scratch, c->stream);
}

/* ---- attention ---- */

static gr_cuda_attention_layer layer_of(const gr_attention *a) {
    const int64_t q = a->q_step ? a->q_step : (int64_t)a->n_heads * a->key_dim, kv = a->kv_step ? a->kv_step : (int64_t)a->n_kv_heads * a->key_dim;
    return (gr_cuda_attention_layer){
        .k_pages = a->k_pages, .v_pages = a->v_pages, .q_norm = a->q_norm ? a->q_norm->fp32 : NULL, .k_norm = a->k_norm ? a->k_norm->fp32 : NULL,
        .q_norm_size = a->q_norm ? a->q_norm->cols : 0, .k_norm_size = a->k_norm ? a->k_norm->cols : 0, .sinks = a->sinks ? a->sinks->fp32 : NULL,
        .norm_eps = a->norm_eps, .clip = a->clip_qkv, .scale = a->scale, .window = a->window, .q = a->q, .k = a->k, .v = a->v,
        .q_step = q, .k_step = kv, .v_step = a->kv_step ? a->kv_step : (int64_t)a->n_kv_heads * a->value_dim, .out = a->out,
        .made = {.q = a->made.q, .k = a->made.k, .v = a->made.v, .out = a->made.out},
    };
}

/* Keys and values of every head from the latents that gr_cuda_attention_prepare() left in place. */
static grace_status make_keys(gr_cuda *c, const gr_attention *a, const gr_cuda_attention_layer *layer) {
    grace_status st = GRACE_OK;
    const int32_t n = c->rows.n_made;
    if (n == 0) return st;
    const uint16_t *latents = (const uint16_t *)layer->k + (a->n_rows - n) * layer->k_step;
    const gr_cuda_matrix keys = matrix_of(a->made.keys), values = matrix_of(a->made.values);
    GR_TRY(gr_cuda_linear(c->linears, &keys, latents, layer->k_step, n, false, a->made.k, keys.rows, false, c->stream));
    GR_TRY(gr_cuda_linear(c->linears, &values, latents, layer->k_step, n, false, a->made.v, values.rows, false, c->stream));
done:
    return st;
}

static grace_status cuda_attention(gr_compute *base, const gr_attention *a) {
    grace_status st = GRACE_OK;
    gr_cuda *c = gr_cuda_of(base);
    const gr_cuda_attention_layer layer = layer_of(a);
    c->step = (gr_cuda_attention_step){.n_rows = a->n_rows, .kv_sequence = a->sequence_of_row, .position = a->position_of_row, .decode = c->rows.decode,
                                       .page_table = a->page_table, .pages_max = a->pages_max, .n_made = c->rows.n_made,
                                       .has_prompt = c->rows.has_prompt, .has_decode = c->rows.has_decode};
    if (c->wants_lists) GR_TRY(gr_cuda_attention_lists(c->attention, &c->step, c->stream));
    c->wants_lists = false;
    GR_TRY(gr_cuda_attention_prepare(c->attention, &c->step, &layer, c->stream));
    GR_TRY(make_keys(c, a, &layer));
    GR_TRY(gr_cuda_attention_run(c->attention, &c->step, &layer, c->stream));
done:
    return st;
}

/* ---- MoE layers ---- */

static gr_cuda_gate gate_of(const gr_router_weights *router, const grace_gate *rule, int32_t top_k) {
    return (gr_cuda_gate){.n_experts = router->w->rows, .top_k = top_k, .rule = *rule, .bias = router->bias ? router->bias->fp32 : NULL,
                          .correction = router->correction ? router->correction->fp32 : NULL, .pick = router->place->pick, .layer = router->place->layer};
}

static grace_status cuda_gate(gr_compute *base, const gr_router_weights *router, const grace_gate *rule, const void *x, int32_t n_rows, int32_t top_k,
                              int32_t *ids, float *weights) {
    grace_status st = GRACE_OK;
    gr_cuda *c = gr_cuda_of(base);
    const gr_weight *w = router->w;
    const gr_step_rows *rows = router->place->rows;
    const gr_cuda_gate g = gate_of(router, rule, top_k);
    const gr_cuda_matrix m = {w->fp32 ? (const void *)w->fp32 : w->data, w->rows, w->cols, w->fp32 != NULL};
    int32_t *slots = router->place->slots, *flaw = &c->flaws[GR_CUDA_FLAW_GATE];
    if (c->opt.exact || n_rows <= FEW_GATE_ROWS) {      /* exact: one order of sums for any number of rows */
        const gr_cuda_router r = {m, c->router_logits, c->router_done, norming_of(router->norm)};
        GR_TRY(gr_cuda_gate_few(&g, &r, x, rows->sequence, rows->position, rows->kv_sequence, n_rows, ids, weights, slots, flaw, c->stream));
        goto done;
    }
    if (router->norm) GR_TRY(cuda_norm(base, router->norm->w, router->norm->eps, x, n_rows, router->norm->to));
    GR_TRY(gr_cuda_linear(c->linears, &m, router->norm ? router->norm->to : x, w->cols, n_rows, false, c->router_logits, w->rows, true, c->stream));
    GR_TRY(gr_cuda_gate_choose(&g, c->router_logits, rows->sequence, rows->position, rows->kv_sequence, n_rows, ids, weights, slots, flaw, c->stream));
done:
    return st;
}

static grace_status cuda_recall(gr_compute *base, const gr_recorded *r, int32_t layer, const gr_place *place, const gr_step_rows *rows, int32_t *ids,
                                float *weights) {
    return gr_cuda_recall(r, layer, place, rows, ids, weights, gr_cuda_of(base)->stream);
}

static grace_status cuda_joint(gr_compute *base, const gr_joint_tables *t, const gr_step_rows *rows, int32_t top_k, const int32_t *ids, int32_t *slots) {
    return gr_cuda_joint(t, rows, top_k, ids, slots, gr_cuda_of(base)->stream);
}

gr_pairs *gr_cuda_pairs_for(gr_compute *base, int32_t n_rows, int32_t top_k, int32_t n_slots) {
    gr_cuda *c = gr_cuda_of(base);
    gr_cuda_pairs *p = &c->pairs.pairs;
    p->n_rows = n_rows, p->top_k = top_k, p->n_slots = n_slots, p->spares = c->spares;
    c->pairs.single = false;
    return &c->pairs;
}

static grace_status cuda_group(gr_compute *base, const int32_t *slots, int32_t n_rows, int32_t top_k, int32_t n_slots, const gr_pairs **out) {
    gr_cuda *c = gr_cuda_of(base);
    if (!gr_cuda_singles_pay(c, n_rows, top_k)) {
        *out = gr_cuda_pairs_for(base, n_rows, top_k, n_slots);
        return gr_cuda_group(slots, &c->pairs.pairs, c->stream);
    }
    c->pairs.one = (gr_cuda_one){.slot = slots, .n_rows = n_rows, .top_k = top_k};
    c->pairs.single = true;
    *out = &c->pairs;
    return GRACE_OK;
}

static bool cuda_takes_shared(gr_compute *base, const gr_mlps *shared, int32_t n_rows, int32_t top_k) {
    const gr_cuda_mlps *m = shared->packed;
    return gr_cuda_singles_pay(gr_cuda_of(base), n_rows, top_k) && gr_cuda_experts_one_fits(m->experts, n_rows, 1);
}

static grace_status cuda_experts(gr_compute *base, const gr_experts *e) {
    gr_cuda *c = gr_cuda_of(base);
    const gr_cuda_mlps *m = e->packed;
    const gr_cuda_mlps *shared = e->shared;
    if (e->n_slots == 0) return GRACE_OK;
    if (!e->pairs->single) return gr_cuda_experts_run(m->experts, &e->pairs->pairs, e->in, e->out, c->stream);
    c->pairs.experts = m->experts, c->pairs.in = e->in;     /* combine runs them */
    c->pairs.one.shared = shared ? shared->experts : NULL, c->pairs.one.shared_act = c->shared_act;
    return GRACE_OK;
}

static grace_status cuda_combine(gr_compute *base, const gr_pairs *pairs, const float *weights, const void *in, int32_t width, void *x) {
    gr_cuda_one one = pairs->one;
    one.weight = weights;
    if (pairs->single) return gr_cuda_experts_one(pairs->experts, &one, pairs->in, x, x, gr_cuda_of(base)->stream);
    return gr_cuda_combine(&pairs->pairs, weights, in, x, width, x, gr_cuda_of(base)->stream);
}

/* ---- opening ---- */

static grace_status open_end(const gr_cuda *c, gr_cuda_end *end) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_cuda_status(cudaEventCreateWithFlags(&end->event, cudaEventDisableTiming), "event"));
    GR_TRY(gr_cuda_status(cudaMallocHost((void **)&end->seen, (size_t)(GR_CUDA_N_FLAWS + c->opt.n_draws_max) * sizeof *end->seen), "pinned memory"));
done:
    return st;
}

static void close_end(gr_cuda_end *end) {
    if (end->event) cudaEventDestroy(end->event);
    cudaFreeHost(end->seen);
}

static void cuda_free(gr_compute *base) {
    if (!base) return;
    gr_cuda *c = gr_cuda_of(base);
    if (c->stream) cudaStreamSynchronize(c->stream);    /* a step may be under way */
    void *const all[] = {c->act, c->shared_act, c->gate_up, c->router_logits, c->router_done, c->sample_scratch, c->flaws, c->pairs.pairs.first_pair,
                         c->pairs.pairs.row_of_pair, c->pairs.pairs.pair_of_choice, c->pairs.pairs.scratch};
    gr_cuda_drop_replays(base);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) cudaFree(all[i]);
    gr_cuda_attention_close(c->attention);
    gr_cuda_linears_close(c->linears);
    gr_cuda_stages_close(c);
    for (int32_t i = 0; i < GR_CUDA_MARKS; i++)
        if (c->marks[i].event) cudaEventDestroy(c->marks[i].event);
    for (int32_t i = 0; i < GR_FLIGHTS; i++) close_end(&c->ends[i]);
    if (c->stream) cudaStreamDestroy(c->stream);
    free(c);
}

static const gr_compute_ops cuda_ops = {
    .name = "cuda", .element = sizeof(uint16_t), .packs = true, .alloc = cuda_alloc, .release = cuda_release, .upload = cuda_upload,
    .download = cuda_download, .end = cuda_end, .finish = cuda_finish, .weight_open = gr_cuda_weight_open, .stack_open = gr_cuda_stack_open,
    .weight_close = gr_cuda_weight_close, .mlps_open = gr_cuda_mlps_open, .mlps_close = gr_cuda_mlps_close, .padded = cuda_padded,
    .replay = cuda_replay, .record = cuda_record, .mark = cuda_mark, .begin = cuda_begin, .embed = cuda_embed, .norm = cuda_norm, .linear = cuda_linear,
    .norm_linear = cuda_norm_linear, .linear_add = cuda_linear_add, .logits = cuda_logits, .linear_heads = cuda_linear_heads,
    .attention = cuda_attention, .gate = cuda_gate, .recall = cuda_recall, .joint = cuda_joint, .group = cuda_group,
    .combine = cuda_combine, .takes_shared = cuda_takes_shared, .experts = cuda_experts, .mlp = gr_cuda_mlp, .gather = cuda_gather,
    .sample = cuda_sample, .free = cuda_free,
};

static grace_status choose_kernels(gr_cuda *c, const char *name) {
    static const char *const names[] = {GR_CUDA_KERNEL_NAMES};
    for (int i = 0; i < 4; i++)
        if (!strcmp(name ? name : "auto", names[i])) {
            c->kernels = (gr_cuda_kernels)i;
            return GRACE_OK;
        }
    return gr_fail(GRACE_ERR_ARG, "kernels '%s': expected auto, hopper, mma or plain", name);
}

/* Every step's experts: routed ones for top_k pairs a row, of all ranks' rows at worst, others for one. */
static int64_t act_elements(const gr_cuda_options *opt) {
    const grace_model_info *m = opt->info;
    const int64_t routed = (int64_t)opt->n_ranks * m->top_k * m->expert_width, most = routed > m->dense_width ? routed : m->dense_width;
    return opt->n_rows_max * (most > m->shared_width ? most : m->shared_width);
}

static grace_status alloc_scratch(gr_cuda *c) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = &c->info;
    const int64_t rows = c->opt.n_rows_max, choices = rows * c->opt.n_ranks * m->top_k;
    gr_cuda_pairs *p = &c->pairs.pairs;
    c->act_elements = act_elements(&c->opt);
    GR_TRY(gr_cuda_alloc(&c->act, (size_t)c->act_elements * sizeof(uint16_t), "activations of experts"));
    GR_TRY(gr_cuda_alloc(&c->shared_act, (size_t)GR_CUDA_ONE_ROWS * (size_t)m->shared_width * sizeof(uint16_t), "activations of experts"));
    GR_TRY(gr_cuda_mlp_open(c));
    GR_TRY(gr_cuda_alloc(&c->router_logits, (size_t)(rows * m->n_experts) * sizeof(float), "router logits"));
    GR_TRY(cuda_alloc(&c->base, (size_t)rows * sizeof(int32_t), (void **)&c->router_done));
    GR_TRY(cuda_alloc(&c->base, GR_CUDA_N_FLAWS * sizeof *c->flaws, (void **)&c->flaws));
    for (int32_t i = 0; i < GR_FLIGHTS; i++) GR_TRY(open_end(c, &c->ends[i]));
    GR_TRY(gr_cuda_alloc(&p->first_pair, (GR_CUDA_SLOTS_MAX + 1) * sizeof(int32_t), "pairs"));
    GR_TRY(gr_cuda_alloc(&p->row_of_pair, (size_t)choices * sizeof(int32_t), "pairs"));
    GR_TRY(gr_cuda_alloc(&p->pair_of_choice, (size_t)choices * sizeof(int32_t), "pairs"));
    GR_TRY(gr_cuda_alloc(&p->scratch, (size_t)gr_cuda_group_scratch(choices, GR_CUDA_SLOTS_MAX) * sizeof(int32_t), "pairs"));
    GR_TRY(cuda_alloc(&c->base, (size_t)gr_cuda_sample_scratch(c->opt.n_draws_max, m->vocab), &c->sample_scratch));
done:
    return st;
}

/* Of exact mode no keys are made: a row's form may not depend on where its prompt is cut. */
static grace_status open_attention(gr_cuda *c) {
    const grace_model_info *m = &c->info;
    const bool makes = m->kv_rank && !c->opt.exact && m->rope.dim % 8 == 0 && m->rope.dim < m->head_dim;
    const gr_cuda_attention_sizes sizes = {
        .n_heads = m->n_heads, .n_kv_heads = m->kv_rank ? 1 : m->n_kv_heads, .key_dim = m->kv_rank ? m->kv_rank + m->rope.dim : m->head_dim,
        .value_dim = m->kv_rank ? m->kv_rank : m->v_dim, .latent = m->kv_rank > 0, .plain = c->kernels == GR_CUDA_KERNELS_PLAIN,
        .made_key_dim = makes ? m->head_dim : 0, .made_value_dim = makes ? m->v_dim : 0,
        .n_rows_max = c->opt.n_rows_max, .kv_tokens = c->opt.kv_tokens, .n_positions = m->context_max, .rope = &m->rope,
    };
    const grace_status st = gr_cuda_attention_open(&sizes, &c->attention);
    if (!st && gr_cuda_attention_is_plain(c->attention) && !sizes.plain)
        gr_log(GR_WARN, "cuda", "attention with heads of %d and %d elements runs on the plain kernel: fast ones take 32, 64, 128, "
               "latents of 80/64, 576/512", sizes.key_dim, sizes.value_dim);
    return st;
}

static grace_status check_limits(const gr_cuda *c) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = &c->info;
    const gr_cuda_gate gate = {.n_experts = m->n_experts, .top_k = m->top_k, .rule = m->gate};
    GR_CHECK(m->hidden % 8 == 0 && m->hidden <= GR_CUDA_WIDTH_MAX, GRACE_ERR_LIMIT, "cuda: hidden size %d: expected a multiple of 8 up to %d", m->hidden,
             GR_CUDA_WIDTH_MAX);
    GR_CHECK(m->expert_width % 8 == 0 && m->shared_width % 8 == 0 && m->dense_width % 8 == 0, GRACE_ERR_LIMIT,
             "cuda: experts of width %d, shared %d, dense %d: expected multiples of 8", m->expert_width, m->shared_width, m->dense_width);
    GR_TRY(gr_cuda_gate_check(&gate));
done:
    return st;
}

static grace_status find_device(gr_cuda *c) {
    grace_status st = GRACE_OK;
    int n = 0, gpu;
    struct cudaDeviceProp p;
    const cudaError_t error = cudaGetDeviceCount(&n);
    GR_CHECK(error == cudaSuccess && n > 0, GRACE_ERR_UNSUPPORTED, "device cuda: no GPU here: %s",
             error == cudaSuccess ? "the driver shows none" : cudaGetErrorString(error));
    c->device = gpu = c->opt.local_rank % n;
    GR_TRY(gr_cuda_status(cudaSetDevice(gpu), "the GPU"));
    GR_TRY(gr_cuda_status(cudaGetDeviceProperties(&p, gpu), "the GPU"));
    GR_CHECK(p.major >= 8, GRACE_ERR_UNSUPPORTED, "cuda: %s has compute capability %d.%d, expected 8.0 or newer", p.name, p.major, p.minor);
    gr_log(GR_INFO, "cuda", "GPU %d: %s, %zu MiB, compute capability %d.%d", gpu, p.name, p.totalGlobalMem >> 20, p.major, p.minor);
done:
    return st;
}

bool gr_compute_cuda_makes(const gr_compute *c) { return gr_cuda_attention_makes(gr_cuda_of((gr_compute *)c)->attention); }

grace_status gr_compute_cuda_open(const gr_cuda_options *opt, gr_compute **out) {
    grace_status st = GRACE_OK;
    gr_cuda *c = NULL;
    GR_CALLOC(c, 1);
    c->base.ops = &cuda_ops;
    c->opt = *opt;
    c->info = *opt->info;
    c->opt.info = &c->info;     /* the caller's is its own again */
    GR_TRY(choose_kernels(c, opt->kernels));
    GR_TRY(check_limits(c));
    GR_TRY(find_device(c));
    GR_TRY(gr_cuda_status(cudaStreamCreateWithFlags(&c->stream, cudaStreamNonBlocking), "stream"));
    GR_TRY(gr_cuda_stages_open(c));
    GR_TRY(gr_cuda_linears_open(opt->exact, true, &c->linears));
    GR_TRY(alloc_scratch(c));
    GR_TRY(open_attention(c));
    *out = &c->base;
    c = NULL;
done:
    cuda_free(c ? &c->base : NULL);
    return st;
}
