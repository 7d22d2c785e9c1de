/* A model folder's chat template, and conversations through it. */
#include "grace/chat.h"

#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "text/template.h"

struct grace_chat {
    gr_template *tmpl;
    gr_json *special;               /* {"bos_token": "...", ...} */
};

/* ---- opening ---- */

/* A token is a text or an object with its content. */
static const char *token_text(const gr_json *value) {
    const char *text = NULL;
    const gr_json *content = gr_json_get(value, "content");
    gr_json_is_string(content ? content : value, &text, NULL);
    return text;
}

static void read_special_tokens(const gr_json *config, gr_json *special) {
    static const char *const names[] = {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        const char *text = token_text(gr_json_get(config, names[i]));
        if (text) gr_json_set_string(special, names[i], text);
    }
}

/* The text of a chat_template value: itself, or that of the list's entry of this name. */
static grace_status pick(const char *where, const gr_json *value, const char *name, const char **out) {
    grace_status st = GRACE_OK;
    const char *wanted = name ? name : "default", *found = NULL;
    *out = NULL;
    if (gr_json_is_string(value, out, NULL)) {
        GR_CHECK(strcmp(wanted, "default") == 0, GRACE_ERR_MISMATCH, "%s: there is one chat template without a name, asked for '%s'", where, wanted);
        return st;
    }
    GR_CHECK(gr_json_kind_of(value) == GR_JSON_ARRAY, GRACE_ERR_FORMAT,
             "%s: 'chat_template': expected a string or an array, found %s", where, gr_json_kind_name(value));
    for (size_t i = 0; i < gr_json_length(value) && !*out; i++) {
        GR_TRY(gr_json_string(gr_json_at(value, i), where, "name", &found));
        if (strcmp(found, wanted) == 0) GR_TRY(gr_json_string(gr_json_at(value, i), where, "template", out));
    }
    GR_CHECK(*out, GRACE_ERR_MISMATCH, "%s: there is no chat template '%s'", where, wanted);
done:
    return st;
}

static grace_status open_jinja(const char *path, gr_template **out) {
    gr_file file = {0};
    grace_status st = gr_file_map(path, &file);
    if (!st) st = gr_template_parse(path, file.data, file.n, out);
    gr_file_unmap(&file);
    return st;
}

static grace_status open_json(const char *path, const gr_json *config, const char *name, gr_template **out) {
    const char *text;
    grace_status st = pick(path, gr_json_get(config, "chat_template"), name, &text);
    return st ? st : gr_template_parse(path, text, strlen(text), out);
}

static grace_status load_if_there(const char *dir, const char *name, char *path, gr_json **out) {
    grace_status st = gr_path_join(path, PATH_MAX, dir, name);
    return st || access(path, F_OK) != 0 ? st : gr_json_load(path, out);
}

static grace_status find_template(const char *dir, const char *name, const gr_json *config, const char *config_path, gr_template **out) {
    grace_status st = GRACE_OK;
    char path[PATH_MAX];
    gr_json *alone = NULL;
    GR_TRY(gr_path_join(path, sizeof path, dir, "chat_template.jinja"));
    if (!name && access(path, F_OK) == 0) {
        GR_TRY(open_jinja(path, out));
        goto done;
    }
    GR_TRY(load_if_there(dir, "chat_template.json", path, &alone));
    if (alone) {
        GR_TRY(open_json(path, alone, name, out));
        goto done;
    }
    GR_CHECK(gr_json_get(config, "chat_template"), GRACE_ERR_UNSUPPORTED, "%s: the model has no chat template; prompts go in as they are", dir);
    GR_TRY(open_json(config_path, config, name, out));
done:
    gr_json_free(alone);
    return st;
}

grace_status grace_chat_open(const char *dir, const char *name, grace_chat **out) {
    grace_status st = GRACE_OK;
    grace_chat *chat = NULL;
    gr_json *config = NULL;
    char config_path[PATH_MAX];
    GR_CALLOC(chat, 1);
    chat->special = gr_json_new_object();
    GR_TRY(load_if_there(dir, "tokenizer_config.json", config_path, &config));
    read_special_tokens(config, chat->special);
    GR_TRY(find_template(dir, name, config, config_path, &chat->tmpl));
    *out = chat;
    chat = NULL;
done:
    gr_json_free(config);
    grace_chat_close(chat);
    return st;
}

void grace_chat_close(grace_chat *chat) {
    if (!chat) return;
    gr_template_free(chat->tmpl);
    gr_json_free(chat->special);
    free(chat);
}

/* ---- rendering ---- */

grace_chat_options grace_chat_defaults(void) { return (grace_chat_options){.add_generation_prompt = true}; }

static grace_status set_json(gr_json *variables, const char *name, const char *text, gr_json_kind kind, const char *kind_name) {
    grace_status st = GRACE_OK;
    gr_json *value = NULL;
    if (!text) {
        gr_json_set_null(variables, name);      /* defined, and nothing: what the reference passes */
        return st;
    }
    GR_TRY(gr_json_parse(name, text, strlen(text), &value));
    GR_CHECK(gr_json_kind_of(value) == kind, GRACE_ERR_FORMAT, "%s: expected %s, found %s", name, kind_name, gr_json_kind_name(value));
    gr_json_set(variables, name, value);
    value = NULL;
done:
    gr_json_free(value);
    return st;
}

static void set_members(gr_json *variables, const gr_json *object) {
    for (const gr_json_member *m = gr_json_first(object); m; m = gr_json_next(object, m))
        gr_json_set(variables, gr_json_key(m), gr_json_share(gr_json_value(m)));
}

static grace_status set_more(gr_json *variables, const char *text) {
    grace_status st = GRACE_OK;
    gr_json *more = NULL;
    if (!text) return st;
    GR_TRY(gr_json_parse("template variables", text, strlen(text), &more));
    GR_CHECK(gr_json_kind_of(more) == GR_JSON_OBJECT, GRACE_ERR_FORMAT, "template variables: expected an object, found %s", gr_json_kind_name(more));
    set_members(variables, more);
done:
    gr_json_free(more);
    return st;
}

/* Every message is an object with a role; what else it needs is the template's business. */
static grace_status check_messages(const gr_json *messages) {
    grace_status st = GRACE_OK;
    const char *role;
    char where[48];
    GR_CHECK(gr_json_length(messages) > 0, GRACE_ERR_FORMAT, "messages: expected at least one message, found an empty array");
    for (size_t i = 0; i < gr_json_length(messages); i++) {
        snprintf(where, sizeof where, "messages: message %zu", i);
        GR_CHECK(gr_json_kind_of(gr_json_at(messages, i)) == GR_JSON_OBJECT, GRACE_ERR_FORMAT, "%s: expected an object, found %s", where,
                 gr_json_kind_name(gr_json_at(messages, i)));
        GR_TRY(gr_json_string(gr_json_at(messages, i), where, "role", &role));
    }
done:
    return st;
}

static grace_status set_variables(const grace_chat *chat, const grace_chat_options *options, gr_json *variables) {
    grace_status st = GRACE_OK;
    GR_CHECK(options->messages, GRACE_ERR_ARG, "messages: expected a list of messages, found nothing");
    GR_TRY(set_json(variables, "messages", options->messages, GR_JSON_ARRAY, "an array"));
    GR_TRY(check_messages(gr_json_get(variables, "messages")));
    GR_TRY(set_json(variables, "tools", options->tools, GR_JSON_ARRAY, "an array"));
    GR_TRY(set_json(variables, "documents", options->documents, GR_JSON_ARRAY, "an array"));
    gr_json_set_bool(variables, "add_generation_prompt", options->add_generation_prompt);
    set_members(variables, chat->special);
    GR_TRY(set_more(variables, options->variables));
done:
    return st;
}

grace_status grace_chat_render(const grace_chat *chat, const grace_chat_options *options, char **text, size_t *n) {
    grace_status st = GRACE_OK;
    gr_json *variables = gr_json_new_object();
    gr_template_limits limits = gr_template_limits_default();
    gr_buf out = {0};
    GR_TRY(set_variables(chat, options, variables));
    if (options->n_steps_max > 0) limits.n_steps = options->n_steps_max;
    GR_TRY(gr_template_render(chat->tmpl, variables, &limits, options->now ? (time_t)options->now : time(NULL), &out));
    *text = out.data;
    *n = out.n;
    out = (gr_buf){0};
done:
    gr_json_free(variables);
    gr_buf_free(&out);
    return st;
}
