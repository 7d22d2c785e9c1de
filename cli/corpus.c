#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "cli.h"

enum { SEPARATOR = 0x1e };
const char *const gr_documents_names[3] = {"all", "even", "odd"};

/* The token ids of the wanted documents of one file. */
typedef struct documents { int32_t n; int32_t **ids, *n_ids; } documents;

static void documents_free(documents *d) {
    for (int32_t i = 0; i < d->n; i++) free(d->ids[i]);
    free(d->ids);
    free(d->n_ids);
}

static bool wanted(gr_documents which, int32_t index) { return which == GR_DOCUMENTS_ALL || (index % 2 == 0) == (which == GR_DOCUMENTS_EVEN); }

static grace_status read_documents(const grace_tokenizer *tok, const char *path, gr_documents which, documents *out) {
    grace_status st = GRACE_OK;
    gr_file file = {0};
    int32_t n = 1;
    GR_TRY(gr_file_map(path, &file));
    const char *text = file.data, *end = text + file.n;
    for (const char *p = text; p < end; p++) n += *p == SEPARATOR;
    GR_CALLOC(out->ids, n);
    GR_CALLOC(out->n_ids, n);
    for (int32_t index = 0; index < n; index++) {
        const char *stop = index + 1 < n ? memchr(text, SEPARATOR, (size_t)(end - text)) : end;
        if (wanted(which, index)) {
            st = grace_tokenizer_encode(tok, text, (size_t)(stop - text), &out->ids[out->n], &out->n_ids[out->n]);
            if (st) gr_fail_in(st, "%s: document %d", path, index);
            if (st) goto done;
            out->n++;
        }
        text = stop + 1;
    }
done:
    gr_file_unmap(&file);
    return st;
}

/* "dir/prose.txt" -> "prose" */
static grace_status domain_name(const char *path, char **name) {
    grace_status st = GRACE_OK;
    const char *slash = strrchr(path, '/'), *base = slash ? slash + 1 : path, *dot = strrchr(base, '.');
    size_t n = dot && dot > base ? (size_t)(dot - base) : strlen(base);
    GR_CALLOC(*name, n + 1);
    memcpy(*name, base, n);
done:
    return st;
}

static int32_t min32(int32_t a, int32_t b) { return a < b ? a : b; }

/* The window of a document that starts at `at`, as a request; 0 tokens when less than half a window is left. */
static grace_status add_window(gr_request_list *list, const gr_corpus_options *opt, const int32_t *ids, int32_t n, int32_t domain, int32_t *left) {
    grace_status st = GRACE_OK;
    grace_request req = grace_request_defaults();
    int32_t *prompt = NULL;
    req.n_prompt = min32(min32(n, opt->window), *left);
    if (req.n_prompt < opt->window / 2 && req.n_prompt < *left) return GRACE_OK;
    req.n_generate = 0;
    req.domain = domain;
    GR_CALLOC(prompt, req.n_prompt);
    memcpy(prompt, ids, (size_t)req.n_prompt * sizeof *prompt);
    GR_TRY(gr_requests_add(list, &req, prompt));
    *left -= req.n_prompt;
done:
    return st;
}

static grace_status add_file(gr_request_list *list, const grace_tokenizer *tok, const char *path, int32_t domain, const gr_corpus_options *opt) {
    grace_status st = GRACE_OK;
    documents docs = {0};
    int32_t left = opt->n_tokens_max ? opt->n_tokens_max : INT32_MAX, before = list->n;
    bool any = true;
    GR_TRY(read_documents(tok, path, opt->documents, &docs));
    for (int32_t at = 0; any && left > 0; at += opt->window) {
        any = false;
        for (int32_t d = 0; d < docs.n && left > 0; d++) {
            if (at >= docs.n_ids[d]) continue;
            any = true;
            GR_TRY(add_window(list, opt, docs.ids[d] + at, docs.n_ids[d] - at, domain, &left));
        }
    }
    GR_CHECK(list->n > before, GRACE_ERR_ARG, "%s: no document of at least %d tokens", path, opt->window / 2);
done:
    documents_free(&docs);
    return st;
}

grace_status gr_corpus_requests(gr_request_list *list, const grace_tokenizer *tok, const char *const *files, int32_t n_files,
                                const gr_corpus_options *opt, char **names) {
    grace_status st = GRACE_OK;
    for (int32_t i = 0; i < n_files; i++) {
        GR_TRY(domain_name(files[i], &names[i]));
        for (int32_t j = 0; j < i; j++)
            GR_CHECK(strcmp(names[j], names[i]) != 0, GRACE_ERR_ARG, "%s and %s would both be the domain '%s': name the files differently", files[j], files[i],
                     names[i]);
        GR_TRY(add_file(list, tok, files[i], i, opt));
    }
done:
    return st;
}
