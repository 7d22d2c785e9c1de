/* What `grace sim` prints: one object for other programs (docs/simulator.md), or a table. */
#ifndef GRACE_CLI_SIM_JSON_H
#define GRACE_CLI_SIM_JSON_H
#include "base/json.h"
#include "grace/sim.h"

typedef struct gr_sim_plan { const char *name; grace_plan *plan; grace_sim *sim; } gr_sim_plan;

typedef struct gr_sim_output {
    const char *trace;                  /* NULL: made up */
    char tokens[320];                   /* which of them */
    bool synthetic, has_others;
    grace_cluster cluster;              /* of others */
    const grace_workload *workload;     /* NULL: as recorded */
    grace_sim_options options;          /* of all plans */
    const gr_sim_plan *plans;
    int32_t n_plans;
    grace_other_price others[GRACE_N_OTHERS];
} gr_sim_output;

gr_json *gr_sim_json(const gr_sim_output *o);   /* the caller owns it */
void gr_sim_print(const gr_sim_output *o);

/* A token's rows dispatched in a layer, mean. */
double gr_sim_rows_per_token(const grace_sim *s, int link);

#endif
