#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "report/format.h"
#include "report/html.h"
#include "report/page.h"
#include "report/report.h"
#include "report/svg.h"

enum { CHART_WIDTH = 500, CHART_HEIGHT = 340, TERMINAL_WIDTH = 120 };

/* ---- what was planned ---- */

/* The plan that the page is about, against the first one. */
static void put_highlights(gr_out *out, const gr_placements_data *d) {
    const gr_placement *best = &d->of[d->strong], *first = &d->of[0];
    char meaning[192], name[64];
    gr_html_highlights(out);
    gr_text_shorten(best->name, 40, name, sizeof name);
    snprintf(meaning, sizeof meaning, "rows between nodes a token and layer: %s", name);
    gr_html_highlight(out, gr_label_real(best->rows_cross, 3).text, meaning);
    if (best != first) {
        gr_text_shorten(first->name, 40, name, sizeof name);
        snprintf(meaning, sizeof meaning, "rows between nodes, against %s", name);
        gr_html_highlight(out, gr_label_change(best->rows_cross, first->rows_cross).text, meaning);
    }
    gr_html_highlight(out, gr_label_real(best->load_max_over_mean, 2).text, "load of its busiest GPU over the mean");
    if (best->replica_bytes >= 0) gr_html_highlight(out, gr_label_bytes(best->replica_bytes).text, "copies of experts on its fullest GPU");
    gr_html_highlights_end(out);
}

void gr_page_placements_head(gr_out *out, const gr_placements_data *d) {
    char routing[320], name[100];
    gr_text_shorten(d->trace, 60, name, sizeof name);
    int n = snprintf(routing, sizeof routing, "%s: %d MoE layers, %d experts", name, (int)d->n_layers, (int)d->n_experts);
    if (d->top_k >= 0) n += snprintf(routing + n, sizeof routing - (size_t)n, ", top %d", (int)d->top_k);
    if (d->n_tokens >= 0) snprintf(routing + n, sizeof routing - (size_t)n, ", %s tokens", gr_label_count(d->n_tokens).text);
    const gr_page_fact facts[] = {{"measured on", d->tested_on}, {"routing", d->synthetic ? "synthetic: no model chose these experts" : "recorded"}};
    gr_page_head_begin(out, &d->head, routing, facts, 2);
    put_highlights(out, d);
    gr_page_head_end(out);
}

/* ---- the plans side by side ---- */

static void put_real(gr_table *table, double value, int decimals) { gr_table_put(table, "%s", isnan(value) ? "" : gr_label_real(value, decimals).text); }
static void put_count(gr_table *table, int64_t value) { gr_table_put(table, "%s", value < 0 ? "" : gr_label_count(value).text); }
static void put_ms(gr_table *table, double us) { gr_table_put(table, "%s", isnan(us) ? "" : gr_label_ms(us).text); }

static void add_placement(gr_table *table, const gr_placements_data *d, const gr_placement *p) {
    gr_table_row(table, p == &d->of[d->strong] && d->n > 1);
    gr_table_put(table, "%s", p->name);
    put_real(table, p->rows_cross, 3);
    gr_table_put(table, "%s", p == d->of ? "base" : gr_label_change(p->rows_cross, d->of[0].rows_cross).text);
    put_real(table, p->rows_intra, 3);
    put_real(table, p->load_max_over_mean, 2);
    put_real(table, p->load_std / p->load_floor, 1);
    put_real(table, p->memory, 2);
    put_count(table, p->slots_total);
    gr_table_put(table, "%s", p->replica_bytes < 0 ? "" : gr_label_bytes(p->replica_bytes).text);
    put_count(table, p->kv_tokens_displaced);
    put_ms(table, p->prefill_us);
    put_ms(table, p->decode_us);
}

static grace_status placement_table(const gr_placements_data *d, gr_table **out) {
    static const gr_column columns[] = {{"plan", GR_COLUMN_TEXT},       {"rows\ncross-node", GR_COLUMN_NUMBER}, {"\nchange", GR_COLUMN_NUMBER},
                                        {"rows\nintra", GR_COLUMN_NUMBER}, {"load\nmax/mean", GR_COLUMN_NUMBER},   {"std, x\nchance", GR_COLUMN_NUMBER},
                                        {"memory\nfullest", GR_COLUMN_NUMBER}, {"slots\nin all", GR_COLUMN_NUMBER}, {"replicas\nfullest", GR_COLUMN_NUMBER},
                                        {"KV tokens\ndisplaced", GR_COLUMN_NUMBER}, {"prefill\nms", GR_COLUMN_NUMBER}, {"decode\nms", GR_COLUMN_NUMBER}};
    grace_status st = gr_table_build(columns, sizeof columns / sizeof *columns, out);
    for (int32_t i = 0; !st && i < d->n; i++) add_placement(*out, d, &d->of[i]);
    return st;
}

grace_status gr_report_placements_text(const gr_json *doc, gr_buf *buf) {
    grace_status st = GRACE_OK;
    gr_placements_data *d = NULL;
    gr_table *table = NULL;
    gr_buf text = {0};
    GR_TRY(gr_placements_build(doc, &d));
    GR_TRY(placement_table(d, &table));
    GR_TRY(gr_table_text(table, TERMINAL_WIDTH, &text));
    GR_TRY(gr_buf_append(buf, text.data, text.n));
done:
    gr_buf_free(&text);
    gr_table_free(table);
    gr_placements_free(d);
    return st;
}

typedef enum metric { CROSS, MAX_OVER_MEAN, PREFILL, DECODE, N_METRICS } metric;

static double metric_of(const gr_placement *p, metric m) {
    switch (m) {
    case CROSS: return p->rows_cross;
    case MAX_OVER_MEAN: return p->load_max_over_mean;
    case PREFILL: return p->prefill_us / 1000;
    default: return p->decode_us / 1000;
    }
}

static void draw_metric(gr_out *out, const gr_placements_data *d, metric m) {
    static const char *const titles[N_METRICS] = {"Rows between nodes, a token and layer", "Load, max over mean", "Predicted prefill step",
            "Predicted decode step"};
    static const char *const units[N_METRICS] = {"", "", "ms", "ms"};
    double values[64];
    const char *names[64];
    bool known = false;
    for (int32_t i = 0; i < d->n; i++) {
        values[i] = metric_of(&d->of[i], m), names[i] = d->of[i].name;
        known = known || !isnan(values[i]);
    }
    if (!known) return;
    gr_bar_chart chart = {.title = titles[m], .unit = units[m], .n_bars = d->n, .n_series = 1, .names = names, .values = values,
                          .reference = 0, .strong = d->strong, .decimals = m == CROSS ? 3 : 2, .width = CHART_WIDTH};
    gr_html_figure(out);
    gr_svg_bars(out, &chart);
    gr_html_figure_end(out, "");
}

void gr_page_placements(gr_out *out, const gr_placements_data *d) {
    gr_table *table = NULL;
    gr_html_section(out, "Plans");
    gr_html_paragraph(out, "What a token costs on routing the plans have not seen unless the head says otherwise. Rows are dispatched, combine "
                           "sends as many back.");
    gr_html_figures(out, 2);
    for (int m = 0; m < N_METRICS; m++) draw_metric(out, d, (metric)m);
    gr_html_figures_end(out);
    grace_status st = placement_table(d, &table);
    if (st && !out->st) out->st = st;
    if (!out->st) gr_html_table(out, table, "Std, x chance: standard deviation of the GPUs' loads over what chance alone would make it, each pair "
                                            "falling on any GPU. Times are predictions.");
    gr_table_free(table);
    gr_html_section_end(out);
}

/* ---- rows and time against memory ---- */

static grace_status draw_curves(gr_out *out, const gr_memory_curve *c, bool time) {
    grace_status st = GRACE_OK;
    gr_arena *arena = gr_arena_new();
    char title[160], trace[64], cluster[48];
    const char **names;
    int32_t *first, n = 0;
    double *x, *y;
    GR_CHECK(arena, GRACE_ERR_MEMORY, "no memory for curves");
    for (int32_t s = 0; s < c->n_series; s++) n += time && !c->series[s].step_us ? 0 : c->series[s].n;
    if (n == 0) goto done;
    GR_ARENA_ARRAY(arena, names, c->n_series);
    GR_ARENA_ARRAY(arena, first, c->n_series + 1);
    GR_ARENA_ARRAY(arena, x, n);
    GR_ARENA_ARRAY(arena, y, n);
    for (int32_t s = 0, at = 0; s < c->n_series; s++) {
        const gr_curve_series *series = &c->series[s];
        const double *values = time ? series->step_us : series->rows_cross;
        names[s] = series->planner;
        for (int32_t i = 0; values && i < series->n; i++, at++) x[at] = series->memory[i], y[at] = time ? values[i] / 1000 : values[i];
        first[s + 1] = at;
    }
    gr_text_shorten(c->trace, 30, trace, sizeof trace);
    gr_text_shorten(c->cluster, 20, cluster, sizeof cluster);
    snprintf(title, sizeof title, "%s, %s", trace, cluster);
    gr_lines_chart chart = {.title = title, .x_title = "memory: slots of the fullest GPU over an even share",
                            .y_title = time ? "predicted step time, ms" : "rows between nodes, a token and layer", .n_series = c->n_series, .names = names,
                            .first = first, .x = x, .y = y, .width = CHART_WIDTH, .height = CHART_HEIGHT};
    gr_html_figure(out);
    gr_svg_lines(out, &chart);
    gr_html_figure_end(out, "");
done:
    gr_arena_free(arena);
    return st;
}

void gr_page_curves(gr_out *out, const gr_placements_data *d) {
    gr_html_section(out, "What memory buys");
    if (d->n_curves == 0) gr_html_missing(out, "The document has no curves against memory (curves).");
    else {
        gr_html_paragraph(out, "Every planner with the memory it is given, from none to spare to every expert on every node. A planner without "
                               "copies is a point.");
        gr_html_figures(out, 2);
        for (int32_t i = 0; i < d->n_curves; i++)
            for (int time = 0; time < 2; time++) {
                grace_status st = draw_curves(out, &d->curves[i], time);
                if (st && !out->st) out->st = st;
            }
        gr_html_figures_end(out);
    }
    gr_html_section_end(out);
}

/* ---- planned on one domain, run on another ---- */

static grace_status draw_transfer(gr_out *out, const gr_transfer *t) {
    grace_status st = GRACE_OK;
    gr_arena *arena = gr_arena_new();
    int32_t n = t->n;
    double *values, most = 0;
    gr_label *text;
    const char **cells;
    GR_CHECK(arena, GRACE_ERR_MEMORY, "no memory for a matrix");
    GR_ARENA_ARRAY(arena, values, n * n);
    GR_ARENA_ARRAY(arena, text, n * n);
    GR_ARENA_ARRAY(arena, cells, n * n);
    for (int32_t i = 0; i < n * n; i++) {
        double base = t->contiguous[i % n];
        values[i] = base > 0 ? t->rows[i] / base : NAN;
        text[i] = gr_label_change(t->rows[i], base);
        cells[i] = text[i].text;
        if (!isnan(values[i])) most = fmax(most, values[i]);
    }
    gr_heat_map map = {.title = t->planner, .row_title = "planned on " "\xE2\x86\x93", .col_title = "run on " "\xE2\x86\x92",
                       .legend = "rows between nodes, of contiguous", .n_rows = n, .n_cols = n, .values = values, .cells = cells, .row_names = t->domains,
                       .col_names = t->domains, .hi = most > 0 ? most : 1, .power = 1,
                       .cell_width = fmin(fmax(floor(720.0 / n), 40), 110), .cell_height = fmin(fmax(floor(420.0 / n), 22), 54)};
    gr_html_figure(out);
    gr_svg_heat(out, &map);
    gr_html_figure_end(out, "Written: change of rows between nodes against a contiguous placement on the domain run.");
done:
    gr_arena_free(arena);
    return st;
}

void gr_page_transfer(gr_out *out, const gr_placements_data *d) {
    gr_html_section(out, "Planned on one domain, run on another");
    if (!d->transfer) gr_html_missing(out, "The document has no domains to compare (transfer).");
    else {
        gr_html_paragraph(out, "What is left of a plan when the text changes: the diagonal is a plan's own domain (other sequences of it).");
        gr_html_figures(out, 1);
        grace_status st = draw_transfer(out, d->transfer);
        if (st && !out->st) out->st = st;
        gr_html_figures_end(out);
    }
    gr_html_section_end(out);
}
