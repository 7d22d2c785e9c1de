/* What holds for every transport: checks, and the calls built on the all-to-all. */
#include "comm/comm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "comm/launcher.h"

int32_t gr_comm_node(const gr_comm *c, int32_t rank) { return rank / c->gpus_per_node; }

int32_t gr_comm_local(const gr_comm *c, int32_t rank) { return rank % c->gpus_per_node; }

grace_status gr_comm_alltoallv_start(gr_comm *c, const gr_xfer *xfer, gr_request **out) {
    GR_ASSERT(xfer->row_bytes >= 1);
    for (int32_t r = 0; r < c->n_ranks; r++) GR_ASSERT(xfer->send_rows[r] >= 0 && xfer->recv_rows[r] >= 0);
    GR_ASSERT(xfer->send_rows[c->rank] == xfer->recv_rows[c->rank]);
    *out = NULL;
    return c->ops->alltoallv_start(c, xfer, out);
}

grace_status gr_comm_wait(gr_comm *c, gr_request *request) { return request ? c->ops->wait(c, request) : GRACE_OK; }

void gr_comm_copy_own(const gr_comm *c, const gr_xfer *x) {
    size_t before_send = 0, before_recv = 0, n = (size_t)x->send_rows[c->rank] * x->row_bytes;
    for (int32_t p = 0; p < c->rank; p++) {
        before_send += (size_t)x->send_rows[p];
        before_recv += (size_t)x->recv_rows[p];
    }
    if (n > 0) memcpy((char *)x->recv + before_recv * x->row_bytes, (const char *)x->send + before_send * x->row_bytes, n);
}

grace_status gr_comm_alltoallv(gr_comm *c, const gr_xfer *xfer) {
    gr_request *request = NULL;
    grace_status st = gr_comm_alltoallv_start(c, xfer, &request);
    return st == GRACE_OK ? gr_comm_wait(c, request) : st;
}

/* mine [n bytes] to every rank, n_all[r] bytes from rank r. */
static grace_status send_to_all(gr_comm *c, const void *mine, int32_t n, const int32_t *n_all, void *all) {
    grace_status st = GRACE_OK;
    int32_t *send_rows = NULL;
    char *send = NULL;
    GR_CALLOC(send_rows, c->n_ranks);
    GR_CALLOC(send, (size_t)n * (size_t)c->n_ranks);
    for (int32_t r = 0; r < c->n_ranks; r++) {
        send_rows[r] = n;
        if (n > 0) memcpy(send + (size_t)n * (size_t)r, mine, (size_t)n);
    }
    GR_TRY(gr_comm_alltoallv(c, &(gr_xfer){.send = send, .send_rows = send_rows, .recv = all, .recv_rows = n_all, .row_bytes = 1}));
done:
    free(send);
    free(send_rows);
    return st;
}

grace_status gr_comm_gather_rows(gr_comm *c, const void *mine, size_t n, void *all) {
    grace_status st = GRACE_OK;
    int32_t *n_all = NULL;
    GR_CALLOC(n_all, c->n_ranks);
    for (int32_t r = 0; r < c->n_ranks; r++) n_all[r] = (int32_t)n;
    GR_TRY(send_to_all(c, mine, (int32_t)n, n_all, all));
done:
    free(n_all);
    return st;
}

grace_status gr_comm_allgather(gr_comm *c, const void *mine, size_t n, void *all) {
    grace_status st = GRACE_OK;
    GR_CHECK(n <= INT32_MAX, GRACE_ERR_LIMIT, "allgather takes up to %d bytes a rank, got %zu", INT32_MAX, n);
    GR_TRY(c->ops->allgather(c, mine, n, all));
done:
    return st;
}

grace_status gr_comm_allgatherv(gr_comm *c, const void *mine, int32_t n, int32_t *n_all, void **all) {
    grace_status st = GRACE_OK;
    char *bytes = NULL;
    size_t total = 0;
    GR_ASSERT(n >= 0);
    GR_TRY(gr_comm_allgather(c, &n, sizeof n, n_all));
    for (int32_t r = 0; r < c->n_ranks; r++) total += (size_t)n_all[r];
    GR_CALLOC(bytes, total);
    GR_TRY(send_to_all(c, mine, n, n_all, bytes));
    *all = bytes;
    bytes = NULL;
done:
    free(bytes);
    return st;
}

static int64_t reduce(int64_t a, int64_t b, gr_reduce op) {
    switch (op) {
        case GR_MIN: return a < b ? a : b;
        case GR_MAX: return a > b ? a : b;
        case GR_SUM: return a + b;
    }
    GR_ASSERT(!"a reduction we know");
    return 0;
}

/* Everybody's values to everybody, reduced here: unlike a tree, a late rank is known by name. The values are few (sizes, counters). */
grace_status gr_comm_allreduce(gr_comm *c, int64_t *values, int32_t n, gr_reduce op) {
    grace_status st = GRACE_OK;
    int64_t *all = NULL;
    if (c->n_ranks == 1) return GRACE_OK;
    GR_CALLOC(all, (size_t)n * (size_t)c->n_ranks);
    GR_TRY(gr_comm_allgather(c, values, (size_t)n * sizeof *values, all));
    for (int32_t i = 0; i < n; i++) values[i] = all[i];
    for (int32_t r = 1; r < c->n_ranks; r++)
        for (int32_t i = 0; i < n; i++) values[i] = reduce(values[i], all[(size_t)r * (size_t)n + (size_t)i], op);
done:
    free(all);
    return st;
}

double gr_comm_nap_us(double idle_us, bool oversubscribed) {
    const double nap_us = oversubscribed ? idle_us / 16 : 0;
    return nap_us < 20 ? 0 : nap_us < 500 ? nap_us : 500;
}

grace_status gr_comm_split(gr_comm *c, int32_t color, gr_comm **out) { return c->ops->split(c, color, out); }

/* ---- public ---- */

grace_status grace_comm_open(grace_transport transport, int32_t n_nodes, double deadline_s, grace_comm **out) {
    grace_status st = GRACE_OK;
    gr_launcher job = {0};
    GR_CHECK(n_nodes >= 0, GRACE_ERR_ARG, "number of nodes: expected 0 (ask the launcher) or more, found %d", n_nodes);
    GR_CHECK(deadline_s > 0, GRACE_ERR_ARG, "deadline: expected more than 0 seconds, found %g", deadline_s);
    GR_CHECK((unsigned)transport <= GRACE_TRANSPORT_AUTO, GRACE_ERR_ARG, "transport %d: expected self (0), mpi (1), tcp (2) or auto (3)", (int)transport);
    if (transport == GRACE_TRANSPORT_AUTO || transport == GRACE_TRANSPORT_TCP) GR_TRY(gr_launcher_find(transport, &job));
    if (transport == GRACE_TRANSPORT_AUTO) transport = job.transport;
    if (transport == GRACE_TRANSPORT_MPI) return gr_comm_mpi_open(n_nodes, deadline_s, out);
    if (transport == GRACE_TRANSPORT_TCP) return gr_comm_tcp_open(&job, n_nodes, deadline_s, out);
    GR_CHECK(n_nodes <= 1, GRACE_ERR_ARG, "one rank by itself cannot be %d nodes", n_nodes);
    GR_TRY(gr_comm_self_open(out));
done:
    return st;
}

void grace_comm_close(grace_comm *comm) {
    if (comm) comm->ops->free(comm);
}

/* Variables that do not fit together are a launcher's too: opening says what is wrong with them. */
bool grace_comm_launched(void) {
    gr_launcher job;
    return gr_launcher_find(GRACE_TRANSPORT_AUTO, &job) != GRACE_OK || job.transport != GRACE_TRANSPORT_SELF;
}

int32_t grace_comm_rank(const grace_comm *comm) { return comm->rank; }

grace_cluster grace_comm_cluster(const grace_comm *comm) {
    return (grace_cluster){.n_nodes = comm->n_nodes, .gpus_per_node = comm->gpus_per_node};
}

void grace_comm_abort(grace_comm *comm, int exit_code) {
    if (comm) comm->ops->abort(comm, exit_code);
}

/* ---- agreement ---- */

typedef struct verdict { int32_t status; char sentence[1020]; } verdict;

/* The sentence of the first rank that failed, "rank 2: ..." in front once. */
static grace_status report_first(const verdict *all, int32_t n_ranks, grace_status worst) {
    char prefix[24];
    int32_t first = 0;
    while (first < n_ranks - 1 && all[first].status == GRACE_OK) first++;
    snprintf(prefix, sizeof prefix, "rank %d: ", first);
    bool has_prefix = strncmp(all[first].sentence, prefix, strlen(prefix)) == 0;
    return gr_fail(worst, "%s%s", has_prefix ? "" : prefix, all[first].sentence);
}

/* all stays NULL when everyone is well, which costs one small exchange. */
static grace_status gather_verdicts(grace_comm *comm, const verdict *own, int64_t *worst, verdict **all) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_comm_allreduce(comm, worst, 1, GR_MAX));
    if (*worst == GRACE_OK) return GRACE_OK;
    GR_CALLOC(*all, comm->n_ranks);
    GR_TRY(gr_comm_allgather(comm, own, sizeof *own, *all));
done:
    return st;
}

grace_status grace_comm_agree(grace_comm *comm, grace_status mine) {
    verdict own = {.status = (int32_t)mine}, *all = NULL;
    int64_t worst = (int64_t)mine;
    if (comm->n_ranks == 1) return mine;
    if (mine != GRACE_OK) snprintf(own.sentence, sizeof own.sentence, "%s", grace_last_error());
    grace_status st = gather_verdicts(comm, &own, &worst, &all);
    if (st == GRACE_OK && all) st = report_first(all, comm->n_ranks, (grace_status)worst);
    else if (st != GRACE_OK && mine != GRACE_OK) st = gr_fail(mine, "%s", own.sentence);    /* our own trouble came first */
    free(all);
    return st;
}
