/* Sockets for ranks that look for each other: none of these calls waits longer than until until_us (gr_now_us()). All sockets given out
 * are non-blocking, without delay for small messages, and closed in programs this one starts. */
#ifndef GR_COMM_TCP_SOCKET_H
#define GR_COMM_TCP_SOCKET_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "comm/tcp_message.h"

/* Take connections at `port` (0: any; *bound gets it). host: where rank 0 is; when that is this machine's loopback, nobody outside can connect. */
grace_status gr_tcp_listen(const char *host, uint16_t port, int *out, uint16_t *bound);
/* Try until somebody takes the connection. Fails with COMM. */
grace_status gr_tcp_connect(const char *host, uint16_t port, double until_us, int *out);
grace_status gr_tcp_connect_seat(const gr_tcp_seat *seat, double until_us, int *out);
struct sockaddr;
/* As it is told to others: of IPv4 or IPv6. */
void gr_tcp_address(const struct sockaddr *of, uint8_t out[GR_TCP_ADDRESS]);
/* The other end's address. */
grace_status gr_tcp_peer(int fd, uint8_t address[GR_TCP_ADDRESS]);
/* As people write it, or "?". */
typedef struct gr_tcp_text { char text[48]; } gr_tcp_text;
gr_tcp_text gr_tcp_text_of(const uint8_t address[GR_TCP_ADDRESS]);
bool gr_tcp_is_loopback(const uint8_t address[GR_TCP_ADDRESS]);
grace_status gr_tcp_send_all(int fd, const void *bytes, size_t n, double until_us);
grace_status gr_tcp_recv_all(int fd, void *bytes, size_t n, double until_us);
/* Answer a hello with the last failure, which then is the caller's too. Waits a second at most. */
void gr_tcp_refuse(int fd, grace_status failure);
/* Closes and forgets: *fd is -1 then. */
void gr_tcp_close(int *fd);

/* Wait at `listener` until each awaited rank above `me` has come with a hello that holds `key`. Callers with other words are sent away.
 *   fd, hello   [n_ranks] of those who came; entries of fd are -1 before
 * Fails with COMM: somebody has not come by then (the message names them); ARG: somebody was started as part of a job of another size, or twice.
 * What is in fd by then stays there. */
typedef struct gr_tcp_gate {
    int listener;
    int32_t me, n_ranks;
    const bool *awaited;                /* [n_ranks]; NULL: all */
    const uint8_t *key;
    double until_us, deadline_s;
    const char *name;
} gr_tcp_gate;
grace_status gr_tcp_gather(const gr_tcp_gate *gate, int *fd, gr_tcp_hello *hello);

#endif
