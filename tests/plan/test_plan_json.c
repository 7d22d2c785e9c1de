#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <sys/resource.h>

#include <float.h>
#include <unistd.h>

#include "base/file.h"
#include "plan/plan_claims.h"
#include "plan/plan_json.h"
#include "support/guard.h"
#include "support/random_plan.h"

/* Two ranks, four experts; expert 1 of rank 0 has a copy on rank 1. Edits of this text are the bad inputs below. */
static const char GOOD[] =
    "{\"grace_plan\": 1, \"planner\": \"grace\", \"grouping\": \"controlled\", \"replication\": \"dynamic\",\n"
    " \"fingerprint\": \"00000000000000ff\", \"seed\": \"0000000000000007\", \"cluster\": \"node:1 gpu:2\",\n"
    " \"n_layers\": 1, \"n_experts\": 4, \"top_k\": 2, \"r\": 0.5, \"knee_chosen\": 0,\n"
    " \"knee\": [{\"delta\": 1, \"r\": 0.5, \"size_std\": 0.25, \"utility\": 0.75}],\n"
    " \"layers\": [{\"n_replica\": 1, \"primary\": [[1, 3], [0, 2]], \"secondary\": [[], [1]],\n"
    "   \"poll_weight\": [0.75, 1, 1, 1, 0.25], \"load_before\": [30, 10], \"load_after\": [20.5, 19.5]}]}\n";

static grace_status parse(const char *text, size_t n, grace_plan **out) {
    const uint8_t *copy = guard_copy(text, n);
    grace_status st = gr_plan_parse("plan.json", (const char *)copy, n, out);
    guard_free(copy, n);
    return st;
}

/* GOOD with the first occurrence of `from` replaced. */
static void edit(const char *from, const char *to, char *out, size_t size) {
    const char *at = strstr(GOOD, from);
    if (!at) fail_msg("'%s' is not in the text", from);
    snprintf(out, size, "%.*s%s%s", (int)(at - GOOD), GOOD, to, at + strlen(from));
}

static void a_plan_is_read_into_its_tables(void **state) {
    (void)state;
    grace_plan *plan = NULL;
    const int32_t experts[5] = {1, 3, 0, 2, 1}, first[3] = {0, 2, 5}, slots_of_1[2] = {0, 4};
    if (parse(GOOD, strlen(GOOD), &plan)) fail_msg("%s", grace_last_error());
    claim_plan(plan, 0);
    assert_true(plan->fingerprint == 0xff && plan->seed == 7 && plan->r == 0.5 && plan->n_knee == 1 && plan->knee[0].utility == 0.75);
    assert_memory_equal(plan->layers[0].expert_of_slot, experts, sizeof experts);
    assert_memory_equal(plan->layers[0].first_slot, first, sizeof first);
    assert_memory_equal(plan->layers[0].slots_of_expert + plan->layers[0].slots_first[1], slots_of_1, sizeof slots_of_1);
    assert_true(plan->layers[0].poll_weight[4] == 0.25f && plan->layers[0].load_after[0] == 20.5 && plan->layers[0].n_replica == 1);
    grace_plan_free(plan);
}

static void assert_round_trip(const grace_plan *plan, uint64_t seed) {
    gr_buf text = {0}, again = {0};
    grace_plan *back = NULL;
    assert_int_equal(gr_plan_print(plan, &text), GRACE_OK);
    if (parse(text.data, text.n, &back)) fail_msg("seed %llu: %s\n%s", (unsigned long long)seed, grace_last_error(), text.data);
    claim(same_plans(plan, back), seed);
    assert_int_equal(gr_plan_print(back, &again), GRACE_OK);
    assert_string_equal(text.data, again.data);
    grace_plan_free(back);
    gr_buf_free(&text), gr_buf_free(&again);
}

static void a_plan_says_what_it_was_planned_from(void **state) {
    (void)state;
    static const struct { const char *origin, *part; } bad[] = {
        {"{\"file\": \"a\", \"tokens\": \"some\", \"n_tokens\": 1, \"loads\": \"00000000000000ff\"}", "expected all, even, odd"},
        {"{\"file\": \"a\", \"tokens\": \"all\", \"n_tokens\": 0, \"loads\": \"00000000000000ff\"}", "'n_tokens': expected 1 to"},
        {"{\"file\": \"a\", \"tokens\": \"all\", \"n_tokens\": 1, \"loads\": \"xyz\"}", "'loads': expected 16 hex digits"},
        {"{\"file\": 1}", "'file': expected a string"},
        {"[]", "'file': expected a string, found nothing"},
    };
    char text[2048], key[512];
    grace_plan *plan = NULL;
    edit("\"r\": 0.5, \"knee_c", "\"planned_from\": {\"file\": \"a.trace\", \"tokens\": \"odd domain:law\", \"n_tokens\": 12, "
         "\"loads\": \"00000000000000ab\", \"synthetic\": true}, \"r\": 0.5, \"knee_c", text, sizeof text);
    if (parse(text, strlen(text), &plan)) fail_msg("%s", grace_last_error());
    const grace_origin *o = &plan->planned_from;
    assert_string_equal(o->file, "a.trace");
    assert_string_equal(o->which.domains, "law");
    assert_true(o->which.sequences == GRACE_SEQUENCES_ODD && o->n_tokens == 12 && o->loads == 0xab && o->synthetic);
    assert_round_trip(plan, 0);
    strcpy(plan->planned_from.file, "tr\xe9.csv");         /* a file's name is bytes: the plan can still be read */
    assert_round_trip(plan, 0);
    grace_plan_free(plan);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        snprintf(key, sizeof key, "\"planned_from\": %s, \"r\": 0.5, \"knee_c", bad[i].origin);
        edit("\"r\": 0.5, \"knee_c", key, text, sizeof text);
        assert_int_equal(parse(text, strlen(text), &plan), GRACE_ERR_FORMAT);
        if (!strstr(grace_last_error(), bad[i].part)) fail_msg("'%s' is not in '%s'", bad[i].part, grace_last_error());
    }
}


/* ---- load(save(p)) == p ---- */

static void built_plans_come_back_bit_by_bit(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 40; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        grace_cluster cluster = {between(&rng, 1, 3), between(&rng, 1, 3)};
        grace_profile p = random_profile(&rng, 2, between(&rng, 9, 24), 2);
        grace_plan_options opt = grace_plan_defaults();
        grace_plan *plan = NULL;
        p.info.fingerprint = gr_rng_next(&rng);
        opt.seed = gr_rng_next(&rng);
        opt.planner = seed % 4 ? GRACE_PLANNER_GRACE : (grace_planner)(seed / 4 % 2);
        opt.grouping = (grace_grouping)(seed % 3);
        claim(grace_plan_build(&p, cluster, &opt, &plan) == GRACE_OK, seed);
        assert_round_trip(plan, seed);
        grace_plan_free(plan);
        drop_profile(&p);
    }
}

/* Any valid tables, with loads and weights of any size: empty ranks, copies everywhere, awkward floats, names with quotes. */
static void random_plans_come_back_bit_by_bit(void **state) {
    (void)state;
    for (uint64_t seed = 1; seed <= 60; seed++) {
        gr_rng rng = gr_rng_seed(seed);
        int32_t rank_of[20];
        grace_plan *plan = NULL;
        claim(gr_plan_new(2, between(&rng, 1, 20), 1, (grace_cluster){between(&rng, 1, 3), between(&rng, 1, 3)}, &plan) == GRACE_OK, seed);
        int32_t n_ranks = grace_cluster_ranks(plan->cluster);
        for (int32_t l = 0; l < 2; l++) {
            claim(place_at_random(&rng, plan, l, 0.4, rank_of) == GRACE_OK, seed);
            for (int32_t r = 0; r < n_ranks; r++) plan->layers[l].load_before[r] = ldexp(gr_rng_uniform(&rng), between(&rng, -1070, 1020));
            for (int32_t r = 0; r < n_ranks; r++) plan->layers[l].load_after[r] = gr_rng_uniform(&rng);
            gr_plan_weigh(plan, l);
        }
        if (seed % 3 == 0) gr_random_decode(plan, 0.5, &rng);
        int8_t saved[30 * 3];
        int32_t vocab = between(&rng, 0, 30);
        for (int i = 0; i < 30 * 3; i++) saved[i] = (int8_t)between(&rng, -128, 127);
        plan->token_saves = (grace_token_saves){vocab, plan->cluster.n_nodes, (float)gr_rng_uniform(&rng), saved};
        plan->seed = gr_rng_next(&rng);
        snprintf(plan->planner, sizeof plan->planner, "%s", seed % 2 ? "by \"hand\"\n\\ é" : "");
        assert_round_trip(plan, seed);
        grace_plan_free(plan);
    }
}

static void files_come_back_and_a_table_is_a_line(void **state) {
    (void)state;
    char path[] = "/tmp/grace-plan-XXXXXX";
    grace_plan *plan = NULL, *back = NULL;
    gr_file file;
    int n_lines = 0, fd = mkstemp(path);
    assert_true(fd >= 0);
    close(fd);
    assert_int_equal(grace_plan_contiguous(3, 64, 8, (grace_cluster){2, 2}, &plan), GRACE_OK);
    assert_int_equal(grace_plan_save(plan, path), GRACE_OK);
    if (grace_plan_load(path, &back)) fail_msg("%s", grace_last_error());
    assert_true(same_plans(plan, back));
    assert_int_equal(gr_file_map(path, &file), GRACE_OK);
    for (size_t i = 0; i < file.n; i++) n_lines += ((const char *)file.data)[i] == '\n';
    assert_int_equal(n_lines, 1 + 11 + 2 + 1 + 3 * 8 + 2);
    gr_file_unmap(&file);
    grace_plan_free(plan), grace_plan_free(back);
    unlink(path);
}

static void a_missing_file_is_an_io_error(void **state) {
    (void)state;
    grace_plan *plan = NULL;
    assert_int_equal(grace_plan_load("/nonexistent/plan.json", &plan), GRACE_ERR_IO);
    assert_non_null(strstr(grace_last_error(), "/nonexistent/plan.json"));
    assert_int_equal(grace_plan_contiguous(1, 4, 1, (grace_cluster){1, 2}, &plan), GRACE_OK);
    assert_int_equal(grace_plan_save(plan, "/nonexistent/plan.json"), GRACE_ERR_IO);
    grace_plan_free(plan);
}

/* ---- bad texts: each names what was expected and what was found ---- */

typedef struct bad { const char *from, *to, *words; grace_status status; } bad;

static void assert_edit_refused(const bad *b) {
    char text[2048];
    grace_plan *plan = NULL;
    edit(b->from, b->to, text, sizeof text);
    grace_status st = parse(text, strlen(text), &plan);
    if (st == GRACE_OK) fail_msg("'%s' -> '%s' was accepted", b->from, b->to);
    if (st != b->status || !strstr(grace_last_error(), b->words))
        fail_msg("'%s' -> '%s': expected '%s', got %s: %s", b->from, b->to, b->words, grace_status_name(st), grace_last_error());
    if (strncmp(grace_last_error(), "plan.json: ", 11)) fail_msg("no file name: %s", grace_last_error());
    assert_null(plan);
}

static void bad_headers_are_refused_with_expected_and_found(void **state) {
    (void)state;
    static const bad cases[] = {
        {"{\"grace_plan\": 1,", "{", "not a plan", GRACE_ERR_FORMAT},
        {"{\"grace_plan\": 1,", "[", "no valid JSON", GRACE_ERR_FORMAT},
        {"\"grace_plan\": 1", "\"grace_plan\": 2", "plan format 2, this program reads 1", GRACE_ERR_UNSUPPORTED},
        {"\"grace_plan\": 1", "\"grace_plan\": \"1\"", "expected an integer, found a string", GRACE_ERR_FORMAT},
        {"\"grace\"", "\"a name that is longer than thirty-one\"", "'planner': expected at most 31 bytes, found 37", GRACE_ERR_FORMAT},
        {"\"controlled\"", "3", "'grouping': expected a string, found an integer", GRACE_ERR_FORMAT},
        {"00000000000000ff", "ff", "'fingerprint': expected 16 hex digits, found 'ff'", GRACE_ERR_FORMAT},
        {"0000000000000007", "000000000000000G", "'seed': expected 16 hex digits", GRACE_ERR_FORMAT},
        {"node:1 gpu:2", "1 by 2", "expected \"node:N gpu:G\" or \"NxG\"", GRACE_ERR_FORMAT},
        {"node:1 gpu:2", "node:5000 gpu:2", "10000 ranks, the limit is 8192", GRACE_ERR_LIMIT},
        {"\"n_layers\": 1", "\"n_layers\": 2", "'layers': expected 2 values, found 1", GRACE_ERR_FORMAT},
        {"\"n_layers\": 1", "\"n_layers\": 2000000000", "'n_layers': expected 1 to 4096, found 2000000000", GRACE_ERR_FORMAT},
        {"\"n_experts\": 4", "\"n_experts\": 0", "'n_experts': expected 1 to 4096, found 0", GRACE_ERR_FORMAT},
        {"\"n_experts\": 4, ", "", "'n_experts': expected an integer, found nothing", GRACE_ERR_FORMAT},
        {"\"top_k\": 2", "\"top_k\": 5", "'top_k': expected 1 to 4, found 5", GRACE_ERR_FORMAT},
        {"\"r\": 0.5, \"knee_chosen\"", "\"r\": -0.5, \"knee_chosen\"", "'r': expected 0 or more, found -0.5", GRACE_ERR_FORMAT},
        {"\"knee_chosen\": 0", "\"knee_chosen\": 1", "'knee_chosen': expected 0 to 0, found 1", GRACE_ERR_FORMAT},
        {"\"delta\": 1", "\"delta\": 0", "knee point 0: 'delta': expected 1 to 4, found 0", GRACE_ERR_FORMAT},
        {"{\"delta\": 1, \"r\": 0.5, \"size_std\": 0.25, \"utility\": 0.75}", "7",
         "knee point 0: 'delta': expected an integer, found nothing", GRACE_ERR_FORMAT},
        {"[{\"delta\": 1, \"r\": 0.5, \"size_std\": 0.25, \"utility\": 0.75}]", "[0, 0, 0, 0, 0]",
         "expected at most 4 points, found 5", GRACE_ERR_FORMAT},
        {"\"seed\"", "\"planner\"", "no valid JSON", GRACE_ERR_FORMAT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) assert_edit_refused(&cases[i]);
}

/* 128 KiB of digits for the first of 8192 nodes, nothing for the others: a table for all would take half a GiB. */
static void a_table_of_savings_takes_no_memory_its_text_does_not_have(void **state) {
    (void)state;
    enum { VOCAB = 1 << 16, NODES = 8192, MIB = 1024 };
    struct rusage before, after;
    gr_buf text = {0};
    char small[2048];
    grace_plan *plan = NULL;
    edit("node:1 gpu:2", "node:8192 gpu:1", small, sizeof small);
    const char *at = strstr(small, "\"n_layers\"");
    gr_buf_printf(&text, "%.*s\"token_saves\": {\"vocab\": %d, \"scale\": 1, \"saved\": [\"%0*d\"", (int)(at - small), small, VOCAB, 2 * VOCAB, 0);
    for (int i = 1; i < NODES; i++) gr_buf_printf(&text, ",\"\"");
    gr_buf_printf(&text, "]}, %s", at);
    getrusage(RUSAGE_SELF, &before);
    assert_int_equal(parse(text.data, text.n, &plan), GRACE_ERR_FORMAT);
    getrusage(RUSAGE_SELF, &after);
    assert_non_null(strstr(grace_last_error(), "'saved' of node 1: expected 131072 hex digits, found 0 bytes"));
    assert_true(after.ru_maxrss - before.ru_maxrss < 256 * MIB);
    gr_buf_free(&text);
}

#define SAVES(text) "\"token_saves\": " text ", \"n_layers\": 1"
static void what_token_ids_save_is_read_or_refused(void **state) {
    (void)state;
    static const bad cases[] = {
        {"\"n_layers\": 1", SAVES("7"), "'token_saves': expected an object, found an integer", GRACE_ERR_FORMAT},
        {"\"n_layers\": 1", SAVES("{\"vocab\": 0}"), "token_saves: 'vocab': expected 1 to 16777216, found 0", GRACE_ERR_FORMAT},
        {"\"n_layers\": 1", SAVES("{\"vocab\": 2, \"scale\": -1}"), "'scale': expected 0 to 1e9, found -1", GRACE_ERR_FORMAT},
        {"\"n_layers\": 1", SAVES("{\"vocab\": 2, \"scale\": 1, \"saved\": []}"), "expected a string for each of 1 nodes, found 0", GRACE_ERR_FORMAT},
        {"\"n_layers\": 1", SAVES("{\"vocab\": 2, \"scale\": 1, \"saved\": [7]}"), "'saved' of node 0: expected a string, found an integer", GRACE_ERR_FORMAT},
        {"\"n_layers\": 1", SAVES("{\"vocab\": 2, \"scale\": 1, \"saved\": [\"01ff0\"]}"), "'saved' of node 0: expected 4 hex digits, found 5 bytes",
         GRACE_ERR_FORMAT},
        {"\"n_layers\": 1", SAVES("{\"vocab\": 2, \"scale\": 1, \"saved\": [\"01FF\"]}"), "2 of them hex digits at the start", GRACE_ERR_FORMAT},
    };
    char text[2048];
    grace_plan *plan = NULL;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) assert_edit_refused(&cases[i]);
    edit("\"n_layers\": 1", SAVES("{\"vocab\": 3, \"scale\": 0.5, \"saved\": [\"01ff80\"]}"), text, sizeof text);
    assert_int_equal(parse(text, strlen(text), &plan), GRACE_OK);
    assert_int_equal(plan->token_saves.vocab, 3);
    assert_true(plan->token_saves.scale == 0.5f && plan->token_saves.saved[0] == 1 && plan->token_saves.saved[1] == -1 && plan->token_saves.saved[2] == -128);
    grace_plan_free(plan);
}

static void bad_layers_are_refused_with_expected_and_found(void **state) {
    (void)state;
    static const bad cases[] = {
        {"[[1, 3], [0, 2]]", "[[1, 3], [0]]", "layer 0: expert 2 has no primary", GRACE_ERR_FORMAT},
        {"[[1, 3], [0, 2]]", "[[1, 3], [0, 2, 3]]", "layer 0: expert 3 has its primary on rank 0 and on rank 1", GRACE_ERR_FORMAT},
        {"[[1, 3], [0, 2]]", "[[1, 3], [0, 4]]", "'primary' of rank 1: expected experts 0 to 3, found 4", GRACE_ERR_FORMAT},
        {"[[1, 3], [0, 2]]", "[[-1, 3], [0, 2]]", "'primary' of rank 0: expected experts 0 to 3, found -1", GRACE_ERR_FORMAT},
        {"[[1, 3], [0, 2]]", "[[3, 1], [0, 2]]", "expected rising ids, found 1 after 3", GRACE_ERR_FORMAT},
        {"[[1, 3], [0, 2]]", "[[1, 3.5], [0, 2]]", "expected expert ids, found a number", GRACE_ERR_FORMAT},
        {"[[1, 3], [0, 2]]", "[[1, 3], [0], [2]]", "'primary': expected 2 values, found 3", GRACE_ERR_FORMAT},
        {"[[1, 3], [0, 2]]", "[[1, 3], {}]", "'primary' of rank 1: expected an array, found an object", GRACE_ERR_FORMAT},
        {"[[], [1]]", "[[], [1, 1]]", "expected rising ids, found 1 after 1", GRACE_ERR_FORMAT},
        {"[[], [1]]", "[[1], []]", "expert 1 is twice on rank 0", GRACE_ERR_FORMAT},
        {"[[], [1]]", "[[1]]", "'secondary': expected 2 values, found 1", GRACE_ERR_FORMAT},
        {"[[], [1]]", "[[], [99999999999]]", "found 99999999999", GRACE_ERR_FORMAT},
        {"[[], [1]]", "[[], []]", "'poll_weight': expected 4 values, found 5", GRACE_ERR_FORMAT},
        {"0.75, 1, 1, 1, 0.25", "0.75, 1, 1, 1, 0.5", "weights of expert 1: expected a sum of 1, found 1.25", GRACE_ERR_FORMAT},
        {"0.75, 1, 1, 1, 0.25", "1.25, 1, 1, 1, -0.25", "'poll_weight'[4]: expected 0 or more, found -0.25", GRACE_ERR_FORMAT},
        {"0.75, 1, 1, 1, 0.25", "0.75, 1e300, 1, 1, 0.25", "'poll_weight'[1]: expected 0 to 1, found 1e+300", GRACE_ERR_FORMAT},
        {"0.75, 1, 1, 1, 0.25", "0.75, null, 1, 1, 0.25", "'poll_weight'[1]: expected a number, found null", GRACE_ERR_FORMAT},
        {"\"load_b", "\"serve_decode\": [0, 1, 1, 1], \"load_b", "'serve_decode': expected 5 values, found 4", GRACE_ERR_FORMAT},
        {"\"load_b", "\"serve_decode\": [0, 1, 1, 1, 0], \"load_b", "'serve_decode': no copy of expert 1 serves", GRACE_ERR_FORMAT},
        {"\"load_b", "\"serve_decode\": [2, 1, 1, 1, 1], \"load_b", "'serve_decode'[0]: expected 0 or 1", GRACE_ERR_FORMAT},
        {"\"load_b", "\"serve_decode\": [true, 1, 1, 1, 1], \"load_b", "'serve_decode'[0]: expected 0 or 1", GRACE_ERR_FORMAT},
        {"\"load_b", "\"serve_decode\": 1, \"load_b", "'serve_decode': expected an array", GRACE_ERR_FORMAT},
        {"\"n_replica\": 1", "\"n_replica\": 2", "'n_replica': expected 0 to 1, found 2", GRACE_ERR_FORMAT},
        {"[30, 10]", "[30]", "'load_before': expected 2 values, found 1", GRACE_ERR_FORMAT},
        {"[20.5, 19.5]", "[20.5, -19.5]", "'load_after'[1]: expected 0 or more, found -19.5", GRACE_ERR_FORMAT},
        {"[20.5, 19.5]", "[20.5, 1e999]", "no valid JSON", GRACE_ERR_FORMAT},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) assert_edit_refused(&cases[i]);
}

static void a_text_cut_short_anywhere_is_refused(void **state) {
    (void)state;
    for (size_t n = 0; n + 2 < sizeof GOOD; n++) {      /* the last byte is a newline */
        grace_plan *plan = NULL;
        if (parse(GOOD, n, &plan) == GRACE_OK) fail_msg("accepted %zu of %zu bytes", n, sizeof GOOD - 1);
        assert_null(plan);
    }
}

static void any_byte_may_be_anything(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(1);
    int32_t n_read = 0;
    for (int32_t i = 0; i < 4000; i++) {
        char text[sizeof GOOD];
        grace_plan *plan = NULL;
        memcpy(text, GOOD, sizeof GOOD);
        text[between(&rng, 0, (int32_t)sizeof GOOD - 2)] = i % 2 ? (char)between(&rng, 0, 255) : "0123456789.-[]{},\"e "[between(&rng, 0, 19)];
        if (parse(text, sizeof GOOD - 1, &plan) == GRACE_OK) {
            claim_plan(plan, (uint64_t)i);
            n_read++;
        }
        grace_plan_free(plan);
    }
    assert_true(n_read > 100 && n_read < 3000);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plan_is_read_into_its_tables),
        cmocka_unit_test(a_plan_says_what_it_was_planned_from),
        cmocka_unit_test(built_plans_come_back_bit_by_bit),
        cmocka_unit_test(random_plans_come_back_bit_by_bit),
        cmocka_unit_test(files_come_back_and_a_table_is_a_line),
        cmocka_unit_test(a_missing_file_is_an_io_error),
        cmocka_unit_test(bad_headers_are_refused_with_expected_and_found),
        cmocka_unit_test(a_table_of_savings_takes_no_memory_its_text_does_not_have),
        cmocka_unit_test(what_token_ids_save_is_read_or_refused),
        cmocka_unit_test(bad_layers_are_refused_with_expected_and_found),
        cmocka_unit_test(a_text_cut_short_anywhere_is_refused),
        cmocka_unit_test(any_byte_may_be_anything),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
