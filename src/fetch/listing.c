#include "fetch/listing.h"

#include <string.h>
#include <strings.h>

#include "base/json.h"
#include "base/memory.h"

enum { FILES_MAX = 20000, NAME_MAX_BYTES = 512 };

/* ---- names ---- */

static bool is_bad_component(const char *name, size_t n) {
    return n == 0 || n > 200 || (n == 1 && name[0] == '.') || (n == 2 && name[0] == '.' && name[1] == '.');
}

static grace_status check_name(const char *where, const char *name) {
    grace_status st = GRACE_OK;
    size_t n = strlen(name);
    GR_CHECK(n <= NAME_MAX_BYTES, GRACE_ERR_LIMIT, "%s: a file name of %zu bytes, at most %d are taken", where, n, NAME_MAX_BYTES);
    for (size_t i = 0; i < n; i++)
        GR_CHECK((unsigned char)name[i] >= 0x20 && name[i] != 0x7f && name[i] != '\\', GRACE_ERR_FORMAT,
                 "%s: '%s': a file name with a character that is refused", where, name);
    for (const char *at = name;; at++) {
        size_t length = strcspn(at, "/");
        GR_CHECK(!is_bad_component(at, length), GRACE_ERR_FORMAT, "%s: '%s': a file name that leaves its folder or has no name in it", where, name);
        at += length;
        if (!*at) break;
    }
    GR_CHECK(n < 8 || strcmp(name + n - 8, ".partial") != 0, GRACE_ERR_FORMAT, "%s: '%s': '.partial' is the ending of unfinished files", where, name);
done:
    return st;
}

static bool is_pickled(const char *name) {
    static const char *const endings[] = {".bin", ".pt", ".pth", ".ckpt", ".pickle", ".pkl"};
    const char *dot = strrchr(name, '.');
    for (size_t i = 0; dot && i < sizeof endings / sizeof *endings; i++)
        if (strcasecmp(dot, endings[i]) == 0) return true;
    return false;
}

static int by_name(const void *a, const void *b) { return strcmp(((const gr_listed *)a)->name, ((const gr_listed *)b)->name); }

/* Sorted, a file that is also a folder stands before a name inside it, with at most names like "a-b" between "a" and "a/b". */
static grace_status check_tree(const char *where, const gr_listing *list) {
    grace_status st = GRACE_OK;
    for (int32_t i = 0; i < list->n_files; i++) {
        const char *name = list->files[i].name;
        size_t n = strlen(name);
        for (int32_t k = i + 1; k < list->n_files && strncmp(list->files[k].name, name, n) == 0; k++) {
            char next = list->files[k].name[n];
            GR_CHECK(next != 0, GRACE_ERR_FORMAT, "%s: '%s' is listed twice", where, name);
            GR_CHECK(next != '/', GRACE_ERR_FORMAT, "%s: '%s' is a file and a folder", where, name);
        }
    }
done:
    return st;
}

/* ---- JSON ---- */

static bool is_hex(const char *text, size_t n) { return strlen(text) == n && strspn(text, "0123456789abcdef") == n; }

static grace_status read_file(const gr_json *entry, const char *where, gr_listed *out) {
    grace_status st = GRACE_OK;
    const char *name = NULL, *digest = NULL;
    GR_TRY(gr_json_string(entry, where, "rfilename", &name));
    GR_TRY(check_name(where, name));
    GR_TRY(gr_json_int(entry, where, "size", 0, INT64_C(1) << 50, &out->size));
    const gr_json *lfs = gr_json_get(entry, "lfs");
    bool large = gr_json_kind_of(lfs) == GR_JSON_OBJECT;
    GR_TRY(large ? gr_json_string(lfs, where, "sha256", &digest) : gr_json_string(entry, where, "blobId", &digest));
    GR_CHECK(is_hex(digest, large ? 64 : 40), GRACE_ERR_FORMAT,
             "%s: '%s': expected a checksum of %d hexadecimal digits, found '%.70s'", where, name, large ? 64 : 40, digest);
    memcpy(out->digest, digest, strlen(digest));
    out->pickled = is_pickled(name);
    out->name = strdup(name);
    GR_CHECK(out->name, GRACE_ERR_MEMORY, "no memory for a file name");
done:
    return st;
}

grace_status gr_listing_parse(const char *where, const char *json, size_t n, gr_listing *out) {
    grace_status st = GRACE_OK;
    gr_json *value = NULL;
    gr_listing list = {0};
    const gr_json *files;
    const char *commit;
    GR_TRY(gr_json_parse(where, json, n, &value));
    GR_TRY(gr_json_string(value, where, "sha", &commit));
    GR_CHECK(is_hex(commit, 40), GRACE_ERR_FORMAT, "%s: 'sha': expected 40 hexadecimal digits, found '%.50s'", where, commit);
    GR_TRY(gr_json_array(value, where, "siblings", &files));
    GR_CHECK(gr_json_length(files) <= FILES_MAX, GRACE_ERR_LIMIT, "%s: %zu files, at most %d are taken", where, gr_json_length(files), FILES_MAX);
    memcpy(list.commit, commit, 41);
    GR_CALLOC(list.files, gr_json_length(files));
    for (size_t i = 0; i < gr_json_length(files); i++) {
        list.n_files++;
        GR_TRY(read_file(gr_json_at(files, i), where, &list.files[i]));
    }
    qsort(list.files, (size_t)list.n_files, sizeof *list.files, by_name);
    GR_TRY(check_tree(where, &list));
    *out = list;
    list = (gr_listing){0};
done:
    gr_listing_free(&list);
    gr_json_free(value);
    return st;
}

void gr_listing_free(gr_listing *listing) {
    for (int32_t i = 0; i < listing->n_files; i++) free(listing->files[i].name);
    free(listing->files);
    *listing = (gr_listing){0};
}
