/* The tensors of a network by their place in it, whatever the family calls them. Filled by one file per family; gr_tensor_exists() tells
 * which there are. */
#ifndef GR_MODEL_WEIGHTS_H
#define GR_MODEL_WEIGHTS_H
#include <stddef.h>

#include "grace/model.h"

/* An MLP, or one expert of many: down(act(gate x, up x)). */
typedef struct gr_mlp_tensors {
    grace_tensor gate, up, down;                        /* [width, hidden] x2, [hidden, width] */
    grace_tensor gate_bias, up_bias, down_bias;         /* [1, width] x2, [1, hidden] */
} gr_mlp_tensors;

typedef struct gr_layer_tensors {
    grace_tensor attn_norm, mlp_norm;                   /* [1, hidden] */
    grace_tensor q, k, v, o;                            /* [heads*head_dim, hidden], k and v by kv heads; o [hidden, heads*v_dim] */
    grace_tensor q_bias, k_bias, v_bias, o_bias;        /* [1, rows of the matrix] */
    grace_tensor q_norm, k_norm;                        /* [1, heads*head_dim] or [1, head_dim] */
    grace_tensor sinks;                                 /* [1, heads] a score that takes its share of the softmax and gives nothing */
    /* latent attention: q (or q_b q_a) as above; k, v absent */
    grace_tensor q_a, q_a_norm, q_b;                    /* [q_rank, hidden], [1, q_rank], [heads*head_dim, q_rank]; absent without q_rank */
    grace_tensor kv_a, kv_a_norm, kv_b;                 /* [kv_rank + rope.dim, hidden], [1, kv_rank], [heads*(head_dim - rope.dim + v_dim), kv_rank] */
    gr_mlp_tensors dense;                               /* of a dense layer */
    grace_tensor router, router_bias;                   /* [n_experts, hidden], [1, n_experts] */
    grace_tensor correction;                            /* [1, n_experts] added to scores for the choice only */
    gr_mlp_tensors shared;
    grace_tensor shared_gate;                           /* [1, hidden] the shared expert's rows are multiplied with sigmoid(shared_gate x) */
    gr_mlp_tensors *experts;                            /* [n_experts] */
} gr_layer_tensors;

typedef struct gr_model_tensors {
    grace_tensor embed, final_norm, head;               /* [vocab, hidden], [1, hidden], [vocab, hidden] (= embed when tied) */
    gr_layer_tensors *layers;                           /* [n_layers] */
} gr_model_tensors;

const gr_model_tensors *gr_model_tensors_of(const grace_model *model);      /* borrowed until grace_model_close() */

static inline bool gr_tensor_exists(const grace_tensor *t) { return t->data || t->random.on; }

/* ---- unpack.c: tensors that a backend does not compute with as they lie in the file ---- */

/* F32, BF16 or F16, row by row and side by side. */
bool gr_tensor_is_plain(const grace_tensor *t);
/* The dtype it is unpacked to: its own, or BF16 where the file has blocks with scales; and the bytes that takes. */
grace_dtype gr_tensor_plain_dtype(const grace_tensor *t);
size_t gr_tensor_plain_bytes(const grace_tensor *t);
int64_t gr_mlp_plain_bytes(const gr_mlp_tensors *t);        /* of those of its tensors that are there */
/* Values in their places, row by row: to [gr_tensor_plain_bytes()]. F8_E4M3 times its scale is rounded to BF16, MXFP4 fits exactly; what is
 * random is made. */
void gr_tensor_unpack(const grace_tensor *t, void *to);
/* Rows first to first + n. Not for F8_E4M3, whose blocks do not begin everywhere. */
grace_tensor gr_tensor_rows(const grace_tensor *t, int64_t first, int64_t n);

#endif
