/* One layer of one step through the engine's tables and lists, all ranks one after another: what each would send, and what each would compute. */
#ifndef GR_SIM_REPLAY_H
#define GR_SIM_REPLAY_H
#include "plan/step_time.h"
#include "run/hop.h"
#include "run/joint.h"
#include "run/ways.h"
#include "sim/schedule.h"

typedef struct gr_forwarder { gr_rows source; int32_t *words; int32_t n_rows, n_entries; } gr_forwarder;   /* own rows, then received; its inbox */

typedef struct gr_replay {
    const grace_routing *routing;
    const grace_plan *plan;
    grace_plan *decode_plan;        /* as decode steps see it; NULL: alike */
    bool decode;                    /* such a step is replayed, by that plan */
    grace_route route;
    bool per_expert, exact;
    int64_t row_bytes;
    gr_ways ways;
    gr_joint joint[2];              /* of that policy, by decode; else no plan in it */
    gr_comm world, node;            /* which only know their size */
    gr_hop hop[GRACE_N_STAGES];
    gr_forwarder *forwarders;       /* [n_nodes] those of one local index; one where there is one stage */
    int32_t layer;                  /* of picks, -1: none */
    int32_t *picks;                 /* [n_ranks | 1, n_experts, GR_TURNS] compiled so far for the layer */
    int32_t *picked;                /* [n_ranks | 1, n_experts] 2 * rank + decode + 1 whose picks these are, 0: not compiled */
    bool all_picks;                 /* a table for every rank; else for the last one */
    int32_t *experts, *slot_pairs;  /* [top_k]; [slots of the layer with most] */
    /* what was counted; the caller reads and clears */
    grace_link_count dispatch[GRACE_N_STAGES][GRACE_N_LINKS], combine[GRACE_N_STAGES][GRACE_N_LINKS];   /* of all calls */
    int64_t *pair_rows;             /* [n_ranks, n_ranks] of all calls, or NULL */
    grace_layer_counts counts;      /* of the last call */
} gr_replay;

/* rows_max: most rows of one rank in a step. Frees with gr_replay_close(), also after a failure. Fails with LIMIT, MEMORY. */
grace_status gr_replay_open(gr_replay *r, const grace_routing *routing, const grace_sim_options *opt, int32_t rows_max);
void gr_replay_close(gr_replay *r);
grace_status gr_replay_layer(gr_replay *r, const gr_schedule *s, const gr_sim_step *step, int32_t layer);

#endif
