#include "interop/meta.h"

#include <limits.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "interop/interop.h"
#include "plan/layer_ids.h"
#include "plan/trace.h"

static grace_status beside(const char *path, const char *name, char *out, size_t size) {
    grace_status st = GRACE_OK;
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 1;
    GR_CHECK(n < PATH_MAX, GRACE_ERR_LIMIT, "%s: path is longer than %d bytes", path, PATH_MAX);
    char folder[PATH_MAX] = ".";
    if (slash) memcpy(folder, path, n), folder[n] = 0;
    GR_TRY(gr_path_join(out, size, folder, name));
done:
    return st;
}

grace_status gr_meta_load(const char *path, gr_meta *out) {
    grace_status st = GRACE_OK;
    char file[PATH_MAX];
    gr_json *json = NULL;
    const char *model = NULL;
    int64_t layers = 0, experts = 0, top_k = 0;
    gr_meta meta = {.found = true, .info = {.n_ranks = 1, .n_nodes = 1}};
    GR_TRY(beside(path, "meta.json", file, sizeof file));
    if (access(file, F_OK) != 0) {
        *out = (gr_meta){0};
        goto done;
    }
    GR_TRY(gr_json_load(file, &json));
    GR_TRY(gr_json_string_or(json, file, "model", "", &model));
    GR_TRY(gr_json_int(json, file, "layers", 1, GR_TRACE_LAYERS_MAX, &layers));
    GR_TRY(gr_json_int(json, file, "experts", 1, GR_TRACE_EXPERTS_MAX, &experts));
    GR_TRY(gr_json_int(json, file, "top_k", 1, experts < GR_TRACE_TOP_K_MAX ? experts : GR_TRACE_TOP_K_MAX, &top_k));
    gr_trace_set_model(&meta.info, model);
    meta.info.n_layers = (int32_t)layers, meta.info.n_experts = (int32_t)experts, meta.info.top_k = (int32_t)top_k;
    GR_TRY(gr_layer_ids_read_meta(json, file, &meta.info));
    *out = meta;
done:
    gr_json_free(json);
    return st;
}

grace_status gr_meta_check(const gr_meta *meta, const char *path, const gr_loads *loads) {
    grace_status st = GRACE_OK;
    GR_CHECK(!meta->found || (meta->info.n_layers == loads->n_layers && meta->info.n_experts == loads->n_experts), GRACE_ERR_FORMAT,
             "%s: %d layers of %d experts, but meta.json says %d of %d", path, loads->n_layers, loads->n_experts, meta->info.n_layers, meta->info.n_experts);
done:
    return st;
}

grace_status gr_loads_load(const char *path, gr_loads *out) {
    gr_file file;
    grace_status st = gr_file_map(path, &file);
    if (st) return st;
    st = gr_loads_parse_csv(path, file.data, file.n, out);
    gr_file_unmap(&file);
    return st;
}

grace_status gr_load_csv_load(const char *path, int32_t top_k, grace_profile **out) {
    grace_status st = GRACE_OK;
    gr_meta meta = {0};
    gr_loads loads = {0};
    GR_TRY(gr_meta_load(path, &meta));
    GR_TRY(gr_loads_load(path, &loads));
    GR_TRY(gr_meta_check(&meta, path, &loads));
    GR_CHECK(!meta.found || !top_k || top_k == meta.info.top_k, GRACE_ERR_MISMATCH, "%s: expected top_k %d, as meta.json has it, found %d asked for", path,
             meta.info.top_k, top_k);
    GR_TRY(gr_loads_profile(path, &loads, meta.info.model, top_k ? top_k : meta.info.top_k, out));
    gr_layer_ids_set(&(*out)->info, gr_layer_ids_of(&meta.info));
done:
    gr_loads_free(&loads);
    return st;
}

grace_status gr_eplb_load(const char *path, int32_t top_k, grace_profile **out) {
    grace_status st = GRACE_OK;
    gr_file file = {0};
    gr_loads loads = {0};
    GR_TRY(gr_file_map(path, &file));
    GR_TRY(gr_loads_parse_json(path, file.data, file.n, &loads));
    GR_TRY(gr_loads_profile(path, &loads, "", top_k, out));
done:
    gr_loads_free(&loads);
    gr_file_unmap(&file);
    return st;
}
