/* grace profile: text samples to a routing trace, and what it shows. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/status.h"
#include "cli.h"

enum { KEY_TOKENS = 0x200, KEY_WINDOW, KEY_DOCUMENTS, KEY_WEIGHTS };

static const struct argp_option options[] = {
    {0, 0, 0, 0, "Profiling:", 5},
    {"output", 'o', "FILE", 0, "the trace (default profile.trace)", 5},
    {"tokens", KEY_TOKENS, "N", 0, "tokens per file (default 0: all)", 5},
    {"window", KEY_WINDOW, "N", 0, "tokens of a sequence (default 512, or the model's context if that is shorter)", 5},
    {"weights", KEY_WEIGHTS, "KIND", 0, "keep gate weights too: none (default), u8 (for weights from 0 to 1) or f16", 5},
    {"documents", KEY_DOCUMENTS, "WHICH", 0, "all (default), even or odd ones of each file; byte 0x1e separates documents", 5},
    {0},
};

typedef struct arguments {
    gr_run_options run;
    gr_corpus_options corpus;
    const char *output;
    const char *files[64];
    int32_t n_files;
} arguments;

static error_t parse(int key, char *arg, struct argp_state *state) {
    static const char *const weights[] = {"none", "u8", "f16"};
    arguments *a = state->input;
    switch (key) {
    case ARGP_KEY_INIT: state->child_inputs[0] = &a->run; break;
    case 'o': a->output = arg; break;
    case KEY_TOKENS: a->corpus.n_tokens_max = (int32_t)gr_arg_int(state, "tokens", arg, 0, 1 << 30); break;
    case KEY_WINDOW: a->corpus.window = (int32_t)gr_arg_int(state, "window", arg, 2, 1 << 20); break;
    case KEY_WEIGHTS: a->run.engine.trace_weights = (grace_trace_weights)gr_arg_choice(state, "weights", arg, weights, GRACE_N_WEIGHTS); break;
    case KEY_DOCUMENTS: a->corpus.documents = (gr_documents)gr_arg_choice(state, "documents", arg, gr_documents_names, 3); break;
    case ARGP_KEY_ARG:
        if (a->n_files == (int32_t)(sizeof a->files / sizeof *a->files)) argp_error(state, "more than %d text files", a->n_files);
        a->files[a->n_files++] = arg;
        break;
    case ARGP_KEY_END:
        if (a->n_files == 0) argp_error(state, "expected at least one text file; each is a domain");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static grace_status run_all(gr_session *s, grace_engine *engine, const gr_request_list *list) {
    grace_status st = GRACE_OK;
    double tokens = 0;
    for (int32_t i = 0; i < list->n; i++) {
        GR_TRY(grace_engine_submit(engine, &list->items[i]));
        tokens += list->items[i].n_prompt;
    }
    s->running = true;
    GR_TRY(gr_run_showing(engine, s->rank == 0 ? "profiling" : NULL, tokens));
    s->running = false;
done:
    return st;
}

/* Highest load over the mean, and how often an expert's best partner fires with it, averaged over a layer's experts. */
static void layer_numbers(const grace_profile *p, int32_t layer, double *max_over_mean, double *best_partner) {
    int32_t n = p->info.n_experts, used = 0;
    const double *load = p->load + (int64_t)layer * n, *affinity = p->affinity + (int64_t)layer * n * n;
    double sum = 0, most = 0, partners = 0;
    for (int32_t i = 0; i < n; i++) {
        double best = 0;
        sum += load[i];
        if (load[i] > most) most = load[i];
        for (int32_t j = 0; j < n; j++)
            if (affinity[(int64_t)i * n + j] > best) best = affinity[(int64_t)i * n + j];
        if (load[i] > 0) partners += best / load[i], used++;
    }
    *max_over_mean = sum > 0 ? most * n / sum : 0;
    *best_partner = used ? partners / used : 0;
}

static grace_status show(const arguments *a, grace_trace_reader *reader) {
    grace_status st = GRACE_OK;
    grace_profile *p = NULL;
    gr_json *o = gr_json_new_object(), *layers = gr_json_new_array();
    const grace_trace *trace = grace_trace_reader_head(reader);
    GR_TRY(grace_profile_stream(reader, NULL, &p));
    if (!a->run.json) printf("%s: %lld tokens of %d sequences, %d layers, %d experts, top %d\nlayer  max/mean load  best partner\n", a->output,
                             (long long)p->n_tokens, grace_trace_n_sequences(trace), p->info.n_layers, p->info.n_experts, p->info.top_k);
    for (int32_t l = 0; l < p->info.n_layers; l++) {
        double skew, partner;
        gr_json *layer = gr_json_new_object();
        layer_numbers(p, l, &skew, &partner);
        gr_json_set_real(layer, "load_max_over_mean", skew);
        gr_json_set_real(layer, "best_partner", partner);
        gr_json_push(layers, layer);
        if (!a->run.json) printf("%5d  %13.2f  %11.0f %%\n", l, skew, 100 * partner);
    }
    gr_json_set_string(o, "trace", a->output);
    gr_json_set_int(o, "tokens", p->n_tokens);
    gr_json_set_int(o, "sequences", grace_trace_n_sequences(trace));
    gr_json_set(o, "layers", layers);
    layers = NULL;
    if (a->run.json) {
        st = gr_print_json(o);
        o = NULL;
    }
done:
    gr_json_free(layers);
    gr_json_free(o);
    grace_profile_free(p);
    return st;
}

static grace_status show_file(const arguments *a) {
    grace_trace_reader *reader = NULL;
    grace_status st = grace_trace_reader_open(a->output, &reader);
    if (!st) st = show(a, reader);
    grace_trace_reader_close(reader);
    return st;
}

static grace_status profile(arguments *a, gr_session *s, char **names) {
    grace_status st = GRACE_OK;
    gr_request_list list = {0};
    grace_engine *engine = NULL;
    int32_t context = grace_model_describe(s->model)->context_max;
    if (a->corpus.window == 0) a->corpus.window = context < 512 ? context : 512;
    GR_TRY(grace_comm_agree(s->comm, gr_corpus_requests(&list, s->tokenizer, a->files, a->n_files, &a->corpus, names)));
    a->run.engine.trace_path = a->output;
    a->run.engine.trace_domains = (const char *const *)names;
    a->run.engine.n_trace_domains = a->n_files;
    GR_TRY(gr_open_showing(s, &a->run.engine, &engine));
    GR_TRY(run_all(s, engine, &list));
    GR_TRY(grace_comm_agree(s->comm, s->rank == 0 ? show_file(a) : GRACE_OK));
done:
    grace_engine_close(engine);
    gr_requests_free(&list);
    return st;
}

int gr_cmd_profile(int argc, char **argv) {
    static const struct argp_child children[] = {{&gr_run_argp, 0, 0, 0}, {0}};
    static const struct argp argp = {options, parse, "TEXT_FILE...", "Run text through a model and record which experts fire: one file per domain.",
                                     children, 0, 0};
    arguments a = {.run = gr_run_defaults(), .corpus = {GR_DOCUMENTS_ALL, 0, 0}, .output = "profile.trace"};
    gr_session session;
    char *names[64] = {0};
    int code;
    gr_arg_parse(&argp, 2, argc, argv, &a);
    if (gr_session_relaunch(&a.run, argc, argv, &code)) return code;
    grace_status st = gr_session_open(&a.run, &session);
    if (!st) st = profile(&a, &session, names);
    for (int32_t i = 0; i < a.n_files; i++) free(names[i]);
    return gr_session_close(&session, st);
}
