/* For tests that run as several ranks, under mpirun (mpi) or started by spawn (tcp): the job, and the main function they share.
 * A failed assertion on one rank ends the whole job: what the others would say, waiting for it, is not why. */
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

extern char case_name[200];         /* what runs now and on which rank, in front of what failed; empty: the test's name says it */

#define claim(condition)                                                              \
    do {                                                                              \
        if (!(condition)) fail_msg("%s: %s", case_name, #condition);                  \
    } while (0)

/* A number, with what was expected. */
#define claim_number(expected, found, what)                                                                                                    \
    do {                                                                                                                                       \
        const long long expected_ = (long long)(expected), found_ = (long long)(found);                                                        \
        if (expected_ != found_) fail_msg("%s: %s: expected %lld, found %lld", case_name, what, expected_, found_);                            \
    } while (0)

/* Fails the test with grace_last_error(). */
#define assert_ok(call)                                                                                                  \
    do {                                                                                                                 \
        if ((call) != GRACE_OK) fail_msg("%s%s%s: %s", case_name, *case_name ? ": " : "", #call, grace_last_error());    \
    } while (0)

#endif
