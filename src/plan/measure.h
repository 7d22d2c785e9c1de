/* A plan's figures on given tokens, which should be others than it was made from. */
#ifndef GR_PLAN_MEASURE_H
#define GR_PLAN_MEASURE_H
#include "plan/cost.h"

/* Means over the layers, homes random and alike. */
typedef struct gr_measure {
    double cross, intra;            /* rows a token dispatches in a layer, between nodes and inside them; combine sends as many back */
    double load, load_worst;        /* max/mean pairs of the ranks, and of the worst layer */
} gr_measure;

/* load [n_layers, n_experts] of the same tokens. Fails with MEMORY. */
grace_status gr_plan_measure(const grace_plan *plan, const grace_bundles *tokens, const double *load, gr_measure *out);

#endif
