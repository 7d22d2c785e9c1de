/* Chat: a conversation to the text a model was trained to continue, by the template that came with it. */
#ifndef GRACE_CHAT_H
#define GRACE_CHAT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "grace/status.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct grace_chat grace_chat;

/* Open the chat template of a model folder: chat_template.jinja, else chat_template.json, else the chat_template of tokenizer_config.json
 * (a text, or a list of named ones). name picks one of several; NULL: the one called "default". The special tokens of tokenizer_config.json
 * become variables. Fails with IO, FORMAT (JSON, template syntax; the message has the line), UNSUPPORTED (the folder has no template, or the
 * template uses a tag, filter or test that is not there), MISMATCH (no template of that name). The caller closes. Immutable after opening. */
grace_status grace_chat_open(const char *dir, const char *name, grace_chat **out);
void grace_chat_close(grace_chat *chat);

typedef struct grace_chat_options {
    const char *messages;           /* JSON: a list of {"role": ..., "content": ...} */
    const char *tools;              /* JSON: a list of tools, or NULL */
    const char *documents;          /* JSON: a list of documents, or NULL */
    const char *variables;          /* JSON: an object of more variables, such as {"enable_thinking": false}, or NULL */
    bool add_generation_prompt;     /* end where the assistant's answer begins; true */
    int64_t now;                    /* seconds since 1970 that the template may print as a date; 0: now */
    int64_t n_steps_max;            /* the template may take that many; 0: 10 million */
} grace_chat_options;

grace_chat_options grace_chat_defaults(void);
/* *text gets the prompt, zero-terminated, *n bytes, malloc'ed. Special tokens are written out: encode it as it is. Fails with FORMAT (JSON, roles
 * the template refuses, a value of the wrong type; the message has the template's line), LIMIT (steps, memory, 64 MiB of text). */
grace_status grace_chat_render(const grace_chat *chat, const grace_chat_options *options, char **text, size_t *n);

#ifdef __cplusplus
}
#endif
#endif
