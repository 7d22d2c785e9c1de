#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "base/csv.h"

static void assert_ok(grace_status st) {
    if (st) fail_msg("%s", grace_last_error());
}

static void assert_failed(grace_status st, grace_status expected, const char *part) {
    assert_int_equal(st, expected);
    if (!strstr(grace_last_error(), part)) fail_msg("'%s' is not in '%s'", part, grace_last_error());
}

static const char *const names[] = {"b", "a"};

static grace_status read_all(const char *text, double *values, int32_t *n_rows) {
    gr_csv csv;
    bool more = true;
    grace_status st = gr_csv_open("t.csv", text, strlen(text), names, 2, &csv);
    for (*n_rows = 0; !st && more; *n_rows += more) st = gr_csv_next(&csv, values + 2 * *n_rows, &more);
    return st;
}

static void columns_are_found_by_name_and_others_ignored(void **state) {
    (void)state;
    double v[8] = {0};
    int32_t n = 0;
    assert_ok(read_all("a,other,b\r\n1,x,2.5\r\n3,,1e3\n", v, &n));
    assert_int_equal(n, 2);
    assert_true(v[0] == 2.5 && v[1] == 1 && v[2] == 1000 && v[3] == 3);
    assert_ok(read_all("b,a", v, &n));
    assert_int_equal(n, 0);
}

static void bad_tables_are_refused_with_their_line(void **state) {
    (void)state;
    static const struct { const char *text, *part; } cases[] = {
        {"", "expected a column 'b' in the first line"},
        {"a,c\n", "expected a column 'b'"},
        {"a,b,a\n", "two columns are called 'a'"},
        {"a,b\n1\n", "line 2: expected 2 columns, found 1"},
        {"a,b\n1,2\n\n", "line 3: expected 2 columns, found 1"},
        {"a,b\n1,-2\n", "line 2: expected a number of 0 or more, found '-2'"},
        {"a,b\n1,nan\n", "found 'nan'"},
        {"a,b\n1,0x10\n", "found '0x10'"},
        {"a,b\n1,1e999\n", "found '1e999'"},
        {"a,b\n1, 2\n", "found ' 2'"},
        {"a,b\n1,\n", "found ''"},
        {"a,b\n1,1-2\n", "found '1-2'"},
        {"a,b\n1,0000000000000000000000000000000000000000000000000001\n", "expected a number"},
        {",,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,\n", "line 1: more than 64 columns"},
    };
    double v[8];
    int32_t n;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) assert_failed(read_all(cases[i].text, v, &n), GRACE_ERR_FORMAT, cases[i].part);
}

static void texts_of_other_columns_are_there_when_asked_for(void **state) {
    (void)state;
    const char text[] = "b,name,a\n1,law,2\n3,,4\n5,\"x\",6\n7,toolong,8\n";
    double v[2];
    char name[6];
    bool more;
    gr_csv csv;
    assert_ok(gr_csv_open("t.csv", text, strlen(text), names, 2, &csv));
    int32_t column = gr_csv_column(&csv, "name");
    assert_int_equal(column, 1);
    assert_int_equal(gr_csv_column(&csv, "nam"), -1);
    assert_ok(gr_csv_next(&csv, v, &more));
    assert_ok(gr_csv_text(&csv, column, name, sizeof name));
    assert_string_equal(name, "law");
    assert_ok(gr_csv_next(&csv, v, &more));
    assert_ok(gr_csv_text(&csv, column, name, sizeof name));
    assert_string_equal(name, "");
    assert_ok(gr_csv_next(&csv, v, &more));
    assert_failed(gr_csv_text(&csv, column, name, sizeof name), GRACE_ERR_FORMAT, "line 4: quoted or binary fields are not supported");
    assert_ok(gr_csv_next(&csv, v, &more));
    assert_failed(gr_csv_text(&csv, column, name, sizeof name), GRACE_ERR_FORMAT, "line 5: expected a field of at most 5 bytes, found 7");
}

static void whole_numbers_are_whole(void **state) {
    (void)state;
    gr_csv csv = {.where = "t.csv", .line = 7};
    int64_t v = 0;
    assert_ok(gr_csv_whole(&csv, "layer", 12, 12, &v));
    assert_int_equal(v, 12);
    assert_failed(gr_csv_whole(&csv, "layer", 13, 12, &v), GRACE_ERR_FORMAT, "line 7: layer: expected a whole number up to 12, found 13");
    assert_failed(gr_csv_whole(&csv, "layer", 1.5, 12, &v), GRACE_ERR_FORMAT, "found 1.5");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_are_found_by_name_and_others_ignored),
        cmocka_unit_test(bad_tables_are_refused_with_their_line),
        cmocka_unit_test(texts_of_other_columns_are_there_when_asked_for),
        cmocka_unit_test(whole_numbers_are_whole),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
