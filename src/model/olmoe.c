/* OLMoE: every layer has routed experts; q and k are normalised over the whole projection, before the split in heads. */
#include "model/family.h"

static grace_status read_config(gr_config *config, grace_model_info *info) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_config_heads(config, info));
    GR_TRY(gr_config_rope(config, info, NULL));
    GR_TRY(gr_config_count(config, "intermediate_size", GR_WIDTH_MAX, &info->expert_width));
    GR_TRY(gr_config_count(config, "num_experts", GR_EXPERTS_MAX, &info->n_experts));
    GR_TRY(gr_config_count(config, "num_experts_per_tok", GR_TOP_K_MAX, &info->top_k));
    GR_TRY(gr_config_bool_or(config, "norm_topk_prob", false, &info->gate.norm_topk));
    GR_TRY(gr_config_positive_or(config, "clip_qkv", 0, &info->clip_qkv));
done:
    return st;
}

static grace_status resolve_layer(gr_folder *f, const grace_model_info *info, int32_t layer, gr_layer_tensors *out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_resolve_layer_norms(f, info, layer, out));
    GR_TRY(gr_resolve_heads(f, info, layer, false, out));
    GR_TRY(gr_folder_vector(f, out->q.rows, &out->q_norm, "model.layers.%d.self_attn.q_norm.weight", layer));
    GR_TRY(gr_folder_vector(f, out->k.rows, &out->k_norm, "model.layers.%d.self_attn.k_norm.weight", layer));
    GR_TRY(gr_resolve_mlp_or_experts(f, info, layer, out));
done:
    return st;
}

const gr_family gr_family_olmoe = {"olmoe", NULL, read_config, resolve_layer};
