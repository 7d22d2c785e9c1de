#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "interop/npy.h"
#include "interop/omni.h"
#include "interop/plans.h"

static void plans_with_any_slots_come_back(void **state) {
    (void)state;
    char *folder = scratch_new();
    for (uint64_t seed = 1; seed <= 30; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        gr_random_plan_options opt = {.n_layers = 3, .n_experts = 9, .top_k = 2, .cluster = {2, 2}, .copies = 0.3, .empty = 0.2};
        grace_plan *plan = gr_random_plan(&opt, &rng), *back = NULL;
        assert_ok(gr_omni_plan_save(plan, in(folder, "p.npy")));
        assert_ok(gr_omni_plan_load(in(folder, "p.npy"), plan->cluster, 2, &back));
        if (!same_holdings(plan, back)) fail_msg("seed %d", (int)seed);
        grace_plan_free(plan), grace_plan_free(back);
    }
    scratch_free(folder);
}

static void dimensions_are_ranks_layers_experts(void **state) {
    (void)state;
    char *folder = scratch_new();
    grace_plan *plan = contiguous(3, 4, (grace_cluster){1, 2});
    gr_npy npy;
    size_t n = 0;
    assert_ok(gr_omni_plan_save(plan, in(folder, "p.npy")));
    unsigned char *bytes = read_bytes(in(folder, "p.npy"), &n);
    assert_ok(gr_npy_parse("n", bytes, n, &npy));
    assert_true(npy.n_dims == 3 && npy.size[0] == 2 && npy.size[1] == 3 && npy.size[2] == 4 && npy.kind == 'i' && npy.item_bytes == 4);
    for (int r = 0; r < 2; r++)
        for (int l = 0; l < 3; l++)
            for (int e = 0; e < 4; e++) assert_int_equal(gr_npy_int(&npy, (r * 3 + l) * 4 + e), e / 2 == r);
    free(bytes);
    grace_plan_free(plan);
    scratch_free(folder);
}

static grace_status parse(const int32_t *values, const int64_t *size, int32_t n_dims) {
    gr_buf bytes = {0};
    gr_placement p = {0};
    assert_ok(gr_npy_print(values, size, n_dims, &bytes));
    grace_status st = gr_omni_parse("n", bytes.data, bytes.n, &p);
    gr_placement_free(&p);
    gr_buf_free(&bytes);
    return st;
}

static void other_arrays_are_refused(void **state) {
    (void)state;
    const int32_t values[4] = {1, 0, 2, 0};
    assert_failed(parse(values, (const int64_t[]){2, 2}, 2), GRACE_ERR_FORMAT, "expected [ranks, layers, experts]");
    assert_failed(parse(values, (const int64_t[]){1, 0, 4}, 3), GRACE_ERR_FORMAT, "expected [ranks, layers, experts]");
    assert_failed(parse(values, (const int64_t[]){1, 1, 4}, 3), GRACE_ERR_FORMAT, "expected 0 and 1, found 2 at element 2");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plans_with_any_slots_come_back),
        cmocka_unit_test(dimensions_are_ranks_layers_experts),
        cmocka_unit_test(other_arrays_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
