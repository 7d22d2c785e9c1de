/* Several ranks on this machine from one command: --ranks re-executes the program under mpirun. */
#ifndef GRACE_CLI_LAUNCH_H
#define GRACE_CLI_LAUNCH_H
#include <stdbool.h>
#include <stdint.h>

#include "grace/status.h"

/* "4" (4 ranks, 1 node) or "2x2" (2 nodes of 2 ranks); at most 32 a core, and 1024. Fails with ARG. */
grace_status gr_launch_parse(const char *text, int *n_ranks, int *n_nodes);

/* Run this program again as n_ranks ranks with the same arguments, and wait. The ranks learn the rest from gr_launch_job().
 *   wire_or_null   a rate such as "1gbit": two nodes in network namespaces joined by a link of that rate (root; tools/wire.sh)
 *   exit_code      what the job ended with; 128 + signal when a rank was killed (the reason has been printed then)
 * SIGINT and SIGTERM are passed on. Fails with ARG, UNSUPPORTED (no mpirun), IO. */
grace_status gr_launch_ranks(int argc, char **argv, int n_ranks, int n_nodes, const char *wire_or_null, int *exit_code);

/* For a rank: what the process that started the job by gr_launch_ranks() decided. */
typedef struct gr_launched_job {
    bool inside;                    /* false: another launcher started this process, or none */
    int n_nodes;
    bool terminal;                  /* the parent's stderr is a terminal; a rank's own is a pipe */
    char wire[32];                  /* "": none */
} gr_launched_job;
gr_launched_job gr_launch_job(void);

#endif
