/* The routing policies a second time, slowly and straight from the text (docs/paper.md, docs/architecture.md): which slot a token's choice goes to.
 * Shares no code with src/run/router.c, not even the hash. */
#ifndef GR_TESTS_NAIVE_ROUTE_H
#define GR_TESTS_NAIVE_ROUTE_H
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "grace/engine.h"
#include "grace/plan.h"

typedef enum naive_tier { NAIVE_SAME_RANK, NAIVE_SAME_NODE, NAIVE_ANYWHERE } naive_tier;

/* t = (mix32(sequence, layer, expert) + position) mod 64 */
static inline int32_t naive_turn(int32_t sequence, int32_t layer, int32_t expert, int32_t position) {
    uint64_t a = (uint32_t)sequence * (uint64_t)2654435761, b = ((uint64_t)layer + 2135587861) * 2246822519, c = ((uint64_t)expert + 374761393) * 3266489917;
    uint32_t h = (uint32_t)a ^ (uint32_t)b ^ (uint32_t)c;
    h = (h ^ (h >> 16)) * 2146121005;
    h = (h ^ (h >> 15)) * 2221713035;
    return (int32_t)(((h ^ (h >> 16)) + (uint32_t)position) % 64);
}

static inline int32_t naive_primary(const grace_plan_layer *pl, int32_t expert) { return pl->slots_of_expert[pl->slots_first[expert]]; }

/* How far the nearest copy of an expert is. */
static inline naive_tier naive_tier_of(const grace_plan *plan, int32_t layer, int32_t expert, int32_t home) {
    const grace_plan_layer *pl = &plan->layers[layer];
    naive_tier best = NAIVE_ANYWHERE;
    for (int32_t s = 0; s < pl->n_slots; s++) {
        if (pl->expert_of_slot[s] != expert) continue;
        if (pl->rank_of_slot[s] == home) return NAIVE_SAME_RANK;
        if (pl->rank_of_slot[s] / plan->cluster.gpus_per_node == home / plan->cluster.gpus_per_node) best = NAIVE_SAME_NODE;
    }
    return best;
}

/* The slots a policy may use: the primary first, then by rank. */
static inline int32_t naive_candidates(const grace_plan *plan, int32_t layer, int32_t expert, int32_t home, grace_route route, int32_t *slots) {
    const grace_plan_layer *pl = &plan->layers[layer];
    naive_tier tier = route == GRACE_ROUTE_TAR ? naive_tier_of(plan, layer, expert, home) : NAIVE_ANYWHERE;
    int32_t primary = naive_primary(pl, expert), n = 0, g = plan->cluster.gpus_per_node;
    for (int32_t s = -1; s < pl->n_slots; s++) {
        int32_t slot = s < 0 ? primary : s, rank = pl->rank_of_slot[slot];
        bool near = tier == NAIVE_ANYWHERE || (tier == NAIVE_SAME_NODE ? rank / g == home / g : rank == home);
        if (pl->expert_of_slot[slot] == expert && near && (s < 0 || slot != primary) && (s < 0 || route != GRACE_ROUTE_PRIMARY)) slots[n++] = slot;
    }
    return n;
}

static inline double naive_share(const float *weight, int32_t n, int32_t i) {
    double sum = 0;
    for (int32_t j = 0; j < n; j++) sum += (double)weight[j];
    return sum > 0 ? 64 * (double)weight[i] / sum : 64.0 / n;
}

/* Turns of every host by largest remainder: the floor of its share, one more for those among the `left` that lost most, the earlier first. */
static inline void naive_turns(const float *weight, int32_t n, int32_t *turns) {
    double lost[GRACE_RANKS_MAX];
    int32_t left = 64;
    for (int32_t i = 0; i < n; i++) {
        turns[i] = (int32_t)floor(naive_share(weight, n, i));
        lost[i] = naive_share(weight, n, i) - turns[i];
        left -= turns[i];
    }
    for (int32_t i = 0; i < n; i++) {
        int32_t before = 0;
        for (int32_t j = 0; j < n; j++) before += lost[j] > lost[i] || (lost[j] == lost[i] && j < i);
        turns[i] += before < left;
    }
}

/* Turn t holds the card that lies at t's bits read backwards; cards are dealt host after host. */
static inline int32_t naive_host(const float *weight, int32_t n, int32_t turn) {
    int32_t turns[GRACE_RANKS_MAX], card = 0, host = 0;
    if (n == 1) return 0;
    naive_turns(weight, n, turns);
    for (int32_t i = 0, t = turn; i < 6; i++, t /= 2) card = 2 * card + t % 2;
    for (; card >= turns[host]; host++) card -= turns[host];
    return host;
}

static inline int32_t naive_slot(const grace_plan *plan, int32_t layer, int32_t expert, int32_t home, grace_route route, int32_t turn) {
    if (route == GRACE_ROUTE_TAR_ENTRY) {       /* the home's choice of node, then the choice of the GPU where the row enters it */
        int32_t g = plan->cluster.gpus_per_node, first = naive_slot(plan, layer, expert, home, GRACE_ROUTE_TAR, turn),
                node = plan->layers[layer].rank_of_slot[first] / g;
        return node == home / g ? first : naive_slot(plan, layer, expert, node * g + home % g, GRACE_ROUTE_TAR, turn);
    }
    int32_t slots[GRACE_RANKS_MAX], n = naive_candidates(plan, layer, expert, home, route, slots);
    float weight[GRACE_RANKS_MAX];
    for (int32_t i = 0; i < n; i++) weight[i] = plan->layers[layer].poll_weight[slots[i]];
    return slots[naive_host(weight, n, turn)];
}

/* ---- joint, from the text of src/compute/joint.h ---- */

/* One choice of places for n experts. can [n][n_places]: where an expert has a copy; free_place [n_places]; order: places from the first on. */
static inline void naive_places(int32_t n, int32_t n_places, bool can[][64], const bool *free_place, const int32_t *order, const int32_t *vote,
                                int32_t *chosen) {
    bool visited[64] = {false};
    for (int32_t i = 0; i < n; i++) {
        int32_t places = 0, last = 0;
        chosen[i] = -1;
        for (int32_t p = 0; p < n_places; p++) {
            if (can[i][p]) places++, last = p;
            if (can[i][p] && free_place[p]) chosen[i] = p;
        }
        if (places == 1) chosen[i] = last;
        if (chosen[i] >= 0) visited[chosen[i]] = true;
    }
    for (int32_t i = 0; i < n; i++) {
        if (chosen[i] >= 0) continue;
        for (int32_t o = n_places; o-- > 0;)
            if (can[i][order[o]] && visited[order[o]]) chosen[i] = order[o];
        if (visited[vote[i]]) chosen[i] = vote[i];
    }
    for (;;) {
        int32_t best = -1, best_score = 0;
        for (int32_t o = 0; o < n_places; o++) {
            int32_t score = 0;
            for (int32_t i = 0; i < n; i++)
                if (chosen[i] < 0 && can[i][order[o]]) score += 1000 + (vote[i] == order[o]);
            if (score > best_score) best = order[o], best_score = score;
        }
        if (best < 0) return;
        for (int32_t i = 0; i < n; i++)
            if (chosen[i] < 0 && can[i][best]) chosen[i] = best;
    }
}

/* slots [n] that serve a token of `home`; at most 64 ranks. */
static inline void naive_joint(const grace_plan *plan, int32_t layer, int32_t home, const int32_t *experts, int32_t n, int32_t sequence, int32_t position,
                               int32_t *slots) {
    const grace_plan_layer *pl = &plan->layers[layer];
    int32_t g = plan->cluster.gpus_per_node, n_nodes = plan->cluster.n_nodes, order[64] = {0}, vote[64] = {0}, node[64], gpu[64];
    bool can[64][64] = {{false}}, free_place[64] = {false};
    for (int32_t i = 0; i < n; i++) {
        vote[i] = pl->rank_of_slot[naive_slot(plan, layer, experts[i], home, GRACE_ROUTE_TAR, naive_turn(sequence, layer, experts[i], position))] / g;
        for (int32_t s = 0; s < pl->n_slots; s++)
            if (pl->expert_of_slot[s] == experts[i]) can[i][pl->rank_of_slot[s] / g] = true;
    }
    for (int32_t p = 0; p < n_nodes; p++) order[p] = (home / g + p) % n_nodes, free_place[p] = p == home / g;
    naive_places(n, n_nodes, can, free_place, order, vote, node);
    for (int32_t i = 0; i < n; i++) {
        int32_t here[64], n_here = 0;
        float weight[64];
        for (int32_t s = -1; s < pl->n_slots; s++) {
            int32_t slot = s < 0 ? naive_primary(pl, experts[i]) : s;
            if (pl->expert_of_slot[slot] == experts[i] && pl->rank_of_slot[slot] / g == node[i] && (s < 0 || slot != naive_primary(pl, experts[i])))
                here[n_here] = slot, weight[n_here++] = pl->poll_weight[slot];
        }
        vote[i] = pl->rank_of_slot[here[naive_host(weight, n_here, naive_turn(sequence, layer, experts[i], position))]];
        for (int32_t r = 0; r < n_nodes * g; r++) can[i][r] = false;
        for (int32_t h = 0; h < n_here; h++) can[i][pl->rank_of_slot[here[h]]] = true;
    }
    for (int32_t r = 0; r < n_nodes * g; r++) order[r] = (home % g + r) % (n_nodes * g), free_place[r] = r % g == home % g;
    naive_places(n, n_nodes * g, can, free_place, order, vote, gpu);
    for (int32_t i = 0; i < n; i++)
        for (int32_t s = 0; s < pl->n_slots; s++)
            if (pl->expert_of_slot[s] == experts[i] && pl->rank_of_slot[s] == gpu[i]) slots[i] = s;
}

/* A token's slots under any policy. */
static inline void naive_place(const grace_plan *plan, int32_t layer, int32_t home, grace_route route, const int32_t *experts, int32_t n, int32_t sequence,
                               int32_t position, int32_t *slots) {
    if (route == GRACE_ROUTE_JOINT) {
        naive_joint(plan, layer, home, experts, n, sequence, position, slots);
        return;
    }
    for (int32_t i = 0; i < n; i++) slots[i] = naive_slot(plan, layer, experts[i], home, route, naive_turn(sequence, layer, experts[i], position));
}

/* ---- decode steps: copies that rest are nobody's; the first that serves stands in for a primary that rests ---- */

/* A plan for the functions above and for nothing else; free with naive_decode_free(). */
static inline grace_plan naive_decode_plan(const grace_plan *plan) {
    grace_plan awake = *plan;
    awake.layers = calloc((size_t)plan->n_layers, sizeof *awake.layers);
    for (int32_t l = 0; l < plan->n_layers; l++) {
        const grace_plan_layer *pl = &plan->layers[l];
        size_t n = (size_t)pl->n_slots * sizeof(int32_t);
        awake.layers[l] = *pl;
        awake.layers[l].expert_of_slot = memcpy(malloc(n), pl->expert_of_slot, n);
        awake.layers[l].slots_of_expert = memcpy(malloc(n), pl->slots_of_expert, n);
        for (int32_t s = 0; s < pl->n_slots && pl->serve_decode; s++)
            if (!pl->serve_decode[s]) awake.layers[l].expert_of_slot[s] = -1;
        for (int32_t e = 0; e < plan->n_experts && pl->serve_decode; e++)
            for (int32_t i = pl->slots_first[e + 1]; i-- > pl->slots_first[e];)
                if (pl->serve_decode[pl->slots_of_expert[i]]) awake.layers[l].slots_of_expert[pl->slots_first[e]] = pl->slots_of_expert[i];
    }
    return awake;
}

static inline void naive_decode_free(grace_plan *awake) {
    for (int32_t l = 0; l < awake->n_layers; l++) free(awake->layers[l].expert_of_slot), free(awake->layers[l].slots_of_expert);
    free(awake->layers);
}

#endif
