/* tokenizer.json -> grace_tokenizer. "truncation" and "padding" are not read: the reference's callers switch both off. */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

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

static grace_status read_id(const gr_json_member *member, int32_t *out) {
    grace_status st = GRACE_OK;
    const gr_json *value = gr_json_value(member);
    int64_t id;
    GR_CHECK(gr_json_is_int(value, &id), GRACE_ERR_FORMAT, "tokenizer.json: model: vocab: '%.100s': expected an integer, found %s", gr_json_key(member),
             gr_json_kind_name(value));
    GR_CHECK(id >= 0 && id < INT32_MAX, GRACE_ERR_FORMAT, "tokenizer.json: model: vocab: '%.100s': expected an id from 0 to %d, found %" PRId64,
             gr_json_key(member), INT32_MAX - 1, id);
    *out = (int32_t)id;
done:
    return st;
}

/* Ids up to the highest; some may belong to no token. */
static grace_status count_tokens(const gr_json *vocab, const gr_added *added, size_t n_added, size_t *n_ids, size_t *n_bytes) {
    grace_status st = GRACE_OK;
    int32_t id;
    int64_t highest = -1;
    *n_bytes = 0;
    for (const gr_json_member *m = gr_json_first(vocab); m; m = gr_json_next(vocab, m)) {
        GR_TRY(read_id(m, &id));
        if (id > highest) highest = id;
        *n_bytes += strlen(gr_json_key(m));
    }
    for (size_t i = 0; i < n_added; i++) {
        if (added[i].id > highest) highest = added[i].id;
        *n_bytes += added[i].n;
    }
    *n_ids = (size_t)highest + 1;
done:
    return st;
}

/* An added token that the model knows keeps the model's id. */
static grace_status add_added(grace_tokenizer *tok, const gr_json *vocab, const gr_added *added) {
    grace_status st = GRACE_OK;
    int64_t id;
    const gr_json *known = gr_json_get(vocab, added->text);
    if (!known) return gr_vocab_add(&tok->vocab, added->text, added->n, added->id, true);
    GR_CHECK(gr_json_is_int(known, &id) && id == added->id, GRACE_ERR_FORMAT,
             "tokenizer.json: added token '%.100s': expected the id of the vocabulary, found %d", added->text, (int)added->id);
done:
    return st;
}

static grace_status build_vocab(grace_tokenizer *tok, const gr_json *vocab, const gr_added *added, size_t n_added) {
    grace_status st = GRACE_OK;
    size_t n_ids, n_bytes;
    int32_t id;
    GR_TRY(count_tokens(vocab, added, n_added, &n_ids, &n_bytes));
    GR_TRY(gr_vocab_init(&tok->vocab, tok->arena, n_ids, n_bytes));
    for (const gr_json_member *m = gr_json_first(vocab); m; m = gr_json_next(vocab, m)) {
        GR_TRY(read_id(m, &id));
        GR_TRY(gr_vocab_add(&tok->vocab, gr_json_key(m), strlen(gr_json_key(m)), id, false));
    }
    for (size_t i = 0; i < n_added; i++) GR_TRY(add_added(tok, vocab, &added[i]));
done:
    return st;
}

static grace_status check_length(const grace_tokenizer *tok, const gr_token *token, size_t n) {
    if (n <= GR_TOKEN_BYTES_MAX) return GRACE_OK;
    return gr_fail(GRACE_ERR_LIMIT, "tokenizer.json: token %d has %zu bytes, at most %d are read", (int)(token - tok->vocab.tokens), n, GR_TOKEN_BYTES_MAX);
}

/* What is shown first in a text is made anew whenever a text begins, so here it is only measured. */
static grace_status check_first(const grace_tokenizer *tok, gr_searcher *searcher, const gr_token *token, gr_buf *text) {
    grace_status st = GRACE_OK;
    size_t start = text->n;
    int16_t byte;
    GR_TRY(gr_detokenize_token(tok->detokenizer, searcher, token->text, token->n, true, text, &byte));
    GR_TRY(check_length(tok, token, text->n - start));
    text->n = start;
done:
    return st;
}

/* Byte-level tokens of the model are written in the byte alphabet. An added token stands for its own text, even where all of its letters
 * happen to be in the alphabet (the reference shows "Ã©" as a broken byte). */
static grace_status show_token(const grace_tokenizer *tok, gr_searcher *searcher, const gr_token *token, gr_buf *text, gr_shown *out) {
    grace_status st = GRACE_OK;
    size_t start = text->n;
    GR_TRY(gr_detokenize_token(tok->detokenizer, searcher, token->text, token->n, false, text, &out->byte));
    if (gr_detokenizer_byte_level(tok->detokenizer) && !token->added)
        text->n = start + gr_bytes_of_token(token->text, token->n, text->data + start);
    GR_TRY(check_length(tok, token, text->n - start));
    out->start = start;
    out->n = (uint32_t)(text->n - start);
    if (gr_detokenizer_minds_first(tok->detokenizer)) GR_TRY(check_first(tok, searcher, token, text));
done:
    return st;
}

static grace_status fill_shown(grace_tokenizer *tok) {
    grace_status st = GRACE_OK;
    gr_searcher searcher = {0};
    GR_TRY(gr_searcher_open(&searcher));
    GR_ARENA_ARRAY(tok->arena, tok->shown, tok->vocab.n_tokens);
    for (int32_t id = 0; id < tok->vocab.n_tokens; id++) {
        tok->shown[id].byte = -1;
        if (tok->vocab.tokens[id].text) GR_TRY(show_token(tok, &searcher, &tok->vocab.tokens[id], &tok->shown_text, &tok->shown[id]));
    }
done:
    gr_searcher_close(&searcher);
    return st;
}

/* A token that is searched in normalised text is normalised itself. */
static grace_status normalize_added(grace_tokenizer *tok, gr_added *added) {
    grace_status st = GRACE_OK;
    gr_searcher searcher = {0};
    gr_buf normal = {0};
    char *text;
    if (!tok->normalizer) return st;
    GR_TRY(gr_searcher_open(&searcher));
    GR_TRY(gr_normalize(tok->normalizer, &searcher, added->text, added->n, &normal));
    GR_CHECK(normal.n > 0, GRACE_ERR_UNSUPPORTED, "tokenizer.json: added token '%.100s': nothing is left of it when normalised", added->text);
    GR_ARENA_ARRAY(tok->arena, text, normal.n + 1);
    memcpy(text, normal.data, normal.n);
    added->text = text;
    added->n = normal.n;
done:
    gr_searcher_close(&searcher);
    gr_buf_free(&normal);
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
    for (size_t i = 0; i < n_rest; i++) GR_TRY(normalize_added(tok, &rest[i]));
    if (single_word) GR_TRY(gr_pattern_regex("[\\w\\x{200C}\\x{200D}]", &tok->word));
    GR_TRY(gr_added_build(&tok->added, tok->arena, added, n_now, tok->word));
    GR_TRY(gr_added_build(&tok->added_after, tok->arena, rest, n_rest, tok->word));
done:
    free(rest);
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
    const gr_json *model, *vocab;
    gr_added *added = NULL;
    size_t n_added = 0;
    GR_TRY(check_type(root, "model", "BPE", &model));
    GR_TRY(gr_detokenizer_build(gr_json_get(root, "decoder"), &tok->detokenizer));
    GR_TRY(gr_normalizer_build(gr_json_get(root, "normalizer"), &tok->normalizer));
    GR_TRY(gr_pretokenizer_build(gr_json_get(root, "pre_tokenizer"), &tok->pre));
    GR_CHECK(gr_pretokenizer_byte_level(tok->pre) == gr_detokenizer_byte_level(tok->detokenizer), GRACE_ERR_UNSUPPORTED,
             "tokenizer.json: ByteLevel in only one of pre_tokenizer and decoder is not supported");
    GR_TRY(gr_json_object_in(model, "tokenizer.json: model", "vocab", &vocab));
    GR_TRY(read_added_tokens(root, &added, &n_added));
    GR_TRY(build_vocab(tok, vocab, added, n_added));
    GR_TRY(fill_shown(tok));
    GR_TRY(build_added(tok, added, n_added));
    GR_TRY(gr_bpe_init(&tok->bpe, tok->arena, model, &tok->vocab, gr_pretokenizer_byte_level(tok->pre)));
    GR_TRY(gr_wrapping_read(&tok->wrapping, gr_json_get(root, "post_processor"), tok->vocab.n_tokens));
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

/* tokenizer_config.json is there in every released folder; without it the post-processor has the last word. */
static grace_status read_config(grace_tokenizer *tok, const char *dir) {
    grace_status st = GRACE_OK;
    gr_json *config = NULL;
    char path[PATH_MAX];
    GR_TRY(gr_path_join(path, sizeof path, dir, "tokenizer_config.json"));
    if (access(path, F_OK) != 0) return st;
    GR_TRY(gr_json_load(path, &config));
    GR_TRY(gr_wrapping_configure(&tok->wrapping, config, &tok->vocab));
done:
    gr_json_free(config);
    return st;
}

grace_status grace_tokenizer_open(const char *dir, grace_tokenizer **out) {
    grace_status st = GRACE_OK;
    gr_file file = {0};
    grace_tokenizer *tok = NULL;
    char path[PATH_MAX];
    GR_TRY(gr_path_join(path, sizeof path, dir, "tokenizer.json"));
    GR_TRY(gr_file_map(path, &file));
    st = gr_tokenizer_parse(file.data, file.n, &tok);
    if (!st) st = read_config(tok, dir);
    if (st) gr_fail_in(st, "%s", dir);
    if (st) goto done;
    *out = tok;
    tok = NULL;
done:
    grace_tokenizer_close(tok);
    gr_file_unmap(&file);
    return st;
}

void grace_tokenizer_close(grace_tokenizer *tok) {
    if (!tok) return;
    gr_normalizer_free(tok->normalizer);
    gr_pretokenizer_free(tok->pre);
    gr_detokenizer_free(tok->detokenizer);
    gr_pattern_free(tok->word);
    gr_wrapping_free(&tok->wrapping);
    gr_buf_free(&tok->shown_text);
    gr_arena_free(tok->arena);
    free(tok);
}
