/* Plans that leave and come back: who holds what must not change. */
#ifndef GR_TESTS_INTEROP_PLANS_H
#define GR_TESTS_INTEROP_PLANS_H
#include "interop/files.h"
#include "interop/interop.h"
#include "plan/equalise.h"
#include "support/random_plan.h"

static inline bool same_holdings(const grace_plan *a, const grace_plan *b) {
    int32_t n_ranks = grace_cluster_ranks(a->cluster);
    if (a->n_layers != b->n_layers || a->n_experts != b->n_experts || n_ranks != grace_cluster_ranks(b->cluster)) return false;
    for (int32_t l = 0; l < a->n_layers; l++) {
        const grace_plan_layer *x = &a->layers[l], *y = &b->layers[l];
        if (x->n_slots != y->n_slots) return false;
        for (int32_t s = 0; s < x->n_slots; s++) {
            bool found = false;
            for (int32_t t = y->first_slot[x->rank_of_slot[s]]; t < y->first_slot[x->rank_of_slot[s] + 1]; t++)
                found |= y->expert_of_slot[t] == x->expert_of_slot[s];
            if (!found) return false;
        }
    }
    return true;
}

/* Uneven groups, copies anywhere; then equal slots. */
static inline grace_plan *plan_with_equal_slots(uint64_t seed) {
    gr_rng rng = gr_rng_seed(seed);
    gr_random_plan_options opt = {.n_layers = 1 + (int32_t)gr_rng_below(&rng, 4), .n_experts = 8 + (int32_t)gr_rng_below(&rng, 9), .top_k = 2,
                                  .cluster = {1 + (int32_t)gr_rng_below(&rng, 2), 1 + (int32_t)gr_rng_below(&rng, 3)}, .copies = 0.2};
    grace_plan *plan = gr_random_plan(&opt, &rng), *equal = NULL;
    assert_ok(gr_plan_equalise(plan, NULL, 0, &equal));
    grace_plan_free(plan);
    return equal;
}

static inline grace_plan *contiguous(int32_t n_layers, int32_t n_experts, grace_cluster cluster) {
    grace_plan *plan = NULL;
    assert_ok(grace_plan_contiguous(n_layers, n_experts, 2, cluster, &plan));
    return plan;
}

static inline void assert_text(const char *path, const char *expected) {
    size_t n = 0;
    unsigned char *bytes = read_bytes(path, &n);
    bytes[n] = 0;
    assert_string_equal((const char *)bytes, expected);
    free(bytes);
}

#endif
