#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "interop/files.h"
#include "interop/pickle.h"

#define PARSE(text, out) gr_pickle_parse("p", text, sizeof(text) - 1, out)
#define TENSOR(numel, offset, size, stride) \
    "ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nIntStorage\nX\1\0\0\0000X\3\0\0\0cpuK" numel "tQ" offset size stride "\x89" \
    "ccollections\nOrderedDict\n)RtR"

static void scalars_come_out_as_they_went_in(void **state) {
    (void)state;
    gr_pickle p = {0};
    assert_ok(PARSE("\x80\2(K\xffM\xff\xffJ\xfe\xff\xff\xff\x8a\5\0\0\0\0\xff"
                    "\x8a\0\x8a\x8\0\0\0\0\0\0\0\x80G\x3f\xf8\0\0\0\0\0\0\x88\x89NX\2\0\0\0hit.", &p));
    const gr_pickle_list *v = gr_pickle_items(&p, &p.root);
    static const int64_t integers[] = {255, 65535, -2, -4294967296, 0, INT64_MIN};
    assert_int_equal(v->n, 11);
    for (int i = 0; i < 6; i++) assert_true(v->items[i].kind == GR_PICKLE_INT && v->items[i].integer == integers[i]);
    assert_true(v->items[6].real == 1.5 && v->items[7].integer == 1 && v->items[8].integer == 0 && v->items[9].kind == GR_PICKLE_NONE);
    assert_true(gr_pickle_is_text(&v->items[10], "hi") && !gr_pickle_is_text(&v->items[10], "h") && !gr_pickle_is_text(&v->items[0], "h"));
    gr_pickle_free(&p);
}

static void dicts_and_lists_are_filled_and_remembered(void **state) {
    (void)state;
    gr_pickle p = {0};
    /* {"a": [1, 2], "b": {}, "a": (3,)} with the list memoised and added to later */
    assert_ok(PARSE("\x80\2}q\0(X\1\0\0\0a]q\1K\1aX\1\0\0\0b}X\1\0\0\0aK\3\x85uX\1\0\0\0ch\1(K\2esX\1\0\0\0dh\1s.", &p));
    assert_int_equal(gr_pickle_items(&p, gr_pickle_get(&p, &p.root, "a"))->n, 1);       /* the later one */
    assert_int_equal(gr_pickle_items(&p, gr_pickle_get(&p, &p.root, "d"))->n, 2);
    assert_int_equal(gr_pickle_get(&p, &p.root, "b")->kind, GR_PICKLE_DICT);
    assert_null(gr_pickle_get(&p, &p.root, "e"));
    assert_null(gr_pickle_get(&p, gr_pickle_get(&p, &p.root, "a"), "a"));
    gr_pickle_free(&p);
}

static void a_list_may_hold_itself(void **state) {
    (void)state;
    gr_pickle p = {0};
    assert_ok(PARSE("\x80\2]q\0h\0ah\0a.", &p));
    const gr_pickle_list *v = gr_pickle_items(&p, &p.root);
    assert_true(v->n == 2 && v->items[0].index == p.root.index);
    gr_pickle_free(&p);
}

static void tensors_are_described_and_checked(void **state) {
    (void)state;
    gr_pickle p = {0};
    assert_ok(PARSE("\x80\2" TENSOR("\14", "K\2", "K\2K\5\x86", "K\5K\1\x86") ".", &p));
    const gr_pickle_tensor *t = &p.tensors[p.root.index];
    assert_true(p.root.kind == GR_PICKLE_TENSOR && t->n_dims == 2 && t->n == 10 && t->offset == 2 && t->size[1] == 5 && t->stride[0] == 5);
    assert_true(p.storages[t->storage].dtype == GR_I32 && p.storages[t->storage].n == 12 && gr_pickle_is_text(&p.storages[t->storage].key, "0"));
    gr_pickle_free(&p);
    assert_ok(PARSE("\x80\2" TENSOR("\0", "K\0", "K\3K\0\x86", "K\0K\1\x86") ".", &p));     /* no elements at all */
    assert_int_equal(p.tensors[0].n, 0);
    gr_pickle_free(&p);
    assert_failed(PARSE("\x80\2" TENSOR("\13", "K\2", "K\2K\5\x86", "K\5K\1\x86") ".", &p), GRACE_ERR_FORMAT, "reaches outside its storage");
    assert_failed(PARSE("\x80\2" TENSOR("\13", "K\0", "K\40K\5\x86", "K\0K\1\x86") ".", &p), GRACE_ERR_FORMAT, "more elements than it");
    assert_failed(PARSE("\x80\2" TENSOR("\13", "K\0", "\x8a\10\0\0\0\0\0\0\0\100K\4\x86", "K\0K\0\x86") ".", &p), GRACE_ERR_FORMAT, "reaches outside");
    assert_failed(PARSE("\x80\2" TENSOR("\13", "K\0", "K\2\x85", "K\2K\2\x86") ".", &p), GRACE_ERR_FORMAT, "as many strides as sizes");
    assert_failed(PARSE("\x80\2" TENSOR("\13", "K\0", "J\xff\xff\xff\xff\x85", "K\1\x85") ".", &p), GRACE_ERR_FORMAT, "sizes and strides of 0 or more");
}

static void nothing_is_ever_run(void **state) {
    (void)state;
    gr_pickle p = {0};
    assert_failed(PARSE("\x80\2cos\nsystem\nX\7\0\0\0echo hi\x85R.", &p), GRACE_ERR_UNSUPPORTED, "asks for os.system, which no recording needs");
    assert_failed(PARSE("\x80\2cposix\nsystem\n.", &p), GRACE_ERR_UNSUPPORTED, "posix.system");
    assert_failed(PARSE("\x80\2ctorch\nload\n.", &p), GRACE_ERR_UNSUPPORTED, "torch.load");
    assert_failed(PARSE("\x80\2(i__builtin__\neval\n.", &p), GRACE_ERR_UNSUPPORTED, "opcode 0x69");
    assert_failed(PARSE("\x80\2ccollections\nOrderedDict\n)\x81.", &p), GRACE_ERR_UNSUPPORTED, "opcode 0x81");
    assert_failed(PARSE("\x80\2ccollections\nOrderedDict\n)R}b.", &p), GRACE_ERR_UNSUPPORTED, "opcode 0x62");
    assert_failed(PARSE("\x80\4N.", &p), GRACE_ERR_UNSUPPORTED, "pickle protocol 4, expected 2");
}

#define BAD(text, part) {text, sizeof(text) - 1, part}
static void damage_is_named(void **state) {
    (void)state;
    static const struct { const char *text; size_t n; const char *part; } cases[] = {
        BAD("", "cut short"), BAD("\x80", "cut short"), BAD("\x80\2N", "cut short"), BAD("\x80\2.", "empty stack"), BAD("\x80\2NN.", "values left over"),
        BAD("\x80\2(N.", "values left over"), BAD("\x80\2t.", "a mark it never set"), BAD("\x80\2K\1(\x85.", "empty stack"),
        BAD("\x80\2K\1K\2a.", "expected a list to add to"),
        BAD("\x80\2](K\1a.", "expected a list to add to"), BAD("\x80\2}(K\1u.", "a key without a value"), BAD("\x80\2]K\1K\1s.", "expected a dict"),
        BAD("\x80\2h\0.", "a memo it never made"), BAD("\x80\2Nq\1.", "not numbered in turn"), BAD("\x80\2q\0.", "not numbered in turn"),
        BAD("\x80\2Nr\xff\xff\xff\xff.", "not numbered in turn"), BAD("\x80\2X\xff\xff\xff\xffhi.", "cut short"),
        BAD("\x80\2ctorch\nIntStorage", "cut short"),
        BAD("\x80\2K\1)R.", "a known function"), BAD("\x80\2ctorch\nIntStorage\n)R.", "only an empty OrderedDict"),
        BAD("\x80\2NQ.", "expected ('storage'"),
        BAD("\x80\2(X\7\0\0\0storageccollections\nOrderedDict\nX\1\0\0\0000X\3\0\0\0cpuK\1tQ.", "expected ('storage'"),
        BAD("\x80\2\x8a\11000000000.", "more than 64 bits"),
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        gr_pickle p = {0};
        assert_failed(gr_pickle_parse("p", cases[i].text, cases[i].n, &p), GRACE_ERR_FORMAT, cases[i].part);
        assert_null(p.lists);
    }
}

/* A hundred thousand lists in lists: a reader that followed them by recursion would not come back. */
static void depth_costs_no_stack(void **state) {
    (void)state;
    enum { DEPTH = 100000 };
    static char text[2 + 2 * DEPTH + 1] = "\x80\2";
    gr_pickle p = {0};
    memset(text + 2, ']', DEPTH);
    memset(text + 2 + DEPTH, 'a', DEPTH - 1);
    text[2 + 2 * DEPTH - 1] = '.';
    assert_ok(gr_pickle_parse("p", text, 2 + 2 * DEPTH, &p));
    assert_int_equal(p.n_lists, DEPTH);
    gr_pickle_free(&p);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(scalars_come_out_as_they_went_in),
        cmocka_unit_test(dicts_and_lists_are_filled_and_remembered),
        cmocka_unit_test(a_list_may_hold_itself),
        cmocka_unit_test(tensors_are_described_and_checked),
        cmocka_unit_test(nothing_is_ever_run),
        cmocka_unit_test(damage_is_named),
        cmocka_unit_test(depth_costs_no_stack),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
