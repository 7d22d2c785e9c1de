/* Numbers and names as people read them: grouped digits, changes in percent, widths of UTF-8 text. */
#ifndef GR_REPORT_FORMAT_H
#define GR_REPORT_FORMAT_H
#include <stddef.h>
#include <stdint.h>

typedef struct gr_label { char text[48]; } gr_label;        /* returned by value: nothing to free */

gr_label gr_label_count(int64_t value);                     /* 1,234,567 */
gr_label gr_label_real(double value, int decimals);         /* 1,234.50; |value| up to 1e15 */
gr_label gr_label_short(double value);                      /* three digits and k, M, G: 12.3k */
gr_label gr_label_bytes(int64_t bytes);                     /* 12.3 MiB */
gr_label gr_label_ms(double us);                            /* microseconds as milliseconds with three digits or more: 1.23, 45.6, 1,234 */
gr_label gr_label_change(double value, double base);        /* +12.3%, -4.5%; an en dash where base is 0 */

/* Columns a terminal gives the text: 0 for combining marks, 2 for wide East Asian letters and emoji, 1 else, also for a broken byte. */
int32_t gr_text_width(const char *text);
/* text, or its beginning and an ellipsis, in at most width columns; control characters and broken bytes become '?'. out holds size bytes, >= 4. */
void gr_text_shorten(const char *text, int32_t width, char *out, size_t size);

#endif
