#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "model/folders.h"
#include "model/weights.h"

static const char tiny_olmoe[] = GRACE_SOURCE_DIR "/models/tiny-olmoe";

static grace_model *open_or_fail(const char *path) {
    grace_model *model = NULL;
    if (grace_model_open(path, &model)) fail_msg("%s", grace_last_error());
    return model;
}

static grace_model *write_and_open(const gr_tiny_model_options *opt) {
    assert_int_equal(gr_tiny_model_write(dir, opt), 0);
    return open_or_fail(dir);
}

static grace_status open_and_close(const char *path) {
    grace_model *model = NULL;
    grace_status st = grace_model_open(path, &model);
    assert_true((model != NULL) == (st == GRACE_OK));
    grace_model_close(model);
    return st;
}

static float value_at(const grace_tensor *t, int64_t i) {
    uint16_t half;
    uint32_t wide;
    float value;
    if (t->dtype == GRACE_F32) return ((const float *)t->data)[i];
    memcpy(&half, (const char *)t->data + 2 * i, 2);
    if (t->dtype == GRACE_BF16) {
        wide = (uint32_t)half << 16;
        memcpy(&value, &wide, 4);
        return value;
    }
    value = ldexpf((float)((half & 0x3FF) | (half & 0x7C00 ? 0x400 : 0)), (half >> 10 & 31 ? half >> 10 & 31 : 1) - 25);
    return half & 0x8000 ? -value : value;
}

/* ---- the checkpoint of this repository ---- */

/* Figures of models/tiny-olmoe/train.json (parameters), its config.json and its index (total_size). Active: 56 of 64 experts of each of
 * 8 layers stay idle, 3 matrices of 48 x 192 each. */
static void tiny_olmoe_is_described_as_it_was_trained(void **state) {
    (void)state;
    grace_model *model = open_or_fail(tiny_olmoe);
    const grace_model_info *info = grace_model_describe(model);
    assert_string_equal(grace_model_dir(model), tiny_olmoe);
    assert_string_equal(info->family, "olmoe");
    const int64_t found[] = {info->n_layers, info->n_moe_layers, info->hidden, info->vocab, info->n_heads, info->n_kv_heads, info->head_dim,
                             info->n_experts, info->top_k, info->expert_width, info->context_max, info->gate.norm_topk, info->tied_embeddings, info->n_eos,
                             info->eos_ids[0], info->n_params, info->n_params_active, info->n_bytes};
    const int64_t expected[] = {8, 8, 192, 4096, 6, 6, 32, 64, 8, 48, 2048, 0, 0, 1, 0, 17012928, 17012928 - 8 * 56 * 3 * 48 * 192, 34025856};
    for (size_t i = 0; i < sizeof found / sizeof *found; i++) assert_int_equal(found[i], expected[i]);
    assert_true(info->rms_eps == 1e-5f && info->rope_theta == 1e4f && info->clip_qkv == 0.0f);
    grace_model_close(model);
}

/* Plans and traces in the wild carry this number. */
static void the_fingerprint_of_tiny_olmoe_does_not_change(void **state) {
    (void)state;
    grace_model *model = open_or_fail(tiny_olmoe);
    assert_true(grace_model_describe(model)->fingerprint == 0x7e1bf7104427954fu);
    grace_model_close(model);
}

/* First four bf16 words, read with Python's struct and json from the offsets of each shard's header. */
static void tensors_of_tiny_olmoe_begin_with_the_bytes_of_their_shard(void **state) {
    (void)state;
    static const struct { const char *name; int rows, cols; uint16_t first[4]; } cases[] = {
        {"model.embed_tokens.weight", 4096, 192, {0x3d82, 0xbe2e, 0xbcb8, 0xbc07}},
        {"model.layers.3.mlp.gate.weight", 64, 192, {0xbd7f, 0xbda4, 0xbc29, 0x3c0a}},
        {"model.layers.2.mlp.experts.34.up_proj.weight", 48, 192, {0xbbe5, 0xbb21, 0x3dc4, 0xbd13}},
        {"model.layers.4.mlp.experts.63.down_proj.weight", 192, 48, {0xbd3b, 0xbd26, 0x3d34, 0x3deb}},
        {"model.layers.7.self_attn.v_proj.weight", 192, 192, {0x3b8c, 0x3d5a, 0x3c91, 0x3dc1}},
        {"model.norm.weight", 1, 192, {0x4005, 0x400e, 0x400b, 0x400d}},
        {"lm_head.weight", 4096, 192, {0xbdc7, 0x3d93, 0x3de6, 0x3d07}},
    };
    grace_model *model = open_or_fail(tiny_olmoe);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        grace_tensor t;
        assert_int_equal(grace_model_tensor(model, cases[i].name, &t), GRACE_OK);
        assert_true(t.rows == cases[i].rows && t.cols == cases[i].cols && t.dtype == GRACE_BF16);
        assert_memory_equal(t.data, cases[i].first, sizeof cases[i].first);
    }
    grace_tensor none = {.rows = 5};
    assert_fails(grace_model_tensor(model, "model.layers.8.mlp.gate.weight", &none), GRACE_ERR_MISMATCH, "model.layers.8.mlp.gate.weight");
    assert_int_equal(none.rows, 5);
    grace_model_close(model);
}

/* Resident kB of all mappings whose file name has this part. */
static long resident_kb(const char *part) {
    char line[512];
    bool ours = false;
    long sum = 0, kb;
    FILE *maps = fopen("/proc/self/smaps", "r");
    assert_non_null(maps);
    while (fgets(line, sizeof line, maps)) {
        if (strchr(line, '-') && strchr(line, ' ') && strspn(line, "0123456789abcdef") > 4) ours = strstr(line, part) != NULL;
        else if (ours && sscanf(line, "Rss: %ld", &kb) == 1) sum += kb;
    }
    fclose(maps);
    return sum;
}

/* Three headers of 60 to 70 kB, eight routers of 24 kB, and what the kernel maps around a fault (64 kB): under 2 of 34 MB. */
static void opening_reads_headers_and_routers_but_no_experts(void **state) {
    (void)state;
    grace_model *model = open_or_fail(tiny_olmoe);
    long kb = resident_kb("tiny-olmoe/model-0");
    assert_true(kb > 0);
    if (kb > 2048) fail_msg("%ld kB of the shards are resident, expected at most 2048", kb);
    grace_model_close(model);
}

/* ---- small models made here ---- */

static void shards_and_a_single_file_are_the_same_model(void **state) {
    (void)state;
    gr_tiny_model_options opt = gr_tiny_model_defaults();
    grace_model *single = write_and_open(&opt);
    char other[] = "/tmp/grace-model-XXXXXX";
    opt.n_shards = 4;
    assert_non_null(mkdtemp(other));
    assert_int_equal(gr_tiny_model_write(other, &opt), 0);
    grace_model *shards = open_or_fail(other);
    const gr_mlp_tensors *a = gr_model_tensors_of(single)->layers[1].experts, *b = gr_model_tensors_of(shards)->layers[1].experts;
    assert_memory_equal(grace_model_describe(single), grace_model_describe(shards), sizeof(grace_model_info));
    for (int e = 0; e < opt.n_experts; e++) assert_memory_equal(a[e].down.data, b[e].down.data, (size_t)(2 * opt.hidden * opt.width));
    grace_model_close(single);
    grace_model_close(shards);
    gr_tiny_model_remove(other);
}

/* Rounding to 8 or 11 significant bits: half a unit in the last place is at most 2^-8 or 2^-11 of the value; under f16's normal range 2^-25. */
static void f32_f16_and_bf16_hold_the_same_values_up_to_rounding(void **state) {
    (void)state;
    const struct { grace_dtype dtype; float relative, absolute; int64_t size; } cases[] = {
        {GRACE_F32, 0, 0, 4}, {GRACE_BF16, 0x1p-8f, 0, 2}, {GRACE_F16, 0x1p-11f, 0x1p-25f, 2}};
    gr_tiny_model_options opt = gr_tiny_model_defaults();
    gr_tiny_tensor embed = {.rows = opt.vocab, .cols = opt.hidden, .low = -1.7f, .high = 1.7f};
    gr_buf exact = {0};
    assert_int_equal(gr_tiny_append_values(&exact, &embed, GRACE_F32, opt.seed * 1000003u), GRACE_OK);
    for (size_t c = 0; c < 3; c++) {
        opt.dtype = cases[c].dtype;
        grace_model *model = write_and_open(&opt);
        const grace_tensor *t = &gr_model_tensors_of(model)->embed;
        assert_int_equal(t->dtype, cases[c].dtype);
        assert_int_equal(grace_model_describe(model)->n_bytes, grace_model_describe(model)->n_params * cases[c].size);
        for (int64_t i = 0; i < t->rows * t->cols; i++) {
            float value = ((const float *)(const void *)exact.data)[i];
            assert_true(fabsf(value_at(t, i) - value) <= cases[c].relative * fabsf(value) + cases[c].absolute);
        }
        grace_model_close(model);
    }
    gr_buf_free(&exact);
}

static int64_t count_of(const grace_tensor *t) { return t->data ? t->rows * t->cols : 0; }

static int64_t count_layer(const gr_layer_tensors *t, int n_experts) {
    int64_t n = count_of(&t->attn_norm) + count_of(&t->mlp_norm) + count_of(&t->q) + count_of(&t->k) + count_of(&t->v) + count_of(&t->o) +
                count_of(&t->q_norm) + count_of(&t->k_norm) + count_of(&t->router);
    for (int e = 0; e < n_experts; e++) n += count_of(&t->experts[e].gate) + count_of(&t->experts[e].up) + count_of(&t->experts[e].down);
    return n;
}

static void parameters_are_those_of_the_tensors_and_active_ones_of_top_k_experts(void **state) {
    (void)state;
    for (int tied = 0; tied < 2; tied++) {
        gr_tiny_model_options opt = gr_tiny_model_defaults();
        opt.tied = tied, opt.n_layers = 3, opt.n_experts = 5, opt.top_k = 2, opt.n_kv_heads = 1;
        grace_model *model = write_and_open(&opt);
        const gr_model_tensors *t = gr_model_tensors_of(model);
        int64_t all = count_of(&t->embed) + count_of(&t->final_norm) + (tied ? 0 : count_of(&t->head)), active = all;
        for (int l = 0; l < opt.n_layers; l++) {
            all += count_layer(&t->layers[l], opt.n_experts);
            active += count_layer(&t->layers[l], opt.top_k);
        }
        assert_int_equal(grace_model_describe(model)->n_params, all);
        assert_int_equal(grace_model_describe(model)->n_params_active, active);
        assert_int_equal(grace_model_describe(model)->n_bytes, 2 * all);
        grace_model_close(model);
    }
}

static uint64_t fingerprint_of_dir(void) {
    grace_model *model = open_or_fail(dir);
    uint64_t fingerprint = grace_model_describe(model)->fingerprint;
    grace_model_close(model);
    return fingerprint;
}

/* Change one bit of a tensor on disk and change it back. */
static uint64_t fingerprint_with_flipped(const char *name) {
    grace_model *model = open_or_fail(dir);
    gr_file file;
    grace_tensor t, first;
    assert_int_equal(grace_model_tensor(model, name, &t), GRACE_OK);
    assert_int_equal(grace_model_tensor(model, "model.embed_tokens.weight", &first), GRACE_OK);      /* the data begin with it */
    size_t from_first = (size_t)((const char *)t.data - (const char *)first.data);
    grace_model_close(model);
    assert_int_equal(gr_file_map(path_of("model.safetensors"), &file), GRACE_OK);
    uint64_t n_header, n = file.n;
    memcpy(&n_header, file.data, 8);
    uint8_t *copy = malloc(n);
    assert_non_null(copy);
    memcpy(copy, file.data, n);
    gr_file_unmap(&file);
    copy[8 + n_header + from_first] ^= 1;
    write_bytes("model.safetensors", copy, n);
    uint64_t fingerprint = fingerprint_of_dir();
    copy[8 + n_header + from_first] ^= 1;
    write_bytes("model.safetensors", copy, n);
    free(copy);
    return fingerprint;
}

static void the_fingerprint_follows_architecture_and_routers_and_nothing_else(void **state) {
    (void)state;
    gr_tiny_model_options opt = gr_tiny_model_defaults();
    assert_int_equal(gr_tiny_model_write(dir, &opt), 0);
    uint64_t before = fingerprint_of_dir();
    const struct { const char *from, *to; bool same; } cases[] = {
        {"\"num_experts_per_tok\": 2", "\"num_experts_per_tok\": 3", false}, {"\"norm_topk_prob\": false", "\"norm_topk_prob\": true", false},
        {"\"rope_theta\": 10000.0", "\"rope_theta\": 10001.0", false},       {"\"clip_qkv\": null", "\"clip_qkv\": 1.0", false},
        {"\"rms_norm_eps\": 1e-05", "\"rms_norm_eps\": 1e-06", false},       {"\"eos_token_id\": 0", "\"eos_token_id\": 1", true},
        {"\"max_position_embeddings\": 128", "\"max_position_embeddings\": 256", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        edit("config.json", cases[i].from, cases[i].to);
        assert_int_equal(fingerprint_of_dir() == before, cases[i].same);
        edit("config.json", cases[i].to, cases[i].from);
    }
    assert_true(fingerprint_with_flipped("model.layers.0.mlp.gate.weight") != before);
    assert_true(fingerprint_with_flipped("model.layers.1.mlp.gate.weight") != before);
    assert_true(fingerprint_with_flipped("model.layers.1.mlp.experts.3.up_proj.weight") == before);
    assert_true(fingerprint_of_dir() == before);
}

static void end_of_text_ids_come_from_both_files_and_the_second_may_be_missing(void **state) {
    (void)state;
    gr_tiny_model_options opt = gr_tiny_model_defaults();
    assert_int_equal(gr_tiny_model_write(dir, &opt), 0);
    write_text("generation_config.json", "{\"eos_token_id\": [2, 0], \"do_sample\": true}");
    grace_model *model = open_or_fail(dir);
    assert_int_equal(grace_model_describe(model)->n_eos, 2);
    assert_int_equal(grace_model_describe(model)->eos_ids[1], 2);
    grace_model_close(model);
    write_text("generation_config.json", "{\"eos_token_id\": 64}");
    assert_fails(open_and_close(dir), GRACE_ERR_FORMAT, "generation_config.json", "0 to 63", "64");
    write_text("generation_config.json", "{");
    assert_fails(open_and_close(dir), GRACE_ERR_FORMAT, "generation_config.json", "no valid JSON");
    unlink(path_of("generation_config.json"));
    model = open_or_fail(dir);
    assert_int_equal(grace_model_describe(model)->n_eos, 1);
    grace_model_close(model);
}

static void tensors_beyond_the_network_are_left_alone_and_not_counted(void **state) {
    (void)state;
    gr_tiny_model_options opt = gr_tiny_model_defaults();
    grace_model *model = write_and_open(&opt);
    int64_t n_params = grace_model_describe(model)->n_params, n_bytes = grace_model_describe(model)->n_bytes;
    grace_model_close(model);
    edit("config.json", "\"num_hidden_layers\": 2", "\"num_hidden_layers\": 1");
    model = open_or_fail(dir);
    const grace_model_info *info = grace_model_describe(model);
    assert_int_equal(info->n_params, n_params - count_layer(gr_model_tensors_of(model)->layers, opt.n_experts));
    assert_int_equal(info->n_bytes, n_bytes);
    grace_model_close(model);
}

static void a_folder_that_is_no_model_says_what_is_missing(void **state) {
    (void)state;
    gr_tiny_model_options opt = gr_tiny_model_defaults();
    char long_dir[5000];
    memset(long_dir, 'd', sizeof long_dir - 1);
    long_dir[sizeof long_dir - 1] = 0;
    assert_fails(open_and_close("/nowhere/at/all"), GRACE_ERR_IO, "/nowhere/at/all/config.json", "No such file");
    assert_fails(open_and_close(long_dir), GRACE_ERR_LIMIT, "dddd");
    assert_fails(open_and_close(dir), GRACE_ERR_IO, "config.json");
    assert_int_equal(gr_tiny_model_write(dir, &opt), 0);
    unlink(path_of("model.safetensors"));
    assert_fails(open_and_close(dir), GRACE_ERR_IO, dir, "found neither");
    grace_model_close(NULL);
}

static void a_dtype_the_engine_cannot_compute_with_is_refused_by_name(void **state) {
    (void)state;
    gr_tiny_model_options opt = gr_tiny_model_defaults();
    assert_int_equal(gr_tiny_model_write(dir, &opt), 0);
    edit("model.safetensors", "\"model.layers.1.mlp.experts.3.up_proj.weight\":{\"dtype\":\"BF16\"",
         "\"model.layers.1.mlp.experts.3.up_proj.weight\":{\"dtype\":\"I16\"");
    assert_fails(open_and_close(dir), GRACE_ERR_UNSUPPORTED, "model.layers.1.mlp.experts.3.up_proj.weight", "I16", "BF16");
}

/* The fingerprint reads a router as it lies in the file: twice as many bytes as fp8 has ended behind the file. */
static void a_router_in_fp8_is_refused(void **state) {
    (void)state;
    gr_tiny_model_options opt = gr_tiny_model_defaults();
    assert_int_equal(gr_tiny_model_write(dir, &opt), 0);
    make_fp8("model.safetensors", "model.layers.1.self_attn.q_proj.weight", opt.hidden, opt.hidden);
    assert_int_equal(open_and_close(dir), GRACE_OK);
    make_fp8("model.safetensors", "model.layers.1.mlp.gate.weight", opt.n_experts, opt.hidden);
    assert_fails(open_and_close(dir), GRACE_ERR_UNSUPPORTED, "'model.layers.1.mlp.gate.weight' has dtype F8_E4M3, expected F32, BF16 or F16");
}

#define IN_DIR(test) cmocka_unit_test_setup_teardown(test, enter, leave)

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tiny_olmoe_is_described_as_it_was_trained),
        cmocka_unit_test(the_fingerprint_of_tiny_olmoe_does_not_change),
        cmocka_unit_test(opening_reads_headers_and_routers_but_no_experts),
        cmocka_unit_test(tensors_of_tiny_olmoe_begin_with_the_bytes_of_their_shard),
        IN_DIR(shards_and_a_single_file_are_the_same_model),
        IN_DIR(f32_f16_and_bf16_hold_the_same_values_up_to_rounding),
        IN_DIR(parameters_are_those_of_the_tensors_and_active_ones_of_top_k_experts),
        IN_DIR(the_fingerprint_follows_architecture_and_routers_and_nothing_else),
        IN_DIR(end_of_text_ids_come_from_both_files_and_the_second_may_be_missing),
        IN_DIR(tensors_beyond_the_network_are_left_alone_and_not_counted),
        IN_DIR(a_folder_that_is_no_model_says_what_is_missing),
        IN_DIR(a_dtype_the_engine_cannot_compute_with_is_refused_by_name),
        IN_DIR(a_router_in_fp8_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
