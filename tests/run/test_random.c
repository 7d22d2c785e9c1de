/* The engine on models without weights: it runs, results are finite, the same again, and others for another seed; what is written names the seed. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "grace/engine.h"
#include "grace/trace.h"
#include "support/folder.h"

enum { VOCAB = 96, N_EXPERTS = 16, TOP_K = 4 };

/* The families of the released three: ordinary heads, grouped heads, latents with a dense layer and shared experts. */
static const char *const configs[] = {
    "{\"model_type\": \"olmoe\", \"hidden_size\": 48, \"intermediate_size\": 24, \"num_attention_heads\": 4, \"num_hidden_layers\": 3, \"num_experts\": 16, "
    "\"num_experts_per_tok\": 4, \"vocab_size\": 96, \"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-5}",
    "{\"model_type\": \"qwen3_moe\", \"hidden_size\": 48, \"moe_intermediate_size\": 24, \"num_attention_heads\": 4, \"num_key_value_heads\": 2, "
    "\"head_dim\": 16, \"num_hidden_layers\": 3, \"num_experts\": 16, \"num_experts_per_tok\": 4, \"norm_topk_prob\": true, \"vocab_size\": 96, "
    "\"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-6}",
    "{\"model_type\": \"deepseek_v2\", \"hidden_size\": 48, \"intermediate_size\": 64, \"moe_intermediate_size\": 24, \"num_attention_heads\": 4, "
    "\"qk_nope_head_dim\": 16, \"qk_rope_head_dim\": 8, \"v_head_dim\": 16, \"kv_lora_rank\": 32, \"q_lora_rank\": null, \"first_k_dense_replace\": 1, "
    "\"num_hidden_layers\": 3, \"n_routed_experts\": 16, \"n_shared_experts\": 2, \"num_experts_per_tok\": 4, \"vocab_size\": 96, "
    "\"max_position_embeddings\": 64, \"rms_norm_eps\": 1e-6}",
};

typedef struct seen { int64_t n_rows; double most; } seen;

static void look(void *user, int32_t request, int32_t position, const float *logits) {
    seen *s = user;
    (void)request, (void)position;
    s->n_rows++;
    for (int i = 0; i < VOCAB; i++) s->most = fmax(s->most, fabs((double)logits[i]));
}

/* Three prompts of 30 tokens, 10 generated; the hash of all logits. */
static uint64_t run(uint64_t seed, seen *s) {
    grace_model *model = NULL;
    grace_engine *engine = NULL;
    grace_engine_options opt = grace_engine_defaults();
    int32_t ids[30];
    opt.kv_tokens = 256, opt.n_threads = 1, opt.trace_path = gr_folder_trace;
    if (grace_model_open_random(gr_folder, seed, &model) || grace_engine_open(model, &opt, &engine)) fail_msg("%s", grace_last_error());
    for (int r = 0; r < 3; r++) {
        grace_request req = grace_request_defaults();
        for (int i = 0; i < 30; i++) ids[i] = (7 * i + 11 * r + i * i) % VOCAB;
        req.prompt = ids, req.n_prompt = 30, req.n_generate = 10, req.ignore_eos = true, req.user = s, req.on_logits = look;
        assert_int_equal(grace_engine_submit(engine, &req), GRACE_OK);
    }
    if (grace_engine_run(engine) || grace_engine_collect(engine)) fail_msg("%s", grace_last_error());
    const uint64_t hash = grace_engine_logits_hash(engine);
    grace_engine_close(engine);
    grace_model_close(model);
    return hash;
}

/* Of a row that norms have brought to size 1, a logit is normal with deviation 1: none of some ten thousand reaches 8. */
static void random_models_run_finitely_repeatably_and_by_their_seed(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof configs / sizeof *configs; i++) {
        seen first = {0}, again = {0}, other = {0};
        gr_folder_write_config(configs[i]);
        const uint64_t hash = run(5, &first);
        assert_int_equal(first.n_rows, 3 * 39);
        if (!(first.most > 1 && first.most < 8)) fail_msg("config %zu: the largest logit is %g", i, first.most);
        assert_true(run(5, &again) == hash);
        assert_true(run(6, &other) != hash && other.most < 8);
    }
}

/* 117 tokens x 3 layers x 4 choices: no expert has less than an eighth or more than three times its share. */
static void tokens_of_a_random_model_choose_different_experts_and_the_trace_names_the_seed(void **state) {
    (void)state;
    seen s = {0};
    grace_trace *trace = NULL;
    int64_t load[N_EXPERTS] = {0};
    gr_folder_write_config(configs[0]);
    run(5, &s);
    assert_int_equal(grace_trace_open(gr_folder_trace, &trace, NULL), GRACE_OK);
    assert_non_null(strstr(grace_trace_describe(trace)->model, "random weights, seed 5"));
    const int64_t n = grace_trace_n_tokens(trace) * 3 * TOP_K;
    assert_int_equal(n, 117 * 3 * TOP_K);
    for (int64_t i = 0; i < n; i++) load[grace_trace_experts(trace)[i]]++;
    for (int e = 0; e < N_EXPERTS; e++) assert_true(load[e] > n / N_EXPERTS / 8 && load[e] < 3 * n / N_EXPERTS);
    grace_trace_close(trace);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(random_models_run_finitely_repeatably_and_by_their_seed, gr_folder_enter, gr_folder_leave),
        cmocka_unit_test_setup_teardown(tokens_of_a_random_model_choose_different_experts_and_the_trace_names_the_seed, gr_folder_enter, gr_folder_leave),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
