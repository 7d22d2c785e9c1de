#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <float.h>
#include <math.h>

#include "plan/planner_cases.h"
#include "plan/replicate.h"

enum { N_MAX = 40, RANKS_MAX = 9 };

static void replica_count_follows_equation_3(void **state) {
    (void)state;
    const double even[4] = {5, 5, 5, 5}, skewed[4] = {90, 10, 10, 10}, all[4] = {0, 80, 0, 0}, double_mean[4] = {40, 20, 10, 10};
    const double one[1] = {7}, idle[4] = {0};
    assert_int_equal(gr_replica_count(even, 4), 1);             /* rho = 1 */
    assert_int_equal(gr_replica_count(double_mean, 4), 2);      /* rho = 2 */
    assert_int_equal(gr_replica_count(skewed, 4), 3);           /* rho = 3 */
    assert_int_equal(gr_replica_count(all, 4), 3);              /* rho = 4, but only three others */
    assert_int_equal(gr_replica_count(one, 1), 0);
    assert_int_equal(gr_replica_count(idle, 4), 0);
}

static void hot_experts_are_the_shortest_prefix_over_the_threshold(void **state) {
    (void)state;
    const double load[7] = {5, 40, 99, 30, 30, 1, 0};
    const int32_t rank_of[7] = {0, 0, 1, 0, 0, 0, 0};
    int32_t hot[7];
    assert_int_equal(gr_hot_experts(load, rank_of, 7, 0, 39, hot), 1);
    assert_int_equal(hot[0], 1);
    assert_int_equal(gr_hot_experts(load, rank_of, 7, 0, 40, hot), 2);      /* 40 does not exceed 40 */
    assert_true(hot[0] == 1 && hot[1] == 3);                                /* of equal loads the lower id */
    assert_int_equal(gr_hot_experts(load, rank_of, 7, 0, 100, hot), 4);     /* 40 + 30 + 30 is 100, 5 more exceeds it */
    assert_true(hot[2] == 4 && hot[3] == 0);
    assert_int_equal(gr_hot_experts(load, rank_of, 7, 0, 1000, hot), 6);
    assert_int_equal(gr_hot_experts(load, rank_of, 7, 2, 1, hot), 0);
}

static void least_loaded_ranks_come_in_order_with_ties_to_the_lower(void **state) {
    (void)state;
    const double load[5] = {3, 9, 1, 3, 1};
    const int32_t expected[4] = {2, 4, 0, 3}, without_2[2] = {4, 0};
    int32_t hosts[4];
    gr_least_loaded(load, 5, 1, 4, hosts);
    assert_memory_equal(hosts, expected, sizeof expected);
    gr_least_loaded(load, 5, 2, 2, hosts);
    assert_memory_equal(hosts, without_2, sizeof without_2);
}

/* Four ranks, loads 100 20 30 10: rho = 2.5, two replicas, threshold 100 * 2/3. Experts 0 (60) and 1 (25) of rank 0 go to ranks 3 and 1.
 * W_r = 85, W_p = 85/3. */
static void a_layer_by_hand(void **state) {
    (void)state;
    const double load[6] = {60, 25, 15, 20, 30, 10};
    const int32_t rank_of[6] = {0, 0, 0, 1, 2, 3};
    double rank_load[4];
    int32_t hot[6], hosts[4];
    gr_replicas r = {.hot = hot, .hosts = hosts};
    gr_rank_loads(load, rank_of, 6, 4, rank_load);
    gr_replicate(load, rank_of, 6, rank_load, 4, GRACE_REPLICATION_DYNAMIC, &r);
    assert_true(r.heaviest == 0 && r.n_replica == 2 && r.n_hot == 2);
    assert_true(hot[0] == 0 && hot[1] == 1 && hosts[0] == 3 && hosts[1] == 1);
    gr_predict_load(load, &r, rank_load);
    assert_true(fabs(rank_load[0] - (15 + 85 / 3.0)) < 1e-12 && fabs(rank_load[1] - (20 + 85 / 3.0)) < 1e-12);
    assert_true(rank_load[2] == 30 && fabs(rank_load[3] - (10 + 85 / 3.0)) < 1e-12);
}

/* The same layer with FR: one copy, threshold 50, so expert 0 alone goes to rank 3. */
static void fixed_replication_makes_one_copy_on_the_least_loaded_rank(void **state) {
    (void)state;
    const double load[6] = {60, 25, 15, 20, 30, 10};
    const int32_t rank_of[6] = {0, 0, 0, 1, 2, 3};
    double rank_load[4];
    int32_t hot[6], hosts[4];
    gr_replicas r = {.hot = hot, .hosts = hosts};
    gr_rank_loads(load, rank_of, 6, 4, rank_load);
    gr_replicate(load, rank_of, 6, rank_load, 4, GRACE_REPLICATION_FIXED, &r);
    assert_true(r.n_replica == 1 && r.n_hot == 1 && hot[0] == 0 && hosts[0] == 3);
    gr_replicate(load, rank_of, 6, rank_load, 4, GRACE_REPLICATION_NONE, &r);
    assert_true(r.n_replica == 0 && r.n_hot == 0);
}

/* ---- a second implementation: sort everything, walk prefixes ---- */

typedef struct item { double load; int32_t id; } item;

static int falling(const void *a, const void *b) {
    const item *x = a, *y = b;
    return x->load != y->load ? (x->load < y->load ? 1 : -1) : x->id - y->id;
}

static int rising(const void *a, const void *b) {
    const item *x = a, *y = b;
    return x->load != y->load ? (x->load > y->load ? 1 : -1) : x->id - y->id;
}

typedef struct answer { int32_t n_replica, n_hot, hot[N_MAX], hosts[RANKS_MAX]; double after[RANKS_MAX]; } answer;

static answer naive_replicate(const double *load, const int32_t *rank_of, int32_t n, int32_t d, bool fixed) {
    answer a = {0};
    item ranks[RANKS_MAX], members[N_MAX];
    double total = 0, max = 0, moved = 0;
    int32_t heaviest, m = 0;
    for (int32_t r = 0; r < d; r++) ranks[r] = (item){0, r};
    for (int32_t e = 0; e < n; e++) ranks[rank_of[e]].load += load[e], total += load[e];
    for (int32_t r = 0; r < d; r++) a.after[r] = ranks[r].load;
    qsort(ranks, (size_t)d, sizeof *ranks, falling);
    heaviest = ranks[0].id, max = ranks[0].load;
    if (total == 0 || d == 1) return a;
    a.n_replica = fixed ? 1 : (int32_t)(max * d / total);
    if (a.n_replica < 1) a.n_replica = 1;
    if (a.n_replica > d - 1) a.n_replica = d - 1;
    for (int32_t e = 0; e < n; e++)
        if (rank_of[e] == heaviest) members[m++] = (item){load[e], e};
    qsort(members, (size_t)m, sizeof *members, falling);
    while (a.n_hot < m && moved <= max * a.n_replica / (1 + a.n_replica)) {
        moved += members[a.n_hot].load;
        a.hot[a.n_hot] = members[a.n_hot].id;
        a.n_hot++;
    }
    qsort(ranks + 1, (size_t)d - 1, sizeof *ranks, rising);
    for (int32_t h = 0; h < a.n_replica; h++) a.hosts[h] = ranks[1 + h].id, a.after[ranks[1 + h].id] += moved / (a.n_replica + 1);
    a.after[heaviest] -= moved * a.n_replica / (a.n_replica + 1);
    return a;
}

static void random_layer(gr_rng *rng, int32_t n, int32_t d, double *load, int32_t *rank_of) {
    int32_t skew = between(rng, 0, 3);
    for (int32_t e = 0; e < n; e++) {
        rank_of[e] = e < d ? e : (int32_t)gr_rng_below(rng, (uint32_t)d);
        load[e] = (double)gr_rng_below(rng, 50) * (rank_of[e] == 0 ? 1 + 4 * skew : 1);
    }
}

static void random_layers_agree_with_a_second_implementation(void **state) {
    (void)state;
    int32_t seen[RANKS_MAX] = {0};
    for (uint64_t seed = 1; seed <= 500; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        int32_t d = between(&rng, 1, RANKS_MAX - 1), n = between(&rng, d, N_MAX), rank_of[N_MAX], hot[N_MAX], hosts[RANKS_MAX];
        double load[N_MAX], rank_load[RANKS_MAX], before = 0, after = 0;
        random_layer(&rng, n, d, load, rank_of);
        gr_replicas r = {.hot = hot, .hosts = hosts};
        answer a = naive_replicate(load, rank_of, n, d, seed % 3 == 0);
        gr_rank_loads(load, rank_of, n, d, rank_load);
        for (int32_t i = 0; i < d; i++) before += rank_load[i];
        gr_replicate(load, rank_of, n, rank_load, d, seed % 3 ? GRACE_REPLICATION_DYNAMIC : GRACE_REPLICATION_FIXED, &r);
        claim(r.n_replica == a.n_replica && r.n_hot == a.n_hot, seed);
        claim(!memcmp(hot, a.hot, (size_t)a.n_hot * sizeof *hot), seed);
        claim(!memcmp(hosts, a.hosts, (size_t)a.n_replica * sizeof *hosts), seed);
        gr_predict_load(load, &r, rank_load);
        for (int32_t i = 0; i < d; i++) {
            claim(fabs(rank_load[i] - a.after[i]) < 1e-9, seed);
            after += rank_load[i];
        }
        claim(fabs(after - before) < 1e-9, seed);               /* paper Eq. 4 moves load, it makes none */
        for (int32_t h = 0; h < r.n_replica; h++) claim(hosts[h] != r.heaviest, seed);      /* no expert twice on a rank */
        seen[r.n_replica]++;
    }
    assert_true(seen[0] > 0 && seen[1] > 0 && seen[2] > 0 && seen[3] > 0);
}

/* ---- polling weights ---- */

static void polling_weights_are_inverse_loads_with_sum_1(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        int32_t n = between(&rng, 1, 64);
        double load[64], sum = 0;
        float weight[64];
        for (int32_t i = 0; i < n; i++) load[i] = between(&rng, 1, 10000);
        gr_poll_weights(load, n, weight);
        for (int32_t i = 0; i < n; i++) {
            sum += (double)weight[i];
            claim(fabs((double)weight[i] * load[i] / ((double)weight[0] * load[0]) - 1) < 1e-6, seed);
        }
        claim(fabs(sum - 1) < 1e-6, seed);
    }
}

static void hosts_without_load_share_everything(void **state) {
    (void)state;
    const double some[4] = {0, 5, 0, 1}, none[3] = {0};
    float weight[4];
    gr_poll_weights(some, 4, weight);
    assert_true(weight[0] == 0.5f && weight[1] == 0 && weight[2] == 0.5f && weight[3] == 0);
    gr_poll_weights(none, 3, weight);
    assert_true(weight[0] == 1.0f / 3 && weight[1] == weight[0] && weight[2] == weight[0]);
}

static void loads_too_small_to_invert_give_finite_weights(void **state) {
    (void)state;
    const double tiny[3] = {DBL_TRUE_MIN, 2 * DBL_TRUE_MIN, DBL_MAX};
    float weight[3];
    gr_poll_weights(tiny, 3, weight);
    assert_true(fabsf(weight[0] - 2.0f / 3) < 1e-6f && fabsf(weight[1] - 1.0f / 3) < 1e-6f && weight[2] == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(replica_count_follows_equation_3),
        cmocka_unit_test(hot_experts_are_the_shortest_prefix_over_the_threshold),
        cmocka_unit_test(least_loaded_ranks_come_in_order_with_ties_to_the_lower),
        cmocka_unit_test(a_layer_by_hand),
        cmocka_unit_test(fixed_replication_makes_one_copy_on_the_least_loaded_rank),
        cmocka_unit_test(random_layers_agree_with_a_second_implementation),
        cmocka_unit_test(polling_weights_are_inverse_loads_with_sum_1),
        cmocka_unit_test(hosts_without_load_share_everything),
        cmocka_unit_test(loads_too_small_to_invert_give_finite_weights),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
