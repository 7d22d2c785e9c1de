/* A plan's second routing table. Prefill waits for the GPU with most tokens, and every copy helps to spread them; a decode step has few tokens and waits for
 * the GPU that reads most experts' weights, and every copy that gets a token is one more to read. So some copies may rest in decode steps
 * (grace_plan_layer.serve_decode): every policy then passes over them as if they were not there. A step is decode when no rank has a row of a prompt in it. */
#ifndef GR_PLAN_PHASES_H
#define GR_PLAN_PHASES_H
#include "grace/sim.h"

bool gr_plan_has_decode(const grace_plan *plan);

/* The plan as decode steps see it: the same slots and weights, but copies that rest are in no expert's list. Borrows the plan, which outlives it; freed with
 * grace_plan_free(). Fails with MEMORY. */
grace_status gr_plan_of_decode(const grace_plan *plan, grace_plan **out);

/* Let copies rest, layer by layer, where the expected time of a decode step of n_tokens on all ranks falls: from all serving on, and again from all at rest,
 * each expert in turn takes the change that lowers it most, of one copy or of two, until none does; the better end is taken. A layer gets a table only where
 * all bundles agree that it takes less time; tables that were there are replaced. Deterministic. Costs and measurements: docs/planner.md.
 * Fails with MISMATCH (bundles or shape of another model), MEMORY. */
grace_status gr_plan_choose_decode(grace_plan *plan, const grace_bundles *b, const grace_shape *shape, const grace_rates *rates, double n_tokens);

#endif
