#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "interop/coact.h"
#include "interop/files.h"

/* Two layers (3 and 5), 4 experts, top-2, 8 tokens; experts 0 and 1 nearly always come together. */
static const char load_csv[] = "layer,expert,count\n3,0,6\n3,1,6\n3,2,2\n3,3,2\n5,0,4\n5,1,4\n5,2,4\n5,3,4\n";
static const char coact_csv[] = "layer,expert_i,expert_j,count\n3,1,0,6\n";
#define META "{\"model\":\"%s\",\"layers\":2,\"experts\":4,\"top_k\":2,\"tokens\":8}"

static void put_folder(const char *folder, const char *model, const char *pairs) {
    char meta[512];
    snprintf(meta, sizeof meta, META, model);
    put_text(in(folder, "load.csv"), load_csv);
    put_text(in(folder, "coact.csv"), pairs);
    put_text(in(folder, "meta.json"), meta);
}

static void tokens_have_the_loads_and_the_pairs_and_a_mark(void **state) {
    (void)state;
    char *folder = scratch_new();
    grace_trace *t = NULL;
    grace_profile *p = NULL;
    gr_coact_fit fit;
    put_folder(folder, "m", coact_csv);
    assert_ok(gr_coact_load(folder, 1, 0, &t, &fit));
    assert_string_equal(grace_trace_describe(t)->model, "m (synthetic)");
    assert_true(grace_trace_describe(t)->synthetic);
    assert_string_equal(grace_trace_domain(t, grace_trace_sequence_at(t, 0).domain), "synthetic");
    assert_int_equal(grace_trace_n_tokens(t), 8);
    assert_ok(grace_profile_build(t, NULL, &p));
    assert_true(p->load[0] == 6 && p->load[3] == 2 && p->load[4] == 4 && p->affinity[1] == 6);
    assert_true(fit.load_error_max == 0 && fit.listed_error < 1e-6 && fit.listed_share == 6.0 / 16);
    grace_profile_free(p), grace_trace_close(t);
    scratch_free(folder);
}

static void a_long_name_keeps_the_mark(void **state) {
    (void)state;
    char *folder = scratch_new();
    grace_trace *t = NULL;
    put_folder(folder, "0123456789012345678901234567890123456789012345678\xe2\x82\xac and more of it", coact_csv);
    assert_ok(gr_coact_load(folder, 1, 3, &t, NULL));
    assert_string_equal(grace_trace_describe(t)->model, "0123456789012345678901234567890123456789012345678 (synthetic)");
    grace_trace_close(t);
    scratch_free(folder);
}

static void seeds_and_sizes_are_obeyed(void **state) {
    (void)state;
    char *folder = scratch_new();
    grace_trace *a = NULL, *b = NULL, *c = NULL;
    size_t bytes = 300 * 2 * 2 * sizeof(uint16_t);
    put_folder(folder, "m", coact_csv);
    assert_ok(gr_coact_load(folder, 1, 300, &a, NULL));
    assert_ok(gr_coact_load(folder, 1, 300, &b, NULL));
    assert_ok(gr_coact_load(folder, 2, 300, &c, NULL));
    assert_int_equal(grace_trace_n_tokens(a), 300);
    assert_int_equal(grace_trace_n_sequences(a), 3);
    assert_memory_equal(grace_trace_experts(a), grace_trace_experts(b), bytes);
    assert_true(memcmp(grace_trace_experts(a), grace_trace_experts(c), bytes) != 0);
    grace_trace_close(a), grace_trace_close(b), grace_trace_close(c);
    scratch_free(folder);
}

static void bad_pairs_are_refused(void **state) {
    (void)state;
    static const struct { const char *pairs, *part; } cases[] = {
        {"layer,expert_i,expert_j\n", "expected a column 'count'"},
        {"layer,expert_i,expert_j,count\n4,0,1,1\n", "line 2: the loads have no layer 4"},
        {"layer,expert_i,expert_j,count\n3,0,4,1\n", "expert_j: expected a whole number up to 3"},
        {"layer,expert_i,expert_j,count\n3,2,2,1\n", "expert 2 is paired with itself"},
        {"layer,expert_i,expert_j,count\n3,2,1,3\n", "chosen together 3 times, but alone 2 and 6 times"},
        {"layer,expert_i,expert_j,count\n3,0,1,3\n3,1,0,3\n", "are the same pair"},
    };
    char *folder = scratch_new();
    grace_trace *t = NULL;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_folder(folder, "m", cases[i].pairs);
        assert_failed(gr_coact_load(folder, 1, 0, &t, NULL), GRACE_ERR_FORMAT, cases[i].part);
    }
    put_folder(folder, "m", coact_csv);
    assert_failed(gr_coact_load(folder, 1, -1, &t, NULL), GRACE_ERR_ARG, "expected 0 or more, found -1");
    unlink(in(folder, "meta.json"));
    assert_failed(gr_coact_load(folder, 1, 0, &t, NULL), GRACE_ERR_IO, "expected meta.json beside coact.csv");
    assert_null(t);
    scratch_free(folder);
}

/* Real tables, few tokens: the bound is what as many real tokens would be off by chance, and some. */
static void real_tables_are_met(void **state) {
    (void)state;
    const char *folder = SHARED_TRACES "glm52-coact";
    grace_trace *t = NULL;
    gr_coact_fit fit;
    if (access(folder, F_OK) != 0) {
        print_message("skipped: %s is not here\n", folder);
        return;
    }
    assert_ok(gr_coact_load(folder, 1, 128, &t, &fit));
    print_message("loads off by at most %.2f tokens, listed pairs by %.1f %% (they are %.0f %% of all)\n", fit.load_error_max, 100 * fit.listed_error,
                  100 * fit.listed_share);
    assert_true(fit.load_error_max < 1 && fit.listed_error < 0.5);
    grace_trace_close(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_have_the_loads_and_the_pairs_and_a_mark),
        cmocka_unit_test(a_long_name_keeps_the_mark),
        cmocka_unit_test(seeds_and_sizes_are_obeyed),
        cmocka_unit_test(bad_pairs_are_refused),
        cmocka_unit_test(real_tables_are_met),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
