/* The exchange: token rows to the ranks that run their experts, and the results home (docs/architecture.md; paper: hierarchical sparse communication).
 *
 *   flat, per-expert                       hsc
 *   origin --B--> expert rank              origin --A--> same local index, other node --B--> expert rank
 *                                          origin --B--> expert rank in the own node
 *
 * A hop is one stage (A: between nodes over the world, B: within a node, or over the world for the one-stage kinds). Rows travel with a list
 * of (slot, gate weight). Every hop remembers what it sent in which order; the way back repeats that order, so results carry no lists. */
#ifndef GR_RUN_EXCHANGE_H
#define GR_RUN_EXCHANGE_H
#include "comm/comm.h"
#include "compute/compute.h"
#include "grace/engine.h"
#include "grace/plan.h"

typedef struct gr_exchange gr_exchange;

typedef struct gr_exchange_options {
    grace_exchange kind;
    bool exact;                     /* every chosen expert's row comes home unsummed */
    int32_t n_rows_max;             /* rows of this rank in one call; the same on every rank */
    int32_t n_slots_max;            /* most slots this rank hosts in one layer */
    int32_t top_k, hidden;
    const grace_plan *plan;         /* borrowed; only of ranks on devices: where slots are */
    const char *wire;               /* between nodes, there: "auto", "nccl", "staged" (comm/wire.h) */
    bool compress;                  /* rows between nodes travel packed, bit for bit */
    int32_t turns_from;             /* rows of a step from which they go in two parts, on GPUs; 0: never, -1: where that pays (grace_engine_options) */
} gr_exchange_options;

/* The rows of one layer on this rank, placed. */
typedef struct gr_route {
    int32_t layer;                  /* MoE layer */
    int32_t n_rows;
    const int32_t *slot;            /* [n_rows, top_k] by falling gate weight */
    const float *weight;            /* [n_rows, top_k] */
    const int32_t *rank_of_slot;    /* the layer's placement */
    int32_t n_slots_all;            /* slots of the layer on all ranks */
    int32_t first_slot, n_slots;    /* slots hosted here */
} gr_route;

/* What arrived: rows and, grouped by slot, the (row, slot) pairs to compute. Valid until the next build, or another part's turn. */
typedef struct gr_arrived {
    int32_t n_rows, n_pairs;
    const void *rows;               /* [n_rows, hidden] */
    const int32_t *first_pair;      /* [n_slots + 1] */
    const int32_t *row_of_pair;     /* [n_pairs] */
    const gr_pairs *pairs;          /* in place of these two, where the backend made them */
    void *results;                  /* [n_pairs, hidden] the experts write here */
} gr_arrived;

typedef struct gr_exchange_counts {
    grace_link_count dispatch[GRACE_N_STAGES][GRACE_N_LINKS], combine[GRACE_N_STAGES][GRACE_N_LINKS];    /* sent by this rank */
    int64_t *pair_rows;             /* [n_ranks] rows sent to each rank, dispatch and combine */
    double list_us;                 /* building lists: bookkeeping, no data movement */
    double move_us[2];              /* moving and waiting: dispatch, combine */
} gr_exchange_counts;

/* Collective: all ranks return the same. world is borrowed until close. */
grace_status gr_exchange_open(gr_comm *world, gr_compute *compute, const gr_exchange_options *opt, gr_exchange **out);
void gr_exchange_close(gr_exchange *ex);
/* Bytes of GPU memory it will take there, before it is open; what NCCL takes comes on top. 0 elsewhere. LIMIT where it would not open. */
grace_status gr_exchange_memory(gr_comm *world, const gr_compute *compute, const gr_exchange_options *opt, int64_t *bytes);

/* Before the first layer of a step: the most rows any rank brings, the same on every rank. Returns in how many parts the step's rows go through the layers:
 * 1, or, on GPUs, where they are many, 2, which take turns: while the rows of one travel the other computes. By the step's shape alone, and at most
 * n_parts_max, the same on every rank. */
int32_t gr_exchange_step_start(gr_exchange *ex, int32_t n_rows_most, int32_t n_parts_max);
/* Of two parts each has at most so many rows on any rank. */
enum { GR_PARTS_MAX = 2 };
static inline int32_t gr_part_slack(int32_t n_rows_most) { return n_rows_most / 16; }   /* the cut need not be in the middle */
static inline int32_t gr_part_rows_most(int32_t n_rows_most) { return (n_rows_most + 1) / 2 + gr_part_slack(n_rows_most); }
/* The calls that follow are of this part, 0 to begin with. Each part makes the calls of its layers in their order, and the ranks alike. */
void gr_exchange_turn(gr_exchange *ex, int32_t part);
/* Where the caller puts its rows [n_rows_max, hidden] before dispatch, in this step and part: they are sent from there, not copied. */
void *gr_exchange_rows(gr_exchange *ex);

/* The calls of a layer, in this order, on every rank, also with no rows. All collective. Between start and finish rows travel: the time for work that
 * needs none of them. Own rows may be read all the while. Where the backend queues, build and give_back only queue; dispatch_start and combine may wait
 * on the host for what these two queued. */
grace_status gr_exchange_build(gr_exchange *ex, const gr_route *route);         /* lists of the first stage; counts leave; on GPUs of one node, rows */
grace_status gr_exchange_dispatch_start(gr_exchange *ex);                       /* rows leave: those for other nodes, or all in one stage */
grace_status gr_exchange_dispatch_finish(gr_exchange *ex, gr_arrived *out);     /* rows arrive, once per (token, GPU) */
grace_status gr_exchange_give_back(gr_exchange *ex);                            /* results are there: made ready to leave */
grace_status gr_exchange_combine(gr_exchange *ex, void *y);                     /* they leave, and at home y [n_rows, hidden] += weighted sums */

/* Does the host take part between the calls of a layer? Then a step cannot be recorded and replayed. */
bool gr_exchange_waits(const gr_exchange *ex);
/* May a step begin before step_done of the one before? The same on every rank. */
bool gr_exchange_queues(const gr_exchange *ex);

/* The end of a step on a backend that queues, replayed or not: step_end queues what brings its numbers here, and fails with COMM when a peer is
 * gone; step_done, once the backend has finished it, fails with COMM when a wait was late, counts the step's rows, and gives the pairs computed here,
 * load [n_layers]. Elsewhere both do nothing. */
typedef struct gr_exchange_step { int32_t n_rows, n_layers, flight; } gr_exchange_step;     /* real rows; MoE layers; which of the steps under way */
grace_status gr_exchange_step_end(gr_exchange *ex, const gr_exchange_step *step);
grace_status gr_exchange_step_done(gr_exchange *ex, const gr_exchange_step *step, int64_t *load);

void gr_exchange_counts_clear(gr_exchange *ex);
gr_exchange_counts *gr_exchange_counts_of(gr_exchange *ex);                     /* running totals; the caller may reset them */

#endif
