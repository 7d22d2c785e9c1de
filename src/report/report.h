/* The report: a document (docs/report.md), of a ladder or of placements, in; a page or a table for the terminal out. Same document, same bytes (in
 * the C locale,
 * which a program has unless it calls setlocale). */
#ifndef GR_REPORT_REPORT_H
#define GR_REPORT_REPORT_H
#include <stdbool.h>

#include "base/json.h"
#include "base/memory.h"

bool gr_report_is_placements(const gr_json *doc);         /* or is it a ladder? */

/* Append report.html: self-contained, no script, no network. Optional parts the document does not have are named on the page.
 * Fails with FORMAT (the message names the key), MEMORY; buf is then as it was. */
grace_status gr_report_html(const gr_json *doc, gr_buf *buf);

/* Append the ladder as an aligned table of at most 120 columns, with a line on identity below. Fails like gr_report_html(). */
grace_status gr_report_ladder_text(const gr_json *doc, gr_buf *buf);

/* The same of a placements document: a line a plan. */
grace_status gr_report_placements_text(const gr_json *doc, gr_buf *buf);

/* What ./run bench gpu wrote (docs/gpu-bench.md): its whole models as a chart, a picture by itself, and as a table. They fail like gr_report_html(). */
bool gr_report_is_gpu(const gr_json *doc);
grace_status gr_report_gpu_svg(const gr_json *doc, gr_buf *buf);
grace_status gr_report_gpu_text(const gr_json *doc, gr_buf *buf);

#endif
