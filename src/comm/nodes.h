/* Ranks to nodes, for the transports that connect several. */
#ifndef GR_COMM_NODES_H
#define GR_COMM_NODES_H
#include "comm/comm.h"

/* Set n_nodes, gpus_per_node and oversubscribed of c, the communicator of all ranks.
 *   first     [n_ranks] the lowest rank on the machine of each rank
 *   n_nodes   0: machines are nodes, which must be equally large and hold consecutive ranks; else so many equal runs
 * Collective. Fails with ARG, COMM. */
grace_status gr_nodes_arrange(gr_comm *c, const int32_t *first, int32_t n_nodes);
/* Ranks on the machine of `rank`. */
int32_t gr_nodes_n_local(const int32_t *first, int32_t n_ranks, int32_t rank);

#endif
