/* Multi-head latent attention: keys and values are two projections (kv_b) of a normed latent that all heads share, plus one small key with rotary
 * positions for all heads; queries may come from a latent too. Layers from first_k_dense_replace on, every moe_layer_freq'th, have experts. */
#include "model/deepseek.h"

#include <math.h>

static grace_status read_attention(gr_config *config, grace_model_info *info) {
    grace_status st = GRACE_OK;
    int32_t nope = 0, rope = 0, same = 0;
    gr_rope_scaling scaling;
    GR_TRY(gr_config_count(config, "num_attention_heads", GR_HEADS_MAX, &info->n_heads));
    GR_TRY(gr_config_count_or(config, "num_key_value_heads", GR_HEADS_MAX, info->n_heads, &info->n_kv_heads));
    GR_CHECK(info->n_kv_heads == info->n_heads, GRACE_ERR_UNSUPPORTED, "%s: 'num_key_value_heads' is %d, this build supports only %d, as many as heads",
             config->where, info->n_kv_heads, info->n_heads);
    GR_TRY(gr_config_count(config, "qk_nope_head_dim", GR_HEAD_DIM_MAX / 2, &nope));
    GR_TRY(gr_config_count(config, "qk_rope_head_dim", GR_HEAD_DIM_MAX / 2, &rope));
    GR_TRY(gr_config_count(config, "v_head_dim", GR_HEAD_DIM_MAX, &info->v_dim));
    GR_TRY(gr_config_count(config, "kv_lora_rank", GR_WIDTH_MAX, &info->kv_rank));
    GR_TRY(gr_config_count_or(config, "q_lora_rank", GR_WIDTH_MAX, 0, &info->q_rank));
    GR_TRY(gr_config_count_or(config, "qk_head_dim", GR_HEAD_DIM_MAX, nope + rope, &same));
    GR_CHECK(same == nope + rope, GRACE_ERR_UNSUPPORTED, "%s: 'qk_head_dim' is %d, the two parts of a head have %d and %d", config->where, same, nope, rope);
    GR_TRY(gr_config_count_or(config, "head_dim", GR_HEAD_DIM_MAX, rope, &same));       /* how transformers 5 repeats it */
    GR_CHECK(same == rope, GRACE_ERR_UNSUPPORTED, "%s: 'head_dim' is %d, expected %d as 'qk_rope_head_dim'", config->where, same, rope);
    info->head_dim = nope + rope;
    info->softmax_scale = 1.0f / sqrtf((float)info->head_dim);
    info->latent_eps = 1e-6f;           /* the reference does not read it */
    info->rope.dim = rope;
    GR_TRY(gr_config_bool_or(config, "rope_interleave", true, &info->rope.neighbours));
    GR_TRY(gr_config_rope(config, info, &scaling));
    if (scaling.mscale_all_dim > 0) {
        const float growth = gr_yarn_magnitude(scaling.factor, scaling.mscale_all_dim);
        info->softmax_scale *= growth * growth;
    }
done:
    return st;
}

static grace_status read_layers(gr_config *config, grace_model_info *info) {
    grace_status st = GRACE_OK;
    int32_t n_dense = 0, every = 1;
    GR_TRY(gr_config_number_or(config, "first_k_dense_replace", GR_LAYERS_MAX, 0, &n_dense));
    GR_TRY(gr_config_count_or(config, "moe_layer_freq", GR_LAYERS_MAX, 1, &every));
    for (int32_t l = 0; l < info->n_layers; l++)
        if (l < n_dense || l % every) info->layers[l].moe = -1;
    GR_TRY(gr_config_dense_width(config, info));
done:
    return st;
}

grace_status gr_deepseek_config(gr_config *config, grace_model_info *info) {
    grace_status st = GRACE_OK;
    int32_t n_shared = 0;
    GR_TRY(read_attention(config, info));
    GR_TRY(read_layers(config, info));
    GR_TRY(gr_config_count(config, "moe_intermediate_size", GR_WIDTH_MAX, &info->expert_width));
    GR_TRY(gr_config_count(config, "n_routed_experts", GR_EXPERTS_MAX, &info->n_experts));
    GR_TRY(gr_config_number_or(config, "n_shared_experts", GR_EXPERTS_MAX, 0, &n_shared));
    info->shared_width = n_shared * info->expert_width;
    GR_TRY(gr_config_count(config, "num_experts_per_tok", GR_TOP_K_MAX, &info->top_k));
    GR_TRY(gr_config_positive_or(config, "routed_scaling_factor", 1, &info->gate.scaling));
done:
    return st;
}

grace_status gr_deepseek_groups(gr_config *config, grace_model_info *info) {
    grace_status st = GRACE_OK;
    grace_gate *gate = &info->gate;
    GR_TRY(gr_config_count_or(config, "n_group", GR_EXPERTS_MAX, 1, &gate->n_groups));
    GR_TRY(gr_config_count_or(config, "topk_group", GR_EXPERTS_MAX, gate->n_groups, &gate->top_groups));
    GR_CHECK(info->n_experts % gate->n_groups == 0, GRACE_ERR_FORMAT, "%s: 'n_routed_experts' is %d, no multiple of 'n_group', %d", config->where,
             info->n_experts, gate->n_groups);
    GR_CHECK(gate->top_groups <= gate->n_groups, GRACE_ERR_FORMAT, "%s: 'topk_group' is %d, but there are %d groups", config->where, gate->top_groups,
             gate->n_groups);
    GR_CHECK(info->n_experts / gate->n_groups * gate->top_groups >= info->top_k, GRACE_ERR_FORMAT,
             "%s: %d experts per token, but %d groups of %d experts to choose from", config->where, info->top_k, gate->top_groups,
             info->n_experts / gate->n_groups);
done:
    return st;
}

static grace_status resolve_attention(gr_folder *f, const grace_model_info *info, int32_t layer, gr_layer_tensors *out) {
    grace_status st = GRACE_OK;
    const gr_prefix at = gr_layer_prefix(layer, "self_attn.");
    int64_t hidden = info->hidden, q = (int64_t)info->n_heads * info->head_dim, v = (int64_t)info->n_heads * info->v_dim;
    int64_t kv = (int64_t)info->n_heads * (info->head_dim - info->rope.dim + info->v_dim);
    if (info->q_rank) {
        GR_TRY(gr_folder_matrix(f, info->q_rank, hidden, &out->q_a, "%sq_a_proj.weight", at.text));
        GR_TRY(gr_folder_vector(f, info->q_rank, &out->q_a_norm, "%sq_a_layernorm.weight", at.text));
        GR_TRY(gr_folder_matrix(f, q, info->q_rank, &out->q_b, "%sq_b_proj.weight", at.text));
    } else GR_TRY(gr_folder_matrix(f, q, hidden, &out->q, "%sq_proj.weight", at.text));
    GR_TRY(gr_folder_matrix(f, (int64_t)info->kv_rank + info->rope.dim, hidden, &out->kv_a, "%skv_a_proj_with_mqa.weight", at.text));
    GR_TRY(gr_folder_vector(f, info->kv_rank, &out->kv_a_norm, "%skv_a_layernorm.weight", at.text));
    GR_TRY(gr_folder_matrix(f, kv, info->kv_rank, &out->kv_b, "%skv_b_proj.weight", at.text));
    GR_TRY(gr_folder_matrix(f, hidden, v, &out->o, "%so_proj.weight", at.text));
done:
    return st;
}

grace_status gr_deepseek_layer(gr_folder *f, const grace_model_info *info, int32_t layer, gr_layer_tensors *out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_resolve_layer_norms(f, info, layer, out));
    GR_TRY(resolve_attention(f, info, layer, out));
    GR_TRY(gr_resolve_mlp_or_experts(f, info, layer, out));
    if (info->layers[layer].moe >= 0 && info->shared_width)
        GR_TRY(gr_resolve_mlp(f, gr_layer_prefix(layer, "mlp.shared_experts.").text, info->hidden, info->shared_width, &out->shared));
done:
    return st;
}

const gr_rule gr_deepseek_rules[] = {
    {"aux_loss_alpha", NULL}, {"seq_aux", NULL},            /* training only */
    {"ep_size", NULL},                                      /* how the reference splits itself */
    {"num_nextn_predict_layers", NULL},                     /* a layer beyond the network, to guess a second token */
    {"auto_map", NULL},                                     /* where the reference's code lies */
    {"norm_topk_prob", NULL},                               /* DeepSeek-V2 does not read it, -V3 does */
    {0},
};
