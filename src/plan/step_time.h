/* A layer's counts as storage; the pricing itself is public (grace/sim.h). */
#ifndef GR_PLAN_STEP_TIME_H
#define GR_PLAN_STEP_TIME_H
#include "base/memory.h"
#include "grace/sim.h"

grace_status gr_flow_alloc(grace_cluster cluster, grace_flow *f);     /* all zero */
void gr_flow_free(grace_flow *f);
void gr_flow_copy(grace_cluster cluster, const grace_flow *from, const grace_flow *to);
/* All zero. Free with gr_layer_counts_free(), also after a failure. */
grace_status gr_layer_counts_alloc(grace_cluster cluster, bool two_stage, grace_layer_counts *out);
void gr_layer_counts_free(grace_layer_counts *c);

/* A rank's experts: their products or reading their weights, whichever takes longer. */
double gr_rank_expert_seconds(const grace_layer_counts *c, int32_t rank, const grace_shape *shape, const grace_rates *rates);

/* Bytes of a dispatched row's list beside the row itself: the number of entries, then (slot, weight) each. */
static inline double gr_list_bytes(double rows, double entries) { return 4 * rows + 8 * entries; }

#endif
