/* Weights made from a seed where they are used. */
#ifndef GR_COMPUTE_CUDA_RANDOM_H
#define GR_COMPUTE_CUDA_RANDOM_H
#include <stdint.h>

#include "base/status.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct CUstream_st *gr_cuda_stream;

/* to [n] bf16 = values first to first + n of (seed, scale): the bits of gr_random_bf16(), thus of gr_tensor_unpack() of a random tensor. */
grace_status gr_cuda_random_fill(void *to, int64_t first, int64_t n, uint64_t seed, float scale, gr_cuda_stream stream);

#ifdef __cplusplus
}
#endif
#endif
