/* Groups of experts with bounded sizes (paper Alg. 1-2). Everywhere: affinity [n, n] symmetric with zero diagonal, group_of [n] in 0..k-1. */
#ifndef GR_PLAN_GROUP_H
#define GR_PLAN_GROUP_H
#include <stdint.h>

#include "base/status.h"

typedef struct gr_size_bounds { int32_t ideal, delta, min, max; } gr_size_bounds;

/* paper Alg. 2: E = floor(n / k), delta = max(1, round(E * r)), sizes in [max(1, E - delta), E + delta]. k * min <= n <= k * max for k <= n. */
gr_size_bounds gr_size_bounds_of(int32_t n, int32_t k, double r);
gr_size_bounds gr_size_bounds_equal(int32_t n, int32_t k);      /* floor(n / k) to ceil(n / k): sizes differ by at most one */

/* What the expert shares with the members of a group (itself aside): its part of paper Alg. 1's intra-group affinity. */
double gr_affinity_to(const double *affinity, int32_t n, const int32_t *group_of, int32_t expert, int32_t group);

/* paper Alg. 2, steps 2 to 4: clusters in, groups within the bounds out, in place.
 * Our readings: experts go in order of falling total affinity (ties by id) to the best group with room (ties to the smaller, then the lower
 * group); groups under the minimum take the weakest expert of any group above it. Needs k * min <= n <= k * max. Fails with MEMORY. */
grace_status gr_group_bound(const double *affinity, int32_t n, int32_t k, gr_size_bounds bounds, int32_t *group_of);

/* Step 4 alone: every group gets at least size_min members. Needs k * size_min <= n. Fails with MEMORY. */
grace_status gr_group_fill(const double *affinity, int32_t n, int32_t k, int32_t size_min, int32_t *group_of);

#endif
