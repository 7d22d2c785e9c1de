#include "plan/bundle.h"

#include <stdbool.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "plan/trace.h"

/* A hash map of sets, open addressing; an entry is 1 + the bundle's index, 0 is free. */
typedef struct set_map {
    int32_t top_k, n_max, n;
    uint32_t mask;
    int32_t *entry;             /* [mask + 1], at most half full */
    uint16_t *experts;          /* [n_max, top_k] */
    int32_t *count, *home;      /* [n_max] */
} set_map;

static void map_free(set_map *m) { free(m->entry), free(m->experts), free(m->count), free(m->home); }

static grace_status map_alloc(int32_t n_max, int32_t top_k, set_map *m) {
    grace_status st = GRACE_OK;
    uint32_t size = 16;
    while (size < 2 * (uint32_t)n_max) size *= 2;
    *m = (set_map){.top_k = top_k, .n_max = n_max, .mask = size - 1};
    GR_CALLOC(m->entry, size);
    GR_CALLOC(m->experts, (size_t)n_max * (size_t)top_k);
    GR_CALLOC(m->count, n_max);
    GR_CALLOC(m->home, n_max);
done:
    return st;
}

static void map_clear(set_map *m) {
    memset(m->entry, 0, ((size_t)m->mask + 1) * sizeof *m->entry);
    m->n = 0;
}

/* One more token with this set. False: the set is new and the map is full. */
static bool map_add(set_map *m, const uint16_t *set, int32_t home) {
    size_t bytes = (size_t)m->top_k * sizeof *set;
    uint32_t at = (uint32_t)gr_hash64(set, bytes, (uint64_t)(uint32_t)home) & m->mask;
    for (; m->entry[at]; at = (at + 1) & m->mask) {
        int32_t i = m->entry[at] - 1;
        if (m->home[i] != home || memcmp(m->experts + (size_t)i * (size_t)m->top_k, set, bytes)) continue;
        m->count[i]++;
        return true;
    }
    if (m->n == m->n_max) return false;
    memcpy(m->experts + (size_t)m->n * (size_t)m->top_k, set, bytes);
    m->home[m->n] = home;
    m->count[m->n] = 1;
    m->entry[at] = ++m->n;
    return true;
}

static void sort_set(const uint16_t *ids, int32_t top_k, uint16_t *set) {
    for (int32_t i = 0; i < top_k; i++) {
        int32_t j = i;
        for (; j > 0 && set[j - 1] > ids[i]; j--) set[j] = set[j - 1];
        set[j] = ids[i];
    }
}

/* What to read of a trace. */
typedef struct choice { const grace_trace *trace; int32_t domain, parity; bool homes; } choice;

static bool selected(const choice *c, int32_t sequence) {
    return (c->domain < 0 || c->trace->sequences[sequence].domain == c->domain) && (c->parity < 0 || sequence % 2 == c->parity);
}

/* Every stride-th selected token of a layer. False: more distinct sets than the map holds. */
static bool count_sets(const choice *c, int32_t layer, int64_t stride, set_map *m) {
    const grace_trace *t = c->trace;
    size_t width = (size_t)t->info.n_layers * (size_t)t->info.top_k;
    const uint16_t *ids = t->experts + (size_t)layer * (size_t)t->info.top_k;
    uint16_t set[GR_TRACE_TOP_K_MAX];
    int64_t skip = 0;
    map_clear(m);
    for (int64_t s = 0; s < t->n_segments; s++) {
        int64_t n = t->segments[s].n_tokens, i = skip;
        int32_t sequence = t->segments[s].sequence, home = c->homes ? t->sequences[sequence].home : 0;
        if (selected(c, sequence)) {
            for (; i < n; i += stride) {
                sort_set(ids + (size_t)i * width, t->info.top_k, set);
                if (!map_add(m, set, home)) return false;
            }
            skip = i - n;
        }
        ids += (size_t)n * width;
    }
    return true;
}

static grace_status keep_layer(const set_map *m, bool homes, gr_bundle_layer *out) {
    grace_status st = GRACE_OK;
    size_t n = (size_t)m->n;
    GR_CALLOC(out->experts, n * (size_t)m->top_k);
    GR_CALLOC(out->count, n);
    if (homes) GR_CALLOC(out->home, n);
    memcpy(out->experts, m->experts, n * (size_t)m->top_k * sizeof *out->experts);
    memcpy(out->count, m->count, n * sizeof *out->count);
    if (homes) memcpy(out->home, m->home, n * sizeof *out->home);
    out->n = m->n;
    for (int32_t i = 0; i < m->n; i++) out->n_tokens += m->count[i];
done:
    return st;
}

static grace_status check_choice(const choice *c, int32_t n_max) {
    grace_status st = GRACE_OK;
    GR_CHECK(c->domain >= -1 && c->domain < c->trace->n_domains, GRACE_ERR_ARG, "domain: expected -1 to %d, found %d", c->trace->n_domains - 1,
             c->domain);
    GR_CHECK(c->parity >= -1 && c->parity <= 1, GRACE_ERR_ARG, "parity: expected -1, 0 or 1, found %d", c->parity);
    GR_CHECK(n_max >= 1 && n_max <= GRACE_BUNDLES_MAX, GRACE_ERR_ARG, "bundles: expected a limit of 1 to %d a layer, found %d", GRACE_BUNDLES_MAX, n_max);
done:
    return st;
}

static grace_status bundles_new(const grace_trace_info *info, grace_bundles **out) {
    grace_status st = GRACE_OK;
    grace_bundles *b = NULL;
    GR_CALLOC(b, 1);
    b->n_layers = info->n_layers, b->n_experts = info->n_experts, b->top_k = info->top_k;
    GR_CALLOC(b->layers, info->n_layers);
    *out = b, b = NULL;
done:
    grace_bundles_free(b);
    return st;
}

typedef struct building { const choice *choice; grace_bundles *bundles; int32_t n_max; int64_t stride; } building;

/* The stride doubles until the layer's sets fit. */
static grace_status build_layer(building *b, int32_t layer, int64_t *stride) {
    grace_status st = GRACE_OK;
    set_map map = {0};
    GR_TRY(map_alloc(b->n_max, b->bundles->top_k, &map));
    while (!count_sets(b->choice, layer, *stride, &map)) *stride *= 2;
    GR_TRY(keep_layer(&map, b->choice->homes, &b->bundles->layers[layer]));
done:
    map_free(&map);
    return st;
}

static grace_status build_after_first(void *context, int32_t index) {
    building *b = context;
    int64_t stride = b->stride;
    return build_layer(b, index + 1, &stride);
}

/* Layers look alike, so that all the others start with the first one's stride. */
static grace_status build(const choice *c, int32_t n_max, grace_bundles **out) {
    grace_status st = GRACE_OK;
    grace_bundles *bundles = NULL;
    int32_t n_most = grace_trace_n_tokens(c->trace) < n_max ? (int32_t)grace_trace_n_tokens(c->trace) : n_max;
    GR_TRY(bundles_new(&c->trace->info, &bundles));
    building b = {c, bundles, n_most > 0 ? n_most : 1, 1};
    GR_TRY(build_layer(&b, 0, &b.stride));
    GR_TRY(gr_parallel(bundles->n_layers - 1, build_after_first, &b));
    *out = bundles, bundles = NULL;
done:
    grace_bundles_free(bundles);
    return st;
}

grace_status grace_bundles_build(const grace_trace *t, int32_t domain, int32_t parity, bool homes, int32_t n_max, grace_bundles **out) {
    choice c = {t, domain, parity, homes};
    grace_status st = check_choice(&c, n_max);
    return st ? st : build(&c, n_max, out);
}

void grace_bundles_free(grace_bundles *b) {
    if (!b) return;
    for (int32_t l = 0; b->layers && l < b->n_layers; l++) free(b->layers[l].experts), free(b->layers[l].count), free(b->layers[l].home);
    free(b->layers);
    free(b);
}
