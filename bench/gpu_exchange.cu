// The exchange of an MoE layer between the GPUs of this machine, a process each, without experts: a recorded graph of several layers, replayed.
// Prints one JSON line a number of rows: bench_gpu_exchange [ROWS]
//
//   us           a layer's dispatch, arrive, give back and settle
//   grouped_us   where arrive makes pairs too, as in a layer
//   dispatch_us  us with nothing to bring back; combine_us: with nothing to send; empty_us: with neither, two rounds of flags
//   own_us       us where all experts of a row are on its own GPU: no row on a link, sums in its memory
//   bytes        that leave a GPU for others, both ways and headers; gb_s: bytes / us; floor_us: bytes at the links' rate and two flags one way
//
// What limits which part, each without what an empty call takes: dispatch_gb_s, combine_gb_s: bytes that leave, beside the links' rate; memory_gb_s: of own_us,
// results read, sums written, read and written again, beside the memory's rate.
#include <csignal>
#include <cstring>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/rng.h"
#include "compute/cuda/exchange.h"
#include "gpu.cuh"

enum { HIDDEN = 2048, TOP_K = 8, SLOTS = 64, ROWS_MAX = 8192, LAYERS = 8, NODE = GR_CUDA_NODE_MAX };
enum { SENDS = 1, GROUPS = 2, RETURNS = 4 };
static const double LINK_BYTES_S = 450e9, FLAG_US = 1.36;

static double rate(double bytes, double us) { return us > 0 ? bytes / us * 1e-3 : 0; }      // GB/s

// What the processes share.
struct board {
    pthread_barrier_t barrier;
    char handle[NODE][GR_CUDA_HANDLE_BYTES];
};

static void *zeros(size_t bytes) {
    void *to = to_device(NULL, bytes);
    must(cudaMemset(to, 0, bytes) == cudaSuccess, "cudaMemset");
    return to;
}

struct member {
    board *b;
    gr_cuda_node node = {};
    gr_cuda_area at;
    gr_cuda_layer layer = {}, silent = {};      // silent: no rows, of the same size
    gr_cuda_pairs pairs = {}, no_pairs = {};
    void *results, *out;
    int32_t *slot;
    float *weight;

    void open(int me, int n) {
        const size_t n_choices = (size_t)n * ROWS_MAX * TOP_K;
        node.sizes = {n, ROWS_MAX, TOP_K, HIDDEN, false}, node.me = me, node.deadline_ns = 20000000000ull;
        at = gr_cuda_area_of(&node.sizes);
        must(!gr_cuda_share(at.bytes, (void **)&node.area[me], b->handle[me]), "share");
        pthread_barrier_wait(&b->barrier);
        for (int g = 0; g < n; g++)
            if (g != me) must(!gr_cuda_attach(b->handle[g], (void **)&node.area[g]), "attach");
        node.epoch = (uint32_t *)zeros(GR_CUDA_EPOCH_BYTES), node.count = (int64_t *)zeros(4 * NODE * 8);
        must(cudaHostAlloc((void **)&node.watch, sizeof *node.watch, cudaHostAllocMapped) == cudaSuccess, "watch");
        memset(node.watch, 0, sizeof *node.watch);
        must(!gr_cuda_node_check(&node), "node");
        results = zeros(n_choices * HIDDEN * 2), out = zeros((size_t)ROWS_MAX * HIDDEN * 2);
        slot = (int32_t *)zeros(ROWS_MAX * TOP_K * 4), weight = (float *)zeros(ROWS_MAX * TOP_K * 4);
        pairs = {(SLOTS + n - 1) / n, 0, TOP_K, (int32_t *)zeros((SLOTS + 1) * 4), (int32_t *)zeros(n_choices * 4), (int32_t *)zeros(n_choices * 4),
                 (int32_t *)zeros(4 * gr_cuda_group_scratch((int64_t)n_choices, SLOTS))};
        no_pairs = pairs, no_pairs.pair_of_choice = (int32_t *)to_device(NULL, n_choices * 4);
        must(cudaMemset(no_pairs.pair_of_choice, 0xFF, n_choices * 4) == cudaSuccess, "no pairs");
        int32_t place[SLOTS];
        for (int s = 0; s < SLOTS; s++) place[s] = s % n << 16 | s / n;
        layer.n_slots = pairs.n_slots, layer.slot = slot, layer.weight = weight, layer.place_of_slot = (int32_t *)to_device(place, sizeof place);
    }

    // own: slots of this GPU alone.
    void choose(int rows, bool own) {
        gr_rng rng = gr_rng_seed(1000 + (uint64_t)node.me);
        std::vector<int32_t> slots;
        std::vector<float> weights(rows * TOP_K, 0.125f);
        for (int i = 0; i < rows; i++) {
            uint64_t taken = 0;
            while (__builtin_popcountll(taken) < TOP_K) {
                const uint32_t n = (uint32_t)node.sizes.n_ranks, s = own ? gr_rng_below(&rng, SLOTS / n) * n + (uint32_t)node.me : gr_rng_below(&rng, SLOTS);
                if (!(taken >> s & 1)) slots.push_back((int32_t)s);
                taken |= 1ull << s;
            }
        }
        must(cudaMemcpy(slot, slots.data(), slots.size() * 4, cudaMemcpyHostToDevice) == cudaSuccess, "slots");
        must(cudaMemcpy(weight, weights.data(), weights.size() * 4, cudaMemcpyHostToDevice) == cudaSuccess, "weights");
        layer.n_rows = layer.s = rows, silent = layer, silent.n_rows = 0;
        pairs.n_rows = no_pairs.n_rows = node.sizes.n_ranks * rows;
    }

    void run(int what, cudaStream_t s) const {
        const bool returns = what & RETURNS;
        const gr_cuda_layer *sent = what & SENDS ? &layer : &silent;
        const gr_cuda_settle settle = {0, returns ? layer.n_rows : 0, 1, NULL, out, NULL};
        must(!gr_cuda_dispatch(&node, sent, s) && !gr_cuda_arrive(&node, sent, what & GROUPS ? &pairs : NULL, s), "dispatch");
        must(!gr_cuda_give_back(&node, &layer, returns ? &pairs : &no_pairs, results, s) && !gr_cuda_settle_rows(&node, &layer, &settle, s), "combine");
    }

    // Tables of pairs as a layer has them, and the bytes that leave this GPU there and back.
    void count_bytes(double bytes[2]) {
        int64_t count[4][NODE];
        must(cudaMemset(node.count, 0, sizeof count) == cudaSuccess, "counts");
        run(SENDS | GROUPS | RETURNS, NULL);
        to_host(count, node.count, sizeof count);
        for (int way = 0; way < 2; way++) {
            double rows = 0;
            for (int g = 0; g < node.sizes.n_ranks; g++) rows += g == node.me ? 0 : count[2 * way][g];
            bytes[way] = rows * HIDDEN * 2 + (way == 0 ? (node.sizes.n_ranks - 1.0) * layer.s * TOP_K * 8 : 0);
        }
    }

    double time(int what, int inner, double *spread) {
        graph g([&](cudaStream_t s) {
            for (int i = 0; i < LAYERS; i++) run(what, s);
        });
        pthread_barrier_wait(&b->barrier);
        const double us = time_us([&] { cudaGraphLaunch(g.exec, 0); }, 11, inner, spread);
        *spread /= LAYERS;
        return us / LAYERS;
    }

    void prepare(int rows, bool own, double bytes[2]) {
        choose(rows, own);
        pthread_barrier_wait(&b->barrier);
        count_bytes(bytes);
    }

    void measure(int rows) {
        double spread, other, bytes[2];
        const int inner = rows > 1024 ? 3 : 20;
        prepare(rows, true, bytes);
        const double own = time(SENDS | RETURNS, inner, &other);
        prepare(rows, false, bytes);
        const double us = time(SENDS | RETURNS, inner, &spread), grouped = time(SENDS | GROUPS | RETURNS, inner, &other);
        const double dispatch = time(SENDS, inner, &other), combine = time(RETURNS, inner, &other), empty = time(0, inner, &other);
        const double all = bytes[0] + bytes[1], floor = all / LINK_BYTES_S * 1e6 + 2 * FLAG_US, summed = (TOP_K + 3.0) * rows * HIDDEN * 2;
        must(!node.watch->stop, "somebody was late");
        if (node.me) return;
        printf("{\"bench\":\"gpu_exchange\",\"gpus\":%d,\"rows\":%d,\"hidden\":%d,\"us\":%.2f,\"spread_us\":%.2f,\"grouped_us\":%.2f,\"dispatch_us\":%.2f,"
               "\"combine_us\":%.2f,\"empty_us\":%.2f,\"own_us\":%.2f,\"bytes\":%.0f,\"gb_s\":%.1f,\"dispatch_gb_s\":%.1f,\"combine_gb_s\":%.1f,"
               "\"memory_gb_s\":%.1f,\"floor_us\":%.2f,\"ratio\":%.2f}\n", node.sizes.n_ranks, rows, HIDDEN, us, spread, grouped, dispatch, combine, empty, own,
               all, all / us * 1e-3, rate(bytes[0], dispatch - empty), rate(bytes[1], combine - empty), rate(summed, own - empty), floor, us / floor);
        fflush(stdout);
    }

    void close() {
        pthread_barrier_wait(&b->barrier);
        for (int g = 0; g < node.sizes.n_ranks; g++)
            if (g != node.me) gr_cuda_detach(node.area[g]);
        pthread_barrier_wait(&b->barrier);
        gr_cuda_unshare(node.area[node.me]);
    }
};

static int run_process(board *b, int me, int n, int only) {
    static const int rows[] = {1, 16, 64, 256, 1024, 4096, 8192};
    must(cudaSetDevice(me) == cudaSuccess, "device");
    member m;
    m.b = b;
    m.open(me, n);
    for (int r : rows)
        if (only == 0 || r == only) m.measure(r);
    m.close();
    return 0;
}

// Asked in a process of its own: this one forks, and must not have called CUDA.
static int count_gpus(void) {
    int state, n = 0;
    const pid_t pid = fork();
    if (pid == 0) _exit(cudaGetDeviceCount(&n) == cudaSuccess ? n : 0);
    return pid > 0 && waitpid(pid, &state, 0) == pid && WIFEXITED(state) ? std::min<int>(WEXITSTATUS(state), NODE) : 0;
}

int main(int argc, char **argv) {
    const int n = count_gpus();
    pid_t pid[NODE], ended;
    pthread_barrierattr_t shared;
    if (n == 0) return printf("no GPU here\n"), 0;
    board *b = (board *)mmap(NULL, sizeof *b, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    must(b != MAP_FAILED && !pthread_barrierattr_init(&shared) && !pthread_barrierattr_setpshared(&shared, PTHREAD_PROCESS_SHARED) &&
             !pthread_barrier_init(&b->barrier, &shared, (unsigned)n), "barrier");
    for (int i = 0; i < n; i++) {
        must((pid[i] = fork()) >= 0, "fork");
        if (pid[i] == 0) exit(run_process(b, i, n, argc > 1 ? atoi(argv[1]) : 0));
    }
    int state, failed = 0;
    while ((ended = wait(&state)) > 0) {
        if (WIFEXITED(state) && WEXITSTATUS(state) == 0) continue;
        for (int i = 0; i < n && !failed; i++)      // the others would wait for it
            if (pid[i] != ended) kill(pid[i], SIGTERM);
        failed = 1;
    }
    return failed;
}
