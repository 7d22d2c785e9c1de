#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/rng.h"
#include "interop/files.h"
#include "interop/follow.h"

static int32_t run(gr_follow *f, int64_t position, int32_t n) {
    int32_t sequence = -1;
    assert_ok(gr_follow_run(f, "t", position, n, &sequence));
    return sequence;
}

static void a_run_continues_who_waits_for_it(void **state) {
    (void)state;
    gr_follow f = {0};
    assert_int_equal(run(&f, 0, 3), 0);
    assert_int_equal(run(&f, 0, 5), 1);
    gr_follow_end_pass(&f);
    assert_int_equal(run(&f, 5, 1), 1);
    assert_int_equal(run(&f, 3, 1), 0);
    assert_int_equal(run(&f, 0, 4), 2);
    gr_follow_end_pass(&f);
    assert_int_equal(run(&f, 4, 1), 0);     /* 0 and 2 both wait at 4: 0 came first */
    assert_int_equal(run(&f, 4, 1), 2);
    assert_int_equal(run(&f, 4, 1), 3);     /* nobody is left: a request that began before the recording */
    gr_follow_free(&f);
}

static void a_sequence_has_one_run_a_pass(void **state) {
    (void)state;
    gr_follow f = {0};
    assert_int_equal(run(&f, 0, 5), 0);
    assert_int_equal(run(&f, 5, 1), 1);     /* not the one that ends there in this very pass */
    gr_follow_end_pass(&f);
    assert_int_equal(run(&f, 5, 1), 0);
    assert_int_equal(run(&f, 6, 1), 1);
    gr_follow_free(&f);
}

/* Requests of different lengths, all steps recorded: what a request's tokens are called may be swapped with one at the same position, but every
 * sequence runs through its positions without gaps. */
static void sequences_have_no_gaps(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        gr_follow f = {0};
        int32_t next[200] = {0}, n_alive = 0, at[30], n_started = 0;
        for (int pass = 0; pass < 60; pass++) {
            for (int i = 0; i < n_alive; i++) {
                int32_t s = run(&f, at[i], 1);
                assert_int_equal(next[s], at[i]);
                next[s] = ++at[i];
            }
            if (n_alive < 30 && gr_rng_below(&rng, 2)) {
                int32_t n = 1 + (int32_t)gr_rng_below(&rng, 9), s = run(&f, 0, n);
                assert_int_equal(s, n_started++);
                next[s] = at[n_alive++] = n;
            }
            if (n_alive && gr_rng_below(&rng, 5) == 0) at[gr_rng_below(&rng, (uint32_t)n_alive)] = at[n_alive - 1], n_alive--;
            gr_follow_end_pass(&f);
        }
        assert_int_equal(f.n_sequences, n_started);
        gr_follow_free(&f);
    }
}

static void positions_have_a_limit(void **state) {
    (void)state;
    gr_follow f = {0};
    int32_t s = 0;
    assert_failed(gr_follow_run(&f, "t", GR_FOLLOW_POSITION_MAX, 1, &s), GRACE_ERR_LIMIT, "t: 1 tokens at position 4194303, positions go from 0 to");
    assert_failed(gr_follow_run(&f, "t", INT64_MAX, 1, &s), GRACE_ERR_LIMIT, "positions go from 0 to");
    assert_failed(gr_follow_run(&f, "t", -1, 1, &s), GRACE_ERR_LIMIT, "at position -1");
    gr_follow_free(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_run_continues_who_waits_for_it),
        cmocka_unit_test(a_sequence_has_one_run_a_pass),
        cmocka_unit_test(sequences_have_no_gaps),
        cmocka_unit_test(positions_have_a_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
