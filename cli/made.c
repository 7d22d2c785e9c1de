/* Weights that are made instead of read and routing that is replayed instead of chosen, for measuring the speed of models that are not there; whatever
 * such a run prints says so. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"

enum { KEY_RANDOM = 0x180, KEY_ROUTE_TRACE, KEY_ROUTE_TOKENS };

static const struct argp_option options[] = {
    {0, 0, 0, 0, "Instead of trained weights and their routing:", 9},
    {"random-weights", KEY_RANDOM, "SEED", 0, "make the weights; the model's folder (-m, or named last) needs only config.json, e.g. "
                                             "models/configs/olmoe-1b-7b", 9},
    {"route-trace", KEY_ROUTE_TRACE, "TRACE", 0, "tokens go to the experts that this recording says, whatever the routers choose", 9},
    {"route-tokens", KEY_ROUTE_TOKENS, "WHICH", 0, "of its tokens: all (default), even, odd, domain:NAME,... or even domain:NAME,...", 9},
    {0},
};

static void parse_tokens(struct argp_state *state, const char *text, grace_selection *out) {
    if (grace_selection_parse(text, out)) argp_error(state, "--route-tokens: %s", grace_last_error());
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    gr_run_options *o = state->input;
    switch (key) {
    case KEY_RANDOM:
        o->random = true;
        o->random_seed = (uint64_t)gr_arg_int(state, "random-weights", arg, 0, INT64_MAX);
        break;
    case KEY_ROUTE_TRACE: o->route_trace = arg; break;
    case KEY_ROUTE_TOKENS: parse_tokens(state, o->route_tokens = arg, &o->engine.route_tokens); break;
    case ARGP_KEY_ARG:
        if (o->model) argp_error(state, "unexpected word '%s'", arg);
        o->model = arg;
        break;
    case ARGP_KEY_END:
        if (state->arg_num > 0 && !o->random) argp_error(state, "unexpected word '%s': the model's folder is given by -m", o->model);
        if (o->route_tokens && !o->route_trace) argp_error(state, "--route-tokens needs --route-trace");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

const struct argp gr_made_argp = {options, parse, 0, 0, 0, 0, 0};

/* ---- what a run says of itself ---- */

enum { TEXT_MAX = 512 };

static void describe_weights(const gr_session *s, char text[TEXT_MAX]) {
    uint64_t seed;
    *text = 0;
    if (grace_model_is_random(s->model, &seed)) snprintf(text, TEXT_MAX, "random weights, seed %" PRIu64, seed);
}

static void describe_routing(const gr_session *s, const gr_run_options *opt, char text[TEXT_MAX]) {
    *text = 0;
    if (!s->route_trace) return;
    const char *model = grace_trace_describe(s->route_trace)->model, *slash = strrchr(opt->route_trace, '/');
    const bool is_small = strncmp(model, "tiny-", 5) == 0;
    snprintf(text, TEXT_MAX, "routing of %s%s (%s%s%s)", is_small ? "a small model, " : "", model, slash && slash[1] ? slash + 1 : opt->route_trace,
             opt->route_tokens ? ", " : "", opt->route_tokens ? opt->route_tokens : "");
}

void gr_made_print(const gr_session *s, const gr_run_options *opt) {
    char weights[TEXT_MAX], routing[TEXT_MAX];
    describe_weights(s, weights);
    describe_routing(s, opt, routing);
    if (*weights || *routing) printf("(%s%s%s)\n", weights, *weights && *routing ? "; " : "", routing);
}

void gr_made_json(gr_json *o, const gr_session *s, const gr_run_options *opt) {
    char weights[TEXT_MAX], routing[TEXT_MAX];
    describe_weights(s, weights);
    describe_routing(s, opt, routing);
    if (*weights) gr_json_set_string(o, "weights", weights);
    if (*routing) gr_json_set_string(o, "routing", routing);
}
