/* What a placement costs, exactly: rows per link class and loads, in expectation over the token's
 * home (all ranks alike, unless bundles say) and over the router's turns (independent between experts). No sampling: for each home, a rank or
 * node is visited unless every expert of the set goes elsewhere. */
#ifndef GR_PLAN_COST_H
#define GR_PLAN_COST_H
#include <stdint.h>

#include "grace/engine.h"
#include "grace/sim.h"
#include "plan/bundle.h"

/* Who serves an expert for tokens of a home: ranks with shares that sum to 1, in 64ths like the router's turns. */
typedef struct gr_shares {
    int32_t n_ranks, n_experts, gpus_per_node;
    int32_t *first, *end;       /* [n_ranks * n_experts] a list by home, then expert */
    int32_t *rank;
    double *share;
} gr_shares;

grace_status gr_shares_build(const grace_plan *plan, int32_t layer, gr_shares *out);     /* topology-aware routing (paper Alg. 4) */
grace_status gr_shares_build_for(const grace_plan *plan, int32_t layer, grace_route route, gr_shares *out);
void gr_shares_free(gr_shares *s);
/* An expert's lists again, as topology-aware routing has them for the plan as it is now: some of the copies that it had at first. */
void gr_shares_renew(const grace_plan *plan, int32_t layer, int32_t expert, gr_shares *s);

/* Rows a token dispatches in a layer; combine sends as many back. cross: one per remote node visited. intra: one per GPU visited, in each node
 * beside the GPU where the row enters it (home, or home's peer). flat_cross, flat_intra: without the node level, one per remote GPU visited. */
typedef struct gr_rows_cost { double cross, intra, flat_cross, flat_intra; } gr_rows_cost;

grace_status gr_cost_rows(const gr_shares *s, const gr_bundle_layer *b, int32_t top_k, gr_rows_cost *out);
/* The same, and flow (zeroed by the caller; NULL: none) gets the rows a token dispatches over every link. Where homes are alike a set is priced
 * for n_homes of them, the next set for the next ones, and so on in turn: less work than all of them, and no rank is preferred. */
grace_status gr_cost_flow(const gr_shares *s, const gr_bundle_layer *b, int32_t top_k, int32_t n_homes, const grace_flow *flow, gr_rows_cost *out);

/* The same, a set at a time. Homes that set i is priced for: gr_cost_home() of 0 to gr_cost_homes() - 1. */
int32_t gr_cost_homes(const gr_bundle_layer *b, int32_t n_homes, int32_t n_ranks);
int32_t gr_cost_home(const gr_bundle_layer *b, int32_t i, int32_t h, int32_t n_homes, int32_t n_ranks);

/* Chances that nothing of a set goes somewhere, with lists of the places where they are not 1: room for gr_cost_set(). */
typedef struct gr_visits {
    double *rank_missed, *node_missed, *node_part;  /* [n_ranks], [n_nodes] -1: not in the list, [n_nodes] 0 between uses */
    int32_t *ranks, *nodes;                         /* touched */
    int32_t n_ranks, n_nodes;
} gr_visits;
grace_status gr_visits_alloc(int32_t n_ranks, gr_visits *v);
void gr_visits_free(gr_visits *v);
/* flow gets count times the chances of each link, which a negative count takes out again; NULL: totals only. */
gr_rows_cost gr_cost_set(const gr_shares *s, const uint16_t *set, int32_t top_k, int32_t home, double count, gr_visits *v, const grace_flow *flow);

/* load [n_experts] pairs -> rank_load [n_ranks] pairs, homes alike. */
void gr_cost_loads(const gr_shares *s, const double *load, double *rank_load);

/* The heaviest rank over the mean; 1 when there is no load. */
double gr_max_over_mean(const double *rank_load, int32_t n_ranks);

/* load_after and poll weights (inverse load) of a layer that is placed, for planners that are not the paper's: each depends on the other, so
 * weights start even and are found in a few rounds. load [n_experts]. */
grace_status gr_plan_settle(grace_plan *plan, int32_t layer, const double *load);

#endif
