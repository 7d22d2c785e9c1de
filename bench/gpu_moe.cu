// The kernels of an MoE layer against their floor: time of the fewest bytes and operations at rates measured in the same run.
// Prints one JSON line a case: bench_gpu_moe [MODEL [ROWS]]
#include <algorithm>
#include <cstdio>
#include <cstring>
#include <cublas_v2.h>
#include <vector>

#include "cuda/moe_case.h"

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

static void bench(const char *model, moe_case c, double read, double product) {
    moe_case_open(&c, 23, SPREAD_EVEN);
    std::vector<bool> hit(c.n_slots);
    for (int i = 0; i < c.n_rows * c.top_k; i++) hit[c.slot[i]] = true;
    double n_hit = std::count(hit.begin(), hit.end(), true), matrix = 2.0 * c.hidden * c.width, pairs = (double)c.n_rows * c.top_k;
    double bytes = n_hit * 3 * matrix + 2 * 2.0 * c.n_rows * c.hidden, flops = pairs * 3 * matrix;
    double floor_us = 1e6 * std::max(bytes / read, flops / product), spread, spread_group, spread_experts, spread_combine;
    graph whole([&](cudaStream_t s) { moe_case_run(&c, s); });
    graph group([&](cudaStream_t s) { gr_cuda_group(c.d_slot, &c.pairs, s); });
    graph experts([&](cudaStream_t s) { gr_cuda_experts_run(c.experts, &c.pairs, c.d_rows, c.d_y, s); });
    graph combine([&](cudaStream_t s) { gr_cuda_combine(&c.pairs, c.d_weight, c.d_y, NULL, c.hidden, c.d_out, s); });
    int inner = floor_us > 500 ? 4 : 20;
    double us = time_us([&] { cudaGraphLaunch(whole.exec, 0); }, 15, inner, &spread);
    double group_us = time_us([&] { cudaGraphLaunch(group.exec, 0); }, 9, inner, &spread_group);
    double experts_us = time_us([&] { cudaGraphLaunch(experts.exec, 0); }, 9, inner, &spread_experts);
    double combine_us = time_us([&] { cudaGraphLaunch(combine.exec, 0); }, 9, inner, &spread_combine);
    must(cudaGetLastError() == cudaSuccess, model);
    printf("{\"bench\":\"gpu_moe\",\"model\":\"%s\",\"rows\":%d,\"median_us\":%.1f,\"spread_us\":%.1f,\"floor_us\":%.1f,\"ratio\":%.2f,\"group_us\":%.1f,"
           "\"experts_us\":%.1f,\"experts_ratio\":%.2f,\"combine_us\":%.1f,\"tflops\":%.0f,\"tb_s\":%.2f}\n",
           model, c.n_rows, us, spread, floor_us, us / floor_us, group_us, experts_us, experts_us / floor_us, combine_us, flops / us * 1e-6, bytes / us * 1e-6);
    fflush(stdout);
    moe_case_close(&c);
}

int main(int argc, char **argv) {
    static const struct { const char *name; int slots, width, top_k; } models[] = {
        {"olmoe", 64, 1024, 8}, {"deepseek-v2-lite", 64, 1408, 6}, {"qwen3-30b", 128, 768, 8}};
    static const int rows[] = {1, 16, 64, 256, 1024, 4096, 16384};
    double read = measure_read(), product = measure_product();
    cudaDeviceProp prop;
    cudaGetDeviceProperties(&prop, 0);
    printf("{\"bench\":\"gpu_ceilings\",\"device\":\"%s\",\"read_tb_s\":%.2f,\"product_tflops\":%.0f}\n", prop.name, read * 1e-12, product * 1e-12);
    for (int m = 0; m < 3; m++) {
        if (argc > 1 && strcmp(argv[1], models[m].name)) continue;
        for (int r : rows) {
            if (argc > 2 && r != atoi(argv[2])) continue;
            moe_case c = {};
            c.n_slots = models[m].slots, c.hidden = 2048, c.width = models[m].width, c.n_rows = r, c.top_k = models[m].top_k;
            bench(models[m].name, c, read, product);
        }
    }
    return 0;
}
