#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "interop/files.h"
#include "interop/interop.h"
#include "interop/loads.h"
#include "interop/meta.h"

static void rows_come_in_any_order_and_layers_keep_their_numbers(void **state) {
    (void)state;
    static const char text[] = "count,layer,expert\n5,7,1\n3,3,0\n4,3,1\n6,7,0\n";
    gr_loads loads = {0};
    assert_ok(gr_loads_parse_csv("t", text, strlen(text), &loads));
    assert_true(loads.n_layers == 2 && loads.n_experts == 2 && loads.layer_id[0] == 3 && loads.layer_id[1] == 7);
    assert_true(loads.load[0] == 3 && loads.load[1] == 4 && loads.load[2] == 6 && loads.load[3] == 5);
    assert_true(gr_loads_layer(&loads, 3) == 0 && gr_loads_layer(&loads, 7) == 1 && gr_loads_layer(&loads, 5) == -1 && gr_loads_layer(&loads, 8) == -1);
    gr_loads_free(&loads);
}

static void tables_with_holes_are_refused(void **state) {
    (void)state;
    static const struct { const char *text, *part; } cases[] = {
        {"layer,expert,count\n", "no rows"},
        {"layer,expert,count\n0,0,1\n0,2,1\n", "every expert from 0 to 2 in every layer; one is missing before line 3"},
        {"layer,expert,count\n0,0,1\n0,1,1\n1,0,1\n", "the last layer has 1 experts, expected 2"},
        {"layer,expert,count\n0,0,1\n0,1,1\n1,1,1\n2,0,1\n", "one is missing before line 4"},
        {"layer,expert,count\n0,0,1\n0,1,1\n0,1,2\n", "expert 1 of layer 0 stands in line"},
        {"layer,expert,count\n0.5,0,1\n", "layer: expected a whole number"},
        {"layer,expert,count\n0,65536,1\n", "expert: expected a whole number up to 65535"},
    };
    gr_loads loads = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_failed(gr_loads_parse_csv("t", cases[i].text, strlen(cases[i].text), &loads), GRACE_ERR_FORMAT, cases[i].part);
}

static void eplb_weights_are_rows_of_loads(void **state) {
    (void)state;
    static const char text[] = "[[90, 132.5, 40], [20, 107, 0]]";
    gr_loads loads = {0};
    assert_ok(gr_loads_parse_json("t", text, strlen(text), &loads));
    assert_true(loads.n_layers == 2 && loads.n_experts == 3 && loads.load[1] == 132.5 && loads.load[5] == 0);
    gr_loads_free(&loads);
    static const struct { const char *text, *part; } cases[] = {
        {"{\"grace_plan\": 1}", "expected routing to plan from (a trace, or arrays of loads), found a plan"},
        {"{}", "expected an array of arrays of loads, found an object"}, {"[]", "found 0 of 0"}, {"[1]", "found 1 of 0"},
        {"[[1],[]]", "row 1: expected an array of 1 loads"},
        {"[[1,2],{\"a\":1,\"b\":2}]", "row 1: expected an array of 2 loads, found an object"}, {"[[1],[\"2\"]]", "expected a number, found a string"},
        {"[[-1]]", "expected a load of 0 or more, found -1"}, {"[[1]", "no valid JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_failed(gr_loads_parse_json("t", cases[i].text, strlen(cases[i].text), &loads), GRACE_ERR_FORMAT, cases[i].part);
}

static void a_profile_of_loads_has_no_affinity(void **state) {
    (void)state;
    char *folder = scratch_new();
    grace_profile *p = NULL;
    put_text(in(folder, "load.csv"), "layer,expert,count\n0,0,6\n0,1,2\n0,2,4\n4,0,4\n4,1,4\n4,2,4\n");
    assert_ok(gr_load_csv_load(in(folder, "load.csv"), 0, &p));
    assert_true(p->info.top_k == 1 && p->n_tokens == 12 && p->info.model[0] == 0);
    grace_profile_free(p);
    put_text(in(folder, "meta.json"), "{\"model\":\"m\",\"layers\":2,\"experts\":3,\"top_k\":2,\"tokens\":6}");
    assert_ok(gr_load_csv_load(in(folder, "load.csv"), 0, &p));
    assert_true(p->info.top_k == 2 && p->n_tokens == 6 && p->info.n_layers == 2 && p->info.n_experts == 3 && p->load[0] == 6 && p->load[5] == 4);
    assert_string_equal(p->info.model, "m");
    for (int i = 0; i < 18; i++) assert_true(p->affinity[i] == 0);
    grace_profile_free(p);
    put_text(in(folder, "meta.json"), "{\"layers\":3,\"experts\":3,\"top_k\":2}");
    assert_failed(gr_load_csv_load(in(folder, "load.csv"), 0, &p), GRACE_ERR_FORMAT, "2 layers of 3 experts, but meta.json says 3 of 3");
    put_text(in(folder, "meta.json"), "{\"layers\":3,\"experts\":3,\"top_k\":4}");
    assert_failed(gr_load_csv_load(in(folder, "load.csv"), 0, &p), GRACE_ERR_FORMAT, "'top_k': expected 1 to 3, found 4");
    assert_failed(gr_load_csv_load(in(folder, "none.csv"), 0, &p), GRACE_ERR_FORMAT, "'top_k'");
    put_text(in(folder, "eplb.json"), "[[1,2,3]]");
    assert_ok(gr_eplb_load(in(folder, "eplb.json"), 2, &p));
    assert_true(p->info.top_k == 2 && p->n_tokens == 3);
    grace_profile_free(p), p = NULL;
    assert_failed(gr_eplb_load(in(folder, "eplb.json"), 4, &p), GRACE_ERR_FORMAT, "expected 1 to 3 experts a token (top_k), found 4");
    assert_null(p);
    scratch_free(folder);
}

static void meta_json_is_looked_for_beside_the_table(void **state) {
    (void)state;
    char *folder = scratch_new();
    gr_meta meta = {.info.top_k = 7};
    assert_ok(gr_meta_load(in(folder, "load.csv"), &meta));
    assert_true(!meta.found && meta.info.top_k == 0);
    put_text(in(folder, "meta.json"), "{\"layers\":2,\"experts\":300,\"top_k\":256}");
    assert_ok(gr_meta_load(in(folder, "load.csv"), &meta));
    assert_true(meta.found && meta.info.n_layers == 2 && meta.info.n_experts == 300 && meta.info.top_k == 256 && meta.info.model[0] == 0);
    put_text(in(folder, "meta.json"), "{\"layers\":2,\"experts\":300,\"top_k\":257}");
    assert_failed(gr_meta_load(in(folder, "load.csv"), &meta), GRACE_ERR_FORMAT, "'top_k': expected 1 to 256, found 257");
    put_text(in(folder, "meta.json"), "{\"layers\":\"2\"}");
    assert_failed(gr_meta_load(in(folder, "load.csv"), &meta), GRACE_ERR_FORMAT, "'layers': expected an integer, found a string");
    scratch_free(folder);
}

static void real_loads_are_read(void **state) {
    (void)state;
    static const char *const files[] = {"olmoe-ai2-domains/load.csv", "olmoe-ai2-domains/load_c4.csv", "olmoe-moelens-domains/load.csv",
                                        "glm52-coact/load.csv", "qwen3-30b-a3b-coact/load.csv", "qwen3-next-80b-coact/load.csv"};
    static const int64_t tokens[] = {1249723, 208896, 11158, 1270, 75773, 24963};
    char path[1024];
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        grace_profile *p = NULL;
        snprintf(path, sizeof path, SHARED_TRACES "%s", files[i]);
        if (access(path, F_OK) != 0) {
            print_message("skipped: %s is not here\n", path);
            continue;
        }
        assert_ok(gr_load_csv_load(path, 0, &p));
        assert_int_equal(p->n_tokens, tokens[i]);
        grace_profile_free(p);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(rows_come_in_any_order_and_layers_keep_their_numbers),
        cmocka_unit_test(tables_with_holes_are_refused),
        cmocka_unit_test(eplb_weights_are_rows_of_loads),
        cmocka_unit_test(a_profile_of_loads_has_no_affinity),
        cmocka_unit_test(meta_json_is_looked_for_beside_the_table),
        cmocka_unit_test(real_loads_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
