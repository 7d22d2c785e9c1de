#include "model/folder.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/hash.h"
#include "base/json.h"
#include "base/log.h"
#include "model/safetensors.h"

enum { NAME_MAX_BYTES = 256 };

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
    bool random;                        /* no shards, no entries: tensors are made from the seed */
    uint64_t seed;
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

static grace_status open_empty(const char *dir, gr_folder **out) {
    grace_status st = GRACE_OK;
    gr_folder *folder = NULL;
    GR_CALLOC(folder, 1);
    GR_CHECK((folder->arena = gr_arena_new()), GRACE_ERR_MEMORY, "no memory to open %s", dir);
    GR_TRY(copy_text(folder->arena, dir, &folder->dir));
    *out = folder;
    folder = NULL;
done:
    gr_folder_close(folder);
    return st;
}

grace_status gr_folder_open(const char *dir, gr_folder **out) {
    grace_status st = GRACE_OK;
    gr_folder *folder = NULL;
    GR_TRY(open_empty(dir, &folder));
    GR_TRY(open_shards(folder));
    qsort(folder->entries, (size_t)folder->n_entries, sizeof *folder->entries, by_name);
    *out = folder;
    folder = NULL;
done:
    gr_folder_close(folder);
    return st;
}

grace_status gr_folder_open_random(const char *dir, uint64_t seed, gr_folder **out) {
    grace_status st = open_empty(dir, out);
    if (!st) (*out)->random = true, (*out)->seed = seed;
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
    if (folder->n_entries == 0) return NULL;
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

/* A tensor of any number of dimensions: the last one are the columns, the others rows below each other. The format does not align tensors, readers
 * of 16 and 32 bits want it: every current writer pads its header. */
static grace_status view(const entry *e, grace_tensor *out) {
    grace_status st = GRACE_OK;
    const gr_shard_tensor *t = e->tensor;
    grace_dtype dtype = GRACE_F32;
    size_t size = 1;
    GR_CHECK(read_dtype(t->dtype, &dtype, &size), GRACE_ERR_UNSUPPORTED, "%s: '%s' has dtype %s, expected F32, BF16 or F16", e->path, t->name, t->dtype);
    GR_CHECK((uintptr_t)t->data % size == 0, GRACE_ERR_UNSUPPORTED, "%s: '%s' does not start at a multiple of %zu bytes", e->path, t->name, size);
    *out = (grace_tensor){.data = t->data, .rows = 1, .cols = 1, .dtype = dtype};
    if (t->n_dims > 0) out->cols = t->shape[t->n_dims - 1];
    for (int32_t i = 0; i + 1 < t->n_dims; i++) out->rows *= t->shape[i];
done:
    return st;
}

grace_status gr_folder_tensor(const gr_folder *folder, const char *name, grace_tensor *out) {
    grace_status st = GRACE_OK;
    const entry *e = find_entry(folder, name);
    GR_CHECK(e, GRACE_ERR_MISMATCH, "%s: no tensor '%.200s' among %d", folder->dir, name, folder->n_entries);
    GR_CHECK(e->tensor->n_dims <= 2, GRACE_ERR_UNSUPPORTED, "%s: '%s' has %d dimensions, expected at most 2", e->path, name, e->tensor->n_dims);
    GR_TRY(view(e, out));
done:
    return st;
}

bool gr_folder_has(const gr_folder *folder, const char *format, ...) {
    char name[NAME_MAX_BYTES];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    return find_entry(folder, name) != NULL;
}

static void describe_shape(const gr_shard_tensor *t, char out[static 160]) {
    size_t n = (size_t)snprintf(out, 160, "[");
    for (int32_t i = 0; i < t->n_dims && n < 130; i++) n += (size_t)snprintf(out + n, 160 - n, "%s%" PRId64, i ? ", " : "", t->shape[i]);
    snprintf(out + n, 160 - n, "]");
}

/* The entry of that name and exactly that shape. */
static grace_status need_entry(gr_folder *folder, const char *name, int32_t n_dims, const int64_t *shape, entry **out) {
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
    *out = e;
done:
    return st;
}

static void count_needed(gr_folder *folder, entry *e, int64_t n_values) {
    if (!e->needed) folder->n_needed += n_values;
    e->needed = true;
}

/* Scales and blocks are no values of their own: they are not counted. */
static grace_status need_bytes(gr_folder *folder, const char *name, const char *dtype, int32_t n_dims, const int64_t *shape, entry **out) {
    grace_status st = GRACE_OK;
    GR_TRY(need_entry(folder, name, n_dims, shape, out));
    GR_CHECK(!strcmp((*out)->tensor->dtype, dtype), GRACE_ERR_UNSUPPORTED, "%s: '%s' has dtype %s, expected %s", (*out)->path, name,
             (*out)->tensor->dtype, dtype);
    (*out)->needed = true;
done:
    return st;
}

/* A matrix of fp8 and its scales. */
static grace_status view_fp8(gr_folder *folder, const entry *e, const int64_t *shape, grace_tensor *out) {
    grace_status st = GRACE_OK;
    const int64_t blocks[] = {(shape[0] + 127) / 128, (shape[1] + 127) / 128};
    char name[NAME_MAX_BYTES + 16];
    entry *scale = NULL;
    snprintf(name, sizeof name, "%s_scale_inv", e->tensor->name);
    GR_TRY(need_bytes(folder, name, "F32", 2, blocks, &scale));
    GR_CHECK((uintptr_t)scale->tensor->data % 4 == 0, GRACE_ERR_UNSUPPORTED, "%s: '%s' does not start at a multiple of 4 bytes", scale->path, name);
    *out = (grace_tensor){.data = e->tensor->data, .rows = shape[0], .cols = shape[1], .dtype = GRACE_F8_E4M3, .scale = scale->tensor->data};
done:
    return st;
}

/* A vector is a norm, of ones, or one of a name that says it is added to something: zeros. The embedding's rows are not summed over. */
static void make_random(gr_folder *folder, const char *name, int32_t n_dims, const int64_t *shape, grace_tensor *out) {
    const bool is_added = strstr(name, "bias") || strstr(name, "sinks"), is_embedding = strstr(name, "embed_tokens") != NULL;
    *out = (grace_tensor){.rows = 1, .cols = shape[n_dims - 1], .dtype = GRACE_BF16, .random = {.on = true}};
    for (int32_t i = 0; i + 1 < n_dims; i++) out->rows *= shape[i];
    if (is_added || n_dims == 1) out->random.constant = is_added ? 0 : 1;
    else out->random.scale = is_embedding ? 1 : 1 / sqrtf((float)out->cols);
    out->random.seed = gr_hash64(name, strlen(name), folder->seed);
    folder->n_needed += out->rows * out->cols;
}

static grace_status need(gr_folder *folder, const char *name, int32_t n_dims, const int64_t *shape, bool plain, grace_tensor *out) {
    grace_status st = GRACE_OK;
    entry *e = NULL;
    if (folder->random) {
        make_random(folder, name, n_dims, shape, out);
        return st;
    }
    GR_TRY(need_entry(folder, name, n_dims, shape, &e));
    if (!plain && n_dims == 2 && !strcmp(e->tensor->dtype, "F8_E4M3")) GR_TRY(view_fp8(folder, e, shape, out));
    else GR_TRY(view(e, out));
    count_needed(folder, e, out->rows * out->cols);
done:
    return st;
}

static grace_status need_named(gr_folder *folder, int32_t n_dims, const int64_t *shape, bool plain, grace_tensor *out, const char *format, va_list args) {
    char name[NAME_MAX_BYTES];
    vsnprintf(name, sizeof name, format, args);
    return need(folder, name, n_dims, shape, plain, out);
}

grace_status gr_folder_vector(gr_folder *folder, int64_t n, grace_tensor *out, const char *format, ...) {
    va_list args;
    va_start(args, format);
    grace_status st = need_named(folder, 1, &n, true, out, format, args);
    va_end(args);
    return st;
}

grace_status gr_folder_matrix(gr_folder *folder, int64_t rows, int64_t cols, grace_tensor *out, const char *format, ...) {
    va_list args;
    va_start(args, format);
    grace_status st = need_named(folder, 2, (const int64_t[]){rows, cols}, false, out, format, args);
    va_end(args);
    return st;
}

grace_status gr_folder_plain(gr_folder *folder, int64_t rows, int64_t cols, grace_tensor *out, const char *format, ...) {
    va_list args;
    va_start(args, format);
    grace_status st = need_named(folder, 2, (const int64_t[]){rows, cols}, true, out, format, args);
    va_end(args);
    return st;
}

grace_status gr_folder_stack(gr_folder *folder, int64_t n, int64_t rows, int64_t cols, grace_tensor *out, const char *format, ...) {
    va_list args;
    va_start(args, format);
    grace_status st = need_named(folder, 3, (const int64_t[]){n, rows, cols}, true, out, format, args);
    va_end(args);
    return st;
}

grace_status gr_folder_mxfp4(gr_folder *folder, int64_t n, int64_t rows, int64_t cols, grace_tensor *out, const char *format, ...) {
    grace_status st = GRACE_OK;
    const int64_t shape[] = {n, rows, cols / 32, 16};
    char name[NAME_MAX_BYTES], part[NAME_MAX_BYTES + 16];
    entry *blocks = NULL, *scales = NULL;
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    if (folder->random) return need(folder, name, 3, (const int64_t[]){n, rows, cols}, true, out);
    GR_CHECK(cols % 32 == 0, GRACE_ERR_UNSUPPORTED, "%s: '%s' has rows of %lld values, no multiple of 32", folder->dir, name, (long long)cols);
    snprintf(part, sizeof part, "%s_blocks", name);
    GR_TRY(need_bytes(folder, part, "U8", 4, shape, &blocks));
    snprintf(part, sizeof part, "%s_scales", name);
    GR_TRY(need_bytes(folder, part, "U8", 3, shape, &scales));
    folder->n_needed += n * rows * cols;
    *out = (grace_tensor){.data = blocks->tensor->data, .rows = n * rows, .cols = cols, .dtype = GRACE_MXFP4, .scale = scales->tensor->data};
done:
    return st;
}

/* ---- numbers ---- */

int64_t gr_folder_n_bytes(const gr_folder *folder) {
    int64_t n = folder->random ? 2 * folder->n_needed : 0;
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
