/* The tcp transport in three parts: joining and leaving the job (tcp_job.c), a socket to each other rank and what goes over it
 * (tcp_link.c), transfers and communicators (tcp.c). Communicators share the sockets; one over ranks of a single machine has a board besides (board.h). */
#ifndef GR_COMM_TCP_COMM_H
#define GR_COMM_TCP_COMM_H
#include <stdbool.h>

#include "comm/board.h"
#include "comm/comm.h"
#include "comm/place.h"
#include "comm/tcp_message.h"

/* One peer's share of a transfer, one way. */
typedef struct tcp_part {
    struct tcp_part *next;              /* behind it on the same link, the same way */
    gr_request *request;
    char *data;
    size_t n, done;                     /* bytes */
    int32_t rows, peer;                 /* peer: rank of the job */
    gr_tcp_frame frame;
    uint8_t head[GR_TCP_FRAME];         /* the frame as it is sent */
    size_t n_head;                      /* of it sent */
} tcp_part;

struct gr_request {
    gr_request *next;
    int32_t n, n_left, n_recv;          /* receives come first */
    tcp_part *part;                     /* [2 * n_ranks] */
    size_t row_bytes;
};

typedef struct tcp_queue { tcp_part *first, *last; } tcp_queue;

typedef struct tcp_link {
    int fd;                             /* -1: ourselves, or closed */
    tcp_queue out, in;                  /* in the order the transfers were started, which is the same on both ends */
    uint8_t head[GR_TCP_FRAME];         /* of what comes now */
    size_t n_head;
    bool known;                         /* the head was looked at and is that of in.first */
} tcp_link;

typedef struct tcp_job {
    int32_t rank, n_ranks;
    int32_t n_open;                     /* communicators; with the last the job ends */
    uint32_t next_context;
    gr_comm *world;                     /* ours, over all ranks: communicators are made from it */
    tcp_link *link;                     /* [n_ranks] */
    struct pollfd *poll;                /* [n_ranks] */
    char (*host)[GR_TCP_HOST];          /* [n_ranks] identity of each rank's machine */
    bool broken;                        /* nothing moves any more; cause says why */
    char cause[256];
} tcp_job;

typedef struct tcp_comm {
    gr_comm base;                       /* first: a gr_comm * is a tcp_comm * */
    tcp_job *job;
    int32_t *job_rank;                  /* [n_ranks] */
    uint32_t context;                   /* the same on every member, and no other communicator's of any of them */
    uint64_t sequence;                  /* of the next transfer; the same on every rank because calls come in one order */
    gr_request *spare, *busy;           /* as in mpi.c: a step allocates nothing */
    gr_board *board;                    /* for small gathers; NULL: they go over the sockets, as between machines and in what was split */
} tcp_comm;

/* ---- tcp_link.c ---- */

/* Put a part at the end of its link's queue; what is to be sent starts to. */
void gr_tcp_queue_send(tcp_job *job, tcp_part *part);
void gr_tcp_queue_recv(tcp_job *job, tcp_part *part);
/* Move what can be moved; wait up to timeout_us for something to move. true: bytes moved. When a peer that owes us something, or we it, is gone,
 * or says what is not expected, the job is broken afterwards and every other rank is told. */
bool gr_tcp_progress(tcp_job *job, double timeout_us);
/* A peer that owes us something is gone: the job is broken, unless it was before. */
void gr_tcp_gone(tcp_job *job, int32_t peer, const char *reason);
/* The job is over because of a rank: tell everybody. cause: a sentence's first half, for messages. */
void gr_tcp_break(tcp_job *job, int32_t culprit, const char *cause, ...) __attribute__((format(printf, 3, 4)));

/* ---- tcp.c ---- */
grace_status gr_tcp_wrap(tcp_job *job, int32_t n_ranks, double deadline_s, tcp_comm **out);     /* job_rank [r] = r, context 0 */
/* Local, as all closing; with its board. */
void gr_tcp_unwrap(tcp_comm *c);

/* ---- tcp_job.c ---- */
void gr_tcp_leave(tcp_job *job);        /* if no communicator is open any more */

#endif
