/* Layers over several ranks to test their exchange: each rank's memory (all ranks in one process, or one), what a layer is fed, and what plain code on the
 * host makes of it. Experts are real ones (plain kernels, whose bits are a matter of the row); for the host their results come from all rows on one GPU. */
#ifndef TESTS_CUDA_EXCHANGE_CASE_H
#define TESTS_CUDA_EXCHANGE_CASE_H
#include "compute/cuda/exchange.h"

enum { CASE_RANKS = 8 };
typedef enum exchange_kind { KIND_HSC, KIND_FLAT, KIND_PER_EXPERT } exchange_kind;
typedef enum routing { ROUTING_RANDOM, ROUTING_ONE_RANK, ROUTING_GAPS, ROUTING_NONE } routing;

/* What a layer is fed, on the host, by rank. n own rows; residual [n, hidden]; the rest by source row: n * fan of them, with k choices each. */
typedef struct layer_data {
    int32_t n[CASE_RANKS];
    uint16_t *x[CASE_RANKS], *residual[CASE_RANKS];
    int32_t *slot[CASE_RANKS];
    float *weight[CASE_RANKS];
    uint16_t *y[CASE_RANKS];                /* [n * fan * k, hidden] results of experts */
    uint16_t *expected[CASE_RANKS];         /* [n, hidden] */
} layer_data;

typedef struct case_rank {
    gr_cuda_node node;
    gr_cuda_area at;
    gr_cuda_watch *watch;                   /* as the host sees it */
    gr_cuda_layer layer;
    gr_cuda_settle settle;                  /* of own rows */
    gr_cuda_wires wires;
    gr_cuda_pairs pairs;
    gr_cuda_experts *experts;
    void *weights[2], *act, *y, *x, *residual, *out;
    int32_t *slot, *place;
    float *weight;
    int32_t *sent;                          /* pinned [n_wires][2] */
    int32_t *entry;
    int32_t *n_pairs;                       /* of the last layer, as give_back counted it */
    char *returned;                         /* [n_wires][capacity * (exact: k)][hidden] */
    int32_t n_own, received[CASE_RANKS], first[CASE_RANKS];     /* source rows: own, then of each wire */
    int64_t counted[4][GR_CUDA_NODE_MAX];   /* what node.count must hold */
} case_rank;

typedef struct exchange_case {
    int32_t n_nodes, n_local, hidden, width, top_k, n_experts, n_rows;     /* n_rows: most own rows of a rank */
    exchange_kind kind;
    bool exact;
    /* made */
    int32_t n_ranks, n_slots, fan, k, n_wires, capacity, n_source;         /* capacity: most own source rows; n_source: with received ones */
    int32_t *expert_of_slot, *rank_of_slot, *index_of_slot, n_slots_of[CASE_RANKS];
    uint16_t *gate_up, *down;               /* [n_experts] */
    case_rank rank[CASE_RANKS];
} exchange_case;

/* Tables and weights, then ranks; area NULL: in this process, connected with the others by case_connect(). */
void case_open(exchange_case *c, uint64_t seed);
void case_open_rank(exchange_case *c, int32_t r, uint64_t deadline_ns, void *area);
void case_connect(exchange_case *c);
void case_close(exchange_case *c);

void layer_make(const exchange_case *c, uint64_t seed, routing how, layer_data *l);
void layer_free(layer_data *l);

/* One rank's stages, on one stream; layer and rows were set by case_feed(). */
void case_feed(exchange_case *c, int32_t r, const layer_data *l, int32_t layer, int32_t s);
void case_send(exchange_case *c, int32_t r, gr_cuda_stream stream);        /* dispatch */
void case_compute(exchange_case *c, int32_t r, gr_cuda_stream stream);     /* arrive, group, experts, give back */
void case_settle(exchange_case *c, int32_t r, gr_cuda_stream stream);      /* own rows; the call ends */

/* A whole layer of all ranks in this process, wires too; `extra` absent rows a rank. */
void case_run(exchange_case *c, const layer_data *l, int32_t layer, int32_t extra);

/* Adds a layer to what every rank must count; case_run() does. */
void case_count(exchange_case *c, const layer_data *l);

/* Say the first wrong place. */
bool outputs_agree(const exchange_case *c, int32_t r, const layer_data *l);
bool slots_agree(const exchange_case *c, int32_t r, const layer_data *l);   /* one node: area.slot of the last layer */
bool counts_agree(const exchange_case *c, int32_t r);
#endif
