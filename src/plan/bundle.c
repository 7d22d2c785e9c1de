#include "plan/bundle.h"

#include <stdbool.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "plan/trace.h"

enum { TOKENS_MAX = 1 << 19 };      /* of a layer that are counted before every second one is left out */

/* A hash map of sets, open addressing; an entry is 1 + the bundle's index, 0 is free. It grows up to n_max. */
typedef struct set_map {
    int32_t top_k, n_max, capacity, n;
    uint32_t mask;
    int32_t *entry;             /* [mask + 1], at most half full */
    uint16_t *experts;          /* [capacity, top_k] */
    int32_t *count, *home;      /* [capacity] */
} set_map;

static void map_free(set_map *m) {
    free(m->entry), free(m->experts), free(m->count), free(m->home);
    *m = (set_map){.top_k = m->top_k, .n_max = m->n_max};
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
    for (int32_t i = 0; i < old.n; i++) {
        const uint16_t *set = memcpy(m->experts + (size_t)i * (size_t)m->top_k, old.experts + (size_t)i * (size_t)m->top_k, (size_t)m->top_k * sizeof *set);
        m->count[i] = old.count[i];
        m->home[i] = old.home[i];
        m->entry[map_find(m, set, m->home[i])] = i + 1;
    }
done:
    map_free(&old);
    return st;
}

/* One more token with this set; *index: the set's, -1 when it is new and the map has n_max others. */
static grace_status map_add(set_map *m, const uint16_t *set, int32_t home, int32_t *index) {
    grace_status st = GRACE_OK;
    if (m->capacity == 0) GR_TRY(map_grow(m));
    uint32_t at = map_find(m, set, home);
    if (!m->entry[at] && m->n == m->capacity && m->n < m->n_max) {
        GR_TRY(map_grow(m));
        at = map_find(m, set, home);
    }
    *index = m->entry[at] ? m->entry[at] - 1 : m->n < m->n_max ? m->n : -1;
    if (*index == m->n) {
        memcpy(m->experts + (size_t)m->n * (size_t)m->top_k, set, (size_t)m->top_k * sizeof *set);
        m->home[m->n] = home;
        m->entry[at] = ++m->n;
    }
    if (*index >= 0) m->count[*index]++;
done:
    return st;
}

/* ---- a layer: its sets, of every stride-th selected token ---- */

typedef struct layer_count {
    set_map sets;
    int64_t stride;
    int32_t *token;             /* [n_tokens] the set of each token counted */
    int32_t n_tokens, capacity;
} layer_count;

static void layer_free(layer_count *l) {
    map_free(&l->sets);
    free(l->token);
    l->token = NULL;
}

/* Leaves every second token out, as if the stride had been twice as long from the start. */
static grace_status thin(layer_count *l) {
    grace_status st = GRACE_OK;
    set_map old = l->sets;
    int32_t n = 0;
    l->sets = (set_map){.top_k = old.top_k, .n_max = old.n_max};
    for (int32_t i = 0; i < l->n_tokens; i += 2)
        GR_TRY(map_add(&l->sets, old.experts + (size_t)l->token[i] * (size_t)old.top_k, old.home[l->token[i]], &l->token[n++]));
    l->n_tokens = n;
    l->stride *= 2;
done:
    map_free(&old);
    return st;
}

/* The token with that number among the selected ones, a multiple of the stride; of the stride it then has, or it is left out. */
static grace_status add_token(layer_count *l, int64_t number, const uint16_t *set, int32_t home) {
    grace_status st = GRACE_OK;
    while (number % l->stride == 0) {
        int32_t index = -1;
        if (l->n_tokens < TOKENS_MAX) GR_TRY(map_add(&l->sets, set, home, &index));
        if (index >= 0) {
            GR_RESERVE(l->token, l->n_tokens + 1, l->capacity);
            l->token[l->n_tokens++] = index;
            break;
        }
        GR_TRY(thin(l));
    }
done:
    return st;
}

static grace_status keep_layer(const layer_count *l, bool homes, gr_bundle_layer *out) {
    grace_status st = GRACE_OK;
    const set_map *m = &l->sets;
    size_t n = (size_t)m->n;
    GR_CALLOC(out->experts, n * (size_t)m->top_k);
    GR_CALLOC(out->count, n);
    if (homes) GR_CALLOC(out->home, n);
    out->n = m->n;
    out->n_tokens = l->n_tokens;
    if (n == 0) goto done;
    memcpy(out->experts, m->experts, n * (size_t)m->top_k * sizeof *out->experts);
    memcpy(out->count, m->count, n * sizeof *out->count);
    if (homes) memcpy(out->home, m->home, n * sizeof *out->home);
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

/* ---- a trace, piece by piece ---- */

typedef struct counting {
    const grace_selection *which;
    bool *wanted;               /* gr_selection_resolve() */
    bool homes;
    const grace_trace *piece;
    int64_t n_before;           /* selected tokens of the pieces before */
    layer_count *layers;        /* [n_layers] */
    grace_bundles *bundles;
} counting;

static grace_status count_layer(void *context, int32_t layer) {
    grace_status st = GRACE_OK;
    const counting *c = context;
    const grace_trace *t = c->piece;
    layer_count *l = &c->layers[layer];
    size_t width = (size_t)t->info.n_layers * (size_t)t->info.top_k;
    const uint16_t *ids = t->experts + (size_t)layer * (size_t)t->info.top_k;
    uint16_t set[GR_TRACE_TOP_K_MAX];
    int64_t number = c->n_before;
    for (int64_t s = 0; s < t->n_segments; s++) {
        int64_t n = t->segments[s].n_tokens;
        int32_t sequence = t->segments[s].sequence, home = c->homes ? t->sequences[sequence].home : 0;
        if (gr_selected(c->which, c->wanted, t, sequence)) {
            for (int64_t i = (l->stride - number % l->stride) % l->stride; i < n; i += l->stride - (number + i) % l->stride) {
                sort_set(ids + (size_t)i * width, t->info.top_k, set);
                GR_TRY(add_token(l, number + i, set, home));
            }
            number += n;
        }
        ids += (size_t)n * width;
    }
done:
    return st;
}

static int64_t count_selected(const counting *c) {
    int64_t n = 0;
    for (int64_t s = 0; s < c->piece->n_segments; s++)
        if (gr_selected(c->which, c->wanted, c->piece, c->piece->segments[s].sequence)) n += c->piece->segments[s].n_tokens;
    return n;
}

static grace_status count_pieces(grace_trace_reader *r, counting *c) {
    grace_status st = GRACE_OK;
    grace_trace_reader_rewind(r);
    for (;;) {
        GR_TRY(grace_trace_reader_next(r, &c->piece));
        if (!c->piece) break;
        GR_TRY(gr_parallel(c->piece->info.n_layers, count_layer, c));
        c->n_before += count_selected(c);
    }
    for (int32_t l = 0; l < c->bundles->n_layers; l++) GR_TRY(keep_layer(&c->layers[l], c->homes, &c->bundles->layers[l]));
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

grace_status grace_bundles_stream(grace_trace_reader *r, const grace_selection *which, bool homes, int32_t n_max, grace_bundles **out) {
    grace_status st = GRACE_OK;
    const grace_trace *head = grace_trace_reader_head(r);
    counting c = {.which = which, .homes = homes};
    GR_CHECK(n_max >= 1 && n_max <= GRACE_BUNDLES_MAX, GRACE_ERR_ARG, "bundles: expected a limit of 1 to %d a layer, found %d", GRACE_BUNDLES_MAX, n_max);
    GR_TRY(gr_selection_resolve(which, head, &c.wanted));
    GR_TRY(bundles_new(&head->info, &c.bundles));
    GR_CALLOC(c.layers, head->info.n_layers);
    for (int32_t l = 0; l < head->info.n_layers; l++)
        c.layers[l] = (layer_count){.sets = {.top_k = head->info.top_k, .n_max = n_max}, .stride = 1};
    GR_TRY(count_pieces(r, &c));
    *out = c.bundles, c.bundles = NULL;
done:
    for (int32_t l = 0; c.layers && l < head->info.n_layers; l++) layer_free(&c.layers[l]);
    free(c.layers);
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
