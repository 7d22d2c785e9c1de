#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "plan/refine.h"
#include "plan/trace_cases.h"

/* One layer of a random trace, its loads, and a state of nodes. */
typedef struct world { grace_trace *trace; grace_bundles *bundles; grace_profile *profile; grace_cluster cluster; gr_nodes nodes; } world;

static world world_open(gr_rng *rng, uint64_t seed) {
    world w = {.cluster = {between(rng, 1, 4), between(rng, 1, 3)}};
    trace_case c = {1, between(rng, 12, 16), between(rng, 1, 4), 2, 60, 2, 0.4};
    w.trace = make_trace(rng, &c);
    claim(grace_bundles_build(w.trace, NULL, false, GRACE_BUNDLES_DEFAULT, &w.bundles) == GRACE_OK, seed);
    claim(grace_profile_build(w.trace, NULL, &w.profile) == GRACE_OK, seed);
    claim(gr_nodes_open(&w.bundles->layers[0], c.top_k, w.profile->load, c.n_experts, w.cluster, &w.nodes) == GRACE_OK, seed);
    return w;
}

static void world_close(world *w) {
    gr_nodes_close(&w->nodes);
    grace_bundles_free(w->bundles);
    grace_profile_free(w->profile);
    grace_trace_close(w->trace);
}

/* An operation that is possible now. */
static gr_node_op random_op(gr_rng *rng, const gr_nodes *s) {
    for (;;) {
        int16_t e = (int16_t)between(rng, 0, s->n - 1), q = (int16_t)between(rng, 0, s->n_nodes - 1), p = s->primary[e];
        if (!gr_nodes_hosts(s, e, q)) return gr_rng_below(rng, 2) ? (gr_node_op){e, q, -1, p} : (gr_node_op){e, q, p, q};
        if (q != p) return gr_rng_below(rng, 2) ? (gr_node_op){e, -1, q, p} : gr_rng_below(rng, 2) ? (gr_node_op){e, -1, p, q} : (gr_node_op){e, -1, -1, q};
        if (s->n_nodes == 1) return (gr_node_op){e, -1, -1, p};
    }
}

/* Tokens x homes x remote nodes, counted from who hosts what. */
static int64_t count_cost(const gr_nodes *s) {
    int64_t cost = 0;
    for (int32_t b = 0; b < s->n_bundles; b++)
        for (int32_t home = 0; home < s->n_nodes; home++)
            for (int32_t node = 0; node < s->n_nodes; node++) {
                bool visited = false;
                for (int32_t j = 0; j < s->top_k; j++) {
                    int32_t e = s->bundles->experts[b * s->top_k + j];
                    visited |= node != home && !gr_nodes_hosts(s, e, home) && s->primary[e] == node;
                }
                cost += visited * s->bundles->count[b];
            }
    return cost;
}

/* A state as text of numbers, without what changes by passes alone. */
static uint64_t digest(const gr_nodes *s) {
    uint64_t h = (uint64_t)s->cost;
    for (int32_t i = 0; i < s->n * s->n_nodes; i++) h = h * 31 + (uint64_t)(s->fetch[i] + 2) + 7 * (uint64_t)s->sole[i];
    for (int32_t i = 0; i < s->n * s->n_nodes * s->n_nodes; i++) h = h * 31 + (uint64_t)s->empty[i];
    for (int32_t e = 0; e < s->n; e++) h = h * 31 + (uint64_t)s->primary[e];
    return h;
}

static void gains_are_the_difference_of_two_counts(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        world w = world_open(&rng, seed);
        gr_nodes *s = &w.nodes;
        claim(s->cost == count_cost(s), seed);
        for (int i = 0; i < 60; i++) {
            gr_node_op op = random_op(&rng, s);
            int64_t before = s->cost, gain = gr_nodes_gain(s, op);
            gr_nodes_apply(s, op);
            claim(s->cost == count_cost(s) && before - s->cost == gain, seed);
        }
        world_close(&w);
    }
}

static void loads_follow_the_hosts(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        world w = world_open(&rng, seed);
        gr_nodes *s = &w.nodes;
        for (int i = 0; i < 40; i++) gr_nodes_apply(s, random_op(&rng, s));
        for (int32_t node = 0; node < s->n_nodes; node++) {
            double load = 0;
            for (int32_t e = 0; e < s->n; e++)
                for (int32_t home = 0; home < s->n_nodes; home++)
                    if ((gr_nodes_hosts(s, e, home) ? home : s->primary[e]) == node) load += s->load[e] / s->n_nodes;
            claim(fabs(load - s->node_load[node]) < 1e-6, seed);
        }
        world_close(&w);
    }
}

static void a_state_can_be_gone_back_to(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        world w = world_open(&rng, seed);
        gr_nodes *s = &w.nodes;
        size_t n = (size_t)(s->n * s->n_nodes);
        int16_t *fetch = calloc(n, sizeof *fetch), *primary = calloc((size_t)s->n, sizeof *primary);
        if (!fetch || !primary) abort();
        for (int i = 0; i < 20; i++) gr_nodes_apply(s, random_op(&rng, s));
        uint64_t before = digest(s);
        int32_t n_slots = s->n_slots;
        memcpy(fetch, s->fetch, n * sizeof *fetch), memcpy(primary, s->primary, (size_t)s->n * sizeof *primary);
        for (int i = 0; i < 20; i++) gr_nodes_apply(s, random_op(&rng, s));
        gr_nodes_restore(s, fetch, primary);
        claim(digest(s) == before && s->n_slots == n_slots, seed);
        free(fetch), free(primary);
        world_close(&w);
    }
}

static double excess(const gr_nodes *s) {
    double sum = 0;
    for (int32_t node = 0; node < s->n_nodes; node++) sum += fmax(0, s->node_load[node] * s->n_nodes / s->total_load - s->bound);
    return sum;
}

/* A pass never ends worse than it began, keeps its books in order and buys no copy without a price. */
static void a_pass_only_improves(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        world w = world_open(&rng, seed);
        gr_nodes *s = &w.nodes;
        for (int i = 0; i < 20; i++) gr_nodes_apply(s, random_op(&rng, s));
        int32_t n_slots = s->n_slots;
        double rows = gr_nodes_rows(s), over = excess(s);
        s->price = -1, s->gpu_bound = 1e9;
        for (int i = 0; i < 4; i++) claim(gr_nodes_pass(s, i % 2 ? s->most_load : 0) >= 0, seed);
        claim(s->cost == count_cost(s) && s->n_slots <= n_slots, seed);
        claim(gr_nodes_rows(s) <= rows + 1e-9 || excess(s) < over, seed);
        world_close(&w);
    }
}

/* A copy for nothing is always worth it: full replication, no rows. */
static void free_copies_end_at_full_replication(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        world w = world_open(&rng, seed);
        w.nodes.price = 0;
        for (int i = 0; i < 12; i++) gr_nodes_pass(&w.nodes, i % 2 ? w.nodes.most_load : 0);
        claim(w.nodes.cost == 0, seed);
        world_close(&w);
    }
}

/* ---- GPUs ---- */

static int64_t count_parts(const gr_parts *p) {
    int64_t cost = 0;
    for (int32_t edge = 0; edge < p->n_edges; edge++)
        for (int32_t part = 0; part < p->n_parts; part++) {
            bool touched = false;
            for (int32_t i = p->edge_first[edge]; i < p->edge_first[edge + 1]; i++) touched |= p->part[p->edge_item[i]] == part;
            cost += touched * p->count[edge];
        }
    return cost;
}

static void parts_keep_exact_books(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        world w = world_open(&rng, seed);
        for (int i = 0; i < 20; i++) gr_nodes_apply(&w.nodes, random_op(&rng, &w.nodes));
        for (int32_t node = 0; node < w.cluster.n_nodes; node++) {
            gr_parts p;
            claim(gr_parts_open(&w.nodes, node, true, 0, &p) == GRACE_OK && p.cost == count_parts(&p), seed);
            for (int i = 0; i < 30 && p.n > 0; i++) {
                int32_t item = between(&rng, 0, p.n - 1), to = between(&rng, 0, p.n_parts - 1), from = p.part[item];
                int64_t before = p.cost, gain = from == to ? 0 : p.sole[item] - p.empty[item * p.n_parts + to];
                gr_parts_move(&p, item, to);
                claim(p.cost == count_parts(&p) && before - p.cost == gain, seed);
            }
            p.cap = 1e18, p.count_unit = 1;
            int64_t before = p.cost;
            double saved = gr_parts_pass(&p);
            claim(p.cost == count_parts(&p) && fabs((double)(before - p.cost) - saved) < 1e-6, seed);
            gr_parts_close(&p);
        }
        world_close(&w);
    }
}

/* The excess over the cap falls with every swap, sizes stay, and at the end no two items could have lowered it. */
static void swaps_lower_what_is_over_the_cap(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 30; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        world w = world_open(&rng, seed);
        gr_parts p;
        claim(gr_parts_open(&w.nodes, 0, true, 0, &p) == GRACE_OK, seed);
        for (int32_t i = 0; i < p.n; i++) gr_parts_move(&p, i, i % p.n_parts);
        p.cap = 1.02 * w.nodes.total_load / p.n_parts;
        double before = INFINITY, over = 0;
        do {
            over = 0;
            for (int32_t part = 0; part < p.n_parts; part++) over += fmax(0, p.part_load[part] - p.cap);
            claim(over < before && p.cost == count_parts(&p), seed);
            before = over;
        } while (gr_parts_swap(&p));
        for (int32_t i = 0; i < p.n; i++)
            for (int32_t j = 0; j < p.n; j++) {
                double x = p.part_load[p.part[i]], y = p.part_load[p.part[j]], d = p.load[i] - p.load[j];
                if (p.part[i] == p.part[j] || x <= p.cap) continue;
                claim(fmax(0, x - d - p.cap) + fmax(0, y + d - p.cap) > x - p.cap + fmax(0, y - p.cap) - 1e-5, seed);
            }
        gr_parts_close(&p);
        world_close(&w);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gains_are_the_difference_of_two_counts),
        cmocka_unit_test(loads_follow_the_hosts),
        cmocka_unit_test(a_state_can_be_gone_back_to),
        cmocka_unit_test(a_pass_only_improves),
        cmocka_unit_test(free_copies_end_at_full_replication),
        cmocka_unit_test(parts_keep_exact_books),
        cmocka_unit_test(swaps_lower_what_is_over_the_cap),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
