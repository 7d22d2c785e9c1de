/* The cpu backend: opening, memory, weights, threads, and the entries that are one loop. */
#include "compute/cpu/cpu.h"

#ifdef GRACE_X86
#include <cpuid.h>
#endif
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"

#ifdef _OPENMP
#include <omp.h>
#endif

enum { ALIGN = 64, THREADS_MAX = 1024, PARALLEL_COST_MIN = 200000 };

/* ---- threads ---- */
static int32_t default_threads(void) {
#ifdef _OPENMP
    return omp_get_max_threads();
#else
    return 1;
#endif
}

#ifdef _OPENMP
static void run_parallel(const gr_cpu *cpu, int64_t n_tasks, gr_cpu_task run, void *args) {
#pragma omp parallel for schedule(dynamic, n_tasks / (cpu->n_threads * 16) + 1) num_threads(cpu->n_threads)
    for (int64_t i = 0; i < n_tasks; i++) run(args, i, omp_get_thread_num());
}
#endif

void gr_cpu_for(const gr_cpu *cpu, int64_t n_tasks, int64_t cost, gr_cpu_task run, void *args) {
#ifdef _OPENMP
    if (cpu->n_threads > 1 && n_tasks > 1 && cost >= PARALLEL_COST_MIN) {
        run_parallel(cpu, n_tasks, run, args);
        return;
    }
#else
    (void)cpu, (void)cost;
#endif
    for (int64_t i = 0; i < n_tasks; i++) run(args, i, 0);
}

/* ---- memory: calloc, so that large buffers cost only the pages that are touched; the word before an aligned block keeps its start ---- */

static grace_status alloc_bytes(size_t bytes, void **out) {
    grace_status st = GRACE_OK;
    char *start = bytes <= SIZE_MAX - 2 * ALIGN ? calloc(1, bytes + 2 * ALIGN) : NULL;
    GR_CHECK(start, GRACE_ERR_MEMORY, "no memory for %zu bytes", bytes);
    char *aligned = start + (2 * ALIGN - (uintptr_t)start % ALIGN);
    ((void **)aligned)[-1] = start;
    *out = aligned;
done:
    return st;
}

static void release(void *memory) {
    if (memory) free(((void **)memory)[-1]);
}

static grace_status cpu_alloc(gr_compute *c, size_t bytes, void **out) {
    (void)c;
    return alloc_bytes(bytes, out);
}

static void cpu_release(gr_compute *c, void *memory) {
    (void)c;
    release(memory);
}

static grace_status cpu_copy(gr_compute *c, void *to, const void *from, size_t bytes) {
    (void)c;
    if (bytes) memcpy(to, from, bytes);
    return GRACE_OK;
}

/* ---- steps: nothing is queued, nothing padded ---- */
static grace_status cpu_end(gr_compute *c, int32_t flight, const int32_t *from, int32_t n) {
    gr_scratch *kept = &gr_cpu_of(c)->ids[flight];
    const grace_status st = gr_scratch_reserve(kept, (size_t)n * sizeof *from, "ids of a step");
    if (!st && kept->data && n > 0) memcpy(kept->data, from, (size_t)n * sizeof *from);
    return st;
}

static grace_status cpu_finish(gr_compute *c, int32_t flight, int32_t *host, int32_t n) {
    if (n > 0) memcpy(host, gr_cpu_of(c)->ids[flight].data, (size_t)n * sizeof *host);
    return GRACE_OK;
}

static void cpu_mark(gr_compute *c, double *us) { (void)c, (void)us; }

static int32_t cpu_padded(gr_compute *c, int32_t n_rows) {
    (void)c;
    return n_rows;
}

static grace_status cpu_replay(gr_compute *c, int32_t key, grace_status (*run)(void *user), void *user) {
    (void)c, (void)key;
    return run(user);
}

static grace_status cpu_record(gr_compute *c, int32_t key, grace_status (*run)(void *user), void *user) {
    (void)c, (void)key, (void)run, (void)user;
    return GRACE_OK;
}

static grace_status cpu_begin(gr_compute *c, const gr_step_rows *rows) {
    (void)c, (void)rows;
    return GRACE_OK;
}

grace_status gr_scratch_reserve(gr_scratch *s, size_t bytes, const char *what) {
    if (bytes <= s->size) return GRACE_OK;
    release(s->data);
    *s = (gr_scratch){0};
    const size_t size = bytes + bytes / 4;      /* steps grow a little at a time: do not follow each */
    grace_status st = alloc_bytes(size, &s->data);
    if (st) return gr_fail_in(st, "%s", what);
    s->size = size;
    return GRACE_OK;
}

/* ---- weights ---- */
static void weight_close(gr_compute *c, gr_weight *w) {
    if (!w) return;
    for (int32_t i = 0; i < w->n_parts; i++) {
        weight_close(c, w->parts[i]);
        weight_close(c, w->biases[i]);
    }
    free(w->parts);
    free(w->biases);
    free(w->vector);
    free(w);
}

static grace_status weight_open(gr_compute *c, const grace_tensor *tensor, gr_weight **out) {
    grace_status st = GRACE_OK;
    gr_cpu *cpu = gr_cpu_of(c);
    gr_weight *w = NULL;
    GR_CHECK(tensor->data, GRACE_ERR_ARG, "a weight without data");
    GR_CHECK(tensor->dtype <= GRACE_F16 && tensor->col_step <= 1 && (tensor->rows == 1 || !tensor->row_step || tensor->row_step == tensor->cols),
             GRACE_ERR_ARG, "a weight that was not unpacked");
    GR_CHECK(tensor->rows >= 1 && tensor->cols >= 1 && tensor->rows <= INT32_MAX && tensor->cols <= INT32_MAX, GRACE_ERR_LIMIT,
             "a weight of %lld x %lld, each side must be 1..%d", (long long)tensor->rows, (long long)tensor->cols, INT32_MAX);
    GR_CALLOC(w, 1);
    *w = (gr_weight){.data = tensor->data, .rows = (int32_t)tensor->rows, .cols = (int32_t)tensor->cols, .dtype = tensor->dtype};
    if (w->rows == 1) {
        GR_CALLOC(w->vector, w->cols);
        cpu->k->widen(w->dtype, w->data, w->cols, w->vector);
    }
    GR_TRY(gr_block_reserve(cpu, w->cols));
    *out = w;
    w = NULL;
done:
    weight_close(c, w);
    return st;
}

/* Parts stay where they lie; the stack only knows them. */
static grace_status stack_open(gr_compute *c, const grace_tensor *parts, const grace_tensor *biases, int32_t n, gr_weight **out) {
    grace_status st = GRACE_OK;
    gr_weight *w = NULL;
    GR_CALLOC(w, 1);
    GR_CALLOC(w->parts, n);
    GR_CALLOC(w->biases, n);
    w->cols = (int32_t)parts[0].cols;
    w->n_parts = n;
    for (int32_t i = 0; i < n; i++) {
        GR_CHECK(parts[i].cols == parts[0].cols, GRACE_ERR_ARG, "a part of %lld columns in a stack of %lld", (long long)parts[i].cols,
                 (long long)parts[0].cols);
        GR_TRY(weight_open(c, &parts[i], &w->parts[i]));
        if (biases[i].data) GR_TRY(weight_open(c, &biases[i], &w->biases[i]));
        w->rows += w->parts[i]->rows;
    }
    *out = w;
    w = NULL;
done:
    weight_close(c, w);
    return st;
}

static void mlps_close(gr_compute *c, gr_mlps *m) {
    for (int32_t i = 0; i < m->n; i++) {
        gr_weight *const all[] = {m->slots[i].gate, m->slots[i].up, m->slots[i].down, m->slots[i].gate_bias, m->slots[i].up_bias, m->slots[i].down_bias};
        for (size_t j = 0; j < sizeof all / sizeof *all; j++) weight_close(c, all[j]);
    }
    free(m->slots);
    *m = (gr_mlps){0};
}

static grace_status open_if_there(gr_compute *c, const grace_tensor *t, gr_weight **out) { return t->data ? weight_open(c, t, out) : GRACE_OK; }

static grace_status mlps_open(gr_compute *c, const gr_mlp_tensors *mlps, int32_t n, float swiglu_limit, gr_mlps *out) {
    grace_status st = GRACE_OK;
    (void)swiglu_limit;
    GR_CALLOC(out->slots, n);
    out->n = n;
    for (int32_t i = 0; i < n; i++) {
        GR_TRY(weight_open(c, &mlps[i].gate, &out->slots[i].gate));
        GR_TRY(weight_open(c, &mlps[i].up, &out->slots[i].up));
        GR_TRY(weight_open(c, &mlps[i].down, &out->slots[i].down));
        GR_TRY(open_if_there(c, &mlps[i].gate_bias, &out->slots[i].gate_bias));
        GR_TRY(open_if_there(c, &mlps[i].up_bias, &out->slots[i].up_bias));
        GR_TRY(open_if_there(c, &mlps[i].down_bias, &out->slots[i].down_bias));
    }
done:
    if (st) mlps_close(c, out);
    return st;
}

static const uint8_t *weight_row(const gr_weight *w, int64_t row) {
    return (const uint8_t *)w->data + row * w->cols * (w->dtype == GRACE_F32 ? 4 : 2);
}

/* ---- entries that are one loop ---- */
static grace_status cpu_embed(gr_compute *c, const gr_weight *table, const int32_t *ids, const int32_t *drawn, int32_t n_rows, void *out) {
    grace_status st = GRACE_OK;
    for (int32_t i = 0; i < n_rows; i++) {
        const int32_t id = ids[i] < 0 && drawn ? drawn[-1 - ids[i]] : ids[i];
        GR_CHECK(id >= 0 && id < table->rows, GRACE_ERR_ARG, "row %d: id %d, the table has %d rows", i, id, table->rows);
        gr_cpu_of(c)->k->widen(table->dtype, weight_row(table, id), table->cols, (float *)out + (int64_t)i * table->cols);
    }
done:
    return st;
}

typedef struct norm_args { const gr_kernels *k; const gr_weight *w; float eps; const float *x; float *out; } norm_args;

static void norm_row(void *args, int64_t row, int32_t thread) {
    const norm_args *n = args;
    (void)thread;
    n->k->norm(n->x + row * n->w->cols, n->w->vector, n->w->cols, n->eps, n->out + row * n->w->cols);
}

grace_status gr_cpu_norm(gr_compute *c, const gr_weight *w, float eps, const void *x, int32_t n_rows, void *out) {
    GR_ASSERT(w->vector);
    norm_args n = {gr_cpu_of(c)->k, w, eps, x, out};
    gr_cpu_for(gr_cpu_of(c), n_rows, (int64_t)n_rows * w->cols, norm_row, &n);
    return GRACE_OK;
}

static grace_status cpu_norm_linear(gr_compute *c, const gr_norm *norm, gr_weight *const *w, int32_t n, const void *x, int32_t n_rows, void *const *out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_cpu_norm(c, norm->w, norm->eps, x, n_rows, norm->to));
    for (int32_t i = 0; i < n; i++) GR_TRY(gr_cpu_linear(c, w[i], norm->to, n_rows, out[i]));
done:
    return st;
}

static grace_status cpu_gather(gr_compute *c, const void *in, const int32_t *index, int32_t n_rows, int32_t width, void *out) {
    const size_t row = (size_t)width * sizeof(float);
    (void)c;
    for (int32_t i = 0; i < n_rows; i++) memcpy((char *)out + (size_t)i * row, (const char *)in + (size_t)index[i] * row, row);
    return GRACE_OK;
}

typedef struct sum_args { const gr_kernels *k; gr_sum_row all; const int32_t *first; } sum_args;

static void sum_one_row(void *args, int64_t row, int32_t thread) {
    const sum_args *s = args;
    gr_sum_row one = s->all;
    (void)thread;
    one.n = s->first[row + 1] - s->first[row];
    one.index += s->first[row];
    if (one.weight) one.weight += s->first[row];
    one.out += row * one.width;
    s->k->sum_row(&one);
}

static grace_status cpu_sum_rows(gr_compute *c, const float *in, const int32_t *first, const int32_t *index, const float *weight,
                                 int32_t n_rows, int32_t width, bool accumulate, float *out) {
    if (n_rows == 0) return GRACE_OK;
    sum_args s = {gr_cpu_of(c)->k, {.in = in, .index = index, .weight = weight, .width = width, .accumulate = accumulate, .out = out}, first};
    gr_cpu_for(gr_cpu_of(c), n_rows, (int64_t)(first[n_rows] - first[0]) * width, sum_one_row, &s);
    return GRACE_OK;
}

/* ---- opening ---- */
static void cpu_free(gr_compute *c) {
    if (!c) return;
    gr_cpu *cpu = gr_cpu_of(c);
    gr_scratch *all[] = {&cpu->tile, &cpu->hidden, &cpu->up, &cpu->tasks, &cpu->choices, &cpu->scores, &cpu->order, &cpu->sums, &cpu->ids[0], &cpu->ids[1]};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) release(all[i]->data);
    gr_rope_free(&cpu->rope);
    free(cpu);
}

static grace_status cpu_recall(gr_compute *c, const gr_recorded *r, int32_t layer, const gr_place *place, const gr_step_rows *rows, int32_t *ids,
                               float *weights) {
    (void)c, (void)place;           /* the caller places */
    for (int32_t i = 0; i < rows->n; i++) {
        const int64_t from = ((int64_t)rows->recorded[i] * r->n_layers + layer) * r->top_k, to = (int64_t)i * r->top_k;
        for (int32_t k = 0; k < r->top_k; k++) {
            ids[to + k] = r->experts[from + k];
            weights[to + k] = r->weights ? r->weights[from + k] : r->weight;
        }
    }
    return GRACE_OK;
}

static const gr_compute_ops cpu_ops = {
    .name = "cpu", .element = sizeof(float), .alloc = cpu_alloc, .release = cpu_release, .upload = cpu_copy, .download = cpu_copy,
    .end = cpu_end, .finish = cpu_finish, .mark = cpu_mark, .weight_open = weight_open, .stack_open = stack_open, .weight_close = weight_close,
    .mlps_open = mlps_open, .mlps_close = mlps_close, .padded = cpu_padded, .replay = cpu_replay, .record = cpu_record, .begin = cpu_begin,
    .embed = cpu_embed, .norm = gr_cpu_norm, .linear = gr_cpu_linear, .norm_linear = cpu_norm_linear, .linear_add = gr_cpu_linear_add, .logits = gr_cpu_logits,
    .linear_heads = gr_cpu_linear_heads, .attention = gr_cpu_attention, .gate = gr_cpu_gate, .recall = cpu_recall,
    .experts = gr_cpu_experts, .mlp = gr_cpu_mlp, .gather = cpu_gather, .sum_rows = cpu_sum_rows, .sample = gr_cpu_sample, .free = cpu_free,
};

#ifdef GRACE_X86
/* clang's __builtin_cpu_supports does not know it. */
static bool has_f16c(void) {
    unsigned a, b, c, d;
    return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

bool gr_kernels_run_here(const gr_kernels *k) {
#ifdef GRACE_X86
    __builtin_cpu_init();
    if (k == &gr_kernels_avx512)
        return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma");
    if (k == &gr_kernels_avx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
#endif
    return k == &gr_kernels_portable;
}

static grace_status choose_kernels(const char *simd, const gr_kernels **out) {
    static const gr_kernels *const levels[] = {
#ifdef GRACE_X86
        &gr_kernels_avx512, &gr_kernels_avx2,
#endif
        &gr_kernels_portable,
    };
    const bool automatic = !strcmp(simd, "auto");
    for (size_t i = 0; i < sizeof levels / sizeof *levels; i++) {
        if (!automatic && strcmp(simd, levels[i]->name)) continue;
        *out = levels[i];
        if (gr_kernels_run_here(levels[i])) return GRACE_OK;
        if (!automatic) return gr_fail(GRACE_ERR_UNSUPPORTED, "simd '%s': this machine does not have it", simd);
    }
    const bool known = !strcmp(simd, "avx2") || !strcmp(simd, "avx512");
    return known ? gr_fail(GRACE_ERR_UNSUPPORTED, "simd '%s': this machine does not have it", simd)
                 : gr_fail(GRACE_ERR_ARG, "simd '%s': expected auto, portable, avx2 or avx512", simd);
}

grace_status gr_compute_cpu_open(const char *simd, int32_t n_threads, gr_compute **out) {
    grace_status st = GRACE_OK;
    gr_cpu *cpu = NULL;
    const gr_kernels *k = NULL;
    GR_CHECK(n_threads >= 0 && n_threads <= THREADS_MAX, GRACE_ERR_ARG, "%d threads: expected 0 (all) to %d", n_threads, THREADS_MAX);
    GR_TRY(choose_kernels(simd ? simd : "auto", &k));
    GR_CALLOC(cpu, 1);
    cpu->base.ops = &cpu_ops;
    cpu->k = k;
    cpu->n_threads = n_threads ? n_threads : default_threads();
    GR_TRY(gr_scratch_reserve(&cpu->up, sizeof(float) * GR_TILE_ROWS_MAX * GR_BLOCK_OUTS_MAX * (size_t)cpu->n_threads, "expert kernel"));
    gr_log(GR_DEBUG, "compute", "cpu, %s, %d threads", k->name, cpu->n_threads);
    *out = &cpu->base;
    cpu = NULL;
done:
    cpu_free(cpu ? &cpu->base : NULL);
    return st;
}

const char *gr_compute_cpu_simd(const gr_compute *c) { return ((const gr_cpu *)c)->k->name; }

int32_t gr_compute_cpu_threads(const gr_compute *c) { return ((const gr_cpu *)c)->n_threads; }
