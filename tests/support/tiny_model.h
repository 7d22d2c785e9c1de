/* A small random OLMoE checkpoint on disk, for tests that need a model of a chosen shape.
 *
 *     char dir[] = "/tmp/grace-XXXXXX";
 *     gr_tiny_model_options opt = gr_tiny_model_defaults();
 *     opt.n_experts = 16;
 *     assert_int_equal(gr_tiny_model_write(mkdtemp(dir), &opt), 0);
 *     ... grace_model_open(dir, &model) ...
 *     gr_tiny_model_remove(dir);
 *
 * Writes config.json, generation_config.json and model.safetensors (or, with n_shards > 1, the index and its shards); no tokenizer.
 * A value depends on the seed, its tensor and its place only: two dtypes of one seed differ by rounding, two shardings not at all.
 * Scales keep activations near 1: projections are uniform with variance 1 / fan-in, norms are 0.9 to 1.1, the router's logits have
 * a standard deviation of about 2, so that experts are chosen with clear margins and uneven loads. */
#ifndef GR_TESTS_TINY_MODEL_H
#define GR_TESTS_TINY_MODEL_H
#include <dirent.h>
#include <math.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/memory.h"
#include "base/rng.h"
#include "grace/model.h"

typedef struct gr_tiny_model_options {
    int n_layers, n_experts, top_k;
    int hidden, width;              /* of the residual stream, of an expert */
    int n_heads, n_kv_heads;        /* head_dim = hidden / n_heads, must be even; n_kv_heads divides n_heads */
    int vocab, context;
    int n_shards;                   /* 1: model.safetensors without an index */
    grace_dtype dtype;              /* of all tensors */
    bool tied, norm_topk;
    float clip_qkv;                 /* 0: none */
    uint64_t seed;
} gr_tiny_model_options;

static inline gr_tiny_model_options gr_tiny_model_defaults(void) {
    return (gr_tiny_model_options){.n_layers = 2, .n_experts = 8, .top_k = 2, .hidden = 16, .width = 8, .n_heads = 2, .n_kv_heads = 2,
                                   .vocab = 64, .context = 128, .n_shards = 1, .dtype = GRACE_BF16, .seed = 1};
}

/* ---- values ---- */

static inline uint16_t gr_tiny_bf16(float value) {          /* round to nearest even; the value is finite */
    uint32_t bits;
    memcpy(&bits, &value, 4);
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1)) >> 16);
}

static inline uint16_t gr_tiny_f16(float value) {           /* round to nearest even; |value| < 65504 */
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint32_t sign = bits >> 16 & 0x8000u;
    float magnitude = fabsf(value);
    if (magnitude < 0x1p-14f) return (uint16_t)(sign | (uint32_t)lrintf(magnitude * 0x1p24f));     /* subnormal */
    bits = (bits & 0x7FFFFFFFu) - (112u << 23);
    return (uint16_t)(sign | (bits + 0xFFFu + (bits >> 13 & 1)) >> 13);
}

typedef struct gr_tiny_tensor { char name[96]; int rows, cols; float low, high; } gr_tiny_tensor;      /* rows 0: a vector */

static inline int64_t gr_tiny_count(const gr_tiny_tensor *t) { return (int64_t)(t->rows ? t->rows : 1) * t->cols; }

static inline grace_status gr_tiny_append_values(gr_buf *out, const gr_tiny_tensor *t, grace_dtype dtype, uint64_t seed) {
    grace_status st = GRACE_OK;
    gr_rng rng = gr_rng_seed(seed);
    for (int64_t i = 0, n = gr_tiny_count(t); i < n && !st; i++) {
        float value = t->low + (t->high - t->low) * (float)gr_rng_uniform(&rng);
        uint16_t half = dtype == GRACE_BF16 ? gr_tiny_bf16(value) : gr_tiny_f16(value);
        st = dtype == GRACE_F32 ? gr_buf_append(out, &value, 4) : gr_buf_append(out, &half, 2);
    }
    return st;
}

/* ---- the tensors of the network, in the hub's names ---- */

typedef struct gr_tiny_list { gr_tiny_tensor *tensors; int n; } gr_tiny_list;

static inline void gr_tiny_add(gr_tiny_list *list, int rows, int cols, float low, float high, const char *prefix, const char *name) {
    gr_tiny_tensor *t = &list->tensors[list->n++];
    snprintf(t->name, sizeof t->name, "%s%s", prefix, name);
    t->rows = rows, t->cols = cols, t->low = low, t->high = high;
}

static inline void gr_tiny_matrix(gr_tiny_list *list, int rows, int cols, float gain, const char *prefix, const char *name) {
    float bound = gain * sqrtf(3.0f / (float)cols);
    gr_tiny_add(list, rows, cols, -bound, bound, prefix, name);
}

static inline void gr_tiny_norm(gr_tiny_list *list, int n, const char *prefix, const char *name) {
    gr_tiny_add(list, 0, n, 0.9f, 1.1f, prefix, name);
}

static inline void gr_tiny_layer(gr_tiny_list *list, const gr_tiny_model_options *opt, int layer) {
    int q = opt->hidden, kv = opt->hidden / opt->n_heads * opt->n_kv_heads;
    char at[64];
    snprintf(at, sizeof at, "model.layers.%d.", layer);
    gr_tiny_norm(list, opt->hidden, at, "input_layernorm.weight");
    gr_tiny_norm(list, opt->hidden, at, "post_attention_layernorm.weight");
    gr_tiny_norm(list, q, at, "self_attn.q_norm.weight");
    gr_tiny_norm(list, kv, at, "self_attn.k_norm.weight");
    gr_tiny_matrix(list, q, opt->hidden, 1, at, "self_attn.q_proj.weight");
    gr_tiny_matrix(list, kv, opt->hidden, 1, at, "self_attn.k_proj.weight");
    gr_tiny_matrix(list, kv, opt->hidden, 1, at, "self_attn.v_proj.weight");
    gr_tiny_matrix(list, opt->hidden, q, 1, at, "self_attn.o_proj.weight");
    gr_tiny_matrix(list, opt->n_experts, opt->hidden, 2, at, "mlp.gate.weight");
    for (int e = 0; e < opt->n_experts; e++) {
        snprintf(at, sizeof at, "model.layers.%d.mlp.experts.%d.", layer, e);
        gr_tiny_matrix(list, opt->width, opt->hidden, 1, at, "gate_proj.weight");
        gr_tiny_matrix(list, opt->width, opt->hidden, 1, at, "up_proj.weight");
        gr_tiny_matrix(list, opt->hidden, opt->width, 1, at, "down_proj.weight");
    }
}

static inline void gr_tiny_network(gr_tiny_list *list, const gr_tiny_model_options *opt) {
    gr_tiny_add(list, opt->vocab, opt->hidden, -1.7f, 1.7f, "model.", "embed_tokens.weight");
    for (int layer = 0; layer < opt->n_layers; layer++) gr_tiny_layer(list, opt, layer);
    gr_tiny_norm(list, opt->hidden, "model.", "norm.weight");
    if (!opt->tied) gr_tiny_matrix(list, opt->vocab, opt->hidden, 2, "lm_head", ".weight");
}

/* ---- files ---- */

static inline int gr_tiny_write_file(const char *dir, const char *name, const gr_buf *content) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *file = fopen(path, "wb");
    if (!file) return -1;
    size_t n = fwrite(content->data, 1, content->n, file);
    return fclose(file) == 0 && n == content->n ? 0 : -1;
}

static inline int gr_tiny_write_shard(const char *dir, const char *name, const gr_tiny_list *list, int begin, int end,
                                      const gr_tiny_model_options *opt) {
    static const char *const dtypes[] = {"F32", "BF16", "F16"};
    gr_buf header = {0}, data = {0}, file = {0};
    grace_status st = gr_buf_printf(&header, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = begin; i < end && !st; i++) {
        const gr_tiny_tensor *t = &list->tensors[i];
        size_t from = data.n;
        char shape[48];
        snprintf(shape, sizeof shape, t->rows ? "%d,%d" : "%.0d%d", t->rows, t->cols);      /* %.0d writes nothing for 0 */
        st = gr_tiny_append_values(&data, t, opt->dtype, opt->seed * 1000003u + (uint64_t)i);
        if (!st) st = gr_buf_printf(&header, ",\"%s\":{\"dtype\":\"%s\",\"shape\":[%s],\"data_offsets\":[%zu,%zu]}", t->name,
                                    dtypes[opt->dtype], shape, from, data.n);
    }
    if (!st) st = gr_buf_append(&header, "}", 1);
    while (!st && header.n % 8) st = gr_buf_append(&header, " ", 1);
    uint64_t n_header = header.n;
    if (!st) st = gr_buf_append(&file, &n_header, 8);
    if (!st) st = gr_buf_append(&file, header.data, header.n);
    if (!st) st = gr_buf_append(&file, data.data, data.n);
    int failed = st ? -1 : gr_tiny_write_file(dir, name, &file);
    gr_buf_free(&header);
    gr_buf_free(&data);
    gr_buf_free(&file);
    return failed;
}

static inline int gr_tiny_write_config(const char *dir, const gr_tiny_model_options *opt) {
    gr_buf text = {0};
    char clip[32] = "null";
    if (opt->clip_qkv > 0) snprintf(clip, sizeof clip, "%.6f", (double)opt->clip_qkv);
    int failed = gr_buf_printf(&text,
        "{\n  \"architectures\": [\"OlmoeForCausalLM\"],\n  \"attention_bias\": false,\n  \"clip_qkv\": %s,\n  \"eos_token_id\": 0,\n"
        "  \"hidden_act\": \"silu\",\n  \"hidden_size\": %d,\n  \"intermediate_size\": %d,\n  \"max_position_embeddings\": %d,\n"
        "  \"model_type\": \"olmoe\",\n  \"norm_topk_prob\": %s,\n  \"num_attention_heads\": %d,\n  \"num_experts\": %d,\n"
        "  \"num_experts_per_tok\": %d,\n  \"num_hidden_layers\": %d,\n  \"num_key_value_heads\": %d,\n  \"rms_norm_eps\": 1e-05,\n"
        "  \"rope_scaling\": null,\n  \"rope_theta\": 10000.0,\n  \"tie_word_embeddings\": %s,\n  \"vocab_size\": %d\n}\n",
        clip, opt->hidden, opt->width, opt->context, opt->norm_topk ? "true" : "false", opt->n_heads, opt->n_experts, opt->top_k,
        opt->n_layers, opt->n_kv_heads, opt->tied ? "true" : "false", opt->vocab) != GRACE_OK;
    if (!failed) failed = gr_tiny_write_file(dir, "config.json", &text);
    text.n = 0;
    if (!failed) failed = gr_buf_printf(&text, "{\"eos_token_id\": 0}\n") != GRACE_OK || gr_tiny_write_file(dir, "generation_config.json", &text);
    gr_buf_free(&text);
    return failed ? -1 : 0;
}

static inline int gr_tiny_write_shards(const char *dir, const gr_tiny_list *list, const gr_tiny_model_options *opt) {
    gr_buf index = {0};
    int failed = gr_buf_printf(&index, "{\"metadata\": {}, \"weight_map\": {") != GRACE_OK;
    for (int s = 0; s < opt->n_shards && !failed; s++) {
        int begin = list->n * s / opt->n_shards, end = list->n * (s + 1) / opt->n_shards;
        char name[64];
        snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", s + 1, opt->n_shards);
        failed = gr_tiny_write_shard(dir, name, list, begin, end, opt);
        for (int i = begin; i < end && !failed; i++)
            failed = gr_buf_printf(&index, "%s\n  \"%s\": \"%s\"", i ? "," : "", list->tensors[i].name, name) != GRACE_OK;
    }
    if (!failed) failed = gr_buf_printf(&index, "}}\n") != GRACE_OK || gr_tiny_write_file(dir, "model.safetensors.index.json", &index);
    gr_buf_free(&index);
    return failed ? -1 : 0;
}

/* Write the checkpoint into DIR, which exists. 0, or -1 when a file could not be written or memory was short. */
static inline int gr_tiny_model_write(const char *dir, const gr_tiny_model_options *opt) {
    int n_max = 3 + opt->n_layers * (9 + 3 * opt->n_experts);
    gr_tiny_list list = {calloc((size_t)n_max, sizeof *list.tensors), 0};
    if (!list.tensors) return -1;
    gr_tiny_network(&list, opt);
    int failed = gr_tiny_write_config(dir, opt);
    if (!failed && opt->n_shards == 1) failed = gr_tiny_write_shard(dir, "model.safetensors", &list, 0, list.n, opt);
    if (!failed && opt->n_shards > 1) failed = gr_tiny_write_shards(dir, &list, opt);
    free(list.tensors);
    return failed;
}

/* Delete DIR and the files in it (whatever a test has put there; no subdirectories). */
static inline void gr_tiny_model_remove(const char *dir) {
    DIR *d = opendir(dir);
    if (!d) return;
    for (struct dirent *entry; (entry = readdir(d));) {
        char path[4096];
        snprintf(path, sizeof path, "%s/%s", dir, entry->d_name);
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) unlink(path);
    }
    closedir(d);
    rmdir(dir);
}

#endif
