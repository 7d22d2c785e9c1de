#include <math.h>
#include <stdio.h>
#include <string.h>

#include "report/format.h"
#include "report/html.h"
#include "report/page.h"
#include "report/svg.h"

enum { RUNGS_MAX = 64, CHART_WIDTH = 480, WIDE = 1000 };

/* ---- what was run ---- */

/* "tiny-olmoe (olmoe, 8 layers, 64 experts, top 8, 17.0M parameters)" as far as known. */
static void describe_model(const gr_report_data *d, char *out, size_t size) {
    const char *joint = " (";
    char family[64];
    gr_text_shorten(d->model_name ? d->model_name : "a model without a name", 60, out, 100);
    gr_text_shorten(d->model_family ? d->model_family : "", 40, family, sizeof family);
    size_t n = strlen(out);
    if (*family) n += (size_t)snprintf(out + n, size - n, "%s%s", joint, family), joint = ", ";
    if (d->model_layers >= 0) n += (size_t)snprintf(out + n, size - n, "%s%d MoE layers", joint, (int)d->model_layers), joint = ", ";
    if (d->model_experts >= 0) n += (size_t)snprintf(out + n, size - n, "%s%d experts", joint, (int)d->model_experts), joint = ", ";
    if (d->model_top_k >= 0) n += (size_t)snprintf(out + n, size - n, "%stop %d", joint, (int)d->model_top_k), joint = ", ";
    if (d->model_params >= 0)
        n += (size_t)snprintf(out + n, size - n, "%s%s parameters", joint, gr_label_short((double)d->model_params).text), joint = ", ";
    if (*joint == ',') snprintf(out + n, size - n, ")");
}

static void describe_workload(const gr_report_data *d, char *out, size_t size) {
    size_t n = 0;
    out[0] = 0;
    if (d->n_sequences >= 0) n += (size_t)snprintf(out, size, "%s sequences", gr_label_count(d->n_sequences).text);
    if (d->n_prefill >= 0) n += (size_t)snprintf(out + n, size - n, "%sprefill %s", n ? ", " : "", gr_label_count(d->n_prefill).text);
    if (d->n_decode >= 0) snprintf(out + n, size - n, "%sdecode %s", n ? ", " : "", gr_label_count(d->n_decode).text);
}

/* The change of the last rung against the baseline, when there is one to compare with. */
static void put_change(gr_out *out, const gr_report_data *d, double last, double base, const char *what) {
    char meaning[192], base_name[96];
    if (d->baseline < 0 || d->baseline == d->n_rungs - 1 || base == 0) return;
    gr_text_shorten(d->rungs[d->baseline].name, 40, base_name, sizeof base_name);
    snprintf(meaning, sizeof meaning, "%s, against %s", what, base_name);
    gr_html_highlight(out, gr_label_change(last, base).text, meaning);
}

static void put_highlights(gr_out *out, const gr_report_data *d) {
    const gr_report_rung *last = &d->rungs[d->n_rungs - 1], *base = &d->rungs[d->baseline < 0 ? 0 : d->baseline];
    int32_t n_checked, n = gr_ladder_n_identical(d, &n_checked);
    char number[48];
    gr_html_highlights(out);
    put_change(out, d, (double)last->rows_cross, (double)base->rows_cross, "rows between nodes");
    put_change(out, d, last->moe_us, base->moe_us, "time in MoE layers");
    gr_html_highlight(out, gr_label_real(last->load_max_over_mean, 2).text, "load of the busiest GPU over the mean, last rung");
    snprintf(number, sizeof number, "%d of %d", (int)n, (int)n_checked);
    if (n_checked > 0) gr_html_highlight(out, number, "rungs give the logits of one process, bit for bit");
    gr_html_highlights_end(out);
}

void gr_page_head(gr_out *out, const gr_report_data *d) {
    char model[320], workload[160];
    describe_model(d, model, sizeof model);
    describe_workload(d, workload, sizeof workload);
    const gr_page_fact facts[] = {{"workload", workload}};
    gr_page_head_begin(out, &d->head, model, facts, 1);
    put_highlights(out, d);
    gr_page_head_end(out);
}

/* ---- the ladder ---- */

typedef enum metric { CROSS, INTRA, MAX_OVER_MEAN, STD, IDLE, MOE, WALL, N_METRICS } metric;

static double metric_of(const gr_report_rung *rung, metric m) {
    switch (m) {
    case CROSS: return (double)rung->rows_cross;
    case INTRA: return (double)rung->rows_intra;
    case MAX_OVER_MEAN: return rung->load_max_over_mean;
    case STD: return rung->load_std;
    case IDLE: return rung->idle_model_us / 1000;
    case MOE: return rung->moe_us / 1000;
    default: return rung->wall_us / 1000;
    }
}

/* Decimals that give the largest value three digits. */
static int32_t decimals_of(const double *values, int32_t n) {
    double most = 0;
    for (int32_t i = 0; i < n; i++) most = fmax(most, values[i]);
    return most < 10 ? 2 : most < 1000 ? 1 : 0;
}

static void put_metric(gr_out *out, const gr_report_data *d, metric m) {
    static const char *const titles[N_METRICS] = {"Rows between nodes", "Rows inside nodes", "Load, max over mean", "Load, standard deviation",
                                                  "Idle, from loads", "Time in MoE layers", "Wall time"};
    static const char *const units[N_METRICS] = {"", "", "", "", "ms", "ms", "ms"};
    const char *names[RUNGS_MAX];
    double values[RUNGS_MAX], spread[RUNGS_MAX];
    int32_t n_known = 0;
    for (int32_t i = 0; i < d->n_rungs; i++) {
        names[i] = d->rungs[i].name;
        values[i] = metric_of(&d->rungs[i], m);
        spread[i] = m == MOE ? d->rungs[i].moe_us_spread / 1000 : NAN;
        n_known += !isnan(values[i]);
    }
    if (n_known == 0) return;
    gr_bar_chart chart = {.title = titles[m],
                          .unit = units[m],
                          .n_bars = d->n_rungs,
                          .n_series = 1,
                          .names = names,
                          .values = values,
                          .spread = spread,
                          .reference = d->baseline,
                          .strong = d->n_rungs - 1,
                          .decimals = m <= INTRA ? 0 : decimals_of(values, d->n_rungs),
                          .width = CHART_WIDTH};
    gr_html_figure(out);
    gr_svg_bars(out, &chart);
    gr_html_figure_end(out, "");
}

static void put_table(gr_out *out, grace_status built, gr_table *table, const char *caption) {
    if (built && !out->st) out->st = built;
    if (!out->st) gr_html_table(out, table, caption);
    gr_table_free(table);
}

/* Our change beside the paper's, rung by rung. */
static void put_paper(gr_out *out, const gr_report_data *d) {
    static const gr_column columns[] = {
        {"rung", GR_COLUMN_TEXT}, {"rows cross-node\nhere", GR_COLUMN_NUMBER}, {"cross-node traffic\nthe paper", GR_COLUMN_NUMBER}};
    gr_table *table = NULL;
    if (!d->paper_cross || d->baseline < 0) return;
    grace_status st = gr_table_build(columns, 3, &table);
    for (int32_t i = 0; !st && i < d->n_rungs; i++) {
        if (isnan(d->paper_cross[i])) continue;
        gr_table_row(table, false);
        gr_table_put(table, "%s", d->rungs[i].name);
        gr_table_put(table, "%s", gr_label_change((double)d->rungs[i].rows_cross, (double)d->rungs[d->baseline].rows_cross).text);
        gr_table_put(table, "%s", gr_label_change(100 + d->paper_cross[i], 100).text);
    }
    put_table(
        out, st, table,
        "Both against uniform grouping with a flat exchange. The paper's Table 1 is the mean of three larger models on two nodes with two GPUs.");
}

static void put_identity(gr_out *out, const gr_report_data *d) {
    int32_t n_checked, n = gr_ladder_n_identical(d, &n_checked);
    if (n_checked == 0) gr_html_missing(out, "No rung was compared with a run in one process.");
    else if (n == n_checked)
        gr_html_paragraph(out,
                          "Placement, replication, routing and exchange move work, not results: every rung compared gives the logits of a run in one "
                          "process, bit for bit%s%.40s.",
                          d->reference_hash ? ", hash " : "", d->reference_hash ? d->reference_hash : "");
    else
        gr_html_paragraph(out, "%d of %d rungs do not give the logits of a run in one process. That is a defect.", (int)(n_checked - n),
                          (int)n_checked);
}

void gr_page_ladder(gr_out *out, const gr_report_data *d) {
    gr_table *table = NULL, *settings = NULL;
    grace_status st = gr_ladder_table(d, &table);
    gr_html_section(out, "The ladder");
    gr_html_paragraph(out,
                      "One workload, run once for every rung. A rung differs from the one before it in placement, replication, routing or exchange.");
    put_identity(out, d);
    put_table(out, st, table,
              "Rows are dispatched plus combined. Changes are against the rung marked base. Definitions stand at the end of the page.");
    gr_html_figures(out, 2);
    for (int m = 0; m < N_METRICS; m++) put_metric(out, d, (metric)m);
    gr_html_figures_end(out);
    st = gr_ladder_settings_table(d, &settings);
    put_table(out, st, settings, "How each rung was run. The hash is cut to its first eight digits; an en dash stands for what was not taken.");
    put_paper(out, d);
    gr_html_section_end(out);
}

/* ---- time by stage ---- */

void gr_page_times(gr_out *out, const gr_report_data *d) {
    static const char *const stages[GR_N_RUNG_TIMES] = {"route", "dispatch", "experts", "combine"};
    const char *names[RUNGS_MAX];
    double values[RUNGS_MAX * GR_N_RUNG_TIMES];
    int32_t n = 0;
    for (int32_t i = 0; i < d->n_rungs; i++) {
        if (!d->rungs[i].has_times) continue;
        for (int s = 0; s < GR_N_RUNG_TIMES; s++) values[n * GR_N_RUNG_TIMES + s] = d->rungs[i].time_us[s] / 1000;
        names[n++] = d->rungs[i].name;
    }
    gr_html_section(out, "Where the time goes");
    if (n == 0) gr_html_missing(out, "The document has no times by stage (time_us).");
    else {
        gr_bar_chart chart = {.title = "Time in MoE layers by stage",
                              .unit = "ms",
                              .n_bars = n,
                              .n_series = GR_N_RUNG_TIMES,
                              .names = names,
                              .series = stages,
                              .values = values,
                              .reference = -1,
                              .strong = -1,
                              .decimals = decimals_of(values, n * GR_N_RUNG_TIMES),
                              .width = WIDE};
        gr_html_figures(out, 1);
        gr_html_figure(out);
        gr_svg_bars(out, &chart);
        gr_html_figure_end(out,
                           "Mean over GPUs. Route: choose slots and count rows. Dispatch and combine: rows move, and GPUs wait for each other. "
                           "Experts: the matrix products.");
        gr_html_figures_end(out);
    }
    gr_html_section_end(out);
}
