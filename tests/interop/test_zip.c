#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "interop/bytes.h"
#include "interop/files.h"
#include "interop/zip.h"

typedef struct packer { unsigned char bytes[4096], directory[2048]; size_t n, n_directory, n_entries; } packer;

static void put(unsigned char *p, size_t *n, uint64_t value, int size) {
    for (int i = 0; i < size; i++) p[(*n)++] = (unsigned char)(value >> 8 * i);
}

/* size64: sizes and place only in a ZIP64 extra field. */
static void add(packer *z, const char *name, const char *data, int method, bool size64) {
    size_t at = z->n, n = strlen(data), name_n = strlen(name);
    put(z->bytes, &z->n, 0x04034b50, 4);
    for (int i = 0; i < 11; i++) put(z->bytes, &z->n, 0, 2);
    put(z->bytes, &z->n, name_n, 2), put(z->bytes, &z->n, 5, 2);
    memcpy(z->bytes + z->n, name, name_n), z->n += name_n;
    memcpy(z->bytes + z->n, "FB\1\0Z", 5), z->n += 5;
    memcpy(z->bytes + z->n, data, n), z->n += n;
    unsigned char *d = z->directory;
    put(d, &z->n_directory, 0x02014b50, 4), put(d, &z->n_directory, 0, 6), put(d, &z->n_directory, (uint64_t)method, 2), put(d, &z->n_directory, 0, 8);
    put(d, &z->n_directory, size64 ? UINT32_MAX : n, 4), put(d, &z->n_directory, size64 ? UINT32_MAX : n, 4);
    put(d, &z->n_directory, name_n, 2), put(d, &z->n_directory, size64 ? 28 : 0, 2), put(d, &z->n_directory, 0, 2);
    put(d, &z->n_directory, 0, 8), put(d, &z->n_directory, size64 ? UINT32_MAX : at, 4);
    memcpy(d + z->n_directory, name, name_n), z->n_directory += name_n;
    if (size64) put(d, &z->n_directory, 1, 2), put(d, &z->n_directory, 24, 2), put(d, &z->n_directory, n, 8), put(d, &z->n_directory, n, 8),
                put(d, &z->n_directory, at, 8);
    z->n_entries++;
}

static void finish(packer *z) {
    size_t at = z->n;
    memcpy(z->bytes + z->n, z->directory, z->n_directory), z->n += z->n_directory;
    put(z->bytes, &z->n, 0x06054b50, 4), put(z->bytes, &z->n, 0, 6), put(z->bytes, &z->n, z->n_entries, 2);
    put(z->bytes, &z->n, z->n_directory, 4), put(z->bytes, &z->n, at, 4), put(z->bytes, &z->n, 0, 2);
}

static bool has(const gr_zip *zip, const char *name, const char *data) {
    const gr_zip_entry *e = gr_zip_find(zip, name, strlen(name));
    return e && e->n == strlen(data) && memcmp(e->data, data, e->n) == 0;
}

static void entries_are_found_by_name(void **state) {
    (void)state;
    packer z = {0};
    gr_zip zip = {0};
    add(&z, "b", "second", 0, false), add(&z, "a", "", 0, false), add(&z, "bb", "third", 0, true);
    finish(&z);
    assert_ok(gr_zip_open("z", z.bytes, z.n, &zip));
    assert_int_equal(zip.n_entries, 3);
    assert_true(has(&zip, "b", "second") && has(&zip, "a", "") && has(&zip, "bb", "third") && !gr_zip_find(&zip, "c", 1) && !gr_zip_find(&zip, "", 0));
    gr_zip_close(&zip);
}

static void no_entries_are_fine(void **state) {
    (void)state;
    packer z = {0};
    gr_zip zip = {0};
    finish(&z);
    assert_ok(gr_zip_open("z", z.bytes, z.n, &zip));
    assert_int_equal(zip.n_entries, 0);
    assert_null(gr_zip_find(&zip, "a", 1));
    gr_zip_close(&zip);
}

static void files_of_torch_are_read(void **state) {
    (void)state;
    size_t n = 0;
    unsigned char *bytes = read_bytes(DATA "stat.pt", &n);
    gr_zip zip = {0};
    assert_ok(gr_zip_open("stat.pt", bytes, n, &zip));
    assert_true(has(&zip, "stat/byteorder", "little") && has(&zip, "stat/version", "3\n") && has(&zip, "stat/.storage_alignment", "64"));
    const gr_zip_entry *data = gr_zip_find(&zip, "stat/data/0", 11);
    assert_true(data && data->n == 144 && (data->data - bytes) % 64 == 0);
    gr_zip_close(&zip);
    free(bytes);
}

static void what_we_do_not_unpack_is_refused(void **state) {
    (void)state;
    packer deflated = {0}, twice = {0};
    gr_zip zip = {0};
    add(&deflated, "a", "x", 8, false), finish(&deflated);
    assert_failed(gr_zip_open("z", deflated.bytes, deflated.n, &zip), GRACE_ERR_UNSUPPORTED, "entry 'a' is compressed or encrypted");
    add(&twice, "a", "x", 0, false), add(&twice, "a", "y", 0, false), finish(&twice);
    assert_failed(gr_zip_open("z", twice.bytes, twice.n, &zip), GRACE_ERR_FORMAT, "two ZIP entries are called 'a'");
    assert_failed(gr_zip_open("z", "", 0, &zip), GRACE_ERR_FORMAT, "no ZIP file, or cut short");
}

/* Places, sizes and counts that point outside. offset: from the start of the directory, or of the end record. */
static void entries_that_share_their_bytes_are_refused(void **state) {
    (void)state;
    packer z = {0};
    gr_zip zip = {0};
    char data[1001];
    memset(data, 'x', 1000), data[1000] = 0;
    add(&z, "a", data, 0, false);
    unsigned char *second = z.directory + z.n_directory;
    add(&z, "b", "", 0, false);
    gr_put_le32(second + 20, 1000), gr_put_le32(second + 24, 1000), gr_put_le32(second + 42, 0);       /* sizes and place of a */
    finish(&z);
    assert_failed(gr_zip_open("z", z.bytes, z.n, &zip), GRACE_ERR_FORMAT, "entries of 2000 bytes in a file of ");
}

static void numbers_that_point_outside_are_refused(void **state) {
    (void)state;
    static const struct { bool in_end; size_t offset; uint32_t value; int size; const char *part; } cases[] = {
        {false, 42, 5, 4, "is said to be at byte 5, it is not there"}, {false, 42, 4000, 4, "is said to be at byte 4000"},
        {false, 24, 9, 4, "two sizes"},                                {false, 28, 9999, 2, "a record ends outside it"},
        {false, 0, 1, 4, "expected an entry's record"},                {true, 10, 9, 2, "9 ZIP entries do not fit a directory of"},
        {true, 12, 9999, 4, "outside the file"},                       {true, 16, 9999, 4, "outside the file"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        packer z = {0};
        gr_zip zip = {0};
        add(&z, "a", "data", 0, false), finish(&z);
        size_t at = (cases[i].in_end ? z.n - 22 : z.n - 22 - z.n_directory) + cases[i].offset;
        put(z.bytes, &at, cases[i].value, cases[i].size);
        assert_failed(gr_zip_open("z", z.bytes, z.n, &zip), GRACE_ERR_FORMAT, cases[i].part);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entries_are_found_by_name),
        cmocka_unit_test(no_entries_are_fine),
        cmocka_unit_test(files_of_torch_are_read),
        cmocka_unit_test(what_we_do_not_unpack_is_refused),
        cmocka_unit_test(entries_that_share_their_bytes_are_refused),
        cmocka_unit_test(numbers_that_point_outside_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
