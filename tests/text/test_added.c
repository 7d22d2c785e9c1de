#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "base/rng.h"
#include "text/added.h"

typedef struct fixture { gr_arena *arena; gr_pattern *word; gr_searcher searcher; gr_added_set set; } fixture;

static void setup(fixture *f, gr_added *tokens, size_t n) {
    *f = (fixture){.arena = gr_arena_new()};
    assert_non_null(f->arena);
    assert_int_equal(gr_pattern_regex("[\\w\\x{200C}\\x{200D}]", &f->word), GRACE_OK);
    assert_int_equal(gr_searcher_open(&f->searcher), GRACE_OK);
    for (size_t i = 0; i < n; i++) tokens[i].n = strlen(tokens[i].text), tokens[i].id = (int32_t)i;
    assert_int_equal(gr_added_build(&f->set, f->arena, tokens, n, f->word), GRACE_OK);
}

static void teardown(fixture *f) {
    gr_searcher_close(&f->searcher);
    gr_pattern_free(f->word);
    gr_arena_free(f->arena);
}

/* "text|0:token|text". Static storage. */
static const char *segments(fixture *f, const char *text) {
    static char line[512];
    size_t n = 0;
    gr_segments out = {0};
    assert_int_equal(gr_added_split(&f->set, &f->searcher, text, 0, strlen(text), &out), GRACE_OK);
    line[0] = 0;
    for (size_t i = 0; i < out.n; i++) {
        if (i) line[n++] = '|';
        if (out.data[i].id >= 0) n += (size_t)sprintf(line + n, "%d:", (int)out.data[i].id);
        bool covered = out.data[i].end < out.data[i].start;         /* by the white space of a token before */
        n += (size_t)sprintf(line + n, "%.*s", covered ? 0 : (int)(out.data[i].end - out.data[i].start), text + out.data[i].start);
    }
    free(out.data);
    return line;
}

#define CHECK(tokens, text, expected)                           \
    do {                                                        \
        fixture f_;                                             \
        setup(&f_, tokens, sizeof tokens / sizeof *tokens);     \
        assert_string_equal(segments(&f_, text), expected);     \
        teardown(&f_);                                          \
    } while (0)

static void the_leftmost_wins_then_the_longest(void **state) {
    (void)state;
    gr_added tokens[] = {{.text = "<a>"}, {.text = "<a>b"}, {.text = "a>bcd"}, {.text = "<"}};
    CHECK(tokens, "x<a>bcd", "x|1:<a>b|cd");
    CHECK(tokens, "<a>c<a", "0:<a>|c|3:<|a");
    CHECK(tokens, "a>bcd<<a>", "2:a>bcd|3:<|0:<a>");
    CHECK(tokens, "nothing", "nothing");
    CHECK(tokens, "", "");
}

static void white_space_beside_a_token_is_swallowed_on_request(void **state) {
    (void)state;
    gr_added left[] = {{.text = "<m>", .lstrip = true}}, right[] = {{.text = "<m>", .rstrip = true}};
    gr_added both[] = {{.text = "<m>", .lstrip = true, .rstrip = true}};
    CHECK(left, "a \n<m> b", "a|0: \n<m>| b");
    CHECK(right, "a <m>\t\xE3\x80\x80" "b", "a |0:<m>\t\xE3\x80\x80|b");
    CHECK(both, "  <m>  <m>", "0:  <m>  |0:<m>");       /* what the first swallowed is gone */
    CHECK(both, "<m>", "0:<m>");
}

/* In the reference the automaton does not know about swallowed space, and finds the second token in it. */
static void a_token_of_white_space_is_found_where_another_swallowed_it(void **state) {
    (void)state;
    gr_added tokens[] = {{.text = "<m>", .rstrip = true}, {.text = "  "}};
    CHECK(tokens, "<m>   x", "0:<m>   |1:  | x");
}

/* As the reference says it, walking over white space anew for every token. */
static void expect_swallowed(const gr_added *tokens, const char *text, size_t n, char *line) {
    size_t covered = 0, used = 0;
    line[0] = 0;
    for (size_t at = 0; at < n;) {
        const gr_added *token = tokens;
        while (token->text && strncmp(text + at, token->text, token->n) != 0) token++;
        size_t from = at, to = at + token->n;
        at = token->text ? to : at + 1;
        if (!token->text) continue;
        while (token->lstrip && from > covered && text[from - 1] == ' ') from--;
        if (token->lstrip && from < covered) from = covered;
        while (token->rstrip && to < n && text[to] == ' ') to++;
        if (covered < from) used += (size_t)sprintf(line + used, "%s%.*s", used ? "|" : "", (int)(from - covered), text + covered);
        used += (size_t)sprintf(line + used, "%s%d:%.*s", used ? "|" : "", (int)token->id, (int)(to > from ? to - from : 0), text + from);
        covered = to;
    }
    if (covered < n) sprintf(line + used, "%s%.*s", used ? "|" : "", (int)(n - covered), text + covered);
}

static void swallowed_space_equals_walking_over_it_for_every_token(void **state) {
    (void)state;
    uint64_t seed = 99;
    print_message("seed %llu\n", (unsigned long long)seed);
    gr_rng rng = gr_rng_seed(seed);
    gr_added tokens[] = {{.text = "   ", .lstrip = true}, {.text = "l", .lstrip = true}, {.text = "r", .rstrip = true},
                         {.text = "b", .lstrip = true, .rstrip = true}, {.text = "  n"}, {0}};
    fixture f;
    setup(&f, tokens, sizeof tokens / sizeof *tokens - 1);
    for (int round = 0; round < 3000; round++) {
        char text[24], expected[256];
        size_t n = gr_rng_below(&rng, 20);
        for (size_t i = 0; i < n; i++) text[i] = "    lrbnx"[gr_rng_below(&rng, 9)];
        text[n] = 0;
        expect_swallowed(tokens, text, n, expected);
        assert_string_equal(segments(&f, text), expected);
    }
    teardown(&f);
}

/* A walk for every token would take hours. */
static void a_megabyte_of_blanks_is_walked_over_once(void **state) {
    (void)state;
    enum { N = 1 << 20 };
    static char text[N];
    gr_added tokens[] = {{.text = " ", .lstrip = true, .rstrip = true}, {.text = "\t"}};
    fixture f;
    gr_segments out = {0};
    setup(&f, tokens, 2);
    for (size_t i = 0; i < N; i++) text[i] = i % 3 == 2 ? '\t' : ' ';
    assert_int_equal(gr_added_split(&f.set, &f.searcher, text, 0, N, &out), GRACE_OK);
    assert_int_equal(out.n, N);
    free(out.data);
    teardown(&f);
}

static void a_single_word_stands_between_non_words(void **state) {
    (void)state;
    gr_added tokens[] = {{.text = "cat", .single_word = true}, {.text = "<s>", .single_word = true}};
    CHECK(tokens, "cat concat cats, cat", "0:cat| concat cats, |0:cat");
    CHECK(tokens, "\xC3\xA9" "cat cat\xCC\x81 (cat)", "\xC3\xA9" "cat cat\xCC\x81 (|0:cat|)");   /* é, a combining mark */
    CHECK(tokens, "a<s> <s>", "a<s> |1:<s>");
}

static void a_segment_is_searched_as_if_it_stood_alone(void **state) {
    (void)state;
    gr_added tokens[] = {{.text = "cat", .single_word = true}};
    gr_segments out = {0};
    fixture f;
    setup(&f, tokens, 1);
    assert_int_equal(gr_added_split(&f.set, &f.searcher, "xcatx", 1, 4, &out), GRACE_OK);
    assert_int_equal(out.n, 1);
    assert_int_equal(out.data[0].id, 0);
    assert_int_equal(out.data[0].start, 1);
    free(out.data);
    teardown(&f);
}

/* Random texts over a small alphabet against trying every token at every place. */
static void the_search_equals_trying_every_token_everywhere(void **state) {
    (void)state;
    uint64_t seed = 4242;
    print_message("seed %llu\n", (unsigned long long)seed);
    gr_rng rng = gr_rng_seed(seed);
    gr_added tokens[] = {{.text = "a"}, {.text = "ab"}, {.text = "abab"}, {.text = "abb"},
                         {.text = "ba"}, {.text = "bbb"}, {.text = "cab"}, {.text = "cc"}};
    enum { N = sizeof tokens / sizeof *tokens };
    fixture f;
    setup(&f, tokens, N);
    for (int round = 0; round < 3000; round++) {
        char text[16], expected[256];
        size_t n = gr_rng_below(&rng, 15), used = 0;
        for (size_t i = 0; i < n; i++) text[i] = (char)('a' + gr_rng_below(&rng, 4));
        text[n] = 0;
        bool in_text = false;
        expected[0] = 0;
        for (size_t i = 0; i < n;) {
            int best = -1;
            for (int k = 0; k < N; k++)
                if (!strncmp(text + i, tokens[k].text, tokens[k].n) && (best < 0 || tokens[k].n > tokens[best].n)) best = k;
            if (used && (best >= 0 || !in_text)) expected[used++] = '|';
            in_text = best < 0;
            used += (size_t)(best < 0 ? sprintf(expected + used, "%c", text[i]) : sprintf(expected + used, "%d:%s", best, tokens[best].text));
            i += best < 0 ? 1 : tokens[best].n;
        }
        assert_string_equal(segments(&f, text), expected);
    }
    teardown(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_leftmost_wins_then_the_longest),
        cmocka_unit_test(white_space_beside_a_token_is_swallowed_on_request),
        cmocka_unit_test(a_token_of_white_space_is_found_where_another_swallowed_it),
        cmocka_unit_test(swallowed_space_equals_walking_over_it_for_every_token),
        cmocka_unit_test(a_megabyte_of_blanks_is_walked_over_once),
        cmocka_unit_test(a_single_word_stands_between_non_words),
        cmocka_unit_test(a_segment_is_searched_as_if_it_stood_alone),
        cmocka_unit_test(the_search_equals_trying_every_token_everywhere),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
