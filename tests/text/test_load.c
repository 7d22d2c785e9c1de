#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "text/byte_level.h"

#define TOKEN(id, content, more) "{\"id\":" #id ",\"content\":\"" content "\"," more "\"special\":true,\"normalized\":false}"

static const char *const two_added = TOKEN(256, "[B]", "") "," TOKEN(257, "[E]", "");

static grace_tokenizer *open_ok(const byte_level *spec) {
    grace_tokenizer *tok = byte_level_open(spec);
    if (!tok) fail_msg("%s", grace_last_error());
    return tok;
}

static void check_status(const byte_level *spec, grace_status expected, const char *part) {
    gr_buf json = byte_level_json(spec);
    grace_tokenizer *tok = NULL;
    assert_int_equal(gr_tokenizer_parse(json.data, json.n, &tok), expected);
    if (!strstr(grace_last_error(), part)) fail_msg("expected '%s' in '%s'", part, grace_last_error());
    assert_null(tok);
    gr_buf_free(&json);
}

static void check_text(const char *json, grace_status expected, const char *part) {
    grace_tokenizer *tok = NULL;
    assert_int_equal(gr_tokenizer_parse(json, strlen(json), &tok), expected);
    if (!strstr(grace_last_error(), part)) fail_msg("expected '%s' in '%s'", part, grace_last_error());
    assert_null(tok);
}

static void a_text_that_is_no_tokenizer_is_refused(void **state) {
    (void)state;
    check_text("", GRACE_ERR_FORMAT, "tokenizer.json");
    check_text("{\"model\":", GRACE_ERR_FORMAT, "no valid JSON");
    check_text("[]", GRACE_ERR_FORMAT, "'model'");
    check_text("{}", GRACE_ERR_FORMAT, "'model'");
    check_text("{\"model\":{\"type\":\"Unigram\"}}", GRACE_ERR_UNSUPPORTED, "model: type 'Unigram' is not supported, expected BPE");
    check_text("{\"model\":{\"type\":\"BPE\"}}", GRACE_ERR_UNSUPPORTED, "'decoder': null is not supported");
    check_text("{\"model\":{\"type\":\"BPE\"},\"decoder\":{\"type\":\"CTC\"}}", GRACE_ERR_UNSUPPORTED, "decoder: type 'CTC'");
    check_text("{\"model\":{\"type\":\"BPE\"},\"decoder\":{\"type\":\"ByteLevel\"},\"pre_tokenizer\":null}", GRACE_ERR_UNSUPPORTED,
               "ByteLevel in only one of pre_tokenizer and decoder");
    check_text("{\"model\":{\"type\":\"BPE\"},\"decoder\":{\"type\":\"ByteLevel\"},\"pre_tokenizer\":{\"type\":\"ByteLevel\"}}", GRACE_ERR_FORMAT,
               "'vocab'");
}

static void parts_that_do_nothing_are_accepted(void **state) {
    (void)state;
    grace_tokenizer_close(open_ok(&(byte_level){.root = "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[]},"}));
    grace_tokenizer_close(open_ok(&(byte_level){.root = "\"normalizer\":null,\"truncation\":{\"max_length\":2},\"padding\":null,"}));
}

static void check_vocab(const char *vocab, const char *part) {
    char text[512];
    snprintf(text, sizeof text,
             "{\"decoder\":{\"type\":\"ByteLevel\"},\"pre_tokenizer\":{\"type\":\"ByteLevel\"},"
             "\"model\":{\"type\":\"BPE\",\"vocab\":%s,\"merges\":[]}}", vocab);
    check_text(text, GRACE_ERR_FORMAT, part);
}

static void ids_must_be_integers_without_doubles(void **state) {
    (void)state;
    check_vocab("[]", "'vocab': expected an object");
    check_vocab("{\"a\":\"b\"}", "vocab: 'a': expected an integer, found a string");
    check_vocab("{\"a\":-1}", "found -1");
    check_vocab("{\"a\":9000000000}", "found 9000000000");
    check_vocab("{\"a\":0,\"b\":0}", "id 0 belongs to both");
    check_vocab("{\"a\":0,\"a\":1}", "no valid JSON");
}

static void ids_may_have_gaps_that_show_nothing(void **state) {
    (void)state;
    grace_tokenizer *tok = open_ok(&(byte_level){.added = TOKEN(300, "<x>", "")});
    static const int32_t ids[] = {'a', 299, 'b', 300, 301, 151935};
    char *text, piece[GRACE_PIECE_MAX];
    size_t n;
    grace_decoder dec = {0};
    assert_int_equal(grace_tokenizer_vocab(tok), 301);
    assert_string_equal(ids_of(tok, "a<x>"), "97 300");
    assert_int_equal(grace_tokenizer_decode(tok, ids, 6, 0, &text, &n), GRACE_OK);
    assert_string_equal(text, "ab<x>");
    free(text);
    assert_int_equal(grace_decoder_next(&dec, tok, 299, 0, piece, &n), GRACE_OK);
    assert_int_equal(n, 0);
    grace_tokenizer_close(tok);
}

/* The first ids before and after a text, -1 for none, when the post-processor puts 9 behind it and tokenizer_config.json says config. */
static void check_configured(const char *config, const char *expected) {
    gr_wrapping w = {0};
    gr_json *json = NULL;
    grace_tokenizer *tok = open_ok(&(byte_level){.added = two_added});
    char line[128] = "";
    assert_int_equal(gr_json_parse("test", config, strlen(config), &json), GRACE_OK);
    assert_int_equal(gr_ids_push(&w.after, 9), GRACE_OK);
    if (gr_wrapping_configure(&w, json, &tok->vocab)) snprintf(line, sizeof line, "%s", grace_last_error());
    else snprintf(line, sizeof line, "%d %d", w.before.n ? (int)w.before.data[0] : -1, w.after.n ? (int)w.after.data[0] : -1);
    assert_string_equal(line, expected);
    gr_wrapping_free(&w);
    gr_json_free(json);
    grace_tokenizer_close(tok);
}

static void the_configuration_decides_about_beginning_and_end(void **state) {
    (void)state;
    check_configured("{}", "-1 9");
    check_configured("{\"bos_token\":\"[B]\"}", "-1 9");
    check_configured("{\"add_bos_token\":true,\"bos_token\":\"[B]\"}", "256 -1");
    check_configured("{\"add_bos_token\":true,\"bos_token\":{\"content\":\"[B]\"},\"add_eos_token\":true,\"eos_token\":\"[E]\"}", "256 257");
    check_configured("{\"add_bos_token\":false}", "-1 -1");
    check_configured("{\"add_bos_token\":true,\"bos_token\":null}", "-1 -1");
    check_configured("{\"add_bos_token\":true,\"bos_token\":\"[X]\"}", "tokenizer_config.json: bos_token '[X]' is not in the vocabulary of tokenizer.json");
    check_configured("{\"add_bos_token\":1}", "tokenizer_config.json: 'add_bos_token': expected a boolean, found an integer");
}

static void added_tokens_need_a_text_and_a_free_id(void **state) {
    (void)state;
    check_status(&(byte_level){.added = TOKEN(1048576, "<x>", "")}, GRACE_ERR_LIMIT, "an id of 1048576, ids below 1048576 are read");
    check_status(&(byte_level){.added = TOKEN(7, "<x>", "")}, GRACE_ERR_FORMAT, "id 7 belongs to both");
    check_status(&(byte_level){.added = TOKEN(256, "<x>", "") "," TOKEN(257, "<x>", "")}, GRACE_ERR_FORMAT, "token '<x>' has both id 256 and id 257");
    check_status(&(byte_level){.added = TOKEN(256, "", "")}, GRACE_ERR_FORMAT, "found an empty one");
    check_status(&(byte_level){.added = TOKEN(98, "a", "")}, GRACE_ERR_FORMAT, "added token 'a': expected the id of the vocabulary, found 98");
    check_status(&(byte_level){.added = "{\"content\":\"x\"}"}, GRACE_ERR_FORMAT, "'id'");
    check_status(&(byte_level){.added = "{\"id\":256}"}, GRACE_ERR_FORMAT, "'content'");
    check_status(&(byte_level){.added = "3"}, GRACE_ERR_FORMAT, "'content'");
    check_status(&(byte_level){.added = TOKEN(256, "<x>", "\"lstrip\":\"no\",")}, GRACE_ERR_FORMAT, "'lstrip'");
}

static void a_token_too_long_for_streaming_is_refused(void **state) {
    (void)state;
    char added[2048], text[1100];
    memset(text, 'x', sizeof text);
    snprintf(added, sizeof added, "{\"id\":256,\"content\":\"%.1021s\"}", text);
    check_status(&(byte_level){.added = added}, GRACE_ERR_LIMIT, "token 256 has 1021 bytes, at most 1020 are read");
    snprintf(added, sizeof added, "{\"id\":256,\"content\":\"%.1020s\"}", text);
    grace_tokenizer_close(open_ok(&(byte_level){.added = added}));
}

#define TEMPLATE(single, specials) "{\"type\":\"TemplateProcessing\",\"single\":[" single "],\"special_tokens\":{" specials "}}"
#define TEXT "{\"Sequence\":{\"id\":\"A\",\"type_id\":0}}"
#define SPECIAL(name) "{\"SpecialToken\":{\"id\":\"" name "\",\"type_id\":0}}"
#define BOTH "\"[B]\":{\"id\":\"[B]\",\"ids\":[256],\"tokens\":[\"[B]\"]},\"[E]\":{\"id\":\"[E]\",\"ids\":[257,256],\"tokens\":[\"[E]\",\"[B]\"]}"

static void a_template_puts_its_tokens_around_the_text(void **state) {
    (void)state;
    grace_tokenizer *tok = open_ok(&(byte_level){.added = two_added, .post = TEMPLATE(SPECIAL("[B]") "," TEXT "," SPECIAL("[E]"), BOTH)});
    assert_string_equal(ids_of(tok, "ab"), "256 97 98 257 256");
    assert_string_equal(ids_of(tok, ""), "256 257 256");
    grace_tokenizer_close(tok);
}

static void processors_in_a_sequence_wrap_one_another(void **state) {
    (void)state;
    grace_tokenizer *tok = open_ok(&(byte_level){.added = two_added, .post = "{\"type\":\"Sequence\",\"processors\":[{\"type\":\"ByteLevel\"},"
        TEMPLATE(SPECIAL("[B]") "," TEXT, BOTH) "," TEMPLATE(SPECIAL("[E]") "," TEXT "," SPECIAL("[B]"), BOTH) "]}"});
    assert_string_equal(ids_of(tok, "a"), "257 256 256 97 256");
    grace_tokenizer_close(tok);
}

/* A list of ids named again and again: a file of a megabyte could ask for a terabyte. */
static void no_more_tokens_than_a_text_ever_has_stand_beside_it(void **state) {
    (void)state;
    gr_buf post = {0};
    for (int round = 0; round < 2; round++) {
        post.n = 0;
        gr_buf_printf(&post, "{\"type\":\"TemplateProcessing\",\"special_tokens\":{" BOTH "},\"single\":[");
        for (int i = 0; i < 512 + round; i++) gr_buf_printf(&post, SPECIAL("[E]") ",");
        gr_buf_printf(&post, TEXT "]}");
        if (round) check_status(&(byte_level){.added = two_added, .post = post.data}, GRACE_ERR_LIMIT, "more than 1024 tokens on a side");
        else grace_tokenizer_close(open_ok(&(byte_level){.added = two_added, .post = post.data}));
    }
    gr_buf_free(&post);
}

static void processors_that_are_not_supported_are_named(void **state) {
    (void)state;
    check_status(&(byte_level){.post = "{\"type\":\"RobertaProcessing\"}"}, GRACE_ERR_UNSUPPORTED, "post_processor: type 'RobertaProcessing'");
    check_status(&(byte_level){.post = TEMPLATE(TEXT "," TEXT, "")}, GRACE_ERR_UNSUPPORTED, "sequence A 2 times");
    check_status(&(byte_level){.post = TEMPLATE("", "")}, GRACE_ERR_UNSUPPORTED, "sequence A 0 times");
    check_status(&(byte_level){.post = TEMPLATE("{\"Sequence\":{\"id\":\"B\"}}", "")}, GRACE_ERR_FORMAT, "found 'B'");
    check_status(&(byte_level){.post = TEMPLATE(SPECIAL("[B]") "," TEXT, "")}, GRACE_ERR_FORMAT, "'[B]'");
    check_status(&(byte_level){.post = TEMPLATE(SPECIAL("[B]") "," TEXT, BOTH)}, GRACE_ERR_FORMAT, "256");     /* only ids 0 to 255 exist */
}

static void a_missing_directory_is_an_io_error_with_its_path(void **state) {
    (void)state;
    grace_tokenizer *tok = NULL;
    assert_int_equal(grace_tokenizer_open("/nonexistent", &tok), GRACE_ERR_IO);
    assert_non_null(strstr(grace_last_error(), "/nonexistent/tokenizer.json"));
    assert_null(tok);
    grace_tokenizer_close(NULL);
}

/* Every prefix of a file is an error, never a crash. */
static void a_file_cut_anywhere_is_refused(void **state) {
    (void)state;
    gr_buf json = byte_level_json(&(byte_level){.merges = "a b", .added = two_added});
    for (size_t n = 0; n < json.n; n += n + 40 > json.n ? 1 : 37) {
        grace_tokenizer *tok = NULL;
        assert_int_equal(gr_tokenizer_parse(json.data, n, &tok), GRACE_ERR_FORMAT);
    }
    gr_buf_free(&json);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_text_that_is_no_tokenizer_is_refused),
        cmocka_unit_test(parts_that_do_nothing_are_accepted),
        cmocka_unit_test(ids_must_be_integers_without_doubles),
        cmocka_unit_test(ids_may_have_gaps_that_show_nothing),
        cmocka_unit_test(the_configuration_decides_about_beginning_and_end),
        cmocka_unit_test(added_tokens_need_a_text_and_a_free_id),
        cmocka_unit_test(a_token_too_long_for_streaming_is_refused),
        cmocka_unit_test(a_template_puts_its_tokens_around_the_text),
        cmocka_unit_test(processors_in_a_sequence_wrap_one_another),
        cmocka_unit_test(no_more_tokens_than_a_text_ever_has_stand_beside_it),
        cmocka_unit_test(processors_that_are_not_supported_are_named),
        cmocka_unit_test(a_missing_directory_is_an_io_error_with_its_path),
        cmocka_unit_test(a_file_cut_anywhere_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
