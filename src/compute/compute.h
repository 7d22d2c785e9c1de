/* Backends: a table of coarse operations on backend memory.
 *
 * Contract of every entry. Activations are float32 on cpu. A row's result depends on that row alone: never on how many rows, which rows,
 * how many threads or which instruction set computed it (docs/architecture.md, Modes). On cpu every sum of products over an index k runs in ONE canonical
 * order, whatever the instruction set: 16 partial sums, partial j takes the products of k = j, j+16, j+32, ... in that order by fused
 * multiply-add starting from 0, missing elements of the last block are products of zeros; then the partials are folded in halves:
 * p[j] += p[j+8] (j < 8), p[j] += p[j+4] (j < 4), p[j] += p[j+2], p[0] += p[1]. Portable C, AVX2 and AVX-512 give the same bits.
 * No entry allocates in steady state; zero rows are fine. */
#ifndef GR_COMPUTE_COMPUTE_H
#define GR_COMPUTE_COMPUTE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "grace/model.h"

typedef struct gr_compute gr_compute;
typedef struct gr_weight gr_weight;     /* a tensor the backend can compute with; cpu borrows the mapped file */

enum { GR_KV_PAGE = 16 };               /* tokens of a KV page */

/* One layer's attention over n_rows rows of several sequences (ragged batch). Rows of one sequence are consecutive, positions ascending.
 * Latent attention is the same with one kv head: a key is a latent and the turned key behind it, the latent is the value too, and queries and
 * results are brought there and back by linear_heads. */
typedef struct gr_attention {
    int32_t n_rows;
    const int32_t *sequence_of_row;     /* [n_rows] index into page_table */
    const int32_t *position_of_row;     /* [n_rows] */
    const int32_t *page_table;          /* [n_sequences, pages_max] page of each 16 positions */
    int32_t pages_max;
    int32_t n_heads, n_kv_heads;
    int32_t key_dim, value_dim;         /* elements of a head of q and k, and of v and out */
    float *k_pages, *v_pages;           /* this layer's cache [n_pages, GR_KV_PAGE, n_kv_heads * key_dim or value_dim], backend memory; v_pages NULL:
                                         * values are the first value_dim elements of keys */
    const gr_weight *q_norm, *k_norm;   /* NULL: none; cols == n_heads*key_dim: over the whole projection; else over the first cols of every head */
    const gr_weight *sinks;             /* NULL: none; [1, n_heads] a score beside those of the positions, without a value */
    float norm_eps, clip_qkv;           /* clip 0: none. Order: clip after norm as OLMoE does: norm(q), clip, heads, rope */
    float scale;                        /* of scores, above 0 */
    int32_t window;                     /* positions a row sees, its own included; 0: all */
    const grace_rope *rope;             /* turns the last rope->dim elements of every head of q and k */
    float *q, *k, *v;                   /* [n_rows, heads * dim] projections; overwritten. v NULL as v_pages */
    float *out;                         /* [n_rows, n_heads * value_dim] */
} gr_attention;

/* MLPs over pairs grouped by slot: pair p of slot s computes out[p] = down(act(gate x, up x)), x = in[row_of_pair[p]]. */
typedef struct gr_experts {
    int32_t n_slots;                    /* slots of this rank */
    const struct gr_mlp *slots;         /* [n_slots] all of one shape */
    float swiglu_limit;                 /* grace_model_info */
    const int32_t *first_pair;          /* [n_slots + 1] */
    const int32_t *row_of_pair;         /* [n_pairs] */
    const float *in;                    /* [n_rows, hidden] */
    float *out;                         /* [n_pairs, hidden] */
} gr_experts;

typedef struct gr_mlp {
    gr_weight *gate, *up, *down;                    /* [width, hidden] x2, [hidden, width] */
    gr_weight *gate_bias, *up_bias, *down_bias;     /* [1, rows]; NULL: none */
} gr_mlp;

/* A layer's router. */
typedef struct gr_router_weights {
    const gr_weight *w;                 /* [n_experts, hidden] */
    const gr_weight *bias, *correction; /* [1, n_experts], of logits and of choices; NULL: none */
} gr_router_weights;

typedef struct gr_sampling { float temperature, top_p; int32_t top_k; uint64_t seed; int32_t position; } gr_sampling;

typedef struct gr_compute_ops {
    const char *name;
    /* Memory of the backend, zeroed, 64-byte aligned. */
    grace_status (*alloc)(gr_compute *c, size_t bytes, void **out);
    void (*release)(gr_compute *c, void *memory);
    grace_status (*weight_open)(gr_compute *c, const grace_tensor *tensor, gr_weight **out);
    void (*weight_close)(gr_compute *c, gr_weight *w);

    /* out[i] = table[ids[i]] */
    grace_status (*embed)(gr_compute *c, const gr_weight *table, const int32_t *ids, int32_t n_rows, float *out);
    /* out[i] = x[i] / rms(x[i]) * w; out may be x */
    grace_status (*norm)(gr_compute *c, const gr_weight *w, float eps, const float *x, int32_t n_rows, float *out);
    /* out [n_rows, W.rows] = x [n_rows, W.cols] W^T */
    grace_status (*linear)(gr_compute *c, const gr_weight *w, const float *x, int32_t n_rows, float *out);
    /* x[i] += bias, [1, width] */
    grace_status (*add_bias)(gr_compute *c, const gr_weight *bias, int32_t n_rows, float *x);
    /* The weight's rows in n_heads equal parts; part h meets the piece h of every row: out piece [rows / n_heads] = part h x piece [cols]. n_kept
     * elements behind a piece of x are copied behind its out piece. */
    grace_status (*linear_heads)(gr_compute *c, const gr_weight *w, int32_t n_heads, int32_t n_kept, const float *x, int32_t n_rows, float *out);
    /* norm, clip, rope, append k and v to the pages, causal softmax attention */
    grace_status (*attention)(gr_compute *c, const gr_attention *a);
    /* The top_k experts of every row by grace_gate, equal choices by id; ids, weights [n_rows, top_k], largest weight first, equal ones by id.
     * NaN or infinity in the logits fails with NUMERIC and names the row. */
    grace_status (*gate)(gr_compute *c, const gr_router_weights *router, const grace_gate *rule, const float *x, int32_t n_rows, int32_t top_k,
                         int32_t *ids, float *weights);
    /* y[i] *= sigmoid(w x[i]), w [1, hidden], y [n_rows, hidden] */
    grace_status (*scale_rows)(gr_compute *c, const gr_weight *w, const float *x, int32_t n_rows, float *y);
    grace_status (*experts)(gr_compute *c, const gr_experts *e);
    /* out[i] = in[index[i]], rows of `width` floats */
    grace_status (*gather)(gr_compute *c, const float *in, const int32_t *index, int32_t n_rows, int32_t width, float *out);
    /* out[i] (+)= sum over j in [first[i], first[i+1]) of weight[j] * in[index[j]], in that order, starting from 0, plain multiply then
     * add; weight NULL: all 1; then one addition to out[i] when accumulate. */
    grace_status (*sum_rows)(gr_compute *c, const float *in, const int32_t *first, const int32_t *index, const float *weight,
                             int32_t n_rows, int32_t width, bool accumulate, float *out);
    /* x[i] += y[i] */
    grace_status (*add)(gr_compute *c, float *x, const float *y, int64_t n);
    /* One id from logits [vocab]. temperature 0: the largest, lowest id on ties. Else softmax(logits / temperature) cut to top_k, then
     * to top_p, drawn with a generator that is a pure function of (seed, position). */
    grace_status (*sample)(gr_compute *c, const float *logits, int32_t vocab, const gr_sampling *s, int32_t *id);
    void (*free)(gr_compute *c);
} gr_compute_ops;

struct gr_compute { const gr_compute_ops *ops; };

/* simd: "auto", "portable", "avx2", "avx512"; fails with UNSUPPORTED when the machine lacks it, ARG for another word. n_threads 0:
 * OpenMP's default. Weights and memory of a backend are closed and released before ops->free(). */
grace_status gr_compute_cpu_open(const char *simd, int32_t n_threads, gr_compute **out);
const char *gr_compute_cpu_simd(const gr_compute *c);       /* the level in use */
int32_t gr_compute_cpu_threads(const gr_compute *c);

#endif
