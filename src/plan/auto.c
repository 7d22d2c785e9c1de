#include "plan/auto.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "plan/budget.h"
#include "plan/cost.h"
#include "plan/layer_ids.h"

/* Tokens not seen load GPUs less evenly than those planned on, as if every expert's load were off by this much on its own, and by the other at least. */
static const double EXPERT_ERROR = 0.1, ERROR_LEAST = 0.04;
static const double BALANCE_SHARE = 0.25;       /* of the memory for copies, what counts when asking how even a layer can be */
static const double NODE_SHARE = 0.8;           /* of the allowance, what nodes may use up; the rest is for GPUs */
static const double UNDER_GRACE = 0.95, BALANCE_LEAST = 1.1;    /* balance 0 */

bool gr_auto_late(const gr_auto *a) { return a->deadline_us > 0 && gr_now_us() > a->deadline_us; }

void gr_auto_tell(gr_auto *a, double done) {
    if (!a->opt.progress || done <= a->done) return;
    a->done = done;
    a->opt.progress(a->opt.progress_context, done);
}

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

/* ---- bounds ---- */

static int32_t most_a_copy(const double *load, const int32_t *copies, int32_t n) {
    int32_t best = 0;
    for (int32_t e = 1; e < n; e++)
        if (load[e] / copies[e] > load[best] / copies[best]) best = e;
    return best;
}

static int32_t lightest(const double *rank_load, int32_t n_ranks) {
    int32_t best = 0;
    for (int32_t r = 1; r < n_ranks; r++)
        if (rank_load[r] < rank_load[best]) best = r;
    return best;
}

/* Max/mean load of ranks when copies serve nothing but balance: every copy to the expert with most load a copy, then the heaviest first to the
 * lightest rank. */
static grace_status evenest(const double *load, int32_t n, int32_t n_ranks, int64_t n_slots, double *out) {
    grace_status st = GRACE_OK;
    int32_t *copies = NULL;
    double *rank_load = NULL;
    GR_CALLOC(copies, n);
    GR_CALLOC(rank_load, n_ranks);
    for (int32_t e = 0; e < n; e++) copies[e] = 1;
    for (int64_t i = n; i < n_slots; i++) copies[most_a_copy(load, copies, n)]++;
    for (int64_t left = n_slots; left > 0;) {
        int32_t best = -1;
        for (int32_t e = 0; e < n; e++)
            if (copies[e] > 0 && (best < 0 || load[e] / copies[e] > load[best] / copies[best])) best = e;
        for (double part = load[best] / copies[best]; copies[best] > 0; copies[best]--, left--) rank_load[lightest(rank_load, n_ranks)] += part;
    }
    *out = gr_max_over_mean(rank_load, n_ranks);
done:
    free(copies), free(rank_load);
    return st;
}

/* 0: so much under the paper's plan that tokens not seen stay under it too. */
static double balance_of(const gr_auto *a, int32_t layer) {
    return a->opt.balance > 0 ? a->opt.balance : fmax(BALANCE_LEAST, UNDER_GRACE * a->grace_ratio[layer]);
}

/* A layer whose hottest expert alone is over the bound gets one that can be kept, and is under the paper's plan all the same. */
static grace_status bound_layer(const gr_auto *a, int32_t layer, gr_auto_layer *al) {
    grace_status st = GRACE_OK;
    double margin = fmax(ERROR_LEAST, EXPERT_ERROR / sqrt((double)a->n / a->n_ranks)), even, balance = balance_of(a, layer);
    double extra = (double)(a->slots_of_rank * a->n_ranks) / a->n_layers - a->n;
    GR_TRY(evenest(al->nodes.load, a->n, a->n_ranks, a->n + (int64_t)(BALANCE_SHARE * extra), &even));
    even = fmin(even, (1 - margin) * UNDER_GRACE * a->grace_ratio[layer]);
    al->bound = fmax(even, fmax(1 + (balance - 1) / 4, (1 - margin) * balance));
    al->nodes.bound = 1 + NODE_SHARE * (al->bound - 1);
    al->nodes.gpu_bound = al->bound;
    al->nodes.slots_most = a->slots_each * a->cluster.gpus_per_node;
done:
    return st;
}

static grace_status layer_open(void *context, int32_t layer) {
    grace_status st = GRACE_OK;
    gr_auto *a = context;
    gr_auto_layer *al = &a->layers[layer];
    int32_t nodes = a->cluster.n_nodes;
    size_t n = (size_t)a->n;
    GR_TRY(sample_bundles(&a->opt.bundles->layers[layer], a->top_k, bundles_most(nodes) / (a->opt.from ? 4 : 1), &al->sample));      /* a few moves need less */
    GR_TRY(gr_nodes_open(&al->sample, a->top_k, a->profile->load + (size_t)layer * n, a->n, a->cluster, &al->nodes));
    GR_CALLOC(al->parts, nodes);
    GR_CALLOC(al->fetch, n * (size_t)nodes);
    GR_CALLOC(al->primary, n);
    GR_CALLOC(al->node_label, nodes);
    GR_CALLOC(al->gpu_label, a->n_ranks);
    GR_CALLOC(al->relief, n * (size_t)a->n_ranks);
    GR_TRY(bound_layer(a, layer, al));
done:
    return st;
}

static void layer_close(gr_auto_layer *al, int32_t n_nodes) {
    gr_nodes_close(&al->nodes);
    for (int32_t node = 0; al->parts && node < n_nodes; node++) gr_parts_close(&al->parts[node]);
    free(al->parts), free(al->sample.experts), free(al->sample.count), free(al->fetch), free(al->primary), free(al->node_label);
    free(al->gpu_label), free(al->relief);
}

grace_status gr_auto_check_bundles(const grace_profile *profile, const grace_bundles *b) {
    grace_status st = GRACE_OK;
    const grace_trace_info *info = &profile->info;
    GR_CHECK(b, GRACE_ERR_ARG, "plan: planner auto needs the trace's bundles");
    GR_CHECK(b->n_layers == info->n_layers && b->n_experts == info->n_experts && b->top_k == info->top_k, GRACE_ERR_ARG,
             "plan: bundles are of %d layers of %d experts, top-%d; the profile has %d of %d, top-%d", b->n_layers, b->n_experts, b->top_k,
             info->n_layers, info->n_experts, info->top_k);
done:
    return st;
}

/* The loads under which ours shall stay. */
static grace_status read_grace(gr_auto *a) {
    grace_status st = GRACE_OK;
    grace_plan_options paper = a->opt;
    grace_plan *plan = NULL;
    gr_shares shares = {0};
    double rank_load[GRACE_RANKS_MAX];
    paper.planner = GRACE_PLANNER_GRACE, paper.from = NULL, paper.objective = NULL, paper.equal_slots = false;
    GR_CALLOC(a->grace_ratio, a->n_layers);
    for (int32_t l = 0; l < a->n_layers; l++) a->grace_ratio[l] = INFINITY;
    if (a->opt.from && a->opt.balance > 0) return st;       /* a few moves should cost a few milliseconds */
    GR_TRY(grace_plan_build(a->profile, a->cluster, &paper, &plan));
    for (int32_t l = 0; l < a->n_layers; l++) {
        gr_shares_free(&shares);
        GR_TRY(gr_shares_build(plan, l, &shares));
        gr_cost_loads(&shares, a->profile->load + (size_t)l * (size_t)a->n, rank_load);
        a->grace_ratio[l] = gr_max_over_mean(rank_load, a->n_ranks);
    }
done:
    gr_shares_free(&shares);
    grace_plan_free(plan);
    return st;
}

/* As many slots everywhere: memory is rounded down to that. */
static grace_status even_out(gr_auto *a) {
    grace_status st = GRACE_OK;
    int64_t each = a->slots_of_rank / a->n_layers, least = (a->n + a->n_ranks - 1) / a->n_ranks;
    GR_CHECK(each >= least, GRACE_ERR_LIMIT, "plan: equal slots: %d experts on %d ranks take %" PRId64 " slots a rank and layer, the memory given has %" PRId64,
             a->n, a->n_ranks, least, each);
    a->slots_each = (int32_t)(each < a->n ? each : a->n);
    a->slots_of_rank = (int64_t)a->slots_each * a->n_layers;
done:
    return st;
}

static grace_status auto_open(const grace_profile *profile, const grace_plan_options *opt, grace_cluster cluster, gr_auto *a) {
    grace_status st = GRACE_OK;
    *a = (gr_auto){.profile = profile, .opt = *opt, .cluster = cluster, .n_layers = profile->info.n_layers, .n = profile->info.n_experts,
                   .n_ranks = grace_cluster_ranks(cluster), .top_k = profile->info.top_k};
    if (opt->time_limit_s > 0) a->deadline_us = gr_now_us() + opt->time_limit_s * 1e6;
    GR_TRY(gr_auto_check_bundles(profile, opt->bundles));
    if (opt->from) GR_TRY(grace_plan_check(opt->from, profile->info.fingerprint, a->n_layers, gr_layer_ids_of(&profile->info), a->n, a->top_k, cluster));
    GR_TRY(gr_slot_budget(profile, cluster, opt, &a->slots_of_rank));
    if (opt->equal_slots) GR_TRY(even_out(a));
    GR_TRY(read_grace(a));
    GR_CALLOC(a->layers, a->n_layers);
    GR_TRY(gr_parallel(a->n_layers, layer_open, a));
done:
    return st;
}

static void auto_close(gr_auto *a) {
    for (int32_t l = 0; a->layers && l < a->n_layers; l++) layer_close(&a->layers[l], a->cluster.n_nodes);
    free(a->layers), free(a->grace_ratio);
}

void gr_auto_remember(gr_auto *a, int32_t layer) {
    gr_auto_layer *al = &a->layers[layer];
    memcpy(al->fetch, al->nodes.fetch, (size_t)a->n * (size_t)a->cluster.n_nodes * sizeof *al->fetch);
    memcpy(al->primary, al->nodes.primary, (size_t)a->n * sizeof *al->primary);
}

void gr_auto_go_back(gr_auto *a, int32_t layer) {
    gr_nodes_restore(&a->layers[layer].nodes, a->layers[layer].fetch, a->layers[layer].primary);
}

static grace_status search(gr_auto *a, grace_plan *plan) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_auto_place_nodes(a));
    gr_auto_tell(a, GR_AUTO_COPIED);
    GR_TRY(gr_auto_label_nodes(a));
    GR_TRY(gr_auto_place_gpus(a));
    GR_TRY(gr_auto_fill_tables(a, plan));
done:
    return st;
}

grace_status gr_plan_auto(const grace_profile *profile, const grace_plan_options *opt, grace_plan *plan) {
    grace_status st = GRACE_OK;
    gr_auto a = {0};
    GR_TRY(auto_open(profile, opt, plan->cluster, &a));
    if (opt->from) GR_TRY(gr_auto_from(&a, plan));
    else GR_TRY(search(&a, plan));
    gr_auto_tell(&a, 1);
done:
    auto_close(&a);
    return st;
}
