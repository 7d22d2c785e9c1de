/* grace bench ladder: the rungs of the paper's Table 1 over one batch, each in fast mode (numbers) and in exact mode (identity). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/memory.h"
#include "base/status.h"
#include "bench.h"
#include "cli.h"
#include "ladder_json.h"

enum { KEY_TRACE = 0x200, KEY_SEQUENCES, KEY_PREFILL, KEY_DECODE, KEY_DOCUMENTS, KEY_REPEAT, KEY_PLANS, KEY_COMMIT, KEY_COMMAND };

static const struct argp_option options[] = {
    {0, 0, 0, 0, "Ladder:", 5},
    {"trace", KEY_TRACE, "FILE", 0, "routing the plans are made from (grace profile)", 5},
    {"sequences", KEY_SEQUENCES, "N", 0, "sequences of the batch (default 64)", 5},
    {"prefill", KEY_PREFILL, "N", 0, "prompt tokens of each (default 64)", 5},
    {"decode", KEY_DECODE, "N", 0, "tokens each generates (default 16)", 5},
    {"documents", KEY_DOCUMENTS, "WHICH", 0, "all, even or odd (default) documents of the text files", 5},
    {"repeat", KEY_REPEAT, "N", 0, "timed runs per rung, the median is shown (default 1)", 5},
    {"plans", KEY_PLANS, "DIR", 0, "where the plans go (default plans)", 5},
    {"output", 'o', "FILE", 0, "the numbers, for 'grace report' (default ladder.json)", 5},
    {"commit", KEY_COMMIT, "ID", 0, "commit to name in the output", 5},
    {"command", KEY_COMMAND, "TEXT", 0, "command to name in the output (default: this one)", 5},
    {0},
};

static const gr_rung rungs[] = {
    {"contiguous + per-expert", false, GRACE_PLANNER_CONTIGUOUS, GRACE_REPLICATION_NONE, GRACE_EXCHANGE_PER_EXPERT, GRACE_ROUTE_PRIMARY},
    {"uniform + flat (Occult)", true, GRACE_PLANNER_UNIFORM, GRACE_REPLICATION_NONE, GRACE_EXCHANGE_FLAT, GRACE_ROUTE_PRIMARY},
    {"uniform + HSC", false, GRACE_PLANNER_UNIFORM, GRACE_REPLICATION_NONE, GRACE_EXCHANGE_HSC, GRACE_ROUTE_PRIMARY},
    {"HG + HSC", false, GRACE_PLANNER_GRACE, GRACE_REPLICATION_NONE, GRACE_EXCHANGE_HSC, GRACE_ROUTE_PRIMARY},
    {"HG + HSC + FR + WRR", false, GRACE_PLANNER_GRACE, GRACE_REPLICATION_FIXED, GRACE_EXCHANGE_HSC, GRACE_ROUTE_WRR},
    {"HG + HSC + DR + WRR", false, GRACE_PLANNER_GRACE, GRACE_REPLICATION_DYNAMIC, GRACE_EXCHANGE_HSC, GRACE_ROUTE_WRR},
    {"HG + HSC + DR + TAR", false, GRACE_PLANNER_GRACE, GRACE_REPLICATION_DYNAMIC, GRACE_EXCHANGE_HSC, GRACE_ROUTE_TAR},
};
enum { N_RUNGS = sizeof rungs / sizeof *rungs, FILES_MAX = GR_LADDER_DOMAINS_MAX, REPEAT_MAX = 99 };

typedef struct arguments {
    gr_run_options run;
    const char *trace, *plans, *output, *commit, *command;
    const char *files[FILES_MAX];
    int32_t n_files, sequences, prefill, decode, repeat;
    gr_documents documents;
} arguments;

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT: state->child_inputs[0] = &a->run; break;
    case KEY_TRACE: a->trace = arg; break;
    case KEY_SEQUENCES: a->sequences = (int32_t)gr_arg_int(state, "sequences", arg, 1, 1 << 15); break;
    case KEY_PREFILL: a->prefill = (int32_t)gr_arg_int(state, "prefill", arg, 1, 1 << 15); break;
    case KEY_DECODE: a->decode = (int32_t)gr_arg_int(state, "decode", arg, 0, 1 << 20); break;
    case KEY_REPEAT: a->repeat = (int32_t)gr_arg_int(state, "repeat", arg, 1, REPEAT_MAX); break;
    case KEY_DOCUMENTS: a->documents = (gr_documents)gr_arg_choice(state, "documents", arg, gr_documents_names, 3); break;
    case KEY_PLANS: a->plans = arg; break;
    case KEY_COMMIT: a->commit = arg; break;
    case KEY_COMMAND: a->command = arg; break;
    case 'o': a->output = arg; break;
    case ARGP_KEY_ARG:
        if (a->n_files == FILES_MAX) argp_error(state, "more than %d text files", FILES_MAX);
        a->files[a->n_files++] = arg;
        break;
    case ARGP_KEY_END:
        if (!a->trace) argp_error(state, "expected --trace");
        if (a->n_files == 0) argp_error(state, "expected text files, one per domain");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* ---- what is run ---- */

/* Windows of every file in turn, so that each rank's share has all domains. */
static grace_status pick_batch(const arguments *a, const gr_session *s, char **names, gr_request_list *batch) {
    grace_status st = GRACE_OK;
    gr_request_list all = {0};
    int32_t per_file = (a->sequences + a->n_files - 1) / a->n_files, first[FILES_MAX] = {0};
    gr_corpus_options corpus = {.documents = a->documents, .window = a->prefill, .n_tokens_max = per_file * a->prefill};
    GR_TRY(gr_corpus_requests(&all, s->tokenizer, a->files, a->n_files, &corpus, names));
    while (batch->n < a->sequences) {
        int32_t domain = batch->n % a->n_files, i = first[domain];
        while (i < all.n && (all.items[i].domain != domain || all.items[i].n_prompt != a->prefill)) i++;
        GR_CHECK(i < all.n, GRACE_ERR_ARG, "%s: not enough text for %d windows of %d tokens", a->files[domain], per_file, a->prefill);
        grace_request req = all.items[i];
        int32_t *prompt = (int32_t *)all.items[i].prompt;
        all.items[i].prompt = NULL;
        first[domain] = i + 1;
        req.n_generate = a->decode;
        req.ignore_eos = true;
        GR_TRY(gr_requests_add(batch, &req, prompt));
    }
done:
    gr_requests_free(&all);
    return st;
}

static grace_status submit_all(grace_engine *engine, const gr_request_list *batch) {
    grace_status st = GRACE_OK;
    for (int32_t i = 0; i < batch->n && !st; i++) st = grace_engine_submit(engine, &batch->items[i]);
    return st;
}

/* The same batch in one process by itself: the hash every rung must give in exact mode. */
static grace_status reference_hash(const arguments *a, const gr_session *s, const gr_request_list *batch, uint64_t *hash) {
    grace_status st = GRACE_OK;
    grace_engine *engine = NULL;
    grace_engine_options opt = a->run.engine;
    opt.comm = NULL;
    opt.plan = NULL;
    opt.exact = true;
    opt.n_threads = (int32_t)sysconf(_SC_NPROCESSORS_ONLN);     /* the other ranks wait */
    GR_TRY(grace_engine_open(s->model, &opt, &engine));
    GR_TRY(submit_all(engine, batch));
    GR_TRY(grace_engine_run(engine));
    GR_TRY(grace_engine_collect(engine));
    *hash = grace_engine_logits_hash(engine);
done:
    grace_engine_close(engine);
    return st;
}

static void plan_path(const arguments *a, int i, char *path, size_t size) { snprintf(path, size, "%s/rung-%d.json", a->plans, i); }

/* Rank 0 makes the plans and writes them; everyone reads them. */
static grace_status make_plans(const arguments *a, grace_cluster cluster, gr_ladder *ladder) {
    grace_status st = GRACE_OK;
    grace_trace_reader *trace = NULL;
    grace_plan *plan = NULL;
    GR_TRY(grace_trace_reader_open(a->trace, &trace));
    GR_TRY(grace_profile_stream(trace, NULL, &ladder->profile));
    mkdir(a->plans, 0777);      /* an error shows when the first plan is written */
    for (int i = 0; i < N_RUNGS; i++) {
        grace_plan_options opt = grace_plan_defaults();
        char path[4096];
        opt.planner = rungs[i].planner;
        opt.replication = rungs[i].replication;
        GR_TRY(grace_plan_build(ladder->profile, cluster, &opt, &plan));
        plan_path(a, i, path, sizeof path);
        GR_TRY(grace_plan_save(plan, path));
        grace_plan_free(plan);
        plan = NULL;
    }
done:
    grace_plan_free(plan);
    grace_trace_reader_close(trace);
    return st;
}

/* ---- running a rung ---- */

typedef struct outcome {
    double moe_us, wall_us;
    uint64_t hash;
    gr_json *stats;
} outcome;

static int by_moe(const void *a, const void *b) {
    double x = ((const outcome *)a)->moe_us, y = ((const outcome *)b)->moe_us;
    return (x > y) - (x < y);
}

static grace_status run_once(const arguments *a, gr_session *s, const gr_rung *rung, const grace_plan *plan, bool exact, const gr_request_list *batch,
                             outcome *out, gr_ladder *texts) {
    grace_status st = GRACE_OK;
    grace_engine *engine = NULL;
    grace_engine_options opt = a->run.engine;
    grace_stats stats;
    opt.plan = plan;
    opt.exact = exact;
    opt.exchange = rung->exchange;
    opt.route = rung->route;
    GR_TRY(grace_engine_open(s->model, &opt, &engine));
    GR_TRY(submit_all(engine, batch));
    double start = gr_now_us();
    s->running = true;
    GR_TRY(grace_engine_run(engine));
    out->wall_us = gr_now_us() - start;
    GR_TRY(grace_engine_collect(engine));
    GR_TRY(grace_engine_stats(engine, &stats));
    s->running = false;
    out->moe_us = stats.moe_us;
    out->hash = grace_engine_logits_hash(engine);
    out->stats = gr_stats_json(&stats);
    if (texts && s->rank == 0) st = gr_ladder_take_texts(texts, s->tokenizer, engine, batch);
done:
    grace_engine_close(engine);
    return st;
}

/* The timed runs; afterwards in order of their MoE time. Fast mode must repeat to the bit. */
static grace_status run_timed(const arguments *a, gr_session *s, const gr_rung *rung, const grace_plan *plan, const gr_request_list *batch, outcome *runs) {
    grace_status st = GRACE_OK;
    for (int r = 0; r < a->repeat; r++) {
        GR_TRY(run_once(a, s, rung, plan, false, batch, &runs[r], NULL));
        GR_CHECK(runs[r].hash == runs[0].hash, GRACE_ERR_NUMERIC, "%s: fast mode gave other logits when repeated", rung->name);
    }
    qsort(runs, (size_t)a->repeat, sizeof *runs, by_moe);
done:
    return st;
}

static grace_status run_rung(const arguments *a, gr_session *s, int i, const gr_request_list *batch, gr_ladder *ladder) {
    grace_status st = GRACE_OK;
    grace_plan *plan = NULL;
    outcome runs[REPEAT_MAX] = {0}, exact = {0}, *median = &runs[a->repeat / 2];
    char path[4096];
    gr_json *out = gr_ladder_add_rung(ladder, &rungs[i]);
    plan_path(a, i, path, sizeof path);
    GR_TRY(grace_comm_agree(s->comm, grace_plan_load(path, &plan)));
    GR_TRY(run_timed(a, s, &rungs[i], plan, batch, runs));
    GR_TRY(run_once(a, s, &rungs[i], plan, true, batch, &exact, i + 1 == N_RUNGS ? ladder : NULL));
    gr_ladder_set_stats(out, median->stats);
    gr_ladder_set_times(out, median->moe_us, (runs[a->repeat - 1].moe_us - runs[0].moe_us) / 2, median->wall_us);
    gr_ladder_set_identity(ladder, out, plan, path, exact.hash);
    if (i + 1 == N_RUNGS) {
        ladder->last_plan = plan;
        plan = NULL;
    }
done:
    for (int r = 0; r < a->repeat; r++) gr_json_free(runs[r].stats);
    gr_json_free(exact.stats);
    grace_plan_free(plan);
    return st;
}

static grace_status run_ladder(arguments *a, gr_session *s, int argc, char **argv, gr_ladder *ladder) {
    grace_status st = GRACE_OK;
    gr_request_list batch = {0};
    grace_cluster cluster = grace_comm_cluster(s->comm);
    gr_progress progress = gr_progress_start(s->rank == 0 ? "ladder" : NULL, "rungs", N_RUNGS);
    GR_TRY(grace_comm_agree(s->comm, pick_batch(a, s, ladder->domains, &batch)));
    GR_TRY(grace_comm_agree(s->comm, s->rank == 0 ? make_plans(a, cluster, ladder) : GRACE_OK));
    GR_TRY(grace_comm_agree(s->comm, s->rank == 0 ? reference_hash(a, s, &batch, &ladder->reference) : GRACE_OK));
    for (int i = 0; i < N_RUNGS; i++) {
        GR_TRY(run_rung(a, s, i, &batch, ladder));
        gr_progress_update(&progress, i + 1);
    }
    gr_progress_end(&progress);
    if (s->rank == 0) {
        gr_ladder_head head = {.argc = argc, .argv = argv, .commit = a->commit, .command = a->command, .cluster = cluster, .sequences = a->sequences,
                               .prefill = a->prefill, .decode = a->decode, .repeat = a->repeat};
        GR_TRY(gr_ladder_finish(ladder, s->model, &head, a->output, a->run.json));
    }
done:
    gr_requests_free(&batch);
    return st;
}

int gr_bench_ladder_main(int argc, char **argv) {
    static const struct argp_child children[] = {{&gr_run_argp, 0, 0, 0}, {0}};
    static const struct argp argp = {options, parse, "TEXT_FILE...", "Run a batch through the plans, exchanges and policies of the paper's Table 1.",
                                     children, 0, 0};
    arguments a = {.run = gr_run_defaults(), .plans = "plans", .output = "ladder.json", .sequences = 64, .prefill = 64, .decode = 16, .repeat = 1,
                   .documents = GR_DOCUMENTS_ODD};
    gr_session session;
    gr_ladder ladder = {0};
    int code;
    a.run.deadline_s = 120;         /* rank 0 makes the plans and the reference while the others wait */
    gr_arg_parse(&argp, 3, argc, argv, &a);
    if (gr_session_relaunch(&a.run, argc, argv, &code)) return code;
    grace_status st = gr_session_open(&a.run, &session);
    if (!st) st = run_ladder(&a, &session, argc, argv, &ladder);
    gr_ladder_free(&ladder);
    return gr_session_close(&session, st);
}
