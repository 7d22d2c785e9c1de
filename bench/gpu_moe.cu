// The kernels of an MoE layer against their floor: time of the fewest bytes and operations at rates measured in the same run.
// Prints one JSON line a case: bench_gpu_moe [--kernels auto|hopper|mma|plain] [MODEL [ROWS]]
#include <cstring>

#include "compute/cuda/experts.h"
#include "cuda/moe_case.h"
#include "gpu.cuh"

// What one case of rows costs, whole and in parts.
struct point { double us, spread; };

struct stage {
    const moe_case *c;
    int inner;
    template <class F> point operator()(F run) const {
        graph g(run);
        point p;
        p.us = time_us([&] { cudaGraphLaunch(g.exec, 0); }, 11, inner, &p.spread);
        return p;
    }
};

static double floor_of(const moe_case *c, double read, double product) {
    std::vector<bool> hit(c->n_slots);
    for (int i = 0; i < c->n_rows * c->top_k; i++) hit[c->slot[i]] = true;
    double n_hit = std::count(hit.begin(), hit.end(), true), matrix = 2.0 * c->hidden * c->width, pairs = (double)c->n_rows * c->top_k;
    return 1e6 * std::max((n_hit * 3 * matrix + 2 * 2.0 * c->n_rows * c->hidden) / read, pairs * 3 * matrix / product);
}

static const char *const tiles_names[] = {"small", "large", "paired"};

// Experts alone with each kind of tiles; the small ones not where they take many times as long.
static void bench_tiles(const moe_case *c, const stage &measure) {
    const bool hopper = !strcmp(gr_cuda_experts_kernels(c->experts), "hopper");
    for (int tiles = c->n_rows * c->top_k >= 1024 * c->n_slots; tiles <= (hopper ? GR_CUDA_TILES_PAIRED : GR_CUDA_TILES_LARGE); tiles++) {
        point p = measure([&](cudaStream_t s) {
            (hopper ? gr_cuda_experts_hopper : gr_cuda_experts_mma)(c->experts, &c->pairs, c->d_rows, c->d_y, (gr_cuda_tiles)tiles, s);
        });
        printf(",\"%s_us\":%.1f", tiles_names[tiles], p.us);
    }
}

static void bench(const char *model, const moe_case *c, double read, double product) {
    const char *kernels = gr_cuda_experts_kernels(c->experts);
    double floor_us = floor_of(c, read, product);
    stage measure = {c, floor_us > 500 ? 3 : 10};
    point whole = measure([&](cudaStream_t s) { moe_case_run(c, s); });
    point group = measure([&](cudaStream_t s) { gr_cuda_group(c->d_slot, &c->pairs, s); });
    point combine = measure([&](cudaStream_t s) { gr_cuda_combine(&c->pairs, c->d_weight, c->d_y, NULL, c->hidden, c->d_out, s); });
    point experts = measure([&](cudaStream_t s) { gr_cuda_experts_run(c->experts, &c->pairs, c->d_rows, c->d_y, s); });
    printf("{\"bench\":\"gpu_moe\",\"model\":\"%s\",\"kernels\":\"%s\",\"rows\":%d,\"median_us\":%.1f,\"spread_us\":%.1f,\"floor_us\":%.1f,\"ratio\":%.2f,"
           "\"group_us\":%.1f,\"combine_us\":%.1f,\"experts_us\":%.1f,\"experts_ratio\":%.2f", model, kernels, c->n_rows, whole.us, whole.spread, floor_us,
           whole.us / floor_us, group.us, combine.us, experts.us, experts.us / floor_us);
    if (strcmp(kernels, "plain")) bench_tiles(c, measure);
    printf("}\n");
    fflush(stdout);
}

// What a library makes of the same products on one matrix each: cuBLAS, every pair in one slot.
static void bench_library(const char *model, const moe_case *c) {
    const int32_t n_pairs = c->n_rows * c->top_k;
    void *wide;
    cublasHandle_t h;
    must(cudaMalloc(&wide, (size_t)n_pairs * 4 * c->width) == cudaSuccess, "wide");
    must(cublasCreate(&h) == CUBLAS_STATUS_SUCCESS, "cublas");
    const float one = 1, zero = 0;
    auto product = [&](const void *rows, const void *weight, void *out, int cols, int k) {
        cublasGemmEx(h, CUBLAS_OP_T, CUBLAS_OP_N, cols, n_pairs, k, &one, weight, CUDA_R_16BF, k, rows, CUDA_R_16BF, k, &zero, out, CUDA_R_16BF, cols,
                     CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    };
    double spread, ops = 2.0 * n_pairs * c->hidden * c->width;
    double up = time_us([&] { product(c->d_y, c->d_gate_up, wide, 2 * c->width, c->hidden); }, 5, 2, &spread);
    double down = time_us([&] { product(c->d_act, c->d_down, c->d_y, c->hidden, c->width); }, 5, 2, &spread);
    printf("{\"bench\":\"gpu_moe_library\",\"model\":\"%s\",\"rows\":%d,\"up_us\":%.1f,\"down_us\":%.1f,\"up_tflops\":%.0f,\"down_tflops\":%.0f}\n",
           model, c->n_rows, up, down, 2 * ops / up * 1e-6, ops / down * 1e-6);
    fflush(stdout);
    cublasDestroy(h), cudaFree(wide);
}

int main(int argc, char **argv) {
    static const struct { const char *name; int slots, width, top_k; } models[] = {
        {"olmoe", 64, 1024, 8}, {"deepseek-v2-lite", 64, 1408, 6}, {"qwen3-30b", 128, 768, 8}};
    static const int rows[] = {1, 16, 64, 256, 1024, 4096, 16384};
    static const char *const names[] = {"auto", "hopper", "mma", "plain"};
    int kernels = 0;
    if (argc > 2 && !strcmp(argv[1], "--kernels")) {
        while (kernels < 4 && strcmp(names[kernels], argv[2])) kernels++;
        must(kernels < 4, "--kernels takes auto, hopper, mma or plain");
        argc -= 2, argv += 2;
    }
    double read = measure_read(), product = measure_product();
    print_ceilings(read, product);
    for (auto &m : models) {
        if (argc > 1 && strcmp(argv[1], m.name)) continue;
        moe_case c = {};
        c.n_slots = m.slots, c.hidden = 2048, c.width = m.width, c.n_rows = rows[6], c.top_k = m.top_k, c.kernels = (gr_cuda_kernels)kernels;
        moe_case_open(&c, 23, SPREAD_EVEN);
        for (int r : rows) {
            if (argc > 2 && r != atoi(argv[2])) continue;
            c.n_rows = c.pairs.n_rows = r;
            bench(m.name, &c, read, product);
            if (r >= 4096) bench_library(m.name, &c);
        }
        moe_case_close(&c);
    }
    return 0;
}
