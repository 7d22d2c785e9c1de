/* Placement plans: which rank holds which experts, and copies of which (paper Alg. 1-2, Eq. 1-4). */
#ifndef GRACE_PLAN_H
#define GRACE_PLAN_H
#include <stdbool.h>
#include <stdint.h>

#include "grace/status.h"
#include "grace/trace.h"
#ifdef __cplusplus
extern "C" {
#endif

/* ---- cluster: "node:2 gpu:2" ---- */
enum { GRACE_RANKS_MAX = 8192 };
typedef struct grace_cluster { int32_t n_nodes, gpus_per_node; } grace_cluster;   /* rank r is GPU r % G of node r / G */

grace_status grace_cluster_parse(const char *text, grace_cluster *out);     /* also "2x2" */
static inline int32_t grace_cluster_ranks(grace_cluster c) { return c.n_nodes * c.gpus_per_node; }

/* ---- plan: plain tables, one per MoE layer; docs/architecture.md, Tables ---- */
typedef struct grace_plan_layer {
    int32_t n_slots;
    int32_t *expert_of_slot;        /* [n_slots] */
    int32_t *rank_of_slot;          /* [n_slots] ascending: a rank's slots are consecutive */
    int32_t *first_slot;            /* [n_ranks + 1] a rank's slots */
    int32_t *slots_first;           /* [n_experts + 1] CSR into slots_of_expert */
    int32_t *slots_of_expert;       /* [n_slots] per expert, the primary first, then by rank */
    float *poll_weight;             /* [n_slots] sums to 1 per expert: inverse predicted load of the slot's rank (paper Eq. 4); auto: docs/planner.md */
    bool *serve_decode;             /* [n_slots] copies that serve in decode steps too, one of every expert at least; NULL: all do (docs/planner.md) */
    double *load_before;            /* [n_ranks] profiled pairs with primaries only */
    double *load_after;             /* [n_ranks] predicted with replicas (paper Eq. 4; planners beyond the paper: under TAR with homes alike) */
    int32_t n_replica;              /* paper Eq. 3; 0 when replication is off */
} grace_plan_layer;

typedef struct grace_knee_point { int32_t delta; double r, size_std, utility; } grace_knee_point;   /* paper Eq. 1-2: S(r), U(r) */

/* What a token of an id saves, in rows between nodes over all layers and against the mean over nodes, when its sequence lives on a node (docs/homes.md). */
typedef struct grace_token_saves {
    int32_t vocab, n_nodes;         /* vocab 0: not known */
    float scale;
    int8_t *saved;                  /* [vocab, n_nodes] times scale */
} grace_token_saves;

typedef struct grace_plan {
    char planner[32];               /* "contiguous", "uniform", "grace", ... and its options, for people */
    char grouping[16], replication[16];     /* "controlled", "free", "uniform"; "none", "fixed", "dynamic" */
    uint64_t fingerprint;           /* of the model; 0: any */
    uint64_t seed;
    grace_origin planned_from;      /* figures about this plan should come from other tokens: grace_origins_overlap() */
    grace_cluster cluster;
    int32_t n_layers, n_experts, top_k;
    int32_t *layer_ids;             /* [n_layers] which of the model's layers they are, rising; NULL: unknown */
    grace_plan_layer *layers;       /* [n_layers] */
    double r;                       /* chosen ratio; < 0: not used */
    int32_t n_knee, knee_chosen;    /* the curve, empty when r was given or not used */
    grace_knee_point *knee;
    grace_token_saves token_saves;  /* for choosing homes of new requests */
    void *memory;                   /* owner of all tables; freed by grace_plan_free() */
} grace_plan;

/* ---- bundles: the distinct sets of experts that tokens chose, with counts, layer by layer; what AUTO searches on ---- */
enum { GRACE_BUNDLES_MAX = 1 << 24, GRACE_BUNDLES_DEFAULT = 1 << 15 };
typedef struct grace_bundles grace_bundles;

/* which: as for grace_profile_build(). homes: keep the homes of the trace's sequences (for measuring a plan for that very
 * cluster); else homes are taken as random. A layer with more than n_max distinct sets, or 2^19 tokens, is sampled: every 2nd,
 * 4th, ... token. Memory: n_layers * n_max * (2 * top_k + 8) bytes at most; while counting as much again and 2 MiB a layer. Fails with ARG, MEMORY.
 * The caller frees. */
grace_status grace_bundles_build(const grace_trace *t, const grace_selection *which, bool homes, int32_t n_max, grace_bundles **out);
/* The same from the beginning of a trace that is read in pieces. */
grace_status grace_bundles_stream(grace_trace_reader *r, const grace_selection *which, bool homes, int32_t n_max, grace_bundles **out);
void grace_bundles_free(grace_bundles *b);          /* accepts NULL */

typedef enum grace_planner {
    GRACE_PLANNER_CONTIGUOUS, GRACE_PLANNER_UNIFORM, GRACE_PLANNER_GRACE,
    GRACE_PLANNER_RANDOM,           /* equal numbers dealt at random */
    GRACE_PLANNER_EPLB,             /* DeepSeek's load balancer */
    GRACE_PLANNER_REPLICATE_NODE,   /* every node holds every expert */
    GRACE_PLANNER_AUTO,             /* ours: a search on bundles (docs/planner.md) */
    GRACE_N_PLANNERS
} grace_planner;
typedef enum grace_grouping { GRACE_GROUPING_CONTROLLED, GRACE_GROUPING_FREE, GRACE_GROUPING_UNIFORM } grace_grouping;   /* second level of grace */
typedef enum grace_replication { GRACE_REPLICATION_NONE, GRACE_REPLICATION_FIXED, GRACE_REPLICATION_DYNAMIC } grace_replication;

typedef struct grace_plan_options {
    grace_planner planner;              /* GRACE */
    grace_grouping grouping;            /* CONTROLLED. This and the next two are GRACE's */
    grace_replication replication;      /* DYNAMIC */
    double r;                           /* < 0: choose at the knee; else 0 to 1, for CONTROLLED */
    uint64_t seed;                      /* of k-means and of RANDOM */
    /* Memory for EPLB, REPLICATE_NODE and AUTO: slots a rank holds over all layers. */
    double memory;                      /* as a multiple of n_layers * n_experts / n_ranks, 1 or more; 0: by the next */
    int32_t slots_per_rank;             /* the same, slots a layer; 0: what the fullest rank of GRACE with these options holds */
    bool empty_ranks;                   /* false. More ranks than experts are allowed: some host nothing */
    int32_t eplb_groups;                /* 1. EPLB: equal runs of experts that the router treats as one */
    /* AUTO */
    const grace_bundles *bundles;       /* borrowed; AUTO fails with ARG without them */
    double balance;                     /* 1.1. Bound on max/mean load in a layer, kept where it can be; 0: 0.95 of grace's, 1.1 at least */
    bool equal_slots;                   /* false. As many slots on every rank of every layer, as other engines need; memory is rounded down to that */
    const struct grace_objective *objective;    /* borrowed (grace/sim.h): the time of steps, never more than another planner's; NULL: rows */
    double w_gpu;                       /* 0.1. What a row inside a node costs where one between nodes costs 1 */
    const struct grace_plan *from;      /* borrowed; not NULL: keep this plan but for a few copies, for loads that drift. Memory 0: as it has */
    int32_t max_moves;                  /* 64. From: copies at most that are where none was */
    double time_limit_s;                /* 0: none. What the search may take; a plan cut short depends on the machine's speed */
    /* Told between steps of the search, by the thread that plans, what share of it is done: never less than before, 1 at the end. NULL: nobody asks */
    void (*progress)(void *context, double done);
    void *progress_context;
} grace_plan_options;

/* "contiguous", "uniform", "grace", "random", "eplb", "replicate-node", "auto" */
const char *grace_planner_name(grace_planner planner);

grace_plan_options grace_plan_defaults(void);

/* profile -> plan. Deterministic for a seed. Fails with ARG (an option, an affinity that is not symmetric, a negative load), NUMERIC (a load or
 * affinity that is no finite number), LIMIT (more ranks than experts, unless empty_ranks; a memory that cannot hold the model, by how much). The
 * caller frees. */
grace_status grace_plan_build(const grace_profile *profile, grace_cluster cluster, const grace_plan_options *opt, grace_plan **out);
/* Expert e on rank e * D / n, no replicas, no profile: plain expert parallelism. */
grace_status grace_plan_contiguous(int32_t n_layers, int32_t n_experts, int32_t top_k, grace_cluster cluster, grace_plan **out);
void grace_plan_free(grace_plan *plan);

/* JSON, versioned (docs/formats.md). Load checks every table; save never leaves half a file. */
grace_status grace_plan_load(const char *path, grace_plan **out);
grace_status grace_plan_save(const grace_plan *plan, const char *path);
/* MISMATCH, with both sides in the message, unless the plan is for this model and this cluster. A fingerprint of 0 and layer_ids (of the model, [n_layers])
 * that are NULL on either side fit any. */
grace_status grace_plan_check(const grace_plan *plan, uint64_t fingerprint, int32_t n_layers, const int32_t *layer_ids, int32_t n_experts, int32_t top_k,
                              grace_cluster cluster);

#ifdef __cplusplus
}
#endif
#endif
