/* Tables with named columns, separated by commas, without quotes. */
#ifndef GR_BASE_CSV_H
#define GR_BASE_CSV_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { GR_CSV_COLUMNS_MAX = 64, GR_CSV_WANTED_MAX = 8 };

typedef struct gr_csv_field { const char *text; size_t n; } gr_csv_field;      /* in the text, not terminated */

typedef struct gr_csv {
    const char *where, *at, *end;
    int64_t line;                               /* read last; 1 is the line of names */
    int32_t n_columns, n_wanted;
    int32_t column_of[GR_CSV_WANTED_MAX];
    gr_csv_field name[GR_CSV_COLUMNS_MAX], field[GR_CSV_COLUMNS_MAX];      /* [n_columns] of the line read last */
} gr_csv;

/* Reads the line of names; each of the n wanted ones must be there once, others are ignored. The text is borrowed. Fails with FORMAT. */
grace_status gr_csv_open(const char *where, const char *text, size_t n_text, const char *const *wanted, int32_t n, gr_csv *out);

/* The next line's wanted columns into values [n], finite numbers of 0 or more; *more is false at the end of the text. Fails with FORMAT. */
grace_status gr_csv_next(gr_csv *csv, double *values, bool *more);

/* A column that need not be there: its number, -1. Its text in the line read last; fails with FORMAT when it is quoted, binary or does not fit. */
int32_t gr_csv_column(const gr_csv *csv, const char *name);
grace_status gr_csv_text(const gr_csv *csv, int32_t column, char *out, size_t size);

/* A value that counts or names something: a whole number from 0 to max. */
grace_status gr_csv_whole(const gr_csv *csv, const char *what, double value, int64_t max, int64_t *out);

#endif
