#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "text/byte_level.h"
#include "text/normalize.h"

static void check_nfc(const char *text, size_t n, const char *expected, size_t n_expected) {
    gr_buf out = {0};
    assert_int_equal(gr_buf_append(&out, "<", 1), GRACE_OK);
    assert_int_equal(gr_nfc_append(&out, text, n), GRACE_OK);
    assert_int_equal(out.n, n_expected + 1);
    assert_memory_equal(out.data + 1, expected, n_expected);
    gr_buf_free(&out);
}

#define NFC(text, expected) check_nfc(text, sizeof(text) - 1, expected, sizeof(expected) - 1)

/* Vectors of the Unicode standard, annex 15. */
static void marks_are_composed_and_put_in_order(void **state) {
    (void)state;
    NFC("e\xCC\x81", "\xC3\xA9");                               /* e, acute -> é */
    NFC("\xE2\x84\xAB", "\xC3\x85");                            /* angstrom sign -> Å */
    NFC("q\xCC\x87\xCC\xA3", "q\xCC\xA3\xCC\x87");              /* dot above, dot below -> below first */
    NFC("\xE1\x84\x92\xE1\x85\xA1\xE1\x86\xAB", "\xED\x95\x9C"); /* Hangul letters -> a syllable */
    NFC("\xEF\xAC\x81", "\xEF\xAC\x81");                        /* the ligature fi stays: that would be NFKC */
}

static void normal_text_stays_as_it_is(void **state) {
    (void)state;
    NFC("", "");
    NFC("plain \0 text\n", "plain \0 text\n");
    NFC("na\xC3\xAFve \xE6\x97\xA5\xE6\x9C\xAC \xF0\x9F\x98\x80 \0", "na\xC3\xAFve \xE6\x97\xA5\xE6\x9C\xAC \xF0\x9F\x98\x80 \0");
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
        cmocka_unit_test(normal_text_stays_as_it_is),
        cmocka_unit_test(a_tokenizer_that_asks_for_nfc_sees_composed_text),
        cmocka_unit_test(added_tokens_are_found_before_text_is_normalised),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
