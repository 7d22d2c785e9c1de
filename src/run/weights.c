#include "run/weights.h"

#include <stdlib.h>

#include "base/file.h"
#include "base/memory.h"

/* memory: what the weight was unpacked to, NULL when it lies in the file */
typedef struct gr_held { gr_weight *weight; void *memory; } gr_held;

/* ---- one weight ---- */

static grace_status make_room(gr_weights *w) {
    grace_status st = GRACE_OK;
    if (w->n_held < w->room) goto done;
    const size_t room = w->room ? 2 * w->room : 256;
    gr_held *grown = realloc(w->held, room * sizeof *grown);
    GR_CHECK(grown, GRACE_ERR_MEMORY, "no memory for a table of %zu weights", room);
    w->held = grown;
    w->room = room;
done:
    return st;
}

/* Takes memory, also when it fails. */
static grace_status hold(gr_weights *w, const grace_tensor *plain, void *memory, gr_weight **out) {
    grace_status st = make_room(w);
    if (!st) st = w->compute->ops->weight_open(w->compute, plain, out);
    if (st) {
        free(memory);
        return st;
    }
    w->held[w->n_held++] = (gr_held){*out, memory};
    w->bytes += (int64_t)gr_tensor_plain_bytes(plain);
    return st;
}

static grace_status alloc_values(const grace_tensor *t, void **out) {
    *out = malloc(gr_tensor_plain_bytes(t));
    return *out ? GRACE_OK : gr_fail(GRACE_ERR_MEMORY, "no memory for a weight of %zu bytes", gr_tensor_plain_bytes(t));
}

/* What was unpacked need not stay in memory a second time. */
static void forget(const grace_tensor *t) {
    const size_t values = (size_t)t->rows * (size_t)(t->row_step ? t->row_step : t->cols);
    if (t->dtype == GRACE_F8_E4M3) gr_file_forget(t->data, values);
    if (t->dtype == GRACE_MXFP4) gr_file_forget(t->data, values / 2);
}

static grace_status unpack(const grace_tensor *t, void **memory, grace_tensor *plain) {
    grace_status st = GRACE_OK;
    GR_TRY(alloc_values(t, memory));
    gr_tensor_unpack(t, *memory);
    forget(t);
    *plain = (grace_tensor){.data = *memory, .rows = t->rows, .cols = t->cols, .dtype = gr_tensor_plain_dtype(t)};
done:
    return st;
}

static grace_status open_weight(gr_weights *w, const grace_tensor *t, gr_weight **out) {
    grace_status st = GRACE_OK;
    void *memory = NULL;
    grace_tensor plain = *t;
    if (!gr_tensor_exists(t)) return st;
    if (!gr_tensor_is_plain(t)) st = unpack(t, &memory, &plain);
    return st ? st : hold(w, &plain, memory, out);
}

static grace_status open_mlp(gr_weights *w, const gr_mlp_tensors *t, gr_mlp *out) {
    grace_status st = GRACE_OK;
    GR_TRY(open_weight(w, &t->gate, &out->gate));
    GR_TRY(open_weight(w, &t->up, &out->up));
    GR_TRY(open_weight(w, &t->down, &out->down));
    GR_TRY(open_weight(w, &t->gate_bias, &out->gate_bias));
    GR_TRY(open_weight(w, &t->up_bias, &out->up_bias));
    GR_TRY(open_weight(w, &t->down_bias, &out->down_bias));
done:
    return st;
}

/* ---- latent attention ---- */

/* Of every head's rows of kv_b [heads * (skip + take or the other way), rank], those from `first` on, `n` of them, one head's below the other's;
 * turned: [rank, n] a head instead of [n, rank]. */
static grace_status open_pieces(gr_weights *w, const grace_tensor *kv_b, int32_t n_heads, int64_t first, int64_t n, bool turned, gr_weight **out) {
    grace_status st = GRACE_OK;
    void *memory = NULL;
    const int64_t rank = kv_b->cols;
    grace_tensor all = {.rows = n_heads * (turned ? rank : n), .cols = turned ? n : rank, .dtype = kv_b->dtype};
    const size_t piece = gr_tensor_plain_bytes(&all) / (size_t)n_heads;
    GR_TRY(alloc_values(&all, &memory));
    for (int32_t h = 0; h < n_heads; h++) {
        grace_tensor part = gr_tensor_rows(kv_b, kv_b->rows / n_heads * h + first, n);
        if (turned) part.rows = rank, part.cols = n, part.row_step = 1, part.col_step = rank;
        gr_tensor_unpack(&part, (char *)memory + piece * (size_t)h);
    }
    all.data = memory;
    st = hold(w, &all, memory, out);
done:
    return st;
}

/* Keys and values are never made: q k = q (kv_b latent) = (q kv_b) latent, so queries go to the latent once, and so come results back. */
static grace_status open_latent(gr_weights *w, const grace_model_info *m, const grace_tensor *kv_b, gr_layer *layer) {
    grace_status st = GRACE_OK;
    void *memory = NULL;
    grace_tensor plain = *kv_b;
    const int64_t nope = m->head_dim - m->rope.dim;
    if (!gr_tensor_exists(kv_b)) return st;
    if (!gr_tensor_is_plain(kv_b)) GR_TRY(unpack(kv_b, &memory, &plain));
    GR_TRY(open_pieces(w, &plain, m->n_heads, 0, nope, true, &layer->to_latent));
    GR_TRY(open_pieces(w, &plain, m->n_heads, nope, m->v_dim, false, &layer->from_latent));
done:
    free(memory);
    return st;
}

/* ---- layers ---- */

static grace_status open_attention(gr_weights *w, const grace_model_info *m, const gr_layer_tensors *t, gr_layer *layer) {
    grace_status st = GRACE_OK;
    const struct { const grace_tensor *tensor; gr_weight **weight; } all[] = {
        {&t->attn_norm, &layer->attn_norm}, {&t->q, &layer->q}, {&t->k, &layer->k}, {&t->v, &layer->v}, {&t->o, &layer->o},
        {&t->q_bias, &layer->q_bias}, {&t->k_bias, &layer->k_bias}, {&t->v_bias, &layer->v_bias}, {&t->o_bias, &layer->o_bias},
        {&t->q_norm, &layer->q_norm}, {&t->k_norm, &layer->k_norm}, {&t->sinks, &layer->sinks},
        {&t->q_a, &layer->q_a}, {&t->q_a_norm, &layer->q_a_norm}, {&t->q_b, &layer->q_b}, {&t->kv_a, &layer->kv_a}, {&t->kv_a_norm, &layer->k_norm},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) GR_TRY(open_weight(w, all[i].tensor, all[i].weight));
    GR_TRY(open_latent(w, m, &t->kv_b, layer));
done:
    return st;
}

static grace_status open_hosted(gr_weights *w, const grace_plan_layer *pl, int32_t rank, const gr_layer_tensors *t, gr_layer *layer) {
    grace_status st = GRACE_OK;
    int32_t first = pl->first_slot[rank];
    layer->n_slots = pl->first_slot[rank + 1] - first;
    GR_CALLOC(layer->slots, layer->n_slots);
    for (int32_t s = 0; s < layer->n_slots; s++) {
        const int32_t expert = pl->expert_of_slot[first + s];
        GR_TRY(open_mlp(w, &t->experts[expert], &layer->slots[s]));
        if (pl->slots_of_expert[pl->slots_first[expert]] != first + s) w->replica_bytes += gr_mlp_plain_bytes(&t->experts[expert]);
    }
done:
    return st;
}

static grace_status open_layer(gr_weights *w, const grace_model_info *m, const gr_layer_tensors *t, gr_layer *layer) {
    grace_status st = GRACE_OK;
    GR_TRY(open_attention(w, m, t, layer));
    GR_TRY(open_weight(w, &t->mlp_norm, &layer->mlp_norm));
    GR_TRY(open_mlp(w, &t->dense, &layer->dense));
    GR_TRY(open_weight(w, &t->router, &layer->router));
    GR_TRY(open_weight(w, &t->router_bias, &layer->router_bias));
    GR_TRY(open_weight(w, &t->correction, &layer->correction));
    GR_TRY(open_mlp(w, &t->shared, &layer->shared));
    GR_TRY(open_weight(w, &t->shared_gate, &layer->shared_gate));
done:
    return st;
}

grace_status gr_weights_open(gr_weights *w, gr_compute *compute, const grace_model *model, const grace_plan *plan, int32_t rank) {
    grace_status st = GRACE_OK;
    const gr_model_tensors *t = gr_model_tensors_of(model);
    const grace_model_info *m = grace_model_describe(model);
    w->compute = compute;
    w->n_layers = m->n_layers;
    GR_TRY(open_weight(w, &t->embed, &w->embed));
    GR_TRY(open_weight(w, &t->final_norm, &w->final_norm));
    if (m->tied_embeddings) w->head = w->embed;
    else GR_TRY(open_weight(w, &t->head, &w->head));
    GR_CALLOC(w->layers, m->n_layers);
    for (int32_t l = 0; l < m->n_layers; l++) {
        const int32_t moe = m->layers[l].moe;
        GR_TRY(open_layer(w, m, &t->layers[l], &w->layers[l]));
        if (moe >= 0) GR_TRY(open_hosted(w, &plan->layers[moe], rank, &t->layers[l], &w->layers[l]));
    }
done:
    return st;
}

void gr_weights_close(gr_weights *w) {
    for (size_t i = 0; i < w->n_held; i++) {
        w->compute->ops->weight_close(w->compute, w->held[i].weight);
        free(w->held[i].memory);
    }
    for (int32_t l = 0; w->layers && l < w->n_layers; l++) free(w->layers[l].slots);
    free(w->layers);
    free(w->held);
    *w = (gr_weights){0};
}
