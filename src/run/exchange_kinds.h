/* The kinds of exchange behind exchange.h: which one opens depends on where rows lie and how many ranks there are. */
#ifndef GR_RUN_EXCHANGE_KINDS_H
#define GR_RUN_EXCHANGE_KINDS_H
#include "run/exchange.h"
#include "run/ways.h"

/* As the functions of exchange.h; NULL: nothing to do. The base is set but for what open sets; close follows a failed open too, and the base frees itself. */
typedef struct gr_exchange_ops {
    size_t bytes;                   /* of the kind's struct, which begins with the base */
    grace_status (*memory)(gr_comm *world, const gr_exchange_options *opt, int64_t *bytes);     /* NULL: in host memory, or little */
    grace_status (*open)(gr_exchange *ex);          /* what can fail on this rank alone: no rank waits for another */
    grace_status (*join)(gr_exchange *ex);          /* then, together; how it ended is agreed upon */
    void (*close)(gr_exchange *ex);
    void *(*rows)(gr_exchange *ex);
    int32_t (*step)(gr_exchange *ex, int32_t n_rows_most, int32_t n_parts_max);     /* NULL: one part */
    void (*turn)(gr_exchange *ex, int32_t part);
    grace_status (*build)(gr_exchange *ex, const gr_route *route);
    grace_status (*dispatch_start)(gr_exchange *ex);
    grace_status (*dispatch_finish)(gr_exchange *ex, gr_arrived *out);
    grace_status (*give_back)(gr_exchange *ex);
    grace_status (*combine)(gr_exchange *ex, void *y);
    grace_status (*step_end)(gr_exchange *ex, const gr_exchange_step *step);
    grace_status (*step_done)(gr_exchange *ex, const gr_exchange_step *step, int64_t *load);
} gr_exchange_ops;

struct gr_exchange {
    const gr_exchange_ops *ops;
    gr_exchange_options opt;
    gr_comm *world;
    gr_compute *compute;
    gr_ways ways;                   /* of this rank */
    bool waits;                     /* its calls need the host between them: a step cannot be recorded */
    bool in_turn;                   /* a step is done before the next begins */
    gr_exchange_counts counts;
};

extern const gr_exchange_ops gr_exchange_hops;  /* rows in host memory */
extern const gr_exchange_ops gr_exchange_here;  /* one rank on a device: nothing moves */
extern const gr_exchange_ops gr_exchange_gpus;  /* several ranks, each on a device; built with CUDA */

/* A kind that did not count its rows by calls: those this rank sent over a stage to a rank of the world. */
void gr_exchange_count(gr_exchange *ex, int stage, bool dispatch, int32_t rank, int64_t rows, int64_t list_bytes);

#endif
