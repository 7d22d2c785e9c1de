#include <inttypes.h>
#include <stdio.h>

#include "report/read.h"

enum { KNEE_MAX = 1024, REPLICAS_MAX = 65536 };

/* ---- the (S, U) curve ---- */

static grace_status read_knee(const gr_json *doc, gr_arena *arena, gr_report_plan *plan) {
    grace_status st = GRACE_OK;
    static const char where[] = "report: knee";
    const gr_json *knee, *points;
    size_t n;
    int64_t chosen;
    GR_TRY(gr_read_object_or_none(doc, "report", "knee", &knee));
    if (!knee) goto done;
    GR_TRY(gr_read_array(knee, where, "points", 1, KNEE_MAX, &points, &n));
    GR_TRY(gr_json_int(knee, where, "chosen", 0, (int64_t)n - 1, &chosen));
    GR_ARENA_ARRAY(arena, plan->knee, n);
    for (size_t i = 0; i < n; i++) {
        gr_place p = gr_place_at("knee: points", i);
        const gr_json *point = gr_json_at(points, i);
        GR_TRY(gr_json_int(point, p.text, "delta", 0, GR_REPORT_EXPERTS_MAX, &plan->knee[i].delta));
        GR_TRY(gr_read_real(point, p.text, "r", &plan->knee[i].r));
        GR_TRY(gr_read_real(point, p.text, "size_std", &plan->knee[i].size_std));
        GR_TRY(gr_read_real(point, p.text, "utility", &plan->knee[i].utility));
    }
    plan->n_knee = (int32_t)n;
    plan->knee_chosen = (int32_t)chosen;
done:
    return st;
}

/* ---- replicas ---- */

/* Hosts of every expert into one array; a primary listed among them is left out. Counted first, so that the array is as large as the document. */
static grace_status read_hosts(const gr_json *hosts, const char *where, gr_arena *arena, int32_t n_ranks, gr_report_replica *r) {
    grace_status st = GRACE_OK;
    size_t n_hosts = 0, n = 0;
    char key[48];
    for (int32_t i = 0; i < r->n_experts; i++) n_hosts += gr_json_length(gr_json_at(hosts, (size_t)i));
    GR_ARENA_ARRAY(arena, r->hosts, n_hosts);
    GR_ARENA_ARRAY(arena, r->first_host, r->n_experts + 1);
    for (int32_t i = 0; i < r->n_experts; i++) {
        const gr_json *ranks = gr_json_at(hosts, (size_t)i);
        size_t first = n;
        snprintf(key, sizeof key, "hosts[%d]", (int)i);
        GR_TRY(gr_read_ints(ranks, where, key, gr_json_length(ranks), n_ranks - 1, r->hosts + first));
        for (size_t j = 0; j < gr_json_length(ranks); j++)
            if (r->hosts[first + j] != r->primary_rank) r->hosts[n++] = r->hosts[first + j];
        r->first_host[i + 1] = (int32_t)n;
    }
done:
    return st;
}

static grace_status read_replica(const gr_json *json, const char *where, gr_arena *arena, int32_t n_ranks, gr_report_replica *r) {
    grace_status st = GRACE_OK;
    const gr_json *hosts;
    size_t n, n_hosts;
    GR_CHECK(gr_json_kind_of(json) == GR_JSON_OBJECT, GRACE_ERR_FORMAT, "%s: expected an object, found %s", where, gr_json_kind_name(json));
    GR_TRY(gr_json_int(json, where, "layer", 0, GR_REPORT_LAYERS_MAX - 1, &r->layer));
    GR_TRY(gr_json_int(json, where, "primary_rank", 0, n_ranks - 1, &r->primary_rank));
    GR_TRY(gr_read_id_list(arena, json, where, "experts", GR_REPORT_EXPERTS_MAX, GR_REPORT_EXPERTS_MAX - 1, &r->experts, &n));
    GR_TRY(gr_read_array(json, where, "hosts", n, n, &hosts, &n_hosts));
    r->n_experts = (int32_t)n;
    GR_TRY(read_hosts(hosts, where, arena, n_ranks, r));
done:
    return st;
}

static grace_status read_replicas(const gr_json *doc, gr_arena *arena, int32_t n_ranks, gr_report_plan *plan) {
    grace_status st = GRACE_OK;
    const gr_json *replicas;
    plan->n_replicas = -1;
    GR_TRY(gr_read_array_or_none(doc, "report", "replicas", &replicas));
    if (!replicas) goto done;
    size_t n = gr_json_length(replicas);
    GR_CHECK(n <= REPLICAS_MAX, GRACE_ERR_FORMAT, "report: 'replicas': expected at most %d elements, found %zu", REPLICAS_MAX, n);
    GR_ARENA_ARRAY(arena, plan->replicas, n);
    for (size_t i = 0; i < n; i++) {
        gr_place p = gr_place_at("replicas", i);
        GR_TRY(read_replica(gr_json_at(replicas, i), p.text, arena, n_ranks, &plan->replicas[i]));
    }
    plan->n_replicas = (int32_t)n;
done:
    return st;
}

/* ---- affinity ---- */

static grace_status check_permutation(gr_arena *arena, const char *where, const int64_t *order, int32_t n) {
    grace_status st = GRACE_OK;
    bool *seen;
    GR_ARENA_ARRAY(arena, seen, n);
    for (int32_t i = 0; i < n; i++) {
        GR_CHECK(!seen[order[i]], GRACE_ERR_FORMAT, "%s: 'order': expected every expert once, found %" PRId64 " twice", where, order[i]);
        seen[order[i]] = true;
    }
done:
    return st;
}

static grace_status read_groups(const gr_json *json, const char *where, gr_arena *arena, int32_t n_ranks, gr_report_affinity *a) {
    grace_status st = GRACE_OK;
    int64_t *sizes, sum = 0;
    size_t n, n_named;
    GR_TRY(gr_read_id_list(arena, json, where, "groups", GR_REPORT_EXPERTS_MAX, a->n, &sizes, &n));
    GR_TRY(gr_read_id_list(arena, json, where, "ranks", GR_REPORT_EXPERTS_MAX, n_ranks - 1, &a->ranks, &n_named));
    GR_CHECK(n_named == n, GRACE_ERR_FORMAT, "%s: 'ranks': expected one for each of %zu groups, found %zu", where, n, n_named);
    GR_ARENA_ARRAY(arena, a->groups, n);
    for (size_t i = 0; i < n; i++) {
        a->groups[i] = (int32_t)sizes[i];
        sum += sizes[i];
    }
    GR_CHECK(sum == a->n, GRACE_ERR_FORMAT, "%s: 'groups': expected sizes that add up to %d experts, found %" PRId64, where, (int)a->n, sum);
    a->n_groups = (int32_t)n;
done:
    return st;
}

static grace_status read_affinity(const gr_json *doc, gr_arena *arena, int32_t n_ranks, gr_report_plan *plan) {
    grace_status st = GRACE_OK;
    static const char where[] = "report: affinity";
    const gr_json *json;
    gr_report_affinity *a;
    int64_t n;
    GR_TRY(gr_read_object_or_none(doc, "report", "affinity", &json));
    if (!json) goto done;
    GR_ARENA_ARRAY(arena, a, 1);
    GR_TRY(gr_json_int(json, where, "layer", 0, GR_REPORT_LAYERS_MAX - 1, &a->layer));
    GR_TRY(gr_json_int(json, where, "n", 1, GR_REPORT_EXPERTS_MAX, &n));
    size_t n_values = (size_t)(n * n);
    GR_CHECK(gr_json_length(gr_json_get(json, "values")) == n_values, GRACE_ERR_FORMAT, "%s: 'values': expected %zu values, found %zu", where,
             n_values, gr_json_length(gr_json_get(json, "values")));
    a->n = (int32_t)n;
    GR_ARENA_ARRAY(arena, a->order, n);
    GR_ARENA_ARRAY(arena, a->values, n_values);
    GR_TRY(gr_read_ints(gr_json_get(json, "order"), where, "order", (size_t)n, n - 1, a->order));
    GR_TRY(check_permutation(arena, where, a->order, a->n));
    GR_TRY(read_groups(json, where, arena, n_ranks, a));
    GR_TRY(gr_read_ints(gr_json_get(json, "values"), where, "values", n_values, GR_COUNT_MAX, a->values));
    plan->affinity = a;
done:
    return st;
}

grace_status gr_report_read_plan(const gr_json *object, gr_arena *arena, int32_t n_ranks, gr_report_plan *plan) {
    grace_status st = GRACE_OK;
    GR_TRY(read_knee(object, arena, plan));
    GR_TRY(read_replicas(object, arena, n_ranks, plan));
    GR_TRY(read_affinity(object, arena, n_ranks, plan));
done:
    return st;
}
