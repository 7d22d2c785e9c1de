/* The numbers of a run (docs/architecture.md, Numbers): what each rank counts, and what all of them make together. */
#ifndef GR_RUN_TALLY_H
#define GR_RUN_TALLY_H
#include "comm/comm.h"
#include "grace/engine.h"
#include "run/batch.h"
#include "run/move.h"
#include "run/network.h"

typedef struct gr_tally {
    int32_t n_ranks, n_layers;
    int64_t *shared;            /* what the ranks add up once a step: header, each rank's rows, then loads and expert times [n_layers, n_ranks] each */
    bool decode;                /* no rank has a row of a prompt in the step that begins */
    int32_t n_rows_most;        /* of any rank in the step that begins */
    bool pending;               /* a step's loads wait to be added up */
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

/* Once at the start of every step: adds up over the ranks the loads of the step before, and how many rows of each kind and new requests come now;
 * NULL: none. *more is false when no rank has any rows. Collective. */
grace_status gr_tally_sync(gr_tally *t, gr_network *net, const gr_batch *now, bool *more);
/* After the step's forward: a mixed step's time is shared between prefill and decode by their rows. */
void gr_tally_step(gr_tally *t, double wall_us);

/* Collective. */
grace_status gr_tally_stats(gr_tally *t, gr_network *net, grace_stats *out);

#endif
