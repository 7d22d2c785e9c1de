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
    static char path[256];
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

/* Put `to` where the first `from` stands in the file; a safetensors header's length is put right. */
static inline void edit(const char *name, const char *from, const char *to) {
    gr_file file;
    gr_buf out = {0};
    bool shard = strstr(name, ".safetensors") && !strstr(name, ".json");
    assert_int_equal(gr_file_map(path_of(name), &file), GRACE_OK);
    const char *at = memmem(file.data, file.n, from, strlen(from));
    assert_non_null(at);
    size_t before = (size_t)(at - (const char *)file.data), after = before + strlen(from);
    assert_int_equal(gr_buf_append(&out, file.data, before), GRACE_OK);
    assert_int_equal(gr_buf_append(&out, to, strlen(to)), GRACE_OK);
    assert_int_equal(gr_buf_append(&out, (const char *)file.data + after, file.n - after), GRACE_OK);
    if (shard) {
        uint64_t n_header;
        memcpy(&n_header, out.data, 8);
        n_header += strlen(to) - strlen(from);
        memcpy(out.data, &n_header, 8);
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
