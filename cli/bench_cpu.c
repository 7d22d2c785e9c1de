/* grace bench cpu: prefill and decode of a model beside what the machine allows, the time by stage, and the memory it took.
 *
 * Sketch. Prefill of n tokens: 2 flops for each of their weights (what a token's layers use; the head meets one row) and for every
 * product of attention, at the fp32 fma peak. Decode at batch 1: the weights one token reads, head included, and the KV cache before it, at the
 * rate at which all threads read an array as large as the model: from memory, or from the caches when it fits them. A share by wall time is what
 * a user gets; a share by CPU time (of all threads, divided by their number) leaves out what other programs took on a shared machine. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/status.h"
#include "bench.h"
#include "cli.h"
#include "compute/cpu/bench.h"
#include "resident.h"

enum { KEY_PREFILL = 0x200, KEY_DECODE, KEY_REPEAT, REPEAT_MAX = 101, CONTEXT = 32 };

static const struct argp_option options[] = {
    {0, 0, 0, 0, "Measurement:", 5},
    {"prefill", KEY_PREFILL, "N", 0, "tokens of a prefill step (default 512)", 5},
    {"decode", KEY_DECODE, "N", 0, "tokens of a decode run (default 128)", 5},
    {"repeat", KEY_REPEAT, "N", 0, "measurements, the median of which is shown (default 5)", 5},
    {0},
};

/* When memory is looked at: before anything is opened, then with the model and tokenizer, the engine of the prefill, its steps. */
enum { AT_START, AT_MODEL, AT_ENGINE, AT_STEPS, N_POINTS };
static const char *const point_names[N_POINTS] = {"process", "model", "engine", "steps"};

typedef struct arguments { gr_run_options run; int32_t prefill, decode, repeat; gr_resident memory[N_POINTS]; } arguments;

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT: state->child_inputs[0] = state->child_inputs[1] = &a->run; break;
    case KEY_PREFILL: a->prefill = (int32_t)gr_arg_int(state, "prefill", arg, 1, 1 << 16); break;
    case KEY_DECODE: a->decode = (int32_t)gr_arg_int(state, "decode", arg, 1, 1 << 16); break;
    case KEY_REPEAT: a->repeat = (int32_t)gr_arg_int(state, "repeat", arg, 1, REPEAT_MAX); break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* ---- what one token costs ---- */

typedef struct sketch { double prefill_flops, decode_bytes; } sketch;

/* Pairs (token, token it sees) of a prompt in all layers. */
static double pairs_of(const grace_model_info *m, double n_tokens) {
    double pairs = 0;
    for (int32_t l = 0; l < m->n_layers; l++) {
        double window = m->layers[l].window > 0 && m->layers[l].window < n_tokens ? m->layers[l].window : n_tokens;
        pairs += window * (window + 1) / 2 + (n_tokens - window) * window;
    }
    return pairs;
}

/* Latent attention is counted as the model defines it: keys and values of every head, not the longer products with latents. */
static sketch sketch_of(const arguments *a, const grace_model_info *m) {
    double table = (double)m->vocab * m->hidden, ends = m->tied_embeddings ? table : 2 * table, bytes_each = (double)m->n_bytes / (double)m->n_params;
    double layers = (double)m->n_params_active - ends, products = (double)m->n_heads * (m->head_dim + m->v_dim);      /* of a pair */
    double seen = CONTEXT + a->decode / 2.0;
    return (sketch){.prefill_flops = 2 * (layers * a->prefill + table + products * pairs_of(m, a->prefill)),
                    .decode_bytes = (layers + table) * bytes_each + seen * (double)grace_model_kv_token_bytes(m)};
}

/* ---- runs ---- */

typedef struct phase { double us, cpu_us, share[GRACE_N_TIMES]; } phase;       /* of one step, wall and CPU; of its time by stage, mean over ranks */
typedef struct measured { phase prefill, decode; } measured;
typedef struct ceilings { double gflops, gbs; } ceilings;      /* the best seen in the whole run: a busy moment must not lower them */

static grace_status submit(grace_engine *engine, const grace_model_info *m, int32_t n_prompt, int32_t n_generate) {
    grace_status st = GRACE_OK;
    gr_rng rng = gr_rng_seed(1);
    grace_request req = grace_request_defaults();
    int32_t *ids = NULL;
    GR_CALLOC(ids, n_prompt);
    for (int32_t i = 0; i < n_prompt; i++) ids[i] = (int32_t)gr_rng_below(&rng, (uint32_t)m->vocab);
    req.prompt = ids, req.n_prompt = n_prompt, req.n_generate = n_generate, req.ignore_eos = true;
    st = grace_engine_submit(engine, &req);
done:
    free(ids);
    return st;
}

static void stage_shares(const grace_stats *before, const grace_stats *after, phase *p) {
    double total = 0;
    for (int i = 0; i < GRACE_N_TIMES; i++) total += after->time_us[i] - before->time_us[i];
    for (int i = 0; i < GRACE_N_TIMES; i++) p->share[i] = (after->time_us[i] - before->time_us[i]) / total;
}

/* The first step is not timed: it warms up, in decode it is the prompt's. */
static grace_status time_steps(grace_engine *engine, int32_t n_steps, phase *p) {
    grace_status st = GRACE_OK;
    bool more;
    double *us = NULL, *cpu_us = NULL;
    grace_stats before, after;
    GR_CALLOC(us, n_steps);
    GR_CALLOC(cpu_us, n_steps);
    GR_TRY(grace_engine_step(engine, &more));
    GR_TRY(grace_engine_stats(engine, &before));
    for (int32_t i = 0; i < n_steps; i++) {
        double start = gr_now_us(), cpu_start = gr_cpu_us();
        GR_TRY(grace_engine_step(engine, &more));
        us[i] = gr_now_us() - start;
        cpu_us[i] = gr_cpu_us() - cpu_start;
    }
    GR_TRY(grace_engine_stats(engine, &after));
    stage_shares(&before, &after, p);
    p->us = gr_bench_median(us, n_steps);
    p->cpu_us = gr_bench_median(cpu_us, n_steps);
done:
    free(us);
    free(cpu_us);
    return st;
}

/* Every rank prefills a prompt of its own in each of a few steps; or rank 0 continues one. memory: of all points, NULL: not looked at. */
static grace_status run_phase(const arguments *a, const gr_session *s, bool prefill, phase *p, gr_resident *memory) {
    enum { PREFILL_STEPS = 3 };
    grace_status st = GRACE_OK;
    grace_engine *engine = NULL;
    grace_engine_options opt = a->run.engine;
    const grace_model_info *m = grace_model_describe(s->model);
    opt.n_tokens_max = prefill ? a->prefill : CONTEXT;
    opt.kv_tokens = prefill ? a->prefill + 1 : CONTEXT + a->decode;
    GR_TRY(grace_engine_open(s->model, &opt, &engine));
    if (memory) GR_TRY(gr_resident_now(&memory[AT_ENGINE]));
    for (int32_t i = 0; prefill && i < (PREFILL_STEPS + 1) * s->n_ranks; i++) GR_TRY(submit(engine, m, a->prefill, 1));
    if (!prefill) GR_TRY(submit(engine, m, CONTEXT, a->decode));
    GR_TRY(time_steps(engine, prefill ? PREFILL_STEPS : a->decode - 1, p));
    if (memory) GR_TRY(gr_resident_now(&memory[AT_STEPS]));
done:
    grace_engine_close(engine);
    return st;
}

/* Every rank burns and reads. */
static grace_status raise_ceilings(gr_compute *c, const grace_model_info *m, ceilings *top) {
    grace_status st = GRACE_OK;
    double gflops, gbs;
    GR_TRY(gr_bench_peak(c, &gflops));
    GR_TRY(gr_bench_bandwidth(c, (size_t)m->n_bytes > (1 << 20) ? (size_t)m->n_bytes : 1 << 20, &gbs));
    if (gflops > top->gflops) top->gflops = gflops;
    if (gbs > top->gbs) top->gbs = gbs;
done:
    return st;
}

static grace_status measure_once(const arguments *a, const gr_session *s, gr_compute *c, measured *r, ceilings *top) {
    grace_status st = GRACE_OK;
    const grace_model_info *m = grace_model_describe(s->model);
    GR_TRY(raise_ceilings(c, m, top));
    GR_TRY(run_phase(a, s, true, &r->prefill, NULL));
    GR_TRY(run_phase(a, s, false, &r->decode, NULL));
    GR_TRY(raise_ceilings(c, m, top));
done:
    return st;
}

/* ---- output ---- */

typedef struct result { double us, share, share_cpu; } result;
typedef struct summary { ceilings top; result prefill, decode; int64_t needed_bytes; } summary;      /* needed: weights and KV cache */

/* Medians over the measurements; ideal_us: what the sketch asks for at the ceilings. */
static result result_of(const phase *const *p, double ideal_us, int32_t n, int32_t n_threads) {
    double us[REPEAT_MAX], cpu_us[REPEAT_MAX];
    for (int32_t i = 0; i < n; i++) us[i] = p[i]->us, cpu_us[i] = p[i]->cpu_us;
    double wall = gr_bench_median(us, n);
    return (result){wall, ideal_us / wall, ideal_us * n_threads / gr_bench_median(cpu_us, n)};
}

static summary summarise(const arguments *a, const grace_model_info *m, const measured *r, const ceilings *top, int32_t n_threads) {
    const phase *prefill[REPEAT_MAX], *decode[REPEAT_MAX];
    sketch need = sketch_of(a, m);
    for (int32_t i = 0; i < a->repeat; i++) prefill[i] = &r[i].prefill, decode[i] = &r[i].decode;
    return (summary){.top = *top, .prefill = result_of(prefill, need.prefill_flops / top->gflops * 1e-3, a->repeat, n_threads),
                     .decode = result_of(decode, need.decode_bytes / top->gbs * 1e-3, a->repeat, n_threads),
                     .needed_bytes = m->n_bytes + grace_model_kv_token_bytes(m) * a->prefill};
}

static gr_json *phase_json(const result *r, double n_tokens, const phase *p) {
    gr_json *o = gr_json_new_object(), *stages = gr_json_new_object();
    for (int i = 0; i < GRACE_N_TIMES; i++) gr_json_set_real(stages, gr_time_name(i), p->share[i]);
    gr_json_set_real(o, "step_us", r->us);
    gr_json_set_real(o, "tokens_s", n_tokens / r->us * 1e6);
    gr_json_set_real(o, "share_of_roofline", r->share);
    gr_json_set_real(o, "share_by_cpu_time", r->share_cpu);
    gr_json_set(o, "time_share", stages);
    return o;
}

/* Peak, less what the process had before it opened a model, over weights and KV cache. */
static double peak_over_needed(const arguments *a, int64_t needed_bytes) {
    const gr_resident *at = a->memory;
    return (double)(at[AT_STEPS].peak - at[AT_START].own - at[AT_START].mapped) / (double)needed_bytes;
}

static gr_json *memory_json(const arguments *a, int64_t needed_bytes) {
    gr_json *o = gr_json_new_object();
    for (int i = 0; i < N_POINTS; i++) {
        gr_json *point = gr_json_new_object();
        gr_json_set_int(point, "own_bytes", a->memory[i].own);
        gr_json_set_int(point, "mapped_bytes", a->memory[i].mapped);
        gr_json_set(o, point_names[i], point);
    }
    gr_json_set_int(o, "peak_bytes", a->memory[AT_STEPS].peak);
    gr_json_set_int(o, "weights_and_kv_bytes", needed_bytes);
    gr_json_set_real(o, "peak_less_process_over_weights_and_kv", peak_over_needed(a, needed_bytes));
    return o;
}

static grace_status print_json(const arguments *a, const gr_session *s, const summary *r, const measured *last, const gr_compute *c) {
    const grace_model_info *m = grace_model_describe(s->model);
    const char *dir = a->run.model, *slash = strrchr(dir, '/');
    sketch need = sketch_of(a, m);
    gr_json *o = gr_json_new_object();
    gr_json_set_string(o, "bench", "cpu");
    gr_json_set_string(o, "model", slash && slash[1] ? slash + 1 : dir);
    gr_made_json(o, s, &a->run);
    gr_json_set_string(o, "family", m->family);
    gr_json_set_string(o, "simd", gr_compute_cpu_simd(c));
    gr_json_set_int(o, "threads", gr_compute_cpu_threads(c));
    gr_json_set_int(o, "ranks", s->n_ranks);
    gr_json_set_int(o, "prefill_tokens", a->prefill);
    gr_json_set_real(o, "peak_gflops", r->top.gflops);
    gr_json_set_real(o, "read_gbs", r->top.gbs);
    gr_json_set_real(o, "prefill_gflop", need.prefill_flops * 1e-9);
    gr_json_set_real(o, "decode_mbytes", need.decode_bytes * 1e-6);
    gr_json_set(o, "prefill", phase_json(&r->prefill, a->prefill * s->n_ranks, &last->prefill));
    gr_json_set(o, "decode", phase_json(&r->decode, 1, &last->decode));
    gr_json_set(o, "memory", memory_json(a, r->needed_bytes));
    return gr_print_json(o);
}

static void print_phase(const char *name, double n_tokens, const result *r, const char *ceiling) {
    printf("  %-8s %5.0f tokens %10.0f us %8.0f tokens/s  %3.0f %% of the %s, %3.0f %% by CPU time\n", name, n_tokens, r->us, n_tokens / r->us * 1e6,
           100 * r->share, ceiling, 100 * r->share_cpu);
}

static void print_text(const arguments *a, const gr_session *s, const summary *r, const measured *last, const gr_compute *c) {
    printf("cpu: %s, %d ranks, %d threads, %s; ceilings %.0f GFLOP/s, %.1f GB/s\n", a->run.model, s->n_ranks,
           gr_compute_cpu_threads(c), gr_compute_cpu_simd(c), r->top.gflops, r->top.gbs);
    print_phase("prefill", a->prefill * s->n_ranks, &r->prefill, "fma peak");
    print_phase("decode", 1, &r->decode, "read bandwidth");
    printf("  %-9s %9s %9s\n", "stage", "prefill", "decode");
    for (int i = 0; i < GRACE_N_TIMES; i++) printf("  %-9s %7.1f %% %7.1f %%\n", gr_time_name(i), 100 * last->prefill.share[i], 100 * last->decode.share[i]);
    printf("  %-9s %9s %9s  MiB resident after\n", "memory", "own", "mapped");
    for (const gr_resident *at = a->memory; at < a->memory + N_POINTS; at++)
        printf("  %-9s %9.1f %9.1f\n", point_names[at - a->memory], (double)at->own / (1 << 20), (double)at->mapped / (1 << 20));
    printf("  peak %.1f MiB; less the process's own %.2f x weights + KV (%.1f MiB)\n", (double)a->memory[AT_STEPS].peak / (1 << 20),
           peak_over_needed(a, r->needed_bytes), (double)r->needed_bytes / (1 << 20));
}

static grace_status measure(arguments *a, gr_session *s) {
    grace_status st = GRACE_OK;
    gr_compute *c = NULL;
    measured *r = NULL, warm;
    ceilings top = {0};
    const grace_model_info *m = grace_model_describe(s->model);
    GR_CHECK(a->decode >= 3, GRACE_ERR_ARG, "--decode: expected at least 3 tokens, found %d", a->decode);
    GR_CALLOC(r, a->repeat);
    s->running = true;
    GR_TRY(gr_resident_now(&a->memory[AT_MODEL]));
    GR_TRY(run_phase(a, s, true, &warm.prefill, a->memory));      /* before the ceilings take memory of their own */
    GR_TRY(gr_compute_cpu_open(a->run.engine.simd, a->run.engine.n_threads, &c));
    for (int32_t i = 0; i < a->repeat; i++) GR_TRY(measure_once(a, s, c, &r[i], &top));
    s->running = false;
    if (s->rank == 0 && !a->run.json) gr_made_print(s, &a->run);
    const summary sum = summarise(a, m, r, &top, gr_compute_cpu_threads(c));
    if (s->rank == 0 && a->run.json) st = print_json(a, s, &sum, &r[a->repeat - 1], c);
    else if (s->rank == 0) print_text(a, s, &sum, &r[a->repeat - 1], c);
done:
    if (c) c->ops->free(c);
    free(r);
    return st;
}

int gr_bench_cpu_main(int argc, char **argv) {
    static const struct argp_child children[] = {{&gr_run_argp, 0, 0, 0}, {&gr_made_argp, 0, 0, 0}, {0}};
    static const struct argp argp = {options, parse, 0, "Prefill and decode as shares of the machine's measured ceilings, time by stage, memory.", children,
                                     0, 0};
    arguments a = {.run = gr_run_defaults(), .prefill = 512, .decode = 128, .repeat = 5};
    gr_session session;
    int code;
    gr_arg_parse(&argp, 3, argc, argv, &a);
    if (gr_session_relaunch(&a.run, argc, argv, &code)) return code;
    grace_status st = gr_resident_now(&a.memory[AT_START]);
    if (st) fprintf(stderr, "grace: %s\n", grace_last_error());
    if (st) return 1;
    st = gr_session_open(&a.run, &session);
    if (!st) st = measure(&a, &session);
    return gr_session_close(&session, st);
}
