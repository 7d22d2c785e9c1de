/* Unicode normalisation of text before it is cut, as tokenizer.json asks for it. utf8proc behind it. */
#ifndef GR_TEXT_NORMALIZE_H
#define GR_TEXT_NORMALIZE_H
#include <stdbool.h>

#include "base/memory.h"

/* Append the NFC form of valid UTF-8 text [n]. Fails with MEMORY. */
grace_status gr_nfc_append(gr_buf *out, const char *text, size_t n);

#endif
