/* DeepSeek's expert parallelism load balancer (github.com/deepseek-ai/EPLB), one layer at a time: the public baseline that balances load and
 * knows no affinity. All arithmetic and all ties are those of the published program on the CPU: float32 sums, descending stable sort, the
 * first of equal minima and maxima. */
#ifndef GR_PLAN_EPLB_H
#define GR_PLAN_EPLB_H
#include <stdint.h>

#include "base/status.h"

typedef struct gr_eplb_shape {
    int32_t n_experts, n_slots;     /* n_slots: of all GPUs together, copies included */
    int32_t n_groups;               /* equal runs of experts that the router treats as one; 1: the model has none */
    int32_t n_nodes, n_gpus;        /* n_gpus: of all nodes together */
} gr_eplb_shape;

/* n items of weight [n] -> n_packs packs of n / n_packs items each: heaviest first, each to the lightest pack with room.
 * pack_of [n], place_of [n] the item's place in its pack. Fails with ARG (n is no multiple of n_packs), MEMORY. */
grace_status gr_balanced_packing(const float *weight, int32_t n, int32_t n_packs, int32_t *pack_of, int32_t *place_of);

/* n experts with n_slots >= n slots: every further slot goes to the expert with the most load a copy.
 * expert_of_slot [n_slots], copies [n] slots of the expert. */
void gr_replicate_experts(const float *weight, int32_t n, int32_t n_slots, int32_t *expert_of_slot, int32_t *copies);

/* load [n_experts] -> expert_of_slot [n_slots], GPU g holds the n_slots / n_gpus slots from g * n_slots / n_gpus; an expert may stand there
 * twice. Hierarchical when the nodes divide the groups (groups are packed to nodes, copies stay in their node), global otherwise.
 * Fails with ARG (sizes that do not divide, fewer slots than experts), MEMORY. */
grace_status gr_eplb(const float *load, gr_eplb_shape shape, int32_t *expert_of_slot);

#endif
