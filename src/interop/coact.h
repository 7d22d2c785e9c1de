/* Co-activation tables: how often pairs of experts were chosen together, by layer, as far as they were listed. */
#ifndef GR_INTEROP_COACT_H
#define GR_INTEROP_COACT_H
#include "grace/trace.h"
#include "interop/interop.h"
#include "interop/loads.h"
#include "interop/synth.h"

typedef struct gr_pairs {
    gr_pair *pairs;             /* [first[n_layers]] by layer, a < b */
    size_t *first;              /* [n_layers + 1] */
} gr_pairs;

/* CSV with columns layer, expert_i, expert_j, count, for layers and experts of the loads; rows in any order, a pair once. Any text is safe. */
grace_status gr_pairs_parse(const char *where, const char *text, size_t n, const gr_loads *loads, gr_pairs *out);
void gr_pairs_free(gr_pairs *pairs);    /* accepts a zeroed one */

#endif
