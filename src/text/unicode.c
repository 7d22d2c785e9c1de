#include "text/unicode.h"

#include <string.h>

static const char replacement[3] = "\xEF\xBF\xBD";      /* U+FFFD */

/* Unicode 15, table 3-7: how many bytes follow a first byte, and what the second may be. */
static int n_following(uint8_t lead, uint8_t *low, uint8_t *high) {
    *low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    *high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (lead < 0x80) return 0;
    if (lead < 0xC2 || lead > 0xF4) return -1;
    return lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
}

int gr_utf8_step(const char *p, size_t n, uint32_t *cp) {
    uint8_t low, high, lead = (uint8_t)p[0];
    int following = n_following(lead, &low, &high);
    if (following < 0) return -1;
    uint32_t value = following == 0 ? lead : lead & (0x3Fu >> following);
    for (int k = 1; k <= following; k++) {
        if ((size_t)k == n) return 0;
        uint8_t byte = (uint8_t)p[k];
        if (byte < low || byte > high) return -k;
        value = value << 6 | (byte & 0x3Fu);
        low = 0x80, high = 0xBF;
    }
    *cp = value;
    return following + 1;
}

static size_t ascii_run(const char *text, size_t n) {
    size_t i = 0;
    for (uint64_t word; i + 8 <= n; i += 8) {
        memcpy(&word, text + i, 8);
        if (word & 0x8080808080808080u) break;
    }
    while (i < n && (uint8_t)text[i] < 0x80) i++;
    return i;
}

size_t gr_utf8_valid(const char *text, size_t n) {
    uint32_t cp;
    for (size_t i = 0; i < n;) {
        i += ascii_run(text + i, n - i);
        if (i == n) break;
        int step = gr_utf8_step(text + i, n - i, &cp);
        if (step <= 0) return i;
        i += (size_t)step;
    }
    return n;
}

size_t gr_utf8_cut(const char *text, size_t n, size_t max) {
    if (n <= max) return n;
    while (max > 0 && ((uint8_t)text[max] & 0xC0) == 0x80) max--;
    return max;
}

int gr_utf8_put(uint32_t cp, char out[4]) {
    int following = cp < 0x80 ? 0 : cp < 0x800 ? 1 : cp < 0x10000 ? 2 : 3;
    static const uint8_t mark[4] = {0x00, 0xC0, 0xE0, 0xF0};
    for (int k = following; k > 0; k--, cp >>= 6) out[k] = (char)(0x80 | (cp & 0x3F));
    out[0] = (char)(mark[following] | cp);
    return following + 1;
}

size_t gr_utf8_lossy(const char *in, size_t n, bool final, char *out, size_t *n_out) {
    size_t i = 0, o = 0;
    uint32_t cp;
    while (i < n) {
        int step = gr_utf8_step(in + i, n - i, &cp);
        if (step == 0 && !final) break;
        if (step > 0) {
            memcpy(out + o, in + i, (size_t)step);
            i += (size_t)step, o += (size_t)step;
        } else {
            memcpy(out + o, replacement, sizeof replacement);
            i = step == 0 ? n : i + (size_t)-step;
            o += sizeof replacement;
        }
    }
    *n_out = o;
    return i;
}

bool gr_is_space(uint32_t cp) {
    if (cp < 0x80) return cp == ' ' || (cp >= 9 && cp <= 13);
    return cp == 0x85 || cp == 0xA0 || cp == 0x1680 || (cp >= 0x2000 && cp <= 0x200A) || cp == 0x2028 || cp == 0x2029 || cp == 0x202F ||
           cp == 0x205F || cp == 0x3000;
}

size_t gr_char_before(const char *text, size_t at) {
    do at--;
    while (at > 0 && ((uint8_t)text[at] & 0xC0) == 0x80);
    return at;
}

size_t gr_char_after(const char *text, size_t n, size_t at) {
    uint32_t cp;
    return at + (size_t)gr_utf8_step(text + at, n - at, &cp);
}

static bool space_at(const char *text, size_t n, size_t at) {
    uint32_t cp;
    return gr_utf8_step(text + at, n - at, &cp) > 0 && gr_is_space(cp);
}

size_t gr_spaces_before(const char *text, size_t at) {
    size_t n = at;
    for (size_t before; at > 0 && space_at(text, n, before = gr_char_before(text, at));) at = before;
    return at;
}

size_t gr_spaces_after(const char *text, size_t n, size_t at) {
    while (at < n && space_at(text, n, at)) at = gr_char_after(text, n, at);
    return at;
}

/* The alphabet of byte-level BPE: printable Latin-1 stands for itself, the 68 other bytes follow from U+0100 in order. */
static bool stands_for_itself(uint32_t c) { return (c >= '!' && c <= '~') || (c >= 0xA1 && c <= 0xFF && c != 0xAD); }

uint32_t gr_char_of_byte(uint8_t byte) {
    if (stands_for_itself(byte)) return byte;
    if (byte <= 0x20) return 0x100u + byte;
    if (byte <= 0xA0) return 0x100u + 33 + (byte - 0x7Fu);      /* 33 bytes come before 0x7F */
    return 0x100u + 67;                                         /* 0xAD, the soft hyphen */
}

int gr_byte_of_char(uint32_t cp) {
    if (stands_for_itself(cp)) return (int)cp;
    if (cp < 0x100 || cp > 0x100 + 67) return -1;
    cp -= 0x100;
    return cp <= 0x20 ? (int)cp : cp < 67 ? (int)(0x7F + cp - 33) : 0xAD;
}

size_t gr_bytes_of_token(const char *text, size_t n, char *out) {
    size_t n_bytes = 0;
    uint32_t cp = 0;
    for (size_t i = 0; i < n;) {
        int step = gr_utf8_step(text + i, n - i, &cp), byte = step > 0 ? gr_byte_of_char(cp) : -1;
        if (byte < 0) {
            memcpy(out, text, n);
            return n;
        }
        out[n_bytes++] = (char)byte;
        i += (size_t)step;
    }
    return n_bytes;
}
