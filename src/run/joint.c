#include "run/joint.h"

#include <string.h>

#include "base/memory.h"

/* Copies on one expert, of the expert that has most. */
static int32_t copies_most(const grace_plan *plan) {
    int32_t most = 0;
    for (int32_t l = 0; l < plan->n_layers; l++)
        for (int32_t e = 0; e < plan->n_experts; e++) {
            int32_t n = plan->layers[l].slots_first[e + 1] - plan->layers[l].slots_first[e];
            most = n > most ? n : most;
        }
    return most;
}

grace_status gr_joint_init(gr_joint *j, const grace_plan *plan, int32_t rank) {
    grace_status st = GRACE_OK;
    size_t n_ranks = (size_t)grace_cluster_ranks(plan->cluster), n_copies = (size_t)plan->top_k * (size_t)copies_most(plan);
    *j = (gr_joint){.plan = plan, .rank = rank};
    GR_CHECK(plan->top_k <= GR_JOINT_TOP_K_MAX, GRACE_ERR_LIMIT, "policy joint: expected top-%d at most, found top-%d", GR_JOINT_TOP_K_MAX, plan->top_k);
    GR_CALLOC(j->first, (size_t)plan->top_k + 1);
    GR_CALLOC(j->slot, n_copies);
    GR_CALLOC(j->place, n_copies);
    GR_CALLOC(j->uses, n_ranks);
    GR_CALLOC(j->votes, n_ranks);
    GR_CALLOC(j->visited, n_ranks);
done:
    return st;
}

void gr_joint_free(gr_joint *j) {
    free(j->first), free(j->slot), free(j->place), free(j->uses), free(j->votes), free(j->visited);
    *j = (gr_joint){0};
}

/* ---- places: experts i = 0..n-1 may use place[first[i]..first[i + 1]) ---- */

/* Places count from the free one on: of nodes, the home's; of GPUs, each node's entry (free_at of every `period`). */
typedef struct ground { int32_t n_places, period, free_at; } ground;

static int32_t distance(const ground *g, int32_t place) { return (place - g->free_at + g->n_places) % g->n_places; }

static bool may_use(const gr_joint *j, int32_t i, int32_t place) {
    for (int32_t c = j->first[i]; c < j->first[i + 1]; c++)
        if (j->place[c] == place) return true;
    return false;
}

/* Step 1: the free place, or the only one; -1: open. */
static int32_t without_choice(const gr_joint *j, const ground *g, int32_t i) {
    bool only = true;
    for (int32_t c = j->first[i]; c < j->first[i + 1]; c++) {
        if (j->place[c] % g->period == g->free_at) return j->place[c];
        only = only && j->place[c] == j->place[j->first[i]];
    }
    return only ? j->place[j->first[i]] : -1;
}

/* Step 2. */
static int32_t among_visited(const gr_joint *j, const ground *g, int32_t i, int32_t vote) {
    int32_t best = -1;
    for (int32_t c = j->first[i]; c < j->first[i + 1]; c++) {
        int32_t place = j->place[c];
        if (!j->visited[place]) continue;
        if (place == vote) return place;
        if (best < 0 || distance(g, place) < distance(g, best)) best = place;
    }
    return best;
}

/* Step 3: the place that takes most of what is open. */
static int32_t most_useful(const gr_joint *j, const ground *g, int32_t n, const int32_t *chosen, const int32_t *vote) {
    int32_t best = -1;
    for (int32_t i = 0; i < n; i++) {
        if (chosen[i] >= 0) continue;
        j->votes[vote[i]]++;
        for (int32_t c = j->first[i]; c < j->first[i + 1]; c++) {     /* a node may hold two copies */
            bool again = false;
            for (int32_t d = j->first[i]; d < c; d++) again = again || j->place[d] == j->place[c];
            j->uses[j->place[c]] += !again;
        }
    }
    for (int32_t i = 0; i < n; i++)
        for (int32_t c = j->first[i]; chosen[i] < 0 && c < j->first[i + 1]; c++) {
            int32_t p = j->place[c];
            if (best < 0 || j->uses[p] > j->uses[best] ||
                (j->uses[p] == j->uses[best] && (j->votes[p] > j->votes[best] || (j->votes[p] == j->votes[best] && distance(g, p) < distance(g, best)))))
                best = p;
        }
    for (int32_t i = 0; i < n; i++) {
        if (chosen[i] >= 0) continue;
        j->votes[vote[i]] = 0;
        for (int32_t c = j->first[i]; c < j->first[i + 1]; c++) j->uses[j->place[c]] = 0;
    }
    return best;
}

/* chosen [n] */
static void choose_places(const gr_joint *j, const ground *g, int32_t n, const int32_t *vote, int32_t *chosen) {
    int32_t settled[GR_JOINT_TOP_K_MAX] = {0}, best;
    for (int32_t i = 0; i < n; i++)
        if ((chosen[i] = without_choice(j, g, i)) >= 0) j->visited[chosen[i]] = true;
    for (int32_t i = 0; i < n; i++) settled[i] = chosen[i] < 0 ? among_visited(j, g, i, vote[i]) : chosen[i];
    memcpy(chosen, settled, (size_t)n * sizeof *chosen);
    while ((best = most_useful(j, g, n, chosen, vote)) >= 0)
        for (int32_t i = 0; i < n; i++)
            if (chosen[i] < 0 && may_use(j, i, best)) chosen[i] = best;
    for (int32_t i = 0; i < n; i++) j->visited[chosen[i]] = false;
}

/* ---- a token ---- */

/* The copies of each expert, in `node` of each expert only when given, as places of `per_place` ranks. */
static void list_copies(const gr_joint *j, const grace_plan_layer *pl, int32_t n, const int32_t *experts, const int32_t *node, int32_t per_place) {
    int32_t at = 0, g = j->plan->cluster.gpus_per_node;
    for (int32_t i = 0; i < n; i++) {
        j->first[i] = at;
        for (int32_t c = pl->slots_first[experts[i]]; c < pl->slots_first[experts[i] + 1]; c++) {
            int32_t slot = pl->slots_of_expert[c], rank = pl->rank_of_slot[slot];
            if (node && rank / g != node[i]) continue;
            j->slot[at] = slot;
            j->place[at++] = rank / per_place;
        }
    }
    j->first[n] = at;
}

/* The GPU that weights and turn choose among an expert's copies in its node. */
static int32_t vote_for_gpu(const gr_joint *j, const grace_plan_layer *pl, int32_t i, int32_t turn) {
    float weight[GRACE_RANKS_MAX];
    int32_t n = j->first[i + 1] - j->first[i];
    if (n == 1) return j->place[j->first[i]];
    for (int32_t c = 0; c < n; c++) weight[c] = pl->poll_weight[j->slot[j->first[i] + c]];
    return j->place[j->first[i] + gr_turns_host(weight, n, turn)];
}

void gr_joint_place(const gr_joint *j, int32_t layer, int32_t n, const int32_t *experts, int32_t sequence, int32_t position, int32_t *slots) {
    const grace_plan_layer *pl = &j->plan->layers[layer];
    int32_t node[GR_JOINT_TOP_K_MAX], gpu[GR_JOINT_TOP_K_MAX], vote[GR_JOINT_TOP_K_MAX] = {0}, g = j->plan->cluster.gpus_per_node;
    ground nodes = {j->plan->cluster.n_nodes, j->plan->cluster.n_nodes, j->rank / g}, gpus = {grace_cluster_ranks(j->plan->cluster), g, j->rank % g};
    for (int32_t i = 0; i < n; i++) vote[i] = pl->rank_of_slot[slots[i]] / g;
    list_copies(j, pl, n, experts, NULL, g);
    choose_places(j, &nodes, n, vote, node);
    list_copies(j, pl, n, experts, node, 1);
    for (int32_t i = 0; i < n; i++) vote[i] = vote_for_gpu(j, pl, i, gr_router_turn(sequence, layer, experts[i], position));
    choose_places(j, &gpus, n, vote, gpu);
    for (int32_t i = 0; i < n; i++)
        for (int32_t c = j->first[i]; c < j->first[i + 1]; c++)
            if (j->place[c] == gpu[i]) slots[i] = j->slot[c];
}
