#include "grace/model.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/memory.h"
#include "model/family.h"

struct grace_model {
    gr_arena *arena;            /* tables of tensors, dir */
    gr_folder *folder;
    const char *dir;
    grace_model_info info;
    gr_model_tensors tensors;
    bool random;
    uint64_t seed;
};

/* ---- config.json and generation_config.json ---- */

static grace_status read_config(const char *dir, grace_model_info *info, const gr_family **family) {
    grace_status st = GRACE_OK;
    char path[PATH_MAX];
    gr_file file = {0};
    GR_TRY(gr_path_join(path, sizeof path, dir, "config.json"));
    GR_TRY(gr_file_map(path, &file));
    GR_TRY(gr_config_parse(path, file.data, file.n, info, family));
done:
    gr_file_unmap(&file);
    return st;
}

static grace_status read_generation(const char *dir, grace_model_info *info) {
    grace_status st = GRACE_OK;
    char path[PATH_MAX];
    gr_file file = {0};
    GR_TRY(gr_path_join(path, sizeof path, dir, "generation_config.json"));
    if (access(path, F_OK) != 0) goto done;         /* optional */
    GR_TRY(gr_file_map(path, &file));
    GR_TRY(gr_config_parse_generation(path, file.data, file.n, info));
done:
    gr_file_unmap(&file);
    return st;
}

/* ---- tensors ---- */

/* Layer by layer: a config that asks for far more than the folder has fails at the first missing tensor, before it costs memory. */
static grace_status resolve(grace_model *model, const gr_family *family) {
    grace_status st = GRACE_OK;
    const grace_model_info *info = &model->info;
    GR_TRY(gr_resolve_ends(model->folder, info, &model->tensors));
    GR_ARENA_ARRAY(model->arena, model->tensors.layers, info->n_layers);
    for (int32_t layer = 0; layer < info->n_layers; layer++) {
        gr_layer_tensors *tensors = &model->tensors.layers[layer];
        if (info->layers[layer].moe >= 0) GR_ARENA_ARRAY(model->arena, tensors->experts, info->n_experts);
        GR_TRY(family->resolve_layer(model->folder, info, layer, tensors));
    }
done:
    return st;
}

static int64_t n_values(const gr_mlp_tensors *t) {
    const grace_tensor *const all[] = {&t->gate, &t->up, &t->down, &t->gate_bias, &t->up_bias, &t->down_bias};
    int64_t n = 0;
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) n += gr_tensor_exists(all[i]) ? all[i]->rows * all[i]->cols : 0;
    return n;
}

static void count(const grace_model *model, grace_model_info *info) {
    info->n_params = info->n_params_active = gr_folder_n_needed(model->folder);
    info->n_bytes = gr_folder_n_bytes(model->folder);
    for (int32_t l = 0; l < info->n_layers; l++)        /* a token leaves most experts alone */
        if (info->layers[l].moe >= 0) info->n_params_active -= (info->n_experts - info->top_k) * n_values(&model->tensors.layers[l].experts[0]);
}

static int64_t bits_of(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

/* Numbers that came after the first family: they count only where one of them says something, so that older fingerprints stay. */
static uint64_t hash_later(const grace_model_info *info, uint64_t hash) {
    const bool turns_all = info->rope.dim == info->head_dim;
    const int64_t fields[] = {
        info->shared_width, info->dense_width, info->kv_rank, info->q_rank, info->kv_rank ? info->v_dim : 0, turns_all ? 0 : info->rope.dim,
        info->rope.neighbours, info->rope.stretched, info->rope.magnitude == 1 ? 0 : bits_of(info->rope.magnitude), info->gate.score, info->gate.n_groups,
        info->gate.n_groups ? info->gate.top_groups : 0, info->gate.scaling == 1 ? 0 : bits_of(info->gate.scaling), bits_of(info->swiglu_limit),
    };
    bool any = false;
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++) any = any || fields[i];
    for (int32_t l = 0; l < info->n_layers; l++) any = any || info->layers[l].window;
    if (!any) return hash;
    hash = gr_hash64(fields, sizeof fields, hash);
    hash = gr_hash64(info->layers, (size_t)info->n_layers * sizeof *info->layers, hash);
    return gr_hash64(info->rope.frequency, (size_t)(info->rope.dim / 2) * sizeof *info->rope.frequency, hash);
}

/* What routing depends on and is cheap to read: the architecture and the routers. Context length and eos ids may be edited freely.
 * Plans and traces carry the number, so neither the order of the fields nor the hash may change. */
static uint64_t fingerprint(const grace_model_info *info, const gr_model_tensors *tensors) {
    const int64_t fields[] = {
        info->n_layers,  info->n_moe_layers, info->hidden,       info->vocab,     info->n_heads,
        info->n_kv_heads, info->head_dim,    info->n_experts,    info->top_k,     info->expert_width,
        info->gate.norm_topk, info->tied_embeddings, bits_of(info->rms_eps), bits_of(info->rope_theta), bits_of(info->clip_qkv),
    };
    uint64_t hash = gr_hash64(info->family, sizeof info->family, 0);
    hash = hash_later(info, gr_hash64(fields, sizeof fields, hash));
    for (int32_t layer = 0; layer < info->n_layers; layer++) {
        const grace_tensor *const routers[] = {&tensors->layers[layer].router, &tensors->layers[layer].router_bias, &tensors->layers[layer].correction};
        for (size_t i = 0; i < sizeof routers / sizeof *routers; i++)
            if (routers[i]->random.on) hash = gr_hash64(&routers[i]->random.seed, sizeof routers[i]->random.seed, hash);
            else if (routers[i]->data) hash = gr_hash64(routers[i]->data, gr_tensor_plain_bytes(routers[i]), hash);
    }
    return hash;
}

/* ---- public ---- */

/* seed NULL: the folder's weights */
static grace_status open_model(const char *dir, const uint64_t *seed, grace_model **out) {
    grace_status st = GRACE_OK;
    const gr_family *family = NULL;
    grace_model *model = NULL;
    char *copy = NULL;
    GR_CALLOC(model, 1);
    if (seed) model->random = true, model->seed = *seed;
    GR_CHECK((model->arena = gr_arena_new()), GRACE_ERR_MEMORY, "no memory to open %s", dir);
    GR_ARENA_ARRAY(model->arena, copy, strlen(dir) + 1);
    model->dir = strcpy(copy, dir);
    GR_TRY(read_config(dir, &model->info, &family));
    GR_TRY(read_generation(dir, &model->info));
    GR_TRY(seed ? gr_folder_open_random(dir, *seed, &model->folder) : gr_folder_open(dir, &model->folder));
    GR_TRY(resolve(model, family));
    count(model, &model->info);
    model->info.fingerprint = fingerprint(&model->info, &model->tensors);
    gr_folder_log_unneeded(model->folder);
    *out = model;
    model = NULL;
done:
    grace_model_close(model);
    return st;
}

grace_status grace_model_open(const char *dir, grace_model **out) { return open_model(dir, NULL, out); }
grace_status grace_model_open_random(const char *dir, uint64_t seed, grace_model **out) { return open_model(dir, &seed, out); }

bool grace_model_is_random(const grace_model *model, uint64_t *seed) {
    if (model->random) *seed = model->seed;
    return model->random;
}

void grace_model_close(grace_model *model) {
    if (!model) return;
    gr_folder_close(model->folder);
    gr_arena_free(model->arena);
    free(model);
}

const grace_model_info *grace_model_describe(const grace_model *model) { return &model->info; }

int64_t grace_model_kv_token_bytes(const grace_model_info *info) {
    int64_t layer = info->kv_rank ? info->kv_rank + info->rope.dim : (int64_t)info->n_kv_heads * (info->head_dim + info->v_dim);
    return info->n_layers * layer * (int64_t)sizeof(float);
}

void grace_model_layer_ids(const grace_model_info *info, int32_t *ids) {
    for (int32_t l = 0; l < info->n_layers; l++)
        if (info->layers[l].moe >= 0) ids[info->layers[l].moe] = l;
}

const char *grace_model_dir(const grace_model *model) { return model->dir; }

grace_status grace_model_tensor(const grace_model *model, const char *name, grace_tensor *out) {
    return gr_folder_tensor(model->folder, name, out);
}

const gr_model_tensors *gr_model_tensors_of(const grace_model *model) { return &model->tensors; }
