#include "cuda/mesh.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "cuda/device.h"

typedef struct mesh { gr_comm base; int fd[MESH_MAX]; } mesh;

typedef struct flow { char *at; size_t left; } flow;       /* to or from a peer */

/* What a socket takes or gives now. */
static grace_status step(flow *f, int fd, bool is_send, int32_t peer, bool *moved) {
    if (f->left == 0) return GRACE_OK;
    ssize_t n = is_send ? send(fd, f->at, f->left, MSG_DONTWAIT | MSG_NOSIGNAL) : recv(fd, f->at, f->left, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return GRACE_OK;
    if (n <= 0) return gr_fail(GRACE_ERR_COMM, "mesh: rank %d is gone", peer);
    f->at += n;
    f->left -= (size_t)n;
    *moved = true;
    return GRACE_OK;
}

static grace_status move_all(const mesh *m, flow *to, flow *from) {
    grace_status st = GRACE_OK;
    for (double progress_us = gr_now_us();;) {
        bool moved = false;
        int32_t late = -1;
        for (int32_t p = 0; p < m->base.n_ranks; p++) {
            GR_TRY(step(&to[p], m->fd[p], true, p, &moved));
            GR_TRY(step(&from[p], m->fd[p], false, p, &moved));
            if (to[p].left || from[p].left) late = p;
        }
        if (late < 0) return GRACE_OK;
        if (moved) progress_us = gr_now_us();
        else poll(&(struct pollfd){.fd = m->fd[late], .events = (short)(POLLIN | (to[late].left ? POLLOUT : 0))}, 1, 1);
        GR_CHECK(gr_now_us() - progress_us < 1e6 * m->base.deadline_s, GRACE_ERR_COMM, "mesh: %zu bytes from rank %d missing after %g s", from[late].left, late,
                 m->base.deadline_s);
    }
done:
    return st;
}

static grace_status mesh_alltoallv(gr_comm *c, const gr_xfer *x, gr_request **out) {
    flow to[MESH_MAX] = {{0}}, from[MESH_MAX] = {{0}};
    char *send_at = (char *)x->send, *recv_at = x->recv;
    for (int32_t p = 0; p < c->n_ranks; p++) {
        to[p] = (flow){send_at, (size_t)x->send_rows[p] * x->row_bytes};
        from[p] = (flow){recv_at, (size_t)x->recv_rows[p] * x->row_bytes};
        send_at += to[p].left;
        recv_at += from[p].left;
    }
    if (to[c->rank].left) memcpy(from[c->rank].at, to[c->rank].at, to[c->rank].left);
    to[c->rank].left = from[c->rank].left = 0;
    *out = NULL;
    return move_all((mesh *)c, to, from);
}

static grace_status mesh_wait(gr_comm *c, gr_request *r) { return (void)c, (void)r, GRACE_OK; }
static grace_status mesh_split(gr_comm *c, int32_t color, gr_comm **out) {
    return (void)c, (void)color, (void)out, gr_fail(GRACE_ERR_UNSUPPORTED, "a mesh does not split");
}
static void mesh_abort(gr_comm *c, int exit_code) { (void)c, _exit(exit_code); }
static void mesh_free(gr_comm *c) { (void)c; }

static const gr_comm_ops mesh_ops = {"mesh", mesh_alltoallv, mesh_wait, gr_comm_gather_rows, mesh_split, mesh_abort, mesh_free};

bool mesh_run(int32_t n, int32_t n_nodes, double deadline_s, int (*body)(gr_comm *world, const void *arg), const void *arg) {
    int fd[MESH_MAX][MESH_MAX];
    pid_t child[MESH_MAX];
    bool all_well = true;
    must(n <= MESH_MAX && n % n_nodes == 0, "mesh: ranks");
    for (int a = 0; a < n; a++) {
        fd[a][a] = -1;
        for (int b = 0; b < a; b++) {
            int pair[2];
            must(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0, "socketpair");
            fd[a][b] = pair[0];
            fd[b][a] = pair[1];
        }
    }
    fflush(stdout);
    for (int32_t r = 0; r < n; r++) {
        must((child[r] = fork()) >= 0, "fork");
        if (child[r] != 0) continue;
        mesh m = {.base = {.ops = &mesh_ops, .rank = r, .n_ranks = n, .n_nodes = n_nodes, .gpus_per_node = n / n_nodes, .deadline_s = deadline_s}};
        for (int a = 0; a < n; a++)         /* another's end kept open would hide that it is gone */
            for (int b = 0; b < n; b++)
                if (a == r) m.fd[b] = fd[a][b];
                else if (a != b) close(fd[a][b]);
        gr_log_set_rank(r, n);
        int code = body(&m.base, arg);
        fflush(stdout);
        _exit(code);                        /* not through CUDA's exit: a kernel may still be waiting for a peer */
    }
    for (int a = 0; a < n; a++)
        for (int b = 0; b < n; b++)
            if (a != b) close(fd[a][b]);
    for (int32_t r = 0; r < n; r++) {
        int status = 0;
        waitpid(child[r], &status, 0);
        if (status != 0) fprintf(stderr, "rank %d of %d ended with status 0x%x\n", r, n, (unsigned)status);
        all_well = all_well && status == 0;
    }
    return all_well;
}

int mesh_ask(int (*question)(void)) {
    int status = 0;
    pid_t child = fork();
    must(child >= 0, "fork");
    if (child == 0) _exit(question());
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 0;
}
