// Rows of a table: 6 bytes a choice read, 12 written; a launch's time.
#include "base/turn.h"
#include "compute/cuda/cuda.h"
#include "compute/cuda/pdl.cuh"
#include "compute/cuda/trace_gate.h"

namespace {

enum { THREADS = 256 };

__device__ int32_t slot_of(const gr_place &p, const gr_step_rows &rows, int32_t row, int32_t expert) {
    return p.pick ? p.pick[expert * GR_TURNS + gr_router_turn(rows.sequence[row], p.layer, expert, rows.position[row])] : expert;
}

// A thread a choice. What it reads came to the device before the step began, so it is read under the gate. Agrees with cpu_recall() and gr_router_place().
__global__ void recall(gr_recorded r, int32_t layer, gr_place place, gr_step_rows rows, int32_t *ids, float *weights) {
    const int64_t at = (int64_t)blockIdx.x * THREADS + threadIdx.x, n = (int64_t)rows.n * r.top_k, choice = at < n ? at : n - 1;
    const int32_t row = (int32_t)(choice / r.top_k), k = (int32_t)(choice % r.top_k), token = rows.recorded[row];
    const int64_t from = ((int64_t)token * r.n_layers + layer) * r.top_k + k;
    const int32_t expert = token < 0 ? k : r.experts[from], slot = token < 0 ? -1 : slot_of(place, rows, row, expert);
    const float weight = token < 0 ? 0 : r.weights ? r.weights[from] : r.weight;
    pdl::release_next();
    pdl::wait();
    if (at >= n) return;
    ids[at] = expert, weights[at] = weight, place.slots[at] = slot;
}

}  // namespace

extern "C" grace_status gr_cuda_recall(const gr_recorded *r, int32_t layer, const gr_place *place, const gr_step_rows *rows, int32_t *ids, float *weights,
                                       gr_cuda_stream stream) {
    const int64_t n = (int64_t)rows->n * r->top_k;
    if (n == 0) return GRACE_OK;
    pdl::launch(recall, (unsigned)((n + THREADS - 1) / THREADS), THREADS, 0, stream, true, *r, layer, *place, *rows, ids, weights);
    return gr_cuda_status(cudaGetLastError(), "recall");
}
