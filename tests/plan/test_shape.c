#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <string.h>

#include "grace/sim.h"

/* In billions: all, and active for a token. Authors count the embedding and output tables among the active ones or not. */
static void presets_have_the_published_numbers_of_parameters(void **state) {
    (void)state;
    static const struct { const char *name; double all, active; } published[] = {
        {"olmoe-1b-7b", 6.92, 1.3}, {"deepseek-v2-lite", 15.7, 2.4}, {"qwen3-30b-a3b", 30.5, 3.3}, {"gpt-oss-20b", 20.9, 3.6}, {"deepseek-v3", 671, 37}};
    for (size_t i = 0; i < sizeof published / sizeof *published; i++) {
        grace_shape s;
        assert_int_equal(grace_shape_parse(published[i].name, NULL, &s), GRACE_OK);
        double expert = 3e-9 * s.hidden * s.expert_width, tables = 2e-9 * s.head_params, rest = 1e-9 * s.dense_params;
        double all = rest + tables + expert * s.n_experts * s.n_moe_layers, active = rest + expert * s.top_k * s.n_moe_layers;
        if (fabs(all / published[i].all - 1) > 0.01 || active > 1.03 * published[i].active || active + tables < 0.97 * published[i].active)
            fail_msg("%s: %.2f and %.2f to %.2f billion, published %.2f and %.2f", s.name, all, active, active + tables, published[i].all, published[i].active);
        assert_string_equal(grace_shape_preset((int32_t)i), published[i].name);
    }
    assert_null(grace_shape_preset(sizeof published / sizeof *published));
}

static void numbers_come_from_the_text_then_from_the_trace(void **state) {
    (void)state;
    grace_trace_info like = {.n_layers = 6, .n_experts = 32, .top_k = 4};
    grace_shape s;
    assert_int_equal(grace_shape_parse("hidden=512,width=128,dense-params=1e6", &like, &s), GRACE_OK);
    assert_true(s.hidden == 512 && s.expert_width == 128 && s.n_moe_layers == 6 && s.n_experts == 32 && s.top_k == 4 && s.dense_params == 1e6);
    assert_int_equal(grace_shape_check(&s, 6, 32, 4), GRACE_OK);
    assert_int_equal(grace_shape_check(&s, 6, 32, 2), GRACE_ERR_MISMATCH);
    assert_int_equal(grace_shape_parse("hidden=512,width=128,layers=9,experts=8,top-k=1", NULL, &s), GRACE_OK);
    assert_true(s.n_layers == 9 && s.n_moe_layers == 9 && s.n_experts == 8);
}

static void bad_shapes_are_refused(void **state) {
    (void)state;
    static const char *const bad[] = {"", "llama", "hidden=", "hidden=0,width=1", "hidden=1.5,width=1", "hidden=2,width=2", "depth=3", "hidden=2;width=2",
                                      "hidden=2,width=2,layers=1,experts=2,top-k=3", "hidden=nan,width=2", "hidden"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        grace_shape s;
        if (grace_shape_parse(bad[i], NULL, &s) != GRACE_ERR_ARG) fail_msg("'%s' was taken", bad[i]);
    }
}

static void unknown_models_get_stated_widths(void **state) {
    (void)state;
    assert_string_equal(grace_shape_assumed(26, 64, 6).name, "deepseek-v2-lite");
    grace_shape s = grace_shape_assumed(8, 64, 8);
    assert_true(strstr(s.name, "assumed") && s.n_moe_layers == 8 && s.hidden == 2048 && s.dense_params > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(presets_have_the_published_numbers_of_parameters),
        cmocka_unit_test(numbers_come_from_the_text_then_from_the_trace),
        cmocka_unit_test(bad_shapes_are_refused),
        cmocka_unit_test(unknown_models_get_stated_widths),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
