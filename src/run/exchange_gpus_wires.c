/* Rows of a part on their way between nodes. By lines (comm/line.h) threads move them, of sizes that only the devices know, and `leave` has nothing to
 * do. By a wire (comm/wire.h) sizes must be known to both hosts, so a layer stops at the host twice, there and back: in `leave`. What is queued before
 * and after does not wait for it, and the rows of the other part travel and are computed meanwhile. */
#ifdef GRACE_HAVE_CUDA
#include <string.h>

#include "run/exchange_gpus.h"

enum { A = GRACE_STAGE_CROSS, B = GRACE_STAGE_NODE, ROWS = GR_GPUS_ROWS, ENTRIES = GR_GPUS_ENTRIES };
enum { PADDED_BYTES = 128 << 10 };      /* of a block: at 25 Gbit/s 42 us; blocks of 512 KiB took 1.4 times the step of exact, packed rows */
enum { PACKED_BYTES = 64 << 10 };       /* of a block: what is saved of less is worth no kernels */

/* Rows that return for n rows with so many entries. */
static int32_t n_returned(const gr_gpus *ex, const int32_t n[2]) { return n[ex->base.opt.exact ? ENTRIES : ROWS]; }

static bool packs(const gr_gpus *ex) { return ex->lane->packed_out && !ex->padded && (size_t)ex->lane->block * gr_gpus_row_bytes(ex) >= PACKED_BYTES; }

/* Few rows travel as whole blocks: to send what is missing costs less than to tell sizes. By the step's shape, which all ranks know. */
void gr_gpus_wires_step(gr_gpus *ex, int32_t n_rows_most) {
    gr_gpus_lane *l = &ex->lanes[0];
    const int32_t block = n_rows_most * ex->fan;
    ex->padded = ex->wire && ex->n_parts == 1 && !strcmp(gr_wire_kind(ex->wire), "nccl") && (size_t)block * gr_gpus_row_bytes(ex) <= PADDED_BYTES;
    for (int32_t w = 0; ex->padded && w < ex->n_wires; w++) {
        l->n_out[2 * w] = l->n_in[2 * w] = block;
        l->n_out[2 * w + 1] = l->n_in[2 * w + 1] = block * ex->top_k;
    }
}

/* ---- where rows lie ---- */

/* Where rows, or parts of headers, lie on their way: of wire w, from send + w * send_step and to recv + w * recv_step, units of so many bytes. */
typedef struct way { char *send; size_t send_step; char *recv; size_t recv_step; size_t unit; } way;

static way rows_there(const gr_gpus *ex) {
    const gr_cuda_wires *w = &ex->lane->wires;
    const size_t row = gr_gpus_row_bytes(ex);
    return (way){w->rows, (size_t)w->capacity * row, gr_gpus_source(ex, ex->lane->block), (size_t)ex->lane->block * row, row};
}

static way rows_back(const gr_gpus *ex) {
    const gr_cuda_wires *w = &ex->lane->wires;
    const size_t row = gr_gpus_row_bytes(ex), step = (size_t)w->capacity * (ex->base.opt.exact ? (size_t)ex->top_k : 1) * row;
    return (way){w->rows, step, w->home, step, row};
}

static void add_pieces(gr_gpus *ex, int32_t *n, const way *v, bool there) {
    for (int32_t w = 0; w < ex->n_wires; w++) {
        const int32_t *out = ex->lane->n_out + 2 * w, *in = ex->lane->n_in + 2 * w;
        const int32_t n_out = there ? out[ROWS] : n_returned(ex, in), n_in = there ? in[ROWS] : n_returned(ex, out);
        ex->pieces[(*n)++] = (gr_wire_piece){.peer = ex->peer[w], .send = v->send + (size_t)w * v->send_step, .n_send = (size_t)n_out * v->unit,
                                             .recv = v->recv + (size_t)w * v->recv_step, .n_recv = (size_t)n_in * v->unit};
    }
}

/* Packed rows, in place of the rows themselves. */
static void add_packed_pieces(gr_gpus *ex, int32_t *n) {
    const gr_gpus_lane *l = ex->lane;
    for (int32_t w = 0; w < ex->n_wires; w++)
        ex->pieces[(*n)++] = (gr_wire_piece){.peer = ex->peer[w], .send = l->packed_out + (size_t)w * l->packed_step, .n_send = (size_t)l->bytes_out[w],
                                             .recv = l->packed_in + (size_t)w * l->packed_step, .n_recv = (size_t)l->bytes_in[w]};
}

/* ---- by lines ---- */

/* What a box holds for a wire on a way. */
static gr_cuda_mail mail_of(gr_gpus *ex, int which, bool leaves) {
    gr_gpus_lane *l = ex->lane;
    const bool there = which == GR_LINE_THERE, by_entry = !there && ex->base.opt.exact;
    const way v = there ? rows_there(ex) : rows_back(ex);
    const size_t header = (size_t)ex->top_k * sizeof(int32_t), own = (size_t)l->block * header, capacity = (size_t)l->wires.capacity * header;
    gr_cuda_mail m = {.n_wires = ex->n_wires, .top_k = there ? ex->top_k : 0, .row_bytes = (int32_t)v.unit, .by_entry = by_entry};
    m.rows_most = l->block * (by_entry ? ex->top_k : 1);
    m.bytes_most = packs(ex) ? gr_cuda_packed_bytes(m.rows_most, ex->base.opt.hidden) : m.rows_most * (int64_t)v.unit;
    m.n = !leaves ? there ? l->n_come : NULL : there ? l->wires.n_sent : l->n_come;
    m.n_bytes = leaves && packs(ex) ? l->n_posted_bytes : NULL;
    m.rows = leaves ? v.send : v.recv, m.row_step = (int64_t)(leaves ? v.send_step : v.recv_step);
    if (packs(ex)) m.rows = leaves ? l->packed_out : l->packed_in, m.row_step = (int64_t)l->packed_step;
    m.slot = leaves ? (char *)l->wires.slot : (char *)l->slot + own, m.slot_step = (int64_t)(leaves ? capacity : own);
    m.weight = leaves ? (char *)l->wires.weight : (char *)l->weight + own, m.weight_step = m.slot_step;
    m.count = ex->line_count + (int64_t)(2 * !leaves + which) * ex->n_wires * 3;
    m.state = l->mail_state + (int64_t)(2 * !leaves + which) * ex->n_wires * GR_CUDA_MAIL_STATE;
    for (int32_t w = 0; w < ex->n_wires; w++) m.box[w] = (char *)(leaves ? l->line.out : l->line.in)[which][w].head;
    return m;
}

static grace_status post(gr_gpus *ex, int which) {
    const gr_cuda_mail m = mail_of(ex, which, true);
    return gr_cuda_post(&ex->lane->node, &m, ex->stream);
}

static grace_status fetch(gr_gpus *ex, int which) {
    const gr_cuda_mail m = mail_of(ex, which, false);
    return gr_cuda_fetch(&ex->lane->node, &m, which == GR_LINE_THERE ? GR_CUDA_STAGE_DISPATCH : GR_CUDA_STAGE_COMBINE, ex->lane->route.layer, ex->stream);
}

/* ---- packing ---- */

/* Of [n_wires][2] rows, entries: how many rows return. */
static const int32_t *returned_there(const gr_gpus *ex, const int32_t *n) { return n + (ex->base.opt.exact ? ENTRIES : ROWS); }
static int32_t returned_most(const gr_gpus *ex) { return ex->lane->block * (ex->base.opt.exact ? ex->top_k : 1); }

/* Where only the device knows how many rows it is: at most all of a block. */
static grace_status compress(gr_gpus *ex, const way *v, bool there) {
    const gr_gpus_lane *l = ex->lane;
    gr_cuda_bales b = {.n_wires = ex->n_wires, .hidden = ex->base.opt.hidden, .state = l->bale_state,
                       .n_sent = there ? l->wires.n_sent : ex->line ? returned_there(ex, l->n_come) : NULL};
    for (int32_t w = 0; w < b.n_wires; w++)
        b.wire[w] = (gr_cuda_bale){v->send + (size_t)w * v->send_step, l->packed_out + (size_t)w * l->packed_step,
                                   there ? l->route.n_rows * ex->fan : ex->line ? returned_most(ex) : n_returned(ex, l->n_in + 2 * w)};
    return gr_cuda_compress(&b, ex->line ? l->n_posted_bytes : l->n_packed_bytes, ex->stream);
}

/* What came, once it is there. */
static grace_status expand(gr_gpus *ex, const way *v, bool there) {
    const gr_gpus_lane *l = ex->lane;
    gr_cuda_bales b = {.n_wires = ex->n_wires, .hidden = ex->base.opt.hidden};
    if (ex->line) b.n_sent = there ? l->n_come : returned_there(ex, l->wires.n_sent);
    for (int32_t w = 0; w < b.n_wires; w++)
        b.wire[w] = (gr_cuda_bale){v->recv + (size_t)w * v->recv_step, l->packed_in + (size_t)w * l->packed_step,
                                   ex->line ? there ? l->block : returned_most(ex) : there ? l->n_in[2 * w] : n_returned(ex, l->n_out + 2 * w)};
    return gr_cuda_expand(&b, ex->stream);
}

/* What is packed behind the last row has no choice. */
static grace_status no_choices(gr_gpus *ex) {
    const gr_gpus_lane *l = ex->lane;
    const size_t header = (size_t)ex->top_k * sizeof(int32_t);
    return gr_cuda_status(cudaMemset2DAsync(l->wires.slot, (size_t)l->wires.capacity * header, 0xff, (size_t)l->block * header, (size_t)ex->n_wires,
                                            ex->stream), "slots");
}

/* Headers of all source rows, absent ones without a choice; own rows packed for other nodes. */
grace_status gr_gpus_pack(gr_gpus *ex) {
    grace_status st = GRACE_OK;
    gr_gpus_lane *l = ex->lane;
    const gr_cuda_headers all = {l->slot, l->weight, gr_gpus_sources(ex)};
    const way rows = rows_there(ex);
    if (ex->padded) GR_TRY(no_choices(ex));
    GR_TRY(gr_cuda_pack(&l->wires, gr_gpus_source(ex, 0), l->route.slot, l->route.weight, l->layer.n_rows, ex->top_k, ex->base.opt.hidden, &all, l->n_packed,
                        ex->stream));
    if (packs(ex)) GR_TRY(compress(ex, &rows, true));
    if (ex->line) GR_TRY(post(ex, GR_LINE_THERE));
    else GR_TRY(gr_cuda_status(cudaEventRecord(l->packed, ex->stream), "event"));
    l->layer.slot = l->slot;
    l->layer.weight = l->weight;
    l->layer.n_rows = gr_gpus_sources(ex);
done:
    return st;
}

/* Of received rows the sums, or in exact mode their experts' rows, to where they are sent from. */
static grace_status collect_received(gr_gpus *ex, const way *rows) {
    grace_status st = GRACE_OK;
    const gr_gpus_lane *l = ex->lane;
    for (int32_t i = 0; i < ex->n_wires; i++) {
        const int32_t first = (i + 1) * l->block, n = ex->line ? l->block : l->n_in[2 * i];
        char *out = rows->send + (size_t)i * rows->send_step;
        const gr_cuda_settle s = {.first = first, .n = n, .fan = 1, .out = out};
        if (!ex->base.opt.exact) GR_TRY(gr_cuda_settle_rows(&l->node, &l->layer, &s, ex->stream));
        else GR_TRY(gr_cuda_pack_entries(&l->node, &l->layer, first, n, l->entry, out, ex->stream));
    }
done:
    return st;
}

grace_status gr_gpus_pack_back(gr_gpus *ex) {
    grace_status st = GRACE_OK;
    const way rows = rows_back(ex);
    GR_TRY(collect_received(ex, &rows));
    if (packs(ex)) GR_TRY(compress(ex, &rows, false));
    if (ex->line) GR_TRY(post(ex, GR_LINE_BACK));
    else GR_TRY(gr_cuda_status(cudaEventRecord(ex->lane->packed, ex->stream), "event"));
done:
    return st;
}

/* ---- sizes ---- */

/* The ranks tell each other what is about to travel: told_out in order of wires is told, what came is in told_in. */
static grace_status tell(gr_gpus *ex) {
    const gr_xfer xfer = {ex->told_out, ex->one_each, ex->told_in, ex->one_each, sizeof *ex->told_out};
    return gr_comm_alltoallv(ex->base.world, &xfer);
}

static grace_status check_bytes(const gr_gpus *ex, int32_t w, int64_t rows, int64_t bytes) {
    grace_status st = GRACE_OK;
    const int64_t most = packs(ex) ? gr_cuda_packed_bytes(rows, ex->base.opt.hidden) : 0;
    GR_CHECK(bytes >= 0 && bytes <= most, GRACE_ERR_COMM, "rank %d announces %lld bytes for %lld packed rows, expected at most %lld", ex->peer[w],
             (long long)bytes, (long long)rows, (long long)most);
    ex->lane->bytes_in[w] = bytes;
done:
    return st;
}

/* On the way there: rows, entries and bytes that were packed. */
static grace_status tell_rows(gr_gpus *ex) {
    grace_status st = GRACE_OK;
    gr_gpus_lane *l = ex->lane;
    GR_TRY(gr_wire_wait(ex->wire, l->packed));
    for (int32_t w = 0; w < ex->n_wires; w++) {
        l->bytes_out[w] = packs(ex) ? l->n_packed_bytes[w] : 0;
        ex->told_out[w] = (gr_gpus_told){l->n_out[2 * w] = l->n_packed[2 * w], l->n_out[2 * w + 1] = l->n_packed[2 * w + 1], l->bytes_out[w]};
    }
    GR_TRY(tell(ex));
    for (int32_t w = 0; w < ex->n_wires; w++) {
        const gr_gpus_told *in = &ex->told_in[w];
        GR_CHECK(in->rows >= 0 && in->rows <= l->block && in->entries >= in->rows && in->entries <= in->rows * ex->top_k, GRACE_ERR_COMM,
                 "rank %d announces %d rows with %d entries; there is room for %d with %d each", ex->peer[w], in->rows, in->entries, l->block, ex->top_k);
        l->n_in[2 * w] = in->rows, l->n_in[2 * w + 1] = in->entries;
        GR_TRY(check_bytes(ex, w, in->rows, in->bytes));
    }
done:
    return st;
}

/* On the way back only the bytes are news. */
static grace_status tell_bytes(gr_gpus *ex) {
    grace_status st = GRACE_OK;
    gr_gpus_lane *l = ex->lane;
    GR_TRY(gr_wire_wait(ex->wire, l->packed));
    for (int32_t w = 0; w < ex->n_wires; w++) ex->told_out[w] = (gr_gpus_told){.bytes = l->bytes_out[w] = l->n_packed_bytes[w]};
    GR_TRY(tell(ex));
    for (int32_t w = 0; w < ex->n_wires; w++) GR_TRY(check_bytes(ex, w, n_returned(ex, l->n_out + 2 * w), ex->told_in[w].bytes));
done:
    return st;
}

/* Of a step that is not padded; the others are counted when they are done. */
static void count_wires(gr_gpus *ex, bool there) {
    const gr_gpus_lane *l = ex->lane;
    const int stage = ex->base.ways.two_stage ? A : B;
    for (int32_t w = 0; !ex->padded && w < ex->n_wires; w++) {
        const int32_t *out = l->n_out + 2 * w, *in = l->n_in + 2 * w;
        const int64_t rows = there ? out[ROWS] : n_returned(ex, in), saved = packs(ex) ? rows * (int64_t)gr_gpus_row_bytes(ex) - l->bytes_out[w] : 0;
        const int64_t told = there || packs(ex) ? (int64_t)sizeof(gr_gpus_told) : 0;
        gr_exchange_count(&ex->base, stage, there, ex->peer[w], rows, (there ? rows * gr_gpus_header_bytes(ex) : 0) + told - saved);
        if (there) ex->forwarded[ROWS] += in[ROWS], ex->forwarded[ENTRIES] += in[ENTRIES];
    }
}

/* ---- travelling ---- */

/* The pieces leave once the lane's rows are packed; what is queued later does not wait for them, but for `crossed`. */
static grace_status move(gr_gpus *ex, int32_t n) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_cuda_status(cudaStreamWaitEvent(ex->wire_stream, ex->lane->packed, 0), "event"));
    GR_TRY(gr_wire_move(ex->wire, ex->pieces, n, ex->wire_stream));
    GR_TRY(gr_cuda_status(cudaEventRecord(ex->lane->crossed, ex->wire_stream), "event"));
done:
    return st;
}

/* Rows and headers. */
grace_status gr_gpus_leave(gr_gpus *ex) {
    grace_status st = GRACE_OK;
    const gr_gpus_lane *l = ex->lane;
    const size_t k = (size_t)ex->top_k, capacity = (size_t)l->wires.capacity, own = (size_t)l->block * k;
    const way rows = rows_there(ex);
    const way slots = {(char *)l->wires.slot, capacity * k * sizeof(int32_t), (char *)(l->slot + own), own * sizeof(int32_t), k * sizeof(int32_t)};
    const way weights = {(char *)l->wires.weight, capacity * k * sizeof(float), (char *)(l->weight + own), own * sizeof(float), k * sizeof(float)};
    int32_t n = 0;
    if (ex->line) return GRACE_OK;      /* a thread sends them */
    if (!ex->padded) GR_TRY(tell_rows(ex));
    if (packs(ex)) add_packed_pieces(ex, &n);
    else add_pieces(ex, &n, &rows, true);
    add_pieces(ex, &n, &slots, true);
    add_pieces(ex, &n, &weights, true);
    GR_TRY(move(ex, n));
    count_wires(ex, true);
done:
    return st;
}

/* Behind own rows lies what came. */
grace_status gr_gpus_come(gr_gpus *ex) {
    grace_status st = GRACE_OK;
    const gr_gpus_lane *l = ex->lane;
    const way rows = rows_there(ex);
    GR_TRY(ex->line ? fetch(ex, GR_LINE_THERE) : gr_cuda_status(cudaStreamWaitEvent(ex->stream, l->crossed, 0), "event"));
    if (packs(ex)) GR_TRY(expand(ex, &rows, true));
    if (ex->padded) GR_TRY(gr_cuda_count_wires(&l->wires, l->slot + (int64_t)l->block * ex->top_k, l->block, ex->top_k, ex->wire_count, ex->stream));
done:
    return st;
}

grace_status gr_gpus_leave_back(gr_gpus *ex) {
    grace_status st = GRACE_OK;
    const way rows = rows_back(ex);
    int32_t n = 0;
    if (ex->line) return GRACE_OK;
    if (packs(ex)) {
        GR_TRY(tell_bytes(ex));
        add_packed_pieces(ex, &n);
    } else add_pieces(ex, &n, &rows, false);
    GR_TRY(move(ex, n));
    count_wires(ex, false);
done:
    return st;
}

grace_status gr_gpus_come_back(gr_gpus *ex) {
    grace_status st = GRACE_OK;
    const way rows = rows_back(ex);
    GR_TRY(ex->line ? fetch(ex, GR_LINE_BACK) : gr_cuda_status(cudaStreamWaitEvent(ex->stream, ex->lane->crossed, 0), "event"));
    if (packs(ex)) GR_TRY(expand(ex, &rows, false));
done:
    return st;
}

void gr_gpus_count_lines(gr_gpus *ex, const gr_exchange_step *step) {
    const int stage = ex->base.ways.two_stage ? A : B, n = ex->n_wires, back = ex->base.opt.exact ? ENTRIES : ROWS;
    const gr_gpus_seen *seen = &ex->seen[step->flight];
    const int64_t row = (int64_t)gr_gpus_row_bytes(ex), heads = (int64_t)step->n_layers * seen->n_parts * GR_LINE_FRAME_BYTES;
    for (int32_t w = 0; w < n; w++) {
        int64_t add[4][3];
        for (int i = 0; i < 12; i++) {
            const int64_t at = ((int64_t)(i / 3) * n + w) * 3 + i % 3;
            add[i / 3][i % 3] = gr_gpus_news(&seen->line_count[at], &ex->line_counted[at]);
        }
        const int64_t *there = add[0], *returned = add[1];
        gr_exchange_count(&ex->base, stage, true, ex->peer[w], there[ROWS], there[ROWS] * (gr_gpus_header_bytes(ex) - row) + there[2] + heads);
        gr_exchange_count(&ex->base, stage, false, ex->peer[w], returned[back], returned[2] - returned[back] * row + heads);
        ex->forwarded[ROWS] += add[2][ROWS], ex->forwarded[ENTRIES] += add[2][ENTRIES];
    }
}

/* Its blocks went whole. */
void gr_gpus_count_padded(gr_gpus *ex, const gr_exchange_step *step) {
    const int stage = ex->base.ways.two_stage ? A : B, n = ex->n_wires, back = ex->base.opt.exact ? ENTRIES : ROWS;
    const int64_t row = (int64_t)gr_gpus_row_bytes(ex), blocks = (int64_t)step->n_layers * ex->lanes[0].block;
    const int64_t *total = ex->seen[step->flight].wire_count;
    for (int32_t w = 0; w < n; w++) {
        int64_t out[2], in[2];
        for (int i = 0; i < 2; i++) {
            out[i] = gr_gpus_news(&total[2 * w + i], &ex->wire_counted[2 * w + i]);
            in[i] = gr_gpus_news(&total[2 * (n + w) + i], &ex->wire_counted[2 * (n + w) + i]);
            ex->forwarded[i] += in[i];
        }
        gr_exchange_count(&ex->base, stage, true, ex->peer[w], out[ROWS], blocks * (row + gr_gpus_header_bytes(ex)) - out[ROWS] * row);
        gr_exchange_count(&ex->base, stage, false, ex->peer[w], in[back], blocks * (back == ENTRIES ? ex->top_k : 1) * row - in[back] * row);
    }
}
#endif
