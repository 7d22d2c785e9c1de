/* grace plan: a trace and a cluster to a placement. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/status.h"
#include "cli.h"
#include "interop/interop.h"
#include "interop/placement.h"
#include "plan/cut.h"
#include "plan/equalise.h"
#include "plan/homes.h"
#include "plan/layer_ids.h"
#include "plan/phases.h"
#include "plan/plan_json.h"
#include "plan/quality.h"
#include "plan_costs.h"
#include "plan_decode.h"

enum { KEY_CLUSTER = 0x200, KEY_PLANNER, KEY_GROUPING, KEY_REPLICATION, KEY_R, KEY_SEED, KEY_EMPTY, KEY_TRAIN, KEY_TEST, KEY_TEST_TRACE, KEY_JSON,
       KEY_MEMORY, KEY_SLOTS, KEY_BALANCE, KEY_TIME, KEY_EQUAL, KEY_FORMAT, KEY_MODEL_LAYERS, KEY_TOP_K, KEY_FROM, KEY_MOVES, KEY_OBJECTIVE,
               KEY_RATES, KEY_SHAPE,
       KEY_NO_HOMES, KEY_DECODE };

typedef enum format { FORMAT_GRACE, FORMAT_SGLANG, FORMAT_FLAT, FORMAT_TRTLLM, FORMAT_ASCEND, FORMAT_OMNI, N_FORMATS } format;

static const struct argp_option options[] = {
    {"cluster", KEY_CLUSTER, "SHAPE", 0, "\"node:2 gpu:2\" or 2x2 (default)", 0},
    {"planner", KEY_PLANNER, "NAME", 0, "grace (default: the paper's), auto (a search on the exact rows), uniform (balanced spectral groups), "
     "contiguous, random, eplb or replicate-node", 0},
    {"grouping", KEY_GROUPING, "KIND", 0, "grace, inside a node: controlled (default), free or uniform", 0},
    {"replication", KEY_REPLICATION, "KIND", 0, "grace: dynamic (default), fixed or none", 0},
    {"ratio", KEY_R, "R", 0, "grace: group sizes may differ from the mean by this share (default: chosen at the knee)", 0},
    {"memory", KEY_MEMORY, "X", 0, "auto, eplb, replicate-node: slots of a rank as a multiple of experts / ranks (default: as grace uses)", 0},
    {"replica-slots", KEY_SLOTS, "N", 0, "the same as a number: slots of a rank in a layer, primaries included", 0},
    {"balance", KEY_BALANCE, "X", 0, "auto: bound on max/mean load (default 1.1), or grace: 0.95 of what the paper's plan has in the layer, 1.1 at least", 0},
    {"time-limit", KEY_TIME, "SECONDS", 0, "auto: stop searching then (default: none; a plan cut short depends on the machine)", 0},
    {"objective", KEY_OBJECTIVE, "AIM", 0, "auto: rows under the bound on load (default), or the predicted time of prefill, decode, or both (time); "
                                           "needs --rates", 0},
    {"rates", KEY_RATES, "RATES", 0, "predict times for this machine: a preset or a file (docs/simulator.md)", 0},
    {"shape", KEY_SHAPE, "SHAPE", 0, "bytes of the model: a preset or hidden=N,width=N,... (default: by layers, experts and top-k, else assumed)", 0},
    {"from", KEY_FROM, "PLAN", 0, "auto: keep this plan but for a few copies that moved loads ask for; memory as it has, if not given", 0},
    {"max-moves", KEY_MOVES, "N", 0, "with --from: copies at most that are where none was (default 64)", 0},
    {"equal-slots", KEY_EQUAL, 0, 0, "fill every rank of every layer up to as many slots with useful replicas", 0},
    {"decode-tokens", KEY_DECODE, "N", 0, "let copies rest in decode steps where steps of N tokens a GPU are predicted to take less time; needs --rates", 0},
    {"no-homes", KEY_NO_HOMES, 0, 0, "leave out what homes are chosen by: labels of auto's nodes aligned to sequences, and what token ids save "
                                     "(docs/homes.md)", 0},
    {"allow-empty-ranks", KEY_EMPTY, 0, 0, "more ranks than experts: some host none", 0},
    {"seed", KEY_SEED, "N", 0, "of the clustering (default 0)", 0},
    {"train", KEY_TRAIN, "WHICH", 0, "tokens to plan from: all (default), even or odd (sequences), domain:NAME,..., or even domain:NAME,...", 0},
    {"test", KEY_TEST, "WHICH", 0, "print rows and loads of other tokens too; those that share sequences with --train are refused", 0},
    {"test-trace", KEY_TEST_TRACE, "FILE", 0, "take the --test tokens (default all) from this trace", 0},
    {"top-k", KEY_TOP_K, "K", 0, "experts a token chooses, for inputs that do not say it; others must agree", 0},
    {"output", 'o', "FILE", 0, "the plan (default plan.json)", 0},
    {"format", KEY_FORMAT, "NAME", 0, "grace (default), or for another engine: sglang, flat, trtllm, ascend, omni (docs/interop.md)", 0},
    {"model-layers", KEY_MODEL_LAYERS, "N", 0, "sglang, trtllm: layers of the model; needed where the input does not say which have experts (then the "
                                               "last ones have), and for dense last ones", 0},
    {"json", KEY_JSON, 0, 0, "print one JSON object", 0},
    {0},
};

typedef struct arguments {
    grace_plan_options plan;
    grace_cluster cluster;
    const char *trace, *output;
    grace_selection train, test;
    bool tests;                     /* --test or --test-trace was given */
    const char *test_trace;         /* NULL: the trace */
    bool json;
    const char *only_grace;         /* an option given that means something for the planner grace only */
    const char *only_budget;        /* ... for planners that take a memory budget */
    const char *only_auto;          /* ... for auto */
    const char *from;               /* a plan to start from */
    bool moves_given;
    gr_plan_aim aim;
    const char *rates, *shape;      /* NULL: no times; by the trace */
    bool equal_slots, no_homes;
    int32_t decode_tokens;          /* 0: one routing for all steps */
    format format;
    int32_t model_layers;
    gr_foreign_options foreign;
} arguments;

static grace_planner choose_planner(struct argp_state *state, const char *name) {
    const char *names[GRACE_N_PLANNERS];
    for (int i = 0; i < GRACE_N_PLANNERS; i++) names[i] = grace_planner_name((grace_planner)i);
    return (grace_planner)gr_arg_choice(state, "planner", name, names, GRACE_N_PLANNERS);
}

/* An option that the chosen planner would ignore is refused. */
static void check_together(struct argp_state *state, const arguments *a) {
    grace_planner p = a->plan.planner;
    bool starts_from_grace = p == GRACE_PLANNER_GRACE || p == GRACE_PLANNER_AUTO;
    bool budget = p == GRACE_PLANNER_EPLB || p == GRACE_PLANNER_REPLICATE_NODE || p == GRACE_PLANNER_AUTO;
    if (a->only_grace && !starts_from_grace) argp_error(state, "--%s is for --planner grace", a->only_grace);
    if (a->only_budget && !budget) argp_error(state, "--%s is for --planner auto, eplb or replicate-node", a->only_budget);
    if (a->aim != GR_AIM_ROWS && !a->rates) argp_error(state, "--objective %s needs --rates, the machine's", gr_plan_aims[a->aim]);
    if (a->decode_tokens && !a->rates) argp_error(state, "--decode-tokens needs --rates, the machine's");
    if (a->decode_tokens && a->format != FORMAT_GRACE) argp_error(state, "--decode-tokens is for --format grace: other engines have one routing");
    if (a->aim != GR_AIM_ROWS && a->from) argp_error(state, "--from keeps a plan: it has no --objective");
    if (a->moves_given && !a->from) argp_error(state, "--max-moves needs --from, the plan to start from");
    if (a->only_auto && p != GRACE_PLANNER_AUTO) argp_error(state, "--%s is for --planner auto", a->only_auto);
    if (a->plan.memory > 0 && a->plan.slots_per_rank > 0) argp_error(state, "--memory and --replica-slots say the same: give one");
    if (a->model_layers && a->format != FORMAT_SGLANG && a->format != FORMAT_TRTLLM) argp_error(state, "--model-layers is for --format sglang or trtllm");
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    static const char *const formats[] = {"grace", "sglang", "flat", "trtllm", "ascend", "omni"}, *const groupings[] = {"controlled", "free", "uniform"},
                            *const replications[] = {"none", "fixed", "dynamic"};
    arguments *a = state->input;
    switch (key) {
    case KEY_CLUSTER:
        if (grace_cluster_parse(arg, &a->cluster)) argp_error(state, "--cluster: %s", grace_last_error());
        break;
    case KEY_PLANNER: a->plan.planner = choose_planner(state, arg); break;
    case KEY_MEMORY: a->plan.memory = gr_arg_number(state, "memory", arg, 1, 1e6); a->only_budget = "memory"; break;
    case KEY_SLOTS: a->plan.slots_per_rank = (int32_t)gr_arg_int(state, "replica-slots", arg, 1, 1 << 20); a->only_budget = "replica-slots"; break;
    case KEY_BALANCE:
        a->plan.balance = strcmp(arg, "grace") == 0 ? 0 : gr_arg_number(state, "balance", arg, 1, 1e6);
        a->only_auto = "balance";
        break;
    case KEY_OBJECTIVE:
        a->aim = (gr_plan_aim)gr_arg_choice(state, "objective", arg, gr_plan_aims, GR_N_AIMS);
        a->only_auto = "objective";
        break;
    case KEY_RATES: a->rates = arg; break;
    case KEY_SHAPE: a->shape = arg; break;
    case KEY_FROM: a->from = arg; a->only_auto = "from"; break;
    case KEY_MOVES: a->plan.max_moves = (int32_t)gr_arg_int(state, "max-moves", arg, 0, INT32_MAX); a->moves_given = true; break;
    case KEY_TIME: a->plan.time_limit_s = gr_arg_number(state, "time-limit", arg, 0, 1e9); a->only_auto = "time-limit"; break;
    case KEY_EMPTY: a->plan.empty_ranks = true; break;
    case KEY_NO_HOMES: a->no_homes = true; break;
    case KEY_DECODE: a->decode_tokens = (int32_t)gr_arg_int(state, "decode-tokens", arg, 1, 1 << 20); break;
    case KEY_EQUAL: a->equal_slots = true; break;
    case KEY_FORMAT: a->format = (format)gr_arg_choice(state, "format", arg, formats, N_FORMATS); break;
    case KEY_MODEL_LAYERS: a->model_layers = (int32_t)gr_arg_int(state, "model-layers", arg, 1, 4096); break;
    case KEY_TOP_K: a->foreign.top_k = (int32_t)gr_arg_int(state, "top-k", arg, 1, 65536); break;
    case KEY_GROUPING:
        a->plan.grouping = (grace_grouping)gr_arg_choice(state, "grouping", arg, groupings, 3);
        a->only_grace = "grouping";
        break;
    case KEY_REPLICATION:
        a->plan.replication = (grace_replication)gr_arg_choice(state, "replication", arg, replications, 3);
        a->only_grace = "replication";
        break;
    case KEY_R: a->plan.r = gr_arg_number(state, "ratio", arg, 0, 1); a->only_grace = "ratio"; break;
    case KEY_SEED: a->plan.seed = a->foreign.seed = (uint64_t)gr_arg_int(state, "seed", arg, 0, INT64_MAX); break;
    case KEY_TRAIN:
        if (grace_selection_parse(arg, &a->train)) argp_error(state, "--train: %s", grace_last_error());
        break;
    case KEY_TEST:
        if (grace_selection_parse(arg, &a->test)) argp_error(state, "--test: %s", grace_last_error());
        a->tests = true;
        break;
    case KEY_TEST_TRACE: a->test_trace = arg; a->tests = true; break;
    case 'o': a->output = arg; break;
    case KEY_JSON: a->json = true; break;
    case ARGP_KEY_ARG:
        if (a->trace) argp_error(state, "expected one trace, found '%s' too", arg);
        a->trace = arg;
        break;
    case ARGP_KEY_END:
        if (!a->trace) argp_error(state, "expected a trace");
        check_together(state, a);
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static int32_t n_secondary(const grace_plan *plan) {
    int32_t n = 0;
    for (int32_t l = 0; l < plan->n_layers; l++) n += plan->layers[l].n_slots - plan->n_experts;
    return n;
}

static void spread(const double *load, int32_t n, double *max_over_mean) {
    double sum = 0, most = 0;
    for (int32_t r = 0; r < n; r++) {
        sum += load[r];
        if (load[r] > most) most = load[r];
    }
    *max_over_mean = sum > 0 ? most * n / sum : 0;
}

/* What is printed about a plan besides its own tables. */
typedef struct figures {
    double inside_gpu, inside_node, planning_us;
    grace_origin tested_on;         /* n_tokens 0: on nothing */
    gr_quality test;
    bool has_costs;                 /* there are tokens, not loads only */
    gr_plan_costs costs;
    gr_plan_decode decode, decode_test;     /* tokens 0: not asked for */
} figures;

static void print_origin(const char *what, const grace_origin *o) {
    char text[320];
    grace_selection_format(&o->which, text, sizeof text);
    printf("%s: %s, %s, %lld tokens%s\n", what, o->file, text, (long long)o->n_tokens, o->synthetic ? ", synthetic: made to fit counts" : "");
}

static void print_test(const figures *f) {
    print_origin("measured on", &f->tested_on);
    if (f->tested_on.synthetic) printf("(all these tokens come from the same counts: not a figure about tokens the plan has not seen)\n");
    printf("rows a token and layer: %.4f between nodes, %.4f inside them; max/mean load %.3f, worst layer %.3f\n", f->test.rows.cross, f->test.rows.intra,
           f->test.load, f->test.load_worst);
    if (f->decode_test.tokens > 0) gr_plan_decode_print(&f->decode_test);
}

static void print_sglang(const char *path, const grace_plan *plan) {
    size_t n = strlen(path);
    printf("for SGLang: --init-expert-location %s --ep-num-redundant-experts %d\n", path, plan->layers[0].n_slots - plan->n_experts);
    if (n < 5 || strcmp(path + n - 5, ".json") != 0) printf("SGLang reads a file only if its name ends in .json: rename this one\n");
}

static void print_table(const arguments *a, const grace_plan *plan, const figures *f) {
    printf("%s: %s for node:%d gpu:%d, %d layers, %d experts, %d replicas, %.0f ms\n", a->output, plan->planner, plan->cluster.n_nodes,
           plan->cluster.gpus_per_node, plan->n_layers, plan->n_experts, n_secondary(plan), f->planning_us * 1e-3);
    print_origin("planned from", &plan->planned_from);
    if (plan->token_saves.vocab > 0) printf("homes: what %d token ids save on each node\n", plan->token_saves.vocab);
    if (f->has_costs) printf("affinity kept inside a GPU %.1f %%, inside a node %.1f %%", 100 * f->inside_gpu, 100 * f->inside_node);
    else printf("loads only: nothing is known of which experts fire together");
    if (plan->r >= 0) printf("; ratio %.3f%s", plan->r, plan->n_knee ? " (the knee)" : "");
    printf("\n");
    if (f->has_costs) gr_plan_costs_print(&f->costs);
    if (f->decode.tokens > 0) gr_plan_decode_print(&f->decode);
    if (f->tested_on.n_tokens > 0) print_test(f);
    if (a->format == FORMAT_SGLANG) print_sglang(a->output, plan);
    printf("layer  slots  replicas  max/mean load before -> after copies (it may rise: copies also buy fewer rows)\n");
    for (int32_t l = 0; l < plan->n_layers; l++) {
        double before, after;
        spread(plan->layers[l].load_before, grace_cluster_ranks(plan->cluster), &before);
        spread(plan->layers[l].load_after, grace_cluster_ranks(plan->cluster), &after);
        printf("%5d  %5d  %8d  %13.2f -> %.2f\n", l, plan->layers[l].n_slots, plan->layers[l].n_slots - plan->n_experts, before, after);
    }
}

static gr_json *test_json(const figures *f) {
    gr_json *o = gr_origin_json(&f->tested_on);
    gr_json_set_real(o, "rows_cross", f->test.rows.cross);
    gr_json_set_real(o, "rows_intra", f->test.rows.intra);
    gr_json_set_real(o, "load_max_over_mean", f->test.load);
    gr_json_set_real(o, "load_max_over_mean_worst", f->test.load_worst);
    if (f->decode_test.tokens > 0) gr_json_set(o, "decode", gr_plan_decode_json(&f->decode_test));
    return o;
}

static grace_status print_json(const arguments *a, const grace_plan *plan, const figures *f) {
    gr_json *o = gr_json_new_object(), *layers = gr_json_new_array();
    gr_json_set_string(o, "plan", a->output);
    gr_json_set_string(o, "planner", plan->planner);
    gr_json_set_int(o, "replicas", n_secondary(plan));
    gr_json_set_real(o, "ratio", plan->r);
    if (f->has_costs) {
        gr_json_set_real(o, "affinity_inside_gpu", f->inside_gpu);
        gr_json_set_real(o, "affinity_inside_node", f->inside_node);
    }
    gr_json_set_real(o, "planning_us", f->planning_us);
    gr_json_set(o, "planned_from", gr_origin_json(&plan->planned_from));
    if (f->has_costs) gr_json_set(o, "costs", gr_plan_costs_json(&f->costs));
    if (f->decode.tokens > 0) gr_json_set(o, "decode", gr_plan_decode_json(&f->decode));
    if (f->tested_on.n_tokens > 0) gr_json_set(o, "test", test_json(f));
    for (int32_t l = 0; l < plan->n_layers; l++) {
        gr_json *layer = gr_json_new_object();
        gr_json_set_int(layer, "slots", plan->layers[l].n_slots);
        gr_json_set_reals(layer, "load_before", plan->layers[l].load_before, (size_t)grace_cluster_ranks(plan->cluster));
        gr_json_set_reals(layer, "load_after", plan->layers[l].load_after, (size_t)grace_cluster_ranks(plan->cluster));
        gr_json_push(layers, layer);
    }
    gr_json_set(o, "layers", layers);
    return gr_print_json(o);
}

static bool is_all(const grace_selection *s) { return s->sequences == GRACE_SEQUENCES_ALL && !s->domains[0]; }

/* The selection of the input, as the planner wants it: a profile, and the sets of experts tokens chose, which a list of loads has not. */
static grace_status read_input(const arguments *a, grace_trace_reader **trace, grace_profile **profile, grace_bundles **bundles) {
    grace_status st = GRACE_OK;
    bool searches = a->plan.planner == GRACE_PLANNER_AUTO;
    GR_TRY(gr_foreign_open(a->trace, &a->foreign, trace, profile));
    GR_CHECK(*trace || is_all(&a->train), GRACE_ERR_ARG, "%s has loads only: expected no --train", a->trace);
    GR_CHECK(*trace || !searches, GRACE_ERR_ARG, "%s has loads only: --planner auto needs a trace of tokens", a->trace);
    if (*trace) GR_TRY(grace_profile_stream(*trace, &a->train, profile));
    GR_CHECK((*profile)->n_tokens > 0, GRACE_ERR_ARG, "%s: expected tokens to plan from, found none%s", a->trace,
             is_all(&a->train) ? "" : " in the selection");
    if (*trace) GR_TRY(grace_bundles_stream(*trace, &a->train, false, GRACE_BUNDLES_DEFAULT, bundles));
done:
    return st;
}

/* Before minutes of planning: does the format get the numbers of the model's layers that it wants? */
static grace_status check_layers(const arguments *a, const grace_trace_info *info) {
    int32_t ids[GRACE_TRACE_LAYERS_MAX], n_model_layers = 0;
    const gr_layer_map map = {.n_model_layers = a->model_layers};
    if (a->format != FORMAT_SGLANG && a->format != FORMAT_TRTLLM) return GRACE_OK;
    grace_status st = gr_layer_map_ids(&map, gr_layer_ids_of(info), info->n_layers, ids, &n_model_layers);
    return st ? gr_fail_in(st, "%s", a->trace) : GRACE_OK;
}

enum { TEST_BUNDLES = 1 << 16 };

static grace_status check_test(const char *path, const grace_plan *plan, const grace_profile *test) {
    grace_status st = GRACE_OK;
    const grace_trace_info *info = &test->info;
    GR_CHECK(info->n_layers == plan->n_layers && info->n_experts == plan->n_experts && info->top_k == plan->top_k, GRACE_ERR_MISMATCH,
             "%s has %d layers of %d experts, top-%d; the plan has %d of %d, top-%d", path, info->n_layers, info->n_experts, info->top_k,
             plan->n_layers, plan->n_experts, plan->top_k);
    GR_CHECK(test->n_tokens > 0, GRACE_ERR_ARG, "%s: expected tokens to measure on, found none in the selection", path);
    GR_CHECK(!grace_origins_overlap(&plan->planned_from, &test->origin), GRACE_ERR_ARG,
             "%s: the tokens to measure on share some with those of --train, on which any plan looks better than it is", path);
done:
    return st;
}

/* Rows and loads of tokens that the plan has not seen. */
static grace_status measure_test(const arguments *a, const grace_plan *plan, const grace_shape *shape, const grace_rates *rates, figures *f) {
    grace_status st = GRACE_OK;
    const char *path = a->test_trace ? a->test_trace : a->trace;
    grace_trace_reader *trace = NULL;
    grace_profile *profile = NULL;
    grace_bundles *bundles = NULL;
    GR_TRY(gr_foreign_tokens(path, &a->foreign, &trace));
    GR_TRY(grace_profile_stream(trace, &a->test, &profile));
    GR_TRY(check_test(path, plan, profile));
    GR_TRY(grace_bundles_stream(trace, &a->test, false, TEST_BUNDLES, &bundles));
    GR_TRY(gr_quality_measure(plan, GRACE_ROUTE_TAR, bundles, profile, &f->test));
    if (a->decode_tokens) GR_TRY(gr_plan_decode_measure(plan, bundles, shape, rates, a->decode_tokens, &f->decode_test));
    f->tested_on = profile->origin;
done:
    grace_bundles_free(bundles);
    grace_profile_free(profile);
    grace_trace_reader_close(trace);
    return st;
}

/* Labels, unless copies are to stay where they are, and predictors from the tokens of the plan; made-up tokens have neither sequences nor ids worth
 * the name. */
static grace_status add_homes(const arguments *a, grace_trace_reader *trace, grace_plan *plan) {
    if (!trace || plan->planned_from.synthetic) return GRACE_OK;
    return gr_homes_plan(plan, trace, &a->train, a->plan.planner == GRACE_PLANNER_AUTO && !a->from);
}

static grace_status add_decode(const arguments *a, const grace_bundles *bundles, const grace_shape *shape, const grace_rates *rates, grace_plan *plan) {
    if (!bundles) return gr_fail(GRACE_ERR_ARG, "%s has loads only: --decode-tokens needs a trace of tokens", a->trace);
    return gr_plan_choose_decode(plan, bundles, shape, rates, (double)a->decode_tokens * grace_cluster_ranks(plan->cluster));
}

static grace_status make_equal(const grace_profile *profile, grace_plan **plan) {
    grace_plan *equal = NULL;
    grace_status st = gr_plan_equalise(*plan, profile, 0, &equal);
    if (st) return st;
    grace_plan_free(*plan);
    *plan = equal;
    return GRACE_OK;
}

static grace_status write_plan(const arguments *a, const grace_plan *plan) {
    gr_layer_map map = {.n_model_layers = a->model_layers};
    switch (a->format) {
    case FORMAT_SGLANG: return gr_sglang_plan_save(plan, &map, a->output);
    case FORMAT_FLAT: return gr_flat_plan_save(plan, a->output);
    case FORMAT_TRTLLM: return gr_trtllm_plan_save(plan, &map, 0, a->output);
    case FORMAT_ASCEND: return gr_ascend_plan_save(plan, a->output);
    case FORMAT_OMNI: return gr_omni_plan_save(plan, a->output);
    default: return grace_plan_save(plan, a->output);
    }
}

static grace_status save(const arguments *a, const grace_plan *plan) {
    grace_status st = write_plan(a, plan);
    return st == GRACE_ERR_MISMATCH && !a->equal_slots ? gr_fail_in(st, "%s: without --equal-slots", a->output) : st;
}

static void show_progress(void *bar, double done) { gr_progress_update(bar, done); }

static grace_status plan_trace(const arguments *a) {
    grace_status st = GRACE_OK;
    grace_trace_reader *trace = NULL;
    grace_profile *profile = NULL;
    grace_bundles *bundles = NULL;
    grace_plan *plan = NULL, *from = NULL;
    grace_plan_options opt = a->plan;
    grace_shape shape;
    grace_rates rates;
    grace_objective objective;
    gr_progress bar = gr_progress_start("planning", NULL, 1);
    figures f = {0};
    double start;
    GR_TRY(read_input(a, &trace, &profile, &bundles));
    GR_TRY(check_layers(a, &profile->info));
    shape = grace_shape_assumed(profile->info.n_layers, profile->info.n_experts, profile->info.top_k);
    if (a->shape) GR_TRY(grace_shape_parse(a->shape, &profile->info, &shape));
    if (a->rates) GR_TRY(grace_rates_load(a->rates, &rates));
    if (a->aim != GR_AIM_ROWS) {
        objective = gr_plan_objective(a->aim, &shape, &rates);
        opt.objective = &objective;
    }
    if (a->from) GR_TRY(grace_plan_load(a->from, &from));
    opt.progress = show_progress, opt.progress_context = &bar;
    opt.bundles = bundles, opt.from = from, opt.equal_slots = a->equal_slots && a->plan.planner == GRACE_PLANNER_AUTO && !from;
    start = gr_now_us();
    st = grace_plan_build(profile, a->cluster, &opt, &plan);
    gr_progress_end(&bar);
    if (st) goto done;
    if (a->equal_slots && !opt.equal_slots) GR_TRY(make_equal(profile, &plan));
    if (!a->no_homes) GR_TRY(add_homes(a, trace, plan));
    if (a->decode_tokens) GR_TRY(add_decode(a, bundles, &shape, &rates, plan));
    f.planning_us = gr_now_us() - start;
    GR_TRY(gr_plan_cut(plan, profile, &f.inside_gpu, &f.inside_node));
    f.has_costs = bundles != NULL;
    if (a->decode_tokens) GR_TRY(gr_plan_decode_measure(plan, bundles, &shape, &rates, a->decode_tokens, &f.decode));
    if (bundles) GR_TRY(gr_plan_costs_measure(plan, bundles, profile, &shape, a->rates ? &rates : NULL, &f.costs));
    if (a->tests) GR_TRY(measure_test(a, plan, &shape, &rates, &f));
    GR_TRY(save(a, plan));
    if (a->json) st = print_json(a, plan, &f);
    else print_table(a, plan, &f);
done:
    grace_plan_free(plan), grace_plan_free(from);
    grace_bundles_free(bundles);
    grace_profile_free(profile);
    grace_trace_reader_close(trace);
    return st;
}

int gr_cmd_plan(int argc, char **argv) {
    static const struct argp argp = {options, parse, "TRACE", "Turn a trace into a placement: which rank holds which experts and copies of which.", 0, 0, 0};
    arguments a = {.plan = grace_plan_defaults(), .cluster = {2, 2}, .output = "plan.json"};
    gr_arg_parse(&argp, 2, argc, argv, &a);
    grace_status st = plan_trace(&a);
    if (st) fprintf(stderr, "grace: %s\n", grace_last_error());
    return st ? 1 : 0;
}
