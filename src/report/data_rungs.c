#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "report/read.h"

enum { RUNGS_MAX = 64 };

static grace_status read_rung_words(const gr_json *json, const char *where, gr_report_rung *rung) {
    grace_status st = GRACE_OK;
    bool known, identical;
    GR_TRY(gr_json_string(json, where, "name", &rung->name));
    GR_TRY(gr_json_string_or(json, where, "plan", NULL, &rung->plan));
    GR_TRY(gr_json_string_or(json, where, "exchange", NULL, &rung->exchange));
    GR_TRY(gr_json_string_or(json, where, "route", NULL, &rung->route));
    GR_TRY(gr_read_hash_or_none(json, where, "logits_hash", &rung->logits_hash));
    GR_TRY(gr_json_bool_or(json, where, "baseline", false, &rung->baseline));
    GR_TRY(gr_json_bool_or(json, where, "identical", false, &identical));
    known = gr_json_kind_of(gr_json_get(json, "identical")) == GR_JSON_BOOL;
    rung->identical = !known ? GR_NOT_CHECKED : identical ? GR_IDENTICAL : GR_DIFFERENT;
done:
    return st;
}

static grace_status read_rung_counts(const gr_json *json, const char *where, gr_report_rung *rung) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_json_int(json, where, "rows_cross_node", 0, GR_COUNT_MAX, &rung->rows_cross));
    GR_TRY(gr_json_int(json, where, "rows_intra_node", 0, GR_COUNT_MAX, &rung->rows_intra));
    GR_TRY(gr_read_count_or_none(json, where, "bytes_cross_node", GR_BYTES_MAX, &rung->bytes_cross));
    GR_TRY(gr_read_count_or_none(json, where, "bytes_intra_node", GR_BYTES_MAX, &rung->bytes_intra));
    GR_TRY(gr_read_count_or_none(json, where, "replica_slots", GR_COUNT_MAX, &rung->replica_slots));
    GR_TRY(gr_read_real(json, where, "load_max_over_mean", &rung->load_max_over_mean));
    GR_TRY(gr_read_real(json, where, "load_std", &rung->load_std));
done:
    return st;
}

static grace_status read_rung_times(const gr_json *json, const char *where, gr_report_rung *rung) {
    static const char *const names[GR_N_RUNG_TIMES] = {"route", "dispatch", "experts", "combine"};
    grace_status st = GRACE_OK;
    const gr_json *times;
    char inside[128];
    GR_TRY(gr_read_real(json, where, "idle_model_us", &rung->idle_model_us));
    GR_TRY(gr_read_real_or_none(json, where, "idle_measured_us", &rung->idle_measured_us));
    GR_TRY(gr_read_real(json, where, "moe_us", &rung->moe_us));
    GR_TRY(gr_read_real_or_none(json, where, "moe_us_spread", &rung->moe_us_spread));
    GR_TRY(gr_read_real_or_none(json, where, "wall_us", &rung->wall_us));
    GR_TRY(gr_read_object_or_none(json, where, "time_us", &times));
    rung->has_times = times != NULL;
    snprintf(inside, sizeof inside, "%s: time_us", where);
    for (int i = 0; times && i < GR_N_RUNG_TIMES; i++) GR_TRY(gr_read_real(times, inside, names[i], &rung->time_us[i]));
done:
    return st;
}

/* The page shows totals and the matrix side by side: they must be the same count. */
static grace_status check_pair_rows(const gr_report_data *d, const gr_report_rung *rung, const char *where) {
    grace_status st = GRACE_OK;
    int64_t cross = 0, intra = 0;
    for (int32_t from = 0; from < d->head.n_ranks; from++)
        for (int32_t to = 0; to < d->head.n_ranks; to++) {
            int64_t rows = rung->pair_rows[from * d->head.n_ranks + to];
            if (from / d->head.gpus_per_node != to / d->head.gpus_per_node) cross += rows;
            else if (from != to) intra += rows;
        }
    GR_CHECK(cross == rung->rows_cross, GRACE_ERR_FORMAT,
             "%s: 'pair_rows' adds up to %" PRId64 " rows between nodes, 'rows_cross_node' says %" PRId64, where, cross, rung->rows_cross);
    GR_CHECK(intra == rung->rows_intra, GRACE_ERR_FORMAT, "%s: 'pair_rows' adds up to %" PRId64 " rows inside nodes, 'rows_intra_node' says %" PRId64,
             where, intra, rung->rows_intra);
done:
    return st;
}

/* "identical" is a claim about two hashes; where both are there, it must hold. */
static grace_status check_identity(const gr_report_data *d, const gr_report_rung *rung, const char *where) {
    grace_status st = GRACE_OK;
    if (rung->identical == GR_NOT_CHECKED || !rung->logits_hash || !d->reference_hash) goto done;
    bool same = !strcmp(rung->logits_hash, d->reference_hash);
    GR_CHECK(same == (rung->identical == GR_IDENTICAL), GRACE_ERR_FORMAT,
             "%s: 'identical' is %s, but 'logits_hash' is %.32s and 'reference_hash' is %.32s", where, same ? "false" : "true", rung->logits_hash,
             d->reference_hash);
done:
    return st;
}

static grace_status read_rung(const gr_json *json, const char *where, gr_report_data *d, gr_report_rung *rung) {
    grace_status st = GRACE_OK;
    size_t ranks = (size_t)d->head.n_ranks, layers = (size_t)d->n_layers;
    GR_CHECK(gr_json_kind_of(json) == GR_JSON_OBJECT, GRACE_ERR_FORMAT, "%s: expected an object, found %s", where, gr_json_kind_name(json));
    GR_TRY(read_rung_words(json, where, rung));
    GR_TRY(read_rung_counts(json, where, rung));
    GR_TRY(read_rung_times(json, where, rung));
    GR_TRY(gr_read_matrix_or_none(d->arena, json, where, "pair_rows", ranks, ranks, &rung->pair_rows, NULL));
    GR_TRY(gr_read_matrix_or_none(d->arena, json, where, "load", layers, ranks, &rung->load, &layers));
    d->n_layers = (int32_t)layers;
    if (rung->pair_rows) GR_TRY(check_pair_rows(d, rung, where));
    GR_TRY(check_identity(d, rung, where));
done:
    return st;
}

grace_status gr_report_read_rungs(const gr_json *doc, gr_report_data *d) {
    grace_status st = GRACE_OK;
    const gr_json *rungs;
    size_t n;
    GR_TRY(gr_read_array(doc, "report", "rungs", 1, RUNGS_MAX, &rungs, &n));
    d->n_rungs = (int32_t)n;
    d->baseline = -1;
    GR_ARENA_ARRAY(d->arena, d->rungs, n);
    for (size_t i = 0; i < n; i++) {
        gr_place p = gr_place_at("rungs", i);
        GR_TRY(read_rung(gr_json_at(rungs, i), p.text, d, &d->rungs[i]));
        if (!d->rungs[i].baseline) continue;
        GR_CHECK(d->baseline < 0, GRACE_ERR_FORMAT, "%s: 'baseline' is true, but rungs[%d] is the baseline already", p.text, (int)d->baseline);
        d->baseline = (int32_t)i;
    }
done:
    return st;
}
