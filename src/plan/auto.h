/* Planner auto: a search on bundles (docs/planner.md). In steps that the planner runs in this order:
 *   nodes    every layer from spectral groups, refined; then copies, at one price for all layers, until memory is spent
 *   labels   which node of a layer is which of the cluster, so that every node's memory is used alike
 *   GPUs     inside each node, refined under the bound on load; a copy more where one expert is too hot for a GPU
 *   tables   slots, shares of copies inside a node, loads */
#ifndef GR_PLAN_AUTO_H
#define GR_PLAN_AUTO_H
#include "plan/refine.h"
#include "plan/tables.h"

typedef struct gr_auto_layer {
    gr_nodes nodes;
    gr_bundle_layer sample;     /* what nodes searches on, its own arrays */
    gr_parts *parts;            /* [n_nodes] */
    double bound;               /* on a GPU's load over the mean */
    int16_t *fetch, *primary;   /* a state of nodes to come back to */
    int32_t *node_label;        /* [n_nodes] node of the cluster */
    int32_t *gpu_label;         /* [n_nodes, gpus] GPU of that node */
    gr_copy *relief;            /* [n * n_ranks] copies inside a node; rank: node * gpus + part, before labels */
    int32_t n_relief;
} gr_auto_layer;

typedef struct gr_auto {
    const grace_profile *profile;
    grace_plan_options opt;
    grace_cluster cluster;
    int32_t n_layers, n, n_ranks, top_k;
    int64_t slots_of_rank;      /* over all layers */
    int32_t slots_each;         /* of every rank in every layer; 0: layers may differ */
    double *grace_ratio;        /* [n_layers] max/mean load in the paper's plan */
    double deadline_us;         /* 0: none */
    double done;                /* share of the search that was told last */
    gr_auto_layer *layers;
} gr_auto;

/* Fills all layers of plan, which has none. Fails with ARG (no bundles, or those of another trace), LIMIT (memory), NUMERIC, MEMORY. */
grace_status gr_plan_auto(const grace_profile *profile, const grace_plan_options *opt, grace_plan *plan);

grace_status gr_auto_check_bundles(const grace_profile *profile, const grace_bundles *b);
bool gr_auto_late(const gr_auto *a);
/* Between steps, to opt.progress: what is done by now, unless more was told before. */
void gr_auto_tell(gr_auto *a, double done);
/* Shares by time on 48 layers of 128 experts: with starts, and with copies too, the rest is for GPUs. */
#define GR_AUTO_STARTED 0.35
#define GR_AUTO_COPIED 0.95
/* A layer's hosts and primaries, kept and taken up again. */
void gr_auto_remember(gr_auto *a, int32_t layer);
void gr_auto_go_back(gr_auto *a, int32_t layer);

/* auto_nodes.c: which nodes host which experts, in every layer. */
grace_status gr_auto_place_nodes(gr_auto *a);

/* auto_place.c: labels, GPUs, tables. */
grace_status gr_auto_count_relief(gr_auto *a, int64_t *n_copies);      /* copies that GPUs will want for balance, by load alone */
grace_status gr_auto_label_nodes(gr_auto *a);
grace_status gr_auto_place_gpus(gr_auto *a);
grace_status gr_auto_fill_tables(gr_auto *a, grace_plan *plan);
/* Loads and poll weights of a layer that is placed. rank_of_expert [n]: the primaries. */
grace_status gr_auto_settle(const gr_auto *a, int32_t layer, const int32_t *rank_of_expert, grace_plan *plan);

/* auto_from.c: instead of all that, from opt.from with opt.max_moves copies loaded anew at most. */
grace_status gr_auto_from(gr_auto *a, grace_plan *plan);

/* auto_time.c: the same for opt->objective. */
grace_status gr_plan_auto_time(const grace_profile *profile, const grace_plan_options *opt, grace_plan *plan);

#endif
