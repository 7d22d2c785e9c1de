/* Tensors under the names that most families give them. */
#include <stdio.h>

#include "model/family.h"

gr_prefix gr_layer_prefix(int32_t layer, const char *part) {
    gr_prefix p;
    snprintf(p.text, sizeof p.text, "model.layers.%d.%s", layer, part);
    return p;
}

grace_status gr_resolve_layer_norms(gr_folder *f, const grace_model_info *info, int32_t layer, gr_layer_tensors *out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_folder_vector(f, info->hidden, &out->attn_norm, "model.layers.%d.input_layernorm.weight", layer));
    GR_TRY(gr_folder_vector(f, info->hidden, &out->mlp_norm, "model.layers.%d.post_attention_layernorm.weight", layer));
done:
    return st;
}

grace_status gr_resolve_heads(gr_folder *f, const grace_model_info *info, int32_t layer, bool biases, gr_layer_tensors *out) {
    grace_status st = GRACE_OK;
    const gr_prefix at = gr_layer_prefix(layer, "self_attn.");
    int64_t hidden = info->hidden, q = (int64_t)info->n_heads * info->head_dim, kv = (int64_t)info->n_kv_heads * info->head_dim;
    GR_TRY(gr_folder_matrix(f, q, hidden, &out->q, "%sq_proj.weight", at.text));
    GR_TRY(gr_folder_matrix(f, kv, hidden, &out->k, "%sk_proj.weight", at.text));
    GR_TRY(gr_folder_matrix(f, kv, hidden, &out->v, "%sv_proj.weight", at.text));
    GR_TRY(gr_folder_matrix(f, hidden, q, &out->o, "%so_proj.weight", at.text));
    if (!biases) goto done;
    GR_TRY(gr_folder_vector(f, q, &out->q_bias, "%sq_proj.bias", at.text));
    GR_TRY(gr_folder_vector(f, kv, &out->k_bias, "%sk_proj.bias", at.text));
    GR_TRY(gr_folder_vector(f, kv, &out->v_bias, "%sv_proj.bias", at.text));
done:
    return st;
}

static grace_status resolve_mlp_named(gr_folder *f, const char *at, const char *const names[3], int64_t hidden, int64_t width, gr_mlp_tensors *out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_folder_matrix(f, width, hidden, &out->gate, "%s%s.weight", at, names[0]));
    GR_TRY(gr_folder_matrix(f, width, hidden, &out->up, "%s%s.weight", at, names[1]));
    GR_TRY(gr_folder_matrix(f, hidden, width, &out->down, "%s%s.weight", at, names[2]));
done:
    return st;
}

static const char *const usual[3] = {"gate_proj", "up_proj", "down_proj"};

grace_status gr_resolve_mlp(gr_folder *f, const char *at, int64_t hidden, int64_t width, gr_mlp_tensors *out) {
    return resolve_mlp_named(f, at, usual, hidden, width, out);
}

static grace_status resolve_fused(gr_folder *f, const char *at, const grace_model_info *info, gr_mlp_tensors *experts) {
    grace_status st = GRACE_OK;
    grace_tensor gate_up, down;
    int64_t hidden = info->hidden, width = info->expert_width;
    GR_TRY(gr_folder_stack(f, info->n_experts, 2 * width, hidden, &gate_up, "%sexperts.gate_up_proj", at));
    GR_TRY(gr_folder_stack(f, info->n_experts, hidden, width, &down, "%sexperts.down_proj", at));
    for (int32_t e = 0; e < info->n_experts; e++) {
        experts[e].gate = gr_tensor_rows(&gate_up, 2 * e * width, width);
        experts[e].up = gr_tensor_rows(&gate_up, (2 * e + 1) * width, width);
        experts[e].down = gr_tensor_rows(&down, e * hidden, hidden);
    }
done:
    return st;
}

grace_status gr_resolve_experts(gr_folder *f, const char *at, const char *const names[3], const grace_model_info *info, gr_layer_tensors *out) {
    grace_status st = GRACE_OK;
    char expert[160];
    GR_TRY(gr_folder_plain(f, info->n_experts, info->hidden, &out->router, "%sgate.weight", at));
    if (gr_folder_has(f, "%sexperts.gate_up_proj", at)) return resolve_fused(f, at, info, out->experts);
    for (int32_t e = 0; e < info->n_experts; e++) {
        snprintf(expert, sizeof expert, "%sexperts.%d.", at, e);
        GR_TRY(resolve_mlp_named(f, expert, names, info->hidden, info->expert_width, &out->experts[e]));
    }
done:
    return st;
}

grace_status gr_resolve_mlp_or_experts(gr_folder *f, const grace_model_info *info, int32_t layer, gr_layer_tensors *out) {
    const gr_prefix at = gr_layer_prefix(layer, "mlp.");
    if (info->layers[layer].moe < 0) return gr_resolve_mlp(f, at.text, info->hidden, info->dense_width, &out->dense);
    return gr_resolve_experts(f, at.text, usual, info, out);
}

grace_status gr_resolve_ends(gr_folder *f, const grace_model_info *info, gr_model_tensors *out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_folder_matrix(f, info->vocab, info->hidden, &out->embed, "model.embed_tokens.weight"));
    GR_TRY(gr_folder_vector(f, info->hidden, &out->final_norm, "model.norm.weight"));
    out->head = out->embed;
    if (!info->tied_embeddings) GR_TRY(gr_folder_matrix(f, info->vocab, info->hidden, &out->head, "lm_head.weight"));
done:
    return st;
}
