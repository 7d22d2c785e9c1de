#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/status.h"

static void a_failure_returns_its_code_and_leaves_its_sentence(void **state) {
    (void)state;
    assert_int_equal(gr_fail(GRACE_ERR_LIMIT, "%s: %d over %d", "layer", 9, 8), GRACE_ERR_LIMIT);
    assert_string_equal(grace_last_error(), "layer: 9 over 8");
}

static void a_sentence_may_quote_the_last_one(void **state) {
    (void)state;
    gr_fail(GRACE_ERR_IO, "disk full");
    gr_fail(GRACE_ERR_IO, "plan not written: %s", grace_last_error());
    assert_string_equal(grace_last_error(), "plan not written: disk full");
}

static void a_caller_that_knows_more_puts_it_in_front(void **state) {
    (void)state;
    gr_fail(GRACE_ERR_FORMAT, "line 3: expected a number");
    assert_int_equal(gr_fail_in(GRACE_ERR_FORMAT, "rank %d", 2), GRACE_ERR_FORMAT);
    assert_string_equal(grace_last_error(), "rank 2: line 3: expected a number");
}

static void endless_sentences_are_cut_and_stay_terminated(void **state) {
    (void)state;
    char text[5000];
    memset(text, 'x', sizeof text - 1);
    text[sizeof text - 1] = 0;
    gr_fail(GRACE_ERR_ARG, "%s", text);
    assert_int_equal(strlen(grace_last_error()), 1023);
    for (int i = 0; i < 20; i++) gr_fail_in(GRACE_ERR_ARG, "%s", text);
    assert_in_range(strlen(grace_last_error()), 256, 1023);
}

static void a_sentence_is_one_line_and_moves_no_cursor(void **state) {
    (void)state;
    gr_fail(GRACE_ERR_FORMAT, "file '%s'", "a\x1b[2J\r\nb\t\x7f\xC3\xA9");
    assert_string_equal(grace_last_error(), "file 'a?[2J??b??\xC3\xA9'");
    gr_fail_in(GRACE_ERR_FORMAT, "%s", "line\n3");
    assert_string_equal(grace_last_error(), "line?3: file 'a?[2J??b??\xC3\xA9'");
}

static void every_code_has_its_own_name(void **state) {
    (void)state;
    for (int a = GRACE_OK; a <= GRACE_ERR_COMM; a++)
        for (int b = GRACE_OK; b < a; b++) assert_string_not_equal(grace_status_name(a), grace_status_name(b));
    assert_string_equal(grace_status_name(GRACE_OK), "ok");
    assert_string_equal(grace_status_name(GRACE_ERR_COMM), "communication error");
    assert_string_equal(grace_status_name((grace_status)(GRACE_ERR_COMM + 1)), "unknown status");
    assert_string_equal(grace_status_name((grace_status)-1), "unknown status");
}

static void *fail_elsewhere(void *seen) {
    *(int *)seen = (int)strlen(grace_last_error());
    gr_fail(GRACE_ERR_IO, "other thread");
    return NULL;
}

static void each_thread_has_its_own_sentence(void **state) {
    (void)state;
    pthread_t thread;
    int seen = -1;
    gr_fail(GRACE_ERR_IO, "this thread");
    assert_int_equal(pthread_create(&thread, NULL, fail_elsewhere, &seen), 0);
    pthread_join(thread, NULL);
    assert_int_equal(seen, 0);
    assert_string_equal(grace_last_error(), "this thread");
}

static grace_status checked(int value, int *n_after) {
    grace_status st = GRACE_OK;
    GR_CHECK(value < 10, GRACE_ERR_LIMIT, "expected under 10, found %d", value);
    ++*n_after;
done:
    return st;
}

static grace_status tried(int value, int *n_after) {
    grace_status st = GRACE_OK;
    GR_TRY(checked(value, n_after));
    ++*n_after;
done:
    return st;
}

static void check_and_try_leave_at_the_first_failure(void **state) {
    (void)state;
    int n_after = 0;
    assert_int_equal(tried(12, &n_after), GRACE_ERR_LIMIT);
    assert_int_equal(n_after, 0);
    assert_string_equal(grace_last_error(), "expected under 10, found 12");
    assert_int_equal(tried(9, &n_after), GRACE_OK);
    assert_int_equal(n_after, 2);
}

static void a_broken_assertion_ends_the_process_by_abort_and_says_where(void **state) {
    (void)state;
    char text[512] = "";
    int ends[2], how;
    assert_int_equal(pipe(ends), 0);
    pid_t child = fork();
    if (child == 0) {
        dup2(ends[1], STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        GR_ASSERT(1 + 1 == 3);
        _exit(0);
    }
    close(ends[1]);
    waitpid(child, &how, 0);
    assert_true(read(ends[0], text, sizeof text - 1) > 0);
    close(ends[0]);
    assert_true(WIFSIGNALED(how) && WTERMSIG(how) == SIGABRT);
    assert_non_null(strstr(text, "test_status.c"));
    assert_non_null(strstr(text, "1 + 1 == 3"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failure_returns_its_code_and_leaves_its_sentence),
        cmocka_unit_test(a_sentence_may_quote_the_last_one),
        cmocka_unit_test(a_caller_that_knows_more_puts_it_in_front),
        cmocka_unit_test(endless_sentences_are_cut_and_stay_terminated),
        cmocka_unit_test(a_sentence_is_one_line_and_moves_no_cursor),
        cmocka_unit_test(every_code_has_its_own_name),
        cmocka_unit_test(each_thread_has_its_own_sentence),
        cmocka_unit_test(check_and_try_leave_at_the_first_failure),
        cmocka_unit_test(a_broken_assertion_ends_the_process_by_abort_and_says_where),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
