/* The placements document (docs/report.md): plans, what they cost on tokens, what memory buys, what is left of a plan on other text. */
#ifndef GRACE_CLI_PLACEMENTS_H
#define GRACE_CLI_PLACEMENTS_H
#include "cli.h"
#include "grace/sim.h"
#include "plan_cases.h"

/* plan_parts.c: members knee (where r was chosen), replicas, affinity of one layer. */
void gr_plan_parts(gr_json *o, const grace_plan *plan, const grace_profile *profile);

/* ---- placements.c ---- */
typedef struct gr_placements {
    const gr_unit *unit;            /* planned on its train half, measured on its test half */
    grace_cluster cluster;
    grace_rates rates;
    grace_shape shape;
    grace_workload workload;        /* replayed for rows between GPUs and their loads; its first and last step are priced */
    const grace_routing *routing;   /* of the test half's tokens */
    uint64_t seed;
    gr_json *doc, *plans;           /* by open */
} gr_placements;

/* What is above is set; gives the document of a title and the routing, to which plans are added. */
void gr_placements_open(gr_placements *p, const char *title, const char *tested_on);
void gr_placements_close(gr_placements *p);     /* accepts a zeroed one */
/* One more plan under a name; strong: the page is about it. Fails with ARG, MISMATCH (another cluster or model), MEMORY. */
grace_status gr_placements_add(gr_placements *p, const char *name, const grace_plan *plan, bool strong);
/* Rows and predicted prefill time of every planner as memory grows from 1 to every expert on every node. */
grace_status gr_placements_curves(gr_placements *p);
/* Planner auto of each domain on each other; units of one model. */
grace_status gr_placements_transfer(gr_placements *p, const gr_unit *units, int32_t n);

#endif
