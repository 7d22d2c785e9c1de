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
    GR_LAYERS_MAX = 1024,
    GR_EXPERTS_MAX = 1024,
    GR_TOP_K_MAX = 64,
    GR_HEADS_MAX = 1024,
    GR_HEAD_DIM_MAX = 1024,
    GR_WIDTH_MAX = 1 << 20,         /* hidden, expert_width */
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

/* A positive integer: FORMAT when missing, of another kind or under 1, LIMIT above max. */
grace_status gr_config_count(gr_config *c, const char *key, int32_t max, int32_t *out);
grace_status gr_config_count_or(gr_config *c, const char *key, int32_t max, int32_t fallback, int32_t *out);    /* missing or null: fallback */
/* A positive finite float: FORMAT when it is not. */
grace_status gr_config_positive(gr_config *c, const char *key, float *out);
grace_status gr_config_positive_or(gr_config *c, const char *key, float fallback, float *out);
grace_status gr_config_bool_or(gr_config *c, const char *key, bool fallback, bool *out);

/* The whole file: the shared keys, the family's own, then the check for unknown ones. *family is what 'model_type' names.
 * Fails with FORMAT, LIMIT, UNSUPPORTED (unknown model_type, key or value: the message has both). */
grace_status gr_config_parse(const char *where, const char *text, size_t n, grace_model_info *info, const struct gr_family **family);
/* Adds the end-of-text ids of a generation_config.json to those in info. */
grace_status gr_config_parse_generation(const char *where, const char *text, size_t n, grace_model_info *info);

#endif
