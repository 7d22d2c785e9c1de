/* DeepSeek-V3: sigmoid scores; a learned correction is added for the choice only, first of the groups with the best two experts together, then of
 * their experts. Its weights are stored in fp8 with a scale for every block. */
#include "model/deepseek.h"

static grace_status read_config(gr_config *config, grace_model_info *info) {
    grace_status st = GRACE_OK;
    const char *method = NULL, *score = NULL;
    GR_TRY(gr_deepseek_config(config, info));
    GR_TRY(gr_config_word_or(config, "scoring_func", "sigmoid", "sigmoid", &score));
    GR_TRY(gr_config_word_or(config, "topk_method", "noaux_tc", "noaux_tc", &method));
    GR_TRY(gr_config_bool_or(config, "norm_topk_prob", true, &info->gate.norm_topk));
    GR_TRY(gr_deepseek_groups(config, info));
    info->gate.score = GRACE_SCORE_SIGMOID;
    info->gate.group_best = 2;
done:
    return st;
}

static grace_status resolve_layer(gr_folder *f, const grace_model_info *info, int32_t layer, gr_layer_tensors *out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_deepseek_layer(f, info, layer, out));
    if (info->layers[layer].moe >= 0)
        GR_TRY(gr_folder_vector(f, info->n_experts, &out->correction, "model.layers.%d.mlp.gate.e_score_correction_bias", layer));
done:
    return st;
}

const gr_family gr_family_deepseek_v3 = {"deepseek_v3", gr_deepseek_rules, read_config, resolve_layer};
