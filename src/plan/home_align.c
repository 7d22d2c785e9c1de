#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/memory.h"
#include "plan/budget.h"
#include "plan/homes.h"
#include "plan/tables.h"

enum { STARTS = 8, ROUNDS_MAX = 20 };

/* One labelling being made. */
typedef struct labels {
    const gr_sends *s;
    const grace_plan *plan;
    int32_t n_nodes, n_layers, gpus;
    int64_t cap;                /* slots of a rank over all layers */
    int32_t *node;              /* [n_layers, n_nodes] node of the cluster that a layer's node becomes */
    int32_t *gpu;               /* [n_layers, n_ranks] GPU there that a rank's slots go to */
    int64_t *held;              /* [n_ranks] slots over all layers; nodes use the first n_nodes */
    double *value;              /* [n_nodes, n_nodes] rows of a layer when its node (row) has a label (column) */
    double *total;              /* [n, n_nodes] rows of a sequence by home */
    int32_t *homes;             /* [n] ranks */
    double rows;                /* of all sequences at their homes */
} labels;

static void labels_free(labels *a) { free(a->node), free(a->gpu), free(a->held), free(a->value), free(a->total), free(a->homes); }

static grace_status labels_alloc(const grace_plan *plan, const gr_sends *s, labels *a) {
    grace_status st = GRACE_OK;
    *a = (labels){.s = s, .plan = plan, .n_nodes = plan->cluster.n_nodes, .n_layers = plan->n_layers, .gpus = plan->cluster.gpus_per_node,
                  .cap = gr_fullest_rank(plan)};
    GR_CALLOC(a->node, (size_t)a->n_layers * (size_t)a->n_nodes);
    GR_CALLOC(a->gpu, (size_t)a->n_layers * (size_t)a->n_nodes * (size_t)a->gpus);
    GR_CALLOC(a->held, (size_t)a->n_nodes * (size_t)a->gpus);
    GR_CALLOC(a->value, (size_t)a->n_nodes * (size_t)a->n_nodes);
    GR_CALLOC(a->total, (size_t)s->n * (size_t)a->n_nodes);
    GR_CALLOC(a->homes, s->n);
done:
    return st;
}

static int32_t *nodes_of(const labels *a, int32_t layer) { return a->node + (size_t)layer * (size_t)a->n_nodes; }
static const float *rows_of(const labels *a, int32_t layer, int32_t i) {
    return a->s->rows + ((size_t)layer * (size_t)a->s->n + (size_t)i) * (size_t)a->n_nodes;
}
static double *total_of(const labels *a, int32_t i) { return a->total + (size_t)i * (size_t)a->n_nodes; }

/* ---- choosing the labels of a layer ---- */

static void add_layer(labels *a, int32_t layer, double sign) {
    for (int32_t i = 0; i < a->s->n; i++)
        for (int32_t p = 0; p < a->n_nodes; p++) total_of(a, i)[nodes_of(a, layer)[p]] += sign * (double)rows_of(a, layer, i)[p];
}

/* What agrees with the layers labelled so far: sequences that send little from a node there should send little here. */
static void value_by_others(labels *a, int32_t layer) {
    memset(a->value, 0, (size_t)a->n_nodes * (size_t)a->n_nodes * sizeof *a->value);
    for (int32_t i = 0; i < a->s->n; i++) {
        double mean = 0, *total = total_of(a, i);
        for (int32_t m = 0; m < a->n_nodes; m++) mean += total[m] / a->n_nodes;
        for (int32_t p = 0; p < a->n_nodes; p++)
            for (int32_t m = 0; m < a->n_nodes; m++) a->value[p * a->n_nodes + m] -= (double)rows_of(a, layer, i)[p] * (total[m] - mean);
    }
}

static void value_by_homes(labels *a, int32_t layer) {
    memset(a->value, 0, (size_t)a->n_nodes * (size_t)a->n_nodes * sizeof *a->value);
    for (int32_t i = 0; i < a->s->n; i++)
        for (int32_t p = 0; p < a->n_nodes; p++) a->value[p * a->n_nodes + a->homes[i] / a->gpus] += (double)rows_of(a, layer, i)[p];
}

static double swap_change(const labels *a, const int32_t *label, int32_t p, int32_t q) {
    const double *v = a->value;
    int32_t n = a->n_nodes;
    return v[p * n + label[q]] + v[q * n + label[p]] - v[p * n + label[p]] - v[q * n + label[q]];
}

static void swap_ints(int32_t *a, int32_t *b) {
    int32_t kept = *a;
    *a = *b, *b = kept;
}

/* Pairs change labels while that lowers the value. */
static bool relabel(labels *a, int32_t layer) {
    int32_t *label = nodes_of(a, layer);
    bool changed = false, better = true;
    for (int round = 0; round < ROUNDS_MAX && better; round++) {
        better = false;
        for (int32_t p = 0; p < a->n_nodes; p++)
            for (int32_t q = 0; q < p; q++)
                if (swap_change(a, label, p, q) < -1e-9 * fabs(a->value[0])) swap_ints(&label[p], &label[q]), better = changed = true;
    }
    return changed;
}

static void as_they_are(labels *a) {
    for (int32_t l = 0; l < a->n_layers; l++)
        for (int32_t p = 0; p < a->n_nodes; p++) {
            nodes_of(a, l)[p] = p;
            for (int32_t i = 0; i < a->gpus; i++) a->gpu[(l * a->n_nodes + p) * a->gpus + i] = i;
        }
}

/* From the layer `first` on, one after the other, each to fit those before; first < 0: as they are. */
static void start_from(labels *a, int32_t first) {
    as_they_are(a);
    memset(a->total, 0, (size_t)a->s->n * (size_t)a->n_nodes * sizeof *a->total);
    for (int32_t i = 0; i < a->n_layers; i++) {
        int32_t layer = first < 0 ? i : (first + i) % a->n_layers;
        if (first >= 0) {
            value_by_others(a, layer);
            relabel(a, layer);
        }
        add_layer(a, layer, 1);
    }
}

/* Homes for the labels, labels for the homes. */
static grace_status settle(labels *a) {
    grace_status st = GRACE_OK;
    bool changed = true;
    for (int round = 0; round < ROUNDS_MAX && changed; round++) {
        changed = false;
        GR_TRY(gr_homes_assign(a->total, a->s->n, a->plan->cluster, NULL, NULL, a->homes));
        for (int32_t l = 0; l < a->n_layers; l++) {
            value_by_homes(a, l);
            add_layer(a, l, -1);
            changed |= relabel(a, l);
            add_layer(a, l, 1);
        }
    }
done:
    return st;
}

/* ---- memory ---- */

static int32_t slots_of(const labels *a, int32_t layer, int32_t rank) {
    return a->plan->layers[layer].first_slot[rank + 1] - a->plan->layers[layer].first_slot[rank];
}
static int32_t slots_on(const labels *a, int32_t layer, int32_t node) {
    return a->plan->layers[layer].first_slot[(node + 1) * a->gpus] - a->plan->layers[layer].first_slot[node * a->gpus];
}

static double excess(int64_t held, int64_t cap) { return held > cap ? (double)(held - cap) * (double)(held - cap) : 0; }

/* What is over the cap, less when two labels whose sizes differ by `more` change places. */
static double relief(const int64_t *held, int64_t cap, int32_t from, int32_t to, int64_t more) {
    return excess(held[from], cap) + excess(held[to], cap) - excess(held[from] - more, cap) - excess(held[to] + more, cap);
}

/* Nodes over the cap change places with others in the layer where that costs fewest rows for what it relieves. */
static bool fit_nodes(labels *a, int64_t cap) {
    memset(a->held, 0, (size_t)a->n_nodes * sizeof *a->held);
    for (int32_t l = 0; l < a->n_layers; l++)
        for (int32_t p = 0; p < a->n_nodes; p++) a->held[nodes_of(a, l)[p]] += slots_on(a, l, p);
    for (;;) {
        int32_t best_layer = -1, best_p = 0, best_q = 0;
        double best = INFINITY, over = 0;
        for (int32_t m = 0; m < a->n_nodes; m++) over += excess(a->held[m], cap);
        if (over <= 0) return true;
        for (int32_t l = 0; l < a->n_layers; l++) {
            const int32_t *label = nodes_of(a, l);
            value_by_homes(a, l);
            for (int32_t p = 0; p < a->n_nodes; p++)
                for (int32_t q = 0; q < a->n_nodes; q++) {
                    double gain = p == q ? 0 : relief(a->held, cap, label[p], label[q], slots_on(a, l, p) - slots_on(a, l, q));
                    double price = gain > 0 ? swap_change(a, label, p, q) / gain : best;
                    if (price < best) best = price, best_layer = l, best_p = p, best_q = q;
                }
        }
        if (best_layer < 0) return false;
        int32_t *label = nodes_of(a, best_layer), more = slots_on(a, best_layer, best_p) - slots_on(a, best_layer, best_q);
        a->held[label[best_p]] -= more, a->held[label[best_q]] += more;
        swap_ints(&label[best_p], &label[best_q]);
    }
}

/* GPUs of a layer's node: the largest goes to the emptiest, then pairs change places while that lowers what is over the cap. */
static void deal_gpus(labels *a, int32_t layer, int32_t node, int64_t *held) {
    int32_t *gpu = a->gpu + (size_t)layer * (size_t)a->n_nodes * (size_t)a->gpus + node * a->gpus;
    bool used[GRACE_RANKS_MAX] = {false};
    for (int32_t i = 0; i < a->gpus; i++) gpu[i] = -1;
    for (int32_t step = 0; step < a->gpus; step++) {
        int32_t big = -1, empty = -1;
        for (int32_t i = 0; i < a->gpus; i++) {
            if (gpu[i] < 0 && (big < 0 || slots_of(a, layer, node * a->gpus + i) > slots_of(a, layer, node * a->gpus + big))) big = i;
            if (!used[i] && (empty < 0 || held[i] < held[empty])) empty = i;
        }
        if (big >= 0 && empty >= 0) gpu[big] = empty, used[empty] = true;
        else gr_assert_failed(__FILE__, __LINE__, "a place for every GPU");
    }
    for (int32_t i = 0; i < a->gpus; i++) held[gpu[i]] += slots_of(a, layer, node * a->gpus + i);
}

static void swap_gpus(labels *a, int32_t layer, int32_t node, int64_t *held) {
    int32_t *gpu = a->gpu + (size_t)layer * (size_t)a->n_nodes * (size_t)a->gpus + node * a->gpus;
    for (int32_t i = 0; i < a->gpus; i++)
        for (int32_t j = 0; j < i; j++) {
            int64_t more = slots_of(a, layer, node * a->gpus + i) - slots_of(a, layer, node * a->gpus + j);
            if (relief(held, a->cap, gpu[i], gpu[j], more) <= 0) continue;
            held[gpu[i]] -= more, held[gpu[j]] += more;
            swap_ints(&gpu[i], &gpu[j]);
        }
}

static bool fit_gpus(labels *a) {
    memset(a->held, 0, (size_t)a->n_nodes * (size_t)a->gpus * sizeof *a->held);
    for (int32_t pass = 0; pass < 2; pass++)
        for (int32_t l = 0; l < a->n_layers; l++)
            for (int32_t p = 0; p < a->n_nodes; p++) (pass ? swap_gpus : deal_gpus)(a, l, p, a->held + nodes_of(a, l)[p] * a->gpus);
    for (int32_t r = 0; r < a->n_nodes * a->gpus; r++)
        if (a->held[r] > a->cap) return false;
    return true;
}

/* Nodes may need some slots less than their GPUs together, so that these can be filled alike. */
static bool fit(labels *a) {
    enum { SLACK_MAX = 8 };
    for (int64_t slack = 0; slack <= SLACK_MAX; slack++)
        if (fit_nodes(a, a->cap * a->gpus - slack) && fit_gpus(a)) return true;
    return false;
}

/* ---- all together ---- */

static grace_status measure(labels *a) {
    grace_status st = GRACE_OK;
    memset(a->total, 0, (size_t)a->s->n * (size_t)a->n_nodes * sizeof *a->total);
    for (int32_t l = 0; l < a->n_layers; l++) add_layer(a, l, 1);
    GR_TRY(gr_homes_assign(a->total, a->s->n, a->plan->cluster, NULL, NULL, a->homes));
    a->rows = 0;
    for (int32_t i = 0; i < a->s->n; i++) a->rows += total_of(a, i)[a->homes[i] / a->gpus];
done:
    return st;
}

static void copy_labels(const labels *from, labels *to) {
    memcpy(to->node, from->node, (size_t)to->n_layers * (size_t)to->n_nodes * sizeof *to->node);
    memcpy(to->gpu, from->gpu, (size_t)to->n_layers * (size_t)to->n_nodes * (size_t)to->gpus * sizeof *to->gpu);
    to->rows = from->rows;
}

/* A layer under its new names: the same copies, weights and loads on other ranks. rank [n_ranks]: where each rank's slots go. */
static grace_status rename_layer(grace_plan *plan, int32_t layer, const int32_t *rank) {
    grace_status st = GRACE_OK;
    grace_plan_layer old = plan->layers[layer], *pl = &plan->layers[layer];
    int32_t *rank_of_expert = NULL, n_copies = 0;
    gr_copy *copies = NULL;
    GR_CALLOC(rank_of_expert, plan->n_experts);
    GR_CALLOC(copies, old.n_slots);
    for (int32_t e = 0; e < plan->n_experts; e++)
        for (int32_t i = old.slots_first[e]; i < old.slots_first[e + 1]; i++) {
            int32_t to = rank[old.rank_of_slot[old.slots_of_expert[i]]];
            if (i == old.slots_first[e]) rank_of_expert[e] = to;
            else copies[n_copies++] = (gr_copy){e, to};
        }
    GR_TRY(gr_plan_place(plan, layer, rank_of_expert, copies, n_copies));
    for (int32_t e = 0; e < plan->n_experts; e++)
        for (int32_t i = old.slots_first[e]; i < old.slots_first[e + 1]; i++)
            for (int32_t j = pl->slots_first[e]; j < pl->slots_first[e + 1]; j++)
                if (pl->rank_of_slot[pl->slots_of_expert[j]] == rank[old.rank_of_slot[old.slots_of_expert[i]]])
                    pl->poll_weight[pl->slots_of_expert[j]] = old.poll_weight[old.slots_of_expert[i]];
    for (int32_t r = 0; r < grace_cluster_ranks(plan->cluster); r++) pl->load_before[rank[r]] = old.load_before[r], pl->load_after[rank[r]] = old.load_after[r];
    pl->n_replica = old.n_replica;
done:
    free(rank_of_expert), free(copies);
    return st;
}

static grace_status apply(const labels *a, grace_plan *plan) {
    grace_status st = GRACE_OK;
    int32_t rank[GRACE_RANKS_MAX];
    for (int32_t l = 0; l < a->n_layers; l++) {
        for (int32_t r = 0; r < a->n_nodes * a->gpus; r++) rank[r] = nodes_of(a, l)[r / a->gpus] * a->gpus + a->gpu[l * a->n_nodes * a->gpus + r];
        GR_TRY(rename_layer(plan, l, rank));
    }
done:
    return st;
}

grace_status gr_homes_align(grace_plan *plan, const gr_sends *s, bool *changed) {
    grace_status st = GRACE_OK;
    labels a = {0}, best = {0};
    GR_TRY(labels_alloc(plan, s, &a));
    GR_TRY(labels_alloc(plan, s, &best));
    *changed = false;
    as_they_are(&best);
    GR_TRY(measure(&best));
    for (int32_t i = -1; i < STARTS && i < a.n_layers && plan->cluster.n_nodes > 1 && s->n > 0; i++) {
        start_from(&a, i < 0 ? -1 : i * a.n_layers / STARTS);
        GR_TRY(settle(&a));
        if (!fit(&a)) {
            gr_log(GR_DEBUG, "plan", "labels, start %d: memory does not allow them", i);
            continue;
        }
        GR_TRY(measure(&a));
        gr_log(GR_DEBUG, "plan", "labels, start %d: %.0f rows, %.0f the best so far", i, a.rows, best.rows);
        if (a.rows < best.rows) copy_labels(&a, &best), *changed = true;
    }
    if (*changed) GR_TRY(apply(&best, plan));
done:
    labels_free(&a), labels_free(&best);
    return st;
}
