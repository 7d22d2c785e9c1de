#include "report/data.h"

#include <math.h>
#include <stdlib.h>

#include "report/read.h"

enum { VERSION = 1, TEXTS_MAX = 1000 };

/* ---- what was run ---- */

static grace_status read_model(const gr_json *doc, gr_report_data *d) {
    grace_status st = GRACE_OK;
    static const char where[] = "report: model";
    const gr_json *model;
    GR_TRY(gr_read_object_or_none(doc, "report", "model", &model));
    GR_TRY(gr_json_string_or(model, where, "name", NULL, &d->model_name));
    GR_TRY(gr_json_string_or(model, where, "family", NULL, &d->model_family));
    GR_TRY(gr_read_count_or_none(model, where, "layers", GR_REPORT_LAYERS_MAX, &d->model_layers));
    GR_TRY(gr_read_count_or_none(model, where, "experts", GR_REPORT_EXPERTS_MAX, &d->model_experts));
    GR_TRY(gr_read_count_or_none(model, where, "top_k", GR_REPORT_EXPERTS_MAX, &d->model_top_k));
    GR_TRY(gr_read_count_or_none(model, where, "params", GR_BYTES_MAX, &d->model_params));
done:
    return st;
}

static grace_status read_workload(const gr_json *doc, gr_report_data *d) {
    grace_status st = GRACE_OK;
    const gr_json *workload;
    GR_TRY(gr_read_object_or_none(doc, "report", "workload", &workload));
    GR_TRY(gr_read_count_or_none(workload, "report: workload", "sequences", GR_COUNT_MAX, &d->n_sequences));
    GR_TRY(gr_read_count_or_none(workload, "report: workload", "prefill", GR_COUNT_MAX, &d->n_prefill));
    GR_TRY(gr_read_count_or_none(workload, "report: workload", "decode", GR_COUNT_MAX, &d->n_decode));
done:
    return st;
}

/* ---- what the paper says, and what the model wrote ---- */

/* One percentage a rung, null where the paper has none. */
static grace_status read_paper(const gr_json *doc, gr_report_data *d) {
    grace_status st = GRACE_OK;
    const gr_json *paper, *cross;
    double *values;
    GR_TRY(gr_read_object_or_none(doc, "report", "paper", &paper));
    GR_TRY(gr_read_array_or_none(paper, "report: paper", "cross", &cross));
    if (!cross) goto done;
    GR_CHECK(gr_json_length(cross) == (size_t)d->n_rungs, GRACE_ERR_FORMAT,
             "report: paper: 'cross': expected one value for each of %d rungs, found %zu", (int)d->n_rungs, gr_json_length(cross));
    GR_ARENA_ARRAY(d->arena, values, d->n_rungs);
    for (int32_t i = 0; i < d->n_rungs; i++) {
        values[i] = NAN;
        if (gr_json_kind_of(gr_json_at(cross, (size_t)i)) == GR_JSON_NULL) continue;
        GR_TRY(gr_json_real_at(cross, "report: paper: 'cross'", (size_t)i, &values[i]));
        GR_CHECK(fabs(values[i]) <= 1e6, GRACE_ERR_FORMAT, "report: paper: 'cross': expected percentages, found %g", values[i]);
    }
    d->paper_cross = values;
done:
    return st;
}

static grace_status read_texts(const gr_json *doc, gr_report_data *d) {
    grace_status st = GRACE_OK;
    const gr_json *texts;
    GR_TRY(gr_read_array_or_none(doc, "report", "text", &texts));
    size_t n = gr_json_length(texts);
    GR_CHECK(n <= TEXTS_MAX, GRACE_ERR_FORMAT, "report: 'text': expected at most %d samples, found %zu", TEXTS_MAX, n);
    GR_ARENA_ARRAY(d->arena, d->texts, n);
    for (size_t i = 0; i < n; i++) {
        gr_place p = gr_place_at("text", i);
        GR_TRY(gr_json_string_or(gr_json_at(texts, i), p.text, "domain", NULL, &d->texts[i].domain));
        GR_TRY(gr_json_string(gr_json_at(texts, i), p.text, "prompt", &d->texts[i].prompt));
        GR_TRY(gr_json_string(gr_json_at(texts, i), p.text, "generated", &d->texts[i].generated));
    }
    d->n_texts = (int32_t)n;
done:
    return st;
}

static grace_status read_all(const gr_json *doc, gr_report_data *d) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_report_read_head(doc, "grace_report", VERSION, &d->head));
    GR_TRY(gr_read_hash_or_none(doc, "report", "reference_hash", &d->reference_hash));
    GR_TRY(read_model(doc, d));
    GR_TRY(read_workload(doc, d));
    GR_TRY(gr_report_read_rungs(doc, d));
    GR_TRY(gr_report_read_plan(doc, d->arena, d->head.n_ranks, &d->plan));
    GR_TRY(read_paper(doc, d));
    GR_TRY(read_texts(doc, d));
done:
    return st;
}

grace_status gr_report_data_build(const gr_json *doc, gr_report_data **out) {
    grace_status st = GRACE_OK;
    gr_report_data *d = NULL;
    GR_CALLOC(d, 1);
    GR_CHECK((d->arena = gr_arena_new()) != NULL, GRACE_ERR_MEMORY, "no memory for a report");
    GR_TRY(read_all(doc, d));
    *out = d; d = NULL;
done:
    gr_report_data_free(d);
    return st;
}

void gr_report_data_free(gr_report_data *data) {
    if (!data) return;
    gr_arena_free(data->arena);
    free(data);
}
