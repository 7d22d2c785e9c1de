#include <math.h>
#include <string.h>

#include "base/memory.h"
#include "plan/refine.h"

static const double OVER_UNIT = 1e6;    /* score of an item over count_most: it never stays */
enum { MERGED_MAX = 64 };       /* choices of a token that fit the mask by which equal edges are found */

/* ---- edges: what each bundle fetches from this node, homes with the same needs together ---- */

typedef struct builder { const gr_nodes *nodes; int32_t node, *item_of; gr_parts *s; int32_t edges_most, pins_most, n_pins; } builder;

/* Does the node serve the expert for tokens of this home? */
static bool serves(const gr_nodes *nodes, int32_t node, int32_t expert, int32_t home) {
    int32_t fetch = nodes->fetch[expert * nodes->n_nodes + home];
    return home == node ? fetch < 0 : fetch == node;
}

static uint64_t needs(const builder *b, const uint16_t *set, int32_t home) {
    uint64_t mask = 0;
    for (int32_t j = 0; j < b->nodes->top_k && j < MERGED_MAX; j++) mask |= (uint64_t)serves(b->nodes, b->node, set[j], home) << j;
    return mask;
}

static void add_edge(builder *b, const uint16_t *set, int32_t home, int64_t count) {
    gr_parts *s = b->s;
    int32_t begin = b->n_pins;
    for (int32_t j = 0; j < b->nodes->top_k; j++)
        if (serves(b->nodes, b->node, set[j], home)) s->edge_item[b->n_pins++] = b->item_of[set[j]];
    if (b->n_pins - begin < 2) {        /* one expert touches one GPU wherever it is */
        b->n_pins = begin;
        return;
    }
    s->count[s->n_edges++] = count;
    s->edge_first[s->n_edges] = b->n_pins;
}

/* A home whose needs another home before it had is counted there. */
static void add_bundle(builder *b, int32_t index) {
    const gr_nodes *nodes = b->nodes;
    const uint16_t *set = nodes->bundles->experts + (size_t)index * (size_t)nodes->top_k;
    uint64_t mask[GRACE_RANKS_MAX];
    bool merges = nodes->top_k <= MERGED_MAX;
    for (int32_t home = 0; home < nodes->n_nodes; home++) mask[home] = needs(b, set, home);
    for (int32_t home = 0; home < nodes->n_nodes; home++) {
        int64_t alike = 0, earlier = 0;
        for (int32_t other = 0; other < nodes->n_nodes; other++)
            if (other == home || (merges && mask[other] == mask[home])) alike++, earlier += other < home;
        if (earlier == 0) add_edge(b, set, home, nodes->bundles->count[index] * alike);
    }
}

static grace_status list_edges(builder *b, bool with_edges) {
    grace_status st = GRACE_OK;
    gr_parts *s = b->s;
    int32_t n_bundles = with_edges ? b->nodes->n_bundles : 0;
    size_t edges_most = (size_t)n_bundles * (size_t)b->nodes->n_nodes;
    GR_CALLOC(s->count, edges_most);
    GR_CALLOC(s->edge_first, edges_most + 1);
    GR_CALLOC(s->edge_item, edges_most * (size_t)b->nodes->top_k);
    for (int32_t i = 0; i < n_bundles; i++) add_bundle(b, i);
    GR_CALLOC(s->item_first, (size_t)s->n + 2);
    GR_CALLOC(s->item_edge, b->n_pins);
    for (int32_t i = 0; i < b->n_pins; i++) s->item_first[s->edge_item[i] + 2]++;
    for (int32_t i = 0; i < s->n; i++) s->item_first[i + 2] += s->item_first[i + 1];
    for (int32_t edge = 0; edge < s->n_edges; edge++)
        for (int32_t i = s->edge_first[edge]; i < s->edge_first[edge + 1]; i++) s->item_edge[s->item_first[s->edge_item[i] + 1]++] = edge;
done:
    return st;
}

/* ---- items ---- */

static grace_status list_items(builder *b) {
    grace_status st = GRACE_OK;
    const gr_nodes *nodes = b->nodes;
    gr_parts *s = b->s;
    GR_CALLOC(s->expert, nodes->n);
    GR_CALLOC(s->load, nodes->n);
    for (int32_t e = 0; e < nodes->n; e++) {
        if (!gr_nodes_hosts(nodes, e, b->node)) continue;
        b->item_of[e] = s->n;
        s->expert[s->n] = e;
        s->load[s->n++] = gr_nodes_load(nodes, e, b->node);
    }
done:
    return st;
}

static int32_t heaviest_left(const gr_parts *s) {
    int32_t best = -1;
    for (int32_t i = 0; i < s->n; i++)
        if (s->part[i] < 0 && (best < 0 || s->load[i] > s->load[best])) best = i;
    return best;
}

static bool is_full(const gr_parts *s, int32_t part) { return s->count_most > 0 && s->part_count[part] >= s->count_most; }

static void deal_by_load(gr_parts *s) {
    for (int32_t i = 0; i < s->n; i++) s->part[i] = -1;
    for (int32_t item; (item = heaviest_left(s)) >= 0;) {
        int32_t best = -1;
        for (int32_t p = 0; p < s->n_parts; p++)
            if (!is_full(s, p) && (best < 0 || s->part_load[p] < s->part_load[best])) best = p;
        GR_ASSERT(best >= 0);
        s->part[item] = best;
        s->part_load[best] += s->load[item];
        s->part_count[best]++;
    }
}

static void count_edges(gr_parts *s) {
    for (int32_t edge = 0; edge < s->n_edges; edge++) {
        uint16_t *pins = s->pins + (size_t)edge * s->n_parts;
        for (int32_t i = s->edge_first[edge]; i < s->edge_first[edge + 1]; i++) pins[s->part[s->edge_item[i]]]++;
        for (int32_t i = s->edge_first[edge]; i < s->edge_first[edge + 1]; i++) {
            int32_t item = s->edge_item[i];
            if (pins[s->part[item]] == 1) s->sole[item] += s->count[edge];
            for (int32_t p = 0; p < s->n_parts; p++)
                if (pins[p] == 0) s->empty[(size_t)item * s->n_parts + p] += s->count[edge];
        }
        for (int32_t p = 0; p < s->n_parts; p++)
            if (pins[p] > 0) s->cost += s->count[edge];
    }
}

grace_status gr_parts_open(const gr_nodes *nodes, int32_t node, bool with_edges, int32_t count_most, gr_parts *out) {
    grace_status st = GRACE_OK;
    gr_parts s = {.n_parts = nodes->n_gpus / nodes->n_nodes, .load_unit = 1, .count_most = count_most};
    builder b = {.nodes = nodes, .node = node, .s = &s};
    GR_CALLOC(b.item_of, nodes->n);
    GR_TRY(list_items(&b));
    GR_TRY(list_edges(&b, with_edges));
    GR_CALLOC(s.part, s.n);
    GR_CALLOC(s.part_load, s.n_parts);
    GR_CALLOC(s.part_count, s.n_parts);
    GR_CALLOC(s.pins, (size_t)s.n_edges * (size_t)s.n_parts);
    GR_CALLOC(s.sole, s.n);
    GR_CALLOC(s.empty, (size_t)s.n * (size_t)s.n_parts);
    GR_CALLOC(s.locked, s.n);
    GR_CALLOC(s.done, s.n);
    GR_CALLOC(s.before, s.n);
    deal_by_load(&s);
    count_edges(&s);
    *out = s;
    memset(&s, 0, sizeof s);
done:
    free(b.item_of);
    gr_parts_close(&s);
    return st;
}

void gr_parts_close(gr_parts *s) {
    free(s->expert), free(s->load), free(s->edge_first), free(s->edge_item), free(s->item_first), free(s->item_edge), free(s->count), free(s->part);
    free(s->pins), free(s->sole), free(s->empty), free(s->part_load), free(s->part_count), free(s->locked), free(s->done), free(s->before);
    memset(s, 0, sizeof *s);
}

/* ---- moves ---- */

static void add_empty(gr_parts *s, int32_t edge, int32_t part, int64_t count) {
    for (int32_t i = s->edge_first[edge]; i < s->edge_first[edge + 1]; i++) s->empty[(size_t)s->edge_item[i] * s->n_parts + part] += count;
}

/* The item in flux has no part (-1) meanwhile. */
static void add_to_sole(gr_parts *s, int32_t edge, int32_t part, int64_t count) {
    for (int32_t i = s->edge_first[edge]; i < s->edge_first[edge + 1]; i++)
        if (s->part[s->edge_item[i]] == part) s->sole[s->edge_item[i]] += count;
}

static void leave(gr_parts *s, int32_t edge, int32_t part, int32_t item) {
    int32_t left = --s->pins[(size_t)edge * s->n_parts + part];
    if (left == 1) add_to_sole(s, edge, part, s->count[edge]);
    if (left > 0) return;
    s->cost -= s->count[edge];
    s->sole[item] -= s->count[edge];
    add_empty(s, edge, part, s->count[edge]);
}

static void join(gr_parts *s, int32_t edge, int32_t part, int32_t item) {
    int32_t before = s->pins[(size_t)edge * s->n_parts + part]++;
    if (before == 1) add_to_sole(s, edge, part, -s->count[edge]);
    if (before > 0) return;
    s->cost += s->count[edge];
    s->sole[item] += s->count[edge];
    add_empty(s, edge, part, -s->count[edge]);
}

void gr_parts_move(gr_parts *s, int32_t item, int32_t part) {
    int32_t from = s->part[item];
    if (from == part) return;
    s->part[item] = -1;
    for (int32_t i = s->item_first[item]; i < s->item_first[item + 1]; i++) {
        leave(s, s->item_edge[i], from, item);
        join(s, s->item_edge[i], part, item);
    }
    s->part[item] = part;
    s->part_load[from] -= s->load[item];
    s->part_load[part] += s->load[item];
    s->part_count[from]--, s->part_count[part]++;
}

/* ---- a pass ---- */

static int32_t count_over(const gr_parts *s, int32_t n, int32_t slack) {
    return s->count_most > 0 && n > s->count_most + slack ? n - s->count_most - slack : 0;
}

/* Items too many after a move less those before. slack: one more on the way, so that items can change places. */
static int32_t more_over(const gr_parts *s, int32_t from, int32_t part, int32_t slack) {
    return count_over(s, s->part_count[part] + 1, slack) - count_over(s, s->part_count[part], slack) + count_over(s, s->part_count[from] - 1, slack) -
           count_over(s, s->part_count[from], slack);
}

static double change_of(const gr_parts *s, int32_t item, int32_t part, double slack) {
    int32_t from = s->part[item];
    double cap = s->cap + slack, load = s->load[item], a = s->part_load[from], b = s->part_load[part];
    double excess = fmax(0, a - load - cap) + fmax(0, b + load - cap) - fmax(0, a - cap) - fmax(0, b - cap);
    double moved = s->load_unit * excess - s->count_unit * (double)(s->sole[item] - s->empty[(size_t)item * s->n_parts + part]);
    return moved + OVER_UNIT * more_over(s, from, part, slack > 0);
}

/* The best move of an item that is not locked; false: none is left. */
static bool choose(const gr_parts *s, double slack, int32_t *item, int32_t *part) {
    double best = INFINITY;
    for (int32_t i = 0; i < s->n; i++)
        for (int32_t p = 0; p < s->n_parts && !s->locked[i]; p++) {
            double change = p == s->part[i] ? INFINITY : change_of(s, i, p, slack);
            if (change < best) best = change, *item = i, *part = p;
        }
    return best < INFINITY;
}

double gr_parts_pass(gr_parts *s) {
    int32_t n_done = 0, n_best = 0, item = 0, part = 0;
    double score = 0, best = 0, slack = 0;
    for (int32_t i = 0; i < s->n; i++) slack = fmax(slack, s->load[i]);
    memset(s->locked, 0, (size_t)s->n);
    while (choose(s, slack, &item, &part)) {
        score += change_of(s, item, part, 0);
        s->done[n_done] = item, s->before[n_done++] = s->part[item];
        gr_parts_move(s, item, part);
        s->locked[item] = 1;
        if (score < best - 1e-9) best = score, n_best = n_done;
    }
    for (; n_done > n_best; n_done--) gr_parts_move(s, s->done[n_done - 1], s->before[n_done - 1]);
    return -best;
}

bool gr_parts_swap(gr_parts *s) {
    double best = -1e-6;
    int32_t a = -1, b = -1;
    for (int32_t i = 0; i < s->n; i++)
        for (int32_t j = 0; j < s->n; j++) {
            double x = s->part_load[s->part[i]], y = s->part_load[s->part[j]], d = s->load[i] - s->load[j];
            if (s->part[i] == s->part[j] || x <= s->cap) continue;
            double change = fmax(0, x - d - s->cap) + fmax(0, y + d - s->cap) - (x - s->cap) - fmax(0, y - s->cap);
            if (change < best) best = change, a = i, b = j;
        }
    if (a < 0) return false;
    int32_t part = s->part[a];
    gr_parts_move(s, a, s->part[b]);
    gr_parts_move(s, b, part);
    return true;
}
