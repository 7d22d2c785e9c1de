#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "plan/group.h"
#include "plan/hierarchy.h"
#include "plan/planner_cases.h"

enum { N_MAX = 64 };

/* Two nodes' worth of blocks, each of two GPUs' worth: strong inside a GPU block, weaker inside a node block, noise elsewhere. */
static void nested_affinity(gr_rng *rng, int32_t n, int32_t n_nodes, int32_t gpus, int32_t *rank_of, double *affinity) {
    planted_affinity(rng, n, n_nodes * gpus, 20, 1, rank_of, affinity);
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < i; j++)
            if (rank_of[i] / gpus == rank_of[j] / gpus) put_pair(affinity, n, i, j, affinity[i * n + j] + 6);
}

static void planted_nodes_and_gpus_are_recovered_exactly(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        int32_t n_nodes = between(&rng, 2, 3), gpus = between(&rng, 2, 3), n = 4 * n_nodes * gpus;
        int32_t truth[N_MAX], got[N_MAX], node_truth[N_MAX], node_got[N_MAX];
        double affinity[N_MAX * N_MAX], spread;
        gr_clusters c;
        nested_affinity(&rng, n, n_nodes, gpus, truth, affinity);
        claim(gr_clusters_build(affinity, n, (grace_cluster){n_nodes, gpus}, seed, &c) == GRACE_OK, seed);
        claim(gr_clusters_bound(&c, GRACE_GROUPING_CONTROLLED, 0.15, got, &spread) == GRACE_OK, seed);
        for (int32_t i = 0; i < n; i++) node_truth[i] = truth[i] / gpus, node_got[i] = got[i] / gpus;
        claim(same_partition(got, truth, n), seed);
        claim(same_partition(node_got, node_truth, n), seed);
        claim(spread == 0, seed);
        gr_clusters_free(&c);
    }
}

/* Every GPU group within the bounds of its own node's E; every node with at least as many experts as GPUs; spread by its definition. */
static void groups_keep_the_bounds_of_their_own_node(void **state) {
    (void)state;
    int32_t n_uneven = 0;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        grace_cluster cluster = {between(&rng, 1, 4), between(&rng, 1, 4)};
        int32_t n_ranks = grace_cluster_ranks(cluster), n = between(&rng, n_ranks, 40), got[N_MAX], size[16], node_size[4] = {0};
        double affinity[N_MAX * N_MAX], r = gr_rng_uniform(&rng), spread, expected = 0;
        grace_grouping grouping = (grace_grouping)(seed % 3);
        gr_clusters c;
        random_affinity(&rng, n, seed % 5 ? 0.6 : 0.05, affinity);
        claim(gr_clusters_build(affinity, n, cluster, seed, &c) == GRACE_OK, seed);
        claim(gr_clusters_bound(&c, grouping, r, got, &spread) == GRACE_OK, seed);
        sizes_of(got, n, n_ranks, size);
        for (int32_t g = 0; g < n_ranks; g++) node_size[g / cluster.gpus_per_node] += size[g];
        for (int32_t g = 0; g < n_ranks; g++) {
            int32_t n_e = node_size[g / cluster.gpus_per_node], ideal = n_e / cluster.gpus_per_node;
            gr_size_bounds b = gr_size_bounds_of(n_e, cluster.gpus_per_node, r);
            claim(size[g] >= 1 && ideal >= 1, seed);
            if (grouping == GRACE_GROUPING_CONTROLLED) claim(size[g] >= b.min && size[g] <= b.max, seed);
            if (grouping == GRACE_GROUPING_UNIFORM) claim(size[g] >= ideal && size[g] <= ideal + 1, seed);
            expected += (size[g] - ideal) * (size[g] - ideal);
        }
        claim(spread == expected, seed);
        for (int32_t node = 1; node < cluster.n_nodes; node++) n_uneven += node_size[node] != node_size[0];
        gr_clusters_free(&c);
    }
    assert_true(n_uneven > 50);
}

/* Twelve experts that hold together and a pair by itself: clustering alone would leave a node with two experts for four GPUs. */
static void a_node_has_an_expert_for_each_of_its_gpus(void **state) {
    (void)state;
    double affinity[14 * 14] = {0};
    int32_t got[14], size[8];
    gr_clusters c;
    for (int32_t i = 0; i < 12; i++)
        for (int32_t j = 0; j < i; j++) put_pair(affinity, 14, i, j, 5);
    put_pair(affinity, 14, 12, 13, 5);
    assert_int_equal(gr_clusters_build(affinity, 14, (grace_cluster){2, 4}, 1, &c), GRACE_OK);
    assert_int_equal(gr_clusters_bound(&c, GRACE_GROUPING_FREE, -1, got, NULL), GRACE_OK);
    sizes_of(got, 14, 8, size);
    for (int32_t g = 0; g < 8; g++) assert_true(size[g] >= 1);
    assert_int_equal(got[12] / 4, got[13] / 4);     /* the pair that belongs together stays */
    gr_clusters_free(&c);
}

static void free_groups_are_the_clusters(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(9);
    int32_t got[32];
    double affinity[32 * 32];
    gr_clusters c;
    random_affinity(&rng, 32, 0.5, affinity);
    assert_int_equal(gr_clusters_build(affinity, 32, (grace_cluster){2, 3}, 4, &c), GRACE_OK);
    assert_int_equal(gr_clusters_bound(&c, GRACE_GROUPING_FREE, -1, got, NULL), GRACE_OK);
    for (int32_t i = 0; i < 32; i++) assert_int_equal(got[i], c.node_of[i] * 3 + c.gpu_of[i]);
    gr_clusters_free(&c);
}

static void controlled_groups_are_the_clusters_bounded_by_r(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 50; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        int32_t n = between(&rng, 12, 48), got[N_MAX], expected[N_MAX];
        double affinity[N_MAX * N_MAX], r = gr_rng_uniform(&rng) / 2;
        gr_clusters c;
        random_affinity(&rng, n, 0.3, affinity);
        claim(gr_clusters_build(affinity, n, (grace_cluster){1, 3}, seed, &c) == GRACE_OK, seed);
        claim(gr_clusters_bound(&c, GRACE_GROUPING_CONTROLLED, r, got, NULL) == GRACE_OK, seed);
        memcpy(expected, c.gpu_of, (size_t)n * sizeof *expected);
        claim(gr_group_bound(affinity, n, 3, gr_size_bounds_of(n, 3, r), expected) == GRACE_OK, seed);
        claim(!memcmp(got, expected, (size_t)n * sizeof *got), seed);
        gr_clusters_free(&c);
    }
}

static void flat_groups_differ_by_at_most_one(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        int32_t n = between(&rng, 1, 40), k = between(&rng, 1, n < 12 ? n : 12), got[N_MAX], size[12];
        double affinity[N_MAX * N_MAX];
        random_affinity(&rng, n, 0.5, affinity);
        claim(gr_group_flat(affinity, n, k, seed, got) == GRACE_OK, seed);
        sizes_of(got, n, k, size);
        for (int32_t g = 0; g < k; g++) claim(size[g] == n / k || size[g] == (n + k - 1) / k, seed);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(planted_nodes_and_gpus_are_recovered_exactly),
        cmocka_unit_test(groups_keep_the_bounds_of_their_own_node),
        cmocka_unit_test(a_node_has_an_expert_for_each_of_its_gpus),
        cmocka_unit_test(free_groups_are_the_clusters),
        cmocka_unit_test(controlled_groups_are_the_clusters_bounded_by_r),
        cmocka_unit_test(flat_groups_differ_by_at_most_one),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
