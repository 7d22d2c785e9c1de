/* The routing tables against a second implementation, and the properties that make them fair. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>

#include "run/router.h"
#include "support/naive_route.h"
#include "support/random_plan.h"

#define claim(condition, seed)                                                                         \
    do {                                                                                               \
        if (!(condition)) fail_msg("seed %llu: %s", (unsigned long long)(seed), #condition);           \
    } while (0)

static int32_t count_turns(const int32_t *host_of_turn, int32_t from, int32_t to, int32_t host) {
    int32_t n = 0;
    for (int32_t t = from; t < to; t++) n += host_of_turn[t] == host;
    return n;
}

static int32_t random_weights(gr_rng *rng, float *weight) {
    int32_t n = 1 + (int32_t)gr_rng_below(rng, 12);
    for (int32_t i = 0; i < n; i++) weight[i] = gr_rng_below(rng, 5) ? (float)gr_rng_uniform(rng) : 0;
    return n;
}

/* ---- dealing ---- */

static void turns_sum_to_64_and_are_within_one_of_the_exact_share(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 300; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        float weight[16];
        int32_t n = random_weights(&rng, weight), host_of_turn[GR_TURNS], total = 0, expected[16];
        gr_router_deal(weight, n, host_of_turn);
        naive_turns(weight, n, expected);
        for (int32_t i = 0; i < n; i++) {
            int32_t turns = count_turns(host_of_turn, 0, GR_TURNS, i);
            claim(fabs(turns - naive_share(weight, n, i)) < 1, seed);
            claim(turns == expected[i], seed);
            total += turns;
        }
        claim(total == GR_TURNS, seed);
    }
}

/* Bit reversal: in every aligned window of 2^m turns a host has its part of the window, rounded down or up. */
static void every_aligned_window_gives_each_host_its_part(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 100; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        float weight[16];
        int32_t n = random_weights(&rng, weight), host_of_turn[GR_TURNS];
        gr_router_deal(weight, n, host_of_turn);
        for (int32_t i = 0; i < n; i++)
            for (int32_t width = 1, turns = count_turns(host_of_turn, 0, GR_TURNS, i); width <= GR_TURNS; width *= 2)
                for (int32_t t = 0; t < GR_TURNS; t += width) {
                    int32_t here = count_turns(host_of_turn, t, t + width, i), windows = GR_TURNS / width;
                    claim(here == turns / windows || here == (turns + windows - 1) / windows, seed);
                }
    }
}

static void two_equal_hosts_take_turns(void **state) {
    (void)state;
    int32_t host_of_turn[GR_TURNS];
    gr_router_deal((const float[]){1, 1}, 2, host_of_turn);
    for (int32_t t = 0; t < GR_TURNS; t++) assert_int_equal(host_of_turn[t], t % 2);
}

static void a_host_without_weight_gets_no_turn(void **state) {
    (void)state;
    int32_t host_of_turn[GR_TURNS];
    gr_router_deal((const float[]){0.5f, 0, 0.5f}, 3, host_of_turn);
    assert_int_equal(count_turns(host_of_turn, 0, GR_TURNS, 1), 0);
}

static void without_any_weight_the_hosts_share_evenly(void **state) {
    (void)state;
    int32_t host_of_turn[GR_TURNS];
    gr_router_deal((const float[]){0, 0, 0}, 3, host_of_turn);
    assert_int_equal(count_turns(host_of_turn, 0, GR_TURNS, 0), 22);    /* 21 1/3 each: the odd turn goes to the earliest */
    assert_int_equal(count_turns(host_of_turn, 0, GR_TURNS, 1), 21);
    assert_int_equal(count_turns(host_of_turn, 0, GR_TURNS, 2), 21);
}

static void more_hosts_than_turns_still_fill_every_turn(void **state) {
    (void)state;
    enum { N = 200 };
    float weight[N];
    int32_t host_of_turn[GR_TURNS];
    for (int32_t i = 0; i < N; i++) weight[i] = i < 100 ? 1 : 3;        /* 0.16 and 0.48 turns: the remainders decide */
    gr_router_deal(weight, N, host_of_turn);
    for (int32_t i = 0; i < N; i++) assert_int_equal(count_turns(host_of_turn, 0, GR_TURNS, i), i >= 100 && i < 164);
}

/* ---- policies ---- */

typedef struct seen_tiers { int32_t tier[3], several_far; } seen_tiers;

static void compare_tables(const grace_plan *plan, int32_t rank, grace_route route, uint64_t seed, seen_tiers *seen) {
    gr_router *router = NULL;
    assert_int_equal(gr_router_build(plan, rank, route, &router), GRACE_OK);
    for (int32_t l = 0; l < plan->n_layers; l++)
        for (int32_t e = 0; e < plan->n_experts; e++) {
            int32_t slots[GRACE_RANKS_MAX];
            naive_tier tier = naive_tier_of(plan, l, e, rank);
            seen->tier[tier]++;
            seen->several_far += tier == NAIVE_ANYWHERE && naive_candidates(plan, l, e, rank, GRACE_ROUTE_TAR, slots) > 1;
            for (int32_t t = 0; t < GR_TURNS; t++) claim(gr_router_pick(router, l, e, t) == naive_slot(plan, l, e, rank, route, t), seed);
        }
    gr_router_free(router);
}

static void every_policy_agrees_with_the_naive_tables_on_random_plans(void **state) {
    (void)state;
    static const grace_cluster clusters[] = {{1, 1}, {1, 4}, {2, 2}, {2, 3}, {4, 2}, {3, 1}};
    seen_tiers seen = {0};
    for (uint64_t seed = 0; seed < 36; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        gr_random_plan_options opt = {2, 10, 2, clusters[seed % 6], gr_rng_uniform(&rng) * 0.6, 0.3};
        grace_plan *plan = gr_random_plan(&opt, &rng);
        for (int32_t rank = 0; rank < grace_cluster_ranks(opt.cluster); rank++)
            for (int route = GRACE_ROUTE_PRIMARY; route <= GRACE_ROUTE_TAR_ENTRY; route++) compare_tables(plan, rank, (grace_route)route, seed, &seen);
        grace_plan_free(plan);
    }
    assert_true(seen.tier[NAIVE_SAME_RANK] > 0 && seen.tier[NAIVE_SAME_NODE] > 0 && seen.tier[NAIVE_ANYWHERE] > 0 && seen.several_far > 0);
}

/* A plan on 2 x 2 whose expert 0 has its primary on rank 3 and copies on ranks 1 and 2; expert 1 lives on rank 0. */
static grace_plan *plan_by_hand(void) {
    static int32_t expert_of_slot[] = {1, 0, 0, 0}, rank_of_slot[] = {0, 1, 2, 3}, first_slot[] = {0, 1, 2, 3, 4};
    static int32_t slots_first[] = {0, 3, 4}, slots_of_expert[] = {3, 1, 2, 0};
    static float poll_weight[] = {1, 0.25f, 0.25f, 0.5f};
    static grace_plan_layer layer = {.n_slots = 4, .expert_of_slot = expert_of_slot, .rank_of_slot = rank_of_slot, .first_slot = first_slot,
                                     .slots_first = slots_first, .slots_of_expert = slots_of_expert, .poll_weight = poll_weight};
    static grace_plan plan = {.cluster = {2, 2}, .n_layers = 1, .n_experts = 2, .top_k = 1, .layers = &layer};
    return &plan;
}

static void tar_stays_on_the_gpu_then_in_the_node_then_takes_anyone(void **state) {
    (void)state;
    static const int32_t expected[] = {1, 1, 2, 3};      /* rank 0: the copy in its node; ranks 1 to 3: their own */
    for (int32_t rank = 0; rank < 4; rank++) {
        gr_router *router = NULL;
        assert_int_equal(gr_router_build(plan_by_hand(), rank, GRACE_ROUTE_TAR, &router), GRACE_OK);
        for (int32_t t = 0; t < GR_TURNS; t++) {
            assert_int_equal(gr_router_pick(router, 0, 0, t), expected[rank]);
            assert_int_equal(gr_router_pick(router, 0, 1, t), 0);
        }
        gr_router_free(router);
    }
}

/* Expert 0 stands on ranks 3 (primary), 1 and 2: from nowhere near, a row is served where it enters, else by weight in that node. */
static void tar_entry_serves_a_row_where_it_enters_the_node(void **state) {
    (void)state;
    static int32_t expert_of_slot[] = {1, 2, 0, 0}, rank_of_slot[] = {0, 1, 2, 3}, first_slot[] = {0, 1, 2, 3, 4};
    static int32_t slots_first[] = {0, 2, 3, 4}, slots_of_expert[] = {3, 2, 0, 1};
    static float poll_weight[] = {1, 1, 0.25f, 0.75f};
    grace_plan_layer layer = {.n_slots = 4, .expert_of_slot = expert_of_slot, .rank_of_slot = rank_of_slot, .first_slot = first_slot,
                              .slots_first = slots_first, .slots_of_expert = slots_of_expert, .poll_weight = poll_weight};
    grace_plan plan = {.cluster = {2, 2}, .n_layers = 1, .n_experts = 3, .top_k = 1, .layers = &layer};
    for (int32_t rank = 0; rank < 4; rank++) {
        gr_router *router = NULL;
        assert_int_equal(gr_router_build(&plan, rank, GRACE_ROUTE_TAR_ENTRY, &router), GRACE_OK);
        for (int32_t t = 0; t < GR_TURNS; t++) assert_int_equal(gr_router_pick(router, 0, 0, t), rank % 2 ? 3 : 2);      /* ranks 0 and 2 enter at 2 */
        gr_router_free(router);
    }
}

static void wrr_uses_every_copy_as_often_as_its_weight_says(void **state) {
    (void)state;
    gr_router *router = NULL;
    int32_t times[4] = {0}, expert[1] = {0}, slot[1];
    assert_int_equal(gr_router_build(plan_by_hand(), 1, GRACE_ROUTE_WRR, &router), GRACE_OK);
    for (int32_t sequence = 0; sequence < 5; sequence++)
        for (int32_t position = 0; position < GR_TURNS; position++) {      /* 64 positions in a row are every turn once */
            gr_router_place(router, 0, 1, 1, expert, &sequence, &position, slot);
            times[slot[0]]++;
        }
    assert_int_equal(times[0], 0);
    assert_int_equal(times[1], 5 * 16);
    assert_int_equal(times[2], 5 * 16);
    assert_int_equal(times[3], 5 * 32);
    gr_router_free(router);
}

static void primary_ignores_copies(void **state) {
    (void)state;
    gr_router *router = NULL;
    assert_int_equal(gr_router_build(plan_by_hand(), 1, GRACE_ROUTE_PRIMARY, &router), GRACE_OK);
    for (int32_t t = 0; t < GR_TURNS; t++) assert_int_equal(gr_router_pick(router, 0, 0, t), 3);
    gr_router_free(router);
}

static void the_turn_depends_on_the_token_alone(void **state) {
    (void)state;
    for (int32_t i = 0; i < 2000; i++) {
        int32_t sequence = i * 7919 % 100000, layer = i % 48, expert = i % 128, position = i * 31 % 4096;
        assert_int_equal(gr_router_turn(sequence, layer, expert, position), naive_turn(sequence, layer, expert, position));
    }
}

static void placing_looks_up_each_choice_by_its_own_turn(void **state) {
    (void)state;
    enum { ROWS = 40, K = 3 };
    gr_rng rng = gr_rng_seed(11);
    gr_random_plan_options opt = {3, 9, K, {2, 2}, 0.5, 0};
    grace_plan *plan = gr_random_plan(&opt, &rng);
    gr_router *router = NULL;
    int32_t experts[ROWS * K], sequence[ROWS], position[ROWS], slots[ROWS * K];
    for (int32_t i = 0; i < ROWS * K; i++) experts[i] = (int32_t)gr_rng_below(&rng, 9);
    for (int32_t i = 0; i < ROWS; i++) {
        sequence[i] = (int32_t)gr_rng_below(&rng, 6);
        position[i] = (int32_t)gr_rng_below(&rng, 500);
    }
    assert_int_equal(gr_router_build(plan, 2, GRACE_ROUTE_WRR, &router), GRACE_OK);
    for (int32_t l = 0; l < 3; l++) {
        gr_router_place(router, l, ROWS, K, experts, sequence, position, slots);
        for (int32_t i = 0; i < ROWS * K; i++) {
            int32_t turn = naive_turn(sequence[i / K], l, experts[i], position[i / K]);
            assert_int_equal(slots[i], naive_slot(plan, l, experts[i], 2, GRACE_ROUTE_WRR, turn));
        }
    }
    gr_router_free(router);
    grace_plan_free(plan);
}

/* ---- joint ---- */

enum { JOINT_K = 5, JOINT_EXPERTS = 14 };

static void draw_experts(gr_rng *rng, int32_t *experts) {
    bool taken[JOINT_EXPERTS] = {false};
    for (int32_t j = 0; j < JOINT_K; j++) {
        do experts[j] = (int32_t)gr_rng_below(rng, JOINT_EXPERTS);
        while (taken[experts[j]]);
        taken[experts[j]] = true;
    }
}

/* Rows a token sends: one per remote node, one per GPU beside the entry of each node. */
static void count_rows(const grace_plan *plan, int32_t layer, int32_t home, const int32_t *slots, int32_t *cross, int32_t *intra) {
    bool node[64] = {false}, gpu[64] = {false};
    int32_t g = plan->cluster.gpus_per_node;
    for (int32_t j = 0; j < JOINT_K; j++) {
        int32_t rank = plan->layers[layer].rank_of_slot[slots[j]];
        if (rank / g != home / g && !node[rank / g]) node[rank / g] = true, (*cross)++;
        if (rank % g != home % g && !gpu[rank]) gpu[rank] = true, (*intra)++;
    }
}

static void joint_agrees_with_its_text_and_visits_fewer_places_than_tar(void **state) {
    (void)state;
    static const grace_cluster clusters[] = {{1, 1}, {1, 4}, {2, 2}, {4, 2}, {4, 4}, {3, 1}, {8, 8}, {1, 16}};
    int32_t cross[2] = {0}, intra[2] = {0}, moved = 0;
    for (uint64_t seed = 0; seed < 80; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        gr_random_plan_options opt = {2, JOINT_EXPERTS, JOINT_K, clusters[seed % 8], gr_rng_uniform(&rng) * 0.6, 0.3};
        grace_plan *plan = gr_random_plan(&opt, &rng);
        int32_t rank = (int32_t)gr_rng_below(&rng, (uint64_t)grace_cluster_ranks(opt.cluster));
        gr_router *joint = NULL, *tar = NULL;
        assert_int_equal(gr_router_build(plan, rank, GRACE_ROUTE_JOINT, &joint), GRACE_OK);
        assert_int_equal(gr_router_build(plan, rank, GRACE_ROUTE_TAR, &tar), GRACE_OK);
        for (int32_t i = 0; i < 60; i++) {
            int32_t experts[JOINT_K], slots[JOINT_K], expected[JOINT_K], sequence = (int32_t)gr_rng_below(&rng, 9), position = i * 7;
            draw_experts(&rng, experts);
            gr_router_place(joint, i % 2, 1, JOINT_K, experts, &sequence, &position, slots);
            naive_joint(plan, i % 2, rank, experts, JOINT_K, sequence, position, expected);
            for (int32_t j = 0; j < JOINT_K; j++) claim(slots[j] == expected[j] && plan->layers[i % 2].expert_of_slot[slots[j]] == experts[j], seed);
            count_rows(plan, i % 2, rank, slots, &cross[1], &intra[1]);
            gr_router_place(tar, i % 2, 1, JOINT_K, experts, &sequence, &position, slots);
            count_rows(plan, i % 2, rank, slots, &cross[0], &intra[0]);
            for (int32_t j = 0; j < JOINT_K; j++) moved += slots[j] != expected[j];
        }
        gr_router_free(joint), gr_router_free(tar);
        grace_plan_free(plan);
    }
    print_message("80 plans: cross-node rows %d under tar, %d joint; inside nodes %d, %d; %d choices differ\n", cross[0], cross[1], intra[0], intra[1], moved);
    assert_true(cross[1] < cross[0] && intra[1] < intra[0] && moved > 0);
}

static void joint_does_not_ask_in_which_order_experts_come(void **state) {
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        gr_random_plan_options opt = {1, JOINT_EXPERTS, JOINT_K, {4, 2}, 0.5, 0.2};
        grace_plan *plan = gr_random_plan(&opt, &rng);
        gr_router *router = NULL;
        assert_int_equal(gr_router_build(plan, 3, GRACE_ROUTE_JOINT, &router), GRACE_OK);
        for (int32_t i = 0; i < 50; i++) {
            int32_t experts[JOINT_K], back[JOINT_K], a[JOINT_K], b[JOINT_K], sequence = 4, position = i;
            draw_experts(&rng, experts);
            for (int32_t j = 0; j < JOINT_K; j++) back[j] = experts[JOINT_K - 1 - j];
            gr_router_place(router, 0, 1, JOINT_K, experts, &sequence, &position, a);
            gr_router_place(router, 0, 1, JOINT_K, back, &sequence, &position, b);
            for (int32_t j = 0; j < JOINT_K; j++) claim(a[j] == b[JOINT_K - 1 - j], seed);
        }
        gr_router_free(router);
        grace_plan_free(plan);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(turns_sum_to_64_and_are_within_one_of_the_exact_share),
        cmocka_unit_test(every_aligned_window_gives_each_host_its_part),
        cmocka_unit_test(two_equal_hosts_take_turns),
        cmocka_unit_test(a_host_without_weight_gets_no_turn),
        cmocka_unit_test(without_any_weight_the_hosts_share_evenly),
        cmocka_unit_test(more_hosts_than_turns_still_fill_every_turn),
        cmocka_unit_test(every_policy_agrees_with_the_naive_tables_on_random_plans),
        cmocka_unit_test(tar_stays_on_the_gpu_then_in_the_node_then_takes_anyone),
        cmocka_unit_test(tar_entry_serves_a_row_where_it_enters_the_node),
        cmocka_unit_test(wrr_uses_every_copy_as_often_as_its_weight_says),
        cmocka_unit_test(primary_ignores_copies),
        cmocka_unit_test(the_turn_depends_on_the_token_alone),
        cmocka_unit_test(placing_looks_up_each_choice_by_its_own_turn),
        cmocka_unit_test(joint_agrees_with_its_text_and_visits_fewer_places_than_tar),
        cmocka_unit_test(joint_does_not_ask_in_which_order_experts_come),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
