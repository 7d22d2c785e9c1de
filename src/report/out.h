/* A text being written: remembers its first failure, so that a page of a hundred lines reads without a hundred checks. */
#ifndef GR_REPORT_OUT_H
#define GR_REPORT_OUT_H
#include "base/memory.h"
#include "base/status.h"

typedef struct gr_out { gr_buf buf; grace_status st; } gr_out;      /* start zeroed; nothing is written once st is set */

void gr_out_put(gr_out *out, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Text for HTML and XML, in elements and in quoted attributes: <>&"' become entities, control characters but tab and newline U+FFFD. */
void gr_out_text(gr_out *out, const char *text);
void gr_out_free(gr_out *out);

#endif
