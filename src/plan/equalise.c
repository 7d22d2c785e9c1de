#include "plan/equalise.h"

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "plan/tables.h"

/* A layer being filled. A candidate costs few steps: only the hosts of an expert and the new rank change, and ranks are kept in order of load. */
typedef struct filling {
    int32_t n, n_ranks, n_slots;    /* slots a rank shall have */
    double *load;                   /* [n] */
    double *rank_load;              /* [n_ranks] predicted */
    int32_t *by_load;               /* [n_ranks] ranks, falling load */
    bool *holds;                    /* [n, n_ranks] */
    int32_t *hosts, *n_hosts;       /* [n, n_ranks], [n] ranks that hold the expert */
    int32_t *n_free;                /* [n_ranks] */
    int32_t *home;                  /* [n] */
    gr_copy *copies;                /* [n * (n_ranks - 1)] */
    int32_t n_copies;
} filling;

static int32_t *hosts_of(const filling *f, int32_t expert) { return &f->hosts[(size_t)expert * (size_t)f->n_ranks]; }
static bool *held(const filling *f, int32_t expert, int32_t rank) { return &f->holds[(size_t)expert * (size_t)f->n_ranks + (size_t)rank]; }

/* ---- what is there ---- */

static int32_t most_slots(const grace_plan *plan) {
    int32_t most = 0;
    for (int32_t l = 0; l < plan->n_layers; l++)
        for (int32_t r = 0; r < grace_cluster_ranks(plan->cluster); r++) {
            int32_t n = plan->layers[l].first_slot[r + 1] - plan->layers[l].first_slot[r];
            if (n > most) most = n;
        }
    return most;
}

static grace_status check(const grace_plan *plan, const grace_profile *profile, int32_t slots_per_rank) {
    grace_status st = GRACE_OK;
    int32_t most = most_slots(plan);
    GR_CHECK(slots_per_rank >= 0, GRACE_ERR_ARG, "slots of a rank: expected 0 or more, found %d", slots_per_rank);
    GR_CHECK(!profile || (profile->info.n_layers == plan->n_layers && profile->info.n_experts == plan->n_experts), GRACE_ERR_MISMATCH,
             "the plan has %d layers of %d experts, the profile %d of %d", plan->n_layers, plan->n_experts, profile->info.n_layers,
             profile->info.n_experts);
    GR_CHECK(slots_per_rank == 0 || slots_per_rank >= most, GRACE_ERR_LIMIT, "%d slots for each rank, but one has %d already", slots_per_rank, most);
    GR_CHECK(slots_per_rank <= plan->n_experts, GRACE_ERR_LIMIT, "%d slots for each rank, but there are only %d experts, and a rank holds none twice",
             slots_per_rank, plan->n_experts);
done:
    return st;
}

/* Loads of experts as the header says; false when there are none and all count alike. */
static bool find_loads(filling *f, const grace_plan_layer *pl, const double *profiled) {
    double sum = 0;
    for (int32_t e = 0; e < f->n; e++) {
        int32_t n_primaries = 0;
        for (int32_t other = 0; other < f->n; other++) n_primaries += f->home[other] == f->home[e];
        f->load[e] = profiled ? profiled[e] : pl->load_before[f->home[e]] / n_primaries;
        sum += f->load[e];
    }
    for (int32_t e = 0; e < f->n && !(sum > 0); e++) f->load[e] = 1;
    return sum > 0;
}

static void start(filling *f, const grace_plan_layer *pl) {
    f->n_copies = 0;
    memset(f->holds, 0, (size_t)f->n * (size_t)f->n_ranks * sizeof *f->holds);
    for (int32_t e = 0; e < f->n; e++) {
        f->home[e] = gr_plan_home(pl, e);
        f->n_hosts[e] = 0;
    }
    for (int32_t r = 0; r < f->n_ranks; r++) f->n_free[r] = f->n_slots - (pl->first_slot[r + 1] - pl->first_slot[r]);
    for (int32_t s = 0; s < pl->n_slots; s++) {
        int32_t e = pl->expert_of_slot[s], r = pl->rank_of_slot[s];
        *held(f, e, r) = true;
        hosts_of(f, e)[f->n_hosts[e]++] = r;
        if (r != f->home[e]) f->copies[f->n_copies++] = (gr_copy){e, r};
    }
}

/* From the order before, in which few ranks are out of place. */
static void sort_ranks(filling *f) {
    for (int32_t i = 1; i < f->n_ranks; i++) {
        int32_t rank = f->by_load[i], at = i;
        for (; at > 0 && f->rank_load[f->by_load[at - 1]] < f->rank_load[rank]; at--) f->by_load[at] = f->by_load[at - 1];
        f->by_load[at] = rank;
    }
}

static void predict(filling *f) {
    for (int32_t r = 0; r < f->n_ranks; r++) f->rank_load[r] = 0, f->by_load[r] = r;
    for (int32_t e = 0; e < f->n; e++)
        for (int32_t h = 0; h < f->n_hosts[e]; h++) f->rank_load[hosts_of(f, e)[h]] += f->load[e] / f->n_hosts[e];
    sort_ranks(f);
}

/* ---- choosing ---- */

/* Sums of the same numbers in another order differ in their last digits: that is no reason to prefer one. */
static int compare(double a, double b, double scale) { return a < b - 1e-9 * scale ? -1 : a > b + 1e-9 * scale; }

/* -1: no rank has a free slot. */
static int32_t next_rank(const filling *f) {
    int32_t best = -1;
    for (int32_t r = 0; r < f->n_ranks; r++)
        if (f->n_free[r] > 0 && (best < 0 || compare(f->rank_load[r], f->rank_load[best], f->rank_load[f->by_load[0]]) < 0)) best = r;
    return best;
}

typedef struct outcome { double greatest, squares; } outcome;      /* squares: change of the sum */

static double square_grown(double before, double after) { return after * after - before * before; }

/* The expert's hosts give up a part each, the rank takes them all. */
static outcome try_copy(const filling *f, int32_t expert, int32_t rank) {
    double now = f->load[expert] / f->n_hosts[expert], then = f->load[expert] / (f->n_hosts[expert] + 1);
    double before = f->rank_load[rank];
    outcome o = {before + then, square_grown(before, before + then)};
    for (int32_t h = 0; h < f->n_hosts[expert]; h++) {
        double load = f->rank_load[hosts_of(f, expert)[h]];
        o.greatest = fmax(o.greatest, load + then - now);
        o.squares += square_grown(load, load + then - now);
    }
    for (int32_t i = 0; i < f->n_ranks; i++) {
        int32_t r = f->by_load[i];
        if (r == rank || *held(f, expert, r)) continue;
        o.greatest = fmax(o.greatest, f->rank_load[r]);
        break;
    }
    return o;
}

static bool better(outcome a, outcome b) {
    int order = compare(a.greatest, b.greatest, b.greatest);
    return order < 0 || (order == 0 && compare(a.squares, b.squares, b.greatest * b.greatest) < 0);
}

/* There is one: a rank has no more slots than there are experts. */
static int32_t best_expert(const filling *f, int32_t rank) {
    int32_t best = -1;
    outcome least = {0, 0};
    for (int32_t e = 0; e < f->n; e++) {
        if (*held(f, e, rank)) continue;
        outcome o = try_copy(f, e, rank);
        if (best < 0 || better(o, least)) best = e, least = o;
    }
    GR_ASSERT(best >= 0);
    return best;
}

static void add_copy(filling *f, int32_t expert, int32_t rank) {
    double now = f->load[expert] / f->n_hosts[expert], then = f->load[expert] / (f->n_hosts[expert] + 1);
    for (int32_t h = 0; h < f->n_hosts[expert]; h++) f->rank_load[hosts_of(f, expert)[h]] += then - now;
    f->rank_load[rank] += then;
    *held(f, expert, rank) = true;
    hosts_of(f, expert)[f->n_hosts[expert]++] = rank;
    f->n_free[rank]--;
    f->copies[f->n_copies++] = (gr_copy){expert, rank};
    sort_ranks(f);
}

/* ---- layers ---- */

static void store_loads(filling *f, const grace_plan_layer *old, const double *profiled, grace_plan_layer *pl) {
    size_t bytes = (size_t)f->n_ranks * sizeof *pl->load_before;
    predict(f);                                 /* once more from the start: no rounding of many small steps */
    memcpy(pl->load_after, f->rank_load, bytes);
    if (profiled)
        for (int32_t e = 0; e < f->n; e++) pl->load_before[f->home[e]] += profiled[e];
    else
        memcpy(pl->load_before, old->load_before, bytes);
}

static void copy_values(const grace_plan_layer *old, grace_plan_layer *pl, int32_t n_ranks) {
    memcpy(pl->load_before, old->load_before, (size_t)n_ranks * sizeof *pl->load_before);
    memcpy(pl->load_after, old->load_after, (size_t)n_ranks * sizeof *pl->load_after);
    for (int32_t i = 0; i < old->n_slots; i++) pl->poll_weight[pl->slots_of_expert[i]] = old->poll_weight[old->slots_of_expert[i]];
}

static grace_status fill_layer(filling *f, const grace_plan *plan, int32_t layer, const double *profiled, grace_plan *out) {
    grace_status st = GRACE_OK;
    const grace_plan_layer *old = &plan->layers[layer];
    grace_plan_layer *pl = &out->layers[layer];
    start(f, old);
    bool known = find_loads(f, old, profiled), changed = f->n_copies + f->n < f->n_slots * f->n_ranks;
    predict(f);
    for (int32_t r; (r = next_rank(f)) >= 0;) add_copy(f, best_expert(f, r), r);
    GR_TRY(gr_plan_place(out, layer, f->home, f->copies, f->n_copies));
    pl->n_replica = old->n_replica;
    if (!changed) copy_values(old, pl, f->n_ranks);
    else if (known) store_loads(f, old, profiled, pl), gr_plan_weigh(out, layer);
done:
    return st;
}

static grace_status fill_layers(const grace_plan *plan, const grace_profile *profile, int32_t n_slots, grace_plan *out) {
    grace_status st = GRACE_OK;
    filling f = {.n = plan->n_experts, .n_ranks = grace_cluster_ranks(plan->cluster), .n_slots = n_slots};
    size_t n = (size_t)f.n, n_ranks = (size_t)f.n_ranks;
    GR_CALLOC(f.load, n);
    GR_CALLOC(f.rank_load, n_ranks);
    GR_CALLOC(f.holds, n * n_ranks);
    GR_CALLOC(f.by_load, n_ranks);
    GR_CALLOC(f.hosts, n * n_ranks);
    GR_CALLOC(f.n_hosts, n);
    GR_CALLOC(f.n_free, n_ranks);
    GR_CALLOC(f.home, n);
    GR_CALLOC(f.copies, n * n_ranks);
    for (int32_t l = 0; l < plan->n_layers; l++) GR_TRY(fill_layer(&f, plan, l, profile ? profile->load + (size_t)l * n : NULL, out));
done:
    free(f.load), free(f.rank_load), free(f.by_load), free(f.holds), free(f.hosts), free(f.n_hosts), free(f.n_free), free(f.home), free(f.copies);
    return st;
}

/* All that is not a layer's. */
static grace_status copy_head(const grace_plan *plan, grace_plan *out) {
    grace_status st = GRACE_OK;
    memcpy(out->planner, plan->planner, sizeof out->planner);
    memcpy(out->grouping, plan->grouping, sizeof out->grouping);
    memcpy(out->replication, plan->replication, sizeof out->replication);
    out->fingerprint = plan->fingerprint;
    out->seed = plan->seed;
    out->planned_from = plan->planned_from;
    GR_TRY(gr_plan_set_layer_ids(out, plan->layer_ids));
    out->r = plan->r;
    out->knee_chosen = plan->knee_chosen;
    GR_ARENA_ARRAY(out->memory, out->knee, plan->n_knee);
    if (plan->n_knee) memcpy(out->knee, plan->knee, (size_t)plan->n_knee * sizeof *out->knee);
    out->n_knee = plan->n_knee;
done:
    return st;
}

grace_status gr_plan_equalise(const grace_plan *plan, const grace_profile *profile, int32_t slots_per_rank, grace_plan **out) {
    grace_status st = GRACE_OK;
    grace_plan *equal = NULL;
    GR_TRY(check(plan, profile, slots_per_rank));
    GR_TRY(gr_plan_new(plan->n_layers, plan->n_experts, plan->top_k, plan->cluster, &equal));
    GR_TRY(copy_head(plan, equal));
    GR_TRY(fill_layers(plan, profile, slots_per_rank ? slots_per_rank : most_slots(plan), equal));
    *out = equal, equal = NULL;
done:
    grace_plan_free(equal);
    return st;
}
