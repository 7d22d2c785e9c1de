/* What a loaded tokenizer is made of; load.c fills it, tokenizer.c uses it. */
#ifndef GR_TEXT_TOKENIZER_H
#define GR_TEXT_TOKENIZER_H
#include "grace/tokenizer.h"
#include "text/added.h"
#include "text/bpe.h"
#include "text/pretokenize.h"

enum { GR_TOKEN_BYTES_MAX = (GRACE_PIECE_MAX - 16) / 4 };       /* what one grace_decoder_next() call can show */

typedef struct gr_shown { const char *bytes; uint32_t n; bool special; } gr_shown;  /* what an id is when decoded */

struct grace_tokenizer {
    gr_arena *arena;                    /* everything below but the patterns */
    gr_vocab vocab;                     /* the model's tokens and the added ones */
    gr_bpe bpe;
    bool nfc;                           /* text is normalised before it is cut */
    gr_pretokenizer *pre;
    gr_pattern *word;                   /* NULL when no added token is single_word */
    gr_added_set added, added_after;    /* normalized false; true */
    gr_shown *shown;                    /* [vocab.n_tokens] */
    gr_ids before, after;               /* what the post-processor puts around a text; malloc'ed */
};

/* grace_tokenizer_open() of a tokenizer.json in memory. */
grace_status gr_tokenizer_parse(const char *json, size_t n, grace_tokenizer **out);

#endif
