#include "plan/measure.h"

#include "base/status.h"

static grace_status measure_layer(const grace_plan *plan, int32_t layer, const grace_bundles *tokens, const double *load, gr_measure *m) {
    grace_status st = GRACE_OK;
    gr_shares shares = {0};
    gr_rows_cost rows;
    double rank_load[GRACE_RANKS_MAX], ratio;
    GR_TRY(gr_shares_build(plan, layer, &shares));
    GR_TRY(gr_cost_rows(&shares, &tokens->layers[layer], plan->top_k, &rows));
    gr_cost_loads(&shares, load, rank_load);
    ratio = gr_max_over_mean(rank_load, shares.n_ranks);
    m->cross += rows.cross / plan->n_layers;
    m->intra += rows.intra / plan->n_layers;
    m->load += ratio / plan->n_layers;
    if (ratio > m->load_worst) m->load_worst = ratio;
done:
    gr_shares_free(&shares);
    return st;
}

grace_status gr_plan_measure(const grace_plan *plan, const grace_bundles *tokens, const double *load, gr_measure *out) {
    grace_status st = GRACE_OK;
    gr_measure m = {0};
    for (int32_t l = 0; l < plan->n_layers; l++) GR_TRY(measure_layer(plan, l, tokens, load + (size_t)l * (size_t)plan->n_experts, &m));
    *out = m;
done:
    return st;
}
