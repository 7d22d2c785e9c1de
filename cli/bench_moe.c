/* grace bench moe: one MoE layer's time by stage, over the ranks given, at a fixed number of tokens a rank. */
#include <stdio.h>
#include <stdlib.h>

#include "base/memory.h"
#include "base/rng.h"
#include "base/status.h"
#include "bench.h"
#include "cli.h"

enum { KEY_TOKENS = 0x200, KEY_STEPS };

static const struct argp_option options[] = {
    {0, 0, 0, 0, "Measurement:", 5},
    {"tokens", KEY_TOKENS, "N", 0, "tokens a rank in each step (default 256)", 5},
    {"steps", KEY_STEPS, "N", 0, "steps (default 20)", 5},
    {0},
};

typedef struct arguments { gr_run_options run; int32_t tokens, steps; } arguments;

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT: state->child_inputs[0] = state->child_inputs[1] = &a->run; break;
    case KEY_TOKENS: a->tokens = (int32_t)gr_arg_int(state, "tokens", arg, 1, 1 << 16); break;
    case KEY_STEPS: a->steps = (int32_t)gr_arg_int(state, "steps", arg, 1, 1 << 16); break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* Every step every rank prefills one prompt of `tokens` random ids. */
static grace_status submit(const arguments *a, const gr_session *s, grace_engine *engine) {
    grace_status st = GRACE_OK;
    int32_t *ids = NULL;
    gr_rng rng = gr_rng_seed(1);
    GR_CALLOC(ids, a->tokens);
    for (int32_t i = 0; i < a->steps * s->n_ranks; i++) {
        grace_request req = grace_request_defaults();
        for (int32_t t = 0; t < a->tokens; t++) ids[t] = (int32_t)gr_rng_below(&rng, (uint32_t)grace_model_describe(s->model)->vocab);
        req.prompt = ids;
        req.n_prompt = a->tokens;
        req.n_generate = 0;
        GR_TRY(grace_engine_submit(engine, &req));
    }
done:
    free(ids);
    return st;
}

static grace_status print(const arguments *a, const gr_session *session, const grace_stats *s) {
    static const int stages[] = {GRACE_TIME_GATE, GRACE_TIME_ROUTE, GRACE_TIME_DISPATCH, GRACE_TIME_EXPERTS, GRACE_TIME_COMBINE};
    static const char *const names[] = {"gate", "route", "dispatch", "experts", "combine"};
    double calls = (double)s->n_steps * s->n_layers, total = 0;
    for (int i = 0; i < 5; i++) total += s->time_us[stages[i]];
    gr_json *o = gr_json_new_object(), *times = gr_json_new_object();
    for (int i = 0; i < 5; i++) gr_json_set_real(times, names[i], s->time_us[stages[i]] / calls);
    gr_json_set_string(o, "bench", "moe");
    gr_made_json(o, session, &a->run);
    gr_json_set_int(o, "ranks", s->n_ranks);
    gr_json_set_int(o, "nodes", s->n_nodes);
    gr_json_set_int(o, "tokens_per_rank", a->tokens);
    gr_json_set_string(o, "exchange", gr_exchange_name(a->run.engine.exchange));
    gr_json_set_real(o, "layer_us", total / calls);
    gr_json_set(o, "time_us", times);
    gr_json_set_real(o, "bookkeeping_share", s->time_us[GRACE_TIME_ROUTE] / total);
    if (a->run.json) return gr_print_json(o);
    gr_made_print(session, &a->run);
    printf("moe: %d ranks, %d tokens a rank, %s: %.0f us a layer;", s->n_ranks, a->tokens, gr_exchange_name(a->run.engine.exchange), total / calls);
    for (int i = 0; i < 5; i++) printf(" %s %.0f", names[i], s->time_us[stages[i]] / calls);
    printf("; routing and bookkeeping %.2f %% of it\n", 100 * s->time_us[GRACE_TIME_ROUTE] / total);
    gr_json_free(o);
    return GRACE_OK;
}

static grace_status measure(arguments *a, gr_session *s) {
    grace_status st = GRACE_OK;
    grace_engine *engine = NULL;
    grace_stats stats;
    a->run.engine.n_tokens_max = a->tokens;
    a->run.engine.kv_tokens = a->tokens + 16;
    GR_TRY(gr_open_showing(s, &a->run.engine, &engine));
    GR_TRY(submit(a, s, engine));
    s->running = true;
    GR_TRY(grace_engine_run(engine));
    GR_TRY(grace_engine_stats(engine, &stats));
    s->running = false;
    if (s->rank == 0) st = print(a, s, &stats);
done:
    grace_engine_close(engine);
    return st;
}

int gr_bench_moe_main(int argc, char **argv) {
    static const struct argp_child children[] = {{&gr_run_argp, 0, 0, 0}, {&gr_made_argp, 0, 0, 0}, {0}};
    static const struct argp argp = {options, parse, 0, "The MoE layer's time by stage; routing and exchange bookkeeping as a share of it.", children, 0, 0};
    arguments a = {.run = gr_run_defaults(), .tokens = 256, .steps = 20};
    gr_session session;
    int code;
    gr_arg_parse(&argp, 3, argc, argv, &a);
    if (gr_session_relaunch(&a.run, argc, argv, &code)) return code;
    grace_status st = gr_session_open(&a.run, &session);
    if (!st) st = measure(&a, &session);
    return gr_session_close(&session, st);
}
