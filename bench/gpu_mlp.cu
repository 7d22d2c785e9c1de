// An MLP of every row (dense layers, shared experts) by the ways that src/compute/cuda/mlp.c has for more than a row or two, against its floor: time of the
// fewest bytes and operations at rates measured in the same run. A graph of MLPs that go round over copies of the weights, more of them than the cache holds;
// the time is of one, added to the stream. Prints one JSON line a case: bench_gpu_mlp [ROWS]
#include "compute/cuda/experts.h"
#include "compute/cuda/linear.h"
#include "compute/cuda/rows.h"
#include "gpu.cuh"

enum { ROWS_MAX = 1024, COPIES_BYTES = 320 << 20 };

struct shape { const char *name; int hidden, width; };

struct copy { gr_cuda_experts *experts; gr_cuda_matrix gate_up, down; };

// One shape's copies, and the memory of a run.
struct world {
    shape s;
    std::vector<copy> copies;
    gr_cuda_linears *linears;
    char *weights, *in, *x, *between, *act, *sums;

    explicit world(const shape &of) : s(of) {
        const size_t matrix = (size_t)s.hidden * s.width * 2, one = 3 * matrix, rows = (size_t)ROWS_MAX * s.hidden * 2;
        const int n = (int)std::max<size_t>(2, COPIES_BYTES / one);
        std::vector<uint16_t> host(one / 2);
        fill_bf16(3, host.data(), host.size(), 0.02f);
        weights = (char *)to_device(NULL, n * one), in = (char *)to_device(host.data(), rows), x = (char *)to_device(host.data(), rows);
        between = (char *)to_device(NULL, rows), act = (char *)to_device(NULL, (size_t)ROWS_MAX * s.width * 2);
        sums = (char *)to_device(NULL, (size_t)ROWS_MAX * s.width * 8);
        must(!gr_cuda_linears_open(false, true, &linears), "linears");
        for (int i = 0; i < n; i++) {
            char *w = weights + i * one;
            must(cudaMemcpy(w, host.data(), one, cudaMemcpyHostToDevice) == cudaSuccess, "fill");
            gr_cuda_experts_options o = {};
            o.n_slots = 1, o.hidden = s.hidden, o.width = s.width, o.gate_up = w, o.down = w + 2 * matrix, o.act = act, o.n_pairs_max = ROWS_MAX;
            copy c = {NULL, {w, 2 * s.width, s.hidden, false}, {w + 2 * matrix, s.hidden, s.width, false}};
            must(!gr_cuda_experts_open(&o, &c.experts), "experts");
            copies.push_back(c);
        }
    }
    ~world() {
        for (copy &c : copies) gr_cuda_experts_close(c.experts);
        gr_cuda_linears_close(linears);
        for (char *p : {weights, in, x, between, act, sums}) cudaFree(p);
    }
    void grouped(const copy &c, int n, cudaStream_t stream) const {
        gr_cuda_pairs every = {};
        every.n_slots = 1, every.n_rows = n, every.top_k = 1;
        must(!gr_cuda_experts_run(c.experts, &every, in, between, stream), "experts");
        must(!gr_cuda_add(x, between, (int64_t)n * s.hidden, stream), "add");
    }
    void products(const copy &c, int n, cudaStream_t stream) const {
        must(!gr_cuda_linear(linears, &c.gate_up, in, s.hidden, n, false, sums, 2 * s.width, true, stream), "gate and up");
        must(!gr_cuda_swiglu((const float *)sums, n, s.width, gr_cuda_gate_up_block(s.width), act, stream), "swiglu");
        must(!gr_cuda_linear(linears, &c.down, act, s.width, n, true, x, s.hidden, false, stream), "down");
    }
};

static void bench(const world &w, int rows, double read, double product) {
    const int n = (int)w.copies.size();
    graph grouped([&](cudaStream_t s) { for (const copy &c : w.copies) w.grouped(c, rows, s); });
    graph products([&](cudaStream_t s) { for (const copy &c : w.copies) w.products(c, rows, s); });
    std::vector<contender> all = {{"grouped", [&] { cudaGraphLaunch(grouped.exec, 0); }}, {"products", [&] { cudaGraphLaunch(products.exec, 0); }}};
    time_in_turns(all, 11, 3);
    must(cudaGetLastError() == cudaSuccess, w.s.name);
    const double matrices = 3.0 * w.s.hidden * w.s.width, bytes = 2 * matrices + 3 * 2.0 * rows * w.s.hidden;
    const double floor_us = 1e6 * std::max(bytes / read, 2 * matrices * rows / product);
    printf("{\"bench\":\"gpu_mlp\",\"mlp\":\"%s\",\"hidden\":%d,\"width\":%d,\"rows\":%d,\"floor_us\":%.1f", w.s.name, w.s.hidden, w.s.width, rows, floor_us);
    for (contender &c : all)
        printf(",\"%s_us\":%.2f,\"%s_spread_us\":%.2f,\"%s_ratio\":%.2f", c.name.c_str(), c.us() / n, c.name.c_str(), c.spread() / n, c.name.c_str(),
               c.us() / n / floor_us);
    printf("}\n");
    fflush(stdout);
}

int main(int argc, char **argv) {
    static const shape shapes[] = {{"deepseek-v2-lite shared", 2048, 2816}, {"deepseek-v2-lite dense", 2048, 10944}, {"qwen2-moe shared", 2048, 5632},
                                   {"deepseek-v3 shared", 7168, 2048}};
    static const int rows[] = {3, 8, 16, 17, 32, 64, 128, 256, 512, 768, 1024};
    const double read = measure_read(), product = measure_product();
    print_ceilings(read, product);
    for (const shape &s : shapes) {
        const world w(s);
        for (int r : rows)
            if (argc < 2 || r == atoi(argv[1])) bench(w, r, read, product);
    }
    return 0;
}
