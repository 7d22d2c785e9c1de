// The rules of compute/joint.h by a warp a row, a lane a choice; the tally of places lies in shared memory. About six reads that wait for each other: a
// launch's time for a step's rows. Agrees with gr_joint_place().
#include "compute/cuda/cuda.h"
#include "compute/cuda/joint.h"
#include "compute/cuda/pdl.cuh"

namespace {

enum { WARP = 32 };

// Grid: rows. Whoever starts early behind this kernel finds the gate done.
__global__ __launch_bounds__(WARP) void place(const __grid_constant__ gr_joint_tables t, const int32_t *sequence, const int32_t *position, int32_t top_k,
                                             const int32_t *ids, int32_t *slots) {
    extern __shared__ int32_t tally[];
    const int32_t row = blockIdx.x, lane = threadIdx.x;
    const int64_t first = (int64_t)row * top_k;
    gr_joint_choice own;
    for (int32_t i = lane; i < t.n_nodes * t.gpus_per_node; i += WARP) tally[i] = 0;
    pdl::wait();
    pdl::release_next();
    if (slots[first] < 0) return;       // padding: the whole warp
    __syncwarp();       // the tally is zero
    gr_joint_place_experts(&t, lane < top_k, ids + first + lane, sequence[row], position[row], &own, tally, slots + first + lane);
}

}  // namespace

extern "C" grace_status gr_cuda_joint(const gr_joint_tables *t, const gr_step_rows *rows, int32_t top_k, const int32_t *ids, int32_t *slots,
                                      gr_cuda_stream stream) {
    grace_status st = GRACE_OK;
    const int32_t n_ranks = t->n_nodes * t->gpus_per_node;
    GR_CHECK(top_k <= GR_CUDA_JOINT_TOP_K_MAX, GRACE_ERR_LIMIT, "cuda: top %d, policy joint takes up to %d", top_k, GR_CUDA_JOINT_TOP_K_MAX);
    GR_CHECK(n_ranks <= GR_CUDA_JOINT_RANKS_MAX, GRACE_ERR_LIMIT, "cuda: %d ranks, policy joint takes up to %d", n_ranks, GR_CUDA_JOINT_RANKS_MAX);
    if (rows->n == 0) return GRACE_OK;
    pdl::launch(place, (unsigned)rows->n, WARP, (size_t)n_ranks * sizeof(int32_t), stream, true, *t, rows->sequence, rows->position, top_k, ids, slots);
    st = gr_cuda_status(cudaGetLastError(), "policy joint");
done:
    return st;
}
