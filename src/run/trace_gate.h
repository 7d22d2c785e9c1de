/* Recorded routing in place of the gate's choice, so that real skew and co-activation can be measured on any model with as many experts: request r takes
 * the tokens of sequence r mod n of a trace, from its first on and round and round; each time the sequences are used up, the next request starts another
 * 0.618th of the sequence later, so that no two tread in step. The model's layers take the trace's layers in turn. */
#ifndef GR_RUN_TRACE_GATE_H
#define GR_RUN_TRACE_GATE_H
#include "compute/compute.h"
#include "grace/trace.h"

typedef struct gr_trace_gate {
    gr_compute *compute;
    int32_t n_sequences;                /* with tokens */
    int32_t *first;                     /* [n_sequences + 1] of a sequence's tokens */
    gr_recorded choices;                /* of them, in order of sequence and position: largest weight first, equal ones by id. A trace without weights says
                                         * nothing of them: each is the gate's scaling shared evenly */
} gr_trace_gate;

/* Copies the tokens that `which` selects (NULL: all) to the backend. Fails with MISMATCH (experts, top_k), ARG (no such domain, no tokens), LIMIT, MEMORY. */
grace_status gr_trace_gate_open(gr_compute *compute, const grace_trace *trace, const grace_selection *which, const grace_model_info *info,
                                gr_trace_gate **out);
void gr_trace_gate_close(gr_trace_gate *g);     /* accepts NULL; before the backend's memory goes */

/* The token whose choices a row takes. */
int32_t gr_trace_gate_token(const gr_trace_gate *g, int32_t sequence, int32_t position);

#endif
