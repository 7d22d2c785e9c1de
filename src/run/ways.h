/* Who gets a rank's rows in each stage of an exchange, and as what they are counted: for the engine, and for whoever replays it without one. */
#ifndef GR_RUN_WAYS_H
#define GR_RUN_WAYS_H
#include "grace/engine.h"

typedef struct gr_ways {
    grace_cluster cluster;
    int32_t rank;                               /* who sends */
    bool two_stage;                             /* hsc over more than one node */
    int32_t *peer_of_rank[GRACE_N_STAGES];      /* [n_ranks] for gr_hop */
} gr_ways;

static inline bool gr_ways_has_two_stages(grace_cluster cluster, grace_exchange kind) { return kind == GRACE_EXCHANGE_HSC && cluster.n_nodes > 1; }

/* Frees with gr_ways_free(), also after a failure. */
grace_status gr_ways_init(gr_ways *w, grace_cluster cluster, grace_exchange kind);
void gr_ways_free(gr_ways *w);
void gr_ways_aim(gr_ways *w, int32_t rank);                                     /* from now on for this sender */

int32_t gr_ways_n_peers(const gr_ways *w, int stage);
int32_t gr_ways_world_rank(const gr_ways *w, int stage, int32_t peer);          /* of a stage's peer */
int gr_ways_link(const gr_ways *w, int32_t to);                                 /* GRACE_LINK_...; the same both ways */

static inline void gr_link_count_add(grace_link_count *c, int64_t rows, int64_t row_bytes, int64_t list_bytes) {
    c->rows += rows;
    c->bytes_payload += rows * row_bytes;
    c->bytes_wire += rows * row_bytes + list_bytes;
}

#endif
