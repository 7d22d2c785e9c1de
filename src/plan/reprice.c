#include "plan/reprice.h"

#include <string.h>

#include "base/memory.h"

/* ---- which sets an expert is in ---- */

/* With set NULL counts them in first[key + 1]; else puts them at first[key]++. */
static void walk_sets(const gr_reprice *p, int32_t n_ranks, int32_t *first, int32_t *set) {
    int32_t k = p->view->top_k, n_homes = gr_cost_homes(p->b, GR_EXPECT_HOMES, n_ranks);
    for (int32_t i = 0; i < p->b->n; i++)
        for (int32_t h = 0; h < n_homes; h++)
            for (int32_t j = 0; j < k; j++) {
                int32_t key = p->b->experts[(size_t)i * (size_t)k + (size_t)j] * n_ranks + gr_cost_home(p->b, i, h, GR_EXPECT_HOMES, n_ranks);
                if (set) set[first[key]++] = i;
                else first[key + 1]++;
            }
}

static grace_status list_sets(gr_reprice *p) {
    grace_status st = GRACE_OK;
    int32_t n_ranks = p->is.n_ranks, n_keys = p->view->n_experts * n_ranks;
    GR_CALLOC(p->first, (size_t)n_keys + 1);
    walk_sets(p, n_ranks, p->first, NULL);
    for (int32_t i = 0; i < n_keys; i++) p->first[i + 1] += p->first[i];
    GR_CALLOC(p->set, p->first[n_keys]);
    walk_sets(p, n_ranks, p->first, p->set);
    memmove(p->first + 1, p->first, (size_t)n_keys * sizeof *p->first);        /* starts have become ends */
    p->first[0] = 0;
done:
    return st;
}

grace_status gr_reprice_open(const grace_plan *all, const grace_plan *view, int32_t layer, const gr_bundle_layer *b, double n_tokens, double row_bytes,
                             gr_reprice *out) {
    grace_status st = GRACE_OK;
    *out = (gr_reprice){.all = all, .view = view, .layer = layer, .b = b, .n_tokens = n_tokens, .row_bytes = row_bytes, .expert = -1};
    GR_TRY(gr_shares_build(view, layer, &out->is));
    GR_TRY(gr_shares_build(view, layer, &out->tried));
    GR_TRY(gr_expect_layer(view, layer, b, &out->x_is));
    GR_TRY(gr_expect_layer(view, layer, b, &out->x_tried));
    GR_TRY(gr_choices_build(b, out->is.n_ranks, view->n_experts, view->top_k, &out->choices));
    GR_TRY(gr_visits_alloc(out->is.n_ranks, &out->visits));
    GR_TRY(list_sets(out));
    gr_expected_counts(&out->x_is, &view->layers[layer], n_tokens, row_bytes);
    gr_expected_counts(&out->x_tried, &view->layers[layer], n_tokens, row_bytes);
done:
    return st;
}

void gr_reprice_close(gr_reprice *p) {
    gr_shares_free(&p->is), gr_shares_free(&p->tried);
    gr_expected_free(&p->x_is), gr_expected_free(&p->x_tried);
    gr_visits_free(&p->visits);
    free(p->choices.of), free(p->first), free(p->set);
    *p = (gr_reprice){0};
}

/* ---- a change ---- */

static void copy_list(const gr_shares *from, int32_t list, gr_shares *to) {
    int32_t begin = from->first[list];
    size_t n = (size_t)(from->end[list] - begin);
    memcpy(to->rank + begin, from->rank + begin, n * sizeof *to->rank);
    memcpy(to->share + begin, from->share + begin, n * sizeof *to->share);
    to->end[list] = from->end[list];
}

/* Lists and slots of an expert, as in one so in the other. */
static void copy_expert(const gr_reprice *p, int32_t expert, const gr_shares *from, const gr_expected *x_from, gr_shares *to, gr_expected *x_to) {
    const grace_plan_layer *pl = &p->all->layers[p->layer];
    for (int32_t home = 0; home < from->n_ranks; home++) copy_list(from, home * from->n_experts + expert, to);
    for (int32_t i = pl->slots_first[expert]; i < pl->slots_first[expert + 1]; i++) {
        int32_t slot = pl->slots_of_expert[i];
        x_to->reach[slot] = x_from->reach[slot];
        x_to->used[slot] = x_from->used[slot];
    }
}

static bool same_list(const gr_shares *a, const gr_shares *b, int32_t list) {
    int32_t begin = a->first[list];
    size_t n = (size_t)(a->end[list] - begin);
    return a->end[list] == b->end[list] && !memcmp(a->rank + begin, b->rank + begin, n * sizeof *a->rank) &&
           !memcmp(a->share + begin, b->share + begin, n * sizeof *a->share);
}

/* What tokens of a home that choose the expert send, times 1 or -1. */
static void add_home(gr_reprice *p, const gr_shares *s, int32_t home, int32_t expert, double times) {
    int32_t key = expert * s->n_ranks + home, k = p->view->top_k, n_homes = gr_cost_homes(p->b, GR_EXPECT_HOMES, s->n_ranks);
    for (int32_t at = p->first[key]; at < p->first[key + 1]; at++) {
        int32_t i = p->set[at];
        double count = times * (double)p->b->count[i] / n_homes / (double)p->b->n_tokens;
        gr_cost_set(s, p->b->experts + (size_t)i * (size_t)k, k, home, count, &p->visits, &p->x_tried.rows);
    }
    gr_expect_entries(s, &p->choices, home, expert, times, &p->x_tried.entries);
}

static void add_slots(gr_reprice *p, int32_t expert) {
    const grace_plan_layer *pl = &p->all->layers[p->layer];
    gr_expect_reach(pl, &p->tried, &p->choices, expert, p->x_tried.reach);
    for (int32_t i = pl->slots_first[expert]; i < pl->slots_first[expert + 1]; i++) {
        int32_t slot = pl->slots_of_expert[i];
        p->x_tried.used[slot] = gr_chance_used(p->x_tried.reach[slot], p->n_tokens);
    }
}

const grace_layer_counts *gr_reprice_try(gr_reprice *p, int32_t expert) {
    if (p->expert >= 0 && p->expert != expert) copy_expert(p, p->expert, &p->is, &p->x_is, &p->tried, &p->x_tried);
    p->expert = expert;
    gr_flow_copy(p->view->cluster, &p->x_is.rows, &p->x_tried.rows);
    gr_flow_copy(p->view->cluster, &p->x_is.entries, &p->x_tried.entries);
    gr_shares_renew(p->view, p->layer, expert, &p->tried);
    for (int32_t home = 0; home < p->is.n_ranks; home++) {
        if (same_list(&p->is, &p->tried, home * p->is.n_experts + expert)) continue;
        add_home(p, &p->is, home, expert, -1);
        add_home(p, &p->tried, home, expert, 1);
    }
    add_slots(p, expert);
    return gr_expected_sum(&p->x_tried, &p->view->layers[p->layer], p->n_tokens, p->row_bytes);
}

void gr_reprice_keep(gr_reprice *p) {
    copy_expert(p, p->expert, &p->tried, &p->x_tried, &p->is, &p->x_is);
    gr_flow_copy(p->view->cluster, &p->x_tried.rows, &p->x_is.rows);
    gr_flow_copy(p->view->cluster, &p->x_tried.entries, &p->x_is.entries);
}

const grace_layer_counts *gr_reprice_counts(gr_reprice *p) {
    return gr_expected_sum(&p->x_is, &p->view->layers[p->layer], p->n_tokens, p->row_bytes);
}
