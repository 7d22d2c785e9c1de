/* Spectral clustering of an affinity matrix (docs/paper.md): normalised Laplacian, leading eigenvectors, k-means on unit rows. */
#ifndef GR_PLAN_SPECTRAL_H
#define GR_PLAN_SPECTRAL_H
#include <stdint.h>

#include "base/status.h"

/* The k eigenvectors of I - D^-1/2 A D^-1/2 with the smallest eigenvalues, one row per expert, rows scaled to length 1.
 *   affinity  [n, n]  symmetric, >= 0, zero diagonal, no zero row; 1 <= k <= n
 *   rows      [n, k]  a row of (nearly) zeros stays zero: its expert lies in a component none of the k vectors reaches
 * Fails with NUMERIC when LAPACK does not converge, MEMORY. */
grace_status gr_spectral_embed(const double *affinity, int32_t n, int32_t k, double *rows);

/* affinity [n, n] as above, zero rows allowed -> group_of [n] in 0..k-1; every group has a member, groups are numbered by their smallest one.
 * Experts without any affinity say nothing about where they belong: they fill the smallest groups. 1 <= k <= n. */
grace_status gr_spectral_cluster(const double *affinity, int32_t n, int32_t k, uint64_t seed, int32_t *group_of);

#endif
