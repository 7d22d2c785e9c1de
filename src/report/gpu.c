/* What ./run bench gpu and ./run bench multi measured of whole models (docs/gpu-bench.md, docs/multi-bench.md): times as multiples of the floor, beside
 * peers on the same GPUs. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "report/format.h"
#include "report/read.h"
#include "report/report.h"
#include "report/svg.h"
#include "report/tables.h"

enum { VERSION = 1, ROWS_MAX = 256, PHASES = 2, TERMINAL_WIDTH = 120 };

/* One phase of one workload; NaN: not measured. */
typedef struct gpu_time { double ms, floor_ms, peer_ms; } gpu_time;
/* layout: NODESxGPUS; "": one GPU. */
typedef struct gpu_row { const char *model, *layout, *workload, *peer; gpu_time of[PHASES]; } gpu_row;
typedef struct gpu_data { const char *device; gpu_row *rows; int32_t n; gr_arena *arena; } gpu_data;

static const char *const phases[PHASES] = {"prefill", "decode"}, *const phase_titles[PHASES] = {"prefill", "decode step"};
static const char *const peer_keys[PHASES] = {"prefill_ms", "step_ms"};

static const char *kind_of(const gr_json *doc) { return gr_json_get(doc, "grace_multi_bench") ? "grace_multi_bench" : "grace_gpu_bench"; }

bool gr_report_is_gpu(const gr_json *doc) { return gr_json_get(doc, kind_of(doc)) != NULL; }

/* ---- reading ---- */

static grace_status read_phase(const gr_json *row, const char *where, const char *key, gpu_time *t) {
    grace_status st = GRACE_OK;
    const gr_json *phase;
    *t = (gpu_time){NAN, NAN, NAN};
    GR_TRY(gr_read_object_or_none(row, where, key, &phase));
    if (!phase) goto done;
    GR_TRY(gr_read_real(phase, where, "ms", &t->ms));
    GR_TRY(gr_read_real_or_none(phase, where, "floor_ms", &t->floor_ms));
    if (t->floor_ms < 1e-9) t->floor_ms = NAN;      /* of nothing, or less than a picosecond, there are no multiples */
done:
    return st;
}

/* What was run, of a row of ours or of a peer's. */
static grace_status read_case(const gr_json *json, const char *where, gpu_row *row) {
    grace_status st = GRACE_OK;
    *row = (gpu_row){0};
    GR_TRY(gr_json_string(json, where, "model", &row->model));
    GR_TRY(gr_json_string(json, where, "workload", &row->workload));
    GR_TRY(gr_json_string_or(json, where, "layout", "", &row->layout));
done:
    return st;
}

static bool same_case(const gpu_row *a, const gpu_row *b) {
    return strcmp(a->model, b->model) == 0 && strcmp(a->workload, b->workload) == 0 && strcmp(a->layout, b->layout) == 0;
}

static grace_status read_row(const gr_json *json, const char *where, gpu_row *row) {
    grace_status st = GRACE_OK;
    GR_TRY(read_case(json, where, row));
    for (int p = 0; p < PHASES; p++) GR_TRY(read_phase(json, where, phases[p], &row->of[p]));
done:
    return st;
}

/* The first peer that ran what the row ran. */
static grace_status read_peer(const gr_json *peers, size_t n, gpu_row *row) {
    grace_status st = GRACE_OK;
    for (size_t i = 0; i < n && !row->peer; i++) {
        const gr_json *peer = gr_json_at(peers, i);
        const gr_place where = gr_place_at("peer_models", i);
        gpu_row other;
        if (gr_json_kind_of(gr_json_get(peer, "error")) != GR_JSON_NULL) continue;
        GR_TRY(read_case(peer, where.text, &other));
        if (!same_case(&other, row)) continue;
        GR_TRY(gr_json_string(peer, where.text, "peer", &row->peer));
        for (int p = 0; p < PHASES; p++) GR_TRY(gr_read_real_or_none(peer, where.text, peer_keys[p], &row->of[p].peer_ms));
    }
done:
    return st;
}

static grace_status read_rows(const gr_json *doc, gpu_data *d) {
    grace_status st = GRACE_OK;
    const gr_json *rows, *peers;
    size_t n, n_peers;
    GR_TRY(gr_read_array(doc, "report", "engine", 1, ROWS_MAX, &rows, &n));
    GR_TRY(gr_read_array_or_none(doc, "report", "peer_models", &peers));
    n_peers = peers ? gr_json_length(peers) : 0;
    GR_ARENA_ARRAY(d->arena, d->rows, n);
    GR_TRY(gr_json_string_or(gr_json_at(rows, 0), "report: engine[0]", "device", "unknown device", &d->device));
    for (size_t i = 0; i < n; i++) {
        const gr_json *row = gr_json_at(rows, i);
        if (gr_json_kind_of(gr_json_get(row, "error")) != GR_JSON_NULL) continue;
        GR_TRY(read_row(row, gr_place_at("engine", i).text, &d->rows[d->n]));
        GR_TRY(read_peer(peers, n_peers, &d->rows[d->n]));
        d->n++;
    }
done:
    return st;
}

static grace_status read_document(const gr_json *doc, gpu_data *d) {
    grace_status st = GRACE_OK;
    int64_t version;
    GR_TRY(gr_json_int(doc, "report", kind_of(doc), VERSION, VERSION, &version));
    GR_CHECK((d->arena = gr_arena_new()), GRACE_ERR_MEMORY, "no memory to read the document");
    GR_TRY(read_rows(doc, d));
done:
    return st;
}

/* ---- the table ---- */

static void put_time(gr_table *table, double ms, double floor_ms) {
    if (isnan(ms)) gr_table_put(table, "%s", "");
    else if (isnan(floor_ms)) gr_table_put(table, "%s", gr_label_ms(1e3 * ms).text);
    else gr_table_put(table, "%s (%.2f)", gr_label_ms(1e3 * ms).text, ms / floor_ms);
}

grace_status gr_report_gpu_text(const gr_json *doc, gr_buf *buf) {
    static const gr_column columns[] = {{"model", GR_COLUMN_TEXT},           {"nodes x\nGPUs", GR_COLUMN_TEXT},
                                        {"workload", GR_COLUMN_TEXT},        {"prefill\nms (x floor)", GR_COLUMN_NUMBER},
                                        {"peer", GR_COLUMN_NUMBER},          {"step\nms (x floor)", GR_COLUMN_NUMBER},
                                        {"peer", GR_COLUMN_NUMBER},          {"which peer", GR_COLUMN_TEXT}};
    grace_status st = GRACE_OK;
    gpu_data d = {0};
    gr_table *table = NULL;
    GR_TRY(read_document(doc, &d));
    GR_TRY(gr_table_build(columns, sizeof columns / sizeof *columns, &table));
    for (const gpu_row *row = d.rows; row < d.rows + d.n; row++) {
        gr_table_row(table, false);
        gr_table_put(table, "%s", row->model);
        gr_table_put(table, "%s", row->layout[0] ? row->layout : "1x1");
        gr_table_put(table, "%s", row->workload);
        for (int p = 0; p < PHASES; p++) {
            put_time(table, row->of[p].ms, row->of[p].floor_ms);
            put_time(table, row->of[p].peer_ms, row->of[p].floor_ms);
        }
        gr_table_put(table, "%s", row->peer ? row->peer : "");
    }
    GR_TRY(gr_table_text(table, TERMINAL_WIDTH, buf));
done:
    gr_table_free(table);
    gr_arena_free(d.arena);
    return st;
}

/* ---- the chart: a pair of bars a row, on a scale of powers that starts at the floor ---- */

enum { WIDTH = 880, GUTTER = 210, RIGHT = 110, BAR = 11, PITCH = 32, HEADING = 28 };

static double ratio_of(const gpu_time *t, bool peer) { return (peer ? t->peer_ms : t->ms) / t->floor_ms; }

/* At least 2, so that there is an axis. */
static double largest(const gpu_data *d) {
    double most = 2;
    for (int32_t i = 0; i < d->n; i++)
        for (int p = 0; p < PHASES; p++) most = fmax(fmax(most, ratio_of(&d->rows[i].of[p], false)), ratio_of(&d->rows[i].of[p], true));
    return most;     /* fmax passes over NaN */
}

static double x_of(double ratio, double most) { return GUTTER + (WIDTH - GUTTER - RIGHT) * log(fmax(ratio, 1)) / log(most); }

static void draw_axis(gr_out *out, double most, double top, double bottom) {
    static const double ticks[] = {1, 2, 5, 10, 20, 50, 100, 200, 500, 1000};
    char text[32];
    for (size_t i = 0; i < sizeof ticks / sizeof *ticks && ticks[i] <= most; i++) {
        snprintf(text, sizeof text, "%g", ticks[i]);
        gr_svg_line_between(out, x_of(ticks[i], most), top, x_of(ticks[i], most), bottom, ticks[i] > 1 ? GR_SVG_RULE : GR_SVG_SOFT, NULL);
        gr_svg_text(out, x_of(ticks[i], most), bottom + 15, "middle", GR_SVG_SOFT, 11.5, 8, text);
    }
}

static void draw_bar(gr_out *out, const gpu_time *t, bool peer, double most, double y) {
    const double ratio = ratio_of(t, peer), ms = peer ? t->peer_ms : t->ms;
    char text[96];
    if (isnan(ratio)) return;
    gr_out_put(out, "<rect x=\"%d\" y=\"%.1f\" width=\"%.1f\" height=\"%d\" fill=\"%s\"/>\n", GUTTER, y, x_of(ratio, most) - GUTTER, BAR,
               peer ? "#9aa5b1" : "#0b4f8a");
    snprintf(text, sizeof text, "%.2f  (%s ms)", ratio, gr_label_ms(1e3 * ms).text);
    gr_svg_text(out, x_of(ratio, most) + 6, y + 9.5, "start", peer ? GR_SVG_SOFT : GR_SVG_INK, 11, 40, text);
}

static double draw_phase(gr_out *out, const gpu_data *d, int phase, double most, double y) {
    gr_svg_text(out, 0, y + 18, "start", GR_SVG_INK, 12.5, 30, phase_titles[phase]);
    y += HEADING;
    for (int32_t i = 0; i < d->n; i++, y += PITCH) {
        char name[128];
        snprintf(name, sizeof name, "%.60s, %.20s%s%.20s", d->rows[i].model, d->rows[i].layout, d->rows[i].layout[0] ? ", " : "", d->rows[i].workload);
        gr_svg_text(out, GUTTER - 10, y + 15, "end", GR_SVG_SOFT, 12, 32, name);
        draw_bar(out, &d->rows[i].of[phase], false, most, y);
        draw_bar(out, &d->rows[i].of[phase], true, most, y + BAR + 1);
    }
    return y;
}

static const char *peer_of(const gpu_data *d) {
    for (int32_t i = 0; i < d->n; i++)
        if (d->rows[i].peer) return d->rows[i].peer;
    return NULL;
}

static void draw_legend(gr_out *out, const gpu_data *d, double y) {
    const char *names[] = {"grace", peer_of(d)};
    for (int i = 0; i < 2 && names[i]; i++) {
        gr_out_put(out, "<rect x=\"%d\" y=\"%.1f\" width=\"12\" height=\"12\" fill=\"%s\"/>\n", i * 90, y, i ? "#9aa5b1" : "#0b4f8a");
        gr_svg_text(out, i * 90 + 18, y + 10, "start", GR_SVG_SOFT, 12, 60, names[i]);
    }
}

grace_status gr_report_gpu_svg(const gr_json *doc, gr_buf *buf) {
    grace_status st = GRACE_OK;
    gpu_data d = {0};
    gr_out out = {0};
    char title[384], device[324];
    GR_TRY(read_document(doc, &d));
    const double most = 1.05 * largest(&d), top = GR_SVG_TOP + 20, bottom = top + PHASES * (HEADING + (double)PITCH * d.n);
    gr_text_shorten(d.device, 80, device, sizeof device);
    snprintf(title, sizeof title, "Times as multiples of the floor, %s", device);
    gr_svg_begin(&out, title, WIDTH, bottom + 22);
    gr_out_put(&out, "<rect x=\"0\" y=\"20\" width=\"%d\" height=\"%.0f\" fill=\"#ffffff\"/>\n", WIDTH, bottom);     /* may stand on a dark page */
    draw_legend(&out, &d, GR_SVG_TOP - 4);
    draw_axis(&out, most, top, bottom);
    double y = top;
    for (int p = 0; p < PHASES; p++) y = draw_phase(&out, &d, p, most, y);
    gr_svg_end(&out);
    GR_TRY(out.st);
    GR_TRY(gr_buf_append(buf, out.buf.data, out.buf.n));
done:
    gr_out_free(&out);
    gr_arena_free(d.arena);
    return st;
}
