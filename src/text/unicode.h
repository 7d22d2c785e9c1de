/* UTF-8 and the byte-level alphabet: the 256 visible characters in which byte-level vocabularies are written. */
#ifndef GR_TEXT_UNICODE_H
#define GR_TEXT_UNICODE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* One character at p, n >= 1 bytes available. Returns its length and sets *cp; 0 when the bytes end inside a character that is valid so
 * far; -k when the first k bytes can be no character (k is the maximal subpart that one U+FFFD replaces). */
int gr_utf8_step(const char *p, size_t n, uint32_t *cp);

size_t gr_utf8_valid(const char *text, size_t n);                       /* length of the valid prefix: n when all is valid */
size_t gr_utf8_cut(const char *text, size_t n, size_t max);             /* longest prefix of valid text of at most max bytes, whole characters */
int gr_utf8_put(uint32_t cp, char out[4]);                              /* bytes written */

/* Valid characters are copied, every maximal subpart of broken bytes becomes U+FFFD. Unless final, an incomplete character at the end
 * is left alone. out has room for 3 * n bytes. Returns the bytes consumed. */
size_t gr_utf8_lossy(const char *in, size_t n, bool final, char *out, size_t *n_out);

bool gr_is_space(uint32_t cp);                                          /* Unicode White_Space */
size_t gr_char_before(const char *text, size_t at);                     /* where the character begins that ends at byte at > 0 */
size_t gr_char_after(const char *text, size_t n, size_t at);            /* where the character ends that begins at byte at < n */
size_t gr_spaces_before(const char *text, size_t at);                   /* where the white space begins that ends at byte at */
size_t gr_spaces_after(const char *text, size_t n, size_t at);          /* where the white space ends that begins at byte at */

uint32_t gr_char_of_byte(uint8_t byte);                                 /* 0x20 -> U+0120, 'a' -> 'a' */
int gr_byte_of_char(uint32_t cp);                                       /* -1: not in the alphabet */

/* A token's text, valid UTF-8 -> the bytes it stands for; text with a character outside the alphabet stands for itself. out has room for
 * n bytes. Returns their number. */
size_t gr_bytes_of_token(const char *text, size_t n, char *out);

#endif
