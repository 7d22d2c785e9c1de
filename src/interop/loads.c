#include "interop/loads.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/memory.h"
#include "plan/trace.h"

#define AFFINITY_BYTES_MAX ((int64_t)8 << 30)       /* what grace_profile_build() allows */

typedef struct row { int32_t layer, expert; double count; int64_t line; } row;
typedef struct rows { row *items; size_t n, capacity; } rows;

/* ---- CSV ---- */

static grace_status add_row(rows *r, row value) {
    grace_status st = GRACE_OK;
    GR_RESERVE(r->items, r->n + 1, r->capacity);
    r->items[r->n++] = value;
done:
    return st;
}

static grace_status read_rows(const char *where, const char *text, size_t n, rows *out) {
    grace_status st = GRACE_OK;
    static const char *const names[] = {"layer", "expert", "count"};
    gr_csv csv;
    GR_TRY(gr_csv_open(where, text, n, names, 3, &csv));
    for (;;) {
        double values[3] = {0};
        int64_t layer = 0, expert = 0;
        bool more = false;
        GR_TRY(gr_csv_next(&csv, values, &more));
        if (!more) break;
        GR_TRY(gr_csv_whole(&csv, "layer", values[0], INT32_MAX, &layer));
        GR_TRY(gr_csv_whole(&csv, "expert", values[1], GR_TRACE_EXPERTS_MAX - 1, &expert));
        GR_TRY(add_row(out, (row){(int32_t)layer, (int32_t)expert, values[2], csv.line}));
    }
    GR_CHECK(out->n > 0, GRACE_ERR_FORMAT, "%s: no rows", where);
done:
    return st;
}

static int by_layer_expert(const void *a, const void *b) {
    const row *x = a, *y = b;
    if (x->layer != y->layer) return x->layer < y->layer ? -1 : 1;
    return (x->expert > y->expert) - (x->expert < y->expert);
}

/* Sorted rows are a full table when row i is expert i mod n of layer number i / n. */
static grace_status check_full(const char *where, const rows *r, int32_t n_experts) {
    grace_status st = GRACE_OK;
    size_t n = (size_t)n_experts;
    for (size_t i = 0; i < r->n; i++) {
        const row *x = &r->items[i];
        bool repeated = i > 0 && by_layer_expert(x, x - 1) == 0;
        GR_CHECK(!repeated, GRACE_ERR_FORMAT, "%s: line %" PRId64 ": expert %d of layer %d stands in line %" PRId64 " too", where, x->line, x->expert,
                 x->layer, r->items[i - (i > 0)].line);
        GR_CHECK(x->expert == (int32_t)(i % n) && x->layer == r->items[i - i % n].layer && (i % n > 0 || i == 0 || x->layer != (x - 1)->layer),
                 GRACE_ERR_FORMAT, "%s: expected every expert from 0 to %d in every layer; one is missing before line %" PRId64 " (layer %d, expert %d)",
                 where, n_experts - 1, x->line, x->layer, x->expert);
    }
    GR_CHECK(r->n % n == 0, GRACE_ERR_FORMAT, "%s: the last layer has %zu experts, expected %d", where, r->n % n, n_experts);
done:
    return st;
}

grace_status gr_loads_alloc(const char *where, int64_t n_layers, int64_t n_experts, gr_loads *out) {
    grace_status st = GRACE_OK;
    bool fits = n_layers >= 1 && n_layers <= GR_TRACE_LAYERS_MAX && n_experts >= 1 && n_experts <= GR_TRACE_EXPERTS_MAX;
    GR_CHECK(fits, GRACE_ERR_FORMAT, "%s: expected 1 to %d layers of 1 to %d experts, found %" PRId64 " of %" PRId64, where, GR_TRACE_LAYERS_MAX,
             GR_TRACE_EXPERTS_MAX, n_layers, n_experts);
    out->n_layers = (int32_t)n_layers;
    out->n_experts = (int32_t)n_experts;
    GR_CALLOC(out->layer_id, n_layers);
    GR_CALLOC(out->load, n_layers * n_experts);
    for (int32_t l = 0; l < out->n_layers; l++) out->layer_id[l] = l;
done:
    return st;
}

grace_status gr_loads_parse_csv(const char *where, const char *text, size_t n, gr_loads *out) {
    grace_status st = GRACE_OK;
    rows r = {0};
    gr_loads loads = {0};
    int32_t n_experts = 0;
    GR_TRY(read_rows(where, text, n, &r));
    qsort(r.items, r.n, sizeof *r.items, by_layer_expert);
    for (size_t i = 0; i < r.n; i++)
        if (r.items[i].expert >= n_experts) n_experts = r.items[i].expert + 1;
    GR_TRY(check_full(where, &r, n_experts));
    GR_TRY(gr_loads_alloc(where, (int64_t)r.n / n_experts, n_experts, &loads));
    for (size_t i = 0; i < r.n; i++) loads.load[i] = r.items[i].count;
    for (int32_t l = 0; l < loads.n_layers; l++) loads.layer_id[l] = r.items[(size_t)l * (size_t)n_experts].layer;
    *out = loads, loads = (gr_loads){0};
done:
    gr_loads_free(&loads);
    free(r.items);
    return st;
}

/* ---- JSON ---- */

static grace_status read_json_row(const char *where, const gr_json *array, int32_t layer, gr_loads *loads) {
    grace_status st = GRACE_OK;
    char at[320];
    snprintf(at, sizeof at, "%.280s: row %d", where, layer);
    GR_CHECK(gr_json_kind_of(array) == GR_JSON_ARRAY && gr_json_length(array) == (size_t)loads->n_experts, GRACE_ERR_FORMAT,
             "%s: expected an array of %d loads, found %s of %zu", at, loads->n_experts, gr_json_kind_name(array), gr_json_length(array));
    for (int32_t e = 0; e < loads->n_experts; e++) {
        double *load = &loads->load[(size_t)layer * (size_t)loads->n_experts + (size_t)e];
        GR_TRY(gr_json_real_at(array, at, (size_t)e, load));
        GR_CHECK(isfinite(*load) && *load >= 0, GRACE_ERR_FORMAT, "%s: [%d]: expected a load of 0 or more, found %g", at, e, *load);
    }
done:
    return st;
}

grace_status gr_loads_parse_json(const char *where, const char *text, size_t n, gr_loads *out) {
    grace_status st = GRACE_OK;
    gr_json *root = NULL;
    gr_loads loads = {0};
    GR_TRY(gr_json_parse(where, text, n, &root));
    GR_CHECK(!gr_json_get(root, "grace_plan"), GRACE_ERR_FORMAT, "%s: expected routing to plan from (a trace, or arrays of loads), found a plan", where);
    GR_CHECK(gr_json_kind_of(root) == GR_JSON_ARRAY, GRACE_ERR_FORMAT, "%s: expected an array of arrays of loads, found %s", where,
             gr_json_kind_name(root));
    GR_TRY(gr_loads_alloc(where, (int64_t)gr_json_length(root), (int64_t)gr_json_length(gr_json_at(root, 0)), &loads));
    for (int32_t l = 0; l < loads.n_layers; l++) GR_TRY(read_json_row(where, gr_json_at(root, (size_t)l), l, &loads));
    *out = loads, loads = (gr_loads){0};
done:
    gr_json_free(root);
    gr_loads_free(&loads);
    return st;
}

/* ---- both ---- */

void gr_loads_free(gr_loads *loads) {
    free(loads->layer_id), free(loads->load);
    *loads = (gr_loads){0};
}

int32_t gr_loads_layer(const gr_loads *loads, int64_t layer_id) {
    int32_t low = 0, high = loads->n_layers;
    while (low < high) {
        int32_t middle = low + (high - low) / 2;
        if (loads->layer_id[middle] < layer_id) low = middle + 1;
        else high = middle;
    }
    return low < loads->n_layers && loads->layer_id[low] == layer_id ? low : -1;
}

static double fullest_layer(const gr_loads *loads) {
    double most = 0;
    for (int32_t l = 0; l < loads->n_layers; l++) {
        double sum = 0;
        for (int32_t e = 0; e < loads->n_experts; e++) sum += loads->load[(size_t)l * (size_t)loads->n_experts + (size_t)e];
        most = fmax(most, sum);
    }
    return most;
}

grace_status gr_loads_profile(const char *where, const gr_loads *loads, const char *model, int32_t top_k, grace_profile **out) {
    grace_status st = GRACE_OK;
    grace_profile *p = NULL;
    grace_trace_info info = {.n_layers = loads->n_layers, .n_experts = loads->n_experts, .top_k = top_k ? top_k : 1, .n_ranks = 1, .n_nodes = 1};
    int64_t n = (int64_t)loads->n_layers * loads->n_experts;
    double pairs = fullest_layer(loads);
    gr_trace_set_model(&info, model);
    GR_TRY(gr_trace_check_info(where, &info, GRACE_ERR_FORMAT));
    GR_CHECK(pairs < 0x1p53, GRACE_ERR_LIMIT, "%s: %g routed pairs in a layer, at most 2^53 are counted exactly", where, pairs);
    GR_CHECK(n * loads->n_experts <= AFFINITY_BYTES_MAX / (int64_t)sizeof(double), GRACE_ERR_LIMIT,
             "%s: the affinity of %d layers with %d experts takes more than %" PRId64 " bytes", where, loads->n_layers, loads->n_experts,
             AFFINITY_BYTES_MAX);
    GR_CALLOC(p, 1);
    p->info = info;
    p->n_tokens = llround(pairs / info.top_k);
    GR_CALLOC(p->load, n);
    GR_CALLOC(p->affinity, n * loads->n_experts);
    memcpy(p->load, loads->load, (size_t)n * sizeof *p->load);
    gr_profile_sign(p, "", NULL);
    *out = p, p = NULL;
done:
    grace_profile_free(p);
    return st;
}
