// The kernels of an MoE layer against their floor: time of the fewest bytes and operations at rates measured in the same run.
// Prints one JSON line a case: bench_gpu_moe [--kernels auto|hopper|mma|plain] [MODEL [ROWS]]
#include <cstring>

#include "compute/cuda/experts.h"
#include "compute/cuda/experts_one.h"
#include "cuda/moe_case.h"
#include "gpu.cuh"

enum { MANY_ROWS = 4096 };      // arithmetic is the limit, for the models below

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

// cuBLAS on the same products, on one matrix each: every pair in one slot.
struct library {
    const moe_case *c;
    int n_pairs;
    void *wide;
    cublasHandle_t h;
    explicit library(const moe_case *of) : c(of), n_pairs(of->n_rows * of->top_k) {
        must(cudaMalloc(&wide, (size_t)n_pairs * 4 * c->width) == cudaSuccess, "wide");
        must(cublasCreate(&h) == CUBLAS_STATUS_SUCCESS, "cublas");
    }
    ~library() { cublasDestroy(h), cudaFree(wide); }
    void product(const void *rows, const void *weight, void *out, int cols, int k) const {
        const float one = 1, zero = 0;
        cublasGemmEx(h, CUBLAS_OP_T, CUBLAS_OP_N, cols, n_pairs, k, &one, weight, CUDA_R_16BF, k, rows, CUDA_R_16BF, k, &zero, out, CUDA_R_16BF, cols,
                     CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT);
    }
    void up() const { product(c->d_y, c->d_gate_up, wide, 2 * c->width, c->hidden); }
    void down() const { product(c->d_act, c->d_down, c->d_y, c->hidden, c->width); }
};

// Experts alone with each kind of tiles; the small ones not where they take many times as long.
static const char *const tiles_names[] = {"small", "large"};

static void add_tiles(const moe_case *c, std::vector<graph *> &graphs, std::vector<contender> &all) {
    const bool hopper = !strcmp(gr_cuda_experts_kernels(c->experts), "hopper");
    for (int tiles = c->n_rows >= MANY_ROWS ? GR_CUDA_TILES_LARGE : GR_CUDA_TILES_SMALL; tiles <= GR_CUDA_TILES_LARGE; tiles++) {
        graph *g = new graph([&](cudaStream_t s) {
            (hopper ? gr_cuda_experts_hopper : gr_cuda_experts_mma)(c->experts, &c->pairs, c->d_rows, c->d_y, (gr_cuda_tiles)tiles, s);
        });
        graphs.push_back(g);
        all.push_back({tiles_names[tiles], [g] { cudaGraphLaunch(g->exec, 0); }});
    }
}

static void bench(const char *model, const moe_case *c, const large_product &square, double read, double product) {
    const char *kernels = gr_cuda_experts_kernels(c->experts);
    const double floor_us = floor_of(c, read, product);
    const int inner = floor_us > 500 ? 3 : 10;
    const bool many = c->n_rows >= MANY_ROWS;
    stage measure = {c, inner};
    point group = measure([&](cudaStream_t s) { gr_cuda_group(c->d_slot, &c->pairs, s); });
    point combine = measure([&](cudaStream_t s) { gr_cuda_combine(&c->pairs, c->d_weight, c->d_y, NULL, c->hidden, c->d_out, s); });
    graph whole([&](cudaStream_t s) { moe_case_run(c, s); });
    graph experts([&](cudaStream_t s) { gr_cuda_experts_run(c->experts, &c->pairs, c->d_rows, c->d_y, s); });
    std::vector<graph *> graphs;
    std::vector<contender> all = {{"whole", [&] { cudaGraphLaunch(whole.exec, 0); }}, {"experts", [&] { cudaGraphLaunch(experts.exec, 0); }}};
    if (strcmp(kernels, "plain")) add_tiles(c, graphs, all);
    if (c->n_rows <= GR_CUDA_ONE_ROWS) {        // what the engine takes then: without grouping, with the sum over choices
        const gr_cuda_one one = {c->d_slot, c->d_weight, c->n_rows, c->top_k, nullptr, nullptr};
        graph *g = new graph([&](cudaStream_t s) { gr_cuda_experts_one(c->experts, &one, c->d_rows, nullptr, c->d_out, s); });
        graphs.push_back(g);
        all.push_back({"singles", [g] { cudaGraphLaunch(g->exec, 0); }});
    }
    library *lib = many ? new library(c) : NULL;
    if (many) {
        all.push_back({"library_up", [=] { lib->up(); }});
        all.push_back({"library_down", [=] { lib->down(); }});
        all.push_back({"square", [&] { square.run(); }});
    }
    time_in_turns(all, 11, inner);
    printf("{\"bench\":\"gpu_moe\",\"model\":\"%s\",\"kernels\":\"%s\",\"rows\":%d,\"median_us\":%.1f,\"spread_us\":%.1f,\"floor_us\":%.1f,\"ratio\":%.2f,"
           "\"group_us\":%.1f,\"combine_us\":%.1f,\"experts_ratio\":%.2f", model, kernels, c->n_rows, all[0].us(), all[0].spread(), floor_us,
           all[0].us() / floor_us, group.us, combine.us, all[1].us() / floor_us);
    for (size_t i = 1; i < all.size(); i++) printf(",\"%s_us\":%.1f,\"%s_mhz\":%.0f", all[i].name.c_str(), all[i].us(), all[i].name.c_str(), all[i].mhz());
    if (many) {     // the floor at the rate that a large product has beside these, in the same turns
        const double beside = square.operations() / all.back().us() * 1e6, floor_beside = floor_of(c, read, beside);
        printf(",\"square_tflops\":%.0f,\"floor_beside_us\":%.1f,\"ratio_beside\":%.2f", beside * 1e-12, floor_beside, all[0].us() / floor_beside);
    }
    printf("}\n");
    fflush(stdout);
    delete lib;
    for (graph *g : graphs) delete g;
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
    const large_product square;
    double read = measure_read(), product = measure_product(square);
    print_ceilings(read, product);
    for (auto &m : models) {
        if (argc > 1 && strcmp(argv[1], m.name)) continue;
        moe_case c = {};
        c.n_slots = m.slots, c.hidden = 2048, c.width = m.width, c.n_rows = rows[6], c.top_k = m.top_k, c.kernels = (gr_cuda_kernels)kernels;
        moe_case_open(&c, 23, SPREAD_EVEN);
        for (int r : rows) {
            if (argc > 2 && r != atoi(argv[2])) continue;
            c.n_rows = c.pairs.n_rows = r;
            bench(m.name, &c, square, read, product);
        }
        moe_case_close(&c);
    }
    return 0;
}
