/* The last line of a rank that is told to end, word by word. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "comm/comm.h"
#include "comm/place.h"

typedef void setup_fn(void);

/* What a child writes to stderr between setup and its end by SIGTERM. */
static int last_words(setup_fn *setup, char *text, size_t size) {
    int ends[2], status = 0;
    assert_int_equal(pipe(ends), 0);
    pid_t pid = fork();
    if (pid == 0) {
        dup2(ends[1], STDERR_FILENO);
        setup();
        raise(SIGTERM);
        _exit(0);
    }
    close(ends[1]);
    size_t n = 0;
    for (ssize_t got; n < size - 1 && (got = read(ends[0], text + n, size - 1 - n)) > 0;) n += (size_t)got;
    text[n] = '\0';
    close(ends[0]);
    waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static void in_a_layer(void) {
    gr_place_on_sigterm(2, 4);
    gr_comm_at("dispatch", 5);
    gr_place_wait(1);
}

static void before_any_stage(void) { gr_place_on_sigterm(0, 16); }

static void outside_the_layers(void) {
    gr_place_on_sigterm(1234, 2000);
    gr_comm_at("collect", -1);
}

static void leaving(void) {
    in_a_layer();
    gr_place_leave();
}

static void the_last_line_says_rank_stage_layer_and_peer(void **state) {
    (void)state;
    char text[512];
    assert_int_equal(last_words(in_a_layer, text, sizeof text), 143);
    assert_string_equal(text, "grace: rank 2 of 4: ended by SIGTERM in dispatch of layer 5, waiting for rank 1\n");
    assert_int_equal(last_words(before_any_stage, text, sizeof text), 143);
    assert_string_equal(text, "grace: rank 0 of 16: ended by SIGTERM\n");
    assert_int_equal(last_words(outside_the_layers, text, sizeof text), 143);
    assert_string_equal(text, "grace: rank 1234 of 2000: ended by SIGTERM in collect\n");
}

static void a_rank_that_is_leaving_says_nothing(void **state) {
    (void)state;
    char text[512];
    assert_int_equal(last_words(leaving, text, sizeof text), -SIGTERM);
    assert_string_equal(text, "");
}

static void the_place_stands_in_front_of_messages(void **state) {
    (void)state;
    char text[64];
    gr_comm_at(NULL, -1);
    gr_place_text(text, sizeof text);
    assert_string_equal(text, "");
    gr_comm_at("combine", 11);
    gr_place_text(text, sizeof text);
    assert_string_equal(text, "combine of layer 11: ");
    gr_comm_at("open", -1);
    gr_place_text(text, sizeof text);
    assert_string_equal(text, "open: ");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_last_line_says_rank_stage_layer_and_peer),
        cmocka_unit_test(a_rank_that_is_leaving_says_nothing),
        cmocka_unit_test(the_place_stands_in_front_of_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
