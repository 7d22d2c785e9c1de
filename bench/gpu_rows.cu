// Kernels that go over rows once (norm, the gate, sampling) against the memory's rate measured in the same run. A case is a graph of many
// launches that go round over copies of their data, more of them than the cache holds where rows are many; the time is of one. Gathered rows are one
// row again and again: they come from the cache.
// Prints one JSON line a case: bench_gpu_rows [KERNEL]
#include <cstring>

#include "compute/cuda/gate.h"
#include "compute/cuda/rows.h"
#include "compute/cuda/sample.h"
#include "gpu.cuh"

enum { HIDDEN = 2048, VOCAB = 151936, LAUNCHES = 20 };

struct world { char *data; size_t bytes; double read; float *w; int32_t *numbers, *flaw; };

// run(s, i) queues launch i; it reads and writes `bytes`.
template <class F> static void bench(const world &wd, const char *kernel, int rows, int width, double bytes, F run) {
    graph g([&](cudaStream_t s) {
        for (int i = 0; i < LAUNCHES; i++) must(run(s, i) == GRACE_OK, kernel);
    });
    double spread, us = time_us([&] { cudaGraphLaunch(g.exec, 0); }, 9, bytes > 1e8 ? 1 : 5, &spread) / LAUNCHES;
    must(cudaGetLastError() == cudaSuccess, kernel);
    printf("{\"bench\":\"gpu_rows\",\"kernel\":\"%s\",\"rows\":%d,\"width\":%d,\"us\":%.2f,\"spread_us\":%.2f,\"tb_s\":%.2f,\"of_read_rate\":%.2f}\n",
           kernel, rows, width, us, spread / LAUNCHES, bytes / us * 1e-6, bytes / us * 1e6 / wd.read);
    fflush(stdout);
}

// Where launch i finds its data: pieces of `bytes` one behind the other, from the start again at the end.
static char *piece(const world &wd, size_t bytes, int i) {
    size_t step = (bytes + 255) / 256 * 256, n = wd.bytes / step;
    must(n >= 1, "pieces");
    return wd.data + (size_t)i % n * step;
}

static void bench_norm(const world &wd, int rows, int width, bool with_y) {
    const size_t one = (size_t)rows * width * 2;
    bench(wd, with_y ? "norm_add" : "norm", rows, width, one * (with_y ? 4.0 : 2.0), [&](cudaStream_t s, int i) {
        char *x = piece(wd, 3 * one, i);
        return gr_cuda_norm(wd.w, 1e-5f, rows, width, x, width, with_y ? x + one : nullptr, x + 2 * one, width, s);
    });
}

static void bench_gather(const world &wd, int rows, int width) {
    const size_t one = (size_t)rows * width * 2;
    bench(wd, "gather", rows, width, one * 2.0, [&](cudaStream_t s, int i) {
        char *x = piece(wd, 2 * one, i);
        return gr_cuda_gather(x, wd.numbers, rows, width, x + one, s);
    });
}

static void bench_gate(const world &wd, int rows, int experts, bool few, bool fp32) {
    gr_cuda_gate g = {};
    g.n_experts = experts, g.top_k = 8, g.rule.norm_topk = true, g.rule.scaling = 1;
    const size_t logits = (size_t)rows * experts * 4, x = (size_t)rows * HIDDEN * 2, w = (size_t)experts * HIDDEN * (fp32 ? 4 : 2);
    const size_t out = (size_t)rows * 8 * 12;
    bench(wd, few ? fp32 ? "gate_few_fp32" : "gate_few" : "gate_choose", rows, experts, few ? w + x + out : logits + out, [&](cudaStream_t s, int i) {
        char *p = piece(wd, logits + out + x + w, i);
        int32_t *ids = (int32_t *)(p + logits), *slots = ids + 8 * rows;
        float *weights = (float *)(slots + 8 * rows);
        gr_cuda_router r = {{p + logits + out + x, experts, HIDDEN, fp32}, (float *)p, wd.numbers + 65536};
        return few ? gr_cuda_gate_few(&g, &r, p + logits + out, wd.numbers, wd.numbers, nullptr, rows, ids, weights, slots, wd.flaw, s)
                   : gr_cuda_gate_choose(&g, (float *)p, wd.numbers, wd.numbers, nullptr, rows, ids, weights, slots, wd.flaw, s);
    });
}

static void bench_sample(const world &wd, const char *name, int rows, float temperature, int top_k, float top_p) {
    std::vector<float> t(rows, temperature), p(rows, top_p);
    std::vector<int32_t> k(rows, top_k);
    std::vector<double> u(rows);
    for (int i = 0; i < rows; i++) u[i] = (i + 0.5) / rows;
    gr_draws d = {(float *)to_device(t.data(), 4 * rows), (float *)to_device(p.data(), 4 * rows), (int32_t *)to_device(k.data(), 4 * rows),
                  (double *)to_device(u.data(), 8 * rows)};
    void *scratch = to_device(NULL, gr_cuda_sample_scratch(rows, VOCAB));
    const size_t bytes = (size_t)rows * VOCAB * 4;
    bench(wd, name, rows, VOCAB, bytes, [&](cudaStream_t s, int i) {
        return gr_cuda_sample((float *)piece(wd, bytes, i), VOCAB, rows, VOCAB, temperature < 0 ? nullptr : &d, wd.numbers, wd.flaw, scratch, s);
    });
    cudaFree((void *)d.temperature), cudaFree((void *)d.top_p), cudaFree((void *)d.top_k), cudaFree((void *)d.u), cudaFree(scratch);
}

// Logits as a model has them, nearly normal, over all of the memory.
static void fill_logits(const world &wd) {
    std::vector<float> host((size_t)1 << 25);
    uint64_t state = 1;
    for (float &v : host) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        v = 2.5f * ((float)(state >> 16 & 0xFFFF) + (float)(state >> 32 & 0xFFFF) + (float)(state >> 48) - 98302.5f) / 32768;
    }
    const size_t bytes = host.size() * sizeof(float);
    for (size_t at = 0; at < wd.bytes; at += bytes) must(cudaMemcpy(wd.data + at, host.data(), bytes, cudaMemcpyHostToDevice) == cudaSuccess, "fill");
}

// bf16 values near 1 in every half word.
static world open_world(void) {
    world wd = {};
    const size_t first = (size_t)1 << 26;
    std::vector<uint32_t> host(first / 4);
    uint32_t state = 1;
    for (uint32_t &v : host) state = state * 1664525 + 1013904223, v = 0x3F803F80u + (state >> 8 & 0xFF00FFu);
    wd.bytes = (size_t)4 << 30;
    wd.data = (char *)to_device(NULL, wd.bytes);
    for (size_t at = 0; at < wd.bytes; at += first) must(cudaMemcpy(wd.data + at, host.data(), first, cudaMemcpyHostToDevice) == cudaSuccess, "fill");
    wd.w = (float *)to_device(host.data(), 65536);
    wd.numbers = (int32_t *)to_device(NULL, 4 * 131072);
    wd.flaw = (int32_t *)to_device(NULL, 4);
    must(cudaMemset(wd.numbers, 0, 4 * 131072) == cudaSuccess && cudaMemset(wd.flaw, 0, 4) == cudaSuccess, "cudaMemset");
    wd.read = measure_read();
    print_ceilings(wd.read, measure_product());
    return wd;
}

int main(int argc, char **argv) {
    static const int norm_rows[] = {1, 256, 32768}, gate_rows[] = {1, 64, 256, 32768}, sample_rows[] = {1, 256, 512};
    const world wd = open_world();
    auto wanted = [&](const char *name) { return argc < 2 || !strcmp(argv[1], name); };
    for (int rows : norm_rows) {
        if (wanted("norm")) bench_norm(wd, rows, HIDDEN, false), bench_norm(wd, rows, HIDDEN, true), bench_norm(wd, rows, 512, false);
        if (wanted("gather")) bench_gather(wd, rows, HIDDEN);
    }
    for (int rows : gate_rows)
        for (int experts = 64; experts <= 128 && wanted("gate"); experts *= 2) {
            bench_gate(wd, rows, experts, false, false);
            bench_gate(wd, rows, experts, true, false);
            bench_gate(wd, rows, experts, true, true);
        }
    if (wanted("sample")) fill_logits(wd);
    for (int rows : sample_rows) {
        if (!wanted("sample")) continue;
        bench_sample(wd, "sample_greedy", rows, -1, 0, 1);
        bench_sample(wd, "sample_greedy_by_row", rows, 0, 0, 1);
        bench_sample(wd, "sample_all", rows, 1, 0, 1);
        bench_sample(wd, "sample_top_k", rows, 1, 50, 1);
        bench_sample(wd, "sample_top_p", rows, 0.5f, 0, 0.9f);
    }
    return 0;
}
