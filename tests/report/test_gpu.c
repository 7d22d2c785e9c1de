/* Models on a GPU (report/gpu.c): what the chart and the table say of a document, and which documents are refused. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "report/markup.h"
#include "report/report.h"

static const char document[] =
    "{\"grace_gpu_bench\": 1, \"engine\": ["
    "{\"model\": \"first\", \"workload\": \"i\", \"device\": \"GPU <1>\", "
    "\"prefill\": {\"ms\": 30, \"floor_ms\": 20}, \"decode\": {\"ms\": 5, \"floor_ms\": 4}},"
    "{\"model\": \"second\", \"workload\": \"one\", \"prefill\": {\"ms\": 7}, \"decode\": {\"ms\": 3, \"floor_ms\": 2}},"
    "{\"model\": \"third\", \"workload\": \"i\", \"error\": \"out of memory\"}],"
    "\"peer_models\": [{\"model\": \"first\", \"workload\": \"one\", \"peer\": \"other\", \"prefill_ms\": 1, \"step_ms\": 1},"
    "{\"model\": \"first\", \"workload\": \"i\", \"peer\": \"peer\", \"prefill_ms\": 100, \"step_ms\": 36}]}";

/* The document with the first `from` replaced by `to`. */
static gr_json *document_with(const char *from, const char *to) {
    const char *at = strstr(document, from);
    gr_buf text = {0};
    gr_json *doc = NULL;
    assert_non_null(at);
    assert_int_equal(gr_buf_printf(&text, "%.*s%s%s", (int)(at - document), document, to, at + strlen(from)), GRACE_OK);
    assert_int_equal(gr_json_parse("test", text.data, text.n, &doc), GRACE_OK);
    gr_buf_free(&text);
    return doc;
}

static void has(const gr_buf *text, const char *part) {
    if (!strstr(text->data, part)) fail_msg("no '%s' in: %s", part, text->data);
}

static void the_chart_has_a_bar_for_every_time_with_a_floor(void **state) {
    (void)state;
    gr_json *doc = document_with("{", "{");
    gr_buf svg = {0};
    markup m;
    int bars = 0;
    assert_true(gr_report_is_gpu(doc));
    assert_int_equal(gr_report_gpu_svg(doc, &svg), GRACE_OK);
    if (!markup_check(svg.data, &m)) fail_msg("%s", m.problem);
    has(&svg, "multiples of the floor, GPU &lt;1&gt;");
    has(&svg, ">1.50  (30.0 ms)<"), has(&svg, ">5.00  (100 ms)<"), has(&svg, ">9.00  (36.0 ms)<"), has(&svg, ">1.50  (3.00 ms)<");
    for (const char *at = svg.data; (at = strstr(at, "height=\"11\"")); at++) bars++;
    assert_int_equal(bars, 2 + 2 + 1);      /* both phases of the first, and of its peer; one of the second */
    assert_null(strstr(svg.data, "third"));
    gr_buf_free(&svg);
    gr_json_free(doc);
}

#define TEN_E "\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9"

/* Of 81 characters, all but the first of two bytes. */
static void a_long_name_of_a_device_is_cut_between_characters(void **state) {
    (void)state;
    gr_json *doc = document_with("GPU <1>", "G" TEN_E TEN_E TEN_E TEN_E TEN_E TEN_E TEN_E TEN_E);
    gr_buf svg = {0};
    assert_int_equal(gr_report_gpu_svg(doc, &svg), GRACE_OK);
    has(&svg, "of the floor, G" TEN_E TEN_E TEN_E TEN_E TEN_E TEN_E TEN_E "\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xE2\x80\xA6\"");
    gr_buf_free(&svg);
    gr_json_free(doc);
}

static void the_table_has_a_line_for_every_row_that_was_measured(void **state) {
    (void)state;
    gr_json *doc = document_with("{", "{");
    gr_buf text = {0};
    assert_int_equal(gr_report_gpu_text(doc, &text), GRACE_OK);
    has(&text, "30.0 (1.50)"), has(&text, "100 (5.00)"), has(&text, "5.00 (1.25)"), has(&text, "36.0 (9.00)"), has(&text, "peer");
    has(&text, "7.00"), has(&text, "3.00 (1.50)");
    assert_true(!strstr(text.data, "third") && !strstr(text.data, "other") && !strstr(text.data, "nan"));
    gr_buf_free(&text);
    gr_json_free(doc);
}

/* Of several GPUs: a peer stands beside the row with its layout, and one that failed nowhere. */
static void a_peer_stands_beside_its_own_layout(void **state) {
    (void)state;
    static const char several[] =
        "{\"grace_multi_bench\": 1, \"engine\": ["
        "{\"model\": \"m\", \"workload\": \"i\", \"layout\": \"1x2\", \"prefill\": {\"ms\": 30, \"floor_ms\": 20}, \"decode\": {\"ms\": 5, \"floor_ms\": 4}},"
        "{\"model\": \"m\", \"workload\": \"i\", \"layout\": \"2x1\", \"prefill\": {\"ms\": 50, \"floor_ms\": 40}, \"decode\": {\"ms\": 9, \"floor_ms\": 8}}],"
        "\"peer_models\": [{\"model\": \"m\", \"workload\": null, \"layout\": \"1x2\", \"error\": \"out of memory\"},"
        "{\"model\": \"m\", \"workload\": \"i\", \"layout\": \"2x1\", \"peer\": \"peer\", \"prefill_ms\": 120, \"step_ms\": 16}]}";
    gr_json *doc = NULL;
    gr_buf svg = {0}, text = {0};
    assert_int_equal(gr_json_parse("test", several, sizeof several - 1, &doc), GRACE_OK);
    assert_true(gr_report_is_gpu(doc));
    assert_int_equal(gr_report_gpu_svg(doc, &svg), GRACE_OK);
    assert_int_equal(gr_report_gpu_text(doc, &text), GRACE_OK);
    has(&svg, ">m, 1x2, i<"), has(&svg, ">m, 2x1, i<"), has(&svg, ">3.00  (120 ms)<"), has(&svg, ">2.00  (16.0 ms)<");
    has(&text, "2x1"), has(&text, "120 (3.00)");
    assert_null(strstr(svg.data, ">6.00"));     /* 120 ms on the floor of 1x2 */
    gr_buf_free(&svg), gr_buf_free(&text);
    gr_json_free(doc);
}

static void documents_that_are_none_are_refused_by_the_key(void **state) {
    (void)state;
    const struct { const char *from, *to, *key; } bad[] = {
        {"\"grace_gpu_bench\": 1", "\"grace_gpu_bench\": 2", "grace_gpu_bench"}, {"\"engine\": [", "\"engines\": [", "engine"},
        {"\"ms\": 30", "\"ms\": \"30\"", "'ms'"},                                {"\"model\": \"first\"", "\"model\": 1", "model"},
        {"\"floor_ms\": 20", "\"floor_ms\": -20", "floor_ms"},                   {"\"prefill\": {\"ms\": 7}", "\"prefill\": 7", "prefill"},
        {"\"peer\": \"peer\"", "\"peer\": null", "peer"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        gr_json *doc = document_with(bad[i].from, bad[i].to);
        gr_buf out = {0};
        assert_int_equal(gr_report_gpu_svg(doc, &out), GRACE_ERR_FORMAT);
        if (!strstr(grace_last_error(), bad[i].key)) fail_msg("'%s' is not in: %s", bad[i].key, grace_last_error());
        assert_int_equal(gr_report_gpu_text(doc, &out), GRACE_ERR_FORMAT);
        assert_int_equal(out.n, 0);
        gr_json_free(doc);
    }
}

/* Times far from each other, and none at all, stay inside the picture. */
static void extremes_are_drawn(void **state) {
    (void)state;
    const struct { const char *from, *to; } cases[] = {
        {"\"ms\": 30", "\"ms\": 1e15"}, {"\"ms\": 30", "\"ms\": 0"}, {"\"floor_ms\": 20", "\"floor_ms\": 0"}, {"\"floor_ms\": 20", "\"floor_ms\": null"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        gr_json *doc = document_with(cases[i].from, cases[i].to);
        gr_buf out = {0};
        assert_int_equal(gr_report_gpu_svg(doc, &out), GRACE_OK);
        assert_true(!strstr(out.data, "\"nan") && !strstr(out.data, "\"inf") && !strstr(out.data, "\"-"));
        gr_buf_free(&out);
        gr_json_free(doc);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_chart_has_a_bar_for_every_time_with_a_floor),
        cmocka_unit_test(a_long_name_of_a_device_is_cut_between_characters),
        cmocka_unit_test(the_table_has_a_line_for_every_row_that_was_measured),
        cmocka_unit_test(a_peer_stands_beside_its_own_layout),
        cmocka_unit_test(documents_that_are_none_are_refused_by_the_key),
        cmocka_unit_test(extremes_are_drawn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
