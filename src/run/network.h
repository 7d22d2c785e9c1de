/* The network on one rank: its weights (of the experts only those it hosts), its buffers, and one forward pass over a step's rows. */
#ifndef GR_RUN_NETWORK_H
#define GR_RUN_NETWORK_H
#include "compute/compute.h"
#include "grace/engine.h"
#include "run/exchange.h"
#include "run/kv.h"
#include "run/router.h"
#include "run/weights.h"

/* The rows one rank computes in one step. */
typedef struct gr_step {
    int32_t n_rows;
    int32_t *id, *sequence, *position;  /* [n_rows] token, sequence id, position */
    int32_t *kv_sequence;               /* [n_rows] row of the KV page table */
    bool decode;                        /* on all ranks alike: every row of theirs adds a token to a sequence */
} gr_step;

/* What the gate chose, before placement: for traces and tests. experts, weights [n_rows, top_k]. */
typedef void gr_on_gate(void *user, int32_t moe_layer, const gr_step *step, const int32_t *experts, const float *weights);

/* The residual stream [n_rows, hidden] after the embedding (n_done 0) and each layer; after the last, the final norm's rows. For tests. */
typedef void gr_on_stream(void *user, int32_t n_done, const gr_step *step, const float *x);

typedef struct gr_network {
    const grace_model_info *info;
    const grace_plan *plan;
    gr_comm *comm;
    gr_compute *compute;
    gr_router *router;
    grace_plan *decode_plan;            /* as decode steps see the plan, and the router of it; NULL: alike */
    gr_router *decode_router;
    gr_exchange *exchange;
    gr_kv kv;
    gr_weights w;
    float *x, *h, *q, *k, *v, *attn, *logits;   /* [rows, ...]: the residual stream, a layer's part of it, projections, attention's results */
    float *q_a, *q_latent, *attn_latent;        /* latent attention: the queries' latent, queries and results in the keys' latent */
    int32_t *own_rows;                  /* [rows] 0, 1, ...: the rows of an MLP that every token uses */
    int32_t *experts, *slots;           /* [rows, top_k] */
    float *weights;
    gr_on_gate *on_gate;
    void *on_gate_user;
    gr_on_stream *on_stream;
    void *on_stream_user;
    double time_us[GRACE_N_TIMES];
    int64_t *step_load;                 /* [n_moe_layers] pairs computed here in the current step */
    double *step_expert_us;             /* [n_moe_layers] */
} gr_network;

enum { GR_LOGITS_ROWS = 32 };           /* rows of logits computed at once */

/* Collective over opt->comm. opt->plan is set. */
grace_status gr_network_open(const grace_model *model, const grace_engine_options *opt, gr_network **out);
void gr_network_close(gr_network *net);

/* Runs all layers; the final hidden rows stay in the network. Collective: every rank calls it, also with no rows. */
grace_status gr_network_forward(gr_network *net, const gr_step *step);
/* Logits of n <= GR_LOGITS_ROWS rows of the last forward: *logits [n, vocab], valid until the next call. Not collective. */
grace_status gr_network_logits(gr_network *net, const int32_t *rows, int32_t n, const float **logits);

#endif
