#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/rng.h"
#include "text/byte_level.h"

#define MODEL GRACE_SOURCE_DIR "/models/tiny-olmoe"
#define GOLDEN GRACE_SOURCE_DIR "/tests/golden/tiny-olmoe"

static grace_tokenizer *tiny;       /* the tokenizer of models/tiny-olmoe */

static int open_tiny(void **state) {
    (void)state;
    return grace_tokenizer_open(MODEL, &tiny);
}

static int close_tiny(void **state) {
    (void)state;
    grace_tokenizer_close(tiny);
    return 0;
}

/* ---- golden ---- */

/* Our JSON refuses zero bytes, and one case has one: U+E000, which no case has, stands for it. */
static gr_json *load_cases(void) {
    gr_file file;
    gr_json *root = NULL;
    assert_int_equal(gr_file_map(GOLDEN "/tokenizer_cases.json", &file), GRACE_OK);
    char *text = malloc(file.n);
    assert_non_null(text);
    memcpy(text, file.data, file.n);
    assert_null(memmem(text, file.n, "\\ue000", 6));
    for (char *at = text; (at = memmem(at, file.n - (size_t)(at - text), "\\u0000", 6));) memcpy(at, "\\ue000", 6);
    assert_int_equal(gr_json_parse("tokenizer_cases.json", text, file.n, &root), GRACE_OK);
    free(text);
    gr_file_unmap(&file);
    return root;
}

typedef struct case_text { char bytes[8192]; size_t n; } case_text;

static void read_text(const gr_json *value, case_text *out) {
    const char *text;
    size_t n;
    assert_true(gr_json_is_string(value, &text, &n));
    assert_true(n < sizeof out->bytes);
    out->n = 0;
    for (size_t i = 0; i < n; i++) {
        bool zero = !strncmp(text + i, "\xEE\x80\x80", 3);
        out->bytes[out->n++] = zero ? 0 : text[i];
        if (zero) i += 2;
    }
}

static void check_ids(const case_text *text, const gr_json *expected) {
    int32_t *ids, n_ids;
    int64_t id;
    assert_int_equal(grace_tokenizer_encode(tiny, text->bytes, text->n, &ids, &n_ids), GRACE_OK);
    assert_int_equal(n_ids, gr_json_length(expected));
    for (int32_t i = 0; i < n_ids; i++) {
        assert_true(gr_json_is_int(gr_json_at(expected, (size_t)i), &id));
        if (ids[i] != id) fail_msg("'%.*s': id %d: expected %d, found %d", (int)text->n, text->bytes, (int)i, (int)id, (int)ids[i]);
    }
    free(ids);
}

static void check_decoded(const gr_json *ids, const case_text *expected) {
    int32_t list[4096], n_ids = (int32_t)gr_json_length(ids);
    int64_t id;
    char *text;
    size_t n;
    assert_true(n_ids <= 4096);
    for (int32_t i = 0; i < n_ids; i++) {
        assert_true(gr_json_is_int(gr_json_at(ids, (size_t)i), &id));
        list[i] = (int32_t)id;
    }
    assert_int_equal(grace_tokenizer_decode(tiny, list, n_ids, 0, &text, &n), GRACE_OK);
    assert_int_equal(n, expected->n);
    assert_memory_equal(text, expected->bytes, n);
    free(text);
}

static void the_reference_cases_match_exactly(void **state) {
    (void)state;
    static case_text text, decoded;
    gr_json *root = load_cases();
    const gr_json *cases = gr_json_get(root, "cases"), *chat = gr_json_get(root, "chat");
    assert_int_equal(gr_json_length(cases), 64);
    for (size_t i = 0; i < gr_json_length(cases); i++) {
        const gr_json *one = gr_json_at(cases, i);
        read_text(gr_json_get(one, "text"), &text);
        read_text(gr_json_get(one, "decoded"), &decoded);
        check_ids(&text, gr_json_get(one, "ids"));
        check_decoded(gr_json_get(one, "ids"), &decoded);
    }
    read_text(gr_json_get(chat, "rendered"), &text);
    check_ids(&text, gr_json_get(chat, "ids"));
    check_decoded(gr_json_get(chat, "ids"), &text);
    gr_json_free(root);
}

/* goldens.json has the number of tokens of each prompt and the text of its greedy continuation. */
static void the_golden_prompts_have_their_number_of_tokens(void **state) {
    (void)state;
    gr_json *root = NULL;
    const char *text;
    int64_t n_expected;
    int32_t *ids, n_ids;
    assert_int_equal(gr_json_load(GOLDEN "/goldens/goldens.json", &root), GRACE_OK);
    const gr_json *prompts = gr_json_get(root, "prompts");
    assert_true(gr_json_length(prompts) > 0);
    for (size_t i = 0; i < gr_json_length(prompts); i++) {
        assert_true(gr_json_is_string(gr_json_get(gr_json_at(prompts, i), "text"), &text, NULL));
        assert_true(gr_json_is_int(gr_json_get(gr_json_at(prompts, i), "tokens"), &n_expected));
        assert_int_equal(grace_tokenizer_encode(tiny, text, strlen(text), &ids, &n_ids), GRACE_OK);
        assert_int_equal(n_ids, n_expected);
        free(ids);
    }
    gr_json_free(root);
}

/* ---- round trips ---- */

static void check_round_trip(const grace_tokenizer *tok, const char *text, size_t n) {
    int32_t *ids, n_ids;
    char *back;
    size_t n_back;
    assert_int_equal(grace_tokenizer_encode(tok, text, n, &ids, &n_ids), GRACE_OK);
    assert_int_equal(grace_tokenizer_decode(tok, ids, n_ids, 0, &back, &n_back), GRACE_OK);
    assert_int_equal(n_back, n);
    assert_memory_equal(back, text, n);
    assert_int_equal(back[n], 0);
    free(ids);
    free(back);
}

static void the_samples_come_back_as_they_were(void **state) {
    (void)state;
    static const char *const names[] = {"prose", "math", "code"};
    for (int i = 0; i < 3; i++) {
        char path[512];
        gr_file file;
        snprintf(path, sizeof path, MODEL "/samples/%s.txt", names[i]);
        assert_int_equal(gr_file_map(path, &file), GRACE_OK);
        check_round_trip(tiny, file.data, file.n);
        gr_file_unmap(&file);
    }
}

static size_t random_text(gr_rng *rng, char *text, size_t n_chars) {
    static const uint32_t ranges[][2] = {{0, 0x80}, {0, 0x80}, {0x80, 0x800}, {0x800, 0xD800}, {0xE000, 0x10000}, {0x10000, 0x110000}};
    size_t n = 0;
    for (size_t i = 0; i < n_chars; i++) {
        const uint32_t *range = ranges[gr_rng_below(rng, 6)];
        n += (size_t)gr_utf8_put(range[0] + gr_rng_below(rng, range[1] - range[0]), text + n);
    }
    return n;
}

static void any_text_comes_back_as_it_was(void **state) {
    (void)state;
    uint64_t seed = 31337;
    print_message("seed %llu\n", (unsigned long long)seed);
    gr_rng rng = gr_rng_seed(seed);
    for (int round = 0; round < 500; round++) {
        char text[400];
        check_round_trip(tiny, text, random_text(&rng, text, gr_rng_below(&rng, 100)));
    }
    check_round_trip(tiny, "zero \0 inside", 13);
}

/* ---- streaming ---- */

static void check_stream(const grace_tokenizer *tok, const int32_t *ids, int32_t n_ids, int skip_special) {
    grace_decoder dec = {0};
    gr_buf all = {0};
    char piece[GRACE_PIECE_MAX], *text;
    size_t n;
    assert_int_equal(gr_buf_append(&all, "", 0), GRACE_OK);
    for (int32_t i = 0; i <= n_ids; i++) {
        if (i < n_ids)
            assert_int_equal(grace_decoder_next(&dec, tok, ids[i], skip_special, piece, &n), GRACE_OK);
        else
            grace_decoder_finish(&dec, piece, &n);
        assert_true(n <= GRACE_PIECE_MAX);
        assert_int_equal(gr_utf8_valid(piece, n), n);
        assert_int_equal(gr_buf_append(&all, piece, n), GRACE_OK);
    }
    assert_int_equal(grace_tokenizer_decode(tok, ids, n_ids, skip_special, &text, &n), GRACE_OK);
    assert_int_equal(all.n, n);
    assert_memory_equal(all.data, text, n);
    free(text);
    gr_buf_free(&all);
}

/* Random ids are mostly broken UTF-8: ids up to 260 are single bytes and special tokens. */
static void streamed_pieces_join_to_the_decoded_text(void **state) {
    (void)state;
    uint64_t seed = 90210;
    print_message("seed %llu\n", (unsigned long long)seed);
    gr_rng rng = gr_rng_seed(seed);
    for (int round = 0; round < 2000; round++) {
        int32_t ids[24], n_ids = (int32_t)gr_rng_below(&rng, 24);
        for (int32_t i = 0; i < n_ids; i++) ids[i] = (int32_t)gr_rng_below(&rng, gr_rng_below(&rng, 4) ? 260 : 4096);
        check_stream(tiny, ids, n_ids, round & 1);
    }
}

static void a_character_is_shown_once_it_is_complete(void **state) {
    (void)state;
    grace_tokenizer *tok = byte_level_open(&(byte_level){.without_byte = 0});
    grace_decoder dec = {0};
    char piece[GRACE_PIECE_MAX];
    size_t n;
    static const int32_t ids[] = {0xF0, 0x9F, 0x98, 0x80, 0xE2, 'x'};
    static const char *const shown[] = {"", "", "", "\xF0\x9F\x98\x80", "", "\xEF\xBF\xBDx"};
    for (int i = 0; i < 6; i++) {
        assert_int_equal(grace_decoder_next(&dec, tok, ids[i], 0, piece, &n), GRACE_OK);
        assert_int_equal(n, strlen(shown[i]));
        assert_memory_equal(piece, shown[i], n);
    }
    grace_decoder_finish(&dec, piece, &n);
    assert_int_equal(n, 0);
    grace_tokenizer_close(tok);
}

/* ---- added tokens ---- */

#define ADDED(id, content, special, normalized, more) \
    "{\"id\":" #id ",\"content\":\"" content "\",\"special\":" special ",\"normalized\":" normalized more "}"

static void special_tokens_are_left_out_on_request_and_others_are_not(void **state) {
    (void)state;
    grace_tokenizer *tok = byte_level_open(&(byte_level){.added = ADDED(256, "<s>", "true", "false", "") "," ADDED(257, "<t>", "false", "false", "")});
    char *text;
    size_t n;
    static const int32_t ids[] = {256, 'a', 257, 256};
    assert_string_equal(ids_of(tok, "<s>a<t><s>"), "256 97 257 256");
    assert_int_equal(grace_tokenizer_decode(tok, ids, 4, 1, &text, &n), GRACE_OK);
    assert_string_equal(text, "a<t>");
    free(text);
    assert_int_equal(grace_tokenizer_decode(tok, ids, 4, 0, &text, &n), GRACE_OK);
    assert_string_equal(text, "<s>a<t><s>");
    free(text);
    grace_tokenizer_close(tok);
}

/* The tokens that are not normalized are cut out first, though the other one begins further left. */
static void normalized_tokens_are_searched_in_what_the_others_leave(void **state) {
    (void)state;
    grace_tokenizer *tok = byte_level_open(&(byte_level){.added = ADDED(256, "x<s", "false", "true", "") "," ADDED(257, "<s>", "true", "false", "")});
    assert_string_equal(ids_of(tok, "x<s>"), "120 257");
    assert_string_equal(ids_of(tok, "x<s"), "256");
    grace_tokenizer_close(tok);
}

static void a_prefix_space_goes_to_every_stretch_between_added_tokens(void **state) {
    (void)state;
    grace_tokenizer *tok = byte_level_open(&(byte_level){.added = ADDED(256, "<s>", "true", "false", ""), .pre = "{\"type\":\"ByteLevel\"}"});
    assert_string_equal(ids_of(tok, "a<s>b"), "32 97 256 32 98");
    grace_tokenizer_close(tok);
}

/* Texts outside the model's vocabulary are shown as they are; those inside are written in the byte alphabet. */
static void an_added_token_is_shown_as_its_text(void **state) {
    (void)state;
    grace_tokenizer *tok = byte_level_open(&(byte_level){.merges = "\xC4\xA0 a",
        .added = ADDED(256, "\xC4\xA0" "a", "false", "false", "") "," ADDED(257, "caf\xC3\xA9", "false", "false", "") ","
                 ADDED(258, "\xEF\xBD\x9C", "true", "false", "")});
    if (!tok) fail_msg("%s", grace_last_error());
    check_round_trip(tok, "un caf\xC3\xA9 a\xEF\xBD\x9C", 14);
    assert_string_equal(ids_of(tok, " a"), "256");
    assert_string_equal(ids_of(tok, "caf\xC3\xA9\xEF\xBD\x9C"), "257 258");
    grace_tokenizer_close(tok);
}

static void tokens_are_found_by_their_text(void **state) {
    (void)state;
    assert_int_equal(grace_tokenizer_vocab(tiny), 4096);
    assert_int_equal(grace_tokenizer_id(tiny, "<|endoftext|>"), 0);
    assert_int_equal(grace_tokenizer_id(tiny, "<|im_end|>"), 2);
    assert_int_equal(grace_tokenizer_id(tiny, "\xC4\xA0the"), 270);
    assert_int_equal(grace_tokenizer_id(tiny, "no such token"), -1);
}

/* ---- bad input ---- */

static void invalid_utf8_is_refused_with_its_offset(void **state) {
    (void)state;
    int32_t *ids = NULL, n_ids = -5;
    assert_int_equal(grace_tokenizer_encode(tiny, "abc\xC3\xA9\xFF", 6, &ids, &n_ids), GRACE_ERR_FORMAT);
    assert_string_equal(grace_last_error(), "text is no valid UTF-8: byte 0xFF at offset 5");
    assert_int_equal(grace_tokenizer_encode(tiny, "abc\xE2\x82", 5, &ids, &n_ids), GRACE_ERR_FORMAT);
    assert_non_null(strstr(grace_last_error(), "byte 0xE2 at offset 3"));
    assert_null(ids);
    assert_int_equal(n_ids, -5);
}

static void a_negative_id_is_refused(void **state) {
    (void)state;
    grace_decoder dec = {0};
    char *text = NULL, piece[GRACE_PIECE_MAX];
    size_t n;
    static const int32_t bad[] = {-1, INT32_MIN};
    for (int i = 0; i < 2; i++) {
        assert_int_equal(grace_tokenizer_decode(tiny, &bad[i], 1, 0, &text, &n), GRACE_ERR_ARG);
        assert_int_equal(grace_decoder_next(&dec, tiny, bad[i], 0, piece, &n), GRACE_ERR_ARG);
    }
    assert_null(text);
    assert_int_equal(grace_tokenizer_decode(tiny, &bad[0], 1, 0, &text, &n), GRACE_ERR_ARG);
    assert_string_equal(grace_last_error(), "token id -1: expected 0 or more");
}

static void no_text_and_no_ids_are_ordinary(void **state) {
    (void)state;
    int32_t *ids = NULL, n_ids;
    char *text = NULL;
    size_t n;
    assert_int_equal(grace_tokenizer_encode(tiny, "", 0, &ids, &n_ids), GRACE_OK);
    assert_int_equal(n_ids, 0);
    assert_int_equal(grace_tokenizer_decode(tiny, ids, 0, 0, &text, &n), GRACE_OK);
    assert_int_equal(n, 0);
    assert_string_equal(text, "");
    free(ids);
    free(text);
}

static void a_runaway_pattern_is_an_error_of_encoding(void **state) {
    (void)state;
    const char *pre = "{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a+)+(a+)+(a+)+[xy]\"},"
                      "\"behavior\":\"Isolated\"},{\"type\":\"ByteLevel\"}]}";
    grace_tokenizer *tok = byte_level_open(&(byte_level){.pre = pre});
    assert_non_null(strstr(ids_of(tok, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaac"), "the pattern search gave up on 45 bytes"));
    grace_tokenizer_close(tok);
}

/* ---- threads ---- */

static void *hash_of_sample(void *arg) {
    const gr_file *file = arg;
    int32_t *ids, n_ids;
    if (grace_tokenizer_encode(tiny, file->data, gr_utf8_cut(file->data, file->n, 50000), &ids, &n_ids)) return NULL;
    uint64_t hash = gr_hash64(ids, (size_t)n_ids * sizeof *ids, 0);
    free(ids);
    return (void *)(uintptr_t)hash;
}

static void four_threads_encode_alike(void **state) {
    (void)state;
    gr_file file;
    pthread_t threads[4];
    void *result;
    assert_int_equal(gr_file_map(MODEL "/samples/math.txt", &file), GRACE_OK);
    void *alone = hash_of_sample(&file);
    assert_non_null(alone);
    for (int i = 0; i < 4; i++) assert_int_equal(pthread_create(&threads[i], NULL, hash_of_sample, &file), 0);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_join(threads[i], &result), 0);
        assert_ptr_equal(result, alone);
    }
    gr_file_unmap(&file);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_reference_cases_match_exactly),
        cmocka_unit_test(the_golden_prompts_have_their_number_of_tokens),
        cmocka_unit_test(the_samples_come_back_as_they_were),
        cmocka_unit_test(any_text_comes_back_as_it_was),
        cmocka_unit_test(streamed_pieces_join_to_the_decoded_text),
        cmocka_unit_test(a_character_is_shown_once_it_is_complete),
        cmocka_unit_test(special_tokens_are_left_out_on_request_and_others_are_not),
        cmocka_unit_test(normalized_tokens_are_searched_in_what_the_others_leave),
        cmocka_unit_test(a_prefix_space_goes_to_every_stretch_between_added_tokens),
        cmocka_unit_test(an_added_token_is_shown_as_its_text),
        cmocka_unit_test(tokens_are_found_by_their_text),
        cmocka_unit_test(invalid_utf8_is_refused_with_its_offset),
        cmocka_unit_test(a_negative_id_is_refused),
        cmocka_unit_test(no_text_and_no_ids_are_ordinary),
        cmocka_unit_test(a_runaway_pattern_is_an_error_of_encoding),
        cmocka_unit_test(four_threads_encode_alike),
    };
    return cmocka_run_group_tests(tests, open_tiny, close_tiny);
}
