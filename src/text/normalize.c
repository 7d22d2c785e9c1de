#include "text/normalize.h"

#include <string.h>
#include <utf8proc.h>

#include "text/unicode.h"

enum { DEPTH_MAX = 8, STAGES_MAX = 64 };

/* What a text may grow to: compatible forms take 11 times as much at most, a mark for a space 3 times. */
static size_t grown_max(size_t n) { return 64 * n + 65536; }

typedef enum kind { UNICODE, LOWERCASE, STRIP, PREPEND, REPLACE } kind;

typedef struct stage {
    kind kind;
    utf8proc_option_t form;         /* UNICODE: which of the four normal forms */
    bool left, right;               /* STRIP: which ends */
    char *content;                  /* PREPEND, REPLACE: what is written; malloc'ed */
    gr_pattern *pattern;            /* REPLACE: what it is written over */
} stage;

struct gr_normalizer {
    stage *stages;                  /* [n_stages] */
    size_t n_stages;
};

/* ---- loading ---- */

static const struct form { const char *name; utf8proc_option_t options; } forms[] = {
    {"NFC", UTF8PROC_STABLE | UTF8PROC_COMPOSE},
    {"NFD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE},
    {"NFKC", UTF8PROC_STABLE | UTF8PROC_COMPOSE | UTF8PROC_COMPAT},
    {"NFKD", UTF8PROC_STABLE | UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT},
};

static const struct form *find_form(const char *type) {
    for (size_t i = 0; i < sizeof forms / sizeof *forms; i++)
        if (!strcmp(forms[i].name, type)) return &forms[i];
    return NULL;
}

static grace_status read_content(const gr_json *json, const char *where, const char *key, stage *s) {
    grace_status st = GRACE_OK;
    const char *content;
    GR_TRY(gr_json_string(json, where, key, &content));
    s->content = strdup(content);
    GR_CHECK(s->content, GRACE_ERR_MEMORY, "no memory for %zu bytes", strlen(content));
done:
    return st;
}

static grace_status read_replace(const gr_json *json, stage *s) {
    static const char where[] = "tokenizer.json: normalizer Replace";
    grace_status st = GRACE_OK;
    s->kind = REPLACE;
    GR_TRY(read_content(json, where, "content", s));
    GR_TRY(gr_pattern_read(json, where, &s->pattern));
done:
    return st;
}

static grace_status read_strip(const gr_json *json, stage *s) {
    static const char where[] = "tokenizer.json: normalizer Strip";
    grace_status st = GRACE_OK;
    s->kind = STRIP;
    GR_TRY(gr_json_bool_or(json, where, "strip_left", true, &s->left));
    GR_TRY(gr_json_bool_or(json, where, "strip_right", true, &s->right));
done:
    return st;
}

static grace_status read_one(const gr_json *json, const char *type, stage *s) {
    const struct form *form = find_form(type);
    *s = (stage){.kind = form ? UNICODE : LOWERCASE, .form = form ? form->options : 0};
    if (form || !strcmp(type, "Lowercase")) return GRACE_OK;
    if (!strcmp(type, "Strip")) return read_strip(json, s);
    if (!strcmp(type, "Replace")) return read_replace(json, s);
    s->kind = PREPEND;
    if (!strcmp(type, "Prepend")) return read_content(json, "tokenizer.json: normalizer Prepend", "prepend", s);
    return gr_fail(GRACE_ERR_UNSUPPORTED, "tokenizer.json: normalizer: type '%.100s' is not supported (Sequence, NFC, NFD, NFKC, NFKD, Lowercase, "
                   "Strip, Prepend, Replace are)", type);
}

static grace_status read_stage(gr_normalizer *normalizer, const gr_json *json, int depth) {
    static const char where[] = "tokenizer.json: normalizer";
    grace_status st = GRACE_OK;
    const char *type;
    const gr_json *parts;
    GR_CHECK(depth < DEPTH_MAX, GRACE_ERR_LIMIT, "%s: sequences nested %d deep, at most %d are read", where, depth + 1, DEPTH_MAX);
    GR_TRY(gr_json_string(json, where, "type", &type));
    if (!strcmp(type, "Sequence")) {
        GR_TRY(gr_json_array(json, where, "normalizers", &parts));
        for (size_t i = 0; i < gr_json_length(parts); i++) GR_TRY(read_stage(normalizer, gr_json_at(parts, i), depth + 1));
        return st;
    }
    GR_CHECK(normalizer->n_stages < STAGES_MAX, GRACE_ERR_LIMIT, "%s: more than %d in sequence", where, STAGES_MAX);
    stage *stages = realloc(normalizer->stages, (normalizer->n_stages + 1) * sizeof *stages);
    GR_CHECK(stages, GRACE_ERR_MEMORY, "no memory for %zu normalizers", normalizer->n_stages + 1);
    normalizer->stages = stages;
    st = read_one(json, type, &stages[normalizer->n_stages++]);
done:
    return st;
}

grace_status gr_normalizer_build(const gr_json *json, gr_normalizer **out) {
    grace_status st = GRACE_OK;
    gr_normalizer *normalizer = NULL;
    *out = NULL;
    if (gr_json_kind_of(json) == GR_JSON_NULL) return st;
    GR_CALLOC(normalizer, 1);
    GR_TRY(read_stage(normalizer, json, 0));
    if (normalizer->n_stages == 0) goto done;
    *out = normalizer;
    normalizer = NULL;
done:
    gr_normalizer_free(normalizer);
    return st;
}

void gr_normalizer_free(gr_normalizer *normalizer) {
    if (!normalizer) return;
    for (size_t i = 0; i < normalizer->n_stages; i++) {
        free(normalizer->stages[i].content);
        gr_pattern_free(normalizer->stages[i].pattern);
    }
    free(normalizer->stages);
    free(normalizer);
}

/* ---- normalizing ---- */

static bool is_ascii(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] >= 0x80) return false;
    return true;
}

static grace_status older_to_form(utf8proc_option_t form, const char *text, size_t n, gr_buf *out) {
    grace_status st = GRACE_OK;
    utf8proc_uint8_t *normal = NULL;
    utf8proc_ssize_t n_normal = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n, &normal, form);
    GR_CHECK(n_normal >= 0, GRACE_ERR_MEMORY, "%zu bytes cannot be normalised: %s", n, utf8proc_errmsg(n_normal));
    GR_TRY(gr_buf_append(out, normal, (size_t)n_normal));
done:
    free(normal);
    return st;
}

/* The reference's tables are of Unicode 9. What came later and decomposes, composes or moves (up to Unicode 17) it leaves where it stands,
 * and so do we: ids are what a model has learned, not what is newest. docs/tokenizers.md says how the list was made. U+11A7 is among them
 * because utf8proc 2.8 takes it for the final consonant of a Hangul syllable and drops it. */
static const struct range { uint32_t first, last; } newer[] = {
    {0x7FD, 0x7FD}, {0x897, 0x89F}, {0x8CA, 0x8D3}, {0x9FE, 0x9FE}, {0xC3C, 0xC3C}, {0xD3B, 0xD3C}, {0xEBA, 0xEBA}, {0x11A7, 0x11A7}, {0x1715, 0x1715},
    {0x1ABF, 0x1ADD}, {0x1AE0, 0x1AEB}, {0x1DF6, 0x1DFA}, {0x32FF, 0x32FF}, {0xA7F1, 0xA7F4}, {0xA82C, 0xA82C}, {0xAB69, 0xAB69}, {0x105C9, 0x105C9},
    {0x105D2, 0x105D2}, {0x105DA, 0x105DA}, {0x105E4, 0x105E4}, {0x10781, 0x10785}, {0x10787, 0x107B0}, {0x107B2, 0x107BA}, {0x10D24,
    0x10D27}, {0x10D69, 0x10D6D}, {0x10EAB, 0x10EAC}, {0x10EFA, 0x10EFB}, {0x10EFD, 0x10EFF}, {0x10F46, 0x10F50}, {0x10F82, 0x10F85},
    {0x11070, 0x11070}, {0x1133B, 0x1133B}, {0x11382, 0x11385}, {0x1138B, 0x1138B}, {0x1138E, 0x1138E}, {0x11390, 0x11391}, {0x113C2,
    0x113C2}, {0x113C5, 0x113C5}, {0x113C7, 0x113C8}, {0x113CE, 0x113D0}, {0x1145E, 0x1145E}, {0x11839, 0x1183A}, {0x11935, 0x11935},
    {0x11938, 0x11938}, {0x1193D, 0x1193E}, {0x11943, 0x11943}, {0x119E0, 0x119E0}, {0x11A34, 0x11A34}, {0x11A47, 0x11A47}, {0x11A99,
    0x11A99}, {0x11D42, 0x11D42}, {0x11D44, 0x11D45}, {0x11D97, 0x11D97}, {0x11F41, 0x11F42}, {0x1611E, 0x1611E}, {0x16121, 0x16129},
    {0x1612F, 0x1612F}, {0x16D63, 0x16D63}, {0x16D67, 0x16D6A}, {0x16FF0, 0x16FF1}, {0x1CCD6, 0x1CCF9}, {0x1E030, 0x1E06D}, {0x1E08F,
    0x1E08F}, {0x1E130, 0x1E136}, {0x1E2AE, 0x1E2AE}, {0x1E2EC, 0x1E2EF}, {0x1E4EC, 0x1E4EF}, {0x1E5EE, 0x1E5EF}, {0x1E6E3, 0x1E6E3},
    {0x1E6E6, 0x1E6E6}, {0x1E6EE, 0x1E6EF}, {0x1E6F5, 0x1E6F5}, {0x1F16C, 0x1F16C}, {0x1FBF0, 0x1FBF9},
};

static bool is_newer(uint32_t cp) {
    size_t low = 0, high = sizeof newer / sizeof *newer;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (newer[middle].last < cp) low = middle + 1;
        else high = middle;
    }
    return low < sizeof newer / sizeof *newer && newer[low].first <= cp;
}

/* Length of the text before the first newer character; *n_newer is the length of that one, 0 at the end. */
static size_t older_run(const char *text, size_t n, size_t *n_newer) {
    uint32_t cp = 0;
    *n_newer = 0;
    for (size_t at = 0, step; at < n; at += step) {
        step = (size_t)gr_utf8_step(text + at, n - at, &cp);
        if (cp < newer[0].first || !is_newer(cp)) continue;
        *n_newer = step;
        return at;
    }
    return n;
}

static grace_status to_form(utf8proc_option_t form, const char *text, size_t n, gr_buf *out) {
    grace_status st = gr_buf_append(out, "", 0);
    if (is_ascii(text, n)) return gr_buf_append(out, text, n);      /* no form changes ASCII */
    for (size_t at = 0, n_newer; !st && at < n; at += n_newer) {
        size_t n_older = older_run(text + at, n - at, &n_newer);
        if (n_older > 0) st = older_to_form(form, text + at, n_older, out);
        at += n_older;
        if (!st) st = gr_buf_append(out, text + at, n_newer);
    }
    return st;
}

uint32_t gr_char_upper(uint32_t cp) { return (uint32_t)utf8proc_toupper((utf8proc_int32_t)cp); }

/* Capitals of Unicode 16 and 17, which the reference has and utf8proc 2.8 has not. */
static const struct capitals { uint32_t first, last, small; } newer_capitals[] = {
    {0x1C89, 0x1C89, 0x1C8A}, {0xA7CB, 0xA7CB, 0x264}, {0xA7CC, 0xA7CC, 0xA7CD}, {0xA7CE, 0xA7CE, 0xA7CF}, {0xA7D2, 0xA7D2, 0xA7D3},
    {0xA7D4, 0xA7D4, 0xA7D5}, {0xA7DA, 0xA7DA, 0xA7DB}, {0xA7DC, 0xA7DC, 0x19B}, {0x10D50, 0x10D65, 0x10D70}, {0x16EA0, 0x16EB8, 0x16EBB},
};

uint32_t gr_char_lower(uint32_t cp) {
    for (size_t i = 0; cp >= newer_capitals[0].first && i < sizeof newer_capitals / sizeof *newer_capitals; i++)
        if (newer_capitals[i].first <= cp && cp <= newer_capitals[i].last) return newer_capitals[i].small + (cp - newer_capitals[i].first);
    return (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp);
}

/* U+0130, the capital I with a dot, is the one character whose small form is two. */
static grace_status to_lowercase(const char *text, size_t n, gr_buf *out) {
    grace_status st = gr_buf_append(out, "", 0);
    uint32_t cp = 0;
    for (size_t i = 0; !st && i < n;) {
        char small[4];
        i += (size_t)gr_utf8_step(text + i, n - i, &cp);
        GR_TRY(gr_buf_append(out, small, (size_t)gr_utf8_put(gr_char_lower(cp == 0x130 ? 'I' : cp), small)));
        if (cp == 0x130) GR_TRY(gr_buf_append(out, "\xCC\x87", 2));
    }
done:
    return st;
}

static grace_status strip(const stage *s, const char *text, size_t n, gr_buf *out) {
    size_t start = s->left ? gr_spaces_after(text, n, 0) : 0;
    size_t end = s->right ? gr_spaces_before(text, n) : n;
    return gr_buf_append(out, text + start, start < end ? end - start : 0);
}

static grace_status run_stage(const stage *s, gr_searcher *searcher, const char *text, size_t n, size_t n_max, gr_buf *out) {
    grace_status st = GRACE_OK;
    switch (s->kind) {
    case UNICODE: return to_form(s->form, text, n, out);
    case LOWERCASE: return to_lowercase(text, n, out);
    case STRIP: return strip(s, text, n, out);
    case REPLACE: return gr_pattern_replace(s->pattern, searcher, text, n, s->content, n_max, out);
    case PREPEND: break;
    }
    if (n > 0) GR_TRY(gr_buf_append(out, s->content, strlen(s->content)));
    GR_TRY(gr_buf_append(out, text, n));
done:
    return st;
}

/* Stages write into two texts in turn, the last one into out. */
grace_status gr_normalize(const gr_normalizer *normalizer, gr_searcher *searcher, const char *text, size_t n, gr_buf *out) {
    grace_status st = GRACE_OK;
    gr_buf texts[2] = {{0}, {0}};
    const size_t n_max = grown_max(n);
    for (size_t i = 0; i < normalizer->n_stages; i++) {
        gr_buf *next = i + 1 == normalizer->n_stages ? out : &texts[i % 2];
        if (next != out) next->n = 0;
        GR_TRY(run_stage(&normalizer->stages[i], searcher, text, n, n_max, next));
        text = next->data;
        n = next->n;
    }
done:
    gr_buf_free(&texts[0]);
    gr_buf_free(&texts[1]);
    return st;
}
