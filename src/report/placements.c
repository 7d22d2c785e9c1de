#include "report/placements.h"

#include <stdio.h>
#include <stdlib.h>

#include "report/read.h"

enum { VERSION = 1, PLACEMENTS_MAX = 64, CURVES_MAX = 64, SERIES_MAX = 16, POINTS_MAX = 64, DOMAINS_MAX = 64 };

/* ---- what was planned ---- */

static grace_status read_trace(const gr_json *doc, gr_placements_data *d) {
    grace_status st = GRACE_OK;
    static const char where[] = "report: trace";
    const gr_json *trace;
    int64_t layers, experts;
    GR_TRY(gr_json_object_in(doc, "report", "trace", &trace));
    GR_TRY(gr_json_string(trace, where, "name", &d->trace));
    GR_TRY(gr_json_string_or(trace, where, "tested_on", NULL, &d->tested_on));
    GR_TRY(gr_json_bool_or(trace, where, "synthetic", false, &d->synthetic));
    GR_TRY(gr_json_int(trace, where, "layers", 1, GR_REPORT_LAYERS_MAX, &layers));
    GR_TRY(gr_json_int(trace, where, "experts", 1, GR_REPORT_EXPERTS_MAX, &experts));
    GR_TRY(gr_read_count_or_none(trace, where, "top_k", GR_REPORT_EXPERTS_MAX, &d->top_k));
    GR_TRY(gr_read_count_or_none(trace, where, "tokens", GR_COUNT_MAX, &d->n_tokens));
    d->n_layers = (int32_t)layers, d->n_experts = (int32_t)experts;
    GR_TRY(gr_read_matrix_or_none(d->arena, doc, "report", "expert_load", (size_t)layers, (size_t)experts, &d->expert_load, NULL));
done:
    return st;
}

/* ---- plans ---- */

static grace_status read_numbers(const gr_json *json, const char *where, gr_placement *p) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_json_string(json, where, "name", &p->name));
    GR_TRY(gr_json_string_or(json, where, "planner", NULL, &p->planner));
    GR_TRY(gr_json_string_or(json, where, "planned_from", NULL, &p->planned_from));
    GR_TRY(gr_read_real_or_none(json, where, "memory", &p->memory));
    GR_TRY(gr_read_count_or_none(json, where, "slots_fullest", GR_COUNT_MAX, &p->slots_fullest));
    GR_TRY(gr_read_count_or_none(json, where, "slots_total", GR_COUNT_MAX, &p->slots_total));
    GR_TRY(gr_read_count_or_none(json, where, "replica_bytes", GR_BYTES_MAX, &p->replica_bytes));
    GR_TRY(gr_read_count_or_none(json, where, "kv_tokens_displaced", GR_COUNT_MAX, &p->kv_tokens_displaced));
    GR_TRY(gr_read_real(json, where, "rows_cross", &p->rows_cross));
    GR_TRY(gr_read_real(json, where, "rows_intra", &p->rows_intra));
    GR_TRY(gr_read_real(json, where, "load_max_over_mean", &p->load_max_over_mean));
    GR_TRY(gr_read_real_or_none(json, where, "load_std", &p->load_std));
    GR_TRY(gr_read_real_or_none(json, where, "load_floor", &p->load_floor));
    GR_TRY(gr_read_real_or_none(json, where, "prefill_us", &p->prefill_us));
    GR_TRY(gr_read_real_or_none(json, where, "decode_us", &p->decode_us));
done:
    return st;
}

static grace_status read_placements(const gr_json *doc, gr_placements_data *d) {
    grace_status st = GRACE_OK;
    const gr_json *plans;
    size_t n, ranks = (size_t)d->head.n_ranks;
    bool strong;
    GR_TRY(gr_read_array(doc, "report", "plans", 1, PLACEMENTS_MAX, &plans, &n));
    GR_ARENA_ARRAY(d->arena, d->of, n);
    d->strong = (int32_t)n - 1;
    for (size_t i = 0; i < n; i++) {
        gr_place at = gr_place_at("plans", i);
        const gr_json *json = gr_json_at(plans, i);
        gr_placement *p = &d->of[i];
        GR_CHECK(gr_json_kind_of(json) == GR_JSON_OBJECT, GRACE_ERR_FORMAT, "%s: expected an object, found %s", at.text, gr_json_kind_name(json));
        GR_TRY(read_numbers(json, at.text, p));
        GR_TRY(gr_read_matrix_or_none(d->arena, json, at.text, "pair_rows", ranks, ranks, &p->pair_rows, NULL));
        GR_TRY(gr_read_matrix_or_none(d->arena, json, at.text, "load", (size_t)d->n_layers, ranks, &p->load, NULL));
        GR_TRY(gr_report_read_plan(json, d->arena, d->head.n_ranks, &p->plan));
        GR_TRY(gr_json_bool_or(json, at.text, "strong", false, &strong));
        if (strong) d->strong = (int32_t)i;
    }
    d->n = (int32_t)n;
done:
    return st;
}

/* ---- rows and time against memory ---- */

static grace_status read_points(const gr_json *json, const char *where, gr_arena *arena, gr_curve_series *s) {
    grace_status st = GRACE_OK;
    const gr_json *points;
    size_t n;
    GR_TRY(gr_json_string(json, where, "planner", &s->planner));
    GR_TRY(gr_read_array(json, where, "points", 0, POINTS_MAX, &points, &n));
    GR_ARENA_ARRAY(arena, s->memory, n);
    GR_ARENA_ARRAY(arena, s->rows_cross, n);
    if (n > 0 && gr_json_kind_of(gr_json_get(gr_json_at(points, 0), "step_us")) != GR_JSON_NULL) GR_ARENA_ARRAY(arena, s->step_us, n);
    for (size_t i = 0; i < n; i++) {
        GR_TRY(gr_read_real(gr_json_at(points, i), where, "memory", &s->memory[i]));
        GR_TRY(gr_read_real(gr_json_at(points, i), where, "rows_cross", &s->rows_cross[i]));
        if (s->step_us) GR_TRY(gr_read_real(gr_json_at(points, i), where, "step_us", &s->step_us[i]));
    }
    s->n = (int32_t)n;
done:
    return st;
}

static grace_status read_curve(const gr_json *json, const char *where, gr_arena *arena, gr_memory_curve *c) {
    grace_status st = GRACE_OK;
    const gr_json *series;
    char inside[160];
    size_t n;
    GR_TRY(gr_json_string(json, where, "trace", &c->trace));
    GR_TRY(gr_json_string(json, where, "cluster", &c->cluster));
    GR_TRY(gr_read_array(json, where, "series", 1, SERIES_MAX, &series, &n));
    GR_ARENA_ARRAY(arena, c->series, n);
    for (size_t i = 0; i < n; i++) {
        snprintf(inside, sizeof inside, "%s: series[%zu]", where, i);
        GR_TRY(read_points(gr_json_at(series, i), inside, arena, &c->series[i]));
    }
    c->n_series = (int32_t)n;
done:
    return st;
}

static grace_status read_curves(const gr_json *doc, gr_placements_data *d) {
    grace_status st = GRACE_OK;
    const gr_json *curves;
    GR_TRY(gr_read_array_or_none(doc, "report", "curves", &curves));
    size_t n = gr_json_length(curves);
    GR_CHECK(n <= CURVES_MAX, GRACE_ERR_FORMAT, "report: 'curves': expected at most %d elements, found %zu", CURVES_MAX, n);
    GR_ARENA_ARRAY(d->arena, d->curves, n);
    for (size_t i = 0; i < n; i++) {
        gr_place p = gr_place_at("curves", i);
        GR_TRY(read_curve(gr_json_at(curves, i), p.text, d->arena, &d->curves[i]));
    }
    d->n_curves = (int32_t)n;
done:
    return st;
}

/* ---- planned on one domain, run on another ---- */

static grace_status read_reals(const gr_json *array, const char *where, const char *key, size_t n, double *out) {
    grace_status st = GRACE_OK;
    char inside[160];
    snprintf(inside, sizeof inside, "%s: '%s'", where, key);
    GR_CHECK(gr_json_kind_of(array) == GR_JSON_ARRAY && gr_json_length(array) == n, GRACE_ERR_FORMAT, "%s: expected an array of %zu numbers", inside, n);
    for (size_t i = 0; i < n; i++) {
        GR_TRY(gr_json_real_at(array, inside, i, &out[i]));
        GR_CHECK(out[i] >= 0 && out[i] <= GR_REAL_MAX, GRACE_ERR_FORMAT, "%s: expected 0 to 1e15, found %g", inside, out[i]);
    }
done:
    return st;
}

static grace_status read_transfer(const gr_json *doc, gr_placements_data *d) {
    grace_status st = GRACE_OK;
    static const char where[] = "report: transfer";
    const gr_json *json, *domains, *rows;
    gr_transfer *t;
    size_t n, n_rows;
    GR_TRY(gr_read_object_or_none(doc, "report", "transfer", &json));
    if (!json) goto done;
    GR_ARENA_ARRAY(d->arena, t, 1);
    GR_TRY(gr_json_string(json, where, "planner", &t->planner));
    GR_TRY(gr_read_array(json, where, "domains", 1, DOMAINS_MAX, &domains, &n));
    GR_TRY(gr_read_array(json, where, "rows", n, n, &rows, &n_rows));
    GR_ARENA_ARRAY(d->arena, t->domains, n);
    GR_ARENA_ARRAY(d->arena, t->rows, n * n);
    GR_ARENA_ARRAY(d->arena, t->contiguous, n);
    for (size_t i = 0; i < n; i++) {
        GR_CHECK(gr_json_is_string(gr_json_at(domains, i), &t->domains[i], NULL), GRACE_ERR_FORMAT, "%s: 'domains[%zu]': expected a string", where, i);
        GR_TRY(read_reals(gr_json_at(rows, i), where, "rows", n, t->rows + i * n));
    }
    GR_TRY(read_reals(gr_json_get(json, "contiguous"), where, "contiguous", n, t->contiguous));
    t->n = (int32_t)n;
    d->transfer = t;
done:
    return st;
}

grace_status gr_placements_build(const gr_json *doc, gr_placements_data **out) {
    grace_status st = GRACE_OK;
    gr_placements_data *d = NULL;
    GR_CALLOC(d, 1);
    GR_CHECK((d->arena = gr_arena_new()) != NULL, GRACE_ERR_MEMORY, "no memory for a report");
    GR_TRY(gr_report_read_head(doc, "grace_placements", VERSION, &d->head));
    GR_TRY(read_trace(doc, d));
    GR_TRY(read_placements(doc, d));
    GR_TRY(read_curves(doc, d));
    GR_TRY(read_transfer(doc, d));
    *out = d, d = NULL;
done:
    gr_placements_free(d);
    return st;
}

void gr_placements_free(gr_placements_data *data) {
    if (!data) return;
    gr_arena_free(data->arena);
    free(data);
}
