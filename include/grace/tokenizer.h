/* Text to token ids and back: byte pair encoding of bytes or of characters, as tokenizer.json describes it. docs/tokenizers.md has what is
 * supported. */
#ifndef GRACE_TOKENIZER_H
#define GRACE_TOKENIZER_H
#include <stddef.h>
#include <stdint.h>

#include "grace/status.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct grace_tokenizer grace_tokenizer;

/* Load DIR/tokenizer.json, and what DIR/tokenizer_config.json, if there is one, says about beginning and end tokens. Fails with IO, FORMAT
 * (among others merges of tokens that do not exist), LIMIT (a token over 1020 bytes, an id of 2^20 or more), or UNSUPPORTED naming the part
 * that is not supported. The caller closes.
 * A tokenizer is immutable after loading: any number of threads may encode and decode with it. */
grace_status grace_tokenizer_open(const char *dir, grace_tokenizer **out);
void grace_tokenizer_close(grace_tokenizer *tok);

int32_t grace_tokenizer_vocab(const grace_tokenizer *tok);          /* highest id + 1, added tokens included; ids in between may have no token */
int32_t grace_tokenizer_id(const grace_tokenizer *tok, const char *token);  /* id of a token's exact text, -1 when absent */

/* text [n] bytes (need not be zero-terminated) -> *ids [*n_ids], allocated with malloc, the caller frees.
 * Added and special tokens written in the text are recognised, as in the reference. Beginning and end tokens are put
 * around when the files say so. Invalid UTF-8 fails with FORMAT and names the byte offset; a byte or character that the vocabulary has no
 * token for with UNSUPPORTED; more than 2^30 bytes, or a pattern of the file that backtracks without end on this text, with LIMIT. */
grace_status grace_tokenizer_encode(const grace_tokenizer *tok, const char *text, size_t n, int32_t **ids, int32_t *n_ids);
/* The same with nothing put around: for a text that has its beginning token written in it, as chat templates do. */
grace_status grace_tokenizer_encode_bare(const grace_tokenizer *tok, const char *text, size_t n, int32_t **ids, int32_t *n_ids);

/* ids [n_ids] -> *text, zero-terminated (and may contain zeros), *n bytes, malloc'ed. Special tokens are written out unless skip_special.
 * Bytes that are no valid UTF-8 become U+FFFD, as in the reference; an id without a token shows nothing. Fails with ARG on a negative id. */
grace_status grace_tokenizer_decode(const grace_tokenizer *tok, const int32_t *ids, int32_t n_ids, int skip_special, char **text, size_t *n);

/* Streaming: bytes of one token after another; incomplete UTF-8 is held back until it is complete or proven broken. The pieces join to what
 * grace_tokenizer_decode() gives, but for one case: it shows a whole run of byte fallback tokens as U+FFFD when one of its bytes is broken,
 * also characters before the break, which were streamed when they were complete. */
typedef struct grace_decoder { unsigned char held[8]; int32_t n_held, n_stripped, begun; } grace_decoder;   /* start zeroed */
/* Appends to out (at least 4 * longest token + 16 bytes; GRACE_PIECE_MAX is always enough) what can be shown after this id. *n gets the byte count. */
enum { GRACE_PIECE_MAX = 4096 };
grace_status grace_decoder_next(grace_decoder *dec, const grace_tokenizer *tok, int32_t id, int skip_special, char *out, size_t *n);
/* What was held back at the end (U+FFFD for broken bytes); the decoder is as new. */
void grace_decoder_finish(grace_decoder *dec, char *out, size_t *n);

#ifdef __cplusplus
}
#endif
#endif
