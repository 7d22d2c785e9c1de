#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <glob.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "program.h"

static char folder[64];

int folder_enter(void **state) {
    (void)state;
    snprintf(folder, sizeof folder, "/tmp/grace-cli-XXXXXX");
    setenv("G", GRACE_PROGRAM, 1);
    setenv("M", MODEL, 1);
    setenv("OMP_NUM_THREADS", "1", 0);      /* tiny steps on a busy machine: more threads only wait for each other */
    unsetenv("GRACE_LOG");
    return !mkdtemp(folder) || chdir(folder);
}

static int remove_one(const char *path, const struct stat *info, int kind, struct FTW *place) {
    (void)info;
    (void)kind;
    (void)place;
    return remove(path);
}

int folder_leave(void **state) {
    (void)state;
    free(last.out);
    free(last.err);
    last = (outcome){0};
    return chdir("/") || nftw(folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

/* ---- files ---- */

void write_file(const char *name, const void *bytes, size_t n) {
    FILE *file = fopen(name, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

void write_text(const char *name, const char *text) { write_file(name, text, strlen(text)); }

char *read_file(const char *path, size_t *n) {
    gr_file file;
    if (gr_file_map(path, &file)) fail_msg("%s", grace_last_error());
    char *bytes = calloc(file.n + 1, 1);
    assert_non_null(bytes);
    memcpy(bytes, file.data, file.n);
    if (n) *n = file.n;
    gr_file_unmap(&file);
    return bytes;
}

int n_files(const char *pattern) {
    glob_t found;
    int n = glob(pattern, 0, NULL, &found) == 0 ? (int)found.gl_pathc : 0;
    globfree(&found);
    return n;
}

/* ---- a damaged model ---- */

static const char *in_copy(const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "m/%s", name);
    return path;
}

static char *read_original(const char *name, size_t *n) {
    char path[4096];
    snprintf(path, sizeof path, MODEL "/%s", name);
    return read_file(path, n);
}

void model_link(void) {
    DIR *model = opendir(MODEL);
    assert_non_null(model);
    assert_true(mkdir("m", 0777) == 0 || errno == EEXIST);
    for (struct dirent *entry; (entry = readdir(model));) {
        char target[4096];
        if (entry->d_name[0] == '.') continue;
        snprintf(target, sizeof target, MODEL "/%s", entry->d_name);
        unlink(in_copy(entry->d_name));
        assert_int_equal(symlink(target, in_copy(entry->d_name)), 0);
    }
    closedir(model);
}

void model_remove(const char *name) { assert_int_equal(unlink(in_copy(name)), 0); }

static void replace(const char *name, const void *bytes, size_t n) {
    model_remove(name);
    write_file(in_copy(name), bytes, n);
}

void model_cut(const char *name, size_t n) {
    size_t n_all;
    char *bytes = read_original(name, &n_all);
    assert_true(n < n_all);
    replace(name, bytes, n);
    free(bytes);
}

void model_edit(const char *name, const char *from, const char *to) {
    size_t n;
    char *bytes = read_original(name, &n), *at = memmem(bytes, n, from, strlen(from));
    assert_non_null(at);
    size_t before = (size_t)(at - bytes), n_out = n - strlen(from) + strlen(to);
    char *out = malloc(n_out);
    assert_non_null(out);
    memcpy(out, bytes, before);
    memcpy(out + before, to, strlen(to));
    memcpy(out + before + strlen(to), at + strlen(from), n - before - strlen(from));
    replace(name, out, n_out);
    free(out);
    free(bytes);
}

void model_poke(const char *shard, const char *tensor, const void *values, size_t n_values) {
    size_t n;
    uint64_t n_header;
    int64_t offset;
    gr_json *header = NULL;
    char *bytes = read_original(shard, &n);
    memcpy(&n_header, bytes, sizeof n_header);
    assert_int_equal(gr_json_parse(shard, bytes + 8, n_header, &header), GRACE_OK);
    assert_true(gr_json_is_int(gr_json_at(member(member(header, tensor), "data_offsets"), 0), &offset));
    memcpy(bytes + 8 + n_header + offset, values, n_values);
    replace(shard, bytes, n);
    gr_json_free(header);
    free(bytes);
}
