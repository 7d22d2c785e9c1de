/* How many slots a rank may hold: equal memory between planners is the same number on the fullest rank, over all layers (DESIGN 7). */
#ifndef GR_PLAN_BUDGET_H
#define GR_PLAN_BUDGET_H
#include <stdint.h>

#include "grace/plan.h"

/* Slots of the fullest rank over all layers. */
int64_t gr_fullest_rank(const grace_plan *plan);

/* From opt->memory, else opt->slots_per_rank, else the fullest rank of planner grace. Fails with LIMIT (the model does not fit), and with what
 * planning fails with. */
grace_status gr_slot_budget(const grace_profile *profile, grace_cluster cluster, const grace_plan_options *opt, int64_t *slots_of_rank);

#endif
