/* Trace -> load and affinity (docs/paper.md), the planner's only view of the routing. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/hash.h"
#include "base/memory.h"
#include "base/parallel.h"
#include "plan/trace.h"

#define AFFINITY_BYTES_MAX ((int64_t)8 << 30)

typedef struct run { int64_t first, n; } run;      /* consecutive tokens of the trace */

/* Counting a trace, piece by piece. */
typedef struct counting {
    const grace_selection *which;
    bool *wanted;               /* gr_selection_resolve() */
    const grace_trace *piece;
    run *runs;                  /* [n_runs] of the piece */
    int64_t n_runs, capacity;
    uint32_t *load, *pairs;     /* [n_layers, n_experts], [n_layers, n_experts, n_experts] */
    grace_profile *profile;
} counting;

/* The tokens of the piece to count, neighbours joined. */
static grace_status select_runs(counting *c) {
    grace_status st = GRACE_OK;
    const grace_trace *t = c->piece;
    int64_t first = 0;
    c->n_runs = 0;
    if (t->n_segments > c->capacity) {
        free(c->runs);
        c->capacity = 0;
        GR_CALLOC(c->runs, t->n_segments);
        c->capacity = t->n_segments;
    }
    for (int64_t s = 0; s < t->n_segments; s++) {
        int64_t n = t->segments[s].n_tokens;
        if (gr_selected(c->which, c->wanted, t, t->segments[s].sequence)) {
            bool joins = c->n_runs > 0 && c->runs[c->n_runs - 1].first + c->runs[c->n_runs - 1].n == first;
            if (!joins) c->runs[c->n_runs++] = (run){first, 0};
            c->runs[c->n_runs - 1].n += n;
            c->profile->n_tokens += n;
        }
        first += n;
    }
done:
    return st;
}

/* pairs [n_experts, n_experts] += 1 at (earlier, later choice) of every pair: half of the matrix's work, and no comparison inside the
 * loop; the transpose is added once at the end. 32 bits hold any count (GR_TRACE_TOKENS_MAX). */
static void count_run(const uint16_t *ids, int64_t n_tokens, size_t stride, int32_t top_k, int32_t n_experts, uint32_t *load, uint32_t *pairs) {
    for (int64_t token = 0; token < n_tokens; token++, ids += stride) {
        for (int32_t a = 0; a < top_k; a++) {
            uint32_t *row = pairs + (size_t)ids[a] * (size_t)n_experts;
            load[ids[a]]++;
            for (int32_t b = a + 1; b < top_k; b++) row[ids[b]]++;
        }
    }
}

static void store_layer(const uint32_t *load, const uint32_t *pairs, size_t n, double *load_out, double *affinity) {
    for (size_t i = 0; i < n; i++) {
        load_out[i] = load[i];
        for (size_t j = 0; j < n; j++) affinity[i * n + j] = (double)pairs[i * n + j] + (double)pairs[j * n + i];
    }
}

static grace_status count_layer(void *context, int32_t layer) {
    const counting *c = context;
    const grace_trace_info *info = &c->piece->info;
    size_t n = (size_t)info->n_experts, stride = (size_t)info->n_layers * (size_t)info->top_k, at = (size_t)layer;
    for (int64_t i = 0; i < c->n_runs; i++) {
        const uint16_t *ids = c->piece->experts + (size_t)c->runs[i].first * stride + at * (size_t)info->top_k;
        count_run(ids, c->runs[i].n, stride, info->top_k, info->n_experts, c->load + at * n, c->pairs + at * n * n);
    }
    return GRACE_OK;
}

static grace_status finish_layer(void *context, int32_t layer) {
    const counting *c = context;
    size_t n = (size_t)c->profile->info.n_experts, at = (size_t)layer;
    store_layer(c->load + at * n, c->pairs + at * n * n, n, c->profile->load + at * n, c->profile->affinity + at * n * n);
    return GRACE_OK;
}

static grace_status allocate(const grace_trace_info *info, grace_profile **out) {
    grace_status st = GRACE_OK;
    grace_profile *p = NULL;
    int64_t n = (int64_t)info->n_layers * info->n_experts, n_pairs = n * info->n_experts;
    GR_CHECK(n_pairs <= AFFINITY_BYTES_MAX / (int64_t)sizeof(double), GRACE_ERR_LIMIT,
             "the affinity of %d layers with %d experts takes %" PRId64 " bytes, at most %" PRId64 " are allowed", info->n_layers, info->n_experts,
             n_pairs * (int64_t)sizeof(double), AFFINITY_BYTES_MAX);
    GR_CALLOC(p, 1);
    p->info = *info;
    GR_CALLOC(p->load, n);
    GR_CALLOC(p->affinity, n_pairs);
    *out = p;
    p = NULL;
done:
    grace_profile_free(p);
    return st;
}

static grace_status count_pieces(grace_trace_reader *r, counting *c) {
    grace_status st = GRACE_OK;
    for (;;) {
        GR_TRY(grace_trace_reader_next(r, &c->piece));
        if (!c->piece) break;
        GR_TRY(select_runs(c));
        GR_TRY(gr_parallel(c->piece->info.n_layers, count_layer, c));
    }
    GR_TRY(gr_parallel(c->profile->info.n_layers, finish_layer, c));
done:
    return st;
}

grace_status grace_profile_stream(grace_trace_reader *r, const grace_selection *which, grace_profile **out) {
    grace_status st = GRACE_OK;
    const grace_trace *head = grace_trace_reader_head(r);
    size_t n = (size_t)head->info.n_layers * (size_t)head->info.n_experts;
    counting c = {.which = which};
    GR_TRY(gr_selection_resolve(which, head, &c.wanted));
    GR_TRY(allocate(&head->info, &c.profile));
    GR_CALLOC(c.load, n);
    GR_CALLOC(c.pairs, n * (size_t)head->info.n_experts);
    grace_trace_reader_rewind(r);
    GR_TRY(count_pieces(r, &c));
    gr_profile_sign(c.profile, head->name, which);
    *out = c.profile, c.profile = NULL;
done:
    grace_profile_free(c.profile);
    free(c.wanted), free(c.runs), free(c.load), free(c.pairs);
    return st;
}

grace_status grace_profile_build(const grace_trace *t, const grace_selection *which, grace_profile **out) {
    grace_trace_reader *r = NULL;
    grace_status st = gr_trace_reader_of(t, &r);
    if (!st) st = grace_profile_stream(r, which, out);
    grace_trace_reader_close(r);
    return st;
}

void gr_profile_sign(grace_profile *p, const char *name, const grace_selection *which) {
    size_t n = (size_t)p->info.n_layers * (size_t)p->info.n_experts;
    p->origin = (grace_origin){.n_tokens = p->n_tokens, .loads = gr_hash64(p->load, n * sizeof *p->load, 0), .synthetic = p->info.synthetic};
    if (which) p->origin.which = *which;
    gr_trace_set_name(p->origin.file, name);
}

bool grace_origins_overlap(const grace_origin *a, const grace_origin *b) {
    if (a->n_tokens == 0 || b->n_tokens == 0) return false;
    if (a->n_tokens == b->n_tokens && a->loads == b->loads) return true;
    return a->file[0] && strcmp(a->file, b->file) == 0 && !grace_selections_disjoint(&a->which, &b->which);
}

void grace_profile_free(grace_profile *p) {
    if (!p) return;
    free(p->load);
    free(p->affinity);
    free(p);
}
