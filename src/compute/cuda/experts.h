/* One layer's experts on the device, between the host's side (experts.c) and the kernels. */
#ifndef GR_COMPUTE_CUDA_EXPERTS_H
#define GR_COMPUTE_CUDA_EXPERTS_H
#include <stdbool.h>

#include "compute/cuda/cuda.h"
#include "compute/cuda/moe.h"
#ifdef __cplusplus
extern "C" {
#endif

enum { GR_CUDA_WEIGHT_BOX_ROWS = 128, GR_CUDA_PAIR_BOX_ROWS = 64 };

struct gr_cuda_experts {
    gr_cuda_experts_options options;                    /* kernels: those chosen, never AUTO */
    int32_t n_processors;
    CUtensorMap up_boxes, down_boxes, act_boxes;        /* HOPPER */
    int32_t *written;                                   /* HOPPER: [8 + tiles of rows], zero between runs */
};

/* The same result, to the rounding. Of the Hopper kernels one has tiles of 64 x 128 with a deep ring, for few rows a slot, where memory is the limit; the
 * other 128 x 256, where arithmetic is. */
grace_status gr_cuda_experts_few(const gr_cuda_experts *e, const gr_cuda_pairs *pairs, const void *rows, void *y, cudaStream_t stream);
grace_status gr_cuda_experts_many(const gr_cuda_experts *e, const gr_cuda_pairs *pairs, const void *rows, void *y, cudaStream_t stream);
grace_status gr_cuda_experts_fused(const gr_cuda_experts *e, const gr_cuda_pairs *pairs, const void *rows, const float *weight, const void *residual, void *y,
                                   void *out, int which, int n_bands, cudaStream_t stream);
grace_status gr_cuda_experts_mma(const gr_cuda_experts *e, const gr_cuda_pairs *pairs, const void *rows, void *y, bool many, cudaStream_t stream);
grace_status gr_cuda_experts_plain(const gr_cuda_experts *e, const gr_cuda_pairs *pairs, const void *rows, void *y, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
