/* Charts as inline SVG, from numbers: the same numbers give the same bytes. Every chart stands alone (no style sheet, no script, no ids),
 * scales with its column, and says with a label what it says with a colour. */
#ifndef GR_REPORT_SVG_H
#define GR_REPORT_SVG_H
#include <stdbool.h>
#include <stdint.h>

#include "report/out.h"

/* ---- colours: told apart with any colour vision, and in grey (their lightness is monotone) ---- */
typedef struct gr_colour { uint8_t r, g, b; } gr_colour;
gr_colour gr_colour_sequential(double t);       /* 0: almost white ... 1: dark blue; t is clamped, NaN gives the grey of "no value" */
gr_colour gr_colour_diverging(double t);        /* 0: blue, 0.5: almost white, 1: orange */
gr_colour gr_colour_series(int32_t series);     /* a few distinct ones, repeating */
bool gr_colour_is_dark(gr_colour colour);       /* would text on it be white? */

/* ---- bars: one horizontal bar a name, stacked when there are several series, the value written at its end ---- */
typedef struct gr_bar_chart {
    const char *title, *unit;           /* unit may be "" */
    int32_t n_bars, n_series;
    const char *const *names;           /* [n_bars] */
    const char *const *series;          /* [n_series]; NULL when there is one */
    const double *values;               /* [n_bars, n_series] >= 0; NaN in the first series: "not measured" */
    const double *spread;               /* [n_bars] whisker to both sides; NULL or NaN: none */
    int32_t reference;                  /* a dashed line at this bar's value, and its bar in grey; -1: none */
    int32_t strong;                     /* this bar in the strong colour; -1: none */
    int32_t decimals;                   /* of the values written */
    double width;                       /* in CSS pixels */
} gr_bar_chart;
void gr_svg_bars(gr_out *out, const gr_bar_chart *chart);

/* ---- a curve through points, one of them marked ---- */
typedef struct gr_line_chart {
    const char *title, *x_title, *y_title;
    int32_t n_points;                   /* 0: empty axes */
    const double *x, *y;                /* [n_points], in the order they are joined */
    const char *const *names;           /* [n_points] shown when the pointer rests on a point; NULL: none */
    int32_t marked;                     /* -1: none */
    const char *mark_label;
    bool chord;                         /* a dashed line from the first to the last point */
    double width, height;
} gr_line_chart;
void gr_svg_line(gr_out *out, const gr_line_chart *chart);

/* ---- several curves, each with its name beside its last point ---- */
typedef struct gr_lines_chart {
    const char *title, *x_title, *y_title;
    int32_t n_series;                   /* 1 or more */
    const char *const *names;           /* [n_series] */
    const int32_t *first;               /* [n_series + 1] a series' points; a series may be empty */
    const double *x, *y;                /* [first[n_series]] */
    double width, height;
} gr_lines_chart;
void gr_svg_lines(gr_out *out, const gr_lines_chart *chart);

/* ---- a matrix in colours, with a legend ---- */
typedef struct gr_heat_map {
    const char *title, *row_title, *col_title, *legend;
    int32_t n_rows, n_cols;
    const double *values;               /* [n_rows, n_cols]; NaN: grey */
    const char *const *cells;           /* [n_rows, n_cols] written into cells if all have room, else shown on hover; NULL: none */
    const char *const *row_names;       /* [n_rows], or [n_row_groups] when names_of_groups; NULL: none */
    const char *const *col_names;
    const int32_t *row_groups;          /* [n_row_groups] sizes in order, a border between them; NULL: none */
    const int32_t *col_groups;
    int32_t n_row_groups, n_col_groups;
    double lo, hi;                      /* the ends of the colours */
    double power;                       /* colour at ((v - lo) / (hi - lo)) ^ power; 1: linear */
    bool diverging;
    bool names_of_groups;               /* the names are one a group, in its middle */
    double cell_width, cell_height;     /* in CSS pixels */
} gr_heat_map;
void gr_svg_heat(gr_out *out, const gr_heat_map *map);

/* ---- shared by the charts ---- */
/* <svg> with a name for screen readers and the title drawn at the top; gr_svg_end() closes it. */
void gr_svg_begin(gr_out *out, const char *title, double width, double height);
void gr_svg_end(gr_out *out);
/* anchor: "start", "middle", "end". Text is escaped, and shortened to max_width columns. */
void gr_svg_text(gr_out *out, double x, double y, const char *anchor, const char *colour, double size, int32_t max_width, const char *text);
/* Text inside has a white rim, so that it can be read over lines. */
void gr_svg_halo(gr_out *out);
void gr_svg_group_end(gr_out *out);
void gr_svg_line_between(gr_out *out, double x1, double y1, double x2, double y2, const char *colour, const char *dashes);
/* Round steps (1, 2, 5 times a power of ten): *first is the lowest multiple of the step returned that is >= lo; about n of them. */
double gr_svg_ticks(double lo, double hi, int32_t n, double *first);

#define GR_SVG_INK "#1c2733"            /* text that matters */
#define GR_SVG_SOFT "#5b6875"           /* axis text */
#define GR_SVG_RULE "#d5dbe1"           /* axes, grids */
enum { GR_SVG_TOP = 30 };               /* y under the title */

#endif
