/* Curves over numbers: one with a marked point, or several with a name at the end of each. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "report/format.h"
#include "report/svg.h"

/* ---- axes ---- */

typedef struct frame { double left, top, width, height, x_lo, x_hi, y_lo, y_hi; } frame;

static double x_of(const frame *f, double x) { return f->left + f->width * (x - f->x_lo) / (f->x_hi - f->x_lo); }
static double y_of(const frame *f, double y) { return f->top + f->height * (1 - (y - f->y_lo) / (f->y_hi - f->y_lo)); }

/* The span of the values and a little air; a single value gets a span of its own. */
static void span(const double *values, int32_t n, double *lo, double *hi) {
    *lo = n ? values[0] : 0;
    *hi = n ? values[0] : 1;
    for (int32_t i = 1; i < n; i++) {
        *lo = fmin(*lo, values[i]);
        *hi = fmax(*hi, values[i]);
    }
    double air = *hi > *lo ? 0.06 * (*hi - *lo) : fmax(0.1 * fabs(*hi), 1e-3);
    *lo -= air;
    *hi += air;
}

static gr_label tick_label(double value, double step) {
    if (step >= 1) return gr_label_short(value);
    int decimals = (int)ceil(-log10(step) - 1e-9);
    return gr_label_real(value, decimals > 9 ? 9 : decimals);
}

static void draw_axes(gr_out *out, const char *x_title, const char *y_title, const frame *f) {
    double first, step = gr_svg_ticks(f->y_lo, f->y_hi, 5, &first), bottom = f->top + f->height;
    for (int32_t i = 0; first + i * step <= f->y_hi; i++) {
        double y = y_of(f, first + i * step);
        gr_svg_line_between(out, f->left, y, f->left + f->width, y, GR_SVG_RULE, NULL);
        gr_svg_text(out, f->left - 8, y + 4, "end", GR_SVG_SOFT, 11, 12, tick_label(first + i * step, step).text);
    }
    step = gr_svg_ticks(f->x_lo, f->x_hi, 8, &first);
    for (int32_t i = 0; first + i * step <= f->x_hi; i++) {
        double x = x_of(f, first + i * step);
        gr_svg_line_between(out, x, bottom, x, bottom + 4, GR_SVG_SOFT, NULL);
        gr_svg_text(out, x, bottom + 17, "middle", GR_SVG_SOFT, 11, 12, tick_label(first + i * step, step).text);
    }
    gr_svg_line_between(out, f->left, bottom, f->left + f->width, bottom, GR_SVG_SOFT, NULL);
    gr_svg_text(out, f->left + f->width, bottom + 36, "end", GR_SVG_SOFT, 12, 80, x_title);
    gr_svg_text(out, 0, f->top - 10, "start", GR_SVG_SOFT, 12, 80, y_title);
}

/* ---- one curve ---- */

static void draw_curve(gr_out *out, const gr_line_chart *chart, const frame *f) {
    int32_t n = chart->n_points;
    if (chart->chord && n > 2)
        gr_svg_line_between(out, x_of(f, chart->x[0]), y_of(f, chart->y[0]), x_of(f, chart->x[n - 1]), y_of(f, chart->y[n - 1]), "#9aa5b1", "5 4");
    gr_out_put(out, "<polyline fill=\"none\" stroke=\"#1b5f98\" stroke-width=\"2\" stroke-linejoin=\"round\" points=\"");
    for (int32_t i = 0; i < n; i++) gr_out_put(out, "%s%.1f,%.1f", i ? " " : "", x_of(f, chart->x[i]), y_of(f, chart->y[i]));
    gr_out_put(out, "\"/>\n");
    for (int32_t i = 0; i < n; i++) {
        gr_out_put(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" fill=\"#ffffff\" stroke=\"#1b5f98\" stroke-width=\"1.5\">", x_of(f, chart->x[i]),
                   y_of(f, chart->y[i]));
        if (chart->names) {
            gr_out_put(out, "<title>");
            gr_out_text(out, chart->names[i]);
            gr_out_put(out, "</title>");
        }
        gr_out_put(out, "</circle>\n");
    }
}

/* The label stands below, where a rising concave curve leaves room, to the side with more of it. */
static void draw_mark(gr_out *out, const gr_line_chart *chart, const frame *f) {
    if (chart->marked < 0 || chart->marked >= chart->n_points) return;
    double x = x_of(f, chart->x[chart->marked]), y = y_of(f, chart->y[chart->marked]);
    bool left = x > f->left + 0.7 * f->width, high = y > f->top + f->height - 40;
    gr_out_put(out, "<circle class=\"mark\" cx=\"%.1f\" cy=\"%.1f\" r=\"7\" fill=\"#b54c0b\" stroke=\"#ffffff\" stroke-width=\"2\"/>\n", x, y);
    gr_svg_halo(out);
    gr_svg_text(out, left ? x - 12 : x + 12, high ? y - 14 : y + 20, left ? "end" : "start", "#8f3a05", 13.5, 60, chart->mark_label);
    gr_svg_group_end(out);
}

void gr_svg_line(gr_out *out, const gr_line_chart *chart) {
    frame f = {.left = 52, .top = GR_SVG_TOP + 26, .width = chart->width - 68, .height = chart->height - GR_SVG_TOP - 26 - 44};
    span(chart->x, chart->n_points, &f.x_lo, &f.x_hi);
    span(chart->y, chart->n_points, &f.y_lo, &f.y_hi);
    gr_svg_begin(out, chart->title, chart->width, chart->height);
    draw_axes(out, chart->x_title, chart->y_title, &f);
    if (chart->n_points > 0) draw_curve(out, chart, &f);
    draw_mark(out, chart, &f);
    gr_svg_end(out);
}

/* ---- several ---- */

enum { TAG_HEIGHT = 14 };
typedef struct tag { int32_t series; double x, y; } tag;        /* where a series' name stands: beside its last point */

static int by_height(const void *a, const void *b) {
    double x = ((const tag *)a)->y, y = ((const tag *)b)->y;
    return x < y ? -1 : x > y;
}

static void draw_series(gr_out *out, const gr_lines_chart *chart, const frame *f, int32_t series) {
    gr_colour c = gr_colour_series(series);
    int32_t first = chart->first[series], end = chart->first[series + 1];
    gr_out_put(out, "<polyline fill=\"none\" stroke=\"#%02x%02x%02x\" stroke-width=\"2\" stroke-linejoin=\"round\"", c.r, c.g, c.b);
    if (series >= 6) gr_out_put(out, " stroke-dasharray=\"6 3\"");
    gr_out_put(out, " points=\"");
    for (int32_t i = first; i < end; i++) gr_out_put(out, "%s%.1f,%.1f", i > first ? " " : "", x_of(f, chart->x[i]), y_of(f, chart->y[i]));
    gr_out_put(out, "\"/>\n");
    for (int32_t i = first; i < end; i++) {
        gr_out_put(out, "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"3.5\" fill=\"#%02x%02x%02x\"><title>", x_of(f, chart->x[i]), y_of(f, chart->y[i]), c.r, c.g, c.b);
        gr_out_text(out, chart->names[series]);
        gr_out_put(out, ": %s at %s</title></circle>\n", gr_label_real(chart->y[i], 3).text, gr_label_real(chart->x[i], 2).text);
    }
}

/* Names stand at their curves' ends, pushed apart so that none covers another, and none leaves the frame while there is room in it. */
static void spread_tags(tag *tags, int32_t n, double bottom) {
    qsort(tags, (size_t)n, sizeof *tags, by_height);
    for (int32_t i = 1; i < n; i++) tags[i].y = fmax(tags[i].y, tags[i - 1].y + TAG_HEIGHT);
    for (int32_t i = n - 1; i >= 0; i--) tags[i].y = fmin(tags[i].y, i == n - 1 ? bottom : tags[i + 1].y - TAG_HEIGHT);
}

static grace_status draw_tags(gr_out *out, const gr_lines_chart *chart, const frame *f) {
    grace_status st = GRACE_OK;
    int32_t n = 0;
    tag *tags = NULL;
    GR_CALLOC(tags, (size_t)chart->n_series);
    for (int32_t s = 0; s < chart->n_series; s++) {
        int32_t last = chart->first[s + 1] - 1;
        if (last >= chart->first[s]) tags[n++] = (tag){s, x_of(f, chart->x[last]), y_of(f, chart->y[last])};
    }
    spread_tags(tags, n, f->top + f->height);
    gr_svg_halo(out);
    for (int32_t i = 0; i < n; i++) {
        char ink[8];
        gr_colour c = gr_colour_series(tags[i].series);
        snprintf(ink, sizeof ink, "#%02x%02x%02x", c.r, c.g, c.b);
        gr_svg_text(out, tags[i].x + 9, tags[i].y + 4, "start", ink, 12, 24, chart->names[tags[i].series]);
    }
    gr_svg_group_end(out);
done:
    free(tags);
    return st;
}

void gr_svg_lines(gr_out *out, const gr_lines_chart *chart) {
    frame f = {.left = 52, .top = GR_SVG_TOP + 26, .width = chart->width - 68 - 96, .height = chart->height - GR_SVG_TOP - 26 - 44};
    int32_t n = chart->first[chart->n_series];
    span(chart->x, n, &f.x_lo, &f.x_hi);
    span(chart->y, n, &f.y_lo, &f.y_hi);
    gr_svg_begin(out, chart->title, chart->width, chart->height);
    draw_axes(out, chart->x_title, chart->y_title, &f);
    for (int32_t s = 0; s < chart->n_series; s++) draw_series(out, chart, &f, s);
    grace_status st = draw_tags(out, chart, &f);
    if (st && !out->st) out->st = st;
    gr_svg_end(out);
}
