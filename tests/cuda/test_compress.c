/* Rows packed for wires (compute/cuda/compress.h): the bytes are those of a plain packer written here, and come back bit for bit, whatever the bits are. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <cuda_runtime_api.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/rng.h"
#include "compute/cuda/compress.h"
#include "cuda/device.h"

enum { GUARD = 256, POISON = 0xA5, SEED = 20261125 };

static bool is_small;
static uint64_t *state_of_wires;        /* of all calls of this program, in whatever order */

/* ---- the plain packer ---- */

static size_t on_16(size_t n) { return (n + 15) & ~(size_t)15; }

static int exponent_of(uint16_t x) { return x >> 7 & 0xFF; }

static int count_inside(const uint16_t *row, int32_t hidden, int base, int span) {
    int n = 0;
    for (int32_t i = 0; i < hidden; i++) n += exponent_of(row[i]) >= base && exponent_of(row[i]) < base + span;
    return n;
}

typedef struct coding { int width, base, n_elsewhere; size_t bytes; } coding;

static coding reference_coding(const uint16_t *row, int32_t hidden) {
    coding best = {0, 0, 0, 2 * (size_t)hidden};
    int of_exponent[256] = {0};
    for (int32_t i = 0; i < hidden; i++) of_exponent[exponent_of(row[i])]++;
    for (int width = 3; width <= 4; width++) {
        int span = (1 << width) - 1, base = 0, most = -1;
        for (int b = 0; b < 256; b++) {
            int inside = 0;
            for (int e = b; e < b + span && e < 256; e++) inside += of_exponent[e];
            if (inside > most) most = inside, base = b;
        }
        must(most == count_inside(row, hidden, base, span), "the reference counts");
        size_t bytes = on_16((size_t)hidden + (size_t)(hidden / 8 * width) + (size_t)(hidden - most));
        if (bytes < best.bytes) best = (coding){width, base, hidden - most, bytes};
    }
    return best;
}

static void reference_body(const uint16_t *row, int32_t hidden, const coding *c, uint8_t *body) {
    uint8_t *codes = body + hidden, *exponents = codes + hidden / 8 * c->width;
    const int elsewhere = (1 << c->width) - 1;
    memset(body, 0, c->bytes);
    if (c->width == 0) {
        memcpy(body, row, 2 * (size_t)hidden);
        return;
    }
    for (int32_t i = 0; i < hidden; i++) {
        int e = exponent_of(row[i]), code = e >= c->base && e < c->base + elsewhere ? e - c->base : elsewhere;
        body[i] = (uint8_t)((row[i] >> 15) << 7 | (row[i] & 0x7F));
        for (int b = 0; b < c->width; b++) {
            int bit = i % 8 * c->width + b;
            codes[i / 8 * c->width + bit / 8] |= (uint8_t)((code >> b & 1) << bit % 8);
        }
        if (code == elsewhere) *exponents++ = (uint8_t)e;
    }
}

static size_t reference_pack(const uint16_t *rows, int32_t n, int32_t hidden, uint8_t *packed) {
    size_t at = on_16(8 * (size_t)n);
    memset(packed, 0, at);
    for (int32_t r = 0; r < n; r++) {
        const uint16_t *row = rows + (size_t)r * (size_t)hidden;
        const coding c = reference_coding(row, hidden);
        const uint32_t start = (uint32_t)(at / 16);
        const uint16_t n_elsewhere = (uint16_t)c.n_elsewhere;
        memcpy(packed + 8 * (size_t)r, &start, 4);
        memcpy(packed + 8 * (size_t)r + 4, &n_elsewhere, 2);
        packed[8 * (size_t)r + 6] = (uint8_t)c.base;
        packed[8 * (size_t)r + 7] = (uint8_t)c.width;
        reference_body(row, hidden, &c, packed + at);
        at += c.bytes;
    }
    return at;
}

/* ---- rows ---- */

typedef enum look { NORMAL, TINY, HUGE_ONES, BITS, ZEROS, OUTLIER, NANS, CHANNELS, EDGES, MIXED, N_LOOKS } look;
static const char *const look_names[N_LOOKS] = {"normal", "subnormal and less", "huge", "random bits", "zeros", "one outlier a row",
                                                "nan payloads and infinities", "channels of many scales", "exponents 0 and 255", "every row another look"};

static uint16_t value_of(look how, gr_rng *rng, uint16_t normal, int32_t i) {
    uint64_t r = gr_rng_next(rng);
    switch (how) {
        case NORMAL: return normal;
        case TINY: return to_bf16(from_bf16(normal) * 0x1p-126f);
        case HUGE_ONES: return to_bf16(from_bf16(normal) * 0x1p120f);
        case ZEROS: return (uint16_t)(r & 0x8000);
        case OUTLIER: return i == 5 ? to_bf16(from_bf16(normal) * 3e4f) : normal;
        case NANS: return (uint16_t)((r & 3) == 0 ? normal : (r & 3) == 1 ? 0x7F80 | (r >> 8 & 0x8000) : 0x7F80 | (r >> 16 & 0x807F));
        case CHANNELS: return to_bf16(from_bf16(normal) * (float)(1 << (i * 2654435761u >> 28)));
        case EDGES: return (uint16_t)((r & 0x807F) | (r >> 20 & 1 ? 0x7F80 : 0));
        default: return (uint16_t)r;
    }
}

static uint16_t *make_rows(look how, int32_t n, int32_t hidden, uint64_t seed) {
    size_t n_values = (size_t)n * (size_t)hidden;
    uint16_t *rows = malloc(n_values * 2 + 2);
    gr_rng rng = gr_rng_seed(seed);
    fill_bf16(seed, rows, n_values, 1.7f);
    for (size_t i = 0; i < n_values; i++) {
        look one = how == MIXED ? (look)(i / (size_t)hidden * 7 % MIXED) : how;
        rows[i] = value_of(one, &rng, rows[i], (int32_t)(i % (size_t)hidden));
    }
    return rows;
}

/* ---- there and back ---- */

typedef struct wire { uint16_t *rows; char *d_rows, *d_packed; int32_t n; } wire;

static char *guarded(const void *from, size_t n) {
    char *d = to_device(NULL, n + 2 * GUARD);
    must(cudaMemset(d, POISON, n + 2 * GUARD) == cudaSuccess, "poison");
    if (from && n) must(cudaMemcpy(d + GUARD, from, n, cudaMemcpyHostToDevice) == cudaSuccess, "fill");
    return d + GUARD;
}

/* n bytes on the device are those expected, and what lies around is as it was. */
static void check_bytes(const char *what, const void *expected, size_t n, const char *device) {
    uint8_t *found = malloc(n + 2 * GUARD);
    to_host(found, device - GUARD, n + 2 * GUARD);
    for (size_t i = 0; i < n + 2 * GUARD; i++) {
        bool inside = i >= GUARD && i < GUARD + n;
        uint8_t e = inside ? ((const uint8_t *)expected)[i - GUARD] : POISON;
        if (found[i] != e) fail_msg("%s: byte %" PRId64 " of %zu: expected %02x, found %02x", what, (int64_t)i - GUARD, n, e, found[i]);
    }
    free(found);
}

static wire wire_open(look how, int32_t n, int32_t room, int32_t hidden, uint64_t seed) {
    size_t bytes = (size_t)n * (size_t)hidden * 2;
    wire w = {make_rows(how, n, hidden, seed), NULL, NULL, n};
    w.d_rows = guarded(NULL, (size_t)room * (size_t)hidden * 2);
    if (bytes) must(cudaMemcpy(w.d_rows, w.rows, bytes, cudaMemcpyHostToDevice) == cudaSuccess, "fill");
    w.d_packed = guarded(NULL, (size_t)gr_cuda_packed_bytes(room, hidden));
    return w;
}

static void wire_close(wire *w) {
    cudaFree(w->d_rows - GUARD);
    cudaFree(w->d_packed - GUARD);
    free(w->rows);
}

/* Bytes the wire's rows took, which the device says are n_bytes. What it wrote is what the reference writes, and it wrote nothing behind. */
static void check_packed(const char *what, const wire *w, int32_t hidden, int64_t n_bytes) {
    size_t most = (size_t)gr_cuda_packed_bytes(w->n, hidden);
    uint8_t *expected = malloc(most + 16), *found = malloc(most + 2 * GUARD);
    size_t n = reference_pack(w->rows, w->n, hidden, expected);
    must(n <= most, "the bound");
    if ((int64_t)n != n_bytes) fail_msg("%s: expected %zu bytes, found %" PRId64, what, n, n_bytes);
    to_host(found, w->d_packed - GUARD, n + 2 * GUARD);
    for (size_t i = 0; i < n + GUARD; i++) {
        uint8_t e = i < GUARD ? POISON : expected[i - GUARD];
        if (i < GUARD + n && found[i] != e) fail_msg("%s: packed byte %" PRId64 " of %zu: expected %02x, found %02x", what, (int64_t)i - GUARD, n, e, found[i]);
    }
    free(expected), free(found);
}

static double there_and_back(look how, int32_t n, int32_t hidden) {
    char what[160];
    const size_t bytes = (size_t)n * (size_t)hidden * 2;
    snprintf(what, sizeof what, "%s, %d rows of %d", look_names[how], n, hidden);
    wire w = wire_open(how, n, n, hidden, SEED + (uint64_t)(how * 1000 + n + hidden));
    gr_cuda_bales b = {.n_wires = 1, .hidden = hidden, .wire[0] = {w.d_rows, w.d_packed, n}};
    int64_t *n_bytes;
    must(cudaHostAlloc((void **)&n_bytes, sizeof *n_bytes, cudaHostAllocDefault) == cudaSuccess, "pinned");
    for (int turn = 0; turn < 5; turn++) {       /* in three launches, then in one where rows are few, again and again */
        b.state = turn < 2 ? NULL : state_of_wires;
        *n_bytes = -1;
        must(!bytes || cudaMemset(w.d_packed, POISON, (size_t)gr_cuda_packed_bytes(n, hidden)) == cudaSuccess, "poison");
        must(gr_cuda_compress(&b, n_bytes, NULL) == GRACE_OK, "gr_cuda_compress");
        must(cudaDeviceSynchronize() == cudaSuccess, what);
        check_packed(what, &w, hidden, *n_bytes);
    }
    must(!bytes || cudaMemset(w.d_rows, POISON, bytes) == cudaSuccess, "poison");
    must(gr_cuda_expand(&b, NULL) == GRACE_OK, "gr_cuda_expand");
    check_bytes(what, w.rows, bytes, w.d_rows);
    double ratio = n ? (double)bytes / (double)*n_bytes : 1;
    wire_close(&w);
    cudaFreeHost(n_bytes);
    return ratio;
}

/* ---- claims ---- */

static void any_row_comes_back_bit_for_bit_from_the_bytes_of_the_plain_packer(void **state) {
    static const int32_t sizes[][2] = {{0, 64}, {1, 8}, {3, 16}, {5, 192}, {33, 264}, {7, 2880}, {4, 16384}, {129, 2048}, {1024, 64}, {1025, 64},
                                       {1500, 192}, {2, 65528}};
    (void)state;
    for (int how = 0; how < N_LOOKS; how++)
        for (size_t i = 0; i < (is_small ? 5u : sizeof sizes / sizeof *sizes); i++) there_and_back((look)how, sizes[i][0], sizes[i][1]);
}

static void normal_rows_shrink_by_more_than_a_third_and_none_grows_by_more_than_its_entry(void **state) {
    (void)state;
    for (int how = 0; how < N_LOOKS; how++) {
        double ratio = there_and_back((look)how, 64, 2048);
        printf("%-30s bytes / packed bytes: %.3f\n", look_names[how], ratio);
        if (how == NORMAL || how == HUGE_ONES || how == OUTLIER) assert_true(ratio > 4.0 / 3);
        assert_true(ratio >= 4096.0 / (4096 + 8));
    }
}

/* As many rows as the device says, of as many wires as there are; room and wires beyond are left alone. */
static void every_wire_packs_the_rows_that_were_sent_over_it(void **state) {
    enum { WIRES = 5, ROOM = 60, HIDDEN = 512 };
    static const int32_t sent[2 * WIRES] = {7, -1, 0, -1, ROOM, -1, 1, -1, 33, -1};
    gr_cuda_bales b = {.n_wires = WIRES, .hidden = HIDDEN, .n_sent = to_device(sent, sizeof sent)};
    wire w[WIRES];
    int64_t *n_bytes;
    (void)state;
    must(cudaHostAlloc((void **)&n_bytes, WIRES * sizeof *n_bytes, cudaHostAllocDefault) == cudaSuccess, "pinned");
    for (int i = 0; i < WIRES; i++) {
        w[i] = wire_open(i == 3 ? BITS : NORMAL, sent[2 * i], ROOM, HIDDEN, SEED + (uint64_t)i);
        b.wire[i] = (gr_cuda_bale){w[i].d_rows, w[i].d_packed, ROOM};
    }
    for (int turn = 0; turn < 4; turn++) {
        b.state = turn == 0 ? NULL : state_of_wires;
        for (int i = 0; i < WIRES; i++) {
            n_bytes[i] = -1;
            must(cudaMemset(w[i].d_packed, POISON, (size_t)gr_cuda_packed_bytes(ROOM, HIDDEN)) == cudaSuccess, "poison");
        }
        must(gr_cuda_compress(&b, n_bytes, NULL) == GRACE_OK && cudaDeviceSynchronize() == cudaSuccess, "gr_cuda_compress");
        for (int i = 0; i < WIRES; i++) check_packed(turn == 0 ? "several wires" : "several wires, in one launch", &w[i], HIDDEN, n_bytes[i]);
    }
    for (int i = 0; i < WIRES; i++) must(cudaMemset(w[i].d_rows, POISON, ROOM * HIDDEN * 2) == cudaSuccess, "poison");
    must(gr_cuda_expand(&b, NULL) == GRACE_OK, "gr_cuda_expand");
    for (int i = 0; i < WIRES; i++) {
        uint8_t *expected = malloc(ROOM * HIDDEN * 2);
        memset(expected, POISON, ROOM * HIDDEN * 2);
        memcpy(expected, w[i].rows, (size_t)w[i].n * HIDDEN * 2);
        check_bytes("several wires", expected, ROOM * HIDDEN * 2, w[i].d_rows);
        free(expected);
        wire_close(&w[i]);
    }
    cudaFree((void *)b.n_sent);
    cudaFreeHost(n_bytes);
}

/* Calls on one stream follow each other at once, as layers do, also in a graph that is replayed. */
static void calls_that_follow_each_other_pack_as_one_does(void **state) {
    enum { ROWS = 203, HIDDEN = 512, CALLS = 8 };
    const int replays = is_small ? 3 : 50;
    wire w[CALLS];
    int64_t *n_bytes;
    cudaStream_t stream;
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    (void)state;
    must(cudaHostAlloc((void **)&n_bytes, CALLS * sizeof *n_bytes, cudaHostAllocDefault) == cudaSuccess, "pinned");
    must(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess, "stream");
    for (int i = 0; i < CALLS; i++) w[i] = wire_open((look)(i % N_LOOKS), ROWS - 29 * i, ROWS, HIDDEN, SEED + (uint64_t)i);
    must(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess, "capture");
    for (int i = 0; i < CALLS; i++) {
        gr_cuda_bales b = {.n_wires = 1, .hidden = HIDDEN, .state = state_of_wires, .wire[0] = {w[i].d_rows, w[i].d_packed, w[i].n}};
        must(gr_cuda_compress(&b, n_bytes + i, stream) == GRACE_OK, "gr_cuda_compress");
    }
    must(cudaStreamEndCapture(stream, &graph) == cudaSuccess && cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess, "graph");
    for (int turn = 0; turn < replays; turn++) must(cudaGraphLaunch(exec, stream) == cudaSuccess, "replay");
    must(cudaStreamSynchronize(stream) == cudaSuccess, "replays");
    for (int i = 0; i < CALLS; i++) check_packed("one of many calls", &w[i], HIDDEN, n_bytes[i]), wire_close(&w[i]);
    cudaGraphExecDestroy(exec), cudaGraphDestroy(graph), cudaStreamDestroy(stream);
    cudaFreeHost(n_bytes);
}

/* compute-sanitizer looks at reads, the guards at writes. */
static void bytes_that_nobody_packed_expand_within_bounds(void **state) {
    enum { N = 40, HIDDEN = 264 };
    const size_t bytes = N * HIDDEN * 2, most = (size_t)gr_cuda_packed_bytes(N, HIDDEN);
    uint8_t *garbage = malloc(most), *found = malloc(bytes + 2 * GUARD);
    gr_rng rng = gr_rng_seed(SEED);
    (void)state;
    for (int turn = 0; turn < 20; turn++) {
        for (size_t i = 0; i < most; i++) garbage[i] = (uint8_t)gr_rng_next(&rng);
        for (size_t r = 0; r < N && turn > 0; r++) {        /* bodies that may be, in part */
            uint32_t start = gr_rng_below(&rng, (uint32_t)(most / 16 + 2));
            memcpy(garbage + 8 * r, &start, 4);
            garbage[8 * r + 7] = (uint8_t)gr_rng_below(&rng, 6);
            if (turn % 2) garbage[8 * r + 5] = 0;
        }
        gr_cuda_bales b = {.n_wires = 1, .hidden = HIDDEN, .wire[0] = {guarded(NULL, bytes), guarded(garbage, most), N}};
        must(gr_cuda_expand(&b, NULL) == GRACE_OK, "gr_cuda_expand");
        to_host(found, (char *)b.wire[0].rows - GUARD, bytes + 2 * GUARD);
        for (size_t i = 0; i < GUARD; i++) must(found[i] == POISON && found[GUARD + bytes + i] == POISON, "around garbage rows");
        check_bytes("packed garbage stays", garbage, most, b.wire[0].packed);
        cudaFree((char *)b.wire[0].rows - GUARD);
        cudaFree(b.wire[0].packed - GUARD);
    }
    free(garbage), free(found);
}

static void sizes_that_do_not_fit_are_refused(void **state) {
    gr_cuda_bales b = {.n_wires = 1, .hidden = 20};
    (void)state;
    assert_int_equal(gr_cuda_compress(&b, NULL, NULL), GRACE_ERR_LIMIT);
    assert_non_null(strstr(grace_last_error(), "expected a width that is a multiple of 8 up to 65528, found 20"));
    b.hidden = 65536;
    assert_int_equal(gr_cuda_expand(&b, NULL), GRACE_ERR_LIMIT);
    b.hidden = 16, b.n_wires = GR_CUDA_WIRES_MAX + 1;
    assert_int_equal(gr_cuda_expand(&b, NULL), GRACE_ERR_LIMIT);
    b.n_wires = 1, b.wire[0].rows = (void *)8;
    assert_int_equal(gr_cuda_expand(&b, NULL), GRACE_ERR_ARG);
    b.wire[0].rows = NULL, b.wire[0].n_rows = -1;
    assert_int_equal(gr_cuda_expand(&b, NULL), GRACE_ERR_ARG);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_row_comes_back_bit_for_bit_from_the_bytes_of_the_plain_packer),
        cmocka_unit_test(normal_rows_shrink_by_more_than_a_third_and_none_grows_by_more_than_its_entry),
        cmocka_unit_test(every_wire_packs_the_rows_that_were_sent_over_it),
        cmocka_unit_test(calls_that_follow_each_other_pack_as_one_does),
        cmocka_unit_test(bytes_that_nobody_packed_expand_within_bounds),
        cmocka_unit_test(sizes_that_do_not_fit_are_refused),
    };
    is_small = argc > 1 && strcmp(argv[1], "small") == 0;
    if (no_gpu("rows packed for wires")) return SKIPPED;
    state_of_wires = to_device(NULL, GR_CUDA_WIRES_MAX * GR_CUDA_BALE_STATE * sizeof *state_of_wires);
    must(cudaMemset(state_of_wires, 0, GR_CUDA_WIRES_MAX * GR_CUDA_BALE_STATE * sizeof *state_of_wires) == cudaSuccess, "zeroed once");
    int n_failed = cmocka_run_group_tests(tests, NULL, NULL);
    cudaFree(state_of_wires);
    return n_failed;
}
