#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/clock.h"
#include "base/rng.h"
#include "text/byte_level.h"

static grace_tokenizer *open_ok(const byte_level *spec) {
    grace_tokenizer *tok = byte_level_open(spec);
    if (!tok) fail_msg("%s", grace_last_error());
    return tok;
}

/* ---- the reference: tokens as strings, every round searches all merges in order ---- */

typedef struct plain { char parts[512][64]; int n; } plain;
typedef struct plain_merges { char left[64][32], right[64][32]; int n; } plain_merges;

static int merge_once(plain *p, const char *left, const char *right) {
    for (int i = 0; i + 1 < p->n; i++) {
        if (strcmp(p->parts[i], left) || strcmp(p->parts[i + 1], right)) continue;
        strcat(p->parts[i], right);
        memmove(p->parts[i + 1], p->parts[i + 2], (size_t)(p->n - i - 2) * sizeof *p->parts);
        p->n--;
        return 1;
    }
    return 0;
}

static void merge_plain(plain *p, const plain_merges *merges) {
    for (int m = 0; m < merges->n;)
        m = merge_once(p, merges->left[m], merges->right[m]) ? 0 : m + 1;
}

static const char *plain_ids(const grace_tokenizer *tok, const char *text, const plain_merges *merges) {
    static char line[4096];
    static plain p;
    size_t n = 0;
    p.n = 0;
    for (; text[p.n]; p.n++) p.parts[p.n][0] = text[p.n], p.parts[p.n][1] = 0;
    merge_plain(&p, merges);
    line[0] = 0;
    for (int i = 0; i < p.n; i++) n += (size_t)sprintf(line + n, "%s%d", i ? " " : "", (int)grace_tokenizer_id(tok, p.parts[i]));
    return line;
}

/* Random merges over the letters a, b, c, each of two tokens that exist by then. */
static void random_merges(gr_rng *rng, plain_merges *merges, char *spec) {
    char tokens[64][32] = {"a", "b", "c"};
    int n_tokens = 3;
    merges->n = 0;
    spec[0] = 0;
    while (n_tokens < 24) {
        const char *left = tokens[gr_rng_below(rng, (uint32_t)n_tokens)], *right = tokens[gr_rng_below(rng, (uint32_t)n_tokens)];
        char joined[64];
        int known = 0;
        snprintf(joined, sizeof joined, "%s%s", left, right);
        for (int i = 0; i < n_tokens; i++) known |= !strcmp(tokens[i], joined);
        if (known || strlen(joined) > 16) continue;
        strcpy(tokens[n_tokens++], joined);
        strcpy(merges->left[merges->n], left);
        strcpy(merges->right[merges->n++], right);
        sprintf(spec + strlen(spec), "%s%s %s", spec[0] ? "|" : "", left, right);
    }
}

/* Lengths on both sides of the switch from scanning to a heap, and long runs of one letter. */
static void merging_equals_the_plain_definition(void **state) {
    (void)state;
    uint64_t seed = 77001;
    print_message("seed %llu\n", (unsigned long long)seed);
    gr_rng rng = gr_rng_seed(seed);
    for (int round = 0; round < 60; round++) {
        static plain_merges merges;
        char spec[4096], text[200];
        random_merges(&rng, &merges, spec);
        byte_level file = {.merges = spec, .merges_as_pairs = round & 1};
        grace_tokenizer *tok = open_ok(&file);
        for (int k = 0; k < 12; k++) {
            size_t n = gr_rng_below(&rng, k < 8 ? 40 : 160);
            uint32_t n_letters = 1 + gr_rng_below(&rng, 3);
            for (size_t i = 0; i < n; i++) text[i] = (char)('a' + gr_rng_below(&rng, n_letters));
            text[n] = 0;
            assert_string_equal(ids_of(tok, text), plain_ids(tok, text, &merges));
        }
        grace_tokenizer_close(tok);
    }
}

static void the_smallest_rank_merges_first_and_the_leftmost_of_equals(void **state) {
    (void)state;
    grace_tokenizer *tok = open_ok(&(byte_level){.merges = "b c|a b|a a"});
    assert_string_equal(ids_of(tok, "abc"), "97 256");
    assert_string_equal(ids_of(tok, "aaa"), "258 97");
    assert_string_equal(ids_of(tok, "aab"), "97 257");
    grace_tokenizer_close(tok);
}

static void both_spellings_of_merges_mean_the_same(void **state) {
    (void)state;
    grace_tokenizer *strings = open_ok(&(byte_level){.merges = "a b|ab c|\xC4\xA0 abc"});
    grace_tokenizer *pairs = open_ok(&(byte_level){.merges = "a b|ab c|\xC4\xA0 abc", .merges_as_pairs = 1});
    assert_string_equal(ids_of(strings, "abc abc ab"), "257 258 32 256");
    assert_string_equal(ids_of(pairs, "abc abc ab"), "257 258 32 256");
    grace_tokenizer_close(strings);
    grace_tokenizer_close(pairs);
}

/* "abc" has a token of its own that merging does not reach: b c comes first and a bc is no merge. */
static void ignore_merges_takes_a_whole_piece_first(void **state) {
    (void)state;
    const char *pre = "{\"type\":\"ByteLevel\",\"add_prefix_space\":false}";
    grace_tokenizer *merged = open_ok(&(byte_level){.merges = "b c|a b|ab c", .pre = pre});
    grace_tokenizer *whole = open_ok(&(byte_level){.merges = "b c|a b|ab c", .pre = pre, .model = "\"ignore_merges\":true,"});
    assert_string_equal(ids_of(merged, "abc"), "97 256");
    assert_string_equal(ids_of(whole, "abc"), "258");
    assert_string_equal(ids_of(whole, "abcabc"), "97 256 97 256");
    assert_string_equal(ids_of(whole, "abc\xC3\xA9"), "97 256 195 169");
    grace_tokenizer_close(merged);
    grace_tokenizer_close(whole);
}

/* A quarter of a million bytes in one piece: n log n takes tens of milliseconds, n * n would take minutes. */
static void a_long_run_is_not_quadratic(void **state) {
    (void)state;
    enum { N = 1 << 18 };
    grace_tokenizer *tok = open_ok(&(byte_level){.merges = "a a|aa aa|aaaa aaaa"});
    char *text = malloc(N);
    int32_t *ids, n_ids;
    assert_non_null(text);
    memset(text, 'a', N);
    double start = gr_now_us();
    assert_int_equal(grace_tokenizer_encode(tok, text, N, &ids, &n_ids), GRACE_OK);
    assert_true(gr_now_us() - start < 2e7);
    assert_int_equal(n_ids, N / 8);
    for (int32_t i = 0; i < n_ids; i++) assert_int_equal(ids[i], 258);
    free(ids);
    free(text);
    grace_tokenizer_close(tok);
}

static void a_byte_without_a_token_is_an_error_that_names_it(void **state) {
    (void)state;
    grace_tokenizer *tok = open_ok(&(byte_level){.without_byte = 'q'});
    assert_string_equal(ids_of(tok, "pr"), "112 113");
    assert_string_equal(ids_of(tok, "pqr"), "the vocabulary has no token for byte 0x71 of the text");
    grace_tokenizer_close(tok);
}

static void check_refused(const byte_level *spec, const char *part) {
    grace_tokenizer *tok = byte_level_open(spec);
    assert_null(tok);
    if (!strstr(grace_last_error(), part)) fail_msg("expected '%s' in '%s'", part, grace_last_error());
}

static void options_that_would_change_the_ids_are_refused(void **state) {
    (void)state;
    check_refused(&(byte_level){.model = "\"dropout\":0.1,"}, "dropout 0.1 is not supported");
    check_refused(&(byte_level){.model = "\"continuing_subword_prefix\":\"##\","}, "continuing_subword_prefix '##' is not supported");
    check_refused(&(byte_level){.model = "\"end_of_word_suffix\":\"</w>\","}, "end_of_word_suffix '</w>' is not supported");
}

/* Every byte has a token, so nothing is ever unknown. */
static void options_without_effect_are_accepted(void **state) {
    (void)state;
    grace_tokenizer *tok = open_ok(&(byte_level){.model = "\"dropout\":null,\"unk_token\":\"?\",\"byte_fallback\":true,\"fuse_unk\":true,"
                                                          "\"continuing_subword_prefix\":\"\",\"end_of_word_suffix\":\"\","});
    assert_string_equal(ids_of(tok, "a"), "97");
    grace_tokenizer_close(tok);
}

static void check_merges(const char *merges, const char *part) {
    byte_level spec = {.without_byte = 0};
    gr_buf json = byte_level_json(&spec);
    char *at = strstr(json.data, "\"merges\":["), text[8192];
    grace_tokenizer *tok = NULL;
    snprintf(text, sizeof text, "%.*s\"merges\":%s}}", (int)(at - json.data), json.data, merges);
    assert_int_equal(gr_tokenizer_parse(text, strlen(text), &tok), GRACE_ERR_FORMAT);
    if (!strstr(grace_last_error(), part)) fail_msg("expected '%s' in '%s'", part, grace_last_error());
    gr_buf_free(&json);
}

static void a_merge_must_have_two_parts_and_a_result_in_the_vocabulary(void **state) {
    (void)state;
    check_merges("[\"a b\"]", "merge 0: 'ab' is not in the vocabulary");
    check_merges("[\"xx b\"]", "merge 0: 'xx' is not in the vocabulary");
    check_merges("[[\"a\",\"yy\"]]", "merge 0: 'yy' is not in the vocabulary");
    check_merges("[\"ab\"]", "merge 0: expected two tokens and a space, found 'ab'");
    check_merges("[\"a b c\"]", "expected two tokens and a space");
    check_merges("[[\"a\"]]", "merge 0: expected a string or two strings, found an array");
    check_merges("[[\"a\",1]]", "expected a string or two strings");
    check_merges("[7]", "found an integer");
    check_merges("{}", "'merges': expected an array, found an object");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merging_equals_the_plain_definition),
        cmocka_unit_test(the_smallest_rank_merges_first_and_the_leftmost_of_equals),
        cmocka_unit_test(both_spellings_of_merges_mean_the_same),
        cmocka_unit_test(ignore_merges_takes_a_whole_piece_first),
        cmocka_unit_test(a_long_run_is_not_quadratic),
        cmocka_unit_test(a_byte_without_a_token_is_an_error_that_names_it),
        cmocka_unit_test(options_that_would_change_the_ids_are_refused),
        cmocka_unit_test(options_without_effect_are_accepted),
        cmocka_unit_test(a_merge_must_have_two_parts_and_a_result_in_the_vocabulary),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
