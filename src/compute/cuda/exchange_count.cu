// Rows and entries of wires whose blocks travel whole, counted where they are: the host learns them at the end of a step.
#include "compute/cuda/cuda.h"
#include "compute/cuda/exchange.h"

namespace {

enum { THREADS = 256 };

// A block a wire and direction.
__global__ __launch_bounds__(THREADS) void count_wires(const int32_t *packed, int64_t packed_step, const int32_t *received, int32_t n, int32_t k,
                                                        unsigned long long *count) {
    const int32_t *slot = blockIdx.y == 0 ? packed + blockIdx.x * packed_step : received + (int64_t)blockIdx.x * n * k;
    unsigned long long rows = 0, entries = 0;
    for (int32_t r = threadIdx.x; r < n; r += THREADS) {
        int32_t here = 0;
        for (int32_t j = 0; j < k; j++) here += slot[(int64_t)r * k + j] >= 0;
        rows += here > 0;
        entries += here;
    }
    unsigned long long *to = count + 2 * (blockIdx.y * gridDim.x + blockIdx.x);
    if (rows) atomicAdd(&to[0], rows);
    if (entries) atomicAdd(&to[1], entries);
}

}  // namespace

extern "C" grace_status gr_cuda_count_wires(const gr_cuda_wires *wires, const int32_t *received, int32_t n, int32_t top_k, int64_t *count,
                                            gr_cuda_stream stream) {
    if (wires->n_wires == 0 || n == 0) return GRACE_OK;
    count_wires<<<dim3(wires->n_wires, 2), THREADS, 0, stream>>>(wires->slot, (int64_t)wires->capacity * top_k, received, n, top_k,
                                                                 (unsigned long long *)count);
    return gr_cuda_status(cudaGetLastError(), "counting rows on wires");
}
