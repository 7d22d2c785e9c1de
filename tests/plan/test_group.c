#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "plan/group.h"
#include "plan/planner_cases.h"
#include "plan/spectral.h"

enum { N_MAX = 40 };

/* ---- bounds ---- */

static void bounds_follow_algorithm_2(void **state) {
    (void)state;
    gr_size_bounds b = gr_size_bounds_of(64, 4, 0.15);      /* the paper's OLMoE case: E = 16, delta = round(2.4) */
    assert_true(b.ideal == 16 && b.delta == 2 && b.min == 14 && b.max == 18);
    b = gr_size_bounds_of(64, 4, 0);                        /* delta is at least 1 */
    assert_true(b.delta == 1 && b.min == 15 && b.max == 17);
    b = gr_size_bounds_of(10, 4, 1);                        /* E = 2, delta = 2: a group keeps one member */
    assert_true(b.ideal == 2 && b.delta == 2 && b.min == 1 && b.max == 4);
    b = gr_size_bounds_equal(10, 4);
    assert_true(b.min == 2 && b.max == 3);
}

static void bounds_can_always_be_met(void **state) {
    (void)state;
    for (int32_t n = 1; n <= 130; n++)
        for (int32_t k = 1; k <= n; k++)
            for (int32_t step = 0; step <= 10; step++) {
                gr_size_bounds b = gr_size_bounds_of(n, k, step / 10.0), e = gr_size_bounds_equal(n, k);
                if (!(b.min >= 1 && k * b.min <= n && n <= k * b.max)) fail_msg("n %d k %d r %g: %d to %d", n, k, step / 10.0, b.min, b.max);
                if (!(e.min >= 1 && k * e.min <= n && n <= k * e.max && e.max - e.min <= 1)) fail_msg("n %d k %d: %d to %d", n, k, e.min, e.max);
            }
}

static void every_candidate_ratio_rounds_to_its_own_delta(void **state) {
    (void)state;
    for (int32_t ideal = 1; ideal <= 256; ideal++)
        for (int32_t delta = 1; delta <= ideal; delta++) assert_int_equal(gr_size_bounds_of(4 * ideal, 4, (double)delta / ideal).delta, delta);
}

/* ---- steps 2 to 4 by hand ---- */

/* E = 3, r = 0.3: sizes 2 to 4. Cluster {0,1,2,3,4} is one too large. Inside it 0,1,2,3 share 5 each, 4 shares 1 with 0 only; 4 and 5 share 3. */
static void the_weakest_member_of_an_oversized_cluster_leaves_for_the_group_it_adds_most_to(void **state) {
    (void)state;
    double affinity[36] = {0};
    int32_t group_of[6] = {0, 0, 0, 0, 0, 1};
    const int32_t expected[6] = {0, 0, 0, 0, 1, 1};
    for (int32_t i = 0; i < 4; i++)
        for (int32_t j = 0; j < i; j++) put_pair(affinity, 6, i, j, 5);
    put_pair(affinity, 6, 4, 0, 1);
    put_pair(affinity, 6, 4, 5, 3);
    assert_int_equal(gr_group_bound(affinity, 6, 2, gr_size_bounds_of(6, 2, 0.3), group_of), GRACE_OK);
    assert_memory_equal(group_of, expected, sizeof expected);
}

/* E = 3, delta 1: sizes 2 to 4. Clusters {0..6}, {7}, {8}. 0,1,2,3 hold together by 9 each; 4, 5, 6 hang on by 1 and share 4, 3, 2 with 7.
 * Step 2 pools 4, 5, 6. Step 3 gives all three to 7's group, which is full then. Step 4: group {8} needs one; {7,4,5,6} has 6 with the
 * weakest tie (2 + 0), {0,1,2,3} has ties of 27. So 6 moves. */
static void a_group_under_the_minimum_takes_the_loosest_expert_of_those_above_it(void **state) {
    (void)state;
    double affinity[81] = {0};
    int32_t group_of[9] = {0, 0, 0, 0, 0, 0, 0, 1, 2};
    const int32_t expected[9] = {0, 0, 0, 0, 1, 1, 2, 1, 2};
    for (int32_t i = 0; i < 4; i++)
        for (int32_t j = 0; j < i; j++) put_pair(affinity, 9, i, j, 9);
    for (int32_t i = 4; i < 7; i++) {
        put_pair(affinity, 9, i, 0, 1);
        put_pair(affinity, 9, i, 7, 8 - i);
    }
    assert_int_equal(gr_group_bound(affinity, 9, 3, gr_size_bounds_of(9, 3, 0), group_of), GRACE_OK);
    assert_memory_equal(group_of, expected, sizeof expected);
}

/* Sizes 1 to 3, cluster {0,1,2,3} and {4}; no affinity anywhere: equal members, the higher id leaves. */
static void ties_keep_the_lower_ids(void **state) {
    (void)state;
    double affinity[25] = {0};
    int32_t group_of[5] = {0, 0, 0, 0, 1};
    const int32_t expected[5] = {0, 0, 0, 1, 1};
    assert_int_equal(gr_group_bound(affinity, 5, 2, gr_size_bounds_of(5, 2, 0), group_of), GRACE_OK);
    assert_memory_equal(group_of, expected, sizeof expected);
}

/* ---- a second implementation, with sets as sorted lists and everything recomputed ---- */

typedef struct naive { int32_t n, k, min, max, *group_of; const double *a; } naive;

static double tie(const naive *x, int32_t e, int32_t g) {
    double sum = 0;
    for (int32_t j = 0; j < x->n; j++) sum += j != e && x->group_of[j] == g ? x->a[e * x->n + j] : 0;
    return sum;
}

static int32_t size_of(const naive *x, int32_t g) {
    int32_t size = 0;
    for (int32_t j = 0; j < x->n; j++) size += x->group_of[j] == g;
    return size;
}

static const double *sort_key;
static int falling_key_then_id(const void *a, const void *b) {
    int32_t i = *(const int32_t *)a, j = *(const int32_t *)b;
    if (sort_key[i] != sort_key[j]) return sort_key[i] > sort_key[j] ? -1 : 1;
    return i - j;
}

static void naive_trim(naive *x) {
    double key[N_MAX];
    int32_t members[N_MAX];
    for (int32_t g = 0; g < x->k; g++) {
        int32_t m = 0;
        for (int32_t i = 0; i < x->n; i++)
            if (x->group_of[i] == g) key[i] = tie(x, i, g), members[m++] = i;
        sort_key = key;
        qsort(members, (size_t)m, sizeof *members, falling_key_then_id);
        for (int32_t i = x->max; i < m; i++) x->group_of[members[i]] = -1;
    }
}

static void naive_pool(naive *x) {
    double key[N_MAX];
    int32_t pool[N_MAX], m = 0;
    for (int32_t i = 0; i < x->n; i++) {
        key[i] = 0;
        for (int32_t j = 0; j < x->n; j++) key[i] += x->a[i * x->n + j];
        if (x->group_of[i] < 0) pool[m++] = i;
    }
    sort_key = key;
    qsort(pool, (size_t)m, sizeof *pool, falling_key_then_id);
    for (int32_t p = 0; p < m; p++) {
        int32_t best = -1;
        for (int32_t g = x->k - 1; g >= 0; g--) {           /* from above: a later equal one is lower */
            if (size_of(x, g) >= x->max) continue;
            double more = best < 0 ? 1 : tie(x, pool[p], g) - tie(x, pool[p], best);
            if (more > 0 || (more == 0 && size_of(x, g) <= size_of(x, best))) best = g;
        }
        x->group_of[pool[p]] = best;
    }
}

static void naive_fill(naive *x) {
    for (int32_t g = 0; g < x->k; g++)
        while (size_of(x, g) < x->min) {
            int32_t loosest = -1;
            for (int32_t i = x->n - 1; i >= 0; i--)
                if (size_of(x, x->group_of[i]) > x->min)
                    if (loosest < 0 || tie(x, i, x->group_of[i]) <= tie(x, loosest, x->group_of[loosest])) loosest = i;
            x->group_of[loosest] = g;
        }
}

static void random_clusters(gr_rng *rng, int32_t n, int32_t k, int32_t *group_of) {
    for (int32_t i = 0; i < n; i++) group_of[i] = gr_rng_below(rng, 3) ? 0 : (int32_t)gr_rng_below(rng, (uint32_t)k);     /* one is often oversized */
}

static void random_clusters_become_what_a_second_implementation_makes_of_them(void **state) {
    (void)state;
    int32_t n_trimmed = 0, n_filled = 0;
    for (uint64_t seed = 1; seed <= 300; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        int32_t n = between(&rng, 1, N_MAX), k = between(&rng, 1, n < 8 ? n : 8), got[N_MAX], expected[N_MAX], size[8];
        double affinity[N_MAX * N_MAX], r = gr_rng_uniform(&rng);
        gr_size_bounds b = seed % 4 ? gr_size_bounds_of(n, k, r) : gr_size_bounds_equal(n, k);
        random_affinity(&rng, n, seed % 3 ? 0.8 : 0.2, affinity);
        random_clusters(&rng, n, k, got);
        memcpy(expected, got, sizeof got);
        naive x = {n, k, b.min, b.max, expected, affinity};
        naive_trim(&x);
        for (int32_t i = 0; i < n; i++) n_trimmed += expected[i] < 0;
        naive_pool(&x);
        for (int32_t g = 0; g < k; g++) n_filled += size_of(&x, g) < b.min;
        naive_fill(&x);
        claim(gr_group_bound(affinity, n, k, b, got) == GRACE_OK, seed);
        claim(!memcmp(got, expected, (size_t)n * sizeof *got), seed);
        sizes_of(got, n, k, size);
        for (int32_t g = 0; g < k; g++) claim(size[g] >= b.min && size[g] <= b.max, seed);
    }
    assert_true(n_trimmed > 500 && n_filled > 100);     /* the cases did exercise every step */
}

static void clusters_within_the_bounds_stay_as_they_are(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        int32_t n = between(&rng, 4, N_MAX), got[N_MAX], before[N_MAX];
        double affinity[N_MAX * N_MAX];
        random_affinity(&rng, n, 1, affinity);
        for (int32_t i = 0; i < n; i++) before[i] = got[i] = i % 4;
        claim(gr_group_bound(affinity, n, 4, gr_size_bounds_of(n, 4, 0), got) == GRACE_OK, seed);
        claim(!memcmp(got, before, (size_t)n * sizeof *got), seed);
    }
}

/* ---- against the best grouping there is ---- */

static double best_inside(const double *affinity, int32_t n, int32_t k, gr_size_bounds b) {
    int32_t group_of[8], size[8], n_groupings = (int32_t)pow(k, n);
    double best = -1;
    for (int32_t code = 0; code < n_groupings; code++) {
        int32_t rest = code;
        bool fits = true;
        for (int32_t i = 0; i < n; i++, rest /= k) group_of[i] = rest % k;
        sizes_of(group_of, n, k, size);
        for (int32_t g = 0; g < k; g++) fits = fits && size[g] >= b.min && size[g] <= b.max;
        if (fits) best = fmax(best, inside_sum(affinity, group_of, n));
    }
    return best;
}

static void spectral_groups_come_near_the_brute_force_optimum(void **state) {
    (void)state;
    double got = 0, best = 0;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        int32_t n = between(&rng, 4, 8), k = between(&rng, 2, 3), group_of[8];
        double affinity[64], optimum;
        gr_size_bounds b = gr_size_bounds_of(n, k, 0);
        random_affinity(&rng, n, 0.6, affinity);
        claim(gr_spectral_cluster(affinity, n, k, seed, group_of) == GRACE_OK, seed);
        claim(gr_group_bound(affinity, n, k, b, group_of) == GRACE_OK, seed);
        optimum = best_inside(affinity, n, k, b);
        claim(inside_sum(affinity, group_of, n) <= optimum, seed);
        got += inside_sum(affinity, group_of, n), best += optimum;
    }
    print_message("inside affinity: %.3f of the optimum\n", got / best);
    assert_true(got >= 0.85 * best);        /* random affinity has little structure to find; a random grouping reaches about half */
}

static void filling_alone_reaches_every_minimum(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        int32_t n = between(&rng, 1, N_MAX), k = between(&rng, 1, n < 8 ? n : 8), min = between(&rng, 1, n / k), group_of[N_MAX], size[8];
        double affinity[N_MAX * N_MAX];
        random_affinity(&rng, n, 0.5, affinity);
        random_clusters(&rng, n, k, group_of);
        claim(gr_group_fill(affinity, n, k, min, group_of) == GRACE_OK, seed);
        sizes_of(group_of, n, k, size);
        for (int32_t g = 0; g < k; g++) claim(size[g] >= min, seed);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(bounds_follow_algorithm_2),
        cmocka_unit_test(bounds_can_always_be_met),
        cmocka_unit_test(every_candidate_ratio_rounds_to_its_own_delta),
        cmocka_unit_test(the_weakest_member_of_an_oversized_cluster_leaves_for_the_group_it_adds_most_to),
        cmocka_unit_test(a_group_under_the_minimum_takes_the_loosest_expert_of_those_above_it),
        cmocka_unit_test(ties_keep_the_lower_ids),
        cmocka_unit_test(random_clusters_become_what_a_second_implementation_makes_of_them),
        cmocka_unit_test(clusters_within_the_bounds_stay_as_they_are),
        cmocka_unit_test(spectral_groups_come_near_the_brute_force_optimum),
        cmocka_unit_test(filling_alone_reaches_every_minimum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
