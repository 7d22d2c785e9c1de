#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/half.h"
#include "base/rng.h"

static void every_half_survives_float(void **state) {
    (void)state;
    for (uint32_t h = 0; h < 65536; h++) {
        float x = gr_float_of_half((uint16_t)h);
        if ((h & 0x7FFF) > 0x7C00) assert_true(isnan(x));
        else assert_int_equal(gr_half_of_float(x), h);
    }
    assert_true(gr_float_of_half(0x3C00) == 1 && gr_float_of_half(0xC000) == -2 && gr_float_of_half(0x7BFF) == 65504 && gr_float_of_half(1) == 0x1p-24f);
    assert_true(isinf(gr_float_of_half(0xFC00)) && gr_float_of_half(0xFC00) < 0);
    assert_int_equal(gr_half_of_float(NAN) & 0x7E00, 0x7E00);
}

/* Neighbours around x, found by counting up and down in halves. */
static void a_float_becomes_its_nearest_half_ties_to_even(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(7);
    for (int i = 0; i < 200000; i++) {
        float x = ldexpf((float)gr_rng_uniform(&rng) + 1, (int)gr_rng_below(&rng, 41) - 26);
        uint16_t h = gr_half_of_float(x);
        if (x >= 65520) {
            assert_int_equal(h, 0x7C00);
            continue;
        }
        double off = fabs((double)gr_float_of_half(h) - x);
        if (h > 0) assert_true(off <= fabs((double)gr_float_of_half((uint16_t)(h - 1)) - x));
        if (h < 0x7BFF) assert_true(off <= fabs((double)gr_float_of_half((uint16_t)(h + 1)) - x));
        assert_int_equal(gr_half_of_float(-x), h | 0x8000);
    }
    assert_int_equal(gr_half_of_float(1 + 0x1p-11f), 0x3C00);           /* between 0x3C00 and 0x3C01 */
    assert_int_equal(gr_half_of_float(1 + 3 * 0x1p-11f), 0x3C02);
    assert_int_equal(gr_half_of_float(0x1p-25f), 0);
    assert_int_equal(gr_half_of_float(3 * 0x1p-25f), 2);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_half_survives_float),
        cmocka_unit_test(a_float_becomes_its_nearest_half_ties_to_even),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
