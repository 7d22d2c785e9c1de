/* What all kinds of exchange share: opening, counting, and which kind it is. */
#include "run/exchange.h"

#include <string.h>

#include "base/memory.h"
#include "run/exchange_kinds.h"

static const gr_exchange_ops *kind_of(const gr_comm *world, const gr_compute *compute) {
    return !compute->ops->packs ? &gr_exchange_hops : world->n_ranks == 1 ? &gr_exchange_here : &gr_exchange_gpus;
}

grace_status gr_exchange_memory(gr_comm *world, const gr_compute *compute, const gr_exchange_options *opt, int64_t *bytes) {
    const gr_exchange_ops *ops = kind_of(world, compute);
    *bytes = 0;
    return ops->memory ? ops->memory(world, opt, bytes) : GRACE_OK;
}

static grace_status open_here(gr_comm *world, gr_compute *compute, const gr_exchange_options *opt, gr_exchange **out) {
    grace_status st = GRACE_OK;
    const gr_exchange_ops *ops = kind_of(world, compute);
    gr_exchange *ex = calloc(1, ops->bytes);
    GR_CHECK(ex, GRACE_ERR_MEMORY, "no memory for an exchange");
    ex->ops = ops;
    ex->opt = *opt;
    ex->world = world;
    ex->compute = compute;
    GR_CALLOC(ex->counts.pair_rows, world->n_ranks);
    GR_TRY(gr_ways_init(&ex->ways, grace_comm_cluster(world), opt->kind));
    gr_ways_aim(&ex->ways, world->rank);
    if (ops->open) GR_TRY(ops->open(ex));
    *out = ex;
    ex = NULL;
done:
    gr_exchange_close(ex);
    return st;
}

grace_status gr_exchange_open(gr_comm *world, gr_compute *compute, const gr_exchange_options *opt, gr_exchange **out) {
    grace_status st = GRACE_OK;
    gr_exchange *ex = NULL;
    GR_TRY(grace_comm_agree(world, open_here(world, compute, opt, &ex)));
    if (ex->ops->join) GR_TRY(grace_comm_agree(world, ex->ops->join(ex)));
    *out = ex;
    ex = NULL;
done:
    gr_exchange_close(ex);
    return st;
}

void gr_exchange_close(gr_exchange *ex) {
    if (!ex) return;
    ex->ops->close(ex);
    gr_ways_free(&ex->ways);
    free(ex->counts.pair_rows);
    free(ex);
}

/* ---- a layer ---- */

int32_t gr_exchange_step_start(gr_exchange *ex, int32_t n_rows_most, int32_t n_parts_max) {
    return ex->ops->step ? ex->ops->step(ex, n_rows_most, n_parts_max) : 1;
}

void gr_exchange_turn(gr_exchange *ex, int32_t part) {
    if (ex->ops->turn) ex->ops->turn(ex, part);
}

void *gr_exchange_rows(gr_exchange *ex) { return ex->ops->rows(ex); }

grace_status gr_exchange_build(gr_exchange *ex, const gr_route *route) {
    GR_ASSERT(route->n_rows <= ex->opt.n_rows_max && route->n_slots <= ex->opt.n_slots_max);
    return ex->ops->build(ex, route);
}

grace_status gr_exchange_dispatch_start(gr_exchange *ex) { return ex->ops->dispatch_start ? ex->ops->dispatch_start(ex) : GRACE_OK; }
grace_status gr_exchange_dispatch_finish(gr_exchange *ex, gr_arrived *out) { return ex->ops->dispatch_finish(ex, out); }
grace_status gr_exchange_give_back(gr_exchange *ex) { return ex->ops->give_back ? ex->ops->give_back(ex) : GRACE_OK; }
grace_status gr_exchange_combine(gr_exchange *ex, void *y) { return ex->ops->combine(ex, y); }

bool gr_exchange_waits(const gr_exchange *ex) { return ex->waits; }
bool gr_exchange_queues(const gr_exchange *ex) { return !ex->in_turn; }

grace_status gr_exchange_step_end(gr_exchange *ex, const gr_exchange_step *step) { return ex->ops->step_end ? ex->ops->step_end(ex, step) : GRACE_OK; }

grace_status gr_exchange_step_done(gr_exchange *ex, const gr_exchange_step *step, int64_t *load) {
    return ex->ops->step_done ? ex->ops->step_done(ex, step, load) : GRACE_OK;
}

/* ---- counting ---- */

void gr_exchange_count(gr_exchange *ex, int stage, bool dispatch, int32_t rank, int64_t rows, int64_t list_bytes) {
    grace_link_count *counts = dispatch ? ex->counts.dispatch[stage] : ex->counts.combine[stage];
    gr_link_count_add(&counts[gr_ways_link(&ex->ways, rank)], rows, (int64_t)ex->opt.hidden * (int64_t)ex->compute->ops->element, list_bytes);
    ex->counts.pair_rows[rank] += rows;
}

void gr_exchange_counts_clear(gr_exchange *ex) {
    int64_t *pair_rows = ex->counts.pair_rows;
    memset(pair_rows, 0, (size_t)ex->world->n_ranks * sizeof *pair_rows);
    ex->counts = (gr_exchange_counts){.pair_rows = pair_rows};
}

gr_exchange_counts *gr_exchange_counts_of(gr_exchange *ex) { return &ex->counts; }
