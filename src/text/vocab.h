/* The table of a tokenizer's texts and ids. */
#ifndef GR_TEXT_VOCAB_H
#define GR_TEXT_VOCAB_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/memory.h"

typedef struct gr_token { const char *text; uint32_t n; bool added; } gr_token;     /* text is zero-terminated; NULL: no token has this id;
                                                                                       added: beside the model's vocabulary */

typedef struct gr_vocab {
    gr_token *tokens;           /* [n_tokens] by id */
    int32_t n_tokens;
    uint32_t *slots;            /* [mask + 1] id + 1 by hash of the text, 0: empty; at most half full */
    uint32_t mask;
    char *texts, *next;         /* where the texts lie, zeros between them; where the next one goes */
    size_t n_bytes;             /* of all texts, without the zeros */
} gr_vocab;

/* Room for ids 0 .. n_tokens - 1 and texts of n_bytes in all; everything lives in the arena. */
grace_status gr_vocab_init(gr_vocab *vocab, gr_arena *arena, size_t n_tokens, size_t n_bytes);

/* Copies the text. Fails with FORMAT when the id or the text is taken. */
grace_status gr_vocab_add(gr_vocab *vocab, const char *text, size_t n, int32_t id, bool added);

int32_t gr_vocab_find(const gr_vocab *vocab, const char *text, size_t n);       /* -1: absent */
int32_t gr_vocab_find_model(const gr_vocab *vocab, const char *text, size_t n); /* -1 also for an added token */

#endif
