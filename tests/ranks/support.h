/* For tests that run as several ranks, under mpirun (mpi) or started by spawn (tcp): the job, and the main function they share.
 * A failed assertion on one rank makes that rank exit with a failure, which fails the whole test. */
#ifndef GR_TESTS_RANKS_SUPPORT_H
#define GR_TESTS_RANKS_SUPPORT_H
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "comm/comm.h"

/* A communicator over all ranks, cut into n_nodes (0: by machine); NULL: the ranks cannot be cut so. The same one for the same n_nodes;
 * closed by ranks_main. */
gr_comm *ranks_comm(int32_t n_nodes);
int ranks_main(const char *name, const struct CMUnitTest *tests, size_t n);

#define RANKS_MAIN(name, tests) \
    int main(void) { return ranks_main(name, tests, sizeof(tests) / sizeof *(tests)); }

/* Fails the test with grace_last_error(). */
#define assert_ok(call)                                                                                  \
    do {                                                                                                 \
        if ((call) != GRACE_OK) fail_msg("%s: %s", #call, grace_last_error());                           \
    } while (0)

#endif
