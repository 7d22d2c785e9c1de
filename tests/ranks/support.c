#include "ranks/support.h"

#include <stdio.h>
#include <unistd.h>

enum { NODES_MAX = 16 };
static const double deadline_s = 120;   /* under every test's timeout, so that a missing peer is named */
static gr_comm *comms[NODES_MAX + 1];
char case_name[200];

gr_comm *ranks_comm(int32_t n_nodes) {
    GR_ASSERT(n_nodes >= 0 && n_nodes <= NODES_MAX);
    if (!comms[n_nodes] && grace_comm_open(GRACE_TRANSPORT_AUTO, n_nodes, deadline_s, &comms[n_nodes]) != GRACE_OK) comms[n_nodes] = NULL;
    return comms[n_nodes];
}

/* cmocka's running commentary is wanted once; failures are wanted from everybody, and cmocka prints those on stderr. */
static void quiet_unless_first(const gr_comm *c) {
    if (c->rank != 0 && !freopen("/dev/null", "w", stdout)) fprintf(stderr, "rank %d: stdout stays\n", c->rank);
}

/* One by one, up to the first that fails here; ranks that fail with this one may say so. */
static int run_each(const char *name, const struct CMUnitTest *tests, size_t n, gr_comm *world) {
    for (size_t i = 0; i < n; i++) {
        case_name[0] = 0;
        if (_cmocka_run_group_tests(name, &tests[i], 1, NULL, NULL) == 0) continue;
        usleep(300000);
        grace_comm_abort(world, 1);
        return 1;
    }
    return 0;
}

int ranks_main(const char *name, const struct CMUnitTest *tests, size_t n) {
    gr_comm *world = ranks_comm(1);
    if (!world) {
        fprintf(stderr, "%s\n", grace_last_error());
        return 1;
    }
    quiet_unless_first(world);
    const int code = run_each(name, tests, n, world);
    for (int i = 0; i <= NODES_MAX; i++) grace_comm_close(comms[i]);
    return code;
}
