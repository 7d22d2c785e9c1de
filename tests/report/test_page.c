#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <ctype.h>

#include "base/rng.h"
#include "report/document.h"
#include "report/markup.h"      /* report/page.c, report/page_ladder.c, report/page_maps.c, report/page_plan.c */
#include "report/report.h"

static char *page_of(gr_json *doc) {
    gr_buf page = {0};
    markup m;
    if (gr_report_html(doc, &page)) fail_msg("%s", grace_last_error());
    if (!markup_check(page.data, &m)) fail_msg("%s", m.problem);
    gr_json_free(doc);
    return page.data;
}

static gr_json *golden(void) {
    gr_json *doc = NULL;
    if (gr_json_load(GRACE_SOURCE_DIR "/tests/golden/report/ladder.json", &doc)) fail_msg("%s", grace_last_error());
    return doc;
}

static void the_sample_page_is_well_formed_and_needs_nothing_from_outside(void **state) {
    (void)state;
    char *page = page_of(golden());
    assert_null(strstr(page, "<script"));
    assert_null(strstr(page, "src="));
    assert_null(strstr(page, "href="));
    assert_null(strstr(page, "@import"));
    assert_null(strstr(page, "url("));
    assert_int_equal(count_of(page, "http"), count_of(page, "http-equiv") + count_of(page, "http://www.w3.org/2000/svg"));
    assert_null(strstr(page, "class=\"missing\""));
    assert_null(strstr(page, "\"nan"));
    assert_null(strstr(page, "inf\""));
    free(page);
}

static void the_values_of_the_sample_appear(void **state) {
    (void)state;
    static const char *const expected[] = {
        "<td>uniform+flat (Occult)</td><td class=\"num\">140,510</td><td class=\"num\">base</td>",
        "<td class=\"num\">71,488</td><td class=\"num\">\xE2\x88\x92" "49.1%</td>",     /* (71488 - 140510) / 140510 */
        "<b>7 of 7</b>", "0000000", "17.0M parameters", "2 nodes with 2 GPUs each", "64 sequences, prefill 64, decode 16",
        "9f3c5a7be1d20846", "<td class=\"num\">\xE2\x88\x92" "52.1%</td>", "return a &lt; b ? a : b;", "313 MiB"};
    char *page = page_of(golden());
    for (size_t i = 0; i < sizeof expected / sizeof *expected; i++)
        if (!strstr(page, expected[i])) fail_msg("the page has no '%s'", expected[i]);
    assert_int_equal(count_of(page, "<svg"), 7 + 1 + 2 + 3 + 2 + 1);    /* metrics, stages, traffic, load, affinity, knee */
    free(page);
}

static void the_same_document_gives_the_same_bytes(void **state) {
    (void)state;
    char *a = page_of(golden()), *b = page_of(golden());
    assert_string_equal(a, b);
    free(a);
    free(b);
}

static void words_from_outside_are_escaped_wherever_they_appear(void **state) {
    (void)state;
    static const char evil[] = "</title><script>alert('x')</script>&\\\"";
    static const char *const keys[] = {"\"title\":\"",   "\"name\":\"",   "\"family\":\"",    "\"command\":\"",  "\"commit\":\"",
                                       "\"machine\":\"", "\"date\":\"",   "\"plan\":\"",      "\"exchange\":\"", "\"route\":\"",
                                       "\"domain\":\"",  "\"prompt\":\"", "\"generated\":\"", "{\"name\":\"A"};
    char to[160];
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        snprintf(to, sizeof to, "%s%s", keys[i], evil);
        char *page = page_of(document_with(keys[i], to));
        assert_null(strstr(page, "<script"));
        if (!strstr(page, "&lt;/title&gt;&lt;script&gt;alert(&#39;x&#39;)")) fail_msg("%s is not on the page", keys[i]);
        free(page);
    }
}

typedef struct part { const char *from, *to, *line; } part;

static void a_missing_part_is_named_on_the_page(void **state) {
    (void)state;
    static const part parts[] = {
        {"\"knee\":{", "\"x\":{", "no curve (knee)"},
        {"\"replicas\":[", "\"x\":[", "no replicas"},
        {"\"affinity\":{", "\"x\":{", "no affinity matrix"},
        {"\"text\":[", "\"x\":[", "no generated text"},
        {"\"pair_rows\":[", "\"x\":[", "no rows by GPU pair"},
        {"\"load\":[[6,2]]", "\"x\":0", NULL},                   /* the other rung still has one */
        {"\"time_us\":{", "\"x\":{", "no times by stage"},
        {"\"identical\":true", "\"identical\":null", "No rung was compared"},
        {"\"replicas\":[", "\"replicas\":[],\"x\":[", NULL},
        {"\"knee\":{", "\"knee\":null,\"x\":{", "no curve (knee)"},
    };
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        char *page = page_of(document_with(parts[i].from, parts[i].to));
        assert_int_equal(count_of(page, "class=\"missing\""), parts[i].line != NULL);
        if (parts[i].line && !strstr(page, parts[i].line)) fail_msg("without %s the page has no '%s'", parts[i].from, parts[i].line);
        free(page);
    }
}

/* One rung, one GPU, nothing optional: five parts are missing and the page still stands. */
static void the_smallest_document_gives_a_page(void **state) {
    (void)state;
    static const char text[] =
        "{\"grace_report\":1,\"title\":\"\",\"cluster\":{\"nodes\":1,\"gpus_per_node\":1},\"rungs\":[{\"name\":\"x\",\"baseline\":true,"
        "\"rows_cross_node\":0,\"rows_intra_node\":0,\"load_max_over_mean\":0,\"load_std\":0,\"idle_model_us\":0,\"moe_us\":0,\"load\":[[0]]}]}";
    gr_json *doc = NULL;
    assert_int_equal(gr_json_parse("test", text, sizeof text - 1, &doc), GRACE_OK);
    char *page = page_of(doc);
    assert_int_equal(count_of(page, "class=\"missing\""), 7);
    assert_null(strstr(page, "nan"));
    free(page);
}

static void the_grouped_map_draws_a_border_between_groups(void **state) {
    (void)state;
    char *page = page_of(small());
    const char *map = strstr(page, "aria-label=\"Ordered by group\"");
    assert_non_null(map);
    *strstr(map, "</svg>") = 0;
    assert_int_equal(count_of(map, "<line"), 2);
    assert_non_null(strstr(map, ">GPU 1</text>"));
    free(page);
}

/* Numbers of the document replaced by others: a page that is well formed, or a FORMAT error. */
static void random_numbers_never_break_the_page(void **state) {
    (void)state;
    static const char *const values[] = {"0", "1", "2", "-1", "3", "1e14", "0.5", "999999999999", "null", "[]", "\"x\""};
    gr_rng rng = gr_rng_seed(5);
    int n_pages = 0;
    for (int i = 0; i < 600; i++) {
        char text[sizeof small_document + 64];
        size_t at = gr_rng_below(&rng, sizeof small_document), end;
        while (at < sizeof small_document - 1 && !isdigit((unsigned char)small_document[at])) at++;
        for (end = at; isdigit((unsigned char)small_document[end]) || small_document[end] == '.'; end++) {}
        snprintf(text, sizeof text, "%.*s%s%s", (int)at, small_document, values[gr_rng_below(&rng, 11)], small_document + end);
        gr_json *doc = NULL;
        gr_buf page = {0};
        markup m;
        if (gr_json_parse("test", text, strlen(text), &doc)) continue;
        grace_status st = gr_report_html(doc, &page);
        if (st != GRACE_OK && st != GRACE_ERR_FORMAT) fail_msg("seed 5, case %d: %s", i, grace_last_error());
        if (!st && !markup_check(page.data, &m)) fail_msg("seed 5, case %d: %s", i, m.problem);
        if (!st && (strstr(page.data, "\"nan") || strstr(page.data, "\"inf"))) fail_msg("seed 5, case %d: a coordinate is no number", i);
        n_pages += !st;
        gr_buf_free(&page);
        gr_json_free(doc);
    }
    assert_true(n_pages > 100 && n_pages < 600);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_sample_page_is_well_formed_and_needs_nothing_from_outside),
        cmocka_unit_test(the_values_of_the_sample_appear),
        cmocka_unit_test(the_same_document_gives_the_same_bytes),
        cmocka_unit_test(words_from_outside_are_escaped_wherever_they_appear),
        cmocka_unit_test(a_missing_part_is_named_on_the_page),
        cmocka_unit_test(the_smallest_document_gives_a_page),
        cmocka_unit_test(the_grouped_map_draws_a_border_between_groups),
        cmocka_unit_test(random_numbers_never_break_the_page),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
