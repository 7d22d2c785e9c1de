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
    int32_t made_key_dim, made_value_dim;   /* latent: of heads whose keys and values are made from latents; 0: there are none */
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
/* Whether steps may have n_made rows: there are made dimensions, and a kernel for them. */
bool gr_cuda_attention_makes(const gr_cuda_attention *a);

/* The rows of a step. Rows of one sequence are consecutive and their positions rise; a decode row is alone in its sequence. */
typedef struct gr_cuda_attention_step {
    int32_t n_rows;
    const int32_t *kv_sequence;     /* [n_rows] row of page_table; negative: padding */
    const int32_t *position;        /* [n_rows] */
    const int32_t *decode;          /* [n_rows] 1: the row of a generated token, 0: of a prompt */
    const int32_t *page_table;      /* [n_sequences, pages_max] page of each GR_KV_PAGE positions */
    int32_t pages_max;
    int32_t n_made;                 /* the last of them, with padding behind: of prompts that begin in this step, by made keys and values */
    bool has_prompt, has_decode;    /* host: false where the step has no such rows before those */
} gr_cuda_attention_step;

/* Latent attention of the n_made last rows in its other form: every head has keys and values of its own, made from the rows' latents. The first of them is
 * row 0 here. k and v are there when _run begins; _prepare leaves what to make them from in the layer's k: normed latents, with the turned keys behind. */
typedef struct gr_cuda_made {
    void *q;                        /* [n_made, n_heads * made_key_dim] projections; turned in place */
    const void *k;                  /* [n_made, n_heads * (made_key_dim - turning elements)]: a head's key goes on with the row's turned key */
    const void *v;                  /* [n_made, n_heads * made_value_dim] */
    void *out;                      /* [n_made, n_heads * made_value_dim] */
} gr_cuda_made;

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
    gr_cuda_made made;              /* of n_made rows, in place of q and out */
} gr_cuda_attention_layer;

/* Once a step: what the kernels below walk. */
grace_status gr_cuda_attention_lists(gr_cuda_attention *a, const gr_cuda_attention_step *step, gr_cuda_stream stream);
/* Once a layer: norm, clip, rope; q in place, k and v to the pages, of made rows k in place, too; zeros in out where rows are padding. */
grace_status gr_cuda_attention_prepare(const gr_cuda_attention *a, const gr_cuda_attention_step *step, const gr_cuda_attention_layer *layer,
                                       gr_cuda_stream stream);
/* Once a layer: out, after _lists of this step and _prepare of this layer. */
grace_status gr_cuda_attention_run(const gr_cuda_attention *a, const gr_cuda_attention_step *step, const gr_cuda_attention_layer *layer,
                                   gr_cuda_stream stream);

#ifdef __cplusplus
}
#endif
#endif
