/* Connections of lines. Every rank listens and tells all where: the addresses of its interfaces, a port, a key. The higher rank of two connects to
 * the lower, by the first address that works, a lane after the other. */
#include <errno.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/memory.h"
#include "comm/line_parts.h"
#include "comm/tcp_socket.h"

enum { ADDRESSES_MAX = 8, PATIENCE_US = 2000000, ANSWER_US = 2000000 };

/* What a rank tells all. */
typedef struct place {
    uint8_t key[GR_TCP_KEY];
    int32_t n_addresses;
    uint16_t port;
    uint8_t address[ADDRESSES_MAX][GR_TCP_ADDRESS];
} place;

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
    if (here->n_addresses < ADDRESSES_MAX) gr_tcp_address(a, here->address[here->n_addresses++]);
}

/* The order in which others try them. Docker's bridges and the loopback have the same addresses everywhere and reach ranks of this machine alone. */
enum { V4, V6, BRIDGE, LOOPBACK, N_TURNS, NEVER };

static int turn_of(const struct ifaddrs *i) {
    if (!i->ifa_addr || !(i->ifa_flags & IFF_UP) || !(i->ifa_flags & IFF_RUNNING) || !is_wanted(i->ifa_name)) return NEVER;
    if (i->ifa_addr->sa_family == AF_INET) return i->ifa_flags & IFF_LOOPBACK ? LOOPBACK : strncmp(i->ifa_name, "docker", 6) == 0 ? BRIDGE : V4;
    if (i->ifa_addr->sa_family != AF_INET6 || i->ifa_flags & IFF_LOOPBACK) return NEVER;
    return IN6_IS_ADDR_LINKLOCAL(&((const struct sockaddr_in6 *)(const void *)i->ifa_addr)->sin6_addr) ? NEVER : V6;
}

static grace_status list_addresses(place *here) {
    grace_status st = GRACE_OK;
    const char *names = getenv("NCCL_SOCKET_IFNAME");
    struct ifaddrs *all = NULL;
    GR_CHECK(getifaddrs(&all) == 0, GRACE_ERR_COMM, "no list of this machine's interfaces: %s", strerror(errno));
    for (int turn = 0; turn < N_TURNS; turn++)
        for (const struct ifaddrs *i = all; i; i = i->ifa_next)
            if (turn_of(i) == turn) add_address(here, i->ifa_addr);
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
    int32_t n_peers;
    double until_us, deadline_s;
    int listener;
    const place *places;                /* [n_ranks] */
    int32_t *works;                     /* [n_peers] which of its addresses did */
    int *fd;                            /* [n_peers] of this lane */
    int *caller;                        /* [n_ranks] */
    gr_tcp_hello *hello;                /* [n_ranks] */
} meeting;

/* Say who we are, and wait until it is somebody who expects us. It answers when all have come that it awaits, or says who has not, a little after the
 * deadline. */
static grace_status greet(const meeting *m, int fd, const place *there) {
    grace_status st = GRACE_OK;
    gr_tcp_hello me = {.rank = m->world->rank, .n_ranks = m->world->n_ranks, .port = m->places[m->world->rank].port, .host = "line"};
    uint8_t words[GR_TCP_HELLO], head[GR_TCP_ANSWER];
    char body[GR_TCP_SENTENCE + 1] = "";
    gr_tcp_answer answer;
    const double until_us = m->until_us + ANSWER_US;
    memcpy(me.key, there->key, sizeof me.key);
    gr_tcp_write_hello(&me, words);
    GR_TRY(gr_tcp_send_all(fd, words, sizeof words, until_us));
    GR_TRY(gr_tcp_recv_all(fd, head, sizeof head, until_us));
    GR_TRY(gr_tcp_read_answer(head, sizeof head, 0, &answer));
    GR_TRY(gr_tcp_recv_all(fd, body, answer.n_bytes, until_us));
    GR_CHECK(answer.status == GRACE_OK, answer.status, "%s", body);
    GR_CHECK(memcmp(body, there->key, sizeof there->key) == 0, GRACE_ERR_COMM, "somebody else answers");
done:
    return st;
}

static grace_status welcome(const meeting *m, int fd) {
    grace_status st = GRACE_OK;
    uint8_t head[GR_TCP_ANSWER];
    gr_tcp_write_answer(&(gr_tcp_answer){.status = GRACE_OK, .n_bytes = GR_TCP_KEY}, head);
    GR_TRY(gr_tcp_send_all(fd, head, sizeof head, m->until_us));
    GR_TRY(gr_tcp_send_all(fd, m->places[m->world->rank].key, GR_TCP_KEY, m->until_us));
done:
    return st;
}

static double sooner(double a, double b) { return a < b ? a : b; }

static grace_status call_at(const meeting *m, int32_t p, int32_t address) {
    grace_status st = GRACE_OK;
    const place *there = &m->places[m->peers[p]];
    gr_tcp_seat seat = {.port = there->port};
    memcpy(seat.address, there->address[address], GR_TCP_ADDRESS);
    GR_TRY(gr_tcp_connect_seat(&seat, sooner(m->until_us, gr_now_us() + PATIENCE_US), &m->fd[p]));
    GR_TRY(greet(m, m->fd[p], there));
    m->works[p] = address;
done:
    if (st) gr_tcp_close(&m->fd[p]);
    return st;
}

/* A lower rank. What worked before comes first. */
static grace_status call(const meeting *m, int32_t p) {
    const int32_t n = m->places[m->peers[p]].n_addresses, first = m->works[p];
    char tried[600] = "";
    for (int32_t i = 0; i < n && (i == 0 || gr_now_us() < m->until_us); i++) {
        if (call_at(m, p, (first + i) % n) == GRACE_OK) return GRACE_OK;
        const size_t at = strlen(tried);
        snprintf(tried + at, sizeof tried - at, "%s%s", at ? "; " : "", grace_last_error());
    }
    return gr_fail(GRACE_ERR_COMM, "rank %d: no line to rank %d: %s", m->world->rank, m->peers[p], tried);
}

/* Higher ranks. */
static grace_status await_callers(const meeting *m) {
    grace_status st = GRACE_OK;
    bool *awaited = NULL;
    GR_CALLOC(awaited, m->world->n_ranks);
    for (int32_t p = 0; p < m->n_peers; p++) awaited[m->peers[p]] = true;
    const gr_tcp_gate gate = {.listener = m->listener, .me = m->world->rank, .n_ranks = m->world->n_ranks, .awaited = awaited,
                              .key = m->places[m->world->rank].key, .until_us = m->until_us, .deadline_s = m->deadline_s, .name = "lines"};
    st = gr_tcp_gather(&gate, m->caller, m->hello);
    for (int32_t r = 0; r < m->world->n_ranks && st; r++)
        if (m->caller[r] >= 0) gr_tcp_refuse(m->caller[r], st);
    GR_TRY(st);
    for (int32_t p = 0; p < m->n_peers; p++) {
        if (m->peers[p] < m->world->rank) continue;
        m->fd[p] = m->caller[m->peers[p]];
        m->caller[m->peers[p]] = -1;
        GR_TRY(welcome(m, m->fd[p]));
    }
done:
    free(awaited);
    return st;
}

/* Lower ranks first: rank 0 calls nobody, so somebody always listens. */
static grace_status meet(const meeting *m) {
    grace_status st = GRACE_OK;
    for (int32_t p = 0; p < m->n_peers && m->peers[p] < m->world->rank; p++) GR_TRY(call(m, p));
    GR_TRY(await_callers(m));
done:
    return st;
}

static void forget(int *fd, int32_t n) {
    for (int32_t i = 0; fd && i < n; i++) gr_tcp_close(&fd[i]);
}

static grace_status nobody(int **fd, int32_t n) {
    grace_status st = GRACE_OK;
    GR_CALLOC(*fd, n);
    for (int32_t i = 0; i < n; i++) (*fd)[i] = -1;
done:
    return st;
}

static grace_status prepare(meeting *m, int32_t n_lanes, place *here, place **places, int **fd) {
    grace_status st = GRACE_OK;
    GR_TRY(nobody(fd, n_lanes * m->n_peers));
    GR_TRY(nobody(&m->caller, m->world->n_ranks));
    GR_CALLOC(m->hello, m->world->n_ranks);
    GR_CALLOC(m->works, m->n_peers);
    GR_CALLOC(*places, m->world->n_ranks);
    GR_TRY(listen_here(here, &m->listener));
done:
    return st;
}

grace_status gr_line_connect(gr_comm *world, const int32_t *peers, int32_t n_peers, int32_t n_lanes, double deadline_s, int **out) {
    grace_status st = GRACE_OK;
    place here = {0}, *places = NULL;
    int *fd = NULL;
    meeting m = {.world = world, .peers = peers, .n_peers = n_peers, .deadline_s = deadline_s, .listener = -1};
    GR_TRY(grace_comm_agree(world, prepare(&m, n_lanes, &here, &places, &fd)));
    GR_TRY(gr_comm_allgather(world, &here, sizeof here, places));
    m.places = places;
    m.until_us = gr_now_us() + 1e6 * deadline_s;
    for (int32_t lane = 0; lane < n_lanes; lane++) {
        m.fd = fd + lane * n_peers;
        GR_TRY(grace_comm_agree(world, meet(&m)));
    }
    *out = fd;
    fd = NULL;
done:
    forget(fd, n_lanes * n_peers);
    forget(m.caller, world->n_ranks);
    gr_tcp_close(&m.listener);
    free(fd);
    free(places);
    free(m.caller);
    free(m.hello);
    free(m.works);
    return st;
}
