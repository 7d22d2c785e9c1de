#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "plan/measure.h"
#include "plan/test_trace_support.h"

/* Experts 0, 1 on rank 0 and 2, 3 on rank 1, one rank a node. In layer 0 every token chooses both of rank 0: a row crosses when its home is the
 * other, half of the time. In layer 1 it chooses one of each: a row crosses from either home. */
static void figures_are_means_over_layers_and_homes(void **state) {
    (void)state;
    static const uint16_t experts[] = {0, 1, 0, 2, 1, 0, 3, 1};
    grace_trace_info info = {.n_layers = 2, .n_experts = 4, .top_k = 2, .n_ranks = 1, .n_nodes = 1};
    grace_trace *t = NULL;
    grace_profile *profile = NULL;
    grace_bundles *bundles = NULL;
    grace_plan *plan = NULL;
    gr_measure m;
    assert_int_equal(gr_trace_new("t", &info, &t), GRACE_OK);
    assert_int_equal(gr_trace_push_sequence("t", t, (grace_trace_sequence){0, 0, -1}), GRACE_OK);
    assert_int_equal(gr_trace_push_segment("t", t, (grace_trace_segment){0, 0, 2, 0, GRACE_PHASE_UNKNOWN}), GRACE_OK);
    assert_int_equal(gr_trace_push_tokens("t", t, &(gr_raw_tokens){.experts = (const unsigned char *)experts, .expert_bytes = 2}, 2), GRACE_OK);
    assert_int_equal(grace_profile_build(t, NULL, &profile), GRACE_OK);
    assert_int_equal(grace_bundles_build(t, NULL, false, 10, &bundles), GRACE_OK);
    assert_int_equal(grace_plan_contiguous(2, 4, 2, (grace_cluster){2, 1}, &plan), GRACE_OK);
    assert_int_equal(gr_plan_measure(plan, bundles, profile->load, &m), GRACE_OK);
    assert_true(m.cross == 0.75 && m.intra == 0 && m.load == 1.5 && m.load_worst == 2);
    grace_plan_free(plan);
    grace_bundles_free(bundles);
    grace_profile_free(profile);
    grace_trace_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(figures_are_means_over_layers_and_homes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
