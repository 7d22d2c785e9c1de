#include <stdio.h>

#include "report/html.h"
#include "report/page.h"
#include "report/report.h"

/* ---- what every page begins with ---- */

static void put_fact(gr_out *out, const char *name, const char *text) {
    if (text && *text) gr_html_list_item(out, name, text);
}

void gr_page_head_begin(gr_out *out, const gr_report_head *head, const char *lead, const gr_page_fact *facts, int n) {
    char cluster[96];
    snprintf(cluster, sizeof cluster, "%d node%s with %d GPU%s each", (int)head->n_nodes, head->n_nodes == 1 ? "" : "s", (int)head->gpus_per_node,
             head->gpus_per_node == 1 ? "" : "s");
    gr_out_put(out, "<header>\n<h1>");
    gr_out_text(out, head->title);
    gr_out_put(out, "</h1>\n<p class=\"lead\">");
    gr_out_text(out, lead);
    gr_out_put(out, "</p>\n");
    gr_html_list(out, "facts");
    put_fact(out, "cluster", cluster);
    for (int i = 0; i < n; i++) put_fact(out, facts[i].name, facts[i].text);
    put_fact(out, "command", head->command);
    put_fact(out, "commit", head->commit);
    put_fact(out, "machine", head->machine);
    put_fact(out, "date", head->date);
    gr_html_list_end(out);
}

void gr_page_head_end(gr_out *out) { gr_out_put(out, "</header>\n"); }

/* ---- a page about a ladder ---- */

/* The first rung, the baseline and the last one; none twice. */
static gr_maps maps_of(const gr_report_data *d, bool first) {
    const int32_t wanted[3] = {first || d->baseline < 0 ? 0 : d->baseline, d->baseline < 0 ? 0 : d->baseline, d->n_rungs - 1};
    gr_maps maps = {.n_nodes = d->head.n_nodes, .gpus_per_node = d->head.gpus_per_node, .n_layers = d->n_layers};
    for (int i = 0, last = -1; i < 3; i++) {
        const gr_report_rung *rung = &d->rungs[wanted[i]];
        if (wanted[i] == last) continue;
        maps.of[maps.n].name = rung->name, maps.of[maps.n].pair_rows = rung->pair_rows, maps.of[maps.n++].load = rung->load;
        last = wanted[i];
    }
    return maps;
}

static void put_page(gr_out *out, const gr_report_data *d) {
    gr_maps traffic = maps_of(d, false), load = maps_of(d, true);
    gr_html_begin(out, d->head.title);
    gr_page_head(out, d);
    gr_page_ladder(out, d);
    gr_page_times(out, d);
    gr_page_traffic(out, &traffic);
    gr_page_load(out, &load);
    gr_page_affinity(out, &d->plan);
    gr_page_knee(out, &d->plan);
    gr_page_replicas(out, &d->plan);
    gr_page_texts(out, d);
    gr_page_terms(out);
    gr_html_end(out);
}

static grace_status ladder_page(gr_out *out, const gr_json *doc) {
    gr_report_data *d = NULL;
    grace_status st = gr_report_data_build(doc, &d);
    if (!st) put_page(out, d);
    gr_report_data_free(d);
    return st;
}

/* ---- a page about placements: maps of the first plan and of the one with fewest rows, then what one plan has ---- */

enum { MAPS_SHOWN = 4 };

static gr_maps maps_of_placements(const gr_placements_data *d) {
    gr_maps maps = {.n_nodes = d->head.n_nodes, .gpus_per_node = d->head.gpus_per_node, .n_layers = d->n_layers};
    for (int32_t i = 0; i < d->n && maps.n < MAPS_SHOWN; i++) {
        if (d->n > MAPS_SHOWN && i > 0 && i < d->n - (MAPS_SHOWN - 1)) continue;       /* the first and the last ones */
        maps.of[maps.n].name = d->of[i].name, maps.of[maps.n].pair_rows = d->of[i].pair_rows, maps.of[maps.n++].load = d->of[i].load;
    }
    return maps;
}

/* The last plan that has the part. */
static const gr_report_plan *plan_with(const gr_placements_data *d, bool (*has)(const gr_report_plan *)) {
    for (int32_t i = d->n - 1; i > 0; i--)
        if (has(&d->of[i].plan)) return &d->of[i].plan;
    return &d->of[0].plan;
}

static bool has_affinity(const gr_report_plan *p) { return p->affinity != NULL; }
static bool has_knee(const gr_report_plan *p) { return p->n_knee > 0; }
static bool has_replicas(const gr_report_plan *p) { return p->n_replicas > 0; }

static void put_placements(gr_out *out, const gr_placements_data *d) {
    gr_maps maps = maps_of_placements(d);
    gr_html_begin(out, d->head.title);
    gr_page_placements_head(out, d);
    gr_page_placements(out, d);
    gr_page_curves(out, d);
    gr_page_transfer(out, d);
    gr_page_traffic(out, &maps);
    gr_page_load(out, &maps);
    gr_page_experts(out, d->expert_load, d->n_layers, d->n_experts);
    gr_page_affinity(out, plan_with(d, has_affinity));
    gr_page_knee(out, plan_with(d, has_knee));
    gr_page_replicas(out, plan_with(d, has_replicas));
    gr_page_terms(out);
    gr_html_end(out);
}

static grace_status placements_page(gr_out *out, const gr_json *doc) {
    gr_placements_data *d = NULL;
    grace_status st = gr_placements_build(doc, &d);
    if (!st) put_placements(out, d);
    gr_placements_free(d);
    return st;
}

bool gr_report_is_placements(const gr_json *doc) { return gr_json_get(doc, "grace_placements") != NULL; }

grace_status gr_report_html(const gr_json *doc, gr_buf *buf) {
    grace_status st = GRACE_OK;
    gr_out out = {0};
    GR_TRY(gr_report_is_placements(doc) ? placements_page(&out, doc) : ladder_page(&out, doc));
    GR_TRY(out.st);
    GR_TRY(gr_buf_append(buf, out.buf.data, out.buf.n));
done:
    gr_out_free(&out);
    return st;
}
