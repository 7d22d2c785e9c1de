/* Which experts each rank holds, layer by layer, as other engines write it: no primaries, no loads. The middle between plans and files. */
#ifndef GR_INTEROP_PLACEMENT_H
#define GR_INTEROP_PLACEMENT_H
#include <stddef.h>
#include <stdint.h>

#include "grace/plan.h"
#include "interop/interop.h"

typedef struct gr_placement {
    int32_t n_layers, n_ranks;
    int64_t *first;             /* [n_layers * n_ranks + 1] */
    int32_t *expert;            /* [first[n_layers * n_ranks]] by layer and rank, in the order of slots */
} gr_placement;

/* Ranks take equal runs of a layer's slots. table [n_layers, n_slots] is copied. Fails with FORMAT when slots do not divide, MEMORY. */
grace_status gr_placement_of_table(const char *where, const int32_t *table, int32_t n_layers, int32_t n_slots, int32_t n_ranks, gr_placement *out);
grace_status gr_placement_alloc(int32_t n_layers, int32_t n_ranks, int64_t n_slots, gr_placement *out);     /* first is to be filled */
void gr_placement_free(gr_placement *placement);    /* accepts a zeroed one */

/* The cluster's ranks must be the placement's; the experts are 0 to the highest that is named, each of them in every layer, none twice on a
 * rank. An expert's primary is on its lowest rank. Fails with FORMAT, MISMATCH (cluster), LIMIT, MEMORY. */
grace_status gr_placement_plan(const char *where, const gr_placement *placement, grace_cluster cluster, int32_t top_k, grace_plan **out);

/* Slots that every rank of every layer has. MISMATCH, saying where they differ, when they are not equal. */
grace_status gr_slots_per_rank(const grace_plan *plan, int32_t *out);

/* The model's layer of each of the plan's, ids [n_layers]; *n_model_layers is set. known [n_layers]: what the plan says of them, NULL: nothing.
 * Fails with ARG when the map does not fit or neither says anything, MISMATCH when it says something else. */
grace_status gr_layer_map_ids(const gr_layer_map *map, const int32_t *known, int32_t n_layers, int32_t *ids, int32_t *n_model_layers);

#endif
