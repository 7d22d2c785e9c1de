/* The exchange in integers. Rows hold small integers, expert e turns a row x into x * (e + 1) + e, gate weights are powers of two: every sum is
 * exact in float32 in any order, so fast and exact must both give the directly computed answer to the last bit. Random plans, policies and
 * tokens from a printed seed; every rank knows all ranks' tokens and counts by brute force what must move. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/rng.h"
#include "ranks/support.h"
#include "run/exchange.h"
#include "run/router.h"
#include "support/naive_count.h"
#include "support/naive_route.h"
#include "support/random_plan.h"

enum { ROWS = 6, K_MAX = 4, HIDDEN = 5, EXPERTS = 10, RANKS_MAX = 8, ROUNDS = 15 };

/* What must have occurred by the end. */
static struct {
    int64_t tier[3], several_far, empty_rank, empty_expert, quiet_node, idle_rank, silent_round;
} seen;

/* ---- one round: a plan, tokens on every rank, their choices ---- */

typedef struct world_tokens {
    int32_t top_k, n_rows[RANKS_MAX];
    int32_t experts[RANKS_MAX][ROWS * K_MAX], slots[RANKS_MAX][ROWS * K_MAX];
    int32_t sequence[RANKS_MAX][ROWS], position[RANKS_MAX][ROWS];
    float weight[RANKS_MAX][ROWS * K_MAX];
} world_tokens;

/* Value i of a token: all tokens of all ranks differ in the first. */
static float value_of(int32_t rank, int32_t row, int32_t i) { return (float)(i == 0 ? rank * ROWS + row : (rank * 7 + row * 3 + i) % 16); }

static float apply_expert(int32_t expert, float x) { return x * (float)(expert + 1) + (float)expert; }

/* Tokens choose among the first few of a shuffled list of experts, so that some experts get nothing. */
static void draw_tokens(gr_rng *rng, int32_t n_ranks, int32_t top_k, world_tokens *w) {
    int32_t order[EXPERTS];
    *w = (world_tokens){.top_k = top_k};
    for (int32_t e = 0; e < EXPERTS; e++) order[e] = e;
    gr_random_shuffle(rng, order, EXPERTS);
    int32_t popular = top_k + (int32_t)gr_rng_below(rng, (uint32_t)(EXPERTS - top_k + 1)), busy = (int32_t)gr_rng_below(rng, 4);
    for (int32_t r = 0; r < n_ranks; r++) {
        w->n_rows[r] = (int32_t)gr_rng_below(rng, 4) < busy ? (int32_t)gr_rng_below(rng, ROWS) + 1 : 0;
        for (int32_t i = 0; i < w->n_rows[r]; i++) {
            gr_random_shuffle(rng, order, popular);
            memcpy(&w->experts[r][i * top_k], order, (size_t)top_k * sizeof *order);
            for (int32_t j = 0; j < top_k; j++) w->weight[r][i * top_k + j] = 1.0f / (float)(1 << (j + (int32_t)gr_rng_below(rng, 2)));
            w->sequence[r][i] = (int32_t)gr_rng_below(rng, 50);
            w->position[r][i] = (int32_t)gr_rng_below(rng, 200);
        }
    }
}

static void place_tokens(const grace_plan *plan, grace_route route, world_tokens *w) {
    for (int32_t r = 0; r < grace_cluster_ranks(plan->cluster); r++)
        for (int32_t row = 0; row < w->n_rows[r]; row++)
            naive_place(plan, 0, r, route, w->experts[r] + row * w->top_k, w->top_k, w->sequence[r][row], w->position[r][row], w->slots[r] + row * w->top_k);
}

static void check_placing(const grace_plan *plan, int32_t rank, grace_route route, const world_tokens *w) {
    gr_router *router = NULL;
    int32_t slots[ROWS * K_MAX];
    assert_ok(gr_router_build(plan, rank, route, &router));
    gr_router_place(router, 0, w->n_rows[rank], w->top_k, w->experts[rank], w->sequence[rank], w->position[rank], slots);
    claim(memcmp(slots, w->slots[rank], (size_t)(w->n_rows[rank] * w->top_k) * sizeof *slots) == 0);
    gr_router_free(router);
}

/* ---- did the special cases occur? ---- */

static bool several_copies_in_a_far_node(const grace_plan *plan, int32_t expert, int32_t home) {
    int32_t in_node[RANKS_MAX] = {0}, g = plan->cluster.gpus_per_node;
    for (int32_t s = 0; s < plan->layers[0].n_slots; s++)
        if (plan->layers[0].expert_of_slot[s] == expert) in_node[plan->layers[0].rank_of_slot[s] / g]++;
    for (int32_t n = 0; n < plan->cluster.n_nodes; n++)
        if (n != home / g && in_node[n] > 1) return true;
    return false;
}

static void note_choices(const grace_plan *plan, grace_route route, const world_tokens *w) {
    bool chosen[EXPERTS] = {false};
    for (int32_t r = 0; r < grace_cluster_ranks(plan->cluster); r++)
        for (int32_t i = 0; i < w->n_rows[r] * w->top_k; i++) {
            int32_t e = w->experts[r][i];
            naive_tier tier = naive_tier_of(plan, 0, e, r);
            chosen[e] = true;
            if (route != GRACE_ROUTE_TAR) continue;
            seen.tier[tier]++;
            seen.several_far += tier == NAIVE_ANYWHERE && several_copies_in_a_far_node(plan, e, r);
        }
    for (int32_t e = 0; e < EXPERTS; e++) seen.empty_expert += !chosen[e];
}

static void note_quiet(const grace_plan *plan, const world_tokens *w, const naive_count *count) {
    int32_t n_ranks = grace_cluster_ranks(plan->cluster), g = plan->cluster.gpus_per_node, total = 0;
    int64_t of_node[RANKS_MAX] = {0};
    for (int32_t r = 0; r < n_ranks; r++) {
        total += w->n_rows[r];
        seen.idle_rank += w->n_rows[r] == 0;
        seen.empty_rank += plan->layers[0].first_slot[r] == plan->layers[0].first_slot[r + 1];
        for (int32_t to = 0; to < n_ranks; to++)
            if (r / g != to / g) {
                of_node[r / g] += naive_pair_rows(count, r, to);
                of_node[to / g] += naive_pair_rows(count, r, to);
            }
    }
    seen.silent_round += total == 0;
    for (int32_t n = 0; total > 0 && n_ranks > g && n < plan->cluster.n_nodes; n++) seen.quiet_node += of_node[n] == 0;
}

/* ---- the exchange against the answer ---- */

static void fill_rows(float *rows, int32_t rank, int32_t n) {
    for (int32_t i = 0; i < n * HIDDEN; i++) rows[i] = value_of(rank, i / HIDDEN, i % HIDDEN);
}

/* Every slot here got exactly the rows that chose it: as many as chose it, all different, each a token that did. */
static void check_arrived(const gr_arrived *a, const grace_plan *plan, const world_tokens *w, int32_t rank) {
    const grace_plan_layer *pl = &plan->layers[0];
    int32_t n_pairs = 0;
    for (int32_t s = pl->first_slot[rank]; s < pl->first_slot[rank + 1]; s++) {
        bool due[RANKS_MAX * ROWS] = {false};
        int32_t n_due = 0, local = s - pl->first_slot[rank];
        for (int32_t r = 0; r < grace_cluster_ranks(plan->cluster); r++)
            for (int32_t i = 0; i < w->n_rows[r] * w->top_k; i++)
                if (w->slots[r][i] == s) due[r * ROWS + i / w->top_k] = true, n_due++;
        claim(a->first_pair[local + 1] - a->first_pair[local] == n_due);
        n_pairs += n_due;
        for (int32_t p = a->first_pair[local]; p < a->first_pair[local + 1]; p++) {
            const float *row = (const float *)a->rows + (int64_t)a->row_of_pair[p] * HIDDEN;
            int32_t token = (int32_t)row[0];
            claim(token >= 0 && token < RANKS_MAX * ROWS && due[token]);
            due[token] = false;
            for (int32_t i = 0; i < HIDDEN; i++) claim(row[i] == value_of(token / ROWS, token % ROWS, i));
        }
    }
    claim(a->n_pairs == n_pairs);
}

static void run_experts(const gr_arrived *a, const grace_plan *plan, int32_t rank) {
    const float *rows = a->rows;
    float *results = a->results;
    const grace_plan_layer *pl = &plan->layers[0];
    for (int32_t s = pl->first_slot[rank]; s < pl->first_slot[rank + 1]; s++)
        for (int32_t p = a->first_pair[s - pl->first_slot[rank]]; p < a->first_pair[s - pl->first_slot[rank] + 1]; p++)
            for (int32_t i = 0; i < HIDDEN; i++)
                results[(int64_t)p * HIDDEN + i] = apply_expert(pl->expert_of_slot[s], rows[(int64_t)a->row_of_pair[p] * HIDDEN + i]);
}

/* What y holds before the sums are added. */
static float before(int32_t i) { return (float)(100 + i); }

static void check_sums(const float *y, const world_tokens *w, int32_t rank) {
    for (int32_t row = 0; row < w->n_rows[rank]; row++)
        for (int32_t i = 0; i < HIDDEN; i++) {
            double sum = (double)before(row * HIDDEN + i);
            for (int32_t j = row * w->top_k; j < (row + 1) * w->top_k; j++)
                sum += (double)w->weight[rank][j] * (double)apply_expert(w->experts[rank][j], value_of(rank, row, i));
            claim((double)y[row * HIDDEN + i] == sum);
        }
}

static void check_counts(gr_exchange *ex, const naive_count *count, int32_t rank) {
    gr_exchange_counts *found = gr_exchange_counts_of(ex);
    grace_link_count dispatch[GRACE_N_STAGES][GRACE_N_LINKS] = {0}, combine[GRACE_N_STAGES][GRACE_N_LINKS] = {0};
    naive_links(count, rank, HIDDEN, dispatch, combine);
    claim(memcmp(found->dispatch, dispatch, sizeof dispatch) == 0);
    claim(memcmp(found->combine, combine, sizeof combine) == 0);
    for (int32_t to = 0; to < count->n_ranks; to++) claim(found->pair_rows[to] == naive_pair_rows(count, rank, to));
}

static void count_tokens(naive_count *count, const grace_plan *plan, const world_tokens *w) {
    count->calls++;
    for (int32_t r = 0; r < count->n_ranks; r++)
        for (int32_t i = 0; i < w->n_rows[r]; i++) {
            int32_t rank_of_choice[K_MAX];
            for (int32_t j = 0; j < w->top_k; j++) rank_of_choice[j] = plan->layers[0].rank_of_slot[w->slots[r][i * w->top_k + j]];
            naive_count_token(count, r, rank_of_choice, w->top_k);
        }
}

static void one_round(gr_exchange *ex, gr_comm *comm, gr_rng *rng, grace_route route, int32_t top_k, naive_count *total) {
    gr_random_plan_options opt = {1, EXPERTS, top_k, grace_comm_cluster(comm), gr_rng_uniform(rng) * 0.7, gr_rng_below(rng, 2) ? 0.4 : 0};
    grace_plan *plan = gr_random_plan(&opt, rng);
    const grace_plan_layer *pl = &plan->layers[0];
    world_tokens *w = malloc(sizeof *w);
    int32_t me = comm->rank;
    gr_arrived arrived;
    float y[ROWS * HIDDEN];
    draw_tokens(rng, comm->n_ranks, top_k, w);
    place_tokens(plan, route, w);
    check_placing(plan, me, route, w);
    fill_rows(gr_exchange_rows(ex), me, w->n_rows[me]);
    gr_route placed = {.n_rows = w->n_rows[me], .slot = w->slots[me], .weight = w->weight[me], .rank_of_slot = pl->rank_of_slot,
                       .n_slots_all = pl->n_slots, .first_slot = pl->first_slot[me], .n_slots = pl->first_slot[me + 1] - pl->first_slot[me]};
    assert_ok(gr_exchange_build(ex, &placed));
    assert_ok(gr_exchange_dispatch_start(ex));
    assert_ok(gr_exchange_dispatch_finish(ex, &arrived));
    check_arrived(&arrived, plan, w, me);
    run_experts(&arrived, plan, me);
    for (int32_t i = 0; i < ROWS * HIDDEN; i++) y[i] = before(i);
    assert_ok(gr_exchange_give_back(ex));
    assert_ok(gr_exchange_combine(ex, y));
    check_sums(y, w, me);
    count_tokens(total, plan, w);
    check_counts(ex, total, me);
    naive_count round = naive_count_new(plan->cluster, total->kind, total->exact);
    count_tokens(&round, plan, w);
    note_choices(plan, route, w);
    note_quiet(plan, w, &round);
    naive_count_free(&round);
    free(w);
    grace_plan_free(plan);
}

/* Many rounds through one exchange: nothing of a round may show in the next. */
static void check_exchange(gr_comm *comm, gr_compute *compute, grace_exchange kind, bool exact, int32_t top_k) {
    gr_exchange_options opt = {.kind = kind, .exact = exact, .n_rows_max = ROWS, .n_slots_max = EXPERTS, .top_k = top_k, .hidden = HIDDEN};
    gr_exchange *ex = NULL;
    naive_count total = naive_count_new(grace_comm_cluster(comm), kind, exact);
    assert_ok(gr_exchange_open(comm, compute, &opt, &ex));
    for (int round = 0; round < ROUNDS; round++) {
        uint64_t seed = (uint64_t)(((comm->n_nodes * 8 + (int)kind * 2 + exact) * 8 + top_k) * 1000 + round);
        gr_rng rng = gr_rng_seed(seed);
        grace_route route = (grace_route)(round % GRACE_N_ROUTES);
        snprintf(case_name, sizeof case_name, "rank %d of %d, %d nodes, exchange %d, exact %d, top %d, route %d, seed %llu", comm->rank, comm->n_ranks,
                 comm->n_nodes, (int)kind, exact, top_k, (int)route, (unsigned long long)seed);
        one_round(ex, comm, &rng, route, top_k, &total);
    }
    gr_exchange_close(ex);
    naive_count_free(&total);
}

static void every_row_finds_its_experts_and_comes_home_whole(void **state) {
    (void)state;
    gr_compute *compute = NULL;
    int32_t n_ranks = ranks_comm(1)->n_ranks;
    assert_ok(gr_compute_cpu_open("auto", 1, &compute));
    for (int32_t n_nodes = 1; n_nodes <= 4; n_nodes++) {
        if (n_ranks % n_nodes != 0) continue;
        gr_comm *comm = ranks_comm(n_nodes);
        for (int kind = GRACE_EXCHANGE_PER_EXPERT; kind <= GRACE_EXCHANGE_HSC; kind++)
            for (int exact = 0; exact <= 1; exact++)
                for (int32_t top_k = 1; top_k <= K_MAX; top_k += 3) check_exchange(comm, compute, (grace_exchange)kind, exact, top_k);
    }
    compute->ops->free(compute);
}

/* Runs last: the rounds above must have met what is hard. */
static void the_special_cases_occurred(void **state) {
    (void)state;
    int32_t n = ranks_comm(1)->n_ranks;
    bool nodes = n > 1, pairs = n == 4 || n == 6 || n == 8;     /* several nodes; nodes of several GPUs among several nodes */
    print_message("%d ranks: tiers %lld/%lld/%lld, far nodes with several copies %lld, empty ranks %lld, idle ranks %lld, ", n,
                  (long long)seen.tier[0], (long long)seen.tier[1], (long long)seen.tier[2], (long long)seen.several_far,
                  (long long)seen.empty_rank, (long long)seen.idle_rank);
    print_message("empty experts %lld, quiet nodes %lld\n", (long long)seen.empty_expert, (long long)seen.quiet_node);
    assert_true(seen.tier[NAIVE_SAME_RANK] > 0 && seen.empty_expert > 0 && seen.idle_rank > 0 && seen.silent_round > 0);
    if (nodes) assert_true(seen.tier[NAIVE_SAME_NODE] > 0 && seen.tier[NAIVE_ANYWHERE] > 0 && seen.empty_rank > 0 && seen.quiet_node > 0);
    if (pairs) assert_true(seen.several_far > 0);
}

static void more_rows_than_the_lists_can_count_are_refused(void **state) {
    (void)state;
    gr_comm *comm = ranks_comm(1);
    gr_compute *compute = NULL;
    gr_exchange *ex = NULL;
    gr_exchange_options opt = {.kind = GRACE_EXCHANGE_FLAT, .n_rows_max = 1 << 20, .n_slots_max = 1, .top_k = 1024, .hidden = 1};
    assert_ok(gr_compute_cpu_open("auto", 1, &compute));
    assert_int_equal(gr_exchange_open(comm, compute, &opt, &ex), GRACE_ERR_LIMIT);
    assert_null(ex);
    assert_non_null(strstr(grace_last_error(), "list entries"));
    compute->ops->free(compute);
}

static rlim_t address_space(void) {
    unsigned long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%lu", &pages), 1);
    fclose(f);
    return (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE);
}

/* The last rank may have 64 MiB more, and needs 1 GiB and more of buffers: the others are not left waiting for it, and the job goes on. */
static void memory_that_one_rank_lacks_while_opening_is_told_on_all(void **state) {
    (void)state;
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip();     /* their own memory is under the limit too */
#endif
    gr_comm *comm = ranks_comm(1);
    const int32_t last = comm->n_ranks - 1;
    gr_compute *compute = NULL;
    gr_exchange *ex = NULL;
    gr_exchange_options opt = {.n_rows_max = 1 << 16, .n_slots_max = 1, .top_k = 2, .hidden = 512};
    struct rlimit before, tight;
    char culprit[64];
    assert_ok(gr_compute_cpu_open("auto", 1, &compute));
    assert_int_equal(getrlimit(RLIMIT_AS, &before), 0);
    tight = before, tight.rlim_cur = address_space() + (64 << 20);
    snprintf(culprit, sizeof culprit, comm->n_ranks > 1 ? "rank %d: " : "", last);
    for (int kind = GRACE_EXCHANGE_PER_EXPERT; kind <= GRACE_EXCHANGE_HSC; kind++) {
        opt.kind = (grace_exchange)kind;
        if (comm->rank == last) assert_int_equal(setrlimit(RLIMIT_AS, &tight), 0);
        const grace_status st = gr_exchange_open(ranks_comm(comm->n_ranks % 2 ? 1 : 2), compute, &opt, &ex);
        assert_int_equal(setrlimit(RLIMIT_AS, &before), 0);
        if (st != GRACE_ERR_MEMORY || !strstr(grace_last_error(), culprit))
            fail_msg("rank %d: expected %s from rank %d, found %s: %s", comm->rank, grace_status_name(GRACE_ERR_MEMORY), last, grace_status_name(st),
                     grace_last_error());
        assert_null(ex);
        assert_ok(grace_comm_agree(comm, GRACE_OK));
    }
    compute->ops->free(compute);
}

static const struct CMUnitTest tests[] = {
    cmocka_unit_test(every_row_finds_its_experts_and_comes_home_whole),
    cmocka_unit_test(the_special_cases_occurred),
    cmocka_unit_test(more_rows_than_the_lists_can_count_are_refused),
    cmocka_unit_test(memory_that_one_rank_lacks_while_opening_is_told_on_all),
};

RANKS_MAIN("exchange", tests)
