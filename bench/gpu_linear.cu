// Dense products of the three models against their floor: time of the fewest bytes and operations at rates measured in the same run. A graph of products
// that go round over copies of the matrix, more of them than the cache holds; the time is of one product. Every way that can do a case is shown.
// Prints one JSON line a case: bench_gpu_linear [WAY], ways that begin with WAY
#include <cstring>

#include "compute/cuda/linear_kernels.h"
#include "gpu.cuh"

struct matrix { const char *name; int n_heads, outs, cols, n_kept; bool fp32, out_fp32; };

// Memory that all cases share.
struct world { char *w, *x, *out; size_t w_bytes; int n_processors; gr_cuda_lt *lt; double read, product; };

// A _1: one block a processor instead of two.
enum way { FEW, FEW_1, FEW_OVERLAP, FEW_OVERLAP_1, NORMED, LT, TILES, FP32, N_WAYS };
static const char *const way_names[] = {"few", "few_1", "few_overlap", "few_overlap_1", "normed_overlap", "lt", "tiles", "fp32"};

static bool can(way how, const matrix &m, int n_rows) {
    if (m.fp32) return how == FP32;
    if (how == NORMED) return n_rows <= 2 && m.n_heads == 1 && m.cols <= 2048 && !m.out_fp32;
    if (how <= FEW_OVERLAP_1) return n_rows <= GR_CUDA_FEW_ROWS;
    return how == LT || (how == TILES && n_rows > GR_CUDA_FEW_ROWS);
}

static grace_status queue(const world &m, way how, const gr_cuda_product *p, cudaStream_t s) {
    const gr_cuda_norming norm = {(const float *)m.x, 1e-5f, m.out + ((size_t)512 << 20)};      // weights of any value
    switch (how) {
    case NORMED: return gr_cuda_linear_few_normed(p, &norm, m.n_processors, true, s);
    case LT: return gr_cuda_lt_run(m.lt, p, s);
    case TILES: return gr_cuda_linear_tiles(p, true, s);
    case FP32: return gr_cuda_linear_fp32(p, true, s);
    default: return gr_cuda_linear_few(p, how == FEW || how == FEW_OVERLAP ? m.n_processors : m.n_processors / 2, how >= FEW_OVERLAP, s);
    }
}

static void bench(const world &wd, const matrix &m, int n_rows, way how) {
    gr_cuda_product p = {};
    p.x = wd.x, p.out = wd.out, p.n_rows = n_rows, p.n_heads = m.n_heads, p.outs = m.outs, p.cols = m.cols, p.n_kept = m.n_kept, p.out_fp32 = m.out_fp32;
    p.split = m.outs;
    p.x_head_step = m.cols + m.n_kept, p.x_step = m.n_heads * p.x_head_step, p.out_head_step = m.outs + m.n_kept, p.out_step = m.n_heads * p.out_head_step;
    size_t matrix_bytes = (size_t)m.n_heads * m.outs * m.cols * (m.fp32 ? 4 : 2);
    int n_copies = (int)std::max<size_t>(1, std::min(wd.w_bytes, (size_t)320 << 20) / matrix_bytes), n = n_rows > 1024 ? 2 : std::max(n_copies, 4);
    n = std::min(n, 256);
    graph g([&](cudaStream_t s) {
        for (int i = 0; i < n; i++) {
            p.w = wd.w + (size_t)(i % n_copies) * matrix_bytes;
            must(!queue(wd, how, &p, s), m.name);
        }
    });
    double spread, us = time_us([&] { cudaGraphLaunch(g.exec, 0); }, 9, 2, &spread) / n;
    must(cudaGetLastError() == cudaSuccess, m.name);
    double flops = 2.0 * n_rows * m.n_heads * m.outs * m.cols;
    double bytes = matrix_bytes + 2.0 * n_rows * p.x_step + (m.out_fp32 ? 4.0 : 2.0) * n_rows * p.out_step;
    double floor_us = 1e6 * std::max(bytes / wd.read, flops / wd.product);
    printf("{\"bench\":\"gpu_linear\",\"matrix\":\"%s\",\"shape\":\"%dx%dx%d\",\"rows\":%d,\"way\":\"%s\",\"us\":%.2f,\"spread_us\":%.2f,\"floor_us\":%.2f,"
           "\"ratio\":%.2f,\"tb_s\":%.2f,\"tflops\":%.0f}\n",
           m.name, m.n_heads, m.outs, m.cols, n_rows, way_names[how], us, spread / n, floor_us, us / floor_us, bytes / us * 1e-6, flops / us * 1e-6);
    fflush(stdout);
}

static void open_world(world *wd) {
    const size_t piece = (size_t)64 << 20;
    std::vector<uint16_t> host(piece / 2);
    fill_bf16(3, host.data(), host.size(), 0.02f);
    wd->w_bytes = (size_t)640 << 20;
    wd->w = (char *)to_device(NULL, wd->w_bytes), wd->x = (char *)to_device(NULL, piece * 6), wd->out = (char *)to_device(NULL, piece * 16);
    for (size_t at = 0; at < wd->w_bytes; at += piece) must(cudaMemcpy(wd->w + at, host.data(), piece, cudaMemcpyHostToDevice) == cudaSuccess, "fill");
    for (size_t at = 0; at < piece * 6; at += piece) must(cudaMemcpy(wd->x + at, host.data(), piece, cudaMemcpyHostToDevice) == cudaSuccess, "fill");
    must(cudaDeviceGetAttribute(&wd->n_processors, cudaDevAttrMultiProcessorCount, 0) == cudaSuccess, "processors");
    must(!gr_cuda_lt_open(&wd->lt), "cuBLASLt");
    wd->read = measure_read(), wd->product = measure_product();
    print_ceilings(wd->read, wd->product);
}

int main(int argc, char **argv) {
    static const matrix matrices[] = {
        {"olmoe qkv", 1, 6144, 2048}, {"olmoe o", 1, 2048, 2048}, {"qwen3 qkv", 1, 5120, 2048}, {"qwen3 o", 1, 2048, 4096},
        {"deepseek q kv_a", 1, 3648, 2048}, {"deepseek kv_a", 1, 576, 2048}, {"to latent", 16, 512, 128, 64}, {"from latent", 16, 128, 512},
        {"shared up", 1, 5632, 2048}, {"shared down", 1, 2048, 2816}, {"deepseek down", 1, 2048, 10944},
        {"router", 1, 64, 2048, 0, false, true}, {"fp32 router", 1, 128, 2048, 0, true, true}, {"olmoe head", 1, 50304, 2048, 0, false, true},
        {"qwen3 head", 1, 151936, 2048, 0, false, true}};
    static const int rows[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 4096, 16384};
    world wd = {};
    open_world(&wd);
    for (const matrix &m : matrices)
        for (int n_rows : rows)
            for (int how = 0; how < N_WAYS; how++) {
                if (argc > 1 && strncmp(argv[1], way_names[how], strlen(argv[1]))) continue;
                if (!can((way)how, m, n_rows) || (size_t)n_rows * m.outs * m.n_heads > (size_t)160 << 20) continue;
                bench(wd, m, n_rows, (way)how);
            }
    gr_cuda_lt_close(wd.lt);
    return 0;
}
