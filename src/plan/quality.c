#include "plan/quality.h"

#include <math.h>

#include "base/memory.h"
#include "base/parallel.h"
#include "plan/budget.h"

typedef struct layer_quality { gr_rows_cost rows; double load, load_std, load_floor; } layer_quality;
typedef struct measuring {
    const grace_plan *plan;
    grace_route route;
    const grace_bundles *bundles;
    const grace_profile *profile;
    layer_quality *layers;      /* [n_layers] */
} measuring;

static void measure_loads(const gr_shares *shares, const double *load, layer_quality *q) {
    double rank_load[GRACE_RANKS_MAX], sum = 0, squares = 0;
    int32_t n = shares->n_ranks;
    gr_cost_loads(shares, load, rank_load);
    for (int32_t r = 0; r < n; r++) sum += rank_load[r];
    for (int32_t r = 0; r < n; r++) squares += (rank_load[r] - sum / n) * (rank_load[r] - sum / n);
    q->load = gr_max_over_mean(rank_load, n);
    q->load_std = sum > 0 ? sqrt(squares / n) / (sum / n) : 0;
    q->load_floor = sum > 0 ? sqrt((n - 1) / sum) : 0;
}

static grace_status measure_layer(void *context, int32_t layer) {
    grace_status st = GRACE_OK;
    const measuring *m = context;
    gr_shares shares = {0};
    GR_TRY(gr_shares_build_for(m->plan, layer, m->route, &shares));
    GR_TRY(gr_cost_rows(&shares, &m->bundles->layers[layer], m->plan->top_k, &m->layers[layer].rows));
    measure_loads(&shares, m->profile->load + (size_t)layer * (size_t)m->plan->n_experts, &m->layers[layer]);
done:
    gr_shares_free(&shares);
    return st;
}

static void add_layer(const layer_quality *l, double share, gr_quality *q) {
    q->rows.cross += share * l->rows.cross, q->rows.intra += share * l->rows.intra;
    q->rows.flat_cross += share * l->rows.flat_cross, q->rows.flat_intra += share * l->rows.flat_intra;
    q->load += share * l->load, q->load_std += share * l->load_std, q->load_floor += share * l->load_floor;
    q->load_worst = fmax(q->load_worst, l->load);
}

grace_status gr_quality_measure(const grace_plan *plan, grace_route route, const grace_bundles *b, const grace_profile *p, gr_quality *out) {
    grace_status st = GRACE_OK;
    measuring m = {plan, route, b, p, NULL};
    gr_quality q = {0};
    double model = (double)plan->n_layers * plan->n_experts;
    GR_CHECK(b->n_layers == plan->n_layers && b->n_experts == plan->n_experts && b->top_k == plan->top_k, GRACE_ERR_ARG,
             "quality: the plan has %d layers of %d experts, top-%d; the tokens %d of %d, top-%d", plan->n_layers, plan->n_experts, plan->top_k, b->n_layers,
             b->n_experts, b->top_k);
    GR_CHECK(p->info.n_layers == plan->n_layers && p->info.n_experts == plan->n_experts, GRACE_ERR_ARG, "quality: the profile is of %d layers of %d experts",
             p->info.n_layers, p->info.n_experts);
    GR_CALLOC(m.layers, plan->n_layers);
    GR_TRY(gr_parallel(plan->n_layers, measure_layer, &m));
    for (int32_t l = 0; l < plan->n_layers; l++) add_layer(&m.layers[l], 1.0 / plan->n_layers, &q), q.total += plan->layers[l].n_slots / model;
    q.fullest = (double)gr_fullest_rank(plan) * grace_cluster_ranks(plan->cluster) / model;
    *out = q;
done:
    free(m.layers);
    return st;
}
