// What attention does by rows, once a layer: norm, clip, rope; q in place, k and v to the pages.
#include "compute/cuda/attention_rows.cuh"
#include "compute/cuda/pdl.cuh"

namespace {

using namespace rows;

enum { ROW_THREADS = 128 };

// How q is written: from which element of a head on (the others are already what they should be), by how many lanes; whether decode rows are.
struct query_args { int32_t first, lanes; bool decode_too; };

// grid: (rows, 3: q, k, v; without v 2). Agrees with row_task() of cpu/attention.c.
template <int W> __global__ __launch_bounds__(ROW_THREADS) void prepare_rows(row_args a, query_args query) {
    pdl::release_next();
    pdl::wait();
    const int64_t row = blockIdx.x;
    const gr_cuda_attention_layer &l = a.layer;
    const int32_t sequence = a.step.kv_sequence[row], position = a.step.position[row];
    if (sequence < 0) {
        if (blockIdx.y == 0) write_zeros((bf16 *)l.out + row * a.n_heads * a.value_dim, a.n_heads * a.value_dim);
        return;
    }
    if (!query.decode_too && a.step.decode[row]) return;
    if (blockIdx.y == 0) {
        bf16 *q = (bf16 *)l.q + row * l.q_step;
        write_heads<W>(a, {q, a.n_heads, 0, a.n_heads, {l.q_norm, l.q_norm_size, l.norm_eps}, query.first, query.lanes}, position, q, a.key_dim);
        return;
    }
    const int64_t place = place_of(a, sequence, position);
    const int32_t k_width = a.n_kv_heads * a.key_dim, v_width = a.n_kv_heads * a.value_dim;
    if (blockIdx.y == 1)
        write_heads<W>(a, {(const bf16 *)l.k + row * l.k_step, a.n_kv_heads, 0, a.n_kv_heads, {l.k_norm, l.k_norm_size, l.norm_eps}, 0, a.lanes}, position,
                       (bf16 *)l.k_pages + place * k_width, a.key_dim);
    else copy_values((const bf16 *)l.v + row * l.v_step, v_width, l.clip, (bf16 *)l.v_pages + place * v_width);
}

}  // namespace

extern "C" grace_status gr_cuda_attention_prepare(const gr_cuda_attention *a, const gr_cuda_attention_step *step, const gr_cuda_attention_layer *layer,
                                                  gr_cuda_stream stream) {
    const gr_cuda_attention_sizes *s = &a->sizes;
    const bool wide = is_wide(a), in_run = gr_cuda_flash_prepares(a, step->n_rows);
    const int32_t q_first = layer->q_norm || layer->clip > 0 ? 0 : s->key_dim - a->rope_dim;
    const query_args query = {q_first, lanes_for(a, q_first, wide ? 8 : 2), !in_run};
    if (step->n_rows == 0 || (in_run && step->has_decode && !step->has_prompt)) return GRACE_OK;
    pdl::launch(wide ? prepare_rows<8> : prepare_rows<2>, dim3((unsigned)step->n_rows, s->latent ? 2 : 3), ROW_THREADS, 0, stream, true,
                args_of(a, step, layer), query);
    return gr_cuda_status(cudaGetLastError(), "attention_prepare");
}
