#include "plan/kmeans.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"

enum { ROUNDS_MAX = 100 };

typedef struct kmeans {
    const double *points;   /* [n, dim] */
    int32_t n, dim, k;
    double *centers;        /* [k, dim] */
    double *distance;       /* [n] squared, to the centre of the own cluster */
    int32_t *label, *before;/* [n] this round's and the last one's */
    int32_t *count;         /* [k] */
} kmeans;

static double squared_distance(const double *a, const double *b, int32_t dim) {
    double sum = 0;
    for (int32_t d = 0; d < dim; d++) sum += (a[d] - b[d]) * (a[d] - b[d]);
    return sum;
}

static void put_center(kmeans *km, int32_t c, int32_t point) {
    memcpy(km->centers + (size_t)c * km->dim, km->points + (size_t)point * km->dim, (size_t)km->dim * sizeof(double));
}

/* distance[i] becomes the distance to the nearest of the centres so far. Returns the sum. */
static double near_center(kmeans *km, int32_t c) {
    double total = 0;
    for (int32_t i = 0; i < km->n; i++) {
        double d = squared_distance(km->points + (size_t)i * km->dim, km->centers + (size_t)c * km->dim, km->dim);
        if (c == 0 || d < km->distance[i]) km->distance[i] = d;
        total += km->distance[i];
    }
    return total;
}

/* A point with probability proportional to its squared distance; the first one when all points are centres already. */
static int32_t draw_point(const kmeans *km, double total, gr_rng *rng) {
    double left = gr_rng_uniform(rng) * total;
    int32_t last = 0;
    for (int32_t i = 0; i < km->n; i++) {
        if (km->distance[i] <= 0) continue;
        last = i;
        left -= km->distance[i];
        if (left < 0) break;
    }
    return last;
}

static void seed_centers(kmeans *km, gr_rng *rng) {
    put_center(km, 0, (int32_t)gr_rng_below(rng, (uint32_t)km->n));
    for (int32_t c = 1; c < km->k; c++) put_center(km, c, draw_point(km, near_center(km, c - 1), rng));
}

static void assign_nearest(kmeans *km) {
    memset(km->count, 0, (size_t)km->k * sizeof *km->count);
    for (int32_t i = 0; i < km->n; i++) {
        km->distance[i] = INFINITY;
        for (int32_t c = 0; c < km->k; c++) {
            double d = squared_distance(km->points + (size_t)i * km->dim, km->centers + (size_t)c * km->dim, km->dim);
            if (d >= km->distance[i]) continue;
            km->distance[i] = d;
            km->label[i] = c;
        }
        km->count[km->label[i]]++;
    }
}

/* The point farthest from its centre among clusters that can spare one. */
static int32_t farthest_point(const kmeans *km) {
    int32_t best = -1;
    for (int32_t i = 0; i < km->n; i++)
        if (km->count[km->label[i]] > 1 && (best < 0 || km->distance[i] > km->distance[best])) best = i;
    GR_ASSERT(best >= 0);       /* k <= n: while a cluster is empty another has two */
    return best;
}

static void fill_empty(kmeans *km) {
    for (int32_t c = 0; c < km->k; c++) {
        if (km->count[c]) continue;
        int32_t i = farthest_point(km);
        km->count[km->label[i]]--;
        km->label[i] = c;
        km->count[c] = 1;
        km->distance[i] = 0;
    }
}

static void average_centers(kmeans *km) {
    memset(km->centers, 0, (size_t)km->k * km->dim * sizeof(double));
    for (int32_t i = 0; i < km->n; i++)
        for (int32_t d = 0; d < km->dim; d++) km->centers[(size_t)km->label[i] * km->dim + d] += km->points[(size_t)i * km->dim + d];
    for (int32_t c = 0; c < km->k; c++)
        for (int32_t d = 0; d < km->dim; d++) km->centers[(size_t)c * km->dim + d] /= km->count[c];
}

static double inertia_of(const kmeans *km) {
    double sum = 0;
    for (int32_t i = 0; i < km->n; i++)
        sum += squared_distance(km->points + (size_t)i * km->dim, km->centers + (size_t)km->label[i] * km->dim, km->dim);
    return sum;
}

/* Lloyd's rounds until nothing moves. */
static double run_once(kmeans *km, gr_rng *rng) {
    seed_centers(km, rng);
    for (int32_t i = 0; i < km->n; i++) km->label[i] = -1;
    for (int round = 0; round < ROUNDS_MAX; round++) {
        memcpy(km->before, km->label, (size_t)km->n * sizeof *km->label);
        assign_nearest(km);
        fill_empty(km);
        average_centers(km);
        if (!memcmp(km->before, km->label, (size_t)km->n * sizeof *km->label)) break;
    }
    return inertia_of(km);
}

grace_status gr_kmeans(const double *points, int32_t n, int32_t dim, int32_t k, int32_t n_restarts, uint64_t seed, int32_t *label_of,
                       double *inertia) {
    grace_status st = GRACE_OK;
    kmeans km = {.points = points, .n = n, .dim = dim, .k = k};
    gr_rng rng = gr_rng_seed(seed);
    double best = INFINITY;
    GR_ASSERT(k >= 1 && k <= n && n_restarts >= 1);
    GR_CALLOC(km.centers, (size_t)k * dim);
    GR_CALLOC(km.distance, n);
    GR_CALLOC(km.label, n);
    GR_CALLOC(km.before, n);
    GR_CALLOC(km.count, k);
    for (int32_t run = 0; run < n_restarts; run++) {
        double found = run_once(&km, &rng);
        if (run > 0 && !(found < best)) continue;       /* equal: the earlier one */
        best = found;
        memcpy(label_of, km.label, (size_t)n * sizeof *label_of);
    }
    if (inertia) *inertia = best;
done:
    free(km.centers), free(km.distance), free(km.label), free(km.before), free(km.count);
    return st;
}
