#include "plan/layer_ids.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

grace_status gr_layer_ids_check(const char *where, const int32_t *ids, int32_t n, grace_status status) {
    grace_status st = GRACE_OK;
    for (int32_t l = 0; ids && l < n; l++) {
        int32_t least = l > 0 ? ids[l - 1] + 1 : 0;
        GR_CHECK(ids[l] >= least && ids[l] <= GR_LAYER_ID_MAX, status, "%s: 'layer_ids'[%d]: expected %d to %d, found %d", where, l, least,
                 GR_LAYER_ID_MAX, ids[l]);
    }
done:
    return st;
}

grace_status gr_layer_ids_read(const gr_json *object, const char *where, int32_t n, int32_t *ids, bool *known) {
    grace_status st = GRACE_OK;
    const gr_json *array = NULL;
    bool found = gr_json_kind_of(gr_json_get(object, "layer_ids")) != GR_JSON_NULL;
    if (found) {
        GR_TRY(gr_json_array(object, where, "layer_ids", &array));
        GR_CHECK(gr_json_length(array) == (size_t)n, GRACE_ERR_FORMAT, "%s: 'layer_ids': expected %d numbers, one a layer, found %zu", where, n,
                 gr_json_length(array));
        for (int32_t l = 0; l < n; l++) {
            int64_t id = -1;
            GR_CHECK(gr_json_is_int(gr_json_at(array, (size_t)l), &id), GRACE_ERR_FORMAT, "%s: 'layer_ids'[%d]: expected an integer, found %s", where, l,
                     gr_json_kind_name(gr_json_at(array, (size_t)l)));
            GR_CHECK(id >= 0 && id <= GR_LAYER_ID_MAX, GRACE_ERR_FORMAT, "%s: 'layer_ids'[%d]: expected 0 to %d, found %" PRId64, where, l,
                     GR_LAYER_ID_MAX, id);
            ids[l] = (int32_t)id;
        }
        GR_TRY(gr_layer_ids_check(where, ids, n, GRACE_ERR_FORMAT));
    }
    *known = found;
done:
    return st;
}

grace_status gr_layer_ids_read_meta(const gr_json *meta, const char *where, grace_trace_info *info) {
    info->layer_ids_known = false;
    if (gr_json_is_string(gr_json_get(meta, "layer_ids"), &(const char *){NULL}, NULL)) return GRACE_OK;
    return gr_layer_ids_read(meta, where, info->n_layers, info->layer_ids, &info->layer_ids_known);
}

void gr_layer_ids_set(grace_trace_info *info, const int32_t *ids) {
    info->layer_ids_known = ids != NULL;
    if (ids) memcpy(info->layer_ids, ids, (size_t)info->n_layers * sizeof *ids);
}

gr_layer_ids_string gr_layer_ids_text(const int32_t *ids, int32_t n) {
    gr_layer_ids_string out = {"unknown"};
    size_t at = 0;
    for (int32_t first = 0, last; ids && first < n; first = last + 1) {
        for (last = first; last + 1 < n && ids[last + 1] == ids[last] + 1;) last++;
        at += (size_t)snprintf(out.text + at, sizeof out.text - at, last > first ? "%s%d-%d" : "%s%d", first ? " " : "", ids[first], ids[last]);
        if (at >= sizeof out.text) {
            memcpy(out.text + sizeof out.text - 4, "...", 4);
            break;
        }
    }
    return out;
}

grace_status gr_layer_ids_agree(const char *what, const int32_t *a, const int32_t *b, int32_t n) {
    if (!a || !b || memcmp(a, b, (size_t)n * sizeof *a) == 0) return GRACE_OK;
    return gr_fail(GRACE_ERR_MISMATCH, "%s is for layers %s of its model, the experts here are in layers %s", what, gr_layer_ids_text(a, n).text,
                   gr_layer_ids_text(b, n).text);
}
