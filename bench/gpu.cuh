// What programs that time kernels share: the rates of this GPU, a median over repeats, a graph that is captured once and replayed.
#ifndef BENCH_GPU_CUH
#define BENCH_GPU_CUH
#include <algorithm>
#include <cstdio>
#include <cublas_v2.h>
#include <vector>

#include "cuda/device.h"

__global__ void read_all(const uint4 *from, size_t n, unsigned *sink) {
    unsigned seen = 0;
    for (size_t i = blockIdx.x * (size_t)blockDim.x + threadIdx.x; i < n; i += (size_t)gridDim.x * blockDim.x) {
        uint4 v = from[i];
        seen ^= v.x ^ v.y ^ v.z ^ v.w;
    }
    if (seen == 0x12345) *sink = seen;
}

// Median over repeats of the mean of `inner` runs, in microseconds; *spread: half the interquartile range.
template <class F> static double time_us(F run, int repeats, int inner, double *spread) {
    cudaEvent_t start, end;
    cudaEventCreate(&start), cudaEventCreate(&end);
    std::vector<double> times;
    for (int i = 0; i < 3; i++) run();
    for (int r = 0; r < repeats; r++) {
        cudaEventRecord(start);
        for (int i = 0; i < inner; i++) run();
        cudaEventRecord(end);
        cudaEventSynchronize(end);
        float ms;
        cudaEventElapsedTime(&ms, start, end);
        times.push_back(1e3 * ms / inner);
    }
    std::sort(times.begin(), times.end());
    *spread = (times[times.size() * 3 / 4] - times[times.size() / 4]) / 2;
    cudaEventDestroy(start), cudaEventDestroy(end);
    return times[times.size() / 2];
}

static double measure_read(void) {      // bytes / s
    size_t bytes = (size_t)2 << 30;
    void *data = to_device(NULL, bytes);
    unsigned *sink = (unsigned *)to_device(NULL, 4);
    cudaMemset(data, 1, bytes);
    double spread, us = time_us([&] { read_all<<<132 * 16, 512>>>((const uint4 *)data, bytes / 16, sink); }, 9, 3, &spread);
    cudaFree(data), cudaFree(sink);
    return bytes / us * 1e6;
}

static double measure_product(void) {   // operations / s
    const int n = 8192;
    cublasHandle_t h;
    must(cublasCreate(&h) == CUBLAS_STATUS_SUCCESS, "cublas");
    std::vector<uint16_t> host((size_t)n * n);
    fill_bf16(5, host.data(), host.size(), 1);
    void *a = to_device(host.data(), host.size() * 2), *b = to_device(host.data(), host.size() * 2), *c = to_device(NULL, host.size() * 2);
    float one = 1, zero = 0;
    double spread, us = time_us([&] { cublasGemmEx(h, CUBLAS_OP_T, CUBLAS_OP_N, n, n, n, &one, a, CUDA_R_16BF, n, b, CUDA_R_16BF, n, &zero, c, CUDA_R_16BF, n,
                                                  CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT); }, 7, 3, &spread);
    cudaFree(a), cudaFree(b), cudaFree(c), cublasDestroy(h);
    return 2.0 * n * n * n / us * 1e6;
}

// A step as the decode graph has it: captured once, replayed.
struct graph {
    cudaGraphExec_t exec;
    template <class F> explicit graph(F run) {
        cudaStream_t s;
        cudaGraph_t g;
        cudaStreamCreate(&s);
        run(s), cudaStreamSynchronize(s);
        cudaStreamBeginCapture(s, cudaStreamCaptureModeGlobal);
        run(s);
        cudaStreamEndCapture(s, &g);
        must(cudaGraphInstantiate(&exec, g, 0) == cudaSuccess, "graph");
        cudaGraphDestroy(g), cudaStreamDestroy(s);
    }
    ~graph() { cudaGraphExecDestroy(exec); }
};

static void print_ceilings(double read, double product) {
    cudaDeviceProp prop;
    cudaGetDeviceProperties(&prop, 0);
    printf("{\"bench\":\"gpu_ceilings\",\"device\":\"%s\",\"read_tb_s\":%.2f,\"product_tflops\":%.0f}\n", prop.name, read * 1e-12, product * 1e-12);
}
#endif
