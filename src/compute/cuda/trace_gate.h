/* Recorded routing in place of a gate's choice (run/trace_gate.h), from tables on the device. */
#ifndef GR_COMPUTE_CUDA_TRACE_GATE_H
#define GR_COMPUTE_CUDA_TRACE_GATE_H
#include <stdint.h>

#include "base/status.h"
#include "compute/compute.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct CUstream_st *gr_cuda_stream;

/* The entry `recall` of compute.h: ids, weights and place->slots [rows->n, top_k] of recorded layer `layer`. All pointers in the structures are device
 * memory, place->pick may be NULL: an expert's slot is its id. Padding rows (recorded below 0): experts 0 .. top_k - 1, weights 0, slots -1. */
grace_status gr_cuda_recall(const gr_recorded *r, int32_t layer, const gr_place *place, const gr_step_rows *rows, int32_t *ids, float *weights,
                            gr_cuda_stream stream);

#ifdef __cplusplus
}
#endif
#endif
