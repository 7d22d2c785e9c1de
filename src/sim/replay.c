#include "sim/replay.h"

#include <string.h>

#include "base/memory.h"
#include "plan/phases.h"
#include "run/router.h"

enum { A = GRACE_STAGE_CROSS, B = GRACE_STAGE_NODE };
static const int64_t ALL_PICKS_MAX = (int64_t)1 << 26;     /* values: 256 MiB */

/* ---- open ---- */

static grace_status alloc_forwarders(gr_replay *r, int64_t rows, int64_t entries) {
    grace_status st = GRACE_OK;
    int32_t n = r->ways.two_stage ? r->plan->cluster.n_nodes : 1;
    GR_CALLOC(r->forwarders, n);
    for (int32_t i = 0; i < n; i++) {
        GR_CALLOC(r->forwarders[i].source.first, rows + 1);
        GR_CALLOC(r->forwarders[i].source.slot, entries);
        GR_CALLOC(r->forwarders[i].source.weight, entries);
        GR_CALLOC(r->forwarders[i].words, rows + 2 * entries);
    }
done:
    return st;
}

static grace_status alloc_picks(gr_replay *r) {
    grace_status st = GRACE_OK;
    int32_t n_ranks = grace_cluster_ranks(r->plan->cluster), most = 0;
    r->all_picks = (int64_t)n_ranks * r->plan->n_experts * GR_TURNS <= ALL_PICKS_MAX;
    size_t n = (size_t)(r->all_picks ? n_ranks : 1) * (size_t)r->plan->n_experts;
    for (int32_t l = 0; l < r->plan->n_layers; l++) most = r->plan->layers[l].n_slots > most ? r->plan->layers[l].n_slots : most;
    GR_CALLOC(r->picks, n * GR_TURNS);
    GR_CALLOC(r->picked, n);
    GR_CALLOC(r->experts, r->plan->top_k);
    GR_CALLOC(r->slot_pairs, most);
done:
    return st;
}

/* A forwarder may get all rows of all nodes' ranks of its index. */
grace_status gr_replay_open(gr_replay *r, const grace_routing *routing, const grace_sim_options *opt, int32_t rows_max) {
    grace_status st = GRACE_OK;
    grace_cluster cluster = opt->plan->cluster;
    int32_t n_ranks = grace_cluster_ranks(cluster);
    *r = (gr_replay){.routing = routing, .plan = opt->plan, .route = opt->route, .per_expert = opt->exchange == GRACE_EXCHANGE_PER_EXPERT, .exact = opt->exact,
                     .row_bytes = (int64_t)opt->shape->hidden * opt->rates->value_bytes, .layer = -1, .world = {.n_ranks = n_ranks},
                     .node = {.n_ranks = cluster.gpus_per_node}};
    GR_TRY(gr_ways_init(&r->ways, cluster, opt->exchange));
    int64_t k = opt->plan->top_k, own = rows_max, source = own * (r->ways.two_stage ? cluster.n_nodes : 1);
    GR_CHECK(source * k * 3 < INT32_MAX, GRACE_ERR_LIMIT, "%d rows of a rank in one step, top-%lld and %d nodes need longer lists than the exchange has: "
             "expected a smaller workload or chunk", rows_max, (long long)k, cluster.n_nodes);
    GR_TRY(gr_hop_init(&r->hop[A], &r->world, r->ways.peer_of_rank[A], r->per_expert, (int32_t)own, (int32_t)(own * k), (int32_t)(own * k), 0, 0));
    GR_TRY(gr_hop_init(&r->hop[B], r->ways.two_stage ? &r->node : &r->world, r->ways.peer_of_rank[B], r->per_expert, (int32_t)source, (int32_t)(source * k),
                       (int32_t)(source * k), 0, 0));
    GR_TRY(alloc_forwarders(r, source, source * k));
    GR_TRY(alloc_picks(r));
    if (gr_plan_has_decode(r->plan)) GR_TRY(gr_plan_of_decode(r->plan, &r->decode_plan));
    if (r->route == GRACE_ROUTE_JOINT) GR_TRY(gr_joint_init(&r->joint[0], r->plan, 0));
    if (r->route == GRACE_ROUTE_JOINT && r->decode_plan) GR_TRY(gr_joint_init(&r->joint[1], r->decode_plan, 0));
    GR_TRY(gr_layer_counts_alloc(cluster, r->ways.two_stage, &r->counts));
    if (n_ranks <= GRACE_SIM_PAIRS_MAX) GR_CALLOC(r->pair_rows, (size_t)n_ranks * (size_t)n_ranks);
done:
    return st;
}

void gr_replay_close(gr_replay *r) {
    for (int32_t i = 0; r->forwarders && i < (r->ways.two_stage ? r->plan->cluster.n_nodes : 1); i++) {
        gr_forwarder *f = &r->forwarders[i];
        free(f->source.first), free(f->source.slot), free(f->source.weight), free(f->words);
    }
    free(r->forwarders), free(r->picks), free(r->picked), free(r->experts), free(r->slot_pairs), free(r->pair_rows);
    gr_hop_free(&r->hop[A]);
    gr_hop_free(&r->hop[B]);
    gr_ways_free(&r->ways);
    gr_joint_free(&r->joint[0]);
    gr_joint_free(&r->joint[1]);
    grace_plan_free(r->decode_plan);
    gr_layer_counts_free(&r->counts);
    *r = (gr_replay){0};
}

/* ---- placing ---- */

static const int32_t *picks_of(gr_replay *r, int32_t rank, int32_t expert) {
    int64_t at = (int64_t)(r->all_picks ? rank : 0) * r->plan->n_experts + expert;
    int32_t *picks = r->picks + at * GR_TURNS, whose = 2 * rank + r->decode + 1;
    if (r->picked[at] != whose) gr_router_compile(r->decode ? r->decode_plan : r->plan, r->layer, expert, rank, r->route, picks);
    r->picked[at] = whose;
    return picks;
}

static void place_token(gr_replay *r, int32_t rank, int32_t sequence, int32_t position, int32_t *slots) {
    int32_t k = r->plan->top_k;
    for (int32_t j = 0; j < k; j++) {
        int32_t e = r->experts[j];
        slots[j] = picks_of(r, rank, e)[gr_router_turn(sequence, r->layer, e, position)];
    }
    gr_joint *joint = &r->joint[r->decode];
    joint->rank = rank;
    if (joint->plan) gr_joint_place(joint, r->layer, k, r->experts, sequence, position, slots);
    for (int32_t j = 0; j < k; j++) r->slot_pairs[slots[j]]++;
}

/* Rows [from, to) of the schedule as a rank's own. Weights do not matter here. */
static void take_own(gr_replay *r, const gr_schedule *s, int32_t rank, int64_t from, int64_t to, gr_rows *out) {
    int32_t k = r->plan->top_k;
    out->n = (int32_t)(to - from);
    for (int32_t row = 0; row < out->n; row++) {
        int64_t i = from + row;
        gr_routing_experts(r->routing, s->token[i], r->layer, r->experts);
        place_token(r, rank, s->sequence[i], s->position[i], out->slot + row * k);
        out->first[row + 1] = (row + 1) * k;
    }
}

/* ---- counting ---- */

/* A leg's bytes on the links it uses; nothing for rows that stay. */
static void add_flow(const gr_ways *w, int32_t from, int32_t to, int link, double bytes, grace_flow *f) {
    int32_t g = w->cluster.gpus_per_node;
    if (link == GRACE_LINK_CROSS) f->node_out[from / g] += bytes, f->node_in[to / g] += bytes;
    if (link == GRACE_LINK_INTRA) f->rank_out[from] += bytes, f->rank_in[to] += bytes;
}

/* What the rank of ways sends in a stage, and what comes back for it. */
static void count_hop(gr_replay *r, int stage) {
    const gr_hop *hop = &r->hop[stage];
    int32_t n_ranks = r->world.n_ranks, me = r->ways.rank;
    for (int32_t p = 0; p < gr_ways_n_peers(&r->ways, stage); p++) {
        int32_t to = gr_ways_world_rank(&r->ways, stage, p), back = r->exact ? hop->send_entries[p] : hop->send_rows[p];
        int link = gr_ways_link(&r->ways, to);
        int64_t lists = gr_hop_list_bytes(hop, p);
        gr_link_count_add(&r->dispatch[stage][link], hop->send_rows[p], r->row_bytes, lists);
        gr_link_count_add(&r->combine[stage][link], back, r->row_bytes, 0);
        add_flow(&r->ways, me, to, link, (double)(hop->send_rows[p] * r->row_bytes + lists), &r->counts.dispatch);
        if (back) add_flow(&r->ways, to, me, link, (double)(back * r->row_bytes), &r->counts.combine);
        if (r->pair_rows) r->pair_rows[(int64_t)me * n_ranks + to] += hop->send_rows[p], r->pair_rows[(int64_t)to * n_ranks + me] += back;
        if (stage == B) r->counts.pairs[to] += hop->send_entries[p];
    }
}

static void clear_counts(gr_replay *r) {
    grace_flow *flows[] = {&r->counts.dispatch, &r->counts.combine};
    size_t n_nodes = (size_t)r->plan->cluster.n_nodes * sizeof(double), n_ranks = (size_t)r->world.n_ranks * sizeof(double);
    for (int i = 0; i < 2; i++) {
        memset(flows[i]->node_out, 0, n_nodes), memset(flows[i]->node_in, 0, n_nodes);
        memset(flows[i]->rank_out, 0, n_ranks), memset(flows[i]->rank_in, 0, n_ranks);
    }
    memset(r->counts.pairs, 0, n_ranks);
    memset(r->counts.active, 0, n_ranks);
}

/* ---- stages ---- */

/* The first stage of one rank: its lists go to the inboxes of the other nodes' forwarders, in order of the senders as they would arrive. */
static void cross_nodes(gr_replay *r, const gr_rows *own) {
    const int32_t *rank_of_slot = r->plan->layers[r->layer].rank_of_slot;
    gr_hop *hop = &r->hop[A];
    int32_t at = 0;
    gr_hop_begin(hop);
    gr_hop_count(hop, own, rank_of_slot, 0, own->n);
    gr_hop_fill(hop, own, rank_of_slot);
    count_hop(r, A);
    for (int32_t p = 0; p < r->world.n_ranks; p++) {
        gr_forwarder *f = &r->forwarders[p / r->plan->cluster.gpus_per_node];
        int32_t n_words = hop->send_rows[p] + 2 * hop->send_entries[p];
        if (n_words == 0) continue;
        memcpy(f->words + f->n_rows + 2 * (int64_t)f->n_entries, hop->send_words + at, (size_t)n_words * sizeof(int32_t));
        f->n_rows += hop->send_rows[p];
        f->n_entries += hop->send_entries[p];
        at += n_words;
    }
}

static grace_status read_inbox(gr_replay *r, gr_forwarder *f) {
    gr_hop view = {.n_recv = f->n_rows, .n_recv_entries = f->n_entries, .recv_words = f->words, .slot_to = r->plan->layers[r->layer].n_slots};
    f->n_rows = f->n_entries = 0;
    return gr_hop_lists_parse(&view, &f->source);
}

static void to_ranks(gr_replay *r, const gr_rows *source) {
    gr_hop *hop = &r->hop[B];
    gr_hop_begin(hop);
    gr_hop_count(hop, source, r->plan->layers[r->layer].rank_of_slot, 0, source->n);
    count_hop(r, B);
}

/* Where every rank's rows of a step begin. */
static int64_t rows_end(const gr_schedule *s, int64_t from, int64_t end, int32_t rank) {
    while (from < end && s->home[from] == rank) from++;
    return from;
}

/* Ranks of one local index see only one another between nodes. first [n_ranks + 1]: each rank's rows. */
static grace_status replay_index(gr_replay *r, const gr_schedule *s, const int64_t *first, int32_t local) {
    grace_status st = GRACE_OK;
    grace_cluster c = r->plan->cluster;
    for (int32_t node = 0; node < c.n_nodes; node++) {
        int32_t rank = node * c.gpus_per_node + local;
        gr_ways_aim(&r->ways, rank);
        take_own(r, s, rank, first[rank], first[rank + 1], &r->forwarders[node].source);
        cross_nodes(r, &r->forwarders[node].source);
    }
    for (int32_t node = 0; node < c.n_nodes; node++) {
        gr_ways_aim(&r->ways, node * c.gpus_per_node + local);
        GR_TRY(read_inbox(r, &r->forwarders[node]));
        to_ranks(r, &r->forwarders[node].source);
    }
done:
    return st;
}

static void add_active(gr_replay *r) {
    const grace_plan_layer *pl = &r->plan->layers[r->layer];
    for (int32_t slot = 0; slot < pl->n_slots; slot++) {
        r->counts.active[pl->rank_of_slot[slot]] += r->slot_pairs[slot] > 0;
        r->slot_pairs[slot] = 0;
    }
}

grace_status gr_replay_layer(gr_replay *r, const gr_schedule *s, const gr_sim_step *step, int32_t layer) {
    grace_status st = GRACE_OK;
    int64_t *first = NULL;
    GR_CALLOC(first, r->world.n_ranks + 1);
    first[0] = step->first;
    for (int32_t rank = 0; rank < r->world.n_ranks; rank++) first[rank + 1] = rows_end(s, first[rank], step->end, rank);
    if (layer != r->layer) memset(r->picked, 0, (size_t)(r->all_picks ? r->world.n_ranks : 1) * (size_t)r->plan->n_experts * sizeof *r->picked);
    r->layer = layer;
    r->decode = step->decode && r->decode_plan;
    clear_counts(r);
    for (int32_t local = 0; r->ways.two_stage && local < r->plan->cluster.gpus_per_node; local++) GR_TRY(replay_index(r, s, first, local));
    for (int32_t rank = 0; !r->ways.two_stage && rank < r->world.n_ranks; rank++) {
        gr_ways_aim(&r->ways, rank);
        take_own(r, s, rank, first[rank], first[rank + 1], &r->forwarders[0].source);
        to_ranks(r, &r->forwarders[0].source);
    }
    add_active(r);
done:
    free(first);
    return st;
}
