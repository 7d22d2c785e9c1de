#include "base/csv.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { NUMBER_MAX = 40 };

/* The next line's fields; *n is 0 at the end of the text. */
static grace_status next_fields(gr_csv *csv, gr_csv_field *fields, int32_t *n) {
    grace_status st = GRACE_OK;
    *n = 0;
    if (csv->at == csv->end) return st;
    const char *newline = memchr(csv->at, '\n', (size_t)(csv->end - csv->at)), *stop = newline ? newline : csv->end, *from = csv->at;
    csv->at = newline ? newline + 1 : csv->end;
    csv->line++;
    if (stop > from && stop[-1] == '\r') stop--;
    for (;;) {
        const char *comma = memchr(from, ',', (size_t)(stop - from)), *to = comma ? comma : stop;
        GR_CHECK(*n < GR_CSV_COLUMNS_MAX, GRACE_ERR_FORMAT, "%s: line %" PRId64 ": more than %d columns", csv->where, csv->line, GR_CSV_COLUMNS_MAX);
        fields[(*n)++] = (gr_csv_field){from, (size_t)(to - from)};
        if (!comma) break;
        from = comma + 1;
    }
done:
    return st;
}

static bool is_called(gr_csv_field name, const char *wanted) { return name.n == strlen(wanted) && memcmp(name.text, wanted, name.n) == 0; }

static grace_status find_column(const gr_csv *csv, const char *wanted, int32_t *out) {
    grace_status st = GRACE_OK;
    int32_t found = -1;
    for (int32_t i = 0; i < csv->n_columns; i++) {
        if (!is_called(csv->name[i], wanted)) continue;
        GR_CHECK(found < 0, GRACE_ERR_FORMAT, "%s: two columns are called '%s'", csv->where, wanted);
        found = i;
    }
    GR_CHECK(found >= 0, GRACE_ERR_FORMAT, "%s: expected a column '%s' in the first line", csv->where, wanted);
    *out = found;
done:
    return st;
}

grace_status gr_csv_open(const char *where, const char *text, size_t n_text, const char *const *wanted, int32_t n, gr_csv *out) {
    grace_status st = GRACE_OK;
    gr_csv csv = {.where = where, .at = text, .end = text + n_text, .n_wanted = n};
    GR_ASSERT(n <= GR_CSV_WANTED_MAX);
    GR_TRY(next_fields(&csv, csv.name, &csv.n_columns));
    for (int32_t i = 0; i < n; i++) GR_TRY(find_column(&csv, wanted[i], &csv.column_of[i]));
    *out = csv;
done:
    return st;
}

/* Digits, a point and an exponent only: strtod() also knows "nan", "0x1p3" and blanks. */
static grace_status read_number(const gr_csv *csv, gr_csv_field f, double *out) {
    grace_status st = GRACE_OK;
    char text[NUMBER_MAX] = "", *end = text;
    if (f.n < sizeof text) memcpy(text, f.text, f.n);
    bool plain = f.n > 0 && f.n < sizeof text && strspn(text, "0123456789.eE+-") == f.n;
    double value = plain ? strtod(text, &end) : 0;
    GR_CHECK(plain && *end == 0 && isfinite(value) && value >= 0, GRACE_ERR_FORMAT, "%s: line %" PRId64 ": expected a number of 0 or more, found '%.*s'",
             csv->where, csv->line, f.n < 40 ? (int)f.n : 40, f.text);
    *out = value;
done:
    return st;
}

grace_status gr_csv_next(gr_csv *csv, double *values, bool *more) {
    grace_status st = GRACE_OK;
    int32_t n = 0;
    GR_TRY(next_fields(csv, csv->field, &n));
    *more = n > 0;
    if (n == 0) return st;
    GR_CHECK(n == csv->n_columns, GRACE_ERR_FORMAT, "%s: line %" PRId64 ": expected %d columns, found %d", csv->where, csv->line, csv->n_columns, n);
    for (int32_t i = 0; i < csv->n_wanted; i++) GR_TRY(read_number(csv, csv->field[csv->column_of[i]], &values[i]));
done:
    return st;
}

int32_t gr_csv_column(const gr_csv *csv, const char *name) {
    for (int32_t i = 0; i < csv->n_columns; i++)
        if (is_called(csv->name[i], name)) return i;
    return -1;
}

grace_status gr_csv_text(const gr_csv *csv, int32_t column, char *out, size_t size) {
    grace_status st = GRACE_OK;
    gr_csv_field f = csv->field[column];
    GR_CHECK(f.n < size, GRACE_ERR_FORMAT, "%s: line %" PRId64 ": expected a field of at most %zu bytes, found %zu", csv->where, csv->line, size - 1, f.n);
    GR_CHECK(!memchr(f.text, '"', f.n) && !memchr(f.text, 0, f.n), GRACE_ERR_FORMAT, "%s: line %" PRId64 ": quoted or binary fields are not supported",
             csv->where, csv->line);
    memcpy(out, f.text, f.n);
    out[f.n] = 0;
done:
    return st;
}

grace_status gr_csv_whole(const gr_csv *csv, const char *what, double value, int64_t max, int64_t *out) {
    grace_status st = GRACE_OK;
    GR_CHECK(value == floor(value) && value <= (double)max, GRACE_ERR_FORMAT, "%s: line %" PRId64 ": %s: expected a whole number up to %" PRId64
             ", found %g", csv->where, csv->line, what, max, value);
    *out = (int64_t)value;
done:
    return st;
}
