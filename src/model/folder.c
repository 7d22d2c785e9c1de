#include "model/folder.h"

#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "model/safetensors.h"

typedef struct shard_node {
    gr_shard shard;
    const char *name;                   /* of the file in the folder */
    struct shard_node *next;
} shard_node;

typedef struct entry {
    const gr_shard_tensor *tensor;
    const char *path;                   /* of its shard */
    bool needed;
} entry;

struct gr_folder {
    gr_arena *arena;
    const char *dir;
    shard_node *shards;                 /* the last opened first */
    int32_t n_shards, n_entries;
    entry *entries;                     /* [n_entries] sorted by name */
    int64_t n_needed;
};

/* ---- opening ---- */

static grace_status copy_text(gr_arena *arena, const char *text, const char **out) {
    grace_status st = GRACE_OK;
    char *copy = NULL;
    GR_ARENA_ARRAY(arena, copy, strlen(text) + 1);
    *out = strcpy(copy, text);
done:
    return st;
}

static grace_status open_shard(gr_folder *folder, const char *name, const gr_shard **out) {
    grace_status st = GRACE_OK;
    char path[PATH_MAX];
    shard_node *node = NULL;
    GR_ARENA_ARRAY(folder->arena, node, 1);
    GR_TRY(copy_text(folder->arena, name, &node->name));
    GR_TRY(gr_path_join(path, sizeof path, folder->dir, name));
    GR_TRY(gr_shard_open(path, &node->shard));
    node->next = folder->shards;
    folder->shards = node;
    folder->n_shards++;
    *out = &node->shard;
done:
    return st;
}

static void add_entry(gr_folder *folder, const gr_shard *shard, const gr_shard_tensor *tensor) {
    folder->entries[folder->n_entries++] = (entry){.tensor = tensor, .path = shard->path};
}

static grace_status open_single(gr_folder *folder) {
    grace_status st = GRACE_OK;
    const gr_shard *shard = NULL;
    GR_TRY(open_shard(folder, "model.safetensors", &shard));
    GR_ARENA_ARRAY(folder->arena, folder->entries, shard->n_tensors);
    for (int32_t i = 0; i < shard->n_tensors; i++) add_entry(folder, shard, &shard->tensors[i]);
done:
    return st;
}

/* An index is outside text: it may name files of this folder only. */
static grace_status find_or_open_shard(gr_folder *folder, const char *index, const char *name, const gr_shard **out) {
    grace_status st = GRACE_OK;
    for (const shard_node *node = folder->shards; node; node = node->next)
        if (!strcmp(node->name, name)) {
            *out = &node->shard;
            return GRACE_OK;
        }
    GR_CHECK(*name && !strchr(name, '/'), GRACE_ERR_FORMAT, "%s: expected the name of a file beside it, found '%.200s'", index, name);
    st = open_shard(folder, name, out);
    if (st) gr_fail_in(st, "%.180s names a shard", index);
done:
    return st;
}

static grace_status add_mapped(gr_folder *folder, const char *index, const char *tensor, const gr_json *file) {
    grace_status st = GRACE_OK;
    const char *name = NULL;
    const gr_shard *shard = NULL;
    GR_CHECK(gr_json_is_string(file, &name, NULL), GRACE_ERR_FORMAT, "%s: '%.200s': expected a file name, found %s", index, tensor,
             gr_json_kind_name(file));
    GR_TRY(find_or_open_shard(folder, index, name, &shard));
    const gr_shard_tensor *found = gr_shard_find(shard, tensor);
    GR_CHECK(found, GRACE_ERR_FORMAT, "%s: says that '%.200s' is in %s, which has no such tensor", index, tensor, name);
    add_entry(folder, shard, found);
done:
    return st;
}

static grace_status open_indexed(gr_folder *folder, const char *path) {
    grace_status st = GRACE_OK;
    gr_json *index = NULL;
    const gr_json *map = NULL;
    GR_TRY(gr_json_load(path, &index));
    GR_TRY(gr_json_object_in(index, path, "weight_map", &map));
    GR_ARENA_ARRAY(folder->arena, folder->entries, gr_json_length(map));
    for (const gr_json_member *m = gr_json_first(map); m; m = gr_json_next(map, m))
        GR_TRY(add_mapped(folder, path, gr_json_key(m), gr_json_value(m)));
done:
    gr_json_free(index);
    return st;
}

/* As the reference does: a single file wins over an index. */
static grace_status open_shards(gr_folder *folder) {
    grace_status st = GRACE_OK;
    char path[PATH_MAX];
    GR_TRY(gr_path_join(path, sizeof path, folder->dir, "model.safetensors"));
    if (access(path, F_OK) == 0) return open_single(folder);
    GR_TRY(gr_path_join(path, sizeof path, folder->dir, "model.safetensors.index.json"));
    GR_CHECK(access(path, F_OK) == 0, GRACE_ERR_IO, "%s: expected model.safetensors or model.safetensors.index.json, found neither", folder->dir);
    GR_TRY(open_indexed(folder, path));
done:
    return st;
}

static int by_name(const void *a, const void *b) { return strcmp(((const entry *)a)->tensor->name, ((const entry *)b)->tensor->name); }

grace_status gr_folder_open(const char *dir, gr_folder **out) {
    grace_status st = GRACE_OK;
    gr_folder *folder = NULL;
    GR_CALLOC(folder, 1);
    GR_CHECK((folder->arena = gr_arena_new()), GRACE_ERR_MEMORY, "no memory to open %s", dir);
    GR_TRY(copy_text(folder->arena, dir, &folder->dir));
    GR_TRY(open_shards(folder));
    qsort(folder->entries, (size_t)folder->n_entries, sizeof *folder->entries, by_name);
    *out = folder;
    folder = NULL;
done:
    gr_folder_close(folder);
    return st;
}

void gr_folder_close(gr_folder *folder) {
    if (!folder) return;
    for (shard_node *node = folder->shards; node; node = node->next) gr_shard_close(&node->shard);
    gr_arena_free(folder->arena);
    free(folder);
}

/* ---- looking up ---- */

static entry *find_entry(const gr_folder *folder, const char *name) {
    const gr_shard_tensor named = {.name = name};
    const entry key = {.tensor = &named};
    return bsearch(&key, folder->entries, (size_t)folder->n_entries, sizeof key, by_name);
}

static bool read_dtype(const char *name, grace_dtype *out, size_t *n_bytes) {
    static const struct { const char *name; grace_dtype dtype; size_t n_bytes; } known[] = {
        {"F32", GRACE_F32, 4}, {"BF16", GRACE_BF16, 2}, {"F16", GRACE_F16, 2}};
    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (!strcmp(known[i].name, name)) {
            *out = known[i].dtype;
            *n_bytes = known[i].n_bytes;
            return true;
        }
    return false;
}

/* The format does not align tensors, readers of 16 and 32 bits want it: every current writer pads its header. */
static grace_status view(const entry *e, grace_tensor *out) {
    grace_status st = GRACE_OK;
    const gr_shard_tensor *t = e->tensor;
    grace_dtype dtype = GRACE_F32;
    size_t size = 1;
    GR_CHECK(read_dtype(t->dtype, &dtype, &size), GRACE_ERR_UNSUPPORTED, "%s: '%s' has dtype %s, expected F32, BF16 or F16", e->path, t->name, t->dtype);
    GR_CHECK(t->n_dims <= 2, GRACE_ERR_UNSUPPORTED, "%s: '%s' has %d dimensions, expected at most 2", e->path, t->name, t->n_dims);
    GR_CHECK((uintptr_t)t->data % size == 0, GRACE_ERR_UNSUPPORTED, "%s: '%s' does not start at a multiple of %zu bytes", e->path, t->name, size);
    *out = (grace_tensor){.data = t->data, .rows = 1, .cols = 1, .dtype = dtype};
    if (t->n_dims > 0) out->cols = t->shape[t->n_dims - 1];
    if (t->n_dims > 1) out->rows = t->shape[0];
done:
    return st;
}

grace_status gr_folder_tensor(const gr_folder *folder, const char *name, grace_tensor *out) {
    const entry *e = find_entry(folder, name);
    return e ? view(e, out) : gr_fail(GRACE_ERR_MISMATCH, "%s: no tensor '%.200s' among %d", folder->dir, name, folder->n_entries);
}

static void describe_shape(const gr_shard_tensor *t, char out[static 160]) {
    size_t n = (size_t)snprintf(out, 160, "[");
    for (int32_t i = 0; i < t->n_dims && n < 130; i++) n += (size_t)snprintf(out + n, 160 - n, "%s%" PRId64, i ? ", " : "", t->shape[i]);
    snprintf(out + n, 160 - n, "]");
}

static grace_status need(gr_folder *folder, const char *name, int32_t n_dims, const int64_t *shape, grace_tensor *out) {
    grace_status st = GRACE_OK;
    gr_shard_tensor wanted = {.n_dims = n_dims};
    char expected[160], found[160];
    memcpy(wanted.shape, shape, (size_t)n_dims * sizeof *shape);
    entry *e = find_entry(folder, name);
    GR_CHECK(e, GRACE_ERR_FORMAT, "%s: the network needs tensor '%s', which none of its %d shard%s has", folder->dir, name, folder->n_shards,
             folder->n_shards == 1 ? "" : "s");
    describe_shape(&wanted, expected);
    describe_shape(e->tensor, found);
    bool same = e->tensor->n_dims == n_dims && !memcmp(e->tensor->shape, shape, (size_t)n_dims * sizeof *shape);
    GR_CHECK(same, GRACE_ERR_FORMAT, "%s: '%s' has shape %s, config.json asks for %s", e->path, name, found, expected);
    GR_TRY(view(e, out));
    if (!e->needed) folder->n_needed += out->rows * out->cols;
    e->needed = true;
done:
    return st;
}

grace_status gr_folder_vector(gr_folder *folder, int64_t n, grace_tensor *out, const char *format, ...) {
    char name[256];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    return need(folder, name, 1, &n, out);
}

grace_status gr_folder_matrix(gr_folder *folder, int64_t rows, int64_t cols, grace_tensor *out, const char *format, ...) {
    const int64_t shape[] = {rows, cols};
    char name[256];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    return need(folder, name, 2, shape, out);
}

/* ---- numbers ---- */

int64_t gr_folder_n_bytes(const gr_folder *folder) {
    int64_t n = 0;
    for (int32_t i = 0; i < folder->n_entries; i++) n += (int64_t)folder->entries[i].tensor->n_bytes;
    return n;
}

int64_t gr_folder_n_needed(const gr_folder *folder) { return folder->n_needed; }

void gr_folder_log_unneeded(const gr_folder *folder) {
    const char *first = NULL;
    int32_t n = 0;
    for (int32_t i = 0; i < folder->n_entries; i++)
        if (!folder->entries[i].needed && n++ == 0) first = folder->entries[i].tensor->name;
    if (n) gr_log(GR_INFO, "model", "%s: %d tensors are not part of the network and stay unread, the first is '%s'", folder->dir, n, first);
}
