/* The paged cache: pages are handed out once, come back, and a request that does not fit changes nothing. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "run/kv.h"

enum { CONTEXT = 10 * GR_KV_PAGE, SEQUENCES = 6, PAGES = 20 };

static gr_compute *compute;
static gr_kv kv;

static int open_kv(void **state) {
    const grace_model_info info = {.n_layers = 2, .n_kv_heads = 2, .head_dim = 4, .context_max = CONTEXT};
    (void)state;
    assert_int_equal(gr_compute_cpu_open("portable", 1, &compute), GRACE_OK);
    assert_int_equal(gr_kv_init(&kv, compute, &info, PAGES * GR_KV_PAGE - 3, SEQUENCES), GRACE_OK);     /* a started page counts whole */
    return 0;
}

static int close_kv(void **state) {
    (void)state;
    gr_kv_free(&kv);
    compute->ops->free(compute);
    return 0;
}

/* Every page is free or held by one sequence, never both, never twice. */
static void check_pages(void) {
    int32_t times[PAGES] = {0};
    assert_int_equal(kv.n_pages, PAGES);
    for (int32_t i = 0; i < kv.n_free; i++) times[kv.free_pages[i]]++;
    for (int32_t s = 0; s < SEQUENCES; s++)
        for (int32_t i = 0; i < kv.n_held[s]; i++) times[kv.page_table[s * kv.pages_max + i]]++;
    for (int32_t p = 0; p < PAGES; p++) assert_int_equal(times[p], 1);
}

static void a_sequence_gets_the_pages_its_tokens_need(void **state) {
    (void)state;
    assert_int_equal(kv.n_held[gr_kv_take(&kv, 1)], 1);
    assert_int_equal(kv.n_held[gr_kv_take(&kv, GR_KV_PAGE)], 1);
    assert_int_equal(kv.n_held[gr_kv_take(&kv, GR_KV_PAGE + 1)], 2);
    assert_int_equal(kv.n_held[gr_kv_take(&kv, CONTEXT)], 10);
    check_pages();
}

static void what_does_not_fit_gets_nothing_and_changes_nothing(void **state) {
    (void)state;
    int32_t a = gr_kv_take(&kv, CONTEXT), b = gr_kv_take(&kv, CONTEXT - GR_KV_PAGE);
    assert_int_equal(gr_kv_take(&kv, GR_KV_PAGE + 1), -1);
    assert_int_equal(kv.n_free, 1);
    check_pages();
    gr_kv_give(&kv, a);
    assert_int_equal(kv.n_free, 11);
    assert_int_equal(gr_kv_take(&kv, CONTEXT), a);
    assert_true(b >= 0 && b != a);
    check_pages();
}

static void there_are_no_more_sequences_than_rows_of_the_table(void **state) {
    (void)state;
    for (int i = 0; i < SEQUENCES; i++) assert_true(gr_kv_take(&kv, 1) >= 0);
    assert_int_equal(gr_kv_take(&kv, 1), -1);
    assert_int_equal(kv.n_free, PAGES - SEQUENCES);
}

static void pages_are_never_shared_or_lost_in_random_traffic(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(5);
    bool running[SEQUENCES] = {false};
    int taken = 0, refused = 0;
    for (int i = 0; i < 2000; i++) {
        int32_t s = (int32_t)gr_rng_below(&rng, SEQUENCES);
        if (running[s]) gr_kv_give(&kv, s);
        else {
            int32_t got = gr_kv_take(&kv, 1 + (int32_t)gr_rng_below(&rng, CONTEXT));
            if (got < 0) { refused++; continue; }
            assert_false(running[got]);
            taken++, s = got;
        }
        running[s] = !running[s];
        check_pages();
    }
    assert_true(taken > 100 && refused > 10);
}

static void a_cache_without_tokens_is_refused(void **state) {
    (void)state;
    const grace_model_info info = {.n_layers = 1, .n_kv_heads = 1, .head_dim = 2, .context_max = 16};
    gr_kv none = {0};
    assert_int_equal(gr_kv_init(&none, compute, &info, 0, 1), GRACE_ERR_LIMIT);
    assert_non_null(strstr(grace_last_error(), "KV cache of 0 tokens"));
    gr_kv_free(&none);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_sequence_gets_the_pages_its_tokens_need, open_kv, close_kv),
        cmocka_unit_test_setup_teardown(what_does_not_fit_gets_nothing_and_changes_nothing, open_kv, close_kv),
        cmocka_unit_test_setup_teardown(there_are_no_more_sequences_than_rows_of_the_table, open_kv, close_kv),
        cmocka_unit_test_setup_teardown(pages_are_never_shared_or_lost_in_random_traffic, open_kv, close_kv),
        cmocka_unit_test_setup_teardown(a_cache_without_tokens_is_refused, open_kv, close_kv),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
