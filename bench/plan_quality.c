/* Placement quality: planned on the even sequences of a trace, measured on the odd ones. Rows are dispatched rows a token and layer, homes random;
 * combine sends as many back. One line per planner.
 *
 *     bench_plan_quality [--cluster 2x2,2x4,4x4] [--planner grace,auto,...] [--memory 0,1.25,1.5] [--balance 1.1] TRACE...
 *
 * memory 0: what each planner takes by itself; auto and eplb take what the fullest rank of grace holds. */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/memory.h"
#include "plan/budget.h"
#include "plan/measure.h"

enum { TEST_BUNDLES = 1 << 16, LIST_MAX = 16 };

typedef struct list { int32_t n; char *item[LIST_MAX]; } list;

typedef struct half { grace_profile *profile; grace_bundles *bundles; } half;

typedef struct quality { gr_measure on; double fullest, total; } quality;

static list split(char *text) {
    list l = {0};
    char *at = NULL;
    for (char *item = strtok_r(text, ",", &at); item && l.n < LIST_MAX; item = strtok_r(NULL, ",", &at)) l.item[l.n++] = item;
    return l;
}

static grace_status half_open(const grace_trace *t, grace_sequences sequences, int32_t n_max, half *h) {
    grace_selection which = {.sequences = sequences};
    grace_status st = grace_profile_build(t, &which, &h->profile);
    return st ? st : grace_bundles_build(t, &which, false, n_max, &h->bundles);
}

static void half_close(half *h) { grace_profile_free(h->profile), grace_bundles_free(h->bundles); }

static grace_status measure(const grace_plan *plan, const half *test, quality *q) {
    grace_status st = gr_plan_measure(plan, test->bundles, test->profile->load, &q->on);
    double n_slots = 0;
    for (int32_t l = 0; l < plan->n_layers; l++) n_slots += plan->layers[l].n_slots;
    q->total = n_slots / plan->n_layers / plan->n_experts;
    q->fullest = (double)gr_fullest_rank(plan) * grace_cluster_ranks(plan->cluster) / plan->n_layers / plan->n_experts;
    return st;
}

static grace_status run(const char *trace, grace_cluster cluster, const grace_plan_options *opt, const half *train, const half *test) {
    grace_status st = GRACE_OK;
    grace_plan *plan = NULL;
    quality q;
    double start = gr_now_us(), ms;
    GR_TRY(grace_plan_build(train->profile, cluster, opt, &plan));
    ms = (gr_now_us() - start) * 1e-3;
    GR_TRY(measure(plan, test, &q));
    printf("%-18.18s %dx%d %-14s %6.2f | %6.4f %6.4f | %5.3f %5.3f | %5.3f %5.3f | %8.0f\n", trace, cluster.n_nodes, cluster.gpus_per_node, plan->planner,
           opt->memory, q.on.cross, q.on.intra, q.on.load, q.on.load_worst, q.fullest, q.total, ms);
    fflush(stdout);
done:
    grace_plan_free(plan);
    return st;
}

static grace_status find_planner(const char *name, grace_planner *out) {
    for (int p = 0; p < GRACE_N_PLANNERS; p++)
        if (strcmp(name, grace_planner_name((grace_planner)p)) == 0) {
            *out = (grace_planner)p;
            return GRACE_OK;
        }
    return gr_fail(GRACE_ERR_ARG, "no planner '%s'", name);
}

/* Only planners that use a memory are run at all of them. */
static grace_status run_all(const char *path, const char *name, const list *clusters, const list *planners, const list *memories,
                            grace_plan_options opt) {
    grace_status st = GRACE_OK;
    grace_trace *trace = NULL;
    half train = {0}, test = {0};
    GR_TRY(grace_trace_open(path, &trace, NULL));
    GR_TRY(half_open(trace, GRACE_SEQUENCES_EVEN, GRACE_BUNDLES_DEFAULT, &train));
    GR_TRY(half_open(trace, GRACE_SEQUENCES_ODD, TEST_BUNDLES, &test));
    opt.bundles = train.bundles;
    for (int32_t c = 0; c < clusters->n; c++)
        for (int32_t p = 0; p < planners->n; p++)
            for (int32_t m = 0; m < memories->n; m++) {
                grace_cluster cluster;
                GR_TRY(grace_cluster_parse(clusters->item[c], &cluster));
                GR_TRY(find_planner(planners->item[p], &opt.planner));
                opt.memory = atof(memories->item[m]);
                if (m > 0 && opt.planner != GRACE_PLANNER_AUTO && opt.planner != GRACE_PLANNER_EPLB) continue;
                if (opt.planner != GRACE_PLANNER_AUTO && opt.planner != GRACE_PLANNER_EPLB) opt.memory = 0;
                GR_TRY(run(name, cluster, &opt, &train, &test));
            }
done:
    half_close(&train), half_close(&test);
    grace_trace_close(trace);
    return st;
}

/* The last two parts of a path: "traces/prose". */
static const char *short_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

int main(int argc, char **argv) {
    static char clusters_text[] = "2x2,2x4,4x4", planners_text[] = "contiguous,uniform,grace,eplb,auto", memories_text[] = "0";
    static const struct option options[] = {{"cluster", 1, 0, 'c'}, {"planner", 1, 0, 'p'}, {"memory", 1, 0, 'm'}, {"balance", 1, 0, 'b'}, {0}};
    char *clusters_arg = clusters_text, *planners_arg = planners_text, *memories_arg = memories_text;
    grace_plan_options opt = grace_plan_defaults();
    for (int key; (key = getopt_long(argc, argv, "", options, NULL)) != -1;) switch (key) {
        case 'c': clusters_arg = optarg; break;
        case 'p': planners_arg = optarg; break;
        case 'm': memories_arg = optarg; break;
        case 'b': opt.balance = atof(optarg); break;
        default: return 64;
        }
    list clusters = split(clusters_arg), planners = split(planners_arg), memories = split(memories_arg);
    printf("trace              cl. planner        memory |  cross  intra |  load worst | fullest total |       ms\n");
    for (int i = optind; i < argc; i++)
        if (run_all(argv[i], short_name(argv[i]), &clusters, &planners, &memories, opt)) {
            fprintf(stderr, "%s: %s\n", argv[i], grace_last_error());
            return 1;
        }
    return 0;
}
