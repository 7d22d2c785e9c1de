#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>

#include "base/rng.h"
#include "plan/turns.h"

static void turns_add_up_and_stay_within_one_of_the_share(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(7);
    for (int round = 0; round < 2000; round++) {
        float weight[32];
        int32_t turns[32], n = 1 + (int32_t)gr_rng_below(&rng, 32), sum = 0;
        double total = 0;
        for (int32_t i = 0; i < n; i++) {
            weight[i] = gr_rng_below(&rng, 4) ? (float)gr_rng_uniform(&rng) : 0;
            total += (double)weight[i];
        }
        gr_turns_of_weights(weight, n, turns);
        for (int32_t i = 0; i < n; i++) {
            double share = total > 0 ? GR_TURNS * (double)weight[i] / total : (double)GR_TURNS / n;
            assert_true(fabs(turns[i] - share) < 1);
            sum += turns[i];
        }
        assert_int_equal(sum, GR_TURNS);
    }
}

static void equal_remainders_go_to_the_earlier(void **state) {
    (void)state;
    int32_t turns[3];
    gr_turns_of_weights((const float[]){1, 1, 1}, 3, turns);
    assert_true(turns[0] == 22 && turns[1] == 21 && turns[2] == 21);
    gr_turns_of_weights((const float[]){0, 0, 0}, 3, turns);
    assert_true(turns[0] == 22 && turns[1] == 21 && turns[2] == 21);
    gr_turns_of_weights((const float[]){0, 5, 0}, 3, turns);
    assert_true(turns[0] == 0 && turns[1] == 64 && turns[2] == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(turns_add_up_and_stay_within_one_of_the_share),
        cmocka_unit_test(equal_remainders_go_to_the_earlier),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
