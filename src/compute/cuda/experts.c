#include "compute/cuda/experts.h"

#include "base/memory.h"

/* Rows a slot, on average, from which the large tiles win (docs/performance.md). HIDDEN_STEP, WIDTH_STEP: their outputs, whole tiles only. */
enum { MANY_ROWS = 96, HIDDEN_STEP = 256, WIDTH_STEP = 128, HOPPER = 9 };

static grace_status read_device(int32_t *n_processors) {
    grace_status st = GRACE_OK;
    int device, major;
    GR_TRY(gr_cuda_status(cudaGetDevice(&device), "current device"));
    GR_TRY(gr_cuda_status(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), "compute capability"));
    GR_CHECK(major == HOPPER, GRACE_ERR_UNSUPPORTED, "cuda: the expert kernel needs compute capability %d (Hopper), this device has %d", HOPPER, major);
    GR_TRY(gr_cuda_status(cudaDeviceGetAttribute(n_processors, cudaDevAttrMultiProcessorCount, device), "processors"));
done:
    return st;
}

static grace_status check_sizes(const gr_cuda_experts *e) {
    grace_status st = GRACE_OK;
    GR_CHECK(e->n_slots >= 1 && e->n_slots <= GR_CUDA_SLOTS_MAX, GRACE_ERR_LIMIT, "cuda: a rank hosts %d slots in a layer, the expert kernel takes 1 to %d",
             e->n_slots, GR_CUDA_SLOTS_MAX);
    GR_CHECK(e->hidden % HIDDEN_STEP == 0 && e->width % WIDTH_STEP == 0, GRACE_ERR_LIMIT,
             "cuda: hidden size %d and expert width %d: the expert kernel takes multiples of %d and %d", e->hidden, e->width, HIDDEN_STEP, WIDTH_STEP);
done:
    return st;
}

grace_status gr_cuda_experts_open(const void *gate_up, const void *down, int32_t n_slots, int32_t hidden, int32_t width, int32_t n_pairs_max,
                                  gr_cuda_experts **out) {
    grace_status st = GRACE_OK;
    gr_cuda_experts *e = NULL;
    GR_CALLOC(e, 1);
    *e = (gr_cuda_experts){.n_slots = n_slots, .hidden = hidden, .width = width, .n_pairs_max = n_pairs_max};
    GR_TRY(check_sizes(e));
    GR_TRY(read_device(&e->n_processors));
    GR_TRY(gr_cuda_status(cudaMalloc(&e->act, (size_t)n_pairs_max * (size_t)width * sizeof(uint16_t)), "activations of experts"));
    GR_TRY(gr_cuda_map_open(gate_up, (int64_t)n_slots * 2 * width, hidden, GR_CUDA_WEIGHT_BOX_ROWS, &e->up_boxes));
    GR_TRY(gr_cuda_map_open(down, (int64_t)n_slots * hidden, width, GR_CUDA_WEIGHT_BOX_ROWS, &e->down_boxes));
    GR_TRY(gr_cuda_map_open(e->act, n_pairs_max, width, GR_CUDA_PAIR_BOX_ROWS, &e->act_boxes));
    *out = e, e = NULL;
done:
    gr_cuda_experts_close(e);
    return st;
}

void gr_cuda_experts_close(gr_cuda_experts *e) {
    if (!e) return;
    cudaFree(e->act);
    free(e);
}

grace_status gr_cuda_experts_run(const gr_cuda_experts *e, const gr_cuda_pairs *pairs, const void *rows, void *y, gr_cuda_stream stream) {
    int64_t n_pairs = (int64_t)pairs->n_rows * pairs->top_k;
    GR_ASSERT(n_pairs <= e->n_pairs_max && pairs->n_slots == e->n_slots);
    if (n_pairs == 0) return GRACE_OK;
    return n_pairs < (int64_t)MANY_ROWS * e->n_slots ? gr_cuda_experts_few(e, pairs, rows, y, stream) : gr_cuda_experts_many(e, pairs, rows, y, stream);
}
