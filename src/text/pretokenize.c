#include "text/pretokenize.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/unicode.h"

enum { DEPTH_MAX = 8, STAGES_MAX = 64 };

/* Which of match and gap join which; what invert swaps is the meaning of match. */
typedef enum behavior { ISOLATED, REMOVED, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT, CONTIGUOUS } behavior;

typedef struct stage {
    gr_pattern *pattern;            /* NULL: the stage writes the mark over spaces and before pieces */
    behavior behavior;
    bool invert;
    gr_metaspace mark;
} stage;

struct gr_pretokenizer {
    stage *stages;                  /* [n_stages] */
    size_t n_stages;
    bool byte_level;                /* the model sees bytes, not characters */
};

/* \w of Rust's regex crate, which the reference uses for these two */
#define WORD "\\w\\x{200C}\\x{200D}"
static const char word_regex[] = "[" WORD "]+|[^" WORD "\\s]+";
/* Punctuation of the reference is ASCII's and that of Unicode 8: what is younger is none, and two characters still are. */
#define NEWER_PUNCTUATION \
    "\\x{61D}\\x{9FD}\\x{A76}\\x{C77}\\x{C84}\\x{1B4E}-\\x{1B4F}\\x{1B7D}-\\x{1B7F}\\x{2E43}-\\x{2E4F}\\x{2E52}-\\x{2E5D}" \
    "\\x{10D6E}\\x{10EAD}\\x{10F55}-\\x{10F59}\\x{10F86}-\\x{10F89}\\x{113D4}-\\x{113D5}\\x{113D7}-\\x{113D8}" \
    "\\x{1144B}-\\x{1144F}\\x{1145A}-\\x{1145B}\\x{1145D}\\x{11660}-\\x{1166C}\\x{116B9}\\x{1183B}\\x{11944}-\\x{11946}" \
    "\\x{119E2}\\x{11A3F}-\\x{11A46}\\x{11A9A}-\\x{11A9C}\\x{11A9E}-\\x{11AA2}\\x{11B00}-\\x{11B09}\\x{11BE1}" \
    "\\x{11C41}-\\x{11C45}\\x{11C70}-\\x{11C71}\\x{11EF7}-\\x{11EF8}\\x{11F43}-\\x{11F4F}\\x{11FFF}\\x{12FF1}-\\x{12FF2}" \
    "\\x{16D6D}-\\x{16D6F}\\x{16E97}-\\x{16E9A}\\x{16FE2}\\x{1E5FF}\\x{1E95E}-\\x{1E95F}"
static const char punctuation_regex[] = "[!-/:-@\\[-`{-~\\x{166D}\\x{111C9}]|(?![" NEWER_PUNCTUATION "])\\p{P}";
static const char digits_regex[] = "[\\p{N}\\x{11DE0}-\\x{11DE9}\\x{16FF4}-\\x{16FF6}]";       /* of Unicode 17, unlike \p{N} of patterns */
static const char gpt2_regex[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* ---- loading ---- */

static grace_status add_stage(gr_pretokenizer *pre, stage added) {
    grace_status st = GRACE_OK;
    GR_CHECK(pre->n_stages < STAGES_MAX, GRACE_ERR_LIMIT, "tokenizer.json: pre_tokenizer: more than %d in sequence", STAGES_MAX);
    stage *stages = realloc(pre->stages, (pre->n_stages + 1) * sizeof *stages);
    GR_CHECK(stages, GRACE_ERR_MEMORY, "no memory for %zu pre-tokenizers", pre->n_stages + 1);
    pre->stages = stages;
    pre->stages[pre->n_stages++] = added;
done:
    return st;
}

/* Takes the pattern, also on failure. */
static grace_status add_split(gr_pretokenizer *pre, gr_pattern *pattern, behavior how, bool invert) {
    grace_status st = add_stage(pre, (stage){.pattern = pattern, .behavior = how, .invert = invert});
    if (st) gr_pattern_free(pattern);
    return st;
}

static grace_status add_regex(gr_pretokenizer *pre, const char *regex, behavior how, bool invert) {
    gr_pattern *pattern;
    grace_status st = gr_pattern_regex(regex, &pattern);
    return st ? st : add_split(pre, pattern, how, invert);
}

static grace_status add_literal(gr_pretokenizer *pre, const char *text, behavior how) {
    gr_pattern *pattern;
    grace_status st = gr_pattern_literal(text, &pattern);
    return st ? st : add_split(pre, pattern, how, false);
}

static grace_status read_behavior(const gr_json *json, const char *where, const char *fallback, behavior *out) {
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *name;
    grace_status st = fallback ? gr_json_string_or(json, where, "behavior", fallback, &name) : gr_json_string(json, where, "behavior", &name);
    if (st) return st;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        *out = (behavior)i;
        if (!strcmp(names[i], name)) return GRACE_OK;
    }
    return gr_fail(GRACE_ERR_UNSUPPORTED, "%s: behavior '%s' is not supported (Isolated, Removed, MergedWithPrevious, MergedWithNext, Contiguous are)",
                   where, name);
}

static grace_status read_split(gr_pretokenizer *pre, const gr_json *json) {
    static const char where[] = "tokenizer.json: pre_tokenizer Split";
    grace_status st = GRACE_OK;
    gr_pattern *pattern;
    behavior how;
    bool invert;
    GR_TRY(read_behavior(json, where, NULL, &how));
    GR_TRY(gr_json_bool_or(json, where, "invert", false, &invert));
    GR_TRY(gr_pattern_read(json, where, &pattern));
    GR_TRY(add_split(pre, pattern, how, invert));
done:
    return st;
}

static grace_status read_digits(gr_pretokenizer *pre, const gr_json *json) {
    bool individual;
    grace_status st = gr_json_bool_or(json, "tokenizer.json: pre_tokenizer Digits", "individual_digits", false, &individual);
    return st ? st : add_regex(pre, digits_regex, individual ? ISOLATED : CONTIGUOUS, false);
}

static grace_status read_punctuation(gr_pretokenizer *pre, const gr_json *json) {
    behavior how;
    grace_status st = read_behavior(json, "tokenizer.json: pre_tokenizer Punctuation", "Isolated", &how);
    return st ? st : add_regex(pre, punctuation_regex, how, false);
}

static grace_status read_scheme(const gr_json *json, const char *where, gr_prepend *out) {
    static const char *const names[] = {"never", "always", "first"};
    const char *name;
    bool legacy;
    grace_status st = gr_json_bool_or(json, where, "add_prefix_space", true, &legacy);
    if (!st) st = gr_json_string_or(json, where, "prepend_scheme", legacy ? "always" : "never", &name);
    if (st) return st;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        *out = (gr_prepend)i;
        if (!strcmp(names[i], name)) return GRACE_OK;
    }
    return gr_fail(GRACE_ERR_UNSUPPORTED, "%s: prepend_scheme '%.100s' is not supported (never, always, first are)", where, name);
}

grace_status gr_metaspace_read(const gr_json *json, const char *where, gr_metaspace *out) {
    grace_status st = GRACE_OK;
    const char *mark = NULL;
    uint32_t cp;
    GR_TRY(gr_json_string_or(json, where, "replacement", "\xE2\x96\x81", &mark));
    int n = gr_utf8_step(mark, strlen(mark) + 1, &cp);
    GR_CHECK(mark[0] && mark[n] == 0, GRACE_ERR_FORMAT, "%s: 'replacement': expected one character, found '%.100s'", where, mark);
    snprintf(out->text, sizeof out->text, "%s", mark);
    GR_TRY(gr_json_bool_or(json, where, "split", true, &out->split));
    GR_TRY(read_scheme(json, where, &out->prepend));
done:
    return st;
}

static grace_status read_metaspace(gr_pretokenizer *pre, const gr_json *json) {
    grace_status st = GRACE_OK;
    gr_metaspace mark = {0};
    GR_TRY(gr_metaspace_read(json, "tokenizer.json: pre_tokenizer Metaspace", &mark));
    GR_TRY(add_stage(pre, (stage){.mark = mark}));
    if (mark.split) GR_TRY(add_literal(pre, mark.text, MERGED_WITH_NEXT));
done:
    return st;
}

static grace_status read_byte_level(gr_pretokenizer *pre, const gr_json *json) {
    static const char where[] = "tokenizer.json: pre_tokenizer ByteLevel";
    grace_status st = GRACE_OK;
    bool prefix, use_regex;
    GR_TRY(gr_json_bool_or(json, where, "add_prefix_space", true, &prefix));
    GR_TRY(gr_json_bool_or(json, where, "use_regex", true, &use_regex));
    if (prefix) GR_TRY(add_stage(pre, (stage){.mark = {" ", GR_PREPEND_ALWAYS, false}}));
    if (use_regex) GR_TRY(add_regex(pre, gpt2_regex, ISOLATED, false));
    pre->byte_level = true;
done:
    return st;
}

static grace_status read_stage(gr_pretokenizer *pre, const gr_json *json, int depth) {
    static const char where[] = "tokenizer.json: pre_tokenizer";
    grace_status st = GRACE_OK;
    const char *type;
    const gr_json *parts;
    GR_CHECK(depth < DEPTH_MAX, GRACE_ERR_LIMIT, "%s: sequences nested %d deep, at most %d are read", where, depth + 1, DEPTH_MAX);
    GR_TRY(gr_json_string(json, where, "type", &type));
    if (!strcmp(type, "Sequence")) {
        GR_TRY(gr_json_array(json, where, "pretokenizers", &parts));
        for (size_t i = 0; i < gr_json_length(parts); i++) GR_TRY(read_stage(pre, gr_json_at(parts, i), depth + 1));
        return st;
    }
    GR_CHECK(!pre->byte_level, GRACE_ERR_UNSUPPORTED, "%s: '%s' after ByteLevel is not supported: ByteLevel must be the last", where, type);
    if (!strcmp(type, "Split")) return read_split(pre, json);
    if (!strcmp(type, "Digits")) return read_digits(pre, json);
    if (!strcmp(type, "ByteLevel")) return read_byte_level(pre, json);
    if (!strcmp(type, "Metaspace")) return read_metaspace(pre, json);
    if (!strcmp(type, "Punctuation")) return read_punctuation(pre, json);
    if (!strcmp(type, "Whitespace")) return add_regex(pre, word_regex, REMOVED, true);
    if (!strcmp(type, "WhitespaceSplit")) return add_regex(pre, "\\s", REMOVED, false);
    GR_CHECK(false, GRACE_ERR_UNSUPPORTED, "%s: type '%.100s' is not supported (Sequence, Split, Digits, Punctuation, Whitespace, WhitespaceSplit, "
             "Metaspace, ByteLevel are)", where, type);
done:
    return st;
}

grace_status gr_pretokenizer_build(const gr_json *json, gr_pretokenizer **out) {
    grace_status st = GRACE_OK;
    gr_pretokenizer *pre = NULL;
    GR_CALLOC(pre, 1);
    if (gr_json_kind_of(json) != GR_JSON_NULL) GR_TRY(read_stage(pre, json, 0));
    *out = pre;
    pre = NULL;
done:
    gr_pretokenizer_free(pre);
    return st;
}

void gr_pretokenizer_free(gr_pretokenizer *pre) {
    if (!pre) return;
    for (size_t i = 0; i < pre->n_stages; i++) gr_pattern_free(pre->stages[i].pattern);
    free(pre->stages);
    free(pre);
}

bool gr_pretokenizer_byte_level(const gr_pretokenizer *pre) { return pre->byte_level; }

/* ---- splitting ---- */

void gr_pieces_free(gr_pieces *pieces) {
    gr_buf_free(&pieces->own);
    free(pieces->spans);
    free(pieces->next);
    *pieces = (gr_pieces){0};
}

static grace_status push(gr_pieces *pieces, gr_span span) {
    grace_status st = GRACE_OK;
    GR_RESERVE(pieces->next, pieces->n_next + 1, pieces->next_capacity);
    pieces->next[pieces->n_next++] = span;
done:
    return st;
}

static void swap_stages(gr_pieces *pieces) {
    gr_span *spans = pieces->spans;
    size_t capacity = pieces->capacity;
    pieces->spans = pieces->next, pieces->n_spans = pieces->n_next, pieces->capacity = pieces->next_capacity;
    pieces->next = spans, pieces->n_next = 0, pieces->next_capacity = capacity;
}

static bool joins_last(behavior how, bool is_match, bool was_match) {
    switch (how) {
    case MERGED_WITH_PREVIOUS: return is_match && !was_match;
    case MERGED_WITH_NEXT: return !is_match && was_match;
    case CONTIGUOUS: return is_match == was_match;
    default: return false;
    }
}

/* Matches and gaps of one span arrive in order; the ones of this span begin at next[first]. */
typedef struct cutting { gr_pieces *pieces; const stage *stage; size_t first; bool was_match; } cutting;

static grace_status cut(cutting *c, gr_span span, bool is_match) {
    gr_pieces *pieces = c->pieces;
    is_match ^= c->stage->invert;
    bool join = pieces->n_next > c->first && joins_last(c->stage->behavior, is_match, c->was_match);
    c->was_match = is_match;
    if (c->stage->behavior == REMOVED && is_match) return GRACE_OK;
    if (!join) return push(pieces, span);
    pieces->next[pieces->n_next - 1].end = span.end;
    return GRACE_OK;
}

static void drop_empty(gr_pieces *pieces, size_t first) {
    size_t kept = first;
    for (size_t i = first; i < pieces->n_next; i++)
        if (pieces->next[i].start < pieces->next[i].end) pieces->next[kept++] = pieces->next[i];
    pieces->n_next = kept;
}

static grace_status split_span(const stage *s, gr_searcher *searcher, gr_pieces *pieces, gr_span span) {
    grace_status st = GRACE_OK;
    size_t n = span.end - span.start, last = 0, start, end;
    gr_matches matches = gr_matches_of(s->pattern, pieces->text + span.start, n);
    cutting c = {pieces, s, pieces->n_next, false};
    bool found;
    for (;;) {
        GR_TRY(gr_matches_next(&matches, searcher, &found, &start, &end));
        if (!found) break;
        if (last < start) GR_TRY(cut(&c, (gr_span){span.start + last, span.start + start}, false));
        GR_TRY(cut(&c, (gr_span){span.start + start, span.start + end}, true));
        last = end;
    }
    if (last < n) GR_TRY(cut(&c, (gr_span){span.start + last, span.end}, false));
    drop_empty(pieces, c.first);
done:
    return st;
}

/* One piece with the mark in place of each space, and in front if asked for. */
static grace_status write_marked(gr_buf *out, const gr_metaspace *mark, const char *text, size_t n, bool prepend) {
    grace_status st = GRACE_OK;
    size_t n_mark = strlen(mark->text);
    if (prepend && text[0] != ' ' && (n < n_mark || memcmp(text, mark->text, n_mark) != 0)) GR_TRY(gr_buf_append(out, mark->text, n_mark));
    for (const char *end = text + n, *space; text < end; text = space + 1) {
        space = memchr(text, ' ', (size_t)(end - text));
        GR_TRY(gr_buf_append(out, text, (size_t)((space ? space : end) - text)));
        if (!space) break;
        GR_TRY(gr_buf_append(out, mark->text, n_mark));
    }
done:
    return st;
}

/* The pieces move to a text of their own. */
static grace_status put_marks(const gr_metaspace *mark, gr_pieces *pieces, bool at_start) {
    grace_status st = GRACE_OK;
    gr_buf text = {0};
    for (size_t i = 0; i < pieces->n_spans; i++) {
        gr_span *span = &pieces->spans[i];
        size_t start = text.n;
        bool prepend = mark->prepend == GR_PREPEND_ALWAYS || (mark->prepend == GR_PREPEND_FIRST && at_start && span->start == 0);
        GR_TRY(write_marked(&text, mark, pieces->text + span->start, span->end - span->start, prepend));
        *span = (gr_span){start, text.n};
    }
    gr_buf_free(&pieces->own);
    pieces->own = text;
    pieces->text = text.data;
    text = (gr_buf){0};
done:
    gr_buf_free(&text);
    return st;
}

grace_status gr_pretokenize(const gr_pretokenizer *pre, gr_searcher *searcher, const char *text, size_t n, bool at_start, gr_pieces *pieces) {
    grace_status st = GRACE_OK;
    pieces->text = text;
    pieces->n_spans = pieces->n_next = 0;
    if (n == 0) return st;
    GR_TRY(push(pieces, (gr_span){0, n}));
    swap_stages(pieces);
    for (size_t i = 0; i < pre->n_stages; i++) {
        const stage *s = &pre->stages[i];
        if (!s->pattern) {
            GR_TRY(put_marks(&s->mark, pieces, at_start));
            continue;
        }
        for (size_t k = 0; k < pieces->n_spans; k++) GR_TRY(split_span(s, searcher, pieces, pieces->spans[k]));
        swap_stages(pieces);
    }
done:
    return st;
}
