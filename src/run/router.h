/* Which copy of an expert serves a token: routing policies compiled into a table (docs/architecture.md, Tables; paper Alg. 3-4). */
#ifndef GR_RUN_ROUTER_H
#define GR_RUN_ROUTER_H
#include <stdint.h>

#include "grace/engine.h"
#include "grace/plan.h"
#include "plan/turns.h"
#include "run/joint.h"

typedef struct gr_router {
    int32_t n_layers, n_experts;
    int32_t *pick;          /* [n_layers, n_experts, GR_TURNS] slot for the tokens of one rank */
    gr_joint joint;         /* policy joint: starts from what the table picks; else no plan in it */
} gr_router;

/* Compile the policy for tokens whose home is `rank`; the plan is borrowed. Fails with LIMIT (joint: top_k), MEMORY. Frees with gr_router_free(). */
grace_status gr_router_build(const grace_plan *plan, int32_t rank, grace_route route, gr_router **out);
void gr_router_free(gr_router *router);

/* One expert of one layer: pick [GR_TURNS] slots. */
void gr_router_compile(const grace_plan *plan, int32_t layer, int32_t expert, int32_t rank, grace_route route, int32_t *pick);

static inline int32_t gr_router_pick(const gr_router *r, int32_t layer, int32_t expert, int32_t turn) {
    return r->pick[((int64_t)layer * r->n_experts + expert) * GR_TURNS + turn];
}

/* experts -> slots of one layer.
 *   experts [n_rows, top_k], sequence and position [n_rows]; slots [n_rows, top_k] */
void gr_router_place(const gr_router *r, int32_t layer, int32_t n_rows, int32_t top_k, const int32_t *experts, const int32_t *sequence,
                     const int32_t *position, int32_t *slots);

/* Turns for n hosts with weights >= 0: quantised by largest remainder (ties to the earlier host), dealt in bit-reversed order so that
 * consecutive turns spread over the hosts. All weights zero: shared evenly. host_of_turn [GR_TURNS] gets indices into the hosts. */
void gr_router_deal(const float *weight, int32_t n, int32_t *host_of_turn);

#endif
