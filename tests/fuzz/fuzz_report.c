/* Any bytes as a document of `grace report`, or as several of `grace sim --json`, each ended by a zero byte but the last: one sentence, or a page and a
 * table, and, of a ladder, what agreement is measured by. The page is well formed whatever the document's names say, and whatever its numbers are,
 * every coordinate is one. */
#include "fuzz/scratch.h"

#include "ladder_json.h"
#include "report/markup.h"
#include "report/report.h"
#include "report_plans.h"
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

/* What was read from simulations is a document that can be drawn, unless a number of theirs makes no sense. */
static gr_json *join_simulations(const uint8_t *at, const uint8_t *end) {
    enum { FILES_MAX = 3 };
    char names[FILES_MAX][8], paths[FILES_MAX][128];
    const char *files[FILES_MAX];
    gr_json *doc = NULL;
    int32_t n = 0;
    for (; n < FILES_MAX && at < end; n++) {
        const uint8_t *begin = at;
        snprintf(names[n], sizeof names[n], "sim-%d", n);
        scratch_put(names[n], begin, scratch_part(&at, end), true);
        snprintf(paths[n], sizeof paths[n], "%s/%s", scratch, names[n]);
        files[n] = paths[n];
    }
    if (gr_report_sims_build(files, n, &doc)) GR_ASSERT(!doc && grace_last_error()[0]);
    else GR_ASSERT(gr_report_is_placements(doc));
    return doc;
}

/* As `grace bench agreement` does. */
static void read_ladder(const gr_json *doc) {
    gr_ladder_run runs[GR_LADDER_RUNGS_MAX];
    grace_workload w;
    int32_t n = 0;
    if (gr_ladder_read(doc, "fuzz", runs, &n, &w)) {
        GR_ASSERT(grace_last_error()[0]);
        return;
    }
    GR_ASSERT(n >= 2 && n <= GR_LADDER_RUNGS_MAX && w.sequences >= 1 && w.prefill >= 1 && w.decode >= 0);
    for (int32_t i = 0; i < n; i++)
        GR_ASSERT(runs[i].name && runs[i].plan && runs[i].moe_us > 0 && runs[i].exchange <= GRACE_EXCHANGE_HSC && runs[i].route < GRACE_N_ROUTES);
}

/* As `grace report` does. */
static gr_json *read_document(const uint8_t *data, size_t n) {
    const uint8_t *at = data;
    gr_json *doc = NULL;
    if (gr_json_parse("fuzz", (const char *)data, scratch_part(&at, data + n), &doc)) return NULL;
    if (!gr_json_get(doc, "grace_sim")) return doc;
    gr_json_free(doc);
    return join_simulations(data, data + n);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    gr_json *doc = read_document(data, n);
    gr_buf buf = {0};
    if (!doc) return 0;
    read_ladder(doc);
    if (draws(doc, gr_report_is_gpu(doc) ? gr_report_gpu_svg : gr_report_html, &buf)) check_page(&buf);
    draws(doc, gr_report_is_gpu(doc) ? gr_report_gpu_text : gr_report_is_placements(doc) ? gr_report_placements_text : gr_report_ladder_text, &buf);
    gr_buf_free(&buf);
    gr_json_free(doc);
    return 0;
}
