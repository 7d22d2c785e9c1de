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
