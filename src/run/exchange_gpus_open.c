/* Opening the exchange of ranks on GPUs: areas that the ranks of a node write, tables of where slots are, wires to other nodes. */
#ifdef GRACE_HAVE_CUDA
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "run/exchange_gpus.h"

enum { ROW_BYTES_OF_VALUE = sizeof(uint16_t) };

/* ---- who reaches whom ---- */

static int32_t n_wires_of(const gr_exchange *base) {
    const gr_comm *w = base->world;
    return base->ways.two_stage ? w->n_nodes - 1 : w->n_ranks - w->gpus_per_node;
}

/* hsc: to the rank of the same local index in every other node; else to every rank of other nodes. In order of rank. */
static grace_status list_peers(gr_gpus *ex) {
    grace_status st = GRACE_OK;
    const gr_comm *w = ex->base.world;
    int32_t n = 0;
    ex->wires.n_wires = n_wires_of(&ex->base);
    GR_CHECK(ex->wires.n_wires <= GR_CUDA_WIRES_MAX, GRACE_ERR_LIMIT, "an exchange with %d ranks of other nodes: at most %d", ex->wires.n_wires,
             GR_CUDA_WIRES_MAX);
    GR_CALLOC(ex->peer, ex->wires.n_wires + 1);
    for (int32_t r = 0; r < w->n_ranks; r++)
        if (gr_comm_node(w, r) != gr_comm_node(w, w->rank) && (!ex->base.ways.two_stage || gr_comm_local(w, r) == ex->node.me)) ex->peer[n++] = r;
done:
    return st;
}

static int32_t wire_to(const gr_gpus *ex, int32_t rank) {
    const gr_comm *w = ex->base.world;
    for (int32_t i = 0; i < ex->wires.n_wires; i++)
        if (ex->base.ways.two_stage ? gr_comm_node(w, ex->peer[i]) == gr_comm_node(w, rank) : ex->peer[i] == rank) return i;
    return -1;
}

static void fill_tables(const gr_gpus *ex, int32_t *places, int32_t *wires) {
    const gr_comm *w = ex->base.world;
    const grace_plan *plan = ex->base.opt.plan;
    for (int32_t l = 0; l < plan->n_layers; l++) {
        const grace_plan_layer *pl = &plan->layers[l];
        for (int32_t slot = 0; slot < pl->n_slots; slot++) {
            const int32_t rank = pl->rank_of_slot[slot];
            const bool near = gr_comm_node(w, rank) == gr_comm_node(w, w->rank);
            places[ex->table_of_layer[l] + slot] = near ? gr_comm_local(w, rank) << 16 | (slot - pl->first_slot[rank]) : -1;
            wires[ex->table_of_layer[l] + slot] = near ? -1 : wire_to(ex, rank);
        }
    }
}

static grace_status upload_tables(gr_gpus *ex) {
    grace_status st = GRACE_OK;
    const grace_plan *plan = ex->base.opt.plan;
    int32_t *here = NULL;
    GR_CALLOC(ex->table_of_layer, plan->n_layers);
    for (int32_t l = 0; l < plan->n_layers; l++) {
        ex->table_of_layer[l] = ex->n_slots_all;
        ex->n_slots_all += plan->layers[l].n_slots;
    }
    GR_CALLOC(here, 2 * ex->n_slots_all);
    fill_tables(ex, here, here + ex->n_slots_all);
    GR_TRY(gr_cuda_alloc(&ex->tables, 2 * (size_t)ex->n_slots_all * sizeof *here, "tables of slots"));
    GR_TRY(gr_cuda_status(cudaMemcpy(ex->tables, here, 2 * (size_t)ex->n_slots_all * sizeof *here, cudaMemcpyHostToDevice), "tables of slots"));
done:
    free(here);
    return st;
}

/* ---- memory of this rank ---- */

static grace_status zeroed(gr_gpus *ex, void *out, size_t bytes) { return ex->base.compute->ops->alloc(ex->base.compute, bytes, out); }

static grace_status pinned(void *out, size_t bytes) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_cuda_status(cudaHostAlloc(out, bytes, cudaHostAllocMapped), "pinned memory"));
    memset(*(void **)out, 0, bytes);
done:
    return st;
}

static grace_status alloc_copies(gr_gpus *ex) {
    grace_status st = GRACE_OK;
    const gr_exchange_options *o = &ex->base.opt;
    const size_t n = (size_t)o->n_rows_max * (size_t)ex->fan;
    int32_t *here = NULL;
    if (ex->fan == 1) goto done;
    GR_CALLOC(here, n);
    for (size_t i = 0; i < n; i++) here[i] = (int32_t)i / ex->fan;
    GR_TRY(zeroed(ex, &ex->rows, (size_t)o->n_rows_max * (size_t)o->hidden * ROW_BYTES_OF_VALUE));
    GR_TRY(gr_cuda_alloc(&ex->token_of_source, n * sizeof *here, "copies of rows"));
    GR_TRY(gr_cuda_status(cudaMemcpy(ex->token_of_source, here, n * sizeof *here, cudaMemcpyHostToDevice), "copies of rows"));
done:
    free(here);
    return st;
}

static grace_status alloc_wires(gr_gpus *ex) {
    grace_status st = GRACE_OK;
    const gr_exchange_options *o = &ex->base.opt;
    gr_cuda_wires *w = &ex->wires;
    const size_t n = (size_t)w->n_wires, sources = (size_t)o->n_rows_max * (size_t)ex->fan, all = sources * (n + 1), k = (size_t)ex->top_k;
    const size_t row = (size_t)o->hidden * ROW_BYTES_OF_VALUE, back = sources * (o->exact ? k : 1);
    w->capacity = (int32_t)sources;
    if (n == 0) goto done;
    GR_TRY(zeroed(ex, &w->n_sent, n * 2 * sizeof(int32_t)));
    GR_TRY(zeroed(ex, &w->position, n * sources * sizeof(int32_t)));
    GR_TRY(zeroed(ex, &w->entry, n * (sources + 1) * sizeof(int32_t)));
    GR_TRY(zeroed(ex, &w->rows, n * back * row));       /* what is returned over a wire lies there too */
    GR_TRY(zeroed(ex, &w->slot, n * sources * k * sizeof(int32_t)));
    GR_TRY(zeroed(ex, &w->weight, n * sources * k * sizeof(float)));
    GR_TRY(zeroed(ex, &w->home, n * back * row));
    GR_TRY(zeroed(ex, &ex->slot, all * k * sizeof(int32_t)));
    GR_TRY(zeroed(ex, &ex->weight, all * k * sizeof(float)));
    GR_TRY(zeroed(ex, &ex->entry, (sources + 1) * sizeof(int32_t)));
    GR_TRY(zeroed(ex, &ex->wire_count, n * 4 * sizeof(int64_t)));
    GR_TRY(pinned(&ex->wire_count_seen, n * 4 * sizeof(int64_t)));
    GR_TRY(pinned(&ex->n_packed, n * 2 * sizeof(int32_t)));
    GR_CALLOC(ex->wire_counted, n * 4);
    GR_CALLOC(ex->n_out, n * 2);
    GR_CALLOC(ex->n_in, n * 2);
    GR_CALLOC(ex->told_out, ex->base.world->n_ranks);
    GR_CALLOC(ex->told_in, ex->base.world->n_ranks);
    GR_CALLOC(ex->bytes_out, n);
    GR_CALLOC(ex->bytes_in, n);
    GR_TRY(pinned(&ex->n_packed_bytes, n * sizeof(int64_t)));
    if (o->compress && o->hidden <= GR_CUDA_PACKED_WIDTH_MAX) {
        ex->packed_step = ((size_t)gr_cuda_packed_bytes((int64_t)back, o->hidden) + 255) / 256 * 256;
        GR_TRY(zeroed(ex, &ex->packed_out, n * ex->packed_step));
        GR_TRY(zeroed(ex, &ex->packed_in, n * ex->packed_step));
    }
    GR_CALLOC(ex->one_each, ex->base.world->n_ranks);
    GR_CALLOC(ex->pieces, 3 * n);
    for (size_t i = 0; i < n; i++) ex->one_each[ex->peer[i]] = 1;
    GR_TRY(gr_cuda_status(cudaStreamCreateWithFlags(&ex->wire_stream, cudaStreamNonBlocking), "stream"));
    GR_TRY(gr_cuda_status(cudaEventCreateWithFlags(&ex->packed, cudaEventDisableTiming), "event"));
    GR_TRY(gr_cuda_status(cudaEventCreateWithFlags(&ex->crossed, cudaEventDisableTiming), "event"));
done:
    return st;
}

/* Sized for the worst routing: every choice of every rank computed here. */
static grace_status alloc_here(gr_gpus *ex, void *handle) {
    grace_status st = GRACE_OK;
    const gr_exchange_options *o = &ex->base.opt;
    const gr_comm *w = ex->base.world;
    const size_t pairs = (size_t)o->n_rows_max * (size_t)o->top_k * (size_t)w->n_ranks;
    const int64_t sources = (int64_t)o->n_rows_max * ex->fan * (1 + ex->wires.n_wires);
    void *area = NULL;
    GR_CHECK(w->gpus_per_node <= GR_CUDA_NODE_MAX, GRACE_ERR_LIMIT, "%d GPUs in a node: at most %d", w->gpus_per_node, GR_CUDA_NODE_MAX);
    GR_CHECK(pairs <= INT32_MAX / 2 && sources * w->gpus_per_node * ex->top_k <= INT32_MAX / 2, GRACE_ERR_LIMIT,
             "%d rows a step (--batch-tokens), top_k %d and %d ranks make more pairs than %d", o->n_rows_max, o->top_k, w->n_ranks, INT32_MAX / 2);
    ex->node.sizes = (gr_cuda_area_sizes){.n_ranks = w->gpus_per_node, .n_rows = (int32_t)sources, .top_k = ex->top_k, .hidden = o->hidden, .exact = o->exact};
    ex->at = gr_cuda_area_of(&ex->node.sizes);
    GR_TRY(gr_cuda_share(ex->at.bytes, &area, handle));
    ex->node.area[ex->node.me] = area;
    ex->node.deadline_ns = (uint64_t)(1e9 * w->deadline_s);
    GR_TRY(zeroed(ex, &ex->node.epoch, GR_CUDA_EPOCH_BYTES));
    GR_TRY(zeroed(ex, &ex->node.count, 4 * GR_CUDA_NODE_MAX * sizeof(int64_t)));
    GR_TRY(pinned(&ex->count_seen, 4 * GR_CUDA_NODE_MAX * sizeof(int64_t)));
    GR_CALLOC(ex->counted, 4 * GR_CUDA_NODE_MAX);
    GR_TRY(pinned(&ex->watch, sizeof *ex->watch));
    GR_TRY(gr_cuda_status(cudaHostGetDevicePointer((void **)&ex->node.watch, ex->watch, 0), "pinned memory"));
    GR_TRY(zeroed(ex, &ex->load, (size_t)o->plan->n_layers * sizeof *ex->load));
    GR_TRY(pinned(&ex->load_seen, (size_t)o->plan->n_layers * sizeof *ex->load_seen));
    GR_TRY(zeroed(ex, &ex->results, pairs * (size_t)o->hidden * ROW_BYTES_OF_VALUE));
    GR_TRY(alloc_copies(ex));
    GR_TRY(alloc_wires(ex));
    GR_TRY(upload_tables(ex));
    GR_TRY(gr_cuda_status(cudaStreamSynchronize(ex->stream), "memory of the exchange"));
done:
    return st;
}

/* ---- together ---- */

/* A rank of a node of several waits for the others in kernels: on a GPU that it shares they could wait for ever. */
static grace_status check_sharing(const gr_gpus *ex) {
    grace_status st = GRACE_OK;
    const gr_comm *w = ex->base.world;
    struct cudaDeviceProp mine;
    char all[GRACE_RANKS_MAX][sizeof mine.uuid];
    GR_TRY(gr_cuda_status(cudaGetDeviceProperties(&mine, gr_cuda_of(ex->base.compute)->device), "the GPU"));
    GR_TRY(gr_comm_allgather(ex->base.world, &mine.uuid, sizeof mine.uuid, all));
    for (int32_t r = 0; r < w->n_ranks && w->gpus_per_node > 1; r++)
        for (int32_t s = 0; s < r; s++)
            GR_CHECK(memcmp(all[r], all[s], sizeof *all) != 0, GRACE_ERR_UNSUPPORTED,
                     "ranks %d and %d share a GPU: expected one each, where nodes have several ranks",
                     s, r);
done:
    return st;
}

static grace_status attach_areas(gr_gpus *ex, const char *handles) {
    grace_status st = GRACE_OK;
    for (int32_t r = 0; r < ex->local->n_ranks; r++) {
        void *area = NULL;
        if (r == ex->node.me) continue;
        GR_TRY(gr_cuda_attach(handles + (size_t)r * GR_CUDA_HANDLE_BYTES, &area));
        ex->node.area[r] = area;
    }
    GR_TRY(gr_cuda_node_check(&ex->node));
done:
    if (st) gr_fail_in(st, "the memory of a GPU of this node");
    return st;
}

grace_status gr_gpus_open(gr_exchange *base) {
    grace_status st = GRACE_OK;
    gr_gpus *ex = gr_gpus_of(base);
    char mine[GR_CUDA_HANDLE_BYTES] = {0}, all[GR_CUDA_NODE_MAX * GR_CUDA_HANDLE_BYTES];
    const bool copies = base->opt.kind == GRACE_EXCHANGE_PER_EXPERT;
    ex->stream = gr_cuda_of(base->compute)->stream;
    ex->fan = copies ? base->opt.top_k : 1;
    ex->top_k = copies ? 1 : base->opt.top_k;
    ex->node.me = gr_comm_local(base->world, base->world->rank);
    GR_TRY(check_sharing(ex));
    GR_TRY(list_peers(ex));
    GR_TRY(grace_comm_agree(base->world, alloc_here(ex, mine)));
    GR_TRY(gr_comm_split(base->world, gr_comm_node(base->world, base->world->rank), &ex->local));
    GR_TRY(gr_comm_allgather(ex->local, mine, sizeof mine, all));
    GR_TRY(grace_comm_agree(base->world, attach_areas(ex, all)));
    if (ex->wires.n_wires > 0) GR_TRY(gr_wire_open(base->world, base->opt.wire ? base->opt.wire : "auto", gr_cuda_of(base->compute)->device,
                                                   base->world->deadline_s, &ex->wire));
    if (base->world->rank == 0) gr_log(GR_INFO, "exchange", "%lld MiB a GPU for rows of others%s%s", (long long)(ex->at.bytes >> 20),
                                       ex->wire ? ", between nodes by " : "", ex->wire ? gr_wire_kind(ex->wire) : "");
done:
    return st;
}

void gr_gpus_close(gr_exchange *base) {
    gr_gpus *ex = gr_gpus_of(base);
    gr_cuda_wires *w = &ex->wires;
    void *const there[] = {ex->tables, ex->rows, ex->token_of_source, ex->results, ex->load, ex->node.epoch, ex->node.count, w->n_sent, w->position, w->entry,
                           w->rows, w->slot, w->weight, w->home, ex->slot, ex->weight, ex->entry, ex->wire_count, ex->packed_out, ex->packed_in};
    void *const locked[] = {ex->watch, ex->load_seen, ex->count_seen, ex->n_packed, ex->wire_count_seen, ex->n_packed_bytes};
    void *const here[] = {ex->table_of_layer, ex->counted, ex->peer, ex->n_out, ex->n_in, ex->wire_counted, ex->told_out, ex->told_in, ex->bytes_out,
                          ex->bytes_in,
                          ex->one_each, ex->pieces};
    if (ex->watch) ex->watch->stop = 1;     /* no wait goes on */
    gr_cuda_drop_replays(base->compute);    /* a communicator does not end while a graph has its sends */
    gr_wire_close(ex->wire);
    if (ex->stream) cudaStreamSynchronize(ex->stream);
    for (int32_t r = 0; r < GR_CUDA_NODE_MAX; r++)
        if (ex->node.area[r] && r != ex->node.me) gr_cuda_detach(ex->node.area[r]);
    gr_cuda_unshare(ex->node.area[ex->node.me]);
    for (size_t i = 0; i < sizeof there / sizeof *there; i++) cudaFree(there[i]);
    for (size_t i = 0; i < sizeof locked / sizeof *locked; i++) cudaFreeHost(locked[i]);
    for (size_t i = 0; i < sizeof here / sizeof *here; i++) free(here[i]);
    if (ex->packed) cudaEventDestroy(ex->packed);
    if (ex->crossed) cudaEventDestroy(ex->crossed);
    if (ex->wire_stream) cudaStreamDestroy(ex->wire_stream);
    grace_comm_close(ex->local);
}
#endif
