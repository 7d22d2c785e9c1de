#include <stdio.h>
#include <string.h>

#include "report/format.h"
#include "report/html.h"
#include "report/page.h"
#include "report/svg.h"

/* ---- the (S, U) curve ---- */

typedef struct curve { double *x, *y; char (*text)[80]; const char **names; } curve;

static grace_status build_curve(gr_arena *arena, const gr_report_plan *p, curve *c) {
    grace_status st = GRACE_OK;
    GR_ARENA_ARRAY(arena, c->x, p->n_knee);
    GR_ARENA_ARRAY(arena, c->y, p->n_knee);
    GR_ARENA_ARRAY(arena, c->text, p->n_knee);
    GR_ARENA_ARRAY(arena, c->names, p->n_knee);
    for (int32_t i = 0; i < p->n_knee; i++) {
        const gr_report_knee *point = &p->knee[i];
        c->x[i] = point->size_std;
        c->y[i] = point->utility;
        snprintf(c->text[i], sizeof *c->text, "r = %.4f, delta = %d: S = %.3f, U = %.4f", point->r, (int)point->delta, point->size_std, point->utility);
        c->names[i] = c->text[i];
    }
done:
    return st;
}

static grace_status draw_knee(gr_out *out, const gr_report_plan *p) {
    grace_status st = GRACE_OK;
    const gr_report_knee *chosen = &p->knee[p->knee_chosen];
    curve c = {0};
    char label[64];
    gr_arena *arena = gr_arena_new();
    GR_CHECK(arena, GRACE_ERR_MEMORY, "no memory for a curve");
    GR_TRY(build_curve(arena, p, &c));
    snprintf(label, sizeof label, "r = %.2f, delta = %d", chosen->r, (int)chosen->delta);
    gr_line_chart chart = {.title = "Affinity inside groups against uneven sizes",
                           .x_title = "S: standard deviation of group sizes",
                           .y_title = "U: share of affinity inside groups",
                           .n_points = p->n_knee,
                           .x = c.x,
                           .y = c.y,
                           .names = c.names,
                           .marked = p->knee_chosen,
                           .mark_label = label,
                           .chord = true,
                           .width = 760,
                           .height = 400};
    gr_html_figures(out, 1);
    gr_html_figure(out);
    gr_svg_line(out, &chart);
    gr_html_figure_end(out, "One point a candidate ratio. The knee is the point farthest from the dashed chord between the first and the last.");
    gr_html_figures_end(out);
done:
    gr_arena_free(arena);
    return st;
}

void gr_page_knee(gr_out *out, const gr_report_plan *p) {
    gr_html_section(out, "Choice of the ratio r");
    if (p->n_knee == 0) gr_html_missing(out, "The document has no curve (knee): the ratio was given, or the plan does not use one.");
    else {
        gr_html_paragraph(out,
                          "Groups may grow past the even size by a ratio r. More room keeps more affinity inside groups and makes groups, and with "
                          "them loads, uneven.");
        grace_status st = draw_knee(out, p);
        if (!out->st) out->st = st;
    }
    gr_html_section_end(out);
}

/* ---- replicas ---- */

static int64_t count_copies(const gr_report_plan *p) {
    int64_t n = 0;
    for (int32_t i = 0; i < p->n_replicas; i++) n += p->replicas[i].first_host[p->replicas[i].n_experts];
    return n;
}

void gr_page_replicas(gr_out *out, const gr_report_plan *p) {
    gr_table *table = NULL;
    gr_html_section(out, "Replicas");
    if (p->n_replicas < 0) gr_html_missing(out, "The document has no replicas.");
    else if (p->n_replicas == 0) gr_html_paragraph(out, "No expert has a copy.");
    else {
        gr_html_paragraph(out,
                          "Hot experts of a layer's heaviest GPU, copied to its least loaded ones: %s copies in all. The primary stays where it is.",
                          gr_label_count(count_copies(p)).text);
        grace_status st = gr_replica_table(p, &table);
        if (st && !out->st) out->st = st;
        if (!out->st) gr_html_table(out, table, "");
    }
    gr_table_free(table);
    gr_html_section_end(out);
}

/* ---- generated text ---- */

void gr_page_texts(gr_out *out, const gr_report_data *d) {
    gr_html_section(out, "Generated text");
    if (d->n_texts == 0) gr_html_missing(out, "The document has no generated text.");
    else gr_html_paragraph(out, "Prompts in grey, what the model wrote after them in black.");
    for (int32_t i = 0; i < d->n_texts; i++) {
        gr_out_put(out, "<div class=\"sample\"><h3>");
        gr_out_text(out, d->texts[i].domain ? d->texts[i].domain : "text");
        gr_out_put(out, "</h3><pre><span class=\"prompt\">");
        gr_out_text(out, d->texts[i].prompt);
        gr_out_put(out, "</span>");
        gr_out_text(out, d->texts[i].generated);
        gr_out_put(out, "</pre></div>\n");
    }
    gr_html_section_end(out);
}

/* ---- definitions (docs/architecture.md, Numbers) ---- */

void gr_page_terms(gr_out *out) {
    static const char *const terms[][2] = {
        {"row", "One token's hidden vector crossing a link."},
        {"rows cross-node, intra-node",
         "Rows dispatched plus combined between GPUs of different nodes, and between GPUs of one node. Rows that stay on their GPU count as neither. "
         "Bytes are those of the same rows."},
        {"change", "Against the rung marked base: (value - base) / base."},
        {"load", "(token, expert) pairs a GPU computes in a layer."},
        {"load max/mean", "Largest load over mean load of a layer's GPUs, averaged over layers. 1 is perfect balance."},
        {"load std", "Standard deviation of a layer's loads over GPUs, averaged over layers, in pairs."},
        {"idle",
         "Sum over GPUs of (the slowest GPU's expert time - its own), over all layers and steps. Computed as load differences times the measured "
         "time of a pair."},
        {"idle measured",
         "The same sum from measured times; only taken where every GPU has a core of its own, because elsewhere it measures the scheduler."},
        {"MoE time", "Route, dispatch, experts and combine of the slowest GPU. Whiskers: the spread of repeated runs."},
        {"wall time", "From the first step of the run to its end, attention and sampling included."},
        {"memory", "Slots of the fullest GPU over all layers, as a multiple of an even share of the experts. Replicas and KV tokens displaced are "
                   "its copies in "
         "bytes, and the KV cache that would fit in their place."},
        {"prefill, decode", "Predicted time of a step: rows over link rates, experts over compute and memory rates, of the slowest GPU and link."},
        {"identical",
         "In exact mode, the bit hash of all logits of all sequences equals that of a run in one process. Counts, loads and times come from the fast "
         "mode."},
        {"replica slots", "Copies of experts beyond their primaries, over all layers and GPUs."},
        {"affinity", "Tokens that chose both experts of a pair, counted while profiling."},
        {"S, U, r",
         "S: standard deviation of group sizes around the even size. U: share of all affinity inside groups. r: how far sizes may leave the even "
         "size, as a share of it."},
        {"per-expert, flat, hsc",
         "Exchanges. A copy of a row for every chosen expert; one for every GPU; one for every node, then one for every GPU of it."},
        {"primary, wrr, tar",
         "Routing among copies. Always the primary; weighted round robin over all copies; copies near the token first (same GPU, same node, then "
         "all)."},
    };
    gr_html_section(out, "What the numbers mean");
    gr_html_list(out, "terms");
    for (size_t i = 0; i < sizeof terms / sizeof *terms; i++) gr_html_list_item(out, terms[i][0], terms[i][1]);
    gr_html_list_end(out);
    gr_html_section_end(out);
}
