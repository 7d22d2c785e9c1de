#include <stdio.h>

#include "grace/sim.h"

/* Latent attention is priced as it is computed with a cache: queries against the latents that the cache holds, heads times their width. */
static double attention_values(const grace_model_info *m) {
    double head = m->kv_rank ? 2.0 * m->kv_rank + m->rope.dim : m->head_dim + m->v_dim;
    return (double)m->n_layers * m->n_heads * head;
}

grace_shape grace_shape_of_model(const grace_model_info *m) {
    double experts = 3.0 * m->n_moe_layers * m->n_experts * m->hidden * m->expert_width, table = (double)m->vocab * m->hidden;
    grace_shape s = {.hidden = m->hidden, .expert_width = m->expert_width, .n_layers = m->n_layers, .n_moe_layers = m->n_moe_layers,
                     .n_experts = m->n_experts, .top_k = m->top_k, .weight_bytes = m->n_params > 0 ? (double)m->n_bytes / (double)m->n_params : 2,
                     .head_params = table, .attention_values = attention_values(m),
                     .kv_values = (double)grace_model_kv_token_bytes(m) / (double)sizeof(float)};
    s.dense_params = (double)m->n_params - experts - (m->tied_embeddings ? 1 : 2) * table;
    snprintf(s.name, sizeof s.name, "%.31s", m->family);
    return s;
}
