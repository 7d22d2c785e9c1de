/* Connections of lines. Every rank listens and tells all where: the addresses of its interfaces, a port, a key. The higher rank of two connects to the lower,
 * by the first address that works. */
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/memory.h"
#include "comm/line_parts.h"
#include "comm/tcp_socket.h"

enum { ADDRESSES_MAX = 8, PATIENCE_US = 2000000 };

/* What a rank tells all. */
typedef struct place {
    uint8_t key[GR_TCP_KEY];
    int32_t n_addresses;
    uint16_t port;
    uint8_t address[ADDRESSES_MAX][GR_TCP_ADDRESS];
} place;

/* The first words of a connection, and with `yes` their answer. */
typedef struct hello { uint8_t key[GR_TCP_KEY]; int32_t rank, lane; } hello;
static const char yes[4] = "yes";

/* ---- addresses of this machine ---- */

/* As NCCL reads NCCL_SOCKET_IFNAME: beginnings of names, "=" in front for whole ones, "^" for all but these. */
static bool is_wanted(const char *name) {
    const char *list = getenv("NCCL_SOCKET_IFNAME");
    if (!list || !*list) return true;
    const bool others = *list == '^', whole = list[others] == '=';
    for (const char *at = list + others + whole; *at;) {
        const size_t n = strcspn(at, ",");
        if (n > 0 && strncmp(name, at, n) == 0 && (!whole || name[n] == '\0')) return !others;
        at += n + (at[n] == ',');
    }
    return others;
}

static void add_address(place *here, const struct sockaddr *a) {
    if (here->n_addresses == ADDRESSES_MAX) return;
    uint8_t *to = here->address[here->n_addresses];
    if (a->sa_family == AF_INET) {
        memset(to, 0, GR_TCP_ADDRESS);
        to[10] = to[11] = 0xff;         /* ::ffff:a.b.c.d */
        memcpy(to + 12, &((const struct sockaddr_in *)(const void *)a)->sin_addr, 4);
    } else memcpy(to, &((const struct sockaddr_in6 *)(const void *)a)->sin6_addr, GR_TCP_ADDRESS);
    here->n_addresses++;
}

static bool is_usable(const struct ifaddrs *i, int family, bool loopback) {
    if (!i->ifa_addr || i->ifa_addr->sa_family != family || !(i->ifa_flags & IFF_UP) || !!(i->ifa_flags & IFF_LOOPBACK) != loopback) return false;
    if (family == AF_INET6 && IN6_IS_ADDR_LINKLOCAL(&((const struct sockaddr_in6 *)(const void *)i->ifa_addr)->sin6_addr)) return false;
    return is_wanted(i->ifa_name);
}

/* The loopback's last: it reaches ranks of this machine alone. */
static grace_status list_addresses(place *here) {
    grace_status st = GRACE_OK;
    static const struct { int family; bool loopback; } order[] = {{AF_INET, false}, {AF_INET6, false}, {AF_INET, true}};
    struct ifaddrs *all = NULL;
    GR_CHECK(getifaddrs(&all) == 0, GRACE_ERR_COMM, "no list of this machine's interfaces: %s", strerror(errno));
    for (size_t o = 0; o < sizeof order / sizeof *order; o++)
        for (const struct ifaddrs *i = all; i; i = i->ifa_next)
            if (is_usable(i, order[o].family, order[o].loopback)) add_address(here, i->ifa_addr);
    const char *names = getenv("NCCL_SOCKET_IFNAME");
    GR_CHECK(here->n_addresses > 0, GRACE_ERR_COMM, "no interface that is up%s%s", names ? " has a name as NCCL_SOCKET_IFNAME says: " : "",
             names ? names : "");
done:
    if (all) freeifaddrs(all);
    return st;
}

static grace_status listen_here(place *here, int *listener) {
    grace_status st = GRACE_OK;
    GR_CHECK(getrandom(here->key, sizeof here->key, 0) == sizeof here->key, GRACE_ERR_IO, "no random bytes: %s", strerror(errno));
    GR_TRY(list_addresses(here));
    GR_TRY(gr_tcp_listen("any", 0, listener, &here->port));
done:
    return st;
}

/* ---- connections ---- */

typedef struct meeting {
    const gr_comm *world;
    const int32_t *peers;
    int32_t n_peers, n_lanes;
    double until_us, deadline_s;
    const place *places;
    int *fd;
} meeting;

static grace_status greet(int fd, const hello *h, double until_us) {
    grace_status st = GRACE_OK;
    char answer[sizeof yes];
    GR_TRY(gr_tcp_send_all(fd, h, sizeof *h, until_us));
    GR_TRY(gr_tcp_recv_all(fd, answer, sizeof answer, until_us));
    GR_CHECK(memcmp(answer, yes, sizeof yes) == 0, GRACE_ERR_COMM, "somebody else answers");
done:
    return st;
}

static double sooner(double a, double b) { return a < b ? a : b; }

/* A line to a lower rank. */
static grace_status call(const meeting *m, int32_t p, int32_t lane) {
    grace_status st = GRACE_OK;
    const place *there = &m->places[m->peers[p]];
    hello h = {.rank = m->world->rank, .lane = lane};
    memcpy(h.key, there->key, sizeof h.key);
    for (int32_t i = 0; i < there->n_addresses; i++) {
        gr_tcp_seat seat = {.port = there->port};
        int fd = -1;
        memcpy(seat.address, there->address[i], GR_TCP_ADDRESS);
        st = gr_tcp_connect_seat(&seat, sooner(m->until_us, gr_now_us() + PATIENCE_US), &fd);
        if (!st) st = greet(fd, &h, m->until_us);
        if (!st) return m->fd[lane * m->n_peers + p] = fd, GRACE_OK;
        gr_tcp_close(&fd);
    }
    return gr_fail_in(st, "rank %d: a line to rank %d by any of %d addresses", m->world->rank, m->peers[p], there->n_addresses);
}

static int32_t index_of(const meeting *m, int32_t rank) {
    for (int32_t p = 0; p < m->n_peers; p++)
        if (m->peers[p] == rank) return p;
    return -1;
}

/* Whoever is not one of ours is sent away. */
static void seat_caller(const meeting *m, int fd, int32_t *n_missing) {
    hello h;
    int32_t p;
    if (gr_tcp_recv_all(fd, &h, sizeof h, sooner(m->until_us, gr_now_us() + PATIENCE_US)) != GRACE_OK) goto away;
    p = index_of(m, h.rank);
    if (memcmp(h.key, m->places[m->world->rank].key, sizeof h.key) != 0 || p < 0 || h.rank < m->world->rank || h.lane < 0 || h.lane >= m->n_lanes) goto away;
    if (m->fd[h.lane * m->n_peers + p] >= 0 || gr_tcp_send_all(fd, yes, sizeof yes, m->until_us) != GRACE_OK) goto away;
    m->fd[h.lane * m->n_peers + p] = fd;
    --*n_missing;
    return;
away:
    gr_tcp_close(&fd);
}

/* Lines to higher ranks. */
static grace_status await_callers(const meeting *m, int listener) {
    grace_status st = GRACE_OK;
    int32_t n_missing = 0;
    for (int32_t p = 0; p < m->n_peers; p++) n_missing += m->peers[p] > m->world->rank ? m->n_lanes : 0;
    while (n_missing > 0) {
        struct pollfd l = {.fd = listener, .events = POLLIN};
        const double left_us = m->until_us - gr_now_us();
        GR_CHECK(left_us > 0, GRACE_ERR_COMM, "rank %d: %d lines of higher ranks have not come after %g s", m->world->rank, n_missing, m->deadline_s);
        if (poll(&l, 1, (int)(left_us / 1000) + 1) <= 0) continue;
        const int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) seat_caller(m, fd, &n_missing);
    }
done:
    return st;
}

static void no_delay(int fd) {
    int on = 1;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* Lower ranks first: rank 0 calls nobody, so somebody always listens. */
static grace_status meet(const meeting *m, int listener) {
    grace_status st = GRACE_OK;
    for (int32_t p = 0; p < m->n_peers; p++)
        for (int32_t lane = 0; lane < m->n_lanes && m->peers[p] < m->world->rank; lane++) GR_TRY(call(m, p, lane));
    GR_TRY(await_callers(m, listener));
    for (int32_t i = 0; i < m->n_lanes * m->n_peers; i++) no_delay(m->fd[i]);
done:
    return st;
}

grace_status gr_line_connect(gr_comm *world, const int32_t *peers, int32_t n_peers, int32_t n_lanes, double deadline_s, int **out) {
    grace_status st = GRACE_OK;
    place here = {0}, *places = NULL;
    int listener = -1, *fd = NULL;
    const int32_t n = n_lanes * n_peers;
    GR_CALLOC(places, world->n_ranks);
    GR_CALLOC(fd, n);
    for (int32_t i = 0; i < n; i++) fd[i] = -1;
    GR_TRY(grace_comm_agree(world, listen_here(&here, &listener)));
    GR_TRY(gr_comm_allgather(world, &here, sizeof here, places));
    const meeting m = {world, peers, n_peers, n_lanes, gr_now_us() + 1e6 * deadline_s, deadline_s, places, fd};
    GR_TRY(grace_comm_agree(world, meet(&m, listener)));
    *out = fd;
    fd = NULL;
done:
    for (int32_t i = 0; fd && i < n; i++) gr_tcp_close(&fd[i]);
    gr_tcp_close(&listener);
    free(fd);
    free(places);
    return st;
}
