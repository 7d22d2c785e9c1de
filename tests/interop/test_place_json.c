#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "interop/place_json.h"
#include "interop/plans.h"
#include "plan/tables.h"

/* The bytes that others read, for a plan that one can follow: 3 experts on 3 ranks, layers 1 and 3 of a model of 4. */
static void files_look_as_other_engines_want_them(void **state) {
    (void)state;
    char *folder = scratch_new();
    const int32_t layers[2] = {1, 3};
    grace_plan *plan = contiguous(2, 3, (grace_cluster){1, 3}), *four = contiguous(1, 4, (grace_cluster){1, 2}), *two = NULL;
    assert_ok(gr_plan_equalise(plan, NULL, 2, &two));
    assert_ok(gr_sglang_plan_save(plan, &(gr_layer_map){.n_model_layers = 2}, in(folder, "p.json")));
    assert_text(in(folder, "p.json"), "{\"physical_to_logical_map\": [[0, 1, 2], [0, 1, 2]]}\n");
    assert_ok(gr_sglang_plan_save(two, &(gr_layer_map){.n_model_layers = 4, .model_layer = layers}, in(folder, "p.json")));
    assert_text(in(folder, "p.json"), "{\"physical_to_logical_map\": [[0, 1, 2, 0, 1, 2], [0, 1, 1, 0, 2, 0], [0, 1, 2, 0, 1, 2], [0, 1, 1, 0, 2, 0]]}\n");
    assert_ok(gr_plan_set_layer_ids(two, layers));              /* the plan says it itself */
    assert_ok(gr_sglang_plan_save(two, NULL, in(folder, "p.json")));
    assert_text(in(folder, "p.json"), "{\"physical_to_logical_map\": [[0, 1, 2, 0, 1, 2], [0, 1, 1, 0, 2, 0], [0, 1, 2, 0, 1, 2], [0, 1, 1, 0, 2, 0]]}\n");
    assert_ok(gr_flat_plan_save(plan, in(folder, "p.json")));
    assert_text(in(folder, "p.json"), "[[0, 1, 2], [0, 1, 2]]\n");
    assert_ok(gr_ascend_plan_save(four, in(folder, "p.json")));
    assert_text(in(folder, "p.json"), "{\"moe_layer_count\": 1, \"layer_list\": [{\"layer_id\": 0, \"device_count\": 2, \"device_list\": "
                                      "[{\"device_id\": 0, \"device_expert\": [0, 1]}, {\"device_id\": 1, \"device_expert\": [2, 3]}]}]}\n");
    grace_plan_free(plan), grace_plan_free(four), grace_plan_free(two);
    scratch_free(folder);
}

static void what_is_saved_comes_back(void **state) {
    (void)state;
    char *folder = scratch_new();
    const char *path = in(folder, "p.json");
    for (uint64_t seed = 1; seed <= 30; seed++) {
        grace_plan *plan = plan_with_equal_slots(seed), *back[4] = {0};
        gr_layer_map map = {.n_model_layers = plan->n_layers + 2, .n_layers = plan->n_layers}, all = {.n_model_layers = plan->n_layers};
        assert_ok(gr_sglang_plan_save(plan, &all, path));
        assert_ok(gr_sglang_plan_load(path, plan->cluster, 2, NULL, &back[0]));
        assert_ok(gr_sglang_plan_save(plan, &map, path));
        assert_ok(gr_sglang_plan_load(path, plan->cluster, 2, &map, &back[1]));
        assert_ok(gr_flat_plan_save(plan, path));
        assert_ok(gr_flat_plan_load(path, plan->cluster, 2, &back[2]));
        assert_ok(gr_ascend_plan_save(plan, path));
        assert_ok(gr_ascend_plan_load(path, plan->cluster, 2, &back[3]));
        for (int i = 0; i < 4; i++) {
            if (!same_holdings(plan, back[i])) fail_msg("seed %d, format %d", (int)seed, i);
            grace_plan_free(back[i]);
        }
        grace_plan_free(plan);
    }
    scratch_free(folder);
}

static void uneven_plans_are_not_written(void **state) {
    (void)state;
    char *folder = scratch_new();
    grace_plan *plan = contiguous(1, 7, (grace_cluster){1, 4});
    put_text(in(folder, "p.json"), "before");
    assert_failed(gr_sglang_plan_save(plan, NULL, in(folder, "p.json")), GRACE_ERR_MISMATCH, "as many slots on every rank");
    assert_failed(gr_flat_plan_save(plan, in(folder, "p.json")), GRACE_ERR_MISMATCH, "as many slots on every rank");
    assert_failed(gr_ascend_plan_save(plan, in(folder, "p.json")), GRACE_ERR_MISMATCH, "as many slots on every rank");
    assert_text(in(folder, "p.json"), "before");
    grace_plan_free(plan);
    scratch_free(folder);
}

static void bad_tables_are_refused(void **state) {
    (void)state;
    static const struct { const char *text, *part; } cases[] = {
        {"[]", "'physical_to_logical_map': expected an array, found nothing"},
        {"{\"physical_to_logical_map\":5}", "expected an array, found an integer"},
        {"{\"physical_to_logical_map\":[]}", "expected 1 to 4096 layers, found 0"},
        {"{\"physical_to_logical_map\":[[]]}", "slots in a layer, found 0"},
        {"{\"physical_to_logical_map\":[[0,1],[0]]}", "row 1: expected 2 slots, found 1"},
        {"{\"physical_to_logical_map\":[{\"a\":0,\"b\":1}]}", "row 0: expected an array of 2 experts, found an object of 2"},
        {"{\"physical_to_logical_map\":[[0,-1]]}", "row 0: '[1]': expected 0 to 4095, found -1"},
        {"{\"physical_to_logical_map\":[[0,1.5]]}", "expected an integer, found a number"},
        {"{\"physical_to_logical_map\":[[0,1]],\"more\":1}", "expected no key beside 'physical_to_logical_map'"},
        {"{\"physical_to_logical_map\":[[0,1],", "no valid JSON"},
    };
    gr_placement p = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_failed(gr_sglang_parse("t", cases[i].text, strlen(cases[i].text), 2, NULL, &p), GRACE_ERR_FORMAT, cases[i].part);
    assert_failed(gr_flat_parse("t", "{}", 2, 2, &p), GRACE_ERR_FORMAT, "expected 1 to 4096 layers, found 0");
    assert_failed(gr_flat_parse("t", "[[0,1,2]]", 9, 2, &p), GRACE_ERR_MISMATCH, "3 slots cannot be shared equally by 2 ranks");
    gr_layer_map map = {.n_model_layers = 3, .n_layers = 1};
    static const char one_row[] = "{\"physical_to_logical_map\":[[0,1]]}";
    assert_failed(gr_sglang_parse("t", one_row, strlen(one_row), 2, &map, &p), GRACE_ERR_MISMATCH, "1 rows, the model has 3 layers");
}

static void bad_device_lists_are_refused(void **state) {
    (void)state;
#define LAYER(id, count, devices) "{\"layer_id\":" id ",\"device_count\":" count ",\"device_list\":[" devices "]}"
#define FILE_OF(count, layers) "{\"moe_layer_count\":" count ",\"layer_list\":[" layers "]}"
#define DEVICE(id, experts) "{\"device_id\":" id ",\"device_expert\":" experts "}"
    static const struct { const char *text, *part; } cases[] = {
        {"{}", "'moe_layer_count': expected an integer"},
        {FILE_OF("2", LAYER("0", "1", DEVICE("0", "[0]"))), "1 layers in 'layer_list', 'moe_layer_count' is 2"},
        {FILE_OF("1", "5"), "'device_list': expected an array"},
        {FILE_OF("1", LAYER("0", "1", "")), "expected 1 to 8192 devices, found 0"},
        {FILE_OF("1", LAYER("3", "1", DEVICE("0", "[0]"))), "'layer_id': expected 0 to 0, found 3"},
        {FILE_OF("1", LAYER("0", "2", DEVICE("0", "[0]"))), "'device_count': expected 1 to 1, found 2"},
        {FILE_OF("1", LAYER("0", "1", DEVICE("1", "[0]"))), "'device_id': expected 0 to 0, found 1"},
        {FILE_OF("1", LAYER("0", "1", DEVICE("0", "{}"))), "'device_expert': expected an array"},
        {FILE_OF("1", LAYER("0", "1", DEVICE("0", "[\"a\"]"))), "expected an integer, found a string"},
        {FILE_OF("2", LAYER("0", "1", DEVICE("0", "[0]")) "," LAYER("1", "1", "")), "layer 1: expected 1 devices, found 0"},
    };
    gr_placement p = {0};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        assert_failed(gr_ascend_parse("t", cases[i].text, strlen(cases[i].text), &p), GRACE_ERR_FORMAT, cases[i].part);
}

static void a_cluster_that_cannot_be_is_refused(void **state) {
    (void)state;
    grace_plan *plan = NULL;
    assert_failed(gr_sglang_plan_load("p", (grace_cluster){0, 2}, 1, NULL, &plan), GRACE_ERR_ARG, "");
    assert_failed(gr_flat_plan_load("p", (grace_cluster){1 << 20, 1 << 20}, 1, &plan), GRACE_ERR_LIMIT, "");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_look_as_other_engines_want_them),
        cmocka_unit_test(what_is_saved_comes_back),
        cmocka_unit_test(uneven_plans_are_not_written),
        cmocka_unit_test(bad_tables_are_refused),
        cmocka_unit_test(bad_device_lists_are_refused),
        cmocka_unit_test(a_cluster_that_cannot_be_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
