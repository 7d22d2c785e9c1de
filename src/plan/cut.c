#include "plan/cut.h"

#include "base/memory.h"
#include "plan/knee.h"
#include "plan/tables.h"

static double layer_share(const grace_plan *plan, const grace_profile *profile, int32_t layer, int32_t ranks_per_group, int32_t *group_of) {
    int32_t n = plan->n_experts;
    for (int32_t e = 0; e < n; e++) group_of[e] = gr_plan_home(&plan->layers[layer], e) / ranks_per_group;
    return gr_utility(profile->affinity + (size_t)layer * n * n, n, group_of);
}

static double mean_share(const grace_plan *plan, const grace_profile *profile, int32_t ranks_per_group, int32_t *group_of) {
    double sum = 0;
    for (int32_t l = 0; l < plan->n_layers; l++) sum += layer_share(plan, profile, l, ranks_per_group, group_of);
    return sum / plan->n_layers;
}

grace_status gr_plan_cut(const grace_plan *plan, const grace_profile *profile, double *inside_gpu, double *inside_node) {
    grace_status st = GRACE_OK;
    int32_t *group_of = NULL;
    GR_CHECK(plan->n_layers == profile->info.n_layers && plan->n_experts == profile->info.n_experts, GRACE_ERR_MISMATCH,
             "plan is for %d MoE layers of %d experts, the profile has %d of %d", plan->n_layers, plan->n_experts, profile->info.n_layers,
             profile->info.n_experts);
    GR_CALLOC(group_of, plan->n_experts);
    if (inside_gpu) *inside_gpu = mean_share(plan, profile, 1, group_of);
    if (inside_node) *inside_node = mean_share(plan, profile, plan->cluster.gpus_per_node, group_of);
done:
    free(group_of);
    return st;
}
