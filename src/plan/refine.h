/* Search on one layer's bundles, exact at every step. First which nodes host which experts, then which GPUs inside each node.
 *
 * Both levels are passes of Fiduccia and Mattheyses: take the best operation though it may cost something, lock what it touched, go on until
 * nothing is left, then go back to the best state seen. Gains are kept up to date, never estimated: `sole` and `empty` below.
 *
 * Between nodes a copy serves its own node's tokens; tokens of nodes without one go to the primary's node, always. Chances would never be
 * better: the expected number of nodes visited is linear in each expert's shares, so some unshared choice is as good. */
#ifndef GR_PLAN_REFINE_H
#define GR_PLAN_REFINE_H
#include <stdbool.h>
#include <stdint.h>

#include "plan/bundle.h"

/* ---- nodes ---- */

typedef struct gr_nodes {
    int32_t n, n_nodes, n_gpus, top_k, n_bundles;
    const gr_bundle_layer *bundles;
    const double *load;         /* [n] pairs */
    double bound, gpu_bound;    /* on a node's load over the mean node's; on an expert's load in a node over the mean GPU's */
    double price;               /* rows a token that one more copy has to save; < 0: no copies */
    double total_load, most_load;
    int32_t *first, *bundle;    /* CSR expert -> bundles it is in */
    int16_t *fetch;             /* [n, N] where tokens of a home node get the expert: a node, or -1: at home, it is hosted */
    int16_t *primary;           /* [n] node */
    int16_t *n_hosts;           /* [n] */
    int32_t n_slots;            /* sum of n_hosts */
    uint16_t *pins;             /* [n_bundles, N home, N node] experts of the bundle that home fetches from node */
    int64_t *sole;              /* [n, N home] tokens that visit the expert's node for nothing else */
    int64_t *empty;             /* [n, N home, N node] tokens with the expert that do not visit the node */
    int64_t cost;               /* tokens x homes x remote nodes visited */
    double *node_load;          /* [N] pairs, homes alike */
    int32_t *node_slots;        /* [N] */
    int32_t slots_most;         /* of a node; 0: any number */
    uint8_t *locked;            /* [n, N] */
    struct gr_node_op *done;    /* [n * N] operations of a pass, for going back */
} gr_nodes;

/* One change: a copy more on node add, one less on node drop (-1: none), and who is the primary's node then. */
typedef struct gr_node_op { int16_t expert, add, drop, primary; } gr_node_op;

/* bundles and load are borrowed. All primaries on node 0 at first. Fails with MEMORY. */
grace_status gr_nodes_open(const gr_bundle_layer *bundles, int32_t top_k, const double *load, int32_t n, grace_cluster cluster, gr_nodes *out);
void gr_nodes_close(gr_nodes *s);

/* Every expert on one node, without copies. node_of [n]. */
void gr_nodes_group(gr_nodes *s, const int32_t *node_of);
void gr_nodes_apply(gr_nodes *s, gr_node_op op);
/* Rows (tokens x homes) that an operation saves; exact. */
int64_t gr_nodes_gain(const gr_nodes *s, gr_node_op op);
/* What an operation adds to gr_nodes_score(); slack: as for a pass. */
double gr_nodes_change(const gr_nodes *s, gr_node_op op, double slack);
double gr_nodes_rows(const gr_nodes *s);            /* cross-node rows a token */
/* Rows a token + price x copies + penalties for loads over the bounds. */
double gr_nodes_score(const gr_nodes *s);
double gr_nodes_rows_of(const gr_nodes *s, int32_t home);      /* those of tokens whose home is that node */
/* One pass; what the score fell by. slack: pairs that a node may be over
 * its bound on the way; with none experts cannot change places, with the heaviest expert's load the way may not lead back. */
double gr_nodes_pass(gr_nodes *s, double slack);
/* The copy more that saves most rows a token for what it costs in balance; false: every node hosts every expert. */
bool gr_nodes_best_copy(const gr_nodes *s, gr_node_op *op, double *saved);
/* The copy that is missed least, and the rows a token it saves; false: there is none. */
bool gr_nodes_worst_copy(const gr_nodes *s, gr_node_op *op, double *saved);
/* Copies and primaries leave nodes that have more than slots_most, those first that are missed least. There is room: N x slots_most >= n. */
void gr_nodes_fit(gr_nodes *s);
/* Copies until every node hosts that many experts, or all. */
void gr_nodes_fill(gr_nodes *s, int32_t least);

/* Go to a state remembered as copies of fetch and primary. */
void gr_nodes_restore(gr_nodes *s, const int16_t *fetch, const int16_t *primary);

static inline bool gr_nodes_hosts(const gr_nodes *s, int32_t expert, int32_t node) { return s->fetch[expert * s->n_nodes + node] < 0; }
/* Pairs of an expert that a node computes. */
double gr_nodes_load(const gr_nodes *s, int32_t expert, int32_t node);

/* ---- GPUs of one node ---- */

/* Items (experts a node hosts) on parts (its GPUs), one part each. An edge is what a token fetches from the node, a hyperedge with a count;
 * it costs its count for every part it touches. */
typedef struct gr_parts {
    int32_t n, n_parts, n_edges;
    int32_t *expert;            /* [n] */
    double *load;               /* [n] pairs the node computes of it */
    int32_t *edge_first, *edge_item;    /* CSR edge -> items */
    int32_t *item_first, *item_edge;    /* CSR item -> edges */
    int64_t *count;             /* [n_edges] */
    int32_t *part;              /* [n] */
    uint16_t *pins;             /* [n_edges, n_parts] */
    int64_t *sole, *empty;      /* [n], [n, n_parts] counts of edges that touch the item's part for it alone; that miss a part */
    int64_t cost;
    double *part_load;          /* [n_parts] */
    double cap;                 /* on part_load */
    int32_t *part_count;        /* [n_parts] items */
    int32_t count_most;         /* of a part, n_parts times that is n or more; 0: any number */
    double load_unit, count_unit;       /* score of a pair over cap; of a count of cost */
    uint8_t *locked;            /* [n] */
    int32_t *done, *before;     /* [n] a pass: items moved, and where they were */
} gr_parts;

/* The node's experts on its GPUs by load alone: heaviest first, each to the lightest. Without edges there is only load. Fails with MEMORY. */
grace_status gr_parts_open(const gr_nodes *nodes, int32_t node, bool with_edges, int32_t count_most, gr_parts *out);
void gr_parts_close(gr_parts *s);
void gr_parts_move(gr_parts *s, int32_t item, int32_t part);
/* One pass; what the score (cost in count_unit, loads over the cap in load_unit) fell by. */
double gr_parts_pass(gr_parts *s);
/* Two items of different parts change places where that lowers what is over the cap most; false: no two do. */
bool gr_parts_swap(gr_parts *s);

#endif
