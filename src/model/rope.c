/* Rotary positions: what config.json says about them, and the frequencies that follow, in float32 as the reference makes them. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "model/config.h"

/* ---- keys ---- */

/* YaRN's numbers may be given as 0, which means the same as leaving them out. */
static grace_status read_real_or(gr_config *c, const char *key, float fallback, float *out) {
    double value = 0;
    gr_config_mark_seen(c, key);
    grace_status st = gr_json_real_or(c->object, c->where, key, (double)fallback, &value);
    if (!st && !(value >= 0 && value <= 1e9)) st = gr_fail(GRACE_ERR_FORMAT, "%s: '%s': expected 0 to 1e9, found %g", c->where, key, value);
    if (!st) *out = (float)value;
    return st;
}

static grace_status read_yarn(gr_config *c, gr_rope_scaling *s) {
    grace_status st = GRACE_OK;
    GR_TRY(read_real_or(c, "beta_fast", 32, &s->beta_fast));
    GR_TRY(read_real_or(c, "beta_slow", 1, &s->beta_slow));
    GR_TRY(read_real_or(c, "mscale", 0, &s->mscale));
    GR_TRY(read_real_or(c, "mscale_all_dim", 0, &s->mscale_all_dim));
    GR_TRY(read_real_or(c, "attention_factor", 0, &s->attention_factor));
    GR_TRY(gr_config_bool_or(c, "truncate", true, &s->truncate));
done:
    return st;
}

static grace_status read_llama3(gr_config *c, gr_rope_scaling *s) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_config_positive(c, "low_freq_factor", &s->low_freq_factor));
    GR_TRY(gr_config_positive(c, "high_freq_factor", &s->high_freq_factor));
    GR_CHECK(s->low_freq_factor < s->high_freq_factor, GRACE_ERR_FORMAT, "%s: 'low_freq_factor' is %g, not below 'high_freq_factor', %g", c->where,
             (double)s->low_freq_factor, (double)s->high_freq_factor);
done:
    return st;
}

static grace_status read_scaling(gr_config *c, const char *type, int32_t context_max, gr_rope_scaling *s) {
    grace_status st = GRACE_OK;
    *s = (gr_rope_scaling){.type = type, .factor = 1, .original = context_max};
    if (!strcmp(type, "default")) goto done;
    GR_TRY(gr_config_positive(c, "factor", &s->factor));
    GR_CHECK(s->factor >= 1, GRACE_ERR_FORMAT, "%s: 'factor': expected 1 or more, found %g", c->where, (double)s->factor);
    GR_TRY(gr_config_count_or(c, "original_max_position_embeddings", GR_CONTEXT_MAX, context_max, &s->original));
    if (!strcmp(type, "yarn")) GR_TRY(read_yarn(c, s));
    if (!strcmp(type, "llama3")) GR_TRY(read_llama3(c, s));
done:
    return st;
}

/* {"rope_type": "yarn", "factor": ..., "rope_theta": ...}, or null. *known: some key has said what theta is; all that say it must agree. */
static grace_status read_object(gr_config *c, const char *key, grace_model_info *info, gr_rope_scaling *scaling, bool *known) {
    grace_status st = GRACE_OK;
    char where[512];
    const gr_json *object = NULL;
    const char *type = NULL, *older = NULL;
    float own = 0;
    gr_config_mark_seen(c, key);
    if (gr_config_absent(c, key)) goto done;
    GR_TRY(gr_json_object_in(c->object, c->where, key, &object));
    snprintf(where, sizeof where, "%.400s: '%s'", c->where, key);
    gr_config rope = {.object = object, .where = where};
    GR_TRY(gr_config_word_or(&rope, "type", "default|linear|dynamic|yarn|llama3", "default", &older));
    GR_TRY(gr_config_word_or(&rope, "rope_type", "default|linear|dynamic|yarn|llama3", older, &type));
    GR_TRY(read_scaling(&rope, type, info->context_max, scaling));
    GR_TRY(gr_config_positive_or(&rope, "rope_theta", info->rope_theta, &own));
    GR_TRY(gr_config_check_unread(&rope, NULL, false));
    GR_CHECK(!*known || own == info->rope_theta, GRACE_ERR_FORMAT, "%s: 'rope_theta' is %g here and %g elsewhere", where, (double)own,
             (double)info->rope_theta);
    info->rope_theta = own;
    *known = *known || !gr_config_absent(&rope, "rope_theta");
done:
    return st;
}

/* ---- frequencies ---- */

float gr_yarn_magnitude(float factor, float mscale) { return factor <= 1 ? 1.0f : (float)(0.1 * (double)mscale * log((double)factor) + 1); }

static float yarn_attention(const gr_rope_scaling *s) {
    if (s->attention_factor > 0) return s->attention_factor;
    if (s->mscale > 0 && s->mscale_all_dim > 0) return gr_yarn_magnitude(s->factor, s->mscale) / gr_yarn_magnitude(s->factor, s->mscale_all_dim);
    return gr_yarn_magnitude(s->factor, 1);
}

/* The pair that turns `turns` times within the trained context. */
static double yarn_pair(const gr_rope_scaling *s, double turns, int32_t dim, float theta) {
    return dim * log(s->original / (turns * 2 * M_PI)) / (2 * log((double)theta));
}

/* Pairs that turn often stay as they are, those that turn less than once are slowed by the factor, a ramp between. */
static void stretch_yarn(const gr_rope_scaling *s, grace_rope *rope, float theta) {
    const float beta_fast = s->beta_fast > 0 ? s->beta_fast : 32, beta_slow = s->beta_slow > 0 ? s->beta_slow : 1;
    double low = yarn_pair(s, (double)beta_fast, rope->dim, theta), high = yarn_pair(s, (double)beta_slow, rope->dim, theta);
    if (s->truncate) low = floor(low), high = ceil(high);
    low = fmax(low, 0);
    high = fmin(high, rope->dim - 1);
    if (low == high) high += 0.001;
    for (int32_t i = 0; i < rope->dim / 2; i++) {
        const float ramp = fminf(fmaxf(((float)i - (float)low) / (float)(high - low), 0), 1), keep = 1 - ramp;
        rope->frequency[i] = rope->frequency[i] / s->factor * (1 - keep) + rope->frequency[i] * keep;
    }
    rope->magnitude = yarn_attention(s);
}

static void stretch_llama3(const gr_rope_scaling *s, grace_rope *rope) {
    for (int32_t i = 0; i < rope->dim / 2; i++) {
        const float f = rope->frequency[i], wave = (float)(2 * M_PI) / f, original = (float)s->original;
        const float smooth = (original / wave - s->low_freq_factor) / (s->high_freq_factor - s->low_freq_factor);
        if (wave > original / s->low_freq_factor) rope->frequency[i] = f / s->factor;
        else if (wave >= original / s->high_freq_factor) rope->frequency[i] = (1 - smooth) * f / s->factor + smooth * f;
    }
}

/* "dynamic" stretches only beyond max_position_embeddings, where this build's sequences end. */
static void fill_frequencies(const gr_rope_scaling *s, grace_model_info *info) {
    grace_rope *rope = &info->rope;
    rope->magnitude = 1;
    rope->stretched = strcmp(s->type, "default") && strcmp(s->type, "dynamic");
    for (int32_t i = 0; i < rope->dim / 2; i++) {
        const float exponent = (float)(2 * i) / (float)rope->dim;
        rope->frequency[i] = 1.0f / (float)pow((double)info->rope_theta, (double)exponent);
        if (!strcmp(s->type, "linear")) rope->frequency[i] /= s->factor;
    }
    if (!strcmp(s->type, "yarn")) stretch_yarn(s, rope, info->rope_theta);
    if (!strcmp(s->type, "llama3")) stretch_llama3(s, rope);
}

/* Transformers 5 writes rope_parameters, older ones rope_theta and rope_scaling. */
grace_status gr_config_rope(gr_config *c, grace_model_info *info, gr_rope_scaling *out) {
    grace_status st = GRACE_OK;
    gr_rope_scaling scaling = {.type = "default", .factor = 1, .original = info->context_max};
    bool known = !gr_config_absent(c, "rope_theta");
    GR_TRY(gr_config_positive_or(c, "rope_theta", 10000, &info->rope_theta));
    GR_TRY(read_object(c, "rope_scaling", info, &scaling, &known));
    GR_TRY(read_object(c, "rope_parameters", info, &scaling, &known));
    if (info->rope.dim == 0) info->rope.dim = info->head_dim;
    GR_CHECK(info->rope.dim % 2 == 0, GRACE_ERR_UNSUPPORTED, "%s: heads of %d elements cannot be rotated in pairs", c->where, info->rope.dim);
    GR_CHECK(strcmp(scaling.type, "yarn") || info->rope_theta > 1, GRACE_ERR_FORMAT, "%s: 'rope_theta': YaRN expects more than 1, found %g", c->where,
             (double)info->rope_theta);
    fill_frequencies(&scaling, info);
    if (out) *out = scaling;
done:
    return st;
}
