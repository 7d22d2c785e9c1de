/* Opening the exchange of ranks on GPUs: areas that the ranks of a node write, tables of where slots are, wires to other nodes. */
#ifdef GRACE_HAVE_CUDA
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "run/exchange_gpus.h"

enum { MEETING_S = 2 };     /* for ranks of a node that close: they have nothing left to do */

/* ---- who reaches whom ---- */

static int32_t n_wires_of(const gr_exchange *base) {
    const gr_comm *w = base->world;
    return base->ways.two_stage ? w->n_nodes - 1 : w->n_ranks - w->gpus_per_node;
}

/* Of a step's rows a lane takes all, or those of a part. */
static int32_t lane_rows(const gr_gpus *ex, const gr_gpus_lane *l) {
    const int32_t n = ex->base.opt.n_rows_max;
    return l == ex->lanes ? n : gr_part_rows_most(n);
}

/* How many of everything, from the options alone. Areas are sized for the worst routing; a rank's lanes lie one behind the other in one memory. */
static grace_status set_shape(gr_gpus *ex) {
    grace_status st = GRACE_OK;
    const gr_exchange_options *o = &ex->base.opt;
    const gr_comm *w = ex->base.world;
    const bool copies = o->kind == GRACE_EXCHANGE_PER_EXPERT;
    const int64_t pairs = (int64_t)o->n_rows_max * o->top_k * w->n_ranks;
    ex->fan = copies ? o->top_k : 1;
    ex->top_k = copies ? 1 : o->top_k;
    ex->n_wires = n_wires_of(&ex->base);
    ex->n_lanes = w->n_ranks > 1 && o->n_rows_max >= gr_gpus_turns_from(ex) ? GR_PARTS_MAX : 1;
    ex->lane = &ex->lanes[0];
    for (int32_t l = 0; l < o->plan->n_layers; l++) ex->n_slots_all += o->plan->layers[l].n_slots;
    GR_CHECK(ex->n_wires <= GR_CUDA_WIRES_MAX, GRACE_ERR_LIMIT, "an exchange with %d ranks of other nodes: at most %d", ex->n_wires, GR_CUDA_WIRES_MAX);
    GR_CHECK(w->gpus_per_node <= GR_CUDA_NODE_MAX, GRACE_ERR_LIMIT, "%d GPUs in a node: at most %d", w->gpus_per_node, GR_CUDA_NODE_MAX);
    for (gr_gpus_lane *l = ex->lanes; l < ex->lanes + ex->n_lanes; l++) {
        const int64_t sources = (int64_t)lane_rows(ex, l) * ex->fan * (1 + ex->n_wires), met = sources * w->gpus_per_node * ex->top_k;
        GR_CHECK(met <= INT32_MAX / 2 && pairs <= INT32_MAX / 2, GRACE_ERR_LIMIT,
                 "%d rows a step (--batch-tokens), top_k %d and %d ranks make more pairs than %d", o->n_rows_max, o->top_k, w->n_ranks, INT32_MAX / 2);
        l->node.me = gr_comm_local(w, w->rank);
        l->node.sizes = (gr_cuda_area_sizes){.n_ranks = w->gpus_per_node, .n_rows = (int32_t)sources, .top_k = ex->top_k, .hidden = o->hidden,
                                             .exact = o->exact};
        l->at = gr_cuda_area_of(&l->node.sizes);
        ex->area_bytes += l->at.bytes;
    }
done:
    return st;
}

/* hsc: to the rank of the same local index in every other node; else to every rank of other nodes. In order of rank. */
static grace_status list_peers(gr_gpus *ex) {
    grace_status st = GRACE_OK;
    const gr_comm *w = ex->base.world;
    int32_t n = 0;
    GR_CALLOC(ex->peer, ex->n_wires + 1);
    for (int32_t r = 0; r < w->n_ranks; r++)
        if (gr_comm_node(w, r) != gr_comm_node(w, w->rank) && (!ex->base.ways.two_stage || gr_comm_local(w, r) == gr_comm_local(w, w->rank)))
            ex->peer[n++] = r;
done:
    return st;
}

static int32_t wire_to(const gr_gpus *ex, int32_t rank) {
    const gr_comm *w = ex->base.world;
    for (int32_t i = 0; i < ex->n_wires; i++)
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
    const size_t n = 2 * (size_t)ex->n_slots_all;
    int32_t *here = NULL;
    GR_CALLOC(ex->table_of_layer, plan->n_layers);
    for (int32_t l = 1; l < plan->n_layers; l++) ex->table_of_layer[l] = ex->table_of_layer[l - 1] + plan->layers[l - 1].n_slots;
    GR_CALLOC(here, n);
    fill_tables(ex, here, here + ex->n_slots_all);
    GR_TRY(gr_cuda_status(cudaMemcpy(ex->tables, here, n * sizeof *here, cudaMemcpyHostToDevice), "tables of slots"));
done:
    free(here);
    return st;
}

/* ---- device memory: laid out once to count its bytes, and once more in what was allocated ---- */

static void take(gr_gpus *ex, void *out, size_t bytes) {
    char *at = ex->memory ? ex->memory + ex->memory_bytes : NULL;
    memcpy(out, &at, sizeof at);
    ex->memory_bytes += (bytes + 255) / 256 * 256;
}

/* What a lane sends and receives over wires, of its source rows `sources` own ones. */
static void lay_out_wires(gr_gpus *ex, gr_gpus_lane *l) {
    const gr_exchange_options *o = &ex->base.opt;
    gr_cuda_wires *w = &l->wires;
    const size_t sources = (size_t)lane_rows(ex, l) * (size_t)ex->fan, n = (size_t)ex->n_wires, all = sources * (n + 1), k = (size_t)ex->top_k;
    const size_t row = gr_gpus_row_bytes(ex), back = sources * (o->exact ? k : 1);
    w->n_wires = ex->n_wires;
    w->capacity = (int32_t)sources;
    if (n == 0) return;
    take(ex, &w->n_sent, n * 2 * sizeof(int32_t));
    take(ex, &w->position, n * sources * sizeof(int32_t));
    take(ex, &w->entry, n * (sources + 1) * sizeof(int32_t));
    take(ex, &w->rows, n * back * row);         /* what is returned over a wire lies there too */
    take(ex, &w->slot, n * sources * k * sizeof(int32_t));
    take(ex, &w->weight, n * sources * k * sizeof(float));
    take(ex, &w->home, n * back * row);
    take(ex, &l->slot, all * k * sizeof(int32_t));
    take(ex, &l->weight, all * k * sizeof(float));
    take(ex, &l->entry, (sources + 1) * sizeof(int32_t));
    take(ex, &l->n_come, n * 2 * sizeof(int32_t));
    take(ex, &l->n_posted_bytes, n * sizeof(int64_t));
    take(ex, &l->mail_state, n * 4 * GR_CUDA_MAIL_STATE * sizeof(uint32_t));
    if (!o->compress || o->hidden > GR_CUDA_PACKED_WIDTH_MAX) return;
    l->packed_step = ((size_t)gr_cuda_packed_bytes((int64_t)back, o->hidden) + 255) / 256 * 256;
    take(ex, &l->packed_out, n * l->packed_step);
    take(ex, &l->packed_in, n * l->packed_step);
    take(ex, &l->bale_state, n * GR_CUDA_BALE_STATE * sizeof *l->bale_state);
}

/* Pairs and results of a lane's part, where both parts have theirs at once; else the backend's pairs, and room for one part's results at a time. */
static void lay_out_pairs(gr_gpus *ex, gr_gpus_lane *l) {
    gr_cuda_pairs *p = &l->own_pairs.pairs;
    const size_t pairs = (size_t)lane_rows(ex, l) * (size_t)ex->base.opt.top_k * (size_t)ex->base.world->n_ranks;
    if (l > ex->lanes && ex->n_wires > 0) {
        l->results = ex->lanes[0].results;
        return;
    }
    take(ex, &l->results, pairs * gr_gpus_row_bytes(ex));
    if (l == ex->lanes) return;
    take(ex, &p->first_pair, (GR_CUDA_SLOTS_MAX + 1) * sizeof *p->first_pair);
    take(ex, &p->row_of_pair, pairs * sizeof *p->row_of_pair);
    take(ex, &p->pair_of_choice, pairs * sizeof *p->pair_of_choice);
    take(ex, &p->scratch, (size_t)gr_cuda_group_scratch((int64_t)pairs, GR_CUDA_SLOTS_MAX) * sizeof *p->scratch);
}

static void lay_out(gr_gpus *ex) {
    const gr_exchange_options *o = &ex->base.opt;
    ex->memory_bytes = 0;
    take(ex, &ex->tables, 2 * (size_t)ex->n_slots_all * sizeof *ex->tables);
    take(ex, &ex->count, 4 * GR_CUDA_NODE_MAX * sizeof *ex->count);
    take(ex, &ex->load, GR_PARTS_MAX * (size_t)o->plan->n_layers * sizeof *ex->load);
    if (ex->fan > 1) take(ex, &ex->token_of_source, (size_t)o->n_rows_max * (size_t)ex->fan * sizeof *ex->token_of_source);
    if (ex->n_wires > 0) take(ex, &ex->wire_count, (size_t)ex->n_wires * 4 * sizeof *ex->wire_count);
    if (ex->n_wires > 0) take(ex, &ex->line_count, (size_t)ex->n_wires * 12 * sizeof *ex->line_count);
    for (gr_gpus_lane *l = ex->lanes; l < ex->lanes + ex->n_lanes; l++) {
        take(ex, &l->node.epoch, GR_CUDA_EPOCH_BYTES);
        lay_out_pairs(ex, l);
        if (ex->fan > 1) take(ex, &l->rows, (size_t)lane_rows(ex, l) * gr_gpus_row_bytes(ex));
        lay_out_wires(ex, l);
    }
}

grace_status gr_gpus_memory(gr_comm *world, const gr_exchange_options *opt, int64_t *bytes) {
    gr_gpus ex = {.base = {.opt = *opt, .world = world, .ways = {.two_stage = gr_ways_has_two_stages(grace_comm_cluster(world), opt->kind)}}};
    const grace_status st = set_shape(&ex);
    lay_out(&ex);
    *bytes = ex.area_bytes + (int64_t)ex.memory_bytes;
    return st;
}

/* A rank's memory, as it is addressed here, cut into the areas of the lanes. */
static void set_areas(gr_gpus *ex, int32_t local_rank, char *area) {
    for (int32_t i = 0; i < ex->n_lanes; area += ex->lanes[i++].at.bytes) ex->lanes[i].node.area[local_rank] = area;
}

static grace_status alloc_there(gr_gpus *ex, void *handle) {
    grace_status st = GRACE_OK;
    void *area = NULL;
    lay_out(ex);
    const long long mib = (ex->area_bytes + (long long)ex->memory_bytes) >> 20;
    GR_TRY(gr_cuda_share(ex->area_bytes, &area, handle));
    set_areas(ex, ex->lanes[0].node.me, area);
    GR_TRY(ex->base.compute->ops->alloc(ex->base.compute, ex->memory_bytes, (void **)&ex->memory));
    GR_TRY(gr_cuda_status(cudaStreamSynchronize(ex->stream), "clearing memory"));       /* before tables are copied there, which no stream waits for */
    lay_out(ex);
done:
    if (st) gr_fail_in(st, "rows between GPUs, %lld MiB for up to %d rows a step (--batch-tokens)%s", mib, ex->base.opt.n_rows_max,
                       ex->n_lanes > 1 ? " and for halves of them in turns (--turns-from 0: none)" : "");
    return st;
}

/* ---- memory and everything else of this rank ---- */

grace_status gr_gpus_pinned(void *out, size_t bytes) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_cuda_status(cudaHostAlloc(out, bytes, cudaHostAllocMapped), "pinned memory"));
    memset(*(void **)out, 0, bytes);
done:
    return st;
}

static grace_status upload_copies(gr_gpus *ex) {
    grace_status st = GRACE_OK;
    const size_t n = (size_t)ex->base.opt.n_rows_max * (size_t)ex->fan;
    int32_t *here = NULL;
    if (ex->fan == 1) goto done;
    GR_CALLOC(here, n);
    for (size_t i = 0; i < n; i++) here[i] = (int32_t)i / ex->fan;
    GR_TRY(gr_cuda_status(cudaMemcpy(ex->token_of_source, here, n * sizeof *here, cudaMemcpyHostToDevice), "copies of rows"));
done:
    free(here);
    return st;
}

/* Kernels that move rows go before others that wait for a processor. */
static grace_status open_stream(cudaStream_t *out) {
    grace_status st = GRACE_OK;
    int least, first;
    GR_TRY(gr_cuda_status(cudaDeviceGetStreamPriorityRange(&least, &first), "stream"));
    GR_TRY(gr_cuda_status(cudaStreamCreateWithPriority(out, cudaStreamNonBlocking, first), "stream"));
done:
    return st;
}

static grace_status open_lane(gr_gpus *ex, gr_gpus_lane *l) {
    grace_status st = GRACE_OK;
    const size_t n = (size_t)ex->n_wires;
    l->node.deadline_ns = (uint64_t)(1e9 * ex->base.world->deadline_s);
    l->node.count = ex->count;
    GR_TRY(gr_cuda_status(cudaHostGetDevicePointer((void **)&l->node.watch, ex->watch, 0), "pinned memory"));
    GR_TRY(gr_cuda_status(cudaEventCreateWithFlags(&l->packed, cudaEventDisableTiming), "event"));
    GR_TRY(gr_cuda_status(cudaEventCreateWithFlags(&l->crossed, cudaEventDisableTiming), "event"));
    if (n == 0) return ex->n_lanes > 1 ? open_stream(&l->own_stream) : GRACE_OK;
    GR_TRY(gr_gpus_pinned(&l->n_packed, n * 2 * sizeof(int32_t)));
    GR_TRY(gr_gpus_pinned(&l->n_packed_bytes, n * sizeof(int64_t)));
    GR_CALLOC(l->n_out, n * 2);
    GR_CALLOC(l->n_in, n * 2);
    GR_CALLOC(l->bytes_out, n);
    GR_CALLOC(l->bytes_in, n);
done:
    return st;
}

static grace_status open_wires(gr_gpus *ex) {
    grace_status st = GRACE_OK;
    const size_t n = (size_t)ex->n_wires;
    if (n == 0) goto done;
    GR_CALLOC(ex->wire_counted, n * 4);
    GR_CALLOC(ex->line_counted, n * 12);
    GR_CALLOC(ex->told_out, ex->base.world->n_ranks);
    GR_CALLOC(ex->told_in, ex->base.world->n_ranks);
    GR_CALLOC(ex->one_each, ex->base.world->n_ranks);
    GR_CALLOC(ex->pieces, 3 * n);
    for (size_t i = 0; i < n; i++) ex->one_each[ex->peer[i]] = 1;
    GR_TRY(open_stream(&ex->wire_stream));
done:
    return st;
}

static grace_status open_seen(gr_gpus *ex, gr_gpus_seen *seen) {
    grace_status st = GRACE_OK;
    const size_t n = (size_t)ex->n_wires;
    GR_TRY(gr_gpus_pinned(&seen->load, GR_PARTS_MAX * (size_t)ex->base.opt.plan->n_layers * sizeof *seen->load));
    GR_TRY(gr_gpus_pinned(&seen->count, 4 * GR_CUDA_NODE_MAX * sizeof *seen->count));
    if (n) GR_TRY(gr_gpus_pinned(&seen->line_count, 12 * n * sizeof *seen->line_count));
    if (n) GR_TRY(gr_gpus_pinned(&seen->wire_count, 4 * n * sizeof *seen->wire_count));
done:
    return st;
}

static void close_seen(gr_gpus_seen *seen) {
    void *const locked[] = {seen->load, seen->count, seen->line_count, seen->wire_count};
    for (size_t i = 0; i < sizeof locked / sizeof *locked; i++) cudaFreeHost(locked[i]);
}

grace_status gr_gpus_open(gr_exchange *base) {
    grace_status st = GRACE_OK;
    gr_gpus *ex = gr_gpus_of(base);
    const gr_comm *w = base->world;
    struct cudaDeviceProp gpu;
    ex->stream = gr_cuda_of(base->compute)->stream;
    GR_TRY(gr_cuda_status(cudaGetDeviceProperties(&gpu, gr_cuda_of(base->compute)->device), "the GPU"));
    memcpy(ex->card.gpu, &gpu.uuid, sizeof ex->card.gpu);
    GR_TRY(set_shape(ex));
    GR_TRY(list_peers(ex));
    if (w->gpus_per_node > 1 && gr_comm_local(w, w->rank) == 0) GR_TRY(gr_meeting_create(ex->card.meeting, &ex->meeting));
    GR_TRY(alloc_there(ex, ex->card.handle));
    GR_TRY(gr_gpus_pinned(&ex->watch, sizeof *ex->watch));
    ex->watch->stage = -1;
    GR_CALLOC(ex->counted, 4 * GR_CUDA_NODE_MAX);
    for (int32_t i = 0; i < GR_FLIGHTS; i++) GR_TRY(open_seen(ex, &ex->seen[i]));
    for (int32_t i = 0; i < ex->n_lanes; i++) GR_TRY(open_lane(ex, &ex->lanes[i]));
    GR_TRY(open_wires(ex));
    GR_TRY(upload_copies(ex));
    GR_TRY(upload_tables(ex));
done:
    return st;
}

/* ---- together ---- */

/* A rank of a node of several waits for the others in kernels: on a GPU that it shares they could wait for ever. */
static grace_status check_sharing(gr_gpus *ex, const gr_gpus_card *all) {
    grace_status st = GRACE_OK;
    const gr_comm *w = ex->base.world;
    for (int32_t r = 0; r < w->n_ranks; r++)
        for (int32_t s = 0; s < r; s++) {
            const bool share = memcmp(all[r].gpu, all[s].gpu, sizeof all[r].gpu) == 0;
            GR_CHECK(!share || w->gpus_per_node == 1, GRACE_ERR_UNSUPPORTED, "ranks %d and %d share a GPU: expected one each, where nodes have several ranks",
                     s, r);
            ex->shares = ex->shares || share;
        }
done:
    return st;
}

static grace_status attach_areas(gr_gpus *ex, const gr_gpus_card *all) {
    grace_status st = GRACE_OK;
    const gr_comm *w = ex->base.world;
    const int32_t first = w->rank - gr_comm_local(w, w->rank);
    if (w->rank != first) GR_TRY(gr_meeting_attach(all[first].meeting, &ex->meeting));
    for (int32_t r = 0; r < w->n_ranks; r++) {
        void *area = NULL;
        if (r == w->rank || gr_comm_node(w, r) != gr_comm_node(w, w->rank)) continue;
        GR_TRY(gr_cuda_attach(all[r].handle, &area));
        set_areas(ex, gr_comm_local(w, r), area);
    }
    for (int32_t i = 0; i < ex->n_lanes; i++) GR_TRY(gr_cuda_node_check(&ex->lanes[i].node));
done:
    if (st) gr_fail_in(st, "the memory of a GPU of this node");
    return st;
}

grace_status gr_gpus_join(gr_exchange *base) {
    grace_status st = GRACE_OK;
    gr_gpus *ex = gr_gpus_of(base);
    gr_comm *w = base->world;
    gr_gpus_card all[GRACE_RANKS_MAX];
    GR_TRY(gr_comm_allgather(w, &ex->card, sizeof ex->card, all));
    GR_TRY(check_sharing(ex, all));
    GR_TRY(grace_comm_agree(w, attach_areas(ex, all)));
    gr_meeting_forget(ex->meeting);
    if (ex->n_wires > 0) GR_TRY(gr_gpus_between_open(ex));
    base->in_turn = ex->wire != NULL;     /* its counts are those of one step */
    ex->joined = true;
    if (w->rank == 0) gr_log(GR_INFO, "exchange", "%lld MiB a GPU for rows of others%s%s", (long long)(ex->area_bytes >> 20),
                             ex->n_wires ? ", between nodes by " : "", ex->line ? "sockets" : ex->wire ? gr_wire_kind(ex->wire) : "");
done:
    return st;
}

static void close_lane(gr_gpus_lane *l) {
    void *const locked[] = {l->n_packed, l->n_packed_bytes, l->boxes};
    void *const here[] = {l->n_out, l->n_in, l->bytes_out, l->bytes_in, l->line.out[0], l->line.out[1], l->line.in[0], l->line.in[1]};
    for (size_t i = 0; i < sizeof locked / sizeof *locked; i++) cudaFreeHost(locked[i]);
    for (size_t i = 0; i < sizeof here / sizeof *here; i++) free(here[i]);
    if (l->packed) cudaEventDestroy(l->packed);
    if (l->crossed) cudaEventDestroy(l->crossed);
    if (l->own_stream) cudaStreamDestroy(l->own_stream);
}

/* The first lane's area is where a rank's memory begins. Memory that another process still has open must not be freed: where all went well, the ranks of a
 * node let go of each other's, meet, and free their own. */
static void close_areas(const gr_gpus *ex, bool is_well) {
    const gr_cuda_node *node = &ex->lanes[0].node;
    for (int32_t r = 0; r < GR_CUDA_NODE_MAX; r++)
        if (node->area[r] && r != node->me) gr_cuda_detach(node->area[r]);
    if (is_well && ex->meeting && !gr_meeting_wait(ex->meeting, ex->base.world->gpus_per_node, MEETING_S))
        gr_log(GR_INFO, "exchange", "rank %d closes before the others of its node", ex->base.world->rank);
    gr_cuda_unshare(node->area[node->me]);
}

static bool is_busy(const gr_gpus *ex) { return ex->in_step || ex->seen[0].under_way || ex->seen[1].under_way; }

void gr_gpus_close(gr_exchange *base) {
    gr_gpus *ex = gr_gpus_of(base);
    void *const here[] = {ex->table_of_layer, ex->counted, ex->peer, ex->wire_counted, ex->told_out, ex->told_in, ex->one_each, ex->pieces,
                          ex->line_counted};
    const bool is_well = ex->joined && !is_busy(ex) && !ex->watch->stop;
    if (ex->watch) ex->watch->stop = 1;     /* no wait goes on */
    if (!is_well) gr_wire_abort(ex->wire);  /* a graph under way may wait for a peer */
    gr_cuda_drop_replays(base->compute);    /* a communicator does not end while a graph has its sends */
    gr_wire_close(ex->wire);
    if (ex->stream) cudaStreamSynchronize(ex->stream);
    for (int32_t i = 0; i < GR_PARTS_MAX; i++)
        if (ex->lanes[i].own_stream) cudaStreamSynchronize(ex->lanes[i].own_stream);
    gr_line_close(ex->line, is_well);       /* the last message is posted */
    close_areas(ex, is_well);
    gr_meeting_close(ex->meeting);
    for (int32_t i = 0; i < GR_PARTS_MAX; i++) close_lane(&ex->lanes[i]);
    cudaFree(ex->memory);
    cudaFreeHost(ex->watch);
    for (int32_t i = 0; i < GR_FLIGHTS; i++) close_seen(&ex->seen[i]);
    for (size_t i = 0; i < sizeof here / sizeof *here; i++) free(here[i]);
    if (ex->wire_stream) cudaStreamDestroy(ex->wire_stream);
}
#endif
