#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <string.h>

#include "report/out.h"

static void five_characters_become_entities_and_control_characters_are_replaced(void **state) {
    (void)state;
    gr_out out = {0};
    gr_out_text(&out, "<a href=\"x\">&'\n\tend\x01\x1b[31m\x7f");
    assert_int_equal(out.st, GRACE_OK);
    assert_string_equal(out.buf.data, "&lt;a href=&quot;x&quot;&gt;&amp;&#39;\n\tend\xEF\xBF\xBD\xEF\xBF\xBD[31m\xEF\xBF\xBD");
    gr_out_free(&out);
}

static void utf8_passes_unchanged(void **state) {
    (void)state;
    gr_out out = {0};
    gr_out_text(&out, "gr\xC3\xBC\xC3\x9F \xE4\xB8\x96 \xF0\x9F\x99\x82");
    assert_string_equal(out.buf.data, "gr\xC3\xBC\xC3\x9F \xE4\xB8\x96 \xF0\x9F\x99\x82");
    gr_out_free(&out);
}

static void a_text_longer_than_the_inner_buffer_arrives_whole(void **state) {
    (void)state;
    char text[3001];
    gr_out out = {0};
    memset(text, 'x', 3000);
    text[3000] = 0;
    gr_out_put(&out, "[%s|%d]", text, 7);
    assert_int_equal(out.buf.n, 3004);
    assert_memory_equal(out.buf.data + 1, text, 3000);
    assert_string_equal(out.buf.data + 3001, "|7]");
    gr_out_free(&out);
}

static void nothing_is_written_after_a_failure(void **state) {
    (void)state;
    gr_out out = {0};
    gr_out_put(&out, "before");
    out.st = GRACE_ERR_MEMORY;
    gr_out_put(&out, "after");
    gr_out_text(&out, "after");
    assert_string_equal(out.buf.data, "before");
    gr_out_free(&out);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(five_characters_become_entities_and_control_characters_are_replaced),
        cmocka_unit_test(utf8_passes_unchanged),
        cmocka_unit_test(a_text_longer_than_the_inner_buffer_arrives_whole),
        cmocka_unit_test(nothing_is_written_after_a_failure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
