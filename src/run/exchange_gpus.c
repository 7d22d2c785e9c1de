/* The exchange of ranks on GPUs. In a node rows go by stores into the memory of their experts' GPUs, queued with the experts on one stream; between
 * nodes over wires (exchange_gpus_wires.c): lines, which take sizes from the device, or wires where the host must know them, and takes part once a
 * layer and direction:
 *
 *   own rows -> [pack -> leave ->] dispatch -> arrive -> (experts) -> give back -> [pack back -> leave ->] settle own
 *
 * A forwarder's source rows are its own and, behind them, a block a wire of what came over it. Where rows are many a step has two parts, a lane each, which
 * take turns: the rows of one travel while the other computes. What waits for wires waits on the one stream; in a node alone each lane moves its rows on a
 * stream of its own, by a few processors that the experts leave to it. */
#include "run/exchange_kinds.h"
#ifdef GRACE_HAVE_CUDA
#include <string.h>

#include "compute/cuda/rows.h"
#include "run/exchange_gpus.h"

enum { B = GRACE_STAGE_NODE, ROWS = GR_GPUS_ROWS, ENTRIES = GR_GPUS_ENTRIES };

enum { WIRE_BLOCKS = 120 }; /* kernels of a wire's moves find processors while one of ours spins */

/* Two parts in one node: a lane's rows move on its own stream. */
static bool is_beside(const gr_gpus *ex) { return ex->n_parts > 1 && ex->n_wires == 0; }

static void start_lane(const gr_gpus *ex, gr_gpus_lane *l, int32_t n_rows) {
    l->block = n_rows * ex->fan;
    l->stream = is_beside(ex) ? l->own_stream : ex->stream;
    l->node.blocks_most = is_beside(ex) ? GR_CUDA_SPARED : ex->wire ? WIRE_BLOCKS : 0;
}

static int32_t gpus_step(gr_exchange *base, int32_t n_rows_most, int32_t n_parts_max) {
    gr_gpus *ex = gr_gpus_of(base);
    ex->in_step = true;
    ex->n_parts = n_parts_max > 1 && ex->n_lanes > 1 && n_rows_most >= gr_gpus_turns_from(ex) ? 2 : 1;
    gr_gpus_wires_step(ex, n_rows_most);
    base->waits = ex->wire && !ex->padded;
    gr_cuda_spare(base->compute, is_beside(ex));
    for (int32_t i = 0; i < ex->n_parts; i++) start_lane(ex, &ex->lanes[i], ex->n_parts > 1 ? gr_part_rows_most(n_rows_most) : n_rows_most);
    ex->lane = &ex->lanes[0];
    return ex->n_parts;
}

static void gpus_turn(gr_exchange *base, int32_t part) {
    gr_gpus *ex = gr_gpus_of(base);
    GR_ASSERT(part < ex->n_parts);
    ex->lane = &ex->lanes[part];
}

static void *gpus_rows(gr_exchange *base) {
    gr_gpus *ex = gr_gpus_of(base);
    return ex->fan > 1 ? ex->lane->rows : gr_gpus_source(ex, 0);
}

/* ---- a layer ---- */

/* What is queued on `next` from now on comes after all that `first` has by now. */
static grace_status put_in_order(cudaStream_t first, cudaStream_t next, cudaEvent_t event) {
    grace_status st = GRACE_OK;
    if (first == next) return st;
    GR_TRY(gr_cuda_status(cudaEventRecord(event, first), "event"));
    GR_TRY(gr_cuda_status(cudaStreamWaitEvent(next, event, 0), "event"));
done:
    return st;
}

/* The lane's rows move when the backend's stream is as far as here; and the other way round. */
static grace_status follow(const gr_gpus *ex, const gr_gpus_lane *l) { return put_in_order(ex->stream, l->stream, l->packed); }
static grace_status lead(const gr_gpus *ex, const gr_gpus_lane *l) { return put_in_order(l->stream, ex->stream, l->crossed); }

/* Room for the pairs of n rows. */
static const gr_pairs *pairs_for(const gr_gpus *ex, gr_gpus_lane *l, int32_t n) {
    gr_pairs *p = gr_cuda_pairs_for(ex->base.compute, n, ex->top_k, l->route.n_slots);
    if (l->own_pairs.pairs.first_pair) {
        gr_cuda_pairs *own = &l->own_pairs.pairs;
        own->n_rows = n, own->top_k = ex->top_k, own->n_slots = l->route.n_slots, own->spares = p->pairs.spares;
        p = &l->own_pairs;
    }
    return p;
}

static grace_status gpus_build(gr_exchange *base, const gr_route *route) {
    grace_status st = GRACE_OK;
    gr_gpus *ex = gr_gpus_of(base);
    gr_gpus_lane *l = ex->lane;
    const int32_t n = route->n_rows * ex->fan;
    const int64_t table = ex->table_of_layer[route->layer];
    GR_ASSERT(n <= l->block);
    l->route = *route;
    l->layer = (gr_cuda_layer){.layer = route->layer, .n_slots = route->n_slots, .n_rows = n, .s = gr_gpus_sources(ex), .slot = route->slot,
                               .weight = route->weight, .place_of_slot = ex->tables + table,
                               .n_pairs = ex->load + (l - ex->lanes) * base->opt.plan->n_layers + route->layer};
    l->wires.wire_of_slot = ex->tables + ex->n_slots_all + table;
    GR_TRY(follow(ex, l));
    if (ex->fan > 1) GR_TRY(gr_cuda_gather(l->rows, ex->token_of_source, n, base->opt.hidden, gr_gpus_source(ex, 0), l->stream));
    if (ex->n_wires) GR_TRY(gr_gpus_pack(ex));
    else GR_TRY(gr_cuda_dispatch(&l->node, &l->layer, l->stream));
done:
    return st;
}

static grace_status gpus_dispatch_start(gr_exchange *base) {
    gr_gpus *ex = gr_gpus_of(base);
    return ex->n_wires ? gr_gpus_leave(ex) : GRACE_OK;
}

static grace_status gpus_dispatch_finish(gr_exchange *base, gr_arrived *out) {
    grace_status st = GRACE_OK;
    gr_gpus *ex = gr_gpus_of(base);
    gr_gpus_lane *l = ex->lane;
    const char *area = l->node.area[l->node.me];
    const int32_t n = gr_gpus_sources(ex) * l->node.sizes.n_ranks;
    l->pairs = pairs_for(ex, l, n);
    if (ex->n_wires) {
        GR_TRY(gr_gpus_come(ex));
        GR_TRY(gr_cuda_dispatch(&l->node, &l->layer, ex->stream));
    }
    GR_TRY(gr_cuda_arrive(&l->node, &l->layer, &l->pairs->pairs, l->stream));
    GR_TRY(lead(ex, l));
    *out = (gr_arrived){.n_rows = n, .rows = area + l->at.row, .pairs = l->pairs, .results = l->results};
done:
    return st;
}

static grace_status gpus_give_back(gr_exchange *base) {
    grace_status st = GRACE_OK;
    gr_gpus *ex = gr_gpus_of(base);
    const gr_gpus_lane *l = ex->lane;
    GR_TRY(follow(ex, l));
    GR_TRY(gr_cuda_give_back(&l->node, &l->layer, &l->pairs->pairs, l->results, l->stream));
    if (ex->n_wires) GR_TRY(gr_gpus_pack_back(ex));
done:
    return st;
}

static grace_status gpus_combine(gr_exchange *base, void *y) {
    grace_status st = GRACE_OK;
    gr_gpus *ex = gr_gpus_of(base);
    const gr_gpus_lane *l = ex->lane;
    const gr_cuda_settle own = {.n = l->route.n_rows, .fan = ex->fan, .residual = y, .out = y, .wires = ex->n_wires ? &l->wires : NULL};
    if (ex->n_wires) {
        GR_TRY(gr_gpus_leave_back(ex));
        GR_TRY(gr_gpus_come_back(ex));
    }
    GR_TRY(gr_cuda_settle_rows(&l->node, &l->layer, &own, l->stream));
    GR_TRY(lead(ex, l));
done:
    return st;
}

/* ---- a step ---- */

static grace_status late(const gr_gpus *ex) {
    const gr_cuda_watch *w = ex->watch;
    const gr_comm *world = ex->base.world;
    const int32_t first = world->rank - gr_comm_local(world, world->rank), wire = w->source - GR_CUDA_NODE_MAX;
    const char *stage = w->stage == GR_CUDA_STAGE_DISPATCH ? "dispatch" : "combine";
    if (ex->line && gr_line_check(ex->line))        /* it knows what happened; the wait that ended with it, when */
        return w->stage < 0 ? GRACE_ERR_COMM : gr_fail_in(GRACE_ERR_COMM, "%s of MoE layer %d", stage, w->layer);
    return gr_fail(GRACE_ERR_COMM, "rank %d waited %g s in %s of MoE layer %d: nothing came from rank %d", world->rank, world->deadline_s, stage, w->layer,
                   wire >= 0 ? ex->peer[wire] : first + w->source);
}

static grace_status bring(void *here, const void *there, size_t bytes, const gr_gpus *ex) {
    return gr_cuda_status(cudaMemcpyAsync(here, there, bytes, cudaMemcpyDeviceToHost, ex->stream), "counts");
}

/* Source rows of all parts. */
static int64_t all_sources(const gr_gpus *ex) {
    int64_t n = 0;
    for (int32_t i = 0; i < ex->n_parts; i++) n += (int64_t)ex->lanes[i].block * (1 + ex->n_wires);
    return n;
}

static grace_status gpus_step_end(gr_exchange *base, const gr_exchange_step *step) {
    grace_status st = GRACE_OK;
    gr_gpus *ex = gr_gpus_of(base);
    gr_gpus_seen *seen = &ex->seen[step->flight];
    GR_ASSERT(step->n_layers == base->opt.plan->n_layers && !seen->under_way);
    seen->under_way = true;
    seen->n_parts = ex->n_parts;
    seen->n_sources = all_sources(ex);
    GR_TRY(bring(seen->load, ex->load, (size_t)ex->n_parts * (size_t)step->n_layers * sizeof *ex->load, ex));
    GR_TRY(bring(seen->count, ex->count, 4 * GR_CUDA_NODE_MAX * sizeof(int64_t), ex));
    if (ex->line) GR_TRY(bring(seen->line_count, ex->line_count, 12 * (size_t)ex->n_wires * sizeof(int64_t), ex));
    ex->in_step = false;
    if (!ex->wire) goto done;       /* waits in kernels have their deadline */
    GR_TRY(bring(seen->wire_count, ex->wire_count, 4 * (size_t)ex->n_wires * sizeof(int64_t), ex));
    GR_TRY(gr_cuda_status(cudaEventRecord(ex->lane->packed, ex->stream), "event"));
    GR_TRY(gr_wire_wait(ex->wire, ex->lane->packed));
done:
    return st && ex->watch->stop ? late(ex) : st;       /* a wait in a kernel knows who did not come */
}

/* What the kernels counted since the last step. Rows that only passed through are no rows of stage B where there is none. */
static void count_node(gr_gpus *ex, const gr_exchange_step *step) {
    const int32_t n = ex->lanes[0].node.sizes.n_ranks, me = ex->lanes[0].node.me, first = ex->base.world->rank - me;
    const gr_gpus_seen *seen = &ex->seen[step->flight];
    const int64_t header = step->n_layers * seen->n_sources * gr_gpus_header_bytes(ex);
    const bool two_stage = ex->base.ways.two_stage;
    const int64_t passed = two_stage ? 0 : ex->forwarded[ROWS], passed_entries = two_stage ? 0 : ex->forwarded[ENTRIES];
    for (int32_t r = 0; r < n; r++) {
        int64_t add[4];
        for (int32_t c = 0; c < 4; c++) add[c] = gr_gpus_news(&seen->count[c * GR_CUDA_NODE_MAX + r], &ex->counted[c * GR_CUDA_NODE_MAX + r]);
        if (r == me) add[0] -= passed, add[2] -= passed, add[3] -= passed_entries;
        gr_exchange_count(&ex->base, B, true, first + r, add[0], header);
        gr_exchange_count(&ex->base, B, false, first + r, add[ex->base.opt.exact ? 3 : 2], 0);
    }
    ex->forwarded[ROWS] = ex->forwarded[ENTRIES] = 0;
}

static grace_status gpus_step_done(gr_exchange *base, const gr_exchange_step *step, int64_t *load) {
    gr_gpus *ex = gr_gpus_of(base);
    gr_gpus_seen *seen = &ex->seen[step->flight];
    if (ex->watch->stop) return late(ex);
    memset(load, 0, (size_t)step->n_layers * sizeof *load);
    for (int32_t i = 0; i < seen->n_parts * step->n_layers; i++) load[i % step->n_layers] += seen->load[i];
    if (ex->padded) gr_gpus_count_padded(ex, step);
    if (ex->line) gr_gpus_count_lines(ex, step);
    count_node(ex, step);
    seen->under_way = false;
    return GRACE_OK;
}

const gr_exchange_ops gr_exchange_gpus = {
    .bytes = sizeof(gr_gpus), .memory = gr_gpus_memory, .open = gr_gpus_open, .join = gr_gpus_join, .close = gr_gpus_close, .rows = gpus_rows,
    .step = gpus_step, .turn = gpus_turn, .build = gpus_build, .dispatch_start = gpus_dispatch_start, .dispatch_finish = gpus_dispatch_finish,
    .give_back = gpus_give_back, .combine = gpus_combine, .step_end = gpus_step_end, .step_done = gpus_step_done,
};

#else

static grace_status no_gpus(gr_exchange *ex) {
    (void)ex;
    return gr_fail(GRACE_ERR_UNSUPPORTED, "an exchange between GPUs: this program was built without CUDA");
}

static void nothing(gr_exchange *ex) { (void)ex; }

const gr_exchange_ops gr_exchange_gpus = {.bytes = sizeof(gr_exchange), .open = no_gpus, .close = nothing};

#endif
