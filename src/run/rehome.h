/* Second homes (homes HISTOGRAM, docs/homes.md): after its first rows a request may move to where they say that least will cross between nodes. */
#ifndef GR_RUN_REHOME_H
#define GR_RUN_REHOME_H
#include "run/batch.h"
#include "run/move.h"
#include "run/network.h"

typedef struct gr_rehome gr_rehome;

/* The network is borrowed. Not collective. Fails with MEMORY. */
grace_status gr_rehome_open(gr_network *net, int32_t n_rows_max, gr_rehome **out);
void gr_rehome_free(gr_rehome *r);
/* The gate's choice of one layer for the rows of the step under way: what first rows send from each node. A gr_on_gate with the gr_rehome as user. */
void gr_rehome_gate(void *rehome, int32_t moe_layer, const gr_step *step, const int32_t *experts, const float *weights);
/* Between two steps, after one in which requests of some rank computed their first rows: those that have not finished choose again, all together, and who
 * lives elsewhere now moves. held [n_ranks] requests that were given to each rank, as gr_homes_assign() wants them. Collective. */
grace_status gr_rehome_step(gr_rehome *r, gr_batch *b, int32_t *held, gr_moved *moved);

#endif
