/* Models without weights and recorded routing on a GPU: the same network as on the CPU, the same experts for every row. Routing is replayed in both, so
 * that no close choice falls differently and logits can be compared. Without a GPU it says "skipped". */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "cuda/device.h"
#include "grace/engine.h"
#include "grace/trace.h"
#include "run/engine_internal.h"
#include "support/folder.h"

enum { VOCAB = 96, N_EXPERTS = 16, TOP_K = 4, LAYERS = 3, REQUESTS = 5, PROMPT = 30, GENERATE = 10, ROWS = REQUESTS * (PROMPT + GENERATE - 1) };

static const char *const configs[] = {
    "{\"model_type\": \"olmoe\", \"hidden_size\": 64, \"intermediate_size\": 32, \"num_attention_heads\": 4, \"num_hidden_layers\": 3, \"num_experts\": 16, "
    "\"num_experts_per_tok\": 4, \"vocab_size\": 96, \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-5}",
    "{\"model_type\": \"qwen3_moe\", \"hidden_size\": 64, \"moe_intermediate_size\": 24, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
    "\"head_dim\": 32, \"num_hidden_layers\": 3, \"num_experts\": 16, \"num_experts_per_tok\": 4, \"norm_topk_prob\": true, \"vocab_size\": 96, "
    "\"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-6}",
    "{\"model_type\": \"deepseek_v2\", \"hidden_size\": 64, \"intermediate_size\": 64, \"moe_intermediate_size\": 24, \"num_attention_heads\": 4, "
    "\"qk_nope_head_dim\": 32, \"qk_rope_head_dim\": 16, \"v_head_dim\": 32, \"kv_lora_rank\": 64, \"q_lora_rank\": null, \"first_k_dense_replace\": 1, "
    "\"num_hidden_layers\": 3, \"n_routed_experts\": 16, \"n_shared_experts\": 2, \"num_experts_per_tok\": 4, \"vocab_size\": 96, "
    "\"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-6}",
};

/* Two layers of 100 tokens in two sequences, experts at random. */
static grace_trace *make_trace(void) {
    enum { TOKENS = 100, TRACE_LAYERS = 2 };
    const grace_trace_info info = {.model = "random", .n_layers = TRACE_LAYERS, .n_experts = N_EXPERTS, .top_k = TOP_K, .n_ranks = 1, .n_nodes = 1};
    uint16_t experts[TOKENS * TRACE_LAYERS * TOP_K];
    grace_trace_writer *w = NULL;
    grace_trace *trace = NULL;
    gr_rng rng = gr_rng_seed(3);
    for (int i = 0; i < TOKENS * TRACE_LAYERS; i++)
        for (int k = 0; k < TOP_K; k++) experts[i * TOP_K + k] = (uint16_t)(k * (N_EXPERTS / TOP_K) + (int)gr_rng_below(&rng, N_EXPERTS / TOP_K));
    if (grace_trace_create(gr_folder_trace, &info, NULL, 0, &w)) fail_msg("%s", grace_last_error());
    for (int32_t s = 0; s < 2; s++) {
        const grace_trace_tokens tokens = {.experts = experts + (int64_t)s * 40 * TRACE_LAYERS * TOP_K};
        if (grace_trace_add_sequence(w, (grace_trace_sequence){s, 0, -1}) ||
            grace_trace_append(w, (grace_trace_segment){s, 0, s ? 60 : 40, s, GRACE_PHASE_PREFILL}, tokens)) fail_msg("%s", grace_last_error());
    }
    if (grace_trace_finish(w) || grace_trace_open(gr_folder_trace, &trace, NULL)) fail_msg("%s", grace_last_error());
    return trace;
}

/* ---- a run, and what it did at every position ---- */

typedef struct outcome {
    float logits[REQUESTS][PROMPT + GENERATE][VOCAB];
    int32_t experts[LAYERS][REQUESTS][PROMPT + GENERATE][TOP_K];
    int32_t ids[REQUESTS][GENERATE], n_logits;
} outcome;

static void look(void *user, int32_t request, int32_t position, const float *logits) {
    outcome *out = user;
    memcpy(out->logits[request][position], logits, sizeof out->logits[request][position]);
    out->n_logits++;
}

static void note(void *user, int32_t layer, const gr_step *step, const int32_t *experts, const float *weights) {
    outcome *out = user;
    (void)weights;
    for (int32_t i = 0; i < step->n_rows; i++)
        memcpy(out->experts[layer][step->sequence[i]][step->position[i]], experts + (int64_t)i * TOP_K, TOP_K * sizeof *experts);
}

/* feed: prompts continue with these ids, so that both devices meet the same tokens; NULL: they generate. watched: logits and choices are looked at. */
static void run(const char *device, uint64_t seed, const grace_trace *trace, const outcome *feed, bool watched, outcome *out) {
    grace_model *model = NULL;
    grace_engine *engine = NULL;
    grace_engine_options opt = grace_engine_defaults();
    opt.device = device, opt.kv_tokens = 512, opt.n_threads = 1, opt.n_tokens_max = 64, opt.route_trace = trace;
    memset(out, 0, sizeof *out);
    if (grace_model_open_random(gr_folder, seed, &model) || grace_engine_open(model, &opt, &engine)) fail_msg("%s", grace_last_error());
    if (watched) gr_engine_network(engine)->on_gate = note, gr_engine_network(engine)->on_gate_user = out;
    for (int32_t r = 0; r < REQUESTS; r++) {
        grace_request req = grace_request_defaults();
        int32_t ids[PROMPT + GENERATE];
        for (int32_t i = 0; i < PROMPT; i++) ids[i] = (7 * i + 11 * r + i * i) % VOCAB;
        if (feed) memcpy(ids + PROMPT, feed->ids[r], sizeof feed->ids[r]);
        req.prompt = ids, req.n_prompt = feed ? PROMPT + GENERATE - 1 : PROMPT, req.n_generate = feed ? 0 : GENERATE, req.ignore_eos = true;
        if (watched) req.user = out, req.on_logits = look;
        if (grace_engine_submit(engine, &req)) fail_msg("%s", grace_last_error());
    }
    if (grace_engine_run(engine)) fail_msg("%s", grace_last_error());
    for (int32_t r = 0; r < REQUESTS && !feed; r++) memcpy(out->ids[r], grace_engine_result(engine, r)->ids, sizeof out->ids[r]);
    grace_engine_close(engine);
    grace_model_close(model);
}

static double largest_difference(const outcome *a, const outcome *b) {
    double most = 0;
    for (int32_t r = 0; r < REQUESTS; r++)
        for (int32_t p = 0; p < PROMPT + GENERATE - 1; p++)
            for (int32_t v = 0; v < VOCAB; v++) most = fmax(most, fabs((double)a->logits[r][p][v] - (double)b->logits[r][p][v]));
    return most;
}

/* Logits have a deviation of 1. On their way lie some 20 roundings to bf16 a layer, each 2^-9 of what it rounds and independent: 3 layers come to
 * 2^-9 sqrt(60), 0.015; of 19 thousand logits the worst is 4.5 deviations off, and norms and products may double that. Other weights are off by 3 and more. */
static void a_random_model_is_the_network_that_the_cpu_runs(void **state) {
    outcome *cpu = malloc(sizeof *cpu), *cuda = malloc(sizeof *cuda), *other = malloc(sizeof *other);
    (void)state;
    grace_trace *trace = make_trace();
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        gr_folder_write_config(configs[i]);
        run("cuda", 5, trace, NULL, true, other);
        run("cpu", 5, trace, other, true, cpu);
        run("cuda", 5, trace, other, true, cuda);
        assert_int_equal(cpu->n_logits, ROWS);
        assert_int_equal(cuda->n_logits, ROWS);
        const double off = largest_difference(cpu, cuda);
        printf("config %zu: the largest difference of logits is %.3f of 0.140\n", i, off / 0.140);
        if (!(off <= 0.140)) fail_msg("config %zu: logits differ by %g", i, off);
        assert_memory_equal(cpu->experts, cuda->experts, sizeof cpu->experts);
        run("cuda", 6, trace, other, true, cuda);
        assert_true(largest_difference(cpu, cuda) > 1);
    }
    grace_trace_close(trace);
    free(cpu), free(cuda), free(other);
}

/* Nobody looks: decode steps are graphs, into which the routing comes as numbers. */
static void recorded_steps_take_the_routing_of_their_own_rows(void **state) {
    outcome *watched = malloc(sizeof *watched), *graphs = malloc(sizeof *graphs), *own = malloc(sizeof *own);
    (void)state;
    grace_trace *trace = make_trace();
    gr_folder_write_config(configs[0]);
    run("cuda", 5, trace, NULL, true, watched);
    run("cuda", 5, trace, NULL, false, graphs);
    run("cuda", 5, NULL, NULL, false, own);
    assert_memory_equal(watched->ids, graphs->ids, sizeof graphs->ids);
    assert_true(memcmp(own->ids, graphs->ids, sizeof graphs->ids) != 0);
    grace_trace_close(trace);
    free(watched), free(graphs), free(own);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_random_model_is_the_network_that_the_cpu_runs, gr_folder_enter, gr_folder_leave),
        cmocka_unit_test_setup_teardown(recorded_steps_take_the_routing_of_their_own_rows, gr_folder_enter, gr_folder_leave),
    };
    if (no_gpu("models without weights on a GPU")) return SKIPPED;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
