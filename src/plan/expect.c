#include "plan/expect.h"

#include <math.h>
#include <string.h>

/* ---- a token ---- */

grace_status gr_choices_build(const gr_bundle_layer *b, int32_t n_ranks, int32_t n_experts, int32_t top_k, gr_choices *out) {
    grace_status st = GRACE_OK;
    gr_choices c = {.stride = b->home ? n_experts : 0};
    GR_CALLOC(c.of, (size_t)(b->home ? n_ranks : 1) * (size_t)n_experts);
    for (int32_t i = 0; i < b->n; i++)
        for (int32_t j = 0; j < top_k; j++)
            c.of[(b->home ? b->home[i] : 0) * c.stride + b->experts[(size_t)i * (size_t)top_k + (size_t)j]] +=
                (double)b->count[i] / (double)b->n_tokens / (b->home ? 1 : n_ranks);
    *out = c;
done:
    return st;
}

/* The expert's entry travels to the rank: to the node's forwarder, then on. */
static void add_entry(int32_t g, int32_t home, int32_t rank, double chance, const grace_flow *entries) {
    if (rank / g != home / g) entries->node_out[home / g] += chance, entries->node_in[rank / g] += chance;
    if (rank % g != home % g) entries->rank_out[rank / g * g + home % g] += chance, entries->rank_in[rank] += chance;
}

static int32_t slot_on(const grace_plan_layer *pl, int32_t expert, int32_t rank) {
    for (int32_t i = pl->slots_first[expert]; i < pl->slots_first[expert + 1]; i++)
        if (pl->rank_of_slot[pl->slots_of_expert[i]] == rank) return pl->slots_of_expert[i];
    GR_ASSERT(!"a share on a rank without the expert");
    return -1;
}

void gr_expect_entries(const gr_shares *s, const gr_choices *c, int32_t home, int32_t expert, double times, const grace_flow *entries) {
    int32_t list = home * s->n_experts + expert;
    double chosen = times * c->of[home * c->stride + expert];
    for (int32_t i = s->first[list]; i < s->end[list]; i++) add_entry(s->gpus_per_node, home, s->rank[i], chosen * s->share[i], entries);
}

void gr_expect_reach(const grace_plan_layer *pl, const gr_shares *s, const gr_choices *c, int32_t expert, double *reach) {
    for (int32_t i = pl->slots_first[expert]; i < pl->slots_first[expert + 1]; i++) reach[pl->slots_of_expert[i]] = 0;
    for (int32_t home = 0; home < s->n_ranks; home++)
        for (int32_t list = home * s->n_experts + expert, i = s->first[list]; i < s->end[list]; i++)
            reach[slot_on(pl, expert, s->rank[i])] += c->of[home * c->stride + expert] * s->share[i];
}

grace_status gr_expect_layer(const grace_plan *plan, int32_t layer, const gr_bundle_layer *b, gr_expected *out) {
    grace_status st = GRACE_OK;
    const grace_plan_layer *pl = &plan->layers[layer];
    gr_shares shares = {0};
    gr_expected x = {.n_slots = pl->n_slots};
    gr_choices choices = {0};
    GR_CHECK(b->n_tokens > 0, GRACE_ERR_ARG, "expected tokens to price a plan by, found none");
    GR_TRY(gr_flow_alloc(plan->cluster, &x.rows));
    GR_TRY(gr_flow_alloc(plan->cluster, &x.entries));
    GR_TRY(gr_layer_counts_alloc(plan->cluster, plan->cluster.n_nodes > 1, &x.counts));
    GR_CALLOC(x.reach, pl->n_slots);
    GR_CALLOC(x.used, pl->n_slots);
    GR_TRY(gr_shares_build(plan, layer, &shares));
    GR_TRY(gr_cost_flow(&shares, b, plan->top_k, GR_EXPECT_HOMES, &x.rows, &x.total));
    GR_TRY(gr_choices_build(b, shares.n_ranks, plan->n_experts, plan->top_k, &choices));
    for (int32_t home = 0; home < shares.n_ranks; home++)
        for (int32_t e = 0; e < plan->n_experts; e++) gr_expect_entries(&shares, &choices, home, e, 1, &x.entries);
    for (int32_t e = 0; e < plan->n_experts; e++) gr_expect_reach(pl, &shares, &choices, e, x.reach);
    *out = x, x = (gr_expected){0};
done:
    gr_shares_free(&shares);
    free(choices.of);
    gr_expected_free(&x);
    return st;
}

void gr_expected_free(gr_expected *x) {
    gr_flow_free(&x->rows);
    gr_flow_free(&x->entries);
    gr_layer_counts_free(&x->counts);
    free(x->reach), free(x->used);
    *x = (gr_expected){0};
}

/* ---- a step ---- */

static void scale(const double *rows, const double *entries, int32_t n, double n_tokens, double row_bytes, double *dispatch, double *back) {
    for (int32_t i = 0; i < n; i++) {
        dispatch[i] = n_tokens * (rows[i] * row_bytes + gr_list_bytes(rows[i], entries[i]));
        back[i] = n_tokens * rows[i] * row_bytes;
    }
}

double gr_chance_used(double reach, double n_tokens) { return 1 - pow(1 - fmin(reach, 1), n_tokens); }

const grace_layer_counts *gr_expected_sum(gr_expected *x, const grace_plan_layer *pl, double n_tokens, double row_bytes) {
    grace_layer_counts *c = &x->counts;
    int32_t n_nodes = c->cluster.n_nodes, n_ranks = grace_cluster_ranks(c->cluster);
    scale(x->rows.node_out, x->entries.node_out, n_nodes, n_tokens, row_bytes, c->dispatch.node_out, c->combine.node_in);
    scale(x->rows.node_in, x->entries.node_in, n_nodes, n_tokens, row_bytes, c->dispatch.node_in, c->combine.node_out);
    scale(x->rows.rank_out, x->entries.rank_out, n_ranks, n_tokens, row_bytes, c->dispatch.rank_out, c->combine.rank_in);
    scale(x->rows.rank_in, x->entries.rank_in, n_ranks, n_tokens, row_bytes, c->dispatch.rank_in, c->combine.rank_out);
    memset(c->pairs, 0, (size_t)n_ranks * sizeof *c->pairs);
    memset(c->active, 0, (size_t)n_ranks * sizeof *c->active);
    for (int32_t s = 0; s < x->n_slots; s++) {
        c->pairs[pl->rank_of_slot[s]] += n_tokens * x->reach[s];
        c->active[pl->rank_of_slot[s]] += x->used[s];
    }
    return c;
}

const grace_layer_counts *gr_expected_counts(gr_expected *x, const grace_plan_layer *pl, double n_tokens, double row_bytes) {
    for (int32_t s = 0; s < x->n_slots; s++) x->used[s] = gr_chance_used(x->reach[s], n_tokens);
    return gr_expected_sum(x, pl, n_tokens, row_bytes);
}

/* ---- a plan ---- */

static double most_of(const double *values, int32_t n) {
    double most = 0;
    for (int32_t i = 0; i < n; i++) most = fmax(most, values[i]);
    return most;
}

static void add_layer(const grace_layer_counts *c, const gr_rows_cost *rows, const grace_shape *shape, const grace_rates *rates, grace_prediction *p) {
    grace_seconds s = grace_layer_seconds(c, shape, rates);
    grace_seconds_add(&p->step, &s, 1);
    p->rows_cross += rows->cross / shape->n_moe_layers;
    p->rows_intra += rows->intra / shape->n_moe_layers;
    p->load_max_over_mean += gr_max_over_mean(c->pairs, grace_cluster_ranks(c->cluster)) / shape->n_moe_layers;
    p->active_max += most_of(c->active, grace_cluster_ranks(c->cluster)) / shape->n_moe_layers;
}

grace_status grace_plan_predict(const grace_plan *plan, const grace_bundles *bundles, const grace_shape *shape, const grace_rates *rates,
                                const grace_batch *batch, grace_prediction *out) {
    grace_status st = GRACE_OK;
    gr_expected x = {0};
    grace_prediction p = {.step = grace_dense_seconds(batch, grace_cluster_ranks(plan->cluster), shape, rates)};
    GR_TRY(grace_shape_check(shape, plan->n_layers, plan->n_experts, plan->top_k));
    GR_CHECK(bundles->n_layers == plan->n_layers && bundles->n_experts == plan->n_experts && bundles->top_k == plan->top_k, GRACE_ERR_MISMATCH,
             "the plan is for %d layers of %d experts, top-%d; the routing has %d of %d, top-%d", plan->n_layers, plan->n_experts, plan->top_k,
             bundles->n_layers, bundles->n_experts, bundles->top_k);
    for (int32_t l = 0; l < plan->n_layers; l++) {
        gr_expected_free(&x);
        GR_TRY(gr_expect_layer(plan, l, &bundles->layers[l], &x));
        add_layer(gr_expected_counts(&x, &plan->layers[l], batch->tokens, (double)shape->hidden * rates->value_bytes), &x.total, shape, rates, &p);
    }
    *out = p;
done:
    gr_expected_free(&x);
    return st;
}
