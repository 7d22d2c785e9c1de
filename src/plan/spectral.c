#include "plan/spectral.h"

#include <lapacke.h>
#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "plan/kmeans.h"

enum { RESTARTS = 16 };
static const double ROW_MIN = 1e-9;     /* shorter rows are rounding noise: eigenvectors have length 1 over at most 4096 experts */

static double row_sum(const double *affinity, int32_t n, int32_t i) {
    double sum = 0;
    for (int32_t j = 0; j < n; j++) sum += affinity[(size_t)i * n + j];
    return sum;
}

/* D^-1/2 A D^-1/2: its largest eigenvalues are the Laplacian's smallest. */
static void normalize_affinity(const double *affinity, int32_t n, double *scale, double *out) {
    for (int32_t i = 0; i < n; i++) scale[i] = 1 / sqrt(row_sum(affinity, n, i));
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < n; j++) out[(size_t)i * n + j] = affinity[(size_t)i * n + j] * scale[i] * scale[j];
}

static void scale_row(double *row, int32_t k) {
    double sum = 0;
    for (int32_t c = 0; c < k; c++) sum += row[c] * row[c];
    double length = sqrt(sum);
    for (int32_t c = 0; c < k; c++) row[c] = length > ROW_MIN ? row[c] / length : 0;
}

grace_status gr_spectral_embed(const double *affinity, int32_t n, int32_t k, double *rows) {
    grace_status st = GRACE_OK;
    double *matrix = NULL, *values = NULL, *vectors = NULL;
    lapack_int *support = NULL, found = 0;
    GR_CALLOC(matrix, (size_t)n * n);
    GR_CALLOC(values, n);
    GR_CALLOC(vectors, (size_t)n * k);
    GR_CALLOC(support, 2 * (size_t)n);
    normalize_affinity(affinity, n, values, matrix);
    lapack_int info = LAPACKE_dsyevr(LAPACK_COL_MAJOR, 'V', 'I', 'U', n, matrix, n, 0, 0, n - k + 1, n, 0, &found, values, vectors, n, support);
    GR_CHECK(info == 0 && found == k, GRACE_ERR_NUMERIC, "eigenvectors of a %d x %d affinity: expected %d, dsyevr found %d (info %d)", n, n, k,
             (int)found, (int)info);
    for (int32_t i = 0; i < n; i++) {
        for (int32_t c = 0; c < k; c++) rows[(size_t)i * k + c] = vectors[(size_t)c * n + i];
        scale_row(rows + (size_t)i * k, k);
    }
done:
    free(matrix), free(values), free(vectors), free(support);
    return st;
}

/* Experts with affinity, and the matrix among them. Returns how many. */
static int32_t gather_connected(const double *affinity, int32_t n, int32_t *connected, double *matrix) {
    int32_t m = 0;
    for (int32_t i = 0; i < n; i++)
        if (row_sum(affinity, n, i) > 0) connected[m++] = i;
    for (int32_t i = 0; i < m; i++)
        for (int32_t j = 0; j < m; j++) matrix[(size_t)i * m + j] = affinity[(size_t)connected[i] * n + connected[j]];
    return m;
}

static grace_status cluster_connected(const double *matrix, int32_t m, int32_t k, uint64_t seed, int32_t *label_of) {
    grace_status st = GRACE_OK;
    double *rows = NULL;
    if (k <= 1) {
        memset(label_of, 0, (size_t)m * sizeof *label_of);
        return st;
    }
    GR_CALLOC(rows, (size_t)m * k);
    GR_TRY(gr_spectral_embed(matrix, m, k, rows));
    GR_TRY(gr_kmeans(rows, m, k, k, RESTARTS, seed, label_of, NULL));
done:
    free(rows);
    return st;
}

/* group -1 -> the smallest group, ties to the lower number. With n >= k no group stays empty. */
static void place_isolated(int32_t *group_of, int32_t n, int32_t k, int32_t *count) {
    for (int32_t i = 0; i < n; i++)
        if (group_of[i] >= 0) count[group_of[i]]++;
    for (int32_t i = 0; i < n; i++) {
        if (group_of[i] >= 0) continue;
        int32_t best = 0;
        for (int32_t g = 1; g < k; g++)
            if (count[g] < count[best]) best = g;
        group_of[i] = best;
        count[best]++;
    }
}

/* k-means numbers its clusters by chance; numbered by their smallest expert, equal partitions are equal arrays. */
static void number_groups(int32_t *group_of, int32_t n, int32_t k, int32_t *number) {
    int32_t next = 0;
    for (int32_t g = 0; g < k; g++) number[g] = -1;
    for (int32_t i = 0; i < n; i++) {
        if (number[group_of[i]] < 0) number[group_of[i]] = next++;
        group_of[i] = number[group_of[i]];
    }
    GR_ASSERT(next == k);
}

grace_status gr_spectral_cluster(const double *affinity, int32_t n, int32_t k, uint64_t seed, int32_t *group_of) {
    grace_status st = GRACE_OK;
    int32_t *connected = NULL, *label = NULL, *count = NULL, m;
    double *matrix = NULL;
    GR_ASSERT(k >= 1 && k <= n);
    GR_CALLOC(connected, n);
    GR_CALLOC(label, n);
    GR_CALLOC(count, k);
    GR_CALLOC(matrix, (size_t)n * n);
    m = gather_connected(affinity, n, connected, matrix);
    GR_TRY(cluster_connected(matrix, m, k < m ? k : m, seed, label));
    for (int32_t i = 0; i < n; i++) group_of[i] = -1;
    for (int32_t i = 0; i < m; i++) group_of[connected[i]] = label[i];
    place_isolated(group_of, n, k, count);
    number_groups(group_of, n, k, count);
done:
    free(connected), free(label), free(count), free(matrix);
    return st;
}
