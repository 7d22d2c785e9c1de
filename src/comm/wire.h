/* Wires: bytes between the GPUs of two ranks that cannot store into each other's memory, because they are in different nodes. Sizes are known to the host.
 *
 *   nccl    point-to-point of one NCCL communicator over all ranks. Queued on the stream; the host goes on. May be captured in a graph.
 *   staged  through pinned host memory over the ranks' own transport. The host waits in gr_wire_move() until everything has come; what is queued on other
 *           streams goes on meanwhile. Works with several ranks on one GPU. Not in graphs.
 *   auto    nccl where the build has it and every rank has a GPU of its own, else staged; the log says why
 *
 * NCCL's kernels need free multiprocessors: kernels that spin while a move is under way must leave some. What the environment decides: docs/wires.md. */
#ifndef GR_COMM_WIRE_H
#define GR_COMM_WIRE_H
#include "comm/comm.h"

/* What may be asked for rows between nodes: a kind of wire, or sockets, which are lines (comm/line.h). */
#define GR_BETWEEN_NAMES "auto", "sockets", "nccl", "staged"

struct CUstream_st;                     /* a cudaStream_t points to it */
struct CUevent_st;
typedef struct gr_wire gr_wire;

/* What goes to a peer and what comes from it: device memory, sizes in bytes, 0: nothing. */
typedef struct gr_wire_piece {
    int32_t peer;                       /* rank of the world, not this one */
    const void *send;
    size_t n_send;
    void *recv;                         /* must not overlap what any piece of the call sends */
    size_t n_recv;
} gr_wire_piece;

/* Collective over world, which is borrowed until close. Every rank gives the same kind; device is this rank's, made current. No wait here or later
 * is longer than
 * deadline_s, nor one of world's longer than its own. Fails with UNSUPPORTED (nccl asked for, but there is none, or two ranks share a GPU), COMM,
 * MEMORY; on all
 * ranks or on none, but for one that is late. */
grace_status gr_wire_open(gr_comm *world, const char *kind, int32_t device, double deadline_s, gr_wire **out);

/* Move the pieces, after what is queued on the stream; what is queued later sees them moved. Collective: every rank of the world calls it in the
 * same order, also
 * with n = 0; two peers name the same sizes for each other, in the same order. A peer may be named several times (rows, then their headers). */
grace_status gr_wire_move(gr_wire *w, const gr_wire_piece *pieces, int32_t n, struct CUstream_st *stream);

/* For a host that waits for something by itself: COMM with the peer and what is missing, when a peer is gone or no move has ended for the deadline.
 * Moves in a graph
 * are not timed: of those it says only when a peer is known to be gone. After a failure the wire can only be closed, and its streams are of no use
 * before that. */
grace_status gr_wire_check(gr_wire *w);
/* Until the event has come, with an eye on the wire: fails as gr_wire_check() does, and with COMM when the event has not come by the deadline. So
 * moves in a graph
 * are bounded too. */
grace_status gr_wire_wait(gr_wire *w, struct CUevent_st *event);

const char *gr_wire_kind(const gr_wire *w);     /* "nccl" or "staged" */
bool gr_wire_has_nccl(void);                    /* this build */
/* After a failure, before what was recorded with moves is destroyed: those that wait for a peer on the device end. Only close may follow. Accepts NULL. */
void gr_wire_abort(gr_wire *w);
/* Local, never waits: moves that have not ended are aborted. NCCL keeps a communicator as long as there are graphs with moves of it; what is left of
 * one then goes when
 * they do. */
void gr_wire_close(gr_wire *w);

#endif
