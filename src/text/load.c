/* tokenizer.json -> grace_tokenizer. "truncation" and "padding" are not read: the reference's callers switch both off. */
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

static const char top[] = "tokenizer.json";

/* ---- added tokens ---- */

static grace_status read_added_token(const gr_json *json, gr_added *out) {
    static const char where[] = "tokenizer.json: added_tokens";
    grace_status st = GRACE_OK;
    int64_t id;
    GR_TRY(gr_json_string(json, where, "content", &out->text));
    out->n = strlen(out->text);
    GR_CHECK(out->n > 0, GRACE_ERR_FORMAT, "%s: 'content': expected a text, found an empty one", where);
    GR_TRY(gr_json_int(json, where, "id", 0, INT32_MAX, &id));
    out->id = (int32_t)id;
    GR_TRY(gr_json_bool_or(json, where, "special", false, &out->special));
    GR_TRY(gr_json_bool_or(json, where, "single_word", false, &out->single_word));
    GR_TRY(gr_json_bool_or(json, where, "lstrip", false, &out->lstrip));
    GR_TRY(gr_json_bool_or(json, where, "rstrip", false, &out->rstrip));
    GR_TRY(gr_json_bool_or(json, where, "normalized", true, &out->normalized));
done:
    return st;
}

static grace_status read_added_tokens(const gr_json *root, gr_added **out, size_t *n_out) {
    grace_status st = GRACE_OK;
    gr_added *tokens = NULL;
    const gr_json *list = gr_json_get(root, "added_tokens");
    if (gr_json_kind_of(list) != GR_JSON_NULL) GR_TRY(gr_json_array(root, top, "added_tokens", &list));
    size_t n = gr_json_length(list);
    GR_CALLOC(tokens, n);
    for (size_t i = 0; i < n; i++) GR_TRY(read_added_token(gr_json_at(list, i), &tokens[i]));
    *out = tokens, *n_out = n;
    tokens = NULL;
done:
    free(tokens);
    return st;
}

/* ---- vocabulary ---- */

static void count_tokens(const gr_json *vocab, const gr_added *added, size_t n_added, size_t *n_tokens, size_t *n_bytes) {
    *n_tokens = *n_bytes = 0;
    for (const gr_json_member *m = gr_json_first(vocab); m; m = gr_json_next(vocab, m)) {
        *n_bytes += strlen(gr_json_key(m));
        ++*n_tokens;
    }
    for (size_t i = 0; i < n_added; i++) {
        if (gr_json_get(vocab, added[i].text)) continue;
        *n_bytes += added[i].n;
        ++*n_tokens;
    }
}

/* An added token that the model knows keeps the model's id. */
static grace_status add_added(grace_tokenizer *tok, const gr_json *vocab, const gr_added *added) {
    grace_status st = GRACE_OK;
    int64_t id;
    const gr_json *known = gr_json_get(vocab, added->text);
    if (!known) return gr_vocab_add(&tok->vocab, added->text, added->n, added->id);
    GR_CHECK(gr_json_is_int(known, &id) && id == added->id, GRACE_ERR_FORMAT,
             "tokenizer.json: added token '%.100s': expected the id of the vocabulary, found %d", added->text, (int)added->id);
done:
    return st;
}

static grace_status build_vocab(grace_tokenizer *tok, const gr_json *vocab, const gr_added *added, size_t n_added) {
    grace_status st = GRACE_OK;
    int64_t id;
    size_t n_tokens, n_bytes;
    count_tokens(vocab, added, n_added, &n_tokens, &n_bytes);
    GR_TRY(gr_vocab_init(&tok->vocab, tok->arena, n_tokens, n_bytes));
    for (const gr_json_member *m = gr_json_first(vocab); m; m = gr_json_next(vocab, m)) {
        const char *text = gr_json_key(m);
        GR_CHECK(gr_json_is_int(gr_json_value(m), &id), GRACE_ERR_FORMAT, "tokenizer.json: model: vocab: '%.100s': expected an integer, found %s", text,
                 gr_json_kind_name(gr_json_value(m)));
        GR_TRY(gr_vocab_add(&tok->vocab, text, strlen(text), id));
    }
    for (size_t i = 0; i < n_added; i++) GR_TRY(add_added(tok, vocab, &added[i]));
done:
    return st;
}

/* The model's tokens are written in the byte alphabet. An added token stands for its own text, even where all of its letters happen to
 * be in the alphabet (the reference shows "é" as a broken byte). */
static grace_status fill_shown(grace_tokenizer *tok, const gr_json *vocab) {
    grace_status st = GRACE_OK;
    char *bytes;
    GR_ARENA_ARRAY(tok->arena, tok->shown, tok->vocab.n_tokens);
    GR_ARENA_ARRAY(tok->arena, bytes, tok->vocab.n_bytes);      /* decoding never lengthens a token */
    for (int32_t id = 0; id < tok->vocab.n_tokens; id++) {
        const gr_token *token = &tok->vocab.tokens[id];
        GR_CHECK(token->n <= GR_TOKEN_BYTES_MAX, GRACE_ERR_LIMIT, "tokenizer.json: token %d has %u bytes, at most %d are read", (int)id, token->n,
                 GR_TOKEN_BYTES_MAX);
        tok->shown[id] = (gr_shown){token->text, token->n, false};
        if (!gr_json_get(vocab, token->text)) continue;
        tok->shown[id] = (gr_shown){bytes, (uint32_t)gr_bytes_of_token(token->text, token->n, bytes), false};
        bytes += tok->shown[id].n;
    }
done:
    return st;
}

/* The sets keep the texts of the vocabulary, which outlive the file. */
static grace_status build_added(grace_tokenizer *tok, gr_added *added, size_t n) {
    grace_status st = GRACE_OK;
    gr_added *rest = NULL;
    size_t n_now = 0, n_rest = 0;
    bool single_word = false;
    GR_CALLOC(rest, n);
    for (size_t i = 0; i < n; i++) {
        added[i].text = tok->vocab.tokens[added[i].id].text;
        tok->shown[added[i].id].special |= added[i].special;
        single_word |= added[i].single_word;
        if (added[i].normalized)
            rest[n_rest++] = added[i];
        else
            added[n_now++] = added[i];
    }
    if (single_word) GR_TRY(gr_pattern_regex("[\\w\\x{200C}\\x{200D}]", &tok->word));
    GR_TRY(gr_added_build(&tok->added, tok->arena, added, n_now, tok->word));
    GR_TRY(gr_added_build(&tok->added_after, tok->arena, rest, n_rest, tok->word));
done:
    free(rest);
    return st;
}

/* ---- post-processor ---- */

static grace_status add_special(grace_tokenizer *tok, const gr_json *json, const char *name, gr_ids *out) {
    static const char where[] = "tokenizer.json: post_processor TemplateProcessing";
    grace_status st = GRACE_OK;
    const gr_json *specials, *special, *ids;
    int64_t id;
    GR_TRY(gr_json_object_in(json, where, "special_tokens", &specials));
    GR_TRY(gr_json_object_in(specials, where, name, &special));
    GR_TRY(gr_json_array(special, where, "ids", &ids));
    for (size_t i = 0; i < gr_json_length(ids); i++) {
        GR_TRY(gr_json_int_at(ids, where, i, 0, tok->vocab.n_tokens - 1, &id));
        GR_TRY(gr_ids_push(out, (int32_t)id));
    }
done:
    return st;
}

/* Processors run one after the other, each around what the ones before made. */
static grace_status wrap(grace_tokenizer *tok, gr_ids *before, const gr_ids *after) {
    grace_status st = GRACE_OK;
    for (size_t i = 0; i < tok->before.n; i++) GR_TRY(gr_ids_push(before, tok->before.data[i]));
    for (size_t i = 0; i < after->n; i++) GR_TRY(gr_ids_push(&tok->after, after->data[i]));
    gr_ids old = tok->before;
    tok->before = *before;
    *before = old;
done:
    return st;
}

static grace_status read_template(grace_tokenizer *tok, const gr_json *json) {
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
            GR_TRY(add_special(tok, json, name, n_texts ? &after : &before));
        }
    }
    GR_CHECK(n_texts == 1, GRACE_ERR_UNSUPPORTED, "%s: single: sequence A %d times is not supported, once is", where, n_texts);
    GR_TRY(wrap(tok, &before, &after));
done:
    free(before.data);
    free(after.data);
    return st;
}

/* ByteLevel moves offsets only, and we give none out. */
static grace_status read_processor(grace_tokenizer *tok, const gr_json *json, bool in_sequence) {
    static const char where[] = "tokenizer.json: post_processor";
    grace_status st = GRACE_OK;
    const char *type;
    const gr_json *parts;
    GR_TRY(gr_json_string(json, where, "type", &type));
    if (!strcmp(type, "ByteLevel")) return st;
    if (!strcmp(type, "TemplateProcessing")) return read_template(tok, json);
    GR_CHECK(!strcmp(type, "Sequence") && !in_sequence, GRACE_ERR_UNSUPPORTED,
             "%s: type '%.100s' is not supported (ByteLevel, TemplateProcessing, one Sequence of them are)", where, type);
    GR_TRY(gr_json_array(json, where, "processors", &parts));
    for (size_t i = 0; i < gr_json_length(parts); i++) GR_TRY(read_processor(tok, gr_json_at(parts, i), true));
done:
    return st;
}

/* ---- parts that must be what they usually are ---- */

/* Some files say "no normalizer" as an empty sequence. */
static grace_status read_normalizer(grace_tokenizer *tok, const gr_json *json) {
    static const char where[] = "tokenizer.json: normalizer";
    grace_status st = GRACE_OK;
    const char *type;
    const gr_json *parts;
    if (gr_json_kind_of(json) == GR_JSON_NULL) return st;
    GR_TRY(gr_json_string(json, where, "type", &type));
    if (!strcmp(type, "NFC")) {
        tok->nfc = true;
        return st;
    }
    GR_CHECK(!strcmp(type, "Sequence"), GRACE_ERR_UNSUPPORTED, "%s: type '%.100s' is not supported (NFC and null are)", where, type);
    GR_TRY(gr_json_array(json, where, "normalizers", &parts));
    for (size_t i = 0; i < gr_json_length(parts) && !st; i++) st = read_normalizer(tok, gr_json_at(parts, i));
done:
    return st;
}

static grace_status check_type(const gr_json *root, const char *part, const char *expected, const gr_json **out) {
    grace_status st = GRACE_OK;
    const char *type;
    char where[64];
    snprintf(where, sizeof where, "%s: %s", top, part);
    GR_TRY(gr_json_object_in(root, top, part, out));
    GR_TRY(gr_json_string(*out, where, "type", &type));
    GR_CHECK(!strcmp(type, expected), GRACE_ERR_UNSUPPORTED, "%s: type '%.100s' is not supported, expected %s", where, type, expected);
done:
    return st;
}

/* ---- the file ---- */

static grace_status build_parts(grace_tokenizer *tok, const gr_json *root) {
    grace_status st = GRACE_OK;
    const gr_json *model, *vocab, *decoder, *part;
    gr_added *added = NULL;
    size_t n_added = 0;
    GR_TRY(check_type(root, "model", "BPE", &model));
    GR_TRY(check_type(root, "decoder", "ByteLevel", &decoder));
    GR_TRY(read_normalizer(tok, gr_json_get(root, "normalizer")));
    GR_TRY(gr_json_object_in(root, top, "pre_tokenizer", &part));
    GR_TRY(gr_pretokenizer_build(part, &tok->pre));
    GR_TRY(gr_json_object_in(model, "tokenizer.json: model", "vocab", &vocab));
    GR_TRY(read_added_tokens(root, &added, &n_added));
    GR_TRY(build_vocab(tok, vocab, added, n_added));
    GR_TRY(fill_shown(tok, vocab));
    GR_TRY(build_added(tok, added, n_added));
    GR_TRY(gr_bpe_init(&tok->bpe, tok->arena, model, &tok->vocab));
    part = gr_json_get(root, "post_processor");
    if (gr_json_kind_of(part) != GR_JSON_NULL) GR_TRY(read_processor(tok, part, false));
done:
    free(added);
    return st;
}

grace_status gr_tokenizer_parse(const char *json, size_t n, grace_tokenizer **out) {
    grace_status st = GRACE_OK;
    gr_json *root = NULL;
    grace_tokenizer *tok = NULL;
    GR_TRY(gr_json_parse(top, json, n, &root));
    GR_CALLOC(tok, 1);
    tok->arena = gr_arena_new();
    GR_CHECK(tok->arena, GRACE_ERR_MEMORY, "no memory for a tokenizer");
    GR_TRY(build_parts(tok, root));
    *out = tok;
    tok = NULL;
done:
    grace_tokenizer_close(tok);
    gr_json_free(root);
    return st;
}

grace_status grace_tokenizer_open(const char *dir, grace_tokenizer **out) {
    grace_status st = GRACE_OK;
    gr_file file = {0};
    char path[PATH_MAX];
    GR_TRY(gr_path_join(path, sizeof path, dir, "tokenizer.json"));
    GR_TRY(gr_file_map(path, &file));
    st = gr_tokenizer_parse(file.data, file.n, out);
    if (st) gr_fail_in(st, "%s", dir);
done:
    gr_file_unmap(&file);
    return st;
}

void grace_tokenizer_close(grace_tokenizer *tok) {
    if (!tok) return;
    gr_pretokenizer_free(tok->pre);
    gr_pattern_free(tok->word);
    free(tok->before.data);
    free(tok->after.data);
    gr_arena_free(tok->arena);
    free(tok);
}
