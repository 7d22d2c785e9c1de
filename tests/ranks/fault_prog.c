/* A job in which one rank goes wrong, for fault.sh: fault_prog MODE RANK [DEADLINE_S]
 *   late   stops itself (SIGSTOP): alive, and never answers. The deadline is for this alone: until then the others may be slow
 *   kill   dies by SIGKILL
 *   fail   exits with code 1 and tells nobody
 *   agree  fails and tells everybody through agreement
 *   leak   loses memory, everything else is well */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "comm/comm.h"

enum { LAYERS = 8, BAD_LAYER = 5 };
static const double patience_s = 200;

static void *volatile lost;

static void leak_on_purpose(void) {
    lost = malloc(1234);
    lost = NULL;
}

static grace_status go_wrong(gr_comm *c, const char *mode) {
    sleep(1);                           /* the others come to wait for it: one that is told to end then says so */
    if (strcmp(mode, "late") == 0) raise(SIGSTOP);
    if (strcmp(mode, "kill") == 0) raise(SIGKILL);
    if (strcmp(mode, "leak") == 0) leak_on_purpose();
    if (strcmp(mode, "fail") == 0) return gr_fail(GRACE_ERR_NUMERIC, "rank %d: a number went bad", c->rank);
    return GRACE_OK;
}

static grace_status run(gr_comm *c, const char *mode, int32_t bad_rank, double deadline_s) {
    grace_status st = GRACE_OK;
    for (int32_t layer = 0; layer < LAYERS; layer++) {
        int64_t value = 1;
        gr_comm_at("dispatch", layer);
        if (layer == BAD_LAYER) c->deadline_s = deadline_s;
        if (layer == BAD_LAYER && c->rank == bad_rank) GR_TRY(go_wrong(c, mode));
        GR_TRY(gr_comm_allreduce(c, &value, 1, GR_SUM));
        GR_CHECK(value == c->n_ranks, GRACE_ERR_COMM, "sum of ones: expected %d, found %lld", c->n_ranks, (long long)value);
    }
    if (strcmp(mode, "agree") == 0) st = grace_comm_agree(c, c->rank == bad_rank ? gr_fail(GRACE_ERR_IO, "shard 7 is not there") : GRACE_OK);
done:
    return st;
}

int main(int argc, char **argv) {
    gr_comm *c = NULL;
    if (argc < 3) return 2;
    int32_t bad_rank = atoi(argv[2]);
    grace_status st = grace_comm_open(GRACE_TRANSPORT_AUTO, 0, patience_s, &c);
    if (st == GRACE_OK) st = run(c, argv[1], bad_rank, argc > 3 ? atof(argv[3]) : patience_s);
    if (st != GRACE_OK) fprintf(stderr, "%s\n", grace_last_error());
    grace_comm_close(c);
    return st != GRACE_OK;
}
