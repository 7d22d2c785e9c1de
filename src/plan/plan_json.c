#include "plan/plan_json.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "plan/cluster.h"
#include "plan/homes.h"
#include "plan/layer_ids.h"
#include "plan/tables.h"

enum { VERSION = 1 };
static const double WEIGHT_SLACK = 1e-5;        /* n floats that sum to 1 are off by at most n * 2^-25 / n, and some for people who edit */

/* ---- writing: an object's text is laid out by hand, one member a line, so that a table is a line ---- */

/* Members of object, each on its line and followed by a comma unless it is the last; object is freed. */
static grace_status put_members(gr_buf *out, const char *indent, gr_json *object, const char *end) {
    grace_status st = GRACE_OK;
    char *text = NULL;
    for (const gr_json_member *m = gr_json_first(object); m; m = gr_json_next(object, m)) {
        GR_TRY(gr_json_write(gr_json_value(m), 0, &text, NULL));
        GR_TRY(gr_buf_printf(out, "%s\"%s\": %s%s\n", indent, gr_json_key(m), text, gr_json_next(object, m) ? "," : end));
        free(text), text = NULL;
    }
done:
    free(text);
    gr_json_free(object);
    return st;
}

gr_json *gr_origin_json(const grace_origin *o) {
    gr_json *object = gr_json_new_object();
    char text[320];
    grace_selection_format(&o->which, text, sizeof text);
    gr_json_set_string(object, "file", o->file);
    gr_json_set_string(object, "tokens", text);
    gr_json_set_int(object, "n_tokens", o->n_tokens);
    gr_json_set_hex(object, "loads", o->loads);
    gr_json_set_bool(object, "synthetic", o->synthetic);
    return object;
}

static gr_json *header_json(const grace_plan *plan) {
    gr_json *object = gr_json_new_object();
    gr_json_set_int(object, "grace_plan", VERSION);
    gr_json_set_string(object, "planner", plan->planner);
    gr_json_set_string(object, "grouping", plan->grouping);
    gr_json_set_string(object, "replication", plan->replication);
    gr_json_set_hex(object, "fingerprint", plan->fingerprint);
    gr_json_set_hex(object, "seed", plan->seed);
    if (plan->planned_from.n_tokens > 0) gr_json_set(object, "planned_from", gr_origin_json(&plan->planned_from));
    if (plan->token_saves.vocab > 0) gr_json_set(object, "token_saves", gr_token_saves_json(&plan->token_saves));
    gr_json_set_string(object, "cluster", gr_cluster_text(plan->cluster).text);
    gr_json_set_int(object, "n_layers", plan->n_layers);
    gr_json_set_int(object, "n_experts", plan->n_experts);
    gr_json_set_int(object, "top_k", plan->top_k);
    if (plan->layer_ids) gr_json_set_ints(object, "layer_ids", plan->layer_ids, (size_t)plan->n_layers);
    if (plan->r < 0) gr_json_set_null(object, "r");
    else gr_json_set_real(object, "r", plan->r);
    return object;
}

static grace_status put_knee(const grace_plan *plan, gr_buf *out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_buf_printf(out, " \"knee_chosen\": %" PRId32 ",\n \"knee\": [", plan->knee_chosen));
    for (int32_t i = 0; i < plan->n_knee; i++) {
        const grace_knee_point *p = &plan->knee[i];
        GR_TRY(gr_buf_printf(out, "%s\n  {\"delta\": %" PRId32 ", \"r\": %.17g, \"size_std\": %.17g, \"utility\": %.17g}", i ? "," : "", p->delta,
                             p->r, p->size_std, p->utility));
    }
    GR_TRY(gr_buf_printf(out, "],\n"));
done:
    return st;
}

/* Primaries of a rank come first and every expert has one, so the first slot of an expert says which kind it is. */
static gr_json *experts_by_rank(const grace_plan *plan, const grace_plan_layer *pl, bool primary) {
    gr_json *ranks = gr_json_new_array();
    for (int32_t r = 0; r < grace_cluster_ranks(plan->cluster); r++) {
        gr_json *experts = gr_json_new_array();
        for (int32_t s = pl->first_slot[r]; s < pl->first_slot[r + 1]; s++)
            if ((gr_plan_home(pl, pl->expert_of_slot[s]) == r) == primary) gr_json_push_int(experts, pl->expert_of_slot[s]);
        gr_json_push(ranks, experts);
    }
    return ranks;
}

static gr_json *flags_json(const bool *flags, int32_t n) {
    gr_json *array = gr_json_new_array();
    for (int32_t i = 0; i < n; i++) gr_json_push_int(array, flags[i]);
    return array;
}

static gr_json *layer_json(const grace_plan *plan, const grace_plan_layer *pl) {
    size_t n_ranks = (size_t)grace_cluster_ranks(plan->cluster);
    gr_json *object = gr_json_new_object(), *weights = gr_json_new_array();
    for (int32_t s = 0; s < pl->n_slots; s++) gr_json_push_real(weights, (double)pl->poll_weight[s]);
    gr_json_set_int(object, "n_replica", pl->n_replica);
    gr_json_set(object, "primary", experts_by_rank(plan, pl, true));
    gr_json_set(object, "secondary", experts_by_rank(plan, pl, false));
    gr_json_set(object, "poll_weight", weights);
    if (pl->serve_decode) gr_json_set(object, "serve_decode", flags_json(pl->serve_decode, pl->n_slots));
    gr_json_set_reals(object, "load_before", pl->load_before, n_ranks);
    gr_json_set_reals(object, "load_after", pl->load_after, n_ranks);
    return object;
}

grace_status gr_plan_print(const grace_plan *plan, gr_buf *out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_buf_printf(out, "{\n"));
    GR_TRY(put_members(out, " ", header_json(plan), ","));
    GR_TRY(put_knee(plan, out));
    GR_TRY(gr_buf_printf(out, " \"layers\": [\n"));
    for (int32_t l = 0; l < plan->n_layers; l++) {
        GR_TRY(gr_buf_printf(out, "  {\n"));
        GR_TRY(put_members(out, "   ", layer_json(plan, &plan->layers[l]), ""));
        GR_TRY(gr_buf_printf(out, "  }%s\n", l + 1 < plan->n_layers ? "," : ""));
    }
    GR_TRY(gr_buf_printf(out, " ]\n}\n"));
done:
    return st;
}

grace_status grace_plan_save(const grace_plan *plan, const char *path) {
    gr_buf text = {0};
    grace_status st = gr_plan_print(plan, &text);
    if (!st) st = gr_file_replace(path, text.data, text.n);
    gr_buf_free(&text);
    return st;
}

/* ---- reading ---- */

/* Where we are, for messages: "plan.json: layer 3", and room for it. */
typedef struct place { char text[320]; } place;

static grace_status read_name(const gr_json *object, const char *where, const char *key, char *out, size_t size) {
    grace_status st = GRACE_OK;
    const char *text;
    GR_TRY(gr_json_string(object, where, key, &text));
    GR_CHECK(strlen(text) < size, GRACE_ERR_FORMAT, "%s: '%s': expected at most %zu bytes, found %zu", where, key, size - 1, strlen(text));
    memcpy(out, text, strlen(text) + 1);
done:
    return st;
}

static grace_status read_hex(const gr_json *object, const char *where, const char *key, uint64_t *out) {
    grace_status st = GRACE_OK;
    const char *text;
    uint64_t value = 0;
    GR_TRY(gr_json_string(object, where, key, &text));
    GR_CHECK(strlen(text) == 16 && strspn(text, "0123456789abcdef") == 16, GRACE_ERR_FORMAT, "%s: '%s': expected 16 hex digits, found '%.40s'", where,
             key, text);
    for (int i = 0; i < 16; i++) value = value << 4 | (uint64_t)(text[i] <= '9' ? text[i] - '0' : text[i] - 'a' + 10);
    *out = value;
done:
    return st;
}

static grace_status read_count(const gr_json *object, const char *where, const char *key, int32_t min, int32_t max, int32_t *out) {
    int64_t value;
    grace_status st = gr_json_int(object, where, key, min, max, &value);
    if (!st) *out = (int32_t)value;
    return st;
}

/* Finite and at least 0. */
static grace_status read_amount(const gr_json *object, const char *where, const char *key, double *out) {
    grace_status st = GRACE_OK;
    double value;
    GR_TRY(gr_json_real(object, where, key, &value));
    GR_CHECK(isfinite(value) && value >= 0, GRACE_ERR_FORMAT, "%s: '%s': expected 0 or more, found %g", where, key, value);
    *out = value;
done:
    return st;
}

/* An array member of exactly n values. */
static grace_status read_table(const gr_json *object, const char *where, const char *key, size_t n, const gr_json **out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_json_array(object, where, key, out));
    GR_CHECK(gr_json_length(*out) == n, GRACE_ERR_FORMAT, "%s: '%s': expected %zu values, found %zu", where, key, n, gr_json_length(*out));
done:
    return st;
}

/* The same, finite and at least 0, as doubles. */
static grace_status read_amounts(const gr_json *object, const char *where, const char *key, size_t n, double *out) {
    grace_status st = GRACE_OK;
    const gr_json *table;
    GR_TRY(read_table(object, where, key, n, &table));
    for (size_t i = 0; i < n; i++) {
        GR_CHECK(gr_json_is_real(gr_json_at(table, i), &out[i]), GRACE_ERR_FORMAT, "%s: '%s'[%zu]: expected a number, found %s", where, key, i,
                 gr_json_kind_name(gr_json_at(table, i)));
        GR_CHECK(isfinite(out[i]) && out[i] >= 0, GRACE_ERR_FORMAT, "%s: '%s'[%zu]: expected 0 or more, found %g", where, key, i, out[i]);
    }
done:
    return st;
}

static grace_status read_version(const gr_json *root, const char *where) {
    grace_status st = GRACE_OK;
    int64_t version;
    GR_CHECK(gr_json_get(root, "grace_plan"), GRACE_ERR_FORMAT, "%s: no 'grace_plan' in it: not a plan", where);
    GR_TRY(gr_json_int(root, where, "grace_plan", 1, INT32_MAX, &version));
    GR_CHECK(version == VERSION, GRACE_ERR_UNSUPPORTED, "%s: plan format %" PRId64 ", this program reads %d", where, version, VERSION);
done:
    return st;
}

static grace_status read_cluster(const gr_json *root, const char *where, grace_cluster *out) {
    grace_status st = GRACE_OK;
    const char *text;
    GR_TRY(gr_json_string(root, where, "cluster", &text));
    if ((st = grace_cluster_parse(text, out))) st = gr_fail_in(st == GRACE_ERR_ARG ? GRACE_ERR_FORMAT : st, "%s", where);
done:
    return st;
}

/* The numbers tables are sized by; the layers array must have as many entries as it says, so that a short text allocates little. */
static grace_status read_sizes(const gr_json *root, const char *where, const gr_json **layers, grace_plan **out) {
    grace_status st = GRACE_OK;
    int32_t n_layers, n_experts, top_k;
    grace_cluster cluster;
    GR_TRY(read_cluster(root, where, &cluster));
    GR_TRY(read_count(root, where, "n_layers", 1, GR_PLAN_LAYERS_MAX, &n_layers));
    GR_TRY(read_count(root, where, "n_experts", 1, GR_PLAN_EXPERTS_MAX, &n_experts));
    GR_TRY(read_count(root, where, "top_k", 1, n_experts, &top_k));
    GR_TRY(read_table(root, where, "layers", (size_t)n_layers, layers));
    GR_TRY(gr_plan_new(n_layers, n_experts, top_k, cluster, out));
done:
    return st;
}

/* Absent: unknown. */
static grace_status read_origin(const gr_json *root, const char *where, grace_origin *out) {
    grace_status st = GRACE_OK;
    const gr_json *object = gr_json_get(root, "planned_from");
    const char *text;
    if (gr_json_kind_of(object) == GR_JSON_NULL) return st;
    GR_TRY(read_name(object, where, "file", out->file, sizeof out->file));
    GR_TRY(gr_json_string(object, where, "tokens", &text));
    if (grace_selection_parse(text, &out->which)) GR_TRY(gr_fail_in(GRACE_ERR_FORMAT, "%s", where));
    GR_TRY(gr_json_int(object, where, "n_tokens", 1, INT64_MAX, &out->n_tokens));
    GR_TRY(read_hex(object, where, "loads", &out->loads));
    GR_TRY(gr_json_bool_or(object, where, "synthetic", false, &out->synthetic));
done:
    return st;
}

static grace_status read_layer_ids(const gr_json *root, const char *where, grace_plan *plan) {
    grace_status st = GRACE_OK;
    int32_t *ids = NULL;
    bool known = false;
    GR_CALLOC(ids, plan->n_layers);
    GR_TRY(gr_layer_ids_read(root, where, plan->n_layers, ids, &known));
    GR_TRY(gr_plan_set_layer_ids(plan, known ? ids : NULL));
done:
    free(ids);
    return st;
}

static grace_status read_names(const gr_json *root, const char *where, grace_plan *plan) {
    grace_status st = GRACE_OK;
    const gr_json *r = gr_json_get(root, "r");
    GR_TRY(read_name(root, where, "planner", plan->planner, sizeof plan->planner));
    GR_TRY(read_name(root, where, "grouping", plan->grouping, sizeof plan->grouping));
    GR_TRY(read_name(root, where, "replication", plan->replication, sizeof plan->replication));
    GR_TRY(read_hex(root, where, "fingerprint", &plan->fingerprint));
    GR_TRY(read_hex(root, where, "seed", &plan->seed));
    GR_TRY(read_origin(root, where, &plan->planned_from));
    GR_TRY(gr_token_saves_read(root, where, plan));
    if (r && gr_json_kind_of(r) != GR_JSON_NULL) GR_TRY(read_amount(root, where, "r", &plan->r));
done:
    return st;
}

static grace_status read_point(const gr_json *point, const char *where, int32_t n_experts, grace_knee_point *out) {
    grace_status st = GRACE_OK;
    GR_TRY(read_count(point, where, "delta", 1, n_experts, &out->delta));
    GR_TRY(read_amount(point, where, "r", &out->r));
    GR_TRY(read_amount(point, where, "size_std", &out->size_std));
    GR_TRY(read_amount(point, where, "utility", &out->utility));
done:
    return st;
}

static grace_status read_knee(const gr_json *root, const char *where, grace_plan *plan) {
    grace_status st = GRACE_OK;
    const gr_json *points;
    int32_t n;
    GR_TRY(gr_json_array(root, where, "knee", &points));
    GR_CHECK(gr_json_length(points) <= (size_t)plan->n_experts, GRACE_ERR_FORMAT, "%s: 'knee': expected at most %d points, found %zu", where,
             plan->n_experts, gr_json_length(points));
    n = (int32_t)gr_json_length(points);
    GR_TRY(read_count(root, where, "knee_chosen", 0, n > 0 ? n - 1 : 0, &plan->knee_chosen));
    GR_ARENA_ARRAY(plan->memory, plan->knee, n);
    for (int32_t i = 0; i < n; i++) {
        place at;
        snprintf(at.text, sizeof at.text, "%.256s: knee point %d", where, i);
        GR_TRY(read_point(gr_json_at(points, (size_t)i), at.text, plan->n_experts, &plan->knee[i]));
    }
    plan->n_knee = n;
done:
    return st;
}

/* One rank's list: ids in range and rising, handed to the caller one by one. */
static grace_status read_expert(const gr_json *list, const char *where, const char *key, int32_t rank, size_t i, int32_t n_experts, int32_t *out) {
    grace_status st = GRACE_OK;
    int64_t expert, before = -1;
    GR_CHECK(gr_json_is_int(gr_json_at(list, i), &expert), GRACE_ERR_FORMAT, "%s: '%s' of rank %d: expected expert ids, found %s", where, key, rank,
             gr_json_kind_name(gr_json_at(list, i)));
    GR_CHECK(expert >= 0 && expert < n_experts, GRACE_ERR_FORMAT, "%s: '%s' of rank %d: expected experts 0 to %d, found %" PRId64, where, key, rank,
             n_experts - 1, expert);
    if (i > 0) gr_json_is_int(gr_json_at(list, i - 1), &before);
    GR_CHECK(expert > before, GRACE_ERR_FORMAT, "%s: '%s' of rank %d: expected rising ids, found %" PRId64 " after %" PRId64, where, key, rank, expert,
             before);
    *out = (int32_t)expert;
done:
    return st;
}

static grace_status read_list(const gr_json *ranks, const char *where, const char *key, int32_t rank, const gr_json **out) {
    grace_status st = GRACE_OK;
    const gr_json *list = gr_json_at(ranks, (size_t)rank);
    GR_CHECK(gr_json_kind_of(list) == GR_JSON_ARRAY, GRACE_ERR_FORMAT, "%s: '%s' of rank %d: expected an array, found %s", where, key, rank,
             gr_json_kind_name(list));
    *out = list;
done:
    return st;
}

/* rank_of_expert [n_experts]: every expert exactly once. */
static grace_status read_primaries(const gr_json *layer, const char *where, const grace_plan *plan, int32_t *rank_of_expert) {
    grace_status st = GRACE_OK;
    const gr_json *ranks, *list = NULL;
    int32_t n_ranks = grace_cluster_ranks(plan->cluster), e;
    for (e = 0; e < plan->n_experts; e++) rank_of_expert[e] = -1;
    GR_TRY(read_table(layer, where, "primary", (size_t)n_ranks, &ranks));
    for (int32_t r = 0; r < n_ranks; r++) {
        GR_TRY(read_list(ranks, where, "primary", r, &list));
        for (size_t i = 0; i < gr_json_length(list); i++) {
            GR_TRY(read_expert(list, where, "primary", r, i, plan->n_experts, &e));
            GR_CHECK(rank_of_expert[e] < 0, GRACE_ERR_FORMAT, "%s: expert %d has its primary on rank %d and on rank %d", where, e,
                     rank_of_expert[e], r);
            rank_of_expert[e] = r;
        }
    }
    for (e = 0; e < plan->n_experts; e++)
        GR_CHECK(rank_of_expert[e] >= 0, GRACE_ERR_FORMAT, "%s: expert %d has no primary: expected one on a rank", where, e);
done:
    return st;
}

static size_t count_copies(const gr_json *ranks) {
    size_t n = 0;
    for (size_t r = 0; r < gr_json_length(ranks); r++) n += gr_json_length(gr_json_at(ranks, r));
    return n;
}

/* *copies is malloc'ed, as long as the text's lists. */
static grace_status read_secondaries(const gr_json *layer, const char *where, const grace_plan *plan, const int32_t *rank_of_expert, gr_copy **copies,
                                     int32_t *n_copies) {
    grace_status st = GRACE_OK;
    const gr_json *ranks, *list = NULL;
    int32_t n_ranks = grace_cluster_ranks(plan->cluster), n = 0;
    GR_TRY(read_table(layer, where, "secondary", (size_t)n_ranks, &ranks));
    GR_CALLOC(*copies, count_copies(ranks));
    for (int32_t r = 0; r < n_ranks; r++) {
        GR_TRY(read_list(ranks, where, "secondary", r, &list));
        for (size_t i = 0; i < gr_json_length(list); i++, n++) {
            gr_copy *copy = &(*copies)[n];
            copy->rank = r;
            GR_TRY(read_expert(list, where, "secondary", r, i, plan->n_experts, &copy->expert));
            GR_CHECK(rank_of_expert[copy->expert] != r, GRACE_ERR_FORMAT, "%s: expert %d is twice on rank %d, as primary and as secondary", where,
                     copy->expert, r);
        }
    }
    *n_copies = n;
done:
    return st;
}

static grace_status check_weights(const grace_plan_layer *pl, const char *where, int32_t n_experts) {
    grace_status st = GRACE_OK;
    for (int32_t e = 0; e < n_experts; e++) {
        double sum = 0;
        for (int32_t i = pl->slots_first[e]; i < pl->slots_first[e + 1]; i++) sum += (double)pl->poll_weight[pl->slots_of_expert[i]];
        GR_CHECK(fabs(sum - 1) <= WEIGHT_SLACK, GRACE_ERR_FORMAT, "%s: weights of expert %d: expected a sum of 1, found %g", where, e, sum);
    }
done:
    return st;
}

static grace_status read_weights(const gr_json *layer, const char *where, const grace_plan *plan, grace_plan_layer *pl) {
    grace_status st = GRACE_OK;
    double *weights = NULL;
    GR_CALLOC(weights, pl->n_slots);
    GR_TRY(read_amounts(layer, where, "poll_weight", (size_t)pl->n_slots, weights));
    for (int32_t s = 0; s < pl->n_slots; s++) {
        GR_CHECK(weights[s] <= 1 + WEIGHT_SLACK, GRACE_ERR_FORMAT, "%s: 'poll_weight'[%d]: expected 0 to 1, found %g", where, s, weights[s]);
        pl->poll_weight[s] = (float)weights[s];
    }
    GR_TRY(check_weights(pl, where, plan->n_experts));
done:
    free(weights);
    return st;
}

static grace_status check_serving(const grace_plan_layer *pl, const char *where, int32_t n_experts) {
    grace_status st = GRACE_OK;
    for (int32_t e = 0; e < n_experts; e++) {
        int32_t n = 0;
        for (int32_t i = pl->slots_first[e]; i < pl->slots_first[e + 1]; i++) n += pl->serve_decode[pl->slots_of_expert[i]];
        GR_CHECK(n > 0, GRACE_ERR_FORMAT, "%s: 'serve_decode': no copy of expert %d serves: expected one at least", where, e);
    }
done:
    return st;
}

/* Absent: every copy serves in all steps. */
static grace_status read_serving(const gr_json *layer, const char *where, const grace_plan *plan, grace_plan_layer *pl) {
    grace_status st = GRACE_OK;
    const gr_json *flags;
    int64_t flag;
    if (!gr_json_get(layer, "serve_decode")) return st;
    GR_TRY(read_table(layer, where, "serve_decode", (size_t)pl->n_slots, &flags));
    GR_ARENA_ARRAY(plan->memory, pl->serve_decode, pl->n_slots);
    for (int32_t s = 0; s < pl->n_slots; s++) {
        GR_CHECK(gr_json_is_int(gr_json_at(flags, (size_t)s), &flag) && (flag == 0 || flag == 1), GRACE_ERR_FORMAT,
                 "%s: 'serve_decode'[%d]: expected 0 or 1", where, s);
        pl->serve_decode[s] = flag == 1;
    }
    GR_TRY(check_serving(pl, where, plan->n_experts));
done:
    return st;
}

static grace_status read_layer(const gr_json *layer, const char *where, int32_t index, grace_plan *plan) {
    grace_status st = GRACE_OK;
    grace_plan_layer *pl = &plan->layers[index];
    int32_t *rank_of_expert = NULL, n_copies = 0, n_ranks = grace_cluster_ranks(plan->cluster);
    gr_copy *copies = NULL;
    GR_CALLOC(rank_of_expert, plan->n_experts);
    GR_TRY(read_primaries(layer, where, plan, rank_of_expert));
    GR_TRY(read_secondaries(layer, where, plan, rank_of_expert, &copies, &n_copies));
    GR_TRY(gr_plan_place(plan, index, rank_of_expert, copies, n_copies));
    GR_TRY(read_count(layer, where, "n_replica", 0, n_ranks - 1, &pl->n_replica));
    GR_TRY(read_weights(layer, where, plan, pl));
    GR_TRY(read_serving(layer, where, plan, pl));
    GR_TRY(read_amounts(layer, where, "load_before", (size_t)n_ranks, pl->load_before));
    GR_TRY(read_amounts(layer, where, "load_after", (size_t)n_ranks, pl->load_after));
done:
    free(rank_of_expert), free(copies);
    return st;
}

static grace_status read_plan(const gr_json *root, const char *where, grace_plan **out) {
    grace_status st = GRACE_OK;
    const gr_json *layers;
    grace_plan *plan = NULL;
    GR_TRY(read_version(root, where));
    GR_TRY(read_sizes(root, where, &layers, &plan));
    GR_TRY(read_names(root, where, plan));
    GR_TRY(read_layer_ids(root, where, plan));
    GR_TRY(read_knee(root, where, plan));
    for (int32_t l = 0; l < plan->n_layers; l++) {
        place at;
        snprintf(at.text, sizeof at.text, "%.256s: layer %d", where, l);
        GR_TRY(read_layer(gr_json_at(layers, (size_t)l), at.text, l, plan));
    }
    *out = plan, plan = NULL;
done:
    grace_plan_free(plan);
    return st;
}

grace_status gr_plan_parse(const char *where, const char *text, size_t n, grace_plan **out) {
    gr_json *root = NULL;
    grace_status st = gr_json_parse(where, text, n, &root);
    if (!st) st = read_plan(root, where, out);
    gr_json_free(root);
    return st;
}

grace_status grace_plan_load(const char *path, grace_plan **out) {
    gr_file file;
    grace_status st = gr_file_map(path, &file);
    if (st) return st;
    st = gr_plan_parse(path, file.data, file.n, out);
    gr_file_unmap(&file);
    return st;
}
