#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "plan/baselines.h"
#include "plan/planner_cases.h"

enum { N = 24 };

static void random_deals_equal_numbers_by_seed(void **state) {
    (void)state;
    int32_t a[N], b[N], size[5], differ = 0;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        assert_int_equal(gr_place_random(N, 5, seed, a), GRACE_OK);
        assert_int_equal(gr_place_random(N, 5, seed, b), GRACE_OK);
        assert_memory_equal(a, b, sizeof a);
        sizes_of(a, N, 5, size);
        for (int32_t r = 0; r < 5; r++) claim(size[r] == 4 || size[r] == 5, seed);
        assert_int_equal(gr_place_random(N, 5, seed + 100, b), GRACE_OK);
        differ += memcmp(a, b, sizeof a) != 0;
    }
    assert_int_equal(differ, 20);
}

/* Copies: none on the primary's rank, none twice. */
static void claim_copies(const int32_t *rank_of_expert, const gr_copy *copies, int32_t n_copies, uint64_t seed) {
    for (int32_t i = 0; i < n_copies; i++) {
        claim(copies[i].rank != rank_of_expert[copies[i].expert], seed);
        for (int32_t j = 0; j < i; j++) claim(copies[i].expert != copies[j].expert || copies[i].rank != copies[j].rank, seed);
    }
}

/* One expert that takes nearly everything: the balancer gives it nearly all spare slots, two of them on one rank, of which one is kept. */
static void eplb_leaves_out_second_copies_on_a_rank(void **state) {
    (void)state;
    double load[4] = {100, 1, 1, 1};
    int32_t ranks[4], n_copies;
    gr_copy copies[8];
    assert_int_equal(gr_place_eplb(load, 4, (grace_cluster){2, 1}, 4, 1, ranks, copies, &n_copies), GRACE_OK);
    claim_copies(ranks, copies, n_copies, 0);
    assert_int_equal(n_copies, 1);
    assert_int_equal(copies[0].expert, 0);
}

static void replicate_node_puts_everything_on_every_node_in_balance(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        grace_cluster cluster = {between(&rng, 1, 4), between(&rng, 1, 4)};
        int32_t g = cluster.gpus_per_node, ranks[N], n_copies, per_gpu[4] = {0};
        double load[N], gpu_load[4] = {0}, most = 0, mean = 0, heaviest = 0;
        gr_copy copies[N * 4];
        for (int32_t e = 0; e < N; e++) load[e] = between(&rng, 50, 100);
        claim(gr_place_replicate_node(load, N, cluster, ranks, copies, &n_copies) == GRACE_OK, seed);
        claim(n_copies == N * (cluster.n_nodes - 1), seed);
        claim_copies(ranks, copies, n_copies, seed);
        for (int32_t i = 0; i < n_copies; i++) {
            int32_t primary = ranks[copies[i].expert];
            claim(copies[i].rank % g == primary % g && copies[i].rank / g != primary / g, seed);
        }
        for (int32_t e = 0; e < N; e++) per_gpu[ranks[e] % g]++, gpu_load[ranks[e] % g] += load[e], mean += load[e] / g, heaviest = fmax(heaviest, load[e]);
        for (int32_t i = 0; i < g; i++) most = fmax(most, gpu_load[i]);
        for (int32_t i = 0; i < g; i++) claim(per_gpu[i] >= N / g && per_gpu[i] <= (N + g - 1) / g, seed);
        claim(most <= mean + heaviest, seed);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_deals_equal_numbers_by_seed),
        cmocka_unit_test(eplb_leaves_out_second_copies_on_a_rank),
        cmocka_unit_test(replicate_node_puts_everything_on_every_node_in_balance),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
