/* A self-contained page: one file, no script, no network (a content security policy says so), readable on a laptop and on paper.
 * Written as XHTML-like markup: every element is closed. Text is escaped here; nothing else is. */
#ifndef GR_REPORT_HTML_H
#define GR_REPORT_HTML_H
#include "report/out.h"
#include "report/tables.h"

void gr_html_begin(gr_out *out, const char *title);             /* doctype, head, style; opens body and main */
void gr_html_end(gr_out *out);

void gr_html_section(gr_out *out, const char *heading);         /* closed by gr_html_section_end() */
void gr_html_section_end(gr_out *out);
void gr_html_paragraph(gr_out *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
void gr_html_missing(gr_out *out, const char *format, ...) __attribute__((format(printf, 2, 3)));       /* a part the data does not have */

/* Figures side by side, n_columns (1 to 3) of them as far as there is room. */
void gr_html_figures(gr_out *out, int n_columns);
void gr_html_figures_end(gr_out *out);
void gr_html_figure(gr_out *out);                               /* then one SVG, then the end with its caption ("": none) */
void gr_html_figure_end(gr_out *out, const char *caption);

void gr_html_table(gr_out *out, const gr_table *table, const char *caption);

/* A line of large numbers with what they are. */
void gr_html_highlights(gr_out *out);
void gr_html_highlight(gr_out *out, const char *number, const char *meaning);
void gr_html_highlights_end(gr_out *out);

/* Names and their texts. */
void gr_html_list(gr_out *out, const char *css_class);
void gr_html_list_item(gr_out *out, const char *name, const char *text);
void gr_html_list_end(gr_out *out);

#endif
