/* The decoder of tokenizer.json: what ids are as text. */
#ifndef GR_TEXT_DETOKENIZE_H
#define GR_TEXT_DETOKENIZE_H
#include "base/json.h"
#include "base/memory.h"
#include "text/pattern.h"

typedef struct gr_detokenizer gr_detokenizer;       /* immutable: any number of threads may decode with it */

/* json: the value of "decoder": ByteLevel, Metaspace, or a sequence of what works on single tokens (Replace, Strip, Metaspace), then
 * ByteFallback, then Fuse, then Strip at the start. Fails with FORMAT, or UNSUPPORTED naming the type. */
grace_status gr_detokenizer_build(const gr_json *json, gr_detokenizer **out);
void gr_detokenizer_free(gr_detokenizer *d);

bool gr_detokenizer_byte_level(const gr_detokenizer *d);    /* tokens are bytes that only together make characters */

/* Append what a token's text [n] shows, standing first in a text or behind others. *byte: the byte of a fallback token, else -1. */
grace_status gr_detokenize_token(const gr_detokenizer *d, gr_searcher *searcher, const char *text, size_t n, bool first, gr_buf *out, int16_t *byte);
bool gr_detokenizer_minds_first(const gr_detokenizer *d);   /* a token may show something else when it is the first */

/* How many bytes at the start of text [n] Strip takes, of which *n_stripped were taken before. */
size_t gr_detokenize_strip(const gr_detokenizer *d, const char *text, size_t n, int32_t *n_stripped);

#endif
