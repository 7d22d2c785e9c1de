/* Homes: which node a sequence should live on. A token's rows between nodes depend on its home's node alone (topology-aware routing, turns in
 * expectation), so everything here is about rows [sequences, nodes]. docs/homes.md has definitions, algorithms and what was measured. */
#ifndef GR_PLAN_HOMES_H
#define GR_PLAN_HOMES_H
#include "grace/plan.h"

/* ---- rows: what a token sends between nodes in a layer, for every node its home may be on ---- */
typedef struct gr_home_layer {
    int16_t *target;            /* [n_nodes homes, n_experts] node that serves the expert; -1: several, by turns */
    double *chance;             /* [n_nodes homes, n_experts, n_nodes] of an expert that has a -1 somewhere; else NULL */
} gr_home_layer;
typedef struct gr_home_rows { int32_t n_layers, n_experts, top_k, n_nodes; gr_home_layer *layers; } gr_home_rows;

grace_status gr_home_rows_build(const grace_plan *plan, gr_home_rows *out);
void gr_home_rows_free(gr_home_rows *h);
/* experts [top_k] of a token in a layer: rows [n_nodes] += rows it dispatches to other nodes. */
void gr_home_rows_add(const gr_home_rows *h, int32_t layer, const uint16_t *experts, double *rows);

/* ---- sequences of a trace ---- */
enum { GR_HOME_SEQUENCES_MAX = 1 << 14 };
typedef struct gr_sends {
    int32_t n, n_layers, n_nodes;
    int32_t *index;             /* [n] of the sequence in the trace */
    int64_t *n_tokens;          /* [n] */
    float *rows;                /* [n_layers, n, n_nodes] of all its tokens, for each node it could live on */
} gr_sends;

/* ARG unless the trace is of the shape of the plan. */
grace_status gr_home_check_shape(const grace_plan *plan, const grace_trace_info *info);
/* tokens_max: of each sequence only so many, from its start; 0: all. With more than GR_HOME_SEQUENCES_MAX sequences every 2nd, 4th, ... is taken.
 * Rewinds the reader. Fails as reading does, ARG (the trace is not of the plan's shape), MEMORY. */
grace_status gr_sends_build(const grace_plan *plan, grace_trace_reader *r, const grace_selection *which, int32_t tokens_max, gr_sends *out);
void gr_sends_free(gr_sends *s);
/* total [n, n_nodes] over the layers. */
void gr_sends_total(const gr_sends *s, double *total);

/* ---- assignment: homes [n] ranks, as many sequences on every rank within one ----
 * cost [n, n_nodes]. Those that lose most by their second choice come first (ties: the earlier); then pairs change places, and single ones move where
 * numbers allow, while that lowers the sum. In a node ranks take turns in order of sequence. Deterministic. */
grace_status gr_homes_assign(const double *cost, int32_t n, grace_cluster cluster, int32_t *homes);

/* ---- labels: a layer's nodes may stand for any nodes of the cluster ----
 * Renames the nodes of each layer (ranks keep their place in the node, or change it where memory asks for it) so that the sequences' tokens find
 * their experts on one node in all layers. No rank's slots over all layers exceed what the fullest holds now; where that cannot be had, nothing changes. */
grace_status gr_homes_align(grace_plan *plan, const gr_sends *s, bool *changed);

/* ---- what token ids tell: rows that a token of an id sends less than on average when its sequence lives on a node ---- */
typedef struct gr_token_saves { int32_t vocab, n_nodes; float scale; int8_t *saved; } gr_token_saves;   /* [vocab, n_nodes] times scale: rows over all layers */

/* From a trace with token ids (else ARG). A mean over n tokens of an id counts n / (n + 4): few tokens tell little. */
grace_status gr_token_saves_learn(const grace_plan *plan, grace_trace_reader *r, const grace_selection *which, gr_token_saves *out);
void gr_token_saves_free(gr_token_saves *v);
/* cost [n_nodes] -= what n ids save. */
void gr_token_saves_add(const gr_token_saves *v, const int32_t *ids, int32_t n, double *cost);

#endif
