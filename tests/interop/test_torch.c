#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "interop/files.h"
#include "interop/torch.h"

/* arange(48, int32) as [2, 4, 6], then [:, 1:3, 2:] with the first two dimensions swapped: offset 8, strides 6, 24, 1. Saved by torch 2.11.0. */
static void views_are_read_through_offset_and_strides(void **state) {
    (void)state;
    size_t n = 0;
    unsigned char *bytes = read_bytes(DATA "strided.pt", &n);
    gr_torch file = {0};
    gr_tensor t;
    assert_ok(gr_torch_open("strided.pt", bytes, n, &file));
    assert_ok(gr_torch_tensor(&file, &file.pickle.root, "logical_count", 3, 3, &t));
    assert_true(t.size[0] == 2 && t.size[1] == 2 && t.size[2] == 4 && t.n == 16 && gr_tensor_is_integer(&t));
    for (int64_t i = 0; i < 2; i++)
        for (int64_t j = 0; j < 2; j++)
            for (int64_t k = 0; k < 4; k++) {
                int64_t at = t.offset + i * t.stride[0] + j * t.stride[1] + k * t.stride[2];
                assert_int_equal(gr_tensor_int(&t, at), j * 24 + (i + 1) * 6 + k + 2);
                assert_true(gr_tensor_real(&t, at) == (double)gr_tensor_int(&t, at));
            }
    assert_true(gr_pickle_get(&file.pickle, &file.pickle.root, "f")->real == 1.5);
    assert_true(gr_pickle_get(&file.pickle, &file.pickle.root, "big")->integer == (int64_t)1 << 40);
    assert_failed(gr_torch_tensor(&file, &file.pickle.root, "logical_count", 1, 2, &t), GRACE_ERR_FORMAT, "expected 1 to 2 dimensions, found 3");
    assert_failed(gr_torch_tensor(&file, &file.pickle.root, "f", 1, 2, &t), GRACE_ERR_FORMAT, "'f': expected a tensor, found a number");
    assert_failed(gr_torch_tensor(&file, &file.pickle.root, "none", 1, 2, &t), GRACE_ERR_FORMAT, "'none': expected a tensor, found nothing");
    gr_torch_close(&file);
    free(bytes);
}

static void every_kind_of_number_is_read(void **state) {
    (void)state;
    const unsigned char ones[8] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    const float f = -2.5f;
    const double d = 1e300;
    assert_int_equal(gr_tensor_int(&(gr_tensor){.data = ones, .dtype = GR_U8}, 0), 255);
    for (int dtype = GR_I8; dtype <= GR_I64; dtype++) assert_int_equal(gr_tensor_int(&(gr_tensor){.data = ones, .dtype = (gr_dtype)dtype}, 0), -1);
    assert_true(gr_tensor_real(&(gr_tensor){.data = (const unsigned char *)&f, .dtype = GR_F32}, 0) == -2.5);
    assert_true(gr_tensor_real(&(gr_tensor){.data = (const unsigned char *)&d, .dtype = GR_F64}, 0) == 1e300);
    assert_false(gr_tensor_is_integer(&(gr_tensor){.dtype = GR_F32}));
}

/* The same length, so that nothing moves: names and words inside the file are overwritten. */
static void replace(unsigned char *bytes, size_t n, const char *from, const char *to) {
    size_t length = strlen(from);
    for (size_t i = 0; i + length <= n; i++)
        if (memcmp(bytes + i, from, length) == 0) memcpy(bytes + i, to, length);
}

static void files_that_do_not_fit_together_are_refused(void **state) {
    (void)state;
    static const struct { const char *from, *to, *part; grace_status status; } cases[] = {
        {"stat/data.pkl", "stat/datb.pkl", "a ZIP file without data.pkl", GRACE_ERR_FORMAT},
        {"little", "biggie", "byte order 'biggie', expected little", GRACE_ERR_UNSUPPORTED},
        {"stat/data/0", "stat/data/1", "there is no file 'data/0' with its elements", GRACE_ERR_FORMAT},
        {"IntStorage", "XntStorage", "asks for torch.XntStorage", GRACE_ERR_UNSUPPORTED},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = 0;
        unsigned char *bytes = read_bytes(DATA "stat.pt", &n);
        gr_torch file = {0};
        gr_tensor t;
        replace(bytes, n, cases[i].from, cases[i].to);
        grace_status st = gr_torch_open("stat.pt", bytes, n, &file);
        if (!st) st = gr_torch_tensor(&file, &file.pickle.root, "logical_count", 1, 8, &t);
        assert_failed(st, cases[i].status, cases[i].part);
        gr_torch_close(&file);
        free(bytes);
    }
}

static void a_short_storage_is_refused(void **state) {
    (void)state;
    size_t n = 0;
    unsigned char *bytes = read_bytes(DATA "stat.pt", &n);
    gr_torch file = {0};
    gr_tensor t;
    assert_ok(gr_torch_open("stat.pt", bytes, n, &file));
    file.pickle.storages[0].dtype = GR_I64;
    assert_failed(gr_torch_tensor(&file, &file.pickle.root, "logical_count", 1, 8, &t), GRACE_ERR_FORMAT,
                  "36 elements of 8 bytes, the file 'data/0' has 144 bytes");
    gr_torch_close(&file);
    free(bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(views_are_read_through_offset_and_strides),
        cmocka_unit_test(every_kind_of_number_is_read),
        cmocka_unit_test(files_that_do_not_fit_together_are_refused),
        cmocka_unit_test(a_short_storage_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
