/* Messages between device memory and boxes (compute/cuda/line.h). One process plays both ends: what `post` puts into outboxes a thread carries to inboxes, as a
 * line would, and `fetch` takes it from there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <cuda_runtime_api.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/box.h"
#include "base/rng.h"
#include "compute/cuda/line.h"
#include "cuda/device.h"

enum { WIRES = 5, GUARD = 256, POISON = 0xA5, SEED = 20261126, LAYER = 11 };

static const uint64_t patient_ns = 20000000000u, hasty_ns = 50000000u;
static bool is_small;

typedef struct shape { const char *name; int32_t n_wires, top_k, row_bytes, rows_most; bool by_entry, packed; } shape;

/* What a wire carries, and what all its messages were. */
typedef struct letter { int32_t rows, entries; int64_t bytes, counted[3]; } letter;

typedef struct office {
    shape s;
    int64_t bytes_most, row_step, word_step, box_step;
    char *boxes;                        /* pinned: [2][n_wires] of box_step bytes: outboxes, inboxes */
    char *sent, *rows, *slot, *weight;  /* host: all that is sent; its parts, [n_wires] of a step each */
    char *d_sent, *d_come;              /* device: the same, and where it goes */
    int32_t *d_n[2];
    int64_t *d_n_bytes, *d_count[2];
    uint32_t *d_state[2];
    gr_cuda_watch *watch;
    gr_cuda_node node;
    gr_cuda_mail out, in;
    letter letter[WIRES];
    cudaStream_t stream;
    uint32_t n_messages;
} office;

static int64_t on_16(int64_t n) { return (n + 15) / 16 * 16; }
static int64_t all_bytes(const office *o) { return o->s.n_wires * (o->row_step + 2 * o->word_step); }
static char *box_of(const office *o, bool in, int32_t w) { return o->boxes + ((int64_t)in * o->s.n_wires + w) * o->box_step; }

static void *zeroed(size_t bytes) {
    void *d = to_device(NULL, bytes);
    must(cudaMemset(d, 0, bytes) == cudaSuccess, "zeroed");
    return d;
}

static void *pinned(size_t bytes, int value) {
    void *p = NULL;
    must(cudaHostAlloc(&p, bytes, cudaHostAllocMapped) == cudaSuccess, "pinned");
    memset(p, value, bytes);
    return p;
}

/* ---- both ends ---- */

static gr_cuda_mail mail_of(office *o, bool in) {
    char *base = in ? o->d_come : o->d_sent;
    gr_cuda_mail m = {.n_wires = o->s.n_wires, .top_k = o->s.top_k, .row_bytes = o->s.row_bytes, .by_entry = o->s.by_entry, .rows_most = o->s.rows_most,
                      .bytes_most = o->bytes_most, .n = o->d_n[in], .n_bytes = in || !o->s.packed ? NULL : o->d_n_bytes, .rows = base,
                      .slot = base + o->s.n_wires * o->row_step, .row_step = o->row_step, .slot_step = o->word_step, .weight_step = o->word_step,
                      .count = o->d_count[in], .state = o->d_state[in]};
    m.weight = m.slot + o->s.n_wires * o->word_step;
    for (int32_t w = 0; w < m.n_wires; w++) must(cudaHostGetDevicePointer((void **)&m.box[w], box_of(o, in, w), 0) == cudaSuccess, "box");
    return m;
}

static office *office_open(const shape *s, uint64_t deadline_ns) {
    office *o = calloc(1, sizeof *o);
    const size_t n = (size_t)s->n_wires;
    o->s = *s;
    o->bytes_most = (int64_t)s->rows_most * s->row_bytes + (s->packed ? on_16(8 * (int64_t)s->rows_most) : 0);
    o->row_step = on_16(o->bytes_most) + GUARD;
    o->word_step = 4 * (int64_t)s->rows_most * s->top_k + GUARD + 4;         /* words on 4 alone */
    o->box_step = (GR_LINE_HEAD_BYTES + gr_cuda_mail_bytes(s->rows_most, s->top_k, o->bytes_most) + GUARD + 127) / 128 * 128;
    o->boxes = pinned(2 * n * (size_t)o->box_step, POISON);
    for (int32_t w = 0; w < s->n_wires; w++) memset(box_of(o, false, w), 0, GR_LINE_HEAD_BYTES), memset(box_of(o, true, w), 0, GR_LINE_HEAD_BYTES);
    o->sent = o->rows = malloc((size_t)all_bytes(o));
    o->slot = o->rows + s->n_wires * o->row_step;
    o->weight = o->slot + s->n_wires * o->word_step;
    o->d_sent = to_device(NULL, (size_t)all_bytes(o)), o->d_come = to_device(NULL, (size_t)all_bytes(o));
    o->d_n_bytes = zeroed(n * sizeof(int64_t));
    for (int in = 0; in < 2; in++) {
        o->d_n[in] = zeroed(2 * n * sizeof(int32_t)), o->d_count[in] = zeroed(3 * n * sizeof(int64_t));
        o->d_state[in] = zeroed(n * GR_CUDA_MAIL_STATE * sizeof(uint32_t));
    }
    o->watch = pinned(sizeof *o->watch, 0);
    o->node = (gr_cuda_node){.epoch = zeroed(GR_CUDA_EPOCH_BYTES), .deadline_ns = deadline_ns};
    must(cudaHostGetDevicePointer((void **)&o->node.watch, o->watch, 0) == cudaSuccess, "watch");
    must(cudaStreamCreateWithFlags(&o->stream, cudaStreamNonBlocking) == cudaSuccess, "stream");
    o->out = mail_of(o, false), o->in = mail_of(o, true);
    return o;
}

static void office_close(office *o) {
    void *device[] = {o->d_sent, o->d_come, o->d_n_bytes, o->d_n[0], o->d_n[1], o->d_count[0], o->d_count[1], o->d_state[0], o->d_state[1], o->node.epoch};
    for (size_t i = 0; i < sizeof device / sizeof *device; i++) cudaFree(device[i]);
    cudaFreeHost(o->boxes), cudaFreeHost(o->watch);
    cudaStreamDestroy(o->stream);
    free(o->sent), free(o);
}

/* The next message: of no rows, of as many as there may be, then of some; bytes are new. */
static void write_letters(office *o, gr_rng *rng) {
    const uint32_t most = (uint32_t)o->s.rows_most, turn = o->n_messages++;
    const size_t n_wires = (size_t)o->s.n_wires;
    int32_t n[2 * WIRES];
    int64_t n_bytes[WIRES];
    for (int64_t i = 0; i < all_bytes(o); i++) o->sent[i] = (char)(gr_rng_next(rng) >> 40);
    for (int32_t w = 0; w < o->s.n_wires; w++) {
        letter *l = &o->letter[w];
        const uint32_t is = (turn + (uint32_t)w) % 4, count = is == 0 ? 0 : is == 1 ? most : gr_rng_below(rng, most + 1);
        l->entries = (int32_t)count, l->rows = (int32_t)(o->s.by_entry ? count / 3 : count);
        l->bytes = (int64_t)count * o->s.row_bytes;
        if (o->s.packed) l->bytes = is == 1 ? o->bytes_most : count * (int64_t)gr_rng_below(rng, (uint32_t)o->s.row_bytes) / 8 * 8;
        if (!o->s.by_entry) l->entries = 2 * l->rows;
        l->counted[0] += l->rows, l->counted[1] += l->entries, l->counted[2] += l->bytes;
        n[2 * w] = l->rows, n[2 * w + 1] = l->entries, n_bytes[w] = l->bytes;
    }
    must(cudaMemcpy(o->d_sent, o->sent, (size_t)all_bytes(o), cudaMemcpyHostToDevice) == cudaSuccess, "send");
    must(cudaMemset(o->d_come, POISON, (size_t)all_bytes(o)) == cudaSuccess, "poison");
    must(cudaMemcpy(o->d_n[0], n, n_wires * 8, cudaMemcpyHostToDevice) == cudaSuccess, "n");
    must(cudaMemcpy(o->d_n_bytes, n_bytes, n_wires * 8, cudaMemcpyHostToDevice) == cudaSuccess, "n_bytes");
    must(cudaDeviceSynchronize() == cudaSuccess, "letters");
}

/* ---- the line: a thread that carries message after message from outboxes to inboxes ---- */

typedef struct carrier { office *o; uint32_t first, last; unsigned pause_us; pthread_t thread; } carrier;

static uint32_t number_in(const char *box) { return __atomic_load_n(&((const gr_line_head *)box)->number, __ATOMIC_ACQUIRE); }

static void deliver(const office *o, int32_t w, uint32_t number) {
    const gr_line_head *from = (const gr_line_head *)box_of(o, false, w);
    gr_line_head *to = (gr_line_head *)box_of(o, true, w);
    const int64_t most = o->box_step - GR_LINE_HEAD_BYTES, n = from->n_bytes < 0 ? 0 : from->n_bytes < most ? from->n_bytes : most;
    memcpy((char *)to + GR_LINE_HEAD_BYTES, (const char *)from + GR_LINE_HEAD_BYTES, (size_t)n);
    to->rows = from->rows, to->entries = from->entries, to->n_bytes = from->n_bytes;
    __atomic_store_n(&to->number, number, __ATOMIC_RELEASE);
}

/* Gives up when the kernels do. */
static void *carry(void *arg) {
    const carrier *c = arg;
    for (uint32_t number = c->first; number <= c->last; number++)
        for (int32_t w = 0; w < c->o->s.n_wires; w++) {
            while (number_in(box_of(c->o, false, w)) != number) {
                if (((volatile gr_cuda_watch *)c->o->watch)->stop) return NULL;
                usleep(5);
            }
            if (c->pause_us) usleep(c->pause_us);
            deliver(c->o, w, number);
        }
    return NULL;
}

static void carrier_start(carrier *c) { must(pthread_create(&c->thread, NULL, carry, c) == 0, "pthread_create"); }

/* ---- what came ---- */

static void same_bytes(const char *what, int32_t w, const char *part, const void *expected, const void *found, int64_t n) {
    const uint8_t *e = expected, *f = found;
    for (int64_t i = 0; i < n; i++)
        if (e[i] != f[i]) fail_msg("%s, wire %d: byte %" PRId64 " of %" PRId64 " of %s: expected %02x, found %02x", what, w, i, n, part, e[i], f[i]);
}

static void same(const char *what, int32_t w, const char *part, int64_t expected, int64_t found) {
    if (expected != found) fail_msg("%s, wire %d: %s: expected %" PRId64 ", found %" PRId64, what, w, part, expected, found);
}

static void is_untouched(const char *what, int32_t w, const char *part, const char *at, int64_t n) {
    for (int64_t i = 0; i < n; i++)
        if ((uint8_t)at[i] != POISON) fail_msg("%s, wire %d: %" PRId64 " bytes behind %s: expected %02x, found %02x", what, w, i, part, POISON, (uint8_t)at[i]);
}

static void check_outbox(const char *what, const office *o, int32_t w, uint32_t number) {
    const letter *l = &o->letter[w];
    const gr_line_head *head = (const gr_line_head *)box_of(o, false, w);
    const char *bytes = (const char *)head + GR_LINE_HEAD_BYTES;
    const int64_t words = 4 * (int64_t)l->rows * o->s.top_k, weight = on_16(words), rows = 2 * weight;
    same(what, w, "number", number, number_in((const char *)head));
    same(what, w, "rows", l->rows, head->rows), same(what, w, "entries", l->entries, head->entries);
    same(what, w, "bytes behind the head", rows + l->bytes, head->n_bytes);
    same_bytes(what, w, "slots in the box", o->slot + w * o->word_step, bytes, words);
    same_bytes(what, w, "weights in the box", o->weight + w * o->word_step, bytes + weight, words);
    same_bytes(what, w, "rows in the box", o->rows + w * o->row_step, bytes + rows, l->bytes);
    is_untouched(what, w, "the box", bytes + gr_cuda_mail_bytes(o->s.rows_most, o->s.top_k, o->bytes_most), GUARD);
}

static void check_come(const char *what, const office *o) {
    char *come = malloc((size_t)all_bytes(o)), *slot = come + o->s.n_wires * o->row_step, *weight = slot + o->s.n_wires * o->word_step;
    int32_t n[2 * WIRES];
    int64_t count[2][3 * WIRES];
    to_host(come, o->d_come, (size_t)all_bytes(o));
    to_host(n, o->d_n[1], (size_t)o->s.n_wires * 8);
    for (int in = 0; in < 2; in++) to_host(count[in], o->d_count[in], (size_t)o->s.n_wires * 24);
    for (int32_t w = 0; w < o->s.n_wires; w++) {
        const letter *l = &o->letter[w];
        const int64_t words = 4 * (int64_t)l->rows * o->s.top_k, at = w * o->word_step, to = on_16(l->bytes);
        same(what, w, "rows", l->rows, n[2 * w]), same(what, w, "entries", l->entries, n[2 * w + 1]);
        same_bytes(what, w, "slots", o->slot + at, slot + at, words), is_untouched(what, w, "slots", slot + at + words, o->word_step - words);
        same_bytes(what, w, "weights", o->weight + at, weight + at, words), is_untouched(what, w, "weights", weight + at + words, o->word_step - words);
        same_bytes(what, w, "rows", o->rows + w * o->row_step, come + w * o->row_step, l->bytes);
        is_untouched(what, w, "rows", come + w * o->row_step + to, o->row_step - to);
        for (int i = 0; i < 6; i++) same(what, w, i < 3 ? "posted in all" : "fetched in all", l->counted[i % 3], count[i / 3][3 * w + i % 3]);
    }
    free(come);
}

static void queue(office *o) {
    must(!gr_cuda_post(&o->node, &o->out, o->stream), "post");
    must(!gr_cuda_fetch(&o->node, &o->in, GR_CUDA_STAGE_DISPATCH, LAYER, o->stream), "fetch");
}

static void finish(const office *o, const char *what) {
    must(cudaStreamSynchronize(o->stream) == cudaSuccess, what);
    if (o->watch->stop) fail_msg("%s: a wait was late: source %d", what, o->watch->source);
}

/* ---- claims ---- */

static const shape shapes[] = {
    {"a small message", 1, 8, 384, 5, false, false},
    {"one choice", 3, 1, 16, 33, false, false},
    {"several wires", WIRES, 3, 768, 61, false, false},
    {"results by entry", 2, 0, 768, 240, true, false},
    {"packed rows", 3, 6, 768, 57, false, true},
    {"packed results by entry", 2, 0, 384, 512, true, true},
    {"a decode step", 1, 8, 4096, 128, false, true},
    {"a prompt", 2, 8, 4096, 1400, false, false},
    {"a prompt of packed rows", 1, 8, 4096, 1400, false, true},
};
enum { N_SHAPES = sizeof shapes / sizeof *shapes, N_SMALL = 6 };

static void whatever_is_posted_is_fetched(void **state) {
    (void)state;
    printf("seed %d\n", SEED);
    for (int i = 0; i < (is_small ? N_SMALL : N_SHAPES); i++) {
        gr_rng rng = gr_rng_seed(SEED + (uint64_t)i);
        office *o = office_open(&shapes[i], patient_ns);
        for (uint32_t number = 1; number <= 6; number++) {
            carrier c = {.o = o, .first = number, .last = number, .pause_us = number % 2 ? 300 : 0};
            char what[80];
            snprintf(what, sizeof what, "%s, message %u", shapes[i].name, number);
            write_letters(o, &rng);
            carrier_start(&c);
            queue(o);
            finish(o, what);
            pthread_join(c.thread, NULL);
            for (int32_t w = 0; w < o->s.n_wires; w++) check_outbox(what, o, w, number);
            check_come(what, o);
        }
        office_close(o);
    }
}

static cudaGraphExec_t record(office *o, int n) {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    must(cudaStreamBeginCapture(o->stream, cudaStreamCaptureModeThreadLocal) == cudaSuccess, "capture");
    for (int i = 0; i < n; i++) queue(o);
    must(cudaStreamEndCapture(o->stream, &graph) == cudaSuccess && cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess, "graph");
    cudaGraphDestroy(graph);
    return exec;
}

/* The graph holds no number of a message: they rise on the device. */
static void a_recorded_message_is_a_new_one_whenever_it_is_replayed(void **state) {
    enum { A_GRAPH = 3 };
    const uint32_t replays = is_small ? 4 : 100;
    (void)state;
    for (int i = 2; i < 5; i++) {
        gr_rng rng = gr_rng_seed(SEED + 100 + (uint64_t)i);
        office *o = office_open(&shapes[i], patient_ns);
        carrier c = {.o = o, .first = 1, .last = A_GRAPH * replays};
        cudaGraphExec_t exec = record(o, A_GRAPH);
        write_letters(o, &rng), write_letters(o, &rng), write_letters(o, &rng);
        for (int32_t w = 0; w < o->s.n_wires; w++) {
            letter *l = &o->letter[w];
            l->counted[0] = (int64_t)c.last * l->rows, l->counted[1] = (int64_t)c.last * l->entries, l->counted[2] = (int64_t)c.last * l->bytes;
        }
        carrier_start(&c);
        for (uint32_t r = 0; r < replays; r++) must(cudaGraphLaunch(exec, o->stream) == cudaSuccess, "replay");
        finish(o, "replays");
        pthread_join(c.thread, NULL);
        for (int32_t w = 0; w < o->s.n_wires; w++) check_outbox("replays", o, w, c.last);
        check_come("replays", o);
        cudaGraphExecDestroy(exec);
        office_close(o);
    }
}

/* Of two messages the second does not come: before the deadline, or before the host says stop. */
static void a_wait_that_is_late_or_stopped_says_where_and_ends(void **state) {
    const shape s = {"late", 2, 4, 4096, 40, false, false};
    (void)state;
    for (int stopped = 0; stopped < 2; stopped++) {
        gr_rng rng = gr_rng_seed(SEED + 200);
        office *o = office_open(&s, stopped ? patient_ns : hasty_ns);
        int32_t n[4];
        write_letters(o, &rng), write_letters(o, &rng);
        must(!gr_cuda_post(&o->node, &o->out, o->stream) && cudaStreamSynchronize(o->stream) == cudaSuccess, "post");
        deliver(o, 0, 1);
        o->watch->stop = stopped;
        must(!gr_cuda_fetch(&o->node, &o->in, GR_CUDA_STAGE_COMBINE, LAYER, o->stream), "fetch");
        must(cudaStreamSynchronize(o->stream) == cudaSuccess, "the wait ends");
        assert_int_equal(o->watch->stop, 1);
        assert_int_equal(o->watch->stage, GR_CUDA_STAGE_COMBINE);
        assert_int_equal(o->watch->layer, LAYER);
        assert_int_equal(o->watch->source, GR_CUDA_NODE_MAX + 1);
        to_host(n, o->d_n[1], sizeof n);
        assert_int_equal(n[0], o->letter[0].rows);
        assert_int_equal(n[2], 0);
        char *come = malloc((size_t)all_bytes(o));
        to_host(come, o->d_come, (size_t)all_bytes(o));
        same_bytes("late", 0, "rows", o->rows, come, o->letter[0].bytes);
        is_untouched("late", 1, "nothing", come + o->row_step, o->row_step);
        const uint32_t told = number_in(box_of(o, false, 0));    /* what would come of it is garbage: nobody is told */
        must(!gr_cuda_post(&o->node, &o->out, o->stream) && cudaStreamSynchronize(o->stream) == cudaSuccess, "post after a late wait");
        assert_int_equal(number_in(box_of(o, false, 0)), told);
        free(come);
        office_close(o);
    }
}

/* A head that nobody wrote: the guards look at writes, compute-sanitizer at reads. */
static void a_head_that_claims_more_than_there_is_room_for_is_cut(void **state) {
    static const gr_line_head heads[] = {
        {1, 1000000, 2000000, 0, INT64_MAX}, {1, 41, 1, 0, 1 << 20}, {1, INT32_MAX, -1, 0, 100},
        {1, -1, -1, 0, -1}, {1, 40, 40, 0, INT64_MIN}, {1, 0, 0, 0, INT64_MAX},
    };
    const shape s = {"claims", 1, 4, 4096, 40, false, false};
    (void)state;
    for (size_t i = 0; i < sizeof heads / sizeof *heads; i++) {
        gr_rng rng = gr_rng_seed(SEED + 300);
        office *o = office_open(&s, hasty_ns);
        int32_t n[2];
        char *come = malloc((size_t)all_bytes(o)), *slot = come + o->row_step, *weight = slot + o->word_step;
        write_letters(o, &rng);
        memcpy(box_of(o, true, 0), &heads[i], sizeof heads[i]);
        must(!gr_cuda_fetch(&o->node, &o->in, GR_CUDA_STAGE_DISPATCH, LAYER, o->stream), "fetch");
        finish(o, "claims");
        to_host(n, o->d_n[1], sizeof n);
        same("claims", 0, "rows", heads[i].rows < 0 ? 0 : heads[i].rows > s.rows_most ? s.rows_most : heads[i].rows, n[0]);
        to_host(come, o->d_come, (size_t)all_bytes(o));
        is_untouched("claims", 0, "rows", come + on_16(o->bytes_most), GUARD);
        is_untouched("claims", 0, "slots", slot + o->word_step - GUARD, GUARD);
        is_untouched("claims", 0, "weights", weight + o->word_step - GUARD, GUARD);
        free(come);
        office_close(o);
    }
}

static void mail_that_does_not_fit_is_refused(void **state) {
    gr_cuda_mail m = {.n_wires = GR_CUDA_WIRES_MAX + 1, .row_bytes = 16};
    const gr_cuda_node node = {.deadline_ns = 1};
    (void)state;
    assert_int_equal(gr_cuda_post(&node, &m, NULL), GRACE_ERR_LIMIT);
    assert_non_null(strstr(grace_last_error(), "mail over 64 wires, expected at most 63"));
    m.n_wires = 1, m.row_bytes = 20;
    assert_int_equal(gr_cuda_fetch(&node, &m, 0, 0, NULL), GRACE_ERR_LIMIT);
    assert_non_null(strstr(grace_last_error(), "rows of 20 bytes"));
    m.n_wires = 0, m.row_bytes = 16;
    assert_int_equal(gr_cuda_post(&node, &m, NULL), GRACE_OK);
}

int main(int argc, char **argv) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(whatever_is_posted_is_fetched),
        cmocka_unit_test(a_recorded_message_is_a_new_one_whenever_it_is_replayed),
        cmocka_unit_test(a_wait_that_is_late_or_stopped_says_where_and_ends),
        cmocka_unit_test(a_head_that_claims_more_than_there_is_room_for_is_cut),
        cmocka_unit_test(mail_that_does_not_fit_is_refused),
    };
    is_small = argc > 1 && strcmp(argv[1], "small") == 0;
    if (no_gpu("messages over lines")) return SKIPPED;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
