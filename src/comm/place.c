#include "comm/place.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "comm/comm.h"

/* Written by the thread that steps, read by the signal handler: volatile, and each a single store. */
static const char *volatile place_stage;
static volatile int32_t place_layer = -1, place_peer = -1;
static int32_t place_rank, place_ranks = 1;

void gr_comm_at(const char *stage, int32_t layer) {
    place_stage = stage;
    place_layer = layer;
}

void gr_place_wait(int32_t peer) { place_peer = peer; }

void gr_place_text(char *out, size_t size) {
    out[0] = '\0';
    if (place_stage && place_layer >= 0) snprintf(out, size, "%s of layer %d: ", place_stage, place_layer);
    else if (place_stage) snprintf(out, size, "%s: ", place_stage);
}

const char *gr_place_here(int32_t rank, char *text, size_t size) {
    int n = snprintf(text, size, "rank %d: ", rank);
    gr_place_text(text + n, size - (size_t)n);
    return text;
}

grace_status gr_place_owes(int32_t rank, const gr_debt *d, const char *cause, double deadline_s) {
    char where[128], after[32] = "";
    if (!cause) snprintf(after, sizeof after, " after %g s", deadline_s);
    return gr_fail(GRACE_ERR_COMM, "%s%s%s%d %s %s rank %d%s%s (%d of %d %s late)", gr_place_here(rank, where, sizeof where), cause ? cause : "",
                   cause ? "; " : "", d->rows, d->row_bytes == 1 ? "bytes" : "rows", d->from ? "from" : "not taken by", d->peer,
                   d->from ? " missing" : "", after, d->n_late, d->n_peers, d->from ? "senders" : "receivers");
}

/* ---- the last line: snprintf is not allowed in a signal handler ---- */

typedef struct line { char text[256]; size_t n; } line;

static void add(line *l, const char *s) {
    size_t n = strlen(s), room = sizeof l->text - l->n;
    if (n > room) n = room;
    memcpy(l->text + l->n, s, n);
    l->n += n;
}

static void add_int(line *l, const char *before, int32_t value) {
    char digits[16], *p = digits + sizeof digits - 1;
    *p = '\0';
    do *--p = (char)('0' + value % 10);
    while ((value /= 10) > 0);
    add(l, before);
    add(l, p);
}

static void end_on_sigterm(int sig) {
    (void)sig;
    line l = {.n = 0};
    add_int(&l, "grace: rank ", place_rank);
    add_int(&l, " of ", place_ranks);
    add(&l, ": ended by SIGTERM");
    if (place_stage) {
        add(&l, " in ");
        add(&l, place_stage);
    }
    if (place_stage && place_layer >= 0) add_int(&l, " of layer ", place_layer);
    if (place_peer >= 0) add_int(&l, ", waiting for rank ", place_peer);
    add(&l, "\n");
    if (write(STDERR_FILENO, l.text, l.n) < 0) { }      /* nobody left to tell */
    _exit(128 + SIGTERM);
}

void gr_place_on_sigterm(int32_t rank, int32_t n_ranks) {
    place_rank = rank;
    place_ranks = n_ranks;
    struct sigaction old, act = {.sa_handler = end_on_sigterm};
    if (sigaction(SIGTERM, NULL, &old) == 0 && old.sa_handler == SIG_DFL) sigaction(SIGTERM, &act, NULL);
}

void gr_place_leave(void) {
    struct sigaction act;
    if (sigaction(SIGTERM, NULL, &act) == 0 && act.sa_handler == end_on_sigterm) signal(SIGTERM, SIG_DFL);
}
