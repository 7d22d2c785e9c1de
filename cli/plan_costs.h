/* What a plan costs, as `grace plan` prints it: rows and loads on the tokens planned from, memory of its copies, predicted times. */
#ifndef GRACE_CLI_PLAN_COSTS_H
#define GRACE_CLI_PLAN_COSTS_H
#include "base/json.h"
#include "grace/sim.h"
#include "plan/quality.h"

/* Steps of the paper's workload (i): 256 sequences, a prompt of 128 tokens, 16 more. */
enum { GR_PLAN_SEQUENCES = 256, GR_PLAN_PROMPT = 128, GR_PLAN_DECODE = 16 };
typedef enum gr_plan_aim { GR_AIM_ROWS, GR_AIM_PREFILL, GR_AIM_DECODE, GR_AIM_TIME, GR_N_AIMS } gr_plan_aim;
extern const char *const gr_plan_aims[GR_N_AIMS];      /* "rows", "prefill", "decode", "time" */

/* aim is not ROWS. */
grace_objective gr_plan_objective(gr_plan_aim aim, const grace_shape *shape, const grace_rates *rates);

typedef struct gr_plan_costs {
    gr_quality q;
    int32_t n_copies;               /* of the rank with most, over all layers */
    double copy_bytes, kv_tokens;   /* they take; the KV cache that memory would hold */
    const char *shape;              /* whose bytes */
    bool priced;
    char rates[48];
    grace_prediction prefill, decode;   /* of a prompt's step and of one after it, when priced */
} gr_plan_costs;

/* rates NULL: no times. shape is borrowed. */
grace_status gr_plan_costs_measure(const grace_plan *plan, const grace_bundles *b, const grace_profile *p, const grace_shape *shape, const grace_rates *rates,
                                   gr_plan_costs *out);
void gr_plan_costs_print(const gr_plan_costs *c);
gr_json *gr_plan_costs_json(const gr_plan_costs *c);

#endif
