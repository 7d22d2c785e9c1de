/* Which kind of wire it is, decided from what every rank has, and what holds for all kinds. */
#include "comm/wire.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "comm/place.h"
#include "comm/wire_kind.h"

const char *gr_wire_here(const gr_wire *w, char *text, size_t size) {
    int n = snprintf(text, size, "rank %d: ", w->world->rank);
    gr_place_text(text + n, size - (size_t)n);
    return text;
}

const char *gr_wire_kind(const gr_wire *w) { return w->ops->name; }

grace_status gr_wire_move(gr_wire *w, const gr_wire_piece *pieces, int32_t n, struct CUstream_st *stream) {
    grace_status st = GRACE_OK;
    char where[128];
    for (int32_t i = 0; i < n; i++) GR_ASSERT(pieces[i].peer >= 0 && pieces[i].peer < w->world->n_ranks && pieces[i].peer != w->world->rank);
    GR_CHECK(!w->broken, GRACE_ERR_COMM, "%sthe wire already failed on this rank", gr_wire_here(w, where, sizeof where));
    st = w->ops->move(w, pieces, n, stream);
    w->broken = st != GRACE_OK;
done:
    return st;
}

grace_status gr_wire_check(gr_wire *w) {
    grace_status st = GRACE_OK;
    char where[128];
    GR_CHECK(!w->broken, GRACE_ERR_COMM, "%sthe wire already failed on this rank", gr_wire_here(w, where, sizeof where));
    st = w->ops->check(w);
    w->broken = st != GRACE_OK;
done:
    return st;
}

void gr_wire_abort(gr_wire *w) {
    if (w && w->ops->abort) w->ops->abort(w);
}

void gr_wire_close(gr_wire *w) {
    if (w) w->ops->close(w);
}

#ifdef GRACE_HAVE_CUDA
grace_status gr_wire_wait(gr_wire *w, struct CUevent_st *event) {
    grace_status st = GRACE_OK;
    char where[128];
    cudaError_t e;
    for (double start_us = gr_now_us(); (e = cudaEventQuery(event)) == cudaErrorNotReady; sched_yield()) {
        GR_TRY(gr_wire_check(w));
        w->broken = gr_now_us() - start_us > 1e6 * w->deadline_s;
        GR_CHECK(!w->broken, GRACE_ERR_COMM, "%swhat was queued with moves over the wire has not ended after %g s", gr_wire_here(w, where, sizeof where),
                 w->deadline_s);
    }
    GR_TRY(gr_wire_cuda(e, "moves over the wire"));
done:
    return st;
}

grace_status gr_wire_cuda(cudaError_t error, const char *what) {
    if (error == cudaSuccess) return GRACE_OK;
    return gr_fail(error == cudaErrorMemoryAllocation ? GRACE_ERR_MEMORY : GRACE_ERR_UNSUPPORTED, "cuda: %s: %s", what, cudaGetErrorString(error));
}

/* ---- what each rank has ---- */

typedef struct facts { uint8_t gpu[16]; int32_t has_nccl, unused; } facts;

static grace_status find_own(int32_t device, bool nccl_wanted, int32_t n_ranks, facts *own, facts **all) {
    grace_status st = GRACE_OK;
    struct cudaDeviceProp properties;
    GR_CALLOC(*all, n_ranks);
    GR_TRY(gr_wire_cuda(cudaSetDevice(device), "cudaSetDevice"));
    GR_TRY(gr_wire_cuda(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties"));
    memcpy(own->gpu, &properties.uuid, sizeof own->gpu);
    own->has_nccl = nccl_wanted && gr_wire_nccl_load() == GRACE_OK;
    if (nccl_wanted && !own->has_nccl) gr_log(GR_INFO, "wire", "%s", grace_last_error());
done:
    return st;
}

/* The first two ranks with one GPU; false: there are none. */
static bool find_sharers(const facts *all, int32_t n, int32_t *a, int32_t *b) {
    for (*b = 1; *b < n; ++*b)
        for (*a = 0; *a < *b; ++*a)
            if (memcmp(all[*a].gpu, all[*b].gpu, sizeof all->gpu) == 0) return true;
    return false;
}

/* Why there can be no nccl, the same words on every rank; false: there can. */
static bool is_hindered(const facts *all, int32_t n, char *why, size_t size) {
    int32_t a, b;
    for (int32_t r = 0; r < n; r++)
        if (!all[r].has_nccl) return snprintf(why, size, "rank %d has no NCCL, in its build or as libnccl.so.2 on its machine", r), true;
    if (!find_sharers(all, n, &a, &b)) return false;
    const uint8_t *g = all[a].gpu;
    snprintf(why, size, "ranks %d and %d share the GPU %02x%02x%02x%02x..., and NCCL takes one rank a GPU", a, b, g[0], g[1], g[2], g[3]);
    return true;
}

typedef grace_status (*opener)(gr_comm *world, double deadline_s, gr_wire **out);

static grace_status choose(const char *kind, const gr_comm *world, const facts *all, opener *out) {
    grace_status st = GRACE_OK;
    char why[160];
    *out = gr_wire_staged_open;
    if (strcmp(kind, "staged") == 0) return GRACE_OK;
    if (!is_hindered(all, world->n_ranks, why, sizeof why)) return *out = gr_wire_nccl_open, GRACE_OK;
    GR_CHECK(strcmp(kind, "auto") == 0, GRACE_ERR_UNSUPPORTED, "wire nccl: %s", why);
    if (world->rank == 0) gr_log(GR_WARN, "wire", "staged through host memory: %s", why);
done:
    return st;
}

grace_status gr_wire_open(gr_comm *world, const char *kind, int32_t device, double deadline_s, gr_wire **out) {
    grace_status st = GRACE_OK;
    facts own = {.has_nccl = 0}, *all = NULL;
    gr_wire *w = NULL;
    opener open = NULL;
    bool is_known = strcmp(kind, "nccl") == 0 || strcmp(kind, "staged") == 0 || strcmp(kind, "auto") == 0;
    GR_CHECK(is_known, GRACE_ERR_ARG, "rows between nodes: expected auto, sockets, nccl or staged, found %s", kind);
    GR_TRY(grace_comm_agree(world, find_own(device, strcmp(kind, "staged") != 0, world->n_ranks, &own, &all)));
    GR_TRY(gr_comm_allgather(world, &own, sizeof own, all));
    GR_TRY(choose(kind, world, all, &open));
    GR_TRY(grace_comm_agree(world, open(world, deadline_s, &w)));
    *out = w;
    w = NULL;
done:
    gr_wire_close(w);
    free(all);
    return st;
}
#else
grace_status gr_wire_open(gr_comm *world, const char *kind, int32_t device, double deadline_s, gr_wire **out) {
    (void)world, (void)device, (void)deadline_s, (void)out;
    return gr_fail(GRACE_ERR_UNSUPPORTED, "wire %s: this build has no CUDA", kind);
}
#endif
