/* grace inspect: what is in a model folder, a trace, or a plan. */
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/status.h"
#include "cli.h"

enum { KEY_JSON = 0x200 };

static const struct argp_option options[] = {{"json", KEY_JSON, 0, 0, "print one JSON object", 0}, {0}};

typedef struct arguments { const char *path; bool json; } arguments;

static error_t parse(int key, char *arg, struct argp_state *state) {
    arguments *a = state->input;
    switch (key) {
    case KEY_JSON: a->json = true; break;
    case ARGP_KEY_ARG:
        if (a->path) argp_error(state, "expected one path, found '%s' too", arg);
        a->path = arg;
        break;
    case ARGP_KEY_END:
        if (!a->path) argp_error(state, "expected a model folder, a trace or a plan");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

/* One list of facts serves both outputs. */
static grace_status print_facts(const arguments *a, gr_json *facts) {
    if (a->json) return gr_print_json(facts);
    for (const gr_json_member *m = gr_json_first(facts); m; m = gr_json_next(facts, m)) {
        const gr_json *v = gr_json_value(m);
        const char *text;
        double number;
        bool truth;
        if (gr_json_is_string(v, &text, NULL)) printf("%-18s %s\n", gr_json_key(m), text);
        else if (gr_json_is_bool(v, &truth)) printf("%-18s %s\n", gr_json_key(m), truth ? "yes" : "no");
        else if (gr_json_is_real(v, &number)) printf("%-18s %.15g\n", gr_json_key(m), number);
    }
    gr_json_free(facts);
    return GRACE_OK;
}

static grace_status inspect_model(const arguments *a) {
    grace_status st = GRACE_OK;
    grace_model *model = NULL;
    GR_TRY(grace_model_open(a->path, &model));
    const grace_model_info *m = grace_model_describe(model);
    gr_json *o = gr_json_new_object();
    gr_json_set_string(o, "kind", "model");
    gr_json_set_string(o, "family", m->family);
    gr_json_set_int(o, "parameters", m->n_params);
    gr_json_set_int(o, "active", m->n_params_active);
    gr_json_set_int(o, "bytes", m->n_bytes);
    gr_json_set_int(o, "layers", m->n_layers);
    gr_json_set_int(o, "moe_layers", m->n_moe_layers);
    gr_json_set_int(o, "experts", m->n_experts);
    gr_json_set_int(o, "top_k", m->top_k);
    gr_json_set_int(o, "hidden", m->hidden);
    gr_json_set_int(o, "expert_width", m->expert_width);
    gr_json_set_int(o, "heads", m->n_heads);
    gr_json_set_int(o, "kv_heads", m->n_kv_heads);
    gr_json_set_int(o, "head_dim", m->head_dim);
    gr_json_set_int(o, "vocabulary", m->vocab);
    gr_json_set_int(o, "context", m->context_max);
    gr_json_set_int(o, "kv_token_bytes", grace_model_kv_token_bytes(m));
    gr_json_set_hex(o, "fingerprint", m->fingerprint);
    st = print_facts(a, o);
done:
    grace_model_close(model);
    return st;
}

typedef struct token_counts { int64_t phase[GRACE_N_PHASES], n_tokens, n_segments; } token_counts;

static grace_status count_tokens(grace_trace_reader *reader, token_counts *n) {
    grace_status st = GRACE_OK;
    const grace_trace *piece = NULL;
    for (;;) {
        GR_TRY(grace_trace_reader_next(reader, &piece));
        if (!piece) break;
        for (int32_t s = 0; s < grace_trace_n_segments(piece); s++) {
            grace_trace_segment seg = grace_trace_segment_at(piece, s);
            n->phase[seg.phase] += seg.n_tokens;
        }
        n->n_segments += grace_trace_n_segments(piece);
        n->n_tokens += grace_trace_n_tokens(piece);
    }
done:
    return st;
}

static grace_status inspect_trace(const arguments *a) {
    static const char *const weights[GRACE_N_WEIGHTS] = {"none", "u8", "f16"};
    grace_status st = GRACE_OK;
    grace_trace_reader *reader = NULL;
    token_counts n = {0};
    char names[512] = "";
    GR_TRY(grace_trace_reader_open(a->path, &reader));
    GR_TRY(count_tokens(reader, &n));
    const grace_trace *trace = grace_trace_reader_head(reader);
    const grace_trace_info *t = grace_trace_describe(trace);
    gr_json *o = gr_json_new_object();
    for (int32_t d = 0; d < grace_trace_n_domains(trace); d++)
        snprintf(names + strlen(names), sizeof names - strlen(names), "%s%s", d ? " " : "", grace_trace_domain(trace, d));
    gr_json_set_string(o, "kind", "trace");
    gr_json_set_string(o, "model", t->model);
    gr_json_set_hex(o, "fingerprint", t->fingerprint);
    gr_json_set_int(o, "moe_layers", t->n_layers);
    gr_json_set_int(o, "experts", t->n_experts);
    gr_json_set_int(o, "top_k", t->top_k);
    gr_json_set_int(o, "ranks", t->n_ranks);
    gr_json_set_int(o, "nodes", t->n_nodes);
    gr_json_set_int(o, "vocab", t->vocab);
    gr_json_set_string(o, "weights", weights[t->weights]);
    gr_json_set_bool(o, "synthetic", t->synthetic);
    gr_json_set_int(o, "tokens", n.n_tokens);
    gr_json_set_int(o, "tokens_prefill", n.phase[GRACE_PHASE_PREFILL]);
    gr_json_set_int(o, "tokens_decode", n.phase[GRACE_PHASE_DECODE]);
    gr_json_set_int(o, "sequences", grace_trace_n_sequences(trace));
    gr_json_set_int(o, "segments", n.n_segments);
    gr_json_set_string(o, "domains", names);
    gr_json_set_bool(o, "truncated", grace_trace_reader_truncated(reader));
    st = print_facts(a, o);
done:
    grace_trace_reader_close(reader);
    return st;
}

static void put_origin(gr_json *o, const grace_origin *from) {
    char tokens[320];
    grace_selection_format(&from->which, tokens, sizeof tokens);
    gr_json_set_string(o, "planned_from", from->file);
    gr_json_set_string(o, "planned_from_tokens", tokens);
    gr_json_set_int(o, "planned_from_n_tokens", from->n_tokens);
    gr_json_set_bool(o, "planned_from_synthetic", from->synthetic);
}

static grace_status inspect_plan(const arguments *a) {
    grace_status st = GRACE_OK;
    grace_plan *plan = NULL;
    char cluster[48];
    int64_t slots = 0;
    int32_t most = 0;
    GR_TRY(grace_plan_load(a->path, &plan));
    for (int32_t l = 0; l < plan->n_layers; l++) {
        slots += plan->layers[l].n_slots;
        for (int32_t r = 0; r < grace_cluster_ranks(plan->cluster); r++) {
            int32_t n = plan->layers[l].first_slot[r + 1] - plan->layers[l].first_slot[r];
            if (n > most) most = n;
        }
    }
    snprintf(cluster, sizeof cluster, "node:%d gpu:%d", plan->cluster.n_nodes, plan->cluster.gpus_per_node);
    gr_json *o = gr_json_new_object();
    gr_json_set_string(o, "kind", "plan");
    gr_json_set_string(o, "planner", plan->planner);
    gr_json_set_string(o, "grouping", plan->grouping);
    gr_json_set_string(o, "replication", plan->replication);
    gr_json_set_string(o, "cluster", cluster);
    gr_json_set_hex(o, "fingerprint", plan->fingerprint);
    gr_json_set_int(o, "moe_layers", plan->n_layers);
    gr_json_set_int(o, "experts", plan->n_experts);
    gr_json_set_int(o, "top_k", plan->top_k);
    gr_json_set_int(o, "slots", slots);
    gr_json_set_int(o, "replicas", slots - (int64_t)plan->n_layers * plan->n_experts);
    gr_json_set_int(o, "slots_per_rank_max", most);
    gr_json_set_real(o, "ratio", plan->r);
    put_origin(o, &plan->planned_from);
    st = print_facts(a, o);
done:
    grace_plan_free(plan);
    return st;
}

/* A folder with config.json is a model, with meta.json a trace; a file that begins with '{' is a plan, any other a trace. */
static grace_status inspect(const arguments *a) {
    grace_status st = GRACE_OK;
    struct stat info;
    gr_file file = {0};
    char config[PATH_MAX];
    GR_TRY(gr_path_join(config, sizeof config, a->path, "config.json"));
    if (stat(a->path, &info) == 0 && S_ISDIR(info.st_mode)) return access(config, R_OK) == 0 ? inspect_model(a) : inspect_trace(a);
    GR_TRY(gr_file_map(a->path, &file));
    bool plan = file.n > 0 && *(const char *)file.data == '{';
    gr_file_unmap(&file);
    st = plan ? inspect_plan(a) : inspect_trace(a);
done:
    return st;
}

int gr_cmd_inspect(int argc, char **argv) {
    static const struct argp argp = {options, parse, "PATH", "Show what is in a model folder, a trace or a plan.", 0, 0, 0};
    arguments a = {0};
    gr_arg_parse(&argp, 2, argc, argv, &a);
    grace_status st = inspect(&a);
    if (st) fprintf(stderr, "grace: %s\n", grace_last_error());
    return st ? 1 : 0;
}
