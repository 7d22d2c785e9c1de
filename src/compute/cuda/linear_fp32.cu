// Products of bf16 rows with an fp32 matrix (a router), in fp32. Every output is a sum of segments of 64 columns in order, each a chain of fused
// multiply-adds from 0: a row's bits do not depend on the kernel.
//
//     few     a block an output of a row, a thread a segment: short chains, many loads under way
//     many    a block 16 x 16 outputs, a thread 4 x 4 of them over every 16th segment
#include <cuda_bf16.h>

#include "compute/cuda/linear_kernels.h"
#include "compute/cuda/pdl.cuh"

namespace {

typedef __nv_bfloat16 bf16;

enum { SEGMENT = 64, FEW = 8, FEW_THREADS = 128, TILE = 16, GROUPS = 16, THREADS = TILE * TILE };

__device__ __forceinline__ float2 widen(uint32_t pair) { return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000u)}; }

// Grid: (outs, rows). part: sums by segment.
__global__ __launch_bounds__(FEW_THREADS) void few(gr_cuda_product p) {
    extern __shared__ float part[];
    int32_t o = blockIdx.x, row = blockIdx.y, n_segments = (p.cols + SEGMENT - 1) / SEGMENT;
    const float *w = (const float *)p.w + (int64_t)o * p.cols;
    const bf16 *x = (const bf16 *)p.x + row * p.x_step;
    pdl::release_next();
    pdl::wait();
    for (int32_t s = threadIdx.x; s < n_segments; s += FEW_THREADS) {
        float sum = 0;
        int32_t end = min(p.cols, (s + 1) * SEGMENT);
#pragma unroll 8
        for (int32_t k = s * SEGMENT; k < end; k += 8) {
            uint4 x8 = *(const uint4 *)(x + k);
            float4 a = *(const float4 *)(w + k), b = *(const float4 *)(w + k + 4);
            float2 x0 = widen(x8.x), x2 = widen(x8.y), x4 = widen(x8.z), x6 = widen(x8.w);
            sum = fmaf(a.x, x0.x, sum), sum = fmaf(a.y, x0.y, sum), sum = fmaf(a.z, x2.x, sum), sum = fmaf(a.w, x2.y, sum);
            sum = fmaf(b.x, x4.x, sum), sum = fmaf(b.y, x4.y, sum), sum = fmaf(b.z, x6.x, sum), sum = fmaf(b.w, x6.y, sum);
        }
        part[s] = sum;
    }
    __syncthreads();        // sums of all segments are there
    if (threadIdx.x == 0) {
        float total = 0;
        for (int32_t s = 0; s < n_segments; s++) total += part[s];
        ((float *)p.out)[row * p.out_step + o] = total;
    }
}

// sum[i][j] += 8 columns of row i of x times those of row j of w.
__device__ __forceinline__ void add_8(float (&sum)[4][4], const uint4 (&x)[4], const float4 (&w)[4][2]) {
#pragma unroll
    for (int k = 0; k < 8; k++)
#pragma unroll
        for (int i = 0; i < 16; i++) {
            float2 pair = widen((&x[i / 4].x)[k / 2]);
            sum[i / 4][i % 4] = fmaf((&w[i % 4][k / 4].x)[k % 4], k % 2 ? pair.y : pair.x, sum[i / 4][i % 4]);
        }
}

// Grid: (rows / 16, outs / 16). part: sums of 16 segments by segment, row, output. A thread folds one output; total is that of the rounds before.
__global__ __launch_bounds__(THREADS) void many(gr_cuda_product p) {
    __shared__ float part[GROUPS][TILE][TILE];
    int32_t group = threadIdx.x / GROUPS, r = threadIdx.x % 16 / 4 * 4, o = threadIdx.x % 4 * 4, n_segments = (p.cols + SEGMENT - 1) / SEGMENT;
    int32_t first_row = blockIdx.x * TILE, first_out = blockIdx.y * TILE;
    float total = 0;
    pdl::release_next();
    pdl::wait();
    for (int32_t first = 0; first < n_segments; first += GROUPS) {
        float sum[4][4] = {};
        int32_t k = (first + group) * SEGMENT, end = min(p.cols, k + SEGMENT);
        for (; k < end; k += 8) {
            uint4 x[4];
            float4 w[4][2];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                int32_t row = first_row + r + i, out = first_out + o + i;
                const float *from = (const float *)p.w + (int64_t)out * p.cols + k;
                x[i] = row < p.n_rows ? *(const uint4 *)((const bf16 *)p.x + row * p.x_step + k) : uint4{};
                w[i][0] = out < p.outs ? *(const float4 *)from : float4{}, w[i][1] = out < p.outs ? *(const float4 *)(from + 4) : float4{};
            }
            add_8(sum, x, w);
        }
        __syncthreads();        // the sums of the round before are read
#pragma unroll
        for (int i = 0; i < 16; i++) part[group][r + i / 4][o + i % 4] = sum[i / 4][i % 4];
        __syncthreads();        // sums of all segments are there
        for (int32_t g = 0; g < GROUPS && first + g < n_segments; g++) total += part[g][threadIdx.x / TILE][threadIdx.x % TILE];
    }
    int32_t row = first_row + threadIdx.x / TILE, out = first_out + threadIdx.x % TILE;
    if (row < p.n_rows && out < p.outs) ((float *)p.out)[row * p.out_step + out] = total;
}

}  // namespace

extern "C" grace_status gr_cuda_linear_fp32(const gr_cuda_product *p, bool overlap, cudaStream_t stream) {
    const dim3 tiles((unsigned)((p->n_rows + TILE - 1) / TILE), (unsigned)((p->outs + TILE - 1) / TILE));
    if (p->n_rows > FEW) pdl::launch(many, tiles, THREADS, 0, stream, overlap, *p);
    else pdl::launch(few, dim3(p->outs, p->n_rows), FEW_THREADS, ((size_t)p->cols + SEGMENT - 1) / SEGMENT * sizeof(float), stream, overlap, *p);
    return gr_cuda_status(cudaGetLastError(), "linear, fp32");
}
