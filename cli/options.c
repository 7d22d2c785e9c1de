#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cli.h"
#include "comm/wire.h"
#include "compute/compute.h"

enum { KEY_RANKS = 0x100, KEY_NODES, KEY_WIRE, KEY_TRANSPORT, KEY_PLAN, KEY_EXCHANGE, KEY_ROUTE, KEY_HOMES, KEY_EXACT, KEY_THREADS, KEY_SIMD,
        KEY_DEVICE, KEY_KERNELS, KEY_BETWEEN, KEY_PLAIN, KEY_STEP_BY_STEP, KEY_TURNS, KEY_KV, KEY_BATCH, KEY_DEADLINE, KEY_JSON };

static const struct argp_option options[] = {
    {0, 0, 0, 0, "Model and placement:", 1},
    {"model", 'm', "DIR", 0, "Hugging Face model folder", 1},
    {"plan", KEY_PLAN, "FILE", 0, "placement made by 'grace plan' (default: contiguous)", 1},
    {"exchange", KEY_EXCHANGE, "KIND", 0, "hsc (default), flat or per-expert", 1},
    {"route", KEY_ROUTE, "POLICY", 0, "tar (default), tar-entry, joint, wrr or primary", 1},
    {"homes", KEY_HOMES, "HOW", 0, "where requests live: round-robin (default); vocab: where the plan expects their token ids to send least "
                                   "between nodes; histogram: first as vocab (round-robin if the plan knows no ids), then once more where their first rows "
                                   "sent least, if that pays for moving the KV cache", 1},
    {"exact", KEY_EXACT, 0, 0, "every expert's row comes home unsummed: no plan, exchange or number of ranks changes a bit", 1},
    {0, 0, 0, 0, "Ranks:", 2},
    {"ranks", KEY_RANKS, "NxG", 0, "start N nodes x G ranks on this machine under mpirun", 2},
    {"nodes", KEY_NODES, "N", 0, "cut the ranks into N nodes (default: ranks that share a machine are a node)", 2},
    {"wire", KEY_WIRE, "RATE", 0, "with --ranks, as root: join the nodes by a link of that rate, e.g. 1gbit", 2},
    {"transport", KEY_TRANSPORT, "KIND", 0, "auto (default): as the ranks were started; mpi, tcp (torchrun, srun, by hand: docs/launch.md) or self", 2},
    {"deadline", KEY_DEADLINE, "SECONDS", 0, "longest wait for another rank (default 30)", 2},
    {0, 0, 0, 0, "Sizes and threads:", 3},
    {"batch-tokens", KEY_BATCH, "N", 0, "rows a rank computes in one step (default 512)", 3},
    {"kv-tokens", KEY_KV, "N", 0, "KV cache of a rank, in tokens (default 16384)", 3},
    {"threads", KEY_THREADS, "N", 0, "threads of a rank (default: OMP_NUM_THREADS or all cores)", 3},
    {"device", KEY_DEVICE, "NAME", 0, "cpu (default) or cuda: a GPU a rank", 3},
    {"kernels", KEY_KERNELS, "KIND", 0, "with --device cuda: auto (default), hopper, mma or plain", 3},
    {"between", KEY_BETWEEN, "KIND", 0, "with --device cuda, rows between nodes: sockets, nccl, staged (through host memory), or auto (default):"
                                     " docs/wires.md", 3},
    {"step-by-step", KEY_STEP_BY_STEP, 0, 0, "with --device cuda: no step is launched before the ids of the one before are known", 3},
    {"plain-wire", KEY_PLAIN, 0, 0, "with --device cuda: rows between nodes as they are, not packed bit for bit", 3},
    {"turns-from", KEY_TURNS, "N", 0, "with --device cuda, several ranks: rows of a rank in a step from which two halves of them take turns, one travels while "
                                      "the other is computed; in one node from 8 times as many (default: 1024, but in one node of two "
                                      "GPUs never; 0: never)", 3},
    {"simd", KEY_SIMD, "LEVEL", 0, "on the cpu: auto (default), portable, avx2 or avx512; the bits are the same", 3},
    {0, 0, 0, 0, "Output:", 4},
    {"json", KEY_JSON, 0, 0, "print one JSON object", 4},
    {"verbose", 'v', 0, 0, "log what happens", 4},
    {0},
};

static const char *const exchange_names[] = {"per-expert", "flat", "hsc"};
static const char *const route_names[GRACE_N_ROUTES] = {"primary", "wrr", "tar", "tar-entry", "joint"};
static const char *const transport_names[] = {"self", "mpi", "tcp", "auto"};    /* grace_transport */
const char *const gr_device_names[2] = {"cpu", "cuda"};
static const char *const kernel_names[] = {GR_CUDA_KERNEL_NAMES}, *const between_names[] = {GR_BETWEEN_NAMES};
static const char *const homes_names[GRACE_N_HOMES] = {"round-robin", "vocab", "histogram"};
#define N_OF(names) ((int)(sizeof(names) / sizeof *(names)))

const char *gr_exchange_name(grace_exchange exchange) { return exchange_names[exchange]; }
const char *gr_route_name(grace_route route) { return route_names[route]; }
const char *gr_homes_name(grace_homes homes) { return homes_names[homes]; }

void gr_arg_parse(const struct argp *argp, int n_words, int argc, char **argv, void *input) {
    static char name[64] = "grace";     /* argp's messages point at it */
    char *kept = argv[n_words - 1];
    for (int i = 1; i < n_words; i++) snprintf(name + strlen(name), sizeof name - strlen(name), " %s", argv[i]);
    argv[n_words - 1] = name;
    argp_parse(argp, argc - n_words + 1, argv + n_words - 1, 0, NULL, input);
    argv[n_words - 1] = kept;
}

static const char *dashes(const char *option) { return option[0] && option[1] ? "--" : "-"; }

double gr_arg_number(struct argp_state *state, const char *option, const char *text, double min, double max) {
    char *end;
    errno = 0;
    double value = strtod(text, &end);
    if (end == text || *end || errno || !(value >= min && value <= max))
        argp_error(state, "%s%s: expected a number from %g to %g, found '%s'", dashes(option), option, min, max, text);
    return value;
}

int64_t gr_arg_int(struct argp_state *state, const char *option, const char *text, int64_t min, int64_t max) {
    char *end;
    errno = 0;
    long long value = strtoll(text, &end, 10);
    if (end == text || *end || errno || value < min || value > max)
        argp_error(state, "%s%s: expected an integer from %lld to %lld, found '%s'", dashes(option), option, (long long)min, (long long)max, text);
    return value;
}

int gr_arg_choice(struct argp_state *state, const char *option, const char *text, const char *const *names, int n) {
    char list[256] = "";
    for (int i = 0; i < n; i++) {
        if (strcmp(text, names[i]) == 0) return i;
        snprintf(list + strlen(list), sizeof list - strlen(list), "%s%s", i == 0 ? "" : i + 1 < n ? ", " : " or ", names[i]);
    }
    argp_error(state, "--%s: expected %s, found '%s'", option, list, text);
    return 0;
}

gr_run_options gr_run_defaults(void) { return (gr_run_options){.transport = GRACE_TRANSPORT_AUTO, .deadline_s = 30, .engine = grace_engine_defaults()}; }

/* Options that a cpu engine would not look at, so that nobody believes it did. */
static error_t parse_for_cuda(int key, char *arg, struct argp_state *state) {
    gr_run_options *o = state->input;
    switch (key) {
    case KEY_KERNELS:
        o->for_cuda = "kernels";
        o->engine.kernels = kernel_names[gr_arg_choice(state, o->for_cuda, arg, kernel_names, N_OF(kernel_names))];
        break;
    case KEY_BETWEEN:
        o->for_cuda = "between";
        o->engine.wire = between_names[gr_arg_choice(state, o->for_cuda, arg, between_names, N_OF(between_names))];
        break;
    case KEY_PLAIN:
        o->for_cuda = "plain-wire";
        o->engine.plain_wire = true;
        break;
    case KEY_STEP_BY_STEP:
        o->for_cuda = "step-by-step";
        o->engine.step_by_step = true;
        break;
    case KEY_TURNS:
        o->for_cuda = "turns-from";
        o->engine.turns_from = (int32_t)gr_arg_int(state, o->for_cuda, arg, 0, 1 << 20);
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    gr_run_options *o = state->input;
    bool is_on_cuda;
    switch (key) {
    case 'm': o->model = arg; break;
    case 'v': o->verbose = true; break;
    case KEY_PLAN: o->plan = arg; break;
    case KEY_RANKS: o->ranks = arg; break;
    case KEY_WIRE: o->wire = arg; break;
    case KEY_EXACT: o->engine.exact = true; break;
    case KEY_JSON: o->json = true; break;
    case KEY_SIMD: o->engine.simd = arg, o->for_cpu = "simd"; break;
    case KEY_DEVICE: o->engine.device = gr_device_names[gr_arg_choice(state, "device", arg, gr_device_names, 2)]; break;
    case KEY_EXCHANGE: o->engine.exchange = (grace_exchange)gr_arg_choice(state, "exchange", arg, exchange_names, 3); break;
    case KEY_ROUTE: o->engine.route = (grace_route)gr_arg_choice(state, "route", arg, route_names, GRACE_N_ROUTES); break;
    case KEY_HOMES: o->engine.homes = (grace_homes)gr_arg_choice(state, "homes", arg, homes_names, GRACE_N_HOMES); break;
    case KEY_NODES: o->n_nodes = (int32_t)gr_arg_int(state, "nodes", arg, 1, GRACE_RANKS_MAX); break;
    case KEY_TRANSPORT: o->transport = (grace_transport)gr_arg_choice(state, "transport", arg, transport_names, 4); break;
    case KEY_THREADS: o->engine.n_threads = (int32_t)gr_arg_int(state, "threads", arg, 1, 1024); break;
    case KEY_KV: o->engine.kv_tokens = gr_arg_int(state, "kv-tokens", arg, 1, INT64_C(1) << 33); break;
    case KEY_BATCH: o->engine.n_tokens_max = (int32_t)gr_arg_int(state, "batch-tokens", arg, 1, 1 << 20); break;
    case KEY_DEADLINE: o->deadline_s = gr_arg_number(state, "deadline", arg, 0.1, 86400); break;
    case ARGP_KEY_END:
        is_on_cuda = o->engine.device && strcmp(o->engine.device, "cuda") == 0;
        if (o->verbose) gr_log_set_level(GR_INFO);
        if (!o->model) argp_error(state, "expected -m, the model's folder");
        if (o->wire && !o->ranks) argp_error(state, "--wire needs --ranks");
        if (o->for_cuda && !is_on_cuda) argp_error(state, "--%s needs --device cuda", o->for_cuda);
        if (o->for_cpu && is_on_cuda) argp_error(state, "--%s needs --device cpu", o->for_cpu);
        break;
    default: return parse_for_cuda(key, arg, state);
    }
    return 0;
}

const struct argp gr_run_argp = {options, parse, 0, 0, 0, 0, 0};
