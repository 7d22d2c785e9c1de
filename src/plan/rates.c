#include "plan/rates.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"

enum { VERSION = 1, NODES_MAX = 1 << 20 };

/* What is known before anything is measured. h200: measured on 4 x H200 over NVLink with CUDA 13.0 and NCCL 2.28.9 (matrix products at an expert's
 * shape, reading memory, an all-to-all by stores); one message round of sockets, or of RDMA from 100 Gbit/s on. h100: what 4 x H100 gave
 * (bench/results/multi.json, docs/performance.md: the exchange of 4096 rows, half of that of one row, a product under load), a round as there. a100:
 * data sheets, the same. cpu: 2x2 MPI ranks on two cores as `grace bench net -m models/tiny-olmoe` finds them, the wire by tools/wire.sh; fp32 on the
 * wire. */
#define H200 {350e9, 3.4e-6}, 670e12, 4.55e12, 2, 1, 1, 0, {{0}}
#define H100 {294e9, 6e-6}, 650e12, 3.1e12, 2, 1, 1, 0, {{0}}
#define A100 {250e9, 5e-6}, 250e12, 1.8e12, 2, 1, 1, 0, {{0}}
#define CPU {0.7e9, 15e-6}, 40e9, 25e9, 4, 3, 1, 0, {{0}}
static const grace_rates presets[] = {
    {"h200-1g", {0.125e9, 50e-6}, H200},    {"h200-10g", {1.25e9, 50e-6}, H200},    {"h200-25g", {3.125e9, 50e-6}, H200},
    {"h200-100g", {12.5e9, 10e-6}, H200},   {"h200-400g", {50e9, 10e-6}, H200},     {"h100-25g", {3.125e9, 50e-6}, H100},
    {"h100-100g", {12.5e9, 10e-6}, H100},   {"h100-400g", {50e9, 10e-6}, H100},     {"a100-25g", {3.125e9, 50e-6}, A100},
    {"cpu-100mbit", {11.8e6, 95e-6}, CPU},  {"cpu-1gbit", {118e6, 95e-6}, CPU},     {"cpu", {1.1e9, 30e-6}, CPU},
};
enum { N_PRESETS = sizeof presets / sizeof *presets };

const char *grace_rates_preset(int32_t index) { return index >= 0 && index < N_PRESETS ? presets[index].name : NULL; }

grace_link_rate grace_rates_of_node(const grace_rates *rates, int32_t node) {
    for (int32_t i = 0; i < rates->n_nodes; i++)
        if (node >= rates->nodes[i].first && node <= rates->nodes[i].last) return rates->nodes[i].link;
    return rates->cross;
}

/* ---- JSON ---- */

typedef struct place { char text[320]; } place;

static grace_status check_keys(const gr_json *object, const char *where, const char *const *keys, size_t n_keys) {
    grace_status st = GRACE_OK;
    GR_CHECK(gr_json_kind_of(object) == GR_JSON_OBJECT, GRACE_ERR_FORMAT, "%s: expected an object, found %s", where, gr_json_kind_name(object));
    for (const gr_json_member *m = gr_json_first(object); m; m = gr_json_next(object, m)) {
        bool known = false;
        for (size_t i = 0; i < n_keys; i++) known |= strcmp(gr_json_key(m), keys[i]) == 0;
        GR_CHECK(known, GRACE_ERR_FORMAT, "%s: unknown key '%.40s'", where, gr_json_key(m));
    }
done:
    return st;
}

static grace_status read_above(const gr_json *object, const char *where, const char *key, double above, double *out) {
    grace_status st = GRACE_OK;
    double value;
    GR_TRY(gr_json_real(object, where, key, &value));
    GR_CHECK(isfinite(value) && value > above && value <= 1e18, GRACE_ERR_FORMAT, "%s: '%s': expected a number above %g, at most 1e18, found %g", where,
             key, fmax(above, 0), value);
    *out = value;
done:
    return st;
}

static grace_status read_link(const gr_json *object, const char *where, grace_link_rate *out) {
    grace_status st = GRACE_OK;
    double latency_us;
    GR_TRY(read_above(object, where, "bytes_per_s", 0, &out->bytes_s));
    GR_TRY(read_above(object, where, "latency_us", -1e-300, &latency_us));
    out->latency_s = latency_us * 1e-6;
done:
    return st;
}

static grace_status read_link_in(const gr_json *root, const char *where, const char *key, grace_link_rate *out) {
    static const char *const keys[] = {"bytes_per_s", "latency_us"};
    grace_status st = GRACE_OK;
    const gr_json *object;
    place in;
    snprintf(in.text, sizeof in.text, "%.200s: %s", where, key);
    GR_TRY(gr_json_object_in(root, where, key, &object));
    GR_TRY(check_keys(object, in.text, keys, 2));
    GR_TRY(read_link(object, in.text, out));
done:
    return st;
}

static grace_status read_node_rate(const gr_json *object, const char *where, int32_t after, grace_node_rate *out) {
    static const char *const keys[] = {"first", "last", "bytes_per_s", "latency_us"};
    grace_status st = GRACE_OK;
    int64_t first, last;
    GR_TRY(check_keys(object, where, keys, 4));
    GR_TRY(gr_json_int(object, where, "first", after, NODES_MAX, &first));
    GR_TRY(gr_json_int(object, where, "last", first, NODES_MAX, &last));
    GR_TRY(read_link(object, where, &out->link));
    out->first = (int32_t)first, out->last = (int32_t)last;
done:
    return st;
}

static grace_status read_nodes(const gr_json *root, const char *where, grace_rates *out) {
    grace_status st = GRACE_OK;
    const gr_json *array;
    if (!gr_json_get(root, "nodes")) return GRACE_OK;
    GR_TRY(gr_json_array(root, where, "nodes", &array));
    GR_CHECK(gr_json_length(array) <= GRACE_NODE_RATES_MAX, GRACE_ERR_LIMIT, "%s: 'nodes': expected at most %d entries, found %zu", where,
             GRACE_NODE_RATES_MAX, gr_json_length(array));
    for (size_t i = 0; i < gr_json_length(array); i++) {
        place in;
        snprintf(in.text, sizeof in.text, "%.200s: nodes[%zu]", where, i);
        GR_TRY(read_node_rate(gr_json_at(array, i), in.text, i ? out->nodes[i - 1].last + 1 : 0, &out->nodes[i]));
        out->n_nodes++;
    }
done:
    return st;
}

static grace_status read_machine(const gr_json *root, const char *where, grace_rates *out) {
    grace_status st = GRACE_OK;
    int64_t value_bytes, dispatch, combine;
    GR_TRY(read_above(root, where, "flop_per_s", 0, &out->flop_s));
    GR_TRY(read_above(root, where, "memory_bytes_per_s", 0, &out->memory_bytes_s));
    GR_TRY(gr_json_int(root, where, "value_bytes", 1, 8, &value_bytes));
    GR_TRY(gr_json_int(root, where, "dispatch_rounds", 0, 100, &dispatch));
    GR_TRY(gr_json_int(root, where, "combine_rounds", 0, 100, &combine));
    out->value_bytes = (int32_t)value_bytes, out->dispatch_rounds = (int32_t)dispatch, out->combine_rounds = (int32_t)combine;
done:
    return st;
}

static grace_status read_root(const gr_json *root, const char *where, grace_rates *out) {
    static const char *const keys[] = {"grace_rates", "name", "cross", "intra", "flop_per_s", "memory_bytes_per_s", "value_bytes", "dispatch_rounds",
                                       "combine_rounds", "nodes", "measured"};
    grace_status st = GRACE_OK;
    int64_t version;
    const char *name;
    GR_TRY(check_keys(root, where, keys, sizeof keys / sizeof *keys));
    GR_TRY(gr_json_int(root, where, "grace_rates", 1, INT32_MAX, &version));
    GR_CHECK(version == VERSION, GRACE_ERR_UNSUPPORTED, "%s: rates format %" PRId64 ", this program reads %d", where, version, VERSION);
    GR_TRY(gr_json_string_or(root, where, "name", "measured", &name));
    GR_CHECK(strlen(name) < sizeof out->name, GRACE_ERR_FORMAT, "%s: 'name': expected less than %zu bytes, found %zu", where, sizeof out->name, strlen(name));
    memcpy(out->name, name, strlen(name) + 1);
    GR_TRY(read_link_in(root, where, "cross", &out->cross));
    GR_TRY(read_link_in(root, where, "intra", &out->intra));
    GR_TRY(read_machine(root, where, out));
    GR_TRY(read_nodes(root, where, out));
done:
    return st;
}

grace_status gr_rates_parse(const char *where, const char *text, size_t n, grace_rates *out) {
    grace_status st = GRACE_OK;
    gr_json *root = NULL;
    grace_rates rates = {0};
    GR_TRY(gr_json_parse(where, text, n, &root));
    GR_TRY(read_root(root, where, &rates));
    *out = rates;
done:
    gr_json_free(root);
    return st;
}

static void list_presets(char *out, size_t size) {
    size_t n = 0;
    out[0] = 0;
    for (int32_t i = 0; i < N_PRESETS && n < size; i++) n += (size_t)snprintf(out + n, size - n, "%s%s", i ? ", " : "", presets[i].name);
}

grace_status grace_rates_load(const char *name, grace_rates *out) {
    grace_status st = GRACE_OK;
    gr_file file = {0};
    char names[256];
    for (int32_t i = 0; i < N_PRESETS; i++)
        if (strcmp(name, presets[i].name) == 0) {
            *out = presets[i];
            return GRACE_OK;
        }
    list_presets(names, sizeof names);
    GR_CHECK(strchr(name, '/') || strchr(name, '.'), GRACE_ERR_ARG, "rates '%.60s': expected a file, or one of %s", name, names);
    GR_TRY(gr_file_map(name, &file));
    GR_TRY(gr_rates_parse(name, file.data, file.n, out));
done:
    gr_file_unmap(&file);
    return st;
}

static gr_json *put_link(gr_json *object, grace_link_rate link) {
    gr_json_set_real(object, "bytes_per_s", link.bytes_s);
    gr_json_set_real(object, "latency_us", link.latency_s * 1e6);
    return object;
}

gr_json *gr_rates_json(const grace_rates *r) {
    gr_json *root = gr_json_new_object(), *nodes = gr_json_new_array();
    gr_json_set_int(root, "grace_rates", VERSION);
    gr_json_set_string(root, "name", r->name);
    gr_json_set(root, "cross", put_link(gr_json_new_object(), r->cross));
    gr_json_set(root, "intra", put_link(gr_json_new_object(), r->intra));
    gr_json_set_real(root, "flop_per_s", r->flop_s);
    gr_json_set_real(root, "memory_bytes_per_s", r->memory_bytes_s);
    gr_json_set_int(root, "value_bytes", r->value_bytes);
    gr_json_set_int(root, "dispatch_rounds", r->dispatch_rounds);
    gr_json_set_int(root, "combine_rounds", r->combine_rounds);
    for (int32_t i = 0; i < r->n_nodes; i++) {
        gr_json *node = gr_json_new_object();
        gr_json_set_int(node, "first", r->nodes[i].first);
        gr_json_set_int(node, "last", r->nodes[i].last);
        gr_json_push(nodes, put_link(node, r->nodes[i].link));
    }
    gr_json_set(root, "nodes", nodes);
    return root;
}

grace_status grace_rates_save(const grace_rates *rates, const char *path) {
    gr_json *root = gr_rates_json(rates);
    grace_status st = gr_json_save(root, path);
    gr_json_free(root);
    return st;
}
