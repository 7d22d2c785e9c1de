#include "report/svg.h"

#include <math.h>
#include <stdlib.h>

#include "report/format.h"

/* ---- colours ---- */

/* Piecewise linear between stops; their lightness falls (sequential) or falls to both sides (diverging) in even steps. */
static gr_colour between(const gr_colour *stops, int32_t n_stops, double t) {
    if (isnan(t)) return (gr_colour){0xE9, 0xEC, 0xEF};
    double at = fmin(fmax(t, 0), 1) * (n_stops - 1);
    int32_t i = at >= n_stops - 1 ? n_stops - 2 : (int32_t)at;
    double f = at - i;
    gr_colour a = stops[i], b = stops[i + 1];
    return (gr_colour){(uint8_t)lround(a.r + f * (b.r - a.r)), (uint8_t)lround(a.g + f * (b.g - a.g)), (uint8_t)lround(a.b + f * (b.b - a.b))};
}

gr_colour gr_colour_sequential(double t) {
    static const gr_colour stops[] = {{0xF4, 0xF7, 0xFA}, {0xC9, 0xDD, 0xEC}, {0x8D, 0xBA, 0xDB},
                                      {0x47, 0x8F, 0xC1}, {0x1B, 0x5F, 0x98}, {0x0B, 0x2E, 0x59}};
    return between(stops, 6, t);
}

gr_colour gr_colour_diverging(double t) {
    static const gr_colour stops[] = {{0x1B, 0x5F, 0x98}, {0x8D, 0xBA, 0xDB}, {0xF5, 0xF5, 0xF4}, {0xF0, 0xB2, 0x7F}, {0xB5, 0x4C, 0x0B}};
    return between(stops, 5, t);
}

/* From the Okabe-Ito set, ordered so that neighbours also differ in lightness. */
gr_colour gr_colour_series(int32_t series) {
    static const gr_colour colours[] = {{0x56, 0xB4, 0xE9}, {0xD5, 0x5E, 0x00}, {0x0B, 0x4F, 0x8A},
                                        {0xE6, 0x9F, 0x00}, {0x00, 0x9E, 0x73}, {0x9A, 0xA5, 0xB1}};
    return colours[series % 6];
}

bool gr_colour_is_dark(gr_colour c) { return 0.299 * c.r + 0.587 * c.g + 0.114 * c.b < 140; }

/* ---- pieces ---- */

void gr_svg_begin(gr_out *out, const char *title, double width, double height) {
    gr_out_put(out, "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" aria-label=\"");
    gr_out_text(out, title);
    gr_out_put(
        out,
        "\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f %.0f\" font-family=\"system-ui, 'Segoe UI', 'Helvetica Neue', Arial, sans-serif\">\n",
        width, height, width, height);
    gr_out_put(out, "<text x=\"0\" y=\"14\" font-size=\"13.5\" font-weight=\"600\" fill=\"" GR_SVG_INK "\">");
    gr_out_text(out, title);
    gr_out_put(out, "</text>\n");
}

void gr_svg_end(gr_out *out) { gr_out_put(out, "</svg>\n"); }

void gr_svg_text(gr_out *out, double x, double y, const char *anchor, const char *colour, double size, int32_t max_width, const char *text) {
    char shown[256];
    gr_text_shorten(text, max_width, shown, sizeof shown);
    gr_out_put(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\" font-size=\"%.1f\" fill=\"%s\">", x, y, anchor, size, colour);
    gr_out_text(out, shown);
    gr_out_put(out, "</text>\n");
}

void gr_svg_halo(gr_out *out) { gr_out_put(out, "<g stroke=\"#ffffff\" stroke-width=\"3.5\" stroke-linejoin=\"round\" paint-order=\"stroke\">\n"); }
void gr_svg_group_end(gr_out *out) { gr_out_put(out, "</g>\n"); }

void gr_svg_line_between(gr_out *out, double x1, double y1, double x2, double y2, const char *colour, const char *dashes) {
    gr_out_put(out, "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"", x1, y1, x2, y2, colour);
    if (dashes) gr_out_put(out, " stroke-dasharray=\"%s\"", dashes);
    gr_out_put(out, "/>\n");
}

double gr_svg_ticks(double lo, double hi, int32_t n, double *first) {
    double raw = hi > lo ? (hi - lo) / n : 1;
    double power = pow(10, floor(log10(raw)));
    double step = raw <= power ? power : raw <= 2 * power ? 2 * power : raw <= 5 * power ? 5 * power : 10 * power;
    *first = ceil(lo / step - 1e-9) * step;
    return step;
}

/* ---- a curve ---- */

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

static void draw_axes(gr_out *out, const gr_line_chart *chart, const frame *f) {
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
    gr_svg_text(out, f->left + f->width, bottom + 36, "end", GR_SVG_SOFT, 12, 80, chart->x_title);
    gr_svg_text(out, 0, f->top - 10, "start", GR_SVG_SOFT, 12, 80, chart->y_title);
}

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
    draw_axes(out, chart, &f);
    if (chart->n_points > 0) draw_curve(out, chart, &f);
    draw_mark(out, chart, &f);
    gr_svg_end(out);
}
