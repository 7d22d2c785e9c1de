/* Transports: rows between ranks. Knows ranks and bytes, no experts.
 * The contract of every table entry: all calls are collective over the communicator and made in the same order on every rank; counts are
 * rows; zero rows are fine; a rank's own part is copied; every wait is bounded by the deadline and, when it expires, fails with COMM and
 * names the peer, the rows missing, and the place last given to gr_comm_at(). After such a failure the job is over: further calls fail
 * at once with COMM and buffers of transfers in flight may be freed. Closing is local: it never waits. */
#ifndef GR_COMM_COMM_H
#define GR_COMM_COMM_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "grace/engine.h"

typedef struct gr_comm gr_comm;         /* public name: grace_comm */
typedef struct gr_request gr_request;   /* a transfer in flight */

typedef struct gr_xfer {
    const void *send;               /* rows for rank 0, then for rank 1, ... */
    const int32_t *send_rows;       /* [n_ranks] */
    void *recv;                     /* rows from rank 0, then from rank 1, ...; must not overlap send */
    const int32_t *recv_rows;       /* [n_ranks] must match what the peers send */
    size_t row_bytes;               /* >= 1 */
} gr_xfer;

typedef enum gr_reduce { GR_MIN, GR_MAX, GR_SUM } gr_reduce;

typedef struct gr_comm_ops {
    const char *name;
    /* Begin an all-to-all; buffers and counts stay untouched until gr_comm_wait(). Several may be in flight. */
    grace_status (*alltoallv_start)(gr_comm *c, const gr_xfer *xfer, gr_request **out);
    grace_status (*wait)(gr_comm *c, gr_request *request);                 /* frees the request, also on failure */
    grace_status (*allgather)(gr_comm *c, const void *mine, size_t n, void *all);   /* gr_comm_gather_rows, if there is no faster way */
    grace_status (*split)(gr_comm *c, int32_t color, gr_comm **out);       /* ranks keep their order */
    void (*abort)(gr_comm *c, int exit_code);
    void (*free)(gr_comm *c);
} gr_comm_ops;

struct gr_comm {
    const gr_comm_ops *ops;
    int32_t rank, n_ranks;
    int32_t n_nodes, gpus_per_node;     /* rank r is GPU r % G of node r / G; a communicator from split is one node */
    double deadline_s;                  /* longest wait without any progress */
    bool oversubscribed;                /* more ranks than cores on some machine: waits sleep, times of ranks are not comparable */
};

int32_t gr_comm_node(const gr_comm *c, int32_t rank);       /* node of any rank */
int32_t gr_comm_local(const gr_comm *c, int32_t rank);      /* its index in the node */

grace_status gr_comm_alltoallv_start(gr_comm *c, const gr_xfer *xfer, gr_request **out);
grace_status gr_comm_wait(gr_comm *c, gr_request *request);             /* NULL: nothing to wait for */
grace_status gr_comm_alltoallv(gr_comm *c, const gr_xfer *xfer);        /* start and wait */
grace_status gr_comm_allreduce(gr_comm *c, int64_t *values, int32_t n, gr_reduce op);  /* in place; few values */
/* Every rank's n bytes, rank after rank, on every rank: all [n_ranks, n]. */
grace_status gr_comm_allgather(gr_comm *c, const void *mine, size_t n, void *all);
/* The same with different sizes: n_all [n_ranks] gets the sizes, *all is malloc'ed. */
grace_status gr_comm_allgatherv(gr_comm *c, const void *mine, int32_t n, int32_t *n_all, void **all);
/* How many ranks before this one run on its machine (host name), whatever nodes they are cut into. */
grace_status gr_comm_machine_rank(gr_comm *c, int32_t *out);
/* Whether this machine has a network port of its own kind for moving memory (InfiniBand, RoCE) that is up, and NCCL is not told to leave it alone. */
bool gr_machine_has_fabric(void);
grace_status gr_comm_split(gr_comm *c, int32_t color, gr_comm **out);   /* caller frees with grace_comm_close() */
/* Where we are, for messages of late or dead peers: gr_comm_at("dispatch", layer). stage is a string literal. Process-wide. */
void gr_comm_at(const char *stage, int32_t layer);

/* The transports. mpi is there when built with MPI. */
typedef struct gr_launcher gr_launcher;
grace_status gr_comm_self_open(gr_comm **out);
grace_status gr_comm_mpi_open(int32_t n_nodes, double deadline_s, gr_comm **out);
grace_status gr_comm_tcp_open(const gr_launcher *launcher, int32_t n_nodes, double deadline_s, gr_comm **out);

/* For transports: */
void gr_comm_copy_own(const gr_comm *c, const gr_xfer *xfer);           /* the rows to ourselves */
grace_status gr_comm_gather_rows(gr_comm *c, const void *mine, size_t n, void *all);    /* everybody sends to everybody */
/* How long a wait that polls and has seen nothing for idle_us sleeps before it looks again; 0: it only yields, with a core for every rank always.
 * With fewer, a yielding waiter still gets a fair share of a core somebody computes on, so it sleeps for a sixteenth of the time it has waited: late by at
 * most that, and nearly free. */
double gr_comm_nap_us(double idle_us, bool oversubscribed);

#endif
