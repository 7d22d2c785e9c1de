// Rows packed for wires and back (compute/cuda/compress.h), for the rows of one to three wires. A case is a graph of many launches that go round over copies
// of its rows, more of them than the cache holds where rows are many. Rows are nearly normal, as hidden states are; `random bits` are the worst there is.
// Prints one JSON line a case: bytes of rows and packed, and their rates in bytes of rows: bench_gpu_compress
#include <cstring>

#include "base/rng.h"
#include "compute/cuda/compress.h"
#include "gpu.cuh"

enum { LAUNCHES = 8 };

struct wires {
    gr_cuda_bales bales[LAUNCHES] = {};
    int64_t *n_bytes = nullptr;
    std::vector<void *> memory;

    void *keep(void *p) { return memory.push_back(p), p; }
    wires(const std::vector<uint16_t> &rows, int n_wires, int n_rows, int hidden) {
        cudaHostAlloc((void **)&n_bytes, GR_CUDA_WIRES_MAX * sizeof *n_bytes, cudaHostAllocDefault);
        for (gr_cuda_bales &b : bales) {
            b.n_wires = n_wires, b.hidden = hidden;
            for (int w = 0; w < n_wires; w++) {
                b.wire[w].rows = keep(to_device(rows.data(), (size_t)n_rows * hidden * 2));
                b.wire[w].packed = (char *)keep(to_device(nullptr, (size_t)gr_cuda_packed_bytes(n_rows, hidden)));
                b.wire[w].n_rows = n_rows;
            }
        }
    }
    ~wires() {
        for (void *p : memory) cudaFree(p);
        cudaFreeHost(n_bytes);
    }
};

static void bench(const char *what, const std::vector<uint16_t> &rows, int n_wires, int n_rows, int hidden) {
    wires w(rows, n_wires, n_rows, hidden);
    const double bytes = 2.0 * n_wires * n_rows * hidden;
    double packed = 0, spread[2], us[2];
    graph compress([&](cudaStream_t s) {
        for (const gr_cuda_bales &b : w.bales) must(gr_cuda_compress(&b, w.n_bytes, s) == GRACE_OK, "compress");
    });
    graph expand([&](cudaStream_t s) {
        for (const gr_cuda_bales &b : w.bales) must(gr_cuda_expand(&b, s) == GRACE_OK, "expand");
    });
    us[0] = time_us([&] { cudaGraphLaunch(compress.exec, 0); }, 9, 3, &spread[0]) / LAUNCHES;
    us[1] = time_us([&] { cudaGraphLaunch(expand.exec, 0); }, 9, 3, &spread[1]) / LAUNCHES;
    must(cudaDeviceSynchronize() == cudaSuccess, what);
    for (int i = 0; i < n_wires; i++) packed += (double)w.n_bytes[i];
    printf("{\"bench\":\"gpu_compress\",\"rows_are\":\"%s\",\"wires\":%d,\"rows\":%d,\"hidden\":%d,\"bytes_in\":%.0f,\"bytes_out\":%.0f,\"ratio\":%.3f,"
           "\"compress_us\":%.2f,\"compress_spread_us\":%.2f,\"compress_gb_s\":%.0f,\"expand_us\":%.2f,\"expand_spread_us\":%.2f,\"expand_gb_s\":%.0f}\n",
           what, n_wires, n_rows, hidden, bytes, packed, bytes / packed, us[0], spread[0] / LAUNCHES, bytes / us[0] * 1e-3, us[1], spread[1] / LAUNCHES,
           bytes / us[1] * 1e-3);
    fflush(stdout);
}

static std::vector<uint16_t> make_rows(size_t n, bool normal) {
    std::vector<uint16_t> rows(n);
    gr_rng rng = gr_rng_seed(7);
    if (normal) fill_bf16(7, rows.data(), n, 1);
    else for (uint16_t &x : rows) x = (uint16_t)gr_rng_next(&rng);
    return rows;
}

int main(int argc, char **argv) {
    const bool small = argc > 1 && strcmp(argv[1], "small") == 0;
    if (no_gpu("bench of rows packed for wires")) return SKIPPED;
    const std::vector<uint16_t> normal = make_rows((size_t)8192 * 4096, true), bits = make_rows((size_t)4096 * 2048, false);
    for (int hidden : {2048, 4096})
        for (int rows : {16, 64, 256, 1024, 4096, 8192})
            if (!small || (hidden == 2048 && rows <= 1024)) bench("normal", normal, 1, rows, hidden);
    for (int n_wires = 2; n_wires <= 3 && !small; n_wires++) bench("normal", normal, n_wires, 2048, 2048);
    if (!small) bench("random bits", bits, 1, 4096, 2048);
    return 0;
}
