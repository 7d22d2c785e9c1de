/* Rotary embedding tables on the host; the cuda backend copies one to the device when it opens. */
#ifndef GR_COMPUTE_ROPE_H
#define GR_COMPUTE_ROPE_H
#include "base/status.h"
#include "grace/model.h"

/* Cosine and sine [n_positions, dim / 2] of positions 0 to n_positions - 1, for one rope. Starts zeroed. */
typedef struct gr_rope_table { grace_rope rope; int32_t n_positions; float *cosine, *sine; } gr_rope_table;

/* The table holds at least the positions below n_positions of this rope. Fails with MEMORY. */
grace_status gr_rope_reserve(gr_rope_table *t, const grace_rope *rope, int32_t n_positions);
void gr_rope_free(gr_rope_table *t);

#endif
