#include "model/config.h"

#include <float.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/family.h"

static const gr_family *const families[] = {
    &gr_family_olmoe,
};

/* Keys nobody reads. accepted NULL: the key has no part in the network's mathematics, whatever its value. Else the values, as JSON,
 * separated by '|', that mean what this build computes. A key that is not here and was not read is refused. */
static const struct rule { const char *key, *accepted; } rules[] = {
    {"hidden_act", "\"silu\""},
    {"attention_bias", "false|null"},
    {"mlp_bias", "false|null"},
    {"sliding_window", "null"},
    {"use_sliding_window", "false|null"},
    {"partial_rotary_factor", "1|1.0|null"},
    {"quantization_config", "null"},
    {"is_encoder_decoder", "false"},
    {"add_cross_attention", "false"},
    {"pruned_heads", "{}|null"},
    /* where it comes from and how it was stored; a tensor says its own dtype */
    {"_name_or_path", NULL},
    {"architectures", NULL},
    {"dtype", NULL},
    {"torch_dtype", NULL},
    {"transformers_version", NULL},
    /* training only */
    {"attention_dropout", NULL},
    {"initializer_range", NULL},
    {"router_aux_loss_coef", NULL},
    /* what the reference returns, keeps or splits; the numbers stay */
    {"output_router_logits", NULL},
    {"output_attentions", NULL},
    {"output_hidden_states", NULL},
    {"return_dict", NULL},
    {"use_cache", NULL},
    {"chunk_size_feed_forward", NULL},
    {"pretraining_tp", NULL},
    {"torchscript", NULL},
    {"is_decoder", NULL},
    /* text and generation: the tokenizer's and the caller's business */
    {"bos_token_id", NULL},
    {"pad_token_id", NULL},
    {"sep_token_id", NULL},
    {"decoder_start_token_id", NULL},
    {"tokenizer_class", NULL},
    {"do_sample", NULL},
    {"temperature", NULL},
    {"top_k", NULL},
    {"top_p", NULL},
    {"max_length", NULL},
    {"min_length", NULL},
    /* classification heads, which a language model does not have */
    {"id2label", NULL},
    {"label2id", NULL},
    {"problem_type", NULL},
    {"task_specific_params", NULL},
    {"finetuning_task", NULL},
};

/* ---- the reader ---- */

static void mark_seen(gr_config *c, const char *key) {
    GR_ASSERT((size_t)c->n_seen < sizeof c->seen / sizeof *c->seen);
    c->seen[c->n_seen++] = key;
}

static grace_status check_count(const gr_config *c, const char *key, int64_t value, int32_t max, int32_t *out) {
    grace_status st = GRACE_OK;
    GR_CHECK(value >= 1, GRACE_ERR_FORMAT, "%s: '%s': expected a positive number, found %" PRId64, c->where, key, value);
    GR_CHECK(value <= max, GRACE_ERR_LIMIT, "%s: '%s' is %" PRId64 ", this build takes at most %d", c->where, key, value, max);
    *out = (int32_t)value;
done:
    return st;
}

grace_status gr_config_count(gr_config *c, const char *key, int32_t max, int32_t *out) {
    int64_t value = 0;
    mark_seen(c, key);
    grace_status st = gr_json_int(c->object, c->where, key, INT64_MIN, INT64_MAX, &value);
    return st ? st : check_count(c, key, value, max, out);
}

static bool absent(const gr_config *c, const char *key) { return gr_json_kind_of(gr_json_get(c->object, key)) == GR_JSON_NULL; }

grace_status gr_config_count_or(gr_config *c, const char *key, int32_t max, int32_t fallback, int32_t *out) {
    if (!absent(c, key)) return gr_config_count(c, key, max, out);
    mark_seen(c, key);
    *out = fallback;
    return GRACE_OK;
}

grace_status gr_config_positive(gr_config *c, const char *key, float *out) {
    grace_status st = GRACE_OK;
    double value = 0;
    mark_seen(c, key);
    GR_TRY(gr_json_real(c->object, c->where, key, &value));
    GR_CHECK(value >= FLT_MIN && value <= FLT_MAX, GRACE_ERR_FORMAT, "%s: '%s': expected a positive float, found %g", c->where, key, value);
    *out = (float)value;
done:
    return st;
}

grace_status gr_config_positive_or(gr_config *c, const char *key, float fallback, float *out) {
    if (!absent(c, key)) return gr_config_positive(c, key, out);
    mark_seen(c, key);
    *out = fallback;
    return GRACE_OK;
}

grace_status gr_config_bool_or(gr_config *c, const char *key, bool fallback, bool *out) {
    mark_seen(c, key);
    return gr_json_bool_or(c->object, c->where, key, fallback, out);
}

/* ---- keys nobody read ---- */

static bool was_read(const gr_config *c, const char *key) {
    for (int32_t i = 0; i < c->n_seen; i++)
        if (!strcmp(c->seen[i], key)) return true;
    return false;
}

static const struct rule *find_rule(const char *key) {
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (!strcmp(rules[i].key, key)) return &rules[i];
    return NULL;
}

static bool is_one_of(const char *text, const char *accepted) {
    size_t n = strlen(text);
    for (const char *from = accepted; from; from = strchr(from, '|') ? strchr(from, '|') + 1 : NULL)
        if (strcspn(from, "|") == n && !strncmp(from, text, n)) return true;
    return false;
}

static grace_status refuse(const gr_config *c, const char *key, const char *value, const char *accepted) {
    if (!accepted) return gr_fail(GRACE_ERR_UNSUPPORTED, "%s: unknown key '%s' (value %.100s): it may change the result", c->where, key, value);
    return gr_fail(GRACE_ERR_UNSUPPORTED, "%s: '%s' is %.100s, this build supports only %s", c->where, key, value, accepted);
}

static grace_status check_value(const gr_config *c, const char *key, const gr_json *value, const char *accepted) {
    char *text = NULL;
    grace_status st = gr_json_write(value, 0, &text, NULL);
    if (!st && !(accepted && is_one_of(text, accepted))) st = refuse(c, key, text, accepted);
    free(text);
    return st;
}

/* Every key was read or is excused by a rule; without rules it must have been read. */
static grace_status check_unread(const gr_config *c, bool with_rules) {
    grace_status st = GRACE_OK;
    for (const gr_json_member *m = gr_json_first(c->object); m && !st; m = gr_json_next(c->object, m)) {
        const char *key = gr_json_key(m);
        const struct rule *rule = with_rules ? find_rule(key) : NULL;
        if (was_read(c, key) || (rule && !rule->accepted)) continue;
        st = check_value(c, key, gr_json_value(m), rule ? rule->accepted : NULL);
    }
    return st;
}

/* ---- shared keys ---- */

/* {"rope_type": "default", "rope_theta": ...}, or null. *known: some key has said what theta is; all that say it must agree. */
static grace_status read_rope_object(gr_config *c, const char *key, float *theta, bool *known) {
    grace_status st = GRACE_OK;
    char where[512];
    const gr_json *object = NULL;
    const char *type = NULL;
    float own = 0;
    mark_seen(c, key);
    if (absent(c, key)) goto done;
    GR_TRY(gr_json_object_in(c->object, c->where, key, &object));
    snprintf(where, sizeof where, "%.400s: '%s'", c->where, key);
    gr_config rope = {.object = object, .where = where, .seen = {"rope_type", "type"}, .n_seen = 2};
    GR_TRY(gr_json_string_or(object, where, "type", "default", &type));
    GR_TRY(gr_json_string_or(object, where, "rope_type", type, &type));
    GR_CHECK(!strcmp(type, "default"), GRACE_ERR_UNSUPPORTED, "%s: 'rope_type' is \"%.100s\", this build supports only \"default\"", where, type);
    GR_TRY(gr_config_positive_or(&rope, "rope_theta", *theta, &own));
    GR_TRY(check_unread(&rope, false));
    GR_CHECK(!*known || own == *theta, GRACE_ERR_FORMAT, "%s: 'rope_theta' is %g here and %g elsewhere", where, (double)own, (double)*theta);
    *theta = own;
    *known = *known || !absent(&rope, "rope_theta");
done:
    return st;
}

/* Transformers 5 writes rope_parameters, older ones rope_theta and rope_scaling. */
static grace_status read_rope(gr_config *c, grace_model_info *info) {
    grace_status st = GRACE_OK;
    bool known = !absent(c, "rope_theta");
    GR_TRY(gr_config_positive_or(c, "rope_theta", 10000, &info->rope_theta));
    GR_TRY(read_rope_object(c, "rope_scaling", &info->rope_theta, &known));
    GR_TRY(read_rope_object(c, "rope_parameters", &info->rope_theta, &known));
done:
    return st;
}

static grace_status read_heads(gr_config *c, grace_model_info *info) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_config_count(c, "num_attention_heads", GR_HEADS_MAX, &info->n_heads));
    GR_TRY(gr_config_count_or(c, "num_key_value_heads", GR_HEADS_MAX, info->n_heads, &info->n_kv_heads));
    GR_CHECK(info->n_heads % info->n_kv_heads == 0, GRACE_ERR_FORMAT, "%s: 'num_attention_heads' is %d, no multiple of 'num_key_value_heads', %d",
             c->where, info->n_heads, info->n_kv_heads);
    GR_TRY(gr_config_count_or(c, "head_dim", GR_HEAD_DIM_MAX, 0, &info->head_dim));
    if (info->head_dim == 0) {
        GR_CHECK(info->hidden % info->n_heads == 0, GRACE_ERR_FORMAT, "%s: 'hidden_size' is %d, no multiple of 'num_attention_heads', %d", c->where,
                 info->hidden, info->n_heads);
        GR_TRY(check_count(c, "hidden_size' / 'num_attention_heads", info->hidden / info->n_heads, GR_HEAD_DIM_MAX, &info->head_dim));
    }
    GR_CHECK(info->head_dim % 2 == 0, GRACE_ERR_UNSUPPORTED, "%s: heads of %d elements cannot be rotated in pairs", c->where, info->head_dim);
done:
    return st;
}

static grace_status add_eos(const char *where, const gr_json *value, grace_model_info *info) {
    grace_status st = GRACE_OK;
    int64_t id = 0;
    GR_CHECK(gr_json_is_int(value, &id), GRACE_ERR_FORMAT, "%s: 'eos_token_id': expected an integer, found %s", where, gr_json_kind_name(value));
    GR_CHECK(id >= 0 && id < info->vocab, GRACE_ERR_FORMAT, "%s: 'eos_token_id': expected 0 to %d, found %" PRId64, where, info->vocab - 1, id);
    for (int32_t i = 0; i < info->n_eos; i++)
        if (info->eos_ids[i] == id) goto done;
    const int32_t max = (int32_t)(sizeof info->eos_ids / sizeof *info->eos_ids);
    GR_CHECK(info->n_eos < max, GRACE_ERR_LIMIT, "%s: more than %d end-of-text ids", where, max);
    info->eos_ids[info->n_eos++] = (int32_t)id;
done:
    return st;
}

/* One id, several, or null. */
static grace_status read_eos(const gr_json *object, const char *where, grace_model_info *info) {
    grace_status st = GRACE_OK;
    const gr_json *value = gr_json_get(object, "eos_token_id");
    gr_json_kind kind = gr_json_kind_of(value);
    if (kind != GR_JSON_NULL && kind != GR_JSON_ARRAY) return add_eos(where, value, info);
    if (kind == GR_JSON_ARRAY)
        for (size_t i = 0; i < gr_json_length(value) && !st; i++) st = add_eos(where, gr_json_at(value, i), info);
    return st;
}

static grace_status read_shared(gr_config *c, grace_model_info *info) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_config_count(c, "hidden_size", GR_WIDTH_MAX, &info->hidden));
    GR_TRY(gr_config_count(c, "num_hidden_layers", GR_LAYERS_MAX, &info->n_layers));
    GR_TRY(gr_config_count(c, "vocab_size", GR_VOCAB_MAX, &info->vocab));
    GR_TRY(gr_config_count(c, "max_position_embeddings", GR_CONTEXT_MAX, &info->context_max));
    GR_TRY(read_heads(c, info));
    GR_TRY(gr_config_positive(c, "rms_norm_eps", &info->rms_eps));
    GR_TRY(read_rope(c, info));
    GR_TRY(gr_config_bool_or(c, "tie_word_embeddings", false, &info->tied_embeddings));
    mark_seen(c, "eos_token_id");
    GR_TRY(read_eos(c->object, c->where, info));
done:
    return st;
}

/* ---- the whole file ---- */

static grace_status find_family(gr_config *c, const gr_family **out) {
    const char *type = NULL;
    char known[256] = "";
    mark_seen(c, "model_type");
    grace_status st = gr_json_string(c->object, c->where, "model_type", &type);
    for (size_t i = 0; i < sizeof families / sizeof *families && !st; i++) {
        if (!strcmp(families[i]->model_type, type)) {
            *out = families[i];
            return GRACE_OK;
        }
        size_t n = strlen(known);
        snprintf(known + n, sizeof known - n, "%s\"%s\"", n ? ", " : "", families[i]->model_type);
    }
    return st ? st : gr_fail(GRACE_ERR_UNSUPPORTED, "%s: 'model_type' is \"%.100s\", this build supports %s", c->where, type, known);
}

static grace_status parse_object(const char *where, const char *text, size_t n, gr_json **out) {
    grace_status st = gr_json_parse(where, text, n, out);
    if (!st && gr_json_kind_of(*out) != GR_JSON_OBJECT)
        st = gr_fail(GRACE_ERR_FORMAT, "%s: expected an object, found %s", where, gr_json_kind_name(*out));
    return st;
}

grace_status gr_config_parse(const char *where, const char *text, size_t n, grace_model_info *info, const gr_family **family) {
    grace_status st = GRACE_OK;
    gr_json *root = NULL;
    const gr_family *found = NULL;
    grace_model_info read = {0};
    GR_TRY(parse_object(where, text, n, &root));
    gr_config config = {.object = root, .where = where};
    GR_TRY(find_family(&config, &found));
    strcpy(read.family, found->model_type);
    GR_TRY(read_shared(&config, &read));
    GR_TRY(found->read_config(&config, &read));
    GR_CHECK(read.top_k <= read.n_experts, GRACE_ERR_FORMAT, "%s: %d experts per token, but only %d experts", where, read.top_k, read.n_experts);
    GR_TRY(check_unread(&config, true));
    *info = read;
    *family = found;
done:
    gr_json_free(root);
    return st;
}

grace_status gr_config_parse_generation(const char *where, const char *text, size_t n, grace_model_info *info) {
    gr_json *root = NULL;
    grace_model_info read = *info;
    grace_status st = parse_object(where, text, n, &root);
    if (!st) st = read_eos(root, where, &read);
    if (!st) *info = read;
    gr_json_free(root);
    return st;
}
