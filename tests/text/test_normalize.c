#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "text/byte_level.h"
#include "text/normalize.h"

static grace_status build(const char *text, gr_normalizer **out) {
    gr_json *json = NULL;
    assert_int_equal(gr_json_parse("test", text, strlen(text), &json), GRACE_OK);
    grace_status st = gr_normalizer_build(json, out);
    gr_json_free(json);
    return st;
}

/* What json makes of text, appended to what is there. */
static void check_normal(const char *json, const char *text, size_t n, const char *expected, size_t n_expected) {
    gr_buf out = {0};
    gr_normalizer *normalizer = NULL;
    gr_searcher searcher = {0};
    if (build(json, &normalizer)) fail_msg("%s", grace_last_error());
    assert_int_equal(gr_searcher_open(&searcher), GRACE_OK);
    assert_int_equal(gr_buf_append(&out, "<", 1), GRACE_OK);
    assert_int_equal(gr_normalize(normalizer, &searcher, text, n, &out), GRACE_OK);
    assert_int_equal(out.n, n_expected + 1);
    assert_memory_equal(out.data + 1, expected, n_expected);
    gr_buf_free(&out);
    gr_searcher_close(&searcher);
    gr_normalizer_free(normalizer);
}

#define NORMAL(json, text, expected) check_normal(json, text, sizeof(text) - 1, expected, sizeof(expected) - 1)
#define NFC(text, expected) NORMAL("{\"type\":\"NFC\"}", text, expected)
#define SEQUENCE(parts) "{\"type\":\"Sequence\",\"normalizers\":[" parts "]}"
#define REPLACE(kind, pattern, content) "{\"type\":\"Replace\",\"pattern\":{\"" kind "\":\"" pattern "\"},\"content\":\"" content "\"}"

/* Vectors of the Unicode standard, annex 15. */
static void marks_are_composed_and_put_in_order(void **state) {
    (void)state;
    NFC("e\xCC\x81", "\xC3\xA9");                               /* e, acute -> é */
    NFC("\xE2\x84\xAB", "\xC3\x85");                            /* angstrom sign -> Å */
    NFC("q\xCC\x87\xCC\xA3", "q\xCC\xA3\xCC\x87");              /* dot above, dot below -> below first */
    NFC("\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", "\xED\x95\x9C"); /* Hangul letters -> a syllable */
    NFC("\xEF\xAC\x81", "\xEF\xAC\x81");                        /* the ligature fi stays: that would be NFKC */
}

/* Found by comparing random texts: utf8proc 2.8 drops U+11A7, the code point before the final consonants. */
static void only_final_consonants_join_a_syllable(void **state) {
    (void)state;
    NFC("\xEC\x84\x80\xE1\x86\xA7", "\xEC\x84\x80\xE1\x86\xA7");
    NFC("\xEC\x84\x80\xE1\x86\xA8", "\xEC\x84\x81");
    NFC("\xE1\x84\x89\xE1\x85\xA5\xE1\x86\xA7\xE1\x86\xA8", "\xEC\x84\x9C\xE1\x86\xA7\xE1\x86\xA8");
    NORMAL("{\"type\":\"NFKC\"}", "\xEC\x84\x80\xE1\x86\xA7", "\xEC\x84\x80\xE1\x86\xA7");
}

static void normal_text_stays_as_it_is(void **state) {
    (void)state;
    NFC("", "");
    NFC("plain \0 text\n", "plain \0 text\n");
    NFC("na\xC3\xAFve \xE6\x97\xA5\xE6\x9C\xAC \xF0\x9F\x98\x80 \0", "na\xC3\xAFve \xE6\x97\xA5\xE6\x9C\xAC \xF0\x9F\x98\x80 \0");
}

static void the_other_forms_take_apart_and_make_compatible(void **state) {
    (void)state;
    NORMAL("{\"type\":\"NFD\"}", "\xC3\xA9\xEF\xAC\x81", "e\xCC\x81\xEF\xAC\x81");
    NORMAL("{\"type\":\"NFKC\"}", "e\xCC\x81\xEF\xAC\x81\xE2\x85\xA7", "\xC3\xA9" "fiVIII");
    NORMAL("{\"type\":\"NFKD\"}", "\xC3\xA9\xEF\xAC\x81", "e\xCC\x81" "fi");
}

/* U+1DF9, a mark below of Unicode 10, is no mark to the reference: the acute does not move before it. U+1DFB is of Unicode 9. */
static void characters_newer_than_the_reference_stay_where_they_are(void **state) {
    (void)state;
    NFC("q\xCC\x81\xE1\xB7\xB9", "q\xCC\x81\xE1\xB7\xB9");
    NFC("e\xE1\xB7\xB9\xCC\x81", "e\xE1\xB7\xB9\xCC\x81");
    NFC("\xE1\xB7\xB9" "e\xCC\x81\xE1\xB7\xB9", "\xE1\xB7\xB9\xC3\xA9\xE1\xB7\xB9");
    NORMAL("{\"type\":\"NFKC\"}", "\xE3\x8B\xBF\xE3\x8B\xBE", "\xE3\x8B\xBF\xE3\x83\xB2");     /* U+32FF is of Unicode 12 */
}

static void small_letters_stripping_and_prefixes(void **state) {
    (void)state;
    NORMAL("{\"type\":\"Lowercase\"}", "ABC \xC3\x89\xCE\xA3 \xC4\xB0", "abc \xC3\xA9\xCF\x83 i\xCC\x87");
    NORMAL("{\"type\":\"Lowercase\"}", "", "");
    NORMAL("{\"type\":\"Lowercase\"}", "\xE1\xB2\x89 \xEA\x9F\x8B \xF0\x90\xB5\xA5", "\xE1\xB2\x8A \xC9\xA4 \xF0\x90\xB6\x85");  /* of Unicode 16 */
    NORMAL("{\"type\":\"Strip\"}", " \t a b\xE3\x80\x80\n", "a b");
    NORMAL("{\"type\":\"Strip\",\"strip_left\":false,\"strip_right\":true}", " a ", " a");
    NORMAL("{\"type\":\"Strip\",\"strip_left\":true,\"strip_right\":false}", " a ", "a ");
    NORMAL("{\"type\":\"Strip\"}", " \n ", "");
    NORMAL("{\"type\":\"Prepend\",\"prepend\":\"_\"}", "a", "_a");
    NORMAL("{\"type\":\"Prepend\",\"prepend\":\"_\"}", "", "");
}

static void matches_are_replaced_one_after_the_other(void **state) {
    (void)state;
    NORMAL(REPLACE("String", " ", "__"), "a  b ", "a____b__");
    NORMAL(REPLACE("Regex", "[0-9]+", "#"), "a12b3", "a#b#");
    NORMAL(REPLACE("String", "aa", "a"), "aaaa", "aa");
    NORMAL(REPLACE("String", "x", ""), "xxx", "");
}

static void stages_work_on_what_the_ones_before_made(void **state) {
    (void)state;
    NORMAL(SEQUENCE("{\"type\":\"Prepend\",\"prepend\":\" \"}," REPLACE("String", " ", "_")), "a b", "_a_b");
    NORMAL(SEQUENCE("{\"type\":\"Strip\"},{\"type\":\"Prepend\",\"prepend\":\"_\"}"), "  ", "");
    NORMAL(SEQUENCE("{\"type\":\"NFKC\"},{\"type\":\"Lowercase\"}," SEQUENCE(REPLACE("String", "f", "g"))), "\xEF\xAC\x81X", "gix");
}

static void check_refused(const char *json, grace_status expected, const char *part) {
    gr_normalizer *normalizer = NULL;
    assert_int_equal(build(json, &normalizer), expected);
    if (!strstr(grace_last_error(), part)) fail_msg("expected '%s' in '%s'", part, grace_last_error());
    assert_null(normalizer);
}

static void what_is_malformed_or_unknown_is_named(void **state) {
    (void)state;
    check_refused("{\"type\":\"Precompiled\"}", GRACE_ERR_UNSUPPORTED, "normalizer: type 'Precompiled' is not supported");
    check_refused(SEQUENCE("{\"type\":\"BertNormalizer\"}"), GRACE_ERR_UNSUPPORTED, "'BertNormalizer'");
    check_refused(SEQUENCE("{\"type\":\"NFC\"},{\"type\":\"Prepend\"}"), GRACE_ERR_FORMAT, "Prepend: 'prepend'");
    check_refused("{\"type\":\"Replace\",\"content\":\"\"}", GRACE_ERR_FORMAT, "Replace: 'pattern'");
    check_refused(REPLACE("Regex", "(", ""), GRACE_ERR_UNSUPPORTED, "Replace: PCRE2 cannot compile");
    check_refused("{\"type\":\"Strip\",\"strip_left\":1}", GRACE_ERR_FORMAT, "'strip_left'");
    check_refused("{\"type\":\"Sequence\"}", GRACE_ERR_FORMAT, "'normalizers'");
    check_refused("{}", GRACE_ERR_FORMAT, "'type'");
    check_refused(SEQUENCE(SEQUENCE(SEQUENCE(SEQUENCE(SEQUENCE(SEQUENCE(SEQUENCE(SEQUENCE(SEQUENCE(""))))))))), GRACE_ERR_LIMIT, "nested");
}

static gr_buf many(const char *part, int n) {
    gr_buf json = {0};
    gr_buf_printf(&json, "{\"type\":\"Sequence\",\"normalizers\":[");
    for (int i = 0; i < n; i++) gr_buf_printf(&json, "%s%s", i ? "," : "", part);
    gr_buf_printf(&json, "]}");
    return json;
}

/* 24 doublings: a few bytes of tokenizer.json could ask for any memory. */
static void a_text_that_grows_without_end_is_refused(void **state) {
    (void)state;
    gr_buf json = many(REPLACE("String", "a", "aa"), 24), out = {0};
    gr_normalizer *normalizer = NULL;
    gr_searcher searcher = {0};
    assert_int_equal(build(json.data, &normalizer), GRACE_OK);
    assert_int_equal(gr_searcher_open(&searcher), GRACE_OK);
    assert_int_equal(gr_normalize(normalizer, &searcher, "a", 1, &out), GRACE_ERR_LIMIT);
    assert_non_null(strstr(grace_last_error(), "grow to more than 65600"));
    gr_searcher_close(&searcher);
    gr_normalizer_free(normalizer);
    gr_buf_free(&json), gr_buf_free(&out);
    json = many("{\"type\":\"NFC\"}", 65);
    check_refused(json.data, GRACE_ERR_LIMIT, "more than 64 in sequence");
    gr_buf_free(&json);
}

static void what_changes_nothing_is_no_normalizer(void **state) {
    (void)state;
    gr_normalizer *normalizer = NULL;
    assert_int_equal(build(SEQUENCE(""), &normalizer), GRACE_OK);
    assert_null(normalizer);
    assert_int_equal(gr_normalizer_build(NULL, &normalizer), GRACE_OK);
    assert_null(normalizer);
}

static void check_same_ids(const grace_tokenizer *tok, const char *a, const char *b, bool same) {
    int32_t *ids_a, *ids_b, n_a, n_b;
    assert_int_equal(grace_tokenizer_encode(tok, a, strlen(a), &ids_a, &n_a), GRACE_OK);
    assert_int_equal(grace_tokenizer_encode(tok, b, strlen(b), &ids_b, &n_b), GRACE_OK);
    assert_true((n_a == n_b && memcmp(ids_a, ids_b, (size_t)n_a * sizeof *ids_a) == 0) == same);
    free(ids_a);
    free(ids_b);
}

static void a_tokenizer_that_asks_for_nfc_sees_composed_text(void **state) {
    (void)state;
    grace_tokenizer *nfc = byte_level_open(&(byte_level){.root = "\"normalizer\":{\"type\":\"NFC\"},"});
    grace_tokenizer *plain = byte_level_open(&(byte_level){.root = ""});
    check_same_ids(nfc, "caf\x65\xCC\x81 au lait", "caf\xC3\xA9 au lait", true);
    check_same_ids(plain, "caf\x65\xCC\x81 au lait", "caf\xC3\xA9 au lait", false);
    grace_tokenizer_close(nfc);
    grace_tokenizer_close(plain);
}

/* A mark after an added token has nothing to join: the token is cut out first. */
static void added_tokens_are_found_before_text_is_normalised(void **state) {
    (void)state;
    static const char added[] = "{\"id\":256,\"content\":\"<e>e\",\"single_word\":false,"
                                "\"lstrip\":false,\"rstrip\":false,\"normalized\":false,\"special\":true}";
    grace_tokenizer *tok = byte_level_open(&(byte_level){.root = "\"normalizer\":{\"type\":\"NFC\"},", .added = added});
    int32_t *ids, n;
    const char text[] = "e\xCC\x81<e>e\xCC\x81";
    assert_int_equal(grace_tokenizer_encode(tok, text, strlen(text), &ids, &n), GRACE_OK);
    assert_int_equal(n, 5);             /* two bytes of é, the token, two bytes of the mark */
    assert_int_equal(ids[2], 256);
    free(ids);
    grace_tokenizer_close(tok);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(marks_are_composed_and_put_in_order),
        cmocka_unit_test(only_final_consonants_join_a_syllable),
        cmocka_unit_test(normal_text_stays_as_it_is),
        cmocka_unit_test(the_other_forms_take_apart_and_make_compatible),
        cmocka_unit_test(characters_newer_than_the_reference_stay_where_they_are),
        cmocka_unit_test(small_letters_stripping_and_prefixes),
        cmocka_unit_test(matches_are_replaced_one_after_the_other),
        cmocka_unit_test(stages_work_on_what_the_ones_before_made),
        cmocka_unit_test(what_is_malformed_or_unknown_is_named),
        cmocka_unit_test(a_text_that_grows_without_end_is_refused),
        cmocka_unit_test(what_changes_nothing_is_no_normalizer),
        cmocka_unit_test(a_tokenizer_that_asks_for_nfc_sees_composed_text),
        cmocka_unit_test(added_tokens_are_found_before_text_is_normalised),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
