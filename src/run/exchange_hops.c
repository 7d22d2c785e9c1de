/* The exchange of ranks whose rows lie in host memory: hops over the transport, lists made here. */
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "run/exchange_kinds.h"
#include "run/hop.h"

enum { A = GRACE_STAGE_CROSS, B = GRACE_STAGE_NODE };

typedef struct hops {
    gr_exchange base;
    gr_comm *node;                  /* stage B of hsc, owned; else NULL */
    gr_hop hop[2];
    gr_rows source;                 /* stage B's rows: own tokens, then those received by stage A */
    gr_rows arrived;                /* what stage B delivered */
    gr_route route;
    gr_request *counts_a;           /* in flight between build and dispatch */
    gr_request *rows;               /* in flight between start and finish of dispatch */
    float *source_rows;             /* [own + received by A, hidden] */
    float *sent;                    /* rows gathered for sending, either stage, either direction */
    float *arrived_rows, *results;  /* [n_rows | n_pairs, hidden] */
    float *home;                    /* what came back: stage B's sends, then stage A's */
    int32_t *first_pair, *row_of_pair, *pair_of_entry;      /* experts' order */
    int32_t *sum_first, *sum_index;                         /* scratch lists of the sums at home */
} hops;

static hops *hops_of(gr_exchange *base) { return (hops *)base; }

/* Rows a stage returns: one per sent row, or in exact mode one per sent entry. */
static int32_t n_returned(const hops *ex, const gr_hop *hop) { return ex->base.opt.exact ? hop->n_send_entries : hop->n_send; }

/* ---- open ---- */

static grace_status alloc_rows(hops *ex, float **out, int64_t n_rows) {
    return ex->base.compute->ops->alloc(ex->base.compute, (size_t)n_rows * (size_t)ex->base.opt.hidden * sizeof(float), (void **)out);
}

/* Everything is sized for the worst routing: all rows of all ranks to one rank. Untouched pages cost no memory. */
static grace_status alloc_buffers(hops *ex) {
    grace_status st = GRACE_OK;
    int64_t own = ex->base.opt.n_rows_max, k = ex->base.opt.top_k, ranks = ex->base.world->n_ranks;
    int64_t nodes = ex->base.ways.two_stage ? ex->base.world->n_nodes : 1;
    int64_t received_a = own * (nodes - 1), source = own + received_a, entries = source * k;
    int64_t arrived_entries = own * ranks * k, arrived = ex->base.opt.kind == GRACE_EXCHANGE_PER_EXPERT ? arrived_entries : own * ranks;
    int64_t moved = arrived_entries > entries ? arrived_entries : entries;
    bool per_expert = ex->base.opt.kind == GRACE_EXCHANGE_PER_EXPERT;
    GR_CHECK(moved * 3 < INT32_MAX, GRACE_ERR_LIMIT, "%d rows a step, top_k %d and %d ranks need %lld list entries, the exchange counts to %d",
             ex->base.opt.n_rows_max, ex->base.opt.top_k, ex->base.world->n_ranks, (long long)(moved * 3), INT32_MAX);
    GR_TRY(gr_hop_init(&ex->hop[A], ex->base.world, ex->base.ways.peer_of_rank[A], per_expert, (int32_t)own, (int32_t)(own * k), (int32_t)(own * k),
                       (int32_t)received_a, (int32_t)(received_a * k)));
    GR_TRY(gr_hop_init(&ex->hop[B], ex->node ? ex->node : ex->base.world, ex->base.ways.peer_of_rank[B], per_expert, (int32_t)source, (int32_t)entries,
                       (int32_t)entries, (int32_t)arrived, (int32_t)arrived_entries));
    GR_CALLOC(ex->source.first, source + 1);
    GR_CALLOC(ex->source.slot, entries);
    GR_CALLOC(ex->source.weight, entries);
    GR_CALLOC(ex->arrived.first, arrived + 1);
    GR_CALLOC(ex->arrived.slot, arrived_entries);
    GR_CALLOC(ex->arrived.weight, arrived_entries);
    GR_CALLOC(ex->first_pair, (size_t)ex->base.opt.n_slots_max + 2);
    GR_CALLOC(ex->row_of_pair, arrived_entries);
    GR_CALLOC(ex->pair_of_entry, arrived_entries);
    GR_CALLOC(ex->sum_first, source + 1);
    GR_CALLOC(ex->sum_index, moved);
    GR_TRY(alloc_rows(ex, &ex->source_rows, source));
    GR_TRY(alloc_rows(ex, &ex->sent, moved));
    GR_TRY(alloc_rows(ex, &ex->arrived_rows, arrived));
    GR_TRY(alloc_rows(ex, &ex->results, arrived_entries));
    GR_TRY(alloc_rows(ex, &ex->home, entries + own * k));
done:
    return st;
}

static void *hops_rows(gr_exchange *base) { return hops_of(base)->source_rows; }
/* ---- counting ---- */

static void count_rows(hops *ex, int stage, bool dispatch, const int32_t *rows) {
    grace_link_count *counts = dispatch ? ex->base.counts.dispatch[stage] : ex->base.counts.combine[stage];
    for (int32_t p = 0; p < gr_ways_n_peers(&ex->base.ways, stage); p++) {
        int32_t rank = gr_ways_world_rank(&ex->base.ways, stage, p);
        gr_link_count_add(&counts[gr_ways_link(&ex->base.ways, rank)], rows[p], (int64_t)ex->base.opt.hidden * (int64_t)sizeof(float),
                          dispatch ? gr_hop_list_bytes(&ex->hop[stage], p) : 0);
        ex->base.counts.pair_rows[rank] += rows[p];
    }
}

/* ---- build ---- */

/* Time since *mark goes to *sum, and the mark moves on. */
static void lap(double *mark, double *sum) {
    double now = gr_now_us();
    *sum += now - *mark;
    *mark = now;
}

static void take_own_rows(hops *ex) {
    const gr_route *route = &ex->route;
    int32_t k = ex->base.opt.top_k;
    ex->source.n = route->n_rows;
    for (int32_t r = 0; r <= route->n_rows; r++) ex->source.first[r] = r * k;
    memcpy(ex->source.slot, route->slot, (size_t)route->n_rows * (size_t)k * sizeof(int32_t));
    memcpy(ex->source.weight, route->weight, (size_t)route->n_rows * (size_t)k * sizeof(float));
}

static grace_status hops_build(gr_exchange *base, const gr_route *route) {
    grace_status st = GRACE_OK;
    hops *ex = hops_of(base);
    double mark = gr_now_us(), move_us = 0;
    GR_ASSERT(route->n_rows <= ex->base.opt.n_rows_max && route->n_slots <= ex->base.opt.n_slots_max);
    ex->route = *route;
    take_own_rows(ex);
    ex->hop[A].slot_to = route->n_slots_all;
    ex->hop[B].slot_from = route->first_slot;
    ex->hop[B].slot_to = route->first_slot + route->n_slots;
    if (ex->base.ways.two_stage) {
        gr_hop_begin(&ex->hop[A]);
        gr_hop_count(&ex->hop[A], &ex->source, route->rank_of_slot, 0, route->n_rows);
        gr_hop_fill(&ex->hop[A], &ex->source, route->rank_of_slot);
        lap(&mark, &ex->base.counts.list_us);
        GR_TRY(gr_hop_counts_start(&ex->hop[A], &ex->counts_a));
        lap(&mark, &move_us);
    }
    gr_hop_begin(&ex->hop[B]);      /* the intra-node routing of own rows, while the counts of stage A cross */
    gr_hop_count(&ex->hop[B], &ex->source, route->rank_of_slot, 0, route->n_rows);
    lap(&mark, &ex->base.counts.list_us);
done:
    ex->base.counts.move_us[0] += move_us;
    return st;
}

/* ---- dispatch ---- */

static grace_status start_rows(hops *ex, int stage, float *recv) {
    grace_status st = GRACE_OK;
    gr_hop *hop = &ex->hop[stage];
    GR_TRY(ex->base.compute->ops->gather(ex->base.compute, ex->source_rows, hop->row_of_send, hop->n_send, ex->base.opt.hidden, ex->sent));
    gr_xfer xfer = {ex->sent, hop->send_rows, recv, hop->recv_rows, (size_t)ex->base.opt.hidden * sizeof(float)};
    GR_TRY(gr_comm_alltoallv_start(hop->comm, &xfer, &ex->rows));
    count_rows(ex, stage, true, hop->send_rows);
done:
    return st;
}

static grace_status move_lists(gr_hop *hop) {
    gr_request *request = NULL;
    grace_status st = gr_hop_lists_start(hop, &request);
    return st ? st : gr_comm_wait(hop->comm, request);
}

/* Stage A: our rows leave for other nodes; while they travel, the lists of what comes are turned into stage B's. */
static grace_status cross_nodes(hops *ex, double *mark) {
    grace_status st = GRACE_OK;
    gr_hop *hop = &ex->hop[A];
    gr_request *counts = ex->counts_a;
    ex->counts_a = NULL;
    GR_TRY(gr_comm_wait(hop->comm, counts));
    GR_TRY(gr_hop_counts_done(hop));
    GR_TRY(start_rows(ex, A, ex->source_rows + (int64_t)ex->route.n_rows * ex->base.opt.hidden));
    GR_TRY(move_lists(hop));
    lap(mark, &ex->base.counts.move_us[0]);
    GR_TRY(gr_hop_lists_parse(hop, &ex->source));
    gr_hop_count(&ex->hop[B], &ex->source, ex->route.rank_of_slot, ex->route.n_rows, ex->source.n);
    lap(mark, &ex->base.counts.list_us);
done:
    return st;
}

/* Pairs grouped by slot, within a slot in order of arrival (source rank, then token). */
static void group_pairs(hops *ex) {
    const gr_route *route = &ex->route;
    int32_t n_entries = ex->arrived.first[ex->arrived.n];
    memset(ex->first_pair, 0, ((size_t)route->n_slots + 2) * sizeof(int32_t));
    for (int32_t e = 0; e < n_entries; e++) {
        ex->first_pair[ex->arrived.slot[e] - route->first_slot + 2]++;
    }
    for (int32_t s = 0; s < route->n_slots; s++) ex->first_pair[s + 2] += ex->first_pair[s + 1];
    for (int32_t r = 0; r < ex->arrived.n; r++)
        for (int32_t e = ex->arrived.first[r]; e < ex->arrived.first[r + 1]; e++) {
            int32_t pair = ex->first_pair[ex->arrived.slot[e] - route->first_slot + 1]++;
            ex->row_of_pair[pair] = r;
            ex->pair_of_entry[e] = pair;
        }
}

/* Stage B but for its rows: what every rank of the node, or of the world, will get. */
static grace_status list_arrivals(hops *ex, double *mark) {
    grace_status st = GRACE_OK;
    gr_hop *hop = &ex->hop[B];
    gr_request *counts_b = NULL;
    gr_hop_fill(hop, &ex->source, ex->route.rank_of_slot);
    lap(mark, &ex->base.counts.list_us);
    GR_TRY(gr_hop_counts_start(hop, &counts_b));
    GR_TRY(gr_comm_wait(hop->comm, counts_b));
    GR_TRY(gr_hop_counts_done(hop));
    GR_TRY(move_lists(hop));
    lap(mark, &ex->base.counts.move_us[0]);
    ex->arrived.n = 0;
    GR_TRY(gr_hop_lists_parse(hop, &ex->arrived));
    group_pairs(ex);
    lap(mark, &ex->base.counts.list_us);
done:
    return st;
}

static grace_status wait_rows(hops *ex, int stage) {
    gr_request *rows = ex->rows;
    ex->rows = NULL;
    return gr_comm_wait(ex->hop[stage].comm, rows);
}

static grace_status hops_dispatch_start(gr_exchange *base) {
    grace_status st = GRACE_OK;
    hops *ex = hops_of(base);
    double mark = gr_now_us();
    if (ex->base.ways.two_stage) return cross_nodes(ex, &mark);
    GR_TRY(list_arrivals(ex, &mark));
    GR_TRY(start_rows(ex, B, ex->arrived_rows));
    lap(&mark, &ex->base.counts.move_us[0]);
done:
    return st;
}

static grace_status hops_dispatch_finish(gr_exchange *base, gr_arrived *out) {
    grace_status st = GRACE_OK;
    hops *ex = hops_of(base);
    double mark = gr_now_us();
    if (ex->base.ways.two_stage) {
        GR_TRY(list_arrivals(ex, &mark));
        GR_TRY(wait_rows(ex, A));
        GR_TRY(start_rows(ex, B, ex->arrived_rows));
    }
    GR_TRY(wait_rows(ex, B));
    lap(&mark, &ex->base.counts.move_us[0]);
    *out = (gr_arrived){ex->arrived.n, ex->arrived.first[ex->arrived.n], ex->arrived_rows, ex->first_pair, ex->row_of_pair, NULL, ex->results};
done:
    return st;
}

/* ---- combine ---- */

/* Send a hop's results back the way its rows came; they land in `recv` in the order they were sent. */
static grace_status send_back(hops *ex, int stage, const float *results, float *recv) {
    grace_status st = GRACE_OK;
    gr_hop *hop = &ex->hop[stage];
    gr_request *request = NULL;
    const int32_t *out = ex->base.opt.exact ? hop->recv_entries : hop->recv_rows, *in = ex->base.opt.exact ? hop->send_entries : hop->send_rows;
    gr_xfer xfer = {results, out, recv, in, (size_t)ex->base.opt.hidden * sizeof(float)};
    GR_TRY(gr_comm_alltoallv_start(hop->comm, &xfer, &request));
    count_rows(ex, stage, false, out);
    GR_TRY(gr_comm_wait(hop->comm, request));
done:
    return st;
}

/* Expert side: fast sums a row's experts here, exact returns every pair. */
static grace_status collect_results(hops *ex) {
    const gr_compute_ops *ops = ex->base.compute->ops;
    const gr_rows *rows = &ex->arrived;
    int32_t width = ex->base.opt.hidden;
    if (ex->base.opt.exact) return ops->gather(ex->base.compute, ex->results, ex->pair_of_entry, rows->first[rows->n], width, ex->sent);
    return ops->sum_rows(ex->base.compute, ex->results, rows->first, ex->pair_of_entry, rows->weight, rows->n, width, false, ex->sent);
}

/* Forwarder: fast sums a received row's copies in order of the node's ranks, exact passes its entries on. */
static grace_status collect_forwarded(hops *ex) {
    const gr_compute_ops *ops = ex->base.compute->ops;
    const gr_hop *hop = &ex->hop[B];
    int32_t own = ex->route.n_rows, n = ex->source.n - own, width = ex->base.opt.hidden, entry = ex->source.first[own];
    if (ex->base.opt.exact) return ops->gather(ex->base.compute, ex->home, hop->send_of_entry + entry, ex->source.first[ex->source.n] - entry, width, ex->sent);
    return ops->sum_rows(ex->base.compute, ex->home, hop->copies_first + own, hop->copies, NULL, n, width, false, ex->sent);
}

/* exact, at home: gate weight times row, choice after choice in order of gate weight, whatever way a row came. */
static void list_choices(hops *ex) {
    int32_t n_entries = ex->source.first[ex->route.n_rows], n_b = n_returned(ex, &ex->hop[B]);
    for (int32_t e = 0; e < n_entries; e++) {
        int32_t near = ex->hop[B].send_of_entry[e];
        ex->sum_index[e] = near >= 0 ? near : n_b + ex->hop[A].send_of_entry[e];
    }
    memcpy(ex->sum_first, ex->source.first, ((size_t)ex->route.n_rows + 1) * sizeof(int32_t));
}

/* fast, at home: the partial sums of this node's ranks in their order, then of the other nodes in theirs. */
static void list_partials(hops *ex) {
    const gr_hop *a = &ex->hop[A], *b = &ex->hop[B];
    int32_t n = 0, n_b = n_returned(ex, b);
    for (int32_t r = 0; r < ex->route.n_rows; r++) {
        ex->sum_first[r] = n;
        for (int32_t i = b->copies_first[r]; i < b->copies_first[r + 1]; i++) ex->sum_index[n++] = b->copies[i];
        for (int32_t i = a->copies_first[r]; ex->base.ways.two_stage && i < a->copies_first[r + 1]; i++) ex->sum_index[n++] = n_b + a->copies[i];
    }
    ex->sum_first[ex->route.n_rows] = n;
}

static grace_status hops_combine(gr_exchange *base, void *y) {
    grace_status st = GRACE_OK;
    hops *ex = hops_of(base);
    double mark = gr_now_us();
    GR_TRY(collect_results(ex));
    GR_TRY(send_back(ex, B, ex->sent, ex->home));
    if (ex->base.ways.two_stage) {
        GR_TRY(collect_forwarded(ex));
        GR_TRY(send_back(ex, A, ex->sent, ex->home + (int64_t)n_returned(ex, &ex->hop[B]) * ex->base.opt.hidden));
    }
    lap(&mark, &ex->base.counts.move_us[1]);
    if (ex->base.opt.exact) list_choices(ex);
    else list_partials(ex);
    lap(&mark, &ex->base.counts.list_us);
    GR_TRY(ex->base.compute->ops->sum_rows(ex->base.compute, ex->home, ex->sum_first, ex->sum_index, ex->base.opt.exact ? ex->route.weight : NULL,
                                           ex->route.n_rows,
                                      ex->base.opt.hidden, true, y));
    lap(&mark, &ex->base.counts.move_us[1]);
done:
    return st;
}

/* ---- the kind ---- */

static void hops_close(gr_exchange *base) {
    hops *ex = hops_of(base);
    float *rows[] = {ex->source_rows, ex->sent, ex->arrived_rows, ex->results, ex->home};
    void *lists[] = {ex->source.first, ex->source.slot, ex->source.weight, ex->arrived.first, ex->arrived.slot, ex->arrived.weight, ex->first_pair,
                     ex->row_of_pair, ex->pair_of_entry, ex->sum_first, ex->sum_index};
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        if (rows[i]) base->compute->ops->release(base->compute, rows[i]);
    for (size_t i = 0; i < sizeof lists / sizeof *lists; i++) free(lists[i]);
    gr_hop_free(&ex->hop[A]);
    gr_hop_free(&ex->hop[B]);
    grace_comm_close(ex->node);
}

static grace_status hops_join(gr_exchange *base) {
    grace_status st = GRACE_OK;
    hops *ex = hops_of(base);
    if (base->ways.two_stage) GR_TRY(gr_comm_split(base->world, gr_comm_node(base->world, base->world->rank), &ex->node));
    GR_TRY(alloc_buffers(ex));
done:
    return st;
}

const gr_exchange_ops gr_exchange_hops = {.bytes = sizeof(hops), .join = hops_join, .close = hops_close, .rows = hops_rows, .build = hops_build,
                                          .dispatch_start = hops_dispatch_start, .dispatch_finish = hops_dispatch_finish, .combine = hops_combine};
