/* Wires through pinned host memory: a move goes in rounds of a chunk a peer, device -> host -> all-to-all of the ranks -> host -> device. There are two sets
 * of buffers, so that the copies of one round overlap the sending of another. */
#include "comm/wire_kind.h"
#ifdef GRACE_HAVE_CUDA
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"

enum { STAGE_BYTES = 8 << 20 };         /* of a buffer, in all: a round, 2.7 ms of a link of 25 Gbit/s */

/* In front of what a rank sends to another in the first round. All ranks go through the most rounds anybody needs. */
typedef struct head { int64_t n_bytes, n_rounds; } head;

typedef struct staged {
    gr_wire base;
    size_t chunk;                       /* bytes to a peer in a round */
    char *send[2], *recv[2];            /* pinned; packed by peer, each at most a head and a chunk */
    cudaEvent_t sent[2], received[2];   /* the last copies from and to the device */
    int32_t *n_send[2], *n_recv;        /* [n_ranks] bytes of a round */
} staged;

typedef struct move { const gr_wire_piece *pieces; int32_t n; cudaStream_t stream; } move;

/* ---- a peer's bytes: its pieces, one after the other ---- */

static size_t bytes_to(const move *m, int32_t peer) {
    size_t sum = 0;
    for (int32_t i = 0; i < m->n; i++) sum += m->pieces[i].peer == peer ? m->pieces[i].n_send : 0;
    return sum;
}

static size_t bytes_from(const move *m, int32_t peer) {
    size_t sum = 0;
    for (int32_t i = 0; i < m->n; i++) sum += m->pieces[i].peer == peer ? m->pieces[i].n_recv : 0;
    return sum;
}

static size_t part(const staged *s, size_t total, int64_t round) {      /* how many of them in a round */
    size_t before = (size_t)round * s->chunk;
    return total <= before ? 0 : total - before < s->chunk ? total - before : s->chunk;
}

static int64_t rounds(const staged *s, const move *m) {
    size_t most = 1;
    for (int32_t p = 0; p < s->base.world->n_ranks; p++) {
        size_t n_to = bytes_to(m, p), n_from = bytes_from(m, p);
        if (most < n_to) most = n_to;
        if (most < n_from) most = n_from;
    }
    return (int64_t)((most + s->chunk - 1) / s->chunk);
}

/* Copies the peer's bytes [from, to) that are a part of the piece, which is its bytes [at, at + size). */
static grace_status copy_overlap(char *host, char *device, size_t from, size_t to, size_t at, size_t size, bool is_out, cudaStream_t stream) {
    size_t first = from > at ? from : at, last = to < at + size ? to : at + size;
    if (first >= last) return GRACE_OK;
    host += first - from;
    device += first - at;
    cudaError_t e = is_out ? cudaMemcpyAsync(host, device, last - first, cudaMemcpyDeviceToHost, stream)
                           : cudaMemcpyAsync(device, host, last - first, cudaMemcpyHostToDevice, stream);
    return gr_wire_cuda(e, "copy of a wire");
}

static grace_status copy_part(const move *m, int32_t peer, bool is_out, size_t from, size_t n, char *host) {
    grace_status st = GRACE_OK;
    size_t at = 0;
    for (int32_t i = 0; i < m->n; i++) {
        const gr_wire_piece *p = &m->pieces[i];
        size_t size = is_out ? p->n_send : p->n_recv;
        if (p->peer != peer) continue;
        GR_TRY(copy_overlap(host, is_out ? (char *)p->send : p->recv, from, from + n, at, size, is_out, m->stream));
        at += size;
    }
done:
    return st;
}

/* ---- a round ---- */

static grace_status copy_out(staged *s, const move *m, int64_t round) {
    grace_status st = GRACE_OK;
    int b = round & 1;
    char *at = s->send[b];
    for (int32_t p = 0; p < s->base.world->n_ranks; p++) {
        size_t total = bytes_to(m, p), n = part(s, total, round), n_head = round == 0 && p != s->base.world->rank ? sizeof(head) : 0;
        if (n_head) memcpy(at, &(head){.n_bytes = (int64_t)total, .n_rounds = rounds(s, m)}, sizeof(head));
        GR_TRY(copy_part(m, p, true, (size_t)round * s->chunk, n, at + n_head));
        s->n_send[b][p] = (int32_t)(n_head + n);
        at += n_head + n;
    }
    GR_TRY(gr_wire_cuda(cudaEventRecord(s->sent[b], m->stream), "cudaEventRecord"));
done:
    return st;
}

/* What the others say in the first round. */
static grace_status read_heads(const staged *s, const move *m, int64_t *n_rounds) {
    grace_status st = GRACE_OK;
    const char *at = s->recv[0];
    char where[128];
    head h;
    for (int32_t p = 0; p < s->base.world->n_ranks; at += s->n_recv[p++]) {
        if (p == s->base.world->rank) continue;
        memcpy(&h, at, sizeof h);
        GR_CHECK(h.n_bytes == (int64_t)bytes_from(m, p), GRACE_ERR_COMM, "%sexpected %zu bytes from rank %d over the wire, it sends %lld",
                 gr_wire_here(&s->base, where, sizeof where), bytes_from(m, p), p, (long long)h.n_bytes);
        if (h.n_rounds > *n_rounds) *n_rounds = h.n_rounds;
    }
done:
    return st;
}

static grace_status exchange(staged *s, const move *m, int64_t round, int64_t *n_rounds) {
    grace_status st = GRACE_OK;
    int b = round & 1;
    for (int32_t p = 0; p < s->base.world->n_ranks; p++) {
        size_t n_head = round == 0 && p != s->base.world->rank ? sizeof(head) : 0;
        s->n_recv[p] = (int32_t)(n_head + part(s, bytes_from(m, p), round));
    }
    GR_TRY(gr_wire_wait(&s->base, s->sent[b]));
    GR_TRY(gr_wire_wait(&s->base, s->received[b]));     /* of two rounds ago: the buffer is free */
    gr_xfer x = {.send = s->send[b], .send_rows = s->n_send[b], .recv = s->recv[b], .recv_rows = s->n_recv, .row_bytes = 1};
    GR_TRY(gr_comm_alltoallv(s->base.world, &x));
    if (round == 0) GR_TRY(read_heads(s, m, n_rounds));
done:
    return st;
}

static grace_status copy_in(staged *s, const move *m, int64_t round) {
    grace_status st = GRACE_OK;
    int b = round & 1;
    char *at = s->recv[b];
    for (int32_t p = 0; p < s->base.world->n_ranks; at += s->n_recv[p++]) {
        size_t n = part(s, bytes_from(m, p), round);
        GR_TRY(copy_part(m, p, false, (size_t)round * s->chunk, n, at + ((size_t)s->n_recv[p] - n)));
    }
    GR_TRY(gr_wire_cuda(cudaEventRecord(s->received[b], m->stream), "cudaEventRecord"));
done:
    return st;
}

/* ---- the table ---- */

static grace_status staged_move(gr_wire *w, const gr_wire_piece *pieces, int32_t n, struct CUstream_st *stream) {
    grace_status st = GRACE_OK;
    staged *s = (staged *)w;
    const move m = {pieces, n, stream};
    enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
    if (w->world->n_ranks == 1) return GRACE_OK;
    GR_TRY(gr_wire_cuda(cudaStreamIsCapturing(stream, &capture), "cudaStreamIsCapturing"));
    GR_CHECK(capture == cudaStreamCaptureStatusNone, GRACE_ERR_UNSUPPORTED, "a move over a staged wire cannot be part of a graph");
    int64_t n_rounds = rounds(s, &m);
    GR_TRY(copy_out(s, &m, 0));
    for (int64_t r = 0; r < n_rounds; r++) {
        GR_TRY(copy_out(s, &m, r + 1));         /* while round r travels; behind the last round it only sets sizes to 0 */
        GR_TRY(exchange(s, &m, r, &n_rounds));
        GR_TRY(copy_in(s, &m, r));
    }
done:
    return st;
}

static grace_status staged_check(gr_wire *w) {
    (void)w;
    return GRACE_OK;                    /* a move has ended, or failed, when it returns */
}

static void staged_close(gr_wire *w) {
    staged *s = (staged *)w;
    for (int b = 0; b < 2; b++) {
        if (s->sent[b]) cudaEventDestroy(s->sent[b]);
        if (s->received[b]) cudaEventDestroy(s->received[b]);
        cudaFreeHost(s->send[b]);
        cudaFreeHost(s->recv[b]);
        free(s->n_send[b]);
    }
    free(s->n_recv);
    free(s);
}

static const gr_wire_ops staged_ops = {.name = "staged", .move = staged_move, .check = staged_check, .close = staged_close};

grace_status gr_wire_staged_open(gr_comm *world, double deadline_s, gr_wire **out) {
    grace_status st = GRACE_OK;
    staged *s = NULL;
    size_t n_peers = world->n_ranks > 1 ? (size_t)world->n_ranks - 1 : 1;
    GR_CALLOC(s, 1);
    s->base = (gr_wire){.ops = &staged_ops, .world = world, .deadline_s = deadline_s};
    s->chunk = STAGE_BYTES / n_peers & ~(size_t)255;
    size_t buffer = n_peers * (s->chunk + sizeof(head));
    GR_CALLOC(s->n_recv, world->n_ranks);
    for (int b = 0; b < 2; b++) {
        GR_CALLOC(s->n_send[b], world->n_ranks);
        GR_TRY(gr_wire_cuda(cudaHostAlloc((void **)&s->send[b], buffer, cudaHostAllocDefault), "pinned memory of a wire"));
        GR_TRY(gr_wire_cuda(cudaHostAlloc((void **)&s->recv[b], buffer, cudaHostAllocDefault), "pinned memory of a wire"));
        GR_TRY(gr_wire_cuda(cudaEventCreateWithFlags(&s->sent[b], cudaEventDisableTiming), "cudaEventCreate"));
        GR_TRY(gr_wire_cuda(cudaEventCreateWithFlags(&s->received[b], cudaEventDisableTiming), "cudaEventCreate"));
    }
    *out = &s->base;
    s = NULL;
done:
    if (s) staged_close(&s->base);
    return st;
}
#endif
