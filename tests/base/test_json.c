#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "support/guard.h"

static gr_json *parsed(const char *text) {
    gr_json *value = NULL;
    assert_int_equal(gr_json_parse("t.json", text, strlen(text), &value), GRACE_OK);
    return value;
}

/* Bytes are refused with FORMAT and a sentence that has this in it. */
static void assert_refused(const char *bytes, size_t n, const char *because) {
    gr_json *value = NULL;
    const uint8_t *p = guard_copy(bytes, n);
    assert_int_equal(gr_json_parse("t.json", (const char *)p, n, &value), GRACE_ERR_FORMAT);
    guard_free(p, n);
    assert_null(value);
    if (!strstr(grace_last_error(), because)) fail_msg("expected '%s' in: %s", because, grace_last_error());
}

#define ASSERT_FAILS(call, sentence)                                  \
    do {                                                              \
        assert_int_equal((call), GRACE_ERR_FORMAT);                   \
        assert_string_equal(grace_last_error(), (sentence));          \
    } while (0)

/* ---- parsing ---- */

static void text_that_is_not_json_is_refused_with_its_place(void **state) {
    (void)state;
    assert_refused("{\"a\": 1,\n \"b\": }", 16, "t.json: no valid JSON: line 2, column 7");
    assert_refused("", 0, "t.json: no valid JSON");
    assert_refused("{\"a\": 1", 7, "t.json: no valid JSON");
    assert_refused("[1] x", 5, "end of file expected");
    assert_refused("[NaN]", 5, "invalid token");
    assert_refused("\0\0\0\0", 4, "no valid JSON");
}

static void a_key_given_twice_is_refused(void **state) {
    (void)state;
    assert_refused("{\"a\": 1, \"a\": 2}", 16, "duplicate object key");
}

static void numbers_that_do_not_fit_are_refused(void **state) {
    (void)state;
    assert_refused("[9223372036854775808, 1e400]", 28, "real number overflow");
    assert_refused("[1e400]", 7, "real number overflow");
}

/* As in tokenizer_config.json: "model_max_length": 1000000000000000019884624838656. */
static void an_integer_beyond_64_bits_is_a_real(void **state) {
    (void)state;
    static const char text[] = "{\"-9223372036854775809\": \"\\\"12345678901234567890\", \"m\": 1000000000000000019884624838656, \"n\": 7,"
                               " \"b\": [-9223372036854775809, 9223372036854775807, 1.5]}";
    gr_json *root = NULL;
    const char *string;
    double real;
    int64_t integer;
    assert_int_equal(gr_json_parse("t.json", text, sizeof text - 1, &root), GRACE_OK);
    assert_true(gr_json_is_string(gr_json_get(root, "-9223372036854775809"), &string, NULL));
    assert_string_equal(string, "\"12345678901234567890");
    assert_true(gr_json_is_real(gr_json_get(root, "m"), &real) && real == 1e30);
    assert_int_equal(gr_json_int(root, "t.json", "m", 0, INT64_MAX, &integer), GRACE_ERR_FORMAT);
    assert_true(gr_json_is_int(gr_json_get(root, "n"), &integer) && integer == 7);
    assert_true(gr_json_is_real(gr_json_at(gr_json_get(root, "b"), 0), &real) && real == -9223372036854775808.0);
    assert_true(gr_json_is_int(gr_json_at(gr_json_get(root, "b"), 1), &integer) && integer == INT64_MAX);
    gr_json_free(root);
}

static void strings_with_zero_bytes_or_broken_utf8_are_refused(void **state) {
    (void)state;
    assert_refused("[\"\\u0000\"]", 10, "\\u0000");
    assert_refused("[\"\xff\"]", 5, "decode byte 0xff");
    assert_refused("[\"\xc3\"]", 5, "decode byte 0xc3");
    assert_refused("[\"\\ud800\"]", 10, "Unicode");
}

static void deep_nesting_is_an_error_not_a_stack_overflow(void **state) {
    (void)state;
    enum { DEPTH = 100000 };
    char *text = malloc(6 * DEPTH);
    memset(text, '[', DEPTH);
    assert_refused(text, DEPTH, "depth");
    memset(text + DEPTH, ']', DEPTH);
    assert_refused(text, 2 * DEPTH, "depth");
    for (int i = 0; i < DEPTH; i++) memcpy(text + 5 * i, "{\"a\":", 5);
    assert_refused(text, 5 * DEPTH, "depth");
    free(text);
}

static void a_file_that_is_missing_or_wrong_is_named(void **state) {
    (void)state;
    gr_json *value = NULL;
    char path[] = "/tmp/grace-json-XXXXXX";
    close(mkstemp(path));
    assert_int_equal(gr_json_load("/nonexistent/x.json", &value), GRACE_ERR_IO);
    assert_int_equal(gr_json_load(path, &value), GRACE_ERR_FORMAT);
    assert_non_null(strstr(grace_last_error(), path));
    assert_null(value);
    unlink(path);
}

/* ---- looking up ---- */

static const char sample[] =
    "{\"i\": -5, \"r\": 2.5, \"s\": \"text\", \"t\": true, \"n\": null, \"list\": [1, 2.5, \"x\"], \"o\": {\"k\": 1}, \"big\": 9223372036854775807}";

static void members_are_found_by_kind(void **state) {
    (void)state;
    gr_json *o = parsed(sample);
    const gr_json *list, *object;
    const char *text;
    int64_t i;
    double r;
    bool t;
    assert_int_equal(gr_json_int(o, "t", "i", -5, 5, &i), GRACE_OK);
    assert_int_equal(i, -5);
    assert_int_equal(gr_json_int(o, "t", "big", 0, INT64_MAX, &i), GRACE_OK);
    assert_true(i == INT64_MAX);
    assert_int_equal(gr_json_real(o, "t", "r", &r), GRACE_OK);
    assert_true(r == 2.5);
    assert_int_equal(gr_json_real(o, "t", "i", &r), GRACE_OK);
    assert_true(r == -5);
    assert_int_equal(gr_json_bool_or(o, "t", "t", false, &t), GRACE_OK);
    assert_true(t);
    assert_int_equal(gr_json_string(o, "t", "s", &text), GRACE_OK);
    assert_string_equal(text, "text");
    assert_int_equal(gr_json_array(o, "t", "list", &list), GRACE_OK);
    assert_int_equal(gr_json_length(list), 3);
    assert_int_equal(gr_json_object_in(o, "t", "o", &object), GRACE_OK);
    assert_int_equal(gr_json_length(object), 1);
    gr_json_free(o);
}

static void missing_and_null_members_take_the_fallback(void **state) {
    (void)state;
    gr_json *o = parsed(sample);
    static const char *const keys[] = {"absent", "n"};
    for (int k = 0; k < 2; k++) {
        const char *text = NULL;
        int64_t i = 0;
        double r = 0;
        bool t = false;
        assert_int_equal(gr_json_int_or(o, "t", keys[k], 0, 1, 77, &i), GRACE_OK);      /* the fallback may lie outside the range */
        assert_int_equal(gr_json_real_or(o, "t", keys[k], 1.5, &r), GRACE_OK);
        assert_int_equal(gr_json_bool_or(o, "t", keys[k], true, &t), GRACE_OK);
        assert_int_equal(gr_json_string_or(o, "t", keys[k], "else", &text), GRACE_OK);
        assert_true(i == 77 && r == 1.5 && t && strcmp(text, "else") == 0);
    }
    gr_json_free(o);
}

static void wrong_members_are_refused_in_one_sentence_and_outputs_stay(void **state) {
    (void)state;
    gr_json *o = parsed(sample);
    const gr_json *json = o;
    const char *text = "kept";
    int64_t i = 42;
    double r = 42;
    bool t = true;
    ASSERT_FAILS(gr_json_int(o, "c.json", "absent", 0, 9, &i), "c.json: 'absent': expected an integer, found nothing");
    ASSERT_FAILS(gr_json_int(o, "c.json", "n", 0, 9, &i), "c.json: 'n': expected an integer, found null");
    ASSERT_FAILS(gr_json_int(o, "c.json", "r", 0, 9, &i), "c.json: 'r': expected an integer, found a number");
    ASSERT_FAILS(gr_json_int(o, "c.json", "i", 0, 9, &i), "c.json: 'i': expected 0 to 9, found -5");
    ASSERT_FAILS(gr_json_int_or(o, "c.json", "s", 0, 9, 1, &i), "c.json: 's': expected an integer, found a string");
    ASSERT_FAILS(gr_json_real(o, "c.json", "t", &r), "c.json: 't': expected a number, found a boolean");
    ASSERT_FAILS(gr_json_real_or(o, "c.json", "list", 1, &r), "c.json: 'list': expected a number, found an array");
    ASSERT_FAILS(gr_json_bool_or(o, "c.json", "i", false, &t), "c.json: 'i': expected a boolean, found an integer");
    ASSERT_FAILS(gr_json_string(o, "c.json", "o", &text), "c.json: 'o': expected a string, found an object");
    ASSERT_FAILS(gr_json_string_or(o, "c.json", "i", "x", &text), "c.json: 'i': expected a string, found an integer");
    ASSERT_FAILS(gr_json_array(o, "c.json", "o", &json), "c.json: 'o': expected an array, found an object");
    ASSERT_FAILS(gr_json_object_in(o, "c.json", "list", &json), "c.json: 'list': expected an object, found an array");
    assert_true(i == 42 && r == 42 && t && json == o && strcmp(text, "kept") == 0);
    gr_json_free(o);
}

static void elements_are_checked_like_members(void **state) {
    (void)state;
    gr_json *o = parsed(sample);
    const gr_json *list = gr_json_get(o, "list");
    int64_t i = 42;
    double r = 42;
    assert_int_equal(gr_json_int_at(list, "c", 0, 0, 9, &i), GRACE_OK);
    assert_int_equal(gr_json_real_at(list, "c", 1, &r), GRACE_OK);
    assert_true(i == 1 && r == 2.5);
    ASSERT_FAILS(gr_json_int_at(list, "c", 1, 0, 9, &i), "c: '[1]': expected an integer, found a number");
    ASSERT_FAILS(gr_json_int_at(list, "c", 0, 2, 9, &i), "c: '[0]': expected 2 to 9, found 1");
    ASSERT_FAILS(gr_json_int_at(list, "c", 3, 0, 9, &i), "c: '[3]': expected an integer, found nothing");
    ASSERT_FAILS(gr_json_real_at(list, "c", 2, &r), "c: '[2]': expected a number, found a string");
    assert_true(i == 1 && r == 2.5);
    gr_json_free(o);
}

static void asking_the_wrong_kind_gives_nothing(void **state) {
    (void)state;
    gr_json *o = parsed(sample);
    const gr_json *list = gr_json_get(o, "list"), *text = gr_json_get(o, "s");
    const char *s;
    int64_t i;
    double r;
    bool t;
    assert_null(gr_json_get(list, "k"));
    assert_null(gr_json_get(NULL, "k"));
    assert_null(gr_json_at(o, 0));
    assert_null(gr_json_at(list, 3));
    assert_int_equal(gr_json_length(text), 0);
    assert_int_equal(gr_json_length(NULL), 0);
    assert_null(gr_json_first(list));
    assert_false(gr_json_is_int(text, &i) || gr_json_is_real(text, &r) || gr_json_is_bool(text, &t) || gr_json_is_string(list, &s, NULL));
    assert_false(gr_json_is_int(NULL, &i) || gr_json_is_real(NULL, &r) || gr_json_is_bool(NULL, &t) || gr_json_is_string(NULL, &s, NULL));
    assert_int_equal(gr_json_kind_of(NULL), GR_JSON_NULL);
    gr_json_free(o);
    gr_json_free(NULL);
}

static void each_value_knows_its_kind(void **state) {
    (void)state;
    static const gr_json_kind kinds[] = {GR_JSON_INT, GR_JSON_REAL, GR_JSON_STRING, GR_JSON_BOOL, GR_JSON_NULL, GR_JSON_ARRAY, GR_JSON_OBJECT};
    static const char *const keys[] = {"i", "r", "s", "t", "n", "list", "o"};
    gr_json *o = parsed(sample);
    for (int k = 0; k < 7; k++) assert_int_equal(gr_json_kind_of(gr_json_get(o, keys[k])), kinds[k]);
    gr_json_free(o);
}

static void members_come_in_file_order(void **state) {
    (void)state;
    gr_json *o = parsed("{\"z\": 0, \"a\": 1, \"m\": 2, \"b\": 3}");
    char keys[8] = "";
    int64_t n = 0, i;
    for (const gr_json_member *m = gr_json_first(o); m; m = gr_json_next(o, m)) {
        strcat(keys, gr_json_key(m));
        assert_true(gr_json_is_int(gr_json_value(m), &i));
        assert_int_equal(i, n++);
    }
    assert_string_equal(keys, "zamb");
    gr_json_free(o);
}

/* ---- building ---- */

static void what_is_built_is_written_in_order(void **state) {
    (void)state;
    gr_json *o = gr_json_new_object(), *list = gr_json_new_array();
    char *text = NULL;
    size_t n = 0;
    gr_json_set_int(o, "i", INT64_MIN);
    gr_json_set_real(o, "r", 0.5);
    gr_json_set_bool(o, "t", true);
    gr_json_set_null(o, "n");
    gr_json_set_string(o, "s", "a\"b\n\xc3\xa9");
    gr_json_set_hex(o, "h", 0xABCu);
    gr_json_set_ints(o, "is", (int32_t[]){1, INT32_MIN}, 2);
    gr_json_set_reals(o, "rs", NULL, 0);
    gr_json_push_int(list, 7);
    gr_json_push_real(list, 1e300);
    gr_json_push_string(list, "x");
    gr_json_push(list, gr_json_new_array());
    gr_json_set(o, "l", list);
    assert_int_equal(gr_json_write(o, 0, &text, &n), GRACE_OK);
    assert_string_equal(text, "{\"i\": -9223372036854775808, \"r\": 0.5, \"t\": true, \"n\": null, \"s\": \"a\\\"b\\n\xc3\xa9\", "
                              "\"h\": \"0000000000000abc\", \"is\": [1, -2147483648], \"rs\": [], \"l\": [7, 1.0000000000000001e300, \"x\", []]}");
    assert_int_equal(n, strlen(text));
    free(text);
    gr_json_free(o);
}

static void what_json_cannot_hold_becomes_null_and_of_text_the_ascii_stays(void **state) {
    (void)state;
    gr_json *o = gr_json_new_array();
    char *text = NULL;
    gr_json_push_real(o, NAN);
    gr_json_push_real(o, -INFINITY);
    gr_json_push_string(o, NULL);
    gr_json_push_string(o, "tr\xe9.csv");
    assert_int_equal(gr_json_write(o, 0, &text, NULL), GRACE_OK);
    assert_string_equal(text, "[null, null, null, \"tr?.csv\"]");
    free(text);
    gr_json_free(o);
}

static void a_member_that_could_not_be_added_fails_the_write_and_only_that_one(void **state) {
    (void)state;
    gr_json *o = gr_json_new_object(), *list = gr_json_new_array();
    char *text = NULL;
    gr_json_set(o, "lost", NULL);               /* what a failed allocation passes */
    assert_int_equal(gr_json_write(o, 0, &text, NULL), GRACE_ERR_MEMORY);
    assert_int_equal(gr_json_write(o, 0, &text, NULL), GRACE_OK);
    free(text);
    gr_json_push(list, NULL);
    assert_int_equal(gr_json_write(list, 0, &text, NULL), GRACE_ERR_MEMORY);
    gr_json_set_int(NULL, "k", 1);              /* the container itself could not be had */
    assert_int_equal(gr_json_write(NULL, 0, &text, NULL), GRACE_ERR_MEMORY);
    gr_json_free(o);
    gr_json_free(list);
}

static double random_double(gr_rng *rng) {
    union { uint64_t bits; double value; } x;
    do x.bits = gr_rng_next(rng);
    while (!isfinite(x.value));
    return x.value;
}

static void a_double_read_back_is_the_double_written(void **state) {
    (void)state;
    static const double edges[] = {0.0, -0.0, 1.0 / 3, DBL_MAX, DBL_MIN, 4.9e-324, 9007199254740993.0, -1e17};
    enum { N_EDGES = sizeof edges / sizeof *edges };
    gr_rng rng = gr_rng_seed(11);
    for (int i = 0; i < 2000; i++) {
        double before = i < N_EDGES ? edges[i] : random_double(&rng), after = 0;
        gr_json *o = gr_json_new_object(), *again = NULL;
        char *text = NULL;
        size_t n = 0;
        gr_json_set_reals(o, "x", &before, 1);
        assert_int_equal(gr_json_write(o, i % 2, &text, &n), GRACE_OK);
        assert_int_equal(gr_json_parse("written", text, n, &again), GRACE_OK);
        assert_int_equal(gr_json_real_at(gr_json_get(again, "x"), "t", 0, &after), GRACE_OK);
        assert_memory_equal(&before, &after, sizeof before);
        free(text);
        gr_json_free(o);
        gr_json_free(again);
    }
}

static void a_saved_value_is_loaded_and_its_file_ends_in_a_newline(void **state) {
    (void)state;
    char path[] = "/tmp/grace-json-XXXXXX";
    gr_json *o = parsed(sample), *again = NULL;
    gr_file file;
    char *a, *b;
    close(mkstemp(path));
    assert_int_equal(gr_json_save(o, path), GRACE_OK);
    assert_int_equal(gr_file_map(path, &file), GRACE_OK);
    assert_int_equal(((const char *)file.data)[file.n - 1], '\n');
    gr_file_unmap(&file);
    assert_int_equal(gr_json_load(path, &again), GRACE_OK);
    assert_int_equal(gr_json_write(o, 0, &a, NULL) | gr_json_write(again, 0, &b, NULL), GRACE_OK);
    assert_string_equal(a, b);
    assert_int_equal(gr_json_save(o, "/nonexistent/x.json"), GRACE_ERR_IO);
    free(a);
    free(b);
    gr_json_free(o);
    gr_json_free(again);
    unlink(path);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_that_is_not_json_is_refused_with_its_place),
        cmocka_unit_test(a_key_given_twice_is_refused),
        cmocka_unit_test(numbers_that_do_not_fit_are_refused),
        cmocka_unit_test(an_integer_beyond_64_bits_is_a_real),
        cmocka_unit_test(strings_with_zero_bytes_or_broken_utf8_are_refused),
        cmocka_unit_test(deep_nesting_is_an_error_not_a_stack_overflow),
        cmocka_unit_test(a_file_that_is_missing_or_wrong_is_named),
        cmocka_unit_test(members_are_found_by_kind),
        cmocka_unit_test(missing_and_null_members_take_the_fallback),
        cmocka_unit_test(wrong_members_are_refused_in_one_sentence_and_outputs_stay),
        cmocka_unit_test(elements_are_checked_like_members),
        cmocka_unit_test(asking_the_wrong_kind_gives_nothing),
        cmocka_unit_test(each_value_knows_its_kind),
        cmocka_unit_test(members_come_in_file_order),
        cmocka_unit_test(what_is_built_is_written_in_order),
        cmocka_unit_test(what_json_cannot_hold_becomes_null_and_of_text_the_ascii_stays),
        cmocka_unit_test(a_member_that_could_not_be_added_fails_the_write_and_only_that_one),
        cmocka_unit_test(a_double_read_back_is_the_double_written),
        cmocka_unit_test(a_saved_value_is_loaded_and_its_file_ends_in_a_newline),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
