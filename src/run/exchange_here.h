/* An exchange that moves nothing: the one rank hosts every slot, rows and lists stay with the backend (gr_compute_ops.packs). */
#ifndef GR_RUN_EXCHANGE_HERE_H
#define GR_RUN_EXCHANGE_HERE_H
#include "run/exchange.h"

typedef struct gr_exchange_here {
    gr_exchange_options opt;
    gr_compute *compute;
    void *rows;                     /* [n_rows_max, hidden] */
    void *results;                  /* [n_rows_max * top_k, hidden] */
    gr_route route;
    const gr_pairs *pairs;
} gr_exchange_here;

grace_status gr_exchange_here_open(gr_compute *compute, const gr_exchange_options *opt, gr_exchange_here **out);
void gr_exchange_here_close(gr_exchange_here *ex);
/* As those of exchange.h; dispatch has nothing to start. */
grace_status gr_exchange_here_build(gr_exchange_here *ex, const gr_route *route);
void gr_exchange_here_arrived(const gr_exchange_here *ex, gr_arrived *out);
grace_status gr_exchange_here_combine(gr_exchange_here *ex, void *y);

#endif
