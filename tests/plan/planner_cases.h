/* Random and planted inputs for the planner's tests, and a claim that prints the seed it failed for. */
#ifndef GR_TESTS_PLANNER_CASES_H
#define GR_TESTS_PLANNER_CASES_H
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "grace/plan.h"

#define claim(condition, seed) \
    do { if (!(condition)) fail_msg("seed %llu: %s", (unsigned long long)(seed), #condition); } while (0)

static inline double *new_doubles(size_t n) {
    double *values = calloc(n ? n : 1, sizeof *values);
    if (!values) abort();
    return values;
}

static inline int32_t *new_ints(size_t n) {
    int32_t *values = calloc(n ? n : 1, sizeof *values);
    if (!values) abort();
    return values;
}

static inline int32_t between(gr_rng *rng, int32_t min, int32_t max) { return min + (int32_t)gr_rng_below(rng, (uint32_t)(max - min + 1)); }

static inline void put_pair(double *affinity, int32_t n, int32_t i, int32_t j, double value) {
    affinity[(size_t)i * n + j] = affinity[(size_t)j * n + i] = value;
}

/* Small whole numbers, so that sums are exact in any order and ties are common; about density of the pairs are not zero. */
static inline void random_affinity(gr_rng *rng, int32_t n, double density, double *affinity) {
    memset(affinity, 0, (size_t)n * n * sizeof *affinity);
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < i; j++)
            if (gr_rng_uniform(rng) < density) put_pair(affinity, n, i, j, (double)gr_rng_below(rng, 20));
}

/* Experts dealt to k blocks of n / k or one more, in random order; pairs inside a block share inside, others up to noise. */
static inline void planted_affinity(gr_rng *rng, int32_t n, int32_t k, double inside, double noise, int32_t *block_of, double *affinity) {
    for (int32_t i = 0; i < n; i++) block_of[i] = i % k;
    for (int32_t i = n - 1; i > 0; i--) {
        int32_t j = between(rng, 0, i), swap = block_of[i];
        block_of[i] = block_of[j], block_of[j] = swap;
    }
    memset(affinity, 0, (size_t)n * n * sizeof *affinity);
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < i; j++) {
            double base = block_of[i] == block_of[j] ? inside : 0;
            put_pair(affinity, n, i, j, base + noise * gr_rng_uniform(rng));
        }
}

static inline bool same_partition(const int32_t *a, const int32_t *b, int32_t n) {
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < i; j++)
            if ((a[i] == a[j]) != (b[i] == b[j])) return false;
    return true;
}

static inline void sizes_of(const int32_t *group_of, int32_t n, int32_t k, int32_t *size) {
    memset(size, 0, (size_t)k * sizeof *size);
    for (int32_t i = 0; i < n; i++) {
        if (group_of[i] < 0 || group_of[i] >= k) abort();
        size[group_of[i]]++;
    }
}

static inline double inside_sum(const double *affinity, const int32_t *group_of, int32_t n) {
    double sum = 0;
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < n; j++)
            if (group_of[i] == group_of[j]) sum += affinity[(size_t)i * n + j];
    return sum;
}

static inline grace_profile new_profile(int32_t n_layers, int32_t n_experts, int32_t top_k) {
    grace_profile p = {.info = {.n_layers = n_layers, .n_experts = n_experts, .top_k = top_k, .n_ranks = 1, .n_nodes = 1}, .n_tokens = 1000};
    p.load = new_doubles((size_t)n_layers * n_experts);
    p.affinity = new_doubles((size_t)n_layers * n_experts * n_experts);
    return p;
}

static inline grace_profile random_profile(gr_rng *rng, int32_t n_layers, int32_t n_experts, int32_t top_k) {
    grace_profile p = new_profile(n_layers, n_experts, top_k);
    for (int32_t l = 0; l < n_layers; l++) random_affinity(rng, n_experts, 0.7, p.affinity + (size_t)l * n_experts * n_experts);
    for (int32_t i = 0; i < n_layers * n_experts; i++) p.load[i] = (double)between(rng, 0, i % 7 ? 100 : 2000);
    return p;
}

static inline void drop_profile(grace_profile *p) { free(p->load), free(p->affinity); }

#endif
