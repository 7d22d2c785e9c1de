#include "plan/hierarchy.h"

#include <string.h>

#include "base/hash.h"
#include "base/memory.h"
#include "plan/group.h"
#include "plan/knee.h"
#include "plan/spectral.h"

/* One node's experts with the affinity among them. */
typedef struct subset {
    int32_t n;
    int32_t *member;        /* [n] experts, ascending */
    double *affinity;       /* [n, n] */
    int32_t *group_of;      /* [n] */
} subset;

static void subset_free(subset *s) { free(s->member), free(s->affinity), free(s->group_of); }

static grace_status subset_build(const gr_clusters *c, int32_t node, subset *out) {
    grace_status st = GRACE_OK;
    subset s = {0};
    GR_CALLOC(s.member, c->n);
    for (int32_t i = 0; i < c->n; i++)
        if (c->node_of[i] == node) s.member[s.n++] = i;
    GR_CALLOC(s.affinity, (size_t)s.n * s.n);
    GR_CALLOC(s.group_of, s.n);
    for (int32_t i = 0; i < s.n; i++)
        for (int32_t j = 0; j < s.n; j++) s.affinity[(size_t)i * s.n + j] = c->affinity[(size_t)s.member[i] * c->n + s.member[j]];
    for (int32_t i = 0; i < s.n; i++) s.group_of[i] = c->gpu_of[s.member[i]];
    *out = s;
    return st;
done:
    subset_free(&s);
    return st;
}

/* Another stream of random numbers for every clustering of a layer: level 0 is the nodes', level 1 + i is inside node i. */
static uint64_t seed_of(uint64_t seed, int32_t level) { return seed + ((uint64_t)gr_mix32((uint32_t)level, 0, 0) << 16); }

static int32_t least(int32_t a, int32_t b) { return a < b ? a : b; }

/* With fewer experts than ranks as many nodes as there are experts for, each as even a share as GPUs would be. */
static grace_status cluster_nodes(gr_clusters *c, uint64_t seed) {
    grace_status st = GRACE_OK;
    int32_t k = least(c->cluster.n_nodes, c->n);
    GR_TRY(gr_spectral_cluster(c->affinity, c->n, k, seed_of(seed, 0), c->node_of));
    GR_TRY(gr_group_fill(c->affinity, c->n, k, least(c->cluster.gpus_per_node, c->n / k), c->node_of));
done:
    return st;
}

static grace_status cluster_node(gr_clusters *c, int32_t node, uint64_t seed) {
    grace_status st = GRACE_OK;
    subset s = {0};
    GR_TRY(subset_build(c, node, &s));
    if (s.n > 0) GR_TRY(gr_spectral_cluster(s.affinity, s.n, least(c->cluster.gpus_per_node, s.n), seed_of(seed, 1 + node), s.group_of));
    for (int32_t i = 0; i < s.n; i++) c->gpu_of[s.member[i]] = s.group_of[i];
done:
    subset_free(&s);
    return st;
}

grace_status gr_clusters_build(const double *affinity, int32_t n, grace_cluster cluster, uint64_t seed, gr_clusters *out) {
    grace_status st = GRACE_OK;
    gr_clusters c = {.n = n, .cluster = cluster, .affinity = affinity};
    GR_CALLOC(c.node_of, n);
    GR_CALLOC(c.gpu_of, n);
    GR_TRY(cluster_nodes(&c, seed));
    for (int32_t node = 0; node < cluster.n_nodes; node++) GR_TRY(cluster_node(&c, node, seed));
    *out = c;
    memset(&c, 0, sizeof c);
done:
    gr_clusters_free(&c);
    return st;
}

void gr_clusters_free(gr_clusters *c) {
    free(c->node_of), free(c->gpu_of);
    memset(c, 0, sizeof *c);
}

static grace_status bound_subset(subset *s, int32_t k, grace_grouping grouping, double r) {
    if (grouping == GRACE_GROUPING_FREE) return GRACE_OK;
    gr_size_bounds bounds = grouping == GRACE_GROUPING_UNIFORM ? gr_size_bounds_equal(s->n, k) : gr_size_bounds_of(s->n, k, r);
    return gr_group_bound(s->affinity, s->n, k, bounds, s->group_of);
}

static grace_status bound_node(const gr_clusters *c, int32_t node, grace_grouping grouping, double r, int32_t *rank_of_expert, double *size_spread) {
    grace_status st = GRACE_OK;
    subset s = {0};
    GR_TRY(subset_build(c, node, &s));
    if (s.n == 0) goto done;
    int32_t k = least(c->cluster.gpus_per_node, s.n);
    GR_TRY(bound_subset(&s, k, grouping, r));
    for (int32_t i = 0; i < s.n; i++) rank_of_expert[s.member[i]] = node * c->cluster.gpus_per_node + s.group_of[i];
    *size_spread += gr_size_spread(s.group_of, s.n, k, s.n / k);
done:
    subset_free(&s);
    return st;
}

grace_status gr_clusters_bound(const gr_clusters *c, grace_grouping grouping, double r, int32_t *rank_of_expert, double *size_spread) {
    grace_status st = GRACE_OK;
    double spread = 0;
    for (int32_t node = 0; node < c->cluster.n_nodes; node++) GR_TRY(bound_node(c, node, grouping, r, rank_of_expert, &spread));
    if (size_spread) *size_spread = spread;
done:
    return st;
}

grace_status gr_group_flat(const double *affinity, int32_t n, int32_t n_ranks, uint64_t seed, int32_t *rank_of_expert) {
    grace_status st = GRACE_OK;
    int32_t k = least(n_ranks, n);
    GR_TRY(gr_spectral_cluster(affinity, n, k, seed_of(seed, 0), rank_of_expert));
    GR_TRY(gr_group_bound(affinity, n, k, gr_size_bounds_equal(n, k), rank_of_expert));
done:
    return st;
}
