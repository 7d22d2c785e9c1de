/* grace sim from outside: a table, one object for programs, and sentences for what does not fit. */
#include <math.h>

#include "program.h"

static const gr_json *first_of(const gr_json *o, const char *key) { return gr_json_at(member(o, key), 0); }

static void plans_are_compared_on_a_workload(void **state) {
    (void)state;
    GRACE(0, "sim", PROFILED, "-m", MODEL, "--plan", "contiguous", "--plan", "replicate-node", "--workload", "16,32,4", "--json");
    gr_json *o = printed_json();
    const gr_json *plain = first_of(o, "plans"), *copies = gr_json_at(member(o, "plans"), 1);
    assert_true(number_of(o, "grace_sim") == 1 && gr_json_length(member(o, "others")) == 3);
    assert_true(number_of(plain, "tokens_prefill") == 16 * 32 && number_of(plain, "tokens_decode") == 16 * 4);
    assert_true(number_of(member(plain, "rows_per_token"), "cross") > 0.9 && number_of(member(copies, "rows_per_token"), "cross") == 0);
    assert_true(number_of(member(plain, "seconds"), "total") > number_of(member(copies, "seconds"), "total"));
    assert_true(number_of(member(copies, "memory"), "replica_bytes_max") > number_of(member(plain, "memory"), "replica_bytes_max"));
    assert_int_equal(gr_json_length(member(plain, "layers")), 8);
    assert_int_equal(gr_json_length(member(plain, "pair_rows")), 4);
    double parts = 0;
    static const char *const names[] = {"cross", "intra", "latency", "experts", "dense"};
    for (int i = 0; i < 5; i++) parts += number_of(member(member(plain, "seconds"), "prefill"), names[i]);
    assert_true(fabs(parts - number_of(member(member(plain, "seconds"), "prefill"), "total")) < 1e-9);
    gr_json_free(o);
}

static void a_run_s_own_trace_is_replayed_by_its_steps(void **state) {
    (void)state;
    GRACE(0, "run", "-m", MODEL, "-p", "The old captain", "-n", "6", "--trace", "run.trace", "--json");
    gr_json *o = printed_json();
    double tokens = number_of(member(o, "stats"), "tokens"), steps = number_of(member(o, "stats"), "steps");
    gr_json_free(o);
    GRACE(0, "sim", "run.trace", "--cluster", "1x1", "--rates", "cpu", "--json");
    o = printed_json();
    const gr_json *plan = first_of(o, "plans");
    assert_int_equal(gr_json_kind_of(member(o, "workload")), GR_JSON_NULL);
    assert_true(number_of(plan, "tokens_prefill") + number_of(plan, "tokens_decode") == tokens);
    assert_true(number_of(member(plan, "steps"), "prefill") + number_of(member(plan, "steps"), "decode") == steps);
    gr_json_free(o);
}

static double mean_active(const gr_json *plan, const char *key) {
    const gr_json *layers = member(plan, "layers");
    double sum = 0;
    for (size_t i = 0; i < gr_json_length(layers); i++) sum += number_of(gr_json_at(layers, i), key);
    return sum / (double)gr_json_length(layers);
}

static void copies_that_rest_in_decode_steps_leave_fewer_experts_to_read(void **state) {
    (void)state;
    GRACE(0, "plan", PROFILED, "--planner", "replicate-node", "-o", "one.json");
    GRACE(0, "plan", PROFILED, "--planner", "replicate-node", "--rates", "h200-400g", "--decode-tokens", "64", "-o", "two.json", "--json");
    gr_json *o = printed_json();
    const gr_json *d = member(o, "decode");
    assert_true(number_of(d, "tokens") == 64 && number_of(d, "rest") > 0 && number_of(d, "rest") <= number_of(d, "copies"));
    assert_true(number_of(member(d, "after"), "seconds") < number_of(member(d, "before"), "seconds"));
    gr_json_free(o);
    GRACE(0, "sim", PROFILED, "-m", MODEL, "--plan", "one.json", "--plan", "two.json", "--workload", "256,16,4", "--json");
    o = printed_json();
    const gr_json *one = first_of(o, "plans"), *two = gr_json_at(member(o, "plans"), 1);
    assert_true(mean_active(two, "active_decode") < mean_active(one, "active_decode"));
    assert_true(mean_active(two, "active_prefill") == mean_active(one, "active_prefill"));
    gr_json_free(o);
}

static void a_large_cluster_is_synthetic_and_says_so(void **state) {
    (void)state;
    GRACE(0, "sim", "--synthetic", "experts=64,top_k=4,layers=1,zipf=0.5", "--cluster", "128x8", "--plan", "tiled:64", "--workload", "1024,0,1");
    assert_non_null(strstr(last.out, "made-up routing (synthetic)"));
    assert_non_null(strstr(last.out, "tiled:64"));
}

static void what_does_not_fit_is_told(void **state) {
    (void)state;
    GRACE(64, "sim");
    complains_of_usage("expected a trace or --synthetic");
    GRACE(64, "sim", PROFILED, "--workload", "1,2");
    complains_of_usage("--workload: expected SEQUENCES,PREFILL,DECODE, found '1,2'");
    GRACE(64, "sim", PROFILED, "--workload", "4294967297,1,2");        /* as an int it would be 1 */
    complains_of_usage("found '4294967297,1,2'");
    GRACE(64, "bench", "placements", PROFILED, "--workload", "1,2,3,4");
    complains_of_usage("found '1,2,3,4'");
    GRACE(64, "sim", "--synthetic", "expert=3");
    complains_of_usage("--synthetic: expected experts");
    GRACE(64, "sim", "--synthetic", "experts=8.5");
    complains_of_usage("--synthetic: expected a whole number of experts, found 8.5");
    GRACE(64, "sim", "--synthetic", "layers=0");
    complains_of_usage("--synthetic: expected at least 1 layer, found 0");
    GRACE(1, "sim", PROFILED, "--rates", "h100");
    complains("rates 'h100': expected a file, or one of h200-1g");
    GRACE(1, "sim", PROFILED, "--shape", "qwen3-30b-a3b");
    complains("the model qwen3-30b-a3b has 48 layers of 128 experts, top-8; the routing has 8 of 64, top-8");
    GRACE(1, "sim", PROFILED, "--plan", "tiled:3");
    complains("tiled:3: expected all 64 experts on every R ranks");
    GRACE(0, "plan", PROFILED, "--cluster", "2x2", "-o", "2x2.json");
    GRACE(1, "sim", PROFILED, "--plan", "2x2.json", "--cluster", "4x1");
    complains("2x2.json is for 2x2, --cluster says 4x1");
    GRACE(1, "sim", "--synthetic", "layers=2", "--plan", "2x2.json");
    complains("the plan is for 8 layers of 64 experts, top-8; the routing has 2 of 256, top-8");
    write_text("rates.json", "{\"grace_rates\": 1}");
    GRACE(1, "sim", PROFILED, "--rates", "rates.json");
    complains("rates.json");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(plans_are_compared_on_a_workload),
        cmocka_unit_test(a_run_s_own_trace_is_replayed_by_its_steps),
        cmocka_unit_test(copies_that_rest_in_decode_steps_leave_fewer_experts_to_read),
        cmocka_unit_test(a_large_cluster_is_synthetic_and_says_so),
        cmocka_unit_test(what_does_not_fit_is_told),
    };
    return cmocka_run_group_tests(tests, folder_enter, folder_leave);
}
