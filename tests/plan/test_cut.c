#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "plan/cut.h"
#include "plan/plan_claims.h"

/* Tiny world, contiguous: ranks {0 1} {2 3} {4 5} {6 7}. Pairs: 0-1 inside a GPU, 0-2 inside a node, 3-4 across nodes. */
static void shares_by_hand(void **state) {
    (void)state;
    grace_plan *plan = NULL;
    double gpu, node;
    grace_profile p = new_profile(2, 8, 2);
    put_pair(p.affinity, 8, 0, 1, 1);
    put_pair(p.affinity, 8, 0, 2, 2);
    put_pair(p.affinity, 8, 3, 4, 5);
    put_pair(p.affinity + 64, 8, 6, 7, 3);
    assert_int_equal(grace_plan_contiguous(2, 8, 2, (grace_cluster){2, 2}, &plan), GRACE_OK);
    assert_int_equal(gr_plan_cut(plan, &p, &gpu, &node), GRACE_OK);
    assert_true(fabs(gpu - (1 / 8.0 + 1) / 2) < 1e-15 && fabs(node - (3 / 8.0 + 1) / 2) < 1e-15);
    assert_int_equal(gr_plan_cut(plan, &p, NULL, NULL), GRACE_OK);
    grace_plan_free(plan);
    drop_profile(&p);
}

static void copies_do_not_count(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        int32_t rank_of[16];
        double with, without;
        grace_profile p = random_profile(&rng, 1, 16, 2);
        grace_plan *plan = NULL;
        claim(gr_plan_new(1, 16, 2, (grace_cluster){2, 2}, &plan) == GRACE_OK, seed);
        claim(place_at_random(&rng, plan, 0, 0.5, rank_of) == GRACE_OK, seed);
        claim(gr_plan_cut(plan, &p, &with, NULL) == GRACE_OK, seed);
        claim(gr_plan_place(plan, 0, rank_of, NULL, 0) == GRACE_OK, seed);
        claim(gr_plan_cut(plan, &p, &without, NULL) == GRACE_OK, seed);
        claim(with == without && with > 0, seed);
        grace_plan_free(plan);
        drop_profile(&p);
    }
}

static void a_profile_of_another_model_is_refused(void **state) {
    (void)state;
    grace_plan *plan = NULL;
    double share = -1;
    grace_profile p = new_profile(2, 9, 2);
    assert_int_equal(grace_plan_contiguous(2, 8, 2, (grace_cluster){2, 2}, &plan), GRACE_OK);
    assert_int_equal(gr_plan_cut(plan, &p, &share, NULL), GRACE_ERR_MISMATCH);
    assert_string_equal(grace_last_error(), "plan is for 2 MoE layers of 8 experts, the profile has 2 of 9");
    assert_true(share == -1);
    grace_plan_free(plan);
    drop_profile(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_by_hand),
        cmocka_unit_test(copies_do_not_count),
        cmocka_unit_test(a_profile_of_another_model_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
