/* For the tests of this module: a folder that lives for one test, and small damages to its files. */
#ifndef GR_TESTS_MODEL_FOLDERS_H
#define GR_TESTS_MODEL_FOLDERS_H
#include "base/file.h"
#include "support/tiny_model.h"

static char dir[64];        /* of the running test */

static inline int enter(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/grace-model-XXXXXX");
    return !mkdtemp(dir);
}

static inline int leave(void **state) {
    (void)state;
    gr_tiny_model_remove(dir);
    return 0;
}

static inline const char *path_of(const char *name) {
    static char path[512];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static inline void write_bytes(const char *name, const void *bytes, size_t n) {
    FILE *file = fopen(path_of(name), "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, n, file), n);
    assert_int_equal(fclose(file), 0);
}

static inline void write_text(const char *name, const char *text) { write_bytes(name, text, strlen(text)); }

/* Length of the JSON in a shard: the header without its padding. */
static inline size_t header_end(const gr_file *file) {
    uint64_t n;
    memcpy(&n, file->data, 8);
    while (((const char *)file->data)[8 + n - 1] == ' ') n--;
    return 8 + n;
}

static inline void append(gr_buf *out, const void *bytes, size_t n) { assert_int_equal(gr_buf_append(out, bytes, n), GRACE_OK); }

/* Put `to` where the first `from` stands in the file. A shard's header gets its right length and padding again. */
static inline void edit(const char *name, const char *from, const char *to) {
    gr_file file;
    gr_buf out = {0};
    size_t n_name = strlen(name);
    bool shard = n_name > 12 && !strcmp(name + n_name - 12, ".safetensors");
    assert_int_equal(gr_file_map(path_of(name), &file), GRACE_OK);
    const char *bytes = file.data, *at = memmem(bytes, file.n, from, strlen(from));
    assert_non_null(at);
    const char *rest = at + strlen(from), *end = shard ? bytes + header_end(&file) : bytes + file.n;
    append(&out, bytes, (size_t)(at - bytes));
    append(&out, to, strlen(to));
    append(&out, rest, (size_t)(end - rest));
    if (shard) {
        while (out.n % 8) append(&out, " ", 1);
        uint64_t before, n_header = out.n - 8;
        memcpy(&before, bytes, 8);
        memcpy(out.data, &n_header, 8);
        append(&out, bytes + 8 + before, file.n - 8 - before);
    }
    gr_file_unmap(&file);
    write_bytes(name, out.data, out.n);
    gr_buf_free(&out);
}

/* The last failure had this code and its sentence has all these parts (the last is NULL). */
static inline void assert_failed_with(grace_status found, grace_status expected, const char *const *parts) {
    const char *text = grace_last_error();
    if (found != expected) print_error("expected %s, found %s: %s\n", grace_status_name(expected), grace_status_name(found), text);
    assert_int_equal(found, expected);
    for (; *parts; parts++) {
        if (!strstr(text, *parts)) print_error("expected '%s' in: %s\n", *parts, text);
        assert_non_null(strstr(text, *parts));
    }
}
#define assert_fails(call, status, ...) assert_failed_with((call), (status), (const char *const[]){__VA_ARGS__, NULL})

#endif
