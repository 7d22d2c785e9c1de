/* How much of a profile's affinity a plan keeps together. */
#ifndef GR_PLAN_CUT_H
#define GR_PLAN_CUT_H
#include "grace/plan.h"

/* Share of the affinity between experts whose primaries are on one rank (inside_gpu) or one node (inside_node), mean over layers; a layer
 * without affinity counts as 0. Either pointer may be NULL. Fails with MISMATCH when layers or experts differ, MEMORY. */
grace_status gr_plan_cut(const grace_plan *plan, const grace_profile *profile, double *inside_gpu, double *inside_node);

#endif
