/* Routing policy joint, beyond the paper: the copies that serve a token's experts are chosen together, so that it visits few nodes, then few GPUs.
 * Twice the same choice of places, first of nodes (free: the home's own), then of GPUs in the chosen nodes (free: where the row enters a node, the
 * home or its peer with the same local index):
 *   1. an expert with a copy in the free place stays there; one whose copies are all in one place goes there
 *   2. an expert with copies in places visited by now goes to the one its turn voted for, or else to the first of them from the free place on
 *   3. while experts are left: the place most of them could use takes them all; ties: most votes, then the first from the free place on
 * Nodes are counted from the home's, ranks from the one in node 0 with the home's local index. A vote for a node is what tar would choose; one for a GPU is
 * the same deal of weights and turn among the copies in the chosen node. So it is a pure function of the token's set of experts, its sequence and position,
 * like every policy. */
#ifndef GR_RUN_JOINT_H
#define GR_RUN_JOINT_H
#include "base/hash.h"
#include "grace/plan.h"
#include "plan/turns.h"

enum { GR_JOINT_TOP_K_MAX = 256 };

typedef struct gr_joint {
    const grace_plan *plan;         /* borrowed */
    int32_t rank;                   /* whose tokens */
    int32_t *first, *slot, *place;  /* the experts' copies, [top_k + 1] and [copies of top_k experts] */
    int32_t *uses, *votes;          /* [n_ranks] of places, zeros between calls */
    bool *visited;                  /* [n_ranks] */
} gr_joint;

/* Fails with LIMIT (top_k), MEMORY. Free with gr_joint_free(), also after a failure. */
grace_status gr_joint_init(gr_joint *j, const grace_plan *plan, int32_t rank);
void gr_joint_free(gr_joint *j);

/* The turn of a token: a pure function of (sequence id, layer, expert, position), so that no state is kept anywhere. */
static inline int32_t gr_router_turn(int32_t sequence, int32_t layer, int32_t expert, int32_t position) {
    return (int32_t)((gr_mix32((uint32_t)sequence, (uint32_t)layer, (uint32_t)expert) + (uint32_t)position) % GR_TURNS);
}

/* One token's experts [n] of a layer. slots [n] holds what tar would choose and gets what serves them. */
void gr_joint_place(const gr_joint *j, int32_t layer, int32_t n, const int32_t *experts, int32_t sequence, int32_t position, int32_t *slots);

#endif
