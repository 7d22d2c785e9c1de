/* Chat templates of folders, conversations through them, and what is wrong with either. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "grace/chat.h"

#define MODEL GRACE_SOURCE_DIR "/models/tiny-olmoe"

static char folder[] = "/tmp/test_chat.XXXXXX";

static int enter_folder(void **state) { return (void)state, mkdtemp(folder) ? 0 : -1; }

static void write_text(const char *name, const char *text) {
    char path[256];
    assert_int_equal(gr_path_join(path, sizeof path, folder, name), GRACE_OK);
    assert_int_equal(text ? gr_file_replace(path, text, strlen(text)) : (grace_status)(unlink(path) != 0), GRACE_OK);
}

static int leave_folder(void **state) {
    (void)state;
    const char *const names[] = {"tokenizer_config.json", "chat_template.jinja", "chat_template.json"};
    char path[256];
    for (size_t i = 0; i < 3; i++)
        if (gr_path_join(path, sizeof path, folder, names[i]) == GRACE_OK) unlink(path);
    return rmdir(folder);
}

static void renders(const char *dir, const char *name, const grace_chat_options *options, const char *expected) {
    grace_chat *chat = NULL;
    char *text = NULL;
    size_t n = 0;
    if (grace_chat_open(dir, name, &chat) || grace_chat_render(chat, options, &text, &n)) fail_msg("%s", grace_last_error());
    assert_string_equal(text, expected);
    assert_int_equal(n, strlen(expected));
    grace_chat_close(chat);
    free(text);
}

static void does_not_open(const char *name, grace_status status, const char *part) {
    grace_chat *chat = NULL;
    assert_int_equal(grace_chat_open(folder, name, &chat), status);
    assert_null(chat);
    if (!strstr(grace_last_error(), part)) fail_msg("expected '%s', found '%s'", part, grace_last_error());
}

static void the_models_template_makes_the_prompt_it_was_trained_with(void **state) {
    (void)state;
    grace_chat_options opt = grace_chat_defaults();
    opt.messages = "[{\"role\": \"system\", \"content\": \"Be brief.\"}, {\"role\": \"user\", \"content\": \"Hi\"}]";
    renders(MODEL, NULL, &opt, "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
    opt.add_generation_prompt = false;
    renders(MODEL, NULL, &opt, "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n");
}

static void a_template_file_comes_before_the_configuration(void **state) {
    (void)state;
    grace_chat_options opt = grace_chat_defaults();
    opt.messages = "[{\"role\": \"user\", \"content\": \"x\"}]";
    write_text("tokenizer_config.json", "{\"bos_token\": {\"content\": \"<s>\"}, \"eos_token\": null, \"chat_template\": \"config\"}");
    renders(folder, NULL, &opt, "config");
    write_text("chat_template.json", "{\"chat_template\": \"json {{ bos_token }}\"}");
    renders(folder, NULL, &opt, "json <s>");
    write_text("chat_template.jinja", "jinja {{ bos_token }}{{ eos_token }}{{ tools is none }}\n");
    renders(folder, NULL, &opt, "jinja <s>True");
    write_text("chat_template.json", NULL);
    write_text("chat_template.jinja", NULL);
}

static void one_of_several_templates_is_taken_by_name(void **state) {
    (void)state;
    grace_chat_options opt = grace_chat_defaults();
    opt.messages = "[{\"role\": \"user\", \"content\": \"x\"}]";
    write_text("tokenizer_config.json", "{\"chat_template\": [{\"name\": \"default\", \"template\": \"one\"}, "
               "{\"name\": \"tool_use\", \"template\": \"two\"}]}");
    renders(folder, NULL, &opt, "one");
    renders(folder, "tool_use", &opt, "two");
    does_not_open("rag", GRACE_ERR_MISMATCH, "there is no chat template 'rag'");
    write_text("tokenizer_config.json", "{\"chat_template\": 7}");
    does_not_open(NULL, GRACE_ERR_FORMAT, "'chat_template': expected a string or an array, found an integer");
    write_text("tokenizer_config.json", "{}");
    does_not_open(NULL, GRACE_ERR_UNSUPPORTED, "the model has no chat template");
    write_text("tokenizer_config.json", "{\"chat_template\": \"a\\n{% if %}\"}");
    does_not_open(NULL, GRACE_ERR_FORMAT, "tokenizer_config.json: line 2: expected an expression, found '%}'");
}

static void variables_and_tools_reach_the_template(void **state) {
    (void)state;
    grace_chat_options opt = grace_chat_defaults();
    opt.messages = "[{\"role\": \"user\", \"content\": \"x\"}]";
    opt.tools = "[{\"name\": \"f\"}]";
    opt.variables = "{\"enable_thinking\": false, \"add_generation_prompt\": 5}";
    write_text("tokenizer_config.json", "{\"chat_template\": \"{{ tools | tojson }} {{ enable_thinking is false }} {{ add_generation_prompt }}\"}");
    renders(folder, NULL, &opt, "[{\"name\": \"f\"}] True 5");
}

static void refused(const grace_chat *chat, const grace_chat_options *opt, grace_status status, const char *part) {
    char *text = NULL;
    size_t n;
    assert_int_equal(grace_chat_render(chat, opt, &text, &n), status);
    assert_null(text);
    if (!strstr(grace_last_error(), part)) fail_msg("expected '%s', found '%s'", part, grace_last_error());
}

static void bad_conversations_give_one_sentence(void **state) {
    (void)state;
    static const char *const bad[][2] = {{"", "messages: no valid JSON"}, {"{}", "messages: expected an array, found an object"},
                                         {"[]", "at least one message"}, {"[3]", "messages: message 0: expected an object"},
                                         {"[{}]", "messages: message 0: 'role': expected a string, found nothing"},
                                         {"[{\"role\": \"u\"}]", "'dict object' has no attribute 'content'"}};
    grace_chat *chat = NULL;
    grace_chat_options opt = grace_chat_defaults();
    assert_int_equal(grace_chat_open(MODEL, NULL, &chat), GRACE_OK);
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        opt.messages = bad[i][0];
        refused(chat, &opt, GRACE_ERR_FORMAT, bad[i][1]);
    }
    opt.messages = "[{\"role\": \"user\", \"content\": \"x\"}]";
    opt.n_steps_max = 5;
    refused(chat, &opt, GRACE_ERR_LIMIT, "the template takes more than 5 steps");
    opt.tools = "{}";
    refused(chat, &opt, GRACE_ERR_FORMAT, "tools: expected an array, found an object");
    opt.messages = NULL;
    refused(chat, &opt, GRACE_ERR_ARG, "messages");
    grace_chat_close(chat);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_models_template_makes_the_prompt_it_was_trained_with), cmocka_unit_test(a_template_file_comes_before_the_configuration),
        cmocka_unit_test(one_of_several_templates_is_taken_by_name),               cmocka_unit_test(variables_and_tools_reach_the_template),
        cmocka_unit_test(bad_conversations_give_one_sentence),
    };
    return cmocka_run_group_tests(tests, enter_folder, leave_folder);
}
