#include <math.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "plan/auto.h"
#include "plan/spectral.h"

/* Planner auto between nodes: starts, then copies at one price for all layers. */
enum { PASSES_MAX = 8, STARTS = 2, START_PASSES = 2, PRICE_STEPS_MAX = 40, BISECTIONS = 4 };
static const double PRICE_STEP = 0.5, CHEAPEST = 1e-5;    /* of the first price: what is bought below saves nothing */

/* ---- passes ---- */

/* Strict passes and loose ones in turn, until neither helps. */
static void refine(const gr_auto *a, gr_nodes *s, int32_t n_passes) {
    for (int32_t i = 0, idle = 0; i < n_passes && idle < 2 && !gr_auto_late(a); i++) idle = gr_nodes_pass(s, i % 2 ? s->most_load : 0) < 1e-6 ? idle + 1 : 0;
}

/* ---- starts ---- */

static uint64_t seed_of(const gr_auto *a, int32_t layer, int32_t n_groups, int32_t try) {
    return a->opt.seed + gr_mix32((uint32_t)layer, (uint32_t)n_groups, (uint32_t)try);
}

/* The layer's experts by affinity on the first n_groups nodes, refined a little. group [n] is scratch. */
static grace_status start_with(gr_auto *a, int32_t layer, int32_t n_groups, int32_t try, int32_t *group) {
    grace_status st = GRACE_OK;
    gr_nodes *s = &a->layers[layer].nodes;
    size_t n = (size_t)a->n;
    GR_TRY(gr_spectral_cluster(a->profile->affinity + (size_t)layer * n * n, a->n, n_groups, seed_of(a, layer, n_groups, try), group));
    gr_nodes_group(s, group);
    refine(a, s, START_PASSES);
done:
    return st;
}

/* Under a loose bound few nodes may do a layer's work, and every group less is a row less for many tokens. The best start goes on. */
static grace_status start_layer(void *context, int32_t layer) {
    grace_status st = GRACE_OK;
    gr_auto *a = context;
    gr_nodes *s = &a->layers[layer].nodes;
    int32_t *group = NULL, most = s->n_nodes < a->n ? s->n_nodes : a->n, fewest = (int32_t)ceil(s->n_nodes / fmin(s->bound + 1e-9, s->n_nodes));
    double best = INFINITY;
    GR_CALLOC(group, a->n);
    for (int32_t m = fewest < most ? fewest : most; m <= most; m++)
        for (int32_t try = 0; try < (m > 1 ? STARTS : 1) && !(gr_auto_late(a) && best < INFINITY); try++) {
            GR_TRY(start_with(a, layer, m, try, group));
            if (gr_nodes_score(s) >= best - 1e-9) continue;
            best = gr_nodes_score(s);
            gr_auto_remember(a, layer);
        }
    gr_auto_go_back(a, layer);
    refine(a, s, PASSES_MAX);
done:
    free(group);
    return st;
}

/* ---- copies ---- */

static int64_t count_slots(const gr_auto *a) {
    int64_t n = 0;
    for (int32_t l = 0; l < a->n_layers; l++) n += a->layers[l].nodes.n_slots;
    return n;
}

static double count_rows(const gr_auto *a) {
    double rows = 0;
    for (int32_t l = 0; l < a->n_layers; l++) rows += gr_nodes_rows(&a->layers[l].nodes) / a->n_layers;
    return rows;
}

static void remember_all(gr_auto *a) {
    for (int32_t l = 0; l < a->n_layers; l++) gr_auto_remember(a, l);
}

static void go_back(gr_auto *a) {
    for (int32_t l = 0; l < a->n_layers; l++) gr_auto_go_back(a, l);
}

/* What a task for every layer needs. */
typedef struct layers_task { gr_auto *a; double price; int32_t n_passes; } layers_task;

static grace_status refine_layer(void *context, int32_t layer) {
    const layers_task *t = context;
    t->a->layers[layer].nodes.price = t->price;
    refine(t->a, &t->a->layers[layer].nodes, t->n_passes);
    return GRACE_OK;
}

static grace_status refine_at(gr_auto *a, double price, int32_t n_passes) {
    return gr_parallel(a->n_layers, refine_layer, &(layers_task){.a = a, .price = price, .n_passes = n_passes});
}

static double first_price(const gr_auto *a) {
    double most = 0;
    for (int32_t l = 0; l < a->n_layers; l++) {
        gr_node_op op;
        double saved = 0;
        if (gr_nodes_best_copy(&a->layers[l].nodes, &op, &saved)) most = fmax(most, saved);
    }
    return most;
}

/* Copies take the longer the more memory there is for them. */
static void tell_spent(gr_auto *a, int64_t before, int64_t target) {
    double spent = (double)(count_slots(a) - before) / fmax(1, (double)(target - before));
    gr_auto_tell(a, GR_AUTO_STARTED + (GR_AUTO_COPIED - GR_AUTO_STARTED) * fmin(spent, 1));
}

/* One price a copy for all layers, falling until copies take more than the target; then between the last two prices. Ends at or under it. */
static grace_status buy_copies(gr_auto *a, int64_t target) {
    grace_status st = GRACE_OK;
    double price = first_price(a), high = price, low = -1;
    double least = CHEAPEST * price;
    int64_t before = count_slots(a);
    for (int i = 0; i < PRICE_STEPS_MAX + BISECTIONS && price > least && !gr_auto_late(a); i++) {
        remember_all(a);
        GR_TRY(refine_at(a, price, 2));
        gr_log(GR_DEBUG, "plan", "price %.3g: %lld slots of %lld, %.4f rows", price, (long long)count_slots(a), (long long)target, count_rows(a));
        if (count_slots(a) > target) {
            go_back(a);
            low = price;
        } else high = price;
        tell_spent(a, before, target);
        if (low < 0 && i >= PRICE_STEPS_MAX) break;
        if (low > 0 && high / low < 1.05) break;
        price = low < 0 ? price * PRICE_STEP : sqrt(high * low);
    }
    if (high > 0) GR_TRY(refine_at(a, high, PASSES_MAX));
done:
    return st;
}

/* One layer's best copy to add, or worst to drop, or all the copies that a node lacks (whole): remembered until the layer changes. */
typedef struct offer { gr_node_op op; double saved; int32_t whole, n_copies; bool found; } offer;     /* saved: rows a token and copy */

/* A token of a node that hosts everything visits nobody, which no single copy may do for it. */
static void offer_node(const gr_nodes *s, int64_t room, offer *o) {
    for (int32_t node = 0; node < s->n_nodes; node++) {
        int32_t n = 0;
        for (int32_t e = 0; e < s->n; e++) n += !gr_nodes_hosts(s, e, node);
        double saved = n > 0 ? gr_nodes_rows_of(s, node) / n : 0;
        bool fits = s->slots_most == 0 || s->node_slots[node] + n <= s->slots_most;
        if (n > 0 && n <= room && fits && saved > fmax(o->found ? o->saved : 0, 0)) *o = (offer){.saved = saved, .whole = node, .n_copies = n, .found = true};
    }
}

static offer make_offer(const gr_nodes *s, int64_t room) {
    offer o = {.whole = -1, .n_copies = 1};
    o.found = room > 0 ? gr_nodes_best_copy(s, &o.op, &o.saved) : gr_nodes_worst_copy(s, &o.op, &o.saved);
    if (room > 0) offer_node(s, room, &o);
    return o;
}

static void take_offer(gr_nodes *s, const offer *o) {
    if (o->whole < 0) gr_nodes_apply(s, o->op);
    for (int32_t e = 0; o->whole >= 0 && e < s->n; e++)
        if (!gr_nodes_hosts(s, e, o->whole)) gr_nodes_apply(s, (gr_node_op){(int16_t)e, (int16_t)o->whole, -1, s->primary[e]});
}

/* Copies one by one, added where they save most while they save anything, or dropped where they are missed least, until there are as many slots
 * as the target. */
static grace_status adjust(gr_auto *a, int64_t target) {
    grace_status st = GRACE_OK;
    bool more = count_slots(a) < target;
    offer *offers = NULL;
    GR_CALLOC(offers, a->n_layers);
    for (int32_t l = 0; l < a->n_layers; l++) offers[l] = make_offer(&a->layers[l].nodes, target - count_slots(a));
    for (int64_t room; (room = target - count_slots(a)) != 0;) {
        int32_t best = -1;
        for (int32_t l = 0; l < a->n_layers; l++) {
            if (more && offers[l].n_copies > room) offers[l] = make_offer(&a->layers[l].nodes, room);
            if (offers[l].found && (best < 0 || (more ? offers[l].saved > offers[best].saved : offers[l].saved < offers[best].saved))) best = l;
        }
        if (best < 0 || (more && offers[best].saved <= 0)) break;
        take_offer(&a->layers[best].nodes, &offers[best]);
        offers[best] = make_offer(&a->layers[best].nodes, target - count_slots(a));
    }
done:
    free(offers);
    return st;
}

/* Where every layer has a node's slots to itself, those that its GPUs will need for balance are kept back. */
static void keep_room(gr_auto *a) {
    for (int32_t l = 0; l < a->n_layers; l++) {
        gr_nodes *s = &a->layers[l].nodes;
        int32_t keep = (a->layers[l].n_relief + s->n_nodes - 1) / s->n_nodes, least = (s->n + s->n_nodes - 1) / s->n_nodes;
        s->slots_most = s->slots_most - keep > least ? s->slots_most - keep : least;
        gr_nodes_fit(s);
    }
}

grace_status gr_auto_place_nodes(gr_auto *a) {
    grace_status st = GRACE_OK;
    int64_t target = a->slots_of_rank * a->n_ranks, n_relief;
    GR_TRY(gr_parallel(a->n_layers, start_layer, a));
    gr_auto_tell(a, GR_AUTO_STARTED);
    GR_TRY(gr_auto_count_relief(a, &n_relief));
    if (a->slots_each > 0) keep_room(a);
    GR_TRY(buy_copies(a, target));
    if (a->slots_each == 0) GR_TRY(gr_auto_count_relief(a, &n_relief));
    GR_TRY(adjust(a, target - n_relief));
    for (int32_t l = 0; l < a->n_layers; l++) {
        gr_nodes_fit(&a->layers[l].nodes);
        gr_nodes_fill(&a->layers[l].nodes, a->slots_each);      /* a GPU holds no expert twice */
    }
done:
    return st;
}
