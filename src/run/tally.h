/* The numbers of a run (docs/architecture.md, Numbers): what each rank counts, and what all of them make together. */
#ifndef GR_RUN_TALLY_H
#define GR_RUN_TALLY_H
#include "comm/comm.h"
#include "grace/engine.h"
#include "run/batch.h"
#include "run/move.h"
#include "run/network.h"

/* What all ranks know of a step before it begins. */
typedef struct gr_agreed {
    int64_t n_prefill, n_decode, n_started;     /* rows and new requests of all ranks */
    int32_t n_rows_most;        /* of any rank */
    bool decode;                /* no rank has a row of a prompt */
    bool quiet;                 /* and on none does the host look at the rows */
} gr_agreed;

typedef struct gr_tally {
    int32_t n_ranks, n_layers;
    int64_t *shared;            /* what the ranks add up once a step: header, each rank's rows, then loads and expert times [n_layers, n_ranks] each */
    const gr_landed *pending;   /* a step whose loads wait to be added up; NULL: none */
    int32_t n_steps;
    int64_t n_prefill, n_decode;    /* rows of all ranks */
    int64_t n_started;          /* requests of all ranks that began since it was last set to 0 */
    gr_moved moved;
    double prefill_us, decode_us;
    int64_t *load;              /* [n_layers, n_ranks] */
    int64_t idle_pairs, n_pairs;
    double idle_us, expert_us;  /* from measured expert times, all ranks */
    int64_t *pair_rows;         /* [n_ranks, n_ranks] filled by gr_tally_stats() */
} gr_tally;

grace_status gr_tally_init(gr_tally *t, int32_t n_ranks, int32_t n_layers);
void gr_tally_free(gr_tally *t);

/* Before every step, and where one was filled and dropped: adds up over the ranks the loads of the last one that was counted, how many rows of each kind and
 * new requests come now, and whether any rank's host looks at them. Collective. */
grace_status gr_tally_sync(gr_tally *t, gr_network *net, const gr_fill *now, bool looks, gr_agreed *out);
/* Counts a step that has landed: a mixed step's time is shared between prefill and decode by their rows. Its loads are kept until the next sync. */
void gr_tally_step(gr_tally *t, const gr_agreed *step, const gr_landed *landed, double wall_us);

/* Collective. */
grace_status gr_tally_stats(gr_tally *t, gr_network *net, grace_stats *out);

#endif
