/* Homes, planned and learned on one half of a trace's sequences and measured on the other. */
#ifndef GRACE_CLI_HOME_CASES_H
#define GRACE_CLI_HOME_CASES_H
#include "plan_cases.h"

/* Where sequences live: anywhere alike; by what token ids tell; by the first chunk, which ran at its turn's home; the same by the engine's rule, where
 * moving has a price; by what they really send. */
typedef enum gr_homing { GR_HOMES_RANDOM, GR_HOMES_VOCAB, GR_HOMES_HISTOGRAM, GR_HOMES_ENGINE, GR_HOMES_ORACLE, GR_N_HOMINGS } gr_homing;
extern const char *const gr_homing_names[GR_N_HOMINGS];

typedef struct gr_home_result {
    double rows[GR_N_HOMINGS];  /* between nodes, a token and layer, dispatched; < 0: not measured (no token ids, no price) */
    double load[GR_N_HOMINGS];  /* max/mean of the ranks, mean over layers */
    double moved;               /* HISTOGRAM: share of the sequences that change nodes after their first chunk */
    double engine_moved;        /* ENGINE: the same */
} gr_home_result;

/* Homes of the test half under a plan of the train half; chunk: tokens of the first one; moved_rows: what taking a token of it along weighs, 0: ENGINE
 * is not measured. */
grace_status gr_homes_measure(const grace_plan *plan, grace_trace_reader *r, int32_t chunk, double moved_rows, gr_home_result *out);
/* Labels aligned to the train half. */
grace_status gr_homes_align_on(grace_plan *plan, grace_trace_reader *r, bool *changed);

#endif
