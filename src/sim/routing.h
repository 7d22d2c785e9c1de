/* Tokens and their experts: of a trace, or made up when asked. */
#ifndef GR_SIM_ROUTING_H
#define GR_SIM_ROUTING_H
#include "grace/sim.h"

struct grace_routing {
    grace_trace_info info;
    const grace_trace *trace;       /* NULL: made up */
    bool *wanted;                   /* [the trace's sequences] selected */
    int32_t n_sequences;            /* selected, with tokens */
    int64_t *first_token;           /* [n_sequences + 1] into tokens */
    int64_t *tokens;                /* [n_tokens] rows of the trace, sequence by sequence */
    int64_t n_tokens;
    uint64_t seed;
    double *cumulated;              /* [n_experts] of the weights, rank by rank */
    int32_t *expert_of_rank;        /* [n_layers, n_experts] */
};

/* A token of sequence i as grace_workload says; `span` tokens of it are used in all. */
int64_t gr_routing_token(const grace_routing *r, int32_t sequence, int32_t position, int32_t span);
/* experts [top_k] of a token in a layer. */
void gr_routing_experts(const grace_routing *r, int64_t token, int32_t layer, int32_t *experts);

#endif
