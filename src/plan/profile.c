/* Trace -> load and affinity (docs/paper.md), the planner's only view of the routing. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/parallel.h"
#include "plan/trace.h"

#define AFFINITY_BYTES_MAX ((int64_t)8 << 30)

typedef struct run { int64_t first, n; } run;      /* consecutive tokens of the trace */

static bool selected(const grace_trace *t, int32_t sequence, int32_t domain, int32_t parity) {
    return (domain < 0 || t->sequences[sequence].domain == domain) && (parity < 0 || sequence % 2 == parity);
}

/* The tokens to count, neighbours joined. runs [n_segments] is large enough. */
static int64_t select_runs(const grace_trace *t, int32_t domain, int32_t parity, run *runs) {
    int64_t n_runs = 0, first = 0;
    for (int64_t s = 0; s < t->n_segments; s++) {
        int64_t n = t->segments[s].n_tokens;
        if (selected(t, t->segments[s].sequence, domain, parity)) {
            bool joins = n_runs > 0 && runs[n_runs - 1].first + runs[n_runs - 1].n == first;
            if (!joins) runs[n_runs++] = (run){first, 0};
            runs[n_runs - 1].n += n;
        }
        first += n;
    }
    return n_runs;
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

/* What is counted, and where to. */
typedef struct counting { const grace_trace *trace; const run *runs; int64_t n_runs; grace_profile *profile; } counting;

static grace_status count_layer(void *context, int32_t layer) {
    grace_status st = GRACE_OK;
    const counting *c = context;
    const grace_trace_info *info = &c->trace->info;
    size_t n = (size_t)info->n_experts, stride = (size_t)info->n_layers * (size_t)info->top_k, at = (size_t)layer;
    uint32_t *load = NULL, *pairs = NULL;
    GR_CALLOC(load, n);
    GR_CALLOC(pairs, n * n);
    for (int64_t i = 0; i < c->n_runs; i++) {
        const uint16_t *ids = c->trace->experts + (size_t)c->runs[i].first * stride + at * (size_t)info->top_k;
        count_run(ids, c->runs[i].n, stride, info->top_k, info->n_experts, load, pairs);
    }
    store_layer(load, pairs, n, c->profile->load + at * n, c->profile->affinity + at * n * n);
done:
    free(load);
    free(pairs);
    return st;
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

grace_status grace_profile_build(const grace_trace *t, int32_t domain, int32_t parity, grace_profile **out) {
    grace_status st = GRACE_OK;
    grace_profile *p = NULL;
    run *runs = NULL;
    GR_CHECK(domain >= -1 && domain < t->n_domains, GRACE_ERR_ARG, "domain: expected -1 to %d, found %d", t->n_domains - 1, domain);
    GR_CHECK(parity >= -1 && parity <= 1, GRACE_ERR_ARG, "parity: expected -1, 0 or 1, found %d", parity);
    GR_CALLOC(runs, t->n_segments);
    int64_t n_runs = select_runs(t, domain, parity, runs);
    GR_TRY(allocate(&t->info, &p));
    for (int64_t i = 0; i < n_runs; i++) p->n_tokens += runs[i].n;
    GR_TRY(gr_parallel(t->info.n_layers, count_layer, &(counting){t, runs, n_runs, p}));
    *out = p;
    p = NULL;
done:
    grace_profile_free(p);
    free(runs);
    return st;
}

void grace_profile_free(grace_profile *p) {
    if (!p) return;
    free(p->load);
    free(p->affinity);
    free(p);
}
