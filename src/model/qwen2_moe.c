/* Qwen2-MoE (Qwen1.5-MoE-A2.7B, Qwen2-57B-A14B): q, k and v have biases; beside the chosen experts every token uses a shared one, as far as a
 * gate of its own lets it. */
#include "model/family.h"

static grace_status read_config(gr_config *config, grace_model_info *info) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_config_heads(config, info));
    GR_TRY(gr_config_rope(config, info, NULL));
    GR_TRY(gr_config_count(config, "moe_intermediate_size", GR_WIDTH_MAX, &info->expert_width));
    GR_TRY(gr_config_count(config, "shared_expert_intermediate_size", GR_WIDTH_MAX, &info->shared_width));
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
    GR_TRY(gr_resolve_heads(f, info, layer, true, out));
    GR_TRY(gr_resolve_mlp_or_experts(f, info, layer, out));
    if (info->layers[layer].moe < 0) goto done;
    GR_TRY(gr_resolve_mlp(f, gr_layer_prefix(layer, "mlp.shared_expert.").text, info->hidden, info->shared_width, &out->shared));
    GR_TRY(gr_folder_matrix(f, 1, info->hidden, &out->shared_gate, "model.layers.%d.mlp.shared_expert_gate.weight", layer));
done:
    return st;
}

/* The window is used only with use_sliding_window, which has a rule of its own. */
static const gr_rule rules[] = {{"sliding_window", NULL}, {"max_window_layers", NULL}, {"qkv_bias", "true"}, {0}};

const gr_family gr_family_qwen2_moe = {"qwen2_moe", rules, read_config, resolve_layer};
