#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "plan/refine.h"

/* ---- state ---- */

static const uint16_t *set_of(const gr_nodes *s, int32_t b) { return s->bundles->experts + (size_t)b * (size_t)s->top_k; }
static int64_t *empty_of(const gr_nodes *s, int32_t expert, int32_t home) { return s->empty + ((size_t)expert * s->n_nodes + home) * s->n_nodes; }
static uint16_t *pins_of(const gr_nodes *s, int32_t b, int32_t home) { return s->pins + ((size_t)b * s->n_nodes + home) * s->n_nodes; }

/* The expert that is alone in being fetched from the node, the one in flux aside. */
static int32_t find_sole(const gr_nodes *s, int32_t b, int32_t home, int32_t node, int32_t in_flux) {
    const uint16_t *set = set_of(s, b);
    for (int32_t j = 0; j < s->top_k; j++)
        if (set[j] != in_flux && s->fetch[set[j] * s->n_nodes + home] == node) return set[j];
    gr_assert_failed(__FILE__, __LINE__, "a pin without its expert");
}

static void add_empty(gr_nodes *s, int32_t b, int32_t home, int32_t node, int64_t count) {
    const uint16_t *set = set_of(s, b);
    for (int32_t j = 0; j < s->top_k; j++) empty_of(s, set[j], home)[node] += count;
}

static void leave(gr_nodes *s, int32_t b, int32_t home, int32_t node, int32_t expert) {
    int64_t count = s->bundles->count[b], *sole = s->sole + home;
    int32_t left = --pins_of(s, b, home)[node];
    if (left > 1) return;
    if (left == 1) {
        sole[(size_t)find_sole(s, b, home, node, expert) * s->n_nodes] += count;
        return;
    }
    s->cost -= count;
    sole[(size_t)expert * s->n_nodes] -= count;
    add_empty(s, b, home, node, count);
}

static void join(gr_nodes *s, int32_t b, int32_t home, int32_t node, int32_t expert) {
    int64_t count = s->bundles->count[b], *sole = s->sole + home;
    int32_t before = pins_of(s, b, home)[node]++;
    if (before > 1) return;
    if (before == 1) {
        sole[(size_t)find_sole(s, b, home, node, expert) * s->n_nodes] -= count;
        return;
    }
    s->cost += count;
    sole[(size_t)expert * s->n_nodes] += count;
    add_empty(s, b, home, node, -count);
}

/* Tokens of each home get the expert there from now on; -1: at home. to [N]. Bundle by bundle, whose pins lie together. */
static void set_fetch(gr_nodes *s, int32_t expert, const int16_t *to) {
    int16_t *fetch = &s->fetch[expert * s->n_nodes];
    for (int32_t i = s->first[expert]; i < s->first[expert + 1]; i++)
        for (int32_t home = 0; home < s->n_nodes; home++) {
            if (fetch[home] == to[home]) continue;
            if (fetch[home] >= 0) leave(s, s->bundle[i], home, fetch[home], expert);
            if (to[home] >= 0) join(s, s->bundle[i], home, to[home], expert);
        }
    memcpy(fetch, to, (size_t)s->n_nodes * sizeof *fetch);
}

double gr_nodes_load(const gr_nodes *s, int32_t expert, int32_t node) {
    double share = s->load[expert] / s->n_nodes;
    return (gr_nodes_hosts(s, expert, node) ? share : 0) + (s->primary[expert] == node ? share * (s->n_nodes - s->n_hosts[expert]) : 0);
}

static void count_loads(gr_nodes *s) {
    memset(s->node_load, 0, (size_t)s->n_nodes * sizeof *s->node_load);
    memset(s->node_slots, 0, (size_t)s->n_nodes * sizeof *s->node_slots);
    for (int32_t e = 0; e < s->n; e++)
        for (int32_t node = 0; node < s->n_nodes; node++) {
            s->node_load[node] += gr_nodes_load(s, e, node);
            s->node_slots[node] += gr_nodes_hosts(s, e, node);
        }
}

static grace_status list_bundles(gr_nodes *s) {
    grace_status st = GRACE_OK;
    int32_t n_pairs = s->n_bundles * s->top_k;
    const uint16_t *experts = s->bundles->experts;
    GR_CALLOC(s->first, (size_t)s->n + 2);
    GR_CALLOC(s->bundle, n_pairs);
    for (int32_t i = 0; i < n_pairs; i++) s->first[experts[i] + 2]++;
    for (int32_t e = 0; e < s->n; e++) s->first[e + 2] += s->first[e + 1];
    for (int32_t i = 0; i < n_pairs; i++) s->bundle[s->first[experts[i] + 1]++] = i / s->top_k;
done:
    return st;
}

/* All primaries on node 0, so that node 0 visits nobody and everyone else node 0, for whatever a bundle holds. */
static void start_on_node_0(gr_nodes *s) {
    for (int32_t e = 0; e < s->n; e++) {
        s->n_hosts[e] = 1;
        s->fetch[e * s->n_nodes] = -1;
    }
    s->n_slots = s->n;
    for (int32_t b = 0; b < s->n_bundles; b++) {
        const uint16_t *set = set_of(s, b);
        int64_t count = s->bundles->count[b];
        for (int32_t home = 0; home < s->n_nodes; home++) {
            if (home > 0) pins_of(s, b, home)[0] = (uint16_t)s->top_k;
            if (home > 0) s->cost += count;
            if (home > 0 && s->top_k == 1) s->sole[set[0] * s->n_nodes + home] += count;
            for (int32_t node = home > 0; node < s->n_nodes; node++) add_empty(s, b, home, node, count);
        }
    }
}

grace_status gr_nodes_open(const gr_bundle_layer *bundles, int32_t top_k, const double *load, int32_t n, grace_cluster cluster, gr_nodes *out) {
    grace_status st = GRACE_OK;
    size_t nodes = (size_t)cluster.n_nodes, pairs = (size_t)n * nodes;
    gr_nodes s = {.n = n, .n_nodes = cluster.n_nodes, .n_gpus = grace_cluster_ranks(cluster), .top_k = top_k, .n_bundles = bundles->n,
                  .bundles = bundles, .load = load, .bound = 1.1, .gpu_bound = 1.1, .price = -1};
    for (int32_t e = 0; e < n; e++) s.total_load += load[e], s.most_load = fmax(s.most_load, load[e]);
    GR_TRY(list_bundles(&s));
    GR_CALLOC(s.fetch, pairs);
    GR_CALLOC(s.primary, n);
    GR_CALLOC(s.n_hosts, n);
    GR_CALLOC(s.pins, (size_t)s.n_bundles * nodes * nodes);
    GR_CALLOC(s.sole, pairs);
    GR_CALLOC(s.empty, pairs * nodes);
    GR_CALLOC(s.node_load, nodes);
    GR_CALLOC(s.node_slots, nodes);
    GR_CALLOC(s.locked, pairs);
    GR_CALLOC(s.done, pairs);
    start_on_node_0(&s);
    count_loads(&s);
    *out = s;
    return st;
done:
    gr_nodes_close(&s);
    return st;
}

void gr_nodes_close(gr_nodes *s) {
    free(s->first), free(s->bundle), free(s->fetch), free(s->primary), free(s->n_hosts), free(s->pins), free(s->sole), free(s->empty);
    free(s->node_load), free(s->node_slots), free(s->locked), free(s->done);
    memset(s, 0, sizeof *s);
}

/* ---- operations ---- */

/* Where tokens of a home get the expert once op is done. */
static int32_t fetch_after(const gr_nodes *s, gr_node_op op, int32_t home) {
    bool hosted = (gr_nodes_hosts(s, op.expert, home) && home != op.drop) || home == op.add;
    return hosted ? -1 : op.primary;
}

int64_t gr_nodes_gain(const gr_nodes *s, gr_node_op op) {
    int64_t gain = 0;
    for (int32_t home = 0; home < s->n_nodes; home++) {
        int32_t from = s->fetch[op.expert * s->n_nodes + home], to = fetch_after(s, op, home);
        if (from == to) continue;
        if (from >= 0) gain += s->sole[op.expert * s->n_nodes + home];
        if (to >= 0) gain -= empty_of(s, op.expert, home)[to];
    }
    return gain;
}

static int32_t more_copies(gr_node_op op) { return (op.add >= 0) - (op.drop >= 0); }

void gr_nodes_apply(gr_nodes *s, gr_node_op op) {
    int32_t e = op.expert;
    int16_t to[GRACE_RANKS_MAX];
    for (int32_t node = 0; node < s->n_nodes; node++) s->node_load[node] -= gr_nodes_load(s, e, node);
    for (int32_t home = 0; home < s->n_nodes; home++) to[home] = (int16_t)fetch_after(s, op, home);
    set_fetch(s, e, to);
    s->primary[e] = op.primary;
    s->n_hosts[e] = (int16_t)(s->n_hosts[e] + more_copies(op));
    s->n_slots += more_copies(op);
    if (op.add >= 0) s->node_slots[op.add]++;
    if (op.drop >= 0) s->node_slots[op.drop]--;
    for (int32_t node = 0; node < s->n_nodes; node++) s->node_load[node] += gr_nodes_load(s, e, node);
}

void gr_nodes_group(gr_nodes *s, const int32_t *node_of) {
    int16_t to[GRACE_RANKS_MAX];
    for (int32_t e = 0; e < s->n; e++) {
        for (int32_t home = 0; home < s->n_nodes; home++) to[home] = (int16_t)(home == node_of[e] ? -1 : node_of[e]);
        set_fetch(s, e, to);
        s->primary[e] = (int16_t)node_of[e], s->n_hosts[e] = 1;
    }
    s->n_slots = s->n;
    count_loads(s);
}

double gr_nodes_rows(const gr_nodes *s) {
    return s->bundles->n_tokens > 0 ? (double)s->cost / s->n_nodes / (double)s->bundles->n_tokens : 0;
}

double gr_nodes_rows_of(const gr_nodes *s, int32_t home) {
    int64_t cost = 0;
    for (int32_t b = 0; b < s->n_bundles; b++)
        for (int32_t node = 0; node < s->n_nodes; node++) cost += pins_of(s, b, home)[node] > 0 ? s->bundles->count[b] : 0;
    return s->bundles->n_tokens > 0 ? (double)cost / s->n_nodes / (double)s->bundles->n_tokens : 0;
}

void gr_nodes_restore(gr_nodes *s, const int16_t *fetch, const int16_t *primary) {
    s->n_slots = 0;
    for (int32_t e = 0; e < s->n; e++) {
        s->n_hosts[e] = 0;
        s->primary[e] = primary[e];
        if (memcmp(s->fetch + e * s->n_nodes, fetch + e * s->n_nodes, (size_t)s->n_nodes * sizeof *fetch) != 0) set_fetch(s, e, fetch + e * s->n_nodes);
        for (int32_t home = 0; home < s->n_nodes; home++) s->n_hosts[e] = (int16_t)(s->n_hosts[e] + (fetch[e * s->n_nodes + home] < 0));
        s->n_slots += s->n_hosts[e];
    }
    count_loads(s);
}

/* ---- score ---- */

static double over(double load, double cap) { return load > cap ? load - cap : 0; }

/* Rows a token that a pair over a bound costs. Moving a share x of a node's load saves at most x * top_k rows, so that twice that much is never
 * worth it. */
static double pair_unit(const gr_nodes *s) { return s->total_load > 0 ? 2.0 * s->top_k * s->n_nodes / s->total_load : 0; }

static const double SLOT_UNIT = 4;      /* rows a token that a slot over slots_most costs: more than it can save */

static double node_cap(const gr_nodes *s) { return s->bound * s->total_load / s->n_nodes; }
static double expert_cap(const gr_nodes *s) { return s->gpu_bound * s->total_load / s->n_gpus; }     /* more than a GPU should have at all */

static int32_t slots_over(const gr_nodes *s, int32_t n, int32_t slack) {
    return s->slots_most > 0 && n > s->slots_most + slack ? n - s->slots_most - slack : 0;
}

/* Slots too many after an operation less those before. slack: one more on the way, so that experts can change places. */
static int32_t more_slots_over(const gr_nodes *s, gr_node_op op, int32_t slack) {
    int32_t change = 0;
    if (op.add >= 0) change += slots_over(s, s->node_slots[op.add] + 1, slack) - slots_over(s, s->node_slots[op.add], slack);
    if (op.drop >= 0) change += slots_over(s, s->node_slots[op.drop] - 1, slack) - slots_over(s, s->node_slots[op.drop], slack);
    return change;
}

double gr_nodes_score(const gr_nodes *s) {
    double pairs = 0;
    int32_t slots = 0;
    for (int32_t node = 0; node < s->n_nodes; node++) {
        pairs += over(s->node_load[node], node_cap(s)), slots += slots_over(s, s->node_slots[node], 0);
        for (int32_t e = 0; e < s->n; e++) pairs += over(gr_nodes_load(s, e, node), expert_cap(s));
    }
    return gr_nodes_rows(s) + fmax(0, s->price) * (s->n_slots - s->n) + pairs * pair_unit(s) + SLOT_UNIT * slots;
}

/* What an operation adds to the penalties for loads over the bounds. slack: pairs a node may have beyond its bound. */
static double penalty_change(const gr_nodes *s, gr_node_op op, double slack) {
    double share = s->load[op.expert] / s->n_nodes, cap = node_cap(s) + slack, hot = expert_cap(s), change = 0;
    int32_t elsewhere = s->n_nodes - s->n_hosts[op.expert], elsewhere_after = elsewhere - more_copies(op), primary = s->primary[op.expert];
    for (int32_t node = 0; node < s->n_nodes; node++) {
        double before = (gr_nodes_hosts(s, op.expert, node) ? share : 0) + (node == primary ? share * elsewhere : 0);
        double after = (fetch_after(s, op, node) < 0 ? share : 0) + (node == op.primary ? share * elsewhere_after : 0), load = s->node_load[node];
        if (before != after) change += over(load - before + after, cap) - over(load, cap) + over(after, hot) - over(before, hot);
    }
    return change * pair_unit(s) + SLOT_UNIT * more_slots_over(s, op, slack > 0);
}

static double rows_saved(const gr_nodes *s, gr_node_op op) {
    return s->bundles->n_tokens > 0 ? (double)gr_nodes_gain(s, op) / s->n_nodes / (double)s->bundles->n_tokens : 0;
}

double gr_nodes_change(const gr_nodes *s, gr_node_op op, double slack) {
    double price = s->price < 0 ? 0 : s->price;
    return penalty_change(s, op, slack) - rows_saved(s, op) + price * more_copies(op);
}

/* ---- a pass ---- */

typedef struct choice { const gr_nodes *s; double slack, best; gr_node_op op; bool found; } choice;

static bool locked(const gr_nodes *s, int32_t expert, int32_t node) { return s->locked[expert * s->n_nodes + node]; }

static void consider(choice *c, gr_node_op op) {
    const gr_nodes *s = c->s;
    if (op.add >= 0 && locked(s, op.expert, op.add)) return;
    if (op.drop >= 0 && locked(s, op.expert, op.drop)) return;
    if (op.add < 0 && op.drop < 0 && locked(s, op.expert, op.primary)) return;
    if (s->price < 0 && more_copies(op) > 0) return;
    double change = gr_nodes_change(s, op, c->slack);
    if (c->found && change >= c->best) return;
    c->best = change, c->op = op, c->found = true;
}

/* Everything that can happen to an expert in one step and has to do with node q. */
static void consider_node(choice *c, int16_t expert, int16_t q) {
    const gr_nodes *s = c->s;
    int16_t p = s->primary[expert];
    if (q == p) return;
    if (!gr_nodes_hosts(s, expert, q)) {
        consider(c, (gr_node_op){expert, q, p, q});                 /* the primary moves */
        consider(c, (gr_node_op){expert, q, -1, p});                /* a copy more */
        return;
    }
    consider(c, (gr_node_op){expert, -1, q, p});                    /* a copy less */
    consider(c, (gr_node_op){expert, -1, p, q});                    /* the primary goes, the copy takes its place */
    consider(c, (gr_node_op){expert, -1, -1, q});                   /* they change places */
    for (int16_t to = 0; to < s->n_nodes; to++)
        if (!gr_nodes_hosts(s, expert, to)) consider(c, (gr_node_op){expert, to, q, p});
}

static void lock(gr_nodes *s, gr_node_op op) {
    uint8_t *row = s->locked + (size_t)op.expert * s->n_nodes;
    if (op.add >= 0) row[op.add] = 1;
    if (op.drop >= 0) row[op.drop] = 1;
    if (op.add < 0 && op.drop < 0) row[op.primary] = 1;
}

static void undo(gr_nodes *s, gr_node_op done) { gr_nodes_apply(s, (gr_node_op){done.expert, done.drop, done.add, done.primary}); }

double gr_nodes_pass(gr_nodes *s, double slack) {
    int32_t n_done = 0, n_best = 0, n_most = s->n * s->n_nodes;
    int32_t patience = s->n_nodes > 2 ? s->n / 2 : s->n;        /* of two nodes: long enough to walk through all experts, to a copy of each */
    double score = 0, best = 0;
    memset(s->locked, 0, (size_t)n_most);
    while (n_done < n_most) {
        choice c = {.s = s, .slack = slack};
        for (int32_t e = 0; e < s->n; e++)
            for (int32_t q = 0; q < s->n_nodes; q++) consider_node(&c, (int16_t)e, (int16_t)q);
        if (!c.found) break;
        score += gr_nodes_change(s, c.op, 0);
        s->done[n_done] = (gr_node_op){c.op.expert, c.op.add, c.op.drop, s->primary[c.op.expert]};      /* the primary to go back to */
        gr_nodes_apply(s, c.op);
        lock(s, c.op);
        n_done++;
        if (score < best - 1e-9) best = score, n_best = n_done;
        if (n_done - n_best > patience) break;
    }
    while (n_done > n_best) undo(s, s->done[--n_done]);
    return -best;
}

/* ---- copies one by one ---- */

bool gr_nodes_best_copy(const gr_nodes *s, gr_node_op *op, double *saved) {
    bool found = false;
    for (int32_t e = 0; e < s->n; e++)
        for (int32_t q = 0; q < s->n_nodes; q++) {
            gr_node_op more = {(int16_t)e, (int16_t)q, -1, s->primary[e]};
            if (gr_nodes_hosts(s, e, q)) continue;
            double gain = rows_saved(s, more) - penalty_change(s, more, 0);
            if (!found || gain > *saved) *saved = gain, *op = more, found = true;
        }
    return found;
}

bool gr_nodes_worst_copy(const gr_nodes *s, gr_node_op *op, double *saved) {
    bool found = false;
    for (int32_t e = 0; e < s->n; e++)
        for (int32_t q = 0; q < s->n_nodes; q++) {
            if (!gr_nodes_hosts(s, e, q) || s->n_hosts[e] < 2) continue;
            for (int32_t p = 0; p < s->n_nodes; p++) {
                gr_node_op less = {(int16_t)e, -1, (int16_t)q, (int16_t)p};
                if (p == q || !gr_nodes_hosts(s, e, p) || (q != s->primary[e] && p != s->primary[e])) continue;
                double loss = penalty_change(s, less, 0) - rows_saved(s, less);
                if (!found || loss < *saved) *saved = loss, *op = less, found = true;
            }
        }
    return found;
}

/* What leaves a node with the least loss: a copy, or whatever another node with room takes in. */
static gr_node_op easiest_to_leave(const gr_nodes *s, int16_t node) {
    gr_node_op best = {-1, -1, -1, -1};
    double least = INFINITY;
    for (int16_t e = 0; e < s->n; e++)
        for (int16_t to = 0; to < s->n_nodes && gr_nodes_hosts(s, e, node); to++) {
            bool hosted = gr_nodes_hosts(s, e, to);
            gr_node_op op = {e, (int16_t)(hosted ? -1 : to), node, (int16_t)(s->primary[e] == node ? to : s->primary[e])};
            if (to == node || (!hosted && s->node_slots[to] >= s->slots_most)) continue;
            double loss = gr_nodes_change(s, op, 0);
            if (loss < least) least = loss, best = op;
        }
    return best;
}

void gr_nodes_fit(gr_nodes *s) {
    for (int32_t node = 0; node < s->n_nodes; node++)
        while (s->slots_most > 0 && s->node_slots[node] > s->slots_most) {
            gr_node_op op = easiest_to_leave(s, node);
            GR_ASSERT(op.expert >= 0);
            gr_nodes_apply(s, op);
        }
}

void gr_nodes_fill(gr_nodes *s, int32_t least) {
    for (int32_t node = 0; node < s->n_nodes; node++)
        while (s->node_slots[node] < least && s->node_slots[node] < s->n) {
            gr_node_op best = {-1, (int16_t)node, -1, -1};
            double cheapest = INFINITY;
            for (int32_t e = 0; e < s->n; e++) {
                gr_node_op op = {(int16_t)e, (int16_t)node, -1, s->primary[e]};
                double change = gr_nodes_hosts(s, e, node) ? INFINITY : gr_nodes_change(s, op, 0);
                if (change < cheapest) cheapest = change, best = op;
            }
            gr_nodes_apply(s, best);
        }
}
