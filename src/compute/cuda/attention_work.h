/* Attention on the device, between the host's side (attention.c) and the kernels (attention_*.cu). */
#ifndef GR_COMPUTE_CUDA_ATTENTION_WORK_H
#define GR_COMPUTE_CUDA_ATTENTION_WORK_H
#include "compute/compute.h"
#include "compute/cuda/attention.h"
#include "compute/cuda/cuda.h"
#ifdef __cplusplus
extern "C" {
#endif

enum { GR_CUDA_SPLIT = 256 };       /* positions a block reads for a decode row, from a multiple of it on */

/* Rows of one sequence against some of its positions, for all heads. */
typedef struct gr_cuda_work {
    int32_t row, end_row, sequence;
    int32_t first;                  /* position of the first row */
    int32_t from, to;               /* positions to read, before the window is thought of */
    int32_t split;                  /* decode: from / GR_CUDA_SPLIT */
    int32_t partial;                /* decode: where the row's split 0 lies among partial results; -1: it has one split */
} gr_cuda_work;

/* How a kernel meets the heads of one kv head: `heads` of them a block, in n_parts blocks. */
typedef struct gr_cuda_heads { int32_t heads, n_parts; } gr_cuda_heads;

typedef struct gr_cuda_list {
    gr_cuda_work *work;
    int32_t *n;
    int32_t n_max;
} gr_cuda_list;

typedef struct gr_cuda_flash gr_cuda_flash;     /* the fast kernels for some dimensions */

struct gr_cuda_attention {
    gr_cuda_attention_sizes sizes;  /* rope: NULL after open */
    int32_t rope_dim;
    bool rope_neighbours;
    float *cosine, *sine;           /* device [n_positions, rope_dim / 2] */
    const gr_cuda_flash *flash;     /* NULL: the plain kernel */
    int32_t prompt_blocks, decode_blocks;   /* that the device runs at a time */
    int32_t rows_per_tile;          /* of a prompt */
    gr_cuda_heads prompt_heads, decode_heads;
    gr_cuda_list prompt, decode;
    const gr_cuda_flash *made_flash;        /* NULL: no rows by made keys */
    int32_t made_blocks, made_rows_per_tile;
    gr_cuda_list made;
    int32_t n_partials_max;
    float *partial_out;             /* [n_partials_max, n_heads, value_dim] sums of a split, weights relative to its top */
    float *partial_sum;             /* [n_partials_max, n_heads, 2] its top score (times log2 e) and sum of weights */
    int32_t *n_done;                /* [n_partials_max, n_kv_heads * decode parts] splits of a row that are there; zero between launches */
};

/* Which fast kernels there are for a->sizes on this device: sets flash to decode_heads, and made_flash to made_rows_per_tile; NULL where there is none. */
grace_status gr_cuda_flash_open(gr_cuda_attention *a);
grace_status gr_cuda_flash_run(const gr_cuda_attention *a, const gr_cuda_attention_step *step, const gr_cuda_attention_layer *layer, cudaStream_t stream);
/* Any dimensions: a warp a row and head. */
grace_status gr_cuda_attention_plain(const gr_cuda_attention *a, const gr_cuda_attention_step *step, const gr_cuda_attention_layer *layer,
                                     cudaStream_t stream);

/* The n_made last rows of a step as a step of their own, and those before them. */
static inline gr_cuda_attention_step gr_cuda_made_step(const gr_cuda_attention_step *step) {
    gr_cuda_attention_step made = *step;
    const int32_t first = step->n_rows - step->n_made;
    made.n_rows = step->n_made, made.kv_sequence += first, made.position += first, made.decode += first;
    return made;
}

static inline gr_cuda_attention_step gr_cuda_other_step(const gr_cuda_attention_step *step) {
    gr_cuda_attention_step other = *step;
    other.n_rows -= step->n_made;
    return other;
}

#ifdef __cplusplus
}
#endif
#endif
