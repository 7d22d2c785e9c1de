/* Jobs over tcp whose ranks are processes of a test: what each does, what it said, how it ended. */
#ifndef GRACE_TESTS_COMM_JOB_H
#define GRACE_TESTS_COMM_JOB_H
#include <arpa/inet.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/clock.h"
#include "comm/comm.h"

/* A deadline that must not be what ends a job is far above SOON_S; one that must be is NEAR_S, in which a machine busy with other tests still opens lines. */
#define NEAR_S "4"
enum { RANKS_MAX = 8, SOON_S = 30 };
static const double far_s = 120, near_s = 4;

typedef grace_status (*act)(gr_comm *c);        /* what a rank does; its failure is printed, and its exit code 1 */

typedef struct one { pid_t pid; int from, code; char said[2048]; } one;
typedef struct job { int n, port, held; double started_us; one rank[RANKS_MAX]; } job;

static inline int port_of(int fd) {
    struct sockaddr_in a;
    socklen_t n = sizeof a;
    assert_int_equal(getsockname(fd, (struct sockaddr *)&a, &n), 0);
    return ntohs(a.sin_port);
}

/* Its port stays bound, so that the system gives it to nobody else; since it does not listen there, rank 0 may. Until the next job. */
static inline job new_job(void) {
    static int held = -1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (held >= 0) close(held);
    held = socket(AF_INET, SOCK_STREAM, 0);
    assert_int_equal(setsockopt(held, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int)), 0);
    assert_int_equal(bind(held, (struct sockaddr *)&a, sizeof a), 0);
    return (job){.port = port_of(held), .started_us = gr_now_us(), .held = held};
}

static inline void set_number(const char *name, int value) {
    char text[16];
    snprintf(text, sizeof text, "%d", value);
    setenv(name, text, 1);
}

static inline int be_a_rank(double deadline_s, int n_nodes, act what) {
    gr_comm *c = NULL;
    grace_status st = grace_comm_open(GRACE_TRANSPORT_AUTO, n_nodes, deadline_s, &c);
    if (st == GRACE_OK) st = what(c);
    if (st != GRACE_OK) fprintf(stderr, "%s\n", grace_last_error());
    grace_comm_close(c);
    return st != GRACE_OK;
}

/* host: GRACE_HOSTID, or NULL. */
static inline void start_on(job *j, int rank, int n_ranks, const char *host, double deadline_s, act what) {
    int ends[2];
    one *r = &j->rank[j->n++];
    assert_true(j->n <= RANKS_MAX && pipe(ends) == 0);
    r->from = ends[0];
    fflush(NULL);
    r->pid = fork();
    assert_true(r->pid >= 0);
    if (r->pid == 0) {
        dup2(ends[1], STDERR_FILENO);
        close(ends[0]);
        close(ends[1]);
        set_number("RANK", rank);
        set_number("WORLD_SIZE", n_ranks);
        set_number("MASTER_PORT", j->port);
        setenv("MASTER_ADDR", "127.0.0.1", 1);
        if (host) setenv("GRACE_HOSTID", host, 1);
        exit(be_a_rank(deadline_s, 0, what));
    }
    close(ends[1]);
}

static inline void start(job *j, int rank, int n_ranks, double deadline_s, act what) { start_on(j, rank, n_ranks, NULL, deadline_s, what); }

static inline void start_all(job *j, int n_ranks, double deadline_s, act what) {
    for (int r = 0; r < n_ranks; r++) start(j, r, n_ranks, deadline_s, what);
}

/* What it said until it ended, and how: the exit code, or minus the signal. */
static inline void end_one(one *r) {
    int status = 0;
    size_t n = 0;
    for (ssize_t k; n < sizeof r->said - 1 && (k = read(r->from, r->said + n, sizeof r->said - 1 - n)) > 0;) n += (size_t)k;
    close(r->from);
    waitpid(r->pid, &status, 0);
    r->code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

static inline void end_all(job *j) {
    for (int i = 0; i < j->n; i++) end_one(&j->rank[i]);
}

static inline void ended(const job *j, int rank, int code, const char *said) {
    const one *r = &j->rank[rank];
    if (r->code != code || !strstr(r->said, said)) fail_msg("rank %d: expected code %d and '%s', found %d and '%s'", rank, code, said, r->code, r->said);
}

static inline void ended_well(const job *j) {
    int n_failed = 0;
    for (int i = 0; i < j->n; i++) {
        if (j->rank[i].code == 0) continue;
        print_error("rank %d: code %d: %s\n", i, j->rank[i].code, j->rank[i].said);
        n_failed++;
    }
    assert_int_equal(n_failed, 0);
}

static inline void soon(const job *j) { assert_true(gr_now_us() - j->started_us < 1e6 * SOON_S); }

#endif
