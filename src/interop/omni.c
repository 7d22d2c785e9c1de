#include "interop/omni.h"

#include <inttypes.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/memory.h"
#include "interop/npy.h"
#include "plan/tables.h"

/* [ranks, layers, experts] */
static size_t cell_of(int64_t n_layers, int64_t n_experts, int64_t rank, int64_t layer, int64_t expert) {
    return (size_t)((rank * n_layers + layer) * n_experts + expert);
}

grace_status gr_omni_plan_save(const grace_plan *plan, const char *path) {
    grace_status st = GRACE_OK;
    int64_t size[3] = {grace_cluster_ranks(plan->cluster), plan->n_layers, plan->n_experts};
    int32_t *cells = NULL;
    gr_buf bytes = {0};
    GR_CALLOC(cells, size[0] * size[1] * size[2]);
    for (int32_t l = 0; l < plan->n_layers; l++) {
        const grace_plan_layer *pl = &plan->layers[l];
        for (int32_t s = 0; s < pl->n_slots; s++) cells[cell_of(size[1], size[2], pl->rank_of_slot[s], l, pl->expert_of_slot[s])] = 1;
    }
    GR_TRY(gr_npy_print(cells, size, 3, &bytes));
    GR_TRY(gr_file_replace(path, bytes.data, bytes.n));
done:
    free(cells);
    gr_buf_free(&bytes);
    return st;
}

static grace_status count_ones(const char *where, const gr_npy *npy, int64_t *out) {
    grace_status st = GRACE_OK;
    *out = 0;
    for (int64_t i = 0; i < npy->n; i++) {
        int64_t v = gr_npy_int(npy, i);
        GR_CHECK(v == 0 || v == 1, GRACE_ERR_FORMAT, "%s: expected 0 and 1, found %" PRId64 " at element %" PRId64, where, v, i);
        *out += v;
    }
done:
    return st;
}

grace_status gr_omni_parse(const char *where, const void *bytes, size_t n, gr_placement *out) {
    grace_status st = GRACE_OK;
    gr_npy npy;
    int64_t n_slots = 0, at = 0;
    GR_TRY(gr_npy_parse(where, bytes, n, &npy));
    GR_CHECK(npy.n_dims == 3 && npy.n > 0 && npy.size[0] <= GRACE_RANKS_MAX && npy.size[1] <= GR_PLAN_LAYERS_MAX && npy.size[2] <= GR_PLAN_EXPERTS_MAX,
             GRACE_ERR_FORMAT, "%s: expected [ranks, layers, experts], at most [%d, %d, %d]", where, GRACE_RANKS_MAX, GR_PLAN_LAYERS_MAX,
             GR_PLAN_EXPERTS_MAX);
    GR_TRY(count_ones(where, &npy, &n_slots));
    GR_TRY(gr_placement_alloc((int32_t)npy.size[1], (int32_t)npy.size[0], n_slots, out));
    for (int64_t l = 0; l < npy.size[1]; l++)
        for (int64_t r = 0; r < npy.size[0]; r++) {
            for (int64_t e = 0; e < npy.size[2]; e++)
                if (gr_npy_int(&npy, (int64_t)cell_of(npy.size[1], npy.size[2], r, l, e))) out->expert[at++] = (int32_t)e;
            out->first[l * npy.size[0] + r + 1] = at;
        }
done:
    return st;
}

grace_status gr_omni_plan_load(const char *path, grace_cluster cluster, int32_t top_k, grace_plan **out) {
    grace_status st = GRACE_OK;
    gr_file file = {0};
    gr_placement p = {0};
    GR_TRY(gr_file_map(path, &file));
    GR_TRY(gr_omni_parse(path, file.data, file.n, &p));
    GR_TRY(gr_placement_plan(path, &p, cluster, top_k, out));
done:
    gr_placement_free(&p);
    gr_file_unmap(&file);
    return st;
}
