/* Help, and words that make no sense: code 64 and where to find help. */
#include "program.h"

#include <unistd.h>

static void check_help(const char *const *command, const char *const *options) {
    ends_with(0, command);
    assert_string_equal(last.err, "");
    for (; *options; options++)
        if (!strstr(last.out, *options)) fail_msg("the help of %s %s does not name %s:\n%s", command[1], command[2], *options, last.out);
}
#define HELP_NAMES(command, ...) check_help(command, WORDS(__VA_ARGS__))
#define HELP_OF(...) WORDS(GRACE_PROGRAM, __VA_ARGS__, "--help")
#define ENGINE_OPTIONS                                                                                                                          \
    "--model", "--plan", "--exchange", "--route", "--exact", "--ranks", "--nodes", "--wire", "--deadline", "--batch-tokens", "--kv-tokens",     \
        "--threads", "--simd", "--json", "--verbose"

static void the_program_names_its_commands(void **state) {
    (void)state;
    HELP_NAMES(HELP_OF("--help"), "run", "profile", "plan", "bench", "report", "inspect", "pull");
    HELP_NAMES(WORDS(GRACE_PROGRAM, "bench", "--help"), "kernels", "plan", "moe", "ladder");
    GRACE(0, "--version");
    assert_string_equal(last.out, "grace 0.1.0\n");
}

static void help_names_every_option(void **state) {
    (void)state;
    HELP_NAMES(HELP_OF("run"), ENGINE_OPTIONS, "--prompt=", "--prompts", "--prompt-ids", "-n ", "--ignore-eos", "--temperature", "--top-p", "--top-k",
               "--seed", "--trace");
    HELP_NAMES(HELP_OF("profile"), ENGINE_OPTIONS, "--output", "--tokens", "--window", "--documents", "--weights", "TEXT_FILE");
    HELP_NAMES(HELP_OF("plan"), "--cluster", "--planner", "--grouping", "--replication", "--ratio", "--seed", "--train", "--test", "--test-trace",
               "--allow-empty-ranks",
               "--decode-tokens", "--output", "--json", "--memory", "--replica-slots", "--balance", "--time-limit",
               "--objective", "--rates", "--shape", "--from", "--max-moves", "--equal-slots", "--no-homes", "--format");
    HELP_NAMES(HELP_OF("report"), "--output", "--json");
    HELP_NAMES(HELP_OF("inspect"), "--cluster", "--plan", "--memory", "--kv-tokens", "--device", "--json");
    HELP_NAMES(HELP_OF("pull"), "--revision", "--endpoint", "--include", "--exclude", "--wait-max", "--json", "HF_TOKEN");
    HELP_NAMES(HELP_OF("bench", "kernels"), "--threads", "--simd", "--repeat", "--out", "--in", "--json");
    HELP_NAMES(HELP_OF("bench", "plan"), "--clusters", "--seed", "--output", "--commit", "--json");
    HELP_NAMES(HELP_OF("bench", "moe"), ENGINE_OPTIONS, "--tokens", "--steps");
    HELP_NAMES(HELP_OF("bench", "ladder"), ENGINE_OPTIONS, "--trace", "--sequences", "--prefill", "--decode", "--documents", "--repeat", "--plans",
               "--output");
}

#define LETTERS "abcdefghijklmnopqrstuvwxyz-"

static bool names(const char *pages, const char *option) {
    const size_t n = strlen(option);
    for (const char *at = pages; (at = strstr(at, option)); at += n)
        if (strspn(at, LETTERS) == n) return true;
    return false;
}

/* The help of a command, as it was printed last. */
static void check_pages(const char *pages, const char *const *command) {
    for (const char *at = last.out; (at = strstr(at, " --")); at++) {
        char option[64];
        snprintf(option, sizeof option, "%.*s", (int)strspn(at + 1, LETTERS), at + 1);
        if (strcmp(option, "--help") && strcmp(option, "--usage") && !names(pages, option))
            fail_msg("no page of docs/ names %s of grace %s %s", option, command[1], command[2]);
    }
}

static void every_option_is_on_a_page(void **state) {
    static const char *const commands[][2] = {{"run"}, {"profile"}, {"plan"}, {"sim"}, {"report"}, {"tokenize"}, {"inspect"}, {"pull"}, {"bench", "kernels"},
        {"bench", "cpu"}, {"bench", "gpu"}, {"bench", "moe"}, {"bench", "ladder"}, {"bench", "plan"}, {"bench", "placements"}, {"bench", "homes"},
        {"bench", "routes"}, {"bench", "net"}, {"bench", "agreement"}, {"bench", "tokenizer"}};
    (void)state;
    SHELL(0, "cat " GRACE_SOURCE_DIR "/docs/*.md");
    char *pages = strdup(last.out);
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        const char *const *c = commands[i], *const *words = c[1] ? HELP_OF(c[0], c[1]) : HELP_OF(c[0]);
        ends_with(0, words);
        check_pages(pages, words);
    }
    free(pages);
}

static void unknown_words_end_with_code_64(void **state) {
    (void)state;
    ends_with(64, WORDS(GRACE_PROGRAM));
    says("Usage: grace COMMAND");
    GRACE(64, "rum");
    complains_of_usage("unknown command 'rum'");
    GRACE(64, "bench", "ladders");
    says("grace: unknown bench 'ladders'");
    GRACE(64, "run", "-m", MODEL, "-p", "x", "--fast");
    complains_of_usage("grace run: unrecognized option '--fast'");
    GRACE(64, "plan", "a.trace", "b.trace");
    complains_of_usage("grace plan: expected one trace, found 'b.trace' too");
    GRACE(64, "run", "-m", MODEL, "-p", "x", "y");
    complains_of_usage("grace run: ");
}

static void missing_words_are_named(void **state) {
    (void)state;
    GRACE(64, "run", "-p", "x");
    complains_of_usage("grace run: expected -m, the model's folder");
    GRACE(64, "run", "-m", MODEL);
    complains_of_usage("expected one of -p, --prompts, --prompt-ids");
    GRACE(64, "run", "-m", MODEL, "-p", "x", "--prompts", "file");
    complains_of_usage("expected one of -p, --prompts, --prompt-ids");
    GRACE(64, "profile", "-m", MODEL);
    complains_of_usage("expected at least one text file");
    GRACE(64, "plan", "a.trace", "--decode-tokens", "64");
    complains_of_usage("--decode-tokens needs --rates");
    GRACE(64, "plan", "a.trace", "--decode-tokens", "64", "--rates", "cpu", "--format", "sglang");
    complains_of_usage("--decode-tokens is for --format grace");
    GRACE(64, "plan");
    complains_of_usage("expected a trace");
    GRACE(64, "report");
    complains_of_usage("grace bench ladder");
    GRACE(64, "pull");
    complains_of_usage("expected ORG/NAME");
    GRACE(64, "inspect");
    complains_of_usage("expected a model folder, a trace or a plan");
    GRACE(64, "bench", "ladder", "-m", MODEL, "x.txt");
    complains_of_usage("grace bench ladder: expected --trace");
    GRACE(64, "bench", "plan", "--clusters", "2x2,2y2");
    complains_of_usage("grace bench plan: --clusters: ");
}

static void values_out_of_bounds_say_what_was_expected_and_found(void **state) {
    (void)state;
    static const struct { const char *option, *value, *expected; } cases[] = {
        {"-n", "abc", "-n: expected an integer from 0 to "},
        {"-n", "-1", "-n: expected an integer from 0 to "},
        {"-n", "4x", "found '4x'"},
        {"-n", "99999999999999999999", "found '99999999999999999999'"},
        {"--temperature", "-0.5", "--temperature: expected a number from 0 to 1000, found '-0.5'"},
        {"--temperature", "nan", "found 'nan'"},
        {"--top-p", "0", "--top-p: expected a number from "},
        {"--top-k", "many", "--top-k: expected an integer"},
        {"--seed", "", "--seed: expected an integer"},
        {"--nodes", "0", "--nodes: expected an integer from 1 to 8192, found '0'"},
        {"--threads", "0", "--threads: expected an integer from 1 to 1024, found '0'"},
        {"--kv-tokens", "0", "--kv-tokens: expected an integer from 1 "},
        {"--batch-tokens", "0", "--batch-tokens: expected an integer from 1 "},
        {"--deadline", "0", "--deadline: expected a number from 0.1 to 86400, found '0'"},
        {"--exchange", "fast", "--exchange: expected per-expert, flat or hsc, found 'fast'"},
        {"--route", "tsr", "--route: expected primary, wrr, tar, tar-entry or joint, found 'tsr'"},
        {"--homes", "far", "--homes: expected round-robin, vocab or histogram, found 'far'"},
        {"--wire", "1gbit", "--wire needs --ranks"},
        {"--device", "gpu", "--device: expected cpu or cuda, found 'gpu'"},
        {"--kernels", "foo", "--kernels: expected auto, hopper, mma or plain, found 'foo'"},
        {"--between", "wire", "--between: expected auto, sockets, nccl or staged, found 'wire'"},
        {"--turns-from", "-1", "--turns-from: expected an integer from 0 to 1048576, found '-1'"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        GRACE(64, "run", "-m", MODEL, "-p", "x", cases[i].option, cases[i].value);
        complains_of_usage(cases[i].expected);
    }
    GRACE(64, "plan", PROFILED, "--cluster", "0x2");
    complains_of_usage("--cluster: ");
    GRACE(64, "plan", PROFILED, "--planner", "magic");
    complains_of_usage("--planner: expected contiguous, ");
    says(" or ");
    says("found 'magic'");
    GRACE(64, "profile", "-m", MODEL, "--documents", "some", "x.txt");
    complains_of_usage("--documents: expected all, even or odd, found 'some'");
}

static void what_only_gpus_look_at_is_refused_without_them(void **state) {
    (void)state;
    static const char *const options[] = {"--kernels=mma", "--between=nccl", "--plain-wire", "--turns-from=5", "--step-by-step"};
    for (size_t i = 0; i < sizeof options / sizeof *options; i++) {
        char sentence[64];
        snprintf(sentence, sizeof sentence, "grace run: %.*s needs --device cuda", (int)strcspn(options[i], "="), options[i]);
        GRACE(64, "run", "-m", MODEL, "-p", "x", options[i]);
        complains_of_usage(sentence);
        GRACE(64, "run", "-m", MODEL, "-p", "x", "--device", "cpu", options[i]);
        complains_of_usage(sentence);
        GRACE(1, "run", "-m", "nothing", "-p", "x", options[i], "--device", "cuda");     /* in any order */
        complains("nothing/config.json: No such file");
    }
}

static void what_only_the_cpu_looks_at_is_refused_on_gpus(void **state) {
    (void)state;
    GRACE(64, "run", "-m", MODEL, "-p", "x", "--simd", "avx2", "--device", "cuda");
    complains_of_usage("grace run: --simd needs --device cpu");
    GRACE(1, "run", "-m", "nothing", "-p", "x", "--device", "cpu", "--simd", "auto");
    complains("nothing/config.json: No such file");
}

static void ranks_that_cannot_be_started_are_refused_before_anything_starts(void **state) {
    (void)state;
    GRACE(1, "run", "-m", MODEL, "-p", "x", "--ranks", "0x2");
    const long n_cores = sysconf(_SC_NPROCESSORS_ONLN), n_ranks_max = n_cores < 32 ? 32 * n_cores : 1024;
    char words[32], sentence[128];
    complains("in all on ");
    says(" cores, found '0x2'");
    snprintf(words, sizeof words, "%ld", n_ranks_max + 1);
    snprintf(sentence, sizeof sentence, "ranks: expected 1 to %ld in all on %ld cores, found '%s'", n_ranks_max, n_cores, words);
    GRACE(1, "run", "-m", MODEL, "-p", "x", "--ranks", words);
    complains(sentence);
    GRACE(1, "run", "-m", MODEL, "-p", "x", "--ranks", "two");
    complains("expected a number or NODESxRANKS such as 2x2, found 'two'");
    GRACE(1, "run", "-m", MICRO("deepseek-v2-sparse"), "-p", "x", "--ranks", "4x2");
    complains("grace: 8 ranks for 7 experts");
    GRACE(0, "plan", PROFILED, "--cluster", "2x2", "-o", "four.json");
    GRACE(1, "run", "-m", MODEL, "-p", "x", "--ranks", "4x2", "--plan", "four.json");
    complains("grace: plan is for cluster node:2 gpu:2, this run has node:4 gpu:2");
    GRACE(1, "run", "-m", MODEL, "-p", "x", "--ranks", "3", "--nodes", "2");
    complains("3 ranks cannot be cut into 2 equal nodes");
    GRACE(1, "run", "-m", MODEL, "-p", "x", "--ranks", "2x2", "--nodes", "4");
    complains("--ranks 2x2 asks for 2 nodes, --nodes for 4");
    GRACE(1, "run", "-m", MODEL, "-p", "x", "--nodes", "2");
    complains("one rank by itself cannot be 2 nodes");
    GRACE(1, "run", "-m", MODEL, "-p", "x", "--simd", "mmx");
    complains("simd 'mmx': expected auto, portable, avx2 or avx512");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_program_names_its_commands),
        cmocka_unit_test(help_names_every_option),
        cmocka_unit_test(every_option_is_on_a_page),
        cmocka_unit_test(unknown_words_end_with_code_64),
        cmocka_unit_test(missing_words_are_named),
        cmocka_unit_test(values_out_of_bounds_say_what_was_expected_and_found),
        cmocka_unit_test(what_only_gpus_look_at_is_refused_without_them),
        cmocka_unit_test(what_only_the_cpu_looks_at_is_refused_on_gpus),
        cmocka_unit_test(ranks_that_cannot_be_started_are_refused_before_anything_starts),
    };
    return cmocka_run_group_tests(tests, folder_enter, folder_leave);
}
