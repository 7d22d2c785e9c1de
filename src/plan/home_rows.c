#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "plan/homes.h"
#include "plan/trace.h"
#include "plan/turns.h"

/* ---- where an expert's tokens go ---- */

/* chance [n_nodes] of each node to serve an expert's tokens that live on `home` (paper Alg. 4 seen from nodes). */
static void spread(const grace_plan *plan, const grace_plan_layer *pl, int32_t expert, int32_t home, double *chance) {
    int32_t g = plan->cluster.gpus_per_node, first = pl->slots_first[expert], n = pl->slots_first[expert + 1] - first, turns[GRACE_RANKS_MAX];
    float weight[GRACE_RANKS_MAX];
    memset(chance, 0, (size_t)plan->cluster.n_nodes * sizeof *chance);
    for (int32_t i = 0; i < n; i++) {
        int32_t slot = pl->slots_of_expert[first + i];
        weight[i] = pl->poll_weight[slot];
        if (pl->rank_of_slot[slot] / g == home) {
            chance[home] = 1;
            return;
        }
    }
    gr_turns_of_weights(weight, n, turns);
    for (int32_t i = 0; i < n; i++) chance[pl->rank_of_slot[pl->slots_of_expert[first + i]] / g] += (double)turns[i] / GR_TURNS;
}

static int16_t only_node(const double *chance, int32_t n_nodes) {
    for (int32_t node = 0; node < n_nodes; node++)
        if (chance[node] > 1 - 1e-9) return (int16_t)node;
    return -1;
}

static grace_status build_layer(const grace_plan *plan, int32_t layer, gr_home_layer *out) {
    grace_status st = GRACE_OK;
    size_t nodes = (size_t)plan->cluster.n_nodes, n = (size_t)plan->n_experts;
    double chance[GRACE_RANKS_MAX];
    GR_CALLOC(out->target, nodes * n);
    for (size_t home = 0; home < nodes; home++)
        for (size_t e = 0; e < n; e++) {
            spread(plan, &plan->layers[layer], (int32_t)e, (int32_t)home, chance);
            out->target[home * n + e] = only_node(chance, plan->cluster.n_nodes);
            if (out->target[home * n + e] >= 0) continue;
            if (!out->chance) GR_CALLOC(out->chance, nodes * n * nodes);
            memcpy(out->chance + (home * n + e) * nodes, chance, nodes * sizeof *chance);
        }
done:
    return st;
}

grace_status gr_home_rows_build(const grace_plan *plan, gr_home_rows *out) {
    grace_status st = GRACE_OK;
    gr_home_rows h = {plan->n_layers, plan->n_experts, plan->top_k, plan->cluster.n_nodes, NULL};
    GR_CALLOC(h.layers, plan->n_layers);
    for (int32_t l = 0; l < plan->n_layers; l++) GR_TRY(build_layer(plan, l, &h.layers[l]));
    *out = h, h.layers = NULL;
done:
    gr_home_rows_free(&h);
    return st;
}

void gr_home_rows_free(gr_home_rows *h) {
    for (int32_t l = 0; h->layers && l < h->n_layers; l++) free(h->layers[l].target), free(h->layers[l].chance);
    free(h->layers);
    h->layers = NULL;
}

/* Nodes visited for sure, and the chance that none of the others' turns falls on each of the rest. */
static double rows_from(const gr_home_rows *h, const gr_home_layer *l, const uint16_t *experts, int32_t home, double *missed) {
    const int16_t *target = l->target + (size_t)home * (size_t)h->n_experts;
    double rows = 0;
    for (int32_t node = 0; node < h->n_nodes; node++) missed[node] = 1;
    for (int32_t j = 0; j < h->top_k; j++) {
        if (target[experts[j]] >= 0) missed[target[experts[j]]] = 0;
        else
            for (int32_t node = 0; node < h->n_nodes; node++)
                missed[node] *= 1 - l->chance[((size_t)home * (size_t)h->n_experts + experts[j]) * (size_t)h->n_nodes + (size_t)node];
    }
    for (int32_t node = 0; node < h->n_nodes; node++) rows += node == home ? 0 : 1 - missed[node];
    return rows;
}

void gr_home_rows_add(const gr_home_rows *h, int32_t layer, const uint16_t *experts, double *rows) {
    double missed[GRACE_RANKS_MAX];
    for (int32_t home = 0; home < h->n_nodes; home++) rows[home] += rows_from(h, &h->layers[layer], experts, home, missed);
}

/* ---- sequences ---- */

typedef struct gathering {
    const gr_home_rows *rows;
    gr_sends *s;
    int32_t tokens_max;
    int32_t *place;             /* [sequences of the trace] in s, -1: not taken */
} gathering;

static void gather_token(const gathering *g, int32_t sequence, const uint16_t *experts) {
    gr_sends *s = g->s;
    double rows[GRACE_RANKS_MAX];
    s->n_tokens[sequence]++;
    for (int32_t l = 0; l < s->n_layers; l++, experts += g->rows->top_k) {
        float *sum = s->rows + ((size_t)l * (size_t)s->n + (size_t)sequence) * (size_t)s->n_nodes;
        memset(rows, 0, (size_t)s->n_nodes * sizeof *rows);
        gr_home_rows_add(g->rows, l, experts, rows);
        for (int32_t node = 0; node < s->n_nodes; node++) sum[node] += (float)rows[node];
    }
}

static void gather_piece(const gathering *g, const grace_trace *t) {
    const uint16_t *experts = t->experts;
    size_t width = (size_t)t->info.n_layers * (size_t)t->info.top_k;
    for (int64_t i = 0; i < t->n_segments; experts += (size_t)t->segments[i++].n_tokens * width) {
        int32_t sequence = g->place[t->segments[i].sequence];
        for (int32_t j = 0; sequence >= 0 && j < t->segments[i].n_tokens; j++)
            if (g->tokens_max == 0 || g->s->n_tokens[sequence] < g->tokens_max) gather_token(g, sequence, experts + (size_t)j * width);
    }
}

/* All sequences of a trace are known once it was read. */
static grace_status read_through(grace_trace_reader *r, int64_t *n_tokens) {
    grace_status st = GRACE_OK;
    const grace_trace *piece = NULL;
    *n_tokens = 0;
    grace_trace_reader_rewind(r);
    for (;;) {
        GR_TRY(grace_trace_reader_next(r, &piece));
        if (!piece) break;
        *n_tokens += piece->n_tokens;
    }
done:
    return st;
}

grace_status gr_home_number(grace_trace_reader *r, const grace_selection *which, int64_t in_all, int32_t **place, int32_t *n) {
    grace_status st = GRACE_OK;
    const grace_trace *all = grace_trace_reader_head(r);
    bool *wanted = NULL;
    int64_t n_tokens;
    int32_t n_selected = 0, stride, seen = 0;
    GR_TRY(gr_selection_resolve(which, all, &wanted));
    GR_TRY(read_through(r, &n_tokens));
    all = grace_trace_reader_head(r);
    GR_CALLOC(*place, all->n_sequences);
    for (int64_t i = 0; i < all->n_sequences; i++) n_selected += gr_selected(which, wanted, all, (int32_t)i);
    if (all->n_sequences > 0) n_tokens = n_tokens / all->n_sequences * n_selected;
    for (stride = 1; n_selected / stride > GR_HOME_SEQUENCES_MAX || (in_all > 0 && n_tokens / stride > in_all);) stride *= 2;
    for (int64_t i = 0; i < all->n_sequences; i++) {
        bool mine = gr_selected(which, wanted, all, (int32_t)i);
        (*place)[i] = mine && seen % stride == 0 ? seen / stride : -1;
        seen += mine;
    }
    *n = (n_selected + stride - 1) / stride;
done:
    free(wanted);
    return st;
}

static grace_status alloc_sends(const gr_home_rows *rows, const int32_t *place, int64_t n_sequences, gr_sends *s) {
    grace_status st = GRACE_OK;
    s->n_layers = rows->n_layers;
    s->n_nodes = rows->n_nodes;
    GR_CALLOC(s->index, s->n);
    GR_CALLOC(s->n_tokens, s->n);
    GR_CALLOC(s->rows, (size_t)s->n_layers * (size_t)s->n * (size_t)s->n_nodes);
    for (int64_t i = 0; i < n_sequences; i++)
        if (place[i] >= 0) s->index[place[i]] = (int32_t)i;
done:
    return st;
}

grace_status gr_home_check_shape(const grace_plan *plan, const grace_trace_info *info) {
    grace_status st = GRACE_OK;
    GR_CHECK(info->n_layers == plan->n_layers && info->n_experts == plan->n_experts && info->top_k == plan->top_k, GRACE_ERR_ARG,
             "homes: the plan has %d layers of %d experts, top-%d; the trace %d of %d, top-%d", plan->n_layers, plan->n_experts, plan->top_k, info->n_layers,
             info->n_experts, info->top_k);
done:
    return st;
}

grace_status gr_sends_build(const grace_plan *plan, grace_trace_reader *r, const grace_selection *which, gr_home_limits limits, gr_sends *out) {
    grace_status st = GRACE_OK;
    const grace_trace *piece = NULL;
    gr_home_rows rows = {0};
    gr_sends s = {0};
    gathering g = {&rows, &s, limits.of_each, NULL};
    GR_TRY(gr_home_check_shape(plan, &grace_trace_reader_head(r)->info));
    GR_TRY(gr_home_number(r, which, limits.in_all, &g.place, &s.n));
    GR_TRY(gr_home_rows_build(plan, &rows));
    GR_TRY(alloc_sends(&rows, g.place, grace_trace_reader_head(r)->n_sequences, &s));
    grace_trace_reader_rewind(r);
    for (;;) {
        GR_TRY(grace_trace_reader_next(r, &piece));
        if (!piece) break;
        gather_piece(&g, piece);
    }
    *out = s, s = (gr_sends){0};
done:
    gr_sends_free(&s);
    gr_home_rows_free(&rows);
    free(g.place);
    return st;
}

void gr_sends_free(gr_sends *s) {
    free(s->index), free(s->n_tokens), free(s->rows);
    *s = (gr_sends){0};
}

void gr_sends_total(const gr_sends *s, double *total) {
    size_t n = (size_t)s->n * (size_t)s->n_nodes;
    memset(total, 0, n * sizeof *total);
    for (int32_t l = 0; l < s->n_layers; l++)
        for (size_t i = 0; i < n; i++) total[i] += (double)s->rows[(size_t)l * n + i];
}
