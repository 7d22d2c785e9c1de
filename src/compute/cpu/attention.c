/* Causal attention over paged keys and values. First every row's q and k are normed, clipped and turned and k, v appended. Then tasks
 * (some rows of one sequence, one kv head) take scores page by page with the tile kernel of linear, a two-pass softmax, and the weighted sum
 * of values in the canonical order over positions. A row thus depends on its own position and the cache before it: not on chunks, pages
 * or threads. Positions of one head lie a power of two apart in wide models, where a cache holds only a few of them: a task copies the
 * piece it works on (a page of keys, 16 elements of all values) side by side and uses it for all its rows. */
#include "compute/cpu/cpu.h"

#include <math.h>
#include <string.h>

enum { QUERIES_PER_TASK = 32 };

typedef struct attention_args {
    const gr_cpu *cpu;
    const gr_attention *a;
    const int32_t *first_row;       /* [n_blocks + 1] rows of one block are rows of one sequence */
    int32_t n_blocks;
    int32_t group;                  /* heads that share a kv head */
    int32_t queries_max;            /* of a task */
    int32_t n_positions;            /* of the longest sequence, rounded up to a page */
    float scale;
} attention_args;

/* What a task works in; one per thread. */
typedef struct workspace {
    float *scores;                  /* [queries_max, n_positions] */
    float *values;                  /* [n_positions, 16] */
    float *keys;                    /* [GR_KV_PAGE, head_dim] */
    float *total;                   /* [queries_max] */
} workspace;

/* Queries of a task: (row, head of the kv head's group), row by row. */
typedef struct task_cut { int32_t first_row, n_queries, kv_head; const int32_t *pages; } task_cut;

static int32_t least(int32_t a, int32_t b) { return a < b ? a : b; }

/* ---- rows: norm, clip, rope, append ---- */
static void norm_heads(const gr_kernels *k, const gr_weight *w, float eps, float *x, int32_t n_heads, int32_t head_dim) {
    if (!w) return;
    const int32_t n = n_heads * head_dim;
    for (int32_t at = 0; at < n; at += w->cols) k->norm(x + at, w->vector, w->cols, eps, x + at);
}

static void turn_heads(const attention_args *x, float *heads, int32_t n_heads, int32_t position) {
    const gr_rope_table *rope = &x->cpu->rope;
    const int64_t at = (int64_t)position * rope->half;
    for (int32_t h = 0; h < n_heads; h++) x->cpu->k->rope(heads + (int64_t)h * x->a->head_dim, rope->cosine + at, rope->sine + at, rope->half);
}

static void row_task(void *args, int64_t row, int32_t thread) {
    const attention_args *x = args;
    const gr_attention *a = x->a;
    const gr_kernels *k = x->cpu->k;
    const int32_t n_q = a->n_heads * a->head_dim, n_kv = a->n_kv_heads * a->head_dim, position = a->position_of_row[row];
    float *q = a->q + row * n_q, *key = a->k + row * n_kv, *value = a->v + row * n_kv;
    (void)thread;
    norm_heads(k, a->q_norm, a->norm_eps, q, a->n_heads, a->head_dim);
    norm_heads(k, a->k_norm, a->norm_eps, key, a->n_kv_heads, a->head_dim);
    if (a->clip_qkv > 0) {
        k->clip(q, n_q, a->clip_qkv);
        k->clip(key, n_kv, a->clip_qkv);
        k->clip(value, n_kv, a->clip_qkv);
    }
    turn_heads(x, q, a->n_heads, position);
    turn_heads(x, key, a->n_kv_heads, position);
    const int64_t page = a->page_table[(int64_t)a->sequence_of_row[row] * a->pages_max + position / GR_KV_PAGE];
    const int64_t at = (page * GR_KV_PAGE + position % GR_KV_PAGE) * n_kv;
    memcpy(a->k_pages + at, key, (size_t)n_kv * sizeof *key);
    memcpy(a->v_pages + at, value, (size_t)n_kv * sizeof *value);
}

/* ---- heads ---- */
static size_t workspace_floats(const attention_args *x) {
    const size_t n = (size_t)x->queries_max * ((size_t)x->n_positions + 1) + (size_t)x->n_positions * 16 + (size_t)GR_KV_PAGE * (size_t)x->a->head_dim;
    return (n + 15) / 16 * 16;
}

static workspace workspace_of(const attention_args *x, int32_t thread) {
    workspace w;
    w.scores = (float *)x->cpu->scores.data + workspace_floats(x) * (size_t)thread;
    w.values = w.scores + (int64_t)x->queries_max * x->n_positions;
    w.keys = w.values + (int64_t)x->n_positions * 16;
    w.total = w.keys + (int64_t)GR_KV_PAGE * x->a->head_dim;
    return w;
}

/* Where query i lies in q and out, and how many positions it sees. */
static int64_t query_offset(const attention_args *x, const task_cut *cut, int32_t i) {
    return ((int64_t)(cut->first_row + i / x->group) * x->a->n_heads + cut->kv_head * x->group + i % x->group) * x->a->head_dim;
}
static int32_t query_sees(const attention_args *x, const task_cut *cut, int32_t i) { return x->a->position_of_row[cut->first_row + i / x->group] + 1; }

/* The kv head's first element at position at of k_pages or v_pages. */
static const float *head_at(const attention_args *x, const task_cut *cut, const float *cache, int32_t at) {
    const gr_attention *a = x->a;
    return cache + (((int64_t)cut->pages[at / GR_KV_PAGE] * GR_KV_PAGE + at % GR_KV_PAGE) * a->n_kv_heads + cut->kv_head) * a->head_dim;
}

/* Keys of the page from position `at` on: in place, or side by side when several tiles of queries read them. */
static void open_keys(const attention_args *x, const task_cut *cut, int32_t at, float *keys, gr_tile *t) {
    const int64_t stride = (int64_t)x->a->n_kv_heads * x->a->head_dim;
    const float *from = head_at(x, cut, x->a->k_pages, at);
    *t = (gr_tile){.w = from, .w_stride = stride * (int64_t)sizeof *from, .dtype = GRACE_F32, .n_outs = GR_KV_PAGE, .k = x->a->head_dim};
    if (cut->n_queries <= x->cpu->k->tile_rows) return;
    for (int32_t j = 0; j < GR_KV_PAGE; j++) memcpy(keys + j * x->a->head_dim, from + j * stride, (size_t)x->a->head_dim * sizeof *keys);
    t->w = keys;
    t->w_stride = x->a->head_dim * (int64_t)sizeof *keys;
}

/* Scores of all queries against the positions they see; whole pages, what lies beyond is never used. */
static void score_queries(const attention_args *x, const task_cut *cut, const workspace *w, int32_t n) {
    gr_tile t;
    for (int32_t at = 0; at < n; at += GR_KV_PAGE) {
        open_keys(x, cut, at, w->keys, &t);
        for (int32_t i = 0; i < cut->n_queries; i += t.n_rows) {
            t.n_rows = least(x->cpu->k->tile_rows, cut->n_queries - i);
            if (query_sees(x, cut, i + t.n_rows - 1) <= at) continue;
            for (int32_t r = 0; r < t.n_rows; r++) {
                t.x[r] = x->a->q + query_offset(x, cut, i + r);
                t.out[r] = w->scores + (int64_t)(i + r) * x->n_positions + at;
            }
            x->cpu->k->tile(&t);
        }
    }
}

static void copy_values(const attention_args *x, const task_cut *cut, int32_t d, int32_t n_out, int32_t n, float *values) {
    const int64_t stride = (int64_t)x->a->n_kv_heads * x->a->head_dim;
    for (int32_t at = 0; at < n; at += GR_KV_PAGE)
        x->cpu->k->pack(head_at(x, cut, x->a->v_pages, at) + d, stride, least(GR_KV_PAGE, n - at), n_out, values + 16 * (int64_t)at);
}

static void head_task(void *args, int64_t task, int32_t thread) {
    const attention_args *x = args;
    const gr_attention *a = x->a;
    const int32_t block = (int32_t)(task / a->n_kv_heads), row = x->first_row[block], end = x->first_row[block + 1];
    const task_cut cut = {row, (end - row) * x->group, (int32_t)(task % a->n_kv_heads), a->page_table + (int64_t)a->sequence_of_row[row] * a->pages_max};
    const int32_t n = a->position_of_row[end - 1] + 1;
    const workspace w = workspace_of(x, thread);
    score_queries(x, &cut, &w, n);
    for (int32_t i = 0; i < cut.n_queries; i++)
        w.total[i] = x->cpu->k->softmax(w.scores + (int64_t)i * x->n_positions, query_sees(x, &cut, i), x->scale);
    for (int32_t d = 0; d < a->head_dim; d += 16) {
        const int32_t n_out = least(16, a->head_dim - d);
        copy_values(x, &cut, d, n_out, n, w.values);
        for (int32_t i = 0; i < cut.n_queries; i++)
            x->cpu->k->weigh(&(gr_weigh){.p = w.scores + (int64_t)i * x->n_positions, .total = w.total[i], .n = query_sees(x, &cut, i), .v = w.values,
                                         .n_out = n_out, .out = a->out + query_offset(x, &cut, i) + d});
    }
}

/* Cuts the rows into blocks of one sequence each; first_row has room for n_rows + 1. */
static int32_t cut_rows(const gr_attention *a, int32_t rows_per_task, int32_t *first_row) {
    int32_t n = 0;
    for (int32_t row = 0; row < a->n_rows; row++) {
        const bool same = n > 0 && a->sequence_of_row[row] == a->sequence_of_row[row - 1] && row - first_row[n - 1] < rows_per_task;
        if (!same) first_row[n++] = row;
    }
    first_row[n] = a->n_rows;
    return n;
}

static grace_status check_norm(const gr_weight *w, const char *name, int32_t n_heads, int32_t head_dim) {
    if (!w || (w->vector && (w->cols == head_dim || w->cols == n_heads * head_dim))) return GRACE_OK;
    return gr_fail(GRACE_ERR_ARG, "%s norm has %d x %d values, expected %d or %d", name, w->rows, w->cols, head_dim, n_heads * head_dim);
}

static grace_status check_attention(const gr_attention *a) {
    grace_status st = GRACE_OK;
    GR_CHECK(a->head_dim > 0 && a->head_dim % 2 == 0, GRACE_ERR_ARG, "head_dim %d: expected an even number", a->head_dim);
    GR_CHECK(a->n_kv_heads > 0 && a->n_heads % a->n_kv_heads == 0, GRACE_ERR_ARG, "%d heads do not share %d kv heads evenly", a->n_heads, a->n_kv_heads);
    GR_TRY(check_norm(a->q_norm, "q", a->n_heads, a->head_dim));
    GR_TRY(check_norm(a->k_norm, "k", a->n_kv_heads, a->head_dim));
done:
    return st;
}

grace_status gr_cpu_attention(gr_compute *c, const gr_attention *a) {
    grace_status st = GRACE_OK;
    gr_cpu *cpu = gr_cpu_of(c);
    int64_t last = -1, n_scores = 0;
    if (a->n_rows == 0) return st;
    GR_TRY(check_attention(a));
    for (int32_t row = 0; row < a->n_rows; row++) {
        const int32_t position = a->position_of_row[row];
        GR_ASSERT(position >= 0 && position / GR_KV_PAGE < a->pages_max);
        if (position > last) last = position;
        n_scores += position + 1;
    }
    attention_args x = {.cpu = cpu, .a = a, .group = a->n_heads / a->n_kv_heads, .scale = 1.0f / sqrtf((float)a->head_dim)};
    const int32_t rows_per_task = (int32_t)gr_ceil_div(QUERIES_PER_TASK, x.group);
    x.queries_max = rows_per_task * x.group;
    x.n_positions = (int32_t)(last / GR_KV_PAGE + 1) * GR_KV_PAGE;
    GR_TRY(gr_rope_reserve(&cpu->rope, a->rope_theta, a->head_dim, (int32_t)last + 1));
    GR_TRY(gr_scratch_reserve(&cpu->scores, sizeof(float) * workspace_floats(&x) * (size_t)cpu->n_threads, "attention scores"));
    GR_TRY(gr_scratch_reserve(&cpu->tasks, sizeof(int32_t) * ((size_t)a->n_rows + 1), "attention tasks"));
    x.n_blocks = cut_rows(a, rows_per_task, cpu->tasks.data);
    x.first_row = cpu->tasks.data;
    gr_cpu_for(cpu, a->n_rows, (int64_t)a->n_rows * (a->n_heads + 2 * a->n_kv_heads) * a->head_dim, row_task, &x);
    gr_cpu_for(cpu, (int64_t)x.n_blocks * a->n_kv_heads, 2 * n_scores * a->n_heads * a->head_dim, head_task, &x);
done:
    return st;
}
