#include "run/network.h"

#include <string.h>

#include "base/clock.h"
#include "base/memory.h"

/* ---- open ---- */

static grace_status open_weight(gr_network *net, const grace_tensor *t, gr_weight **out) {
    return t->data ? net->compute->ops->weight_open(net->compute, t, out) : GRACE_OK;
}

static int64_t tensor_bytes(const grace_tensor *t) { return t->rows * t->cols * (t->dtype == GRACE_F32 ? 4 : 2); }

static grace_status open_hosted(gr_network *net, const gr_layer_tensors *t, gr_layer *layer) {
    grace_status st = GRACE_OK;
    const grace_plan_layer *pl = &net->plan->layers[layer->moe];
    int32_t first = pl->first_slot[net->comm->rank], n = pl->first_slot[net->comm->rank + 1] - first;
    GR_CALLOC(layer->gate, n);
    GR_CALLOC(layer->up, n);
    GR_CALLOC(layer->down, n);
    for (int32_t s = 0; s < n; s++) {
        const gr_expert_tensors *e = &t->experts[pl->expert_of_slot[first + s]];
        GR_TRY(open_weight(net, &e->gate, &layer->gate[s]));
        GR_TRY(open_weight(net, &e->up, &layer->up[s]));
        GR_TRY(open_weight(net, &e->down, &layer->down[s]));
        if (pl->slots_of_expert[pl->slots_first[pl->expert_of_slot[first + s]]] != first + s)
            net->replica_bytes += tensor_bytes(&e->gate) + tensor_bytes(&e->up) + tensor_bytes(&e->down);
    }
done:
    return st;
}

static grace_status open_layer(gr_network *net, const gr_layer_tensors *t, gr_layer *layer) {
    grace_status st = GRACE_OK;
    GR_TRY(open_weight(net, &t->attn_norm, &layer->attn_norm));
    GR_TRY(open_weight(net, &t->mlp_norm, &layer->mlp_norm));
    GR_TRY(open_weight(net, &t->q, &layer->q));
    GR_TRY(open_weight(net, &t->k, &layer->k));
    GR_TRY(open_weight(net, &t->v, &layer->v));
    GR_TRY(open_weight(net, &t->o, &layer->o));
    GR_TRY(open_weight(net, &t->q_norm, &layer->q_norm));
    GR_TRY(open_weight(net, &t->k_norm, &layer->k_norm));
    GR_TRY(open_weight(net, &t->router, &layer->router));
    GR_TRY(open_hosted(net, t, layer));
done:
    return st;
}

static grace_status open_weights(gr_network *net, const grace_model *model) {
    grace_status st = GRACE_OK;
    const gr_model_tensors *t = gr_model_tensors_of(model);
    GR_TRY(open_weight(net, &t->embed, &net->embed));
    GR_TRY(open_weight(net, &t->final_norm, &net->final_norm));
    GR_TRY(open_weight(net, &t->head, &net->head));
    GR_CALLOC(net->layers, net->info->n_layers);
    for (int32_t l = 0, moe = 0; l < net->info->n_layers; l++) {
        net->layers[l].moe = moe++;
        GR_TRY(open_layer(net, &t->layers[l], &net->layers[l]));
    }
done:
    return st;
}

static grace_status alloc_floats(gr_network *net, float **out, int64_t rows, int64_t width) {
    return net->compute->ops->alloc(net->compute, (size_t)(rows * width) * sizeof(float), (void **)out);
}

static grace_status alloc_buffers(gr_network *net, int32_t rows) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = net->info;
    GR_TRY(alloc_floats(net, &net->x, rows, m->hidden));
    GR_TRY(alloc_floats(net, &net->h, rows > GR_LOGITS_ROWS ? rows : GR_LOGITS_ROWS, m->hidden));
    GR_TRY(alloc_floats(net, &net->q, rows, (int64_t)m->n_heads * m->head_dim));
    GR_TRY(alloc_floats(net, &net->k, rows, (int64_t)m->n_kv_heads * m->head_dim));
    GR_TRY(alloc_floats(net, &net->v, rows, (int64_t)m->n_kv_heads * m->head_dim));
    GR_TRY(alloc_floats(net, &net->attn, rows, (int64_t)m->n_heads * m->head_dim));
    GR_TRY(alloc_floats(net, &net->logits, GR_LOGITS_ROWS, m->vocab));
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
    GR_TRY(open_weights(net, model));
    GR_TRY(alloc_buffers(net, opt->n_tokens_max));
    GR_TRY(gr_kv_init(&net->kv, net->compute, net->info, opt->kv_tokens, opt->n_tokens_max));
    GR_TRY(gr_router_build(net->plan, net->comm->rank, opt->route, &net->router));
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

static void close_layer(gr_network *net, gr_layer *layer) {
    const gr_compute_ops *ops = net->compute->ops;
    gr_weight *const weights[] = {layer->attn_norm, layer->mlp_norm, layer->q,      layer->k,     layer->v,
                                  layer->o,         layer->q_norm,   layer->k_norm, layer->router};
    const grace_plan_layer *pl = &net->plan->layers[layer->moe];
    int32_t n = pl->first_slot[net->comm->rank + 1] - pl->first_slot[net->comm->rank];
    for (size_t i = 0; i < sizeof weights / sizeof *weights; i++) ops->weight_close(net->compute, weights[i]);
    for (int32_t s = 0; s < n; s++) {
        if (layer->gate) ops->weight_close(net->compute, layer->gate[s]);
        if (layer->up) ops->weight_close(net->compute, layer->up[s]);
        if (layer->down) ops->weight_close(net->compute, layer->down[s]);
    }
    free(layer->gate);
    free(layer->up);
    free(layer->down);
}

void gr_network_close(gr_network *net) {
    if (!net) return;
    gr_exchange_close(net->exchange);
    gr_router_free(net->router);
    gr_kv_free(&net->kv);
    if (net->compute) {
        const gr_compute_ops *ops = net->compute->ops;
        float *const rows[] = {net->x, net->h, net->q, net->k, net->v, net->attn, net->logits};
        for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
            if (rows[i]) ops->release(net->compute, rows[i]);
        for (int32_t l = 0; net->layers && l < net->info->n_layers; l++) close_layer(net, &net->layers[l]);
        ops->weight_close(net->compute, net->embed);
        ops->weight_close(net->compute, net->final_norm);
        ops->weight_close(net->compute, net->head);
        ops->free(net->compute);
    }
    free(net->layers);
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

static grace_status attend(gr_network *net, const gr_step *step, int32_t l) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = net->info;
    const gr_layer *layer = &net->layers[l];
    const gr_compute_ops *ops = net->compute->ops;
    gr_compute *c = net->compute;
    int32_t n = step->n_rows;
    GR_TRY(ops->norm(c, layer->attn_norm, m->rms_eps, net->x, n, net->h));
    GR_TRY(ops->linear(c, layer->q, net->h, n, net->q));
    GR_TRY(ops->linear(c, layer->k, net->h, n, net->k));
    GR_TRY(ops->linear(c, layer->v, net->h, n, net->v));
    gr_attention a = {
        .n_rows = n, .sequence_of_row = step->kv_sequence, .position_of_row = step->position,
        .page_table = net->kv.page_table, .pages_max = net->kv.pages_max, .k_pages = net->kv.k[l], .v_pages = net->kv.v[l],
        .n_heads = m->n_heads, .n_kv_heads = m->n_kv_heads, .head_dim = m->head_dim, .q_norm = layer->q_norm, .k_norm = layer->k_norm,
        .norm_eps = m->rms_eps, .rope_theta = m->rope_theta, .clip_qkv = m->clip_qkv, .q = net->q, .k = net->k, .v = net->v, .out = net->attn,
    };
    GR_TRY(ops->attention(c, &a));
    GR_TRY(ops->linear(c, layer->o, net->attn, n, net->h));
    GR_TRY(ops->add(c, net->x, net->h, (int64_t)n * m->hidden));
done:
    return st;
}

/* The rows the exchange will send, and what the gate chooses for them. */
static grace_status gate(gr_network *net, const gr_step *step, const gr_layer *layer) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = net->info;
    const gr_compute_ops *ops = net->compute->ops;
    float *rows = gr_exchange_rows(net->exchange);
    double mark = gr_now_us();
    GR_TRY(ops->norm(net->compute, layer->mlp_norm, m->rms_eps, net->x, step->n_rows, rows));
    GR_TRY(ops->gate(net->compute, layer->router, rows, step->n_rows, m->top_k, m->norm_topk, net->experts, net->weights));
    if (net->on_gate) net->on_gate(net->on_gate_user, layer->moe, step, net->experts, net->weights);
    lap(net, &mark, GRACE_TIME_GATE);
done:
    return st;
}

static gr_route place(gr_network *net, const gr_step *step, const gr_layer *layer) {
    const grace_plan_layer *pl = &net->plan->layers[layer->moe];
    int32_t first = pl->first_slot[net->comm->rank], n_slots = pl->first_slot[net->comm->rank + 1] - first;
    double mark = gr_now_us();
    gr_router_place(net->router, layer->moe, step->n_rows, net->info->top_k, net->experts, step->sequence, step->position, net->slots);
    lap(net, &mark, GRACE_TIME_ROUTE);      /* the exchange adds the time of its lists */
    return (gr_route){.n_rows = step->n_rows, .slot = net->slots, .weight = net->weights, .rank_of_slot = pl->rank_of_slot,
                      .n_slots_all = pl->n_slots, .first_slot = first, .n_slots = n_slots};
}

static grace_status run_experts(gr_network *net, const gr_layer *layer, int32_t n_slots, const gr_arrived *arrived) {
    double mark = gr_now_us();
    gr_experts e = {.n_slots = n_slots, .gate = (const gr_weight *const *)layer->gate, .up = (const gr_weight *const *)layer->up,
                    .down = (const gr_weight *const *)layer->down, .first_pair = arrived->first_pair, .row_of_pair = arrived->row_of_pair,
                    .in = arrived->rows, .out = arrived->results};
    grace_status st = net->compute->ops->experts(net->compute, &e);
    net->step_load[layer->moe] = arrived->n_pairs;
    net->step_expert_us[layer->moe] = gr_now_us() - mark;
    lap(net, &mark, GRACE_TIME_EXPERTS);
    return st;
}

/* Rows -> experts (gate) -> slots (place) -> ranks (dispatch) -> results -> home, into the residual stream (combine). */
static grace_status moe(gr_network *net, const gr_step *step, int32_t l) {
    grace_status st = GRACE_OK;
    const gr_layer *layer = &net->layers[l];
    gr_route route;
    gr_arrived arrived;
    gr_comm_at("gate", l);
    GR_TRY(gate(net, step, layer));
    route = place(net, step, layer);
    gr_comm_at("dispatch", l);
    GR_TRY(gr_exchange_build(net->exchange, &route));
    GR_TRY(gr_exchange_dispatch(net->exchange, &arrived));
    GR_TRY(run_experts(net, layer, route.n_slots, &arrived));
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
    GR_TRY(net->compute->ops->embed(net->compute, net->embed, step->id, step->n_rows, net->x));
    for (int32_t l = 0; l < net->info->n_layers; l++) {
        double mark = gr_now_us();
        show_stream(net, l, step);
        gr_comm_at("attention", l);
        GR_TRY(attend(net, step, l));
        lap(net, &mark, GRACE_TIME_ATTENTION);
        GR_TRY(moe(net, step, l));
    }
    GR_TRY(net->compute->ops->norm(net->compute, net->final_norm, net->info->rms_eps, net->x, step->n_rows, net->x));
    show_stream(net, net->info->n_layers, step);
done:
    return st;
}

grace_status gr_network_logits(gr_network *net, const int32_t *rows, int32_t n, const float **logits) {
    grace_status st = GRACE_OK;
    GR_ASSERT(n <= GR_LOGITS_ROWS);
    GR_TRY(net->compute->ops->gather(net->compute, net->x, rows, n, net->info->hidden, net->h));
    GR_TRY(net->compute->ops->linear(net->compute, net->head, net->h, n, net->logits));
    *logits = net->logits;
done:
    return st;
}
