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

static void bench(const char *model, const moe_case *c, double read, double product) {
    double floor_us = floor_of(c, read, product);
    stage measure = {c, floor_us > 500 ? 3 : 10};
    point whole = measure([&](cudaStream_t s) { moe_case_run(c, s); });
    point group = measure([&](cudaStream_t s) { gr_cuda_group(c->d_slot, &c->pairs, s); });
    point combine = measure([&](cudaStream_t s) { gr_cuda_combine(&c->pairs, c->d_weight, c->d_y, NULL, c->hidden, c->d_out, s); });
    printf("{\"bench\":\"gpu_moe\",\"model\":\"%s\",\"kernels\":\"%s\",\"rows\":%d,\"median_us\":%.1f,\"spread_us\":%.1f,\"floor_us\":%.1f,\"ratio\":%.2f,"
           "\"group_us\":%.1f,\"combine_us\":%.1f", model, gr_cuda_experts_kernels(c->experts), c->n_rows, whole.us, whole.spread, floor_us,
           whole.us / floor_us, group.us, combine.us);
    if (!strcmp(gr_cuda_experts_kernels(c->experts), "hopper")) {
        bool both = c->n_rows * c->top_k < 1024 * c->n_slots;
        point few = both ? measure([&](cudaStream_t s) { gr_cuda_experts_few(c->experts, &c->pairs, c->d_rows, c->d_y, s); }) : point{0, 0};
        point many = c->n_rows > 16 ? measure([&](cudaStream_t s) { gr_cuda_experts_many(c->experts, &c->pairs, c->d_rows, c->d_y, s); }) : point{0, 0};
        printf(",\"few_us\":%.1f,\"many_us\":%.1f", few.us, many.us);
    } else {
        point experts = measure([&](cudaStream_t s) { gr_cuda_experts_run(c->experts, &c->pairs, c->d_rows, c->d_y, s); });
        printf(",\"experts_us\":%.1f", experts.us);
    }
    printf("}\n");
    fflush(stdout);
}

static void bench_others(const char *model, const moe_case *c, double floor_us) {
    stage measure = {c, floor_us > 500 ? 2 : 10};
    point mma = measure([&](cudaStream_t s) { gr_cuda_experts_mma(c->experts, &c->pairs, c->d_rows, c->d_y, c->n_rows * c->top_k >= 96 * c->n_slots, s); });
    printf("{\"bench\":\"gpu_moe_others\",\"model\":\"%s\",\"rows\":%d,\"mma_us\":%.1f,\"mma_ratio\":%.2f", model, c->n_rows, mma.us, mma.us / floor_us);
    fflush(stdout);
    static const char *const names[] = {"few", "many", "peers", "staged", "staged_peers"};
    for (int which = 0; which < 5; which++)
        for (int bands = 1; bands <= (c->n_rows < 1024 ? 1 : 4); bands++) {
            point fused = measure([&](cudaStream_t s) {
                gr_cuda_group(c->d_slot, &c->pairs, s);
                gr_cuda_experts_fused(c->experts, &c->pairs, c->d_rows, c->d_weight, NULL, c->d_y, c->d_out, which, bands, s);
            });
            printf(",\"%s_%d\":[%.1f,%.2f]", names[which], bands, fused.us, fused.us / floor_us);
            fflush(stdout);
        }
    printf("}\n");
    fflush(stdout);
}

extern "C" grace_status gr_cuda_trial(const gr_cuda_experts *, const gr_cuda_pairs *, const void *, void *, int trial, cudaStream_t);

// Trials of the large tiles and cuBLAS on one matrix of the same size, in turns: the clock falls as the device gets warm.
static void bench_trials(const char *model, const moe_case *c) {
    static const char *const names[] = {"as_is",    "no_fence", "registers", "registers_prefetch", "prefetch",     "down",         "few",
                                        "many",     "fused",    "peers",     "staged",             "staged_peers", "fused_sum_4",  "staged_sum_1",
                                        "staged_sum_2", "staged_sum_4", "staged_peers_sum_4", "cublas_up", "cublas_down"};
    const int n = 19;
    double ops = 2.0 * c->n_rows * c->top_k * c->hidden * c->width, one_us;
    void *wide;
    must(cudaMalloc(&wide, (size_t)c->n_rows * c->top_k * 2 * std::max(c->hidden, 2 * c->width)) == cudaSuccess, "wide");
    cublasHandle_t h;
    cublasCreate(&h);
    const float one = 1, zero = 0;
    auto product = [&](const void *rows, const void *weight, void *out, int m, int cols, int k) {
        cublasGemmEx(h, CUBLAS_OP_T, CUBLAS_OP_N, cols, m, k, &one, weight, CUDA_R_16BF, k, rows, CUDA_R_16BF, k, &zero, out, CUDA_R_16BF, cols, CUBLAS_COMPUTE_32F,
                     CUBLAS_GEMM_DEFAULT);
    };
    auto run = [&](int i) {
        if (i < 6) gr_cuda_trial(c->experts, &c->pairs, c->d_rows, c->d_y, i, NULL);
        else if (i == 6) gr_cuda_experts_few(c->experts, &c->pairs, c->d_rows, c->d_y, NULL);
        else if (i == 7) gr_cuda_experts_many(c->experts, &c->pairs, c->d_rows, c->d_y, NULL);
        else if (i < n - 2) {
            static const int which[] = {1, 2, 3, 4, 1, 3, 3, 3, 4}, bands[] = {1, 1, 1, 1, 4, 1, 2, 4, 4};
            gr_cuda_experts_fused(c->experts, &c->pairs, c->d_rows, c->d_weight, NULL, c->d_y, i < 12 ? NULL : c->d_out, which[i - 8], bands[i - 8], NULL);
        } else if (i == n - 2) product(c->d_y, c->d_gate_up, wide, c->n_rows * c->top_k, 2 * c->width, c->hidden);
        else product(c->d_act, c->d_down, c->d_y, c->n_rows * c->top_k, c->hidden, c->width);
    };
    std::vector<double> times[n];
    for (int round = 0; round < 7; round++)
        for (int i = 0; i < n; i++)
            if (i != 6 || c->n_rows < 16384) times[i].push_back(time_us([&] { run(i); }, 1, 2, &one_us));
    printf("{\"bench\":\"gpu_moe_trials\",\"model\":\"%s\",\"rows\":%d", model, c->n_rows);
    for (int i = 0; i < n; i++) {
        if (times[i].empty()) continue;
        std::sort(times[i].begin(), times[i].end());
        double us = times[i][3], work = i == 5 || i == n - 1 ? 1 : i < 5 || i == n - 2 ? 2 : 3;
        printf(",\"%s\":[%.0f,%.0f]", names[i], us, work * ops / us * 1e-6);
    }
    printf("}\n");
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
    for (int pass = 0; pass < 2; pass++)
        for (auto &m : models) {
            if (argc > 1 && strcmp(argv[1], m.name)) continue;
            moe_case c = {};
            c.n_slots = m.slots, c.hidden = 2048, c.width = m.width, c.n_rows = rows[6], c.top_k = m.top_k, c.kernels = (gr_cuda_kernels)kernels;
            moe_case_open(&c, 23, SPREAD_EVEN);
            for (int r : rows) {
                if (argc > 2 && r != atoi(argv[2])) continue;
                c.n_rows = c.pairs.n_rows = r;
                if (pass == 0) bench(m.name, &c, read, product);
                if (pass == 0 && r >= 1024 && kernels <= GR_CUDA_KERNELS_HOPPER) bench_trials(m.name, &c);
                if (pass == 1 && kernels <= GR_CUDA_KERNELS_HOPPER) {
                    gr_cuda_group(c.d_slot, &c.pairs, NULL);
                    bench_others(m.name, &c, floor_of(&c, read, product));
                }
            }
            moe_case_close(&c);
        }
    return 0;
}
