#include "plan/budget.h"

#include <inttypes.h>
#include <math.h>

#include "base/status.h"

int64_t gr_fullest_rank(const grace_plan *plan) {
    int64_t most = 0;
    for (int32_t r = 0; r < grace_cluster_ranks(plan->cluster); r++) {
        int64_t n = 0;
        for (int32_t l = 0; l < plan->n_layers; l++) n += plan->layers[l].first_slot[r + 1] - plan->layers[l].first_slot[r];
        if (n > most) most = n;
    }
    return most;
}

static grace_status budget_of_grace(const grace_profile *profile, grace_cluster cluster, const grace_plan_options *opt, int64_t *slots_of_rank) {
    grace_status st = GRACE_OK;
    grace_plan_options paper = *opt;
    grace_plan *plan = NULL;
    paper.planner = GRACE_PLANNER_GRACE, paper.objective = NULL, paper.equal_slots = false;
    GR_TRY(grace_plan_build(profile, cluster, &paper, &plan));
    *slots_of_rank = gr_fullest_rank(plan);
done:
    grace_plan_free(plan);
    return st;
}

grace_status gr_slot_budget(const grace_profile *profile, grace_cluster cluster, const grace_plan_options *opt, int64_t *slots_of_rank) {
    grace_status st = GRACE_OK;
    int64_t n_ranks = grace_cluster_ranks(cluster), n_layers = profile->info.n_layers, slots, n_all = n_layers * profile->info.n_experts;
    if (opt->memory > 0) slots = (int64_t)floor(opt->memory * (double)n_all / (double)n_ranks + 1e-9);
    else if (opt->slots_per_rank > 0) slots = n_layers * opt->slots_per_rank;
    else if (opt->from) slots = gr_fullest_rank(opt->from);
    else GR_TRY(budget_of_grace(profile, cluster, opt, &slots));
    GR_CHECK(slots * n_ranks >= n_all, GRACE_ERR_LIMIT,
             "plan: %" PRId64 " slots on each of %" PRId64 " ranks cannot hold %" PRId64 " experts in all layers: %" PRId64 " a rank are missing", slots,
             n_ranks, n_all, (n_all + n_ranks - 1) / n_ranks - slots);
    *slots_of_rank = slots < n_all ? slots : n_all;        /* a rank holds no expert twice */
done:
    return st;
}
