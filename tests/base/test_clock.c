#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <unistd.h>

#include "base/clock.h"

static void time_goes_forward_in_microseconds(void **state) {
    (void)state;
    double start = gr_now_us(), before = start;
    for (int i = 0; i < 1000; i++) {
        double now = gr_now_us();
        assert_true(now >= before);
        before = now;
    }
    usleep(2000);
    assert_true(gr_now_us() - start >= 2000);
    assert_true(gr_now_us() - start < 60e6);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(time_goes_forward_in_microseconds)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
