/* Qwen3-MoE: q and k are normalised head by head; some layers may be dense. */
#include "model/family.h"

static grace_status read_config(gr_config *config, grace_model_info *info) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_config_heads(config, info));
    GR_TRY(gr_config_rope(config, info, NULL));
    GR_TRY(gr_config_count(config, "moe_intermediate_size", GR_WIDTH_MAX, &info->expert_width));
    GR_TRY(gr_config_count(config, "num_experts", GR_EXPERTS_MAX, &info->n_experts));
    GR_TRY(gr_config_count(config, "num_experts_per_tok", GR_TOP_K_MAX, &info->top_k));
    GR_TRY(gr_config_bool_or(config, "norm_topk_prob", false, &info->gate.norm_topk));
    GR_TRY(gr_config_sparse_step(config, info));
done:
    return st;
}

static grace_status resolve_layer(gr_folder *f, const grace_model_info *info, int32_t layer, gr_layer_tensors *out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_resolve_layer_norms(f, info, layer, out));
    GR_TRY(gr_resolve_heads(f, info, layer, false, out));
    GR_TRY(gr_folder_vector(f, info->head_dim, &out->q_norm, "model.layers.%d.self_attn.q_norm.weight", layer));
    GR_TRY(gr_folder_vector(f, info->head_dim, &out->k_norm, "model.layers.%d.self_attn.k_norm.weight", layer));
    GR_TRY(gr_resolve_mlp_or_experts(f, info, layer, out));
done:
    return st;
}

/* The window is used only with use_sliding_window, which has a rule of its own. */
static const gr_rule rules[] = {{"sliding_window", NULL}, {"max_window_layers", NULL}, {0}};

const gr_family gr_family_qwen3_moe = {"qwen3_moe", rules, read_config, resolve_layer};
