#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/rng.h"
#include "cli.h"

grace_status gr_requests_add(gr_request_list *list, const grace_request *req, int32_t *prompt) {
    grace_status st = GRACE_OK;
    GR_RESERVE(list->items, list->n + 1, list->capacity);
    list->items[list->n] = *req;
    list->items[list->n++].prompt = prompt;
    prompt = NULL;
done:
    free(prompt);
    return st;
}

void gr_requests_free(gr_request_list *list) {
    for (int32_t i = 0; i < list->n; i++) free((void *)list->items[i].prompt);
    free(list->items);
    *list = (gr_request_list){0};
}

static grace_status add_bytes(gr_request_list *list, const grace_tokenizer *tok, const grace_request *defaults, const char *text, size_t n, bool bare) {
    grace_status st = GRACE_OK;
    grace_request req = *defaults;
    int32_t *ids = NULL;
    GR_TRY((bare ? grace_tokenizer_encode_bare : grace_tokenizer_encode)(tok, text, n, &ids, &req.n_prompt));
    if (req.n_prompt == 0) st = gr_fail(GRACE_ERR_ARG, "the prompt is empty: expected at least one token");
    if (st) free(ids);
    else st = gr_requests_add(list, &req, ids);
done:
    return st;
}

grace_status gr_requests_add_text(gr_request_list *list, const grace_tokenizer *tok, const grace_request *defaults, const char *text) {
    return add_bytes(list, tok, defaults, text, strlen(text), false);
}

grace_status gr_requests_add_chat(gr_request_list *list, const grace_tokenizer *tok, const grace_request *defaults, const char *text) {
    return add_bytes(list, tok, defaults, text, strlen(text), true);
}

static grace_status check_keys(const gr_json *object, const char *where) {
    static const char *const known[] = {"prompt", "n", "temperature", "top_p", "top_k", "seed", "ignore_eos"};
    for (const gr_json_member *m = gr_json_first(object); m; m = gr_json_next(object, m)) {
        size_t i = 0;
        while (i < sizeof known / sizeof *known && strcmp(gr_json_key(m), known[i]) != 0) i++;
        if (i == sizeof known / sizeof *known) return gr_fail(GRACE_ERR_FORMAT, "%s: unknown key '%s'", where, gr_json_key(m));
    }
    return GRACE_OK;
}

static grace_status add_object(gr_request_list *list, const grace_tokenizer *tok, const grace_request *defaults, const char *where,
                               const char *line, size_t n) {
    grace_status st = GRACE_OK;
    grace_request req = *defaults;
    gr_json *object = NULL;
    const char *prompt;
    int64_t n_generate, top_k, seed;
    double temperature, top_p;
    GR_TRY(gr_json_parse(where, line, n, &object));
    GR_TRY(check_keys(object, where));
    GR_TRY(gr_json_string(object, where, "prompt", &prompt));
    GR_TRY(gr_json_int_or(object, where, "n", 0, INT32_MAX / 2, req.n_generate, &n_generate));
    GR_TRY(gr_json_int_or(object, where, "top_k", 0, INT32_MAX, req.top_k, &top_k));
    GR_TRY(gr_json_int_or(object, where, "seed", INT64_MIN, INT64_MAX, (int64_t)req.seed, &seed));
    GR_TRY(gr_json_real_or(object, where, "temperature", (double)req.temperature, &temperature));
    GR_TRY(gr_json_real_or(object, where, "top_p", (double)req.top_p, &top_p));
    GR_TRY(gr_json_bool_or(object, where, "ignore_eos", req.ignore_eos, &req.ignore_eos));
    req.n_generate = (int32_t)n_generate;
    req.top_k = (int32_t)top_k;
    req.seed = (uint64_t)seed;
    req.temperature = (float)temperature;
    req.top_p = (float)top_p;
    GR_TRY(add_bytes(list, tok, &req, prompt, strlen(prompt), false));
done:
    gr_json_free(object);
    return st;
}

grace_status gr_requests_add_random(gr_request_list *list, const grace_request *defaults, int32_t n, int32_t n_prompt, int32_t vocab) {
    grace_status st = GRACE_OK;
    for (int32_t i = 0; i < n; i++) {
        gr_rng rng = gr_rng_seed(defaults->seed + (uint64_t)i);
        grace_request req = *defaults;
        int32_t *ids = NULL;
        GR_CALLOC(ids, n_prompt);
        for (int32_t t = 0; t < n_prompt; t++) ids[t] = (int32_t)gr_rng_below(&rng, (uint32_t)vocab);
        req.n_prompt = n_prompt;
        GR_TRY(gr_requests_add(list, &req, ids));
    }
done:
    return st;
}

/* Calls back for every line; the last one may lack its newline. */
typedef grace_status on_line(void *user, const char *where, const char *line, size_t n);
static grace_status each_line(const char *path, on_line *call, void *user) {
    grace_status st = GRACE_OK;
    gr_file file = {0};
    int number = 0;
    char where[PATH_MAX + 32];
    GR_TRY(gr_file_map(path, &file));
    GR_CHECK(file.n > 0, GRACE_ERR_FORMAT, "%s: the file is empty: expected one request a line", path);
    for (const char *line = file.data, *end = line + file.n; line < end; number++) {
        const char *newline = memchr(line, '\n', (size_t)(end - line)), *stop = newline ? newline : end;
        size_t n = (size_t)(stop - line);
        snprintf(where, sizeof where, "%s: line %d", path, number + 1);
        st = call(user, where, line, n > 0 && line[n - 1] == '\r' ? n - 1 : n);
        if (st && strncmp(grace_last_error(), path, strlen(path)) != 0) gr_fail_in(st, "%s", where);
        if (st) goto done;
        line = stop + (newline != NULL);
    }
done:
    gr_file_unmap(&file);
    return st;
}

typedef struct line_target { gr_request_list *list; const grace_tokenizer *tok; const grace_request *defaults; } line_target;

static grace_status add_line(void *user, const char *where, const char *line, size_t n) {
    line_target *t = user;
    if (n > 0 && line[0] == '{') return add_object(t->list, t->tok, t->defaults, where, line, n);
    return add_bytes(t->list, t->tok, t->defaults, line, n, false);
}

grace_status gr_requests_add_file(gr_request_list *list, const grace_tokenizer *tok, const grace_request *defaults, const char *path) {
    line_target t = {list, tok, defaults};
    return each_line(path, add_line, &t);
}

static bool is_separator(char c) { return c == ',' || c == ' ' || c == '\t' || c == '[' || c == ']'; }

static grace_status add_id_line(void *user, const char *where, const char *line, size_t n) {
    grace_status st = GRACE_OK;
    line_target *t = user;
    grace_request req = *t->defaults;
    int32_t *ids = NULL;
    GR_CALLOC(ids, n);
    req.n_prompt = 0;
    for (size_t i = 0; i < n;) {
        int64_t id = 0;
        size_t start = i;
        if (is_separator(line[i])) {
            i++;
            continue;
        }
        for (; i < n && isdigit((unsigned char)line[i]) && id <= INT32_MAX; i++) id = 10 * id + (line[i] - '0');
        GR_CHECK(i > start && id <= INT32_MAX && (i == n || is_separator(line[i])), GRACE_ERR_FORMAT, "%s: expected token ids, found '%.*s'", where,
                 (int)(n - start > 16 ? 16 : n - start), line + start);
        ids[req.n_prompt++] = (int32_t)id;
    }
    GR_CHECK(req.n_prompt > 0, GRACE_ERR_ARG, "%s: the prompt is empty: expected at least one token", where);
    st = gr_requests_add(t->list, &req, ids);
    ids = NULL;
done:
    free(ids);
    return st;
}

grace_status gr_requests_add_ids(gr_request_list *list, const grace_request *defaults, const char *path) {
    line_target t = {list, NULL, defaults};
    return each_line(path, add_id_line, &t);
}
