/* The document a ladder writes (docs/report.md): rungs while they run, the rest at the end; and what is read of it again. */
#ifndef GRACE_CLI_LADDER_JSON_H
#define GRACE_CLI_LADDER_JSON_H
#include "cli.h"
#include "grace/sim.h"

typedef struct gr_rung {
    const char *name;
    bool baseline;
    grace_planner planner;
    grace_replication replication;
    grace_exchange exchange;
    grace_route route;
} gr_rung;

enum { GR_LADDER_DOMAINS_MAX = 64 };

typedef struct gr_ladder {
    gr_json *rungs, *texts;
    char *domains[GR_LADDER_DOMAINS_MAX];   /* names of the text files, malloc'ed */
    uint64_t reference;             /* logits hash of the single process; rank 0 */
    bool all_identical;
    grace_profile *profile;         /* rank 0 */
    grace_plan *last_plan;
} gr_ladder;

typedef struct gr_ladder_head {
    int argc;
    char **argv;
    const char *commit, *command;   /* NULL: unknown, argv */
    grace_cluster cluster;
    int32_t sequences, prefill, decode, repeat;
} gr_ladder_head;

gr_json *gr_ladder_add_rung(gr_ladder *ladder, const gr_rung *rung);        /* borrowed */
void gr_ladder_set_stats(gr_json *rung, const gr_json *stats);      /* of gr_stats_json() */
void gr_ladder_set_times(gr_json *rung, double moe_us, double half_range_us, double wall_us);
void gr_ladder_set_identity(gr_ladder *ladder, gr_json *rung, const grace_plan *plan, const char *path, uint64_t hash);
/* The first request of each domain with what it generated. */
grace_status gr_ladder_take_texts(gr_ladder *ladder, const grace_tokenizer *tok, const grace_engine *engine, const gr_request_list *batch);
/* Adds knee, replicas, affinity and the head, writes the file, prints the table and the texts (or the document when json). */
grace_status gr_ladder_finish(gr_ladder *ladder, const grace_model *model, const gr_ladder_head *head, const char *path, bool json);
void gr_ladder_free(gr_ladder *ladder);

/* What was measured of a rung. Texts are borrowed from the document. */
typedef struct gr_ladder_run {
    const char *name, *plan;        /* plan: the file */
    grace_exchange exchange;
    grace_route route;
    double moe_us;
} gr_ladder_run;

enum { GR_LADDER_RUNGS_MAX = 64 };
/* Of a document read from `where`: runs [GR_LADDER_RUNGS_MAX], of which *n are there, 2 at least; the steps that its workload computes, chunk 0. Fails with
 * FORMAT. */
grace_status gr_ladder_read(const gr_json *doc, const char *where, gr_ladder_run *runs, int32_t *n, grace_workload *workload);

#endif
