/* DeepSeek-V2: softmax scores; with group_limited_greedy a token's experts come from the groups with the best expert. */
#include <string.h>

#include "model/deepseek.h"

static grace_status read_config(gr_config *config, grace_model_info *info) {
    grace_status st = GRACE_OK;
    const char *method = NULL, *score = NULL;
    GR_TRY(gr_deepseek_config(config, info));
    GR_TRY(gr_config_word_or(config, "scoring_func", "softmax", "softmax", &score));
    GR_TRY(gr_config_word_or(config, "topk_method", "greedy|group_limited_greedy", "greedy", &method));
    GR_TRY(gr_deepseek_groups(config, info));
    info->gate.group_best = 1;
    if (!strcmp(method, "greedy")) info->gate.n_groups = 0;
done:
    return st;
}

const gr_family gr_family_deepseek_v2 = {"deepseek_v2", gr_deepseek_rules, read_config, gr_deepseek_layer};
