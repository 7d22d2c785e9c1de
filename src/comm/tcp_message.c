#include "comm/tcp_message.h"

#include <stdbool.h>
#include <string.h>

static const char hello_magic[8] = "GRACEhi1", answer_magic[8] = "GRACEok1";
static const uint32_t rows_magic = 0x77725247, leave_magic = 0x766c5247;       /* "GRrw", "GRlv" */

static void put(uint8_t **at, uint64_t value, int n) {
    for (int i = 0; i < n; i++) *(*at)++ = (uint8_t)(value >> 8 * i);
}

static uint64_t get(const uint8_t **at, int n) {
    uint64_t value = 0;
    for (int i = 0; i < n; i++) value |= (uint64_t)*(*at)++ << 8 * i;
    return value;
}

static void put_bytes(uint8_t **at, const void *bytes, size_t n) {
    memcpy(*at, bytes, n);
    *at += n;
}

static void get_bytes(const uint8_t **at, void *bytes, size_t n) {
    memcpy(bytes, *at, n);
    *at += n;
}

static bool is_text(const char *text, size_t size) { return text[0] && memchr(text, '\0', size) != NULL; }

/* ---- hello ---- */

void gr_tcp_write_hello(const gr_tcp_hello *h, uint8_t out[GR_TCP_HELLO]) {
    put_bytes(&out, hello_magic, sizeof hello_magic);
    put(&out, (uint32_t)h->rank, 4);
    put(&out, (uint32_t)h->n_ranks, 4);
    put(&out, h->port, 8);
    put_bytes(&out, h->key, GR_TCP_KEY);
    put_bytes(&out, h->host, GR_TCP_HOST);
}

grace_status gr_tcp_read_hello(const uint8_t *bytes, size_t n, gr_tcp_hello *out) {
    grace_status st = GRACE_OK;
    GR_CHECK(n == GR_TCP_HELLO && memcmp(bytes, hello_magic, sizeof hello_magic) == 0, GRACE_ERR_FORMAT, "not the words of a rank");
    bytes += sizeof hello_magic;
    uint64_t rank = get(&bytes, 4), n_ranks = get(&bytes, 4), port = get(&bytes, 8);
    GR_CHECK(n_ranks <= INT32_MAX && rank < n_ranks, GRACE_ERR_FORMAT, "expected a rank, found number %llu of %llu", (unsigned long long)rank,
             (unsigned long long)n_ranks);
    GR_CHECK(port >= 1 && port <= UINT16_MAX, GRACE_ERR_FORMAT, "expected a port, found %llu", (unsigned long long)port);
    *out = (gr_tcp_hello){.rank = (int32_t)rank, .n_ranks = (int32_t)n_ranks, .port = (uint16_t)port};
    get_bytes(&bytes, out->key, GR_TCP_KEY);
    get_bytes(&bytes, out->host, GR_TCP_HOST);
    GR_CHECK(is_text(out->host, GR_TCP_HOST), GRACE_ERR_FORMAT, "expected the name of a machine");
done:
    return st;
}

/* ---- answer ---- */

void gr_tcp_write_answer(const gr_tcp_answer *a, uint8_t out[GR_TCP_ANSWER]) {
    put_bytes(&out, answer_magic, sizeof answer_magic);
    put(&out, (uint32_t)a->status, 4);
    put(&out, a->n_bytes, 4);
}

grace_status gr_tcp_read_answer(const uint8_t *bytes, size_t n, int32_t n_ranks, gr_tcp_answer *out) {
    grace_status st = GRACE_OK;
    GR_CHECK(n == GR_TCP_ANSWER && memcmp(bytes, answer_magic, sizeof answer_magic) == 0, GRACE_ERR_FORMAT, "not the words of rank 0");
    bytes += sizeof answer_magic;
    uint64_t status = get(&bytes, 4), n_bytes = get(&bytes, 4), table = GR_TCP_KEY + (uint64_t)n_ranks * GR_TCP_SEAT;
    GR_CHECK(status <= GRACE_ERR_COMM, GRACE_ERR_FORMAT, "expected a status, found %llu", (unsigned long long)status);
    GR_CHECK(status == GRACE_OK ? n_bytes == table : n_bytes <= GR_TCP_SENTENCE, GRACE_ERR_FORMAT,
             "expected a table of %llu bytes or a sentence, found %llu bytes", (unsigned long long)table, (unsigned long long)n_bytes);
    *out = (gr_tcp_answer){.status = (grace_status)status, .n_bytes = (uint32_t)n_bytes};
done:
    return st;
}

void gr_tcp_write_seat(const gr_tcp_seat *s, uint8_t out[GR_TCP_SEAT]) {
    put_bytes(&out, s->address, GR_TCP_ADDRESS);
    put(&out, s->port, 2);
    put_bytes(&out, s->host, GR_TCP_HOST);
}

grace_status gr_tcp_read_seat(const uint8_t *bytes, size_t n, gr_tcp_seat *out) {
    grace_status st = GRACE_OK;
    GR_CHECK(n >= GR_TCP_SEAT, GRACE_ERR_FORMAT, "expected a rank's %d bytes, found %zu", GR_TCP_SEAT, n);
    get_bytes(&bytes, out->address, GR_TCP_ADDRESS);
    out->port = (uint16_t)get(&bytes, 2);
    get_bytes(&bytes, out->host, GR_TCP_HOST);
    GR_CHECK(is_text(out->host, GR_TCP_HOST), GRACE_ERR_FORMAT, "expected the name of a machine");
done:
    return st;
}

/* ---- frame ---- */

void gr_tcp_write_frame(const gr_tcp_frame *f, uint8_t out[GR_TCP_FRAME]) {
    put(&out, f->kind == GR_TCP_ROWS ? rows_magic : leave_magic, 4);
    put(&out, f->context, 4);
    put(&out, f->sequence, 8);
    put(&out, f->n_bytes, 8);
}

grace_status gr_tcp_read_frame(const uint8_t *bytes, size_t n, gr_tcp_frame *out) {
    grace_status st = GRACE_OK;
    GR_CHECK(n >= GR_TCP_FRAME, GRACE_ERR_FORMAT, "expected a frame's %d bytes, found %zu", GR_TCP_FRAME, n);
    uint64_t magic = get(&bytes, 4);
    GR_CHECK(magic == rows_magic || magic == leave_magic, GRACE_ERR_FORMAT, "expected a frame, found 0x%08llx", (unsigned long long)magic);
    *out = (gr_tcp_frame){.kind = magic == rows_magic ? GR_TCP_ROWS : GR_TCP_LEAVE, .context = (uint32_t)get(&bytes, 4)};
    out->sequence = get(&bytes, 8);
    out->n_bytes = get(&bytes, 8);
    GR_CHECK(out->kind == GR_TCP_ROWS || out->n_bytes == 0, GRACE_ERR_FORMAT, "expected nothing after a farewell, found %llu bytes",
             (unsigned long long)out->n_bytes);
done:
    return st;
}
