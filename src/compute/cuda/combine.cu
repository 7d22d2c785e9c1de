// The sum of a token's experts. Agrees with gr_exchange's combine of a single rank.
#include "compute/cuda/experts.cuh"
#include "compute/cuda/pdl.cuh"

namespace {

// A block a row, 16 bytes a thread and turn.
__global__ void combine(experts::combination c) {
    pdl::release_next();
    pdl::wait();
    for (int32_t v = threadIdx.x; v < c.n_vectors; v += blockDim.x) experts::combine_vector(c, blockIdx.x, v);
}

}  // namespace

extern "C" grace_status gr_cuda_combine(const gr_cuda_pairs *pairs, const float *weight, const void *y, const void *residual, int32_t hidden, void *out,
                                        gr_cuda_stream stream) {
    grace_status st = GRACE_OK;
    const experts::combination c = {pairs->pair_of_choice, weight, (const uint4 *)y, (const uint4 *)residual, (uint4 *)out, pairs->n_rows, pairs->top_k, hidden / 8};
    const unsigned threads = c.n_vectors < 256 ? (unsigned)(c.n_vectors + 31) / 32 * 32 : 256;
    GR_CHECK(hidden > 0 && hidden % 8 == 0, GRACE_ERR_LIMIT, "cuda: combine takes rows of a multiple of 8 values, not %d", hidden);
    if (pairs->n_rows == 0) return GRACE_OK;
    pdl::launch(combine, (unsigned)pairs->n_rows, threads, 0, stream, true, c);
    st = gr_cuda_status(cudaGetLastError(), "combine");
done:
    return st;
}
