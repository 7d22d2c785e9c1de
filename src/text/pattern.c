#include "text/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "text/unicode.h"

enum {
    STEPS_BASE = 10000,     /* allowed search steps: base + per byte; the published patterns need under four a byte, on runs of spaces */
    STEPS_PER_BYTE = 16,
    HEAP_KIB_MAX = 64 * 1024,
    REGEX_MAX = 16 * 1024,  /* bytes; the published patterns have under 500 */
};

/* Oniguruma's \w in properties; PCRE2's leaves out marks and joiners. */
#define WORD_PROPERTIES "\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}"

struct gr_pattern { pcre2_code *code; };

/* ---- Oniguruma -> PCRE2 ---- */

typedef struct translation { const char *regex, *at; bool in_class; gr_buf out; } translation;

static grace_status put(translation *t, const char *text, size_t n_read) {
    t->at += n_read;
    return gr_buf_append(&t->out, text, strlen(text));
}

static grace_status copy(translation *t, size_t n) {
    grace_status st = gr_buf_append(&t->out, t->at, n);
    t->at += n;
    return st;
}

static grace_status refuse(const char *what, const char *why) {
    return gr_fail(GRACE_ERR_UNSUPPORTED, "'%s' in a pattern is not supported: %s", what, why);
}

/* \p{...} is copied whole, so that a brace met elsewhere closes an interval. */
static size_t escape_length(const char *p) {
    if (!p[1]) return 1;
    const char *close = strchr("pPxok", p[1]) && p[2] == '{' ? strchr(p, '}') : NULL;
    return close ? (size_t)(close - p) + 1 : 2;
}

#define NEWER_DIGITS "\\x{10D40}-\\x{10D49}\\x{116D0}-\\x{116E3}\\x{11BF0}-\\x{11BF9}\\x{11F50}-\\x{11F59}\\x{16130}-\\x{16139}" \
                     "\\x{16D70}-\\x{16D79}\\x{1CCF0}-\\x{1CCF9}\\x{1E4F0}-\\x{1E4F9}\\x{1E5F1}-\\x{1E5FA}"
#define DIGITS "\\p{Nd}" NEWER_DIGITS

/* What the reference's Oniguruma (Unicode 16) has in a category and PCRE2 before 10.45 (14 or 15) has not: in Unicode 14 none of it was assigned.
 * docs/tokenizers.md says how the list was made. */
static const struct newer { const char *category, *ranges; } newer[] = {
    {"\\p{N}", NEWER_DIGITS "\\x{1D2C0}-\\x{1D2D3}"},
    {"\\p{L}",
     "\\x{1C89}-\\x{1C8A}\\x{A7CB}-\\x{A7CD}\\x{A7DA}-\\x{A7DC}\\x{105C0}-\\x{105F3}\\x{10D4A}-\\x{10D65}\\x{10D6F}-\\x{10D85}"
     "\\x{10EC2}-\\x{10EC4}\\x{1123F}-\\x{11240}\\x{11380}-\\x{11389}\\x{1138B}\\x{1138E}\\x{11390}-\\x{113B5}\\x{113B7}\\x{113D1}"
     "\\x{113D3}\\x{11BC0}-\\x{11BE0}\\x{11F02}\\x{11F04}-\\x{11F10}\\x{11F12}-\\x{11F33}\\x{1342F}\\x{13441}-\\x{13446}"
     "\\x{13460}-\\x{143FA}\\x{16100}-\\x{1611D}\\x{16D40}-\\x{16D6C}\\x{18CFF}\\x{1B132}\\x{1B155}\\x{1DF25}-\\x{1DF2A}"
     "\\x{1E030}-\\x{1E06D}\\x{1E4D0}-\\x{1E4EB}\\x{1E5D0}-\\x{1E5ED}\\x{1E5F0}\\x{2B739}\\x{2EBF0}-\\x{2EE5D}\\x{31350}-\\x{323AF}"},
    {"\\p{M}",
     "\\x{897}\\x{CF3}\\x{ECE}\\x{10D69}-\\x{10D6D}\\x{10EFC}-\\x{10EFF}\\x{11241}\\x{113B8}-\\x{113C0}\\x{113C2}\\x{113C5}"
     "\\x{113C7}-\\x{113CA}\\x{113CC}-\\x{113D0}\\x{113D2}\\x{113E1}-\\x{113E2}\\x{11F00}-\\x{11F01}\\x{11F03}\\x{11F34}-\\x{11F3A}"
     "\\x{11F3E}-\\x{11F42}\\x{11F5A}\\x{13440}\\x{13447}-\\x{13455}\\x{1611E}-\\x{1612F}\\x{1E08F}\\x{1E4EC}-\\x{1E4EF}"
     "\\x{1E5EE}-\\x{1E5EF}"},
    {"\\p{P}",
     "\\x{1B4E}-\\x{1B4F}\\x{1B7F}\\x{10D6E}\\x{113D4}-\\x{113D5}\\x{113D7}-\\x{113D8}\\x{11B00}-\\x{11B09}\\x{11BE1}"
     "\\x{11F43}-\\x{11F4F}\\x{16D6D}-\\x{16D6F}\\x{1E5FF}"},
    {"\\p{S}",
     "\\x{2427}-\\x{2429}\\x{2FFC}-\\x{2FFF}\\x{31E4}-\\x{31E5}\\x{31EF}\\x{10D8E}-\\x{10D8F}\\x{1CC00}-\\x{1CCEF}"
     "\\x{1CD00}-\\x{1CEB3}\\x{1F6DC}\\x{1F774}-\\x{1F776}\\x{1F77B}-\\x{1F77F}\\x{1F7D9}\\x{1F8B2}-\\x{1F8BB}\\x{1F8C0}-\\x{1F8C1}"
     "\\x{1FA75}-\\x{1FA77}\\x{1FA87}-\\x{1FA89}\\x{1FA8F}\\x{1FAAD}-\\x{1FAAF}\\x{1FABB}-\\x{1FABF}\\x{1FAC6}\\x{1FACE}-\\x{1FACF}"
     "\\x{1FADA}-\\x{1FADC}\\x{1FADF}\\x{1FAE8}-\\x{1FAE9}\\x{1FAF7}-\\x{1FAF8}\\x{1FBCB}-\\x{1FBEF}"},
    {"\\p{Lu}",
     "\\x{1C89}\\x{A7CB}-\\x{A7CC}\\x{A7DA}\\x{A7DC}\\x{10D50}-\\x{10D65}"},
    {"\\p{Ll}",
     "\\x{1C8A}\\x{A7CD}\\x{A7DB}\\x{10D70}-\\x{10D85}\\x{1DF25}-\\x{1DF2A}"},
    {"\\p{Lm}",
     "\\x{10D4E}\\x{10D6F}\\x{16D40}-\\x{16D42}\\x{16D6B}-\\x{16D6C}\\x{1E030}-\\x{1E06D}\\x{1E4EB}"},
    {"\\p{Lo}",
     "\\x{105C0}-\\x{105F3}\\x{10D4A}-\\x{10D4D}\\x{10D4F}\\x{10EC2}-\\x{10EC4}\\x{1123F}-\\x{11240}\\x{11380}-\\x{11389}\\x{1138B}"
     "\\x{1138E}\\x{11390}-\\x{113B5}\\x{113B7}\\x{113D1}\\x{113D3}\\x{11BC0}-\\x{11BE0}\\x{11F02}\\x{11F04}-\\x{11F10}"
     "\\x{11F12}-\\x{11F33}\\x{1342F}\\x{13441}-\\x{13446}\\x{13460}-\\x{143FA}\\x{16100}-\\x{1611D}\\x{16D43}-\\x{16D6A}\\x{18CFF}"
     "\\x{1B132}\\x{1B155}\\x{1E4D0}-\\x{1E4EA}\\x{1E5D0}-\\x{1E5ED}\\x{1E5F0}\\x{2B739}\\x{2EBF0}-\\x{2EE5D}\\x{31350}-\\x{323AF}"},
};

static const struct newer *find_newer(const char *escape) {
    for (size_t i = 0; i < sizeof newer / sizeof *newer; i++)
        if (!strncmp(escape, newer[i].category, strlen(newer[i].category))) return &newer[i];
    return NULL;
}

/* \p{L} becomes [\p{L}...], inside a class what is between these brackets. */
static grace_status put_category(translation *t, const struct newer *n) {
    grace_status st = GRACE_OK;
    if (!t->in_class) GR_TRY(put(t, "[", 0));
    GR_TRY(copy(t, strlen(n->category)));
    GR_TRY(put(t, n->ranges, 0));
    if (!t->in_class) GR_TRY(put(t, "]", 0));
done:
    return st;
}

static grace_status translate_escape(translation *t) {
    const struct newer *n = find_newer(t->at);
    if (n) return put_category(t, n);
    switch (t->at[1]) {
    case 'd': return put(t, t->in_class ? DIGITS : "[" DIGITS "]", 2);
    case 'D': return t->in_class ? refuse("[\\D]", "a complement inside a class") : put(t, "[^" DIGITS "]", 2);
    case 's': return put(t, "\\p{White_Space}", 2);     /* PCRE2's \s has U+180E, which is no white space since Unicode 6.3 */
    case 'S': return put(t, "\\P{White_Space}", 2);
    case 'w': return put(t, t->in_class ? WORD_PROPERTIES : "[" WORD_PROPERTIES "]", 2);
    case 'W': return t->in_class ? refuse("[\\W]", "a complement inside a class") : put(t, "[^" WORD_PROPERTIES "]", 2);
    case 'h':
    case 'H': return refuse("\\h", "hexadecimal digits in Oniguruma, blanks in PCRE2");
    case 'b':
    case 'B': return t->in_class ? copy(t, 2) : refuse("\\b", "the two libraries differ in what a word is");
    default: return copy(t, escape_length(t->at));
    }
}

/* (?i:...) means the same in both; m and s do not, nor does (?i) inside a branch, which Oniguruma extends over the branches after it. */
static grace_status check_group(const char *p, const char *regex) {
    if (p[1] == '*') return refuse("(*", "verbs differ between Oniguruma and PCRE2");
    if (p[1] != '?') return GRACE_OK;
    size_t n_options = strspn(p + 2, "abcdefghijklmnopqrstuvwxyzADJSUWXLPI-^");
    bool options = n_options > 0 && (p[2 + n_options] == ':' || p[2 + n_options] == ')');
    if (options && strspn(p + 2, "ix-") < n_options) return refuse("(?m)", "of the inline options only i and x mean the same in PCRE2");
    if (options && p[2 + n_options] == ')' && p > regex) return refuse("(?i)", "options that are set inside the pattern; (?i:...) is read");
    return GRACE_OK;
}

static grace_status check_class(const char *p) {
    if (p[0] == '[' && p[1] != ':') return refuse("[[", "classes inside classes");
    if (p[0] == '&' && p[1] == '&') return refuse("&&", "intersections of classes");
    return GRACE_OK;
}

static grace_status check_interval(const char *p) {
    if (p[0] == '{' && p[1] == ',') return refuse("{,", "an interval without a lower end");
    if (p[0] == '}' && p[1] == '+') return refuse("}+", "possessive in PCRE2, repeated in Oniguruma");
    return GRACE_OK;
}

static grace_status open_class(translation *t) {
    size_t n = t->at[1] == '^' ? 2 : 1;
    t->in_class = true;
    return copy(t, t->at[n] == ']' ? n + 1 : n);        /* a first ] is a character of the class */
}

static grace_status translate_next(translation *t) {
    grace_status st = GRACE_OK;
    char c = *t->at;
    if (c == '\\') return translate_escape(t);
    if (c == '[' && !t->in_class) return open_class(t);
    if (c == '[' && t->at[1] == ':') {                  /* [:alpha:] */
        const char *close = strstr(t->at, ":]");
        return copy(t, close ? (size_t)(close - t->at) + 2 : 1);
    }
    if (t->in_class) GR_TRY(check_class(t->at));
    if (!t->in_class && c == '(') GR_TRY(check_group(t->at, t->regex));
    if (!t->in_class) GR_TRY(check_interval(t->at));
    if (c == ']') t->in_class = false;
    st = copy(t, 1);
done:
    return st;
}

static grace_status translate(const char *regex, gr_buf *out) {
    grace_status st = GRACE_OK;
    translation t = {regex, regex, false, {0}};
    GR_TRY(gr_buf_append(&t.out, "", 0));
    while (*t.at) GR_TRY(translate_next(&t));
    *out = t.out;
    t.out = (gr_buf){0};
done:
    gr_buf_free(&t.out);
    return st;
}

/* ---- compile and search ---- */

static grace_status compile(const char *text, size_t n, uint32_t options, gr_pattern **out) {
    grace_status st = GRACE_OK;
    int error;
    PCRE2_SIZE offset;
    gr_pattern *pattern = NULL;
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    GR_CHECK(context, GRACE_ERR_MEMORY, "no memory for a pattern");
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    GR_CALLOC(pattern, 1);
    pattern->code = pcre2_compile((PCRE2_SPTR)text, n, PCRE2_UTF | PCRE2_NO_UTF_CHECK | options, &error, &offset, context);
    if (!pattern->code) {
        char message[128] = "";
        pcre2_get_error_message(error, (PCRE2_UCHAR *)message, sizeof message);
        st = gr_fail(GRACE_ERR_UNSUPPORTED, "PCRE2 cannot compile the pattern: %s, at byte %zu of '%.*s'", message, offset,
                     (int)gr_utf8_cut(text, n, 200), text);
        goto done;
    }
    pcre2_jit_compile(pattern->code, PCRE2_JIT_COMPLETE);       /* without it the interpreter searches */
    *out = pattern;
    pattern = NULL;
done:
    gr_pattern_free(pattern);
    pcre2_compile_context_free(context);
    return st;
}

grace_status gr_pattern_regex(const char *regex, gr_pattern **out) {
    gr_buf text = {0};
    if (strlen(regex) > REGEX_MAX) return gr_fail(GRACE_ERR_LIMIT, "a pattern of %zu bytes, at most %d are read", strlen(regex), REGEX_MAX);
    grace_status st = translate(regex, &text);
    /* ^ and $ stand at every line in Oniguruma: MULTILINE. \C would cut characters in two. */
    if (!st) st = compile(text.data, text.n, PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, out);
    gr_buf_free(&text);
    return st;
}

grace_status gr_pattern_literal(const char *text, gr_pattern **out) { return compile(text, strlen(text), PCRE2_LITERAL, out); }

grace_status gr_pattern_read(const gr_json *json, const char *where, gr_pattern **out) {
    grace_status st = GRACE_OK;
    const gr_json *pattern;
    const char *regex = NULL, *literal = NULL;
    GR_TRY(gr_json_object_in(json, where, "pattern", &pattern));
    GR_TRY(gr_json_string_or(pattern, where, "Regex", NULL, &regex));
    GR_TRY(gr_json_string_or(pattern, where, "String", NULL, &literal));
    GR_CHECK(!regex != !literal, GRACE_ERR_FORMAT, "%s: 'pattern': expected either Regex or String", where);
    st = regex ? gr_pattern_regex(regex, out) : gr_pattern_literal(literal, out);
    if (st) gr_fail_in(st, "%s", where);
done:
    return st;
}

void gr_pattern_free(gr_pattern *pattern) {
    if (!pattern) return;
    pcre2_code_free(pattern->code);
    free(pattern);
}

grace_status gr_searcher_open(gr_searcher *searcher) {
    searcher->match = pcre2_match_data_create(1, NULL);
    searcher->context = pcre2_match_context_create(NULL);
    if (!searcher->match || !searcher->context) return gr_fail(GRACE_ERR_MEMORY, "no memory for a pattern search");
    pcre2_set_heap_limit(searcher->context, HEAP_KIB_MAX);
    return GRACE_OK;
}

void gr_searcher_close(gr_searcher *searcher) {
    pcre2_match_data_free(searcher->match);
    pcre2_match_context_free(searcher->context);
    *searcher = (gr_searcher){0};
}

static uint32_t step_limit(size_t n) {
    uint64_t steps = STEPS_BASE + (uint64_t)n * STEPS_PER_BYTE;
    return steps < UINT32_MAX ? (uint32_t)steps : UINT32_MAX;
}

grace_status gr_pattern_find(const gr_pattern *pattern, gr_searcher *searcher, const char *text, size_t n, size_t from,
                             bool *found, size_t *start, size_t *end) {
    grace_status st = GRACE_OK;
    uint32_t options = PCRE2_NO_UTF_CHECK;      /* checked once, by the encoder; PCRE2 would check the whole text again for each match */
    pcre2_set_match_limit(searcher->context, step_limit(n));
    int rc = pcre2_match(pattern->code, (PCRE2_SPTR)text, n, from, options, searcher->match, searcher->context);
    if (rc == PCRE2_ERROR_JIT_STACKLIMIT)       /* the interpreter keeps its stack on the heap, up to HEAP_KIB_MAX */
        rc = pcre2_match(pattern->code, (PCRE2_SPTR)text, n, from, options | PCRE2_NO_JIT, searcher->match, searcher->context);
    *found = rc >= 0;
    if (rc == PCRE2_ERROR_NOMATCH) return GRACE_OK;
    if (rc < 0) {
        char message[128] = "";
        pcre2_get_error_message(rc, (PCRE2_UCHAR *)message, sizeof message);
        return gr_fail(rc == PCRE2_ERROR_NOMEMORY ? GRACE_ERR_MEMORY : GRACE_ERR_LIMIT, "the pattern search gave up on %zu bytes: %s", n, message);
    }
    const PCRE2_SIZE *bounds = pcre2_get_ovector_pointer(searcher->match);
    *start = bounds[0], *end = bounds[1];
    GR_CHECK(from <= *start && *start <= *end, GRACE_ERR_UNSUPPORTED, "a pattern moved the start of its match (\\K) outside the match");
done:
    return st;
}

grace_status gr_matches_next(gr_matches *m, gr_searcher *searcher, bool *found, size_t *start, size_t *end) {
    grace_status st = GRACE_OK;
    *found = false;
    while (m->from <= m->n) {
        GR_TRY(gr_pattern_find(m->pattern, searcher, m->text, m->n, m->from, found, start, end));
        if (!*found) break;
        if (*start < *end || !m->any || *end != m->last) {
            m->from = m->last = *end;
            m->any = true;
            return GRACE_OK;
        }
        m->from = m->from < m->n ? gr_char_after(m->text, m->n, m->from) : m->n + 1;
        *found = false;
    }
done:
    return st;
}

grace_status gr_pattern_replace(const gr_pattern *pattern, gr_searcher *searcher, const char *text, size_t n, const char *content, size_t n_max,
                                gr_buf *out) {
    grace_status st = GRACE_OK;
    gr_matches matches = gr_matches_of(pattern, text, n);
    size_t last = 0, start, end, before = out->n;
    bool found;
    for (;;) {
        GR_TRY(gr_matches_next(&matches, searcher, &found, &start, &end));
        if (!found) break;
        GR_TRY(gr_buf_append(out, text + last, start - last));
        GR_TRY(gr_buf_append(out, content, strlen(content)));
        GR_CHECK(out->n - before <= n_max, GRACE_ERR_LIMIT, "%zu bytes of text grow to more than %zu by what is put in place of matches", n, n_max);
        last = end;
    }
    GR_TRY(gr_buf_append(out, text + last, n - last));
done:
    return st;
}
