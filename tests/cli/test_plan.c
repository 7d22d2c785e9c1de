/* grace plan's options from outside: budgets, bounds, times, a plan that runs already. Each on a trace of a few hundred tokens. */
#include <sys/stat.h>

#include "base/rng.h"
#include "program.h"

enum { LAYERS = 4, EXPERTS = 16, TOP_K = 2, TOKENS = 384, RANKS = 4, PLACES = LAYERS * EXPERTS * RANKS };

/* A folder of tokens; seven of eight choose both experts of one group of four. Groups are e, e + stride, ... */
static void write_day(const char *name, uint32_t stride) {
    gr_rng rng = gr_rng_seed(stride);
    unsigned char ids[TOKENS][LAYERS][TOP_K];
    char path[64];
    for (int t = 0; t < TOKENS; t++)
        for (int l = 0; l < LAYERS; l++) {
            uint32_t first = gr_rng_below(&rng, EXPERTS), steps = 1 + gr_rng_below(&rng, 3), block = 4 * stride, start = first / block * block;
            uint32_t second = gr_rng_below(&rng, 8) ? start + (first - start + steps * stride) % block : (first + steps) % EXPERTS;
            ids[t][l][0] = (unsigned char)first, ids[t][l][1] = (unsigned char)second;
        }
    mkdir(name, 0777);
    snprintf(path, sizeof path, "%s/topk.u8", name);
    write_file(path, ids, sizeof ids);
    snprintf(path, sizeof path, "%s/meta.json", name);
    write_text(path, "{\"model\":\"days\",\"layers\":4,\"experts\":16,\"top_k\":2,\"tokens\":384,\"sequence_length\":48}");
}

static int enter(void **state) {
    if (folder_enter(state)) return 1;
    write_day("yesterday", 1);
    write_day("today", 4);
    GRACE(0, "plan", "yesterday", "--planner", "auto", "--memory", "1.25", "-o", "old.json");
    return 0;
}

/* ---- what a plan holds ---- */

static void mark(const gr_json *layer, const char *list, bool *on) {
    for (size_t r = 0; r < RANKS; r++) {
        const gr_json *experts = gr_json_at(member(layer, list), r);
        for (size_t i = 0; i < gr_json_length(experts); i++) {
            int64_t e = -1;
            assert_int_equal(gr_json_int_at(experts, "plan", i, 0, EXPERTS - 1, &e), GRACE_OK);
            on[e * RANKS + (int64_t)r] = true;
        }
    }
}

/* on [LAYERS, EXPERTS, RANKS]: where copies are. */
static void read_places(const char *path, bool *on) {
    size_t n;
    char *text = read_file(path, &n);
    gr_json *plan = NULL;
    assert_int_equal(gr_json_parse(path, text, n, &plan), GRACE_OK);
    memset(on, 0, PLACES * sizeof *on);
    for (size_t l = 0; l < LAYERS; l++) {
        const gr_json *layer = gr_json_at(member(plan, "layers"), l);
        mark(layer, "primary", on + l * EXPERTS * RANKS), mark(layer, "secondary", on + l * EXPERTS * RANKS);
    }
    gr_json_free(plan);
    free(text);
}

static int slots_of(const bool *on, int layer, int rank) {
    int n = 0;
    for (int e = 0; e < EXPERTS; e++) n += on[(layer * EXPERTS + e) * RANKS + rank];
    return n;
}

static int n_new(const bool *before, const bool *after) {
    int n = 0;
    for (int i = 0; i < PLACES; i++) n += after[i] && !before[i];
    return n;
}

/* A figure of the last plan printed with --json. */
static double cost_of(const gr_json *plan, const char *key) { return number_of(member(plan, "costs"), key); }

/* ---- a plan that runs already ---- */

static double rows_from(const char *moves, int most, const bool *before) {
    bool after[PLACES];
    GRACE(0, "plan", "today", "--planner", "auto", "--from", "old.json", "--max-moves", moves, "-o", "new.json", "--json");
    gr_json *o = printed_json();
    double rows = cost_of(o, "rows_cross");
    gr_json_free(o);
    read_places("new.json", after);
    assert_in_range(n_new(before, after), 0, most);
    return rows;
}

static void a_plan_is_kept_but_for_the_moves_allowed(void **state) {
    (void)state;
    bool before[PLACES];
    read_places("old.json", before);
    double none = rows_from("0", 0, before), some = rows_from("8", 8, before), many = rows_from("64", 64, before);
    assert_true(some < none && many < some);
}

static void a_plan_that_cannot_be_kept_is_refused(void **state) {
    (void)state;
    GRACE(1, "plan", "today", "--planner", "auto", "--from", "old.json", "--cluster", "4x1", "-o", "no.json");
    complains("plan is for cluster node:2 gpu:2, this run has node:4 gpu:1");
    GRACE(1, "plan", "today", "--planner", "auto", "--from", "old.json", "--memory", "1", "-o", "no.json");
    complains("slots on its fullest rank, the memory 16");
    GRACE(1, "plan", PROFILED, "--planner", "auto", "--from", "old.json", "-o", "no.json");
    complains("plan is for 4 MoE layers of 16 experts, top-2; the model has 8 of 64, top-8");
    GRACE(1, "plan", "today", "--planner", "auto", "--from", "nothing.json", "-o", "no.json");
    complains("nothing.json: No such file or directory");
    GRACE(1, "plan", "today", "--planner", "auto", "--from", "today/meta.json", "-o", "no.json");
    complains("today/meta.json: ");
    assert_int_equal(n_files("no.json*"), 0);
}

/* ---- memory and bounds ---- */

static double worst_load(const char *const *words) {
    ends_with(0, words);
    gr_json *o = printed_json();
    double worst = cost_of(o, "load_max_over_mean_worst");
    gr_json_free(o);
    return worst;
}

static double worst_load_under(const char *bound) {
    return worst_load(WORDS(GRACE_PROGRAM, "plan", "today", "--planner=auto", "--memory=1.5", "--balance", bound, "-o", "bound.json", "--json"));
}

/* Loose enough, it lets a layer have one node to itself. */
static void the_bound_on_load_is_kept(void **state) {
    (void)state;
    double paper = worst_load(WORDS(GRACE_PROGRAM, "plan", "today", "-o", "paper.json", "--json"));
    assert_true(worst_load_under("1.1") <= 1.1 && worst_load_under("1.3") <= 1.3);
    assert_true(worst_load_under("grace") <= (0.95 * paper > 1.1 ? 0.95 * paper : 1.1));
    assert_true(worst_load_under("4") > 1.3);
}

/* In the search of auto, filled up after the others and after moves. */
static void every_rank_of_every_layer_has_as_many_slots(void **state) {
    (void)state;
    static const char *const kinds[][2] = {{"--planner=auto"}, {"--planner=grace"}, {"--planner=replicate-node"}, {"--planner=auto", "--from=old.json"}};
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        bool on[PLACES];
        ends_with(0, WORDS(GRACE_PROGRAM, "plan", "today", "-o", "equal.json", "--equal-slots", kinds[i][0], kinds[i][1]));
        read_places("equal.json", on);
        for (int l = 0; l < LAYERS; l++)
            for (int r = 0; r < RANKS; r++) assert_int_equal(slots_of(on, l, r), slots_of(on, 0, 0));
    }
    GRACE(0, "plan", "today", "--planner", "auto", "--equal-slots", "--replica-slots", "6", "--format", "flat", "-o", "flat.json");
}

/* ---- for other engines ---- */

static void layers_that_nobody_numbered_are_asked_for(void **state) {
    (void)state;
    static const char *const formats[] = {"sglang", "trtllm"};
    for (size_t i = 0; i < 2; i++) {
        GRACE(1, "plan", "today", "--equal-slots", "--format", formats[i], "-o", "foreign");
        complains("today: which layers of the model these 4 are is not known: expected --model-layers N");
        assert_int_equal(n_files("foreign*"), 0);
    }
    GRACE(0, "plan", "today", "--equal-slots", "--format", "trtllm", "--model-layers", "5", "-o", "foreign");
    char *text = read_file("foreign", NULL);
    assert_true(strstr(text, "\n  1: [") && strstr(text, "\n  4: [") && !strstr(text, "\n  0: ["));
    free(text);
    GRACE(0, "plan", GRACE_SOURCE_DIR "/bench/routing/deepseek-v2-lite", "--planner", "contiguous", "--no-homes", "--format", "sglang", "-o", "foreign");
    text = read_file("foreign", NULL);
    assert_int_equal(count(text, "["), 1 + 27);         /* a row for layer 0 too, which is dense */
    free(text);
    assert_int_equal(remove("foreign"), 0);
}

static void another_top_k_than_the_trace_s_is_refused(void **state) {
    (void)state;
    GRACE(1, "plan", "today", "--top-k", "1", "-o", "no.json");
    complains("today: expected top_k 2, as its tokens have it, found 1 asked for");
    assert_int_equal(n_files("no.json*"), 0);
}

/* ---- times ---- */

/* option: one more, or NULL. */
static double seconds_of(const char *planner, const char *option, const char *step) {
    ends_with(0, WORDS(GRACE_PROGRAM, "plan", "today", "-o", "timed.json", "--json", "--rates=h200-25g", "--shape=hidden=512,width=256", planner, option));
    gr_json *o = printed_json();
    double seconds = number_of(member(member(o, "costs"), step), "seconds");
    assert_string_equal(text_of(member(o, "costs"), "rates"), "h200-25g");
    assert_string_equal(text_of(member(o, "costs"), "shape"), "given");
    gr_json_free(o);
    return seconds;
}

static void no_other_plan_is_faster_in_what_was_aimed_at(void **state) {
    (void)state;
    static const char *const steps[] = {"prefill", "decode"}, *const aims[] = {"--objective=prefill", "--objective=decode"},
                            *const others[] = {"--planner=auto", "--planner=grace", "--planner=eplb", "--planner=uniform", "--planner=contiguous"};
    for (size_t i = 0; i < 2; i++) {
        double ours = seconds_of("--planner=auto", aims[i], steps[i]);
        for (size_t k = 0; k < sizeof others / sizeof *others; k++) assert_true(ours <= seconds_of(others[k], NULL, steps[i]) * (1 + 1e-12));
    }
    GRACE(0, "plan", "today", "--rates", "h200-25g", "-o", "timed.json");
    assert_non_null(strstr(last.out, "predicted for h200-25g, 256 sequences of 128 tokens"));
    assert_non_null(strstr(last.out, "assumed: widths of olmoe-1b-7b"));
}

static void rates_and_shapes_that_say_too_little_are_refused(void **state) {
    (void)state;
    write_text("own.json", "{\"grace_rates\": 1, \"name\": \"ours\", \"cross\": {\"bytes_per_s\": 1e9, \"latency_us\": 5}, \"intra\": {\"bytes_per_s\": 1e10, "
                           "\"latency_us\": 1}, \"flop_per_s\": 1e13, \"memory_bytes_per_s\": 1e12, \"value_bytes\": 2, \"dispatch_rounds\": 2, "
                                   "\"combine_rounds\": 1}");
    GRACE(0, "plan", "today", "--rates", "./own.json", "-o", "timed.json");
    assert_non_null(strstr(last.out, "predicted for ours"));
    write_text("slow.json", "{\"grace_rates\": 1, \"cross\": {\"bytes_per_s\": 0, \"latency_us\": 5}}");
    static const struct { const char *option, *value, *message; } cases[] = {
        {"--rates", "abacus", "rates 'abacus': expected a file, or one of "},
        {"--rates", "./none.json", "./none.json: No such file or directory"},
        {"--rates", "today/meta.json", "today/meta.json: unknown key 'model'"},
        {"--rates", "slow.json", "slow.json: cross: 'bytes_per_s': expected a number above 0"},
        {"--shape", "brick", "shape 'brick': expected "},
        {"--shape", "hidden=0,width=8", "'hidden': expected an integer from 1 to "},
        {"--shape", "hidden=8,depth=8", "shape: unknown 'depth'"},
        {"--shape", "hidden=8", "expected hidden and width"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        GRACE(1, "plan", "today", cases[i].option, cases[i].value, "-o", "no.json");
        complains(cases[i].message);
    }
    GRACE(1, "plan", "today", "--rates", "cpu", "--shape", "qwen3-30b-a3b", "-o", "no.json");
    complains("the model qwen3-30b-a3b has 48 layers of 128 experts, top-8; the routing has 4 of 16, top-2");
    assert_int_equal(n_files("no.json*"), 0);
}

/* ---- words that do not fit each other ---- */

static void options_that_would_be_ignored_are_refused(void **state) {
    (void)state;
    static const struct { const char *words[4], *message; } cases[] = {
        {{"--from=old.json"}, "--from is for --planner auto"},
        {{"--balance=1.2"}, "--balance is for --planner auto"},
        {{"--objective=time", "--rates=cpu"}, "--objective is for --planner auto"},
        {{"--memory=1.2"}, "--memory is for --planner auto, eplb or replicate-node"},
        {{"--planner=auto", "--max-moves=4"}, "--max-moves needs --from"},
        {{"--planner=auto", "--objective=decode"}, "--objective decode needs --rates"},
        {{"--planner=auto", "--objective=time", "--rates=cpu", "--from=old.json"}, "--from keeps a plan: it has no --objective"},
        {{"--planner=auto", "--memory=1.2", "--replica-slots=5"}, "--memory and --replica-slots say the same"},
        {{"--planner=auto", "--balance=0.9"}, "--balance: expected a number from 1 to "},
        {{"--planner=auto", "--balance=paper"}, "--balance: expected a number from 1 to "},
        {{"--planner=auto", "--from=old.json", "--max-moves=-1"}, "--max-moves: expected an integer from 0 to "},
        {{"--planner=auto", "--objective=fast"}, "--objective: expected rows, prefill, decode or time, found 'fast'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        ends_with(64, WORDS(GRACE_PROGRAM, "plan", "today", "-o", "no.json", cases[i].words[0], cases[i].words[1], cases[i].words[2], cases[i].words[3]));
        complains_of_usage(cases[i].message);
    }
    assert_int_equal(n_files("no.json*"), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_plan_is_kept_but_for_the_moves_allowed),
        cmocka_unit_test(a_plan_that_cannot_be_kept_is_refused),
        cmocka_unit_test(the_bound_on_load_is_kept),
        cmocka_unit_test(every_rank_of_every_layer_has_as_many_slots),
        cmocka_unit_test(layers_that_nobody_numbered_are_asked_for),
        cmocka_unit_test(another_top_k_than_the_trace_s_is_refused),
        cmocka_unit_test(no_other_plan_is_faster_in_what_was_aimed_at),
        cmocka_unit_test(rates_and_shapes_that_say_too_little_are_refused),
        cmocka_unit_test(options_that_would_be_ignored_are_refused),
    };
    return cmocka_run_group_tests(tests, enter, folder_leave);
}
