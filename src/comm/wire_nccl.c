/* Wires of NCCL: one communicator over all ranks, grouped sends and receives. The library is opened when it is first wanted, so a program starts on machines
 * without it. The communicator does not block: whatever it has under way is polled, up to the deadline. */
#include "comm/wire_kind.h"
#ifdef GRACE_HAVE_NCCL
#include <dlfcn.h>
#include <inttypes.h>
#include <nccl.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"

enum {
    OLDEST = 21800,                     /* NCCL 2.18: the configuration's fields that are set here */
    N_MOVES = 256,                      /* watched at a time */
    MOST_BLOCKS = 8,                    /* multiprocessors a move takes: kernels that spin leave as many */
    TRY_BYTES = 256,
    GRAPHS_END_S = 2                    /* waited at the end for graphs with moves */
};

#define NCCL_CALLS(X)                                                                                                                                   \
    X(GetVersion) X(GetUniqueId) X(CommInitRankConfig) X(CommGetAsyncError) X(CommAbort) X(CommDestroy) X(GroupStart) X(GroupEnd) X(Send) X(Recv)        \
    X(GetErrorString) X(GetLastError)

static struct {
    bool is_there;
#define X(name) __typeof__(&nccl##name) name;
    NCCL_CALLS(X)
#undef X
} api;

static grace_status find_calls(void *library) {
    grace_status st = GRACE_OK;
#define X(name)                                                                                                                                         \
    api.name = (__typeof__(&nccl##name))dlsym(library, "nccl" #name);                                                                                   \
    GR_CHECK(api.name, GRACE_ERR_UNSUPPORTED, "NCCL: the library has no nccl" #name);
    NCCL_CALLS(X)
#undef X
done:
    return st;
}

grace_status gr_wire_nccl_load(void) {
    grace_status st = GRACE_OK;
    int version = 0;
    if (api.is_there) return GRACE_OK;
    setenv("NCCL_NVLS_ENABLE", "0", 1);         /* before the first call: no multicast objects, ever */
    setenv("NCCL_SOCKET_NTHREADS", "2", 0);     /* unless the user says so: four connections where it would take one, which hardly fills 25 Gbit/s */
    setenv("NCCL_NSOCKS_PERTHREAD", "2", 0);
    void *library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (!library) library = dlopen(GRACE_NCCL_LIBRARY, RTLD_NOW | RTLD_LOCAL);
    GR_CHECK(library, GRACE_ERR_UNSUPPORTED, "NCCL: %s", dlerror());
    GR_TRY(find_calls(library));
    GR_CHECK(api.GetVersion(&version) == ncclSuccess && version >= OLDEST, GRACE_ERR_UNSUPPORTED, "NCCL: expected version %d or newer, found %d", OLDEST,
             version);
    api.is_there = true;
done:
    return st;
}

/* ---- moves that have not ended ---- */

typedef struct move {
    cudaEvent_t ended;
    double queued_us;
    char where[64];                     /* where the host was when it queued the move */
    int64_t n_send, n_recv;             /* bytes */
    int32_t peer, n_peers;              /* the first, and how many pieces have one */
} move;

typedef struct nccl_wire {
    gr_wire base;
    ncclComm_t comm;
    bool in_graphs;                     /* moves were recorded */
    bool is_ending;                     /* by `ender`, which aborts */
    pthread_t ender;
    move moves[N_MOVES];                /* move i is moves[i % N_MOVES] */
    int64_t n_begun, n_ended;
    double progress_us;                 /* when one was last seen to have ended */
} nccl_wire;

static grace_status nccl_status(const nccl_wire *w, ncclResult_t result, const char *what) {
    char where[128];
    if (result == ncclSuccess || result == ncclInProgress) return GRACE_OK;
    const char *words = w->comm ? api.GetLastError(w->comm) : NULL;
    return gr_fail(GRACE_ERR_COMM, "%sNCCL: %s: %s%s%s", gr_wire_here(&w->base, where, sizeof where), what, api.GetErrorString(result),
                   words && *words ? ": " : "", words && *words ? words : "");
}

static void pause_after(double idle_us) {       /* a move is microseconds, joining takes a second */
    if (idle_us < 1000) sched_yield();
    else nanosleep(&(struct timespec){.tv_nsec = 200000}, NULL);
}

/* Until the communicator has nothing under way on the host. */
static grace_status settle(const nccl_wire *w, const char *what) {
    grace_status st = GRACE_OK;
    char where[128];
    ncclResult_t state = ncclInProgress;
    for (double start_us = gr_now_us(), now_us = start_us;; now_us = gr_now_us()) {
        GR_TRY(nccl_status(w, api.CommGetAsyncError(w->comm, &state), what));
        if (state != ncclInProgress) return nccl_status(w, state, what);
        GR_CHECK(now_us - start_us < 1e6 * w->base.deadline_s, GRACE_ERR_COMM, "%sNCCL: %s has not ended after %g s",
                 gr_wire_here(&w->base, where, sizeof where), what, w->base.deadline_s);
        pause_after(now_us - start_us);
    }
done:
    return st;
}

static grace_status retire(nccl_wire *w) {
    while (w->n_ended < w->n_begun) {
        cudaError_t e = cudaEventQuery(w->moves[w->n_ended % N_MOVES].ended);
        if (e == cudaErrorNotReady) break;
        if (e != cudaSuccess) return gr_wire_cuda(e, "a move over the wire");
        w->n_ended++;
        w->progress_us = gr_now_us();
    }
    return GRACE_OK;
}

static void describe(const nccl_wire *w, const gr_wire_piece *pieces, int32_t n, move *m) {
    gr_wire_here(&w->base, m->where, sizeof m->where);
    m->queued_us = gr_now_us();
    m->n_send = m->n_recv = m->n_peers = 0;
    for (int32_t i = 0; i < n; i++) {
        if (!pieces[i].n_send && !pieces[i].n_recv) continue;
        if (m->n_peers++ == 0) m->peer = pieces[i].peer;
        m->n_send += (int64_t)pieces[i].n_send;
        m->n_recv += (int64_t)pieces[i].n_recv;
    }
}

/* With N_MOVES of them under way the next one is not watched: those before it are. */
static grace_status watch(nccl_wire *w, const gr_wire_piece *pieces, int32_t n, cudaStream_t stream) {
    grace_status st = GRACE_OK;
    GR_TRY(retire(w));
    if (w->n_begun - w->n_ended == N_MOVES) return GRACE_OK;
    move *m = &w->moves[w->n_begun % N_MOVES];
    describe(w, pieces, n, m);
    GR_TRY(gr_wire_cuda(cudaEventRecord(m->ended, stream), "cudaEventRecord"));
    w->n_begun++;
done:
    return st;
}

static grace_status check_late(const nccl_wire *w) {
    const move *m = &w->moves[w->n_ended % N_MOVES];
    if (w->n_ended == w->n_begun) return GRACE_OK;
    double since_us = w->progress_us > m->queued_us ? w->progress_us : m->queued_us;
    if (gr_now_us() - since_us < 1e6 * w->base.deadline_s) return GRACE_OK;
    return gr_fail(GRACE_ERR_COMM, "%s%" PRId64 " bytes from and %" PRId64 " to rank %d%s over NCCL have not moved after %g s", m->where, m->n_recv, m->n_send,
                   m->peer, m->n_peers > 1 ? " and others" : "", w->base.deadline_s);
}

/* ---- the table ---- */

static ncclResult_t queue_piece(const nccl_wire *w, const gr_wire_piece *p, cudaStream_t stream) {
    ncclResult_t result = ncclSuccess;
    if (p->n_send) result = api.Send(p->send, p->n_send, ncclInt8, p->peer, w->comm, stream);
    if (p->n_recv && (result == ncclSuccess || result == ncclInProgress)) result = api.Recv(p->recv, p->n_recv, ncclInt8, p->peer, w->comm, stream);
    return result;
}

static grace_status nccl_move(gr_wire *base, const gr_wire_piece *pieces, int32_t n, struct CUstream_st *stream) {
    grace_status st = GRACE_OK;
    nccl_wire *w = (nccl_wire *)base;
    ncclResult_t result = ncclSuccess, end;
    enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    bool is_empty = true;
    for (int32_t i = 0; i < n; i++) is_empty = is_empty && !pieces[i].n_send && !pieces[i].n_recv;
    if (is_empty) return GRACE_OK;
    GR_TRY(gr_wire_cuda(cudaStreamIsCapturing(stream, &capture), "cudaStreamIsCapturing"));
    GR_TRY(nccl_status(w, api.GroupStart(), "a move"));
    for (int32_t i = 0; i < n && (result == ncclSuccess || result == ncclInProgress); i++) result = queue_piece(w, &pieces[i], stream);
    end = api.GroupEnd();               /* in any case: the group is the thread's */
    GR_TRY(nccl_status(w, result, "a move"));
    GR_TRY(nccl_status(w, end, "a move"));
    GR_TRY(settle(w, "queueing a move"));
    if (capture == cudaStreamCaptureStatusNone) GR_TRY(watch(w, pieces, n, stream));
    else w->in_graphs = true;
done:
    return st;
}

static grace_status nccl_check(gr_wire *base) {
    grace_status st = GRACE_OK;
    nccl_wire *w = (nccl_wire *)base;
    ncclResult_t state = ncclSuccess;
    GR_TRY(nccl_status(w, api.CommGetAsyncError(w->comm, &state), "a move"));
    GR_TRY(nccl_status(w, state, "a move"));
    GR_TRY(retire(w));
    GR_TRY(check_late(w));
done:
    return st;
}

static void *destroy(void *comm) { return api.CommDestroy(comm), NULL; }

/* Ends the kernels of moves whose peer does not come, first of all. */
static void *abort_moves(void *comm) { return api.CommAbort(comm), NULL; }

/* In a thread: NCCL first ends the kernels of moves, then waits for the end of graphs that hold some, whose owner waits for those kernels. */
static void nccl_abort(gr_wire *base) {
    nccl_wire *w = (nccl_wire *)base;
    if (!w->comm || w->is_ending) return;
    w->is_ending = pthread_create(&w->ender, NULL, abort_moves, w->comm) == 0;
    if (!w->is_ending) gr_log(GR_WARN, "wire", "no thread to end NCCL's communicator");
}

/* Whether moves of graphs are under way is not known: aborted. Mostly the graphs are gone already; if they go after us, the end is left to the thread. */
static void end_comm(nccl_wire *w, bool is_idle) {
    struct timespec until;
    if (!w->in_graphs && !w->is_ending) {
        (is_idle ? destroy : abort_moves)(w->comm);
        return;
    }
    nccl_abort(&w->base);
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += GRAPHS_END_S;
    if (!w->is_ending || pthread_timedjoin_np(w->ender, NULL, &until) == 0) return;
    gr_log(GR_INFO, "wire", "NCCL's communicator has not ended after %d s: left to itself", GRAPHS_END_S);
    pthread_detach(w->ender);
}

static void nccl_close(gr_wire *base) {
    nccl_wire *w = (nccl_wire *)base;
    bool is_idle = !base->broken && retire(w) == GRACE_OK && w->n_ended == w->n_begun;
    if (w->comm) end_comm(w, is_idle);
    for (int i = 0; i < N_MOVES; i++)
        if (w->moves[i].ended) cudaEventDestroy(w->moves[i].ended);
    free(w);
}

static const gr_wire_ops nccl_ops = {.name = "nccl", .move = nccl_move, .check = nccl_check, .abort = nccl_abort, .close = nccl_close};

/* ---- opening ---- */

static grace_status prepare(gr_comm *world, double deadline_s, ncclUniqueId *id, ncclUniqueId **ids, nccl_wire **out) {
    grace_status st = GRACE_OK;
    GR_CALLOC(*ids, world->n_ranks);
    GR_CALLOC(*out, 1);
    nccl_wire *w = *out;
    w->base = (gr_wire){.ops = &nccl_ops, .world = world, .deadline_s = deadline_s};
    for (int i = 0; i < N_MOVES; i++) GR_TRY(gr_wire_cuda(cudaEventCreateWithFlags(&w->moves[i].ended, cudaEventDisableTiming), "cudaEventCreate"));
    if (world->rank == 0) GR_TRY(nccl_status(w, api.GetUniqueId(id), "ncclGetUniqueId"));
done:
    return st;
}

static grace_status join(nccl_wire *w, const ncclUniqueId *id) {
    grace_status st = GRACE_OK;
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    config.maxCTAs = MOST_BLOCKS;
    GR_TRY(nccl_status(w, api.CommInitRankConfig(&w->comm, w->base.world->n_ranks, *id, w->base.world->rank, &config), "ncclCommInitRankConfig"));
    GR_TRY(settle(w, "joining"));
done:
    return st;
}

/* A few bytes to and from every rank of other nodes: connections are made now, and are seen to work. */
static grace_status try_links(nccl_wire *w, gr_wire_piece *pieces, char *bytes, cudaStream_t stream) {
    grace_status st = GRACE_OK;
    const gr_comm *world = w->base.world;
    int32_t n = 0;
    for (int32_t p = 0; p < world->n_ranks; p++, bytes += 2 * TRY_BYTES)
        if (gr_comm_node(world, p) != gr_comm_node(world, world->rank)) pieces[n++] = (gr_wire_piece){p, bytes, TRY_BYTES, bytes + TRY_BYTES, TRY_BYTES};
    GR_TRY(nccl_move(&w->base, pieces, n, stream));
    while (w->n_ended < w->n_begun) {
        GR_TRY(nccl_check(&w->base));
        sched_yield();
    }
done:
    return st;
}

typedef struct trial { gr_wire_piece *pieces; char *bytes; cudaStream_t stream; } trial;

static grace_status trial_new(size_t n_ranks, trial *t) {
    grace_status st = GRACE_OK;
    GR_CALLOC(t->pieces, n_ranks);
    GR_TRY(gr_wire_cuda(cudaMalloc((void **)&t->bytes, n_ranks * 2 * TRY_BYTES), "cudaMalloc"));
    GR_TRY(gr_wire_cuda(cudaStreamCreateWithFlags(&t->stream, cudaStreamNonBlocking), "cudaStreamCreate"));
done:
    return st;
}

static grace_status connect_nodes(nccl_wire *w) {
    grace_status st = GRACE_OK;
    trial t = {0};
    bool tried = false;
    GR_TRY(grace_comm_agree(w->base.world, trial_new((size_t)w->base.world->n_ranks, &t)));
    tried = true;
    GR_TRY(try_links(w, t.pieces, t.bytes, t.stream));
done:
    if (st == GRACE_OK || !tried) {     /* else a kernel may be waiting on the stream for somebody, and freeing would wait for it */
        if (t.stream) cudaStreamDestroy(t.stream);
        cudaFree(t.bytes);
    }
    free(t.pieces);
    return st;
}

grace_status gr_wire_nccl_open(gr_comm *world, double deadline_s, gr_wire **out) {
    grace_status st = GRACE_OK;
    nccl_wire *w = NULL;
    ncclUniqueId id = {{0}}, *ids = NULL;
    GR_TRY(grace_comm_agree(world, prepare(world, deadline_s, &id, &ids, &w)));
    GR_TRY(gr_comm_allgather(world, &id, sizeof id, ids));
    GR_TRY(grace_comm_agree(world, join(w, &ids[0])));
    GR_TRY(connect_nodes(w));
    *out = &w->base;
    w = NULL;
done:
    if (w) w->base.broken = true, nccl_close(&w->base);         /* somebody failed: do not end as if all were well */
    free(ids);
    return st;
}
#else
grace_status gr_wire_nccl_load(void) { return gr_fail(GRACE_ERR_UNSUPPORTED, "NCCL: this build has none"); }

grace_status gr_wire_nccl_open(gr_comm *world, double deadline_s, gr_wire **out) {
    (void)world, (void)deadline_s, (void)out;
    return gr_wire_nccl_load();
}
#endif

bool gr_wire_has_nccl(void) {
#ifdef GRACE_HAVE_NCCL
    return true;
#else
    return false;
#endif
}
