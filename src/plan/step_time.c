#include "plan/step_time.h"

#include <math.h>
#include <string.h>

/* ---- links ---- */

/* The busiest link of a kind: a link carries both directions at once. */
static double node_seconds(const grace_flow *f, int32_t n_nodes, const grace_rates *rates) {
    double most = 0;
    for (int32_t n = 0; n < n_nodes; n++) most = fmax(most, fmax(f->node_out[n], f->node_in[n]) / grace_rates_of_node(rates, n).bytes_s);
    return most;
}

static double rank_seconds(const grace_flow *f, int32_t n_ranks, const grace_rates *rates) {
    double most = 0;
    for (int32_t r = 0; r < n_ranks; r++) most = fmax(most, fmax(f->rank_out[r], f->rank_in[r]));
    return most / rates->intra.bytes_s;
}

static double node_latency(const grace_rates *rates, int32_t n_nodes) {
    double most = rates->cross.latency_s;
    for (int32_t i = 0; i < rates->n_nodes; i++)
        if (rates->nodes[i].first < n_nodes) most = fmax(most, rates->nodes[i].link.latency_s);
    return most;
}

/* One way, all its stages. */
static void add_flow(const grace_layer_counts *c, const grace_flow *f, int32_t rounds, const grace_rates *rates, grace_seconds *out) {
    int32_t n_nodes = c->cluster.n_nodes, n_ranks = grace_cluster_ranks(c->cluster);
    double cross = n_nodes > 1 ? node_seconds(f, n_nodes, rates) : 0, intra = rank_seconds(f, n_ranks, rates);
    double far = n_nodes > 1 ? rounds * node_latency(rates, n_nodes) : 0, near = c->cluster.gpus_per_node > 1 ? rounds * rates->intra.latency_s : 0;
    if (c->two_stage) {
        out->cross += cross;
        out->intra += intra;
        out->latency += far + near;
    } else {
        out->cross += cross >= intra ? cross : 0;
        out->intra += cross < intra ? intra : 0;
        out->latency += fmax(far, near);
    }
}

/* ---- work ---- */

double gr_rank_expert_seconds(const grace_layer_counts *c, int32_t rank, const grace_shape *shape, const grace_rates *rates) {
    double params = 3.0 * shape->hidden * shape->expert_width;
    return fmax(2 * params * c->pairs[rank] / rates->flop_s, params * shape->weight_bytes * c->active[rank] / rates->memory_bytes_s);
}

static double expert_seconds(const grace_layer_counts *c, const grace_shape *shape, const grace_rates *rates) {
    double most = 0;
    for (int32_t r = 0; r < grace_cluster_ranks(c->cluster); r++) most = fmax(most, gr_rank_expert_seconds(c, r, shape, rates));
    return most;
}

grace_seconds grace_layer_seconds(const grace_layer_counts *counts, const grace_shape *shape, const grace_rates *rates) {
    grace_seconds s = {0};
    add_flow(counts, &counts->dispatch, rates->dispatch_rounds, rates, &s);
    add_flow(counts, &counts->combine, rates->combine_rounds, rates, &s);
    s.experts = expert_seconds(counts, shape, rates);
    s.total = s.cross + s.intra + s.latency + s.experts;
    return s;
}

grace_seconds grace_dense_seconds(const grace_batch *batch, int32_t n_ranks, const grace_shape *shape, const grace_rates *rates) {
    grace_seconds s = {0};
    if (batch->sequences <= 0) return s;
    double sequences = ceil(batch->sequences / n_ranks), share = sequences / batch->sequences;      /* of the fullest rank */
    double tokens = batch->tokens * share, logits = batch->logits * share;
    double flop = 2 * tokens * (shape->dense_params + batch->context * shape->attention_values) + 2 * logits * shape->head_params;
    double weights = (shape->dense_params + (logits > 0 ? shape->head_params : 0)) * shape->weight_bytes;
    double kv = sequences * batch->context * shape->kv_values * rates->value_bytes;
    s.dense = s.total = fmax(flop / rates->flop_s, (weights + kv) / rates->memory_bytes_s);
    return s;
}

void grace_seconds_add(grace_seconds *sum, const grace_seconds *more, double times) {
    sum->cross += times * more->cross;
    sum->intra += times * more->intra;
    sum->latency += times * more->latency;
    sum->experts += times * more->experts;
    sum->dense += times * more->dense;
    sum->total += times * more->total;
}

grace_batch grace_batch_prefill(double sequences, double n_prompt) {
    return (grace_batch){.tokens = sequences * n_prompt, .sequences = sequences, .context = (n_prompt + 1) / 2, .logits = sequences};
}

grace_batch grace_batch_decode(double sequences, double n_context) {
    return (grace_batch){.tokens = sequences, .sequences = sequences, .context = n_context, .logits = sequences};
}

/* ---- counts ---- */

grace_status gr_flow_alloc(grace_cluster cluster, grace_flow *f) {
    grace_status st = GRACE_OK;
    GR_CALLOC(f->node_out, cluster.n_nodes);
    GR_CALLOC(f->node_in, cluster.n_nodes);
    GR_CALLOC(f->rank_out, grace_cluster_ranks(cluster));
    GR_CALLOC(f->rank_in, grace_cluster_ranks(cluster));
done:
    return st;
}

void gr_flow_free(grace_flow *f) { free(f->node_out), free(f->node_in), free(f->rank_out), free(f->rank_in); }

void gr_flow_copy(grace_cluster cluster, const grace_flow *from, const grace_flow *to) {
    size_t nodes = (size_t)cluster.n_nodes * sizeof(double), ranks = (size_t)grace_cluster_ranks(cluster) * sizeof(double);
    memcpy(to->node_out, from->node_out, nodes), memcpy(to->node_in, from->node_in, nodes);
    memcpy(to->rank_out, from->rank_out, ranks), memcpy(to->rank_in, from->rank_in, ranks);
}

grace_status gr_layer_counts_alloc(grace_cluster cluster, bool two_stage, grace_layer_counts *out) {
    grace_status st = GRACE_OK;
    *out = (grace_layer_counts){.cluster = cluster, .two_stage = two_stage};
    GR_TRY(gr_flow_alloc(cluster, &out->dispatch));
    GR_TRY(gr_flow_alloc(cluster, &out->combine));
    GR_CALLOC(out->pairs, grace_cluster_ranks(cluster));
    GR_CALLOC(out->active, grace_cluster_ranks(cluster));
done:
    return st;
}

void gr_layer_counts_free(grace_layer_counts *c) {
    gr_flow_free(&c->dispatch);
    gr_flow_free(&c->combine);
    free(c->pairs), free(c->active);
    *c = (grace_layer_counts){0};
}
