#include "report/format.h"

#include <inttypes.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* ---- numbers ---- */

/* digits, then a comma before every third from the right; the part from the point on is copied. */
static gr_label group_digits(const char *digits) {
    gr_label label;
    size_t n = 0, n_whole = strcspn(digits, "."), first = *digits == '-';
    for (size_t i = 0; digits[i] && n + 2 < sizeof label.text; i++) {
        if (i > first && i < n_whole && (n_whole - i) % 3 == 0) label.text[n++] = ',';
        label.text[n++] = digits[i];
    }
    label.text[n] = 0;
    return label;
}

gr_label gr_label_count(int64_t value) {
    char digits[32];
    snprintf(digits, sizeof digits, "%" PRId64, value);
    return group_digits(digits);
}

gr_label gr_label_real(double value, int decimals) {
    char digits[48];
    if (fabs(value) < 0.5 * pow(10, -decimals)) value = 0;     /* never "-0.0" */
    snprintf(digits, sizeof digits, "%.*f", decimals, value);
    return group_digits(digits);
}

/* Decimals that leave three digits: 1.23, 12.3, 123. */
static int decimals_for(double value) { return fabs(value) < 9.995 ? 2 : fabs(value) < 99.95 ? 1 : 0; }

gr_label gr_label_ms(double us) { return gr_label_real(us / 1000, decimals_for(us / 1000)); }

static gr_label scaled(double value, double step, const char *const *units, int n_units) {
    gr_label label;
    int unit = 0;
    for (; unit + 1 < n_units && fabs(value) >= 0.9995 * step; unit++) value /= step;
    bool whole = value == floor(value) && fabs(value) < step;
    snprintf(label.text, sizeof label.text, "%.*f%s", whole ? 0 : decimals_for(value), value, units[unit]);
    return label;
}

gr_label gr_label_short(double value) {
    static const char *const units[] = {"", "k", "M", "G", "T"};
    return scaled(value, 1000, units, 5);
}

gr_label gr_label_bytes(int64_t bytes) {
    static const char *const units[] = {" B", " KiB", " MiB", " GiB", " TiB"};
    return scaled((double)bytes, 1024, units, 5);
}

gr_label gr_label_change(double value, double base) {
    gr_label label = {"\xE2\x80\x93"};
    if (base == 0) return label;
    double percent = 100 * (value - base) / base;
    if (fabs(percent) < 0.05) percent = 0;
    snprintf(label.text, sizeof label.text, percent > 0 ? "+%.1f%%" : "%.1f%%", percent);
    return label;
}

/* ---- UTF-8 ---- */

/* Code point at p into *point, bytes used; a broken byte is one '?'. */
static int decode(const char *p, uint32_t *point) {
    const unsigned char *s = (const unsigned char *)p;
    int n = s[0] < 0x80 ? 1 : s[0] >= 0xC2 && s[0] < 0xE0 ? 2 : s[0] >= 0xE0 && s[0] < 0xF0 ? 3 : s[0] >= 0xF0 && s[0] < 0xF5 ? 4 : 0;
    uint32_t value = n == 1 ? s[0] : n ? s[0] & (0x7Fu >> n) : '?';
    for (int i = 1; i < n; i++) {
        if ((s[i] & 0xC0) != 0x80) n = 0, value = '?';
        else value = value << 6 | (s[i] & 0x3F);
    }
    *point = value < 0x20 || value == 0x7F || (value >= 0x80 && value < 0xA0) ? '?' : value;
    return n ? n : 1;
}

typedef struct range { uint32_t first, last; } range;

static bool inside(const range *ranges, size_t n, uint32_t point) {
    for (size_t i = 0; i < n; i++)
        if (point >= ranges[i].first && point <= ranges[i].last) return true;
    return false;
}

/* A short table instead of wcwidth(): that one answers for the locale, and ours is always C. */
static int width_of(uint32_t point) {
    static const range none[] = {{0x300, 0x36F}, {0x483, 0x489}, {0x591, 0x5BD}, {0x64B, 0x65F}, {0x1AB0, 0x1AFF}, {0x1DC0, 0x1DFF},
                                 {0x200B, 0x200F}, {0x202A, 0x202E}, {0x2060, 0x2064}, {0x20D0, 0x20FF}, {0xFE00, 0xFE0F}, {0xFEFF, 0xFEFF}};
    static const range wide[] = {{0x1100, 0x115F}, {0x2E80, 0x303E}, {0x3041, 0xA4CF}, {0xAC00, 0xD7A3}, {0xF900, 0xFAFF}, {0xFE30, 0xFE6F},
                                 {0xFF00, 0xFF60}, {0xFFE0, 0xFFE6}, {0x1F300, 0x1F64F}, {0x1F680, 0x1F6FF}, {0x1F900, 0x1F9FF}, {0x20000, 0x3FFFD}};
    if (inside(none, sizeof none / sizeof *none, point)) return 0;
    return inside(wide, sizeof wide / sizeof *wide, point) ? 2 : 1;
}

int32_t gr_text_width(const char *text) {
    int32_t width = 0;
    uint32_t point;
    while (*text) {
        text += decode(text, &point);
        width += width_of(point);
    }
    return width;
}

void gr_text_shorten(const char *text, int32_t width, char *out, size_t size) {
    bool whole = gr_text_width(text) <= width;
    int32_t room = whole ? width : width - 1, used = 0;
    size_t n = 0;
    while (*text) {
        uint32_t point;
        int step = decode(text, &point);
        if ((used += width_of(point)) > room || n + (size_t)step + 4 > size) break;
        if (point == '?') out[n++] = '?';
        else memcpy(out + n, text, (size_t)step), n += (size_t)step;
        text += step;
    }
    memcpy(out + n, *text ? "\xE2\x80\xA6" : "", *text ? 4 : 1);
}
