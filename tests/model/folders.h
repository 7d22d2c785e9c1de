/* For the tests of this module: a folder that lives for one test, and small damages to its files. */
#ifndef GR_TESTS_MODEL_FOLDERS_H
#define GR_TESTS_MODEL_FOLDERS_H
#include "base/file.h"
#include "model/safetensors.h"
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

static inline void describe(gr_buf *header, const char *name, const char *dtype, const char *shape, size_t begin, size_t end) {
    assert_int_equal(gr_buf_printf(header, "%s\"%s\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[%zu,%zu]}", header->n ? "," : "{", name, dtype, shape,
                                   begin, end), GRACE_OK);
}

/* A matrix [rows, cols] of at most 128 x 128 in a shard becomes zeros of fp8, with its scale; its bytes are the last of the file. */
static inline void make_fp8(const char *shard_name, const char *name, int rows, int cols) {
    gr_shard shard;
    gr_buf header = {0}, data = {0}, file = {0};
    char scale[160], shape[64];
    snprintf(scale, sizeof scale, "%s_scale_inv", name);
    assert_int_equal(gr_shard_open(path_of(shard_name), &shard), GRACE_OK);
    describe(&header, scale, "F32", "[1,1]", 0, 4);
    append(&data, "\0\0\0", 4);
    for (int32_t i = 0; i < shard.n_tensors; i++) {
        const gr_shard_tensor *t = &shard.tensors[i];
        if (!strcmp(t->name, name)) continue;
        const char *format = t->n_dims == 1 ? "[%d]" : t->n_dims == 2 ? "[%d,%d]" : "[%d,%d,%d]";
        snprintf(shape, sizeof shape, format, (int)t->shape[0], (int)t->shape[1], (int)t->shape[2]);
        describe(&header, t->name, t->dtype, shape, data.n, data.n + t->n_bytes);
        append(&data, t->data, t->n_bytes);
    }
    gr_shard_close(&shard);
    snprintf(shape, sizeof shape, "[%d,%d]", rows, cols);
    describe(&header, name, "F8_E4M3", shape, data.n, data.n + (size_t)(rows * cols));
    for (int i = 0; i < rows * cols; i++) append(&data, "", 1);
    append(&header, "}", 1);
    while (header.n % 8) append(&header, " ", 1);
    append(&file, &(uint64_t){header.n}, 8);
    append(&file, header.data, header.n);
    append(&file, data.data, data.n);
    write_bytes(shard_name, file.data, file.n);
    gr_buf_free(&header), gr_buf_free(&data), gr_buf_free(&file);
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
