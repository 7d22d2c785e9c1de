/* A model against the reference implementation's goldens (docs/goldens.md), whatever its family.
 *
 *     gr_goldens g = gr_goldens_open(dir of the model, path of goldens.safetensors);
 *     gr_goldens_check(&g, exact);         every prompt: experts, weights, logits, residual stream, greedy ids
 *     gr_goldens_close(&g);
 *
 * Bounds. The weights are exact in float32, so the two sides differ only in the order in which float32 sums are taken. A sum of n terms is
 * off by about sqrt(n) * u relative to its size (u = 2^-24, errors of random sign). A value passes 6 sums in a layer, one after the other (norm,
 * projection, scores or gate, mix or hidden, output, residual), with projections of low rank (MLA) 2 more (norm, second projection), then the
 * final norm and the head. Errors of both sides add up. Hence
 *     relative = 2 * (6 or 8 * layers + 2) * sqrt(longest sum) * u
 * of the largest value of a kind: of the logits for logits, of the router's logits for the gate, of the stream's rms for it. A weight
 * w = softmax or sigmoid is off by at most 2 * w * (error of the router's logits); a weight's scaling scales its error. */
#ifndef GR_TESTS_GOLDENS_H
#define GR_TESTS_GOLDENS_H
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "model/safetensors.h"
#include "model/weights.h"
#include "run/engine_internal.h"

#define gr_assert_ok(call)                                                                \
    do {                                                                                  \
        if ((call) != GRACE_OK) fail_msg("%s: %s", #call, grace_last_error());            \
    } while (0)

enum { GR_GOLDEN_PROMPTS_MAX = 16 };

typedef struct gr_goldens {
    const char *name;
    grace_model *model;
    const grace_model_info *info;
    gr_shard file;
    int32_t n_prompts;
    double relative;                /* error, see above */
    double open_margin;             /* of a choice of experts: under it either is right; 0: what `relative` leaves open (gr_golden_open_margin()) */
    const char *device, *kernels;   /* grace_engine_options */
    const grace_trace *forced;      /* routing that replaces the gates' choice (gr_golden_routing()); then only prompts run; NULL: none */
    double worst;                   /* largest error found, in bounds */
    int64_t n_rows, n_rows_checked; /* logits rows of the goldens; of them before a choice that may differ */
} gr_goldens;

/* ---- what the files say ---- */

static inline const gr_shard_tensor *gr_golden_find(const gr_goldens *g, int prompt, const char *what) {
    char full[64];
    snprintf(full, sizeof full, "p%d.%s", prompt, what);
    return gr_shard_find(&g->file, full);
}

static inline const gr_shard_tensor *gr_golden(const gr_goldens *g, int prompt, const char *what) {
    const gr_shard_tensor *t = gr_golden_find(g, prompt, what);
    if (!t) fail_msg("%s: no p%d.%s among the goldens", g->name, prompt, what);
    return t;
}

static inline double gr_golden_float(const gr_shard_tensor *t, int64_t i) {
    float value;
    memcpy(&value, (const char *)t->data + i * (int64_t)sizeof value, sizeof value);
    return (double)value;
}

static inline int32_t gr_golden_int(const gr_shard_tensor *t, int64_t i) {
    int32_t value;
    memcpy(&value, (const char *)t->data + i * (int64_t)sizeof value, sizeof value);
    return value;
}

static inline double gr_golden_config(const gr_json *config, const char *key) {
    const gr_json *value = gr_json_get(config, key);
    double number = 0;
    if (gr_json_kind_of(value) != GR_JSON_NULL) gr_assert_ok(gr_json_real(config, "config.json", key, &number));
    return number;
}

/* Values that a token passes through one after the other, and the longest sum among them. */
static inline double gr_golden_depth(const char *dir, double *longest) {
    char path[1024];
    gr_json *config = NULL;
    snprintf(path, sizeof path, "%s/config.json", dir);
    gr_assert_ok(gr_json_load(path, &config));
    double layers = gr_golden_config(config, "num_hidden_layers");
    *longest = fmax(gr_golden_config(config, "hidden_size"), gr_golden_config(config, "intermediate_size"));
    double head = fmax(gr_golden_config(config, "head_dim"), gr_golden_config(config, "v_head_dim"));
    *longest = fmax(*longest, gr_golden_config(config, "num_attention_heads") * head);
    double sums = gr_golden_config(config, "kv_lora_rank") > 0 ? 8 : 6;
    gr_json_free(config);
    return sums * layers + 2;
}

static inline double gr_golden_relative(const char *dir) {
    double longest, depth = gr_golden_depth(dir, &longest);
    return 2 * depth * sqrt(longest) * 0x1p-24;
}

/* Of a backend with bf16 values: each is rounded by about 2^-9 of itself (root of the mean square; at most 2^-8), and so is every weight's input, with
 * random sign; about three roundings a sum (its input, its result, the stream it is added to), whose errors add up as squares; five times that, for the
 * largest of 10^5 values. */
static inline double gr_golden_relative_bf16(const char *dir) {
    double longest, depth = gr_golden_depth(dir, &longest);
    return 5 * sqrt(3 * depth) * 0x1p-9;
}

static inline gr_goldens gr_goldens_open(const char *name, const char *dir, const char *goldens) {
    gr_goldens g = {.name = name, .relative = gr_golden_relative(dir)};
    gr_assert_ok(grace_model_open(dir, &g.model));
    gr_assert_ok(gr_shard_open(goldens, &g.file));
    g.info = grace_model_describe(g.model);
    g.open_margin = strcmp(g.info->family, "gpt_oss") ? 1e-5 : 4e-5;        /* what float32 leaves of a probability; a logit moves it by a quarter at most */
    while (g.n_prompts < GR_GOLDEN_PROMPTS_MAX && gr_golden_find(&g, g.n_prompts, "input_ids")) g.n_prompts++;
    assert_in_range(g.n_prompts, 1, GR_GOLDEN_PROMPTS_MAX - 1);
    return g;
}

static inline void gr_goldens_close(gr_goldens *g) {
    gr_shard_close(&g->file);
    grace_model_close(g->model);
}

/* ---- a run that keeps what it saw ---- */

typedef struct gr_seen_prompt {
    int32_t n, n_greedy;
    float *logits;                  /* [n, vocab] of the prompt's rows */
    int32_t *experts;               /* [moe_layers, n, k] */
    float *weights;
    double *rms;                    /* [layers + 1, n] */
    int32_t *greedy;                /* [n_greedy] */
} gr_seen_prompt;

typedef struct gr_seen { const grace_model_info *info; gr_seen_prompt prompt[GR_GOLDEN_PROMPTS_MAX]; } gr_seen;

static inline void gr_seen_logits(void *user, int32_t request, int32_t position, const float *logits) {
    const gr_seen *s = user;
    const gr_seen_prompt *p = &s->prompt[request];
    if (position < p->n) memcpy(p->logits + (int64_t)position * s->info->vocab, logits, (size_t)s->info->vocab * sizeof(float));
}

static inline void gr_seen_gate(void *user, int32_t layer, const gr_step *step, const int32_t *experts, const float *weights) {
    const gr_seen *s = user;
    int32_t k = s->info->top_k;
    for (int32_t r = 0; r < step->n_rows; r++) {
        const gr_seen_prompt *p = &s->prompt[step->sequence[r]];
        if (step->position[r] >= p->n) continue;
        int64_t at = ((int64_t)layer * p->n + step->position[r]) * k;
        memcpy(p->experts + at, experts + (int64_t)r * k, (size_t)k * sizeof(int32_t));
        memcpy(p->weights + at, weights + (int64_t)r * k, (size_t)k * sizeof(float));
    }
}

static inline void gr_seen_stream(void *user, int32_t n_done, const gr_step *step, const float *x) {
    const gr_seen *s = user;
    int32_t hidden = s->info->hidden;
    for (int32_t r = 0; r < step->n_rows; r++) {
        const gr_seen_prompt *p = &s->prompt[step->sequence[r]];
        double squares = 0;
        for (int32_t i = 0; i < hidden; i++) squares += (double)x[(int64_t)r * hidden + i] * (double)x[(int64_t)r * hidden + i];
        if (step->position[r] < p->n) p->rms[(int64_t)n_done * p->n + step->position[r]] = sqrt(squares / hidden);
    }
}

static inline void *gr_seen_array(int64_t n, size_t size) {
    void *array = calloc((size_t)n, size);
    assert_non_null(array);
    return array;
}

static inline void gr_seen_submit(grace_engine *engine, const gr_goldens *g, int prompt, gr_seen *s) {
    const gr_shard_tensor *ids = gr_golden(g, prompt, "input_ids");
    const grace_model_info *m = g->info;
    gr_seen_prompt *to = &s->prompt[prompt];
    grace_request req = grace_request_defaults();
    int32_t *copy = gr_seen_array(ids->shape[0], sizeof *copy);
    memcpy(copy, ids->data, ids->n_bytes);
    to->n = (int32_t)ids->shape[0];
    to->n_greedy = (int32_t)gr_golden(g, prompt, "greedy_ids")->shape[0];
    to->logits = gr_seen_array((int64_t)to->n * m->vocab, sizeof(float));
    to->experts = gr_seen_array((int64_t)to->n * m->n_moe_layers * m->top_k, sizeof(int32_t));
    to->weights = gr_seen_array((int64_t)to->n * m->n_moe_layers * m->top_k, sizeof(float));
    to->rms = gr_seen_array((int64_t)to->n * (m->n_layers + 1), sizeof(double));
    to->greedy = gr_seen_array(to->n_greedy, sizeof(int32_t));
    req.prompt = copy, req.n_prompt = to->n, req.n_generate = g->forced ? 0 : to->n_greedy, req.ignore_eos = true;
    req.user = s, req.on_logits = gr_seen_logits;
    gr_assert_ok(grace_engine_submit(engine, &req));
    free(copy);
}

/* All prompts in one batch, cut into uneven chunks. */
static inline gr_seen *gr_seen_new(const gr_goldens *g, bool exact, int32_t n_tokens_max) {
    grace_engine_options opt = grace_engine_defaults();
    grace_engine *engine = NULL;
    gr_seen *s = gr_seen_array(1, sizeof *s);
    s->info = g->info;
    opt.exact = exact, opt.n_tokens_max = n_tokens_max, opt.kv_tokens = 1024, opt.n_threads = 1;
    opt.device = g->device, opt.kernels = g->kernels, opt.route_trace = g->forced;
    gr_assert_ok(grace_engine_open(g->model, &opt, &engine));
    gr_network *net = gr_engine_network(engine);
    net->on_gate = gr_seen_gate, net->on_gate_user = s;
    net->on_stream = gr_seen_stream, net->on_stream_user = s;
    for (int p = 0; p < g->n_prompts; p++) gr_seen_submit(engine, g, p, s);
    gr_assert_ok(grace_engine_run(engine));
    for (int p = 0; p < g->n_prompts; p++) {
        const grace_result *r = grace_engine_result(engine, p);
        assert_int_equal(r->n_ids, g->forced ? 0 : s->prompt[p].n_greedy);
        memcpy(s->prompt[p].greedy, r->ids, (size_t)r->n_ids * sizeof(int32_t));
    }
    grace_engine_close(engine);
    return s;
}

static inline void gr_seen_free(gr_seen *s) {
    for (int p = 0; p < GR_GOLDEN_PROMPTS_MAX; p++) {
        free(s->prompt[p].logits);
        free(s->prompt[p].experts);
        free(s->prompt[p].weights);
        free(s->prompt[p].rms);
        free(s->prompt[p].greedy);
    }
    free(s);
}

/* ---- the reference's own routing, to be run with ---- */

/* The choices of every prompt, written to `path` and read back; grace_trace_close() it. */
static inline grace_trace *gr_golden_routing(const gr_goldens *g, const char *path) {
    grace_trace_info info = {.model = "goldens", .n_layers = g->info->n_moe_layers, .n_experts = g->info->n_experts, .top_k = g->info->top_k,
                             .n_ranks = 1, .n_nodes = 1, .weights = GRACE_WEIGHTS_F16};
    const int32_t layers = info.n_layers, k = info.top_k;
    grace_trace_writer *w = NULL;
    grace_trace *trace = NULL;
    gr_assert_ok(grace_trace_create(path, &info, NULL, 0, &w));
    for (int p = 0; p < g->n_prompts; p++) {
        const gr_shard_tensor *ids = gr_golden(g, p, "topk_ids"), *weights = gr_golden(g, p, "topk_weights");
        const int32_t n = (int32_t)ids->shape[1];
        uint16_t *experts = gr_seen_array((int64_t)n * layers * k, sizeof *experts);
        float *gates = gr_seen_array((int64_t)n * layers * k, sizeof *gates);
        for (int32_t l = 0; l < layers; l++)
            for (int32_t t = 0; t < n; t++)
                for (int32_t i = 0; i < k; i++) {
                    const int64_t to = ((int64_t)t * layers + l) * k + i, from = ((int64_t)l * n + t) * k + i;
                    experts[to] = ((const uint8_t *)ids->data)[from];
                    gates[to] = (float)gr_golden_float(weights, from);
                }
        gr_assert_ok(grace_trace_add_sequence(w, (grace_trace_sequence){p, 0, -1}));
        gr_assert_ok(grace_trace_append(w, (grace_trace_segment){p, 0, n, 0, GRACE_PHASE_PREFILL}, (grace_trace_tokens){experts, NULL, gates}));
        free(experts);
        free(gates);
    }
    gr_assert_ok(grace_trace_finish(w));
    gr_assert_ok(grace_trace_open(path, &trace, NULL));
    return trace;
}

/* ---- the claims ---- */

/* One number against the reference's. */
static inline void gr_golden_close(gr_goldens *g, const char *what, int prompt, int64_t at, double found, double expected, double bound) {
    if (!(fabs(found - expected) <= bound))
        fail_msg("%s, prompt %d: %s %lld is %.9g, reference %.9g, bound %.3g", g->name, prompt, what, (long long)at, found, expected, bound);
    if (bound > 0) g->worst = fmax(g->worst, fabs(found - expected) / bound);
}

static inline double gr_golden_weight_at(const grace_tensor *t, int64_t i) {
    uint16_t half;
    float value;
    if (t->dtype == GRACE_F32) {
        memcpy(&value, (const char *)t->data + 4 * i, 4);
        return (double)value;
    }
    memcpy(&half, (const char *)t->data + 2 * i, 2);
    bool normal = half & 0x7C00;
    if (t->dtype == GRACE_F16) return (half & 0x8000 ? -1 : 1) * ldexp((normal ? 1024 : 0) + (half & 0x3FF), (half >> 10 & 31) - (normal ? 25 : 24));
    uint32_t bits = (uint32_t)half << 16;
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

/* The router's logits are at most |row of the router| * |h|, and a normed h has length sqrt(hidden) times its norm's weights. */
static inline double gr_golden_router_logit(const gr_goldens *g, int32_t moe_layer) {
    const gr_layer_tensors *t = gr_model_tensors_of(g->model)->layers;
    double most = 0;
    while (!t->router.data || moe_layer-- > 0) t++;
    for (int64_t e = 0; e < t->router.rows; e++) {
        double squares = 0;
        for (int64_t i = 0; i < t->router.cols; i++) {
            double w = gr_golden_weight_at(&t->router, e * t->router.cols + i) * gr_golden_weight_at(&t->mlp_norm, i);
            squares += w * w;
        }
        most = fmax(most, sqrt(squares * (double)t->router.cols));
    }
    return most;
}

/* Margins are between the last chosen expert and the first rejected one: of probabilities, each off by its own size times the error of two logits, where the
 * router chooses by them; of logits, each off by its error, in gpt_oss. */
static inline double gr_golden_open_margin(const gr_goldens *g, int prompt, int32_t layer, int64_t at) {
    const gr_shard_tensor *weights = gr_golden(g, prompt, "topk_weights");
    const int64_t last = (at + 1) * g->info->top_k - 1;
    const double error = 2 * g->relative * gr_golden_router_logit(g, layer);
    if (g->open_margin > 0) return g->open_margin;
    return strcmp(g->info->family, "gpt_oss") ? error * gr_golden_float(weights, last) : error;
}

/* The first position of a prompt that chose otherwise at an open margin: from there on the hidden states are legitimately others. */
static inline int32_t gr_golden_first_open_choice(const gr_goldens *g, const gr_seen_prompt *s, int p) {
    const gr_shard_tensor *ids = gr_golden(g, p, "topk_ids"), *margin = gr_golden(g, p, "topk_margin");
    int32_t first = s->n, k = g->info->top_k;
    assert_true(ids->shape[0] == g->info->n_moe_layers && ids->shape[2] == k);
    for (int32_t l = 0; l < g->info->n_moe_layers; l++)
        for (int32_t t = 0; t < first; t++) {
            bool same = true;
            int64_t at = (int64_t)l * s->n + t;
            for (int64_t i = at * k; i < (at + 1) * k; i++) same = same && ((const uint8_t *)ids->data)[i] == s->experts[i];
            if (same) continue;
            if (gr_golden_float(margin, at) >= gr_golden_open_margin(g, p, l, at))
                fail_msg("%s, prompt %d, MoE layer %d, position %d: other experts at a margin of %g", g->name, p, l, t, gr_golden_float(margin, at));
            first = t;
        }
    return first;
}

static inline void gr_golden_check_weights(gr_goldens *g, const gr_seen_prompt *s, int p, int32_t n) {
    const gr_shard_tensor *weights = gr_golden(g, p, "topk_weights");
    int64_t k = g->info->top_k;
    for (int32_t l = 0; l < g->info->n_moe_layers; l++) {
        double error = 2 * g->relative * gr_golden_router_logit(g, l);
        for (int64_t i = (int64_t)l * s->n * k; i < ((int64_t)l * s->n + n) * k; i++) {
            double expected = gr_golden_float(weights, i);
            gr_golden_close(g, "weight", p, i, (double)s->weights[i], expected, error * expected);
        }
    }
}

static inline void gr_golden_check_stream(gr_goldens *g, const gr_seen_prompt *s, int p, int32_t n) {
    const gr_shard_tensor *rms = gr_golden(g, p, "hidden_rms");
    assert_int_equal(rms->shape[0], g->info->n_layers + 1);
    for (int32_t l = 0; l <= g->info->n_layers; l++)
        for (int64_t i = (int64_t)l * s->n; i < (int64_t)l * s->n + n; i++) {
            double expected = gr_golden_float(rms, i);
            gr_golden_close(g, "rms of the stream", p, i, s->rms[i], expected, g->relative * expected);
        }
}

static inline double gr_golden_largest(const gr_shard_tensor *t, int64_t row, int64_t n) {
    double most = 0;
    for (int64_t i = row * n; i < (row + 1) * n; i++) most = fmax(most, fabs(gr_golden_float(t, i)));
    return most;
}

static inline void gr_golden_check_logits(gr_goldens *g, const gr_seen_prompt *s, int p, int32_t n) {
    const gr_shard_tensor *t = gr_golden(g, p, "logits");
    int64_t rows = t->shape[0], first = s->n - rows, vocab = g->info->vocab;
    assert_int_equal(t->shape[1], vocab);
    g->n_rows += rows;
    for (int64_t r = 0; r < rows && first + r < n; r++, g->n_rows_checked++) {
        double bound = g->relative * gr_golden_largest(t, r, vocab);
        for (int64_t i = 0; i < vocab; i++)
            gr_golden_close(g, "logit", p, r * vocab + i, (double)s->logits[(first + r) * vocab + i], gr_golden_float(t, r * vocab + i), bound);
    }
}

/* Equal until the reference's own two best are closer than the bound; after another choice the text is legitimately another. */
static inline void gr_golden_check_greedy(gr_goldens *g, const gr_seen_prompt *s, int p) {
    const gr_shard_tensor *ids = gr_golden(g, p, "greedy_ids"), *margin = gr_golden(g, p, "greedy_margin"), *logits = gr_golden(g, p, "logits");
    double bound = 2 * g->relative * gr_golden_largest(logits, logits->shape[0] - 1, g->info->vocab);
    for (int32_t i = 0; i < s->n_greedy && s->greedy[i] != gr_golden_int(ids, i); i++) {
        if (gr_golden_float(margin, i) > bound)
            fail_msg("%s, prompt %d: id %d after it is %d, reference %d by %g", g->name, p, i, s->greedy[i], gr_golden_int(ids, i), gr_golden_float(margin, i));
        return;
    }
}

static inline void gr_goldens_check(gr_goldens *g, bool exact, int32_t n_tokens_max) {
    gr_seen *s = gr_seen_new(g, exact, n_tokens_max);
    for (int p = 0; p < g->n_prompts; p++) {
        int32_t n = gr_golden_first_open_choice(g, &s->prompt[p], p);
        gr_golden_check_weights(g, &s->prompt[p], p, n);
        gr_golden_check_stream(g, &s->prompt[p], p, n);
        gr_golden_check_logits(g, &s->prompt[p], p, n);
        if (n == s->prompt[p].n && !g->forced) gr_golden_check_greedy(g, &s->prompt[p], p);
    }
    gr_seen_free(s);
}

#endif
