#include "interop/coact.h"

#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/memory.h"
#include "interop/meta.h"
#include "plan/layer_ids.h"
#include "plan/trace.h"

enum { SWEEPS = 12, SEQUENCE_TOKENS = 128 };
#define SUFFIX " (synthetic)"

/* ---- pairs ---- */

typedef struct line { int32_t layer; gr_pair pair; int64_t number; } line;
typedef struct lines { line *items; size_t n, capacity; } lines;

static grace_status add_line(lines *all, line value) {
    grace_status st = GRACE_OK;
    GR_RESERVE(all->items, all->n + 1, all->capacity);
    all->items[all->n++] = value;
done:
    return st;
}

static grace_status read_line(const gr_csv *csv, const double *values, const gr_loads *loads, line *out) {
    grace_status st = GRACE_OK;
    int64_t layer_id = 0, i = 0, j = 0;
    GR_TRY(gr_csv_whole(csv, "layer", values[0], INT32_MAX, &layer_id));
    GR_TRY(gr_csv_whole(csv, "expert_i", values[1], loads->n_experts - 1, &i));
    GR_TRY(gr_csv_whole(csv, "expert_j", values[2], loads->n_experts - 1, &j));
    *out = (line){gr_loads_layer(loads, layer_id), {(int32_t)(i < j ? i : j), (int32_t)(i < j ? j : i), values[3]}, csv->line};
    GR_CHECK(out->layer >= 0, GRACE_ERR_FORMAT, "%s: line %" PRId64 ": the loads have no layer %" PRId64, csv->where, csv->line, layer_id);
    GR_CHECK(i != j, GRACE_ERR_FORMAT, "%s: line %" PRId64 ": expert %" PRId64 " is paired with itself", csv->where, csv->line, i);
    const double *load = &loads->load[(size_t)out->layer * (size_t)loads->n_experts];
    GR_CHECK(values[3] <= load[i] && values[3] <= load[j], GRACE_ERR_FORMAT,
             "%s: line %" PRId64 ": experts %" PRId64 " and %" PRId64 " were chosen together %g times, but alone %g and %g times", csv->where, csv->line,
             i, j, values[3], load[i], load[j]);
done:
    return st;
}

static int by_layer_pair(const void *a, const void *b) {
    const line *x = a, *y = b;
    if (x->layer != y->layer) return x->layer < y->layer ? -1 : 1;
    if (x->pair.a != y->pair.a) return x->pair.a < y->pair.a ? -1 : 1;
    return (x->pair.b > y->pair.b) - (x->pair.b < y->pair.b);
}

static grace_status read_lines(const char *where, const char *text, size_t n, const gr_loads *loads, lines *out) {
    grace_status st = GRACE_OK;
    static const char *const names[] = {"layer", "expert_i", "expert_j", "count"};
    gr_csv csv;
    GR_TRY(gr_csv_open(where, text, n, names, 4, &csv));
    for (;;) {
        double values[4] = {0};
        bool more = false;
        line next;
        GR_TRY(gr_csv_next(&csv, values, &more));
        if (!more) break;
        GR_TRY(read_line(&csv, values, loads, &next));
        GR_TRY(add_line(out, next));
    }
done:
    return st;
}

grace_status gr_pairs_parse(const char *where, const char *text, size_t n, const gr_loads *loads, gr_pairs *out) {
    grace_status st = GRACE_OK;
    lines all = {0};
    gr_pairs pairs = {0};
    GR_TRY(read_lines(where, text, n, loads, &all));
    if (all.n) qsort(all.items, all.n, sizeof *all.items, by_layer_pair);
    GR_CALLOC(pairs.pairs, all.n);
    GR_CALLOC(pairs.first, (size_t)loads->n_layers + 1);
    for (size_t i = 0; i < all.n; i++) {
        GR_CHECK(i == 0 || by_layer_pair(&all.items[i - 1], &all.items[i]) != 0, GRACE_ERR_FORMAT,
                 "%s: lines %" PRId64 " and %" PRId64 " are the same pair", where, all.items[i - 1].number, all.items[i].number);
        pairs.pairs[i] = all.items[i].pair;
        pairs.first[all.items[i].layer + 1]++;
    }
    for (int32_t l = 0; l < loads->n_layers; l++) pairs.first[l + 1] += pairs.first[l];
    *out = pairs, pairs = (gr_pairs){0};
done:
    gr_pairs_free(&pairs);
    free(all.items);
    return st;
}

void gr_pairs_free(gr_pairs *pairs) {
    free(pairs->pairs), free(pairs->first);
    *pairs = (gr_pairs){0};
}

/* ---- tokens ---- */

typedef struct source {
    char loads_path[PATH_MAX], pairs_path[PATH_MAX];
    gr_file file;               /* of the pairs */
    gr_meta meta;
    gr_loads loads;
    gr_pairs pairs;
} source;

static grace_status read_source(source *s, const char *folder) {
    grace_status st = GRACE_OK;
    GR_TRY(gr_path_join(s->loads_path, sizeof s->loads_path, folder, "load.csv"));
    GR_TRY(gr_path_join(s->pairs_path, sizeof s->pairs_path, folder, "coact.csv"));
    GR_TRY(gr_meta_load(s->loads_path, &s->meta));
    GR_CHECK(s->meta.found, GRACE_ERR_IO, "%s: expected meta.json beside coact.csv: pairs do not say how many experts a token chose", folder);
    GR_TRY(gr_loads_load(s->loads_path, &s->loads));
    GR_TRY(gr_meta_check(&s->meta, s->loads_path, &s->loads));
    GR_TRY(gr_file_map(s->pairs_path, &s->file));
    GR_TRY(gr_pairs_parse(s->pairs_path, s->file.data, s->file.n, &s->loads, &s->pairs));
done:
    return st;
}

static void close_source(source *s) {
    gr_file_unmap(&s->file);
    gr_loads_free(&s->loads);
    gr_pairs_free(&s->pairs);
}

/* The name keeps its mark whatever its length. */
static void name_synthetic(grace_trace_info *info, const char *model) {
    char name[sizeof info->model];
    gr_trace_set_model(info, model);
    size_t room = sizeof name - sizeof SUFFIX, n = strlen(info->model);
    if (n > room) {
        n = room;
        while (n > 0 && ((unsigned char)info->model[n] & 0xC0) == 0x80) n--;
    }
    snprintf(name, sizeof name, "%.*s" SUFFIX, (int)n, info->model);
    gr_trace_set_model(info, name);
}

/* chosen [n_layers, n_tokens, top_k], a layer at a time -> ids [n_tokens, n_layers, top_k], little endian. */
static void place_ids(const uint16_t *chosen, int32_t layer, int32_t n_layers, int32_t n_tokens, int32_t top_k, unsigned char *ids) {
    for (int32_t t = 0; t < n_tokens; t++)
        for (int32_t k = 0; k < top_k; k++) {
            size_t at = ((size_t)t * (size_t)n_layers + (size_t)layer) * (size_t)top_k + (size_t)k;
            uint16_t e = chosen[(size_t)t * (size_t)top_k + (size_t)k];
            ids[2 * at] = (unsigned char)e, ids[2 * at + 1] = (unsigned char)(e >> 8);
        }
}

static grace_status make_tokens(const source *s, uint64_t seed, int32_t n_tokens, unsigned char *ids, gr_synth_fit *fit) {
    grace_status st = GRACE_OK;
    uint16_t *chosen = NULL;
    int32_t n = s->loads.n_experts, top_k = s->meta.info.top_k;
    GR_CALLOC(chosen, (size_t)n_tokens * (size_t)top_k);
    for (int32_t l = 0; l < s->loads.n_layers; l++) {
        char where[PATH_MAX + 32];
        const gr_pair *pairs = s->pairs.pairs + s->pairs.first[l];
        uint64_t layer_seed = gr_hash64(&l, sizeof l, seed);
        snprintf(where, sizeof where, "%s: layer %d", s->loads_path, s->loads.layer_id[l]);
        GR_TRY(gr_synth_layer(where, &s->loads.load[(size_t)l * (size_t)n], n, pairs, s->pairs.first[l + 1] - s->pairs.first[l], n_tokens, top_k, SWEEPS,
                              layer_seed, chosen, fit));
        place_ids(chosen, l, s->loads.n_layers, n_tokens, top_k, ids);
    }
done:
    free(chosen);
    return st;
}

static grace_status cut_sequences(const char *where, grace_trace *t, int32_t n_tokens) {
    grace_status st = GRACE_OK;
    int32_t domain = 0;
    GR_TRY(gr_trace_domain_index(where, t, "synthetic", &domain));
    for (int32_t at = 0, i = 0; at < n_tokens; at += SEQUENCE_TOKENS, i++) {
        int32_t length = n_tokens - at < SEQUENCE_TOKENS ? n_tokens - at : SEQUENCE_TOKENS;
        GR_TRY(gr_trace_push_sequence(where, t, (grace_trace_sequence){.id = i, .domain = domain}));
        GR_TRY(gr_trace_push_segment(where, t, (grace_trace_segment){.sequence = i, .n_tokens = length}));
    }
done:
    return st;
}

static int32_t default_tokens(const source *s) {
    double counted = 0;
    for (int32_t e = 0; e < s->loads.n_experts; e++) counted += s->loads.load[e] / s->meta.info.top_k;
    return (int32_t)fmax(1, fmin(GR_SYNTH_TOKENS_DEFAULT, floor(counted)));
}

static grace_status build_trace(const source *s, uint64_t seed, int32_t n_tokens, grace_trace **out, gr_synth_fit *fit) {
    grace_status st = GRACE_OK;
    grace_trace *t = NULL;
    unsigned char *ids = NULL;
    grace_trace_info info = {.n_layers = s->loads.n_layers, .n_experts = s->loads.n_experts, .top_k = s->meta.info.top_k, .n_ranks = 1, .n_nodes = 1,
                              .synthetic = true};
    name_synthetic(&info, s->meta.info.model);
    gr_layer_ids_set(&info, gr_layer_ids_of(&s->meta.info));
    GR_TRY(gr_trace_new(s->loads_path, &info, &t));
    GR_TRY(gr_trace_check_room(s->loads_path, &info, 0, n_tokens));
    GR_CALLOC(ids, (size_t)n_tokens * (size_t)info.n_layers * (size_t)info.top_k * 2);
    GR_TRY(make_tokens(s, seed, n_tokens, ids, fit));
    GR_TRY(gr_trace_push_tokens(s->loads_path, t, &(gr_raw_tokens){.experts = ids, .expert_bytes = 2}, n_tokens));
    GR_TRY(cut_sequences(s->loads_path, t, n_tokens));
    *out = t, t = NULL;
done:
    grace_trace_close(t);
    free(ids);
    return st;
}

grace_status gr_coact_load(const char *folder, uint64_t seed, int32_t n_tokens, grace_trace **out, gr_coact_fit *fit) {
    grace_status st = GRACE_OK;
    source *s = NULL;
    gr_synth_fit sums = {0};
    GR_CHECK(n_tokens >= 0, GRACE_ERR_ARG, "synthetic tokens: expected 0 or more, found %d", n_tokens);
    GR_CALLOC(s, 1);
    GR_TRY(read_source(s, folder));
    if (n_tokens == 0) n_tokens = default_tokens(s);
    GR_CHECK(n_tokens <= INT32_MAX / s->meta.info.top_k, GRACE_ERR_LIMIT, "synthetic tokens: %d of top-%d, at most %d", n_tokens, s->meta.info.top_k,
             INT32_MAX / s->meta.info.top_k);
    GR_TRY(build_trace(s, seed, n_tokens, out, &sums));
    gr_coact_fit result = {sums.load_error_max, sums.listed_sum > 0 ? sums.listed_error_sum / sums.listed_sum : 0,
                           sums.all_sum > 0 ? sums.listed_sum / sums.all_sum : 0};
    gr_log(GR_WARN, "trace", "%s: these %d tokens are synthetic: loads are off by at most %.2f tokens, listed pairs by %.1f %%", folder, n_tokens,
           result.load_error_max, 100 * result.listed_error);
    if (fit) *fit = result;
done:
    if (s) close_source(s);
    free(s);
    return st;
}
