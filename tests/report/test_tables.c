#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "report/format.h"
#include "report/tables.h"

static gr_table *sample(const char *name) {
    static const gr_column columns[] = {{"name", GR_COLUMN_TEXT}, {"rows\ncross", GR_COLUMN_NUMBER}, {"same as", GR_COLUMN_VERDICT}};
    gr_table *table = NULL;
    assert_int_equal(gr_table_build(columns, 3, &table), GRACE_OK);
    gr_table_row(table, false);
    gr_table_put(table, "%s", name);
    gr_table_put(table, "%d", 12345);
    gr_table_put(table, "yes");
    gr_table_row(table, true);
    gr_table_put(table, "b");
    gr_table_put(table, "7");
    return table;
}

#define RULE3 "\xE2\x94\x80\xE2\x94\x80\xE2\x94\x80"

static void columns_are_aligned_by_kind(void **state) {
    (void)state;
    gr_table *table = sample("alpha");
    gr_buf text = {0};
    assert_int_equal(gr_table_text(table, 120, &text), GRACE_OK);
    assert_string_equal(text.data, "        rows\n"
                                   "name   cross  same as\n" RULE3 RULE3 RULE3 RULE3 RULE3 RULE3 RULE3 "\n"
                                   "alpha  12345    yes\n"
                                   "b          7\n");
    gr_buf_free(&text);
    gr_table_free(table);
}

/* The column in which the second cell ends, in terminal columns. */
static int32_t end_of(const char *line, const char *cell) {
    char before[256];
    const char *at = strstr(line, cell);
    assert_non_null(at);
    memcpy(before, line, (size_t)(at - line));
    before[at - line] = 0;
    return gr_text_width(before) + gr_text_width(cell);
}

static void utf8_names_do_not_shift_the_columns_behind_them(void **state) {
    (void)state;
    const char *const names[] = {"plain", "gr\xC3\xBC\xC3\x9F e", "\xE4\xB8\x96\xE7\x95\x8C", "e\xCC\x81\xCC\x81", "bad \xFF"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        gr_table *table = sample(names[i]);
        gr_buf text = {0};
        assert_int_equal(gr_table_text(table, 120, &text), GRACE_OK);
        const char *lines[8] = {text.data};
        for (int n = 1; n < 5; n++) lines[n] = strchr(lines[n - 1], '\n') + 1;
        assert_int_equal(end_of(lines[3], "12345"), end_of(lines[4], "7"));
        assert_int_equal(end_of(lines[3], "12345"), end_of(lines[1], "cross"));
        gr_buf_free(&text);
        gr_table_free(table);
    }
}

static void a_wide_table_gives_way_in_its_first_column(void **state) {
    (void)state;
    gr_table *table = sample("a name far longer than any terminal would like it to be");
    gr_buf text = {0};
    assert_int_equal(gr_table_text(table, 30, &text), GRACE_OK);
    for (char *line = strtok(text.data, "\n"); line; line = strtok(NULL, "\n")) assert_true(gr_text_width(line) <= 30);
    gr_buf_free(&text);
    gr_table_free(table);
}

static void cells_never_put_are_empty_and_rows_keep_their_mark(void **state) {
    (void)state;
    gr_table *table = sample("a");
    assert_int_equal(gr_table_n_rows(table), 2);
    assert_string_equal(gr_table_cell(table, 1, 2), "");
    assert_false(gr_table_strong(table, 0));
    assert_true(gr_table_strong(table, 1));
    gr_table_free(table);
}

static void a_name_moves_no_cursor(void **state) {
    (void)state;
    gr_table *table = sample("a\x1b[2Jb\nc\x7f");
    assert_string_equal(gr_table_cell(table, 0, 0), "a?[2Jb?c?");
    gr_table_free(table);
}

static void a_cell_too_long_is_cut_between_characters(void **state) {
    (void)state;
    char text[1500] = "x";
    for (int i = 0; i < 700; i++) strcat(text, "\xC3\xBC");
    gr_table *table = sample(text);
    const char *cell = gr_table_cell(table, 0, 0);
    size_t n = strlen(cell);
    assert_true(n < 1024 && n > 1000);
    assert_string_equal(cell + n - 3, "...");
    assert_null(strchr(cell, '?'));
    assert_int_equal(gr_text_width(cell), 1 + (int)(n - 4) / 2 + 3);
    gr_table_free(table);
}

static void many_rows_fit(void **state) {
    (void)state;
    gr_column column = {"n", GR_COLUMN_NUMBER};
    gr_table *table = NULL;
    assert_int_equal(gr_table_build(&column, 1, &table), GRACE_OK);
    for (int i = 0; i < 1000; i++) {
        gr_table_row(table, false);
        gr_table_put(table, "%d", i);
    }
    assert_int_equal(gr_table_status(table), GRACE_OK);
    assert_int_equal(gr_table_n_rows(table), 1000);
    assert_string_equal(gr_table_cell(table, 0, 0), "0");
    assert_string_equal(gr_table_cell(table, 999, 0), "999");
    gr_table_free(table);
    gr_table_free(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(columns_are_aligned_by_kind),
        cmocka_unit_test(utf8_names_do_not_shift_the_columns_behind_them),
        cmocka_unit_test(a_wide_table_gives_way_in_its_first_column),
        cmocka_unit_test(cells_never_put_are_empty_and_rows_keep_their_mark),
        cmocka_unit_test(a_name_moves_no_cursor),
        cmocka_unit_test(a_cell_too_long_is_cut_between_characters),
        cmocka_unit_test(many_rows_fit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
