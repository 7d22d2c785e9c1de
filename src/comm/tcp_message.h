/* What crosses the sockets of the tcp transport, little-endian. Whoever connects may send anything: nothing read here is trusted.
 *   hello   opens every connection: who calls, where it listens, and the key that makes it one of ours
 *   answer  rank 0's, to each hello: a table of all ranks, or the sentence with which the job ends
 *   frame   stands before each peer's rows of a transfer */
#ifndef GR_COMM_TCP_MESSAGE_H
#define GR_COMM_TCP_MESSAGE_H
#include <stddef.h>
#include <stdint.h>

#include "base/status.h"

enum { GR_TCP_KEY = 16, GR_TCP_HOST = 128, GR_TCP_ADDRESS = 16, GR_TCP_HELLO = 168, GR_TCP_ANSWER = 16, GR_TCP_SEAT = 146, GR_TCP_FRAME = 24,
       GR_TCP_SENTENCE = 1000 };

typedef struct gr_tcp_hello {
    int32_t rank, n_ranks;
    uint16_t port;                  /* where the caller listens */
    uint8_t key[GR_TCP_KEY];        /* to rank 0: the launcher's number of the job; to others: what rank 0 drew */
    char host[GR_TCP_HOST];         /* identity of the machine */
} gr_tcp_hello;

void gr_tcp_write_hello(const gr_tcp_hello *hello, uint8_t out[GR_TCP_HELLO]);
/* Fails with FORMAT: not n == GR_TCP_HELLO bytes of ours. */
grace_status gr_tcp_read_hello(const uint8_t *bytes, size_t n, gr_tcp_hello *out);

/* n_bytes follow: GR_TCP_KEY + n_ranks * GR_TCP_SEAT when status is OK, else a sentence of at most GR_TCP_SENTENCE. */
typedef struct gr_tcp_answer { grace_status status; uint32_t n_bytes; } gr_tcp_answer;

void gr_tcp_write_answer(const gr_tcp_answer *answer, uint8_t out[GR_TCP_ANSWER]);
grace_status gr_tcp_read_answer(const uint8_t *bytes, size_t n, int32_t n_ranks, gr_tcp_answer *out);

/* A rank's line of the table. */
typedef struct gr_tcp_seat { uint8_t address[GR_TCP_ADDRESS]; uint16_t port; char host[GR_TCP_HOST]; } gr_tcp_seat;    /* IPv4 as ::ffff:a.b.c.d */

void gr_tcp_write_seat(const gr_tcp_seat *seat, uint8_t out[GR_TCP_SEAT]);
grace_status gr_tcp_read_seat(const uint8_t *bytes, size_t n, gr_tcp_seat *out);

typedef enum gr_tcp_kind { GR_TCP_ROWS, GR_TCP_LEAVE } gr_tcp_kind;
typedef struct gr_tcp_frame {
    gr_tcp_kind kind;
    uint32_t context;               /* ROWS: the communicator; LEAVE: the rank because of which the sender leaves */
    uint64_t sequence;              /* ROWS: the communicator's transfer */
    uint64_t n_bytes;               /* of rows that follow */
} gr_tcp_frame;

void gr_tcp_write_frame(const gr_tcp_frame *frame, uint8_t out[GR_TCP_FRAME]);
grace_status gr_tcp_read_frame(const uint8_t *bytes, size_t n, gr_tcp_frame *out);

#endif
