/* Any bytes as what a conversation is made of: a file of messages, a file of tools, a word of --template-arg, a user's turn and a system message, each
 * ended by a zero byte but the last; an empty part is not given. One sentence, or a prompt of valid UTF-8 through a template like those in use, which has the
 * turns as they were. */
#include "fuzz/scratch.h"

#include "chat.h"
#include "text/unicode.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static const char template[] =
    "{{ bos_token }}{% if tools %}# Tools{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}{% endif %}"
    "{% for message in messages %}<{{ message['role'] }}>"
    "{% if message.content is string %}{{ message.content | trim }}"
    "{% else %}{% for part in message.content %}{{ part.text if part.type == 'text' else part | tojson(indent=2) }}{% endfor %}{% endif %}"
    "{% for call in message.tool_calls or [] %}{{ call.function.name }}({{ call.function.arguments | tojson }}){% endfor %}"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}{% endif %}";

/* The next part as a string the caller frees; NULL: empty. */
static char *take(const uint8_t **at, const uint8_t *end) {
    const char *bytes = (const char *)*at;
    const size_t n = scratch_part(at, end);
    return n ? strndup(bytes, n) : NULL;
}

static const char *put(const char *name, const char *text, char path[128]) {
    scratch_put(name, text, text ? strlen(text) : 0, text);
    snprintf(path, 128, "%s/%s", scratch, name);
    return text ? path : NULL;
}

/* As the command line's parser would, which ends the program after a usage error. */
static bool set_argument(gr_chat_options *opt, char *word) {
    char name[] = "grace", option[] = "--template-arg";
    char *argv[] = {name, option, word, NULL};
    return argp_parse(&gr_chat_argp, 3, argv, ARGP_NO_EXIT | ARGP_NO_ERRS | ARGP_NO_HELP, NULL, opt) == 0;
}

static bool is_text(const char *text) { return !text || gr_utf8_valid(text, strlen(text)) == strlen(text); }

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    const uint8_t *at = data, *end = data + n;
    char *messages = take(&at, end), *tools = take(&at, end), *argument = take(&at, end), *user = take(&at, end), *system = take(&at, end);
    char messages_path[128], tools_path[128], *text = NULL;
    size_t n_text = 0;
    gr_chat_options opt = {.chat = true, .system = system};
    put("chat_template.jinja", template, messages_path);
    opt.messages = put("messages", messages, messages_path);
    opt.tools = put("tools", tools, tools_path);
    if (!argument || set_argument(&opt, argument)) {
        const grace_status st = gr_chat_prompt(&opt, scratch, user ? user : "", &text, &n_text);
        if (st) GR_ASSERT(!text && grace_last_error()[0] && st != GRACE_ERR_MEMORY);
        else GR_ASSERT(gr_utf8_valid(text, n_text) == n_text && (messages || (is_text(user) && is_text(system))));
    }
    free(text);
    gr_chat_options_free(&opt);
    free(messages), free(tools), free(argument), free(user), free(system);
    return 0;
}
