/* What a placement costs in time: rates of a machine, the shape of a model, and a layer's traffic and work in seconds (docs/simulator.md).
 *
 * One MoE layer of one step, all ranks stepping together, so that the slowest link and the slowest rank count:
 *
 *     dispatch  a stage  rounds x latency + max over links of max(bytes out, bytes in) / (bytes/s)
 *     experts            max over ranks of max(pairs x flop of an expert / (flop/s), active experts x bytes of one / (bytes/s))
 *     combine            as dispatch, the other way
 *
 * hsc has two stages after one another, first between nodes (a node's link carries the rows of all its ranks), then inside each; flat and
 * per-expert have one, where both kinds of link are busy at once. A step is the sum over layers, and the dense part (attention, dense and
 * shared weights, logits) of the fullest rank: max(flop / (flop/s), bytes of weights and KV cache / (bytes/s)). Nothing is overlapped. */
#ifndef GRACE_SIM_H
#define GRACE_SIM_H
#include <stdbool.h>
#include <stdint.h>

#include "grace/engine.h"
#include "grace/model.h"
#include "grace/plan.h"
#include "grace/status.h"
#include "grace/trace.h"
#ifdef __cplusplus
extern "C" {
#endif

/* ---- rates: what a machine can do ---- */
typedef struct grace_link_rate {
    double bytes_s;             /* each direction */
    double latency_s;           /* one round of messages between all who talk in a stage, rows of no bytes */
} grace_link_rate;

typedef struct grace_node_rate { int32_t first, last; grace_link_rate link; } grace_node_rate;    /* of nodes first to last */
enum { GRACE_NODE_RATES_MAX = 64 };

typedef struct grace_rates {
    char name[48];
    grace_link_rate cross;      /* a node's link to the other nodes, shared by its ranks */
    grace_link_rate intra;      /* a rank's link to the others of its node */
    double flop_s;              /* of a rank, in its matrix products */
    double memory_bytes_s;      /* weights and KV cache a rank reads */
    int32_t value_bytes;        /* of an activation: on the wire and in the KV cache */
    int32_t dispatch_rounds, combine_rounds;    /* messages of a stage that wait for one another (counts, lists, rows; rows back) */
    int32_t n_nodes;            /* entries of nodes */
    grace_node_rate nodes[GRACE_NODE_RATES_MAX];    /* other links than cross, ascending, not overlapping */
} grace_rates;

/* NAME is a preset or a file of format grace_rates (docs/simulator.md). Fails with ARG (neither; the message lists the presets), IO, FORMAT. */
grace_status grace_rates_load(const char *name, grace_rates *out);
grace_status grace_rates_save(const grace_rates *rates, const char *path);
const char *grace_rates_preset(int32_t index);          /* names, NULL after the last */
grace_link_rate grace_rates_of_node(const grace_rates *rates, int32_t node);

/* ---- shape: what a model weighs ---- */
typedef struct grace_shape {
    char name[64];
    int32_t hidden, expert_width, n_layers, n_moe_layers, n_experts, top_k;
    double weight_bytes;        /* of a parameter */
    double dense_params;        /* every token passes them, all layers: attention, router, shared experts, dense layers; without the next */
    double head_params;         /* logits */
    double attention_values;    /* products a token makes for every position it attends to, all layers: heads x (query + value width), 2 flop each */
    double kv_values;           /* values a token keeps in the KV cache, all layers */
} grace_shape;

grace_shape grace_shape_of_model(const grace_model_info *m);
/* TEXT is a preset ("olmoe-1b-7b", "deepseek-v2-lite", "qwen3-30b-a3b", ...) or "hidden=2048,width=1024,..." (docs/simulator.md); layers,
 * experts and top-k that it leaves out come from like, which may be NULL. Fails with ARG. */
grace_status grace_shape_parse(const char *text, const grace_trace_info *like, grace_shape *out);
/* For routing of an unknown model: the preset with these layers, experts and top-k, else olmoe-1b-7b's widths, named "assumed: ...". */
grace_shape grace_shape_assumed(int32_t n_layers, int32_t n_experts, int32_t top_k);
const char *grace_shape_preset(int32_t index);          /* names, NULL after the last */
/* MISMATCH unless the numbers of layers with experts, experts and top-k agree. */
grace_status grace_shape_check(const grace_shape *shape, int32_t n_layers, int32_t n_experts, int32_t top_k);

/* ---- a step, and what it takes ---- */
typedef struct grace_batch {
    double tokens;              /* rows of the step on all ranks */
    double sequences;           /* they belong to; each lives whole on one rank */
    double context;             /* positions a row attends to, mean */
    double logits;              /* rows that need logits */
} grace_batch;

/* A step that computes all n_prompt tokens of every sequence; one that adds a token to every sequence of that many. */
grace_batch grace_batch_prefill(double sequences, double n_prompt);
grace_batch grace_batch_decode(double sequences, double n_context);

typedef struct grace_seconds {
    double cross, intra;        /* bytes over links between nodes; inside nodes. A stage with both counts as its slower one */
    double latency;
    double experts;
    double dense;
    double total;
} grace_seconds;

/* Bytes in one direction, dispatch or combine, of one layer. */
typedef struct grace_flow {
    double *node_out, *node_in; /* [n_nodes] to and from other nodes */
    double *rank_out, *rank_in; /* [n_ranks] to and from other ranks of the node */
} grace_flow;

/* One layer of one step. */
typedef struct grace_layer_counts {
    grace_cluster cluster;
    bool two_stage;             /* hsc on several nodes */
    grace_flow dispatch, combine;
    double *pairs;              /* [n_ranks] (token, expert) pairs computed */
    double *active;             /* [n_ranks] experts with at least one */
} grace_layer_counts;

grace_seconds grace_layer_seconds(const grace_layer_counts *counts, const grace_shape *shape, const grace_rates *rates);
/* The part of a step outside the experts, of the fullest of n_ranks ranks; only dense and total are set. */
grace_seconds grace_dense_seconds(const grace_batch *batch, int32_t n_ranks, const grace_shape *shape, const grace_rates *rates);
void grace_seconds_add(grace_seconds *sum, const grace_seconds *more, double times);

/* ---- a plan's step before it is run: expected rows and pairs of bundles under hsc and TAR, homes alike unless the bundles keep them ---- */
typedef struct grace_prediction {
    grace_seconds step;         /* all layers and the dense part */
    double rows_cross, rows_intra;  /* a token and layer, dispatched; as many come back */
    double load_max_over_mean;  /* mean over layers */
    double active_max;          /* experts with tokens on the rank with most, mean over layers */
} grace_prediction;

/* Expected values, so that the chance unevenness of small batches is not in it. Fails with MISMATCH (plan, bundles and shape of different
 * models), MEMORY. */
grace_status grace_plan_predict(const grace_plan *plan, const grace_bundles *bundles, const grace_shape *shape, const grace_rates *rates,
                                const grace_batch *batch, grace_prediction *out);

/* ---- what planner auto minimises when it is given one (grace_plan_options.objective) ---- */
typedef struct grace_objective_step { grace_batch batch; double times; } grace_objective_step;
typedef struct grace_objective {
    grace_shape shape;
    grace_rates rates;
    int32_t n_steps;            /* 1 or 2: prefill, decode, or both */
    grace_objective_step steps[2];
} grace_objective;

/* The seconds of all its steps under a plan. Fails as grace_plan_predict(). */
grace_status grace_plan_seconds(const grace_plan *plan, const grace_bundles *bundles, const grace_objective *objective, double *seconds);

/* ---- replay: tokens through the engine's own routing tables and exchange lists, without an engine, on any cluster ---- */
typedef struct grace_routing grace_routing;     /* where tokens and their experts come from */

/* The trace is borrowed until free; which NULL: all of it. Fails with ARG (no tokens, no such domain), MEMORY. */
grace_status grace_routing_of_trace(const grace_trace *trace, const grace_selection *which, grace_routing **out);
/* Made up: k different experts a token, drawn with weights 1 / rank^zipf, an order of its own in every layer. Fails with ARG, LIMIT. */
typedef struct grace_synthetic { int32_t n_layers, n_experts, top_k; double zipf; uint64_t seed; } grace_synthetic;
grace_status grace_routing_made_up(const grace_synthetic *how, grace_routing **out);
void grace_routing_free(grace_routing *r);      /* accepts NULL */
const grace_trace_info *grace_routing_info(const grace_routing *r);     /* info.synthetic where it was made up; borrowed until free */
bool grace_routing_has_steps(const grace_routing *r);                   /* recorded by a run, more than one step */

/* Sequence i lives on rank i mod D and has id i. Its tokens are those of the trace's sequence i mod S, taken from (i div S) x (prefill + decode) on
 * and from the start again after the last. All prompts are computed in as few steps as chunk allows, then every step adds a token to each. */
typedef struct grace_workload {
    int32_t sequences, prefill, decode;
    int32_t chunk;              /* rows a rank computes in one step; 0: whole prompts at once */
} grace_workload;

typedef struct grace_sim_options {
    const grace_plan *plan;
    grace_route route;
    grace_exchange exchange;
    bool exact;
    const grace_workload *workload;     /* NULL: the trace's own steps; homes and ids as recorded where the clusters are alike, else as above */
    const grace_shape *shape;
    const grace_rates *rates;
} grace_sim_options;

typedef struct grace_sim_layer {
    int64_t rows_cross, rows_intra;     /* dispatched plus combined */
    double load_max_over_mean, load_std, load_floor;    /* of the pairs a rank computed; floor: std if chance alone dealt them out (multinomial) */
    double active_prefill, active_decode;       /* experts with tokens on the rank with most, mean over steps of the kind */
    grace_seconds prefill, decode;      /* without the dense part */
} grace_sim_layer;

typedef struct grace_sim {
    int32_t n_ranks, n_nodes, n_layers;
    int32_t n_steps_prefill, n_steps_decode;    /* a step is decode when each of its rows adds a token to what is there */
    int64_t n_prefill, n_decode;        /* rows of those steps */
    grace_link_count dispatch[GRACE_N_STAGES][GRACE_N_LINKS], combine[GRACE_N_STAGES][GRACE_N_LINKS];   /* as grace_stats */
    int64_t *pair_rows;                 /* [n_ranks from, n_ranks to]; NULL on more than GRACE_SIM_PAIRS_MAX ranks */
    int64_t *load;                      /* [n_layers, n_ranks] */
    int64_t idle_pairs;                 /* sum over steps, layers, ranks of (largest load - own) */
    double load_max_over_mean, load_std, load_floor;    /* means over layers */
    grace_seconds prefill, decode;      /* sums over the steps of a kind, dense part included */
    double idle_s;                      /* idle_pairs x flop of a pair / (flop/s) */
    int64_t replica_bytes_max, kv_tokens_displaced;     /* copies on the rank with most; KV cache of that many tokens */
    int32_t slots_max;                  /* most slots of a rank over all layers */
    grace_sim_layer *layers;            /* [n_layers] */
} grace_sim;
enum { GRACE_SIM_PAIRS_MAX = 128 };

/* Fails with MISMATCH (plan, shape and routing of different models), ARG, LIMIT, MEMORY. */
grace_status grace_sim_run(const grace_routing *routing, const grace_sim_options *opt, grace_sim **out);
void grace_sim_free(grace_sim *sim);            /* accepts NULL */

/* ---- what people do over slow links beside expert parallelism, priced by the same rates (docs/simulator.md) ---- */
typedef enum grace_other { GRACE_OTHER_REPLICATE_NODE, GRACE_OTHER_PIPELINE_NODES, GRACE_OTHER_TENSOR, GRACE_N_OTHERS } grace_other;
typedef struct grace_other_price {
    double prefill_s, decode_s;         /* all prompts; all decode steps */
    double bytes_per_rank;              /* weights */
    int32_t micro_prefill, micro_decode;        /* pipeline: parts the batch goes through it in */
} grace_other_price;

const char *grace_other_name(grace_other which);
/* workload is given. Inside a node experts lie contiguously, or equally balanced by load where the numbers divide. */
grace_status grace_price_others(const grace_routing *routing, grace_cluster cluster, const grace_workload *workload, const grace_shape *shape,
                                const grace_rates *rates, grace_other_price out[GRACE_N_OTHERS]);

#ifdef __cplusplus
}
#endif
#endif
