#include "plan/eplb.h"

#include <string.h>

#include "base/memory.h"

/* Items in falling order of weight, equal ones as they stand: insertion keeps their order. */
static void sort_falling(const float *weight, int32_t n, int32_t *order) {
    for (int32_t i = 0; i < n; i++) {
        int32_t j = i;
        for (; j > 0 && weight[order[j - 1]] < weight[i]; j--) order[j] = order[j - 1];
        order[j] = i;
    }
}

static int32_t lightest_with_room(const float *weight, const int32_t *n_items, int32_t n_packs, int32_t room) {
    int32_t best = -1;
    for (int32_t p = 0; p < n_packs; p++)
        if (n_items[p] < room && (best < 0 || weight[p] < weight[best])) best = p;
    return best;
}

static void pack(const float *weight, const int32_t *order, int32_t n, int32_t n_packs, float *pack_weight, int32_t *n_items, int32_t *pack_of,
                 int32_t *place_of) {
    for (int32_t i = 0; i < n; i++) {
        int32_t item = order[i], p = lightest_with_room(pack_weight, n_items, n_packs, n / n_packs);
        pack_of[item] = p;
        place_of[item] = n_items[p]++;
        pack_weight[p] += weight[item];
    }
}

grace_status gr_balanced_packing(const float *weight, int32_t n, int32_t n_packs, int32_t *pack_of, int32_t *place_of) {
    grace_status st = GRACE_OK;
    int32_t *order = NULL, *n_items = NULL;
    float *pack_weight = NULL;
    GR_CHECK(n_packs >= 1 && n % n_packs == 0, GRACE_ERR_ARG, "eplb: %d items cannot fill %d packs evenly", n, n_packs);
    GR_CALLOC(order, n);
    GR_CALLOC(n_items, n_packs);
    GR_CALLOC(pack_weight, n_packs);
    for (int32_t i = 0; i < n; i++) order[i] = i;
    if (n > n_packs) sort_falling(weight, n, order);        /* packs of one item take the items as they come */
    if (n > n_packs) pack(weight, order, n, n_packs, pack_weight, n_items, pack_of, place_of);
    for (int32_t i = 0; n == n_packs && i < n; i++) pack_of[i] = i, place_of[i] = 0;
done:
    free(order), free(n_items), free(pack_weight);
    return st;
}

void gr_replicate_experts(const float *weight, int32_t n, int32_t n_slots, int32_t *expert_of_slot, int32_t *copies) {
    for (int32_t e = 0; e < n; e++) expert_of_slot[e] = e, copies[e] = 1;
    for (int32_t s = n; s < n_slots; s++) {
        int32_t best = 0;
        for (int32_t e = 1; e < n; e++)
            if (weight[e] / (float)copies[e] > weight[best] / (float)copies[best]) best = e;
        expert_of_slot[s] = best;
        copies[best]++;
    }
}

/* Working memory of one layer. m: an expert's number once groups are sorted by node. */
typedef struct work {
    float *group_load, *load_of_m, *load_of_slot;
    int32_t *pack_of, *place_of, *expert_of_m, *m_of_slot, *copies;
} work;

static void work_free(work *w) {
    free(w->group_load), free(w->load_of_m), free(w->load_of_slot);
    free(w->pack_of), free(w->place_of), free(w->expert_of_m), free(w->m_of_slot), free(w->copies);
}

static grace_status work_alloc(gr_eplb_shape s, work *w) {
    grace_status st = GRACE_OK;
    GR_CALLOC(w->group_load, s.n_groups);
    GR_CALLOC(w->load_of_m, s.n_experts);
    GR_CALLOC(w->load_of_slot, s.n_slots);
    GR_CALLOC(w->pack_of, s.n_slots);
    GR_CALLOC(w->place_of, s.n_slots);
    GR_CALLOC(w->expert_of_m, s.n_experts);
    GR_CALLOC(w->m_of_slot, s.n_slots);
    GR_CALLOC(w->copies, s.n_experts);
done:
    return st;
}

/* Step 1: groups to nodes. */
static grace_status pack_groups(const float *load, gr_eplb_shape s, work *w) {
    grace_status st = GRACE_OK;
    int32_t size = s.n_experts / s.n_groups, groups_per_node = s.n_groups / s.n_nodes;
    for (int32_t e = 0; e < s.n_experts; e++) w->group_load[e / size] += load[e];
    GR_TRY(gr_balanced_packing(w->group_load, s.n_groups, s.n_nodes, w->pack_of, w->place_of));
    for (int32_t e = 0; e < s.n_experts; e++) {
        int32_t m = (w->pack_of[e / size] * groups_per_node + w->place_of[e / size]) * size + e % size;
        w->expert_of_m[m] = e;
        w->load_of_m[m] = load[e];
    }
done:
    return st;
}

/* Steps 2 and 3 for one node: copies of its experts, slots to GPUs. */
static grace_status fill_node(gr_eplb_shape s, int32_t node, work *w, int32_t *expert_of_slot) {
    grace_status st = GRACE_OK;
    int32_t n = s.n_experts / s.n_nodes, n_slots = s.n_slots / s.n_nodes, slots_per_gpu = s.n_slots / s.n_gpus;
    const float *load = w->load_of_m + (size_t)node * n;
    gr_replicate_experts(load, n, n_slots, w->m_of_slot, w->copies);
    for (int32_t i = 0; i < n_slots; i++) w->load_of_slot[i] = load[w->m_of_slot[i]] / (float)w->copies[w->m_of_slot[i]];
    GR_TRY(gr_balanced_packing(w->load_of_slot, n_slots, s.n_gpus / s.n_nodes, w->pack_of, w->place_of));
    for (int32_t i = 0; i < n_slots; i++)
        expert_of_slot[node * n_slots + w->pack_of[i] * slots_per_gpu + w->place_of[i]] = w->expert_of_m[node * n + w->m_of_slot[i]];
done:
    return st;
}

static grace_status check_shape(gr_eplb_shape s) {
    grace_status st = GRACE_OK;
    GR_CHECK(s.n_experts >= 1 && s.n_nodes >= 1 && s.n_gpus >= 1 && s.n_groups >= 1, GRACE_ERR_ARG,
             "eplb: expected at least 1 expert, node, GPU and group, found %d, %d, %d and %d", s.n_experts, s.n_nodes, s.n_gpus, s.n_groups);
    GR_CHECK(s.n_experts % s.n_groups == 0, GRACE_ERR_ARG, "eplb: %d experts cannot form %d equal groups", s.n_experts, s.n_groups);
    GR_CHECK(s.n_gpus % s.n_nodes == 0, GRACE_ERR_ARG, "eplb: %d GPUs on %d nodes: expected the same number on each", s.n_gpus, s.n_nodes);
    GR_CHECK(s.n_slots >= s.n_experts, GRACE_ERR_ARG, "eplb: %d slots cannot hold %d experts", s.n_slots, s.n_experts);
    GR_CHECK(s.n_slots % s.n_gpus == 0, GRACE_ERR_ARG, "eplb: %d slots on %d GPUs: expected the same number on each", s.n_slots, s.n_gpus);
done:
    return st;
}

grace_status gr_eplb(const float *load, gr_eplb_shape shape, int32_t *expert_of_slot) {
    grace_status st = GRACE_OK;
    work w = {0};
    GR_TRY(check_shape(shape));
    if (shape.n_groups % shape.n_nodes != 0) shape.n_groups = 1, shape.n_nodes = 1;     /* the global policy */
    GR_TRY(work_alloc(shape, &w));
    GR_TRY(pack_groups(load, shape, &w));
    for (int32_t node = 0; node < shape.n_nodes; node++) GR_TRY(fill_node(shape, node, &w, expert_of_slot));
done:
    work_free(&w);
    return st;
}
