#include "interop/synth.h"

#include <limits.h>
#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/rng.h"
#include "plan/tables.h"

/* Two experts: how far the tokens made are from what is wanted, and what a difference weighs. */
typedef struct cell { float excess, weight; } cell;

typedef struct layer {
    const double *load;
    int32_t n, n_tokens, top_k;
    double scale;               /* wanted tokens / counted tokens */
    double *target;             /* [n] exact scaled loads */
    int32_t *quota;             /* [n] rounded, sum n_tokens * top_k */
    cell *cells;                /* [n, n] symmetric; the diagonal is not used */
    uint16_t *chosen;           /* [n_tokens, top_k] */
    int32_t *first;             /* [n + 1] an expert's choices among the next */
    int32_t *token_of;          /* [n_tokens * top_k] by expert: the token that made the choice */
    int32_t *place_of;          /* [n_tokens, top_k] where a choice stands in token_of */
    const gr_pair *pairs;
    size_t n_pairs;
    gr_rng rng;
} layer;

static cell *cell_at(const layer *l, int32_t a, int32_t b) { return &l->cells[(size_t)a * (size_t)l->n + (size_t)b]; }
static uint16_t *token_at(const layer *l, int32_t token) { return &l->chosen[(size_t)token * (size_t)l->top_k]; }

static bool has(const uint16_t *token, int32_t top_k, uint16_t expert) {
    for (int32_t k = 0; k < top_k; k++)
        if (token[k] == expert) return true;
    return false;
}

/* ---- quotas ---- */

typedef struct leftover { double part; int32_t expert; } leftover;

static int by_part(const void *a, const void *b) {
    const leftover *x = a, *y = b;
    if (x->part != y->part) return x->part > y->part ? -1 : 1;
    return (x->expert > y->expert) - (x->expert < y->expert);
}

static grace_status round_loads(layer *l, const char *where) {
    grace_status st = GRACE_OK;
    leftover *rest = NULL;
    double sum = 0;
    int64_t left = (int64_t)l->n_tokens * l->top_k;
    GR_CALLOC(rest, l->n);
    for (int32_t e = 0; e < l->n; e++) sum += l->load[e];
    GR_CHECK(sum > 0 && isfinite(sum), GRACE_ERR_FORMAT, "%s: the loads sum to %g", where, sum);
    l->scale = (double)l->n_tokens * l->top_k / sum;
    for (int32_t e = 0; e < l->n; e++) {
        double exact = l->load[e] * l->scale;
        GR_CHECK(exact <= l->n_tokens * (1 + 1e-9), GRACE_ERR_FORMAT, "%s: expert %d has load %g, but %g loads of top-%d come from %g tokens", where, e,
                 l->load[e], sum, l->top_k, sum / l->top_k);
        l->target[e] = exact;
        l->quota[e] = (int32_t)fmin(floor(exact), l->n_tokens);
        rest[e] = (leftover){exact - l->quota[e], e};
        left -= l->quota[e];
    }
    qsort(rest, (size_t)l->n, sizeof *rest, by_part);
    for (int32_t i = 0; i < l->n && left > 0; i++)
        if (l->quota[rest[i].expert] < l->n_tokens) l->quota[rest[i].expert]++, left--;
    GR_CHECK(left == 0, GRACE_ERR_FORMAT, "%s: fewer than %d experts have load", where, l->top_k);
done:
    free(rest);
    return st;
}

/* Experts in random order, each as often as its quota says, laid round the tokens: one expert's run is no longer than the circle. */
static grace_status deal(layer *l) {
    grace_status st = GRACE_OK;
    int32_t *order = NULL;
    int64_t at = 0;
    GR_CALLOC(order, l->n);
    for (int32_t e = 0; e < l->n; e++) order[e] = e;
    for (int32_t i = l->n - 1; i > 0; i--) {
        int32_t j = (int32_t)gr_rng_below(&l->rng, (uint32_t)i + 1), kept = order[i];
        order[i] = order[j], order[j] = kept;
    }
    for (int32_t i = 0; i < l->n; i++)
        for (int32_t c = 0; c < l->quota[order[i]]; c++, at++) token_at(l, (int32_t)(at % l->n_tokens))[at / l->n_tokens] = (uint16_t)order[i];
done:
    free(order);
    return st;
}

static void index_choices(layer *l) {
    for (int32_t e = 0; e < l->n; e++) l->first[e + 1] = l->first[e] + l->quota[e];
    for (int64_t i = (int64_t)l->n_tokens * l->top_k; i-- > 0;) {
        int32_t e = l->chosen[i], place = l->first[e] + --l->quota[e];      /* counts down; the quota is the run's length again below */
        l->place_of[i] = place;
        l->token_of[place] = (int32_t)(i / l->top_k);
    }
    for (int32_t e = 0; e < l->n; e++) l->quota[e] = l->first[e + 1] - l->first[e];
}

/* ---- what is wanted ---- */

static void set_wanted(layer *l, int32_t a, int32_t b, double wanted) {
    *cell_at(l, a, b) = *cell_at(l, b, a) = (cell){(float)-wanted, (float)(1 / (wanted + 1))};
}

static double set_listed(layer *l, double *rest) {
    double listed = 0;
    for (int32_t e = 0; e < l->n; e++) rest[e] = l->target[e] * (l->top_k - 1);
    for (size_t i = 0; i < l->n_pairs; i++) {
        double wanted = l->pairs[i].count * l->scale;
        set_wanted(l, l->pairs[i].a, l->pairs[i].b, wanted);
        rest[l->pairs[i].a] -= wanted, rest[l->pairs[i].b] -= wanted;
        listed += wanted;
    }
    return listed;
}

/* An expert's pairs are top_k - 1 times its load, so what is not listed sums to `rest`. Of the tables with these sums the one closest to
 * independence is part[a] * part[b]; a few rounds of proportional fitting find the parts. */
static void fit_parts(const layer *l, const double *rest, double *part) {
    enum { ROUNDS = 40 };
    double sum = 0;
    for (int32_t e = 0; e < l->n; e++) sum += fmax(0, rest[e]);
    for (int32_t e = 0; e < l->n; e++) part[e] = sum > 0 ? fmax(0, rest[e]) / sqrt(sum) : 0;
    for (int32_t i = 0; i < ROUNDS * l->n; i++) {
        int32_t a = i % l->n;
        double others = 0;
        for (int32_t b = 0; b < l->n; b++)
            if (b != a && cell_at(l, a, b)->weight == 0) others += part[b];
        part[a] = others > 0 ? fmax(0, rest[a]) / others : 0;
    }
}

/* A listed pair's weight is set and others' is 0 until the end, which tells them apart. */
static grace_status set_targets(layer *l, gr_synth_fit *fit) {
    grace_status st = GRACE_OK;
    double *rest = NULL, *part = NULL;
    GR_CALLOC(rest, l->n);
    GR_CALLOC(part, l->n);
    fit->listed_sum += set_listed(l, rest);
    fit->all_sum += 0.5 * l->n_tokens * l->top_k * (l->top_k - 1);
    fit_parts(l, rest, part);
    for (int32_t a = 0; a < l->n; a++)
        for (int32_t b = 0; b < a; b++)
            if (cell_at(l, a, b)->weight == 0) set_wanted(l, a, b, part[a] * part[b]);
done:
    free(rest), free(part);
    return st;
}

static void count_token(layer *l, const uint16_t *token) {
    for (int32_t a = 0; a < l->top_k; a++)
        for (int32_t b = 0; b < l->top_k; b++)
            if (a != b) cell_at(l, token[a], token[b])->excess += 1;
}

/* ---- trades ---- */

static float cost_of_more(const cell *c) { return c->weight * (2 * c->excess + 1); }
static float cost_of_less(const cell *c) { return c->weight * (1 - 2 * c->excess); }

/* What it costs when `token` has `in` instead of `out`; experts that the other token has too pay nothing, since they meet both anyway. */
static float cost_of_change(const layer *l, const uint16_t *token, const uint16_t *other, uint16_t out, uint16_t in) {
    float cost = 0;
    for (int32_t k = 0; k < l->top_k; k++) {
        uint16_t e = token[k];
        if (e == out || has(other, l->top_k, e)) continue;
        cost += cost_of_less(cell_at(l, out, e)) + cost_of_more(cell_at(l, in, e));
    }
    return cost;
}

static void change(layer *l, uint16_t *token, int32_t slot, uint16_t in) {
    uint16_t out = token[slot];
    for (int32_t k = 0; k < l->top_k; k++) {
        if (k == slot) continue;
        cell_at(l, out, token[k])->excess -= 1, cell_at(l, token[k], out)->excess -= 1;
        cell_at(l, in, token[k])->excess += 1, cell_at(l, token[k], in)->excess += 1;
    }
    token[slot] = in;
}

/* s gives slot a and gets slot b of t. */
static void trade(layer *l, uint16_t *s, int32_t a, uint16_t *t, int32_t b) {
    uint16_t i = s[a], j = t[b];
    size_t from = (size_t)(s - l->chosen) + (size_t)a, to = (size_t)(t - l->chosen) + (size_t)b;
    int32_t place_i = l->place_of[from], place_j = l->place_of[to];
    change(l, s, a, j);
    change(l, t, b, i);
    l->token_of[place_i] = (int32_t)(to / (size_t)l->top_k), l->place_of[to] = place_i;
    l->token_of[place_j] = (int32_t)(from / (size_t)l->top_k), l->place_of[from] = place_j;
}

static float cost_of_trade(const layer *l, const uint16_t *s, uint16_t i, const uint16_t *t, uint16_t j) {
    return cost_of_change(l, s, t, i, j) + cost_of_change(l, t, s, j, i);
}

static int32_t below(layer *l, int32_t n) { return (int32_t)gr_rng_below(&l->rng, (uint32_t)n); }

static void try_any(layer *l, bool blind) {
    uint16_t *s = token_at(l, below(l, l->n_tokens)), *t = token_at(l, below(l, l->n_tokens));
    int32_t a = below(l, l->top_k), b = below(l, l->top_k);
    if (has(s, l->top_k, t[b]) || has(t, l->top_k, s[a])) return;
    if (blind || cost_of_trade(l, s, s[a], t, t[b]) < 0) trade(l, s, a, t, b);
}

static int32_t slot_of(const uint16_t *token, uint16_t expert) {
    int32_t k = 0;
    while (token[k] != expert) k++;
    return k;
}

/* A listed pair (a, b) that comes too seldom: some token with a gets b from some token with b, for the expert that it is best to give away. */
static void try_pair(layer *l) {
    const gr_pair *pair = &l->pairs[below(l, (int32_t)l->n_pairs)];
    bool turned = below(l, 2);
    int32_t a = turned ? pair->b : pair->a, b = turned ? pair->a : pair->b, best = -1;
    float least = 0;
    if (cell_at(l, a, b)->excess > -0.5f || l->quota[a] == 0 || l->quota[b] == 0) return;
    uint16_t *s = token_at(l, l->token_of[l->first[a] + below(l, l->quota[a])]), *t = token_at(l, l->token_of[l->first[b] + below(l, l->quota[b])]);
    if (has(s, l->top_k, (uint16_t)b)) return;
    for (int32_t k = 0; k < l->top_k; k++) {
        if (s[k] == a || has(t, l->top_k, s[k])) continue;
        float cost = cost_of_trade(l, s, s[k], t, (uint16_t)b);
        if (cost < least) least = cost, best = k;
    }
    if (best >= 0) trade(l, s, best, t, slot_of(t, (uint16_t)b));
}

static void shuffle_tokens(layer *l) {
    uint16_t kept[256];
    size_t bytes = (size_t)l->top_k * sizeof *kept;
    for (int32_t i = l->n_tokens - 1; i > 0; i--) {
        int32_t j = (int32_t)gr_rng_below(&l->rng, (uint32_t)i + 1);
        memcpy(kept, token_at(l, i), bytes);
        memmove(token_at(l, i), token_at(l, j), bytes);
        memcpy(token_at(l, j), kept, bytes);
    }
}

static void search(layer *l, int32_t n_sweeps) {
    enum { BLIND_SWEEPS = 2 };
    int64_t n_choices = (int64_t)l->n_tokens * l->top_k;
    for (int32_t t = 0; t < l->n_tokens; t++) count_token(l, token_at(l, t));
    for (int64_t i = 0; i < n_choices * BLIND_SWEEPS; i++) try_any(l, true);
    for (int64_t i = 0; i < n_choices * n_sweeps; i++) {
        if (i % 2 && l->n_pairs > 0) try_pair(l);
        else try_any(l, false);
    }
    shuffle_tokens(l);
}

static void measure(const layer *l, gr_synth_fit *fit) {
    for (int32_t e = 0; e < l->n; e++) fit->load_error_max = fmax(fit->load_error_max, fabs(l->quota[e] - l->target[e]));
    for (size_t i = 0; i < l->n_pairs; i++) fit->listed_error_sum += fabs((double)cell_at(l, l->pairs[i].a, l->pairs[i].b)->excess);
}

grace_status gr_synth_layer(const char *where, const double *load, int32_t n_experts, const gr_pair *pairs, size_t n_pairs, int32_t n_tokens,
                            int32_t top_k, int32_t n_sweeps, uint64_t seed, uint16_t *chosen, gr_synth_fit *fit) {
    grace_status st = GRACE_OK;
    layer l = {.load = load, .n = n_experts, .n_tokens = n_tokens, .top_k = top_k, .chosen = chosen, .pairs = pairs, .n_pairs = n_pairs,
               .rng = gr_rng_seed(seed)};
    size_t n_choices = (size_t)n_tokens * (size_t)top_k;
    GR_CHECK(n_experts <= GR_PLAN_EXPERTS_MAX, GRACE_ERR_LIMIT, "%s: %d experts, tokens are made for at most %d", where, n_experts, GR_PLAN_EXPERTS_MAX);
    GR_ASSERT(top_k >= 1 && top_k <= 256 && top_k <= n_experts && n_tokens >= 1 && n_choices <= INT32_MAX && n_pairs <= INT32_MAX);
    GR_CALLOC(l.target, n_experts);
    GR_CALLOC(l.quota, n_experts);
    GR_CALLOC(l.cells, (size_t)n_experts * (size_t)n_experts);
    GR_CALLOC(l.first, (size_t)n_experts + 1);
    GR_CALLOC(l.token_of, n_choices);
    GR_CALLOC(l.place_of, n_choices);
    GR_TRY(round_loads(&l, where));
    GR_TRY(deal(&l));
    index_choices(&l);
    GR_TRY(set_targets(&l, fit));
    search(&l, n_sweeps);
    measure(&l, fit);
done:
    free(l.target), free(l.quota), free(l.cells), free(l.first), free(l.token_of), free(l.place_of);
    return st;
}
