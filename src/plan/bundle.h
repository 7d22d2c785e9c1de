/* Bundles: the distinct sets of experts that tokens chose, with counts, layer by layer. What placement is paid for; planning reads them and
 * never the trace again. */
#ifndef GR_PLAN_BUNDLE_H
#define GR_PLAN_BUNDLE_H
#include <stdint.h>

#include "grace/plan.h"

typedef struct gr_bundle_layer {
    int32_t n;                  /* distinct bundles */
    uint16_t *experts;          /* [n, top_k] ascending within a bundle; in order of first appearance */
    int32_t *count;             /* [n] tokens */
    int32_t *home;              /* [n] rank of the tokens, which tells bundles apart; NULL: any rank, all equally likely */
    int64_t n_tokens;           /* sum of the counts: all tokens, or a regular sample of them */
} gr_bundle_layer;

struct grace_bundles {
    int32_t n_layers, n_experts, top_k;
    gr_bundle_layer *layers;    /* [n_layers] */
};

#endif
