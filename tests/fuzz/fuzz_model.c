/* Any bytes as a model's folder: config.json, then the JSON of its one shard, whose data are zeros, as many as it speaks of. What opens has only
 * tensors that can be read: the shard's last byte is the last of a page. */
#include "fuzz/scratch.h"

#include "base/json.h"
#include "base/memory.h"
#include "model/weights.h"

enum { DATA_MAX = 1 << 20, PAGE = 4096 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static int64_t data_bytes(const char *text, size_t n) {
    int64_t most = 0, end = 0;
    gr_json *header = NULL;
    if (gr_json_parse("shard", text, n, &header)) return 0;
    for (const gr_json_member *m = gr_json_first(header); m; m = gr_json_next(header, m)) {
        const gr_json *offsets = gr_json_get(gr_json_value(m), "data_offsets");
        if (gr_json_is_int(gr_json_at(offsets, 1), &end) && end > most) most = end;
    }
    gr_json_free(header);
    return most < DATA_MAX ? most : DATA_MAX;
}

/* Blanks behind the JSON make the file whole pages. */
static void put_shard(const char *text, size_t n) {
    static uint8_t file[8 + (1 << 16) + PAGE + DATA_MAX];
    if (n > 1 << 16) n = 1 << 16;
    const size_t n_data = (size_t)data_bytes(text, n), n_used = 8 + n + n_data, n_blank = (PAGE - n_used % PAGE) % PAGE;
    const uint64_t n_header = n + n_blank;
    memcpy(file, &n_header, 8);
    if (n) memcpy(file + 8, text, n);
    memset(file + 8 + n, ' ', n_blank);
    memset(file + 8 + n + n_blank, 0, n_data);
    scratch_put("model.safetensors", file, n_used + n_blank, true);
}

static void read_tensor(const grace_tensor *t) {
    if (!gr_tensor_exists(t)) return;
    void *values = malloc(gr_tensor_plain_bytes(t) + 1);
    GR_ASSERT(values && t->rows >= 0 && t->cols >= 0);
    gr_tensor_unpack(t, values);
    free(values);
}

static void read_mlp(const gr_mlp_tensors *t) {
    const grace_tensor *const all[] = {&t->gate, &t->up, &t->down, &t->gate_bias, &t->up_bias, &t->down_bias};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) read_tensor(all[i]);
}

static void read_layer(const gr_layer_tensors *t, bool moe, int32_t n_experts) {
    const grace_tensor *const all[] = {&t->attn_norm, &t->mlp_norm, &t->q, &t->k, &t->v, &t->o, &t->q_bias, &t->k_bias, &t->v_bias, &t->o_bias, &t->q_norm,
                                       &t->k_norm, &t->sinks, &t->q_a, &t->q_a_norm, &t->q_b, &t->kv_a, &t->kv_a_norm, &t->kv_b, &t->router,
                                       &t->router_bias, &t->correction, &t->shared_gate};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) read_tensor(all[i]);
    read_mlp(&t->dense), read_mlp(&t->shared);
    for (int32_t e = 0; moe && e < n_experts; e++) read_mlp(&t->experts[e]);
}

static void read_model(const grace_model *model) {
    const grace_model_info *info = grace_model_describe(model);
    const gr_model_tensors *tensors = gr_model_tensors_of(model);
    GR_ASSERT(info->n_params >= info->n_params_active && info->n_params_active > 0);
    read_tensor(&tensors->embed), read_tensor(&tensors->final_norm), read_tensor(&tensors->head);
    for (int32_t l = 0; l < info->n_layers; l++) read_layer(&tensors->layers[l], info->layers[l].moe >= 0, info->n_experts);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    const uint8_t *at = data, *end = data + n;
    grace_model *model = NULL;
    scratch_put("config.json", data, scratch_part(&at, end), true);
    put_shard((const char *)at, (size_t)(end - at));
    if (grace_model_open(scratch, &model)) GR_ASSERT(!model && grace_last_error()[0]);
    else read_model(model);
    grace_model_close(model);
    return 0;
}
