#include "plan/phases.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/memory.h"
#include "base/parallel.h"
#include "plan/reprice.h"

enum { SAMPLE = 512, ROUNDS = 8 };          /* bundles of a layer that the search prices by; times it looks at every expert */
static const double NORM = 8;               /* see time_to_lower() */
static const double ROUNDING = 1e-12;       /* a change that gains a smaller share gains nothing */

/* ---- the plan of a phase ---- */

bool gr_plan_has_decode(const grace_plan *plan) {
    for (int32_t l = 0; l < plan->n_layers; l++)
        if (plan->layers[l].serve_decode) return true;
    return false;
}

/* The lists of view: pl's, without the copies that rest. */
static void list_serving(const grace_plan_layer *pl, int32_t n_experts, grace_plan_layer *view) {
    int32_t at = 0;
    for (int32_t e = 0; e < n_experts; e++) {
        view->slots_first[e] = at;
        for (int32_t i = pl->slots_first[e]; i < pl->slots_first[e + 1]; i++)
            if (!pl->serve_decode || pl->serve_decode[pl->slots_of_expert[i]]) view->slots_of_expert[at++] = pl->slots_of_expert[i];
        GR_ASSERT(at > view->slots_first[e]);
    }
    view->slots_first[n_experts] = at;
}

grace_status gr_plan_of_decode(const grace_plan *plan, grace_plan **out) {
    grace_status st = GRACE_OK;
    grace_plan *view = NULL;
    GR_CALLOC(view, 1);
    *view = *plan;
    GR_CHECK((view->memory = gr_arena_new()), GRACE_ERR_MEMORY, "no memory for a plan");
    GR_ARENA_ARRAY(view->memory, view->layers, plan->n_layers);
    for (int32_t l = 0; l < plan->n_layers; l++) {
        view->layers[l] = plan->layers[l];
        GR_ARENA_ARRAY(view->memory, view->layers[l].slots_first, (size_t)plan->n_experts + 1);
        GR_ARENA_ARRAY(view->memory, view->layers[l].slots_of_expert, plan->layers[l].n_slots);
        list_serving(&plan->layers[l], plan->n_experts, &view->layers[l]);
    }
    *out = view, view = NULL;
done:
    grace_plan_free(view);
    return st;
}

/* ---- the search ---- */

typedef struct search {
    grace_plan *plan, *view;
    const grace_bundles *bundles;
    const grace_shape *shape;
    const grace_rates *rates;
    double n_tokens;
} search;

/* Every so-manieth bundle. Drop with sample_drop(), also after a failure. */
static grace_status sample(const gr_bundle_layer *b, int32_t top_k, gr_bundle_layer *out) {
    grace_status st = GRACE_OK;
    int32_t step = (b->n + SAMPLE - 1) / SAMPLE, k = top_k;
    *out = (gr_bundle_layer){0};
    GR_CALLOC(out->experts, (size_t)SAMPLE * (size_t)k);
    GR_CALLOC(out->count, SAMPLE);
    if (b->home) GR_CALLOC(out->home, SAMPLE);
    for (int32_t i = 0; i < b->n; i += step, out->n++) {
        for (int32_t j = 0; j < k; j++) out->experts[out->n * k + j] = b->experts[(size_t)i * (size_t)k + (size_t)j];
        if (b->home) out->home[out->n] = b->home[i];
        out->n_tokens += out->count[out->n] = b->count[i];
    }
done:
    return st;
}

static void sample_drop(gr_bundle_layer *b) { free(b->experts), free(b->count), free(b->home); }

/* What the search lowers: the slowest rank's time as a norm of all ranks' times, so that it falls a little also where several are slowest. */
static double time_to_lower(const search *s, const grace_layer_counts *c) {
    grace_seconds t = grace_layer_seconds(c, s->shape, s->rates);
    double sum = 0;
    int32_t n_ranks = grace_cluster_ranks(c->cluster);
    if (t.experts <= 0) return t.total;
    for (int32_t r = 0; r < n_ranks; r++) sum += pow(gr_rank_expert_seconds(c, r, s->shape, s->rates) / t.experts, NORM) / n_ranks;
    return t.total - t.experts + t.experts * pow(sum, 1 / NORM);
}

static double row_bytes(const search *s) { return (double)s->shape->hidden * s->rates->value_bytes; }

/* A decode step of the layer with the copies that serve now, by all bundles. */
static grace_status price(const search *s, int32_t layer, double *seconds) {
    grace_status st = GRACE_OK;
    gr_expected x = {0};
    list_serving(&s->plan->layers[layer], s->plan->n_experts, &s->view->layers[layer]);
    GR_TRY(gr_expect_layer(s->view, layer, &s->bundles->layers[layer], &x));
    *seconds = grace_layer_seconds(gr_expected_counts(&x, &s->view->layers[layer], s->n_tokens, row_bytes(s)), s->shape, s->rates).total;
done:
    gr_expected_free(&x);
    return st;
}

/* Copies `one` and `other` of an expert (-1: none) change between serving and rest, unless none would serve. */
typedef struct change { int32_t one, other; } change;

static bool apply(const grace_plan_layer *pl, int32_t expert, change c) {
    int32_t n = 0;
    pl->serve_decode[c.one] = !pl->serve_decode[c.one];
    if (c.other >= 0) pl->serve_decode[c.other] = !pl->serve_decode[c.other];
    for (int32_t i = pl->slots_first[expert]; i < pl->slots_first[expert + 1]; i++) n += pl->serve_decode[pl->slots_of_expert[i]];
    return n > 0;
}

static double reprice(const search *s, gr_reprice *p, int32_t expert) {
    list_serving(&s->plan->layers[p->layer], s->plan->n_experts, &s->view->layers[p->layer]);
    return time_to_lower(s, gr_reprice_try(p, expert));
}

/* The change, if it lowers *best, is kept in *kept. */
static void try_change(const search *s, gr_reprice *p, int32_t expert, change c, double *best, change *kept) {
    const grace_plan_layer *pl = &s->plan->layers[p->layer];
    double found = apply(pl, expert, c) ? reprice(s, p, expert) : INFINITY;
    apply(pl, expert, c);
    if (found < *best * (1 - ROUNDING)) *best = found, *kept = c;
}

/* The best change of an expert: one copy rests or serves again, or one takes the place of another. True if there is one that lowers *best. */
static bool change_expert(const search *s, gr_reprice *p, int32_t expert, double *best) {
    const grace_plan_layer *pl = &s->plan->layers[p->layer];
    int32_t begin = pl->slots_first[expert], end = pl->slots_first[expert + 1];
    change kept = {-1, -1};
    if (end - begin < 2) return false;
    for (int32_t i = begin; i < end; i++) {
        int32_t one = pl->slots_of_expert[i];
        try_change(s, p, expert, (change){one, -1}, best, &kept);
        for (int32_t j = begin; j < i; j++)
            if (pl->serve_decode[pl->slots_of_expert[j]] != pl->serve_decode[one])
                try_change(s, p, expert, (change){one, pl->slots_of_expert[j]}, best, &kept);
    }
    if (kept.one < 0) return false;
    apply(pl, expert, kept);
    *best = reprice(s, p, expert);
    gr_reprice_keep(p);
    return true;
}

/* Until no expert has a change left, or all have had ROUNDS turns. */
static void change_experts(const search *s, gr_reprice *p) {
    int32_t n = s->plan->n_experts, idle = 0;
    double best = time_to_lower(s, gr_reprice_counts(p));
    for (int32_t turn = 0; turn < ROUNDS * n && idle < n; turn++) idle = change_expert(s, p, turn % n, &best) ? 0 : idle + 1;
}

static void rest_all_copies(const search *s, gr_reprice *p) {
    const grace_plan_layer *pl = &s->plan->layers[p->layer];
    for (int32_t e = 0; e < s->plan->n_experts; e++) {
        for (int32_t i = pl->slots_first[e]; i < pl->slots_first[e + 1]; i++) pl->serve_decode[pl->slots_of_expert[i]] = i == pl->slots_first[e];
        reprice(s, p, e);
        gr_reprice_keep(p);
    }
}

/* From all copies serving on, then from all at rest: where every node has every expert, the first copy to rest brings rows between nodes and saves one
 * weight of many, so that no single change pays though all together do. What takes least time by all bundles goes into best. */
static grace_status search_layer(const search *s, gr_reprice *p, bool *best, double *seconds) {
    grace_status st = GRACE_OK;
    const grace_plan_layer *pl = &s->plan->layers[p->layer];
    double found;
    for (int start = 0; start < 2; start++) {
        if (start > 0) rest_all_copies(s, p);
        change_experts(s, p);
        GR_TRY(price(s, p->layer, &found));
        if (found < *seconds) *seconds = found, memcpy(best, pl->serve_decode, (size_t)pl->n_slots * sizeof *best);
    }
done:
    return st;
}

static grace_status choose_layer(void *context, int32_t layer) {
    grace_status st = GRACE_OK;
    const search *s = context;
    grace_plan_layer *pl = &s->plan->layers[layer];
    gr_bundle_layer some = {0};
    gr_reprice p = {0};
    bool *best = NULL;
    double before, after;
    if (pl->n_slots == s->plan->n_experts) {
        pl->serve_decode = NULL;
        return st;
    }
    GR_TRY(price(s, layer, &before));
    GR_TRY(sample(&s->bundles->layers[layer], s->plan->top_k, &some));
    GR_TRY(gr_reprice_open(s->plan, s->view, layer, &some, s->n_tokens, row_bytes(s), &p));
    GR_CALLOC(best, pl->n_slots);
    after = before;
    GR_TRY(search_layer(s, &p, best, &after));
    memcpy(pl->serve_decode, best, (size_t)pl->n_slots * sizeof *best);
    if (after >= before) pl->serve_decode = NULL;
done:
    free(best);
    gr_reprice_close(&p);
    sample_drop(&some);
    return st;
}

grace_status gr_plan_choose_decode(grace_plan *plan, const grace_bundles *b, const grace_shape *shape, const grace_rates *rates, double n_tokens) {
    grace_status st = GRACE_OK;
    search s = {plan, NULL, b, shape, rates, n_tokens};
    GR_TRY(grace_shape_check(shape, plan->n_layers, plan->n_experts, plan->top_k));
    GR_CHECK(b->n_layers == plan->n_layers && b->n_experts == plan->n_experts && b->top_k == plan->top_k, GRACE_ERR_MISMATCH,
             "the plan is for %d layers of %d experts, top-%d; the routing has %d of %d, top-%d", plan->n_layers, plan->n_experts, plan->top_k,
             b->n_layers, b->n_experts, b->top_k);
    for (int32_t l = 0; l < plan->n_layers; l++) {
        GR_ARENA_ARRAY(plan->memory, plan->layers[l].serve_decode, plan->layers[l].n_slots);
        for (int32_t i = 0; i < plan->layers[l].n_slots; i++) plan->layers[l].serve_decode[i] = true;
    }
    GR_TRY(gr_plan_of_decode(plan, &s.view));
    GR_TRY(gr_parallel(plan->n_layers, choose_layer, &s));
done:
    for (int32_t l = 0; st && l < plan->n_layers; l++) plan->layers[l].serve_decode = NULL;
    grace_plan_free(s.view);
    return st;
}
