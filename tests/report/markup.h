/* A small judge of markup for the report tests: are tags closed in order, attributes quoted, and no bare < > & left in the text? */
#ifndef TESTS_REPORT_MARKUP_H
#define TESTS_REPORT_MARKUP_H
#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

enum { MARKUP_DEPTH_MAX = 64, MARKUP_NAME_MAX = 32 };

typedef struct markup {
    char open[MARKUP_DEPTH_MAX][MARKUP_NAME_MAX];
    int depth, n_elements;
    char problem[160];          /* empty: well formed */
} markup;

static inline bool markup_fail(markup *m, const char *what, const char *at) {
    snprintf(m->problem, sizeof m->problem, "%s at '%.60s'", what, at);
    return false;
}

/* One of the entities we write. */
static inline bool markup_is_entity(const char *p) {
    static const char *const known[] = {"&lt;", "&gt;", "&amp;", "&quot;", "&#39;"};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strncmp(p, known[i], strlen(known[i]))) return true;
    return false;
}

/* Attributes up to > or />: name="value", the value without < and bare &. *end is behind the >. */
static inline bool markup_attributes(markup *m, const char *p, bool *closed, const char **end) {
    while (true) {
        while (isspace((unsigned char)*p)) p++;
        *closed = p[0] == '/' && p[1] == '>';
        *end = p + (*closed ? 2 : 1);
        if (*p == '>' || *closed) return true;
        const char *name = p;
        while (isalnum((unsigned char)*p) || *p == '-' || *p == ':') p++;
        if (p == name || p[0] != '=' || p[1] != '"') return markup_fail(m, "bad attribute", name);
        for (p += 2; *p != '"'; p++)
            if (!*p || *p == '<' || (*p == '&' && !markup_is_entity(p))) return markup_fail(m, "bad attribute value", name);
        p++;
    }
}

static inline bool markup_open(markup *m, const char **p) {
    const char *name = *p + 1, *end = name;
    bool closed;
    while (isalnum((unsigned char)*end)) end++;
    int n = (int)(end - name);
    if (n == 0 || n >= MARKUP_NAME_MAX) return markup_fail(m, "bad tag", *p);
    if (!markup_attributes(m, end, &closed, p)) return false;
    m->n_elements++;
    if (closed) return true;
    if (m->depth == MARKUP_DEPTH_MAX) return markup_fail(m, "too deep", name);
    snprintf(m->open[m->depth++], MARKUP_NAME_MAX, "%.*s", n, name);
    return true;
}

static inline bool markup_close(markup *m, const char **p) {
    const char *name = *p + 2;
    if (m->depth == 0) return markup_fail(m, "closed but not open", *p);
    size_t n = strlen(m->open[m->depth - 1]);
    if (strncmp(name, m->open[m->depth - 1], n) != 0 || name[n] != '>') return markup_fail(m, "closed in the wrong order", *p);
    m->depth--;
    *p = name + n + 1;
    return true;
}

/* Style is raw text up to its end tag. */
static inline bool markup_is_raw(const markup *m) { return m->depth > 0 && !strcmp(m->open[m->depth - 1], "style"); }

static inline bool markup_check(const char *text, markup *m) {
    memset(m, 0, sizeof *m);
    const char *p = strncmp(text, "<!DOCTYPE html>", 15) ? text : text + 15;
    while (*p) {
        if (markup_is_raw(m) && strncmp(p, "</style>", 8) != 0) p++;
        else if (p[0] == '<' && p[1] == '/') {
            if (!markup_close(m, &p)) return false;
        } else if (*p == '<') {
            if (!markup_open(m, &p)) return false;
        } else if (*p == '>' || (*p == '&' && !markup_is_entity(p))) return markup_fail(m, "bare character", p);
        else p++;
    }
    return m->depth == 0 || markup_fail(m, "not closed", m->open[m->depth - 1]);
}

static inline int count_of(const char *text, const char *what) {
    int n = 0;
    for (const char *p = text; (p = strstr(p, what)); p += strlen(what)) n++;
    return n;
}

#endif
