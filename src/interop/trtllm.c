#include "interop/trtllm.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "plan/cluster.h"
#include "plan/tables.h"

/* ---- writing ---- */

static grace_status put_layer(const grace_plan_layer *pl, int32_t id, gr_buf *out) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_buf_printf(out, "  %d: [", id));
    for (int32_t s = 0; s < pl->n_slots; s++) GR_TRY(gr_buf_printf(out, "%s%d", s ? ", " : "", pl->expert_of_slot[s]));
    GR_TRY(gr_buf_printf(out, "]\n"));
done:
    return st;
}

grace_status gr_trtllm_plan_save(const grace_plan *plan, const gr_layer_map *map, int32_t layer_updates_per_iter, const char *path) {
    grace_status st = GRACE_OK;
    gr_buf text = {0};
    int32_t *ids = NULL, n_model_layers = 0, n_slots = 0;
    GR_CHECK(layer_updates_per_iter >= 0, GRACE_ERR_ARG, "layer_updates_per_iter: expected 0 or more, found %d", layer_updates_per_iter);
    GR_TRY(gr_slots_per_rank(plan, &n_slots));
    GR_CALLOC(ids, plan->n_layers);
    GR_TRY(gr_layer_map_ids(map, plan->layer_ids, plan->n_layers, ids, &n_model_layers));
    GR_TRY(gr_buf_printf(&text, "num_slots: %d\ninitial_global_assignments:\n", plan->layers[0].n_slots));
    for (int32_t l = 0; l < plan->n_layers; l++) GR_TRY(put_layer(&plan->layers[l], ids[l], &text));
    GR_TRY(gr_buf_printf(&text, "layer_updates_per_iter: %d\n", layer_updates_per_iter));
    GR_TRY(gr_file_replace(path, text.data, text.n));
done:
    gr_buf_free(&text);
    free(ids);
    return st;
}

/* ---- reading ---- */

typedef struct reader {
    const char *where, *at, *end;
    int64_t line;
    int64_t n_slots;            /* -1: not seen */
    int64_t *layer_ids;         /* [n_layers] */
    int32_t *experts;           /* [n_experts] of all layers so far */
    size_t n_layers, n_experts, layers_capacity, experts_capacity;
} reader;

static grace_status wrong(const reader *r, const char *expected) {
    const char *stop = r->at < r->end ? memchr(r->at, '\n', (size_t)(r->end - r->at)) : NULL;
    int64_t left = (stop ? stop : r->end) - r->at;
    return gr_fail(GRACE_ERR_FORMAT, "%s: line %" PRId64 ": expected %s, found '%.*s'", r->where, r->line, expected, left < 30 ? (int)left : 30, r->at);
}

static bool at_end(const reader *r) { return r->at == r->end; }

static void skip_spaces(reader *r) {
    while (!at_end(r) && (*r->at == ' ' || *r->at == '\r')) r->at++;
}

/* Blanks, comments and the ends of lines. */
static void skip_space_and_lines(reader *r) {
    for (;; r->at++) {
        skip_spaces(r);
        if (!at_end(r) && *r->at == '#')
            while (!at_end(r) && *r->at != '\n') r->at++;
        if (at_end(r) || *r->at != '\n') return;
        r->line++;
    }
}

static bool accept(reader *r, const char *word) {
    size_t n = strlen(word);
    if ((size_t)(r->end - r->at) < n || memcmp(r->at, word, n) != 0) return false;
    r->at += n;
    return true;
}

static grace_status read_number(reader *r, const char *what, int64_t max, int64_t *out) {
    int64_t value = 0;
    const char *begin = r->at;
    while (!at_end(r) && *r->at >= '0' && *r->at <= '9' && value <= max) value = 10 * value + (*r->at++ - '0');
    if (r->at == begin || value > max) return wrong(r, what);
    *out = value;
    return GRACE_OK;
}

static grace_status read_expert(reader *r) {
    grace_status st = GRACE_OK;
    int64_t expert = 0;
    GR_TRY(read_number(r, "an expert", GR_PLAN_EXPERTS_MAX - 1, &expert));
    GR_RESERVE(r->experts, r->n_experts + 1, r->experts_capacity);
    r->experts[r->n_experts++] = (int32_t)expert;
done:
    return st;
}

/* The rest of [a, b, ...] */
static grace_status read_flow(reader *r) {
    grace_status st = GRACE_OK;
    for (;;) {
        skip_space_and_lines(r);
        GR_TRY(read_expert(r));
        skip_space_and_lines(r);
        if (accept(r, "]")) break;
        if (!accept(r, ",")) GR_TRY(wrong(r, "',' or ']'"));
    }
done:
    return st;
}

/* "- a" on each of the next lines. */
static grace_status read_block(reader *r) {
    grace_status st = GRACE_OK;
    skip_space_and_lines(r);
    if (at_end(r) || *r->at != '-') GR_TRY(wrong(r, "a list of experts"));
    while (accept(r, "-")) {
        skip_spaces(r);
        GR_TRY(read_expert(r));
        skip_space_and_lines(r);
    }
done:
    return st;
}

static grace_status read_layer(reader *r) {
    grace_status st = GRACE_OK;
    int64_t id = 0;
    size_t before = r->n_experts;
    GR_TRY(read_number(r, "a layer's number", GR_PLAN_LAYERS_MAX - 1, &id));
    GR_CHECK(r->n_layers == 0 || id > r->layer_ids[r->n_layers - 1], GRACE_ERR_FORMAT,
             "%s: line %" PRId64 ": expected layers in ascending order", r->where, r->line);
    if (!accept(r, ":")) GR_TRY(wrong(r, "':'"));
    skip_spaces(r);
    GR_TRY(accept(r, "[") ? read_flow(r) : read_block(r));
    GR_RESERVE(r->layer_ids, r->n_layers + 1, r->layers_capacity);
    r->layer_ids[r->n_layers++] = id;
    GR_CHECK((r->n_experts - before) * r->n_layers == r->n_experts, GRACE_ERR_FORMAT,
             "%s: layer %" PRId64 " has %zu slots, others before it have more or less", r->where, id, r->n_experts - before);
done:
    return st;
}

static grace_status read_assignments(reader *r) {
    grace_status st = GRACE_OK;
    if (r->n_layers > 0) GR_TRY(wrong(r, "'initial_global_assignments' once"));
    for (skip_space_and_lines(r); !at_end(r) && *r->at >= '0' && *r->at <= '9'; skip_space_and_lines(r)) GR_TRY(read_layer(r));
    if (r->n_layers == 0) GR_TRY(wrong(r, "layers and their experts"));
done:
    return st;
}

static grace_status read_key(reader *r) {
    grace_status st = GRACE_OK;
    int64_t ignored = 0;
    if (accept(r, "num_slots:")) {
        skip_spaces(r);
        GR_TRY(read_number(r, "a number of slots", (int64_t)GR_PLAN_EXPERTS_MAX * GRACE_RANKS_MAX, &r->n_slots));
    } else if (accept(r, "layer_updates_per_iter:") || accept(r, "ep_size:")) {
        skip_spaces(r);
        GR_TRY(read_number(r, "a number", INT32_MAX, &ignored));
    } else if (accept(r, "initial_global_assignments:")) {
        GR_TRY(read_assignments(r));
    } else {
        GR_TRY(wrong(r, "num_slots, initial_global_assignments or layer_updates_per_iter"));
    }
done:
    return st;
}

grace_status gr_trtllm_parse(const char *where, const char *text, size_t n, int32_t n_ranks, gr_placement *out) {
    grace_status st = GRACE_OK;
    reader r = {.where = where, .at = text, .end = text + n, .line = 1, .n_slots = -1};
    for (skip_space_and_lines(&r); !at_end(&r); skip_space_and_lines(&r)) GR_TRY(read_key(&r));
    GR_CHECK(r.n_slots >= 0 && r.n_layers > 0, GRACE_ERR_FORMAT, "%s: expected num_slots and initial_global_assignments", where);
    GR_CHECK(r.n_experts == r.n_layers * (size_t)r.n_slots, GRACE_ERR_FORMAT, "%s: num_slots is %" PRId64 ", layers have %zu", where, r.n_slots,
             r.n_experts / r.n_layers);
    GR_TRY(gr_placement_of_table(where, r.experts, (int32_t)r.n_layers, (int32_t)r.n_slots, n_ranks, out));
done:
    free(r.layer_ids), free(r.experts);
    return st;
}

grace_status gr_trtllm_plan_load(const char *path, grace_cluster cluster, int32_t top_k, grace_plan **out) {
    grace_status st = GRACE_OK;
    gr_file file = {0};
    gr_placement p = {0};
    GR_TRY(gr_cluster_check(cluster));
    GR_TRY(gr_file_map(path, &file));
    GR_TRY(gr_trtllm_parse(path, file.data, file.n, grace_cluster_ranks(cluster), &p));
    GR_TRY(gr_placement_plan(path, &p, cluster, top_k, out));
done:
    gr_placement_free(&p);
    gr_file_unmap(&file);
    return st;
}
