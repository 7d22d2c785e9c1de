/* What the files of the network share: network_open.c makes its buffers, network_step.c brings a step and draws from it, network.c has the layers between,
 * network_see.c shows them. */
#ifndef GR_RUN_NETWORK_PARTS_H
#define GR_RUN_NETWORK_PARTS_H
#include "run/network.h"

/* Of a row in the blocks of a step and of its draws: id, sequence, position, kv_sequence, decode, recorded; u, temperature, top_p, top_k, index. */
enum { GR_STEP_BYTES = 6 * sizeof(int32_t), GR_DRAW_BYTES = sizeof(double) + 4 * sizeof(int32_t) };

/* n elements on. */
static inline void *gr_behind(const gr_network *net, void *rows, int64_t n) { return (char *)rows + n * (int64_t)net->compute->ops->element; }
/* Elements of a row of the stacked projections: heads of q, then of k, then of v. */
int64_t gr_qkv_width(const grace_model_info *m);
/* From net->rows to the final hidden rows. Collective. */
grace_status gr_network_layers(gr_network *net, const gr_step *step);

/* For on_gate: what the gate of a MoE layer chose; for on_stream: net->x after n_done layers. Nothing where nobody looks. */
grace_status gr_see_gate(gr_network *net, const gr_step *step, int32_t moe_layer);
grace_status gr_see_stream(gr_network *net, int32_t n_done, const gr_step *step);

#endif
