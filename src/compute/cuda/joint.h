/* Policy joint on the device: what the gate placed choice by choice becomes one choice for all of a row (compute/joint.h). */
#ifndef GR_COMPUTE_CUDA_JOINT_H
#define GR_COMPUTE_CUDA_JOINT_H
#include <stdint.h>

#include "base/status.h"
#include "compute/compute.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct CUstream_st *gr_cuda_stream;

enum { GR_CUDA_JOINT_TOP_K_MAX = 32, GR_CUDA_JOINT_RANKS_MAX = 48 * 1024 / 4 };     /* a lane a choice; a tally in shared memory */

/* The entry `joint` of compute.h: ids, slots [rows->n, top_k]. All pointers in the structures are device memory. A row whose first slot is below 0 is padding
 * and stays as it is. Fails with LIMIT (top_k, ranks of the cluster). */
grace_status gr_cuda_joint(const gr_joint_tables *t, const gr_step_rows *rows, int32_t top_k, const int32_t *ids, int32_t *slots, gr_cuda_stream stream);

#ifdef __cplusplus
}
#endif
#endif
