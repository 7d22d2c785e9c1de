/* A step of one layer, priced again and again while copies of one expert after another rest or serve. Only what that expert's tokens move and compute is
 * taken out and put in again: a price costs a share of top_k / n_experts of the sets, where gr_expect_layer() walks over all of them. */
#ifndef GR_PLAN_REPRICE_H
#define GR_PLAN_REPRICE_H
#include "plan/expect.h"

typedef struct gr_reprice {
    const grace_plan *all, *view;
    int32_t layer;
    const gr_bundle_layer *b;
    double n_tokens, row_bytes;
    gr_choices choices;
    int32_t *first, *set;       /* [n_experts * n_ranks + 1] by expert, then home: sets with the expert that are priced for the home */
    gr_visits visits;
    gr_shares is, tried;        /* alike, but for the expert tried last */
    gr_expected x_is, x_tried;  /* reach and used likewise */
    int32_t expert;             /* tried last; -1: none */
} gr_reprice;

/* Of view, whose lists in this layer may lose and regain copies that they have now: all has these copies. n_tokens, row_bytes: as gr_expected_counts(). Borrows
 * plans and bundles. Close also after a failure. Fails with ARG, LIMIT, MEMORY. */
grace_status gr_reprice_open(const grace_plan *all, const grace_plan *view, int32_t layer, const gr_bundle_layer *b, double n_tokens, double row_bytes,
                             gr_reprice *out);
void gr_reprice_close(gr_reprice *p);

/* The step with the expert as view lists it now and all others as they were kept. Borrowed until the next call. */
const grace_layer_counts *gr_reprice_try(gr_reprice *p, int32_t expert);
/* What was tried last stays. */
void gr_reprice_keep(gr_reprice *p);
/* The step as it was kept. Borrowed until the next call. */
const grace_layer_counts *gr_reprice_counts(gr_reprice *p);

#endif
