/* The trained models against the reference implementation (bf16 weights, float32 arithmetic; docs/goldens.md): prompts, and routing and perplexity
 * over held-out text. tiny-olmoe is part of the project; the others are compared where ../shared has them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <unistd.h>

#include "support/windows.h"

/* The sanitizers' build is too slow for 20,480 tokens a domain: there the routing of one window is compared. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { WINDOWS_TESTED = 1 };
#else
enum { WINDOWS_TESTED = WINDOWS };
#endif

#define SHARED GRACE_SOURCE_DIR "/../shared/models/"
typedef struct trained { const char *name, *dir, *dump; gr_goldens goldens; } trained;
static trained models[] = {
    {.name = "tiny-olmoe", .dir = GRACE_SOURCE_DIR "/models/tiny-olmoe", .dump = GRACE_SOURCE_DIR "/tests/golden/tiny-olmoe"},
    {.name = "tiny-qwen3moe", .dir = SHARED "tiny-qwen3moe", .dump = SHARED "tiny-qwen3moe.dump"},
    {.name = "tiny-deepseek-v2", .dir = SHARED "tiny-deepseek-v2", .dump = SHARED "tiny-deepseek-v2.dump"},
};

static int open_model(void **state) {
    trained *t = *state;
    char path[512];
    t->goldens = (gr_goldens){0};
    if (access(t->dir, R_OK)) return 0;
    snprintf(path, sizeof path, "%s/goldens/goldens.safetensors", t->dump);
    t->goldens = gr_goldens_open(t->name, t->dir, path);
    return 0;
}

static int close_model(void **state) {
    gr_goldens_close(&((trained *)*state)->goldens);
    return 0;
}

static gr_goldens *goldens_or_skip(trained *t) {
    if (!t->goldens.model) {
        print_message("skipped: no %s\n", t->dir);
        skip();
    }
    return &t->goldens;
}

static void check_prompts(trained *t, bool exact) {
    gr_goldens *g = goldens_or_skip(t);
    gr_goldens_check(g, exact, 100);
    print_message("%s: largest error %.2f of its bound, %lld of %lld logits rows before an open choice\n", g->name, g->worst, (long long)g->n_rows_checked,
                  (long long)g->n_rows);
    assert_true(10 * g->n_rows_checked >= 9 * g->n_rows);
}

static void prompts_give_the_references_experts_weights_logits_and_ids(void **state) { check_prompts(*state, false); }
static void so_they_do_in_exact_mode(void **state) { check_prompts(*state, true); }

/* ---- perplexity and routing over the traces' tokens ---- */

typedef struct domain_run {
    const grace_model_info *info;
    const uint8_t *topk;            /* [tokens, moe_layers, k] */
    bool *differs;                  /* [tokens] the token chose otherwise in some layer */
} domain_run;

static void compare_gate(void *user, int32_t layer, const gr_step *step, const int32_t *experts, const float *weights) {
    const domain_run *d = user;
    int32_t k = d->info->top_k;
    (void)weights;
    for (int32_t r = 0; r < step->n_rows; r++) {
        int64_t token = (int64_t)step->sequence[r] * WINDOW + step->position[r];
        for (int32_t j = 0; j < k; j++)
            if (d->topk[(token * d->info->n_moe_layers + layer) * k + j] != experts[(int64_t)r * k + j]) d->differs[token] = true;
    }
}

/* How many tokens may choose otherwise. One rounding of a router's logit of about 10 moves a probability of about 0.1 by sqrt(hidden) * u = 1e-6,
 * a tenth of an open margin; margins are spread evenly near zero, so a tenth of the goldens' share of open ones, for every layer of every token. */
static int64_t tokens_within_rounding(const gr_goldens *g, int64_t n_tokens) {
    int64_t n = 0, n_open = 0;
    for (int p = 0; p < g->n_prompts; p++) {
        const gr_shard_tensor *margin = gr_golden(g, p, "topk_margin");
        for (int64_t i = 0; i < margin->shape[0] * margin->shape[1]; i++, n++) n_open += gr_golden_float(margin, i) < g->open_margin;
    }
    return n_tokens * g->info->n_moe_layers * n_open / n / 10 + 1;
}

static double run_windows(const gr_goldens *g, const gr_file *tokens, domain_run *d) {
    grace_engine_options opt = grace_engine_defaults();
    grace_engine *engine = NULL;
    opt.kv_tokens = 2 * WINDOW;
    opt.n_threads = 1;          /* seconds of work: it must not fight for cores with the tests beside it */
    gr_assert_ok(grace_engine_open(g->model, &opt, &engine));
    gr_engine_network(engine)->on_gate = compare_gate;
    gr_engine_network(engine)->on_gate_user = d;
    gr_windows_submit(engine, tokens, WINDOWS_TESTED);
    gr_assert_ok(grace_engine_run(engine));
    double found = gr_windows_perplexity(engine, WINDOWS_TESTED);
    grace_engine_close(engine);
    return found;
}

static void check_domain(trained *t, const char *domain) {
    gr_goldens *g = goldens_or_skip(t);
    gr_file tokens, topk;
    int64_t n_tokens = (int64_t)WINDOWS_TESTED * WINDOW, n_differ = 0, n_may = tokens_within_rounding(g, n_tokens);
    gr_windows_map(t->dump, domain, "tokens.u16", &tokens);
    gr_windows_map(t->dump, domain, "topk.u8", &topk);
    assert_int_equal(tokens.n, WINDOWS * WINDOW * 2);
    assert_int_equal(topk.n, WINDOWS * WINDOW * g->info->n_moe_layers * g->info->top_k);
    domain_run d = {.info = g->info, .topk = topk.data, .differs = gr_seen_array(n_tokens, sizeof(bool))};
    double found = run_windows(g, &tokens, &d), expected = gr_windows_reference(t->dump, domain);
    for (int64_t i = 0; i < n_tokens; i++) n_differ += d.differs[i];
    print_message("%s, %s: perplexity %.5f over %d windows, reference %.5f over %d; %lld of %lld tokens chose otherwise, at most %lld may\n", t->name,
                  domain, found, WINDOWS_TESTED, expected, WINDOWS, (long long)n_differ, (long long)n_tokens, (long long)n_may);
    if ((int)WINDOWS_TESTED == (int)WINDOWS) assert_true(fabs(found / expected - 1) < 1e-3);
    assert_true(n_differ <= n_may);
    gr_file_unmap(&tokens);
    gr_file_unmap(&topk);
    free(d.differs);
}

static void perplexity_and_routing_of_prose_are_the_references(void **state) { check_domain(*state, "prose"); }
static void perplexity_and_routing_of_math_are_the_references(void **state) { check_domain(*state, "math"); }
static void perplexity_and_routing_of_code_are_the_references(void **state) { check_domain(*state, "code"); }

#define claim_of(model, test) cmocka_unit_test_prestate_setup_teardown(test, open_model, close_model, &models[model])
#define claims_of(model)                                                            \
    claim_of(model, prompts_give_the_references_experts_weights_logits_and_ids),    \
    claim_of(model, so_they_do_in_exact_mode),                                      \
    claim_of(model, perplexity_and_routing_of_code_are_the_references)

/* Five seconds a domain: all three for the model that every checkout has. */
int main(void) {
    const struct CMUnitTest tests[] = {
        claims_of(0),
        claim_of(0, perplexity_and_routing_of_prose_are_the_references),
        claim_of(0, perplexity_and_routing_of_math_are_the_references),
        claims_of(1),
        claims_of(2),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
