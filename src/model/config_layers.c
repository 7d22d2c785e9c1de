/* Keys that several families share: heads, and which layers are dense. */
#include <math.h>

#include "model/config.h"

grace_status gr_config_heads(gr_config *c, grace_model_info *info) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_config_count(c, "num_attention_heads", GR_HEADS_MAX, &info->n_heads));
    GR_TRY(gr_config_count_or(c, "num_key_value_heads", GR_HEADS_MAX, info->n_heads, &info->n_kv_heads));
    GR_CHECK(info->n_heads % info->n_kv_heads == 0, GRACE_ERR_FORMAT, "%s: 'num_attention_heads' is %d, no multiple of 'num_key_value_heads', %d",
             c->where, info->n_heads, info->n_kv_heads);
    GR_TRY(gr_config_count_or(c, "head_dim", GR_HEAD_DIM_MAX, 0, &info->head_dim));
    if (info->head_dim == 0) {
        GR_CHECK(info->hidden % info->n_heads == 0, GRACE_ERR_FORMAT, "%s: 'hidden_size' is %d, no multiple of 'num_attention_heads', %d", c->where,
                 info->hidden, info->n_heads);
        info->head_dim = info->hidden / info->n_heads;
        GR_CHECK(info->head_dim <= GR_HEAD_DIM_MAX, GRACE_ERR_LIMIT, "%s: 'hidden_size' / 'num_attention_heads' is %d, this build takes at most %d",
                 c->where, info->head_dim, GR_HEAD_DIM_MAX);
    }
    info->v_dim = info->head_dim;
    info->softmax_scale = 1.0f / sqrtf((float)info->head_dim);
done:
    return st;
}

grace_status gr_config_dense_width(gr_config *c, grace_model_info *info) {
    int32_t n_dense = 0, unused = 0;
    for (int32_t l = 0; l < info->n_layers; l++) n_dense += info->layers[l].moe < 0;
    if (n_dense) return gr_config_count(c, "intermediate_size", GR_WIDTH_MAX, &info->dense_width);
    return gr_config_count_or(c, "intermediate_size", GR_WIDTH_MAX, 1, &unused);
}

static grace_status read_dense_layers(gr_config *c, grace_model_info *info) {
    grace_status st = GRACE_OK;
    const char *key = "mlp_only_layers";
    const gr_json *layers = NULL;
    int64_t layer = 0;
    gr_config_mark_seen(c, key);
    if (gr_config_absent(c, key)) goto done;
    GR_TRY(gr_json_array(c->object, c->where, key, &layers));
    for (size_t i = 0; i < gr_json_length(layers); i++) {
        GR_TRY(gr_json_int_at(layers, c->where, i, 0, GR_LAYERS_MAX, &layer));
        if (layer < info->n_layers) info->layers[layer].moe = -1;
    }
done:
    return st;
}

grace_status gr_config_sparse_step(gr_config *c, grace_model_info *info) {
    grace_status st = GRACE_OK;
    int32_t step = 1;
    GR_TRY(gr_config_count_or(c, "decoder_sparse_step", GR_LAYERS_MAX, 1, &step));
    for (int32_t l = 0; l < info->n_layers; l++)
        if ((l + 1) % step) info->layers[l].moe = -1;
    GR_TRY(read_dense_layers(c, info));
    GR_TRY(gr_config_dense_width(c, info));
done:
    return st;
}
