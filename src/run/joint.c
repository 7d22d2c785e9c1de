#include "run/joint.h"

#include "base/memory.h"
#include "plan/turns.h"

_Static_assert(((int64_t)GR_JOINT_USE * GR_JOINT_TOP_K_MAX + GR_JOINT_TOP_K_MAX + 1) * GRACE_RANKS_MAX <= INT32_MAX, "what a place is worth fits a number");

/* ---- tables ---- */

static int32_t copies_of(const gr_joint *j, int32_t layer) { return j->plan->layers[layer].slots_first[j->plan->n_experts]; }

bool gr_joint_has_choice(const gr_joint *j, int32_t layer) { return copies_of(j, layer) > j->plan->n_experts; }

static int32_t *take(int32_t **at, int32_t n) {
    int32_t *taken = *at;
    *at += n;
    return taken;
}

/* Lists of nodes have room for one a copy. */
gr_joint_tables gr_joint_of_layer(const gr_joint *j, int32_t *tables, int32_t layer) {
    const int32_t n = copies_of(j, layer), g = j->plan->cluster.gpus_per_node;
    int32_t *at = tables + j->first[layer];
    gr_joint_tables t = {.layer = layer, .n_nodes = j->plan->cluster.n_nodes, .gpus_per_node = g, .home_node = j->rank / g, .home_gpu = j->rank % g};
    t.nodes_first = take(&at, j->plan->n_experts + 1);
    t.node = take(&at, n), t.copies_first = take(&at, n + 1);
    t.rank = take(&at, n), t.slot = take(&at, n), t.turns_end = take(&at, n);
    t.node_of_slot = take(&at, j->plan->layers[layer].n_slots);
    GR_ASSERT(at == tables + j->first[layer + 1]);
    return t;
}

static size_t size_of_layer(const gr_joint *j, int32_t layer) {
    return (size_t)j->plan->n_experts + 1 + 5 * (size_t)copies_of(j, layer) + 1 + (size_t)j->plan->layers[layer].n_slots;
}

/* The copies of an expert in a node, from *copies on, with their turns. */
static void list_node(const grace_plan_layer *pl, int32_t expert, int32_t node, const gr_joint_tables *t, int32_t *copies) {
    float weight[GRACE_RANKS_MAX];
    int32_t turns[GRACE_RANKS_MAX], n = 0, end = 0;
    for (int32_t c = pl->slots_first[expert]; c < pl->slots_first[expert + 1]; c++) {
        const int32_t slot = pl->slots_of_expert[c];
        if (t->node_of_slot[slot] != node) continue;
        t->rank[*copies + n] = pl->rank_of_slot[slot], t->slot[*copies + n] = slot;
        weight[n++] = pl->poll_weight[slot];
    }
    GR_ASSERT(n > 0);
    gr_turns_of_weights(weight, n, turns);
    for (int32_t i = 0; i < n; i++) t->turns_end[(*copies)++] = end += turns[i];
}

/* Nodes in the order of their first copies. */
static void list_expert(const grace_plan_layer *pl, int32_t expert, const gr_joint_tables *t, int32_t *nodes, int32_t *copies) {
    t->nodes_first[expert] = *nodes;
    for (int32_t c = pl->slots_first[expert]; c < pl->slots_first[expert + 1]; c++) {
        const int32_t node = t->node_of_slot[pl->slots_of_expert[c]];
        int32_t at = t->nodes_first[expert];
        while (at < *nodes && t->node[at] != node) at++;
        if (at < *nodes) continue;
        t->node[*nodes] = node, t->copies_first[(*nodes)++] = *copies;
        list_node(pl, expert, node, t, copies);
    }
}

static void list_layer(const gr_joint *j, int32_t layer) {
    const grace_plan_layer *pl = &j->plan->layers[layer];
    const gr_joint_tables t = gr_joint_of_layer(j, j->tables, layer);
    int32_t nodes = 0, copies = 0;
    for (int32_t s = 0; s < pl->n_slots; s++) t.node_of_slot[s] = pl->rank_of_slot[s] / t.gpus_per_node;
    for (int32_t e = 0; e < j->plan->n_experts; e++) list_expert(pl, e, &t, &nodes, &copies);
    t.nodes_first[j->plan->n_experts] = nodes;
    t.copies_first[nodes] = copies;
}

grace_status gr_joint_init(gr_joint *j, const grace_plan *plan, int32_t rank) {
    grace_status st = GRACE_OK;
    *j = (gr_joint){.plan = plan, .rank = rank};
    GR_CHECK(plan->top_k <= GR_JOINT_TOP_K_MAX, GRACE_ERR_LIMIT, "policy joint: expected top-%d at most, found top-%d", GR_JOINT_TOP_K_MAX, plan->top_k);
    GR_CALLOC(j->first, (size_t)plan->n_layers + 1);
    for (int32_t l = 0; l < plan->n_layers; l++) j->first[l + 1] = j->first[l] + size_of_layer(j, l);
    GR_CALLOC(j->tables, j->first[plan->n_layers]);
    GR_CALLOC(j->tally, grace_cluster_ranks(plan->cluster));
    for (int32_t l = 0; l < plan->n_layers; l++) list_layer(j, l);
done:
    return st;
}

void gr_joint_free(gr_joint *j) {
    free(j->first), free(j->tables), free(j->tally);
    *j = (gr_joint){0};
}

/* ---- a token ---- */

void gr_joint_place(const gr_joint *j, int32_t layer, int32_t n, const int32_t *experts, int32_t sequence, int32_t position, int32_t *slots) {
    const gr_joint_tables t = gr_joint_of_layer(j, j->tables, layer);
    gr_joint_choice choices[GR_JOINT_TOP_K_MAX];
    GR_ASSERT(n <= GR_JOINT_TOP_K_MAX);
    gr_joint_place_experts(&t, n, experts, sequence, position, choices, j->tally, slots);
}
