/* Placements documents made of files: of plans and a trace (report_plans.c), of simulations (report_sims.c). */
#ifndef GRACE_CLI_REPORT_PLANS_H
#define GRACE_CLI_REPORT_PLANS_H
#include "base/json.h"
#include "grace/trace.h"

enum { GR_REPORT_PLANS_MAX = 64 };
typedef struct gr_report_plans {
    int32_t n;
    const char *files[GR_REPORT_PLANS_MAX];     /* plans for one cluster and model; the first is what the others are compared with */
    const char *trace;
    grace_selection test;
    const char *rates, *shape;                  /* shape NULL: assumed from the number of experts */
} gr_report_plans;

/* A line to go under the table: what the predicted times are of. */
void gr_report_plans_tell(const gr_report_plans *r, const char *page);

/* Fails as reading plans and traces does, MISMATCH (plans that do not go together). The caller frees. */
grace_status gr_report_plans_build(const gr_report_plans *r, gr_json **out);

/* Of files [n] that hold what `grace sim --json` printed, for one cluster. Fails as reading JSON does, MISMATCH. The caller frees. */
grace_status gr_report_sims_build(const char *const *files, int32_t n, gr_json **out);

#endif
