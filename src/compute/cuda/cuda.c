#include "compute/cuda/cuda.h"

#include <inttypes.h>

grace_status gr_cuda_status(cudaError_t error, const char *what) {
    if (error == cudaSuccess) return GRACE_OK;
    return gr_fail(error == cudaErrorMemoryAllocation ? GRACE_ERR_MEMORY : GRACE_ERR_UNSUPPORTED, "cuda: %s: %s", what, cudaGetErrorString(error));
}

/* The driver's encoder, found through the runtime: nothing here links with the driver, so a program starts on machines without one. */
typedef CUresult (*map_encoder)(CUtensorMap *, CUtensorMapDataType, cuuint32_t, void *, const cuuint64_t *, const cuuint64_t *, const cuuint32_t *,
                                const cuuint32_t *, CUtensorMapInterleave, CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill);

static grace_status find_encoder(map_encoder *out) {
    grace_status st = GRACE_OK;
    enum cudaDriverEntryPointQueryResult found;
    void *entry = NULL;
    GR_TRY(gr_cuda_status(cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &entry, 12000, cudaEnableDefault, &found), "cuTensorMapEncodeTiled"));
    GR_CHECK(entry && found == cudaDriverEntryPointSuccess, GRACE_ERR_UNSUPPORTED,
             "cuda: the driver has no cuTensorMapEncodeTiled, expected CUDA 12 or newer");
    *out = (map_encoder)entry;
done:
    return st;
}

grace_status gr_cuda_map_open(const void *matrix, int64_t rows, int64_t cols, int32_t box_rows, CUtensorMap *out) {
    grace_status st = GRACE_OK;
    map_encoder encode;
    const cuuint64_t sizes[2] = {(cuuint64_t)cols, (cuuint64_t)rows}, strides[1] = {(cuuint64_t)cols * 2};
    const cuuint32_t box[2] = {GR_CUDA_BOX_COLUMNS, (cuuint32_t)box_rows}, steps[2] = {1, 1};
    GR_TRY(find_encoder(&encode));
    CUresult r = encode(out, CU_TENSOR_MAP_DATA_TYPE_BFLOAT16, 2, (void *)matrix, sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                        CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
    GR_CHECK(r == CUDA_SUCCESS, GRACE_ERR_UNSUPPORTED,
             "cuda: a matrix of %" PRId64 " x %" PRId64 " at %p has no tensor map: error %d", rows, cols, matrix, (int)r);
done:
    return st;
}

int gr_cuda_device(void) {
    int device = 0;
    cudaGetDevice(&device);
    return device % GR_CUDA_DEVICES_MAX;
}
