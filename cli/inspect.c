/* grace inspect: what is in a model folder, a record of routing, or a plan. */
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "base/status.h"
#include "inspect.h"
#include "interop/interop.h"
#include "plan/layer_ids.h"

enum { KEY_JSON = 0x200, KEY_CLUSTER, KEY_PLAN, KEY_MEMORY, KEY_KV, KEY_DEVICE };

static const struct argp_option options[] = {
    {"json", KEY_JSON, 0, 0, "print one JSON object", 0},
    {0, 0, 0, 0, "Memory of a model's ranks:", 1},
    {"cluster", KEY_CLUSTER, "NxG", 0, "of that many nodes x ranks (default: one rank, or the plan's)", 1},
    {"plan", KEY_PLAN, "FILE", 0, "placement made by 'grace plan' (default: contiguous)", 1},
    {"kv-tokens", KEY_KV, "N", 0, "KV cache of a rank, in tokens (default 16384)", 1},
    {"device", KEY_DEVICE, "NAME", 0, "cpu (default), whose cache is float32, or cuda: bf16, half of it", 1},
    {"memory", KEY_MEMORY, "GIB", 0, "what a rank has: does it fit, and what is left or missing", 1},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    gr_inspect_options *a = state->input;
    switch (key) {
    case KEY_JSON: a->json = true; break;
    case KEY_CLUSTER: a->cluster = arg; break;
    case KEY_PLAN: a->plan = arg; break;
    case KEY_MEMORY: a->memory = (int64_t)(gr_arg_number(state, "memory", arg, 1e-6, 1e6) * 0x1p30); break;
    case KEY_DEVICE: a->on_cuda = gr_arg_choice(state, "device", arg, gr_device_names, 2) == 1; break;
    case KEY_KV: a->kv_tokens = gr_arg_int(state, "kv-tokens", arg, 1, INT64_C(1) << 33); break;
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

/* Bytes too many to read get their size in GiB beside them. */
static void print_number(const char *key, double number) {
    const size_t n = strlen(key), n_bytes = strlen("bytes");
    bool large = number >= 0x1p20 && n >= n_bytes && strcmp(key + n - n_bytes, "bytes") == 0;
    printf("%-18s %.15g", key, number);
    if (large) printf(" (%.4g GiB)", number * 0x1p-30);
    printf("\n");
}

/* What a file calls itself and its parts. */
static void print_text(const char *key, const char *text) {
    char *shown = strdup(text);
    if (shown) gr_printable(shown);
    printf("%-18s %s\n", key, shown ? shown : "");
    free(shown);
}

grace_status gr_print_facts(const gr_inspect_options *a, gr_json *facts) {
    if (a->json) return gr_print_json(facts);
    for (const gr_json_member *m = gr_json_first(facts); m; m = gr_json_next(facts, m)) {
        const gr_json *v = gr_json_value(m);
        const char *text;
        double number;
        bool truth;
        if (gr_json_is_string(v, &text, NULL)) print_text(gr_json_key(m), text);
        else if (gr_json_is_bool(v, &truth)) printf("%-18s %s\n", gr_json_key(m), truth ? "yes" : "no");
        else if (gr_json_is_real(v, &number)) print_number(gr_json_key(m), number);
        for (size_t i = 0; gr_json_is_string(gr_json_at(v, i), &text, NULL); i++) print_text(i ? "" : gr_json_key(m), text);
    }
    gr_json_free(facts);
    return GRACE_OK;
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

static grace_status print_trace(const gr_inspect_options *a, grace_trace_reader *reader) {
    static const char *const weights[GRACE_N_WEIGHTS] = {"none", "u8", "f16"};
    grace_status st = GRACE_OK;
    token_counts n = {0};
    char names[512] = "";
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
    gr_json_set_string(o, "layer_ids", gr_layer_ids_text(gr_layer_ids_of(t), t->n_layers).text);
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
    st = gr_print_facts(a, o);
done:
    return st;
}

/* A top_k of 1 is what is assumed where the file does not say it. */
static grace_status print_loads(const gr_inspect_options *a, const grace_profile *p) {
    const grace_trace_info *t = &p->info;
    gr_json *o = gr_json_new_object();
    double pairs = 0;
    for (int64_t i = 0; i < (int64_t)t->n_layers * t->n_experts; i++) pairs += p->load[i];
    gr_json_set_string(o, "kind", "loads");
    gr_json_set_string(o, "model", t->model);
    gr_json_set_int(o, "moe_layers", t->n_layers);
    gr_json_set_string(o, "layer_ids", gr_layer_ids_text(gr_layer_ids_of(t), t->n_layers).text);
    gr_json_set_int(o, "experts", t->n_experts);
    if (t->top_k > 1) gr_json_set_int(o, "top_k", t->top_k);
    gr_json_set_real(o, "pairs", pairs);            /* (token, expert), of all layers */
    return gr_print_facts(a, o);
}

static grace_status inspect_routing(const gr_inspect_options *a) {
    grace_trace_reader *trace = NULL;
    grace_profile *loads = NULL;
    grace_status st = gr_foreign_open(a->path, &(gr_foreign_options){0}, &trace, &loads);
    if (!st) st = trace ? print_trace(a, trace) : print_loads(a, loads);
    grace_profile_free(loads);
    grace_trace_reader_close(trace);
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

static grace_status inspect_plan(const gr_inspect_options *a) {
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
    gr_json_set_string(o, "layer_ids", gr_layer_ids_text(plan->layer_ids, plan->n_layers).text);
    gr_json_set_int(o, "experts", plan->n_experts);
    gr_json_set_int(o, "top_k", plan->top_k);
    gr_json_set_int(o, "slots", slots);
    gr_json_set_int(o, "replicas", slots - (int64_t)plan->n_layers * plan->n_experts);
    gr_json_set_int(o, "slots_per_rank_max", most);
    gr_json_set_real(o, "ratio", plan->r);
    put_origin(o, &plan->planned_from);
    st = gr_print_facts(a, o);
done:
    grace_plan_free(plan);
    return st;
}

/* Also where it cannot be read, or points nowhere: opening it says why. */
static bool has_config(const char *config) {
    struct stat info;
    return lstat(config, &info) == 0 || errno != ENOENT;
}

/* A folder with config.json is a model; a file that begins with '{' is a plan; anything else has routing in it. */
static grace_status inspect(const gr_inspect_options *a) {
    grace_status st = GRACE_OK;
    struct stat info;
    gr_file file = {0};
    char config[PATH_MAX];
    bool folder = stat(a->path, &info) == 0 && S_ISDIR(info.st_mode);
    GR_TRY(gr_path_join(config, sizeof config, a->path, "config.json"));
    if (folder && has_config(config)) return gr_inspect_model(a);
    GR_CHECK(!a->cluster && !a->plan && !a->memory, GRACE_ERR_ARG, "%s: --cluster, --plan and --memory ask about a model, this is none", a->path);
    if (folder) {
        st = inspect_routing(a);
        return st == GRACE_ERR_IO ? gr_fail_in(st, "no config.json, so it is no model") : st;
    }
    GR_TRY(gr_file_map(a->path, &file));
    bool plan = file.n > 0 && *(const char *)file.data == '{';
    gr_file_unmap(&file);
    st = plan ? inspect_plan(a) : inspect_routing(a);
done:
    return st;
}

int gr_cmd_inspect(int argc, char **argv) {
    static const struct argp argp = {options, parse, "PATH", "Show what is in a model folder, a trace or other record of routing (docs/interop.md), or a "
                                     "plan.", 0, 0, 0};
    gr_inspect_options a = {.kv_tokens = grace_engine_defaults().kv_tokens};
    gr_arg_parse(&argp, 2, argc, argv, &a);
    grace_status st = inspect(&a);
    if (st) fprintf(stderr, "grace: %s\n", grace_last_error());
    return st ? 1 : 0;
}
