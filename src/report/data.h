/* What the page shows, read from a ladder document (docs/report.md) and checked: plain arrays, every size known, nothing contradicts itself. */
#ifndef GR_REPORT_DATA_H
#define GR_REPORT_DATA_H
#include <stdbool.h>
#include <stdint.h>

#include "base/json.h"
#include "base/memory.h"

typedef enum gr_verdict { GR_NOT_CHECKED, GR_IDENTICAL, GR_DIFFERENT } gr_verdict;
enum { GR_TIME_ROUTE, GR_TIME_DISPATCH, GR_TIME_EXPERTS, GR_TIME_COMBINE, GR_N_RUNG_TIMES };

/* What every document begins with: what was run, and on what. Absent strings are NULL. */
typedef struct gr_report_head {
    const char *title, *command, *commit, *machine, *date;
    int32_t n_nodes, gpus_per_node, n_ranks;
} gr_report_head;

/* Absent strings are NULL, absent reals NaN, absent integers -1, absent arrays NULL. Times in microseconds. */
typedef struct gr_report_rung {
    const char *name, *plan, *exchange, *route, *logits_hash;
    bool baseline;
    int64_t rows_cross, rows_intra, bytes_cross, bytes_intra, replica_slots;
    double load_max_over_mean, load_std, idle_model_us, idle_measured_us, moe_us, moe_us_spread, wall_us;
    gr_verdict identical;
    int64_t *pair_rows;         /* [n_ranks from, n_ranks to] */
    int64_t *load;              /* [n_layers, n_ranks] pairs computed */
    bool has_times;
    double time_us[GR_N_RUNG_TIMES];
} gr_report_rung;

typedef struct gr_report_knee { int64_t delta; double r, size_std, utility; } gr_report_knee;

/* Experts of one layer with copies: of experts[i] on the ranks hosts[first_host[i] .. first_host[i + 1]). */
typedef struct gr_report_replica {
    int64_t layer, primary_rank;
    int32_t n_experts;
    int64_t *experts;           /* [n_experts] */
    int32_t *first_host;        /* [n_experts + 1] */
    int64_t *hosts;             /* the primary left out */
} gr_report_replica;

typedef struct gr_report_affinity {
    int64_t layer;
    int32_t n, n_groups;
    int64_t *order;             /* [n] expert ids, group after group */
    int32_t *groups;            /* [n_groups] sizes */
    int64_t *ranks;             /* [n_groups] */
    int64_t *values;            /* [n, n] by expert id */
} gr_report_affinity;

/* What a plan looks like, of the ladder's last rung or of one placement. */
typedef struct gr_report_plan {
    int32_t n_knee, knee_chosen;
    gr_report_knee *knee;               /* [n_knee] */
    int32_t n_replicas;                 /* -1: absent */
    gr_report_replica *replicas;
    gr_report_affinity *affinity;       /* NULL: absent */
} gr_report_plan;

typedef struct gr_report_text { const char *domain, *prompt, *generated; } gr_report_text;

typedef struct gr_report_data {
    gr_report_head head;
    const char *reference_hash;
    const char *model_name, *model_family;
    int64_t model_layers, model_experts, model_top_k, model_params;
    int64_t n_sequences, n_prefill, n_decode;
    int32_t n_rungs, baseline;          /* baseline: -1 when no rung is marked */
    gr_report_rung *rungs;              /* [n_rungs] */
    int32_t n_layers;                   /* rows of every rung's load; 0: none has one */
    gr_report_plan plan;
    double *paper_cross;                /* [n_rungs] percent; NaN where the paper has no number; NULL: absent */
    int32_t n_texts;
    gr_report_text *texts;
    gr_arena *arena;                    /* owner of the arrays */
} gr_report_data;

/* Strings are borrowed from doc, which must live as long. Fails with FORMAT and the key that is wrong, LIMIT, MEMORY. The caller frees. */
grace_status gr_report_data_build(const gr_json *doc, gr_report_data **out);
void gr_report_data_free(gr_report_data *data);         /* accepts NULL */

#endif
