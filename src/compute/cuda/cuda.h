/* What the files of the cuda backend share on the host. */
#ifndef GR_COMPUTE_CUDA_CUDA_H
#define GR_COMPUTE_CUDA_CUDA_H
#include <cuda.h>
#include <cuda_runtime_api.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/status.h"
#ifdef __cplusplus
extern "C" {
#endif

/* GRACE_OK, or MEMORY or UNSUPPORTED with "cuda: what: the driver's words". */
grace_status gr_cuda_status(cudaError_t error, const char *what);

/* The current device, below GR_CUDA_DEVICES_MAX: what is set once is set once a device. */
enum { GR_CUDA_DEVICES_MAX = 64 };
int gr_cuda_device(void);

/* Processors that kernels which move rows get for themselves, where other work runs beside them: as many fill the links (docs/performance.md). */
enum { GR_CUDA_SPARED = 16 };
static inline int32_t gr_cuda_processors(int32_t all, bool spares) { return !spares ? all : all > GR_CUDA_SPARED ? all - GR_CUDA_SPARED : 1; }

enum { GR_CUDA_BOX_COLUMNS = 64 };      /* of bf16: 128 bytes, a row of the swizzle */

/* A row-major bf16 matrix [rows, cols] as boxes of box_rows x 64 columns in the 128-byte swizzle. */
grace_status gr_cuda_map_open(const void *matrix, int64_t rows, int64_t cols, int32_t box_rows, CUtensorMap *out);

#ifdef __cplusplus
}
#endif
#endif
