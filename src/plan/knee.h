/* How good a grouping is (paper Eq. 1-2), and which ratio r to take. */
#ifndef GR_PLAN_KNEE_H
#define GR_PLAN_KNEE_H
#include <stdint.h>

#include "grace/plan.h"

/* paper Eq. 1: share of the total affinity that lies inside groups, each pair once. affinity [n, n], group_of [n]. 0 when there is no affinity. */
double gr_utility(const double *affinity, int32_t n, const int32_t *group_of);

/* One group's term of paper Eq. 2: (size - E)^2, of each of the k groups; the caller takes the root of the mean. group_of [n]. */
double gr_size_spread(const int32_t *group_of, int32_t n, int32_t k, int32_t ideal);

/* Index of the point highest above the chord from the least S to the greatest; the first one when none is above it, the one with most U when all
 * have the same S. Scaling an axis changes no choice, so none is scaled. points [n], n >= 1. */
int32_t gr_knee(const grace_knee_point *points, int32_t n);

#endif
