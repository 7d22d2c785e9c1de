/* What the files of the cpu backend share: the opened backend, its scratch memory, its one way to use several threads. */
#ifndef GR_COMPUTE_CPU_CPU_H
#define GR_COMPUTE_CPU_CPU_H
#include "compute/compute.h"
#include "compute/cpu/kernels.h"
#include "compute/rope.h"

struct gr_weight {
    const void *data;           /* [rows, cols], borrowed from the mapped file; NULL: a stack */
    int32_t rows, cols;
    struct gr_weight **parts, **biases;     /* [n_parts] of a stack, below each other; biases NULL where there is none */
    int32_t n_parts;
    grace_dtype dtype;
    float *vector;              /* [cols] widened copy when rows == 1 (norm weights); else NULL */
};

/* Memory that grows to the largest request seen and stays: a steady state allocates nothing. */
typedef struct gr_scratch { void *data; size_t size; } gr_scratch;

typedef struct gr_cpu {
    gr_compute base;
    const gr_kernels *k;
    int32_t n_threads;
    int32_t cols_max;           /* of the weights opened so far */
    gr_scratch tile;            /* [n_threads] weights widened for many rows: GR_WIDE_MATRICES blocks each */
    gr_scratch hidden;          /* experts: silu(gate) * up of every pair */
    gr_scratch up;              /* experts: [n_threads, GR_TILE_ROWS_MAX, GR_BLOCK_OUTS_MAX] */
    gr_scratch tasks;           /* experts, attention: how the work was cut */
    gr_scratch choices;         /* gate: choices and groups of every thread */
    gr_scratch scores;          /* attention: a workspace per thread; gate: logits; sample: probabilities */
    gr_scratch order;           /* sample: ids */
    gr_scratch sums;            /* linear_add: what is added */
    gr_scratch ids[GR_FLIGHTS]; /* of steps that have ended */
    gr_rope_table rope;         /* of every position seen so far */
} gr_cpu;

static inline gr_cpu *gr_cpu_of(gr_compute *c) { return (gr_cpu *)c; }

/* At least `bytes`, contents undefined. Fails with MEMORY. */
grace_status gr_scratch_reserve(gr_scratch *s, size_t bytes, const char *what);

/* run(args, task, thread) for every task, on all threads when the cost (multiplications, about) is worth waking them. Tasks write to
 * disjoint places; which thread runs which task changes nothing. */
typedef void (*gr_cpu_task)(void *args, int64_t task, int32_t thread);
void gr_cpu_for(const gr_cpu *cpu, int64_t n_tasks, int64_t cost, gr_cpu_task run, void *args);

/* ---- linear.c: a block of a weight's outputs for any number of rows ---- */
enum { GR_BLOCK_OUTS_MAX = 64, GR_WIDE_MATRICES = 2 };

/* Outputs per block of a weight, so that a widened block stays in the second-level cache and there are tasks for every thread. */
int32_t gr_block_outs(const gr_cpu *cpu, int32_t rows, int32_t cols);
/* Room for widened blocks of weights with this many columns. Fails with MEMORY. */
grace_status gr_block_reserve(gr_cpu *cpu, int32_t cols);
/* Sets everything of *t but rows; widens the block into this thread's scratch `which` (< GR_WIDE_MATRICES) when n_rows make that pay. */
void gr_block_open(const gr_cpu *cpu, int32_t thread, int32_t which, const gr_weight *w, int32_t first_out, int32_t n_outs, int32_t n_rows, gr_tile *t);
/* Rows of a part when there are n_blocks blocks: all of them, unless the blocks alone are too few for the threads. */
int32_t gr_rows_per_part(const gr_cpu *cpu, int64_t n_blocks, int32_t n_rows);

static inline int64_t gr_ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/* ---- the entries that have files of their own; compute.h says what they do ---- */
grace_status gr_cpu_norm(gr_compute *c, const gr_weight *w, float eps, const void *x, int32_t n_rows, void *out);
grace_status gr_cpu_linear(gr_compute *c, const gr_weight *w, const void *x, int32_t n_rows, void *out);
grace_status gr_cpu_linear_add(gr_compute *c, const gr_weight *w, const void *x, int32_t n_rows, void *out);
grace_status gr_cpu_logits(gr_compute *c, const gr_weight *w, const void *x, int32_t n_rows, float *out);
grace_status gr_cpu_experts(gr_compute *c, const gr_experts *e);
grace_status gr_cpu_mlp(gr_compute *c, const gr_mlp_rows *m);
grace_status gr_cpu_attention(gr_compute *c, const gr_attention *a);
grace_status gr_cpu_linear_heads(gr_compute *c, const gr_weight *w, int32_t n_heads, int32_t n_kept, const void *x, int32_t n_rows, void *out);
grace_status gr_cpu_gate(gr_compute *c, const gr_router_weights *router, const grace_gate *rule, const void *x, int32_t n_rows, int32_t top_k,
                         int32_t *ids, float *weights);
grace_status gr_cpu_sample(gr_compute *c, const float *logits, int32_t n, int32_t vocab, const gr_draws *draws, int32_t *ids);

#endif
