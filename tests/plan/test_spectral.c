#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "plan/planner_cases.h"
#include "plan/spectral.h"

enum { N_MAX = 48 };

/* A second implementation: cyclic Jacobi rotations. matrix [n, n] is destroyed, its diagonal becomes the values; vectors are columns. */
static void jacobi(double *matrix, int32_t n, double *vectors) {
    for (int32_t i = 0; i < n * n; i++) vectors[i] = i % (n + 1) == 0;
    for (int32_t sweep = 0; sweep < 40; sweep++)
        for (int32_t p = 0; p < n; p++)
            for (int32_t q = p + 1; q < n; q++) {
                double angle = 0.5 * atan2(2 * matrix[p * n + q], matrix[q * n + q] - matrix[p * n + p]), c = cos(angle), s = sin(angle);
                for (int32_t i = 0; i < n; i++) {
                    double x = matrix[i * n + p], y = matrix[i * n + q];
                    matrix[i * n + p] = c * x - s * y, matrix[i * n + q] = s * x + c * y;
                }
                for (int32_t i = 0; i < n; i++) {
                    double x = matrix[p * n + i], y = matrix[q * n + i], v = vectors[i * n + p], w = vectors[i * n + q];
                    matrix[p * n + i] = c * x - s * y, matrix[q * n + i] = s * x + c * y;
                    vectors[i * n + p] = c * v - s * w, vectors[i * n + q] = s * v + c * w;
                }
            }
}

/* Unit rows over the k least eigenvalues of the Laplacian, written the way the definition reads. */
static void naive_embed(const double *affinity, int32_t n, int32_t k, double *rows, double *gap) {
    double laplacian[12 * 12], vectors[12 * 12], value[12], degree[12];
    int32_t order[12];
    for (int32_t i = 0; i < n; i++) {
        degree[i] = 0, order[i] = i;
        for (int32_t j = 0; j < n; j++) degree[i] += affinity[i * n + j];
    }
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < n; j++) laplacian[i * n + j] = (i == j) - affinity[i * n + j] / sqrt(degree[i] * degree[j]);
    jacobi(laplacian, n, vectors);
    for (int32_t i = 0; i < n; i++) value[i] = laplacian[i * n + i];
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = i + 1; j < n; j++)
            if (value[order[j]] < value[order[i]]) { int32_t t = order[i]; order[i] = order[j], order[j] = t; }
    for (int32_t i = 0; i < n; i++) {
        double length = 0;
        for (int32_t c = 0; c < k; c++) length += pow(vectors[i * n + order[c]], 2);
        for (int32_t c = 0; c < k; c++) rows[i * k + c] = vectors[i * n + order[c]] / sqrt(length);
    }
    *gap = k < n ? value[order[k]] - value[order[k - 1]] : 1;
}

static double dot(const double *a, const double *b, int32_t n) {
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* Signs and rotations among equal eigenvalues are free; the products of rows are not. */
static void rows_have_the_angles_of_a_second_eigensolver(void **state) {
    (void)state;
    int32_t n_compared = 0;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        int32_t n = between(&rng, 3, 12), k = between(&rng, 1, n);
        double affinity[12 * 12], rows[12 * 12], expected[12 * 12], gap;
        random_affinity(&rng, n, 1, affinity);
        for (int32_t i = 1; i < n; i++) put_pair(affinity, n, i, i - 1, 1 + affinity[i * n + i - 1]);
        claim(gr_spectral_embed(affinity, n, k, rows) == GRACE_OK, seed);
        naive_embed(affinity, n, k, expected, &gap);
        if (gap < 1e-4) continue;
        n_compared++;
        for (int32_t i = 0; i < n; i++)
            for (int32_t j = 0; j < n; j++) claim(fabs(dot(rows + i * k, rows + j * k, k) - dot(expected + i * k, expected + j * k, k)) < 1e-6, seed);
    }
    assert_true(n_compared >= 50);
}

static void planted_blocks_are_recovered_exactly(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        int32_t k = between(&rng, 2, 6), n = between(&rng, 3 * k, N_MAX), block_of[N_MAX], group_of[N_MAX];
        double affinity[N_MAX * N_MAX];
        planted_affinity(&rng, n, k, 10, seed % 2 ? 2 : 0.001, block_of, affinity);
        claim(gr_spectral_cluster(affinity, n, k, seed, group_of) == GRACE_OK, seed);
        claim(same_partition(group_of, block_of, n), seed);
    }
}

static void separate_components_are_groups(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        int32_t k = between(&rng, 2, 8), n = 4 * k, block_of[N_MAX], group_of[N_MAX];
        double affinity[N_MAX * N_MAX];
        planted_affinity(&rng, n, k, 3, 0, block_of, affinity);
        claim(gr_spectral_cluster(affinity, n, k, seed, group_of) == GRACE_OK, seed);
        claim(same_partition(group_of, block_of, n), seed);
    }
}

/* Fewer groups than components: some components share a group, none is torn apart, and every group has a member. */
static void more_components_than_groups_share_groups_whole(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        int32_t block_of[32], group_of[32], size[8], k = between(&rng, 2, 7);
        double affinity[32 * 32];
        planted_affinity(&rng, 32, 8, 5, 0, block_of, affinity);
        claim(gr_spectral_cluster(affinity, 32, k, seed, group_of) == GRACE_OK, seed);
        sizes_of(group_of, 32, k, size);
        for (int32_t g = 0; g < k; g++) claim(size[g] >= 1, seed);
        for (int32_t i = 0; i < 32; i++)
            for (int32_t j = 0; j < i; j++) claim(block_of[i] != block_of[j] || group_of[i] == group_of[j], seed);
    }
}

static void experts_without_affinity_fill_the_smallest_groups(void **state) {
    (void)state;
    /* blocks {0,1,2,3} and {4,5}; 6 and 7 are alone */
    double affinity[64] = {0};
    int32_t group_of[8];
    const int32_t expected[8] = {0, 0, 0, 0, 1, 1, 1, 1};
    for (int32_t i = 0; i < 4; i++)
        for (int32_t j = 0; j < i; j++) put_pair(affinity, 8, i, j, 2);
    put_pair(affinity, 8, 4, 5, 1);
    assert_int_equal(gr_spectral_cluster(affinity, 8, 2, 0, group_of), GRACE_OK);
    assert_memory_equal(group_of, expected, sizeof expected);
}

static void no_affinity_at_all_gives_even_groups(void **state) {
    (void)state;
    double affinity[100] = {0};
    int32_t group_of[10], size[10];
    for (int32_t k = 1; k <= 10; k++) {
        assert_int_equal(gr_spectral_cluster(affinity, 10, k, 1, group_of), GRACE_OK);
        sizes_of(group_of, 10, k, size);
        for (int32_t g = 0; g < k; g++) assert_in_range(size[g], 10 / k, (10 + k - 1) / k);
    }
}

static void one_group_takes_all_and_n_groups_take_one_each(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        int32_t n = between(&rng, 1, 20), group_of[20];
        double affinity[400];
        random_affinity(&rng, n, seed % 2 ? 0.2 : 1, affinity);
        claim(gr_spectral_cluster(affinity, n, 1, seed, group_of) == GRACE_OK, seed);
        for (int32_t i = 0; i < n; i++) claim(group_of[i] == 0, seed);
        claim(gr_spectral_cluster(affinity, n, n, seed, group_of) == GRACE_OK, seed);
        for (int32_t i = 0; i < n; i++) claim(group_of[i] == i, seed);
    }
}

static void groups_are_numbered_by_their_smallest_expert_and_repeat(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        int32_t n = between(&rng, 2, 30), k = between(&rng, 1, n), a[30], b[30], next = 0;
        double affinity[900];
        random_affinity(&rng, n, 0.3, affinity);
        claim(gr_spectral_cluster(affinity, n, k, seed, a) == GRACE_OK, seed);
        claim(gr_spectral_cluster(affinity, n, k, seed, b) == GRACE_OK, seed);
        claim(!memcmp(a, b, (size_t)n * sizeof *a), seed);
        for (int32_t i = 0; i < n; i++) {
            claim(a[i] <= next, seed);
            if (a[i] == next) next++;
        }
        claim(next == k, seed);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_have_the_angles_of_a_second_eigensolver),
        cmocka_unit_test(planted_blocks_are_recovered_exactly),
        cmocka_unit_test(separate_components_are_groups),
        cmocka_unit_test(more_components_than_groups_share_groups_whole),
        cmocka_unit_test(experts_without_affinity_fill_the_smallest_groups),
        cmocka_unit_test(no_affinity_at_all_gives_even_groups),
        cmocka_unit_test(one_group_takes_all_and_n_groups_take_one_each),
        cmocka_unit_test(groups_are_numbered_by_their_smallest_expert_and_repeat),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
