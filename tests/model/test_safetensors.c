#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "model/folders.h"
#include "model/safetensors.h"
#include "support/guard.h"

/* Header text and n_data bytes 0, 1, 2, ... of data as a shard that ends at an unmapped page. */
static grace_status parse_with_length(uint64_t n_header, const char *header, size_t n_data, gr_shard *out) {
    static const uint8_t *bytes;
    static size_t n;
    gr_buf file = {0};
    guard_free(bytes, n);       /* those of the call before: a parsed shard borrows them */
    assert_int_equal(gr_buf_append(&file, &n_header, 8), GRACE_OK);
    assert_int_equal(gr_buf_append(&file, header, strlen(header)), GRACE_OK);
    for (size_t i = 0; i < n_data; i++) assert_int_equal(gr_buf_append(&file, &(char){(char)i}, 1), GRACE_OK);
    bytes = guard_copy(file.data, n = file.n);
    gr_buf_free(&file);
    return gr_shard_parse("s", bytes, n, out);
}

static grace_status parse(const char *header, size_t n_data, gr_shard *out) { return parse_with_length(strlen(header), header, n_data, out); }

static void tensors_are_found_by_name_where_their_offsets_say(void **state) {
    (void)state;
    gr_shard shard = {0};
    assert_int_equal(parse("{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"BF16\",\"shape\":[2,4],\"data_offsets\":[0,16]},"
                           "\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[16,28]}}    ", 28, &shard), GRACE_OK);
    assert_int_equal(shard.n_tensors, 2);
    const gr_shard_tensor *a = gr_shard_find(&shard, "a"), *b = gr_shard_find(&shard, "b");
    assert_non_null(a);
    assert_non_null(b);
    assert_string_equal(a->dtype, "F32");
    assert_int_equal(a->n_dims, 1);
    assert_int_equal(a->shape[0], 3);
    assert_int_equal(a->n_bytes, 12);
    assert_int_equal(*(const uint8_t *)a->data, 16);
    assert_int_equal(b->shape[0], 2);
    assert_int_equal(b->shape[1], 4);
    assert_int_equal(*(const uint8_t *)b->data, 0);
    assert_null(gr_shard_find(&shard, "c"));
    assert_null(gr_shard_find(&shard, "__metadata__"));
    gr_shard_close(&shard);
}

static void scalars_empty_tensors_and_narrow_types_are_sized_right(void **state) {
    (void)state;
    gr_shard shard = {0};
    assert_int_equal(parse("{\"z\":{\"dtype\":\"I8\",\"shape\":[0,5],\"data_offsets\":[8,8]},\"s\":{\"dtype\":\"F64\",\"shape\":[],\"data_offsets\":[0,8]},"
                           "\"n\":{\"dtype\":\"F4\",\"shape\":[2],\"data_offsets\":[8,9]}}", 9, &shard), GRACE_OK);
    assert_int_equal(gr_shard_find(&shard, "s")->n_bytes, 8);
    assert_int_equal(gr_shard_find(&shard, "z")->n_bytes, 0);
    assert_int_equal(gr_shard_find(&shard, "n")->n_bytes, 1);
    gr_shard_close(&shard);
    assert_int_equal(parse("{}", 0, &shard), GRACE_OK);
    assert_int_equal(shard.n_tensors, 0);
    assert_null(gr_shard_find(&shard, "a"));
    gr_shard_close(&shard);
}

static void a_header_that_is_no_header_is_refused(void **state) {
    (void)state;
    gr_shard shard = {0};
    const char *tensor = "{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]}}";
    assert_fails(gr_shard_parse("s", "1234567", 7, &shard), GRACE_ERR_FORMAT, "at least 8 bytes", "7");
    assert_fails(parse_with_length(UINT64_MAX, tensor, 1, &shard), GRACE_ERR_LIMIT, "18446744073709551615", "100000000");
    assert_fails(parse_with_length(UINT64_MAX - 6, tensor, 1, &shard), GRACE_ERR_LIMIT, "header of");     /* 8 + length wraps to 1 */
    assert_fails(parse_with_length(100, tensor, 1, &shard), GRACE_ERR_FORMAT, "header says 100", "cut short");
    assert_fails(parse_with_length(10, tensor, 1, &shard), GRACE_ERR_FORMAT, "no valid JSON");
    assert_fails(parse("", 0, &shard), GRACE_ERR_FORMAT, "no valid JSON");
    assert_fails(parse("[1]", 0, &shard), GRACE_ERR_FORMAT, "expected an object, found an array");
    assert_fails(parse("{\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1]},\"a\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[1,2]}}",
                       2, &shard), GRACE_ERR_FORMAT, "duplicate");
    assert_null(shard.arena);
}

static void an_entry_of_the_wrong_kind_is_refused_by_name(void **state) {
    (void)state;
    gr_shard shard = {0};
    assert_fails(parse("{\"ab\":3}", 0, &shard), GRACE_ERR_FORMAT, "'ab'", "expected an object, found an integer");
    assert_fails(parse("{\"ab\":{\"dtype\":3,\"shape\":[1],\"data_offsets\":[0,1]}}", 1, &shard), GRACE_ERR_FORMAT, "'ab'", "'dtype'");
    assert_fails(parse("{\"ab\":{\"dtype\":\"U9\",\"shape\":[1],\"data_offsets\":[0,1]}}", 1, &shard), GRACE_ERR_UNSUPPORTED, "'ab'", "'U9'");
    assert_fails(parse("{\"ab\":{\"dtype\":\"U8\",\"data_offsets\":[0,1]}}", 1, &shard), GRACE_ERR_FORMAT, "'ab'", "'shape'", "found nothing");
    assert_fails(parse("{\"ab\":{\"dtype\":\"U8\",\"shape\":[-1],\"data_offsets\":[0,1]}}", 1, &shard), GRACE_ERR_FORMAT, "'ab'", "found -1");
    assert_fails(parse("{\"ab\":{\"dtype\":\"U8\",\"shape\":[1.0],\"data_offsets\":[0,1]}}", 1, &shard), GRACE_ERR_FORMAT, "'ab'", "a number");
    assert_fails(parse("{\"ab\":{\"dtype\":\"U8\",\"shape\":[1,1,1,1,1,1,1,1,1],\"data_offsets\":[0,1]}}", 1, &shard), GRACE_ERR_LIMIT, "9", "8");
    assert_fails(parse("{\"ab\":{\"dtype\":\"U8\",\"shape\":[1],\"data_offsets\":[0,1,2]}}", 1, &shard), GRACE_ERR_FORMAT, "expected 2", "found 3");
    assert_fails(parse("{\"ab\":{\"dtype\":\"U8\",\"shape\":[1]}}", 1, &shard), GRACE_ERR_FORMAT, "'data_offsets'", "found nothing");
}

static void offsets_that_do_not_fit_shape_or_file_are_refused(void **state) {
    (void)state;
    gr_shard shard = {0};
    assert_fails(parse("{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,16]}}", 15, &shard), GRACE_ERR_FORMAT, "end at 16", "15 bytes");
    assert_fails(parse("{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[16,0]}}", 16, &shard), GRACE_ERR_FORMAT, "begin at 16", "at 0");
    assert_fails(parse("{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[-16,0]}}", 16, &shard), GRACE_ERR_FORMAT, "found -16");
    assert_fails(parse("{\"a\":{\"dtype\":\"F32\",\"shape\":[4],\"data_offsets\":[0,8]}}", 8, &shard), GRACE_ERR_FORMAT, "ask for 16", "span 8");
    assert_fails(parse("{\"a\":{\"dtype\":\"F4\",\"shape\":[3],\"data_offsets\":[0,1]}}", 1, &shard), GRACE_ERR_FORMAT, "no possible number");
}

/* 2^32 * 2^32 * 4 is 2^66: in 64 bits that is 0, which would fit the offsets. */
static void a_shape_whose_size_overflows_is_refused(void **state) {
    (void)state;
    gr_shard shard = {0};
    assert_fails(parse("{\"a\":{\"dtype\":\"U8\",\"shape\":[4294967296,4294967296,4],\"data_offsets\":[0,0]}}", 0, &shard), GRACE_ERR_FORMAT,
                 "no possible number");
    assert_fails(parse("{\"a\":{\"dtype\":\"F32\",\"shape\":[576460752303423488],\"data_offsets\":[0,0]}}", 0, &shard), GRACE_ERR_FORMAT,
                 "no possible number");     /* 2^59 * 32 bits */
}

static void every_byte_of_data_belongs_to_exactly_one_tensor(void **state) {
    (void)state;
    gr_shard shard = {0};
    const char *two = "{\"a\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[%d,%d]},\"b\":{\"dtype\":\"F16\",\"shape\":[4],\"data_offsets\":[%d,%d]}}";
    const struct { int a, b; size_t n; const char *says; } cases[] = {
        {0, 8, 16, NULL}, {8, 0, 16, NULL}, {0, 4, 12, "overlaps"}, {0, 0, 8, "overlaps"}, {4, 0, 12, "overlaps"},
        {0, 10, 18, "belong to no tensor"}, {1, 9, 17, "belong to no tensor"}, {0, 8, 17, "end at byte 16 of the data, the file has 17"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char header[256];
        snprintf(header, sizeof header, two, cases[i].a, cases[i].a + 8, cases[i].b, cases[i].b + 8);
        grace_status st = parse(header, cases[i].n, &shard);
        if (cases[i].says) assert_fails(st, GRACE_ERR_FORMAT, cases[i].says);
        else assert_int_equal(st, GRACE_OK);
        gr_shard_close(&shard);
    }
}

static void a_file_cut_at_any_length_is_refused(void **state) {
    (void)state;
    gr_shard shard = {0};
    gr_tiny_model_options opt = gr_tiny_model_defaults();
    opt.n_layers = 1, opt.n_experts = 1, opt.top_k = 1, opt.vocab = 4, opt.hidden = 4, opt.width = 2;
    gr_file file;
    assert_int_equal(gr_tiny_model_write(dir, &opt), 0);
    assert_int_equal(gr_file_map(path_of("model.safetensors"), &file), GRACE_OK);
    for (size_t n = 0; n < file.n; n++) {
        const uint8_t *bytes = guard_copy(file.data, n);
        assert_int_not_equal(gr_shard_parse("s", bytes, n, &shard), GRACE_OK);
        guard_free(bytes, n);
    }
    assert_int_equal(gr_shard_parse("s", file.data, file.n, &shard), GRACE_OK);
    gr_shard_close(&shard);
    gr_file_unmap(&file);
}

static void a_shard_opened_from_a_file_is_that_file(void **state) {
    (void)state;
    gr_shard shard = {0};
    assert_fails(gr_shard_open(path_of("none"), &shard), GRACE_ERR_IO, "none", "No such file");
    write_bytes("empty", "", 0);
    assert_fails(gr_shard_open(path_of("empty"), &shard), GRACE_ERR_FORMAT, "empty", "found 0");
    gr_tiny_model_options opt = gr_tiny_model_defaults();
    assert_int_equal(gr_tiny_model_write(dir, &opt), 0);
    assert_int_equal(gr_shard_open(path_of("model.safetensors"), &shard), GRACE_OK);
    assert_string_equal(shard.path, path_of("model.safetensors"));
    assert_int_equal(shard.n_tensors, 3 + opt.n_layers * (9 + 3 * opt.n_experts));
    const gr_shard_tensor *embed = gr_shard_find(&shard, "model.embed_tokens.weight");
    assert_true((const char *)embed->data > (const char *)shard.file.data);
    gr_shard_close(&shard);
    gr_shard_close(&shard);     /* a closed one is a zeroed one */
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tensors_are_found_by_name_where_their_offsets_say),
        cmocka_unit_test(scalars_empty_tensors_and_narrow_types_are_sized_right),
        cmocka_unit_test(a_header_that_is_no_header_is_refused),
        cmocka_unit_test(an_entry_of_the_wrong_kind_is_refused_by_name),
        cmocka_unit_test(offsets_that_do_not_fit_shape_or_file_are_refused),
        cmocka_unit_test(a_shape_whose_size_overflows_is_refused),
        cmocka_unit_test(every_byte_of_data_belongs_to_exactly_one_tensor),
        cmocka_unit_test_setup_teardown(a_file_cut_at_any_length_is_refused, enter, leave),
        cmocka_unit_test_setup_teardown(a_shard_opened_from_a_file_is_that_file, enter, leave),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
