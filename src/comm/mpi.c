/* Rows over MPI: point to point between the pairs that have rows, waits that end at a deadline.
 * Everything polls: MPI's own blocking calls cannot be bounded. */
#include "comm/comm.h"
#ifdef GRACE_HAVE_MPI
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "comm/mpi_comm.h"
#include "comm/place.h"

enum { TAG_MAX = 32767 };               /* the standard promises at least this many */

struct gr_request {
    gr_request *next;
    int32_t n, n_left, n_recv;          /* receives come first */
    MPI_Request *mpi;                   /* [2 * n_ranks]; MPI_REQUEST_NULL: done */
    MPI_Status *status;                 /* [2 * n_ranks] scratch of MPI_Testsome */
    int *done;                          /* [2 * n_ranks] scratch */
    int32_t *peer, *rows;               /* [2 * n_ranks] in this communicator */
    size_t row_bytes;
};

static bool broken;

bool gr_mpi_broken(void) { return broken; }

static const char *here(char *text, size_t size) {      /* "rank 3: dispatch of layer 7: " */
    int rank = 0;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    return gr_place_here(rank, text, size);
}

grace_status gr_mpi_status(int code, const char *what) {
    char reason[MPI_MAX_ERROR_STRING], where[128];
    int n;
    if (code == MPI_SUCCESS) return GRACE_OK;
    broken = true;
    if (MPI_Error_string(code, reason, &n) != MPI_SUCCESS) snprintf(reason, sizeof reason, "MPI error %d", code);
    return gr_fail(GRACE_ERR_COMM, "%s%s: %s", here(where, sizeof where), what, reason);
}

static grace_status check_alive(void) {
    char where[128];
    return broken ? gr_fail(GRACE_ERR_COMM, "%sthe job already failed on this rank", here(where, sizeof where)) : GRACE_OK;
}

/* ---- requests ---- */

static void request_free(gr_request *r) {
    if (!r) return;
    free(r->mpi);
    free(r->status);
    free(r->done);
    free(r->peer);
    free(r->rows);
    free(r);
}

static grace_status request_new(int32_t n_ranks, gr_request **out) {
    grace_status st = GRACE_OK;
    gr_request *r = NULL;
    size_t n = 2 * (size_t)n_ranks;
    GR_CALLOC(r, 1);
    GR_CALLOC(r->mpi, n);
    GR_CALLOC(r->status, n);
    GR_CALLOC(r->done, n);
    GR_CALLOC(r->peer, n);
    GR_CALLOC(r->rows, n);
    *out = r;
    r = NULL;
done:
    request_free(r);
    return st;
}

static grace_status request_take(mpi_comm *c, gr_request **out) {
    grace_status st = GRACE_OK;
    gr_request *r = c->spare;
    if (r) c->spare = r->next;
    else GR_TRY(request_new(c->base.n_ranks, &r));
    r->n = r->n_left = r->n_recv = 0;
    r->next = c->busy;
    c->busy = r;
    *out = r;
done:
    return st;
}

static void request_give_back(mpi_comm *c, gr_request *r) {
    gr_request **link = &c->busy;
    while (*link && *link != r) link = &(*link)->next;
    GR_ASSERT(*link == r);              /* waited for twice, or on another communicator */
    *link = r->next;
    r->next = c->spare;
    c->spare = r;
}

/* ---- starting ---- */

static grace_status type_of_row(mpi_comm *c, size_t row_bytes, MPI_Datatype *out) {
    grace_status st = GRACE_OK;
    for (int i = 0; i < MPI_N_TYPES; i++)
        if (c->types[i].row_bytes == row_bytes) return *out = c->types[i].type, GRACE_OK;
    GR_CHECK(row_bytes <= INT32_MAX, GRACE_ERR_LIMIT, "a row over mpi has up to %d bytes, got %zu", INT32_MAX, row_bytes);
    row_type *slot = &c->types[c->next_type];
    c->next_type = (c->next_type + 1) % MPI_N_TYPES;
    if (slot->row_bytes) MPI_Type_free(&slot->type);    /* transfers in flight keep it until they end */
    slot->row_bytes = 0;
    GR_TRY(gr_mpi_status(MPI_Type_contiguous((int)row_bytes, MPI_BYTE, &slot->type), "datatype of a row"));
    GR_TRY(gr_mpi_status(MPI_Type_commit(&slot->type), "datatype of a row"));
    slot->row_bytes = row_bytes;
    *out = slot->type;
done:
    return st;
}

static MPI_Request *add_peer(gr_request *r, int32_t peer, int32_t rows) {
    r->peer[r->n] = peer;
    r->rows[r->n] = rows;
    r->mpi[r->n] = MPI_REQUEST_NULL;
    r->n_left++;
    return &r->mpi[r->n++];
}

static grace_status start_recvs(mpi_comm *c, const gr_xfer *x, MPI_Datatype type, gr_request *r) {
    grace_status st = GRACE_OK;
    char *at = x->recv;
    for (int32_t p = 0; p < c->base.n_ranks; at += (size_t)x->recv_rows[p++] * x->row_bytes) {
        if (p == c->base.rank || x->recv_rows[p] == 0) continue;
        GR_TRY(gr_mpi_status(MPI_Irecv(at, x->recv_rows[p], type, p, c->tag, c->mpi, add_peer(r, p, x->recv_rows[p])), "MPI_Irecv"));
    }
    r->n_recv = r->n;
done:
    return st;
}

static grace_status start_sends(mpi_comm *c, const gr_xfer *x, MPI_Datatype type, gr_request *r) {
    grace_status st = GRACE_OK;
    const char *at = x->send;
    for (int32_t p = 0; p < c->base.n_ranks; at += (size_t)x->send_rows[p++] * x->row_bytes) {
        if (p == c->base.rank || x->send_rows[p] == 0) continue;
        GR_TRY(gr_mpi_status(MPI_Isend(at, x->send_rows[p], type, p, c->tag, c->mpi, add_peer(r, p, x->send_rows[p])), "MPI_Isend"));
    }
done:
    return st;
}

static grace_status mpi_alltoallv_start(gr_comm *base, const gr_xfer *x, gr_request **out) {
    grace_status st = GRACE_OK;
    mpi_comm *c = (mpi_comm *)base;
    MPI_Datatype type = MPI_DATATYPE_NULL;
    gr_request *r = NULL;
    GR_TRY(check_alive());
    GR_TRY(type_of_row(c, x->row_bytes, &type));
    GR_TRY(request_take(c, &r));
    r->row_bytes = x->row_bytes;
    GR_TRY(start_recvs(c, x, type, r));
    GR_TRY(start_sends(c, x, type, r));
    c->tag = c->tag % TAG_MAX + 1;
    gr_comm_copy_own(base, x);          /* while the others travel */
    *out = r;
done:
    return st;
}

/* ---- waiting ---- */

static const char *unit_of(const gr_request *r) { return r->row_bytes == 1 ? "bytes" : "rows"; }

static int32_t first_late(const gr_request *r, int32_t begin, int32_t end, int32_t *n_late) {
    int32_t first = -1;
    *n_late = 0;
    for (int32_t i = begin; i < end; i++)
        if (r->mpi[i] != MPI_REQUEST_NULL && (*n_late)++ == 0) first = i;
    return first;
}

/* Senders first: who has not sent is the likelier cause. */
static grace_status late(const mpi_comm *c, const gr_request *r) {
    int32_t n_late = 0, i = first_late(r, 0, r->n_recv, &n_late);
    bool from = i >= 0;
    int rank = 0;
    if (!from) i = first_late(r, r->n_recv, r->n, &n_late);
    broken = true;
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    gr_debt debt = {.from = from, .rows = r->rows[i], .peer = c->world_rank[r->peer[i]], .row_bytes = r->row_bytes, .n_late = n_late,
                    .n_peers = from ? r->n_recv : r->n - r->n_recv};
    return gr_place_owes(rank, &debt, NULL, c->base.deadline_s);
}

/* A receive that came with fewer rows than agreed is as wrong as one that never came. */
static grace_status check_arrival(const mpi_comm *c, const gr_request *r, int32_t i, const MPI_Status *status) {
    grace_status st = GRACE_OK;
    char where[128];
    MPI_Count n_bytes = 0;
    if (i >= r->n_recv) return GRACE_OK;
    MPI_Get_elements_x(status, MPI_BYTE, &n_bytes);
    if ((size_t)n_bytes == (size_t)r->rows[i] * r->row_bytes) return GRACE_OK;
    broken = true;
    GR_CHECK(false, GRACE_ERR_COMM, "%sexpected %d rows of %zu bytes from rank %d, %lld bytes came", here(where, sizeof where), r->rows[i], r->row_bytes,
             c->world_rank[r->peer[i]], (long long)n_bytes);
done:
    return st;
}

static grace_status failed_transfer(const mpi_comm *c, const gr_request *r, int32_t i, int code) {
    char what[96];
    snprintf(what, sizeof what, "%d %s %s rank %d", r->rows[i], unit_of(r), i < r->n_recv ? "from" : "to", c->world_rank[r->peer[i]]);
    return gr_mpi_status(code, what);
}

/* At least one of them is still under way. */
static grace_status test_some(const mpi_comm *c, gr_request *r, int *n_done) {
    grace_status st = GRACE_OK;
    *n_done = 0;
    int code = MPI_Testsome(r->n, r->mpi, n_done, r->done, r->status);
    if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS) return gr_mpi_status(code, "MPI_Testsome");
    for (int k = 0; k < *n_done; k++) {
        int32_t i = r->done[k];
        if (code == MPI_ERR_IN_STATUS && r->status[k].MPI_ERROR != MPI_SUCCESS) GR_TRY(failed_transfer(c, r, i, r->status[k].MPI_ERROR));
        GR_TRY(check_arrival(c, r, i, &r->status[k]));
    }
    r->n_left -= *n_done;
done:
    return st;
}

static int32_t first_missing(const mpi_comm *c, const gr_request *r) {
    for (int32_t i = 0; i < r->n; i++)
        if (r->mpi[i] != MPI_REQUEST_NULL) return c->world_rank[r->peer[i]];
    return -1;
}

static void pause_after(double idle_us, bool oversubscribed) {
    const double nap_us = gr_comm_nap_us(idle_us, oversubscribed);
    if (nap_us > 0) nanosleep(&(struct timespec){.tv_nsec = (long)(1e3 * nap_us)}, NULL);
    else sched_yield();
}

static grace_status wait_all(const mpi_comm *c, gr_request *r) {
    grace_status st = GRACE_OK;
    double progress_us = gr_now_us();
    for (int n_done = 0; r->n_left > 0;) {
        GR_TRY(test_some(c, r, &n_done));
        double now_us = gr_now_us();
        if (n_done > 0) progress_us = now_us;
        if (r->n_left == 0) break;
        if (now_us - progress_us > 1e6 * c->base.deadline_s) return late(c, r);
        gr_place_wait(first_missing(c, r));
        pause_after(now_us - progress_us, c->base.oversubscribed);
    }
done:
    gr_place_wait(-1);
    return st;
}

static grace_status mpi_wait(gr_comm *base, gr_request *r) {
    mpi_comm *c = (mpi_comm *)base;
    grace_status st = check_alive();
    if (st == GRACE_OK) st = wait_all(c, r);
    request_give_back(c, r);            /* after a failure nobody calls MPI again, so what is still under way stays as it is */
    return st;
}

/* ---- communicators ---- */

grace_status gr_mpi_barrier(mpi_comm *c) {
    int64_t zero = 0;
    return gr_comm_allreduce(&c->base, &zero, 1, GR_MAX);
}

static grace_status mpi_split(gr_comm *base, int32_t color, gr_comm **out) {
    grace_status st = GRACE_OK;
    mpi_comm *c = (mpi_comm *)base, *part = NULL;
    MPI_Comm comm = MPI_COMM_NULL;
    GR_CHECK(color >= 0, GRACE_ERR_ARG, "color of a split: expected 0 or more, found %d", color);
    GR_TRY(gr_mpi_barrier(c));       /* MPI_Comm_split cannot be bounded, so nobody enters it before everybody is there */
    GR_TRY(gr_mpi_status(MPI_Comm_split(c->mpi, color, c->base.rank, &comm), "MPI_Comm_split"));
    GR_TRY(gr_mpi_wrap(comm, c->base.deadline_s, c->base.oversubscribed, &part));
    *out = &part->base;
done:
    return st;
}

static void mpi_abort(gr_comm *base, int exit_code) { MPI_Abort(((mpi_comm *)base)->mpi, exit_code); }

static void requests_free(gr_request *r) {
    for (gr_request *next; r; r = next) {
        next = r->next;
        request_free(r);
    }
}

/* Local, so that a rank that failed can close without waiting for anybody. MPI_Comm_free is collective, so it comes later. */
static void mpi_free(gr_comm *base) {
    mpi_comm *c = (mpi_comm *)base;
    requests_free(c->spare);
    requests_free(c->busy);
    for (int i = 0; i < MPI_N_TYPES && !broken; i++)
        if (c->types[i].row_bytes) MPI_Type_free(&c->types[i].type);
    gr_mpi_free_later(c->mpi);
    free(c->world_rank);
    free(c);
}

static const gr_comm_ops mpi_ops = {
    .name = "mpi",
    .alltoallv_start = mpi_alltoallv_start,
    .wait = mpi_wait,
    .allgather = gr_comm_gather_rows,
    .split = mpi_split,
    .abort = mpi_abort,
    .free = mpi_free,
};

static grace_status find_world_ranks(mpi_comm *c) {
    grace_status st = GRACE_OK;
    MPI_Group ours = MPI_GROUP_NULL, world = MPI_GROUP_NULL;
    int *index = NULL;
    GR_CALLOC(index, c->base.n_ranks);
    GR_CALLOC(c->world_rank, c->base.n_ranks);
    for (int32_t r = 0; r < c->base.n_ranks; r++) index[r] = r;
    GR_TRY(gr_mpi_status(MPI_Comm_group(c->mpi, &ours), "MPI_Comm_group"));
    GR_TRY(gr_mpi_status(MPI_Comm_group(MPI_COMM_WORLD, &world), "MPI_Comm_group"));
    GR_TRY(gr_mpi_status(MPI_Group_translate_ranks(ours, c->base.n_ranks, index, world, c->world_rank), "MPI_Group_translate_ranks"));
done:
    if (ours != MPI_GROUP_NULL) MPI_Group_free(&ours);
    if (world != MPI_GROUP_NULL) MPI_Group_free(&world);
    free(index);
    return st;
}

grace_status gr_mpi_wrap(MPI_Comm comm, double deadline_s, bool oversubscribed, mpi_comm **out) {
    grace_status st = GRACE_OK;
    mpi_comm *c = NULL;
    int rank, n_ranks;
    GR_CALLOC(c, 1);
    c->mpi = comm;
    MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN);
    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &n_ranks);
    c->base = (gr_comm){.ops = &mpi_ops, .rank = rank, .n_ranks = n_ranks, .n_nodes = 1, .gpus_per_node = n_ranks, .deadline_s = deadline_s};
    c->base.oversubscribed = oversubscribed;
    c->tag = 1;
    GR_TRY(find_world_ranks(c));
    *out = c;
    c = NULL;
done:
    if (c) mpi_free(&c->base);
    return st;
}
#endif
