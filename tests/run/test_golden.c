/* tiny-olmoe against the reference implementation (tests/golden/tiny-olmoe: bf16 weights, float32 arithmetic).
 *
 * Bounds. bf16 weights are exact in float32, so the two sides differ only in the order in which float32 sums are taken. A sum of n
 * terms is off by about sqrt(n) * u relative to its size (u = 2^-24, errors of random sign). The longest sum of a layer has n = hidden terms
 * and a value passes 6 sums in a layer, one after the other (norm, projection, scores or gate, mix or hidden, output, residual), then the
 * final norm and the head. Errors of both sides add up. Hence
 *     relative = 2 * (6 * layers + 2) * sqrt(hidden) * u
 * of the largest value of a kind: of the logits for logits, of the router's logits for the gate. A weight w = softmax is off by at most
 * 2 * w * (error of the router's logits). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "model/safetensors.h"
#include "model/weights.h"
#include "run/engine_internal.h"

#define GOLDEN GRACE_SOURCE_DIR "/tests/golden/tiny-olmoe/"
#define assert_ok(call)                                                                   \
    do {                                                                                  \
        if ((call) != GRACE_OK) fail_msg("%s: %s", #call, grace_last_error());            \
    } while (0)

enum { PROMPTS = 7, GREEDY = 32, LAYERS = 8, K = 8, VOCAB = 4096, WINDOW = 512, WINDOWS = 40 };
static const double margin_open = 1e-5;     /* under it either choice is right (models/README of the goldens) */

static grace_model *model;
static const grace_model_info *info;
static gr_shard goldens;

static int open_all(void **state) {
    (void)state;
    assert_ok(grace_model_open(GRACE_SOURCE_DIR "/models/tiny-olmoe", &model));
    assert_ok(gr_shard_open(GOLDEN "goldens/goldens.safetensors", &goldens));
    info = grace_model_describe(model);
    assert_int_equal(info->n_moe_layers, LAYERS);
    assert_int_equal(info->top_k, K);
    assert_int_equal(info->vocab, VOCAB);
    return 0;
}

static int close_all(void **state) {
    (void)state;
    gr_shard_close(&goldens);
    grace_model_close(model);
    return 0;
}

static double relative_error(void) { return 2 * (6 * info->n_layers + 2) * sqrt(info->hidden) * 0x1p-24; }

static const gr_shard_tensor *golden(int prompt, const char *name) {
    char full[64];
    snprintf(full, sizeof full, "p%d.%s", prompt, name);
    const gr_shard_tensor *t = gr_shard_find(&goldens, full);
    if (!t) fail_msg("no %s in goldens.safetensors", full);
    return t;
}

static float float_at(const gr_shard_tensor *t, int64_t i) {
    float value;
    memcpy(&value, (const char *)t->data + i * (int64_t)sizeof value, sizeof value);
    return value;
}

static double largest(const float *v, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n; i++) most = fmax(most, fabs((double)v[i]));
    return most;
}

static float bf16_at(const grace_tensor *t, int64_t i) {
    uint16_t half;
    memcpy(&half, (const char *)t->data + 2 * i, 2);
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* The router's logits are at most |row of the router| * |h|, and a normed h has length sqrt(hidden) times its norm's weights. */
static double largest_router_logit(int layer) {
    const gr_layer_tensors *t = &gr_model_tensors_of(model)->layers[layer];
    double most = 0;
    assert_int_equal(t->router.dtype, GRACE_BF16);
    for (int64_t e = 0; e < t->router.rows; e++) {
        double squares = 0;
        for (int64_t i = 0; i < t->router.cols; i++) {
            double w = (double)bf16_at(&t->router, e * t->router.cols + i) * (double)bf16_at(&t->mlp_norm, i);
            squares += w * w;
        }
        most = fmax(most, sqrt(squares * (double)t->router.cols));
    }
    return most;
}

/* ---- a run that keeps what it saw ---- */

typedef struct seen_prompt {
    int32_t n;
    float *logits;                  /* [n, VOCAB] of the prompt's rows */
    int32_t *experts;               /* [LAYERS, n, K] */
    float *weights;
} seen_prompt;

typedef struct seen {
    seen_prompt prompt[PROMPTS];
    int32_t greedy[PROMPTS][GREEDY];
} seen;

static void keep_logits(void *user, int32_t request, int32_t position, const float *logits) {
    seen_prompt *p = &((seen *)user)->prompt[request];
    if (position < p->n) memcpy(p->logits + (int64_t)position * VOCAB, logits, VOCAB * sizeof(float));
}

static void keep_gate(void *user, int32_t layer, const gr_step *step, const int32_t *experts, const float *weights) {
    for (int32_t r = 0; r < step->n_rows; r++) {
        seen_prompt *p = &((seen *)user)->prompt[step->sequence[r]];
        if (step->position[r] >= p->n) continue;
        int64_t at = ((int64_t)layer * p->n + step->position[r]) * K;
        memcpy(p->experts + at, experts + (int64_t)r * K, K * sizeof(int32_t));
        memcpy(p->weights + at, weights + (int64_t)r * K, K * sizeof(float));
    }
}

static void seen_free(seen *s) {
    for (int p = 0; p < PROMPTS; p++) {
        free(s->prompt[p].logits);
        free(s->prompt[p].experts);
        free(s->prompt[p].weights);
    }
    free(s);
}

static void submit_prompt(grace_engine *engine, int p, seen *s) {
    const gr_shard_tensor *ids = golden(p, "input_ids");
    grace_request req = grace_request_defaults();
    seen_prompt *to = &s->prompt[p];
    int32_t *prompt = malloc(ids->n_bytes);
    memcpy(prompt, ids->data, ids->n_bytes);
    to->n = (int32_t)ids->shape[0];
    to->logits = calloc((size_t)to->n * VOCAB, sizeof(float));
    to->experts = calloc((size_t)to->n * LAYERS * K, sizeof(int32_t));
    to->weights = calloc((size_t)to->n * LAYERS * K, sizeof(float));
    req.prompt = prompt, req.n_prompt = to->n, req.n_generate = GREEDY, req.ignore_eos = true;
    req.user = s, req.on_logits = keep_logits;
    assert_ok(grace_engine_submit(engine, &req));
    free(prompt);
}

/* All prompts in one batch, cut into uneven chunks. */
static seen *run_prompts(bool exact) {
    grace_engine_options opt = grace_engine_defaults();
    grace_engine *engine = NULL;
    seen *s = calloc(1, sizeof *s);
    opt.exact = exact, opt.n_tokens_max = 100, opt.kv_tokens = 1024, opt.n_threads = 1;
    assert_ok(grace_engine_open(model, &opt, &engine));
    gr_engine_network(engine)->on_gate = keep_gate;
    gr_engine_network(engine)->on_gate_user = s;
    for (int p = 0; p < PROMPTS; p++) submit_prompt(engine, p, s);
    assert_ok(grace_engine_run(engine));
    for (int p = 0; p < PROMPTS; p++) {
        const grace_result *r = grace_engine_result(engine, p);
        assert_int_equal(r->n_ids, GREEDY);
        memcpy(s->greedy[p], r->ids, sizeof s->greedy[p]);
    }
    grace_engine_close(engine);
    return s;
}

/* ---- the claims ---- */

/* The first position of a prompt that chose otherwise at an open margin: from there on the hidden states are legitimately others. */
static int32_t first_open_choice(const seen_prompt *s, int p) {
    const gr_shard_tensor *ids = golden(p, "topk_ids"), *margin = golden(p, "topk_margin");
    int32_t first = s->n;
    for (int32_t l = 0; l < LAYERS; l++)
        for (int32_t t = 0; t < s->n; t++) {
            bool same = true;
            int64_t at = (int64_t)l * s->n + t;
            for (int64_t i = at * K; i < (at + 1) * K; i++) same = same && ((const uint8_t *)ids->data)[i] == s->experts[i];
            if (same || t >= first) continue;
            if ((double)float_at(margin, at) >= margin_open)
                fail_msg("prompt %d, layer %d, position %d: other experts at a margin of %g", p, l, t, (double)float_at(margin, at));
            first = t;
        }
    return first;
}

static void check_weights(const seen_prompt *s, int p, int32_t n) {
    const gr_shard_tensor *weights = golden(p, "topk_weights");
    for (int32_t l = 0; l < LAYERS; l++) {
        double error = 2 * relative_error() * largest_router_logit(l);
        for (int64_t i = (int64_t)l * s->n * K; i < ((int64_t)l * s->n + n) * K; i++) {
            double expected = (double)float_at(weights, i);
            if (!(fabs(expected - (double)s->weights[i]) <= error * expected))
                fail_msg("prompt %d, layer %d: weight %g, reference %g, bound %g", p, l, (double)s->weights[i], expected, error * expected);
        }
    }
}

static int64_t check_logits(const seen_prompt *s, int p, int32_t n) {
    const gr_shard_tensor *t = golden(p, "logits");
    int64_t rows = t->shape[0], first = s->n - rows, checked = 0;
    for (int64_t r = 0; r < rows && first + r < n; r++, checked++) {
        float ref[VOCAB];
        memcpy(ref, (const char *)t->data + (size_t)r * sizeof ref, sizeof ref);
        const float *ours = s->logits + (first + r) * VOCAB;
        double bound = relative_error() * largest(ref, VOCAB);
        for (int i = 0; i < VOCAB; i++)
            if (!(fabs((double)ref[i] - (double)ours[i]) <= bound))
                fail_msg("prompt %d, row %d, id %d: logit %g, reference %g, bound %g", p, (int)r, i, (double)ours[i], (double)ref[i], bound);
    }
    return checked;
}

static void check_prompts(bool exact) {
    seen *s = run_prompts(exact);
    int64_t checked = 0, rows = 0;
    for (int p = 0; p < PROMPTS; p++) {
        int32_t n = first_open_choice(&s->prompt[p], p);
        check_weights(&s->prompt[p], p, n);
        checked += check_logits(&s->prompt[p], p, n);
        rows += golden(p, "logits")->shape[0];
        assert_memory_equal(s->greedy[p], golden(p, "greedy_ids")->data, sizeof s->greedy[p]);
    }
    assert_true(10 * checked >= 9 * rows);
    seen_free(s);
}

static void logits_experts_weights_and_greedy_ids_are_the_references(void **state) {
    (void)state;
    check_prompts(false);
}

static void so_they_are_in_exact_mode(void **state) {
    (void)state;
    check_prompts(true);
}

/* ---- perplexity and routing over the traces' tokens ---- */

typedef struct domain_run {
    const uint8_t *topk;            /* [tokens, LAYERS, K] */
    int32_t n_windows;
    bool *differs;                  /* [tokens] the token chose otherwise in some layer */
} domain_run;

static void compare_gate(void *user, int32_t layer, const gr_step *step, const int32_t *experts, const float *weights) {
    domain_run *d = user;
    (void)weights;
    for (int32_t r = 0; r < step->n_rows; r++) {
        int64_t token = (int64_t)step->sequence[r] * WINDOW + step->position[r];
        for (int32_t j = 0; j < K; j++)
            if (d->topk[(token * LAYERS + layer) * K + j] != experts[(int64_t)r * K + j]) d->differs[token] = true;
    }
}

static int32_t token_at(const gr_file *file, int64_t i) { return ((const uint8_t *)file->data)[2 * i] | ((const uint8_t *)file->data)[2 * i + 1] << 8; }

static void submit_windows(grace_engine *engine, const gr_file *tokens, int32_t n_windows) {
    for (int32_t w = 0; w < n_windows; w++) {
        int32_t ids[WINDOW];
        grace_request req = grace_request_defaults();
        for (int32_t i = 0; i < WINDOW; i++) ids[i] = token_at(tokens, (int64_t)w * WINDOW + i);
        req.prompt = ids, req.n_prompt = WINDOW, req.n_generate = 0, req.score = true;
        req.score_next = w + 1 < WINDOWS ? token_at(tokens, (int64_t)(w + 1) * WINDOW) : -1;
        assert_ok(grace_engine_submit(engine, &req));
    }
}

static double perplexity(grace_engine *engine, int32_t n_windows) {
    double nll = 0;
    int64_t n = 0;
    for (int32_t w = 0; w < n_windows; w++) {
        nll += grace_engine_result(engine, w)->nll;
        n += grace_engine_result(engine, w)->n_scored;
    }
    assert_int_equal(n, (int64_t)n_windows * WINDOW - (n_windows == WINDOWS));
    return exp(nll / (double)n);
}

static double expected_perplexity(const char *domain) {
    gr_json *stats = NULL;
    const gr_json *domains, *one;
    double value;
    assert_ok(gr_json_load(GOLDEN "stats.json", &stats));
    assert_ok(gr_json_object_in(stats, "stats.json", "domains", &domains));
    assert_ok(gr_json_object_in(domains, "stats.json", domain, &one));
    assert_ok(gr_json_real(one, "stats.json", "perplexity", &value));
    gr_json_free(stats);
    return value;
}

/* How many tokens may choose otherwise. One rounding of a router's logit of about 10 moves a probability of about 0.1 by sqrt(hidden) * u = 1e-6,
 * a tenth of an open margin; margins are spread evenly near zero, so a tenth of the goldens' share of open ones, for every layer of every token. */
static int64_t tokens_within_rounding(int64_t n_tokens) {
    int64_t n = 0, n_open = 0;
    for (int p = 0; p < PROMPTS; p++) {
        const gr_shard_tensor *margin = golden(p, "topk_margin");
        for (int64_t i = 0; i < margin->shape[0] * margin->shape[1]; i++, n++) n_open += (double)float_at(margin, i) < margin_open;
    }
    return n_tokens * LAYERS * n_open / n / 10 + 1;
}

static void check_domain(const char *domain, int32_t n_windows) {
    char path[256];
    gr_file tokens, topk;
    grace_engine_options opt = grace_engine_defaults();
    grace_engine *engine = NULL;
    int64_t n_tokens = (int64_t)n_windows * WINDOW, n_differ = 0;
    domain_run d = {.n_windows = n_windows, .differs = calloc((size_t)n_tokens, sizeof(bool))};
    snprintf(path, sizeof path, GOLDEN "traces/%s/tokens.u16", domain);
    assert_ok(gr_file_map(path, &tokens));
    snprintf(path, sizeof path, GOLDEN "traces/%s/topk.u8", domain);
    assert_ok(gr_file_map(path, &topk));
    assert_int_equal(tokens.n, WINDOWS * WINDOW * 2);
    assert_int_equal(topk.n, WINDOWS * WINDOW * LAYERS * K);
    d.topk = topk.data;
    opt.kv_tokens = 2 * WINDOW;
    opt.n_threads = 1;          /* half a minute of work: it must not fight for cores with the tests beside it */
    assert_ok(grace_engine_open(model, &opt, &engine));
    gr_engine_network(engine)->on_gate = compare_gate;
    gr_engine_network(engine)->on_gate_user = &d;
    submit_windows(engine, &tokens, n_windows);
    assert_ok(grace_engine_run(engine));
    for (int64_t t = 0; t < n_tokens; t++) n_differ += d.differs[t];
    double found = perplexity(engine, n_windows), expected = expected_perplexity(domain);
    print_message("%s: perplexity %.5f over %d windows, reference %.5f over %d; %lld of %lld tokens chose otherwise, at most %lld may\n", domain, found,
                  n_windows, expected, WINDOWS, (long long)n_differ, (long long)n_tokens, (long long)tokens_within_rounding(n_tokens));
    if (n_windows == WINDOWS) assert_true(fabs(found / expected - 1) < 1e-3);
    assert_true(n_differ <= tokens_within_rounding(n_tokens));
    grace_engine_close(engine);
    gr_file_unmap(&tokens);
    gr_file_unmap(&topk);
    free(d.differs);
}

/* The sanitizers' build is too slow for 61,440 tokens: there the routing of one window a domain is compared. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { WINDOWS_TESTED = 1 };
#else
enum { WINDOWS_TESTED = WINDOWS };
#endif

static void perplexity_and_routing_of_prose_are_the_references(void **state) {
    (void)state;
    check_domain("prose", WINDOWS_TESTED);
}

static void perplexity_and_routing_of_math_are_the_references(void **state) {
    (void)state;
    check_domain("math", WINDOWS_TESTED);
}

static void perplexity_and_routing_of_code_are_the_references(void **state) {
    (void)state;
    check_domain("code", WINDOWS_TESTED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(logits_experts_weights_and_greedy_ids_are_the_references),
        cmocka_unit_test(so_they_are_in_exact_mode),
        cmocka_unit_test(perplexity_and_routing_of_prose_are_the_references),
        cmocka_unit_test(perplexity_and_routing_of_math_are_the_references),
        cmocka_unit_test(perplexity_and_routing_of_code_are_the_references),
    };
    return cmocka_run_group_tests(tests, open_all, close_all);
}
