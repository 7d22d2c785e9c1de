/* A socket to each other rank. Rows of a transfer follow a frame that says which transfer's they are; both ends start transfers in one order,
 * so what comes next on a link is known, and anything else is an error. A peer that has started a transfer before us waits in its socket. */
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>

#include "comm/tcp_comm.h"
#include "comm/tcp_socket.h"

static void append(tcp_queue *q, tcp_part *part) {
    part->next = NULL;
    if (q->first) q->last->next = part;
    else q->first = part;
    q->last = part;
}

static void finish_first(tcp_queue *q) {
    q->first->request->n_left--;
    q->first = q->first->next;
}

/* ---- the end ---- */

/* As far as the socket takes it: nobody waits here. A frame inside another's rows would be rows. */
static void say_farewell(tcp_link *l, int32_t culprit) {
    uint8_t bytes[GR_TCP_FRAME];
    bool inside = l->out.first && l->out.first->n_head > 0;
    if (l->fd < 0) return;
    gr_tcp_write_frame(&(gr_tcp_frame){.kind = GR_TCP_LEAVE, .context = (uint32_t)culprit}, bytes);
    if (!inside) (void)send(l->fd, bytes, sizeof bytes, MSG_NOSIGNAL | MSG_DONTWAIT);
    shutdown(l->fd, SHUT_WR);
}

void gr_tcp_break(tcp_job *job, int32_t culprit, const char *cause, ...) {
    va_list args;
    if (job->broken) return;
    job->broken = true;
    va_start(args, cause);
    vsnprintf(job->cause, sizeof job->cause, cause, args);
    va_end(args);
    for (int32_t r = 0; r < job->n_ranks; r++) say_farewell(&job->link[r], culprit);
}

/* When ranks leave one after the other the first may be the last we see, so all that are gone are named. */
static void name_gone(tcp_job *job, char *out, size_t size) {
    size_t n = 0;
    out[0] = '\0';
    for (int32_t r = 0; r < job->n_ranks; r++) job->poll[r] = (struct pollfd){.fd = job->link[r].fd, .events = POLLRDHUP};
    if (poll(job->poll, (nfds_t)job->n_ranks, 0) <= 0) return;
    for (int32_t r = 0; r < job->n_ranks && n < size - 24; r++)
        if (job->poll[r].revents) n += (size_t)snprintf(out + n, size - n, "%s rank %d", n ? "," : ", so is", r);
}

void gr_tcp_gone(tcp_job *job, int32_t peer, const char *reason) {
    char others[100];
    if (job->broken) return;
    name_gone(job, others, sizeof others);
    gr_tcp_break(job, peer, "rank %d is gone (%s)%s", peer, reason, others);
}

/* The connection has ended. That is how a rank leaves that is done, so it matters only when something is owed. */
static void lost(tcp_job *job, int32_t peer, const char *reason) {
    tcp_link *l = &job->link[peer];
    gr_tcp_close(&l->fd);
    if (l->in.first || l->out.first) gr_tcp_gone(job, peer, reason);
}

/* ---- sending ---- */

static bool would_block(void) { return errno == EAGAIN || errno == EINTR; }

static bool read_link(tcp_job *job, int32_t peer);

static bool skip(int fd, uint64_t n) {
    char waste[4096];
    for (ssize_t k; n > 0; n -= (uint64_t)k)
        if ((k = recv(fd, waste, n < sizeof waste ? n : sizeof waste, 0)) <= 0) return false;
    return true;
}

/* Rows of transfers we have not started may stand before a farewell; they are not wanted any more. */
static void skip_ahead(tcp_job *job, int32_t peer) {
    tcp_link *l = &job->link[peer];
    gr_tcp_frame f;
    while (!job->broken && l->n_head == GR_TCP_FRAME && !l->in.first) {
        if (gr_tcp_read_frame(l->head, GR_TCP_FRAME, &f) != GRACE_OK || !skip(l->fd, f.n_bytes)) return;
        l->n_head = 0;
        (void)read_link(job, peer);
    }
}

/* A peer that takes nothing more may have said why: its farewell tells more than our socket does. */
static void cannot_send(tcp_job *job, int32_t peer, const char *reason) {
    (void)read_link(job, peer);
    skip_ahead(job, peer);
    if (!job->broken && job->link[peer].fd >= 0) lost(job, peer, reason);
}

static bool write_link(tcp_job *job, int32_t peer) {
    tcp_link *l = &job->link[peer];
    bool moved = false;
    while (l->out.first) {
        tcp_part *p = l->out.first;
        struct iovec piece[2] = {{p->head + p->n_head, GR_TCP_FRAME - p->n_head}, {p->data + p->done, p->n - p->done}};
        ssize_t n = sendmsg(l->fd, &(struct msghdr){.msg_iov = piece, .msg_iovlen = 2}, MSG_NOSIGNAL);
        if (n < 0) {
            if (!would_block()) cannot_send(job, peer, strerror(errno));
            break;
        }
        size_t of_head = (size_t)n < piece[0].iov_len ? (size_t)n : piece[0].iov_len;
        moved = true;
        p->n_head += of_head;
        p->done += (size_t)n - of_head;
        if (p->done < p->n || p->n_head < GR_TCP_FRAME) break;
        finish_first(&l->out);
    }
    return moved;
}

void gr_tcp_queue_send(tcp_job *job, tcp_part *part) {
    tcp_link *l = &job->link[part->peer];
    part->n_head = 0;
    gr_tcp_write_frame(&part->frame, part->head);
    append(&l->out, part);
    if (l->fd < 0) lost(job, part->peer, "its connection was closed");
    else if (l->out.first == part && !job->broken) write_link(job, part->peer);
}

/* ---- receiving ---- */

void gr_tcp_queue_recv(tcp_job *job, tcp_part *part) {
    tcp_link *l = &job->link[part->peer];
    append(&l->in, part);
    if (l->fd < 0) lost(job, part->peer, "its connection was closed");
}

static void hear_farewell(tcp_job *job, int32_t peer, int32_t culprit) {
    if (culprit == peer) gr_tcp_break(job, culprit, "rank %d has ended the job", peer);
    else gr_tcp_break(job, culprit, "rank %d has left: it gave up on rank %d", peer, culprit);
}

/* The head is complete. true: its rows are those we wait for. What came behind another head is not. */
static bool accept_head(tcp_job *job, int32_t peer) {
    tcp_link *l = &job->link[peer];
    tcp_part *p = l->in.first;
    gr_tcp_frame f;
    if (gr_tcp_read_frame(l->head, GR_TCP_FRAME, &f) != GRACE_OK)
        gr_tcp_break(job, peer, "rank %d does not talk like a rank: %s", peer, grace_last_error());
    else if (f.kind == GR_TCP_LEAVE) hear_farewell(job, peer, (int32_t)f.context);
    else if (p && (f.context != p->frame.context || f.sequence != p->frame.sequence))
        gr_tcp_break(job, peer, "rank %d sends rows of transfer %u.%llu where transfer %u.%llu is next", peer, f.context, (unsigned long long)f.sequence,
                     p->frame.context, (unsigned long long)p->frame.sequence);
    else if (p && f.n_bytes != p->n)
        gr_tcp_break(job, peer, "expected %d rows of %zu bytes from rank %d, it sends %llu bytes", p->rows, p->n / (size_t)p->rows, peer,
                     (unsigned long long)f.n_bytes);
    if (p && job->broken) p->done = 0;
    l->known = p && !job->broken;
    return l->known;
}

/* The rest of the head and, since it must be of the rows we wait for, as much of them as there is, but not a byte more. */
static ssize_t read_some(tcp_link *l, size_t *wanted) {
    tcp_part *p = l->in.first;
    struct iovec piece[2] = {{l->head + l->n_head, GR_TCP_FRAME - l->n_head}, {p ? p->data + p->done : NULL, p ? p->n - p->done : 0}};
    *wanted = piece[0].iov_len + piece[1].iov_len;
    ssize_t n = readv(l->fd, piece, p ? 2 : 1);
    if (n <= 0) return n;
    size_t of_head = (size_t)n < piece[0].iov_len ? (size_t)n : piece[0].iov_len;
    l->n_head += of_head;
    if (p) p->done += (size_t)n - of_head;
    return n;
}

static bool read_link(tcp_job *job, int32_t peer) {
    tcp_link *l = &job->link[peer];
    bool moved = false;
    for (;;) {
        size_t wanted = 0;
        if (l->n_head == GR_TCP_FRAME && !l->known && !accept_head(job, peer)) return moved;
        ssize_t n = read_some(l, &wanted);
        if (n == 0 || (n < 0 && !would_block())) lost(job, peer, n == 0 ? "it closed the connection" : strerror(errno));
        if (n <= 0) return moved;
        moved = true;
        if (l->n_head == GR_TCP_FRAME && !l->known && !accept_head(job, peer)) return moved;
        if ((size_t)n < wanted) return moved;
        if (!l->in.first) continue;
        finish_first(&l->in);
        l->n_head = 0;
        l->known = false;
    }
}

/* ---- both ---- */

/* A link whose next rows belong to a transfer we have not started is not looked at: it would always be ready. */
static short events_of(const tcp_link *l) {
    bool ahead = l->n_head == GR_TCP_FRAME && !l->in.first;
    return (short)((ahead ? 0 : POLLIN) | (l->out.first ? POLLOUT : 0));
}

bool gr_tcp_progress(tcp_job *job, double timeout_us) {
    const time_t seconds = (time_t)(timeout_us / 1e6);
    const struct timespec timeout = {.tv_sec = seconds, .tv_nsec = (long)(1e3 * (timeout_us - 1e6 * (double)seconds))};
    bool moved = false;
    for (int32_t r = 0; r < job->n_ranks; r++) {
        short events = events_of(&job->link[r]);
        job->poll[r] = (struct pollfd){.fd = events ? job->link[r].fd : -1, .events = events};
    }
    if (ppoll(job->poll, (nfds_t)job->n_ranks, &timeout, NULL) <= 0) return false;
    for (int32_t r = 0; r < job->n_ranks && !job->broken; r++) {
        short ready = job->poll[r].revents;
        if (ready & (POLLIN | POLLHUP | POLLERR)) moved |= read_link(job, r);
        if (ready & (POLLOUT | POLLHUP | POLLERR) && job->link[r].fd >= 0 && !job->broken) moved |= write_link(job, r);
    }
    return moved;
}
