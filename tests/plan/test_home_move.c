/* A second choice of homes: plan/home_move.c. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "plan/homes.h"
#include "plan/plan_claims.h"
#include "plan/trace_cases.h"

enum { N_MAX = 9, RANKS_MAX = 6 };

/* Sequences that live on ranks which have as many as any other within one, some of them not among these. */
typedef struct settlement {
    grace_cluster cluster;
    int32_t n, n_ranks, held[RANKS_MAX];
    gr_settled s[N_MAX];
    double rows[N_MAX * RANKS_MAX], moved_rows;
    gr_room room[RANKS_MAX];
} settlement;

static settlement settle(gr_rng *rng, grace_cluster cluster, int32_t pages_max) {
    settlement t = {.cluster = cluster, .n = between(rng, 0, N_MAX), .n_ranks = grace_cluster_ranks(cluster), .moved_rows = gr_rng_uniform(rng)};
    int32_t order[RANKS_MAX], settled_before = between(rng, 0, 9), begin = between(rng, 0, t.n_ranks - 1);
    for (int32_t r = 0; r < t.n_ranks; r++) order[r] = (r + begin) % t.n_ranks;
    for (int32_t i = 0; i < settled_before + t.n; i++) {
        int32_t home = order[i % t.n_ranks];
        t.held[home]++;
        if (i >= settled_before) t.s[i - settled_before] = (gr_settled){home, between(rng, 1, 8), between(rng, 0, 40), between(rng, 1, 3)};
    }
    for (int32_t i = 0; i < t.n; i++)
        for (int32_t node = 0; node < cluster.n_nodes; node++)
            t.rows[i * cluster.n_nodes + node] = t.s[i].n_done * (gr_rng_below(rng, 3) ? gr_rng_uniform(rng) : 0);
    for (int32_t r = 0; r < t.n_ranks; r++) t.room[r] = (gr_room){between(rng, 0, pages_max), between(rng, 0, pages_max)};
    return t;
}

/* Rows that are expected of a sequence, and what taking it along weighs. */
static double weigh(const settlement *t, const int32_t *homes) {
    double sum = 0;
    for (int32_t i = 0; i < t->n; i++) {
        int32_t g = t->cluster.gpus_per_node, node = homes[i] / g;
        sum += t->rows[i * t->cluster.n_nodes + node] * t->s[i].n_left / (t->s[i].n_done + 4);
        if (node != t->s[i].home / g) sum += t->moved_rows * t->s[i].n_done;
    }
    return sum;
}

static bool balanced(const int32_t *held, int32_t n_ranks) {
    int32_t least = held[0], most = held[0];
    for (int32_t r = 1; r < n_ranks; r++) least = held[r] < least ? held[r] : least, most = held[r] > most ? held[r] : most;
    return most - least <= 1;
}

static void recount(const settlement *t, const int32_t *homes, int32_t *held) {
    for (int32_t r = 0; r < t->n_ranks; r++) held[r] = t->held[r];
    for (int32_t i = 0; i < t->n; i++) held[t->s[i].home]--, held[homes[i]]++;
}

/* Over all ranks for all sequences. */
static double best_of_all(const settlement *t) {
    int32_t ways = 1, homes[N_MAX] = {0}, held[RANKS_MAX];
    double best = INFINITY;
    for (int32_t i = 0; i < t->n; i++) ways *= t->n_ranks;
    for (int32_t way = 0; way < ways; way++) {
        for (int32_t i = 0, rest = way; i < t->n; i++, rest /= t->n_ranks) homes[i] = rest % t->n_ranks;
        recount(t, homes, held);
        if (balanced(held, t->n_ranks)) best = fmin(best, weigh(t, homes));
    }
    return best;
}

static void with_room_two_nodes_get_the_best_balanced_homes(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 300; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        settlement t = settle(&rng, (grace_cluster){2, between(&rng, 1, 2)}, 0);
        int32_t homes[N_MAX], held[RANKS_MAX], counted[RANKS_MAX];
        if (t.n > 6) t.n = 6;
        for (int32_t i = 6; i < N_MAX && t.s[i].n_done; i++) t.s[i].n_done = 0;    /* they are held, and not asked */
        for (int32_t r = 0; r < t.n_ranks; r++) t.room[r] = (gr_room){99, 99}, held[r] = t.held[r];
        claim(gr_homes_move(t.s, t.rows, t.n, t.moved_rows, t.cluster, t.room, held, homes) == GRACE_OK, seed);
        recount(&t, homes, counted);
        claim(memcmp(held, counted, (size_t)t.n_ranks * sizeof *held) == 0 && balanced(held, t.n_ranks), seed);
        claim(fabs(weigh(&t, homes) - best_of_all(&t)) < 1e-6, seed);
    }
}

static void no_rank_gets_more_than_it_has_room_for_and_nothing_is_lost_by_moving(void **state) {
    (void)state;
    static const grace_cluster clusters[] = {{2, 1}, {2, 3}, {3, 2}, {6, 1}, {1, 4}};
    int32_t moved = 0;
    for (uint64_t seed = 0; seed < 500; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        settlement t = settle(&rng, clusters[seed % 5], 3);
        int32_t homes[N_MAX], held[RANKS_MAX], counted[RANKS_MAX], stay[N_MAX];
        gr_room left[RANKS_MAX];
        for (int32_t r = 0; r < t.n_ranks; r++) held[r] = t.held[r], left[r] = t.room[r];
        claim(gr_homes_move(t.s, t.rows, t.n, t.moved_rows, t.cluster, t.room, held, homes) == GRACE_OK, seed);
        recount(&t, homes, counted);
        claim(memcmp(held, counted, (size_t)t.n_ranks * sizeof *held) == 0 && balanced(held, t.n_ranks), seed);
        for (int32_t i = 0; i < t.n; i++) {
            stay[i] = t.s[i].home;
            left[t.s[i].home].pages += t.s[i].n_pages, left[t.s[i].home].sequences++;
            left[homes[i]].pages -= t.s[i].n_pages, left[homes[i]].sequences--;
            moved += homes[i] != t.s[i].home;
        }
        for (int32_t r = 0; r < t.n_ranks; r++) claim(left[r].pages >= 0 && left[r].sequences >= 0, seed);
        claim(weigh(&t, homes) <= weigh(&t, stay) + 1e-9, seed);
        claim(t.cluster.n_nodes > 1 || memcmp(homes, stay, (size_t)t.n * sizeof *homes) == 0, seed);
    }
    assert_true(moved > 200);
}

static void without_a_gain_nobody_moves(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 100; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        settlement t = settle(&rng, (grace_cluster){3, 2}, 9);
        int32_t homes[N_MAX], held[RANKS_MAX];
        for (int32_t r = 0; r < t.n_ranks; r++) held[r] = t.held[r];
        for (int32_t i = 0; i < t.n * 3; i++) t.rows[i] = t.rows[i / 3 * 3];        /* every node alike */
        claim(gr_homes_move(t.s, t.rows, t.n, 0, t.cluster, t.room, held, homes) == GRACE_OK, seed);
        for (int32_t i = 0; i < t.n; i++) claim(homes[i] == t.s[i].home, seed);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(with_room_two_nodes_get_the_best_balanced_homes),
        cmocka_unit_test(no_rank_gets_more_than_it_has_room_for_and_nothing_is_lost_by_moving),
        cmocka_unit_test(without_a_gain_nobody_moves),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
