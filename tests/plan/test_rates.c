#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "plan/rates.h"

#define MACHINE "\"flop_per_s\": 1e12, \"memory_bytes_per_s\": 2e9, \"value_bytes\": 2, \"dispatch_rounds\": 1, \"combine_rounds\": 1"
#define LINKS "\"cross\": {\"bytes_per_s\": 3e9, \"latency_us\": 30}, \"intra\": {\"bytes_per_s\": 4e11, \"latency_us\": 3}"

static grace_status parse(const char *text, grace_rates *out) { return gr_rates_parse("rates.json", text, strlen(text), out); }

static void what_is_saved_is_what_is_loaded(void **state) {
    (void)state;
    char path[] = "/tmp/grace-rates-XXXXXX.json";
    int fd = mkstemps(path, 5);
    assert_true(fd >= 0);
    close(fd);
    for (int32_t i = 0; grace_rates_preset(i); i++) {
        grace_rates preset, again;
        assert_int_equal(grace_rates_load(grace_rates_preset(i), &preset), GRACE_OK);
        preset.n_nodes = 2;
        preset.nodes[0] = (grace_node_rate){1, 3, {1e9, 0.5}}, preset.nodes[1] = (grace_node_rate){4, 4, {2e9, 0.25}};
        assert_int_equal(grace_rates_save(&preset, path), GRACE_OK);
        assert_int_equal(grace_rates_load(path, &again), GRACE_OK);
        assert_string_equal(again.name, preset.name);
        assert_true(again.cross.bytes_s == preset.cross.bytes_s && again.intra.bytes_s == preset.intra.bytes_s && again.flop_s == preset.flop_s);
        assert_true(again.value_bytes == preset.value_bytes && again.dispatch_rounds == preset.dispatch_rounds && again.n_nodes == 2);
        assert_true(again.nodes[0].last == 3 && again.nodes[1].link.bytes_s == 2e9 && again.nodes[1].link.latency_s == 0.25);
    }
    unlink(path);
}

static void nodes_with_links_of_their_own_are_found(void **state) {
    (void)state;
    grace_rates r;
    assert_int_equal(parse("{\"grace_rates\": 1, " LINKS ", " MACHINE ", \"measured\": {\"anything\": [1]}, \"nodes\": ["
                           "{\"first\": 2, \"last\": 3, \"bytes_per_s\": 1e6, \"latency_us\": 100}]}", &r), GRACE_OK);
    assert_true(grace_rates_of_node(&r, 1).bytes_s == 3e9 && grace_rates_of_node(&r, 4).bytes_s == 3e9);
    assert_true(grace_rates_of_node(&r, 2).bytes_s == 1e6 && fabs(grace_rates_of_node(&r, 3).latency_s - 100e-6) < 1e-18);
}

static void bad_rates_are_refused_with_the_place(void **state) {
    (void)state;
    static const struct { const char *text, *expected; } cases[] = {
        {"[]", "expected an object"},
        {"{}", "grace_rates"},
        {"{\"grace_rates\": 2, " LINKS ", " MACHINE "}", "this program reads 1"},
        {"{\"grace_rates\": 1, " LINKS ", " MACHINE ", \"node\": []}", "unknown key 'node'"},
        {"{\"grace_rates\": 1, " MACHINE "}", "cross"},
        {"{\"grace_rates\": 1, \"cross\": {\"bytes_per_s\": 0, \"latency_us\": 3}, " MACHINE "}", "bytes_per_s"},
        {"{\"grace_rates\": 1, \"cross\": {\"bytes_per_s\": 1, \"latency_us\": -3}, " MACHINE "}", "latency_us"},
        {"{\"grace_rates\": 1, \"cross\": {\"bytes_per_s\": 1, \"latency\": 3}, " MACHINE "}", "unknown key 'latency'"},
        {"{\"grace_rates\": 1, " LINKS ", " MACHINE ", \"nodes\": [{\"first\": 3, \"last\": 2, \"bytes_per_s\": 1, \"latency_us\": 1}]}", "nodes[0]"},
        {"{\"grace_rates\": 1, " LINKS ", " MACHINE ", \"nodes\": [{\"first\": 0, \"last\": 2, \"bytes_per_s\": 1, \"latency_us\": 1}, "
         "{\"first\": 2, \"last\": 2, \"bytes_per_s\": 1, \"latency_us\": 1}]}", "nodes[1]"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        grace_rates r;
        assert_int_not_equal(parse(cases[i].text, &r), GRACE_OK);
        if (!strstr(grace_last_error(), cases[i].expected)) fail_msg("'%s' does not say '%s'", grace_last_error(), cases[i].expected);
    }
    grace_rates r;
    assert_int_equal(grace_rates_load("h100", &r), GRACE_ERR_ARG);
    assert_non_null(strstr(grace_last_error(), "h200-25g"));
    assert_int_equal(grace_rates_load("/nowhere/rates.json", &r), GRACE_ERR_IO);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_saved_is_what_is_loaded),
        cmocka_unit_test(nodes_with_links_of_their_own_are_found),
        cmocka_unit_test(bad_rates_are_refused_with_the_place),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
