/* Ways to split a model over nodes that are no expert parallelism between nodes, priced by the same rates and the same replay of one node. */
#include <math.h>
#include <stdio.h>

#include "base/memory.h"
#include "sim/routing.h"

enum { MICRO_MAX = 64 };

const char *grace_other_name(grace_other which) {
    static const char *const names[] = {"replicate-node", "pipeline-nodes", "tensor-parallel"};
    return which >= 0 && which < GRACE_N_OTHERS ? names[which] : NULL;
}

typedef struct job {
    const grace_routing *routing;
    grace_cluster cluster;
    const grace_workload *workload;
    const grace_shape *shape;
    const grace_rates *rates;
    grace_plan *node_plan;          /* all experts on the ranks of one node */
} job;

/* ---- one node ---- */

static grace_status count_loads(const grace_routing *r, const grace_workload *w, double *load) {
    grace_status st = GRACE_OK;
    int32_t *experts = NULL, n_tokens = w->prefill + w->decode, n = w->sequences < 256 ? w->sequences : 256;
    GR_CALLOC(experts, r->info.top_k);
    for (int32_t s = 0; s < n; s++)
        for (int32_t p = 0; p < n_tokens; p += 1 + n_tokens / 64)
            for (int32_t l = 0; l < r->info.n_layers; l++) {
                gr_routing_experts(r, gr_routing_token(r, s, p, n_tokens), l, experts);
                for (int32_t j = 0; j < r->info.top_k; j++) load[l * r->info.n_experts + experts[j]]++;
            }
done:
    free(experts);
    return st;
}

/* Balanced by load where every rank can have as many experts; else contiguous, with empty ranks where there are more of them than experts. */
static grace_status plan_node(job *j) {
    grace_status st = GRACE_OK;
    const grace_trace_info *i = &j->routing->info;
    grace_cluster node = {1, j->cluster.gpus_per_node};
    grace_profile profile = {.info = *i, .n_tokens = 1};
    grace_plan_options opt = grace_plan_defaults();
    GR_CALLOC(profile.load, (size_t)i->n_layers * (size_t)i->n_experts);
    GR_CALLOC(profile.affinity, (size_t)i->n_layers * (size_t)i->n_experts * (size_t)i->n_experts);
    GR_TRY(count_loads(j->routing, j->workload, profile.load));
    opt.planner = i->n_experts % node.gpus_per_node ? GRACE_PLANNER_CONTIGUOUS : GRACE_PLANNER_EPLB;
    opt.slots_per_rank = i->n_experts / node.gpus_per_node, opt.empty_ranks = true;
    GR_TRY(grace_plan_build(&profile, node, &opt, &j->node_plan));
done:
    free(profile.load), free(profile.affinity);
    return st;
}

/* Part of the batch on one node, through all layers. */
static grace_status run_node(const job *j, int32_t sequences, grace_sim **out) {
    grace_workload w = *j->workload;
    w.sequences = sequences;
    grace_sim_options opt = {.plan = j->node_plan, .route = GRACE_ROUTE_TAR, .exchange = GRACE_EXCHANGE_HSC, .workload = &w,
                             .shape = j->shape, .rates = j->rates};
    return grace_sim_run(j->routing, &opt, out);
}

static double weights_of_node(const grace_shape *s) {
    return s->weight_bytes * (3.0 * s->hidden * s->expert_width * s->n_experts * s->n_moe_layers);
}

static double dense_weights(const grace_shape *s) { return s->weight_bytes * (s->dense_params + 2 * s->head_params); }

/* ---- replicate-node ---- */

/* Every node serves its part of the batch by itself. */
static grace_status price_replicas(const job *j, grace_other_price *out) {
    grace_status st = GRACE_OK;
    grace_sim *sim = NULL;
    GR_TRY(run_node(j, (j->workload->sequences + j->cluster.n_nodes - 1) / j->cluster.n_nodes, &sim));
    *out = (grace_other_price){.prefill_s = sim->prefill.total, .decode_s = sim->decode.total,
                               .bytes_per_rank = weights_of_node(j->shape) / j->cluster.gpus_per_node + dense_weights(j->shape)};
done:
    grace_sim_free(sim);
    return st;
}

/* ---- pipeline-nodes ---- */

static grace_link_rate slowest_link(const job *j) {
    grace_link_rate most = grace_rates_of_node(j->rates, 0);
    for (int32_t n = 1; n < j->cluster.n_nodes; n++) {
        grace_link_rate link = grace_rates_of_node(j->rates, n);
        most.bytes_s = fmin(most.bytes_s, link.bytes_s);
        most.latency_s = fmax(most.latency_s, link.latency_s);
    }
    return most;
}

/* A node has at least one layer; nodes beyond that make pipelines of their own, which share the batch. */
static int32_t n_stages(const job *j) { return j->cluster.n_nodes < j->shape->n_layers ? j->cluster.n_nodes : j->shape->n_layers; }

/* Time a part of the batch with these rows needs on one node and to the next. */
static double stage_seconds(const job *j, double all_layers_s, double rows) {
    grace_link_rate link = slowest_link(j);
    double cross = j->cluster.n_nodes > 1 ? link.latency_s + rows * j->shape->hidden * j->rates->value_bytes / link.bytes_s : 0;
    return all_layers_s / n_stages(j) + cross;
}

/* A pipeline's batch goes through in `parts`: prompts take parts + stages - 1 times a stage's time; a decode step, in the steady state, max(parts, stages). */
static grace_status try_parts(const job *j, int32_t parts, grace_other_price *best) {
    grace_status st = GRACE_OK;
    grace_sim *sim = NULL;
    const grace_workload *w = j->workload;
    int32_t stages = n_stages(j), n_parts = parts * (j->cluster.n_nodes / stages), busy = parts > stages ? parts : stages;
    int32_t sequences = (w->sequences + n_parts - 1) / n_parts;
    GR_TRY(run_node(j, sequences, &sim));
    double prefill = w->prefill ? (parts + stages - 1) * stage_seconds(j, sim->prefill.total, (double)sequences * w->prefill) : 0;
    double decode = w->decode ? w->decode * busy * stage_seconds(j, sim->decode.total / w->decode, sequences) : 0;
    if (!best->micro_prefill || prefill < best->prefill_s) best->prefill_s = prefill, best->micro_prefill = parts;
    if (!best->micro_decode || decode < best->decode_s) best->decode_s = decode, best->micro_decode = parts;
done:
    grace_sim_free(sim);
    return st;
}

static grace_status price_pipeline(const job *j, grace_other_price *out) {
    grace_status st = GRACE_OK;
    grace_other_price best = {0};
    for (int32_t parts = 1; parts <= MICRO_MAX && parts <= j->workload->sequences; parts *= 2) GR_TRY(try_parts(j, parts, &best));
    best.bytes_per_rank = weights_of_node(j->shape) / j->cluster.gpus_per_node / n_stages(j) +
                          j->shape->weight_bytes * (j->shape->dense_params / n_stages(j) + j->shape->head_params);
    *out = best;
done:
    return st;
}

/* ---- tensor parallelism over all ranks ---- */

/* All ranks hold a part of every matrix and see every row; two sums of all rows over all ranks a layer: inside nodes, between nodes, inside. */
static double sums_seconds(const job *j, double rows) {
    double n = j->cluster.n_nodes, g = j->cluster.gpus_per_node, bytes = rows * j->shape->hidden * j->rates->value_bytes;
    grace_link_rate link = slowest_link(j);
    double near = g > 1 ? 2 * j->rates->intra.latency_s + 2 * (g - 1) / g * bytes / j->rates->intra.bytes_s : 0;
    double far = n > 1 ? 2 * link.latency_s + 2 * (n - 1) / n * bytes / link.bytes_s : 0;
    return 2 * j->shape->n_layers * (near + far);
}

static double split_step(const job *j, grace_batch batch) {
    const grace_shape *s = j->shape;
    double n = grace_cluster_ranks(j->cluster), expert = 3.0 * s->hidden * s->expert_width;
    double active = s->n_experts * (1 - pow(1 - (double)s->top_k / s->n_experts, batch.tokens));
    double flop = 2 * batch.tokens * expert * s->top_k / n, bytes = s->weight_bytes * expert * active / n;
    grace_seconds dense = grace_dense_seconds(&batch, 1, s, j->rates);
    return dense.dense / n + s->n_moe_layers * fmax(flop / j->rates->flop_s, bytes / j->rates->memory_bytes_s) + sums_seconds(j, batch.tokens);
}

static void price_tensor(const job *j, grace_other_price *out) {
    const grace_workload *w = j->workload;
    *out = (grace_other_price){.bytes_per_rank = (weights_of_node(j->shape) + dense_weights(j->shape)) / grace_cluster_ranks(j->cluster)};
    if (w->prefill) out->prefill_s = split_step(j, grace_batch_prefill(w->sequences, w->prefill));
    for (int32_t d = 0; d < w->decode; d++) out->decode_s += split_step(j, grace_batch_decode(w->sequences, w->prefill + d + 1));
}

grace_status grace_price_others(const grace_routing *routing, grace_cluster cluster, const grace_workload *workload, const grace_shape *shape,
                                const grace_rates *rates, grace_other_price out[GRACE_N_OTHERS]) {
    grace_status st = GRACE_OK;
    job j = {routing, cluster, workload, shape, rates, NULL};
    grace_other_price prices[GRACE_N_OTHERS];
    GR_TRY(grace_shape_check(shape, routing->info.n_layers, routing->info.n_experts, routing->info.top_k));
    GR_TRY(plan_node(&j));
    GR_TRY(price_replicas(&j, &prices[GRACE_OTHER_REPLICATE_NODE]));
    GR_TRY(price_pipeline(&j, &prices[GRACE_OTHER_PIPELINE_NODES]));
    price_tensor(&j, &prices[GRACE_OTHER_TENSOR]);
    for (int i = 0; i < GRACE_N_OTHERS; i++) out[i] = prices[i];
done:
    grace_plan_free(j.node_plan);
    return st;
}
