/* Backends: a table of coarse operations on backend memory.
 *
 * Contract of every entry. Pointers are to backend memory (alloc) unless it says host. Entries of an asynchronous backend queue their work in order and
 * return; download waits. Activations are float32 on cpu, bf16 on cuda; vectors of weights, logits and gate weights are float32 on both. A row's result
 * depends on that row alone: never on how many rows, which rows, how many threads or which instruction set computed it (docs/architecture.md, Modes); on
 * cuda that is promised for `exact` (docs/cuda.md). On cpu every sum of products over an index k runs in ONE canonical
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
#include "compute/joint.h"
#include "model/weights.h"

typedef struct gr_compute gr_compute;
typedef struct gr_weight gr_weight;     /* a tensor the backend can compute with; cpu borrows the mapped file */

enum { GR_KV_PAGE = 16 };               /* tokens of a KV page */
enum { GR_FLIGHTS = 2 };                /* steps that may be queued while the end of none is read */

/* What the rows of a step are; backend memory. A backend that pads (ops->padded) gets rows with kv_sequence -1 at the end: they add nothing to the
 * cache, attend to nothing and choose no slot. */
typedef struct gr_step_rows {
    int32_t n;
    const int32_t *id, *sequence, *position;    /* [n] token, sequence id, position */
    const int32_t *kv_sequence;         /* [n] row of the page table */
    const int32_t *decode;              /* [n] 1: a generated token's row; these come first */
    const int32_t *recorded;            /* [n] `recall`: the token whose choices the row takes; below 0: none, padding */
    int32_t n_made;                     /* the last of them: prompts that begin in this step, by gr_attention.made; padding may follow */
    bool has_prompt, has_decode;        /* of the others */
} gr_step_rows;

/* Latent attention in its other form, of the step's n_made last rows: every head has keys and values of its own, made from the rows' latents by the
 * halves of kv_b; the turned key is shared. What is appended to the cache is the same. The first of these rows is row 0 here. */
typedef struct gr_made {
    const gr_weight *keys, *values;     /* [n_heads * (key_dim - rope->dim), rank], [n_heads * value_dim, rank] */
    int32_t key_dim, value_dim;
    void *q;                            /* [n_made, n_heads * key_dim] projections; overwritten */
    void *k, *v;                        /* scratch for as many rows of keys and values */
    void *out;                          /* [n_made, n_heads * value_dim] */
} gr_made;

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
    void *k_pages, *v_pages;            /* this layer's cache [n_pages, GR_KV_PAGE, n_kv_heads * key_dim or value_dim]; v_pages NULL: values are the
                                         * first value_dim elements of keys */
    const gr_weight *q_norm, *k_norm;   /* NULL: none; cols == n_heads*key_dim: over the whole projection; else over the first cols of every head */
    const gr_weight *sinks;             /* NULL: none; [1, n_heads] a score beside those of the positions, without a value */
    float norm_eps, clip_qkv;           /* clip 0: none. Order: clip after norm as OLMoE does: norm(q), clip, heads, rope */
    float scale;                        /* of scores, above 0 */
    int32_t window;                     /* positions a row sees, its own included; 0: all */
    const grace_rope *rope;             /* turns the last rope->dim elements of every head of q and k */
    void *q, *k, *v;                    /* [n_rows, heads * dim] projections; overwritten. v NULL as v_pages */
    int64_t q_step, kv_step;            /* elements from row to row of q, and of k and v; 0: side by side */
    void *out;                          /* [n_rows, n_heads * value_dim] */
    gr_made made;                       /* of rows that have nothing in q and out */
} gr_attention;

typedef struct gr_mlp {
    gr_weight *gate, *up, *down;                    /* [width, hidden] x2, [hidden, width] */
    gr_weight *gate_bias, *up_bias, *down_bias;     /* [1, rows]; NULL: none */
} gr_mlp;

/* MLPs of one shape, opened together: as cpu computes with them, or packed by the backend; the other is NULL. */
typedef struct gr_mlps { int32_t n; gr_mlp *slots; void *packed; } gr_mlps;

/* An MLP of every row: a dense layer's, or the expert that all tokens use. */
typedef struct gr_mlp_rows {
    const gr_mlps *mlp;                 /* one */
    float swiglu_limit;                 /* grace_model_info */
    const gr_weight *gate;              /* [1, hidden]; NULL: none */
    int32_t n_rows;
    const void *in;                     /* [n_rows, hidden] */
    void *between;                      /* [n_rows, hidden] scratch */
    void *x;                            /* [n_rows, hidden]; neither of these */
} gr_mlp_rows;

/* Which pairs (row, slot) are computed, grouped by slot: by lists of the host, or, on a backend whose rows stay there, by what its `group` made. */
typedef struct gr_pairs gr_pairs;

/* MLPs over pairs grouped by slot: pair p of slot s computes out[p] = down(act(gate x, up x)), x = in[row_of_pair[p]]. */
typedef struct gr_experts {
    int32_t n_slots;                    /* slots of this rank */
    const gr_mlp *slots;                /* [n_slots] all of one shape */
    const void *packed;
    float swiglu_limit;                 /* grace_model_info */
    const int32_t *first_pair;          /* [n_slots + 1] */
    const int32_t *row_of_pair;         /* [n_pairs]; NULL: every row is the pair of its number */
    const gr_pairs *pairs;              /* packed: in place of these two */
    const void *shared;                 /* packed, with pairs, where takes_shared() says so: an MLP of every row; `combine` adds it. NULL: none */
    const void *in;                     /* [rows, hidden] */
    void *out;                          /* [n_pairs, hidden] */
} gr_experts;

/* Where `gate` places the choices too (packed backends): slots [n_rows, top_k]. */
typedef struct gr_place {
    const int32_t *pick;                /* [n_experts, GR_TURNS] of this layer (run/router.h) */
    int32_t layer;
    const gr_step_rows *rows;
    int32_t *slots;
} gr_place;

/* A norm on the way to what reads the rows: x / rms(x) * w, to `to` [n_rows, w.cols], where it may be read again. */
typedef struct gr_norm {
    const gr_weight *w;
    float eps;
    void *to;
} gr_norm;

/* A layer's router. */
typedef struct gr_router_weights {
    const gr_weight *w;                 /* [n_experts, hidden] */
    const gr_weight *bias, *correction; /* [1, n_experts], of logits and of choices; NULL: none */
    const gr_place *place;              /* NULL: the caller places */
    const gr_norm *norm;                /* of the rows, before the gate; NULL: none */
} gr_router_weights;

/* Choices that were recorded (run/trace_gate.h); backend memory. */
typedef struct gr_recorded {
    int32_t n_layers, top_k;
    uint16_t *experts;                  /* [n_tokens, n_layers, top_k] */
    float *weights;                     /* the same; NULL: each is `weight` */
    float weight;
} gr_recorded;

/* How rows of logits become ids: arrays [n]. */
typedef struct gr_draws {
    const float *temperature;           /* 0: the largest, lowest id on ties */
    const float *top_p;
    const int32_t *top_k;
    const double *u;                    /* gr_draw_uniform() */
} gr_draws;

/* The random number of a draw, in [0, 1): a pure function of the request's seed and the position. */
double gr_draw_uniform(uint64_t seed, int32_t position);

typedef struct gr_compute_ops {
    const char *name;
    size_t element;                     /* bytes of an activation */
    bool packs;                         /* weights are copied, experts packed, pairs made by `group`: nothing of a step comes to the host but its end */
    /* Zeroed, 64-byte aligned. */
    grace_status (*alloc)(gr_compute *c, size_t bytes, void **out);
    void (*release)(gr_compute *c, void *memory);
    grace_status (*upload)(gr_compute *c, void *to, const void *host, size_t bytes);        /* host may be reused at once */
    grace_status (*download)(gr_compute *c, void *host, const void *from, size_t bytes);
    /* What was queued up to here is a step, number `flight` < GR_FLIGHTS of those under way. n ids from backend memory, at most a draw's, are kept for its
     * finish, which waits for the step, but for nothing queued behind it, and brings them here. finish fails with NUMERIC where a gate or a draw met NaN or
     * infinity, COMM where the device is gone. */
    grace_status (*end)(gr_compute *c, int32_t flight, const int32_t *from, int32_t n);
    grace_status (*finish)(gr_compute *c, int32_t flight, int32_t *host, int32_t n);

    /* A tensor, or several of one width below each other, each with its bias [1, rows] (data NULL: none). cpu borrows the memory. */
    grace_status (*weight_open)(gr_compute *c, const grace_tensor *tensor, gr_weight **out);
    grace_status (*stack_open)(gr_compute *c, const grace_tensor *parts, const grace_tensor *biases, int32_t n, gr_weight **out);
    void (*weight_close)(gr_compute *c, gr_weight *w);
    grace_status (*mlps_open)(gr_compute *c, const gr_mlp_tensors *mlps, int32_t n, float swiglu_limit, gr_mlps *out);
    void (*mlps_close)(gr_compute *c, gr_mlps *mlps);       /* accepts a zeroed one */

    /* Rows a step of n decode rows is computed with: n, or more where the backend replays. */
    int32_t (*padded)(gr_compute *c, int32_t n_rows);
    /* run(user), which only calls entries that queue; what a backend recorded for the key (> 0; the same run, the same memory) it may replay instead. */
    grace_status (*replay)(gr_compute *c, int32_t key, grace_status (*run)(void *user), void *user);
    /* What replay would record for the key, without running it. */
    grace_status (*record)(gr_compute *c, int32_t key, grace_status (*run)(void *user), void *user);
    /* The time of what was queued since the last mark is added to *us, by the next `finish` at the latest; NULL: only begins. Not in a run that may be
     * recorded. Where entries do not queue it does nothing: the caller's clock tells. */
    void (*mark)(gr_compute *c, double *us);
    /* Before the first entry that takes rows, and when the turn of other rows comes: what follows is of these. */
    grace_status (*begin)(gr_compute *c, const gr_step_rows *rows);

    /* out[i] = table[id], the id being ids[i], or, where that is below 0, drawn[-1 - ids[i]]: what the host does not know yet */
    grace_status (*embed)(gr_compute *c, const gr_weight *table, const int32_t *ids, const int32_t *drawn, int32_t n_rows, void *out);
    /* out[i] = x[i] / rms(x[i]) * w; out may be x */
    grace_status (*norm)(gr_compute *c, const gr_weight *w, float eps, const void *x, int32_t n_rows, void *out);
    /* out [n_rows, W.rows] = x [n_rows, W.cols] W^T (+ bias) */
    grace_status (*linear)(gr_compute *c, const gr_weight *w, const void *x, int32_t n_rows, void *out);
    /* norm, then linear of what it gives by n = 1 or 2 weights, w[i] to out[i] */
    grace_status (*norm_linear)(gr_compute *c, const gr_norm *norm, gr_weight *const *w, int32_t n, const void *x, int32_t n_rows, void *const *out);
    grace_status (*linear_add)(gr_compute *c, const gr_weight *w, const void *x, int32_t n_rows, void *out);        /* out += ... */
    grace_status (*logits)(gr_compute *c, const gr_weight *w, const void *x, int32_t n_rows, float *out);           /* in float32 */
    /* The weight's rows in n_heads equal parts; part h meets the piece h of every row: out piece [rows / n_heads] = part h x piece [cols]. n_kept
     * elements behind a piece of x are copied behind its out piece. */
    grace_status (*linear_heads)(gr_compute *c, const gr_weight *w, int32_t n_heads, int32_t n_kept, const void *x, int32_t n_rows, void *out);
    /* norm, clip, rope, append k and v to the pages, causal softmax attention */
    grace_status (*attention)(gr_compute *c, const gr_attention *a);
    /* The top_k experts of every row by grace_gate, equal choices by id; ids, weights [n_rows, top_k], largest weight first, equal ones by id.
     * NaN or infinity in the logits fails with NUMERIC and names the row: at once, or in `finish`. */
    grace_status (*gate)(gr_compute *c, const gr_router_weights *router, const grace_gate *rule, const void *x, int32_t n_rows, int32_t top_k,
                         int32_t *ids, float *weights);
    /* After `gate`, in place of what it chose (and placed): the choices of rows->recorded in recorded layer `layer`. place as gate's router has it. */
    grace_status (*recall)(gr_compute *c, const gr_recorded *r, int32_t layer, const gr_place *place, const gr_step_rows *rows, int32_t *ids, float *weights);
    /* packs only. After both, of policy joint: slots [rows->n, top_k] that they placed become what compute/joint.h chooses; below 0: padding. */
    grace_status (*joint)(gr_compute *c, const gr_joint_tables *t, const gr_step_rows *rows, int32_t top_k, const int32_t *ids, int32_t *slots);
    /* packs only. The pairs of slots [n_rows, top_k] (below 0: none) by slot; valid until the next call. */
    grace_status (*group)(gr_compute *c, const int32_t *slots, int32_t n_rows, int32_t top_k, int32_t n_slots, const gr_pairs **out);
    /* packs only. x[i] += sum over the choices of row i of weight * in[its pair], in order of choice. */
    grace_status (*combine)(gr_compute *c, const gr_pairs *pairs, const float *weights, const void *in, int32_t width, void *x);
    /* packs only. Whether `experts` of so many rows takes a shared MLP along, which is less work than the two apart. */
    bool (*takes_shared)(gr_compute *c, const gr_mlps *shared, int32_t n_rows, int32_t top_k);
    grace_status (*experts)(gr_compute *c, const gr_experts *e);
    /* x[i] += MLP(in[i]), times sigmoid(gate in[i]) where there is a gate */
    grace_status (*mlp)(gr_compute *c, const gr_mlp_rows *m);
    /* out[i] = in[index[i]], rows of `width` elements */
    grace_status (*gather)(gr_compute *c, const void *in, const int32_t *index, int32_t n_rows, int32_t width, void *out);
    /* cpu only. out[i] (+)= sum over j in [first[i], first[i+1]) of weight[j] * in[index[j]], in that order, starting from 0, plain multiply then
     * add; weight NULL: all 1; then one addition to out[i] when accumulate. */
    grace_status (*sum_rows)(gr_compute *c, const float *in, const int32_t *first, const int32_t *index, const float *weight,
                             int32_t n_rows, int32_t width, bool accumulate, float *out);
    /* One id from each of n rows of logits [n, vocab]: by temperature 0 the largest; else softmax(logits / temperature) cut to top_k (0: not), then to
     * top_p, drawn by u. */
    grace_status (*sample)(gr_compute *c, const float *logits, int32_t n, int32_t vocab, const gr_draws *draws, int32_t *ids);
    void (*free)(gr_compute *c);
} gr_compute_ops;

struct gr_compute { const gr_compute_ops *ops; };

/* simd: "auto", "portable", "avx2", "avx512"; fails with UNSUPPORTED when the machine lacks it, ARG for another word. n_threads 0:
 * OpenMP's default. Weights and memory of a backend are closed and released before ops->free(). */
grace_status gr_compute_cpu_open(const char *simd, int32_t n_threads, gr_compute **out);
const char *gr_compute_cpu_simd(const gr_compute *c);       /* the level in use */
int32_t gr_compute_cpu_threads(const gr_compute *c);

/* The cuda backend on one of the GPUs this process sees: with several ranks a machine, each takes its own. Weights, pages and rows lie there in bf16. */
#define GR_CUDA_KERNEL_NAMES "auto", "hopper", "mma", "plain"       /* in the order of gr_cuda_kernels */

typedef struct gr_cuda_options {
    const grace_model_info *info;       /* borrowed for the call */
    int32_t n_rows_max;                 /* of a step */
    int32_t n_ranks;                    /* whose rows may meet at the experts here */
    int32_t local_rank;                 /* of this rank on its machine: takes GPU local_rank, modulo the GPUs there are */
    int32_t n_draws_max;                /* rows of logits at once */
    int64_t kv_tokens;                  /* of the cache */
    bool exact;                         /* a row's bits do not depend on what is computed with it */
    const char *kernels;                /* of experts and attention: one of GR_CUDA_KERNEL_NAMES */
} gr_cuda_options;

/* Fails with UNSUPPORTED (built without CUDA, no GPU, a GPU that lacks what was asked for), LIMIT (sizes no kernel takes; both numbers), ARG, MEMORY. */
grace_status gr_compute_cuda_open(const gr_cuda_options *opt, gr_compute **out);
/* Whether so much more fits; fails with MEMORY and says what is free and what to ask less of. */
typedef struct gr_cuda_needs { int64_t weights, kv, buffers, exchange; } gr_cuda_needs;     /* bytes */
grace_status gr_compute_cuda_room(gr_compute *c, const gr_cuda_needs *needs);
/* Whether its `attention` takes rows->n_made: latents, not exact (their form depends on where prompts are cut), and a kernel for the heads. */
bool gr_compute_cuda_makes(const gr_compute *c);

#endif
