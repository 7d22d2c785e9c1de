/* What a rank holds, counted from the tables that run/weights.c and run/kv.c open. */
#include "compute/compute.h"
#include "grace/engine.h"
#include "model/weights.h"

static int64_t bytes_of(const grace_tensor *t) { return gr_tensor_exists(t) ? (int64_t)gr_tensor_plain_bytes(t) : 0; }

/* All of a layer but its routed experts: every rank has it. */
static int64_t layer_bytes(const gr_layer_tensors *t) {
    const grace_tensor *const all[] = {
        &t->attn_norm, &t->mlp_norm, &t->q, &t->k, &t->v, &t->o, &t->q_bias, &t->k_bias, &t->v_bias, &t->o_bias, &t->q_norm, &t->k_norm, &t->sinks,
        &t->q_a, &t->q_a_norm, &t->q_b, &t->kv_a, &t->kv_a_norm, &t->kv_b, &t->router, &t->router_bias, &t->correction, &t->shared_gate,
    };
    int64_t n = gr_mlp_plain_bytes(&t->dense) + gr_mlp_plain_bytes(&t->shared);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) n += bytes_of(all[i]);
    return n;
}

static void add_slots(const grace_plan_layer *pl, int32_t rank, const gr_mlp_tensors *experts, grace_rank_memory *sum) {
    for (int32_t slot = pl->first_slot[rank]; slot < pl->first_slot[rank + 1]; slot++) {
        const int32_t expert = pl->expert_of_slot[slot];
        const int64_t n = gr_mlp_plain_bytes(&experts[expert]);
        sum->experts += n;
        if (pl->slots_of_expert[pl->slots_first[expert]] != slot) sum->replicas += n;
    }
}

grace_rank_memory grace_rank_memory_of(const grace_model *model, const grace_plan *plan, int32_t rank) {
    const grace_model_info *m = grace_model_describe(model);
    const gr_model_tensors *t = gr_model_tensors_of(model);
    grace_rank_memory sum = {.weights = bytes_of(&t->embed) + bytes_of(&t->final_norm) + (m->tied_embeddings ? 0 : bytes_of(&t->head))};
    for (int32_t l = 0; l < m->n_layers; l++) {
        const int32_t moe = m->layers[l].moe;
        sum.weights += layer_bytes(&t->layers[l]);
        if (moe >= 0) add_slots(&plan->layers[moe], rank, t->layers[l].experts, &sum);
    }
    sum.weights += sum.experts;
    return sum;
}

int64_t grace_kv_bytes(const grace_model_info *info, int64_t n_tokens) {
    return (n_tokens + GR_KV_PAGE - 1) / GR_KV_PAGE * GR_KV_PAGE * grace_model_kv_token_bytes(info);
}

int64_t grace_kv_tokens(const grace_model_info *info, int64_t n_bytes) {
    return n_bytes > 0 ? n_bytes / (GR_KV_PAGE * grace_model_kv_token_bytes(info)) * GR_KV_PAGE : 0;
}
