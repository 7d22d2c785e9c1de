/* The weights one rank computes with: all but the experts it does not host. */
#ifndef GR_RUN_WEIGHTS_H
#define GR_RUN_WEIGHTS_H
#include "compute/compute.h"
#include "grace/plan.h"
#include "model/weights.h"

/* NULL: the layer has none. */
typedef struct gr_layer {
    gr_weight *attn_norm, *mlp_norm, *q_norm, *k_norm, *sinks;
    gr_weight *qkv, *o;                 /* rows of q, then k, then v; with their biases */
    /* latent attention: to_latent [heads * kv_rank, nope] brings queries to the latent, from_latent [heads * v_dim, kv_rank] results back;
     * to_keys [heads * nope, kv_rank] makes keys where `makes_keys` (from_latent makes values) */
    gr_weight *q, *q_a, *q_a_norm, *q_b, *kv_a, *to_latent, *from_latent, *to_keys;       /* k_norm is the latent's */
    gr_weight *router, *router_bias, *correction, *shared_gate;
    gr_mlps dense, shared;              /* one each, or none */
    gr_mlps slots;                      /* hosted here */
} gr_layer;

typedef struct gr_weights {
    gr_compute *compute;
    gr_weight *embed, *final_norm, *head;
    gr_layer *layers;                   /* [n_layers] */
    int32_t n_layers;
    int64_t bytes;                      /* of all weights, as they are computed with */
    float swiglu_limit;
    bool makes_keys;                    /* set before opening: latent attention makes keys of some rows (compute.h: gr_made) */
    int64_t replica_bytes;              /* of them, of the slots here that are not primaries */
    void (*on_load)(void *user, int64_t done, int64_t total);   /* set before opening, or NULL: grace_engine_options */
    void *load_user;
    struct gr_held *held;               /* [n_held] every gr_weight opened, to be closed, and memory that tensors were unpacked to */
    size_t n_held, room;
} gr_weights;

/* Weights lie in the mapped files; what backends do not compute with as it lies there gets memory of its own (docs/models.md). On failure too,
 * close with gr_weights_close(). */
grace_status gr_weights_open(gr_weights *w, gr_compute *compute, const grace_model *model, const grace_plan *plan, int32_t rank);
void gr_weights_close(gr_weights *w);   /* accepts a zeroed one */

#endif
