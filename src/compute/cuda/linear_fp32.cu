// Products of bf16 rows with an fp32 matrix (a router), in fp32. Every output is a sum of segments of 64 columns in order, each a chain of fused
// multiply-adds from 0: a row's bits do not depend on the kernel.
//
//     few     a thread a segment of an output: short chains, many loads under way
//     tiles   64 x 64 outputs a block, pieces of 32 columns in shared memory, 4 x 4 outputs a thread
#include <cuda_bf16.h>

#include "compute/cuda/linear_kernels.h"

namespace {

typedef __nv_bfloat16 bf16;

enum { SEGMENT = 64, FEW = 8, FEW_THREADS = 128, TILE = 64, PIECE = 32, THREADS = 256 };

__device__ __forceinline__ float2 widen(uint32_t pair) { return {__uint_as_float(pair << 16), __uint_as_float(pair & 0xFFFF0000u)}; }

// Grid: (outs, rows). part: sums by segment.
__global__ __launch_bounds__(FEW_THREADS) void few(gr_cuda_product p) {
    extern __shared__ float part[];
    int32_t o = blockIdx.x, row = blockIdx.y, n_segments = (p.cols + SEGMENT - 1) / SEGMENT;
    const float *w = (const float *)p.w + (int64_t)o * p.cols;
    const bf16 *x = (const bf16 *)p.x + row * p.x_step;
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

// Columns k .. k + 31 of 64 rows into shared memory, turned: by column, then row; zeros where there are none. A chain does not see the zeros: x * 0 + sum.
template <class T> __device__ void load(float (*to)[TILE + 4], const T *from, int64_t step, int32_t first, int32_t n_rows, int32_t k, int32_t n_cols) {
    for (int32_t i = threadIdx.x; i < TILE * PIECE; i += THREADS) {
        int32_t row = i / PIECE, col = i % PIECE;
        to[col][row] = first + row < n_rows && k + col < n_cols ? (float)from[(first + row) * step + k + col] : 0;
    }
}

// Grid: (tiles of rows, tiles of outputs).
__global__ __launch_bounds__(THREADS) void tiles(gr_cuda_product p) {
    __shared__ float x[PIECE][TILE + 4], w[PIECE][TILE + 4];
    int32_t first_row = blockIdx.x * TILE, first_out = blockIdx.y * TILE, r = threadIdx.x / 16 * 4, o = threadIdx.x % 16 * 4;
    float sum[4][4] = {}, total[4][4] = {};
    for (int32_t k = 0; k < p.cols; k += PIECE) {
        __syncthreads();        // nobody reads the piece before
        load(x, (const bf16 *)p.x, p.x_step, first_row, p.n_rows, k, p.cols);
        load(w, (const float *)p.w, p.cols, first_out, p.outs, k, p.cols);
        __syncthreads();        // this piece is there
        for (int32_t c = 0; c < PIECE && k + c < p.cols; c++) {
            float4 a = *(float4 *)&x[c][r], b = *(float4 *)&w[c][o];
            float xs[4] = {a.x, a.y, a.z, a.w}, ws[4] = {b.x, b.y, b.z, b.w};
#pragma unroll
            for (int i = 0; i < 16; i++) sum[i / 4][i % 4] = fmaf(ws[i % 4], xs[i / 4], sum[i / 4][i % 4]);
        }
        if ((k + PIECE) % SEGMENT == 0 || k + PIECE >= p.cols)
#pragma unroll
            for (int i = 0; i < 16; i++) total[i / 4][i % 4] += sum[i / 4][i % 4], sum[i / 4][i % 4] = 0;
    }
#pragma unroll
    for (int i = 0; i < 16; i++) {
        int32_t row = first_row + r + i / 4, out = first_out + o + i % 4;
        if (row < p.n_rows && out < p.outs) ((float *)p.out)[row * p.out_step + out] = total[i / 4][i % 4];
    }
}

}  // namespace

extern "C" grace_status gr_cuda_linear_fp32(const gr_cuda_product *p, cudaStream_t stream) {
    size_t shared = ((size_t)p->cols + SEGMENT - 1) / SEGMENT * sizeof(float);
    if (p->n_rows <= FEW) few<<<dim3(p->outs, p->n_rows), FEW_THREADS, shared, stream>>>(*p);
    else tiles<<<dim3((p->n_rows + TILE - 1) / TILE, (p->outs + TILE - 1) / TILE), THREADS, 0, stream>>>(*p);
    return gr_cuda_status(cudaGetLastError(), "linear, fp32");
}
