/* Prompts, plans, traces and output files that cannot be used: one sentence, code 1, no half file, and the old file as it was. */
#include <sys/stat.h>

#include "program.h"

#define RUN(code, ...) GRACE((code), "run", "-m", MODEL, __VA_ARGS__)

/* ---- prompts ---- */

static void prompts_that_cannot_be_run_are_refused(void **state) {
    (void)state;
    RUN(1, "-p", "");
    complains("the prompt is empty: expected at least one token");
    RUN(1, "-p", "caf\xc3");
    complains("text is no valid UTF-8");
    RUN(1, "-p", "hello \xff there", "--json");
    complains("byte 0xFF at offset 6");
    RUN(1, "-p", "hello", "-n", "2048");
    complains("a prompt of 3 tokens and 2048 to generate: the model's context is 2048");
    RUN(1, "-p", "hello", "-n", "40", "--kv-tokens", "16");
    complains("a prompt of 3 tokens and 40 to generate: the KV cache of a rank holds 16");
}

static void a_bad_line_of_a_prompt_file_is_named(void **state) {
    (void)state;
    static const struct { const char *text, *message; } cases[] = {
        {"", "bad.txt: the file is empty: expected one request a line"},
        {"hello\n\nthere\n", "bad.txt: line 2: the prompt is empty"},
        {"hello\n{\"promt\": \"x\"}\n", "bad.txt: line 2: unknown key 'promt'"},
        {"{\"n\": 3}\n", "bad.txt: line 1: 'prompt': expected a string, found nothing"},
        {"{\"prompt\": \"x\", \"n\": -3}\n", "bad.txt: line 1: 'n'"},
        {"{\"prompt\": \"x\", \"n\": \"3\"}\n", "bad.txt: line 1: 'n': expected an integer, found a string"},
        {"hello\n{\"prompt\": \"x\"\n", "bad.txt: line 2: no valid JSON"},
        {"hello\nhel\xfflo\n", "bad.txt: line 2: text is no valid UTF-8"},
        {"{\"prompt\": \"x\", \"temperature\": -1}\n", "temperature: expected 0 or more, found -1"},
        {"hello\n{\"prompt\": \"x\", \"top_p\": 2}\n", "request 1: top-p: expected above 0, at most 1, found 2"},
        {"hello\n{\"prompt\": \"x\", \"n\": 4000}\n", "request 1: a prompt of 1 tokens and 4000 to generate"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text("bad.txt", cases[i].text);
        RUN(1, "--prompts", "bad.txt");
        complains(cases[i].message);
    }
    RUN(1, "--prompts", "nothing.txt");
    complains("nothing.txt: No such file or directory");
    RUN(1, "--prompts", ".");
    complains(".: expected a regular file");
}

static void a_bad_line_of_ids_is_named(void **state) {
    (void)state;
    static const struct { const char *text, *message; } cases[] = {
        {"1 2\n3 x\n", "ids.txt: line 2: expected token ids, found 'x'"},
        {"1 -2\n", "ids.txt: line 1: expected token ids, found '-2'"},
        {"99999999999999\n", "ids.txt: line 1: expected token ids, found '99999999999999'"},
        {"1 2\n \n", "ids.txt: line 2: the prompt is empty"},
        {"1 2\n3 4096\n", "request 1: prompt token 1: expected an id from 0 to 4095, found 4096"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text("ids.txt", cases[i].text);
        RUN(1, "--prompt-ids", "ids.txt");
        complains(cases[i].message);
    }
}

/* ---- plans ---- */

static void write_edited(const char *name, const char *text, const char *from, const char *to) {
    const char *at = strstr(text, from);
    assert_non_null(at);
    FILE *file = fopen(name, "wb");
    assert_non_null(file);
    fprintf(file, "%.*s%s%s", (int)(at - text), text, to, at + strlen(from));
    fclose(file);
}

static void a_plan_must_fit_the_model_and_the_ranks(void **state) {
    (void)state;
    write_text("text.txt", "hello hello hello hello hello hello hello hello\n");
    GRACE(0, "profile", "-m", MODEL, "text.txt", "--window", "8", "-o", "own.trace");
    GRACE(0, "plan", "own.trace", "--cluster", "1x1", "-o", "own.json");
    RUN(0, "-p", "hello", "-n", "2", "--plan", "own.json");
    GRACE(0, "plan", "own.trace", "--cluster", "2x2", "-o", "four.json");
    RUN(1, "-p", "hello", "--plan", "four.json");
    complains("plan is for cluster node:2 gpu:2, this run has node:1 gpu:1");

    char *plan = read_file("own.json", NULL), fingerprint[17];
    const char *at = strstr(plan, "\"fingerprint\": \"");
    assert_non_null(at);
    snprintf(fingerprint, sizeof fingerprint, "%s", at + strlen("\"fingerprint\": \""));
    write_edited("other.json", plan, fingerprint, "0123456789abcdef");
    RUN(1, "-p", "hello", "--plan", "other.json");
    complains("0123456789abcdef");
    says(fingerprint);
    free(plan);
}

static void a_damaged_plan_is_refused(void **state) {
    (void)state;
    size_t n;
    GRACE(0, "plan", PROFILED, "--cluster", "1x1", "-o", "good.json");
    char *plan = read_file("good.json", &n);
    write_file("cut.json", plan, n / 2);
    RUN(1, "-p", "hello", "--plan", "cut.json");
    complains("cut.json: no valid JSON");
    GRACE(1, "inspect", "cut.json");
    complains("cut.json: no valid JSON");
    write_edited("edited.json", plan, "\"grace_plan\": 1", "\"grace_plan\": 99");
    RUN(1, "-p", "hello", "--plan", "edited.json");
    complains("edited.json: ");
    says("99");
    write_edited("edited.json", plan, "\"n_experts\": 64", "\"n_experts\": 63");
    RUN(1, "-p", "hello", "--plan", "edited.json");
    complains("edited.json: ");
    RUN(1, "-p", "hello", "--plan", "nothing.json");
    complains("nothing.json: No such file or directory");
    RUN(1, "-p", "hello", "--plan", PROFILED "/topk.u8");
    complains("topk.u8: ");
    free(plan);
}

/* ---- traces ---- */

static void a_trace_cut_short_is_planned_up_to_its_last_block(void **state) {
    (void)state;
    size_t n;
    GRACE(0, "profile", "-m", MODEL, SAMPLES "/prose.txt", SAMPLES "/code.txt", "--tokens", "128", "--window", "32", "-o", "whole.trace");
    char *trace = read_file("whole.trace", &n);
    write_file("tail.trace", trace, n - 8);
    GRACE(0, "plan", "tail.trace", "-o", "plan.json");
    says("tail.trace is cut short: no end mark after 256 tokens");
    assert_int_equal(count(last.err, "\n"), 1);
    GRACE(0, "inspect", "plan.json");
    write_file("head.trace", trace, n / 3);
    GRACE(1, "plan", "head.trace", "-o", "none.json");
    says("grace: head.trace: expected tokens to plan from, found none");
    write_file("header.trace", trace, 40);
    GRACE(1, "plan", "header.trace", "-o", "none.json");
    complains("header.trace: ");
    write_file("empty.trace", trace, 0);
    GRACE(1, "plan", "empty.trace", "-o", "none.json");
    complains("empty.trace: ");
    trace[n / 2] ^= 1;
    write_file("flipped.trace", trace, n);
    GRACE(1, "plan", "flipped.trace", "-o", "none.json");
    complains("flipped.trace: ");
    assert_int_equal(n_files("none.json*"), 0);
    free(trace);
}

static void what_is_no_trace_is_refused(void **state) {
    (void)state;
    GRACE(1, "plan", "nothing.trace");
    complains("nothing.trace: No such file or directory");
    GRACE(1, "plan", MODEL);
    complains("expected topk.u8 or topk.u16 in the folder, found neither");
    GRACE(1, "plan", MODEL "/config.json");
    complains("config.json: expected an array of arrays of loads");
    GRACE(1, "plan", PROFILED, "--train", "domain:poetry");
    complains("the trace has no domain 'poetry'");
    GRACE(1, "plan", PROFILED, "--cluster", "65x1");
    complains("65 ranks for 64 experts: expected at least one for each, unless ranks may host none (--allow-empty-ranks)");
    GRACE(0, "plan", PROFILED, "--cluster", "65x1", "--allow-empty-ranks", "-o", "empty.json");
    GRACE(1, "plan", PROFILED, "--planner", "eplb", "--replica-slots", "15");
    complains("120 slots on each of 4 ranks cannot hold 512 experts in all layers: 8 a rank are missing");
    GRACE(1, "bench", "plan", MODEL);
    complains("expected topk.u8 or topk.u16");
    assert_int_equal(n_files("plan.json.*"), 0);
}

static void inputs_without_a_token_are_refused(void **state) {
    (void)state;
    mkdir("empty", 0777);
    write_text("empty/topk.u8", "");
    write_text("empty/meta.json", "{\"layers\":1,\"experts\":4,\"top_k\":2,\"tokens\":0}");
    GRACE(1, "plan", "empty", "-o", "no.json");
    complains("empty: expected tokens to plan from, found none");
    write_text("load.csv", "layer,expert,count\n0,0,0\n0,1,0\n0,2,0\n0,3,0\n");
    GRACE(1, "plan", "load.csv", "-o", "no.json");
    complains("load.csv: expected tokens to plan from, found none");
    assert_int_equal(n_files("no.json*"), 0);
}

static void what_a_gate_cannot_choose_is_refused(void **state) {
    (void)state;
    static const struct { const char *bytes, *message; } cases[] = {
        {"\1\2\3\3", "token 1, layer 0: expert 3 is chosen twice"},
        {"\1\2\4\3", "token 1, layer 0: expected experts 0 to 3, found 4"},
        {"\1\2\3", "topk.u8: 2 tokens of 2 byte(s) take 4 bytes, the file has 3"},      /* one token has one expert less */
    };
    mkdir("gate", 0777);
    write_text("gate/meta.json", "{\"layers\":1,\"experts\":4,\"top_k\":2,\"tokens\":2}");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text("gate/topk.u8", cases[i].bytes);
        GRACE(1, "plan", "gate");
        complains(cases[i].message);
    }
}

/* From the tables to the plan and what is printed. */
static void made_up_tokens_are_marked_everywhere(void **state) {
    (void)state;
    mkdir("pairs", 0777);
    write_text("pairs/load.csv", "layer,expert,count\n0,0,30\n0,1,30\n0,2,20\n0,3,20\n");
    write_text("pairs/coact.csv", "layer,expert_i,expert_j,count\n0,0,1,25\n");
    write_text("pairs/meta.json", "{\"model\":\"m\",\"layers\":1,\"experts\":4,\"top_k\":2}");
    GRACE(0, "plan", "pairs", "-o", "made.json", "--cluster", "2x1");
    assert_non_null(strstr(last.out, "planned from: pairs, all, 50 tokens, synthetic"));
    says("these 50 tokens are synthetic");
    char *text = read_file("made.json", NULL);
    assert_non_null(strstr(text, "\"synthetic\": true"));
    free(text);
    GRACE(0, "inspect", "made.json", "--json");
    gr_json *o = printed_json();
    bool synthetic = false;
    assert_true(gr_json_is_bool(member(o, "planned_from_synthetic"), &synthetic) && synthetic);
    gr_json_free(o);
}

static void text_that_gives_no_tokens_is_refused(void **state) {
    (void)state;
    write_text("short.txt", "hello\n");
    GRACE(1, "profile", "-m", MODEL, "short.txt", "-o", "short.trace");
    complains("short.txt: no document of at least 256 tokens");
    GRACE(1, "profile", "-m", MODEL, "nothing.txt", "-o", "short.trace");
    complains("nothing.txt: No such file or directory");
    write_text("short.txt", "hello \xff there");
    GRACE(1, "profile", "-m", MODEL, "short.txt", "--window", "2", "-o", "short.trace");
    complains("short.txt: document 0: text is no valid UTF-8");
    assert_int_equal(n_files("short.trace*"), 0);
}

/* ---- output ---- */

static void a_folder_that_is_not_there_is_named(void **state) {
    (void)state;
    GRACE(1, "plan", PROFILED, "-o", "nowhere/plan.json");
    complains("nowhere/plan.json: cannot create: No such file or directory");
    GRACE(1, "profile", "-m", MODEL, SAMPLES "/prose.txt", "--tokens", "64", "--window", "32", "-o", "nowhere/x.trace");
    complains("nowhere/x.trace: cannot create: No such file or directory");
    RUN(1, "-p", "hello", "--trace", "nowhere/x.trace");
    complains("nowhere/x.trace: cannot create: No such file or directory");
    GRACE(1, "report", GRACE_SOURCE_DIR "/tests/golden/report/ladder.json", "-o", "nowhere/report.html");
    complains("nowhere/report.html: cannot create: No such file or directory");
    SHELL(1, "exec $G run -m $M -p hello -n 2 > /dev/full");
    says("grace: cannot write the output: No space left on device");
}

/* A disk that is full after 1024 bytes, as a limit on the size of files. */
static void a_full_disk_leaves_the_old_file_and_no_other(void **state) {
    (void)state;
    static const struct { const char *file, *script; } cases[] = {
        {"old.json", "$G plan " PROFILED " -o old.json"},
        {"old.trace", "$G profile -m $M " SAMPLES "/prose.txt --tokens 512 --window 32 -o old.trace"},
        {"old.html", "$G report " GRACE_SOURCE_DIR "/tests/golden/report/ladder.json -o old.html"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char script[1024], pattern[64];
        snprintf(script, sizeof script, "trap '' XFSZ; ulimit -f 2; exec %s", cases[i].script);
        snprintf(pattern, sizeof pattern, "%s*", cases[i].file);
        write_text(cases[i].file, "as it was");
        SHELL(1, script);
        complains(cases[i].file);
        char *kept = read_file(cases[i].file, NULL);
        assert_string_equal(kept, "as it was");
        free(kept);
        assert_int_equal(n_files(pattern), 1);
    }
}

/* What a page is made of, and what the file is instead. */
static void what_no_page_is_made_of_is_named(void **state) {
    (void)state;
    static const struct { const char *text, *message; } cases[] = {
        {"{\"plan\": \"p.json\", \"planned_from\": {}}", "this seems to be what 'grace plan --json' printed"},
        {"{\"physical_to_logical_map\": [[0]]}", "this seems to be a plan for SGLang"},
        {"{\"grace_plan\": 1}", "page.json is a plan: expected --trace"},
        {"[[0, 1]]", "page.json: expected a file of 'grace bench ladder' or"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_text("page.json", cases[i].text);
        GRACE(1, "report", "page.json", "-o", "none.html");
        complains(cases[i].message);
    }
    assert_int_equal(n_files("none.html*"), 0);
}

/* Simulations and pages are of the same recordings as plans. */
static void recordings_of_others_are_simulated_and_drawn(void **state) {
    (void)state;
    static const char *const tokens = GRACE_SOURCE_DIR "/tests/interop/data/per_token.pt", *const loads = GRACE_SOURCE_DIR "/tests/interop/data/stat.pt";
    GRACE(0, "plan", tokens, "--cluster", "2x1", "-o", "recorded.json");
    GRACE(0, "sim", tokens, "--plan", "recorded.json");
    GRACE(0, "report", "recorded.json", "--trace", tokens, "-o", "recorded.html");
    GRACE(1, "sim", loads);
    complains("stat.pt has loads only: expected a trace of tokens");
    GRACE(1, "report", "recorded.json", "--trace", loads, "-o", "none.html");
    complains("stat.pt has loads only: expected a trace of tokens");
    assert_int_equal(n_files("none.html*"), 0);
}

static void input_that_fails_leaves_the_old_output(void **state) {
    (void)state;
    write_text("old.json", "as it was");
    GRACE(1, "plan", "nothing.trace", "-o", "old.json");
    GRACE(1, "report", MODEL "/config.json", "-o", "old.json");
    complains("config.json: ");
    GRACE(1, "report", MODEL "/tokenizer.jso", "-o", "old.json");
    char *kept = read_file("old.json", NULL);
    assert_string_equal(kept, "as it was");
    free(kept);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(prompts_that_cannot_be_run_are_refused),
        cmocka_unit_test(a_bad_line_of_a_prompt_file_is_named),
        cmocka_unit_test(a_bad_line_of_ids_is_named),
        cmocka_unit_test(a_plan_must_fit_the_model_and_the_ranks),
        cmocka_unit_test(a_damaged_plan_is_refused),
        cmocka_unit_test(a_trace_cut_short_is_planned_up_to_its_last_block),
        cmocka_unit_test(what_is_no_trace_is_refused),
        cmocka_unit_test(inputs_without_a_token_are_refused),
        cmocka_unit_test(what_a_gate_cannot_choose_is_refused),
        cmocka_unit_test(made_up_tokens_are_marked_everywhere),
        cmocka_unit_test(text_that_gives_no_tokens_is_refused),
        cmocka_unit_test(a_folder_that_is_not_there_is_named),
        cmocka_unit_test(a_full_disk_leaves_the_old_file_and_no_other),
        cmocka_unit_test(what_no_page_is_made_of_is_named),
        cmocka_unit_test(recordings_of_others_are_simulated_and_drawn),
        cmocka_unit_test(input_that_fails_leaves_the_old_output),
    };
    return cmocka_run_group_tests(tests, folder_enter, folder_leave);
}
