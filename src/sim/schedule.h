/* Which rows every rank computes in every step. */
#ifndef GR_SIM_SCHEDULE_H
#define GR_SIM_SCHEDULE_H
#include "sim/routing.h"

typedef struct gr_sim_step {
    int64_t first, end;             /* rows */
    bool decode;                    /* every row adds a token to a sequence */
    grace_batch *batches;           /* [n_ranks] each rank's part, for the dense price */
} gr_sim_step;

typedef struct gr_schedule {
    int32_t n_ranks, n_steps;
    gr_sim_step *steps;
    int32_t *home, *sequence, *position;    /* [n_rows] rank, the router's sequence id, position; by step, then home */
    int64_t *token;                 /* [n_rows] of the routing */
    int64_t n_rows;
} gr_schedule;

/* Frees with gr_schedule_free(), also after a failure. Fails with ARG, LIMIT, MEMORY. */
grace_status gr_schedule_workload(const grace_routing *r, const grace_workload *w, int32_t n_ranks, gr_schedule *s);
/* The trace's own steps. */
grace_status gr_schedule_recorded(const grace_routing *r, grace_cluster cluster, gr_schedule *s);
void gr_schedule_free(gr_schedule *s);

#endif
