// Attention for any head dimensions: a warp a row and head, 32 positions at a time from multiples of 32 on, in order. Simple, for odd sizes and as a check.
#include <cuda_bf16.h>

#include "compute/cuda/attention_work.h"

namespace {

typedef __nv_bfloat16 bf16;

struct plain_args {
    gr_cuda_attention_step step;
    gr_cuda_attention_layer layer;
    int32_t n_heads, n_kv_heads, key_dim, value_dim;
};

__device__ float largest_of_warp(float x) {
    for (int32_t d = 16; d > 0; d /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, d));
    return x;
}

__device__ float sum_of_warp(float x) {
    for (int32_t d = 16; d > 0; d /= 2) x += __shfl_xor_sync(~0u, x, d);
    return x;
}

__device__ float dot(const float *q, const bf16 *k, int32_t n) {
    float sum = 0;
    for (int32_t i = 0; i < n; i += 8) {
        uint4 eight = *reinterpret_cast<const uint4 *>(k + i);
        const bf16 *v = reinterpret_cast<const bf16 *>(&eight);
        for (int32_t j = 0; j < 8; j++) sum = fmaf(q[i + j], __bfloat162float(v[j]), sum);
    }
    return sum;
}

// grid: (rows, heads), a warp each. Shared: the query [key_dim], sums [value_dim], weights and places of 32 positions.
__global__ __launch_bounds__(32) void attend_plainly(plain_args a) {
    extern __shared__ float query[];
    __shared__ float weight[32];
    __shared__ int64_t place[32];
    float *sums = query + a.key_dim;
    const gr_cuda_attention_layer &l = a.layer;
    const int64_t row = blockIdx.x;
    const int32_t head = blockIdx.y, kv_head = head / (a.n_heads / a.n_kv_heads), lane = threadIdx.x;
    const int32_t sequence = a.step.kv_sequence[row], position = a.step.position[row], from = l.window > 0 ? max(0, position - l.window + 1) : 0;
    if (sequence < 0) return;
    const int32_t *pages = a.step.page_table + (int64_t)sequence * a.step.pages_max;
    const bf16 *values = (const bf16 *)(l.v_pages ? l.v_pages : l.k_pages);
    const int32_t value_step = l.v_pages ? a.value_dim : a.key_dim;
    for (int32_t i = lane; i < a.key_dim; i += 32) query[i] = __bfloat162float(((const bf16 *)l.q)[row * l.q_step + head * a.key_dim + i]);
    for (int32_t i = lane; i < a.value_dim; i += 32) sums[i] = 0;
    __syncwarp();
    float top = l.sinks ? l.sinks[head] : -INFINITY, total = l.sinks ? 1.0f : 0.0f;
    for (int32_t base = from / 32 * 32; base <= position; base += 32) {
        const int32_t at = base + lane;
        const bool seen = at >= from && at <= position;
        place[lane] = seen ? ((int64_t)pages[at / GR_KV_PAGE] * GR_KV_PAGE + at % GR_KV_PAGE) * a.n_kv_heads + kv_head : -1;
        float score = seen ? l.scale * dot(query, (const bf16 *)l.k_pages + place[lane] * a.key_dim, a.key_dim) : -INFINITY;
        const float new_top = fmaxf(top, largest_of_warp(score)), old_share = expf(top - new_top);
        weight[lane] = expf(score - new_top);
        total = total * old_share + sum_of_warp(weight[lane]);
        top = new_top;
        __syncwarp();
        for (int32_t i = lane; i < a.value_dim; i += 32) {
            float sum = sums[i] * old_share;
            for (int32_t j = 0; j < 32; j++)
                if (place[j] >= 0) sum = fmaf(weight[j], __bfloat162float(values[place[j] * value_step + i]), sum);
            sums[i] = sum;
        }
        __syncwarp();
    }
    bf16 *out = (bf16 *)l.out + (row * a.n_heads + head) * a.value_dim;
    for (int32_t i = lane; i < a.value_dim; i += 32) out[i] = __float2bfloat16_rn(sums[i] / total);
}

}  // namespace

extern "C" grace_status gr_cuda_attention_plain(const gr_cuda_attention *a, const gr_cuda_attention_step *step, const gr_cuda_attention_layer *layer,
                                                cudaStream_t stream) {
    const gr_cuda_attention_sizes *s = &a->sizes;
    const size_t shared = sizeof(float) * (size_t)(s->key_dim + s->value_dim);
    attend_plainly<<<dim3((unsigned)step->n_rows, (unsigned)s->n_heads), 32, shared, stream>>>(
        {*step, *layer, s->n_heads, s->n_kv_heads, s->key_dim, s->value_dim});
    return gr_cuda_status(cudaGetLastError(), "attention_plain");
}
