#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "base/rng.h"

static void the_sequence_is_splitmix64_as_published(void **state) {
    (void)state;
    static const uint64_t golden[] = {6457827717110365317u, 3203168211198807973u, 9817491932198370423u, 4593380528125082431u, 16408922859458223821u};
    gr_rng rng = gr_rng_seed(1234567);
    for (int i = 0; i < 5; i++) assert_true(gr_rng_next(&rng) == golden[i]);
}

static void one_seed_gives_one_sequence_and_another_seed_another(void **state) {
    (void)state;
    gr_rng a = gr_rng_seed(1), b = gr_rng_seed(1), c = gr_rng_seed(2);
    int n_equal = 0;
    for (int i = 0; i < 1000; i++) {
        uint64_t x = gr_rng_next(&a);
        assert_true(x == gr_rng_next(&b));
        n_equal += x == gr_rng_next(&c);
    }
    assert_int_equal(n_equal, 0);
}

static void uniform_numbers_fill_the_interval_below_one(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(3);
    double sum = 0, min = 1, max = 0;
    for (int i = 0; i < 100000; i++) {
        double u = gr_rng_uniform(&rng);
        assert_true(u >= 0 && u < 1);
        sum += u;
        if (u < min) min = u;
        if (u > max) max = u;
    }
    assert_true(sum / 100000 > 0.495 && sum / 100000 < 0.505);     /* five deviations of 0.2887 / sqrt(100000) = 0.00091 */
    assert_true(min < 0.001 && max > 0.999);
}

/* Chi-square with n - 1 degrees of freedom under its mean plus six deviations; the seed is fixed. */
static void numbers_below_n_are_below_n_and_even(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(4);
    for (uint32_t n = 1; n <= 40; n++) {
        int count[40] = {0};
        double expected = 20000.0 / n, chi2 = 0;
        for (int i = 0; i < 20000; i++) {
            uint32_t x = gr_rng_below(&rng, n);
            assert_true(x < n);
            count[x]++;
        }
        for (uint32_t k = 0; k < n; k++) chi2 += (count[k] - expected) * (count[k] - expected) / expected;
        assert_true(chi2 <= (n - 1) + 6 * sqrt(2.0 * (n - 1)));
    }
}

static void the_largest_n_is_allowed(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(5);
    uint32_t max = 0;
    for (int i = 0; i < 1000; i++) {
        uint32_t x = gr_rng_below(&rng, UINT32_MAX);
        assert_true(x < UINT32_MAX);
        if (x > max) max = x;
    }
    assert_true(max > UINT32_MAX / 100 * 98);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_sequence_is_splitmix64_as_published),
        cmocka_unit_test(one_seed_gives_one_sequence_and_another_seed_another),
        cmocka_unit_test(uniform_numbers_fill_the_interval_below_one),
        cmocka_unit_test(numbers_below_n_are_below_n_and_even),
        cmocka_unit_test(the_largest_n_is_allowed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
