/* As many slots on every rank of every layer, which most other engines need. */
#ifndef GR_PLAN_EQUALISE_H
#define GR_PLAN_EQUALISE_H
#include "grace/plan.h"

/* A copy of the plan in which every rank of every layer has slots_per_rank slots (0: the most that any rank has); free slots get useful replicas.
 * Layers that are equal already stay as they are.
 *
 * The rule, one slot at a time until none is free: the rank with the least predicted load among those with free slots (ties: the lowest) gets, of
 * the experts it does not hold, the one whose copy brings the layer's greatest predicted load lowest; among equals the one that lowers the sum
 * of squared loads most, then the lowest number. Predicted load: an expert's load shared evenly by its copies (paper Eq. 4's assumption).
 * Loads come from the profile. Without one (NULL) every primary of a rank is taken to carry an equal part of the rank's load_before, so that copies
 * come from the ranks where polling is most uneven; a plan without loads counts every expert alike.
 * load_after and poll_weight of changed layers are computed anew; with a profile load_before too; loads that are only assumed alike are not stored.
 *
 * Fails with MISMATCH (profile and plan), LIMIT (a rank has more slots already, or there are fewer experts than slots on a rank: both numbers are
 * in the message), ARG (slots_per_rank below 0), MEMORY. The caller frees. */
grace_status gr_plan_equalise(const grace_plan *plan, const grace_profile *profile, int32_t slots_per_rank, grace_plan **out);

#endif
