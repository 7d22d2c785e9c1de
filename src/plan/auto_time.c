/* Planner auto for the time of a step (grace/sim.h): searches under several bounds on load, layers whole on a node, and the plans of all other
 * planners that fit; the fastest, and then every layer from whichever of them is fastest there, while memory allows. */
#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "grace/sim.h"
#include "plan/auto.h"
#include "plan/budget.h"
#include "plan/equalise.h"
#include "plan/expect.h"
#include "plan/tables.h"

enum { CANDIDATES_MAX = 16 };
static const double BALANCES[] = {1.02, 1.1, 1.25, 1.5, 2};

typedef struct candidate { grace_plan *plan; double *seconds; double total; } candidate;     /* seconds [n_layers] */
typedef struct race {
    const grace_profile *profile;
    const grace_plan_options *opt;
    grace_cluster cluster;
    int64_t slots_of_rank;
    int32_t n, n_searched, n_searches;
    double deadline_us;         /* 0: none */
    candidate items[CANDIDATES_MAX];
} race;

/* ---- time ---- */

static grace_status price_layer(const grace_plan *plan, int32_t layer, const grace_bundles *b, const grace_objective *o, double *seconds) {
    grace_status st = GRACE_OK;
    gr_expected x = {0};
    *seconds = 0;
    GR_TRY(gr_expect_layer(plan, layer, &b->layers[layer], &x));
    for (int32_t i = 0; i < o->n_steps; i++) {
        double row_bytes = (double)o->shape.hidden * o->rates.value_bytes;
        const grace_layer_counts *c = gr_expected_counts(&x, &plan->layers[layer], o->steps[i].batch.tokens, row_bytes);
        *seconds += o->steps[i].times * grace_layer_seconds(c, &o->shape, &o->rates).total;
    }
done:
    gr_expected_free(&x);
    return st;
}

typedef struct pricing { const grace_plan *plan; const grace_bundles *bundles; const grace_objective *objective; double *seconds; } pricing;

static grace_status price_task(void *context, int32_t layer) {
    const pricing *p = context;
    return price_layer(p->plan, layer, p->bundles, p->objective, &p->seconds[layer]);
}

static grace_status price_layers(const grace_plan *plan, const grace_bundles *b, const grace_objective *o, double *seconds) {
    return gr_parallel(plan->n_layers, price_task, &(pricing){plan, b, o, seconds});
}

grace_status grace_plan_seconds(const grace_plan *plan, const grace_bundles *b, const grace_objective *o, double *seconds) {
    grace_status st = GRACE_OK;
    double *layers = NULL, sum = 0;
    GR_TRY(grace_shape_check(&o->shape, plan->n_layers, plan->n_experts, plan->top_k));
    GR_CHECK(b->n_layers == plan->n_layers && b->n_experts == plan->n_experts && b->top_k == plan->top_k, GRACE_ERR_MISMATCH,
             "the plan is for %d layers of %d experts, top-%d; the routing has %d of %d, top-%d", plan->n_layers, plan->n_experts, plan->top_k, b->n_layers,
             b->n_experts, b->top_k);
    GR_CALLOC(layers, plan->n_layers);
    GR_TRY(price_layers(plan, b, o, layers));
    for (int32_t l = 0; l < plan->n_layers; l++) sum += layers[l];
    for (int32_t i = 0; i < o->n_steps; i++)
        sum += o->steps[i].times * grace_dense_seconds(&o->steps[i].batch, grace_cluster_ranks(plan->cluster), &o->shape, &o->rates).total;
    *seconds = sum;
done:
    free(layers);
    return st;
}

/* ---- candidates ---- */

/* Free slots of a plan get replicas, so that every rank has as many; false: a layer has more already. */
static bool even_out(const race *r, grace_plan **plan) {
    grace_plan *even = NULL;
    int32_t each = (int32_t)(r->slots_of_rank / r->profile->info.n_layers);
    if (gr_plan_equalise(*plan, r->profile, each < r->profile->info.n_experts ? each : r->profile->info.n_experts, &even)) return false;
    grace_plan_free(*plan);
    *plan = even;
    return true;
}

/* Other planners take no time worth telling. */
static void tell_share(void *context, double done) {
    const race *r = context;
    r->opt->progress(r->opt->progress_context, (r->n_searched + done) / r->n_searches);
}

static bool is_late(const race *r) { return r->deadline_us > 0 && gr_now_us() > r->deadline_us; }

/* Searches still to come share what is left of the time, and begin only while there is some; 0 would be no limit. */
static double time_of_search(const race *r) {
    double left_s = (r->deadline_us - gr_now_us()) * 1e-6;
    return r->deadline_us > 0 ? fmax(1e-6, left_s / fmax(1, r->n_searches - r->n_searched)) : 0;
}

/* A planner that cannot have this memory or this cluster does not take part. */
static grace_status enter(race *r, grace_planner planner, double balance) {
    grace_status st = GRACE_OK;
    grace_plan_options opt = *r->opt;
    candidate c = {0};
    const grace_trace_info *info = &r->profile->info;
    opt.planner = planner, opt.balance = balance, opt.objective = NULL, opt.slots_per_rank = 0, opt.time_limit_s = time_of_search(r);
    if (opt.progress) opt.progress = tell_share, opt.progress_context = r;
    opt.equal_slots = opt.equal_slots && planner == GRACE_PLANNER_AUTO;
    opt.memory = (double)r->slots_of_rank * grace_cluster_ranks(r->cluster) / ((double)info->n_layers * info->n_experts);
    st = grace_plan_build(r->profile, r->cluster, &opt, &c.plan);
    if (st == GRACE_ERR_LIMIT) return GRACE_OK;
    if (st) return st;
    if (gr_fullest_rank(c.plan) > r->slots_of_rank) goto done;
    if (r->opt->equal_slots && planner != GRACE_PLANNER_AUTO && !even_out(r, &c.plan)) goto done;
    GR_CALLOC(c.seconds, info->n_layers);
    GR_TRY(price_layers(c.plan, r->opt->bundles, r->opt->objective, c.seconds));
    for (int32_t l = 0; l < info->n_layers; l++) c.total += c.seconds[l];
    gr_log(GR_DEBUG, "plan", "%s, balance %.3g: %.6g s in the layers", grace_planner_name(planner), balance, c.total);
    r->items[r->n++] = c;
    return st;
done:
    grace_plan_free(c.plan);
    free(c.seconds);
    return st;
}

/* The bounds of the searches: the one asked for, others under which loads differ between nodes, and one that a layer on one node keeps. */
static int32_t list_bounds(const race *r, double *bounds) {
    int32_t n = 0;
    if (r->opt->balance > 0) bounds[n++] = r->opt->balance;
    for (size_t i = 0; i < sizeof BALANCES / sizeof *BALANCES; i++)
        if (BALANCES[i] != r->opt->balance && BALANCES[i] < r->cluster.n_nodes) bounds[n++] = BALANCES[i];
    if (r->cluster.n_nodes > 1) bounds[n++] = 2.0 * r->cluster.n_nodes;
    return n;
}

static grace_status enter_all(race *r) {
    grace_status st = GRACE_OK;
    double bounds[CANDIDATES_MAX];
    r->n_searches = list_bounds(r, bounds);
    for (; r->n_searched < r->n_searches && !(r->n > 0 && is_late(r)); r->n_searched++) GR_TRY(enter(r, GRACE_PLANNER_AUTO, bounds[r->n_searched]));
    if (r->opt->progress && r->n_searched < r->n_searches) r->opt->progress(r->opt->progress_context, 1);
    for (int planner = 0; planner < GRACE_N_PLANNERS; planner++)
        if (planner != GRACE_PLANNER_AUTO) GR_TRY(enter(r, (grace_planner)planner, 1.1));
done:
    return st;
}

/* ---- every layer from the fastest ---- */

static int32_t slots_on(const grace_plan *plan, int32_t layer, int32_t rank) {
    return plan->layers[layer].first_slot[rank + 1] - plan->layers[layer].first_slot[rank];
}

static bool fits(const race *r, const int64_t *total, const grace_plan *now, const grace_plan *then, int32_t layer) {
    for (int32_t rank = 0; rank < grace_cluster_ranks(r->cluster); rank++)
        if (total[rank] - slots_on(now, layer, rank) + slots_on(then, layer, rank) > r->slots_of_rank) return false;
    return true;
}

/* source [n_layers]: the candidate each layer is taken from. The exchange that saves most comes first. */
static grace_status mix(const race *r, int32_t best, int32_t *source) {
    grace_status st = GRACE_OK;
    int32_t n_layers = r->profile->info.n_layers, n_ranks = grace_cluster_ranks(r->cluster);
    int64_t *total = NULL;
    GR_CALLOC(total, n_ranks);
    for (int32_t l = 0; l < n_layers; l++) source[l] = best;
    for (int32_t l = 0; l < n_layers; l++)
        for (int32_t rank = 0; rank < n_ranks; rank++) total[rank] += slots_on(r->items[best].plan, l, rank);
    for (;;) {
        int32_t layer = -1, to = -1;
        double most = 1e-9 * r->items[best].total;
        for (int32_t l = 0; l < n_layers; l++)
            for (int32_t c = 0; c < r->n; c++) {
                double saved = r->items[source[l]].seconds[l] - r->items[c].seconds[l];
                if (saved > most && fits(r, total, r->items[source[l]].plan, r->items[c].plan, l)) most = saved, layer = l, to = c;
            }
        if (layer < 0) break;
        for (int32_t rank = 0; rank < n_ranks; rank++)
            total[rank] += slots_on(r->items[to].plan, layer, rank) - slots_on(r->items[source[layer]].plan, layer, rank);
        source[layer] = to;
    }
done:
    free(total);
    return st;
}

static grace_status take_layer(const grace_plan *from, int32_t layer, gr_copy *copies, int32_t *rank_of_expert, grace_plan *plan) {
    grace_status st = GRACE_OK;
    const grace_plan_layer *old = &from->layers[layer];
    grace_plan_layer *pl = &plan->layers[layer];
    size_t n_ranks = (size_t)grace_cluster_ranks(plan->cluster);
    int32_t n_copies = 0;
    for (int32_t e = 0; e < plan->n_experts; e++) rank_of_expert[e] = gr_plan_home(old, e);
    for (int32_t s = 0; s < old->n_slots; s++)
        if (old->rank_of_slot[s] != rank_of_expert[old->expert_of_slot[s]]) copies[n_copies++] = (gr_copy){old->expert_of_slot[s], old->rank_of_slot[s]};
    GR_TRY(gr_plan_place(plan, layer, rank_of_expert, copies, n_copies));
    for (int32_t i = 0; i < old->n_slots; i++) pl->poll_weight[pl->slots_of_expert[i]] = old->poll_weight[old->slots_of_expert[i]];
    memcpy(pl->load_before, old->load_before, n_ranks * sizeof *pl->load_before);
    memcpy(pl->load_after, old->load_after, n_ranks * sizeof *pl->load_after);
    pl->n_replica = old->n_replica;
done:
    return st;
}

static grace_status take_fastest(const race *r, grace_plan *plan) {
    grace_status st = GRACE_OK;
    int32_t best = 0, *source = NULL, *rank_of_expert = NULL;
    gr_copy *copies = NULL;
    GR_CALLOC(source, plan->n_layers);
    GR_CALLOC(rank_of_expert, plan->n_experts);
    GR_CALLOC(copies, (size_t)plan->n_experts * (size_t)grace_cluster_ranks(plan->cluster));
    for (int32_t c = 1; c < r->n; c++)
        if (r->items[c].total < r->items[best].total) best = c;
    GR_TRY(mix(r, best, source));
    for (int32_t l = 0; l < plan->n_layers; l++) GR_TRY(take_layer(r->items[source[l]].plan, l, copies, rank_of_expert, plan));
done:
    free(source), free(rank_of_expert), free(copies);
    return st;
}

grace_status gr_plan_auto_time(const grace_profile *profile, const grace_plan_options *opt, grace_plan *plan) {
    grace_status st = GRACE_OK;
    race r = {.profile = profile, .opt = opt, .cluster = plan->cluster};
    if (opt->time_limit_s > 0) r.deadline_us = gr_now_us() + opt->time_limit_s * 1e6;
    GR_TRY(grace_shape_check(&opt->objective->shape, plan->n_layers, plan->n_experts, plan->top_k));
    GR_TRY(gr_auto_check_bundles(profile, opt->bundles));
    GR_TRY(gr_slot_budget(profile, plan->cluster, opt, &r.slots_of_rank));
    GR_TRY(enter_all(&r));
    GR_CHECK(r.n > 0, GRACE_ERR_LIMIT, "plan: no planner has a plan that fits the memory");
    GR_TRY(take_fastest(&r, plan));
done:
    for (int32_t i = 0; i < r.n; i++) grace_plan_free(r.items[i].plan), free(r.items[i].seconds);
    return st;
}
