#include "text/normalize.h"

#include <string.h>
#include <utf8proc.h>

static bool is_ascii(const char *text, size_t n) {
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)text[i] >= 0x80) return false;
    return true;
}

grace_status gr_nfc_append(gr_buf *out, const char *text, size_t n) {
    grace_status st = GRACE_OK;
    utf8proc_uint8_t *normal = NULL;
    if (is_ascii(text, n)) return gr_buf_append(out, text, n);      /* NFC changes no ASCII */
    utf8proc_ssize_t n_normal = utf8proc_map((const utf8proc_uint8_t *)text, (utf8proc_ssize_t)n, &normal, UTF8PROC_STABLE | UTF8PROC_COMPOSE);
    GR_CHECK(n_normal >= 0, GRACE_ERR_MEMORY, "%zu bytes cannot be normalised: %s", n, utf8proc_errmsg(n_normal));
    GR_TRY(gr_buf_append(out, normal, (size_t)n_normal));
done:
    free(normal);
    return st;
}

uint32_t gr_char_upper(uint32_t cp) { return (uint32_t)utf8proc_toupper((utf8proc_int32_t)cp); }
uint32_t gr_char_lower(uint32_t cp) { return (uint32_t)utf8proc_tolower((utf8proc_int32_t)cp); }
