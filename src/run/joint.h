/* Routing policy joint (compute/joint.h has its rules and their code) on a plan: its tables of all layers, and placing on the host. */
#ifndef GR_RUN_JOINT_H
#define GR_RUN_JOINT_H
#include <stddef.h>

#include "compute/joint.h"
#include "grace/plan.h"

typedef struct gr_joint {
    const grace_plan *plan;         /* borrowed */
    int32_t rank;                   /* whose tokens; may be changed between calls: the tables are anybody's */
    size_t *first;                  /* [n_layers + 1] of tables, where each layer's begin */
    int32_t *tables;                /* for gr_joint_of_layer(), as is a copy of them elsewhere */
    int32_t *tally;                 /* [n_ranks] zeros between calls */
} gr_joint;

/* Fails with LIMIT (top_k), MEMORY. Free with gr_joint_free(), also after a failure. */
grace_status gr_joint_init(gr_joint *j, const grace_plan *plan, int32_t rank);
void gr_joint_free(gr_joint *j);

/* Whether an expert of the layer has a second copy: else every policy chooses alike. */
bool gr_joint_has_choice(const gr_joint *j, int32_t layer);
/* The layer's part of such tables. */
gr_joint_tables gr_joint_of_layer(const gr_joint *j, int32_t *tables, int32_t layer);

/* One token's experts [n] of a layer. slots [n] holds what tar would choose and gets what serves them. */
void gr_joint_place(const gr_joint *j, int32_t layer, int32_t n, const int32_t *experts, int32_t sequence, int32_t position, int32_t *slots);

#endif
