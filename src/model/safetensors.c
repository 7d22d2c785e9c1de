#include "model/safetensors.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"

/* Every dtype of the format, so that a tensor the network does not need may have any of them. */
static const struct dtype { const char *name; uint32_t bits; } dtypes[] = {
    {"BOOL", 8},    {"U8", 8},      {"I8", 8},      {"U16", 16},        {"I16", 16},        {"U32", 32},     {"I32", 32},
    {"U64", 64},    {"I64", 64},    {"F16", 16},    {"BF16", 16},       {"F32", 32},        {"F64", 64},     {"C64", 64},
    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"F8_E4M3", 8},     {"F8_E5M2", 8},     {"F8_E8M0", 8},
};

static const struct dtype *find_dtype(const char *name) {
    for (size_t i = 0; i < sizeof dtypes / sizeof *dtypes; i++)
        if (!strcmp(dtypes[i].name, name)) return &dtypes[i];
    return NULL;
}

/* ---- one entry of the header; where = "PATH: 'NAME'" ---- */

static grace_status read_shape(const gr_json *entry, const char *where, gr_shard_tensor *t) {
    grace_status st = GRACE_OK;
    const gr_json *shape = NULL;
    GR_TRY(gr_json_array(entry, where, "shape", &shape));
    size_t n = gr_json_length(shape);
    GR_CHECK(n <= GR_SHARD_DIMS_MAX, GRACE_ERR_LIMIT, "%s: 'shape' has %zu dimensions, the limit is %d", where, n, GR_SHARD_DIMS_MAX);
    for (size_t i = 0; i < n; i++) GR_TRY(gr_json_int_at(shape, where, i, 0, INT64_MAX, &t->shape[i]));
    t->n_dims = (int32_t)n;
done:
    return st;
}

/* Bytes that dtype and shape ask for; false when the number has no place in 64 bits or the last byte is not full. */
static bool count_bytes(const gr_shard_tensor *t, uint32_t bits, uint64_t *n_bytes) {
    uint64_t n = bits;
    for (int32_t i = 0; i < t->n_dims; i++)
        if (__builtin_mul_overflow(n, (uint64_t)t->shape[i], &n)) return false;
    *n_bytes = n / 8;
    return n % 8 == 0;
}

static grace_status read_offsets(const gr_json *entry, const char *where, size_t n_data, size_t *begin, size_t *end) {
    grace_status st = GRACE_OK;
    const gr_json *offsets = NULL;
    int64_t from = 0, to = 0;
    GR_TRY(gr_json_array(entry, where, "data_offsets", &offsets));
    GR_CHECK(gr_json_length(offsets) == 2, GRACE_ERR_FORMAT, "%s: 'data_offsets': expected 2 numbers, found %zu", where, gr_json_length(offsets));
    GR_TRY(gr_json_int_at(offsets, where, 0, 0, INT64_MAX, &from));
    GR_TRY(gr_json_int_at(offsets, where, 1, 0, INT64_MAX, &to));
    GR_CHECK(from <= to, GRACE_ERR_FORMAT, "%s: 'data_offsets' begin at %" PRId64 " and end before, at %" PRId64, where, from, to);
    GR_CHECK((uint64_t)to <= n_data, GRACE_ERR_FORMAT, "%s: 'data_offsets' end at %" PRId64 ", the file has %zu bytes of data (is it cut short?)",
             where, to, n_data);
    *begin = (size_t)from;
    *end = (size_t)to;
done:
    return st;
}

static grace_status read_tensor(const gr_json *entry, const char *where, const char *data, size_t n_data, gr_shard_tensor *t) {
    grace_status st = GRACE_OK;
    const char *dtype = NULL;
    uint64_t n_bytes = 0;
    size_t begin = 0, end = 0;
    GR_CHECK(gr_json_kind_of(entry) == GR_JSON_OBJECT, GRACE_ERR_FORMAT, "%s: expected an object, found %s", where, gr_json_kind_name(entry));
    GR_TRY(gr_json_string(entry, where, "dtype", &dtype));
    const struct dtype *type = find_dtype(dtype);
    GR_CHECK(type, GRACE_ERR_UNSUPPORTED, "%s: unknown dtype '%s'", where, dtype);
    GR_TRY(read_shape(entry, where, t));
    GR_TRY(read_offsets(entry, where, n_data, &begin, &end));
    GR_CHECK(count_bytes(t, type->bits, &n_bytes), GRACE_ERR_FORMAT, "%s: shape and dtype ask for no possible number of bytes", where);
    GR_CHECK(n_bytes == end - begin, GRACE_ERR_FORMAT, "%s: shape and dtype ask for %" PRIu64 " bytes, 'data_offsets' span %zu", where, n_bytes,
             end - begin);
    t->dtype = type->name;
    t->data = data + begin;
    t->n_bytes = end - begin;
done:
    return st;
}

/* ---- the whole header ---- */

static grace_status read_tensors(const gr_json *header, const char *data, size_t n_data, gr_shard *shard) {
    grace_status st = GRACE_OK;
    char where[512];
    GR_ARENA_ARRAY(shard->arena, shard->tensors, gr_json_length(header));
    for (const gr_json_member *m = gr_json_first(header); m; m = gr_json_next(header, m)) {
        const char *key = gr_json_key(m);
        if (!strcmp(key, "__metadata__")) continue;
        gr_shard_tensor *t = &shard->tensors[shard->n_tensors++];
        char *name = NULL;
        size_t n = strlen(key) + 1;
        GR_ARENA_ARRAY(shard->arena, name, n);
        t->name = memcpy(name, key, n);
        snprintf(where, sizeof where, "%.380s: '%.120s'", shard->path, name);
        GR_TRY(read_tensor(gr_json_value(m), where, data, n_data, t));
    }
done:
    return st;
}

static int by_place(const void *a, const void *b) {
    const gr_shard_tensor *x = a, *y = b;
    if (x->data != y->data) return (const char *)x->data < (const char *)y->data ? -1 : 1;
    return (x->n_bytes > y->n_bytes) - (x->n_bytes < y->n_bytes);      /* empty tensors before the one that starts there */
}

static int by_name(const void *a, const void *b) { return strcmp(((const gr_shard_tensor *)a)->name, ((const gr_shard_tensor *)b)->name); }

/* The format wants every byte of data to belong to exactly one tensor: what overlaps or lies between was not written by a sound writer. */
static grace_status check_places(const gr_shard *shard, const char *data, size_t n_data) {
    grace_status st = GRACE_OK;
    size_t end = 0;
    qsort(shard->tensors, (size_t)shard->n_tensors, sizeof *shard->tensors, by_place);
    for (int32_t i = 0; i < shard->n_tensors; i++) {
        const gr_shard_tensor *t = &shard->tensors[i];
        size_t begin = (size_t)((const char *)t->data - data);
        GR_CHECK(begin >= end, GRACE_ERR_FORMAT, "%s: '%s' begins at %zu and overlaps '%s', which ends at %zu", shard->path, t->name, begin,
                 t[-1].name, end);
        GR_CHECK(begin == end, GRACE_ERR_FORMAT, "%s: bytes %zu to %zu before '%s' belong to no tensor", shard->path, end, begin, t->name);
        end = begin + t->n_bytes;
    }
    GR_CHECK(end == n_data, GRACE_ERR_FORMAT, "%s: the tensors end at byte %zu of the data, the file has %zu", shard->path, end, n_data);
done:
    return st;
}

static grace_status read_header_length(const char *path, const void *bytes, size_t n, size_t *out) {
    grace_status st = GRACE_OK;
    unsigned char raw[8];
    uint64_t length = 0;
    GR_CHECK(n >= 8, GRACE_ERR_FORMAT, "%s: expected at least 8 bytes, found %zu", path, n);
    memcpy(raw, bytes, 8);
    for (int i = 7; i >= 0; i--) length = length << 8 | raw[i];
    GR_CHECK(length <= GR_SHARD_HEADER_MAX, GRACE_ERR_LIMIT, "%s: header of %" PRIu64 " bytes, the limit is %d (is this a safetensors file?)", path,
             length, GR_SHARD_HEADER_MAX);
    GR_CHECK(length <= n - 8, GRACE_ERR_FORMAT, "%s: header says %" PRIu64 " bytes, %zu follow (is the file cut short?)", path, length, n - 8);
    *out = (size_t)length;
done:
    return st;
}

static grace_status start(const char *path, gr_shard *shard) {
    grace_status st = GRACE_OK;
    char *copy = NULL;
    GR_CHECK((shard->arena = gr_arena_new()), GRACE_ERR_MEMORY, "no memory to read %s", path);
    GR_ARENA_ARRAY(shard->arena, copy, strlen(path) + 1);
    shard->path = strcpy(copy, path);
done:
    return st;
}

grace_status gr_shard_parse(const char *path, const void *bytes, size_t n, gr_shard *out) {
    grace_status st = GRACE_OK;
    gr_shard shard = {0};
    gr_json *header = NULL;
    size_t n_header = 0;
    GR_TRY(start(path, &shard));
    GR_TRY(read_header_length(path, bytes, n, &n_header));
    const char *text = (const char *)bytes + 8, *data = text + n_header;
    size_t n_data = n - 8 - n_header;
    GR_TRY(gr_json_parse(path, text, n_header, &header));
    GR_CHECK(gr_json_kind_of(header) == GR_JSON_OBJECT, GRACE_ERR_FORMAT, "%s: header: expected an object, found %s", path, gr_json_kind_name(header));
    GR_TRY(read_tensors(header, data, n_data, &shard));
    GR_TRY(check_places(&shard, data, n_data));
    qsort(shard.tensors, (size_t)shard.n_tensors, sizeof *shard.tensors, by_name);
    *out = shard;
    shard = (gr_shard){0};
done:
    gr_json_free(header);
    gr_shard_close(&shard);
    return st;
}

grace_status gr_shard_open(const char *path, gr_shard *out) {
    gr_file file = {0};
    grace_status st = gr_file_map(path, &file);
    if (st) return st;
    st = gr_shard_parse(path, file.data, file.n, out);
    if (st) gr_file_unmap(&file);
    else out->file = file;
    return st;
}

void gr_shard_close(gr_shard *shard) {
    gr_file_unmap(&shard->file);
    gr_arena_free(shard->arena);
    *shard = (gr_shard){0};
}

const gr_shard_tensor *gr_shard_find(const gr_shard *shard, const char *name) {
    const gr_shard_tensor key = {.name = name};
    if (shard->n_tensors == 0) return NULL;
    return bsearch(&key, shard->tensors, (size_t)shard->n_tensors, sizeof key, by_name);
}
