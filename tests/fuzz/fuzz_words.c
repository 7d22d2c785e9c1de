/* Any bytes as words of a command line, as texts in them, or as what the environment says: the first byte says which. What is taken is within the bounds
 * that the messages name, and comes back when it is written again. */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/status.h"
#include "chat.h"
#include "cli.h"
#include "comm/launcher.h"
#include "grace/sim.h"
#include "launch.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

enum { OPTIONS, CLUSTER, SELECTION, SHAPE, RANKS, ENVIRONMENT, N_KINDS, WORDS_MAX = 32 };

/* ---- options: a usage error ends the program, here it is remembered ---- */

static bool is_usage_error;

void argp_error(const struct argp_state *state, const char *format, ...) {
    (void)state, (void)format;
    is_usage_error = true;
}

typedef struct inputs { gr_run_options run; gr_chat_options chat; } inputs;

static error_t hand_on(int key, char *arg, struct argp_state *state) {
    inputs *in = state->input;
    (void)arg;
    if (key != ARGP_KEY_INIT) return ARGP_ERR_UNKNOWN;
    state->child_inputs[0] = state->child_inputs[1] = &in->run;
    state->child_inputs[2] = &in->chat;
    return 0;
}

static void check_options(const gr_run_options *o) {
    const grace_engine_options *e = &o->engine;
    GR_ASSERT(o->model && (!o->wire || o->ranks) && (!o->route_tokens || o->route_trace));
    GR_ASSERT(o->n_nodes >= 0 && o->n_nodes <= GRACE_RANKS_MAX && o->deadline_s >= 0.1 && o->deadline_s <= 86400);
    GR_ASSERT(e->n_threads >= 0 && e->n_threads <= 1024 && e->kv_tokens >= 1 && e->n_tokens_max >= 1 && e->n_tokens_max <= 1 << 20);
    GR_ASSERT(e->exchange <= GRACE_EXCHANGE_HSC && e->route < GRACE_N_ROUTES && e->homes < GRACE_N_HOMES);
}

static void read_options(char **words, int n) {
    static const struct argp_child children[] = {{&gr_run_argp, 0, 0, 0}, {&gr_made_argp, 0, 0, 0}, {&gr_chat_argp, 0, 0, 0}, {0}};
    static const struct argp argp = {NULL, hand_on, 0, 0, children, 0, 0};
    inputs in = {.run = gr_run_defaults()};
    is_usage_error = false;
    if (argp_parse(&argp, n, words, ARGP_NO_EXIT | ARGP_NO_ERRS | ARGP_NO_HELP, NULL, &in) == 0 && !is_usage_error) check_options(&in.run);
    gr_chat_options_free(&in.chat);
}

/* ---- texts ---- */

static void read_cluster(const char *text) {
    grace_cluster c, again;
    char written[64];
    if (grace_cluster_parse(text, &c)) return;
    GR_ASSERT(c.n_nodes >= 1 && c.gpus_per_node >= 1 && grace_cluster_ranks(c) <= GRACE_RANKS_MAX);
    snprintf(written, sizeof written, "%dx%d", c.n_nodes, c.gpus_per_node);
    GR_ASSERT(grace_cluster_parse(written, &again) == GRACE_OK && again.n_nodes == c.n_nodes && again.gpus_per_node == c.gpus_per_node);
}

static void read_selection(const char *text) {
    grace_selection s, again;
    char written[320];
    if (grace_selection_parse(text, &s)) return;
    grace_selection_format(&s, written, sizeof written);
    GR_ASSERT(grace_selection_parse(written, &again) == GRACE_OK && again.sequences == s.sequences && strcmp(again.domains, s.domains) == 0);
    (void)grace_selections_disjoint(&s, &again);
}

static void read_shape(const char *text) {
    const grace_trace_info like = {.n_layers = 16, .n_experts = 64, .top_k = 8};
    grace_shape s;
    if (grace_shape_parse(text, &like, &s)) return;
    GR_ASSERT(s.hidden >= 1 && s.expert_width >= 1 && s.n_layers >= 1 && s.n_moe_layers >= 1 && s.n_moe_layers <= s.n_layers);
    GR_ASSERT(s.top_k >= 1 && s.top_k <= s.n_experts && s.weight_bytes >= 0 && s.kv_values <= 1e15);
}

static void read_ranks(const char *text) {
    int n_ranks, n_nodes;
    if (gr_launch_parse(text, &n_ranks, &n_nodes)) return;
    GR_ASSERT(n_nodes >= 1 && n_ranks >= n_nodes && n_ranks % n_nodes == 0);
}

/* ---- the environment of a rank ---- */

static const char *const variables[] = {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE", "TORCHELASTIC_RUN_ID",
                                        "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_JOB_ID",
                                        "SLURM_STEP_ID", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "GRACE_JOB"};
enum { N_VARIABLES = sizeof variables / sizeof *variables };

static void read_environment(char **words, int n) {
    static const grace_transport asked[] = {GRACE_TRANSPORT_AUTO, GRACE_TRANSPORT_TCP};
    gr_launcher l;
    for (int i = 0; i < N_VARIABLES; i++) {
        if (i < n && words[i][0]) setenv(variables[i], words[i], 1);
        else unsetenv(variables[i]);
    }
    for (int i = 0; i < 2; i++)
        if (gr_launcher_find(asked[i], &l) == GRACE_OK && l.transport == GRACE_TRANSPORT_TCP) {
            GR_ASSERT(l.n_ranks >= 1 && l.rank >= 0 && l.rank < l.n_ranks && memchr(l.host, 0, sizeof l.host));
            GR_ASSERT(l.n_ranks == 1 || (l.host[0] && l.port > 0));
        }
    const gr_launched_job job = gr_launch_job();
    GR_ASSERT(job.n_nodes >= 0 && memchr(job.wire, 0, sizeof job.wire));
    for (int i = 0; i < N_VARIABLES; i++) unsetenv(variables[i]);
}

/* ---- the target ---- */

/* Parts between zero bytes; *copy is the caller's to free. words[n] is NULL. */
static int cut_words(const uint8_t *data, size_t n, char **copy, char *words[WORDS_MAX + 2]) {
    static char program[] = "grace";
    int n_words = 0;
    *copy = malloc(n + 1);
    GR_ASSERT(*copy);
    memcpy(*copy, data, n);
    (*copy)[n] = 0;
    words[n_words++] = program;
    for (char *at = *copy; at < *copy + n && n_words <= WORDS_MAX; at += strlen(at) + 1) words[n_words++] = at;
    words[n_words] = NULL;
    return n_words;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    char *copy, *words[WORDS_MAX + 2];
    if (n < 1) return 0;
    const int n_words = cut_words(data + 1, n - 1, &copy, words);
    switch (data[0] % N_KINDS) {
    case OPTIONS: read_options(words, n_words); break;
    case CLUSTER: read_cluster(copy); break;
    case SELECTION: read_selection(copy); break;
    case SHAPE: read_shape(copy); break;
    case RANKS: read_ranks(copy); break;
    default: read_environment(words + 1, n_words - 1); break;
    }
    free(copy);
    return 0;
}
