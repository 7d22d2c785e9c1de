#include "interop/torch.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "interop/bytes.h"

enum { NAME_MAX_BYTES = 512 };

/* data.pkl stands in a folder named after the file when it was saved. */
static grace_status find_folder(gr_torch *file) {
    static const char tail[] = "/data.pkl";
    size_t tail_n = sizeof tail - 1;
    for (size_t i = 0; i < file->zip.n_entries; i++) {
        const gr_zip_entry *e = &file->zip.entries[i];
        if (e->name_n < tail_n || memcmp(e->name + e->name_n - tail_n, tail, tail_n) != 0) continue;
        file->folder = e->name;
        file->folder_n = e->name_n - tail_n;
        return GRACE_OK;
    }
    return gr_fail(GRACE_ERR_FORMAT, "%s: a ZIP file without data.pkl, which torch.save writes", file->where);
}

static grace_status find_entry(const gr_torch *file, const char *name, size_t name_n, const gr_zip_entry **out) {
    grace_status st = GRACE_OK;
    char path[NAME_MAX_BYTES];
    GR_CHECK(file->folder_n + 1 + name_n <= sizeof path, GRACE_ERR_LIMIT, "%s: a name inside it is longer than %zu bytes", file->where, sizeof path);
    memcpy(path, file->folder, file->folder_n);
    path[file->folder_n] = '/';
    memcpy(path + file->folder_n + 1, name, name_n);
    *out = gr_zip_find(&file->zip, path, file->folder_n + 1 + name_n);
done:
    return st;
}

static grace_status check_byteorder(const gr_torch *file) {
    grace_status st = GRACE_OK;
    const gr_zip_entry *e = NULL;
    GR_TRY(find_entry(file, "byteorder", 9, &e));
    GR_CHECK(!e || (e->n == 6 && memcmp(e->data, "little", 6) == 0), GRACE_ERR_UNSUPPORTED, "%s: byte order '%.*s', expected little", file->where,
             e && e->n < 20 ? (int)e->n : 0, e ? (const char *)e->data : "");
done:
    return st;
}

grace_status gr_torch_open(const char *where, const void *bytes, size_t n, gr_torch *out) {
    grace_status st = GRACE_OK;
    gr_torch file = {.where = where};
    const gr_zip_entry *data = NULL;
    char inner[NAME_MAX_BYTES];
    GR_TRY(gr_zip_open(where, bytes, n, &file.zip));
    GR_TRY(find_folder(&file));
    GR_TRY(check_byteorder(&file));
    GR_TRY(find_entry(&file, "data.pkl", 8, &data));
    snprintf(inner, sizeof inner, "%.480s: data.pkl", where);
    GR_TRY(gr_pickle_parse(inner, data->data, data->n, &file.pickle));
    *out = file;
    file = (gr_torch){0};
done:
    gr_torch_close(&file);
    return st;
}

void gr_torch_close(gr_torch *file) {
    gr_zip_close(&file->zip);
    gr_pickle_free(&file->pickle);
}

static grace_status find_data(const gr_torch *file, const char *key, const gr_pickle_storage *storage, const unsigned char **out) {
    grace_status st = GRACE_OK;
    char name[NAME_MAX_BYTES];
    const gr_zip_entry *e = NULL;
    int length = snprintf(name, sizeof name, "data/%.*s", storage->key.n < 64 ? (int)storage->key.n : 64, storage->key.text);
    GR_TRY(find_entry(file, name, (size_t)length, &e));
    GR_CHECK(e, GRACE_ERR_FORMAT, "%s: '%s': there is no file '%s' with its elements", file->where, key, name);
    GR_CHECK(storage->n <= (int64_t)(e->n / (size_t)gr_dtype_bytes(storage->dtype)), GRACE_ERR_FORMAT,
             "%s: '%s': %" PRId64 " elements of %d bytes, the file '%s' has %zu bytes", file->where, key, storage->n, gr_dtype_bytes(storage->dtype), name,
             e->n);
    *out = e->data;
done:
    return st;
}

grace_status gr_torch_tensor(const gr_torch *file, const gr_pickle_value *dict, const char *key, int32_t n_dims_min, int32_t n_dims_max,
                             gr_tensor *out) {
    grace_status st = GRACE_OK;
    const gr_pickle_value *v = gr_pickle_get(&file->pickle, dict, key);
    GR_CHECK(v && v->kind == GR_PICKLE_TENSOR, GRACE_ERR_FORMAT, "%s: '%s': expected a tensor, found %s", file->where, key,
             v ? gr_pickle_kind_name(v->kind) : "nothing");
    const gr_pickle_tensor *t = &file->pickle.tensors[v->index];
    const gr_pickle_storage *storage = &file->pickle.storages[t->storage];
    gr_tensor tensor = {.dtype = storage->dtype, .n_dims = t->n_dims, .offset = t->offset, .n = t->n};
    GR_CHECK(t->n_dims >= n_dims_min && t->n_dims <= n_dims_max, GRACE_ERR_FORMAT, "%s: '%s': expected %d to %d dimensions, found %d", file->where, key,
             n_dims_min, n_dims_max, t->n_dims);
    memcpy(tensor.size, t->size, sizeof tensor.size);
    memcpy(tensor.stride, t->stride, sizeof tensor.stride);
    GR_TRY(find_data(file, key, storage, &tensor.data));
    *out = tensor;
done:
    return st;
}

bool gr_tensor_is_integer(const gr_tensor *t) { return t->dtype != GR_F32 && t->dtype != GR_F64; }

int64_t gr_tensor_int(const gr_tensor *t, int64_t element) {
    const unsigned char *p = t->data + element * gr_dtype_bytes(t->dtype);
    switch (t->dtype) {
    case GR_I8: return (int8_t)*p;
    case GR_I16: return (int16_t)gr_le16(p);
    case GR_I32: return (int32_t)gr_le32(p);
    case GR_I64: return (int64_t)gr_le64(p);
    default: return *p;
    }
}

double gr_tensor_real(const gr_tensor *t, int64_t element) {
    const unsigned char *p = t->data + element * gr_dtype_bytes(t->dtype);
    uint32_t single = 0;
    uint64_t bits = 0;
    float f;
    double d;
    if (gr_tensor_is_integer(t)) return (double)gr_tensor_int(t, element);
    if (t->dtype == GR_F32) return single = gr_le32(p), memcpy(&f, &single, sizeof f), (double)f;
    return bits = gr_le64(p), memcpy(&d, &bits, sizeof d), d;
}
