/* Homes: which node a sequence should live on. A token's rows between nodes depend on its home's node alone (topology-aware routing, turns in
 * expectation), so everything here is about rows [sequences, nodes]. docs/homes.md has definitions, algorithms and what was measured. */
#ifndef GR_PLAN_HOMES_H
#define GR_PLAN_HOMES_H
#include "base/json.h"
#include "grace/plan.h"

enum { GR_HOMES_FEW = 4 };      /* a mean over n tokens counts n / (n + FEW): few tokens tell little */

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
/* of_each: of each sequence only so many tokens, from its start. in_all: with more tokens, or GR_HOME_SEQUENCES_MAX sequences, every 2nd, 4th, ...
 * sequence is taken. 0: no limit. */
typedef struct gr_home_limits { int32_t of_each; int64_t in_all; } gr_home_limits;
/* place [sequences of the trace], malloc'ed: numbers of the selected sequences 0..n-1, -1 for the others. Reads through the trace. */
grace_status gr_home_number(grace_trace_reader *r, const grace_selection *which, int64_t in_all, int32_t **place, int32_t *n);
/* Rewinds the reader. Fails as reading does, ARG (the trace is not of the plan's shape), MEMORY. */
grace_status gr_sends_build(const grace_plan *plan, grace_trace_reader *r, const grace_selection *which, gr_home_limits limits, gr_sends *out);
void gr_sends_free(gr_sends *s);
/* total [n, n_nodes] over the layers. */
void gr_sends_total(const gr_sends *s, double *total);

/* ---- assignment: homes [n] ranks, as many sequences on every rank within one ----
 * cost [n, n_nodes]; held [n_ranks] sequences that ranks have beside these, grows by them; NULL: none. from [n]: ranks where they live now, with which all
 * ranks have as many as any other within one; NULL: nowhere, then held is so. Those that live nowhere are dealt: who loses most by the second choice comes
 * first (ties: the earlier). Then pairs change places, and single ones move where numbers allow, while that lowers the sum: who lives somewhere stays unless
 * that gains. In a node each stays on its rank, where numbers allow, or goes to the one with fewest, in order of sequence. Deterministic. */
grace_status gr_homes_assign(const double *cost, int32_t n, grace_cluster cluster, const int32_t *from, int32_t *held, int32_t *homes);
/* Of the n ranks from `first` on the one that has fewest; ties: the first. */
int32_t gr_rank_with_fewest(const int32_t *held, int32_t first, int32_t n);

/* ---- a second choice, by what the first tokens sent ---- */
typedef struct gr_settled {
    int32_t home;               /* rank */
    int32_t n_done, n_left;     /* tokens that were computed there, and that may come at most */
    int32_t n_pages;            /* of KV cache that it holds, and needs where it goes */
} gr_settled;
typedef struct gr_room { int32_t pages, sequences; } gr_room;       /* that a rank has free */

/* homes [n] for sequences that live somewhere, by the rows [n, n_nodes] that their tokens so far send from each node. A sequence is expected to go on like
 * that (GR_HOMES_FEW) for n_left tokens; each of its n_done tokens costs moved_rows to take along. Where a rank has no room, counting what leaves it, the
 * later ones stay and the others choose again. held [n_ranks] as above, with these; room [n_ranks]. Deterministic. */
grace_status gr_homes_move(const gr_settled *s, const double *rows, int32_t n, double moved_rows, grace_cluster cluster, const gr_room *room, int32_t *held,
                           int32_t *homes);

/* ---- labels: a layer's nodes may stand for any nodes of the cluster ----
 * Renames the nodes of each layer (ranks keep their place in the node, or change it where memory asks for it) so that the sequences' tokens find
 * their experts on one node in all layers. No rank's slots over all layers exceed what the fullest holds now; where that cannot be had, nothing changes. */
grace_status gr_homes_align(grace_plan *plan, const gr_sends *s, bool *changed);

/* ---- what token ids tell ---- */

/* From a trace with token ids (else ARG). A mean over n tokens of an id counts n / (n + GR_HOMES_FEW); vocab ends with the
 * highest id seen. Sampled like gr_sends_build(),
 * by tokens_in_all. Frees with gr_token_saves_free(). */
grace_status gr_token_saves_learn(const grace_plan *plan, grace_trace_reader *r, const grace_selection *which, int64_t tokens_in_all, grace_token_saves *out);
void gr_token_saves_free(grace_token_saves *v);     /* not one that a plan owns */
/* cost [n_nodes] -= what n ids save; ids outside the vocabulary say nothing. */
void gr_token_saves_add(const grace_token_saves *v, const int32_t *ids, int32_t n, double *cost);

/* ---- a plan's part ---- */
enum { GR_HOMES_TOKENS = 1 << 17 };     /* of a trace that gr_homes_plan() looks at: all, or every 2nd, 4th, ... sequence */

/* Aligns the plan's labels if told so, and learns its token_saves if the trace has token ids; one node: nothing. */
grace_status gr_homes_plan(grace_plan *plan, grace_trace_reader *r, const grace_selection *which, bool align);
/* "token_saves" of plan.json; a plan without has none. */
gr_json *gr_token_saves_json(const grace_token_saves *v);
grace_status gr_token_saves_read(const gr_json *root, const char *where, grace_plan *plan);

#endif
