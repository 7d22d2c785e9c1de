/* grace bench net: what the links and ranks of this job can do, as rates for `grace sim` and `grace plan` (docs/simulator.md).
 *
 * Everything is measured with all ranks at once, as a layer's exchange uses it: a round's latency with one small row to each who would get rows; bandwidth with
 * as large ones as take long enough that a burst a shaper lets through does not matter; experts at the model's widths. The slowest rank counts. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/status.h"
#include "bench.h"
#include "cli.h"
#include "comm/comm.h"
#include "compute/compute.h"
#include "plan/rates.h"

enum { KEY_REPEAT = 0x200, KEY_SECONDS, REPEAT_MAX = 1001, SLOTS = 8, MANY_ROWS = 64 };
static const size_t SMALL = 64, LARGEST = (size_t)64 << 20;

static const struct argp_option options[] = {
    {0, 0, 0, 0, "Measurement:", 5},
    {"repeat", KEY_REPEAT, "N", 0, "measurements of latencies and of compute, the median of which counts (default 51)", 5},
    {"seconds", KEY_SECONDS, "S", 0, "shortest time of a bandwidth measurement (default 0.5)", 5},
    {"output", 'o', "FILE", 0, "the rates (default rates.json)", 5},
    {0},
};

typedef struct arguments { gr_run_options run; int32_t repeat; double seconds; const char *output; } arguments;

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT: state->child_inputs[0] = &a->run; break;
    case KEY_REPEAT: a->repeat = (int32_t)gr_arg_int(state, "repeat", arg, 1, REPEAT_MAX); break;
    case KEY_SECONDS: a->seconds = gr_arg_number(state, "seconds", arg, 1e-3, 60); break;
    case 'o': a->output = arg; break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* The slowest rank's time. */
static grace_status slowest(gr_comm *comm, double us, double *out) {
    int64_t nanoseconds = (int64_t)(us * 1e3);
    grace_status st = gr_comm_allreduce(comm, &nanoseconds, 1, GR_MAX);
    *out = (double)nanoseconds * 1e-3;
    return st;
}

/* ---- links ---- */

/* One kind of link: rows of equal size to every peer that is not left out. */
typedef struct link_bench {
    gr_comm *world, *comm;          /* who times; who talks */
    int32_t *rows;                  /* [ranks of comm] 1 for peers that get a row */
    double peers;                   /* rows of all ranks that share the link */
    char *out, *in;
} link_bench;

/* cross: to the peers with our local index on other nodes, over a link shared by the node. Else to the others of the node. */
static grace_status link_open(gr_comm *world, gr_comm *comm, bool cross, link_bench *l) {
    grace_status st = GRACE_OK;
    int32_t g = world->gpus_per_node;
    *l = (link_bench){.world = world, .comm = comm, .peers = cross ? (double)g * (world->n_nodes - 1) : g - 1};
    GR_CALLOC(l->rows, comm->n_ranks);
    for (int32_t r = 0; r < comm->n_ranks; r++) l->rows[r] = r != comm->rank && (!cross || r % g == comm->rank % g);
done:
    return st;
}

static void link_close(link_bench *l) { free(l->rows), free(l->out), free(l->in); }

static grace_status link_resize(link_bench *l, size_t bytes) {
    grace_status st = GRACE_OK;
    size_t n_peers = 0;
    for (int32_t r = 0; r < l->comm->n_ranks; r++) n_peers += (size_t)l->rows[r];
    free(l->out), free(l->in);
    l->out = l->in = NULL;
    GR_CALLOC(l->out, n_peers * bytes);
    GR_CALLOC(l->in, n_peers * bytes);
done:
    return st;
}

static grace_status link_time(link_bench *l, size_t bytes, double *us) {
    grace_status st = GRACE_OK;
    int64_t nothing = 0;
    gr_xfer xfer = {l->out, l->rows, l->in, l->rows, bytes};
    GR_TRY(gr_comm_allreduce(l->world, &nothing, 1, GR_SUM));       /* all start together */
    double start = gr_now_us();
    GR_TRY(gr_comm_alltoallv(l->comm, &xfer));
    GR_TRY(slowest(l->world, gr_now_us() - start, us));
done:
    return st;
}

static grace_status measure_latency(link_bench *l, int32_t repeat, double *seconds) {
    grace_status st = GRACE_OK;
    double us[REPEAT_MAX] = {0};
    GR_TRY(link_resize(l, SMALL));
    for (int32_t i = 0; i < repeat; i++) GR_TRY(link_time(l, SMALL, &us[i]));
    *seconds = gr_bench_median(us, repeat) * 1e-6;
done:
    return st;
}

/* Rows grow until one exchange, or several of the largest, take long enough. On a machine that does other work the latency may have been measured in a
 * worse moment than this: it counts for half of the time at most. */
static grace_status measure_bandwidth(link_bench *l, double latency_s, double at_least_s, double *bytes_s) {
    grace_status st = GRACE_OK;
    size_t bytes = (size_t)1 << 16;
    double us = 0, sum = 0;
    int32_t n = 0;
    for (;; bytes *= 2) {
        GR_TRY(link_resize(l, bytes));
        GR_TRY(link_time(l, bytes, &us));
        if (bytes == LARGEST || us * 1e-6 >= at_least_s / 2) break;
    }
    for (sum = 0; sum < at_least_s * 1e6 || n < 3; n++, sum += us) GR_TRY(link_time(l, bytes, &us));
    *bytes_s = l->peers * (double)bytes * n / (sum * 1e-6 - fmin(n * latency_s, sum * 1e-6 / 2));
done:
    return st;
}

static grace_status measure_link(gr_comm *world, gr_comm *comm, bool cross, const arguments *a, grace_link_rate *out) {
    grace_status st = GRACE_OK;
    link_bench l = {0};
    GR_TRY(link_open(world, comm, cross, &l));
    GR_TRY(measure_latency(&l, a->repeat, &out->latency_s));
    GR_TRY(measure_bandwidth(&l, out->latency_s, a->seconds, &out->bytes_s));
done:
    link_close(&l);
    return st;
}

static grace_status measure_links(gr_comm *world, const arguments *a, grace_rates *out) {
    grace_status st = GRACE_OK;
    gr_comm *node = NULL;
    GR_TRY(gr_comm_split(world, gr_comm_node(world, world->rank), &node));
    if (world->gpus_per_node > 1) GR_TRY(measure_link(world, node, false, a, &out->intra));
    if (world->n_nodes > 1) GR_TRY(measure_link(world, world, true, a, &out->cross));
    if (world->gpus_per_node == 1) out->intra = out->cross;     /* no such link: never priced, but a rate has to be there */
    if (world->n_nodes == 1) out->cross = out->intra;
done:
    grace_comm_close(node);
    return st;
}

/* ---- experts ---- */

typedef struct expert_bench { gr_compute *compute; gr_mlp slots[SLOTS]; uint16_t *values; float *in, *out; } expert_bench;

static void expert_close(expert_bench *b) {
    for (int i = 0; i < SLOTS && b->compute; i++) {
        b->compute->ops->weight_close(b->compute, b->slots[i].gate);
        b->compute->ops->weight_close(b->compute, b->slots[i].up);
        b->compute->ops->weight_close(b->compute, b->slots[i].down);
    }
    if (b->compute) b->compute->ops->free(b->compute);
    free(b->values), free(b->in), free(b->out);
}

static grace_status expert_open(const gr_run_options *opt, const grace_model_info *m, expert_bench *b) {
    grace_status st = GRACE_OK;
    size_t n = (size_t)m->hidden * (size_t)m->expert_width;
    gr_rng rng = gr_rng_seed(1);
    GR_TRY(gr_compute_cpu_open(opt->engine.simd, opt->engine.n_threads, &b->compute));
    GR_CALLOC(b->values, n * SLOTS);
    GR_CALLOC(b->in, (size_t)SLOTS * MANY_ROWS * (size_t)m->hidden);
    GR_CALLOC(b->out, (size_t)SLOTS * MANY_ROWS * (size_t)m->hidden);
    for (size_t i = 0; i < n * SLOTS; i++) b->values[i] = (uint16_t)(0x3c00 + gr_rng_below(&rng, 128));     /* bf16 near 0.01 */
    for (int i = 0; i < SLOTS; i++) {
        grace_tensor in = {.data = b->values + (size_t)i * n, .rows = m->expert_width, .cols = m->hidden, .dtype = GRACE_BF16}, down = in;
        down.rows = m->hidden, down.cols = m->expert_width;
        GR_TRY(b->compute->ops->weight_open(b->compute, &in, &b->slots[i].gate));
        GR_TRY(b->compute->ops->weight_open(b->compute, &in, &b->slots[i].up));
        GR_TRY(b->compute->ops->weight_open(b->compute, &down, &b->slots[i].down));
    }
done:
    return st;
}

/* Median time of rows_each rows for every slot, of the slowest rank. */
static grace_status expert_time(gr_comm *world, expert_bench *b, int32_t rows_each, int32_t repeat, double *seconds) {
    grace_status st = GRACE_OK;
    double us[REPEAT_MAX] = {0};
    int32_t first[SLOTS + 1], row[SLOTS * MANY_ROWS];
    for (int32_t s = 0; s <= SLOTS; s++) first[s] = s * rows_each;
    for (int32_t i = 0; i < SLOTS * rows_each; i++) row[i] = i;
    gr_experts e = {.n_slots = SLOTS, .slots = b->slots, .first_pair = first, .row_of_pair = row, .in = b->in, .out = b->out};
    for (int32_t i = 0; i < repeat; i++) {
        int64_t nothing = 0;
        GR_TRY(gr_comm_allreduce(world, &nothing, 1, GR_SUM));
        double start = gr_now_us();
        GR_TRY(b->compute->ops->experts(b->compute, &e));
        GR_TRY(slowest(world, gr_now_us() - start, &us[i]));
    }
    *seconds = gr_bench_median(us, repeat) * 1e-6;
done:
    return st;
}

static grace_status measure_compute(gr_comm *world, const arguments *a, const grace_model_info *m, grace_rates *out) {
    grace_status st = GRACE_OK;
    expert_bench b = {0};
    double many, one, params = 3.0 * m->hidden * m->expert_width * SLOTS;
    GR_TRY(grace_comm_agree(world, expert_open(&a->run, m, &b)));
    GR_TRY(expert_time(world, &b, MANY_ROWS, a->repeat, &many));
    GR_TRY(expert_time(world, &b, 1, a->repeat, &one));
    out->flop_s = 2 * params * MANY_ROWS / many;
    out->memory_bytes_s = 2 * params / one;     /* bf16 */
done:
    expert_close(&b);
    return st;
}

/* ---- all ---- */

static grace_status save(const arguments *a, const gr_session *s, const grace_rates *rates, int argc, char **argv) {
    gr_json *root = gr_rates_json(rates), *measured = gr_json_new_object();
    grace_status st = gr_bench_origin(measured, argc, argv, NULL, NULL);
    gr_json_set_int(measured, "ranks", s->n_ranks);
    gr_json_set_int(measured, "nodes", s->comm->n_nodes);
    gr_json_set_string(measured, "wire", a->run.wire);
    gr_json_set_string(measured, "model", grace_model_describe(s->model)->family);
    gr_json_set(root, "measured", measured);
    if (!st) st = gr_json_save(root, a->output);
    if (!st && a->run.json) return gr_print_json(root);
    gr_json_free(root);
    return st;
}

static grace_status measure(arguments *a, gr_session *s, int argc, char **argv) {
    grace_status st = GRACE_OK;
    grace_rates r = {.name = "measured", .value_bytes = sizeof(float), .dispatch_rounds = 3, .combine_rounds = 1};
    s->running = true;
    GR_TRY(measure_links(s->comm, a, &r));
    GR_TRY(measure_compute(s->comm, a, grace_model_describe(s->model), &r));
    s->running = false;
    if (s->rank != 0) goto done;
    if (s->n_ranks == 1) fprintf(stderr, "grace: one rank has no links to measure: their rates are infinite, and written as 1e18\n");
    if (s->n_ranks == 1) r.intra = r.cross = (grace_link_rate){1e18, 0};
    GR_TRY(save(a, s, &r, argc, argv));
    if (!a->run.json)
        printf("%s: between nodes %.4g MB/s, %.1f us; inside %.4g MB/s, %.1f us; a rank %.3g GFLOP/s, reads %.3g GB/s of weights\n", a->output,
               r.cross.bytes_s * 1e-6, r.cross.latency_s * 1e6, r.intra.bytes_s * 1e-6, r.intra.latency_s * 1e6, r.flop_s * 1e-9, r.memory_bytes_s * 1e-9);
done:
    return st;
}

int gr_bench_net_main(int argc, char **argv) {
    static const struct argp_child children[] = {{&gr_run_argp, 0, 0, 0}, {0}};
    static const struct argp argp = {options, parse, 0, "Rates of the links and ranks of this job, for 'grace sim' and 'grace plan'.", children, 0, 0};
    arguments a = {.run = gr_run_defaults(), .repeat = 51, .seconds = 0.5, .output = "rates.json"};
    gr_session session;
    int code;
    gr_arg_parse(&argp, 3, argc, argv, &a);
    if (gr_session_relaunch(&a.run, argc, argv, &code)) return code;
    grace_status st = gr_session_open(&a.run, &session);
    if (!st) st = measure(&a, &session, argc, argv);
    return gr_session_close(&session, st);
}
