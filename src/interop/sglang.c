/* What all recordings share, and their loads. sglang_tokens.c reads tokens. */
#include "interop/sglang.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/memory.h"
#include "interop/interop.h"
#include "interop/loads.h"
#include "plan/layer_ids.h"
#include "plan/trace.h"

enum { PASS_KEYS_MAX = 64 };        /* SGLang writes about ten */

/* ---- records and the map of physical experts ---- */

static grace_status find_records(gr_recording *r) {
    grace_status st = GRACE_OK;
    const gr_pickle *p = &r->file.pickle;
    const gr_pickle_value *records = gr_pickle_get(p, &p->root, "records");
    GR_CHECK(records && records->kind == GR_PICKLE_LIST, GRACE_ERR_FORMAT, "%s: 'records': expected a list, found %s: %s", r->where,
             records ? gr_pickle_kind_name(records->kind) : "nothing",
             gr_pickle_get(p, &p->root, "logical_count") ? "a recording in mode stat has loads, not tokens" : "no recording of SGLang");
    r->records = gr_pickle_items(p, records);
    GR_CHECK(r->records->n > 0, GRACE_ERR_FORMAT, "%s: no forward pass was recorded", r->where);
    for (size_t i = 0; i < r->records->n; i++) {
        const gr_pickle_value *pass = &r->records->items[i];
        GR_CHECK(pass->kind == GR_PICKLE_DICT && p->lists[pass->index].n <= 2 * PASS_KEYS_MAX, GRACE_ERR_FORMAT,
                 "%s: pass %zu: expected a dict of at most %d keys, found %s", r->where, i, PASS_KEYS_MAX, gr_pickle_kind_name(pass->kind));
    }
done:
    return st;
}

static grace_status read_map(gr_recording *r) {
    grace_status st = GRACE_OK;
    gr_tensor map;
    GR_TRY(gr_torch_tensor(&r->file, &r->file.pickle.root, "last_physical_to_logical_map", 2, 2, &map));
    bool fits = map.size[0] >= 1 && map.size[0] <= GR_TRACE_LAYERS_MAX && map.size[1] >= 1 && map.size[1] <= GR_TRACE_EXPERTS_MAX;
    GR_CHECK(fits && gr_tensor_is_integer(&map), GRACE_ERR_FORMAT,
             "%s: the map of physical experts: expected whole numbers, at most %d layers x %d experts, found %" PRId64 " x %" PRId64, r->where,
             GR_TRACE_LAYERS_MAX, GR_TRACE_EXPERTS_MAX, map.size[0], map.size[1]);
    r->n_layers = (int32_t)map.size[0];
    r->n_physical = (int32_t)map.size[1];
    GR_CALLOC(r->logical, map.n);
    for (int64_t i = 0; i < map.n; i++) {
        int64_t expert = gr_tensor_int(&map, map.offset + i / r->n_physical * map.stride[0] + i % r->n_physical * map.stride[1]);
        GR_CHECK(expert >= 0 && expert < r->n_physical, GRACE_ERR_FORMAT,
                 "%s: layer %" PRId64 ": physical expert %" PRId64 " is said to be expert %" PRId64 ", of %d physical ones", r->where, i / r->n_physical,
                 i % r->n_physical, expert, r->n_physical);
        r->logical[i] = (int32_t)expert;
        if (expert >= r->n_experts) r->n_experts = (int32_t)expert + 1;
    }
done:
    return st;
}

grace_status gr_recording_open(const char *where, const void *bytes, size_t n, gr_recording *out) {
    grace_status st = GRACE_OK;
    *out = (gr_recording){.where = where};
    GR_TRY(gr_torch_open(where, bytes, n, &out->file));
    for (size_t i = 0; i < out->file.zip.n_entries; i++) out->n_bytes += out->file.zip.entries[i].n;
    GR_TRY(find_records(out));
    GR_TRY(read_map(out));
done:
    return st;
}

void gr_recording_close(gr_recording *r) {
    gr_torch_close(&r->file);
    free(r->logical);
    *r = (gr_recording){0};
}

grace_status gr_recording_tensor(const gr_recording *r, size_t pass, const char *key, int32_t n_dims, size_t *used, gr_tensor *out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_torch_tensor(&r->file, &r->records->items[pass], key, n_dims, n_dims, out));
    GR_CHECK(gr_tensor_is_integer(out), GRACE_ERR_FORMAT, "%s: pass %zu: '%s': expected whole numbers", r->where, pass, key);
    GR_CHECK(out->size[0] == r->n_layers, GRACE_ERR_FORMAT, "%s: pass %zu: '%s' has %" PRId64 " layers, the map of physical experts has %d", r->where,
             pass, key, out->size[0], r->n_layers);
    *used += (size_t)out->n * (size_t)gr_dtype_bytes(out->dtype);
    GR_CHECK(*used <= r->n_bytes, GRACE_ERR_FORMAT, "%s: pass %zu: passes share their numbers, which no recording does", r->where, pass);
done:
    return st;
}

grace_status gr_recording_expert(const gr_recording *r, size_t pass, int32_t layer, int64_t physical, int32_t *expert) {
    grace_status st = GRACE_OK;
    GR_CHECK(physical >= 0 && physical < r->n_physical, GRACE_ERR_FORMAT, "%s: pass %zu, layer %d: expected physical experts 0 to %d, found %" PRId64,
             r->where, pass, layer, r->n_physical - 1, physical);
    *expert = r->logical[(size_t)layer * (size_t)r->n_physical + (size_t)physical];
done:
    return st;
}

bool gr_sglang_has_tokens(const gr_torch *file) {
    const gr_pickle *p = &file->pickle;
    const gr_pickle_value *records = gr_pickle_get(p, &p->root, "records");
    const gr_pickle_list *passes = records ? gr_pickle_items(p, records) : NULL;
    return passes && passes->n > 0 && gr_pickle_get(p, &passes->items[0], "topk_ids_of_layer");
}

/* ---- loads ---- */

static grace_status add_load(const char *where, gr_loads *loads, int64_t layer, int64_t expert, double count) {
    grace_status st = GRACE_OK;
    GR_CHECK(isfinite(count) && count >= 0, GRACE_ERR_FORMAT, "%s: layer %" PRId64 ", expert %" PRId64 ": expected a count of 0 or more, found %g", where,
             layer, expert, count);
    loads->load[(size_t)layer * (size_t)loads->n_experts + (size_t)expert] += count;
done:
    return st;
}

/* logical_count [steps, layers, experts], or without steps. */
static grace_status sum_logical(const gr_torch *file, gr_loads *out) {
    grace_status st = GRACE_OK;
    gr_tensor t;
    GR_TRY(gr_torch_tensor(file, &file->pickle.root, "logical_count", 2, 3, &t));
    int32_t first = t.n_dims - 2;
    int64_t n_steps = first ? t.size[0] : 1, step_stride = first ? t.stride[0] : 0;
    GR_CHECK(t.n > 0, GRACE_ERR_FORMAT, "%s: 'logical_count' is empty: nothing was recorded", file->where);
    GR_TRY(gr_loads_alloc(file->where, t.size[first], t.size[first + 1], out));
    for (int64_t s = 0; s < n_steps; s++)
        for (int64_t l = 0; l < out->n_layers; l++)
            for (int64_t e = 0; e < out->n_experts; e++)
                GR_TRY(add_load(file->where, out, l, e, gr_tensor_real(&t, t.offset + s * step_stride + l * t.stride[first] + e * t.stride[first + 1])));
done:
    return st;
}

/* global_physical_count [layers, physical] of every pass. */
static grace_status sum_physical(const gr_recording *r, gr_loads *out) {
    grace_status st = GRACE_OK;
    size_t used = 0;
    GR_TRY(gr_loads_alloc(r->where, r->n_layers, r->n_experts, out));
    for (size_t pass = 0; pass < r->records->n; pass++) {
        gr_tensor t;
        GR_TRY(gr_recording_tensor(r, pass, "global_physical_count", 2, &used, &t));
        for (int32_t l = 0; l < r->n_layers; l++)
            for (int64_t physical = 0; physical < t.size[1]; physical++) {
                int32_t expert = 0;
                GR_TRY(gr_recording_expert(r, pass, l, physical, &expert));
                GR_TRY(add_load(r->where, out, l, expert, gr_tensor_real(&t, t.offset + l * t.stride[0] + physical * t.stride[1])));
            }
    }
done:
    return st;
}

/* SGLang counts dense layers too, with nothing in them. */
static void drop_dense(gr_loads *loads) {
    int32_t kept = 0;
    size_t n = (size_t)loads->n_experts;
    for (int32_t l = 0; l < loads->n_layers; l++) {
        const double *load = &loads->load[(size_t)l * n];
        bool dense = true;
        for (size_t e = 0; e < n; e++) dense &= load[e] == 0;
        if (dense) continue;
        memmove(&loads->load[(size_t)kept * n], load, n * sizeof *load);
        loads->layer_id[kept++] = l;
    }
    loads->n_layers = kept;
}

static grace_status read_loads(const char *where, const void *bytes, size_t n, gr_loads *out) {
    grace_status st = GRACE_OK;
    gr_torch file = {0};
    gr_recording r = {0};
    GR_TRY(gr_torch_open(where, bytes, n, &file));
    if (gr_pickle_get(&file.pickle, &file.pickle.root, "logical_count")) {
        GR_TRY(sum_logical(&file, out));
    } else {
        GR_TRY(gr_recording_open(where, bytes, n, &r));
        GR_TRY(sum_physical(&r, out));
    }
done:
    gr_torch_close(&file);
    gr_recording_close(&r);
    return st;
}

grace_status gr_sglang_parse_profile(const char *where, const void *bytes, size_t n, int32_t top_k, grace_profile **out) {
    grace_status st = GRACE_OK;
    gr_loads loads = {0};
    GR_TRY(read_loads(where, bytes, n, &loads));
    int32_t n_model_layers = loads.n_layers;
    drop_dense(&loads);
    GR_CHECK(loads.n_layers > 0, GRACE_ERR_FORMAT, "%s: no token was routed in any layer", where);
    if (loads.n_layers < n_model_layers)
        gr_log(GR_INFO, "profile", "%s: %d of %d layers are dense, the first with experts is %d", where, n_model_layers - loads.n_layers, n_model_layers,
               loads.layer_id[0]);
    GR_TRY(gr_loads_profile(where, &loads, GR_SGLANG_MODEL, top_k, out));
    gr_layer_ids_set(&(*out)->info, loads.layer_id);
done:
    gr_loads_free(&loads);
    return st;
}

/* ---- files ---- */

grace_status gr_sglang_profile_load(const char *path, int32_t top_k, grace_profile **out) {
    gr_file file;
    grace_status st = gr_file_map(path, &file);
    if (st) return st;
    st = gr_sglang_parse_profile(path, file.data, file.n, top_k, out);
    gr_file_unmap(&file);
    return st;
}

grace_status gr_sglang_trace_load(const char *path, grace_trace **out) {
    gr_file file;
    grace_status st = gr_file_map(path, &file);
    if (st) return st;
    st = gr_sglang_parse_trace(path, file.data, file.n, out);
    gr_file_unmap(&file);
    return st;
}
