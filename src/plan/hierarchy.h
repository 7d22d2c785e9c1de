/* Experts of one layer -> ranks: clusters first, sizes second, so that many ratios r can be tried on the same clusters (docs/paper.md). */
#ifndef GR_PLAN_HIERARCHY_H
#define GR_PLAN_HIERARCHY_H
#include <stdint.h>

#include "grace/plan.h"

/* What spectral clustering says about one layer, before any bound on GPU groups. n experts, N nodes, G GPUs per node. */
typedef struct gr_clusters {
    int32_t n;
    grace_cluster cluster;
    const double *affinity;     /* [n, n] borrowed */
    int32_t *node_of;           /* [n] 0..N-1, each node with at least G experts, while there are so many */
    int32_t *gpu_of;            /* [n] 0..G-1 inside the node: its clusters, sizes as they come, none empty but for want of experts */
} gr_clusters;

/* Both levels: n -> N fully non-uniform, then each node's experts -> G. Our reading: a node group with fewer than G experts gets the loosest
 * experts of the others (paper Alg. 2, step 4), or some GPU would stay without an expert; with n < N * G some do, the last of their
 * nodes, and the last nodes. Fails with NUMERIC, MEMORY. */
grace_status gr_clusters_build(const double *affinity, int32_t n, grace_cluster cluster, uint64_t seed, gr_clusters *out);
void gr_clusters_free(gr_clusters *c);

/* Ranks from clusters. CONTROLLED: paper Alg. 2 with r inside each node, E and delta the node's own; UNIFORM: sizes within a node differ by at
 * most one; FREE: as clustered. rank_of_expert [n]. size_spread: sum over all D groups of (size - E)^2, E the node's own; may be NULL. */
grace_status gr_clusters_bound(const gr_clusters *c, grace_grouping grouping, double r, int32_t *rank_of_expert, double *size_spread);

/* Occult-like: n -> D groups of equal size (they differ by at most one), no node level; with n < D the last
 * ranks get none. rank_of_expert [n]. */
grace_status gr_group_flat(const double *affinity, int32_t n, int32_t n_ranks, uint64_t seed, int32_t *rank_of_expert);

#endif
