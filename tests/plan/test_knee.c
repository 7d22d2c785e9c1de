#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "plan/knee.h"
#include "plan/planner_cases.h"

/* paper Eq. 1 over ordered pairs, both halves of the matrix: a pair counted twice above and below the line. */
static void utility_is_the_inside_share_of_all_pairs(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 50; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        int32_t n = between(&rng, 2, 20), group_of[20];
        double affinity[400], total = 0;
        random_affinity(&rng, n, 0.8, affinity);
        put_pair(affinity, n, 0, 1, 3);
        for (int32_t i = 0; i < n; i++) group_of[i] = (int32_t)gr_rng_below(&rng, 4);
        for (int32_t i = 0; i < n * n; i++) total += affinity[i];
        claim(fabs(gr_utility(affinity, n, group_of) - inside_sum(affinity, group_of, n) / total) < 1e-14, seed);
    }
}

static void utility_is_1_in_one_group_and_0_without_affinity(void **state) {
    (void)state;
    double affinity[16] = {0};
    int32_t group_of[4] = {0};
    assert_true(gr_utility(affinity, 4, group_of) == 0);
    put_pair(affinity, 4, 2, 3, 5);
    assert_true(gr_utility(affinity, 4, group_of) == 1);
    group_of[3] = 1;
    assert_true(gr_utility(affinity, 4, group_of) == 0);
}

static void spread_sums_squared_distances_from_the_ideal_size(void **state) {
    (void)state;
    const int32_t group_of[9] = {0, 0, 0, 0, 1, 1, 1, 2, 2};     /* sizes 4 3 2 and an empty group */
    assert_true(gr_size_spread(group_of, 9, 3, 3) == 1 + 0 + 1);
    assert_true(gr_size_spread(group_of, 9, 4, 2) == 4 + 1 + 0 + 4);
}

static int32_t knee_of(const double *s, const double *u, int32_t n) {
    grace_knee_point points[16];
    for (int32_t i = 0; i < n; i++) points[i] = (grace_knee_point){.delta = i + 1, .size_std = s[i], .utility = u[i]};
    return gr_knee(points, n);
}

static void the_knee_is_where_the_curve_bends(void **state) {
    (void)state;
    const double s[] = {0, 1, 2, 3, 4, 5, 6}, bent[] = {0.1, 0.5, 0.8, 0.82, 0.84, 0.86, 0.88}, early[] = {0, 0.9, 0.92, 0.94, 0.96, 0.98, 1};
    assert_int_equal(knee_of(s, bent, 7), 2);
    assert_int_equal(knee_of(s, early, 7), 1);
}

static void scaling_an_axis_moves_no_knee(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 100; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        double s[8], u[8], wide[8], tall[8];
        for (int32_t i = 0; i < 8; i++) {
            s[i] = (i ? s[i - 1] : 0) + gr_rng_uniform(&rng);
            u[i] = (i ? u[i - 1] : 0) + gr_rng_uniform(&rng);
            wide[i] = 1024 * s[i], tall[i] = 3 + u[i] / 64;
        }
        claim(knee_of(s, u, 8) == knee_of(wide, u, 8), seed);
        claim(knee_of(s, u, 8) == knee_of(s, tall, 8), seed);
    }
}

/* Distance from the chord by the textbook, signed: positive on the side of more U. */
static void the_knee_is_the_farthest_point_above_the_chord(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        int32_t n = between(&rng, 2, 12), best = 0;
        double s[12], u[12], farthest = 0;
        for (int32_t i = 0; i < n; i++) s[i] = i + 0.5 * gr_rng_uniform(&rng), u[i] = gr_rng_uniform(&rng);
        double slope = (u[n - 1] - u[0]) / (s[n - 1] - s[0]);
        for (int32_t i = 0; i < n; i++) {
            double distance = (u[i] - (u[0] + slope * (s[i] - s[0]))) / sqrt(1 + slope * slope);
            if (i > 0 && i < n - 1 && distance > farthest) farthest = distance, best = i;
        }
        claim(knee_of(s, u, n) == best, seed);
    }
}

static void degenerate_curves_have_a_stated_knee(void **state) {
    (void)state;
    const double flat[] = {2, 2, 2, 2}, line[] = {0, 1, 2, 3}, sagging[] = {0, 0.1, 0.2, 3}, u[] = {0.3, 0.7, 0.7, 0.1};
    const double stuck_s[] = {0, 1, 2, 2}, stuck_u[] = {0, 1.5, 2, 2};
    assert_int_equal(knee_of(flat, u, 1), 0);               /* one point */
    assert_int_equal(knee_of(flat, u, 4), 1);               /* equal S: most U, the smaller delta */
    assert_int_equal(knee_of(line, line, 4), 0);            /* nothing above the chord: the least S */
    assert_int_equal(knee_of(line, sagging, 4), 0);
    assert_int_equal(knee_of(stuck_s, stuck_u, 4), 1);      /* larger deltas that change nothing */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(utility_is_the_inside_share_of_all_pairs),
        cmocka_unit_test(utility_is_1_in_one_group_and_0_without_affinity),
        cmocka_unit_test(spread_sums_squared_distances_from_the_ideal_size),
        cmocka_unit_test(the_knee_is_where_the_curve_bends),
        cmocka_unit_test(scaling_an_axis_moves_no_knee),
        cmocka_unit_test(the_knee_is_the_farthest_point_above_the_chord),
        cmocka_unit_test(degenerate_curves_have_a_stated_knee),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
