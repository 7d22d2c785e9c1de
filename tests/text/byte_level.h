/* Small byte-level tokenizers for tests: all 256 bytes have ids 0 .. 255, then come the merged tokens, then the added ones. */
#ifndef TESTS_TEXT_BYTE_LEVEL_H
#define TESTS_TEXT_BYTE_LEVEL_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "text/tokenizer.h"
#include "text/unicode.h"

typedef struct byte_level {
    const char *merges;         /* "a b|ab c": in the byte alphabet; each makes the next id */
    const char *added;          /* members of added_tokens, JSON; their ids start at 256 + merges */
    const char *pre;            /* JSON; NULL: ByteLevel without prefix and regex */
    const char *post;           /* JSON; NULL: null */
    const char *model;          /* further members of model, each ending in a comma; NULL: none */
    const char *root;           /* further members of the file, each ending in a comma; NULL: none */
    int without_byte;           /* > 0: this byte has no token and the ids behind it move down */
    int merges_as_pairs;        /* ["a","b"] instead of "a b" */
} byte_level;

static inline void put_name(gr_buf *out, int byte) {
    char name[4];
    int n = gr_utf8_put(gr_char_of_byte((uint8_t)byte), name);
    gr_buf_printf(out, name[0] == '"' || name[0] == '\\' ? "\\%.*s" : "%.*s", n, name);
}

static inline void put_merge(gr_buf *vocab, gr_buf *merges, const char *merge, size_t n, int id, int as_pair) {
    const char *space = memchr(merge, ' ', n);
    int n_left = (int)(space - merge), n_right = (int)n - n_left - 1;
    gr_buf_printf(vocab, ",\"%.*s%.*s\":%d", n_left, merge, n_right, space + 1, id);
    gr_buf_printf(merges, as_pair ? "%s[\"%.*s\",\"%.*s\"]" : "%s\"%.*s %.*s\"", merges->n ? "," : "", n_left, merge, n_right, space + 1);
}

/* The caller frees with gr_buf_free(). */
static inline gr_buf byte_level_json(const byte_level *spec) {
    gr_buf vocab = {0}, merges = {0}, json = {0};
    int id = 0;
    for (int byte = 0; byte < 256; byte++) {
        if (spec->without_byte > 0 && byte == spec->without_byte) continue;
        gr_buf_printf(&vocab, "%s\"", id ? "," : "");
        put_name(&vocab, byte);
        gr_buf_printf(&vocab, "\":%d", id++);
    }
    gr_buf_append(&merges, "", 0);
    for (const char *merge = spec->merges; merge && *merge;) {
        size_t n = strcspn(merge, "|");
        put_merge(&vocab, &merges, merge, n, id++, spec->merges_as_pairs);
        merge += n + (merge[n] == '|');
    }
    gr_buf_printf(&json, "{%s\"added_tokens\":[%s],\"pre_tokenizer\":%s,\"post_processor\":%s,\"decoder\":{\"type\":\"ByteLevel\"},",
                  spec->root ? spec->root : "", spec->added ? spec->added : "",
                  spec->pre ? spec->pre : "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}", spec->post ? spec->post : "null");
    gr_buf_printf(&json, "\"model\":{%s\"type\":\"BPE\",\"vocab\":{%s},\"merges\":[%s]}}", spec->model ? spec->model : "", vocab.data, merges.data);
    gr_buf_free(&vocab);
    gr_buf_free(&merges);
    return json;
}

/* NULL and grace_last_error() when it does not load. */
static inline grace_tokenizer *byte_level_open(const byte_level *spec) {
    gr_buf json = byte_level_json(spec);
    grace_tokenizer *tok = NULL;
    gr_tokenizer_parse(json.data, json.n, &tok);
    gr_buf_free(&json);
    return tok;
}

/* "12 7 256" of a text; static storage. */
static inline const char *ids_of(const grace_tokenizer *tok, const char *text) {
    static char line[4096];
    int32_t *ids, n_ids;
    size_t n = 0;
    if (grace_tokenizer_encode(tok, text, strlen(text), &ids, &n_ids)) return grace_last_error();
    line[0] = 0;
    for (int32_t i = 0; i < n_ids && n < sizeof line - 16; i++) n += (size_t)sprintf(line + n, "%s%d", i ? " " : "", (int)ids[i]);
    free(ids);
    return line;
}

#endif
