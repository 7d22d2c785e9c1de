/* The layers: attention, then an MLP or experts, row by row in backend memory. */
#include "base/clock.h"
#include "run/network_parts.h"

/* ---- attention and ordinary MLPs ---- */

/* Elements of a row of the stacked projections: heads of q, then of k, then of v. */
int64_t gr_qkv_width(const grace_model_info *m) {
    return (int64_t)m->n_heads * m->head_dim + (int64_t)m->n_kv_heads * (m->head_dim + m->v_dim);
}

/* What is of the rows whose turn it is. */
static int32_t n_here(const gr_network *net) { return net->part->rows.n; }
static void *x_here(const gr_network *net) { return gr_behind(net, net->x, (int64_t)net->part->first * net->info->hidden); }
static int64_t choices_before(const gr_network *net) { return (int64_t)net->part->first * net->info->top_k; }

/* What was queued up to here is of this stage. */
static void queued(gr_network *net, int which) {
    if (net->times_stages) net->compute->ops->mark(net->compute, &net->time_us[which]);
}

/* What a backend only queues takes no time here. */
static void lap(gr_network *net, double *mark, int which) {
    double now = gr_now_us();
    if (!net->compute->ops->packs) net->time_us[which] += now - *mark;
    *mark = now;
    queued(net, which);
}

static gr_attention attention_of(const gr_network *net, int32_t l) {
    const grace_model_info *m = net->info;
    const gr_layer *layer = &net->w.layers[l];
    return (gr_attention){
        .n_rows = n_here(net), .sequence_of_row = net->part->rows.kv_sequence, .position_of_row = net->part->rows.position,
        .page_table = net->kv.page_table_there, .pages_max = net->kv.pages_max, .k_pages = net->kv.k[l], .v_pages = net->kv.v[l],
        .n_heads = m->n_heads, .n_kv_heads = m->n_kv_heads, .key_dim = m->head_dim, .value_dim = m->v_dim,
        .q_norm = layer->q_norm, .k_norm = layer->k_norm, .sinks = layer->sinks, .norm_eps = m->rms_eps, .clip_qkv = m->clip_qkv,
        .scale = m->softmax_scale, .window = m->layers[l].window, .rope = &m->rope, .q = net->q, .k = net->k, .v = net->v, .out = net->attn,
    };
}

/* The rows that attention begins with, in h. */
static gr_norm attn_norm_of(const gr_network *net, int32_t l) { return (gr_norm){net->w.layers[l].attn_norm, net->info->rms_eps, net->h}; }

/* x -> attn, every head with keys and values of its own or of its group. */
static grace_status attend_heads(gr_network *net, int32_t l) {
    grace_status st = GRACE_OK;
    gr_attention a = attention_of(net, l);
    const gr_norm norm = attn_norm_of(net, l);
    a.q_step = a.kv_step = gr_qkv_width(net->info);
    GR_TRY(net->compute->ops->norm_linear(net->compute, &norm, &net->w.layers[l].qkv, 1, x_here(net), n_here(net), &net->q));
    GR_TRY(net->compute->ops->attention(net->compute, &a));
done:
    return st;
}

/* Rows by made keys and values: they need no room in the latents' queries and results, so theirs is room for keys and values. */
static gr_made made_of(const gr_network *net, const gr_layer *layer) {
    const grace_model_info *m = net->info;
    const int64_t first_head = (int64_t)(n_here(net) - net->part->rows.n_made) * m->n_heads;
    return (gr_made){
        .keys = layer->to_keys, .values = layer->from_latent, .key_dim = m->head_dim, .value_dim = m->v_dim,
        .q = gr_behind(net, net->q, first_head * m->head_dim), .k = gr_behind(net, net->q_latent, first_head * (m->kv_rank + m->rope.dim)),
        .v = gr_behind(net, net->attn_latent, first_head * m->kv_rank), .out = gr_behind(net, net->attn, first_head * m->v_dim),
    };
}

/* x -> attn by latents (docs/adr/0006-latent-attention.md), of most rows in the absorbed form: each head's query goes to the latent, where all heads share
 * one key and value, and its result comes back. Rows whose prompt begins in this step have all that they see beside them: of them keys and values are made. */
static grace_status attend_latent(gr_network *net, int32_t l) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = net->info;
    const gr_layer *layer = &net->w.layers[l];
    const gr_compute_ops *ops = net->compute->ops;
    const int32_t n = n_here(net), n_absorbed = n - net->part->rows.n_made;
    const gr_norm norm = attn_norm_of(net, l);
    gr_attention a = attention_of(net, l);
    a.n_kv_heads = 1, a.key_dim = m->kv_rank + m->rope.dim, a.value_dim = m->kv_rank, a.norm_eps = m->latent_eps;
    a.q = net->q_latent, a.v = NULL, a.out = net->attn_latent, a.made = made_of(net, layer);
    gr_weight *const first[2] = {layer->q_a ? layer->q_a : layer->q, layer->kv_a};
    void *const to[2] = {layer->q_a ? net->q_a : net->q, net->k};
    GR_TRY(ops->norm_linear(net->compute, &norm, first, 2, x_here(net), n, to));
    if (layer->q_a) {
        GR_TRY(ops->norm(net->compute, layer->q_a_norm, m->latent_eps, net->q_a, n, net->q_a));
        GR_TRY(ops->linear(net->compute, layer->q_b, net->q_a, n, net->q));
    }
    GR_TRY(ops->linear_heads(net->compute, layer->to_latent, m->n_heads, m->rope.dim, net->q, n_absorbed, net->q_latent));
    GR_TRY(ops->attention(net->compute, &a));
    GR_TRY(ops->linear_heads(net->compute, layer->from_latent, m->n_heads, 0, net->attn_latent, n_absorbed, net->attn));
done:
    return st;
}

static grace_status attend(gr_network *net, int32_t l) {
    grace_status st = GRACE_OK;
    GR_TRY(net->info->kv_rank ? attend_latent(net, l) : attend_heads(net, l));
    GR_TRY(net->compute->ops->linear_add(net->compute, net->w.layers[l].o, net->attn, n_here(net), x_here(net)));
done:
    return st;
}

/* x += MLP(rows), for every row; with a gate, as far as it lets it. */
static grace_status add_mlp(gr_network *net, const gr_mlps *mlp, const gr_weight *gate, const void *rows) {
    const gr_mlp_rows m = {.mlp = mlp, .swiglu_limit = net->info->swiglu_limit, .gate = gate, .n_rows = n_here(net), .in = rows, .between = net->h,
                           .x = x_here(net)};
    return net->compute->ops->mlp(net->compute, &m);
}

static grace_status dense(gr_network *net, const gr_layer *layer) {
    grace_status st = GRACE_OK;
    void *rows = gr_exchange_rows(net->exchange);       /* no exchange is under way: its rows are free */
    GR_TRY(net->compute->ops->norm(net->compute, layer->mlp_norm, net->info->rms_eps, x_here(net), n_here(net), rows));
    GR_TRY(add_mlp(net, &layer->dense, NULL, rows));
done:
    return st;
}

/* ---- MoE layers ---- */

static const gr_router *router_of(const gr_network *net, const gr_step *step) {
    return step->decode && net->decode_router ? net->decode_router : net->router;
}

/* This layer's tables of a backend that places. */
static const int32_t *picks_of(const gr_network *net, const gr_step *step, int32_t moe) {
    const int64_t layer = (int64_t)net->info->n_experts * GR_TURNS, phase = router_of(net, step) == net->router ? 0 : net->info->n_moe_layers * layer;
    return net->pick + phase + moe * layer;
}

/* The rows the exchange will send, and what the gate chooses for them. */
static grace_status gate(gr_network *net, const gr_step *step, const gr_layer *layer, int32_t moe) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = net->info;
    const gr_compute_ops *ops = net->compute->ops;
    const int64_t before = choices_before(net);
    int32_t *experts = net->experts + before;
    float *weights = net->weights + before;
    const gr_place place = {.pick = ops->packs ? picks_of(net, step, moe) : NULL, .layer = moe, .rows = &net->part->rows, .slots = net->slots + before};
    const gr_norm norm = {layer->mlp_norm, m->rms_eps, gr_exchange_rows(net->exchange)};
    const gr_router_weights router = {layer->router, layer->router_bias, layer->correction, ops->packs ? &place : NULL, &norm};
    double mark = gr_now_us();
    GR_TRY(ops->gate(net->compute, &router, &m->gate, x_here(net), n_here(net), m->top_k, experts, weights));
    if (net->trace_gate) {
        const gr_recorded *r = &net->trace_gate->choices;
        GR_TRY(ops->recall(net->compute, r, moe % r->n_layers, router.place, &net->part->rows, experts, weights));
    }
    if (net->part == &net->parts[net->n_parts - 1]) GR_TRY(gr_see_gate(net, step, moe));
    lap(net, &mark, GRACE_TIME_GATE);
done:
    return st;
}

/* On a backend that places, choice by choice: what policy joint makes of that. */
static grace_status place_jointly(gr_network *net, const gr_step *step, int32_t moe) {
    const gr_joint *joint = &router_of(net, step)->joint;
    const int64_t before = choices_before(net);
    if (!joint->plan || !gr_joint_has_choice(joint, moe)) return GRACE_OK;
    const gr_joint_tables t = gr_joint_of_layer(joint, joint == &net->router->joint ? net->joint : net->decode_joint, moe);
    return net->compute->ops->joint(net->compute, &t, &net->part->rows, net->info->top_k, net->experts + before, net->slots + before);
}

static grace_status place(gr_network *net, const gr_step *step, int32_t moe, gr_route *out) {
    grace_status st = GRACE_OK;
    const grace_plan_layer *pl = &net->plan->layers[moe];
    const int32_t first = pl->first_slot[net->comm->rank], n_slots = pl->first_slot[net->comm->rank + 1] - first, top_k = net->info->top_k;
    const int64_t before = choices_before(net);
    const gr_step *here = &net->part->step;
    double mark = gr_now_us();
    if (net->pick) GR_TRY(place_jointly(net, step, moe));
    else gr_router_place(router_of(net, step), moe, here->n_rows, top_k, net->experts + before, here->sequence, here->position, net->slots + before);
    lap(net, &mark, GRACE_TIME_ROUTE);      /* the exchange adds the time of its lists */
    *out = (gr_route){.layer = moe, .n_rows = n_here(net), .slot = net->slots + before, .weight = net->weights + before, .rank_of_slot = pl->rank_of_slot,
                      .n_slots_all = pl->n_slots, .first_slot = first, .n_slots = n_slots};
done:
    return st;
}

/* Whether the shared expert is computed with the routed ones: where no row leaves, and the backend does it. */
static bool shared_rides(const gr_network *net, const gr_layer *layer) {
    const gr_compute_ops *ops = net->compute->ops;
    if (!layer->shared.n || layer->shared_gate || net->comm->n_ranks > 1 || !ops->packs) return false;
    return ops->takes_shared(net->compute, &layer->shared, n_here(net), net->info->top_k);
}

static grace_status run_experts(gr_network *net, const gr_layer *layer, int32_t moe, const gr_arrived *arrived) {
    double mark = gr_now_us();
    gr_experts e = {.n_slots = layer->slots.n, .slots = layer->slots.slots, .packed = layer->slots.packed, .swiglu_limit = net->info->swiglu_limit,
                    .first_pair = arrived->first_pair, .row_of_pair = arrived->row_of_pair, .pairs = arrived->pairs,
                    .shared = shared_rides(net, layer) ? layer->shared.packed : NULL, .in = arrived->rows, .out = arrived->results};
    grace_status st = net->compute->ops->experts(net->compute, &e);
    net->flight->load[moe] = arrived->n_pairs;
    net->flight->expert_us[moe] = net->compute->ops->packs ? 0 : gr_now_us() - mark;
    lap(net, &mark, GRACE_TIME_EXPERTS);
    return st;
}

/* The expert that every token uses stays with its rows. */
static grace_status shared(gr_network *net, const gr_layer *layer) {
    double mark = gr_now_us();
    if (!layer->shared.n || shared_rides(net, layer)) return GRACE_OK;
    grace_status st = add_mlp(net, &layer->shared, layer->shared_gate, gr_exchange_rows(net->exchange));
    lap(net, &mark, GRACE_TIME_ATTENTION);
    return st;
}

/* The transport names the place itself. */
static grace_status in_layer(grace_status st, int32_t l) { return st && st != GRACE_ERR_COMM ? gr_fail_in(st, "layer %d", l) : st; }

/* An MoE layer: rows -> experts (gate) -> slots (place) -> ranks (dispatch) -> results -> home, into the residual stream (combine). In three, between which
 * rows are under way. */
static grace_status route_rows(gr_network *net, const gr_step *step, int32_t l) {
    grace_status st = GRACE_OK;
    const int32_t moe = net->info->layers[l].moe;
    gr_route route;
    gr_comm_at("gate", l);
    GR_TRY(gate(net, step, &net->w.layers[l], moe));
    GR_TRY(place(net, step, moe, &route));
    gr_comm_at("dispatch", l);
    GR_TRY(gr_exchange_build(net->exchange, &route));
    queued(net, GRACE_TIME_DISPATCH);
done:
    return in_layer(st, l);
}

static grace_status compute_rows(gr_network *net, int32_t l) {
    grace_status st = GRACE_OK;
    const gr_layer *layer = &net->w.layers[l];
    gr_arrived arrived;
    gr_comm_at("dispatch", l);
    GR_TRY(gr_exchange_dispatch_start(net->exchange));
    queued(net, GRACE_TIME_DISPATCH);
    GR_TRY(shared(net, layer));             /* while rows travel */
    GR_TRY(gr_exchange_dispatch_finish(net->exchange, &arrived));
    queued(net, GRACE_TIME_DISPATCH);
    GR_TRY(run_experts(net, layer, net->info->layers[l].moe, &arrived));
    GR_TRY(gr_exchange_give_back(net->exchange));
    queued(net, GRACE_TIME_COMBINE);
done:
    return in_layer(st, l);
}

static grace_status combine_rows(gr_network *net, int32_t l) {
    gr_comm_at("combine", l);
    const grace_status st = gr_exchange_combine(net->exchange, x_here(net));
    queued(net, GRACE_TIME_COMBINE);
    return in_layer(st, l);
}

/* ---- all layers ---- */

static grace_status take_turn(gr_network *net, int32_t part) {
    if (net->part == &net->parts[part]) return GRACE_OK;
    net->part = &net->parts[part];
    gr_exchange_turn(net->exchange, part);
    return net->compute->ops->begin(net->compute, &net->part->rows);
}

static bool has_experts(const gr_network *net, int32_t l) { return l >= 0 && net->info->layers[l].moe >= 0; }

/* From the end of the experts before to the gate, or to the next layer. l == n_layers: the end of the last experts alone. */
static grace_status attend_and_route(gr_network *net, const gr_step *step, int32_t l) {
    grace_status st = GRACE_OK;
    double mark;
    if (has_experts(net, l - 1)) GR_TRY(combine_rows(net, l - 1));
    if (l == net->info->n_layers) return st;
    mark = gr_now_us();
    GR_TRY(gr_see_stream(net, l, step));
    gr_comm_at("attention", l);
    GR_TRY(attend(net, l));
    if (!has_experts(net, l)) GR_TRY(dense(net, &net->w.layers[l]));
    lap(net, &mark, GRACE_TIME_ATTENTION);
    if (has_experts(net, l)) GR_TRY(route_rows(net, step, l));
done:
    return st;
}

/* Parts take turns: whenever the host waits for what leaves of one, the other's next work is queued. */
static grace_status layer(gr_network *net, const gr_step *step, int32_t l) {
    grace_status st = GRACE_OK;
    for (int32_t i = 0; i < net->n_parts; i++) {
        GR_TRY(take_turn(net, i));
        GR_TRY(attend_and_route(net, step, l));
    }
    for (int32_t i = 0; i < net->n_parts && l < net->info->n_layers && has_experts(net, l); i++) {
        GR_TRY(take_turn(net, i));
        GR_TRY(compute_rows(net, l));
    }
done:
    return st;
}

grace_status gr_network_layers(gr_network *net, const gr_step *step) {
    grace_status st = GRACE_OK;
    const gr_compute_ops *ops = net->compute->ops;
    net->part = NULL;
    if (net->times_stages) ops->mark(net->compute, NULL);
    GR_TRY(ops->embed(net->compute, net->w.embed, net->rows.id, net->drawn_there, net->rows.n, net->x));
    for (int32_t l = 0; l <= net->info->n_layers; l++) GR_TRY(layer(net, step, l));
    GR_TRY(ops->norm(net->compute, net->w.final_norm, net->info->rms_eps, net->x, net->rows.n, net->x));
    GR_TRY(gr_see_stream(net, net->info->n_layers, step));
done:
    return st;
}
