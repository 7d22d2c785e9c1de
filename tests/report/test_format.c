#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "report/format.h"

static void counts_have_a_comma_before_every_third_digit(void **state) {
    (void)state;
    assert_string_equal(gr_label_count(0).text, "0");
    assert_string_equal(gr_label_count(999).text, "999");
    assert_string_equal(gr_label_count(1000).text, "1,000");
    assert_string_equal(gr_label_count(1234567).text, "1,234,567");
    assert_string_equal(gr_label_count(-123456).text, "-123,456");
    assert_string_equal(gr_label_count(INT64_MIN).text, "-9,223,372,036,854,775,808");
}

static void a_grouped_count_without_its_commas_is_the_count(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(7);
    for (int i = 0; i < 500; i++) {
        int64_t value = (int64_t)(gr_rng_next(&rng) >> (gr_rng_below(&rng, 62) + 1));
        char digits[48];
        size_t n = 0;
        gr_label label = gr_label_count(value);
        for (const char *p = label.text; *p; p++)
            if (*p != ',') digits[n++] = *p;
        digits[n] = 0;
        assert_true(strtoll(digits, NULL, 10) == value);
    }
}

static void reals_are_rounded_and_never_minus_zero(void **state) {
    (void)state;
    assert_string_equal(gr_label_real(1234.56, 1).text, "1,234.6");
    assert_string_equal(gr_label_real(-0.04, 1).text, "0.0");
    assert_string_equal(gr_label_real(-1234567.891, 2).text, "-1,234,567.89");
    assert_string_equal(gr_label_real(1e15, 2).text, "1,000,000,000,000,000.00");
}

static void short_labels_keep_three_digits(void **state) {
    (void)state;
    assert_string_equal(gr_label_short(0).text, "0");
    assert_string_equal(gr_label_short(12).text, "12");
    assert_string_equal(gr_label_short(0.25).text, "0.25");
    assert_string_equal(gr_label_short(999.4).text, "999");
    assert_string_equal(gr_label_short(999.9).text, "1.00k");
    assert_string_equal(gr_label_short(12345).text, "12.3k");
    assert_string_equal(gr_label_short(17035776).text, "17.0M");
    assert_string_equal(gr_label_short(1e15).text, "1000T");
    assert_string_equal(gr_label_bytes(512).text, "512 B");
    assert_string_equal(gr_label_bytes(1536).text, "1.50 KiB");
    assert_string_equal(gr_label_bytes(INT64_C(5) << 30).text, "5 GiB");
}

static void times_are_milliseconds(void **state) {
    (void)state;
    assert_string_equal(gr_label_ms(1234).text, "1.23");
    assert_string_equal(gr_label_ms(45600).text, "45.6");
    assert_string_equal(gr_label_ms(1234567).text, "1,235");
}

static void changes_carry_their_sign(void **state) {
    (void)state;
    assert_string_equal(gr_label_change(150, 100).text, "+50.0%");
    assert_string_equal(gr_label_change(47.9, 100).text, "-52.1%");
    assert_string_equal(gr_label_change(100, 100).text, "0.0%");
    assert_string_equal(gr_label_change(99.99, 100).text, "0.0%");
    assert_string_equal(gr_label_change(5, 0).text, "\xE2\x80\x93");
}

static void widths_count_columns_not_bytes(void **state) {
    (void)state;
    assert_int_equal(gr_text_width("abc"), 3);
    assert_int_equal(gr_text_width("gr\xC3\xBC\xC3\x9F"), 4);
    assert_int_equal(gr_text_width("e\xCC\x81"), 1);               /* e and a combining acute */
    assert_int_equal(gr_text_width("\xE4\xB8\x96\xE7\x95\x8C"), 4);  /* two wide letters */
    assert_int_equal(gr_text_width("\xF0\x9F\x99\x82"), 2);
    assert_int_equal(gr_text_width("\xFF\x80"), 2);                /* two broken bytes */
    assert_int_equal(gr_text_width("\xE4\xB8"), 2);                /* cut short: two broken bytes */
}

static void shortening_fits_the_width_and_cuts_between_characters(void **state) {
    (void)state;
    char out[64];
    gr_text_shorten("short", 10, out, sizeof out);
    assert_string_equal(out, "short");
    gr_text_shorten("uniform+flat", 8, out, sizeof out);
    assert_string_equal(out, "uniform\xE2\x80\xA6");
    gr_text_shorten("\xE4\xB8\x96\xE7\x95\x8C\xE4\xB8\x96", 4, out, sizeof out);
    assert_string_equal(out, "\xE4\xB8\x96\xE2\x80\xA6");
    gr_text_shorten("a\x1b[2Jb", 20, out, sizeof out);
    assert_string_equal(out, "a?[2Jb");
    gr_text_shorten("abcdefgh", 20, out, 6);
    assert_true(strlen(out) < 6);
}

/* Any bytes: the result fits its buffer and its width. */
static void shortening_random_bytes_stays_in_bounds(void **state) {
    (void)state;
    gr_rng rng = gr_rng_seed(11);
    for (int i = 0; i < 2000; i++) {
        char text[24], *out = malloc(16);
        size_t n = gr_rng_below(&rng, sizeof text);
        for (size_t j = 0; j < n; j++) text[j] = (char)(1 + gr_rng_below(&rng, 255));
        text[n] = 0;
        int32_t width = 1 + (int32_t)gr_rng_below(&rng, 12);
        gr_text_shorten(text, width, out, 16);
        assert_true(strlen(out) < 16);
        assert_true(gr_text_width(out) <= width);
        free(out);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(counts_have_a_comma_before_every_third_digit),
        cmocka_unit_test(a_grouped_count_without_its_commas_is_the_count),
        cmocka_unit_test(reals_are_rounded_and_never_minus_zero),
        cmocka_unit_test(short_labels_keep_three_digits),
        cmocka_unit_test(times_are_milliseconds),
        cmocka_unit_test(changes_carry_their_sign),
        cmocka_unit_test(widths_count_columns_not_bytes),
        cmocka_unit_test(shortening_fits_the_width_and_cuts_between_characters),
        cmocka_unit_test(shortening_random_bytes_stays_in_bounds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
