#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"

static int saved;           /* the real stderr */
static FILE *caught;

static int catch_stderr(void **state) {
    (void)state;
    unsetenv("GRACE_LOG");
    gr_log_set_level(GR_WARN);
    gr_log_set_rank(0, 1);
    fflush(stderr);
    saved = dup(STDERR_FILENO);
    caught = tmpfile();
    return !caught || dup2(fileno(caught), STDERR_FILENO) < 0;
}

static int release_stderr(void **state) {
    (void)state;
    dup2(saved, STDERR_FILENO);
    close(saved);
    return fclose(caught);
}

static void assert_logged(const char *expected) {
    char text[4096];
    fflush(stderr);
    ssize_t n = pread(fileno(caught), text, sizeof text - 1, 0);
    assert_true(n >= 0);
    text[n] = 0;
    assert_string_equal(text, expected);
}

static void only_warnings_and_errors_are_shown_unless_asked(void **state) {
    (void)state;
    gr_log(GR_DEBUG, "plan", "a");
    gr_log(GR_INFO, "plan", "b");
    gr_log(GR_WARN, "plan", "layer %d", 7);
    gr_log(GR_ERROR, "plan", "lost");
    assert_logged("warning: plan: layer 7\nerror: plan: lost\n");
}

static void the_level_opens_the_rest(void **state) {
    (void)state;
    gr_log_set_level(GR_INFO);
    gr_log(GR_INFO, "plan", "4 groups");
    gr_log(GR_DEBUG, "plan", "hidden");
    assert_logged("plan: 4 groups\n");
}

static void the_environment_wins_over_the_level(void **state) {
    (void)state;
    gr_log_set_level(GR_DEBUG);
    setenv("GRACE_LOG", "error", 1);
    gr_log(GR_WARN, "plan", "hidden");
    setenv("GRACE_LOG", "nonsense", 1);
    gr_log(GR_DEBUG, "plan", "shown");
    assert_logged("plan: shown\n");
}

static void ranks_sign_their_lines(void **state) {
    (void)state;
    gr_log_set_rank(2, 4);
    gr_log(GR_WARN, "comm", "late");
    assert_logged("[r2/4] warning: comm: late\n");
}

static void an_endless_line_is_cut_and_still_ends(void **state) {
    (void)state;
    char text[3000], expected[1100];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    gr_log(GR_WARN, "s", "%s", text);
    snprintf(expected, sizeof expected, "warning: s: %.1023s\n", text);
    assert_logged(expected);
}

#define with_stderr_caught(test) cmocka_unit_test_setup_teardown(test, catch_stderr, release_stderr)

int main(void) {
    const struct CMUnitTest tests[] = {
        with_stderr_caught(only_warnings_and_errors_are_shown_unless_asked),
        with_stderr_caught(the_level_opens_the_rest),
        with_stderr_caught(the_environment_wins_over_the_level),
        with_stderr_caught(ranks_sign_their_lines),
        with_stderr_caught(an_endless_line_is_cut_and_still_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
