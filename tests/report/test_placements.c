#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/json.h"
#include "base/rng.h"
#include "report/markup.h"
#include "report/placements.h"      /* report/placements.c, report/page_placements.c, report/lines.c */
#include "report/report.h"
#include "report/svg.h"

static char *sample_text(void) {
    gr_file file;
    if (gr_file_map(GRACE_SOURCE_DIR "/tests/golden/report/placements.json", &file)) fail_msg("%s", grace_last_error());
    char *text = strndup(file.data, file.n);
    gr_file_unmap(&file);
    return text;
}

/* The sample with the first `from` replaced by `to`. */
static gr_json *sample_with(const char *from, const char *to) {
    char *text = sample_text(), *at = strstr(text, from);
    gr_buf changed = {0};
    gr_json *doc = NULL;
    if (!at) fail_msg("no '%s' in the sample", from);
    gr_buf_printf(&changed, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    if (gr_json_parse("test", changed.data, changed.n, &doc)) fail_msg("%s", grace_last_error());
    gr_buf_free(&changed);
    free(text);
    return doc;
}

static gr_json *sample(void) { return sample_with("{", "{"); }

static char *page_of(gr_json *doc) {
    gr_buf page = {0};
    markup m;
    if (gr_report_html(doc, &page)) fail_msg("%s", grace_last_error());
    gr_json_free(doc);
    if (!markup_check(page.data, &m)) fail_msg("%s", m.problem);
    return page.data;
}

static void every_part_of_the_sample_is_drawn(void **state) {
    (void)state;
    char *page = page_of(sample());
    assert_null(strstr(page, "class=\"missing\""));
    assert_null(strstr(page, "nan"));
    /* four metrics, two curves, transfer, traffic and load of four plans each, experts, affinity twice, knee */
    assert_int_equal(count_of(page, "<svg"), 4 + 2 + 1 + 4 + 4 + 1 + 2 + 1);
    static const char *const expected[] = {"Placements of an invented model", "synthetic: no model chose these experts", "<td>grace DR+TAR</td>",
                                           "<td class=\"num\">\xE2\x88\x92" "43.0%</td>", "odd sequences; planned on even ones", "4.58 MiB",
                                           "2 nodes with 2 GPUs each", "planned on"};
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        if (!strstr(page, expected[i])) fail_msg("the page has no '%s'", expected[i]);
    free(page);
}

static void a_page_needs_nothing_from_outside_and_repeats_to_the_byte(void **state) {
    (void)state;
    char *a = page_of(sample()), *b = page_of(sample());
    assert_string_equal(a, b);
    assert_null(strstr(a, "<script"));
    assert_null(strstr(a, "src="));
    assert_null(strstr(a, "url("));
    free(a), free(b);
}

static void parts_that_are_not_there_are_named(void **state) {
    (void)state;
    static const char least[] = "{\"grace_placements\":1,\"title\":\"t\",\"trace\":{\"name\":\"n\",\"layers\":1,\"experts\":2},"
                                "\"cluster\":{\"nodes\":1,\"gpus_per_node\":1},"
                                "\"plans\":[{\"name\":\"p\",\"rows_cross\":0,\"rows_intra\":0,\"load_max_over_mean\":1}]}";
    gr_json *doc = NULL;
    assert_int_equal(gr_json_parse("test", least, strlen(least), &doc), GRACE_OK);
    char *page = page_of(doc);
    static const char *const missing[] = {"(curves)", "(transfer)", "(pair_rows)", "(load)", "(expert_load)", "(affinity)", "(knee)", "no replicas"};
    for (size_t i = 0; i < sizeof missing / sizeof *missing; i++)
        if (!strstr(page, missing[i])) fail_msg("the page does not name '%s'", missing[i]);
    free(page);
}

static void the_terminal_has_a_line_for_every_plan_in_120_columns(void **state) {
    (void)state;
    gr_buf text = {0};
    gr_json *doc = sample();
    assert_int_equal(gr_report_placements_text(doc, &text), GRACE_OK);
    assert_int_equal(count_of(text.data, "\n"), 3 + 5);
    assert_non_null(strstr(text.data, "auto               0.570  -43.0%  0.627      1.10     2.5     1.20      76  4.58 MiB        959     17.1    1.14"));
    gr_buf_free(&text);
    gr_json_free(doc);
}

static void wrong_documents_are_refused_with_the_member_named(void **state) {
    (void)state;
    static const char *const cases[][3] = {
        {"\"grace_placements\":1", "\"grace_placements\":2", "'grace_placements': expected version 1, found 2"},
        {"\"layers\":4", "\"layers\":0", "'layers'"},
        {"\"layers\":4", "\"layers\":5", "'expert_load': expected 5 rows, found 4"},
        {"\"rows_cross\":1.0", "\"rows_cross\":-1", "plans[0]: 'rows_cross': expected 0 to 1e15"},
        {"\"plans\":[", "\"plans\":[3,", "plans[0]: expected an object"},
        {"\"nodes\":2", "\"nodes\":3", "'pair_rows'"},
        {"\"domains\":[\"prose\"", "\"domains\":[7", "'domains[0]': expected a string"},
        {"\"contiguous\":[1,1,1]", "\"contiguous\":[1,1]", "'contiguous': expected an array of 3 numbers"},
        {"\"rows\":[[0.57,0.8,0.9]", "\"rows\":[[0.57,0.8]", "'rows': expected an array of 3 numbers"},
        {"\"points\":[{\"memory\":1,", "\"points\":[{\"memory\":\"x\",", "'memory'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        gr_json *doc = sample_with(cases[i][0], cases[i][1]);
        gr_buf page = {0};
        assert_int_equal(gr_report_html(doc, &page), GRACE_ERR_FORMAT);
        if (!strstr(grace_last_error(), cases[i][2])) fail_msg("case %zu: '%s' does not say '%s'", i, grace_last_error(), cases[i][2]);
        assert_int_equal(page.n, 0);
        gr_buf_free(&page);
        gr_json_free(doc);
    }
}

static double attribute(const char *at, const char *name) {
    const char *found = strstr(at, name);
    assert_non_null(found);
    return strtod(found + strlen(name), NULL);
}

/* However close the curves end: names of 1 to 10 curves stand at least a line apart, inside the picture. */
static void names_of_curves_never_cover_one_another(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(3);
    for (int round = 0; round < 50; round++) {
        int32_t n = 1 + (int32_t)gr_rng_below(&rng, 10), first[11] = {0};
        const char *names[10];
        double x[20], y[20], last = -1;
        for (int32_t s = 0; s < n; s++) {
            names[s] = "name of a curve", first[s + 1] = 2 * (s + 1);
            for (int i = 0; i < 2; i++) x[2 * s + i] = 1 + i, y[2 * s + i] = round % 2 ? 1 : (double)gr_rng_below(&rng, 100);
        }
        gr_lines_chart chart = {.title = "t", .x_title = "x", .y_title = "y", .n_series = n, .names = names, .first = first, .x = x, .y = y, .width = 500,
                                .height = 340};
        gr_out out = {0};
        gr_svg_lines(&out, &chart);
        assert_int_equal(out.st, GRACE_OK);
        assert_int_equal(count_of(out.buf.data, "<polyline"), n);
        const char *at = strstr(out.buf.data, "paint-order");
        for (int32_t s = 0; s < n; s++) {
            at = strstr(at, "<text ");
            double here = attribute(at, " y=\"");
            assert_true(here >= last + 13.8 && here > 0 && here < 340);
            last = here;
            at++;
        }
        gr_out_free(&out);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_part_of_the_sample_is_drawn),
        cmocka_unit_test(a_page_needs_nothing_from_outside_and_repeats_to_the_byte),
        cmocka_unit_test(parts_that_are_not_there_are_named),
        cmocka_unit_test(the_terminal_has_a_line_for_every_plan_in_120_columns),
        cmocka_unit_test(wrong_documents_are_refused_with_the_member_named),
        cmocka_unit_test(names_of_curves_never_cover_one_another),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
