#include "comm/line.h"

#include <errno.h>
#include <linux/sockios.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#include "base/clock.h"
#include "base/memory.h"
#include "comm/line_parts.h"
#include "comm/tcp_socket.h"

enum { SPIN_US = 2000, NAP_MIN_US = 50, NAP_MAX_US = 1000, IDLE_A_NAP = 32, WAKE_MS = 100 };

static const char *const way_names[GR_LINE_WAYS] = {"dispatch", "combine"};

/* A connection: one lane to one peer. Messages are counted from 0: message i is number i / 2 + 1 of way i % 2. */
typedef struct end {
    int fd;
    atomic_bool is_over;                /* the peer said goodbye */
    /* of the sender */
    _Atomic int64_t n_begun, n_sent;    /* messages; the last that was begun may be on its way */
    gr_line_frame going;
    bool is_going;
    size_t n_gone;                      /* bytes, with the frame */
    double gone_us;
    /* of the receiver */
    int64_t n_received;
    gr_line_frame coming;
    size_t n_come;
    double come_us;
} end;

typedef struct lane {
    gr_line *line;
    gr_line_lane boxes;
    end *ends;                          /* [n_peers] */
    struct pollfd *poll_out, *poll_in;  /* [n_peers] */
    pthread_t sender, receiver;
    bool has_sender, has_receiver;
} lane;

struct gr_line {
    int32_t rank, n_peers, n_lanes, *peers;
    double deadline_s;
    bool naps;                          /* fewer cores than threads: waits sleep */
    volatile int32_t *stop;
    lane *lanes;
    atomic_int failed;                  /* 1 while the cause is written, 2 then */
    atomic_bool ends_sending, ends_receiving;
    char cause[300];
};

static int32_t way_of(int64_t message) { return (int32_t)(message % GR_LINE_WAYS); }
static uint32_t number_of(int64_t message) { return (uint32_t)(message / GR_LINE_WAYS + 1); }
static _Atomic uint32_t *flag_of(gr_line_head *head) { return (_Atomic uint32_t *)&head->number; }

/* ---- failure: the first cause stays ---- */

__attribute__((format(printf, 2, 3))) static void fail(gr_line *l, const char *format, ...) {
    int none = 0;
    va_list args;
    if (!atomic_compare_exchange_strong(&l->failed, &none, 1)) return;
    va_start(args, format);
    vsnprintf(l->cause, sizeof l->cause, format, args);
    va_end(args);
    __atomic_store_n(l->stop, 1, __ATOMIC_RELEASE);
    atomic_store(&l->failed, 2);
}

grace_status gr_line_check(const gr_line *l) {
    if (!atomic_load(&l->failed)) return GRACE_OK;
    while (atomic_load(&l->failed) != 2) sched_yield();
    return gr_fail(GRACE_ERR_COMM, "rank %d: %s", l->rank, l->cause);
}

static bool has_failed(gr_line *l) { return atomic_load(&l->failed) != 0; }
static bool is_late(const gr_line *l, double since_us) { return gr_now_us() - since_us > 1e6 * l->deadline_s; }
static bool would_block(void) { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }

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

/* ---- sending ---- */

static void begin(end *e, gr_line_frame f) {
    e->going = f;
    e->n_gone = 0;
    e->gone_us = gr_now_us();
    e->is_going = true;
}

static void left_before(gr_line *l, int32_t p, int64_t message) {
    fail(l, "rank %d is gone (it said goodbye before %s %u)", l->peers[p], way_names[way_of(message)], number_of(message));
}

/* The next message, if its box is filled. The peer answers each, so one that said goodbye has no more to come to it. */
static void look_into_box(lane *v, int32_t p) {
    end *e = &v->ends[p];
    gr_line *l = v->line;
    const int32_t way = way_of(e->n_begun);
    const uint32_t number = number_of(e->n_begun);
    gr_line_head *head = v->boxes.out[way][p].head;
    if (atomic_load_explicit(flag_of(head), memory_order_acquire) != number) return;
    const gr_line_frame f = {GR_LINE_MESSAGE, number, way, head->rows, head->entries, 0, head->n_bytes};
    if (gr_line_expect(&f, way, number, &v->boxes.room[way])) return fail(l, "this rank %s", grace_last_error());
    e->n_begun++;
    begin(e, f);
    if (e->is_over) left_before(l, p, e->n_begun - 1);
}

/* What is left of it. */
static size_t pieces_left(const lane *v, int32_t p, struct iovec piece[2]) {
    end *e = &v->ends[p];
    const size_t of_frame = e->n_gone < sizeof e->going ? sizeof e->going - e->n_gone : 0, gone = e->n_gone + of_frame - sizeof e->going;
    size_t n = 0;
    if (of_frame > 0) piece[n++] = (struct iovec){(char *)&e->going + e->n_gone, of_frame};
    const size_t of_bytes = (size_t)e->going.n_bytes - gone;
    if (of_bytes > 0) piece[n++] = (struct iovec){gr_line_bytes(&v->boxes.out[e->going.way][p]) + gone, of_bytes};
    return n;
}

static void nap(void) { nanosleep(&(struct timespec){.tv_nsec = NAP_MIN_US * 1000}, NULL); }

/* The receiver comes to the same end, behind the peer's last words, which tell more than our socket does. While we close it no longer tells. */
static void cannot_send(lane *v, int32_t p, const char *reason) {
    const end *e = &v->ends[p];
    gr_line *l = v->line;
    const double since_us = gr_now_us();
    while (!e->is_over && !has_failed(l) && !l->ends_sending && !is_late(l, since_us)) nap();
    if (e->is_over && !l->ends_sending) left_before(l, p, e->n_begun - 1);
    else fail(l, "rank %d is gone (%s)", l->peers[p], reason);
}

/* As much as the connection takes; whether it took something. */
static bool send_some(lane *v, int32_t p) {
    end *e = &v->ends[p];
    gr_line *l = v->line;
    struct iovec piece[2];
    const struct msghdr message = {.msg_iov = piece, .msg_iovlen = pieces_left(v, p, piece)};
    const ssize_t k = sendmsg(e->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (k < 0 && !would_block()) return cannot_send(v, p, strerror(errno)), false;
    if (k < 0) {
        if (is_late(l, e->gone_us)) fail(l, "rank %d has taken nothing of a message for %g s", l->peers[p], l->deadline_s);
        return false;
    }
    e->gone_us = gr_now_us();
    e->n_gone += (size_t)k;
    e->is_going = e->n_gone < sizeof e->going + (size_t)e->going.n_bytes;
    if (!e->is_going) e->n_sent = e->n_begun;
    return true;
}

static bool is_going(const lane *v) {
    for (int32_t p = 0; p < v->line->n_peers; p++)
        if (v->ends[p].is_going) return true;
    return false;
}

/* For a while, since other boxes may be filled meanwhile. */
static void await_space(lane *v) {
    for (int32_t p = 0; p < v->line->n_peers; p++)
        v->poll_out[p] = (struct pollfd){.fd = v->ends[p].is_going ? v->ends[p].fd : -1, .events = POLLOUT};
    (void)poll(v->poll_out, (nfds_t)v->line->n_peers, 1);
}

/* Between looks into boxes: the next message is mostly near, and after a long silence a short nap does not matter. */
static void pause_after(const gr_line *l, double idle_us) {
    const double part_us = idle_us / IDLE_A_NAP, nap_us = part_us < NAP_MIN_US ? NAP_MIN_US : part_us < NAP_MAX_US ? part_us : NAP_MAX_US;
    if (!l->naps && idle_us < SPIN_US) sched_yield();
    else nanosleep(&(struct timespec){.tv_nsec = (long)(nap_us * 1000)}, NULL);
}

/* Whether something left. */
static bool send_all(lane *v) {
    bool moved = false;
    for (int32_t p = 0; p < v->line->n_peers && !has_failed(v->line); p++) {
        if (!v->ends[p].is_going) look_into_box(v, p);
        if (v->ends[p].is_going) moved = send_some(v, p) || moved;
    }
    return moved;
}

/* A connection that closes with something unread takes with it what it has not handed over yet, so everything is handed over before. */
static void hand_over(lane *v, double until_us) {
    for (int32_t p = 0; p < v->line->n_peers; p++)
        for (int left = 1; left > 0 && !v->ends[p].is_over && !has_failed(v->line) && gr_now_us() < until_us;)
            if (ioctl(v->ends[p].fd, SIOCOUTQ, &left) != 0) left = 0;
            else if (left > 0) nap();
}

/* Also to one that said it first: it may still listen, and must not take our end for a failure. */
static void say_goodbye(lane *v) {
    const double until_us = gr_now_us() + 1e6 * v->line->deadline_s;
    for (int32_t p = 0; p < v->line->n_peers; p++)
        (void)gr_tcp_send_all(v->ends[p].fd, &(gr_line_frame){.kind = GR_LINE_BYE}, sizeof(gr_line_frame), until_us);
    hand_over(v, until_us);
}

static void *run_sender(void *user) {
    lane *v = user;
    gr_line *l = v->line;
    double moved_us = gr_now_us();
    (void)prctl(PR_SET_TIMERSLACK, 1000, 0, 0, 0);      /* ns: naps as short as they say */
    while (!has_failed(l)) {
        const bool is_end = l->ends_sending;            /* before the last look */
        if (send_all(v)) moved_us = gr_now_us();
        else if (is_going(v)) await_space(v);
        else if (is_end) break;
        else pause_after(l, gr_now_us() - moved_us);
    }
    if (!has_failed(l)) say_goodbye(v);
    return NULL;
}

/* ---- receiving ---- */

/* Whether a message follows, which is the one that must come next. */
static bool judge_frame(lane *v, int32_t p) {
    end *e = &v->ends[p];
    gr_line *l = v->line;
    const int32_t way = way_of(e->n_received);
    const uint32_t number = number_of(e->n_received);
    if (e->coming.kind == GR_LINE_BYE) {
        e->is_over = true;
        if (e->n_begun > e->n_received) fail(l, "rank %d is gone (it said goodbye and owes %s %u)", l->peers[p], way_names[way], number);
        return false;
    }
    if (!gr_line_expect(&e->coming, way, number, &v->boxes.room[way])) return true;
    return fail(l, "rank %d %s", l->peers[p], grace_last_error()), false;
}

/* Who sees a message fills the box again that held the one before it. The peer has that, so the sender has read it, or is just about to say so. */
static void deliver(lane *v, int32_t p) {
    end *e = &v->ends[p];
    while (e->n_sent < e->n_received && e->n_sent < e->n_begun && !has_failed(v->line) && !v->line->ends_receiving) sched_yield();
    gr_line_head *head = v->boxes.in[e->coming.way][p].head;
    head->rows = e->coming.rows, head->entries = e->coming.entries, head->n_bytes = e->coming.n_bytes;
    e->n_received++;
    e->n_come = 0;
    atomic_store_explicit(flag_of(head), e->coming.number, memory_order_release);
}

/* The rest of the frame, or of what follows it, straight into its box. */
static ssize_t read_some(lane *v, int32_t p) {
    end *e = &v->ends[p];
    if (e->n_come < sizeof e->coming) return recv(e->fd, (char *)&e->coming + e->n_come, sizeof e->coming - e->n_come, MSG_DONTWAIT);
    const size_t n = e->n_come - sizeof e->coming;
    return recv(e->fd, gr_line_bytes(&v->boxes.in[e->coming.way][p]) + n, (size_t)e->coming.n_bytes - n, MSG_DONTWAIT);
}

/* A message that has begun goes on. */
static void check_late(lane *v, int32_t p) {
    const end *e = &v->ends[p];
    gr_line *l = v->line;
    const char *way = way_names[way_of(e->n_received)];
    const uint32_t number = number_of(e->n_received);
    if (e->n_come == 0 || !is_late(l, e->come_us)) return;
    if (e->n_come < sizeof e->coming)
        fail(l, "the head of %s %u from rank %d has come in part, and nothing for %g s", way, number, l->peers[p], l->deadline_s);
    else fail(l, "%lld of %lld bytes of %s %u from rank %d have come, and nothing for %g s", (long long)(e->n_come - sizeof e->coming),
              (long long)e->coming.n_bytes, way, number, l->peers[p], l->deadline_s);
}

/* As much as there is of a message; whether something came. */
static bool receive_some(lane *v, int32_t p) {
    end *e = &v->ends[p];
    gr_line *l = v->line;
    const bool in_frame = e->n_come < sizeof e->coming;
    const ssize_t n = read_some(v, p);
    if (n < 0 && would_block()) return check_late(v, p), false;
    if (n <= 0 && l->ends_sending) e->is_over = true;   /* who closes expects nothing more, and the end may be our own */
    if (e->is_over) return false;
    if (n <= 0) return fail(l, "rank %d is gone (%s)", l->peers[p], n == 0 ? "it closed its line" : strerror(errno)), false;
    e->come_us = gr_now_us();
    e->n_come += (size_t)n;
    if (e->n_come < sizeof e->coming || (in_frame && !judge_frame(v, p))) return true;
    if (e->n_come == sizeof e->coming + (size_t)e->coming.n_bytes) deliver(v, p);
    return true;
}

/* Until something may have come; false: all peers have said goodbye. */
static bool await_bytes(lane *v) {
    bool any = false;
    for (int32_t p = 0; p < v->line->n_peers; p++) {
        const end *e = &v->ends[p];
        v->poll_in[p] = (struct pollfd){.fd = e->is_over ? -1 : e->fd, .events = POLLIN};
        any = any || !e->is_over;
    }
    if (any) (void)poll(v->poll_in, (nfds_t)v->line->n_peers, WAKE_MS);
    return any;
}

static void *run_receiver(void *user) {
    lane *v = user;
    gr_line *l = v->line;
    double moved_us = gr_now_us();
    while (!has_failed(l) && !l->ends_receiving) {
        bool moved = false;
        for (int32_t p = 0; p < l->n_peers && !has_failed(l); p++)
            if (!v->ends[p].is_over) moved = receive_some(v, p) || moved;
        if (moved) moved_us = gr_now_us();
        else if (!l->naps && gr_now_us() - moved_us < SPIN_US) sched_yield();
        else if (!await_bytes(v)) break;
    }
    return NULL;
}

/* ---- opening and closing ---- */

/* Waits may spin where each thread, and the one that opens the line, can have a core. */
static bool has_cores(int32_t n_lanes) {
    cpu_set_t cores;
    return sched_getaffinity(0, sizeof cores, &cores) == 0 && CPU_COUNT(&cores) > 2 * n_lanes;
}

static grace_status make(const gr_comm *world, const gr_line_options *opt, gr_line **out) {
    grace_status st = GRACE_OK;
    GR_CALLOC(*out, 1);
    gr_line *l = *out;
    l->rank = world->rank, l->n_peers = opt->n_peers, l->n_lanes = opt->n_lanes;
    l->deadline_s = opt->deadline_s, l->stop = opt->stop, l->naps = world->oversubscribed || !has_cores(opt->n_lanes);
    GR_CALLOC(l->peers, opt->n_peers);
    GR_CALLOC(l->lanes, opt->n_lanes);
    memcpy(l->peers, opt->peers, (size_t)opt->n_peers * sizeof *l->peers);
    for (int32_t i = 0; i < opt->n_lanes; i++) {
        lane *v = &l->lanes[i];
        v->line = l, v->boxes = opt->lanes[i];
        GR_CALLOC(v->ends, opt->n_peers);
        GR_CALLOC(v->poll_out, opt->n_peers);
        GR_CALLOC(v->poll_in, opt->n_peers);
        for (int32_t p = 0; p < opt->n_peers; p++) v->ends[p].fd = -1;
    }
done:
    return st;
}

/* Signals are for the threads of those who handle them. */
static grace_status start(gr_line *l) {
    grace_status st = GRACE_OK;
    int error = 0;
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    for (lane *v = l->lanes; v < l->lanes + l->n_lanes && l->n_peers > 0 && !error; v++) {
        error = pthread_create(&v->sender, NULL, run_sender, v);
        v->has_sender = !error;
        if (!error) error = pthread_create(&v->receiver, NULL, run_receiver, v);
        v->has_receiver = !error;
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    GR_CHECK(!error, GRACE_ERR_MEMORY, "rank %d: no thread for a line: %s", l->rank, strerror(error));
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

static void close_lane(lane *v) {
    for (int32_t p = 0; v->ends && p < v->line->n_peers; p++)
        if (v->ends[p].fd >= 0) shutdown(v->ends[p].fd, SHUT_RDWR);     /* wakes the receiver */
    if (v->has_receiver) pthread_join(v->receiver, NULL);
    for (int32_t p = 0; v->ends && p < v->line->n_peers; p++) gr_tcp_close(&v->ends[p].fd);
    free(v->ends);
    free(v->poll_out);
    free(v->poll_in);
}

/* Without a goodbye peers know that this rank has failed. */
void gr_line_close(gr_line *l, bool done) {
    int none = 0;
    if (!l) return;
    if (!done) atomic_compare_exchange_strong(&l->failed, &none, 2);
    l->ends_sending = true;
    for (lane *v = l->lanes; l->lanes && v < l->lanes + l->n_lanes; v++)
        if (v->has_sender) pthread_join(v->sender, NULL);
    l->ends_receiving = true;
    for (lane *v = l->lanes; l->lanes && v < l->lanes + l->n_lanes; v++) close_lane(v);
    free(l->lanes);
    free(l->peers);
    free(l);
}
