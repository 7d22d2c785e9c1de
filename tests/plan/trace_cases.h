/* Traces made in memory for planner tests: blocks of experts that are chosen together. */
#ifndef GR_TESTS_TRACE_CASES_H
#define GR_TESTS_TRACE_CASES_H
#include "plan/planner_cases.h"
#include "plan/trace.h"

typedef struct trace_case { int32_t n_layers, n_experts, top_k, n_sequences, n_tokens, n_blocks; double outside; } trace_case;

/* An expert of a token: of its block, or with chance `outside` of any; not one it has. Blocks are dealt anew in every layer. */
static inline uint16_t draw_expert(gr_rng *rng, const trace_case *c, int32_t layer, int32_t block, const uint16_t *taken, int32_t n_taken) {
    for (;;) {
        int32_t e = between(rng, 0, c->n_experts - 1), mixed = (int32_t)(((int64_t)e * 7 + layer * 3) % c->n_experts), fresh = 1;
        if (mixed % c->n_blocks != block && gr_rng_uniform(rng) >= c->outside) continue;
        for (int32_t i = 0; i < n_taken; i++) fresh &= taken[i] != e;
        if (fresh) return (uint16_t)e;
    }
}

/* n_tokens per sequence; a token's block is drawn at random and is the same in all layers. Homes are sequence % 4. */
static inline grace_trace *make_trace(gr_rng *rng, const trace_case *c) {
    grace_trace *t = NULL;
    grace_trace_info info = {.n_layers = c->n_layers, .n_experts = c->n_experts, .top_k = c->top_k, .n_ranks = 4, .n_nodes = 2};
    size_t width = (size_t)(c->n_layers * c->top_k);
    uint16_t *ids = calloc(width, sizeof *ids);
    if (!ids || gr_trace_new("case", &info, &t)) abort();
    for (int32_t s = 0; s < c->n_sequences; s++) {
        if (gr_trace_push_sequence("case", t, (grace_trace_sequence){s, s % 4, -1})) fail_msg("%s", grace_last_error());
        if (c->n_tokens > 0 && gr_trace_push_segment("case", t, (grace_trace_segment){s, 0, c->n_tokens, s, GRACE_PHASE_UNKNOWN})) fail_msg("%s",
                grace_last_error());
        for (int32_t i = 0; i < c->n_tokens; i++) {
            int32_t block = between(rng, 0, c->n_blocks - 1);
            for (int32_t l = 0; l < c->n_layers; l++)
                for (int32_t j = 0; j < c->top_k; j++) ids[l * c->top_k + j] = draw_expert(rng, c, l, block, ids + l * c->top_k, j);
            gr_raw_tokens raw = {.experts = (const unsigned char *)ids, .expert_bytes = 2};
            if (gr_trace_push_tokens("case", t, &raw, 1)) fail_msg("%s", grace_last_error());
        }
    }
    free(ids);
    return t;
}

#endif
