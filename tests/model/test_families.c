/* The families' configs as released (tests/fuzz/corpus/config), and their tensors' names and shapes (the folders of tests/golden/micro): model/deepseek.c,
 * model/deepseek_v2.c, model/deepseek_v3.c, model/gpt_oss.c, model/mixtral.c, model/qwen2_moe.c, model/qwen3_moe.c, model/layers.c, model/rope.c. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/json.h"
#include "model/config.h"
#include "model/family.h"
#include "model/folders.h"
#include "model/safetensors.h"
#include "support/micro.h"

#define CONFIGS GRACE_SOURCE_DIR "/tests/fuzz/corpus/config/"

/* ---- released configs ---- */

static grace_status parse(const char *text, size_t n, grace_model_info *info) {
    const gr_family *family = NULL;
    return gr_config_parse("c", text, n, info, &family);
}

static grace_status parse_released(const char *name, const char *key, const char *value, grace_model_info *info) {
    char path[512];
    gr_json *root = NULL, *changed = NULL;      /* {"v": value} */
    char *text = NULL;
    size_t n = 0;
    snprintf(path, sizeof path, CONFIGS "%s.json", name);
    assert_int_equal(gr_json_load(path, &root), GRACE_OK);
    char wrapped[512];
    snprintf(wrapped, sizeof wrapped, "{\"v\": %s}", value ? value : "null");
    assert_int_equal(gr_json_parse("value", wrapped, strlen(wrapped), &changed), GRACE_OK);
    gr_json *edited = gr_json_new_object();
    for (const gr_json_member *m = gr_json_first(root); m; m = gr_json_next(root, m))
        if (!key || strcmp(gr_json_key(m), key)) gr_json_set(edited, gr_json_key(m), gr_json_share(gr_json_value(m)));
    if (key) gr_json_set(edited, key, gr_json_share(gr_json_get(changed, "v")));
    assert_int_equal(gr_json_write(edited, 0, &text, &n), GRACE_OK);
    grace_status st = parse(text, n, info);
    free(text);
    gr_json_free(edited);
    gr_json_free(changed);
    gr_json_free(root);
    return st;
}

/* KV bytes a token: float32 in all layers; keys and values of the kv heads, or kv_lora_rank + qk_rope_head_dim. */
static void released_configs_are_read_in_full(void **state) {
    (void)state;
    static const struct { const char *name, *family; int64_t layers, moe_layers, experts, top_k, width, shared, dense, head_dim, v_dim, kv_bytes; } all[] = {
        {"released", "olmoe", 16, 16, 64, 8, 1024, 0, 0, 128, 128, 16 * 2 * 16 * 128 * 4},
        {"deepseek-v2-lite", "deepseek_v2", 27, 26, 64, 6, 1408, 2816, 10944, 192, 128, 27 * (512 + 64) * 4},
        {"qwen3-30b-a3b", "qwen3_moe", 48, 48, 128, 8, 768, 0, 0, 128, 128, 48 * 2 * 4 * 128 * 4},
        {"qwen1.5-moe-a2.7b", "qwen2_moe", 24, 24, 60, 4, 1408, 5632, 0, 128, 128, 24 * 2 * 16 * 128 * 4},
        {"mixtral-8x7b", "mixtral", 32, 32, 8, 2, 14336, 0, 0, 128, 128, 32 * 2 * 8 * 128 * 4},
        {"deepseek-v3", "deepseek_v3", 61, 58, 256, 8, 2048, 2048, 18432, 192, 128, 61 * (512 + 64) * 4},
        {"gpt-oss-20b", "gpt_oss", 24, 24, 32, 4, 2880, 0, 0, 64, 64, 24 * 2 * 8 * 64 * 4},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        grace_model_info m;
        if (parse_released(all[i].name, NULL, NULL, &m)) fail_msg("%s: %s", all[i].name, grace_last_error());
        assert_string_equal(m.family, all[i].family);
        const int64_t found[] = {m.n_layers, m.n_moe_layers, m.n_experts, m.top_k, m.expert_width, m.shared_width, m.dense_width, m.head_dim, m.v_dim,
                                 grace_model_kv_token_bytes(&m)};
        const int64_t expected[] = {all[i].layers, all[i].moe_layers, all[i].experts, all[i].top_k, all[i].width, all[i].shared, all[i].dense,
                                    all[i].head_dim, all[i].v_dim, all[i].kv_bytes};
        for (size_t j = 0; j < sizeof found / sizeof *found; j++) assert_int_equal(found[j], expected[j]);
    }
}

static void gates_and_attention_are_those_of_the_family(void **state) {
    (void)state;
    grace_model_info m;
    assert_int_equal(parse_released("deepseek-v3", NULL, NULL, &m), GRACE_OK);
    assert_true(m.gate.score == GRACE_SCORE_SIGMOID && m.gate.n_groups == 8 && m.gate.top_groups == 4 && m.gate.group_best == 2 && m.gate.norm_topk);
    assert_true(m.gate.scaling == 2.5f && m.kv_rank == 512 && m.q_rank == 1536 && m.rope.dim == 64 && m.rope.neighbours);
    assert_true(m.layers[2].moe == -1 && m.layers[3].moe == 0 && m.layers[60].moe == 57);
    /* mscale 1: cosines keep their size, scores grow by (0.1 ln 40 + 1)^2 */
    const float growth = 0.1f * logf(40) + 1;
    assert_true(m.rope.magnitude == 1 && fabsf(m.softmax_scale / (growth * growth / sqrtf(192)) - 1) < 1e-6f);
    assert_int_equal(parse_released("deepseek-v2-lite", NULL, NULL, &m), GRACE_OK);
    assert_true(m.gate.score == GRACE_SCORE_SOFTMAX && m.gate.n_groups == 0 && !m.gate.norm_topk && m.gate.scaling == 1 && m.q_rank == 0);
    assert_int_equal(parse_released("deepseek-v2-lite", "norm_topk_prob", "true", &m), GRACE_OK);
    assert_false(m.gate.norm_topk);         /* not read in this family */
    assert_int_equal(parse_released("mixtral-8x7b", "sliding_window", "4096", &m), GRACE_OK);
    assert_true(m.gate.norm_topk && m.layers[0].window == 4096 && m.layers[31].window == 4096);
    assert_int_equal(parse_released("gpt-oss-20b", NULL, NULL, &m), GRACE_OK);
    assert_true(m.layers[0].window == 128 && m.layers[1].window == 0 && m.gate.norm_topk && m.swiglu_limit == 7 && !m.rope.neighbours);
    assert_int_equal(parse_released("gpt-oss-20b", "layer_types", "null", &m), GRACE_OK);
    assert_true(m.layers[22].window == 128 && m.layers[23].window == 0);
    assert_int_equal(parse_released("qwen3-30b-a3b", "decoder_sparse_step", "2", &m), GRACE_OK);
    assert_true(m.n_moe_layers == 24 && m.layers[0].moe == -1 && m.layers[1].moe == 0 && m.dense_width == 6144);
    assert_int_equal(parse_released("qwen3-30b-a3b", "mlp_only_layers", "[0, 47]", &m), GRACE_OK);
    assert_true(m.n_moe_layers == 46 && m.layers[0].moe == -1 && m.layers[46].moe == 45 && m.layers[47].moe == -1);
}

static void what_a_family_does_not_compute_is_refused_with_key_and_value(void **state) {
    (void)state;
    static const struct { const char *name, *key, *value, *says; } refused[] = {
        {"deepseek-v2-lite", "topk_method", "\"noaux_tc\"", "noaux_tc"},
        {"deepseek-v2-lite", "scoring_func", "\"sigmoid\"", "sigmoid"},
        {"deepseek-v2-lite", "head_dim", "128", "128"},
        {"deepseek-v2-lite", "qk_head_dim", "128", "128"},
        {"deepseek-v2-lite", "num_key_value_heads", "8", "8"},
        {"deepseek-v2-lite", "sliding_window", "8", "8"},
        {"deepseek-v2-lite", "attention_bias", "true", "true"},
        {"deepseek-v3", "scoring_func", "\"softmax\"", "softmax"},
        {"deepseek-v3", "topk_method", "\"greedy\"", "greedy"},
        {"deepseek-v3", "quantization_config", "{\"quant_method\": \"awq\", \"bits\": 4}", "awq"},
        {"deepseek-v3", "quantization_config", "{\"quant_method\": \"fp8\", \"weight_block_size\": [64, 64]}", "[64, 64]"},
        {"deepseek-v3", "quantization_config", "{\"quant_method\": \"fp8\", \"fmt\": \"e5m2\"}", "e5m2"},
        {"deepseek-v3", "quantization_config", "{\"quant_method\": \"fp8\", \"activation_scheme\": \"static\"}", "static"},
        {"qwen3-30b-a3b", "use_sliding_window", "true", "true"},
        {"qwen3-30b-a3b", "attention_bias", "true", "true"},
        {"qwen3-30b-a3b", "n_shared_experts", "1", "1"},
        {"qwen1.5-moe-a2.7b", "qkv_bias", "false", "false"},
        {"qwen1.5-moe-a2.7b", "hidden_act", "\"gelu\"", "gelu"},
        {"mixtral-8x7b", "attention_bias", "true", "true"},
        {"gpt-oss-20b", "attention_bias", "false", "false"},
        {"gpt-oss-20b", "layer_types", "[\"sliding_attention\", \"chunked_attention\"]", "layer_types"},
        {"gpt-oss-20b", "rope_scaling", "{\"rope_type\": \"longrope\"}", "longrope"},
        {"gpt-oss-20b", "rope_scaling", "{\"rope_type\": \"yarn\", \"factor\": 2, \"short_factor\": [1]}", "short_factor"},
        {"released", "first_k_dense_replace", "1", "1"},
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        grace_model_info m = {.n_layers = 77};
        grace_status st = parse_released(refused[i].name, refused[i].key, refused[i].value, &m);
        if (st != GRACE_ERR_UNSUPPORTED && st != GRACE_ERR_FORMAT) fail_msg("%s, %s %s: not refused", refused[i].name, refused[i].key, refused[i].value);
        if (!strstr(grace_last_error(), refused[i].key) || !strstr(grace_last_error(), refused[i].says))
            fail_msg("%s, %s %s: %s", refused[i].name, refused[i].key, refused[i].value, grace_last_error());
        assert_int_equal(m.n_layers, 77);
    }
}

static void numbers_that_do_not_fit_each_other_are_refused(void **state) {
    (void)state;
    static const struct { const char *name, *key, *value, *says; } refused[] = {
        {"deepseek-v3", "n_group", "7", "no multiple of 'n_group', 7"},
        {"deepseek-v3", "topk_group", "9", "there are 8 groups"},
        {"deepseek-v3", "n_group", "256", "4 groups of 1 experts"},
        {"deepseek-v3", "qk_rope_head_dim", "63", "cannot be rotated in pairs"},
        {"deepseek-v3", "kv_lora_rank", "null", "kv_lora_rank"},
        {"deepseek-v2-lite", "first_k_dense_replace", "27", "none of the 27 layers has experts"},
        {"deepseek-v2-lite", "intermediate_size", "null", "intermediate_size"},
        {"gpt-oss-20b", "experts_per_token", "5", "'num_experts_per_tok' 4"},
        {"gpt-oss-20b", "layer_types", "[\"full_attention\"]", "expected 24 words, found 1"},
        {"gpt-oss-20b", "rope_scaling", "{\"rope_type\": \"yarn\", \"factor\": 0.5}", "expected 1 or more"},
        {"gpt-oss-20b", "rope_theta", "1", "more than 1"},
        {"llama3-rope", "rope_scaling", "{\"rope_type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4, \"high_freq_factor\": 4}", "not below"},
        {"qwen3-30b-a3b", "mlp_only_layers", "[\"0\"]", "expected an integer"},
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        grace_model_info m;
        grace_status st = parse_released(refused[i].name, refused[i].key, refused[i].value, &m);
        if (!st) fail_msg("%s, %s %s: not refused", refused[i].name, refused[i].key, refused[i].value);
        if (!strstr(grace_last_error(), refused[i].says)) fail_msg("%s, %s %s: %s", refused[i].name, refused[i].key, refused[i].value, grace_last_error());
    }
}

/* Figures of the formula of Llama 3.1 in float32, worked out with Python: theta 1e6, 128 elements, factor 8 between wavelengths 2048 and 8192. */
static void llama3_scaling_slows_slow_pairs_and_leaves_fast_ones(void **state) {
    (void)state;
    grace_model_info plain, m;
    assert_int_equal(parse_released("qwen3-30b-a3b", NULL, NULL, &plain), GRACE_OK);
    assert_int_equal(parse_released("llama3-rope", NULL, NULL, &m), GRACE_OK);
    assert_true(m.rope.magnitude == 1 && m.rope.stretched && !plain.rope.stretched);
    for (int i = 0; i < 64; i++) {
        const double wave = 6.283185307179586 / (double)plain.rope.frequency[i], ratio = (double)m.rope.frequency[i] / (double)plain.rope.frequency[i];
        const double smooth = (8192 / wave - 1) / 3, expected = wave < 2048 ? 1 : wave > 8192 ? 0.125 : (1 - smooth) / 8 + smooth;
        assert_true(fabs(ratio / expected - 1) < 1e-5);
    }
}

/* ---- tensors ---- */

static void copy_folder(const char *from) {
    DIR *d = opendir(from);
    assert_non_null(d);
    for (struct dirent *entry; (entry = readdir(d));) {
        char path[1024];
        gr_file file;
        if (!strstr(entry->d_name, "model") && strcmp(entry->d_name, "config.json")) continue;
        snprintf(path, sizeof path, "%s/%s", from, entry->d_name);
        assert_int_equal(gr_file_map(path, &file), GRACE_OK);
        write_bytes(entry->d_name, file.data, file.n);
        gr_file_unmap(&file);
    }
    closedir(d);
}

/* Every name the shards have, once each; the first of many experts stands for all. */
static size_t list_names(char names[][128], size_t max) {
    size_t n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *entry; (entry = readdir(d));) {
        gr_shard shard;
        if (!strstr(entry->d_name, ".safetensors") || strstr(entry->d_name, ".json")) continue;
        assert_int_equal(gr_shard_open(path_of(entry->d_name), &shard), GRACE_OK);
        for (int32_t i = 0; i < shard.n_tensors; i++) {
            const char *expert = strstr(shard.tensors[i].name, ".experts.");
            if (expert && expert[9] >= '1' && expert[9] <= '9') continue;
            assert_true(n < max);
            snprintf(names[n++], sizeof *names, "%s", shard.tensors[i].name);
        }
        gr_shard_close(&shard);
    }
    closedir(d);
    return n;
}

static grace_status open_and_close(void) {
    grace_model *model = NULL;
    grace_status st = grace_model_open(dir, &model);
    assert_true((model != NULL) == (st == GRACE_OK));
    grace_model_close(model);
    return st;
}

/* Their rows are cut out one by one, which blocks of fp8 do not allow. */
static void biases_of_experts_in_fp8_are_refused(void **state) {
    (void)state;
    static const char *const names[] = {"model.layers.0.mlp.experts.gate_up_proj_bias", "model.layers.1.mlp.experts.down_proj_bias"};
    for (size_t i = 0; i < 2; i++) {
        copy_folder(gr_micro_dir("gpt-oss-bf16"));
        make_fp8("model.safetensors", names[i], 7, 64);
        assert_fails(open_and_close(), GRACE_ERR_UNSUPPORTED, names[i], "F8_E4M3");
    }
}

/* The tensor under another name, in the index as in its shard. */
static void rename_in_place(const char *name, char first) {
    DIR *d = opendir(dir);
    char quoted[160];
    size_t n = (size_t)snprintf(quoted, sizeof quoted, "\"%s\"", name);
    quoted[1] = first == name[0] ? 'X' : name[0];
    for (struct dirent *entry; (entry = readdir(d));) {
        gr_file file;
        if (entry->d_name[0] == '.') continue;
        assert_int_equal(gr_file_map(path_of(entry->d_name), &file), GRACE_OK);
        char *copy = malloc(file.n), *at = NULL;
        memcpy(copy, file.data, file.n);
        size_t size = file.n;
        gr_file_unmap(&file);
        if ((at = memmem(copy, size, quoted, n))) at[1] = first;
        if (at) write_bytes(entry->d_name, copy, size);
        free(copy);
    }
    closedir(d);
}

/* Tensors of a layer beyond the last are for guessing further tokens. */
static bool is_needed(const char *name, int32_t n_layers) {
    int32_t layer = 0;
    return sscanf(name, "model.layers.%d.", &layer) != 1 || layer < n_layers;
}

static void needs_every_tensor_of_its_folder_by_name(void **state) {
    static char names[512][128];
    grace_model *model = NULL;
    copy_folder(gr_micro_dir(*state));
    assert_int_equal(grace_model_open(dir, &model), GRACE_OK);
    const int32_t n_layers = grace_model_describe(model)->n_layers;
    grace_model_close(model);
    size_t n = list_names(names, sizeof names / sizeof *names);
    for (size_t i = 0; i < n; i++) {
        rename_in_place(names[i], 'X');
        grace_status st = open_and_close();
        if (st != (is_needed(names[i], n_layers) ? GRACE_ERR_FORMAT : GRACE_OK)) fail_msg("without %s: %s", names[i], st ? grace_last_error() : "opened");
        /* without its fused or packed form, the per-expert or plain one is missed */
        if (st && !strstr(names[i], "experts.") && !strstr(grace_last_error(), names[i])) fail_msg("without %s: %s", names[i], grace_last_error());
        rename_in_place(names[i], names[i][0]);
    }
    assert_int_equal(open_and_close(), GRACE_OK);
}

static int enter_micro(void **state) {
    void *unused = NULL;
    (void)state;
    return enter(&unused);
}

static int leave_micro(void **state) {
    void *unused = NULL;
    (void)state;
    return leave(&unused);
}

int main(void) {
    static struct CMUnitTest micro[GR_MICRO_MAX];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(released_configs_are_read_in_full),
        cmocka_unit_test(gates_and_attention_are_those_of_the_family),
        cmocka_unit_test(what_a_family_does_not_compute_is_refused_with_key_and_value),
        cmocka_unit_test(numbers_that_do_not_fit_each_other_are_refused),
        cmocka_unit_test(llama3_scaling_slows_slow_pairs_and_leaves_fast_ones),
        cmocka_unit_test_setup_teardown(biases_of_experts_in_fp8_are_refused, enter, leave),
    };
    size_t n = gr_micro_tests(needs_every_tensor_of_its_folder_by_name, micro);
    for (size_t i = 0; i < n; i++) micro[i].setup_func = enter_micro, micro[i].teardown_func = leave_micro;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    return failed + _cmocka_run_group_tests("micro", micro, n, NULL, NULL);
}
