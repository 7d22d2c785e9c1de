#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "text/pretokenize.h"

#define BYTES "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}"
#define SPLIT(kind, pattern, behavior, invert) \
    "{\"type\":\"Split\",\"pattern\":{\"" kind "\":\"" pattern "\"},\"behavior\":\"" behavior "\",\"invert\":" invert "}"
#define SEQUENCE(parts) "{\"type\":\"Sequence\",\"pretokenizers\":[" parts "]}"
#define META(more) "{\"type\":\"Metaspace\",\"replacement\":\"_\"," more "}"
#define ONE(kind, pattern, behavior, invert) SEQUENCE(SPLIT(kind, pattern, behavior, invert) "," BYTES)

static grace_status build(const char *text, gr_pretokenizer **out) {
    gr_json *json = NULL;
    if (strcmp(text, "null") != 0) assert_int_equal(gr_json_parse("test", text, strlen(text), &json), GRACE_OK);
    grace_status st = gr_pretokenizer_build(json, out);
    gr_json_free(json);
    return st;
}

/* The pieces joined by '|'. Static storage. */
static const char *split_at(const char *json, const char *text, bool at_start) {
    static char line[256];
    size_t n = 0;
    gr_pretokenizer *pre = NULL;
    gr_searcher searcher = {0};
    gr_pieces pieces = {0};
    if (build(json, &pre)) return grace_last_error();
    assert_int_equal(gr_searcher_open(&searcher), GRACE_OK);
    assert_int_equal(gr_pretokenize(pre, &searcher, text, strlen(text), at_start, &pieces), GRACE_OK);
    line[0] = 0;
    for (size_t i = 0; i < pieces.n_spans; i++)
        n += (size_t)sprintf(line + n, "%s%.*s", i ? "|" : "", (int)(pieces.spans[i].end - pieces.spans[i].start), pieces.text + pieces.spans[i].start);
    gr_pieces_free(&pieces);
    gr_searcher_close(&searcher);
    gr_pretokenizer_free(pre);
    return line;
}

static const char *split(const char *json, const char *text) { return split_at(json, text, true); }

/* The expected pieces are those of the reference's own documentation of the five behaviors. */
static void each_behavior_cuts_as_in_the_reference(void **state) {
    (void)state;
    const char *text = "the-final--countdown";
    assert_string_equal(split(ONE("String", "-", "Removed", "false"), text), "the|final|countdown");
    assert_string_equal(split(ONE("String", "-", "Isolated", "false"), text), "the|-|final|-|-|countdown");
    assert_string_equal(split(ONE("String", "-", "MergedWithPrevious", "false"), text), "the-|final-|-|countdown");
    assert_string_equal(split(ONE("String", "-", "MergedWithNext", "false"), text), "the|-final|-|-countdown");
    assert_string_equal(split(ONE("String", "-", "Contiguous", "false"), text), "the|-|final|--|countdown");
}

static void matches_at_the_ends_have_nothing_to_join(void **state) {
    (void)state;
    assert_string_equal(split(ONE("String", "-", "MergedWithPrevious", "false"), "--a-"), "-|-|a-");
    assert_string_equal(split(ONE("String", "-", "MergedWithNext", "false"), "-a--"), "-a|-|-");
    assert_string_equal(split(ONE("String", "-", "Contiguous", "false"), "--a--"), "--|a|--");
    assert_string_equal(split(ONE("String", "-", "Removed", "false"), "---"), "");
}

static void inverted_gaps_are_the_matches(void **state) {
    (void)state;
    assert_string_equal(split(ONE("Regex", "[a-z]+", "Removed", "true"), "ab, cd!"), "ab|cd");
    assert_string_equal(split(ONE("Regex", "[a-z]+", "Isolated", "true"), "ab, cd!"), "ab|, |cd|!");
    assert_string_equal(split(ONE("Regex", "[a-z]+", "MergedWithPrevious", "true"), "ab, cd!"), "ab, |cd!");
}

static void stages_cut_the_pieces_of_the_stage_before(void **state) {
    (void)state;
    assert_string_equal(split(SEQUENCE(SPLIT("Regex", "\\\\s+", "Removed", "false") "," SPLIT("Regex", "[0-9]", "Isolated", "false") "," BYTES),
                              "a12 b"),
                        "a|1|2|b");
    /* look-ahead sees the piece, not the text behind it */
    assert_string_equal(split(SEQUENCE(SPLIT("String", "x", "Isolated", "false") "," SPLIT("Regex", " (?=x)", "Removed", "false") "," BYTES), "a x"),
                        "a |x");
}

static void digits_are_split_alone_or_in_runs(void **state) {
    (void)state;
    assert_string_equal(split(SEQUENCE("{\"type\":\"Digits\",\"individual_digits\":true}," BYTES), "ab12c"), "ab|1|2|c");
    assert_string_equal(split(SEQUENCE("{\"type\":\"Digits\",\"individual_digits\":false}," BYTES), "ab12c"), "ab|12|c");
    assert_string_equal(split("{\"type\":\"Digits\"}", "a\xF0\x91\xB7\xA7" "b"), "a|\xF0\x91\xB7\xA7|b");       /* U+11DE7, of Unicode 17 */
}

static void an_empty_match_cuts_only_away_from_the_last_match(void **state) {
    (void)state;
    assert_string_equal(split(ONE("Regex", "x*", "Isolated", "false"), "axxb"), "a|xx|b");
    assert_string_equal(split(ONE("Regex", "(?=\xC3\xA9)", "Isolated", "false"), "a\xC3\xA9\xC3\xA9"), "a|\xC3\xA9|\xC3\xA9");
    assert_string_equal(split(ONE("String", "", "Isolated", "false"), "a\xC3\xA9" "b"), "a|\xC3\xA9|b");
}

static void the_built_in_regex_is_that_of_gpt2(void **state) {
    (void)state;
    assert_string_equal(split("{\"type\":\"ByteLevel\",\"add_prefix_space\":false}", "It's  12 o'clock,\n\nHE'LL go "),
                        "It|'s| | 12| o|'|clock|,|\n|\n|HE|'|LL| go| ");
}

static void a_space_goes_before_each_piece_that_has_none(void **state) {
    (void)state;
    assert_string_equal(split("{\"type\":\"ByteLevel\"}", "ab cd"), " ab| cd");
    assert_string_equal(split("{\"type\":\"ByteLevel\"}", " ab"), " ab");
    assert_string_equal(split(SEQUENCE(SPLIT("String", "-", "Removed", "false") ",{\"type\":\"ByteLevel\",\"use_regex\":false}"), "a-b- c"), " a| b| c");
    assert_string_equal(split("{\"type\":\"ByteLevel\"}", ""), "");
}

static void metaspace_writes_its_mark_over_spaces_and_in_front(void **state) {
    (void)state;
    assert_string_equal(split(META("\"prepend_scheme\":\"always\""), "ab  c"), "_ab|_|_c");
    assert_string_equal(split(META("\"prepend_scheme\":\"always\""), " ab"), "_ab");
    assert_string_equal(split(META("\"prepend_scheme\":\"always\""), "_ab"), "_ab");
    assert_string_equal(split(META("\"prepend_scheme\":\"never\""), "ab c"), "ab|_c");
    assert_string_equal(split(META("\"prepend_scheme\":\"always\",\"split\":false"), "ab c"), "_ab_c");
    assert_string_equal(split(META("\"add_prefix_space\":false"), "ab c"), "ab|_c");      /* as older files say it */
    assert_string_equal(split(META("\"add_prefix_space\":true"), "ab c"), "_ab|_c");
    assert_string_equal(split("{\"type\":\"Metaspace\"}", "a b"), "\xE2\x96\x81" "a|\xE2\x96\x81" "b");
}

static void the_first_scheme_marks_only_where_the_whole_text_begins(void **state) {
    (void)state;
    assert_string_equal(split_at(META("\"prepend_scheme\":\"first\""), "ab c", true), "_ab|_c");
    assert_string_equal(split_at(META("\"prepend_scheme\":\"first\""), "ab c", false), "ab|_c");
    assert_string_equal(split(SEQUENCE(SPLIT("String", "-", "Isolated", "false") "," META("\"prepend_scheme\":\"first\"")), "a-b"), "_a|-|b");
}

static void words_and_punctuation_are_cut(void **state) {
    (void)state;
    assert_string_equal(split("{\"type\":\"Whitespace\"}", "a_1, (b)\n c!"), "a_1|,|(|b|)|c|!");
    assert_string_equal(split("{\"type\":\"WhitespaceSplit\"}", " a_1,  (b)\tc! "), "a_1,|(b)|c!");
    assert_string_equal(split("{\"type\":\"Punctuation\"}", "a,b$\xC2\xBF" "c+d"), "a|,|b|$|\xC2\xBF|c|+|d");
    assert_string_equal(split("{\"type\":\"Punctuation\",\"behavior\":\"Contiguous\"}", "a,.b"), "a|,.|b");
    assert_string_equal(split("{\"type\":\"Punctuation\"}", "a\xE2\xB9\x82" "b\xE2\xB9\x83" "c\xE1\x99\xAD" "d"),      /* U+2E43 is younger than Unicode 8 */
                        "a|\xE2\xB9\x82|b\xE2\xB9\x83" "c|\xE1\x99\xAD|d");
}

static void without_a_pre_tokenizer_a_text_is_one_piece(void **state) {
    (void)state;
    assert_string_equal(split("null", "a b"), "a b");
}

/* Of n characters and what stands behind them: how many pieces, and where the last two meet. */
static void cuts_a_run(const char *json, const char *what, size_t n, const char *behind, size_t n_pieces, size_t last_cut) {
    const size_t width = strlen(what), all = n * width + strlen(behind);
    gr_pretokenizer *pre = NULL;
    gr_searcher searcher = {0};
    gr_pieces pieces = {0};
    char *text = malloc(all + 1);
    assert_non_null(text);
    for (size_t i = 0; i < n; i++) memcpy(text + i * width, what, width);
    strcpy(text + n * width, behind);
    assert_int_equal(build(json, &pre), GRACE_OK);
    assert_int_equal(gr_searcher_open(&searcher), GRACE_OK);
    if (gr_pretokenize(pre, &searcher, text, all, true, &pieces)) fail_msg("%zu times '%s': %s", n, what, grace_last_error());
    assert_int_equal(pieces.n_spans, n_pieces);
    assert_int_equal(pieces.spans[pieces.n_spans - 1].start, last_cut);
    gr_pieces_free(&pieces);
    gr_searcher_close(&searcher);
    gr_pretokenizer_free(pre);
    free(text);
}

/* Each run is looked at a few times, not once for every character: a megabyte, or 4 KB where searches that are not compiled would look at it from every
 * place. */
static void a_run_of_a_megabyte_is_cut_as_a_short_one(void **state) {
    (void)state;
    static const char gpt2[] = "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}",
        llama3[] = SPLIT("Regex", "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}|"
                         " ?[^\\\\s\\\\p{L}\\\\p{N}]+[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+", "Isolated", "false"),
        deepseek2[] = SPLIT("Regex", "\\\\s+$", "Isolated", "false");
    enum { N = 1 << 20 };
    cuts_a_run(gpt2, " ", N, "x", 2, N - 1);
    cuts_a_run(gpt2, "\n", N, "7", 3, N);
    cuts_a_run(gpt2, "a", N, " ", 2, N);
    cuts_a_run(llama3, " ", N, "x", 2, N - 1);
    cuts_a_run(llama3, " ", N, "7", 3, N);
    cuts_a_run(llama3, " ", N, "\n x", 2, N + 1);
    cuts_a_run(llama3, "\n", N, "x", 2, N);
    cuts_a_run(llama3, "\xC2\xA0", N, "!", 3, 2 * N);
    cuts_a_run(llama3, "7", N, "x", N / 3 + 2, N);
    cuts_a_run(llama3, "\xCC\x81", N, "x", 2, 2 * N);
    cuts_a_run(llama3, "! ", N / 16, "x", N / 16 + 1, N / 8 - 1);
    cuts_a_run(deepseek2, " ", 4096, "\nx", 2, 4096);
    cuts_a_run(deepseek2, " ", 4096, "7", 1, 0);
}

static void check_refused(const char *json, grace_status expected, const char *part) {
    gr_pretokenizer *pre = NULL;
    assert_int_equal(build(json, &pre), expected);
    if (!strstr(grace_last_error(), part)) fail_msg("expected '%s' in '%s'", part, grace_last_error());
    assert_null(pre);
}

static void what_is_not_supported_is_named(void **state) {
    (void)state;
    check_refused("{\"type\":\"UnicodeScripts\"}", GRACE_ERR_UNSUPPORTED, "'UnicodeScripts'");
    check_refused("{\"type\":\"Metaspace\",\"prepend_scheme\":\"last\"}", GRACE_ERR_UNSUPPORTED, "prepend_scheme 'last'");
    check_refused(ONE("String", "-", "Sideways", "false"), GRACE_ERR_UNSUPPORTED, "'Sideways'");
    check_refused(ONE("Regex", "(", "Isolated", "false"), GRACE_ERR_UNSUPPORTED, "Split: PCRE2 cannot compile the pattern");
    check_refused(SEQUENCE(BYTES "," SPLIT("String", "-", "Isolated", "false")), GRACE_ERR_UNSUPPORTED, "'Split' after ByteLevel");
}

static void what_is_malformed_is_named(void **state) {
    (void)state;
    check_refused("{}", GRACE_ERR_FORMAT, "'type'");
    check_refused("{\"type\":\"Sequence\"}", GRACE_ERR_FORMAT, "'pretokenizers'");
    check_refused("{\"type\":\"Split\",\"behavior\":\"Isolated\"}", GRACE_ERR_FORMAT, "'pattern'");
    check_refused("{\"type\":\"Split\",\"pattern\":{},\"behavior\":\"Isolated\"}", GRACE_ERR_FORMAT, "either Regex or String");
    check_refused("{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"}}", GRACE_ERR_FORMAT, "'behavior'");
    check_refused("{\"type\":\"ByteLevel\",\"use_regex\":1}", GRACE_ERR_FORMAT, "'use_regex'");
    check_refused("{\"type\":\"Metaspace\",\"replacement\":\"ab\"}", GRACE_ERR_FORMAT, "expected one character, found 'ab'");
    check_refused("{\"type\":\"Metaspace\",\"replacement\":\"\"}", GRACE_ERR_FORMAT, "expected one character");
    check_refused("{\"type\":\"Punctuation\",\"behavior\":3}", GRACE_ERR_FORMAT, "'behavior'");
    check_refused(SEQUENCE(SEQUENCE(SEQUENCE(SEQUENCE(SEQUENCE(SEQUENCE(SEQUENCE(SEQUENCE(SEQUENCE(BYTES))))))))), GRACE_ERR_LIMIT, "nested");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(each_behavior_cuts_as_in_the_reference),
        cmocka_unit_test(matches_at_the_ends_have_nothing_to_join),
        cmocka_unit_test(inverted_gaps_are_the_matches),
        cmocka_unit_test(stages_cut_the_pieces_of_the_stage_before),
        cmocka_unit_test(digits_are_split_alone_or_in_runs),
        cmocka_unit_test(an_empty_match_cuts_only_away_from_the_last_match),
        cmocka_unit_test(the_built_in_regex_is_that_of_gpt2),
        cmocka_unit_test(a_space_goes_before_each_piece_that_has_none),
        cmocka_unit_test(metaspace_writes_its_mark_over_spaces_and_in_front),
        cmocka_unit_test(the_first_scheme_marks_only_where_the_whole_text_begins),
        cmocka_unit_test(words_and_punctuation_are_cut),
        cmocka_unit_test(without_a_pre_tokenizer_a_text_is_one_piece),
        cmocka_unit_test(a_run_of_a_megabyte_is_cut_as_a_short_one),
        cmocka_unit_test(what_is_not_supported_is_named),
        cmocka_unit_test(what_is_malformed_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
