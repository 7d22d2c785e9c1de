/* Placement quality, planned on one half of a trace's sequences and measured on the other: traces x clusters x recipes. */
#ifndef GRACE_CLI_PLAN_CASES_H
#define GRACE_CLI_PLAN_CASES_H
#include <argp.h>

#include "base/json.h"
#include "plan/quality.h"

enum { GR_CASES_CLUSTERS_MAX = 8, GR_CASES_TRACES_MAX = 64 };

/* Shapes separated by commas into clusters [GR_CASES_CLUSTERS_MAX]: how many, or a usage error. */
int32_t gr_arg_clusters(struct argp_state *state, char *list, grace_cluster *clusters);

/* What is planned. UNDER: auto with balance 0, that is under the load of the paper's plan. */
typedef enum gr_recipe_id {
    GR_RECIPE_CONTIGUOUS, GR_RECIPE_UNIFORM, GR_RECIPE_GRACE, GR_RECIPE_EPLB, GR_RECIPE_EPLB_125, GR_RECIPE_EPLB_150, GR_RECIPE_AUTO, GR_RECIPE_AUTO_125,
    GR_RECIPE_AUTO_150, GR_RECIPE_UNDER, GR_RECIPE_UNDER_125, GR_RECIPE_UNDER_150, GR_N_RECIPES
} gr_recipe_id;
typedef struct gr_recipe { const char *name; grace_planner planner; double memory, balance; } gr_recipe;
extern const gr_recipe gr_recipes[GR_N_RECIPES];

/* Rungs of the paper's Table 1, in rows: grouping, replication, exchange, policy. */
enum { GR_N_CASE_RUNGS = 7 };
typedef struct gr_case_rung {
    const char *name;
    grace_planner planner;
    grace_replication replication;
    bool flat;
    grace_route route;
    double paper_cross, paper_intra;    /* change against the first rung; 0: not in the paper */
} gr_case_rung;
extern const gr_case_rung gr_case_rungs[GR_N_CASE_RUNGS];

/* Tokens of a trace, or of one domain of it: what is planned on and what is measured on. */
typedef struct gr_half { grace_profile *profile; grace_bundles *bundles; } gr_half;
typedef struct gr_unit { char name[96], model[64]; gr_half train, test; } gr_unit;

/* Even sequences to plan on, odd ones to measure on; of one domain, or of all ("") . Fails as reading a trace does, ARG when a half is empty. */
grace_status gr_unit_open(const char *path, const char *domain, gr_unit *out);
void gr_unit_close(gr_unit *u);

typedef struct gr_result { bool there; gr_quality q; double ms; } gr_result;

grace_status gr_recipe_plan(const gr_recipe *r, const gr_half *train, grace_cluster cluster, uint64_t seed, grace_plan **out);
/* A cluster with more GPUs than experts is left out: there is false. */
grace_status gr_recipe_run(const gr_recipe *r, const gr_unit *u, grace_cluster cluster, uint64_t seed, gr_result *out);
/* rows [GR_N_CASE_RUNGS]: cross and intra as the rung's exchange counts them. */
grace_status gr_case_rungs_run(const gr_unit *u, grace_cluster cluster, uint64_t seed, gr_rows_cost *rows);
/* One layer planned on the train half and moved to the test half's loads by 16 copies at most: the median of repeat moves, CPU time. */
grace_status gr_replan_layer(const gr_unit *u, grace_cluster cluster, int32_t repeat, double *median_us);

/* Plans made on one unit's tokens and used on another's: kept [n, n], row the unit planned on, column the one measured on, is the share of the gain
 * over contiguous that a plan of the column's own tokens has there. Units of one model. Planner auto, memory 1.25. */
grace_status gr_transfer(const gr_unit *units, int32_t n, grace_cluster cluster, uint64_t seed, double *kept);

/* What the benches over cases are asked for. Their options have these keys; --chunk and the lists' defaults are each bench's own. */
enum { GR_CASE_CLUSTERS = 0x200, GR_CASE_SEED, GR_CASE_CHUNK, GR_CASE_MOVED_ROWS, GR_CASE_JSON, GR_CASE_COMMIT };
typedef struct gr_case_arguments {
    int argc;
    char **argv;
    const char *output, *commit;
    bool json;
    uint64_t seed;
    int32_t n_clusters, n_traces, chunk;
    double moved_rows;
    grace_cluster clusters[GR_CASES_CLUSTERS_MAX];
    const char *traces[GR_CASES_TRACES_MAX];
} gr_case_arguments;
error_t gr_case_parse(int key, char *arg, struct argp_state *state);     /* an argp parser; its input is a gr_case_arguments */

/* A bench over cases, from the command line (argp has gr_case_parse) to the exit code: measure adds to doc, which says where it comes from, what was measured;
 * it is saved and printed as asked for. a: the defaults of lists; without traces those of the small model's goldens. */
int gr_case_main(const struct argp *argp, const char *bench, gr_case_arguments *a, grace_status (*measure)(const gr_case_arguments *a, gr_json *doc));

#endif
