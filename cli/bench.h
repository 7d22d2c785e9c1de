/* The parts of `grace bench`. Each prints its result and returns the exit code. */
#ifndef GRACE_CLI_BENCH_H
#define GRACE_CLI_BENCH_H
#include "base/json.h"

int gr_bench_kernels_main(int argc, char **argv);   /* bench_kernels.c: linear and expert kernels against the machine's ceilings */
int gr_bench_plan_main(int argc, char **argv);      /* bench_plan.c, plan_cases.c: placement quality on tokens not seen */
int gr_bench_placements_main(int argc, char **argv);    /* bench_placements.c: a document about plans for grace report */
int gr_bench_cpu_main(int argc, char **argv);       /* bench_cpu.c: a model's prefill and decode against the machine's ceilings */
int gr_bench_gpu_main(int argc, char **argv);       /* bench_gpu.c: prefill and decode steps of a batch of requests, beside a floor */
int gr_bench_tokenizer_main(int argc, char **argv); /* bench_tokenizer.c: loading a tokenizer and encoding files */
int gr_bench_moe_main(int argc, char **argv);       /* bench_moe.c: the MoE layer by stage, bookkeeping as a share of it */
int gr_bench_net_main(int argc, char **argv);       /* bench_net.c: links and ranks of this job, as rates for the simulator */
int gr_bench_agreement_main(int argc, char **argv); /* bench_agreement.c: predicted beside measured MoE times of a ladder */
int gr_bench_ladder_main(int argc, char **argv);    /* ladder.c: the rungs of the paper's Table 1 in one run */
int gr_bench_routes_main(int argc, char **argv);    /* bench_routes.c: rows and loads under each routing policy */
int gr_bench_homes_main(int argc, char **argv);     /* bench_homes.c: rows between nodes by where sequences live */

/* The middle one of n >= 1 values, or the mean of the middle two; sorts them. */
double gr_bench_median(double *values, int32_t n);

/* What a results file starts with: the command (command, else argv), the commit (NULL: unknown), machine and date. */
grace_status gr_bench_origin(gr_json *o, int argc, char **argv, const char *command, const char *commit);

#endif
