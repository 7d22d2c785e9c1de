#include "plan/baselines.h"

#include <stdbool.h>

#include "base/memory.h"
#include "base/rng.h"
#include "plan/eplb.h"

grace_status gr_place_random(int32_t n, int32_t n_ranks, uint64_t seed, int32_t *rank_of_expert) {
    gr_rng rng = gr_rng_seed(seed);
    for (int32_t e = 0; e < n; e++) {       /* expert e takes a place among those before it, and the one who had it moves to the end */
        int32_t at = (int32_t)gr_rng_below(&rng, (uint32_t)e + 1);
        rank_of_expert[e] = rank_of_expert[at];
        rank_of_expert[at] = e % n_ranks;
    }
    return GRACE_OK;
}

/* The first slot of an expert is its primary, later ones on other ranks are copies. seen [n, n_ranks] zeros. */
static int32_t split_slots(const int32_t *expert_of_slot, int32_t n_slots, int32_t slots_per_rank, int32_t n, int32_t n_ranks, bool *seen,
                           int32_t *rank_of_expert, gr_copy *copies) {
    int32_t n_copies = 0;
    for (int32_t e = 0; e < n; e++) rank_of_expert[e] = -1;
    for (int32_t s = 0; s < n_slots; s++) {
        int32_t e = expert_of_slot[s], rank = s / slots_per_rank;
        bool *here = &seen[(size_t)e * (size_t)n_ranks + (size_t)rank];
        if (rank_of_expert[e] < 0) rank_of_expert[e] = rank;
        else if (!*here) copies[n_copies++] = (gr_copy){e, rank};
        *here = true;
    }
    return n_copies;
}

grace_status gr_place_eplb(const double *load, int32_t n, grace_cluster cluster, int32_t slots_per_rank, int32_t n_groups, int32_t *rank_of_expert,
                           gr_copy *copies, int32_t *n_copies) {
    grace_status st = GRACE_OK;
    int32_t n_ranks = grace_cluster_ranks(cluster), n_slots = slots_per_rank * n_ranks, *expert_of_slot = NULL;
    float *weight = NULL;
    bool *seen = NULL;
    GR_CALLOC(expert_of_slot, n_slots);
    GR_CALLOC(weight, n);
    GR_CALLOC(seen, (size_t)n * (size_t)n_ranks);
    for (int32_t e = 0; e < n; e++) weight[e] = (float)load[e];
    GR_TRY(gr_eplb(weight, (gr_eplb_shape){n, n_slots, n_groups, cluster.n_nodes, n_ranks}, expert_of_slot));
    *n_copies = split_slots(expert_of_slot, n_slots, slots_per_rank, n, n_ranks, seen, rank_of_expert, copies);
done:
    free(expert_of_slot), free(weight), free(seen);
    return st;
}

static int32_t next_heaviest(const double *load, int32_t n, const int32_t *gpu_of) {
    int32_t best = -1;
    for (int32_t e = 0; e < n; e++)
        if (gpu_of[e] < 0 && (best < 0 || load[e] > load[best])) best = e;
    return best;
}

/* gpu_of [n]: balanced loads, numbers that differ by at most one. gpu_load and n_on [n_gpus] zeros. */
static void spread_over_gpus(const double *load, int32_t n, int32_t n_gpus, double *gpu_load, int32_t *n_on, int32_t *gpu_of) {
    for (int32_t e = 0; e < n; e++) gpu_of[e] = -1;
    for (int32_t i = 0; i < n; i++) {
        int32_t e = next_heaviest(load, n, gpu_of), room = i / n_gpus + 1, best = -1;       /* in rounds: everyone gets one before anyone a next */
        for (int32_t g = 0; g < n_gpus; g++)
            if (n_on[g] < room && (best < 0 || gpu_load[g] < gpu_load[best])) best = g;
        gpu_of[e] = best;
        gpu_load[best] += load[e];
        n_on[best]++;
    }
}

grace_status gr_place_replicate_node(const double *load, int32_t n, grace_cluster cluster, int32_t *rank_of_expert, gr_copy *copies,
                                     int32_t *n_copies) {
    grace_status st = GRACE_OK;
    int32_t g = cluster.gpus_per_node, *gpu_of = NULL, *n_on = NULL;
    double *gpu_load = NULL;
    GR_CALLOC(gpu_of, n);
    GR_CALLOC(n_on, g);
    GR_CALLOC(gpu_load, g);
    spread_over_gpus(load, n, g, gpu_load, n_on, gpu_of);
    *n_copies = 0;
    for (int32_t e = 0; e < n; e++)
        for (int32_t node = 0; node < cluster.n_nodes; node++) {
            if (node == e % cluster.n_nodes) rank_of_expert[e] = node * g + gpu_of[e];
            else copies[(*n_copies)++] = (gr_copy){e, node * g + gpu_of[e]};
        }
done:
    free(gpu_of), free(n_on), free(gpu_load);
    return st;
}
