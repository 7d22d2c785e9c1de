#include "interop/place_json.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/file.h"
#include "base/json.h"
#include "base/memory.h"
#include "plan/cluster.h"
#include "plan/tables.h"

/* ---- writing ---- */

static gr_json *row_json(const grace_plan_layer *pl, int32_t from, int32_t to) {
    gr_json *row = gr_json_new_array();
    for (int32_t s = from; s < to; s++) gr_json_push_int(row, pl->expert_of_slot[s]);
    return row;
}

/* A dense layer has no experts, but its row must be one that an engine can read. */
static gr_json *dense_row(int32_t n_slots, int32_t n_experts) {
    gr_json *row = gr_json_new_array();
    for (int32_t s = 0; s < n_slots; s++) gr_json_push_int(row, s % n_experts);
    return row;
}

/* One line: a number a line, as people's files have it, would make a thousand pages. */
static grace_status save_line(const gr_json *root, const char *path) {
    grace_status st = GRACE_OK;
    char *text = NULL;
    gr_buf line = {0};
    GR_TRY(gr_json_write(root, 0, &text, NULL));
    GR_TRY(gr_buf_printf(&line, "%s\n", text));
    GR_TRY(gr_file_replace(path, line.data, line.n));
done:
    free(text);
    gr_buf_free(&line);
    return st;
}

/* ids [n_layers] ascending: rows between them are dense layers. */
static gr_json *table_json(const grace_plan *plan, const int32_t *ids, int32_t n_model_layers) {
    gr_json *rows = gr_json_new_array();
    for (int32_t m = 0, l = 0; m < n_model_layers; m++) {
        bool dense = l == plan->n_layers || ids[l] != m;
        gr_json_push(rows, dense ? dense_row(plan->layers[0].n_slots, plan->n_experts) : row_json(&plan->layers[l], 0, plan->layers[l].n_slots));
        l += !dense;
    }
    return rows;
}

grace_status gr_sglang_plan_save(const grace_plan *plan, const gr_layer_map *map, const char *path) {
    grace_status st = GRACE_OK;
    gr_json *root = gr_json_new_object();
    int32_t *ids = NULL, n_model_layers = 0, n_slots = 0;
    GR_TRY(gr_slots_per_rank(plan, &n_slots));
    GR_CALLOC(ids, plan->n_layers);
    GR_TRY(gr_layer_map_ids(map, plan->layer_ids, plan->n_layers, ids, &n_model_layers));
    gr_json_set(root, "physical_to_logical_map", table_json(plan, ids, n_model_layers));
    GR_TRY(save_line(root, path));
done:
    gr_json_free(root);
    free(ids);
    return st;
}

grace_status gr_flat_plan_save(const grace_plan *plan, const char *path) {
    grace_status st = GRACE_OK;
    gr_json *rows = gr_json_new_array();
    int32_t n_slots = 0;
    GR_TRY(gr_slots_per_rank(plan, &n_slots));
    for (int32_t l = 0; l < plan->n_layers; l++) gr_json_push(rows, row_json(&plan->layers[l], 0, plan->layers[l].n_slots));
    GR_TRY(save_line(rows, path));
done:
    gr_json_free(rows);
    return st;
}

static gr_json *devices_json(const grace_plan *plan, const grace_plan_layer *pl) {
    gr_json *devices = gr_json_new_array();
    for (int32_t r = 0; r < grace_cluster_ranks(plan->cluster); r++) {
        gr_json *device = gr_json_new_object();
        gr_json_set_int(device, "device_id", r);
        gr_json_set(device, "device_expert", row_json(pl, pl->first_slot[r], pl->first_slot[r + 1]));
        gr_json_push(devices, device);
    }
    return devices;
}

grace_status gr_ascend_plan_save(const grace_plan *plan, const char *path) {
    grace_status st = GRACE_OK;
    gr_json *root = gr_json_new_object(), *layers = gr_json_new_array();
    int32_t n_slots = 0;
    gr_json_set_int(root, "moe_layer_count", plan->n_layers);
    gr_json_set(root, "layer_list", layers);
    GR_TRY(gr_slots_per_rank(plan, &n_slots));
    for (int32_t l = 0; l < plan->n_layers; l++) {
        gr_json *layer = gr_json_new_object();
        gr_json_set_int(layer, "layer_id", l);
        gr_json_set_int(layer, "device_count", grace_cluster_ranks(plan->cluster));
        gr_json_set(layer, "device_list", devices_json(plan, &plan->layers[l]));
        gr_json_push(layers, layer);
    }
    GR_TRY(save_line(root, path));
done:
    gr_json_free(root);
    return st;
}

/* ---- reading tables [layer][slot] ---- */

static grace_status check_count(const char *where, const char *what, size_t found, size_t max) {
    grace_status st = GRACE_OK;
    GR_CHECK(found >= 1 && found <= max, GRACE_ERR_FORMAT, "%s: expected 1 to %zu %s, found %zu", where, max, what, found);
done:
    return st;
}

static grace_status read_experts(const char *where, const gr_json *array, size_t n, int32_t *out) {
    grace_status st = GRACE_OK;
    GR_CHECK(gr_json_kind_of(array) == GR_JSON_ARRAY && gr_json_length(array) == n, GRACE_ERR_FORMAT,
             "%s: expected an array of %zu experts, found %s of %zu", where, n, gr_json_kind_name(array), gr_json_length(array));
    for (size_t i = 0; i < n; i++) {
        int64_t expert = 0;
        GR_TRY(gr_json_int_at(array, where, i, 0, GR_PLAN_EXPERTS_MAX - 1, &expert));
        out[i] = (int32_t)expert;
    }
done:
    return st;
}

/* Rows ids [n_layers] of the array. */
static grace_status read_table(const char *where, const gr_json *rows, const int32_t *ids, int32_t n_layers, int32_t n_ranks, gr_placement *out) {
    grace_status st = GRACE_OK;
    size_t n_slots = gr_json_length(gr_json_at(rows, (size_t)ids[0]));
    int32_t *table = NULL;
    GR_TRY(check_count(where, "slots in a layer", n_slots, (size_t)GR_PLAN_EXPERTS_MAX * GRACE_RANKS_MAX));
    for (int32_t l = 0; l < n_layers; l++)      /* before memory of that size is taken */
        GR_CHECK(gr_json_length(gr_json_at(rows, (size_t)ids[l])) == n_slots, GRACE_ERR_FORMAT, "%s: row %d: expected %zu slots, found %zu", where, ids[l],
                 n_slots, gr_json_length(gr_json_at(rows, (size_t)ids[l])));
    GR_CALLOC(table, (size_t)n_layers * n_slots);
    for (int32_t l = 0; l < n_layers; l++) {
        char at[320];
        snprintf(at, sizeof at, "%.280s: row %d", where, ids[l]);
        GR_TRY(read_experts(at, gr_json_at(rows, (size_t)ids[l]), n_slots, table + (size_t)l * n_slots));
    }
    GR_TRY(gr_placement_of_table(where, table, n_layers, (int32_t)n_slots, n_ranks, out));
done:
    free(table);
    return st;
}

/* The map says which rows are MoE layers; without one all are. */
static grace_status read_rows(const char *where, const gr_json *rows, int32_t n_ranks, const gr_layer_map *map, gr_placement *out) {
    grace_status st = GRACE_OK;
    int32_t *ids = NULL, n_model_layers = 0;
    GR_TRY(check_count(where, "layers", gr_json_kind_of(rows) == GR_JSON_ARRAY ? gr_json_length(rows) : 0, GR_PLAN_LAYERS_MAX));
    int32_t n_rows = (int32_t)gr_json_length(rows), n_layers = n_rows;
    const gr_layer_map all = {.n_model_layers = n_rows};
    if (map && map->n_model_layers) {
        GR_CHECK(map->n_model_layers == n_rows, GRACE_ERR_MISMATCH, "%s: %d rows, the model has %d layers", where, n_rows, map->n_model_layers);
        GR_CHECK(map->n_layers >= 1 && map->n_layers <= n_rows, GRACE_ERR_ARG, "%s: %d rows, but %d MoE layers were asked for", where, n_rows,
                 map->n_layers);
        n_layers = map->n_layers;
    }
    GR_CALLOC(ids, n_layers);
    GR_TRY(gr_layer_map_ids(map ? map : &all, NULL, n_layers, ids, &n_model_layers));
    GR_TRY(read_table(where, rows, ids, n_layers, n_ranks, out));
done:
    free(ids);
    return st;
}

grace_status gr_sglang_parse(const char *where, const char *text, size_t n, int32_t n_ranks, const gr_layer_map *map, gr_placement *out) {
    grace_status st = GRACE_OK;
    gr_json *root = NULL;
    const gr_json *rows = NULL;
    GR_TRY(gr_json_parse(where, text, n, &root));
    GR_TRY(gr_json_array(root, where, "physical_to_logical_map", &rows));
    GR_CHECK(gr_json_length(root) == 1, GRACE_ERR_FORMAT, "%s: expected no key beside 'physical_to_logical_map': SGLang refuses others", where);
    GR_TRY(read_rows(where, rows, n_ranks, map, out));
done:
    gr_json_free(root);
    return st;
}

grace_status gr_flat_parse(const char *where, const char *text, size_t n, int32_t n_ranks, gr_placement *out) {
    gr_json *root = NULL;
    grace_status st = gr_json_parse(where, text, n, &root);
    if (!st) st = read_rows(where, root, n_ranks, NULL, out);
    gr_json_free(root);
    return st;
}

/* ---- reading vLLM-Ascend's ---- */

static size_t count_slots(const gr_json *layers) {
    size_t n = 0;
    for (size_t l = 0; l < gr_json_length(layers); l++) {
        const gr_json *devices = gr_json_get(gr_json_at(layers, l), "device_list");
        for (size_t d = 0; d < gr_json_length(devices); d++) n += gr_json_length(gr_json_get(gr_json_at(devices, d), "device_expert"));
    }
    return n;
}

static grace_status read_layer(const char *where, const gr_json *layer, int32_t index, gr_placement *p) {
    grace_status st = GRACE_OK;
    const gr_json *devices = NULL, *experts = NULL;
    int64_t id = 0;
    char at[320];
    snprintf(at, sizeof at, "%.280s: layer %d", where, index);
    GR_TRY(gr_json_int(layer, at, "layer_id", index, index, &id));
    GR_TRY(gr_json_int(layer, at, "device_count", p->n_ranks, p->n_ranks, &id));
    GR_TRY(gr_json_array(layer, at, "device_list", &devices));
    GR_CHECK(gr_json_length(devices) == (size_t)p->n_ranks, GRACE_ERR_FORMAT, "%s: expected %d devices, found %zu", at, p->n_ranks,
             gr_json_length(devices));
    for (int32_t r = 0; r < p->n_ranks; r++) {
        int64_t row = (int64_t)index * p->n_ranks + r;
        GR_TRY(gr_json_int(gr_json_at(devices, (size_t)r), at, "device_id", r, r, &id));
        GR_TRY(gr_json_array(gr_json_at(devices, (size_t)r), at, "device_expert", &experts));
        GR_TRY(read_experts(at, experts, gr_json_length(experts), p->expert + p->first[row]));
        p->first[row + 1] = p->first[row] + (int64_t)gr_json_length(experts);
    }
done:
    return st;
}

grace_status gr_ascend_parse(const char *where, const char *text, size_t n, gr_placement *out) {
    grace_status st = GRACE_OK;
    gr_json *root = NULL;
    const gr_json *layers = NULL, *devices = NULL;
    gr_placement p = {0};
    int64_t n_layers = 0;
    GR_TRY(gr_json_parse(where, text, n, &root));
    GR_TRY(gr_json_int(root, where, "moe_layer_count", 1, GR_PLAN_LAYERS_MAX, &n_layers));
    GR_TRY(gr_json_array(root, where, "layer_list", &layers));
    GR_CHECK((int64_t)gr_json_length(layers) == n_layers, GRACE_ERR_FORMAT, "%s: %zu layers in 'layer_list', 'moe_layer_count' is %" PRId64, where,
             gr_json_length(layers), n_layers);
    GR_TRY(gr_json_array(gr_json_at(layers, 0), where, "device_list", &devices));
    GR_TRY(check_count(where, "devices", gr_json_length(devices), GRACE_RANKS_MAX));
    GR_TRY(gr_placement_alloc((int32_t)n_layers, (int32_t)gr_json_length(devices), (int64_t)count_slots(layers), &p));
    for (int32_t l = 0; l < p.n_layers; l++) GR_TRY(read_layer(where, gr_json_at(layers, (size_t)l), l, &p));
    *out = p, p = (gr_placement){0};
done:
    gr_json_free(root);
    gr_placement_free(&p);
    return st;
}

/* ---- files ---- */

grace_status gr_sglang_plan_load(const char *path, grace_cluster cluster, int32_t top_k, const gr_layer_map *map, grace_plan **out) {
    grace_status st = GRACE_OK;
    gr_file file = {0};
    gr_placement p = {0};
    GR_TRY(gr_cluster_check(cluster));
    GR_TRY(gr_file_map(path, &file));
    GR_TRY(gr_sglang_parse(path, file.data, file.n, grace_cluster_ranks(cluster), map, &p));
    GR_TRY(gr_placement_plan(path, &p, cluster, top_k, out));
done:
    gr_placement_free(&p);
    gr_file_unmap(&file);
    return st;
}

grace_status gr_flat_plan_load(const char *path, grace_cluster cluster, int32_t top_k, grace_plan **out) {
    grace_status st = GRACE_OK;
    gr_file file = {0};
    gr_placement p = {0};
    GR_TRY(gr_cluster_check(cluster));
    GR_TRY(gr_file_map(path, &file));
    GR_TRY(gr_flat_parse(path, file.data, file.n, grace_cluster_ranks(cluster), &p));
    GR_TRY(gr_placement_plan(path, &p, cluster, top_k, out));
done:
    gr_placement_free(&p);
    gr_file_unmap(&file);
    return st;
}

grace_status gr_ascend_plan_load(const char *path, grace_cluster cluster, int32_t top_k, grace_plan **out) {
    grace_status st = GRACE_OK;
    gr_file file = {0};
    gr_placement p = {0};
    GR_TRY(gr_file_map(path, &file));
    GR_TRY(gr_ascend_parse(path, file.data, file.n, &p));
    GR_TRY(gr_placement_plan(path, &p, cluster, top_k, out));
done:
    gr_placement_free(&p);
    gr_file_unmap(&file);
    return st;
}
