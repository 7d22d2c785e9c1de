/* Causal attention over paged keys and values. First every row's q and k are normed, clipped and turned and k, v appended; then tasks
 * (a few rows of one sequence, one kv head) take scores with the same tile kernel as linear, a two-pass softmax and the weighted sum
 * of values in the canonical order over positions. A row thus depends on its own position and the cache before it: not on chunks, pages
 * or threads. */
#include "compute/cpu/cpu.h"

#include <math.h>
#include <string.h>

enum { ROWS_PER_TASK = GR_TILE_ROWS_MAX };

typedef struct attention_args {
    const gr_cpu *cpu;
    const gr_attention *a;
    const int32_t *first_row;       /* [n_blocks + 1] rows of one block are rows of one sequence */
    int32_t n_blocks;
    int32_t scores_stride;          /* floats of one row's scores */
    float scale;
} attention_args;

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
/* Scores of up to a tile of queries against positions [0, n); whole pages, what lies beyond n is never used. */
static void score_queries(const attention_args *x, const int32_t *pages, int32_t head, int32_t n, gr_tile *t, float *scores) {
    const gr_attention *a = x->a;
    const int64_t n_kv = (int64_t)a->n_kv_heads * a->head_dim;
    t->w_stride = n_kv * (int64_t)sizeof(float);
    t->dtype = GRACE_F32;
    t->n_outs = GR_KV_PAGE;
    t->k = a->head_dim;
    for (int32_t at = 0; at < n; at += GR_KV_PAGE) {
        t->w = a->k_pages + pages[at / GR_KV_PAGE] * GR_KV_PAGE * n_kv + (int64_t)head * a->head_dim;
        for (int32_t r = 0; r < t->n_rows; r++) t->out[r] = scores + (int64_t)r * x->scores_stride + at;
        x->cpu->k->tile(t);
    }
}

static void weigh_query(const attention_args *x, const int32_t *pages, int32_t kv_head, int32_t n, float *scores, float *out) {
    const gr_attention *a = x->a;
    const int64_t n_kv = (int64_t)a->n_kv_heads * a->head_dim;
    gr_weigh g = {.p = scores, .n = n, .v = a->v_pages + (int64_t)kv_head * a->head_dim, .pages = pages, .page_stride = GR_KV_PAGE * n_kv,
                  .stride = n_kv, .head_dim = a->head_dim, .out = out};
    g.total = x->cpu->k->softmax(scores, n, x->scale);
    x->cpu->k->weigh(&g);
}

/* Queries of a task: (row, head of the kv head's group), row by row; query i is at this offset of q and out. */
static int64_t query_offset(const gr_attention *a, int32_t first_row, int32_t kv_head, int32_t i) {
    const int32_t group = a->n_heads / a->n_kv_heads;
    return ((int64_t)(first_row + i / group) * a->n_heads + kv_head * group + i % group) * a->head_dim;
}

static void head_task(void *args, int64_t task, int32_t thread) {
    const attention_args *x = args;
    const gr_attention *a = x->a;
    const int32_t block = (int32_t)(task / a->n_kv_heads), kv_head = (int32_t)(task % a->n_kv_heads), group = a->n_heads / a->n_kv_heads;
    const int32_t row = x->first_row[block], n_queries = (x->first_row[block + 1] - row) * group;
    const int32_t *pages = a->page_table + (int64_t)a->sequence_of_row[row] * a->pages_max;
    float *scores = (float *)x->cpu->scores.data + (int64_t)thread * GR_TILE_ROWS_MAX * x->scores_stride;
    gr_tile t;
    for (int32_t i = 0; i < n_queries; i += t.n_rows) {
        t.n_rows = least(x->cpu->k->tile_rows, n_queries - i);
        for (int32_t r = 0; r < t.n_rows; r++) t.x[r] = a->q + query_offset(a, row, kv_head, i + r);
        score_queries(x, pages, kv_head, a->position_of_row[row + (i + t.n_rows - 1) / group] + 1, &t, scores);
        for (int32_t r = 0; r < t.n_rows; r++)
            weigh_query(x, pages, kv_head, a->position_of_row[row + (i + r) / group] + 1, scores + (int64_t)r * x->scores_stride,
                        a->out + query_offset(a, row, kv_head, i + r));
    }
}

/* Cuts the rows into blocks of one sequence each; first_row has room for n_rows + 1. */
static int32_t cut_rows(const gr_attention *a, int32_t *first_row) {
    int32_t n = 0;
    for (int32_t row = 0; row < a->n_rows; row++) {
        const bool same = n > 0 && a->sequence_of_row[row] == a->sequence_of_row[row - 1] && row - first_row[n - 1] < ROWS_PER_TASK;
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
    attention_args x = {.cpu = cpu, .a = a, .scale = 1.0f / sqrtf((float)a->head_dim)};
    x.scores_stride = (int32_t)(last / GR_KV_PAGE + 1) * GR_KV_PAGE;
    GR_TRY(gr_rope_reserve(&cpu->rope, a->rope_theta, a->head_dim, (int32_t)last + 1));
    GR_TRY(gr_scratch_reserve(&cpu->scores, sizeof(float) * GR_TILE_ROWS_MAX * (size_t)cpu->n_threads * (size_t)x.scores_stride, "attention scores"));
    GR_TRY(gr_scratch_reserve(&cpu->tasks, sizeof(int32_t) * ((size_t)a->n_rows + 1), "attention tasks"));
    x.n_blocks = cut_rows(a, cpu->tasks.data);
    x.first_row = cpu->tasks.data;
    gr_cpu_for(cpu, a->n_rows, (int64_t)a->n_rows * (a->n_heads + 2 * a->n_kv_heads) * a->head_dim, row_task, &x);
    gr_cpu_for(cpu, (int64_t)x.n_blocks * a->n_kv_heads, 2 * n_scores * a->n_heads * a->head_dim, head_task, &x);
done:
    return st;
}
