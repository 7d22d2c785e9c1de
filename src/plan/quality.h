/* What a plan is worth on tokens, those it was planned on or others: rows and loads in expectation (cost.h), and the memory it takes. */
#ifndef GR_PLAN_QUALITY_H
#define GR_PLAN_QUALITY_H
#include "plan/cost.h"

typedef struct gr_quality {
    gr_rows_cost rows;          /* a token, mean over layers */
    double load, load_worst;    /* max/mean of the ranks: mean over layers, and of the worst layer */
    double load_std;            /* std over mean of the ranks, mean over layers */
    double load_floor;          /* what load_std would be if each pair fell on a rank by chance (multinomial) */
    double fullest, total;      /* slots over all layers: of the fullest rank, of all ranks, as multiples of the model's share and the model */
} gr_quality;

/* b and p of the same tokens, of the plan's shape. Fails with ARG (another shape), MEMORY. */
grace_status gr_quality_measure(const grace_plan *plan, grace_route route, const grace_bundles *b, const grace_profile *p, gr_quality *out);

#endif
