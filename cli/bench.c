/* grace bench: one measurement per word. */
#include <stdio.h>
#include <string.h>

#include "bench.h"
#include "cli.h"

typedef struct bench { const char *name, *summary; int (*main)(int argc, char **argv); } bench;

static const bench benches[] = {
    {"kernels", "linear and expert kernels, as shares of the measured FMA peak and memory bandwidth", gr_bench_kernels_main},
    {"plan", "time to plan a trace", gr_bench_plan_main},
    {"cpu", "prefill and decode of a model as shares of the machine's measured ceilings, and its memory", gr_bench_cpu_main},
    {"moe", "the MoE layer by stage; bookkeeping as a share of it", gr_bench_moe_main},
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
    for (size_t i = 0; i < sizeof benches / sizeof *benches; i++) fprintf(out, "  %-8s %s\n", benches[i].name, benches[i].summary);
    return out == stdout ? 0 : 64;
}
