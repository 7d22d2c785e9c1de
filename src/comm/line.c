#include "comm/line.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "comm/line_parts.h"
#include "comm/tcp_socket.h"

enum { SPIN_US = 2000, NAP_US = 50, WAKE_MS = 100 };

static const char *const way_names[GR_LINE_WAYS] = {"dispatch", "combine"};

/* A connection: one lane to one peer. Messages are counted from 0: message i is number i / 2 + 1 of way i % 2. */
typedef struct end {
    int fd;
    int64_t n_sent, n_received;
    gr_line_frame coming;
    size_t n_frame;                     /* bytes of it that are there */
    int64_t n_bytes;                    /* of what follows it */
    double moved_us;
    bool is_over;                       /* the peer said goodbye */
} end;

typedef struct lane {
    gr_line *line;
    gr_line_lane boxes;
    end *ends;                          /* [n_peers] */
    struct pollfd *poll;
    pthread_t sender, receiver;
    bool has_sender, has_receiver;
} lane;

struct gr_line {
    int32_t rank, n_peers, n_lanes, *peers;
    double deadline_s;
    bool naps;                          /* more ranks than cores: waits sleep */
    volatile int32_t *stop;
    lane *lanes;
    atomic_int failed, ends_sending, ends_receiving;        /* failed: 1 while the cause is written, 2 then */
    char cause[300];
};

static int32_t way_of(int64_t message) { return (int32_t)(message % GR_LINE_WAYS); }
static uint32_t number_of(int64_t message) { return (uint32_t)(message / GR_LINE_WAYS + 1); }
static _Atomic uint32_t *flag_of(gr_line_head *head) { return (_Atomic uint32_t *)&head->number; }

/* ---- failure: the first cause stays ---- */

static void fail(gr_line *l, const char *format, ...) {
    int none = 0;
    va_list args;
    if (!atomic_compare_exchange_strong(&l->failed, &none, 1)) return;
    va_start(args, format);
    vsnprintf(l->cause, sizeof l->cause, format, args);
    va_end(args);
    *l->stop = 1;
    atomic_store(&l->failed, 2);
}

grace_status gr_line_check(const gr_line *l) {
    if (!atomic_load(&((gr_line *)l)->failed)) return GRACE_OK;
    while (atomic_load(&((gr_line *)l)->failed) != 2) sched_yield();
    return gr_fail(GRACE_ERR_COMM, "rank %d: %s", l->rank, l->cause);
}

static bool has_failed(gr_line *l) { return atomic_load(&l->failed) != 0; }

/* Between looks: at once for a while, since the next message is mostly near. */
static void pause_since(const gr_line *l, double idle_us) {
    if (!l->naps && idle_us < SPIN_US) sched_yield();
    else nanosleep(&(struct timespec){.tv_nsec = NAP_US * 1000}, NULL);
}

static bool would_block(void) { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

/* ---- sending ---- */

static bool send_all(lane *v, int32_t p, struct iovec *piece, int n) {
    gr_line *l = v->line;
    double moved_us = gr_now_us();
    while (n > 0 && !has_failed(l)) {
        ssize_t k = sendmsg(v->ends[p].fd, &(struct msghdr){.msg_iov = piece, .msg_iovlen = (size_t)n}, MSG_NOSIGNAL);
        if (k < 0 && !would_block()) return fail(l, "rank %d is gone (%s)", l->peers[p], strerror(errno)), false;
        if (k < 0) {
            (void)poll(&(struct pollfd){.fd = v->ends[p].fd, .events = POLLOUT}, 1, WAKE_MS);
            if (gr_now_us() - moved_us > 1e6 * l->deadline_s)
                return fail(l, "rank %d has taken nothing of a message for %g s", l->peers[p], l->deadline_s), false;
            continue;
        }
        moved_us = gr_now_us();
        for (; n > 0 && (size_t)k >= piece->iov_len; piece++, n--) k -= (ssize_t)piece->iov_len;
        if (n > 0) piece->iov_base = (char *)piece->iov_base + k, piece->iov_len -= (size_t)k;
    }
    return n == 0;
}

/* Whether something left. */
static bool send_ready(lane *v, int32_t p) {
    end *e = &v->ends[p];
    const int32_t way = way_of(e->n_sent);
    const gr_line_box *box = &v->boxes.out[way][p];
    if (atomic_load_explicit(flag_of(box->head), memory_order_acquire) != number_of(e->n_sent)) return false;
    gr_line_frame f = {GR_LINE_MESSAGE, number_of(e->n_sent), way, box->head->rows, box->head->entries, 0, box->head->n_bytes};
    struct iovec piece[2] = {{&f, sizeof f}, {gr_line_bytes(box), (size_t)f.n_bytes}};
    e->n_sent++;
    return send_all(v, p, piece, f.n_bytes > 0 ? 2 : 1);
}

/* Also to one that said it first: it may still listen, and must not take our end for a failure. */
static void say_goodbye(lane *v) {
    gr_line *l = v->line;
    const double until_us = gr_now_us() + 1e6 * l->deadline_s;
    for (int32_t p = 0; p < l->n_peers && !has_failed(l); p++)
        (void)gr_tcp_send_all(v->ends[p].fd, &(gr_line_frame){.kind = GR_LINE_BYE}, sizeof(gr_line_frame), until_us);
}

static void *run_sender(void *user) {
    lane *v = user;
    gr_line *l = v->line;
    double moved_us = gr_now_us();
    while (!has_failed(l)) {
        const bool is_end = atomic_load(&l->ends_sending);      /* before the last look */
        bool moved = false;
        for (int32_t p = 0; p < l->n_peers; p++) moved = send_ready(v, p) || moved;
        if (!moved && is_end) break;
        if (moved) moved_us = gr_now_us();
        else pause_since(l, gr_now_us() - moved_us);
    }
    say_goodbye(v);
    return NULL;
}

/* ---- receiving ---- */

grace_status gr_line_expect(const gr_line_frame *f, int32_t way, uint32_t number, const gr_line_room *room) {
    grace_status st = GRACE_OK;
    GR_CHECK(f->kind == GR_LINE_MESSAGE && f->way == way && f->number == number, GRACE_ERR_COMM,
             "sends message %u of way %d, of kind %x, where %s %u is next", f->number, f->way, f->kind, way_names[way], number);
    GR_CHECK(f->n_bytes >= 0 && f->n_bytes <= room->n_bytes && f->rows >= 0 && f->rows <= room->rows && f->entries >= f->rows &&
             f->entries <= (int64_t)f->rows * room->entries_a_row, GRACE_ERR_COMM,
             "sends %d rows with %d entries in %lld bytes for %s; there is room for %d with %d each in %lld", f->rows, f->entries, (long long)f->n_bytes,
             way_names[way], room->rows, room->entries_a_row, (long long)room->n_bytes);
done:
    return st;
}

/* It says what must come next, or the line is broken. */
static bool accept_frame(lane *v, int32_t p) {
    end *e = &v->ends[p];
    const int32_t way = way_of(e->n_received);
    e->is_over = e->coming.kind == GR_LINE_BYE;
    if (e->is_over) return false;
    if (!gr_line_expect(&e->coming, way, number_of(e->n_received), &v->boxes.room[way])) return true;
    return fail(v->line, "rank %d %s", v->line->peers[p], grace_last_error()), false;
}

static void deliver(lane *v, int32_t p) {
    end *e = &v->ends[p];
    gr_line_head *head = v->boxes.in[way_of(e->n_received)][p].head;
    head->rows = e->coming.rows, head->entries = e->coming.entries, head->n_bytes = e->coming.n_bytes;
    atomic_store_explicit(flag_of(head), e->coming.number, memory_order_release);
    e->n_received++;
    e->n_frame = 0, e->n_bytes = 0;
}

/* The rest of the frame, or what belongs behind it. */
static ssize_t read_some(lane *v, int32_t p) {
    end *e = &v->ends[p];
    if (e->n_frame < sizeof e->coming) return recv(e->fd, (char *)&e->coming + e->n_frame, sizeof e->coming - e->n_frame, MSG_DONTWAIT);
    return recv(e->fd, gr_line_bytes(&v->boxes.in[way_of(e->n_received)][p]) + e->n_bytes, (size_t)(e->coming.n_bytes - e->n_bytes), MSG_DONTWAIT);
}

/* A message that has begun goes on. */
static void check_late(lane *v, int32_t p) {
    const end *e = &v->ends[p];
    gr_line *l = v->line;
    const char *way = way_names[way_of(e->n_received)];
    const uint32_t number = number_of(e->n_received);
    if (e->n_frame == 0 || gr_now_us() - e->moved_us < 1e6 * l->deadline_s) return;
    if (e->n_frame < sizeof e->coming)
        fail(l, "the head of %s %u from rank %d has come in part, and nothing for %g s", way, number, l->peers[p], l->deadline_s);
    else fail(l, "%lld of %lld bytes of %s %u from rank %d have come, and nothing for %g s", (long long)e->n_bytes, (long long)e->coming.n_bytes, way, number,
              l->peers[p], l->deadline_s);
}

/* As much as there is of a message; whether something came. */
static bool receive_ready(lane *v, int32_t p) {
    end *e = &v->ends[p];
    gr_line *l = v->line;
    if (e->is_over) return false;
    const bool in_frame = e->n_frame < sizeof e->coming;
    const ssize_t n = read_some(v, p);
    if (n < 0 && would_block()) return check_late(v, p), false;
    if (n <= 0 && atomic_load(&l->ends_receiving)) return false;        /* we closed it */
    if (n <= 0) return fail(l, "rank %d is gone (%s)", l->peers[p], n == 0 ? "it closed its line" : strerror(errno)), false;
    e->moved_us = gr_now_us();
    if (in_frame) {
        e->n_frame += (size_t)n;
        if (e->n_frame < sizeof e->coming || !accept_frame(v, p)) return true;
    } else e->n_bytes += n;
    if (e->n_bytes == e->coming.n_bytes) deliver(v, p);
    return true;
}

/* Until something may have come; false: all peers have said goodbye. */
static bool await_bytes(lane *v) {
    bool any = false;
    for (int32_t p = 0; p < v->line->n_peers; p++) {
        const end *e = &v->ends[p];
        v->poll[p] = (struct pollfd){.fd = e->is_over ? -1 : e->fd, .events = POLLIN};
        any = any || !e->is_over;
    }
    if (any) (void)poll(v->poll, (nfds_t)v->line->n_peers, WAKE_MS);
    return any;
}

static void *run_receiver(void *user) {
    lane *v = user;
    gr_line *l = v->line;
    double moved_us = gr_now_us();
    while (!has_failed(l) && !atomic_load(&l->ends_receiving)) {
        bool moved = false;
        for (int32_t p = 0; p < l->n_peers && !has_failed(l); p++) moved = receive_ready(v, p) || moved;
        if (moved) moved_us = gr_now_us();
        else if (!l->naps && gr_now_us() - moved_us < SPIN_US) sched_yield();
        else if (!await_bytes(v)) break;
    }
    return NULL;
}

/* ---- opening and closing ---- */

static grace_status make(const gr_comm *world, const gr_line_options *opt, gr_line **out) {
    grace_status st = GRACE_OK;
    GR_CALLOC(*out, 1);
    gr_line *l = *out;
    l->rank = world->rank, l->n_peers = opt->n_peers, l->n_lanes = opt->n_lanes;
    l->deadline_s = opt->deadline_s, l->stop = opt->stop, l->naps = world->oversubscribed;
    GR_CALLOC(l->peers, opt->n_peers);
    GR_CALLOC(l->lanes, opt->n_lanes);
    memcpy(l->peers, opt->peers, (size_t)opt->n_peers * sizeof *l->peers);
    for (int32_t i = 0; i < opt->n_lanes; i++) {
        lane *v = &l->lanes[i];
        v->line = l, v->boxes = opt->lanes[i];
        GR_CALLOC(v->ends, opt->n_peers);
        GR_CALLOC(v->poll, opt->n_peers);
        for (int32_t p = 0; p < opt->n_peers; p++) v->ends[p].fd = -1;
    }
done:
    return st;
}

static grace_status start(gr_line *l) {
    grace_status st = GRACE_OK;
    for (lane *v = l->lanes; v < l->lanes + l->n_lanes; v++) {
        v->has_sender = pthread_create(&v->sender, NULL, run_sender, v) == 0;
        v->has_receiver = v->has_sender && pthread_create(&v->receiver, NULL, run_receiver, v) == 0;
        GR_CHECK(v->has_receiver, GRACE_ERR_MEMORY, "no thread for a line: %s", strerror(errno));
    }
done:
    return st;
}

grace_status gr_line_open(gr_comm *world, const gr_line_options *opt, gr_line **out) {
    grace_status st = GRACE_OK;
    gr_line *l = NULL;
    int *fd = NULL;
    GR_TRY(grace_comm_agree(world, make(world, opt, &l)));
    GR_TRY(gr_line_connect(world, opt->peers, opt->n_peers, opt->n_lanes, opt->deadline_s, &fd));
    for (int32_t i = 0; i < opt->n_lanes * opt->n_peers; i++) l->lanes[i / opt->n_peers].ends[i % opt->n_peers].fd = fd[i];
    GR_TRY(grace_comm_agree(world, start(l)));
    *out = l;
    l = NULL;
done:
    gr_line_close(l, false);
    free(fd);
    return st;
}

/* A failed line closes without a goodbye: that is how peers know. */
void gr_line_close(gr_line *l, bool done) {
    if (!l) return;
    if (!done) fail(l, "this rank gave up");
    atomic_store(&l->ends_sending, 1);
    for (lane *v = l->lanes; l->lanes && v < l->lanes + l->n_lanes; v++)
        if (v->has_sender) pthread_join(v->sender, NULL);
    atomic_store(&l->ends_receiving, 1);
    for (lane *v = l->lanes; l->lanes && v < l->lanes + l->n_lanes; v++) {
        for (int32_t p = 0; v->ends && p < l->n_peers; p++)
            if (v->ends[p].fd >= 0) shutdown(v->ends[p].fd, SHUT_RDWR);
        if (v->has_receiver) pthread_join(v->receiver, NULL);
        for (int32_t p = 0; v->ends && p < l->n_peers; p++) gr_tcp_close(&v->ends[p].fd);
        free(v->ends);
        free(v->poll);
    }
    free(l->lanes);
    free(l->peers);
    free(l);
}
