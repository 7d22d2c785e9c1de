#include "plan/bundle.h"

#include <stdbool.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "plan/trace.h"

/* A hash map of sets, open addressing; an entry is 1 + the bundle's index, 0 is free. It grows up to n_max. */
typedef struct set_map {
    int32_t top_k, n_max, capacity, n;
    uint32_t mask;
    int32_t *entry;             /* [mask + 1], at most half full */
    uint16_t *experts;          /* [capacity, top_k] */
    int32_t *count, *home;      /* [capacity] */
    bool full;                  /* more than n_max sets came */
} set_map;

static void map_free(set_map *m) {
    free(m->entry), free(m->experts), free(m->count), free(m->home);
    *m = (set_map){0};
}

static void map_clear(set_map *m) {
    if (m->entry) memset(m->entry, 0, ((size_t)m->mask + 1) * sizeof *m->entry);
    m->n = 0;
    m->full = false;
}

/* The entry of the set, or the free one where it belongs. */
static uint32_t map_find(const set_map *m, const uint16_t *set, int32_t home) {
    size_t bytes = (size_t)m->top_k * sizeof *set;
    uint32_t at = (uint32_t)gr_hash64(set, bytes, (uint64_t)(uint32_t)home) & m->mask;
    for (; m->entry[at]; at = (at + 1) & m->mask) {
        int32_t i = m->entry[at] - 1;
        if (m->home[i] == home && memcmp(m->experts + (size_t)i * (size_t)m->top_k, set, bytes) == 0) break;
    }
    return at;
}

/* Twice the room. */
static grace_status map_grow(set_map *m) {
    grace_status st = GRACE_OK;
    set_map old = *m;
    int64_t wanted = old.capacity ? 2 * (int64_t)old.capacity : 1024;
    m->capacity = wanted < m->n_max ? (int32_t)wanted : m->n_max;
    m->entry = NULL, m->experts = NULL, m->count = m->home = NULL;
    m->mask = 15;
    while (m->mask + 1 < 2 * (uint32_t)m->capacity) m->mask = 2 * m->mask + 1;
    GR_CALLOC(m->entry, (size_t)m->mask + 1);
    GR_CALLOC(m->experts, (size_t)m->capacity * (size_t)m->top_k);
    GR_CALLOC(m->count, m->capacity);
    GR_CALLOC(m->home, m->capacity);
    if (old.n > 0) {
        memcpy(m->experts, old.experts, (size_t)old.n * (size_t)m->top_k * sizeof *m->experts);
        memcpy(m->count, old.count, (size_t)old.n * sizeof *m->count);
        memcpy(m->home, old.home, (size_t)old.n * sizeof *m->home);
    }
    for (int32_t i = 0; i < old.n; i++) m->entry[map_find(m, m->experts + (size_t)i * (size_t)m->top_k, m->home[i])] = i + 1;
done:
    map_free(&old);
    return st;
}

/* One more token with this set. */
static grace_status map_add(set_map *m, const uint16_t *set, int32_t home) {
    grace_status st = GRACE_OK;
    if (m->capacity == 0) GR_TRY(map_grow(m));
    uint32_t at = map_find(m, set, home);
    if (m->entry[at]) {
        m->count[m->entry[at] - 1]++;
        return st;
    }
    m->full = m->n == m->n_max;
    if (m->full) return st;
    if (m->n == m->capacity) {
        GR_TRY(map_grow(m));
        at = map_find(m, set, home);
    }
    memcpy(m->experts + (size_t)m->n * (size_t)m->top_k, set, (size_t)m->top_k * sizeof *set);
    m->home[m->n] = home;
    m->count[m->n] = 1;
    m->entry[at] = ++m->n;
done:
    return st;
}

static void sort_set(const uint16_t *ids, int32_t top_k, uint16_t *set) {
    for (int32_t i = 0; i < top_k; i++) {
        int32_t j = i;
        for (; j > 0 && set[j - 1] > ids[i]; j--) set[j] = set[j - 1];
        set[j] = ids[i];
    }
}

/* Counting a trace, piece by piece. */
typedef struct counting {
    grace_trace_reader *reader;
    const grace_selection *which;
    bool *wanted;               /* gr_selection_resolve() */
    bool homes;
    const grace_trace *piece;
    set_map *maps;              /* [n_layers] */
    int32_t *layers, n_layers;  /* those to count in this pass */
    int64_t stride, skip;       /* every stride-th selected token; how many of the next ones to leave out */
    grace_bundles *bundles;
} counting;

/* The piece's tokens of a layer, unless it has more sets than it may. */
static grace_status count_layer(void *context, int32_t index) {
    grace_status st = GRACE_OK;
    const counting *c = context;
    const grace_trace *t = c->piece;
    set_map *m = &c->maps[c->layers[index]];
    size_t width = (size_t)t->info.n_layers * (size_t)t->info.top_k;
    const uint16_t *ids = t->experts + (size_t)c->layers[index] * (size_t)t->info.top_k;
    uint16_t set[GR_TRACE_TOP_K_MAX];
    int64_t skip = c->skip;
    for (int64_t s = 0; s < t->n_segments && !m->full; s++) {
        int64_t n = t->segments[s].n_tokens, i = skip;
        int32_t sequence = t->segments[s].sequence, home = c->homes ? t->sequences[sequence].home : 0;
        if (gr_selected(c->which, c->wanted, t, sequence)) {
            for (; i < n && !m->full; i += c->stride) {
                sort_set(ids + (size_t)i * width, t->info.top_k, set);
                GR_TRY(map_add(m, set, home));
            }
            skip = i - n;
        }
        ids += (size_t)n * width;
    }
done:
    return st;
}

/* What count_layer() did to its own skip. */
static int64_t skip_after(const counting *c) {
    const grace_trace *t = c->piece;
    int64_t skip = c->skip;
    for (int64_t s = 0; s < t->n_segments; s++) {
        int64_t n = t->segments[s].n_tokens;
        if (!gr_selected(c->which, c->wanted, t, t->segments[s].sequence)) continue;
        skip = n <= skip ? skip - n : (c->stride - (n - skip) % c->stride) % c->stride;
    }
    return skip;
}

static bool all_full(const counting *c) {
    for (int32_t i = 0; i < c->n_layers; i++)
        if (!c->maps[c->layers[i]].full) return false;
    return true;
}

/* The whole trace, or until every layer has too many sets. */
static grace_status count_pieces(counting *c) {
    grace_status st = GRACE_OK;
    grace_trace_reader_rewind(c->reader);
    c->skip = 0;
    for (int32_t i = 0; i < c->n_layers; i++) map_clear(&c->maps[c->layers[i]]);
    while (!all_full(c)) {
        GR_TRY(grace_trace_reader_next(c->reader, &c->piece));
        if (!c->piece) break;
        GR_TRY(gr_parallel(c->n_layers, count_layer, c));
        c->skip = skip_after(c);
    }
done:
    return st;
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

/* Layers that fitted are done; the others stay for a coarser pass. */
static grace_status keep_fitting(counting *c) {
    grace_status st = GRACE_OK;
    int32_t n_left = 0;
    for (int32_t i = 0; i < c->n_layers; i++) {
        int32_t l = c->layers[i];
        if (c->maps[l].full) {
            c->layers[n_left++] = l;
            continue;
        }
        GR_TRY(keep_layer(&c->maps[l], c->homes, &c->bundles->layers[l]));
        map_free(&c->maps[l]);
    }
    c->n_layers = n_left;
done:
    return st;
}

/* Layers first to last - 1; the stride doubles until all have fitted. */
static grace_status count_until_fit(counting *c, int32_t first, int32_t last) {
    grace_status st = GRACE_OK;
    c->n_layers = 0;
    for (int32_t l = first; l < last; l++) c->layers[c->n_layers++] = l;
    while (c->n_layers > 0) {
        GR_TRY(count_pieces(c));
        GR_TRY(keep_fitting(c));
        if (c->n_layers > 0) c->stride *= 2;
    }
done:
    return st;
}

/* Layers look alike, so that all the others start with the first one's stride. */
static grace_status count_all(counting *c, int32_t n_max) {
    grace_status st = GRACE_OK;
    const grace_trace_info *info = &grace_trace_reader_head(c->reader)->info;
    GR_CALLOC(c->layers, info->n_layers);
    GR_CALLOC(c->maps, info->n_layers);
    for (int32_t l = 0; l < info->n_layers; l++) c->maps[l].top_k = info->top_k, c->maps[l].n_max = n_max;
    c->stride = 1;
    GR_TRY(count_until_fit(c, 0, 1));
    GR_TRY(count_until_fit(c, 1, info->n_layers));
done:
    for (int32_t l = 0; c->maps && l < info->n_layers; l++) map_free(&c->maps[l]);
    free(c->layers), free(c->maps);
    return st;
}

grace_status grace_bundles_stream(grace_trace_reader *r, const grace_selection *which, bool homes, int32_t n_max, grace_bundles **out) {
    grace_status st = GRACE_OK;
    counting c = {.reader = r, .which = which, .homes = homes};
    GR_CHECK(n_max >= 1 && n_max <= GRACE_BUNDLES_MAX, GRACE_ERR_ARG, "bundles: expected a limit of 1 to %d a layer, found %d", GRACE_BUNDLES_MAX, n_max);
    GR_TRY(gr_selection_resolve(which, grace_trace_reader_head(r), &c.wanted));
    GR_TRY(bundles_new(&grace_trace_reader_head(r)->info, &c.bundles));
    GR_TRY(count_all(&c, n_max));
    *out = c.bundles, c.bundles = NULL;
done:
    grace_bundles_free(c.bundles);
    free(c.wanted);
    return st;
}

grace_status grace_bundles_build(const grace_trace *t, const grace_selection *which, bool homes, int32_t n_max, grace_bundles **out) {
    grace_trace_reader *r = NULL;
    grace_status st = gr_trace_reader_of(t, &r);
    if (!st) st = grace_bundles_stream(r, which, homes, n_max, out);
    grace_trace_reader_close(r);
    return st;
}

void grace_bundles_free(grace_bundles *b) {
    if (!b) return;
    for (int32_t l = 0; b->layers && l < b->n_layers; l++) free(b->layers[l].experts), free(b->layers[l].count), free(b->layers[l].home);
    free(b->layers);
    free(b);
}
