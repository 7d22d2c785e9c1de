/* Joining and leaving an MPI job: start once, find the nodes, finish when the process ends.
 *
 * Leaving happens at exit, and nobody hangs in MPI_Finalize for a rank that is gone: all ranks meet first, with a deadline. A rank that
 * exits with a failure waits only a second for the others (they often fail for the same reason, and should have time to say so), then
 * goes without MPI_Finalize, which the launcher notices: it ends the other ranks. */
#include "comm/comm.h"
#ifndef GRACE_HAVE_MPI

grace_status gr_comm_mpi_open(int32_t n_nodes, double deadline_s, gr_comm **out) {
    (void)n_nodes;
    (void)deadline_s;
    (void)out;
    return gr_fail(GRACE_ERR_UNSUPPORTED,
                   "ranks under mpirun need MPI, and this program was built without it (Debian: libopenmpi-dev); without it there is --transport tcp");
}

#else
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/memory.h"
#include "comm/mpi_comm.h"
#include "comm/nodes.h"
#include "comm/place.h"

static mpi_comm *leaving;               /* kept for the last meeting of all ranks */

typedef struct closed_comm { struct closed_comm *next; MPI_Comm comm; } closed_comm;

static closed_comm *closed;

/* Without memory for the note MPI_Finalize releases it. */
void gr_mpi_free_later(MPI_Comm comm) {
    closed_comm *note = malloc(sizeof *note);
    if (!note) return;
    *note = (closed_comm){.next = closed, .comm = comm};
    closed = note;
}

static void free_closed(bool with_mpi) {
    for (closed_comm *note = closed; note; note = closed) {
        if (with_mpi) MPI_Comm_free(&note->comm);
        closed = note->next;
        free(note);
    }
}

static void leave_job(int exit_code, void *unused) {
    (void)unused;
    if (exit_code != 0) gr_place_leave();
    if (!leaving) return;
    if (exit_code != 0 && leaving->base.deadline_s > 1) leaving->base.deadline_s = 1;
    gr_comm_at("exit", -1);
    bool together = !gr_mpi_broken() && gr_mpi_barrier(leaving) == GRACE_OK;
    grace_comm_close(&leaving->base);
    leaving = NULL;
    free_closed(together);
    if (together) MPI_Finalize();
}

/* srun without PMIx starts N processes that each believe to be alone. */
static grace_status check_srun(int n_ranks) {
    grace_status st = GRACE_OK;
    const char *tasks = getenv("SLURM_STEP_NUM_TASKS");
    GR_CHECK(n_ranks > 1 || getenv("OMPI_COMM_WORLD_RANK") || !tasks || atoi(tasks) <= 1, GRACE_ERR_COMM,
             "srun started %s tasks but MPI sees 1 rank: use srun --mpi=pmix, or --transport tcp", tasks);
done:
    return st;
}

static grace_status join_job(double deadline_s) {
    grace_status st = GRACE_OK;
    MPI_Comm comm = MPI_COMM_NULL;
    int ready = 0, given, rank, n_ranks;
    if (leaving) return GRACE_OK;
    MPI_Initialized(&ready);
    if (!ready) GR_TRY(gr_mpi_status(MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &given), "MPI_Init_thread"));
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &n_ranks);
    gr_log_set_rank(rank, n_ranks);
    if (n_ranks > 1) gr_place_on_sigterm(rank, n_ranks);
    GR_TRY(gr_mpi_status(MPI_Comm_dup(MPI_COMM_WORLD, &comm), "MPI_Comm_dup"));
    GR_TRY(gr_mpi_wrap(comm, deadline_s, true, &leaving));
    if (!ready) on_exit(leave_job, NULL);   /* glibc: like atexit, with the exit code */
    GR_TRY(check_srun(n_ranks));
done:
    return st;
}

/* ---- nodes ---- */

/* MPI knows which ranks can share memory. first[r]: the lowest rank on the machine of rank r. */
static grace_status find_machines(mpi_comm *c, int32_t *first) {
    grace_status st = GRACE_OK;
    MPI_Comm machine = MPI_COMM_NULL;
    int32_t mine = c->base.rank;
    GR_TRY(gr_mpi_barrier(c));
    GR_TRY(gr_mpi_status(MPI_Comm_split_type(c->mpi, MPI_COMM_TYPE_SHARED, c->base.rank, MPI_INFO_NULL, &machine), "MPI_Comm_split_type"));
    GR_TRY(gr_mpi_status(MPI_Bcast(&mine, 1, MPI_INT32_T, 0, machine), "MPI_Bcast"));
    GR_TRY(gr_comm_allgather(&c->base, &mine, sizeof mine, first));
done:
    if (machine != MPI_COMM_NULL) MPI_Comm_free(&machine);
    return st;
}

static void warn_few_cores(const mpi_comm *c, int32_t n_local) {
    const char *yields = getenv("OMPI_MCA_mpi_yield_when_idle");
    if (c->base.rank != 0 || !c->base.oversubscribed || (yields && strcmp(yields, "1") == 0)) return;
    gr_log(GR_WARN, "mpi", "%d ranks on %ld cores without mpi_yield_when_idle: expect waits of milliseconds (grace run --ranks sets what is needed, see "
           "docs/launch.md)", n_local, sysconf(_SC_NPROCESSORS_ONLN));
}

static grace_status arrange(mpi_comm *c, int32_t n_nodes) {
    grace_status st = GRACE_OK;
    int32_t *first = NULL;
    GR_CALLOC(first, c->base.n_ranks);
    GR_TRY(find_machines(c, first));
    GR_TRY(gr_nodes_arrange(&c->base, first, n_nodes));
    warn_few_cores(c, gr_nodes_n_local(first, c->base.n_ranks, c->base.rank));
done:
    free(first);
    return st;
}

grace_status gr_comm_mpi_open(int32_t n_nodes, double deadline_s, gr_comm **out) {
    grace_status st = GRACE_OK;
    MPI_Comm comm = MPI_COMM_NULL;
    mpi_comm *c = NULL;
    GR_TRY(join_job(deadline_s));
    GR_TRY(gr_mpi_barrier(leaving));
    GR_TRY(gr_mpi_status(MPI_Comm_dup(leaving->mpi, &comm), "MPI_Comm_dup"));
    GR_TRY(gr_mpi_wrap(comm, deadline_s, true, &c));
    GR_TRY(arrange(c, n_nodes));
    *out = &c->base;
    c = NULL;
done:
    if (c) grace_comm_close(&c->base);
    return st;
}
#endif
