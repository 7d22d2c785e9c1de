/* Mixtral: every layer has routed experts, the weights of the chosen ones are divided by their sum, and the experts' matrices are called w1
 * (gate), w3 (up) and w2 (down). */
#include "model/family.h"

static grace_status read_config(gr_config *config, grace_model_info *info) {
    grace_status st = GRACE_OK;
    int32_t window = 0;
    GR_TRY(gr_config_heads(config, info));
    GR_TRY(gr_config_rope(config, info, NULL));
    GR_TRY(gr_config_count(config, "intermediate_size", GR_WIDTH_MAX, &info->expert_width));
    GR_TRY(gr_config_count(config, "num_local_experts", GR_EXPERTS_MAX, &info->n_experts));
    GR_TRY(gr_config_count(config, "num_experts_per_tok", GR_TOP_K_MAX, &info->top_k));
    GR_TRY(gr_config_count_or(config, "sliding_window", GR_CONTEXT_MAX, 0, &window));
    for (int32_t l = 0; l < info->n_layers; l++) info->layers[l].window = window;
    info->gate.norm_topk = true;
done:
    return st;
}

static grace_status resolve_layer(gr_folder *f, const grace_model_info *info, int32_t layer, gr_layer_tensors *out) {
    static const char *const names[3] = {"w1", "w3", "w2"};
    grace_status st = GRACE_OK;
    GR_TRY(gr_resolve_layer_norms(f, info, layer, out));
    GR_TRY(gr_resolve_heads(f, info, layer, false, out));
    if (gr_folder_has(f, "model.layers.%d.mlp.gate.weight", layer)) return gr_resolve_mlp_or_experts(f, info, layer, out);     /* transformers 5, fused */
    GR_TRY(gr_resolve_experts(f, gr_layer_prefix(layer, "block_sparse_moe.").text, names, info, out));
done:
    return st;
}

static const gr_rule rules[] = {{"router_jitter_noise", NULL}, {0}};        /* training only */

const gr_family gr_family_mixtral = {"mixtral", rules, read_config, resolve_layer};
