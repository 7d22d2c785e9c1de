// Rows of activations, read once and written once: 16 bytes an access. Agrees with the entries of src/compute/cpu/cpu.c that are one loop. Launches
// overlap the kernel before them; weights are asked for before it ends.
#include "compute/cuda/rows.h"

#include "compute/cuda/cuda.h"
#include "compute/cuda/lanes.cuh"
#include "compute/cuda/rms.cuh"
#include "compute/cuda/pdl.cuh"

namespace {

// ---- element by element. Grid: all vectors of all rows in runs of THREADS * RUN; thread t of a block takes t, t + THREADS, ... of its run ----
enum { THREADS = 256, RUN = 4 };

struct place { int64_t row; int32_t at; bool valid; };

// Vector i, as (row, vector of the row); and the r-th of this thread.
__device__ __forceinline__ place place_at(int64_t i, int64_t n_vectors, int32_t per_row) {
    const int64_t row = i >> 32 ? i / per_row : (uint32_t)i / (uint32_t)per_row;
    return {row, (int32_t)(i - row * per_row), i < n_vectors};
}
__device__ __forceinline__ place place_of(int r, int64_t n_vectors, int32_t per_row) {
    return place_at((int64_t)blockIdx.x * (THREADS * RUN) + r * THREADS + threadIdx.x, n_vectors, per_row);
}

// An index below 0: row others[-1 - index], or, without others, zeros.
__global__ __launch_bounds__(THREADS) void copy_rows(const uint4 *from, const int32_t *index, const int32_t *others, int64_t n_vectors, int32_t per_row,
                                                     uint4 *to) {
    uint4 v[RUN];
    pdl::release_next();
    pdl::wait();
#pragma unroll
    for (int r = 0; r < RUN; r++) {
        const place p = place_of(r, n_vectors, per_row);
        int64_t row = p.valid ? index[p.row] : -1;
        if (p.valid && row < 0 && others) row = others[-1 - row];
        v[r] = row >= 0 ? from[row * per_row + p.at] : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int r = 0; r < RUN; r++) {
        const place p = place_of(r, n_vectors, per_row);
        if (p.valid) to[p.row * per_row + p.at] = v[r];
    }
}

__device__ __forceinline__ uint4 sum(uint4 x, uint4 y) {
    float a[8], b[8];
    lanes::widen(x, a), lanes::widen(y, b);
#pragma unroll
    for (int i = 0; i < 8; i++) a[i] += b[i];
    return lanes::narrow(a);
}

__global__ __launch_bounds__(THREADS) void add_all(uint4 *x, const uint4 *y, int64_t n_vectors) {
    const int64_t first = (int64_t)blockIdx.x * (THREADS * RUN) + threadIdx.x;
    uint4 a[RUN], b[RUN];
    pdl::release_next();
    pdl::wait();
#pragma unroll
    for (int r = 0; r < RUN; r++)
        if (first + r * THREADS < n_vectors) a[r] = x[first + r * THREADS], b[r] = y[first + r * THREADS];
#pragma unroll
    for (int r = 0; r < RUN; r++)
        if (first + r * THREADS < n_vectors) x[first + r * THREADS] = sum(a[r], b[r]);
}

__global__ __launch_bounds__(THREADS) void add_bias(const float *bias, int64_t n_vectors, int32_t per_row, uint4 *x, int64_t step) {
    pdl::release_next();
    pdl::wait();
#pragma unroll
    for (int r = 0; r < RUN; r++) {
        const place p = place_of(r, n_vectors, per_row);
        if (!p.valid) continue;
        uint4 *to = x + p.row * step + p.at;
        float a[8], b[8];
        lanes::widen(*to, a), lanes::load_eight(bias + (int64_t)p.at * 8, b);
#pragma unroll
        for (int i = 0; i < 8; i++) a[i] += b[i];
        *to = lanes::narrow(a);
    }
}

// The hardware's exp and division: a few units of fp32, far below the rounding to bf16.
__device__ __forceinline__ float sigmoid_times(float x, float factor) { return __fdividef(factor, 1.0f + __expf(-x)); }

// A vector of act a thread: few rows are not many, and every thread reads 64 bytes for it. Rows of gate_up are 16 floats for each vector of act.
__global__ __launch_bounds__(THREADS) void swiglu(const float *gate_up, int64_t n_vectors, int32_t per_row, int32_t block, uint4 *act) {
    const place p = place_at((int64_t)blockIdx.x * THREADS + threadIdx.x, n_vectors, per_row);
    const int32_t o = p.at * 8;
    pdl::release_next();
    pdl::wait();
    if (!p.valid) return;
    const float *from = gate_up + p.row * per_row * 16 + o / block * 2 * block + o % block;
    float gate[8], up[8];
    lanes::load_eight(from, gate), lanes::load_eight(from + block, up);
#pragma unroll
    for (int i = 0; i < 8; i++) gate[i] = sigmoid_times(gate[i], gate[i]) * up[i];
    act[p.row * per_row + p.at] = lanes::narrow(gate);
}

// ---- with a sum over the row: a warp a row where VECTORS * 32 vectors hold it, else a block a row of two vectors a thread (rms.cuh) ----
using rms::NARROW_VECTORS;
using rms::WIDE_VECTORS;
enum { ROWS_A_BLOCK = 4 };

template <bool WIDE> __device__ __forceinline__ int64_t row_of_thread(void) {
    return WIDE ? blockIdx.x : (int64_t)blockIdx.x * ROWS_A_BLOCK + threadIdx.x / 32;
}
template <bool WIDE> __device__ __forceinline__ int32_t first_vector(void) { return WIDE ? threadIdx.x : threadIdx.x % 32; }
template <bool WIDE> __device__ __forceinline__ int32_t vector_step(void) { return WIDE ? blockDim.x : 32; }

template <bool WIDE> __device__ __forceinline__ float sum_of_row(float x) {
    if (!WIDE) return lanes::sum_of_warp(x);
    __shared__ float of_warp[32];
    return lanes::sum_of_block(x, of_warp);
}

struct norm_args {
    const float *w;
    float eps;
    int32_t n_rows, width;
    uint4 *x;
    const uint4 *y;
    uint4 *out;
    int64_t x_step, out_step;       // in vectors
};

template <int VECTORS, bool WIDE> __global__ __launch_bounds__(WIDE ? 1024 : ROWS_A_BLOCK * 32) void norm_rows(norm_args a) {
    const int64_t row = row_of_thread<WIDE>();
    const int32_t n = a.width / 8;
    if (row >= a.n_rows) return;
    uint4 x[VECTORS], y[VECTORS];
    float squares = 0, w[VECTORS][8];
    pdl::release_next();
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        const int32_t at = first_vector<WIDE>() + v * vector_step<WIDE>();
        if (at < n) lanes::load_eight(a.w + (int64_t)at * 8, w[v]);
    }
    pdl::wait();
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        const int32_t at = first_vector<WIDE>() + v * vector_step<WIDE>();
        x[v] = y[v] = make_uint4(0, 0, 0, 0);
        if (at < n) x[v] = a.x[row * a.x_step + at];
        if (at < n && a.y) y[v] = a.y[row * n + at];
    }
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        const int32_t at = first_vector<WIDE>() + v * vector_step<WIDE>();
        if (a.y) x[v] = sum(x[v], y[v]);
        if (a.y && at < n) a.x[row * a.x_step + at] = x[v];
        rms::add_squares(x[v], squares);
    }
    const float scale = rms::scale_of(sum_of_row<WIDE>(squares), a.width, a.eps);
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        const int32_t at = first_vector<WIDE>() + v * vector_step<WIDE>();
        if (at < n) a.out[row * a.out_step + at] = rms::apply(x[v], scale, w[v]);
    }
}

struct scale_args { const uint4 *w, *x; int32_t n_rows, width; uint4 *y; };

template <int VECTORS, bool WIDE> __global__ __launch_bounds__(WIDE ? 1024 : ROWS_A_BLOCK * 32) void scale_rows(scale_args a) {
    const int64_t row = row_of_thread<WIDE>();
    const int32_t n = a.width / 8;
    if (row >= a.n_rows) return;
    uint4 x[VECTORS], w[VECTORS], y[VECTORS];
    float product = 0;
    pdl::release_next();
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        const int32_t at = first_vector<WIDE>() + v * vector_step<WIDE>();
        w[v] = at < n ? a.w[at] : make_uint4(0, 0, 0, 0);
    }
    pdl::wait();
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        const int32_t at = first_vector<WIDE>() + v * vector_step<WIDE>();
        x[v] = make_uint4(0, 0, 0, 0);
        if (at < n) x[v] = a.x[row * n + at], y[v] = a.y[row * n + at];
    }
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        float e[8], f[8];
        lanes::widen(x[v], e), lanes::widen(w[v], f);
#pragma unroll
        for (int i = 0; i < 8; i++) product = fmaf(e[i], f[i], product);
    }
    const float by = sigmoid_times(sum_of_row<WIDE>(product), 1);
#pragma unroll
    for (int v = 0; v < VECTORS; v++) {
        const int32_t at = first_vector<WIDE>() + v * vector_step<WIDE>();
        if (at >= n) continue;
        float e[8];
        lanes::widen(y[v], e);
#pragma unroll
        for (int i = 0; i < 8; i++) e[i] *= by;
        a.y[row * n + at] = lanes::narrow(e);
    }
}

}  // namespace

// ---- launchers ----
static unsigned runs_of(int64_t n_vectors) { return (unsigned)((n_vectors + THREADS * RUN - 1) / (THREADS * RUN)); }
static unsigned narrow_blocks(int32_t n_rows) { return (unsigned)((n_rows + ROWS_A_BLOCK - 1) / ROWS_A_BLOCK); }

static grace_status check_width(const char *what, int32_t width, int32_t most) {
    if (width < 8 || width % 8) return gr_fail(GRACE_ERR_ARG, "cuda: %s of rows of %d: expected a multiple of 8", what, width);
    if (width > most) return gr_fail(GRACE_ERR_LIMIT, "cuda: %s of rows of %d: at most %d", what, width, most);
    return GRACE_OK;
}

static grace_status check_step(const char *what, int32_t width, int64_t step) {
    if (step >= width && step % 8 == 0) return GRACE_OK;
    return gr_fail(GRACE_ERR_ARG, "cuda: %s: rows of %d elements, %lld apart: expected a multiple of 8, at least %d", what, width, (long long)step,
                   width);
}

static grace_status copy(const void *in, const int32_t *index, const int32_t *others, int32_t n_rows, int32_t width, void *out, gr_cuda_stream stream) {
    grace_status st = GRACE_OK;
    const int64_t n_vectors = (int64_t)n_rows * (width / 8);
    GR_TRY(check_width("copies", width, INT32_MAX));
    if (n_rows == 0) return GRACE_OK;
    pdl::launch(copy_rows, runs_of(n_vectors), THREADS, 0, stream, true, (const uint4 *)in, index, others, n_vectors, width / 8, (uint4 *)out);
    st = gr_cuda_status(cudaGetLastError(), "copy_rows");
done:
    return st;
}

extern "C" grace_status gr_cuda_gather(const void *in, const int32_t *index, int32_t n_rows, int32_t width, void *out, gr_cuda_stream stream) {
    return copy(in, index, NULL, n_rows, width, out, stream);
}

extern "C" grace_status gr_cuda_embed(const void *table, const int32_t *id, const int32_t *drawn, int32_t n_rows, int32_t hidden, void *out,
                                      gr_cuda_stream stream) {
    return copy(table, id, drawn, n_rows, hidden, out, stream);
}

extern "C" grace_status gr_cuda_add(void *x, const void *y, int64_t n, gr_cuda_stream stream) {
    if (n % 8) return gr_fail(GRACE_ERR_ARG, "cuda: addition of %lld elements: expected a multiple of 8", (long long)n);
    if (n == 0) return GRACE_OK;
    pdl::launch(add_all, runs_of(n / 8), THREADS, 0, stream, true, (uint4 *)x, (const uint4 *)y, n / 8);
    return gr_cuda_status(cudaGetLastError(), "add_all");
}

extern "C" grace_status gr_cuda_add_bias(const float *bias, int32_t n_rows, int32_t width, void *x, int64_t x_step, gr_cuda_stream stream) {
    grace_status st = GRACE_OK;
    const int64_t n_vectors = (int64_t)n_rows * (width / 8);
    GR_TRY(check_width("a bias", width, INT32_MAX));
    GR_TRY(check_step("a bias", width, x_step));
    if (n_rows == 0) return GRACE_OK;
    pdl::launch(add_bias, runs_of(n_vectors), THREADS, 0, stream, true, bias, n_vectors, width / 8, (uint4 *)x, x_step / 8);
    st = gr_cuda_status(cudaGetLastError(), "add_bias");
done:
    return st;
}

extern "C" grace_status gr_cuda_swiglu(const float *gate_up, int32_t n_rows, int32_t width, int32_t block, void *act, gr_cuda_stream stream) {
    grace_status st = GRACE_OK;
    const int64_t n_vectors = (int64_t)n_rows * (width / 8);
    GR_TRY(check_width("activations", width, INT32_MAX));
    GR_CHECK(block >= 8 && block % 8 == 0 && width % block == 0, GRACE_ERR_ARG, "cuda: activations of width %d in blocks of %d", width, block);
    if (n_rows == 0) return GRACE_OK;
    pdl::launch(swiglu, (unsigned)((n_vectors + THREADS - 1) / THREADS), THREADS, 0, stream, true, gate_up, n_vectors, width / 8, block, (uint4 *)act);
    st = gr_cuda_status(cudaGetLastError(), "swiglu");
done:
    return st;
}

// The kernel of `kernels` for rows of `width`: WIDE, or a warp a row of 4, 2, 1 vectors a lane.
template <class A> static void launch_by_width(void (*const kernels[4])(A), const A &args, int32_t n_rows, int32_t width, cudaStream_t stream) {
    if (width > NARROW_VECTORS * 8) pdl::launch(kernels[0], (unsigned)n_rows, (unsigned)rms::threads_of(width), 0, stream, true, args);
    else pdl::launch(kernels[width > 64 * 8 ? 1 : width > 32 * 8 ? 2 : 3], narrow_blocks(n_rows), ROWS_A_BLOCK * 32, 0, stream, true, args);
}

extern "C" grace_status gr_cuda_norm(const float *w, float eps, int32_t n_rows, int32_t width, void *x, int64_t x_step, const void *y, void *out,
                                     int64_t out_step, gr_cuda_stream stream) {
    grace_status st = GRACE_OK;
    void (*const kernels[4])(norm_args) = {norm_rows<WIDE_VECTORS, true>, norm_rows<4, false>, norm_rows<2, false>, norm_rows<1, false>};
    const norm_args a = {w, eps, n_rows, width, (uint4 *)x, (const uint4 *)y, (uint4 *)out, x_step / 8, out_step / 8};
    GR_TRY(check_width("a norm", width, GR_CUDA_WIDTH_MAX));
    GR_TRY(check_step("a norm", width, x_step));
    GR_TRY(check_step("a norm", width, out_step));
    if (n_rows == 0) return GRACE_OK;
    launch_by_width(kernels, a, n_rows, width, stream);
    st = gr_cuda_status(cudaGetLastError(), "norm_rows");
done:
    return st;
}

extern "C" grace_status gr_cuda_scale_rows(const void *w, const void *x, int32_t n_rows, int32_t hidden, void *y, gr_cuda_stream stream) {
    grace_status st = GRACE_OK;
    void (*const kernels[4])(scale_args) = {scale_rows<WIDE_VECTORS, true>, scale_rows<4, false>, scale_rows<2, false>, scale_rows<1, false>};
    const scale_args a = {(const uint4 *)w, (const uint4 *)x, n_rows, hidden, (uint4 *)y};
    GR_TRY(check_width("a scaling", hidden, GR_CUDA_WIDTH_MAX));
    if (n_rows == 0) return GRACE_OK;
    launch_by_width(kernels, a, n_rows, hidden, stream);
    st = gr_cuda_status(cudaGetLastError(), "scale_rows");
done:
    return st;
}
