/* The exchange between GPUs (compute/cuda/exchange.*) against plain code on the host, bit for bit. Without a GPU it says "skipped".
 *
 *   test_exchange            ranks of one process that share a GPU: each stage of all ranks, then the next
 *   test_exchange small      the same, few cases, for a sanitizer
 *   test_exchange ipc [N]    N processes (2 and 4), a GPU each while there are enough, and kernels that wait for each other */
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/rng.h"
#include "cuda/device.h"
#include "cuda/exchange_case.h"

enum { PATIENCE_MS = 8000 };

static int n_failed;

static void claim(bool holds, const char *what, const exchange_case *c) {
    static const char *const kinds[] = {"hsc", "flat", "per-expert"};
    n_failed += !holds;
    printf("%s %s: %d x %d ranks, %s, %s, rows to %d of %d, %d experts, top %d\n", holds ? "ok    " : "FAILED", what, c->n_nodes, c->n_local,
           kinds[c->kind], c->exact ? "exact" : "fast", c->n_rows, c->hidden, c->n_experts, c->top_k);
    fflush(stdout);
}

static uint64_t ns_of_ms(int64_t ms) { return (uint64_t)ms * 1000000; }

static void open_all(exchange_case *c, uint64_t seed, int64_t deadline_ms) {
    case_open(c, seed);
    for (int32_t r = 0; r < c->n_ranks; r++) case_open_rank(c, r, ns_of_ms(deadline_ms), NULL);
    case_connect(c);
}

static bool nobody_was_late(const exchange_case *c) {
    for (int32_t r = 0; r < c->n_ranks; r++) {
        const gr_cuda_watch *w = c->rank[r].watch;
        if (w->stop == 0) continue;
        printf("       rank %d missed local rank %d in stage %d of layer %d\n", r, w->source, w->stage, w->layer);
        return false;
    }
    return true;
}

/* ---- layers one after the other: other rows, other routing, other numbers of rows, the same memory ---- */
static void check_layers(exchange_case c, int32_t n_layers) {
    const routing kinds[] = {ROUTING_RANDOM, ROUTING_GAPS, ROUTING_ONE_RANK, ROUTING_RANDOM, ROUTING_NONE};
    bool outputs = true, slots = true, counts = true, again = true;
    layer_data l = {0};
    open_all(&c, 5, PATIENCE_MS);
    for (int32_t layer = 0; layer < n_layers; layer++) {
        layer_make(&c, 100 + (uint64_t)layer, kinds[layer % 5], &l);
        case_run(&c, &l, layer, layer % 3 * 3);
        for (int32_t r = 0; r < c.n_ranks; r++) {
            outputs = outputs_agree(&c, r, &l) && outputs;
            if (c.n_nodes == 1) slots = slots_agree(&c, r, &l) && slots;
        }
        case_run(&c, &l, layer, 0);
        for (int32_t r = 0; r < c.n_ranks; r++) again = outputs_agree(&c, r, &l) && again;
        layer_free(&l);
    }
    for (int32_t r = 0; r < c.n_ranks; r++) counts = counts_agree(&c, r) && counts;
    claim(outputs, "rows come back with the bits of sums in the stated order", &c);
    claim(again, "so they do with another number of absent rows", &c);
    if (c.n_nodes == 1) claim(slots, "every row meets the slots that were chosen", &c);
    claim(counts, "rows and entries are counted", &c);
    claim(nobody_was_late(&c), "nobody is late", &c);
    case_close(&c);
}

/* ---- recorded ---- */
static void queue_layer(exchange_case *c, gr_cuda_stream stream) {
    for (int32_t r = 0; r < c->n_ranks; r++) case_send(c, r, stream);
    for (int32_t r = 0; r < c->n_ranks; r++) case_compute(c, r, stream);
    for (int32_t r = 0; r < c->n_ranks; r++) case_settle(c, r, stream);
}

static cudaGraphExec_t record(exchange_case *c, cudaStream_t stream, void (*queue)(exchange_case *, gr_cuda_stream)) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess, "capture");
    queue(c, stream);
    must(cudaStreamEndCapture(stream, &graph) == cudaSuccess, "capture");
    must(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess, "graph");
    cudaGraphDestroy(graph);
    return exec;
}

static void check_recorded(exchange_case c) {
    bool agree = true;
    layer_data l = {0};
    cudaStream_t stream;
    open_all(&c, 6, PATIENCE_MS);
    layer_make(&c, 77, ROUTING_GAPS, &l);
    case_run(&c, &l, 3, 2);
    must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess, "stream");
    cudaGraphExec_t exec = record(&c, stream, queue_layer);
    for (int32_t i = 0; i < 5; i++) {
        for (int32_t r = 0; r < c.n_ranks; r++) must(cudaMemset(c.rank[r].out, 0xFF, (size_t)c.n_rows * c.hidden * 2) == cudaSuccess, "poison");
        must(cudaDeviceSynchronize() == cudaSuccess, "poison");
        must(cudaGraphLaunch(exec, stream) == cudaSuccess, "replay");
        case_count(&c, &l);
        for (int32_t r = 0; r < c.n_ranks; r++) agree = outputs_agree(&c, r, &l) && agree;
    }
    for (int32_t r = 0; r < c.n_ranks; r++) agree = counts_agree(&c, r) && agree;
    claim(agree && nobody_was_late(&c), "a recorded layer gives the same bits at every replay", &c);
    cudaGraphExecDestroy(exec), cudaStreamDestroy(stream);
    layer_free(&l), case_close(&c);
}

/* ---- someone does not come ---- */
static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static bool watch_names(const exchange_case *c, int32_t r, int32_t stage, int32_t layer, int32_t source) {
    const gr_cuda_watch *w = c->rank[r].watch;
    if (w->stop && w->stage == stage && w->layer == layer && w->source == source) return true;
    printf("       rank %d: stop %d, stage %d, layer %d, source %d, expected stage %d, layer %d, source %d\n", r, w->stop, w->stage, w->layer, w->source,
           stage, layer, source);
    return false;
}

/* Rank 0 goes on for some layers as if nothing had happened, with so much patience that one wait would be seen. */
static bool goes_on_at_once(exchange_case *c) {
    enum { LAYERS = 4, PATIENCE_S = 30 };
    const double start = seconds();
    c->rank[0].node.deadline_ns = ns_of_ms(1000 * PATIENCE_S);
    for (int32_t i = 0; i < LAYERS; i++) {
        c->rank[0].layer.layer = 100 + i, c->rank[0].layer.n_slots = 1 + i % c->n_slots_of[0];      /* headers may now name slots that are not here */
        case_send(c, 0, NULL), case_compute(c, 0, NULL), case_settle(c, 0, NULL);
    }
    must(cudaDeviceSynchronize() == cudaSuccess, "after a stop");
    if (seconds() - start < PATIENCE_S) return true;
    printf("       %d layers after the stop took %.1f s\n", LAYERS, seconds() - start);
    return false;
}

/* The call whose flag rank 0's first block last raised at rank r in a stage. */
static uint32_t flag_at(const exchange_case *c, int32_t r, int32_t stage) {
    const gr_cuda_node *node = &c->rank[r].node;
    const gr_cuda_area at = gr_cuda_area_of(&node->sizes);
    uint32_t flag;
    to_host(&flag, node->area[r] + at.flags + (size_t)stage * GR_CUDA_NODE_MAX * GR_CUDA_FLAGS * sizeof flag, sizeof flag);
    return flag;
}

/* In the third call it dispatched, and gave back only where it was not late before. */
static bool told_no_garbage(const exchange_case *c, int32_t stage) {
    bool right = true;
    for (int32_t r = 1; r < c->n_local; r++) {
        const uint32_t sent = flag_at(c, r, GR_CUDA_STAGE_DISPATCH), given = flag_at(c, r, GR_CUDA_STAGE_COMBINE);
        const uint32_t expected = stage == GR_CUDA_STAGE_DISPATCH ? 2 : 3;
        if (sent == 3 && given == expected) continue;
        printf("       rank %d: flags of rank 0: expected 3 and %u, found %u and %u\n", r, expected, sent, given);
        right = false;
    }
    return right;
}

static void check_late(exchange_case c, int32_t stage) {
    const int32_t absent = c.n_local - 1;
    layer_data l = {0};
    open_all(&c, 7, 50);
    layer_make(&c, 78, ROUTING_RANDOM, &l);
    for (int32_t layer = 0; layer < 2; layer++) case_run(&c, &l, layer, 1);
    for (int32_t r = 0; r < c.n_ranks; r++) case_feed(&c, r, &l, 2, c.n_rows);
    for (int32_t r = 0; r < c.n_ranks; r++)
        if (r != absent || stage == GR_CUDA_STAGE_COMBINE) case_send(&c, r, NULL);
    for (int32_t r = 0; r < absent; r++) case_compute(&c, r, NULL);
    for (int32_t r = 0; r < absent; r++) case_settle(&c, r, NULL);
    must(cudaDeviceSynchronize() == cudaSuccess, "without one rank");
    bool named = true;
    for (int32_t r = 0; r < absent; r++) named = watch_names(&c, r, stage, 2, absent) && named;
    claim(named, stage == GR_CUDA_STAGE_DISPATCH ? "a rank that does not dispatch is named" : "a rank that gives nothing back is named", &c);
    claim(goes_on_at_once(&c), "no wait goes on after that", &c);
    claim(told_no_garbage(&c, stage), "nobody is told of what is garbage", &c);
    claim(watch_names(&c, 0, stage, 2, absent), "the first who was late stays named", &c);
    layer_free(&l), case_close(&c);
}

static void check_stop(exchange_case c) {
    layer_data l = {0};
    open_all(&c, 8, 1000 * PATIENCE_MS);
    layer_make(&c, 79, ROUTING_RANDOM, &l);
    case_feed(&c, 0, &l, 0, c.n_rows);
    c.rank[0].watch->stop = 1;
    case_send(&c, 0, NULL), case_compute(&c, 0, NULL), case_settle(&c, 0, NULL);
    claim(cudaDeviceSynchronize() == cudaSuccess, "a host ends waits", &c);
    layer_free(&l), case_close(&c);
}

/* ---- wires whose blocks travel whole ---- */
static void check_wire_counts(exchange_case c) {
    enum { WIRES = 3, CAPACITY = 700, N = 600, K = 3 };
    static int32_t sent[WIRES][CAPACITY][K], received[WIRES][N][K];
    int64_t found[2][WIRES][2], expected[2][WIRES][2] = {0};
    gr_rng rng = gr_rng_seed(12);
    for (int32_t w = 0; w < WIRES; w++)
        for (int32_t t = 0; t < CAPACITY; t++) {
            int64_t here[2] = {0};
            for (int32_t j = 0; j < K; j++) {
                sent[w][t][j] = (int32_t)gr_rng_below(&rng, 4) - 2;      /* half are none */
                here[0] += sent[w][t][j] >= 0;
                if (t < N) received[w][t][j] = w == 1 ? -1 : (int32_t)gr_rng_below(&rng, 3) - 1, here[1] += received[w][t][j] >= 0;
            }
            for (int32_t way = 0; way < 2 && t < N; way++) expected[way][w][0] += here[way] > 0, expected[way][w][1] += here[way];
        }
    const gr_cuda_wires wires = {.n_wires = WIRES, .capacity = CAPACITY, .slot = to_device(sent, sizeof sent)};
    int32_t *d_received = to_device(received, sizeof received);
    int64_t *count = to_device(expected, sizeof expected);      /* twice, when it is added to */
    must(!gr_cuda_count_wires(&wires, d_received, N, K, count, NULL), "count wires");
    to_host(found, count, sizeof found);
    bool good = true;
    for (int32_t i = 0; i < 2 * WIRES * 2; i++) {
        const int64_t is = (&found[0][0][0])[i], due = 2 * (&expected[0][0][0])[i];
        if (is != due) printf("       wire %d, %s, %s: %lld, expected %lld\n", i / 2 % WIRES, i / 2 < WIRES ? "sent" : "received", i % 2 ? "entries" : "rows",
                              (long long)is, (long long)due);
        good = good && is == due;
    }
    claim(good, "what whole blocks carry is counted", &c);
    cudaFree(wires.slot), cudaFree(d_received), cudaFree(count);
}

/* ---- limits ---- */
static void check_limits(exchange_case c) {
    layer_data l = {0};
    open_all(&c, 9, PATIENCE_MS);
    layer_make(&c, 80, ROUTING_RANDOM, &l);
    case_feed(&c, 0, &l, 0, c.n_rows);
    case_rank *k = &c.rank[0];
    gr_cuda_node node = k->node;
    gr_cuda_layer layer = k->layer;
    gr_cuda_settle settle = k->settle;
    gr_cuda_pairs pairs = k->pairs;
    bool refused = true;
    layer.s = c.n_source + 1, refused = gr_cuda_dispatch(&node, &layer, NULL) == GRACE_ERR_LIMIT && refused;
    layer = k->layer, layer.n_rows = layer.s + 1, refused = gr_cuda_arrive(&node, &layer, NULL, NULL) == GRACE_ERR_LIMIT && refused;
    settle.n = k->layer.n_rows + 1, refused = gr_cuda_settle_rows(&node, &k->layer, &settle, NULL) == GRACE_ERR_LIMIT && refused;
    pairs.n_rows++, refused = gr_cuda_arrive(&node, &k->layer, &pairs, NULL) == GRACE_ERR_LIMIT && refused;
    refused = gr_cuda_give_back(&node, &k->layer, &pairs, k->y, NULL) == GRACE_ERR_LIMIT && refused;
    node.me = c.n_local, refused = gr_cuda_node_check(&node) == GRACE_ERR_LIMIT && refused;
    node = k->node, node.area[0] = NULL, refused = gr_cuda_node_check(&node) == GRACE_ERR_LIMIT && refused;
    claim(refused, "what the memory does not hold is refused", &c);
    layer_free(&l), case_close(&c);
}

/* ---- processes ---- */
static void get(int fd, void *to, size_t n) { must(recv(fd, to, n, MSG_WAITALL) == (ssize_t)n, "another process is gone"); }
static void put(int fd, const void *from, size_t n) { must(send(fd, from, n, MSG_NOSIGNAL) == (ssize_t)n, "another process is gone"); }

static void join_areas(exchange_case *c, int32_t me, int fd) {
    char handles[CASE_RANKS][GR_CUDA_HANDLE_BYTES];
    void *area = NULL;
    const gr_cuda_area_sizes sizes = {c->n_local, c->n_source, c->k, c->hidden, c->exact};
    must(!gr_cuda_share(gr_cuda_area_of(&sizes).bytes, &area, handles[me]), "share");
    put(fd, handles[me], sizeof handles[me]);
    get(fd, handles, (size_t)c->n_ranks * sizeof *handles);
    case_open_rank(c, me, ns_of_ms(PATIENCE_MS), area);
    for (int32_t r = 0; r < c->n_ranks; r++) {
        void *other = area;
        if (r != me) must(!gr_cuda_attach(handles[r], &other), "attach");
        c->rank[me].node.area[r] = other;
    }
    must(!gr_cuda_node_check(&c->rank[me].node), "node");
}

static int32_t most_rows(const exchange_case *c, const layer_data *l) {
    int32_t s = 0;
    for (int32_t r = 0; r < c->n_ranks; r++) s = l->n[r] * c->fan > s ? l->n[r] * c->fan : s;
    return s;
}

static int32_t rank_of_process;
static void queue_own(exchange_case *c, gr_cuda_stream stream) {
    case_send(c, rank_of_process, stream), case_compute(c, rank_of_process, stream), case_settle(c, rank_of_process, stream);
}

/* Layers with the host waiting after each, then a recorded one again and again without. */
static void run_process(exchange_case c, int32_t me, int32_t n_gpus, int fd) {
    enum { KINDS = 8 };
    const int32_t n_layers = n_gpus >= c.n_ranks ? 300 : 24;
    layer_data l[KINDS] = {0};
    bool agree = true;
    cudaStream_t stream;
    rank_of_process = me;
    case_open(&c, 11);
    for (int32_t i = 0; i < KINDS; i++) layer_make(&c, 200 + (uint64_t)i, i % 3 == 0 ? ROUTING_GAPS : i == 4 ? ROUTING_ONE_RANK : ROUTING_RANDOM, &l[i]);
    join_areas(&c, me, fd);
    for (int32_t i = 0; i < n_layers && agree; i++) {
        const layer_data *now = &l[i % KINDS];
        case_feed(&c, me, now, i, most_rows(&c, now) + i % 2);
        queue_own(&c, NULL);
        case_count(&c, now);
        agree = outputs_agree(&c, me, now);
    }
    must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess, "stream");
    case_feed(&c, me, &l[1], n_layers, most_rows(&c, &l[1]));
    must(cudaDeviceSynchronize() == cudaSuccess, "feed");
    cudaGraphExec_t exec = record(&c, stream, queue_own);
    for (int32_t i = 0; i < n_layers; i++) must(cudaGraphLaunch(exec, stream) == cudaSuccess, "replay"), case_count(&c, &l[1]);
    agree = outputs_agree(&c, me, &l[1]) && counts_agree(&c, me) && agree;
    const gr_cuda_watch *w = c.rank[me].watch;
    if (w->stop) printf("       process %d missed local rank %d in stage %d of layer %d\n", me, w->source, w->stage, w->layer);
    put(fd, &agree, sizeof agree);
    get(fd, &agree, sizeof agree);      /* all are done */
    for (int32_t r = 0; r < c.n_ranks; r++)
        if (r != me) gr_cuda_detach(c.rank[me].node.area[r]);
    put(fd, &agree, sizeof agree);
    get(fd, &agree, sizeof agree);      /* all have detached */
    cudaGraphExecDestroy(exec), cudaStreamDestroy(stream);
    for (int32_t i = 0; i < KINDS; i++) layer_free(&l[i]);
    case_close(&c);
}

static int child(exchange_case c, int32_t me, int fd) {
    int n_gpus = 0;
    bool ready = cudaGetDeviceCount(&n_gpus) == cudaSuccess && n_gpus > 0;
    put(fd, &ready, sizeof ready);
    if (!ready) return SKIPPED;
    must(cudaSetDevice(me % n_gpus) == cudaSuccess, "device");
    run_process(c, me, n_gpus, fd);
    return 0;
}

/* What every process says, to every process. */
static bool gather_and_send(const int *fd, int32_t n, size_t bytes) {
    char all[CASE_RANKS * GR_CUDA_HANDLE_BYTES];
    for (int32_t i = 0; i < n; i++)
        if (recv(fd[i], all + (size_t)i * bytes, bytes, MSG_WAITALL) != (ssize_t)bytes) return false;
    for (int32_t i = 0; i < n; i++)
        if (send(fd[i], all, (size_t)n * bytes, MSG_NOSIGNAL) != (ssize_t)((size_t)n * bytes)) return false;
    return true;
}

static bool all_true(const int *fd, int32_t n) {
    bool all = true, one = false;
    for (int32_t i = 0; i < n; i++) all = recv(fd[i], &one, sizeof one, MSG_WAITALL) == sizeof one && one && all;
    return all;
}

static void tell_all(const int *fd, int32_t n, bool word) {
    for (int32_t i = 0; i < n; i++) (void)!send(fd[i], &word, sizeof word, MSG_NOSIGNAL);
}

/* Before any call of CUDA in this process: children begin with a clean one. Returns false where there is no GPU. */
static bool check_processes(exchange_case c, int32_t n) {
    int fd[CASE_RANKS], ends[2], state, n_good = 0;
    pid_t pid[CASE_RANKS];
    c.n_nodes = 1, c.n_local = n;
    for (int32_t i = 0; i < n; i++) {
        must(socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0 && fflush(stdout) == 0, "socketpair");
        must((pid[i] = fork()) >= 0, "fork");
        if (pid[i] == 0) {
            for (int32_t j = 0; j < i; j++) close(fd[j]);
            close(ends[0]);
            exit(child(c, i, ends[1]));
        }
        close(ends[1]), fd[i] = ends[0];
    }
    const bool ready = all_true(fd, n);
    bool agree = ready && gather_and_send(fd, n, GR_CUDA_HANDLE_BYTES) && all_true(fd, n);
    if (ready) tell_all(fd, n, agree), all_true(fd, n), tell_all(fd, n, agree);
    for (int32_t i = 0; i < n; i++) close(fd[i]);
    for (int32_t i = 0; i < n; i++) {
        const bool good = waitpid(pid[i], &state, 0) == pid[i] && WIFEXITED(state) && WEXITSTATUS(state) == 0;
        if (ready && !good)
            printf("       process %d: %s %d\n", i, WIFSIGNALED(state) ? "signal" : "exit", WIFSIGNALED(state) ? WTERMSIG(state) : WEXITSTATUS(state));
        n_good += good;
    }
    if (ready) claim(agree && n_good == n, "processes that wait for each other get the same bits", &c);
    return ready;
}

static int main_of_processes(int32_t only) {
    const exchange_case fast = {.hidden = 256, .width = 16, .top_k = 4, .n_experts = 16, .n_rows = 60};
    for (int32_t n = 2; n <= 4; n += 2)
        for (int32_t exact = 0; exact < 2 && (only == 0 || n == only); exact++) {
            exchange_case c = fast;
            c.exact = exact;
            if (check_processes(c, n)) continue;
            printf("[  SKIPPED ] processes that exchange rows: no GPU here\n");
            return SKIPPED;
        }
    printf("%d failed\n", n_failed);
    return n_failed > 0;
}

/* ---- cases ---- */
static void check_small(exchange_case c) {
    c.n_nodes = 1, c.hidden = 64, c.width = 16, c.top_k = 3, c.n_experts = 12, c.n_rows = 9;
    c.n_local = 3, check_layers(c, 5);
    c.n_local = 2, c.kind = KIND_PER_EXPERT, check_layers(c, 2);
    for (c.kind = KIND_HSC; c.kind <= KIND_PER_EXPERT; c.kind++) c.n_nodes = 2, check_layers(c, 2);
}

static void check_ranks(exchange_case c) {
    const int32_t n_local[] = {1, 2, 3, 4, 8};
    c.n_nodes = 1, c.hidden = 1032, c.width = 16, c.top_k = 4, c.n_experts = 24, c.n_rows = 50;
    for (int i = 0; i < 5; i++) c.n_local = n_local[i], check_layers(c, 6);
    c.n_local = 4, c.kind = KIND_PER_EXPERT, check_layers(c, 3);
    for (c.kind = KIND_HSC; c.kind <= KIND_PER_EXPERT; c.kind++)
        for (int i = 0; i < 4; i++)
            if (n_local[i] != 3) c.n_nodes = 2, c.n_local = n_local[i], check_layers(c, 5);
}

/* Fewer parts a row, more turns of a warp and of the scan. */
static void check_many(exchange_case c) {
    c.n_nodes = 1, c.n_local = 4, c.hidden = 328, c.width = 8, c.top_k = 2, c.n_experts = 8, c.n_rows = 400;
    check_layers(c, 2);
    c.n_rows = 2600, c.hidden = 64, check_layers(c, 2);
    c.n_nodes = 2, c.n_local = 2, check_layers(c, 2);
}

int main(int argc, char **argv) {
    const bool small = argc > 1 && strcmp(argv[1], "small") == 0;
    if (argc > 1 && strcmp(argv[1], "ipc") == 0) return main_of_processes(argc > 2 ? atoi(argv[2]) : 0);
    if (no_gpu("the exchange between GPUs")) return SKIPPED;
    const exchange_case few = {.n_nodes = 1, .n_local = 3, .hidden = 64, .width = 16, .top_k = 3, .n_experts = 12, .n_rows = 10};
    for (int exact = 0; exact < 2; exact++) {
        check_small((exchange_case){.exact = exact});
        if (!small) check_ranks((exchange_case){.exact = exact}), check_many((exchange_case){.exact = exact});
    }
    check_recorded(few);
    check_late(few, GR_CUDA_STAGE_DISPATCH), check_late(few, GR_CUDA_STAGE_COMBINE);
    check_stop(few), check_limits(few), check_wire_counts(few);
    printf("%d failed\n", n_failed);
    return n_failed > 0;
}
