#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include <zstd.h>

#include "plan/test_trace_support.h"
#include "plan/trace_format.h"

/* A file built by hand, block by block, with right checksums around whatever it says. */
typedef struct forge { unsigned char bytes[1 << 16]; size_t n; uint64_t chain; } forge;

static const char good_header[] =
    "{\"model\":\"m\",\"fingerprint\":\"00000000000000ff\",\"layers\":2,\"experts\":8,\"top_k\":2,\"ranks\":4,\"nodes\":2,\"domains\":[\"d\"],\"vocab\":0,"
    "\"weights\":\"none\"}";

static void forge_header(forge *f, const char *json) {
    size_t n = strlen(json);
    memcpy(f->bytes, GR_TRACE_MAGIC, 8);
    gr_put_u32(f->bytes + 8, GR_TRACE_VERSION);
    gr_put_u32(f->bytes + 12, (uint32_t)n);
    memcpy(f->bytes + 24, json, n);
    f->chain = gr_trace_header_check(f->bytes, json, n);
    gr_put_u64(f->bytes + 16, f->chain);
    f->n = 24 + n;
}

/* claimed: the size before compression that the block's header tells. */
static void forge_claim(forge *f, char type, const void *raw, size_t n_raw, uint32_t claimed, uint32_t n_items) {
    unsigned char *p = f->bytes + f->n;
    size_t n = ZSTD_compress(p + GR_TRACE_BLOCK_BYTES, sizeof f->bytes - f->n - GR_TRACE_BLOCK_BYTES, raw, n_raw, 1);
    assert_false(ZSTD_isError(n));
    gr_trace_block b = {.type = type, .raw_bytes = claimed, .stored_bytes = (uint32_t)n, .n_items = n_items};
    gr_trace_put_block(p, &b, f->chain);
    f->chain = b.header_check;
    f->n += GR_TRACE_BLOCK_BYTES + n;
}

static void forge_block(forge *f, char type, const void *raw, size_t n_raw, uint32_t n_items) {
    forge_claim(f, type, raw, n_raw, (uint32_t)n_raw, n_items);
}

static void forge_sequence(forge *f, int32_t home, int32_t domain) {
    unsigned char raw[12];
    gr_put_u32(raw, 5);
    gr_put_u32(raw + 4, (uint32_t)home);
    gr_put_u32(raw + 8, (uint32_t)domain);
    forge_block(f, 'S', raw, sizeof raw, 1);
}

/* One segment of one token with these four ids; the segment may lie. */
static void forge_token(forge *f, grace_trace_segment seg, const char ids[4]) {
    unsigned char raw[24];
    gr_put_u32(raw, (uint32_t)seg.sequence);
    gr_put_u32(raw + 4, (uint32_t)seg.position);
    gr_put_u32(raw + 8, (uint32_t)seg.n_tokens);
    gr_put_u32(raw + 12, (uint32_t)seg.step);
    gr_put_u32(raw + 16, (uint32_t)seg.phase);
    memcpy(raw + 20, ids, 4);
    forge_block(f, 'T', raw, sizeof raw, 1);
}

static void forge_end(forge *f, uint64_t n_tokens, uint64_t n_sequences) {
    unsigned char raw[16];
    gr_put_u64(raw, n_tokens);
    gr_put_u64(raw + 8, n_sequences);
    forge_block(f, 'E', raw, sizeof raw, 0);
}

static void expect_status(const forge *f, grace_status expected, const char *part) {
    grace_trace *t = NULL;
    bool truncated = false;
    grace_status st = gr_trace_parse("forged", f->bytes, f->n, &t, &truncated);
    if (st != expected) fail_msg("expected '%s' with %s, found status %d: %s", part, grace_status_name(expected), st, grace_last_error());
    if (st && !strstr(grace_last_error(), part)) fail_msg("'%s' is not in '%s'", part, grace_last_error());
    grace_trace_close(t);
}

static forge *forge_start(void) {
    static forge f;
    memset(&f, 0, sizeof f);
    forge_header(&f, good_header);
    forge_sequence(&f, 3, 0);
    return &f;
}

static void a_forged_file_that_is_right_is_read(void **state) {
    (void)state;
    forge *f = forge_start();
    forge_token(f, (grace_trace_segment){0, 4, 1, 9, GRACE_PHASE_UNKNOWN}, "\0\1\7\3");
    forge_end(f, 1, 1);
    grace_trace *t = NULL;
    bool truncated = true;
    assert_int_equal(gr_trace_parse("forged", f->bytes, f->n, &t, &truncated), GRACE_OK);
    assert_false(truncated);
    assert_int_equal(grace_trace_describe(t)->fingerprint, 255);
    assert_string_equal(grace_trace_domain(t, 0), "d");
    assert_int_equal(grace_trace_sequence_at(t, 0).home, 3);
    assert_int_equal(grace_trace_segment_at(t, 0).position, 4);
    assert_int_equal(grace_trace_experts(t)[2], 7);
    grace_trace_close(t);
}

static void tokens_that_lie_are_refused_by_name(void **state) {
    (void)state;
    static const struct { grace_trace_segment seg; const char *ids, *part; } cases[] = {
        {{0, 0, 1, 0, GRACE_PHASE_UNKNOWN}, "\0\1\3\3", "token 0, layer 1: expert 3 is chosen twice"},
        {{0, 0, 1, 0, GRACE_PHASE_UNKNOWN}, "\0\10\3\4", "token 0, layer 0: expected experts 0 to 7, found 8"},
        {{1, 0, 1, 0, GRACE_PHASE_UNKNOWN}, "\0\1\2\3", "segment 0 refers to sequence 1, the trace has 1 so far"},
        {{-1, 0, 1, 0, GRACE_PHASE_UNKNOWN}, "\0\1\2\3", "segment 0 refers to sequence -1"},
        {{0, -1, 1, 0, GRACE_PHASE_UNKNOWN}, "\0\1\2\3", "position -1"},
        {{0, INT32_MAX, 1, 0, GRACE_PHASE_UNKNOWN}, "\0\1\2\3", "position 2147483647"},
        {{0, 0, 2, 0, GRACE_PHASE_UNKNOWN}, "\0\1\2\3", "the segments have 2 tokens of 4 bytes, the tokens take 4"},
        {{0, 0, INT32_MAX, 0, GRACE_PHASE_UNKNOWN}, "\0\1\2\3", "the segments have 2147483647 tokens"},
        {{0, 0, 0, 0, GRACE_PHASE_UNKNOWN}, "\0\1\2\3", "expected at least 1 token, found 0"},
        {{0, 0, 1, 0, (grace_phase)3}, "\0\1\2\3", "segment 0: expected phase 0 to 2, found 3"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        forge *f = forge_start();
        forge_token(f, cases[i].seg, cases[i].ids);
        expect_status(f, GRACE_ERR_FORMAT, cases[i].part);
    }
}

static void steps_that_go_back_are_refused(void **state) {
    (void)state;
    forge *f = forge_start();
    forge_token(f, (grace_trace_segment){0, 0, 1, 7, GRACE_PHASE_UNKNOWN}, "\0\1\2\3");
    forge_token(f, (grace_trace_segment){0, 1, 1, 6, GRACE_PHASE_UNKNOWN}, "\0\1\2\3");
    expect_status(f, GRACE_ERR_FORMAT, "segment 1: steps ascend: expected 7 or later, found 6");
}

static void blocks_that_lie_are_refused(void **state) {
    (void)state;
    static const unsigned char zeros[40];
    forge *f = forge_start();
    forge_block(f, 'X', zeros, 12, 1);
    expect_status(f, GRACE_ERR_FORMAT, "unknown type 88");
    f = forge_start();
    forge_block(f, 'S', zeros, 12, 2);
    expect_status(f, GRACE_ERR_FORMAT, "2 sequences take 24 bytes, found 12");
    f = forge_start();
    forge_block(f, 'T', zeros, 12, 1);
    expect_status(f, GRACE_ERR_FORMAT, "1 segments take 20 bytes, the block has 12");
    f = forge_start();
    forge_claim(f, 'T', zeros, 20, 64 << 20, 1);
    expect_status(f, GRACE_ERR_FORMAT, "does not hold 67108864 bytes");
    f = forge_start();
    forge_claim(f, 'T', zeros, 20, (64 << 20) + 1, 1);
    expect_status(f, GRACE_ERR_FORMAT, "claims 67108865 bytes, at most 67108864 are allowed");
    f = forge_start();
    forge_end(f, 1, 1);
    expect_status(f, GRACE_ERR_FORMAT, "counts 1 tokens of 1 sequences, found 0 of 1");
    f = forge_start();
    forge_block(f, 'E', zeros, 12, 0);
    expect_status(f, GRACE_ERR_FORMAT, "the end mark has 12 bytes");
    f = forge_start();
    forge_end(f, 0, 1);
    f->bytes[f->n++] = 0;
    expect_status(f, GRACE_ERR_FORMAT, "1 bytes after the end mark");
    f = forge_start();
    forge_sequence(f, 4, 0);
    expect_status(f, GRACE_ERR_FORMAT, "expected rank 0 to 3, found 4");
    f = forge_start();
    forge_sequence(f, 0, 1);
    expect_status(f, GRACE_ERR_FORMAT, "domain: expected -1 to 0, found 1");
}

/* One token with its id and four weights, as bytes. */
static forge *forge_dressed(const char *keys, const void *bytes, size_t n) {
    static forge f;
    char header[512];
    unsigned char raw[64] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 7, 3};
    memset(&f, 0, sizeof f);
    snprintf(header, sizeof header, "%.*s,%s}", (int)(strstr(good_header, ",\"vocab\"") - good_header), good_header, keys);
    forge_header(&f, header);
    forge_sequence(&f, 3, 0);
    memcpy(raw + 24, bytes, n);
    forge_block(&f, 'T', raw, 24 + n, 1);
    return &f;
}

static void ids_and_weights_that_lie_are_refused(void **state) {
    (void)state;
    static const struct { const char *keys, *bytes; size_t n; const char *part; } cases[] = {
        {"\"vocab\":300,\"weights\":\"none\"", "\x2c\x01", 2, "token 0: expected an id from 0 to 299, found 300"},
        {"\"vocab\":70000,\"weights\":\"none\"", "\0\0\0\x80", 4, "expected an id from 0 to 69999, found -2147483648"},
        {"\"vocab\":300,\"weights\":\"none\"", "\0", 1, "the segments have 1 tokens of 6 bytes, the tokens take 5"},
        {"\"vocab\":0,\"weights\":\"u8\"", "abc", 3, "the segments have 1 tokens of 8 bytes, the tokens take 7"},
        {"\"vocab\":0,\"weights\":\"f16\"", "\0\0\0\0\0\x7c\0\0", 8, "token 0, layer 1: expected a weight from -65504 to 65504, found inf"},
        {"\"vocab\":-1,\"weights\":\"none\"", "", 0, "'vocab': expected 0 to"},
        {"\"weights\":\"none\"", "", 0, "'vocab': expected an integer, found nothing"},
        {"\"vocab\":0", "", 0, "'weights': expected a string, found nothing"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect_status(forge_dressed(cases[i].keys, cases[i].bytes, cases[i].n), GRACE_ERR_FORMAT, cases[i].part);
    expect_status(forge_dressed("\"vocab\":0,\"weights\":\"f8\"", "", 0), GRACE_ERR_UNSUPPORTED, "expected none, u8 or f16, found 'f8'");
    forge *f = forge_dressed("\"vocab\":300,\"weights\":\"u8\",\"synthetic\":true", "\x2b\x01\xff\0\x33\1", 6);
    forge_end(f, 1, 1);
    grace_trace *t = NULL;
    bool truncated = true;
    assert_int_equal(gr_trace_parse("forged", f->bytes, f->n, &t, &truncated), GRACE_OK);
    assert_int_equal(grace_trace_token_ids(t)[0], 299);
    assert_true(grace_trace_gate_weights(t)[0] == 1 && grace_trace_gate_weights(t)[2] == 0.2f && grace_trace_describe(t)->synthetic);
    assert_int_equal(grace_trace_segment_at(t, 0).phase, GRACE_PHASE_DECODE);
    grace_trace_close(t);
}

static void headers_that_lie_are_refused(void **state) {
    (void)state;
#define HEADER(finger, layers, experts, k, ranks, nodes, domains)                                                                 \
    "{\"model\":\"m\",\"fingerprint\":" finger ",\"layers\":" layers ",\"experts\":" experts ",\"top_k\":" k ",\"ranks\":" ranks    \
    ",\"nodes\":" nodes ",\"domains\":" domains ",\"vocab\":0,\"weights\":\"none\"}"
#define F "\"0000000000000000\""
    static const struct { const char *json, *part; } cases[] = {
        {HEADER("\"12\"", "2", "8", "2", "4", "2", "[]"), "expected 16 hex digits, found '12'"},
        {HEADER("\"-000000000000001\"", "2", "8", "2", "4", "2", "[]"), "expected 16 hex digits"},
        {HEADER(F, "0", "8", "2", "4", "2", "[]"), "'layers': expected 1 to 1024, found 0"},
        {HEADER(F, "2", "1e3", "2", "4", "2", "[]"), "'experts': expected an integer"},
        {HEADER(F, "2", "65537", "2", "4", "2", "[]"), "'experts': expected 1 to 65536"},
        {HEADER(F, "2", "8", "9", "4", "2", "[]"), "expected 1 to 8 experts a token (top_k), found 9"},
        {HEADER(F, "2", "8", "2", "4", "5", "[]"), "expected 1 to 4 nodes"},
        {HEADER(F, "2", "8", "2", "4", "2", "{}"), "'domains': expected an array, found an object"},
        {HEADER(F, "2", "8", "2", "4", "2", "[\"a\",3]"), "entry 1: expected a string, found an integer"},
        {"[1]", "'model': expected a string, found nothing"},
        {"{", "no valid JSON"},
        {"", "no valid JSON"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        static forge f;
        forge_header(&f, cases[i].json);
        expect_status(&f, GRACE_ERR_FORMAT, cases[i].part);
    }
    forge *f = forge_start();
    f->bytes[8] = 3;
    expect_status(f, GRACE_ERR_UNSUPPORTED, "expected version 1 to 2, found 3");
    f = forge_start();
    f->bytes[0] = 'X';
    expect_status(f, GRACE_ERR_FORMAT, "is not a trace file");
    f = forge_start();
    gr_put_u32(f->bytes + 12, 0xFFFFFFFF);
    expect_status(f, GRACE_ERR_FORMAT, "the header claims 4294967295 bytes");
}

/* Several blocks of a real recording, appended by hand so that the file stays small enough to cut everywhere. */
static world *small_world(void) { return world_random(77, 2, 8, 2, 5, 40); }

static void forge_world(forge *f, const world *w) {
    forge_header(f, "{\"model\":\"tiny w\xc3\xb6rld\",\"fingerprint\":\"0000000000000000\",\"layers\":2,\"experts\":8,\"top_k\":2,\"ranks\":4,"
                    "\"nodes\":2,\"domains\":[\"prose\",\"math \\\"quoted\\\"\",\"code\"],\"vocab\":0,\"weights\":\"none\"}");
    for (int32_t s = 0; s < w->n_sequences; s++) {
        unsigned char raw[12];
        gr_put_u32(raw, (uint32_t)w->sequences[s].id);
        gr_put_u32(raw + 4, (uint32_t)w->sequences[s].home);
        gr_put_u32(raw + 8, (uint32_t)w->sequences[s].domain);
        forge_block(f, 'S', raw, sizeof raw, 1);
    }
    for (int32_t t = 0; t < w->n_tokens; t++) {
        const uint16_t *ids = w->experts + 4 * t;
        char bytes[4] = {(char)ids[0], (char)ids[1], (char)ids[2], (char)ids[3]};
        forge_token(f, (grace_trace_segment){w->sequence_of_token[t], w->position_of_token[t], 1, w->step_of_token[t], w->phase_of_token[t]}, bytes);
    }
    forge_end(f, (uint64_t)w->n_tokens, (uint64_t)w->n_sequences);
}

static void a_file_cut_anywhere_gives_a_prefix_or_an_error(void **state) {
    (void)state;
    static forge f;
    world *w = small_world();
    w->info.fingerprint = 0;
    forge_world(&f, w);
    guard g = guard_new(f.n);
    int64_t last = -1, n_prefixes = 0;
    for (size_t n = 0; n < f.n; n++) {
        grace_trace *t = NULL;
        bool truncated = false;
        grace_status st = gr_trace_parse("cut", guard_copy(&g, f.bytes, n), n, &t, &truncated);
        if (st) {
            assert_int_equal(st, GRACE_ERR_FORMAT);
            assert_int_equal(last, -1);             /* only while the header is not whole */
            continue;
        }
        assert_true(truncated);
        assert_prefix_of_world(t, w);
        assert_true(grace_trace_n_tokens(t) >= last);
        n_prefixes += grace_trace_n_tokens(t) > last;
        last = grace_trace_n_tokens(t);
        grace_trace_close(t);
    }
    assert_int_equal(last, w->n_tokens);
    assert_int_equal(n_prefixes, w->n_tokens + 1);      /* every block boundary was seen */
    guard_free(&g);
    world_free(w);
}

static void every_flipped_bit_is_noticed(void **state) {
    (void)state;
    char *folder = scratch_new();
    world *w = small_world();
    size_t n = 0;
    assert_int_equal(world_save(w, in(folder, "flip")), GRACE_OK);
    unsigned char *bytes = read_bytes(in(folder, "flip"), &n);
    guard g = guard_new(n);
    for (size_t bit = 0; bit < 8 * n; bit++) {
        grace_trace *t = NULL;
        bool truncated = false;
        bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
        grace_status st = gr_trace_parse("flipped", guard_copy(&g, bytes, n), n, &t, &truncated);
        if (st != GRACE_ERR_FORMAT && st != GRACE_ERR_UNSUPPORTED) fail_msg("bit %zu of byte %zu: status %d", bit % 8, bit / 8, st);
        bytes[bit / 8] ^= (unsigned char)(1 << bit % 8);
    }
    guard_free(&g);
    free(bytes);
    world_free(w);
    scratch_free(folder);
}

static void a_block_out_of_place_is_noticed(void **state) {
    (void)state;
    forge *f = forge_start();
    size_t first = f->n;
    forge_token(f, (grace_trace_segment){0, 0, 1, 0, GRACE_PHASE_UNKNOWN}, "\0\1\2\3");
    size_t second = f->n;
    forge_token(f, (grace_trace_segment){0, 1, 1, 0, GRACE_PHASE_UNKNOWN}, "\4\5\6\7");
    memmove(f->bytes + first, f->bytes + second, f->n - second);    /* the first token's block is gone */
    f->n -= second - first;
    expect_status(f, GRACE_ERR_FORMAT, "does not match its checksum");
}

/* Replays the fuzz corpus; two_sequences.trace was written by version 1 and must stay readable for ever. */
static void the_corpus_is_read_without_harm(void **state) {
    (void)state;
    const char *folder = GRACE_SOURCE_DIR "/tests/fuzz/corpus/trace";
    int n_files = 0;
    DIR *dir = opendir(folder);
    assert_non_null(dir);
    for (struct dirent *e; (e = readdir(dir));) {
        size_t n = 0;
        if (e->d_name[0] == '.') continue;
        unsigned char *bytes = read_bytes(in(folder, e->d_name), &n);
        guard g = guard_new(n);
        grace_trace *t = NULL;
        bool truncated = false;
        gr_trace_parse(e->d_name, guard_copy(&g, bytes, n), n, &t, &truncated);
        grace_trace_close(t);
        guard_free(&g);
        free(bytes);
        n_files++;
    }
    closedir(dir);
    assert_true(n_files >= 5);
}

static void a_file_of_version_1_stays_readable(void **state) {
    (void)state;
    static const uint16_t experts[] = {0, 1, 7, 3, 5, 4, 2, 6, 6, 0, 1, 2};
    grace_trace *t = NULL;
    bool truncated = true;
    assert_int_equal(grace_trace_open(GRACE_SOURCE_DIR "/tests/fuzz/corpus/trace/two_sequences.trace", &t, &truncated), GRACE_OK);
    assert_false(truncated);
    assert_string_equal(grace_trace_describe(t)->model, "tiny");
    assert_true(grace_trace_describe(t)->fingerprint == 0x0123456789ABCDEFu);
    assert_true(!grace_trace_token_ids(t) && !grace_trace_gate_weights(t) && !grace_trace_describe(t)->synthetic);
    assert_int_equal(grace_trace_segment_at(t, 0).phase, GRACE_PHASE_UNKNOWN);
    assert_int_equal(grace_trace_n_domains(t), 2);
    assert_string_equal(grace_trace_domain(t, 1), "code");
    assert_int_equal(grace_trace_n_sequences(t), 2);
    assert_int_equal(grace_trace_sequence_at(t, 1).id, 11);
    assert_int_equal(grace_trace_sequence_at(t, 1).home, 3);
    assert_int_equal(grace_trace_sequence_at(t, 1).domain, 1);
    assert_int_equal(grace_trace_n_segments(t), 2);
    assert_int_equal(grace_trace_segment_at(t, 0).n_tokens, 2);
    assert_int_equal(grace_trace_segment_at(t, 1).sequence, 1);
    assert_int_equal(grace_trace_segment_at(t, 1).position, 5);
    assert_int_equal(grace_trace_segment_at(t, 1).step, 1);
    assert_memory_equal(grace_trace_experts(t), experts, sizeof experts);
    grace_trace_close(t);
}

static void a_missing_file_is_an_io_error(void **state) {
    (void)state;
    grace_trace *t = NULL;
    assert_int_equal(grace_trace_open(GRACE_BINARY_DIR "/no-such-trace", &t, NULL), GRACE_ERR_IO);
    assert_int_equal(grace_trace_open("/dev/null", &t, NULL), GRACE_ERR_IO);
    assert_null(t);
    grace_trace_close(NULL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_forged_file_that_is_right_is_read),
        cmocka_unit_test(tokens_that_lie_are_refused_by_name),
        cmocka_unit_test(steps_that_go_back_are_refused),
        cmocka_unit_test(blocks_that_lie_are_refused),
        cmocka_unit_test(ids_and_weights_that_lie_are_refused),
        cmocka_unit_test(headers_that_lie_are_refused),
        cmocka_unit_test(a_file_cut_anywhere_gives_a_prefix_or_an_error),
        cmocka_unit_test(every_flipped_bit_is_noticed),
        cmocka_unit_test(a_block_out_of_place_is_noticed),
        cmocka_unit_test(the_corpus_is_read_without_harm),
        cmocka_unit_test(a_file_of_version_1_stays_readable),
        cmocka_unit_test(a_missing_file_is_an_io_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
