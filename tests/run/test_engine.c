/* The engine in one process (run/engine.c, run/network.c, run/tally.c, run/record.c): what a request gives depends on that request alone; limits
 * and bad input end in a sentence. test_look_ahead.c has steps that are launched ahead, tests/ranks/test_engine.c several ranks. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/half.h"
#include "base/file.h"
#include "grace/trace.h"
#include "model/safetensors.h"
#include "plan/tables.h"
#include "run/engine_internal.h"
#include "support/asserts.h"
#include "support/random_plan.h"
#include "support/one_engine.h"

static void run_together(const grace_engine_options *opt, const gr_random_requests *all, outcome *out) {
    grace_engine *engine = open_engine(opt);
    memset(out, 0, sizeof *out);
    for (int32_t i = 0; i < all->n; i++) assert_ok(grace_engine_submit(engine, &all->requests[i]));
    assert_ok(grace_engine_run(engine));
    for (int32_t i = 0; i < all->n; i++) take_result(engine, i, out, i);
    grace_engine_close(engine);
}

static void run_alone(const grace_engine_options *opt, const gr_random_requests *all, outcome *out) {
    memset(out, 0, sizeof *out);
    for (int32_t i = 0; i < all->n; i++) {
        grace_engine *engine = open_engine(opt);
        assert_ok(grace_engine_submit(engine, &all->requests[i]));
        assert_ok(grace_engine_run(engine));
        take_result(engine, 0, out, i);
        grace_engine_close(engine);
    }
}

/* ---- a request's result depends on the request alone ---- */

static void requests_together_are_bit_for_bit_as_each_alone(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(1);
    gr_random_requests all = gr_random_requests_new(&rng, 9, 64, 40, 12);
    for (int exact = 0; exact <= 1; exact++) {
        grace_engine_options opt = small();
        outcome together, alone;
        opt.exact = exact;
        run_together(&opt, &all, &together);
        run_alone(&opt, &all, &alone);
        assert_same(&together, &alone);
    }
    gr_random_requests_free(&all);
}

static void neither_chunks_nor_threads_nor_instruction_set_change_a_bit(void **state) {
    (void)state;
    static const struct { int32_t n_tokens_max, n_threads; const char *simd; } variants[] = {
        {1, 1, "auto"}, {7, 1, "auto"}, {64, 2, "auto"}, {512, 1, "portable"}, {13, 2, "avx2"}, {512, 1, "avx512"},
    };
    gr_rng rng = gr_rng_seed(2);
    gr_random_requests all = gr_random_requests_new(&rng, 7, 64, 50, 8);
    outcome reference, found;
    grace_engine_options opt = small();
    opt.exact = true;
    run_together(&opt, &all, &reference);
    for (size_t v = 0; v < sizeof variants / sizeof *variants; v++) {
        gr_compute *probe = NULL;
        if (gr_compute_cpu_open(variants[v].simd, 1, &probe) == GRACE_ERR_UNSUPPORTED) continue;
        probe->ops->free(probe);
        opt.n_tokens_max = variants[v].n_tokens_max, opt.n_threads = variants[v].n_threads, opt.simd = variants[v].simd;
        run_together(&opt, &all, &found);
        assert_same(&reference, &found);
    }
    gr_random_requests_free(&all);
}

/* One rank: whatever the plan says, everything runs here. */
static void a_single_rank_gives_the_same_bits_with_every_plan_and_exchange(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(3);
    gr_random_requests all = gr_random_requests_new(&rng, 5, 64, 20, 4);
    gr_random_plan_options shape = {2, 8, 2, {1, 1}, 0, 0};
    outcome reference, found;
    grace_engine_options opt = small();
    opt.exact = true;
    run_together(&opt, &all, &reference);
    for (int kind = GRACE_EXCHANGE_PER_EXPERT; kind <= GRACE_EXCHANGE_HSC; kind++) {
        grace_plan *plan = gr_random_plan(&shape, &rng);        /* slots in any order */
        opt.exchange = (grace_exchange)kind;
        opt.plan = plan;
        run_together(&opt, &all, &found);
        assert_same(&reference, &found);
        grace_plan_free(plan);
    }
    gr_random_requests_free(&all);
}

static void networks_of_other_shapes_keep_the_property(void **state) {
    (void)state;
    for (int v = 0; v < 3; v++) {
        gr_tiny_model_options shape = gr_tiny_model_defaults();
        gr_rng rng = gr_rng_seed(10 + (uint64_t)v);
        gr_random_requests all = gr_random_requests_new(&rng, 4, 64, 30, 5);
        outcome together, chunks;
        grace_engine_options opt = small();
        if (v == 0) shape.n_heads = 4, shape.n_kv_heads = 2, shape.norm_topk = true, shape.n_layers = 3;
        if (v == 1) shape.tied = true, shape.dtype = GRACE_F32, shape.top_k = 8, shape.clip_qkv = 0.5f;
        if (v == 2) shape.n_experts = 24, shape.top_k = 5, shape.dtype = GRACE_F16, shape.hidden = 24, shape.n_shards = 3;
        open_model(&shape);
        run_together(&opt, &all, &together);
        opt.n_tokens_max = 5;
        run_together(&opt, &all, &chunks);
        assert_same(&together, &chunks);
        gr_random_requests_free(&all);
        close_model(NULL);
    }
}

static void a_request_that_comes_later_is_served_as_if_alone(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(4);
    gr_random_requests all = gr_random_requests_new(&rng, 6, 64, 20, 10);
    grace_engine_options opt = small();
    outcome alone, found = {0};
    bool more;
    run_alone(&opt, &all, &alone);
    grace_engine *engine = open_engine(&opt);
    for (int32_t i = 0; i < all.n; i++) {
        assert_ok(grace_engine_submit(engine, &all.requests[i]));
        assert_ok(grace_engine_step(engine, &more));
    }
    assert_ok(grace_engine_run(engine));
    for (int32_t i = 0; i < all.n; i++) take_result(engine, i, &found, i);
    assert_same(&alone, &found);
    grace_engine_close(engine);
    gr_random_requests_free(&all);
}

static void more_requests_than_the_cache_holds_wait_and_finish(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(5);
    gr_random_requests all = gr_random_requests_new(&rng, 12, 64, 40, 8);
    grace_engine_options opt = small();
    outcome roomy, tight;
    run_together(&opt, &all, &roomy);
    opt.kv_tokens = 48;
    run_together(&opt, &all, &tight);
    assert_same(&roomy, &tight);
    gr_random_requests_free(&all);
}

/* ---- sampling and the end of a text ---- */

static void sample(float temperature, int32_t top_k, uint64_t seed, outcome *out) {
    static const int32_t prompt[] = {5, 9, 2};
    grace_request req = grace_request_defaults();
    grace_engine_options opt = small();
    req.prompt = prompt, req.n_prompt = 3, req.n_generate = 40, req.ignore_eos = true;
    req.temperature = temperature, req.top_k = top_k, req.seed = seed;
    run_together(&opt, &(gr_random_requests){1, &req}, out);
}

static void a_seed_gives_the_same_text_again_and_another_seed_another(void **state) {
    (void)state;
    outcome a, b, c, greedy, narrow;
    sample(1, 0, 7, &a);
    sample(1, 0, 7, &b);
    sample(1, 0, 8, &c);
    assert_same(&a, &b);
    assert_memory_not_equal(a.ids[0], c.ids[0], 40 * sizeof(int32_t));
    sample(0, 0, 7, &greedy);
    sample(1, 1, 8, &narrow);
    assert_same(&greedy, &narrow);      /* the best one of one */
}

static void end_of_text_ends_a_request_unless_told_otherwise(void **state) {
    (void)state;
    gr_tiny_model_options shape = gr_tiny_model_defaults();
    shape.vocab = 8;                    /* hot sampling meets id 0 within a few tokens */
    open_model(&shape);
    static const int32_t prompt[] = {3};
    grace_engine_options opt = small();
    grace_engine *engine = open_engine(&opt);
    for (int i = 0; i < 2; i++) {
        grace_request req = grace_request_defaults();
        req.prompt = prompt, req.n_prompt = 1, req.n_generate = 100, req.temperature = 5, req.seed = 3, req.ignore_eos = i;
        assert_ok(grace_engine_submit(engine, &req));
    }
    assert_ok(grace_engine_run(engine));
    const grace_result *stopped = grace_engine_result(engine, 0), *full = grace_engine_result(engine, 1);
    assert_int_equal(stopped->finish, GRACE_FINISH_EOS);
    assert_in_range(stopped->n_ids, 1, 99);
    for (int32_t i = 0; i < stopped->n_ids; i++) assert_int_equal(stopped->ids[i] == 0, i == stopped->n_ids - 1);
    assert_int_equal(full->finish, GRACE_FINISH_LENGTH);
    assert_int_equal(full->n_ids, 100);
    assert_memory_equal(full->ids, stopped->ids, (size_t)stopped->n_ids * sizeof(int32_t));
    grace_engine_close(engine);
}

typedef struct heard { int32_t n, ids[64], request; } heard;

static void hear(void *user, int32_t request, int32_t id) {
    heard *h = user;
    h->ids[h->n++] = id;
    h->request = request;
}

static void tokens_are_told_as_they_come(void **state) {
    (void)state;
    static const int32_t prompt[] = {1, 2, 3, 4};
    heard h = {0};
    grace_engine_options opt = small();
    grace_engine *engine = open_engine(&opt);
    grace_request req = grace_request_defaults();
    req.prompt = prompt, req.n_prompt = 4, req.n_generate = 6, req.ignore_eos = true;
    assert_ok(grace_engine_submit(engine, &req));
    req.user = &h, req.on_token = hear;
    assert_ok(grace_engine_submit(engine, &req));
    assert_ok(grace_engine_run(engine));
    assert_int_equal(h.request, 1);
    assert_int_equal(h.n, 6);
    assert_memory_equal(h.ids, grace_engine_result(engine, 1)->ids, 6 * sizeof(int32_t));
    grace_engine_close(engine);
}

/* ---- scoring ---- */

typedef struct scored { const int32_t *prompt; int32_t n_prompt, next; double nll; int32_t positions; } scored;

static void add_up(void *user, int32_t request, int32_t position, const float *logits) {
    scored *s = user;
    double sum = 0;
    (void)request;
    assert_int_equal(position, s->positions++);
    for (int i = 0; i < 64; i++) sum += exp((double)logits[i]);
    s->nll += log(sum) - (double)logits[position + 1 < s->n_prompt ? s->prompt[position + 1] : s->next];
}

static void a_prompts_score_is_the_sum_over_its_rows_and_the_token_after(void **state) {
    (void)state;
    static const int32_t prompt[] = {9, 8, 7, 6, 5, 4, 3};
    scored s = {prompt, 7, 11, 0, 0};
    grace_engine_options opt = small();
    opt.n_tokens_max = 3;
    grace_engine *engine = open_engine(&opt);
    grace_request req = grace_request_defaults();
    req.prompt = prompt, req.n_prompt = 7, req.n_generate = 0, req.score = true, req.score_next = 11;
    req.user = &s, req.on_logits = add_up;
    assert_ok(grace_engine_submit(engine, &req));
    req.score_next = -1, req.on_logits = NULL;
    assert_ok(grace_engine_submit(engine, &req));
    assert_ok(grace_engine_run(engine));
    assert_int_equal(s.positions, 7);
    assert_int_equal(grace_engine_result(engine, 0)->n_scored, 7);
    assert_int_equal(grace_engine_result(engine, 1)->n_scored, 6);
    assert_true(fabs(grace_engine_result(engine, 0)->nll - s.nll) < 1e-9 * s.nll);
    assert_true(grace_engine_result(engine, 1)->nll < s.nll);
    grace_engine_close(engine);
}

/* ---- numbers ---- */

static void one_rank_moves_nothing_and_is_never_idle(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(6);
    gr_random_requests all = gr_random_requests_new(&rng, 5, 64, 30, 6);
    grace_engine_options opt = small();
    grace_engine *engine = open_engine(&opt);
    grace_stats s;
    int64_t n_rows = 0, n_prefill = 0;
    for (int32_t i = 0; i < all.n; i++) assert_ok(grace_engine_submit(engine, &all.requests[i]));
    assert_ok(grace_engine_run(engine));
    for (int32_t i = 0; i < all.n; i++) {
        int32_t n_ids = all.requests[i].n_generate;
        n_prefill += all.requests[i].n_prompt;
        n_rows += all.requests[i].n_prompt + (n_ids ? n_ids - 1 : 0);
    }
    assert_ok(grace_engine_stats(engine, &s));
    assert_int_equal(s.n_tokens, n_rows);
    assert_int_equal(s.n_prefill, n_prefill);
    assert_int_equal(s.n_decode, n_rows - n_prefill);
    assert_int_equal(grace_engine_n_rows(engine), n_rows);
    for (int32_t l = 0; l < 2; l++) assert_int_equal(s.load[l], 2 * n_rows);
    assert_int_equal(s.idle_pairs, 0);
    assert_int_equal(s.dispatch[GRACE_STAGE_NODE][GRACE_LINK_SELF].rows, 2 * n_rows);       /* once a layer */
    assert_int_equal(s.pair_rows[0], 4 * n_rows);
    for (int stage = 0; stage < GRACE_N_STAGES; stage++)
        for (int link = GRACE_LINK_INTRA; link <= GRACE_LINK_CROSS; link++) assert_int_equal(s.dispatch[stage][link].rows + s.combine[stage][link].rows, 0);
    assert_true(s.load_max_over_mean == 1 && s.load_std == 0);
    assert_int_equal(s.replica_bytes_max, 0);
    grace_engine_close(engine);
    gr_random_requests_free(&all);
}

/* [sequence, position, layer, k] at fixed strides; ids and the first weight of a layer by [sequence, position] */
typedef struct choices { int32_t experts[4096], ids[1024]; float weights[4096]; } choices;

static void keep_choices(void *user, int32_t layer, const gr_step *step, const int32_t *experts, const float *weights) {
    choices *c = user;
    for (int32_t r = 0; r < step->n_rows; r++) {
        int32_t token = step->sequence[r] * 64 + step->position[r];
        c->ids[token] = 1 + step->id[r];
        for (int32_t j = 0; j < 2; j++) c->experts[(token * 2 + layer) * 2 + j] = 1 + experts[r * 2 + j];
        for (int32_t j = 0; j < 2; j++) c->weights[(token * 2 + layer) * 2 + j] = gr_float_of_half(gr_half_of_float(weights[r * 2 + j]));
    }
}

/* ids, phases, experts and weights of a trace whose sequences are these requests, in the order of their numbers. */
static void read_choices(const grace_trace *trace, const gr_random_requests *all, choices *found) {
    const uint16_t *experts = grace_trace_experts(trace);
    const int32_t *ids = grace_trace_token_ids(trace);
    const float *weights = grace_trace_gate_weights(trace);
    for (int32_t i = 0; i < grace_trace_n_segments(trace); i++) {
        grace_trace_segment s = grace_trace_segment_at(trace, i);
        int32_t first = s.sequence * 64 + s.position, n_prompt = all->requests[s.sequence].n_prompt;
        assert_int_equal(s.phase, s.position >= n_prompt ? GRACE_PHASE_DECODE : GRACE_PHASE_PREFILL);
        assert_true(s.phase == GRACE_PHASE_DECODE || s.position + s.n_tokens <= n_prompt);
        assert_int_equal(grace_trace_sequence_at(trace, s.sequence).domain, s.sequence % 2);
        for (int32_t t = 0; t < s.n_tokens; t++) found->ids[first + t] = 1 + *ids++;
        for (int32_t t = 0; t < s.n_tokens * 4; t++) found->experts[first * 4 + t] = 1 + *experts++;
        for (int32_t t = 0; t < s.n_tokens * 4; t++) found->weights[first * 4 + t] = *weights++;
    }
}

static void a_recorded_trace_holds_tokens_phases_and_what_the_gate_chose(void **state) {
    (void)state;
    static const char *const domains[] = {"even", "odd"};
    char path[128];
    gr_rng rng = gr_rng_seed(8);
    gr_random_requests all = gr_random_requests_new(&rng, 6, 64, 30, 8);
    grace_engine_options opt = small();
    choices *expected = calloc(1, sizeof *expected), *found = calloc(1, sizeof *found);
    grace_trace *trace = NULL;
    snprintf(path, sizeof path, "%s/trace", dir);
    opt.n_tokens_max = 11, opt.trace_path = path, opt.trace_weights = GRACE_WEIGHTS_F16, opt.trace_domains = domains, opt.n_trace_domains = 2;
    grace_engine *recording = open_engine(&opt);
    opt.trace_path = NULL;
    grace_engine *watched = open_engine(&opt);
    gr_engine_network(watched)->on_gate = keep_choices;
    gr_engine_network(watched)->on_gate_user = expected;
    for (int32_t i = 0; i < all.n; i++) {
        all.requests[i].domain = i % 2;
        assert_ok(grace_engine_submit(recording, &all.requests[i]));
        assert_ok(grace_engine_submit(watched, &all.requests[i]));
    }
    assert_ok(grace_engine_run(recording));
    assert_ok(grace_engine_run(watched));
    assert_ok(grace_trace_open(path, &trace, NULL));
    assert_int_equal(grace_trace_n_tokens(trace), grace_engine_n_rows(watched));
    assert_true(grace_trace_describe(trace)->fingerprint == grace_model_describe(model)->fingerprint);
    assert_int_equal(grace_trace_describe(trace)->vocab, grace_model_describe(model)->vocab);
    read_choices(trace, &all, found);
    assert_memory_equal(expected, found, sizeof *found);
    grace_trace_close(trace);
    grace_engine_close(recording);
    grace_engine_close(watched);
    gr_random_requests_free(&all);
    free(expected);
    free(found);
}

static void an_engine_closed_before_the_end_leaves_no_trace(void **state) {
    (void)state;
    static const int32_t prompt[] = {1, 2, 3};
    char path[128];
    grace_engine_options opt = small();
    bool more;
    snprintf(path, sizeof path, "%s/trace", dir);
    opt.trace_path = path;
    grace_engine *engine = open_engine(&opt);
    grace_request req = grace_request_defaults();
    req.prompt = prompt, req.n_prompt = 3, req.ignore_eos = true;
    assert_ok(grace_engine_submit(engine, &req));
    assert_ok(grace_engine_step(engine, &more));
    assert_true(more);
    grace_engine_close(engine);
    assert_int_equal(access(path, F_OK), -1);
}

/* ---- refusals ---- */

static void requests_that_cannot_be_served_are_refused_with_both_sides(void **state) {
    (void)state;
    static const int32_t prompt[128] = {1, 2, 3};
    grace_engine_options opt = small();
    opt.kv_tokens = 96;
    grace_engine *engine = open_engine(&opt);
    grace_request good = grace_request_defaults(), req;
    good.prompt = prompt, good.n_prompt = 3, good.n_generate = 1;
#define refused(change, code, part) (req = good, change, (void)0); assert_fails(grace_engine_submit(engine, &req), code, part)
    refused(req.n_prompt = 0, GRACE_ERR_ARG, "the prompt is empty");
    refused((req.n_prompt = 128, req.n_generate = 1), GRACE_ERR_LIMIT, "a prompt of 128 tokens and 1 to generate: the model's context is 128");
    refused((req.n_prompt = 3, req.n_generate = INT32_MAX), GRACE_ERR_LIMIT, "context is 128");
    refused((req.n_prompt = 90, req.n_generate = 7), GRACE_ERR_LIMIT, "a prompt of 90 tokens and 7 to generate: the KV cache of a rank holds 96");
    refused(req.n_generate = -1, GRACE_ERR_ARG, "found -1");
    refused(req.prompt = ((const int32_t[]){1, 64, 2}), GRACE_ERR_ARG, "prompt token 1: expected an id from 0 to 63, found 64");
    refused(req.prompt = ((const int32_t[]){1, 2, -1}), GRACE_ERR_ARG, "prompt token 2: expected an id from 0 to 63, found -1");
    refused(req.temperature = -1, GRACE_ERR_ARG, "temperature");
    refused(req.temperature = NAN, GRACE_ERR_ARG, "temperature");
    refused(req.temperature = INFINITY, GRACE_ERR_ARG, "temperature");
    refused(req.top_p = 0, GRACE_ERR_ARG, "top-p");
    refused(req.top_p = 1.5f, GRACE_ERR_ARG, "top-p");
    refused(req.top_p = NAN, GRACE_ERR_ARG, "top-p");
    refused(req.top_k = -1, GRACE_ERR_ARG, "top-k");
    refused(req.score_next = 64, GRACE_ERR_ARG, "below 64, found 64");
#undef refused
    assert_int_equal(grace_engine_n_requests(engine), 0);
    req = good, req.n_prompt = 90, req.n_generate = 6;
    assert_ok(grace_engine_submit(engine, &req));           /* just fits */
    assert_ok(grace_engine_run(engine));
    assert_null(grace_engine_result(engine, 1));
    assert_null(grace_engine_result(engine, -1));
    grace_engine_close(engine);
}

static void a_domain_the_trace_does_not_have_is_refused_before_the_request_counts(void **state) {
    (void)state;
    static const char *const domains[] = {"one"};
    static const int32_t prompt[] = {1};
    char path[128];
    grace_engine_options opt = small();
    snprintf(path, sizeof path, "%s/trace", dir);
    opt.trace_path = path, opt.trace_domains = domains, opt.n_trace_domains = 1;
    grace_engine *engine = open_engine(&opt);
    grace_request req = grace_request_defaults();
    req.prompt = prompt, req.n_prompt = 1, req.domain = 1;
    assert_fails(grace_engine_submit(engine, &req), GRACE_ERR_ARG, "domain");
    assert_int_equal(grace_engine_n_requests(engine), 0);
    req.domain = 0;
    assert_ok(grace_engine_submit(engine, &req));
    assert_ok(grace_engine_run(engine));
    grace_engine_close(engine);
}

static void the_whole_context_can_be_used(void **state) {
    (void)state;
    static const int32_t prompt[100] = {0};
    grace_engine_options opt = small();
    grace_engine *engine = open_engine(&opt);
    grace_request req = grace_request_defaults();
    req.prompt = prompt, req.n_prompt = 100, req.n_generate = 28, req.ignore_eos = true;
    assert_ok(grace_engine_submit(engine, &req));
    assert_ok(grace_engine_run(engine));
    assert_int_equal(grace_engine_result(engine, 0)->n_ids, 28);
    grace_engine_close(engine);
}

/* compute/without_cuda.c says it where there is no backend, compute/cuda/backend.c where there is no GPU. */
static void a_device_that_is_not_here_is_refused(void **state) {
    grace_engine_options opt = grace_engine_defaults();
    grace_engine *engine = NULL;
    (void)state;
    opt.device = "tpu";
    assert_int_equal(grace_engine_open(model, &opt, &engine), GRACE_ERR_ARG);
    assert_non_null(strstr(grace_last_error(), "expected cpu or cuda"));
    opt.device = "cuda";
    const grace_status st = grace_engine_open(model, &opt, &engine);
    if (st) assert_true(st == GRACE_ERR_LIMIT || (st == GRACE_ERR_UNSUPPORTED && strstr(grace_last_error(), "device cuda: ")));
    grace_engine_close(engine);
}

static void options_out_of_range_are_refused(void **state) {
    (void)state;
    grace_engine *engine = NULL;
    grace_engine_options opt;
#define refused(change, code, part) (opt = small(), change, (void)0); assert_fails(grace_engine_open(model, &opt, &engine), code, part)
    refused(opt.n_tokens_max = 0, GRACE_ERR_ARG, "rows a step: expected 1 to 1048576, found 0");
    refused(opt.n_tokens_max = (1 << 20) + 1, GRACE_ERR_ARG, "rows a step");
    refused(opt.kv_tokens = 0, GRACE_ERR_ARG, "KV cache: expected at least 1 token, found 0");
    refused(opt.n_threads = -1, GRACE_ERR_ARG, "threads");
    refused(opt.simd = "mmx", GRACE_ERR_ARG, "mmx");
    refused(opt.trace_path = "/nowhere/trace", GRACE_ERR_IO, "/nowhere/trace");
#undef refused
    assert_null(engine);
}

static void check_plan_refused(gr_random_plan_options shape, uint64_t fingerprint, const char *part) {
    gr_rng rng = gr_rng_seed(1);
    grace_plan *plan = gr_random_plan(&shape, &rng);
    grace_engine_options opt = small();
    grace_engine *engine = NULL;
    plan->fingerprint = fingerprint;
    opt.plan = plan;
    assert_fails(grace_engine_open(model, &opt, &engine), GRACE_ERR_MISMATCH, part);
    grace_plan_free(plan);
}

static void a_plan_for_something_else_is_refused_with_both_sides(void **state) {
    (void)state;
    char ours[64];
    uint64_t fingerprint = grace_model_describe(model)->fingerprint;
    snprintf(ours, sizeof ours, "this model is %016llx", (unsigned long long)fingerprint);
    check_plan_refused((gr_random_plan_options){2, 8, 2, {2, 2}, 0, 0}, 0, "plan is for cluster node:2 gpu:2, this run has node:1 gpu:1");
    check_plan_refused((gr_random_plan_options){2, 16, 2, {1, 1}, 0, 0}, 0, "16 experts");
    check_plan_refused((gr_random_plan_options){2, 8, 3, {1, 1}, 0, 0}, 0, "top-3; the model has 2 of 8, top-2");
    check_plan_refused((gr_random_plan_options){2, 8, 2, {1, 1}, 0, 0}, fingerprint ^ 1, ours);
}

/* The second of the micro models' layers on has experts, the first is dense. */
static void traces_and_plans_know_which_layers_have_experts(void **state) {
    (void)state;
    const int32_t wrong[2] = {0, 1};
    char path[128];
    grace_model *dense_first = NULL;
    grace_engine *engine = NULL;
    grace_trace *trace = NULL;
    grace_engine_options opt = small();
    assert_ok(grace_model_open(GRACE_SOURCE_DIR "/tests/golden/micro/deepseek-v2-lite", &dense_first));
    const grace_model_info *m = grace_model_describe(dense_first);
    assert_int_equal(m->layers[0].moe, -1);
    snprintf(path, sizeof path, "%s/trace", dir);
    opt.trace_path = path;
    assert_ok(grace_engine_open(dense_first, &opt, &engine));
    assert_ok(grace_engine_run(engine));
    grace_engine_close(engine);
    assert_ok(grace_trace_open(path, &trace, NULL));
    assert_true(grace_trace_describe(trace)->layer_ids_known);
    for (int32_t l = 0; l < m->n_moe_layers; l++) assert_int_equal(grace_trace_describe(trace)->layer_ids[l], l + 1);
    grace_plan *plan = NULL;
    assert_ok(grace_plan_contiguous(m->n_moe_layers, m->n_experts, m->top_k, (grace_cluster){1, 1}, &plan));
    assert_ok(gr_plan_set_layer_ids(plan, wrong));
    opt.trace_path = NULL, opt.plan = plan;
    assert_fails(grace_engine_open(dense_first, &opt, &engine), GRACE_ERR_MISMATCH, "plan is for layers 0");
    grace_plan_free(plan);
    grace_trace_close(trace);
    grace_model_close(dense_first);
}

/* One bf16 NaN in the router of a layer, put into the file. */
static void poison_router(const char *tensor) {
    char path[128];
    gr_shard shard;
    static const uint16_t nan = 0x7FC0;
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    assert_ok(gr_shard_open(path, &shard));
    const gr_shard_tensor *t = gr_shard_find(&shard, tensor);
    assert_non_null(t);
    long offset = (const char *)t->data - (const char *)shard.file.data;
    gr_shard_close(&shard);
    FILE *file = fopen(path, "r+b");
    assert_non_null(file);
    assert_int_equal(fseek(file, offset + 2 * 16 * 3, SEEK_SET), 0);        /* expert 3 */
    assert_int_equal(fwrite(&nan, sizeof nan, 1, file), 1);
    assert_int_equal(fclose(file), 0);
}

static void nan_in_a_routers_logits_ends_the_run_and_names_the_layer(void **state) {
    (void)state;
    static const int32_t prompt[] = {1, 2};
    gr_tiny_model_options shape = gr_tiny_model_defaults();
    open_model(&shape);
    grace_model_close(model);
    poison_router("model.layers.1.mlp.gate.weight");
    assert_ok(grace_model_open(dir, &model));
    grace_engine_options opt = small();
    grace_engine *engine = open_engine(&opt);
    grace_request req = grace_request_defaults();
    req.prompt = prompt, req.n_prompt = 2;
    assert_ok(grace_engine_submit(engine, &req));
    bool more;
    assert_fails(grace_engine_run(engine), GRACE_ERR_NUMERIC, "layer 1: router logit of row 0, expert 3 is");
    assert_fails(grace_engine_step(engine, &more), GRACE_ERR_ARG, "a step of this engine failed before");
    grace_engine_close(engine);
}

static void closing_nothing_is_fine(void **state) {
    (void)state;
    grace_engine_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        with_model(requests_together_are_bit_for_bit_as_each_alone),
        with_model(neither_chunks_nor_threads_nor_instruction_set_change_a_bit),
        with_model(a_single_rank_gives_the_same_bits_with_every_plan_and_exchange),
        cmocka_unit_test(networks_of_other_shapes_keep_the_property),
        with_model(a_request_that_comes_later_is_served_as_if_alone),
        with_model(more_requests_than_the_cache_holds_wait_and_finish),
        with_model(a_seed_gives_the_same_text_again_and_another_seed_another),
        cmocka_unit_test_teardown(end_of_text_ends_a_request_unless_told_otherwise, close_model),
        with_model(tokens_are_told_as_they_come),
        with_model(a_prompts_score_is_the_sum_over_its_rows_and_the_token_after),
        with_model(one_rank_moves_nothing_and_is_never_idle),
        with_model(a_recorded_trace_holds_tokens_phases_and_what_the_gate_chose),
        with_model(an_engine_closed_before_the_end_leaves_no_trace),
        with_model(requests_that_cannot_be_served_are_refused_with_both_sides),
        with_model(a_domain_the_trace_does_not_have_is_refused_before_the_request_counts),
        with_model(the_whole_context_can_be_used),
        with_model(a_device_that_is_not_here_is_refused),
        with_model(options_out_of_range_are_refused),
        with_model(a_plan_for_something_else_is_refused_with_both_sides),
        with_model(traces_and_plans_know_which_layers_have_experts),
        cmocka_unit_test_teardown(nan_in_a_routers_logits_ends_the_run_and_names_the_layer, close_model),
        cmocka_unit_test(closing_nothing_is_fine),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
