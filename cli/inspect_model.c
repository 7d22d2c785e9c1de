/* grace inspect of a model: its architecture, and whether its ranks' memory is enough. */
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/status.h"
#include "inspect.h"
#include "plan/cluster.h"

/* ---- the architecture ---- */

static void put_attention(gr_json *o, const grace_model_info *m) {
    int32_t n_windows = 0, window = 0;
    for (int32_t l = 0; l < m->n_layers; l++)
        if (m->layers[l].window) n_windows++, window = m->layers[l].window;
    gr_json_set_string(o, "attention", m->kv_rank ? "latent" : m->n_kv_heads < m->n_heads ? "grouped queries" : "multi-head");
    gr_json_set_int(o, "heads", m->n_heads);
    gr_json_set_int(o, "kv_heads", m->n_kv_heads);
    gr_json_set_int(o, "head_dim", m->head_dim);
    if (m->v_dim != m->head_dim) gr_json_set_int(o, "value_dim", m->v_dim);
    if (m->kv_rank) gr_json_set_int(o, "kv_latent", m->kv_rank);
    if (m->q_rank) gr_json_set_int(o, "query_latent", m->q_rank);
    if (!n_windows) return;
    gr_json_set_int(o, "window", window);
    gr_json_set_int(o, "window_layers", n_windows);
}

static void put_experts(gr_json *o, const grace_model_info *m) {
    gr_json_set_int(o, "layers", m->n_layers);
    gr_json_set_int(o, "moe_layers", m->n_moe_layers);
    gr_json_set_int(o, "dense_layers", m->n_layers - m->n_moe_layers);
    gr_json_set_int(o, "experts", m->n_experts);
    gr_json_set_int(o, "top_k", m->top_k);
    gr_json_set_string(o, "scores", m->gate.score == GRACE_SCORE_SIGMOID ? "sigmoid" : "softmax");
    if (m->gate.n_groups) gr_json_set_int(o, "expert_groups", m->gate.n_groups);
    if (m->gate.n_groups) gr_json_set_int(o, "top_groups", m->gate.top_groups);
    gr_json_set_int(o, "hidden", m->hidden);
    gr_json_set_int(o, "expert_width", m->expert_width);
    gr_json_set_int(o, "shared_width", m->shared_width);
    gr_json_set_int(o, "dense_width", m->dense_width);
}

/* The kind of scaling is in the file only: the description has the frequencies that follow from it. */
static grace_status put_rope(gr_json *o, const char *dir, const grace_model_info *m) {
    grace_status st = GRACE_OK;
    gr_json *config = NULL;
    char path[PATH_MAX], text[80] = "none";
    const char *type = "default";
    double factor = 0;
    GR_TRY(gr_path_join(path, sizeof path, dir, "config.json"));
    GR_TRY(gr_json_load(path, &config));
    const gr_json *newer = gr_json_get(config, "rope_parameters"), *scaling = newer ? newer : gr_json_get(config, "rope_scaling");
    if (!gr_json_is_string(gr_json_get(scaling, "rope_type"), &type, NULL)) gr_json_is_string(gr_json_get(scaling, "type"), &type, NULL);
    bool has_factor = gr_json_is_real(gr_json_get(scaling, "factor"), &factor);
    if (strcmp(type, "default") != 0) snprintf(text, sizeof text, has_factor ? "%.40s x %g" : "%.40s", type, factor);
    gr_json_set_real(o, "rope_theta", (double)m->rope_theta);
    gr_json_set_int(o, "rope_dim", m->rope.dim);
    gr_json_set_string(o, "rope_scaling", text);
done:
    gr_json_free(config);
    return st;
}

static grace_status put_architecture(gr_json *o, const char *dir, const grace_model *model) {
    const grace_model_info *m = grace_model_describe(model);
    uint64_t seed;
    const bool weightless = grace_model_is_random(model, &seed);
    gr_json_set_string(o, "kind", "model");
    if (weightless) gr_json_set_string(o, "weights", "none here: parameters and bytes are those of config.json, in bf16");
    gr_json_set_string(o, "family", m->family);
    gr_json_set_int(o, "parameters", m->n_params);
    gr_json_set_int(o, "active", m->n_params_active);
    gr_json_set_int(o, "bytes", m->n_bytes);
    put_experts(o, m);
    put_attention(o, m);
    gr_json_set_int(o, "vocabulary", m->vocab);
    gr_json_set_bool(o, "tied_embeddings", m->tied_embeddings);
    gr_json_set_int(o, "context", m->context_max);
    grace_status st = put_rope(o, dir, m);
    if (!weightless) gr_json_set_hex(o, "fingerprint", m->fingerprint);
    return st;
}

/* ---- memory ---- */

typedef struct need {
    int32_t n_ranks;
    int64_t everywhere;             /* bytes of what every rank holds */
    int64_t experts, replicas;      /* of all routed experts once, of the copies on the rank with most */
    int64_t weights;                /* of the rank with most */
    int64_t kv;
    int32_t kv_parts;               /* values of the cache in a float's bytes: 1, or 2 in bf16 */
} need;

static need count_need(const grace_model *model, const grace_plan *plan, const gr_inspect_options *opt) {
    need n = {.n_ranks = grace_cluster_ranks(plan->cluster), .kv_parts = opt->on_cuda ? 2 : 1};
    n.kv = grace_kv_bytes(grace_model_describe(model), opt->kv_tokens) / n.kv_parts;
    for (int32_t rank = 0; rank < n.n_ranks; rank++) {
        grace_rank_memory m = grace_rank_memory_of(model, plan, rank);
        n.everywhere = m.weights - m.experts;
        n.experts += m.experts - m.replicas;
        if (m.weights > n.weights) n.weights = m.weights;
        if (m.replicas > n.replicas) n.replicas = m.replicas;
    }
    return n;
}

static void put_need(gr_json *o, const grace_model_info *m, const grace_plan *plan, const need *n, int64_t kv_tokens) {
    gr_cluster_name cluster = gr_cluster_text(plan->cluster);
    gr_json_set_string(o, "cluster", cluster.text);
    gr_json_set_string(o, "planner", plan->planner);
    gr_json_set_int(o, "rank_weight_bytes", n->weights);
    gr_json_set_int(o, "rank_replica_bytes", n->replicas);
    gr_json_set_string(o, "device", gr_device_names[n->kv_parts == 2]);
    gr_json_set_int(o, "kv_token_bytes", grace_model_kv_token_bytes(m) / n->kv_parts);
    gr_json_set_int(o, "kv_tokens", kv_tokens);
    gr_json_set_int(o, "rank_kv_bytes", n->kv);
    gr_json_set_int(o, "rank_bytes", n->weights + n->kv);
}

/* The fewest ranks that hold equal shares of the experts beside `rest` bytes; 0: no number of ranks does. */
static int32_t ranks_for(const grace_model_info *m, const need *n, int64_t memory, int64_t rest) {
    const int64_t one = n->experts / m->n_experts, room = (memory - rest) / one;     /* an expert of every layer */
    return memory < rest || room < 1 ? 0 : (int32_t)((m->n_experts + room - 1) / room);
}

/* format is for one long long. */
static void advise(gr_json *list, const char *format, int64_t number) {
    char text[160];
    snprintf(text, sizeof text, format, (long long)number);
    gr_json_push_string(list, text);
}

static int64_t kv_tokens_beside(const grace_model_info *m, const need *n, int64_t memory) {
    return grace_kv_tokens(m, (memory - n->weights) * n->kv_parts);
}

/* What makes it fit, each by itself, the mildest first. */
static gr_json *advice(const grace_model_info *m, const need *n, int64_t memory) {
    gr_json *list = gr_json_new_array();
    const int64_t kv_tokens = kv_tokens_beside(m, n, memory), one_page = grace_kv_bytes(m, 1) / n->kv_parts;
    const int32_t n_ranks = ranks_for(m, n, memory, n->everywhere + n->kv), n_bare = ranks_for(m, n, memory, n->everywhere + one_page);
    if (kv_tokens > 0) advise(list, "KV cache: %lld tokens at most", kv_tokens);
    if (n_ranks > n->n_ranks) advise(list, "%lld ranks or more, without copies", n_ranks);
    else if (n_ranks > 0) advise(list, "a plan without copies and with equal shares: they take up to %lld bytes of a rank", n->replicas);
    else if (n_bare > n->n_ranks) advise(list, "%lld ranks or more, without copies, and a smaller KV cache", n_bare);
    if (!n_bare) advise(list, "more memory a rank: attention, dense layers, embeddings, %lld bytes, are on every rank", n->everywhere);
    return list;
}

static void put_verdict(gr_json *o, const grace_model_info *m, const need *n, int64_t memory, int64_t kv_tokens) {
    const int64_t left = memory - n->weights - n->kv;
    gr_json_set_int(o, "memory_bytes", memory);
    gr_json_set_bool(o, "fits", left >= 0);
    if (left >= 0) {
        gr_json_set_int(o, "left_bytes", left);
        gr_json_set_int(o, "left_kv_tokens", kv_tokens_beside(m, n, memory) - kv_tokens);
    } else {
        gr_json_set_int(o, "missing_bytes", -left);
        gr_json_set(o, "reduce", advice(m, n, memory));
    }
}

/* Before a download there is config.json alone: the model with made-up weights has its sizes. A folder that lacks some of its shards is an error still. */
static grace_status open_model(const char *dir, grace_model **out) {
    grace_status st = GRACE_OK;
    char single[PATH_MAX], index[PATH_MAX];
    GR_TRY(gr_path_join(single, sizeof single, dir, "model.safetensors"));
    GR_TRY(gr_path_join(index, sizeof index, dir, "model.safetensors.index.json"));
    const bool weightless = access(single, F_OK) != 0 && access(index, F_OK) != 0;
    st = weightless ? grace_model_open_random(dir, 0, out) : grace_model_open(dir, out);
done:
    return st;
}

/* That of the file, or experts in order over the cluster that was named; one rank when nothing was. */
static grace_status choose_plan(const gr_inspect_options *opt, const grace_model *model, grace_plan **plan) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = grace_model_describe(model);
    grace_cluster cluster = {1, 1};
    int32_t ids[GRACE_LAYERS_MAX];
    uint64_t seed, fingerprint = grace_model_is_random(model, &seed) ? 0 : m->fingerprint;     /* 0: unknown */
    grace_model_layer_ids(m, ids);
    if (opt->plan) {
        GR_TRY(grace_plan_load(opt->plan, plan));
        cluster = (*plan)->cluster;
    }
    if (opt->cluster) GR_TRY(grace_cluster_parse(opt->cluster, &cluster));
    if (!opt->plan) GR_TRY(grace_plan_contiguous(m->n_moe_layers, m->n_experts, m->top_k, cluster, plan));
    GR_TRY(grace_plan_check(*plan, fingerprint, m->n_moe_layers, ids, m->n_experts, m->top_k, cluster));
done:
    return st;
}

grace_status gr_inspect_model(const gr_inspect_options *opt) {
    grace_status st = GRACE_OK;
    grace_model *model = NULL;
    grace_plan *plan = NULL;
    gr_json *o = gr_json_new_object();
    GR_TRY(open_model(opt->path, &model));
    const grace_model_info *m = grace_model_describe(model);
    GR_TRY(choose_plan(opt, model, &plan));
    const need n = count_need(model, plan, opt);
    GR_TRY(put_architecture(o, opt->path, model));
    put_need(o, m, plan, &n, opt->kv_tokens);
    if (opt->memory) put_verdict(o, m, &n, opt->memory, opt->kv_tokens);
    st = gr_print_facts(opt, o);
    o = NULL;
done:
    gr_json_free(o);
    grace_plan_free(plan);
    grace_model_close(model);
    return st;
}
