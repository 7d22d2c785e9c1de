/* k-means with k-means++ seeding (Arthur and Vassilvitskii 2007), deterministic for a seed. */
#ifndef GR_PLAN_KMEANS_H
#define GR_PLAN_KMEANS_H
#include <stdint.h>

#include "base/status.h"

/* Split points into k non-empty clusters, the best of n_restarts runs.
 *   points    [n, dim]  1 <= k <= n
 *   label_of  [n]       0..k-1, each used
 *   inertia             sum of squared distances to the own centre; may be NULL */
grace_status gr_kmeans(const double *points, int32_t n, int32_t dim, int32_t k, int32_t n_restarts, uint64_t seed, int32_t *label_of,
                       double *inertia);

#endif
