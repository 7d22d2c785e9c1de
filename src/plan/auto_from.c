/* Planner auto from a plan that runs already: the few copies that are worth loading anew, the best first, wherever they are. */
#include <inttypes.h>
#include <string.h>

#include "base/memory.h"
#include "base/parallel.h"
#include "plan/auto.h"
#include "plan/budget.h"

/* One change of a layer: op between nodes, its new copy on rank to; or, with op.expert < 0, a copy goes from a GPU to another of its node. Where there
 * is no room, another expert leaves: its copy is dropped, or changes places and goes to rank other_to. */
typedef struct change {
    gr_node_op op, other;       /* other.expert < 0: nobody has to leave */
    int32_t expert, from, to, other_expert, other_to;
    int32_t n_moves;
    double gain;                /* a move */
} change;
static const double LEAST = 1e-9;      /* gains below are rounding */
static const gr_node_op NOTHING = {-1, -1, -1, -1};

typedef struct layer_state {
    gr_nodes *nodes;            /* the search's */
    bool *on;                   /* [n, n_ranks] copies */
    bool *tried;                /* [n] experts that gained nothing after all, since the last change */
    double *rank_load;          /* [n_ranks] predicted */
    double cap;                 /* on it */
    int32_t *primary_rank;      /* [n] */
    change best;                /* gain 0: nothing helps */
    gr_node_op *leaves;         /* [N, N + 1] what leaves a node with the least loss: for each other node, or dropped (last); expert -1: nothing */
    double *loss;               /* [N, N + 1] */
} layer_state;

typedef struct drift { gr_auto *a; const grace_plan *from; layer_state *layers; int64_t *total; } drift;      /* total [n_ranks] slots over all layers */

/* ---- state ---- */

static bool *on_of(const drift *d, const layer_state *ls, int32_t expert) { return ls->on + (size_t)expert * (size_t)d->a->n_ranks; }

static int32_t copies_in(const drift *d, const layer_state *ls, int32_t expert, int32_t node) {
    int32_t n = 0, g = d->a->cluster.gpus_per_node;
    for (int32_t r = node * g; r < (node + 1) * g; r++) n += on_of(d, ls, expert)[r];
    return n;
}

/* Copies in a node share what the node computes of the expert. */
static void add_load(const drift *d, layer_state *ls, int32_t expert, double sign) {
    int32_t g = d->a->cluster.gpus_per_node;
    for (int32_t node = 0; node < d->a->cluster.n_nodes; node++) {
        int32_t n = copies_in(d, ls, expert, node);
        double part = n ? sign * gr_nodes_load(ls->nodes, expert, node) / n : 0;
        for (int32_t r = node * g; r < (node + 1) * g; r++)
            if (on_of(d, ls, expert)[r]) ls->rank_load[r] += part;
    }
}

static grace_status read_layer(drift *d, int32_t layer, layer_state *ls) {
    grace_status st = GRACE_OK;
    const gr_auto *a = d->a;
    const grace_plan_layer *pl = &d->from->layers[layer];
    int16_t *fetch = NULL, *primary = NULL;
    int32_t nodes = a->cluster.n_nodes, g = a->cluster.gpus_per_node;
    GR_CALLOC(fetch, (size_t)a->n * (size_t)nodes);
    GR_CALLOC(primary, a->n);
    for (int32_t e = 0; e < a->n; e++) {
        ls->primary_rank[e] = gr_plan_home(pl, e);
        primary[e] = (int16_t)(ls->primary_rank[e] / g);
        for (int32_t node = 0; node < nodes; node++) fetch[e * nodes + node] = primary[e];
    }
    for (int32_t s = 0; s < pl->n_slots; s++) {
        fetch[pl->expert_of_slot[s] * nodes + pl->rank_of_slot[s] / g] = -1;
        on_of(d, ls, pl->expert_of_slot[s])[pl->rank_of_slot[s]] = true;
    }
    gr_nodes_restore(ls->nodes, fetch, primary);
    ls->nodes->price = 0;
    for (int32_t e = 0; e < a->n; e++) add_load(d, ls, e, 1);
done:
    free(fetch), free(primary);
    return st;
}

/* ---- choosing ---- */

static int32_t first_copy_in(const drift *d, const layer_state *ls, int32_t expert, int32_t node) {
    int32_t r = node * d->a->cluster.gpus_per_node;
    while (!on_of(d, ls, expert)[r]) r++;
    return r;
}

static void keep_better(layer_state *ls, change c) {
    if (c.n_moves > 0) c.gain /= c.n_moves;
    if (c.gain > ls->best.gain) ls->best = c;
}

/* The lightest GPU of the node with a slot free; -1: none. */
static int32_t rank_with_room(const drift *d, const layer_state *ls, int32_t node) {
    int32_t best = -1, g = d->a->cluster.gpus_per_node;
    for (int32_t r = node * g; r < (node + 1) * g; r++)
        if (d->total[r] < d->a->slots_of_rank && (best < 0 || ls->rank_load[r] < ls->rank_load[best])) best = r;
    return best;
}

/* Who leaves a full node, and where to: the slot that op gives up, or nowhere. */
static void consider_leaving(const drift *d, layer_state *ls, change c, int32_t goal) {
    int32_t at = c.op.add * (d->a->cluster.n_nodes + 1) + goal;
    c.other = ls->leaves[at], c.other_expert = c.other.expert;
    if (c.other.expert < 0 || c.other.expert == c.expert) return;
    c.to = first_copy_in(d, ls, c.other.expert, c.op.add);
    if (c.other.add >= 0) c.other_to = first_copy_in(d, ls, c.expert, c.other.add), c.n_moves++;
    c.gain -= ls->loss[at];
    keep_better(ls, c);
}

static void consider_op(const drift *d, layer_state *ls, gr_node_op op) {
    change c = {.op = op, .other = NOTHING, .expert = op.expert, .other_expert = -1, .n_moves = op.add >= 0};
    if (op.add >= 0) c.to = rank_with_room(d, ls, op.add);
    c.gain = -gr_nodes_change(ls->nodes, op, c.to >= 0 ? 0 : ls->nodes->most_load);     /* of two halves each alone may be too much */
    if (c.to >= 0) {
        keep_better(ls, c);
        return;
    }
    consider_leaving(d, ls, c, d->a->cluster.n_nodes);
    if (op.drop >= 0) consider_leaving(d, ls, c, op.drop);
}

static void keep_loss(const drift *d, layer_state *ls, int32_t from, int32_t goal, gr_node_op op) {
    int32_t at = from * (d->a->cluster.n_nodes + 1) + goal;
    double loss = gr_nodes_change(ls->nodes, op, ls->nodes->most_load);
    if (ls->leaves[at].expert < 0 || loss < ls->loss[at]) ls->leaves[at] = op, ls->loss[at] = loss;
}

static void list_leaving(const drift *d, layer_state *ls) {
    const gr_nodes *s = ls->nodes;
    for (int32_t i = 0; i < s->n_nodes * (s->n_nodes + 1); i++) ls->leaves[i] = NOTHING;
    for (int16_t e = 0; e < s->n; e++)
        for (int16_t from = 0; from < s->n_nodes; from++) {
            int16_t p = s->primary[e];
            if (!gr_nodes_hosts(s, e, from)) continue;
            if (from != p) keep_loss(d, ls, from, s->n_nodes, (gr_node_op){e, -1, from, p});
            for (int16_t to = 0; to < s->n_nodes; to++)
                if (!gr_nodes_hosts(s, e, to)) keep_loss(d, ls, from, to, (gr_node_op){e, to, from, (int16_t)(from == p ? to : p)});
        }
}

/* What may happen to an expert between node q and others; a copy that is dropped is no move, one that appears is. */
static void consider_expert(const drift *d, layer_state *ls, int16_t e) {
    const gr_nodes *s = ls->nodes;
    int16_t p = s->primary[e];
    for (int16_t q = 0; q < s->n_nodes; q++) {
        if (q == p) continue;
        if (gr_nodes_hosts(s, e, q)) {
            consider_op(d, ls, (gr_node_op){e, -1, -1, q});
            continue;
        }
        consider_op(d, ls, (gr_node_op){e, q, p, q});
        consider_op(d, ls, (gr_node_op){e, q, -1, p});
        for (int16_t from = 0; from < s->n_nodes; from++)
            if (from != p && gr_nodes_hosts(s, e, from)) consider_op(d, ls, (gr_node_op){e, q, from, p});
    }
}

static double over(double load, double cap) { return load > cap ? load - cap : 0; }

/* Two copies of a node's GPUs change places. */
static void consider_places(const drift *d, layer_state *ls, change c, double part, double unit) {
    double x = ls->rank_load[c.from], y = ls->rank_load[c.to], now = over(x, ls->cap) + over(y, ls->cap);
    for (int32_t e = 0; e < d->a->n; e++) {
        if (!on_of(d, ls, e)[c.to] || on_of(d, ls, e)[c.from]) continue;
        double less = part - gr_nodes_load(ls->nodes, e, c.to / d->a->cluster.gpus_per_node) / copies_in(d, ls, e, c.to / d->a->cluster.gpus_per_node);
        c.other_expert = e, c.other_to = c.from, c.n_moves = 2;
        c.gain = unit * (now - over(x - less, ls->cap) - over(y + less, ls->cap));
        keep_better(ls, c);
    }
}

/* A copy goes from a GPU that is over the bound to another of its node. */
static void consider_gpus(const drift *d, layer_state *ls) {
    int32_t g = d->a->cluster.gpus_per_node;
    double unit = ls->cap > 0 ? 2 * d->a->top_k / ls->cap : 0;
    for (int32_t from = 0; from < d->a->n_ranks; from++)
        for (int32_t e = 0; e < d->a->n && ls->rank_load[from] > ls->cap; e++) {
            if (!on_of(d, ls, e)[from]) continue;
            double part = gr_nodes_load(ls->nodes, e, from / g) / copies_in(d, ls, e, from / g), x = ls->rank_load[from];
            for (int32_t to = from / g * g; to < (from / g + 1) * g; to++) {
                double y = ls->rank_load[to], gain = over(x, ls->cap) + over(y, ls->cap) - over(x - part, ls->cap) - over(y + part, ls->cap);
                change c = {.op = NOTHING, .other = NOTHING, .expert = e, .from = from, .to = to, .other_expert = -1, .n_moves = 1, .gain = gain * unit};
                if (on_of(d, ls, e)[to]) continue;
                if (d->total[to] < d->a->slots_of_rank) keep_better(ls, c);
                else consider_places(d, ls, c, part, unit);
            }
        }
}

static void find_best(const drift *d, layer_state *ls) {
    ls->best = (change){.gain = LEAST};
    list_leaving(d, ls);
    for (int32_t e = 0; e < d->a->n; e++)
        if (!ls->tried[e]) consider_expert(d, ls, (int16_t)e);
    consider_gpus(d, ls);
}

/* ---- doing ---- */

static void put(drift *d, layer_state *ls, int32_t expert, int32_t rank, bool there) {
    d->total[rank] += there - on_of(d, ls, expert)[rank];
    on_of(d, ls, expert)[rank] = there;
}

/* The copy's places after op, and the primary's. */
static void follow(drift *d, layer_state *ls, gr_node_op op, int32_t to) {
    int32_t g = d->a->cluster.gpus_per_node, e = op.expert;
    add_load(d, ls, e, -1);
    if (op.add >= 0) put(d, ls, e, to, true);
    for (int32_t r = op.drop * g; op.drop >= 0 && r < (op.drop + 1) * g; r++) put(d, ls, e, r, false);
    gr_nodes_apply(ls->nodes, op);
    if (ls->primary_rank[e] / g != op.primary || !on_of(d, ls, e)[ls->primary_rank[e]]) ls->primary_rank[e] = first_copy_in(d, ls, e, op.primary);
    add_load(d, ls, e, 1);
}

static void move_inside(drift *d, layer_state *ls, int32_t expert, int32_t from, int32_t to) {
    add_load(d, ls, expert, -1);
    put(d, ls, expert, from, false);
    put(d, ls, expert, to, true);
    if (ls->primary_rank[expert] == from) ls->primary_rank[expert] = to;
    add_load(d, ls, expert, 1);
}

/* False: the two halves of a change help less together than each by itself, and nothing was done. */
static bool apply(drift *d, layer_state *ls, change c) {
    if (c.op.expert < 0) {
        move_inside(d, ls, c.expert, c.from, c.to);
        if (c.other_expert >= 0) move_inside(d, ls, c.other_expert, c.to, c.other_to);
        return true;
    }
    if (c.other.expert >= 0) {
        gr_node_op back = {c.op.expert, c.op.drop, c.op.add, ls->nodes->primary[c.op.expert]};
        double gain = -gr_nodes_change(ls->nodes, c.op, 0);
        gr_nodes_apply(ls->nodes, c.op);
        gain -= gr_nodes_change(ls->nodes, c.other, 0);
        gr_nodes_apply(ls->nodes, back);
        if (gain <= LEAST) return false;
        follow(d, ls, c.other, c.other_to);
    }
    follow(d, ls, c.op, c.to);
    return true;
}

/* A rank may have filled up since a layer looked: then it looks again. */
static bool still_fits(const drift *d, const change *c) { return c->n_moves == 0 || c->other_expert >= 0 || d->total[c->to] < d->a->slots_of_rank; }

static void move_best_first(drift *d) {
    for (int32_t left = d->a->opt.max_moves;;) {
        int32_t best = -1;
        for (int32_t l = 0; l < d->a->n_layers; l++) {
            const change *c = &d->layers[l].best;
            if (c->gain > LEAST && c->n_moves <= left && (best < 0 || c->gain > d->layers[best].best.gain)) best = l;
        }
        if (best < 0 || gr_auto_late(d->a)) break;
        layer_state *ls = &d->layers[best];
        if (still_fits(d, &ls->best)) {
            bool done = apply(d, ls, ls->best);
            if (done) left -= ls->best.n_moves, memset(ls->tried, 0, (size_t)d->a->n * sizeof *ls->tried);
            else ls->tried[ls->best.expert] = true;
        }
        find_best(d, ls);
    }
}

/* ---- open, close, tables ---- */

static grace_status layer_open(void *context, int32_t layer) {
    grace_status st = GRACE_OK;
    drift *d = context;
    gr_auto *a = d->a;
    layer_state *ls = &d->layers[layer];
    ls->nodes = &a->layers[layer].nodes;
    ls->cap = a->layers[layer].bound * ls->nodes->total_load / a->n_ranks;
    GR_CALLOC(ls->on, (size_t)a->n * (size_t)a->n_ranks);
    GR_CALLOC(ls->tried, a->n);
    GR_CALLOC(ls->rank_load, a->n_ranks);
    GR_CALLOC(ls->primary_rank, a->n);
    GR_CALLOC(ls->leaves, a->cluster.n_nodes * (a->cluster.n_nodes + 1));
    GR_CALLOC(ls->loss, a->cluster.n_nodes * (a->cluster.n_nodes + 1));
    GR_TRY(read_layer(d, layer, ls));
    find_best(d, ls);
done:
    return st;
}

static grace_status drift_open(gr_auto *a, drift *d) {
    grace_status st = GRACE_OK;
    const grace_plan *from = a->opt.from;
    *d = (drift){.a = a, .from = from};
    GR_CHECK(gr_fullest_rank(from) <= a->slots_of_rank, GRACE_ERR_LIMIT,
             "plan: the plan to start from has %" PRId64 " slots on its fullest rank, the memory %" PRId64, gr_fullest_rank(from), a->slots_of_rank);
    GR_CALLOC(d->layers, a->n_layers);
    GR_CALLOC(d->total, a->n_ranks);
    for (int32_t l = 0; l < a->n_layers; l++)
        for (int32_t r = 0; r < a->n_ranks; r++) d->total[r] += from->layers[l].first_slot[r + 1] - from->layers[l].first_slot[r];
    GR_TRY(gr_parallel(a->n_layers, layer_open, d));
done:
    return st;
}

static void layer_close(layer_state *ls) { free(ls->on), free(ls->tried), free(ls->rank_load), free(ls->primary_rank), free(ls->leaves), free(ls->loss); }

static void drift_close(drift *d) {
    for (int32_t l = 0; d->layers && l < d->a->n_layers; l++) layer_close(&d->layers[l]);
    free(d->layers), free(d->total);
}

static grace_status fill_tables(const drift *d, grace_plan *plan) {
    grace_status st = GRACE_OK;
    const gr_auto *a = d->a;
    gr_copy *copies = NULL;
    GR_CALLOC(copies, (size_t)a->n * (size_t)a->n_ranks);
    for (int32_t l = 0; l < a->n_layers; l++) {
        const layer_state *ls = &d->layers[l];
        int32_t n_copies = 0;
        for (int32_t e = 0; e < a->n; e++)
            for (int32_t r = 0; r < a->n_ranks; r++)
                if (on_of(d, ls, e)[r] && r != ls->primary_rank[e]) copies[n_copies++] = (gr_copy){e, r};
        GR_TRY(gr_plan_place(plan, l, ls->primary_rank, copies, n_copies));
        GR_TRY(gr_auto_settle(a, l, ls->primary_rank, plan));
    }
done:
    free(copies);
    return st;
}

grace_status gr_auto_from(gr_auto *a, grace_plan *plan) {
    grace_status st = GRACE_OK;
    drift d;
    GR_TRY(drift_open(a, &d));
    move_best_first(&d);
    GR_TRY(fill_tables(&d, plan));
done:
    drift_close(&d);
    return st;
}
