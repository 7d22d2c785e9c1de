/* Wires (comm/wire.h) between processes: what goes in on one side comes out on the other, whatever the sizes, over NCCL and through pinned memory;
 * and peers that
 * do not come, die or stall end in an error in time. One GPU does for staged; NCCL's claims need two, and say "skipped" else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <cuda_runtime_api.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/rng.h"
#include "comm/wire.h"
#include "cuda/device.h"
#include "cuda/mesh.h"

enum { GUARD = 64, PIECES = 3, MOVES = 5, POISON = 0xA5 };

static const double patient_s = 30;             /* where all goes well: NCCL's first start takes its time */
static const double slack_s = 4;                /* a call may wait for a deadline, and the machine may be busy */
static int n_gpus;
static bool is_small;

static int count_gpus(void) {
    int n = 0;
    return cudaGetDeviceCount(&n) == cudaSuccess ? n : 0;
}

/* ---- one world: all moves of a kind ---- */

typedef struct plan { const char *kind, *expected; int32_t n_gpus; bool graph; } plan;

/* Any rank knows the size of any piece of any move. Some are empty, some go over several rounds. */
static size_t size_of(int move, int32_t from, int32_t to, int piece) {
    static const size_t limits[] = {0, 17, 4096, 300001, 21 << 20};
    gr_rng rng = gr_rng_seed((uint64_t)move << 32 ^ (uint64_t)from << 20 ^ (uint64_t)to << 10 ^ (uint64_t)piece);
    for (int i = 0; i < 3; i++) gr_rng_next(&rng);
    size_t limit = limits[gr_rng_below(&rng, is_small ? 4 : piece == 0 ? 5 : 4)];
    return limit ? gr_rng_below(&rng, (uint32_t)limit) : 0;
}

static uint8_t byte_of(int move, int32_t from, int32_t to, int piece, size_t i) {
    uint64_t x = (i + 1) * 0x9E3779B97F4A7C15u + (uint64_t)(move * 1009 + from * 101 + to * 11 + piece) * 0xBF58476D1CE4E5B9u;
    return (uint8_t)(x >> 40);
}

/* The bytes of a piece on the device, somewhere odd; from NULL: poison. */
static char *device_piece(const uint8_t *bytes, size_t n) {
    char *d = to_device(NULL, n + 2 * GUARD);
    must(cudaMemset(d, POISON, n + 2 * GUARD) == cudaSuccess, "poison");
    if (bytes && n) must(cudaMemcpy(d + GUARD, bytes, n, cudaMemcpyHostToDevice) == cudaSuccess, "fill");
    return d;
}

static void make_piece(int move, int32_t me, int32_t peer, int piece, gr_wire_piece *out) {
    size_t n = size_of(move, me, peer, piece), n_recv = size_of(move, peer, me, piece);
    uint8_t *bytes = malloc(n + 1);
    for (size_t i = 0; i < n; i++) bytes[i] = byte_of(move, me, peer, piece, i);
    *out = (gr_wire_piece){peer, device_piece(bytes, n) + GUARD, n, device_piece(NULL, n_recv) + GUARD, n_recv};
    free(bytes);
}

static void check_piece(int move, int32_t me, int piece, const gr_wire_piece *p) {
    uint8_t *found = malloc(p->n_recv + 2 * GUARD);
    must(cudaMemcpy(found, (char *)p->recv - GUARD, p->n_recv + 2 * GUARD, cudaMemcpyDeviceToHost) == cudaSuccess, "read");
    for (size_t i = 0; i < p->n_recv + 2 * GUARD; i++) {
        bool inside = i >= GUARD && i < GUARD + p->n_recv;
        uint8_t expected = inside ? byte_of(move, p->peer, me, piece, i - GUARD) : POISON;
        if (found[i] == expected) continue;
        fprintf(stderr, "rank %d: move %d, piece %d from rank %d, %zu bytes: byte %zd: expected %02x, found %02x\n", me, move, piece, p->peer, p->n_recv,
                (ssize_t)i - GUARD, expected, found[i]);
        _exit(1);
    }
    free(found);
    cudaFree((char *)p->recv - GUARD);
    cudaFree((char *)p->send - GUARD);
}

/* As a host should wait: looking after the wire. */
static grace_status wait_for(gr_wire *w, cudaStream_t stream) {
    cudaEvent_t event;
    must(cudaEventCreateWithFlags(&event, cudaEventDisableTiming) == cudaSuccess && cudaEventRecord(event, stream) == cudaSuccess, "event");
    grace_status st = gr_wire_wait(w, event);
    cudaEventDestroy(event);
    return st;
}

/* PIECES with every peer in turn. */
static void move_and_check(gr_wire *w, const gr_comm *world, int move, cudaStream_t stream) {
    gr_wire_piece pieces[MESH_MAX * PIECES];
    int32_t n = 0;
    for (int piece = 0; piece < PIECES; piece++)
        for (int32_t p = 0; p < world->n_ranks; p++)
            if (p != world->rank) make_piece(move, world->rank, p, piece, &pieces[n++]);
    must(cudaDeviceSynchronize() == cudaSuccess, "fill");
    must(gr_wire_move(w, pieces, n, stream) == GRACE_OK, "gr_wire_move");
    must(wait_for(w, stream) == GRACE_OK, "gr_wire_check");
    for (int32_t i = 0; i < n; i++) check_piece(move, world->rank, i / (world->n_ranks - 1), &pieces[i]);
}

/* Rank 0 sends to rank 1 and back, n bytes each way at once. */
static void time_moves(gr_wire *w, const gr_comm *world, size_t n, cudaStream_t stream) {
    enum { TIMES = 20 };
    double host_us = 0, all_us = 0;
    gr_wire_piece piece = {1 - world->rank, to_device(NULL, n), n, to_device(NULL, n), n};
    int32_t n_pieces = world->rank < 2;
    for (int i = 0; i < TIMES + 2; i++) {
        double start_us = gr_now_us();
        must(gr_wire_move(w, &piece, n_pieces, stream) == GRACE_OK, "gr_wire_move");
        host_us += i < 2 ? 0 : gr_now_us() - start_us;
        while (cudaStreamQuery(stream) == cudaErrorNotReady) must(gr_wire_check(w) == GRACE_OK, "gr_wire_check");
        all_us += i < 2 ? 0 : gr_now_us() - start_us;
    }
    if (world->rank == 0)
        printf("%s, %d ranks: %zu bytes both ways: the host is done after %.1f us, the move after %.1f us (%.2f GB/s each way)\n", gr_wire_kind(w),
               world->n_ranks, n, host_us / TIMES, all_us / TIMES, (double)n * TIMES / all_us / 1e3);
    cudaFree((void *)piece.send);
    cudaFree(piece.recv);
}

static cudaGraphExec_t record_move(gr_wire *w, const gr_wire_piece *piece, cudaStream_t stream) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess, "capture");
    must(gr_wire_move(w, piece, 1, stream) == GRACE_OK, "gr_wire_move while capturing");
    must(cudaStreamEndCapture(stream, &graph) == cudaSuccess, "capture");
    must(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess && cudaGraphDestroy(graph) == cudaSuccess, "instantiate");
    return exec;
}

static cudaGraphExec_t replay_in_graph(gr_wire *w, const gr_comm *world, cudaStream_t stream) {
    enum { N = 100000 };
    uint8_t *host = malloc(N);
    gr_wire_piece piece = {1 - world->rank, to_device(NULL, N), N, to_device(NULL, N), N};
    cudaGraphExec_t exec = record_move(w, &piece, stream);
    for (int turn = 0; turn < 5; turn++) {
        must(cudaMemset((void *)piece.send, turn * 2 + world->rank, N) == cudaSuccess && cudaDeviceSynchronize() == cudaSuccess, "fill");
        must(cudaGraphLaunch(exec, stream) == cudaSuccess, "launch");
        must(wait_for(w, stream) == GRACE_OK, "gr_wire_check");
        to_host(host, piece.recv, N);
        for (size_t i = 0; i < N; i++) must(host[i] == turn * 2 + 1 - world->rank, "bytes of a replayed move");
    }
    free(host);
    return exec;
}

static gr_wire *open_wire(gr_comm *world, const char *kind, int32_t device) {
    gr_wire *w = NULL;
    must(gr_wire_open(world, kind, device, world->deadline_s, &w) == GRACE_OK, "gr_wire_open");
    return w;
}

static cudaStream_t new_stream(void) {
    cudaStream_t stream;
    must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess, "stream");
    return stream;
}

static int all_moves(gr_comm *world, const void *arg) {
    const plan *p = arg;
    gr_wire *w = open_wire(world, p->kind, world->rank % p->n_gpus);
    must(strcmp(gr_wire_kind(w), p->expected) == 0, "the kind that was expected");
    cudaStream_t stream = new_stream();
    must(gr_wire_move(w, NULL, 0, stream) == GRACE_OK, "a move of nothing");
    for (int move = 0; move < MOVES; move++) move_and_check(w, world, move, stream);
    for (size_t n = 4096; n <= 16 << 20 && !is_small; n *= 64) time_moves(w, world, n, stream);
    cudaGraphExec_t graph = p->graph ? replay_in_graph(w, world, stream) : NULL;
    must(cudaStreamSynchronize(stream) == cudaSuccess, "stream");
    gr_wire_close(w);
    must(!graph || cudaGraphExecDestroy(graph) == cudaSuccess, "a graph that outlives the wire");
    return 0;
}

/* As on two machines: NCCL then goes over sockets. The shell's other settings stay. */
static int all_moves_between_hosts(gr_comm *world, const void *arg) {
    setenv("NCCL_HOSTID", world->rank == 0 ? "first" : "second", 1);
    return all_moves(world, arg);
}

/* ---- claims ---- */

static bool few_gpus(const char *claim) {
    if (n_gpus >= 2 && gr_wire_has_nccl()) return false;
    printf("[  SKIPPED ] %s: needs NCCL and two GPUs\n", claim);
    return true;
}

static void staged_moves_every_byte_on_one_gpu(void **state) {
    (void)state;
    const plan p = {"staged", "staged", 1, false};
    assert_true(mesh_run(2, 2, patient_s, all_moves, &p));
    assert_true(mesh_run(4, 2, patient_s, all_moves, &p));
}

static void nccl_moves_every_byte_also_in_a_graph(void **state) {
    (void)state;
    const plan p = {"auto", "nccl", 2, true};
    if (few_gpus(__func__)) return;
    assert_true(mesh_run(2, 2, patient_s, all_moves, &p));
}

static void nccl_moves_every_byte_between_hosts(void **state) {
    (void)state;
    const plan p = {"nccl", "nccl", 2, true};
    if (few_gpus(__func__)) return;
    assert_true(mesh_run(2, 2, patient_s, all_moves_between_hosts, &p));
}

static void must_fail(grace_status found, grace_status expected, const char *words) {
    if (found == expected && strstr(grace_last_error(), words)) return;
    fprintf(stderr, "expected status %d with '%s', found %d: %s\n", (int)expected, words, (int)found, found ? grace_last_error() : "");
    _exit(1);
}

static int share_a_gpu(gr_comm *world, const void *arg) {
    gr_wire *w = NULL;
    (void)arg;
    must_fail(gr_wire_open(world, "pigeon", 0, patient_s, &w), GRACE_ERR_ARG, "expected auto, sockets, nccl or staged, found pigeon");
    must_fail(gr_wire_open(world, "nccl", 0, patient_s, &w), GRACE_ERR_UNSUPPORTED, "");
    must(strstr(grace_last_error(), "ranks 0 and 1 share the GPU") || strstr(grace_last_error(), "rank 0 has no NCCL"), "why there is no NCCL");
    w = open_wire(world, "auto", 0);
    must(strcmp(gr_wire_kind(w), "staged") == 0, "auto takes staged");
    gr_wire_close(w);
    return 0;
}

static void ranks_that_share_a_gpu_take_staged(void **state) {
    (void)state;
    assert_true(mesh_run(2, 2, patient_s, share_a_gpu, NULL));
}

/* ---- faults: rank 0 must hear of them in time ---- */

static double since_us;

static void in_time(const gr_comm *world, const char *what) {
    double s = (gr_now_us() - since_us) / 1e6;
    printf("%s: after %.1f s: %s\n", what, s, grace_last_error());
    must(s < world->deadline_s + slack_s, "in time");
}

static int rank_1_stays_away(gr_comm *world, const void *arg) {
    gr_wire *w = NULL;
    if (world->rank == 1) return sleep((unsigned)(world->deadline_s + 1)), 0;
    since_us = gr_now_us();
    must_fail(gr_wire_open(world, arg, 0, world->deadline_s, &w), GRACE_ERR_COMM, "rank 1");
    in_time(world, "never joins");
    return 0;
}

static void a_rank_that_never_joins_is_named(void **state) {
    (void)state;
    assert_true(mesh_run(2, 2, 2, rank_1_stays_away, "auto"));
}

typedef struct fault { const char *kind; bool dies, hosts, graph; double deadline_s; const char *words; } fault;

static void end_in_time(const gr_comm *world, cudaStream_t stream) {
    double closed_us = gr_now_us();
    while (cudaStreamQuery(stream) == cudaErrorNotReady) must(gr_now_us() - closed_us < 1e6 * slack_s, "closing the wire ends what waits on the stream");
    in_time(world, "closed");
}

/* One good move; then rank 1 dies, or sleeps. */
static int rank_1_goes(gr_comm *world, const void *arg) {
    const fault *f = arg;
    if (f->hosts) setenv("NCCL_HOSTID", world->rank == 0 ? "first" : "second", 1);
    gr_wire *w = open_wire(world, f->kind, strcmp(f->kind, "nccl") == 0 ? world->rank : 0);
    cudaStream_t stream = new_stream();
    gr_wire_piece piece = {1 - world->rank, to_device(NULL, 8192), 8192, to_device(NULL, 8192), 8192};
    must(gr_wire_move(w, &piece, 1, stream) == GRACE_OK && wait_for(w, stream) == GRACE_OK, "a good move");
    cudaGraphExec_t graph = f->graph ? record_move(w, &piece, stream) : NULL;
    if (world->rank == 1 && f->dies) _exit(0);
    if (world->rank == 1) return sleep((unsigned)(world->deadline_s + 2)), 0;
    since_us = gr_now_us();
    gr_comm_at("dispatch", 7);
    grace_status st = graph ? cudaGraphLaunch(graph, stream) == cudaSuccess ? GRACE_OK : GRACE_ERR_UNSUPPORTED : gr_wire_move(w, &piece, 1, stream);
    if (st == GRACE_OK) st = wait_for(w, stream);
    must_fail(st, GRACE_ERR_COMM, f->words);
    in_time(world, f->dies ? "dies" : "stalls");
    must_fail(gr_wire_move(w, &piece, 1, stream), GRACE_ERR_COMM, "already failed");
    gr_wire_close(w);
    end_in_time(world, stream);
    return 0;
}

static void a_rank_that_dies_or_stalls_ends_the_others_in_time(void **state) {
    (void)state;
    const fault faults[] = {
        {"staged", true, false, false, 2, "rank 1 is gone"},
        {"staged", false, false, false, 2, "rank 1 missing after"},
        {"nccl", true, false, false, 5, "rank 0: dispatch of layer 7: "},
        {"nccl", true, true, false, 5, "rank 0: dispatch of layer 7: "},
        {"nccl", false, false, false, 5, "rank 0: dispatch of layer 7: 8192 bytes from and 8192 to rank 1 over NCCL have not moved after 5 s"},
        {"nccl", false, false, true, 5, "rank 0: dispatch of layer 7: what was queued with moves over the wire has not ended after 5 s"},
    };
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        if (faults[i].kind[0] == 'n' && few_gpus(__func__)) continue;
        if (!mesh_run(2, 2, faults[i].deadline_s, rank_1_goes, &faults[i])) fail_msg("fault %zu, %s", i, faults[i].kind);
    }
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(staged_moves_every_byte_on_one_gpu),
        cmocka_unit_test(ranks_that_share_a_gpu_take_staged),
        cmocka_unit_test(nccl_moves_every_byte_also_in_a_graph),
        cmocka_unit_test(nccl_moves_every_byte_between_hosts),
        cmocka_unit_test(a_rank_that_never_joins_is_named),
        cmocka_unit_test(a_rank_that_dies_or_stalls_ends_the_others_in_time),
    };
    is_small = argc > 1 && strcmp(argv[1], "small") == 0;
    n_gpus = mesh_ask(count_gpus);
    if (n_gpus == 0) return printf("[  SKIPPED ] wires: no GPU here\n"), SKIPPED;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
