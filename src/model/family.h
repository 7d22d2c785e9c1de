/* What one file per architecture provides, and what most of them share. A new family is one file with a gr_family and one line in the table of
 * families (config.c); docs/models.md says how. */
#ifndef GR_MODEL_FAMILY_H
#define GR_MODEL_FAMILY_H
#include "model/config.h"
#include "model/folder.h"
#include "model/weights.h"

typedef struct gr_family {
    const char *model_type;                 /* as config.json spells it */
    const gr_rule *rules;                   /* keys it excuses beside those that all do; they go first; ended by a NULL key */
    /* Reads heads (gr_config_heads() or its own), rotary positions (gr_config_rope()) and the family's own keys into info; the keys all families
     * share are there already, and every layer is a MoE layer without a window until this says otherwise. */
    grace_status (*read_config)(gr_config *config, grace_model_info *info);
    /* Fills one layer; experts [n_experts] are allocated when it has some. */
    grace_status (*resolve_layer)(gr_folder *folder, const grace_model_info *info, int32_t layer, gr_layer_tensors *out);
} gr_family;

extern const gr_family gr_family_olmoe, gr_family_deepseek_v2, gr_family_deepseek_v3, gr_family_qwen3_moe, gr_family_qwen2_moe, gr_family_mixtral,
    gr_family_gpt_oss;

/* ---- layers.c: the names most families use. `at` is a prefix such as "model.layers.3.mlp." ---- */
typedef struct gr_prefix { char text[96]; } gr_prefix;
gr_prefix gr_layer_prefix(int32_t layer, const char *part);     /* "model.layers.LAYER.PART" */

/* input_layernorm, post_attention_layernorm. */
grace_status gr_resolve_layer_norms(gr_folder *f, const grace_model_info *info, int32_t layer, gr_layer_tensors *out);
/* self_attn.{q,k,v,o}_proj.weight; with biases, q, k and v have them. */
grace_status gr_resolve_heads(gr_folder *f, const grace_model_info *info, int32_t layer, bool biases, gr_layer_tensors *out);
/* {gate,up,down}_proj.weight after `at`. */
grace_status gr_resolve_mlp(gr_folder *f, const char *at, int64_t hidden, int64_t width, gr_mlp_tensors *out);
/* gate.weight and experts after `at`: experts.N.{gate,up,down}.weight, or, as transformers 5 may write them, all in experts.gate_up_proj
 * [n, 2*width, hidden] (gate first) and experts.down_proj [n, hidden, width]. */
grace_status gr_resolve_experts(gr_folder *f, const char *at, const char *const names[3], const grace_model_info *info, gr_layer_tensors *out);
/* A layer's MLP in the usual names: dense, or the router and its experts. */
grace_status gr_resolve_mlp_or_experts(gr_folder *f, const grace_model_info *info, int32_t layer, gr_layer_tensors *out);
/* model.embed_tokens, model.norm, lm_head: the same in all families. */
grace_status gr_resolve_ends(gr_folder *f, const grace_model_info *info, gr_model_tensors *out);

#endif
