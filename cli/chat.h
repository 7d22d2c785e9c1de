/* Options of a chat, and the prompt they make. */
#ifndef GRACE_CLI_CHAT_H
#define GRACE_CLI_CHAT_H
#include "cli.h"

typedef struct gr_chat_options {
    bool chat, show_prompt;
    const char *system, *messages, *tools, *template;
    gr_json *variables;             /* of --template-arg and --no-thinking; NULL: none */
} gr_chat_options;

extern const struct argp gr_chat_argp;      /* child parser; its input is a gr_chat_options */
void gr_chat_options_free(gr_chat_options *opt);
/* The text of the conversation for the model in dir: --messages, or --system and a user's turn. *text is malloc'ed. */
grace_status gr_chat_prompt(const gr_chat_options *opt, const char *dir, const char *user, char **text, size_t *n);
/* --show-prompt: prints that text and nothing else. */
grace_status gr_chat_show(const gr_chat_options *opt, const char *dir, const char *user);

#endif
