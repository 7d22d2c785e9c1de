#include "run/exchange_here.h"

#include "base/memory.h"

grace_status gr_exchange_here_open(gr_compute *compute, const gr_exchange_options *opt, gr_exchange_here **out) {
    grace_status st = GRACE_OK;
    gr_exchange_here *ex = NULL;
    const size_t row = (size_t)opt->hidden * compute->ops->element, n = (size_t)opt->n_rows_max;
    GR_CALLOC(ex, 1);
    ex->opt = *opt;
    ex->compute = compute;
    GR_TRY(compute->ops->alloc(compute, n * row, &ex->rows));
    GR_TRY(compute->ops->alloc(compute, n * (size_t)opt->top_k * row, &ex->results));
    *out = ex;
    ex = NULL;
done:
    gr_exchange_here_close(ex);
    return st;
}

void gr_exchange_here_close(gr_exchange_here *ex) {
    if (!ex) return;
    if (ex->rows) ex->compute->ops->release(ex->compute, ex->rows);
    if (ex->results) ex->compute->ops->release(ex->compute, ex->results);
    free(ex);
}

grace_status gr_exchange_here_build(gr_exchange_here *ex, const gr_route *route) {
    ex->route = *route;
    return ex->compute->ops->group(ex->compute, route->slot, route->n_rows, ex->opt.top_k, route->n_slots, &ex->pairs);
}

void gr_exchange_here_arrived(const gr_exchange_here *ex, gr_arrived *out) {
    *out = (gr_arrived){.n_rows = ex->route.n_rows, .n_pairs = ex->route.n_rows * ex->opt.top_k, .rows = ex->rows, .pairs = ex->pairs, .results = ex->results};
}

grace_status gr_exchange_here_combine(gr_exchange_here *ex, void *y) {
    return ex->compute->ops->combine(ex->compute, ex->pairs, ex->route.weight, ex->results, ex->opt.hidden, y);
}
