/* Placements of one layer that look at loads or at nothing, never at affinity: what people run today, for comparison. */
#ifndef GR_PLAN_BASELINES_H
#define GR_PLAN_BASELINES_H
#include <stdint.h>

#include "plan/tables.h"

/* Equal numbers of experts (they differ by at most one), dealt by a seeded shuffle. rank_of_expert [n]. Fails with MEMORY. */
grace_status gr_place_random(int32_t n, int32_t n_ranks, uint64_t seed, int32_t *rank_of_expert);

/* DeepSeek's balancer with slots_per_rank slots everywhere. A second copy on one rank, which it may give, serves nobody and is left out.
 * load [n]; rank_of_expert [n]; copies [room for n * n_ranks]. Fails with ARG (n_groups), MEMORY. */
grace_status gr_place_eplb(const double *load, int32_t n, grace_cluster cluster, int32_t slots_per_rank, int32_t n_groups, int32_t *rank_of_expert,
                           gr_copy *copies, int32_t *n_copies);

/* All experts on every node, in each node on the same GPUs, heaviest first to the lightest GPU with room; primaries dealt over the nodes.
 * load [n]; rank_of_expert [n]; copies [room for n * n_nodes]. Fails with MEMORY. */
grace_status gr_place_replicate_node(const double *load, int32_t n, grace_cluster cluster, int32_t *rank_of_expert, gr_copy *copies,
                                     int32_t *n_copies);

#endif
