// Attention's kernels against their floor: the cache (or a prompt's rows) once from memory, or the products at the rate of a large one.
// Prints one JSON line a case; a replay goes through as many layers as it takes to find none of them in the cache: bench_gpu_attention [MODEL]
#include <cstring>

#include "compute/compute.h"
#include "compute/cuda/attention.h"
#include "gpu.cuh"

struct model { const char *name; int n_heads, n_kv_heads, key_dim, value_dim; bool latent; int made_key_dim, made_value_dim; };     // made: prompts by them
struct load { const char *kind; int n_sequences, n_before, n_new; };       // positions in the cache, and rows of each sequence that meet them

struct bench_case {
    model m;
    load w;
    int n_layers, n_rows, pages_max, q_width, k_width, v_width;
    size_t layer_cells;
    gr_cuda_attention *a;
    gr_cuda_attention_step step;
    void *k_pages, *v_pages, *rows, *made_k, *made_v, *out, *norm;
    int turning() const { return m.latent ? m.key_dim - m.value_dim : m.key_dim; }
};

static int32_t *ints_to_device(const std::vector<int32_t> &x) { return (int32_t *)to_device(x.data(), x.size() * 4); }

static void *random_to_device(size_t n) {
    std::vector<uint16_t> host(n);
    fill_bf16(n, host.data(), n, 1);
    return to_device(host.data(), n * 2);
}

static void open_step(bench_case *c) {
    const load &w = c->w;
    std::vector<int32_t> sequence, position, table((size_t)w.n_sequences * c->pages_max);
    const bool decode = !strcmp(w.kind, "decode");
    for (int s = 0; s < w.n_sequences; s++)
        for (int i = 0; i < w.n_new; i++) sequence.push_back(s), position.push_back(w.n_before + i);
    for (size_t i = 0; i < table.size(); i++) table[i] = (int32_t)(i * 7919 % table.size());      // scattered: 7919 is prime to all sizes here
    c->step = {c->n_rows, ints_to_device(sequence), ints_to_device(position), ints_to_device(std::vector<int32_t>(c->n_rows, decode)), ints_to_device(table),
               c->pages_max, c->m.made_key_dim ? c->n_rows : 0, !decode && !c->m.made_key_dim, decode};
}

static bench_case open_case(const model &m, const load &w) {
    bench_case c = {};
    c.m = m, c.w = w, c.n_rows = w.n_sequences * w.n_new, c.pages_max = (w.n_before + w.n_new + GR_KV_PAGE - 1) / GR_KV_PAGE;
    c.q_width = m.n_heads * m.key_dim, c.k_width = m.n_kv_heads * m.key_dim, c.v_width = m.latent ? 0 : m.n_kv_heads * m.value_dim;
    c.layer_cells = (size_t)w.n_sequences * c.pages_max * GR_KV_PAGE;
    c.n_layers = w.n_new > 1 ? 2 : (int)std::min<size_t>(16, 1 + ((size_t)400 << 20) / (c.layer_cells * (c.k_width + c.v_width) * 2));
    c.k_pages = random_to_device(c.layer_cells * c.n_layers * c.k_width), c.v_pages = random_to_device(c.layer_cells * c.n_layers * c.v_width);
    c.rows = random_to_device((size_t)c.n_rows * (c.q_width + c.k_width + c.v_width)), c.out = to_device(NULL, (size_t)c.n_rows * m.n_heads * m.value_dim * 2);
    c.made_k = random_to_device((size_t)c.n_rows * m.n_heads * (m.made_key_dim ? m.made_key_dim - c.turning() : 0));
    c.made_v = random_to_device((size_t)c.n_rows * m.n_heads * m.made_value_dim);
    std::vector<float> ones(c.q_width, 1.0f);
    c.norm = to_device(ones.data(), ones.size() * 4);
    grace_rope rope = {};
    rope.dim = c.turning(), rope.neighbours = m.latent, rope.magnitude = 1;
    gr_cuda_attention_sizes sizes = {m.n_heads, m.n_kv_heads, m.key_dim, m.value_dim, m.latent, m.made_key_dim, m.made_value_dim, false, c.n_rows,
                                     (int64_t)c.layer_cells, w.n_before + w.n_new, &rope};
    must(!gr_cuda_attention_open(&sizes, &c.a), "attention_open");
    open_step(&c);
    return c;
}

static void close_case(bench_case *c) {
    const void *device[] = {c->k_pages, c->v_pages, c->rows, c->made_k, c->made_v, c->out, c->norm, c->step.kv_sequence, c->step.position, c->step.decode,
                            c->step.page_table};
    for (const void *d : device) cudaFree((void *)d);
    gr_cuda_attention_close(c->a);
}

static gr_cuda_attention_layer layer_of(const bench_case &c, int l) {
    gr_cuda_attention_layer layer = {};
    const model &m = c.m;
    layer.k_pages = (uint16_t *)c.k_pages + l * c.layer_cells * c.k_width;
    layer.v_pages = m.latent ? NULL : (uint16_t *)c.v_pages + l * c.layer_cells * c.v_width;
    layer.q = c.rows, layer.k = (uint16_t *)c.rows + c.q_width, layer.v = m.latent ? NULL : (uint16_t *)layer.k + c.k_width;
    layer.q_step = layer.k_step = layer.v_step = c.q_width + c.k_width + c.v_width;
    layer.k_norm = (float *)c.norm, layer.k_norm_size = m.latent ? m.value_dim : c.k_width, layer.out = c.out;
    if (!m.latent) layer.q_norm = (float *)c.norm, layer.q_norm_size = c.q_width;
    layer.norm_eps = 1e-5f, layer.scale = 0.08f;
    layer.made.q = c.rows, layer.made.k = c.made_k, layer.made.v = c.made_v, layer.made.out = c.out;
    return layer;
}

// Microseconds a layer.
template <class F> static double measure(const bench_case &c, F run) {
    double spread;
    graph g([&](cudaStream_t s) {
        for (int l = 0; l < c.n_layers; l++) run(layer_of(c, l), s);
    });
    return time_us([&] { cudaGraphLaunch(g.exec, 0); }, 11, 5, &spread) / c.n_layers;
}

static void bench(const model &m, const load &w, double read, double product) {
    bench_case c = open_case(m, w);
    double spread, seen = 0, last = w.n_before + w.n_new;
    for (int i = 0; i < w.n_new; i++) seen += (double)w.n_sequences * (w.n_before + i + 1);
    double cache = w.n_sequences * last * (c.k_width + c.v_width) * 2, flops = 2 * seen * m.n_heads * (m.key_dim + m.value_dim);
    double bytes = cache + 2.0 * c.n_rows * (c.q_width + m.n_heads * m.value_dim), turned = m.n_heads * c.turning();
    if (m.made_key_dim) {       // queries, own parts of keys, values, results of every head; turned keys once
        flops = 2 * seen * m.n_heads * (m.made_key_dim + m.made_value_dim);
        bytes = 2.0 * c.n_rows * (m.n_heads * (2.0 * m.made_key_dim - c.turning() + 2 * m.made_value_dim) + c.turning());
    }
    double moved = 2.0 * c.n_rows * 2 * (turned + c.k_width + c.v_width);
    double floor_us = 1e6 * std::max(bytes / read, flops / product);
    graph lists([&](cudaStream_t s) { gr_cuda_attention_lists(c.a, &c.step, s); });
    double lists_us = time_us([&] { cudaGraphLaunch(lists.exec, 0); }, 9, 5, &spread);
    double run_us = measure(c, [&](const gr_cuda_attention_layer &l, cudaStream_t s) { gr_cuda_attention_run(c.a, &c.step, &l, s); });
    double prepare_us = measure(c, [&](const gr_cuda_attention_layer &l, cudaStream_t s) {      // what it adds
        gr_cuda_attention_prepare(c.a, &c.step, &l, s);
        gr_cuda_attention_run(c.a, &c.step, &l, s);
    }) - run_us;
    must(cudaGetLastError() == cudaSuccess, m.name);
    printf("{\"bench\":\"gpu_attention\",\"model\":\"%s\",\"kind\":\"%s\",\"sequences\":%d,\"positions\":%.0f,\"rows\":%d,\"lists_us\":%.1f,"
           "\"prepare_us\":%.2f,\"prepare_tb_s\":%.2f,\"run_us\":%.2f,\"floor_us\":%.2f,\"ratio\":%.2f,\"tb_s\":%.2f,\"tflops\":%.1f}\n",
           m.name, w.kind, w.n_sequences, last, c.n_rows, lists_us, prepare_us, moved / prepare_us * 1e-6, run_us, floor_us,
           run_us / floor_us, bytes / run_us * 1e-6, flops / run_us * 1e-6);
    fflush(stdout);
    close_case(&c);
}

int main(int argc, char **argv) {
    static const model models[] = {{"olmoe", 16, 16, 128, 128, false}, {"qwen3-30b", 32, 4, 128, 128, false}, {"deepseek-v2-lite", 16, 1, 576, 512, true},
                                   {"deepseek-v2-lite-made", 16, 1, 576, 512, true, 192, 128}};
    static const load loads[] = {{"decode", 64, 143, 1}, {"decode", 256, 135, 1}, {"decode", 512, 79, 1}, {"decode", 1, 135, 1}, {"decode", 1, 8191, 1},
                                 {"prompt", 256, 0, 128}, {"prompt", 4, 0, 4096}};
    double read = measure_read(), product = measure_product();
    print_ceilings(read, product);
    for (const model &m : models)
        for (const load &w : loads)
            if ((argc < 2 || !strcmp(argv[1], m.name)) && (!m.made_key_dim || !strcmp(w.kind, "prompt"))) bench(m, w, read, product);
    return 0;
}
