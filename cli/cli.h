/* What the commands share: options of the engine, the session they open, output. */
#ifndef GRACE_CLI_H
#define GRACE_CLI_H
#include <argp.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"
#include "grace/grace.h"

/* Commands: one file each; argv[0] is "grace NAME". They return the exit code: 0, 1 (failed; the message is on stderr), 64 (usage). */
int gr_cmd_run(int argc, char **argv);
int gr_cmd_profile(int argc, char **argv);
int gr_cmd_plan(int argc, char **argv);
int gr_cmd_sim(int argc, char **argv);
int gr_cmd_bench(int argc, char **argv);
int gr_cmd_report(int argc, char **argv);
int gr_cmd_inspect(int argc, char **argv);
int gr_cmd_tokenize(int argc, char **argv);
int gr_cmd_pull(int argc, char **argv);

/* ---- options of everything that runs a model (options.c) ---- */
typedef struct gr_run_options {
    const char *model;              /* -m */
    const char *ranks;              /* --ranks 2x2: start that many ranks; NULL: this process as it is */
    const char *wire;               /* --wire RATE: nodes in network namespaces, joined at that rate */
    const char *plan;               /* --plan FILE */
    int32_t n_nodes;                /* --nodes; 0: as the launcher says */
    grace_transport transport;      /* --transport; AUTO */
    double deadline_s;
    bool json, verbose;
    bool random;                    /* --random-weights: model is a folder with a config.json only */
    uint64_t random_seed;
    const char *route_trace, *route_tokens;     /* --route-trace, --route-tokens as they were written; NULL: not given */
    const char *for_cuda, *for_cpu; /* an option that was given and means something on cuda only, on cpu only; NULL: none */
    grace_engine_options engine;    /* exchange, route, exact, sizes, threads, simd */
} gr_run_options;

extern const struct argp gr_run_argp;       /* child parser; its input is a gr_run_options */
extern const struct argp gr_made_argp;      /* one more, of commands that can do without weights: or routers: --random-weights,
                                             * --route-trace; the same input */
gr_run_options gr_run_defaults(void);
/* argp_parse() of what follows the first N words of the command line, by which messages name the program ("grace run": 2). Exits with 64
 * after a usage error, with 0 after --help. */
void gr_arg_parse(const struct argp *argp, int n_words, int argc, char **argv, void *input);
/* A number option within bounds, or a usage error naming both. option is without its dashes. */
double gr_arg_number(struct argp_state *state, const char *option, const char *text, double min, double max);
int64_t gr_arg_int(struct argp_state *state, const char *option, const char *text, int64_t min, int64_t max);
/* The index of text in names [n], or a usage error that lists them. */
int gr_arg_choice(struct argp_state *state, const char *option, const char *text, const char *const *names, int n);
extern const char *const gr_device_names[2];        /* "cpu", "cuda" */
const char *gr_exchange_name(grace_exchange exchange);
const char *gr_route_name(grace_route route);
const char *gr_homes_name(grace_homes homes);

/* ---- session: ranks, model, tokenizer, plan (session.c) ---- */
typedef struct gr_session {
    grace_comm *comm;
    grace_model *model;
    grace_tokenizer *tokenizer;     /* NULL with random weights */
    grace_plan *plan;               /* --plan, or NULL */
    grace_trace *route_trace;       /* --route-trace, or NULL */
    int32_t rank, n_ranks;
    bool running;                   /* set once the ranks run on their own: from here a failing rank speaks for itself */
} gr_session;

/* --ranks in a process that no launcher started: run ourselves under mpirun. true: done, *exit_code holds its result. */
bool gr_session_relaunch(const gr_run_options *opt, int argc, char **argv, int *exit_code);
/* Collective. opt->engine.comm, .plan and .route_trace are filled in. */
grace_status gr_session_open(gr_run_options *opt, gr_session *s);
/* Prints the message of a failure once, ends the other ranks if they may be waiting, closes everything. Returns the exit code. */
int gr_session_close(gr_session *s, grace_status st);

/* From catch to release, SIGINT and SIGTERM say where a recording's tokens are, or remove its empty file, before they end the process (interrupt.c). */
void gr_interrupt_catch(void);
void gr_interrupt_release(void);

/* ---- what is made instead of read (made.c): every command that has gr_made_argp says it first, on stdout or in its object, on rank 0 ---- */
void gr_made_print(const gr_session *s, const gr_run_options *opt);     /* "(random weights, seed S; routing of ...)", or nothing */
void gr_made_json(gr_json *o, const gr_session *s, const gr_run_options *opt);      /* "weights": "random weights, seed S", "routing": "routing of ..." */

/* ---- requests from the command line (requests.c) ---- */
typedef struct gr_request_list {
    grace_request *items;           /* prompts belong to the list */
    int32_t n, capacity;
} gr_request_list;

grace_status gr_requests_add(gr_request_list *list, const grace_request *req, int32_t *prompt);    /* takes prompt, also on failure */
grace_status gr_requests_add_text(gr_request_list *list, const grace_tokenizer *tok, const grace_request *defaults, const char *text);
/* A text that a chat template made: its beginning token, if any, is in it already. */
grace_status gr_requests_add_chat(gr_request_list *list, const grace_tokenizer *tok, const grace_request *defaults, const char *text);
/* One request a line: plain text, or an object {"prompt": "...", "n": 16, "temperature": 0, "top_p": 1, "top_k": 0, "seed": 0, "ignore_eos": false}. */
grace_status gr_requests_add_file(gr_request_list *list, const grace_tokenizer *tok, const grace_request *defaults, const char *path);
/* One request a line: token ids, separated by blanks or commas. */
grace_status gr_requests_add_ids(gr_request_list *list, const grace_request *defaults, const char *path);
/* n requests of n_prompt ids below vocab; request i's are drawn from defaults->seed + i. */
grace_status gr_requests_add_random(gr_request_list *list, const grace_request *defaults, int32_t n, int32_t n_prompt, int32_t vocab);
void gr_requests_free(gr_request_list *list);

/* ---- text samples cut into windows (corpus.c) ---- */
typedef enum gr_documents { GR_DOCUMENTS_ALL, GR_DOCUMENTS_EVEN, GR_DOCUMENTS_ODD } gr_documents;
extern const char *const gr_documents_names[3];     /* "all", "even", "odd" */
typedef struct gr_corpus_options {
    gr_documents documents;         /* of the documents of each file, separated by byte 0x1e */
    int32_t window;                 /* tokens of a sequence; the rest of a document shorter than half of it is left out */
    int32_t n_tokens_max;           /* per file; 0: all. Taken evenly: the first window of every document, then the second, ... */
} gr_corpus_options;
/* Windows of the files become requests without generation, domain = index of the file. names [n_files] get each file's domain name
 * (its base name without ending), malloc'ed. */
grace_status gr_corpus_requests(gr_request_list *list, const grace_tokenizer *tok, const char *const *files, int32_t n_files,
                                const gr_corpus_options *opt, char **names);

/* ---- output ---- */
const char *gr_time_name(int which);                                    /* GRACE_TIME_... in words (stats.c) */
gr_json *gr_stats_json(const grace_stats *stats);                       /* stats.c; the caller owns it */
/* What an engine counted between two calls of grace_engine_stats(): rows, bytes, times. The arrays of before are not read. */
gr_json *gr_stats_between_json(const grace_stats *before, const grace_stats *after);
gr_json *gr_links_json(const grace_link_count counts[GRACE_N_STAGES][GRACE_N_LINKS]);
gr_json *gr_matrix_json(const int64_t *values, int32_t rows, int32_t cols);
grace_status gr_print_json(gr_json *object);                            /* stdout, frees it */

/* A progress line on a terminal's stderr, from the third second on: label, bar, rate in units (NULL: none), time left. label NULL: silent. (progress.c) */
typedef struct gr_progress { const char *label, *unit; double total, started_us, shown_us; bool terminal; } gr_progress;
gr_progress gr_progress_start(const char *label, const char *unit, double total);
void gr_progress_update(gr_progress *p, double done);
void gr_progress_end(gr_progress *p);
/* grace_engine_open() with a progress line of rank 0 while weights come in. Collective. */
grace_status gr_open_showing(const gr_session *s, const grace_engine_options *opt, grace_engine **out);
/* grace_engine_run() with a progress line of `tokens` in all. Collective; label NULL: silent. */
grace_status gr_run_showing(grace_engine *engine, const char *label, double tokens);

#endif
