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

static void check_layers(const grace_model_info *info) {
    int32_t n_moe = 0;
    for (int32_t l = 0; l < info->n_layers; l++) {
        GR_ASSERT(info->layers[l].moe == -1 || info->layers[l].moe == n_moe);
        GR_ASSERT(info->layers[l].moe >= 0 || info->dense_width >= 1);
        GR_ASSERT(info->layers[l].window >= 0 && info->layers[l].window <= GR_CONTEXT_MAX);
        n_moe += info->layers[l].moe >= 0;
    }
    GR_ASSERT(n_moe == info->n_moe_layers && n_moe >= 1);
}

static void check_gate(const grace_model_info *info) {
    const grace_gate *gate = &info->gate;
    GR_ASSERT(info->top_k >= 1 && info->top_k <= info->n_experts && info->top_k <= GR_TOP_K_MAX && info->n_experts <= GR_EXPERTS_MAX);
    GR_ASSERT(isfinite(gate->scaling) && gate->scaling > 0);
    if (gate->n_groups == 0) return;
    GR_ASSERT(info->n_experts % gate->n_groups == 0 && gate->top_groups >= 1 && gate->top_groups <= gate->n_groups);
    GR_ASSERT(info->n_experts / gate->n_groups * gate->top_groups >= info->top_k && (gate->group_best == 1 || gate->group_best == 2));
}

static void check_attention(const grace_model_info *info) {
    GR_ASSERT(info->n_heads % info->n_kv_heads == 0 && info->head_dim <= GR_HEAD_DIM_MAX && info->v_dim >= 1 && info->v_dim <= GR_HEAD_DIM_MAX);
    GR_ASSERT(info->rope.dim % 2 == 0 && info->rope.dim >= 2 && info->rope.dim <= info->head_dim);
    for (int32_t i = 0; i < info->rope.dim / 2; i++) GR_ASSERT(isfinite(info->rope.frequency[i]) && info->rope.frequency[i] >= 0);
    GR_ASSERT(isfinite(info->softmax_scale) && info->softmax_scale > 0 && isfinite(info->rope.magnitude) && info->rope.magnitude > 0);
    GR_ASSERT(isfinite(info->rope_theta) && info->rope_theta > 0 && isfinite(info->clip_qkv) && info->clip_qkv >= 0);
    GR_ASSERT(grace_model_kv_token_bytes(info) > 0);
}

static void check_info(const grace_model_info *info) {
    GR_ASSERT(info->n_layers >= 1 && info->n_layers <= GR_LAYERS_MAX);
    GR_ASSERT(info->hidden >= 1 && info->hidden <= GR_WIDTH_MAX && info->vocab >= 1 && info->context_max >= 1);
    GR_ASSERT(info->expert_width >= 1 && info->expert_width <= GR_WIDTH_MAX && info->shared_width >= 0);
    GR_ASSERT(isfinite(info->rms_eps) && info->rms_eps > 0 && isfinite(info->swiglu_limit) && info->swiglu_limit >= 0);
    check_layers(info);
    check_gate(info);
    check_attention(info);
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
