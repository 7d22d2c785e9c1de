/* Any bytes as a pickle: one sentence, or values whose every index is inside its table and whose tensors stay inside their storages. */
#include "interop/pickle.h"

#include <string.h>

#include "base/status.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_value(const gr_pickle *p, const gr_pickle_value *v, const uint8_t *data, size_t n) {
    if (v->kind == GR_PICKLE_TEXT) GR_ASSERT(v->text >= (const char *)data && v->text + v->n <= (const char *)data + n);
    if (v->kind >= GR_PICKLE_TUPLE && v->kind <= GR_PICKLE_DICT) GR_ASSERT(v->index < p->n_lists);
    if (v->kind == GR_PICKLE_STORAGE) GR_ASSERT(v->index < p->n_storages);
    if (v->kind == GR_PICKLE_TENSOR) GR_ASSERT(v->index < p->n_tensors);
}

static void check_tensor(const gr_pickle *p, const gr_pickle_tensor *t) {
    int64_t last = t->offset;
    GR_ASSERT(t->n_dims >= 0 && t->n_dims <= GR_TENSOR_DIMS_MAX && t->storage < p->n_storages);
    for (int32_t d = 0; d < t->n_dims; d++) last += t->n ? (t->size[d] - 1) * t->stride[d] : 0;
    GR_ASSERT(t->n == 0 || (last < p->storages[t->storage].n && t->n <= p->storages[t->storage].n));
}

static void check(const gr_pickle *p, const uint8_t *data, size_t n) {
    check_value(p, &p->root, data, n);
    for (size_t l = 0; l < p->n_lists; l++)
        for (size_t i = 0; i < p->lists[l].n; i++) check_value(p, &p->lists[l].items[i], data, n);
    for (size_t t = 0; t < p->n_tensors; t++) check_tensor(p, &p->tensors[t]);
    GR_ASSERT(p->n_lists + p->n_storages + p->n_tensors <= n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    gr_pickle pickle = {0};
    if (gr_pickle_parse("fuzz", data, n, &pickle)) GR_ASSERT(!pickle.lists && grace_last_error()[0]);
    else check(&pickle, data, n);
    gr_pickle_free(&pickle);
    return 0;
}
