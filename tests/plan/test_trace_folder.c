#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "plan/test_trace_support.h"

static void put(const char *folder, const char *name, const void *bytes, size_t n) {
    assert_int_equal(gr_file_replace(in(folder, name), bytes, n), GRACE_OK);
}

static void put_text(const char *folder, const char *name, const char *text) { put(folder, name, text, strlen(text)); }

/* Two layers, 8 experts, top-2: each token takes four ids. 6 tokens. */
static const char ids[24] = {0, 1, 7, 3, 5, 4, 2, 6, 6, 0, 1, 2, 0, 7, 3, 4, 1, 0, 3, 7, 2, 3, 6, 5};
#define META(more) "{\"layers\":2,\"experts\":8,\"top_k\":2,\"tokens\":6" more "}"

static grace_trace *open_folder(const char *folder) {
    grace_trace *t = NULL;
    bool truncated = true;
    grace_status st = grace_trace_open(folder, &t, &truncated);
    if (st) fail_msg("%s", grace_last_error());
    assert_false(truncated);
    assert_int_equal(grace_trace_n_tokens(t), 6);
    for (int i = 0; i < 24; i++) assert_int_equal(grace_trace_experts(t)[i], ids[i]);
    return t;
}

static grace_trace *open_meta(const char *folder, const char *meta) {
    put(folder, "topk.u8", ids, sizeof ids);
    put_text(folder, "meta.json", meta);
    return open_folder(folder);
}

/* Sequences as "tokens:domain tokens:domain"; every segment starts its sequence, at position 0 and step 0. */
static void assert_sequences(grace_trace *t, const char *expected) {
    char found[256] = "";
    assert_int_equal(grace_trace_n_segments(t), grace_trace_n_sequences(t));
    for (int32_t s = 0; s < grace_trace_n_sequences(t); s++) {
        grace_trace_segment seg = grace_trace_segment_at(t, s);
        grace_trace_sequence seq = grace_trace_sequence_at(t, s);
        assert_true(seg.sequence == s && seg.position == 0 && seg.step == 0 && seq.id == s && seq.home == 0);
        snprintf(found + strlen(found), sizeof found - strlen(found), "%s%d:%s", s ? " " : "", seg.n_tokens,
                 seq.domain < 0 ? "-" : grace_trace_domain(t, seq.domain));
    }
    assert_string_equal(found, expected);
    grace_trace_close(t);
}

static void sequences_come_from_the_best_source_there_is(void **state) {
    (void)state;
    char *folder = scratch_new();
    assert_sequences(open_meta(folder, META("")), "6:-");
    assert_sequences(open_meta(folder, META(",\"domain\":\"math\"")), "6:math");
    assert_sequences(open_meta(folder, META(",\"sequence_length\":4")), "4:- 2:-");
    assert_sequences(open_meta(folder, META(",\"sequence_length\":3")), "3:- 3:-");
#define SEGMENTS ",\"segments\":[{\"domain\":\"a\",\"start\":0,\"tokens\":3},{\"domain\":\"b\",\"start\":3,\"tokens\":2},{\"start\":5,\"tokens\":1}]"
    assert_sequences(open_meta(folder, META(SEGMENTS)), "3:a 2:b 1:-");
    assert_sequences(open_meta(folder, META(SEGMENTS ",\"sequence_length\":2")), "2:a 1:a 2:b 1:-");
    put_text(folder, "seqs.csv", "seq,start,tokens,domain,other\n0,0,1,law,x\r\n1,1,2,tax,\n2,3,2,law,y\n3,5,1,,z");
    assert_sequences(open_meta(folder, META(SEGMENTS)), "1:law 2:tax 2:law 1:-");
    put_text(folder, "seqs.csv", "tokens,start\n6,0\n");
    assert_sequences(open_meta(folder, META("")), "6:-");
    scratch_free(folder);
}

static void two_byte_ids_and_long_names_are_read(void **state) {
    (void)state;
    char *folder = scratch_new(), wide[48] = {0};
    for (int i = 0; i < 24; i++) wide[2 * i] = ids[i];
    put(folder, "topk.u16", wide, sizeof wide);
    put_text(folder, "meta.json", "{\"layers\":2,\"experts\":300,\"top_k\":2,\"tokens\":6,"
                                  "\"model\":\"0123456789012345678901234567890123456789012345678901234567890\xe2\x82\xac\"}");
    grace_trace *t = open_folder(folder);
    assert_int_equal(strlen(grace_trace_describe(t)->model), 61);       /* the euro sign would end at byte 64 */
    assert_true(grace_trace_describe(t)->n_ranks == 1 && grace_trace_describe(t)->n_nodes == 1 && grace_trace_describe(t)->fingerprint == 0);
    grace_trace_close(t);
    wide[1] = 2;                                                        /* 512 */
    put(folder, "topk.u16", wide, sizeof wide);
    assert_int_equal(grace_trace_open(folder, &t, NULL), GRACE_ERR_FORMAT);
    assert_non_null(strstr(grace_last_error(), "token 0, layer 0: expected experts 0 to 299, found 512"));
    scratch_free(folder);
}

static void token_ids_and_phase_are_read_where_they_are_told(void **state) {
    (void)state;
    char *folder = scratch_new();
    static const unsigned char two[12] = {9, 0, 1, 1, 2, 0, 3, 0, 4, 0, 5, 0}, four[24] = {9, 0, 0, 1, 8};
    grace_trace *t = open_meta(folder, META(",\"phase\":\"prefill (teacher-forced)\""));
    assert_null(grace_trace_token_ids(t));
    assert_int_equal(grace_trace_segment_at(t, 0).phase, GRACE_PHASE_PREFILL);
    grace_trace_close(t);
    put(folder, "tokens.u16", two, sizeof two);
    t = open_meta(folder, META(",\"phase\":\"decode\",\"vocab\":258"));
    assert_int_equal(grace_trace_segment_at(t, 0).phase, GRACE_PHASE_DECODE);
    assert_int_equal(grace_trace_describe(t)->vocab, 258);
    assert_true(grace_trace_token_ids(t)[0] == 9 && grace_trace_token_ids(t)[1] == 257 && grace_trace_token_ids(t)[5] == 5);
    grace_trace_close(t);
    t = open_meta(folder, META(",\"phase\":\"both\""));
    assert_int_equal(grace_trace_describe(t)->vocab, 65536);
    assert_int_equal(grace_trace_segment_at(t, 0).phase, GRACE_PHASE_UNKNOWN);
    grace_trace_close(t);
    unlink(in(folder, "tokens.u16"));
    put(folder, "tokens.u32", four, sizeof four);
    t = open_meta(folder, META(""));
    assert_true(grace_trace_token_ids(t)[0] == 9 + (1 << 24) && grace_trace_token_ids(t)[1] == 8);
    grace_trace_close(t);
    scratch_free(folder);
}

static void expect_error(const char *folder, grace_status expected, const char *part) {
    grace_trace *t = NULL;
    assert_int_equal(grace_trace_open(folder, &t, NULL), expected);
    assert_null(t);
    if (!strstr(grace_last_error(), part)) fail_msg("'%s' is not in '%s'", part, grace_last_error());
}

static void bad_meta_is_refused(void **state) {
    (void)state;
    static const struct { const char *meta, *part; } cases[] = {
        {"{\"layers\":2,\"experts\":8,\"top_k\":2,\"tokens\":7}", "7 tokens of 4 byte(s) take 28 bytes, the file has 24"},
        {"{\"layers\":2,\"experts\":8,\"top_k\":2,\"tokens\":-1}", "'tokens': expected 0 to"},
        {"{\"layers\":2,\"experts\":8,\"top_k\":2,\"tokens\":4294967295}", "take 17179869180 bytes, the file has 24"},
        {"{\"layers\":2,\"experts\":7,\"top_k\":2,\"tokens\":6}", "token 0, layer 1: expected experts 0 to 6, found 7"},
        {"{\"layers\":2,\"experts\":257,\"top_k\":2,\"tokens\":6}", "one byte an id, but meta.json says 257 experts"},
        {"{\"layers\":1,\"experts\":8,\"top_k\":4,\"tokens\":\"6\"}", "'tokens': expected an integer, found a string"},
        {"[]", "'layers': expected an integer, found nothing"},
        {META(",\"sequence_length\":0"), "'sequence_length': expected 1 to"},
        {META(",\"segments\":{}"), "'segments': expected an array"},
        {META(",\"segments\":[]"), "the sequences cover 0 tokens, meta.json says 6"},
        {META(",\"segments\":[5]"), "'start': expected an integer"},
        {META(",\"segments\":[{\"start\":0,\"tokens\":5}]"), "the sequences cover 5 tokens, meta.json says 6"},
        {META(",\"segments\":[{\"start\":1,\"tokens\":5}]"), "segment 0: expected start 0, found 1"},
        {META(",\"segments\":[{\"start\":0,\"tokens\":4},{\"start\":4,\"tokens\":3}]"), "segment 1: expected 1 to 2 tokens, found 3"},
    };
    char *folder = scratch_new();
    put(folder, "topk.u8", ids, sizeof ids);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_text(folder, "meta.json", cases[i].meta);
        expect_error(folder, GRACE_ERR_FORMAT, cases[i].part);
    }
    scratch_free(folder);
}

static void bad_tables_are_refused(void **state) {
    (void)state;
    static const struct { const char *table, *part; } cases[] = {
        {"", "expected a column 'start' in the first line"},
        {"seq,begin,tokens\n", "expected a column 'start' in the first line"},
        {"start,tokens\n", "seqs.csv: the sequences cover 0 tokens, meta.json says 6"},
        {"start,tokens\n0,6,1\n", "line 2: expected 2 columns, found 3"},
        {"start,tokens\n0,6\n\n", "line 3: expected 2 columns, found 1"},
        {"start,tokens\n0,3\n4,2\n", "line 3: expected start 3, found 4"},
        {"start,tokens\n0,7\n", "line 2: expected 1 to 6 tokens, found 7"},
        {"start,tokens\n0,0\n", "line 2: expected 1 to 6 tokens, found 0"},
        {"start,tokens\n0,-6\n", "line 2: expected a number of 0 or more, found '-6'"},
        {"start,tokens\n0,6x\n", "expected a number of 0 or more, found '6x'"},
        {"start,tokens\n0,99999999999999999999\n", "tokens: expected a whole number up to 4294967295, found 1e+20"},
        {"start,tokens,domain\n0,6,\"a\"\n", "line 2: quoted or binary fields are not supported"},
        {"start,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,,\n", "line 1: more than 64 columns"},
    };
    char *folder = scratch_new();
    put(folder, "topk.u8", ids, sizeof ids);
    put_text(folder, "meta.json", META(""));
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        put_text(folder, "seqs.csv", cases[i].table);
        expect_error(folder, GRACE_ERR_FORMAT, cases[i].part);
    }
    scratch_free(folder);
}

static void missing_and_ambiguous_files_are_named(void **state) {
    (void)state;
    char *folder = scratch_new();
    expect_error(folder, GRACE_ERR_IO, "expected topk.u8 or topk.u16 in the folder, found neither");
    put(folder, "topk.u8", ids, sizeof ids);
    expect_error(folder, GRACE_ERR_IO, "meta.json: No such file");
    put_text(folder, "meta.json", META(""));
    put(folder, "topk.u16", ids, sizeof ids);
    expect_error(folder, GRACE_ERR_FORMAT, "found both");
    scratch_free(folder);
}

static void bad_token_ids_are_refused(void **state) {
    (void)state;
    static const unsigned char two[12] = {9, 0, 1, 1};
    char *folder = scratch_new();
    put(folder, "topk.u8", ids, sizeof ids);
    put_text(folder, "meta.json", META(",\"vocab\":257"));
    put(folder, "tokens.u16", two, sizeof two);
    expect_error(folder, GRACE_ERR_FORMAT, "token 1: expected an id from 0 to 256, found 257");
    put(folder, "tokens.u16", two, 10);
    expect_error(folder, GRACE_ERR_FORMAT, "tokens.u16: 6 tokens of 2 byte(s) take 12 bytes, the file has 10");
    put(folder, "tokens.u32", two, sizeof two);
    expect_error(folder, GRACE_ERR_FORMAT, "expected tokens.u16 or tokens.u32 in the folder, found both");
    scratch_free(folder);
}

/* Real routing of other models, where someone put it beside the repository. */
static void real_traces_are_read(void **state) {
    (void)state;
    static const char *const folders[] = {GRACE_SOURCE_DIR "/../shared/traces/dsv2lite-esft", GRACE_SOURCE_DIR "/../shared/traces/gptoss20b-decode"};
    for (size_t i = 0; i < 2; i++) {
        grace_trace *t = NULL;
        if (access(folders[i], F_OK) != 0) {
            print_message("skipped: %s is not here\n", folders[i]);
            continue;
        }
        assert_int_equal(grace_trace_open(folders[i], &t, NULL), GRACE_OK);
        print_message("%s: %d tokens, %d sequences, %d domains\n", folders[i], (int)grace_trace_n_tokens(t), grace_trace_n_sequences(t),
                      grace_trace_n_domains(t));
        assert_true(grace_trace_n_sequences(t) > 100 && grace_trace_n_domains(t) >= 4);
        grace_trace_close(t);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sequences_come_from_the_best_source_there_is),
        cmocka_unit_test(two_byte_ids_and_long_names_are_read),
        cmocka_unit_test(token_ids_and_phase_are_read_where_they_are_told),
        cmocka_unit_test(bad_meta_is_refused),
        cmocka_unit_test(bad_token_ids_are_refused),
        cmocka_unit_test(bad_tables_are_refused),
        cmocka_unit_test(missing_and_ambiguous_files_are_named),
        cmocka_unit_test(real_traces_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
