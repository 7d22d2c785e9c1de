#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>

#include "report/html.h"
#include "report/markup.h"

static void the_page_is_well_formed_and_closed_to_the_network(void **state) {
    (void)state;
    gr_out out = {0};
    markup m;
    gr_html_begin(&out, "a <title> & more");
    gr_html_section(&out, "one & two");
    gr_html_paragraph(&out, "%d < %d", 1, 2);
    gr_html_missing(&out, "no '%s'", "knee");
    gr_html_figures(&out, 3);
    gr_html_figure(&out);
    gr_html_figure_end(&out, "a \"caption\"");
    gr_html_figures_end(&out);
    gr_html_highlights(&out);
    gr_html_highlight(&out, "-12%", "less");
    gr_html_highlights_end(&out);
    gr_html_list(&out, "terms");
    gr_html_list_item(&out, "x<y", "a&b");
    gr_html_list_end(&out);
    gr_html_section_end(&out);
    gr_html_end(&out);
    assert_int_equal(out.st, GRACE_OK);
    if (!markup_check(out.buf.data, &m)) fail_msg("%s", m.problem);
    assert_non_null(strstr(out.buf.data, "<title>a &lt;title&gt; &amp; more</title>"));
    assert_non_null(strstr(out.buf.data, "<p>1 &lt; 2</p>"));
    assert_non_null(strstr(out.buf.data, "default-src 'none'"));
    assert_null(strstr(out.buf.data, "<script"));
    assert_null(strstr(out.buf.data, "http:"));
    assert_null(strstr(out.buf.data, "https:"));
    assert_null(strstr(out.buf.data, "url("));
    gr_out_free(&out);
}

static void a_table_has_its_cells_escaped_and_verdicts_marked(void **state) {
    (void)state;
    static const gr_column columns[] = {{"name", GR_COLUMN_TEXT}, {"rows\nchange", GR_COLUMN_NUMBER}, {"same", GR_COLUMN_VERDICT}};
    gr_table *table = NULL;
    gr_out out = {0};
    markup m;
    assert_int_equal(gr_table_build(columns, 3, &table), GRACE_OK);
    gr_table_row(table, false);
    gr_table_put(table, "<b>\"x\"</b>");
    gr_table_put(table, "-5.0%%");
    gr_table_put(table, "yes");
    gr_table_row(table, true);
    gr_table_put(table, "no");
    gr_table_put(table, "1");
    gr_table_put(table, "no");
    gr_html_table(&out, table, "cap & tion");
    assert_int_equal(out.st, GRACE_OK);
    if (!markup_check(out.buf.data, &m)) fail_msg("%s", m.problem);
    assert_non_null(strstr(out.buf.data, "<td>&lt;b&gt;&quot;x&quot;&lt;/b&gt;</td><td class=\"num\">\xE2\x88\x92" "5.0%</td>"));
    assert_non_null(strstr(out.buf.data, "rows<br/>change"));
    assert_int_equal(count_of(out.buf.data, "class=\"yes\""), 1);
    assert_int_equal(count_of(out.buf.data, "class=\"no\""), 1);      /* the name "no" is no verdict */
    assert_int_equal(count_of(out.buf.data, "<tr class=\"strong\">"), 1);
    gr_table_free(table);
    gr_out_free(&out);
}

/* The judge itself must be able to say no. */
static void the_checker_refuses_broken_markup(void **state) {
    (void)state;
    static const char *const broken[] = {"<a>",      "</a>",         "<a><b></a></b>", "<a>1 < 2</a>", "<a>&</a>",
                                         "<a x=y/>", "<a x=\"<\"/>", "<a>></a>",       "<a>&nbsp;</a>"};
    markup m;
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++)
        if (markup_check(broken[i], &m)) fail_msg("accepted %s", broken[i]);
    assert_true(markup_check("<!DOCTYPE html><a x=\"1\">&lt;<br/><style>a>b{}</style></a>", &m));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_page_is_well_formed_and_closed_to_the_network),
        cmocka_unit_test(a_table_has_its_cells_escaped_and_verdicts_marked),
        cmocka_unit_test(the_checker_refuses_broken_markup),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
