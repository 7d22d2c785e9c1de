/* grace: one program, one file per command. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "cli.h"

typedef struct command { const char *name, *summary; int (*main)(int argc, char **argv); } command;

static const command commands[] = {
    {"run", "generate text with a model, on one rank or several", gr_cmd_run},
    {"profile", "run text through a model and record which experts fire", gr_cmd_profile},
    {"plan", "turn a trace into a placement for a cluster", gr_cmd_plan},
    {"sim", "replay routing through plans: rows, loads and predicted times on any cluster", gr_cmd_sim},
    {"bench", "measure kernels, planning, the MoE layer, the ladder of plans", gr_cmd_bench},
    {"report", "draw measured numbers: a self-contained HTML page, or a chart of models on GPUs", gr_cmd_report},
    {"tokenize", "print the token ids of a text", gr_cmd_tokenize},
    {"inspect", "show what is in a model folder, a record of routing or a plan", gr_cmd_inspect},
    {"pull", "download a model from a hub", gr_cmd_pull},
};
enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void print_help(FILE *out) {
    fprintf(out, "grace %s: serves sparse Mixture-of-Experts models over several ranks, experts placed by affinity and load\n\n"
                 "Usage: grace COMMAND [OPTION...]\n\nCommands:\n", GRACE_VERSION);
    for (int i = 0; i < N_COMMANDS; i++) fprintf(out, "  %-9s %s\n", commands[i].name, commands[i].summary);
    fprintf(out, "\n'grace COMMAND --help' lists a command's options. GRACE_LOG=error|warn|info|debug sets how much is logged.\n");
}

/* A full disk or a closed pipe shows at the end. */
static int end_output(int code) {
    if (fflush(stdout) == 0 && !ferror(stdout)) return code;
    fprintf(stderr, "grace: cannot write the output: %s\n", strerror(errno));
    return code ? code : 1;
}

int main(int argc, char **argv) {
    const char *name = argc > 1 ? argv[1] : "--help";
    if (strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0 || strcmp(name, "help") == 0) {
        print_help(argc > 1 ? stdout : stderr);
        return argc > 1 ? 0 : 64;
    }
    if (strcmp(name, "--version") == 0) {
        printf("grace %s\n", GRACE_VERSION);
        return 0;
    }
    for (int i = 0; i < N_COMMANDS; i++)
        if (strcmp(name, commands[i].name) == 0) return end_output(commands[i].main(argc, argv));
    fprintf(stderr, "grace: unknown command '%s'; 'grace --help' lists them\n", name);
    return 64;
}
