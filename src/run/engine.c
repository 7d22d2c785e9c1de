#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/memory.h"
#include "run/batch.h"
#include "run/engine_internal.h"
#include "run/homing.h"
#include "run/record.h"
#include "run/rehome.h"
#include "run/tally.h"

struct grace_engine {
    const grace_model_info *info;
    gr_comm *comm, *own_comm;           /* own_comm: opened by us when the caller gave none */
    grace_plan *own_plan;
    gr_network *net;
    gr_batch batch;
    gr_homing homing;
    int32_t n_homed;                    /* requests that have their first home */
    gr_rehome *rehome;                  /* NULL: no request moves */
    gr_tally tally;
    gr_recorder *recorder;
    int64_t kv_tokens;
    bool hashes;                        /* results' logits_hash is made */
    bool looks_ahead;                   /* a step of generated tokens is launched before the ids of the one before are read */
    gr_agreed agreed[GR_FLIGHTS];       /* by flight */
    const gr_fill *under_way;           /* launched ahead, not landed; NULL: none */
    grace_status failed;                /* the first failure: no step comes after it */
    gr_draw *draws;                     /* [rows drawn at once] */
    int32_t *draw_rows;
    int32_t n_domains;                  /* of the trace */
    double started_us;                  /* of the first step */
};

/* ---- open ---- */

grace_engine_options grace_engine_defaults(void) {
    return (grace_engine_options){.route = GRACE_ROUTE_TAR, .exchange = GRACE_EXCHANGE_HSC, .n_tokens_max = 512, .kv_tokens = 16384, .simd = "auto",
                                  .turns_from = -1};
}

grace_request grace_request_defaults(void) {
    return (grace_request){.n_generate = 16, .top_p = 1, .score_next = -1, .domain = -1};
}

/* All ranks must hold the same model, plan and options: a hash of what they must agree on is compared. */
static uint64_t hash_setup(const grace_model_info *m, const grace_plan *plan, const grace_engine_options *opt) {
    int64_t facts[] = {plan->cluster.n_nodes, plan->cluster.gpus_per_node, plan->n_layers, plan->n_experts, plan->top_k,
                       opt->route, opt->exchange, opt->homes, opt->exact, opt->plain_wire, opt->step_by_step, opt->turns_from, opt->n_tokens_max,
                       opt->kv_tokens, opt->trace_path != NULL, opt->n_trace_domains, opt->trace_weights,
                       opt->route_trace ? grace_trace_n_tokens(opt->route_trace) : 0,
                       opt->route_tokens.sequences, (int64_t)m->fingerprint, m->context_max, m->n_bytes};
    const char *const names[] = {opt->device ? opt->device : "cpu", opt->kernels ? opt->kernels : "auto", opt->wire ? opt->wire : "auto"};
    uint64_t h = gr_hash64(facts, sizeof facts, plan->fingerprint);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) h = gr_hash64(names[i], strlen(names[i]), h);
    h = gr_hash64(plan->token_saves.saved, (size_t)plan->token_saves.vocab * (size_t)plan->token_saves.n_nodes, h);
    for (int32_t l = 0; l < plan->n_layers; l++) {
        const grace_plan_layer *pl = &plan->layers[l];
        h = gr_hash64(pl->expert_of_slot, (size_t)pl->n_slots * sizeof(int32_t), h);
        h = gr_hash64(pl->rank_of_slot, (size_t)pl->n_slots * sizeof(int32_t), h);
        h = gr_hash64(pl->slots_of_expert, (size_t)pl->n_slots * sizeof(int32_t), h);
        h = gr_hash64(pl->poll_weight, (size_t)pl->n_slots * sizeof(float), h);
        if (pl->serve_decode) h = gr_hash64(pl->serve_decode, (size_t)pl->n_slots * sizeof(bool), h);
    }
    return h;
}

static grace_status check_same(gr_comm *comm, uint64_t mine, const char *what) {
    int64_t range[2] = {(int64_t)(mine >> 1), -(int64_t)(mine >> 1)};
    grace_status st = gr_comm_allreduce(comm, range, 2, GR_MAX);
    if (!st && range[0] != -range[1]) st = gr_fail(GRACE_ERR_MISMATCH, "the ranks were not started with the same %s", what);
    return st;
}

static grace_status check_options(const grace_engine_options *opt) {
    grace_status st = GRACE_OK;
    GR_CHECK(opt->n_tokens_max >= 1 && opt->n_tokens_max <= 1 << 20, GRACE_ERR_ARG, "rows a step: expected 1 to %d, found %d", 1 << 20, opt->n_tokens_max);
    GR_CHECK(opt->turns_from >= -1, GRACE_ERR_ARG, "rows from which halves take turns: expected 0 (never) or more, or -1 (automatic), found %d",
             opt->turns_from);
    GR_CHECK(opt->kv_tokens >= 1, GRACE_ERR_ARG, "KV cache: expected at least 1 token, found %lld", (long long)opt->kv_tokens);
    GR_CHECK(!opt->route_trace || !opt->trace_path, GRACE_ERR_ARG, "%s: a run whose routing is replayed cannot record it", opt->trace_path);
    GR_CHECK(!opt->trace_path || opt->homes != GRACE_HOMES_HISTOGRAM, GRACE_ERR_ARG,
             "a trace keeps one home for a sequence: routing is recorded with homes round-robin or vocab, not with histogram");
    GR_CHECK(opt->n_threads >= 0, GRACE_ERR_ARG, "threads: expected 0 (automatic) or more, found %d", opt->n_threads);
done:
    return st;
}

static grace_status choose_plan(grace_engine *e, const grace_engine_options *opt, const grace_plan **plan) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = e->info;
    grace_cluster cluster = grace_comm_cluster(e->comm);
    int32_t ids[GRACE_LAYERS_MAX];
    GR_TRY(check_options(opt));
    if (!opt->plan) GR_TRY(grace_plan_contiguous(m->n_moe_layers, m->n_experts, m->top_k, cluster, &e->own_plan));
    *plan = opt->plan ? opt->plan : e->own_plan;
    grace_model_layer_ids(m, ids);
    GR_TRY(grace_plan_check(*plan, m->fingerprint, m->n_moe_layers, ids, m->n_experts, m->top_k, cluster));
done:
    return st;
}

static grace_status open_recorder(grace_engine *e, const grace_model *model, const grace_engine_options *opt) {
    grace_trace_info info = {.fingerprint = e->info->fingerprint, .n_layers = e->info->n_moe_layers, .n_experts = e->info->n_experts,
                             .top_k = e->info->top_k, .n_ranks = e->comm->n_ranks, .n_nodes = e->comm->n_nodes, .vocab = e->info->vocab,
                             .weights = opt->trace_weights, .layer_ids_known = true};
    const char *dir = grace_model_dir(model), *slash = strrchr(dir, '/');
    uint64_t seed;
    snprintf(info.model, sizeof info.model, "%s", slash && slash[1] ? slash + 1 : dir);
    if (grace_model_is_random(model, &seed)) snprintf(info.model, sizeof info.model, "random weights, seed %" PRIu64 ": %.24s", seed, slash ? slash + 1 : dir);
    grace_model_layer_ids(e->info, info.layer_ids);
    return gr_recorder_open(e->comm, opt->trace_path, &info, opt->trace_domains, opt->n_trace_domains, opt->n_tokens_max, &e->recorder);
}

/* What a step keeps beside the network. */
static grace_status open_books(grace_engine *e, const grace_engine_options *opt) {
    grace_status st = GRACE_OK;
    GR_CALLOC(e->draws, e->net->n_logits_max);
    GR_CALLOC(e->draw_rows, e->net->n_logits_max);
    GR_TRY(gr_batch_init(&e->batch, e->comm->rank, e->comm->n_ranks, opt->n_tokens_max));
    GR_TRY(gr_homing_init(&e->homing, opt->plan, opt->homes, e->info->vocab));
    GR_TRY(gr_tally_init(&e->tally, e->comm->n_ranks, e->info->n_moe_layers));
done:
    return st;
}

static const char *kernels_in_use(const gr_compute *c) { return c->ops->packs ? c->ops->name : gr_compute_cpu_simd(c); }

grace_status grace_engine_open(const grace_model *model, const grace_engine_options *options, grace_engine **out) {
    grace_status st = GRACE_OK;
    grace_engine *e = NULL;
    grace_engine_options opt = *options;
    GR_CALLOC(e, 1);
    if (!opt.comm) GR_TRY(grace_comm_open(GRACE_TRANSPORT_SELF, 1, 30, &e->own_comm));
    if (!opt.comm) opt.comm = e->own_comm;
    e->comm = opt.comm;
    e->info = grace_model_describe(model);
    e->kv_tokens = opt.kv_tokens;
    e->n_domains = opt.n_trace_domains;
    GR_TRY(grace_comm_agree(e->comm, choose_plan(e, options, &opt.plan)));
    GR_TRY(check_same(e->comm, hash_setup(e->info, opt.plan, &opt), "model, plan and options"));
    GR_TRY(gr_network_open(model, &opt, &e->net));
    e->hashes = !e->net->compute->ops->packs || opt.exact;
    e->looks_ahead = e->net->compute->ops->packs && !opt.step_by_step;
    GR_TRY(grace_comm_agree(e->comm, open_books(e, &opt)));
    if (opt.homes == GRACE_HOMES_HISTOGRAM && e->comm->n_nodes > 1) {
        GR_TRY(grace_comm_agree(e->comm, gr_rehome_open(e->net, opt.n_tokens_max, &e->rehome)));
        e->net->on_gate_user = e->rehome;
    }
    if (opt.trace_path) {
        GR_TRY(open_recorder(e, model, &opt));
        e->net->on_gate = gr_recorder_gate;
        e->net->on_gate_user = e->recorder;
    }
    gr_log(GR_INFO, "engine", "%s: %d layers, %d experts, top %d, on %d nodes x %d ranks, %s, plan '%s'", e->info->family, e->info->n_layers,
           e->info->n_experts, e->info->top_k, e->comm->n_nodes, e->comm->gpus_per_node, kernels_in_use(e->net->compute), opt.plan->planner);
    *out = e;
    e = NULL;
done:
    grace_engine_close(e);
    return st;
}

void grace_engine_close(grace_engine *e) {
    if (!e) return;
    /* All ranks have launched it: it ends, unless one of them is gone. */
    if (e->under_way && (!e->failed || e->failed == GRACE_ERR_NUMERIC)) (void)gr_network_land(e->net, &e->under_way->step);
    gr_recorder_free(e->recorder);
    gr_tally_free(&e->tally);
    gr_rehome_free(e->rehome);
    gr_homing_free(&e->homing);
    gr_batch_free(&e->batch);
    gr_network_close(e->net);
    free(e->draws);
    free(e->draw_rows);
    grace_plan_free(e->own_plan);
    grace_comm_close(e->own_comm);
    free(e);
}

gr_network *gr_engine_network(grace_engine *e) { return e->net; }
void gr_engine_drop_hashes(grace_engine *e) { e->hashes = false; }
void gr_engine_look_ahead(grace_engine *e, bool on) { e->looks_ahead = on; }

/* ---- requests ---- */

static grace_status check_request(const grace_engine *e, const grace_request *req) {
    grace_status st = GRACE_OK;
    int64_t total = (int64_t)req->n_prompt + req->n_generate;
    GR_CHECK(req->n_prompt >= 1, GRACE_ERR_ARG, "the prompt is empty: expected at least one token");
    GR_CHECK(req->n_generate >= 0, GRACE_ERR_ARG, "tokens to generate: expected 0 or more, found %d", req->n_generate);
    GR_CHECK(total <= e->info->context_max, GRACE_ERR_LIMIT, "a prompt of %d tokens and %d to generate: the model's context is %d", req->n_prompt,
             req->n_generate, e->info->context_max);
    GR_CHECK((total + GR_KV_PAGE - 1) / GR_KV_PAGE <= e->net->kv.n_pages, GRACE_ERR_LIMIT,
             "a prompt of %d tokens and %d to generate: the KV cache of a rank holds %lld", req->n_prompt, req->n_generate, (long long)e->kv_tokens);
    for (int32_t i = 0; i < req->n_prompt; i++)
        GR_CHECK(req->prompt[i] >= 0 && req->prompt[i] < e->info->vocab, GRACE_ERR_ARG, "prompt token %d: expected an id from 0 to %d, found %d", i,
                 e->info->vocab - 1, req->prompt[i]);
    GR_CHECK(req->temperature >= 0 && isfinite(req->temperature), GRACE_ERR_ARG, "temperature: expected 0 or more, found %g", (double)req->temperature);
    GR_CHECK(req->top_p > 0 && req->top_p <= 1, GRACE_ERR_ARG, "top-p: expected above 0, at most 1, found %g", (double)req->top_p);
    GR_CHECK(req->top_k >= 0, GRACE_ERR_ARG, "top-k: expected 0 (off) or more, found %d", req->top_k);
    GR_CHECK(!e->recorder || (req->domain >= -1 && req->domain < e->n_domains), GRACE_ERR_ARG, "domain: expected -1 (none) to %d, found %d",
             e->n_domains - 1, req->domain);
    GR_CHECK(req->score_next < e->info->vocab, GRACE_ERR_ARG, "token to score: expected an id below %d, found %d", e->info->vocab, req->score_next);
done:
    return st;
}

grace_status grace_engine_submit(grace_engine *e, const grace_request *req) {
    grace_status st = GRACE_OK;
    GR_TRY(check_request(e, req));
    GR_TRY(gr_batch_add(&e->batch, req));
done:
    return st;
}

int32_t grace_engine_n_requests(const grace_engine *e) { return e->batch.n; }
int64_t grace_engine_n_rows(const grace_engine *e) { return e->tally.n_prefill + e->tally.n_decode; }

const grace_result *grace_engine_result(const grace_engine *e, int32_t request) {
    return request >= 0 && request < e->batch.n ? &e->batch.sequences[request]->result : NULL;
}

/* ---- step ---- */

/* -log softmax(logits)[target] in double. */
static double negative_log_likelihood(const float *logits, int32_t vocab, int32_t target) {
    double most = logits[0], sum;
    for (int32_t i = 1; i < vocab; i++) most = logits[i] > most ? logits[i] : most;
    sum = exp(logits[0] - most);
    for (int32_t i = 1; i < vocab; i++) sum += exp(logits[i] - most);
    return log(sum) + most - logits[target];
}

static void score(gr_sequence *s, int32_t position, const float *logits, int32_t vocab) {
    int32_t target = position + 1 < s->request.n_prompt ? s->prompt[position + 1] : s->request.score_next;
    if (!s->request.score || position >= s->request.n_prompt || target < 0) return;
    s->result.nll += negative_log_likelihood(logits, vocab, target);
    s->result.n_scored++;
}

static bool is_eos(const grace_model_info *m, int32_t id) {
    for (int32_t i = 0; i < m->n_eos; i++)
        if (m->eos_ids[i] == id) return true;
    return false;
}

static void finish(grace_engine *e, gr_sequence *s, grace_finish why) {
    s->finished = true;
    s->result.finish = why;
    s->result.total_us = gr_now_us() - e->started_us;
}

/* The last known token's row: take the id drawn from it, or end. */
static void extend(grace_engine *e, gr_sequence *s, int32_t request, int32_t id) {
    const grace_request *req = &s->request;
    if (s->result.n_ids == req->n_generate) {
        finish(e, s, GRACE_FINISH_LENGTH);
        return;
    }
    if (s->result.n_ids == 0) s->result.ttft_us = gr_now_us() - e->started_us;
    s->result.ids[s->result.n_ids++] = id;
    if (req->on_token) req->on_token(req->user, request, id);
    if (is_eos(e->info, id) && !req->ignore_eos) finish(e, s, GRACE_FINISH_EOS);
    else if (s->result.n_ids == req->n_generate) finish(e, s, GRACE_FINISH_LENGTH);
}

/* logits NULL: nobody looks at them. A row that was launched before its request's end was known counts for nothing. */
static void take_row(grace_engine *e, const gr_fill *f, int32_t row, const float *logits, int32_t id) {
    int32_t request = f->request_of_row[row], position = f->step.position[row];
    gr_sequence *s = e->batch.sequences[request];
    if (s->finished) return;
    if (logits) {
        s->result.logits_hash = gr_hash64(logits, (size_t)e->info->vocab * sizeof(float), s->result.logits_hash);
        if (s->request.on_logits) s->request.on_logits(s->request.user, request, position, logits);
        score(s, position, logits, e->info->vocab);
    }
    if (position + 1 == gr_sequence_known(s)) extend(e, s, request, id);
}

/* Where the next token is known already, the largest logit will do. */
static gr_draw draw_of(const grace_engine *e, const gr_fill *f, int32_t row) {
    const gr_sequence *s = e->batch.sequences[f->request_of_row[row]];
    const grace_request *req = &s->request;
    const int32_t position = f->step.position[row];
    if (position + 1 < gr_sequence_known(s)) return (gr_draw){.top_p = 1};
    return (gr_draw){req->temperature, req->top_p, req->top_k, req->seed, position};
}

/* Do logits leave the network: for a hash, a score, a caller? */
static bool looks(const grace_engine *e, const gr_fill *f, int32_t row) {
    const grace_request *req = &e->batch.sequences[f->request_of_row[row]]->request;
    return e->hashes || req->score || req->on_logits;
}

static bool looks_at_any(const grace_engine *e, const gr_fill *f) {
    for (int32_t row = 0; row < f->step.n_rows; row++)
        if (looks(e, f, row)) return true;
    return false;
}

/* The rows whose logits are wanted, as many at a time as the network takes. */
static grace_status draw(grace_engine *e, const gr_fill *f) {
    grace_status st = GRACE_OK;
    bool look = false;
    int32_t n = 0;
    for (int32_t row = 0; row <= f->step.n_rows; row++) {
        bool last = row == f->step.n_rows;
        if (!last && f->wants_logits[row]) {
            look = looks(e, f, row) || look;
            e->draws[n] = draw_of(e, f, row);
            e->draw_rows[n++] = row;
        }
        if (n == 0 || (n < e->net->n_logits_max && !last)) continue;
        const float *logits = NULL;
        GR_TRY(gr_network_draw(e->net, e->draw_rows, n, e->draws, look ? &logits : NULL));
        for (int32_t i = 0; i < n; i++) take_row(e, f, e->draw_rows[i], logits ? logits + (int64_t)i * e->info->vocab : NULL, e->net->flight->drawn[i]);
        n = 0;
        look = false;
    }
done:
    return st;
}

/* A step of generated tokens alone, on all ranks, of no more rows than are drawn at once. */
static bool is_drawn_at_once(const grace_engine *e, const gr_agreed *a) {
    return a->decode && a->n_rows_most > 0 && e->net->compute->ops->padded(e->net->compute, a->n_rows_most) <= e->net->n_logits_max;
}

static grace_status launch(grace_engine *e, const gr_fill *f) {
    for (int32_t row = 0; row < f->step.n_rows; row++) e->draws[row] = draw_of(e, f, row);
    return gr_network_launch(e->net, &f->step, e->draws);
}

/* Layers, then draws, of which the host may see. */
static grace_status forward(grace_engine *e, const gr_fill *f) {
    grace_status st = GRACE_OK;
    double mark;
    GR_TRY(gr_network_forward(e->net, &f->step));
    mark = gr_now_us();
    GR_TRY(draw(e, f));
    if (!e->net->compute->ops->packs) e->net->time_us[GRACE_TIME_LOGITS] += gr_now_us() - mark;
done:
    return st;
}

/* Requests that came since the last step get their homes. */
static grace_status take_in(grace_engine *e) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_homing_assign(&e->homing, &e->batch, e->n_homed));
    for (; e->n_homed < e->batch.n; e->n_homed++) {
        const gr_sequence *s = e->batch.sequences[e->n_homed];
        if (e->recorder) GR_TRY(gr_recorder_add(e->recorder, (grace_trace_sequence){e->n_homed, s->result.home, s->request.domain}));
    }
done:
    return st;
}

/* Whether what this rank brings must be seen before more is launched. */
static bool must_see(const grace_engine *e, const gr_fill *f) {
    return !e->looks_ahead || e->rehome || !gr_network_queues(e->net) || looks_at_any(e, f);
}

/* Fills a step, in batch.fill, and agrees on it. */
static grace_status prepare(grace_engine *e, const gr_fill *under_way) {
    grace_status st = GRACE_OK;
    gr_fill *f;
    GR_TRY(take_in(e));
    gr_batch_fill(&e->batch, &e->net->kv, under_way);
    f = e->batch.fill;
    if (e->rehome) e->net->on_gate = f->n_started > 0 ? gr_rehome_gate : NULL;
    gr_agreed *a = &e->agreed[f->step.flight];
    GR_TRY(gr_tally_sync(&e->tally, e->net, f, must_see(e, f), a));
    f->step.decode = a->decode;
    f->step.n_rows_most = a->n_rows_most;
done:
    return st;
}

static bool may_be_ahead(const grace_engine *e, const gr_fill *f) {
    const gr_agreed *a = &e->agreed[f->step.flight];
    return a->quiet && is_drawn_at_once(e, a);
}

/* The step after f, which is under way, if both are of generated tokens that nobody sees: *next. What else comes next is filled anew when f has landed. */
static grace_status launch_ahead(grace_engine *e, const gr_fill *f, const gr_fill **next) {
    grace_status st = GRACE_OK;
    *next = NULL;
    if (!may_be_ahead(e, f)) return st;
    GR_TRY(prepare(e, f));
    if (!may_be_ahead(e, e->batch.fill)) return st;
    GR_TRY(launch(e, e->batch.fill));
    *next = e->batch.fill;
done:
    return st;
}

static grace_status land(grace_engine *e, const gr_fill *f) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_network_land(e->net, &f->step));
    for (int32_t row = 0; row < f->step.n_rows; row++) take_row(e, f, row, NULL, e->net->landed[f->step.flight].drawn[row]);
done:
    return st;
}

/* One step, which was launched ahead, or is now; where the next may be launched ahead, it is under way when this one is seen. */
static grace_status run_step(grace_engine *e, const gr_fill *f, bool is_launched) {
    grace_status st = GRACE_OK;
    if (!is_launched && (!is_drawn_at_once(e, &e->agreed[f->step.flight]) || looks_at_any(e, f))) return forward(e, f);
    if (!is_launched) GR_TRY(launch(e, f));
    GR_TRY(launch_ahead(e, f, &e->under_way));
    GR_TRY(land(e, f));
done:
    return st;
}

static grace_status step(grace_engine *e, bool *more) {
    grace_status st = GRACE_OK;
    const double start = gr_now_us();
    const gr_fill *f = e->under_way;
    const bool is_launched = f != NULL;
    const gr_agreed *a;
    if (e->tally.n_steps == 0) e->started_us = start;
    if (e->rehome && e->tally.n_started > 0) GR_TRY(gr_rehome_step(e->rehome, &e->batch, e->homing.held, &e->tally.moved));
    e->tally.n_started = 0;
    if (!is_launched) GR_TRY(prepare(e, NULL));
    if (!is_launched) f = e->batch.fill;
    a = &e->agreed[f->step.flight];
    *more = a->n_prefill + a->n_decode > 0;
    if (!*more) goto done;
    GR_TRY(run_step(e, f, is_launched));
    gr_batch_advance(&e->batch, &e->net->kv, f);
    gr_tally_step(&e->tally, a, &e->net->landed[f->step.flight], gr_now_us() - start);
    if (e->recorder) GR_TRY(gr_recorder_step(e->recorder, &f->step, f->n_decode, e->tally.n_steps - 1));
done:
    return st;
}

/* Remembers that it failed. */
static grace_status noted(grace_engine *e, grace_status st) {
    if (!e->failed) e->failed = st;
    return st;
}

grace_status grace_engine_step(grace_engine *e, bool *more) {
    if (e->failed) return gr_fail(GRACE_ERR_ARG, "a step of this engine failed before: it takes no more");
    return noted(e, step(e, more));
}

grace_status grace_engine_run(grace_engine *e) {
    grace_status st = GRACE_OK;
    for (bool more = true; more;) GR_TRY(grace_engine_step(e, &more));
    if (e->recorder) {
        st = gr_recorder_finish(e->recorder);
        gr_recorder_free(e->recorder);
        e->recorder = NULL;
        e->net->on_gate = NULL;
    }
done:
    return st;
}

/* ---- results ---- */

/* This rank's, malloc'ed. */
static grace_status pack_results(const gr_batch *b, char **packed, int32_t *n_bytes) {
    grace_status st = GRACE_OK;
    size_t n = 0;
    for (int32_t i = 0; i < b->n; i++)
        if (b->sequences[i]->result.home == b->rank) n += gr_result_bytes(b->sequences[i]->result.n_ids);
    GR_CHECK(n <= INT32_MAX, GRACE_ERR_LIMIT, "results: expected at most %d bytes on a rank, found %zu", INT32_MAX, n);
    GR_CALLOC(*packed, n);
    *n_bytes = (int32_t)n;
    char *at = *packed;
    for (int32_t i = 0; i < b->n; i++)
        if (b->sequences[i]->result.home == b->rank) at = gr_result_pack(b, i, at);
done:
    return st;
}

grace_status grace_engine_collect(grace_engine *e) {
    grace_status st = GRACE_OK;
    int32_t sizes[GRACE_RANKS_MAX], n = 0;
    char *packed = NULL, *all = NULL;
    int64_t total = 0;
    GR_TRY(grace_comm_agree(e->comm, pack_results(&e->batch, &packed, &n)));
    gr_comm_at("collect", -1);
    GR_TRY(gr_comm_allgatherv(e->comm, packed, n, sizes, (void **)&all));
    for (int32_t r = 0; r < e->comm->n_ranks; r++) total += sizes[r];
    for (const char *at = all; at < all + total;) at = gr_result_unpack(&e->batch, at);
done:
    free(packed);
    free(all);
    return noted(e, st);
}

uint64_t grace_engine_logits_hash(const grace_engine *e) {
    uint64_t h = 0;
    for (int32_t i = 0; i < e->batch.n; i++) h = gr_hash64(&e->batch.sequences[i]->result.logits_hash, sizeof h, h);
    return h;
}

void grace_engine_time_stages(grace_engine *e, bool on) { e->net->times_stages = on && e->net->compute->ops->packs; }

grace_status grace_engine_stats(grace_engine *e, grace_stats *out) { return noted(e, gr_tally_stats(&e->tally, e->net, out)); }
