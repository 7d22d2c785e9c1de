/* The normalizer of tokenizer.json: what happens to a text before it is cut. utf8proc behind it. */
#ifndef GR_TEXT_NORMALIZE_H
#define GR_TEXT_NORMALIZE_H
#include <stdint.h>

#include "base/json.h"
#include "base/memory.h"
#include "text/pattern.h"

typedef struct gr_normalizer gr_normalizer;     /* immutable: any number of threads may normalize with it */

/* json: the value of "normalizer". *out is NULL when it changes nothing (null, an empty sequence). Fails with FORMAT, or UNSUPPORTED
 * naming the type. */
grace_status gr_normalizer_build(const gr_json *json, gr_normalizer **out);
void gr_normalizer_free(gr_normalizer *normalizer);

/* Append the normal form of valid UTF-8 text [n]. Fails with MEMORY, or LIMIT when a pattern runs away or the text grows to 64 times its size. */
grace_status gr_normalize(const gr_normalizer *normalizer, gr_searcher *searcher, const char *text, size_t n, gr_buf *out);

uint32_t gr_char_upper(uint32_t cp);            /* simple case mappings: one character for one */
uint32_t gr_char_lower(uint32_t cp);

#endif
