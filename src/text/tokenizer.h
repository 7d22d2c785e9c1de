/* What a loaded tokenizer is made of; load.c fills it, tokenizer.c uses it. */
#ifndef GR_TEXT_TOKENIZER_H
#define GR_TEXT_TOKENIZER_H
#include "grace/tokenizer.h"
#include "text/added.h"
#include "text/bpe.h"
#include "text/detokenize.h"
#include "text/normalize.h"
#include "text/pretokenize.h"
#include "text/wrap.h"

enum { GR_TOKEN_BYTES_MAX = (GRACE_PIECE_MAX - 16) / 4 };       /* what one grace_decoder_next() call can show */

typedef struct gr_shown {           /* what an id is when decoded */
    size_t start;                   /* in shown_text */
    uint32_t n;
    bool special;
    int16_t byte;                   /* of a byte fallback token, else -1 */
} gr_shown;

struct grace_tokenizer {
    gr_arena *arena;                    /* tables and texts; what has a free() of its own is beside it */
    gr_vocab vocab;                     /* the model's tokens and the added ones */
    gr_bpe bpe;
    gr_normalizer *normalizer;          /* NULL: text stays as it is */
    gr_pretokenizer *pre;
    gr_pattern *word;                   /* NULL when no added token is single_word */
    gr_added_set added, added_after;    /* normalized false; true */
    gr_detokenizer *detokenizer;
    gr_shown *shown;                    /* [vocab.n_tokens] */
    gr_buf shown_text;
    gr_wrapping wrapping;
};

/* grace_tokenizer_open() of a tokenizer.json in memory. */
grace_status gr_tokenizer_parse(const char *json, size_t n, grace_tokenizer **out);

#endif
