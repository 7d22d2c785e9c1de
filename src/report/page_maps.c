#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "report/format.h"
#include "report/html.h"
#include "report/page.h"
#include "report/svg.h"

#define DOWN "\xE2\x86\x93"
#define RIGHT "\xE2\x86\x92"

/* What one heat map points to, in one arena that is freed after drawing. */
typedef struct map_data {
    gr_arena *arena;
    double *values;                         /* [n_rows, n_cols] */
    gr_label *text;                         /* [n_rows, n_cols] */
    const char **cells;                     /* [n_rows, n_cols] into text */
    const char **row_names, **col_names;
    int32_t *nodes;                         /* [n_nodes] GPUs of each */
} map_data;

static grace_status map_alloc(map_data *m, int32_t n_rows, int32_t n_cols) {
    grace_status st = GRACE_OK;
    int64_t n = (int64_t)n_rows * n_cols;
    GR_CHECK((m->arena = gr_arena_new()) != NULL, GRACE_ERR_MEMORY, "no memory for a heat map");
    GR_ARENA_ARRAY(m->arena, m->values, n);
    GR_ARENA_ARRAY(m->arena, m->text, n);
    GR_ARENA_ARRAY(m->arena, m->cells, n);
    for (int64_t i = 0; i < n; i++) m->cells[i] = m->text[i].text;
done:
    return st;
}

/* "GPU 0", "GPU 1", ... or, for ids, the names of ids[0], ids[1], ... */
static grace_status name_all(gr_arena *arena, const char *prefix, const int64_t *ids, int32_t n, const char ***out) {
    grace_status st = GRACE_OK;
    gr_label *labels;
    GR_ARENA_ARRAY(arena, labels, n);
    GR_ARENA_ARRAY(arena, *out, n);
    for (int32_t i = 0; i < n; i++) {
        snprintf(labels[i].text, sizeof labels[i].text, "%s%d", prefix, ids ? (int)ids[i] : (int)i);
        (*out)[i] = labels[i].text;
    }
done:
    return st;
}

static grace_status group_by_node(gr_arena *arena, const gr_maps *maps, int32_t **out) {
    grace_status st = GRACE_OK;
    GR_ARENA_ARRAY(arena, *out, maps->n_nodes);
    for (int32_t i = 0; i < maps->n_nodes; i++) (*out)[i] = maps->gpus_per_node;
done:
    return st;
}

static int32_t n_ranks_of(const gr_maps *maps) { return maps->n_nodes * maps->gpus_per_node; }

static double cell_for(double room, int32_t n, double least, double most) { return fmin(fmax(floor(room / n), least), most); }

/* ---- rows between GPUs ---- */

static double largest_pair(const gr_maps *maps) {
    int32_t n = n_ranks_of(maps);
    int64_t most = 1;
    for (int32_t s = 0; s < maps->n; s++)
        for (int32_t i = 0; maps->of[s].pair_rows && i < n * n; i++)
            if (i / n != i % n && maps->of[s].pair_rows[i] > most) most = maps->of[s].pair_rows[i];
    return (double)most;
}

static grace_status draw_traffic(gr_out *out, const gr_maps *maps, int32_t which, double hi) {
    grace_status st = GRACE_OK;
    map_data m = {0};
    int32_t n = n_ranks_of(maps);
    GR_TRY(map_alloc(&m, n, n));
    GR_TRY(name_all(m.arena, "GPU ", NULL, n, &m.row_names));
    GR_TRY(group_by_node(m.arena, maps, &m.nodes));
    for (int32_t i = 0; i < n * n; i++) {
        m.values[i] = i / n == i % n ? NAN : (double)maps->of[which].pair_rows[i];
        m.text[i] = gr_label_short((double)maps->of[which].pair_rows[i]);
    }
    gr_heat_map map = {.title = maps->of[which].name,
                       .row_title = "from " DOWN,
                       .col_title = "to " RIGHT,
                       .legend = "rows",
                       .n_rows = n,
                       .n_cols = n,
                       .values = m.values,
                       .cells = m.cells,
                       .row_names = m.row_names,
                       .col_names = m.row_names,
                       .row_groups = m.nodes,
                       .col_groups = m.nodes,
                       .n_row_groups = maps->n_nodes,
                       .n_col_groups = maps->n_nodes,
                       .hi = hi,
                       .power = 1,
                       .cell_width = cell_for(380, n, 2, 76),
                       .cell_height = cell_for(380, n, 2, 54)};
    gr_html_figure(out);
    gr_svg_heat(out, &map);
    gr_html_figure_end(out, "");
done:
    gr_arena_free(m.arena);
    return st;
}

void gr_page_traffic(gr_out *out, const gr_maps *maps) {
    int32_t n = 0;
    for (int32_t i = 0; i < maps->n; i++) n += maps->of[i].pair_rows != NULL;
    gr_html_section(out, "Traffic between GPUs");
    if (n == 0) gr_html_missing(out, "The document has no rows by GPU pair (pair_rows) for what is compared.");
    else {
        gr_html_paragraph(out, "Rows sent from one GPU to another, dispatch and combine together, in every stage. Lines separate nodes. "
                               "Grey cells hold rows that stayed where they were. One colour scale for all maps.");
        gr_html_figures(out, 2);
        for (int32_t i = 0; i < maps->n && !out->st; i++)
            if (maps->of[i].pair_rows) out->st = draw_traffic(out, maps, i, largest_pair(maps));
        gr_html_figures_end(out);
    }
    gr_html_section_end(out);
}

/* ---- shares of a layer: what each GPU computes, or each expert is chosen for, over the layer's mean ---- */

/* value / mean of its row; 1 where a row has nothing at all. */
static double over_mean(const int64_t *values, int32_t n_cols, int32_t row, int32_t col) {
    int64_t sum = 0;
    for (int32_t i = 0; i < n_cols; i++) sum += values[(int64_t)row * n_cols + i];
    return sum > 0 ? (double)values[(int64_t)row * n_cols + col] * n_cols / (double)sum : 1;
}

/* Half the span of the colours: the farthest any cell is from 1, up to 1 (twice its share, or none of it). */
static double farthest_from_one(const int64_t *values, int32_t n_rows, int32_t n_cols) {
    double far = 0.1;
    for (int32_t row = 0; row < n_rows; row++)
        for (int32_t col = 0; col < n_cols; col++) far = fmax(far, fabs(over_mean(values, n_cols, row, col) - 1));
    return fmin(ceil(far * 10) / 10, 1);
}

typedef struct share_map {
    const char *title, *col_title;
    const int64_t *values;          /* [n_rows layers, n_cols] */
    int32_t n_rows, n_cols;
    double far;                     /* colours end at 1 - far and 1 + far */
    double width;
    const gr_maps *nodes;           /* borders between nodes; NULL: none */
} share_map;

static grace_status draw_shares(gr_out *out, const share_map *s) {
    grace_status st = GRACE_OK;
    map_data m = {0};
    GR_TRY(map_alloc(&m, s->n_rows, s->n_cols));
    GR_TRY(name_all(m.arena, "", NULL, s->n_rows, &m.row_names));
    GR_TRY(name_all(m.arena, "", NULL, s->n_cols, &m.col_names));
    if (s->nodes) GR_TRY(group_by_node(m.arena, s->nodes, &m.nodes));
    for (int32_t i = 0; i < s->n_rows * s->n_cols; i++) {
        m.values[i] = over_mean(s->values, s->n_cols, i / s->n_cols, i % s->n_cols);
        m.text[i] = gr_label_real(m.values[i], 2);
    }
    gr_heat_map map = {.title = s->title,
                       .row_title = "layer " DOWN,
                       .col_title = s->col_title,
                       .legend = "load / mean",
                       .n_rows = s->n_rows,
                       .n_cols = s->n_cols,
                       .values = m.values,
                       .cells = m.cells,
                       .row_names = m.row_names,
                       .col_names = m.col_names,
                       .col_groups = m.nodes,
                       .n_col_groups = s->nodes ? s->nodes->n_nodes : 0,
                       .lo = 1 - s->far,
                       .hi = 1 + s->far,
                       .power = 1,
                       .diverging = true,
                       .cell_width = cell_for(s->width, s->n_cols, 4, 60),
                       .cell_height = cell_for(480, s->n_rows, 3, 24)};
    gr_html_figure(out);
    gr_svg_heat(out, &map);
    gr_html_figure_end(out, "");
done:
    gr_arena_free(m.arena);
    return st;
}

void gr_page_load(gr_out *out, const gr_maps *maps) {
    int32_t n = 0;
    double far = 0;
    for (int32_t i = 0; i < maps->n; i++)
        if (maps->of[i].load) far = fmax(far, farthest_from_one(maps->of[i].load, maps->n_layers, n_ranks_of(maps))), n++;
    gr_html_section(out, "Load by layer and GPU");
    if (n == 0) gr_html_missing(out, "The document has no loads by layer and GPU (load) for what is compared.");
    else {
        gr_html_paragraph(out,
                          "What a GPU computes in a layer, over the mean of the layer's GPUs: 1 is its fair share. Orange GPUs keep the others "
                          "waiting, blue ones wait.");
        gr_html_figures(out, 3);
        for (int32_t i = 0; i < maps->n && !out->st; i++) {
            share_map s = {.title = maps->of[i].name, .col_title = "GPU " RIGHT, .values = maps->of[i].load, .n_rows = maps->n_layers,
                           .n_cols = n_ranks_of(maps), .far = far, .width = 250, .nodes = maps};
            if (s.values) out->st = draw_shares(out, &s);
        }
        gr_html_figures_end(out);
    }
    gr_html_section_end(out);
}

void gr_page_experts(gr_out *out, const int64_t *load, int32_t n_layers, int32_t n_experts) {
    gr_html_section(out, "Load by layer and expert");
    if (!load) gr_html_missing(out, "The document has no loads of experts (expert_load).");
    else {
        share_map s = {.title = "Tokens that chose the expert, over the layer's mean", .col_title = "expert " RIGHT, .values = load, .n_rows = n_layers,
                       .n_cols = n_experts, .far = farthest_from_one(load, n_layers, n_experts), .width = 960};
        gr_html_paragraph(out, "What the model itself asks for, before any placement: orange experts are hot, blue ones rarely chosen.");
        gr_html_figures(out, 1);
        grace_status st = draw_shares(out, &s);
        if (!out->st) out->st = st;
        gr_html_figures_end(out);
    }
    gr_html_section_end(out);
}

/* ---- affinity ---- */

static int compare_values(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* The colours end at the 99.5th percentile: a few pairs far above the rest would leave all others pale. */
static grace_status robust_max(const double *values, int64_t n, gr_arena *arena, double *out) {
    grace_status st = GRACE_OK;
    double *sorted;
    int64_t n_sorted = 0;
    GR_ARENA_ARRAY(arena, sorted, n);
    for (int64_t i = 0; i < n; i++)
        if (!isnan(values[i])) sorted[n_sorted++] = values[i];
    qsort(sorted, (size_t)n_sorted, sizeof *sorted, compare_values);
    *out = n_sorted ? fmax(sorted[(int64_t)(0.995 * (double)(n_sorted - 1))], 1) : 1;
done:
    return st;
}

static grace_status fill_affinity(const gr_report_affinity *a, bool grouped, map_data *m, double *hi) {
    grace_status st = GRACE_OK;
    int64_t n = a->n;
    GR_ARENA_ARRAY(m->arena, m->values, n * n);
    for (int64_t i = 0; i < n * n; i++) {
        int64_t row = grouped ? a->order[i / n] : i / n, col = grouped ? a->order[i % n] : i % n;
        m->values[i] = row == col ? NAN : (double)a->values[row * n + col];
    }
    GR_TRY(robust_max(m->values, n * n, m->arena, hi));
    GR_TRY(grouped ? name_all(m->arena, "GPU ", a->ranks, a->n_groups, &m->row_names) : name_all(m->arena, "", NULL, a->n, &m->row_names));
done:
    return st;
}

static grace_status draw_affinity(gr_out *out, const gr_report_affinity *a, bool grouped) {
    grace_status st = GRACE_OK;
    map_data m = {.arena = gr_arena_new()};
    double hi = 1, cell = cell_for(420, a->n, 1, 24);
    GR_CHECK(m.arena, GRACE_ERR_MEMORY, "no memory for a heat map");
    GR_TRY(fill_affinity(a, grouped, &m, &hi));
    gr_heat_map map = {.title = grouped ? "Ordered by group" : "In order of expert id",
                       .row_title = "expert " DOWN,
                       .col_title = "expert " RIGHT,
                       .legend = "tokens that chose both",
                       .n_rows = a->n,
                       .n_cols = a->n,
                       .values = m.values,
                       .row_names = m.row_names,
                       .col_names = m.row_names,
                       .hi = hi,
                       .power = 0.6,
                       .cell_width = cell,
                       .cell_height = cell};
    if (grouped) {
        map.row_groups = map.col_groups = a->groups;
        map.n_row_groups = map.n_col_groups = a->n_groups;
        map.names_of_groups = true;
    }
    gr_html_figure(out);
    gr_svg_heat(out, &map);
    gr_html_figure_end(out, "");
done:
    gr_arena_free(m.arena);
    return st;
}

/* Share of all pairs' affinity that lies inside groups, each pair once. */
static double share_inside(const gr_report_affinity *a) {
    int64_t inside = 0, all = 0;
    for (int32_t g = 0, first = 0; g < a->n_groups; first += a->groups[g++])
        for (int32_t i = first; i < first + a->groups[g]; i++)
            for (int32_t j = i + 1; j < first + a->groups[g]; j++) inside += a->values[a->order[i] * a->n + a->order[j]];
    for (int32_t i = 0; i < a->n; i++)
        for (int32_t j = i + 1; j < a->n; j++) all += a->values[i * a->n + j];
    return all > 0 ? (double)inside / (double)all : 0;
}

void gr_page_affinity(gr_out *out, const gr_report_plan *p) {
    const gr_report_affinity *a = p->affinity;
    gr_html_section(out, "Affinity and groups");
    if (!a) gr_html_missing(out, "The document has no affinity matrix (affinity).");
    else {
        gr_html_paragraph(out,
                          "How often one token chooses both experts, in layer %d. Experts that are chosen together belong on one GPU: ordered by "
                          "group, their pairs gather in "
                          "the blocks on the diagonal, which hold %.1f%% of all affinity.",
                          (int)a->layer, 100 * share_inside(a));
        gr_html_figures(out, 2);
        for (int grouped = 0; grouped < 2 && !out->st; grouped++) {
            grace_status st = draw_affinity(out, a, grouped);
            if (!out->st) out->st = st;
        }
        gr_html_figures_end(out);
    }
    gr_html_section_end(out);
}
