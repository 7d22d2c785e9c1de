/* Causal attention over paged keys and values. First every row's q and k are normed, clipped and turned and k, v appended. Then tasks
 * (some rows of one sequence, some heads of one kv head) take scores page by page with the tile kernel of linear, a two-pass softmax, and the weighted sum
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
    int32_t heads_max, n_parts;     /* heads of a task, and how many tasks share a kv head's group */
    int32_t queries_max;            /* of a task */
    int32_t n_positions;            /* of the longest sequence, rounded up to a page */
    int64_t q_step;                 /* from row to row of q */
} attention_args;

/* What a task works in; one per thread. */
typedef struct workspace {
    float *scores;                  /* [queries_max, n_positions] */
    float *values;                  /* [n_positions, 16] */
    float *keys;                    /* [GR_KV_PAGE, key_dim] */
    float *total;                   /* [queries_max] */
} workspace;

/* Queries of a task: (row, head), row by row. They see positions from page start `from` on, the last of them up to n. */
typedef struct task_cut { int32_t first_row, kv_head, first_head, n_heads, n_queries, from, n; const int32_t *pages; } task_cut;

static int32_t least(int32_t a, int32_t b) { return a < b ? a : b; }

/* ---- rows: norm, clip, rope, append ---- */
static void norm_heads(const gr_kernels *k, const gr_weight *w, float eps, float *x, int32_t n_heads, int32_t dim) {
    if (!w) return;
    const int32_t step = w->cols > dim ? w->cols : dim;
    for (int32_t at = 0; at < n_heads * dim; at += step) k->norm(x + at, w->vector, w->cols, eps, x + at);
}

static void turn_heads(const attention_args *x, float *heads, int32_t n_heads, int32_t position) {
    const gr_rope_table *table = &x->cpu->rope;
    const grace_rope *rope = x->a->rope;
    const int64_t at = (int64_t)position * (rope->dim / 2);
    float *last = heads + (x->a->key_dim - rope->dim);
    for (int32_t h = 0; h < n_heads; h++, last += x->a->key_dim)
        (rope->neighbours ? x->cpu->k->rope_neighbours : x->cpu->k->rope)(last, table->cosine + at, table->sine + at, rope->dim / 2);
}

static void append(const attention_args *x, int64_t row, const float *from, void *pages, int32_t width) {
    const gr_attention *a = x->a;
    const int32_t position = a->position_of_row[row];
    const int64_t page = a->page_table[(int64_t)a->sequence_of_row[row] * a->pages_max + position / GR_KV_PAGE];
    memcpy((float *)pages + (page * GR_KV_PAGE + position % GR_KV_PAGE) * width, from, (size_t)width * sizeof *from);
}

static void row_task(void *args, int64_t row, int32_t thread) {
    const attention_args *x = args;
    const gr_attention *a = x->a;
    const gr_kernels *k = x->cpu->k;
    const int32_t n_q = a->n_heads * a->key_dim, n_k = a->n_kv_heads * a->key_dim, n_v = a->n_kv_heads * a->value_dim;
    float *q = (float *)a->q + row * x->q_step, *key = (float *)a->k + row * (a->kv_step ? a->kv_step : n_k);
    float *value = a->v ? (float *)a->v + row * (a->kv_step ? a->kv_step : n_v) : NULL;
    (void)thread;
    norm_heads(k, a->q_norm, a->norm_eps, q, a->n_heads, a->key_dim);
    norm_heads(k, a->k_norm, a->norm_eps, key, a->n_kv_heads, a->key_dim);
    if (a->clip_qkv > 0) {
        k->clip(q, n_q, a->clip_qkv);
        k->clip(key, n_k, a->clip_qkv);
        if (value) k->clip(value, n_v, a->clip_qkv);
    }
    turn_heads(x, q, a->n_heads, a->position_of_row[row]);
    turn_heads(x, key, a->n_kv_heads, a->position_of_row[row]);
    append(x, row, key, a->k_pages, n_k);
    if (value) append(x, row, value, a->v_pages, n_v);
}

/* ---- heads ---- */
static size_t workspace_floats(const attention_args *x) {
    const size_t n = (size_t)x->queries_max * ((size_t)x->n_positions + 1) + (size_t)x->n_positions * 16 + (size_t)GR_KV_PAGE * (size_t)x->a->key_dim;
    return (n + 15) / 16 * 16;
}

static workspace workspace_of(const attention_args *x, int32_t thread) {
    workspace w;
    w.scores = (float *)x->cpu->scores.data + workspace_floats(x) * (size_t)thread;
    w.values = w.scores + (int64_t)x->queries_max * x->n_positions;
    w.keys = w.values + (int64_t)x->n_positions * 16;
    w.total = w.keys + (int64_t)GR_KV_PAGE * x->a->key_dim;
    return w;
}

/* Which head query i is, where it lies in rows of `step` with heads of dim elements, and which positions it sees: query_from to query_sees - 1. */
static int32_t query_head(const task_cut *cut, int32_t i) { return cut->first_head + i % cut->n_heads; }
static int64_t query_offset(const task_cut *cut, int32_t i, int64_t step, int32_t dim) {
    return (cut->first_row + i / cut->n_heads) * step + (int64_t)query_head(cut, i) * dim;
}
static int32_t query_sees(const attention_args *x, const task_cut *cut, int32_t i) { return x->a->position_of_row[cut->first_row + i / cut->n_heads] + 1; }
static int32_t query_from(const attention_args *x, const task_cut *cut, int32_t i) {
    const int32_t n = query_sees(x, cut, i);
    return x->a->window > 0 && n > x->a->window ? n - x->a->window : 0;
}

/* The kv head's first element at position at of k_pages, or of v_pages. */
static const float *cache_at(const task_cut *cut, const float *pages, int32_t n_kv_heads, int32_t dim, int32_t at) {
    return pages + (((int64_t)cut->pages[at / GR_KV_PAGE] * GR_KV_PAGE + at % GR_KV_PAGE) * n_kv_heads + cut->kv_head) * dim;
}

/* Keys of the page from position `at` on: in place, or side by side when several tiles of queries read them. */
static void open_keys(const attention_args *x, const task_cut *cut, int32_t at, float *keys, gr_tile *t) {
    const gr_attention *a = x->a;
    const int64_t stride = (int64_t)a->n_kv_heads * a->key_dim;
    const float *from = cache_at(cut, a->k_pages, a->n_kv_heads, a->key_dim, at);
    *t = (gr_tile){.w = from, .w_stride = stride * (int64_t)sizeof *from, .dtype = GRACE_F32, .n_outs = GR_KV_PAGE, .k = a->key_dim};
    if (cut->n_queries <= x->cpu->k->tile_rows || a->n_kv_heads == 1) return;
    for (int32_t j = 0; j < GR_KV_PAGE; j++) memcpy(keys + j * a->key_dim, from + j * stride, (size_t)a->key_dim * sizeof *keys);
    t->w = keys;
    t->w_stride = a->key_dim * (int64_t)sizeof *keys;
}

/* Scores of all queries against the positions they see; whole pages, what lies beyond is never used. */
static void score_queries(const attention_args *x, const task_cut *cut, const workspace *w) {
    gr_tile t;
    for (int32_t at = cut->from; at < cut->n; at += GR_KV_PAGE) {
        open_keys(x, cut, at, w->keys, &t);
        for (int32_t i = 0; i < cut->n_queries; i += t.n_rows) {
            t.n_rows = least(x->cpu->k->tile_rows, cut->n_queries - i);
            if (query_sees(x, cut, i + t.n_rows - 1) <= at || query_from(x, cut, i) >= at + GR_KV_PAGE) continue;
            for (int32_t r = 0; r < t.n_rows; r++) {
                t.x[r] = (const float *)x->a->q + query_offset(cut, i + r, x->q_step, x->a->key_dim);
                t.out[r] = w->scores + (int64_t)(i + r) * x->n_positions + at;
            }
            x->cpu->k->tile(&t);
        }
    }
}

/* What lies before a query's window gets no weight: then the zeros it adds to every sum change no bit, wherever the task's pages begin. */
static void weigh_positions(const attention_args *x, const task_cut *cut, const workspace *w) {
    const gr_weight *sinks = x->a->sinks;
    for (int32_t i = 0; i < cut->n_queries; i++) {
        float *scores = w->scores + (int64_t)i * x->n_positions;
        for (int32_t at = cut->from; at < query_from(x, cut, i); at++) scores[at] = -INFINITY;
        w->total[i] = x->cpu->k->softmax(scores + cut->from, query_sees(x, cut, i) - cut->from, x->a->scale,
                                         sinks ? sinks->vector + query_head(cut, i) : NULL);
    }
}

/* Elements d to d + n_out of the values. */
static void copy_values(const attention_args *x, const task_cut *cut, int32_t d, int32_t n_out, float *values) {
    const gr_attention *a = x->a;
    const float *pages = a->v_pages ? a->v_pages : a->k_pages;
    const int32_t dim = a->v_pages ? a->value_dim : a->key_dim;
    for (int32_t at = cut->from; at < cut->n; at += GR_KV_PAGE)
        x->cpu->k->pack(cache_at(cut, pages, a->n_kv_heads, dim, at) + d, (int64_t)a->n_kv_heads * dim, least(GR_KV_PAGE, cut->n - at), n_out,
                        values + 16 * (int64_t)at);
}

static task_cut cut_of_task(const attention_args *x, int64_t task) {
    const gr_attention *a = x->a;
    const int32_t block = (int32_t)(task / (a->n_kv_heads * x->n_parts)), rest = (int32_t)(task % (a->n_kv_heads * x->n_parts));
    const int32_t row = x->first_row[block], end = x->first_row[block + 1], first = rest % x->n_parts * x->heads_max;
    task_cut cut = {.first_row = row, .kv_head = rest / x->n_parts, .n_heads = least(x->heads_max, x->group - first),
                    .n = a->position_of_row[end - 1] + 1, .pages = a->page_table + (int64_t)a->sequence_of_row[row] * a->pages_max};
    cut.first_head = cut.kv_head * x->group + first;
    cut.n_queries = (end - row) * cut.n_heads;
    cut.from = query_from(x, &cut, 0) / GR_KV_PAGE * GR_KV_PAGE;
    return cut;
}

/* Elements d to d + n_out of the results, from the values side by side. */
static void mix_values(const attention_args *x, const task_cut *cut, const workspace *w, int32_t d, int32_t n_out) {
    gr_weigh g = {.v = w->values + 16 * (int64_t)cut->from, .n_out = n_out};
    for (int32_t i = 0; i < cut->n_queries; i += g.n_queries) {
        g.n_queries = least(GR_WEIGH_QUERIES, cut->n_queries - i);
        for (int32_t q = 0; q < g.n_queries; q++) {
            g.p[q] = w->scores + (int64_t)(i + q) * x->n_positions + cut->from;
            g.total[q] = w->total[i + q];
            g.n[q] = query_sees(x, cut, i + q) - cut->from;
            g.out[q] = (float *)x->a->out + query_offset(cut, i + q, (int64_t)x->a->n_heads * x->a->value_dim, x->a->value_dim) + d;
        }
        x->cpu->k->weigh(&g);
    }
}

static void head_task(void *args, int64_t task, int32_t thread) {
    const attention_args *x = args;
    const task_cut cut = cut_of_task(x, task);
    const workspace w = workspace_of(x, thread);
    score_queries(x, &cut, &w);
    weigh_positions(x, &cut, &w);
    for (int32_t d = 0; d < x->a->value_dim; d += 16) {
        const int32_t n_out = least(16, x->a->value_dim - d);
        copy_values(x, &cut, d, n_out, w.values);
        mix_values(x, &cut, &w, d, n_out);
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

/* Tasks of about QUERIES_PER_TASK queries; fewer heads in each when the tasks would be too few for the threads. */
static void cut_tasks(attention_args *x, int32_t *first_row) {
    const gr_attention *a = x->a;
    x->heads_max = least(x->group, QUERIES_PER_TASK);
    const int32_t rows_per_task = (int32_t)gr_ceil_div(QUERIES_PER_TASK, x->heads_max);
    x->n_blocks = cut_rows(a, rows_per_task, first_row);
    x->first_row = first_row;
    const int32_t wanted = (int32_t)gr_ceil_div(2 * x->cpu->n_threads, (int64_t)x->n_blocks * a->n_kv_heads);
    if (wanted > 1 && x->cpu->n_threads > 1) {
        const int32_t heads = (int32_t)gr_ceil_div(x->group, wanted), tile = least(x->group, x->cpu->k->tile_rows);
        x->heads_max = least(x->heads_max, heads > tile ? heads : tile);
    }
    x->n_parts = (int32_t)gr_ceil_div(x->group, x->heads_max);
    x->queries_max = rows_per_task * x->heads_max;
}

static grace_status check_norm(const gr_attention *a, const gr_weight *w, const char *name, int32_t n_heads) {
    if (!w || (w->vector && (w->cols == a->key_dim || w->cols == n_heads * a->key_dim || (!a->v_pages && w->cols == a->value_dim)))) return GRACE_OK;
    return gr_fail(GRACE_ERR_ARG, "%s norm has %d x %d values, expected %d or %d", name, w->rows, w->cols, a->key_dim, n_heads * a->key_dim);
}

static grace_status check_attention(const gr_attention *a) {
    grace_status st = GRACE_OK;
    GR_CHECK(a->rope->dim % 2 == 0 && a->rope->dim >= 0 && a->rope->dim <= a->key_dim && a->rope->dim <= 2 * GRACE_ROPE_PAIRS_MAX, GRACE_ERR_ARG,
             "%d of %d elements turn: expected an even number", a->rope->dim, a->key_dim);
    GR_CHECK(a->value_dim > 0 && (a->v_pages || a->value_dim <= a->key_dim), GRACE_ERR_ARG, "values of %d elements in keys of %d", a->value_dim, a->key_dim);
    GR_CHECK(a->n_kv_heads > 0 && a->n_heads % a->n_kv_heads == 0, GRACE_ERR_ARG, "%d heads do not share %d kv heads evenly", a->n_heads, a->n_kv_heads);
    GR_TRY(check_norm(a, a->q_norm, "q", a->n_heads));
    GR_TRY(check_norm(a, a->k_norm, "k", a->n_kv_heads));
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
        n_scores += a->window > 0 && position >= a->window ? a->window : position + 1;
    }
    attention_args x = {.cpu = cpu, .a = a, .group = a->n_heads / a->n_kv_heads, .q_step = a->q_step ? a->q_step : (int64_t)a->n_heads * a->key_dim};
    x.n_positions = (int32_t)(last / GR_KV_PAGE + 1) * GR_KV_PAGE;
    GR_TRY(gr_rope_reserve(&cpu->rope, a->rope, (int32_t)last + 1));
    GR_TRY(gr_scratch_reserve(&cpu->tasks, sizeof(int32_t) * ((size_t)a->n_rows + 1), "attention tasks"));
    cut_tasks(&x, cpu->tasks.data);
    GR_TRY(gr_scratch_reserve(&cpu->scores, sizeof(float) * workspace_floats(&x) * (size_t)cpu->n_threads, "attention scores"));
    gr_cpu_for(cpu, a->n_rows, (int64_t)a->n_rows * (a->n_heads + 2 * a->n_kv_heads) * a->key_dim, row_task, &x);
    gr_cpu_for(cpu, (int64_t)x.n_blocks * a->n_kv_heads * x.n_parts, n_scores * a->n_heads * (a->key_dim + a->value_dim), head_task, &x);
done:
    return st;
}
