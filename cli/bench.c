/* grace bench: one measurement per word. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "base/memory.h"
#include "bench.h"
#include "cli.h"

typedef struct bench { const char *name, *summary; int (*main)(int argc, char **argv); } bench;

static const bench benches[] = {
    {"kernels", "linear and expert kernels, as shares of the measured FMA peak and memory bandwidth", gr_bench_kernels_main},
    {"plan", "placement quality on tokens not seen: all planners, the paper's ladder in rows, targets", gr_bench_plan_main},
    {"placements", "plans of every planner, what memory buys, what is left on other text: a document for grace report", gr_bench_placements_main},
    {"cpu", "prefill and decode of a model as shares of the machine's measured ceilings, and its memory", gr_bench_cpu_main},
    {"gpu", "prefill and decode steps of a batch of requests, on CPUs or GPUs, beside a floor", gr_bench_gpu_main},
    {"tokenizer", "loading a tokenizer and encoding files, on one core", gr_bench_tokenizer_main},
    {"routes", "rows and loads under each routing policy, replayed token by token", gr_bench_routes_main},
    {"homes", "rows between nodes by where sequences live", gr_bench_homes_main},
    {"moe", "the MoE layer by stage; bookkeeping as a share of it", gr_bench_moe_main},
    {"net", "bandwidth and latency of links, rates of a rank: a rates file for sim and plan", gr_bench_net_main},
    {"agreement", "predicted beside measured MoE times of a ladder, and whether they order alike", gr_bench_agreement_main},
    {"ladder", "plans, exchanges and policies of the paper's Table 1, and whether the output stays the same", gr_bench_ladder_main},
};

int gr_cmd_bench(int argc, char **argv) {
    const char *name = argc > 2 ? argv[2] : "--help";
    for (size_t i = 0; i < sizeof benches / sizeof *benches; i++)
        if (strcmp(name, benches[i].name) == 0) return benches[i].main(argc, argv);
    bool help = strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0;
    FILE *out = help && argc > 2 ? stdout : stderr;
    if (!help) fprintf(out, "grace: unknown bench '%s'\n", name);
    fprintf(out, "Usage: grace bench NAME [OPTION...]\n\n");
    for (size_t i = 0; i < sizeof benches / sizeof *benches; i++) fprintf(out, "  %-10s %s\n", benches[i].name, benches[i].summary);
    return out == stdout ? 0 : 64;
}

/* ---- numbers ---- */

static int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double gr_bench_median(double *values, int32_t n) {
    qsort(values, (size_t)n, sizeof *values, by_value);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

/* ---- results files ---- */

static void set_machine(gr_json *o) {
    char machine[512], date[32];
    struct utsname u;
    time_t now = time(NULL);
    struct tm utc;
    uname(&u);
    snprintf(machine, sizeof machine, "%s %s, %ld cores", u.sysname, u.machine, sysconf(_SC_NPROCESSORS_ONLN));
    strftime(date, sizeof date, "%Y-%m-%d %H:%M UTC", gmtime_r(&now, &utc));
    gr_json_set_string(o, "machine", machine);
    gr_json_set_string(o, "date", date);
}

static grace_status set_command(gr_json *o, int argc, char **argv, const char *command) {
    gr_buf text = {0};
    grace_status st = gr_buf_printf(&text, "%s", command ? command : "grace");
    for (int i = command ? argc : 1; i < argc && !st; i++)
        st = gr_buf_printf(&text, strpbrk(argv[i], " \t") ? " '%s'" : " %s", argv[i]);
    gr_json_set_string(o, "command", text.data);
    gr_buf_free(&text);
    return st;
}

grace_status gr_bench_origin(gr_json *o, int argc, char **argv, const char *command, const char *commit) {
    grace_status st = set_command(o, argc, argv, command);
    gr_json_set_string(o, "commit", commit ? commit : "unknown");
    set_machine(o);
    return st;
}
