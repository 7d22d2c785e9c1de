/* config.json -> grace_model_info. A key that is neither read nor known to be harmless is an error: it may change the mathematics. */
#ifndef GR_MODEL_CONFIG_H
#define GR_MODEL_CONFIG_H
#include <stddef.h>
#include <stdint.h>

#include "base/json.h"
#include "grace/model.h"

struct gr_family;

/* Limits of this build, checked here, when a model opens. */
enum {
    GR_LAYERS_MAX = GRACE_LAYERS_MAX,
    GR_EXPERTS_MAX = 1024,
    GR_TOP_K_MAX = 64,
    GR_HEADS_MAX = 1024,
    GR_HEAD_DIM_MAX = 2 * GRACE_ROPE_PAIRS_MAX,
    GR_WIDTH_MAX = 1 << 20,         /* hidden, widths of MLPs and latents */
    GR_VOCAB_MAX = 1 << 24,
    GR_CONTEXT_MAX = 1 << 26,
};

/* Reads keys and remembers which, so that what nobody read can be named. */
typedef struct gr_config {
    const gr_json *object;
    const char *where;              /* "DIR/config.json" */
    const char *seen[64];
    int32_t n_seen;
} gr_config;

/* A key nobody reads. accepted NULL: it has no part in the network's mathematics, whatever its value. Else the values, as JSON, separated by
 * '|', that mean what this build computes. A key without a rule that was not read is refused. */
typedef struct gr_rule { const char *key, *accepted; } gr_rule;

/* A positive integer: FORMAT when missing, of another kind or under 1, LIMIT above max. */
grace_status gr_config_count(gr_config *c, const char *key, int32_t max, int32_t *out);
grace_status gr_config_count_or(gr_config *c, const char *key, int32_t max, int32_t fallback, int32_t *out);    /* missing or null: fallback */
grace_status gr_config_number_or(gr_config *c, const char *key, int32_t max, int32_t fallback, int32_t *out);   /* the same from 0 on */
/* A positive finite float: FORMAT when it is not. */
grace_status gr_config_positive(gr_config *c, const char *key, float *out);
grace_status gr_config_positive_or(gr_config *c, const char *key, float fallback, float *out);
grace_status gr_config_bool_or(gr_config *c, const char *key, bool fallback, bool *out);
/* One of the words in `accepted`, separated by '|': UNSUPPORTED when it is another. Borrowed from the file. */
grace_status gr_config_word_or(gr_config *c, const char *key, const char *accepted, const char *fallback, const char **out);
/* The same for element `index` of an array of n. */
grace_status gr_config_word_at(gr_config *c, const char *key, int32_t index, int32_t n, const char *accepted, const char *fallback, const char **out);

bool gr_config_absent(const gr_config *c, const char *key);     /* missing or null */
void gr_config_mark_seen(gr_config *c, const char *key);
grace_status gr_config_check_unread(const gr_config *c, const gr_rule *own, bool with_shared_rules);    /* every key was read or has a rule */

/* ---- config_layers.c, rope.c: keys of several families, into info ---- */
/* num_attention_heads, num_key_value_heads, head_dim of ordinary attention; the softmax's scale. */
grace_status gr_config_heads(gr_config *c, grace_model_info *info);
/* decoder_sparse_step, mlp_only_layers: which layers are dense; and their width. */
grace_status gr_config_sparse_step(gr_config *c, grace_model_info *info);
/* intermediate_size, which must be there when some layer is dense. */
grace_status gr_config_dense_width(gr_config *c, grace_model_info *info);

/* How rotary positions are stretched beyond the context a model was trained with. */
typedef struct gr_rope_scaling {
    const char *type;               /* "default", "linear", "dynamic", "yarn", "llama3" */
    float factor;
    int32_t original;               /* the trained context */
    float beta_fast, beta_slow, mscale, mscale_all_dim, attention_factor;   /* yarn; 0: not given */
    bool truncate;
    float low_freq_factor, high_freq_factor;                                /* llama3 */
} gr_rope_scaling;

/* rope_theta, rope_scaling, rope_parameters: fills rope_theta and rope; rope.dim 0 becomes head_dim. *out (may be NULL): what was read. */
grace_status gr_config_rope(gr_config *c, grace_model_info *info, gr_rope_scaling *out);
/* YaRN's growth of scores with the factor: 0.1 mscale ln(factor) + 1. */
float gr_yarn_magnitude(float factor, float mscale);

/* The whole file: the shared keys, the family's own, then the check for unknown ones. *family is what 'model_type' names.
 * Fails with FORMAT, LIMIT, UNSUPPORTED (unknown model_type, key or value: the message has both). */
grace_status gr_config_parse(const char *where, const char *text, size_t n, grace_model_info *info, const struct gr_family **family);
/* Adds the end-of-text ids of a generation_config.json to those in info. */
grace_status gr_config_parse_generation(const char *where, const char *text, size_t n, grace_model_info *info);

#endif
