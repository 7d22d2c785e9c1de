/* Causal attention over paged keys and values on one GPU: what compute.h's `attention` does, with bf16 activations and pages and fp32 sums. All pointers
 * in structs are device memory unless a comment says host; every call queues work on the stream, needs no number from the device and waits for nothing.
 *
 * A row's result depends on the row, its position, its sequence's cache and on `decode` alone: never on the other rows of the step, on where a prompt is
 * cut into chunks, on which pages hold the cache, or on padding. Every call gives the same bits again. */
#ifndef GR_COMPUTE_CUDA_ATTENTION_H
#define GR_COMPUTE_CUDA_ATTENTION_H
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#include "grace/model.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct CUstream_st *gr_cuda_stream;

/* What all layers of a model share, and the largest step. */
typedef struct gr_cuda_attention_sizes {
    int32_t n_heads, n_kv_heads;
    int32_t key_dim, value_dim;     /* elements of a head of q and k, and of v and out */
    bool latent;                    /* values are the first value_dim elements of keys */
    bool plain;                     /* the plain kernel, also where there is a fast one */
    int32_t n_rows_max;             /* of a step */
    int64_t kv_tokens;              /* of the cache */
    int32_t n_positions;            /* of the longest sequence */
    const grace_rope *rope;         /* host, read at open */
} gr_cuda_attention_sizes;

typedef struct gr_cuda_attention gr_cuda_attention;

/* Opens scratch for lists and partial results, and the rope table. Fails with LIMIT (dimensions no multiple of 8, heads that do not share kv heads
 * evenly, an odd number of turning elements), MEMORY, UNSUPPORTED. */
grace_status gr_cuda_attention_open(const gr_cuda_attention_sizes *sizes, gr_cuda_attention **out);
void gr_cuda_attention_close(gr_cuda_attention *a);
/* Whether these dimensions have no fast kernel on this device. */
bool gr_cuda_attention_is_plain(const gr_cuda_attention *a);

/* The rows of a step. Rows of one sequence are consecutive and their positions rise; a decode row is alone in its sequence. */
typedef struct gr_cuda_attention_step {
    int32_t n_rows;
    const int32_t *kv_sequence;     /* [n_rows] row of page_table; negative: padding */
    const int32_t *position;        /* [n_rows] */
    const int32_t *decode;          /* [n_rows] 1: the row of a generated token, 0: of a prompt */
    const int32_t *page_table;      /* [n_sequences, pages_max] page of each GR_KV_PAGE positions */
    int32_t pages_max;
    bool has_prompt, has_decode;    /* host: false where the step has no such rows */
} gr_cuda_attention_step;

/* One layer of it. */
typedef struct gr_cuda_attention_layer {
    void *k_pages, *v_pages;        /* bf16 [n_pages, GR_KV_PAGE, n_kv_heads * key_dim or value_dim]; v_pages NULL when latent */
    const float *q_norm, *k_norm;   /* NULL: none */
    int32_t q_norm_size, k_norm_size;   /* n_heads * key_dim: over the whole projection; else over the first so many elements of every head */
    const float *sinks;             /* NULL: none; [n_heads] */
    float norm_eps, clip, scale;    /* clip 0: none; scale of scores, above 0 */
    int32_t window;                 /* positions a row sees, its own included; 0: all */
    void *q, *k, *v;                /* bf16, row i at i * step elements, steps multiples of 8; q may be overwritten; v NULL when latent */
    int64_t q_step, k_step, v_step;
    void *out;                      /* bf16 [n_rows, n_heads * value_dim]; not q, k or v */
} gr_cuda_attention_layer;

/* Once a step: what the kernels below walk. */
grace_status gr_cuda_attention_lists(gr_cuda_attention *a, const gr_cuda_attention_step *step, gr_cuda_stream stream);
/* Once a layer: norm, clip, rope; q in place, k and v to the pages; zeros in out where rows are padding. */
grace_status gr_cuda_attention_prepare(const gr_cuda_attention *a, const gr_cuda_attention_step *step, const gr_cuda_attention_layer *layer,
                                       gr_cuda_stream stream);
/* Once a layer: out, after _lists of this step and _prepare of this layer. */
grace_status gr_cuda_attention_run(const gr_cuda_attention *a, const gr_cuda_attention_step *step, const gr_cuda_attention_layer *layer,
                                   gr_cuda_stream stream);

#ifdef __cplusplus
}
#endif
#endif
