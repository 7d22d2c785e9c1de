/* Who started this process: what the variables say that launchers leave (docs/launch.md has the table). */
#ifndef GR_COMM_LAUNCHER_H
#define GR_COMM_LAUNCHER_H
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"
#include "comm/comm.h"

struct gr_launcher {
    grace_transport transport;      /* SELF: nobody */
    const char *name;               /* "mpirun", "torchrun", "srun"; static storage */
    int32_t rank, n_ranks;          /* with TCP */
    char host[256];                 /* with TCP: where rank 0 listens; empty for one rank */
    uint16_t port;
    uint64_t job;                   /* with TCP: the same on all ranks of a job, other in another job if the launcher numbers its jobs */
};

/* asked: AUTO, or TCP: then mpirun's variables will do, too. Fails with ARG when the variables do not fit together. */
grace_status gr_launcher_find(grace_transport asked, gr_launcher *out);
/* The first host of Slurm's list of nodes: "gpu[07-09,12],login1" gives "gpu07". Fails with FORMAT. */
grace_status gr_launcher_first_host(const char *list, char *out, size_t size);

#endif
