#include "text/wrap.h"

#include <string.h>

enum { WRAP_MAX = 1024 };       /* tokens on a side: a text of ids can be named again and again, so a small file could ask for many */

static grace_status push(gr_ids *ids, int32_t id) {
    if (ids->n == WRAP_MAX) return gr_fail(GRACE_ERR_LIMIT, "tokenizer.json: post_processor: more than %d tokens on a side of the text", WRAP_MAX);
    return gr_ids_push(ids, id);
}

static grace_status add_special(const gr_json *json, const char *name, int32_t n_tokens, gr_ids *out) {
    static const char where[] = "tokenizer.json: post_processor TemplateProcessing";
    grace_status st = GRACE_OK;
    const gr_json *specials, *special, *ids;
    int64_t id;
    GR_TRY(gr_json_object_in(json, where, "special_tokens", &specials));
    GR_TRY(gr_json_object_in(specials, where, name, &special));
    GR_TRY(gr_json_array(special, where, "ids", &ids));
    for (size_t i = 0; i < gr_json_length(ids); i++) {
        GR_TRY(gr_json_int_at(ids, where, i, 0, n_tokens - 1, &id));
        GR_TRY(push(out, (int32_t)id));
    }
done:
    return st;
}

/* Processors run one after the other, each around what the ones before made. */
static grace_status wrap(gr_wrapping *w, gr_ids *before, const gr_ids *after) {
    grace_status st = GRACE_OK;
    for (size_t i = 0; i < w->before.n; i++) GR_TRY(push(before, w->before.data[i]));
    for (size_t i = 0; i < after->n; i++) GR_TRY(push(&w->after, after->data[i]));
    gr_ids old = w->before;
    w->before = *before;
    *before = old;
done:
    return st;
}

static grace_status read_template(gr_wrapping *w, const gr_json *json, int32_t n_tokens) {
    static const char where[] = "tokenizer.json: post_processor TemplateProcessing";
    grace_status st = GRACE_OK;
    gr_ids before = {0}, after = {0};
    const gr_json *single, *piece;
    const char *name;
    int n_texts = 0;
    GR_TRY(gr_json_array(json, where, "single", &single));
    for (size_t i = 0; i < gr_json_length(single); i++) {
        if ((piece = gr_json_get(gr_json_at(single, i), "Sequence"))) {
            GR_TRY(gr_json_string(piece, where, "id", &name));
            GR_CHECK(!strcmp(name, "A"), GRACE_ERR_FORMAT, "%s: single: expected sequence A, found '%.100s'", where, name);
            n_texts++;
        } else {
            GR_TRY(gr_json_object_in(gr_json_at(single, i), where, "SpecialToken", &piece));
            GR_TRY(gr_json_string(piece, where, "id", &name));
            GR_TRY(add_special(json, name, n_tokens, n_texts ? &after : &before));
        }
    }
    GR_CHECK(n_texts == 1, GRACE_ERR_UNSUPPORTED, "%s: single: sequence A %d times is not supported, once is", where, n_texts);
    GR_TRY(wrap(w, &before, &after));
done:
    free(before.data);
    free(after.data);
    return st;
}

/* ByteLevel moves offsets only, and we give none out. */
static grace_status read_processor(gr_wrapping *w, const gr_json *json, int32_t n_tokens, bool in_sequence) {
    static const char where[] = "tokenizer.json: post_processor";
    grace_status st = GRACE_OK;
    const char *type;
    const gr_json *parts;
    GR_TRY(gr_json_string(json, where, "type", &type));
    if (!strcmp(type, "ByteLevel")) return st;
    if (!strcmp(type, "TemplateProcessing")) return read_template(w, json, n_tokens);
    GR_CHECK(!strcmp(type, "Sequence") && !in_sequence, GRACE_ERR_UNSUPPORTED,
             "%s: type '%.100s' is not supported (ByteLevel, TemplateProcessing, one Sequence of them are)", where, type);
    GR_TRY(gr_json_array(json, where, "processors", &parts));
    for (size_t i = 0; i < gr_json_length(parts); i++) GR_TRY(read_processor(w, gr_json_at(parts, i), n_tokens, true));
done:
    return st;
}

grace_status gr_wrapping_read(gr_wrapping *w, const gr_json *json, int32_t n_tokens) {
    return gr_json_kind_of(json) == GR_JSON_NULL ? GRACE_OK : read_processor(w, json, n_tokens, false);
}

void gr_wrapping_free(gr_wrapping *w) {
    free(w->before.data);
    free(w->after.data);
    *w = (gr_wrapping){0};
}

/* ---- tokenizer_config.json ---- */

/* "bos_token" is a text, an object with its "content", or null: then there is none to add. */
static grace_status add_named(const gr_json *config, const char *key, const gr_vocab *vocab, gr_ids *out) {
    static const char where[] = "tokenizer_config.json";
    grace_status st = GRACE_OK;
    const gr_json *value = gr_json_get(config, key);
    const char *text;
    if (gr_json_kind_of(value) == GR_JSON_NULL) return st;
    if (gr_json_kind_of(value) == GR_JSON_OBJECT)
        GR_TRY(gr_json_string(value, where, "content", &text));
    else
        GR_TRY(gr_json_string(config, where, key, &text));
    int32_t id = gr_vocab_find(vocab, text, strlen(text));
    GR_CHECK(id >= 0, GRACE_ERR_FORMAT, "%s: %s '%.100s' is not in the vocabulary of tokenizer.json", where, key, text);
    GR_TRY(gr_ids_push(out, id));
done:
    return st;
}

grace_status gr_wrapping_configure(gr_wrapping *w, const gr_json *config, const gr_vocab *vocab) {
    static const char where[] = "tokenizer_config.json";
    grace_status st = GRACE_OK;
    gr_wrapping configured = {0};
    bool bos, eos;
    if (!gr_json_get(config, "add_bos_token") && !gr_json_get(config, "add_eos_token")) return st;
    GR_TRY(gr_json_bool_or(config, where, "add_bos_token", false, &bos));
    GR_TRY(gr_json_bool_or(config, where, "add_eos_token", false, &eos));
    if (bos) GR_TRY(add_named(config, "bos_token", vocab, &configured.before));
    if (eos) GR_TRY(add_named(config, "eos_token", vocab, &configured.after));
    gr_wrapping_free(w);
    *w = configured;
    configured = (gr_wrapping){0};
done:
    gr_wrapping_free(&configured);
    return st;
}
