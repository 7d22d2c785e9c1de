/* Values as text: Python's str() and repr(), and json.dumps() as the tojson filter of the reference calls it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "text/template_value.h"
#include "text/unicode.h"

grace_status gr_tv_put(gr_tv_heap *heap, const void *bytes, size_t n) {
    grace_status st = gr_tv_spend(heap, n / 64);
    if (st) return st;
    if (n > heap->limits.n_output || heap->out->n - heap->out_first > heap->limits.n_output - n)
        return gr_fail(GRACE_ERR_LIMIT, "the template writes more than %zu bytes", heap->limits.n_output);
    return gr_buf_append(heap->out, bytes, n);
}

static grace_status put_word(gr_tv_heap *heap, const char *word) { return gr_tv_put(heap, word, strlen(word)); }

grace_status gr_tv_take(gr_tv_heap *heap, size_t mark, gr_tv *out) {
    grace_status st = GRACE_OK;
    size_t n = heap->out->n - mark;
    char *text;
    GR_TRY(gr_tv_alloc(heap, n, 1, &text));
    if (n) memcpy(text, heap->out->data + mark, n);
    heap->out->n = mark;
    *out = gr_tv_text(text, n);
done:
    return st;
}

/* The shortest digits that read back as the same number; an exponent below 1e-4 and from 1e16 on. */
grace_status gr_tv_put_real(gr_tv_heap *heap, double real) {
    char digits[40], text[64];
    int precision = 1;
    if (!isfinite(real)) return put_word(heap, isnan(real) ? "nan" : real > 0 ? "inf" : "-inf");
    do snprintf(digits, sizeof digits, "%.*e", precision - 1, real);
    while (strtod(digits, NULL) != real && ++precision <= 17);
    int exponent = atoi(strchr(digits, 'e') + 1);
    if (exponent >= -4 && exponent < 16) {
        int decimals = precision - 1 - exponent;
        snprintf(text, sizeof text, "%.*f", decimals > 0 ? decimals : 1, real);
    } else {
        char *e = strchr(digits, 'e');
        snprintf(text, sizeof text, "%.*se%c%02d", (int)(e - digits), digits, exponent < 0 ? '-' : '+', abs(exponent));
    }
    return put_word(heap, text);
}

static grace_status put_int(gr_tv_heap *heap, int64_t integer) {
    char text[24];
    snprintf(text, sizeof text, "%lld", (long long)integer);
    return put_word(heap, text);
}

/* ---- str() and repr() ---- */

static const char *escape_of(uint32_t cp, char quote) {
    if (cp == '\\') return "\\\\";
    if (cp == '\n') return "\\n";
    if (cp == '\r') return "\\r";
    if (cp == '\t') return "\\t";
    if (cp == (unsigned char)quote) return quote == '"' ? "\\\"" : "\\'";
    return NULL;
}

/* Quotes are single unless the text has those and no double ones. Characters that are not printable in the Latin-1 range are escaped; Python
 * also escapes unassigned ones further up. */
static grace_status put_repr(gr_tv_heap *heap, gr_tv text) {
    grace_status st = GRACE_OK;
    char quote = text.n && memchr(text.text, '\'', text.n) && !memchr(text.text, '"', text.n) ? '"' : '\'', code[8];
    uint32_t cp;
    GR_TRY(gr_tv_put(heap, &quote, 1));
    for (size_t i = 0, n; i < text.n; i += n) {
        n = gr_tv_char_at(text, i, &cp);
        const char *escape = escape_of(cp, quote);
        bool hidden = cp < 0x20 || (cp >= 0x7f && cp <= 0xa0) || cp == 0xad;
        snprintf(code, sizeof code, "\\x%02x", cp & 0xff);
        if (escape || hidden) GR_TRY(put_word(heap, escape ? escape : code));
        else GR_TRY(gr_tv_put(heap, text.text + i, n));
    }
    GR_TRY(gr_tv_put(heap, &quote, 1));
done:
    return st;
}

static grace_status put_repr_of(gr_tv_heap *heap, gr_tv value) {
    return value.kind == GR_TV_STRING ? put_repr(heap, value) : value.kind == GR_TV_UNDEFINED ? put_word(heap, "Undefined") : gr_tv_put_str(heap, value);
}

static grace_status put_list(gr_tv_heap *heap, gr_tv value) {
    grace_status st = GRACE_OK;
    bool tuple = value.kind == GR_TV_TUPLE;
    GR_TRY(put_word(heap, tuple ? "(" : "["));
    for (size_t i = 0; i < value.list->n; i++) {
        if (i) GR_TRY(put_word(heap, ", "));
        GR_TRY(put_repr_of(heap, value.list->items[i]));
    }
    GR_TRY(put_word(heap, !tuple ? "]" : value.list->n == 1 ? ",)" : ")"));
done:
    return st;
}

static grace_status put_dict(gr_tv_heap *heap, const gr_tv_dict *dict) {
    grace_status st = GRACE_OK;
    GR_TRY(put_word(heap, "{"));
    for (size_t i = 0; i < dict->n; i++) {
        if (i) GR_TRY(put_word(heap, ", "));
        GR_TRY(put_repr_of(heap, dict->keys[i]));
        GR_TRY(put_word(heap, ": "));
        GR_TRY(put_repr_of(heap, dict->values[i]));
    }
    GR_TRY(put_word(heap, "}"));
done:
    return st;
}

grace_status gr_tv_put_str(gr_tv_heap *heap, gr_tv value) {
    grace_status st = gr_tv_spend(heap, 1);
    if (st) return st;
    switch (value.kind) {
    case GR_TV_ABSENT:
    case GR_TV_UNDEFINED: return GRACE_OK;
    case GR_TV_NONE: return put_word(heap, "None");
    case GR_TV_BOOL: return put_word(heap, value.integer ? "True" : "False");
    case GR_TV_INT: return put_int(heap, value.integer);
    case GR_TV_REAL: return gr_tv_put_real(heap, value.real);
    case GR_TV_STRING: return gr_tv_put(heap, value.text, value.n);
    case GR_TV_LIST:
    case GR_TV_TUPLE: return put_list(heap, value);
    case GR_TV_DICT: return put_dict(heap, value.dict);
    default: return gr_fail(GRACE_ERR_FORMAT, "a %s has no text", gr_tv_kind_name(value));     /* Python prints an address */
    }
}

grace_status gr_tv_str(gr_tv_heap *heap, gr_tv value, gr_tv *out) {
    size_t mark = heap->out->n;
    if (value.kind == GR_TV_STRING) {
        *out = value;
        return GRACE_OK;
    }
    grace_status st = gr_tv_put_str(heap, value);
    return st ? st : gr_tv_take(heap, mark, out);
}

/* ---- json.dumps() ---- */

static grace_status put_json(gr_tv_heap *heap, gr_tv value, const gr_tv_json *style, int level);

static grace_status put_ascii(gr_tv_heap *heap, uint32_t cp) {
    char text[16];
    if (cp < 0x10000) snprintf(text, sizeof text, "\\u%04x", cp);
    else snprintf(text, sizeof text, "\\u%04x\\u%04x", 0xd800 + ((cp - 0x10000) >> 10), 0xdc00 + ((cp - 0x10000) & 0x3ff));
    return put_word(heap, text);
}

static grace_status put_json_text(gr_tv_heap *heap, gr_tv text, bool ascii) {
    static const char *const named[] = {['\b'] = "\\b", ['\t'] = "\\t", ['\n'] = "\\n", ['\f'] = "\\f", ['\r'] = "\\r", ['"'] = "\\\"", ['\\'] = "\\\\"};
    grace_status st = GRACE_OK;
    uint32_t cp;
    GR_TRY(put_word(heap, "\""));
    for (size_t i = 0, n; i < text.n; i += n) {
        n = gr_tv_char_at(text, i, &cp);
        if (cp < sizeof named / sizeof *named && named[cp]) GR_TRY(put_word(heap, named[cp]));
        else if (cp < 0x20 || (ascii && cp >= 0x7f)) GR_TRY(put_ascii(heap, cp));
        else GR_TRY(gr_tv_put(heap, text.text + i, n));
    }
    GR_TRY(put_word(heap, "\""));
done:
    return st;
}

static grace_status put_break(gr_tv_heap *heap, const gr_tv_json *style, int level) {
    grace_status st = GRACE_OK;
    if (style->indent < 0) return st;
    GR_TRY(put_word(heap, "\n"));
    for (int64_t i = (int64_t)style->indent * level; i > 0; i--) GR_TRY(put_word(heap, " "));
done:
    return st;
}

static grace_status put_json_list(gr_tv_heap *heap, const gr_tv_list *list, const gr_tv_json *style, int level) {
    grace_status st = GRACE_OK;
    if (list->n == 0) return put_word(heap, "[]");
    GR_TRY(put_word(heap, "["));
    for (size_t i = 0; i < list->n; i++) {
        if (i) GR_TRY(gr_tv_put(heap, style->item.text, style->item.n));
        GR_TRY(put_break(heap, style, level + 1));
        GR_TRY(put_json(heap, list->items[i], style, level + 1));
    }
    GR_TRY(put_break(heap, style, level));
    GR_TRY(put_word(heap, "]"));
done:
    return st;
}

static grace_status put_json_key(gr_tv_heap *heap, gr_tv key, const gr_tv_json *style) {
    grace_status st = GRACE_OK;
    if (key.kind == GR_TV_STRING) return put_json_text(heap, key, style->ascii);
    GR_TRY(put_word(heap, "\""));
    GR_TRY(put_json(heap, key, style, 0));
    GR_TRY(put_word(heap, "\""));
done:
    return st;
}

/* The next key in order after `last` (NULL: the first); what sort_keys needs, without a copy. */
static grace_status next_in_order(gr_tv_heap *heap, const gr_tv_dict *dict, const gr_tv *last, size_t *out) {
    grace_status st = GRACE_OK;
    size_t best = dict->n;
    int sign;
    for (size_t i = 0; i < dict->n; i++) {
        if (last) {
            GR_TRY(gr_tv_order(heap, dict->keys[i], *last, &sign));
            if (sign <= 0) continue;
        }
        sign = -1;
        if (best < dict->n) GR_TRY(gr_tv_order(heap, dict->keys[i], dict->keys[best], &sign));
        if (sign < 0) best = i;
    }
    GR_CHECK(best < dict->n, GRACE_ERR_FORMAT, "tojson: sort_keys: a key that is no number (nan) has no place in order");
    *out = best;
done:
    return st;
}

static grace_status put_json_dict(gr_tv_heap *heap, const gr_tv_dict *dict, const gr_tv_json *style, int level) {
    grace_status st = GRACE_OK;
    const gr_tv *last = NULL;
    if (dict->n == 0) return put_word(heap, "{}");
    GR_TRY(put_word(heap, "{"));
    for (size_t i = 0; i < dict->n; i++) {
        size_t at = i;
        if (style->sort_keys) GR_TRY(next_in_order(heap, dict, last, &at));
        last = &dict->keys[at];
        if (i) GR_TRY(gr_tv_put(heap, style->item.text, style->item.n));
        GR_TRY(put_break(heap, style, level + 1));
        GR_TRY(put_json_key(heap, *last, style));
        GR_TRY(gr_tv_put(heap, style->key.text, style->key.n));
        GR_TRY(put_json(heap, dict->values[at], style, level + 1));
    }
    GR_TRY(put_break(heap, style, level));
    GR_TRY(put_word(heap, "}"));
done:
    return st;
}

static grace_status put_json(gr_tv_heap *heap, gr_tv value, const gr_tv_json *style, int level) {
    grace_status st = gr_tv_spend(heap, 1);
    if (st) return st;
    switch (value.kind) {
    case GR_TV_NONE: return put_word(heap, "null");
    case GR_TV_BOOL: return put_word(heap, value.integer ? "true" : "false");
    case GR_TV_INT: return put_int(heap, value.integer);
    case GR_TV_REAL: return isnan(value.real) ? put_word(heap, "NaN") : isinf(value.real) ? put_word(heap, value.real > 0 ? "Infinity" : "-Infinity")
                                                                                             : gr_tv_put_real(heap, value.real);
    case GR_TV_STRING: return put_json_text(heap, value, style->ascii);
    case GR_TV_LIST:
    case GR_TV_TUPLE: return put_json_list(heap, value.list, style, level);
    case GR_TV_DICT: return put_json_dict(heap, value.dict, style, level);
    case GR_TV_UNDEFINED: return gr_tv_check_defined(value);
    default: return gr_fail(GRACE_ERR_FORMAT, "a %s cannot be written as JSON", gr_tv_kind_name(value));
    }
}

grace_status gr_tv_put_json(gr_tv_heap *heap, gr_tv value, const gr_tv_json *style) { return put_json(heap, value, style, 0); }
