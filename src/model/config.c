#include "model/config.h"

#include <float.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "model/family.h"

static const gr_family *const families[] = {
    &gr_family_olmoe, &gr_family_deepseek_v2, &gr_family_qwen3_moe, &gr_family_qwen2_moe, &gr_family_mixtral, &gr_family_deepseek_v3, &gr_family_gpt_oss,
};

/* For all families; a family may have more, which go first. */
static const gr_rule shared_rules[] = {
    {"hidden_act", "\"silu\""},
    {"attention_bias", "false|null"},
    {"mlp_bias", "false|null"},
    {"sliding_window", "null"},
    {"use_sliding_window", "false|null"},
    {"partial_rotary_factor", "1|1.0|null"},
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
    {0},
};

/* ---- the reader ---- */

void gr_config_mark_seen(gr_config *c, const char *key) {
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
    gr_config_mark_seen(c, key);
    grace_status st = gr_json_int(c->object, c->where, key, INT64_MIN, INT64_MAX, &value);
    return st ? st : check_count(c, key, value, max, out);
}

bool gr_config_absent(const gr_config *c, const char *key) { return gr_json_kind_of(gr_json_get(c->object, key)) == GR_JSON_NULL; }

grace_status gr_config_count_or(gr_config *c, const char *key, int32_t max, int32_t fallback, int32_t *out) {
    if (!gr_config_absent(c, key)) return gr_config_count(c, key, max, out);
    gr_config_mark_seen(c, key);
    *out = fallback;
    return GRACE_OK;
}

grace_status gr_config_number_or(gr_config *c, const char *key, int32_t max, int32_t fallback, int32_t *out) {
    int64_t value = 0;
    gr_config_mark_seen(c, key);
    grace_status st = gr_json_int_or(c->object, c->where, key, INT64_MIN, INT64_MAX, fallback, &value);
    if (!st && value == 0) *out = 0;
    else if (!st) st = check_count(c, key, value, max, out);
    return st;
}

grace_status gr_config_positive(gr_config *c, const char *key, float *out) {
    grace_status st = GRACE_OK;
    double value = 0;
    gr_config_mark_seen(c, key);
    GR_TRY(gr_json_real(c->object, c->where, key, &value));
    GR_CHECK(value >= FLT_MIN && value <= FLT_MAX, GRACE_ERR_FORMAT, "%s: '%s': expected a positive float, found %g", c->where, key, value);
    *out = (float)value;
done:
    return st;
}

grace_status gr_config_positive_or(gr_config *c, const char *key, float fallback, float *out) {
    if (!gr_config_absent(c, key)) return gr_config_positive(c, key, out);
    gr_config_mark_seen(c, key);
    *out = fallback;
    return GRACE_OK;
}

grace_status gr_config_bool_or(gr_config *c, const char *key, bool fallback, bool *out) {
    gr_config_mark_seen(c, key);
    return gr_json_bool_or(c->object, c->where, key, fallback, out);
}

static bool is_one_of(const char *text, const char *accepted) {
    size_t n = strlen(text);
    for (const char *from = accepted; from; from = strchr(from, '|') ? strchr(from, '|') + 1 : NULL)
        if (strcspn(from, "|") == n && !strncmp(from, text, n)) return true;
    return false;
}

static grace_status check_word(const gr_config *c, const char *key, const char *accepted, const char *word) {
    if (is_one_of(word, accepted)) return GRACE_OK;
    return gr_fail(GRACE_ERR_UNSUPPORTED, "%s: '%s' is \"%.100s\", this build supports only %s", c->where, key, word, accepted);
}

grace_status gr_config_word_or(gr_config *c, const char *key, const char *accepted, const char *fallback, const char **out) {
    gr_config_mark_seen(c, key);
    grace_status st = gr_json_string_or(c->object, c->where, key, fallback, out);
    return st ? st : check_word(c, key, accepted, *out);
}

grace_status gr_config_word_at(gr_config *c, const char *key, int32_t index, int32_t n, const char *accepted, const char *fallback, const char **out) {
    grace_status st = GRACE_OK;
    const gr_json *words = NULL;
    if (index == 0) gr_config_mark_seen(c, key);
    *out = fallback;
    if (gr_config_absent(c, key)) goto done;
    GR_TRY(gr_json_array(c->object, c->where, key, &words));
    GR_CHECK(gr_json_length(words) == (size_t)n, GRACE_ERR_FORMAT, "%s: '%s': expected %d words, found %zu", c->where, key, n, gr_json_length(words));
    GR_CHECK(gr_json_is_string(gr_json_at(words, (size_t)index), out, NULL), GRACE_ERR_FORMAT, "%s: '%s': element %d: expected a string, found %s",
             c->where, key, index, gr_json_kind_name(gr_json_at(words, (size_t)index)));
    GR_TRY(check_word(c, key, accepted, *out));
done:
    return st;
}

/* ---- keys nobody read ---- */

static bool was_read(const gr_config *c, const char *key) {
    for (int32_t i = 0; i < c->n_seen; i++)
        if (!strcmp(c->seen[i], key)) return true;
    return false;
}

static const gr_rule *find_rule(const gr_rule *rules, const char *key) {
    for (; rules && rules->key; rules++)
        if (!strcmp(rules->key, key)) return rules;
    return NULL;
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

grace_status gr_config_check_unread(const gr_config *c, const gr_rule *own, bool with_shared_rules) {
    grace_status st = GRACE_OK;
    for (const gr_json_member *m = gr_json_first(c->object); m && !st; m = gr_json_next(c->object, m)) {
        const char *key = gr_json_key(m);
        const gr_rule *rule = find_rule(own, key);
        if (!rule && with_shared_rules) rule = find_rule(shared_rules, key);
        if (was_read(c, key) || (rule && !rule->accepted)) continue;
        st = check_value(c, key, gr_json_value(m), rule ? rule->accepted : NULL);
    }
    return st;
}

/* ---- keys that all families share ---- */

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

/* fp8 weights (e4m3 with a scale for each 128 x 128 block) and MXFP4 experts, as their tensors say themselves. Activations stay float32. */
static grace_status read_quantization(gr_config *c) {
    static const gr_rule fp8[] = {{"fmt", "\"e4m3\""}, {"activation_scheme", "\"dynamic\""}, {"weight_block_size", "[128, 128]|[128,128]"},
                                  {"modules_to_not_convert", NULL}, {"scale_fmt", NULL}, {0}};
    static const gr_rule mxfp4[] = {{"modules_to_not_convert", NULL}, {0}};
    const char *key = "quantization_config", *method = NULL;
    const gr_json *value = gr_json_get(c->object, key);
    char where[512];
    gr_config_mark_seen(c, key);
    if (gr_config_absent(c, key)) return GRACE_OK;
    if (!gr_json_is_string(gr_json_get(value, "quant_method"), &method, NULL) || !is_one_of(method, "fp8|mxfp4"))
        return check_value(c, key, value, "quant_method fp8 and mxfp4");
    snprintf(where, sizeof where, "%.400s: '%s'", c->where, key);
    gr_config inner = {.object = value, .where = where, .seen = {"quant_method"}, .n_seen = 1};
    return gr_config_check_unread(&inner, strcmp(method, "fp8") ? mxfp4 : fp8, false);
}

static grace_status read_shared(gr_config *c, grace_model_info *info) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_config_count(c, "hidden_size", GR_WIDTH_MAX, &info->hidden));
    GR_TRY(gr_config_count(c, "num_hidden_layers", GR_LAYERS_MAX, &info->n_layers));
    GR_TRY(gr_config_count(c, "vocab_size", GR_VOCAB_MAX, &info->vocab));
    GR_TRY(gr_config_count(c, "max_position_embeddings", GR_CONTEXT_MAX, &info->context_max));
    GR_TRY(gr_config_positive(c, "rms_norm_eps", &info->rms_eps));
    GR_TRY(gr_config_bool_or(c, "tie_word_embeddings", false, &info->tied_embeddings));
    GR_TRY(read_quantization(c));
    gr_config_mark_seen(c, "eos_token_id");
    GR_TRY(read_eos(c->object, c->where, info));
    info->gate.scaling = 1;
done:
    return st;
}

/* What follows from what the family read. */
static grace_status finish(const char *where, grace_model_info *info) {
    grace_status st = GRACE_OK;
    for (int32_t l = 0; l < info->n_layers; l++)
        if (info->layers[l].moe >= 0) info->layers[l].moe = info->n_moe_layers++;
    GR_CHECK(info->n_moe_layers > 0, GRACE_ERR_UNSUPPORTED, "%s: none of the %d layers has experts", where, info->n_layers);
    GR_CHECK(info->top_k <= info->n_experts, GRACE_ERR_FORMAT, "%s: %d experts per token, but only %d experts", where, info->top_k, info->n_experts);
done:
    return st;
}

/* ---- the whole file ---- */

static grace_status find_family(gr_config *c, const gr_family **out) {
    const char *type = NULL;
    char known[256] = "";
    gr_config_mark_seen(c, "model_type");
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
    GR_TRY(finish(where, &read));
    GR_TRY(gr_config_check_unread(&config, found->rules, true));
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
