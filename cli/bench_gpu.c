/* grace bench gpu: a batch of random prompts through a model, as a server would meet it at once: the time until all prompts are computed and their first
 * tokens drawn, and the time of a step in which every request adds a token. Works on any device; the model may be one without weights.
 *
 * The steps of a prefill take as many rows as --batch-tokens allows. A decode run generates some tokens more than are measured: while the last prompts
 * are still under way, requests whose prompts are done decode already, and only steps in which all of them decode, and nothing else, count. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/status.h"
#include "bench.h"
#include "cli.h"
#include "run/kv.h"

enum { ROWS_MAX = 32768 };
enum { KEY_BATCH = 0x200, KEY_PREFILL, KEY_DECODE, KEY_REPEAT, KEY_FLOOR_PREFILL, KEY_FLOOR_DECODE, KEY_STAGES, REPEAT_MAX = 101 };

static const struct argp_option options[] = {
    {0, 0, 0, 0, "Measurement:", 5},
    {"batch", KEY_BATCH, "B", 0, "requests (default 256)", 5},
    {"prefill", KEY_PREFILL, "N", 0, "tokens of a prompt (default 128)", 5},
    {"decode", KEY_DECODE, "N", 0, "steps measured in which all requests add a token (default 16)", 5},
    {"repeat", KEY_REPEAT, "N", 0, "measurements after one to warm up (default 5)", 5},
    {"floor-prefill", KEY_FLOOR_PREFILL, "MS", 0, "what bench/floor.py says: show the measured time as a multiple", 5},
    {"floor-decode", KEY_FLOOR_DECODE, "MS", 0, "the same of a decode step", 5},
    {"stages", KEY_STAGES, 0, 0, "then once more with the time of each stage: attention, gate, dispatch, experts, combine", 5},
    {0},
};

typedef struct arguments {
    gr_run_options run;
    int32_t batch, prefill, decode, repeat;
    double floor_prefill, floor_decode;     /* ms; 0: not given */
    bool stages;
} arguments;

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT: state->child_inputs[0] = state->child_inputs[1] = &a->run; break;
    case KEY_BATCH: a->batch = (int32_t)gr_arg_int(state, "batch", arg, 1, 1 << 16); break;
    case KEY_PREFILL: a->prefill = (int32_t)gr_arg_int(state, "prefill", arg, 1, 1 << 20); break;
    case KEY_DECODE: a->decode = (int32_t)gr_arg_int(state, "decode", arg, 1, 1 << 16); break;
    case KEY_REPEAT: a->repeat = (int32_t)gr_arg_int(state, "repeat", arg, 1, REPEAT_MAX); break;
    case KEY_FLOOR_PREFILL: a->floor_prefill = gr_arg_number(state, "floor-prefill", arg, 1e-6, 1e9); break;
    case KEY_FLOOR_DECODE: a->floor_decode = gr_arg_number(state, "floor-decode", arg, 1e-6, 1e9); break;
    case KEY_STAGES: a->stages = true; break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* Requests of the rank with most, and the rows of their prompts. */
static int32_t n_here(const arguments *a, int32_t n_ranks) { return (a->batch + n_ranks - 1) / n_ranks; }
static int64_t n_prompt_rows(const arguments *a, int32_t n_ranks) { return (int64_t)n_here(a, n_ranks) * a->prefill; }

/* Steps of a prefill, thus decode steps that go by before all requests decode. */
static int32_t n_chunks(const arguments *a, int32_t n_ranks) {
    return (int32_t)((n_prompt_rows(a, n_ranks) + a->run.engine.n_tokens_max - 1) / a->run.engine.n_tokens_max);
}

/* All prompts in one step, where they are not too many. */
static int32_t rows_needed(const arguments *a, int32_t n_ranks) {
    const int64_t rows = n_prompt_rows(a, n_ranks);
    return rows < ROWS_MAX ? (int32_t)rows : ROWS_MAX;
}

/* Room for all requests, in whole pages, unless the command line says otherwise. */
static int64_t kv_needed(const arguments *a, int32_t n_ranks) {
    const int64_t each = (int64_t)a->prefill + a->decode + n_chunks(a, n_ranks) + 1;
    return (each + GR_KV_PAGE - 1) / GR_KV_PAGE * GR_KV_PAGE * n_here(a, n_ranks);
}

/* ---- runs ---- */

/* Of one run by stages: sums over its steps, mean over ranks. */
typedef struct staged { int32_t n_steps; double us, time_us[GRACE_N_TIMES]; } staged;

typedef struct measured {
    double open_us;                         /* until the engine could take requests: weights are where they are used */
    double prefill_us[REPEAT_MAX];
    double *step_us;                        /* [n_steps] */
    int32_t n_steps;
    gr_json *prefill_counts, *decode_counts;    /* of the last repeat's prefill and of its steps, all together */
    staged prefill_stages, decode_stages;       /* with --stages */
    gr_json *stats;                             /* of everything, to warm up too */
} measured;

static grace_status submit(grace_engine *engine, const gr_request_list *list, int32_t n_generate) {
    grace_status st = GRACE_OK;
    for (int32_t i = 0; i < list->n; i++) {
        grace_request req = list->items[i];
        req.n_generate = n_generate;
        GR_TRY(grace_engine_submit(engine, &req));
    }
done:
    return st;
}

/* Every request ends with its first token. */
static grace_status time_prefill(grace_engine *engine, const gr_request_list *list, double *us) {
    grace_status st = GRACE_OK;
    GR_TRY(submit(engine, list, 1));
    const double start = gr_now_us();
    for (bool more = true; more;) GR_TRY(grace_engine_step(engine, &more));
    *us = gr_now_us() - start;
done:
    return st;
}

/* What steps moved and took. */
typedef struct between { grace_stats before, after; } between;

/* us NULL: steps are only counted. counts NULL: nobody asks for more. */
static grace_status time_decode(const arguments *a, const gr_session *s, grace_engine *engine, const gr_request_list *list, double *us, between *counts) {
    grace_status st = GRACE_OK;
    const int64_t first = grace_engine_n_rows(engine), n_prompts = (int64_t)a->batch * a->prefill;
    int32_t n = 0;
    GR_TRY(submit(engine, list, a->decode + n_chunks(a, s->n_ranks) + 1));
    for (bool more = true; more;) {
        const int64_t rows = grace_engine_n_rows(engine);
        const bool prompts_done = rows - first >= n_prompts;
        if (counts && prompts_done && n == 0) GR_TRY(grace_engine_stats(engine, &counts->before));
        const double start = gr_now_us();
        GR_TRY(grace_engine_step(engine, &more));
        const double end = gr_now_us();
        if (!prompts_done || grace_engine_n_rows(engine) - rows != a->batch || n == a->decode) continue;
        if (us) us[n] = end - start;
        if (++n == a->decode && counts) GR_TRY(grace_engine_stats(engine, &counts->after));
    }
    GR_CHECK(n == a->decode, GRACE_ERR_LIMIT, "expected %d steps of %d requests at once, found %d: raise --kv-tokens and --batch-tokens", a->decode,
             a->batch, n);
done:
    return st;
}

static staged staged_of(const between *b, double us) {
    staged s = {.n_steps = b->after.n_steps - b->before.n_steps, .us = us};
    for (int i = 0; i < GRACE_N_TIMES; i++) s.time_us[i] = b->after.time_us[i] - b->before.time_us[i];
    return s;
}

static grace_status measure_stages(const arguments *a, const gr_session *s, grace_engine *engine, const gr_request_list *list, measured *m) {
    grace_status st = GRACE_OK;
    between b;
    double us = 0, *step_us = NULL;
    GR_CALLOC(step_us, a->decode);
    grace_engine_time_stages(engine, true);
    GR_TRY(grace_engine_stats(engine, &b.before));
    GR_TRY(time_prefill(engine, list, &us));
    GR_TRY(grace_engine_stats(engine, &b.after));
    m->prefill_stages = staged_of(&b, us);
    GR_TRY(time_decode(a, s, engine, list, step_us, &b));
    us = 0;
    for (int32_t i = 0; i < a->decode; i++) us += step_us[i];
    m->decode_stages = staged_of(&b, us);
done:
    grace_engine_time_stages(engine, false);
    free(step_us);
    return st;
}

static grace_status measure_all(const arguments *a, const gr_session *s, grace_engine *engine, measured *m) {
    grace_status st = GRACE_OK;
    grace_stats all;
    between b;
    gr_request_list list = {0};
    grace_request defaults = grace_request_defaults();
    gr_progress progress = gr_progress_start(s->rank == 0 ? "measuring" : NULL, NULL, 2 * a->repeat + 2);
    defaults.seed = 1, defaults.ignore_eos = true;
    GR_TRY(gr_requests_add_random(&list, &defaults, a->batch, a->prefill, grace_model_describe(s->model)->vocab));
    GR_TRY(time_decode(a, s, engine, &list, NULL, NULL));
    GR_TRY(time_prefill(engine, &list, &m->prefill_us[0]));
    for (int32_t i = 0; i < a->repeat; i++) {
        const bool last = i + 1 == a->repeat;
        gr_progress_update(&progress, 2 * i + 2);
        GR_TRY(grace_engine_stats(engine, &b.before));
        GR_TRY(time_prefill(engine, &list, &m->prefill_us[i]));
        GR_TRY(grace_engine_stats(engine, &b.after));
        if (last) m->prefill_counts = gr_stats_between_json(&b.before, &b.after);
        GR_TRY(time_decode(a, s, engine, &list, m->step_us + (int64_t)i * a->decode, last ? &b : NULL));
        if (last) m->decode_counts = gr_stats_between_json(&b.before, &b.after);
    }
    if (a->stages) GR_TRY(measure_stages(a, s, engine, &list, m));
    GR_TRY(grace_engine_stats(engine, &all));
    m->stats = gr_stats_json(&all);
    m->n_steps = a->repeat * a->decode;
done:
    gr_progress_end(&progress);
    gr_requests_free(&list);
    return st;
}

/* ---- output ---- */

typedef struct summary { double median, low, high; } summary;      /* ms; the quartiles */

static summary summarise(double *us, int32_t n) {
    const double median = gr_bench_median(us, n) * 1e-3;            /* sorts them */
    return (summary){median, us[n / 4] * 1e-3, us[n - 1 - n / 4] * 1e-3};
}

static gr_json *stages_json(const staged *s) {
    gr_json *o = gr_json_new_object(), *times = gr_json_new_object();
    for (int i = 0; i < GRACE_N_TIMES; i++) gr_json_set_real(times, gr_time_name(i), s->time_us[i]);
    gr_json_set_int(o, "steps", s->n_steps);
    gr_json_set_real(o, "ms", 1e-3 * s->us);
    gr_json_set(o, "time_us", times);
    return o;
}

static gr_json *phase_json(const summary *p, double n_tokens, double floor, const gr_json *counts, const staged *stages) {
    gr_json *o = gr_json_new_object();
    gr_json_set_real(o, "ms", p->median);
    gr_json_set_real(o, "ms_low", p->low);
    gr_json_set_real(o, "ms_high", p->high);
    gr_json_set_real(o, "tokens_s", n_tokens / p->median * 1e3);
    if (floor > 0) gr_json_set_real(o, "floor_ms", floor);
    if (floor > 0) gr_json_set_real(o, "ratio", p->median / floor);
    gr_json_set(o, "counts", gr_json_share(counts));
    if (stages->n_steps) gr_json_set(o, "stages", stages_json(stages));
    return o;
}

static const char *name_of(const char *dir) {
    const char *slash = strrchr(dir, '/');
    return slash && slash[1] ? slash + 1 : dir;
}

static grace_status print_json(const arguments *a, const gr_session *s, const measured *m, const summary *prefill, const summary *decode) {
    const grace_model_info *info = grace_model_describe(s->model);
    gr_json *o = gr_json_new_object();
    gr_json_set_string(o, "bench", "gpu");
    gr_json_set_string(o, "model", name_of(a->run.model));
    gr_json_set_string(o, "family", info->family);
    gr_made_json(o, s, &a->run);
    gr_json_set_int(o, "ranks", s->n_ranks);
    gr_json_set_int(o, "nodes", grace_comm_cluster(s->comm).n_nodes);
    gr_json_set_string(o, "exchange", gr_exchange_name(a->run.engine.exchange));
    gr_json_set_string(o, "route", gr_route_name(a->run.engine.route));
    gr_json_set_string(o, "homes", gr_homes_name(a->run.engine.homes));
    gr_json_set_bool(o, "exact", a->run.engine.exact);
    gr_json_set_int(o, "batch", a->batch);
    gr_json_set_int(o, "prefill_tokens", a->prefill);
    gr_json_set_int(o, "decode_tokens", a->decode);
    gr_json_set_int(o, "batch_tokens", a->run.engine.n_tokens_max);
    gr_json_set_int(o, "repeat", a->repeat);
    gr_json_set_real(o, "open_s", m->open_us * 1e-6);
    gr_json_set_real(o, "weights_gb", (double)info->n_bytes * 1e-9);
    gr_json_set(o, "prefill", phase_json(prefill, (double)a->batch * a->prefill, a->floor_prefill, m->prefill_counts, &m->prefill_stages));
    gr_json_set(o, "decode", phase_json(decode, a->batch, a->floor_decode, m->decode_counts, &m->decode_stages));
    gr_json_set(o, "stats", gr_json_share(m->stats));
    return gr_print_json(o);
}

static void print_phase(const char *name, const summary *p, double n_tokens, double floor) {
    printf("  %-8s %10.3f ms  (%.3f to %.3f)  %9.0f tokens/s", name, p->median, p->low, p->high, n_tokens / p->median * 1e3);
    if (floor > 0) printf("  %.2f x the floor of %.3f ms", p->median / floor, floor);
    putchar('\n');
}

static void print_stages(const char *name, const staged *s) {
    if (!s->n_steps) return;
    printf("  %-8s by stage, ms a step of %.3f:", name, 1e-3 * s->us / s->n_steps);
    for (int i = 0; i < GRACE_N_TIMES; i++) printf("  %s %.3f", gr_time_name(i), 1e-3 * s->time_us[i] / s->n_steps);
    putchar('\n');
}

static void print_text(const arguments *a, const gr_session *s, const measured *m, const summary *prefill, const summary *decode) {
    gr_made_print(s, &a->run);
    printf("%s: %d requests of %d tokens, %d decode steps, up to %d rows a step, %d measurements; open in %.1f s\n", name_of(a->run.model), a->batch,
           a->prefill, a->decode, a->run.engine.n_tokens_max, a->repeat, m->open_us * 1e-6);
    print_phase("prefill", prefill, (double)a->batch * a->prefill, a->floor_prefill);
    print_phase("step", decode, a->batch, a->floor_decode);
    print_stages("prefill", &m->prefill_stages);
    print_stages("step", &m->decode_stages);
}

static grace_status measure(arguments *a, gr_session *s) {
    grace_status st = GRACE_OK;
    grace_engine *engine = NULL;
    measured m = {0};
    if (!a->run.engine.n_tokens_max) a->run.engine.n_tokens_max = rows_needed(a, s->n_ranks);
    if (!a->run.engine.kv_tokens) a->run.engine.kv_tokens = kv_needed(a, s->n_ranks);
    GR_CALLOC(m.step_us, (size_t)a->repeat * (size_t)a->decode);
    const double start = gr_now_us();
    GR_TRY(gr_open_showing(s, &a->run.engine, &engine));
    m.open_us = gr_now_us() - start;
    s->running = true;
    GR_TRY(measure_all(a, s, engine, &m));
    s->running = false;
    const summary prefill = summarise(m.prefill_us, a->repeat), decode = summarise(m.step_us, m.n_steps);
    if (s->rank == 0 && a->run.json) st = print_json(a, s, &m, &prefill, &decode);
    else if (s->rank == 0) print_text(a, s, &m, &prefill, &decode);
done:
    grace_engine_close(engine);
    gr_json_free(m.prefill_counts), gr_json_free(m.decode_counts), gr_json_free(m.stats);
    free(m.step_us);
    return st;
}

int gr_bench_gpu_main(int argc, char **argv) {
    static const struct argp_child children[] = {{&gr_run_argp, 0, 0, 0}, {&gr_made_argp, 0, 0, 0}, {0}};
    static const struct argp argp = {options, parse, 0, "A batch of random prompts through a model: time of the prefill and of a decode step. Here "
                                     "--batch-tokens is what a rank's prompts need, at most 32768, and --kv-tokens what its requests need, unless given.",
                                     children, 0, 0};
    arguments a = {.run = gr_run_defaults(), .batch = 256, .prefill = 128, .decode = 16, .repeat = 5};
    gr_session session;
    int code;
    a.run.engine.n_tokens_max = 0, a.run.engine.kv_tokens = 0;
    gr_arg_parse(&argp, 3, argc, argv, &a);
    if (gr_session_relaunch(&a.run, argc, argv, &code)) return code;
    grace_status st = gr_session_open(&a.run, &session);
    if (!st) st = measure(&a, &session);
    return gr_session_close(&session, st);
}
