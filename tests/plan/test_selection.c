#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "base/status.h"
#include "grace/trace.h"

static grace_selection parsed(const char *text) {
    grace_selection s = {0};
    if (grace_selection_parse(text, &s)) fail_msg("%s", grace_last_error());
    return s;
}

static void a_selection_reads_as_it_is_written(void **state) {
    (void)state;
    static const struct { const char *text; grace_selection s; } cases[] = {
        {"all", {GRACE_SEQUENCES_ALL, ""}},
        {"even", {GRACE_SEQUENCES_EVEN, ""}},
        {"odd", {GRACE_SEQUENCES_ODD, ""}},
        {"domain:math", {GRACE_SEQUENCES_ALL, "math"}},
        {"odd domain:math,creative writing", {GRACE_SEQUENCES_ODD, "math,creative writing"}},
    };
    char text[320];
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        grace_selection s = parsed(cases[i].text);
        assert_int_equal(s.sequences, cases[i].s.sequences);
        assert_string_equal(s.domains, cases[i].s.domains);
        grace_selection_format(&s, text, sizeof text);
        assert_string_equal(text, cases[i].text);
    }
    assert_string_equal(parsed("all domain:a").domains, "a");
}

static void words_that_are_none_are_refused(void **state) {
    (void)state;
    static const char *const bad[] = {"", "evens", "even odd", "domain:", "domain", "odd math", " even", "half", "even,odd"};
    char longest[300] = "domain:";
    memset(longest + 7, 'x', 256);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        grace_selection s = {.sequences = GRACE_SEQUENCES_ODD};
        if (!grace_selection_parse(bad[i], &s)) fail_msg("'%s' was taken", bad[i]);
        assert_int_equal(s.sequences, GRACE_SEQUENCES_ODD);
    }
    assert_int_equal(grace_selection_parse(longest, &(grace_selection){0}), GRACE_ERR_ARG);
    longest[7 + 255] = 0;
    assert_int_equal(grace_selection_parse(longest, &(grace_selection){0}), GRACE_OK);
}

static void only_what_shares_no_token_is_disjoint(void **state) {
    (void)state;
    static const struct { const char *a, *b; bool disjoint; } cases[] = {
        {"even", "odd", true},
        {"even", "even", false},
        {"all", "odd", false},
        {"domain:a", "domain:b,c", true},
        {"domain:a,b", "domain:b,c", false},
        {"domain:a", "odd", false},
        {"even domain:a", "odd domain:a", true},
        {"even domain:a", "even domain:ab", true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        grace_selection a = parsed(cases[i].a), b = parsed(cases[i].b);
        assert_int_equal(grace_selections_disjoint(&a, &b), cases[i].disjoint);
        assert_int_equal(grace_selections_disjoint(&b, &a), cases[i].disjoint);
    }
}

static void origins_overlap_by_loads_or_by_file_and_selection(void **state) {
    (void)state;
    grace_origin all = {.file = "a.trace", .n_tokens = 100, .loads = 7}, other = {.file = "b.trace", .n_tokens = 100, .loads = 8};
    grace_origin even = {.file = "a.trace", .which = parsed("even"), .n_tokens = 50, .loads = 9}, odd = even, unknown = {.loads = 7};
    odd.which = parsed("odd"), odd.loads = 10;
    assert_true(grace_origins_overlap(&all, &even) && grace_origins_overlap(&even, &all) && grace_origins_overlap(&even, &even));
    assert_false(grace_origins_overlap(&even, &odd) || grace_origins_overlap(&all, &other) || grace_origins_overlap(&other, &even));
    assert_false(grace_origins_overlap(&unknown, &all) || grace_origins_overlap(&all, &unknown));
    other.loads = 7;                    /* the same tokens in a renamed file */
    assert_true(grace_origins_overlap(&all, &other));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_selection_reads_as_it_is_written),
        cmocka_unit_test(words_that_are_none_are_refused),
        cmocka_unit_test(origins_overlap_by_loads_or_by_file_and_selection),
        cmocka_unit_test(only_what_shares_no_token_is_disjoint),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
