#include "run/network.h"

#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "plan/phases.h"

/* ---- open ---- */

static grace_status alloc_floats(gr_network *net, float **out, int64_t rows, int64_t width) {
    return net->compute->ops->alloc(net->compute, (size_t)(rows * width) * sizeof(float), (void **)out);
}

static grace_status alloc_projections(gr_network *net, int32_t rows) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = net->info;
    int64_t key, value;
    gr_kv_widths(m, &key, &value);
    GR_TRY(alloc_floats(net, &net->q, rows, (int64_t)m->n_heads * m->head_dim));
    GR_TRY(alloc_floats(net, &net->k, rows, key));
    if (value) GR_TRY(alloc_floats(net, &net->v, rows, value));
    GR_TRY(alloc_floats(net, &net->attn, rows, (int64_t)m->n_heads * m->v_dim));
    if (m->q_rank) GR_TRY(alloc_floats(net, &net->q_a, rows, m->q_rank));
    if (m->kv_rank) GR_TRY(alloc_floats(net, &net->q_latent, rows, m->n_heads * key));
    if (m->kv_rank) GR_TRY(alloc_floats(net, &net->attn_latent, rows, (int64_t)m->n_heads * m->kv_rank));
done:
    return st;
}

static grace_status alloc_buffers(gr_network *net, int32_t rows) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = net->info;
    GR_TRY(alloc_floats(net, &net->x, rows, m->hidden));
    GR_TRY(alloc_floats(net, &net->h, rows > GR_LOGITS_ROWS ? rows : GR_LOGITS_ROWS, m->hidden));
    GR_TRY(alloc_projections(net, rows));
    GR_TRY(alloc_floats(net, &net->logits, GR_LOGITS_ROWS, m->vocab));
    GR_CALLOC(net->own_rows, rows);
    for (int32_t i = 0; i < rows; i++) net->own_rows[i] = i;
    GR_CALLOC(net->experts, (size_t)rows * (size_t)m->top_k);
    GR_CALLOC(net->slots, (size_t)rows * (size_t)m->top_k);
    GR_CALLOC(net->weights, (size_t)rows * (size_t)m->top_k);
    GR_CALLOC(net->step_load, m->n_moe_layers);
    GR_CALLOC(net->step_expert_us, m->n_moe_layers);
done:
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

/* What can fail on this rank alone. */
static grace_status open_local(gr_network *net, const grace_model *model, const grace_engine_options *opt) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_compute_cpu_open(opt->simd, opt->n_threads, &net->compute));
    GR_TRY(gr_weights_open(&net->w, net->compute, model, net->plan, net->comm->rank));
    GR_TRY(alloc_buffers(net, opt->n_tokens_max));
    GR_TRY(gr_kv_init(&net->kv, net->compute, net->info, opt->kv_tokens, opt->n_tokens_max));
    GR_TRY(gr_router_build(net->plan, net->comm->rank, opt->route, &net->router));
    if (!gr_plan_has_decode(net->plan)) goto done;
    GR_TRY(gr_plan_of_decode(net->plan, &net->decode_plan));
    GR_TRY(gr_router_build(net->decode_plan, net->comm->rank, opt->route, &net->decode_router));
done:
    return st;
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
        float *const rows[] = {net->x, net->h, net->q, net->k, net->v, net->attn, net->logits, net->q_a, net->q_latent, net->attn_latent};
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
            if (rows[i]) ops->release(net->compute, rows[i]);
        gr_weights_close(&net->w);
        ops->free(net->compute);
    }
    free(net->own_rows);
    free(net->experts);
    free(net->slots);
    free(net->weights);
    free(net->step_load);
    free(net->step_expert_us);
    free(net);
}

/* ---- forward ---- */

static void lap(gr_network *net, double *mark, int which) {
    double now = gr_now_us();
    net->time_us[which] += now - *mark;
    *mark = now;
}

/* out = w x (+ bias) */
static grace_status project(gr_network *net, const gr_weight *w, const gr_weight *bias, const float *x, int32_t n_rows, float *out) {
    const gr_compute_ops *ops = net->compute->ops;
    grace_status st = ops->linear(net->compute, w, x, n_rows, out);
    return st || !bias ? st : ops->add_bias(net->compute, bias, n_rows, out);
}

static gr_attention attention_of(const gr_network *net, const gr_step *step, int32_t l) {
    const grace_model_info *m = net->info;
    const gr_layer *layer = &net->w.layers[l];
    return (gr_attention){
        .n_rows = step->n_rows, .sequence_of_row = step->kv_sequence, .position_of_row = step->position,
        .page_table = net->kv.page_table, .pages_max = net->kv.pages_max, .k_pages = net->kv.k[l], .v_pages = net->kv.v[l],
        .n_heads = m->n_heads, .n_kv_heads = m->n_kv_heads, .key_dim = m->head_dim, .value_dim = m->v_dim,
        .q_norm = layer->q_norm, .k_norm = layer->k_norm, .sinks = layer->sinks, .norm_eps = m->rms_eps, .clip_qkv = m->clip_qkv,
        .scale = m->softmax_scale, .window = m->layers[l].window, .rope = &m->rope, .q = net->q, .k = net->k, .v = net->v, .out = net->attn,
    };
}

/* h -> attn, every head with keys and values of its own or of its group. */
static grace_status attend_heads(gr_network *net, const gr_step *step, int32_t l) {
    grace_status st = GRACE_OK;
    const gr_layer *layer = &net->w.layers[l];
    gr_attention a = attention_of(net, step, l);
    GR_TRY(project(net, layer->q, layer->q_bias, net->h, step->n_rows, net->q));
    GR_TRY(project(net, layer->k, layer->k_bias, net->h, step->n_rows, net->k));
    GR_TRY(project(net, layer->v, layer->v_bias, net->h, step->n_rows, net->v));
    GR_TRY(net->compute->ops->attention(net->compute, &a));
done:
    return st;
}

/* h -> attn by latents, in the absorbed form for every row (docs/adr/0006-latent-attention.md): each head's query goes to the latent, where all
 * heads share one key and value, and its result comes back. */
static grace_status attend_latent(gr_network *net, const gr_step *step, int32_t l) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = net->info;
    const gr_layer *layer = &net->w.layers[l];
    const gr_compute_ops *ops = net->compute->ops;
    int32_t n = step->n_rows;
    gr_attention a = attention_of(net, step, l);
    a.n_kv_heads = 1, a.key_dim = m->kv_rank + m->rope.dim, a.value_dim = m->kv_rank, a.norm_eps = m->latent_eps;
    a.q = net->q_latent, a.out = net->attn_latent;
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

static grace_status attend(gr_network *net, const gr_step *step, int32_t l) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = net->info;
    const gr_layer *layer = &net->w.layers[l];
    const gr_compute_ops *ops = net->compute->ops;
    GR_TRY(ops->norm(net->compute, layer->attn_norm, m->rms_eps, net->x, step->n_rows, net->h));
    GR_TRY(m->kv_rank ? attend_latent(net, step, l) : attend_heads(net, step, l));
    GR_TRY(project(net, layer->o, layer->o_bias, net->attn, step->n_rows, net->h));
    GR_TRY(ops->add(net->compute, net->x, net->h, (int64_t)step->n_rows * m->hidden));
done:
    return st;
}

/* x += MLP(rows), for every row; with a gate, as far as it lets it. */
static grace_status add_mlp(gr_network *net, const gr_mlp *mlp, const gr_weight *gate, const float *rows, int32_t n_rows) {
    grace_status st = GRACE_OK;
    const gr_compute_ops *ops = net->compute->ops;
    const int32_t pairs[2] = {0, n_rows};
    const gr_experts e = {.n_slots = 1, .slots = mlp, .swiglu_limit = net->info->swiglu_limit, .first_pair = pairs, .row_of_pair = net->own_rows,
                          .in = rows, .out = net->h};
    GR_TRY(ops->experts(net->compute, &e));
    if (gate) GR_TRY(ops->scale_rows(net->compute, gate, rows, n_rows, net->h));
    GR_TRY(ops->add(net->compute, net->x, net->h, (int64_t)n_rows * net->info->hidden));
done:
    return st;
}

static grace_status dense(gr_network *net, const gr_step *step, const gr_layer *layer) {
    grace_status st = GRACE_OK;
    float *rows = gr_exchange_rows(net->exchange);      /* no exchange is under way: its rows are free */
    GR_TRY(net->compute->ops->norm(net->compute, layer->mlp_norm, net->info->rms_eps, net->x, step->n_rows, rows));
    GR_TRY(add_mlp(net, &layer->dense, NULL, rows, step->n_rows));
done:
    return st;
}

/* The rows the exchange will send, and what the gate chooses for them. */
static grace_status gate(gr_network *net, const gr_step *step, const gr_layer *layer, int32_t moe) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = net->info;
    const gr_compute_ops *ops = net->compute->ops;
    const gr_router_weights router = {layer->router, layer->router_bias, layer->correction};
    float *rows = gr_exchange_rows(net->exchange);
    double mark = gr_now_us();
    GR_TRY(ops->norm(net->compute, layer->mlp_norm, m->rms_eps, net->x, step->n_rows, rows));
    GR_TRY(ops->gate(net->compute, &router, &m->gate, rows, step->n_rows, m->top_k, net->experts, net->weights));
    if (net->on_gate) net->on_gate(net->on_gate_user, moe, step, net->experts, net->weights);
    lap(net, &mark, GRACE_TIME_GATE);
done:
    return st;
}

static gr_route place(gr_network *net, const gr_step *step, int32_t moe) {
    const grace_plan_layer *pl = &net->plan->layers[moe];
    int32_t first = pl->first_slot[net->comm->rank], n_slots = pl->first_slot[net->comm->rank + 1] - first;
    double mark = gr_now_us();
    const gr_router *router = step->decode && net->decode_router ? net->decode_router : net->router;
    gr_router_place(router, moe, step->n_rows, net->info->top_k, net->experts, step->sequence, step->position, net->slots);
    lap(net, &mark, GRACE_TIME_ROUTE);      /* the exchange adds the time of its lists */
    return (gr_route){.n_rows = step->n_rows, .slot = net->slots, .weight = net->weights, .rank_of_slot = pl->rank_of_slot,
                      .n_slots_all = pl->n_slots, .first_slot = first, .n_slots = n_slots};
}

static grace_status run_experts(gr_network *net, const gr_layer *layer, int32_t moe, const gr_arrived *arrived) {
    double mark = gr_now_us();
    gr_experts e = {.n_slots = layer->n_slots, .slots = layer->slots, .swiglu_limit = net->info->swiglu_limit, .first_pair = arrived->first_pair,
                    .row_of_pair = arrived->row_of_pair, .in = arrived->rows, .out = arrived->results};
    grace_status st = net->compute->ops->experts(net->compute, &e);
    net->step_load[moe] = arrived->n_pairs;
    net->step_expert_us[moe] = gr_now_us() - mark;
    lap(net, &mark, GRACE_TIME_EXPERTS);
    return st;
}

/* The expert that every token uses stays with its rows. */
static grace_status shared(gr_network *net, const gr_step *step, const gr_layer *layer) {
    double mark = gr_now_us();
    if (!layer->shared.gate) return GRACE_OK;
    grace_status st = add_mlp(net, &layer->shared, layer->shared_gate, gr_exchange_rows(net->exchange), step->n_rows);
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
    GR_TRY(shared(net, step, layer));      /* while rows travel */
    GR_TRY(gr_exchange_dispatch_finish(net->exchange, &arrived));
    GR_TRY(run_experts(net, layer, moe, &arrived));
    gr_comm_at("combine", l);
    GR_TRY(gr_exchange_combine(net->exchange, net->x));
done:
    if (st && st != GRACE_ERR_COMM) gr_fail_in(st, "layer %d", l);      /* the transport names the place itself */
    return st;
}

static void show_stream(gr_network *net, int32_t n_done, const gr_step *step) {
    if (net->on_stream) net->on_stream(net->on_stream_user, n_done, step, net->x);
}

grace_status gr_network_forward(gr_network *net, const gr_step *step) {
    grace_status st = GRACE_OK;
    GR_TRY(net->compute->ops->embed(net->compute, net->w.embed, step->id, step->n_rows, net->x));
    for (int32_t l = 0; l < net->info->n_layers; l++) {
        double mark = gr_now_us();
        show_stream(net, l, step);
        gr_comm_at("attention", l);
        const bool has_experts = net->info->layers[l].moe >= 0;
        GR_TRY(attend(net, step, l));
        if (!has_experts) GR_TRY(dense(net, step, &net->w.layers[l]));
        lap(net, &mark, GRACE_TIME_ATTENTION);
        if (has_experts) GR_TRY(moe(net, step, l));
    }
    GR_TRY(net->compute->ops->norm(net->compute, net->w.final_norm, net->info->rms_eps, net->x, step->n_rows, net->x));
    show_stream(net, net->info->n_layers, step);
done:
    return st;
}

grace_status gr_network_logits(gr_network *net, const int32_t *rows, int32_t n, const float **logits) {
    grace_status st = GRACE_OK;
    GR_ASSERT(n <= GR_LOGITS_ROWS);
    GR_TRY(net->compute->ops->gather(net->compute, net->x, rows, n, net->info->hidden, net->h));
    GR_TRY(net->compute->ops->linear(net->compute, net->w.head, net->h, n, net->logits));
    *logits = net->logits;
done:
    return st;
}
