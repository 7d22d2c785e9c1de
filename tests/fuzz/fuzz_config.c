/* Any bytes as config.json: a description inside the limits of this build, or one sentence; then the same bytes as generation_config.json. */
#include "model/config.h"

#include <math.h>
#include <string.h>

#include "base/status.h"
#include "model/family.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_eos(const grace_model_info *info) {
    GR_ASSERT(info->n_eos >= 0 && info->n_eos <= 8);
    for (int32_t i = 0; i < info->n_eos; i++) GR_ASSERT(info->eos_ids[i] >= 0 && info->eos_ids[i] < info->vocab);
}

static void check_info(const grace_model_info *info) {
    GR_ASSERT(info->n_layers >= 1 && info->n_layers <= GR_LAYERS_MAX && info->n_moe_layers <= info->n_layers);
    GR_ASSERT(info->top_k >= 1 && info->top_k <= info->n_experts && info->top_k <= GR_TOP_K_MAX && info->n_experts <= GR_EXPERTS_MAX);
    GR_ASSERT(info->n_heads % info->n_kv_heads == 0 && info->head_dim % 2 == 0 && info->head_dim >= 2);
    GR_ASSERT(info->hidden >= 1 && info->hidden <= GR_WIDTH_MAX && info->vocab >= 1 && info->context_max >= 1);
    GR_ASSERT(isfinite(info->rope_theta) && info->rope_theta > 0 && isfinite(info->rms_eps) && info->rms_eps > 0);
    GR_ASSERT(isfinite(info->clip_qkv) && info->clip_qkv >= 0);
    check_eos(info);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    const gr_family *family = NULL;
    grace_model_info info = {.vocab = 64, .n_eos = 1};
    if (gr_config_parse("fuzz", (const char *)data, n, &info, &family)) GR_ASSERT(!family && info.vocab == 64 && grace_last_error()[0]);
    else check_info(&info);
    grace_model_info before = info;
    if (gr_config_parse_generation("fuzz", (const char *)data, n, &info)) GR_ASSERT(!memcmp(&before, &info, sizeof info));
    check_eos(&info);
    return 0;
}
