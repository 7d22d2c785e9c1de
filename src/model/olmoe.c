/* OLMoE: every layer has routed experts; q and k are normalised over the whole projection, before the split in heads. */
#include "model/family.h"

static grace_status read_config(gr_config *config, grace_model_info *info) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_config_count(config, "intermediate_size", GR_WIDTH_MAX, &info->expert_width));
    GR_TRY(gr_config_count(config, "num_experts", GR_EXPERTS_MAX, &info->n_experts));
    GR_TRY(gr_config_count(config, "num_experts_per_tok", GR_TOP_K_MAX, &info->top_k));
    GR_TRY(gr_config_bool_or(config, "norm_topk_prob", false, &info->norm_topk));
    GR_TRY(gr_config_positive_or(config, "clip_qkv", 0, &info->clip_qkv));
    info->n_moe_layers = info->n_layers;
done:
    return st;
}

static grace_status resolve_attention(gr_folder *f, const grace_model_info *info, int32_t layer, gr_layer_tensors *out) {
    grace_status st = GRACE_OK;
    int64_t hidden = info->hidden, q = (int64_t)info->n_heads * info->head_dim, kv = (int64_t)info->n_kv_heads * info->head_dim;
    GR_TRY(gr_folder_vector(f, hidden, &out->attn_norm, "model.layers.%d.input_layernorm.weight", layer));
    GR_TRY(gr_folder_matrix(f, q, hidden, &out->q, "model.layers.%d.self_attn.q_proj.weight", layer));
    GR_TRY(gr_folder_matrix(f, kv, hidden, &out->k, "model.layers.%d.self_attn.k_proj.weight", layer));
    GR_TRY(gr_folder_matrix(f, kv, hidden, &out->v, "model.layers.%d.self_attn.v_proj.weight", layer));
    GR_TRY(gr_folder_matrix(f, hidden, q, &out->o, "model.layers.%d.self_attn.o_proj.weight", layer));
    GR_TRY(gr_folder_vector(f, q, &out->q_norm, "model.layers.%d.self_attn.q_norm.weight", layer));
    GR_TRY(gr_folder_vector(f, kv, &out->k_norm, "model.layers.%d.self_attn.k_norm.weight", layer));
done:
    return st;
}

static grace_status resolve_experts(gr_folder *f, const grace_model_info *info, int32_t layer, gr_layer_tensors *out) {
    grace_status st = GRACE_OK;
    int64_t hidden = info->hidden, width = info->expert_width;
    GR_TRY(gr_folder_vector(f, hidden, &out->mlp_norm, "model.layers.%d.post_attention_layernorm.weight", layer));
    GR_TRY(gr_folder_matrix(f, info->n_experts, hidden, &out->router, "model.layers.%d.mlp.gate.weight", layer));
    for (int32_t e = 0; e < info->n_experts; e++) {
        gr_expert_tensors *expert = &out->experts[e];
        GR_TRY(gr_folder_matrix(f, width, hidden, &expert->gate, "model.layers.%d.mlp.experts.%d.gate_proj.weight", layer, e));
        GR_TRY(gr_folder_matrix(f, width, hidden, &expert->up, "model.layers.%d.mlp.experts.%d.up_proj.weight", layer, e));
        GR_TRY(gr_folder_matrix(f, hidden, width, &expert->down, "model.layers.%d.mlp.experts.%d.down_proj.weight", layer, e));
    }
done:
    return st;
}

static grace_status resolve_layer(gr_folder *folder, const grace_model_info *info, int32_t layer, gr_layer_tensors *out) {
    grace_status st = resolve_attention(folder, info, layer, out);
    return st ? st : resolve_experts(folder, info, layer, out);
}

static grace_status resolve_ends(gr_folder *folder, const grace_model_info *info, gr_model_tensors *out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_folder_matrix(folder, info->vocab, info->hidden, &out->embed, "model.embed_tokens.weight"));
    GR_TRY(gr_folder_vector(folder, info->hidden, &out->final_norm, "model.norm.weight"));
    out->head = out->embed;
    if (!info->tied_embeddings) GR_TRY(gr_folder_matrix(folder, info->vocab, info->hidden, &out->head, "lm_head.weight"));
done:
    return st;
}

const gr_family gr_family_olmoe = {"olmoe", read_config, resolve_layer, resolve_ends};
