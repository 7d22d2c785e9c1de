// The choice of experts from logits that another kernel made: a warp a row (gate_choice.cuh).
#include "compute/cuda/cuda.h"
#include "compute/cuda/gate_choice.cuh"
#include "compute/cuda/pdl.cuh"

namespace {

enum { WARPS = 4 };

template <int N> __global__ __launch_bounds__(WARPS * 32) void choose(gr_cuda_gate g, const float *logits, gate::rows r, gate::outputs out) {
    __shared__ gate::workspace w[WARPS];
    const int32_t row = blockIdx.x * WARPS + threadIdx.x / 32;
    pdl::release_next();
    pdl::wait();
    if (row < r.n) gate::choose_row<N>(g, logits, r, row, &w[threadIdx.x / 32], out);
}

}  // namespace

extern "C" grace_status gr_cuda_gate_check(const gr_cuda_gate *g) {
    grace_status st = GRACE_OK;
    const int32_t groups = g->rule.n_groups;
    GR_CHECK(g->n_experts >= 1 && g->n_experts <= GR_CUDA_GATE_EXPERTS_MAX, GRACE_ERR_LIMIT, "cuda: a layer has %d experts, the gate takes 1 to %d",
             g->n_experts, GR_CUDA_GATE_EXPERTS_MAX);
    GR_CHECK(groups >= 0 && (groups == 0 || (g->n_experts % groups == 0 && g->rule.top_groups >= 1 && g->rule.top_groups <= groups)), GRACE_ERR_ARG,
             "cuda: the best %d of %d groups of %d experts", g->rule.top_groups, groups, g->n_experts);
    GR_CHECK(g->top_k >= 1 && g->top_k <= (groups ? g->n_experts / groups * g->rule.top_groups : g->n_experts), GRACE_ERR_ARG,
             "cuda: top %d of %d experts", g->top_k, groups ? g->n_experts / groups * g->rule.top_groups : g->n_experts);
    GR_CHECK(g->top_k <= GR_CUDA_GATE_TOP_K_MAX, GRACE_ERR_LIMIT, "cuda: top %d, the gate takes up to %d", g->top_k, GR_CUDA_GATE_TOP_K_MAX);
done:
    return st;
}

extern "C" grace_status gr_cuda_gate_choose(const gr_cuda_gate *g, const float *logits, const int32_t *sequence, const int32_t *position,
                                            const int32_t *kv_sequence, int32_t n_rows, int32_t *ids, float *weights, int32_t *slots, int32_t *flaw,
                                            gr_cuda_stream stream) {
    grace_status st = GRACE_OK;
    const gate::rows r = {sequence, position, kv_sequence, n_rows};
    const gate::outputs out = {ids, weights, slots, flaw};
    GR_TRY(gr_cuda_gate_check(g));
    if (n_rows == 0) return GRACE_OK;
    pdl::launch(g->n_experts <= 64 ? choose<2> : g->n_experts <= 128 ? choose<4> : choose<8>, (unsigned)((n_rows + WARPS - 1) / WARPS), WARPS * 32, 0,
                stream, true, *g, logits, r, out);
    st = gr_cuda_status(cudaGetLastError(), "gate");
done:
    return st;
}
