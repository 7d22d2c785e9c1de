// What programs that time kernels share: the rates of this GPU, a median over repeats, a graph that is captured once and replayed.
#ifndef BENCH_GPU_CUH
#define BENCH_GPU_CUH
#include <algorithm>
#include <cstdio>
#include <cublas_v2.h>
#include <functional>
#include <string>
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

// A bf16 product of 8192^3 by cuBLAS.
struct large_product {
    static const int N = 8192;
    cublasHandle_t h;
    void *a, *b, *c;
    large_product() {
        std::vector<uint16_t> host((size_t)N * N);
        must(cublasCreate(&h) == CUBLAS_STATUS_SUCCESS, "cublas");
        fill_bf16(5, host.data(), host.size(), 1);
        a = to_device(host.data(), host.size() * 2), b = to_device(host.data(), host.size() * 2), c = to_device(NULL, host.size() * 2);
    }
    ~large_product() { cudaFree(a), cudaFree(b), cudaFree(c), cublasDestroy(h); }
    void run() const {
        const float one = 1, zero = 0;
        cublasGemmEx(h, CUBLAS_OP_T, CUBLAS_OP_N, N, N, N, &one, a, CUDA_R_16BF, N, b, CUDA_R_16BF, N, &zero, c, CUDA_R_16BF, N, CUBLAS_COMPUTE_32F,
                     CUBLAS_GEMM_DEFAULT);
    }
    static double operations() { return 2.0 * N * N * N; }
};

static double measure_product(const large_product &product = large_product()) {     // operations / s
    double spread, us = time_us([&] { product.run(); }, 7, 3, &spread);
    return product.operations() / us * 1e6;
}

// The multiprocessor's clock over 20 microseconds, in MHz.
__global__ void read_clock(float *mhz) {
    unsigned long long start, now;
    asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
    const long long first = clock64();
    do asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
    while (now - start < 20000);
    *mhz = 1e3f * (float)(clock64() - first) / (float)(now - start);
}

// What is timed beside others. A card under load changes its clock over tens of milliseconds: only what runs in turns sees the same one.
struct contender {
    std::string name;
    std::function<void()> run;
    std::vector<double> times, clocks;
    double us() { return middle(times, 0.5); }
    double mhz() { return middle(clocks, 0.5); }
    double spread() { return (middle(times, 0.75) - middle(times, 0.25)) / 2; }
    static double middle(std::vector<double> &of, double part) {
        std::sort(of.begin(), of.end());
        return of[(size_t)((double)of.size() * part)];
    }
};

static void time_in_turns(std::vector<contender> &all, int repeats, int inner) {
    cudaEvent_t start, end;
    float *mhz = (float *)to_device(NULL, sizeof *mhz), ms, seen;
    cudaEventCreate(&start), cudaEventCreate(&end);
    for (int r = -2; r < repeats; r++)      // two turns to warm up
        for (auto &c : all) {
            cudaEventRecord(start);
            for (int i = 0; i < inner; i++) c.run();
            cudaEventRecord(end);
            read_clock<<<1, 1>>>(mhz);
            must(cudaMemcpy(&seen, mhz, sizeof seen, cudaMemcpyDeviceToHost) == cudaSuccess, c.name.c_str());
            cudaEventElapsedTime(&ms, start, end);
            if (r >= 0) c.times.push_back(1e3 * ms / inner), c.clocks.push_back(seen);
        }
    cudaEventDestroy(start), cudaEventDestroy(end), cudaFree(mhz);
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
