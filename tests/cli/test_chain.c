/* From text to a report: profile, inspect, plan, run, bench ladder, report. Each step reads what the one before wrote. */
#include <math.h>

#include "base/file.h"
#include "program.h"

static void profile_writes_a_trace(void **state) {
    (void)state;
    GRACE(0, "profile", "-m", MODEL, SAMPLES "/prose.txt", SAMPLES "/math.txt", SAMPLES "/code.txt", "--documents", "even", "--tokens", "512",
          "--window", "64", "--weights", "f16", "-o", "chain.trace", "--json");
    gr_json *o = printed_json();
    assert_string_equal(text_of(o, "trace"), "chain.trace");
    assert_true(number_of(o, "tokens") == 3 * 512);
    assert_int_equal(gr_json_length(member(o, "layers")), 8);
    gr_json_free(o);
    assert_int_equal(n_files("chain.trace*"), 1);
}

static void inspect_shows_the_trace(void **state) {
    (void)state;
    GRACE(0, "inspect", "chain.trace", "--json");
    gr_json *o = printed_json();
    assert_string_equal(text_of(o, "kind"), "trace");
    assert_string_equal(text_of(o, "domains"), "prose math code");
    assert_true(number_of(o, "tokens") == 3 * 512 && number_of(o, "tokens_prefill") == 3 * 512 && number_of(o, "vocab") == 4096);
    assert_string_equal(text_of(o, "weights"), "f16");
    assert_true(number_of(o, "moe_layers") == 8 && number_of(o, "experts") == 64 && number_of(o, "top_k") == 8);
    gr_json_free(o);
}

static void inspect_shows_the_model_the_trace_is_of(void **state) {
    (void)state;
    char fingerprint[32];
    GRACE(0, "inspect", MODEL, "--json");
    gr_json *o = printed_json();
    assert_string_equal(text_of(o, "kind"), "model");
    assert_true(number_of(o, "hidden") == 192 && number_of(o, "vocabulary") == 4096 && number_of(o, "context") == 2048);
    snprintf(fingerprint, sizeof fingerprint, "%s", text_of(o, "fingerprint"));
    gr_json_free(o);
    GRACE(0, "inspect", "chain.trace", "--json");
    o = printed_json();
    assert_string_equal(text_of(o, "fingerprint"), fingerprint);
    gr_json_free(o);
}

static void plan_reads_the_trace(void **state) {
    (void)state;
    GRACE(0, "plan", "chain.trace", "--cluster", "node:2 gpu:2", "-o", "chain.json", "--json");
    gr_json *o = printed_json();
    assert_int_equal(gr_json_length(member(o, "layers")), 8);
    assert_true(number_of(o, "affinity_inside_node") >= number_of(o, "affinity_inside_gpu"));
    double replicas = number_of(o, "replicas");
    gr_json_free(o);
    GRACE(0, "inspect", "chain.json", "--json");
    o = printed_json();
    assert_string_equal(text_of(o, "kind"), "plan");
    assert_string_equal(text_of(o, "cluster"), "node:2 gpu:2");
    assert_true(number_of(o, "replicas") == replicas);
    assert_true(number_of(o, "slots") == 8 * 64 + replicas);
    gr_json_free(o);
}

static void the_same_trace_gives_the_same_plan(void **state) {
    (void)state;
    GRACE(0, "plan", "chain.trace", "-o", "again.json");
    char *first = read_file("chain.json", NULL), *again = read_file("again.json", NULL);
    assert_string_equal(again, first);
    free(first);
    free(again);
}

/* Each planner and replication a plan can be asked for, from one domain and from every second sequence. */
static void plans_of_every_kind_are_made(void **state) {
    (void)state;
    static const char *const kinds[] = {"--planner=contiguous", "--planner=uniform", "--grouping=free", "--grouping=uniform", "--replication=fixed",
                                        "--replication=none", "--ratio=0.5", "--train=domain:math", "--train=odd", "--train=even domain:math",
                                                "--cluster=3x2", "--cluster=1x1"};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        GRACE(0, "plan", "chain.trace", kinds[i], "-o", "kind.json");
        GRACE(0, "inspect", "kind.json");
        assert_non_null(strstr(last.out, "moe_layers"));
    }
}

static void a_plan_that_names_itself_badly_moves_no_cursor(void **state) {
    (void)state;
    size_t n = 0;
    char *text = read_file("chain.json", &n), *at = strstr(text, "\"planner\": \"grace\"");
    assert_non_null(at);
    memcpy(at, "\"planner\":\"\\u001b\"", strlen("\"planner\": \"grace\""));        /* as long as it was */
    assert_int_equal(gr_file_replace("bad-name.json", text, n), GRACE_OK);
    free(text);
    GRACE(0, "inspect", "bad-name.json");
    assert_non_null(strstr(last.out, "planner            ?\n"));
    assert_null(strchr(last.out, 0x1b));
}

/* What each of them looks like is the business of tests/interop. */
static void plans_are_written_for_other_engines(void **state) {
    (void)state;
    static const char *const formats[] = {"sglang", "flat", "trtllm", "ascend", "omni"};
    for (size_t i = 0; i < sizeof formats / sizeof *formats; i++) {
        size_t n = 0;
        GRACE(0, "plan", "chain.trace", "--equal-slots", "--format", formats[i], "-o", "foreign");
        free(read_file("foreign", &n));
        assert_true(n > 1000);
        assert_int_equal(strstr(last.out, "for SGLang: --init-expert-location foreign --ep-num-redundant-experts ") != NULL, i == 0);
        assert_int_equal(strstr(last.out, "SGLang reads a file only if its name ends in .json") != NULL, i == 0);
        assert_int_equal(remove("foreign"), 0);
    }
    GRACE(1, "plan", "chain.trace", "--format", "flat", "-o", "foreign");
    complains("foreign: without --equal-slots: this format has as many slots on every rank of every layer");
    assert_int_equal(n_files("foreign*"), 0);
}

static void a_plan_from_loads_alone_claims_nothing_of_affinity(void **state) {
    (void)state;
    static const char loads[] = "[[5, 1, 1, 1, 3, 1, 1, 1], [1, 1, 4, 1, 1, 2, 1, 1]]";
    write_file("loads.json", loads, sizeof loads - 1);
    GRACE(0, "plan", "loads.json", "-o", "from_loads.json");
    assert_non_null(strstr(last.out, "loads only: nothing is known of which experts fire together"));
    assert_null(strstr(last.out, "affinity"));
    GRACE(0, "plan", "loads.json", "-o", "from_loads.json", "--json");
    gr_json *o = printed_json();
    assert_null(gr_json_get(o, "affinity_inside_gpu"));
    gr_json_free(o);
}

static void a_plan_is_measured_on_other_tokens_than_its_own(void **state) {
    (void)state;
    GRACE(0, "plan", "chain.trace", "--train", "even", "--test", "odd", "-o", "half.json", "--json");
    gr_json *o = printed_json();
    const gr_json *from = member(o, "planned_from"), *test = member(o, "test");
    assert_string_equal(text_of(from, "file"), "chain.trace");
    assert_string_equal(text_of(from, "tokens"), "even");
    assert_string_equal(text_of(test, "tokens"), "odd");
    assert_int_equal(number_of(from, "n_tokens") + number_of(test, "n_tokens"), 3 * 512);
    assert_true(number_of(test, "rows_cross") > 0 && number_of(test, "load_max_over_mean") >= 1);
    gr_json_free(o);
    GRACE(0, "plan", "chain.trace", "--train", "domain:prose,math", "--test", "domain:code", "-o", "domain.json");
    assert_non_null(strstr(last.out, "planned from: chain.trace, domain:prose,math, 1024 tokens\n"));
    assert_non_null(strstr(last.out, "measured on: chain.trace, domain:code, 512 tokens\n"));
    static const char *const shared[][2] = {{"all", "all"}, {"even", "all"}, {"domain:prose", "domain:prose,math"}, {"domain:prose", "odd"}};
    for (size_t i = 0; i < sizeof shared / sizeof *shared; i++) {
        GRACE(1, "plan", "chain.trace", "--train", shared[i][0], "--test", shared[i][1], "-o", "none.json");
        complains("share some with those of --train");
    }
    assert_int_equal(n_files("none.json*"), 0);
    GRACE(0, "run", "-m", MODEL, "-p", "The old captain", "-n", "8", "--trace", "other.trace");
    GRACE(0, "plan", "chain.trace", "--test-trace", "other.trace", "-o", "two.json");
    assert_non_null(strstr(last.out, "measured on: other.trace, all, "));
    assert_int_equal(rename("other.trace", "renamed.trace"), 0);
    GRACE(1, "plan", "renamed.trace", "--test-trace", "renamed.trace");
    complains("share some with those of --train");
}

static void a_trace_of_a_run_can_be_planned(void **state) {
    (void)state;
    GRACE(0, "run", "-m", MODEL, "-p", "The old captain", "-n", "8", "--trace", "run.trace", "--ranks", "2x2", "--plan", "chain.json", "--json");
    gr_json *o = printed_json();
    int32_t n_ids = (int32_t)gr_json_length(member(o, "token_ids"));
    assert_int_equal(n_ids, 8);
    double copies = number_of(member(o, "stats"), "replica_bytes_max");
    gr_json_free(o);
    GRACE(0, "inspect", MODEL, "--plan", "chain.json", "--json");
    o = printed_json();
    assert_true(number_of(o, "rank_replica_bytes") == copies && copies > 0);       /* what inspect told is what the ranks held */
    gr_json_free(o);
    GRACE(0, "inspect", "run.trace", "--json");
    o = printed_json();
    assert_true(number_of(o, "ranks") == 4 && number_of(o, "nodes") == 2 && number_of(o, "sequences") == 1);
    gr_json_free(o);
    GRACE(0, "plan", "run.trace", "-o", "run.json");
}

static void one_request_says_the_same_wherever_it_lives(void **state) {
    (void)state;
    static const char *const homes[] = {"vocab", "histogram"};
    GRACE(0, "run", "-m", MODEL, "-p", "The old captain", "-n", "8", "--exact", "--ranks", "2x2", "--plan", "chain.json");
    char *text = strdup(last.out);
    assert_non_null(text);
    for (size_t i = 0; i < 2; i++) {
        GRACE(0, "run", "-m", MODEL, "-p", "The old captain", "-n", "8", "--exact", "--ranks", "2x2", "--plan", "chain.json", "--homes", homes[i]);
        assert_string_equal(last.out, text);
    }
    free(text);
    GRACE(0, "run", "-m", MODEL, "-p", "The old captain", "-n", "8", "--ranks", "2x2", "--plan", "chain.json", "--homes", "histogram", "--json");
    gr_json *o = printed_json();
    const gr_json *request = gr_json_at(member(o, "requests"), 0), *stats = member(o, "stats");
    assert_string_equal(text_of(o, "homes"), "histogram");
    assert_true((number_of(stats, "moved_requests") == 1) == (number_of(request, "home") != number_of(request, "first_home")));
    assert_true((number_of(stats, "moved_kv_bytes") > 0) == (number_of(request, "rows_at_first_home") > 0));
    gr_json_free(o);
}

static void every_rung_of_the_ladder_is_identical(void **state) {
    (void)state;
    GRACE(0, "bench", "ladder", "-m", MODEL, "--trace", "chain.trace", SAMPLES "/prose.txt", SAMPLES "/math.txt", SAMPLES "/code.txt",
          "--sequences", "8", "--prefill", "16", "--decode", "4", "--ranks", "2x2", "-o", "ladder.json", "--plans", "plans", "--json");
    gr_json *o = printed_json();
    const gr_json *rungs = member(o, "rungs");
    assert_int_equal(gr_json_length(rungs), 7);
    for (size_t i = 0; i < 7; i++) {
        bool identical = false;
        assert_true(gr_json_is_bool(member(gr_json_at(rungs, i), "identical"), &identical));
        if (!identical) fail_msg("rung '%s' changed the output", text_of(gr_json_at(rungs, i), "name"));
    }
    gr_json_free(o);
    assert_int_equal(n_files("plans/rung-?.json"), 7);
    assert_int_equal(n_files("ladder.json*"), 1);
}

/* Rates measured on these ranks, and times predicted from them beside those measured. That they order alike is no test: they were measured. */
static void rates_are_measured_and_predict_the_ladder(void **state) {
    (void)state;
    GRACE(0, "bench", "net", "-m", MODEL, "--ranks", "2x2", "--repeat", "3", "--seconds", "0.01", "-o", "net.json", "--json");
    gr_json *o = printed_json();
    assert_true(number_of(member(o, "cross"), "bytes_per_s") > 0 && number_of(member(o, "intra"), "latency_us") > 0 && number_of(o, "flop_per_s") > 0);
    gr_json_free(o);
    GRACE(0, "bench", "agreement", "ladder.json", "-m", MODEL, "--trace", "chain.trace", "--rates", "./net.json", "-o", "agreement.json", "--json");
    o = printed_json();
    const gr_json *rungs = member(o, "rungs");
    assert_int_equal(gr_json_length(rungs), 7);
    for (size_t i = 0; i < 7; i++) assert_true(number_of(gr_json_at(rungs, i), "moe_predicted_s") > 0 && number_of(gr_json_at(rungs, i), "moe_measured_s") > 0);
    assert_true(fabs(number_of(o, "kendall_tau")) <= 1);
    gr_json_free(o);
    assert_int_equal(n_files("agreement.json*"), 1);
}

static void report_draws_the_ladder(void **state) {
    (void)state;
    size_t n;
    GRACE(0, "report", "ladder.json", "-o", "report.html", "--json");
    gr_json *o = printed_json();
    char *page = read_file("report.html", &n);
    assert_true(number_of(o, "bytes") == (double)n);
    assert_non_null(strstr(page, "</html>"));
    assert_non_null(strstr(page, "<svg"));
    assert_null(strstr(page, "src="));              /* self-contained */
    assert_null(strstr(page, "<link"));
    free(page);
    gr_json_free(o);
    GRACE(0, "report", "ladder.json", "-o", "report.html");
    assert_non_null(strstr(last.out, "HG + HSC + DR + TAR"));
    assert_null(strstr(last.out, " no\n"));
}

#define LONG_WAY "./././././././././././././././././"

static void report_draws_plans_on_tokens_not_seen(void **state) {
    (void)state;
    size_t n;
    GRACE(0, "plan", "chain.trace", "--train", "even", "--planner", "contiguous", "-o", "plain.json", "--json");
    GRACE(0, "plan", "chain.trace", "--train", "even", "-o", "paper.json", "--json");
    GRACE(0, "report", "plain.json", "paper.json", "--trace", "chain.trace", "--test", "odd", "-o", "plans.html");
    assert_non_null(strstr(last.out, "plain.json")), assert_non_null(strstr(last.out, "paper.json"));
    assert_non_null(strstr(last.out, "predicted for h200-25g, 256 sequences of 128 + 16 tokens; plans.html says"));
    char *page = read_file("plans.html", &n);
    assert_non_null(strstr(page, "odd of chain.trace"));
    assert_null(strstr(page, "planned from"));
    free(page);
    GRACE(0, "report", LONG_WAY "plain.json", LONG_WAY "paper.json", "--trace", "chain.trace", "--test", "odd", "-o", "plans.html");
    assert_non_null(strstr(last.out, "\nplain.json ")), assert_non_null(strstr(last.out, "\npaper.json "));
    GRACE(0, "sim", "chain.trace", "--plan", LONG_WAY "plain.json");
    assert_non_null(strstr(last.out, "/plain.json "));
    GRACE(0, "report", "paper.json", "--trace", "chain.trace", "-o", "plans.html");        /* all tokens: the page says that some were planned from */
    page = read_file("plans.html", &n);
    assert_non_null(strstr(page, "some are those planned from: paper.json"));
    free(page);
    GRACE(1, "report", "paper.json", "-o", "none.html");
    assert_non_null(strstr(last.err, "expected --trace"));
    assert_int_equal(n_files("none.html"), 0);
    GRACE(1, "report", "plain.json", "paper.json");
    assert_non_null(strstr(last.err, "several files"));
}

static void report_draws_simulations(void **state) {
    (void)state;
    size_t n;
    SHELL(0, "$G sim chain.trace --plan contiguous --plan replicate-node --workload 4,16,2 --json > a.json && $G sim chain.trace --plan plain.json "
             "--workload 4,16,2 --json > b.json");
    GRACE(0, "report", "a.json", "b.json", "-o", "sims.html");
    assert_non_null(strstr(last.out, "replicate-node")), assert_non_null(strstr(last.out, "plain.json"));
    char *page = read_file("sims.html", &n);
    assert_non_null(strstr(page, "Placements, replayed"));
    free(page);
    SHELL(0, "$G sim chain.trace --plan contiguous --cluster 1x2 --workload 4,16,2 --json > c.json");
    GRACE(1, "report", "a.json", "c.json", "-o", "none.html");
    assert_non_null(strstr(last.err, "c.json: a plan for node:1 gpu:2 beside one for node:2 gpu:2"));
    GRACE(1, "report", "a.json", "plain.json", "-o", "none.html");
    assert_int_equal(n_files("none.html"), 0);
}

static void bench_placements_writes_what_report_draws(void **state) {
    (void)state;
    GRACE(0, "bench", "placements", "chain.trace", "--cluster", "2x1", "--workload", "4,32,2", "-o", "placements.json");
    assert_non_null(strstr(last.out, "replicate-node"));
    GRACE(0, "report", "placements.json", "-o", "placements.html", "--json");
    gr_json *o = printed_json();
    assert_true(number_of(o, "bytes") > 50000);
    gr_json_free(o);
}

static void the_other_benches_print_json(void **state) {
    (void)state;
    GRACE(0, "bench", "plan", "chain.trace", "--clusters", "2x1", "--json");
    gr_json *o = printed_json();
    assert_true(number_of(gr_json_at(member(o, "cases"), 0), "rows_cross") > 0);
    gr_json_free(o);
    GRACE(0, "bench", "moe", "-m", MODEL, "--tokens", "16", "--steps", "2", "--json");
    o = printed_json();
    assert_true(number_of(o, "layer_us") > 0 && number_of(o, "bookkeeping_share") > 0);
    gr_json_free(o);
    GRACE(0, "bench", "cpu", "-m", MICRO("olmoe"), "--prefill", "16", "--decode", "4", "--repeat", "1", "--json");
    o = printed_json();
    assert_true(number_of(member(o, "prefill"), "share_of_roofline") > 0 && number_of(member(o, "decode"), "tokens_s") > 0);
    const gr_json *memory = member(o, "memory"), *before = member(memory, "process"), *after = member(memory, "steps");
    assert_true(number_of(before, "own_bytes") > 0 && number_of(after, "own_bytes") > number_of(before, "own_bytes"));
    assert_true(number_of(memory, "peak_bytes") >= number_of(after, "own_bytes") + number_of(after, "mapped_bytes"));
    gr_json_free(o);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(profile_writes_a_trace),
        cmocka_unit_test(inspect_shows_the_trace),
        cmocka_unit_test(inspect_shows_the_model_the_trace_is_of),
        cmocka_unit_test(plan_reads_the_trace),
        cmocka_unit_test(the_same_trace_gives_the_same_plan),
        cmocka_unit_test(plans_of_every_kind_are_made),
        cmocka_unit_test(a_plan_that_names_itself_badly_moves_no_cursor),
        cmocka_unit_test(plans_are_written_for_other_engines),
        cmocka_unit_test(a_plan_from_loads_alone_claims_nothing_of_affinity),
        cmocka_unit_test(a_plan_is_measured_on_other_tokens_than_its_own),
        cmocka_unit_test(a_trace_of_a_run_can_be_planned),
        cmocka_unit_test(one_request_says_the_same_wherever_it_lives),
        cmocka_unit_test(every_rung_of_the_ladder_is_identical),
        cmocka_unit_test(rates_are_measured_and_predict_the_ladder),
        cmocka_unit_test(report_draws_the_ladder),
        cmocka_unit_test(report_draws_plans_on_tokens_not_seen),
        cmocka_unit_test(report_draws_simulations),
        cmocka_unit_test(bench_placements_writes_what_report_draws),
        cmocka_unit_test(the_other_benches_print_json),
    };
    return cmocka_run_group_tests(tests, folder_enter, folder_leave);
}
