/* Which layers of the model a trace's and a plan's layers are (plan/layer_ids.c): kept from trace to profile to plan, checked wherever they are read. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "plan/equalise.h"
#include "plan/layer_ids.h"
#include "plan/tables.h"
#include "plan/test_trace_support.h"

static const int32_t IDS[3] = {1, 2, 5}, OTHERS[3] = {0, 1, 2};

static void assert_ok(grace_status st) {
    if (st) fail_msg("%s", grace_last_error());
}

static void assert_failed(grace_status st, grace_status expected, const char *part) {
    assert_int_equal(st, expected);
    if (!strstr(grace_last_error(), part)) fail_msg("expected '%s' in '%s'", part, grace_last_error());
}

static void assert_ids(const int32_t *found, const int32_t *expected) {
    assert_int_equal(found != NULL, expected != NULL);
    if (expected) assert_memory_equal(found, expected, 3 * sizeof *found);
}

static grace_trace *recorded(const char *path, const int32_t *ids) {
    world *w = world_random(1, 3, 8, 2, 4, 100);
    grace_trace *t = NULL;
    gr_layer_ids_set(&w->info, ids);
    assert_ok(world_save(w, path));
    assert_ok(grace_trace_open(path, &t, NULL));
    world_free(w);
    return t;
}

static grace_plan *planned(const grace_trace *t) {
    const grace_plan_options opt = grace_plan_defaults();
    grace_profile *profile = NULL;
    grace_plan *plan = NULL;
    assert_ok(grace_profile_build(t, NULL, &profile));
    assert_ok(grace_plan_build(profile, (grace_cluster){1, 2}, &opt, &plan));
    grace_profile_free(profile);
    return plan;
}

static void assert_kept(const char *folder, const int32_t *ids) {
    grace_trace *t = recorded(in(folder, "t"), ids);
    grace_plan *plan = planned(t), *back = NULL, *equal = NULL;
    char path[256];
    snprintf(path, sizeof path, "%s", in(folder, "p.json"));
    assert_ids(gr_layer_ids_of(grace_trace_describe(t)), ids);
    assert_ids(plan->layer_ids, ids);
    assert_ok(grace_plan_save(plan, path));
    assert_ok(grace_plan_load(path, &back));
    assert_ok(gr_plan_equalise(plan, NULL, 0, &equal));
    assert_ids(back->layer_ids, ids);
    assert_ids(equal->layer_ids, ids);
    grace_trace_close(t);
    grace_plan_free(plan), grace_plan_free(back), grace_plan_free(equal);
}

static void they_go_from_a_trace_to_its_plan_and_through_files(void **state) {
    (void)state;
    char *folder = scratch_new();
    assert_kept(folder, IDS);
    assert_kept(folder, OTHERS);
    assert_kept(folder, NULL);
    scratch_free(folder);
}

static void a_plan_for_other_layers_is_refused_unless_one_side_does_not_know(void **state) {
    (void)state;
    grace_plan *plan = NULL;
    assert_ok(grace_plan_contiguous(3, 8, 2, (grace_cluster){1, 2}, &plan));
    assert_ok(grace_plan_check(plan, 0, 3, IDS, 8, 2, plan->cluster));
    assert_ok(gr_plan_set_layer_ids(plan, IDS));
    assert_ok(grace_plan_check(plan, 0, 3, NULL, 8, 2, plan->cluster));
    assert_ok(grace_plan_check(plan, 0, 3, IDS, 8, 2, plan->cluster));
    assert_failed(grace_plan_check(plan, 0, 3, OTHERS, 8, 2, plan->cluster), GRACE_ERR_MISMATCH,
                  "plan is for layers 1-2 5 of its model, the experts here are in layers 0-2");
    grace_plan_free(plan);
}

static void a_writer_refuses_numbers_that_do_not_rise(void **state) {
    (void)state;
    char *folder = scratch_new();
    static const int32_t bad[][3] = {{0, 0, 1}, {1, 3, 2}, {-1, 0, 1}, {0, 1, GR_LAYER_ID_MAX + 1}};
    static const char *const parts[] = {"'layer_ids'[1]: expected 1 to 4095, found 0", "[2]: expected 4 to 4095, found 2", "[0]: expected 0 to 4095, found -1",
                                        "[2]: expected 2 to 4095, found 4096"};
    for (int i = 0; i < 4; i++) {
        grace_trace_info info = {.n_layers = 3, .n_experts = 8, .top_k = 2, .n_ranks = 1, .n_nodes = 1};
        grace_trace_writer *w = NULL;
        gr_layer_ids_set(&info, bad[i]);
        assert_failed(grace_trace_create(in(folder, "t"), &info, NULL, 0, &w), GRACE_ERR_ARG, parts[i]);
    }
    assert_int_equal(scratch_count(folder), 0);
    scratch_free(folder);
}

/* A text with "layer_ids": value, for three layers. */
static grace_status read_ids(const char *value, int32_t ids[3], bool *known) {
    char text[128];
    gr_json *root = NULL;
    snprintf(text, sizeof text, "{\"layer_ids\": %s}", value);
    grace_status st = gr_json_parse("x.json", text, strlen(text), &root);
    if (!st) st = gr_layer_ids_read(root, "x.json", 3, ids, known);
    gr_json_free(root);
    return st;
}

static void what_is_read_is_an_array_of_rising_numbers_or_nothing(void **state) {
    (void)state;
    static const struct { const char *text, *part; } bad[] = {
        {"\"0-2\"", "expected an array, found a string"}, {"[1, 2]", "expected 3 numbers, one a layer, found 2"}, {"[1, 2, 3, 4]", "found 4"},
        {"[1, \"2\", 3]", "[1]: expected an integer, found a string"}, {"[1, 2.5, 3]", "expected an integer"},
        {"[2, 1, 3]", "[1]: expected 3 to 4095, found 1"},
        {"[-1, 1, 3]", "found -1"}, {"[0, 1, 4294967298]", "expected 0 to 4095, found 4294967298"}, {"7", "expected an array"}};
    int32_t ids[3];
    bool known = true;
    assert_ok(read_ids("null", ids, &known));
    assert_false(known);
    assert_ok(read_ids("[1, 2, 5]", ids, &known));
    assert_true(known);
    assert_ids(ids, IDS);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) assert_failed(read_ids(bad[i].text, ids, &known), GRACE_ERR_FORMAT, bad[i].part);
}

static grace_status open_folder(const char *folder, const char *value, grace_trace **out) {
    static const char ids[6] = {0, 1, 7, 3, 5, 4};
    char meta[160];
    snprintf(meta, sizeof meta, "{\"layers\":3,\"experts\":8,\"top_k\":1,\"tokens\":2,\"layer_ids\":%s}", value);
    assert_ok(gr_file_replace(in(folder, "topk.u8"), ids, sizeof ids));
    assert_ok(gr_file_replace(in(folder, "meta.json"), meta, strlen(meta)));
    return grace_trace_open(folder, out, NULL);
}

static void a_foreign_folder_tells_them_in_numbers_or_not_at_all(void **state) {
    (void)state;
    char *folder = scratch_new();
    grace_trace *t = NULL;
    assert_ok(open_folder(folder, "[1, 2, 5]", &t));
    assert_ids(gr_layer_ids_of(grace_trace_describe(t)), IDS);
    grace_trace_close(t);
    assert_ok(open_folder(folder, "\"1..3 (layer 0 is dense)\"", &t));
    assert_ids(gr_layer_ids_of(grace_trace_describe(t)), NULL);
    grace_trace_close(t);
    assert_failed(open_folder(folder, "[1, 2]", &t), GRACE_ERR_FORMAT, "expected 3 numbers");
    scratch_free(folder);
}

static void runs_of_layers_are_told_short(void **state) {
    (void)state;
    int32_t even[300];
    for (int32_t l = 0; l < 300; l++) even[l] = 2 * l;
    assert_string_equal(gr_layer_ids_text(IDS, 3).text, "1-2 5");
    assert_string_equal(gr_layer_ids_text(IDS, 1).text, "1");
    assert_string_equal(gr_layer_ids_text(NULL, 3).text, "unknown");
    assert_string_equal(gr_layer_ids_text(even, 300).text, "0 2 4 6 8 10 12 14 16 18 20 22 24 26 28 30 32 34 36 38 40 42...");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(they_go_from_a_trace_to_its_plan_and_through_files),
        cmocka_unit_test(a_plan_for_other_layers_is_refused_unless_one_side_does_not_know),
        cmocka_unit_test(a_writer_refuses_numbers_that_do_not_rise),
        cmocka_unit_test(what_is_read_is_an_array_of_rising_numbers_or_nothing),
        cmocka_unit_test(a_foreign_folder_tells_them_in_numbers_or_not_at_all),
        cmocka_unit_test(runs_of_layers_are_told_short),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
