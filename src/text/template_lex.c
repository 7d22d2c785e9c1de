/* Template text to tokens, and the rules of whitespace around tags. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#include "text/template_tree.h"
#include "text/unicode.h"

typedef struct lexer {
    gr_tv_heap *heap;
    const char *text;               /* every line end is a newline */
    size_t n, at;
    int line;
    bool line_start;                /* the text before at ended a line, or there is none */
    gr_tt *tokens;
    size_t n_tokens, capacity;
} lexer;

static grace_status fail_at(int line, const char *sentence) {
    return gr_fail(GRACE_ERR_FORMAT, "line %d: %s", line, sentence);
}

static bool ahead(const lexer *lx, size_t at, const char *word) { return lx->n - at >= strlen(word) && memcmp(lx->text + at, word, strlen(word)) == 0; }

static void advance(lexer *lx, size_t to) {
    for (; lx->at < to; lx->at++) lx->line += lx->text[lx->at] == '\n';
    lx->line_start = to == 0 || lx->text[to - 1] == '\n';
}

static grace_status add(lexer *lx, gr_tt token) {
    grace_status st = GRACE_OK;
    if (lx->n_tokens == lx->capacity) {
        size_t capacity = lx->capacity ? 2 * lx->capacity : 64;
        gr_tt *tokens;
        GR_TRY(gr_tv_alloc(lx->heap, capacity, sizeof *tokens, &tokens));
        if (lx->n_tokens) memcpy(tokens, lx->tokens, lx->n_tokens * sizeof *tokens);
        lx->tokens = tokens;
        lx->capacity = capacity;
    }
    lx->tokens[lx->n_tokens++] = token;
done:
    return st;
}

/* \r\n and \r become \n, the last one of the text is dropped. */
static grace_status normalize(lexer *lx, const char *text, size_t n) {
    grace_status st = GRACE_OK;
    char *copy;
    GR_TRY(gr_tv_alloc(lx->heap, n + 1, 1, &copy));
    for (size_t i = 0; i < n; i++) {
        if (text[i] == '\r' && i + 1 < n && text[i + 1] == '\n') continue;
        copy[lx->n++] = text[i] == '\r' ? '\n' : text[i];
    }
    if (lx->n && copy[lx->n - 1] == '\n') lx->n--;
    lx->text = copy;
done:
    return st;
}

/* ---- whitespace ---- */

static size_t skip_spaces(const lexer *lx, size_t at) {
    uint32_t cp;
    while (at < lx->n) {
        size_t n = gr_tv_char_at(gr_tv_text(lx->text, lx->n), at, &cp);
        if (!gr_tv_is_space(cp)) break;
        at += n;
    }
    return at;
}

static size_t strip_end(const lexer *lx, size_t first, size_t last) {
    size_t kept = first;
    uint32_t cp;
    for (size_t i = first, n; i < last; i += n) {
        n = gr_tv_char_at(gr_tv_text(lx->text, lx->n), i, &cp);
        if (!gr_tv_is_space(cp)) kept = i + n;
    }
    return kept;
}

/* Where data before a tag ends: '-' drops all whitespace, a block or comment alone on its line drops its indentation unless '+' says no. */
static size_t data_end(const lexer *lx, size_t first, size_t tag) {
    char sign = tag + 2 < lx->n ? lx->text[tag + 2] : 0;
    if (sign == '-') return strip_end(lx, first, tag);
    if (sign == '+' || lx->text[tag + 1] == '{') return tag;
    size_t line = tag;
    while (line > first && lx->text[line - 1] != '\n') line--;
    if (line == first && !lx->line_start) return tag;
    return strip_end(lx, line, tag) == line ? line : tag;
}

/* Behind the closing delimiter at `at` (without its sign): '-' eats all whitespace, a block or comment eats one newline unless '+' says no. */
static size_t behind_end(const lexer *lx, size_t at, char sign, bool variable) {
    at += 2;
    if (sign == '-') return skip_spaces(lx, at);
    return !variable && sign != '+' && at < lx->n && lx->text[at] == '\n' ? at + 1 : at;
}

/* ---- tokens inside tags ---- */

static int hex_value(const char *p, size_t n, int digits, uint32_t *cp) {
    *cp = 0;
    if (n < (size_t)digits) return 0;
    for (int i = 0; i < digits; i++) {
        if (!isxdigit((unsigned char)p[i])) return 0;
        *cp = *cp * 16 + (uint32_t)(isdigit((unsigned char)p[i]) ? p[i] - '0' : (p[i] | 32) - 'a' + 10);
    }
    return digits;
}

/* One escape behind its backslash, as in Python. Returns the bytes read; 0: none that is known, the backslash stays; -1: broken. */
static int unescape(const char *p, size_t n, char out[4], int *n_out) {
    static const char letters[] = "abfnrtv\\'\"", bytes[] = "\a\b\f\n\r\t\v\\'\"";
    const char *letter = strchr(letters, p[0]);
    uint32_t cp = 0;
    int used = 1;
    if (n == 0) return -1;
    if (p[0] == '\n') return *n_out = 0, used;
    if (letter && *letter) return out[0] = bytes[letter - letters], *n_out = 1, used;
    if (p[0] == 'x' || p[0] == 'u' || p[0] == 'U') {
        int digits = p[0] == 'x' ? 2 : p[0] == 'u' ? 4 : 8;
        if (!hex_value(p + 1, n - 1, digits, &cp) || cp > 0x10ffff || (cp >= 0xd800 && cp < 0xe000)) return -1;
        used += digits;
    } else if (p[0] >= '0' && p[0] <= '7') {
        for (used = 0; used < 3 && used < (int)n && p[used] >= '0' && p[used] <= '7'; used++) cp = cp * 8 + (uint32_t)(p[used] - '0');
    } else {
        return out[0] = '\\', *n_out = 1, 0;
    }
    *n_out = gr_utf8_put(cp, out);
    return used;
}

static grace_status lex_string(lexer *lx) {
    grace_status st = GRACE_OK;
    char quote = lx->text[lx->at], *out;
    size_t first = lx->at + 1, last = first, n = 0;
    int line = lx->line, n_piece = 0;
    while (last < lx->n && lx->text[last] != quote) last += lx->text[last] == '\\' ? 2 : 1;
    if (last >= lx->n) return fail_at(line, "a string without an end");
    GR_TRY(gr_tv_alloc(lx->heap, last - first + 4, 1, &out));
    for (size_t i = first; i < last;) {
        if (lx->text[i] != '\\') {
            out[n++] = lx->text[i++];
            continue;
        }
        int used = unescape(lx->text + i + 1, last - i - 1, out + n, &n_piece);
        if (used < 0) return fail_at(line, "a string with a broken escape");
        n += (size_t)n_piece;
        i += 1 + (size_t)used;
    }
    GR_TRY(add(lx, (gr_tt){GR_TT_LITERAL, line, lx->text + first - 1, last - first + 2, gr_tv_text(out, n)}));
    advance(lx, last + 1);
done:
    return st;
}

static size_t skip_digits(const lexer *lx, size_t at) {
    while (at < lx->n && (isdigit((unsigned char)lx->text[at]) || (lx->text[at] == '_' && at + 1 < lx->n && isdigit((unsigned char)lx->text[at + 1])))) at++;
    return at;
}

static grace_status lex_number(lexer *lx) {
    grace_status st = GRACE_OK;
    char digits[64];
    size_t first = lx->at, last = skip_digits(lx, first), n = 0;
    bool real = false;
    if (last + 1 < lx->n && lx->text[last] == '.' && isdigit((unsigned char)lx->text[last + 1])) real = true, last = skip_digits(lx, last + 1);
    if (last < lx->n && (lx->text[last] | 32) == 'e') {
        size_t e = last + 1 + (last + 1 < lx->n && strchr("+-", lx->text[last + 1]) != NULL);
        if (e < lx->n && isdigit((unsigned char)lx->text[e])) real = true, last = skip_digits(lx, e);
    }
    for (size_t i = first; i < last && n + 1 < sizeof digits; i++)
        if (lx->text[i] != '_') digits[n++] = lx->text[i];
    digits[n] = 0;
    if (n > (real ? 60 : 18)) return fail_at(lx->line, "a number with too many digits");
    GR_TRY(add(lx, (gr_tt){GR_TT_LITERAL, lx->line, lx->text + first, last - first,
                     real ? gr_tv_real(strtod(digits, NULL)) : gr_tv_int(strtoll(digits, NULL, 10))}));
    advance(lx, last);
done:
    return st;
}

static bool in_name(char c) { return isalnum((unsigned char)c) || c == '_' || (unsigned char)c >= 0x80; }

static grace_status lex_word(lexer *lx) {
    static const char *const two[] = {"//", "**", "==", "!=", "<=", ">="};
    size_t last = lx->at;
    gr_tt_kind kind = GR_TT_NAME;
    while (last < lx->n && in_name(lx->text[last])) last++;
    if (last == lx->at) {
        kind = GR_TT_OP;
        last++;
        for (size_t i = 0; i < sizeof two / sizeof *two; i++)
            if (ahead(lx, lx->at, two[i])) last = lx->at + 2;
        if (!strchr("+-*/%~=<>!|.,:()[]{}", lx->text[lx->at]) || !lx->text[lx->at]) {
            char sentence[64];
            snprintf(sentence, sizeof sentence, "unexpected character '%c'", isprint((unsigned char)lx->text[lx->at]) ? lx->text[lx->at] : '?');
            return fail_at(lx->line, sentence);
        }
    }
    grace_status st = add(lx, (gr_tt){kind, lx->line, lx->text + lx->at, last - lx->at, {0}});
    advance(lx, last);
    return st;
}

/* From behind the opening delimiter to behind the closing one, which does not end a tag inside brackets. */
static grace_status lex_tag(lexer *lx, bool variable) {
    grace_status st = GRACE_OK;
    const char *end = variable ? "}}" : "%}";
    int depth = 0, line = lx->line;
    for (;;) {
        advance(lx, skip_spaces(lx, lx->at));
        if (lx->at >= lx->n) return fail_at(line, variable ? "a '{{' without its '}}'" : "a '{%' without its '%}'");
        char c = lx->text[lx->at];
        bool sign = c == '-' || (c == '+' && !variable);
        if (depth == 0 && (ahead(lx, lx->at, end) || (sign && ahead(lx, lx->at + 1, end)))) {
            GR_TRY(add(lx, (gr_tt){variable ? GR_TT_VAR_END : GR_TT_BLOCK_END, lx->line, end, 2, {0}}));
            advance(lx, behind_end(lx, lx->at + sign, sign ? c : 0, variable));
            break;
        }
        if (c == '(' || c == '[' || c == '{') depth++;
        if ((c == ')' || c == ']' || c == '}') && depth-- == 0) return fail_at(lx->line, "a closing bracket that nothing opened");
        GR_TRY(c == '"' || c == '\'' ? lex_string(lx) : isdigit((unsigned char)c) ? lex_number(lx) : lex_word(lx));
    }
done:
    return st;
}

static grace_status add_data(lexer *lx, size_t first, size_t last) {
    return last > first ? add(lx, (gr_tt){GR_TT_DATA, lx->line, lx->text + first, last - first, {0}}) : GRACE_OK;
}

static grace_status lex_comment(lexer *lx) {
    const char *end = memmem(lx->text + lx->at, lx->n - lx->at, "#}", 2);
    if (!end) return fail_at(lx->line, "a '{#' without its '#}'");
    size_t at = (size_t)(end - lx->text);
    char sign = at > lx->at && strchr("+-", lx->text[at - 1]) ? lx->text[at - 1] : 0;
    advance(lx, behind_end(lx, at, sign, false));
    return GRACE_OK;
}

/* "{% raw %}" at a block tag: *behind is where its text begins; "{% endraw %}" likewise. */
static bool is_raw_tag(const lexer *lx, size_t at, const char *word, size_t *behind) {
    if (!ahead(lx, at, "{%")) return false;
    at += 2;
    if (at < lx->n && (lx->text[at] == '-' || lx->text[at] == '+')) at++;
    at = skip_spaces(lx, at);
    if (!ahead(lx, at, word)) return false;
    at = skip_spaces(lx, at + strlen(word));
    char sign = at < lx->n && strchr("+-", lx->text[at]) ? lx->text[at] : 0;
    if (!ahead(lx, at + (sign != 0), "%}")) return false;
    *behind = behind_end(lx, at + (sign != 0), sign, strcmp(word, "raw") == 0);     /* only endraw eats a newline */
    return true;
}

static grace_status lex_raw(lexer *lx, size_t first) {
    grace_status st = GRACE_OK;
    size_t behind;
    int line = lx->line;
    for (size_t at = first; at < lx->n; at++) {
        if (!is_raw_tag(lx, at, "endraw", &behind)) continue;
        advance(lx, first);
        GR_TRY(add_data(lx, first, data_end(lx, first, at)));
        advance(lx, behind);
        return GRACE_OK;
    }
    return fail_at(line, "a 'raw' without its 'endraw'");
done:
    return st;
}

static grace_status lex_all(lexer *lx) {
    grace_status st = GRACE_OK;
    while (lx->at < lx->n) {
        size_t tag = lx->at, behind;
        while (tag < lx->n && !(lx->text[tag] == '{' && tag + 1 < lx->n && strchr("{%#", lx->text[tag + 1]) && lx->text[tag + 1])) tag++;
        GR_TRY(add_data(lx, lx->at, tag < lx->n ? data_end(lx, lx->at, tag) : tag));
        advance(lx, tag);
        if (tag >= lx->n) break;
        if (is_raw_tag(lx, tag, "raw", &behind)) {
            GR_TRY(lex_raw(lx, behind));
            continue;
        }
        char kind = lx->text[tag + 1];
        size_t sign = tag + 2 < lx->n && (lx->text[tag + 2] == '-' || lx->text[tag + 2] == '+');
        if (kind != '#') GR_TRY(add(lx, (gr_tt){kind == '{' ? GR_TT_VAR_BEGIN : GR_TT_BLOCK_BEGIN, lx->line, kind == '{' ? "{{" : "{%", 2, {0}}));
        advance(lx, tag + 2 + sign);
        GR_TRY(kind == '#' ? lex_comment(lx) : lex_tag(lx, kind == '{'));
    }
    GR_TRY(add(lx, (gr_tt){GR_TT_END, lx->line, "the end", 7, {0}}));
done:
    return st;
}

grace_status gr_template_lex(gr_tv_heap *heap, const char *text, size_t n, gr_tt **tokens) {
    grace_status st = GRACE_OK;
    lexer lx = {.heap = heap, .line = 1, .line_start = true};
    size_t valid = gr_utf8_valid(text, n);
    GR_CHECK(valid == n, GRACE_ERR_FORMAT, "byte %zu: the text is not valid UTF-8", valid);
    GR_TRY(normalize(&lx, text, n));
    GR_TRY(lex_all(&lx));
    *tokens = lx.tokens;
done:
    return st;
}
