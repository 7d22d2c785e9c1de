/* A plan's tables from the two facts behind them: where each expert's primary is, and which copies there are. For planners, formats and tests. */
#ifndef GR_PLAN_TABLES_H
#define GR_PLAN_TABLES_H
#include <stdint.h>

#include "grace/plan.h"

enum { GR_PLAN_LAYERS_MAX = 4096, GR_PLAN_EXPERTS_MAX = 4096 };

typedef struct gr_copy { int32_t expert, rank; } gr_copy;       /* a secondary */

/* A plan without slots: every layer is to be placed before use. Names are "none", r < 0. Checks the numbers. Fails with ARG, LIMIT, MEMORY.
 * The caller frees with grace_plan_free(). */
grace_status gr_plan_new(int32_t n_layers, int32_t n_experts, int32_t top_k, grace_cluster cluster, grace_plan **out);

/* Fill a layer's slot tables: slots by rank, within a rank primaries by expert, then secondaries by expert. Loads stay 0, weights are even.
 *   rank_of_expert  [n_experts]  the primary's
 *   copies          [n_copies]   in any order; no expert twice on a rank, primary included (asserted) */
grace_status gr_plan_place(grace_plan *plan, int32_t layer, const int32_t *rank_of_expert, const gr_copy *copies, int32_t n_copies);

/* Which of the model's layers the plan's are, copied; NULL: unknown. Fails with MEMORY. */
grace_status gr_plan_set_layer_ids(grace_plan *plan, const int32_t *ids);

/* poll_weight of every slot from load_after: what paper Eq. 4 is for. */
void gr_plan_weigh(const grace_plan *plan, int32_t layer);

/* The rank of an expert's primary. */
int32_t gr_plan_home(const grace_plan_layer *layer, int32_t expert);

/* Names as they stand in grace_plan.grouping and .replication. */
const char *gr_grouping_name(grace_grouping grouping);
const char *gr_replication_name(grace_replication replication);

#endif
