/* gpt-oss: biases everywhere, layers whose attention sees a window only, a sink in every head's softmax, and experts whose gates and ups alternate
 * in one clamped matrix, stored in blocks of 4-bit values (MXFP4) or plainly, then input by output. */
#include <string.h>

#include "model/family.h"

static grace_status read_windows(gr_config *config, grace_model_info *info) {
    grace_status st = GRACE_OK;
    int32_t window = 0;
    GR_TRY(gr_config_count(config, "sliding_window", GR_CONTEXT_MAX, &window));
    for (int32_t l = 0; l < info->n_layers; l++) {
        const char *type = l % 2 ? "full_attention" : "sliding_attention";
        GR_TRY(gr_config_word_at(config, "layer_types", l, info->n_layers, "sliding_attention|full_attention", type, &type));
        info->layers[l].window = strcmp(type, "full_attention") ? window : 0;
    }
done:
    return st;
}

static grace_status read_config(gr_config *config, grace_model_info *info) {
    grace_status st = GRACE_OK;
    int32_t again = 0;
    GR_TRY(gr_config_heads(config, info));
    GR_TRY(gr_config_rope(config, info, NULL));
    GR_TRY(read_windows(config, info));
    GR_TRY(gr_config_count(config, "intermediate_size", GR_WIDTH_MAX, &info->expert_width));
    GR_TRY(gr_config_count(config, "num_local_experts", GR_EXPERTS_MAX, &info->n_experts));
    GR_TRY(gr_config_count(config, "num_experts_per_tok", GR_TOP_K_MAX, &info->top_k));
    GR_TRY(gr_config_count_or(config, "experts_per_token", GR_TOP_K_MAX, info->top_k, &again));
    GR_CHECK(again == info->top_k, GRACE_ERR_FORMAT, "%s: 'experts_per_token' is %d, 'num_experts_per_tok' %d", config->where, again, info->top_k);
    GR_TRY(gr_config_positive_or(config, "swiglu_limit", 7, &info->swiglu_limit));
    info->gate.norm_topk = true;        /* a softmax over the chosen logits is the softmax over all, divided by the chosen ones' sum */
done:
    return st;
}

static grace_status resolve_attention(gr_folder *f, const grace_model_info *info, int32_t layer, gr_layer_tensors *out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_resolve_layer_norms(f, info, layer, out));
    GR_TRY(gr_resolve_heads(f, info, layer, true, out));
    GR_TRY(gr_folder_vector(f, info->hidden, &out->o_bias, "model.layers.%d.self_attn.o_proj.bias", layer));
    GR_TRY(gr_folder_vector(f, info->n_heads, &out->sinks, "model.layers.%d.self_attn.sinks", layer));
    GR_TRY(gr_folder_plain(f, info->n_experts, info->hidden, &out->router, "model.layers.%d.mlp.router.weight", layer));
    GR_TRY(gr_folder_vector(f, info->n_experts, &out->router_bias, "model.layers.%d.mlp.router.bias", layer));
done:
    return st;
}

/* Rows first, first + 2, ...: a gate's or an up's. */
static grace_tensor every_other(const grace_tensor *t, int64_t first) {
    grace_tensor half = gr_tensor_rows(t, first, t->rows - first);
    half.rows = t->rows / 2;
    half.row_step = 2 * (t->row_step ? t->row_step : t->cols);
    return half;
}

/* [rows, cols] as [cols, rows]. */
static grace_tensor transposed(const grace_tensor *t) {
    grace_tensor turned = *t;
    turned.rows = t->cols, turned.cols = t->rows;
    turned.row_step = t->col_step ? t->col_step : 1;
    turned.col_step = t->row_step ? t->row_step : t->cols;
    return turned;
}

/* One expert's piece of a stack, output by input. */
static grace_tensor matrix_of(const grace_tensor *stack, int32_t n_experts, int32_t e) {
    grace_tensor piece = gr_tensor_rows(stack, stack->rows / n_experts * e, stack->rows / n_experts);
    return stack->dtype == GRACE_MXFP4 ? piece : transposed(&piece);
}

static grace_status resolve_stack(gr_folder *f, int32_t n, int64_t outs, int64_t ins, int32_t layer, const char *name, grace_tensor *out) {
    if (gr_folder_has(f, "model.layers.%d.mlp.experts.%s_blocks", layer, name))
        return gr_folder_mxfp4(f, n, outs, ins, out, "model.layers.%d.mlp.experts.%s", layer, name);
    return gr_folder_stack(f, n, ins, outs, out, "model.layers.%d.mlp.experts.%s", layer, name);
}

static grace_status resolve_experts(gr_folder *f, const grace_model_info *info, int32_t layer, gr_layer_tensors *out) {
    grace_status st = GRACE_OK;
    grace_tensor gate_up, gate_up_bias, down, down_bias;
    int32_t n = info->n_experts;
    GR_TRY(resolve_stack(f, n, 2 * (int64_t)info->expert_width, info->hidden, layer, "gate_up_proj", &gate_up));
    GR_TRY(resolve_stack(f, n, info->hidden, info->expert_width, layer, "down_proj", &down));
    GR_TRY(gr_folder_plain(f, n, 2 * (int64_t)info->expert_width, &gate_up_bias, "model.layers.%d.mlp.experts.gate_up_proj_bias", layer));
    GR_TRY(gr_folder_plain(f, n, info->hidden, &down_bias, "model.layers.%d.mlp.experts.down_proj_bias", layer));
    for (int32_t e = 0; e < n; e++) {
        const grace_tensor both = matrix_of(&gate_up, n, e), row = gr_tensor_rows(&gate_up_bias, e, 1), both_bias = transposed(&row);
        const grace_tensor gate_bias = every_other(&both_bias, 0), up_bias = every_other(&both_bias, 1);
        out->experts[e] = (gr_mlp_tensors){.gate = every_other(&both, 0), .up = every_other(&both, 1), .down = matrix_of(&down, n, e),
                                           .gate_bias = transposed(&gate_bias), .up_bias = transposed(&up_bias),
                                           .down_bias = gr_tensor_rows(&down_bias, e, 1)};
    }
done:
    return st;
}

static grace_status resolve_layer(gr_folder *f, const grace_model_info *info, int32_t layer, gr_layer_tensors *out) {
    grace_status st = resolve_attention(f, info, layer, out);
    return st ? st : resolve_experts(f, info, layer, out);
}

static const gr_rule rules[] = {
    {"attention_bias", "true"},
    {"initial_context_length", NULL},       /* also original_max_position_embeddings of rope_scaling, which is what counts */
    {0},
};

const gr_family gr_family_gpt_oss = {"gpt_oss", rules, read_config, resolve_layer};
