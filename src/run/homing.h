/* Which rank a new request lives on (docs/homes.md): by turns, or where its token ids say that least will cross between nodes.
 * With HISTOGRAM it may live elsewhere later (run/rehome.h). */
#ifndef GR_RUN_HOMING_H
#define GR_RUN_HOMING_H
#include "run/batch.h"

typedef struct gr_homing {
    grace_homes kind;
    const grace_plan *plan;     /* borrowed */
    int32_t *held;              /* [n_ranks] requests that were given to each rank, those that moved away not counted */
} gr_homing;

/* vocab: of the model. Fails with ARG (VOCAB without token_saves in a plan of several nodes), MISMATCH (ids the model does not have), MEMORY. Free with
 * gr_homing_free(), also after a failure. */
grace_status gr_homing_init(gr_homing *h, const grace_plan *plan, grace_homes kind, int32_t vocab);
void gr_homing_free(gr_homing *h);

/* Homes of the requests from `first` on, which none has seen yet: every rank has as many requests as any other, within one, over all that were
 * submitted. All ranks find the same homes by themselves. */
grace_status gr_homing_assign(gr_homing *h, gr_batch *b, int32_t first);

#endif
