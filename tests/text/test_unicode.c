#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "base/rng.h"
#include "text/unicode.h"

/* Independent encoder, straight from the definition of UTF-8. */
static size_t encode_plain(uint32_t cp, char out[4]) {
    if (cp < 0x80) return out[0] = (char)cp, 1;
    if (cp < 0x800) return out[0] = (char)(0xC0 | cp >> 6), out[1] = (char)(0x80 | (cp & 63)), 2;
    if (cp < 0x10000) return out[0] = (char)(0xE0 | cp >> 12), out[1] = (char)(0x80 | (cp >> 6 & 63)), out[2] = (char)(0x80 | (cp & 63)), 3;
    out[0] = (char)(0xF0 | cp >> 18), out[1] = (char)(0x80 | (cp >> 12 & 63)), out[2] = (char)(0x80 | (cp >> 6 & 63)), out[3] = (char)(0x80 | (cp & 63));
    return 4;
}

static void every_code_point_round_trips_and_surrogates_do_not(void **state) {
    (void)state;
    char plain[4], ours[4];
    for (uint32_t cp = 0; cp < 0x110400; cp++) {
        size_t n = encode_plain(cp, plain);
        uint32_t back = 0;
        int step = gr_utf8_step(plain, n, &back);
        bool valid = cp <= 0x10FFFF && !(cp >= 0xD800 && cp <= 0xDFFF);
        assert_int_equal(step > 0, valid);
        if (!valid) continue;
        assert_int_equal(step, n);
        assert_int_equal(back, cp);
        assert_int_equal(gr_utf8_put(cp, ours), n);
        assert_memory_equal(ours, plain, n);
    }
}

static void check_lossy(const char *in, size_t n, const char *expected) {
    char out[64];
    size_t n_out;
    assert_int_equal(gr_utf8_lossy(in, n, true, out, &n_out), n);
    out[n_out] = 0;
    assert_string_equal(out, expected);
}

#define BAD "\xEF\xBF\xBD"
/* Expected values: bytes(...).decode('utf-8', 'replace') of Python 3.11. */
static void each_maximal_subpart_of_broken_bytes_becomes_one_replacement(void **state) {
    (void)state;
    check_lossy("a\x80z", 3, "a" BAD "z");
    check_lossy("\xE2\x82z", 3, BAD "z");
    check_lossy("\xE2\x82", 2, BAD);
    check_lossy("\xF0\x9F\x98", 3, BAD);
    check_lossy("\xF0\x9F\x98\xE2\x82\xAC", 6, BAD "\xE2\x82\xAC");
    check_lossy("\xC0\xAF", 2, BAD BAD);
    check_lossy("\xE0\x80\xAF", 3, BAD BAD BAD);
    check_lossy("\xED\xA0\x80", 3, BAD BAD BAD);
    check_lossy("\xF4\x90\x80\x80", 4, BAD BAD BAD BAD);
    check_lossy("\xFF\xF8\x88", 3, BAD BAD BAD);
    check_lossy("\xF1\x80\x80\xC3\xA9", 5, BAD "\xC3\xA9");
}

static void an_incomplete_end_is_kept_unless_final(void **state) {
    (void)state;
    char out[64];
    size_t n_out;
    assert_int_equal(gr_utf8_lossy("x\xF0\x9F\x98", 4, false, out, &n_out), 1);
    assert_int_equal(n_out, 1);
    assert_int_equal(gr_utf8_lossy("\xE2\x41", 2, false, out, &n_out), 2);
    assert_int_equal(n_out, 4);
}

/* Any cut into two, the second starting with what the first left, gives what one piece gives. */
static void lossy_in_pieces_equals_lossy_at_once(void **state) {
    (void)state;
    static const uint8_t bytes[] = {0x41, 0x80, 0xBF, 0xC2, 0xE0, 0xA0, 0xE2, 0xED, 0x9F, 0xF0, 0x90, 0xF4, 0x8F, 0xFF};
    uint64_t seed = 20240611;
    print_message("seed %llu\n", (unsigned long long)seed);
    gr_rng rng = gr_rng_seed(seed);
    for (int round = 0; round < 2000; round++) {
        char in[12], whole[36], parts[36];
        size_t n = 1 + gr_rng_below(&rng, sizeof in), n_whole, n_first, n_second;
        for (size_t i = 0; i < n; i++) in[i] = (char)bytes[gr_rng_below(&rng, sizeof bytes)];
        gr_utf8_lossy(in, n, true, whole, &n_whole);
        size_t cut = gr_rng_below(&rng, (uint32_t)n + 1), consumed = gr_utf8_lossy(in, cut, false, parts, &n_first);
        assert_true(cut - consumed <= 3);
        gr_utf8_lossy(in + consumed, n - consumed, true, parts + n_first, &n_second);
        assert_int_equal(n_first + n_second, n_whole);
        assert_memory_equal(parts, whole, n_whole);
        assert_int_equal(gr_utf8_valid(whole, n_whole), n_whole);
        assert_int_equal(gr_utf8_valid(in, n) == n, n_whole == n && !memcmp(in, whole, n));
    }
}

static void the_valid_prefix_ends_at_the_first_broken_byte(void **state) {
    (void)state;
    assert_int_equal(gr_utf8_valid("", 0), 0);
    assert_int_equal(gr_utf8_valid("0123456789ABCDEF\xC3\xA9\xFFz", 20), 18);
    assert_int_equal(gr_utf8_valid("01234567890\xE2\x82", 13), 11);
}

static void a_cut_never_splits_a_character(void **state) {
    (void)state;
    const char *text = "a\xC3\xA9\xE2\x82\xACz";
    static const size_t expected[] = {0, 1, 1, 3, 3, 3, 6, 7, 7};
    for (size_t max = 0; max < 9; max++) assert_int_equal(gr_utf8_cut(text, 7, max), expected[max]);
}

/* The table as GPT-2 defines it: printable Latin-1 first, the others in order from U+0100. */
static void the_byte_alphabet_is_the_published_one(void **state) {
    (void)state;
    uint32_t next = 0x100;
    for (unsigned byte = 0; byte < 256; byte++) {
        bool itself = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte <= 0xAC) || (byte >= 0xAE && byte <= 0xFF);
        uint32_t expected = itself ? byte : next++;
        assert_int_equal(gr_char_of_byte((uint8_t)byte), expected);
        assert_int_equal(gr_byte_of_char(expected), byte);
    }
    assert_int_equal(next, 0x144);
    int n_chars = 0;
    for (uint32_t cp = 0; cp < 0x400; cp++) n_chars += gr_byte_of_char(cp) >= 0;
    assert_int_equal(n_chars, 256);
}

static void a_token_outside_the_alphabet_stands_for_itself(void **state) {
    (void)state;
    char out[32];
    assert_int_equal(gr_bytes_of_token("\xC4\xA0the", 5, out), 4);
    assert_memory_equal(out, " the", 4);
    assert_int_equal(gr_bytes_of_token("\xC4\xA0 the", 6, out), 6);     /* a real space is not in the alphabet */
    assert_memory_equal(out, "\xC4\xA0 the", 6);
    assert_int_equal(gr_bytes_of_token("", 0, out), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_code_point_round_trips_and_surrogates_do_not),
        cmocka_unit_test(each_maximal_subpart_of_broken_bytes_becomes_one_replacement),
        cmocka_unit_test(an_incomplete_end_is_kept_unless_final),
        cmocka_unit_test(lossy_in_pieces_equals_lossy_at_once),
        cmocka_unit_test(the_valid_prefix_ends_at_the_first_broken_byte),
        cmocka_unit_test(a_cut_never_splits_a_character),
        cmocka_unit_test(the_byte_alphabet_is_the_published_one),
        cmocka_unit_test(a_token_outside_the_alphabet_stands_for_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
