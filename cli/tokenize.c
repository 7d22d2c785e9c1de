/* grace tokenize: text to token ids, for looking and for comparing with other implementations. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/status.h"
#include "cli.h"

enum { KEY_BARE = 0x200, KEY_FRAMES };

static const struct argp_option options[] = {
    {"model", 'm', "DIR", 0, "folder with tokenizer.json", 0},
    {"bare", KEY_BARE, 0, 0, "without the tokens that the files put around a text", 0},
    {"frames", KEY_FRAMES, 0, 0, "texts on stdin as 'BYTES\\n' and so many bytes; each is answered by a line of ids, 'BYTES\\n' and the ids decoded", 0},
    {0},
};

typedef struct arguments { const char *model; bool bare, frames; } arguments;

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 'm': a->model = arg; break;
    case KEY_BARE: a->bare = true; break;
    case KEY_FRAMES: a->frames = true; break;
    case ARGP_KEY_END:
        if (!a->model) argp_error(state, "expected -m DIR");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static grace_status encode(const arguments *a, const grace_tokenizer *tok, const gr_buf *text, int32_t **ids, int32_t *n_ids) {
    return (a->bare ? grace_tokenizer_encode_bare : grace_tokenizer_encode)(tok, text->data, text->n, ids, n_ids);
}

static void print_ids(const int32_t *ids, int32_t n_ids) {
    for (int32_t i = 0; i < n_ids; i++) printf(i ? " %d" : "%d", (int)ids[i]);
    putchar('\n');
}

static grace_status answer(const arguments *a, const grace_tokenizer *tok, const gr_buf *text) {
    grace_status st = GRACE_OK;
    int32_t *ids = NULL, n_ids;
    char *back = NULL;
    size_t n_back;
    GR_TRY(encode(a, tok, text, &ids, &n_ids));
    print_ids(ids, n_ids);
    if (!a->frames) goto done;
    GR_TRY(grace_tokenizer_decode(tok, ids, n_ids, 0, &back, &n_back));
    printf("%zu\n", n_back);
    fwrite(back, 1, n_back, stdout);
done:
    free(ids);
    free(back);
    return st;
}

static grace_status read_bytes(gr_buf *text, size_t n) {
    grace_status st = GRACE_OK;
    char part[1 << 16];
    size_t got = 1;
    while (n > 0 && got > 0) {
        got = fread(part, 1, n < sizeof part ? n : sizeof part, stdin);
        GR_TRY(gr_buf_append(text, part, got));
        if (n != SIZE_MAX) n -= got;
    }
    GR_CHECK(n == 0 || n == SIZE_MAX, GRACE_ERR_FORMAT, "stdin: the last text lacks %zu bytes", n);
done:
    return st;
}

static grace_status tokenize(const arguments *a) {
    grace_status st = GRACE_OK;
    grace_tokenizer *tok = NULL;
    gr_buf text = {0};
    char line[32];
    GR_TRY(grace_tokenizer_open(a->model, &tok));
    while (!a->frames || fgets(line, sizeof line, stdin)) {
        char *end = line;
        unsigned long n = a->frames ? strtoul(line, &end, 10) : SIZE_MAX;
        GR_CHECK(!a->frames || (end > line && *end == '\n' && n < INT_MAX), GRACE_ERR_FORMAT, "stdin: expected a number of bytes, found '%.20s'", line);
        text.n = 0;
        GR_TRY(gr_buf_append(&text, "", 0));
        GR_TRY(read_bytes(&text, n));
        GR_TRY(answer(a, tok, &text));
        if (!a->frames) break;
    }
done:
    gr_buf_free(&text);
    grace_tokenizer_close(tok);
    return st;
}

int gr_cmd_tokenize(int argc, char **argv) {
    static const struct argp argp = {options, parse, 0, "Print the token ids of the text on stdin.", 0, 0, 0};
    arguments a = {0};
    gr_arg_parse(&argp, 2, argc, argv, &a);
    grace_status st = tokenize(&a);
    if (st) fprintf(stderr, "grace: %s\n", grace_last_error());
    return st ? 1 : 0;
}
