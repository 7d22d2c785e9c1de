#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/pattern.h"

/* "0-3 5-6": all matches one after the other; "-" for none. Static storage. */
static const char *matches(const char *regex, const char *text) {
    static char line[256];
    gr_pattern *pattern = NULL;
    gr_searcher searcher = {0};
    size_t n = strlen(text), from = 0, start, end, used = 0;
    bool found = true;
    if (gr_pattern_regex(regex, &pattern)) return grace_last_error();
    assert_int_equal(gr_searcher_open(&searcher), GRACE_OK);
    strcpy(line, "-");
    while (found && from <= n) {
        assert_int_equal(gr_pattern_find(pattern, &searcher, text, n, from, &found, &start, &end), GRACE_OK);
        if (found) used += (size_t)sprintf(line + used, "%s%zu-%zu", used ? " " : "", start, end);
        from = end > start ? end : end + 1;
    }
    gr_searcher_close(&searcher);
    gr_pattern_free(pattern);
    return line;
}

static void properties_and_escapes_are_unicode(void **state) {
    (void)state;
    assert_string_equal(matches("\\p{L}+", "na\xC3\xAFve \xD0\xBC\xD0\xB8\xD1\x80"), "0-6 7-13");
    assert_string_equal(matches("\\p{N}", "\xC2\xBD\xD9\xA3" "7"), "0-2 2-4 4-5");
    assert_string_equal(matches("\\s+", " \xC2\xA0\xE3\x80\x80x\xE2\x80\xA8"), "0-6 7-10");
    assert_string_equal(matches("\\d", "\xD9\xA3\xC2\xBD"), "0-2");
}

/* Of Unicode 15: pink heart, Kaktovik digit one, a CJK letter of extension H; of 16: a Garay digit, a Gurung Khema digit. */
static void characters_that_only_newer_libraries_know_are_in_their_categories(void **state) {
    (void)state;
    assert_string_equal(matches("\\p{S}", "a\xF0\x9F\xA9\xB7"), "1-5");
    assert_string_equal(matches("[^\\s\\p{L}\\p{N}]+", "\xF0\x9F\xA9\xB7!\xF0\x9D\x8B\x80"), "0-5");
    assert_string_equal(matches("[\\p{L}\\p{M}]+", "x\xF0\xB1\x8D\x90"), "0-5");
    assert_string_equal(matches("\\p{N}{1,3}", "1\xF0\x9D\x8B\x80" "1"), "0-6");
    assert_string_equal(matches("\\d+", "\xF0\x90\xB5\x80" "1"), "0-5");
    /* a hieroglyph of Unicode 16, no character, a Hangul syllable: cut behind the second, as long as the first was no letter */
    assert_string_equal(matches("[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|[^\\s\\p{L}\\p{N}]+", "\xF0\x93\xB8\xA2\xF2\x8B\xA3\xA4\xED\x8E\xAC"), "0-4 4-11");
    assert_string_equal(matches(" ?[^\\s\\p{L}\\p{N}]+| |\\p{N}", " \xF0\x96\x84\xB0" "1"), "0-1 1-5 5-6");
}

/* In PCRE2 the two would be white space and no word characters. */
static void white_space_and_words_are_those_of_the_reference(void **state) {
    (void)state;
    assert_string_equal(matches("\\s", "\xE1\xA0\x8E"), "-");           /* U+180E */
    assert_string_equal(matches("[^\\s]", "\xE1\xA0\x8E"), "0-3");
    assert_string_equal(matches("\\S", "\xE1\xA0\x8E "), "0-3");
    assert_string_equal(matches("\\w+", "e\xCC\x81_1"), "0-5");         /* a combining mark inside a word */
    assert_string_equal(matches("\\W", "a\xCC\x81-"), "3-4");
    assert_string_equal(matches("[\\w-]+", "a\xCC\x81-b."), "0-5");
}

static void case_folding_reaches_beyond_ascii(void **state) {
    (void)state;
    assert_string_equal(matches("(?i:'s|'ll)", "'S 'lL '\xC5\xBF"), "0-2 3-6 7-10");        /* U+017F folds to s */
    assert_string_equal(matches("(?i:a)b", "AB Ab"), "3-5");
}

static void lines_end_where_they_do_in_the_reference(void **state) {
    (void)state;
    assert_string_equal(matches("x$", "x\nx"), "0-1 2-3");
    assert_string_equal(matches("^x", "x\nx"), "0-1 2-3");
    assert_string_equal(matches(".+", "a\rb\nc"), "0-3 4-5");
}

static void classes_are_copied_with_their_brackets(void **state) {
    (void)state;
    assert_string_equal(matches("[]a]+", "]a["), "0-2");
    assert_string_equal(matches("[^]a]", "]a["), "2-3");
    assert_string_equal(matches("[[:digit:]_]+", "1_a"), "0-2");
    assert_string_equal(matches("[\\[\\]\\\\]+", "[]\\a"), "0-3");
    assert_string_equal(matches("[a&(*{,}+]+", "a&(*{,}+"), "0-8");     /* none of these is special in a class */
}

static void what_means_something_else_in_pcre_is_refused_by_name(void **state) {
    (void)state;
    static const char *const refused[][2] = {
        {"\\bx", "'\\b'"}, {"\\h", "'\\h'"}, {"[\\W]", "'[\\W]'"}, {"[a[b]]", "'[['"}, {"[a&&b]", "'&&'"}, {"(?m)x", "'(?m)'"}, {"(?s:x)", "'(?m)'"},
        {"a(?i)b", "'(?i)'"}, {"(*ACCEPT)", "'(*'"}, {"x{,3}", "'{,'"}, {"x{1,3}+", "'}+'"},
    };
    for (size_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        gr_pattern *pattern = NULL;
        assert_int_equal(gr_pattern_regex(refused[i][0], &pattern), GRACE_ERR_UNSUPPORTED);
        assert_non_null(strstr(grace_last_error(), refused[i][1]));
        assert_null(pattern);
    }
    assert_string_equal(matches("\\p{L}+\\x{41}+", "abAA"), "0-4");     /* braces of escapes are no intervals */
}

static void a_broken_pattern_is_an_error_with_its_place(void **state) {
    (void)state;
    static const char *const broken[] = {"(", "[a", "\\", "a{2,1}", "\\p{Nothing}", "(?<=a*)b", "\\C"};
    for (size_t i = 0; i < sizeof broken / sizeof *broken; i++) {
        gr_pattern *pattern = NULL;
        assert_int_equal(gr_pattern_regex(broken[i], &pattern), GRACE_ERR_UNSUPPORTED);
        assert_non_null(strstr(grace_last_error(), "at byte"));
    }
}

static void a_pattern_longer_than_any_in_use_is_refused_before_it_is_read(void **state) {
    (void)state;
    enum { N = 16 * 1024 + 1 };
    char regex[N + 1];
    gr_pattern *pattern = NULL;
    memset(regex, 'a', N);
    regex[N] = 0;
    assert_int_equal(gr_pattern_regex(regex, &pattern), GRACE_ERR_LIMIT);
    assert_non_null(strstr(grace_last_error(), "16385 bytes, at most 16384"));
    assert_int_equal(gr_pattern_regex(regex + 1, &pattern), GRACE_OK);
    gr_pattern_free(pattern);
}

static void a_literal_is_searched_as_written(void **state) {
    (void)state;
    gr_pattern *pattern = NULL;
    gr_searcher searcher = {0};
    bool found;
    size_t start, end;
    assert_int_equal(gr_pattern_literal("a.b\\s", &pattern), GRACE_OK);
    assert_int_equal(gr_searcher_open(&searcher), GRACE_OK);
    assert_int_equal(gr_pattern_find(pattern, &searcher, "axb a.b\\s", 9, 0, &found, &start, &end), GRACE_OK);
    assert_true(found && start == 4 && end == 9);
    gr_searcher_close(&searcher);
    gr_pattern_free(pattern);
}

static grace_status search(const char *regex, const char *text, size_t n, bool *found) {
    gr_pattern *pattern = NULL;
    gr_searcher searcher = {0};
    size_t start, end;
    assert_int_equal(gr_pattern_regex(regex, &pattern), GRACE_OK);
    assert_int_equal(gr_searcher_open(&searcher), GRACE_OK);
    grace_status st = gr_pattern_find(pattern, &searcher, text, n, 0, found, &start, &end);
    gr_searcher_close(&searcher);
    gr_pattern_free(pattern);
    return st;
}

static void a_pattern_that_explodes_ends_with_an_error(void **state) {
    (void)state;
    bool found;
    char text[64];
    memset(text, 'a', sizeof text);
    assert_int_equal(search("(a+)+(a+)+(a+)+$x|(a|aa)+b", text, sizeof text, &found), GRACE_ERR_LIMIT);
    assert_non_null(strstr(grace_last_error(), "64 bytes"));
}

/* The published patterns backtrack once over a run of white space: the limit grows with the text, so that this is never an error. */
static void long_runs_are_within_the_limit(void **state) {
    (void)state;
    enum { N = 60000 };
    bool found;
    char *text = malloc(N);
    assert_non_null(text);
    memset(text, ' ', N);
    text[N - 1] = 'x';
    assert_int_equal(search("\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+", text, N, &found), GRACE_OK);
    assert_true(found);
    assert_int_equal(search("(?:a|\\s)+", text, N, &found), GRACE_OK);      /* more than the stack of compiled searches holds */
    assert_true(found);
    free(text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(properties_and_escapes_are_unicode),
        cmocka_unit_test(characters_that_only_newer_libraries_know_are_in_their_categories),
        cmocka_unit_test(white_space_and_words_are_those_of_the_reference),
        cmocka_unit_test(case_folding_reaches_beyond_ascii),
        cmocka_unit_test(lines_end_where_they_do_in_the_reference),
        cmocka_unit_test(classes_are_copied_with_their_brackets),
        cmocka_unit_test(what_means_something_else_in_pcre_is_refused_by_name),
        cmocka_unit_test(a_broken_pattern_is_an_error_with_its_place),
        cmocka_unit_test(a_pattern_longer_than_any_in_use_is_refused_before_it_is_read),
        cmocka_unit_test(a_literal_is_searched_as_written),
        cmocka_unit_test(a_pattern_that_explodes_ends_with_an_error),
        cmocka_unit_test(long_runs_are_within_the_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
