/* Ranks that come to a listening socket, one by one, among whoever else may knock there. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/log.h"
#include "comm/tcp_socket.h"

enum { GUESTS_MAX = 64, NAMED_MAX = 8 };   /* who have not said all of their hello; when more come, the one that waits longest goes */

typedef struct guest { int fd; size_t n; uint8_t words[GR_TCP_HELLO]; } guest;

typedef struct hall { guest guests[GUESTS_MAX]; int n_guests, n_strangers; } hall;

static bool awaits(const gr_tcp_gate *g, int32_t rank) { return rank > g->me && (!g->awaited || g->awaited[rank]); }

static void drop(hall *h, int i) {
    gr_tcp_close(&h->guests[i].fd);
    memmove(h->guests + i, h->guests + i + 1, (size_t)(--h->n_guests - i) * sizeof *h->guests);
}

/* As many as there is room for, and one when there is none: whoever comes is heard before it can be the one that goes. */
static void let_in(hall *h, int listener) {
    const int room = h->n_guests < GUESTS_MAX ? GUESTS_MAX - h->n_guests : 1;
    for (int i = 0, fd, on = 1; i < room && (fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0; i++) {
        if (h->n_guests == GUESTS_MAX) drop(h, 0);
        (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        h->guests[h->n_guests++] = (guest){.fd = fd};
    }
}

static void send_away(hall *h, int i, const char *why) {
    uint8_t address[GR_TCP_ADDRESS];
    if (gr_tcp_peer(h->guests[i].fd, address) == GRACE_OK && h->n_strangers++ < NAMED_MAX)
        gr_log(GR_WARN, "tcp", "a connection from %s was refused: %s%s", gr_tcp_text_of(address).text, why,
               h->n_strangers == NAMED_MAX ? " (more such are not told)" : "");
    drop(h, i);
}

/* A caller with our key is one of ours: what does not fit then ends the job, since it cannot become whole. */
static grace_status seat(const gr_tcp_gate *g, hall *h, int i, int *fd, gr_tcp_hello *hello) {
    grace_status st = GRACE_OK;
    gr_tcp_hello words;
    if (gr_tcp_read_hello(h->guests[i].words, h->guests[i].n, &words) != GRACE_OK) return send_away(h, i, grace_last_error()), GRACE_OK;
    if (memcmp(words.key, g->key, GR_TCP_KEY) != 0) {
        gr_tcp_refuse(h->guests[i].fd, gr_fail(GRACE_ERR_ARG, "rank %d: %s: rank %d there is of another job", words.rank, g->name, g->me));
        return send_away(h, i, "a rank of another job"), GRACE_OK;
    }
    GR_CHECK(words.n_ranks == g->n_ranks, GRACE_ERR_ARG, "rank %d: %s: rank %d was started as one of %d ranks, rank %d as one of %d", g->me, g->name,
             words.rank, words.n_ranks, g->me, g->n_ranks);
    GR_CHECK(!g->awaited || awaits(g, words.rank), GRACE_ERR_ARG, "rank %d: %s: rank %d calls, which is not awaited", g->me, g->name,
             words.rank);
    GR_CHECK(words.rank > g->me && fd[words.rank] < 0, GRACE_ERR_ARG, "rank %d: %s: two processes were started as rank %d", g->me, g->name, words.rank);
    fd[words.rank] = h->guests[i].fd;
    hello[words.rank] = words;
    h->guests[i].fd = -1;
    drop(h, i);
done:
    if (st != GRACE_OK) gr_tcp_refuse(h->guests[i].fd, st);
    return st;
}

/* false: gone, and so is its place. */
static bool hear(hall *h, int i) {
    guest *g = &h->guests[i];
    ssize_t n = recv(g->fd, g->words + g->n, sizeof g->words - g->n, 0);
    if (n > 0) g->n += (size_t)n;
    bool stays = n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR));
    if (!stays) send_away(h, i, "it said nothing a rank says");
    return stays;
}

static grace_status hear_all(const gr_tcp_gate *g, hall *h, int *fd, gr_tcp_hello *hello) {
    grace_status st = GRACE_OK;
    for (int i = h->n_guests - 1; i >= 0; i--)          /* from the last: a guest that leaves its place moves only those already heard */
        if (hear(h, i) && h->guests[i].n == GR_TCP_HELLO) GR_TRY(seat(g, h, i, fd, hello));
done:
    return st;
}

static void await(const gr_tcp_gate *g, const hall *h) {
    struct pollfd p[1 + GUESTS_MAX] = {{.fd = g->listener, .events = POLLIN}};
    double ms = (g->until_us - gr_now_us()) / 1e3;
    for (int i = 0; i < h->n_guests; i++) p[1 + i] = (struct pollfd){.fd = h->guests[i].fd, .events = POLLIN};
    if (ms > 0) poll(p, 1 + (nfds_t)h->n_guests, ms < 1e6 ? (int)ms + 1 : 1000000);
}

static int32_t n_missing(const gr_tcp_gate *g, const int *fd) {
    int32_t n = 0;
    for (int32_t r = g->me + 1; r < g->n_ranks; r++) n += awaits(g, r) && fd[r] < 0;
    return n;
}

/* "ranks 1, 4, 5 of 8 missing after 30 s" */
static grace_status name_missing(const gr_tcp_gate *g, const int *fd) {
    char names[160] = "";
    size_t n = 0;
    int32_t left = n_missing(g, fd);
    const char *s = left > 1 ? "s" : "";
    for (int32_t r = g->me + 1; r < g->n_ranks && n < sizeof names - 24; r++)
        if (awaits(g, r) && fd[r] < 0) n += (size_t)snprintf(names + n, sizeof names - n, "%s%d", n ? ", " : "", r), left--;
    return gr_fail(GRACE_ERR_COMM, "rank %d: %s: rank%s %s%s of %d missing after %g s", g->me, g->name, s, names, left > 0 ? ", ..." : "", g->n_ranks,
                   g->deadline_s);
}

grace_status gr_tcp_gather(const gr_tcp_gate *g, int *fd, gr_tcp_hello *hello) {
    grace_status st = GRACE_OK;
    hall h = {.n_guests = 0};
    while (n_missing(g, fd) > 0) {
        if (gr_now_us() > g->until_us) {
            st = name_missing(g, fd);
            goto done;
        }
        await(g, &h);
        GR_TRY(hear_all(g, &h, fd, hello));
        let_in(&h, g->listener);
    }
done:
    while (h.n_guests > 0) drop(&h, 0);
    return st;
}
