/* Models on a GPU against the reference implementation's goldens (docs/goldens.md), in bf16.
 *
 * A choice of experts that rounding turns around makes all that follows legitimately another, and in bf16 that happens every few tokens. So the arithmetic is
 * compared with the reference's routing in place of the gates' choices, on every row; and the gates with their own choices, up to the first open one. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <unistd.h>

#include "cuda/device.h"
#include "support/goldens.h"
#include "support/micro.h"

#define SHARED GRACE_SOURCE_DIR "/../shared/models/"

static void check_both_ways(const char *name, const char *dir, const char *goldens, const char *kernels, bool exact) {
    char trace[] = "/tmp/grace-goldens-XXXXXX";
    gr_goldens g = gr_goldens_open(name, dir, goldens);
    assert_true(close(mkstemp(trace)) == 0);
    g.device = "cuda", g.kernels = kernels, g.relative = gr_golden_relative_bf16(dir), g.open_margin = 0;
    grace_trace *forced = gr_golden_routing(&g, trace);
    g.forced = forced;
    gr_goldens_check(&g, exact, 100);
    gr_goldens_check(&g, exact, 24);
    print_message("%s, %s%s, the reference's routing: largest error %.2f of its bound, %lld of %lld logits rows\n", name, kernels, exact ? ", exact" : "", g.worst,
                  (long long)g.n_rows_checked, (long long)g.n_rows);
    assert_true(g.n_rows_checked == g.n_rows);
    g.forced = NULL, g.worst = 0, g.n_rows = g.n_rows_checked = 0;
    gr_goldens_check(&g, exact, 100);
    print_message("%s, %s%s, its own routing: largest error %.2f, %lld of %lld logits rows before an open choice\n", name, kernels, exact ? ", exact" : "",
                  g.worst, (long long)g.n_rows_checked, (long long)g.n_rows);
    grace_trace_close(forced);
    gr_goldens_close(&g);
    unlink(trace);
}

static void check_model(const char *name, const char *dir, const char *goldens) {
    static const char *const kernels[] = {"auto", "mma", "plain"};
    for (int i = 0; i < 3; i++) check_both_ways(name, dir, goldens, kernels[i], false);
    check_both_ways(name, dir, goldens, "auto", true);
}

static void tiny_olmoe(void **state) {
    (void)state;
    check_model("tiny-olmoe", GRACE_SOURCE_DIR "/models/tiny-olmoe", GRACE_SOURCE_DIR "/tests/golden/tiny-olmoe/goldens/goldens.safetensors");
}

static void check_shared(const char *name) {
    char dir[256], goldens[256];
    snprintf(dir, sizeof dir, SHARED "%s", name);
    snprintf(goldens, sizeof goldens, SHARED "%s.dump/goldens/goldens.safetensors", name);
    if (access(goldens, R_OK) || access(dir, R_OK)) {
        print_message("skipped: no %s\n", goldens);
        skip();
    }
    check_model(name, dir, goldens);
}

static void tiny_qwen3moe(void **state) {
    (void)state;
    check_shared("tiny-qwen3moe");
}

static void tiny_deepseek_v2(void **state) {
    (void)state;
    check_shared("tiny-deepseek-v2");
}

/* Most micro models have sizes that are no multiple of 8: those are refused, with the numbers. */
static void micro_model_is_right_or_refused(void **state) {
    const char *name = *state;
    char goldens[600], dir[512];
    grace_model *model = NULL;
    grace_engine *engine = NULL;
    grace_engine_options opt = grace_engine_defaults();
    snprintf(dir, sizeof dir, "%s", gr_micro_dir(name));
    snprintf(goldens, sizeof goldens, "%s/goldens.safetensors", dir);
    opt.device = "cuda", opt.n_tokens_max = 32, opt.kv_tokens = 256;
    gr_assert_ok(grace_model_open(dir, &model));
    const grace_status opened = grace_engine_open(model, &opt, &engine);
    if (opened) print_message("%s: %s\n", name, grace_last_error());
    assert_true(opened == GRACE_OK || (opened == GRACE_ERR_LIMIT && strstr(grace_last_error(), "expected")));
    grace_engine_close(engine);
    grace_model_close(model);
    if (!opened) check_both_ways(name, dir, goldens, "auto", false);
}

int main(int argc, char **argv) {
    static struct CMUnitTest tests[GR_MICRO_MAX + 3];
    const bool small = argc > 1 && !strcmp(argv[1], "small");       /* what a sanitizer gets through */
    if (no_gpu("goldens on a GPU")) return SKIPPED;
    size_t n = gr_micro_tests(micro_model_is_right_or_refused, tests);
    if (!small) {
        tests[n++] = (struct CMUnitTest)cmocka_unit_test(tiny_olmoe);
        tests[n++] = (struct CMUnitTest)cmocka_unit_test(tiny_qwen3moe);
        tests[n++] = (struct CMUnitTest)cmocka_unit_test(tiny_deepseek_v2);
    }
    return _cmocka_run_group_tests("goldens on a GPU", tests, n, NULL, NULL);
}
