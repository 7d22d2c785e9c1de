/* One rank by itself: every transfer is a copy, done when it starts. The reference for the other transports. */
#include <stdlib.h>

#include "base/memory.h"
#include "comm/comm.h"

static grace_status self_alltoallv_start(gr_comm *c, const gr_xfer *xfer, gr_request **out) {
    gr_comm_copy_own(c, xfer);
    *out = NULL;
    return GRACE_OK;
}

static grace_status self_wait(gr_comm *c, gr_request *request) {
    (void)c;
    GR_ASSERT(request == NULL);
    return GRACE_OK;
}

static grace_status self_split(gr_comm *c, int32_t color, gr_comm **out) {
    (void)c;
    (void)color;
    return gr_comm_self_open(out);
}

static void self_abort(gr_comm *c, int exit_code) {
    (void)c;
    (void)exit_code;    /* no other rank to end */
}

static void self_free(gr_comm *c) { free(c); }

static const gr_comm_ops self_ops = {
    .name = "self",
    .alltoallv_start = self_alltoallv_start,
    .wait = self_wait,
    .allgather = gr_comm_gather_rows,
    .split = self_split,
    .abort = self_abort,
    .free = self_free,
};

grace_status gr_comm_self_open(gr_comm **out) {
    grace_status st = GRACE_OK;
    gr_comm *c = NULL;
    GR_CALLOC(c, 1);
    *c = (gr_comm){.ops = &self_ops, .rank = 0, .n_ranks = 1, .n_nodes = 1, .gpus_per_node = 1};
    *out = c;
done:
    return st;
}
