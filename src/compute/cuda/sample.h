/* Tokens from logits on the device, by the rule of gr_cpu_sample() (src/compute/cpu/sample.c). */
#ifndef GR_COMPUTE_CUDA_SAMPLE_H
#define GR_COMPUTE_CUDA_SAMPLE_H
#include <stdint.h>

#include "base/status.h"
#include "compute/compute.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct CUstream_st *gr_cuda_stream;

enum { GR_CUDA_VOCAB_MAX = 1 << 20 };

int64_t gr_cuda_sample_scratch(int32_t n_rows_max, int32_t vocab);     /* bytes */

/* ids [n_rows] from logits [n_rows, vocab], rows `step` elements apart; draws NULL: the largest logit of every row, lowest id on ties. Else by the
 * device arrays of `draws`, row by row: weights exp((l - largest) / temperature) as the cpu has them to the bit; top_k, then top_p cut exactly (equal
 * weights by id); the token at which the running sum, in order of ids or after a cut by falling weight, passes u of the total. Differs from the cpu
 * only where u or top_p lies within rounding of a boundary. NaN, +infinity, or nothing but -infinity stores row + 1 into *flaw if it holds 0, and the
 * row's id is 0. scratch: gr_cuda_sample_scratch() bytes. */
grace_status gr_cuda_sample(const float *logits, int64_t step, int32_t n_rows, int32_t vocab, const gr_draws *draws, int32_t *ids, int32_t *flaw,
                            void *scratch, gr_cuda_stream stream);

#ifdef __cplusplus
}
#endif
#endif
