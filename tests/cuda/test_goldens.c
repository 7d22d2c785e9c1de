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
#include "support/windows.h"

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
    print_message("%s, %s%s, the reference's routing: largest error %.2f of its bound, %lld of %lld logits rows\n", name, kernels, exact ? ", exact" : "",
                  g.worst, (long long)g.n_rows_checked, (long long)g.n_rows);
    assert_true(g.n_rows_checked == g.n_rows);
    g.forced = NULL, g.worst = 0, g.n_rows = g.n_rows_checked = 0;
    gr_goldens_check(&g, exact, 100);
    print_message("%s, %s%s, its own routing: largest error %.2f, %lld of %lld logits rows before an open choice\n", name, kernels, exact ? ", exact" : "",
                  g.worst, (long long)g.n_rows_checked, (long long)g.n_rows);
    grace_trace_close(forced);
    gr_goldens_close(&g);
    unlink(trace);
}

/* The largest logit after every token of a prompt with its greedy continuation. */
typedef struct forced_text { int32_t n_prompt, n_greedy, vocab; int32_t *best; } forced_text;

static void keep_best(void *user, int32_t request, int32_t position, const float *logits) {
    forced_text *f = user;
    (void)request;
    if (position < f->n_prompt - 1) return;
    int32_t *best = &f->best[position - f->n_prompt + 1];
    for (int32_t i = 1; i < f->vocab; i++)
        if (logits[i] > logits[*best]) *best = i;
}

/* Its own routing, fed with the reference's text: wherever the reference's two best are further apart than twice the bound, the best is the reference's. */
static void check_greedy(const gr_goldens *g, int p) {
    const gr_shard_tensor *prompt = gr_golden(g, p, "input_ids"), *greedy = gr_golden(g, p, "greedy_ids"), *margin = gr_golden(g, p, "greedy_margin");
    const gr_shard_tensor *logits = gr_golden(g, p, "logits");
    const double bound = 2 * g->relative * gr_golden_largest(logits, logits->shape[0] - 1, g->info->vocab);
    forced_text f = {(int32_t)prompt->shape[0], (int32_t)greedy->shape[0], g->info->vocab, gr_seen_array(greedy->shape[0] + 1, sizeof(int32_t))};
    int32_t *ids = gr_seen_array(f.n_prompt + f.n_greedy, sizeof *ids), n_checked = 0;
    grace_engine_options opt = grace_engine_defaults();
    grace_request req = grace_request_defaults();
    grace_engine *engine = NULL;
    memcpy(ids, prompt->data, prompt->n_bytes);
    memcpy(ids + f.n_prompt, greedy->data, greedy->n_bytes);
    req.prompt = ids, req.n_prompt = f.n_prompt + f.n_greedy, req.n_generate = 0, req.on_logits = keep_best, req.user = &f;
    opt.device = "cuda", opt.kv_tokens = 1024;
    gr_assert_ok(grace_engine_open(g->model, &opt, &engine));
    gr_assert_ok(grace_engine_submit(engine, &req));
    gr_assert_ok(grace_engine_run(engine));
    for (int32_t i = 0; i < f.n_greedy; i++) {
        if (gr_golden_float(margin, i) <= bound) continue;
        n_checked++;
        if (f.best[i] != gr_golden_int(greedy, i))
            fail_msg("%s, prompt %d: after %d greedy ids %d, reference %d by %g", g->name, p, i, f.best[i], gr_golden_int(greedy, i),
                     gr_golden_float(margin, i));
    }
    print_message("%s, prompt %d: %d of %d greedy ids further apart than the bound, all the reference's\n", g->name, p, n_checked, f.n_greedy);
    grace_engine_close(engine);
    free(ids);
    free(f.best);
}

/* Its own routing over 20,480 tokens: what bf16 changes of single tokens must cancel. */
static void check_perplexity(const gr_goldens *g, const char *dump, const char *domain) {
    grace_engine_options opt = grace_engine_defaults();
    grace_engine *engine = NULL;
    gr_file tokens;
    gr_windows_map(dump, domain, "tokens.u16", &tokens);
    opt.device = "cuda", opt.n_tokens_max = 4096, opt.kv_tokens = 8 * WINDOW;
    gr_assert_ok(grace_engine_open(g->model, &opt, &engine));
    gr_windows_submit(engine, &tokens, WINDOWS);
    gr_assert_ok(grace_engine_run(engine));
    const double found = gr_windows_perplexity(engine, WINDOWS), reference = gr_windows_reference(dump, domain);
    print_message("%s, %s: perplexity %.4f, reference %.4f (%+.3f %%)\n", g->name, domain, found, reference, 100 * (found / reference - 1));
    assert_true(fabs(found / reference - 1) < 5e-3);
    grace_engine_close(engine);
    gr_file_unmap(&tokens);
}

static void check_model(const char *name, const char *dir, const char *dump) {
    static const char *const kernels[] = {"auto", "mma", "plain"}, *const domains[] = {"prose", "math", "code"};
    char goldens[512];
    snprintf(goldens, sizeof goldens, "%s/goldens/goldens.safetensors", dump);
    for (int i = 0; i < 3; i++) check_both_ways(name, dir, goldens, kernels[i], false);
    check_both_ways(name, dir, goldens, "auto", true);
    gr_goldens g = gr_goldens_open(name, dir, goldens);
    g.relative = gr_golden_relative_bf16(dir);
    for (int p = 0; p < g.n_prompts; p++) check_greedy(&g, p);
    for (int i = 0; i < 3; i++) check_perplexity(&g, dump, domains[i]);
    gr_goldens_close(&g);
}

static void tiny_olmoe(void **state) {
    (void)state;
    check_model("tiny-olmoe", GRACE_SOURCE_DIR "/models/tiny-olmoe", GRACE_SOURCE_DIR "/tests/golden/tiny-olmoe");
}

static void check_shared(const char *name) {
    char dir[256], dump[256];
    snprintf(dir, sizeof dir, SHARED "%s", name);
    snprintf(dump, sizeof dump, SHARED "%s.dump", name);
    if (access(dump, R_OK) || access(dir, R_OK)) {
        print_message("skipped: no %s\n", dump);
        skip();
    }
    check_model(name, dir, dump);
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
