/* grace report: the numbers of a ladder, or of placements, as a page. */
#include <stdio.h>

#include "base/file.h"
#include "base/memory.h"
#include "base/status.h"
#include "cli.h"
#include "report/report.h"
#include "report_plans.h"

#define DRAWN "a file of 'grace bench ladder' or 'grace bench placements' or 'grace sim --json', or plans and --trace"

enum { KEY_JSON = 0x200, KEY_TRACE, KEY_TEST, KEY_RATES, KEY_SHAPE };

static const struct argp_option options[] = {
    {"output", 'o', "FILE", 0, "the page (default report.html)", 0},
    {"trace", KEY_TRACE, "FILE", 0, "plans: the routing they are measured on", 0},
    {"test", KEY_TEST, "WHICH", 0, "plans: its tokens: all (default), even or odd (sequences), domain:NAME,..., or even domain:NAME,...", 0},
    {"rates", KEY_RATES, "NAME", 0, "plans: rates of links and GPUs, a preset or a file (docs/simulator.md; default h200-25g)", 0},
    {"shape", KEY_SHAPE, "SHAPE", 0, "plans: the model's sizes, a preset or hidden=...,width=... (default: assumed from the number of experts)", 0},
    {"json", KEY_JSON, 0, 0, "print one JSON object", 0},
    {0},
};

typedef struct arguments { gr_report_plans inputs; const char *output; bool json; } arguments;

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    gr_report_plans *in = &a->inputs;
    switch (key) {
    case 'o': a->output = arg; break;
    case KEY_JSON: a->json = true; break;
    case KEY_TRACE: in->trace = arg; break;
    case KEY_TEST:
        if (grace_selection_parse(arg, &in->test)) argp_error(state, "--test: %s", grace_last_error());
        break;
    case KEY_RATES: in->rates = arg; break;
    case KEY_SHAPE: in->shape = arg; break;
    case ARGP_KEY_ARG:
        if (in->n == GR_REPORT_PLANS_MAX) argp_error(state, "expected at most %d files", GR_REPORT_PLANS_MAX);
        in->files[in->n++] = arg;
        break;
    case ARGP_KEY_END:
        if (!in->n) argp_error(state, "expected " DRAWN);
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* What no page is made of is named, by a key that gives it away. */
static grace_status check_drawable(const gr_json *doc, const char *path) {
    static const struct { const char *key, *what; } others[] = {
        {"planned_from", "what 'grace plan --json' printed"}, {"physical_to_logical_map", "a plan for SGLang"}, {"layer_list", "a plan for vLLM-Ascend"},
        {"model_type", "a model's config.json"}, {"top_k", "a trace's meta.json"}};
    const char *found = "none of these";
    if (gr_json_get(doc, "grace_report") || gr_report_is_placements(doc) || gr_report_is_gpu(doc)) return GRACE_OK;
    if (gr_json_get(doc, "grace_plan")) return gr_fail(GRACE_ERR_ARG, "%s is a plan: expected --trace with the routing to measure it on", path);
    for (size_t i = sizeof others / sizeof *others; i-- > 0;)
        if (gr_json_get(doc, others[i].key)) found = others[i].what;
    return gr_fail(GRACE_ERR_FORMAT, "%s: expected " DRAWN "; this seems to be %s", path, found);
}

static grace_status print_table(const gr_json *doc) {
    gr_buf text = {0};
    grace_status st = gr_report_is_gpu(doc)          ? gr_report_gpu_text(doc, &text)
                    : gr_report_is_placements(doc) ? gr_report_placements_text(doc, &text)
                                                   : gr_report_ladder_text(doc, &text);
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

/* The document: made of plans and a trace, or as it lies in the file. */
static grace_status read_document(const gr_report_plans *in, gr_json **doc) {
    grace_status st = GRACE_OK;
    if (in->trace) return gr_report_plans_build(in, doc);
    GR_TRY(gr_json_load(in->files[0], doc));
    if (gr_json_get(*doc, "grace_sim")) {
        gr_json_free(*doc), *doc = NULL;
        return gr_report_sims_build(in->files, in->n, doc);
    }
    GR_CHECK(in->n == 1, GRACE_ERR_ARG, "several files: expected plans and --trace, or what 'grace sim --json' printed, found %s", in->files[0]);
    GR_TRY(check_drawable(*doc, in->files[0]));
done:
    return st;
}

static grace_status report(const arguments *a) {
    grace_status st = GRACE_OK;
    gr_json *doc = NULL;
    gr_buf page = {0};
    GR_TRY(read_document(&a->inputs, &doc));
    st = gr_report_is_gpu(doc) ? gr_report_gpu_svg(doc, &page) : gr_report_html(doc, &page);
    if (st) gr_fail_in(st, "%s", a->inputs.files[0]);
    if (st) goto done;
    GR_TRY(gr_file_replace(a->output, page.data, page.n));
    st = a->json ? print_json(a, page.n) : print_table(doc);
    if (!st && !a->json && a->inputs.trace) gr_report_plans_tell(&a->inputs, a->output);
done:
    gr_buf_free(&page);
    gr_json_free(doc);
    return st;
}

int gr_cmd_report(int argc, char **argv) {
    static const struct argp argp = {options, parse, "FILE...", "Draw numbers as a self-contained HTML page, and print their table: of a ladder "
                                     "('grace bench ladder'), of placements ('grace bench placements'), of simulations ('grace sim --json'), or of one or "
                                     "several plans measured on a trace; or, of models on GPUs ('./run bench gpu', '... multi'), as an SVG chart.", 0, 0, 0};
    arguments a = {.output = "report.html", .inputs = {.rates = "h200-25g"}};
    gr_arg_parse(&argp, 2, argc, argv, &a);
    grace_status st = report(&a);
    if (st) fprintf(stderr, "grace: %s\n", grace_last_error());
    return st ? 1 : 0;
}
