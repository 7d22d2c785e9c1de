/* Any bytes as a document of `grace report`: one sentence, or a page and a table. The page is well formed whatever the document's names say, and
 * whatever its numbers are, every coordinate is one. */
#include "report/report.h"

#include <stdio.h>
#include <string.h>

#include "report/markup.h"
#include "text/unicode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void check_coordinates(const char *page) {
    static const char *const attributes[] = {"x", "y", "x1", "y1", "x2", "y2", "cx", "cy", "width", "height", "points"};
    static const char *const wrong[] = {"nan", "-nan", "inf", "-inf"};
    char text[32];
    for (size_t a = 0; a < sizeof attributes / sizeof *attributes; a++)
        for (size_t w = 0; w < sizeof wrong / sizeof *wrong; w++) {
            snprintf(text, sizeof text, " %s=\"%s", attributes[a], wrong[w]);
            GR_ASSERT(!strstr(page, text));
        }
}

static void check_page(const gr_buf *page) {
    markup m;
    GR_ASSERT(strlen(page->data) == page->n && gr_utf8_valid(page->data, page->n) == page->n);
    if (!markup_check(page->data, &m)) fprintf(stderr, "%s\n", m.problem);
    GR_ASSERT(!m.problem[0]);
    check_coordinates(page->data);
}

typedef grace_status draw(const gr_json *doc, gr_buf *buf);

/* Without a failure buf has something. */
static bool draws(const gr_json *doc, draw *f, gr_buf *buf) {
    buf->n = 0;
    if (f(doc, buf)) GR_ASSERT(buf->n == 0 && grace_last_error()[0]);
    else GR_ASSERT(buf->n > 0);
    return buf->n > 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    gr_json *doc = NULL;
    gr_buf buf = {0};
    if (gr_json_parse("fuzz", (const char *)data, n, &doc)) return 0;
    if (draws(doc, gr_report_is_gpu(doc) ? gr_report_gpu_svg : gr_report_html, &buf)) check_page(&buf);
    draws(doc, gr_report_is_gpu(doc) ? gr_report_gpu_text : gr_report_is_placements(doc) ? gr_report_placements_text : gr_report_ladder_text, &buf);
    gr_buf_free(&buf);
    gr_json_free(doc);
    return 0;
}
