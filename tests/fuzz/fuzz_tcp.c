/* Any bytes as what a stranger may send over tcp, or as Slurm's list of nodes: the first byte says which. What is taken is in bounds,
 * and comes back when it is written again. */
#include <stdint.h>
#include <string.h>

#include "comm/launcher.h"
#include "comm/tcp_message.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void read_hello(const uint8_t *data, size_t n) {
    gr_tcp_hello hello;
    uint8_t again[GR_TCP_HELLO];
    if (gr_tcp_read_hello(data, n, &hello) != GRACE_OK) return;
    GR_ASSERT(hello.rank >= 0 && hello.rank < hello.n_ranks && hello.port > 0 && memchr(hello.host, '\0', GR_TCP_HOST));
    gr_tcp_write_hello(&hello, again);
    GR_ASSERT(n == sizeof again && memcmp(again, data, n) == 0);
}

static void read_answer(const uint8_t *data, size_t n) {
    gr_tcp_answer answer;
    uint8_t again[GR_TCP_ANSWER];
    if (gr_tcp_read_answer(data, n, 3, &answer) != GRACE_OK) return;
    GR_ASSERT(answer.n_bytes <= (answer.status == GRACE_OK ? GR_TCP_KEY + 3 * GR_TCP_SEAT : GR_TCP_SENTENCE));
    gr_tcp_write_answer(&answer, again);
    GR_ASSERT(memcmp(again, data, n) == 0);
}

static void read_seat(const uint8_t *data, size_t n) {
    gr_tcp_seat seat;
    uint8_t again[GR_TCP_SEAT];
    if (gr_tcp_read_seat(data, n, &seat) != GRACE_OK) return;
    GR_ASSERT(memchr(seat.host, '\0', GR_TCP_HOST));
    gr_tcp_write_seat(&seat, again);
    GR_ASSERT(memcmp(again, data, GR_TCP_SEAT) == 0);
}

static void read_frame(const uint8_t *data, size_t n) {
    gr_tcp_frame frame;
    uint8_t again[GR_TCP_FRAME];
    if (gr_tcp_read_frame(data, n, &frame) != GRACE_OK) return;
    GR_ASSERT(frame.kind == GR_TCP_ROWS || frame.n_bytes == 0);
    gr_tcp_write_frame(&frame, again);
    GR_ASSERT(memcmp(again, data, GR_TCP_FRAME) == 0);
}

static void read_nodes(const uint8_t *data, size_t n) {
    char list[512], host[24];
    if (n >= sizeof list) return;
    memcpy(list, data, n);
    list[n] = '\0';
    if (gr_launcher_first_host(list, host, sizeof host) != GRACE_OK) return;
    GR_ASSERT(host[0] && strlen(host) < sizeof host && host[strcspn(host, "[], \t\n")] == '\0');
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n) {
    if (n == 0) return 0;
    switch (data[0]) {
        case 'h': read_hello(data + 1, n - 1); break;
        case 'a': read_answer(data + 1, n - 1); break;
        case 's': read_seat(data + 1, n - 1); break;
        case 'f': read_frame(data + 1, n - 1); break;
        default: read_nodes(data + 1, n - 1);
    }
    return 0;
}
