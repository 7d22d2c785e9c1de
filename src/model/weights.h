/* The tensors of a network by their place in it, whatever the family calls them. Filled by one file per family. */
#ifndef GR_MODEL_WEIGHTS_H
#define GR_MODEL_WEIGHTS_H
#include "grace/model.h"

typedef struct gr_expert_tensors { grace_tensor gate, up, down; } gr_expert_tensors;   /* [width, hidden] x2, [hidden, width] */

typedef struct gr_layer_tensors {
    grace_tensor attn_norm, mlp_norm;       /* [1, hidden] */
    grace_tensor q, k, v, o;                /* [heads*head_dim, hidden] x3, [hidden, heads*head_dim] */
    grace_tensor q_norm, k_norm;            /* [1, heads*head_dim] or [1, head_dim]; data NULL: none */
    grace_tensor router;                    /* [n_experts, hidden]; data NULL: a dense layer */
    gr_expert_tensors *experts;             /* [n_experts] */
} gr_layer_tensors;

typedef struct gr_model_tensors {
    grace_tensor embed, final_norm, head;   /* [vocab, hidden], [1, hidden], [vocab, hidden] (= embed when tied) */
    gr_layer_tensors *layers;               /* [n_layers] */
} gr_model_tensors;

const gr_model_tensors *gr_model_tensors_of(const grace_model *model);      /* borrowed until grace_model_close() */

#endif
