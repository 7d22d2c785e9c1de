/* What a page about placements shows, read from a placements document (docs/report.md) and checked. Internal to src/report/. */
#ifndef GR_REPORT_PLACEMENTS_H
#define GR_REPORT_PLACEMENTS_H
#include "report/data.h"

/* One plan, with what it costs. Absent strings are NULL, absent reals NaN, absent integers -1, absent arrays NULL. */
typedef struct gr_placement {
    const char *name, *planner, *planned_from;
    double memory;                  /* slots of the fullest GPU over an even share */
    int64_t slots_fullest, slots_total, replica_bytes, kv_tokens_displaced;
    double rows_cross, rows_intra;  /* a token and layer, dispatched */
    double load_max_over_mean, load_std, load_floor;    /* means over layers; std over mean, and what chance alone would make it */
    double prefill_us, decode_us;   /* predicted step times */
    int64_t *pair_rows;             /* [n_ranks from, n_ranks to] */
    int64_t *load;                  /* [n_layers, n_ranks] */
    gr_report_plan plan;
} gr_placement;

/* How a planner fares as memory grows. */
typedef struct gr_curve_series {
    const char *planner;
    int32_t n;
    double *memory, *rows_cross, *step_us;      /* [n]; step_us NULL: not known */
} gr_curve_series;

typedef struct gr_memory_curve {
    const char *trace, *cluster;
    int32_t n_series;
    gr_curve_series *series;
} gr_memory_curve;

/* Planned on one domain, run on another. */
typedef struct gr_transfer {
    const char *planner;
    int32_t n;
    const char **domains;           /* [n] */
    double *rows;                   /* [n planned on, n run on] cross-node rows a token and layer */
    double *contiguous;             /* [n] of a plan that knows nothing, by the domain run on */
} gr_transfer;

typedef struct gr_placements_data {
    gr_report_head head;
    const char *trace, *tested_on;
    bool synthetic;
    int64_t n_tokens, top_k;
    int32_t n_layers, n_experts;
    int64_t *expert_load;           /* [n_layers, n_experts] */
    int32_t n;
    gr_placement *of;               /* [n] */
    int32_t strong;                 /* the plan that the page is about */
    int32_t n_curves;
    gr_memory_curve *curves;
    gr_transfer *transfer;          /* NULL: absent */
    gr_arena *arena;
} gr_placements_data;

/* As gr_report_data_build(). */
grace_status gr_placements_build(const gr_json *doc, gr_placements_data **out);
void gr_placements_free(gr_placements_data *data);      /* accepts NULL */

#endif
