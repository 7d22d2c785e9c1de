/* Recorded routing in place of a gate's choice (run/trace_gate.c, and its use in run/network.c): which token of a trace a row takes, in which order its
 * experts stand, and what the engine then counts. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "grace/engine.h"
#include "run/engine_internal.h"
#include "run/trace_gate.h"
#include "support/asserts.h"
#include "support/folder.h"

enum { N_EXPERTS = 8, TOP_K = 2, TRACE_LAYERS = 3, SEQUENCES = 3 };
static const int32_t lengths[SEQUENCES] = {5, 1, 40};
static const char *const domains[] = {"prose", "code"};

/* The experts of a token: a function of its sequence, position and layer, the larger id first. */
static void expected_experts(int32_t sequence, int32_t position, int32_t layer, uint16_t out[TOP_K]) {
    out[0] = (uint16_t)(1 + (sequence * 5 + position * 3 + layer) % (N_EXPERTS - 1));
    out[1] = (uint16_t)((sequence + position + layer) % out[0]);
}

static void append(grace_trace_writer *w, grace_trace_segment seg, bool weighted) {
    uint16_t experts[64 * TRACE_LAYERS * TOP_K];
    float weights[64 * TRACE_LAYERS * TOP_K];
    for (int32_t i = 0; i < seg.n_tokens; i++)
        for (int32_t l = 0; l < TRACE_LAYERS; l++) {
            const int32_t at = (i * TRACE_LAYERS + l) * TOP_K;
            expected_experts(seg.sequence, seg.position + i, l, experts + at);
            weights[at] = 0.75f, weights[at + 1] = 0.25f;
        }
    assert_ok(grace_trace_append(w, seg, (grace_trace_tokens){.experts = experts, .weights = weighted ? weights : NULL}));
}

/* Sequences of 5, 1 and 40 tokens; the last one comes in two pieces with another between them. */
static grace_trace *make_trace(bool weighted) {
    const grace_trace_info info = {.model = "tiny-test", .n_layers = TRACE_LAYERS, .n_experts = N_EXPERTS, .top_k = TOP_K, .n_ranks = 1, .n_nodes = 1,
                                   .weights = weighted ? GRACE_WEIGHTS_F16 : GRACE_WEIGHTS_NONE};
    grace_trace_writer *w = NULL;
    grace_trace *trace = NULL;
    assert_ok(grace_trace_create(gr_folder_trace, &info, domains, 2, &w));
    for (int32_t s = 0; s < SEQUENCES; s++) assert_ok(grace_trace_add_sequence(w, (grace_trace_sequence){s, 0, s == 1}));
    append(w, (grace_trace_segment){0, 0, 5, 0, GRACE_PHASE_PREFILL}, weighted);
    append(w, (grace_trace_segment){2, 0, 30, 0, GRACE_PHASE_PREFILL}, weighted);
    append(w, (grace_trace_segment){1, 0, 1, 1, GRACE_PHASE_PREFILL}, weighted);
    append(w, (grace_trace_segment){2, 30, 10, 1, GRACE_PHASE_DECODE}, weighted);
    assert_ok(grace_trace_finish(w));
    assert_ok(grace_trace_open(gr_folder_trace, &trace, NULL));
    return trace;
}

static const grace_model_info shape = {.n_experts = N_EXPERTS, .top_k = TOP_K, .n_moe_layers = 4, .gate = {.scaling = 2}};

static gr_compute *compute;

static int open_compute(void **state) {
    (void)state;
    return gr_compute_cpu_open("portable", 1, &compute) != GRACE_OK;
}

static int close_compute(void **state) {
    (void)state;
    compute->ops->free(compute);
    return 0;
}

/* What one row of a layer chooses. */
static void choose(const gr_trace_gate *g, int32_t layer, int32_t sequence, int32_t position, int32_t ids[TOP_K], float weights[TOP_K]) {
    const int32_t token = gr_trace_gate_token(g, sequence, position);
    const gr_step_rows rows = {.n = 1, .recorded = &token};
    assert_ok(compute->ops->recall(compute, &g->choices, layer % TRACE_LAYERS, NULL, &rows, ids, weights));
}

static void check_choice(const gr_trace_gate *g, int32_t layer, int32_t request, int32_t position, int32_t from_sequence, int32_t from_position) {
    uint16_t expected[TOP_K];
    int32_t ids[TOP_K];
    float weights[TOP_K];
    expected_experts(from_sequence, from_position, layer % TRACE_LAYERS, expected);
    choose(g, layer, request, position, ids, weights);
    assert_int_equal(ids[0], expected[1]);          /* equal weights stand by id */
    assert_int_equal(ids[1], expected[0]);
    assert_true(weights[0] == 1 && weights[1] == 1);    /* scaling 2 over two experts */
}

static void requests_take_sequences_in_turn_and_go_round_and_round(void **state) {
    (void)state;
    grace_trace *trace = make_trace(false);
    gr_trace_gate *g = NULL;
    assert_ok(gr_trace_gate_open(compute, trace, NULL, &shape, &g));
    for (int32_t s = 0; s < SEQUENCES; s++)
        for (int32_t position = 0; position < 100; position++) check_choice(g, 0, s, position, s, position % lengths[s]);
    for (int32_t layer = 0; layer < 7; layer++) check_choice(g, layer, 2, 33, 2, 33);      /* the second piece; layers in turn */
    check_choice(g, 1, 2 + SEQUENCES, 0, 2, 24);            /* the second round starts 0.618 of 40 tokens on, the third twice that */
    check_choice(g, 1, 2 + SEQUENCES, 20, 2, 4);
    check_choice(g, 1, 2 + 2 * SEQUENCES, 0, 2, 48 - 40);
    check_choice(g, 1, INT32_MAX - 1, INT32_MAX, 0, (int32_t)(((int64_t)(0.6180339887498949 * 5) * ((INT32_MAX - 1) / 3) + INT32_MAX) % 5));
    gr_trace_gate_close(g);
    grace_trace_close(trace);
}

static void recorded_weights_are_kept_with_their_experts(void **state) {
    (void)state;
    grace_trace *trace = make_trace(true);
    gr_trace_gate *g = NULL;
    uint16_t expected[TOP_K];
    int32_t ids[TOP_K];
    float weights[TOP_K];
    assert_ok(gr_trace_gate_open(compute, trace, NULL, &shape, &g));
    expected_experts(2, 31, 1, expected);
    choose(g, 4, 2, 31, ids, weights);
    assert_true(ids[0] == expected[0] && ids[1] == expected[1] && weights[0] == 0.75f && weights[1] == 0.25f);
    gr_trace_gate_close(g);
    grace_trace_close(trace);
}

static void only_selected_sequences_are_replayed(void **state) {
    (void)state;
    grace_trace *trace = make_trace(false);
    gr_trace_gate *g = NULL;
    grace_selection which;
    assert_ok(grace_selection_parse("even", &which));
    assert_ok(gr_trace_gate_open(compute, trace, &which, &shape, &g));
    assert_int_equal(g->n_sequences, 2);
    check_choice(g, 0, 1, 7, 2, 7);
    gr_trace_gate_close(g);
    g = NULL;
    assert_ok(grace_selection_parse("even domain:code", &which));
    assert_fails(gr_trace_gate_open(compute, trace, &which, &shape, &g), GRACE_ERR_ARG, "none of its 46 tokens");
    assert_ok(grace_selection_parse("domain:poems", &which));
    assert_fails(gr_trace_gate_open(compute, trace, &which, &shape, &g), GRACE_ERR_ARG, "'poems'");
    assert_null(g);
    grace_trace_close(trace);
}

static void a_trace_of_other_experts_is_refused_with_both_numbers(void **state) {
    (void)state;
    grace_trace *trace = make_trace(false);
    gr_trace_gate *g = NULL;
    grace_model_info other = shape;
    other.top_k = 4;
    assert_fails(gr_trace_gate_open(compute, trace, NULL, &other, &g), GRACE_ERR_MISMATCH, "it has 8 experts, top 2, the model has 8, top 4");
    other = shape;
    other.n_experts = 64;
    assert_fails(gr_trace_gate_open(compute, trace, NULL, &other, &g), GRACE_ERR_MISMATCH, "it has 8 experts, top 2, the model has 64, top 2");
    grace_trace_close(trace);
}

/* ---- the engine ---- */

typedef struct counts { int64_t n[4][N_EXPERTS]; } counts;

static void count(void *user, int32_t layer, const gr_step *step, const int32_t *experts, const float *weights) {
    counts *c = user;
    (void)weights;
    for (int32_t i = 0; i < step->n_rows * TOP_K; i++) c->n[layer][experts[i]]++;
}

static uint64_t run(const grace_model *model, const grace_trace *trace, counts *c) {
    enum { REQUESTS = 7, PROMPT = 12, GENERATE = 5 };
    grace_engine_options opt = grace_engine_defaults();
    grace_engine *engine = NULL;
    int32_t ids[PROMPT];
    opt.kv_tokens = 512, opt.n_threads = 1, opt.n_tokens_max = 31, opt.route_trace = trace;
    assert_ok(grace_engine_open(model, &opt, &engine));
    gr_engine_network(engine)->on_gate = count, gr_engine_network(engine)->on_gate_user = c;
    for (int32_t r = 0; r < REQUESTS; r++) {
        grace_request req = grace_request_defaults();
        for (int32_t i = 0; i < PROMPT; i++) ids[i] = (i * 5 + r) % 64;
        req.prompt = ids, req.n_prompt = PROMPT, req.n_generate = GENERATE, req.ignore_eos = true;
        assert_ok(grace_engine_submit(engine, &req));
    }
    assert_ok(grace_engine_run(engine));
    const uint64_t hash = grace_engine_logits_hash(engine);
    grace_engine_close(engine);
    return hash;
}

/* 7 requests of 12 + 5 tokens, the last of which is not computed; counted again here from the same rule. */
static void the_engine_sends_rows_where_the_trace_says(void **state) {
    (void)state;
    gr_tiny_model_options tiny = gr_tiny_model_defaults();
    grace_model *model = NULL;
    counts replayed = {0}, expected = {0}, own = {0};
    tiny.n_layers = 4;
    assert_int_equal(gr_tiny_model_write(gr_folder, &tiny), 0);
    assert_ok(grace_model_open(gr_folder, &model));
    grace_trace *trace = make_trace(false);
    const uint64_t hash = run(model, trace, &replayed);
    for (int32_t r = 0; r < 7; r++)
        for (int32_t p = 0; p < 16; p++)
            for (int32_t l = 0; l < 4; l++) {
                uint16_t e[TOP_K];
                const int32_t s = r % SEQUENCES, start = (int32_t)(0.6180339887498949 * lengths[s]) * (r / SEQUENCES);
                expected_experts(s, (start + p) % lengths[s], l % TRACE_LAYERS, e);
                for (int32_t k = 0; k < TOP_K; k++) expected.n[l][e[k]]++;
            }
    assert_memory_equal(&replayed, &expected, sizeof expected);
    assert_true(run(model, NULL, &own) != hash && memcmp(&own, &expected, sizeof expected) != 0);
    grace_trace_close(trace);
    grace_model_close(model);
}

static void replayed_routing_is_not_recorded_as_the_models_own(void **state) {
    (void)state;
    gr_tiny_model_options tiny = gr_tiny_model_defaults();
    grace_model *model = NULL;
    grace_engine *engine = NULL;
    grace_engine_options opt = grace_engine_defaults();
    assert_int_equal(gr_tiny_model_write(gr_folder, &tiny), 0);
    assert_ok(grace_model_open(gr_folder, &model));
    grace_trace *trace = make_trace(false);
    opt.route_trace = trace, opt.trace_path = "again.trace";
    assert_fails(grace_engine_open(model, &opt, &engine), GRACE_ERR_ARG, "again.trace");
    assert_null(engine);
    grace_trace_close(trace);
    grace_model_close(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(requests_take_sequences_in_turn_and_go_round_and_round, gr_folder_enter, gr_folder_leave),
        cmocka_unit_test_setup_teardown(recorded_weights_are_kept_with_their_experts, gr_folder_enter, gr_folder_leave),
        cmocka_unit_test_setup_teardown(only_selected_sequences_are_replayed, gr_folder_enter, gr_folder_leave),
        cmocka_unit_test_setup_teardown(a_trace_of_other_experts_is_refused_with_both_numbers, gr_folder_enter, gr_folder_leave),
        cmocka_unit_test_setup_teardown(the_engine_sends_rows_where_the_trace_says, gr_folder_enter, gr_folder_leave),
        cmocka_unit_test_setup_teardown(replayed_routing_is_not_recorded_as_the_models_own, gr_folder_enter, gr_folder_leave),
    };
    return cmocka_run_group_tests(tests, open_compute, close_compute);
}
