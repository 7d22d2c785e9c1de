#include <math.h>
#include <stdlib.h>

#include "base/memory.h"
#include "plan/homes.h"

/* A node takes `least` sequences, or up to one more for each rank that may have one more; `extra` such in all. */
typedef struct dealing { const double *cost; int32_t n, n_nodes, level, extra, n_over, *least, *most, *node, *taken; } dealing;

static bool over(const dealing *d, int32_t node) { return d->taken[node] >= d->least[node]; }       /* the next one there is an extra */
static bool has_room(const dealing *d, int32_t node) { return !over(d, node) || (d->taken[node] < d->most[node] && d->n_over < d->extra); }

static double cost_of(const dealing *d, int32_t i, int32_t node) { return d->cost[(size_t)i * (size_t)d->n_nodes + (size_t)node]; }

static void put(dealing *d, int32_t i, int32_t node) {
    d->n_over += over(d, node);
    d->taken[node]++;
    d->node[i] = node;
}

static void take(dealing *d, int32_t i) {
    int32_t node = d->node[i];
    d->taken[node]--;
    d->n_over -= over(d, node);
}

static int32_t cheapest_with_room(const dealing *d, int32_t i) {
    int32_t best = -1;
    for (int32_t node = 0; node < d->n_nodes; node++)
        if (has_room(d, node) && (best < 0 || cost_of(d, i, node) < cost_of(d, i, best))) best = node;
    return best;
}

typedef struct turn { double regret; int32_t i; } turn;

static int by_regret(const void *a, const void *b) {
    const turn *x = a, *y = b;
    if (x->regret != y->regret) return x->regret > y->regret ? -1 : 1;
    return x->i - y->i;
}

static double regret_of(const dealing *d, int32_t i) {
    double first = INFINITY, second = INFINITY;
    for (int32_t node = 0; node < d->n_nodes; node++) {
        double c = cost_of(d, i, node);
        if (c < first) second = first, first = c;
        else if (c < second) second = c;
    }
    return d->n_nodes > 1 ? second - first : 0;
}

static grace_status deal_greedily(dealing *d) {
    grace_status st = GRACE_OK;
    turn *turns = NULL;
    GR_CALLOC(turns, d->n);
    for (int32_t i = 0; i < d->n; i++) turns[i] = (turn){regret_of(d, i), i};
    qsort(turns, (size_t)d->n, sizeof *turns, by_regret);
    for (int32_t t = 0; t < d->n; t++) put(d, turns[t].i, cheapest_with_room(d, turns[t].i));
done:
    free(turns);
    return st;
}

static bool move_one(dealing *d, int32_t i) {
    int32_t from = d->node[i], to;
    take(d, i);
    to = cheapest_with_room(d, i);
    if (cost_of(d, i, to) >= cost_of(d, i, from) - 1e-9) to = from;
    put(d, i, to);
    return to != from;
}

static bool swap_pair(dealing *d, int32_t i, int32_t j) {
    int32_t a = d->node[i], b = d->node[j];
    if (a == b || cost_of(d, i, b) + cost_of(d, j, a) >= cost_of(d, i, a) + cost_of(d, j, b) - 1e-9) return false;
    d->node[i] = b, d->node[j] = a;
    return true;
}

/* Pairs of all sequences are looked at while there are few; of many, those that stand within `reach` of one another. */
static void improve(dealing *d) {
    enum { ROUNDS_MAX = 50, REACH = 2048 };
    bool better = true;
    for (int round = 0; round < ROUNDS_MAX && better; round++) {
        better = false;
        for (int32_t i = 0; i < d->n; i++) {
            better |= move_one(d, i);
            for (int32_t j = i > REACH ? i - REACH : 0; j < i; j++) better |= swap_pair(d, i, j);
        }
    }
}

/* With n more, ranks have `level` sequences each or one more. */
static void set_numbers(dealing *d, grace_cluster cluster, const int32_t *held) {
    int32_t n_ranks = grace_cluster_ranks(cluster), total = d->n;
    for (int32_t r = 0; r < n_ranks; r++) total += held[r];
    d->level = total / n_ranks;
    d->extra = d->n;
    for (int32_t r = 0; r < n_ranks; r++) {
        int32_t room = d->level - held[r];
        GR_ASSERT(room >= -1);
        d->least[r / cluster.gpus_per_node] += room > 0 ? room : 0;
        d->most[r / cluster.gpus_per_node] += room + 1;
        d->extra -= room > 0 ? room : 0;
    }
}

int32_t gr_rank_with_fewest(const int32_t *held, int32_t first, int32_t n) {
    int32_t best = first;
    for (int32_t r = first; r < first + n; r++)
        if (held[r] < held[best]) best = r;
    return best;
}

/* A rank keeps what stays in its node while the numbers allow; the others go to the rank with fewest. Uses up `taken`. */
static void choose_ranks(dealing *d, int32_t gpus, const int32_t *from, int32_t *held, int32_t *homes) {
    for (int32_t i = 0; i < d->n; i++) {
        int32_t node = d->node[i], over_level = from ? held[from[i]] - d->level : 0;
        bool keep = from && from[i] / gpus == node && (over_level < 0 || (over_level == 0 && d->taken[node] > d->least[node]));
        homes[i] = keep ? from[i] : -1;
        if (!keep) continue;
        held[from[i]]++;
        d->taken[node] -= over_level == 0;
    }
    for (int32_t i = 0; i < d->n; i++)
        if (homes[i] < 0) held[homes[i] = gr_rank_with_fewest(held, d->node[i] * gpus, gpus)]++;
}

grace_status gr_homes_assign(const double *cost, int32_t n, grace_cluster cluster, const int32_t *from, int32_t *held, int32_t *homes) {
    grace_status st = GRACE_OK;
    dealing d = {.cost = cost, .n = n, .n_nodes = cluster.n_nodes};
    int32_t *none = NULL;
    GR_CALLOC(none, grace_cluster_ranks(cluster));
    GR_CALLOC(d.node, n);
    GR_CALLOC(d.least, cluster.n_nodes);
    GR_CALLOC(d.most, cluster.n_nodes);
    GR_CALLOC(d.taken, cluster.n_nodes);
    if (!held) held = none;
    set_numbers(&d, cluster, held);
    if (!from) GR_TRY(deal_greedily(&d));
    for (int32_t i = 0; from && i < n; i++) put(&d, i, from[i] / cluster.gpus_per_node);
    improve(&d);
    choose_ranks(&d, cluster.gpus_per_node, from, held, homes);
done:
    free(none), free(d.node), free(d.least), free(d.most), free(d.taken);
    return st;
}
