#include "run/router.h"

#include "base/memory.h"

typedef struct hosts { int32_t n; int32_t slot[GRACE_RANKS_MAX]; float weight[GRACE_RANKS_MAX]; } hosts;

void gr_router_deal(const float *weight, int32_t n, int32_t *host_of_turn) {
    int32_t turns[GRACE_RANKS_MAX], dealt = 0;
    GR_ASSERT(n >= 1 && n <= GRACE_RANKS_MAX);
    gr_turns_of_weights(weight, n, turns);
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j < turns[i]; j++) host_of_turn[gr_turns_reversed(dealt++)] = i;
}

static void add_host(hosts *h, const grace_plan_layer *pl, int32_t slot) {
    h->slot[h->n] = slot;
    h->weight[h->n++] = pl->poll_weight[slot];
}

/* Copies of the expert that `keep` lets through. */
typedef enum keep { KEEP_RANK, KEEP_NODE, KEEP_ALL } keep;
static void collect(const grace_plan *plan, const grace_plan_layer *pl, int32_t expert, int32_t rank, keep which, hosts *h) {
    int32_t g = plan->cluster.gpus_per_node;
    h->n = 0;
    for (int32_t i = pl->slots_first[expert]; i < pl->slots_first[expert + 1]; i++) {
        int32_t slot = pl->slots_of_expert[i], host = pl->rank_of_slot[slot];
        if (which == KEEP_RANK && host != rank) continue;
        if (which == KEEP_NODE && host / g != rank / g) continue;
        add_host(h, pl, slot);
    }
}

static void choose_hosts(const grace_plan *plan, const grace_plan_layer *pl, int32_t expert, int32_t rank, grace_route route, hosts *h) {
    h->n = 0;
    if (route == GRACE_ROUTE_PRIMARY) {
        add_host(h, pl, pl->slots_of_expert[pl->slots_first[expert]]);
        return;
    }
    if (route != GRACE_ROUTE_WRR) collect(plan, pl, expert, rank, KEEP_RANK, h);                /* paper Alg. 4: same GPU */
    if (route != GRACE_ROUTE_WRR && h->n == 0) collect(plan, pl, expert, rank, KEEP_NODE, h);   /* then the same node */
    if (h->n == 0) collect(plan, pl, expert, rank, KEEP_ALL, h);                                /* then anyone; paper Alg. 3 */
}

/* What the GPU where a row enters another node would choose for the same turn; its table is known, so nothing has to travel and be decided there. */
static void choose_at_entry(const grace_plan *plan, const grace_plan_layer *pl, int32_t expert, int32_t rank, int32_t *pick) {
    int32_t g = plan->cluster.gpus_per_node, node = -1;
    hosts h = {0};
    for (int32_t t = 0; t < GR_TURNS; t++) {
        int32_t to = pl->rank_of_slot[pick[t]] / g;
        if (to == rank / g) continue;
        if (to != node) choose_hosts(plan, pl, expert, to * g + rank % g, GRACE_ROUTE_TAR, &h);
        node = to;
        pick[t] = h.slot[h.n == 1 ? 0 : gr_turns_host(h.weight, h.n, t)];
    }
}

void gr_router_compile(const grace_plan *plan, int32_t layer, int32_t expert, int32_t rank, grace_route route, int32_t *pick) {
    int32_t host_of_turn[GR_TURNS];
    hosts h;
    choose_hosts(plan, &plan->layers[layer], expert, rank, route, &h);
    gr_router_deal(h.weight, h.n, host_of_turn);
    for (int32_t t = 0; t < GR_TURNS; t++) pick[t] = h.slot[host_of_turn[t]];
    if (route == GRACE_ROUTE_TAR_ENTRY) choose_at_entry(plan, &plan->layers[layer], expert, rank, pick);
}

grace_status gr_router_build(const grace_plan *plan, int32_t rank, grace_route route, gr_router **out) {
    grace_status st = GRACE_OK;
    gr_router *r = NULL;
    GR_CALLOC(r, 1);
    r->n_layers = plan->n_layers;
    r->n_experts = plan->n_experts;
    if (route == GRACE_ROUTE_JOINT) GR_TRY(gr_joint_init(&r->joint, plan, rank));
    GR_CALLOC(r->pick, (size_t)plan->n_layers * (size_t)plan->n_experts * GR_TURNS);
    for (int32_t layer = 0; layer < plan->n_layers; layer++)
        for (int32_t expert = 0; expert < plan->n_experts; expert++)
            gr_router_compile(plan, layer, expert, rank, route, r->pick + ((int64_t)layer * plan->n_experts + expert) * GR_TURNS);
    *out = r;
    r = NULL;
done:
    gr_router_free(r);
    return st;
}

void gr_router_free(gr_router *router) {
    if (!router) return;
    gr_joint_free(&router->joint);
    free(router->pick);
    free(router);
}

void gr_router_place(const gr_router *r, int32_t layer, int32_t n_rows, int32_t top_k, const int32_t *experts, const int32_t *sequence,
                     const int32_t *position, int32_t *slots) {
    for (int32_t i = 0; i < n_rows; i++) {
        const int32_t *chosen = experts + (int64_t)i * top_k;
        int32_t *to = slots + (int64_t)i * top_k;
        for (int32_t j = 0; j < top_k; j++) to[j] = gr_router_pick(r, layer, chosen[j], gr_router_turn(sequence[i], layer, chosen[j], position[i]));
        if (r->joint.plan) gr_joint_place(&r->joint, layer, top_k, chosen, sequence[i], position[i], to);
    }
}
