/* grace run in one process: text, numbers, requests from files. */
#include "program.h"

#include "base/memory.h"

enum { GREEDY = 32 };                   /* tokens of the reference's continuations */

static void equal_text(const gr_json *result, const char *expected) { assert_string_equal(text_of(result, "text"), expected); }

static const gr_json *result_at(const gr_json *object, size_t i) {
    const gr_json *result = gr_json_at(member(object, "requests"), i);
    assert_non_null(result);
    return result;
}

/* One line {"prompt": ..., "n": 32} for each golden prompt. */
static void write_golden_prompts(const gr_json *prompts) {
    gr_buf lines = {0};
    for (size_t i = 0; i < gr_json_length(prompts); i++) {
        gr_json *request = gr_json_new_object();
        char *line = NULL;
        size_t n;
        gr_json_set_string(request, "prompt", text_of(gr_json_at(prompts, i), "text"));
        gr_json_set_int(request, "n", GREEDY);
        assert_int_equal(gr_json_write(request, 0, &line, &n), GRACE_OK);
        assert_int_equal(gr_buf_printf(&lines, "%s\n", line), GRACE_OK);
        free(line);
        gr_json_free(request);
    }
    write_file("golden.txt", lines.data, lines.n);
    gr_buf_free(&lines);
}

static void greedy_text_is_the_reference_implementations(void **state) {
    (void)state;
    gr_json *goldens = NULL;
    assert_int_equal(gr_json_load(GOLDENS, &goldens), GRACE_OK);
    const gr_json *prompts = member(goldens, "prompts");
    write_golden_prompts(prompts);
    GRACE(0, "run", "-m", MODEL, "--prompts", "golden.txt", "--json");
    gr_json *o = printed_json();
    assert_true(gr_json_length(prompts) >= 6);
    assert_int_equal(gr_json_length(member(o, "requests")), gr_json_length(prompts));
    for (size_t i = 0; i < gr_json_length(prompts); i++) equal_text(result_at(o, i), text_of(gr_json_at(prompts, i), "greedy_text"));
    gr_json_free(o);
    gr_json_free(goldens);
}

static void the_json_object_has_the_promised_members(void **state) {
    (void)state;
    GRACE(0, "run", "-m", MODEL, "-p", "The old", "-n", "5", "--json");
    gr_json *o = printed_json();
    const gr_json *stats = member(o, "stats");
    assert_int_equal(gr_json_length(member(o, "token_ids")), 5);
    assert_int_equal(strlen(text_of(o, "logits_hash")), 16);
    assert_string_equal(text_of(o, "finish"), "length");
    assert_true(number_of(o, "prefill_tok_s") > 0);
    assert_true(number_of(o, "decode_tok_s") > 0);
    assert_true(number_of(stats, "rows_cross_node") == 0 && number_of(stats, "bytes_cross_node") == 0);     /* one rank */
    assert_true(number_of(stats, "rows_intra_node") == 0 && number_of(stats, "bytes_intra_node") == 0);
    assert_true(number_of(stats, "load_max_over_mean") == 1);
    assert_true(number_of(stats, "idle_us") == 0);
    gr_json_free(o);
}

/* Three ways to show one text. */
static void streamed_text_is_the_json_text(void **state) {
    (void)state;
    char expected[4096];
    GRACE(0, "run", "-m", MODEL, "-p", "“I cannot believe it,” said", "-n", "24", "--json");
    gr_json *o = printed_json();
    snprintf(expected, sizeof expected, "%s\n", text_of(o, "text"));
    gr_json_free(o);
    GRACE(0, "run", "-m", MODEL, "-p", "“I cannot believe it,” said", "-n", "24");
    assert_string_equal(last.out, expected);
    assert_string_equal(last.err, "");
    GRACE(0, "run", "-m", MODEL, "-p", "“I cannot believe it,” said", "-n", "24", "--top-k", "1", "--temperature", "1.7", "--seed", "9");
    assert_string_equal(last.out, expected);                /* the likeliest token alone is the greedy one */
    GRACE(0, "run", "-m", MODEL, "-p", "The old", "-n", "0");
    assert_string_equal(last.out, "\n");
}

static void several_prompts_print_every_text(void **state) {
    (void)state;
    char expected[4096];
    write_text("prompts.txt", "The old captain\r\n{\"prompt\": \"Once upon\", \"n\": 3}\nThe sea");     /* the last line ends without newline */
    GRACE(0, "run", "-m", MODEL, "--prompts", "prompts.txt", "-n", "6", "--json");
    gr_json *o = printed_json();
    assert_int_equal(gr_json_length(member(o, "requests")), 3);
    assert_int_equal(gr_json_length(member(result_at(o, 0), "token_ids")), 6);
    assert_int_equal(gr_json_length(member(result_at(o, 1), "token_ids")), 3);
    snprintf(expected, sizeof expected, "--- request 0\n%s\n--- request 1\n%s\n--- request 2\n%s\n", text_of(result_at(o, 0), "text"),
             text_of(result_at(o, 1), "text"), text_of(result_at(o, 2), "text"));
    gr_json_free(o);
    GRACE(0, "run", "-m", MODEL, "--prompts", "prompts.txt", "-n", "6");
    assert_string_equal(last.out, expected);
}

static void a_request_brings_its_own_sampling(void **state) {
    (void)state;
    write_text("sampling.txt",
               "The old captain\n"
               "{\"prompt\": \"The old captain\", \"temperature\": 1.5, \"seed\": 7}\n"
               "{\"prompt\": \"The old captain\", \"temperature\": 1.5, \"seed\": 7}\n"
               "{\"prompt\": \"The old captain\", \"temperature\": 1.5, \"seed\": 8}\n"
               "{\"prompt\": \"The old captain\", \"temperature\": 1.5, \"seed\": 8, \"top_k\": 1}\n"
               "{\"prompt\": \"The old captain\", \"temperature\": 1.5, \"seed\": 8, \"top_p\": 1e-6}\n");
    GRACE(0, "run", "-m", MODEL, "--prompts", "sampling.txt", "-n", "12", "--ignore-eos", "--exact", "--json");
    gr_json *o = printed_json();
    const char *greedy = text_of(result_at(o, 0), "text"), *seven = text_of(result_at(o, 1), "text");
    equal_text(result_at(o, 2), seven);
    assert_string_not_equal(text_of(result_at(o, 3), "text"), seven);
    assert_string_not_equal(seven, greedy);
    equal_text(result_at(o, 4), greedy);
    equal_text(result_at(o, 5), greedy);

    char expected[4096];
    snprintf(expected, sizeof expected, "%s\n", seven);
    gr_json_free(o);
    GRACE(0, "run", "-m", MODEL, "-p", "The old captain", "-n", "12", "--ignore-eos", "--exact", "--temperature", "1.5", "--seed", "7");
    assert_string_equal(last.out, expected);                /* the same draw alone and in company */
}

static void token_ids_are_prompts_too(void **state) {
    (void)state;
    write_text("ids.txt", "270 1133,597\n[15, 308]\n");
    GRACE(0, "run", "-m", MODEL, "--prompt-ids", "ids.txt", "-n", "4", "--json");
    gr_json *o = printed_json();
    assert_int_equal(gr_json_length(member(o, "requests")), 2);
    assert_int_equal(gr_json_length(member(result_at(o, 1), "token_ids")), 4);
    gr_json_free(o);
    write_text("same.txt", " the old man\n");               /* 270 1133 597, says the reference tokenizer */
    GRACE(0, "run", "-m", MODEL, "--prompts", "same.txt", "-n", "4", "--json");
    gr_json *text = printed_json();
    char *kept = strdup(text_of(text, "logits_hash"));
    gr_json_free(text);
    write_text("ids.txt", "270 1133 597\n");
    GRACE(0, "run", "-m", MODEL, "--prompt-ids", "ids.txt", "-n", "4", "--json");
    o = printed_json();
    assert_string_equal(text_of(o, "logits_hash"), kept);
    free(kept);
    gr_json_free(o);
}

/* This draw comes upon end of text before its 400 tokens are full. */
static void generation_stops_at_end_of_text_unless_told_otherwise(void **state) {
    (void)state;
    write_text("eos.txt",
               "{\"prompt\": \"The end.\", \"n\": 400, \"temperature\": 1, \"seed\": 3}\n"
               "{\"prompt\": \"The end.\", \"n\": 400, \"temperature\": 1, \"seed\": 3, \"ignore_eos\": true}\n");
    GRACE(0, "run", "-m", MODEL, "--prompts", "eos.txt", "--exact", "--json");
    gr_json *o = printed_json();
    const gr_json *stopped = member(result_at(o, 0), "token_ids"), *went_on = member(result_at(o, 1), "token_ids");
    size_t n = gr_json_length(stopped);
    int64_t id = -1, other = -1;
    assert_string_equal(text_of(result_at(o, 0), "finish"), "eos");
    assert_string_equal(text_of(result_at(o, 1), "finish"), "length");
    assert_in_range(n, 1, 399);
    assert_int_equal(gr_json_length(went_on), 400);
    assert_true(gr_json_is_int(gr_json_at(stopped, n - 1), &id) && id == 0);        /* config.json: eos_token_id 0 */
    assert_true(gr_json_is_int(gr_json_at(went_on, n - 1), &other) && other == 0);  /* the same draw */
    gr_json_free(o);
}

/* Prompts of any length and number of rows a step, one answer. */
static void small_steps_give_the_same_bits(void **state) {
    (void)state;
    char kept[32] = "";
    static const char *const batches[] = {"512", "7", "1"};
    write_text("three.txt", "The old captain walked slowly along the shore\nOnce upon a time\nThe\n");
    for (size_t i = 0; i < 3; i++) {
        GRACE(0, "run", "-m", MODEL, "--prompts", "three.txt", "-n", "5", "--exact", "--json", "--batch-tokens", batches[i], "--kv-tokens", "128");
        gr_json *o = printed_json();
        if (i > 0) assert_string_equal(text_of(o, "logits_hash"), kept);
        snprintf(kept, sizeof kept, "%s", text_of(o, "logits_hash"));
        gr_json_free(o);
    }
}

/* The prompt a user would have typed by hand gives the same tokens. */
static void a_chat_is_the_templates_text(void **state) {
    (void)state;
    GRACE(0, "run", "-m", MODEL, "--chat", "-p", "The old", "--system", "Be brief.", "--show-prompt");
    assert_string_equal(last.out, "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nThe old<|im_end|>\n<|im_start|>assistant\n");
    char *prompt = strdup(last.out);
    GRACE(0, "run", "-m", MODEL, "-p", prompt, "-n", "6");
    char *by_hand = strdup(last.out);
    write_text("messages.json", "[{\"role\": \"system\", \"content\": \"Be brief.\"}, {\"role\": \"user\", \"content\": \"The old\"}]");
    GRACE(0, "run", "-m", MODEL, "--chat", "--messages", "messages.json", "-n", "6");
    assert_string_equal(last.out, by_hand);
    free(prompt);
    free(by_hand);
}

static double n_prompt_rows(const char *const *words) {
    ends_with(0, words);
    gr_json *o = printed_json();
    double n = number_of(member(o, "stats"), "tokens");
    gr_json_free(o);
    return n;
}

/* A tokenizer that puts <|endoftext|> before every text, and a template that writes it too: a chat has it once. */
static void a_chat_begins_once(void **state) {
    (void)state;
    model_link();
    model_edit("tokenizer.json", "\"post_processor\": {\n    \"type\": \"ByteLevel\",",
               "\"post_processor\": {\"type\": \"TemplateProcessing\", \"single\": [{\"SpecialToken\": {\"id\": \"<|endoftext|>\", \"type_id\": 0}}, "
               "{\"Sequence\": {\"id\": \"A\", \"type_id\": 0}}], "
               "\"special_tokens\": {\"<|endoftext|>\": {\"id\": \"<|endoftext|>\", \"ids\": [0], \"tokens\": [\"<|endoftext|>\"]}},");
    model_remove("tokenizer_config.json");
    write_text("m/tokenizer_config.json", "{\"bos_token\": \"<|endoftext|>\", \"chat_template\": \"{{ bos_token }}{{ messages[0].content }}\"}");
    GRACE(0, "run", "-m", "m", "--chat", "-p", "The old", "--show-prompt");
    assert_string_equal(last.out, "<|endoftext|>The old");
    double chat = n_prompt_rows(WORDS(GRACE_PROGRAM, "run", "-m", "m", "--chat", "-p", "The old", "-n", "0", "--json"));
    char *text = strdup(last.out), *hash = strstr(text, "\"logits_hash\"");
    assert_true(hash && chat == n_prompt_rows(WORDS(GRACE_PROGRAM, "run", "-m", "m", "-p", "The old", "-n", "0", "--json")));
    assert_memory_equal(hash, strstr(last.out, "\"logits_hash\""), strlen("\"logits_hash\": \"0123456789abcdef\""));
    assert_true(chat + 1 == n_prompt_rows(WORDS(GRACE_PROGRAM, "run", "-m", "m", "-p", "<|endoftext|>The old", "-n", "0", "--json")));
    free(text);
}

static void a_chat_that_cannot_be_is_refused(void **state) {
    (void)state;
    GRACE(64, "run", "-m", MODEL, "--chat");
    complains_of_usage("--chat: expected one of -p, --messages");
    GRACE(64, "run", "-m", MODEL, "-p", "x", "--system", "y");
    complains_of_usage("need --chat");
    write_text("messages.json", "[{\"role\": \"user\"}]");
    GRACE(1, "run", "-m", MODEL, "--chat", "--messages", "messages.json", "-n", "1");
    complains("tokenizer_config.json: line ");
}

/* What JSON cannot hold is not put into it changed, and what stands behind a zero byte is not left out. */
static void a_chat_that_is_no_text_is_refused(void **state) {
    (void)state;
    static const char conversation[] = "[{\"role\": \"user\", \"content\": \"x\"}]\0, and more";
    GRACE(1, "run", "-m", MODEL, "--chat", "-p", "caf\xE9", "--show-prompt");
    complains("the prompt is no valid UTF-8");
    GRACE(1, "run", "-m", MODEL, "--chat", "-p", "x", "--system", "caf\xE9", "--show-prompt");
    complains("the system message is no valid UTF-8");
    GRACE(64, "run", "-m", MODEL, "--chat", "-p", "x", "--template-arg", "n\xE4me=1", "--show-prompt");
    complains_of_usage("expected KEY=VALUE in UTF-8");
    write_file("messages.json", conversation, sizeof conversation - 1);
    GRACE(1, "run", "-m", MODEL, "--chat", "--messages", "messages.json", "--show-prompt");
    complains("messages.json: no valid JSON: a zero byte at offset 34");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greedy_text_is_the_reference_implementations),
        cmocka_unit_test(the_json_object_has_the_promised_members),
        cmocka_unit_test(streamed_text_is_the_json_text),
        cmocka_unit_test(several_prompts_print_every_text),
        cmocka_unit_test(a_request_brings_its_own_sampling),
        cmocka_unit_test(token_ids_are_prompts_too),
        cmocka_unit_test(generation_stops_at_end_of_text_unless_told_otherwise),
        cmocka_unit_test(small_steps_give_the_same_bits),
        cmocka_unit_test(a_chat_is_the_templates_text),
        cmocka_unit_test(a_chat_begins_once),
        cmocka_unit_test(a_chat_that_cannot_be_is_refused),
        cmocka_unit_test(a_chat_that_is_no_text_is_refused),
    };
    return cmocka_run_group_tests(tests, folder_enter, folder_leave);
}
