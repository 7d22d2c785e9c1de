/* Routing policy joint, beyond the paper: the copies that serve a token's experts are chosen together, so that it visits few nodes, then few GPUs.
 * Twice the same choice of places, first of nodes (free: the home's own), then of GPUs in the chosen nodes (free: where the row enters a node, the
 * home or its peer with the same local index):
 *   1. an expert with a copy in the free place stays there; one whose copies are all in one place goes there
 *   2. an expert with copies in places visited by now goes to the one its turn voted for, or else to the first of them from the free place on
 *   3. while experts are left: the place most of them could use takes them all; ties: most votes, then the first from the free place on
 * Nodes are counted from the home's, ranks from the one in node 0 with the home's local index. A vote for a node is what tar would choose; one for a GPU is
 * the same deal of weights and turn among the copies in the chosen node. So it is a pure function of the token's set of experts, its sequence and position,
 * like every policy.
 *
 * One text for CPUs and GPUs, all integers. A token's experts are a crew's: of one thread that has them all, or of a warp whose lanes have one each or none.
 * What experts must know of each other is in a tally of places, zeros before and after, and in the largest of what all say. */
#ifndef GR_COMPUTE_JOINT_H
#define GR_COMPUTE_JOINT_H
#include <stdbool.h>

#include "base/turn.h"

enum { GR_JOINT_TOP_K_MAX = 256 };

/* Where a layer's copies are, as a rank's tokens see them; in memory of who places. An expert's nodes, and its copies in each of them, are two CSRs. */
typedef struct gr_joint_tables {
    int32_t *nodes_first;               /* [n_experts + 1] */
    int32_t *node, *copies_first;       /* [nodes], [nodes + 1] */
    int32_t *rank, *slot;               /* [copies] */
    int32_t *turns_end;                 /* [copies] turns are dealt by weight to an expert's copies in a node, one after the other: where its own end */
    int32_t *node_of_slot;              /* [n_slots] */
    int32_t layer, n_nodes, gpus_per_node, home_node, home_gpu;     /* home_gpu: of its node */
} gr_joint_tables;

/* What becomes of one expert of a token. */
typedef struct gr_joint_choice {
    int32_t first, end;                 /* of the table of places: where it may go */
    int32_t free, vote;                 /* places */
    int32_t visited;                    /* step 2 */
    int32_t place;                      /* below 0: open */
} gr_joint_choice;

/* ---- crews: on a GPU all lanes of the warp meet, and learn the largest, together ---- */

GR_HOST_DEVICE static inline void gr_crew_meet(void) {
#ifdef __CUDA_ARCH__
    __syncwarp();
#endif
}

GR_HOST_DEVICE static inline void gr_crew_add(int32_t *to, int32_t n) {
#ifdef __CUDA_ARCH__
    atomicAdd(to, n);
#else
    *to += n;
#endif
}

GR_HOST_DEVICE static inline int32_t gr_crew_max(int32_t x) {
#ifdef __CUDA_ARCH__
    x = __reduce_max_sync(~0u, x);
#endif
    return x;
}

/* ---- places ---- */

/* Nodes, or GPUs; they count from `from` on. */
typedef struct gr_joint_ground {
    const int32_t *place;               /* the table */
    int32_t n_places, from;
    int32_t *tally;                     /* [n_places] first the experts that stay, then uses and votes of those that are open */
} gr_joint_ground;

enum { GR_JOINT_USE = GR_JOINT_TOP_K_MAX + 1 };     /* in the tally: more than all votes */

GR_HOST_DEVICE static inline int32_t gr_joint_distance(const gr_joint_ground *g, int32_t place) {
    return place >= g->from ? place - g->from : place - g->from + g->n_places;
}

/* Step 1. */
GR_HOST_DEVICE static inline int32_t gr_joint_without_choice(const gr_joint_ground *g, const gr_joint_choice *e) {
    for (int32_t c = e->first; c < e->end; c++)
        if (g->place[c] == e->free) return e->free;
    return e->end - e->first == 1 ? g->place[e->first] : -1;
}

/* Step 2. */
GR_HOST_DEVICE static inline int32_t gr_joint_among_visited(const gr_joint_ground *g, const gr_joint_choice *e) {
    int32_t best = -1;
    for (int32_t c = e->first; c < e->end; c++) {
        const int32_t place = g->place[c];
        if (!g->tally[place]) continue;
        if (place == e->vote) return place;
        if (best < 0 || gr_joint_distance(g, place) < gr_joint_distance(g, best)) best = place;
    }
    return best;
}

/* Step 3. times: 1, or -1 to take it back. */
GR_HOST_DEVICE static inline void gr_joint_count(const gr_joint_ground *g, const gr_joint_choice *e, int32_t times) {
    for (int32_t c = e->first; c < e->end; c++) gr_crew_add(&g->tally[g->place[c]], times * (GR_JOINT_USE + (g->place[c] == e->vote)));
}

/* A place and how much it is worth, as one number: uses, votes, nearness. */
GR_HOST_DEVICE static inline int32_t gr_joint_worth(const gr_joint_ground *g, int32_t place) {
    return g->tally[place] * g->n_places + g->n_places - 1 - gr_joint_distance(g, place);
}

/* Below 0: no expert is open. */
GR_HOST_DEVICE static inline int32_t gr_joint_most_useful(const gr_joint_ground *g, int32_t n, const gr_joint_choice *e) {
    int32_t worth = -1, place;
    for (int32_t i = 0; i < n; i++)
        for (int32_t c = e[i].first; e[i].place < 0 && c < e[i].end; c++) {
            const int32_t here = gr_joint_worth(g, g->place[c]);
            worth = here > worth ? here : worth;
        }
    gr_crew_meet();         /* the tally is read */
    worth = gr_crew_max(worth);
    if (worth < 0) return -1;
    place = g->from + g->n_places - 1 - worth % g->n_places;
    return place < g->n_places ? place : place - g->n_places;
}

GR_HOST_DEVICE static inline bool gr_joint_may_use(const gr_joint_ground *g, const gr_joint_choice *e, int32_t place) {
    for (int32_t c = e->first; c < e->end; c++)
        if (g->place[c] == place) return true;
    return false;
}

/* e [n]: this thread's. */
GR_HOST_DEVICE static inline void gr_joint_choose(const gr_joint_ground *g, int32_t n, gr_joint_choice *e) {
    int32_t place;
    for (int32_t i = 0; i < n; i++)
        if ((e[i].place = gr_joint_without_choice(g, &e[i])) >= 0) gr_crew_add(&g->tally[e[i].place], 1);
    gr_crew_meet();         /* visited places are known */
    for (int32_t i = 0; i < n; i++) e[i].visited = e[i].place < 0 ? gr_joint_among_visited(g, &e[i]) : -1;
    gr_crew_meet();         /* to all */
    for (int32_t i = 0; i < n; i++) {
        if (e[i].place >= 0) gr_crew_add(&g->tally[e[i].place], -1);
        else if ((e[i].place = e[i].visited) < 0) gr_joint_count(g, &e[i], 1);      /* none of its places was visited */
    }
    gr_crew_meet();         /* what is open is counted */
    while ((place = gr_joint_most_useful(g, n, e)) >= 0) {
        for (int32_t i = 0; i < n; i++)
            if (e[i].place < 0 && gr_joint_may_use(g, &e[i], place)) gr_joint_count(g, &e[i], -1), e[i].place = place;
        gr_crew_meet();     /* it no longer is */
    }
}

/* ---- a token ---- */

/* From the chosen node to the copies in it. */
GR_HOST_DEVICE static inline void gr_joint_enter(const gr_joint_tables *t, int32_t turn, gr_joint_choice *e) {
    int32_t at = e->first, card = gr_turns_reversed(turn);
    while (t->node[at] != e->place) at++;
    e->first = t->copies_first[at], e->end = t->copies_first[at + 1], e->free = e->place * t->gpus_per_node + t->home_gpu;
    for (at = e->first; card >= t->turns_end[at];) at++;
    e->vote = t->rank[at];
}

/* This thread's n of a token's experts: slots [n] holds what tar would choose and gets what serves them. e: [n]; tally: the crew's, [n_ranks]. */
GR_HOST_DEVICE static inline void gr_joint_place_experts(const gr_joint_tables *t, int32_t n, const int32_t *experts, int32_t sequence, int32_t position,
                                                         gr_joint_choice *e, int32_t *tally, int32_t *slots) {
    const gr_joint_ground nodes = {t->node, t->n_nodes, t->home_node, tally}, gpus = {t->rank, t->n_nodes * t->gpus_per_node, t->home_gpu, tally};
    for (int32_t i = 0; i < n; i++) {
        e[i].first = t->nodes_first[experts[i]], e[i].end = t->nodes_first[experts[i] + 1];
        e[i].free = t->home_node, e[i].vote = t->node_of_slot[slots[i]];
    }
    gr_joint_choose(&nodes, n, e);
    for (int32_t i = 0; i < n; i++) gr_joint_enter(t, gr_router_turn(sequence, t->layer, experts[i], position), &e[i]);
    gr_joint_choose(&gpus, n, e);
    for (int32_t i = 0; i < n; i++) {
        int32_t at = e[i].first;
        while (t->rank[at] != e[i].place) at++;
        slots[i] = t->slot[at];
    }
}

#endif
