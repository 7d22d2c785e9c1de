/* grace pull: a model from a hub to a folder. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "cli.h"
#include "fetch/pull.h"

enum { KEY_REVISION = 0x200, KEY_ENDPOINT, KEY_JSON, KEY_WAIT, KEY_INCLUDE, KEY_EXCLUDE };

static const struct argp_option options[] = {
    {"output", 'o', "DIR", 0, "folder for the files (default: NAME)", 0},
    {"revision", KEY_REVISION, "REV", 0, "branch, tag or commit (default main)", 0},
    {"endpoint", KEY_ENDPOINT, "URL", 0, "the hub (default https://huggingface.co)", 0},
    {"include", KEY_INCLUDE, "PATTERN", 0, "only files whose names match, as in a shell, '*' also over '/'; may be repeated", 0},
    {"exclude", KEY_EXCLUDE, "PATTERN", 0, "not those whose names match, e.g. 'onnx/*'; may be repeated", 0},
    {"wait-max", KEY_WAIT, "SECONDS", 0, "longest pause a server may ask for (default 300)", 0},
    {"json", KEY_JSON, 0, 0, "print one JSON object", 0},
    {0},
};

enum { PATTERNS_MAX = 64 };

typedef struct arguments {
    gr_pull_options pull;
    const char *include[PATTERNS_MAX], *exclude[PATTERNS_MAX];
    bool json;
    gr_progress progress;
} arguments;

static void add_pattern(struct argp_state *state, const char **patterns, int32_t *n, const char *pattern) {
    if (*n == PATTERNS_MAX) argp_error(state, "expected at most %d patterns, found '%s' too", PATTERNS_MAX, pattern);
    patterns[(*n)++] = pattern;
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 'o': a->pull.dir = arg; break;
    case KEY_REVISION: a->pull.revision = arg; break;
    case KEY_ENDPOINT: a->pull.endpoint = arg; break;
    case KEY_WAIT: a->pull.wait_max_s = gr_arg_number(state, "wait-max", arg, 0, 86400); break;
    case KEY_INCLUDE: add_pattern(state, a->include, &a->pull.n_include, arg); break;
    case KEY_EXCLUDE: add_pattern(state, a->exclude, &a->pull.n_exclude, arg); break;
    case KEY_JSON: a->json = true; break;
    case ARGP_KEY_ARG:
        if (a->pull.repo) argp_error(state, "expected one ORG/NAME, found '%s' too", arg);
        a->pull.repo = arg;
        break;
    case ARGP_KEY_END:
        if (!a->pull.repo) argp_error(state, "expected ORG/NAME");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static void show_note(void *user, const char *sentence) {
    arguments *a = user;
    gr_progress_end(&a->progress);
    fprintf(stderr, "%s\n", sentence);
}

static void show_bytes(void *user, int64_t n_done, int64_t n_total) {
    arguments *a = user;
    a->progress.total = (double)n_total * 1e-6;
    gr_progress_update(&a->progress, (double)n_done * 1e-6);
}

static grace_status print_result(const arguments *a, const gr_pull_result *r) {
    if (!a->json) {
        printf("%s: %d files of %s at %s (%d were there), %.1f MB downloaded\n", a->pull.dir, r->n_files, a->pull.repo, r->commit, r->n_kept,
               (double)r->n_bytes * 1e-6);
        return GRACE_OK;
    }
    gr_json *o = gr_json_new_object();
    gr_json_set_string(o, "dir", a->pull.dir);
    gr_json_set_string(o, "repository", a->pull.repo);
    gr_json_set_string(o, "commit", r->commit);
    gr_json_set_int(o, "files", r->n_files);
    gr_json_set_int(o, "files_kept", r->n_kept);
    gr_json_set_int(o, "files_refused", r->n_refused);
    gr_json_set_int(o, "files_left_out", r->n_left_out);
    gr_json_set_int(o, "bytes_downloaded", r->n_bytes);
    return gr_print_json(o);
}

int gr_cmd_pull(int argc, char **argv) {
    static const struct argp argp = {options, parse, "ORG/NAME",
                                     "Download a model's files from a hub.\vAn interrupted download goes on when the command is repeated. A token is taken "
                                     "from the environment, HF_TOKEN. Pickled weights (.bin, .pt, .pth, .ckpt, .pickle, .pkl) are "
                                     "refused.", 0, 0, 0};
    arguments a = {.pull = gr_pull_defaults()};
    gr_pull_result result;
    gr_arg_parse(&argp, 2, argc, argv, &a);
    const char *slash = strchr(a.pull.repo, '/'), *token = getenv("HF_TOKEN");
    if (!a.pull.dir) a.pull.dir = slash && slash[1] ? slash + 1 : a.pull.repo;
    a.pull.token = token && *token ? token : NULL;
    a.pull.include = a.include;
    a.pull.exclude = a.exclude;
    a.pull.user = &a;
    a.pull.on_note = show_note;
    a.pull.on_bytes = show_bytes;
    a.progress = gr_progress_start("downloading", "MB", 0);
    grace_status st = gr_pull(&a.pull, &result);
    gr_progress_end(&a.progress);
    if (!st) st = print_result(&a, &result);
    if (st) fprintf(stderr, "grace: %s\n", grace_last_error());
    return st ? 1 : 0;
}
