/* What a link between two nodes does: run by wire.sh, and by hand to choose a burst. Prints one line of JSON on rank 0:
 * the nodes MPI found, and the rate of big transfers between neighbours on different nodes, one way and both ways. */
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/memory.h"
#include "comm/comm.h"

enum { ROW_BYTES = 4096, ROWS = 800, REPEAT = 2 };      /* 3 MB a transfer */

typedef struct pattern { int32_t *send, *recv; char *from, *to; } pattern;

/* Rows between rank r of the first node and rank r of the last. */
static void choose_rows(const gr_comm *c, pattern *p, int both) {
    int32_t last = c->n_nodes - 1, node = gr_comm_node(c, c->rank), distance = last * c->gpus_per_node;
    for (int32_t r = 0; r < c->n_ranks; r++) p->send[r] = p->recv[r] = 0;
    if (node == 0) p->send[c->rank + distance] = ROWS;
    if (node == last) p->recv[c->rank - distance] = ROWS;
    if (both && node == 0) p->recv[c->rank + distance] = ROWS;
    if (both && node == last) p->send[c->rank - distance] = ROWS;
}

static grace_status measure(gr_comm *c, pattern *p, double *mbit_s) {
    grace_status st = GRACE_OK;
    int64_t zero = 0;
    double start_us = 0;
    gr_xfer x = {.send = p->from, .send_rows = p->send, .recv = p->to, .recv_rows = p->recv, .row_bytes = ROW_BYTES};
    for (int i = 0; i <= REPEAT; i++) {                 /* the first opens connections */
        if (i == 1) start_us = gr_now_us();             /* nobody sends before rank 0 has read the clock */
        if (i <= 1) GR_TRY(gr_comm_allreduce(c, &zero, 1, GR_MAX));
        GR_TRY(gr_comm_alltoallv(c, &x));
    }
    GR_TRY(gr_comm_allreduce(c, &zero, 1, GR_MAX));
    *mbit_s = 8.0 * REPEAT * ROWS * ROW_BYTES * c->gpus_per_node / (gr_now_us() - start_us);
done:
    return st;
}

static grace_status run(gr_comm *c) {
    grace_status st = GRACE_OK;
    pattern p = {0};
    double one_way = 0, both_ways = 0;
    GR_CALLOC(p.send, c->n_ranks);
    GR_CALLOC(p.recv, c->n_ranks);
    GR_CALLOC(p.from, (size_t)ROWS * ROW_BYTES);
    GR_CALLOC(p.to, (size_t)ROWS * ROW_BYTES);
    GR_CHECK(c->n_nodes > 1, GRACE_ERR_ARG, "expected several nodes, MPI found %d", c->n_nodes);
    choose_rows(c, &p, 0);
    GR_TRY(measure(c, &p, &one_way));
    choose_rows(c, &p, 1);
    GR_TRY(measure(c, &p, &both_ways));
    if (c->rank == 0)
        printf("{\"nodes\":%d,\"ranks_per_node\":%d,\"mbit_s_one_way\":%.0f,\"mbit_s_each_of_both_ways\":%.0f}\n", c->n_nodes, c->gpus_per_node, one_way,
               both_ways);
done:
    free(p.send);
    free(p.recv);
    free(p.from);
    free(p.to);
    return st;
}

int main(void) {
    gr_comm *c = NULL;
    grace_status st = grace_comm_open(GRACE_TRANSPORT_AUTO, 0, 30, &c);
    if (st == GRACE_OK) st = run(c);
    if (st != GRACE_OK) fprintf(stderr, "%s\n", grace_last_error());
    grace_comm_close(c);
    return st != GRACE_OK;
}
