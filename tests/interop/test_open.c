#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <unistd.h>

#include "interop/files.h"
#include "interop/interop.h"

static const gr_foreign_options options = {.top_k = 0, .seed = 1, .n_tokens = 4};

/* "trace" or "profile", as a test of which one came. */
static void assert_kind(const char *path, const char *kind) {
    grace_trace_reader *trace = NULL;
    grace_profile *profile = NULL;
    assert_ok(gr_foreign_open(path, &options, &trace, &profile));
    assert_true(!trace != !profile);
    assert_string_equal(trace ? "trace" : "profile", kind);
    grace_trace_reader_close(trace), grace_profile_free(profile);
}

static void every_kind_of_input_is_recognised(void **state) {
    (void)state;
    char *folder = scratch_new();
    world *w = world_random(1, 2, 8, 2, 3, 20);
    assert_kind(DATA "per_token.pt", "trace");
    assert_kind(DATA "per_pass.pt", "profile");
    assert_kind(DATA "stat.pt", "profile");
    assert_ok(world_save(w, in(folder, "ours.trace")));
    assert_kind(in(folder, "ours.trace"), "trace");
    put_text(in(folder, "weights.json"), "[[1,2]]");
    assert_kind(in(folder, "weights.json"), "profile");
    put_text(in(folder, "topk.u8"), "");
    put_text(in(folder, "meta.json"), "{\"layers\":1,\"experts\":2,\"top_k\":1,\"tokens\":0}");
    assert_kind(folder, "trace");
    put_text(in(folder, "load.csv"), "layer,expert,count\n0,0,1\n0,1,2\n");
    assert_kind(in(folder, "load.csv"), "profile");
    assert_kind(folder, "profile");
    put_text(in(folder, "coact.csv"), "layer,expert_i,expert_j,count\n");
    assert_kind(folder, "trace");
    world_free(w);
    scratch_free(folder);
}

/* What a file says of itself is not overruled; what it does not say may be given. */
static void another_top_k_than_the_file_s_is_refused(void **state) {
    (void)state;
    char *folder = scratch_new();
    grace_trace_reader *trace = NULL;
    grace_profile *profile = NULL;
    put_text(in(folder, "topk.u8"), "");
    put_text(in(folder, "meta.json"), "{\"layers\":1,\"experts\":3,\"top_k\":2,\"tokens\":0}");
    assert_failed(gr_foreign_open(folder, &(gr_foreign_options){.top_k = 3}, &trace, &profile), GRACE_ERR_MISMATCH, "expected top_k 2");
    put_text(in(folder, "load.csv"), "layer,expert,count\n0,0,1\n0,1,2\n0,2,1\n");
    assert_failed(gr_foreign_open(folder, &(gr_foreign_options){.top_k = 3}, &trace, &profile), GRACE_ERR_MISMATCH,
                  "expected top_k 2, as meta.json has it, found 3");
    assert_true(!trace && !profile);
    assert_ok(gr_foreign_open(folder, &(gr_foreign_options){.top_k = 2}, &trace, &profile));
    assert_true(profile->info.top_k == 2);
    grace_profile_free(profile);
    put_text(in(folder, "weights.json"), "[[1,2]]");
    assert_ok(gr_foreign_open(in(folder, "weights.json"), &(gr_foreign_options){.top_k = 2}, &trace, &profile));
    assert_true(profile->info.top_k == 2);
    grace_profile_free(profile);
    scratch_free(folder);
}

static void tokens_are_had_from_tokens_only(void **state) {
    (void)state;
    grace_trace *whole = NULL;
    grace_trace_reader *trace = NULL;
    assert_ok(gr_foreign_trace(DATA "per_token.pt", &options, &whole));
    assert_true(grace_trace_n_tokens(whole) > 0);
    grace_trace_close(whole), whole = NULL;
    assert_failed(gr_foreign_trace(DATA "stat.pt", &options, &whole), GRACE_ERR_ARG, "stat.pt has loads only: expected a trace of tokens");
    assert_failed(gr_foreign_tokens(DATA "per_pass.pt", &options, &trace), GRACE_ERR_ARG, "mode per_token");
    assert_true(!whole && !trace);
}

static void what_cannot_be_looked_at_is_not_said_to_be_missing(void **state) {
    (void)state;
    char *folder = scratch_new();
    grace_trace_reader *trace = NULL;
    grace_profile *profile = NULL;
    assert_int_equal(symlink("topk.u8", in(folder, "topk.u8")), 0);        /* a circle: an error that root meets too */
    assert_failed(gr_foreign_open(folder, &options, &trace, &profile), GRACE_ERR_IO, "topk.u8: Too many levels of symbolic links");
    scratch_free(folder);
}

static void what_is_not_there_is_named(void **state) {
    (void)state;
    grace_trace_reader *trace = NULL;
    grace_profile *profile = NULL;
    assert_failed(gr_foreign_open("/nowhere/at/all", &options, &trace, &profile), GRACE_ERR_IO, "/nowhere/at/all: No such file");
    assert_failed(gr_foreign_open(DATA, &options, &trace, &profile), GRACE_ERR_IO, "expected topk.u8 or topk.u16 in the folder");
    assert_true(!trace && !profile);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_kind_of_input_is_recognised),
        cmocka_unit_test(another_top_k_than_the_file_s_is_refused),
        cmocka_unit_test(tokens_are_had_from_tokens_only),
        cmocka_unit_test(what_cannot_be_looked_at_is_not_said_to_be_missing),
        cmocka_unit_test(what_is_not_there_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
