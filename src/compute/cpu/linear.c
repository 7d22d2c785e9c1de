/* Products with a weight: cut into blocks of outputs (and parts of rows when there are few blocks), each weight block widened once
 * when enough rows use it, otherwise in registers on its single way from memory. */
#include "compute/cpu/cpu.h"

#include <string.h>

enum { WIDE_FLOATS = 32768, ROWS_OF_PART_MIN = 24 };    /* 128 KiB: a widened block and the rows it meets share the second-level cache */

static int32_t clamp(int64_t x, int32_t low, int32_t high) { return x < low ? low : x > high ? high : (int32_t)x; }

int32_t gr_block_outs(const gr_cpu *cpu, int32_t rows, int32_t cols) {
    const int32_t fits = clamp(WIDE_FLOATS / cols, 4, GR_BLOCK_OUTS_MAX);
    const int32_t shared = clamp(gr_ceil_div(rows, 4 * cpu->n_threads), 16, GR_BLOCK_OUTS_MAX);
    return (fits < shared ? fits : shared) / 4 * 4;
}

static size_t floats_of_block(int32_t cols) { return cols > WIDE_FLOATS / 4 ? 4 * ((size_t)cols + 15) : WIDE_FLOATS; }

grace_status gr_block_reserve(gr_cpu *cpu, int32_t cols) {
    if (cols <= cpu->cols_max) return GRACE_OK;
    const size_t bytes = sizeof(float) * GR_WIDE_MATRICES * (size_t)cpu->n_threads * floats_of_block(cols);
    grace_status st = gr_scratch_reserve(&cpu->tile, bytes, "weight block");
    if (!st) cpu->cols_max = cols;
    return st;
}

void gr_block_open(const gr_cpu *cpu, int32_t thread, int32_t which, const gr_weight *w, int32_t first_out, int32_t n_outs, int32_t n_rows, gr_tile *t) {
    const int64_t size = w->dtype == GRACE_F32 ? 4 : 2;
    const int64_t four = 4 * size * w->cols;        /* the tile walks four weight rows side by side; fetch where it will walk soon */
    *t = (gr_tile){.w = (const uint8_t *)w->data + size * first_out * w->cols, .w_stride = size * w->cols, .dtype = w->dtype, .n_outs = n_outs, .k = w->cols};
    t->prefetch = gr_ceil_div(GR_PREFETCH_BYTES, four) * four;
    if (w->dtype == GRACE_F32 || n_rows <= 2 * cpu->k->tile_rows) return;
    float *wide = (float *)cpu->tile.data + floats_of_block(cpu->cols_max) * (size_t)(thread * GR_WIDE_MATRICES + which);
    cpu->k->widen(w->dtype, t->w, (int64_t)n_outs * w->cols, wide);
    t->w = wide;
    t->dtype = GRACE_F32;
    t->w_stride = (int64_t)w->cols * 4;
}

int32_t gr_rows_per_part(const gr_cpu *cpu, int64_t n_blocks, int32_t n_rows) {
    const int64_t n_parts = gr_ceil_div(4 * cpu->n_threads, n_blocks > 0 ? n_blocks : 1), tile = cpu->k->tile_rows;
    if (n_parts == 1) return n_rows;
    return clamp(gr_ceil_div(gr_ceil_div(n_rows, n_parts), tile) * tile, ROWS_OF_PART_MIN, INT32_MAX);
}

/* ---- linear: task = (block of outputs, part of rows) ---- */
typedef struct linear_args {
    const gr_cpu *cpu;
    const gr_weight *w;
    const float *x;
    float *out;
    int64_t out_step;
    int32_t n_rows, outs_per_block, rows_per_part, n_parts;
} linear_args;

static int32_t least(int32_t a, int32_t b) { return a < b ? a : b; }

static void linear_task(void *args, int64_t task, int32_t thread) {
    const linear_args *l = args;
    const int32_t o = (int32_t)(task / l->n_parts) * l->outs_per_block, first = (int32_t)(task % l->n_parts) * l->rows_per_part;
    const int32_t last = least(first + l->rows_per_part, l->n_rows);
    gr_tile t;
    gr_block_open(l->cpu, thread, 0, l->w, o, least(l->outs_per_block, l->w->rows - o), last - first, &t);
    for (int32_t row = first; row < last; row += t.n_rows) {
        t.n_rows = least(l->cpu->k->tile_rows, last - row);
        for (int32_t r = 0; r < t.n_rows; r++) {
            t.x[r] = l->x + (int64_t)(row + r) * l->w->cols;
            t.out[r] = l->out + (row + r) * l->out_step + o;
        }
        l->cpu->k->tile(&t);
    }
}

static void run_linear(gr_cpu *cpu, const gr_weight *w, const float *x, int32_t n_rows, float *out, int64_t out_step) {
    const int32_t outs = gr_block_outs(cpu, w->rows, w->cols);
    const int64_t n_blocks = gr_ceil_div(w->rows, outs);
    const int32_t rows = gr_rows_per_part(cpu, n_blocks, n_rows);
    linear_args l = {cpu, w, x, out, out_step, n_rows, outs, rows, (int32_t)gr_ceil_div(n_rows, rows)};
    gr_cpu_for(cpu, n_blocks * l.n_parts, (int64_t)w->rows * w->cols * n_rows, linear_task, &l);
}

static void add_bias(const gr_cpu *cpu, const gr_weight *bias, int32_t n_rows, float *out, int64_t out_step) {
    for (int32_t i = 0; i < n_rows; i++) cpu->k->add(out + i * out_step, bias->vector, bias->cols);
}

grace_status gr_cpu_linear(gr_compute *c, const gr_weight *w, const void *x, int32_t n_rows, void *out) {
    float *to = out;
    if (n_rows == 0) return GRACE_OK;
    if (w->n_parts == 0) run_linear(gr_cpu_of(c), w, x, n_rows, out, w->rows);
    for (int32_t i = 0; i < w->n_parts; to += w->parts[i++]->rows) {
        run_linear(gr_cpu_of(c), w->parts[i], x, n_rows, to, w->rows);
        if (w->biases[i]) add_bias(gr_cpu_of(c), w->biases[i], n_rows, to, w->rows);
    }
    return GRACE_OK;
}

grace_status gr_cpu_logits(gr_compute *c, const gr_weight *w, const void *x, int32_t n_rows, float *out) { return gr_cpu_linear(c, w, x, n_rows, out); }

grace_status gr_cpu_linear_add(gr_compute *c, const gr_weight *w, const void *x, int32_t n_rows, void *out) {
    grace_status st = GRACE_OK;
    gr_cpu *cpu = gr_cpu_of(c);
    GR_TRY(gr_scratch_reserve(&cpu->sums, sizeof(float) * (size_t)n_rows * (size_t)w->rows, "sums"));
    GR_TRY(gr_cpu_linear(c, w, x, n_rows, cpu->sums.data));
    cpu->k->add(out, cpu->sums.data, (int64_t)n_rows * w->rows);
done:
    return st;
}

/* ---- linear_heads: task = (head, part of rows); a head's weights are small and are read once for all rows of the part ---- */
typedef struct heads_args {
    const gr_cpu *cpu;
    const gr_weight *w;
    const float *x;
    float *out;
    int32_t n_rows, n_heads, n_kept, outs, rows_per_part, n_parts;
} heads_args;

static void heads_tile(const heads_args *l, int32_t head, int32_t o, int32_t row, gr_tile *t) {
    const int64_t x_step = l->w->cols + l->n_kept, out_step = l->outs + l->n_kept;
    for (int32_t r = 0; r < t->n_rows; r++) {
        t->x[r] = l->x + ((int64_t)(row + r) * l->n_heads + head) * x_step;
        t->out[r] = l->out + ((int64_t)(row + r) * l->n_heads + head) * out_step + o;
    }
    l->cpu->k->tile(t);
}

static void heads_task(void *args, int64_t task, int32_t thread) {
    const heads_args *l = args;
    const int32_t head = (int32_t)(task / l->n_parts), first = (int32_t)(task % l->n_parts) * l->rows_per_part;
    const int32_t last = least(first + l->rows_per_part, l->n_rows), block = gr_block_outs(l->cpu, l->w->rows, l->w->cols);
    const int64_t x_step = l->w->cols + l->n_kept, out_step = l->outs + l->n_kept;
    for (int32_t o = 0; o < l->outs; o += block) {
        gr_tile t;
        gr_block_open(l->cpu, thread, 0, l->w, head * l->outs + o, least(block, l->outs - o), last - first, &t);
        for (int32_t row = first; row < last; row += t.n_rows) {
            t.n_rows = least(l->cpu->k->tile_rows, last - row);
            heads_tile(l, head, o, row, &t);
        }
    }
    for (int32_t row = first; l->n_kept && row < last; row++) {
        const int64_t piece = (int64_t)row * l->n_heads + head;
        memcpy(l->out + piece * out_step + l->outs, l->x + piece * x_step + l->w->cols, (size_t)l->n_kept * sizeof *l->out);
    }
}

grace_status gr_cpu_linear_heads(gr_compute *c, const gr_weight *w, int32_t n_heads, int32_t n_kept, const void *x, int32_t n_rows, void *out) {
    gr_cpu *cpu = gr_cpu_of(c);
    if (n_rows == 0) return GRACE_OK;
    if (n_heads < 1 || w->rows % n_heads) return gr_fail(GRACE_ERR_ARG, "a weight of %d rows for %d heads", w->rows, n_heads);
    const int32_t rows = gr_rows_per_part(cpu, n_heads, n_rows);
    heads_args l = {cpu, w, x, out, n_rows, n_heads, n_kept, w->rows / n_heads, rows, (int32_t)gr_ceil_div(n_rows, rows)};
    gr_cpu_for(cpu, (int64_t)n_heads * l.n_parts, (int64_t)w->rows * w->cols * n_rows, heads_task, &l);
    return GRACE_OK;
}
