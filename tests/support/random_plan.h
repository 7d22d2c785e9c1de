/* Random valid plans: uneven groups, copies anywhere, ranks that host nothing, slots of a rank in any order, any weights. Built from a table
 * of who hosts what, without the planner's help.
 *
 *     gr_random_plan_options opt = {.n_layers = 2, .n_experts = 8, .top_k = 2, .cluster = {2, 2}, .copies = 0.3, .empty = 0.2};
 *     grace_plan *plan = gr_random_plan(&opt, &rng);      ... grace_plan_free(plan);
 */
#ifndef GR_TESTS_RANDOM_PLAN_H
#define GR_TESTS_RANDOM_PLAN_H
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/rng.h"
#include "grace/plan.h"

typedef struct gr_random_plan_options {
    int32_t n_layers, n_experts, top_k;
    grace_cluster cluster;
    double copies;              /* chance of a copy of an expert on each other rank that may host */
    double empty;               /* chance that a rank hosts nothing in a layer; one rank always hosts */
} gr_random_plan_options;

static inline void *gr_random_plan_array(grace_plan *plan, int32_t n, size_t size) {
    void *array = gr_arena_alloc(plan->memory, (size_t)n, size);
    GR_ASSERT(array);
    return array;
}

static inline void gr_random_shuffle(gr_rng *rng, int32_t *values, int32_t n) {
    for (int32_t i = n - 1; i > 0; i--) {
        int32_t j = (int32_t)gr_rng_below(rng, (uint32_t)i + 1), kept = values[i];
        values[i] = values[j];
        values[j] = kept;
    }
}

/* Ranks that may host in this layer. */
static inline int32_t gr_random_hosts(gr_rng *rng, int32_t n_ranks, double empty, int32_t *hosts) {
    int32_t n = 0;
    for (int32_t r = 0; r < n_ranks; r++)
        if (gr_rng_uniform(rng) >= empty) hosts[n++] = r;
    if (n == 0) hosts[n++] = (int32_t)gr_rng_below(rng, (uint32_t)n_ranks);
    gr_random_shuffle(rng, hosts, n);
    return n;
}

/* Weights of an expert's copies: even, or anything, sometimes with zeros, normalised. */
static inline void gr_random_weights(gr_rng *rng, grace_plan_layer *pl, int32_t expert) {
    double sum = 0;
    int32_t begin = pl->slots_first[expert], end = pl->slots_first[expert + 1], shape = (int32_t)gr_rng_below(rng, 3);
    for (int32_t i = begin; i < end; i++) {
        double w = shape == 0 ? 1 : shape == 1 ? 0.1 + gr_rng_uniform(rng) : i > begin && gr_rng_below(rng, 3) == 0 ? 0 : gr_rng_uniform(rng) + 1e-3;
        pl->poll_weight[pl->slots_of_expert[i]] = (float)w;
        sum += w;
    }
    for (int32_t i = begin; i < end; i++) pl->poll_weight[pl->slots_of_expert[i]] /= (float)sum;
}

/* hosted [n_experts, n_ranks]: 0 no, 1 a copy, 2 the primary. */
static inline void gr_random_layer(gr_rng *rng, grace_plan *plan, grace_plan_layer *pl, const int32_t *hosted) {
    int32_t n_ranks = grace_cluster_ranks(plan->cluster), n = plan->n_experts, *order = calloc((size_t)n, sizeof *order);
    GR_ASSERT(order);
    for (int32_t i = 0; i < n * n_ranks; i++) pl->n_slots += hosted[i] > 0;
    pl->expert_of_slot = gr_random_plan_array(plan, pl->n_slots, sizeof(int32_t));
    pl->rank_of_slot = gr_random_plan_array(plan, pl->n_slots, sizeof(int32_t));
    pl->first_slot = gr_random_plan_array(plan, n_ranks + 1, sizeof(int32_t));
    pl->slots_first = gr_random_plan_array(plan, n + 1, sizeof(int32_t));
    pl->slots_of_expert = gr_random_plan_array(plan, pl->n_slots, sizeof(int32_t));
    pl->poll_weight = gr_random_plan_array(plan, pl->n_slots, sizeof(float));
    pl->load_before = gr_random_plan_array(plan, n_ranks, sizeof(double));
    pl->load_after = gr_random_plan_array(plan, n_ranks, sizeof(double));
    for (int32_t i = 0; i < n; i++) order[i] = i;
    for (int32_t r = 0, s = 0; r < n_ranks; r++) {
        gr_random_shuffle(rng, order, n);
        for (int32_t i = 0; i < n; i++)
            if (hosted[order[i] * n_ranks + r]) {
                pl->expert_of_slot[s] = order[i];
                pl->rank_of_slot[s++] = r;
            }
        pl->first_slot[r + 1] = s;
    }
    for (int32_t e = 0, at = 0; e < n; e++) {
        for (int32_t want = 2; want >= 1; want--)
            for (int32_t s = 0; s < pl->n_slots; s++)
                if (pl->expert_of_slot[s] == e && hosted[e * n_ranks + pl->rank_of_slot[s]] == want) pl->slots_of_expert[at++] = s;
        pl->slots_first[e + 1] = at;
        gr_random_weights(rng, pl, e);
    }
    free(order);
}

static inline grace_plan *gr_random_plan(const gr_random_plan_options *opt, gr_rng *rng) {
    int32_t n_ranks = grace_cluster_ranks(opt->cluster), hosts[GRACE_RANKS_MAX];
    grace_plan *plan = calloc(1, sizeof *plan);
    int32_t *hosted = calloc((size_t)opt->n_experts * (size_t)n_ranks, sizeof *hosted);
    GR_ASSERT(plan && hosted && (plan->memory = gr_arena_new()));
    plan->n_layers = opt->n_layers, plan->n_experts = opt->n_experts, plan->top_k = opt->top_k;
    plan->cluster = opt->cluster;
    plan->r = -1;
    snprintf(plan->planner, sizeof plan->planner, "random");
    plan->layers = gr_random_plan_array(plan, opt->n_layers, sizeof *plan->layers);
    for (int32_t l = 0; l < opt->n_layers; l++) {
        int32_t n_hosts = gr_random_hosts(rng, n_ranks, opt->empty, hosts);
        for (int32_t e = 0; e < opt->n_experts; e++) {
            int32_t a = (int32_t)gr_rng_below(rng, (uint32_t)n_hosts), b = (int32_t)gr_rng_below(rng, (uint32_t)n_hosts);
            for (int32_t r = 0; r < n_ranks; r++) hosted[e * n_ranks + r] = 0;
            for (int32_t h = 0; h < n_hosts; h++) hosted[e * n_ranks + hosts[h]] = gr_rng_uniform(rng) < opt->copies;
            hosted[e * n_ranks + hosts[a < b ? a : b]] = 2;        /* the smaller of two draws: uneven groups */
        }
        gr_random_layer(rng, plan, &plan->layers[l], hosted);
    }
    free(hosted);
    return plan;
}

/* Some layers get a table of copies that rest in decode steps, one of each expert at least serving. */
static inline void gr_random_decode(grace_plan *plan, double rest, gr_rng *rng) {
    for (int32_t l = 0; l < plan->n_layers; l++) {
        grace_plan_layer *pl = &plan->layers[l];
        if (gr_rng_below(rng, 3) == 0) continue;
        pl->serve_decode = gr_random_plan_array(plan, pl->n_slots, sizeof *pl->serve_decode);
        for (int32_t s = 0; s < pl->n_slots; s++) pl->serve_decode[s] = gr_rng_uniform(rng) >= rest;
        for (int32_t e = 0; e < plan->n_experts; e++) {
            int32_t n = pl->slots_first[e + 1] - pl->slots_first[e];
            pl->serve_decode[pl->slots_of_expert[pl->slots_first[e] + (int32_t)gr_rng_below(rng, (uint32_t)n)]] = true;
        }
    }
}

#endif
