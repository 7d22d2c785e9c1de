/* Tables built once, written as aligned text for a terminal or as HTML (report/html.h). */
#ifndef GR_REPORT_TABLES_H
#define GR_REPORT_TABLES_H
#include <stdbool.h>
#include <stdint.h>

#include "base/memory.h"
#include "base/status.h"

typedef enum gr_column_kind { GR_COLUMN_TEXT, GR_COLUMN_NUMBER, GR_COLUMN_VERDICT } gr_column_kind;  /* left, right, centred (yes and no stand out) */
typedef struct gr_column { const char *title; gr_column_kind kind; } gr_column;     /* a newline in the title starts a second line */

typedef struct gr_table gr_table;

/* columns [n_columns] is copied, titles are not. The caller frees. */
grace_status gr_table_build(const gr_column *columns, int32_t n_columns, gr_table **out);
void gr_table_free(gr_table *table);                                    /* accepts NULL */

/* A row, then its cells from the left; cells never put are empty. A failed allocation is reported by what writes the table. */
void gr_table_row(gr_table *table, bool strong);                        /* strong: set apart in HTML */
void gr_table_put(gr_table *table, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Appends the table, one line a row and a rule under the titles. Columns are aligned by their width in a UTF-8 terminal; when the whole is
 * wider than width_max columns the first column gives way, down to 8. */
grace_status gr_table_text(const gr_table *table, int32_t width_max, gr_buf *buf);

/* For writers of other forms. Borrowed until gr_table_free(). */
grace_status gr_table_status(const gr_table *table);
int32_t gr_table_n_rows(const gr_table *table);
int32_t gr_table_n_columns(const gr_table *table);
gr_column gr_table_column(const gr_table *table, int32_t column);
const char *gr_table_cell(const gr_table *table, int32_t index, int32_t column);
bool gr_table_strong(const gr_table *table, int32_t index);

#endif
