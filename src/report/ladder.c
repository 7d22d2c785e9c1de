#include <math.h>
#include <stdio.h>
#include <string.h>

#include "report/format.h"
#include "report/page.h"
#include "report/report.h"

enum { TERMINAL_WIDTH = 120 };
#define NONE "\xE2\x80\x93"     /* en dash */

static void put_change(gr_table *table, const gr_report_data *d, int32_t rung, int64_t value, int64_t base) {
    if (d->baseline < 0) gr_table_put(table, NONE);
    else if (rung == d->baseline) gr_table_put(table, "base");
    else gr_table_put(table, "%s", gr_label_change((double)value, (double)base).text);
}

static void put_ms(gr_table *table, double us) {
    gr_table_put(table, "%s", isnan(us) ? NONE : gr_label_ms(us).text);
}

static const char *verdict_text(gr_verdict verdict) {
    return verdict == GR_IDENTICAL ? "yes" : verdict == GR_DIFFERENT ? "no" : NONE;
}

static void add_rung(gr_table *table, const gr_report_data *d, int32_t i) {
    const gr_report_rung *rung = &d->rungs[i], *base = &d->rungs[d->baseline < 0 ? 0 : d->baseline];
    gr_table_row(table, i == d->n_rungs - 1);
    gr_table_put(table, "%s", rung->name);
    gr_table_put(table, "%s", gr_label_count(rung->rows_cross).text);
    put_change(table, d, i, rung->rows_cross, base->rows_cross);
    gr_table_put(table, "%s", gr_label_count(rung->rows_intra).text);
    put_change(table, d, i, rung->rows_intra, base->rows_intra);
    gr_table_put(table, "%s", gr_label_real(rung->load_max_over_mean, 2).text);
    gr_table_put(table, "%s", gr_label_real(rung->load_std, rung->load_std < 1000 ? 1 : 0).text);
    put_ms(table, rung->idle_model_us);
    put_ms(table, rung->moe_us);
    put_ms(table, rung->wall_us);
    gr_table_put(table, "%s", verdict_text(rung->identical));
}

grace_status gr_ladder_table(const gr_report_data *d, gr_table **out) {
    static const gr_column columns[] = {{"rung", GR_COLUMN_TEXT},        {"rows\ncross-node", GR_COLUMN_NUMBER},
                                        {"change", GR_COLUMN_NUMBER},    {"rows\nintra-node", GR_COLUMN_NUMBER},
                                        {"change", GR_COLUMN_NUMBER},    {"load\nmax/mean", GR_COLUMN_NUMBER},
                                        {"load\nstd", GR_COLUMN_NUMBER}, {"idle\nms", GR_COLUMN_NUMBER},
                                        {"MoE\nms", GR_COLUMN_NUMBER},   {"wall\nms", GR_COLUMN_NUMBER},
                                        {"identical", GR_COLUMN_VERDICT}};
    grace_status st = gr_table_build(columns, sizeof columns / sizeof *columns, out);
    for (int32_t i = 0; !st && i < d->n_rungs; i++) add_rung(*out, d, i);
    return st;
}

static void put_count(gr_table *table, int64_t count) {
    gr_table_put(table, "%s", count < 0 ? NONE : gr_label_count(count).text);
}

static void put_bytes(gr_table *table, int64_t bytes) {
    gr_table_put(table, "%s", bytes < 0 ? NONE : gr_label_bytes(bytes).text);
}

static void add_settings(gr_table *table, const gr_report_rung *rung, bool strong) {
    gr_table_row(table, strong);
    gr_table_put(table, "%s", rung->name);
    gr_table_put(table, "%s", rung->plan ? rung->plan : NONE);
    gr_table_put(table, "%s", rung->exchange ? rung->exchange : NONE);
    gr_table_put(table, "%s", rung->route ? rung->route : NONE);
    put_count(table, rung->replica_slots);
    put_bytes(table, rung->bytes_cross);
    put_bytes(table, rung->bytes_intra);
    put_ms(table, rung->idle_measured_us);
    gr_table_put(table, "%.8s", rung->logits_hash ? rung->logits_hash : NONE);
}

grace_status gr_ladder_settings_table(const gr_report_data *d, gr_table **out) {
    static const gr_column columns[] = {{"rung", GR_COLUMN_TEXT},
                                        {"plan", GR_COLUMN_TEXT},
                                        {"exchange", GR_COLUMN_TEXT},
                                        {"routing", GR_COLUMN_TEXT},
                                        {"replica\nslots", GR_COLUMN_NUMBER},
                                        {"bytes\ncross-node", GR_COLUMN_NUMBER},
                                        {"bytes\nintra-node", GR_COLUMN_NUMBER},
                                        {"idle, ms\nmeasured", GR_COLUMN_NUMBER},
                                        {"hash of\nlogits", GR_COLUMN_TEXT}};
    grace_status st = gr_table_build(columns, sizeof columns / sizeof *columns, out);
    for (int32_t i = 0; !st && i < d->n_rungs; i++) add_settings(*out, &d->rungs[i], i == d->n_rungs - 1);
    return st;
}

int32_t gr_ladder_n_identical(const gr_report_data *d, int32_t *n_checked) {
    int32_t n = 0;
    *n_checked = 0;
    for (int32_t i = 0; i < d->n_rungs; i++) {
        *n_checked += d->rungs[i].identical != GR_NOT_CHECKED;
        n += d->rungs[i].identical == GR_IDENTICAL;
    }
    return n;
}

/* ---- replicas ---- */

static bool same_hosts(const gr_report_replica *r, int32_t a, int32_t b) {
    int32_t n = r->first_host[a + 1] - r->first_host[a];
    return n == r->first_host[b + 1] - r->first_host[b] &&
           !memcmp(r->hosts + r->first_host[a], r->hosts + r->first_host[b], sizeof *r->hosts * (size_t)n);
}

/* "3, 17, 40" into the cell, cut at its end when it does not fit. */
static void put_ids(gr_table *table, const int64_t *ids, int32_t n) {
    char text[1024];
    size_t used = 0;
    text[0] = 0;
    for (int32_t i = 0; i < n && used + 32 < sizeof text; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, i ? ", %d" : "%d", (int)ids[i]);
    if (used + 32 >= sizeof text) snprintf(text + used, sizeof text - used, ", ...");
    gr_table_put(table, "%s", text);
}

/* Experts that follow one another with the same hosts share a line. */
static void add_replica(gr_table *table, const gr_report_replica *r) {
    for (int32_t i = 0, end; i < r->n_experts; i = end) {
        for (end = i + 1; end < r->n_experts && same_hosts(r, i, end);) end++;
        int32_t n_hosts = r->first_host[i + 1] - r->first_host[i];
        gr_table_row(table, false);
        gr_table_put(table, "%d", (int)r->layer);
        gr_table_put(table, "GPU %d", (int)r->primary_rank);
        put_ids(table, r->hosts + r->first_host[i], n_hosts);
        gr_table_put(table, "%d", (int)((end - i) * n_hosts));
        put_ids(table, r->experts + i, end - i);
    }
}

grace_status gr_replica_table(const gr_report_plan *p, gr_table **out) {
    static const gr_column columns[] = {{"layer", GR_COLUMN_TEXT},
                                        {"primary on", GR_COLUMN_TEXT},
                                        {"copied to GPU", GR_COLUMN_TEXT},
                                        {"copies", GR_COLUMN_NUMBER},
                                        {"experts", GR_COLUMN_TEXT}};
    grace_status st = gr_table_build(columns, sizeof columns / sizeof *columns, out);
    for (int32_t i = 0; !st && i < p->n_replicas; i++) add_replica(*out, &p->replicas[i]);
    return st;
}

/* ---- in the terminal ---- */

static void put_footer(gr_out *out, const gr_report_data *d) {
    int32_t n_checked, n = gr_ladder_n_identical(d, &n_checked);
    char name[64];
    if (d->baseline >= 0) {
        gr_text_shorten(d->rungs[d->baseline].name, 40, name, sizeof name);
        gr_out_put(out, "change: against %s. ", name);
    }
    if (n_checked > 0) gr_out_put(out, "identical: %d of %d rungs give the logits of one process bit for bit.", (int)n, (int)n_checked);
    gr_out_put(out, "\n");
}

grace_status gr_report_ladder_text(const gr_json *doc, gr_buf *buf) {
    grace_status st = GRACE_OK;
    gr_report_data *d = NULL;
    gr_table *table = NULL;
    gr_out out = {0};
    GR_TRY(gr_report_data_build(doc, &d));
    GR_TRY(gr_ladder_table(d, &table));
    GR_TRY(gr_table_text(table, TERMINAL_WIDTH, &out.buf));
    put_footer(&out, d);
    GR_TRY(out.st);
    GR_TRY(gr_buf_append(buf, out.buf.data, out.buf.n));
done:
    gr_out_free(&out);
    gr_table_free(table);
    gr_report_data_free(d);
    return st;
}
