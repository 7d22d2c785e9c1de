#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <math.h>

#include "report/data.h"        /* report/data.c, report/read.c, report/data_rungs.c, report/data_plan.c */
#include "report/document.h"

static gr_report_data *build(gr_json *doc) {
    gr_report_data *d = NULL;
    if (gr_report_data_build(doc, &d)) fail_msg("%s", grace_last_error());
    return d;
}

static void every_member_is_read(void **state) {
    (void)state;
    gr_json *doc = small();
    gr_report_data *d = build(doc);
    assert_string_equal(d->head.title, "T");
    assert_int_equal(d->head.n_ranks, 2);
    assert_int_equal(d->model_params, 100);
    assert_int_equal(d->n_decode, 2);
    assert_int_equal(d->n_rungs, 2);
    assert_int_equal(d->baseline, 0);
    assert_int_equal(d->n_layers, 1);
    assert_int_equal(d->rungs[0].rows_cross, 30);
    assert_int_equal(d->rungs[0].pair_rows[2], 20);
    assert_int_equal(d->rungs[0].load[1], 2);
    assert_int_equal(d->rungs[0].identical, GR_IDENTICAL);
    assert_true(d->rungs[0].time_us[GR_TIME_COMBINE] == 4);
    assert_int_equal(d->plan.knee_chosen, 1);
    assert_true(d->plan.knee[1].utility == 0.5);
    assert_int_equal(d->plan.affinity->order[0], 2);
    assert_int_equal(d->plan.affinity->values[6], 4);
    assert_true(d->paper_cross[1] == -52.1);
    assert_string_equal(d->texts[0].generated, "G");
    gr_report_data_free(d);
    gr_json_free(doc);
}

static void a_primary_among_the_hosts_is_left_out(void **state) {
    (void)state;
    gr_json *doc = small();
    gr_report_data *d = build(doc);
    assert_int_equal(d->plan.replicas[0].first_host[1], 1);
    assert_int_equal(d->plan.replicas[0].first_host[2], 2);
    assert_int_equal(d->plan.replicas[0].hosts[0], 1);
    assert_int_equal(d->plan.replicas[0].hosts[1], 1);
    gr_report_data_free(d);
    gr_json_free(doc);
}

static void what_is_absent_is_marked_absent(void **state) {
    (void)state;
    gr_json *doc = small();
    gr_report_data *d = build(doc);
    const gr_report_rung *b = &d->rungs[1];
    assert_null(b->pair_rows);
    assert_null(b->plan);
    assert_null(b->logits_hash);
    assert_false(b->has_times);
    assert_true(isnan(b->wall_us));
    assert_true(isnan(d->rungs[0].idle_measured_us));
    assert_int_equal(b->bytes_cross, -1);
    assert_int_equal(b->identical, GR_NOT_CHECKED);
    gr_report_data_free(d);
    gr_json_free(doc);
}

static void the_smallest_document_is_enough(void **state) {
    (void)state;
    static const char text[] =
        "{\"grace_report\":1,\"title\":\"\",\"cluster\":{\"nodes\":1,\"gpus_per_node\":1},\"rungs\":[{\"name\":\"x\",\"rows_cross_node\":0,"
        "\"rows_intra_node\":0,\"load_max_over_mean\":1,\"load_std\":0,\"idle_model_us\":0,\"moe_us\":0}]}";
    gr_json *doc = NULL;
    assert_int_equal(gr_json_parse("test", text, sizeof text - 1, &doc), GRACE_OK);
    gr_report_data *d = build(doc);
    assert_int_equal(d->baseline, -1);
    assert_int_equal(d->plan.n_replicas, -1);
    assert_int_equal(d->plan.n_knee, 0);
    assert_int_equal(d->n_texts, 0);
    assert_null(d->plan.affinity);
    assert_null(d->paper_cross);
    gr_report_data_free(d);
    gr_json_free(doc);
}

typedef struct damage { const char *from, *to, *named; } damage;    /* named: what the message must contain */

static void each_malformed_document_fails_with_format_and_names_its_key(void **state) {
    (void)state;
    static const damage all[] = {
        {"\"grace_report\":1", "\"grace_report\":2", "'grace_report': expected version 1, found 2"},
        {"\"grace_report\":1,", "", "'grace_report'"},
        {"\"title\":\"T\"", "\"title\":7", "'title': expected a string, found an integer"},
        {"\"command\":\"c\"", "\"command\":[]", "'command'"},
        {"\"reference_hash\":\"beef\"", "\"reference_hash\":\"<b>\"", "'reference_hash': expected 1 to 64 hexadecimal digits"},
        {"\"model\":{", "\"model\":7,\"x\":{", "'model': expected an object"},
        {"\"top_k\":2", "\"top_k\":-2", "'top_k'"},
        {"\"cluster\":", "\"x\":", "'cluster'"},
        {"\"nodes\":2", "\"nodes\":0", "'nodes': expected 1 to 1024, found 0"},
        {"\"gpus_per_node\":1", "\"gpus_per_node\":1024", "'gpus_per_node': expected 1 to 512, found 1024"},
        {"\"workload\":{", "\"workload\":\"w\",\"x\":{", "'workload'"},
        {"\"rungs\":[", "\"rungs\":{\"x\":0},\"y\":[", "'rungs': expected an array"},
        {"\"rungs\":[", "\"rungs\":[],\"y\":[", "'rungs': expected 1 to 64 elements, found 0"},
        {"{\"name\":\"B\"", "7,{\"name\":\"B\"", "rungs[1]: expected an object, found an integer"},
        {"\"name\":\"B\"", "\"name\":null", "rungs[1]: 'name'"},
        {"\"name\":\"B\"", "\"name\":\"B\",\"baseline\":true", "rungs[1]: 'baseline' is true, but rungs[0] is the baseline already"},
        {"\"rows_cross_node\":15,", "", "rungs[1]: 'rows_cross_node'"},
        {"\"rows_cross_node\":30", "\"rows_cross_node\":1e3", "rungs[0]: 'rows_cross_node': expected an integer"},
        {"\"rows_cross_node\":30", "\"rows_cross_node\":9999999999999999", "'rows_cross_node': expected 0 to"},
        {"\"rows_cross_node\":30", "\"rows_cross_node\":31", "'pair_rows' adds up to 30 rows between nodes, 'rows_cross_node' says 31"},
        {"\"rows_intra_node\":0", "\"rows_intra_node\":1", "'pair_rows' adds up to 0 rows inside nodes, 'rows_intra_node' says 1"},
        {"\"load_std\":2", "\"load_std\":-2", "'load_std': expected 0 to 1e15, found -2"},
        {"\"moe_us\":1000", "\"moe_us\":1e300", "'moe_us': expected 0 to 1e15"},
        {"\"moe_us_spread\":5", "\"moe_us_spread\":true", "'moe_us_spread'"},
        {"\"identical\":true", "\"identical\":\"yes\"", "'identical': expected a boolean"},
        {"\"identical\":true", "\"identical\":false", "'identical' is false, but 'logits_hash' is beef and 'reference_hash' is beef"},
        {"\"logits_hash\":\"beef\"", "\"logits_hash\":\"dead\"", "'identical' is true, but 'logits_hash' is dead"},
        {"[[1,10],[20,2]]", "[[1,10]]", "rungs[0]: 'pair_rows': expected 2 rows, found 1"},
        {"[[1,10],[20,2]]", "[[1,10],[20]]", "'pair_rows[1]': expected 2 values, found 1"},
        {"[[1,10],[20,2]]", "[[1,10],20]", "'pair_rows[1]': expected an array"},
        {"[[1,10],[20,2]]", "[[1,10],[20,-2]]", "'pair_rows[1]': '[1]'"},
        {"\"load\":[[6,2]]", "\"load\":[[6,2],[1,1]]", "rungs[1]: 'load': expected 2 rows, found 1"},
        {"\"load\":[[6,2]]", "\"load\":[]", "rungs[0]: 'load'"},
        {"\"load\":[[6,2]]", "\"load\":[[6,2,3]]", "'load[0]': expected 2 values, found 3"},
        {"\"combine\":4", "\"combin\":4", "time_us: 'combine'"},
        {"\"chosen\":1", "\"chosen\":2", "knee: 'chosen': expected 0 to 1, found 2"},
        {"\"points\":[", "\"points\":[],\"x\":[", "knee: 'points'"},
        {"\"utility\":0.5", "\"utility\":\"0.5\"", "knee: points[1]: 'utility'"},
        {"\"replicas\":[", "\"replicas\":[7,", "replicas[0]: expected an object"},
        {"\"primary_rank\":0", "\"primary_rank\":2", "replicas[0]: 'primary_rank': expected 0 to 1, found 2"},
        {"[[0,1],[1]]", "[[0,1]]", "replicas[0]: 'hosts': expected 2 to 2 elements, found 1"},
        {"[[0,1],[1]]", "[[0,1],[2]]", "'hosts[1]': '[0]': expected 0 to 1, found 2"},
        {"[[0,1],[1]]", "[[0,1],{\"x\":1}]", "'hosts[1]': expected an array"},
        {"\"experts\":[3,1]", "\"experts\":[3,-1]", "replicas[0]: 'experts'"},
        {"\"n\":4", "\"n\":5", "affinity: 'values': expected 25 values, found 16"},
        {"\"n\":4", "\"n\":1025", "affinity: 'n': expected 1 to 1024, found 1025"},
        {"\"order\":[2,0,3,1]", "\"order\":[2,0,2,1]", "affinity: 'order': expected every expert once, found 2 twice"},
        {"\"order\":[2,0,3,1]", "\"order\":[2,0,3]", "affinity: 'order': expected 4 values, found 3"},
        {"\"groups\":[1,3]", "\"groups\":[1,2]", "affinity: 'groups': expected sizes that add up to 4 experts, found 3"},
        {"\"ranks\":[0,1]", "\"ranks\":[0]", "affinity: 'ranks': expected one for each of 2 groups, found 1"},
        {"\"values\":[0,", "\"values\":[0.5,", "affinity: 'values': '[0]': expected an integer"},
        {"\"cross\":[0,-52.1]", "\"cross\":[0]", "paper: 'cross': expected one value for each of 2 rungs, found 1"},
        {"\"cross\":[0,-52.1]", "\"cross\":[0,\"x\"]", "paper: 'cross': '[1]': expected a number"},
        {"\"prompt\":\"P\"", "\"prompt\":1", "text[0]: 'prompt'"},
        {"\"text\":[", "\"text\":[[],", "text[0]: 'prompt'"},
    };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
        gr_json *doc = document_with(all[i].from, all[i].to);
        gr_report_data *d = NULL;
        grace_status st = gr_report_data_build(doc, &d);
        if (st != GRACE_ERR_FORMAT || !strstr(grace_last_error(), all[i].named))
            fail_msg("%s -> %s: status %d, '%s', expected '%s'", all[i].from, all[i].to, (int)st, grace_last_error(), all[i].named);
        assert_null(d);
        gr_json_free(doc);
    }
}

static void a_document_that_is_no_object_is_refused(void **state) {
    (void)state;
    gr_json *doc = gr_json_new_array();
    gr_report_data *d = NULL;
    assert_int_equal(gr_report_data_build(doc, &d), GRACE_ERR_FORMAT);
    assert_string_equal(grace_last_error(), "report: expected an object, found an array");
    gr_json_free(doc);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_member_is_read),
        cmocka_unit_test(a_primary_among_the_hosts_is_left_out),
        cmocka_unit_test(what_is_absent_is_marked_absent),
        cmocka_unit_test(the_smallest_document_is_enough),
        cmocka_unit_test(each_malformed_document_fails_with_format_and_names_its_key),
        cmocka_unit_test(a_document_that_is_no_object_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
