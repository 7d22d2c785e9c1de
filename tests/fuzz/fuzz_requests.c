/* Any bytes as a file that prompts come from: the first says whether one a line as text or JSON, one a line as token ids, or documents that are cut into
 * windows. One sentence that begins with the file's name, or requests that an engine can be given. */
#include "fuzz/scratch.h"

#include "cli.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { LINES, IDS, DOCUMENTS, N_KINDS, WINDOW = 8 };

static const grace_tokenizer *tokenizer(void) {
    static grace_tokenizer *tok;
    if (!tok) GR_ASSERT(grace_tokenizer_open(GRACE_SOURCE_DIR "/models/tiny-olmoe", &tok) == GRACE_OK);
    return tok;
}

static int32_t n_lines(const uint8_t *bytes, size_t n) {
    int32_t lines = n > 0 && bytes[n - 1] != '\n';
    for (size_t i = 0; i < n; i++) lines += bytes[i] == '\n';
    return lines;
}

static void check_ids(const grace_request *r, int64_t n_ids) {
    GR_ASSERT(r->prompt && r->n_prompt >= 1 && r->n_generate >= 0 && r->top_k >= 0);
    for (int32_t i = 0; i < r->n_prompt; i++) GR_ASSERT(r->prompt[i] >= 0 && r->prompt[i] < n_ids);
}

static grace_status read_documents(const char *path, uint8_t which, gr_request_list *list) {
    gr_corpus_options opt = {.documents = (gr_documents)(which % 3), .window = WINDOW, .n_tokens_max = which % 2 ? 3 * WINDOW : 0};
    char *name = NULL;
    grace_status st = gr_corpus_requests(list, tokenizer(), &path, 1, &opt, &name);
    GR_ASSERT(!name || strcmp(name, "prompts") == 0);
    free(name);
    return st;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    const grace_request usual = grace_request_defaults();
    gr_request_list list = {0};
    char path[128];
    if (n < 1) return 0;
    scratch_put("prompts", data + 1, n - 1, true);
    snprintf(path, sizeof path, "%s/prompts", scratch);
    const int kind = data[0] % N_KINDS;
    grace_status st = kind == LINES ? gr_requests_add_file(&list, tokenizer(), &usual, path)
                    : kind == IDS   ? gr_requests_add_ids(&list, &usual, path)
                                    : read_documents(path, data[0], &list);
    if (st) GR_ASSERT(strncmp(grace_last_error(), path, strlen(path)) == 0);
    else GR_ASSERT(kind == DOCUMENTS ? list.n > 0 : list.n == n_lines(data + 1, n - 1));
    for (int32_t i = 0; i < list.n; i++) check_ids(&list.items[i], kind == IDS ? INT64_C(1) << 31 : grace_tokenizer_vocab(tokenizer()));
    for (int32_t i = 0; kind == DOCUMENTS && i < list.n; i++) GR_ASSERT(list.items[i].n_prompt <= WINDOW);
    gr_requests_free(&list);
    return 0;
}
