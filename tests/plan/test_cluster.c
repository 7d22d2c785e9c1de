#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "plan/cluster.h"

static void assert_parses(const char *text, int32_t n_nodes, int32_t gpus_per_node) {
    grace_cluster c = {0, 0};
    if (grace_cluster_parse(text, &c)) fail_msg("'%s': %s", text, grace_last_error());
    assert_int_equal(c.n_nodes, n_nodes);
    assert_int_equal(c.gpus_per_node, gpus_per_node);
}

static void assert_refused(const char *text, grace_status expected) {
    grace_cluster c = {7, 9};
    if (grace_cluster_parse(text, &c) != expected) fail_msg("'%s' was not refused as expected: %s", text, grace_last_error());
    assert_true(c.n_nodes == 7 && c.gpus_per_node == 9);
    assert_non_null(strstr(grace_last_error(), "cluster '"));
}

static void both_forms_are_read(void **state) {
    (void)state;
    assert_parses("node:2 gpu:4", 2, 4);
    assert_parses("  node:1   gpu:1 ", 1, 1);
    assert_parses("2x2", 2, 2);
    assert_parses("1024x8", 1024, 8);
    assert_parses("node:0032 gpu:32", 32, 32);
}

static void other_texts_are_refused_and_quoted(void **state) {
    (void)state;
    static const char *const bad[] = {"",             " ",             "2",              "x",            "2x",       "x2",  "2x2x2",
                                      "2 x 2",        "node:2",        "gpu:2 node:2",   "node:2gpu:2",  "0x2",      "2x0", "node: gpu:",
                                      "node:2 gpu:2,", "node:-1 gpu:2", "node:2 gpu:2.5", "nodes:2 gpu:2", "node:0 gpu:0"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_refused(bad[i], GRACE_ERR_ARG);
}

static void too_many_ranks_name_both_numbers(void **state) {
    (void)state;
    assert_refused("1025x8", GRACE_ERR_LIMIT);
    assert_refused("node:64 gpu:129", GRACE_ERR_LIMIT);
    assert_non_null(strstr(grace_last_error(), "8256"));
    assert_non_null(strstr(grace_last_error(), "8192"));
    assert_refused("99999999999999999999999999x99999999999999999999999", GRACE_ERR_LIMIT);
}

static void text_of_a_cluster_parses_back(void **state) {
    (void)state;
    for (int32_t n = 1; n <= 32; n++)
        for (int32_t g = 1; g <= 32; g++) assert_parses(gr_cluster_text((grace_cluster){n, g}).text, n, g);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_forms_are_read),
        cmocka_unit_test(other_texts_are_refused_and_quoted),
        cmocka_unit_test(too_many_ranks_name_both_numbers),
        cmocka_unit_test(text_of_a_cluster_parses_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
