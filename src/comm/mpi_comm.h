/* The mpi transport in two parts: transfers (mpi.c), joining and leaving the job (mpi_job.c). */
#ifndef GR_COMM_MPI_COMM_H
#define GR_COMM_MPI_COMM_H
#include <mpi.h>
#include <stdbool.h>

#include "comm/comm.h"

enum { MPI_N_TYPES = 8 };

typedef struct row_type { size_t row_bytes; MPI_Datatype type; } row_type;

typedef struct mpi_comm {
    gr_comm base;                       /* first: a gr_comm * is a mpi_comm * */
    MPI_Comm mpi;                       /* ours alone (dup or split) */
    int32_t *world_rank;                /* [n_ranks] what messages call a peer */
    int tag;                            /* of the next transfer; the same on every rank because calls come in one order */
    row_type types[MPI_N_TYPES];        /* one datatype per row size: counts in rows stay small */
    int next_type;                      /* slot to reuse */
    gr_request *spare;                  /* finished requests, to be used again: a step allocates nothing */
    gr_request *busy;                   /* in flight */
} mpi_comm;

/* Make comm a communicator of one node. */
grace_status gr_mpi_wrap(MPI_Comm comm, double deadline_s, bool oversubscribed, mpi_comm **out);
grace_status gr_mpi_status(int code, const char *what);
/* No rank is ahead of another when this returns OK. Bounded. */
grace_status gr_mpi_barrier(mpi_comm *c);
/* Free comm when all ranks leave the job together. */
void gr_mpi_free_later(MPI_Comm comm);
/* The job is over for this process: no further MPI call may be made (late messages would land in freed buffers). */
bool gr_mpi_broken(void);

#endif
