/* Running requests change ranks: what is known of them, and their KV cache. */
#ifndef GR_RUN_MOVE_H
#define GR_RUN_MOVE_H
#include "run/batch.h"
#include "run/network.h"

typedef struct gr_move {
    int32_t request, from, to;  /* ranks; they differ */
    int32_t n_done, n_ids;      /* rows computed, tokens drawn */
} gr_move;

typedef struct gr_moved { int64_t requests, kv_rows, kv_bytes; double us; } gr_moved;

/* Bytes of a token in the KV cache, all layers. */
int64_t gr_move_token_bytes(const gr_network *net);
/* Every rank passes the same moves, in order of request. Those who leave have given their pages back before the others come: there must be room for
 * these then. Collective. Fails with COMM, MEMORY, LIMIT (4 GiB between two ranks). */
grace_status gr_move_requests(gr_network *net, gr_batch *b, const gr_move *moves, int32_t n);

#endif
