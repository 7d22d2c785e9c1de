#include "compute/cuda/exchange.h"

#include <inttypes.h>
#include <string.h>

#include "compute/cuda/cuda.h"

enum { PART_BYTES = 256, SHARE_BYTES = 2 << 20, TOP_K_MAX = 32 };

/* ---- memory ---- */

static int64_t take(int64_t *at, int64_t bytes) {
    int64_t here = *at;
    *at += (bytes + PART_BYTES - 1) / PART_BYTES * PART_BYTES;
    return here;
}

gr_cuda_area gr_cuda_area_of(const gr_cuda_area_sizes *sizes) {
    const int64_t n_rows = (int64_t)sizes->n_ranks * sizes->n_rows, n_choices = n_rows * sizes->top_k, row_bytes = 2 * (int64_t)sizes->hidden;
    gr_cuda_area area = {0};
    area.flags = take(&area.bytes, 2 * GR_CUDA_NODE_MAX * GR_CUDA_FLAGS * (int64_t)sizeof(uint32_t));
    area.header = take(&area.bytes, 4 * n_choices);
    area.weight = take(&area.bytes, 4 * n_choices);
    area.slot = take(&area.bytes, 4 * n_choices);
    area.row = take(&area.bytes, n_rows * row_bytes);
    area.home = take(&area.bytes, (sizes->exact ? (int64_t)sizes->n_rows * sizes->top_k : n_rows) * row_bytes);
    return area;
}

/* A handle opens the whole block that the memory was cut from; of whole blocks, nobody else's memory is in it. */
grace_status gr_cuda_share(int64_t bytes, void **memory, void *handle) {
    grace_status st = GRACE_OK;
    cudaIpcMemHandle_t ours;
    void *made = NULL;
    const size_t whole = ((size_t)bytes + SHARE_BYTES - 1) / SHARE_BYTES * SHARE_BYTES;
    _Static_assert(sizeof ours == GR_CUDA_HANDLE_BYTES, "a handle is what CUDA says it is");
    GR_CHECK(bytes > 0, GRACE_ERR_LIMIT, "cuda: %" PRId64 " bytes to share, expected some", bytes);
    GR_TRY(gr_cuda_status(cudaMalloc(&made, whole), "memory to share"));
    GR_TRY(gr_cuda_status(cudaMemset(made, 0, whole), "memory to share"));
    GR_TRY(gr_cuda_status(cudaStreamSynchronize(NULL), "memory to share"));    /* zeroed before anyone else can write */
    GR_TRY(gr_cuda_status(cudaIpcGetMemHandle(&ours, made), "handle of shared memory"));
    memcpy(handle, &ours, sizeof ours);
    *memory = made, made = NULL;
done:
    gr_cuda_unshare(made);
    return st;
}

void gr_cuda_unshare(void *memory) {
    if (memory) cudaFree(memory);
}

grace_status gr_cuda_attach(const void *handle, void **memory) {
    grace_status st = GRACE_OK;
    cudaIpcMemHandle_t theirs;
    void *opened = NULL;
    memcpy(&theirs, handle, sizeof theirs);
    GR_TRY(gr_cuda_status(cudaIpcOpenMemHandle(&opened, theirs, cudaIpcMemLazyEnablePeerAccess), "memory of another process"));
    *memory = opened;
done:
    return st;
}

void gr_cuda_detach(void *memory) {
    if (memory) cudaIpcCloseMemHandle(memory);
}

/* ---- limits ---- */

grace_status gr_cuda_node_check(const gr_cuda_node *node) {
    grace_status st = GRACE_OK;
    const gr_cuda_area_sizes *sizes = &node->sizes;
    GR_CHECK(sizes->n_ranks >= 1 && sizes->n_ranks <= GR_CUDA_NODE_MAX, GRACE_ERR_LIMIT, "cuda: a node of %d ranks, expected 1 to %d", sizes->n_ranks,
             GR_CUDA_NODE_MAX);
    GR_CHECK(node->me >= 0 && node->me < sizes->n_ranks, GRACE_ERR_LIMIT, "cuda: local rank %d of %d", node->me, sizes->n_ranks);
    GR_CHECK(sizes->top_k >= 1 && sizes->top_k <= TOP_K_MAX, GRACE_ERR_LIMIT, "cuda: the exchange takes 1 to %d choices a row, not %d", TOP_K_MAX,
             sizes->top_k);
    GR_CHECK(sizes->hidden > 0 && sizes->hidden % 8 == 0, GRACE_ERR_LIMIT, "cuda: the exchange takes rows of a multiple of 8 values, not %d", sizes->hidden);
    GR_CHECK((int64_t)sizes->n_ranks * sizes->n_rows * sizes->top_k <= INT32_MAX, GRACE_ERR_LIMIT, "cuda: %d ranks of %d rows of %d choices, expected at "
             "most %d in all", sizes->n_ranks, sizes->n_rows, sizes->top_k, INT32_MAX);
    for (int32_t rank = 0; rank < sizes->n_ranks; rank++)
        GR_CHECK(node->area[rank], GRACE_ERR_LIMIT, "cuda: local rank %d has no area of local rank %d", node->me, rank);
    GR_CHECK(node->epoch && node->watch && node->count, GRACE_ERR_LIMIT, "cuda: local rank %d has no %s", node->me,
             !node->epoch ? "epoch" : !node->watch ? "watch" : "counts");
done:
    return st;
}
