/* Heat maps. Few cells: one rectangle each, with its number. Many: one path per shade, so that 128 x 128 stays a small file. */
#include <math.h>
#include <stdio.h>

#include "report/format.h"
#include "report/svg.h"

enum { CELLS_MAX = 1024, SHADES = 48, LEGEND_STEPS = 40, LEGEND_WIDTH = 160, LEGEND_HEIGHT = 9, NAME_SIZE = 11 };

typedef struct plot { const gr_heat_map *map; double left, top, width, height; bool written; } plot;     /* written: cells show their numbers */

static double share_of(const gr_heat_map *map, double value) {
    if (isnan(value)) return NAN;
    double t = map->hi > map->lo ? (value - map->lo) / (map->hi - map->lo) : 0;
    return pow(fmin(fmax(t, 0), 1), map->power);
}

static gr_colour colour_at(const gr_heat_map *map, double t) { return map->diverging ? gr_colour_diverging(t) : gr_colour_sequential(t); }

/* ---- cells ---- */

/* All numbers or none: a map with numbers here and there looks as if the others were missing. */
static bool cells_have_room(const gr_heat_map *map) {
    bool room = map->cells && map->cell_height >= 14;
    for (int64_t i = 0; room && i < (int64_t)map->n_rows * map->n_cols; i++) room = 6.6 * gr_text_width(map->cells[i]) + 6 <= map->cell_width;
    return room;
}

static void draw_cell(gr_out *out, const plot *p, int32_t row, int32_t col) {
    const gr_heat_map *map = p->map;
    int32_t i = row * map->n_cols + col;
    gr_colour c = colour_at(map, share_of(map, map->values[i]));
    double x = p->left + map->cell_width * col, y = p->top + map->cell_height * row;
    gr_out_put(out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"#%02x%02x%02x\"", x, y, map->cell_width, map->cell_height, c.r,
               c.g, c.b);
    if (!map->cells) {
        gr_out_put(out, "/>\n");
        return;
    }
    gr_out_put(out, "><title>");
    gr_out_text(out, map->cells[i]);
    gr_out_put(out, "</title></rect>\n");
    if (!p->written) return;
    const char *ink = gr_colour_is_dark(c) ? "#ffffff" : isnan(map->values[i]) ? GR_SVG_SOFT : GR_SVG_INK;
    gr_svg_text(out, x + map->cell_width / 2, y + map->cell_height / 2 + 4, "middle", ink, 11, 20, map->cells[i]);
}

static int32_t shade_of(const gr_heat_map *map, int32_t i) {
    double t = share_of(map, map->values[i]);
    return isnan(t) ? -1 : (int32_t)lround(t * (SHADES - 1));
}

/* Runs of equal shade in a row become one subpath. The lightest shade is the background. */
static void draw_shade(gr_out *out, const gr_heat_map *map, int32_t shade) {
    gr_colour c = colour_at(map, shade < 0 ? NAN : shade / (SHADES - 1.0));
    bool open = false;
    for (int32_t row = 0; row < map->n_rows; row++) {
        for (int32_t col = 0, end; col < map->n_cols; col = end) {
            end = col + 1;
            if (shade_of(map, row * map->n_cols + col) != shade) continue;
            while (end < map->n_cols && shade_of(map, row * map->n_cols + end) == shade) end++;
            if (!open) gr_out_put(out, "<path fill=\"#%02x%02x%02x\" d=\"", c.r, c.g, c.b);
            open = true;
            gr_out_put(out, "M%d %dh%dv1h-%dz", (int)col, (int)row, (int)(end - col), (int)(end - col));
        }
    }
    if (open) gr_out_put(out, "\"/>\n");
}

static void draw_shades(gr_out *out, const plot *p) {
    const gr_heat_map *map = p->map;
    gr_colour c = colour_at(map, 0);
    gr_out_put(out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"#%02x%02x%02x\"/>\n", p->left, p->top, p->width, p->height,
               c.r, c.g, c.b);
    gr_out_put(out, "<g shape-rendering=\"crispEdges\" transform=\"translate(%.1f %.1f) scale(%.4f %.4f)\">\n", p->left, p->top, map->cell_width,
               map->cell_height);
    draw_shade(out, map, -1);
    for (int32_t shade = 1; shade < SHADES; shade++) draw_shade(out, map, shade);
    gr_out_put(out, "</g>\n");
}

static void draw_cells(gr_out *out, const plot *p) {
    if ((int64_t)p->map->n_rows * p->map->n_cols > CELLS_MAX) {
        draw_shades(out, p);
        return;
    }
    for (int32_t row = 0; row < p->map->n_rows; row++)
        for (int32_t col = 0; col < p->map->n_cols; col++) draw_cell(out, p, row, col);
}

/* ---- around the cells ---- */

static void draw_borders(gr_out *out, const plot *p) {
    const gr_heat_map *map = p->map;
    double at = p->top;
    gr_out_put(out, "<g stroke-width=\"1.6\">\n");
    for (int32_t g = 0; g + 1 < map->n_row_groups; g++) {
        at += map->row_groups[g] * map->cell_height;
        gr_svg_line_between(out, p->left, at, p->left + p->width, at, GR_SVG_INK, NULL);
    }
    at = p->left;
    for (int32_t g = 0; g + 1 < map->n_col_groups; g++) {
        at += map->col_groups[g] * map->cell_width;
        gr_svg_line_between(out, at, p->top, at, p->top + p->height, GR_SVG_INK, NULL);
    }
    gr_out_put(out, "</g>\n<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\" fill=\"none\" stroke=\"#9aa5b1\"/>\n", p->left, p->top,
               p->width, p->height);
}

/* Names along one side; those of a side too dense to read are thinned out to every second, fifth, tenth, ... */
static int32_t stride_for(double pitch, double need) {
    static const int32_t strides[] = {1, 2, 5, 10, 20, 50, 100, 200};
    for (int i = 0; i < 8; i++)
        if (pitch * strides[i] >= need) return strides[i];
    return 500;
}

static double longest_name(const char *const *names, int32_t n) {
    int32_t longest = 0;
    for (int32_t i = 0; names && i < n; i++) {
        int32_t width = gr_text_width(names[i]);
        if (width > longest) longest = width;
    }
    return 6.4 * (longest > 24 ? 24 : longest);
}

static void draw_row_names(gr_out *out, const plot *p) {
    const gr_heat_map *map = p->map;
    int32_t n = map->names_of_groups ? map->n_row_groups : map->n_rows;
    int32_t stride = map->names_of_groups ? 1 : stride_for(map->cell_height, NAME_SIZE + 2);
    double at = p->top;
    for (int32_t i = 0; map->row_names && i < n; i++) {
        double height = map->names_of_groups ? map->row_groups[i] * map->cell_height : map->cell_height;
        if (i % stride == 0 && (!map->names_of_groups || height >= NAME_SIZE))
            gr_svg_text(out, p->left - 7, at + height / 2 + 4, "end", GR_SVG_SOFT, NAME_SIZE, 24, map->row_names[i]);
        at += height;
    }
}

static void draw_col_names(gr_out *out, const plot *p) {
    const gr_heat_map *map = p->map;
    int32_t n = map->names_of_groups ? map->n_col_groups : map->n_cols;
    double need = longest_name(map->col_names, n) + 10, at = p->left;
    int32_t stride = map->names_of_groups ? 1 : stride_for(map->cell_width, need);
    for (int32_t i = 0; map->col_names && i < n; i++) {
        double width = map->names_of_groups ? map->col_groups[i] * map->cell_width : map->cell_width;
        if (i % stride == 0 && (!map->names_of_groups || width >= need))
            gr_svg_text(out, at + width / 2, p->top - 7, "middle", GR_SVG_SOFT, NAME_SIZE, 24, map->col_names[i]);
        at += width;
    }
}

static void draw_legend(gr_out *out, const plot *p) {
    const gr_heat_map *map = p->map;
    double x = p->left, y = p->top + p->height + 16;
    for (int i = 0; i < LEGEND_STEPS; i++) {
        double value = (i + 0.5) / LEGEND_STEPS;
        gr_colour c = colour_at(map, pow(value, map->power));
        gr_out_put(out, "<rect x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%d\" fill=\"#%02x%02x%02x\"/>\n",
                   x + LEGEND_WIDTH * (value - 0.5 / LEGEND_STEPS), y, (double)LEGEND_WIDTH / LEGEND_STEPS + 0.3, LEGEND_HEIGHT, c.r, c.g, c.b);
    }
    gr_svg_text(out, x, y + LEGEND_HEIGHT + 13, "start", GR_SVG_SOFT, NAME_SIZE, 12, gr_label_short(map->lo).text);
    if (map->diverging)
        gr_svg_text(out, x + LEGEND_WIDTH / 2.0, y + LEGEND_HEIGHT + 13, "middle", GR_SVG_SOFT, NAME_SIZE, 12,
                    gr_label_short((map->lo + map->hi) / 2).text);
    gr_svg_text(out, x + LEGEND_WIDTH, y + LEGEND_HEIGHT + 13, "end", GR_SVG_SOFT, NAME_SIZE, 12, gr_label_short(map->hi).text);
    gr_svg_text(out, x + LEGEND_WIDTH + 12, y + LEGEND_HEIGHT, "start", GR_SVG_SOFT, NAME_SIZE, 60, map->legend);
}

void gr_svg_heat(gr_out *out, const gr_heat_map *map) {
    double name_room = longest_name(map->row_names, map->names_of_groups ? map->n_row_groups : map->n_rows);
    plot p = {.map = map,
              .left = name_room + 12,
              .top = GR_SVG_TOP + 34,
              .width = map->n_cols * map->cell_width,
              .height = map->n_rows * map->cell_height,
              .written = cells_have_room(map)};
    double legend = LEGEND_WIDTH + 12 + 6.2 * gr_text_width(map->legend), width = p.left + (p.width > legend ? p.width : legend) + 2;
    gr_svg_begin(out, map->title, width, p.top + p.height + 44);
    gr_svg_text(out, 0, p.top - 26, "start", GR_SVG_SOFT, NAME_SIZE, 40, map->row_title);
    gr_svg_text(out, p.left + p.width, p.top - 26, "end", GR_SVG_SOFT, NAME_SIZE, 40, map->col_title);
    draw_cells(out, &p);
    draw_borders(out, &p);
    draw_row_names(out, &p);
    draw_col_names(out, &p);
    draw_legend(out, &p);
    gr_svg_end(out);
}
