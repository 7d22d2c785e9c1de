#include "text/pretokenize.h"

#include <stdlib.h>
#include <string.h>

#include "text/unicode.h"

enum { DEPTH_MAX = 8 };

/* Which of match and gap join which; what invert swaps is the meaning of match. */
typedef enum behavior { ISOLATED, REMOVED, MERGED_WITH_PREVIOUS, MERGED_WITH_NEXT, CONTIGUOUS } behavior;

typedef struct stage {
    gr_pattern *pattern;            /* NULL: the stage puts a space before every piece that has none */
    behavior behavior;
    bool invert;
} stage;

struct gr_pretokenizer {
    stage *stages;                  /* [n_stages] */
    size_t n_stages;
    bool byte_level;                /* the last one must be, or the model would see characters instead of bytes */
};

static const char gpt2_regex[] = "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+";

/* ---- loading ---- */

static grace_status add_stage(gr_pretokenizer *pre, stage added) {
    grace_status st = GRACE_OK;
    stage *stages = realloc(pre->stages, (pre->n_stages + 1) * sizeof *stages);
    GR_CHECK(stages, GRACE_ERR_MEMORY, "no memory for %zu pre-tokenizers", pre->n_stages + 1);
    pre->stages = stages;
    pre->stages[pre->n_stages++] = added;
done:
    return st;
}

static grace_status add_split(gr_pretokenizer *pre, const char *regex, const char *literal, behavior how, bool invert) {
    grace_status st = GRACE_OK;
    gr_pattern *pattern = NULL;
    GR_TRY(regex ? gr_pattern_regex(regex, &pattern) : gr_pattern_literal(literal, &pattern));
    GR_TRY(add_stage(pre, (stage){pattern, how, invert}));
    pattern = NULL;
done:
    gr_pattern_free(pattern);
    return st;
}

static grace_status read_behavior(const gr_json *json, const char *where, behavior *out) {
    static const char *const names[] = {"Isolated", "Removed", "MergedWithPrevious", "MergedWithNext", "Contiguous"};
    const char *name;
    grace_status st = gr_json_string(json, where, "behavior", &name);
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
    const gr_json *pattern;
    const char *regex = NULL, *literal = NULL;
    behavior how;
    bool invert;
    GR_TRY(gr_json_object_in(json, where, "pattern", &pattern));
    GR_TRY(gr_json_string_or(pattern, where, "Regex", NULL, &regex));
    GR_TRY(gr_json_string_or(pattern, where, "String", NULL, &literal));
    GR_CHECK(!regex != !literal, GRACE_ERR_FORMAT, "%s: 'pattern': expected either Regex or String", where);
    GR_TRY(read_behavior(json, where, &how));
    GR_TRY(gr_json_bool_or(json, where, "invert", false, &invert));
    st = add_split(pre, regex, literal, how, invert);
    if (st) gr_fail_in(st, "%s", where);
done:
    return st;
}

static grace_status read_digits(gr_pretokenizer *pre, const gr_json *json) {
    bool individual;
    grace_status st = gr_json_bool_or(json, "tokenizer.json: pre_tokenizer Digits", "individual_digits", false, &individual);
    return st ? st : add_split(pre, "\\p{N}", NULL, individual ? ISOLATED : CONTIGUOUS, false);
}

static grace_status read_byte_level(gr_pretokenizer *pre, const gr_json *json) {
    static const char where[] = "tokenizer.json: pre_tokenizer ByteLevel";
    grace_status st = GRACE_OK;
    bool prefix, use_regex;
    GR_TRY(gr_json_bool_or(json, where, "add_prefix_space", true, &prefix));
    GR_TRY(gr_json_bool_or(json, where, "use_regex", true, &use_regex));
    if (prefix) GR_TRY(add_stage(pre, (stage){NULL, ISOLATED, false}));
    if (use_regex) GR_TRY(add_split(pre, gpt2_regex, NULL, ISOLATED, false));
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
    GR_CHECK(false, GRACE_ERR_UNSUPPORTED, "%s: type '%s' is not supported (Sequence, Split, Digits, ByteLevel are)", where, type);
done:
    return st;
}

grace_status gr_pretokenizer_build(const gr_json *json, gr_pretokenizer **out) {
    grace_status st = GRACE_OK;
    gr_pretokenizer *pre = NULL;
    GR_CALLOC(pre, 1);
    GR_TRY(read_stage(pre, json, 0));
    GR_CHECK(pre->byte_level, GRACE_ERR_UNSUPPORTED, "tokenizer.json: pre_tokenizer without ByteLevel is not supported");
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

/* ---- splitting ---- */

void gr_pieces_free(gr_pieces *pieces) {
    gr_buf_free(&pieces->own);
    free(pieces->spans);
    free(pieces->next);
    *pieces = (gr_pieces){0};
}

static grace_status push(gr_pieces *pieces, gr_span span) {
    grace_status st = GRACE_OK;
    if (pieces->n_next == pieces->next_capacity) {
        size_t capacity = pieces->next_capacity ? 2 * pieces->next_capacity : 64;
        gr_span *grown = realloc(pieces->next, capacity * sizeof *grown);
        GR_CHECK(grown, GRACE_ERR_MEMORY, "no memory for %zu pieces of text", capacity);
        pieces->next = grown;
        pieces->next_capacity = capacity;
    }
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

static size_t char_length(const char *text, size_t n) {
    uint32_t cp;
    return (size_t)gr_utf8_step(text, n, &cp);
}

/* An empty match right after a match is passed over, as Oniguruma's iterator does; elsewhere it counts and cuts. */
static grace_status split_span(const stage *s, gr_searcher *searcher, gr_pieces *pieces, gr_span span) {
    grace_status st = GRACE_OK;
    const char *text = pieces->text + span.start;
    size_t n = span.end - span.start, from = 0, last = 0, start, end;
    cutting c = {pieces, s, pieces->n_next, false};
    bool found, any = false;
    while (from <= n) {
        GR_TRY(gr_pattern_find(s->pattern, searcher, text, n, from, &found, &start, &end));
        if (!found) break;
        if (start == end && any && end == last) {
            from += from < n ? char_length(text + from, n - from) : 1;
            continue;
        }
        if (last < start) GR_TRY(cut(&c, (gr_span){span.start + last, span.start + start}, false));
        GR_TRY(cut(&c, (gr_span){span.start + start, span.start + end}, true));
        from = last = end;
        any = true;
    }
    if (last < n) GR_TRY(cut(&c, (gr_span){span.start + last, span.end}, false));
    drop_empty(pieces, c.first);
done:
    return st;
}

/* The pieces move to a text of their own, each with a space in front. */
static grace_status put_spaces(gr_pieces *pieces) {
    grace_status st = GRACE_OK;
    gr_buf text = {0};
    for (size_t i = 0; i < pieces->n_spans; i++) {
        gr_span *span = &pieces->spans[i];
        size_t start = text.n;
        if (pieces->text[span->start] != ' ') GR_TRY(gr_buf_append(&text, " ", 1));
        GR_TRY(gr_buf_append(&text, pieces->text + span->start, span->end - span->start));
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

grace_status gr_pretokenize(const gr_pretokenizer *pre, gr_searcher *searcher, const char *text, size_t n, gr_pieces *pieces) {
    grace_status st = GRACE_OK;
    pieces->text = text;
    pieces->n_spans = pieces->n_next = 0;
    if (n == 0) return st;
    GR_TRY(push(pieces, (gr_span){0, n}));
    swap_stages(pieces);
    for (size_t i = 0; i < pre->n_stages; i++) {
        if (!pre->stages[i].pattern) {
            GR_TRY(put_spaces(pieces));
            continue;
        }
        for (size_t k = 0; k < pieces->n_spans; k++) GR_TRY(split_span(&pre->stages[i], searcher, pieces, pieces->spans[k]));
        swap_stages(pieces);
    }
done:
    return st;
}
