/* What the decode routing of a plan is worth, as `grace plan --decode-tokens` prints it. */
#ifndef GRACE_CLI_PLAN_DECODE_H
#define GRACE_CLI_PLAN_DECODE_H
#include "base/json.h"
#include "grace/sim.h"

typedef struct gr_plan_decode {
    int32_t tokens;                     /* of a rank in a step; 0: nothing was asked for */
    int32_t n_copies, n_rest;           /* copies beside one for each expert; those that rest in decode steps */
    grace_prediction before, after;     /* with all copies; with those that serve */
} gr_plan_decode;

/* Expected on these tokens. */
grace_status gr_plan_decode_measure(const grace_plan *plan, const grace_bundles *b, const grace_shape *shape, const grace_rates *rates, int32_t tokens,
                                    gr_plan_decode *out);
void gr_plan_decode_print(const gr_plan_decode *d);
gr_json *gr_plan_decode_json(const gr_plan_decode *d);

#endif
