#include "report/tables.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "report/format.h"
#include "report/out.h"

enum { GAP = 2, FIRST_WIDTH_MIN = 8, CELL_BYTES = 1024 };

typedef struct row {
    char **cells;               /* [n_columns] */
    int32_t n_cells;            /* put so far */
    bool strong;
} row;

struct gr_table {
    gr_arena *arena;
    gr_column *columns;
    row *rows;                  /* [n_rows] of capacity */
    int32_t n_columns, n_rows, capacity;
    grace_status st;            /* the first failed allocation */
};

grace_status gr_table_build(const gr_column *columns, int32_t n_columns, gr_table **out) {
    grace_status st = GRACE_OK;
    gr_table *table = NULL;
    GR_ASSERT(n_columns > 0);
    GR_CALLOC(table, 1);
    GR_CHECK((table->arena = gr_arena_new()) != NULL, GRACE_ERR_MEMORY, "no memory for a table");
    GR_ARENA_ARRAY(table->arena, table->columns, n_columns);
    memcpy(table->columns, columns, sizeof *columns * (size_t)n_columns);
    table->n_columns = n_columns;
    *out = table; table = NULL;
done:
    gr_table_free(table);
    return st;
}

void gr_table_free(gr_table *table) {
    if (!table) return;
    gr_arena_free(table->arena);
    free(table->rows);
    free(table);
}

static grace_status add_row(gr_table *table, bool strong) {
    grace_status st = GRACE_OK;
    row r = {.strong = strong};
    GR_RESERVE(table->rows, table->n_rows + 1, table->capacity);
    GR_ARENA_ARRAY(table->arena, r.cells, table->n_columns);
    for (int32_t i = 0; i < table->n_columns; i++) r.cells[i] = "";
    table->rows[table->n_rows++] = r;
done:
    return st;
}

void gr_table_row(gr_table *table, bool strong) {
    if (!table->st) table->st = add_row(table, strong);
}

static grace_status add_cell(gr_table *table, const char *text, size_t n) {
    grace_status st = GRACE_OK;
    GR_ASSERT(table->n_rows > 0);
    row *r = &table->rows[table->n_rows - 1];
    GR_ASSERT(r->n_cells < table->n_columns);
    GR_ARENA_ARRAY(table->arena, r->cells[r->n_cells], n + 1);
    memcpy(r->cells[r->n_cells++], text, n + 1);
done:
    return st;
}

/* A full buffer gets an ellipsis in place of its last characters; half a UTF-8 character is none. */
static void cut_at_character(char text[CELL_BYTES]) {
    size_t n = CELL_BYTES - 4;
    while (n > 0 && ((unsigned char)text[n] & 0xC0) == 0x80) n--;
    memcpy(text + n, "...", 4);
}

void gr_table_put(gr_table *table, const char *format, ...) {
    char text[CELL_BYTES];
    va_list args;
    if (table->st) return;
    va_start(args, format);
    int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n >= CELL_BYTES) cut_at_character(text);
    gr_printable(text);
    table->st = add_cell(table, text, strlen(text));
}

grace_status gr_table_status(const gr_table *table) { return table->st; }
int32_t gr_table_n_rows(const gr_table *table) { return table->n_rows; }
int32_t gr_table_n_columns(const gr_table *table) { return table->n_columns; }
gr_column gr_table_column(const gr_table *table, int32_t column) { return table->columns[column]; }

const char *gr_table_cell(const gr_table *table, int32_t index, int32_t column) { return table->rows[index].cells[column]; }
bool gr_table_strong(const gr_table *table, int32_t index) { return table->rows[index].strong; }

/* ---- as text ---- */

/* Line `line` of a title, empty when it has fewer; titles sit at the bottom, so a one-line title is line 1 of 2. */
static const char *title_line(const char *title, int32_t line, char out[64]) {
    const char *split = strchr(title, '\n');
    if (!split) return line == 1 ? title : "";
    snprintf(out, 64, "%.*s", (int)(split - title), title);
    return line == 1 ? split + 1 : out;
}

static void measure(const gr_table *table, int32_t width_max, int32_t *width) {
    int32_t total = GAP * (table->n_columns - 1);
    for (int32_t c = 0; c < table->n_columns; c++) {
        char line[64];
        for (int32_t l = 0; l < 2; l++) {
            int32_t w = gr_text_width(title_line(table->columns[c].title, l, line));
            if (w > width[c]) width[c] = w;
        }
        for (int32_t i = 0; i < table->n_rows; i++) {
            int32_t w = gr_text_width(table->rows[i].cells[c]);
            if (w > width[c]) width[c] = w;
        }
        total += width[c];
    }
    if (total <= width_max) return;
    width[0] -= total - width_max;
    if (width[0] < FIRST_WIDTH_MIN) width[0] = FIRST_WIDTH_MIN;
}

/* One cell in its column; no blanks after the last, so that lines can be compared. */
static void put_cell(gr_out *out, const char *cell, gr_column_kind kind, int32_t width, bool last) {
    char text[CELL_BYTES + 8];
    gr_text_shorten(cell, width, text, sizeof text);
    int32_t room = width - gr_text_width(text);
    int32_t left = kind == GR_COLUMN_NUMBER ? room : kind == GR_COLUMN_VERDICT ? room / 2 : 0;
    gr_out_put(out, "%*s%s%*s", (int)left, "", text, last ? 0 : (int)(room - left + GAP), "");
}

static void end_line(gr_out *out) {
    while (out->buf.n && out->buf.data[out->buf.n - 1] == ' ') out->buf.data[--out->buf.n] = 0;
    gr_out_put(out, "\n");
}

static void put_titles(gr_out *out, const gr_table *table, const int32_t *width) {
    bool two_lines = false;
    char line[64];
    int32_t total = GAP * (table->n_columns - 1);
    for (int32_t c = 0; c < table->n_columns; c++) {
        two_lines |= strchr(table->columns[c].title, '\n') != NULL;
        total += width[c];
    }
    for (int32_t l = two_lines ? 0 : 1; l < 2; l++) {
        for (int32_t c = 0; c < table->n_columns; c++)
            put_cell(out, title_line(table->columns[c].title, l, line), table->columns[c].kind, width[c], c + 1 == table->n_columns);
        end_line(out);
    }
    for (int32_t i = 0; i < total; i++) gr_out_put(out, "\xE2\x94\x80");
    gr_out_put(out, "\n");
}

grace_status gr_table_text(const gr_table *table, int32_t width_max, gr_buf *buf) {
    grace_status st = GRACE_OK;
    gr_out out = {0};
    int32_t *width = NULL;
    GR_TRY(table->st);
    GR_CALLOC(width, table->n_columns);
    measure(table, width_max, width);
    put_titles(&out, table, width);
    for (int32_t i = 0; i < table->n_rows; i++) {
        for (int32_t c = 0; c < table->n_columns; c++)
            put_cell(&out, table->rows[i].cells[c], table->columns[c].kind, width[c], c + 1 == table->n_columns);
        end_line(&out);
    }
    GR_TRY(out.st);
    GR_TRY(gr_buf_append(buf, out.buf.data, out.buf.n));
done:
    gr_out_free(&out);
    free(width);
    return st;
}
