/* Homes of new requests: balanced over all submissions, where their token ids say, the same on every rank. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "plan/tables.h"
#include "run/homing.h"

enum { VOCAB = 6, ROWS = 8 };

/* On 2 x 2: even ids save 2 on node 0, odd ids 2 on node 1. */
static grace_plan *plan_with_saves(int8_t *saved) {
    grace_plan *plan = NULL;
    assert_int_equal(grace_plan_contiguous(1, 8, 2, (grace_cluster){2, 2}, &plan), GRACE_OK);
    for (int id = 0; id < VOCAB; id++) saved[2 * id] = (int8_t)(id % 2 ? -2 : 2), saved[2 * id + 1] = (int8_t)(id % 2 ? 2 : -2);
    plan->token_saves = (grace_token_saves){VOCAB, 2, 1, saved};
    return plan;
}

static void submit(gr_batch *b, const int32_t *prompt, int32_t n) {
    grace_request req = grace_request_defaults();
    req.prompt = prompt, req.n_prompt = n;
    assert_int_equal(gr_batch_add(b, &req), GRACE_OK);
}

static int32_t home_of(const gr_batch *b, int32_t i) { return b->sequences[i]->result.home; }

static void requests_go_where_their_ids_save_most_while_ranks_stay_even(void **state) {
    (void)state;
    int8_t saved[2 * VOCAB];
    grace_plan *plan = plan_with_saves(saved);
    gr_homing h;
    gr_batch b;
    assert_int_equal(gr_homing_init(&h, plan, GRACE_HOMES_VOCAB, VOCAB), GRACE_OK);
    assert_int_equal(gr_batch_init(&b, 0, 4, ROWS), GRACE_OK);
    submit(&b, (const int32_t[]){1, 3, 5}, 3);          /* all for node 1 */
    submit(&b, (const int32_t[]){0, 2}, 2);             /* node 0 */
    submit(&b, (const int32_t[]){1, 1, 1, 2}, 4);       /* rather node 1 */
    submit(&b, (const int32_t[]){4, 4, 4, 4}, 4);       /* node 0 */
    assert_int_equal(gr_homing_assign(&h, &b, 0), GRACE_OK);
    assert_true(home_of(&b, 0) / 2 == 1 && home_of(&b, 1) / 2 == 0 && home_of(&b, 2) / 2 == 1 && home_of(&b, 3) / 2 == 0);
    assert_true(home_of(&b, 0) != home_of(&b, 2) && home_of(&b, 1) != home_of(&b, 3));
    gr_batch_free(&b);
    gr_homing_free(&h);
    grace_plan_free(plan);
}

static void ranks_stay_even_over_submissions_that_all_want_one_node(void **state) {
    (void)state;
    int8_t saved[2 * VOCAB];
    grace_plan *plan = plan_with_saves(saved);
    gr_homing h;
    gr_batch b;
    int32_t held[4] = {0}, n = 0;
    assert_int_equal(gr_homing_init(&h, plan, GRACE_HOMES_VOCAB, VOCAB), GRACE_OK);
    assert_int_equal(gr_batch_init(&b, 0, 4, ROWS), GRACE_OK);
    for (int32_t round = 1; round <= 9; round++) {
        for (int32_t i = 0; i < round % 4 + 1; i++) submit(&b, (const int32_t[]){0, 2, 4}, 3);
        assert_int_equal(gr_homing_assign(&h, &b, n), GRACE_OK);
        for (; n < b.n; n++) held[home_of(&b, n)]++;
        for (int r = 0; r < 4; r++) assert_true(held[r] == n / 4 || held[r] == (n + 3) / 4);
    }
    gr_batch_free(&b);
    gr_homing_free(&h);
    grace_plan_free(plan);
}

static void by_turns_nothing_changes(void **state) {
    (void)state;
    int8_t saved[2 * VOCAB];
    grace_plan *plan = plan_with_saves(saved);
    gr_homing h;
    gr_batch b;
    assert_int_equal(gr_homing_init(&h, plan, GRACE_HOMES_ROUND_ROBIN, 0), GRACE_OK);
    assert_int_equal(gr_batch_init(&b, 0, 4, ROWS), GRACE_OK);
    for (int32_t i = 0; i < 6; i++) submit(&b, (const int32_t[]){0}, 1);
    assert_int_equal(gr_homing_assign(&h, &b, 0), GRACE_OK);
    for (int32_t i = 0; i < 6; i++) assert_int_equal(home_of(&b, i), i % 4);
    gr_batch_free(&b);
    gr_homing_free(&h);
    grace_plan_free(plan);
}

static void histogram_begins_by_token_ids_or_by_turns_of_those_who_hold_fewest(void **state) {
    (void)state;
    int8_t saved[2 * VOCAB];
    grace_plan *plan = plan_with_saves(saved);
    for (int known = 0; known <= 1; known++) {
        gr_homing h;
        gr_batch b;
        plan->token_saves.vocab = known ? VOCAB : 0;
        assert_int_equal(gr_homing_init(&h, plan, GRACE_HOMES_HISTOGRAM, VOCAB), GRACE_OK);
        assert_int_equal(gr_batch_init(&b, 0, 4, ROWS), GRACE_OK);
        for (int32_t i = 0; i < 3; i++) submit(&b, (const int32_t[]){1, 3}, 2);
        assert_int_equal(gr_homing_assign(&h, &b, 0), GRACE_OK);
        for (int32_t i = 0; i < 3 && !known; i++) assert_int_equal(home_of(&b, i), i);
        if (known) assert_int_equal((home_of(&b, 0) == 2 || home_of(&b, 0) == 3) + home_of(&b, 1) / 2 + home_of(&b, 2) / 2, 2);
        h.held[1]--, h.held[3]++;           /* request 1 has moved */
        submit(&b, (const int32_t[]){0}, 1);
        assert_int_equal(gr_homing_assign(&h, &b, 3), GRACE_OK);
        if (!known) assert_int_equal(home_of(&b, 3), 1);
        gr_batch_free(&b);
        gr_homing_free(&h);
    }
    plan->token_saves.vocab = VOCAB;
    gr_homing h;
    assert_int_equal(gr_homing_init(&h, plan, GRACE_HOMES_HISTOGRAM, VOCAB - 1), GRACE_ERR_MISMATCH);
    gr_homing_free(&h);
    grace_plan_free(plan);
}

static void a_plan_that_cannot_tell_is_refused(void **state) {
    (void)state;
    int8_t saved[2 * VOCAB];
    grace_plan *plan = plan_with_saves(saved), *one = NULL;
    gr_homing h;
    assert_int_equal(gr_homing_init(&h, plan, GRACE_HOMES_VOCAB, VOCAB - 1), GRACE_ERR_MISMATCH);
    assert_non_null(strstr(grace_last_error(), "knows 6 ids, the model has 5"));
    gr_homing_free(&h);
    plan->token_saves.vocab = 0;
    assert_int_equal(gr_homing_init(&h, plan, GRACE_HOMES_VOCAB, VOCAB), GRACE_ERR_ARG);
    gr_homing_free(&h);
    assert_int_equal(grace_plan_contiguous(1, 8, 2, (grace_cluster){1, 2}, &one), GRACE_OK);
    assert_int_equal(gr_homing_init(&h, one, GRACE_HOMES_VOCAB, VOCAB), GRACE_OK);
    gr_homing_free(&h);
    grace_plan_free(one), grace_plan_free(plan);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_go_where_their_ids_save_most_while_ranks_stay_even),
        cmocka_unit_test(ranks_stay_even_over_submissions_that_all_want_one_node),
        cmocka_unit_test(by_turns_nothing_changes),
        cmocka_unit_test(histogram_begins_by_token_ids_or_by_turns_of_those_who_hold_fewest),
        cmocka_unit_test(a_plan_that_cannot_tell_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
