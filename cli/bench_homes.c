/* grace bench homes: rows between nodes by where sequences live. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "bench.h"
#include "cli.h"
#include "home_cases.h"

static const struct argp_option options[] = {
    {"clusters", GR_CASE_CLUSTERS, "LIST", 0, "shapes, separated by commas (default 2x2,4x4)", 0},
    {"seed", GR_CASE_SEED, "N", 0, "of the planners (default 0)", 0},
    {"chunk", GR_CASE_CHUNK, "N", 0, "tokens of a sequence that run before 'histogram' chooses its home (default 32)", 0},
    {"moved-rows", GR_CASE_MOVED_ROWS, "W", 0, "measure 'engine' too, the rule of grace run: taking a token of the first chunk along weighs W rows", 0},
    {"output", 'o', "FILE", 0, "write the document there (bench/results/homes.json is made so)", 0},
    {"commit", GR_CASE_COMMIT, "ID", 0, "commit to name in the document", 0},
    {"json", GR_CASE_JSON, 0, 0, "print the document instead of tables", 0},
    {0},
};

/* ---- cases ---- */

/* AUTO's labels as the planner left them, and aligned. */
enum { GRACE, GRACE_ALIGNED, AUTO, AUTO_ALIGNED, N_ROWS };
static const char *const row_names[N_ROWS] = {"grace", "grace, aligned", "auto", "auto, aligned"};

/* Changes against grace with random homes, over all cases. */
typedef struct summary { double sum, worst; int32_t n; } summary;

typedef struct bench { const gr_case_arguments *a; gr_json *doc, *cases; summary sums[N_ROWS][GR_N_HOMINGS]; } bench;

static void print_case(const char *trace, grace_cluster c, const char *name, const gr_home_result *r) {
    printf("%-32.32s %dx%d  %-14s |", trace, c.n_nodes, c.gpus_per_node, name);
    for (int h = 0; h < GR_N_HOMINGS; h++)
        if (r->rows[h] >= 0) printf(" %6.4f", r->rows[h]);
        else printf("      -");
    printf(" |");
    for (int h = 0; h < GR_N_HOMINGS; h++)
        if (r->rows[h] >= 0) printf(" %5.3f", r->load[h]);
        else printf("     -");
    printf(" | %4.2f %4.2f\n", r->moved, r->engine_moved);
    fflush(stdout);
}

static void add_case(bench *b, const char *trace, grace_cluster c, int row, const gr_home_result *r) {
    gr_json *o = gr_json_new_object(), *rows = gr_json_new_object(), *load = gr_json_new_object();
    char shape[32];
    snprintf(shape, sizeof shape, "%dx%d", c.n_nodes, c.gpus_per_node);
    gr_json_set_string(o, "trace", trace);
    gr_json_set_string(o, "cluster", shape);
    gr_json_set_string(o, "planner", row_names[row]);
    for (int h = 0; h < GR_N_HOMINGS; h++) {
        if (r->rows[h] < 0) continue;
        gr_json_set_real(rows, gr_homing_names[h], r->rows[h]);
        gr_json_set_real(load, gr_homing_names[h], r->load[h]);
    }
    gr_json_set(o, "rows_cross", rows);
    gr_json_set(o, "load_max_over_mean", load);
    gr_json_set_real(o, "moved", r->moved);
    if (b->a->moved_rows > 0) gr_json_set_real(o, "engine_moved", r->engine_moved);
    gr_json_push(b->cases, o);
    if (!b->a->json) print_case(trace, c, row_names[row], r);
}

static void sum_case(bench *b, const gr_home_result *results) {
    for (int row = 0; row < N_ROWS; row++)
        for (int h = 0; h < GR_N_HOMINGS; h++) {
            summary *s = &b->sums[row][h];
            double change = results[row].rows[h] / results[GRACE].rows[GR_HOMES_RANDOM] - 1;
            if (results[row].rows[h] < 0) continue;
            s->worst = s->n ? fmax(s->worst, change) : change;
            s->sum += change, s->n++;
        }
}

static grace_status run_case(bench *b, const gr_unit *u, grace_trace_reader *r, grace_cluster c) {
    grace_status st = GRACE_OK;
    gr_home_result results[N_ROWS];
    grace_plan *plan = NULL;
    bool changed;
    for (int row = 0; row < N_ROWS; row++) {
        if (row == GRACE || row == AUTO) {
            grace_plan_free(plan), plan = NULL;
            GR_TRY(gr_recipe_plan(&gr_recipes[row == GRACE ? GR_RECIPE_GRACE : GR_RECIPE_AUTO], &u->train, c, b->a->seed, &plan));
        } else GR_TRY(gr_homes_align_on(plan, r, &changed));
        GR_TRY(gr_homes_measure(plan, r, b->a->chunk, b->a->moved_rows, &results[row]));
        add_case(b, u->name, c, row, &results[row]);
    }
    sum_case(b, results);
done:
    grace_plan_free(plan);
    return st;
}

static grace_status run_trace(bench *b, const char *path) {
    grace_status st = GRACE_OK;
    gr_unit u = {0};
    grace_trace_reader *r = NULL;
    GR_TRY(gr_unit_open(path, "", &u));
    GR_TRY(grace_trace_reader_open(path, &r));
    for (int32_t c = 0; c < b->a->n_clusters; c++)
        if (grace_cluster_ranks(b->a->clusters[c]) <= u.train.profile->info.n_experts) GR_TRY(run_case(b, &u, r, b->a->clusters[c]));
done:
    grace_trace_reader_close(r);
    gr_unit_close(&u);
    return st;
}

static void summarise(bench *b) {
    gr_json *list = gr_json_new_array();
    if (!b->a->json) printf("\nRows between nodes against grace with random homes: mean and worst over the cases, in percent\n");
    for (int row = 0; row < N_ROWS; row++)
        for (int h = 0; h < GR_N_HOMINGS; h++) {
            const summary *s = &b->sums[row][h];
            if (s->n == 0) continue;
            gr_json *o = gr_json_new_object();
            gr_json_set_string(o, "planner", row_names[row]);
            gr_json_set_string(o, "homes", gr_homing_names[h]);
            gr_json_set_int(o, "cases", s->n);
            gr_json_set_real(o, "mean", s->sum / s->n);
            gr_json_set_real(o, "worst", s->worst);
            gr_json_push(list, o);
            if (!b->a->json)
                printf("  %-14s %-9s  mean %+7.2f  worst %+7.2f  (%d cases)\n", row_names[row], gr_homing_names[h], 100 * s->sum / s->n, 100 * s->worst, s->n);
        }
    gr_json_set(b->doc, "against_grace_random", list);
}

static grace_status measure_all(const gr_case_arguments *a, gr_json *doc) {
    grace_status st = GRACE_OK;
    bench b = {.a = a, .doc = doc, .cases = gr_json_new_array()};
    gr_json_set_int(b.doc, "chunk", a->chunk);
    if (a->moved_rows > 0) gr_json_set_real(b.doc, "moved_rows", a->moved_rows);
    if (!a->json)
        printf("Planned and learned on even sequences, measured on odd ones; rows between nodes a token and layer, dispatched (as many come back)\n"
               "%-32s cl.  planner        | rows: random, vocab, histogram, engine, oracle | max/mean load, the same | moved: histogram, engine\n", "trace");
    for (int32_t t = 0; t < a->n_traces; t++) GR_TRY(run_trace(&b, a->traces[t]));
    gr_json_set(b.doc, "cases", gr_json_share(b.cases));
    summarise(&b);
done:
    gr_json_free(b.cases);
    return st;
}

int gr_bench_homes_main(int argc, char **argv) {
    static const struct argp argp = {options, gr_case_parse, "[TRACE...]", "Rows between nodes by where sequences live: anywhere alike (random), where token "
                                     "ids suggest (vocab), where the first chunk suggests (histogram; engine: if that is worth the move), where they send "
                                     "least (oracle); always as many sequences on every rank. Without traces: those of "
                                     "tests/golden/tiny-olmoe/traces.", 0, 0, 0};
    gr_case_arguments a = {.argc = argc, .argv = argv, .n_clusters = 2, .clusters = {{2, 2}, {4, 4}}, .chunk = 32};
    return gr_case_main(&argp, "homes", &a, measure_all);
}
