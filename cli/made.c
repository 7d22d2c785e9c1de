/* Weights that are made instead of read, for measuring the speed of models that are not there; whatever such a run prints says so. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"

enum { KEY_RANDOM = 0x180 };

static const struct argp_option options[] = {
    {0, 0, 0, 0, "Instead of trained weights:", 9},
    {"random-weights", KEY_RANDOM, "SEED", 0, "make the weights; the model's folder (-m, or named last) needs only config.json, e.g. models/configs/olmoe-1b-7b", 9},
    {0},
};

static error_t parse(int key, char *arg, struct argp_state *state) {
    gr_run_options *o = state->input;
    switch (key) {
    case KEY_RANDOM:
        o->random = true;
        o->random_seed = (uint64_t)gr_arg_int(state, "random-weights", arg, 0, INT64_MAX);
        break;
    case ARGP_KEY_ARG:
        if (o->model) argp_error(state, "unexpected word '%s'", arg);
        o->model = arg;
        break;
    case ARGP_KEY_END:
        if (state->arg_num > 0 && !o->random) argp_error(state, "unexpected word '%s': the model's folder is given by -m", o->model);
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

const struct argp gr_made_argp = {options, parse, 0, 0, 0, 0, 0};

static bool describe_weights(const gr_session *s, char text[64]) {
    uint64_t seed;
    if (!grace_model_is_random(s->model, &seed)) return false;
    snprintf(text, 64, "random weights, seed %" PRIu64, seed);
    return true;
}

void gr_made_print(const gr_session *s) {
    char text[64];
    if (describe_weights(s, text)) printf("(%s)\n", text);
}

void gr_made_json(gr_json *o, const gr_session *s) {
    char text[64];
    if (describe_weights(s, text)) gr_json_set_string(o, "weights", text);
}
