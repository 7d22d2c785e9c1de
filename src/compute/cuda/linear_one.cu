// Dense products of a row or two, outside exact mode: a warp an output, its lanes along the columns, so that nothing meets but a warp and all of a matrix of
// 2048 columns is asked for at once, before the kernel waits for the one before it. Sums run in another order than linear_order.cuh's: by lane, then halves.
// Agrees with gr_cpu_linear() up to rounding.
#include "compute/cuda/linear_order.cuh"
#include "compute/cuda/pdl.cuh"
#include "compute/cuda/stream.cuh"

namespace {

enum { WARPS = 8, AHEAD = 8, PIECE = 32 * AHEAD };     /* vectors of 8 columns that a warp asks for at once */

__device__ __forceinline__ void ask(uint4 (&v)[AHEAD], const uint4 *w, int32_t first, int32_t n) {
#pragma unroll
    for (int u = 0; u < AHEAD; u++)
        if (first + 32 * u < n) v[u] = stream::read_once(w + first + 32 * u);
}

template <int ROWS> __global__ __launch_bounds__(32 * WARPS) void one(gr_cuda_product p) {
    const int32_t o = blockIdx.x * WARPS + threadIdx.x / 32, lane = threadIdx.x % 32, n = p.cols / 8;
    const uint4 *w = (const uint4 *)p.w + (int64_t)min(o, p.outs - 1) * n;
    uint4 v[AHEAD];
    float sum[ROWS] = {};
    pdl::release_next();
    ask(v, w, lane, n);
    pdl::wait();
    if (o >= p.outs) return;
    for (int32_t first = lane;;) {
#pragma unroll
        for (int u = 0; u < AHEAD; u++)
            for (int r = 0; r < ROWS; r++)
                if (first + 32 * u < n) stream::add_products(v[u], *(const uint4 *)((const order::bf16 *)p.x + r * p.x_step + (first + 32 * u) * 8), sum[r]);
        first += PIECE;
        if (first - lane >= n) break;
        ask(v, w, first, n);
    }
    for (int r = 0; r < ROWS; r++) {
        const float all = stream::sum_of_warp(sum[r]);
        const int64_t place = order::place_of(p, r, 0, o);
        if (lane == 0) order::store(p, place, all + order::addend(p, place));
    }
}

}  // namespace

extern "C" grace_status gr_cuda_linear_one(const gr_cuda_product *p, bool overlap, cudaStream_t stream) {
    pdl::launch(p->n_rows == 1 ? one<1> : one<2>, (unsigned)((p->outs + WARPS - 1) / WARPS), 32 * WARPS, 0, stream, overlap, *p);
    return gr_cuda_status(cudaGetLastError(), "linear, a row or two");
}
