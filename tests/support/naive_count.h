/* Rows and bytes an exchange must move, counted from first principles (docs/architecture.md, Numbers): sets of (token, node) and (token, GPU).
 * One token at a time, without lists, peers or hops. */
#ifndef GR_TESTS_NAIVE_COUNT_H
#define GR_TESTS_NAIVE_COUNT_H
#include <stdbool.h>
#include <stdlib.h>

#include "base/status.h"
#include "grace/engine.h"

typedef struct naive_count {
    grace_cluster cluster;
    grace_exchange kind;
    bool exact;
    int32_t n_ranks;
    int64_t calls;                                  /* exchanges made, for the counts every pair tells each other */
    int64_t *out[GRACE_N_STAGES];                   /* [n_ranks from, n_ranks to] rows dispatched */
    int64_t *entries[GRACE_N_STAGES];               /* (slot, weight) pairs that travel with them */
    int64_t *back[GRACE_N_STAGES];                  /* rows combined */
} naive_count;

static inline naive_count naive_count_new(grace_cluster cluster, grace_exchange kind, bool exact) {
    naive_count c = {.cluster = cluster, .kind = kind, .exact = exact, .n_ranks = grace_cluster_ranks(cluster)};
    for (int s = 0; s < GRACE_N_STAGES; s++) {
        int64_t **tables[] = {&c.out[s], &c.entries[s], &c.back[s]};
        for (int i = 0; i < 3; i++) GR_ASSERT((*tables[i] = calloc((size_t)c.n_ranks * (size_t)c.n_ranks, sizeof(int64_t))));
    }
    return c;
}

static inline void naive_count_free(naive_count *c) {
    for (int s = 0; s < GRACE_N_STAGES; s++) {
        free(c->out[s]);
        free(c->entries[s]);
        free(c->back[s]);
    }
}

/* A token's row goes from one rank to another for `choices` of its choices, and comes home. */
static inline void naive_leg(naive_count *c, int stage, int32_t from, int32_t to, int64_t choices) {
    if (choices == 0) return;
    int64_t rows = c->kind == GRACE_EXCHANGE_PER_EXPERT ? choices : 1;
    c->out[stage][from * c->n_ranks + to] += rows;
    c->entries[stage][from * c->n_ranks + to] += choices;
    c->back[stage][to * c->n_ranks + from] += c->exact ? choices : rows;
}

static inline int64_t naive_choices_on(const int32_t *rank_of_choice, int32_t top_k, int32_t from, int32_t to) {
    int64_t n = 0;
    for (int32_t j = 0; j < top_k; j++) n += rank_of_choice[j] >= from && rank_of_choice[j] < to;
    return n;
}

/* One token that lives on `home`; its choices run on rank_of_choice [top_k]. */
static inline void naive_count_token(naive_count *c, int32_t home, const int32_t *rank_of_choice, int32_t top_k) {
    int32_t g = c->cluster.gpus_per_node;
    bool two_stage = c->kind == GRACE_EXCHANGE_HSC && c->cluster.n_nodes > 1;
    for (int32_t node = 0; two_stage && node < c->cluster.n_nodes; node++)
        if (node != home / g) naive_leg(c, GRACE_STAGE_CROSS, home, node * g + home % g, naive_choices_on(rank_of_choice, top_k, node * g, (node + 1) * g));
    for (int32_t gpu = 0; gpu < c->n_ranks; gpu++) {
        int32_t forwarder = two_stage ? gpu / g * g + home % g : home;
        naive_leg(c, GRACE_STAGE_NODE, forwarder, gpu, naive_choices_on(rank_of_choice, top_k, gpu, gpu + 1));
    }
}

static inline int naive_link(const naive_count *c, int32_t from, int32_t to) {
    int32_t g = c->cluster.gpus_per_node;
    return from == to ? GRACE_LINK_SELF : from / g == to / g ? GRACE_LINK_INTRA : GRACE_LINK_CROSS;
}

/* Do two ranks tell each other counts in this stage? */
static inline bool naive_talk(const naive_count *c, int stage, int32_t from, int32_t to) {
    bool two_stage = c->kind == GRACE_EXCHANGE_HSC && c->cluster.n_nodes > 1;
    if (stage == GRACE_STAGE_CROSS) return two_stage;
    return !two_stage || from / c->cluster.gpus_per_node == to / c->cluster.gpus_per_node;
}

/* Totals of what rank `from` sent (-1: all ranks), per stage and link. A row on the wire has `hidden` floats; a dispatched one also a word
 * for its number of entries and two words an entry; two words of counts go to every peer in every call. */
static inline void naive_links(const naive_count *c, int32_t rank, int32_t hidden, grace_link_count dispatch[GRACE_N_STAGES][GRACE_N_LINKS],
                               grace_link_count combine[GRACE_N_STAGES][GRACE_N_LINKS]) {
    for (int s = 0; s < GRACE_N_STAGES; s++)
        for (int32_t i = 0; i < c->n_ranks * c->n_ranks; i++) {
            int32_t from = i / c->n_ranks, to = i % c->n_ranks;
            if (rank >= 0 && from != rank) continue;
            grace_link_count *d = &dispatch[s][naive_link(c, from, to)], *b = &combine[s][naive_link(c, from, to)];
            d->rows += c->out[s][i];
            d->bytes_payload += 4 * hidden * c->out[s][i];
            d->bytes_wire += 4 * hidden * c->out[s][i] + 4 * c->out[s][i] + 8 * c->entries[s][i] + (naive_talk(c, s, from, to) ? 8 * c->calls : 0);
            b->rows += c->back[s][i];
            b->bytes_payload += 4 * hidden * c->back[s][i];
            b->bytes_wire += 4 * hidden * c->back[s][i];
        }
}

static inline int64_t naive_pair_rows(const naive_count *c, int32_t from, int32_t to) {
    int64_t n = 0;
    for (int s = 0; s < GRACE_N_STAGES; s++) n += c->out[s][from * c->n_ranks + to] + c->back[s][from * c->n_ranks + to];
    return n;
}

#endif
