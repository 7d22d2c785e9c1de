#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "base/parallel.h"

enum { N = 1000 };

static grace_status count(void *context, int32_t index) {
    int32_t *done = context;
    done[index]++;
    return GRACE_OK;
}

static void every_index_runs_once(void **state) {
    (void)state;
    int32_t done[N] = {0};
    assert_int_equal(gr_parallel(N, count, done), GRACE_OK);
    for (int i = 0; i < N; i++) assert_int_equal(done[i], 1);
    assert_int_equal(gr_parallel(0, count, NULL), GRACE_OK);
}

static grace_status fail_at_some(void *context, int32_t index) {
    count(context, index);
    return index % 100 == 77 ? gr_fail(index == 77 ? GRACE_ERR_ARG : GRACE_ERR_LIMIT, "task %d", index) : GRACE_OK;
}

static void the_first_failure_is_told_whatever_thread_met_it(void **state) {
    (void)state;
    int32_t done[N] = {0};
    assert_int_equal(gr_parallel(N, fail_at_some, done), GRACE_ERR_ARG);
    assert_string_equal(grace_last_error(), "task 77");
    for (int i = 0; i < N; i++) assert_int_equal(done[i], 1);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_index_runs_once),
        cmocka_unit_test(the_first_failure_is_told_whatever_thread_met_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
