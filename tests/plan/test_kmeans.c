#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "plan/kmeans.h"
#include "plan/planner_cases.h"

static double inertia_of(const double *points, int32_t n, int32_t dim, int32_t k, const int32_t *label) {
    double sum = 0;
    for (int32_t c = 0; c < k; c++)
        for (int32_t d = 0; d < dim; d++) {
            double mean = 0, count = 0;
            for (int32_t i = 0; i < n; i++)
                if (label[i] == c) mean += points[i * dim + d], count++;
            for (int32_t i = 0; i < n; i++)
                if (label[i] == c) sum += pow(points[i * dim + d] - mean / count, 2);
        }
    return sum;
}

/* The least inertia over all labellings that use every label. */
static double best_inertia(const double *points, int32_t n, int32_t dim, int32_t k) {
    double best = INFINITY;
    int32_t label[8], used[8], n_labellings = (int32_t)pow(k, n);
    for (int32_t code = 0; code < n_labellings; code++) {
        int32_t rest = code, n_used = 0;
        memset(used, 0, sizeof used);
        for (int32_t i = 0; i < n; i++, rest /= k) label[i] = rest % k, used[rest % k] = 1;
        for (int32_t c = 0; c < k; c++) n_used += used[c];
        if (n_used == k) best = fmin(best, inertia_of(points, n, dim, k, label));
    }
    return best;
}

static void separated_blobs_are_found(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        double points[60 * 2];
        int32_t truth[60], label[60];
        for (int32_t i = 0; i < 60; i++) {
            truth[i] = (int32_t)gr_rng_below(&rng, 5);
            points[2 * i] = 10 * truth[i] + gr_rng_uniform(&rng);
            points[2 * i + 1] = gr_rng_uniform(&rng);
        }
        claim(gr_kmeans(points, 60, 2, 5, 16, seed, label, NULL) == GRACE_OK, seed);
        claim(same_partition(label, truth, 60), seed);
    }
}

static void few_points_reach_the_brute_force_optimum(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        double points[8 * 2], inertia;
        int32_t label[8], n = between(&rng, 4, 8), k = between(&rng, 2, 3);
        for (int32_t i = 0; i < 2 * n; i++) points[i] = gr_rng_uniform(&rng);
        claim(gr_kmeans(points, n, 2, k, 16, seed, label, &inertia) == GRACE_OK, seed);
        claim(fabs(inertia - inertia_of(points, n, 2, k, label)) < 1e-12, seed);
        claim(fabs(inertia - best_inertia(points, n, 2, k)) < 1e-9, seed);
    }
}

static void every_cluster_has_a_point_also_when_all_points_are_equal(void **state) {
    (void)state;
    double points[12 * 3];
    int32_t label[12], size[12];
    for (int32_t i = 0; i < 36; i++) points[i] = 0.25;
    for (int32_t k = 1; k <= 12; k++) {
        assert_int_equal(gr_kmeans(points, 12, 3, k, 3, 5, label, NULL), GRACE_OK);
        sizes_of(label, 12, k, size);
        for (int32_t c = 0; c < k; c++) assert_true(size[c] >= 1);
    }
}

static void as_many_clusters_as_points_leave_no_inertia(void **state) {
    (void)state;
    double points[] = {3, 1, 4, 1.5, 9, 2.5}, inertia;
    int32_t label[6];
    assert_int_equal(gr_kmeans(points, 6, 1, 6, 4, 1, label, &inertia), GRACE_OK);
    assert_true(inertia == 0);
}

static void a_seed_gives_the_same_labels_again(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(3);
    double points[200];
    int32_t a[100], b[100];
    for (int32_t i = 0; i < 200; i++) points[i] = gr_rng_uniform(&rng);
    for (uint64_t seed = 0; seed < 5; seed++) {
        assert_int_equal(gr_kmeans(points, 100, 2, 7, 4, seed, a, NULL), GRACE_OK);
        assert_int_equal(gr_kmeans(points, 100, 2, 7, 4, seed, b, NULL), GRACE_OK);
        assert_memory_equal(a, b, sizeof a);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(separated_blobs_are_found),
        cmocka_unit_test(few_points_reach_the_brute_force_optimum),
        cmocka_unit_test(every_cluster_has_a_point_also_when_all_points_are_equal),
        cmocka_unit_test(as_many_clusters_as_points_leave_no_inertia),
        cmocka_unit_test(a_seed_gives_the_same_labels_again),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
