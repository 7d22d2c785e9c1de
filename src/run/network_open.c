/* Opening a network: the backend, its weights, the buffers of a step, and steps recorded before the first. */
#include <string.h>

#include "base/memory.h"
#include "plan/phases.h"
#include "run/network_parts.h"

/* Rows of logits at once: few keep a CPU's cache warm, many fill a GPU. */
enum { LOGITS_HERE = 32, LOGITS_THERE = 512 };

static grace_status alloc_bytes(gr_network *net, void *out, int64_t n, size_t size) {
    return net->compute->ops->alloc(net->compute, (size_t)n * size, out);
}

static grace_status alloc_rows(gr_network *net, void **out, int64_t rows, int64_t width) {
    return alloc_bytes(net, out, rows * width, net->compute->ops->element);
}

static grace_status alloc_projections(gr_network *net, int32_t rows) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = net->info;
    const int64_t q = (int64_t)m->n_heads * m->head_dim;
    int64_t key, value;
    gr_kv_widths(m, &key, &value);
    GR_TRY(alloc_rows(net, &net->q, rows, m->kv_rank ? q : gr_qkv_width(m)));
    GR_TRY(alloc_rows(net, &net->attn, rows, (int64_t)m->n_heads * m->v_dim));
    if (!m->kv_rank) {
        net->k = gr_behind(net, net->q, q);
        net->v = gr_behind(net, net->k, key);
        goto done;
    }
    GR_TRY(alloc_rows(net, &net->k, rows, key));
    if (m->q_rank) GR_TRY(alloc_rows(net, &net->q_a, rows, m->q_rank));
    GR_TRY(alloc_rows(net, &net->q_latent, rows, m->n_heads * key));
    GR_TRY(alloc_rows(net, &net->attn_latent, rows, (int64_t)m->n_heads * m->kv_rank));
done:
    return st;
}

static grace_status alloc_block(gr_network *net, gr_block *b, int64_t bytes) {
    grace_status st = GRACE_OK;
    GR_CALLOC(b->host, bytes);
    GR_TRY(alloc_bytes(net, (void **)&b->there, bytes, 1));
done:
    return st;
}

static grace_status alloc_choices(gr_network *net, int64_t rows) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = net->info;
    GR_TRY(alloc_bytes(net, (void **)&net->experts, rows * m->top_k, sizeof *net->experts));
    GR_TRY(alloc_bytes(net, (void **)&net->slots, rows * m->top_k, sizeof *net->slots));
    GR_TRY(alloc_bytes(net, (void **)&net->weights, rows * m->top_k, sizeof *net->weights));
done:
    return st;
}

static grace_status alloc_logits(gr_network *net) {
    grace_status st = GRACE_OK;
    const int32_t n = net->n_logits_max;
    GR_TRY(alloc_bytes(net, (void **)&net->logits, (int64_t)n * net->info->vocab, sizeof *net->logits));
    GR_TRY(alloc_bytes(net, (void **)&net->drawn_there, n, sizeof *net->drawn_there));
    GR_TRY(alloc_block(net, &net->draw_block, (int64_t)n * GR_DRAW_BYTES));
done:
    return st;
}

static grace_status alloc_landed(gr_network *net) {
    grace_status st = GRACE_OK;
    for (gr_landed *l = net->landed; l < net->landed + GR_FLIGHTS; l++) {
        GR_CALLOC(l->drawn, net->n_logits_max);
        GR_CALLOC(l->load, net->info->n_moe_layers);
        GR_CALLOC(l->expert_us, net->info->n_moe_layers);
    }
    net->flight = net->landed;
done:
    return st;
}

static grace_status alloc_buffers(gr_network *net) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = net->info;
    const bool packs = net->compute->ops->packs;
    const int32_t rows = net->n_rows_max, most = packs ? LOGITS_THERE : LOGITS_HERE;
    net->n_logits_max = packs && rows < most ? rows : most;
    GR_TRY(alloc_rows(net, &net->x, rows, m->hidden));
    GR_TRY(alloc_rows(net, &net->h, rows > net->n_logits_max ? rows : net->n_logits_max, m->hidden));
    GR_TRY(alloc_projections(net, rows));
    GR_TRY(alloc_logits(net));
    GR_TRY(alloc_choices(net, rows));
    GR_TRY(alloc_block(net, &net->step_block, (int64_t)rows * GR_STEP_BYTES));
    GR_TRY(alloc_landed(net));
done:
    return st;
}

static grace_status upload_joint(gr_network *net, const gr_router *router, int32_t **out) {
    grace_status st = GRACE_OK;
    if (!router || !router->joint.plan) goto done;
    const size_t n = router->joint.first[net->info->n_moe_layers];
    GR_TRY(alloc_bytes(net, out, (int64_t)n, sizeof **out));
    GR_TRY(net->compute->ops->upload(net->compute, *out, router->joint.tables, n * sizeof **out));
done:
    return st;
}

/* A backend that packs places rows itself, by these tables. */
static grace_status upload_tables(gr_network *net) {
    grace_status st = GRACE_OK;
    const gr_compute_ops *ops = net->compute->ops;
    const size_t n = (size_t)net->info->n_moe_layers * (size_t)net->info->n_experts * GR_TURNS;
    if (!ops->packs) goto done;
    GR_TRY(upload_joint(net, net->router, &net->joint));
    GR_TRY(upload_joint(net, net->decode_router, &net->decode_joint));
    GR_TRY(alloc_bytes(net, (void **)&net->pick, net->decode_router ? 2 * (int64_t)n : (int64_t)n, sizeof *net->pick));
    GR_TRY(ops->upload(net->compute, net->pick, net->router->pick, n * sizeof *net->pick));
    if (net->decode_router) GR_TRY(ops->upload(net->compute, net->pick + n, net->decode_router->pick, n * sizeof *net->pick));
done:
    return st;
}

/* Made keys and values lie in the room of the latents' queries and results; the keys' half of kv_b is there a second time. */
static bool makes_keys(const gr_network *net) {
    const grace_model_info *m = net->info;
    return m->kv_rank && m->head_dim <= m->kv_rank + 2 * m->rope.dim && m->v_dim <= m->kv_rank && gr_compute_cuda_makes(net->compute);
}

static int64_t made_bytes(const gr_network *net) {
    const grace_model_info *m = net->info;
    const int64_t keys = (int64_t)m->n_heads * (m->head_dim - m->rope.dim);
    return net->makes_keys ? m->n_layers * keys * m->kv_rank * (int64_t)sizeof(uint16_t) : 0;
}

/* Bytes of the buffers of a step, about: rows as they pass through, and experts' activations and lists of the rows that may meet here. */
static int64_t step_bytes(const grace_model_info *m, int64_t rows, int64_t n_blocks) {
    const int64_t choices = n_blocks * m->top_k * (m->expert_width + 4);
    const int64_t key = m->kv_rank ? m->kv_rank + m->rope.dim : 0;
    const int64_t width = 3 * (int64_t)m->hidden + gr_qkv_width(m) + (int64_t)m->n_heads * (m->v_dim + key + m->kv_rank) + choices;
    return rows * width * (int64_t)sizeof(uint16_t) + (rows < LOGITS_THERE ? rows : LOGITS_THERE) * (int64_t)m->vocab * (int64_t)sizeof(float);
}

/* Ranks whose rows' choices may be listed at the experts here. A rank that only passes rows on lists them too: without a node level each GPU of a
 * node lists what came to every other one of it from other nodes. */
static int32_t blocks_met(const gr_comm *c, grace_exchange kind) {
    const int32_t g = c->gpus_per_node;
    return kind == GRACE_EXCHANGE_HSC ? c->n_ranks : g * (1 + c->n_ranks - g);
}

static int32_t most_slots(const grace_plan *plan, int32_t rank) {
    int32_t most = 0;
    for (int32_t l = 0; l < plan->n_layers; l++) {
        int32_t n = plan->layers[l].first_slot[rank + 1] - plan->layers[l].first_slot[rank];
        if (n > most) most = n;
    }
    return most;
}

static gr_exchange_options exchange_of(const gr_network *net, const grace_engine_options *opt) {
    return (gr_exchange_options){.kind = opt->exchange, .exact = opt->exact, .n_rows_max = opt->n_tokens_max, .top_k = net->info->top_k,
                                 .hidden = net->info->hidden, .n_slots_max = most_slots(net->plan, net->comm->rank), .plan = net->plan,
                                 .wire = opt->wire, .compress = !opt->plain_wire, .turns_from = opt->turns_from};
}

static grace_status check_room(gr_network *net, const grace_model *model, const grace_engine_options *opt) {
    grace_status st = GRACE_OK;
    const gr_exchange_options exchange = exchange_of(net, opt);
    gr_cuda_needs needs = {.weights = grace_rank_memory_of(model, net->plan, net->comm->rank).weights + made_bytes(net),
                           .kv = grace_kv_bytes(net->info, opt->kv_tokens) / 2,
                           .buffers = step_bytes(net->info, opt->n_tokens_max, blocks_met(net->comm, opt->exchange))};
    GR_TRY(gr_exchange_memory(net->comm, net->compute, &exchange, &needs.exchange));
    GR_TRY(gr_compute_cuda_room(net->compute, &needs));
done:
    return st;
}

static grace_status open_cuda(gr_network *net, const grace_model *model, const grace_engine_options *opt) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = net->info;
    const gr_cuda_options cuda = {.info = m, .n_rows_max = opt->n_tokens_max, .kv_tokens = opt->kv_tokens, .exact = opt->exact, .kernels = opt->kernels,
                                  .n_ranks = blocks_met(net->comm, opt->exchange), .local_rank = net->machine_rank,
                                  .n_draws_max = opt->n_tokens_max < LOGITS_THERE ? opt->n_tokens_max : LOGITS_THERE};
    GR_TRY(gr_compute_cuda_open(&cuda, &net->compute));
    net->makes_keys = net->w.makes_keys = makes_keys(net);
    GR_TRY(check_room(net, model, opt));
done:
    return st;
}

static grace_status open_compute(gr_network *net, const grace_model *model, const grace_engine_options *opt) {
    const char *device = opt->device ? opt->device : "cpu";
    if (!strcmp(device, "cuda")) return open_cuda(net, model, opt);
    if (strcmp(device, "cpu")) return gr_fail(GRACE_ERR_ARG, "device '%s': expected cpu or cuda", device);
    return gr_compute_cpu_open(opt->simd, opt->n_threads, &net->compute);
}

/* What can fail on this rank alone. */
static grace_status open_local(gr_network *net, const grace_model *model, const grace_engine_options *opt) {
    grace_status st = GRACE_OK;
    net->n_rows_max = opt->n_tokens_max;
    GR_TRY(open_compute(net, model, opt));
    net->w.on_load = opt->on_load, net->w.load_user = opt->load_user;
    GR_TRY(gr_weights_open(&net->w, net->compute, model, net->plan, net->comm->rank));
    GR_TRY(alloc_buffers(net));
    GR_TRY(gr_kv_init(&net->kv, net->compute, net->info, opt->kv_tokens, opt->n_tokens_max));
    GR_TRY(gr_router_build(net->plan, net->comm->rank, opt->route, &net->router));
    if (gr_plan_has_decode(net->plan)) {
        GR_TRY(gr_plan_of_decode(net->plan, &net->decode_plan));
        GR_TRY(gr_router_build(net->decode_plan, net->comm->rank, opt->route, &net->decode_router));
    }
    GR_TRY(upload_tables(net));
    if (opt->route_trace) GR_TRY(gr_trace_gate_open(net->compute, opt->route_trace, &opt->route_tokens, net->info, &net->trace_gate));
done:
    return st;
}

/* Rows that are padding, as a step brings them: they leave no trace. */
typedef struct padding { int32_t n, *none, *zero; gr_draw *draws; } padding;

static grace_status padding_new(int32_t n, padding *p) {
    grace_status st = GRACE_OK;
    p->n = n;
    GR_CALLOC(p->none, n);
    GR_CALLOC(p->zero, n);
    GR_CALLOC(p->draws, n);
    for (int32_t i = 0; i < n; i++) p->none[i] = -1, p->draws[i].top_p = 1;
done:
    return st;
}

/* A step of every size that decode steps have. */
static grace_status each_size(gr_network *net, const padding *p, grace_status (*f)(gr_network *net, const gr_step *step, const gr_draw *draws)) {
    grace_status st = GRACE_OK;
    for (int32_t n = 1; n <= p->n; n = net->compute->ops->padded(net->compute, n) + 1) {
        const int32_t rows = net->compute->ops->padded(net->compute, n);
        const gr_step step = {.n_rows = rows, .n_decode = rows, .id = p->zero, .sequence = p->zero, .position = p->zero, .kv_sequence = p->none,
                              .n_rows_most = rows, .decode = true};
        GR_TRY(f(net, &step, p->draws));
    }
done:
    return st;
}

static grace_status record_all(gr_network *net, padding *p) {
    grace_status st = GRACE_OK;
    GR_TRY(padding_new(net->n_logits_max < net->n_rows_max ? net->n_logits_max : net->n_rows_max, p));
    GR_TRY(each_size(net, p, gr_network_record));
done:
    return st;
}

static grace_status run_once(gr_network *net, const gr_step *step, const gr_draw *draws) {
    const grace_status st = gr_network_launch(net, step, draws);
    return st ? st : gr_network_land(net, step);
}

/* A backend that replays records a step of every size now, and runs it once: nothing is allocated later. */
static grace_status record_steps(gr_network *net) {
    grace_status st = GRACE_OK;
    padding p = {0};
    if (!net->compute->ops->packs) return st;
    GR_TRY(grace_comm_agree(net->comm, record_all(net, &p)));
    GR_TRY(each_size(net, &p, run_once));
    gr_exchange_counts_clear(net->exchange);
done:
    free(p.none);
    free(p.zero);
    free(p.draws);
    return st;
}

grace_status gr_network_open(const grace_model *model, const grace_engine_options *opt, gr_network **out) {
    grace_status st = GRACE_OK;
    gr_network *net = NULL;
    GR_CALLOC(net, 1);
    net->info = grace_model_describe(model);
    net->plan = opt->plan;
    net->comm = opt->comm;
    GR_TRY(gr_comm_machine_rank(net->comm, &net->machine_rank));
    GR_TRY(grace_comm_agree(net->comm, open_local(net, model, opt)));
    const gr_exchange_options exchange = exchange_of(net, opt);
    GR_TRY(gr_exchange_open(net->comm, net->compute, &exchange, &net->exchange));
    GR_TRY(grace_comm_agree(net->comm, record_steps(net)));
    *out = net;
    net = NULL;
done:
    gr_network_close(net);
    return st;
}

void gr_network_close(gr_network *net) {
    if (!net) return;
    gr_exchange_close(net->exchange);
    gr_router_free(net->router);
    gr_router_free(net->decode_router);
    grace_plan_free(net->decode_plan);
    gr_kv_free(&net->kv);
    if (net->compute) {
        const gr_compute_ops *ops = net->compute->ops;
        void *const all[] = {net->x, net->h, net->q, net->info->kv_rank ? net->k : NULL, net->attn, net->logits, net->q_a, net->q_latent, net->attn_latent,
                             net->experts, net->slots, net->weights, net->pick, net->joint, net->decode_joint, net->drawn_there, net->step_block.there,
                             net->draw_block.there};
        for (size_t i = 0; i < sizeof all / sizeof *all; i++)
            if (all[i]) ops->release(net->compute, all[i]);
        gr_trace_gate_close(net->trace_gate);
        gr_weights_close(&net->w);
        ops->free(net->compute);
    }
    void *const here[] = {net->logits_here, net->seen, net->step_block.host, net->draw_block.host};
    for (size_t i = 0; i < sizeof here / sizeof *here; i++) free(here[i]);
    for (int32_t i = 0; i < GR_FLIGHTS; i++) {
        free(net->landed[i].drawn);
        free(net->landed[i].load);
        free(net->landed[i].expert_us);
    }
    free(net);
}
