/* Sections of the page, one function each; every one writes a line instead of what the data does not have. Internal to src/report/. */
#ifndef GR_REPORT_PAGE_H
#define GR_REPORT_PAGE_H
#include "report/data.h"
#include "report/out.h"
#include "report/placements.h"
#include "report/tables.h"

/* ladder.c: the tables. The caller frees. */
grace_status gr_ladder_table(const gr_report_data *d, gr_table **out);          /* the numbers of every rung, and their change against the baseline */
grace_status gr_ladder_settings_table(const gr_report_data *d, gr_table **out); /* how every rung was run, bytes, replicas */
grace_status gr_replica_table(const gr_report_plan *p, gr_table **out);
int32_t gr_ladder_n_identical(const gr_report_data *d, int32_t *n_checked);

/* page_placements.c */
void gr_page_placements_head(gr_out *out, const gr_placements_data *d);
void gr_page_placements(gr_out *out, const gr_placements_data *d);
void gr_page_curves(gr_out *out, const gr_placements_data *d);
void gr_page_transfer(gr_out *out, const gr_placements_data *d);
/* page.c: the head of a page: title, a line that leads, the cluster, facts [n] (absent ones are left out), how it was made. */
typedef struct gr_page_fact { const char *name, *text; } gr_page_fact;
void gr_page_head_begin(gr_out *out, const gr_report_head *head, const char *lead, const gr_page_fact *facts, int n);
void gr_page_head_end(gr_out *out);

/* page_ladder.c */
void gr_page_head(gr_out *out, const gr_report_data *d);
void gr_page_ladder(gr_out *out, const gr_report_data *d);
void gr_page_times(gr_out *out, const gr_report_data *d);
/* page_maps.c */
/* Side by side on one colour scale: rows between GPUs and loads of a few ways to run the same thing. */
enum { GR_MAPS_MAX = 6 };
typedef struct gr_maps {
    int32_t n_nodes, gpus_per_node, n_layers;
    int32_t n;
    struct { const char *name; const int64_t *pair_rows, *load; } of[GR_MAPS_MAX];     /* NULL: not known */
} gr_maps;
void gr_page_traffic(gr_out *out, const gr_maps *maps);
void gr_page_load(gr_out *out, const gr_maps *maps);
void gr_page_experts(gr_out *out, const int64_t *load, int32_t n_layers, int32_t n_experts);    /* load [n_layers, n_experts]; NULL: not known */
void gr_page_affinity(gr_out *out, const gr_report_plan *p);
/* page_plan.c */
void gr_page_knee(gr_out *out, const gr_report_plan *p);
void gr_page_replicas(gr_out *out, const gr_report_plan *p);
void gr_page_texts(gr_out *out, const gr_report_data *d);
void gr_page_terms(gr_out *out);

#endif
