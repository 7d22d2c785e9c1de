#include "compute/fixture.h"

#include "compute/cpu/bench.h"

/* No times are judged here: only that figures come out, count the right work, and that impossible sizes are refused. */
static void benches_report_the_work_they_did(void **state) {
    (void)state;
    gr_compute *c = NULL;
    gr_bench_time t = {0};
    double gflops = 0, gbs = 0;
    assert_int_equal(gr_compute_cpu_open("auto", 1, &c), GRACE_OK);
    assert_int_equal(gr_bench_bandwidth(c, 1 << 20, &gbs), GRACE_OK);
    assert_true(gbs > 0);
    assert_int_equal(gr_bench_peak(c, &gflops), GRACE_OK);
    assert_true(gflops > 0);
    assert_int_equal(gr_bench_linear(c, 3, 20, 30, 5000, 5, &t), GRACE_OK);
    assert_true(t.median_us > 0 && t.iqr_us >= 0 && t.flops == 2 * 3 * 20 * 30 && t.weight_bytes == 2 * 20 * 30);
    assert_int_equal(gr_bench_experts(c, 3, 20, 30, 5000, 4, &t), GRACE_OK);
    assert_true(t.median_us > 0 && t.iqr_us >= 0 && t.flops == 6 * 3 * 20 * 30 && t.weight_bytes == 6 * 20 * 30);
    c->ops->free(c);
}

static void impossible_sizes_are_refused(void **state) {
    (void)state;
    gr_compute *c = NULL;
    gr_bench_time t = {0};
    double gbs = 0;
    assert_int_equal(gr_compute_cpu_open("auto", 1, &c), GRACE_OK);
    assert_int_equal(gr_bench_bandwidth(c, 10, &gbs), GRACE_ERR_ARG);
    assert_int_equal(gr_bench_linear(c, 0, 20, 30, 5000, 5, &t), GRACE_ERR_ARG);
    assert_int_equal(gr_bench_linear(c, 1, 20, -30, 5000, 5, &t), GRACE_ERR_ARG);
    assert_int_equal(gr_bench_experts(c, 1, 20, 30, 5000, 2, &t), GRACE_ERR_ARG);
    c->ops->free(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(benches_report_the_work_they_did),
        cmocka_unit_test(impossible_sizes_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
