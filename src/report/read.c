#include "report/read.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

gr_place gr_place_at(const char *array, size_t index) {
    gr_place p;
    snprintf(p.text, sizeof p.text, "report: %s[%zu]", array, index);
    return p;
}

/* ---- what every document begins with ---- */

static grace_status read_cluster(const gr_json *doc, gr_report_head *h) {
    grace_status st = GRACE_OK;
    const gr_json *cluster;
    int64_t n_nodes, gpus_per_node;
    GR_TRY(gr_json_object_in(doc, "report", "cluster", &cluster));
    GR_TRY(gr_json_int(cluster, "report: cluster", "nodes", 1, GR_REPORT_RANKS_MAX, &n_nodes));
    GR_TRY(gr_json_int(cluster, "report: cluster", "gpus_per_node", 1, GR_REPORT_RANKS_MAX / n_nodes, &gpus_per_node));
    h->n_nodes = (int32_t)n_nodes;
    h->gpus_per_node = (int32_t)gpus_per_node;
    h->n_ranks = h->n_nodes * h->gpus_per_node;
done:
    return st;
}

grace_status gr_report_read_head(const gr_json *doc, const char *key, int64_t version, gr_report_head *out) {
    grace_status st = GRACE_OK;
    static const char where[] = "report";
    int64_t found;
    GR_CHECK(gr_json_kind_of(doc) == GR_JSON_OBJECT, GRACE_ERR_FORMAT, "report: expected an object, found %s", gr_json_kind_name(doc));
    GR_TRY(gr_json_int(doc, where, key, 0, INT64_MAX, &found));
    GR_CHECK(found == version, GRACE_ERR_FORMAT, "report: '%s': expected version %" PRId64 ", found %" PRId64, key, version, found);
    GR_TRY(gr_json_string(doc, where, "title", &out->title));
    GR_TRY(gr_json_string_or(doc, where, "command", NULL, &out->command));
    GR_TRY(gr_json_string_or(doc, where, "commit", NULL, &out->commit));
    GR_TRY(gr_json_string_or(doc, where, "machine", NULL, &out->machine));
    GR_TRY(gr_json_string_or(doc, where, "date", NULL, &out->date));
    GR_TRY(read_cluster(doc, out));
done:
    return st;
}

/* ---- members that may be absent ---- */

grace_status gr_read_count_or_none(const gr_json *object, const char *where, const char *key, int64_t max, int64_t *out) {
    return gr_json_int_or(object, where, key, 0, max, -1, out);
}

static grace_status check_real(const char *where, const char *key, double value) {
    grace_status st = GRACE_OK;
    GR_CHECK(!(value < 0) && !(value > GR_REAL_MAX), GRACE_ERR_FORMAT, "%s: '%s': expected 0 to 1e15, found %g", where, key, value);
done:
    return st;
}

grace_status gr_read_real_or_none(const gr_json *object, const char *where, const char *key, double *out) {
    grace_status st = gr_json_real_or(object, where, key, NAN, out);
    return st ? st : check_real(where, key, *out);
}

grace_status gr_read_real(const gr_json *object, const char *where, const char *key, double *out) {
    grace_status st = gr_json_real(object, where, key, out);
    return st ? st : check_real(where, key, *out);
}

grace_status gr_read_object_or_none(const gr_json *object, const char *where, const char *key, const gr_json **out) {
    *out = NULL;
    return gr_json_kind_of(gr_json_get(object, key)) == GR_JSON_NULL ? GRACE_OK : gr_json_object_in(object, where, key, out);
}

grace_status gr_read_array_or_none(const gr_json *object, const char *where, const char *key, const gr_json **out) {
    *out = NULL;
    return gr_json_kind_of(gr_json_get(object, key)) == GR_JSON_NULL ? GRACE_OK : gr_json_array(object, where, key, out);
}

grace_status gr_read_hash_or_none(const gr_json *object, const char *where, const char *key, const char **out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_json_string_or(object, where, key, NULL, out));
    if (!*out) goto done;
    size_t n = strlen(*out);
    GR_CHECK(n >= 1 && n <= 64 && strspn(*out, "0123456789abcdefABCDEF") == n, GRACE_ERR_FORMAT,
             "%s: '%s': expected 1 to 64 hexadecimal digits, found '%.80s'", where, key, *out);
done:
    return st;
}

grace_status gr_read_array(const gr_json *object, const char *where, const char *key, size_t n_min, size_t n_max, const gr_json **out, size_t *n) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_json_array(object, where, key, out));
    *n = gr_json_length(*out);
    GR_CHECK(*n >= n_min && *n <= n_max, GRACE_ERR_FORMAT, "%s: '%s': expected %zu to %zu elements, found %zu", where, key, n_min, n_max, *n);
done:
    return st;
}

/* ---- arrays of integers ---- */

grace_status gr_read_ints(const gr_json *array, const char *where, const char *key, size_t n, int64_t max, int64_t *out) {
    grace_status st = GRACE_OK;
    gr_place p;
    snprintf(p.text, sizeof p.text, "%s: '%s'", where, key);
    GR_CHECK(gr_json_kind_of(array) == GR_JSON_ARRAY, GRACE_ERR_FORMAT, "%s: expected an array, found %s", p.text, gr_json_kind_name(array));
    GR_CHECK(gr_json_length(array) == n, GRACE_ERR_FORMAT, "%s: expected %zu values, found %zu", p.text, n, gr_json_length(array));
    for (size_t i = 0; i < n; i++) GR_TRY(gr_json_int_at(array, p.text, i, 0, max, &out[i]));
done:
    return st;
}

grace_status gr_read_id_list(gr_arena *arena, const gr_json *object, const char *where, const char *key, size_t n_max, int64_t max, int64_t **out,
                             size_t *n) {
    grace_status st = GRACE_OK;
    const gr_json *array;
    int64_t *ids;
    GR_TRY(gr_read_array(object, where, key, 0, n_max, &array, n));
    GR_ARENA_ARRAY(arena, ids, *n);
    GR_TRY(gr_read_ints(array, where, key, *n, max, ids));
    *out = ids;
done:
    return st;
}

grace_status gr_read_matrix_or_none(gr_arena *arena, const gr_json *object, const char *where, const char *key, size_t n_rows, size_t n_cols,
                                    int64_t **out, size_t *found_rows) {
    grace_status st = GRACE_OK;
    const gr_json *rows;
    int64_t *values = NULL;
    char row_key[64];
    GR_TRY(gr_read_array_or_none(object, where, key, &rows));
    if (!rows) goto done;
    size_t n = gr_json_length(rows);
    GR_CHECK(n > 0 && n <= GR_REPORT_LAYERS_MAX && (n_rows == 0 || n == n_rows), GRACE_ERR_FORMAT, "%s: '%s': expected %zu%s rows, found %zu", where,
             key, n_rows ? n_rows : (size_t)GR_REPORT_LAYERS_MAX, n_rows ? "" : " at most", n);
    GR_ARENA_ARRAY(arena, values, n * n_cols);
    for (size_t i = 0; i < n; i++) {
        snprintf(row_key, sizeof row_key, "%s[%zu]", key, i);
        GR_TRY(gr_read_ints(gr_json_at(rows, i), where, row_key, n_cols, GR_COUNT_MAX, values + i * n_cols));
    }
    *out = values;
    if (found_rows) *found_rows = n;
done:
    return st;
}
