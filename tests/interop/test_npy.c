#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "interop/files.h"
#include "interop/npy.h"

/* numpy.save of an array of that header and data: length padded to 64 as NumPy does, unless cut is set. */
static size_t make(unsigned char *out, const char *dict, const void *data, size_t n) {
    size_t length = strlen(dict) + 1, padded = (10 + length + 63) / 64 * 64 - 10;
    memcpy(out, "\x93NUMPY\1\0", 8);
    out[8] = (unsigned char)padded, out[9] = (unsigned char)(padded >> 8);
    memset(out + 10, ' ', padded);
    memcpy(out + 10, dict, length - 1);
    out[10 + padded - 1] = '\n';
    memcpy(out + 10 + padded, data, n);
    return 10 + padded + n;
}

static void every_whole_type_is_read(void **state) {
    (void)state;
    static const struct { const char *type; int n; int64_t expected; } cases[] = {
        {"|b1", 1, 255}, {"|u1", 1, 255}, {"|i1", 1, -1}, {"<i2", 2, -1}, {"<u2", 2, 65535}, {"<i4", 4, -1}, {"<u4", 4, UINT32_MAX}, {"<i8", 8, -1},
    };
    unsigned char bytes[256], ones[8];
    memset(ones, 0xff, sizeof ones);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char dict[128];
        gr_npy npy;
        snprintf(dict, sizeof dict, "{'descr': '%s', 'fortran_order': False, 'shape': (1,), }", cases[i].type);
        assert_ok(gr_npy_parse("n", bytes, make(bytes, dict, ones, (size_t)cases[i].n), &npy));
        assert_int_equal(gr_npy_int(&npy, 0), cases[i].expected);
    }
}

static void shapes_are_read(void **state) {
    (void)state;
    unsigned char bytes[256], data[24] = {0};
    gr_npy npy;
    assert_ok(gr_npy_parse("n", bytes, make(bytes, "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3, 4), }", data, 24), &npy));
    assert_true(npy.n_dims == 3 && npy.size[0] == 2 && npy.size[2] == 4 && npy.n == 24);
    assert_ok(gr_npy_parse("n", bytes, make(bytes, "{'shape':(),'descr':'|u1','fortran_order':False}", data, 1), &npy));
    assert_true(npy.n_dims == 0 && npy.n == 1);
    assert_ok(gr_npy_parse("n", bytes, make(bytes, "{'descr': '|u1', 'fortran_order': False, 'shape': (0, 5), }", data, 0), &npy));
    assert_int_equal(npy.n, 0);
}

/* What numpy.save makes of arange(6, dtype=int32).reshape(2, 3). */
static void the_bytes_are_those_of_numpy(void **state) {
    (void)state;
    const int32_t values[6] = {0, 1, 2, 3, 4, 5};
    const int64_t size[2] = {2, 3};
    gr_buf out = {0};
    gr_npy npy;
    assert_ok(gr_npy_print(values, size, 2, &out));
    assert_int_equal(out.n, 128 + 24);
    assert_memory_equal(out.data, "\x93NUMPY\1\0\x76\0{'descr': '<i4', 'fortran_order': False, 'shape': (2, 3), }", 10 + 59);
    assert_true(out.data[69] == ' ' && out.data[126] == ' ' && out.data[127] == '\n' && out.data[132] == 1);
    assert_ok(gr_npy_parse("n", out.data, out.n, &npy));
    for (int i = 0; i < 6; i++) assert_int_equal(gr_npy_int(&npy, i), i);
    gr_buf_free(&out);
}

static void other_files_are_refused(void **state) {
    (void)state;
    static const struct { const char *dict; size_t n; grace_status status; const char *part; } cases[] = {
        {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", 4, GRACE_ERR_UNSUPPORTED, "found '<f4'"},
        {"{'descr': '>i4', 'fortran_order': False, 'shape': (1,), }", 4, GRACE_ERR_UNSUPPORTED, "found '>i4'"},
        {"{'descr': [('a', '<i4')], 'fortran_order': False, 'shape': (1,), }", 4, GRACE_ERR_FORMAT, "expected \"'\""},
        {"{'descr': '<i4', 'fortran_order': True, 'shape': (1,), }", 4, GRACE_ERR_UNSUPPORTED, "Fortran order"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }", 4, GRACE_ERR_FORMAT, "2 elements of 4 bytes, found 4 bytes"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (1,), }", 5, GRACE_ERR_FORMAT, "1 elements of 4 bytes, found 5 bytes"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (4611686018427387, 4611686018427387), }", 4, GRACE_ERR_FORMAT, "more than 2^63 elements"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (9999999999999999999,), }", 4, GRACE_ERR_FORMAT, "more than 18 digits"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (-1,), }", 4, GRACE_ERR_FORMAT, "expected a number"},
        {"{'descr': '<i4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1), }", 4, GRACE_ERR_FORMAT, "more than 8 dimensions"},
        {"{'descr': '<i4', 'fortran_order': False}", 4, GRACE_ERR_FORMAT, "expected descr, fortran_order and shape"},
        {"{'descr': '<i4', 'descr': '<i4'}", 4, GRACE_ERR_FORMAT, "once each"},
        {"__import__('os')", 4, GRACE_ERR_FORMAT, "expected \"{\""},
    };
    unsigned char bytes[512], data[8] = {0};
    gr_npy npy;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_failed(gr_npy_parse("n", bytes, make(bytes, cases[i].dict, data, cases[i].n), &npy), cases[i].status, cases[i].part);
    assert_failed(gr_npy_parse("n", "\x93NUMPX\1\0\0\0", 10, &npy), GRACE_ERR_FORMAT, "no .npy file");
    assert_failed(gr_npy_parse("n", "\x93NUMPY\3\0\0\0", 10, &npy), GRACE_ERR_UNSUPPORTED, "version 3.0");
    assert_failed(gr_npy_parse("n", "\x93NUMPY\1\0\1\0", 10, &npy), GRACE_ERR_FORMAT, "cut short");
    assert_failed(gr_npy_parse("n", "\x93NUMPY\2\0\1\0", 10, &npy), GRACE_ERR_FORMAT, "cut short");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_whole_type_is_read),
        cmocka_unit_test(shapes_are_read),
        cmocka_unit_test(the_bytes_are_those_of_numpy),
        cmocka_unit_test(other_files_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
