/* What a layer of a plan is expected to move and compute for a token of its bundles, and from that for a step of any size. */
#ifndef GR_PLAN_EXPECT_H
#define GR_PLAN_EXPECT_H
#include "plan/cost.h"
#include "plan/step_time.h"

typedef struct gr_expected {
    grace_flow rows, entries;   /* a token's, dispatched under hsc: rows, and the (slot, weight) entries that travel with them */
    gr_rows_cost total;         /* sums of rows */
    double *reach;              /* [n_slots] chance that a token uses the slot */
    double *used;               /* [n_slots] chance that a step does: of the last gr_expected_counts() */
    int32_t n_slots;
    grace_layer_counts counts;  /* of the last gr_expected_counts() */
} gr_expected;

enum { GR_EXPECT_HOMES = 8 };   /* of gr_cost_flow() */

/* Frees with gr_expected_free(). Fails with ARG, LIMIT, MEMORY. */
grace_status gr_expect_layer(const grace_plan *plan, int32_t layer, const gr_bundle_layer *b, gr_expected *out);
void gr_expected_free(gr_expected *x);

/* A step of that many tokens on all ranks; row_bytes: of a row on the wire. Borrowed until the next call or free. Distinct experts of n tokens:
 * each is missed with (1 - reach)^n. */
const grace_layer_counts *gr_expected_counts(gr_expected *x, const grace_plan_layer *pl, double n_tokens, double row_bytes);

/* ---- the parts, for plan/reprice.c ---- */

/* Tokens of a home that choose an expert, as a share of all tokens: of[home * stride + expert]; stride 0: every home alike. */
typedef struct gr_choices { double *of; int32_t stride; } gr_choices;

grace_status gr_choices_build(const gr_bundle_layer *b, int32_t n_ranks, int32_t n_experts, int32_t top_k, gr_choices *out);    /* free(out->of) */
/* The entries of a home's tokens that choose the expert, times so many. */
void gr_expect_entries(const gr_shares *s, const gr_choices *c, int32_t home, int32_t expert, double times, const grace_flow *entries);
/* reach of the expert's slots. */
void gr_expect_reach(const grace_plan_layer *pl, const gr_shares *s, const gr_choices *c, int32_t expert, double *reach);
double gr_chance_used(double reach, double n_tokens);
/* gr_expected_counts() where x->used is known. */
const grace_layer_counts *gr_expected_sum(gr_expected *x, const grace_plan_layer *pl, double n_tokens, double row_bytes);

#endif
