/* A placements document of plans as they lie in files, measured on a trace's tokens. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/status.h"
#include "interop/interop.h"
#include "placements.h"
#include "plan/trace.h"
#include "report_plans.h"

enum { TEST_BUNDLES = 1 << 16 };
static const grace_workload workload = {.sequences = 256, .prefill = 128, .decode = 16};       /* the paper's first */

static grace_status count_tokens(const gr_report_plans *r, const grace_trace *trace, gr_unit *u) {
    grace_status st = GRACE_OK;
    grace_trace_reader *t = NULL;
    GR_TRY(gr_trace_reader_of(trace, &t));
    GR_TRY(grace_profile_stream(t, &r->test, &u->test.profile));
    GR_TRY(grace_bundles_stream(t, &r->test, false, TEST_BUNDLES, &u->test.bundles));
    GR_CHECK(u->test.profile->n_tokens > 0, GRACE_ERR_ARG, "%s: expected tokens to measure plans on, found none in the selection", r->trace);
    snprintf(u->name, sizeof u->name, "%s", u->test.profile->info.model[0] ? u->test.profile->info.model : r->trace);
done:
    grace_trace_reader_close(t);
    return st;
}

/* What the page says of the tokens; a plan made from some of them looks better than it is, and the page says that too. */
static void describe_tokens(const gr_report_plans *r, const gr_unit *u, grace_plan *const *plans, char *text, size_t size) {
    char which[320];
    const char *seen = NULL;
    for (int32_t i = 0; i < r->n && !seen; i++)
        if (grace_origins_overlap(&plans[i]->planned_from, &u->test.profile->origin)) seen = r->files[i];
    grace_selection_format(&r->test, which, sizeof which);
    snprintf(text, size, "%s of %s%s%s", which, u->test.profile->origin.file, seen ? "; some are those planned from: " : "", seen ? seen : "");
    if (seen) fprintf(stderr, "grace: %s was planned from some of the tokens it is measured on, which any plan looks better on than it is\n", seen);
}

static grace_status load_plans(const gr_report_plans *r, grace_plan **plans) {
    grace_status st = GRACE_OK;
    for (int32_t i = 0; i < r->n; i++) {
        GR_TRY(grace_plan_load(r->files[i], &plans[i]));
        st = grace_plan_check(plans[i], plans[0]->fingerprint, plans[0]->n_layers, plans[0]->layer_ids, plans[0]->n_experts, plans[0]->top_k,
                              plans[0]->cluster);
        if (st) return gr_fail_in(st, "%s beside %s", r->files[i], r->files[0]);
    }
done:
    return st;
}

static grace_status choose_prices(const gr_report_plans *r, gr_placements *p) {
    grace_status st = GRACE_OK;
    const grace_trace_info *info = &p->unit->test.profile->info;
    GR_TRY(grace_rates_load(r->rates, &p->rates));
    if (r->shape) GR_TRY(grace_shape_parse(r->shape, info, &p->shape));
    else p->shape = grace_shape_assumed(info->n_layers, info->n_experts, info->top_k);
    p->workload = workload;
done:
    return st;
}

/* Of the folder that all files are under, '/' included: tables would cut long paths where they begin to differ. */
static size_t common_folder(const gr_report_plans *r) {
    size_t folder = 0;
    for (size_t i = 0; r->files[0][i]; i++) {
        for (int32_t f = 1; f < r->n; f++)
            if (r->files[f][i] != r->files[0][i]) return folder;
        if (r->files[0][i] == '/') folder = i + 1;
    }
    return folder;
}

void gr_report_plans_tell(const gr_report_plans *r, const char *page) {
    printf("rows: a token and layer; prefill, decode: predicted for %s, %d sequences of %d + %d tokens; %s says what each column is\n", r->rates,
           workload.sequences, workload.prefill, workload.decode, page);
}

grace_status gr_report_plans_build(const gr_report_plans *r, gr_json **out) {
    grace_status st = GRACE_OK;
    gr_unit u = {0};
    gr_placements p = {.unit = &u};
    grace_plan **plans = NULL;
    grace_trace *trace = NULL;
    grace_routing *routing = NULL;
    char tokens[512];
    GR_CALLOC(plans, r->n);
    GR_TRY(load_plans(r, plans));
    GR_TRY(gr_foreign_trace(r->trace, &(gr_foreign_options){0}, &trace));
    GR_TRY(count_tokens(r, trace, &u));
    GR_TRY(grace_routing_of_trace(trace, &r->test, &routing));
    p.cluster = plans[0]->cluster, p.routing = routing;
    GR_TRY(choose_prices(r, &p));
    describe_tokens(r, &u, plans, tokens, sizeof tokens);
    gr_placements_open(&p, "Placements", tokens);
    const size_t folder = common_folder(r);
    for (int32_t i = 0; i < r->n; i++) GR_TRY(gr_placements_add(&p, r->files[i] + folder, plans[i], i == r->n - 1));
    *out = gr_json_share(p.doc);
done:
    gr_placements_close(&p);
    grace_routing_free(routing);
    grace_trace_close(trace);
    gr_unit_close(&u);
    for (int32_t i = 0; plans && i < r->n; i++) grace_plan_free(plans[i]);
    free(plans);
    return st;
}
