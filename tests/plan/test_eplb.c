#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "plan/eplb.h"
#include "plan/planner_cases.h"

/* The example of the published program's README, both layers. */
static void the_published_example_comes_out_slot_by_slot(void **state) {
    (void)state;
    static const float load[2][12] = {{90, 132, 40, 61, 104, 165, 39, 4, 73, 56, 183, 86}, {20, 107, 104, 64, 19, 197, 187, 157, 172, 86, 16, 27}};
    static const int32_t expected[2][16] = {{5, 6, 5, 7, 8, 4, 3, 4, 10, 9, 10, 2, 0, 1, 11, 1}, {7, 10, 6, 8, 6, 11, 8, 9, 2, 4, 5, 1, 5, 0, 3, 1}};
    for (int32_t l = 0; l < 2; l++) {
        int32_t slots[16];
        assert_int_equal(gr_eplb(load[l], (gr_eplb_shape){12, 16, 4, 2, 8}, slots), GRACE_OK);
        assert_memory_equal(slots, expected[l], sizeof slots);
    }
}

static void groups_that_nodes_do_not_divide_are_planned_globally(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(3);
    float load[12];
    int32_t three[16], one[16];
    for (int32_t e = 0; e < 12; e++) load[e] = (float)between(&rng, 0, 200);
    assert_int_equal(gr_eplb(load, (gr_eplb_shape){12, 16, 3, 2, 8}, three), GRACE_OK);
    assert_int_equal(gr_eplb(load, (gr_eplb_shape){12, 16, 1, 1, 8}, one), GRACE_OK);
    assert_memory_equal(three, one, sizeof one);
}

/* Equal loads: a stable sort leaves the order, the first lightest pack takes the item, the first expert the spare slot. */
static void ties_go_to_the_first(void **state) {
    (void)state;
    static const float even[6] = {1, 1, 1, 1, 1, 1};
    static const int32_t packs[6] = {0, 1, 2, 0, 1, 2}, places[6] = {0, 0, 0, 1, 1, 1}, slots_expected[8] = {0, 1, 2, 3, 4, 5, 0, 1};
    int32_t pack_of[6], place_of[6], slots[8], copies[6];
    assert_int_equal(gr_balanced_packing(even, 6, 3, pack_of, place_of), GRACE_OK);
    assert_memory_equal(pack_of, packs, sizeof packs);
    assert_memory_equal(place_of, places, sizeof places);
    gr_replicate_experts(even, 6, 8, slots, copies);
    assert_memory_equal(slots, slots_expected, sizeof slots);
    assert_true(copies[0] == 2 && copies[1] == 2 && copies[2] == 1);
}

/* Every expert has a slot; with the hierarchical policy all copies of a group stay on one node; no expert with a copy more could give one away
 * and lower the most loaded copy. */
static void every_expert_has_a_slot_and_groups_stay_together(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 200; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        int32_t n_nodes = between(&rng, 1, 3), gpus = between(&rng, 1, 3), groups = n_nodes * between(&rng, 1, 3), size = between(&rng, 1, 4);
        int32_t n = groups * size, n_gpus = n_nodes * gpus, per_gpu = (n + n_gpus - 1) / n_gpus + between(&rng, 0, 3), n_slots = per_gpu * n_gpus;
        float *load = calloc((size_t)n, sizeof *load);
        int32_t *slots = new_ints((size_t)n_slots), *count = new_ints((size_t)n), *node_of = new_ints((size_t)groups);
        if (!load) abort();
        for (int32_t e = 0; e < n; e++) load[e] = (float)between(&rng, 0, 9);
        for (int32_t g = 0; g < groups; g++) node_of[g] = -1;
        claim(gr_eplb(load, (gr_eplb_shape){n, n_slots, groups, n_nodes, n_gpus}, slots) == GRACE_OK, seed);
        for (int32_t s = 0; s < n_slots; s++) {
            int32_t e = slots[s], node = s / (per_gpu * gpus);
            claim(e >= 0 && e < n, seed);
            claim(node_of[e / size] < 0 || node_of[e / size] == node, seed);
            node_of[e / size] = node;
            count[e]++;
        }
        for (int32_t e = 0; e < n; e++) claim(count[e] >= 1, seed);
        free(load), free(slots), free(count), free(node_of);
    }
}

static void sizes_that_do_not_divide_are_refused(void **state) {
    (void)state;
    float load[12] = {0};
    int32_t slots[32];
    assert_int_equal(gr_eplb(load, (gr_eplb_shape){12, 16, 5, 2, 8}, slots), GRACE_ERR_ARG);
    assert_string_equal(grace_last_error(), "eplb: 12 experts cannot form 5 equal groups");
    assert_int_equal(gr_eplb(load, (gr_eplb_shape){12, 8, 4, 2, 8}, slots), GRACE_ERR_ARG);
    assert_string_equal(grace_last_error(), "eplb: 8 slots cannot hold 12 experts");
    assert_int_equal(gr_eplb(load, (gr_eplb_shape){12, 18, 4, 2, 8}, slots), GRACE_ERR_ARG);
    assert_int_equal(gr_eplb(load, (gr_eplb_shape){12, 16, 4, 3, 8}, slots), GRACE_ERR_ARG);
    assert_int_equal(gr_eplb(load, (gr_eplb_shape){12, 16, 0, 2, 8}, slots), GRACE_ERR_ARG);
    assert_int_equal(gr_balanced_packing(load, 5, 2, slots, slots + 5), GRACE_ERR_ARG);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_published_example_comes_out_slot_by_slot),
        cmocka_unit_test(groups_that_nodes_do_not_divide_are_planned_globally),
        cmocka_unit_test(ties_go_to_the_first),
        cmocka_unit_test(every_expert_has_a_slot_and_groups_stay_together),
        cmocka_unit_test(sizes_that_do_not_divide_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
