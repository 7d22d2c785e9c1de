/* grace bench plan: how good plans are on tokens they were not made from, and how long planning takes. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "bench.h"
#include "cli.h"
#include "plan_cases.h"

enum { DOMAINS_MAX = 16 };

static const struct argp_option options[] = {
    {"clusters", GR_CASE_CLUSTERS, "LIST", 0, "shapes, separated by commas (default 2x2,2x4,4x4,8x8; 8x8 only with 64 experts or more)", 0},
    {"seed", GR_CASE_SEED, "N", 0, "of every planner (default 0)", 0},
    {"output", 'o', "FILE", 0, "write the document there (bench/results/plan.json is made so)", 0},
    {"commit", GR_CASE_COMMIT, "ID", 0, "commit to name in the document", 0},
    {"json", GR_CASE_JSON, 0, 0, "print the document instead of tables", 0},
    {0},
};

/* ---- all cases ---- */

typedef struct bench {
    const gr_case_arguments *a;
    gr_unit *units;             /* [n_traces] */
    gr_result *results;         /* [n_traces, n_clusters, GR_N_RECIPES] */
    gr_rows_cost *rungs;        /* [n_traces, GR_N_CASE_RUNGS], 2x2 */
    gr_json *doc;
} bench;

static gr_result *result_of(const bench *b, int32_t trace, int32_t cluster, int recipe) {
    return &b->results[(trace * b->a->n_clusters + cluster) * GR_N_RECIPES + recipe];
}

static bool takes_place(const bench *b, int32_t trace, int32_t cluster) {
    int32_t ranks = grace_cluster_ranks(b->a->clusters[cluster]), experts = b->units[trace].train.profile->info.n_experts;
    return ranks <= experts;
}

static gr_json *result_json(const bench *b, int32_t trace, int32_t cluster, int recipe) {
    const gr_result *r = result_of(b, trace, cluster, recipe);
    gr_json *o = gr_json_new_object();
    char shape[32];
    snprintf(shape, sizeof shape, "%dx%d", b->a->clusters[cluster].n_nodes, b->a->clusters[cluster].gpus_per_node);
    gr_json_set_string(o, "trace", b->units[trace].name);
    gr_json_set_string(o, "cluster", shape);
    gr_json_set_string(o, "planner", gr_recipes[recipe].name);
    gr_json_set_real(o, "memory_asked", gr_recipes[recipe].memory);
    gr_json_set_real(o, "rows_cross", r->q.rows.cross);
    gr_json_set_real(o, "rows_intra", r->q.rows.intra);
    gr_json_set_real(o, "load_max_over_mean", r->q.load);
    gr_json_set_real(o, "load_worst_layer", r->q.load_worst);
    gr_json_set_real(o, "load_std", r->q.load_std);
    gr_json_set_real(o, "load_std_floor", r->q.load_floor);
    gr_json_set_real(o, "slots_fullest", r->q.fullest);
    gr_json_set_real(o, "slots_total", r->q.total);
    gr_json_set_real(o, "plan_ms", r->ms);
    return o;
}

static void print_result(const bench *b, int32_t trace, int32_t cluster, int recipe) {
    const gr_result *r = result_of(b, trace, cluster, recipe);
    grace_cluster c = b->a->clusters[cluster];
    printf("%-32.32s %dx%d  %-22s %4.2f | %6.4f %6.4f | %5.3f %5.3f %5.3f %5.3f | %5.3f %5.3f | %6.0f\n", b->units[trace].name, c.n_nodes, c.gpus_per_node,
           gr_recipes[recipe].name, gr_recipes[recipe].memory, r->q.rows.cross, r->q.rows.intra, r->q.load, r->q.load_worst, r->q.load_std, r->q.load_floor,
           r->q.fullest, r->q.total, r->ms);
    fflush(stdout);
}

static grace_status run_cases(bench *b, gr_progress *progress) {
    grace_status st = GRACE_OK;
    gr_json *cases = gr_json_new_array();
    int32_t n_done = 0;
    if (!b->a->json)
        printf("Planned on even sequences, measured on odd ones; homes at random; rows a token and layer, dispatched (as many come back)\n"
               "%-32s cl.  planner                mem. |  cross  intra | max/mean worst  std floor | fullest total |     ms\n", "trace");
    for (int32_t t = 0; t < b->a->n_traces; t++)
        for (int32_t c = 0; c < b->a->n_clusters; c++)
            for (int r = 0; r < GR_N_RECIPES; r++) {
                gr_progress_update(progress, ++n_done);
                if (!takes_place(b, t, c)) continue;
                GR_TRY(gr_recipe_run(&gr_recipes[r], &b->units[t], b->a->clusters[c], b->a->seed, result_of(b, t, c, r)));
                gr_json_push(cases, result_json(b, t, c, r));
                if (!b->a->json) print_result(b, t, c, r);
            }
    gr_json_set(b->doc, "cases", cases);
    return st;
done:
    gr_json_free(cases);
    return st;
}

/* ---- the paper's ladder, in rows ---- */

static double change(double ours, double theirs) { return theirs > 0 ? ours / theirs - 1 : 0; }

static grace_status run_ladder(bench *b) {
    grace_status st = GRACE_OK;
    gr_json *rungs = gr_json_new_array();
    for (int32_t t = 0; t < b->a->n_traces; t++)
        GR_TRY(gr_case_rungs_run(&b->units[t], (grace_cluster){2, 2}, b->a->seed, b->rungs + (size_t)t * GR_N_CASE_RUNGS));
    if (!b->a->json) printf("\nThe ladder of the paper's Table 1 in rows, 2x2, against the first rung, mean of the traces (least, most)\n"
                            "%-16s   cross-node                 paper    intra-node   paper\n", "");
    for (int r = 0; r < GR_N_CASE_RUNGS; r++) {
        double cross = 0, intra = 0, least = INFINITY, most = -INFINITY;
        for (int32_t t = 0; t < b->a->n_traces; t++) {
            const gr_rows_cost *first = b->rungs + (size_t)t * GR_N_CASE_RUNGS;
            double x = change(first[r].cross, first[0].cross);
            cross += x / b->a->n_traces, intra += change(first[r].intra, first[0].intra) / b->a->n_traces, least = fmin(least, x), most = fmax(most, x);
        }
        bool in_paper = r > 0 && gr_case_rungs[r].paper_cross != 0;
        gr_json *o = gr_json_new_object();
        gr_json_set_string(o, "rung", gr_case_rungs[r].name);
        gr_json_set_real(o, "cross", cross), gr_json_set_real(o, "cross_least", least), gr_json_set_real(o, "cross_most", most);
        gr_json_set_real(o, "intra", intra);
        gr_json_set_real(o, "paper_cross", in_paper ? gr_case_rungs[r].paper_cross : NAN);
        gr_json_set_real(o, "paper_intra", in_paper ? gr_case_rungs[r].paper_intra : NAN);
        gr_json_push(rungs, o);
        if (b->a->json) continue;
        printf("%-16s  %+6.1f %% (%+6.1f, %+6.1f)  ", gr_case_rungs[r].name, 100 * cross, 100 * least, 100 * most);
        if (in_paper) printf("%+6.1f %%   %+6.1f %%   %+6.1f %%\n", 100 * gr_case_rungs[r].paper_cross, 100 * intra, 100 * gr_case_rungs[r].paper_intra);
        else printf("       -   %+6.1f %%         -\n", 100 * intra);
    }
    gr_json_set(b->doc, "ladder", rungs);
    return st;
done:
    gr_json_free(rungs);
    return st;
}

/* ---- plans of one domain on another ---- */

typedef struct transfer { double mean, least; int32_t n; gr_json *list; } transfer;

static grace_status transfer_group(const bench *b, const char *model, const gr_unit *units, int32_t n, transfer *sum) {
    grace_status st = GRACE_OK;
    double *kept = NULL, mean = 0, least = INFINITY;
    gr_json *o = gr_json_new_object(), *names = gr_json_new_array();
    GR_CALLOC(kept, (size_t)n * (size_t)n);
    GR_TRY(gr_transfer(units, n, (grace_cluster){2, 2}, b->a->seed, kept));
    for (int32_t i = 0; i < n * n; i++)
        if (i % (n + 1)) mean += kept[i] / (n * (n - 1)), least = fmin(least, kept[i]);
    for (int32_t i = 0; i < n; i++) gr_json_push_string(names, units[i].name);
    gr_json_set_string(o, "model", model);
    gr_json_set(o, "domains", gr_json_share(names));
    gr_json_set_reals(o, "kept", kept, (size_t)n * (size_t)n);
    gr_json_push(sum->list, gr_json_share(o));
    if (!b->a->json) printf("%-40.40s %2d domains: %3.0f %% kept, %3.0f %% at least\n", model, n, 100 * mean, 100 * least);
    sum->mean += mean, sum->least = fmin(sum->least, least), sum->n++;
done:
    gr_json_free(names), gr_json_free(o);
    free(kept);
    return st;
}

/* A trace's domains, those with enough tokens to plan from. */
static grace_status transfer_domains(const bench *b, int32_t trace, transfer *sum) {
    grace_status st = GRACE_OK;
    grace_trace_reader *t = NULL;
    gr_unit units[DOMAINS_MAX] = {0};
    int32_t n = 0;
    GR_TRY(grace_trace_reader_open(b->a->traces[trace], &t));
    for (int32_t d = 0; d < grace_trace_n_domains(grace_trace_reader_head(t)) && n < DOMAINS_MAX; d++)
        if (gr_unit_open(b->a->traces[trace], grace_trace_domain(grace_trace_reader_head(t), d), &units[n]) == GRACE_OK) n++;
    if (n > 1) GR_TRY(transfer_group(b, b->units[trace].name, units, n, sum));
done:
    for (int32_t i = 0; i < n; i++) gr_unit_close(&units[i]);
    grace_trace_reader_close(t);
    return st;
}

/* Traces of one model, and the domains within a trace. */
static grace_status run_transfers(bench *b, transfer *sum) {
    grace_status st = GRACE_OK;
    *sum = (transfer){.least = INFINITY, .list = gr_json_new_array()};
    if (!b->a->json) printf("\nPlanned on one domain, measured on another (2x2, memory 1.25): how much of the gain over contiguous stays\n");
    for (int32_t t = 0, n; t < b->a->n_traces; t += n) {
        for (n = 1; t + n < b->a->n_traces && strcmp(b->units[t].model, b->units[t + n].model) == 0; n++) continue;
        if (n > 1) GR_TRY(transfer_group(b, b->units[t].model, b->units + t, n, sum));
        for (int32_t i = t; i < t + n; i++) GR_TRY(transfer_domains(b, i, sum));
    }
    gr_json_set(b->doc, "transfer", gr_json_share(sum->list));
done:
    gr_json_free(sum->list);
    return st;
}

/* ---- what it should reach ---- */

typedef enum measure { ROWS, LOAD, LOAD_ITSELF } measure;
typedef struct target { const char *text; int ours, theirs; measure measure; double mean_most, worst_most; } target;

#define LOAD_MOST 1.15

/* Means over cases; INFINITY: no bound on the worst one. Loads themselves are asked for where the balancer of loads can have them. */
static const target targets[] = {
    {"rows against grace at the same fullest GPU: -3 %, none worse", GR_RECIPE_AUTO, GR_RECIPE_GRACE, ROWS, -0.03, 0},
    {"load against grace at the same fullest GPU: -5 %, none worse", GR_RECIPE_AUTO, GR_RECIPE_GRACE, LOAD, -0.05, 0},
    {"rows against eplb with the same slots: -15 %", GR_RECIPE_AUTO, GR_RECIPE_EPLB, ROWS, -0.15, INFINITY},
    {"rows against eplb with the same slots, memory 1.25: -15 %", GR_RECIPE_AUTO_125, GR_RECIPE_EPLB_125, ROWS, -0.15, INFINITY},
    {"rows against eplb with the same slots, memory 1.5: -15 %", GR_RECIPE_AUTO_150, GR_RECIPE_EPLB_150, ROWS, -0.15, INFINITY},
    {"max/mean load, where eplb's is under 1.15: under 1.15", GR_RECIPE_AUTO, GR_RECIPE_EPLB, LOAD_ITSELF, LOAD_MOST, INFINITY},
    {"max/mean load, memory 1.25, where eplb's is under 1.15: under 1.15", GR_RECIPE_AUTO_125, GR_RECIPE_EPLB_125, LOAD_ITSELF, LOAD_MOST, INFINITY},
    {"max/mean load, memory 1.5, where eplb's is under 1.15: under 1.15", GR_RECIPE_AUTO_150, GR_RECIPE_EPLB_150, LOAD_ITSELF, LOAD_MOST, INFINITY},
    {"rows against grace, memory 1.25, load under 1.1: -25 %", GR_RECIPE_AUTO_125, GR_RECIPE_GRACE, ROWS, -0.25, INFINITY},
    {"rows against grace, memory 1.5, load under 1.1: -45 %", GR_RECIPE_AUTO_150, GR_RECIPE_GRACE, ROWS, -0.45, INFINITY},
    {"rows against grace, memory 1.25, load under grace's: -25 %", GR_RECIPE_UNDER_125, GR_RECIPE_GRACE, ROWS, -0.25, INFINITY},
    {"rows against grace, memory 1.5, load under grace's: -45 %", GR_RECIPE_UNDER_150, GR_RECIPE_GRACE, ROWS, -0.45, INFINITY},
    {"load against grace of these, memory 1.25: -5 %, none worse", GR_RECIPE_UNDER_125, GR_RECIPE_GRACE, LOAD, -0.05, 0},
    {"load against grace of these, memory 1.5: -5 %, none worse", GR_RECIPE_UNDER_150, GR_RECIPE_GRACE, LOAD, -0.05, 0},
};

static double measured(const target *t, const gr_result *ours, const gr_result *theirs) {
    if (t->measure == LOAD_ITSELF) return ours->q.load;
    return t->measure == LOAD ? change(ours->q.load, theirs->q.load) : change(ours->q.rows.cross, theirs->q.rows.cross);
}

static void check_target(const bench *b, const target *t, gr_json *list) {
    double sum = 0, worst = -INFINITY, unit = t->measure == LOAD_ITSELF ? 1 : 100;
    int32_t n = 0;
    for (int32_t i = 0; i < b->a->n_traces * b->a->n_clusters; i++) {
        const gr_result *ours = &b->results[i * GR_N_RECIPES + t->ours], *theirs = &b->results[i * GR_N_RECIPES + t->theirs];
        if (!ours->there || (t->measure == LOAD_ITSELF && theirs->q.load >= LOAD_MOST)) continue;
        sum += measured(t, ours, theirs), worst = fmax(worst, measured(t, ours, theirs)), n++;
    }
    bool reached = n > 0 && sum / n <= t->mean_most && worst <= t->worst_most;
    gr_json *o = gr_json_new_object();
    gr_json_set_string(o, "target", t->text);
    gr_json_set_real(o, "mean", n ? sum / n : NAN), gr_json_set_real(o, "worst", worst), gr_json_set_int(o, "cases", n);
    gr_json_set_bool(o, "reached", reached);
    gr_json_push(list, o);
    if (b->a->json) return;
    printf("%-12s %-68s mean %+8.3f  worst %+8.3f  (%d cases)\n", reached ? "reached" : "NOT REACHED", t->text, n ? unit * sum / n : NAN, unit * worst, n);
}

static void check_targets(const bench *b, const transfer *moved) {
    gr_json *list = gr_json_new_array();
    if (!b->a->json) printf("\nTargets: rows and loads in percent of the other planner's, loads themselves as max/mean\n");
    for (size_t i = 0; i < sizeof targets / sizeof *targets; i++) check_target(b, &targets[i], list);
    if (!b->a->json && moved->n)
        printf("%-12s %-68s mean %+8.3f  worst %+8.3f  (%d groups)\n", moved->mean >= 0.5 * moved->n ? "reached" : "NOT REACHED",
               "gain over contiguous kept on another domain: half (worst: least kept)", 100 * moved->mean / moved->n, 100 * moved->least, moved->n);
    gr_json_set(b->doc, "targets", list);
}

/* ---- moves ---- */

static grace_status time_moves(const bench *b) {
    grace_status st = GRACE_OK;
    double us = 0, most = 0;
    for (int32_t t = 0; t < b->a->n_traces; t++)
        for (int32_t c = 0; c < b->a->n_clusters; c++) {
            if (!takes_place(b, t, c)) continue;
            GR_TRY(gr_replan_layer(&b->units[t], b->a->clusters[c], 11, &us));
            most = fmax(most, us);
        }
    gr_json_set_real(b->doc, "replan_layer_cpu_us", most);
    if (!b->a->json) printf("%-12s one layer moved to other loads, 16 copies at most, in under 10 ms: %.1f ms of CPU (slowest case, median of 11)\n",
                            most < 1e4 ? "reached" : "NOT REACHED", most * 1e-3);
done:
    return st;
}

/* ---- the command ---- */

static grace_status open_units(bench *b) {
    grace_status st = GRACE_OK;
    for (int32_t t = 0; t < b->a->n_traces; t++) GR_TRY(gr_unit_open(b->a->traces[t], "", &b->units[t]));
done:
    return st;
}

static grace_status measure_all(const gr_case_arguments *a, gr_json *doc) {
    grace_status st = GRACE_OK;
    bench b = {.a = a, .doc = doc};
    gr_progress progress = gr_progress_start(a->json || a->output ? "bench plan" : NULL, "plans", a->n_traces * a->n_clusters * GR_N_RECIPES);
    transfer moved;
    GR_CALLOC(b.units, a->n_traces);
    GR_CALLOC(b.results, a->n_traces * a->n_clusters * GR_N_RECIPES);
    GR_CALLOC(b.rungs, (size_t)a->n_traces * GR_N_CASE_RUNGS);
    GR_TRY(open_units(&b));
    GR_TRY(run_cases(&b, &progress));
    gr_progress_end(&progress);
    GR_TRY(run_ladder(&b));
    GR_TRY(run_transfers(&b, &moved));
    check_targets(&b, &moved);
    GR_TRY(time_moves(&b));
done:
    for (int32_t t = 0; b.units && t < a->n_traces; t++) gr_unit_close(&b.units[t]);
    free(b.units), free(b.results), free(b.rungs);
    return st;
}

int gr_bench_plan_main(int argc, char **argv) {
    static const char what[] = "Plans of every planner, made on the even sequences of each trace and measured on the odd ones; the paper's ladder in rows; "
                               "plans of one domain on another; what should be reached and is. Without traces: those of tests/golden/tiny-olmoe/traces. "
                               "Traces of one model stand together.";
    static const struct argp argp = {options, gr_case_parse, "[TRACE...]", what, 0, 0, 0};
    gr_case_arguments a = {.argc = argc, .argv = argv, .n_clusters = 4, .clusters = {{2, 2}, {2, 4}, {4, 4}, {8, 8}}};
    return gr_case_main(&argp, "plan", &a, measure_all);
}
