/* An exchange that moves nothing: the one rank hosts every slot, rows and lists stay with the backend (gr_compute_ops.packs). */
#include "run/exchange_kinds.h"

typedef struct here {
    gr_exchange base;
    void *rows;                     /* [n_rows_max, hidden] */
    void *results;                  /* [n_rows_max * top_k, hidden] */
    gr_route route;
    const gr_pairs *pairs;
} here;

static here *here_of(gr_exchange *base) { return (here *)base; }

static grace_status here_memory(gr_comm *world, const gr_exchange_options *opt, int64_t *bytes) {
    (void)world;
    *bytes = (int64_t)opt->n_rows_max * (1 + opt->top_k) * opt->hidden * (int64_t)sizeof(uint16_t);
    return GRACE_OK;
}

static grace_status here_open(gr_exchange *base) {
    grace_status st = GRACE_OK;
    const gr_compute_ops *ops = base->compute->ops;
    const size_t row = (size_t)base->opt.hidden * ops->element, n = (size_t)base->opt.n_rows_max;
    GR_TRY(ops->alloc(base->compute, n * row, &here_of(base)->rows));
    GR_TRY(ops->alloc(base->compute, n * (size_t)base->opt.top_k * row, &here_of(base)->results));
done:
    return st;
}

static void here_close(gr_exchange *base) {
    const here *ex = here_of(base);
    if (ex->rows) base->compute->ops->release(base->compute, ex->rows);
    if (ex->results) base->compute->ops->release(base->compute, ex->results);
}

static void *here_rows(gr_exchange *base) { return here_of(base)->rows; }

static grace_status here_build(gr_exchange *base, const gr_route *route) {
    here *ex = here_of(base);
    ex->route = *route;
    return base->compute->ops->group(base->compute, route->slot, route->n_rows, base->opt.top_k, route->n_slots, &ex->pairs);
}

static grace_status here_arrived(gr_exchange *base, gr_arrived *out) {
    const here *ex = here_of(base);
    const int32_t n = ex->route.n_rows;
    *out = (gr_arrived){.n_rows = n, .n_pairs = n * base->opt.top_k, .rows = ex->rows, .pairs = ex->pairs, .results = ex->results};
    return GRACE_OK;
}

static grace_status here_combine(gr_exchange *base, void *y) {
    const here *ex = here_of(base);
    return base->compute->ops->combine(base->compute, ex->pairs, ex->route.weight, ex->results, base->opt.hidden, y);
}

/* A replay calls none of the above: its rows are counted here, all layers together. */
static grace_status here_done(gr_exchange *base, const gr_exchange_step *step, int64_t *load) {
    for (int stage_back = 0; stage_back < 2; stage_back++)
        gr_exchange_count(base, GRACE_STAGE_NODE, !stage_back, 0, (int64_t)step->n_rows * step->n_layers, 0);
    for (int32_t l = 0; l < step->n_layers; l++) load[l] = (int64_t)step->n_rows * base->opt.top_k;
    return GRACE_OK;
}

const gr_exchange_ops gr_exchange_here = {.bytes = sizeof(here), .memory = here_memory, .open = here_open, .close = here_close, .rows = here_rows,
                                          .build = here_build,
                                          .dispatch_finish = here_arrived, .combine = here_combine, .step_done = here_done};
