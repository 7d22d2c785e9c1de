#include "comm/nodes.h"

#include <unistd.h>

static grace_status check_divisible(int32_t n_ranks, int32_t n_nodes) {
    grace_status st = GRACE_OK;
    GR_CHECK(n_ranks % n_nodes == 0, GRACE_ERR_ARG, "%d ranks cannot be cut into %d equal nodes", n_ranks, n_nodes);
done:
    return st;
}

static grace_status check_machines(const int32_t *first, int32_t n_ranks, int32_t *n_nodes) {
    grace_status st = GRACE_OK;
    int32_t n = 0, size = gr_nodes_n_local(first, n_ranks, 0);
    for (int32_t r = 0; r < n_ranks; r++) {
        n += first[r] == r;
        GR_CHECK(first[r] == r - r % size, GRACE_ERR_ARG,
                 "the machine of rank 0 has %d ranks, so rank %d should share one with rank %d, but it shares one with rank %d: nodes must be "
                 "equally large and hold consecutive ranks (mpirun --map-by slot, or --nodes to declare them)", size, r, r - r % size, first[r]);
    }
    GR_TRY(check_divisible(n_ranks, n));
    *n_nodes = n;
done:
    return st;
}

int32_t gr_nodes_n_local(const int32_t *first, int32_t n_ranks, int32_t rank) {
    int32_t n = 0;
    for (int32_t r = 0; r < n_ranks; r++) n += first[r] == first[rank];
    return n;
}

grace_status gr_nodes_arrange(gr_comm *c, const int32_t *first, int32_t n_nodes) {
    grace_status st = GRACE_OK;
    int64_t oversubscribed = gr_nodes_n_local(first, c->n_ranks, c->rank) > sysconf(_SC_NPROCESSORS_ONLN);
    GR_TRY(gr_comm_allreduce(c, &oversubscribed, 1, GR_MAX));
    c->oversubscribed = oversubscribed != 0;
    if (n_nodes > 0) GR_TRY(check_divisible(c->n_ranks, n_nodes));
    else GR_TRY(check_machines(first, c->n_ranks, &n_nodes));
    c->n_nodes = n_nodes;
    c->gpus_per_node = c->n_ranks / n_nodes;
done:
    return st;
}
