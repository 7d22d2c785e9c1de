#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "report/document.h"
#include "report/format.h"
#include "report/page.h"
#include "report/report.h"

static void the_terminal_shows_every_number_of_every_rung(void **state) {
    (void)state;
    gr_json *doc = small();
    gr_buf text = {0};
    assert_int_equal(gr_report_ladder_text(doc, &text), GRACE_OK);
    const char *a = strstr(text.data, "\nA "), *b = strstr(text.data, "\nB ");
    char line[160];
    const char *rest;
    assert_true(a && b && b > a);
    snprintf(line, sizeof line, "%.*s", (int)(b - a - 1), a + 1);
    static const char *const of_a[] = {"30", "base", "1.50", "2.0", "0.01", "1.00", "2.00", "yes"};
    rest = line;
    for (size_t i = 0; i < sizeof of_a / sizeof *of_a; i++) {
        rest = strstr(rest, of_a[i]);
        if (!rest) fail_msg("'%s' is not in its place in '%s'", of_a[i], line);
        rest += strlen(of_a[i]);
    }
    assert_non_null(strstr(b, "-50.0%"));
    assert_non_null(strstr(text.data, "identical: 1 of 1 rungs"));
    gr_buf_free(&text);
    gr_json_free(doc);
}

static void the_terminal_table_fits_120_columns_with_the_longest_numbers(void **state) {
    (void)state;
    gr_json *doc = document_with(
        "\"name\":\"B\",\"rows_cross_node\":15,\"rows_intra_node\":0",
        "\"name\":\"a \xE4\xB8\x96 rung with a name that goes on and on and on\",\"rows_cross_node\":999999999999,\"rows_intra_node\":12345678901");
    gr_buf text = {0};
    assert_int_equal(gr_report_ladder_text(doc, &text), GRACE_OK);
    for (char *line = strtok(text.data, "\n"); line; line = strtok(NULL, "\n")) {
        if (gr_text_width(line) > 120) fail_msg("%d columns: %s", (int)gr_text_width(line), line);
    }
    gr_buf_free(&text);
    gr_json_free(doc);
}

static void without_a_baseline_changes_are_left_open(void **state) {
    (void)state;
    gr_json *doc = document_with("\"baseline\":true,", "");
    gr_buf text = {0};
    assert_int_equal(gr_report_ladder_text(doc, &text), GRACE_OK);
    assert_null(strchr(text.data, '%'));
    assert_null(strstr(text.data, "change: against"));
    gr_buf_free(&text);
    gr_json_free(doc);
}

static void a_rung_that_differs_says_no(void **state) {
    (void)state;
    gr_json *doc = document_with("\"identical\":true,\"logits_hash\":\"beef\"", "\"identical\":false,\"logits_hash\":\"dead\"");
    gr_buf text = {0};
    assert_int_equal(gr_report_ladder_text(doc, &text), GRACE_OK);
    assert_non_null(strstr(text.data, " no\n"));
    assert_non_null(strstr(text.data, "identical: 0 of 1 rungs"));
    gr_buf_free(&text);
    gr_json_free(doc);
}

static void experts_with_the_same_hosts_share_a_line(void **state) {
    (void)state;
    gr_json *doc = small();
    gr_report_data *d = NULL;
    gr_table *table = NULL;
    assert_int_equal(gr_report_data_build(doc, &d), GRACE_OK);
    assert_int_equal(gr_replica_table(&d->plan, &table), GRACE_OK);
    assert_int_equal(gr_table_n_rows(table), 1);
    assert_string_equal(gr_table_cell(table, 0, 1), "GPU 0");
    assert_string_equal(gr_table_cell(table, 0, 2), "1");
    assert_string_equal(gr_table_cell(table, 0, 3), "2");
    assert_string_equal(gr_table_cell(table, 0, 4), "3, 1");
    gr_table_free(table);
    gr_report_data_free(d);
    gr_json_free(doc);
}

static void a_bad_document_leaves_the_buffer_as_it_was(void **state) {
    (void)state;
    gr_json *doc = document_with("\"chosen\":1", "\"chosen\":9");
    gr_buf text = {0};
    assert_int_equal(gr_buf_append(&text, "before", 6), GRACE_OK);
    assert_int_equal(gr_report_ladder_text(doc, &text), GRACE_ERR_FORMAT);
    assert_int_equal(gr_report_html(doc, &text), GRACE_ERR_FORMAT);
    assert_string_equal(text.data, "before");
    gr_buf_free(&text);
    gr_json_free(doc);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_terminal_shows_every_number_of_every_rung),
        cmocka_unit_test(the_terminal_table_fits_120_columns_with_the_longest_numbers),
        cmocka_unit_test(without_a_baseline_changes_are_left_open),
        cmocka_unit_test(a_rung_that_differs_says_no),
        cmocka_unit_test(experts_with_the_same_hosts_share_a_line),
        cmocka_unit_test(a_bad_document_leaves_the_buffer_as_it_was),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
