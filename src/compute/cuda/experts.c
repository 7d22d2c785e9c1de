#include "compute/cuda/experts.h"

#include <stdbool.h>
#include <string.h>

#include "base/memory.h"

/* Large tiles win from so many rows a slot on average, of hopper and of mma, and so many tiles of down for each processor (docs/performance.md). */
enum { MANY_ROWS_HOPPER = 64, MANY_ROWS_MMA = 160, MANY_TILES = 2, LARGE_TILE = 128 * 256, HOPPER = 9, AMPERE = 8, SIZE_STEP = 8, PACKED_BLOCK = 64 };

int32_t gr_cuda_gate_up_block(int32_t width) { return width % PACKED_BLOCK == 0 ? PACKED_BLOCK : width; }

static grace_status check_sizes(const gr_cuda_experts_options *o) {
    grace_status st = GRACE_OK;
    GR_CHECK(o->n_slots >= 1 && o->n_slots <= GR_CUDA_SLOTS_MAX, GRACE_ERR_LIMIT, "cuda: a rank hosts %d slots in a layer, the expert kernels take 1 to %d",
             o->n_slots, GR_CUDA_SLOTS_MAX);
    GR_CHECK(o->hidden > 0 && o->width > 0 && o->hidden % SIZE_STEP == 0 && o->width % SIZE_STEP == 0, GRACE_ERR_LIMIT,
             "cuda: hidden size %d and expert width %d: the expert kernels take multiples of %d", o->hidden, o->width, SIZE_STEP);
done:
    return st;
}

static bool hopper_fits(const gr_cuda_experts_options *o) {
    return o->width % PACKED_BLOCK == 0 && !o->gate_up_bias && !o->down_bias && o->swiglu_limit == 0;
}

static grace_status choose_kernels(gr_cuda_experts *e, int32_t major) {
    grace_status st = GRACE_OK;
    gr_cuda_experts_options *o = &e->options;
    if (o->kernels == GR_CUDA_KERNELS_AUTO)
        o->kernels = major == HOPPER && hopper_fits(o) ? GR_CUDA_KERNELS_HOPPER : major >= AMPERE ? GR_CUDA_KERNELS_MMA : GR_CUDA_KERNELS_PLAIN;
    GR_CHECK(o->kernels != GR_CUDA_KERNELS_MMA || major >= AMPERE, GRACE_ERR_UNSUPPORTED,
             "cuda: the mma expert kernels need compute capability %d or newer, this device has %d", AMPERE, major);
    if (o->kernels != GR_CUDA_KERNELS_HOPPER) return GRACE_OK;
    GR_CHECK(major == HOPPER, GRACE_ERR_UNSUPPORTED, "cuda: the hopper expert kernels need compute capability %d, this device has %d", HOPPER, major);
    GR_CHECK(hopper_fits(o), GRACE_ERR_LIMIT,
             "cuda: expert width %d, biases %s, limit %g: the hopper expert kernels take multiples of %d, no biases and no limit", o->width,
             o->gate_up_bias || o->down_bias ? "yes" : "no", (double)o->swiglu_limit, PACKED_BLOCK);
done:
    return st;
}

static grace_status read_device(int32_t *major, int32_t *n_processors) {
    grace_status st = GRACE_OK;
    int device;
    GR_TRY(gr_cuda_status(cudaGetDevice(&device), "current device"));
    GR_TRY(gr_cuda_status(cudaDeviceGetAttribute(major, cudaDevAttrComputeCapabilityMajor, device), "compute capability"));
    GR_TRY(gr_cuda_status(cudaDeviceGetAttribute(n_processors, cudaDevAttrMultiProcessorCount, device), "processors"));
done:
    return st;
}

static grace_status open_hopper(gr_cuda_experts *e) {
    grace_status st = GRACE_OK;
    const gr_cuda_experts_options *o = &e->options;
    GR_TRY(gr_cuda_map_open(o->gate_up, (int64_t)o->n_slots * 2 * o->width, o->hidden, GR_CUDA_WEIGHT_BOX_ROWS, &e->up_boxes));
    GR_TRY(gr_cuda_map_open(o->down, (int64_t)o->n_slots * o->hidden, o->width, GR_CUDA_WEIGHT_BOX_ROWS, &e->down_boxes));
    GR_TRY(gr_cuda_map_open(o->act, o->n_pairs_max, o->width, GR_CUDA_PAIR_BOX_ROWS, &e->act_boxes));
    GR_TRY(gr_cuda_status(cudaMalloc((void **)&e->claims, 2 * sizeof *e->claims), "claims of experts"));
    GR_TRY(gr_cuda_status(cudaMemset(e->claims, 0, 2 * sizeof *e->claims), "claims of experts"));
    GR_TRY(gr_cuda_status(cudaStreamSynchronize(NULL), "claims of experts"));
done:
    return st;
}

grace_status gr_cuda_experts_open(const gr_cuda_experts_options *options, gr_cuda_experts **out) {
    grace_status st = GRACE_OK;
    int32_t major;
    gr_cuda_experts *e = aligned_alloc(_Alignof(gr_cuda_experts), sizeof *e);       /* tensor maps want more than malloc gives */
    GR_CHECK(e, GRACE_ERR_MEMORY, "no memory for the experts of a layer");
    memset(e, 0, sizeof *e);
    e->options = *options;
    GR_TRY(check_sizes(&e->options));
    GR_TRY(read_device(&major, &e->n_processors));
    GR_TRY(choose_kernels(e, major));
    if (e->options.kernels == GR_CUDA_KERNELS_HOPPER) GR_TRY(open_hopper(e));
    *out = e, e = NULL;
done:
    gr_cuda_experts_close(e);
    return st;
}

void gr_cuda_experts_close(gr_cuda_experts *e) {
    if (e) cudaFree(e->claims);
    free(e);
}

const char *gr_cuda_experts_kernels(const gr_cuda_experts *e) {
    static const char *const names[] = {[GR_CUDA_KERNELS_HOPPER] = "hopper", [GR_CUDA_KERNELS_MMA] = "mma", [GR_CUDA_KERNELS_PLAIN] = "plain"};
    return names[e->options.kernels];
}

static gr_cuda_tiles tiles_for(const gr_cuda_experts *e, int64_t n_pairs, bool spares) {
    const int32_t n_processors = gr_cuda_processors(e->n_processors, spares);
    const int64_t rows = n_pairs / e->options.n_slots;
    const int64_t many = e->options.kernels == GR_CUDA_KERNELS_HOPPER ? MANY_ROWS_HOPPER : MANY_ROWS_MMA;
    if (rows < many || n_pairs * e->options.hidden < (int64_t)MANY_TILES * n_processors * LARGE_TILE) return GR_CUDA_TILES_SMALL;
    return GR_CUDA_TILES_LARGE;
}

grace_status gr_cuda_experts_run(const gr_cuda_experts *e, const gr_cuda_pairs *pairs, const void *rows, void *y, gr_cuda_stream stream) {
    const gr_cuda_experts_options *o = &e->options;
    int64_t n_pairs = (int64_t)pairs->n_rows * pairs->top_k;
    GR_ASSERT(n_pairs <= o->n_pairs_max && pairs->n_slots == o->n_slots);
    GR_ASSERT(pairs->first_pair || (pairs->n_slots == 1 && pairs->top_k == 1));
    if (n_pairs == 0) return GRACE_OK;
    switch (o->kernels) {
    case GR_CUDA_KERNELS_HOPPER: return gr_cuda_experts_hopper(e, pairs, rows, y, tiles_for(e, n_pairs, pairs->spares), stream);
    case GR_CUDA_KERNELS_MMA: return gr_cuda_experts_mma(e, pairs, rows, y, tiles_for(e, n_pairs, pairs->spares), stream);
    default: return gr_cuda_experts_plain(e, pairs, rows, y, stream);
    }
}
