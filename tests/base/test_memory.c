#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdio.h>
#include <string.h>

#include "base/memory.h"

/* A request no machine can serve must come back as NULL from the sanitizers' allocators too. */
const char *__asan_default_options(void);
const char *__asan_default_options(void) { return "allocator_may_return_null=1"; }
const char *__tsan_default_options(void);
const char *__tsan_default_options(void) { return "allocator_may_return_null=1"; }

static void arena_arrays_are_zeroed_aligned_and_apart(void **state) {
    (void)state;
    enum { N = 400 };
    unsigned char *array[N];
    gr_arena *arena = gr_arena_new();
    for (int i = 0; i < N; i++) {               /* 0 to 159 kB: within, across and beyond chunks */
        size_t n = (size_t)i * (size_t)(i % 7 ? 3 : 400);
        array[i] = gr_arena_alloc(arena, n, 1);
        assert_non_null(array[i]);
        assert_int_equal((uintptr_t)array[i] % 64, 0);
        for (size_t k = 0; k < n; k++) assert_int_equal(array[i][k], 0);
        memset(array[i], i % 251, n);
    }
    for (int i = 0; i < N; i++) {
        size_t n = (size_t)i * (size_t)(i % 7 ? 3 : 400);
        for (size_t k = 0; k < n; k++) assert_int_equal(array[i][k], i % 251);
    }
    gr_arena_free(arena);
}

static void freeing_nothing_is_allowed(void **state) {
    (void)state;
    gr_buf buf = {0};
    gr_arena_free(NULL);
    gr_buf_free(&buf);
    gr_buf_free(&buf);
}

static void sizes_that_overflow_give_null(void **state) {
    (void)state;
    gr_arena *arena = gr_arena_new();
    assert_null(gr_arena_alloc(arena, SIZE_MAX, 1));
    assert_null(gr_arena_alloc(arena, SIZE_MAX / 2, 8));
    assert_null(gr_arena_alloc(arena, SIZE_MAX / 8 + 2, 8));
    assert_non_null(gr_arena_alloc(arena, 16, 8));
    gr_arena_free(arena);
}

static grace_status allocate(gr_arena *arena, int64_t n) {
    grace_status st = GRACE_OK;
    int32_t *array = NULL, *in_arena = NULL;
    GR_CALLOC(array, n);
    GR_ARENA_ARRAY(arena, in_arena, n);
    for (int64_t i = 0; i < n; i++) GR_ASSERT(array[i] == 0 && in_arena[i] == 0);
done:
    free(array);
    return st;
}

static void the_macros_turn_no_memory_into_a_status(void **state) {
    (void)state;
    gr_arena *arena = gr_arena_new();
    assert_int_equal(allocate(arena, 0), GRACE_OK);
    assert_int_equal(allocate(arena, 1000), GRACE_OK);
    assert_int_equal(allocate(arena, -1), GRACE_ERR_MEMORY);
    assert_non_null(strstr(grace_last_error(), "elements of 4 bytes"));
    gr_arena_free(arena);
}

typedef struct numbers { int32_t *data, n, capacity; } numbers;

static grace_status push(numbers *a, int32_t value) {
    grace_status st = GRACE_OK;
    GR_RESERVE(a->data, a->n + 1, a->capacity);
    a->data[a->n++] = value;
done:
    return st;
}

static grace_status reserve(numbers *a, size_t n) {
    grace_status st = GRACE_OK;
    GR_RESERVE(a->data, n, a->capacity);
done:
    return st;
}

static void an_array_keeps_what_was_pushed_and_moves_a_number_of_times_that_grows_with_the_logarithm(void **state) {
    (void)state;
    enum { N = 100000 };
    numbers a = {0};
    int32_t n_moves = 0;
    for (int32_t i = 0; i < N; i++) {
        const int32_t before = a.capacity;
        assert_int_equal(push(&a, 7 * i), GRACE_OK);
        n_moves += a.capacity != before;
    }
    assert_true(n_moves <= 17);
    for (int32_t i = 0; i < N; i++) assert_int_equal(a.data[i], 7 * i);
    free(a.data);
}

static void room_for_none_is_an_array_and_room_for_many_is_there_at_once(void **state) {
    (void)state;
    numbers a = {0};
    assert_int_equal(reserve(&a, 0), GRACE_OK);
    assert_non_null(a.data);
    assert_int_equal(reserve(&a, 5000), GRACE_OK);
    assert_int_equal(a.capacity, 5000);
    free(a.data);
}

static void room_no_machine_has_is_refused_and_the_array_stays(void **state) {
    (void)state;
    numbers a = {0};
    assert_int_equal(push(&a, 42), GRACE_OK);
    for (size_t n = SIZE_MAX; n > SIZE_MAX / 16; n /= 2) assert_int_equal(reserve(&a, n), GRACE_ERR_MEMORY);
    assert_non_null(strstr(grace_last_error(), "elements of 4 bytes"));
    assert_int_equal(a.capacity, 16);
    assert_int_equal(a.data[0], 42);
    free(a.data);
}

/* Doubling alone would give 2^31. */
static void the_room_of_a_count_of_32_bits_fits_one(void **state) {
    (void)state;
    size_t capacity = (size_t)1 << 30;
    char *array = gr_grown(NULL, 1, capacity + 1, &capacity);
    assert_int_equal(capacity, INT32_MAX);
    free(array);
}

static void a_buffer_holds_what_was_appended_and_ends_in_zero(void **state) {
    (void)state;
    gr_buf buf = {0};
    char expected[6001] = "";
    assert_int_equal(gr_buf_append(&buf, NULL, 0), GRACE_OK);
    assert_string_equal(buf.data, "");
    for (int i = 0; i < 1000; i++) {
        char piece[16];
        snprintf(piece, sizeof piece, "%06d", i);
        memcpy(expected + 6 * i, piece, 6);
        assert_int_equal(i % 2 ? gr_buf_append(&buf, piece, 6) : gr_buf_printf(&buf, "%06d", i), GRACE_OK);
        assert_int_equal(buf.data[buf.n], 0);
    }
    assert_int_equal(buf.n, 6000);
    assert_memory_equal(buf.data, expected, 6000);
    gr_buf_free(&buf);
    assert_null(buf.data);
}

static void zero_bytes_are_kept(void **state) {
    (void)state;
    gr_buf buf = {0};
    assert_int_equal(gr_buf_append(&buf, "a\0b", 3), GRACE_OK);
    assert_int_equal(gr_buf_printf(&buf, "%s", "c"), GRACE_OK);
    assert_int_equal(buf.n, 4);
    assert_memory_equal(buf.data, "a\0bc", 5);
    gr_buf_free(&buf);
}

static void a_text_no_machine_can_hold_is_refused_and_the_buffer_stays(void **state) {
    (void)state;
    gr_buf buf = {0};
    volatile size_t huge[] = {SIZE_MAX, SIZE_MAX - 1, SIZE_MAX - 4, SIZE_MAX / 2, SIZE_MAX / 2 - 300};
    assert_int_equal(gr_buf_append(&buf, "kept", 4), GRACE_OK);
    for (size_t i = 0; i < sizeof huge / sizeof *huge; i++) assert_int_equal(gr_buf_append(&buf, "x", huge[i]), GRACE_ERR_MEMORY);
    assert_string_equal(buf.data, "kept");
    assert_int_equal(buf.n, 4);
    gr_buf_free(&buf);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(arena_arrays_are_zeroed_aligned_and_apart),
        cmocka_unit_test(freeing_nothing_is_allowed),
        cmocka_unit_test(sizes_that_overflow_give_null),
        cmocka_unit_test(the_macros_turn_no_memory_into_a_status),
        cmocka_unit_test(an_array_keeps_what_was_pushed_and_moves_a_number_of_times_that_grows_with_the_logarithm),
        cmocka_unit_test(room_for_none_is_an_array_and_room_for_many_is_there_at_once),
        cmocka_unit_test(room_no_machine_has_is_refused_and_the_array_stays),
        cmocka_unit_test(the_room_of_a_count_of_32_bits_fits_one),
        cmocka_unit_test(a_buffer_holds_what_was_appended_and_ends_in_zero),
        cmocka_unit_test(zero_bytes_are_kept),
        cmocka_unit_test(a_text_no_machine_can_hold_is_refused_and_the_buffer_stays),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
