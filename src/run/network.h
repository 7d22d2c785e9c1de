/* The network on one rank: its weights (of the experts only those it hosts), its buffers, and one forward pass over a step's rows. */
#ifndef GR_RUN_NETWORK_H
#define GR_RUN_NETWORK_H
#include "compute/compute.h"
#include "grace/engine.h"
#include "run/exchange.h"
#include "run/kv.h"
#include "run/router.h"
#include "run/trace_gate.h"
#include "run/weights.h"

/* The rows one rank computes in one step; host memory. */
typedef struct gr_step {
    int32_t n_rows;
    int32_t n_decode;                   /* the first of them are generated tokens */
    int32_t n_rows_most;                /* the most rows of any rank in this step */
    int32_t *id, *sequence, *position;  /* [n_rows] token, or -1 - the row of the step before whose draw it is; sequence id, position */
    int32_t *kv_sequence;               /* [n_rows] row of the KV page table */
    bool decode;                        /* on all ranks alike: every row of theirs adds a token to a sequence */
    int32_t flight;                     /* < GR_FLIGHTS: which of the steps that may be under way */
} gr_step;

/* How one row of logits becomes an id. */
typedef struct gr_draw { float temperature, top_p; int32_t top_k; uint64_t seed; int32_t position; } gr_draw;

/* What the gate chose, before placement: for traces and tests. experts, weights [n_rows, top_k]. */
typedef void gr_on_gate(void *user, int32_t moe_layer, const gr_step *step, const int32_t *experts, const float *weights);

/* The residual stream [n_rows, hidden] after the embedding (n_done 0) and each layer; after the last, the final norm's rows. For tests. */
typedef void gr_on_stream(void *user, int32_t n_done, const gr_step *step, const float *x);

/* What a step brings along, laid out in one block of host memory, and the same block where the backend reads it. */
typedef struct gr_block { char *host, *there; } gr_block;

/* Rows that go through the layers together: a step's, or half of them (exchange.h). */
typedef struct gr_part {
    int32_t first;                      /* of the step's rows */
    gr_step step;                       /* the real ones */
    gr_step_rows rows;                  /* with padding */
} gr_part;

/* What a step leaves in host memory once its end was read. */
typedef struct gr_landed {
    int32_t *drawn;                     /* [n_logits_max] ids */
    int64_t *load;                      /* [n_moe_layers] pairs computed here */
    double *expert_us;                  /* [n_moe_layers] */
} gr_landed;

typedef struct gr_network {
    const grace_model_info *info;
    const grace_plan *plan;
    gr_comm *comm;
    int32_t machine_rank;               /* ranks before this one on its machine */
    gr_compute *compute;
    gr_router *router;
    grace_plan *decode_plan;            /* as decode steps see the plan, and the router of it; NULL: alike */
    gr_router *decode_router;
    gr_exchange *exchange;
    gr_kv kv;
    gr_weights w;
    int32_t n_rows_max, n_logits_max;   /* rows of a step; rows of logits computed at once */
    bool makes_keys;                    /* latent attention, of prompts that begin in a step */
    /* backend memory */
    gr_block step_block, draw_block;
    gr_step_rows rows;                  /* of the step under way, in step_block */
    gr_part parts[GR_PARTS_MAX], *part; /* of it; the one whose turn it is */
    int32_t n_parts;
    gr_draws draws;                     /* of the draw under way, in draw_block, as is index [n]: rows whose logits are computed */
    const int32_t *index;
    int32_t *drawn_there;               /* [n_logits_max] */
    void *x, *h, *q, *k, *v, *attn;     /* [rows, ...]: the residual stream, a layer's part of it, projections, attention's results */
    void *q_a, *q_latent, *attn_latent; /* latent attention: the queries' latent, queries and results in the keys' latent */
    float *logits;                      /* [n_logits_max, vocab] */
    int32_t *experts, *slots;           /* [rows, top_k] */
    gr_trace_gate *trace_gate;          /* replaces the gates' choice; NULL: it stands */
    float *weights;
    int32_t *pick;                      /* [layers, experts, turns] the router's tables, and those of decode steps behind them; NULL: rows are placed here */
    int32_t *joint, *decode_joint;      /* the routers' tables of policy joint, likewise */
    /* host memory */
    gr_landed landed[GR_FLIGHTS], *flight;      /* by gr_step.flight; that of the step launched last */
    float *logits_here;                 /* a copy of logits, where they are not in host memory */
    void *seen;                         /* likewise for on_gate and on_stream */
    gr_on_gate *on_gate;
    void *on_gate_user;
    gr_on_stream *on_stream;
    void *on_stream_user;
    double time_us[GRACE_N_TIMES];      /* of a backend that queues only with times_stages, by its marks: then no step is replayed */
    bool times_stages;
} gr_network;

/* Collective over opt->comm. opt->plan is set. */
grace_status gr_network_open(const grace_model *model, const grace_engine_options *opt, gr_network **out);
void gr_network_close(gr_network *net);

/* Runs all layers; the final hidden rows stay in the network. Collective: every rank calls it, also with no rows, or, in its place, launch and land. */
grace_status gr_network_forward(gr_network *net, const gr_step *step);
/* A step whose every row is a generated token's (step->n_decode == n_rows <= n_logits_max), with draws [n_rows]. land waits for it; then
 * net->landed[step->flight].drawn has every row's next id. Where gr_network_queues(), another flight may be launched before. They land in order. */
grace_status gr_network_launch(gr_network *net, const gr_step *step, const gr_draw *draws);
grace_status gr_network_land(gr_network *net, const gr_step *step);
/* Nobody here looks into a step, and what a step leaves at its end the next may overwrite. */
bool gr_network_queues(const gr_network *net);
/* What launch would record of such a step, without running it: no rank waits for another. */
grace_status gr_network_record(gr_network *net, const gr_step *step, const gr_draw *draws);
/* Logits of n <= n_logits_max rows of the last forward, and an id drawn from each, in net->flight->drawn. *logits: NULL, or gets them, [n, vocab], host memory
 * valid until the next call. Not collective. */
grace_status gr_network_draw(gr_network *net, const int32_t *rows, int32_t n, const gr_draw *draws, const float **logits);

#endif
