/* One token from logits. Probabilities come from the kernels' exp, sums are double in a fixed order: every level draws the same token. */
#include "compute/cpu/cpu.h"

#include <math.h>

static grace_status find_largest(const float *logits, int32_t vocab, int32_t *id) {
    int32_t best = 0;
    for (int32_t i = 0; i < vocab; i++) {
        if (isnan(logits[i]) || logits[i] == INFINITY) return gr_fail(GRACE_ERR_NUMERIC, "logit of token %d is %g", i, (double)logits[i]);
        if (logits[i] > logits[best]) best = i;
    }
    if (logits[best] == -INFINITY) return gr_fail(GRACE_ERR_NUMERIC, "all %d logits are -infinity", vocab);
    *id = best;
    return GRACE_OK;
}

/* One row's way to its id. */
typedef struct drawing { float temperature, top_p; int32_t top_k; double u; } drawing;

/* The first of n candidates (order NULL: ids 0, 1, ...) at which the running sum passes u * total. */
static int32_t pick(const float *p, const int32_t *order, int32_t n, double total, double u) {
    double sum = 0;
    int32_t id = order ? order[0] : 0;
    for (int32_t i = 0; i < n; i++) {
        const int32_t candidate = order ? order[i] : i;
        if (p[candidate] > 0) id = candidate;       /* rounding at the far end must not choose the impossible */
        sum += (double)p[candidate];
        if (sum > u * total) break;
    }
    return id;
}

static double sum_of(const float *p, const int32_t *order, int32_t n) {
    double sum = 0;
    for (int32_t i = 0; i < n; i++) sum += (double)p[order ? order[i] : i];
    return sum;
}

/* ---- a heap of ids, most probable on top, lower id first on ties: only the ids that survive the cut are ever put in order ---- */
static bool before(const float *p, int32_t a, int32_t b) { return p[a] > p[b] || (p[a] == p[b] && a < b); }

static void sift_down(const float *p, int32_t *heap, int32_t n, int32_t at) {
    const int32_t id = heap[at];
    for (int32_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && before(p, heap[child + 1], heap[child])) child++;
        if (!before(p, heap[child], id)) break;
        heap[at] = heap[child];
    }
    heap[at] = id;
}

/* Pops up to `most` ids into order, or until their sum reaches enough. */
static int32_t pop_sorted(const float *p, int32_t *heap, int32_t n, int32_t most, double enough, int32_t *order) {
    double sum = 0;
    int32_t n_kept = 0;
    while (n_kept < most && (n_kept == 0 || sum < enough)) {
        order[n_kept++] = heap[0];
        sum += (double)p[heap[0]];
        heap[0] = heap[--n];
        sift_down(p, heap, n, 0);
    }
    return n_kept;
}

/* How many of the n leading candidates top_p keeps: the fewest whose sum reaches its share of theirs. */
static int32_t cut_top_p(const float *p, const int32_t *order, int32_t n, float top_p) {
    const double enough = (double)top_p * sum_of(p, order, n);
    double sum = 0;
    for (int32_t i = 0; i < n; i++)
        if ((sum += (double)p[order[i]]) >= enough) return i + 1;
    return n;
}

static int32_t sample_cut(const drawing *s, const float *p, int32_t vocab, int32_t *heap, int32_t *order) {
    const bool by_count = s->top_k > 0 && s->top_k < vocab;
    for (int32_t i = 0; i < vocab; i++) heap[i] = i;
    for (int32_t i = vocab / 2 - 1; i >= 0; i--) sift_down(p, heap, vocab, i);
    const double enough = by_count ? INFINITY : (double)s->top_p * sum_of(p, NULL, vocab);
    int32_t n = pop_sorted(p, heap, vocab, by_count ? s->top_k : vocab, enough, order);
    if (by_count && s->top_p < 1) n = cut_top_p(p, order, n, s->top_p);
    return pick(p, order, n, sum_of(p, order, n), s->u);
}

/* exp((logit - largest) / temperature); in place of a softmax, whose division cancels in every comparison. */
static void weigh_logits(const gr_kernels *k, const float *logits, int32_t vocab, float largest, float temperature, float *p) {
    for (int32_t i = 0; i < vocab; i++) p[i] = (logits[i] - largest) / temperature;
    k->exp(p, vocab);
}

static grace_status sample_row(gr_cpu *cpu, const float *logits, int32_t vocab, const drawing *s, int32_t *id) {
    grace_status st = GRACE_OK;
    int32_t best = 0;
    GR_CHECK(s->temperature >= 0 && s->top_p > 0 && s->top_k >= 0, GRACE_ERR_ARG, "temperature %g, top_p %g, top_k %d: expected >= 0, > 0, >= 0",
             (double)s->temperature, (double)s->top_p, s->top_k);
    GR_TRY(find_largest(logits, vocab, &best));
    if (s->temperature > 0) {
        GR_TRY(gr_scratch_reserve(&cpu->scores, sizeof(float) * (size_t)vocab, "probabilities"));
        GR_TRY(gr_scratch_reserve(&cpu->order, 2 * sizeof(int32_t) * (size_t)vocab, "candidates"));
        float *p = cpu->scores.data;
        int32_t *heap = cpu->order.data;
        weigh_logits(cpu->k, logits, vocab, logits[best], s->temperature, p);
        const bool cut = (s->top_k > 0 && s->top_k < vocab) || s->top_p < 1;
        best = cut ? sample_cut(s, p, vocab, heap, heap + vocab) : pick(p, NULL, vocab, sum_of(p, NULL, vocab), s->u);
    }
    *id = best;
done:
    return st;
}

grace_status gr_cpu_sample(gr_compute *c, const float *logits, int32_t n, int32_t vocab, const gr_draws *draws, int32_t *ids) {
    grace_status st = GRACE_OK;
    GR_CHECK(vocab >= 1, GRACE_ERR_ARG, "no logits to sample from");
    for (int32_t i = 0; i < n; i++) {
        const drawing d = {draws->temperature[i], draws->top_p[i], draws->top_k[i], draws->u[i]};
        GR_TRY(sample_row(gr_cpu_of(c), logits + (int64_t)i * vocab, vocab, &d, &ids[i]));
    }
done:
    return st;
}
