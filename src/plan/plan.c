#include "grace/plan.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/memory.h"
#include "plan/auto.h"
#include "plan/baselines.h"
#include "plan/budget.h"
#include "plan/cluster.h"
#include "plan/cost.h"
#include "plan/hierarchy.h"
#include "plan/knee.h"
#include "plan/layer_ids.h"
#include "plan/replicate.h"
#include "plan/tables.h"

/* One plan being built. */
typedef struct builder {
    const grace_profile *profile;
    grace_plan_options opt;
    grace_plan *plan;
    int32_t n, n_ranks, n_layers;
    gr_clusters *clusters;      /* [n_layers], planner grace only */
    int32_t *rank_of_expert;    /* [n_layers, n] */
    gr_replicas replicas;       /* its arrays hold n experts and n_ranks hosts */
    gr_copy *copies;            /* [n * n_ranks] at most n_hot * n_replica are used */
} builder;

grace_plan_options grace_plan_defaults(void) {
    return (grace_plan_options){
        .planner = GRACE_PLANNER_GRACE, .grouping = GRACE_GROUPING_CONTROLLED, .replication = GRACE_REPLICATION_DYNAMIC, .r = -1,
        .eplb_groups = 1, .balance = 1.1, .w_gpu = 0.1, .max_moves = 64};
}

const char *grace_planner_name(grace_planner planner) {
    static const char *const names[] = {"contiguous", "uniform", "grace", "random", "eplb", "replicate-node", "auto"};
    GR_ASSERT((unsigned)planner < GRACE_N_PLANNERS);
    return names[planner];
}

/* ---- what comes in ---- */

static grace_status check_options(const grace_plan_options *opt) {
    grace_status st = GRACE_OK;
    GR_CHECK((unsigned)opt->planner < GRACE_N_PLANNERS, GRACE_ERR_ARG, "plan: no planner has number %d", (int)opt->planner);
    GR_CHECK((unsigned)opt->grouping <= GRACE_GROUPING_UNIFORM, GRACE_ERR_ARG, "plan: no grouping has number %d", (int)opt->grouping);
    GR_CHECK((unsigned)opt->replication <= GRACE_REPLICATION_DYNAMIC, GRACE_ERR_ARG, "plan: no replication has number %d", (int)opt->replication);
    GR_CHECK(opt->r <= 1, GRACE_ERR_ARG, "plan: ratio r: expected at most 1 (or below 0: chosen at the knee), found %g", opt->r);
    GR_CHECK(opt->memory == 0 || (opt->memory >= 1 && opt->memory <= GRACE_RANKS_MAX), GRACE_ERR_ARG,
             "plan: memory: expected 1 to %d times the model (or 0: not given), found %g", GRACE_RANKS_MAX, opt->memory);
    GR_CHECK(opt->slots_per_rank >= 0 && opt->slots_per_rank <= GR_PLAN_EXPERTS_MAX, GRACE_ERR_ARG,
             "plan: slots a rank and layer: expected 1 to %d (or 0: not given), found %d", GR_PLAN_EXPERTS_MAX, opt->slots_per_rank);
    GR_CHECK(opt->eplb_groups >= 1, GRACE_ERR_ARG, "plan: expected at least 1 group for eplb, found %d", opt->eplb_groups);
    GR_CHECK(opt->balance == 0 || opt->balance >= 1, GRACE_ERR_ARG,
             "plan: balance: expected a bound of 1 or more on max/mean load (or 0: under that of grace), found %g", opt->balance);
    GR_CHECK(opt->w_gpu >= 0 && opt->w_gpu <= 1e9, GRACE_ERR_ARG, "plan: weight of rows inside a node: expected 0 to 1e9, found %g", opt->w_gpu);
    GR_CHECK(!opt->from || opt->planner == GRACE_PLANNER_AUTO, GRACE_ERR_ARG, "plan: only planner auto starts from a plan");
    GR_CHECK(!opt->equal_slots || (opt->planner == GRACE_PLANNER_AUTO && !opt->from), GRACE_ERR_ARG, "plan: only a search of planner auto has equal slots");
    GR_CHECK(!opt->objective || (opt->planner == GRACE_PLANNER_AUTO && !opt->from), GRACE_ERR_ARG, "plan: only a search of planner auto has an objective");
    GR_CHECK(opt->max_moves >= 0, GRACE_ERR_ARG, "plan: moves: expected 0 or more, found %d", opt->max_moves);
    GR_CHECK(opt->time_limit_s >= 0, GRACE_ERR_ARG, "plan: time limit: expected 0 seconds (none) or more, found %g", opt->time_limit_s);
done:
    return st;
}

static grace_status check_values(const char *what, const double *values, size_t n) {
    for (size_t i = 0; i < n; i++) {
        if (!isfinite(values[i])) return gr_fail(GRACE_ERR_NUMERIC, "profile: %s[%zu] is %g", what, i, values[i]);
        if (values[i] < 0) return gr_fail(GRACE_ERR_ARG, "profile: %s[%zu]: expected 0 or more, found %g", what, i, values[i]);
    }
    return GRACE_OK;
}

static grace_status check_affinity(const double *affinity, int32_t layer, int32_t n) {
    for (int32_t i = 0; i < n; i++)
        for (int32_t j = 0; j <= i; j++) {
            double a = affinity[(size_t)i * n + j], b = affinity[(size_t)j * n + i];
            if (i == j ? a != 0 : a != b)
                return gr_fail(GRACE_ERR_ARG, "profile: affinity of layer %d is not symmetric with a zero diagonal: [%d][%d] is %g, [%d][%d] is %g",
                               layer, i, j, a, j, i, b);
        }
    return GRACE_OK;
}

static grace_status check_profile(const grace_profile *profile, int32_t n_ranks, bool empty_ranks) {
    grace_status st = GRACE_OK;
    int32_t n = profile->info.n_experts, n_layers = profile->info.n_layers;
    GR_CHECK(n_ranks <= n || empty_ranks, GRACE_ERR_LIMIT,
             "%d ranks for %d experts: expected at least one for each, unless ranks may host none (--allow-empty-ranks)", n_ranks, n);
    GR_TRY(check_values("load", profile->load, (size_t)n_layers * n));
    GR_TRY(check_values("affinity", profile->affinity, (size_t)n_layers * n * n));
    for (int32_t l = 0; l < n_layers; l++) GR_TRY(check_affinity(profile->affinity + (size_t)l * n * n, l, n));
done:
    return st;
}

static const double *affinity_of(const builder *b, int32_t layer) { return b->profile->affinity + (size_t)layer * b->n * b->n; }
static const double *load_of(const builder *b, int32_t layer) { return b->profile->load + (size_t)layer * b->n; }
static int32_t *ranks_of(const builder *b, int32_t layer) { return b->rank_of_expert + (size_t)layer * b->n; }
static uint64_t layer_seed(const builder *b, int32_t layer) { return b->opt.seed + gr_mix32((uint32_t)layer, 1, 0); }

static grace_status builder_open(const grace_profile *profile, grace_cluster cluster, const grace_plan_options *opt, builder *b) {
    grace_status st = GRACE_OK;
    *b = (builder){.profile = profile, .opt = *opt, .n = profile->info.n_experts, .n_layers = profile->info.n_layers};
    GR_TRY(check_options(opt));
    GR_TRY(gr_plan_new(b->n_layers, b->n, profile->info.top_k, cluster, &b->plan));
    b->n_ranks = grace_cluster_ranks(cluster);
    GR_TRY(check_profile(profile, b->n_ranks, opt->empty_ranks));
    GR_CALLOC(b->clusters, b->n_layers);
    GR_CALLOC(b->rank_of_expert, (size_t)b->n_layers * b->n);
    GR_CALLOC(b->replicas.hot, b->n);
    GR_CALLOC(b->replicas.hosts, b->n_ranks);
    GR_CALLOC(b->copies, (size_t)b->n * b->n_ranks);
done:
    return st;
}

static void builder_close(builder *b) {
    for (int32_t l = 0; b->clusters && l < b->n_layers; l++) gr_clusters_free(&b->clusters[l]);
    free(b->clusters), free(b->rank_of_expert), free(b->replicas.hot), free(b->replicas.hosts), free(b->copies);
    grace_plan_free(b->plan);
}

/* ---- grouping ---- */

static void group_contiguous(builder *b) {
    for (int32_t l = 0; l < b->n_layers; l++)
        for (int32_t e = 0; e < b->n; e++) ranks_of(b, l)[e] = (int32_t)((int64_t)e * b->n_ranks / b->n);
}

static grace_status group_uniform(builder *b) {
    grace_status st = GRACE_OK;
    for (int32_t l = 0; l < b->n_layers; l++) GR_TRY(gr_group_flat(affinity_of(b, l), b->n, b->n_ranks, layer_seed(b, l), ranks_of(b, l)));
done:
    return st;
}

/* paper Eq. 1-2 for one ratio: U and S, averaged over layers. */
static grace_status measure_ratio(builder *b, double r, grace_knee_point *point) {
    grace_status st = GRACE_OK;
    for (int32_t l = 0; l < b->n_layers; l++) {
        double spread;
        GR_TRY(gr_clusters_bound(&b->clusters[l], GRACE_GROUPING_CONTROLLED, r, ranks_of(b, l), &spread));
        point->size_std += sqrt(spread / b->n_ranks) / b->n_layers;
        point->utility += gr_utility(affinity_of(b, l), b->n, ranks_of(b, l)) / b->n_layers;
    }
    point->r = r;
done:
    return st;
}

/* Candidates are delta = 1..E of an even split over all ranks; nodes of other sizes round r times their own E. */
static grace_status choose_ratio(builder *b) {
    grace_status st = GRACE_OK;
    grace_plan *plan = b->plan;
    int32_t ideal = b->n > b->n_ranks ? b->n / b->n_ranks : 1;
    GR_ARENA_ARRAY(plan->memory, plan->knee, ideal);
    for (int32_t delta = 1; delta <= ideal; delta++) {
        plan->knee[delta - 1].delta = delta;
        GR_TRY(measure_ratio(b, (double)delta / ideal, &plan->knee[delta - 1]));
    }
    plan->n_knee = ideal;
    plan->knee_chosen = gr_knee(plan->knee, ideal);
    plan->r = plan->knee[plan->knee_chosen].r;
done:
    return st;
}

static grace_status group_grace(builder *b) {
    grace_status st = GRACE_OK;
    bool has_ratio = b->opt.grouping == GRACE_GROUPING_CONTROLLED && b->plan->cluster.gpus_per_node > 1;
    for (int32_t l = 0; l < b->n_layers; l++)
        GR_TRY(gr_clusters_build(affinity_of(b, l), b->n, b->plan->cluster, layer_seed(b, l), &b->clusters[l]));
    if (has_ratio && b->opt.r >= 0) b->plan->r = b->opt.r;
    if (has_ratio && b->opt.r < 0) GR_TRY(choose_ratio(b));
    for (int32_t l = 0; l < b->n_layers; l++) GR_TRY(gr_clusters_bound(&b->clusters[l], b->opt.grouping, b->plan->r, ranks_of(b, l), NULL));
done:
    return st;
}

static grace_status group(builder *b) {
    switch (b->opt.planner) {
    case GRACE_PLANNER_CONTIGUOUS: group_contiguous(b); return GRACE_OK;
    case GRACE_PLANNER_UNIFORM: return group_uniform(b);
    default: return group_grace(b);
    }
}

/* ---- replication and tables ---- */

static int32_t list_copies(const gr_replicas *replicas, gr_copy *copies) {
    int32_t n = 0;
    for (int32_t i = 0; i < replicas->n_hot; i++)
        for (int32_t h = 0; h < replicas->n_replica; h++) copies[n++] = (gr_copy){replicas->hot[i], replicas->hosts[h]};
    return n;
}

static grace_status place_layer(builder *b, int32_t layer, double *rank_load) {
    grace_status st = GRACE_OK;
    grace_plan_layer *pl = &b->plan->layers[layer];
    gr_rank_loads(load_of(b, layer), ranks_of(b, layer), b->n, b->n_ranks, rank_load);
    gr_replicate(load_of(b, layer), ranks_of(b, layer), b->n, rank_load, b->n_ranks, b->opt.replication, &b->replicas);
    GR_TRY(gr_plan_place(b->plan, layer, ranks_of(b, layer), b->copies, list_copies(&b->replicas, b->copies)));
    pl->n_replica = b->replicas.n_replica;
    memcpy(pl->load_before, rank_load, (size_t)b->n_ranks * sizeof *rank_load);
    gr_predict_load(load_of(b, layer), &b->replicas, rank_load);
    memcpy(pl->load_after, rank_load, (size_t)b->n_ranks * sizeof *rank_load);
    gr_plan_weigh(b->plan, layer);
    gr_log(GR_DEBUG, "plan", "layer %d: %d hot experts of rank %d on %d more ranks", layer, b->replicas.n_hot, b->replicas.heaviest, pl->n_replica);
done:
    return st;
}

static grace_status place(builder *b) {
    grace_status st = GRACE_OK;
    double *rank_load = NULL;
    GR_CALLOC(rank_load, b->n_ranks);
    for (int32_t l = 0; l < b->n_layers; l++) GR_TRY(place_layer(b, l, rank_load));
done:
    free(rank_load);
    return st;
}

/* ---- baselines: placements that look at no affinity ---- */

static grace_status place_baseline(builder *b, int32_t layer, int32_t slots_per_rank) {
    grace_status st = GRACE_OK;
    grace_plan *plan = b->plan;
    grace_plan_layer *pl = &plan->layers[layer];
    int32_t n_copies = 0, *ranks = ranks_of(b, layer);
    if (b->opt.planner == GRACE_PLANNER_RANDOM) GR_TRY(gr_place_random(b->n, b->n_ranks, layer_seed(b, layer), ranks));
    if (b->opt.planner == GRACE_PLANNER_REPLICATE_NODE) GR_TRY(gr_place_replicate_node(load_of(b, layer), b->n, plan->cluster, ranks, b->copies, &n_copies));
    if (b->opt.planner == GRACE_PLANNER_EPLB)
        GR_TRY(gr_place_eplb(load_of(b, layer), b->n, plan->cluster, slots_per_rank, b->opt.eplb_groups, ranks, b->copies, &n_copies));
    GR_TRY(gr_plan_place(plan, layer, ranks, b->copies, n_copies));
    gr_rank_loads(load_of(b, layer), ranks, b->n, b->n_ranks, pl->load_before);
    GR_TRY(gr_plan_settle(plan, layer, load_of(b, layer)));
done:
    return st;
}

/* A budget between two whole numbers of experts a rank is rounded down, but the experts themselves always fit. */
static grace_status baseline_slots(builder *b, int32_t *slots_per_rank) {
    grace_status st = GRACE_OK;
    int64_t budget = 0, each = (b->n + b->n_ranks - 1) / b->n_ranks;
    int32_t per_gpu = (b->n + b->plan->cluster.gpus_per_node - 1) / b->plan->cluster.gpus_per_node;
    bool given = b->opt.memory > 0 || b->opt.slots_per_rank > 0;
    if (b->opt.planner == GRACE_PLANNER_EPLB || given) GR_TRY(gr_slot_budget(b->profile, b->plan->cluster, &b->opt, &budget));
    GR_CHECK(b->opt.planner != GRACE_PLANNER_REPLICATE_NODE || !given || budget / b->n_layers >= per_gpu, GRACE_ERR_LIMIT,
             "plan: every expert on every node takes %d slots a rank and layer, the memory given has %d", per_gpu, (int32_t)(budget / b->n_layers));
    *slots_per_rank = (int32_t)(budget / b->n_layers > each ? budget / b->n_layers : each);
done:
    return st;
}

static grace_status place_baselines(builder *b) {
    grace_status st = GRACE_OK;
    int32_t slots_per_rank;
    GR_TRY(baseline_slots(b, &slots_per_rank));
    for (int32_t l = 0; l < b->n_layers; l++) GR_TRY(place_baseline(b, l, slots_per_rank));
done:
    return st;
}

static grace_status fill(builder *b) {
    grace_status st = GRACE_OK;
    switch (b->opt.planner) {
    case GRACE_PLANNER_RANDOM: b->opt.replication = GRACE_REPLICATION_NONE; return place_baselines(b);
    case GRACE_PLANNER_EPLB:
    case GRACE_PLANNER_REPLICATE_NODE: return place_baselines(b);
    case GRACE_PLANNER_AUTO: return (b->opt.objective ? gr_plan_auto_time : gr_plan_auto)(b->profile, &b->opt, b->plan);
    default:
        if (b->opt.planner != GRACE_PLANNER_GRACE) b->opt.replication = GRACE_REPLICATION_NONE;     /* what baselines are: no copies */
        GR_TRY(group(b));
        GR_TRY(place(b));
    }
done:
    return st;
}

/* A planner beyond the paper has no grouping of the paper's kinds, and its copies, if it makes any, go by its own name. */
static grace_status describe(builder *b) {
    grace_status st = GRACE_OK;
    grace_plan *plan = b->plan;
    const char *name = grace_planner_name(b->opt.planner);
    snprintf(plan->planner, sizeof plan->planner, "%s", name);
    if (b->opt.planner == GRACE_PLANNER_GRACE) snprintf(plan->grouping, sizeof plan->grouping, "%s", gr_grouping_name(b->opt.grouping));
    snprintf(plan->replication, sizeof plan->replication, "%s", b->opt.planner < GRACE_PLANNER_EPLB ? gr_replication_name(b->opt.replication) : name);
    plan->fingerprint = b->profile->info.fingerprint;
    plan->seed = b->opt.seed;
    plan->planned_from = b->profile->origin;
    GR_TRY(gr_plan_set_layer_ids(plan, gr_layer_ids_of(&b->profile->info)));
done:
    return st;
}

grace_status grace_plan_build(const grace_profile *profile, grace_cluster cluster, const grace_plan_options *opt, grace_plan **out) {
    grace_status st = GRACE_OK;
    builder b;
    GR_TRY(builder_open(profile, cluster, opt, &b));
    GR_TRY(fill(&b));
    GR_TRY(describe(&b));
    *out = b.plan, b.plan = NULL;
done:
    builder_close(&b);
    return st;
}

/* ---- is this plan for this run? ---- */

grace_status grace_plan_check(const grace_plan *plan, uint64_t fingerprint, int32_t n_layers, const int32_t *layer_ids, int32_t n_experts, int32_t top_k,
                              grace_cluster cluster) {
    grace_status st = GRACE_OK;
    GR_CHECK(plan->cluster.n_nodes == cluster.n_nodes && plan->cluster.gpus_per_node == cluster.gpus_per_node, GRACE_ERR_MISMATCH,
             "plan is for cluster %s, this run has %s (--ranks %dx%d starts what the plan is for)", gr_cluster_text(plan->cluster).text,
             gr_cluster_text(cluster).text, plan->cluster.n_nodes, plan->cluster.gpus_per_node);
    GR_CHECK(plan->n_layers == n_layers && plan->n_experts == n_experts && plan->top_k == top_k, GRACE_ERR_MISMATCH,
             "plan is for %d MoE layers of %d experts, top-%d; the model has %d of %d, top-%d", plan->n_layers, plan->n_experts, plan->top_k, n_layers,
             n_experts, top_k);
    GR_TRY(gr_layer_ids_agree("plan", plan->layer_ids, layer_ids, n_layers));
    GR_CHECK(plan->fingerprint == 0 || fingerprint == 0 || plan->fingerprint == fingerprint, GRACE_ERR_MISMATCH,
             "plan was made for model %016" PRIx64 ", this model is %016" PRIx64 "%s%s", plan->fingerprint, fingerprint,
             plan->planned_from.file[0] ? "; it was planned from " : "", plan->planned_from.file);
done:
    return st;
}
