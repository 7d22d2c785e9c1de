#include "comm/tcp_socket.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

typedef union any_address { struct sockaddr base; struct sockaddr_in v4; struct sockaddr_in6 v6; struct sockaddr_storage room; } any_address;

static const uint8_t v4_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

void gr_tcp_close(int *fd) {
    if (*fd >= 0) close(*fd);
    *fd = -1;
}

static socklen_t size_of(const any_address *a) { return a->base.sa_family == AF_INET ? sizeof a->v4 : sizeof a->v6; }

static int new_socket(int family) { return socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0); }

static void set_option(int fd, int level, int option, int value) { (void)setsockopt(fd, level, option, &value, sizeof value); }

static int timeout_ms(double until_us) {
    double ms = (until_us - gr_now_us()) / 1e3;
    return ms <= 0 ? 0 : ms < 1e6 ? (int)ms + 1 : 1000000;
}

/* ---- addresses ---- */

void gr_tcp_address(const struct sockaddr *of, uint8_t out[GR_TCP_ADDRESS]) {
    if (of->sa_family == AF_INET6) {
        memcpy(out, &((const struct sockaddr_in6 *)(const void *)of)->sin6_addr, GR_TCP_ADDRESS);
        return;
    }
    memcpy(out, v4_prefix, sizeof v4_prefix);
    memcpy(out + sizeof v4_prefix, &((const struct sockaddr_in *)(const void *)of)->sin_addr, 4);
}

static any_address unpack(const uint8_t address[GR_TCP_ADDRESS], uint16_t port) {
    any_address a = {0};
    if (memcmp(address, v4_prefix, sizeof v4_prefix) == 0) {
        a.v4.sin_family = AF_INET;
        a.v4.sin_port = htons(port);
        memcpy(&a.v4.sin_addr, address + sizeof v4_prefix, 4);
    } else {
        a.v6.sin6_family = AF_INET6;
        a.v6.sin6_port = htons(port);
        memcpy(&a.v6.sin6_addr, address, GR_TCP_ADDRESS);
    }
    return a;
}

gr_tcp_text gr_tcp_text_of(const uint8_t address[GR_TCP_ADDRESS]) {
    gr_tcp_text text = {"?"};
    any_address a = unpack(address, 0);
    if (a.base.sa_family == AF_INET) inet_ntop(AF_INET, &a.v4.sin_addr, text.text, sizeof text.text);
    else inet_ntop(AF_INET6, &a.v6.sin6_addr, text.text, sizeof text.text);
    return text;
}

bool gr_tcp_is_loopback(const uint8_t address[GR_TCP_ADDRESS]) {
    static const uint8_t v6_loopback[GR_TCP_ADDRESS] = {[15] = 1};
    return memcmp(address, v6_loopback, GR_TCP_ADDRESS) == 0 || (memcmp(address, v4_prefix, sizeof v4_prefix) == 0 && address[12] == 127);
}

grace_status gr_tcp_peer(int fd, uint8_t address[GR_TCP_ADDRESS]) {
    grace_status st = GRACE_OK;
    any_address a = {0};
    socklen_t n = sizeof a;
    GR_CHECK(getpeername(fd, &a.base, &n) == 0, GRACE_ERR_COMM, "a rank hung up: %s", strerror(errno));
    gr_tcp_address(&a.base, address);
done:
    return st;
}

/* ---- listening ---- */

/* Every address of this machine, IPv4 and IPv6 alike where there is IPv6; only loopback when rank 0 is said to be there. */
static any_address listening_address(const char *host, uint16_t port, bool v6) {
    any_address a = {0};
    if (v6 && strcmp(host, "::1") == 0) a.v6.sin6_addr = in6addr_loopback;
    if (!v6 && (strcmp(host, "localhost") == 0 || strcmp(host, "127.0.0.1") == 0)) a.v4.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (v6) a.v6.sin6_family = AF_INET6, a.v6.sin6_port = htons(port);
    else a.v4.sin_family = AF_INET, a.v4.sin_port = htons(port);
    return a;
}

grace_status gr_tcp_listen(const char *host, uint16_t port, int *out, uint16_t *bound) {
    grace_status st = GRACE_OK;
    bool v6 = strcmp(host, "localhost") != 0 && strcmp(host, "127.0.0.1") != 0;
    int fd = v6 ? new_socket(AF_INET6) : -1;
    v6 = fd >= 0;
    if (!v6) fd = new_socket(AF_INET);
    any_address a = listening_address(host, port, v6);
    socklen_t n = size_of(&a);
    if (v6) set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 0);
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    GR_CHECK(fd >= 0 && bind(fd, &a.base, n) == 0 && listen(fd, SOMAXCONN) == 0 && getsockname(fd, &a.base, &n) == 0, GRACE_ERR_COMM,
             "cannot take connections at port %d: %s", port, strerror(errno));
    *bound = ntohs(v6 ? a.v6.sin6_port : a.v4.sin_port);
    *out = fd;
    fd = -1;
done:
    gr_tcp_close(&fd);
    return st;
}

/* ---- connecting ---- */

/* A socket that looks for a port of its own machine where nobody listens yet can be given that very port, and meets itself. */
static bool met_itself(int fd) {
    any_address here = {0}, there = {0};
    socklen_t n = sizeof here, m = sizeof there;
    return getsockname(fd, &here.base, &n) == 0 && getpeername(fd, &there.base, &m) == 0 && n == m && memcmp(&here, &there, n) == 0;
}

/* The socket, or -1 with errno. */
static int connect_once(const any_address *a, double until_us) {
    int fd = new_socket(a->base.sa_family), error = 0;
    socklen_t n = sizeof error;
    if (fd < 0) return -1;
    if (connect(fd, &a->base, size_of(a)) != 0) error = errno;
    if (error == EINPROGRESS) {
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        error = ETIMEDOUT;
        if (poll(&p, 1, timeout_ms(until_us)) == 1 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n) != 0) error = errno;
    }
    if (!error && met_itself(fd)) error = ECONNREFUSED;
    if (error) gr_tcp_close(&fd);
    else set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    errno = error;
    return fd;
}

static int connect_any(const struct addrinfo *list, double until_us) {
    int fd = -1;
    for (; list && fd < 0; list = list->ai_next) {
        any_address a = {0};
        if (list->ai_addrlen > sizeof a) continue;
        memcpy(&a, list->ai_addr, list->ai_addrlen);
        fd = connect_once(&a, until_us);
    }
    return fd;
}

grace_status gr_tcp_connect(const char *host, uint16_t port, double until_us, int *out) {
    grace_status st = GRACE_OK;
    struct addrinfo *list = NULL, hints = {.ai_socktype = SOCK_STREAM};
    char service[8];
    const char *reason = "";
    int fd = -1;
    snprintf(service, sizeof service, "%d", port);
    for (long pause_ms = 5; fd < 0; pause_ms += pause_ms < 200 ? pause_ms : 0) {
        int unknown = getaddrinfo(host, service, &hints, &list);
        fd = unknown ? -1 : connect_any(list, until_us);
        reason = unknown ? gai_strerror(unknown) : strerror(errno);
        if (!unknown) freeaddrinfo(list);
        GR_CHECK(fd >= 0 || gr_now_us() < until_us, GRACE_ERR_COMM, "rank 0 does not answer at %s:%d: %s", host, port, reason);
        if (fd < 0) nanosleep(&(struct timespec){.tv_nsec = pause_ms * 1000000}, NULL);
    }
    *out = fd;
done:
    return st;
}

grace_status gr_tcp_connect_seat(const gr_tcp_seat *seat, double until_us, int *out) {
    grace_status st = GRACE_OK;
    any_address a = unpack(seat->address, seat->port);
    int fd = connect_once(&a, until_us);
    GR_CHECK(fd >= 0, GRACE_ERR_COMM, "cannot connect to %s port %d: %s", gr_tcp_text_of(seat->address).text, seat->port, strerror(errno));
    *out = fd;
done:
    return st;
}

/* ---- whole messages ---- */

grace_status gr_tcp_send_all(int fd, const void *bytes, size_t n, double until_us) {
    grace_status st = GRACE_OK;
    for (size_t done = 0; done < n;) {
        ssize_t k = send(fd, (const char *)bytes + done, n - done, MSG_NOSIGNAL);
        if (k > 0) done += (size_t)k;
        GR_CHECK(k >= 0 || errno == EAGAIN || errno == EINTR, GRACE_ERR_COMM, "%s", strerror(errno));
        struct pollfd p = {.fd = fd, .events = POLLOUT};
        if (k < 0) GR_CHECK(poll(&p, 1, timeout_ms(until_us)) != 0, GRACE_ERR_COMM, "nothing taken in time");
    }
done:
    return st;
}

grace_status gr_tcp_recv_all(int fd, void *bytes, size_t n, double until_us) {
    grace_status st = GRACE_OK;
    for (size_t done = 0; done < n;) {
        ssize_t k = recv(fd, (char *)bytes + done, n - done, 0);
        if (k > 0) done += (size_t)k;
        GR_CHECK(k != 0, GRACE_ERR_COMM, "it closed the connection");
        GR_CHECK(k > 0 || errno == EAGAIN || errno == EINTR, GRACE_ERR_COMM, "%s", strerror(errno));
        struct pollfd p = {.fd = fd, .events = POLLIN};
        if (k < 0) GR_CHECK(poll(&p, 1, timeout_ms(until_us)) != 0, GRACE_ERR_COMM, "no answer in time");
    }
done:
    return st;
}

void gr_tcp_refuse(int fd, grace_status failure) {
    char sentence[GR_TCP_SENTENCE];
    uint8_t head[GR_TCP_ANSWER];
    double until_us = gr_now_us() + 1e6;
    snprintf(sentence, sizeof sentence, "%s", grace_last_error());
    gr_tcp_write_answer(&(gr_tcp_answer){.status = failure, .n_bytes = (uint32_t)strlen(sentence)}, head);
    if (gr_tcp_send_all(fd, head, sizeof head, until_us) == GRACE_OK) (void)gr_tcp_send_all(fd, sentence, strlen(sentence), until_us);
    (void)gr_fail(failure, "%s", sentence);
}
