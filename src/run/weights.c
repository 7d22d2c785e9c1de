#include "run/weights.h"

#include <stdlib.h>

#include "base/file.h"
#include "base/memory.h"
#include "grace/engine.h"

/* What is opened, and what must live as long: memory that a tensor was unpacked to. Either may be NULL. */
typedef struct gr_held { gr_weight *weight; void *memory; } gr_held;

/* ---- holding ---- */

/* Takes memory, also when it fails. */
static grace_status hold(gr_weights *w, gr_weight *weight, void *memory) {
    grace_status st = GRACE_OK;
    GR_RESERVE(w->held, w->n_held + 1, w->room);
    w->held[w->n_held++] = (gr_held){weight, memory};
    memory = NULL;
done:
    free(memory);
    return st;
}

/* A backend that packs has its own copy: unpacked memory is only passed through. */
static void drop_unpacked(gr_weights *w, size_t first) {
    if (!w->compute->ops->packs) return;
    for (size_t i = first; i < w->n_held; i++) {
        free(w->held[i].memory);
        w->held[i].memory = NULL;
    }
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

/* A backend that packs makes random values where it needs them. */
static bool is_made_there(const gr_weights *w, const grace_tensor *t) {
    return w->compute->ops->packs && t->random.on && !t->row_step && !t->col_step;
}

/* The tensor as backends take it: as it lies in the file, or unpacked into memory that is held. Absent ones stay absent. */
static grace_status plain_of(gr_weights *w, const grace_tensor *t, grace_tensor *plain) {
    grace_status st = GRACE_OK;
    void *memory = NULL;
    *plain = *t;
    if (!gr_tensor_exists(t)) return st;
    w->bytes += (int64_t)gr_tensor_plain_bytes(t);
    if (gr_tensor_is_plain(t) || is_made_there(w, t)) return st;
    GR_TRY(alloc_values(t, &memory));
    gr_tensor_unpack(t, memory);
    forget(t);
    *plain = (grace_tensor){.data = memory, .rows = t->rows, .cols = t->cols, .dtype = gr_tensor_plain_dtype(t)};
    st = hold(w, NULL, memory);
done:
    return st;
}

/* ---- opening ---- */

static grace_status open_weight(gr_weights *w, const grace_tensor *t, gr_weight **out) {
    grace_status st = GRACE_OK;
    grace_tensor plain;
    const size_t first = w->n_held;
    if (!gr_tensor_exists(t)) return st;
    GR_TRY(plain_of(w, t, &plain));
    GR_RESERVE(w->held, w->n_held + 1, w->room);
    GR_TRY(w->compute->ops->weight_open(w->compute, &plain, out));
    GR_TRY(hold(w, *out, NULL));
    drop_unpacked(w, first);
done:
    return st;
}

enum { STACK_MAX = 3 };

/* Tensors of one width below each other, each with its bias or none. */
static grace_status open_stack(gr_weights *w, const grace_tensor *const parts[], const grace_tensor *const biases[], int32_t n, gr_weight **out) {
    grace_status st = GRACE_OK;
    grace_tensor plain[STACK_MAX], bias[STACK_MAX];
    const size_t first = w->n_held;
    for (int32_t i = 0; i < n; i++) {
        GR_TRY(plain_of(w, parts[i], &plain[i]));
        GR_TRY(plain_of(w, biases[i], &bias[i]));
    }
    GR_RESERVE(w->held, w->n_held + 1, w->room);
    GR_TRY(w->compute->ops->stack_open(w->compute, plain, bias, n, out));
    GR_TRY(hold(w, *out, NULL));
    drop_unpacked(w, first);
done:
    return st;
}

static grace_status plain_mlp(gr_weights *w, const gr_mlp_tensors *t, gr_mlp_tensors *plain) {
    grace_status st = GRACE_OK;
    GR_TRY(plain_of(w, &t->gate, &plain->gate));
    GR_TRY(plain_of(w, &t->up, &plain->up));
    GR_TRY(plain_of(w, &t->down, &plain->down));
    GR_TRY(plain_of(w, &t->gate_bias, &plain->gate_bias));
    GR_TRY(plain_of(w, &t->up_bias, &plain->up_bias));
    GR_TRY(plain_of(w, &t->down_bias, &plain->down_bias));
done:
    return st;
}

/* all [n] of one shape. */
static grace_status open_mlps(gr_weights *w, const gr_mlp_tensors *const *all, int32_t n, gr_mlps *out) {
    grace_status st = GRACE_OK;
    gr_mlp_tensors *plain = NULL;
    const size_t first = w->n_held;
    GR_CALLOC(plain, n);
    for (int32_t i = 0; i < n; i++) GR_TRY(plain_mlp(w, all[i], &plain[i]));
    GR_TRY(w->compute->ops->mlps_open(w->compute, plain, n, w->swiglu_limit, out));
    drop_unpacked(w, first);
done:
    free(plain);
    return st;
}

static grace_status open_mlp(gr_weights *w, const gr_mlp_tensors *t, gr_mlps *out) {
    return gr_tensor_exists(&t->gate) ? open_mlps(w, &t, 1, out) : GRACE_OK;
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
    const size_t at = w->n_held;
    GR_TRY(hold(w, NULL, memory));
    w->bytes += (int64_t)gr_tensor_plain_bytes(&all);
    GR_TRY(w->compute->ops->weight_open(w->compute, &all, out));
    GR_TRY(hold(w, *out, NULL));
    drop_unpacked(w, at);
done:
    return st;
}

/* Where keys and values are not made: q k = q (kv_b latent) = (q kv_b) latent, so queries go to the latent once, and so come results back. */
static grace_status open_latent(gr_weights *w, const grace_model_info *m, const grace_tensor *kv_b, gr_layer *layer) {
    grace_status st = GRACE_OK;
    grace_tensor plain;
    const int64_t nope = m->head_dim - m->rope.dim, bytes = w->bytes;
    const size_t first = w->n_held;
    if (!gr_tensor_exists(kv_b)) return st;
    GR_TRY(plain_of(w, kv_b, &plain));
    w->bytes = bytes;       /* its pieces count */
    GR_TRY(open_pieces(w, &plain, m->n_heads, 0, nope, true, &layer->to_latent));
    GR_TRY(open_pieces(w, &plain, m->n_heads, nope, m->v_dim, false, &layer->from_latent));
    const int64_t counted = w->bytes;
    if (w->makes_keys) GR_TRY(open_pieces(w, &plain, m->n_heads, 0, nope, false, &layer->to_keys));
    w->bytes = counted;     /* what the file has counts once */
    drop_unpacked(w, first);
done:
    return st;
}

/* ---- layers ---- */

static grace_status open_attention(gr_weights *w, const grace_model_info *m, const gr_layer_tensors *t, gr_layer *layer) {
    grace_status st = GRACE_OK;
    const struct { const grace_tensor *tensor; gr_weight **weight; } all[] = {
        {&t->attn_norm, &layer->attn_norm}, {&t->q_norm, &layer->q_norm}, {&t->k_norm, &layer->k_norm}, {&t->sinks, &layer->sinks},
        {&t->q_a, &layer->q_a}, {&t->q_a_norm, &layer->q_a_norm}, {&t->q_b, &layer->q_b}, {&t->kv_a, &layer->kv_a}, {&t->kv_a_norm, &layer->k_norm},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) GR_TRY(open_weight(w, all[i].tensor, all[i].weight));
    GR_TRY(open_stack(w, (const grace_tensor *[]){&t->o}, (const grace_tensor *[]){&t->o_bias}, 1, &layer->o));
    if (m->kv_rank) {
        GR_TRY(open_weight(w, &t->q, &layer->q));
        GR_TRY(open_latent(w, m, &t->kv_b, layer));
    } else {
        GR_TRY(open_stack(w, (const grace_tensor *[]){&t->q, &t->k, &t->v}, (const grace_tensor *[]){&t->q_bias, &t->k_bias, &t->v_bias}, 3, &layer->qkv));
    }
done:
    return st;
}

static grace_status open_hosted(gr_weights *w, const grace_plan_layer *pl, int32_t rank, const gr_layer_tensors *t, gr_layer *layer) {
    grace_status st = GRACE_OK;
    const gr_mlp_tensors **hosted = NULL;
    const int32_t first = pl->first_slot[rank], n = pl->first_slot[rank + 1] - first;
    GR_CALLOC(hosted, n);
    for (int32_t s = 0; s < n; s++) {
        const int32_t expert = pl->expert_of_slot[first + s];
        hosted[s] = &t->experts[expert];
        if (pl->slots_of_expert[pl->slots_first[expert]] != first + s) w->replica_bytes += gr_mlp_plain_bytes(hosted[s]);
    }
    GR_TRY(open_mlps(w, hosted, n, &layer->slots));
done:
    free(hosted);
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

static void tell(const gr_weights *w, int64_t total) {
    if (w->on_load) w->on_load(w->load_user, w->bytes, total);
}

grace_status gr_weights_open(gr_weights *w, gr_compute *compute, const grace_model *model, const grace_plan *plan, int32_t rank) {
    grace_status st = GRACE_OK;
    const gr_model_tensors *t = gr_model_tensors_of(model);
    const grace_model_info *m = grace_model_describe(model);
    const int64_t total = grace_rank_memory_of(model, plan, rank).weights;
    w->compute = compute;
    w->n_layers = m->n_layers;
    w->swiglu_limit = m->swiglu_limit;
    GR_TRY(open_weight(w, &t->embed, &w->embed));
    GR_TRY(open_weight(w, &t->final_norm, &w->final_norm));
    if (m->tied_embeddings) w->head = w->embed;
    else GR_TRY(open_weight(w, &t->head, &w->head));
    GR_CALLOC(w->layers, m->n_layers);
    tell(w, total);
    for (int32_t l = 0; l < m->n_layers; l++) {
        const int32_t moe = m->layers[l].moe;
        GR_TRY(open_layer(w, m, &t->layers[l], &w->layers[l]));
        if (moe >= 0) GR_TRY(open_hosted(w, &plan->layers[moe], rank, &t->layers[l], &w->layers[l]));
        tell(w, total);
    }
done:
    return st;
}

void gr_weights_close(gr_weights *w) {
    for (size_t i = 0; i < w->n_held; i++) {
        w->compute->ops->weight_close(w->compute, w->held[i].weight);
        free(w->held[i].memory);
    }
    for (int32_t l = 0; w->layers && l < w->n_layers; l++) {
        w->compute->ops->mlps_close(w->compute, &w->layers[l].dense);
        w->compute->ops->mlps_close(w->compute, &w->layers[l].shared);
        w->compute->ops->mlps_close(w->compute, &w->layers[l].slots);
    }
    free(w->layers);
    free(w->held);
    *w = (gr_weights){0};
}
