/* Text to token ids and back: byte-level BPE as tokenizer.json describes it. */
#ifndef GRACE_TOKENIZER_H
#define GRACE_TOKENIZER_H
#include <stddef.h>
#include <stdint.h>

#include "grace/status.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct grace_tokenizer grace_tokenizer;

/* Load DIR/tokenizer.json. Fails with IO, FORMAT (ids must be 0 .. n-1 without gaps, merges of tokens that exist), LIMIT (a token over 1020
 * bytes), or UNSUPPORTED naming the part that is not supported (any normalizer, a pre-tokenizer without ByteLevel). The caller closes.
 * A tokenizer is immutable after loading: any number of threads may encode and decode with it. */
grace_status grace_tokenizer_open(const char *dir, grace_tokenizer **out);
void grace_tokenizer_close(grace_tokenizer *tok);

int32_t grace_tokenizer_vocab(const grace_tokenizer *tok);          /* highest id + 1, added tokens included */
int32_t grace_tokenizer_id(const grace_tokenizer *tok, const char *token);  /* id of a token's exact text, -1 when absent */

/* text [n] bytes (need not be zero-terminated) -> *ids [*n_ids], allocated with malloc, the caller frees.
 * Added and special tokens written in the text are recognised, as in the reference. Nothing is prepended unless the file says so.
 * Invalid UTF-8 fails with FORMAT and names the byte offset; a byte that the vocabulary has no token for with UNSUPPORTED; more than 2^30
 * bytes, or a pattern of the file that backtracks without end on this text, with LIMIT. */
grace_status grace_tokenizer_encode(const grace_tokenizer *tok, const char *text, size_t n, int32_t **ids, int32_t *n_ids);

/* ids [n_ids] -> *text, zero-terminated (and may contain zeros), *n bytes, malloc'ed. Special tokens are written out unless skip_special.
 * Bytes that are no valid UTF-8 become U+FFFD, as in the reference. Fails with ARG on an id outside the vocabulary. */
grace_status grace_tokenizer_decode(const grace_tokenizer *tok, const int32_t *ids, int32_t n_ids, int skip_special, char **text, size_t *n);

/* Streaming: bytes of one token after another; incomplete UTF-8 is held back until it is complete or proven broken. */
typedef struct grace_decoder { unsigned char held[8]; int32_t n_held; } grace_decoder;   /* start zeroed */
/* Appends to out (at least 4 * longest token + 16 bytes; GRACE_PIECE_MAX is always enough) what can be shown after this id. *n gets the byte count. */
enum { GRACE_PIECE_MAX = 4096 };
grace_status grace_decoder_next(grace_decoder *dec, const grace_tokenizer *tok, int32_t id, int skip_special, char *out, size_t *n);
/* What was held back at the end (U+FFFD for broken bytes). */
void grace_decoder_finish(grace_decoder *dec, char *out, size_t *n);

#ifdef __cplusplus
}
#endif
#endif
