/* grace report: a ladder's numbers as a page. */
#include <stdio.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/status.h"
#include "cli.h"
#include "report/report.h"

enum { KEY_JSON = 0x200 };

static const struct argp_option options[] = {
    {"output", 'o', "FILE", 0, "the page (default report.html)", 0},
    {"json", KEY_JSON, 0, 0, "print one JSON object", 0},
    {0},
};

typedef struct arguments { const char *input, *output; bool json; } arguments;

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case 'o': a->output = arg; break;
    case KEY_JSON: a->json = true; break;
    case ARGP_KEY_ARG:
        if (a->input) argp_error(state, "expected one file, found '%s' too", arg);
        a->input = arg;
        break;
    case ARGP_KEY_END:
        if (!a->input) argp_error(state, "expected the JSON file written by 'grace bench ladder'");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static grace_status print_table(const gr_json *doc) {
    gr_buf text = {0};
    grace_status st = gr_report_is_placements(doc) ? gr_report_placements_text(doc, &text) : gr_report_ladder_text(doc, &text);
    if (!st) fwrite(text.data, 1, text.n, stdout);
    gr_buf_free(&text);
    return st;
}

static grace_status print_json(const arguments *a, size_t n) {
    gr_json *o = gr_json_new_object();
    gr_json_set_string(o, "report", a->output);
    gr_json_set_int(o, "bytes", (int64_t)n);
    return gr_print_json(o);
}

static grace_status report(const arguments *a) {
    grace_status st = GRACE_OK;
    gr_json *doc = NULL;
    gr_buf page = {0};
    GR_TRY(gr_json_load(a->input, &doc));
    st = gr_report_html(doc, &page);
    if (st) gr_fail_in(st, "%s", a->input);
    if (st) goto done;
    GR_TRY(gr_file_replace(a->output, page.data, page.n));
    st = a->json ? print_json(a, page.n) : print_table(doc);
done:
    gr_buf_free(&page);
    gr_json_free(doc);
    return st;
}

int gr_cmd_report(int argc, char **argv) {
    static const struct argp argp = {options, parse, "LADDER.json", "Draw a ladder's numbers as a self-contained HTML page, and print its table.", 0, 0, 0};
    arguments a = {.output = "report.html"};
    gr_arg_parse(&argp, 2, argc, argv, &a);
    grace_status st = report(&a);
    if (st) fprintf(stderr, "grace: %s\n", grace_last_error());
    return st ? 1 : 0;
}
