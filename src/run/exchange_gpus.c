/* The exchange of ranks on GPUs. In a node rows go by stores into the memory of their experts' GPUs, queued with the experts on one stream; between
 * nodes over wires
 * whose sizes the host must know, so there it takes part once a layer and direction:
 *
 *   own rows -> [pack -> counts -> wire ->] dispatch -> arrive -> group -> (experts) -> give back -> [settle others' -> wire ->] settle own
 *
 * A forwarder's source rows are its own and, behind them, a block a wire of what came over it. */
#include "run/exchange_kinds.h"
#ifdef GRACE_HAVE_CUDA
#include <string.h>

#include "base/clock.h"
#include "compute/cuda/rows.h"
#include "run/exchange_gpus.h"

enum { A = GRACE_STAGE_CROSS, B = GRACE_STAGE_NODE, ROWS = 0, ENTRIES = 1 };
enum { PADDED_BYTES = 128 << 10 };      /* of a block: at 25 Gbit/s 42 us; blocks of 512 KiB took 1.4 times the step of exact, packed rows */

static size_t row_bytes(const gr_gpus *ex) { return (size_t)ex->base.opt.hidden * sizeof(uint16_t); }
static int32_t n_sources(const gr_gpus *ex) { return ex->block * (1 + ex->wires.n_wires); }
/* Rows that return for n rows with so many entries. */
static int32_t n_returned(const gr_gpus *ex, const int32_t n[2]) { return n[ex->base.opt.exact ? ENTRIES : ROWS]; }

/* Few rows travel as whole blocks: to send what is missing costs less than to tell sizes. By the step's shape, which all ranks know. */
static void gpus_step(gr_exchange *base, int32_t n_rows_most) {
    gr_gpus *ex = gr_gpus_of(base);
    ex->block = n_rows_most * ex->fan;
    ex->padded = ex->wire && !strcmp(gr_wire_kind(ex->wire), "nccl") && (size_t)ex->block * row_bytes(ex) <= PADDED_BYTES;
    base->waits = ex->wire && !ex->padded;
    for (int32_t w = 0; ex->padded && w < ex->wires.n_wires; w++) {
        ex->n_out[2 * w] = ex->n_in[2 * w] = ex->block;
        ex->n_out[2 * w + 1] = ex->n_in[2 * w + 1] = ex->block * ex->top_k;
    }
}

static void *gpus_rows(gr_exchange *base) {
    gr_gpus *ex = gr_gpus_of(base);
    return ex->fan > 1 ? ex->rows : gr_gpus_source(ex, 0);
}

/* ---- own rows ---- */

/* What is packed behind the last row has no choice. */
static grace_status no_choices(gr_gpus *ex) {
    const size_t header = (size_t)ex->top_k * sizeof(int32_t);
    return gr_cuda_status(cudaMemset2DAsync(ex->wires.slot, (size_t)ex->wires.capacity * header, 0xff, (size_t)ex->block * header, (size_t)ex->wires.n_wires,
                                            ex->stream), "slots");
}

/* Headers of all source rows, absent ones without a choice; own rows packed for other nodes. */
static grace_status list_sources(gr_gpus *ex) {
    grace_status st = GRACE_OK;
    const int32_t k = ex->top_k, n = ex->layer.n_rows;
    const size_t all = (size_t)n_sources(ex) * (size_t)k;
    const gr_exchange_options *o = &ex->base.opt;
    GR_TRY(gr_cuda_status(cudaMemsetAsync(ex->slot, 0xff, all * sizeof *ex->slot, ex->stream), "slots"));
    GR_TRY(gr_cuda_status(cudaMemcpyAsync(ex->slot, ex->route.slot, (size_t)n * (size_t)k * sizeof *ex->slot, cudaMemcpyDeviceToDevice, ex->stream), "slots"));
    GR_TRY(gr_cuda_status(cudaMemcpyAsync(ex->weight, ex->route.weight, (size_t)n * (size_t)k * sizeof *ex->weight, cudaMemcpyDeviceToDevice,
                                          ex->stream), "weights"));
    if (ex->padded) GR_TRY(no_choices(ex));
    GR_TRY(gr_cuda_pack(&ex->wires, gr_gpus_source(ex, 0), ex->slot, ex->weight, n, k, o->hidden, ex->n_packed, ex->stream));
    ex->layer.slot = ex->slot;
    ex->layer.weight = ex->weight;
    ex->layer.n_rows = n_sources(ex);
done:
    return st;
}

static grace_status gpus_build(gr_exchange *base, const gr_route *route) {
    grace_status st = GRACE_OK;
    gr_gpus *ex = gr_gpus_of(base);
    const int32_t n = route->n_rows * ex->fan;
    const int64_t table = ex->table_of_layer[route->layer];
    GR_ASSERT(n <= ex->block);
    ex->route = *route;
    ex->layer = (gr_cuda_layer){.layer = route->layer, .n_slots = route->n_slots, .n_rows = n, .s = n_sources(ex), .slot = route->slot,
                                .weight = route->weight, .place_of_slot = ex->tables + table};
    ex->wires.wire_of_slot = ex->tables + ex->n_slots_all + table;
    if (ex->fan > 1) GR_TRY(gr_cuda_gather(ex->rows, ex->token_of_source, n, base->opt.hidden, gr_gpus_source(ex, 0), ex->stream));
    if (ex->wire) GR_TRY(list_sources(ex));
done:
    return st;
}

/* ---- wires ---- */

/* The ranks tell each other what is about to travel: told_out in order of wires is told, what came is in told_in. */
static grace_status tell(gr_gpus *ex) {
    const gr_xfer xfer = {ex->told_out, ex->one_each, ex->told_in, ex->one_each, sizeof *ex->told_out};
    return gr_comm_alltoallv(ex->base.world, &xfer);
}

static grace_status check_bytes(const gr_gpus *ex, int32_t w, int64_t rows, int64_t bytes) {
    grace_status st = GRACE_OK;
    const int64_t most = ex->packed_out ? gr_cuda_packed_bytes(rows, ex->base.opt.hidden) : 0;
    GR_CHECK(bytes >= 0 && bytes <= most, GRACE_ERR_COMM, "rank %d announces %lld bytes for %lld packed rows, expected at most %lld", ex->peer[w],
             (long long)bytes,
             (long long)rows, (long long)most);
    ex->bytes_in[w] = bytes;
done:
    return st;
}

/* On the way there: rows, entries and bytes that were packed. */
static grace_status tell_rows(gr_gpus *ex) {
    grace_status st = GRACE_OK;
    const int32_t n = ex->wires.n_wires;
    GR_TRY(gr_wire_wait(ex->wire, ex->packed));
    for (int32_t w = 0; w < n; w++) {
        ex->bytes_out[w] = ex->packed_out ? ex->n_packed_bytes[w] : 0;
        ex->told_out[w] = (gr_gpus_told){ex->n_out[2 * w] = ex->n_packed[2 * w], ex->n_out[2 * w + 1] = ex->n_packed[2 * w + 1], ex->bytes_out[w]};
    }
    GR_TRY(tell(ex));
    for (int32_t w = 0; w < n; w++) {
        const gr_gpus_told *in = &ex->told_in[w];
        GR_CHECK(in->rows >= 0 && in->rows <= ex->block && in->entries >= in->rows && in->entries <= in->rows * ex->top_k, GRACE_ERR_COMM,
                 "rank %d announces %d rows with %d entries; there is room for %d with %d each", ex->peer[w], in->rows, in->entries, ex->block, ex->top_k);
        ex->n_in[2 * w] = in->rows, ex->n_in[2 * w + 1] = in->entries;
        GR_TRY(check_bytes(ex, w, in->rows, in->bytes));
    }
done:
    return st;
}

/* On the way back only the bytes are news. */
static grace_status tell_bytes(gr_gpus *ex) {
    grace_status st = GRACE_OK;
    const int32_t n = ex->wires.n_wires;
    GR_TRY(gr_wire_wait(ex->wire, ex->packed));
    for (int32_t w = 0; w < n; w++) ex->told_out[w] = (gr_gpus_told){.bytes = ex->bytes_out[w] = ex->n_packed_bytes[w]};
    GR_TRY(tell(ex));
    for (int32_t w = 0; w < n; w++) GR_TRY(check_bytes(ex, w, n_returned(ex, ex->n_out + 2 * w), ex->told_in[w].bytes));
done:
    return st;
}

/* Where rows, or parts of headers, lie on their way: of wire w, from send + w * send_step and to recv + w * recv_step, units of so many bytes. */
typedef struct way { char *send; size_t send_step; char *recv; size_t recv_step; size_t unit; } way;

static void add_pieces(gr_gpus *ex, int32_t *n, const way *v, bool there) {
    for (int32_t w = 0; w < ex->wires.n_wires; w++) {
        const int32_t *out = ex->n_out + 2 * w, *in = ex->n_in + 2 * w;
        const int32_t n_out = there ? out[ROWS] : n_returned(ex, in), n_in = there ? in[ROWS] : n_returned(ex, out);
        ex->pieces[(*n)++] = (gr_wire_piece){.peer = ex->peer[w], .send = v->send + (size_t)w * v->send_step, .n_send = (size_t)n_out * v->unit,
                                             .recv = v->recv + (size_t)w * v->recv_step, .n_recv = (size_t)n_in * v->unit};
    }
}

static bool packs(const gr_gpus *ex) { return ex->packed_out && !ex->padded; }

/* Packed rows, in place of the rows of v. */
static void add_packed_pieces(gr_gpus *ex, int32_t *n) {
    for (int32_t w = 0; w < ex->wires.n_wires; w++)
        ex->pieces[(*n)++] = (gr_wire_piece){.peer = ex->peer[w], .send = ex->packed_out + (size_t)w * ex->packed_step, .n_send = (size_t)ex->bytes_out[w],
                                             .recv = ex->packed_in + (size_t)w * ex->packed_step, .n_recv = (size_t)ex->bytes_in[w]};
}

/* n_rows NULL: at most all of a block, n_sent tells. */
static grace_status compress(gr_gpus *ex, const way *v, bool there) {
    gr_cuda_bales b = {.n_wires = ex->wires.n_wires, .hidden = ex->base.opt.hidden, .n_sent = there ? ex->wires.n_sent : NULL};
    for (int32_t w = 0; w < b.n_wires; w++)
        b.wire[w] = (gr_cuda_bale){v->send + (size_t)w * v->send_step, ex->packed_out + (size_t)w * ex->packed_step,
                                   there ? ex->route.n_rows * ex->fan : n_returned(ex, ex->n_in + 2 * w)};
    return gr_cuda_compress(&b, ex->n_packed_bytes, ex->stream);
}

/* What came, once it is there. */
static grace_status expand(gr_gpus *ex, const way *v, bool there) {
    gr_cuda_bales b = {.n_wires = ex->wires.n_wires, .hidden = ex->base.opt.hidden};
    for (int32_t w = 0; w < b.n_wires; w++)
        b.wire[w] = (gr_cuda_bale){v->recv + (size_t)w * v->recv_step, ex->packed_in + (size_t)w * ex->packed_step,
                                   there ? ex->n_in[2 * w] : n_returned(ex, ex->n_out + 2 * w)};
    return gr_cuda_expand(&b, ex->stream);
}

/* The pieces leave once what is queued so far is done; what is queued later does not wait for them, but for ex->crossed. */
static grace_status move(gr_gpus *ex, int32_t n, cudaEvent_t after) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_cuda_status(cudaStreamWaitEvent(ex->wire_stream, after, 0), "event"));
    GR_TRY(gr_wire_move(ex->wire, ex->pieces, n, ex->wire_stream));
    GR_TRY(gr_cuda_status(cudaEventRecord(ex->crossed, ex->wire_stream), "event"));
done:
    return st;
}

static int64_t header_bytes(const gr_gpus *ex) { return (int64_t)ex->top_k * (int64_t)(sizeof(int32_t) + sizeof(float)); }

/* Of a step that is not padded; the others are counted when they are done. */
static void count_wires(gr_gpus *ex, bool there) {
    const int stage = ex->base.ways.two_stage ? A : B;
    for (int32_t w = 0; !ex->padded && w < ex->wires.n_wires; w++) {
        const int32_t *out = ex->n_out + 2 * w, *in = ex->n_in + 2 * w;
        const int64_t rows = there ? out[ROWS] : n_returned(ex, in), saved = packs(ex) ? rows * (int64_t)row_bytes(ex) - ex->bytes_out[w] : 0;
        const int64_t told = there || packs(ex) ? (int64_t)sizeof(gr_gpus_told) : 0;
        gr_exchange_count(&ex->base, stage, there, ex->peer[w], rows, (there ? rows * header_bytes(ex) : 0) + told - saved);
        if (there) ex->forwarded[ROWS] += in[ROWS], ex->forwarded[ENTRIES] += in[ENTRIES];
    }
}

static way rows_there(const gr_gpus *ex) {
    return (way){ex->wires.rows, (size_t)ex->wires.capacity * row_bytes(ex), gr_gpus_source(ex, ex->block), (size_t)ex->block * row_bytes(ex), row_bytes(ex)};
}

static way rows_back(const gr_gpus *ex) {
    const size_t step = (size_t)ex->wires.capacity * (ex->base.opt.exact ? (size_t)ex->top_k : 1) * row_bytes(ex);
    return (way){ex->wires.rows, step, ex->wires.home, step, row_bytes(ex)};
}

/* Rows and headers to other nodes; what comes lies behind own rows. */
static grace_status cross(gr_gpus *ex) {
    grace_status st = GRACE_OK;
    const gr_cuda_wires *w = &ex->wires;
    const size_t k = (size_t)ex->top_k, capacity = (size_t)w->capacity, own = (size_t)ex->block * k;
    const way rows = rows_there(ex);
    const way slots = {(char *)w->slot, capacity * k * sizeof(int32_t), (char *)(ex->slot + own), own * sizeof(int32_t), k * sizeof(int32_t)};
    const way weights = {(char *)w->weight, capacity * k * sizeof(float), (char *)(ex->weight + own), own * sizeof(float), k * sizeof(float)};
    double mark = gr_now_us();
    int32_t n = 0;
    if (packs(ex)) GR_TRY(compress(ex, &rows, true));
    GR_TRY(gr_cuda_status(cudaEventRecord(ex->packed, ex->stream), "event"));
    if (!ex->padded) GR_TRY(tell_rows(ex));
    if (packs(ex)) add_packed_pieces(ex, &n);
    else add_pieces(ex, &n, &rows, true);
    add_pieces(ex, &n, &slots, true);
    add_pieces(ex, &n, &weights, true);
    GR_TRY(move(ex, n, ex->packed));
    count_wires(ex, true);
    ex->base.counts.move_us[0] += gr_now_us() - mark;
done:
    return st;
}

/* What crossed is there, and source rows are whole. */
static grace_status crossed(gr_gpus *ex) {
    grace_status st = GRACE_OK;
    const way rows = rows_there(ex);
    GR_TRY(gr_cuda_status(cudaStreamWaitEvent(ex->stream, ex->crossed, 0), "event"));
    if (packs(ex)) GR_TRY(expand(ex, &rows, true));
    if (ex->padded) GR_TRY(gr_cuda_count_wires(&ex->wires, ex->slot + (int64_t)ex->block * ex->top_k, ex->block, ex->top_k, ex->wire_count, ex->stream));
done:
    return st;
}

/* Of received rows the sums, or in exact mode their experts' rows, to where they are sent from. */
static grace_status collect_received(gr_gpus *ex, const way *rows) {
    grace_status st = GRACE_OK;
    for (int32_t i = 0; i < ex->wires.n_wires; i++) {
        const int32_t first = (i + 1) * ex->block, n = ex->n_in[2 * i];
        char *out = rows->send + (size_t)i * rows->send_step;
        const gr_cuda_settle s = {.first = first, .n = n, .fan = 1, .out = out};
        if (!ex->base.opt.exact) GR_TRY(gr_cuda_settle_rows(&ex->node, &ex->layer, &s, ex->stream));
        else GR_TRY(gr_cuda_pack_entries(&ex->node, &ex->layer, first, n, ex->entry, out, ex->stream));
    }
done:
    return st;
}

static grace_status cross_back(gr_gpus *ex) {
    grace_status st = GRACE_OK;
    const way rows = rows_back(ex);
    double mark = gr_now_us();
    int32_t n = 0;
    GR_TRY(collect_received(ex, &rows));
    if (packs(ex)) GR_TRY(compress(ex, &rows, false));
    GR_TRY(gr_cuda_status(cudaEventRecord(ex->packed, ex->stream), "event"));
    if (packs(ex)) {
        GR_TRY(tell_bytes(ex));
        add_packed_pieces(ex, &n);
    } else add_pieces(ex, &n, &rows, false);
    GR_TRY(move(ex, n, ex->packed));
    count_wires(ex, false);
    GR_TRY(gr_cuda_status(cudaStreamWaitEvent(ex->stream, ex->crossed, 0), "event"));
    if (packs(ex)) GR_TRY(expand(ex, &rows, false));
    ex->base.counts.move_us[1] += gr_now_us() - mark;
done:
    return st;
}

/* ---- a layer ---- */

static grace_status gpus_dispatch_start(gr_exchange *base) {
    gr_gpus *ex = gr_gpus_of(base);
    return ex->wire ? cross(ex) : gr_cuda_dispatch(&ex->node, &ex->layer, ex->stream);
}

static grace_status gpus_dispatch_finish(gr_exchange *base, gr_arrived *out) {
    grace_status st = GRACE_OK;
    gr_gpus *ex = gr_gpus_of(base);
    const char *area = ex->node.area[ex->node.me];
    const int32_t n = n_sources(ex) * ex->node.sizes.n_ranks;
    if (ex->wire) {
        GR_TRY(crossed(ex));
        GR_TRY(gr_cuda_dispatch(&ex->node, &ex->layer, ex->stream));
    }
    GR_TRY(gr_cuda_arrive(&ex->node, &ex->layer, ex->stream));
    GR_TRY(gr_cuda_group_rows(base->compute, (const int32_t *)(area + ex->at.slot), n, ex->top_k, ex->route.n_slots, &ex->pairs));
    GR_TRY(gr_cuda_status(cudaMemcpyAsync(ex->load + ex->route.layer, ex->pairs->pairs.first_pair + ex->route.n_slots, sizeof *ex->load,
                                          cudaMemcpyDeviceToDevice,
                                          ex->stream), "loads"));
    *out = (gr_arrived){.n_rows = n, .rows = area + ex->at.row, .pairs = ex->pairs, .results = ex->results};
done:
    return st;
}

static grace_status gpus_combine(gr_exchange *base, void *y) {
    grace_status st = GRACE_OK;
    gr_gpus *ex = gr_gpus_of(base);
    const gr_cuda_settle own = {.n = ex->route.n_rows, .fan = ex->fan, .residual = y, .out = y, .wires = ex->wire ? &ex->wires : NULL, .last = true};
    GR_TRY(gr_cuda_give_back(&ex->node, &ex->layer, &ex->pairs->pairs, ex->results, ex->stream));
    if (ex->wire) GR_TRY(cross_back(ex));
    GR_TRY(gr_cuda_settle_rows(&ex->node, &ex->layer, &own, ex->stream));
done:
    return st;
}

/* ---- a step ---- */

static grace_status late(const gr_gpus *ex) {
    const gr_cuda_watch *w = ex->watch;
    const gr_comm *world = ex->base.world;
    const int32_t first = world->rank - ex->node.me;
    return gr_fail(GRACE_ERR_COMM, "rank %d waited %g s in %s of MoE layer %d: nothing came from rank %d", world->rank, world->deadline_s,
                   w->stage == GR_CUDA_STAGE_DISPATCH ? "dispatch" : "combine", w->layer, first + w->source);
}

static grace_status gpus_step_end(gr_exchange *base, const gr_exchange_step *step) {
    grace_status st = GRACE_OK;
    gr_gpus *ex = gr_gpus_of(base);
    GR_TRY(gr_cuda_status(cudaMemcpyAsync(ex->load_seen, ex->load, (size_t)step->n_layers * sizeof *ex->load, cudaMemcpyDeviceToHost, ex->stream), "loads"));
    GR_TRY(gr_cuda_status(cudaMemcpyAsync(ex->count_seen, ex->node.count, 4 * GR_CUDA_NODE_MAX * sizeof(int64_t), cudaMemcpyDeviceToHost,
                                          ex->stream), "counts"));
    if (!ex->wire) goto done;       /* waits in kernels have their deadline */
    GR_TRY(gr_cuda_status(cudaMemcpyAsync(ex->wire_count_seen, ex->wire_count, 4 * (size_t)ex->wires.n_wires * sizeof(int64_t),
                                          cudaMemcpyDeviceToHost, ex->stream),
                          "counts"));
    GR_TRY(gr_cuda_status(cudaEventRecord(ex->packed, ex->stream), "event"));
    GR_TRY(gr_wire_wait(ex->wire, ex->packed));
done:
    return st && ex->watch->stop ? late(ex) : st;       /* a wait in a kernel knows who did not come */
}

/* What is new in a running total. */
static int64_t news(const int64_t *seen, int64_t *counted) {
    const int64_t add = *seen - *counted;
    *counted = *seen;
    return add;
}

/* A padded step: its blocks went whole. */
static void count_padded(gr_gpus *ex, const gr_exchange_step *step) {
    const int stage = ex->base.ways.two_stage ? A : B, n = ex->wires.n_wires, back = ex->base.opt.exact ? ENTRIES : ROWS;
    const int64_t row = (int64_t)row_bytes(ex), blocks = (int64_t)step->n_layers * ex->block;
    for (int32_t w = 0; w < n; w++) {
        int64_t out[2], in[2];
        for (int i = 0; i < 2; i++) {
            out[i] = news(&ex->wire_count_seen[2 * w + i], &ex->wire_counted[2 * w + i]);
            in[i] = news(&ex->wire_count_seen[2 * (n + w) + i], &ex->wire_counted[2 * (n + w) + i]);
            ex->forwarded[i] += in[i];
        }
        gr_exchange_count(&ex->base, stage, true, ex->peer[w], out[ROWS], blocks * (row + header_bytes(ex)) - out[ROWS] * row);
        gr_exchange_count(&ex->base, stage, false, ex->peer[w], in[back], blocks * (back == ENTRIES ? ex->top_k : 1) * row - in[back] * row);
    }
}

/* What the kernels counted since the last step. Rows that only passed through are no rows of stage B where there is none. */
static void count_node(gr_gpus *ex, const gr_exchange_step *step) {
    const int32_t first = ex->base.world->rank - ex->node.me, n = ex->node.sizes.n_ranks;
    const int64_t header = (int64_t)step->n_layers * n_sources(ex) * header_bytes(ex);
    int64_t passed = ex->base.ways.two_stage ? 0 : ex->forwarded[ROWS], passed_entries = ex->base.ways.two_stage ? 0 : ex->forwarded[ENTRIES];
    for (int32_t r = 0; r < n; r++) {
        int64_t add[4];
        for (int32_t c = 0; c < 4; c++) add[c] = news(&ex->count_seen[c * GR_CUDA_NODE_MAX + r], &ex->counted[c * GR_CUDA_NODE_MAX + r]);
        if (r == ex->node.me) add[0] -= passed, add[2] -= passed, add[3] -= passed_entries;
        gr_exchange_count(&ex->base, B, true, first + r, add[0], header);
        gr_exchange_count(&ex->base, B, false, first + r, add[ex->base.opt.exact ? 3 : 2], 0);
    }
    ex->forwarded[ROWS] = ex->forwarded[ENTRIES] = 0;
}

static grace_status gpus_step_done(gr_exchange *base, const gr_exchange_step *step, int64_t *load) {
    gr_gpus *ex = gr_gpus_of(base);
    if (ex->watch->stop) return late(ex);
    for (int32_t l = 0; l < step->n_layers; l++) load[l] = ex->load_seen[l];
    if (ex->padded) count_padded(ex, step);
    count_node(ex, step);
    return GRACE_OK;
}

const gr_exchange_ops gr_exchange_gpus = {sizeof(gr_gpus), gr_gpus_open, gr_gpus_close, gpus_rows, gpus_step, gpus_build, gpus_dispatch_start,
                                          gpus_dispatch_finish,
                                          gpus_combine, gpus_step_end, gpus_step_done};

#else

static grace_status no_gpus(gr_exchange *ex) {
    (void)ex;
    return gr_fail(GRACE_ERR_UNSUPPORTED, "an exchange between GPUs: this program was built without CUDA");
}

static void nothing(gr_exchange *ex) { (void)ex; }

const gr_exchange_ops gr_exchange_gpus = {.bytes = sizeof(gr_exchange), .open = no_gpus, .close = nothing};

#endif
