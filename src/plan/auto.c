#include "plan/auto.h"

#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "plan/budget.h"

enum { PASSES_MAX = 8, PRICE_STEPS_MAX = 40, BISECTIONS = 4 };
static const double PRICE_STEP = 0.5, NODE_SHARE = 0.6;        /* NODE_SHARE: of the allowance for load that nodes may use up; the rest is for GPUs */

static bool late(const gr_auto *a) { return a->deadline_us > 0 && gr_now_us() > a->deadline_us; }

/* ---- open ---- */

/* A layer's bundles take bundles x nodes x nodes pins: few nodes may have more bundles. */
static int32_t bundles_most(int32_t n_nodes) {
    int32_t squares = n_nodes * n_nodes, fast = (1 << 17) / squares, small = (1 << 21) / squares;
    if (fast > 1 << 14) return 1 << 14;
    if (fast > 1 << 12) return fast;
    return small > 1 << 12 ? 1 << 12 : small > 64 ? small : 64;
}

/* Every stride-th bundle, so that the search stays small. */
static grace_status sample_bundles(const gr_bundle_layer *b, int32_t top_k, int32_t n_max, gr_bundle_layer *out) {
    grace_status st = GRACE_OK;
    int32_t stride = b->n > n_max ? (b->n + n_max - 1) / n_max : 1;
    GR_CALLOC(out->experts, (size_t)(b->n / stride + 1) * (size_t)top_k);
    GR_CALLOC(out->count, (size_t)(b->n / stride + 1));
    for (int32_t i = 0; i < b->n; i += stride) {
        memcpy(out->experts + (size_t)out->n * (size_t)top_k, b->experts + (size_t)i * (size_t)top_k, (size_t)top_k * sizeof *b->experts);
        out->count[out->n++] = b->count[i];
        out->n_tokens += b->count[i];
    }
done:
    return st;
}

static grace_status layer_open(void *context, int32_t layer) {
    grace_status st = GRACE_OK;
    gr_auto *a = context;
    gr_auto_layer *al = &a->layers[layer];
    int32_t nodes = a->cluster.n_nodes;
    size_t n = (size_t)a->n;
    GR_TRY(sample_bundles(&a->opt.bundles->layers[layer], a->top_k, bundles_most(nodes), &al->sample));
    GR_TRY(gr_nodes_open(&al->sample, a->top_k, a->profile->load + (size_t)layer * n, a->n, a->cluster, &al->nodes));
    GR_CALLOC(al->parts, nodes);
    GR_CALLOC(al->fetch, n * (size_t)nodes);
    GR_CALLOC(al->primary, n);
    GR_CALLOC(al->node_label, nodes);
    GR_CALLOC(al->gpu_label, a->n_ranks);
    GR_CALLOC(al->relief, n * (size_t)a->n_ranks);
    al->nodes.bound = 1 + NODE_SHARE * (a->opt.balance - 1);
    al->nodes.gpu_bound = a->opt.balance;
done:
    return st;
}

static void layer_close(gr_auto_layer *al, int32_t n_nodes) {
    gr_nodes_close(&al->nodes);
    for (int32_t node = 0; al->parts && node < n_nodes; node++) gr_parts_close(&al->parts[node]);
    free(al->parts), free(al->sample.experts), free(al->sample.count), free(al->fetch), free(al->primary), free(al->node_label);
    free(al->gpu_label), free(al->relief);
}

static grace_status check_bundles(const grace_profile *profile, const grace_bundles *b) {
    grace_status st = GRACE_OK;
    const grace_trace_info *info = &profile->info;
    GR_CHECK(b, GRACE_ERR_ARG, "plan: planner auto needs the trace's bundles");
    GR_CHECK(b->n_layers == info->n_layers && b->n_experts == info->n_experts && b->top_k == info->top_k, GRACE_ERR_ARG,
             "plan: bundles are of %d layers of %d experts, top-%d; the profile has %d of %d, top-%d", b->n_layers, b->n_experts, b->top_k,
             info->n_layers, info->n_experts, info->top_k);
done:
    return st;
}

static grace_status auto_open(const grace_profile *profile, const grace_plan_options *opt, grace_cluster cluster, gr_auto *a) {
    grace_status st = GRACE_OK;
    *a = (gr_auto){.profile = profile, .opt = *opt, .cluster = cluster, .n_layers = profile->info.n_layers, .n = profile->info.n_experts,
                   .n_ranks = grace_cluster_ranks(cluster), .top_k = profile->info.top_k};
    if (opt->time_limit_s > 0) a->deadline_us = gr_now_us() + opt->time_limit_s * 1e6;
    GR_TRY(check_bundles(profile, opt->bundles));
    GR_TRY(gr_slot_budget(profile, cluster, opt, &a->slots_of_rank));
    GR_CALLOC(a->layers, a->n_layers);
    GR_TRY(gr_parallel(a->n_layers, layer_open, a));
done:
    return st;
}

static void auto_close(gr_auto *a) {
    for (int32_t l = 0; a->layers && l < a->n_layers; l++) layer_close(&a->layers[l], a->cluster.n_nodes);
    free(a->layers);
}

/* ---- nodes ---- */

/* Strict passes and loose ones in turn, until neither helps. */
static void refine(const gr_auto *a, gr_nodes *s, int32_t n_passes) {
    for (int32_t i = 0, idle = 0; i < n_passes && idle < 2 && !late(a); i++) idle = gr_nodes_pass(s, i % 2 ? s->most_load : 0) < 1e-6 ? idle + 1 : 0;
}

/* What a task for every layer needs. */
typedef struct layers_task { gr_auto *a; const grace_plan *start; double price; int32_t n_passes; } layers_task;

static grace_status start_layer(void *context, int32_t layer) {
    const layers_task *t = context;
    gr_nodes *s = &t->a->layers[layer].nodes;
    for (int32_t e = 0; e < s->n; e++) {
        int16_t node = (int16_t)(gr_plan_home(&t->start->layers[layer], e) / t->a->cluster.gpus_per_node);
        if (node != 0) gr_nodes_apply(s, (gr_node_op){(int16_t)e, node, 0, node});
    }
    refine(t->a, s, t->n_passes);
    return GRACE_OK;
}

/* From the paper's grouping, without copies. */
static grace_status start_from_grace(gr_auto *a) {
    grace_status st = GRACE_OK;
    grace_plan_options paper = a->opt;
    grace_plan *plan = NULL;
    paper.planner = GRACE_PLANNER_GRACE, paper.replication = GRACE_REPLICATION_NONE;
    GR_TRY(grace_plan_build(a->profile, a->cluster, &paper, &plan));
    GR_TRY(gr_parallel(a->n_layers, start_layer, &(layers_task){.a = a, .start = plan, .n_passes = PASSES_MAX}));
done:
    grace_plan_free(plan);
    return st;
}

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

static void remember(gr_auto *a) {
    for (int32_t l = 0; l < a->n_layers; l++) {
        gr_auto_layer *al = &a->layers[l];
        memcpy(al->fetch, al->nodes.fetch, (size_t)a->n * (size_t)a->cluster.n_nodes * sizeof *al->fetch);
        memcpy(al->primary, al->nodes.primary, (size_t)a->n * sizeof *al->primary);
    }
}

static void go_back(gr_auto *a) {
    for (int32_t l = 0; l < a->n_layers; l++) gr_nodes_restore(&a->layers[l].nodes, a->layers[l].fetch, a->layers[l].primary);
}

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

/* One price a copy for all layers, falling until copies take more than the target; then between the last two prices. Ends at or under it. */
static grace_status buy_copies(gr_auto *a, int64_t target) {
    grace_status st = GRACE_OK;
    double price = first_price(a), high = price, low = -1;
    for (int i = 0; i < PRICE_STEPS_MAX + BISECTIONS && price > 0 && !late(a); i++) {
        remember(a);
        GR_TRY(refine_at(a, price, 2));
        gr_log(GR_DEBUG, "plan", "price %.3g: %lld slots of %lld, %.4f rows", price, (long long)count_slots(a), (long long)target, count_rows(a));
        if (count_slots(a) > target) {
            go_back(a);
            low = price;
        } else high = price;
        if (low < 0 && i >= PRICE_STEPS_MAX) break;
        if (low > 0 && high / low < 1.05) break;
        price = low < 0 ? price * PRICE_STEP : sqrt(high * low);
    }
    if (high > 0) GR_TRY(refine_at(a, high, PASSES_MAX));
done:
    return st;
}

/* One layer's best copy to add, or worst to drop, remembered until the layer changes. */
typedef struct offer { gr_node_op op; double saved; bool found; } offer;

static offer make_offer(const gr_nodes *s, bool more) {
    offer o = {0};
    o.found = more ? gr_nodes_best_copy(s, &o.op, &o.saved) : gr_nodes_worst_copy(s, &o.op, &o.saved);
    return o;
}

/* Copies one by one, added where they save most while they save anything, or dropped where they are missed least, until there are as many slots
 * as the target. */
static grace_status adjust(gr_auto *a, int64_t target) {
    grace_status st = GRACE_OK;
    bool more = count_slots(a) < target;
    offer *offers = NULL;
    GR_CALLOC(offers, a->n_layers);
    for (int32_t l = 0; l < a->n_layers; l++) offers[l] = make_offer(&a->layers[l].nodes, more);
    for (int64_t n = count_slots(a); n != target; n += more ? 1 : -1) {
        int32_t best = -1;
        for (int32_t l = 0; l < a->n_layers; l++)
            if (offers[l].found && (best < 0 || (more ? offers[l].saved > offers[best].saved : offers[l].saved < offers[best].saved))) best = l;
        if (best < 0 || (more && offers[best].saved <= 0)) break;
        gr_nodes_apply(&a->layers[best].nodes, offers[best].op);
        offers[best] = make_offer(&a->layers[best].nodes, more);
    }
done:
    free(offers);
    return st;
}

static grace_status place_nodes(gr_auto *a) {
    grace_status st = GRACE_OK;
    int64_t target = a->slots_of_rank * a->n_ranks, n_relief;
    GR_TRY(start_from_grace(a));
    GR_TRY(buy_copies(a, target));
    GR_TRY(gr_auto_count_relief(a, &n_relief));
    GR_TRY(adjust(a, target - n_relief));
done:
    return st;
}

grace_status gr_plan_auto(const grace_profile *profile, const grace_plan_options *opt, grace_plan *plan) {
    grace_status st = GRACE_OK;
    gr_auto a = {0};
    GR_TRY(auto_open(profile, opt, plan->cluster, &a));
    GR_TRY(place_nodes(&a));
    GR_TRY(gr_auto_label_nodes(&a));
    GR_TRY(gr_auto_place_gpus(&a));
    GR_TRY(gr_auto_fill_tables(&a, plan));
done:
    auto_close(&a);
    return st;
}
