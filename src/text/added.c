#include "text/added.h"

#include <string.h>

#include "text/unicode.h"

/* Of tokens that became one text by normalisation the special one counts, then the one with the lower id. */
static int by_bytes(const void *a, const void *b) {
    const gr_added *left = a, *right = b;
    int order = memcmp(left->text, right->text, left->n < right->n ? left->n : right->n);
    if (!order) order = (left->n > right->n) - (left->n < right->n);
    if (!order) order = right->special - left->special;
    return order ? order : (left->id > right->id) - (left->id < right->id);
}

static bool same_text(const gr_added *a, const gr_added *b) { return a->n == b->n && !memcmp(a->text, b->text, a->n); }

grace_status gr_added_build(gr_added_set *set, gr_arena *arena, const gr_added *tokens, size_t n, const gr_pattern *word) {
    grace_status st = GRACE_OK;
    GR_ARENA_ARRAY(arena, set->tokens, n);
    set->n_tokens = 0;
    set->word = word;
    if (n) memcpy(set->tokens, tokens, n * sizeof *tokens);
    qsort(set->tokens, n, sizeof *tokens, by_bytes);
    for (size_t i = 0; i < n; i++)
        if (i == 0 || !same_text(&set->tokens[i], &set->tokens[set->n_tokens - 1])) set->tokens[set->n_tokens++] = set->tokens[i];
    for (size_t i = 0; i < n; i++) set->first[(uint8_t)tokens[i].text[0]] = true;
done:
    return st;
}

/* First of tokens [low, high), which agree in depth bytes and are longer, whose next byte is at least byte. */
static size_t first_at_least(const gr_added *tokens, size_t low, size_t high, size_t depth, unsigned byte) {
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if ((uint8_t)tokens[middle].text[depth] < byte)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* The longest token that text [n] begins with: the range of tokens that agree with the text narrows byte by byte. */
static const gr_added *longest_at(const gr_added_set *set, const char *text, size_t n) {
    const gr_added *best = NULL;
    size_t low = 0, high = set->n_tokens;
    for (size_t depth = 0; depth < n && low < high; depth++) {
        unsigned byte = (uint8_t)text[depth];
        low = first_at_least(set->tokens, low, high, depth, byte);
        high = first_at_least(set->tokens, low, high, depth, byte + 1);
        if (low < high && set->tokens[low].n == depth + 1) best = &set->tokens[low++];
    }
    return best;
}

static const gr_added *next_token(const gr_added_set *set, const char *text, size_t n, size_t *at) {
    for (; *at < n; ++*at) {
        const gr_added *token = set->first[(uint8_t)text[*at]] ? longest_at(set, text + *at, n - *at) : NULL;
        if (token) return token;
    }
    return NULL;
}

/* ---- what may stand beside a token ---- */

static grace_status is_alone(const gr_added_set *set, gr_searcher *searcher, const char *text, size_t n, size_t start, size_t end, bool *alone) {
    grace_status st = GRACE_OK;
    bool left = false, right = false;
    size_t s, e;
    if (start > 0) {
        size_t before = gr_char_before(text, start);
        GR_TRY(gr_pattern_find(set->word, searcher, text + before, start - before, 0, &left, &s, &e));
    }
    if (end < n) GR_TRY(gr_pattern_find(set->word, searcher, text + end, gr_char_after(text, n, end) - end, 0, &right, &s, &e));
    *alone = !left && !right;
done:
    return st;
}

/* ---- segments ---- */

grace_status gr_segments_push(gr_segments *segments, gr_segment segment) {
    grace_status st = GRACE_OK;
    GR_RESERVE(segments->data, segments->n + 1, segments->capacity);
    segments->data[segments->n++] = segment;
done:
    return st;
}

/* The search goes on behind the token itself, not behind the white space it swallowed: as in the reference, a token that is white
 * space is found there. */
grace_status gr_added_split(const gr_added_set *set, gr_searcher *searcher, const char *text, size_t start, size_t end, gr_segments *out) {
    grace_status st = GRACE_OK;
    const char *at_start = text + start;
    size_t n = end - start, at = 0, covered = 0, blank = 0;      /* up to blank all is known to be white space, so it is walked over once */
    for (const gr_added *token; (token = next_token(set, at_start, n, &at));) {
        size_t from = at, to = at + token->n;
        bool alone = true;
        at = to;
        if (token->single_word) GR_TRY(is_alone(set, searcher, at_start, n, from, to, &alone));
        if (!alone) continue;
        if (token->lstrip) from = from < covered ? covered : covered + gr_spaces_before(at_start + covered, from - covered);
        if (token->rstrip) to = blank = to < blank ? blank : gr_spaces_after(at_start, n, to);
        if (covered < from) GR_TRY(gr_segments_push(out, (gr_segment){start + covered, start + from, -1}));
        GR_TRY(gr_segments_push(out, (gr_segment){start + from, start + to, token->id}));
        covered = to;
    }
    if (covered < n) GR_TRY(gr_segments_push(out, (gr_segment){start + covered, end, -1}));
done:
    return st;
}
