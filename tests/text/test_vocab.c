#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <string.h>

#include "text/vocab.h"

static void every_text_is_found_under_its_id(void **state) {
    (void)state;
    enum { N = 5000 };
    gr_arena *arena = gr_arena_new();
    gr_vocab vocab = {0};
    char text[16];
    assert_int_equal(gr_vocab_init(&vocab, arena, N, (size_t)N * 6), GRACE_OK);
    for (int i = 0; i < N; i++) {
        int n = sprintf(text, "t%05d", i);
        assert_int_equal(gr_vocab_add(&vocab, text, (size_t)n, (i * 37) % N, i % 2), GRACE_OK);
    }
    for (int i = 0; i < N; i++) {
        int n = sprintf(text, "t%05d", i);
        assert_int_equal(gr_vocab_find(&vocab, text, (size_t)n), (i * 37) % N);
        assert_string_equal(vocab.tokens[(i * 37) % N].text, text);
    }
    assert_int_equal(gr_vocab_find_model(&vocab, "t00003", 6), -1);     /* an added one */
    assert_int_equal(gr_vocab_find_model(&vocab, "t00004", 6), 148);
    assert_int_equal(gr_vocab_find(&vocab, "t", 1), -1);
    assert_int_equal(gr_vocab_find(&vocab, "t000010", 7), -1);
    gr_arena_free(arena);
}

static void taken_ids_and_texts_are_refused(void **state) {
    (void)state;
    gr_arena *arena = gr_arena_new();
    gr_vocab vocab = {0};
    assert_int_equal(gr_vocab_init(&vocab, arena, 3, 3), GRACE_OK);
    assert_int_equal(gr_vocab_add(&vocab, "a", 1, 1, false), GRACE_OK);
    assert_int_equal(gr_vocab_add(&vocab, "b", 1, 1, false), GRACE_ERR_FORMAT);
    assert_non_null(strstr(grace_last_error(), "id 1 belongs to both 'a' and 'b'"));
    assert_int_equal(gr_vocab_add(&vocab, "a", 1, 2, true), GRACE_ERR_FORMAT);
    assert_non_null(strstr(grace_last_error(), "'a' has both id 1 and id 2"));
    assert_int_equal(gr_vocab_find(&vocab, "b", 1), -1);
    gr_arena_free(arena);
}

static void more_tokens_than_ids_can_count_are_refused(void **state) {
    (void)state;
    gr_arena *arena = gr_arena_new();
    gr_vocab vocab = {0};
    assert_int_equal(gr_vocab_init(&vocab, arena, ((size_t)1 << 20) + 1, 0), GRACE_ERR_LIMIT);
    assert_non_null(strstr(grace_last_error(), "an id of 1048576, ids below 1048576 are read"));
    gr_arena_free(arena);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_text_is_found_under_its_id),
        cmocka_unit_test(taken_ids_and_texts_are_refused),
        cmocka_unit_test(more_tokens_than_ids_can_count_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
