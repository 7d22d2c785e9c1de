#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/json.h"
#include "model/config.h"
#include "model/family.h"
#include "model/folders.h"

/* The keys of a released OLMoE-1B-7B. */
static const char released[] =
    "{\"architectures\": [\"OlmoeForCausalLM\"], \"attention_bias\": false, \"attention_dropout\": 0.0, \"clip_qkv\": null, \"eos_token_id\": 50279, "
    "\"hidden_act\": \"silu\", \"hidden_size\": 2048, \"initializer_range\": 0.02, \"intermediate_size\": 1024, \"max_position_embeddings\": 4096, "
    "\"model_type\": \"olmoe\", \"norm_topk_prob\": false, \"num_attention_heads\": 16, \"num_experts\": 64, \"num_experts_per_tok\": 8, "
    "\"num_hidden_layers\": 16, \"num_key_value_heads\": 16, \"output_router_logits\": false, \"pad_token_id\": 1, \"rms_norm_eps\": 1e-05, "
    "\"rope_scaling\": null, \"rope_theta\": 10000.0, \"router_aux_loss_coef\": 0.01, \"tie_word_embeddings\": false, "
    "\"torch_dtype\": \"bfloat16\", \"transformers_version\": \"4.43.0.dev0\", \"use_cache\": true, \"vocab_size\": 50304}";

static grace_status parse(const char *text, grace_model_info *info) {
    const gr_family *family = NULL;
    grace_status st = gr_config_parse("c", text, strlen(text), info, &family);
    if (!st) assert_string_equal(family->model_type, info->family);
    return st;
}

/* The released config with KEY set to a JSON value, or without it (value NULL). */
static grace_status parse_with(const char *key, const char *value, grace_model_info *info) {
    gr_json *root = NULL;
    gr_buf edited = {0};
    assert_int_equal(gr_json_parse("released", released, sizeof released - 1, &root), GRACE_OK);
    assert_int_equal(gr_buf_printf(&edited, "{"), GRACE_OK);
    for (const gr_json_member *m = gr_json_first(root); m; m = gr_json_next(root, m)) {
        char *text = NULL;
        if (!strcmp(gr_json_key(m), key)) continue;
        assert_int_equal(gr_json_write(gr_json_value(m), 0, &text, NULL), GRACE_OK);
        assert_int_equal(gr_buf_printf(&edited, "%s\"%s\": %s", edited.n > 1 ? ", " : "", gr_json_key(m), text), GRACE_OK);
        free(text);
    }
    assert_int_equal(value ? gr_buf_printf(&edited, ", \"%s\": %s}", key, value) : gr_buf_printf(&edited, "}"), GRACE_OK);
    grace_status st = parse(edited.data, info);
    gr_buf_free(&edited);
    gr_json_free(root);
    return st;
}

static void a_released_config_is_read_in_full(void **state) {
    (void)state;
    grace_model_info info;
    assert_int_equal(parse(released, &info), GRACE_OK);
    assert_string_equal(info.family, "olmoe");
    const int64_t found[] = {info.n_layers, info.n_moe_layers, info.hidden, info.vocab, info.n_heads, info.n_kv_heads, info.head_dim,
                             info.n_experts, info.top_k, info.expert_width, info.context_max, info.gate.norm_topk, info.tied_embeddings, info.n_eos};
    const int64_t expected[] = {16, 16, 2048, 50304, 16, 16, 128, 64, 8, 1024, 4096, 0, 0, 1};
    for (size_t i = 0; i < sizeof found / sizeof *found; i++) assert_int_equal(found[i], expected[i]);
    assert_int_equal(info.eos_ids[0], 50279);
    assert_true(info.rms_eps == 1e-5f && info.rope_theta == 10000.0f && info.clip_qkv == 0.0f);
}

static void keys_that_change_the_mathematics_are_read_or_refused_with_their_value(void **state) {
    (void)state;
    const struct { const char *key, *value; } refused[] = {
        {"hidden_act", "\"gelu\""}, {"attention_bias", "true"}, {"sliding_window", "4096"}, {"use_sliding_window", "true"},
        {"quantization_config", "{\"bits\": 4}"}, {"partial_rotary_factor", "0.5"}, {"attn_logit_softcapping", "50.0"},
        {"mlp_bias", "true"}, {"a_key_of_tomorrow", "null"}, {"n_shared_experts", "2"}, {"moe_intermediate_size", "64"},
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        grace_model_info info = {.n_layers = 77};
        assert_fails(parse_with(refused[i].key, refused[i].value, &info), GRACE_ERR_UNSUPPORTED, refused[i].key, refused[i].value);
        assert_int_equal(info.n_layers, 77);        /* outputs change only on success */
    }
}

static void keys_without_part_in_the_mathematics_may_have_any_value(void **state) {
    (void)state;
    const struct { const char *key, *value; } accepted[] = {
        {"dtype", "\"float32\""}, {"torch_dtype", "null"}, {"use_cache", "false"}, {"attention_dropout", "0.5"}, {"transformers_version", "7"},
        {"bos_token_id", "[1]"}, {"sliding_window", "null"}, {"hidden_act", NULL}, {"attention_bias", NULL}, {"partial_rotary_factor", "1.0"},
    };
    for (size_t i = 0; i < sizeof accepted / sizeof *accepted; i++) {
        grace_model_info info;
        if (parse_with(accepted[i].key, accepted[i].value, &info)) fail_msg("%s: %s", accepted[i].key, grace_last_error());
    }
}

static void optional_keys_change_what_they_name(void **state) {
    (void)state;
    grace_model_info info;
    assert_int_equal(parse_with("clip_qkv", "8.0", &info), GRACE_OK);
    assert_true(info.clip_qkv == 8.0f);
    assert_int_equal(parse_with("norm_topk_prob", "true", &info), GRACE_OK);
    assert_true(info.gate.norm_topk);
    assert_int_equal(parse_with("tie_word_embeddings", "true", &info), GRACE_OK);
    assert_true(info.tied_embeddings);
    assert_int_equal(parse_with("num_key_value_heads", "4", &info), GRACE_OK);
    assert_int_equal(info.n_kv_heads, 4);
    assert_int_equal(parse_with("num_key_value_heads", NULL, &info), GRACE_OK);
    assert_int_equal(info.n_kv_heads, 16);
    assert_int_equal(parse_with("head_dim", "64", &info), GRACE_OK);
    assert_int_equal(info.head_dim, 64);
    assert_int_equal(parse_with("rope_theta", NULL, &info), GRACE_OK);
    assert_true(info.rope_theta == 10000.0f);
}

static void rope_parameters_of_transformers_5_are_the_same_as_rope_theta(void **state) {
    (void)state;
    grace_model_info info;
    assert_int_equal(parse_with("rope_theta", NULL, &info), GRACE_OK);
    assert_int_equal(parse_with("rope_parameters", "{\"rope_type\": \"default\", \"rope_theta\": 10000}", &info), GRACE_OK);
    assert_int_equal(parse_with("rope_scaling", "{\"type\": \"default\"}", &info), GRACE_OK);
    assert_true(info.rope_theta == 10000.0f);
    assert_int_equal(parse_with("rope_theta", "null, \"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 5e5}", &info), GRACE_OK);
    assert_true(info.rope_theta == 5e5f);
    assert_fails(parse_with("rope_parameters", "{\"rope_theta\": 5e5}", &info), GRACE_ERR_FORMAT, "500000", "10000");
    assert_fails(parse_with("rope_scaling", "{\"type\": \"longrope\", \"factor\": 4}", &info), GRACE_ERR_UNSUPPORTED, "rope_scaling", "longrope");
    assert_fails(parse_with("rope_parameters", "{\"rope_type\": \"default\", \"factor\": 4}", &info), GRACE_ERR_UNSUPPORTED, "factor", "4");
    assert_fails(parse_with("rope_scaling", "4", &info), GRACE_ERR_FORMAT, "rope_scaling", "an integer");
}

static void a_number_out_of_range_is_named_with_both_numbers(void **state) {
    (void)state;
    grace_model_info info;
    assert_fails(parse_with("num_hidden_layers", "1025", &info), GRACE_ERR_LIMIT, "num_hidden_layers", "1025", "1024");
    assert_fails(parse_with("num_experts", "100000", &info), GRACE_ERR_LIMIT, "num_experts", "100000", "1024");
    assert_fails(parse_with("num_experts_per_tok", "65", &info), GRACE_ERR_LIMIT, "num_experts_per_tok", "65", "64");
    assert_fails(parse_with("num_experts", "4", &info), GRACE_ERR_FORMAT, "8 experts per token", "4 experts");
    assert_fails(parse_with("hidden_size", "0", &info), GRACE_ERR_FORMAT, "hidden_size", "found 0");
    assert_fails(parse_with("hidden_size", "9223372036854775807", &info), GRACE_ERR_LIMIT, "hidden_size", "9223372036854775807");
    assert_fails(parse_with("hidden_size", "2050", &info), GRACE_ERR_FORMAT, "2050", "16");
    assert_fails(parse_with("hidden_size", "16384, \"head_dim\": 127", &info), GRACE_ERR_UNSUPPORTED, "127");
    assert_fails(parse_with("hidden_size", "32768", &info), GRACE_ERR_LIMIT, "2048", "1024");
    assert_fails(parse_with("num_key_value_heads", "3", &info), GRACE_ERR_FORMAT, "16", "3");
    assert_fails(parse_with("rms_norm_eps", "0", &info), GRACE_ERR_FORMAT, "rms_norm_eps", "found 0");
    assert_fails(parse_with("rope_theta", "1e300", &info), GRACE_ERR_FORMAT, "rope_theta", "1e+300");
    assert_fails(parse_with("clip_qkv", "-1", &info), GRACE_ERR_FORMAT, "clip_qkv", "-1");
    assert_fails(parse_with("vocab_size", "50279", &info), GRACE_ERR_FORMAT, "eos_token_id", "50278", "50279");
}

static void what_is_missing_or_of_another_kind_is_named(void **state) {
    (void)state;
    const char *const needed[] = {"model_type", "hidden_size", "intermediate_size", "max_position_embeddings", "num_attention_heads", "num_experts",
                                  "num_experts_per_tok", "num_hidden_layers", "rms_norm_eps", "vocab_size"};
    grace_model_info info;
    for (size_t i = 0; i < sizeof needed / sizeof *needed; i++) {
        assert_fails(parse_with(needed[i], NULL, &info), GRACE_ERR_FORMAT, needed[i], "found nothing");
        assert_fails(parse_with(needed[i], "[]", &info), GRACE_ERR_FORMAT, needed[i], "found an array");
    }
    assert_fails(parse_with("norm_topk_prob", "1", &info), GRACE_ERR_FORMAT, "norm_topk_prob", "a boolean");
    assert_fails(parse_with("model_type", "\"mamba\"", &info), GRACE_ERR_UNSUPPORTED, "mamba", "\"olmoe\"");
    assert_fails(parse("{\"model_type\": \"olmoe\", \"model_type\": \"olmoe\"}", &info), GRACE_ERR_FORMAT, "duplicate");
    assert_fails(parse("[]", &info), GRACE_ERR_FORMAT, "expected an object");
    assert_fails(parse("olmoe", &info), GRACE_ERR_FORMAT, "no valid JSON");
    assert_fails(parse("", &info), GRACE_ERR_FORMAT, "no valid JSON");
}

static void end_of_text_ids_of_both_files_are_joined_without_repeats(void **state) {
    (void)state;
    grace_model_info info;
    const char *more = "{\"eos_token_id\": [7, 50279, 3], \"temperature\": 0.6, \"anything\": true}", *none = "{}";
    const char *many = "{\"eos_token_id\": [1,2,3,4,5,6,7,8,9]}";
    assert_int_equal(parse(released, &info), GRACE_OK);
    assert_int_equal(gr_config_parse_generation("g", more, strlen(more), &info), GRACE_OK);
    assert_int_equal(gr_config_parse_generation("g", none, strlen(none), &info), GRACE_OK);
    assert_int_equal(info.n_eos, 3);
    assert_int_equal(info.eos_ids[0], 50279);
    assert_int_equal(info.eos_ids[1], 7);
    assert_int_equal(info.eos_ids[2], 3);
    assert_fails(gr_config_parse_generation("g", many, strlen(many), &info), GRACE_ERR_LIMIT, "8");
    assert_int_equal(info.n_eos, 3);
    assert_int_equal(parse_with("eos_token_id", "null", &info), GRACE_OK);
    assert_int_equal(info.n_eos, 0);
    assert_int_equal(parse_with("eos_token_id", "[5, 5, 6]", &info), GRACE_OK);
    assert_int_equal(info.n_eos, 2);
    assert_fails(parse_with("eos_token_id", "-1", &info), GRACE_ERR_FORMAT, "eos_token_id", "-1");
    assert_fails(parse_with("eos_token_id", "[\"0\"]", &info), GRACE_ERR_FORMAT, "eos_token_id", "a string");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_released_config_is_read_in_full),
        cmocka_unit_test(keys_that_change_the_mathematics_are_read_or_refused_with_their_value),
        cmocka_unit_test(keys_without_part_in_the_mathematics_may_have_any_value),
        cmocka_unit_test(optional_keys_change_what_they_name),
        cmocka_unit_test(rope_parameters_of_transformers_5_are_the_same_as_rope_theta),
        cmocka_unit_test(a_number_out_of_range_is_named_with_both_numbers),
        cmocka_unit_test(what_is_missing_or_of_another_kind_is_named),
        cmocka_unit_test(end_of_text_ids_of_both_files_are_joined_without_repeats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
