#include "text/detokenize.h"

#include <stdio.h>
#include <string.h>

#include "text/pretokenize.h"
#include "text/unicode.h"

enum {
    DEPTH_MAX = 8, STAGES_MAX = 64, STRIP_MAX = 1 << 20,
    GROWN_MAX = 1 << 16,            /* bytes that a stage may make of a token: what it shows in the end is at most GR_TOKEN_BYTES_MAX */
};

typedef enum kind { REPLACE, STRIP, METASPACE } kind;

typedef struct stage {
    kind kind;
    gr_pattern *pattern;            /* REPLACE */
    char *content;                  /* REPLACE: malloc'ed */
    gr_metaspace mark;              /* METASPACE; STRIP: mark.text is the character */
    int32_t start, stop;            /* STRIP: how many of it at most, at either end */
} stage;

struct gr_detokenizer {
    stage *stages;                  /* [n_stages] of single tokens */
    size_t n_stages;
    bool byte_level, fallback, fused, stripped;
    stage strip;                    /* of the whole text, when stripped */
};

/* ---- loading ---- */

static grace_status read_replace(const gr_json *json, stage *s) {
    static const char where[] = "tokenizer.json: decoder Replace";
    grace_status st = GRACE_OK;
    const char *content;
    GR_TRY(gr_json_string(json, where, "content", &content));
    s->content = strdup(content);
    GR_CHECK(s->content, GRACE_ERR_MEMORY, "no memory for %zu bytes", strlen(content));
    GR_TRY(gr_pattern_read(json, where, &s->pattern));
done:
    return st;
}

static grace_status read_strip(const gr_json *json, stage *s) {
    static const char where[] = "tokenizer.json: decoder Strip";
    grace_status st = GRACE_OK;
    const char *content;
    uint32_t cp;
    int64_t start, stop;
    GR_TRY(gr_json_string(json, where, "content", &content));
    int n = gr_utf8_step(content, strlen(content) + 1, &cp);
    GR_CHECK(content[0] && content[n] == 0, GRACE_ERR_FORMAT, "%s: 'content': expected one character, found '%.100s'", where, content);
    snprintf(s->mark.text, sizeof s->mark.text, "%s", content);
    GR_TRY(gr_json_int_or(json, where, "start", 0, STRIP_MAX, 0, &start));
    GR_TRY(gr_json_int_or(json, where, "stop", 0, STRIP_MAX, 0, &stop));
    s->start = (int32_t)start;
    s->stop = (int32_t)stop;
done:
    return st;
}

static void free_stage(stage *s) {
    gr_pattern_free(s->pattern);
    free(s->content);
}

static grace_status add_stage(gr_detokenizer *d, stage *s) {
    grace_status st = GRACE_OK;
    GR_CHECK(d->n_stages < STAGES_MAX, GRACE_ERR_LIMIT, "tokenizer.json: decoder: more than %d in sequence", STAGES_MAX);
    stage *stages = realloc(d->stages, (d->n_stages + 1) * sizeof *stages);
    GR_CHECK(stages, GRACE_ERR_MEMORY, "no memory for %zu decoders", d->n_stages + 1);
    d->stages = stages;
    d->stages[d->n_stages++] = *s;
    *s = (stage){0};
done:
    return st;
}

static grace_status read_token_stage(gr_detokenizer *d, const gr_json *json, const char *type) {
    grace_status st = GRACE_OK;
    stage s = {.kind = !strcmp(type, "Replace") ? REPLACE : !strcmp(type, "Strip") ? STRIP : METASPACE};
    switch (s.kind) {
    case REPLACE: GR_TRY(read_replace(json, &s)); break;
    case STRIP: GR_TRY(read_strip(json, &s)); break;
    case METASPACE: GR_TRY(gr_metaspace_read(json, "tokenizer.json: decoder Metaspace", &s.mark)); break;
    }
    if (!d->fused) GR_TRY(add_stage(d, &s));
    else d->strip = s, d->stripped = true, s = (stage){0};
done:
    free_stage(&s);
    return st;
}

/* What may stand where: the text is put together from left to right and shown as it grows, so nothing may look at its end. */
static grace_status read_part(gr_detokenizer *d, const gr_json *json, const char *type) {
    static const char where[] = "tokenizer.json: decoder";
    grace_status st = GRACE_OK;
    bool strip = !strcmp(type, "Strip");
    GR_CHECK(!d->byte_level && !d->stripped, GRACE_ERR_UNSUPPORTED, "%s: '%.100s' after %s is not supported", where, type, d->stripped ? "Strip" : "ByteLevel");
    if (!strcmp(type, "ByteLevel")) {
        GR_CHECK(!d->n_stages && !d->fallback && !d->fused, GRACE_ERR_UNSUPPORTED, "%s: ByteLevel after another decoder is not supported", where);
        d->byte_level = true;
    } else if (!strcmp(type, "Fuse")) {
        d->fused = true;
    } else if (!strcmp(type, "ByteFallback")) {
        GR_CHECK(!d->fused, GRACE_ERR_UNSUPPORTED, "%s: ByteFallback after Fuse is not supported", where);
        d->fallback = true;
    } else {
        GR_CHECK(strip || !strcmp(type, "Replace") || !strcmp(type, "Metaspace"), GRACE_ERR_UNSUPPORTED, "%s: type '%.100s' is not supported (Sequence, "
                 "ByteLevel, Replace, Metaspace, Strip, ByteFallback, Fuse are)", where, type);
        GR_CHECK(d->fused ? strip : !d->fallback, GRACE_ERR_UNSUPPORTED, "%s: '%.100s' after %s is not supported", where, type,
                 d->fused ? "Fuse" : "ByteFallback");
        GR_TRY(read_token_stage(d, json, type));
        GR_CHECK(!d->stripped || d->strip.stop == 0, GRACE_ERR_UNSUPPORTED, "%s: Strip after Fuse with stop %d is not supported, 0 is", where,
                 (int)d->strip.stop);
    }
done:
    return st;
}

static grace_status read_any(gr_detokenizer *d, const gr_json *json, int depth) {
    static const char where[] = "tokenizer.json: decoder";
    grace_status st = GRACE_OK;
    const char *type;
    const gr_json *parts;
    GR_CHECK(depth < DEPTH_MAX, GRACE_ERR_LIMIT, "%s: sequences nested %d deep, at most %d are read", where, depth + 1, DEPTH_MAX);
    GR_TRY(gr_json_string(json, where, "type", &type));
    if (strcmp(type, "Sequence") != 0) return read_part(d, json, type);
    GR_TRY(gr_json_array(json, where, "decoders", &parts));
    for (size_t i = 0; i < gr_json_length(parts); i++) GR_TRY(read_any(d, gr_json_at(parts, i), depth + 1));
done:
    return st;
}

grace_status gr_detokenizer_build(const gr_json *json, gr_detokenizer **out) {
    grace_status st = GRACE_OK;
    gr_detokenizer *d = NULL;
    GR_CHECK(gr_json_kind_of(json) != GR_JSON_NULL, GRACE_ERR_UNSUPPORTED, "tokenizer.json: 'decoder': null is not supported");
    GR_CALLOC(d, 1);
    GR_TRY(read_any(d, json, 0));
    *out = d;
    d = NULL;
done:
    gr_detokenizer_free(d);
    return st;
}

void gr_detokenizer_free(gr_detokenizer *d) {
    if (!d) return;
    for (size_t i = 0; i < d->n_stages; i++) free_stage(&d->stages[i]);
    free(d->stages);
    free(d);
}

bool gr_detokenizer_byte_level(const gr_detokenizer *d) { return d->byte_level; }

bool gr_detokenizer_minds_first(const gr_detokenizer *d) {
    for (size_t i = 0; i < d->n_stages; i++)
        if (d->stages[i].kind == METASPACE && d->stages[i].mark.prepend != GR_PREPEND_NEVER) return true;
    return false;
}

/* ---- one token ---- */

static size_t count_at_start(const char *mark, const char *text, size_t n, int32_t max) {
    size_t n_mark = strlen(mark), at = 0;
    for (int32_t i = 0; i < max && n - at >= n_mark && !memcmp(text + at, mark, n_mark); i++) at += n_mark;
    return at;
}

static size_t count_at_end(const char *mark, const char *text, size_t n, int32_t max) {
    size_t n_mark = strlen(mark), at = n;
    for (int32_t i = 0; i < max && at >= n_mark && !memcmp(text + at - n_mark, mark, n_mark); i++) at -= n_mark;
    return n - at;
}

static grace_status strip_token(const stage *s, const char *text, size_t n, gr_buf *out) {
    size_t start = count_at_start(s->mark.text, text, n, s->start);
    size_t end = n - count_at_end(s->mark.text, text, n, s->stop);
    return gr_buf_append(out, text + start, start < end ? end - start : 0);
}

/* A first token loses its marks, the others show them as spaces. */
static grace_status unmark(const gr_metaspace *mark, const char *text, size_t n, bool first, gr_buf *out) {
    grace_status st = gr_buf_append(out, "", 0);
    size_t n_mark = strlen(mark->text);
    for (size_t at = 0, end; !st && at < n; at = end) {
        end = gr_char_after(text, n, at);
        bool is_mark = end - at == n_mark && !memcmp(text + at, mark->text, n_mark);
        if (!is_mark) st = gr_buf_append(out, text + at, end - at);
        else if (!first || mark->prepend == GR_PREPEND_NEVER) st = gr_buf_append(out, " ", 1);
    }
    return st;
}

static int16_t byte_of_fallback(const char *text, size_t n) {
    static const char digits[] = "0123456789ABCDEFabcdef";
    if (n != 6 || memcmp(text, "<0x", 3) != 0 || text[5] != '>') return -1;
    const char *high = memchr(digits, text[3], sizeof digits - 1), *low = memchr(digits, text[4], sizeof digits - 1);
    return high && low ? (int16_t)strtol((char[3]){text[3], text[4], 0}, NULL, 16) : -1;
}

grace_status gr_detokenize_token(const gr_detokenizer *d, gr_searcher *searcher, const char *text, size_t n, bool first, gr_buf *out, int16_t *byte) {
    grace_status st = GRACE_OK;
    gr_buf texts[2] = {{0}, {0}};
    for (size_t i = 0; i < d->n_stages; i++) {
        const stage *s = &d->stages[i];
        gr_buf *next = &texts[i % 2];
        next->n = 0;
        switch (s->kind) {
        case REPLACE: GR_TRY(gr_pattern_replace(s->pattern, searcher, text, n, s->content, GROWN_MAX, next)); break;
        case STRIP: GR_TRY(strip_token(s, text, n, next)); break;
        case METASPACE: GR_TRY(unmark(&s->mark, text, n, first, next)); break;
        }
        text = next->data;
        n = next->n;
    }
    *byte = d->fallback ? byte_of_fallback(text, n) : (int16_t)-1;
    GR_TRY(gr_buf_append(out, text, n));
done:
    gr_buf_free(&texts[0]);
    gr_buf_free(&texts[1]);
    return st;
}

size_t gr_detokenize_strip(const gr_detokenizer *d, const char *text, size_t n, int32_t *n_stripped) {
    if (!d->stripped || *n_stripped >= d->strip.start || n == 0) return 0;
    size_t taken = count_at_start(d->strip.mark.text, text, n, d->strip.start - *n_stripped);
    *n_stripped = taken == n ? *n_stripped + (int32_t)(taken / strlen(d->strip.mark.text)) : d->strip.start;
    return taken;
}
