/* Lines: rows between nodes over TCP connections of their own, without a host that waits. For each peer, lane and way there is an outbox and an inbox in
 * host memory that a GPU reads and writes. The GPU fills an outbox and sets its flag; a thread sends what is in it; at the other end a thread fills the
 * inbox and sets its flag, for which a kernel there waits (compute/cuda/line.h). Sizes travel in front, so nobody is told anything before.
 *
 *   GPU -> outbox -> sender thread ~~~ receiver thread -> inbox -> GPU
 *
 * Messages of a lane have numbers: there 1, back 1, there 2, back 2, ...; both ends of a line send in this order. A box holds one message and needs no
 * acknowledgement: who sends there e + 1 has what was sent back for e, so the peer has read there e; who sends back e + 1 has there e + 1, so the peer
 * has read back e. */
#ifndef GR_COMM_LINE_H
#define GR_COMM_LINE_H
#include "base/box.h"
#include "comm/comm.h"

enum { GR_LINE_THERE, GR_LINE_BACK, GR_LINE_WAYS };
enum { GR_LINE_FRAME_BYTES = 32 };     /* in front of a message between machines */

/* Host memory of the caller, zeroed: a head on GR_LINE_HEAD_BYTES, then the bytes. */
typedef struct gr_line_box { gr_line_head *head; } gr_line_box;
static inline char *gr_line_bytes(const gr_line_box *box) { return (char *)box->head + GR_LINE_HEAD_BYTES; }

/* What a box has room for: bytes behind the head, rows, and entries a row. Messages that need more are errors. */
typedef struct gr_line_room { int64_t n_bytes; int32_t rows, entries_a_row; } gr_line_room;

typedef struct gr_line_lane {
    gr_line_room room[GR_LINE_WAYS];
    gr_line_box *out[GR_LINE_WAYS], *in[GR_LINE_WAYS];      /* [n_peers] */
} gr_line_lane;

typedef struct gr_line_options {
    const int32_t *peers;               /* [n_peers] ranks of the world, rising; peers name each other */
    int32_t n_peers, n_lanes;
    const gr_line_lane *lanes;          /* [n_lanes]; boxes stay the caller's, and in place until close */
    double deadline_s;                  /* the longest that a message stands still */
    volatile int32_t *stop;             /* set to 1 when a line fails: kernels that wait look there */
} gr_line_options;

typedef struct gr_line gr_line;

/* Collective over world, which is used while opening alone. Interfaces: those that NCCL_SOCKET_IFNAME names, else all. Fails with COMM (a peer does not come
 * or cannot be reached), MEMORY; on all ranks or on none. */
grace_status gr_line_open(gr_comm *world, const gr_line_options *opt, gr_line **out);
/* Whether all lines stand: COMM says which peer is gone, or what stood still. Never waits. Any thread. */
grace_status gr_line_check(const gr_line *line);
/* When nothing fills boxes any more. done: what is in outboxes goes first, in at most the deadline, unless a line has failed. Else it goes nowhere, and peers
 * hear no goodbye: this rank has failed. */
void gr_line_close(gr_line *line, bool done);

#endif
