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
    int32_t *claims;                                    /* HOPPER: device memory [2], tiles of up and of down that blocks claimed */
};

/* The same bits whatever the tiles. SMALL: for few rows a slot, where memory is the limit. LARGE: where arithmetic is. */
typedef enum gr_cuda_tiles { GR_CUDA_TILES_SMALL, GR_CUDA_TILES_LARGE } gr_cuda_tiles;

grace_status gr_cuda_experts_hopper(const gr_cuda_experts *e, const gr_cuda_pairs *pairs, const void *rows, void *y, gr_cuda_tiles tiles,
                                    cudaStream_t stream);
grace_status gr_cuda_experts_mma(const gr_cuda_experts *e, const gr_cuda_pairs *pairs, const void *rows, void *y, gr_cuda_tiles tiles, cudaStream_t stream);
grace_status gr_cuda_experts_plain(const gr_cuda_experts *e, const gr_cuda_pairs *pairs, const void *rows, void *y, cudaStream_t stream);

#ifdef __cplusplus
}
#endif
#endif
