/* Horizontal bars: names stay readable at any length and the eye compares lengths from one line. */
#include <float.h>
#include <math.h>
#include <stdio.h>

#include "report/format.h"
#include "report/svg.h"

enum { BAR = 17, PITCH = 26, GUTTER = 158, LEGEND = 26 };

static double total_of(const gr_bar_chart *chart, int32_t bar) {
    double total = 0;
    for (int32_t s = 0; s < chart->n_series; s++) total += chart->values[bar * chart->n_series + s];
    return total;
}

static double spread_of(const gr_bar_chart *chart, int32_t bar) {
    return chart->spread && !isnan(chart->spread[bar]) ? chart->spread[bar] : 0;
}

static void value_text(const gr_bar_chart *chart, int32_t bar, char out[96]) {
    snprintf(out, 96, "%s%s%s", gr_label_real(total_of(chart, bar), chart->decimals).text, *chart->unit ? " " : "", chart->unit);
}

/* What the longest value written needs beside its bar. */
static double value_room(const gr_bar_chart *chart) {
    char text[96];
    int32_t most = 0;
    for (int32_t i = 0; i < chart->n_bars; i++) {
        value_text(chart, i, text);
        int32_t width = gr_text_width(text);
        if (width > most) most = width;
    }
    return 14 + 7.2 * most;
}

/* The longest bar with its whisker fills the plot, unless it is so short that a scale would be infinite. */
static double largest(const gr_bar_chart *chart) {
    double most = 0;
    for (int32_t i = 0; i < chart->n_bars; i++) most = fmax(most, total_of(chart, i) + spread_of(chart, i));
    return most > DBL_MIN * 1e6 ? most : 1;
}

static gr_colour colour_of(const gr_bar_chart *chart, int32_t bar, int32_t series) {
    if (chart->n_series > 1) return gr_colour_series(series);
    if (bar == chart->reference) return (gr_colour){0x9A, 0xA5, 0xB1};
    return bar == chart->strong ? (gr_colour){0x0B, 0x4F, 0x8A} : (gr_colour){0x8D, 0xBA, 0xDB};
}

static void draw_segments(gr_out *out, const gr_bar_chart *chart, int32_t bar, double y, double scale) {
    double x = GUTTER;
    for (int32_t s = 0; s < chart->n_series; s++) {
        double value = chart->values[bar * chart->n_series + s], width = value * scale;
        gr_colour c = colour_of(chart, bar, s);
        gr_out_put(out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%d\" fill=\"#%02x%02x%02x\"><title>", x, y, width, BAR, c.r, c.g, c.b);
        gr_out_text(out, chart->n_series > 1 ? chart->series[s] : chart->names[bar]);
        gr_out_put(out, ": %s", gr_label_real(value, chart->decimals).text);
        if (*chart->unit) gr_out_put(out, " ");
        gr_out_text(out, chart->unit);
        gr_out_put(out, "</title></rect>\n");
        x += width;
    }
}

static void draw_whisker(gr_out *out, double x, double half, double y) {
    gr_out_put(out, "<path d=\"M%.1f %.1fV%.1fM%.1f %.1fH%.1fM%.1f %.1fV%.1f\" stroke=\"" GR_SVG_INK "\" fill=\"none\"/>\n", x - half, y - 4, y + 4,
               x - half, y, x + half, x + half, y - 4, y + 4);
}

static void draw_bar(gr_out *out, const gr_bar_chart *chart, int32_t bar, double y, double scale) {
    double total = total_of(chart, bar), half = spread_of(chart, bar) * scale;
    gr_svg_text(out, GUTTER - 10, y + 13, "end", bar == chart->strong ? GR_SVG_INK : GR_SVG_SOFT, 12, 24, chart->names[bar]);
    if (isnan(total)) return;
    draw_segments(out, chart, bar, y, scale);
    if (half > 0) draw_whisker(out, GUTTER + total * scale, half, y + BAR / 2.0);
}

static void draw_value(gr_out *out, const gr_bar_chart *chart, int32_t bar, double y, double scale) {
    char text[96];
    double end = total_of(chart, bar) + spread_of(chart, bar);
    value_text(chart, bar, text);
    if (isnan(end)) gr_svg_text(out, GUTTER + 7, y + 13, "start", GR_SVG_SOFT, 12, 40, "not measured");
    else gr_svg_text(out, GUTTER + end * scale + 7, y + 13, "start", GR_SVG_INK, 12, 40, text);
}

static void draw_reference(gr_out *out, const gr_bar_chart *chart, double top, double bottom, double scale) {
    if (chart->reference < 0 || isnan(total_of(chart, chart->reference))) return;
    double x = GUTTER + total_of(chart, chart->reference) * scale;
    gr_svg_line_between(out, x, top, x, bottom, GR_SVG_SOFT, "3 3");
}

static void draw_legend(gr_out *out, const gr_bar_chart *chart) {
    double x = GUTTER;
    for (int32_t s = 0; s < chart->n_series; s++) {
        gr_colour c = gr_colour_series(s);
        gr_out_put(out, "<rect x=\"%.1f\" y=\"%d\" width=\"12\" height=\"12\" fill=\"#%02x%02x%02x\"/>\n", x, GR_SVG_TOP - 2, c.r, c.g, c.b);
        gr_svg_text(out, x + 18, GR_SVG_TOP + 8, "start", GR_SVG_SOFT, 12, 30, chart->series[s]);
        x += 18 + 7.2 * gr_text_width(chart->series[s]) + 22;
    }
}

static double y_of(double top, int32_t bar) { return top + (double)PITCH * bar + (PITCH - BAR) / 2.0; }

void gr_svg_bars(gr_out *out, const gr_bar_chart *chart) {
    double top = GR_SVG_TOP + (chart->n_series > 1 ? LEGEND : 0), bottom = top + (double)PITCH * chart->n_bars;
    double scale = (chart->width - GUTTER - value_room(chart)) / largest(chart);
    gr_svg_begin(out, chart->title, chart->width, bottom + 2);
    if (chart->n_series > 1) draw_legend(out, chart);
    for (int32_t i = 0; i < chart->n_bars; i++) draw_bar(out, chart, i, y_of(top, i), scale);
    draw_reference(out, chart, top, bottom, scale);
    gr_svg_line_between(out, GUTTER, top, GUTTER, bottom, GR_SVG_SOFT, NULL);
    gr_svg_halo(out);
    for (int32_t i = 0; i < chart->n_bars; i++) draw_value(out, chart, i, y_of(top, i), scale);
    gr_svg_group_end(out);
    gr_svg_end(out);
}
