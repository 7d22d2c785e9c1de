#include "report/out.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void append(gr_out *out, const char *bytes, size_t n) {
    if (!out->st) out->st = gr_buf_append(&out->buf, bytes, n);
}

static void put_long(gr_out *out, size_t n, const char *format, va_list args) {
    char *text = malloc(n + 1);
    if (!text) {
        out->st = gr_fail(GRACE_ERR_MEMORY, "no memory for a text of %zu bytes", n);
        return;
    }
    vsnprintf(text, n + 1, format, args);
    append(out, text, n);
    free(text);
}

void gr_out_put(gr_out *out, const char *format, ...) {
    char text[512];
    va_list args, again;
    if (out->st) return;
    va_start(args, format);
    va_copy(again, args);
    int n = vsnprintf(text, sizeof text, format, args);
    if (n < 0) out->st = gr_fail(GRACE_ERR_ARG, "bad text format '%s'", format);
    else if ((size_t)n < sizeof text) append(out, text, (size_t)n);
    else put_long(out, (size_t)n, format, again);
    va_end(again);
    va_end(args);
}

/* NULL: the byte stands for itself. */
static const char *entity(unsigned char c) {
    switch (c) {
    case '<': return "&lt;";
    case '>': return "&gt;";
    case '&': return "&amp;";
    case '"': return "&quot;";
    case '\'': return "&#39;";
    case '\t':
    case '\n': return NULL;
    default: return c < 0x20 || c == 0x7f ? "\xEF\xBF\xBD" : NULL;
    }
}

void gr_out_text(gr_out *out, const char *text) {
    const char *start = text;
    for (const char *p = text; *p; p++) {
        const char *replacement = entity((unsigned char)*p);
        if (!replacement) continue;
        append(out, start, (size_t)(p - start));
        append(out, replacement, strlen(replacement));
        start = p + 1;
    }
    append(out, start, strlen(start));
}

void gr_out_free(gr_out *out) { gr_buf_free(&out->buf); }
