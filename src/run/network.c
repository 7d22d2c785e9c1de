#include "run/network.h"

#include <string.h>

#include "base/clock.h"
#include "base/half.h"
#include "base/memory.h"
#include "plan/phases.h"

/* ---- open ---- */

enum {
    STEP_BYTES = 6 * sizeof(int32_t),                               /* of a row: id, sequence, position, kv_sequence, decode, recorded */
    DRAW_BYTES = sizeof(double) + 4 * sizeof(int32_t),              /* u, temperature, top_p, top_k, index */
    LOGITS_HERE = 32, LOGITS_THERE = 512,                           /* rows of logits at once: few keep a CPU's cache warm, many fill a GPU */
};

static grace_status alloc_bytes(gr_network *net, void *out, int64_t n, size_t size) {
    return net->compute->ops->alloc(net->compute, (size_t)n * size, out);
}

static grace_status alloc_rows(gr_network *net, void **out, int64_t rows, int64_t width) {
    return alloc_bytes(net, out, rows * width, net->compute->ops->element);
}

static void *behind(const gr_network *net, void *rows, int64_t n) { return (char *)rows + n * (int64_t)net->compute->ops->element; }

/* Elements of a row of the stacked projections: heads of q, then of k, then of v. */
static int64_t qkv_width(const grace_model_info *m) {
    return (int64_t)m->n_heads * m->head_dim + (int64_t)m->n_kv_heads * (m->head_dim + m->v_dim);
}

static grace_status alloc_projections(gr_network *net, int32_t rows) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = net->info;
    const int64_t q = (int64_t)m->n_heads * m->head_dim;
    int64_t key, value;
    gr_kv_widths(m, &key, &value);
    GR_TRY(alloc_rows(net, &net->q, rows, m->kv_rank ? q : qkv_width(m)));
    GR_TRY(alloc_rows(net, &net->attn, rows, (int64_t)m->n_heads * m->v_dim));
    if (!m->kv_rank) {
        net->k = behind(net, net->q, q);
        net->v = behind(net, net->k, key);
        goto done;
    }
    GR_TRY(alloc_rows(net, &net->k, rows, key));
    if (m->q_rank) GR_TRY(alloc_rows(net, &net->q_a, rows, m->q_rank));
    GR_TRY(alloc_rows(net, &net->q_latent, rows, m->n_heads * key));
    GR_TRY(alloc_rows(net, &net->attn_latent, rows, (int64_t)m->n_heads * m->kv_rank));
done:
    return st;
}

static grace_status alloc_block(gr_network *net, gr_block *b, int64_t bytes) {
    grace_status st = GRACE_OK;
    GR_CALLOC(b->host, bytes);
    GR_TRY(alloc_bytes(net, (void **)&b->there, bytes, 1));
done:
    return st;
}

static grace_status alloc_choices(gr_network *net, int64_t rows) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = net->info;
    GR_TRY(alloc_bytes(net, (void **)&net->experts, rows * m->top_k, sizeof *net->experts));
    GR_TRY(alloc_bytes(net, (void **)&net->slots, rows * m->top_k, sizeof *net->slots));
    GR_TRY(alloc_bytes(net, (void **)&net->weights, rows * m->top_k, sizeof *net->weights));
done:
    return st;
}

static grace_status alloc_logits(gr_network *net) {
    grace_status st = GRACE_OK;
    const int32_t n = net->n_logits_max;
    GR_TRY(alloc_bytes(net, (void **)&net->logits, (int64_t)n * net->info->vocab, sizeof *net->logits));
    GR_TRY(alloc_bytes(net, (void **)&net->drawn_there, n, sizeof *net->drawn_there));
    GR_TRY(alloc_block(net, &net->draw_block, (int64_t)n * DRAW_BYTES));
    GR_CALLOC(net->drawn, n);
done:
    return st;
}

static grace_status alloc_buffers(gr_network *net) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = net->info;
    const bool packs = net->compute->ops->packs;
    const int32_t rows = net->n_rows_max, most = packs ? LOGITS_THERE : LOGITS_HERE;
    net->n_logits_max = packs && rows < most ? rows : most;
    GR_TRY(alloc_rows(net, &net->x, rows, m->hidden));
    GR_TRY(alloc_rows(net, &net->h, rows > net->n_logits_max ? rows : net->n_logits_max, m->hidden));
    GR_TRY(alloc_projections(net, rows));
    GR_TRY(alloc_logits(net));
    GR_TRY(alloc_choices(net, rows));
    GR_TRY(alloc_block(net, &net->step_block, (int64_t)rows * STEP_BYTES));
    GR_CALLOC(net->own_rows, rows);
    for (int32_t i = 0; i < rows; i++) net->own_rows[i] = i;
    GR_CALLOC(net->step_load, m->n_moe_layers);
    GR_CALLOC(net->step_expert_us, m->n_moe_layers);
done:
    return st;
}

/* A backend that packs places rows itself, by these tables. */
static grace_status upload_picks(gr_network *net) {
    grace_status st = GRACE_OK;
    const gr_compute_ops *ops = net->compute->ops;
    const size_t n = (size_t)net->info->n_moe_layers * (size_t)net->info->n_experts * GR_TURNS;
    if (!ops->packs) goto done;
    GR_TRY(alloc_bytes(net, (void **)&net->pick, net->decode_router ? 2 * (int64_t)n : (int64_t)n, sizeof *net->pick));
    GR_TRY(ops->upload(net->compute, net->pick, net->router->pick, n * sizeof *net->pick));
    if (net->decode_router) GR_TRY(ops->upload(net->compute, net->pick + n, net->decode_router->pick, n * sizeof *net->pick));
done:
    return st;
}

/* Bytes of the buffers of a step, about: rows as they pass through, and what experts read and write. */
static int64_t step_bytes(const grace_model_info *m, int64_t rows) {
    const int64_t choices = (int64_t)m->top_k * (m->hidden + m->expert_width), key = m->kv_rank ? m->kv_rank + m->rope.dim : 0;
    const int64_t width = 3 * (int64_t)m->hidden + qkv_width(m) + (int64_t)m->n_heads * (m->v_dim + key + m->kv_rank) + choices;
    return rows * width * (int64_t)sizeof(uint16_t) + (rows < LOGITS_THERE ? rows : LOGITS_THERE) * (int64_t)m->vocab * (int64_t)sizeof(float);
}

static grace_status open_cuda(gr_network *net, const grace_model *model, const grace_engine_options *opt) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = net->info;
    const gr_cuda_options cuda = {.info = m, .n_rows_max = opt->n_tokens_max, .kv_tokens = opt->kv_tokens, .exact = opt->exact, .kernels = opt->kernels,
                                  .n_draws_max = opt->n_tokens_max < LOGITS_THERE ? opt->n_tokens_max : LOGITS_THERE};
    GR_TRY(gr_compute_cuda_open(&cuda, &net->compute));
    GR_TRY(gr_compute_cuda_room(net->compute, grace_rank_memory_of(model, net->plan, net->comm->rank).weights,
                                grace_kv_bytes(m, opt->kv_tokens) / 2, step_bytes(m, opt->n_tokens_max)));
done:
    return st;
}

static grace_status open_compute(gr_network *net, const grace_model *model, const grace_engine_options *opt) {
    const char *device = opt->device ? opt->device : "cpu";
    if (!strcmp(device, "cuda")) return open_cuda(net, model, opt);
    if (strcmp(device, "cpu")) return gr_fail(GRACE_ERR_ARG, "device '%s': expected cpu or cuda", device);
    return gr_compute_cpu_open(opt->simd, opt->n_threads, &net->compute);
}

/* What can fail on this rank alone. */
static grace_status open_local(gr_network *net, const grace_model *model, const grace_engine_options *opt) {
    grace_status st = GRACE_OK;
    net->n_rows_max = opt->n_tokens_max;
    GR_TRY(open_compute(net, model, opt));
    net->w.on_load = opt->on_load, net->w.load_user = opt->load_user;
    GR_TRY(gr_weights_open(&net->w, net->compute, model, net->plan, net->comm->rank));
    GR_TRY(alloc_buffers(net));
    GR_TRY(gr_kv_init(&net->kv, net->compute, net->info, opt->kv_tokens, opt->n_tokens_max));
    GR_TRY(gr_router_build(net->plan, net->comm->rank, opt->route, &net->router));
    if (gr_plan_has_decode(net->plan)) {
        GR_TRY(gr_plan_of_decode(net->plan, &net->decode_plan));
        GR_TRY(gr_router_build(net->decode_plan, net->comm->rank, opt->route, &net->decode_router));
    }
    GR_TRY(upload_picks(net));
    if (opt->route_trace) GR_TRY(gr_trace_gate_open(net->compute, opt->route_trace, &opt->route_tokens, net->info, &net->trace_gate));
done:
    return st;
}

/* A backend that replays records a step of every size now: nothing is allocated later. The rows are padding: they leave no trace. */
static grace_status record_steps(gr_network *net) {
    grace_status st = GRACE_OK;
    int32_t *none = NULL, *zero = NULL;
    gr_draw *draws = NULL;
    const int32_t most = net->n_logits_max < net->n_rows_max ? net->n_logits_max : net->n_rows_max;
    if (!net->compute->ops->packs) return st;
    GR_CALLOC(none, most);
    GR_CALLOC(zero, most);
    GR_CALLOC(draws, most);
    for (int32_t i = 0; i < most; i++) none[i] = -1, draws[i].top_p = 1;
    for (int32_t n = 1; n <= most; n = net->compute->ops->padded(net->compute, n) + 1) {
        const int32_t rows = net->compute->ops->padded(net->compute, n);
        const gr_step step = {.n_rows = rows, .n_decode = rows, .id = zero, .sequence = zero, .position = zero, .kv_sequence = none, .decode = true};
        GR_TRY(gr_network_forward(net, &step, draws));
    }
    gr_exchange_counts_clear(net->exchange);
    memset(net->step_load, 0, (size_t)net->info->n_moe_layers * sizeof *net->step_load);
done:
    free(none);
    free(zero);
    free(draws);
    return st;
}

static int32_t most_slots(const grace_plan *plan, int32_t rank) {
    int32_t most = 0;
    for (int32_t l = 0; l < plan->n_layers; l++) {
        int32_t n = plan->layers[l].first_slot[rank + 1] - plan->layers[l].first_slot[rank];
        if (n > most) most = n;
    }
    return most;
}

grace_status gr_network_open(const grace_model *model, const grace_engine_options *opt, gr_network **out) {
    grace_status st = GRACE_OK;
    gr_network *net = NULL;
    GR_CALLOC(net, 1);
    net->info = grace_model_describe(model);
    net->plan = opt->plan;
    net->comm = opt->comm;
    GR_TRY(grace_comm_agree(net->comm, open_local(net, model, opt)));
    gr_exchange_options ex = {.kind = opt->exchange, .exact = opt->exact, .n_rows_max = opt->n_tokens_max, .top_k = net->info->top_k,
                              .hidden = net->info->hidden, .n_slots_max = most_slots(net->plan, net->comm->rank)};
    GR_TRY(grace_comm_agree(net->comm, gr_exchange_open(net->comm, net->compute, &ex, &net->exchange)));
    GR_TRY(grace_comm_agree(net->comm, record_steps(net)));
    *out = net;
    net = NULL;
done:
    gr_network_close(net);
    return st;
}

void gr_network_close(gr_network *net) {
    if (!net) return;
    gr_exchange_close(net->exchange);
    gr_router_free(net->router);
    gr_router_free(net->decode_router);
    grace_plan_free(net->decode_plan);
    gr_kv_free(&net->kv);
    if (net->compute) {
        const gr_compute_ops *ops = net->compute->ops;
        void *const all[] = {net->x, net->h, net->q, net->info->kv_rank ? net->k : NULL, net->attn, net->logits, net->q_a, net->q_latent, net->attn_latent,
                             net->experts, net->slots, net->weights, net->pick, net->drawn_there, net->step_block.there, net->draw_block.there};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            if (all[i]) ops->release(net->compute, all[i]);
        gr_trace_gate_close(net->trace_gate);
        gr_weights_close(&net->w);
        ops->free(net->compute);
    }
    void *const here[] = {net->own_rows, net->drawn, net->logits_here, net->seen, net->step_block.host, net->draw_block.host};
    for (size_t i = 0; i < sizeof here / sizeof *here; i++) free(here[i]);
    free(net->step_load);
    free(net->step_expert_us);
    free(net);
}

/* ---- what a step brings along ---- */

/* The next n values of a block. */
static void *take(char **at, int64_t n, size_t size) {
    void *values = *at;
    *at += n * (int64_t)size;
    return values;
}

/* The arrays of a block for n rows, in the block's memory here or there: the order is the layout. */
static gr_step_rows rows_of(char *block, int32_t n) {
    gr_step_rows r = {.n = n};
    r.id = take(&block, n, sizeof *r.id);
    r.sequence = take(&block, n, sizeof *r.sequence);
    r.position = take(&block, n, sizeof *r.position);
    r.kv_sequence = take(&block, n, sizeof *r.kv_sequence);
    r.decode = take(&block, n, sizeof *r.decode);
    r.recorded = take(&block, n, sizeof *r.recorded);
    return r;
}

static gr_draws draws_of(char *block, int32_t n, const int32_t **index) {
    gr_draws d;
    d.u = take(&block, n, sizeof *d.u);
    d.temperature = take(&block, n, sizeof *d.temperature);
    d.top_p = take(&block, n, sizeof *d.top_p);
    d.top_k = take(&block, n, sizeof *d.top_k);
    *index = take(&block, n, sizeof **index);
    return d;
}

/* n >= step->n_rows: padding rows at the end. */
static grace_status send_rows(gr_network *net, const gr_step *step, int32_t n) {
    const gr_step_rows here = rows_of(net->step_block.host, n);
    for (int32_t i = 0; i < n; i++) {
        const bool real = i < step->n_rows;
        ((int32_t *)here.id)[i] = real ? step->id[i] : 0;
        ((int32_t *)here.sequence)[i] = real ? step->sequence[i] : 0;
        ((int32_t *)here.position)[i] = real ? step->position[i] : 0;
        ((int32_t *)here.kv_sequence)[i] = real ? step->kv_sequence[i] : -1;
        ((int32_t *)here.decode)[i] = i < step->n_decode || !real;
        ((int32_t *)here.recorded)[i] = real && net->trace_gate ? gr_trace_gate_token(net->trace_gate, step->sequence[i], step->position[i]) : -1;
    }
    net->rows = rows_of(net->step_block.there, n);
    net->rows.has_decode = step->n_decode > 0;
    net->rows.has_prompt = step->n_decode < step->n_rows;
    return net->compute->ops->upload(net->compute, net->step_block.there, net->step_block.host, (size_t)n * STEP_BYTES);
}

/* rows NULL: 0, 1, ... */
static grace_status send_draws(gr_network *net, const int32_t *rows, const gr_draw *draws, int32_t n_real, int32_t n) {
    const int32_t *index;
    const gr_draws here = draws_of(net->draw_block.host, n, &index);
    static const gr_draw none = {.top_p = 1};
    for (int32_t i = 0; i < n; i++) {
        const gr_draw *d = i < n_real ? &draws[i] : &none;
        ((double *)here.u)[i] = d->temperature > 0 ? gr_draw_uniform(d->seed, d->position) : 0;
        ((float *)here.temperature)[i] = d->temperature;
        ((float *)here.top_p)[i] = d->top_p;
        ((int32_t *)here.top_k)[i] = d->top_k;
        ((int32_t *)index)[i] = rows ? rows[i] : i;
    }
    net->draws = draws_of(net->draw_block.there, n, &net->index);
    return net->compute->ops->upload(net->compute, net->draw_block.there, net->draw_block.host, (size_t)n * DRAW_BYTES);
}

/* ---- forward ---- */

/* What a backend only queues takes no time here. */
static void lap(gr_network *net, double *mark, int which) {
    double now = gr_now_us();
    if (!net->compute->ops->packs) net->time_us[which] += now - *mark;
    *mark = now;
}

static gr_attention attention_of(const gr_network *net, int32_t l) {
    const grace_model_info *m = net->info;
    const gr_layer *layer = &net->w.layers[l];
    return (gr_attention){
        .n_rows = net->rows.n, .sequence_of_row = net->rows.kv_sequence, .position_of_row = net->rows.position,
        .page_table = net->kv.page_table_there, .pages_max = net->kv.pages_max, .k_pages = net->kv.k[l], .v_pages = net->kv.v[l],
        .n_heads = m->n_heads, .n_kv_heads = m->n_kv_heads, .key_dim = m->head_dim, .value_dim = m->v_dim,
        .q_norm = layer->q_norm, .k_norm = layer->k_norm, .sinks = layer->sinks, .norm_eps = m->rms_eps, .clip_qkv = m->clip_qkv,
        .scale = m->softmax_scale, .window = m->layers[l].window, .rope = &m->rope, .q = net->q, .k = net->k, .v = net->v, .out = net->attn,
    };
}

/* h -> attn, every head with keys and values of its own or of its group. */
static grace_status attend_heads(gr_network *net, int32_t l) {
    grace_status st = GRACE_OK;
    gr_attention a = attention_of(net, l);
    a.q_step = a.kv_step = qkv_width(net->info);
    GR_TRY(net->compute->ops->linear(net->compute, net->w.layers[l].qkv, net->h, net->rows.n, net->q));
    GR_TRY(net->compute->ops->attention(net->compute, &a));
done:
    return st;
}

/* h -> attn by latents, in the absorbed form for every row (docs/adr/0006-latent-attention.md): each head's query goes to the latent, where all
 * heads share one key and value, and its result comes back. */
static grace_status attend_latent(gr_network *net, int32_t l) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = net->info;
    const gr_layer *layer = &net->w.layers[l];
    const gr_compute_ops *ops = net->compute->ops;
    int32_t n = net->rows.n;
    gr_attention a = attention_of(net, l);
    a.n_kv_heads = 1, a.key_dim = m->kv_rank + m->rope.dim, a.value_dim = m->kv_rank, a.norm_eps = m->latent_eps;
    a.q = net->q_latent, a.v = NULL, a.out = net->attn_latent;
    if (layer->q_a) {
        GR_TRY(ops->linear(net->compute, layer->q_a, net->h, n, net->q_a));
        GR_TRY(ops->norm(net->compute, layer->q_a_norm, m->latent_eps, net->q_a, n, net->q_a));
    }
    GR_TRY(ops->linear(net->compute, layer->q_a ? layer->q_b : layer->q, layer->q_a ? net->q_a : net->h, n, net->q));
    GR_TRY(ops->linear(net->compute, layer->kv_a, net->h, n, net->k));
    GR_TRY(ops->linear_heads(net->compute, layer->to_latent, m->n_heads, m->rope.dim, net->q, n, net->q_latent));
    GR_TRY(ops->attention(net->compute, &a));
    GR_TRY(ops->linear_heads(net->compute, layer->from_latent, m->n_heads, 0, net->attn_latent, n, net->attn));
done:
    return st;
}

static grace_status attend(gr_network *net, int32_t l) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = net->info;
    const gr_layer *layer = &net->w.layers[l];
    const gr_compute_ops *ops = net->compute->ops;
    GR_TRY(ops->norm(net->compute, layer->attn_norm, m->rms_eps, net->x, net->rows.n, net->h));
    GR_TRY(m->kv_rank ? attend_latent(net, l) : attend_heads(net, l));
    GR_TRY(ops->linear_add(net->compute, layer->o, net->attn, net->rows.n, net->x));
done:
    return st;
}

/* x += MLP(rows), for every row; with a gate, as far as it lets it. */
static grace_status add_mlp(gr_network *net, const gr_mlps *mlp, const gr_weight *gate, const void *rows) {
    grace_status st = GRACE_OK;
    const gr_compute_ops *ops = net->compute->ops;
    const int32_t n = net->rows.n, pairs[2] = {0, n};
    const gr_experts e = {.n_slots = 1, .slots = mlp->slots, .packed = mlp->packed, .swiglu_limit = net->info->swiglu_limit, .first_pair = pairs,
                          .row_of_pair = net->own_rows, .n_rows = n, .in = rows, .out = net->h};
    GR_TRY(ops->experts(net->compute, &e));
    if (gate) GR_TRY(ops->scale_rows(net->compute, gate, rows, n, net->h));
    GR_TRY(ops->add(net->compute, net->x, net->h, (int64_t)n * net->info->hidden));
done:
    return st;
}

static grace_status dense(gr_network *net, const gr_layer *layer) {
    grace_status st = GRACE_OK;
    void *rows = gr_exchange_rows(net->exchange);       /* no exchange is under way: its rows are free */
    GR_TRY(net->compute->ops->norm(net->compute, layer->mlp_norm, net->info->rms_eps, net->x, net->rows.n, rows));
    GR_TRY(add_mlp(net, &layer->dense, NULL, rows));
done:
    return st;
}

/* ---- what tests and recorders see: host memory ---- */

static grace_status see(gr_network *net, const void *there, size_t bytes, size_t at) {
    return net->compute->ops->download(net->compute, (char *)net->seen + at, there, bytes);
}

static grace_status make_seen(gr_network *net) {
    grace_status st = GRACE_OK;
    const size_t choices = (size_t)net->info->top_k * (sizeof *net->experts + sizeof *net->weights), row = (size_t)net->info->hidden * sizeof(float);
    if (net->seen) return st;
    net->seen = malloc((size_t)net->n_rows_max * (choices > row ? choices : row));
    return net->seen ? st : gr_fail(GRACE_ERR_MEMORY, "no memory to look at %d rows", net->n_rows_max);
}

static grace_status show_gate(gr_network *net, const gr_step *step, int32_t moe) {
    grace_status st = GRACE_OK;
    const size_t n = (size_t)step->n_rows * (size_t)net->info->top_k * sizeof(int32_t);
    if (!net->on_gate) goto done;
    GR_TRY(make_seen(net));
    GR_TRY(see(net, net->experts, n, 0));
    GR_TRY(see(net, net->weights, n, n));
    net->on_gate(net->on_gate_user, moe, step, net->seen, (const float *)((const char *)net->seen + n));
done:
    return st;
}

/* bf16 widened in place, from the end. */
static void widen(void *rows, size_t n) {
    for (size_t i = n; i-- > 0;) ((float *)rows)[i] = gr_float_of_bf16(((const uint16_t *)rows)[i]);
}

static grace_status show_stream(gr_network *net, int32_t n_done, const gr_step *step) {
    grace_status st = GRACE_OK;
    const size_t n = (size_t)step->n_rows * (size_t)net->info->hidden, element = net->compute->ops->element;
    if (!net->on_stream) goto done;
    GR_TRY(make_seen(net));
    GR_TRY(see(net, net->x, n * element, 0));
    if (element == sizeof(uint16_t)) widen(net->seen, n);
    net->on_stream(net->on_stream_user, n_done, step, net->seen);
done:
    return st;
}

/* ---- MoE layers ---- */

/* This layer's tables of a backend that places. */
static const int32_t *picks_of(const gr_network *net, const gr_step *step, int32_t moe) {
    const int64_t layer = (int64_t)net->info->n_experts * GR_TURNS, phase = step->decode && net->decode_router ? net->info->n_moe_layers * layer : 0;
    return net->pick + phase + moe * layer;
}

/* The rows the exchange will send, and what the gate chooses for them. */
static grace_status gate(gr_network *net, const gr_step *step, const gr_layer *layer, int32_t moe) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = net->info;
    const gr_compute_ops *ops = net->compute->ops;
    const gr_place place = {.pick = ops->packs ? picks_of(net, step, moe) : NULL, .layer = moe, .rows = &net->rows, .slots = net->slots};
    const gr_router_weights router = {layer->router, layer->router_bias, layer->correction, ops->packs ? &place : NULL};
    void *rows = gr_exchange_rows(net->exchange);
    double mark = gr_now_us();
    GR_TRY(ops->norm(net->compute, layer->mlp_norm, m->rms_eps, net->x, net->rows.n, rows));
    GR_TRY(ops->gate(net->compute, &router, &m->gate, rows, net->rows.n, m->top_k, net->experts, net->weights));
    if (net->trace_gate) {
        const gr_recorded *r = &net->trace_gate->choices;
        GR_TRY(ops->recall(net->compute, r, moe % r->n_layers, router.place, &net->rows, net->experts, net->weights));
    }
    GR_TRY(show_gate(net, step, moe));
    lap(net, &mark, GRACE_TIME_GATE);
done:
    return st;
}

static gr_route place(gr_network *net, const gr_step *step, int32_t moe) {
    const grace_plan_layer *pl = &net->plan->layers[moe];
    int32_t first = pl->first_slot[net->comm->rank], n_slots = pl->first_slot[net->comm->rank + 1] - first;
    double mark = gr_now_us();
    const gr_router *router = step->decode && net->decode_router ? net->decode_router : net->router;
    if (!net->pick)
        gr_router_place(router, moe, step->n_rows, net->info->top_k, net->experts, net->rows.sequence, net->rows.position, net->slots);
    lap(net, &mark, GRACE_TIME_ROUTE);      /* the exchange adds the time of its lists */
    return (gr_route){.n_rows = net->rows.n, .slot = net->slots, .weight = net->weights, .rank_of_slot = pl->rank_of_slot,
                      .n_slots_all = pl->n_slots, .first_slot = first, .n_slots = n_slots};
}

static grace_status run_experts(gr_network *net, const gr_layer *layer, int32_t moe, const gr_arrived *arrived) {
    double mark = gr_now_us();
    gr_experts e = {.n_slots = layer->slots.n, .slots = layer->slots.slots, .packed = layer->slots.packed, .swiglu_limit = net->info->swiglu_limit,
                    .first_pair = arrived->first_pair, .row_of_pair = arrived->row_of_pair, .pairs = arrived->pairs, .n_rows = arrived->n_rows,
                    .in = arrived->rows, .out = arrived->results};
    grace_status st = net->compute->ops->experts(net->compute, &e);
    net->step_load[moe] = arrived->n_pairs;
    net->step_expert_us[moe] = net->compute->ops->packs ? 0 : gr_now_us() - mark;
    lap(net, &mark, GRACE_TIME_EXPERTS);
    return st;
}

/* The expert that every token uses stays with its rows. */
static grace_status shared(gr_network *net, const gr_layer *layer) {
    double mark = gr_now_us();
    if (!layer->shared.n) return GRACE_OK;
    grace_status st = add_mlp(net, &layer->shared, layer->shared_gate, gr_exchange_rows(net->exchange));
    lap(net, &mark, GRACE_TIME_ATTENTION);
    return st;
}

/* Rows -> experts (gate) -> slots (place) -> ranks (dispatch) -> results -> home, into the residual stream (combine). */
static grace_status moe(gr_network *net, const gr_step *step, int32_t l) {
    grace_status st = GRACE_OK;
    const gr_layer *layer = &net->w.layers[l];
    const int32_t moe = net->info->layers[l].moe;
    gr_route route;
    gr_arrived arrived;
    gr_comm_at("gate", l);
    GR_TRY(gate(net, step, layer, moe));
    route = place(net, step, moe);
    gr_comm_at("dispatch", l);
    GR_TRY(gr_exchange_build(net->exchange, &route));
    GR_TRY(gr_exchange_dispatch_start(net->exchange));
    GR_TRY(shared(net, layer));             /* while rows travel */
    GR_TRY(gr_exchange_dispatch_finish(net->exchange, &arrived));
    GR_TRY(run_experts(net, layer, moe, &arrived));
    gr_comm_at("combine", l);
    GR_TRY(gr_exchange_combine(net->exchange, net->x));
done:
    if (st && st != GRACE_ERR_COMM) gr_fail_in(st, "layer %d", l);      /* the transport names the place itself */
    return st;
}

/* ---- a step ---- */

static grace_status run_layers(gr_network *net, const gr_step *step) {
    grace_status st = GRACE_OK;
    const gr_compute_ops *ops = net->compute->ops;
    GR_TRY(ops->begin(net->compute, &net->rows));
    GR_TRY(ops->embed(net->compute, net->w.embed, net->rows.id, net->rows.n, net->x));
    for (int32_t l = 0; l < net->info->n_layers; l++) {
        double mark = gr_now_us();
        GR_TRY(show_stream(net, l, step));
        gr_comm_at("attention", l);
        const bool has_experts = net->info->layers[l].moe >= 0;
        GR_TRY(attend(net, l));
        if (!has_experts) GR_TRY(dense(net, &net->w.layers[l]));
        lap(net, &mark, GRACE_TIME_ATTENTION);
        if (has_experts) GR_TRY(moe(net, step, l));
    }
    GR_TRY(ops->norm(net->compute, net->w.final_norm, net->info->rms_eps, net->x, net->rows.n, net->x));
    GR_TRY(show_stream(net, net->info->n_layers, step));
done:
    return st;
}

/* Logits of the rows of net->index, and ids by net->draws. */
static grace_status run_draws(gr_network *net, int32_t n) {
    grace_status st = GRACE_OK;
    const gr_compute_ops *ops = net->compute->ops;
    GR_TRY(ops->gather(net->compute, net->x, net->index, n, net->info->hidden, net->h));
    GR_TRY(ops->logits(net->compute, net->w.head, net->h, n, net->logits));
    GR_TRY(ops->sample(net->compute, net->logits, n, net->info->vocab, &net->draws, net->drawn_there));
done:
    return st;
}

/* What stays on one device is counted when it is queued: a replay calls no exchange. */
static void count_here(gr_network *net, const gr_step *step) {
    if (!net->compute->ops->packs) return;
    gr_exchange_count_here(net->exchange, (int64_t)step->n_rows * net->info->n_moe_layers);
    for (int32_t l = 0; l < net->info->n_moe_layers; l++) net->step_load[l] = (int64_t)step->n_rows * net->info->top_k;
}

typedef struct whole_step { gr_network *net; const gr_step *step; } whole_step;

static grace_status run_whole(void *user) {
    const whole_step *w = user;
    grace_status st = run_layers(w->net, w->step);
    return st ? st : run_draws(w->net, w->net->rows.n);
}

static grace_status fetch_drawn(gr_network *net, int32_t n) {
    grace_status st = GRACE_OK;
    GR_TRY(net->compute->ops->download(net->compute, net->drawn, net->drawn_there, (size_t)n * sizeof *net->drawn));
    GR_TRY(net->compute->ops->finish(net->compute));
done:
    return st;
}

grace_status gr_network_forward(gr_network *net, const gr_step *step, const gr_draw *draws) {
    grace_status st = GRACE_OK;
    const int32_t n = draws ? net->compute->ops->padded(net->compute, step->n_rows) : step->n_rows;
    whole_step whole = {net, step};
    GR_ASSERT(!draws || (step->n_decode == step->n_rows && n <= net->n_logits_max && n <= net->n_rows_max));
    GR_TRY(gr_kv_sync(&net->kv));
    GR_TRY(send_rows(net, step, n));
    if (!draws) {
        GR_TRY(run_layers(net, step));
        count_here(net, step);
        goto done;
    }
    GR_TRY(send_draws(net, NULL, draws, step->n_rows, n));
    if (net->on_gate || net->on_stream || n == 0) GR_TRY(run_whole(&whole));
    else GR_TRY(net->compute->ops->replay(net->compute, n, run_whole, &whole));
    count_here(net, step);
    GR_TRY(fetch_drawn(net, step->n_rows));
done:
    return st;
}

static grace_status bring_logits(gr_network *net, int32_t n, const float **logits) {
    grace_status st = GRACE_OK;
    const size_t row = (size_t)net->info->vocab * sizeof **logits;
    *logits = net->logits;
    if (!net->compute->ops->packs) goto done;
    if (!net->logits_here) GR_CALLOC(net->logits_here, (size_t)net->n_logits_max * (size_t)net->info->vocab);
    GR_TRY(net->compute->ops->download(net->compute, net->logits_here, net->logits, (size_t)n * row));
    *logits = net->logits_here;
done:
    return st;
}

grace_status gr_network_draw(gr_network *net, const int32_t *rows, int32_t n, const gr_draw *draws, const float **logits) {
    grace_status st = GRACE_OK;
    GR_ASSERT(n <= net->n_logits_max);
    GR_TRY(send_draws(net, rows, draws, n, n));
    GR_TRY(run_draws(net, n));
    GR_TRY(fetch_drawn(net, n));
    if (logits) GR_TRY(bring_logits(net, n, logits));
done:
    return st;
}
