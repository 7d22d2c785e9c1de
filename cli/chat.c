#include "chat.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/memory.h"
#include "text/unicode.h"

enum { KEY_CHAT = 0x300, KEY_SYSTEM, KEY_MESSAGES, KEY_TOOLS, KEY_NO_THINKING, KEY_TEMPLATE_ARG, KEY_TEMPLATE, KEY_SHOW };

static const struct argp_option options[] = {
    {0, 0, 0, 0, "Chat:", 6},
    {"chat", KEY_CHAT, 0, 0, "-p is a user's turn, put into the model's chat template", 6},
    {"system", KEY_SYSTEM, "TEXT", 0, "a system message before it", 6},
    {"messages", KEY_MESSAGES, "FILE", 0, "the whole conversation: a JSON list of messages", 6},
    {"tools", KEY_TOOLS, "FILE", 0, "what the model may call: a JSON list", 6},
    {"no-thinking", KEY_NO_THINKING, 0, 0, "the template variable enable_thinking is false", 6},
    {"template-arg", KEY_TEMPLATE_ARG, "K=V", 0, "a variable of the template; V is JSON or, failing that, text", 6},
    {"template", KEY_TEMPLATE, "NAME", 0, "which of several chat templates", 6},
    {"show-prompt", KEY_SHOW, 0, 0, "print the prompt and stop", 6},
    {0},
};

/* What is not UTF-8 could only be put into JSON changed. */
static bool is_text(const char *text) { return gr_utf8_valid(text, strlen(text)) == strlen(text); }

static void set_variable(gr_chat_options *opt, const char *key, const char *text) {
    gr_json *value = NULL;
    if (!opt->variables) opt->variables = gr_json_new_object();
    char *wrapped = malloc(strlen(text) + 3);       /* a scalar is JSON only inside something */
    if (!wrapped) return;
    sprintf(wrapped, "[%s]", text);
    bool json = gr_json_parse(key, wrapped, strlen(wrapped), &value) == GRACE_OK && gr_json_length(value) == 1;
    if (json) gr_json_set(opt->variables, key, gr_json_share(gr_json_at(value, 0)));
    else gr_json_set_string(opt->variables, key, text);
    gr_json_free(value);
    free(wrapped);
}

static void add_variable(gr_chat_options *opt, struct argp_state *state, const char *arg) {
    const char *equals = strchr(arg, '=');
    if (!equals || equals == arg || !is_text(arg)) {
        argp_error(state, "--template-arg: expected KEY=VALUE%s, found '%s'", equals && equals > arg ? " in UTF-8" : "", arg);
        return;
    }
    char *key = strndup(arg, (size_t)(equals - arg));
    if (key) set_variable(opt, key, equals + 1);
    free(key);
}

static error_t parse(int key, char *arg, struct argp_state *state) {
    gr_chat_options *opt = state->input;
    switch (key) {
    case KEY_CHAT: opt->chat = true; break;
    case KEY_SYSTEM: opt->system = arg; break;
    case KEY_MESSAGES: opt->messages = arg; break;
    case KEY_TOOLS: opt->tools = arg; break;
    case KEY_NO_THINKING: set_variable(opt, "enable_thinking", "false"); break;
    case KEY_TEMPLATE_ARG: add_variable(opt, state, arg); break;
    case KEY_TEMPLATE: opt->template = arg; break;
    case KEY_SHOW: opt->show_prompt = true; break;
    case ARGP_KEY_END:
        if (!opt->chat && (opt->system || opt->messages || opt->tools || opt->variables || opt->template || opt->show_prompt))
            argp_error(state, "--system, --messages, --tools, --no-thinking, --template-arg, --template and --show-prompt need --chat");
        if (opt->messages && opt->system) argp_error(state, "--messages is the whole conversation: --system has no place beside it");
        break;
    default: return ARGP_ERR_UNKNOWN;
    }
    return 0;
}

const struct argp gr_chat_argp = {options, parse, 0, 0, 0, 0, 0};

void gr_chat_options_free(gr_chat_options *opt) { gr_json_free(opt->variables); }

/* ---- the prompt ---- */

static void push_message(gr_json *messages, const char *role, const char *content) {
    gr_json *message = gr_json_new_object();
    gr_json_set_string(message, "role", role);
    gr_json_set_string(message, "content", content);
    gr_json_push(messages, message);
}

static grace_status file_text(const char *path, char **out) {
    grace_status st = GRACE_OK;
    gr_file file = {0};
    GR_TRY(gr_file_map(path, &file));
    const char *zero = memchr(file.data, 0, file.n);
    GR_CHECK(!zero, GRACE_ERR_FORMAT, "%s: no valid JSON: a zero byte at offset %zu", path, (size_t)(zero - (const char *)file.data));
    *out = strndup(file.data, file.n);
    GR_CHECK(*out, GRACE_ERR_MEMORY, "%s: no memory for its text", path);
done:
    gr_file_unmap(&file);
    return st;
}

static grace_status turn(const gr_chat_options *opt, const char *user, char **out) {
    grace_status st = GRACE_OK;
    gr_json *messages = gr_json_new_array();
    GR_CHECK(is_text(user), GRACE_ERR_FORMAT, "the prompt is no valid UTF-8");
    GR_CHECK(!opt->system || is_text(opt->system), GRACE_ERR_FORMAT, "the system message is no valid UTF-8");
    if (opt->system) push_message(messages, "system", opt->system);
    push_message(messages, "user", user);
    GR_TRY(gr_json_write(messages, 0, out, NULL));
done:
    gr_json_free(messages);
    return st;
}

grace_status gr_chat_prompt(const gr_chat_options *opt, const char *dir, const char *user, char **text, size_t *n) {
    grace_status st = GRACE_OK;
    grace_chat *chat = NULL;
    char *messages = NULL, *tools = NULL, *variables = NULL;
    grace_chat_options render = grace_chat_defaults();
    GR_TRY(grace_chat_open(dir, opt->template, &chat));
    GR_TRY(opt->messages ? file_text(opt->messages, &messages) : turn(opt, user, &messages));
    if (opt->tools) GR_TRY(file_text(opt->tools, &tools));
    if (opt->variables) GR_TRY(gr_json_write(opt->variables, 0, &variables, NULL));
    render.messages = messages;
    render.tools = tools;
    render.variables = variables;
    GR_TRY(grace_chat_render(chat, &render, text, n));
done:
    grace_chat_close(chat);
    free(messages);
    free(tools);
    free(variables);
    return st;
}

grace_status gr_chat_show(const gr_chat_options *opt, const char *dir, const char *user) {
    char *text = NULL;
    size_t n = 0;
    grace_status st = gr_chat_prompt(opt, dir, user, &text, &n);
    if (st) return st;
    fwrite(text, 1, n, stdout);
    free(text);
    return GRACE_OK;
}
