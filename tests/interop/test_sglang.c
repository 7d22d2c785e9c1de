#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "base/file.h"
#include "interop/files.h"
#include "interop/interop.h"
#include "interop/sglang.h"

/* What make_recordings.py put in: pass, position, then the experts of both MoE layers. */
typedef struct expected { int32_t n, pass[16], position[16], experts[16][4]; } expected;

static expected read_expected(void) {
    expected e = {0};
    FILE *fp = fopen(DATA "expected.txt", "r");
    assert_non_null(fp);
    while (fscanf(fp, "%d %d %d %d %d %d", &e.pass[e.n], &e.position[e.n], &e.experts[e.n][0], &e.experts[e.n][1], &e.experts[e.n][2],
                  &e.experts[e.n][3]) == 6)
        e.n++;
    fclose(fp);
    assert_int_equal(e.n, 9);
    return e;
}

static void tokens_come_back_as_logical_experts(void **state) {
    (void)state;
    expected e = read_expected();
    grace_trace *t = NULL;
    assert_ok(gr_sglang_trace_load(DATA "per_token.pt", &t));
    const grace_trace_info *info = grace_trace_describe(t);
    assert_true(info->n_layers == 2 && info->n_experts == 4 && info->top_k == 2 && grace_trace_n_tokens(t) == e.n);
    assert_true(info->layer_ids_known && info->layer_ids[0] == 1 && info->layer_ids[1] == 2);       /* layer 0 is dense */
    const uint16_t *ids = grace_trace_experts(t);
    for (int32_t i = 0; i < e.n; i++)
        for (int k = 0; k < 4; k++) assert_int_equal(ids[4 * i + k], e.experts[i][k]);
    int32_t token = 0;
    for (int32_t s = 0; s < grace_trace_n_segments(t); s++) {
        grace_trace_segment seg = grace_trace_segment_at(t, s);
        for (int32_t i = 0; i < seg.n_tokens; i++, token++) assert_true(seg.step == e.pass[token] && seg.position + i == e.position[token]);
    }
    assert_int_equal(token, e.n);
    grace_trace_close(t);
}

/* Two requests, of 3 and 2 tokens, go on through two decode steps. */
static unsigned char *find(unsigned char *bytes, size_t n, const void *part, size_t part_n) {
    for (size_t i = 0; i + part_n <= n; i++)
        if (memcmp(bytes + i, part, part_n) == 0) return bytes + i;
    fail_msg("part not found");
    return NULL;
}

static void token_ids_and_phases_come_along(void **state) {
    (void)state;
    static const int32_t ids[9] = {11, 12, 13, 21, 22, 14, 23, 15, 24};
    grace_trace *t = NULL;
    assert_ok(gr_sglang_trace_load(DATA "per_token.pt", &t));
    assert_int_equal(grace_trace_describe(t)->vocab, 25);
    assert_memory_equal(grace_trace_token_ids(t), ids, sizeof ids);
    for (int32_t s = 0; s < grace_trace_n_segments(t); s++)
        assert_int_equal(grace_trace_segment_at(t, s).phase, s < 2 ? GRACE_PHASE_PREFILL : GRACE_PHASE_DECODE);
    grace_trace_close(t);
}

/* The key is in the pickle once; later passes refer to it. */
static void recordings_without_token_ids_are_read_too(void **state) {
    (void)state;
    size_t n = 0;
    unsigned char *bytes = read_bytes(DATA "per_token.pt", &n);
    grace_trace *t = NULL;
    memcpy(find(bytes, n, "input_ids", 9), "input_idz", 9);
    assert_ok(gr_sglang_parse_trace("r", bytes, n, &t));
    assert_null(grace_trace_token_ids(t));
    assert_int_equal(grace_trace_n_tokens(t), 9);
    grace_trace_close(t);
    free(bytes);
}

static void requests_are_followed_through_steps(void **state) {
    (void)state;
    static const int32_t sequence[] = {0, 1, 0, 1, 0, 1}, n[] = {3, 2, 1, 1, 1, 1};
    grace_trace *t = NULL;
    assert_ok(gr_sglang_trace_load(DATA "per_token.pt", &t));
    assert_int_equal(grace_trace_n_sequences(t), 2);
    assert_int_equal(grace_trace_n_segments(t), 6);
    for (int32_t s = 0; s < 6; s++) {
        assert_int_equal(grace_trace_segment_at(t, s).sequence, sequence[s]);
        assert_int_equal(grace_trace_segment_at(t, s).n_tokens, n[s]);
    }
    grace_trace_close(t);
}

/* The three modes of recording the same run have the same loads. */
static void loads_are_the_same_in_every_mode(void **state) {
    (void)state;
    static const char *const files[] = {DATA "per_token.pt", DATA "per_pass.pt", DATA "stat.pt"};
    expected e = read_expected();
    double load[8] = {0};
    for (int32_t i = 0; i < e.n; i++)
        for (int k = 0; k < 4; k++) load[k / 2 * 4 + e.experts[i][k]]++;
    for (int f = 0; f < 3; f++) {
        grace_profile *p = NULL;
        assert_ok(gr_sglang_profile_load(files[f], 2, &p));
        assert_true(p->info.n_layers == 2 && p->info.n_experts == 4 && p->info.top_k == 2 && p->n_tokens == 9);
        assert_true(p->info.layer_ids_known && p->info.layer_ids[0] == 1 && p->info.layer_ids[1] == 2);
        for (int i = 0; i < 8; i++) assert_true(p->load[i] == load[i]);
        grace_profile_free(p);
    }
}

static void steps_of_a_strided_tensor_are_summed(void **state) {
    (void)state;
    grace_profile *p = NULL;
    assert_ok(gr_sglang_profile_load(DATA "strided.pt", 0, &p));        /* [2 steps, 2 layers, 4 experts] of 24 j + 6 (i + 1) + k + 2 */
    for (int j = 0; j < 2; j++)
        for (int k = 0; k < 4; k++) assert_true(p->load[4 * j + k] == 48 * j + 18 + 2 * k + 4);
    assert_int_equal(p->info.top_k, 1);
    grace_profile_free(p);
}

static void modes_without_tokens_are_named(void **state) {
    (void)state;
    grace_trace *t = NULL;
    assert_failed(gr_sglang_trace_load(DATA "stat.pt", &t), GRACE_ERR_FORMAT, "a recording in mode stat has loads, not tokens");
    assert_failed(gr_sglang_trace_load(DATA "per_pass.pt", &t), GRACE_ERR_FORMAT, "a recording in mode per_pass has loads, not tokens");
    assert_failed(gr_sglang_trace_load(DATA "expected.txt", &t), GRACE_ERR_FORMAT, "no ZIP file");
    assert_failed(gr_sglang_trace_load(DATA "none.pt", &t), GRACE_ERR_IO, "none.pt: No such file");
    assert_null(t);
}

/* Data files stand at multiples of 64; the first pass's ids are the first: 3 layers x 5 tokens x 8 places. */
static unsigned char *ids_of_first_pass(unsigned char *bytes, size_t n) {
    unsigned char dense[160];
    memset(dense, 0xff, sizeof dense);
    return find(bytes, n, dense, sizeof dense);
}

static void put_id(unsigned char *ids, int layer, int token, int k, int32_t value) { memcpy(ids + 4 * ((layer * 5 + token) * 8 + k), &value, 4); }

static void ids_that_cannot_be_are_refused(void **state) {
    (void)state;
    static const struct { int layer, token, k; int32_t value; const char *part; } cases[] = {
        {1, 3, 0, 6, "pass 0, layer 1: expected physical experts 0 to 5, found 6"},
        {1, 3, 0, -2, "pass 0, layer 1: expected physical experts 0 to 5, found -2"},
        {2, 1, 1, -1, "pass 0, token 1, layer 2: expected 2 experts, found 1"},
        {2, 1, 2, 0, "expected 3 experts, found 2"},
        {0, 4, 0, 1, "layer 0: expected 2 experts, found 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        size_t n = 0;
        unsigned char *bytes = read_bytes(DATA "per_token.pt", &n);
        grace_trace *t = NULL;
        put_id(ids_of_first_pass(bytes, n), cases[i].layer, cases[i].token, cases[i].k, cases[i].value);
        assert_failed(gr_sglang_parse_trace("r", bytes, n, &t), GRACE_ERR_FORMAT, cases[i].part);
        free(bytes);
    }
}

static void two_copies_of_one_expert_in_a_token_are_refused(void **state) {
    (void)state;
    size_t n = 0;
    unsigned char *bytes = read_bytes(DATA "per_token.pt", &n), *ids = ids_of_first_pass(bytes, n);
    grace_trace *t = NULL;
    put_id(ids, 1, 0, 0, 3), put_id(ids, 1, 0, 1, 4);       /* both are expert 0 of layer 1 */
    assert_failed(gr_sglang_parse_trace("r", bytes, n, &t), GRACE_ERR_FORMAT, "layer 0: expert 0 is chosen twice");
    free(bytes);
}

static void passes_that_share_numbers_are_refused(void **state) {
    (void)state;
    size_t n = 0;
    unsigned char *bytes = read_bytes(DATA "per_token.pt", &n);
    gr_recording r = {0};
    gr_tensor t;
    size_t used = 1 << 20;
    assert_ok(gr_recording_open("r", bytes, n, &r));
    assert_failed(gr_recording_tensor(&r, 0, "topk_ids_of_layer", 3, &used, &t), GRACE_ERR_FORMAT, "passes share their numbers");
    gr_recording_close(&r);
    free(bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(tokens_come_back_as_logical_experts),
        cmocka_unit_test(token_ids_and_phases_come_along),
        cmocka_unit_test(recordings_without_token_ids_are_read_too),
        cmocka_unit_test(requests_are_followed_through_steps),
        cmocka_unit_test(loads_are_the_same_in_every_mode),
        cmocka_unit_test(steps_of_a_strided_tensor_are_summed),
        cmocka_unit_test(modes_without_tokens_are_named),
        cmocka_unit_test(ids_that_cannot_be_are_refused),
        cmocka_unit_test(two_copies_of_one_expert_in_a_token_are_refused),
        cmocka_unit_test(passes_that_share_numbers_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
