#include "plan/cost.h"

#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "plan/tables.h"
#include "plan/turns.h"

enum { SETTLE_ROUNDS = 4 };

/* ---- shares ---- */

typedef struct hosts { int32_t n; int32_t rank[GRACE_RANKS_MAX], turns[GRACE_RANKS_MAX]; float weight[GRACE_RANKS_MAX]; } hosts;

/* Copies on ranks from begin to end. */
static void hosts_between(const grace_plan_layer *pl, int32_t expert, int32_t begin, int32_t end, hosts *h) {
    h->n = 0;
    for (int32_t i = pl->slots_first[expert]; i < pl->slots_first[expert + 1]; i++) {
        int32_t slot = pl->slots_of_expert[i], rank = pl->rank_of_slot[slot];
        if (rank < begin || rank >= end) continue;
        h->rank[h->n] = rank;
        h->weight[h->n++] = pl->poll_weight[slot];
    }
}

/* paper Alg. 3 and 4: the primary; anyone; this GPU, else this node, else anyone. */
static void hosts_for(const grace_plan *plan, int32_t layer, int32_t expert, int32_t home, grace_route route, hosts *h) {
    const grace_plan_layer *pl = &plan->layers[layer];
    int32_t g = plan->cluster.gpus_per_node, node = home / g, primary = gr_plan_home(pl, expert);
    h->n = 0;
    if (route == GRACE_ROUTE_PRIMARY) hosts_between(pl, expert, primary, primary + 1, h);
    if (route == GRACE_ROUTE_TAR) hosts_between(pl, expert, home, home + 1, h);
    if (route == GRACE_ROUTE_TAR && h->n == 0) hosts_between(pl, expert, node * g, (node + 1) * g, h);
    if (h->n == 0) hosts_between(pl, expert, 0, grace_cluster_ranks(plan->cluster), h);
    gr_turns_of_weights(h->weight, h->n, h->turns);
}

static void put_hosts(const hosts *h, int32_t list, gr_shares *s) {
    int32_t at = s->first[list];
    for (int32_t i = 0; i < h->n; i++) {
        if (h->turns[i] == 0) continue;
        s->rank[at] = h->rank[i];
        s->share[at++] = (double)h->turns[i] / GR_TURNS;
    }
    s->end[list] = at;
}

static void list_hosts(const grace_plan *plan, int32_t layer, int32_t expert, grace_route route, gr_shares *s) {
    hosts h;
    for (int32_t home = 0; home < s->n_ranks; home++) {
        hosts_for(plan, layer, expert, home, route, &h);
        put_hosts(&h, home * s->n_experts + expert, s);
    }
}

grace_status gr_shares_build_for(const grace_plan *plan, int32_t layer, grace_route route, gr_shares *out) {
    grace_status st = GRACE_OK;
    gr_shares s = {.n_ranks = grace_cluster_ranks(plan->cluster), .n_experts = plan->n_experts, .gpus_per_node = plan->cluster.gpus_per_node};
    const grace_plan_layer *pl = &plan->layers[layer];
    size_t n_lists = (size_t)s.n_ranks * (size_t)s.n_experts, n_most = (size_t)s.n_ranks * (size_t)pl->n_slots;
    GR_CHECK(route <= GRACE_ROUTE_TAR, GRACE_ERR_UNSUPPORTED, "cost: shares of single experts do not describe a policy that chooses copies together");
    GR_CHECK(n_most <= INT32_MAX, GRACE_ERR_LIMIT, "cost: %d ranks with %d slots are too many to list", s.n_ranks, pl->n_slots);
    GR_CALLOC(s.first, n_lists);
    GR_CALLOC(s.end, n_lists);
    GR_CALLOC(s.rank, n_most);
    GR_CALLOC(s.share, n_most);
    for (int32_t e = 0; e < s.n_experts; e++) {
        for (int32_t home = 0; home < s.n_ranks; home++) s.first[home * s.n_experts + e] = home * pl->n_slots + pl->slots_first[e];
        list_hosts(plan, layer, e, route, &s);
    }
    *out = s;
    return st;
done:
    gr_shares_free(&s);
    return st;
}

grace_status gr_shares_build(const grace_plan *plan, int32_t layer, gr_shares *out) { return gr_shares_build_for(plan, layer, GRACE_ROUTE_TAR, out); }

void gr_shares_renew(const grace_plan *plan, int32_t layer, int32_t expert, gr_shares *s) { list_hosts(plan, layer, expert, GRACE_ROUTE_TAR, s); }

void gr_shares_free(gr_shares *s) {
    free(s->first), free(s->end), free(s->rank), free(s->share);
    memset(s, 0, sizeof *s);
}

/* ---- rows ---- */

void gr_visits_free(gr_visits *v) { free(v->rank_missed), free(v->node_missed), free(v->node_part), free(v->ranks), free(v->nodes); }

grace_status gr_visits_alloc(int32_t n_ranks, gr_visits *v) {
    grace_status st = GRACE_OK;
    GR_CALLOC(v->rank_missed, n_ranks);
    GR_CALLOC(v->node_missed, n_ranks);
    GR_CALLOC(v->node_part, n_ranks);
    GR_CALLOC(v->ranks, n_ranks);
    GR_CALLOC(v->nodes, n_ranks);
    for (int32_t r = 0; r < n_ranks; r++) v->rank_missed[r] = v->node_missed[r] = -1;
done:
    return st;
}

static void meet(double chance, int32_t place, double *missed, int32_t *list, int32_t *n) {
    if (missed[place] < 0) missed[place] = 1, list[(*n)++] = place;
    missed[place] *= 1 - chance;
}

/* An expert's turn falls on one rank only, so that its chances of a node's ranks add up to the node's. */
static void visit(const gr_shares *s, int32_t home, int32_t expert, gr_visits *v) {
    int32_t list = home * s->n_experts + expert, begin = s->first[list], end = s->end[list];
    if (end - begin == 1) {        /* most often */
        meet(s->share[begin], s->rank[begin], v->rank_missed, v->ranks, &v->n_ranks);
        meet(s->share[begin], s->rank[begin] / s->gpus_per_node, v->node_missed, v->nodes, &v->n_nodes);
        return;
    }
    for (int32_t i = begin; i < end; i++) {
        v->node_part[s->rank[i] / s->gpus_per_node] += s->share[i];
        meet(s->share[i], s->rank[i], v->rank_missed, v->ranks, &v->n_ranks);
    }
    for (int32_t i = begin; i < end; i++) {
        int32_t node = s->rank[i] / s->gpus_per_node;
        if (v->node_part[node] <= 0) continue;
        meet(v->node_part[node] < 1 ? v->node_part[node] : 1, node, v->node_missed, v->nodes, &v->n_nodes);
        v->node_part[node] = 0;
    }
}

static gr_rows_cost collect_visits(const gr_shares *s, int32_t home, double count, gr_visits *v, const grace_flow *flow) {
    gr_rows_cost c = {0};
    int32_t g = s->gpus_per_node;
    for (int32_t i = 0; i < v->n_nodes; i++) {
        int32_t node = v->nodes[i];
        double visited = 1 - v->node_missed[node];
        v->node_missed[node] = -1;
        if (node == home / g) continue;
        c.cross += visited;
        if (flow) flow->node_out[home / g] += count * visited, flow->node_in[node] += count * visited;
    }
    for (int32_t i = 0; i < v->n_ranks; i++) {
        int32_t rank = v->ranks[i];
        double visited = 1 - v->rank_missed[rank];
        v->rank_missed[rank] = -1;
        if (rank / g != home / g) c.flat_cross += visited;
        else if (rank != home) c.flat_intra += visited;
        if (rank % g == home % g) continue;
        c.intra += visited;
        if (flow) flow->rank_out[rank / g * g + home % g] += count * visited, flow->rank_in[rank] += count * visited;
    }
    v->n_nodes = v->n_ranks = 0;
    return c;
}

gr_rows_cost gr_cost_set(const gr_shares *s, const uint16_t *set, int32_t top_k, int32_t home, double count, gr_visits *v, const grace_flow *flow) {
    for (int32_t j = 0; j < top_k; j++) visit(s, home, set[j], v);
    return collect_visits(s, home, count, v, flow);
}

int32_t gr_cost_homes(const gr_bundle_layer *b, int32_t n_homes, int32_t n_ranks) { return b->home ? 1 : n_homes < n_ranks ? n_homes : n_ranks; }

int32_t gr_cost_home(const gr_bundle_layer *b, int32_t i, int32_t h, int32_t n_homes, int32_t n_ranks) {
    if (b->home) return b->home[i];
    return n_homes < n_ranks ? (int32_t)(((int64_t)i * n_homes + h) % n_ranks) : h;
}

static void add_rows(gr_rows_cost *sum, gr_rows_cost c, double times) {
    sum->cross += times * c.cross, sum->intra += times * c.intra;
    sum->flat_cross += times * c.flat_cross, sum->flat_intra += times * c.flat_intra;
}

grace_status gr_cost_flow(const gr_shares *s, const gr_bundle_layer *b, int32_t top_k, int32_t n_homes, const grace_flow *flow, gr_rows_cost *out) {
    grace_status st = GRACE_OK;
    gr_visits v = {0};
    gr_rows_cost sum = {0};
    int32_t n = gr_cost_homes(b, n_homes, s->n_ranks);
    GR_TRY(gr_visits_alloc(s->n_ranks, &v));
    for (int32_t i = 0; i < b->n; i++) {
        double count = (double)b->count[i] / n / (double)b->n_tokens;
        for (int32_t h = 0; h < n; h++) {
            int32_t home = gr_cost_home(b, i, h, n_homes, s->n_ranks);
            GR_CHECK(home >= 0 && home < s->n_ranks, GRACE_ERR_ARG, "cost: a token's home is rank %d of %d", home, s->n_ranks);
            add_rows(&sum, gr_cost_set(s, b->experts + (size_t)i * (size_t)top_k, top_k, home, count, &v, flow), count);
        }
    }
    *out = sum;
done:
    gr_visits_free(&v);
    return st;
}

grace_status gr_cost_rows(const gr_shares *s, const gr_bundle_layer *b, int32_t top_k, gr_rows_cost *out) {
    return gr_cost_flow(s, b, top_k, s->n_ranks, NULL, out);
}

/* ---- loads ---- */

void gr_cost_loads(const gr_shares *s, const double *load, double *rank_load) {
    memset(rank_load, 0, (size_t)s->n_ranks * sizeof *rank_load);
    for (int32_t home = 0; home < s->n_ranks; home++)
        for (int32_t e = 0; e < s->n_experts; e++)
            for (int32_t list = home * s->n_experts + e, i = s->first[list]; i < s->end[list]; i++)
                rank_load[s->rank[i]] += load[e] * s->share[i] / s->n_ranks;
}

double gr_max_over_mean(const double *rank_load, int32_t n_ranks) {
    double sum = 0, most = 0;
    for (int32_t r = 0; r < n_ranks; r++) sum += rank_load[r], most = fmax(most, rank_load[r]);
    return sum > 0 ? most * n_ranks / sum : 1;
}

grace_status gr_plan_settle(grace_plan *plan, int32_t layer, const double *load) {
    grace_status st = GRACE_OK;
    gr_shares s = {0};
    for (int i = 0; i < SETTLE_ROUNDS; i++) {
        if (i > 0) gr_plan_weigh(plan, layer);
        gr_shares_free(&s);
        GR_TRY(gr_shares_build(plan, layer, &s));
        gr_cost_loads(&s, load, plan->layers[layer].load_after);
    }
done:
    gr_shares_free(&s);
    return st;
}
