/* Runs without trained weights or with recorded routing say so in all they print; what they cannot have is refused in a sentence. */
#include <sys/stat.h>

#include "program.h"

/* A network as small as its routing allows: as many experts and choices as the recorded routing of tiny-olmoe. */
#define CONFIG "small"

static int enter(void **state) {
    if (folder_enter(state) || mkdir(CONFIG, 0777)) return 1;
    write_text(CONFIG "/config.json", "{\"model_type\": \"olmoe\", \"hidden_size\": 32, \"intermediate_size\": 8, \"num_attention_heads\": 2, "
                                      "\"num_experts\": 64, \"num_experts_per_tok\": 8, \"num_hidden_layers\": 2, \"vocab_size\": 200, "
                                      "\"max_position_embeddings\": 128, \"rms_norm_eps\": 1e-5}");
    return 0;
}

static void starts_with(const char *text) {
    if (strncmp(last.out, text, strlen(text)) != 0) fail_msg("expected '%s' at the start of '%.200s'", text, last.out);
}

static void a_random_model_answers_ids_with_ids_and_names_its_seed(void **state) {
    (void)state;
    GRACE(0, "run", "--random-weights", "7", CONFIG, "--prompt-tokens", "9", "--requests", "2", "-n", "4", "--ignore-eos");
    starts_with("(random weights, seed 7)\n--- request 0\n");
    assert_int_equal(count(last.out, "--- request"), 2);
    GRACE(0, "run", "--random-weights", "7", "-m", CONFIG, "--prompt-tokens", "9", "-n", "4", "--json");
    gr_json *o = printed_json();
    assert_string_equal(text_of(o, "weights"), "random weights, seed 7");
    gr_json_free(o);
}

static void its_benches_name_the_seed_too(void **state) {
    (void)state;
    GRACE(0, "bench", "moe", "--random-weights", "7", CONFIG, "--tokens", "8", "--steps", "2");
    starts_with("(random weights, seed 7)\n");
    GRACE(0, "bench", "cpu", "--random-weights", "7", "-m", CONFIG, "--prefill", "16", "--decode", "4", "--repeat", "1", "--json");
    gr_json *o = printed_json();
    assert_string_equal(text_of(o, "weights"), "random weights, seed 7");
    gr_json_free(o);
}

static void replayed_routing_is_named_with_its_model_and_tokens(void **state) {
    (void)state;
    GRACE(0, "run", "-m", MODEL, "-p", "The old captain", "-n", "4", "--route-trace", PROFILED);
    starts_with("(routing of a small model, tiny-olmoe (prose))\n");
    GRACE(0, "run", "--random-weights", "7", CONFIG, "--prompt-tokens", "9", "-n", "4", "--route-trace", PROFILED, "--route-tokens", "even");
    starts_with("(random weights, seed 7; routing of a small model, tiny-olmoe (prose, even))\n");
    GRACE(0, "bench", "moe", "--random-weights", "7", CONFIG, "--tokens", "8", "--steps", "2", "--route-trace", PROFILED, "--json");
    gr_json *o = printed_json();
    assert_string_equal(text_of(o, "routing"), "routing of a small model, tiny-olmoe (prose)");
    gr_json_free(o);
}

static void routing_that_does_not_fit_is_refused(void **state) {
    (void)state;
    GRACE(1, "run", "--random-weights", "7", MICRO("qwen3-moe"), "--prompt-tokens", "4", "--route-trace", PROFILED);
    complains("64 experts, top 8, the model has");
    GRACE(1, "run", "-m", MODEL, "-p", "The", "--route-trace", "nowhere");
    complains("nowhere");
    GRACE(1, "run", "-m", MODEL, "-p", "The", "--route-trace", PROFILED, "--trace", "again.trace");
    complains("again.trace: a run whose routing is replayed cannot record it");
    GRACE(64, "run", "-m", MODEL, "-p", "The", "--route-tokens", "odd");
    complains_of_usage("--route-tokens needs --route-trace");
    GRACE(64, "run", "-m", MODEL, "-p", "The", "--route-trace", PROFILED, "--route-tokens", "some");
    complains_of_usage("found 'some'");
}

static void a_batch_is_timed_beside_its_floor(void **state) {
    (void)state;
    GRACE(0, "bench", "gpu", "--random-weights", "7", "-m", CONFIG, "--batch", "5", "--prefill", "9", "--decode", "3", "--repeat", "2", "--batch-tokens", "16",
          "--floor-decode", "0.5", "--route-trace", PROFILED, "--json");
    gr_json *o = printed_json();
    const gr_json *decode = member(o, "decode"), *prefill = member(o, "prefill");
    assert_string_equal(text_of(o, "weights"), "random weights, seed 7");
    assert_string_equal(text_of(o, "routing"), "routing of a small model, tiny-olmoe (prose)");
    assert_true(number_of(prefill, "ms_low") <= number_of(prefill, "ms") && number_of(prefill, "ms") <= number_of(prefill, "ms_high"));
    assert_true(number_of(decode, "ms") > 0 && number_of(decode, "ratio") == number_of(decode, "ms") / 0.5);
    assert_null(gr_json_get(prefill, "floor_ms"));
    gr_json_free(o);
    GRACE(0, "bench", "gpu", "--random-weights", "7", "-m", CONFIG, "--batch", "2", "--prefill", "4", "--decode", "2", "--repeat", "1");
    starts_with("(random weights, seed 7)\nsmall: 2 requests of 4 tokens, 2 decode steps");
    GRACE(1, "bench", "gpu", "-m", MODEL, "--batch", "5", "--prefill", "9", "--decode", "3", "--repeat", "1", "--kv-tokens", "48");
    complains("expected 3 steps of 5 requests at once, found 0: raise --kv-tokens");
}

static void what_a_random_model_lacks_is_refused(void **state) {
    (void)state;
    GRACE(64, "run", "--random-weights", "7", "-m", CONFIG, "-p", "hello");
    complains_of_usage("no tokenizer");
    GRACE(64, "run", CONFIG, "-p", "hello");
    complains_of_usage("given by -m");
    GRACE(64, "run", "--random-weights", "some", CONFIG, "--prompt-tokens", "4");
    complains_of_usage("--random-weights");
    GRACE(64, "run", "-m", CONFIG, "-p", "hello", "--requests", "4");
    complains_of_usage("--requests needs --prompt-tokens");
    GRACE(1, "run", "--random-weights", "7", "nowhere", "--prompt-tokens", "4");
    complains("nowhere/config.json");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_random_model_answers_ids_with_ids_and_names_its_seed),
        cmocka_unit_test(its_benches_name_the_seed_too),
        cmocka_unit_test(replayed_routing_is_named_with_its_model_and_tokens),
        cmocka_unit_test(routing_that_does_not_fit_is_refused),
        cmocka_unit_test(a_batch_is_timed_beside_its_floor),
        cmocka_unit_test(what_a_random_model_lacks_is_refused),
    };
    return cmocka_run_group_tests(tests, enter, folder_leave);
}
