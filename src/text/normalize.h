/* Unicode normalisation of text before it is cut, as tokenizer.json asks for it. utf8proc behind it. */
#ifndef GR_TEXT_NORMALIZE_H
#define GR_TEXT_NORMALIZE_H
#include <stdint.h>

#include <stdbool.h>

#include "base/memory.h"

/* Append the NFC form of valid UTF-8 text [n]. Fails with MEMORY. */
grace_status gr_nfc_append(gr_buf *out, const char *text, size_t n);

uint32_t gr_char_upper(uint32_t cp);            /* simple case mappings: one character for one */
uint32_t gr_char_lower(uint32_t cp);

#endif
